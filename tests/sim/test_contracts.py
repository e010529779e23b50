"""Finding instruments by whatever a client knows of them."""

from datetime import date
from decimal import Decimal

import pytest

from ibkr_service.sim import listing, options
from ibkr_service.sim.contracts import (
    AmbiguousContract,
    Combo,
    ContractSpec,
    LegSpec,
    Universe,
    UnknownContract,
    read_spec,
)
from ibkr_service.sim.wire import FieldError, Fields

TODAY = date(2026, 11, 23)


@pytest.fixture
def universe():
    return Universe(TODAY)


def test_every_listed_instrument_is_found_by_its_id(universe):
    """Ids are IB's own."""
    assert universe.by_con_id(265598).symbol == "AAPL"
    assert universe.by_con_id(12087792).local_symbol == "EUR.USD"
    for row in (*listing.STOCKS, *listing.PAIRS):
        assert universe.by_con_id(row.con_id).symbol == row.symbol


@pytest.mark.parametrize(
    "spec",
    [
        ContractSpec(symbol="AAPL", sec_type="STK", currency="USD", exchange="SMART"),
        ContractSpec(con_id=265598),
        ContractSpec(con_id=265598, exchange="SMART"),
        ContractSpec(local_symbol="AAPL", sec_type="STK"),
        ContractSpec(symbol="AAPL", sec_type="STK", primary_exchange="NASDAQ"),
        ContractSpec(symbol="AAPL", sec_type="STK", primary_exchange="ISLAND"),
        ContractSpec(symbol="AAPL", sec_type="STK", exchange="SMART", currency="USD", primary_exchange="AMEX"),
    ],
)
def test_a_stock_has_many_descriptions(universe, spec):
    """By id, by name, by local symbol."""
    assert [contract.con_id for contract in universe.find(spec)] == [265598]


@pytest.mark.parametrize(
    "spec",
    [
        ContractSpec(symbol="NOPE", sec_type="STK", currency="USD"),
        ContractSpec(symbol="AAPL", sec_type="STK", currency="EUR"),
        ContractSpec(symbol="AAPL", sec_type="STK", exchange="LSE"),
        ContractSpec(symbol="AAPL", sec_type="STK", primary_exchange="LSE"),
        ContractSpec(symbol="EUR", sec_type="CASH", currency="USD", exchange="SMART"),
        ContractSpec(symbol="ZZ", sec_type="FUT"),
        ContractSpec(con_id=1),
        ContractSpec(con_id=1_999_999_999),
        ContractSpec(con_id=265598, symbol="MSFT"),
        ContractSpec(symbol="AAPL", sec_type="OPT", expiry="19990101"),
    ],
)
def test_what_is_not_listed_is_unknown(universe, spec):
    """IB says 200."""
    assert universe.find(spec) == []
    with pytest.raises(UnknownContract):
        universe.resolve(spec)


def test_the_exchange_that_was_asked_for_comes_back(universe):
    """A direct-routed order keeps its exchange."""
    (contract,) = universe.find(ContractSpec(con_id=265598, exchange="ARCA"))
    assert contract.exchange == "ARCA"


def test_a_pair_is_found_by_its_local_symbol_and_by_its_currencies(universe):
    """EUR.USD and EUR against USD are the same."""
    by_name = universe.resolve(ContractSpec(local_symbol="EUR.USD", sec_type="CASH"))
    assert by_name == universe.resolve(ContractSpec(symbol="EUR", currency="USD", sec_type="CASH", exchange="IDEALPRO"))
    assert by_name.min_tick == Decimal("0.00005")
    assert universe.pair("USD", "JPY").min_tick == Decimal("0.005")


def test_a_partial_option_description_returns_every_match(universe):
    """Without a strike all strikes, without a right both, without an expiry all expiries."""
    chain = universe.chain(universe.stocks[265598])
    every = universe.find(ContractSpec(symbol="AAPL", sec_type="OPT"))
    assert len(every) == len(chain.expiries) * len(chain.strikes) * 2
    one_day = universe.find(ContractSpec(symbol="AAPL", sec_type="OPT", expiry="20261218"))
    assert len(one_day) == len(chain.strikes) * 2
    calls = universe.find(ContractSpec(symbol="AAPL", sec_type="OPT", expiry="20261218", right="C"))
    assert len(calls) == len(chain.strikes)
    month = universe.find(ContractSpec(symbol="AAPL", sec_type="OPT", expiry="202701", strike=Decimal(230), right="P"))
    assert [option.local_symbol for option in month] == ["AAPL  270115P00230000"]
    with pytest.raises(AmbiguousContract):
        universe.resolve(ContractSpec(symbol="AAPL", sec_type="OPT", expiry="20261218"))


