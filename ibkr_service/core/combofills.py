"""How much of a combination is filled: by its own executions, and by those of its legs.

The broker reports the BAG once and each leg once, in any order, seconds apart; sometimes only the legs (Lean #217,
#9292). So both are counted, and the larger count is the truth that has arrived: legs are whole spreads as far as every
leg has come.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal

from ibkr_service.core.combination import Spread
from ibkr_service.core.events import Fill
from ibkr_service.core.instrument import AnyInstrument, Bag, Option
from ibkr_service.core.legs import Leg, LegInstrument, contract_of, strike_of

ZERO = Decimal(0)


def totals(spread: Spread, fills: Iterable[Fill]) -> tuple[Decimal, Decimal]:
    """Spreads filled, and the sum of quantity x net price over them; a net price is that of the LONG side, signed."""
    whole, whole_cost = ZERO, ZERO
    quantity = dict.fromkeys(spread.legs, ZERO)
    cost = dict.fromkeys(spread.legs, ZERO)
    for fill in fills:
        if isinstance(fill.instrument, Bag):
            whole += fill.quantity
            whole_cost += fill.quantity * fill.price
        elif (leg := leg_of(spread, fill.instrument)) is not None:
            quantity[leg] += fill.quantity
            cost[leg] += fill.quantity * fill.price
    by_legs = min(quantity[leg] // leg.ratio for leg in spread.legs)
    if whole >= by_legs:
        return whole, whole_cost
    net = sum((spread.weight(leg) * cost[leg] / quantity[leg] for leg in spread.legs), ZERO)
    return by_legs, by_legs * net


def totals_of_bag(bag: Bag, fills: Iterable[Fill]) -> tuple[Decimal, Decimal]:
    """As `totals`, of an order that was adopted: its legs are known by their conIds only.

    Where the whole was never reported, what it cost is not known and counts as nothing.
    """
    whole, cost = ZERO, ZERO
    quantity = {con_id: ZERO for con_id, _, _ in bag.legs}
    for fill in fills:
        if isinstance(fill.instrument, Bag):
            whole += fill.quantity
            cost += fill.quantity * fill.price
        elif fill.con_id in quantity:
            quantity[fill.con_id] += fill.quantity
    by_legs = min((quantity[con_id] // ratio for con_id, ratio, _ in bag.legs), default=ZERO)
    return max(whole, by_legs), cost


def owed(spread: Spread, fills: Iterable[Fill]) -> frozenset[Leg]:
    """The legs of which fewer executions have come than of the whole: theirs are on the way, seconds later."""
    whole = ZERO
    quantity = dict.fromkeys(spread.legs, ZERO)
    for fill in fills:
        if isinstance(fill.instrument, Bag):
            whole += fill.quantity
        elif (leg := leg_of(spread, fill.instrument)) is not None:
            quantity[leg] += fill.quantity
    return frozenset(leg for leg, come in quantity.items() if come < whole * leg.ratio)


def leg_of(spread: Spread, instrument: AnyInstrument) -> Leg | None:
    """The leg that an execution is of; None if it is of none.

    What the broker reports has its trading class, which a user need not have written.
    """
    legs = spread.legs
    if isinstance(instrument, LegInstrument):
        for leg in legs:
            if contract_of(leg.instrument) == contract_of(instrument):
                return leg
    alike = [leg for leg in legs if _looks(leg.instrument) == _looks(instrument)]
    return alike[0] if len(alike) == 1 else None


def _looks(instrument: AnyInstrument) -> tuple[object, ...]:
    if isinstance(instrument, Option):
        return instrument.symbol, instrument.expiry, strike_of(instrument), instrument.right
    return instrument.identity
