"""When an order may trade: sittings of the exchange and closing auctions, by instrument.

`AlwaysOpen` is the default: markets never close, a day ends at midnight in New York, and the closing auction is at
16:00 every day. `RealHours` follows the ordinary days of `hours.py`, and the holidays and half days of the
`exchange_calendars` package, which is imported only when real hours are asked for.

Simplifications: currencies and futures rest at the weekend, at Christmas and at New Year (futures on Good Friday too)
and have no half days; a combo keeps the hours of its first leg; index options close with the stocks.
"""

import warnings
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Any, Final, Protocol
from zoneinfo import ZoneInfo

from ibkr_service.sim import hours
from ibkr_service.sim.contracts import Combo, Instrument

HOURS: Final = ("always", "real")
NEW_YORK: Final = ZoneInfo("America/New_York")
CLOSING_TIME: Final = time(16)
DAYS_SEARCHED: Final = 12
"""No market rests for longer."""

EXCHANGES: Final = {"US/Eastern": "XNYS", "MET": "XETR", "GB-Eire": "XLON"}
"""Zone of a schedule → the calendar of its holidays; by zone, since all US exchanges keep the same ones."""

_DAY = timedelta(days=1)
_AFTER_HALF_DAY = "1700"
_FRIDAY = 4
_CHICAGO = "US/Central"
_YEAR = timedelta(days=370)


@dataclass(frozen=True, slots=True)
class Sitting:
    """From `opens` up to but not including `closes` an exchange trades; aware, in UTC."""

    opens: datetime
    closes: datetime

    def holds(self, moment: datetime) -> bool:
        """Whether it is on."""
        return self.opens <= moment < self.closes


class Calendar(Protocol):
    """What the exchange knows of time."""

    rests: bool
    """Whether markets close at all."""

    def sitting(self, instrument: Instrument, moment: datetime, *, extended: bool = False) -> Sitting:
        """The sitting that is on, or else the next one."""
        ...

    def close(self, instrument: Instrument, moment: datetime) -> datetime:
        """The next closing auction after a moment."""
        ...

    def close_of(self, day: date) -> datetime:
        """When what expires on a day stops trading."""
        ...


def day_of(moment: datetime) -> date:
    """The broker's date: New York's."""
    return moment.astimezone(NEW_YORK).date()


def at(day: date, clock: time, zone: ZoneInfo = NEW_YORK) -> datetime:
    """A time of a day, as UTC."""
    return datetime.combine(day, clock, zone).astimezone(UTC)


class AlwaysOpen:
    """Markets that never close."""

    rests = False

    def sitting(self, instrument: Instrument, moment: datetime, *, extended: bool = False) -> Sitting:
        """From midnight to midnight."""
        del instrument, extended
        day = day_of(moment)
        return Sitting(at(day, time(0)), at(day + _DAY, time(0)))

    def close(self, instrument: Instrument, moment: datetime) -> datetime:
        """At 16:00, every day."""
        del instrument
        today = self.close_of(day_of(moment))
        return today if today > moment else self.close_of(day_of(moment) + _DAY)

    def close_of(self, day: date) -> datetime:
        """At 16:00."""
        return at(day, CLOSING_TIME)


class RealHours(hours.Week):
    """The exchanges' own hours; also the `hours.Week` from which contract details are written."""

    rests = True

    def __init__(self) -> None:
        self._closes: dict[str, dict[date, datetime]] = {}
        self._known: dict[str, tuple[date, date]] = {}

    def sitting(self, instrument: Instrument, moment: datetime, *, extended: bool = False) -> Sitting:
        """The sitting that is on, or else the next one."""
        listed = instrument.legs[0].contract if isinstance(instrument, Combo) else instrument
        schedule = hours.schedule_of(listed)
        ordinary = schedule.trading if extended or listed.sec_type in {"FUT", "FOP"} else schedule.liquid
        zone = ZoneInfo(schedule.zone)
        day = moment.astimezone(zone).date()
        for _ in range(DAYS_SEARCHED):
            span = self.span(schedule, ordinary, day)
            if span is not None and moment < (sitting := _sitting(span, day, zone)).closes:
                return sitting
            day += _DAY
        raise AssertionError(f"no sitting of {instrument.symbol} within {DAYS_SEARCHED} days of {moment}")

    def span(self, schedule: hours.Schedule, ordinary: hours.Span, day: date) -> hours.Span | None:
        """The session of a day: the ordinary one, a shorter one, or None when the exchange is closed."""
        if ordinary.overnight:
            return None if _rests_overnight(day) or self._is_good_friday(schedule.zone, day) else ordinary
        exchange = EXCHANGES.get(schedule.zone)
        if exchange is None:
            return ordinary if day.weekday() <= _FRIDAY else None
        closes = self._close_on(exchange, day)
        if closes is None:
            return None
        local = f"{closes.astimezone(ZoneInfo(schedule.zone)):%H%M}"
        if local >= schedule.liquid.closes:
            return ordinary
        return hours.Span(ordinary.opens, local if ordinary is schedule.liquid else _AFTER_HALF_DAY)

    def close(self, instrument: Instrument, moment: datetime) -> datetime:
        """The next close of the regular session."""
        return self.sitting(instrument, moment).closes

    def close_of(self, day: date) -> datetime:
        """When the stocks close; on a holiday, when they would have."""
        return self._close_on("XNYS", day) or at(day, CLOSING_TIME)

    def _close_on(self, exchange: str, day: date) -> datetime | None:
        first, last = self._known.get(exchange, (date.max, date.min))
        if not first <= day <= last:
            first, last = day - _YEAR, day + _YEAR
            self._known[exchange] = first, last
            self._closes[exchange] = _closes_of(exchange, first, last)
        return self._closes[exchange].get(day)

    def _is_good_friday(self, zone: str, day: date) -> bool:
        # The one weekday holiday in spring on which the stock exchange is closed on a Friday.
        is_spring_friday = day.weekday() == _FRIDAY and day.month in {3, 4}
        return zone == _CHICAGO and is_spring_friday and self._close_on("XNYS", day) is None


def _sitting(span: hours.Span, day: date, zone: ZoneInfo) -> Sitting:
    first = day - _DAY if span.overnight else day
    opens, closes = (time(int(text[:2]), int(text[2:])) for text in (span.opens, span.closes))
    return Sitting(at(first, opens, zone), at(day, closes, zone))


def _rests_overnight(day: date) -> bool:
    """An overnight session begins on Sunday to Thursday evenings."""
    return day.weekday() > _FRIDAY or (day.month, day.day) in {(1, 1), (12, 25)}


def _closes_of(exchange: str, first: date, last: date) -> dict[date, datetime]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # exchange_calendars 4.13 uses what pandas 3.1 deprecates
        import exchange_calendars  # noqa: PLC0415  a second of imports that most gateways never need

        calendar: Any = exchange_calendars.get_calendar(exchange, start=str(first), end=str(last))
        rows = zip(calendar.schedule.index, calendar.schedule["close"], strict=True)
        return {label.date(): _utc(closes) for label, closes in rows}


def _utc(stamp: Any) -> datetime:  # noqa: ANN401  pandas has no types of its own here
    moment = stamp.to_pydatetime()
    assert isinstance(moment, datetime)
    return moment.astimezone(UTC)


def calendar_of(setting: str) -> Calendar:
    """The calendar of a setting."""
    return RealHours() if setting == "real" else AlwaysOpen()
