"""Option values by the `blackscholes` library, and the volatility that goes into them.

Black and Scholes for options on stocks and indexes, Black 76 for options on futures.

The volatility depends on strike and expiry only (sticky strike): the same for the call and the put, so that put-call
parity holds, and flat enough that calls fall and puts rise with the strike. It smiles: lower strikes cost more
volatility, and both wings rise. Near expiries are a little dearer.

Simplifications: one flat rate, no dividends, European exercise whatever the contract says, and a surface that does not
move: the implied volatility of a strike is the same all the year.
"""

import math
from functools import lru_cache
from typing import Any, Final

from blackscholes import Black76Call, Black76Put, BlackScholesCall, BlackScholesPut

from ibkr_service.sim.quotes import Greeks

RATE_PER_YEAR: Final = 0.04
VOLATILITY_RANGE: Final = (0.001, 5.0)

_DAYS_PER_YEAR = 365
_SKEW, _CURVATURE, _MONEYNESS_MAX = -0.12, 0.35, 0.6
_NEAR_PREMIUM, _NEAR_YEARS = 0.10, 0.15
_SPOT_MIN = 1e-6
_HALVINGS = 60


def black_scholes(right: str, spot: float, strike: float, years: float, volatility: float) -> Greeks:
    """The value and the greeks of a European option; prices in dollars per share."""
    kind = BlackScholesCall if right == "C" else BlackScholesPut
    option = kind(S=max(spot, _SPOT_MIN), K=strike, T=years, r=RATE_PER_YEAR, sigma=volatility, q=0.0)
    return _greeks(option, volatility, spot)


def black_76(right: str, future: float, strike: float, years: float, volatility: float) -> Greeks:
    """The value and the greeks of a European option on a future; prices per unit of the future."""
    kind = Black76Call if right == "C" else Black76Put
    option = kind(F=max(future, _SPOT_MIN), K=strike, T=years, r=RATE_PER_YEAR, sigma=volatility)
    return _greeks(option, volatility, future)


def _greeks(option: Any, volatility: float, under_price: float) -> Greeks:  # noqa: ANN401  the library has no types
    return Greeks(
        price=max(0.0, option.price()),
        implied_vol=volatility,
        delta=option.delta(),
        gamma=option.gamma(),
        vega=option.vega() / 100,
        theta=option.theta() / _DAYS_PER_YEAR,
        under_price=under_price,
    )


@lru_cache(maxsize=4096)
def smile(base: float, reference: float, strike: float, years: float) -> float:
    """The volatility per year at a strike.

    Args:
        base: the underlying's own volatility.
        reference: the price of the underlying around which strikes are listed.
        strike: the option's.
        years: to expiry, rounded by the caller, for the cache's sake.
    """
    moneyness = min(max(math.log(strike / reference), -_MONEYNESS_MAX), _MONEYNESS_MAX)
    at_the_money = base * (1 + _NEAR_PREMIUM * math.exp(-years / _NEAR_YEARS))
    return at_the_money * (1 + _SKEW * moneyness + _CURVATURE * moneyness**2)


def implied_volatility(right: str, price: float, spot: float, strike: float, years: float) -> float | None:
    """The volatility at which an option is worth a price; None when there is none, by bisection."""
    low, high = VOLATILITY_RANGE
    if not (
        black_scholes(right, spot, strike, years, low).price - 1e-9
        <= price
        <= black_scholes(right, spot, strike, years, high).price
    ):
        return None
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if black_scholes(right, spot, strike, years, middle).price < price:
            low = middle
        else:
            high = middle
    return (low + high) / 2
