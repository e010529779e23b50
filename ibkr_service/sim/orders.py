"""An order at the broker: what the client asked for (`Ticket`), what became of it (`Order`), its life cycle as a table.

A move that the table does not have raises `IllegalMove` and changes nothing. Whoever adds an order state adds its row
here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from enum import Enum
from typing import Final

from ibkr_service.sim.clock import Timer
from ibkr_service.sim.contracts import Contract, ContractSpec, Instrument
from ibkr_service.sim.market import Watch
from ibkr_service.sim.terms import STYLES, Style, Terms


class Status(Enum):
    """Where an order is; the values are IB's words. HELD is ours: the order waits for a transmit and nobody is told."""

    HELD = "PendingSubmit"
    PRE_SUBMITTED = "PreSubmitted"
    SUBMITTED = "Submitted"
    PENDING_CANCEL = "PendingCancel"
    CANCELLED = "Cancelled"
    FILLED = "Filled"
    INACTIVE = "Inactive"

    @property
    def is_done(self) -> bool:
        """Whether nothing can happen to the order any more."""
        return self in DONE


class Move(Enum):
    """What can happen to an order."""

    TRANSMIT = "is transmitted, and waits at the broker"
    ACTIVATE = "works at the exchange"
    REST = "waits at the broker for the next session"
    ASK_CANCEL = "is asked to be cancelled"
    CANCEL = "is cancelled"
    REJECT = "is rejected"
    FILL_PART = "is filled in part"
    FILL = "is filled"


DONE: Final = frozenset({Status.CANCELLED, Status.FILLED, Status.INACTIVE})

TRANSITIONS: Final[dict[Status, dict[Move, Status]]] = {
    Status.HELD: {
        Move.TRANSMIT: Status.PRE_SUBMITTED,
        Move.CANCEL: Status.CANCELLED,
        Move.REJECT: Status.INACTIVE,
    },
    Status.PRE_SUBMITTED: {
        Move.TRANSMIT: Status.PRE_SUBMITTED,
        Move.ACTIVATE: Status.SUBMITTED,
        Move.REST: Status.PRE_SUBMITTED,
        Move.ASK_CANCEL: Status.PENDING_CANCEL,
        Move.CANCEL: Status.CANCELLED,
        Move.REJECT: Status.INACTIVE,
    },
    Status.SUBMITTED: {
        Move.ACTIVATE: Status.SUBMITTED,
        Move.REST: Status.PRE_SUBMITTED,
        Move.ASK_CANCEL: Status.PENDING_CANCEL,
        Move.CANCEL: Status.CANCELLED,
        Move.REJECT: Status.INACTIVE,
        Move.FILL_PART: Status.SUBMITTED,
        Move.FILL: Status.FILLED,
    },
    # A cancel takes time to arrive; a fill may be faster.
    Status.PENDING_CANCEL: {
        Move.REST: Status.PENDING_CANCEL,
        Move.ASK_CANCEL: Status.PENDING_CANCEL,
        Move.CANCEL: Status.CANCELLED,
        Move.FILL_PART: Status.PENDING_CANCEL,
        Move.FILL: Status.FILLED,
    },
    Status.CANCELLED: {},
    Status.FILLED: {},
    Status.INACTIVE: {},
}


class IllegalMove(Exception):
    """An order was asked to make a move that its life cycle does not have."""

    def __init__(self, status: Status, move: Move) -> None:
        super().__init__(f"an order that is {status.value} cannot be one that {move.value}")


@dataclass(frozen=True, slots=True)
class Ticket:
    """A client's placeOrder, read; `values` are all its fields by their official names, as text."""

    order_id: int
    spec: ContractSpec
    values: Mapping[str, str]
    action: str
    quantity: Decimal
    order_type: str
    limit: Decimal | None
    aux: Decimal | None
    tif: str
    account: str
    order_ref: str
    transmit: bool
    parent_id: int
    oca_group: str
    what_if: bool
    terms: Terms = field(default_factory=Terms)
    """The fine print."""

    @property
    def sign(self) -> int:
        """+1 to buy, -1 to sell."""
        return 1 if self.action == "BUY" else -1

    def of_quantity(self, quantity: Decimal) -> "Ticket":
        """The same order for another quantity."""
        return replace(self, quantity=quantity)


