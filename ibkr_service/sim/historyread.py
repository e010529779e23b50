"""Requests for history as clients write them: durations, bar sizes, moments in time, and what IB says of bad ones."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ibkr_service.sim.almanac import Almanac, Session
from ibkr_service.sim.bars import ALIASES, BAR_SIZES, BID_ASK, DAY_S, VALUES
from ibkr_service.sim.contracts import ContractSpec, Instrument, read_legs, read_spec
from ibkr_service.sim.rules import Refused
from ibkr_service.sim.timeline import NEW_YORK
from ibkr_service.sim.wire import Fields

SCHEDULE: Final = "SCHEDULE"
VOLATILITIES: Final = frozenset({"HISTORICAL_VOLATILITY", "OPTION_IMPLIED_VOLATILITY"})
SHOWN: Final = frozenset({*VALUES, BID_ASK, SCHEDULE, *VOLATILITIES})
YEARS_MAX: Final = 10
"""How far back prices go; IB's own history of a stock is longer."""

_DURATION = re.compile(r"(\d{1,6}) ([SDWMY])")
_MOMENT = re.compile(r"(\d{8})(?:(-| {1,2})(\d{1,2}:\d{2}:\d{2})(?: (\S+))?)?")
_LONGEST: Final = {
    "S": (DAY_S, "86400 seconds", "days"),
    "D": (365, "365 days", "years"),
    "W": (52, "52 weeks", "years"),
    "M": (12, "12 months", "years"),
}
_DAYS_IN_MONTH_MAX = 28
_MONTHS_PER_YEAR = 12
_EPOCH = (1, 2)


def bad_request(cause: str) -> Refused:
    """Return the error of a request for history that cannot be meant."""
    return Refused(321, f"Error validating request.-'bN' : cause - {cause}")


def no_service(text: str) -> Refused:
    """Return the error of the historical data service."""
    return Refused(162, f"Historical Market Data Service error message:{text}")


class Duration(NamedTuple):
    """How far back: ``2 D`` is two trading days, ``3600 S`` an hour of trading; W, M, Y are those of the calendar."""

    amount: int
    unit: str


@dataclass(frozen=True, slots=True)
class HistoryRequest:
    """A request for bars."""

    req_id: int
    spec: ContractSpec
    end: str
    size: str
    duration: Duration
    regular: bool
    show: str
    date_format: int
    stays_current: bool

    @property
    def size_s(self) -> int:
        """How long a bar is."""
        return BAR_SIZES[self.size]

    @property
    def is_intraday(self) -> bool:
        """Whether bars are shorter than a day."""
        return self.size_s < DAY_S


def read_history(fields: Fields) -> HistoryRequest:
    """Take the fields of a request for bars.

    Raises:
        Refused: it cannot be meant.
    """
    req_id, spec = fields.whole(), read_spec(fields)
    fields.flag()  # expired contracts are as good as others
    end, size, duration, regular, show = fields.text(), fields.text(), fields.text(), fields.flag(), fields.text()
    date_format = fields.whole(1)
    if spec.is_combo:
        spec = replace(spec, legs=read_legs(fields))
    stays_current = fields.flag()
    size = ALIASES.get(size, size)
    if size not in BAR_SIZES:
        raise bad_request(f"Historical data bar size setting is invalid. Legal ones are: {', '.join(BAR_SIZES)}")
    if show.upper() not in SHOWN:
        raise bad_request(f"{show} is not a legal value of what to show. Legal ones are: {', '.join(sorted(SHOWN))}")
    if date_format not in _EPOCH:
        raise bad_request("Date format must be 1 or 2")
    if stays_current and end:
        raise bad_request("End date must be empty for a request that is kept up to date")
    if stays_current and show.upper() not in VALUES:
        raise bad_request(f"{show} cannot be kept up to date")
    if end and show.upper() == "ADJUSTED_LAST":
        raise bad_request("End Date not supported with adjusted last")
    if show.upper() == SCHEDULE and size != "1 day":
        raise bad_request("The trading schedule comes with a bar size of 1 day")
    return HistoryRequest(
        req_id, spec, end, size, read_duration(duration), regular, show.upper(), date_format, stays_current
    )


