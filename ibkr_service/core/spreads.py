"""Option spreads by the names that the market has for them.

Each function takes options in the order of their strikes (or of their expiries), as a chain gives them or as people
type them: `bull_call("AAPL 20270115 150 C", "AAPL 20270115 160 C")`. What does not fit the name is refused, so that a
put in the place of a call, or two strikes the wrong way round, is never quietly another spread. `docs/spreads.md` has
the table.

Each is LONG of what it is called: LONG an iron condor brings a credit, and LONG a short straddle sells two options.
What no name fits is `combination([Leg(…), …])`.
"""

from __future__ import annotations

from itertools import pairwise

from ibkr_service.core.combination import (
    ComboOrder,
    PricingModel,
    Side,
    Spread,
    closing,
    combination,
    rolling,
)
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import AnyOption, Option, parse
from ibkr_service.core.legs import SHAPES, Kind, Leg, leg, series_of, strike_of
from ibkr_service.core.netprice import Direction, NetPrice, combo_increment
from ibkr_service.core.payoff import UNLIMITED, Money, Outcome, Payoff, Unlimited

__all__ = [
    "UNLIMITED",
    "ComboOrder",
    "Direction",
    "Kind",
    "Leg",
    "Money",
    "NetPrice",
    "Outcome",
    "Payoff",
    "PricingModel",
    "Side",
    "Spread",
    "Unlimited",
    "bear_call",
    "bear_put",
    "bull_call",
    "bull_put",
    "calendar",
    "call_back_ratio",
    "call_butterfly",
    "call_front_ratio",
    "closing",
    "combination",
    "combo_increment",
    "diagonal",
    "iron_butterfly",
    "iron_condor",
    "put_back_ratio",
    "put_butterfly",
    "put_front_ratio",
    "rolling",
    "short_straddle",
    "short_strangle",
    "straddle",
    "strangle",
]

Given = AnyOption | str
RIGHTS = {"C": "call", "P": "put"}
_PATTERNS = {kind: pattern for pattern, kind in SHAPES.items()}
# What people may have meant instead.
_HINTS = {
    Kind.STRANGLE: "equal strikes make a straddle",
    Kind.SHORT_STRANGLE: "equal strikes make a straddle",
    Kind.STRADDLE: "different strikes make a strangle",
    Kind.SHORT_STRADDLE: "different strikes make a strangle",
    Kind.IRON_CONDOR: "equal strikes in the middle make an iron butterfly",
    Kind.IRON_BUTTERFLY: "different strikes in the middle make an iron condor",
}


# --- verticals: one right, one expiry, two strikes -------------------------------------------------------------------


def bull_call(lower: Given, upper: Given) -> Spread:
    """Buy the lower call, sell the upper. A debit; gains when the price rises."""
    return _named(Kind.BULL_CALL, lower, upper)


def bear_call(lower: Given, upper: Given) -> Spread:
    """Sell the lower call, buy the upper. A credit; gains when the price does not rise."""
    return _named(Kind.BEAR_CALL, lower, upper)


def bull_put(lower: Given, upper: Given) -> Spread:
    """Buy the lower put, sell the upper. A credit; gains when the price does not fall."""
    return _named(Kind.BULL_PUT, lower, upper)


def bear_put(lower: Given, upper: Given) -> Spread:
    """Sell the lower put, buy the upper. A debit; gains when the price falls."""
    return _named(Kind.BEAR_PUT, lower, upper)


# --- on movement -----------------------------------------------------------------------------------------------------


def straddle(put: Given, call: Given) -> Spread:
    """Buy put and call of one strike. A debit; gains when the price moves far."""
    return _named(Kind.STRADDLE, put, call)


def short_straddle(put: Given, call: Given) -> Spread:
    """Sell put and call of one strike. A credit; gains when the price stays."""
    return _named(Kind.SHORT_STRADDLE, put, call)


def strangle(put: Given, call: Given) -> Spread:
    """Buy a put and a call of a higher strike. A debit; gains when the price moves very far."""
    return _named(Kind.STRANGLE, put, call)


