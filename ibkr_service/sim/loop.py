"""An event loop whose time is virtual and whose network is memory: a night of trading in a moment, the same every time.

The idea is trio's `MockClock` with autojump: when no callback is ready, time jumps to the next timer instead of waiting
for it. Nothing sleeps, so a year costs what its callbacks cost; nothing races, so the same program with the same seed
does the same things in the same order. The code under test does not change: it asks the running loop for the time, for
timers and for connections, and this loop answers.

Four promises:

1. `time()` moves only when nothing is ready, and then exactly to the next timer.
2. Timers of one instant run in the order in which they were set (asyncio leaves that order undefined).
3. When nothing can ever happen again, `Deadlock` says so at once, and who waits where.
4. When things happen for ever without time passing, `Livelock` says so.

What is not simulated raises `NotImplementedError`: signals, subprocesses, file descriptors, TLS, datagrams. Threads
cannot wake the loop once it waits: it does not wait.
"""

from __future__ import annotations

import asyncio
import contextvars
import heapq
import itertools
import math
import socket
from collections import deque
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any, TypeVar, TypeVarTuple

from ibkr_service.sim.network import LATENCY_S, Listener, Network
from ibkr_service.sim.transport import MemoryTransport

T = TypeVar("T")
Ts = TypeVarTuple("Ts")

CALLBACKS_MAX = 1_000_000  # in one instant; a storm of a whole day's ticks at once is smaller
CANCELLED_MAX = 100  # cancelled timers that may stay on the heap, if they are not most of it
LOOPBACK = "127.0.0.1"


class Deadlock(RuntimeError):
    """Nothing is ready, no timer is set and no byte is on its way, but the main coroutine has not finished."""


class Livelock(RuntimeError):
    """Callbacks follow callbacks, and time stands still."""


