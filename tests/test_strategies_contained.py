"""Nothing a strategy does takes down the daemon or the healthy strategy beside it."""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import sys
from decimal import Decimal as D

import pytest

from ibkr_service import supervisor
from ibkr_service.core import events as ev
from ibkr_service.core.errors import DeskClosed, Refused, StrategyUnusable
from ibkr_service.core.instrument import parse
from ibkr_service.core.link import Link
from ibkr_service.core.orders import Intent
from ibkr_service.supervisor import StrategySpec, arguments, load
from tests.world import WIDE_LIMITS, World, WorldConfig

EURUSD = parse("EUR.USD")
BUY = Intent(instrument=EURUSD, action="BUY", quantity=D(1000))


class Healthy:
    """A strategy that watches and counts what it reads."""

    def __init__(self):
        self.ticks = 0

    async def __call__(self, desk):
        desk.watch(EURUSD)
        async for event in desk.events():
            self.ticks += isinstance(event, ev.Tick)


async def beside_a_healthy_one(tmp_path, bad, *, seconds=30.0, **policy):
    """Run a bad strategy beside a healthy one for a while; return the world after checking that life goes on."""
    healthy = Healthy()
    specs = [StrategySpec("bad", bad, **policy), StrategySpec("healthy", healthy)]
    async with World(WorldConfig(folder=tmp_path, strategies=specs)) as world:
        await world.until_ready()
        await asyncio.sleep(seconds)
        before = healthy.ticks
        await asyncio.sleep(10)
        assert healthy.ticks > before, "the healthy strategy reads on"
        assert world.app.book.link is Link.READY
        stopped = [(e.name, e.how) for e in world.of(ev.StrategyStopped)]
        assert "healthy" not in [name for name, _ in stopped]
        world.check_agreement()
        code = await world.stop_service()
        assert code == 0
        return world


def ends(world):
    return [e.how for e in world.of(ev.StrategyStopped) if e.name == "bad"]


async def test_one_that_raises(tmp_path):
    """The exception is recorded, its desk closed."""

    async def bad(desk):
        raise ValueError("my own mistake")

    world = await beside_a_healthy_one(tmp_path, bad)
    assert ends(world) == ["failed"]
    assert "my own mistake" in world.of(ev.StrategyStopped)[0].detail


async def test_one_that_exits(tmp_path):
    """sys.exit() ends the strategy, not the process."""

    async def bad(desk):
        sys.exit(3)

    world = await beside_a_healthy_one(tmp_path, bad)
    assert ends(world) == ["exited"]
    assert "3" in world.of(ev.StrategyStopped)[0].detail


async def test_one_that_returns_is_not_restarted(tmp_path):
    """Returning is a decision, also under on_failure."""

    async def bad(desk):
        return

    assert ends(await beside_a_healthy_one(tmp_path, bad, restart="on_failure")) == ["returned"]


async def test_one_that_fails_is_restarted_as_its_policy_says(tmp_path):
    """on_failure: with growing pauses, and so many times and no more."""
    began = []

    async def bad(desk):
        began.append(asyncio.get_running_loop().time())
        raise ValueError

    world = await beside_a_healthy_one(tmp_path, bad, restart="on_failure", restart_delay_s=2.0, restart_max=3)
    assert ends(world) == ["failed"] * 4
    assert [e.attempt for e in world.of(ev.StrategyStarted) if e.name == "bad"] == [1, 2, 3, 4]
    assert [round(b - a) for a, b in itertools.pairwise(began)] == [2, 4, 8]


async def test_one_that_ran_well_for_long_has_its_restarts_back(tmp_path, monkeypatch):
    """A failure a week is not worth giving up a strategy for, after however many weeks."""
    monkeypatch.setattr(supervisor, "WELL_S", 20.0)
    began = []

    async def bad(desk):
        began.append(asyncio.get_running_loop().time())
        await asyncio.sleep(20.0 if len(began) < 4 else 19.0)
        raise ValueError

    world = await beside_a_healthy_one(
        tmp_path, bad, seconds=150.0, restart="on_failure", restart_delay_s=1.0, restart_max=1
    )
    assert ends(world) == ["failed"] * 4, "given up when the one after a short run is the second in a row"
    assert [round(b - a) for a, b in itertools.pairwise(began)] == [21, 21, 21]


async def test_one_that_swallows_cancellation(tmp_path):
    """It is closed under its own feet; the shutdown takes its bounded time and ends in order."""

    async def bad(desk):
        while True:
            try:
                await asyncio.sleep(3600)
            except asyncio.CancelledError:
                continue

    world = await beside_a_healthy_one(tmp_path, bad)
    assert ends(world) == ["cancelled"]
    assert "ignored its cancellation" in next(e for e in world.of(ev.StrategyStopped) if e.name == "bad").detail
    assert world.app.supervisor.abandoned == []


async def test_one_that_cannot_be_ended_at_all(tmp_path):
    """It swallows everything, GeneratorExit included: abandoned, named, and the shutdown still ends."""
    let_go = asyncio.Event()

    async def bad(desk):
        while not let_go.is_set():
            try:
                await asyncio.sleep(3600)
            except BaseException:  # noqa: BLE001 - that is what is wrong with it
                continue

    world = await beside_a_healthy_one(tmp_path, bad)
    assert ends(world) == ["stuck"]
    assert world.app.supervisor.abandoned == ["bad"]
    let_go.set()
    for task in asyncio.all_tasks():
        if task.get_name() == "strategy:bad":
            task.cancel()


