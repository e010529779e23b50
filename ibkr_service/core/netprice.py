"""The net price of a combination, in which no sign can be got wrong.

People say 2.85 and mean money out or money in; the wire wants a sign, which depends besides on whether the combination
is bought or sold. So an amount is never negative here, and always comes with its direction: a debit is a bound on what
is paid ("pay at most 2.85"), a credit on what is received ("receive at least 2.85"). Only `signed` makes a number with
a sign of it, at the border.

Amounts are per unit of the underlying, as combinations are quoted; times the multiplier they are money.
"""

from __future__ import annotations

import enum
from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import reduce
from math import gcd

import msgspec

from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Action

# Amounts and increments within these bounds are exact in Decimal's 28 digits through all that is done with them. The
# first also finds Decimal(0.1), which has 55 decimals, and would reach the wire with them (error 110).
DECIMALS_MAX = 8
AMOUNT_MAX = Decimal(10) ** 9


class Direction(enum.Enum):
    """Which way the money goes when the position is opened: DEBIT, we pay; CREDIT, we are paid."""

    DEBIT = "DEBIT"
    CREDIT = "CREDIT"

    @property
    def opposite(self) -> Direction:
        """The other way."""
        return Direction.CREDIT if self is Direction.DEBIT else Direction.DEBIT

    def __str__(self) -> str:
        return self.value.lower()


class NetPrice(msgspec.Struct, frozen=True):
    """The worst net price at which to trade. Existing means valid; `Spread.net_price` is where they come from.

    Args:
        amount: >= 0, per unit of the underlying, at most 8 decimals.
        is_unnatural: it was said on purpose that the money goes the other way than it must by no-arbitrage.

    Raises:
        InvalidIntent: the amount is no such number.
    """

    amount: Decimal
    direction: Direction
    is_unnatural: bool = False

    def __post_init__(self) -> None:
        check_amount("a net price", self.amount)
        msgspec.structs.force_setattr(self, "amount", abs(self.amount))  # a zero may have a sign, too
        if not isinstance(self.direction, Direction):
            raise InvalidIntent(f"a net price is a Direction.DEBIT or a Direction.CREDIT, not {self.direction!r}")

    @property
    def cash(self) -> Decimal:
        """What it does to the account, per unit of the underlying: positive when received."""
        return self.amount if self.direction is Direction.CREDIT else ZERO - self.amount

    @classmethod
    def of_signed(cls, action: Action, price: Decimal, *, is_unnatural: bool = False) -> NetPrice:
        """What a limit price on the wire means; the inverse of `signed`."""
        cash = price if action == "SELL" else ZERO - price
        return cls(abs(cash), Direction.DEBIT if cash < 0 else Direction.CREDIT, is_unnatural)

    def signed(self, action: Action) -> Decimal:
        """The limit price on the wire.

        IB buys a combination at this or less and sells it at this or more, and both may be negative:

        =========  ==================  =====================
        .          BUY                 SELL
        =========  ==================  =====================
        debit 3    3 (pay 3 or less)   -3 (be paid -3 or more)
        credit 3   -3 (pay -3 or less) 3 (be paid 3 or more)
        =========  ==================  =====================
        """
        # Never -0: it would be written to the wire as "-0".
        return self.cash if action == "SELL" else ZERO - self.cash

    def rounded(self, increment: Decimal) -> NetPrice:
        """To a multiple of the increment that is no worse for us: a debit down, a credit up.

        Raises:
            InvalidIntent: that is no increment.
        """
        check_amount("an increment", increment)
        if increment == 0:
            raise InvalidIntent("an increment is above 0: give the legs' smallest, such as 0.01 or 0.05")
        way = ROUND_FLOOR if self.direction is Direction.DEBIT else ROUND_CEILING
        steps = (self.amount / increment).to_integral_value(way)
        return msgspec.structs.replace(self, amount=steps * increment)

    def __str__(self) -> str:
        bound = "pay at most" if self.direction is Direction.DEBIT else "receive at least"
        return f"{bound} {self.amount:f}"


ZERO = Decimal(0)


def check_amount(name: str, amount: object) -> None:
    """Refuse what cannot be an amount of money without a sign.

    Raises:
        InvalidIntent: with what would be right.
    """
    if not isinstance(amount, Decimal):
        raise InvalidIntent(f"{name} is a Decimal, such as Decimal('2.85'), not {type(amount).__name__} {amount!r}")
    if not amount.is_finite():
        raise InvalidIntent(f"{name} is finite, not {amount}")
    if amount < 0:
        raise InvalidIntent(f"{name} has no sign, {amount} has: say debit={-amount} or credit={-amount}")
    exponent = amount.as_tuple().exponent
    if isinstance(exponent, int) and -exponent > DECIMALS_MAX:
        raise InvalidIntent(
            f"{name} has at most {DECIMALS_MAX} decimals, not {-exponent}: write Decimal('0.1') as text"
        )
    if amount > AMOUNT_MAX:
        raise InvalidIntent(f"{name} is at most {AMOUNT_MAX}, not {amount}")


def said(debit: Decimal | None, credit: Decimal | None) -> tuple[Decimal, Direction] | None:
    """Read `debit=` and `credit=`; None: neither was given.

    Raises:
        InvalidIntent: both were.
    """
    if debit is not None and credit is not None:
        raise InvalidIntent(f"debit={debit} and credit={credit} contradict each other: give the one that is meant")
    if debit is not None:
        return debit, Direction.DEBIT
    return None if credit is None else (credit, Direction.CREDIT)


def combo_increment(legs: Iterable[Decimal]) -> Decimal:
    """The price increment of a combination, from the increments of its legs.

    A BAG has no market rule of its own, and IB never answers when asked for its contract details. The
    exchanges trade complex orders on a grid that is fixed for the class, finer than that of expensive single legs: a
    cent (Cboe rule 5.4(b)), 0.05 in SPX. That is the *finest* step of the legs' rules, at whatever price the legs
    are; IB gives it as a contract's minTick or a market rule's lowest step. Where legs differ, it is the grid on which
    sums of their prices lie: their greatest common divisor, which is the smallest when they divide each other. In
    classes of 0.05 and 0.10 that is coarser than the exchange demands, and so always accepted.

    Args:
        legs: of each leg the finest increment in its market rule, > 0.

    Raises:
        InvalidIntent: none given, or one that is no increment.
    """
    steps = list(legs)
    for step in steps:
        check_amount("a leg's increment", step)
    if not steps or not all(steps):
        raise InvalidIntent("the increment of every leg is needed, each above 0, such as 0.01 or 0.05")
    scale = Decimal(10) ** DECIMALS_MAX
    return (Decimal(reduce(gcd, (int(step * scale) for step in steps))) / scale).normalize()
