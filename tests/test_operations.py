"""The operator's verbs at the running service: what they do, and that it holds over a restart."""

from __future__ import annotations

import asyncio
from decimal import Decimal as D

import msgspec
import pytest

from ibkr_service.control import Request
from ibkr_service.core import events as ev
from ibkr_service.core.account import AccountSummary, HeldPosition
from ibkr_service.core.errors import Refused, UnknownOrder
from ibkr_service.core.instrument import Forex, Future, Option, Stock
from ibkr_service.core.intent import Intent
from ibkr_service.core.orders import OrderState
from ibkr_service.operations import Operations
from ibkr_service.rehearsal.world import WIDE_LIMITS, World, WorldConfig
from ibkr_service.supervisor import StrategySpec

AAPL, EUR = Stock("AAPL"), Forex("EUR", "USD")
EXPIRY = "20261218"


class Trader:
    """A strategy whose desk the test trades at."""

    desk = None

    async def __call__(self, desk):
        self.desk = desk
        async for _ in desk.events():
            pass


@pytest.fixture
async def stage(tmp_path):
    """A world that is READY, its trader's desk, and the verbs."""
    trader = Trader()
    async with World(WorldConfig(folder=tmp_path, strategies=[StrategySpec("trader", trader)])) as world:
        await world.until(lambda: trader.desk is not None, what="the strategy")
        yield world, trader, Operations(world.app)


async def do(operations, verb, *, preview=False):
    """Ask as the socket does."""
    return await operations.handle(Request(verb, by="anna", preview=preview))


async def bought(trader, world, instrument, quantity, action="BUY"):
    """Trade at the market, and wait until the position is reported."""
    desk = trader.desk
    await desk.qualify(instrument)
    desk.watch(instrument)
    await world.until(lambda: desk.quote(instrument) is not None, 30.0, "a quote")
    order = await desk.finished(desk.submit(Intent.of(action, instrument, quantity)))
    assert order.remaining == 0, order
    await asyncio.sleep(2)


async def test_stop_entries_holds_over_a_restart(stage):
    """Entries are refused, exits pass, and a new process has not forgotten."""
    world, trader, operations = stage
    await bought(trader, world, AAPL, 10)
    answer = await do(operations, "stop-entries")
    assert answer.ok
    assert "stopped by anna" in answer.text[0]
    await world.restart_service()
    await world.until(lambda: not trader.desk.closed, what="the strategy")
    await world.until_ready()
    desk = trader.desk
    with pytest.raises(Refused, match="only_reducing"):
        desk.submit(Intent.buy(AAPL, 1, limit="100"))
    desk.submit(Intent.sell(AAPL, 10, limit="900"))
    await do(Operations(world.app), "resume")
    desk.submit(Intent.buy(AAPL, 1, limit="100"))


async def test_halt_cancels_what_works_and_leaves_others_alone(stage):
    """The broker has confirmed when the answer comes; nothing new leaves."""
    world, trader, operations = stage
    await trader.desk.qualify(AAPL)
    refs = [trader.desk.submit(Intent.buy(AAPL, count, limit="100")) for count in (1, 2)]
    await asyncio.sleep(1)
    preview = await do(operations, "halt", preview=True)
    assert [refs[0] in preview.text[0], refs[1] in preview.text[1]] == [True, True]
    assert len(world.gateway.open_orders) == 2
    answer = await do(operations, "halt")
    assert (answer.ok, answer.data["cancelled"]) == (True, tuple(refs))
    assert world.gateway.open_orders == []
    with pytest.raises(Refused, match="halted by anna"):
        trader.desk.submit(Intent.buy(AAPL, 1, limit="100"))


async def test_what_the_broker_does_not_confirm_is_said(stage):
    """A cut line: the wish stays, and the answer is no success."""
    world, trader, operations = stage
    await trader.desk.qualify(AAPL)
    ref = trader.desk.submit(Intent.buy(AAPL, 1, limit="100"))
    await asyncio.sleep(1)
    world.faults.cut()
    await asyncio.sleep(1)
    answer = await do(operations, "cancel-all")
    assert not answer.ok
    assert ref in answer.error
    assert world.app.book.orders[ref].cancel_wanted


async def lost(world, trader):
    """An order that came to an end the day before, while the service was away: the broker tells nothing of it now."""
    await trader.desk.qualify(AAPL)
    ref = trader.desk.submit(Intent.sell(AAPL, 100, limit="900"))
    await asyncio.sleep(1)
    await world.stop_service()
    (order,) = world.gateway.open_orders
    world.gateway.exchange.cancel_by_hand(order)
    trader.desk = None
    await asyncio.sleep(15 * 3600)  # over midnight in New York
    world.start_service()
    await world.until_ready()
    await world.until(world.app.book.unaccounted, 600.0, "an order that is unaccounted for")
    return ref


