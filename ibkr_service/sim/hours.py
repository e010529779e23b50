"""When markets are open, as contract details say it: a `Schedule` per kind of contract, and a `Week` of days.

The simulated markets themselves never close unless somebody says so. The week here knows weekends; one that knows
holidays and early closes takes its place as `Gateway.week`.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from functools import lru_cache
from typing import Final

from ibkr_service.sim.instruments import Contract

DAYS_AHEAD: Final = 6

_SATURDAY = 5
_DAY = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Span:
    """A session, ``HHMM`` to ``HHMM`` in the exchange's time; one `overnight` begins on the day before."""

    opens: str
    closes: str
    overnight: bool = False

    def text(self, day: date) -> str:
        """The session that ends on a day, ``20261123:0930-20261123:1600``."""
        first = day - _DAY if self.overnight else day
        return f"{first:%Y%m%d}:{self.opens}-{day:%Y%m%d}:{self.closes}"


@dataclass(frozen=True, slots=True)
class Schedule:
    """An exchange's ordinary day: its zone, when it trades at all, and when it is liquid."""

    zone: str
    trading: Span
    liquid: Span


class Week:
    """Which days are ordinary: Monday to Friday, and no holidays; subclasses know more."""

    def span(self, schedule: Schedule, ordinary: Span, day: date) -> Span | None:
        """The session of a day: the ordinary one, a shorter one, or None when the exchange is closed."""
        del schedule
        return ordinary if day.weekday() < _SATURDAY else None


EASTERN: Final = "US/Eastern"
_REGULAR = Span("0930", "1600")
_STOCK = Schedule(EASTERN, Span("0400", "2000"), _REGULAR)
_NIGHT = Span("1715", "1700", overnight=True)

_BY_EXCHANGE: Final = {
    "AEB": Schedule("MET", Span("0900", "1730"), Span("0900", "1730")),
    "IBIS": Schedule("MET", Span("0900", "1730"), Span("0900", "1730")),
    "LSE": Schedule("GB-Eire", Span("0800", "1630"), Span("0800", "1630")),
    "TSE": Schedule(EASTERN, _REGULAR, _REGULAR),
    "CME": Schedule("US/Central", Span("1700", "1600", overnight=True), Span("0830", "1500")),
    "NYMEX": Schedule(EASTERN, Span("1800", "1700", overnight=True), Span("0900", "1430")),
    "COMEX": Schedule(EASTERN, Span("1800", "1700", overnight=True), Span("0820", "1330")),
}
_BY_SEC_TYPE: Final = {
    "STK": _STOCK,
    "OPT": Schedule(EASTERN, _REGULAR, _REGULAR),
    "IND": Schedule(EASTERN, _REGULAR, _REGULAR),
    "CASH": Schedule(EASTERN, _NIGHT, _NIGHT),
}


def schedule_of(contract: Contract) -> Schedule:
    """The ordinary day of what a contract is traded at: of its home exchange if that is known, else of its kind."""
    home = contract.primary_exchange or contract.exchanges[-1]
    return _BY_EXCHANGE.get(home) or _BY_SEC_TYPE.get(contract.sec_type, _STOCK)


@lru_cache(maxsize=256)
def hours_text(week: Week, schedule: Schedule, ordinary: Span, today: date) -> str:
    """The sessions of the coming days, ``20261123:0930-20261123:1600;20261128:CLOSED``."""
    sessions: list[str] = []
    for day in (today + _DAY * n for n in range(DAYS_AHEAD)):
        span = week.span(schedule, ordinary, day)
        sessions.append(f"{day:%Y%m%d}:CLOSED" if span is None else span.text(day))
    return ";".join(sessions)
