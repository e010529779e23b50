"""Ticks: what a market data line says as quotes change, leaving out what it has said already, as IB does."""

import math
from collections.abc import Iterator
from decimal import Decimal
from typing import Final, NamedTuple

from ibkr_service.sim import answers
from ibkr_service.sim.figures import Day
from ibkr_service.sim.messages import Answer
from ibkr_service.sim.quotes import Greeks, Quote
from ibkr_service.sim.session import Session
from ibkr_service.sim.wire import Value, frame

BID, ASK, LAST, HIGH, LOW, CLOSE, OPEN = 1, 2, 4, 6, 7, 9, 14
SIZE_OF: Final = {BID: 0, ASK: 3, LAST: 5}
VOLUME: Final = 8
LAST_TIMESTAMP: Final = 45
_NOTHING: Final = Decimal(0)
HALTED: Final = 49
GREEKS: Final = (10, 11, 12, 13)
DELAYED_KINDS: Final = {
    1: 66,
    2: 67,
    4: 68,
    6: 72,
    7: 73,
    9: 75,
    14: 76,
    0: 69,
    3: 70,
    5: 71,
    8: 74,
    10: 80,
    11: 81,
    12: 82,
    13: 83,
    LAST_TIMESTAMP: 88,
}
"""Live tick type → the tick type of the same thing delayed."""


class Tick(NamedTuple):
    """Something else to say: a message of `answer` (price, size, generic or string), of a type, with a value."""

    answer: Answer
    kind: int
    value: Value


class Ticks:
    """The ticks of one line.

    Args:
        session: whom to tell.
        req_id: the line.
        delayed: whether the types are those of delayed data.
        has_sides: an index has no bid and no ask.
        started_s: gateway second 0, in seconds since 1970.
        greeks_interval_s: least gateway seconds from an option's greeks to the next.
    """

    def __init__(
        self,
        session: Session,
        req_id: int,
        *,
        delayed: bool,
        has_sides: bool,
        started_s: float,
        greeks_interval_s: float = 0.0,
    ) -> None:
        self._session = session
        self._req_id = req_id
        self._delayed = delayed
        self._has_sides = has_sides
        self._started_s = started_s
        self._greeks_interval_s = greeks_interval_s
        self._greeks_due_s = -math.inf
        self._said: dict[int, object] = {}
        self._sides: tuple[Decimal, ...] = ()
        self._day: Day | None = None
        self._out: list[bytes] = []

    def say(self, quote: Quote, day: Day) -> None:
        """Send what is new in a quote and in the day's figures."""
        if self._has_sides and (sides := quote[1:5]) != self._sides:
            self._sides = sides
            self._say_price(BID, quote.bid, quote.bid_size)
            self._say_price(ASK, quote.ask, quote.ask_size)
        if quote.last is not None and quote.last_size is not None:
            self._say_last(quote, quote.last, quote.last_size)
        if day is not self._day:  # mostly it is the same one as before
            self._say_day(day)
        if quote.greeks is not None and quote.at >= self._greeks_due_s:
            self._greeks_due_s = quote.at + self._greeks_interval_s
            self._say_greeks(quote.greeks)
        if self._out:
            out, self._out = self._out, []
            self._session.send_all(out)

    def add(self, ticks: Iterator[Tick]) -> None:
        """Send other ticks, those that are new; there are no delayed ones of them."""
        for tick in ticks:
            if not self._is_new(tick.kind, tick.value):
                continue
            fields: list[Value] = [tick.kind, tick.value]
            if tick.answer is Answer.TICK_PRICE:
                fields += [0, 0]
            self._session.send(frame(tick.answer, 6, self._req_id, *fields))

    def _say_last(self, quote: Quote, price: Decimal, size: Decimal) -> None:
        self._say_price(LAST, price, size)
        second = int(self._started_s + quote.at)
        if self._is_new(LAST_TIMESTAMP, second):
            kind = self._kind(LAST_TIMESTAMP)
            self._out.append(answers.tick_string(self._req_id, kind, str(second)))

    def _say_day(self, day: Day) -> None:
        self._day = day
        if day.volume is not None and self._is_new(VOLUME, day.volume):
            self._out.append(answers.tick_size(self._req_id, self._kind(VOLUME), Decimal(day.volume)))
        for kind, price in ((HIGH, day.high), (LOW, day.low), (OPEN, day.open), (CLOSE, day.close)):
            if price is not None and self._is_new(kind, price):
                self._out.append(answers.tick_price(self._req_id, self._kind(kind), price, _NOTHING))

    def _say_greeks(self, every: tuple[Greeks, ...]) -> None:
        for kind, greeks in zip(GREEKS, every, strict=True):
            if self._is_new(kind, greeks):
                self._out.append(answers.tick_option(self._req_id, self._kind(kind), greeks))

    def _say_price(self, kind: int, price: Decimal, size: Decimal) -> None:
        has_new_price, has_new_size = self._is_new(kind, price), self._is_new(SIZE_OF[kind], size)
        if has_new_price:
            # The price carries its size.
            self._out.append(answers.tick_price(self._req_id, self._kind(kind), price, size))
        elif has_new_size:
            self._out.append(answers.tick_size(self._req_id, self._kind(SIZE_OF[kind]), size))

    def _is_new(self, kind: int, value: object) -> bool:
        if self._said.get(kind) == value:
            return False
        self._said[kind] = value
        return True

    def _kind(self, kind: int) -> int:
        return DELAYED_KINDS[kind] if self._delayed else kind
