"""The rules of the gate about money: what an order is worth, costs, can lose, and how far from the market it trades.

`notional` is asked first of these: it refuses what nobody can price, so that the others have a price.
"""

from __future__ import annotations

from decimal import Decimal

from ibkr_service.core.asked import Asked
from ibkr_service.core.combination import Spread
from ibkr_service.core.errors import Refused
from ibkr_service.core.instrument import AnyInstrument, Future, Option, Stock
from ibkr_service.core.limits import Limits
from ibkr_service.core.orders import ZERO, Intent
from ibkr_service.core.payoff import UNLIMITED, Money
from ibkr_service.core.pricing import (
    is_option_trade,
    market_price,
    multiplier_of,
    option_legs,
    own_price,
    quote_of,
    why_unusable,
    worth,
)
from ibkr_service.core.working import left_of
from ibkr_service.core.worstloss import shares_needed, worst_loss

PERCENT = Decimal(100)
SURELY = 1 - 1e-9  # of a limit
# Fields with which an order buys something else than `quantity`, or brings other orders with it. Unknown is no.
UNPRICEABLE = frozenset({"cashQty", "hedgeType", "deltaNeutralOrderType"})
COLLARED = frozenset({"LMT", "LOC", "MIDPRICE"})  # whose limit meets the market at once


def notional(asked: Asked) -> Refused | None:
    """Quantity, multiplier and price of one order; what nobody can price is refused."""
    intent, limits = asked.intent, asked.limits
    traded = intent.instrument
    if type(traded) is Stock and intent.order_type == "MKT" and not intent.fields and _is_small(asked, traded):
        return None
    for name, _ in intent.fields:
        if name in UNPRICEABLE:
            return Refused("max_notional", "orders whose size is known beforehand", f"one with the field {name}")
    each = asked.worth
    if each is None:
        return Refused(
            "max_quote_age_s",
            f"a live quote of the last {limits.max_quote_age_s:g} s",
            f"a {intent.order_type} order with {asked.unpriced}",
        )
    if isinstance(intent.instrument, Future) and not intent.instrument.multiplier:
        why = f"{intent.instrument} without one: say multiplier=, or as in 'FUT:ES 202612 50@CME'"
        return Refused("max_notional", "a future whose multiplier is said", why)
    notional = abs(each) * intent.quantity * multiplier_of(intent.instrument)
    if notional > limits.max_notional:
        return Refused("max_notional", str(limits.max_notional), f"{notional:f}")
    return None


def _is_small(asked: Asked, share: Stock) -> bool:
    """Whether a market order for shares is surely within its limit: what strategies send between a tick and an order.

    In floats, whose error is far below the margin; a no means that it has to be computed exactly.
    """
    intent, limits = asked.intent, asked.limits
    quote = asked.book.quote(share)
    if quote is None or why_unusable(quote, limits.max_quote_age_s, asked.mono_s) is not None:
        return False
    price = quote.ask if intent.action == "BUY" else quote.bid
    return price is not None and 0 <= price * float(intent.quantity) < SURELY * float(limits.max_notional)


def premium(asked: Asked) -> Refused | None:
    """The premium that one order pays or receives."""
    limit, traded = asked.limits.max_premium, asked.intent.instrument
    if limit is None or not is_option_trade(traded):
        return None
    assert asked.worth is not None, "the notional was asked before"
    if isinstance(traded, Spread) and len(traded.options) < len(traded.legs):
        premium = ZERO  # the price of the whole says nothing of the options in it
        for option, ratio, multiplier in option_legs(traded):
            unpriced = why_unusable(asked.book.quote(option), asked.limits.max_quote_age_s, asked.mono_s)
            if unpriced is not None:
                return Refused("max_premium", f"{limit}, by the quotes of the options", f"{unpriced} of {option}")
            premium += quote_of(option, asked.book).ask * ratio * multiplier * asked.intent.quantity
    else:
        premium = abs(asked.worth) * asked.intent.quantity * multiplier_of(traded)
    return Refused("max_premium", str(limit), f"{premium:f}") if premium > limit else None


def loss(asked: Asked) -> Refused | None:
    """At expiry, of what the order opens; a call that is sold on shares that nothing else needs is covered."""
    limits, intent = asked.limits, asked.intent
    if (limits.max_loss is None and limits.allow_unlimited_loss) or not is_option_trade(intent.instrument):
        return None
    if asked.known_loss is not None:
        return bounded(asked.known_loss, limits, intent)
    each = worst_loss(intent.instrument, intent.action, asked.cash)
    if each is None or asked.reduces or (each is UNLIMITED and _is_covered(asked)):
        return None
    return bounded(times(each, intent.quantity), limits, intent)


def times(loss: Money, quantity: Decimal) -> Money:
    """A loss so many times; without bound it stays."""
    return loss * quantity if isinstance(loss, Decimal) else loss