def short_strangle(put: Given, call: Given) -> Spread:
    """Sell a put and a call of a higher strike. A credit; gains when the price stays between."""
    return _named(Kind.SHORT_STRANGLE, put, call)


# --- on a price that stays -------------------------------------------------------------------------------------------


def iron_condor(lower_put: Given, upper_put: Given, lower_call: Given, upper_call: Given) -> Spread:
    """Sell the two in the middle, buy the wings. A credit; wings need not be equally wide."""
    return _named(Kind.IRON_CONDOR, lower_put, upper_put, lower_call, upper_call)


def iron_butterfly(lower_put: Given, put: Given, call: Given, upper_call: Given) -> Spread:
    """Sell put and call of one strike, buy the wings. A credit; wings need not be equally wide."""
    return _named(Kind.IRON_BUTTERFLY, lower_put, put, call, upper_call)


def call_butterfly(lower: Given, middle: Given, upper: Given, *, broken_wing: bool = False) -> Spread:
    """Buy the outer calls, sell two of the middle. A debit; with a broken wing it may be a credit."""
    return _butterfly(Kind.CALL_BUTTERFLY, lower, middle, upper, broken_wing=broken_wing)


def put_butterfly(lower: Given, middle: Given, upper: Given, *, broken_wing: bool = False) -> Spread:
    """Buy the outer puts, sell two of the middle. A debit; with a broken wing it may be a credit."""
    return _butterfly(Kind.PUT_BUTTERFLY, lower, middle, upper, broken_wing=broken_wing)


# --- over time -------------------------------------------------------------------------------------------------------


def calendar(front: Given, back: Given) -> Spread:
    """Sell the option that expires first, buy the later one of the same strike and right. Usually a debit."""
    first, second = _over_time("calendar", front, back)
    if first.strike != second.strike:
        raise InvalidIntent(
            f"calendar: both have one strike, not {first.strike:g} and {second.strike:g}: use diagonal() for two"
        )
    return Spread((leg(first, -1), leg(second, 1)))


def diagonal(front: Given, back: Given) -> Spread:
    """Sell the option that expires first, buy a later one of the same right and another strike.

    Usually a debit where the bought one has the better strike; else it depends on the market.
    """
    first, second = _over_time("diagonal", front, back)
    if first.strike == second.strike:
        raise InvalidIntent(f"diagonal: two strikes are needed, not {first.strike:g} twice: use calendar() for one")
    return Spread((leg(first, -1), leg(second, 1)))


# --- unequal numbers -------------------------------------------------------------------------------------------------


def call_front_ratio(lower: Given, upper: Given, ratio: tuple[int, int] = (1, 2)) -> Spread:
    """Buy calls, sell more of a higher strike. Debit or credit; the loss is unlimited when the price rises."""
    return _ratio(Kind.CALL_FRONT_RATIO, (lower, upper), ratio)


def call_back_ratio(lower: Given, upper: Given, ratio: tuple[int, int] = (1, 2)) -> Spread:
    """Sell calls, buy more of a higher strike. Debit or credit; the profit is unlimited when the price rises."""
    return _ratio(Kind.CALL_BACK_RATIO, (lower, upper), ratio)


def put_front_ratio(lower: Given, upper: Given, ratio: tuple[int, int] = (1, 2)) -> Spread:
    """Buy puts of the upper strike, sell more of the lower; `ratio` is (upper, lower). Debit or credit."""
    return _ratio(Kind.PUT_FRONT_RATIO, (lower, upper), ratio)


def put_back_ratio(lower: Given, upper: Given, ratio: tuple[int, int] = (1, 2)) -> Spread:
    """Sell puts of the upper strike, buy more of the lower; `ratio` is (upper, lower). Debit or credit."""
    return _ratio(Kind.PUT_BACK_RATIO, (lower, upper), ratio)


# --- how they are made -----------------------------------------------------------------------------------------------