@dataclass(slots=True, eq=False)
class Order:
    """An order and what became of it; money in the instrument's currency, quantities in its units."""

    ticket: Ticket
    client_id: int
    perm_id: int
    instrument: Instrument
    account: str
    parent: "Order | None" = None
    status: Status = Status.HELD
    filled: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    """Quantity times price of all fills; of a combo this may be negative."""

    last_price: Decimal = Decimal(0)
    is_routed: bool = False
    """Whether it has arrived at the exchange, with its present terms."""

    is_triggered: bool = False
    """Whether what it waited for has happened: a stop order has become a market order."""

    terms: Terms = field(default_factory=Terms)
    stop: Decimal | None = None
    """The price that triggers it; of a trailing order it moves."""

    limit: Decimal | None = None
    """The worst price at which it may trade now; None while there is none."""

    hits: int = 0
    """How many prices in a row have been beyond the stop."""

    seen_s: float = -1.0
    """The gateway second of the latest quote that was held against the stop."""

    reduced: Decimal = Decimal(0)
    """What fills of orders linked to it have taken off its quantity."""

    charged: dict[int, tuple[Decimal, Decimal]] = field(default_factory=dict)
    """Contract id → what has been charged for, and how much: commissions have their minimum per order."""

    held_for: str = ""
    """Why it waits at the broker, in IB's word, other than for its parent or its trigger."""

    reason: str = ""
    """Why it ended without being filled."""

    is_manual: bool = False
    """Whether it was entered by a person at TWS, not by a client."""

    is_located: bool = False
    """Whether stock to sell short has been found for it."""

    completed_at: str = ""
    completed_on: date | None = None
    completed: dict[int, bytes] = field(default_factory=dict)
    """By version: the message that tells what became of it, once that is certain."""

    children: list["Order"] = field(default_factory=list)
    watch: Watch | None = None
    routing: Timer | None = None
    cancelling: Timer | None = None
    waiting: Timer | None = None
    """Until it may go out, or until the auction."""

    ending: Timer | None = None
    """Until its session, or its time in force, is over."""

    def __repr__(self) -> str:
        what = getattr(self.instrument, "local_symbol", self.instrument.symbol)
        return (
            f"<Order {self.client_id}/{self.ticket.order_id} {self.ticket.action} {self.ticket.quantity} {what}"
            f" {self.ticket.order_type} {self.status.value} {self.filled} filled>"
        )

    @property
    def key(self) -> tuple[int, int]:
        """Client id and order id: what a client calls it by."""
        return self.client_id, self.ticket.order_id

    @property
    def style(self) -> Style:
        """What its type means."""
        return STYLES[self.ticket.order_type]

    @property
    def waits_for_trigger(self) -> bool:
        """Whether it is to be triggered, and has not been."""
        return self.style.is_triggered and not self.is_triggered

    @property
    def waits_for_parent(self) -> bool:
        """Whether nothing of its parent has been filled yet."""
        return self.parent is not None and not self.parent.filled and not self.parent.status.is_done

    @property
    def why_held(self) -> str:
        """Why it waits at the broker, in IB's words."""
        if self.status is not Status.PRE_SUBMITTED:
            return ""
        reasons = (
            "child" if self.waits_for_parent else "",
            "trigger" if self.waits_for_trigger else "",
            self.held_for,
        )
        return ",".join(reason for reason in reasons if reason)

    @property
    def workable(self) -> Decimal:
        """What may be filled now: of a child no more than what its parent's fills, and its siblings', have left."""
        parent = self.parent
        if parent is None or parent.status.is_done:
            return self.remaining
        whole = self.ticket.quantity + self.reduced
        share = whole * parent.filled // parent.ticket.quantity
        return max(Decimal(0), min(self.remaining, share - self.reduced - self.filled))

    @property
    def remaining(self) -> Decimal:
        """What is still to be filled."""
        return self.ticket.quantity - self.filled

    @property
    def average_price(self) -> Decimal:
        """The average price of its fills, 0 when there is none."""
        return self.spent / self.filled if self.filled else Decimal(0)

    def move(self, move: Move) -> None:
        """Go where the table says.

        Raises:
            IllegalMove: the table does not have it; nothing has changed.
        """
        try:
            self.status = TRANSITIONS[self.status][move]
        except KeyError:
            raise IllegalMove(self.status, move) from None


@dataclass(frozen=True, slots=True)
class Execution:
    """A fill, or a leg of one; `commission` is None for a combo as a whole, which has none of its own."""

    exec_id: str
    order: Order
    instrument: Instrument
    time: str
    exchange: str
    side: str
    shares: Decimal
    price: Decimal
    cumulative: Decimal
    average_price: Decimal
    commission: Decimal | None
    commission_currency: str
    day: date
    """The broker's date: executions are forgotten at midnight."""

    realized: Decimal | None
    """Profit of what it closed, after commissions; None when it closed nothing."""

    @property
    def contract(self) -> Contract | None:
        """The listed contract that changed hands; None for the combo as a whole."""
        return self.instrument if isinstance(self.instrument, Contract) else None
