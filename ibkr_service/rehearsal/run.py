"""One rehearsal from beginning to end: a plan in, a `Result` out.

The whole service (the user's own strategies beside the one that trades for us) runs against the gateway in virtual
time. Faults happen as planned; then everything is healed, and the service has `READY_WITHIN_S` to be READY and
`AGREE_WITHIN_S` to agree with the gateway in everything.
"""

from __future__ import annotations

import asyncio
import functools
import gc
import hashlib
import io
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ibkr_service import log
from ibkr_service.broker.login import SessionConfig
from ibkr_service.core import events as ev
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.link import Link
from ibkr_service.core.risk import Limits
from ibkr_service.desk import Desk
from ibkr_service.journal import export, open_readonly
from ibkr_service.rehearsal import mishaps
from ibkr_service.rehearsal.askers import ASKER, Asker
from ibkr_service.rehearsal.closing import after_end, differences
from ibkr_service.rehearsal.invariants import Breach, Reader, Watch
from ibkr_service.rehearsal.machine import Machine
from ibkr_service.rehearsal.mishaps import Fault, Occasion
from ibkr_service.rehearsal.mood import MOODS
from ibkr_service.rehearsal.plan import RANDOM, Plan
from ibkr_service.rehearsal.tally import Figures, Tally
from ibkr_service.rehearsal.timeline import Entry, Timeline
from ibkr_service.rehearsal.traders import NAME, Trader, options_of
from ibkr_service.rehearsal.wiretap import TappedLoop
from ibkr_service.rehearsal.world import PORT, WIDE_LIMITS, WorldConfig
from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.contracts import Combo
from ibkr_service.supervisor import StrategySpec

READY_WITHIN_S = 300.0
AGREE_WITHIN_S = 900.0
POLL_S = 1.0
ORDERS_MIN = 20
IN_MEMORY, ROOM_BYTES = Path("/dev/shm"), 64 << 20  # noqa: S108 - a new folder within it
GREEKS_EVERY, PROFITS_EVERY = 4, 12  # quotes of an instrument; no invariant watches these


@dataclass(frozen=True)
class Result:
    """What a rehearsal came to. `digest`: of the journal's canonical form; `seconds`: virtual."""

    plan: Plan
    breaches: tuple[Breach, ...]
    seconds: float
    digest: str
    coverage: Counter[str] = field(default_factory=Counter)
    figures: Figures = field(default_factory=Figures)
    timeline: tuple[Entry, ...] = ()
    journal: tuple[str, ...] = ()

    @property
    def passed(self) -> bool:
        """Whether every invariant held."""
        return not self.breaches

    @property
    def broken(self) -> tuple[str, ...]:
        """The invariants that did not hold, each once."""
        return tuple(dict.fromkeys(breach.invariant for breach in self.breaches))

    @property
    def verdict(self) -> str:
        """One line."""
        if self.passed:
            return f"passed: {self.plan.name}, seed {self.plan.seed}"
        return f"FAILED: {self.plan.name}, seed {self.plan.seed}: {', '.join(self.broken)}; again: {self.plan.replay}"


@dataclass(frozen=True)
class Company:
    """The user's part of a rehearsal: strategies and settings; the address is always the simulator's."""

    strategies: tuple[StrategySpec, ...] = ()
    session: SessionConfig | None = None
    limits: Limits | None = None


def rehearse(plan: Plan, company: Company | None = None, *, keeps: bool = False) -> Result:
    """Live through a plan on a loop of its own.

    Args:
        company: what to rehearse beside the strategy that comes with it. keeps: keep timeline and journal.

    Raises:
        RuntimeError: an event loop is running here.
    """
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - the public way to ask is an exception
        raise RuntimeError("a rehearsal has an event loop of its own: call it from a plain function")
    with _own_garbage(), tempfile.TemporaryDirectory(prefix="rehearsal-", dir=_in_memory()) as folder:
        log.configure("error", "json", stream=io.StringIO())
        return _run(_Rehearsal(plan, company or Company(), Path(folder), keeps=keeps))


def _in_memory() -> str | None:
    """A folder that is no disk, if there is one with room: thousands of journals are written and thrown away."""
    has_room = IN_MEMORY.is_dir() and os.access(IN_MEMORY, os.W_OK) and shutil.disk_usage(IN_MEMORY).free > ROOM_BYTES
    return str(IN_MEMORY) if has_room else None


@contextmanager
def _own_garbage() -> Iterator[None]:
    """Collect garbage when we say so, and only what a rehearsal has made: at the same moment in every process."""
    was_enabled = gc.isenabled()
    gc.disable()
    gc.freeze()
    try:
        yield
    finally:
        gc.collect()
        gc.unfreeze()
        if was_enabled:
            gc.enable()


def _run(rehearsal: _Rehearsal) -> Result:
    with asyncio.Runner(loop_factory=TappedLoop) as runner:
        loop = runner.get_loop()
        asyncio.set_event_loop(loop)  # ib_insync asks for the current loop, not for the running one
        try:
            return runner.run(rehearsal.live())
        finally:
            asyncio.set_event_loop(None)


