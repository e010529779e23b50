"""What the broker has told about trading hours: contract details say them some days ahead, so they grow old.

Where nobody has asked, or what was told is over, a calendar of exchange_calendars can stand in for shares and options
in the United States, if the settings want that; it says that it is one.
"""

from __future__ import annotations

import warnings
from datetime import UTC, date, datetime, timedelta
from typing import Any

from ibkr_service.core.hours import DAY, Hours, Session, hours_of
from ibkr_service.core.instrument import AnyInstrument, Option, Stock

ASK_AGAIN = timedelta(hours=1)
BEHIND = 7  # days before today that the calendar is asked for
AHEAD = 30
YEAR = timedelta(days=365)
EXTENDED = timedelta(hours=5, minutes=30), timedelta(hours=4)  # 4:00 to 20:00 around 9:30 to 16:00


class TradingHours:
    """Remembers, and answers without waiting.

    Args:
        calendar: stands in where the broker has told nothing.
    """

    def __init__(self, calendar: UsCalendar | None = None) -> None:
        self._told: dict[AnyInstrument, Hours] = {}
        self._asked_at: dict[AnyInstrument, datetime] = {}
        self._calendar = calendar

    def seen(self, instrument: AnyInstrument, details: Any, now: datetime) -> None:
        """Take in contract details. What cannot be read is as if it had not been told."""
        self._asked_at[instrument] = now
        hours = hours_of(details.tradingHours, details.liquidHours, details.timeZoneId)
        if hours is not None:
            self._told[instrument] = hours

    def is_asked(self, instrument: AnyInstrument, now: datetime) -> bool:
        """Whether the broker has told the hours of this moment, or was asked in vain a short time ago."""
        hours, asked_at = self._told.get(instrument), self._asked_at.get(instrument)
        return (hours is not None and hours.covers(now)) or (asked_at is not None and now - asked_at < ASK_AGAIN)

    def hours(self, instrument: AnyInstrument, now: datetime) -> Hours | None:
        """The hours of an instrument, as far as they are known."""
        hours = self._told.get(instrument)
        if (hours is None or not hours.covers(now)) and self._calendar is not None:
            return self._calendar.hours(instrument, now) or hours
        return hours


def has_calendar(instrument: AnyInstrument) -> bool:
    """Whether the calendar knows when it trades."""
    return type(instrument) in {Stock, Option} and instrument.currency == "USD"


class UsCalendar:
    """The New York Stock Exchange's sessions, for shares and options in USD.

    Args:
        now: the time at the start; loading takes about a second, and is done again after a year.
    """

    def __init__(self, now: datetime) -> None:
        import exchange_calendars  # noqa: PLC0415 - heavy, and nearly nobody needs it

        self._load = exchange_calendars.get_calendar
        self._sessions: dict[date, Session] = {}
        self._known: tuple[date, date] = (date.max, date.min)
        self._found: dict[tuple[bool, date], Hours] = {}
        self._reach(now.date(), now.date() + AHEAD * DAY)  # at the start, not at the first order

    def hours(self, instrument: AnyInstrument, now: datetime) -> Hours | None:
        """Its hours around this moment; None if it trades elsewhere."""
        if not has_calendar(instrument):
            return None
        extended = isinstance(instrument, Stock)
        key = extended, now.date()
        if key not in self._found:
            self._found = {key: self._around(now, extended=extended)}
        return self._found[key]

    def _around(self, now: datetime, *, extended: bool) -> Hours:
        first, last = now - BEHIND * DAY, now + AHEAD * DAY
        self._reach(first.date(), last.date())
        liquid = [session for day, session in sorted(self._sessions.items()) if first.date() <= day <= last.date()]
        before, after = EXTENDED if extended else (timedelta(0), timedelta(0))
        trading = tuple((opens - before, closes + after) for opens, closes in liquid)
        return Hours(trading, tuple(liquid), first, last, "calendar")

    def _reach(self, first: date, last: date) -> None:
        """Load the sessions of a year more whenever the known ones do not reach."""
        if self._known[0] <= first and last <= self._known[1]:
            return
        self._known = first - YEAR, last + YEAR
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of pandas, about how it is used there
            calendar = self._load("XNYS", start=self._known[0].isoformat(), end=self._known[1].isoformat())
            opens, closes = calendar.opens.to_dict(), calendar.closes.to_dict()
        self._sessions = {
            day.date(): (moment.to_pydatetime().astimezone(UTC), closes[day].to_pydatetime().astimezone(UTC))
            for day, moment in opens.items()
        }
