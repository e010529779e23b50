"""What a strategy has not read yet, and the inbox in front of the hub.

A `Mailbox` keeps facts in order, all of them, up to a bound; and of ticks only the newest per instrument. So a tick
storm can neither fill it nor delay a fill. A `Gap` discards the instrument's unread tick: a tick neither overtakes
nor trails its gap. When facts pile up past the bound the strategy is *overrun*: facts are never dropped, so the
reader has to go.

A `Stream` keeps every item of one subscription, for those who must not miss a tick. It is bounded, too; what does not
fit any more is told as a `Gap` with the count of what was lost.

The `Inbox` is metered: synchronous handlers cannot wait, so above the high-water mark it asks its source to stop
reading the socket.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Callable
from typing import Generic, Self, TypeVar

from ibkr_service.core import events as ev
from ibkr_service.core.errors import DeskClosed
from ibkr_service.core.instrument import AnyInstrument

Deliverable = ev.Event
T = TypeVar("T")


class _Bell:
    """Lets one reader wait until somebody rings. (An `asyncio.Event` without the waiter list)."""

    def __init__(self) -> None:
        self._waiter: asyncio.Future[None] | None = None

    def ring(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def wait(self) -> None:
        assert self._waiter is None, "one reader at a time"
        self._waiter = asyncio.get_running_loop().create_future()
        try:
            await self._waiter
        finally:
            self._waiter = None


class Mailbox:
    """Facts in order, newest tick per instrument; one reader.

    Args:
        facts_max: how many unread facts are tolerated. overrun: called once when one more arrives.
    """

    def __init__(self, facts_max: int, overrun: Callable[[], None]) -> None:
        self.facts_max = facts_max
        self.ticks_replaced = 0
        self._overrun = overrun
        self._facts: deque[Deliverable] = deque()
        self._ticks: dict[AnyInstrument, ev.Tick] = {}
        self._bell = _Bell()
        self._closed_because: str | None = None

    def __len__(self) -> int:
        return len(self._facts) + len(self._ticks)

    def put(self, event: Deliverable) -> None:
        """Deliver an event; nothing if the mailbox is closed."""
        if self._closed_because is not None:
            return
        if isinstance(event, ev.Tick):
            if self._ticks.pop(event.instrument, None) is not None:
                self.ticks_replaced += 1
            self._ticks[event.instrument] = event
        else:
            if isinstance(event, ev.Gap):
                self._ticks.pop(event.instrument, None)
            if len(self._facts) >= self.facts_max:
                self.close("overrun: it left more than service.mailbox_max facts unread")
                self._overrun()
                return
            self._facts.append(event)
        self._bell.ring()

    def forget(self, instrument: AnyInstrument) -> None:
        """Discard the unread tick of an instrument that is no longer watched."""
        self._ticks.pop(instrument, None)

    def close(self, why: str) -> None:
        """Discard everything; whoever reads now or later gets `DeskClosed`."""
        self._closed_because = why
        self._facts.clear()
        self._ticks.clear()
        self._bell.ring()

    async def get(self) -> Deliverable:
        """The oldest fact, else the tick that has waited longest.

        Raises:
            DeskClosed: the mailbox was closed.
        """
        while True:
            if self._closed_because is not None:
                raise DeskClosed(self._closed_because)
            if self._facts:
                return self._facts.popleft()
            if self._ticks:
                return self._ticks.pop(next(iter(self._ticks)))
            await self._bell.wait()


class Stream(Generic[T]):
    """Everything of one subscription, in order and bounded; one reader: `async with … as stream: async for item in it`.

    Args:
        unread_max: how many unread items are kept. gap: makes the item that says "so many were lost here"; it is what
        the reader gets next when one more arrives, before anything newer. ended: called once when nobody reads any
        more.
    """

    def __init__(self, unread_max: int, gap: Callable[[int], T], ended: Callable[[Stream[T]], None]) -> None:
        self.unread_max = unread_max
        self.lost = 0
        self._gap = gap
        self._ended = ended
        self._items: deque[T] = deque()
        self._bell = _Bell()
        self._closed_because: str | None = None

    def __len__(self) -> int:
        return len(self._items)

    @property
    def closed(self) -> bool:
        """Whether it takes nothing any more."""
        return self._closed_because is not None

    def put(self, item: T) -> None:
        """Deliver an item; nothing if the stream is closed."""
        if self._closed_because is not None:
            return
        if len(self._items) >= self.unread_max:
            count = len(self._items)
            self.lost += count
            self._items.clear()
            self._items.append(self._gap(count))
        self._items.append(item)
        self._bell.ring()

    def close(self, why: str) -> None:
        """Discard what is unread; whoever reads now or later gets `DeskClosed`. Closing twice is closing once."""
        if self._closed_because is not None:
            return
        self._closed_because = why
        self._items.clear()
        self._bell.ring()
        self._ended(self)

    async def get(self) -> T:
        """The oldest unread item; waits for one.

        Raises:
            DeskClosed: the stream was closed.
        """
        while not self._items:
            if self._closed_because is not None:
                raise DeskClosed(self._closed_because)
            await self._bell.wait()
        return self._items.popleft()

    async def __aiter__(self) -> AsyncIterator[T]:
        while True:
            yield await self.get()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_exc: object) -> None:
        self.close("the reader has left")


class Inbox:
    """The events on their way to the hub, in order; never drops one.

    Args:
        high: above this many, `on_high()` is called (stop reading the socket). Below half of it, `on_low()`.
    """

    def __init__(self, high: int) -> None:
        self.high = high
        self.peak = 0
        self.on_high: Callable[[], None] = _nothing
        self.on_low: Callable[[], None] = _nothing
        self._events: deque[ev.Event] = deque()
        self._bell = _Bell()
        self._is_high = False

    def __len__(self) -> int:
        return len(self._events)

    def put(self, event: ev.Event) -> None:
        """Add an event; never waits."""
        self._events.append(event)
        size = len(self._events)
        self.peak = max(self.peak, size)
        if size > self.high and not self._is_high:
            self._is_high = True
            self.on_high()
        self._bell.ring()

    async def get(self) -> ev.Event:
        """The oldest event; waits for one."""
        while not self._events:
            await self._bell.wait()
        return self.pop()

    def pop(self) -> ev.Event:
        """The oldest event, which must exist."""
        event = self._events.popleft()
        if self._is_high and len(self._events) * 2 < self.high:
            self._is_high = False
            self.on_low()
        return event


def _nothing() -> None:
    """Before a session has attached itself there is nobody to slow down."""
