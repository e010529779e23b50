"""Prices that follow from other prices: options from their underlying, combos from their legs.

Options are priced by `smile.py` at the underlying's price of the same moment. Simplifications, on purpose: greeks at
the bid, at the ask and at the last price are the model's but for the price and the implied volatility (of first order);
an option's range within a bar is that at the extremes of its underlying; a contract of an option trades every now and
then at the model's price, and has no last price where its underlying has none.
"""

import math
from collections.abc import Iterator
from datetime import UTC, date, datetime, time
from decimal import Decimal
from functools import lru_cache
from typing import Final

from ibkr_service.sim import futures, listing
from ibkr_service.sim.contracts import Combo, Contract, Instrument, Universe
from ibkr_service.sim.path import mixed
from ibkr_service.sim.quotes import NO_TRADES, Greeks, Moments, PriceSource, Quote, Trades
from ibkr_service.sim.smile import RATE_PER_YEAR, black_76, black_scholes, smile
from ibkr_service.sim.timeline import NEW_YORK

__all__ = ["NEW_YORK", "RATE_PER_YEAR", "Prices", "black_scholes"]

OPTION_SIZE: Final = Decimal(50)
OPTIONS: Final = frozenset({"OPT", "FOP"})
UNDERLYING_ROWS: Final = {row.con_id: row for row in (*listing.STOCKS, *listing.INDEXES)}

_OPENING_TIME = time(9, 30)
_CLOSING_TIME = time(16, 0)
_YEAR_S = 365 * 86_400.0
_YEARS_MIN = 60 / _YEAR_S  # an option is priced as if a minute were left, even when it is over
_HALF_SPREAD = 0.01
_YEARS_DIGITS = 4  # about an hour: how finely the term structure of volatility is told apart
_VEGA_MIN = 1e-6
_OPTIONS_KNOWN_MAX = 2_000
_OPTION_CHANGES_PER_TRADE = (20, 400)


