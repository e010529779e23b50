"""What years of history need not keep: the chatter about orders that are over, and about the line, older than a day.

What a person may be asked for stays for ever: each order as it was submitted and as it ended, its executions and what
they cost, what was adjusted. So keys stay idempotent for ever, and a late correction still finds its execution. Of a
finished order the reports in between go, and its last `OrderChanged` becomes an `OrderClosed` with the whole order, so
that the facts that are left still fold into the same book.

It is done in small steps between which orders may be placed, and in an order in which each step leaves a sound journal:
first all closings, then the removals. Nothing is touched that a start from the last snapshot would replay.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from ibkr_service.core import events as ev
from ibkr_service.core.book import Book
from ibkr_service.core.orders import TERMINAL, Order
from ibkr_service.journal import Journal

STEP = 300  # rows looked at in one step: a millisecond or two
CLOSINGS = 30  # orders closed in one step: as long
LOOKS_KEPT = 2  # of those that are old enough to go; what differs between two looks decides what is adjusted

# What a rebuilt book does not ask for once it is old: about the line, and about processes and strategies of the past.
OF_THE_PAST = frozenset(
    kind.__name__
    for kind in (
        ev.LinkSignalled,
        ev.LinkChanged,
        ev.FarmChanged,
        ev.Gap,
        ev.Resumed,
        ev.SubscriptionFailed,
        ev.SubscriptionWaiting,
        ev.BrokerNotice,
        ev.LibraryFault,
        ev.RecoveryStep,
        ev.ControllerAnswered,
        ev.LoopHeld,
        ev.StrategyStarted,
        ev.StrategyStopped,
        ev.ServiceStopped,
    )
)
# What an `OrderClosed` says in one.
OF_A_CLOSED_ORDER = frozenset(
    kind.__name__
    for kind in (
        ev.OrderSent,
        ev.OrderNotSent,
        ev.OrderStatusReported,
        ev.OpenOrderReported,
        ev.OrderErrored,
        ev.ModificationRequested,
        ev.ModificationNotSent,
        ev.ModificationSettled,
        ev.CancelRequested,
        ev.OrderResolved,
        ev.OrderChanged,
    )
)
_TERMINAL = frozenset(state.name for state in TERMINAL)
# What may follow from a look at the broker, and stands right behind it.
_OF_A_LOOK = frozenset(
    {
        "PositionReported",
        "ModificationSettled",
        "OrderResolved",
        "OrderChanged",
        "PositionAdjusted",
        "QuarantineBegan",
    }
)


class Pruning:
    """One going-through of the old part of a journal.

    Args:
        before: what was learned earlier (UTC) may go. upto: the last fact that may be touched.
    """

    def __init__(self, journal: Journal, book: Book, *, before: datetime, upto: int) -> None:
        self.closed = self.removed = 0  # orders closed, facts removed so far
        self._journal = journal
        self._book = book
        self._before = before.isoformat()
        self._upto = upto
        self._ended: dict[str, int] = {}  # reference of a finished order -> its last change of state
        self._whole: set[str] = set()  # references whose facts an `OrderClosed` says in one
        self._looks: list[int] = []
        self._look = 0  # the look that the facts which are read may follow from

    def steps(self) -> Iterator[None]:
        """Do it, a small step at each `next`.

        Raises:
            JournalError: a step could not be written; what was done before holds.
        """
        yield from self._read()
        yield from self._close()
        yield from self._remove()

    def _rows(self, columns: str) -> Iterator[list[tuple[object, ...]]]:
        last = 0
        while rows := self._journal.rows(columns, after=last, upto=self._upto, most=STEP):
            last = rows[-1][0]
            yield rows

    def _read(self) -> Iterator[None]:
        """Find out how far the old part goes, and how the orders in it ended."""
        for rows in self._rows("seq, at, kind, ref, json_extract(body, '$.after')"):
            for seq, at, kind, ref, after in rows:
                if str(at) >= self._before:
                    self._upto = int(str(seq)) - 1
                    return
                self._note(int(str(seq)), str(kind), str(ref or ""), str(after))
            yield

    def _note(self, seq: int, kind: str, ref: str, after: str) -> None:
        if kind not in _OF_A_LOOK:
            self._look = 0
        elif kind == "ModificationSettled" and self._look:
            self._looks.remove(self._look)  # it settled the modification of an order that may still be open
            self._look = 0
        if kind == "OrderClosed":
            self._whole.add(ref)
        elif kind == "Snapshot":
            self._looks.append(seq)
            self._look = seq
        elif kind == "OrderChanged":
            self._whole.discard(ref)  # it came to life again, and ended anew
            self._ended.pop(ref, None)
            if after in _TERMINAL:
                self._ended[ref] = seq

    def _close(self) -> Iterator[None]:
        ended = list(self._ended.items())
        for first in range(0, len(ended), CLOSINGS):
            some = ((seq, self._book.orders.get(ref)) for ref, seq in ended[first : first + CLOSINGS])
            closable = [(seq, order) for seq, order in some if order is not None and self._may_close(order)]
            if closable:
                self._journal.close_orders(closable)
                self._whole.update(order.ref for _, order in closable)
                self.closed += len(closable)
            yield

    def _may_close(self, order: Order) -> bool:
        """Over, known from its submission on, and all its executions name it."""
        if not order.done or order.key.startswith("adopted:"):
            return False
        return all(fill.ref == order.ref for fill in self._book.fills_of(order.ref))

    def _remove(self) -> Iterator[None]:
        looks = frozenset(self._looks[:-LOOKS_KEPT])
        for rows in self._rows("seq, kind, ref"):
            old = [
                int(str(seq))
                for seq, kind, ref in rows
                if kind in OF_THE_PAST or seq in looks or (kind in OF_A_CLOSED_ORDER and ref in self._whole)
            ]
            if old:
                self._journal.remove(old)
                self.removed += len(old)
            yield
