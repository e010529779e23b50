"""Spreads among positions: from signed contracts to the combinations that a person would see in them.

There is no one answer: two long and two short calls may be two verticals in two ways. The rule, in this order:

1. All options on one underlying together, divided by their common factor, have a name: that is it.
2. The same for the options of one expiry and trading class, but for straddles and strangles.
3. What is left of one expiry: butterflies of equal wings from the lowest strike up, then verticals, the narrowest
   first. A bull put below a bear call spread, or their inverses, become an iron condor or iron butterfly.
4. What is left of one right in several expiries: calendars, then diagonals, near expiries first.
5. What is left of puts and calls of one expiry on the same side: straddles, then strangles, the narrowest first.
6. The rest are single legs, as are stocks and futures.

Covering shorts comes before straddles, since it says what may be lost. Whatever the answer, its spreads and single legs
add up to the positions.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from decimal import Decimal
from itertools import combinations, product

import msgspec

from ibkr_service.core.combination import Spread, combination
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import AnyInstrument, AnyOption, Option
from ibkr_service.core.legs import Kind, Leg, adjusted_class, contract_of, leg, series_of, strike_of

Held = dict[AnyOption, int]
Found = tuple[Spread, int]
SAME_SIDE = frozenset({Kind.STRADDLE, Kind.SHORT_STRADDLE, Kind.STRANGLE, Kind.SHORT_STRANGLE})


class Recognised(msgspec.Struct, frozen=True):
    """What positions consist of: spreads held LONG and how many of each, and the rest as signed quantities."""

    spreads: tuple[Found, ...]
    singles: tuple[tuple[AnyInstrument, Decimal], ...]


def recognise(positions: Mapping[AnyInstrument, Decimal]) -> Recognised:
    """Find the spreads among positions, by the rule at the head of this file.

    Args:
        positions: signed quantities, options in contracts. An option whose multiplier is unknown, or of which a
            fraction is held, remains a single leg.
    """
    groups: dict[tuple[object, ...], Held] = {}
    singles: list[tuple[AnyInstrument, Decimal]] = []
    for instrument, quantity in positions.items():
        group = _group_of(instrument)
        if isinstance(instrument, Option) and group is not None and quantity == quantity.to_integral_value():
            _add(groups.setdefault(group, {}), instrument, int(quantity))
        elif quantity:
            singles.append((instrument, quantity))
    spreads: list[Found] = []
    for held in groups.values():
        left = _Left(held)
        spreads += left.spreads()
        singles += [(option, Decimal(quantity)) for option, quantity in left.held.items()]
    return Recognised(tuple(spreads), tuple(singles))


def _group_of(instrument: AnyInstrument) -> tuple[object, ...] | None:
    """What all legs of a spread have in common; None if it can be no leg."""
    if not isinstance(instrument, Option):
        return None
    try:
        multiplier = Leg(instrument, 1, "BUY").multiplier
    except InvalidIntent:
        return None
    return type(instrument), instrument.symbol, instrument.currency, multiplier, adjusted_class(instrument)


def _add(held: Held, option: AnyOption, quantity: int) -> None:
    """One contract may have two descriptions: with its trading class, and without."""
    same = next((one for one in held if contract_of(one) == contract_of(option)), option)
    held[same] = held.get(same, 0) + quantity


class _Left:
    """The options on one underlying that no spread has taken yet."""

    def __init__(self, held: Held) -> None:
        known = [option for option, quantity in held.items() if quantity]
        self.held = {option: held[option] for option in sorted(known, key=_place)}

    def spreads(self) -> Iterator[Found]:
        """Take one spread after the other, until the rule finds none."""
        yield from self._whole(list(self.held))
        for series in sorted({series_of(option) for option in self.held}):
            yield from self._whole(self._of(series), but=SAME_SIDE)
            yield from self._butterflies(self._of(series))
            yield from self._covered(self._of(series))
        yield from self._over_time()
        for series in sorted({series_of(option) for option in self.held}):
            yield from self._same_side(self._of(series))

    def _of(self, series: tuple[str, str]) -> list[AnyOption]:
        return [option for option in self.held if series_of(option) == series]

    def _take(self, parts: Iterable[tuple[AnyOption, int]], count: int) -> Found:
        legs = []
        for option, signed in parts:
            self.held[option] -= signed * count
            if not self.held[option]:
                del self.held[option]
            legs.append(leg(option, signed))
        return Spread(tuple(legs)), count

    def _available(self, parts: Iterable[tuple[AnyOption, int]]) -> int:
        """How many of these are still held; an option on the wrong side counts as none."""
        return max(0, min(self.held.get(option, 0) * signed // (signed * signed) for option, signed in parts))

    def _taken(self, *parts: tuple[AnyOption, int]) -> Iterator[Found]:
        count = self._available(parts)
        if count:
            yield self._take(parts, count)

    def _whole(self, options: list[AnyOption], but: frozenset[Kind] = frozenset()) -> Iterator[Found]:
        if len(options) > 1:
            spread, count = combination(leg(option, self.held[option]) for option in options)
            if spread.kind is not Kind.CUSTOM and spread.kind not in but:
                yield self._take([(option, self.held[option] // count) for option in options], count)

    def _butterflies(self, options: list[AnyOption]) -> Iterator[Found]:
        by_strike = {(option.right, strike_of(option)): option for option in options}
        for low, middle in combinations(options, 2):
            high = by_strike.get((low.right, 2 * strike_of(middle) - strike_of(low)))
            if low.right == middle.right and high is not None and high is not middle:
                for sign in (1, -1):
                    yield from self._taken((low, sign), (middle, -2 * sign), (high, sign))

    def _covered(self, options: list[AnyOption]) -> Iterator[Found]:
        """Verticals, in pairs as condors where that fits."""
        verticals: list[tuple[AnyOption, AnyOption, int, int]] = []  # low, high, side of the low one, how many
        pairs = (pair for pair in combinations(options, 2) if pair[0].right == pair[1].right)
        for low, high in sorted(pairs, key=lambda pair: strike_of(pair[1]) - strike_of(pair[0])):
            for sign in (1, -1):
                count = self._available([(low, sign), (high, -sign)])
                if count:
                    self._take([(low, sign), (high, -sign)], count)
                    verticals.append((low, high, sign, count))
        yield from _paired(verticals)

    def _over_time(self) -> Iterator[Found]:
        pairs = [
            (front, back)
            for front, back in combinations(self.held, 2)
            if front.right == back.right and front.expiry < back.expiry and self.held[front] * self.held[back] < 0
        ]
        for front, back in sorted(pairs, key=_nearness):
            for sign in (1, -1):
                yield from self._taken((front, -sign), (back, sign))

    def _same_side(self, options: list[AnyOption]) -> Iterator[Found]:
        puts = [option for option in options if option.right == "P"]
        calls = [option for option in options if option.right == "C"]
        pairs = [(put, call) for put, call in product(puts, calls) if put.strike <= call.strike]
        for put, call in sorted(pairs, key=lambda pair: strike_of(pair[1]) - strike_of(pair[0])):
            for sign in (1, -1):
                yield from self._taken((put, sign), (call, sign))


def _place(option: AnyOption) -> tuple[object, ...]:
    return series_of(option), strike_of(option), option.right


def _nearness(pair: tuple[AnyOption, AnyOption]) -> tuple[object, ...]:
    front, back = pair
    return front.strike != back.strike, front.expiry, back.expiry, abs(strike_of(front) - strike_of(back))


def _paired(verticals: list[tuple[AnyOption, AnyOption, int, int]]) -> Iterator[Found]:
    """Put verticals with call verticals above them that gain in the same case, the rest by themselves."""
    left = [count for *_, count in verticals]
    for (i, (p, q, sign, _)), (j, (c, d, other, _)) in product(enumerate(verticals), repeat=2):
        if (p.right, c.right) == ("P", "C") and sign == -other and strike_of(q) <= strike_of(c):
            count = min(left[i], left[j])
            if count:
                left[i] -= count
                left[j] -= count
                yield Spread((leg(p, sign), leg(q, -sign), leg(c, -sign), leg(d, sign))), count
    for (low, high, sign, _), count in zip(verticals, left, strict=True):
        if count:
            yield Spread((leg(low, sign), leg(high, -sign))), count
