"""Bars: open, high, low and close of a span of time, from four quotes each, and the spans of a request.

A bar is an aggregate of the same path that the ticks come from: `Prices.moments` says when it was extreme. Bars of a
day or less begin on the clock, counted from midnight in New York, and never leave their session; weeks and months are
put together from days.

Simplifications: the weighted average price of a bar is the mean of its high, low and close; BID_ASK has the means of
its four quotes where IB has averages over time.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from datetime import date, datetime, time
from decimal import Decimal
from typing import Final, NamedTuple

from ibkr_service.sim.almanac import Session
from ibkr_service.sim.contracts import Instrument
from ibkr_service.sim.pricing import Prices
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.timeline import NEW_YORK

DAY_S: Final = 86_400
BAR_SIZES: Final = {
    **{f"{n} secs": n for n in (1, 5, 10, 15, 30)},
    "1 min": 60,
    **{f"{n} mins": n * 60 for n in (2, 3, 5, 10, 15, 20, 30)},
    "1 hour": 3600,
    **{f"{n} hours": n * 3600 for n in (2, 3, 4, 8)},
    "1 day": DAY_S,
    "1 week": 7 * DAY_S,
    "1 month": 30 * DAY_S,
}
"""How long a bar is, in seconds; weeks and months are those of the calendar."""

ALIASES: Final = {
    "1 sec": "1 secs", "1 mins": "1 min", "1 hours": "1 hour", "1 D": "1 day", "1 W": "1 week", "1 M": "1 month",
    "1W": "1 week", "1M": "1 month", "1 days": "1 day", "1 weeks": "1 week", "1 months": "1 month",
}  # fmt: skip
VALUES: Final[dict[str, Callable[[Quote], Decimal | None]]] = {
    "TRADES": lambda quote: quote.last,
    "ADJUSTED_LAST": lambda quote: quote.last,
    "MIDPOINT": lambda quote: quote.mid,
    "BID": lambda quote: quote.bid,
    "ASK": lambda quote: quote.ask,
}
TRADED: Final = frozenset({"TRADES", "ADJUSTED_LAST"})
BID_ASK: Final = "BID_ASK"

_AVERAGE_DIGITS = 6
_JUST_AFTER_S = 1e-4
"""Floats of seconds are not exact: a quote of this very moment counts."""


class Window(NamedTuple):
    """A span of seconds since 1970, and the trading day that it belongs to."""

    start: int
    end: int
    day: date


@dataclass(frozen=True, slots=True)
class Bar:
    """Prices in the instrument's currency; `volume`, `average` and `count` are -1 for what is not traded."""

    start: int
    day: date
    open: Decimal
    high: Decimal
    low: Decimal
    close: Decimal
    volume: int = -1
    average: Decimal = Decimal(-1)
    count: int = -1


def windows(sessions: Iterable[Session], size_s: int, first: float, last: float) -> Iterator[Window]:
    """The spans of the bars that lie within sessions and overlap the time from `first` to `last`, in order."""
    for session in sessions:
        if size_s >= DAY_S:
            yield Window(session.start, session.end, session.day)
            continue
        # On the clock: in the middle of summer time's changes nobody trades.
        opens = datetime.fromtimestamp(session.start, NEW_YORK)
        midnight = int(datetime.combine(opens.date(), time(0), NEW_YORK).timestamp())
        start = max(session.start, midnight + int(first - midnight) // size_s * size_s)
        while start < min(session.end, last):
            end = min(session.end, midnight + ((start - midnight) // size_s + 1) * size_s)
            yield Window(start, end, session.day)
            start = end


def bar_of(prices: Prices, instrument: Instrument, show: str, window: Window, until_s: float) -> Bar | None:
    """The bar of a window as far as a gateway second, that one included; None where there are no prices."""
    from_s, to_s = window.start - prices.started_s, min(window.end - prices.started_s, until_s + _JUST_AFTER_S)
    moments = prices.moments(instrument, from_s, to_s)
    if moments is None:
        return None
    quotes = [quote for moment_s in moments if (quote := prices.quote(instrument, moment_s)) is not None]
    if len(quotes) < len(moments):
        return None
    if show == BID_ASK:
        bids, asks = [quote.bid for quote in quotes], [quote.ask for quote in quotes]
        return Bar(window.start, window.day, _mean(bids), max(asks), min(bids), _mean(asks))
    values = [value for quote in quotes if (value := VALUES[show](quote)) is not None]
    if len(values) < len(moments):
        return None
    first, high, low, last = values[0], max(values), min(values), values[-1]
    if show not in TRADED:
        return Bar(window.start, window.day, first, high, low, last)
    trades = prices.trades(instrument, from_s, to_s)
    return Bar(window.start, window.day, first, high, low, last, trades.volume, _mean([high, low, last]), trades.number)


def merged(bars: Iterable[Bar], size_s: int) -> Iterator[Bar]:
    """Daily bars put together to weeks or months, each dated by its last day."""
    group: list[Bar] = []
    for bar in bars:
        if group and period_of(group[-1].day, size_s) != period_of(bar.day, size_s):
            yield joined(group)
            group = []
        group.append(bar)
    if group:
        yield joined(group)


def joined(group: list[Bar]) -> Bar:
    """Consecutive bars as one."""
    is_traded = group[0].count >= 0
    volume = sum(bar.volume for bar in group)
    weight = sum((bar.average * bar.volume for bar in group), Decimal(0))
    last = group[-1]
    return Bar(
        start=group[0].start,
        day=last.day,
        open=group[0].open,
        high=max(bar.high for bar in group),
        low=min(bar.low for bar in group),
        close=last.close,
        volume=volume if is_traded else -1,
        average=(round(weight / volume, _AVERAGE_DIGITS) if volume else last.average) if is_traded else Decimal(-1),
        count=sum(bar.count for bar in group) if is_traded else -1,
    )


def period_of(day: date, size_s: int) -> tuple[int, int]:
    """Which week or month a day belongs to."""
    if size_s > 7 * DAY_S:
        return day.year, day.month
    year, week, _ = day.isocalendar()
    return year, week


def _mean(values: list[Decimal]) -> Decimal:
    return round(sum(values, Decimal(0)) / len(values), _AVERAGE_DIGITS)
