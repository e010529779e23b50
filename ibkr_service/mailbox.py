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


class Slot:
    """Where a mailbox keeps the newest unread tick of one instrument, or figure of one kind.

    Who brings the ticks of an instrument holds the slot, so that a tick costs no look-up.
    """

    __slots__ = ("_mailbox", "unread")

    def __init__(self, mailbox: Mailbox) -> None:
        self._mailbox = mailbox
        self.unread: ev.Tick | ev.AccountFigure | None = None

    def put(self, event: ev.Tick | ev.AccountFigure) -> None:
        """Take the place of the older one, if that is unread; else queue up. Nothing if the mailbox is closed."""
        mailbox = self._mailbox
        if self.unread is not None:
            self.unread = event
            mailbox.replaced += 1
        elif mailbox.closed_because is None:
            self.unread = event
            mailbox.slots_unread.append(self)
            bell = mailbox.bell
            if bell.waiting is not None:
                bell.ring()


class Mailbox:
    """Facts in order, newest tick per instrument, newest account figure of each kind; one reader.

    Args:
        facts_max: how many unread facts are tolerated. overrun: called once when one more arrives.
    """

    def __init__(self, facts_max: int, overrun: Callable[[], None]) -> None:
        self.facts_max = facts_max
        self.replaced = 0  # ticks and figures that a newer one came for before they were read
        self.closed_because: str | None = None
        self.bell = _Bell()
        self.slots_unread: deque[Slot] = deque()  # longest waiting first
        self._overrun = overrun
        self._facts: deque[Deliverable] = deque()
        self._slots: dict[AnyInstrument | tuple[object, ...], Slot] = {}
        self._reading = False
        self._skipped = False

    def __len__(self) -> int:
        return len(self._facts) + len(self.slots_unread)

    def begin_reading(self) -> bool:
        """From now on facts that pile up are an overrun; True if facts were skipped before, and the state is owed."""
        skipped, self._skipped, self._reading = self._skipped, False, True
        if skipped:
            self._facts.clear()
        return skipped

    def slot(self, what: AnyInstrument | tuple[object, ...]) -> Slot:
        """The place of an instrument's ticks or of a kind of figure; the same object until it is forgotten."""
        slot = self._slots.get(what)
        if slot is None:
            slot = self._slots[what] = Slot(self)
        return slot

    def put(self, event: Deliverable) -> None:
        """Deliver an event; nothing if the mailbox is closed."""
        if self.closed_because is not None:
            return
        if isinstance(event, ev.Tick):
            self.slot(event.instrument).put(event)
            return
        if isinstance(event, ev.AccountFigure):
            self.slot(ev.figure_key(event)).put(event)
            return
        if isinstance(event, ev.Gap):
            slot = self._slots.get(event.instrument)
            if slot is not None:
                self._discard(slot)
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
        self.bell.ring()

    def forget(self, instrument: AnyInstrument) -> None:
        """Discard the unread tick of an instrument that is no longer watched, and its slot."""
        slot = self._slots.pop(instrument, None)
        if slot is not None:
            self._discard(slot)

    def forget_account(self, account: str) -> None:
        """Discard the unread figures of an account that is no longer watched."""
        self._forget_figures(lambda figure: figure.account == account)

    def _forget_figures(self, unwanted: Callable[[ev.AccountFigure], bool]) -> None:
        for what, slot in tuple(self._slots.items()):
            if isinstance(what, tuple) and isinstance(slot.unread, ev.AccountFigure) and unwanted(slot.unread):
                del self._slots[what]
                self._discard(slot)

    def _discard(self, slot: Slot) -> None:
        if slot.unread is not None:
            slot.unread = None
            self.slots_unread.remove(slot)

    def close(self, why: str) -> None:
        """Discard everything; whoever reads now or later gets `DeskClosed`."""
        self.closed_because = why
        self._facts.clear()
        for slot in self.slots_unread:
            slot.unread = None
        self.slots_unread.clear()
        self.bell.ring()

    def take(self) -> Deliverable | None:
        """The oldest fact, else the tick that has waited longest, else None.

        Raises:
            DeskClosed: the mailbox was closed.
        """
        if self._facts:
            return self._facts.popleft()
        if self.slots_unread:
            slot = self.slots_unread.popleft()
            event, slot.unread = slot.unread, None
            return event
        if self.closed_because is not None:
            raise DeskClosed(self.closed_because)
        return None

    async def get(self) -> Deliverable:
        """As `take`, but wait for something.

        Raises:
            DeskClosed: the mailbox was closed.
        """
        while (event := self.take()) is None:
            await self.bell.wait()
        return event

    async def read(self, owe: Callable[[], None]) -> AsyncIterator[Deliverable]:
        """As `get`, for ever. A reader waits after nearly every tick, so `take` is said here again, without calls.

        Args:
            owe: tells the state, to one that has missed facts because it had not begun to read.

        Raises:
            DeskClosed: the mailbox was closed.
        """
        if self.begin_reading():
            owe()
        facts, slots, wait = self._facts, self.slots_unread, self.bell.wait
        while True:
            if facts:
                yield facts.popleft()
            elif slots:
                slot = slots.popleft()
                event, slot.unread = slot.unread, None
                assert event is not None, "what waits is unread"
                yield event
            elif self.closed_because is not None:
                raise DeskClosed(self.closed_because)
            else:
                await wait()


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
