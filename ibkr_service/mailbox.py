"""What a strategy has not read yet, and the inbox in front of the hub.

A `Mailbox` keeps facts in order, all of them, up to a bound; and of ticks only the newest per instrument, of account
figures only the newest of each kind. So a tick storm can neither fill it nor delay a fill. A `Gap` discards the
instrument's unread tick: a tick neither overtakes nor trails its gap. A link that is not READY any more discards
figures in the same way. When facts pile up past the bound the strategy is *overrun*: facts are never dropped, so the
reader has to go. Only for one that has not begun to read (a script, a reader of streams) they are skipped; should it
begin, it is told the state first.

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
from ibkr_service.core.link import Link

Deliverable = ev.Event
T = TypeVar("T")


class _Bell:
    """Lets one reader wait until somebody rings. (An `asyncio.Event` without the waiter list)."""

    def __init__(self) -> None:
        self.waiting: asyncio.Future[None] | None = None

    def ring(self) -> None:
        waiting = self.waiting
        if waiting is not None:
            self.waiting = None
            if not waiting.done():
                waiting.set_result(None)

    def wait(self) -> asyncio.Future[None]:
        assert self.waiting is None or self.waiting.done(), "one reader at a time"
        self.waiting = asyncio.get_running_loop().create_future()
        return self.waiting


class Mailbox:
    """Facts in order, newest tick per instrument, newest account figure of each kind; one reader.

    Args:
        facts_max: how many unread facts are tolerated. overrun: called once when one more arrives.
    """

    def __init__(self, facts_max: int, overrun: Callable[[], None]) -> None:
        self.facts_max = facts_max
        self.ticks_replaced = 0
        self._overrun = overrun
        self._facts: deque[Deliverable] = deque()
        self._newest: dict[AnyInstrument | tuple[object, ...], ev.Tick | ev.AccountFigure] = {}  # longest waiting first
        self._bell = _Bell()
        self._closed_because: str | None = None
        self._reading = False
        self._skipped = False

    def __len__(self) -> int:
        return len(self._facts) + len(self._newest)

    def begin_reading(self) -> bool:
        """From now on facts that pile up are an overrun; True if facts were skipped before, and the state is owed."""
        skipped, self._skipped, self._reading = self._skipped, False, True
        if skipped:
            self._facts.clear()
        return skipped

    def put(self, event: Deliverable) -> None:
        """Deliver an event; nothing if the mailbox is closed."""
        if self._closed_because is not None:
            return
        if isinstance(event, ev.Tick):
            unread = len(self._newest)
            self._newest[event.instrument] = event  # in the place of the older one, if that is unread
            if len(self._newest) == unread:
                self.ticks_replaced += 1
        elif isinstance(event, ev.AccountFigure):
            self._newest[ev.figure_key(event)] = event
        else:
            if isinstance(event, ev.Gap):
                self._newest.pop(event.instrument, None)
            elif isinstance(event, ev.LinkChanged) and event.after is not Link.READY:
                self._forget_figures(lambda _figure: True)
            if len(self._facts) >= self.facts_max:
                if self._reading:
                    self.close("overrun: it left more than service.mailbox_max facts unread")
                    self._overrun()
                    return
                # Who has not begun to read is owed the state at that moment, not how it came about.
                self._facts.clear()
                self._skipped = True
            self._facts.append(event)
        self._bell.ring()

    def forget(self, instrument: AnyInstrument) -> None:
        """Discard the unread tick of an instrument that is no longer watched."""
        self._newest.pop(instrument, None)

    def forget_account(self, account: str) -> None:
        """Discard the unread figures of an account that is no longer watched."""
        self._forget_figures(lambda figure: figure.account == account)

    def _forget_figures(self, unwanted: Callable[[ev.AccountFigure], bool]) -> None:
        kept = {k: e for k, e in self._newest.items() if isinstance(e, ev.Tick) or not unwanted(e)}
        self._newest = kept

    def close(self, why: str) -> None:
        """Discard everything; whoever reads now or later gets `DeskClosed`."""
        self._closed_because = why
        self._facts.clear()
        self._newest.clear()
        self._bell.ring()

    def take(self) -> Deliverable | None:
        """The oldest fact, else the tick that has waited longest, else None.

        Raises:
            DeskClosed: the mailbox was closed.
        """
        if self._facts:
            return self._facts.popleft()
        if self._newest:
            return self._newest.pop(next(iter(self._newest)))
        if self._closed_because is not None:
            raise DeskClosed(self._closed_because)
        return None

    def wait(self) -> asyncio.Future[None]:
        """What to await until there may be something to take."""
        return self._bell.wait()

    async def get(self) -> Deliverable:
        """As `take`, but wait for something.

        Raises:
            DeskClosed: the mailbox was closed.
        """
        while (event := self.take()) is None:
            await self.wait()
        return event


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
        self._gap_unread: T | None = None
        self._lost_unread = 0  # how many that gap counts
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
            self._overflow()
        self._items.append(item)
        if self._bell.waiting:
            self._bell.ring()

    def _overflow(self) -> None:
        """Discard all that is unread; the gap says so, and counts what an earlier gap counted that nobody has read."""
        count = len(self._items)
        if self._gap_unread is not None and self._items and self._items[0] is self._gap_unread:
            count -= 1
        else:
            self._lost_unread = 0
        self.lost += count
        self._lost_unread += count
        self._gap_unread = self._gap(self._lost_unread)
        self._items.clear()
        self._items.append(self._gap_unread)

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
        items = self._items
        while True:
            while items:
                yield items.popleft()
            if self._closed_because is not None:
                raise DeskClosed(self._closed_because)
            await self._bell.wait()

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
        self.queue: deque[ev.Event] = deque()  # empty is what the ticks' short way asks
        self._bell = _Bell()
        self._is_high = False

    def __len__(self) -> int:
        return len(self.queue)

    def put(self, event: ev.Event) -> None:
        """Add an event; never waits."""
        self.queue.append(event)
        size = len(self.queue)
        self.peak = max(self.peak, size)
        if size > self.high and not self._is_high:
            self._is_high = True
            self.on_high()
        self._bell.ring()

    async def get(self) -> ev.Event:
        """The oldest event; waits for one."""
        while not self.queue:
            await self._bell.wait()
        return self.pop()

    def pop(self) -> ev.Event:
        """The oldest event, which must exist."""
        event = self.queue.popleft()
        if self._is_high and len(self.queue) * 2 < self.high:
            self._is_high = False
            self.on_low()
        return event


def _nothing() -> None:
    """Before a session has attached itself there is nobody to slow down."""