def bounded(loss: Money, limits: Limits, what: object) -> Refused | None:
    """Hold the most that can be lost against its limit."""
    if loss is UNLIMITED:
        if limits.allow_unlimited_loss:
            return None
        allowed = "a bounded loss" if limits.max_loss is None else str(limits.max_loss)
        return Refused("max_loss", f"{allowed} (allow_unlimited_loss is false)", f"an unlimited loss: {what}")
    if limits.max_loss is not None and loss > limits.max_loss:
        return Refused("max_loss", str(limits.max_loss), f"{loss:f}")
    return None


def _is_covered(asked: Asked) -> bool:
    """Whether shares that nothing else needs are there for the calls that are sold."""
    traded, needed = asked.intent.instrument, shares_needed(asked.intent.instrument, asked.intent.action)
    if not needed or not isinstance(traded, Option):
        return False
    return asked.exposure.free_shares(traded, asked.moves[0][1]) >= 0


def account_notional(asked: Asked) -> Refused | None:
    """Positions, working orders and this one, in the base currency. Reducing orders pass."""
    limit = asked.limits.max_account_notional
    if limit is None or asked.reduces:
        return None
    total = asked.book.value("GrossPositionValue", account=asked.account)
    if total is None:
        return Refused("max_account_notional", str(limit), "a GrossPositionValue that the broker has not told")
    others = [order for order in asked.book.alive_orders() if order.account == asked.account]
    working = [(order.intent, left_of(order)) for order in others if order is not asked.changing]
    for intent, quantity in ((asked.intent, asked.quantity), *working):
        worth = _in_base(asked, intent, quantity)
        if worth is None:
            return Refused("max_account_notional", str(limit), f"{intent}, whose value is not known")
        total += worth
    for held, size, price in asked.book.beside_gross(asked.account):
        worth = _held_in_base(asked, held, size, price)
        if worth is None:
            return Refused("max_account_notional", str(limit), f"an order beside {held}, whose value is not known")
        total += worth
    return Refused("max_account_notional", str(limit), f"{total:f}") if total > limit else None


def _in_base(asked: Asked, intent: Intent, quantity: Decimal) -> Decimal | None:
    """The notional of an order in the account's base currency; None: no price, or no exchange rate."""
    price = worth(intent, own_price(intent), asked.book, asked.limits.max_quote_age_s, asked.mono_s)
    if price is None:
        return None
    rate = asked.book.exchange_rate(intent.instrument.currency, asked.account)
    return None if rate is None else abs(price) * quantity * multiplier_of(intent.instrument) * rate


def _held_in_base(asked: Asked, held: AnyInstrument, size: Decimal, price: Decimal | None) -> Decimal | None:
    """The notional of what is held, by the quote or else the price that TWS last told; None: neither, or no rate."""
    market = market_price(held, asked.book, "BUY", asked.limits.max_quote_age_s, asked.mono_s)
    price = price if market is None else market
    rate = asked.book.exchange_rate(held.currency, asked.account)
    return None if price is None or rate is None else abs(price) * size * multiplier_of(held) * rate


def daily_loss(asked: Asked) -> Refused | None:
    """After so large a loss, or while nobody knows it, only reducing orders pass."""
    limit = asked.limits.max_daily_loss
    if limit is None:
        return None
    daily = asked.book.daily_pnl(asked.account)
    if daily is None:
        if asked.limits.unknown_pnl == "pass" or asked.reduces:
            return None
        return Refused("max_daily_loss", str(limit), "a profit and loss of the day that the broker has not told")
    if -daily < limit or asked.reduces:
        return None
    return Refused("max_daily_loss", str(limit), f"an order that reduces nothing, after a loss of {-daily:f}")


# --- the price -------------------------------------------------------------------------------------------------------


def collared(asked: Asked) -> Refused | None:
    """How far a limit may lie through the quote; a limit on the passive side is none of it."""
    percent, limit = asked.limits.collar_percent, asked.intent.limit_price
    if percent is None or limit is None or asked.intent.order_type not in COLLARED:
        return None
    if asked.unpriced is not None:
        if asked.limits.unknown_quote == "pass":
            return None
        return Refused("collar_percent", "a limit beside a live quote", f"a limit of {limit:f} with {asked.unpriced}")
    bound = collar(asked)
    through = limit > bound if asked.intent.action == "BUY" else limit < bound
    if not through:
        return None
    word = "at most" if asked.intent.action == "BUY" else "at least"
    allowed = f"{word} {bound:f} ({percent:f} % or {asked.limits.collar_min:f} through the quote)"
    return Refused("collar_percent", allowed, f"a limit of {limit:f}")


def collar(asked: Asked) -> Decimal:
    """The worst limit that the collar allows; the quotes are usable."""
    side = quote_of(asked.intent.instrument, asked.book).side(asked.intent.action)
    assert asked.limits.collar_percent is not None, "there is a collar"
    width = max(abs(side) * asked.limits.collar_percent / PERCENT, asked.limits.collar_min)
    return side + width if asked.intent.action == "BUY" else side - width
