"""Indexes, futures, foreign shares, and the chains of options on indexes."""

import time
from datetime import date
from decimal import Decimal

import pytest

from ibkr_service.sim import futures, listing, options
from ibkr_service.sim.contracts import AmbiguousContract, ContractSpec, Universe
from ibkr_service.sim.hours import Span, Week, hours_text, schedule_of

TODAY = date(2026, 11, 23)


@pytest.fixture(scope="module")
def universe():
    return Universe(TODAY)


def names(contracts):
    return [contract.local_symbol for contract in contracts]


def test_no_two_instruments_share_an_id(universe):
    """Shares, pairs, indexes and futures, expired ones included, and every option."""
    plain = [universe.stocks, universe.foreign_stocks, universe.pairs, universe.indexes]
    ids = [con_id for group in (*plain, universe.futures, universe.expired_futures) for con_id in group]
    for row in listing.OPTION_CLASSES:
        ids += [series.con_id for series in options.chain_of(row, TODAY).series]
    assert len(ids) == len(set(ids)) > 15_000
    assert max(ids) < 2**31
    assert len(universe.stocks) > 40


@pytest.mark.parametrize("row", listing.OPTION_CLASSES, ids=lambda row: row.trading_class)
def test_every_option_is_found_by_its_id(universe, row):
    """An id leads back to its class, whichever of the two ways of numbering it has."""
    for series in options.chain_of(row, TODAY).series[::97]:
        found = universe.by_con_id(series.con_id)
        assert (found.trading_class, found.strike, found.right) == (row.trading_class, series.strike, series.right)
        assert found.expiry == f"{series.expiry:%Y%m%d}"


def test_the_ids_of_the_first_stocks_options_have_stayed():
    """Journals of older versions name them."""
    spec = ContractSpec(symbol="AAPL", sec_type="OPT", expiry="20261218", strike=Decimal(230), right="C")
    assert Universe(TODAY).resolve(spec).con_id == 1_020_344_920


@pytest.mark.parametrize(
    ("product", "first_three"),
    [
        ("ES", [("ESZ6", "20261218"), ("ESH7", "20270319"), ("ESM7", "20270618")]),
        ("CL", [("CLF7", "20261222"), ("CLG7", "20270120"), ("CLH7", "20270222")]),
        ("GC", [("GCZ6", "20261229"), ("GCG7", "20270224"), ("GCJ7", "20270428")]),
    ],
)
def test_futures_are_listed_from_the_front_month_on(universe, product, first_three):
    """Each product has its months and its rule for the last day."""
    found = universe.find(ContractSpec(symbol=product, sec_type="FUT"))
    assert [(contract.local_symbol, contract.expiry) for contract in found[:3]] == first_three


def test_a_month_means_the_month_by_which_a_future_is_called(universe):
    """Crude oil of January ends in December."""
    assert names(universe.find(ContractSpec(symbol="CL", sec_type="FUT", expiry="202701"))) == ["CLF7"]
    assert names(universe.find(ContractSpec(symbol="CL", sec_type="FUT", expiry="20261222"))) == ["CLF7"]
    assert universe.find(ContractSpec(symbol="CL", sec_type="FUT", expiry="202612")) == []


def test_expired_futures_are_known_only_to_those_who_ask(universe):
    """includeExpired; and by their id."""
    spec = ContractSpec(symbol="ES", sec_type="FUT", local_symbol="ESU6")
    assert universe.find(spec) == []
    (found,) = universe.find(ContractSpec(symbol="ES", sec_type="FUT", local_symbol="ESU6", include_expired=True))
    assert found.expiry == "20260918"
    assert universe.by_con_id(found.con_id) == found


def test_the_continuous_future_is_the_front_month(universe):
    """Under its own type, with the id of the contract that leads."""
    front = universe.resolve(ContractSpec(symbol="ES", sec_type="CONTFUT", exchange="CME"))
    assert (front.sec_type, front.local_symbol) == ("CONTFUT", "ESZ6")
    assert front.con_id == universe.front("ES").con_id
    assert universe.resolve(ContractSpec(con_id=front.con_id)).sec_type == "FUT"


def test_the_old_name_of_an_exchange_is_understood(universe):
    """GLOBEX is CME."""
    found = universe.resolve(ContractSpec(local_symbol="ESZ6", sec_type="FUT", exchange="GLOBEX"))
    assert (found.exchange, found.multiplier, found.min_tick) == ("CME", "50", Decimal("0.25"))


def test_later_months_cost_their_carry():
    """Where the product itself stands at its reference."""
    root = next(root for root in listing.ROOTS if root.symbol == "ES")
    prices = [futures.fair_price(root, date(2026 + n, 11, 23), TODAY) for n in range(3)]
    assert prices == sorted(prices)
    assert prices[0] == root.reference


