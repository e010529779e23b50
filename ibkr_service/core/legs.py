"""The legs of a combination: what each is, whether they belong together, and what the shape is called.

A list of legs is put into one order, by expiry and strike, so that the same combination is always the same value, and
so that its name can be looked up: `SHAPES` is the table of all names. A list that is in no row is a custom one.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal, InvalidOperation
from itertools import pairwise
from math import gcd
from string import digits
from types import MappingProxyType

import msgspec

from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import (
    Action,
    AnyInstrument,
    AnyOption,
    Future,
    FutureOption,
    Option,
    Stock,
    name_of,
    standard_class,
)
from ibkr_service.core.payoff import Part

LegInstrument = Option | FutureOption | Stock | Future


class Leg(msgspec.Struct, frozen=True):
    """What the one who is LONG the combination does: BUY or SELL `ratio` of an instrument for each unit of it.

    The ratio is in contracts, of a stock in shares: a covered call is 100 shares and one call. Existing means valid.

    Raises:
        InvalidIntent: it cannot be a leg.
    """

    instrument: LegInstrument
    ratio: int
    action: Action

    def __post_init__(self) -> None:
        if not _can_be_leg(self.instrument):
            raise InvalidIntent(f"{self.instrument!r} cannot be a leg: use an Option, FutureOption, Stock or Future")
        if not _is_count(self.ratio) or self.ratio < 1:
            raise InvalidIntent(f"{self.instrument}: a ratio is a whole number from 1 on, not {self.ratio!r}")
        if self.action not in {"BUY", "SELL"}:
            raise InvalidIntent(f"{self.instrument}: a leg's action is BUY or SELL, not {self.action!r}")

    @property
    def signed(self) -> int:
        """The ratio, negative when sold."""
        return self.ratio if self.action == "BUY" else -self.ratio

    @property
    def option(self) -> AnyOption | None:
        """The option; None if it is a stock or a future."""
        return self.instrument if isinstance(self.instrument, Option) else None

    @property
    def multiplier(self) -> Decimal:
        """Money per 1 of the instrument's price; 1 of a share.

        Raises:
            InvalidIntent: it is not known.
        """
        return Decimal(1) if isinstance(self.instrument, Stock) else _multiplier(self.instrument)

    @property
    def part(self) -> Part:
        """What it adds to the payoff."""
        weight = self.signed * self.multiplier
        return Part(weight) if self.option is None else Part(weight, self.option.right, strike_of(self.option))

    def inverse(self) -> Leg:
        """The same on the other side."""
        return msgspec.structs.replace(self, action="SELL" if self.action == "BUY" else "BUY")

    def __str__(self) -> str:
        return f"{self.action} {self.ratio} {self.instrument}"


def _can_be_leg(instrument: object) -> bool:
    # Structs do not check types when they are made.
    return isinstance(instrument, LegInstrument)


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def leg(instrument: AnyInstrument, signed: int) -> Leg:
    """A leg from a signed ratio."""
    return Leg(instrument, abs(signed), "BUY" if signed > 0 else "SELL")  # type: ignore[arg-type]  # it checks itself


def strike_of(option: AnyOption) -> Decimal:
    """The strike as it is written, not as a float stores it."""
    return Decimal(str(option.strike)).normalize()


def contract_of(instrument: LegInstrument) -> tuple[object, ...]:
    """What tells one contract from another: AAPL's options of no named class are those of class AAPL."""
    if isinstance(instrument, Option):
        strike = strike_of(instrument)
        return type(instrument), instrument.symbol, *series_of(instrument), strike, instrument.right
    return (type(instrument), *instrument.identity)


def series_of(option: AnyOption) -> tuple[str, str]:
    """Expiry and trading class: what shares both settles in one moment. SPX: at the opening, SPXW: at the close."""
    return option.expiry, option.trading_class or standard_class(option.symbol)


def _multiplier(instrument: Option | Future) -> Decimal:
    try:
        value = Decimal(instrument.multiplier)
    except InvalidOperation:
        value = Decimal("NaN")
    if not (value.is_finite() and value > 0):
        raise InvalidIntent(
            f"{instrument}: its multiplier is {instrument.multiplier!r}, so nobody can say what it may lose: "
            "name it, such as multiplier='50' for ES"
        )
    return value


# --- do they belong together? ----------------------------------------------------------------------------------------


def in_order(legs: Iterable[Leg]) -> tuple[Leg, ...]:
    """Stock or future first, then by expiry, class, strike, put before call."""
    return tuple(sorted(legs, key=_place))


def _place(one: Leg) -> tuple[object, ...]:
    if one.option is None:
        return (0, str(one.instrument))
    return (1, *series_of(one.option), strike_of(one.option), one.option.right == "C")


