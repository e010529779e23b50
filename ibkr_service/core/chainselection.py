"""Which part of what is listed a chain consists of. Pure.

Expiries by date, by number or by days to expiry; strikes around the money, by name or by range; of the exchanges and
trading classes the right ones, not the first.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from datetime import date

import msgspec

from ibkr_service.core.chain import Definition, Expiries, Slice, Strikes
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import standard_class


def choose_slices(
    definitions: Iterable[Definition],
    symbol: str,
    *,
    today: date,
    soonest: date | None = None,
    expiries: Expiries = 2,
    trading_class: str | None = None,
    exchange: str | None = None,
) -> list[Slice]:
    """The slices that are wanted, soonest first.

    The exchange is the one named, else SMART where it lists the class, else the one that lists most of it. Without a
    trading class all classes are looked at, and the standard one (named like the underlying) comes first of a date;
    beside a standard class those that are named like it with a number (2AAPL: adjusted for a merger, or FLEX) are left
    out, since their contracts deliver something else.

    Args:
        today: from which days are counted. soonest: the first date that still trades; today if left out.
        expiries: how many dates from `soonest` on, a list of dates as `YYYYMMDD`, or (least, most) days to expiry. A
        date that two classes share counts once and gives two slices.

    Raises:
        InvalidIntent: nothing is listed that fits; with what is.
    """
    by_class: dict[str, list[Definition]] = {}
    for definition in definitions:
        if trading_class in {None, definition.trading_class} and exchange in {None, definition.exchange}:
            by_class.setdefault(definition.trading_class, []).append(definition)
    standard = standard_class(symbol)
    if trading_class is None and standard in by_class:
        by_class = {name: found for name, found in by_class.items() if not _is_adjusted(name, standard)}
    if not by_class:
        raise InvalidIntent(f"{symbol} has no options{_filters(trading_class, exchange)}")
    first = f"{today:%Y%m%d}"
    chosen = [max(_merged(found), key=lambda one: _preference(one, first)) for found in by_class.values()]
    slices = sorted(
        (
            Slice(expiry, d.trading_class, d.exchange, d.multiplier)
            for d in chosen
            for expiry in d.expiries
            if expiry >= first
        ),
        key=lambda s: (s.expiry, s.trading_class != standard, s.trading_class),
    )
    dates = _choose_dates(sorted({s.expiry for s in slices}), expiries, today, soonest or today, symbol)
    return [s for s in slices if s.expiry in dates]


def _is_adjusted(trading_class: str, standard: str) -> bool:
    return re.fullmatch(rf"\d+{re.escape(standard)}|{re.escape(standard)}\d+", trading_class) is not None


def _merged(definitions: Iterable[Definition]) -> list[Definition]:
    """What one exchange lists of a class in one multiplier is one definition, in however many answers it came."""
    found: dict[tuple[str, str], Definition] = {}
    for one in definitions:
        key = one.exchange, one.multiplier
        other = found.get(key, one)
        found[key] = msgspec.structs.replace(
            one, expiries=one.expiries | other.expiries, strikes=one.strikes | other.strikes
        )
    return list(found.values())


def _preference(one: Definition, first: str) -> tuple[bool, bool, int, str, str]:
    left = sum(expiry >= first for expiry in one.expiries)
    return left > 0, one.exchange == "SMART", left, one.exchange, one.multiplier


def _filters(trading_class: str | None, exchange: str | None) -> str:
    return (f" of trading class {trading_class}" if trading_class else "") + (f" at {exchange}" if exchange else "")


def _choose_dates(listed: list[str], expiries: Expiries, today: date, soonest: date, symbol: str) -> set[str]:
    if isinstance(expiries, list):  # named: also today's, after its end
        wanted = {str(day) for day in expiries}
        unknown = sorted(wanted - set(listed))
        if unknown:
            raise InvalidIntent(f"{symbol} has no expiry {', '.join(unknown)}; the first are {listed[:5]}")
        return wanted
    trading = [day for day in listed if day >= f"{soonest:%Y%m%d}"]
    if isinstance(expiries, tuple):
        low, high = expiries
        found = {day for day in trading if low <= days_to(day, today) <= high}
        if not found:
            raise InvalidIntent(f"{symbol} has no expiry in {low} to {high} days; the first are {trading[:5]}")
        return found
    if not trading:
        raise InvalidIntent(f"{symbol} has no options that have not expired")
    return set(trading[:expiries])


def days_to(expiry: str, today: date) -> int:
    """Calendar days from today to an expiry `YYYYMMDD`."""
    return (date(int(expiry[:4]), int(expiry[4:6]), int(expiry[6:8])) - today).days


def choose_strikes(listed: Iterable[float], strikes: Strikes, price: float | None) -> list[float]:
    """The wanted strikes of one slice, ascending; none where none fits.

    Args:
        strikes: how many around the money (half below, half above, an odd one on the nearer side; more on one side
        where the other ends), a list of the strikes themselves, or lowest and highest as a tuple. price: of the
        underlying; needed for the first.

    Raises:
        InvalidIntent: strikes around the money without a price.
    """
    known = sorted(set(listed))
    if isinstance(strikes, int):
        if price is None:
            raise InvalidIntent("strikes around the money need a price of the underlying: name the strikes instead")
        return _around(known, strikes, price)
    if isinstance(strikes, tuple):
        low, high = strikes
        return [strike for strike in known if low <= strike <= high]
    return [strike for strike in known if any(_is_same(strike, each) for each in strikes)]


def strikes_not_listed(listed: Iterable[float], strikes: Strikes) -> list[float]:
    """Which of the strikes that were named a slice does not have."""
    known = set(listed)
    named = strikes if isinstance(strikes, list) else []
    return [each for each in named if not any(_is_same(strike, each) for strike in known)]


def _is_same(strike: float, named: float) -> bool:
    return math.isclose(strike, named, abs_tol=1e-9)


def _around(known: list[float], count: int, price: float) -> list[float]:
    """The `count` strikes nearest to the money, balanced: as many on each side as there are."""
    below = [strike for strike in known if strike < price]
    above = [strike for strike in known if strike >= price]
    half = count // 2
    if count % 2 and below and (not above or price - below[-1] <= above[0] - price):
        half += 1
    low = min(len(below), max(half, count - len(above)))
    return below[len(below) - low :] + above[: count - low]