def test_indexes_have_a_price_grid_and_no_exchange_to_route_to(universe):
    """SPX, VIX, NDX."""
    assert [universe.resolve(ContractSpec(symbol=name, sec_type="IND")).exchange for name in ("SPX", "VIX", "NDX")] == [
        "CBOE",
        "CBOE",
        "NASDAQ",
    ]
    assert universe.find(ContractSpec(symbol="SPX", sec_type="IND", exchange="SMART")) == []


def test_two_classes_on_one_day_are_kept_apart(universe):
    """SPX settles at the opening, SPXW at the close."""
    spec = ContractSpec(symbol="SPX", sec_type="OPT", expiry="20261218", strike=Decimal(5900), right="C")
    morning, evening = universe.find(spec)
    assert (morning.trading_class, morning.settlement) == ("SPX", "AM")
    assert (evening.trading_class, evening.settlement) == ("SPXW", "PM")
    assert names([morning, evening]) == ["SPX   261218C05900000", "SPXW  261218C05900000"]
    assert morning.con_id != evening.con_id
    with pytest.raises(AmbiguousContract):
        universe.resolve(spec)
    by_name = universe.resolve(ContractSpec(local_symbol="SPXW  261218C05900000", sec_type="OPT"))
    assert by_name == evening
    assert [chain.trading_class for chain in universe.chains(universe.indexes[416904])] == ["SPX", "SPXW"]


def test_weeklies_of_an_index_end_every_day(universe):
    """And monthlies once a month."""
    monthly, daily = universe.chains(universe.indexes[416904])
    assert len(monthly.expiries) == 6
    assert len(daily.expiries) > 15
    assert set(monthly.expiries) < set(daily.expiries)
    assert all(expiry.weekday() < 5 for expiry in daily.expiries)


@pytest.mark.parametrize(
    ("price", "step"), [("11", "0.5"), ("63", "1"), ("230", "2.5"), ("590", "5"), ("5900", "25"), ("20750", "100")]
)
def test_strikes_are_further_apart_on_dearer_underlyings(price, step):
    """As on the real exchanges, roughly."""
    assert options.strike_step(Decimal(price)) == Decimal(step)


def test_a_symbol_in_two_currencies_is_ambiguous(universe):
    """Until the currency or the exchange is named."""
    with pytest.raises(AmbiguousContract):
        universe.resolve(ContractSpec(symbol="ASML", sec_type="STK", exchange="SMART"))
    assert universe.resolve(ContractSpec(symbol="ASML", sec_type="STK", currency="EUR")).primary_exchange == "AEB"
    assert universe.resolve(ContractSpec(symbol="ASML", sec_type="STK", exchange="NYSE")).currency == "USD"


@pytest.mark.parametrize(("kind", "text"), [("ISIN", "US0378331005"), ("CUSIP", "037833100"), ("FIGI", "BBG000B9XRY4")])
def test_a_share_is_found_by_its_number_in_other_registries(universe, kind, text):
    """Under the right kind of number only."""
    spec = {"sec_type": "STK", "sec_id": text}
    assert names(universe.find(ContractSpec(sec_id_type=kind, **spec))) == ["AAPL"]
    assert universe.find(ContractSpec(sec_id_type="SEDOL", **spec)) == []


def test_a_whole_chain_is_found_quickly():
    """Thousands of options, made once and then only looked through."""
    universe = Universe(TODAY)
    spec = ContractSpec(symbol="SPX", sec_type="OPT", exchange="SMART", right="C")
    assert len(universe.find(spec)) > 2000
    started = time.process_time()
    universe.find(spec)
    assert time.process_time() - started < 0.5


@pytest.mark.parametrize(
    ("spec", "zone", "first_session"),
    [
        (ContractSpec(con_id=265598), "US/Eastern", "20261123:0400-20261123:2000"),
        (ContractSpec(local_symbol="ESZ6", sec_type="FUT"), "US/Central", "20261122:1700-20261123:1600"),
        (ContractSpec(symbol="ASML", sec_type="STK", currency="EUR"), "MET", "20261123:0900-20261123:1730"),
        (ContractSpec(local_symbol="EUR.USD", sec_type="CASH"), "US/Eastern", "20261122:1715-20261123:1700"),
    ],
)
def test_every_market_has_its_hours(universe, spec, zone, first_session):
    """In its own time zone; closed on Saturday."""
    schedule = schedule_of(universe.resolve(spec))
    text = hours_text(Week(), schedule, schedule.trading, TODAY)
    assert schedule.zone == zone
    assert text.startswith(first_session + ";")
    assert text.endswith("20261128:CLOSED")


def test_another_week_knows_holidays():
    """The seam for real calendars."""

    class Thanksgiving(Week):
        def span(self, schedule, ordinary, day):
            if day == date(2026, 11, 27):
                return Span(ordinary.opens, "1300")
            return None if day == date(2026, 11, 26) else super().span(schedule, ordinary, day)

    schedule = schedule_of(Universe(TODAY).stocks[265598])
    text = hours_text(Thanksgiving(), schedule, schedule.liquid, TODAY)
    assert "20261126:CLOSED;20261127:0930-20261127:1300;" in text
