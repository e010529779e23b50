"""What a position in options is worth at expiry: exact straight lines between the strikes.

A payoff is a function of one number, the price of the underlying, and is kept as its kinks. All that is asked of it
(most, least, where it is zero) is read off these and the slopes at the two ends; nothing is sampled. A stock or an
index cannot fall below zero, a future can (crude oil did on 2020-04-20), so that a payoff on one is open at both ends.

Money is in the currency of the options for one unit of the position, the multiplier in it. Decimal throughout.
"""

from __future__ import annotations

import enum
from bisect import bisect_right
from collections.abc import Callable, Iterable, Sequence
from decimal import Decimal
from itertools import pairwise

import msgspec

from ibkr_service.core.errors import InvalidIntent

ZERO = Decimal(0)


class Unlimited(enum.Enum):
    """The type of `UNLIMITED`, a profit or loss without bound: above every finite Decimal or int, equal to itself only.

    So `max_loss > limit` is true and `max(losses)` is right. There is no arithmetic: a sum with it is a TypeError, as
    is a comparison with NaN.
    """

    UNLIMITED = "UNLIMITED"

    def __gt__(self, other: object) -> bool:
        return self is not other if _has_a_place(other) else NotImplemented

    def __ge__(self, other: object) -> bool:
        return True if _has_a_place(other) else NotImplemented

    def __lt__(self, other: object) -> bool:
        return False if _has_a_place(other) else NotImplemented

    def __le__(self, other: object) -> bool:
        return self is other if _has_a_place(other) else NotImplemented

    def __str__(self) -> str:
        return "unlimited"


def _has_a_place(other: object) -> bool:
    return isinstance(other, int | Unlimited) or (isinstance(other, Decimal) and other.is_finite())


UNLIMITED = Unlimited.UNLIMITED
Money = Decimal | Unlimited


class Part(msgspec.Struct, frozen=True):
    """One leg for the arithmetic. `right` is C, P, or empty for the underlying itself, which has no strike.

    `weight` is signed: money for each 1 that the option, or the underlying, is worth (quantity times multiplier).
    """

    weight: Decimal
    right: str = ""
    strike: Decimal = ZERO

    def at(self, price: Decimal) -> Decimal:
        """Money at expiry with the underlying at `price`."""
        return self.weight * intrinsic(self.right, self.strike, price)


def intrinsic(right: str, strike: Decimal, price: Decimal) -> Decimal:
    """What an option is worth at expiry, per unit of the underlying; of the underlying itself its price."""
    match right:
        case "C":
            return max(price - strike, ZERO)
        case "P":
            return max(strike - price, ZERO)
    return price


class Payoff(msgspec.Struct, frozen=True, kw_only=True):
    """Money against the price of the underlying: straight lines between `kinks`, and on beyond the last.

    Args:
        kinks: (price of the underlying, money) where the slope changes, prices rising; at least one. If the price has
            a floor, the first of them lies on it.
        slope_above: money per 1 of the underlying, above the last kink.
        slope_below: the same below the first kink; None: the price cannot go there.
    """

    kinks: tuple[tuple[Decimal, Decimal], ...]
    slope_above: Decimal
    slope_below: Decimal | None

    def at(self, price: Decimal) -> Decimal:
        """Money with the underlying at `price`.

        Raises:
            InvalidIntent: no stock or index has a price below zero.
        """
        place = bisect_right(self.kinks, price, key=lambda kink: kink[0])
        if place == 0:
            if self.slope_below is None:
                raise InvalidIntent(f"the underlying cannot be worth {price}: its price is never below zero")
            first, money = self.kinks[0]
            return money - self.slope_below * (first - price)
        start, money = self.kinks[place - 1]
        slope = self.slope_above if place == len(self.kinks) else _slope(self.kinks[place - 1], self.kinks[place])
        return money + slope * (price - start)

    def shifted(self, money: Decimal) -> Payoff:
        """The same with this money added: what was received, or minus what was paid."""
        kinks = tuple((price, value + money) for price, value in self.kinks)
        return msgspec.structs.replace(self, kinks=kinks)

    @property
    def highest(self) -> Money:
        """The most that it can be; may be negative."""
        if self.slope_above > 0 or (self.slope_below or ZERO) < 0:
            return UNLIMITED
        return max(money for _, money in self.kinks)

    @property
    def lowest(self) -> Decimal | None:
        """The least that it can be; None: there is no such."""
        if self.slope_above < 0 or (self.slope_below or ZERO) > 0:
            return None
        return min(money for _, money in self.kinks)

    @property
    def max_profit(self) -> Money:
        """The most that can be gained, >= 0."""
        return max(self.highest, ZERO)

    @property
    def max_loss(self) -> Money:
        """The most that can be lost, as a number >= 0."""
        return UNLIMITED if self.lowest is None else max(-self.lowest, ZERO)

    @property
    def break_evens(self) -> tuple[Decimal, ...]:
        """The prices at which it is zero, rising; of a stretch of zeros its ends.

        Exact, except where a ratio leaves a remainder (1 / 3): then to the 28 digits of Decimal.
        """
        found = {price for price, money in self.kinks if money == 0} | set(_crossings(self.kinks))
        first, money = self.kinks[0]
        if self.slope_below and money / self.slope_below > 0:
            found.add(first - money / self.slope_below)
        last, money = self.kinks[-1]
        if self.slope_above and money / self.slope_above < 0:
            found.add(last - money / self.slope_above)
        return tuple(sorted(found))


