"""Options on futures: listed on the future that they end in, described as IB does, priced by Black 76, exercised."""

import asyncio
import math
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from ibkr_service.sim import Gateway, GatewayConfig
from ibkr_service.sim.contracts import AmbiguousContract, ContractSpec, Universe, UnknownContract
from ibkr_service.sim.options import ends_of_months, quarterly
from ibkr_service.sim.rawclient import RawClient, contract
from ibkr_service.sim.smile import RATE_PER_YEAR, black_76
from tests.sim.stage import Stage

TODAY = date(2026, 11, 23)
NOON = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)
CALL = contract(symbol="ES", sec_type="FOP", exchange="CME", expiry="20261218", strike=5900, right="C")
PARAMETERS, DETAILS, COMPUTATION = 75, 10, 21


@pytest.fixture(scope="module")
def universe():
    return Universe(TODAY)


@pytest.fixture
async def gateway():
    gateway = Gateway(GatewayConfig(seed=5, started_at=NOON, requests_per_second_max=0))
    yield gateway
    gateway.close()


@pytest.fixture
async def client(gateway):
    client = RawClient(gateway)
    client.forget()
    return client


def future(universe, month):
    return universe.resolve(ContractSpec(symbol="ES", sec_type="FUT", expiry=month))


def test_expiries_are_those_of_the_exchange():
    """Quarterly on third Fridays, and the last weekday of each month."""
    assert [f"{day:%Y%m%d}" for day in quarterly(TODAY)] == ["20261218", "20270319", "20270618"]
    assert [f"{day:%Y%m%d}" for day in ends_of_months(TODAY)] == ["20261130", "20261231", "20270129", "20270226"]


def test_an_option_is_on_the_future_that_ends_next(universe):
    """Each has its own chain; together they have all."""
    december, march = future(universe, "202612"), future(universe, "202703")
    found = {
        each.contract_month: {c.trading_class: [f"{e:%m%d}" for e in c.expiries] for c in universe.chains(each)}
        for each in (december, march)
    }
    assert found == {
        "202612": {"ES": ["1218"], "EW": ["1130"]},
        "202703": {"ES": ["0319"], "EW": ["1231", "0129", "0226"]},
    }
    assert universe.derivatives(december) == ("FOP",)
    assert universe.chains(universe.front("CL")) == []
    assert universe.derivatives(universe.front("CL")) == ()
    every = universe.find(ContractSpec(symbol="ES", sec_type="FOP"))
    assert {universe.underlying(each).sec_type for each in every} == {"FUT"}
    assert {(each.multiplier, each.exchange, each.exchanges) for each in every} == {("50", "CME", ("CME",))}


def test_they_are_found_by_description_and_by_name(universe):
    """As a FOP, never as an OPT."""
    spec = ContractSpec(symbol="ES", sec_type="FOP", expiry="20261218", strike=Decimal(5900), right="C", exchange="CME")
    option = universe.resolve(spec)
    assert option.local_symbol == "ESZ6 C5900"
    assert universe.by_con_id(option.con_id) == option
    assert universe.resolve(ContractSpec(sec_type="FOP", local_symbol="ESZ6 C5900")) == option
    evening = universe.resolve(ContractSpec(sec_type="FOP", local_symbol="EWX6 P5900"))
    assert (evening.trading_class, evening.settlement, evening.expiry) == ("EW", "PM", "20261130")
    with pytest.raises(UnknownContract):
        universe.resolve(ContractSpec(symbol="ES", sec_type="OPT", expiry="20261218", strike=Decimal(5900), right="C"))
    with pytest.raises(AmbiguousContract):
        universe.resolve(ContractSpec(symbol="ES", sec_type="FOP", strike=Decimal(5900), right="C"))
    assert universe.find(ContractSpec(symbol="AAPL", sec_type="FOP")) == []


@pytest.mark.parametrize(
    ("exchange", "expected"), [("CME", {("ES", "20261218"), ("EW", "20261130")}), ("", set()), ("NYMEX", set())]
)
async def test_the_client_names_the_exchange(gateway, client, exchange, expected):
    """Without it IB lists none; the answer names the future and its multiplier."""
    con_id = future(gateway.universe, "202612").con_id
    client.ask(78, 5, "ES", exchange, "FUT", con_id)
    await asyncio.sleep(0.01)
    answers = client.of(PARAMETERS)
    assert {(a[4], a[7]) for a in answers} == expected
    assert all((a[2], a[3], a[5]) == ("CME", str(con_id), "50") for a in answers)


@pytest.mark.parametrize(
    ("described", "last_trade"),
    [
        (CALL, "20261218 08:30 US/Central"),
        (contract(symbol="ES", sec_type="FOP", expiry="20261130", strike=5900, right="P"), "20261130"),
        (
            contract(symbol="SPX", sec_type="OPT", expiry="20261218", strike=5900, right="C", trading_class="SPX"),
            "20261218 09:30 US/Eastern",
        ),
        (
            contract(symbol="SPX", sec_type="OPT", expiry="20261218", strike=5900, right="C", trading_class="SPXW"),
            "20261218",
        ),
    ],
)
async def test_what_settles_at_the_opening_says_so(client, described, last_trade):
    """The hour stands behind the day."""
    client.ask(9, 8, 4, *described, 0, "", "", "")
    await asyncio.sleep(0.01)
    (detail,) = client.of(DETAILS)
    assert detail[4] == last_trade


