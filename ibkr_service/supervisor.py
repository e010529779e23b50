"""The strategies' lives: start when the link is READY, contain what they do wrong, restart as their policy says.

A strategy is a coroutine function `async def strategy(desk)`, or `async def strategy(desk, params: Some)` with `Some`
a msgspec Struct or dataclass that the settings' table of parameters is checked against before anything starts.

Nothing a strategy does may take down the daemon or its neighbours. An exception and `sys.exit()` end it; one that
ignores its cancellation has its coroutine closed under it; one that holds the loop is named by the watchdog and
stopped as soon as it lets go; one that reads too slowly is overrun. Its desk is closed in every case, and its orders
stay what they are.
"""

from __future__ import annotations

import asyncio
import importlib
import inspect
import itertools
import traceback
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from importlib.metadata import entry_points
from typing import Any, Literal, get_type_hints

import msgspec
import structlog

from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.errors import DeskClosed, StrategyUnusable
from ibkr_service.desk import Desk
from ibkr_service.hub import Hub

log = structlog.get_logger("ibkr_service.strategies")

ENTRY_POINTS = "ibkr_service.strategies"
TASK_PREFIX = "strategy:"
CANCEL_GRACE_S = 2.0  # what a cancelled strategy may use to tidy up
RESTART_FACTOR = 2.0
RESTART_DELAY_MAX_S = 300.0
WELL_S = 3600.0  # who ran so long before it failed begins with all its restarts again

How = Literal["returned", "failed", "exited", "cancelled", "overrun", "held_loop", "stuck"]
Strategy = Callable[..., Coroutine[Any, Any, None]]


@dataclass(frozen=True)
class StrategySpec:
    """A strategy as the settings describe it. Times in seconds; `risk` are limits tighter than the general ones."""

    name: str
    function: Strategy
    params: dict[str, Any] = field(default_factory=dict)
    risk: dict[str, Any] = field(default_factory=dict)
    restart: Literal["never", "on_failure"] = "never"
    restart_delay_s: float = 1.0
    restart_max: int = 5


def load(run: str) -> Strategy:
    """Find the coroutine function that `module:function` or an entry point's name stands for.

    Raises:
        StrategyUnusable: there is none, or it is not a coroutine function.
    """
    if ":" in run:
        module_name, _, attribute = run.partition(":")
        try:
            found = getattr(importlib.import_module(module_name), attribute)
        except (ImportError, AttributeError) as exc:
            raise StrategyUnusable(f"strategy {run!r} cannot be loaded: {exc}") from exc
    else:
        points = entry_points(group=ENTRY_POINTS, name=run)
        if not points:
            known = ", ".join(sorted(p.name for p in entry_points(group=ENTRY_POINTS))) or "none"
            raise StrategyUnusable(f"strategy {run!r} is not known: write module:function, or one of: {known}")
        found = next(iter(points)).load()
    if not inspect.iscoroutinefunction(found):
        raise StrategyUnusable(f"strategy {run!r} must be an async def function")
    strategy: Strategy = found
    return strategy


def arguments(spec: StrategySpec) -> tuple[Any, ...]:
    """What the strategy is called with beside its desk: its typed parameters, if it declares any.

    Raises:
        StrategyUnusable: a parameter is missing, unknown, or of the wrong type; names it.
    """
    wanted = list(inspect.signature(spec.function).parameters.values())
    if len(wanted) < 2:  # noqa: PLR2004 - only a desk
        return ()
    kind = get_type_hints(spec.function).get(wanted[1].name, dict)
    unknown = set(spec.params) - set(getattr(kind, "__struct_fields__", spec.params))
    if unknown:
        fields = ", ".join(kind.__struct_fields__)
        raise StrategyUnusable(f"strategies.{spec.name}.params has no key {min(unknown)!r}: allowed are {fields}")
    try:
        return (msgspec.convert(spec.params, kind, strict=False),)
    except (msgspec.ValidationError, ValueError) as exc:
        raise StrategyUnusable(f"strategies.{spec.name}.params: {exc}") from exc


class _Run:
    """One attempt at running a strategy: its coroutine, its task, and why it is being stopped, if it is."""

    def __init__(self, coroutine: Coroutine[Any, Any, None]) -> None:
        self.coroutine = coroutine
        self.task: asyncio.Task[tuple[How, str]] | None = None
        self.reason: tuple[How, str] | None = None

    def stop(self, how: How, detail: str) -> None:
        """Ask it to end, for this reason; the first reason stays."""
        if self.reason is None:
            self.reason = (how, detail)
        if self.task is not None:
            self.task.cancel()


