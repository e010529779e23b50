"""The figures of an instrument's day so far: open, high, low, volume, and the close of the day before.

They are functions of time like the prices themselves: who looks late sees the same high. The last answer for an
instrument is kept, so that the next one costs only what has happened since.
"""

import math
from collections.abc import Hashable
from dataclasses import dataclass, field
from datetime import timedelta
from decimal import Decimal
from typing import Final, NamedTuple

from ibkr_service.sim.almanac import Almanac, Session
from ibkr_service.sim.contracts import Instrument
from ibkr_service.sim.pricing import Prices
from ibkr_service.sim.quotes import Quote

_KNOWN_MAX: Final = 1024
_JUST_AFTER_S = 1e-4
_JUST_BEFORE_S = 1e-3
_REST_S = 4 * 3600
"""A day's figures stay until a while after its last session."""


class Day(NamedTuple):
    """Prices of the regular session, None before it has begun; `volume` that of extended hours included."""

    open: Decimal | None = None
    high: Decimal | None = None
    low: Decimal | None = None
    close: Decimal | None = None
    volume: int | None = None


@dataclass(slots=True)
class _Progress:
    """How far a day has been looked at."""

    session: Session
    close: Decimal | None
    traded_from_s: float
    seen_s: float = -math.inf
    scanned_s: float = -math.inf
    """Up to here the range is exact; later quotes that nobody was told may be missing in it."""
    day: Day = field(default_factory=Day)
    volume: int = 0


class Figures:
    """Figures of the day, for any instrument.

    Args:
        prices: where they come from.
        almanac: when days begin and end.
        scan_s: how late the range of a day may learn of quotes that nobody was told, in gateway seconds.
    """

    def __init__(self, prices: Prices, almanac: Almanac, scan_s: float = 0.0) -> None:
        self._prices = prices
        self._scan_s = scan_s
        self._almanac = almanac
        self._known: dict[Hashable, _Progress] = {}

    def of(self, instrument: Instrument, quote: Quote) -> Day:
        """The figures of the day, up to and including a quote."""
        second = self._prices.started_s + quote.at
        progress = self._known.get(instrument.key)
        if progress is None or not progress.seen_s <= quote.at or second >= progress.session.end:
            progress = self._begin(instrument, second)
        if progress.seen_s < quote.at:
            if not self._is_within(progress, quote):
                self._go_on(progress, instrument, quote)
            progress.seen_s = quote.at
        return progress.day

    def _is_within(self, progress: _Progress, quote: Quote) -> bool:
        """Whether a quote changes nothing, as most do: nothing is traded, and the range is looked at another time."""
        low, high = progress.day.low, progress.day.high
        if quote.last is not None or low is None or high is None or quote.at - progress.scanned_s >= self._scan_s:
            return False
        return low <= quote.mid <= high

    def _is_next(self, instrument: Instrument, seen_s: float, at_s: float) -> bool:
        """Whether nothing has changed between two moments."""
        change_s = self._prices.next_change(instrument, seen_s)
        return change_s is not None and change_s >= at_s - _JUST_AFTER_S

    def _begin(self, instrument: Instrument, second: float) -> _Progress:
        """Look at the day of a moment from its beginning."""
        session = self._day_of(instrument, second)
        floor = session.start - timedelta(days=12).total_seconds()
        before = next(self._almanac.back_from(instrument, session.start, regular=True, floor=floor), None)
        close = None
        if before is not None:
            last = self._prices.quote(instrument, before.end - self._prices.started_s - _JUST_BEFORE_S)
            close = None if last is None else _value(last)
        whole = self._almanac.session(instrument, session.day, regular=False) or session
        if len(self._known) >= _KNOWN_MAX:
            self._known.clear()
        begun = _Progress(session, close, whole.start - self._prices.started_s)
        begun.day = Day(close=close)
        self._known[instrument.key] = begun
        return begun

    def _day_of(self, instrument: Instrument, second: float) -> Session:
        """The regular session of the day of a moment: one that is to come, if another one ended the day before."""
        latest = self._almanac.latest(instrument, second, regular=False)
        if latest is not None:
            regular = self._almanac.session(instrument, latest.day, regular=True)
            if regular is not None:
                return regular._replace(end=max(regular.end, latest.end) + _REST_S)
        start = int(second)
        return Session(start, start + _REST_S, self._almanac.today(second))

    def _go_on(self, progress: _Progress, instrument: Instrument, quote: Quote) -> None:
        if quote.last is not None:
            traded_from_s = max(progress.traded_from_s, progress.seen_s + _JUST_AFTER_S)
            trades = self._prices.trades(instrument, traded_from_s, quote.at + _JUST_AFTER_S)
            progress.volume += trades.volume
        quotes = self._range(progress, instrument, quote)
        values = [_value(each) for each in quotes]
        day, is_traded = progress.day, quote.last is not None
        if values:
            progress.day = Day(
                open=day.open if day.open is not None else values[0],
                high=max(values) if day.high is None else max(day.high, *values),
                low=min(values) if day.low is None else min(day.low, *values),
                close=day.close,
                volume=progress.volume if is_traded else None,
            )
        elif is_traded:
            progress.day = Day(day.open, day.high, day.low, day.close, progress.volume)

    def _range(self, progress: _Progress, instrument: Instrument, quote: Quote) -> list[Quote]:
        """The quotes that may widen the day's range: the first, the lowest, the highest and the last one."""
        begin_s = progress.session.start - self._prices.started_s
        if progress.seen_s >= begin_s:
            # Mostly there is one change since the last time: the quote itself. Or a few that nobody was told.
            if quote.at - progress.scanned_s < self._scan_s:
                return [quote]
            if progress.scanned_s >= progress.seen_s and self._is_next(instrument, progress.seen_s, quote.at):
                progress.scanned_s = quote.at
                return [quote]
        from_s, to_s = max(begin_s, progress.scanned_s + _JUST_AFTER_S), quote.at + _JUST_AFTER_S
        progress.scanned_s = quote.at
        moments = self._prices.moments(instrument, from_s, to_s) if from_s < to_s else None
        known = {quote.at: quote}
        for moment_s in moments or ():
            if moment_s not in known and (other := self._prices.quote(instrument, moment_s)) is not None:
                known[moment_s] = other
        return [known[moment_s] for moment_s in moments or () if moment_s in known]


def _value(quote: Quote) -> Decimal:
    """What counts for the day's range: the last price, or where nothing is traded the middle of the quote."""
    return quote.mid if quote.last is None else quote.last
