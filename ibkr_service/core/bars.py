"""Bars, and the arithmetic of asking for them: TWS's bar sizes, the longest time one request may cover, pages. Pure.

A range that one request may not cover is cut into pages. A duration in seconds reaches back at least that many seconds
(TWS counts trading time), one in weeks back to the same moment of an earlier week; what comes too early is left out,
so pages meet without overlap and without a hole. Durations in days are not used: `1 D` is one trading session, which
for currencies and futures may have begun an hour ago.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from datetime import UTC, date, datetime, time, timedelta
from typing import NamedTuple

import msgspec

from ibkr_service.core.errors import InvalidRequest

MINUTE_S, HOUR_S, DAY_S, WEEK_S = 60, 3_600, 86_400, 604_800
YEAR_DAYS = 365
SECONDS_MIN = 60  # a shorter duration than this is not asked for
SATURDAY = 5
NOON = time(12, tzinfo=UTC)


class Bar(msgspec.Struct, frozen=True, kw_only=True):
    """What was traded or quoted in one span of time. Prices in the quote currency.

    `at` is when it begins (UTC); bars of a day or more have a date instead: the trading day, of weeks and months the
    last one. `average` is weighted by volume (TWS's WAP), `count` the number of trades; these two and `volume` are None
    for what is not traded (TWS's -1).
    """

    at: datetime | date
    open: float
    high: float
    low: float
    close: float
    volume: float | None = None
    average: float | None = None
    count: int | None = None


class BarSize(msgspec.Struct, frozen=True):
    """How long a bar is: TWS's name for it, and seconds (weeks and months are those of the calendar)."""

    name: str
    seconds: int

    @property
    def is_intraday(self) -> bool:
        """Whether bars begin at a moment, not on a date."""
        return self.seconds < DAY_S

    @property
    def longest_s(self) -> int:
        """How much time one request may cover."""
        return _LONGEST_S[self.name]

    def __str__(self) -> str:
        return self.name


# Name -> length of a bar, longest span of one request, both in seconds. Source: "Valid Duration and Bar Size Settings"
# (https://interactivebrokers.github.io/tws-api/historical_bars.html#hd_barsize), the longest duration that lists a
# size. "2 D" and "1 M" are left at a day and four weeks, which can be said exactly; a year of days is 52 weeks.
_TABLE: dict[str, tuple[int, int]] = {
    "1 secs": (1, 1_800),
    "5 secs": (5, HOUR_S),
    "10 secs": (10, 4 * HOUR_S),
    "15 secs": (15, 4 * HOUR_S),
    "30 secs": (30, 8 * HOUR_S),
    "1 min": (60, DAY_S),
    "2 mins": (120, DAY_S),
    **{f"{n} mins": (n * 60, WEEK_S) for n in (3, 5, 10, 15, 20)},
    "30 mins": (1_800, 4 * WEEK_S),
    "1 hour": (HOUR_S, 4 * WEEK_S),
    **{f"{n} hours": (n * HOUR_S, 4 * WEEK_S) for n in (2, 3, 4, 8)},
    "1 day": (DAY_S, 52 * WEEK_S),
    "1 week": (7 * DAY_S, 100 * 52 * WEEK_S),
    "1 month": (30 * DAY_S, 100 * 52 * WEEK_S),
}
_LONGEST_S = {name: longest_s for name, (_, longest_s) in _TABLE.items()}
SIZES: dict[str, BarSize] = {name: BarSize(name, seconds) for name, (seconds, _) in _TABLE.items()}
_PLAIN = {name.rstrip("s"): size for name, size in SIZES.items()}  # singular or plural: both are meant


def bar_size(text: str | BarSize) -> BarSize:
    """Read TWS's name of a bar size: `5 secs`, `1 min`, `1 day`. Singular and plural are the same.

    Raises:
        InvalidRequest: TWS has no such size; says which it has.
    """
    if isinstance(text, BarSize):
        return text
    size = _PLAIN.get(" ".join(str(text).lower().split()).rstrip("s"))
    if size is None:
        raise InvalidRequest(f"there is no bar size {text!r}: {', '.join(SIZES)}")
    return size


class Page(NamedTuple):
    """One request's share of a range: bars from `start` up to `end`, to be asked for with `end` and `duration`."""

    start: datetime
    end: datetime
    duration: str


def pages(start: datetime, end: datetime, size: BarSize) -> list[Page]:
    """The requests that cover a range, the oldest first, without overlap and without a hole.

    Intraday pages meet where a bar ends: on a multiple of the bar size, and where bars may be hours long on a Saturday
    at noon, UTC, when nearly nothing trades.

    Raises:
        InvalidRequest: a moment without a time zone, or an end that is not after the start.
    """
    start, end = moment(start), moment(end)
    if end <= start:
        raise InvalidRequest(f"a range from {start} to {end} holds nothing")
    if size.seconds <= MINUTE_S:  # no bar begins before: sessions begin on the minute
        start = min(_next_multiple(start, size.seconds), end - timedelta(microseconds=1))
    found: list[Page] = []
    while end > start:
        page = _last_page(start, end, size)
        found.append(page)
        end = page.start
    return found[::-1]


def _last_page(start: datetime, end: datetime, size: BarSize) -> Page:
    span_s = (end - start).total_seconds()
    if size.seconds > DAY_S:
        return Page(start, end, f"{math.ceil(span_s / DAY_S / YEAR_DAYS) + 1} Y")
    if size.is_intraday and (span_s <= DAY_S or size.longest_s <= DAY_S):
        longest_s = min(size.longest_s, DAY_S)
        begin = start if span_s <= longest_s else _next_multiple(end - timedelta(seconds=longest_s), size.seconds)
        return Page(begin, end, f"{max(SECONDS_MIN, math.ceil((end - begin).total_seconds()))} S")
    # Weeks are those of the exchange's calendar, which summer time may shorten by an hour.
    if span_s + HOUR_S <= size.longest_s:
        begin = start
    else:
        begin = _next_saturday(max(start, end - timedelta(seconds=size.longest_s)))
        begin = begin if begin < end else start
    weeks = math.ceil(((end - begin).total_seconds() + HOUR_S) / WEEK_S)
    return Page(begin, end, f"{min(weeks, size.longest_s // WEEK_S)} W")


def _next_multiple(at: datetime, seconds: int) -> datetime:
    return datetime.fromtimestamp(math.ceil(at.timestamp() / seconds) * seconds, UTC)


def _next_saturday(at: datetime) -> datetime:
    found = datetime.combine(at.date() + timedelta(days=(SATURDAY - at.weekday()) % 7), NOON)
    return found if found >= at else found + timedelta(days=7)


def moment(at: datetime | date) -> datetime:
    """A moment in UTC; of a date its midnight, UTC.

    Raises:
        InvalidRequest: it has no time zone, so nobody knows when it is.
    """
    if not isinstance(at, datetime):
        return datetime.combine(at, time(tzinfo=UTC))
    if at.tzinfo is None:
        raise InvalidRequest(f"{at} has no time zone: write datetime(…, tzinfo=UTC)")
    return at.astimezone(UTC)


def within(bars: Iterable[Bar], start: datetime, end: datetime) -> list[Bar]:
    """The bars that begin from `start` up to `end`; of those with a date the days from `start` on.

    A date says nothing of when its session began: that of a currency's Tuesday does on Monday evening. TWS sends none
    that began after the end that it was asked for.
    """
    return [bar for bar in bars if (start <= bar.at < end if isinstance(bar.at, datetime) else bar.at >= start.date())]


def merged(parts: Iterable[Iterable[Bar]]) -> list[Bar]:
    """Bars of several answers, sorted, each once; of two with the same beginning the one that was told later counts."""
    return sorted({bar.at: bar for part in parts for bar in part}.values(), key=lambda bar: bar.at)
