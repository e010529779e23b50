"""A combination traded leg by leg: in which order, at what prices, and what it may lose on the way.

Bought legs come first, so that nothing is sold before what covers it is there; what is left is the risk that the market
walks away in between. `worst_between` is the most that any state on the way can lose at expiry; a part of a leg is a
mixture of the states around it, and loses no more than the worse of them.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Literal

import msgspec

from ibkr_service.core.combination import Side, Spread, combination
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Action, AnyInstrument, Stock
from ibkr_service.core.legs import Leg, LegInstrument
from ibkr_service.core.netprice import NetPrice
from ibkr_service.core.payoff import UNLIMITED, Money
from ibkr_service.core.worstloss import worst_loss

Ending = Literal["complete", "unwind", "alarm"]
ENDINGS = ("complete", "unwind", "alarm")
ZERO = Decimal(0)


class LegStep(msgspec.Struct, frozen=True):
    """One leg's order: `quantity` in contracts or shares, `action` as it is sent."""

    leg: Leg
    action: Action
    quantity: Decimal

    @property
    def instrument(self) -> LegInstrument:
        """What is traded."""
        return self.leg.instrument


def steps(spread: Spread, side: Side, quantity: Decimal) -> tuple[LegStep, ...]:
    """The legs' orders, bought ones first.

    Raises:
        InvalidIntent: no whole number of spreads, or no side.
    """
    if quantity <= 0 or quantity != quantity.to_integral_value():
        raise InvalidIntent(f"a quantity of spreads is whole and above 0, not {quantity}")
    if side not in {"LONG", "SHORT"}:
        raise InvalidIntent(f"a side is LONG or SHORT, not {side!r}")
    opened = spread if side == "LONG" else spread.inverse()
    legs = sorted(opened.legs, key=lambda leg: leg.action != "BUY")  # stable: else as the spread has them
    return tuple(LegStep(leg, leg.action, quantity * leg.ratio) for leg in legs)


def worst_between(done: Sequence[LegStep], prices: Mapping[AnyInstrument, Decimal]) -> Money:
    """The most that can be lost at expiry, of all the states on the way, in money.

    Args:
        done: the steps in their order. prices: at which each leg is traded, at worst.
    """
    states = [_loss(done[: count + 1], prices) for count in range(len(done))]
    return max(states, default=ZERO)


def _loss(done: Sequence[LegStep], prices: Mapping[AnyInstrument, Decimal]) -> Money:
    spreads = min(int(step.quantity) // step.leg.ratio for step in done)
    legs = tuple(step.leg for step in done)
    cash = sum((-one.signed * one.multiplier * prices[one.instrument] for one in legs), ZERO)
    return _times(_one(legs, cash), spreads)


def _one(legs: Sequence[Leg], cash: Decimal) -> Money:
    """What one unit of these legs can lose; `cash` is the money that opening it moves."""
    if len(legs) == 1:
        (only,) = legs
        if only.option is None:  # shares or a future
            return ZERO - cash if only.action == "BUY" and isinstance(only.instrument, Stock) else UNLIMITED
        loss = worst_loss(only.instrument, only.action, cash / only.ratio / only.multiplier)
        assert loss is not None, "it is an option"
        return _times(loss, only.ratio)
    spread, count = combination(legs)
    loss = worst_loss(spread, "BUY", cash / count / spread.multiplier)
    return UNLIMITED if loss is None else _times(loss, count)


def _times(loss: Money, count: int) -> Money:
    return loss * count if isinstance(loss, Decimal) else loss


def last_price(
    limit: NetPrice, spread: Spread, side: Side, paid: Mapping[AnyInstrument, Decimal], last: LegStep
) -> Decimal:
    """What the last leg may cost at most, or must bring at least, for the net price to hold.

    Args:
        paid: the average prices of the other legs.
    """
    opened = spread if side == "LONG" else spread.inverse()
    others = sum((opened.weight(leg) * paid[leg.instrument] for leg in opened.legs if leg != last.leg), ZERO)
    weight = opened.weight(last.leg)
    # weight x price + others <= what is paid at most
    return (ZERO - limit.cash - others) / weight