def read_duration(text: str) -> Duration:
    """Read ``2 D``."""
    match = _DURATION.fullmatch(text.strip().upper())
    if match is None or not int(match[1]):
        raise bad_request(f"Historical data duration string [{text[:40]}] is invalid")
    duration = Duration(int(match[1]), match[2])
    longest = _LONGEST.get(duration.unit)
    if longest is not None and duration.amount > longest[0]:
        _, amount, other = longest
        raise bad_request(f"Historical data requests for durations longer than {amount} must be made in {other}.")
    return duration


def read_moment(text: str) -> datetime | None:
    """Read ``20261123 16:00:00 US/Eastern``, ``20261123-21:00:00`` (UTC) or ``20261123``; None when it is empty.

    A time without a zone is New York's, a date without a time the end of that day.
    """
    if not text.strip():
        return None
    match = _MOMENT.fullmatch(text.strip())
    if match is None:
        raise _bad_moment(text)
    try:
        day, dash, clock, zone = match.groups()
        where = UTC if dash == "-" else ZoneInfo(zone) if zone else NEW_YORK
        return datetime.strptime(f"{day} {clock or '23:59:59'}", "%Y%m%d %H:%M:%S").replace(tzinfo=where)
    except (ValueError, ZoneInfoNotFoundError, OSError):
        raise _bad_moment(text) from None


def _bad_moment(text: str) -> Refused:
    return bad_request(f"Historical data query end date/time string [{text[:40]}] is invalid")


def sessions_of(
    almanac: Almanac, instrument: Instrument, duration: Duration, end_s: float, floor: float, *, regular: bool
) -> tuple[list[Session], float]:
    """The sessions that a duration before a moment touches, in order, and the second at which it begins.

    There is nothing before `floor`.
    """
    back = almanac.back_from(instrument, end_s, regular=regular, floor=floor)
    match duration.unit:
        case "S":
            return _seconds_back(back, duration.amount, end_s)
        case "D":
            sessions = [session for session, _ in zip(back, range(duration.amount), strict=False)][::-1]
            return sessions, (sessions[0].start if sessions else end_s)
    begin = max(floor, _calendar_back(end_s, duration))
    sessions = []
    for session in back:
        if session.end <= begin:
            break
        sessions.append(session)
    return sessions[::-1], begin


def _seconds_back(back: Iterator[Session], seconds: int, end_s: float) -> tuple[list[Session], float]:
    """As many sessions as it takes for so many seconds of trading."""
    sessions: list[Session] = []
    left = float(seconds)
    for session in back:
        sessions.append(session)
        length = min(session.end, end_s) - session.start
        if length >= left:
            return sessions[::-1], min(session.end, end_s) - left
        left -= length
    return sessions[::-1], (sessions[-1].start if sessions else end_s)


def _calendar_back(end_s: float, duration: Duration) -> float:
    end = datetime.fromtimestamp(end_s, NEW_YORK)
    match duration.unit:
        case "W":
            return (end - timedelta(weeks=duration.amount)).timestamp()
        case "M":
            return _months_before(end, duration.amount).timestamp()
        case _:
            return _months_before(end, min(duration.amount, YEARS_MAX) * _MONTHS_PER_YEAR).timestamp()


def years_before(second: float, years: int) -> float:
    """The same day of the year, years before."""
    return _months_before(datetime.fromtimestamp(second, NEW_YORK), years * _MONTHS_PER_YEAR).timestamp()


def _months_before(moment: datetime, months: int) -> datetime:
    year, month = divmod(moment.year * _MONTHS_PER_YEAR + moment.month - 1 - months, _MONTHS_PER_YEAR)
    return moment.replace(year=year, month=month + 1, day=min(moment.day, _DAYS_IN_MONTH_MAX))