class _Soon(asyncio.Handle):
    """asyncio's handle, made without a word to the loop: hundreds of them are made in a virtual minute."""

    __slots__ = ()

    def __init__(  # the base class would ask the loop whether it debugs
        self,
        callback: Callable[..., object],
        args: tuple[object, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None


class _Timer(asyncio.TimerHandle):
    """asyncio's timer, likewise."""

    __slots__ = ()

    _scheduled: bool
    _cancelled: bool

    def __init__(
        self,
        when: float,
        callback: Callable[..., object],
        args: tuple[object, ...],
        loop: asyncio.AbstractEventLoop,
        context: contextvars.Context | None,
    ) -> None:
        self._context = contextvars.copy_context() if context is None else context
        self._loop = loop
        self._callback = callback
        self._args = args
        self._cancelled = False
        self._repr = None
        self._source_traceback = None
        self._when = when
        self._scheduled = False


class SimLoop(asyncio.BaseEventLoop):
    """An asyncio event loop with virtual time and an in-memory network.

    Args:
        start_s: the loop time at which it begins, in seconds, not negative.
        latency_s: how long a byte travels one way, in virtual seconds.
        callbacks_max: how many callbacks one instant may hold before `Livelock` is raised.

    Attributes:
        network: where connections are frozen, refused, split and reset; see `Network`.
    """

    # Of BaseEventLoop; typeshed does not tell.
    _ready: deque[asyncio.Handle]
    _stopping: bool
    _closed: bool
    _debug: bool
    _check_closed: Callable[[], None]
    _check_thread: Callable[[], None]
    _check_callback: Callable[[object, str], None]

    def __init__(
        self, *, start_s: float = 0.0, latency_s: float = LATENCY_S, callbacks_max: int = CALLBACKS_MAX
    ) -> None:
        super().__init__()
        self._timers: list[tuple[float, int, _Timer]] = []  # asyncio's heap mixes up those of one instant
        self._cancelled = 0
        if not 0 <= start_s < math.inf:
            self.close()
            raise ValueError(f"start_s must be a finite number of seconds from 0 up, not {start_s}")
        self._now_s = float(start_s)
        self._callbacks_max = callbacks_max
        self._callbacks = 0
        self._timer_numbers = itertools.count()
        self.network = Network(self, latency_s=latency_s)

    # --- time --------------------------------------------------------------------------------------------------------

    def time(self) -> float:
        """Virtual seconds."""
        return self._now_s

    def hold(self, seconds: float) -> None:
        """Let time pass in which nothing can run, as a callback does that computes for so long."""
        if not 0 <= seconds < math.inf:
            raise ValueError(f"a loop is held for a number of seconds, not {seconds}")
        self._now_s += seconds

    def call_at(
        self, when: float, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.TimerHandle:
        """Set a timer; timers of the same instant run in the order in which they were set.

        Raises `ValueError` for a time that is not a number. A timer at infinity is never due.
        """
        if self._closed:
            self._check_closed()
        if self._debug:
            self._check_thread()
            self._check_callback(callback, "call_at")
        if math.isnan(when):
            raise ValueError("a timer needs a time, not NaN")
        timer = _Timer(when, callback, args, self, context)
        timer._scheduled = True  # noqa: SLF001 - asyncio's mark for "on the heap"
        heapq.heappush(self._timers, (when, next(self._timer_numbers), timer))
        return timer

    def call_soon(
        self, callback: Callable[[*Ts], object], *args: *Ts, context: contextvars.Context | None = None
    ) -> asyncio.Handle:
        """Call back in the next turn, after all that was asked for before."""
        if self._closed or self._debug:
            return super().call_soon(callback, *args, context=context)
        handle = _Soon(callback, args, self, context)
        self._ready.append(handle)
        return handle

    def _timer_handle_cancelled(self, _handle: asyncio.TimerHandle) -> None:
        """Count what was cancelled; when most of the heap is, clear it out. TimerHandle.cancel() calls this."""
        self._cancelled += 1
        if self._cancelled > CANCELLED_MAX and self._cancelled * 2 > len(self._timers):
            self._timers = [entry for entry in self._timers if not entry[2].cancelled()]
            heapq.heapify(self._timers)
            self._cancelled = 0

    def _run_once(self) -> None:
        """One turn: the timers that are due, then every callback that was ready when the turn began.

        BaseEventLoop's own turn asks a selector how long to wait, compares handles in Python and measures slow
        callbacks; here there is nothing to wait for, so that a night of rehearsal spends its time in the service
        instead.
        """
        ready, timers = self._ready, self._timers
        if not ready:
            self._jump()
        self._callbacks += len(ready) + 1
        if self._callbacks > self._callbacks_max:
            self._callbacks = 0  # so that the tasks can still be cancelled
            raise Livelock(self._livelock_text())
        while timers and timers[0][0] <= self._now_s:
            timer = heapq.heappop(timers)[2]
            timer._scheduled = False  # noqa: SLF001 - no longer on the heap
            ready.append(timer)
        for _ in range(len(ready)):
            handle = ready.popleft()
            if not handle._cancelled:  # noqa: SLF001 - its method is a call more
                handle._run()  # noqa: SLF001 - what a loop does with its handles

    def _jump(self) -> None:
        """Make it the time of the next timer that was not cancelled."""
        timers = self._timers
        while timers and timers[0][2]._cancelled:  # noqa: SLF001 - its method is a call more
            heapq.heappop(timers)[2]._scheduled = False  # noqa: SLF001 - no longer on the heap
            self._cancelled = max(0, self._cancelled - 1)
        if self._stopping:
            return
        if not timers or math.isinf(timers[0][0]):
            raise Deadlock(self._deadlock_text())
        if timers[0][0] > self._now_s:
            self._callbacks = 0
            self._now_s = timers[0][0]

    def _deadlock_text(self) -> str:
        tasks = _pending(self)
        head = (
            f"nothing can ever happen at {self._now_s} s: no callback is ready, no timer is set, no byte is under way"
        )
        return "\n".join([f"{head}; {len(tasks)} tasks wait:", *tasks])

    def _livelock_text(self) -> str:
        ready = [f"  ready: {handle!r}" for handle in itertools.islice(self._ready, 5)]
        head = f"more than {self._callbacks_max} callbacks at {self._now_s} s, and time does not advance"
        return "\n".join([f"{head}; tasks:", *_pending(self), *ready])

    # --- network -----------------------------------------------------------------------------------------------------

    async def create_server(  # type: ignore[override]  # what concerns TLS and sockets is refused, not listed
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        *,
        start_serving: bool = True,
        **options: object,
    ) -> Listener:
        """Serve `port` (0 or None: a free one) in memory. Raises `OSError` when it is taken."""
        _refuse_unsimulated(options)
        return self.network.listen(protocol_factory, _ip(host), port or 0, start=start_serving)

    async def create_connection(  # type: ignore[override]  # what concerns TLS and sockets is refused, not listed
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        **options: object,
    ) -> tuple[MemoryTransport, asyncio.BaseProtocol]:
        """Connect to `port` in memory. Raises `ConnectionRefusedError` when nobody serves it."""
        _refuse_unsimulated(options)
        if port is None:
            raise ValueError("host and port was not specified and no sock specified")
        return await self.network.connect(protocol_factory, _ip(host), int(port))

    async def getaddrinfo(  # type: ignore[override]  # the answer is the same whatever is asked
        self, host: str | None, port: int | str | None, **_options: int
    ) -> list[tuple[socket.AddressFamily, socket.SocketKind, int, str, tuple[str, int]]]:
        """Every name is this machine; nothing is looked up."""
        return [(socket.AF_INET, socket.SOCK_STREAM, socket.IPPROTO_TCP, "", (_ip(host), int(port or 0)))]

    # --- threads -----------------------------------------------------------------------------------------------------

    def run_in_executor(self, executor: object, func: Callable[[*Ts], T], *args: *Ts) -> asyncio.Future[T]:
        """Run `func` here and now, and return a future that is done: there are no threads in virtual time."""
        self._check_closed()
        del executor
        future: asyncio.Future[T] = self.create_future()
        try:
            future.set_result(func(*args))
        except Exception as exc:  # noqa: BLE001  # whatever it is, it is the future's
            future.set_exception(exc)
        return future

    def _write_to_self(self) -> None:
        """Wake the selector after `call_soon_threadsafe`: it never sleeps."""

    def _process_events(self, event_list: object) -> None:
        """Handle what a selector found: nothing, since bytes travel as timers."""

    def close(self) -> None:
        """Forget everything that was still to happen."""
        super().close()
        self._timers.clear()


def run(main: Coroutine[Any, Any, T], *, start_s: float = 0.0) -> T:
    """Run `main` on a new `SimLoop` from `start_s` virtual seconds on, and return its result.

    While it runs, the loop is also the policy's current one: ib_insync asks for that instead of the running one. After
    that the tasks that are left are cancelled, the loop is closed and the previous current loop is put back.
    Raises what `main` raises, `Deadlock` and `Livelock`.
    """
    # get_event_loop() would create a loop where there is none.
    previous: asyncio.AbstractEventLoop | None = getattr(
        getattr(asyncio.get_event_loop_policy(), "_local", None), "_loop", None
    )
    with asyncio.Runner(loop_factory=lambda: SimLoop(start_s=start_s)) as runner:
        asyncio.set_event_loop(runner.get_loop())
        try:
            return runner.run(main)
        finally:
            asyncio.set_event_loop(previous)


def _ip(host: str | None) -> str:
    return host if host and host[0].isdigit() else LOOPBACK


def _refuse_unsimulated(options: dict[str, object]) -> None:
    for name in ("ssl", "sock"):
        if options.get(name):
            raise NotImplementedError(f"SimLoop does not simulate {name}=")


def _pending(loop: asyncio.AbstractEventLoop) -> list[str]:
    """Describe the tasks that wait: name and the chain of coroutines down to where each of them stands."""
    tasks = sorted(asyncio.all_tasks(loop), key=lambda task: (len(task.get_name()), task.get_name()))
    return [f"  {task.get_name()}: {_whereabouts(task.get_coro())}" for task in tasks]


def _whereabouts(awaited: object) -> str:
    places = []
    while awaited is not None:
        frame = next((f for name in ("cr_frame", "gi_frame", "ag_frame") if (f := getattr(awaited, name, None))), None)
        if frame is not None:
            code = frame.f_code
            places.append(f"{code.co_qualname} ({Path(code.co_filename).name}:{frame.f_lineno})")
        awaited = next(
            (a for name in ("cr_await", "gi_yieldfrom", "ag_await") if (a := getattr(awaited, name, None))), None
        )
    return " > ".join(places) or "nowhere yet"
