"""What an order could do to positions in the worst case: with all working orders of its side filled, and none other.

A position is what both the broker's word and our own sum of fills allow: a fill is often known before the position
that it makes is reported, and counting on the old one would close it twice. Working orders are ours and those that
others placed in the account. Two descriptions of one contract (an option with and without its trading class) count as
one, so nothing is missed for how it is written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from decimal import Decimal

from ibkr_service.core.book import Book
from ibkr_service.core.instrument import AnyInstrument, Bag, Future, Option, Stock
from ibkr_service.core.legs import contract_of
from ibkr_service.core.orders import ZERO, Intent, Order
from ibkr_service.core.working import left_of, moves

Move = tuple[AnyInstrument, Decimal]
MONTH = len("YYYYMM")


def is_same(one: AnyInstrument, other: AnyInstrument) -> bool:
    """Whether two descriptions are of one contract, as far as they say."""
    if one == other:
        return True
    if isinstance(one, Option) and isinstance(other, Option):
        return one.currency == other.currency and contract_of(one) == contract_of(other)
    if isinstance(one, Future) and isinstance(other, Future):
        # A month and a day in it are the same future; two days are two.
        shorter, longer = sorted((one.expiry, other.expiry), key=len)
        named = (one.symbol, one.currency) == (other.symbol, other.currency)
        return named and longer.startswith(shorter)
    return False


class Exposure:
    """What an account holds and what is on its way, seen by one order that is not there yet.

    Args:
        changing: the order that is to be changed: what is left of it is taken out.
        after: intents that are taken as filled, such as the parent of a bracket.
    """

    def __init__(
        self, book: Book, account: str, *, changing: Order | None = None, after: Iterable[Intent] = ()
    ) -> None:
        self._book = book
        self._account = account
        self._changing = changing
        self._after = tuple(move for intent in after for move in moves(intent, intent.quantity))

    def held(self, contract: AnyInstrument) -> tuple[Decimal, Decimal]:
        """The position, signed: the least and the most that it may be. They are equal unless a report is on its way."""
        low = high = sum((signed for moved, signed in self._after if is_same(moved, contract)), ZERO)
        for instrument, reported, summed in self._book.holdings(self._account):
            if is_same(instrument, contract):
                low += min(reported, summed)
                high += max(reported, summed)
        return low, high

    def to_trade(self, contract: AnyInstrument) -> tuple[Decimal, Decimal]:
        """What working orders may still buy and sell of it, ours and those of others."""
        buys = sells = ZERO
        for other, bought, sold in self._working():
            if is_same(other, contract):
                buys += bought
                sells += sold
        for moved, signed in self._foreign():
            if is_same(moved, contract):
                buys += max(signed, ZERO)
                sells += max(-signed, ZERO)
        if self._changing is not None:
            for moved, signed in moves(self._changing.intent, left_of(self._changing)):
                if is_same(moved, contract):
                    buys -= max(signed, ZERO)
                    sells -= max(-signed, ZERO)
        return buys, sells

    def _working(self) -> Iterator[tuple[AnyInstrument, Decimal, Decimal]]:
        """What our working orders may still buy and sell, by contract; of adopted combinations the legs."""
        for other, (bought, sold) in self._book.working.left(self._account).items():
            if not isinstance(other, Bag):
                yield other, bought, sold
                continue
            for leg, each in self._legs(other):
                ahead, back = (bought, sold) if each > 0 else (sold, bought)
                yield leg, ahead * abs(each), back * abs(each)

    def _foreign(self) -> Iterator[Move]:
        """What the orders of others could do. Of a combination whose legs are not known, none is held by us."""
        for order in self._book.foreign_orders.values():
            if order.account != self._account:
                continue
            signed = order.quantity if order.action == "BUY" else -order.quantity
            if not isinstance(order.instrument, Bag):
                yield order.instrument, signed
                continue
            for leg, each in self._legs(order.instrument):
                yield leg, signed * each

    def _legs(self, bag: Bag) -> Iterator[Move]:
        """The legs of a combination that the book knows; what it does not know is not held."""
        for con_id, ratio, action in bag.legs:
            leg = self._book.instruments.get(con_id)
            if leg is not None:
                yield leg, Decimal(ratio if action == "BUY" else -ratio)

    def is_reducing(self, own: Iterable[Move]) -> bool:
        """Whether these moves make every position they touch smaller, and turn none around, whatever else fills."""
        for contract, signed in own:
            (low, high), (buys, sells) = self.held(contract), self.to_trade(contract)
            # What there is to buy back, or to sell, whichever of the two reports is right.
            room = -high - buys if signed > 0 else low - sells
            if not signed or abs(signed) > room:
                return False
        return True

    def worst(self, contract: AnyInstrument, signed: Decimal) -> Decimal:
        """The position if this and all that works on its side fill."""
        (low, high), (buys, sells) = self.held(contract), self.to_trade(contract)
        return high + signed + buys if signed > 0 else low + signed - sells

    def free_shares(self, option: Option, own: Decimal) -> Decimal:
        """Shares of its underlying that are left when all calls that are and may be sold are covered; < 0: too few.

        Args:
            own: what the order does to the position in this option, signed.
        """
        share = Stock(option.symbol, option.currency)
        free = self.held(share)[0] - self.to_trade(share)[1]
        for call in self._calls_on(option):
            short = self.to_trade(call)[1] - self.held(call)[0] - (own if is_same(call, option) else ZERO)
            free -= max(short, ZERO) * Decimal(call.multiplier or 1)
        return free

    def _calls_on(self, option: Option) -> list[Option]:
        """This call, and those on the same shares that are held or worked on, each once."""
        known = (
            option,
            *(instrument for instrument, _, _ in self._book.holdings(self._account)),
            *(contract for contract, _, _ in self._working()),
            *(moved for moved, _ in (*self._foreign(), *self._after)),
        )
        calls: list[Option] = []
        for one in known:
            is_call = type(one) is Option and one.right == "C" and one.symbol == option.symbol
            if is_call and isinstance(one, Option) and not any(is_same(one, call) for call in calls):
                calls.append(one)
        return calls
