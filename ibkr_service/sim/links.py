"""What orders mean to each other: brackets and one-cancels-all groups, as pure decisions.

    OCA type 1 (and none given)   any fill of one cancels the others
    OCA types 2 and 3             a fill takes the same share off the others
    children of one parent        as type 3, which is what IB makes of them, unless they name a group

Types 2 and 3 differ at IB in whether two orders of a group may be at exchanges at the same time and so overfill; here
the others are reduced in the instant of the fill, so none ever does.
"""

from collections.abc import Iterable
from decimal import ROUND_CEILING, Decimal
from typing import Final

from ibkr_service.sim.orders import Order

REDUCING: Final = frozenset({2, 3})


def siblings_of(order: Order) -> list[Order]:
    """The other children of an order's parent that name no group."""
    if order.parent is None or order.ticket.oca_group:
        return []
    return [other for other in order.parent.children if other is not order and not other.ticket.oca_group]


def group_of(order: Order, orders: Iterable[Order]) -> list[Order]:
    """The other orders of its one-cancels-all group."""
    name = order.ticket.oca_group
    if not name:
        return []
    return [
        other
        for other in orders
        if other.ticket.oca_group == name and other.account == order.account and other is not order
    ]


def cut(other: Order, filled: Decimal, of: Decimal) -> Decimal:
    """How much a linked order loses when so much of an order is filled; rounded up, so that they never overfill."""
    if filled >= of:
        return other.remaining
    return min(other.remaining, (other.remaining * filled / of).to_integral_value(ROUND_CEILING))


def share_of(child: Order) -> Decimal:
    """What is left of a child's quantity when its parent has ended with what it had filled until then."""
    parent = child.parent
    assert parent is not None, "a child has a parent"
    whole = child.ticket.quantity + child.reduced
    return whole * parent.filled // parent.ticket.quantity - child.reduced