class _Rehearsal:
    """A plan being carried out; the `Scene` of its faults."""

    machine: Machine

    def __init__(self, plan: Plan, company: Company, folder: Path, *, keeps: bool) -> None:
        self._plan = plan
        self._company = company
        self._folder = folder
        self._keeps = keeps
        self._coverage: Counter[str] = Counter()
        self._trader = Trader(plan.wishes, options_of(plan.started_at.date()))
        self._asker = Asker(plan.asks) if plan.asks else None

    async def live(self) -> Result:
        loop = asyncio.get_running_loop()
        timeline = Timeline(loop.time, keeps=self._keeps)
        self._watch = watch = Watch(timeline, Tally(loop.time))
        watch.ends = self._plan.scenario.ends if self._plan.scenario is not None else None
        self.machine = Machine(self._config(), watch.told, latency_s=self._plan.latency_s, struck=watch.struck)
        self.machine.mood, self.machine.step_s = MOODS[self._plan.mood], self._plan.quote_interval_s
        others = bool(self._company.strategies) or self._asker is not None
        self.machine.has_figures = others  # the one that comes with us reads none
        watch.counts_lines = not others  # they may hold lines for chains and streams
        watch.begin(self.machine)
        path = self._folder / "journal.sqlite"
        figures = Figures()
        try:
            async with self.machine:
                async with asyncio.TaskGroup() as tasks:
                    beat = tasks.create_task(watch.beat(), name="rehearsal:beat")
                    await self._misfortunes()
                    await self._settle()
                    beat.cancel()
                await self.machine.stop_service()
                await asyncio.sleep(POLL_S)
                gc.collect()  # an exception that nobody saw is told when its task or future goes
                for invariant, text in after_end(watch, path):
                    watch.breach(invariant, text)
                self._count()
                figures = watch.tally.figures(self.machine, path, watch.read_twice)
        except Exception as exc:  # noqa: BLE001 - whatever ends a rehearsal early is a finding
            watch.breach("recovers", f"the rehearsal itself ended with {exc!r}"[:2000])
        watch.end()
        with closing(open_readonly(path)) as database:
            lines = tuple(export(database))
        digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
        return Result(
            plan=self._plan,
            breaches=tuple(breach for breach in watch.breaches if breach.invariant not in self._plan.excused),
            seconds=loop.time(),
            digest=digest,
            coverage=self._coverage,
            figures=figures,
            timeline=tuple(timeline.entries),
            journal=lines if self._keeps else (),
        )

    def _config(self) -> WorldConfig:
        plan, company = self._plan, self._company
        session = company.session or SessionConfig(host="127.0.0.1", port=PORT, client_id=1)
        gateway = GatewayConfig(
            seed=plan.seed,
            started_at=plan.started_at,
            quote_interval_s=plan.quote_interval_s,
            greeks_interval_s=GREEKS_EVERY * plan.quote_interval_s,
            profit_interval_s=PROFITS_EVERY * plan.quote_interval_s,
            latency=plan.latencies,
        )
        own = StrategySpec(NAME, self._trader, restart="on_failure")
        specs = [own, *company.strategies]
        if self._asker is not None:
            specs.append(StrategySpec(ASKER, self._asker, restart="on_failure"))
        return WorldConfig(
            folder=self._folder,
            seed=plan.seed,
            gateway=gateway,
            session=replace(session, host="127.0.0.1", port=PORT, mode="simulated", account=""),
            limits=company.limits or WIDE_LIMITS,
            scenario=plan.scenario,
            strategies=[replace(spec, function=self._overheard(spec)) for spec in specs],
        )

    # --- strategies, as they read -------------------------------------------------------------------------------------

    def _overheard(self, spec: StrategySpec) -> Any:  # noqa: ANN401 - as many signatures as strategies
        """The strategy, at a desk that notes what is read there."""
        wanted = spec.function
        target = (
            wanted.__call__ if isinstance(wanted, (Trader, Asker)) else wanted
        )  # what says which parameters it takes

        @functools.wraps(target)
        async def strategy(desk: Desk, *arguments: object) -> None:
            reader = Reader(spec.name, self.machine.lives, self._watch)
            self._watch.readers.append(reader)
            _listen(desk, reader)
            try:
                await wanted(desk, *arguments)
            finally:
                reader.ended_s = self.machine.loop.time()

        return strategy

    # --- faults ------------------------------------------------------------------------------------------------------

    async def occasion(self, name: Occasion, within_s: float) -> bool:
        """Wait for the next order, cancel, synchronisation, fill or connection."""
        waiting = self._watch.occasion(name)
        done, _ = await asyncio.wait([waiting], timeout=within_s)
        return bool(done)

    def say(self, text: str) -> None:
        """Note what the gateway does."""
        self._watch.timeline.gateway(text)

    async def _misfortunes(self) -> None:
        """Let the faults happen, and the time of the plan pass."""
        async with asyncio.TaskGroup() as faults:
            under_way = [
                faults.create_task(self._happen(fault), name=f"rehearsal:{fault.kind}") for fault in self._plan.faults
            ]
            await asyncio.sleep(self._plan.length_s)
            for task in under_way:
                task.cancel()

    async def _happen(self, fault: Fault) -> None:
        if fault.kind == "disk-full":
            self._watch.disk_failed_in.add(self.machine.lives)
        came = await mishaps.play(self, fault)
        self._coverage[f"fault {fault.kind}"] += 1
        if fault.on and came:
            self._coverage[f"on {fault.on}"] += 1

    # --- the end -----------------------------------------------------------------------------------------------------

    async def _settle(self) -> None:
        """Heal everything; READY and in agreement within the bounds, or it is a breach."""
        watch, loop = self._watch, self.machine.loop
        if watch.ends is not None:
            await self._check_end(watch.ends)
            return
        self.machine.end_script()
        self.machine.faults.listener = watch.tally.struck  # what is healed without need is not told
        await mishaps.heal(self.machine)
        self.say("nothing goes wrong any more")
        if not await self._within(READY_WITHIN_S, lambda: self.machine.app.book.link is Link.READY):
            why = self.machine.app.session.last_failure
            watch.breach("recovers", f"not READY {READY_WITHIN_S:g} s after the last fault ({why})")
            return
        self._trader.is_over = True
        if self._asker is not None:
            self._asker.is_over = True
        end_s = loop.time() + AGREE_WITHIN_S
        left: list[tuple[str, str]] = []
        while loop.time() < end_s:
            await asyncio.sleep(POLL_S * 5)
            left = [*differences(watch), *self._unfinished()]
            if not left:
                return
        for invariant, text in left:
            watch.breach(invariant, f"{AGREE_WITHIN_S:g} s after the last fault {text}")

    async def _check_end(self, code: int) -> None:
        """It was to end by itself."""
        if not self.machine.has_ended:
            self._watch.breach("ends", f"it still runs, and should have ended with {code}")
        elif (was := await self.machine.ended()) != code:
            self._watch.breach("ends", f"it ended with {was}, not with {code}")
        if self._watch.placed or self.machine.gateway.exchange.orders:
            self._watch.breach("ends", "an order has left")

    def _unfinished(self) -> list[tuple[str, str]]:
        """Orders that the strategy wanted gone, or filled, and that still work."""
        return [
            ("agrees", f"{order.ticket.order_ref} still works at the gateway")
            for order in self.machine.gateway.open_orders
            if f".{NAME}." in order.ticket.order_ref
        ]

    async def _within(self, seconds: float, condition: Callable[[], bool]) -> bool:
        end_s = self.machine.loop.time() + seconds
        while not condition():
            if self.machine.loop.time() >= end_s:
                return False
            await asyncio.sleep(POLL_S)
        return True

    def _count(self) -> None:
        """What the rehearsal had in it."""
        watch, gateway = self._watch, self.machine.gateway
        changes = Counter(e.after.name for e in self.machine.events if type(e) is ev.OrderChanged)
        orders = [o for o in gateway.exchange.orders.values() if o.ticket.order_ref.startswith("ibs.")]
        combos = [o for o in orders if isinstance(o.instrument, Combo)]
        counts = {
            "orders": len(watch.placed),
            "spreads": len(combos),
            "executions": len(gateway.executions),
            "changes": sum(watch.placed.values()) - len(watch.placed),
            "cancels": len(watch.cancels_wanted),
            "connections": watch.connections,
            "lives": self.machine.lives,
            "adjustments": sum(isinstance(e, ev.PositionAdjusted) for e in self.machine.events),
        }
        self._coverage.update(counts)
        for state in ("UNKNOWN", "ABSENT", "PROVISIONALLY_CANCELLED", "REJECTED"):
            self._coverage[f"state {state}"] += changes[state]
        # Limits of the user's own may refuse what they like.
        if (
            self._plan.name == RANDOM
            and self._company.limits is None
            and (len(watch.placed) < ORDERS_MIN or not combos)
        ):
            watch.breach("substance", f"{len(watch.placed)} orders left, {len(combos)} spreads among them")


def _listen(desk: Desk, reader: Reader) -> None:
    """Note at the desk what its strategy reads and watches."""
    events, watch, unwatch = desk.events, desk.watch, desk.unwatch

    async def noted() -> AsyncIterator[ev.Event]:
        async for event in events():
            reader.read(event)
            yield event

    def watched(instrument: AnyInstrument) -> None:
        watch(instrument)
        reader.watched[instrument] = None

    def unwatched(instrument: AnyInstrument) -> None:
        unwatch(instrument)
        reader.forget(instrument)

    desk.events, desk.watch, desk.unwatch = noted, watched, unwatched  # type: ignore[method-assign]
