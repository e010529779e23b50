"""What sets off an order that waits: stop, trailing and if-touched orders, by IB's trigger methods.

Sources: TWS users' guide, "Modify the stop trigger method" (a buy is triggered by bids at or above its stop, a sale by
asks at or below it, and the double methods want two in a row); API guide, "Trigger method" (defaults by security type).

    default (0)     stocks, futures: last · currencies: bid/ask · US options: double bid/ask · combos: bid/ask, having
                    no last
    1 double bid/ask   2 last   3 double last   4 bid/ask   7 last or bid/ask   8 midpoint

An if-touched order (MIT, LIT) looks from the other side: a buy waits for a price at or below its trigger.
"""

from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from typing import Final

from ibkr_service.sim.contracts import Combo, Instrument
from ibkr_service.sim.orders import Order
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.terms import Kind

DOUBLE_BID_ASK, LAST, DOUBLE_LAST, BID_ASK, LAST_OR_BID_ASK, MIDPOINT = 1, 2, 3, 4, 7, 8
METHODS: Final = frozenset({0, DOUBLE_BID_ASK, LAST, DOUBLE_LAST, BID_ASK, LAST_OR_BID_ASK, MIDPOINT})
DEFAULTS: Final = {"CASH": BID_ASK, "OPT": DOUBLE_BID_ASK, "FOP": DOUBLE_BID_ASK}
TWICE: Final = frozenset({DOUBLE_BID_ASK, DOUBLE_LAST})

_PERCENT = Decimal(100)


def method_of(method: int, instrument: Instrument, quote: Quote) -> int:
    """The trigger method that holds: the order's own, or the security type's."""
    if not method:
        method = BID_ASK if isinstance(instrument, Combo) else DEFAULTS.get(instrument.sec_type, LAST)
    # What has no last price (a recording has none) is looked at by bid and ask.
    return BID_ASK if quote.last is None and method in {LAST, DOUBLE_LAST, LAST_OR_BID_ASK} else method


def observe(order: Order, quote: Quote) -> bool:
    """Hold a quote against an order that waits; whether that triggers it. A trailing stop follows first."""
    if quote.at <= order.seen_s:
        return False
    order.seen_s = quote.at
    method = method_of(order.terms.trigger_method, order.instrument, quote)
    prices = _prices(order, quote, method)
    if order.style.trails:
        trail(order, prices[0])
    if order.stop is None or not any(_is_beyond(order, price, order.stop) for price in prices):
        order.hits = 0
        return False
    order.hits += 1
    return order.hits > (method in TWICE)


def _prices(order: Order, quote: Quote, method: int) -> list[Decimal]:
    # A stop waits for the market to come to its worse side; an if-touched order for the side that it would trade at.
    is_bid = (order.ticket.sign > 0) != order.style.touches
    side = quote.bid if is_bid else quote.ask
    match method:
        case 2 | 3:  # LAST | DOUBLE_LAST
            return [quote.last or side]
        case 7:  # LAST_OR_BID_ASK
            return [quote.last or side, side]
        case 8:  # MIDPOINT
            return [quote.mid]
        case _:
            return [side]


def _is_beyond(order: Order, price: Decimal, stop: Decimal) -> bool:
    waits_for_rise = (order.ticket.sign > 0) != order.style.touches
    return price >= stop if waits_for_rise else price <= stop


def trail(order: Order, price: Decimal) -> None:
    """Move a trailing stop after a price: down for a buy, up for a sale, never back."""
    sign = order.ticket.sign
    stop = price + sign * _distance(order, price)
    tick = order.instrument.tick_at(stop)
    stop = (stop / tick).to_integral_value(ROUND_CEILING if sign > 0 else ROUND_FLOOR) * tick
    if order.stop is None or (stop < order.stop if sign > 0 else stop > order.stop):
        order.stop = stop
    offset = limit_offset(order)
    if offset is not None:
        order.limit = order.stop + sign * offset


def _distance(order: Order, price: Decimal) -> Decimal:
    percent = order.terms.trail_percent
    return order.ticket.aux or Decimal(0) if percent is None else price * percent / _PERCENT


def limit_offset(order: Order) -> Decimal | None:
    """How far from its stop the limit of a trailing stop limit order is."""
    if order.ticket.order_type != "TRAIL LIMIT":
        return None
    terms, limit = order.terms, order.ticket.limit
    if terms.limit_offset is not None:
        return terms.limit_offset
    if limit is None or terms.trail_stop is None:
        return None
    return order.ticket.sign * (limit - terms.trail_stop)


def arm(order: Order) -> None:
    """Set stop and limit as the ticket has them: when an order is new, and when its terms have changed."""
    ticket, style = order.ticket, order.style
    order.hits = 0
    order.stop = order.terms.trail_stop if style.trails else ticket.aux if style.is_triggered else None
    order.limit = ticket.limit if style.kind is not Kind.MIDPOINT else ticket.limit or None
    offset = limit_offset(order)
    if offset is not None:
        order.limit = None if order.stop is None else order.stop + ticket.sign * offset