class Supervisor:
    """Runs the strategies.

    Args:
        make_desk: makes a desk for a strategy, given what to call when its mailbox overflows.
        ready: set while the link is READY.
    """

    def __init__(
        self,
        specs: list[StrategySpec],
        *,
        make_desk: Callable[[StrategySpec, Callable[[], None]], Desk],
        hub: Hub,
        clock: Clock,
        ready: asyncio.Event,
    ) -> None:
        self.specs = specs
        self.abandoned: list[str] = []  # strategies whose coroutine could not be ended
        self._arguments = {spec.name: arguments(spec) for spec in specs}
        self._make_desk = make_desk
        self._hub = hub
        self._clock = clock
        self._ready = ready
        self._runs: dict[str, _Run] = {}

    async def run(self) -> None:
        """Keep every strategy as its policy says; ends when all have ended for good."""
        async with asyncio.TaskGroup() as keepers:
            tasks = [keepers.create_task(self._keep(spec), name=f"keeper:{spec.name}") for spec in self.specs]
            try:
                for task in tasks:
                    await asyncio.wait([task])
            except asyncio.CancelledError:
                for task in tasks:  # in the order of the settings: the group's own is another one in each process
                    task.cancel()
                raise

    def held(self, task_name: str, held_s: float, stack: str) -> None:
        """The watchdog's finding: this task held the loop. A strategy is stopped for it."""
        log.error("event loop held", task=task_name, held_s=round(held_s, 1), stack=stack)
        run = self._runs.get(task_name.removeprefix(TASK_PREFIX)) if task_name.startswith(TASK_PREFIX) else None
        if run is not None:
            run.stop("held_loop", f"held the event loop for {held_s:.1f} s")

    async def _keep(self, spec: StrategySpec) -> None:
        loop = asyncio.get_running_loop()
        failures, delay_s = 0, spec.restart_delay_s
        for attempt in itertools.count(1):
            await self._ready.wait()
            began_s = loop.time()
            how, detail = await self._run_once(spec, attempt)
            if how == "returned" or spec.restart == "never":
                return
            if loop.time() - began_s >= WELL_S:
                failures, delay_s = 0, spec.restart_delay_s
            failures += 1
            if failures > spec.restart_max:
                log.error("strategy given up", strategy=spec.name, after_restarts=spec.restart_max)
                return
            log.warning("strategy restarts", strategy=spec.name, after=how, detail=detail, in_s=delay_s)
            await asyncio.sleep(delay_s)
            delay_s = min(RESTART_DELAY_MAX_S, delay_s * RESTART_FACTOR)

    async def _run_once(self, spec: StrategySpec, attempt: int) -> tuple[How, str]:
        """Run a strategy to its end, whatever that is; its desk is closed afterwards."""
        run: _Run

        def overrun() -> None:
            run.stop("overrun", "left too many facts unread")

        desk = self._make_desk(spec, overrun)
        run = _Run(spec.function(desk, *self._arguments[spec.name]))
        self._runs[spec.name] = run
        self._hub.record(ev.StrategyStarted(at=self._clock.now(), name=spec.name, attempt=attempt))
        desk.welcome()
        # Not of a TaskGroup: a strategy that cannot be ended must not keep the daemon from ending. This keeper is its
        # owner.
        run.task = asyncio.get_running_loop().create_task(_contain(run.coroutine), name=f"{TASK_PREFIX}{spec.name}")
        how: How = "cancelled"
        detail = "the service stops"
        try:
            await asyncio.wait([run.task])
            how, detail = await self._ending(run, desk)
        except asyncio.CancelledError:
            run.stop("cancelled", detail)
            how, detail = await self._ending(run, desk)
            raise
        finally:
            self._runs.pop(spec.name, None)
            desk.close(f"strategy {how}")
            if how == "stuck":
                self.abandoned.append(spec.name)
            self._hub.record(ev.StrategyStopped(at=self._clock.now(), name=spec.name, how=how, detail=detail))
        return how, detail

    async def _ending(self, run: _Run, desk: Desk) -> tuple[How, str]:
        """How it ended; one that is still running has been asked to stop, and is made to."""
        assert run.task is not None, "a run has been started"
        ignored = False
        if not run.task.done():
            await asyncio.wait([run.task], timeout=CANCEL_GRACE_S)
        if not run.task.done():
            ignored = True
            desk.close("it ignored its cancellation")
            try:
                run.coroutine.close()  # GeneratorExit where it waits; `except CancelledError` does not see that
            except (RuntimeError, ValueError) as exc:
                log.error("strategy cannot be closed", error=str(exc))
            run.task.cancel()
            await asyncio.wait([run.task], timeout=CANCEL_GRACE_S)
        if not run.task.done():
            return "stuck", "it ignored its cancellation and being closed"
        if run.reason is not None:
            how, detail = run.reason
            return how, detail + ("; it ignored its cancellation" if ignored else "")
        if run.task.cancelled():
            return "failed", "CancelledError that nobody sent"
        return run.task.result()


async def _contain(coroutine: Coroutine[Any, Any, None]) -> tuple[How, str]:
    """Run a strategy's coroutine; turn whatever comes out of it, except cancellation, into a value."""
    try:
        await coroutine
    except asyncio.CancelledError:
        raise
    except SystemExit as exc:
        return "exited", f"sys.exit({exc.code!r})"
    except DeskClosed as exc:
        return "failed", str(exc)
    except BaseException as exc:  # noqa: BLE001 - contained: KeyboardInterrupt of a strategy's own making, too
        log.error("strategy failed", error=repr(exc), traceback=traceback.format_exc())
        return "failed", repr(exc)
    return "returned", ""
