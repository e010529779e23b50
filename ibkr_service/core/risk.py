"""May this intent become an order? Pure: limits, intent, book and the time in; `None` or a refusal out.

Every refusal says which limit, its value and what was asked. Where a figure is unknown (no quote to price a market
order with) the
answer is no: unknown is never treated as zero.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal, InvalidOperation

import msgspec

from ibkr_service.core.book import Book
from ibkr_service.core.combination import Spread
from ibkr_service.core.errors import Refused
from ibkr_service.core.events import Tick
from ibkr_service.core.increments import OffTick, UnknownIncrement
from ibkr_service.core.instrument import Future, Option
from ibkr_service.core.link import Link
from ibkr_service.core.netquote import net_quote
from ibkr_service.core.orders import Intent

MINUTE = timedelta(minutes=1)
TRAILING = frozenset({"TRAIL", "TRAIL LIMIT"})
# Fields with which an order buys something else than `quantity`, or brings other orders with it. Unknown is no.
UNPRICEABLE = frozenset({"cashQty", "hedgeType", "deltaNeutralOrderType"})


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of the settings' table `[risk]`, as plain values.

    Args:
        max_quantity: of one order, in units of the instrument. max_notional: of one order, in the quote currency.
        max_open_orders: per instrument and side (IB itself allows 20). max_orders_per_minute: per strategy.
        max_quote_age_s: a market order is priced by a live quote no older than this.
        off_tick, unknown_increment: what is done with a price between two increments, and with one of an instrument
        whose increments nobody has asked for (`core/increments.py`).
    """

    max_quantity: Decimal
    max_notional: Decimal
    max_open_orders: int
    max_orders_per_minute: int
    max_quote_age_s: float
    read_only: bool = False
    off_tick: OffTick = "refuse"
    unknown_increment: UnknownIncrement = "pass"


def check(intent: Intent, strategy: str, limits: Limits, book: Book, *, now: datetime, mono_s: float) -> Refused | None:
    """The first limit that forbids the order, or None.

    Args:
        now: wall clock, for rates. mono_s: the event loop's time, for the age of quotes.
    """
    refusal = _check_sending(intent, strategy, limits, book, now)
    if refusal is not None:
        return refusal
    same_side = sum(
        1 for o in book.alive_orders() if o.intent.instrument == intent.instrument and o.intent.action == intent.action
    )
    if same_side >= limits.max_open_orders:
        return Refused(
            "max_open_orders", f"{limits.max_open_orders} per instrument and side", f"one more beside {same_side}"
        )
    return _check_notional(intent, limits, book, mono_s)


def check_change(
    intent: Intent, strategy: str, limits: Limits, book: Book, *, now: datetime, mono_s: float
) -> Refused | None:
    """As `check`, for new terms of an order that exists: there is no order more than before.

    Args:
        intent: the order as it is to be.
    """
    return _check_sending(intent, strategy, limits, book, now) or _check_notional(intent, limits, book, mono_s)


def _check_sending(intent: Intent, strategy: str, limits: Limits, book: Book, now: datetime) -> Refused | None:
    if limits.read_only:
        return Refused("read_only", "no orders", str(intent))
    if book.link is not Link.READY:
        return Refused("link", Link.READY.name, f"an order while the link is {book.link.name}")
    if intent.quantity > limits.max_quantity:
        return Refused("max_quantity", str(limits.max_quantity), str(intent.quantity))
    submitted = book.submitted_since(strategy, now - MINUTE)
    if submitted >= limits.max_orders_per_minute:
        return Refused("max_orders_per_minute", str(limits.max_orders_per_minute), f"one more after {submitted}")
    return None


def _check_notional(intent: Intent, limits: Limits, book: Book, mono_s: float) -> Refused | None:
    for name, _ in intent.fields:
        if name in UNPRICEABLE:
            return Refused("max_notional", "orders whose size is known beforehand", f"one with the field {name}")
    price = _own_price(intent)
    if price is None:
        several = len(intent.contracts) > 1
        for contract in intent.contracts:
            unusable = why_unusable(book.quote(contract), limits.max_quote_age_s, mono_s)
            if unusable is not None:
                return Refused(
                    "max_quote_age_s",
                    f"a live quote of the last {limits.max_quote_age_s:g} s",
                    f"a {intent.order_type} order with {unusable}{f' of {contract}' if several else ''}",
                )
        price = _market_price(intent, book)
    notional = abs(price) * intent.quantity * _multiplier(intent)
    if notional > limits.max_notional:
        return Refused("max_notional", str(limits.max_notional), f"{notional:f}")
    return None


def _market_price(intent: Intent, book: Book) -> Decimal:
    """What the market asks for it; its quotes are usable."""
    traded = intent.instrument
    if isinstance(traded, Spread):
        return net_quote(traded, lambda leg: book.quotes[leg]).side(intent.action)
    quote = book.quotes[traded]
    side = quote.ask if intent.action == "BUY" else quote.bid
    assert side is not None, "a usable quote has both sides"
    return Decimal(repr(side))


def _own_price(intent: Intent) -> Decimal | None:
    """The price that an order names for itself; None if the market prices it.

    A stop is priced where it is triggered, and with a limit by the larger of the two. A trailing stop moves with the
    market, so the market prices it, wherever it is now; what it starts with says nothing.
    """
    limit, stop = intent.limit_price, intent.stop_price
    if intent.is_plain:
        return limit
    if intent.order_type in TRAILING:
        return None
    if limit is not None and stop is not None:
        return max(abs(limit), abs(stop))
    price = limit if limit is not None else stop
    discretion = dict(intent.fields).get("discretionaryAmt", 0)  # so much worse than its limit it may trade
    if price is None or not isinstance(discretion, (str, int)):
        return price
    try:
        return abs(price) + abs(Decimal(discretion))
    except InvalidOperation:
        return price  # not a number: the broker's own check refuses it


def why_unusable(  # noqa: PLR0911 - one row per reason
    quote: Tick | None, max_age_s: float, mono_s: float
) -> str | None:
    """Why a quote cannot price an order, in words; None if it can (R31)."""
    if quote is None:
        return "no quote (watch the instrument first)"
    if quote.data_type != "live":
        return f"a quote that is {quote.data_type}, not live"
    if quote.bid is None or quote.ask is None:
        return "a quote that lacks a side"
    if quote.bid > quote.ask:
        return "a crossed quote"
    if quote.halted:
        return "a quote of an instrument whose trading is halted"
    age_s = mono_s - quote.mono_s
    if age_s > max_age_s:
        return f"a quote {age_s:.1f} s old"
    return None


def _multiplier(intent: Intent) -> Decimal:
    if isinstance(intent.instrument, Spread):
        return intent.instrument.multiplier
    if isinstance(intent.instrument, (Option, Future)) and intent.instrument.multiplier:
        return Decimal(intent.instrument.multiplier)
    return Decimal(1)
