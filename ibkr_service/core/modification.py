"""Changing the terms of a working order: which terms can change, and what the server's word on them means.

A modification is a wish like an order: what holds is what the server's openOrder says. Until it says something, the
order keeps its terms and the wish stands beside them (`Order.change`). An error code with a modification under way
(201, 104, 105, 110 …) is about the modification and not about the order, which is alive as it was (IB-FACTS section
12; ib_insync shows it as cancelled).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Any

import msgspec

from ibkr_service.core import events as ev
from ibkr_service.core.combination import Spread
from ibkr_service.core.errors import InvalidIntent, Refused
from ibkr_service.core.instrument import Index, Other
from ibkr_service.core.intent import TIMES_IN_FORCE, TRAILING, TYPES, Intent, limit_of
from ibkr_service.core.orders import Order, OrderState

CHANGEABLE = frozenset(
    {
        "quantity",
        "limit_price",
        "debit",
        "credit",
        "unnatural",
        "stop_price",
        "trailing_amount",
        "trailing_percent",
        "limit_offset",
        "tif",
        "outside_rth",
    }
)
_LIMITS = frozenset({"limit_price", "debit", "credit", "unnatural"})
_LIVE = frozenset({OrderState.WORKING, OrderState.PARTIALLY_FILLED})
# Which terms the server's openOrder repeats as they were set; the limit and stop of a trailing order move.
_REPEATED: Mapping[str, tuple[str, ...]] = MappingProxyType(
    {
        "LMT": ("limit_price",),
        "LOC": ("limit_price",),
        "STP": ("stop_price",),
        "STP LMT": ("limit_price", "stop_price"),
        "TRAIL": ("trailing_amount", "trailing_percent"),
        "TRAIL LIMIT": ("trailing_amount", "trailing_percent", "limit_offset"),
    }
)
_ADOPTED = frozenset({"MKT", "LMT", "STP", "STP LMT", "MOC", "LOC"})  # whose terms are all known from openOrder


def changed(order: Order, changes: Mapping[str, object]) -> Intent:
    """What the order is to be from now on.

    Raises:
        InvalidIntent: such a change makes no sense, or not any more. Refused: the order's state forbids it.
    """
    unknown = [name for name in changes if name not in CHANGEABLE]
    if unknown:
        raise InvalidIntent(
            f"{unknown[0]} cannot be changed, only {', '.join(sorted(CHANGEABLE))}; cancel and submit anew"
        )
    if order.state not in _LIVE or order.cancel_wanted:
        asked = "one that is to be cancelled" if order.cancel_wanted and not order.done else f"one {order.state.name}"
        raise Refused("state", "changes of a WORKING or PARTIALLY_FILLED order", asked)
    if order.intent.order_type in TRAILING and order.intent.stop_price is not None and "stop_price" not in changes:
        raise InvalidIntent(
            "a change of a trailing order is sent with its stop, which has moved since: say stop_price= as well, where "
            "it is to trail from now; or cancel and submit anew"
        )
    # Upon a change that is still under way: the last word of each term counts.
    before = order.change or order.intent
    after = msgspec.structs.replace(before, **_limited(before, changes))
    if after.quantity <= order.filled:
        raise InvalidIntent(
            f"quantity {after.quantity} is not above the {order.filled} that are filled: cancel instead"
        )
    return after


def _limited(before: Intent, changes: Mapping[str, object]) -> dict[str, Any]:
    """The changes with the limit of a spread as the wire has it: people say debit, credit or the bare price."""
    rest = {name: value for name, value in changes.items() if name not in _LIMITS}
    said = {name: value for name, value in changes.items() if name in _LIMITS}
    if not said:
        return rest
    limit = limit_of(
        before.instrument,
        before.action,
        said.get("limit_price"),
        debit=said.get("debit"),
        credit=said.get("credit"),
        unnatural=bool(said.get("unnatural", False)),
    )
    return {**rest, "limit_price": limit, "unnatural": bool(said.get("unnatural", False))}


def requested(order: Order, event: ev.ModificationRequested) -> Order:
    """The order with a modification under way."""
    return order.with_facts(change=event.intent, change_at=event.at)


def reported(intent: Intent, seen: ev.OpenOrderReported) -> Intent:
    """The intent with the terms that the server shows."""
    terms: dict[str, object] = {"quantity": seen.quantity}
    if seen.order_type == intent.order_type:
        for name in _REPEATED.get(intent.order_type, ()):
            value = getattr(seen, name)
            if value is not None and getattr(intent, name) is not None:
                terms[name] = value
    if seen.tif in TYPES[intent.order_type].tifs and "GTD" not in {seen.tif, intent.tif}:
        terms["tif"] = seen.tif
    if seen.outside_rth is not None:
        terms["outside_rth"] = seen.outside_rth
    if all(getattr(intent, name) == value for name, value in terms.items()):
        return intent
    try:
        if isinstance(intent.instrument, Spread) and (limit := terms.get("limit_price")) is not None:
            assert isinstance(limit, Decimal), "a limit price is one"
            # Somebody may have turned it around at TWS; that is a fact, however odd.
            terms["unnatural"] = intent.instrument.contradicts(intent.action, limit)
        return msgspec.structs.replace(intent, **terms)
    except InvalidIntent:
        return intent  # a server that shows nonsense changes nothing


def settled(order: Order, seen: ev.OpenOrderReported) -> tuple[Order, list[ev.Event]]:
    """The order with the terms that the server shows, and what is to be said about it."""
    wish = order.change
    if wish is not None and reported(wish, seen) == wish:
        return _with(order, wish, None), [_said(seen, order.ref, "accepted", wish)]
    shown = reported(order.intent, seen)
    if shown == order.intent:
        return order, []
    # Somebody at TWS changed it, or a modification that was taken for refused did get through.
    return _with(order, shown, wish), [_said(seen, order.ref, "changed", shown, "the broker shows other terms")]


def refused(order: Order, event: ev.Event, why: str) -> tuple[Order, list[ev.Event]]:
    """The order without its modification."""
    return order.with_facts(change=None, change_at=None).resized(), [
        _said(event, order.ref, "refused", order.intent, why)
    ]


def is_overdue(order: Order, asked_at: datetime) -> bool:
    """Whether a look that shows the order, and was begun at this time, must have shown the change as well."""
    return order.change is not None and order.change_at is not None and order.change_at < asked_at


def _with(order: Order, intent: Intent, change: Intent | None) -> Order:
    return order.with_facts(
        intent=intent,
        wish=order.wished,
        change=change,
        change_at=order.change_at if change is not None else None,
    ).resized()


def _said(event: ev.Event, ref: str, outcome: ev.Outcome, intent: Intent, why: str = "") -> ev.Event:
    return ev.ModificationSettled(at=event.at, session=event.session, ref=ref, outcome=outcome, intent=intent, why=why)


def adopted(seen: ev.OpenOrderReported) -> Intent | None:
    """The intent behind an order of ours that the journal does not know; None if that cannot be told."""
    kind = seen.order_type
    if kind not in _ADOPTED or isinstance(seen.instrument, (Index, Other)):
        return None
    prices: dict[str, Decimal | None] = {name: getattr(seen, name) for name in _REPEATED.get(kind, ())}
    try:
        return Intent(
            instrument=seen.instrument,
            action=seen.action,
            quantity=seen.quantity,
            order_type=kind,  # type: ignore[arg-type]  # one of these it is
            tif=seen.tif if seen.tif in TIMES_IN_FORCE - {"GTD"} else "DAY",  # type: ignore[arg-type]  # same
            outside_rth=bool(seen.outside_rth),
            **prices,  # type: ignore[arg-type]  # prices they are
        )
    except InvalidIntent:
        return None  # it makes no sense to us: a foreign order, its key spent all the same
