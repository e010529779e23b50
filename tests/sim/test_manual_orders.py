"""Orders that a person enters at TWS, and who sees whose orders."""

import asyncio
from decimal import Decimal

import pytest

from ibkr_service.sim.contracts import ContractSpec
from ibkr_service.sim.rawclient import AAPL, RawClient
from ibkr_service.sim.rules import Refused
from tests.sim.stage import Stage

SPEC = ContractSpec(con_id=AAPL, sec_type="STK", exchange="SMART")
FAR = {"orderType": "LMT", "lmtPrice": Decimal(100)}


@pytest.fixture
async def stage():
    stage = Stage(client_id=0, master_client_id=9)
    yield stage
    stage.close()


def ids(client):
    """The order ids of all open orders that a client was told of."""
    return [int(message[1]) for message in client.of(5)]


async def test_an_unbound_order_has_the_id_0_and_belongs_to_nobody(stage):
    """All clients see it when they ask for all orders; it cannot be cancelled by that id."""
    stage.gateway.enter_manual_order(SPEC, "BUY", Decimal(5), **FAR)
    other = RawClient(stage.gateway, 3)
    other.ask(16, 1)
    assert ids(other) == [0]
    assert ids(stage.client) == []
    stage.client.ask(4, 1, 0, "")
    assert stage.client.errors() == [(0, 10147)]


async def test_client_0_binds_manual_orders_and_can_then_change_them(stage):
    """Those that are there get a negative id, and so do those to come."""
    stage.gateway.enter_manual_order(SPEC, "BUY", Decimal(5), **FAR)
    stage.client.ask(15, 1, 1)
    assert ids(stage.client) == [-1]
    second = stage.gateway.enter_manual_order(SPEC, "BUY", Decimal(5), **FAR)
    assert second.ticket.order_id == -2
    await asyncio.sleep(0.5)
    stage.client.place(-1, action="BUY", totalQuantity=7, orderType="MKT")
    stage.client.ask(4, 1, -2, "")
    await asyncio.sleep(1)
    assert stage.client.statuses(-1)[-1] == "Filled"
    assert stage.client.statuses(-2)[-1] == "Cancelled"
    assert stage.held() == {"AAPL": 7}
    stage.client.forget()
    stage.client.ask(99, 0)
    assert len(stage.client.of(101)) == 2
    stage.client.ask(99, 1)
    assert len(stage.client.of(101)) == 2


async def test_binding_ends_on_request_and_is_client_0s_alone(stage):
    """327 for anybody else."""
    other = RawClient(stage.gateway, 3)
    other.ask(15, 1, 1)
    assert other.errors() == [(-1, 327)]
    stage.client.ask(15, 1, 1)
    stage.client.ask(15, 1, 0)
    order = stage.gateway.enter_manual_order(SPEC, "BUY", Decimal(5), **FAR)
    assert order.ticket.order_id == 0
    stage.client.ask(5, 1)
    assert ids(stage.client) == [-1]


async def test_the_master_client_sees_everybodys_orders_and_fills(stage):
    """Of clients and of people."""
    master, other = RawClient(stage.gateway, 9), RawClient(stage.gateway, 3)
    stage.gateway.enter_manual_order(SPEC, "BUY", Decimal(5))
    other.place(4)
    await asyncio.sleep(0.5)
    assert len(master.of(11)) == 2
    assert len(other.of(11)) == 1
    assert {0, 4} == set(ids(master))
    master.ask(7, 3, 77, 0, "", "", "", "", "", "")
    assert len([fill for fill in master.of(11) if fill[1] == "77"]) == 2


async def test_a_person_can_cancel_any_order(stage):
    """As one can at TWS."""
    order_id = stage.place(orderType="LMT", lmtPrice=100)
    await asyncio.sleep(0.5)
    order = stage.gateway.exchange.orders[0, order_id]
    stage.gateway.exchange.cancel_by_hand(order)
    await asyncio.sleep(0.5)
    assert stage.status(order_id) == "Cancelled"
    with pytest.raises(Refused):
        stage.gateway.exchange.cancel_by_hand(order)


async def test_a_manual_order_is_looked_at_like_any_other(stage):
    """The rules hold for people too, and the names of fields."""
    with pytest.raises(Refused):
        stage.gateway.enter_manual_order(SPEC, "BUY", Decimal(0))
    with pytest.raises(ValueError, match="colour"):
        stage.gateway.enter_manual_order(SPEC, "BUY", Decimal(1), colour="red")
