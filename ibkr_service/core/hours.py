"""When a contract trades: the sessions of its contract details, as moments in UTC.

TWS writes them in the exchange's own time, some days ahead: `20261123:0400-20261123:2000;20261128:CLOSED`, with several
sessions of a day separated by commas, and in an older form with the date once (`20261123:0930-1600`). Beyond the last
day that was told nothing is known, which is neither open nor closed.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

Source = Literal["contract", "calendar"]
Session = tuple[datetime, datetime]
DAY = timedelta(days=1)
TEXTS_MAX = 64
_CLOSED = re.compile(r"(\d{8}):CLOSED")
_SESSION = re.compile(r"(\d{8}):(\d{4})-(?:(\d{8}):)?(\d{4})")


class Hours(msgspec.Struct, frozen=True):
    """The sessions of one contract, oldest first, all moments in UTC (in other zones they would compare slowly).

    Args:
        trading: all of them. liquid: the regular ones. known_from, known_until: what lies outside is not known.
        source: the contract's own details, or a calendar in their place. zone: the exchange's, for people.
    """

    trading: tuple[Session, ...]
    liquid: tuple[Session, ...]
    known_from: datetime
    known_until: datetime
    source: Source = "contract"
    zone: str = "UTC"

    def covers(self, now: datetime) -> bool:
        """Whether anything is known of this moment."""
        return self.known_from <= now < self.known_until

    def is_open(self, now: datetime, *, outside_rth: bool) -> bool | None:
        """Whether it trades at this moment, outside regular hours too if that is asked for; None: nobody knows."""
        if not self.covers(now):
            return None
        sessions = self.trading if outside_rth else self.liquid
        return any(opens <= now < closes for opens, closes in sessions)

    def opens_next(self, now: datetime, *, outside_rth: bool) -> datetime | None:
        """When the next session begins, in the exchange's zone, as far as that is known."""
        sessions = self.trading if outside_rth else self.liquid
        opens = min((opens for opens, _ in sessions if opens > now), default=None)
        return None if opens is None else opens.astimezone(ZoneInfo(self.zone))


@lru_cache(maxsize=TEXTS_MAX)  # the same for all options of a class
def hours_of(trading: str, liquid: str, zone: str) -> Hours | None:
    """The hours that contract details tell; None if they tell none, or nothing that can be read."""
    try:
        where = ZoneInfo(zone)
    except (LookupError, ValueError, OSError):
        return None
    all_of, regular = _sessions(trading, where), _sessions(liquid, where)
    if all_of is None or regular is None:
        return None
    days = [*all_of[1], *regular[1]]
    # A session that begins on the evening before belongs to the first day, and so does that evening.
    first = min([min(days), *(opens for opens, _ in all_of[0])])
    return Hours(all_of[0], regular[0], first, max(days) + DAY, zone=zone)


def _sessions(text: str, zone: ZoneInfo) -> tuple[tuple[Session, ...], list[datetime]] | None:
    """Sessions, and the midnights of the days of which something was said; None if one part cannot be read."""
    found: list[Session] = []
    days: list[datetime] = []
    for part in filter(None, re.split("[;,]", text.strip())):
        try:
            if closed := _CLOSED.fullmatch(part):
                days.append(_moment(closed[1], "0000", zone))
                continue
            session = _SESSION.fullmatch(part)
            if session is None:
                return None
            opens = _moment(session[1], session[2], zone)
            closes = _moment(session[3] or session[1], session[4], zone)
        except ValueError:  # no such date
            return None
        if closes <= opens:
            return None
        found.append((opens, closes))
        days.append(_moment(session[3] or session[1], "0000", zone))
    return (tuple(sorted(found)), days) if days else None


def _moment(day: str, at: str, zone: ZoneInfo) -> datetime:
    if at == "2400":
        return (datetime.strptime(day, "%Y%m%d").replace(tzinfo=zone) + DAY).astimezone(UTC)
    return datetime.strptime(day + at, "%Y%m%d%H%M").replace(tzinfo=zone).astimezone(UTC)
