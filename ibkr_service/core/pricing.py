"""What an order would trade at, as far as that can be known beforehand: by its own limit, or by a usable quote.

Where a figure is unknown (no quote to price a market order with) there is no price: unknown is never treated as zero.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation

from ibkr_service.core.book import Book
from ibkr_service.core.combination import Spread
from ibkr_service.core.events import Tick
from ibkr_service.core.instrument import AnyInstrument, Forex, Future, Option
from ibkr_service.core.intent import TRAILING, Traded
from ibkr_service.core.netquote import NetQuote, net_quote
from ibkr_service.core.orders import Action, Intent


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


def why_unpriced(traded: Traded, book: Book, max_age_s: float, mono_s: float) -> str | None:
    """Why the market cannot price something now: of a spread the first leg without a usable quote; None if it can."""
    if not isinstance(traded, Spread):
        return why_unusable(book.quote(traded), max_age_s, mono_s)
    for leg in traded.legs:
        unusable = why_unusable(book.quote(leg.instrument), max_age_s, mono_s)
        if unusable is not None:
            return f"{unusable} of {leg.instrument}"
    return None


def quote_of(traded: Traded, book: Book) -> NetQuote:
    """Bid and ask of something whose quotes are usable (`why_unpriced` is asked first)."""
    if isinstance(traded, Spread):
        return net_quote(traded, lambda leg: book.quotes[leg])
    quote = book.quotes[traded]
    assert quote.bid is not None, "a usable quote has both sides"
    assert quote.ask is not None, "a usable quote has both sides"
    return NetQuote(Decimal(repr(quote.bid)), Decimal(repr(quote.ask)))


def market_price(traded: Traded, book: Book, action: Action, max_age_s: float, mono_s: float) -> Decimal | None:
    """What an order would trade at in the market; None if that cannot price it (`why_unpriced`).

    As the side of `quote_of`; of a single contract the other side is not read.
    """
    if isinstance(traded, Spread):
        unpriced = why_unpriced(traded, book, max_age_s, mono_s)
        return quote_of(traded, book).side(action) if unpriced is None else None
    quote = book.quote(traded)
    if quote is None or why_unusable(quote, max_age_s, mono_s) is not None:
        return None
    return Decimal(repr(quote.ask if action == "BUY" else quote.bid))


def own_price(intent: Intent) -> Decimal | None:
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


def may_exceed(intent: Intent) -> bool:
    """Whether it may trade at more than it names: a stop to buy below the market, a limit to sell there."""
    if intent.action == "BUY":
        return intent.order_type == "STP"
    return intent.order_type in {"LMT", "LOC", "MIDPRICE"}


def worth(intent: Intent, own: Decimal | None, book: Book, max_age_s: float, mono_s: float) -> Decimal | None:
    """What a unit may trade at, at most as far as is known: its own price, or the market's where that is no bound.

    Args:
        own: as `own_price` says.
    """
    if own is not None and not may_exceed(intent):
        return own
    market = market_price(intent.instrument, book, intent.action, max_age_s, mono_s)
    if own is None or market is None:
        return market if own is None else own
    return max(abs(own), abs(market))


def multiplier_of(traded: Traded) -> Decimal:
    """Money per 1 of its price; 1 where nobody has said."""
    if isinstance(traded, Spread):
        return traded.multiplier
    if isinstance(traded, (Option, Future)) and traded.multiplier:
        return Decimal(traded.multiplier)
    return Decimal(1)


def symbol_of(traded: Traded) -> str:
    """What the list of allowed symbols calls it: the underlying's symbol, of a currency pair EUR.USD."""
    return str(traded) if isinstance(traded, Forex) else traded.symbol


def is_option_trade(traded: Traded) -> bool:
    """Whether options are traded."""
    return isinstance(traded, (Spread, Option))


def option_legs(traded: Traded) -> tuple[tuple[AnyInstrument, int, Decimal], ...]:
    """The options in it: each with its count per unit and its multiplier."""
    if isinstance(traded, Spread):
        return tuple((leg.instrument, leg.ratio, leg.multiplier) for leg in traded.legs if leg.option is not None)
    return ((traded, 1, multiplier_of(traded)),) if isinstance(traded, Option) else ()
