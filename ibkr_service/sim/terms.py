"""How an order is to trade: the fields of a ticket beyond side, quantity, limit and stop, read once.

What the simulator does not act on is not here but in `rules.NOT_MODELLED`. Sources: IB's API reference, "Order"; TWS
users' guide, "Order types" and "Modify the stop trigger method".
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from decimal import Decimal
from enum import Enum
from typing import Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from ibkr_service.sim.wire import FieldError, parse_number

EXCHANGE_ZONE: Final = ZoneInfo("America/New_York")
_WHEN = re.compile(r"(\d{8})(?:([- ])(\d{2}:\d{2}(?::\d{2})?)(?: (\S+))?)?")
_YES = frozenset({"1", "true", "True"})


class Kind(Enum):
    """What an order becomes when nothing holds it any more."""

    MARKET = "at any price"
    LIMIT = "at its limit or better"
    MIDPOINT = "at the middle of the quote"


@dataclass(frozen=True, slots=True)
class Style:
    """One order type: what it becomes, and what it waits for before."""

    kind: Kind
    is_triggered: bool = False
    touches: bool = False
    """Whether it is triggered by a price that is better than the market's (MIT, LIT), not by a worse one."""

    trails: bool = False
    is_for_close: bool = False


STYLES: Final[dict[str, Style]] = {
    "MKT": Style(Kind.MARKET),
    "LMT": Style(Kind.LIMIT),
    "STP": Style(Kind.MARKET, is_triggered=True),
    "STP LMT": Style(Kind.LIMIT, is_triggered=True),
    "TRAIL": Style(Kind.MARKET, is_triggered=True, trails=True),
    "TRAIL LIMIT": Style(Kind.LIMIT, is_triggered=True, trails=True),
    "MIT": Style(Kind.MARKET, is_triggered=True, touches=True),
    "LIT": Style(Kind.LIMIT, is_triggered=True, touches=True),
    "MOC": Style(Kind.MARKET, is_for_close=True),
    "LOC": Style(Kind.LIMIT, is_for_close=True),
    "MIDPRICE": Style(Kind.MIDPOINT),
}
"""Every order type that is modelled. Another one is a row here, or a new `Kind` in `matching.py`."""


@dataclass(frozen=True, slots=True)
class Terms:
    """A ticket's fine print."""

    outside_rth: bool = False
    trigger_method: int = 0
    oca_type: int = 0
    all_or_none: bool = False
    quantity_min: Decimal = Decimal(0)
    trail_stop: Decimal | None = None
    trail_percent: Decimal | None = None
    limit_offset: Decimal | None = None
    good_after: datetime | None = None
    good_till: datetime | None = None
    ignores_percentage: bool = False
    algorithm: str = ""


def read_terms(values: Mapping[str, str]) -> Terms:
    """Read the fine print.

    Raises:
        FieldError: a field is not what its place demands.
    """
    return Terms(
        outside_rth=values.get("outsideRth", "") in _YES,
        trigger_method=_whole(values, "triggerMethod"),
        oca_type=_whole(values, "ocaType"),
        all_or_none=values.get("allOrNone", "") in _YES,
        quantity_min=_number(values, "minQty") or Decimal(0),
        trail_stop=_number(values, "trailStopPrice"),
        trail_percent=_number(values, "trailingPercent"),
        limit_offset=_number(values, "lmtPriceOffset"),
        good_after=_moment(values, "goodAfterTime", time(0)),
        good_till=_moment(values, "goodTillDate", time(23, 59, 59)),
        ignores_percentage=values.get("overridePercentageConstraints", "") in _YES,
        algorithm=values.get("algoStrategy", ""),
    )


def _number(values: Mapping[str, str], name: str) -> Decimal | None:
    number = parse_number(values.get(name, ""), name)
    if number is not None and number.is_infinite():
        raise FieldError(f"{name}: expected a finite number")
    return number


def _whole(values: Mapping[str, str], name: str) -> int:
    number = _number(values, name)
    return 0 if number is None else int(number)


def _moment(values: Mapping[str, str], name: str, otherwise: time) -> datetime | None:
    """Read ``YYYYMMDD HH:MM:SS [zone]`` (by default New York's) or ``YYYYMMDD-HH:MM:SS`` (UTC); a date may stand alone.

    A date alone means `otherwise`, New York's time.
    """
    text = values.get(name, "").strip()
    if not text:
        return None
    match = _WHEN.fullmatch(text)
    try:
        if match is None:
            raise ValueError(text)  # noqa: TRY301  one border for all that is wrong with a date
        day = datetime.strptime(match[1], "%Y%m%d").replace(tzinfo=EXCHANGE_ZONE).date()
        clock = otherwise if match[3] is None else time.fromisoformat(match[3])
        return _zoned(day, clock, match[2], match[4])
    except (ValueError, ZoneInfoNotFoundError):
        raise FieldError(f"{name}: expected YYYYMMDD HH:MM:SS and a time zone, not {text[:40]!r}") from None


def _zoned(day: date, clock: time, separator: str | None, zone: str | None) -> datetime:
    if separator == "-":
        return datetime.combine(day, clock, UTC)
    return datetime.combine(day, clock, ZoneInfo(zone) if zone else EXCHANGE_ZONE).astimezone(UTC)
