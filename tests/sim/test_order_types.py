"""Order types and times in force, each on prices that the test sets."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from ibkr_service.sim.rawclient import EURUSD, forex
from tests.sim.stage import Stage

D = Decimal


@pytest.fixture
async def stage():
    stage = Stage()
    yield stage
    stage.close()


@pytest.mark.parametrize(("action", "stop", "path"), [("SELL", 198, (199, 198.5, 197.9)), ("BUY", 202, (201, 202.1))])
async def test_a_stop_limit_order_becomes_a_limit_order(stage, action, stop, path):
    """Triggered by the last price; then it waits for its limit."""
    limit = stop + 1 if action == "SELL" else stop - 1
    order = stage.place(action=action, orderType="STP LMT", auxPrice=stop, lmtPrice=limit)
    await stage.move(*path)
    assert stage.client.statuses(order) == ["PreSubmitted", "Submitted"]
    await stage.move(limit + 1 if action == "SELL" else limit - 1)
    assert stage.status(order) == "Filled"
    (price,) = stage.prices(order)
    assert price >= limit if action == "SELL" else price <= limit


async def test_a_stop_looks_at_last_prices_of_stocks_and_at_the_far_side_of_currencies(stage):
    """Last by default for stocks; a currency's sale waits for the ask to come down."""
    order = stage.place(action="SELL", orderType="STP", auxPrice=199)
    await stage.move(198, last=200)
    assert stage.status(order) == "PreSubmitted"
    await stage.move(198.5, last=199)
    assert stage.status(order) == "Filled"
    pair = stage.place(forex(), action="SELL", orderType="STP", auxPrice=D("1.09"), totalQuantity=30_000)
    await stage.move(1.089, con_id=EURUSD, ask="1.0901")
    assert stage.status(pair) == "PreSubmitted"
    await stage.move(1.0885, con_id=EURUSD, ask="1.0899")
    assert stage.status(pair) == "Filled"


async def test_the_trigger_method_can_be_chosen(stage):
    """4 looks at bid and ask, 1 wants that twice in a row, 3 two last prices, 8 the midpoint."""
    once = stage.place(action="SELL", orderType="STP", auxPrice=199, triggerMethod=4)
    twice = stage.place(action="SELL", orderType="STP", auxPrice=199, triggerMethod=1)
    lasts = stage.place(action="SELL", orderType="STP", auxPrice=199, triggerMethod=3)
    middle = stage.place(action="SELL", orderType="STP", auxPrice=199, triggerMethod=8)
    await stage.move(200)
    await stage.move(198.5, ask=198.9, last=200)
    assert [stage.status(each) for each in (once, twice, lasts, middle)] == [
        "Filled",
        "PreSubmitted",
        "PreSubmitted",
        "Filled",
    ]
    await stage.move(198.4, ask=198.8, last=200)
    assert stage.status(twice) == "Filled"
    await stage.move(198.4, 198.3)
    assert stage.status(lasts) == "Filled"
    bad = stage.place(action="SELL", orderType="STP", auxPrice=199, triggerMethod=5)
    assert stage.client.errors()[-1] == (bad, 146)


async def test_a_trailing_stop_follows_in_favour_and_never_back(stage):
    """A sale's stop rises with the price, by an amount or by a percentage; the open order tells where it is."""
    amount = stage.place(action="SELL", orderType="TRAIL", auxPrice=2)
    percent = stage.place(action="SELL", orderType="TRAIL", trailingPercent=2, trailStopPrice=190)
    orders = stage.gateway.exchange.orders
    await stage.move(200, 205, 204)
    assert (orders[1, amount].stop, orders[1, percent].stop) == (203, D("200.9"))
    assert stage.status(amount) == "PreSubmitted"
    stage.client.forget()
    stage.client.ask(5, 1)
    assert any("203" in message for message in stage.client.of(5))
    await stage.move(202.9)
    assert stage.prices(amount) == [D("202.9")]
    await stage.move(200.8)
    assert stage.status(percent) == "Filled"


async def test_a_trailing_buy_follows_down(stage):
    """And its limit with it, at its offset."""
    order = stage.place(orderType="TRAIL LIMIT", auxPrice=2, trailStopPrice=202, lmtPriceOffset=D("0.5"))
    await stage.move(199, 195, 196)
    working = stage.gateway.exchange.orders[1, order]
    assert (working.stop, working.limit) == (197, D("197.5"))
    await stage.move(198)
    assert stage.status(order) == "Submitted"
    await stage.move(197.2)
    assert stage.prices(order) == [D("197.21")]


