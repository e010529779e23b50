"""May this intent become an order? Pure: limits, intent, book and the time in; `None` or a refusal out.

Every refusal says which limit, its value and what was asked. Where a figure is unknown (no quote to price a market
order with) the
answer is no: unknown is never treated as zero.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from decimal import Decimal

import msgspec

from ibkr_service.core.book import Book
from ibkr_service.core.errors import Refused
from ibkr_service.core.events import Tick
from ibkr_service.core.instrument import Future, Option
from ibkr_service.core.link import Link
from ibkr_service.core.orders import Intent

MINUTE = timedelta(minutes=1)


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """The limits of the settings' table `[risk]`, as plain values.

    Args:
        max_quantity: of one order, in units of the instrument. max_notional: of one order, in the quote currency.
        max_open_orders: per instrument and side (IB itself allows 20). max_orders_per_minute: per strategy.
        max_quote_age_s: a market order is priced by a live quote no older than this.
    """

    max_quantity: Decimal
    max_notional: Decimal
    max_open_orders: int
    max_orders_per_minute: int
    max_quote_age_s: float
    read_only: bool = False


def check(intent: Intent, strategy: str, limits: Limits, book: Book, *, now: datetime, mono_s: float) -> Refused | None:
    """The first limit that forbids the order, or None.

    Args:
        now: wall clock, for rates. mono_s: the event loop's time, for the age of quotes.
    """
    if limits.read_only:
        return Refused("read_only", "no orders", str(intent))
    if book.link is not Link.READY:
        return Refused("link", Link.READY.name, f"an order while the link is {book.link.name}")
    if intent.quantity > limits.max_quantity:
        return Refused("max_quantity", str(limits.max_quantity), str(intent.quantity))
    submitted = book.submitted_since(strategy, now - MINUTE)
    if submitted >= limits.max_orders_per_minute:
        return Refused("max_orders_per_minute", str(limits.max_orders_per_minute), f"one more after {submitted}")
    same_side = sum(
        1 for o in book.alive_orders() if o.intent.instrument == intent.instrument and o.intent.action == intent.action
    )
    if same_side >= limits.max_open_orders:
        return Refused(
            "max_open_orders", f"{limits.max_open_orders} per instrument and side", f"one more beside {same_side}"
        )
    return _check_notional(intent, limits, book, mono_s)


def _check_notional(intent: Intent, limits: Limits, book: Book, mono_s: float) -> Refused | None:
    price = intent.limit_price
    if price is None:
        quote = book.quote(intent.instrument)
        unusable = why_unusable(quote, limits.max_quote_age_s, mono_s)
        if unusable is not None:
            return Refused(
                "max_quote_age_s",
                f"a live quote of the last {limits.max_quote_age_s:g} s",
                f"a MKT order with {unusable}",
            )
        assert quote is not None, "a usable quote exists"
        side = quote.ask if intent.action == "BUY" else quote.bid
        assert side is not None, "a usable quote has both sides"
        price = Decimal(repr(side))
    notional = abs(price) * intent.quantity * _multiplier(intent)
    if notional > limits.max_notional:
        return Refused("max_notional", str(limits.max_notional), f"{notional:f}")
    return None


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
    if isinstance(intent.instrument, (Option, Future)) and intent.instrument.multiplier:
        return Decimal(intent.instrument.multiplier)
    return Decimal(1)
