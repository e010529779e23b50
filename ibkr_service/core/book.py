"""What we believe we hold: positions, orders, fills, account, last quotes. Folded from events, and from nothing else.

`apply` is the only way in. It returns the facts that follow (an order changed, a position had to be adjusted); the
hub records those in turn. `is_news` comes first: the broker repeats itself, and a repetition must neither be
journalled nor delivered twice.

Two kinds of position live here. `positions` is the broker's word. The *ledger* is our own sum of executions since the
first start; what becomes of a difference says `discrepancies.py`: nothing is silently adopted.

Strategies read a book through `desk.book`; only the hub applies.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Any, ClassVar

import msgspec
from msgspec import field

from ibkr_service.core import combofills, discrepancies, modification, refs
from ibkr_service.core import events as ev
from ibkr_service.core import link as links
from ibkr_service.core.account import AccountSummary, HeldPosition, Statements
from ibkr_service.core.combination import Spread
from ibkr_service.core.discrepancies import Discrepancies, Holding, may_be_forgotten
from ibkr_service.core.errors import NotReady, UnknownAccount
from ibkr_service.core.instrument import AnyInstrument, Bag, Forex, Future, FutureOption
from ibkr_service.core.intent import Traded
from ibkr_service.core.ladder import Rung
from ibkr_service.core.link import Link
from ibkr_service.core.operator import OperatorState
from ibkr_service.core.orders import (
    HELD,
    RESOLUTION_SIGNALS,
    STATUS_SIGNALS,
    ZERO,
    Order,
    OrderSignal,
    OrderState,
    Resolution,
)
from ibkr_service.core.quotes import Quotes
from ibkr_service.core.shelf import Shelf
from ibkr_service.core.working import Working

Submission = tuple[datetime, str]  # when, and the order's reference; "" for a modification
SUBMISSIONS_KEPT = timedelta(seconds=60)
LEGS_WITHIN = timedelta(seconds=60)  # of each other the executions of a combination and its legs come
ABSENT_AFTER_S = 30.0  # how long the broker must know nothing of an order before we say that it never lived
DOUBLED = "more than one live order carries the reference {}: cancel one of them at TWS"
OVER_BUT_OPEN = "told to be over, but shown at work by look after look: {}: cancel it at TWS"
Status = tuple[str, Decimal, Decimal, str]
"""What the server last said of an order: status, filled, remaining, why it is held."""
Terms = tuple[
    str,
    Decimal,
    str,
    Decimal | None,
    Decimal | None,
    Decimal | None,
    Decimal | None,
    Decimal | None,
    str,
    bool | None,
]
"""How the server last showed an order: status, quantity, type, prices, time in force, outside hours."""


def exec_key(exec_id: str) -> tuple[str, str]:
    """Split an execId into its identity and its revision.

    `….01.02` corrects `….01.01` (TWS documentation, Execution).
    """
    base, _, revision = exec_id.rpartition(".")
    return (base, revision) if base else (exec_id, "")


def is_revised(exec_id: str) -> bool:
    """Whether an execution is the correction of another: the first revision is 01."""
    revision = exec_key(exec_id)[1]
    return revision.isdecimal() and int(revision) > 1


class Book(msgspec.Struct, eq=False, weakref=True):
    """The folded state. Read anything; change it only through `apply`.

    What grows with the years is on shelves; all else is small. `OF_THE_SESSION` names what a new session finds out
    anew. Every other field is in a snapshot of the book, by its type, without being named anywhere.
    """

    link: Link = Link.DOWN
    session: int = 0
    client_id: int = -1
    accounts: tuple[str, ...] = ()
    account: str = ""
    orders: Shelf[str, Order] = field(default_factory=Shelf)
    foreign_orders: dict[int, ev.OpenOrderReported] = field(default_factory=dict)
    fills: Shelf[str, ev.Fill] = field(default_factory=Shelf)  # execution identity -> its latest revision
    commissions: Shelf[str, ev.CommissionReported] = field(default_factory=Shelf)
    positions: dict[Holding, ev.PositionReported] = field(default_factory=dict)
    ledger: dict[Holding, Decimal] = field(default_factory=dict)
    instruments: dict[int, AnyInstrument] = field(default_factory=dict)  # conId -> what it is
    statements: Statements = field(default_factory=Statements)  # what the accounts are worth, of the present session
    quotes: Quotes = field(default_factory=Quotes)
    gaps: dict[AnyInstrument, ev.Gap] = field(default_factory=dict)
    farms_down: dict[str, datetime] = field(default_factory=dict)
    order_id_mark: int = 0
    last_run_id: str = ""
    was_ready: bool = False  # the link when this process, or one before it, was last heard of
    incidents: int = 0  # how many there were
    incident: ev.IncidentOpened | None = None  # the one that is under way
    commanded: dict[str, datetime] = field(default_factory=dict)  # commands to the gateway's controller -> when, last
    working: Working = field(default_factory=Working)  # what alive orders could still do, by account and contract
    operator: OperatorState = OperatorState()  # what a person has said about trading
    _alive: dict[str, None] = field(default_factory=dict)  # references of orders that may still fill, oldest first
    _done: dict[str, int] = field(default_factory=dict)  # strategy -> how many of its orders are over
    _strategy_positions: dict[tuple[str, Traded], Decimal] = field(default_factory=dict)
    # (strategy, digest of the key) -> reference not in this journal
    _adopted: dict[tuple[str, str], str] = field(default_factory=dict)
    _by_key: Shelf[tuple[str, str], str] = field(default_factory=Shelf)
    _by_perm_id: Shelf[int, str] = field(default_factory=Shelf)
    _fills_of: Shelf[str, tuple[str, ...]] = field(default_factory=Shelf)
    _last_status: Shelf[str, Status] = field(default_factory=Shelf)
    _last_terms: Shelf[str, Terms] = field(default_factory=Shelf)
    # When a strategy, and an account, last sent orders and modifications; of orders with their references.
    _submissions: dict[str, list[Submission]] = field(default_factory=dict)
    _account_submissions: dict[str, list[Submission]] = field(default_factory=dict)
    quarantines: dict[str, ev.QuarantineBegan] = field(default_factory=dict)  # account -> why; until a person accepts
    discrepancies: Discrepancies = field(default_factory=Discrepancies)
    _doubled: dict[str, str] = field(default_factory=dict)  # reference on more than one open order -> account
    _over_but_open: dict[str, str] = field(default_factory=dict)  # what is over, yet at work by the last look
    _doubted_orders: dict[str, str] = field(default_factory=dict)  # of both kinds: reference -> account, as was told
    _doubts_accepted: set[str] = field(default_factory=set)
    _filled_at: dict[Holding, datetime] = field(default_factory=dict)
    _combined_at: dict[str, datetime] = field(
        default_factory=dict
    )  # combinations -> when their latest execution was told
    # UNKNOWN orders -> the first look that did not show them
    _missed_since: dict[str, datetime] = field(default_factory=dict)
    _settled_unknown: set[str] = field(default_factory=set)  # UNKNOWN orders that no further look will explain
    # A setting: how long the broker must have known nothing of an order before it is called ABSENT.
    absent_after_s: float = ABSENT_AFTER_S

    # Found out anew by each session; what an earlier process knew of it says nothing about this one.
    OF_THE_SESSION: ClassVar[frozenset[str]] = frozenset({"link", "statements", "quotes", "gaps", "farms_down"})
    # Follows from the orders that are alive; `derive` makes it anew.
    DERIVED: ClassVar[frozenset[str]] = frozenset({"working"})
    # Told to each process anew.
    SETTINGS: ClassVar[frozenset[str]] = frozenset({"absent_after_s"})

    # --- reading -----------------------------------------------------------------------------------------------------

    def order_for_key(self, strategy: str, key: str) -> Order | None:
        """The order that this strategy's key stands for, from this run or an earlier one."""
        ref = self._by_key.get((strategy, key))
        return self.orders[ref] if ref is not None else None

    def adopted_ref(self, strategy: str, key_digest: str) -> str | None:
        """The order at the broker that a key of a lost journal stands for, if the broker showed one."""
        return self._adopted.get((strategy, key_digest))

    def alive_orders(self, strategy: str | None = None) -> Iterator[Order]:
        """Orders that may still fill, oldest first; of one strategy or of all."""
        alive = (self.orders[ref] for ref in tuple(self._alive))
        return (order for order in alive if strategy is None or order.strategy == strategy)

    def done_orders(self, strategy: str) -> int:
        """How many of a strategy's orders have reached their end."""
        return self._done.get(strategy, 0)

    def strategy_position(self, strategy: str, instrument: Traded) -> Decimal:
        """What a strategy's own orders have filled, net, over all runs.

        What others hold in the account is not in it. Of a spread it counts spreads, LONG ones less SHORT ones; their
        legs count besides, as contracts.
        """
        return self._strategy_positions.get((strategy, instrument), ZERO)

    def fills_of(self, ref: str) -> list[ev.Fill]:
        """The executions of an order, in the order in which we learned of them, corrections applied."""
        return [self.fills[key] for key in self._fills_of.get(ref, ())]

    def fill_by_exec_id(self, exec_id: str) -> ev.Fill | None:
        """The execution with this id, or its later revision."""
        return self.fills.get(exec_key(exec_id)[0])

    def position(self, instrument: AnyInstrument, account: str = "") -> Decimal:
        """What the broker says the account holds of an instrument (default: the account in use); 0 if nothing."""
        account = account or self.account
        held = (p.quantity for (a, _), p in self.positions.items() if a == account and p.instrument == instrument)
        return sum(held, ZERO)

    def holdings(self, account: str) -> Iterator[tuple[AnyInstrument, Decimal, Decimal]]:
        """Of each instrument that an account may hold: what the broker says, and our own sum of fills."""
        for (owner, con_id), reported in self.positions.items():
            if owner == account:
                yield reported.instrument, reported.quantity, self.ledger.get((owner, con_id), ZERO)
        for (owner, con_id), summed in self.ledger.items():
            if owner == account and summed and (owner, con_id) not in self.positions and con_id in self.instruments:
                yield self.instruments[con_id], ZERO, summed

    def beside_gross(self, account: str) -> Iterator[tuple[AnyInstrument, Decimal, Decimal | None]]:
        """What an account holds and its GrossPositionValue does not contain: each with its size and last known price.

        That figure is of stocks and options alone (TWS API, tags of the account summary), and as old as the portfolio
        that came with it: fills since then are not in it.
        """
        for owner, con_id in {**self.positions, **self.ledger}:
            if owner != account:
                continue
            reported = self.positions.get((owner, con_id))
            instrument = self.instruments.get(con_id) if reported is None else reported.instrument
            size = abs(self.ledger.get((owner, con_id), ZERO))
            if reported is not None:
                size = max(size, abs(reported.quantity))
            row = self.statements.in_portfolio(account, con_id)
            if instrument is None or not size:
                continue
            if not isinstance(instrument, (Future, FutureOption, Forex)):
                if account == self.account:  # of others TWS tells no portfolio
                    size -= ZERO if row is None else abs(row.quantity)
                else:
                    size = ZERO
            if size > 0:
                yield instrument, size, None if row is None else row.market_price

    def urgent(self) -> tuple[set[AnyInstrument], set[AnyInstrument]]:
        """The instruments of open positions, and those of working orders: whose quotes matter most."""
        return (
            {held.instrument for held in self.positions.values() if held.quantity},
            {contract for order in self.alive_orders() for contract in order.intent.contracts},
        )

    def quote(self, instrument: AnyInstrument) -> ev.Tick | None:
        """The newest quote, or None if there is none that can be trusted (never received, or inside a gap)."""
        return None if self.gaps and instrument in self.gaps else self.quotes.newest(instrument)

    def submitted_since(self, strategy: str, since: datetime) -> int:
        """How many orders and modifications a strategy sent after `since` (at most a minute back)."""
        return _count_since(self._submissions.get(strategy), since)

    def account_submitted_since(self, account: str, since: datetime) -> int:
        """The same of an account, whoever sent them."""
        return _count_since(self._account_submissions.get(account), since)

    def recent_orders(self, strategy: str) -> Iterator[Submission]:
        """When a strategy submitted its orders of the last minute, newest first, with their references."""
        return (one for one in reversed(self._submissions.get(strategy, ())) if one[1])

    def only_reducing(self, account: str) -> str | None:
        """Why only orders that reduce a position may leave now; None: all may."""
        if self.operator.said is None and account not in self.quarantines:
            return None
        quarantine = self.quarantines.get(account)
        whys = (
            self.operator.why_only_reducing,  # holds for all of them
            f"in quarantine since {quarantine.at:%Y-%m-%d %H:%M} UTC: {quarantine.why}" if quarantine else None,
        )
        return "; ".join(why for why in whys if why is not None) or None

    def daily_pnl(self, account: str) -> Decimal | None:
        """An account's profit and loss since IB's daily reset, in its base currency; None if it was not told."""
        return self.statements.daily_pnl(account)

    def exchange_rate(self, currency: str, account: str) -> Decimal | None:
        """The account's base currency for one unit of another; None if it was not told."""
        return self.statements.exchange_rate(account, currency)

    def value(self, tag: str, currency: str | None = None, account: str = "") -> Decimal | None:
        """An account value such as `NetLiquidation`, or None if the broker sent none."""
        return self.statements.value(account or self.account, tag, currency)

    def account_summary(self, account: str = "") -> AccountSummary:
        """What an account is worth (default: the account in use).

        Raises:
            NotReady: the link is not READY, or the values are not complete. UnknownAccount: not one of this login.
        """
        return self.statements.summary(self._managed(account))

    def held_positions(self, account: str = "") -> dict[AnyInstrument, HeldPosition]:
        """What an account holds (default: the account in use), by instrument; empty if it verifiably holds nothing.

        Raises:
            NotReady: the link is not READY. UnknownAccount: not one of this login.
        """
        return self.statements.positions(self._managed(account), self.positions.values())

    def _managed(self, account: str) -> str:
        if self.link is not Link.READY:
            raise NotReady(f"the link is {self.link.name}: what the account holds is not verified")
        account = account or self.account
        if account not in self.accounts:
            raise UnknownAccount(f"this login manages {len(self.accounts)} accounts, and this is none of them")
        return account

    def unsettled(self) -> bool:
        """Something is left that a second look at the broker may explain."""
        unknown = (o for o in self.alive_orders() if o.state is OrderState.UNKNOWN)
        return self.discrepancies.unsettled or any(o.ref not in self._settled_unknown for o in unknown)

    def unaccounted(self) -> tuple[Order, ...]:
        """Orders that are UNKNOWN and stay so: the broker does not hold them, and does not tell what became of them.

        One that left over the present connection and was never acknowledged is none: it may yet arrive.
        """
        unknown = (self.orders[ref] for ref in sorted(self._settled_unknown) if ref in self.orders)
        return tuple(
            order
            for order in unknown
            if order.state is OrderState.UNKNOWN and (order.perm_id or order.filled or order.session != self.session)
        )

    # --- folding -----------------------------------------------------------------------------------------------------

    def is_news(self, event: ev.Event) -> bool:  # noqa: PLR0911 - one row per kind of event
        """Whether an event says anything that the book does not know."""
        match event:
            case ev.Fill():
                identity, revision = exec_key(event.exec_id)
                known = self.fills.get(identity)
                return known is None or exec_key(known.exec_id)[1] < revision
            case ev.CommissionReported():
                known_cost = self.commissions.get(event.exec_id)
                return known_cost is None or (known_cost.commission, known_cost.realized_pnl) != (
                    event.commission,
                    event.realized_pnl,
                )
            case ev.PositionReported():
                held = self.positions.get((event.account, event.con_id))
                if held is None:
                    return event.quantity != 0
                return (held.quantity, held.average_cost) != (event.quantity, event.average_cost)
            case ev.OrderStatusReported():
                return self._last_status.get(_status_key(event)) != _status_of(event) or self._moves(event)
            case ev.OpenOrderReported():
                return self._last_terms.get(_status_key(event)) != _terms_of(event) or self._moves(event)
            case ev.AccountValueReported() | ev.PortfolioReported() | ev.PnlReported() | ev.PositionPnlReported():
                return self.statements.is_news(event)
            case ev.FarmChanged():
                return event.up == (event.farm in self.farms_down)
            case _:
                return True

    def _moves(self, event: ev.OrderStatusReported | ev.OpenOrderReported) -> bool:
        """Whether a status, though heard before, says something new.

        It settles a doubt, or the connection is another.
        """
        order = self.orders.get(event.ref or self._by_perm_id.get(event.perm_id, ""))
        if order is None:
            return False
        reach = (order.session, order.order_id)
        if (
            isinstance(event, ev.OpenOrderReported)
            and event.client_id == self.client_id
            and reach != (event.session, event.order_id)
            and not self._is_twin(event, order.ref)
        ):
            return True  # how the order can be reached over this connection
        signal = STATUS_SIGNALS.get(event.status)
        return signal is not None and order.advanced(signal).state is not order.state

    def apply(self, event: ev.Event) -> list[ev.Event]:
        """Fold one event in; return the facts that follow from it, to be recorded next."""
        fold = self._FOLDS.get(type(event))
        return [] if fold is None else fold(self, event) or []

    def _quoted(self, event: ev.Tick) -> None:
        self.quotes[event.instrument] = event

    def _charged(self, event: ev.CommissionReported) -> None:
        self.commissions[event.exec_id] = event

    def _held(self, event: ev.PositionReported) -> None:
        self.positions[event.account, event.con_id] = event
        self.instruments[event.con_id] = event.instrument
        self.statements.apply(event)

    def _valued(self, event: ev.AccountFigure | ev.AccountDownloaded) -> None:
        self.statements.apply(event)

    def _moved(self, event: ev.LinkChanged) -> None:
        self.was_ready = event.after is Link.READY

    def _incident_began(self, event: ev.IncidentOpened) -> None:
        self.incidents, self.incident = event.number, event

    def _incident_over(self, event: ev.IncidentClosed) -> None:
        del event
        self.incident = None

    def _recovering(self, event: ev.RecoveryStep) -> None:
        if event.rung == Rung.CONTROLLER.value:
            self.commanded[event.what] = event.at

    def _opened(self, event: ev.SessionOpened) -> None:
        self.session, self.client_id = event.session, event.client_id
        self.accounts, self.account = event.accounts, event.account
        self.statements = Statements(event.session, event.account)

    def _farm(self, event: ev.FarmChanged) -> None:
        if event.up:
            self.farms_down.pop(event.farm, None)
        else:
            self.farms_down[event.farm] = event.at

    def _broke(self, event: ev.Gap) -> None:
        self.gaps[event.instrument] = event

    def _resumed(self, event: ev.Resumed) -> None:
        self.gaps.pop(event.instrument, None)

    def _sent(self, event: ev.OrderSent) -> list[ev.Event]:
        self.order_id_mark = max(self.order_id_mark, event.order_id)
        return self._signal(event, event.ref, OrderSignal.SENT, order_id=event.order_id, session=event.session)

    def _not_sent(self, event: ev.OrderNotSent) -> list[ev.Event]:
        return self._signal(event, event.ref, OrderSignal.NOT_SENT, event.reason)

    def _change_not_sent(self, event: ev.ModificationNotSent) -> list[ev.Event]:
        return self._unchanged(event, event.ref, event.reason) if self._is_changing(event.ref) else []

    def _unwanted(self, event: ev.CancelRequested) -> list[ev.Event]:
        reason = f"cancel by {event.by}"
        return self._signal(event, event.ref, OrderSignal.CANCEL_WANTED, reason, cancel_wanted=True)

    def _resolved(self, event: ev.OrderResolved) -> list[ev.Event]:
        return self._signal(event, event.ref, RESOLUTION_SIGNALS[event.resolution], event.detail)

    def _closed(self, event: ev.OrderClosed) -> None:
        before, after = self.orders.get(event.ref), event.order
        if before is None:
            return
        self._put(after)
        self._index(before, after)
        self.order_id_mark = max(self.order_id_mark, after.order_id)
        if after.perm_id:
            self._by_perm_id[after.perm_id] = event.ref

    def _adjusted(self, event: ev.PositionAdjusted) -> None:
        self.ledger[event.account, event.con_id] = event.after
        self.discrepancies.adjusted(event)

    def _doubted(self, event: ev.QuarantineBegan) -> None:
        self.quarantines[event.account] = discrepancies.joined(self.quarantines.get(event.account), event)

    def _told(self, event: ev.OperatorSaid) -> None:
        self.operator = self.operator.after(event)

    def derive(self) -> None:
        """Make anew what follows from the orders, after they were filled in from a snapshot."""
        self.working = Working()
        for order in self.alive_orders():
            self.working.changed(None, order)

    def _started(self, event: ev.ServiceStarted) -> None:
        self.last_run_id = event.run_id

    def _linked(self, event: ev.LinkSignalled) -> list[ev.Event]:
        before, self.link = self.link, links.advance(self.link, event.signal)
        if before is self.link:
            return []
        if self.link is not Link.READY:
            self.statements.interrupted()
        if self.link is Link.DOWN:
            self.farms_down.clear()  # a new connection is told of them anew
        return [ev.LinkChanged(at=event.at, session=event.session, before=before, after=self.link, why=event.why)]

    def _submitted(self, event: ev.OrderSubmitted) -> None:
        order = Order(
            ref=event.ref,
            key=event.key,
            strategy=event.strategy,
            account=event.account,
            intent=event.intent,
            wish=event.wish,
            parent=event.parent,
            submitted_at=event.at,
            order_id=event.order_id,
            session=event.session,
        )
        self.order_id_mark = max(self.order_id_mark, event.order_id)
        self._put(order)
        self._by_key[event.strategy, event.key] = event.ref
        self._alive[event.ref] = None
        self._count(order, event.at, event.ref)

    def _put(self, order: Order) -> None:
        """Keep an order as it is now, and the sums over those that work."""
        self.working.changed(self.orders.get(order.ref), order)
        self.orders[order.ref] = order

    def _count(self, order: Order, at: datetime, ref: str = "") -> None:
        for times in (
            self._submissions.setdefault(order.strategy, []),
            self._account_submissions.setdefault(order.account, []),
        ):
            times.append((at, ref))
            while at - times[0][0] > SUBMISSIONS_KEPT:
                del times[0]

    def _modified(self, event: ev.ModificationRequested) -> None:
        order = self.orders.get(event.ref)
        if order is not None:
            self._put(modification.requested(order, event))
            self._count(order, event.at)

    def _is_changing(self, ref: str) -> bool:
        order = self.orders.get(ref)
        return order is not None and order.change is not None

    def _unchanged(self, event: ev.Event, ref: str, why: str) -> list[ev.Event]:
        """A modification came to nothing; the order is what it was, and may be filled as that."""
        order, said = modification.refused(self.orders[ref], event, why)
        return [*said, *self._replace(event, order)]

    def _signal(
        self, event: ev.Event, ref: str, signal: OrderSignal, reason: str = "", **changes: object
    ) -> list[ev.Event]:
        """Advance one of our orders; announce it if the state moved."""
        order = self.orders.get(ref)
        if order is None:
            return []
        if changes:
            order = order.with_facts(**changes)
        return self._replace(event, order.advanced(signal, reason))

    def _replace(self, event: ev.Event, order: Order) -> list[ev.Event]:
        before = self.orders[order.ref]
        if order.done and order.change is not None:
            order = order.with_facts(change=None, change_at=None)
        self._put(order)
        self._index(before, order)
        if (before.state, before.filled) == (order.state, order.filled):
            return []
        changed = ev.OrderChanged(
            at=event.at,
            session=event.session,
            ref=order.ref,
            before=before.state,
            after=order.state,
            filled=order.filled,
            remaining=order.remaining,
            why=order.reason,
        )
        return [changed]

    def _index(self, before: Order, after: Order) -> None:
        """Keep the sums that strategies ask for at every tick."""
        if after.filled != before.filled:
            key = (after.strategy, after.intent.instrument)
            sign = 1 if after.intent.action == "BUY" else -1
            self._strategy_positions[key] = self._strategy_positions.get(key, ZERO) + sign * (
                after.filled - before.filled
            )
        if after.done != before.done:
            self._done[after.strategy] = self.done_orders(after.strategy) + (1 if after.done else -1)
            if after.done:
                self._alive.pop(after.ref, None)
            else:
                self._alive[after.ref] = None

    def _reported(self, event: ev.OrderStatusReported | ev.OpenOrderReported) -> list[ev.Event]:
        self._heard(event)
        ref = event.ref or self._by_perm_id.get(event.perm_id, "")
        if isinstance(event, ev.OpenOrderReported):
            self._adopt(event)
        if ref not in self.orders or self._is_twin(event, ref):
            if isinstance(event, ev.OpenOrderReported):
                self.foreign_orders[event.perm_id] = event
            elif STATUS_SIGNALS.get(event.status) is OrderSignal.CANCELLED or event.status == "Filled":
                self.foreign_orders.pop(event.perm_id, None)
            return []
        known = self.orders[ref]
        order = known.with_facts(**self._ties(event, ref))
        self._put(order)
        said: list[ev.Event] = []
        if isinstance(event, ev.OpenOrderReported) and order.alive:
            order, said = modification.settled(order, event)
            if order.state is not known.state:  # a step of its own: what the status says is the next one
                said += self._replace(event, order)
                order = self.orders[ref]
        signal = _signal_of(event)
        if signal is None:
            return [*said, *self._replace(event, order)]
        # An error's text says more than the bare word of the status that follows it.
        reason = "" if signal is OrderSignal.LIVE or order.reason else event.status
        return [*said, *self._replace(event, order.advanced(signal, reason))]

    def _ties(self, event: ev.OrderStatusReported | ev.OpenOrderReported, ref: str) -> dict[str, object]:
        """What a report says about how an order can be reached, and what it hangs together with."""
        facts: dict[str, object] = {}
        if isinstance(event, ev.OpenOrderReported):
            facts = {"parent_id": event.parent_id, "oca_group": event.oca_group, "oca_type": event.oca_type}
            # An id of another client's, or of our own under another client id, would hit a stranger's order.
            if event.order_id > 0 and event.client_id == self.client_id:
                facts |= {"order_id": event.order_id, "session": event.session}  # on this connection
                self.order_id_mark = max(self.order_id_mark, event.order_id)
        if event.perm_id:
            self._by_perm_id[event.perm_id] = ref
            facts["perm_id"] = event.perm_id
        return facts

    def _heard(self, event: ev.OrderStatusReported | ev.OpenOrderReported) -> None:
        """Remember what the server said last, so that a repetition of it is known."""
        if isinstance(event, ev.OrderStatusReported):
            self._last_status[_status_key(event)] = _status_of(event)
        else:
            self._last_terms[_status_key(event)] = _terms_of(event)

    def _is_twin(self, event: ev.OrderStatusReported | ev.OpenOrderReported, ref: str) -> bool:
        """Whether this is a second live order under one of our references: visible, but not the one that we know."""
        known = self.orders[ref]
        return bool(known.perm_id and event.perm_id and known.perm_id != event.perm_id)

    def _errored(self, event: ev.OrderErrored) -> list[ev.Event]:
        reason = f"{event.text} (code {event.code})"
        if event.meaning in {"rejected", "doubtful"} and self._is_changing(event.ref):
            return self._unchanged(event, event.ref, reason)
        match event.meaning:
            case "rejected":
                return self._signal(event, event.ref, OrderSignal.REJECT_HINT, reason)
            case "doubtful":
                return self._signal(event, event.ref, OrderSignal.DOUBT, reason)
            case "cancelled" | "notice":  # 202 announces a status that follows; a notice changes nothing
                return []

    def _spend(self, event: ev.OpenOrderReported | ev.Fill) -> refs.Ref | None:
        """Remember that a reference which is ours, but not in this journal, has been used.

        Its key is never sent again.
        """
        parts = refs.parse(event.ref)
        if parts is None or event.client_id != self.client_id or event.ref in self.orders:
            return None
        self._adopted[parts.strategy, parts.digest] = event.ref
        return parts

    def _adopt(self, seen: ev.OpenOrderReported) -> None:
        """An order of ours that this journal does not know (it was lost): take it in as it stands at the broker."""
        parts = self._spend(seen)
        intent = modification.adopted(seen) if parts is not None else None
        if parts is None or intent is None:
            return
        self._alive[seen.ref] = None
        self._put(
            Order(
                ref=seen.ref,
                key=f"adopted:{parts.digest}",
                strategy=parts.strategy,
                account=seen.account,
                intent=intent,
                submitted_at=seen.at,
            )
        )

    def _filled(self, fill: ev.Fill) -> list[ev.Event]:
        identity, _ = exec_key(fill.exec_id)
        moved = ZERO
        corrected = self.fills.get(identity)
        self.fills[identity] = fill
        self.instruments.setdefault(fill.con_id, fill.instrument)
        if not isinstance(fill.instrument, Bag):  # a combination's positions are those of its legs
            holding = (fill.account, fill.con_id)
            taken_back = corrected.signed if corrected else ZERO
            self._filled_at[holding] = fill.at
            moved = fill.signed - taken_back
            self.ledger[holding] = self.ledger.get(holding, ZERO) + moved
        ref = fill.ref or self._by_perm_id.get(fill.perm_id, "")
        order = self.orders.get(ref)
        if order is None:
            self._spend(fill)
            return []
        if corrected is None:
            self._fills_of[ref] = (*self._fills_of.get(ref, ()), identity)
        if isinstance(order.intent.instrument, (Spread, Bag)) and not isinstance(fill.instrument, Bag):
            key = (order.strategy, fill.instrument)
            self._strategy_positions[key] = self._strategy_positions.get(key, ZERO) + moved
        if isinstance(fill.instrument, Bag) or ref in self._combined_at:
            self._combined_at[ref] = fill.at
        if fill.perm_id:
            self._by_perm_id[fill.perm_id] = ref
            if not order.perm_id:  # a second order under this reference does not take the place of the first
                order = order.with_facts(perm_id=fill.perm_id)
        return self._replace(fill, order.with_fills(*_totals(order, self.fills_of(ref))))

    # --- the verified look at the broker -----------------------------------------------------------------------------

    def _verified(self, look: ev.Snapshot) -> list[ev.Event]:
        derived = [*self._vanished(look), *self._resolve_orders(look)]
        derived += self.discrepancies.compare(
            look,
            ledger=self.ledger,
            positions=self.positions,
            instruments=self.instruments,
            filled_at={**self._filled_at, **self._legs_under_way(look)},
        )
        if look.orders_visible:
            open_orders = frozenset(look.open_perm_ids)
            self.foreign_orders = {perm: o for perm, o in self.foreign_orders.items() if perm in open_orders}
            derived += self._doubtful_orders(look)
            self._succeed(look)
        self.statements.apply(look)
        return derived

    def _legs_under_way(self, look: ev.Snapshot) -> dict[Holding, datetime]:
        """Positions that a combination's fill has moved, and whose own executions are still to come."""
        found: dict[Holding, datetime] = {}
        for ref, at in tuple(self._combined_at.items()):
            order = self.orders.get(ref)
            spread = None if order is None else order.intent.instrument
            owed = combofills.owed(spread, self.fills_of(ref)) if isinstance(spread, Spread) else frozenset()
            if order is None or not isinstance(spread, Spread) or not owed or look.asked_at - at > LEGS_WITHIN:
                del self._combined_at[ref]
                continue
            for con_id, instrument in self.instruments.items():
                if combofills.leg_of(spread, instrument) in owed:
                    found[order.account, con_id] = look.asked_at
        return found

    def _doubtful_orders(self, look: ev.Snapshot) -> list[ev.Event]:
        """Orders that may do what nobody wants any more.

        Two live orders under one reference of ours: whatever one of them does is done twice. And an order that was told
        to be over, which look after look shows at work: only a fill brings it back to life here, so that nobody would
        cancel it.
        """
        self._doubled = {ref: self.orders[ref].account for ref in look.doubled_refs if ref in self.orders}
        before, self._over_but_open = self._over_but_open, self._shown_though_over(look)
        again = {ref: account for ref, account in self._over_but_open.items() if ref in before}
        doubted = again | self._doubled
        self._doubts_accepted &= set(doubted)
        fresh = set(doubted) - set(self._doubted_orders) - self._doubts_accepted
        self._doubted_orders = doubted
        return [
            *_doubts(look, self._doubled, fresh, DOUBLED),
            *_doubts(look, again, fresh - set(self._doubled), OVER_BUT_OPEN),
        ]

    def _shown_though_over(self, look: ev.Snapshot) -> dict[str, str]:
        """Orders of ours that are over, and that the broker shows in a state in which they can fill."""
        found: dict[str, str] = {}
        for ref in look.open_refs:
            order = self.orders.get(ref)
            if order is None or order.alive or ref in look.doubled_refs:
                continue
            terms = self._last_terms.get(str(order.perm_id or ref))
            if terms is not None and STATUS_SIGNALS.get(terms[0]) is OrderSignal.LIVE:
                found[ref] = order.account
        return found

    def _succeed(self, look: ev.Snapshot) -> None:
        """Of two orders under one reference the one that we knew is gone: the other is it from now on."""
        for perm_id, seen in tuple(self.foreign_orders.items()):
            order = self.orders.get(seen.ref)
            if order is None or order.done or seen.ref in self._doubled or order.perm_id in look.open_perm_ids:
                continue
            if seen.client_id != self.client_id:
                continue  # somebody else uses our reference; it is not ours to cancel
            del self.foreign_orders[perm_id]
            self._put(order.with_facts(perm_id=perm_id))
            self._by_perm_id[perm_id] = seen.ref

    def _accepted(self, event: ev.QuarantineEnded) -> list[ev.Event]:
        """A person takes the account as it is."""
        self.quarantines.pop(event.account, None)
        self._doubts_accepted.update(ref for ref, account in self._doubted_orders.items() if account == event.account)
        return discrepancies.accepted(event, self.discrepancies.of(event.account), self.ledger)

    def _vanished(self, look: ev.Snapshot) -> Iterable[ev.Event]:
        """Positions that the broker no longer lists are closed; it does not say so by itself after a reconnect."""
        listed = {(account, con_id) for account, con_id, _ in look.positions}
        for holding, known in self.positions.items():
            is_old = known.at < look.asked_at  # what was told since may have been opened since
            if known.quantity and is_old and holding not in listed and known.account in look.accounts:
                yield msgspec.structs.replace(known, at=look.at, session=look.session, quantity=ZERO)

    def _resolve_orders(self, look: ev.Snapshot) -> Iterable[ev.Event]:
        if not look.orders_visible:
            return
        completed = dict(look.completed)
        open_refs = frozenset(look.open_refs)
        for order in self.alive_orders():
            if order.ref in open_refs and modification.is_overdue(order, look.asked_at):
                yield from self._unchanged(look, order.ref, "the broker shows the order as it was")
            if order.ref in open_refs or order.submitted_at >= look.asked_at:
                self._settled_unknown.discard(order.ref)
                continue
            if order.filled >= order.intent.quantity and modification.is_overdue(order, look.asked_at):
                yield from self._unchanged(look, order.ref, "it had filled before the change came")
                continue
            is_corrected = any(is_revised(fill.exec_id) for fill in self.fills_of(order.ref))
            resolution, detail = _explain(order, completed.get(order.ref), look, is_corrected=is_corrected)
            if resolution == "absent" and not self._is_silence(order, look):
                self._settled_unknown.discard(order.ref)
                continue
            if order.state is OrderState.UNKNOWN and resolution is None:
                self._settled_unknown.add(order.ref)
            if resolution is not None:
                yield ev.OrderResolved(
                    at=look.at, session=look.session, ref=order.ref, resolution=resolution, detail=detail
                )

    def _is_silence(self, order: Order, look: ev.Snapshot) -> bool:
        """Whether the broker has known nothing of an order for long enough: what it holds back may yet arrive."""
        since = self._missed_since.setdefault(order.ref, look.at)
        if look.asked_at - since < timedelta(seconds=self.absent_after_s):
            return False
        del self._missed_since[order.ref]
        return True

    # What each kind of event does to a book; one that is not here does nothing. A `match` would try row after row.
    _FOLDS: ClassVar[Mapping[type, Callable[[Any, Any], list[ev.Event] | None]]] = {
        ev.Tick: _quoted,
        ev.Fill: _filled,
        ev.CommissionReported: _charged,
        ev.PositionReported: _held,
        ev.AccountValueReported: _valued,
        ev.PortfolioReported: _valued,
        ev.PnlReported: _valued,
        ev.PositionPnlReported: _valued,
        ev.AccountDownloaded: _valued,
        ev.LinkSignalled: _linked,
        ev.LinkChanged: _moved,
        ev.IncidentOpened: _incident_began,
        ev.IncidentClosed: _incident_over,
        ev.RecoveryStep: _recovering,
        ev.SessionOpened: _opened,
        ev.FarmChanged: _farm,
        ev.Gap: _broke,
        ev.Resumed: _resumed,
        ev.OrderSubmitted: _submitted,
        ev.OrderSent: _sent,
        ev.OrderNotSent: _not_sent,
        ev.OrderStatusReported: _reported,
        ev.OpenOrderReported: _reported,
        ev.OrderErrored: _errored,
        ev.ModificationRequested: _modified,
        ev.ModificationNotSent: _change_not_sent,
        ev.CancelRequested: _unwanted,
        ev.OrderResolved: _resolved,
        ev.OrderClosed: _closed,
        ev.Snapshot: _verified,
        ev.PositionAdjusted: _adjusted,
        ev.QuarantineBegan: _doubted,
        ev.QuarantineEnded: _accepted,
        ev.OperatorSaid: _told,
        ev.ServiceStarted: _started,
    }