def check(legs: Sequence[Leg]) -> None:
    """Refuse legs that make no combination.

    Raises:
        InvalidIntent: what is wrong with them, and what would be right.
    """
    if len(legs) <= 1:
        raise InvalidIntent(f"a combination has at least two legs, not {len(legs)}: order a single one by itself")
    options = [one.option for one in legs if one.option is not None]
    if not options:
        raise InvalidIntent("no leg is an option: this is for combinations with options")
    for one in legs:
        _check_same(options[0], one.instrument)
    _check_distinct(legs)
    common = gcd(*(one.ratio for one in legs))
    if common > 1:
        ratios = ":".join(str(one.ratio) for one in legs)
        reduced = ":".join(str(one.ratio // common) for one in legs)
        raise InvalidIntent(f"ratios {ratios} are {common} times {reduced}: order {common} of {reduced}")


def _check_same(first: AnyOption, other: LegInstrument) -> None:
    """A combination has one underlying, one currency and one multiplier."""
    for name in ("symbol", "currency"):
        if getattr(first, name) != getattr(other, name):
            raise InvalidIntent(
                f"{first} and {other} have a different {name}, {getattr(first, name)} and {getattr(other, name)}: "
                f"all legs need the same"
            )
    family: tuple[type, ...] = (FutureOption, Future) if isinstance(first, FutureOption) else (Option, Stock)
    if type(other) not in family:
        raise InvalidIntent(
            f"{first} and {other} have no common underlying: options on a stock or index go with that stock, "
            "options on futures with that future"
        )
    if not isinstance(other, Stock) and _multiplier(first) != _multiplier(other):
        raise InvalidIntent(
            f"{first} and {other} have different multipliers, {first.multiplier} and {other.multiplier}: "
            "all legs need the same"
        )
    if isinstance(other, Option) and adjusted_class(first) != adjusted_class(other):
        raise InvalidIntent(
            f"{name_of(first)} and {name_of(other)} deliver different things: "
            "an adjusted class (numbered, as 2AAPL) goes with itself only"
        )


def adjusted_class(option: AnyOption) -> str:
    """The class of what a split or merger has changed (2AAPL); empty for all others."""
    named, standard = option.trading_class, standard_class(option.symbol)
    return named if named != standard and named.strip(digits) == standard else ""


def _check_distinct(legs: Sequence[Leg]) -> None:
    seen: dict[tuple[object, ...], Leg] = {}
    for one in legs:
        twin = seen.setdefault(contract_of(one.instrument), one)
        if twin is one:
            continue
        net = twin.signed + one.signed
        if twin.action == one.action:
            raise InvalidIntent(f"{one.instrument} is a leg twice: write it once, with ratio {net}")
        right = f"write {leg(one.instrument, net)}" if net else "leave it out"
        raise InvalidIntent(f"{one.instrument} is both bought and sold, which cancels out: {right}")


# --- what is the shape called? ---------------------------------------------------------------------------------------


class Kind(enum.Enum):
    """The market's name for a combination. All but the last are what someone who is LONG it holds."""

    BULL_CALL = "bull call spread"
    BEAR_CALL = "bear call spread"
    BULL_PUT = "bull put spread"
    BEAR_PUT = "bear put spread"
    STRADDLE = "straddle"
    SHORT_STRADDLE = "short straddle"
    STRANGLE = "strangle"
    SHORT_STRANGLE = "short strangle"
    IRON_CONDOR = "iron condor"
    REVERSE_IRON_CONDOR = "reverse iron condor"
    IRON_BUTTERFLY = "iron butterfly"
    REVERSE_IRON_BUTTERFLY = "reverse iron butterfly"
    CALL_BUTTERFLY = "call butterfly"
    SHORT_CALL_BUTTERFLY = "short call butterfly"
    PUT_BUTTERFLY = "put butterfly"
    SHORT_PUT_BUTTERFLY = "short put butterfly"
    BROKEN_WING_BUTTERFLY = "broken-wing butterfly"
    SHORT_BROKEN_WING_BUTTERFLY = "short broken-wing butterfly"
    CALL_CALENDAR = "call calendar"
    SHORT_CALL_CALENDAR = "short call calendar"
    PUT_CALENDAR = "put calendar"
    SHORT_PUT_CALENDAR = "short put calendar"
    CALL_DIAGONAL = "call diagonal"
    SHORT_CALL_DIAGONAL = "short call diagonal"
    PUT_DIAGONAL = "put diagonal"
    SHORT_PUT_DIAGONAL = "short put diagonal"
    CALL_FRONT_RATIO = "call front ratio"
    CALL_BACK_RATIO = "call back ratio"
    PUT_FRONT_RATIO = "put front ratio"
    PUT_BACK_RATIO = "put back ratio"
    CUSTOM = "custom combination"

    def __str__(self) -> str:
        return self.value


# Options of one series in the order of `in_order`: right and signed ratio of each, and how the strikes lie: "<" rising,
# "=" equal. Wings are compared below.
SHAPES: Mapping[tuple[str, str], Kind] = MappingProxyType(
    {
        ("C+1 C-1", "<"): Kind.BULL_CALL,
        ("C-1 C+1", "<"): Kind.BEAR_CALL,
        ("P+1 P-1", "<"): Kind.BULL_PUT,
        ("P-1 P+1", "<"): Kind.BEAR_PUT,
        ("P+1 C+1", "="): Kind.STRADDLE,
        ("P-1 C-1", "="): Kind.SHORT_STRADDLE,
        ("P+1 C+1", "<"): Kind.STRANGLE,
        ("P-1 C-1", "<"): Kind.SHORT_STRANGLE,
        ("P+1 P-1 C-1 C+1", "<<<"): Kind.IRON_CONDOR,
        ("P-1 P+1 C+1 C-1", "<<<"): Kind.REVERSE_IRON_CONDOR,
        ("P+1 P-1 C-1 C+1", "<=<"): Kind.IRON_BUTTERFLY,
        ("P-1 P+1 C+1 C-1", "<=<"): Kind.REVERSE_IRON_BUTTERFLY,
        ("C+1 C-2 C+1", "<<"): Kind.CALL_BUTTERFLY,
        ("C-1 C+2 C-1", "<<"): Kind.SHORT_CALL_BUTTERFLY,
        ("P+1 P-2 P+1", "<<"): Kind.PUT_BUTTERFLY,
        ("P-1 P+2 P-1", "<<"): Kind.SHORT_PUT_BUTTERFLY,
    }
)
# The same for two series, one leg each: the one that expires first, then the other. "=" is the same strike.
TERM_SHAPES: Mapping[tuple[str, str], Kind] = MappingProxyType(
    {
        ("C-1 C+1", "="): Kind.CALL_CALENDAR,
        ("C+1 C-1", "="): Kind.SHORT_CALL_CALENDAR,
        ("P-1 P+1", "="): Kind.PUT_CALENDAR,
        ("P+1 P-1", "="): Kind.SHORT_PUT_CALENDAR,
        ("C-1 C+1", "≠"): Kind.CALL_DIAGONAL,
        ("C+1 C-1", "≠"): Kind.SHORT_CALL_DIAGONAL,
        ("P-1 P+1", "≠"): Kind.PUT_DIAGONAL,
        ("P+1 P-1", "≠"): Kind.SHORT_PUT_DIAGONAL,
    }
)
_BROKEN = {
    Kind.CALL_BUTTERFLY: Kind.BROKEN_WING_BUTTERFLY,
    Kind.PUT_BUTTERFLY: Kind.BROKEN_WING_BUTTERFLY,
    Kind.SHORT_CALL_BUTTERFLY: Kind.SHORT_BROKEN_WING_BUTTERFLY,
    Kind.SHORT_PUT_BUTTERFLY: Kind.SHORT_BROKEN_WING_BUTTERFLY,
}


def kind_of(legs: Sequence[Leg]) -> Kind:
    """The name of a combination whose legs are in order."""
    options = [one.option for one in legs if one.option is not None]
    if len(options) < len(legs):
        return Kind.CUSTOM
    sides = " ".join(f"{option.right}{one.signed:+d}" for option, one in zip(options, legs, strict=True))
    strikes = [strike_of(option) for option in options]
    if len({series_of(option) for option in options}) > 1:
        is_term = len(options) == len({option.expiry for option in options})
        return TERM_SHAPES.get((sides, "=" if len(set(strikes)) == 1 else "≠"), Kind.CUSTOM) if is_term else Kind.CUSTOM
    steps = [high - low for low, high in pairwise(strikes)]
    kind = SHAPES.get((sides, "".join("<" if step else "=" for step in steps)))
    if kind is None:
        return _ratio_of(options, legs)
    return _BROKEN.get(kind, kind) if len(set(steps)) > 1 else kind


def _ratio_of(options: Sequence[AnyOption], legs: Sequence[Leg]) -> Kind:
    """1 against n of one right: the 1 is nearer to the money, below for calls and above for puts."""
    rights = "".join(option.right for option in options)
    match rights, tuple(one.signed for one in legs):
        case ("CC", (near, far)) | ("PP", (far, near)) if near * far < 0 and abs(near) < abs(far):
            if near > 0:
                return Kind.CALL_FRONT_RATIO if rights == "CC" else Kind.PUT_FRONT_RATIO
            return Kind.CALL_BACK_RATIO if rights == "CC" else Kind.PUT_BACK_RATIO
    return Kind.CUSTOM
