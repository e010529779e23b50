"""The rules of the gate about what may leave at all: how much, how often, when, and what it makes of positions.

Each is a small function: a question in, None or the refusal out. docs/risk.md has the table.
"""

from __future__ import annotations

from datetime import timedelta

from ibkr_service.core.asked import Asked
from ibkr_service.core.combination import Spread
from ibkr_service.core.errors import Refused
from ibkr_service.core.instrument import Bag
from ibkr_service.core.link import Link
from ibkr_service.core.orders import ZERO, OrderState
from ibkr_service.core.pricing import symbol_of
from ibkr_service.core.working import left_of

MINUTE = timedelta(minutes=1)
RESTING = frozenset({"GTC", "GTD", "OPG"})  # meant to wait until the market opens
NEVER_SENT = frozenset({OrderState.REJECTED, OrderState.ABSENT, OrderState.CANCELLED})


# --- may anything leave? ---------------------------------------------------------------------------------------------


def read_only(asked: Asked) -> Refused | None:
    """Whether orders may leave at all."""
    return Refused("read_only", "no orders", str(asked.intent)) if asked.limits.read_only else None


def link(asked: Asked) -> Refused | None:
    """The line must be verified; nothing is parked."""
    if asked.book.link is Link.READY:
        return None
    return Refused("link", Link.READY.name, f"an order while the link is {asked.book.link.name}")


def only_reducing(asked: Asked) -> Refused | None:
    """What the operator, or a doubt about an account, allows. Reducing orders pass."""
    why = asked.book.only_reducing(asked.account)
    if why is None or asked.reduces:
        return None
    return Refused("only_reducing", f"orders that reduce a position: {why}", str(asked.intent))


def restart_window(asked: Asked) -> Refused | None:
    """Nothing is sent into a restart that was declared. Reducing orders pass: the link says when it is too late."""
    for window in asked.limits.restart_windows:
        if window.covers(asked.now, timedelta(seconds=asked.limits.no_orders_before_s)) and not asked.reduces:
            before = f"{asked.limits.no_orders_before_s:g} s before and during the restart from {window}"
            return Refused("restart_window", f"orders that reduce a position, {before}", str(asked.intent))
    return None


def symbols(asked: Asked) -> Refused | None:
    """Which underlyings may be traded."""
    allowed, symbol = asked.limits.symbols, symbol_of(asked.intent.instrument)
    if not allowed or symbol in allowed:
        return None
    return Refused("symbols", ", ".join(sorted(allowed)), symbol)


# --- how much at once, how often -------------------------------------------------------------------------------------


def quantity(asked: Asked) -> Refused | None:
    """Of one order."""
    if asked.intent.quantity <= asked.limits.max_quantity:
        return None
    return Refused("max_quantity", str(asked.limits.max_quantity), str(asked.intent.quantity))


def rate(asked: Asked) -> Refused | None:
    """Orders and modifications in a minute, of the strategy and of the account."""
    limits, beside = asked.limits, len(asked.beside)
    submitted = asked.book.submitted_since(asked.strategy, asked.now - MINUTE) + beside
    if submitted >= limits.max_orders_per_minute:
        return Refused("max_orders_per_minute", str(limits.max_orders_per_minute), f"one more after {submitted}")
    if limits.max_account_orders_per_minute is not None:
        submitted = asked.book.account_submitted_since(asked.account, asked.now - MINUTE) + beside
        if submitted >= limits.max_account_orders_per_minute:
            return Refused(
                "max_account_orders_per_minute",
                str(limits.max_account_orders_per_minute),
                f"one more after {submitted}",
            )
    return None


def duplicate(asked: Asked) -> Refused | None:
    """The same terms of the same strategy, a moment ago: most likely a loop, or an impatient hand."""
    window_s = asked.limits.duplicate_window_s
    if not window_s or asked.changing is not None:
        return None
    since = asked.now - timedelta(seconds=window_s)
    for at, ref in asked.book.recent_orders(asked.strategy):
        if at <= since:
            return None
        order = asked.book.orders.get(ref)
        if order is None or order.state in NEVER_SENT:
            continue
        if asked.intent in (order.intent, order.wished):
            age_s = (asked.now - at).total_seconds()
            return Refused("duplicate_window_s", f"the same order once in {window_s:g} s", f"again after {age_s:.3f} s")
    return None


