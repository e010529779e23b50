"""The limits of the settings as plain values. What each counts, and what passes it, is the table in docs/risk.md.

There are three levels: of one order, of a strategy, of an account. A strategy may have tighter ones of its own
(`tightened`), never looser ones. None: there is no such limit.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal
from typing import Any, Literal

import msgspec

from ibkr_service.core.increments import OffTick, UnknownIncrement
from ibkr_service.core.restartwindow import RestartWindow

Unknown = Literal["pass", "refuse"]
TradingHours = Literal["keep", "off"]


class Limits(msgspec.Struct, frozen=True, kw_only=True, cache_hash=True):
    """What no order gets past.

    Args:
        max_quantity: of one order, in units of the instrument. max_notional: of one order, in the quote currency.
        max_premium: option premium that one order pays or receives, in the quote currency.
        max_loss: at expiry, of the options that one order opens, in the quote currency. allow_unlimited_loss: whether
        a loss without bound passes.
        collar_percent, collar_min: how far a limit may lie through the quote: the larger of the two, the second a
        price. unknown_quote: what is done with a limit where there is no quote to hold it against.
        max_quote_age_s: a market order is priced by a live quote no older than this.
        symbols: of the underlyings that may be traded, currency pairs as EUR.USD; empty: all.
        trading_hours: whether the contract's hours count. unknown_hours: what is done where nobody knows them.
        max_orders_per_minute: of a strategy. max_strategy_position: of a strategy in an instrument, absolute.
        duplicate_window_s: the same terms of the same strategy again within this time are refused; 0: never.
        max_open_orders: per account, instrument and side (IB itself allows 20).
        max_account_orders_per_minute: of an account. max_position: of an account in an instrument, absolute.
        max_account_notional: positions, working orders and this one together, in the base currency.
        max_daily_loss: in the base currency. unknown_pnl: what is done while the broker has not said it.
        restart_windows, no_orders_before_s: no entries inside, nor so long before.
        off_tick, unknown_increment: what is done with a price between two increments, and with one of an instrument
        whose increments nobody has asked for (`core/increments.py`).
    """

    max_quantity: Decimal
    max_notional: Decimal
    max_open_orders: int
    max_orders_per_minute: int
    max_quote_age_s: float
    read_only: bool = False
    off_tick: OffTick = "refuse"
    unknown_increment: UnknownIncrement = "pass"
    max_premium: Decimal | None = None
    max_loss: Decimal | None = None
    allow_unlimited_loss: bool = True
    collar_percent: Decimal | None = None
    collar_min: Decimal = Decimal(0)
    unknown_quote: Unknown = "pass"
    symbols: frozenset[str] = frozenset()
    trading_hours: TradingHours = "off"
    unknown_hours: Unknown = "pass"
    duplicate_window_s: float = 0.0
    max_strategy_position: Decimal | None = None
    max_account_orders_per_minute: int | None = None
    max_position: Decimal | None = None
    max_account_notional: Decimal | None = None
    max_daily_loss: Decimal | None = None
    unknown_pnl: Unknown = "refuse"
    restart_windows: tuple[RestartWindow, ...] = ()
    no_orders_before_s: float = 60.0


def is_tighter(name: str, own: object, general: object) -> bool:
    """Whether a strategy's own value of a limit allows no more than the general one."""
    if own == general or general is None or (name == "symbols" and not general):
        return True
    match own, general:
        case (bool(), bool()):
            return not own  # allow_unlimited_loss
        case (frozenset(), frozenset()):
            return bool(own) and own <= general
        case (int() | float() | Decimal(), int() | float() | Decimal()):
            return own >= general if name == "duplicate_window_s" else own <= general
        case (str(), str()):
            return own in {"refuse", "keep"}
    return False


def tightened(limits: Limits, own: Mapping[str, Any]) -> Limits:
    """The limits of a strategy that has some of its own.

    Raises:
        ValueError: one of them is looser than the general one, or there is no such limit.
    """
    for name, value in own.items():
        if not is_tighter(name, value, getattr(limits, name)):
            raise ValueError(f"{name} = {value} is looser than the general limit {getattr(limits, name)}")
    return msgspec.structs.replace(limits, **own)
