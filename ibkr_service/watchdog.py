"""Who holds the event loop? A thread that looks from outside.

While a coroutine computes, nothing else in the loop can run, so nothing in the loop can notice. The watchdog asks the
loop for a sign of life; when none comes within the limit it takes the loop's stack and the name of the running task,
and reports both as soon as the loop lets go. It is the one thing in the service that needs real time, so rehearsals
do without it.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import traceback
from collections.abc import Callable
from types import TracebackType
from typing import Self


class Watchdog:
    """Watches the running loop from a thread, between `__enter__` and `__exit__`.

    Args:
        limit_s: a loop that shows no sign of life for this long is held.
        report: called in the loop with (task name, seconds so far, stack) once per hold.
    """

    def __init__(self, limit_s: float, report: Callable[[str, float, str], None]) -> None:
        self.limit_s = limit_s
        self._report = report
        self._stopping = threading.Event()
        self._alive = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._loop_thread = 0
        self._thread = threading.Thread(target=self._watch, name="watchdog", daemon=True)

    def __enter__(self) -> Self:
        """Watch the running loop."""
        self._loop = asyncio.get_running_loop()
        self._loop_thread = threading.get_ident()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop watching."""
        self._stopping.set()
        self._alive.set()
        self._thread.join()

    def _watch(self) -> None:
        assert self._loop is not None, "started by __enter__"
        while not self._stopping.is_set():
            self._alive.clear()
            try:
                self._loop.call_soon_threadsafe(self._alive.set)
            except RuntimeError:
                return  # the loop is closed
            if not self._alive.wait(self.limit_s) and not self._stopping.is_set():
                self._look(self._loop)
                self._alive.wait()
            self._stopping.wait(self.limit_s / 4)

    def _look(self, loop: asyncio.AbstractEventLoop) -> None:
        """Take the evidence while the loop is held."""
        task = asyncio.current_task(loop)  # a dictionary look-up: safe from another thread
        frame = sys._current_frames().get(self._loop_thread)  # noqa: SLF001 - the documented way to see another thread's stack
        stack = "".join(traceback.format_stack(frame, limit=6)) if frame is not None else ""
        name = task.get_name() if task is not None else "(no task)"
        loop.call_soon_threadsafe(self._report, name, self.limit_s, stack)