def open_orders(asked: Asked) -> Refused | None:
    """Of one instrument and side; IB itself allows 20, whoever placed them."""
    if asked.changing is not None:
        return None
    traded, action = asked.intent.instrument, asked.intent.action
    working = asked.book.working.count(asked.account, traded, action)
    if asked.beside:
        working += sum(1 for one in asked.beside if (one.instrument, one.action) == (traded, action))
    for other in asked.book.foreign_orders.values():
        if other.account == asked.account and other.action == action:
            # A combination of others may be this one: its legs have numbers only.
            is_alike = isinstance(traded, Spread) and isinstance(other.instrument, Bag)
            working += other.instrument.symbol == traded.symbol if is_alike else other.instrument == traded
    limit = asked.limits.max_open_orders
    if working < limit:
        return None
    return Refused("max_open_orders", f"{limit} per instrument and side", f"one more beside {working}")


# --- positions -------------------------------------------------------------------------------------------------------


def position(asked: Asked) -> Refused | None:
    """The account's position in each contract, with all that works on this side. What makes it smaller passes."""
    limit = asked.limits.max_position
    if limit is None:
        return None
    for contract, signed in asked.moves:
        worst = asked.exposure.worst(contract, signed)
        # What the order moves away from zero; a position that is too large already may be made smaller.
        if abs(worst) > limit and (worst > 0) == (signed > 0):
            return Refused(
                "max_position", f"{limit} of an instrument", f"{worst:f} {contract} with all that is working"
            )
    return None


def strategy_position(asked: Asked) -> Refused | None:
    """What the strategy's own orders have built and may build. What makes it smaller passes."""
    limit, traded, action = asked.limits.max_strategy_position, asked.intent.instrument, asked.intent.action
    if limit is None:
        return None
    size = asked.book.strategy_position(asked.strategy, traded)
    sign = 1 if action == "BUY" else -1
    working = [
        left_of(order)
        for order in asked.book.alive_orders(asked.strategy)
        if order is not asked.changing and (order.intent.instrument, order.intent.action) == (traded, action)
    ]
    same = [one for one in asked.after if one.instrument == traded]
    worst = size + sign * (asked.quantity + sum(working, ZERO))
    worst += sum((one.signed for one in same), ZERO)
    if abs(worst) <= limit or (worst > 0) != (sign > 0):
        return None
    return Refused("max_strategy_position", f"{limit} of an instrument", f"{worst:f} {traded} with all that is working")


# --- hours -----------------------------------------------------------------------------------------------------------


def trading_hours(asked: Asked) -> Refused | None:
    """Orders that do not mean to wait leave while the market is open."""
    intent, limits = asked.intent, asked.limits
    waits = intent.tif == "OPG" or (intent.tif in RESTING and intent.order_type != "MKT")
    if limits.trading_hours == "off" or waits:
        return None
    for contract in intent.contracts:
        hours = asked.hours(contract)
        is_open = hours.is_open(asked.now, outside_rth=intent.outside_rth) if hours is not None else None
        if is_open is None:
            if limits.unknown_hours == "refuse":
                why = "has hours that nobody has asked for: await desk.qualify first"
                return Refused("trading_hours", "orders while the market is known to be open", f"{contract} {why}")
            continue
        if not is_open:
            assert hours is not None, "something is known"
            opens = hours.opens_next(asked.now, outside_rth=intent.outside_rth)
            again = f", which begin at {opens:%Y-%m-%d %H:%M %Z}" if opens is not None else ""
            kind = "trading" if intent.outside_rth else "liquid"
            source = "" if hours.source == "contract" else " (by a calendar in place of the contract's own hours)"
            asked_for = f"a {intent.tif} {intent.order_type} order of {contract} outside of them"
            return Refused("trading_hours", f"orders in the {kind} hours of {contract}{again}{source}", asked_for)
    return None
