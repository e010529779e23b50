"""The gateway's clock: the running loop's time, from an injected epoch, at an injected speed.

Nobody in the simulator reads the machine's clock. The loop's `time()` is the only source, so that the same gateway runs
in real time over TCP, a hundred times faster for a recording, or in virtual time in a rehearsal. Every timer is made
here, so that closing the clock cancels all that is still to come.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta


class Timer:
    """Something still to come; `cancel` makes it not come."""

    __slots__ = ("_callback", "_clock", "_handle")

    def __init__(self, clock: "GatewayClock", callback: Callable[[], None]) -> None:
        self._clock = clock
        self._callback = callback
        self._handle: asyncio.TimerHandle | None = None

    def _start(self, loop: asyncio.AbstractEventLoop, when: float) -> None:
        self._handle = loop.call_at(when, self._fire)

    def _fire(self) -> None:
        self._clock.forget(self)
        self._callback()

    def cancel(self) -> None:
        """Make it not come; harmless when it has come already."""
        self._clock.forget(self)
        if self._handle is not None:
            self._handle.cancel()


class GatewayClock:
    """What time it is at the gateway, and its timers.

    Args:
        loop: its `time()` is the only source of time.
        started_at: the date and time, aware, at gateway second 0.
        speed: gateway seconds per second of the loop.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, started_at: datetime, speed: float = 1.0) -> None:
        if started_at.tzinfo is None:
            raise ValueError("started_at needs a time zone")
        if not 0 < speed < float("inf"):
            raise ValueError(f"speed must be positive, not {speed}")
        self._loop = loop
        self._origin = loop.time()
        self._timers: dict[Timer, None] = {}
        self.started_at = started_at.astimezone(UTC)
        self.speed = speed
        self.closed = False

    def __repr__(self) -> str:
        return f"<GatewayClock {self.now():%Y-%m-%d %H:%M:%S} x{self.speed:g} [{len(self._timers)} timers]>"

    def seconds(self) -> float:
        """Gateway seconds since the gateway started."""
        return (self._loop.time() - self._origin) * self.speed

    def loop_seconds(self) -> float:
        """Seconds of the loop, not scaled: for limits on what a client does to us, such as its message rate."""
        return self._loop.time()

    def now(self) -> datetime:
        """The gateway's date and time, UTC."""
        return self.at(self.seconds())

    def at(self, seconds: float) -> datetime:
        """The date and time, UTC, at a number of gateway seconds."""
        return self.started_at + timedelta(seconds=seconds)

    def call_later(self, delay_s: float, callback: Callable[[], None]) -> Timer:
        """Call back after `delay_s` gateway seconds."""
        return self._start(self._loop.time() + delay_s / self.speed, callback)

    def call_at(self, at_s: float, callback: Callable[[], None]) -> Timer:
        """Call back when `seconds()` reaches `at_s`."""
        return self._start(self._origin + at_s / self.speed, callback)

    def _start(self, when: float, callback: Callable[[], None]) -> Timer:
        timer = Timer(self, callback)
        if not self.closed:
            self._timers[timer] = None
            timer._start(self._loop, when)  # noqa: SLF001  a timer starts with its clock
        return timer

    def forget(self, timer: Timer) -> None:
        """Strike a timer that has come or was cancelled off the list."""
        self._timers.pop(timer, None)

    def close(self) -> None:
        """Cancel everything still to come; later timers never start."""
        self.closed = True
        for timer in list(self._timers):
            timer.cancel()
