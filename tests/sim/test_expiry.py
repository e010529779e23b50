"""Expiry, exercise and assignment; every settlement is in the books."""

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from ibkr_service.sim.contracts import ContractSpec
from ibkr_service.sim.rawclient import AAPL
from tests.sim.stage import Stage

D = Decimal
FRIDAY = datetime(2026, 11, 27, 15, 0, tzinfo=UTC)


@pytest.fixture
async def stage():
    stage = Stage(started_at=FRIDAY)
    yield stage
    stage.close()


def spec(option):
    """An option by its id."""
    return [option.con_id, "", "OPT", "", 0, "", "", "SMART", "", "", "", ""]


async def trade(stage, option, action, quantity=2):
    order = stage.place(spec(option), action=action, totalQuantity=quantity)
    await asyncio.sleep(1)
    assert stage.status(order) == "Filled"
    return stage.gateway.executions[-1]


@pytest.mark.parametrize(
    ("right", "action", "spot", "shares"),
    [("C", "BUY", 215, 200), ("C", "SELL", 215, -200), ("P", "BUY", 185, -200), ("P", "SELL", 185, 200)],
)
async def test_in_the_money_options_become_stock_at_the_strike(stage, right, action, spot, shares):
    """Long ones are exercised, short ones assigned; cash pays the strike, and clients are told."""
    option = stage.option(200, right)
    fill = await trade(stage, option, action)
    stage.client.ask(61, 1)
    stage.client.forget()
    stage.script.set(AAPL, spot, ask=spot)
    await asyncio.sleep(7 * 3600)
    assert stage.held() == {"AAPL": shares}
    premium = (-1 if action == "BUY" else 1) * 2 * fill.price * 100
    assert stage.cash() == 1_000_000 + premium - fill.commission - shares * 200
    told = {message[5]: message[14] for message in stage.client.of(61)}
    assert told == {"OPT": "0", "STK": str(shares)}
    realized = stage.gateway.accounts["DU1234567"].positions[option.con_id].realized
    assert realized == premium - fill.commission


@pytest.mark.parametrize("action", ["BUY", "SELL"])
async def test_worthless_options_vanish(stage, action):
    """What was paid for them is lost, or earned."""
    fill = await trade(stage, stage.option(210), action)
    cash = stage.cash()
    await asyncio.sleep(7 * 3600)
    assert (stage.held(), stage.cash()) == ({}, cash)
    assert [settled.price for settled in stage.gateway.exchange.settlements] == [0]
    assert fill.commission > 0


async def test_orders_in_what_expires_are_cancelled_and_no_more_are_taken(stage):
    """Also those that are good till cancelled; 392 afterwards."""
    option = stage.option(200)
    await trade(stage, option, "BUY")
    resting = stage.place(spec(option), orderType="LMT", lmtPrice=D("0.01"), tif="GTC", totalQuantity=1)
    await asyncio.sleep(7 * 3600)
    assert stage.status(resting) == "Cancelled"
    late = stage.place(spec(option), totalQuantity=1)
    assert stage.client.errors()[-1] == (late, 392)


def exercise(stage, option, action=1, quantity=1, *, override=0):
    stage.client.ask(21, 2, 99, *spec(option)[:8], "USD", "", "", action, quantity, "", override)


async def test_options_can_be_exercised_before_they_expire(stage):
    """Not what is out of the money, unless overridden; not more than is held; not stocks."""
    option = stage.option(200, expiry="20261218")
    await trade(stage, option, "BUY")
    exercise(stage, option)
    exercise(stage, option, quantity=3, override=1)
    assert stage.client.errors() == [(99, 322), (99, 321)]
    assert "No unlapsed position exists in this option in account DU1234567" in stage.text(321)
    stage.script.set(AAPL, 220)
    exercise(stage, option)
    assert stage.held() == {option.local_symbol: 1, "AAPL": 100}
    exercise(stage, option, action=3)
    assert stage.client.errors()[-1] == (99, 321)


async def test_an_option_can_be_left_to_lapse(stage):
    """One of two: the other is exercised."""
    option = stage.option(200)
    await trade(stage, option, "BUY")
    stage.script.set(AAPL, 220)
    exercise(stage, option, action=2)
    await asyncio.sleep(7 * 3600)
    assert stage.held() == {"AAPL": 100}


async def test_futures_are_paid_out_in_cash():
    """By what they have earned."""
    stage = Stage(started_at=datetime(2026, 12, 18, 15, 0, tzinfo=UTC))
    universe = stage.gateway.universe
    future = universe.front("ES")
    stage.script.set(future.con_id, 5000, ask=5000)
    stage.place([future.con_id, "", "", "", 0, "", "", future.exchange, "", "", "", ""], totalQuantity=1)
    await asyncio.sleep(1)
    paid = stage.gateway.executions[0].commission
    stage.script.set(future.con_id, 5010, ask=5010)
    await asyncio.sleep(7 * 3600)
    assert stage.held() == {}
    assert stage.cash() == 1_000_000 - paid + 10 * future.units
    stage.close()


async def test_an_index_option_is_paid_out_by_what_it_is_in_the_money():
    """No shares: cash, and the profit is realised."""
    stage = Stage(started_at=FRIDAY)
    universe = stage.gateway.universe
    index = next(each for each in universe.indexes.values() if each.symbol == "SPX")
    strike = universe.chain(index).strikes[3]
    stage.script.set(index.con_id, strike + 50, ask=strike + 50)
    asked = ContractSpec(symbol="SPX", sec_type="OPT", strike=strike, right="C")
    option = min(universe.find(asked), key=lambda contract: contract.expiry)
    stage.client.place(1, [option.con_id, "", "OPT", "", 0, "", "", "SMART", "", "", "", ""], totalQuantity=1)
    await asyncio.sleep(1)
    cash = stage.cash()
    delay_s = (datetime.strptime(option.expiry + " 22 +0000", "%Y%m%d %H %z") - FRIDAY).total_seconds()
    await asyncio.sleep(delay_s)
    assert stage.held() == {}
    assert stage.cash() == cash + 50 * 100
    stage.close()
