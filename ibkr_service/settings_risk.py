"""The tables of limits: `[risk]`, a strategy's own tighter ones, and the declared restarts of the gateway.

What each limit counts and what passes it is the table in docs/risk.md.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import time
from decimal import Decimal
from typing import Any, Literal

from pydantic import Field

from ibkr_service.core.limits import Limits, is_tighter
from ibkr_service.core.restartwindow import RestartWindow
from ibkr_service.settings_types import (
    Amount,
    AmountOrNone,
    Count,
    CountOrNone,
    NamedZone,
    NotNegative,
    OpenOrders,
    PercentOrNone,
    Seconds,
    ShortSeconds,
    Symbols,
    Table,
    TimeOfDay,
)

Unknown = Literal["pass", "refuse"]
Weekday = Literal["mon", "tue", "wed", "thu", "fri", "sat", "sun"]
WEEKDAYS: tuple[Weekday, ...] = ("mon", "tue", "wed", "thu", "fri", "sat", "sun")


class RestartWindowSettings(Table):
    """When the gateway restarts: wall times; an end before the start is on the next day."""

    start: TimeOfDay
    end: TimeOfDay
    timezone: NamedZone = "America/New_York"
    days: tuple[Weekday, ...] = Field(WEEKDAYS, description='a list of "mon" to "sun"')

    @property
    def window(self) -> RestartWindow:
        """As the gate has it."""
        return RestartWindow(
            start=time.fromisoformat(self.start),
            end=time.fromisoformat(self.end),
            timezone=self.timezone,
            days=frozenset(WEEKDAYS.index(day) for day in self.days),
        )


class RiskSettings(Table):
    """Limits that no strategy can pass. Quantities are shares, contracts or units; values are money."""

    max_quantity: Amount = Decimal(100_000)
    max_notional: Amount = Decimal(250_000)
    max_premium: AmountOrNone = Decimal(50_000)
    max_loss: AmountOrNone = Decimal(50_000)
    allow_unlimited_loss: bool = False
    collar_percent: PercentOrNone = Decimal(10)
    collar_min: NotNegative = Decimal("0.10")
    unknown_quote: Unknown = "pass"
    max_quote_age_s: Seconds = 30.0
    symbols: Symbols = ()
    trading_hours: Literal["keep", "off"] = "keep"
    unknown_hours: Literal["pass", "refuse", "calendar"] = "pass"
    off_tick: Literal["refuse", "round"] = "refuse"
    unknown_increment: Unknown = "pass"
    max_orders_per_minute: Count = 30
    max_strategy_position: AmountOrNone = None
    duplicate_window_s: ShortSeconds = 0.5
    max_open_orders: OpenOrders = 15
    max_account_orders_per_minute: CountOrNone = 120
    max_position: AmountOrNone = None
    max_account_notional: AmountOrNone = None
    max_daily_loss: AmountOrNone = None
    unknown_pnl: Unknown = "refuse"
    no_orders_before_s: ShortSeconds = 60.0

    def limits(self, windows: tuple[RestartWindowSettings, ...], *, read_only: bool, always_open: bool) -> Limits:
        """As the gate has them. `always_open`: the markets are simulated ones that never close."""
        values = self.model_dump(exclude={"symbols", "trading_hours", "unknown_hours"})
        return Limits(
            **values,
            symbols=frozenset(self.symbols),
            trading_hours="off" if always_open else self.trading_hours,
            # A calendar knows some markets; of the others nobody knows, and that is no.
            unknown_hours="pass" if self.unknown_hours == "pass" else "refuse",
            restart_windows=tuple(window.window for window in windows),
            read_only=read_only,
        )


class StrategyRisk(Table):
    """A strategy's own limits; what is left out is as in `[risk]`, and none may be looser."""

    max_quantity: Amount | None = None
    max_notional: Amount | None = None
    max_premium: Amount | None = None
    max_loss: Amount | None = None
    allow_unlimited_loss: bool | None = None
    collar_percent: PercentOrNone = None
    unknown_quote: Unknown | None = None
    symbols: Symbols | None = None
    max_orders_per_minute: Count | None = None
    max_strategy_position: AmountOrNone = None
    duplicate_window_s: ShortSeconds | None = None

    @property
    def own(self) -> dict[str, Any]:
        """What is set, as the gate has it."""
        values = {name: value for name, value in self if value is not None}
        if "symbols" in values:
            values["symbols"] = frozenset(values["symbols"])
        return values

    def looser(self, risk: RiskSettings) -> Iterator[tuple[str, object, object]]:
        """What is set and would allow more than the general limit: key, own value, general value."""
        for name, value in self.own.items():
            general = getattr(risk, name)
            if not is_tighter(name, value, frozenset(general) if name == "symbols" else general):
                yield name, value, general