def payoff_of(parts: Iterable[Part], *, has_floor: bool) -> Payoff:
    """Add the parts up. `has_floor`: the underlying's price is never below zero."""
    held = tuple(parts)
    strikes = sorted({part.strike for part in held if part.right})
    below = sum((part.weight * _slope_below(part.right) for part in held), ZERO)
    kinks, slope = [], below
    for strike in strikes:
        turn = sum((part.weight for part in held if part.right and part.strike == strike), ZERO)
        slope += turn
        if turn:
            kinks.append((strike, sum((part.at(strike) for part in held), ZERO)))
    if has_floor or not kinks:
        kinks.insert(0, (ZERO, sum((part.at(ZERO) for part in held), ZERO)))
    return Payoff(kinks=tuple(kinks), slope_above=slope, slope_below=None if has_floor else below)


def _slope_below(right: str) -> int:
    """How the value of one unit moves with a price below all strikes."""
    return {"C": 0, "P": -1}.get(right, 1)


def _slope(left: tuple[Decimal, Decimal], right: tuple[Decimal, Decimal]) -> Decimal:
    # Exact: the true slope is a sum of weights, so the division leaves no remainder.
    return (right[1] - left[1]) / (right[0] - left[0])


def _crossings(points: Sequence[tuple[Decimal, Decimal]]) -> Iterable[Decimal]:
    """Where the line between two neighbours crosses zero, their own places left out."""
    for left, right in pairwise(points):
        if min(left[1], right[1]) < 0 < max(left[1], right[1]):
            yield left[0] - left[1] * (right[0] - left[0]) / (right[1] - left[1])


class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """What can become of a position that was opened at a certain net price, for one unit of it.

    Args:
        on: the expiry (`YYYYMMDD`) of which it speaks; the first one if there are several.
        max_profit, max_loss: money, both >= 0, multiplier in it; without commissions.
        break_evens: prices of the underlying, rising.
        points: (price of the underlying, profit), straight lines between them.
        volatility: with which it was *estimated* (annual, 0.25 is 25 %); None: it is exact.
    """

    on: str
    max_profit: Money
    max_loss: Money
    break_evens: tuple[Decimal, ...]
    points: tuple[tuple[Decimal, Decimal], ...]
    volatility: Decimal | None = None

    @property
    def is_estimated(self) -> bool:
        """Whether a pricing model had a part in it."""
        return self.volatility is not None


def exact_outcome(profit: Payoff, on: str) -> Outcome:
    """All there is to know of a position whose legs expire together."""
    return Outcome(
        on=on,
        max_profit=profit.max_profit,
        max_loss=profit.max_loss,
        break_evens=profit.break_evens,
        points=profit.kinks,
    )


def estimated_outcome(
    profit: Callable[[Decimal], Decimal], ends: Payoff, prices: Iterable[Decimal], *, on: str, volatility: Decimal
) -> Outcome:
    """The same from a profit that is known at single prices only.

    Args:
        ends: the payoff as if all expired at once: its slopes at the two ends are the true ones, since there an option
            moves with the underlying or not at all.
        prices: of the underlying, at which to look; at least two.
    """
    points = tuple((price, profit(price)) for price in sorted(set(prices)))
    values = [money for _, money in points]
    zeros = {price for price, money in points if money == 0} | set(_crossings(points))
    return Outcome(
        on=on,
        max_profit=UNLIMITED if ends.highest is UNLIMITED else max(*values, ZERO),
        max_loss=UNLIMITED if ends.lowest is None else max(-min(values), ZERO),
        break_evens=tuple(sorted(zeros)),
        points=points,
        volatility=volatility,
    )
