"""An order's life: what was wished for, what we committed to, and what the broker made of it.

Three rules run through this file. Only the server's own status ends an order; what an error code suggests is
*provisional*. Filled quantity is the sum of executions, never a number from a status message. A fill is accepted in
every state: a terminal state is left by a fill, and by nothing else (ib_insync #502, ib_async #191: "Cancelled"
orders that filled).

`TRANSITIONS` is the machine; `Order.advanced` looks it up once. A signal without a row leaves the order as it is,
since the broker may repeat, reorder and contradict itself (Lean saw each status two or three times); what is *not* in
the table cannot happen.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal
from types import MappingProxyType
from typing import Literal

import msgspec

from ibkr_service.core.instrument import Action
from ibkr_service.core.intent import Algo, Intent, OrderType, TimeInForce

__all__ = [
    "HELD",
    "RESOLUTION_SIGNALS",
    "STATUS_SIGNALS",
    "TERMINAL",
    "TRANSITIONS",
    "UNCERTAIN",
    "ZERO",
    "Action",
    "Algo",
    "Intent",
    "Order",
    "OrderSignal",
    "OrderState",
    "OrderType",
    "Resolution",
    "TimeInForce",
]

ZERO = Decimal(0)


class OrderState(enum.Enum):
    """Where an order is in its life."""

    PENDING = "PENDING"  # journalled; not known to have left
    SENT = "SENT"  # handed to the socket; no word from the broker
    WORKING = "WORKING"
    PARTIALLY_FILLED = "PARTIALLY_FILLED"
    CANCEL_PENDING = "CANCEL_PENDING"  # we want it gone; the broker has not confirmed
    PROVISIONALLY_CANCELLED = "PROVISIONALLY_CANCELLED"  # an error code says so; the order may be alive
    UNKNOWN = "UNKNOWN"  # cannot be accounted for: announced, never resent
    FILLED = "FILLED"
    CANCELLED = "CANCELLED"
    REJECTED = "REJECTED"
    ABSENT = "ABSENT"  # the broker, asked twice, never heard of it


TERMINAL = frozenset({OrderState.FILLED, OrderState.CANCELLED, OrderState.REJECTED, OrderState.ABSENT})
UNCERTAIN = frozenset({OrderState.UNKNOWN, OrderState.PROVISIONALLY_CANCELLED})


class OrderSignal(enum.Enum):
    """What can happen to an order, told by the broker, by us or by reconciliation."""

    SENT = "SENT"
    NOT_SENT = "NOT_SENT"
    LIVE = "LIVE"  # the server holds it: PendingSubmit, PreSubmitted, Submitted
    INACTIVE = "INACTIVE"  # the server's Inactive: rejected, or held and possibly coming back
    CANCEL_WANTED = "CANCEL_WANTED"
    CANCELLED = "CANCELLED"  # the server's own status
    REJECT_HINT = "REJECT_HINT"  # an error code that usually means rejection
    DOUBT = "DOUBT"  # an error code that may mean anything
    PART_FILLED = "PART_FILLED"
    FILLED = "FILLED"
    LOST = "LOST"  # not found where it should be
    ABSENT = "ABSENT"  # not found, twice, and the broker would still know


S, T = OrderState, OrderSignal

# A fill, from anywhere: what the broker executed is executed.
_FILLS = {T.PART_FILLED: S.PARTIALLY_FILLED, T.FILLED: S.FILLED}
# The ways in which an order that the broker may hold can end or fall into doubt.
_ENDS = {
    T.CANCELLED: S.CANCELLED,
    T.REJECT_HINT: S.PROVISIONALLY_CANCELLED,
    T.DOUBT: S.PROVISIONALLY_CANCELLED,
    T.LOST: S.UNKNOWN,
}
_DONE: Mapping[OrderSignal, OrderState] = _FILLS

TRANSITIONS: Mapping[OrderState, Mapping[OrderSignal, OrderState]] = MappingProxyType(
    {
        S.PENDING: {
            **_FILLS,
            **_ENDS,
            T.SENT: S.SENT,
            T.NOT_SENT: S.REJECTED,
            T.LIVE: S.WORKING,
            T.INACTIVE: S.REJECTED,
            T.CANCEL_WANTED: S.CANCEL_PENDING,
            T.ABSENT: S.ABSENT,
        },
        S.SENT: {
            **_FILLS,
            **_ENDS,
            T.LIVE: S.WORKING,
            T.INACTIVE: S.REJECTED,
            T.CANCEL_WANTED: S.CANCEL_PENDING,
            T.ABSENT: S.ABSENT,
        },
        S.WORKING: {**_FILLS, **_ENDS, T.INACTIVE: S.REJECTED, T.CANCEL_WANTED: S.CANCEL_PENDING},
        S.PARTIALLY_FILLED: {**_FILLS, **_ENDS, T.INACTIVE: S.CANCELLED, T.CANCEL_WANTED: S.CANCEL_PENDING},
        S.CANCEL_PENDING: {
            # A partial fill does not make us want it any less gone.
            T.PART_FILLED: S.CANCEL_PENDING,
            T.FILLED: S.FILLED,
            T.NOT_SENT: S.REJECTED,
            T.CANCELLED: S.CANCELLED,
            T.INACTIVE: S.CANCELLED,
            T.LOST: S.UNKNOWN,
            T.ABSENT: S.ABSENT,
        },
        S.PROVISIONALLY_CANCELLED: {
            **_FILLS,
            T.LIVE: S.WORKING,
            T.CANCELLED: S.CANCELLED,
            T.INACTIVE: S.REJECTED,
            T.CANCEL_WANTED: S.CANCEL_PENDING,
            T.LOST: S.UNKNOWN,
            T.ABSENT: S.ABSENT,
        },
        S.UNKNOWN: {
            **_FILLS,
            T.LIVE: S.WORKING,
            T.CANCELLED: S.CANCELLED,
            T.INACTIVE: S.REJECTED,
            T.CANCEL_WANTED: S.CANCEL_PENDING,
            T.ABSENT: S.ABSENT,
        },
        S.FILLED: {T.FILLED: S.FILLED, T.PART_FILLED: S.PARTIALLY_FILLED},  # a correction may take a fill back
        S.CANCELLED: {T.PART_FILLED: S.CANCELLED, T.FILLED: S.FILLED},
        S.REJECTED: _DONE,
        S.ABSENT: _DONE,
    }
)

# TWS's order statuses; an unknown one is a doubt, never ignored.
HELD = (
    "locate"  # in `whyHeld` of an Inactive order: it waits for shares to sell short, and may yet trade (ib_insync #363)
)
STATUS_SIGNALS: Mapping[str, OrderSignal] = MappingProxyType(
    {
        "PendingSubmit": T.LIVE,
        "PreSubmitted": T.LIVE,
        "Submitted": T.LIVE,
        "ApiPending": T.LIVE,
        "PendingCancel": T.LIVE,
        "Cancelled": T.CANCELLED,
        "ApiCancelled": T.CANCELLED,
        "Inactive": T.INACTIVE,
    }
)

Resolution = Literal["live", "cancelled", "inactive", "lost", "absent"]
RESOLUTION_SIGNALS: Mapping[Resolution, OrderSignal] = MappingProxyType(
    {"live": T.LIVE, "cancelled": T.CANCELLED, "inactive": T.INACTIVE, "lost": T.LOST, "absent": T.ABSENT}
)


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """A wish that we have committed to.

    `ref` is its name everywhere, TWS included; `order_id` means something in `session` only. `intent` is what holds at
    the broker; `wish` what its key stands for, if that is something else by now (rounded, or modified); `change` a
    modification since `change_at` on which the broker has not spoken. `parent` is the order whose fill makes this one
    live; `parent_id`, `oca_group` and `oca_type` are its ties as the broker showed them last, in its words.
    """

    ref: str
    key: str
    strategy: str
    account: str
    intent: Intent
    state: OrderState = OrderState.PENDING
    filled: Decimal = ZERO
    cost: Decimal = ZERO  # sum of quantity x price over the executions
    perm_id: int = 0
    order_id: int = 0
    session: int = 0
    cancel_wanted: bool = False
    submitted_at: datetime
    reason: str = ""
    wish: Intent | None = None
    parent: str = ""
    parent_id: int = 0
    oca_group: str = ""
    oca_type: int = 0
    change: Intent | None = None
    change_at: datetime | None = None

    @property
    def wished(self) -> Intent:
        """What was asked for when it was submitted."""
        return self.wish or self.intent

    @property
    def remaining(self) -> Decimal:
        """What is not filled yet."""
        return self.intent.quantity - self.filled

    @property
    def average_price(self) -> Decimal | None:
        """Mean price of the executions, if any."""
        return self.cost / self.filled if self.filled else None

    @property
    def done(self) -> bool:
        """The broker will do nothing more with it, as far as it told us."""
        return self.state in TERMINAL

    @property
    def alive(self) -> bool:
        """It may still fill, for all we know. What is UNKNOWN counts as alive."""
        return not self.done

    def advanced(self, signal: OrderSignal, reason: str = "") -> Order:
        """The order after `signal`; itself if the signal changes nothing."""
        after = TRANSITIONS[self.state].get(signal, self.state)
        if signal is OrderSignal.LIVE and self.cancel_wanted and after is OrderState.WORKING:
            after = OrderState.CANCEL_PENDING
        if after is OrderState.WORKING and self.filled:
            after = OrderState.PARTIALLY_FILLED
        if after is self.state and not (reason and reason != self.reason):
            return self
        return msgspec.structs.replace(self, state=after, reason=reason or self.reason)

    def with_facts(self, **changes: object) -> Order:
        """The order with what the broker or the session told about it (perm_id, order_id, session, cancel_wanted)."""
        return msgspec.structs.replace(self, **changes)

    def resized(self) -> Order:
        """The order after its quantity changed: what is filled may be all of it now."""
        if not self.filled or self.done:
            return self
        return self.advanced(OrderSignal.FILLED if self.filled >= self.intent.quantity else OrderSignal.PART_FILLED)

    def with_fills(self, filled: Decimal, cost: Decimal) -> Order:
        """The order with its executions summed anew; corrections may lower the sum.

        With a change to more under way it is not filled before the broker has spoken on that.
        """
        if (filled, cost) == (self.filled, self.cost):
            return self
        whole = self.intent.quantity if self.change is None else max(self.intent.quantity, self.change.quantity)
        signal = OrderSignal.FILLED if filled >= whole else OrderSignal.PART_FILLED
        updated = msgspec.structs.replace(self, filled=filled, cost=cost)
        return updated.advanced(signal)