def _named(kind: Kind, *given: Given) -> Spread:
    """By the row of `SHAPES` that has this name."""
    sides, steps = _PATTERNS[kind]
    parts = sides.split()
    options = _options(kind, given, "".join(part[0] for part in parts))
    _check_series(kind, options)
    _check_strikes(kind, options, steps)
    return Spread(tuple(leg(option, int(part[1:])) for option, part in zip(options, parts, strict=True)))


def _butterfly(kind: Kind, *given: Given, broken_wing: bool) -> Spread:
    spread = _named(kind, *given)
    is_broken = spread.kind is not kind
    if is_broken and not broken_wing:
        low, middle, high = (strike_of(option) for option in spread.options)
        raise InvalidIntent(
            f"{kind}: the wings are {middle - low:f} and {high - middle:f} wide; they must be equal: "
            f"the upper strike would be {middle + middle - low:f}; or say broken_wing=True"
        )
    if broken_wing and not is_broken:
        raise InvalidIntent(f"{kind}: broken_wing=True was said, but the wings are equal: leave it out")
    return spread


def _ratio(kind: Kind, given: tuple[Given, Given], ratio: tuple[int, int]) -> Spread:
    near, far = ratio
    if not 0 < near < far:
        raise InvalidIntent(
            f"{kind}: the ratio is of the one near the money to the more far ones, as (1, 2), not {ratio}"
        )
    right = "C" if kind in {Kind.CALL_FRONT_RATIO, Kind.CALL_BACK_RATIO} else "P"
    options = _options(kind, given, right + right)
    _check_series(kind, options)
    _check_strikes(kind, options, "<")
    if kind in {Kind.CALL_BACK_RATIO, Kind.PUT_BACK_RATIO}:
        near, far = -near, -far
    inner, outer = options if right == "C" else reversed(options)
    return Spread((leg(inner, near), leg(outer, -far)))


def _over_time(name: str, *given: Given) -> tuple[AnyOption, AnyOption]:
    front, back = (_option(one) for one in given)
    if front.right != back.right:
        raise InvalidIntent(
            f"{name}: two {RIGHTS[front.right]}s or two {RIGHTS[back.right]}s are needed, not {front} and {back}"
        )
    if front.expiry >= back.expiry:
        raise InvalidIntent(
            f"{name}: the first expires before the second, {front} and {back} do not: give the near first"
        )
    return front, back


def _options(kind: Kind, given: tuple[Given, ...], rights: str) -> list[AnyOption]:
    options = [_option(one) for one in given]
    for option, right in zip(options, rights, strict=True):
        if option.right != right:
            wanted = ", ".join(RIGHTS[one] for one in rights)
            raise InvalidIntent(f"{kind}: {option} is a {RIGHTS[option.right]}; in this order are needed: {wanted}")
    return options


def _option(given: Given) -> AnyOption:
    found = parse(given) if isinstance(given, str) else given
    if not isinstance(found, Option):
        raise InvalidIntent(f"{given!r} is no option: write 'AAPL 20270115 150 C', or take one of a chain")
    return found


def _check_series(kind: Kind, options: list[AnyOption]) -> None:
    """All legs expire in one moment."""
    for option in options[1:]:
        if series_of(option) != series_of(options[0]):
            first, other = (" ".join(series_of(one)) for one in (options[0], option))
            raise InvalidIntent(f"{kind}: all legs have one expiry and trading class, not {first} and {other}")


def _check_strikes(kind: Kind, options: list[AnyOption], steps: str) -> None:
    strikes = [strike_of(option) for option in options]
    for (low, high), step in zip(pairwise(strikes), steps, strict=True):
        if (low < high) if step == "<" else (low == high):
            continue
        names = "abcd"[: len(strikes)]
        wanted = names[0] + "".join(f" {step} {name}" for step, name in zip(steps, names[1:], strict=True))
        hint = f"; {_HINTS[kind]}" if kind in _HINTS else ""
        listed = ", ".join(f"{strike:f}" for strike in strikes)
        raise InvalidIntent(f"{kind}: strikes must lie {wanted}, {listed} do not{hint}")