async def test_orders_if_touched_look_from_the_other_side(stage):
    """A buy waits for a price at or below its trigger."""
    market = stage.place(orderType="MIT", auxPrice=198)
    limit = stage.place(orderType="LIT", auxPrice=198, lmtPrice=197)
    await stage.move(199)
    assert stage.status(market) == stage.status(limit) == "PreSubmitted"
    await stage.move(198)
    assert (stage.status(market), stage.status(limit)) == ("Filled", "Submitted")
    await stage.move(196.9)
    assert stage.prices(limit) == [D("196.91")]


async def test_a_midprice_order_trades_in_the_middle_and_within_its_cap(stage):
    """At half of the spread."""
    stage.script.set(265598, 200, ask="200.04")
    free = stage.place(orderType="MIDPRICE")
    capped = stage.place(orderType="MIDPRICE", lmtPrice=D("200.01"))
    await asyncio.sleep(0.5)
    assert stage.prices(free) == [D("200.02")]
    assert stage.status(capped) == "Submitted"
    await stage.move(200, ask="200.02")
    assert stage.prices(capped) == [D("200.01")]


async def test_orders_for_the_close_trade_at_its_price(stage):
    """At 16:00 New York's time: the market order and the limit order that reaches it; another is cancelled."""
    market, near, far = (
        stage.place(orderType="MOC", totalQuantity=7),
        stage.place(orderType="LOC", lmtPrice=206),
        stage.place(orderType="LOC", lmtPrice=199),
    )
    await asyncio.sleep(3600)
    assert {stage.status(each) for each in (market, near, far)} == {"Submitted"}
    stage.script.set(265598, 205, ask=206, last=D("205.5"))
    await asyncio.sleep(5.5 * 3600 + 1)
    assert stage.prices(market) == stage.prices(near) == [D("205.5")]
    assert stage.status(far) == "Cancelled"
    assert {fill.time for fill in stage.gateway.executions} == {"20261123 16:00:00 US/Eastern"}


async def test_fill_or_kill_takes_all_or_nothing(stage):
    """What is displayed decides."""
    stage.script.set(265598, 200, size=500)
    none = stage.place(tif="FOK", totalQuantity=501)
    everything = stage.place(tif="FOK", totalQuantity=500)
    await asyncio.sleep(0.5)
    assert (stage.status(none), stage.prices(none)) == ("Cancelled", [])
    assert stage.status(everything) == "Filled"


async def test_all_or_none_and_minimum_quantities_wait_for_enough(stage):
    """They rest; they never take less."""
    stage.script.set(265598, 200, size=100)
    whole = stage.place(orderType="LMT", lmtPrice=201, totalQuantity=300, allOrNone=1)
    least = stage.place(orderType="LMT", lmtPrice=201, totalQuantity=300, minQty=150)
    await asyncio.sleep(1)
    assert stage.gateway.executions == []
    await stage.move(200, size=200)
    assert [fill.shares for fill in stage.gateway.executions] == [200]
    assert stage.gateway.executions[0].order.ticket.order_id == least
    await stage.move(200, size=300)
    assert stage.status(whole) == "Filled"


async def test_an_order_for_the_day_ends_at_midnight_and_others_go_on(stage):
    """In New York: 05:00 UTC. GTD ends at its own time."""
    day = stage.place(orderType="LMT", lmtPrice=100)
    good = stage.place(orderType="LMT", lmtPrice=100, tif="GTC")
    till = stage.place(orderType="LMT", lmtPrice=100, tif="GTD", goodTillDate="20261123 16:00:00 US/Eastern")
    await asyncio.sleep(6.6 * 3600)
    assert (stage.status(till), stage.status(day)) == ("Cancelled", "Submitted")
    await asyncio.sleep(8 * 3600)
    assert stage.gateway.clock.now() > datetime(2026, 11, 24, 5, tzinfo=UTC)
    assert (stage.status(day), stage.status(good)) == ("Cancelled", "Submitted")
    assert stage.client.errors() == [(till, 202), (day, 202)]


async def test_an_order_good_after_a_time_waits_for_it(stage):
    """PreSubmitted until then, and a time in UTC is one too."""
    order = stage.place(goodAfterTime="20261123-15:00:00")
    await asyncio.sleep(1799)
    assert stage.client.statuses(order) == ["PreSubmitted"]
    await asyncio.sleep(2)
    assert stage.status(order) == "Filled"