def test_an_option_is_found_by_its_local_symbol_and_by_its_id(universe):
    """OSI symbols are unique."""
    option = universe.resolve(ContractSpec(local_symbol="SPY   261218C00590000", sec_type="OPT"))
    assert (option.symbol, option.strike, option.multiplier) == ("SPY", Decimal(590), "100")
    assert Universe(TODAY).by_con_id(option.con_id) == option


def test_contract_ids_are_unique_and_fit_31_bits(universe):
    """Clients keep them in a C int."""
    every = [
        option for row in listing.STOCKS for option in universe.find(ContractSpec(symbol=row.symbol, sec_type="OPT"))
    ]
    ids = [option.con_id for option in every]
    assert len(set(ids)) == len(ids) > 5000
    assert max(ids) < 2**31


def test_an_option_keeps_its_id_from_day_to_day():
    """An id is arithmetic on what the option is."""
    spec = ContractSpec(symbol="AAPL", sec_type="OPT", expiry="20261218", strike=Decimal(230), right="C")
    assert Universe(TODAY).resolve(spec).con_id == Universe(date(2026, 12, 1)).resolve(spec).con_id


@pytest.mark.parametrize("today", [TODAY, date(2026, 11, 27), date(2026, 12, 18), date(2024, 2, 29)])
def test_expiries_lie_ahead_and_are_fridays(today):
    """Weeklies for a month, monthlies for half a year."""
    expiries = options.expiries_from(today)
    assert list(expiries) == sorted(set(expiries))
    assert all(expiry >= today and expiry.weekday() == 4 for expiry in expiries)
    assert (expiries[0] - today).days < 7
    assert len(expiries) >= 9


def test_option_prices_have_a_coarser_grid_above_three_dollars(universe):
    """IB's market rule for options."""
    option = universe.find(ContractSpec(symbol="AAPL", sec_type="OPT"))[0]
    assert (option.tick_at(Decimal("2.99")), option.tick_at(Decimal(3))) == (Decimal("0.01"), Decimal("0.05"))


def test_a_combo_is_made_of_listed_legs(universe):
    """One unknown leg and there is no combo."""
    legs = (LegSpec(265598, 1, "BUY", "SMART"), LegSpec(272093, 2, "SELL", "SMART"))
    found = universe.resolve(ContractSpec(symbol="AAPL", sec_type="BAG", legs=legs))
    assert isinstance(found, Combo)
    assert [(leg.contract.symbol, leg.ratio, leg.sign) for leg in found.legs] == [("AAPL", 1, 1), ("MSFT", 2, -1)]
    for bad in ((), (LegSpec(1, 1, "BUY", ""),), (LegSpec(265598, 0, "BUY", ""),)):
        with pytest.raises(UnknownContract):
            universe.resolve(ContractSpec(symbol="AAPL", sec_type="BAG", legs=bad))


@pytest.mark.parametrize(
    ("right", "meaning"), [("C", "C"), ("call", "C"), ("PUT", "P"), ("?", ""), ("0", ""), ("", "")]
)
def test_clients_spell_rights_in_many_ways(right, meaning):
    """All of them are understood."""
    fields = ["0", "aapl", "OPT", "20261218", "230.0", right, "100", "SMART", "", "USD", "", ""]
    spec = read_spec(Fields(fields))
    assert (spec.symbol, spec.right, spec.strike) == ("AAPL", meaning, Decimal(230))


def test_nonsense_for_a_right_is_refused():
    """It is a field error, not an unknown contract."""
    with pytest.raises(FieldError):
        read_spec(Fields(["0", "", "OPT", "", "", "X", "", "", "", "", "", ""]))


def test_symbols_are_searched_by_their_beginning_then_by_name(universe):
    """What reqMatchingSymbols shows."""
    assert [stock.symbol for stock in universe.search("am")][:2] == ["AMZN", "AMD"]
    assert [stock.symbol for stock in universe.search("apple")] == ["AAPL"]
    assert universe.search(" ") == []
