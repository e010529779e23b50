"""The sessions of an instrument, day by day, as seconds since 1970: what history is cut by.

Hours are those that contract details announce (`hours.py`), or the exchanges' real ones with their holidays
(`calendars.py`), whichever the gateway keeps.
"""

from collections.abc import Iterator
from datetime import date, datetime, time, timedelta
from typing import NamedTuple
from zoneinfo import ZoneInfo

from ibkr_service.sim.contracts import Combo, Contract, Instrument
from ibkr_service.sim.hours import Span, Week, schedule_of
from ibkr_service.sim.timeline import NEW_YORK

_DAY = timedelta(days=1)
_DAYS_OFF_MAX = 12
"""No market rests for longer."""

_KNOWN_MAX = 20_000


class Session(NamedTuple):
    """One session: from second `start` up to `end`, of the trading day `day`."""

    start: int
    end: int
    day: date


class Almanac:
    """Sessions of instruments.

    Args:
        week: which days are ordinary.
        never_rests: whether prices are quoted, and orders filled, outside sessions too.
    """

    def __init__(self, week: Week, *, never_rests: bool = True) -> None:
        self._week = week
        self.never_rests = never_rests
        self._known: dict[tuple[int, bool, date], Session | None] = {}

    def session(self, instrument: Instrument, day: date, *, regular: bool) -> Session | None:
        """The session of a trading day, regular or with extended hours; None when there is none."""
        contract = leading(instrument)
        key = contract.con_id, regular, day
        if key not in self._known:
            if len(self._known) >= _KNOWN_MAX:
                self._known.clear()
            self._known[key] = self._made(contract, day, regular=regular)
        return self._known[key]

    def _made(self, contract: Contract, day: date, *, regular: bool) -> Session | None:
        schedule = schedule_of(contract)
        span = self._week.span(schedule, schedule.liquid if regular else schedule.trading, day)
        return None if span is None else _session(span, ZoneInfo(schedule.zone), day)

    def back_from(self, instrument: Instrument, second: float, *, regular: bool, floor: float) -> Iterator[Session]:
        """Sessions that begin before a second, the latest first, back to those that begin before `floor`."""
        # A session may begin on the day before its own.
        day = datetime.fromtimestamp(second, NEW_YORK).date() + 2 * _DAY
        first = datetime.fromtimestamp(floor, NEW_YORK).date() - _DAY
        while day >= first:
            session = self.session(instrument, day, regular=regular)
            if session is not None and session.start < second and session.end > floor:
                yield session
            day -= _DAY

    def latest(self, instrument: Instrument, second: float, *, regular: bool) -> Session | None:
        """The session that is on, or the last one before."""
        floor = second - _DAYS_OFF_MAX * _DAY.total_seconds()
        return next(self.back_from(instrument, second, regular=regular, floor=floor), None)

    def today(self, second: float) -> date:
        """New York's date."""
        return datetime.fromtimestamp(second, NEW_YORK).date()

    def is_open(self, instrument: Instrument, second: float, *, regular: bool) -> bool:
        """Whether a session is on."""
        session = self.latest(instrument, second, regular=regular)
        return session is not None and session.start <= second < session.end


def leading(instrument: Instrument) -> Contract:
    """The contract whose hours an instrument keeps: itself, or a combo's first leg."""
    return instrument.legs[0].contract if isinstance(instrument, Combo) else instrument


def _second(moment: datetime) -> int:
    return int(moment.timestamp())


def _session(span: Span, zone: ZoneInfo, day: date) -> Session:
    first = day - _DAY if span.overnight else day
    opens, closes = (
        datetime.combine(on, time(int(clock[:2]), int(clock[2:])), zone)
        for on, clock in ((first, span.opens), (day, span.closes))
    )
    return Session(_second(opens), _second(closes), day)