@pytest.mark.parametrize(
    ("known", "code"),
    [
        ({"orderType": ""}, 107),
        ({"orderType": "TRAIL"}, 158),
        ({"orderType": "TRAIL", "trailingPercent": 100}, 159),
        ({"orderType": "TRAIL LIMIT", "auxPrice": 1}, 321),
        ({"trailingPercent": 1}, 321),
        ({"orderType": "STP LMT", "auxPrice": 100}, 321),
        ({"orderType": "STP LMT", "lmtPrice": 100}, 321),
        ({"orderType": "STP LMT", "lmtPrice": 100, "auxPrice": D("99.999")}, 110),
        ({"orderType": "MOC", "tif": "GTC"}, 113),
        ({"orderType": "STP", "auxPrice": 100, "tif": "IOC"}, 111),
        ({"tif": "XYZ"}, 391),
        ({"tif": "GTD"}, 321),
        ({"tif": "GTD", "goodTillDate": "20261122 10:00:00"}, 321),
        ({"tif": "GTD", "goodTillDate": "tomorrow"}, 320),
        ({"tif": "GTD", "goodTillDate": "20261122 10:00:00 Nowhere/City"}, 320),
        ({"minQty": 1000}, 388),
        ({"discretionaryAmt": 1}, 201),
    ],
)
async def test_orders_that_cannot_be_are_refused(stage, known, code):
    """With IB's code, and no order is left behind."""
    order = stage.place(**known)
    assert stage.client.errors() == [(order, code)]
    assert stage.gateway.exchange.orders == {}


async def test_the_type_of_an_order_can_be_changed_within_its_kind(stage):
    """A stop becomes a limit order; a trailing stop stays one (329)."""
    stop = stage.place(action="SELL", orderType="STP", auxPrice=100)
    trail = stage.place(action="SELL", orderType="TRAIL", auxPrice=5)
    await asyncio.sleep(1)
    stage.client.place(trail, action="SELL", orderType="LMT", lmtPrice=300)
    assert stage.client.errors() == [(trail, 329)]
    stage.client.place(stop, action="SELL", orderType="LMT", lmtPrice=199)
    await asyncio.sleep(1)
    assert stage.status(stop) == "Filled"


async def test_an_order_without_an_id_is_none(stage):
    """10149."""
    stage.client.place(0)
    stage.client.place(-3)
    assert stage.client.errors() == [(0, 10149), (-3, 10149)]


async def test_limits_far_from_the_market_can_be_refused():
    """109, when the gateway has a preset for it, unless the order overrides it."""
    stage = Stage(price_percentage_max=D(5))
    far = stage.place(orderType="LMT", lmtPrice=150)
    stage.place(orderType="LMT", lmtPrice=195)
    stage.place(orderType="LMT", lmtPrice=150, overridePercentageConstraints=1)
    assert stage.client.errors() == [(far, 109)]
    stage.close()


async def test_a_short_sale_may_have_to_wait_for_its_stock():
    """404, PreSubmitted with its reason, and then it trades; a sale of what is held does not wait."""
    stage = Stage(hard_to_borrow=("AAPL",), locate_s=30)
    short = stage.place(action="SELL")
    assert stage.client.errors() == [(short, 404)]
    assert stage.client.of(3)[-1][10] == "locate"
    await asyncio.sleep(29)
    assert stage.status(short) == "PreSubmitted"
    await asyncio.sleep(2)
    assert stage.status(short) == "Filled"
    stage.place(totalQuantity=200)
    await asyncio.sleep(1)
    sale = stage.place(action="SELL")
    await asyncio.sleep(1)
    assert stage.status(sale) == "Filled"
    stage.close()


async def test_small_orders_in_currencies_are_odd_lots(stage):
    """399 says so, and they are filled."""
    small = stage.place(forex(), totalQuantity=1000)
    await asyncio.sleep(0.5)
    assert stage.client.errors() == [(small, 399)]
    assert stage.status(small) == "Filled"
    assert "below the EUR 20000 IdealPro minimum" in stage.text(399)


async def test_an_adaptive_order_is_taken_as_a_plain_one(stage):
    """Other algorithms are refused: 442."""
    from ibkr_service.sim.contracts import ContractSpec

    spec = ContractSpec(con_id=265598, exchange="SMART", sec_type="STK")
    order = stage.gateway.enter_manual_order(spec, "BUY", D(1), algoStrategy="Adaptive")
    await asyncio.sleep(0.5)
    assert order.status.value == "Filled"
    with pytest.raises(Exception, match="442"):
        stage.gateway.enter_manual_order(spec, "BUY", D(1), algoStrategy="Vwap")
