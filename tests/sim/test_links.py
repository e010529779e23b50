"""Brackets, one-cancels-all groups and combos, on prices that the test sets."""

import asyncio
from decimal import Decimal

import pytest

from ibkr_service.sim.rawclient import AAPL, MSFT, combo, stock
from tests.sim.stage import Stage

D = Decimal


@pytest.fixture
async def stage():
    stage = Stage()
    yield stage
    stage.close()


async def bracket(stage, quantity=100, **entry):
    """A parent, a profit taker at 210 and a stop at 190."""
    parent = stage.place(totalQuantity=quantity, transmit=0, **entry)
    child = {"action": "SELL", "totalQuantity": quantity, "parentId": parent}
    profit = stage.place(orderType="LMT", lmtPrice=210, transmit=0, **child)
    stop = stage.place(orderType="STP", auxPrice=190, **child)
    await asyncio.sleep(0.5)
    return parent, profit, stop


async def test_children_follow_a_parent_that_fills_in_parts(stage):
    """They go out with the first part, and never sell more than it has bought."""
    stage.script.set(AAPL, 200, size=40)
    parent, profit, stop = await bracket(stage, orderType="LMT", lmtPrice=201)
    assert stage.status(parent) == "Submitted"
    await asyncio.sleep(0.5)
    assert stage.status(profit) == "Submitted"
    await stage.move(210, ask=211)
    assert stage.held() == {}
    assert stage.client.of(3)[-1][2:5] != []
    orders = stage.gateway.exchange.orders
    assert (orders[1, profit].filled, orders[1, stop].ticket.quantity) == (40, 60)
    await stage.move(200, size=60)
    assert stage.status(parent) == "Filled"
    await stage.move(210)
    assert (stage.status(profit), stage.status(stop)) == ("Filled", "Cancelled")
    assert stage.held() == {}


async def test_a_parent_cancelled_in_part_leaves_children_for_what_it_bought(stage):
    """40 of 100: the children are for 40, and alive."""
    stage.script.set(AAPL, 200, size=40)
    parent, profit, stop = await bracket(stage, orderType="LMT", lmtPrice=201)
    stage.client.ask(4, 1, parent, "")
    await asyncio.sleep(0.5)
    assert stage.status(parent) == "Cancelled"
    orders = stage.gateway.exchange.orders
    assert [orders[1, each].ticket.quantity for each in (profit, stop)] == [40, 40]
    await stage.move(189)
    assert (stage.status(stop), stage.status(profit), stage.held()) == ("Filled", "Cancelled", {})


async def test_a_rejected_parent_takes_its_children_along():
    """An account that cannot bear it: 201 for the parent, and nothing is left."""
    stage = Stage(cash=D(1000))
    parent, profit, stop = await bracket(stage, orderType="MKT")
    assert [stage.status(each) for each in (parent, profit, stop)] == ["Inactive", "Cancelled", "Cancelled"]
    assert stage.client.errors()[0] == (parent, 201)
    assert "YOUR EQUITY WITH LOAN VALUE [998.50 USD] MUST EXCEED THE INITIAL MARGIN" in stage.text(201)
    stage.close()


async def test_no_child_for_a_parent_that_is_being_cancelled(stage):
    """106."""
    parent = stage.place(orderType="LMT", lmtPrice=100)
    await asyncio.sleep(0.5)
    stage.client.ask(4, 1, parent, "")
    child = stage.place(action="SELL", orderType="LMT", lmtPrice=300, parentId=parent)
    assert stage.client.errors() == [(child, 106)]


@pytest.mark.parametrize(("oca_type", "left"), [(1, "Cancelled"), (2, "60"), (3, "60")])
async def test_a_group_is_cancelled_or_reduced_by_a_part(stage, oca_type, left):
    """40 of 100 are filled: type 1 cancels the other, types 2 and 3 take 40 % off."""
    stage.script.set(AAPL, 200, size=40)
    shared = {"ocaGroup": "g", "ocaType": oca_type}
    other = stage.place(orderType="LMT", lmtPrice=150, **shared)
    stage.place(orderType="LMT", lmtPrice=201, **shared)
    await asyncio.sleep(1)
    order = stage.gateway.exchange.orders[1, other]
    assert (order.status.value if oca_type == 1 else str(order.ticket.quantity)) == left


