"""What a desk can ask of market data beside quotes: the shapes of it, for those who use it and those who provide it.

The provider is `broker/` (`history.py`, `streams.py`), which a desk does not know.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime
from typing import Protocol

from ibkr_service.core import events as ev
from ibkr_service.core.bars import Bar, BarSize
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.ticks import AnyTick, Depth, TradingHours
from ibkr_service.mailbox import Stream

Interruption = ev.Gap | ev.Resumed | ev.SubscriptionFailed
BarItem = Bar | Interruption
TickByTickItem = AnyTick | Interruption
DepthItem = Depth | Interruption

Progress = Callable[[int, int, int], None]
"""Told (pages done, all pages, items so far)."""

UNREAD_MAX = 10_000  # items of a stream


class PastData(Protocol):
    """Where history is asked for."""

    async def bars(  # noqa: PLR0913 - a range can be said in several ways
        self,
        instrument: AnyInstrument,
        size: str | BarSize,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        days: float | None = None,
        what: str = "",
        regular_hours: bool = False,
        on_progress: Progress | None = None,
        timeout_s: float = ...,
    ) -> list[Bar]:
        """The bars of a range."""
        ...

    async def ticks(
        self,
        instrument: AnyInstrument,
        *,
        start: datetime,
        end: datetime | None = None,
        what: str = "",
        regular_hours: bool = False,
        on_progress: Progress | None = None,
        timeout_s: float = ...,
    ) -> list[AnyTick]:
        """The ticks of a range."""
        ...

    async def head_timestamp(
        self, instrument: AnyInstrument, *, what: str = "", regular_hours: bool = False, timeout_s: float = ...
    ) -> datetime:
        """When the data of an instrument begins."""
        ...

    async def trading_hours(
        self, instrument: AnyInstrument, days: int, *, regular_hours: bool = True, timeout_s: float = ...
    ) -> list[TradingHours]:
        """The sessions of the last trading days."""
        ...


class Streaming(Protocol):
    """Where streams are opened; closing one ends it."""

    def bars(
        self,
        instrument: AnyInstrument,
        size: str | BarSize = ...,
        *,
        what: str = "",
        regular_hours: bool = False,
        unread_max: int = UNREAD_MAX,
    ) -> Stream[BarItem]:
        """Bars as they become whole."""
        ...

    def tick_by_tick(
        self, instrument: AnyInstrument, kind: str, *, unread_max: int = UNREAD_MAX
    ) -> Stream[TickByTickItem]:
        """Every tick of a kind."""
        ...

    def depth(self, instrument: AnyInstrument, rows: int = 5, *, unread_max: int = UNREAD_MAX) -> Stream[DepthItem]:
        """The order book."""
        ...
