"""Where facts are recorded: `record(event)` is the one function that changes state.

Journal first, then the book, then the mailboxes; and the facts that follow from it the same way. It is synchronous
from end to end, so nothing can come between a check and the act that it allowed.

When the disk says no, a wish of ours fails (`submit` raises and nothing leaves), but a fact of the world is still a
fact: it is applied and delivered, kept in memory, and written before anything else as soon as the disk takes it.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple, TypeVar

import structlog

from ibkr_service.core import events as ev
from ibkr_service.core.book import ABSENT_AFTER_S, Book
from ibkr_service.core.errors import JournalError, ServiceError
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.link import Link
from ibkr_service.core.quotes import Place
from ibkr_service.journal import Journal
from ibkr_service.mailbox import Inbox, Mailbox, Slot
from ibkr_service.snapshots import Snapshots

log = structlog.get_logger("ibkr_service.hub")

E = TypeVar("E", bound=ev.Event)
T = TypeVar("T")

# Facts that a book which is rebuilt does not need: those about the line of an earlier process, and those that only
# tell what followed from others.
SAYS_NOTHING_NOW = frozenset(
    {
        ev.LinkSignalled,
        ev.FarmChanged,
        ev.Gap,
        ev.Resumed,
        ev.SubscriptionFailed,
        ev.SubscriptionWaiting,
        ev.BrokerNotice,
        ev.ControllerAnswered,
        ev.LoopHeld,
        ev.OrderChanged,
        ev.ModificationSettled,
    }
)

UNSAVED_MAX = 100_000  # facts waiting for the disk: some hours of a busy account; beyond, memory is in danger


class UnsavedOverflow(ServiceError):
    """The disk refused so many facts that the process cannot hold them.

    It stops, and fetches them again at the next start.
    """


@dataclass(eq=False)
class Subscriber:
    """One strategy as the hub sees it: where to put its events, and which instruments and accounts it watches."""

    name: str
    mailbox: Mailbox
    watched: set[AnyInstrument] = field(default_factory=set)
    accounts: set[str] = field(default_factory=set)


class _Channel(NamedTuple):
    """Where the ticks of one instrument go: a slot in each mailbox that watches it, and what puts them there."""

    slots: dict[Subscriber, Slot]
    take: Callable[[ev.Tick], None]


class Hub:
    """Journal, book and mailboxes behind one verb.

    Args:
        journal: where facts are kept. observer: sees every event but ticks after it was recorded (log lines, the
        demo's printed fills); `tick_observer` sees the ticks. absent_after_s: see `Book`.
    """

    def __init__(
        self,
        journal: Journal,
        observer: Callable[[ev.Event], None] = lambda _event: None,
        tick_observer: Callable[[ev.Event], None] | None = None,
        *,
        absent_after_s: float = ABSENT_AFTER_S,
    ) -> None:
        self.book = Book(absent_after_s=absent_after_s)
        self.snapshots = Snapshots(journal, self.book)
        self.unsaved: deque[ev.Event] = deque()
        self._untold: deque[ev.Event] = deque()  # decisions that only the journal and the book know of yet
        self.recorded = 0
        self._journal = journal
        self._observer = observer
        self._tick_observer = tick_observer
        self._subscribers: list[Subscriber] = []
        self._channels: dict[AnyInstrument, _Channel] = {}

    def recover(self) -> None:
        """Rebuild the book from its last snapshot and the facts that came after it, or from all facts.

        Facts that a crash kept from following their cause are recorded now.

        Raises:
            JournalError: the journal cannot be read back.
        """
        owed: list[ev.Event] = []
        for event in self._journal.replay(self.snapshots.load()):
            # The journal holds cause, then consequences, in the order in which `record` found them.
            if event in owed:
                owed.remove(event)
            else:
                owed.clear()
            if type(event) in SAYS_NOTHING_NOW:
                continue
            owed[:0] = [e for e in self.book.apply(event) if type(e) in ev.JOURNALLED]
        for event in owed:
            self.record(event)

    def subscribe(self, subscriber: Subscriber) -> None:
        """Deliver to this mailbox from now on."""
        self._subscribers.append(subscriber)
        for instrument in subscriber.watched:
            self._connect(subscriber, instrument)

    def unsubscribe(self, subscriber: Subscriber) -> None:
        """Deliver no more."""
        if subscriber in self._subscribers:
            self._subscribers.remove(subscriber)
            for instrument in subscriber.watched:
                self._channel(instrument).slots.pop(subscriber, None)

    def watch(self, subscriber: Subscriber, instrument: AnyInstrument) -> None:
        """Deliver the ticks of an instrument to this mailbox from now on, and what concerns its stream."""
        subscriber.watched.add(instrument)
        if subscriber in self._subscribers:
            self._connect(subscriber, instrument)

    def unwatch(self, subscriber: Subscriber, instrument: AnyInstrument) -> None:
        """Deliver them no more; the unread tick is discarded."""
        subscriber.watched.discard(instrument)
        self._channel(instrument).slots.pop(subscriber, None)
        subscriber.mailbox.forget(instrument)

    def _connect(self, subscriber: Subscriber, instrument: AnyInstrument) -> None:
        self._channel(instrument).slots[subscriber] = subscriber.mailbox.slot(instrument)

    def _channel(self, instrument: AnyInstrument) -> _Channel:
        channel = self._channels.get(instrument)
        if channel is None:
            slots: dict[Subscriber, Slot] = {}
            take = self._take_into(self.book.quotes.place(instrument), slots)
            channel = self._channels[instrument] = _Channel(slots, take)
        return channel

    def record(self, event: ev.Event) -> None:
        """Take in a fact: journal, book, mailboxes; then what follows from it. Repetitions are ignored.

        Raises:
            UnsavedOverflow: the disk has refused facts for too long.
        """
        if isinstance(event, ev.Tick):
            self.tick(event)
            return
        if not self.book.is_news(event):
            return
        if type(event) in ev.JOURNALLED:
            self._save(event)
        self._take(event)

    def commit(self, event: ev.Event) -> None:
        """Take in a decision of ours: as `record`, but without the journal it does not happen.

        It is in the journal and in the book when this returns; who reads it is told with the next fact, so that
        nothing (a log line costs as much as the rest) comes between the decision and its first byte.

        Raises:
            JournalError: it could not be written; nothing has changed.
        """
        self.carry_out(event, lambda _event: None)

    def carry_out(self, event: E, act: Callable[[E], T]) -> T:
        """As `commit`, and act upon it: returns what the act returns.

        The journal first, then the act, then the book, so that nothing comes between the decision and its first byte
        that can wait: the act must not look for the decision in the book. Who reads it is told with the next fact.

        Raises:
            JournalError: it could not be written; nothing has changed. And what the act raises.
        """
        if self.unsaved:
            self._drain_unsaved()
        self._journal.append_ahead(event)
        try:
            return act(event)
        finally:
            derived = self.book.apply(event)
            assert not derived, "nothing follows from a decision until it is carried out"
            self._untold.append(event)

    def commit_all(self, events: Sequence[ev.Event]) -> None:
        """As `commit`, for decisions that belong together: all of them, or none.

        Raises:
            JournalError: none could be written; nothing has changed.
        """
        self._drain_unsaved()
        self._journal.append_all(events)
        for event in events:
            derived = self.book.apply(event)
            assert not derived, "nothing follows from a decision until it is carried out"
            self._untold.append(event)

    def decide(self, event: ev.Event) -> None:
        """Take in a person's decision, and what follows from it: without the journal it does not happen.

        Raises:
            JournalError: it could not be written; nothing has changed.
        """
        self._drain_unsaved()
        self._journal.append(event)
        self._take(event)

    def tick(self, tick: ev.Tick) -> None:
        """A tick's short way: never journalled, nothing follows from it."""
        self._channel(tick.instrument).take(tick)

    def taker(self, instrument: AnyInstrument, inbox: Inbox) -> Callable[[ev.Tick], None]:
        """What does for the ticks of one instrument as `tick`, without looking anything up for each of them.

        While facts wait in the inbox that came before it, a tick waits behind them.
        """
        return self._take_into(self.book.quotes.place(instrument), self._channel(instrument).slots, inbox)

    def _take_into(
        self, place: Place, slots: dict[Subscriber, Slot], inbox: Inbox | None = None
    ) -> Callable[[ev.Tick], None]:
        observer = self._tick_observer
        waiting = () if inbox is None else inbox.queue

        def take(tick: ev.Tick) -> None:
            if waiting:
                assert inbox is not None, "that is where they wait"
                inbox.put(tick)
                return
            place.tick = tick
            self.recorded += 1
            for slot in slots.values():
                slot.put(tick)
            if observer is not None:
                observer(tick)

        return take

    def _take(self, event: ev.Event) -> None:
        derived = self.book.apply(event)
        while self._untold:
            self._tell(self._untold.popleft())
        self._tell(event)
        for follows in derived:
            self.record(follows)

    def _tell(self, event: ev.Event) -> None:
        self.recorded += 1
        for subscriber in tuple(self._subscribers):
            if self._concerns(subscriber, event):
                subscriber.mailbox.put(event)
        self._observer(event)

    def _save(self, event: ev.Event) -> None:
        try:
            self._drain_unsaved()
            self._journal.append(event)
        except JournalError as exc:
            if not self.unsaved:
                log.error("journal refuses writes; facts are kept in memory, no order leaves", error=str(exc))
            if len(self.unsaved) >= UNSAVED_MAX:
                raise UnsavedOverflow(f"{UNSAVED_MAX} facts wait for the disk: {exc}") from exc
            self.unsaved.append(event)

    def _drain_unsaved(self) -> None:
        """Write what the disk refused before, oldest first."""
        while self.unsaved:
            self._journal.append(self.unsaved[0])
            self.unsaved.popleft()
            if not self.unsaved:
                log.warning("journal takes writes again; nothing was lost")

    def _concerns(self, subscriber: Subscriber, event: ev.Event) -> bool:
        """Whether a strategy reads this event.

        Its own orders, what it watches, and what the whole account must know.
        """
        match event:
            case ev.Tick() | ev.Gap() | ev.Resumed() | ev.SubscriptionFailed() | ev.SubscriptionWaiting():
                return event.instrument in subscriber.watched
            case ev.AccountValueReported() | ev.PortfolioReported() | ev.PnlReported() | ev.PositionPnlReported():
                # Not while the line is being verified: a part of what is to be known would look like news.
                return event.account in subscriber.accounts and self.book.link is Link.READY
            case ev.OrderChanged() | ev.OrderErrored() | ev.ModificationSettled() | ev.Fill():
                return self._owner(event.ref) == subscriber.name
            case ev.CommissionReported():
                fill = self.book.fill_by_exec_id(event.exec_id)
                return fill is not None and self._owner(fill.ref) == subscriber.name
            case (
                ev.LinkChanged()
                | ev.FarmChanged()
                | ev.PositionReported()
                | ev.PositionAdjusted()
                | ev.QuarantineBegan()
                | ev.QuarantineEnded()
                | ev.BrokerNotice()
            ):
                return True
            case _:
                return False

    def _owner(self, ref: str) -> str | None:
        order = self.book.orders.get(ref)
        return order.strategy if order else None