async def test_the_price_is_that_of_black_76(gateway):
    """Put-call parity with the future itself, discounted; the model's greeks are of the quote."""
    universe, prices = gateway.universe, gateway.market.prices
    call, put = (
        universe.resolve(ContractSpec(symbol="ES", sec_type="FOP", expiry="20261218", strike=Decimal(5900), right=r))
        for r in "CP"
    )
    base = prices.quote(universe.underlying(call), 60.0)
    under, years = float(base.mid), prices.years_left(call, base.at)
    models = [prices.quote(each, 60.0).greeks[3] for each in (call, put)]
    assert models[0].price - models[1].price == pytest.approx((under - 5900) * math.exp(-RATE_PER_YEAR * years))
    assert models[0].delta - models[1].delta == pytest.approx(math.exp(-RATE_PER_YEAR * years))
    assert models[0] == black_76("C", under, 5900, years, prices.volatility(call, base.at))
    quote = prices.quote(call, 60.0)
    assert quote.bid < models[0].price < quote.ask
    assert prices.trades(call, 0.0, 3 * 3600.0).number > 0


async def test_it_trades_and_ends_in_the_future():
    """Bought in the money; at the end there is one future for each contract, at the strike, and the premium is gone."""
    stage = Stage(started_at=datetime(2026, 11, 30, 15, 0, tzinfo=UTC))
    option = stage.gateway.universe.resolve(
        ContractSpec(symbol="ES", sec_type="FOP", expiry="20261130", strike=Decimal(5900), right="C")
    )
    under = stage.gateway.universe.underlying(option)
    stage.script.set(under.con_id, 6000, ask=6000)
    stage.place([option.con_id, "", "FOP", "", 0, "", "", "CME", "", "", "", ""], totalQuantity=2)
    await asyncio.sleep(1)
    assert stage.status(1) == "Filled"
    assert 100 <= stage.gateway.executions[0].price < 103
    await asyncio.sleep(7 * 3600)
    (held,) = (each for each in stage.gateway.positions("DU1234567") if each.quantity)
    assert (held.contract.con_id, held.quantity) == (under.con_id, 2)
    assert held.average_cost == 5900 * 50
    stage.close()


# --- the time that greeks take ---------------------------------------------------------------------------------------


def computations(client):
    """How many option computations each request has received."""
    return [int(message[1]) for message in client.of(COMPUTATION)]


async def test_first_greeks_take_as_long_as_configured():
    """Prices at once, greeks later, even if no price changes meanwhile; the same seed draws the same delays."""
    seen = []
    for _ in range(2):
        gateway = Gateway(
            GatewayConfig(seed=5, started_at=NOON, greeks_delay_s=(0.5, 2.0), quote_interval_s=3_600, hours="always")
        )
        client = RawClient(gateway)
        client.forget()
        loop, first = asyncio.get_running_loop(), {}
        began_s = loop.time()
        for n, strike in enumerate((5850, 5875, 5900, 5925), 1):
            described = contract(symbol="ES", sec_type="FOP", expiry="20261218", strike=strike, right="C")
            client.ask(1, 11, n, *described, 0, "", 0, 0, "")
        while loop.time() < began_s + 3:
            await asyncio.sleep(0.01)
            for number in computations(client):
                first.setdefault(number, round(loop.time() - began_s, 2))
            if loop.time() < began_s + 0.4:
                assert {int(m[2]) for m in client.of(1)} == {1, 2, 3, 4}
        assert set(first) == {1, 2, 3, 4}
        assert all(0.5 <= at_s <= 2.02 for at_s in first.values())
        assert len(set(first.values())) > 1
        seen.append(first)
        gateway.close()
    assert seen[0] == seen[1]


async def test_a_line_that_is_given_up_before_its_greeks_says_nothing_more():
    """And a snapshot is complete at once."""
    gateway = Gateway(GatewayConfig(seed=5, started_at=NOON, greeks_delay_s=(1.0, 1.0)))
    client = RawClient(gateway)
    client.forget()
    client.ask(1, 11, 1, *CALL, 0, "", 0, 0, "")
    client.ask(2, 2, 1)
    client.ask(1, 11, 2, *CALL, 0, "", 1, 0, "")
    await asyncio.sleep(0.01)
    assert set(computations(client)) == {2}
    await asyncio.sleep(5)
    assert set(computations(client)) == {2}
    gateway.close()


@pytest.mark.parametrize("wrong", [(-1.0, 1.0), (2.0, 1.0), (0.0, float("inf"))])
def test_a_delay_that_is_none_is_refused(wrong):
    """When the gateway is configured."""
    with pytest.raises(ValueError, match="greeks_delay_s"):
        GatewayConfig(greeks_delay_s=wrong)
