"""The only reader of the wall clock.

Everything else is handed a `Clock`, so that a rehearsal can own the time. Monotonic time needs no seam of its own: it
is the running event loop's `time()`.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Protocol


class Clock(Protocol):
    """Tells the wall-clock time."""

    def now(self) -> datetime:
        """The current time, aware, in UTC."""
        ...


class SystemClock:
    """The machine's own clock."""

    now = staticmethod(partial(datetime.now, UTC))  # noqa: TID251 - this is the seam
    """The current time in UTC. A partial, since it is asked for every tick and every order."""


class LoopClock:
    """A wall clock that follows an event loop's time: an epoch plus `loop.time()`. For virtual time."""

    def __init__(self, loop: asyncio.AbstractEventLoop, epoch: datetime) -> None:
        self._loop = loop
        self._epoch = epoch

    def now(self) -> datetime:
        """Epoch plus loop time, to the microsecond."""
        return self._epoch + timedelta(seconds=round(self._loop.time(), 6))