async def test_one_that_raises_cancelled_error_by_itself(tmp_path):
    """A CancelledError that nobody sent is a failure, not a shutdown."""

    async def bad(desk):
        raise asyncio.CancelledError

    assert ends(await beside_a_healthy_one(tmp_path, bad)) == ["failed"]


async def test_one_that_floods_orders(tmp_path):
    """The risk gate refuses the flood; what went out is accounted for, and the neighbour reads on."""
    refusals = []

    async def bad(desk):
        desk.watch(EURUSD)
        async for event in desk.events():
            if isinstance(event, ev.Tick):
                for _ in range(200):
                    try:
                        desk.submit(BUY)
                    except Refused as refusal:
                        refusals.append(refusal.limit)

    healthy = Healthy()
    specs = [StrategySpec("bad", bad), StrategySpec("healthy", healthy)]
    limits = type(WIDE_LIMITS)(
        max_quantity=D(10_000),
        max_notional=D(100_000),
        max_open_orders=5,
        max_orders_per_minute=8,
        max_quote_age_s=30.0,
    )
    async with World(WorldConfig(folder=tmp_path, strategies=specs, limits=limits)) as world:
        await world.until_ready()
        await asyncio.sleep(30)
        assert healthy.ticks > 20
        assert set(refusals) == {"max_open_orders", "max_orders_per_minute"}
        assert len(world.of(ev.OrderSubmitted)) <= 16  # eight in each of at most two minutes
        assert world.app.book.link is Link.READY
        world.check_agreement()


async def test_one_that_leaves_its_mail_unread(tmp_path):
    """Facts are never dropped, so the reader goes: overrun, its desk closed; the journal has what it missed."""
    seen = []

    async def bad(desk):
        desk.watch(EURUSD)
        await anext(desk.events())
        try:
            while True:
                await asyncio.sleep(1)
                for _ in range(5):
                    with contextlib.suppress(Refused):
                        desk.submit(BUY)
        except DeskClosed as closed:
            seen.append(str(closed))
            raise

    healthy = Healthy()
    specs = [StrategySpec("bad", bad), StrategySpec("healthy", healthy)]
    async with World(WorldConfig(folder=tmp_path, strategies=specs, mailbox_max=50)) as world:
        await world.until_ready()
        await asyncio.sleep(60)
        assert ends(world) == ["overrun"]
        assert healthy.ticks > 40
        world.check_agreement()


async def test_a_strategy_waits_for_ready(tmp_path):
    """It starts with a verified account: Recovered first, nothing before."""
    seen = []

    async def good(desk):
        seen.append(desk.book.link)
        async for event in desk.events():
            seen.append(type(event))
            break

    async with World(WorldConfig(folder=tmp_path, strategies=[StrategySpec("good", good)])) as world:
        await world.until(lambda: len(seen) == 2)
    assert seen == [Link.READY, ev.Recovered]


@pytest.mark.tcp
async def test_one_that_computes_is_named_and_stopped():
    """A coroutine that holds the loop: the watchdog names it with its stack, and it is stopped when it lets go."""
    import threading

    from ibkr_service.watchdog import Watchdog

    reports = []
    reported = threading.Event()

    def compute():
        while not reported.wait(0.001):
            pass  # holds the loop until the watchdog has looked: no longer than its limit

    class Looks(Watchdog):
        def _look(self, loop):
            super()._look(loop)
            reported.set()

    with Looks(0.05, lambda *finding: reports.append(finding)):
        task = asyncio.get_running_loop().create_task(_call(compute), name="strategy:greedy")
        await task
        await asyncio.sleep(0)
    name, held_s, stack = reports[0]
    assert name == "strategy:greedy"
    assert held_s >= 0.05
    assert "compute" in stack


async def _call(function):
    function()


async def test_the_watchdogs_finding_stops_the_strategy(tmp_path):
    """The supervisor stops what the watchdog named, and the neighbour goes on."""

    async def bad(desk):
        await asyncio.sleep(5)
        world_of[0].app.supervisor.held("strategy:bad", 3.0, "the stack")
        await asyncio.sleep(3600)

    world_of = []
    healthy = Healthy()
    specs = [StrategySpec("bad", bad), StrategySpec("healthy", healthy)]
    async with World(WorldConfig(folder=tmp_path, strategies=specs)) as world:
        world_of.append(world)
        await world.until_ready()
        await asyncio.sleep(20)
        assert ends(world) == ["held_loop"]
        assert healthy.ticks > 20


def test_what_cannot_be_loaded_is_named():
    """Before anything starts, in one line."""
    for run, says in [
        ("no.such.module:f", "cannot be loaded"),
        ("ibkr_service.strategies.watch:nothing", "cannot be loaded"),
        ("ibkr_service.core.instrument:parse", "async def"),
        ("nonsense", "write module:function, or one of"),
    ]:
        with pytest.raises(StrategyUnusable, match=says):
            load(run)


@pytest.mark.parametrize(
    ("params", "says"),
    [
        ({}, "instrument"),
        ({"instrument": "EUR.USD", "quantity": "many"}, "quantity"),
        (
            {"instrument": "EUR.USD", "quantity": 1, "fats": 3},
            "'fats': allowed are instrument, quantity, fast, slow, short",
        ),
        ({"instrument": "EUR.USD", "quantity": 1, "fast": 9, "slow": 5}, "fast must be above 0 and below slow"),
    ],
)
def test_parameters_are_typed(params, says):
    """A wrong parameter is found at the start, and named."""
    with pytest.raises(StrategyUnusable, match=says):
        arguments(StrategySpec("sma", load("ibkr_service.strategies.sma_cross:sma_cross"), params))
