"""One question to the risk gate: an order, and everything that it is held against.

What an answer needs that is dear to find (prices, positions) is found when it is asked for first, and kept.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Generic, TypeVar

from ibkr_service.core.book import Book
from ibkr_service.core.errors import Refused
from ibkr_service.core.exposure import Exposure
from ibkr_service.core.hours import Hours
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.limits import Limits
from ibkr_service.core.orders import ZERO, Intent, Order
from ibkr_service.core.payoff import Money
from ibkr_service.core.pricing import market_price, may_exceed, own_price, why_unpriced, worth
from ibkr_service.core.working import moves

HoursOf = Callable[[AnyInstrument], Hours | None]


def no_hours(_contract: AnyInstrument) -> Hours | None:
    """The hours of a contract, where nobody has asked for any."""
    return None


T = TypeVar("T")


class _once(Generic[T]):  # noqa: N801 - a decorator
    """`functools.cached_property` without the lock that it takes in Python 3.11."""

    def __init__(self, find: Callable[[Any], T]) -> None:
        self._find = find
        self._name = find.__name__

    def __get__(self, asked: Any, _kind: type) -> T:  # noqa: ANN401 - of whatever class it is in
        found = asked.__dict__[self._name] = self._find(asked)
        return found


class Asked:
    """One question to the gate: the order, and everything that it is held against.

    Args:
        now: wall clock, for rates, windows and hours. mono_s: the event loop's time, for the age of quotes.
        changing: the order whose terms are to become those of the intent; None: it is a new one.
        after: intents that are taken as filled. beside: orders of the same group that go with it. known_loss: the most
        that can be lost with what it is a part of, if that was looked at as a whole.
    """

    def __init__(  # noqa: PLR0913 - all that an answer depends on
        self,
        intent: Intent,
        strategy: str,
        limits: Limits,
        book: Book,
        *,
        now: datetime,
        mono_s: float,
        hours: HoursOf,
        changing: Order | None = None,
        after: Sequence[Intent] = (),
        beside: Sequence[Intent] = (),
        known_loss: Money | None = None,
    ) -> None:
        self.intent = intent
        self.strategy = strategy
        self.limits = limits
        self.book = book
        self.now = now
        self.mono_s = mono_s
        self.hours = hours
        self.changing = changing
        self.after = after
        self.beside = beside
        self.known_loss = known_loss
        self.account = intent.account or (book.account if changing is None else changing.account)

    @_once
    def exposure(self) -> Exposure:
        """What there is besides this order."""
        return Exposure(self.book, self.account, changing=self.changing, after=self.after)

    @property
    def quantity(self) -> Decimal:
        """How much of it may still trade."""
        return self.intent.quantity if self.changing is None else self.intent.quantity - self.changing.filled

    @_once
    def moves(self) -> tuple[tuple[AnyInstrument, Decimal], ...]:
        """What it may still do to positions."""
        return moves(self.intent, self.quantity)

    @_once
    def reduces(self) -> bool:
        """Whether it makes positions smaller and turns none around."""
        return self.exposure.is_reducing(self.moves)

    @_once
    def unpriced(self) -> str | None:
        """Why the market cannot price it, in words."""
        return why_unpriced(self.intent.instrument, self.book, self.limits.max_quote_age_s, self.mono_s)

    @_once
    def price(self) -> Decimal | None:
        """What it is priced at, by its own terms or the quote; None: nobody knows."""
        intent = self.intent
        price = own_price(intent)
        if price is not None:
            return price
        return market_price(intent.instrument, self.book, intent.action, self.limits.max_quote_age_s, self.mono_s)

    @_once
    def worth(self) -> Decimal | None:
        """What a unit may trade at, at most as far as is known; None: nobody knows, or nobody knows well enough."""
        intent, limits = self.intent, self.limits
        if not may_exceed(intent):
            return self.price
        if limits.unknown_quote == "refuse" and self.unpriced is not None:
            return None
        return worth(intent, self.price, self.book, limits.max_quote_age_s, self.mono_s)

    @property
    def cash(self) -> Decimal:
        """What opening it surely does to the account, per unit, > 0 when received, as far as that is sure."""
        assert self.price is not None, "the notional was asked before"
        intent, limit = self.intent, self.intent.limit_price
        worse = ZERO
        if intent.order_type in {"LMT", "LOC"} and limit is not None:
            worse = abs(self.price) - abs(limit)  # what it may trade beyond its limit
            price = limit
        elif intent.action == "SELL" and intent.order_type != "MKT":
            return ZERO
        else:
            assert self.worth is not None, "the notional was asked before"
            price = self.worth
        return (price if intent.action == "SELL" else -price) - worse


Rule = Callable[[Asked], Refused | None]