async def test_a_global_cancel_cancels_everything(stage):
    """Held, waiting and working orders, of every client."""
    await bracket(stage, orderType="LMT", lmtPrice=150)
    stage.place(transmit=0)
    stage.place(orderType="TRAIL", action="SELL", auxPrice=5)
    stage.client.ask(58, 1)
    await asyncio.sleep(0.5)
    assert stage.gateway.open_orders == []
    assert {order.status.value for order in stage.gateway.exchange.orders.values()} == {"Cancelled"}


# --- combos ---------------------------------------------------------------------------------------------------------


async def test_bought_at_a_negative_limit_a_combo_pays_its_buyer(stage):
    """Buying at -200.01 receives 200.01; one cent better for us it does not trade."""
    legs = [(AAPL, 1, "BUY", "SMART"), (MSFT, 1, "SELL", "SMART")]
    greedy = stage.place(combo(), legs, orderType="LMT", lmtPrice=D("-200.01"), totalQuantity=10)
    fair = stage.place(combo(), legs, orderType="LMT", lmtPrice=D("-199.99"), totalQuantity=10)
    await asyncio.sleep(0.5)
    assert (stage.prices(greedy), stage.prices(fair)) == ([], [D("-199.99")])
    commissions = sum(fill.commission or 0 for fill in stage.gateway.executions)
    assert stage.cash() == 1_000_000 + 10 * D("199.99") - commissions
    assert stage.held() == {"AAPL": 10, "MSFT": -10}


async def test_sold_at_a_positive_limit_a_combo_pays_its_seller(stage):
    """The other way round, with a ratio of three."""
    legs = [(MSFT, 1, "BUY", "SMART"), (AAPL, 3, "SELL", "SMART")]
    order = stage.place(combo(), legs, action="SELL", orderType="LMT", lmtPrice=D("-200.03"), totalQuantity=10)
    await asyncio.sleep(0.5)
    assert stage.prices(order) == [D("-200.03")]
    assert stage.held() == {"MSFT": -10, "AAPL": 30}
    commissions = sum(fill.commission or 0 for fill in stage.gateway.executions)
    assert stage.cash() == 1_000_000 - 10 * D("200.03") - commissions


async def test_a_stock_with_an_option_is_quoted_per_share(stage):
    """Buy-write: 100 shares bought, one call sold; price = stock - call."""
    call = stage.option()
    legs = [(AAPL, 100, "BUY", "SMART"), (call.con_id, 1, "SELL", "SMART")]
    order = stage.place(combo(), legs, totalQuantity=2)
    await asyncio.sleep(0.5)
    _, shares, options = stage.gateway.executions
    assert (shares.shares, options.shares) == (200, 2)
    assert stage.prices(order) == [shares.price - options.price]
    paid = 200 * shares.price - 200 * options.price + shares.commission + options.commission
    assert stage.cash() == 1_000_000 - paid


async def test_a_credit_spread_in_options_collects_its_premium(stage):
    """A vertical: one sold, one bought."""
    short, long = stage.option(200), stage.option(210)
    legs = [(short.con_id, 1, "SELL", "SMART"), (long.con_id, 1, "BUY", "SMART")]
    stage.place(combo(), legs, totalQuantity=3)
    await asyncio.sleep(0.5)
    whole = stage.gateway.executions[0]
    assert whole.price < 0
    charges = sum(fill.commission or 0 for fill in stage.gateway.executions)
    assert stage.cash() == 1_000_000 - 300 * whole.price - charges
    assert set(stage.held().values()) == {D(3), D(-3)}


@pytest.mark.parametrize(("known", "code"), [({"orderType": "MOC"}, 387), ({"orderType": "TRAIL", "auxPrice": 1}, 387)])
async def test_combos_have_fewer_order_types(stage, known, code):
    """387."""
    order = stage.place(combo(), [(AAPL, 1, "BUY", "SMART"), (MSFT, 1, "SELL", "SMART")], **known)
    assert stage.client.errors() == [(order, code)]


async def test_the_minimum_commission_is_per_order(stage):
    """Not per fill: three parts of an order cost what the whole costs."""
    stage.script.set(AAPL, 200, size=50)
    order = stage.place(stock(), orderType="LMT", lmtPrice=201, totalQuantity=150)
    await asyncio.sleep(0.5)
    await stage.move(200, 200, size=50)
    assert stage.status(order) == "Filled"
    assert [fill.commission for fill in stage.gateway.executions] == [D("1.00"), 0, 0]
