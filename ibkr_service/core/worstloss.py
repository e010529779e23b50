"""The most that the options of one order can lose, held to expiry. Never too low; where in doubt, too high.

Legs that expire together are exact: the payoff, and the money that the price stands for. Over several expiries nobody
knows what the later options will be worth, so:

- an option that was bought counts only as long as it lives as long as everything that was sold, and then at its
  intrinsic value; what was paid for the others is lost;
- several sold expiries are covered if each sold option has a bought one of no worse a strike that lives as long;
  otherwise the loss has no bound;
- options on futures of several expiries are on another future each, and cover nothing.

Options that live equally long but settle at different hours (SPX, SPXW) do not cover each other either. Stock and
futures in a combination are part of its payoff.
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal

from ibkr_service.core.combination import Spread
from ibkr_service.core.instrument import Action, AnyOption, FutureOption, Option
from ibkr_service.core.intent import Traded
from ibkr_service.core.legs import Leg, leg, series_of, strike_of
from ibkr_service.core.payoff import UNLIMITED, Money, payoff_of

ZERO = Decimal(0)


def worst_loss(traded: Traded, action: Action, cash: Decimal) -> Money | None:
    """What one unit of it can lose, as money >= 0; None if no option is in it.

    Args:
        cash: what opening it does to the account per unit of the underlying, > 0 when received.
    """
    legs = _legs(traded, action)
    if not legs:
        return None
    multiplier = next(one.multiplier for one in legs if one.option is not None)
    sold = [one for one in legs if one.option is not None and one.action == "SELL"]
    if len({series_of(option) for one in legs if (option := one.option)}) == 1:
        kept: Sequence[Leg] = legs
    elif isinstance(traded, Spread) and isinstance(traded.options[0], FutureOption):
        if sold:
            return UNLIMITED
        kept = [one for one in legs if one.option is None]
    elif len({series_of(option) for one in sold if (option := one.option)}) > 1:
        if any(one.option is None for one in legs) or not _each_covered(legs, sold):
            return UNLIMITED
        kept = []
    else:
        kept = [
            one for one in legs if one.option is None or one in sold or all(_outlives(one, short) for short in sold)
        ]
        if not sold:
            kept = [one for one in legs if one.option is None]
    parts = [one.part for one in kept]
    payoff = payoff_of(parts, has_floor=not any(isinstance(one.option, FutureOption) for one in legs))
    return payoff.shifted(cash * multiplier).max_loss


def _legs(traded: Traded, action: Action) -> list[Leg]:
    if isinstance(traded, Spread):
        return [one if action == "BUY" else one.inverse() for one in traded.legs]
    return [leg(traded, 1 if action == "BUY" else -1)] if isinstance(traded, Option) else []


def _outlives(long: Leg, short: Leg) -> bool:
    """Whether the bought option is still there when the sold one ends."""
    a, b = long.option, short.option
    assert a is not None, "only options are compared"
    assert b is not None, "only options are compared"
    return series_of(a) == series_of(b) or a.expiry > b.expiry


def _is_no_worse(a: AnyOption, b: AnyOption) -> bool:
    better = strike_of(b) - strike_of(a)
    return a.right == b.right and (better >= 0 if a.right == "C" else better <= 0)


def _each_covered(legs: Sequence[Leg], sold: Sequence[Leg]) -> bool:
    """Whether each sold option has bought ones of its own; each takes the first that fits, so a yes is certain."""
    free = {one: one.ratio for one in legs if one.action == "BUY" and one.option is not None}
    for short in sold:
        wanted = short.ratio
        for long, left in free.items():
            assert short.option is not None, "only options were sold"
            assert long.option is not None, "only options are free"
            if left and _outlives(long, short) and _is_no_worse(long.option, short.option):
                taken = min(wanted, left)
                free[long] -= taken
                wanted -= taken
        if wanted:
            return False
    return True


def shares_needed(traded: Traded, action: Action) -> Decimal:
    """How many shares of the underlying would cover one of it: of a single sold call its multiplier, else none can."""
    if action == "SELL" and type(traded) is Option and traded.right == "C":
        return leg(traded, -1).multiplier
    return ZERO
