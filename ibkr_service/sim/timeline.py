"""The parts of a trading day in New York, and how much prices move in each of them.

A day is cut into segments that never change: night, pre-market, regular session, after hours for what stocks follow;
two sessions and the break between them for what trades round the clock. A segment is counted in *steps* of a quarter of
a second since 1970, so that bars of every size begin and end between two steps.

Simplification: prices go on moving at night and at the weekend, as on any other day, so that somebody who tries the
gateway on a Sunday sees a market. With real hours nothing of it is told while a market is closed.
"""

from datetime import date, datetime, time, timedelta
from functools import lru_cache
from typing import Final
from zoneinfo import ZoneInfo

NEW_YORK: Final = ZoneInfo("America/New_York")
STEPS_PER_S: Final = 4

_SATURDAY, _SUNDAY, _FRIDAY = 5, 6, 4
_MINUTES_PER_HOUR = 60


class Timeline:
    """How the days of one kind of instrument are cut.

    Args:
        starts: the minutes of the day at which its segments begin, the first at 0.
        weekday: the share of a trading day's variance that falls into each segment.
        friday: the same on Fridays.
        saturday: the same on Saturdays.
        sunday: the same on Sundays.
    """

    def __init__(
        self,
        starts: tuple[int, ...],
        weekday: tuple[float, ...],
        friday: tuple[float, ...],
        saturday: tuple[float, ...],
        sunday: tuple[float, ...],
    ) -> None:
        self._starts = starts
        self._weights = (weekday, weekday, weekday, weekday, friday, saturday, sunday)
        self.per_day = len(starts)

    def bounds(self, index: int) -> tuple[int, int]:
        """The first step of a segment, and the first one after it."""
        day, part = divmod(index, self.per_day)
        starts = _starts_of(day, self._starts)
        return starts[part] * STEPS_PER_S, starts[part + 1] * STEPS_PER_S

    def weight(self, index: int) -> float:
        """How much of a trading day's variance falls into a segment."""
        day, part = divmod(index, self.per_day)
        return self._weights[(day - 1) % 7][part]

    def index_of(self, step: int) -> int:
        """The segment that a step lies in."""
        second = step // STEPS_PER_S
        day = datetime.fromtimestamp(second, NEW_YORK).toordinal()
        starts = _starts_of(day, self._starts)
        part = self.per_day - 1
        while second < starts[part]:
            part -= 1
        return day * self.per_day + part


@lru_cache(maxsize=16_384)
def _starts_of(ordinal: int, minutes: tuple[int, ...]) -> tuple[int, ...]:
    """The seconds since 1970 at which the segments of a day begin, and the next day's first."""
    day = date.fromordinal(ordinal)
    midnight = datetime.combine(day + timedelta(days=1), time(0), NEW_YORK)
    own = (datetime.combine(day, time(*divmod(minute, _MINUTES_PER_HOUR)), NEW_YORK) for minute in minutes)
    return (*(int(moment.timestamp()) for moment in own), int(midnight.timestamp()))


_NIGHT = 0.03
STOCK_TIMELINE: Final = Timeline(
    starts=(0, 4 * 60, 9 * 60 + 30, 16 * 60, 20 * 60),
    weekday=(_NIGHT, 0.06, 0.82, 0.06, _NIGHT),
    friday=(_NIGHT, 0.06, 0.82, 0.06, _NIGHT),
    saturday=(_NIGHT, 0.06, 0.82, 0.06, _NIGHT),
    sunday=(_NIGHT, 0.06, 0.82, 0.06, _NIGHT),
)
"""Night, pre-market from 4:00, the regular session from 9:30, after hours from 16:00, night from 20:00."""

FOREX_TIMELINE: Final = Timeline(
    starts=(0, 17 * 60, 17 * 60 + 15),
    weekday=(0.70, 0.01, 0.29),
    friday=(0.70, 0.01, 0.29),
    saturday=(0.70, 0.01, 0.29),
    sunday=(0.70, 0.01, 0.29),
)
"""Until 17:00, the break, and from 17:15."""
