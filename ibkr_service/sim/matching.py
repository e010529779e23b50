"""When an order trades, at which price and how much of it: pure decisions about one order and one quote."""

from decimal import Decimal

from ibkr_service.sim.contracts import Instrument
from ibkr_service.sim.orders import Order
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.terms import Kind

_QUOTES_KEPT_MAX = 1000
_Taken = tuple[float, Decimal, Decimal]


def touch(order: Order, quote: Quote) -> Decimal | None:
    """The price at which an order trades on a quote, None when it does not; never worse than its limit."""
    if order.style.kind is Kind.MIDPOINT:
        return _within(order, quote.mid)
    price = quote.ask if order.ticket.sign > 0 else quote.bid
    return price if order.style.kind is Kind.MARKET else _within(order, price)


def _within(order: Order, price: Decimal) -> Decimal | None:
    limit = order.limit
    if limit is None:
        # The midpoint may do without a limit; an order that is to have one waits for it.
        return price if order.style.kind is Kind.MIDPOINT else None
    return price if (price <= limit if order.ticket.sign > 0 else price >= limit) else None


def at_the_close(order: Order, price: Decimal) -> bool:
    """Whether an order trades at the closing price."""
    return order.style.kind is Kind.MARKET or _within(order, price) is not None


def quantity(order: Order, left: Decimal) -> Decimal:
    """How much of an order is filled when so much is displayed; 0 when that is less than the order will take."""
    fill = min(order.workable, left)
    least = Decimal(1)
    if order.terms.all_or_none or order.ticket.tif == "FOK":
        least = order.remaining
    elif order.terms.quantity_min:
        least = min(order.terms.quantity_min, order.remaining)
    return fill if fill >= max(least, Decimal(1)) else Decimal(0)


class Displayed:
    """What is left of the size that a quote displays: two orders cannot both take all of it."""

    def __init__(self) -> None:
        self._taken: dict[object, _Taken] = {}

    def left(self, instrument: Instrument, quote: Quote, sign: int) -> Decimal:
        """How much a buyer (+1) or a seller (-1) can still take."""
        _, bid, ask = self._of(instrument, quote)
        return quote.ask_size - ask if sign > 0 else quote.bid_size - bid

    def take(self, instrument: Instrument, quote: Quote, sign: int, quantity: Decimal) -> None:
        """Take some of it."""
        at_s, bid, ask = self._of(instrument, quote)
        self._taken[instrument.key] = (at_s, bid, ask + quantity) if sign > 0 else (at_s, bid + quantity, ask)
        if len(self._taken) > _QUOTES_KEPT_MAX:
            del self._taken[next(iter(self._taken))]

    def _of(self, instrument: Instrument, quote: Quote) -> _Taken:
        taken = self._taken.get(instrument.key)
        return taken if taken is not None and taken[0] == quote.at else (quote.at, Decimal(0), Decimal(0))
