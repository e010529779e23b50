"""What our working orders could still do, kept as sums so that the risk gate need not add them up at each order.

An order counts from the moment it is decided until the broker's word that it is over; one that is UNKNOWN counts. Its
size is what is left of the larger of what holds and what a modification under way asks for.
"""

from __future__ import annotations

from decimal import Decimal

from ibkr_service.core.combination import Spread
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.intent import Intent, Traded
from ibkr_service.core.orders import ZERO, Action, Order

Sums = dict[AnyInstrument, tuple[Decimal, Decimal]]


def left_of(order: Order) -> Decimal:
    """How much of an order may still trade, at most."""
    quantity = order.intent.quantity
    if order.change is not None and order.change.quantity > quantity:
        quantity = order.change.quantity
    return max(quantity - order.filled, ZERO)


def moves(intent: Intent, quantity: Decimal) -> tuple[tuple[AnyInstrument, Decimal], ...]:
    """What so much of an order does to positions: signed quantities of contracts."""
    traded, sign = intent.instrument, 1 if intent.action == "BUY" else -1
    if isinstance(traded, Spread):
        return tuple((leg.instrument, sign * leg.signed * quantity) for leg in traded.legs)
    return ((traded, sign * quantity),)


class Working:
    """Sums over the orders that may still fill; the book tells of each order that changes."""

    def __init__(self) -> None:
        self._count: dict[tuple[str, Traded, Action], int] = {}
        self._left: dict[str, Sums] = {}  # account -> contract -> (still to buy, still to sell)

    def count(self, account: str, traded: Traded, action: Action) -> int:
        """How many orders of an account work on one side of something."""
        return self._count.get((account, traded, action), 0)

    def left(self, account: str) -> Sums:
        """What the orders of an account could still buy and sell, by contract; to be read only."""
        return self._left.get(account, {})

    def changed(self, before: Order | None, after: Order) -> None:
        """An order is another than before; None: it is new."""
        if before is not None:
            same = before.intent is after.intent and before.change is after.change and before.filled == after.filled
            if same and before.done == after.done:
                return
            if before.alive:
                self._add(before, -1)
        if after.alive:
            self._add(after, 1)

    def _add(self, order: Order, sign: int) -> None:
        intent = order.intent
        key = order.account, intent.instrument, intent.action
        count = self._count.get(key, 0) + sign
        if count:
            self._count[key] = count
        else:
            self._count.pop(key, None)
        sums = self._left.setdefault(order.account, {})
        for contract, signed in moves(intent, sign * left_of(order)):
            buys, sells = sums.get(contract, (ZERO, ZERO))
            # `signed` carries the sign of the addition as well as that of the side.
            if (signed > 0) == (sign > 0):
                buys += abs(signed) * sign
            else:
                sells += abs(signed) * sign
            if buys or sells:
                sums[contract] = buys, sells
            else:
                sums.pop(contract, None)
