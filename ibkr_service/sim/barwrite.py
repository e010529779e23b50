"""Bars and moments as TWS writes them."""

from datetime import UTC, datetime
from typing import Final

from ibkr_service.sim.bars import Bar
from ibkr_service.sim.historyread import HistoryRequest
from ibkr_service.sim.timeline import NEW_YORK
from ibkr_service.sim.wire import Value

ZONE: Final = "US/Eastern"


def bar_fields(bar: Bar, request: HistoryRequest) -> list[Value]:
    """A bar as the answer to a request has it."""
    date = bar_date(bar, request)
    return [date, bar.open, bar.high, bar.low, bar.close, bar.volume, bar.average, bar.count]


def bar_date(bar: Bar, request: HistoryRequest) -> str:
    """When a bar begins; a bar of a day or more is dated by its (last) day."""
    if not request.is_intraday:
        return f"{bar.day:%Y%m%d}"
    return stamp(bar.start) if request.date_format == 1 else str(bar.start)


def stamp(second: float) -> str:
    """A second since 1970, in New York's time."""
    return f"{datetime.fromtimestamp(second, NEW_YORK):%Y%m%d %H:%M:%S} {ZONE}"


def dashed(second: float) -> str:
    """A second since 1970, in New York's time and without its name, as the schedule has it."""
    return f"{datetime.fromtimestamp(second, NEW_YORK):%Y%m%d-%H:%M:%S}"


def utc_stamp(second: float) -> str:
    """A second since 1970, in UTC, as the head of the data has it."""
    return f"{datetime.fromtimestamp(second, UTC):%Y%m%d-%H:%M:%S}"
