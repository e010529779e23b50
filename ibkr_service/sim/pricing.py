"""Prices that follow from other prices: options from their stock, combos from their legs.

Simplifications, on purpose for now: Black-Scholes with each stock's constant volatility, one flat rate, no dividends,
European exercise; greeks at the bid and at the ask differ from the model's in the price only.
"""

import math
from dataclasses import replace
from datetime import UTC, datetime, time
from decimal import Decimal
from functools import lru_cache
from statistics import NormalDist
from typing import Final
from zoneinfo import ZoneInfo

from ibkr_service.sim import listing
from ibkr_service.sim.contracts import Combo, Contract, Instrument, Universe
from ibkr_service.sim.quotes import Greeks, PriceSource, Quote

RATE_PER_YEAR: Final = 0.04
OPTION_SIZE: Final = Decimal(50)
NEW_YORK: Final = ZoneInfo("America/New_York")

_CLOSING_TIME = time(16, 0)
_YEAR_S = 365 * 86_400.0
_YEARS_MIN = 60 / _YEAR_S  # an option is priced as if a minute were left, even when it is over
_HALF_SPREAD = 0.01
_DAYS_PER_YEAR = 365
_NORMAL = NormalDist()


def black_scholes(right: str, spot: float, strike: float, years: float, volatility: float) -> Greeks:
    """The value and the greeks of a European option; prices in dollars per share."""
    root = volatility * math.sqrt(years)
    d1 = (math.log(spot / strike) + (RATE_PER_YEAR + volatility**2 / 2) * years) / root
    d2 = d1 - root
    discounted = strike * math.exp(-RATE_PER_YEAR * years)
    density = _NORMAL.pdf(d1)
    sign = 1 if right == "C" else -1
    decay = -spot * density * volatility / (2 * math.sqrt(years))
    carry = sign * RATE_PER_YEAR * discounted * _NORMAL.cdf(sign * d2)
    return Greeks(
        price=sign * (spot * _NORMAL.cdf(sign * d1) - discounted * _NORMAL.cdf(sign * d2)),
        implied_vol=volatility,
        delta=sign * _NORMAL.cdf(sign * d1),
        gamma=density / (spot * root),
        vega=spot * density * math.sqrt(years) / 100,
        theta=(decay - carry) / _DAYS_PER_YEAR,
        under_price=spot,
    )


class Prices:
    """The prices of everything: of a base source, and of what is derived from it.

    Args:
        universe: finds an option's underlying.
        base: prices stocks and currency pairs.
        started_at: the date and time of gateway second 0, for the time that an option has left.
    """

    def __init__(self, universe: Universe, base: PriceSource, started_at: datetime) -> None:
        self._universe = universe
        self._base = base
        self._started_s = started_at.timestamp()
        self._volatility = {row.con_id: row.volatility for row in listing.STOCKS}

    def quote(self, instrument: Instrument, at_s: float) -> Quote | None:
        """The quote that holds at a gateway second; None while there is none."""
        match instrument:
            case Combo():
                return self._combo(instrument, at_s)
            case Contract(sec_type="OPT"):
                return self._option(instrument, at_s)
            case _:
                return self._base.quote(instrument, at_s)

    def next_change(self, instrument: Instrument, after_s: float) -> float | None:
        """When the quote may change next; None when it never will."""
        if isinstance(instrument, Combo):
            changes = [self.next_change(leg.contract, after_s) for leg in instrument.legs]
            return min((change for change in changes if change is not None), default=None)
        if instrument.sec_type == "OPT":
            return self._base.next_change(self._underlying(instrument), after_s)
        return self._base.next_change(instrument, after_s)

    def _underlying(self, option: Contract) -> Contract:
        return self._universe.stocks[option.under_con_id]

    def _option(self, option: Contract, at_s: float) -> Quote | None:
        under = self._base.quote(self._underlying(option), at_s)
        if under is None:
            return None
        years = max(_YEARS_MIN, (_expires_s(option.expiry) - self._started_s - at_s) / _YEAR_S)
        model = black_scholes(
            option.right, float(under.mid), float(option.strike), years, self._volatility[option.under_con_id]
        )
        tick = option.tick_at(Decimal(model.price))
        half = max(float(tick), model.price * _HALF_SPREAD)
        bid = tick * max(1, math.floor((model.price - half) / float(tick)))
        ask = max(bid + tick, tick * math.ceil((model.price + half) / float(tick)))
        last = tick * max(1, round(model.price / float(tick)))
        greeks = (replace(model, price=float(bid)), replace(model, price=float(ask)), model)
        return Quote(under.at, bid, ask, OPTION_SIZE, OPTION_SIZE, last, Decimal(1), Decimal(0), greeks=greeks)

    def _combo(self, combo: Combo, at_s: float) -> Quote | None:
        bid = ask = Decimal(0)
        bid_size = ask_size = Decimal("Infinity")
        changed_s = 0.0
        for leg in combo.legs:
            quote = self.quote(leg.contract, at_s)
            if quote is None:
                return None
            low, high = (quote.bid, quote.ask) if leg.sign > 0 else (-quote.ask, -quote.bid)
            low_size, high_size = (quote.bid_size, quote.ask_size) if leg.sign > 0 else (quote.ask_size, quote.bid_size)
            bid, ask = bid + leg.ratio * low, ask + leg.ratio * high
            bid_size, ask_size = min(bid_size, low_size // leg.ratio), min(ask_size, high_size // leg.ratio)
            changed_s = max(changed_s, quote.at)
        return Quote(changed_s, bid, ask, bid_size, ask_size)


@lru_cache(maxsize=1024)
def _expires_s(expiry: str) -> float:
    day = datetime.strptime(expiry, "%Y%m%d").replace(tzinfo=UTC).date()
    return datetime.combine(day, _CLOSING_TIME, NEW_YORK).timestamp()