async def test_an_order_that_nobody_can_account_for_stands_in_nobodys_way_for_ever(stage):
    """It counts until a person takes it as over; flatten says so, instead of doing nothing."""
    world, trader, _ = stage
    await bought(trader, world, AAPL, 100)
    await bought(trader, world, EUR, 25_000)
    ref = await lost(world, trader)
    operations = Operations(world.app)
    answer = await do(operations, "flatten")
    assert not answer.ok
    assert ref in answer.error
    assert "reconcile --accept" in answer.error
    assert world.app.book.position(EUR) == 0
    preview = await do(operations, "accept", preview=True)
    assert ref in "\n".join(preview.text)
    assert world.app.book.orders[ref].alive
    taken = await do(operations, "accept")
    assert taken.data == {"accepted": 0, "orders": [ref]}
    assert world.app.book.orders[ref].state is OrderState.CANCELLED
    assert "anna" in world.app.book.orders[ref].reason
    assert "nothing was done" in (await do(operations, "accept")).text[-1]
    with pytest.raises(UnknownOrder):
        world.app.accept_order(ref, "anna")


async def test_flatten_closes_a_future(stage):
    """The broker reports it without an exchange, and takes no order without one."""
    world, trader, operations = stage
    await bought(trader, world, Future("ES", "202612", "CME", multiplier="50"), 1)
    (held,) = world.app.book.held_positions()
    assert (held.exchange, held.multiplier) == ("", "50")
    answer = await do(operations, "flatten")
    assert answer.ok, answer
    assert world.app.book.held_positions() == {}
    world.check_agreement()


async def test_flatten_is_not_held_by_limits_of_size(tmp_path):
    """The shares belong to two strategies; who closes them has none of his own."""
    traders = [Trader(), Trader()]
    limits = msgspec.structs.replace(WIDE_LIMITS, max_position=D(150), max_strategy_position=D(100))
    specs = [StrategySpec(f"trader {number}", trader) for number, trader in enumerate(traders)]
    async with World(WorldConfig(folder=tmp_path, strategies=specs, limits=limits)) as world:
        await world.until(lambda: all(trader.desk for trader in traders), what="the strategies")
        for trader, quantity in zip(traders, (100, 50), strict=True):
            await bought(trader, world, AAPL, quantity)
        answer = await do(Operations(world.app), "flatten")
        assert answer.ok, answer
        assert world.app.book.held_positions() == {}


async def test_flatten_closes_everything(stage):
    """Stock, currency, a spread as a whole and a single short option; entries stay stopped."""
    world, trader, operations = stage
    calls = [Option("AAPL", EXPIRY, strike, "C") for strike in (230.0, 240.0, 250.0)]
    for instrument, quantity, action in (
        (AAPL, 100, "BUY"),
        (EUR, 25_000, "BUY"),
        (calls[0], 2, "BUY"),
        (calls[1], 2, "SELL"),
        (calls[2], 1, "SELL"),
    ):
        await bought(trader, world, instrument, quantity, action)
    trader.desk.submit(Intent.buy(AAPL, 1, limit="100"))
    preview = await do(operations, "flatten", preview=True)
    assert len(preview.text) == 5, preview.text
    answer = await do(operations, "flatten")
    assert answer.ok, answer
    assert world.app.book.held_positions() == {}
    assert world.gateway.open_orders == []
    assert world.app.book.operator.word == "entries stopped"
    world.check_agreement()
    orders = [event.intent for event in world.of(ev.OrderSubmitted) if event.strategy == "operator"]
    assert all(intent.order_type == "LMT" for intent in orders)
    shorts_first = [str(intent.instrument) for intent in orders if "AAPL" in str(intent.instrument)]
    assert shorts_first[0] == str(calls[2])
    assert shorts_first[-1] == "AAPL"


@pytest.mark.parametrize("verb", ["halt", "cancel-all"])
async def test_a_flatten_that_is_under_way_is_stopped(stage, verb):
    """Its next stages do not leave; the answer says who stopped it, and what is left."""
    world, trader, operations = stage
    call = Option("AAPL", EXPIRY, 240.0, "C")
    await bought(trader, world, call, 1, "SELL")
    await bought(trader, world, AAPL, 150)
    async with asyncio.TaskGroup() as both:
        closing = both.create_task(do(operations, "flatten"))
        await world.until(lambda: [e for e in world.of(ev.OrderSubmitted) if e.strategy == "operator"], what="an order")
        await do(operations, verb)
    answer = closing.result()
    assert not answer.ok
    assert f"anna said {verb} meanwhile" in answer.error
    assert world.app.book.position(AAPL) == 150, "the shares come after the option that is short"
    assert world.gateway.open_orders == []
    again = await do(operations, "flatten")
    assert again.ok, again
    assert world.app.book.held_positions() == {}


async def test_verbs_that_nobody_knows(stage):
    """The answer names those that there are."""
    _, _, operations = stage
    answer = await do(operations, "fly")
    assert not answer.ok
    assert "flatten" in answer.error
    status = await do(operations, "status")
    assert status.data["link"] == "READY"
    assert (await do(operations, "orders")).text == ("no working orders",)
    assert (await do(operations, "positions")).text == ("no positions",)
    assert D(0) == status.data["positions"]


async def test_what_the_socket_carries_can_be_read_back(stage):
    """Account and positions as values, through JSON, equal to those of the book."""
    world, trader, operations = stage
    await bought(trader, world, AAPL, 10)
    book = world.app.book

    async def through_json(verb, kind):
        answer = msgspec.json.decode(msgspec.json.encode(await do(operations, verb)))
        return msgspec.convert(answer["data"], kind, strict=False)

    name, held = await through_json("positions", tuple[str, list[HeldPosition]])
    assert (name, {one.instrument: one for one in held}) == (book.account, book.held_positions())
    assert await through_json("account", AccountSummary) == book.account_summary()
