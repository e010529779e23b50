"""When markets are open, as contract details say it.

The simulated markets themselves never close, and holidays are not modelled.
"""

from datetime import date, timedelta
from typing import Final

ZONE_NAME: Final = "US/Eastern"
DAYS_AHEAD: Final = 6

_SATURDAY = 5


def exchange_hours(today: date, opens: str, closes: str) -> str:
    """The sessions of the coming days, ``20261123:0930-20261123:1600;20261128:CLOSED``."""
    sessions: list[str] = []
    for day in (today + timedelta(days=n) for n in range(DAYS_AHEAD)):
        stamp = f"{day:%Y%m%d}"
        is_open = day.weekday() < _SATURDAY
        sessions.append(f"{stamp}:{opens}-{stamp}:{closes}" if is_open else f"{stamp}:CLOSED")
    return ";".join(sessions)


def forex_hours(today: date) -> str:
    """The sessions of the coming days: from 17:15 to 17:00 on the next day, not on Friday night."""
    sessions: list[str] = []
    for day in (today + timedelta(days=n) for n in range(DAYS_AHEAD)):
        before = day - timedelta(days=1)
        is_open = day.weekday() < _SATURDAY
        sessions.append(f"{before:%Y%m%d}:1715-{day:%Y%m%d}:1700" if is_open else f"{day:%Y%m%d}:CLOSED")
    return ";".join(sessions)
