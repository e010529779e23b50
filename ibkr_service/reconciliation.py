"""What the broker and we disagree about, for people: read from a journal, beside a running service or without one.

Nothing is asked and nothing is changed here: it is what the last look at the broker has found.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Self

from ibkr_service.core.book import Book
from ibkr_service.core.discrepancies import in_words
from ibkr_service.core.orders import OrderState
from ibkr_service.hub import SAYS_NOTHING_NOW
from ibkr_service.journal import facts, open_readonly
from ibkr_service.log import mask_account


@dataclass(frozen=True)
class Reconciliation:
    """The state of a book, as far as it is not in order. Account numbers are shortened."""

    looked_at: datetime | None
    quarantines: tuple[str, ...]
    differences: tuple[str, ...]
    unknown_orders: tuple[str, ...]
    foreign_orders: tuple[str, ...]

    @classmethod
    def of(cls, path: Path) -> Self:
        """Read a journal.

        Raises:
            JournalError: it cannot be read.
        """
        book = Book()
        with closing(open_readonly(path)) as database:
            for fact in facts(database, path):
                if type(fact) not in SAYS_NOTHING_NOW:
                    book.apply(fact)
        return cls.of_book(book)

    @classmethod
    def of_book(cls, book: Book) -> Self:
        """What is not in order in a book."""
        found = book.discrepancies
        return cls(
            looked_at=found.verified_at,
            quarantines=tuple(
                f"{mask_account(account)} since {began.at:%Y-%m-%d %H:%M} UTC: {began.why}"
                for account, began in book.quarantines.items()
            ),
            differences=tuple(
                f"{mask_account(account)} {in_words([one])}" for (account, _), one in found.unexplained.items()
            ),
            unknown_orders=tuple(
                f"{order.ref} {order.intent}: {order.reason}"
                for order in book.alive_orders()
                if order.state is OrderState.UNKNOWN
            ),
            foreign_orders=tuple(
                f"client {seen.client_id}: {seen.action} {seen.quantity:f} {seen.instrument} {seen.order_type}"
                + (f" ({seen.ref})" if seen.ref else "")
                for seen in book.foreign_orders.values()
            ),
        )

    @property
    def needs_a_person(self) -> bool:
        """Whether something will not come right by itself."""
        return bool(self.quarantines or self.differences or self.unknown_orders)

    def lines(self) -> Iterator[str]:
        """For people."""
        when = "never" if self.looked_at is None else f"{self.looked_at:%Y-%m-%d %H:%M:%S} UTC"
        yield f"last verified look at the broker: {when}"
        for title, rows in (
            ("in quarantine", self.quarantines),
            ("unexplained positions", self.differences),
            ("orders that cannot be accounted for", self.unknown_orders),
            ("orders of others", self.foreign_orders),
        ):
            yield f"{title}: {len(rows) or 'none'}"
            for row in rows:
                yield f"  {row}"
