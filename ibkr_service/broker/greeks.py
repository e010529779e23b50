"""What TWS does not send of an option's greeks, from a pricing library: rho always, all of it where there is none.

Black-Scholes with a continuous dividend yield for options on stocks and indexes, Black 76 for options on futures. The
contracts are often American: for them it is an approximation, and what it gives is marked `computed`.
"""

from __future__ import annotations

from datetime import UTC, date, datetime, time
from typing import Any
from zoneinfo import ZoneInfo

import msgspec
from blackscholes import Black76Call, Black76Put, BlackScholesCall, BlackScholesPut

from ibkr_service.core.chain import Settlement
from ibkr_service.core.events import Greeks, Tick
from ibkr_service.core.instrument import AnyOption, FutureOption

DAYS_A_YEAR = 365.0
SECONDS_A_YEAR = DAYS_A_YEAR * 86_400
LEAST_YEARS = 60 / SECONDS_A_YEAR  # in the last minute the formulas divide by nearly nothing
VOLATILITY_MIN, VOLATILITY_MAX = 1e-4, 10.0
HALVINGS = 40  # of that range: to the eleventh digit
CLOSE, OPEN = time(16), time(9, 30)
NEW_YORK = ZoneInfo("America/New_York")


def years_left(expires: date, settlement: Settlement, now: datetime) -> float:
    """Time to expiry in years of 365 days: until 16:00 in New York on the day, or 09:30 if it settles at the opening.

    0 when that has passed.
    """
    end = datetime.combine(expires, OPEN if settlement == "AM" else CLOSE, NEW_YORK)
    years = (end.astimezone(UTC) - now).total_seconds() / SECONDS_A_YEAR
    return max(LEAST_YEARS, years) if years > 0 else 0.0


def market_value(tick: Tick) -> float | None:
    """What an option is worth by its market: the middle; without a middle the last price, if bid or ask allow it.

    The last trade of an option that nobody bids for may be weeks old.
    """
    if tick.mid is not None:
        return tick.mid
    last = tick.last
    is_stale = last is None or (tick.bid is not None and last < tick.bid) or (tick.ask is not None and last > tick.ask)
    return None if is_stale else last


def _model(
    option: AnyOption, underlying: float, years: float, rate: float, volatility: float, dividend_yield: float
) -> Any:
    is_call = option.right == "C"
    if isinstance(option, FutureOption):
        kind = Black76Call if is_call else Black76Put
        return kind(F=underlying, K=option.strike, T=years, r=rate, sigma=volatility)
    kind = BlackScholesCall if is_call else BlackScholesPut
    return kind(S=underlying, K=option.strike, T=years, r=rate, sigma=volatility, q=dividend_yield)


def implied_volatility(
    option: AnyOption, price: float, underlying: float, years: float, *, rate: float, dividend_yield: float
) -> float | None:
    """The volatility at which the model gives this price; None if there is none (the price allows an arbitrage).

    Prices in the quote currency per unit of the underlying; `rate` and `dividend_yield` annual and continuous.
    """
    if not (price > 0 and underlying > 0 and years > 0):  # a future may cost less than nothing; the model knows no such
        return None
    low, high = VOLATILITY_MIN, VOLATILITY_MAX

    def value(volatility: float) -> float:
        return float(_model(option, underlying, years, rate, volatility, dividend_yield).price())

    if not value(low) < price < value(high):
        return None
    for _ in range(HALVINGS):
        middle = (low + high) / 2
        if value(middle) < price:
            low = middle
        else:
            high = middle
    return (low + high) / 2


def computed(
    option: AnyOption, price: float, underlying: float, years: float, *, rate: float, dividend_yield: float
) -> Greeks | None:
    """All greeks of an option that trades at `price`, in TWS's units (see `Greeks`); None if no volatility explains it.

    An option deep in the money is often quoted a little below what the model gives at any volatility.
    """
    volatility = implied_volatility(option, price, underlying, years, rate=rate, dividend_yield=dividend_yield)
    if volatility is None:
        return None
    model = _model(option, underlying, years, rate, volatility, dividend_yield)
    return Greeks(
        implied_volatility=volatility,
        delta=float(model.delta()),
        gamma=float(model.gamma()),
        theta=float(model.theta()) / DAYS_A_YEAR,
        vega=float(model.vega()) / 100,
        rho=float(model.rho()) / 100,
        option_price=price,
        underlying_price=underlying,
        computed=True,
    )


def with_rho(
    greeks: Greeks, option: AnyOption, underlying: float | None, years: float, *, rate: float, dividend_yield: float
) -> Greeks:
    """The broker's greeks and, where they allow it, the rho that it never sends."""
    volatility, price = greeks.implied_volatility, greeks.underlying_price or underlying
    if greeks.rho is not None or volatility is None or not volatility > 0 or price is None or not price > 0:
        return greeks
    if not years > 0:
        return greeks
    model = _model(option, price, years, rate, volatility, dividend_yield)
    return msgspec.structs.replace(greeks, rho=float(model.rho()) / 100)
