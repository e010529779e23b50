"""What can happen: one frozen struct per kind of fact, and the union `Event`.

An event is stamped once, where it enters (`at`, UTC), and never changes: unlike ib_insync's objects it can be queued,
journalled and compared. `session` numbers the connection that it came through (0: from ourselves); the facts of an
old session are recognisable.

Prices and quantities of orders and fills are Decimal, as the broker keeps them. Quotes are floats, `None` where the
market has no value; a missing price is never 0 or -1 in disguise.

Whoever adds an event decides in `JOURNALLED` whether it must survive a crash, and teaches `Book.apply` what it means.
"""

from __future__ import annotations

from datetime import datetime
from decimal import Decimal
from typing import Literal

import msgspec

from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.link import Link, Signal
from ibkr_service.core.orders import Action, Intent, Order, OrderState, Resolution

OperatorVerb = Literal["stop-entries", "resume", "halt"]
Outcome = Literal["accepted", "refused", "changed"]
Cause = Literal["opening", "while_away", "expiry", "assignment", "exercise", "split", "accepted", "unexplained"]
DataType = Literal["unknown", "live", "frozen", "delayed", "delayed_frozen"]


class Fact(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Base of all events. `at` is when we learned it (UTC); `session` through which connection (0: our own doing)."""

    at: datetime
    session: int = 0


# --- the service and its line ----------------------------------------------------------------------------------------


class ServiceStarted(Fact, frozen=True, kw_only=True, tag="ServiceStarted"):
    """The daemon began. `run_id` is part of every order reference of this run."""

    run_id: str
    mode: str
    version: str


class ServiceStopped(Fact, frozen=True, kw_only=True, tag="ServiceStopped"):
    """The daemon ended in order."""

    reason: str


class LinkSignalled(Fact, frozen=True, kw_only=True, tag="LinkSignalled"):
    """Something happened to the line; `LinkChanged` follows if it matters. `code` is the TWS code, if one said it."""

    signal: Signal
    why: str
    code: int | None = None


class LinkChanged(Fact, frozen=True, kw_only=True, tag="LinkChanged"):
    """The link has a new state."""

    before: Link
    after: Link
    why: str


class SessionOpened(Fact, frozen=True, kw_only=True, tag="SessionOpened"):
    """A handshake succeeded: who the gateway says we are. `account` is the one that orders name by default."""

    server_version: int
    client_id: int
    accounts: tuple[str, ...]
    account: str


class FarmChanged(Fact, frozen=True, kw_only=True, tag="FarmChanged"):
    """A data farm went down (2103, 2105, 2157) or came up (2104, 2106, 2158 …)."""

    farm: str
    up: bool
    code: int


class BrokerNotice(Fact, frozen=True, kw_only=True, tag="BrokerNotice"):
    """Any message of the broker that moves neither the link nor an order.

    Never swallowed, also with an unknown code.
    """

    code: int
    text: str
    request: int = -1
    known: bool = True


class LibraryFault(Fact, frozen=True, kw_only=True, tag="LibraryFault"):
    """A library logged an error: a message that could not be decoded, a handler that raised.

    Data may be lost: reconcile.
    """

    logger: str
    text: str


class IncidentOpened(Fact, frozen=True, kw_only=True, tag="IncidentOpened"):
    """An outage began, whatever noise it will make; `number` counts those of this journal."""

    number: int
    cause: str


class StreamGap(msgspec.Struct, frozen=True, kw_only=True):
    """What an outage meant for one stream.

    From `since`, the last moment at which it could be trusted, to `until`; None if it had not come back when the
    incident was closed. `resubscribed`: it was asked for anew, and did not go on by itself.
    """

    instrument: str
    since: datetime
    until: datetime | None = None
    resubscribed: bool = False
    backfilled: int = 0


class OrderInDoubt(msgspec.Struct, frozen=True, kw_only=True):
    """An order that could not be accounted for during an outage; `state` is what it was at the end of it."""

    ref: str
    state: str


class IncidentClosed(Fact, frozen=True, kw_only=True, tag="IncidentClosed"):
    """An outage is over: the link is READY, farms and streams are back.

    `detected_after_s`: from the last moment at which data could be trusted to when we knew; `ready_after_s`: on to
    READY. `attempts`: connections that came as far as the account's state. `streams`: those that had a gap.
    `orders_unknown`: orders that could not be accounted for meanwhile, of which `orders_resolved` can be now; `orders`
    are these. `fills_recovered`: executions that were learned of by asking. `steps`: the rungs of the
    recovery ladder that were taken, in order.
    """

    number: int
    cause: str
    began_at: datetime
    detected_after_s: float
    ready_after_s: float
    attempts: int
    streams: tuple[StreamGap, ...] = ()
    orders_unknown: int
    orders_resolved: int
    orders: tuple[OrderInDoubt, ...] = ()
    fills_recovered: int
    steps: tuple[str, ...] = ()

    @property
    def silent(self) -> tuple[str, ...]:
        """The streams that did not come back within a minute of READY."""
        return tuple(stream.instrument for stream in self.streams if stream.until is None)

    @property
    def resubscribed(self) -> int:
        """How many streams were asked for anew."""
        return sum(stream.resubscribed for stream in self.streams)


class RecoveryStep(Fact, frozen=True, kw_only=True, tag="RecoveryStep"):
    """A step of the recovery ladder, before it is taken (`core/ladder.py`).

    `rung` is its name there, `what` the streams that are asked for anew, or the command to the gateway's controller.
    """

    rung: str
    why: str
    what: str = ""


class ControllerAnswered(Fact, frozen=True, kw_only=True, tag="ControllerAnswered"):
    """What the gateway's controller said to a command, or why it said nothing."""

    command: str
    ok: bool
    text: str


class LoopHeld(Fact, frozen=True, kw_only=True, tag="LoopHeld"):
    """Our own event loop stood still for `held_s` seconds: whatever came late meanwhile is not the broker's fault.

    `by` is the task that held it, where the watchdog saw it.
    """

    held_s: float
    by: str = ""


# --- market data -----------------------------------------------------------------------------------------------------


class Greeks(msgspec.Struct, frozen=True, kw_only=True):
    """What an option's price is made of, per unit of the underlying; None where nobody computed it.

    `delta` per 1 of the underlying, `gamma` per 1 of the underlying of delta, `vega` per percentage point of
    volatility, `theta` per calendar day, as TWS gives them (tickOptionComputation); `implied_volatility` is annual
    (0.25 is 25 %); `rho` per percentage point of interest, which TWS never sends. `computed` says that we did it.
    """

    implied_volatility: float | None = None
    delta: float | None = None
    gamma: float | None = None
    theta: float | None = None
    vega: float | None = None
    rho: float | None = None
    option_price: float | None = None
    underlying_price: float | None = None
    computed: bool = False


class Tick(Fact, frozen=True, tag="Tick", gc=False):
    """The quote of an instrument at one moment, whole. Prices in the quote currency, sizes in units of the instrument.

    `data_type` is what the broker *said* it sends ("unknown" until it did); `mono_s` the event loop's time, for ages;
    `epoch` counts the gaps of this stream, so that data from before and after one can be told apart. `greeks` (TWS's
    model) and `open_interest` are there for options.
    """

    instrument: AnyInstrument
    bid: float | None = None
    ask: float | None = None
    last: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    last_size: float | None = None
    volume: float | None = None
    high: float | None = None
    low: float | None = None
    open: float | None = None
    close: float | None = None
    data_type: DataType = "unknown"
    epoch: int = 0
    mono_s: float = 0.0
    halted: bool = False
    greeks: Greeks | None = None
    open_interest: float | None = None

    @property
    def mid(self) -> float | None:
        """Halfway between bid and ask, if both exist."""
        return None if self.bid is None or self.ask is None else (self.bid + self.ask) / 2


class RawTick(msgspec.Struct, frozen=True, gc=False):
    """One tick as it came: what changed, not the whole quote. The items of a stream of every tick.

    `field` is the name of the `Tick` field that it is about, or TWS's number of the tick type as text. A size that
    came without a price carries the price that it belongs to, as the library does. None: the market has no value.
    """

    at: datetime
    session: int
    instrument: AnyInstrument
    field: str
    price: float | None
    size: float | None
    epoch: int
    mono_s: float


class Gap(Fact, frozen=True, kw_only=True, tag="Gap"):
    """From `since` on this stream is not to be trusted.

    What was unread of it is gone, what comes next has a new epoch. `lost` counts the items of a stream that its reader
    left unread for too long; 0 where nobody can know what was missed.
    """

    instrument: AnyInstrument
    reason: str
    since: datetime
    epoch: int
    lost: int = 0


class Resumed(Fact, frozen=True, kw_only=True, tag="Resumed"):
    """The stream flows again; `backfilled` items from inside the gap were fetched afterwards.

    `resubscribed`: it was asked for anew, and did not go on by itself.
    """

    instrument: AnyInstrument
    until: datetime
    epoch: int
    backfilled: int = 0
    resubscribed: bool = False


class SubscriptionFailed(Fact, frozen=True, kw_only=True, tag="SubscriptionFailed"):
    """The broker refuses data for this instrument (no permission, line cap, unknown contract …)."""

    instrument: AnyInstrument
    code: int
    text: str


class SubscriptionWaiting(Fact, frozen=True, kw_only=True, tag="SubscriptionWaiting"):
    """All market-data lines are taken by what is no less urgent: this instrument has to wait for one."""

    instrument: AnyInstrument
    lines: int


# --- orders ----------------------------------------------------------------------------------------------------------


class OrderSubmitted(Fact, frozen=True, kw_only=True, tag="OrderSubmitted"):
    """An intent became an order; written before a byte of it leaves.

    `wish` is what was asked for, if prices had to be rounded to make `intent` of it. `parent` is the order whose fill
    makes this one live. `order_id` is the id that it leaves with, valid inside `session` only: after a crash it is
    known which ids may have been used.
    """

    ref: str
    key: str
    strategy: str
    account: str
    intent: Intent
    wish: Intent | None = None
    parent: str = ""
    order_id: int = 0


class OrderSent(Fact, frozen=True, kw_only=True, tag="OrderSent"):
    """The order was handed to the socket. `order_id` is valid inside this session only."""

    ref: str
    order_id: int


class OrderNotSent(Fact, frozen=True, kw_only=True, tag="OrderNotSent"):
    """The order could not be handed to the socket: it certainly never left."""

    ref: str
    reason: str


class OrderStatusReported(Fact, frozen=True, kw_only=True, tag="OrderStatusReported"):
    """The server's own word on an order. `ref` is empty for orders that are not ours."""

    ref: str
    order_id: int
    client_id: int
    perm_id: int
    status: str
    filled: Decimal
    remaining: Decimal
    why_held: str = ""


class OpenOrderReported(Fact, frozen=True, kw_only=True, tag="OpenOrderReported"):
    """The server showed an order that it holds, ours or somebody else's."""

    ref: str
    order_id: int
    client_id: int
    perm_id: int
    account: str
    instrument: AnyInstrument
    action: Action
    quantity: Decimal
    order_type: str
    status: str
    limit_price: Decimal | None = None
    stop_price: Decimal | None = None
    trailing_amount: Decimal | None = None
    trailing_percent: Decimal | None = None
    limit_offset: Decimal | None = None
    tif: str = ""
    outside_rth: bool | None = None
    parent_id: int = 0
    oca_group: str = ""
    oca_type: int = 0


class OrderErrored(Fact, frozen=True, kw_only=True, tag="OrderErrored"):
    """An error message named an order.

    `meaning` is codes.py's reading of it; only the server's status settles anything.
    """

    ref: str
    code: int
    text: str
    meaning: Literal["rejected", "cancelled", "doubtful", "notice"]


class ModificationRequested(Fact, frozen=True, kw_only=True, tag="ModificationRequested"):
    """We decided to change an order's terms to those of `intent`; the broker has not spoken yet."""

    ref: str
    intent: Intent


class ModificationNotSent(Fact, frozen=True, kw_only=True, tag="ModificationNotSent"):
    """The modification could not be handed to the socket: it certainly never left."""

    ref: str
    reason: str


class ModificationSettled(Fact, frozen=True, kw_only=True, tag="ModificationSettled"):
    """What became of a modification. `intent` is what holds at the broker now. Follows from the facts above.

    `changed`: the broker shows other terms than ours, without a modification of ours that explains them (somebody
    changed the order at TWS).
    """

    ref: str
    outcome: Outcome
    intent: Intent
    why: str = ""


class CancelRequested(Fact, frozen=True, kw_only=True, tag="CancelRequested"):
    """Somebody wants this order gone. A cancel is desired state: it is sent as soon as it can be."""

    ref: str
    by: str


class OrderResolved(Fact, frozen=True, kw_only=True, tag="OrderResolved"):
    """What reconciliation found out about an order of which the broker had not told us the end."""

    ref: str
    resolution: Resolution
    detail: str


class OrderChanged(Fact, frozen=True, kw_only=True, tag="OrderChanged"):
    """An order of ours has a new state, or more of it is filled. Follows from the facts above."""

    ref: str
    before: OrderState
    after: OrderState
    filled: Decimal
    remaining: Decimal
    why: str = ""


class OrderClosed(Fact, frozen=True, kw_only=True, tag="OrderClosed"):
    """The end of an order of long ago, in place of all that was reported about it on the way (retention.py).

    It stands where its last `OrderChanged` stood, with what that one said, and with the order as it was at the end.
    """

    ref: str
    after: OrderState
    filled: Decimal
    why: str
    order: Order


class Fill(Fact, frozen=True, kw_only=True, tag="Fill"):
    """An execution, once.

    `exec_id` is the broker's key; `signed` is positive for a buy. `ref` is empty if the order is not ours.

    `executed_at` is the exchange's time; `recovered` says that we learned of it by asking, not as it happened.
    """

    exec_id: str
    ref: str
    account: str
    con_id: int
    instrument: AnyInstrument
    action: Action
    quantity: Decimal
    price: Decimal
    executed_at: datetime
    perm_id: int
    order_id: int
    client_id: int
    recovered: bool = False

    @property
    def signed(self) -> Decimal:
        """Quantity with the sign of the position change."""
        return self.quantity if self.action == "BUY" else -self.quantity


class CommissionReported(Fact, frozen=True, kw_only=True, tag="CommissionReported"):
    """What an execution cost; may come late, early or never.

    `realized_pnl` is None where the broker leaves it unset.
    """

    exec_id: str
    commission: Decimal
    currency: str
    realized_pnl: Decimal | None = None


# --- account ---------------------------------------------------------------------------------------------------------


class PositionReported(Fact, frozen=True, kw_only=True, tag="PositionReported"):
    """What the broker says an account holds; 0 when a position is closed.

    `average_cost` is of one contract, with multiplier and commissions, as in TWS; None where TWS leaves it unset.
    """

    account: str
    con_id: int
    instrument: AnyInstrument
    quantity: Decimal
    average_cost: Decimal | None


class PositionAdjusted(Fact, frozen=True, kw_only=True, tag="PositionAdjusted"):
    """The ledger was brought to the broker's position without a fill.

    `cause` says why that is right (`core/discrepancies.py`); `accepted`: a person said so. `unexplained` stands in
    journals of old: today such a difference is not adopted, it begins a quarantine.
    """

    account: str
    con_id: int
    instrument: AnyInstrument
    before: Decimal
    after: Decimal
    cause: Cause


class QuarantineBegan(Fact, frozen=True, kw_only=True, tag="QuarantineBegan"):
    """Something about an account cannot be explained: until a person accepts it, only reducing orders leave."""

    account: str
    why: str


class QuarantineEnded(Fact, frozen=True, kw_only=True, tag="QuarantineEnded"):
    """A person accepts an account as the broker shows it; what was unexplained is adopted. `by` is who."""

    account: str
    by: str


class AccountValueReported(Fact, frozen=True, kw_only=True, tag="AccountValueReported"):
    """One account value, by TWS's tag."""

    account: str
    tag: str
    value: str
    currency: str


class AccountDownloaded(Fact, frozen=True, kw_only=True, tag="AccountDownloaded"):
    """All values of an account other than the one in use have been received. Of that one the `Snapshot` says it."""

    account: str


class PortfolioReported(Fact, frozen=True, kw_only=True, tag="PortfolioReported"):
    """What a position of the account in use is worth, in the instrument's currency; None where TWS has no value.

    `market_price` is of one unit, without the multiplier; `market_value` of the whole position, with it.
    """

    account: str
    con_id: int
    instrument: AnyInstrument
    quantity: Decimal
    market_price: Decimal | None = None
    market_value: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    realized_pnl: Decimal | None = None


class PnlReported(Fact, frozen=True, kw_only=True, tag="PnlReported"):
    """An account's profit and loss, in its base currency; None where TWS has no value."""

    account: str
    daily_pnl: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    realized_pnl: Decimal | None = None


class PositionPnlReported(Fact, frozen=True, kw_only=True, tag="PositionPnlReported"):
    """A single position's profit and loss; None where TWS has no value. `quantity` is what it was computed for."""

    account: str
    con_id: int
    quantity: Decimal
    daily_pnl: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    realized_pnl: Decimal | None = None
    market_value: Decimal | None = None


AccountFigure = AccountValueReported | PortfolioReported | PnlReported | PositionPnlReported


def figure_key(figure: AccountFigure) -> tuple[object, ...]:
    """What a figure says something about: a later one with the same key takes its place."""
    match figure:
        case AccountValueReported():
            return (figure.account, "value", figure.tag, figure.currency)
        case PortfolioReported():
            return (figure.account, "portfolio", figure.con_id)
        case PnlReported():
            return (figure.account, "pnl")
        case PositionPnlReported():
            return (figure.account, "position pnl", figure.con_id)


class Snapshot(Fact, frozen=True, kw_only=True, tag="Snapshot"):
    """One complete, verified look at the broker.

    Everything it holds, asked for (`asked_at`) and answered in one session.

    `positions` are (account, conId, quantity); `open_refs` the references among the open orders, `open_perm_ids` all of
    these; `completed` our references among today's completed orders with their final status; `doubled_refs` the
    references that stand on more than one open order. Fills and positions were delivered one by one before it.
    """

    asked_at: datetime
    accounts: tuple[str, ...]
    positions: tuple[tuple[str, int, Decimal], ...]
    open_refs: tuple[str, ...]
    open_perm_ids: tuple[int, ...] = ()
    completed: tuple[tuple[str, str], ...]
    orders_visible: bool
    doubled_refs: tuple[str, ...] = ()


# --- the operator ----------------------------------------------------------------------------------------------------


class OperatorSaid(Fact, frozen=True, kw_only=True, tag="OperatorSaid"):
    """A person decided about trading as a whole. `by` is who, as far as that is known; it holds over restarts."""

    verb: OperatorVerb
    by: str


# --- strategies ------------------------------------------------------------------------------------------------------


class StrategyStarted(Fact, frozen=True, kw_only=True, tag="StrategyStarted"):
    """A strategy's coroutine began; `attempt` counts its restarts."""

    name: str
    attempt: int = 1


class StrategyStopped(Fact, frozen=True, kw_only=True, tag="StrategyStopped"):
    """A strategy's coroutine is over and its desk closed."""

    name: str
    how: Literal["returned", "failed", "exited", "cancelled", "overrun", "held_loop", "stuck"]
    detail: str = ""


class Recovered(Fact, frozen=True, kw_only=True, tag="Recovered"):
    """The first event a strategy receives: what there already is, so that it continues instead of beginning again.

    `positions` of the account (account, instrument, quantity), this strategy's `working` orders as (ref, key), and
    its `unknown` ones: orders that could not be accounted for, and may yet turn out to be alive.
    """

    positions: tuple[tuple[str, AnyInstrument, Decimal], ...]
    working: tuple[tuple[str, str], ...]
    unknown: tuple[tuple[str, str], ...]


Event = (
    ServiceStarted
    | ServiceStopped
    | LinkSignalled
    | LinkChanged
    | IncidentOpened
    | IncidentClosed
    | RecoveryStep
    | ControllerAnswered
    | LoopHeld
    | SessionOpened
    | FarmChanged
    | BrokerNotice
    | LibraryFault
    | Tick
    | Gap
    | Resumed
    | SubscriptionFailed
    | SubscriptionWaiting
    | OrderSubmitted
    | OrderSent
    | OrderNotSent
    | OrderStatusReported
    | OpenOrderReported
    | OrderErrored
    | ModificationRequested
    | ModificationNotSent
    | ModificationSettled
    | CancelRequested
    | OrderResolved
    | OrderChanged
    | OrderClosed
    | Fill
    | CommissionReported
    | PositionReported
    | PositionAdjusted
    | QuarantineBegan
    | QuarantineEnded
    | AccountValueReported
    | AccountDownloaded
    | PortfolioReported
    | PnlReported
    | PositionPnlReported
    | Snapshot
    | OperatorSaid
    | StrategyStarted
    | StrategyStopped
    | Recovered
)

# Ticks and an account's figures are fetched anew in each session; `Recovered` is a view. All else must survive a crash.
JOURNALLED: frozenset[type] = frozenset(
    {
        ServiceStarted,
        ServiceStopped,
        LinkSignalled,
        LinkChanged,
        IncidentOpened,
        IncidentClosed,
        RecoveryStep,
        ControllerAnswered,
        LoopHeld,
        SessionOpened,
        FarmChanged,
        BrokerNotice,
        LibraryFault,
        Gap,
        Resumed,
        SubscriptionFailed,
        SubscriptionWaiting,
        OrderSubmitted,
        OrderSent,
        OrderNotSent,
        OrderStatusReported,
        OpenOrderReported,
        OrderErrored,
        ModificationRequested,
        ModificationNotSent,
        ModificationSettled,
        CancelRequested,
        OrderResolved,
        OrderChanged,
        OrderClosed,
        Fill,
        CommissionReported,
        PositionReported,
        PositionAdjusted,
        QuarantineBegan,
        QuarantineEnded,
        Snapshot,
        OperatorSaid,
        StrategyStarted,
        StrategyStopped,
    }
)
