"""Notices silence on a connection that seems to be there, and carries out what the ladder decides (`core/ladder.py`).

Looked at every few seconds: the age of each stream's data (`dataage.py`), the write buffer, the clock. Each step is put
on record before it is taken. What the heartbeat finds (`session.py`: dead, wedged) comes here only to be counted.

Our own faults are taken off first: for as long as our loop stood still nothing of the broker's can be late, and after
the machine slept, which shows as a wall clock that jumped while the loop's did not, a probe comes before anything else.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Protocol

import structlog

from ibkr_service.broker.connection import Connection, GivenUp
from ibkr_service.broker.dataage import DataAge
from ibkr_service.clock import Clock
from ibkr_service.controller import Controller
from ibkr_service.core import events as ev
from ibkr_service.core.errors import ControllerFailed, GatewayError, GatewayMute
from ibkr_service.core.ladder import COMMANDS, Command, Ladder, Rung, Silent, Step
from ibkr_service.core.restartwindow import RestartWindow
from ibkr_service.looplag import LATE_S, LoopLag

log = structlog.get_logger("ibkr_service.broker")

LOOK_S = 5.0
LOOKS = 6  # at least so many within the limit of the settings
SETTLE_S = 10.0  # a gateway that fetches its data anew needs some seconds
CLOCK_STEP_S = 5.0  # the wall clock against the loop's: an NTP step, or the machine slept
BEFORE_WINDOW = timedelta(minutes=1)


class Limits(Protocol):
    """What it needs to know of the settings (`SessionConfig`)."""

    @property
    def data_age_limit_s(self) -> float:
        """How long a lively stream may be silent."""
        ...

    @property
    def write_buffer_max_bytes(self) -> int:
        """More than this unsent is a dead line."""
        ...

    @property
    def probe_timeout_s(self) -> float:
        """A write buffer that does not shrink for so long is a dead line."""
        ...


class Recovery:
    """Watches over the streams of all connections, one after the other.

    Args:
        limits: of the settings. hours: when an instrument trades, as far as the broker has told. learn_hours: asks it.
        lag: for how long our own loop stood still. windows: declared restarts of the gateway. controller: None: there
        is none. commanded: when each command was last given, by any process.
    """

    def __init__(
        self,
        limits: Limits,
        age: DataAge,
        *,
        clock: Clock,
        put: Callable[[ev.Event], None],
        lag: LoopLag,
        windows: tuple[RestartWindow, ...] = (),
        controller: Controller | None = None,
        commanded: Mapping[str, datetime] | None = None,
    ) -> None:
        self._limits = limits
        self._age = age
        self._clock = clock
        self._put = put
        self._lag = lag
        self._windows = windows
        self._controller = controller
        self._commanded = commanded or {}
        self._ladder: Ladder | None = None
        self._again: tuple[float, tuple[Silent, ...]] | None = None  # when to ask for what anew after a command

    # --- one connection ----------------------------------------------------------------------------------------------

    async def keep(self, connection: Connection) -> None:
        """Watch a connection until it is over.

        Raises:
            GivenUp: it is of no use any more.
        """
        loop, ladder = asyncio.get_running_loop(), self._climb()
        look_s = min(LOOK_S, self._limits.data_age_limit_s / LOOKS)
        buffer = _WriteBuffer(self._limits.write_buffer_max_bytes, self._limits.probe_timeout_s, loop.time())
        calm_since_s = loop.time()
        self._age.wait(calm_since_s)  # without a connection nothing could come, and no stream's pace is slower for it
        async with asyncio.TaskGroup() as asking:
            while True:
                looked_s, looked_at, lag_s = loop.time(), self._clock.now(), self._lag.total_s
                await asyncio.sleep(look_s)
                now_s = loop.time()
                ours_s = max(self._lag.total_s - lag_s, now_s - looked_s - look_s)
                stepped_s = (self._clock.now() - looked_at).total_seconds() - (now_s - looked_s)
                if ours_s > LATE_S:
                    self._age.excuse(ours_s)
                    buffer.excuse(ours_s)
                    connection.probe_soon()
                if abs(stepped_s) > CLOCK_STEP_S:
                    self._woke(connection, stepped_s)
                buffer.check(connection.ib.unsent_bytes, now_s)
                if not connection.ready:
                    calm_since_s = now_s
                    self._age.wait(now_s)
                    if connection.cut:
                        for_s, unsaid_s = now_s - connection.cut_s, now_s - connection.cut_said_s
                        await self._take(ladder.cut(now_s, for_s, unsaid_s, at_rest=self._at_rest), connection)
                    continue
                scene = self._age.look(now_s, trouble_s=now_s - calm_since_s, is_climbing=ladder.rung is not None)
                if (instrument := self._age.to_ask_hours(now_s)) is not None:
                    asking.create_task(self._age.learn_hours(instrument), name=f"session:hours of {instrument}")
                self._ask_again(now_s)
                await self._take(ladder.next(now_s, replace(scene, at_rest=self._at_rest)), connection)

    def _woke(self, connection: Connection, stepped_s: float) -> None:
        """The wall clock jumped: the machine slept, or was set. Either way nothing is taken for granted."""
        log.warning("the wall clock jumped, or the machine slept; asking for a sign of life", by_s=round(stepped_s, 1))
        connection.probe_soon()
        connection.look_soon()

    async def _take(self, step: Step | None, connection: Connection) -> None:
        """Carry out a step."""
        if step is None:
            return
        if step.rung is not Rung.NEW_SESSION:  # whose record is that of every connection that we give up
            self._record(step.rung, step.why, step.command or ", ".join(one.name for one in step.streams))
        match step.rung:
            case Rung.PROBE:
                connection.probe_soon()
            case Rung.RESUBSCRIBE_ONE | Rung.RESUBSCRIBE_FARM:
                for silent in step.doubted:
                    self._age.doubt(silent, f"silent for {silent.age_s:.0f} s")
                for silent in step.streams:
                    self._age.ask_anew(silent, f"silent for {silent.age_s:.0f} s")
            case Rung.NEW_SESSION:
                self._age.asked(step.streams)
                raise GivenUp(step.why, is_stuck=False)
            case Rung.CONTROLLER if step.command is not None:
                await self._command(step.command)
                self._again = asyncio.get_running_loop().time() + SETTLE_S, step.streams
            case _:
                pass

    def _ask_again(self, now_s: float) -> None:
        """Some time after the gateway fetched its data anew: it may not remember what we had subscribed to."""
        if self._again is not None and now_s >= self._again[0]:
            streams, self._again = self._again[1], None
            for silent in streams:
                self._age.ask_anew(silent, "the gateway's data was reconnected")

    # --- between connections -----------------------------------------------------------------------------------------

    async def given_up(self, error: GatewayError) -> None:
        """A connection failed or ended: ask the controller, if it was the gateway's fault again and again."""
        if not (isinstance(error, GatewayMute) or (isinstance(error, GivenUp) and error.is_stuck)):
            return
        step = self._climb().lost(asyncio.get_running_loop().time(), at_rest=self._at_rest)
        if step is not None and step.command is not None:
            self._record(step.rung, step.why, step.command)
            await self._command(step.command)

    async def _command(self, command: Command) -> None:
        assert self._controller is not None, "the ladder knows of no command without one"
        try:
            ok, text = True, await self._controller.say(command)
        except ControllerFailed as exc:
            ok, text = False, str(exc)
        self._put(ev.ControllerAnswered(at=self._clock.now(), command=command, ok=ok, text=text))

    # --- what it goes by ---------------------------------------------------------------------------------------------

    @property
    def step(self) -> str:
        """The last step of a climb that is under way; empty if there is none."""
        rung = self._ladder.rung if self._ladder is not None else None
        return rung.value if rung is not None else ""

    def record_new_session(self, why: str) -> None:
        """Put on record that a connection was given up."""
        self._record(Rung.NEW_SESSION, why, "")

    def _record(self, rung: Rung, why: str, what: str) -> None:
        self._put(ev.RecoveryStep(at=self._clock.now(), rung=rung.value, why=why, what=what))

    @property
    def _at_rest(self) -> bool:
        now = self._clock.now()
        return any(window.covers(now, BEFORE_WINDOW) for window in self._windows)

    def _climb(self) -> Ladder:
        """The ladder, with what an earlier process did; made when there is a loop to count its time by."""
        if self._ladder is None:
            now, now_s = self._clock.now(), asyncio.get_running_loop().time()
            asked_s = {
                command: now_s - (now - self._commanded[command]).total_seconds()
                for command in COMMANDS
                if command in self._commanded
            }
            self._ladder = Ladder(self._controller.commands if self._controller is not None else frozenset(), asked_s)
        return self._ladder


class _WriteBuffer:
    """Judges what was written and could not be sent: a line that takes nothing is dead, whatever it still brings."""

    def __init__(self, most_bytes: int, limit_s: float, now_s: float) -> None:
        self._most_bytes = most_bytes
        self._limit_s = limit_s
        self._unsent = 0
        self._shrank_s = now_s

    def excuse(self, seconds: float) -> None:
        """For so long our own loop could not send."""
        self._shrank_s += seconds

    def check(self, unsent: int, now_s: float) -> None:
        """Look at it.

        Raises:
            GivenUp: too much waits, or for too long.
        """
        if unsent == 0 or self._unsent == 0 or unsent < self._unsent:
            self._shrank_s = now_s  # what was written since the last look has not waited yet
        self._unsent = unsent
        if unsent > self._most_bytes:
            raise GivenUp(f"dead: {unsent} bytes wait to be sent, more than {self._most_bytes}")
        if now_s - self._shrank_s >= self._limit_s:
            raise GivenUp(f"dead: {unsent} bytes wait to be sent, and none has gone for {self._limit_s:g} s")
