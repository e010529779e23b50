"""The composition root: the brake of the inbox, asking for one quote, leaving or cancelling orders at the end."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from decimal import Decimal as D

import pytest

from ibkr_service.app import check_fitness
from ibkr_service.core import events as ev
from ibkr_service.core.errors import BrokerRefused, NotReady, RequestTimeout, Unfit, UnknownInstrument
from ibkr_service.core.instrument import Stock, parse
from ibkr_service.core.orders import Intent, OrderState
from ibkr_service.supervisor import StrategySpec
from tests.world import World, WorldConfig

EURUSD = parse("EUR.USD")


class Holder:
    """A strategy that gives its desk away."""

    def __init__(self):
        self.desk = None

    async def __call__(self, desk):
        self.desk = desk
        async for _ in desk.events():
            pass


@pytest.fixture
async def held(tmp_path):
    """A READY world and the desk of a strategy in it."""
    holder = Holder()
    async with World(WorldConfig(folder=tmp_path, strategies=[StrategySpec("s", holder)])) as world:
        await world.until(lambda: holder.desk is not None)
        yield world, holder.desk


async def test_a_full_inbox_stops_the_reading_and_an_emptier_one_resumes_it(tmp_path):
    """Above the high-water mark no byte is taken from the socket; the storm is recorded whole; then it goes on."""
    async with World(WorldConfig(folder=tmp_path, inbox_max=100)) as world:
        await world.until_ready()
        transport = world.app.session._connection.ib.client.conn.transport
        notice = ev.BrokerNotice(at=world.app.clock.now(), code=2100, text="")
        for n in range(150):
            world.app.inbox.put(notice)
            assert transport.is_reading() == (n < 100)
        await world.until(lambda: len(world.app.inbox) == 0, 5)
        assert transport.is_reading()
        assert len([e for e in world.of(ev.BrokerNotice) if e.code == 2100]) == 150


async def test_one_quote_without_watching(held):
    """What is behind it is reqMktDataAsync: a usable quote comes, and no line stays."""
    world, desk = held
    tick = await desk.first_quote(EURUSD)
    assert tick.bid < tick.ask
    assert tick.data_type == "live"
    await asyncio.sleep(1)
    assert world.of(ev.Tick) == []
    assert world.app.session._connection.ib.wrapper.tickers == {}


async def test_one_quote_that_cannot_be_had(held):
    """Unknown instrument, silent gateway, lost line: each has its own error."""
    world, desk = held
    with pytest.raises((BrokerRefused, UnknownInstrument)):
        await desk.first_quote(Stock("NOSUCH"))
    await desk.qualify(EURUSD)
    world.faults.ignore("reqMktData", times=1)
    with pytest.raises(RequestTimeout):
        await desk.first_quote(EURUSD, timeout_s=3)
    world.faults.cut()
    await asyncio.sleep(1)
    with pytest.raises(NotReady):
        await desk.first_quote(EURUSD)


@pytest.mark.parametrize("what", ["leave", "cancel"])
async def test_open_orders_at_shutdown(tmp_path, what):
    """Left to work or cancelled and confirmed, as set."""
    holder = Holder()
    config = WorldConfig(folder=tmp_path, strategies=[StrategySpec("s", holder)])
    async with World(config) as world:
        world.app.config = replace(world.app.config, open_orders_at_shutdown=what)
        await world.until(lambda: holder.desk is not None)
        intent = Intent(instrument=EURUSD, action="BUY", quantity=D(1000), order_type="LMT", limit_price=D("0.5"))
        ref = holder.desk.submit(intent)
        await asyncio.sleep(2)
        assert await world.stop_service() == 0
        order = world.app.book.orders[ref]
        assert order.state is (OrderState.WORKING if what == "leave" else OrderState.CANCELLED)
        assert len(world.gateway.open_orders) == (1 if what == "leave" else 0)


async def test_a_shutdown_is_bounded_even_if_the_gateway_confirms_nothing(tmp_path):
    """Cancelling at the end waits shutdown_timeout_s, says what is left, and ends with 0."""
    holder = Holder()
    async with World(WorldConfig(folder=tmp_path, strategies=[StrategySpec("s", holder)])) as world:
        world.app.config = replace(world.app.config, open_orders_at_shutdown="cancel")
        await world.until(lambda: holder.desk is not None)
        intent = Intent(instrument=EURUSD, action="BUY", quantity=D(1000), order_type="LMT", limit_price=D("0.5"))
        ref = holder.desk.submit(intent)
        await asyncio.sleep(2)
        world.faults.stall()
        began_s = world.now_s
        assert await world.stop_service() == 0
        assert world.now_s - began_s <= 3 * world.app.config.shutdown_timeout_s
        assert world.app.book.orders[ref].state is OrderState.CANCEL_PENDING


def test_a_machine_without_time_zones_is_refused(monkeypatch):
    """Every fill would be lost: said before anything starts, with what to install (R3)."""
    monkeypatch.setattr("ibkr_service.app.ZONES", ("Nowhere/Land",))
    with pytest.raises(Unfit, match="install the package tzdata"):
        check_fitness()
