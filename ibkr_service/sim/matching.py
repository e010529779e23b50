"""When an order trades, at which price and how much of it: pure decisions about one order and one quote."""

from decimal import Decimal

from ibkr_service.sim.contracts import Instrument
from ibkr_service.sim.orders import Order
from ibkr_service.sim.quotes import Quote

_QUOTES_KEPT_MAX = 1000
_Taken = tuple[float, Decimal, Decimal]


def touch(order: Order, quote: Quote) -> Decimal | None:
    """The price at which an order trades on a quote, None when it does not; never worse than its limit."""
    buys = order.ticket.sign > 0
    price = quote.ask if buys else quote.bid
    limit = order.ticket.limit
    if order.ticket.order_type != "LMT" or limit is None:
        return price
    return price if (price <= limit if buys else price >= limit) else None


def triggers(order: Order, quote: Quote) -> bool:
    """Whether a quote triggers a stop order: IB's double bid/ask method, of one quote."""
    stop = order.ticket.aux
    if stop is None:
        return False
    return quote.ask >= stop if order.ticket.sign > 0 else quote.bid <= stop


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