class Prices:
    """The prices of everything: of a base source, and of what is derived from it.

    Args:
        universe: finds an option's underlying.
        base: prices stocks, indexes, futures and currency pairs.
        started_at: the date and time of gateway second 0, for the time that an option has left.
    """

    def __init__(self, universe: Universe, base: PriceSource, started_at: datetime) -> None:
        self._universe = universe
        self._base = base
        self.started_s = started_at.timestamp()
        """Gateway second 0, in seconds since 1970."""
        self._day = (0.0, 0.0)
        self._options: dict[int, Quote] = {}  # the latest of each, since many ask for the same one

    def quote(self, instrument: Instrument, at_s: float) -> Quote | None:
        """The quote that holds at a gateway second; None while there is none."""
        match instrument:
            case Combo():
                return self._combo(instrument, at_s)
            case Contract(sec_type="OPT" | "FOP"):
                return self._option(instrument, at_s)
            case _:
                return self._base.quote(instrument, at_s)

    def next_change(self, instrument: Instrument, after_s: float) -> float | None:
        """When the quote may change next; None when it never will."""
        if isinstance(instrument, Combo):
            changes = [self.next_change(leg.contract, after_s) for leg in instrument.legs]
            return min((change for change in changes if change is not None), default=None)
        return self._base.next_change(self._moved_by(instrument), after_s)

    def moments(self, instrument: Instrument, from_s: float, to_s: float) -> Moments | None:
        """When, within a span, the quotes are the first, the lowest, the highest and the last one.

        For a combo they are those of its first leg; for an option those of its underlying: a put is highest when that
        is lowest.
        """
        contract = instrument.legs[0].contract if isinstance(instrument, Combo) else instrument
        return self._base.moments(self._moved_by(contract), from_s, to_s)

    def trades(self, instrument: Instrument, from_s: float, to_s: float) -> Trades:
        """What was traded within a span."""
        if isinstance(instrument, Combo):
            return NO_TRADES
        if instrument.sec_type not in OPTIONS:
            return self._base.trades(instrument, from_s, to_s)
        least, more = _OPTION_CHANGES_PER_TRADE
        every = least + mixed(instrument.con_id, 2) % more
        under, count = self._underlying(instrument), 0
        for midnight_s, until_s in self._days(from_s, to_s):
            # Counted from midnight, so that the trades of the parts of a day add up to the day's.
            before = self._base.trades(under, midnight_s, max(from_s, midnight_s)).number
            count += self._base.trades(under, midnight_s, until_s).number // every - before // every
        return Trades(count, count)

    def _days(self, from_s: float, to_s: float) -> Iterator[tuple[float, float]]:
        """The days that a span touches: midnight in New York, and where the span leaves the day."""
        while from_s < to_s:
            midnight_s, tomorrow_s = self._day
            if not midnight_s <= from_s < tomorrow_s:
                day = datetime.fromtimestamp(self.started_s + from_s, NEW_YORK).date().toordinal()
                midnight_s, tomorrow_s = self._day = (
                    _midnight(day) - self.started_s,
                    _midnight(day + 1) - self.started_s,
                )
            yield midnight_s, min(to_s, tomorrow_s)
            from_s = tomorrow_s

    def underlying(self, option: Contract) -> Contract | None:
        """What an option is written on."""
        return self._universe.underlying(option)

    def volatility(self, option: Contract, at_s: float) -> float:
        """The volatility per year at which an option is priced."""
        row = UNDERLYING_ROWS.get(option.under_con_id) or futures.root_of(option.under_con_id)
        assert row is not None, "every listed option has a listed underlying"
        years = round(self.years_left(option, at_s), _YEARS_DIGITS)
        return smile(row.volatility, float(row.reference), float(option.strike), years)

    def years_left(self, option: Contract, at_s: float) -> float:
        """The time that an option has left, in years of 365 days."""
        return max(_YEARS_MIN, (_expires_s(option.expiry, option.settlement) - self.started_s - at_s) / _YEAR_S)

    def _moved_by(self, contract: Contract) -> Contract:
        return self._underlying(contract) if contract.sec_type in OPTIONS else contract

    def _underlying(self, option: Contract) -> Contract:
        underlying = self._universe.underlying(option)
        assert underlying is not None, "every listed option has a listed underlying"
        return underlying

    def _option(self, option: Contract, at_s: float) -> Quote | None:
        under = self._base.quote(self._underlying(option), at_s)
        if under is None:
            return None
        known = self._options.get(option.con_id)
        if known is not None and known.at == under.at:
            return known
        # As of the underlying's change, not of the question: a quote is a function of time, whoever asks when.
        years, volatility = self.years_left(option, under.at), self.volatility(option, under.at)
        formula = black_76 if option.sec_type == "FOP" else black_scholes
        model = formula(option.right, float(under.mid), float(option.strike), years, volatility)
        tick = option.tick_at(Decimal(model.price))
        step = float(tick)
        half = max(step, model.price * _HALF_SPREAD)
        bid = tick * max(1, math.floor((model.price - half) / step))
        ask = max(bid + tick, tick * math.ceil((model.price + half) / step))
        last = tick * max(1, round(model.price / step))
        greeks = (_at_price(model, bid), _at_price(model, ask), _at_price(model, last), model)
        quote = Quote(under.at, bid, ask, OPTION_SIZE, OPTION_SIZE, last, Decimal(1), greeks)
        if under.last is None:
            quote = quote._replace(last=None, last_size=None)
        if len(self._options) >= _OPTIONS_KNOWN_MAX:
            self._options.clear()
        self._options[option.con_id] = quote
        return quote

    def _combo(self, combo: Combo, at_s: float) -> Quote | None:
        bid = ask = Decimal(0)
        bid_size = ask_size = Decimal("Infinity")
        changed_s = -math.inf
        for leg in combo.legs:
            quote = self.quote(leg.contract, at_s)
            if quote is None:
                return None
            low, high = (quote.bid, quote.ask) if leg.sign > 0 else (-quote.ask, -quote.bid)
            low_size, high_size = (quote.bid_size, quote.ask_size) if leg.sign > 0 else (quote.ask_size, quote.bid_size)
            weight = combo.weight(leg)
            bid, ask = bid + weight * low, ask + weight * high
            bid_size, ask_size = min(bid_size, low_size // leg.ratio), min(ask_size, high_size // leg.ratio)
            changed_s = max(changed_s, quote.at)
        return Quote(changed_s, bid, ask, bid_size, ask_size)


def _at_price(model: Greeks, price: Decimal) -> Greeks:
    """The greeks at another price than the model's: as much more volatility as makes up for the difference."""
    points = (float(price) - model.price) / max(model.vega, _VEGA_MIN)
    implied = min(max(model.implied_vol + points / 100, model.implied_vol / 2), model.implied_vol * 2)
    return Greeks(float(price), implied, model.delta, model.gamma, model.vega, model.theta, model.under_price)


def _midnight(ordinal: int) -> float:
    """The beginning of a day in New York, in seconds since 1970."""
    return datetime.combine(date.fromordinal(ordinal), time(0), NEW_YORK).timestamp()


@lru_cache(maxsize=1024)
def _expires_s(expiry: str, settlement: str) -> float:
    day = datetime.strptime(expiry, "%Y%m%d").replace(tzinfo=UTC).date()
    return datetime.combine(day, _OPENING_TIME if settlement == "AM" else _CLOSING_TIME, NEW_YORK).timestamp()