def _count_since(times: Sequence[Submission] | None, since: datetime) -> int:
    """How many are newer. Those that are not lie at the left, and nearly all of them are gone already."""
    if not times:
        return 0
    old = 0
    for at, _ in times:
        if at > since:
            break
        old += 1
    return len(times) - old


def _explain(
    order: Order, completed_status: str | None, look: ev.Snapshot, *, is_corrected: bool
) -> tuple[Resolution | None, str]:
    """What it means that an order of ours is not among the broker's open orders."""
    if completed_status is not None:
        return _explain_completed(completed_status, is_corrected=is_corrected)
    if order.state is OrderState.UNKNOWN:
        forgotten = may_be_forgotten(order.submitted_at, look.asked_at)
        if order.perm_id or order.filled or order.session == look.session or forgotten:
            return None, ""  # the broker had it, or may yet receive it, or no longer tells: only a person can say more
        return "absent", "the broker, asked again and again, knows nothing of it"
    return "lost", "neither open nor completed at the broker, and no execution"


def _explain_completed(status: str, *, is_corrected: bool) -> tuple[Resolution, str]:
    match STATUS_SIGNALS.get(status):
        case OrderSignal.CANCELLED:
            return "cancelled", "completed at the broker as cancelled"
        case OrderSignal.INACTIVE:
            return "inactive", "completed at the broker as inactive"
        case _ if status == "Filled" and is_corrected:
            return "cancelled", "completed at the broker as Filled; what a correction took back is not traded again"
        case _:
            return "lost", f"completed at the broker as {status}, but its executions are missing"


