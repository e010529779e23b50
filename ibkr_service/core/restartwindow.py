"""When the gateway is going to restart, as the settings declare it: no entry is sent into it, or shortly before.

TWS and IB Gateway restart once a day at a time of the user's choice, and IB resets its servers each night. An order
that leaves in the last seconds before may reach the broker or not, and nobody can ask for some minutes.
"""

from __future__ import annotations

from datetime import datetime, time, timedelta
from zoneinfo import ZoneInfo

import msgspec

DAY = timedelta(days=1)
EVERY_DAY = frozenset(range(7))


class RestartWindow(msgspec.Struct, frozen=True, kw_only=True):
    """A stretch of the day, in a time zone of its own.

    Args:
        start, end: wall times; an end before the start is on the next day.
        timezone: such as "America/New_York". days: on which it *begins*, Monday is 0.
    """

    start: time
    end: time
    timezone: str
    days: frozenset[int] = EVERY_DAY

    def covers(self, now: datetime, before: timedelta) -> bool:
        """Whether `now` is inside, or less than `before` ahead of it."""
        zone = ZoneInfo(self.timezone)
        today = now.astimezone(zone).date()
        # One that began yesterday may still go on; one that begins after midnight may be close.
        for day in (today - DAY, today, today + DAY):
            if day.weekday() in self.days:
                begins = datetime.combine(day, self.start, zone)
                ends = datetime.combine(day if self.end > self.start else day + DAY, self.end, zone)
                if begins - before <= now < ends:
                    return True
        return False

    def __str__(self) -> str:
        return f"{self.start:%H:%M} to {self.end:%H:%M} {self.timezone}"
