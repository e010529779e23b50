"""Ticks one by one and the order book, as core values. Pure.

`at` of a tick is the exchange's time as the broker reports it, in whole seconds, UTC.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

import msgspec

TickKind = Literal["Last", "AllLast", "BidAsk", "MidPoint"]  # AllLast has trades off the order book, too
TICK_KINDS: tuple[TickKind, ...] = ("Last", "AllLast", "BidAsk", "MidPoint")


class TradeTick(msgspec.Struct, frozen=True, kw_only=True):
    """A trade. `unreported`: not part of the volume, as odd lots; `conditions`: letters of the exchange."""

    at: datetime
    price: float
    size: float
    exchange: str = ""
    conditions: str = ""
    past_limit: bool = False
    unreported: bool = False


class BidAskTick(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the best bid or ask. None: there is none on that side."""

    at: datetime
    bid: float | None
    ask: float | None
    bid_size: float
    ask_size: float
    bid_past_low: bool = False
    ask_past_high: bool = False


class MidPointTick(msgspec.Struct, frozen=True, kw_only=True):
    """A change of the price halfway between bid and ask."""

    at: datetime
    price: float


AnyTick = TradeTick | BidAskTick | MidPointTick


class DepthRow(msgspec.Struct, frozen=True):
    """One row of the book. `market_maker` is an exchange in a book that is put together of several."""

    price: float
    size: float
    market_maker: str = ""


class Depth(msgspec.Struct, frozen=True, kw_only=True):
    """The order book at one moment (`at`: when we had it), best prices first."""

    at: datetime
    bids: tuple[DepthRow, ...]
    asks: tuple[DepthRow, ...]


class TradingHours(msgspec.Struct, frozen=True, kw_only=True):
    """One trading session: the day it belongs to, and from when to when (UTC)."""

    day: str
    opens: datetime
    closes: datetime