def _doubts(look: ev.Snapshot, account_of: Mapping[str, str], refs: AbstractSet[str], why: str) -> Iterable[ev.Event]:
    """A quarantine for each account that has one of the orders; `why` has a place for their references."""
    accounts: dict[str, list[str]] = {}
    for ref, account in account_of.items():
        if ref in refs:
            accounts.setdefault(account, []).append(ref)
    for account, found in accounts.items():
        yield ev.QuarantineBegan(at=look.at, session=look.session, account=account, why=why.format(", ".join(found)))


def _totals(order: Order, fills: list[ev.Fill]) -> tuple[Decimal, Decimal]:
    """Filled quantity and cost of an order."""
    traded = order.intent.instrument
    if isinstance(traded, Spread):
        return combofills.totals(traded, fills)
    if isinstance(traded, Bag):
        return combofills.totals_of_bag(traded, fills)
    return sum((f.quantity for f in fills), ZERO), sum((f.quantity * f.price for f in fills), ZERO)


def _signal_of(event: ev.OrderStatusReported | ev.OpenOrderReported) -> OrderSignal | None:
    """What the server's status means; None: it does not say."""
    if event.status == "Filled":
        return None  # the executions say so, when they come
    signal = STATUS_SIGNALS.get(event.status, OrderSignal.DOUBT)
    if signal is not OrderSignal.INACTIVE:
        return signal
    if isinstance(event, ev.OpenOrderReported):
        return None  # whether it is held or refused says the orderStatus that comes with it
    return OrderSignal.LIVE if HELD in event.why_held else signal


def _status_key(event: ev.OrderStatusReported | ev.OpenOrderReported) -> str:
    return str(event.perm_id or event.ref or (event.client_id, event.order_id))


def _status_of(event: ev.OrderStatusReported) -> Status:
    return (event.status, event.filled, event.remaining, event.why_held)


def _terms_of(event: ev.OpenOrderReported) -> Terms:
    return (
        event.status,
        event.quantity,
        event.order_type,
        event.limit_price,
        event.stop_price,
        event.trailing_amount,
        event.trailing_percent,
        event.limit_offset,
        event.tif,
        event.outside_rth,
    )
