"""The broker and the exchange behind the gateway: orders, their fills, and what fills do to accounts.

It lives at IB, not in the gateway: it survives every disconnect and restart, and works on while nobody is connected. It
knows nothing of sockets and messages: what happens it tells `Reports`.

Nothing trades in the instant in which it arrives: a new or changed order takes a seeded 50-250 ms of gateway time to
the exchange, and a cancel as long to catch up with it, so that a fill may be faster.
"""

from decimal import Decimal
from typing import Final, Protocol

from ibkr_service.sim.accounts import Account
from ibkr_service.sim.booking import Bookkeeper
from ibkr_service.sim.chance import Chance
from ibkr_service.sim.clock import GatewayClock
from ibkr_service.sim.contracts import Instrument, Universe, UnknownContract
from ibkr_service.sim.market import Market
from ibkr_service.sim.matching import Displayed, touch, triggers
from ibkr_service.sim.orders import Execution, Move, Order, Status, Ticket
from ibkr_service.sim.orderwrite import Preview
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.rules import Refused, check, check_change, invalid
from ibkr_service.sim.valuation import Valuation

LATENCY_S: Final = (0.05, 0.25)
CANCELLED_TEXT: Final = "Order Canceled - reason:"

_PERM_ID_BASE = 1_000_000_000
_PERM_IDS = 900_000_000
_OrderKey = tuple[int, int]


class Reports(Protocol):
    """What the exchange tells, in the order in which it happens."""

    def order_changed(self, order: Order) -> None:
        """An order is new, or its terms or its progress have changed."""

    def status_changed(self, order: Order) -> None:
        """Only an order's status has changed."""

    def executed(self, execution: Execution) -> None:
        """A fill, or a leg of one."""

    def charged(self, execution: Execution) -> None:
        """The commission of a fill is known."""

    def noted(self, order: Order, code: int, text: str) -> None:
        """IB has a word to say about an order."""

    def account_changed(self, account: Account, con_ids: list[int]) -> None:
        """A fill has changed cash and positions."""


class Exchange:
    """All orders of all clients, and the matching of them.

    Args:
        clock: gateway time.
        market: the quotes to match against.
        universe: resolves contracts.
        accounts: by code.
        valuation: prices and margin, for what-if orders and commissions.
        chance: latencies and ids.
        reports: whom to tell.
    """

    def __init__(
        self,
        clock: GatewayClock,
        market: Market,
        universe: Universe,
        accounts: dict[str, Account],
        valuation: Valuation,
        chance: Chance,
        reports: Reports,
    ) -> None:
        self._clock = clock
        self._market = market
        self._universe = universe
        self._accounts = accounts
        self._valuation = valuation
        self._chance = chance
        self._reports = reports
        self._displayed = Displayed()
        self._books = Bookkeeper(clock, market, valuation, chance)
        self._perm_id = _PERM_ID_BASE + chance.whole(_PERM_IDS, "perm_id")
        self.orders: dict[_OrderKey, Order] = {}
        self.completed: list[Order] = []
        self.executions: list[Execution] = []
        self.last_order_ids: dict[int, int] = {}

    def __repr__(self) -> str:
        working = len(self.orders) - len(self.completed)
        return f"<Exchange [{working} orders working, {len(self.completed)} done, {len(self.executions)} executions]>"

    # What a client asks.

    def place(self, client_id: int, ticket: Ticket) -> None:
        """Take a new order, or new terms of an order that is known under its id.

        Raises:
            Refused: and nothing has changed.
        """
        known = self.orders.get((client_id, ticket.order_id))
        if known is not None:
            self._modify(known, ticket)
            return
        order = self._order(client_id, ticket)
        self.orders[order.key] = order
        self.last_order_ids[client_id] = max(ticket.order_id, self.last_order_ids.get(client_id, 0))
        if order.parent is not None:
            order.parent.children.append(order)
        if ticket.transmit:
            self._transmit(order)

    def preview(self, client_id: int, ticket: Ticket) -> tuple[Order, Preview]:
        """What an order would do; it is not placed.

        Raises:
            Refused: it would be refused.
        """
        order = self._order(client_id, ticket)
        order.move(Move.TRANSMIT)
        account = self._accounts[order.account]
        return order, self._valuation.preview(account, order.instrument, ticket.sign * ticket.quantity)

    def reject(self, client_id: int, ticket: Ticket, text: str) -> None:
        """Take a new order and reject it (IB: 201).

        Raises:
            Refused: it is not even an order.
        """
        order = self._order(client_id, ticket)
        self.orders[order.key] = order
        self.last_order_ids[client_id] = max(ticket.order_id, self.last_order_ids.get(client_id, 0))
        self._reports.noted(order, 201, text)
        self._end(order, Move.REJECT)

    def cancel(self, client_id: int, order_id: int) -> None:
        """Try to cancel an order.

        Raises:
            Refused: there is no such order, or it is done.
        """
        order = self.orders.get((client_id, order_id))
        if order is None:
            raise Refused(10147, f"OrderId {order_id} that needs to be cancelled is not found.")
        self._ask_cancel(order)

    def cancel_all(self) -> None:
        """Try to cancel every order of every client."""
        for order in list(self.orders.values()):
            if not order.status.is_done:
                self._ask_cancel(order)

    def open_orders(self) -> list[Order]:
        """Orders that have been transmitted and are not done."""
        return [order for order in self.orders.values() if not (order.status.is_done or order.status is Status.HELD)]

    # New orders and new terms.

    def _order(self, client_id: int, ticket: Ticket) -> Order:
        if not ticket.spec.exchange:
            raise invalid("Please enter exchange")
        instrument = self._resolve(ticket)
        check(ticket, instrument)
        account = self._account(ticket.account)
        parent = self._parent(client_id, ticket.parent_id)
        self._perm_id += 1
        return Order(ticket, client_id, self._perm_id, instrument, account, parent)

    def _resolve(self, ticket: Ticket) -> Instrument:
        try:
            return self._universe.resolve(ticket.spec)
        except UnknownContract as error:
            raise Refused(200, error.text) from error

    def _account(self, code: str) -> str:
        if not code and len(self._accounts) == 1:
            return next(iter(self._accounts))
        if not code:
            raise Refused(435, "You must specify an account.")
        if code not in self._accounts:
            raise invalid(f"Invalid account code '{code}'")
        return code

    def _parent(self, client_id: int, parent_id: int) -> Order | None:
        if not parent_id:
            return None
        parent = self.orders.get((client_id, parent_id))
        if parent is None or (parent.status.is_done and parent.status is not Status.FILLED):
            raise Refused(10006, "Missing parent order.")
        return parent

    def _modify(self, order: Order, ticket: Ticket) -> None:
        if order.status.is_done:
            raise Refused(103, "Duplicate order id")
        if order.status is Status.PENDING_CANCEL:
            raise Refused(105, "Order being modified does not match original order.")
        check_change(order.ticket, ticket, order.instrument, self._resolve(ticket), order.filled)
        check(ticket, order.instrument)
        order.ticket = ticket
        if order.status is Status.HELD:
            if ticket.transmit:
                self._transmit(order)
            return
        self._reports.order_changed(order)
        if order.is_routed:
            self._route(order)

    def _transmit(self, order: Order) -> None:
        """The whole bracket goes live: the parent to the exchange, its children to wait for it."""
        root = order.parent or order
        for member in [root, *root.children]:
            if member.status is Status.HELD:
                member.move(Move.TRANSMIT)
                self._reports.order_changed(member)
                if member.parent is None or member.parent.status is Status.FILLED:
                    self._route(member)

    def _route(self, order: Order) -> None:
        if order.routing is not None:
            order.routing.cancel()
        order.is_routed = False
        delay_s = self._latency(f"route:{order.perm_id}:{order.ticket.limit}:{order.ticket.aux}")
        order.routing = self._clock.call_later(delay_s, lambda: self._arrive(order))

    def _latency(self, place: str) -> float:
        return self._chance.between(*LATENCY_S, place)

    # At the exchange.

    def _arrive(self, order: Order) -> None:
        order.routing = None
        order.is_routed = True
        if order.status is not Status.PENDING_CANCEL and not _waits_for_trigger(order):
            self._activate(order)
        if order.watch is None:
            order.watch = self._market.watch(order.instrument, lambda quote: self._match(order, quote))
        quote = self._market.quote(order.instrument)
        if quote is not None:
            self._match(order, quote)
        elif order.ticket.tif == "IOC":
            self._end(order, Move.CANCEL)

    def _activate(self, order: Order) -> None:
        was = order.status
        order.move(Move.ACTIVATE)
        if order.status is not was:
            self._reports.order_changed(order)

    def _match(self, order: Order, quote: Quote) -> None:
        if not order.is_routed or order.status.is_done:
            return
        if _waits_for_trigger(order):
            if order.status is Status.PENDING_CANCEL or not triggers(order, quote):
                return
            order.is_triggered = True
            self._activate(order)
        price = touch(order, quote)
        if price is not None:
            left = self._displayed.left(order.instrument, quote, order.ticket.sign)
            quantity = min(order.remaining, left)
            if quantity > 0:
                self._displayed.take(order.instrument, quote, order.ticket.sign, quantity)
                self._fill(order, quantity, price, quote)
        if order.ticket.tif == "IOC" and not order.status.is_done:
            self._end(order, Move.CANCEL)

    def _fill(self, order: Order, quantity: Decimal, price: Decimal, quote: Quote) -> None:
        order.filled += quantity
        order.spent += quantity * price
        order.last_price = price
        order.move(Move.FILL if order.remaining == 0 else Move.FILL_PART)
        if order.status.is_done:
            self._retire(order)
        account = self._accounts[order.account]
        executions = self._books.book(account, order, quantity, price, quote)
        self.executions += executions
        for execution in executions:
            self._reports.executed(execution)
        self._reports.order_changed(order)
        contracts: list[int] = []
        for execution in executions:
            if execution.contract is not None:
                self._reports.charged(execution)
                contracts.append(execution.contract.con_id)
        self._reports.account_changed(account, contracts)
        self._follow_fill(order)

    def _follow_fill(self, order: Order) -> None:
        """A fill of one order cancels those linked to it; a filled parent sends its children out."""
        for linked in self._linked(order):
            if not linked.status.is_done:
                self._end(linked, Move.CANCEL)
        if order.status is Status.FILLED:
            for child in order.children:
                if child.status is Status.PRE_SUBMITTED and child.routing is None and not child.is_routed:
                    self._route(child)

    def _linked(self, order: Order) -> list[Order]:
        siblings = order.parent.children if order.parent is not None else []
        group = order.ticket.oca_group
        rest = [
            other
            for other in (self.orders.values() if group else ())
            if other.ticket.oca_group == group and other.account == order.account and other not in siblings
        ]
        return [other for other in [*siblings, *rest] if other is not order]

    # The end.

    def _ask_cancel(self, order: Order) -> None:
        if order.status.is_done:
            raise _cannot_cancel(order)
        if not order.is_routed:
            self._end(order, Move.CANCEL)
            return
        if order.cancelling is None:
            order.move(Move.ASK_CANCEL)
            self._reports.status_changed(order)
            delay_s = self._latency(f"cancel:{order.perm_id}")
            order.cancelling = self._clock.call_later(delay_s, lambda: self._cancel_arrives(order))

    def _cancel_arrives(self, order: Order) -> None:
        order.cancelling = None
        if order.status.is_done:
            refusal = _cannot_cancel(order)
            self._reports.noted(order, refusal.code, refusal.text)
        else:
            self._end(order, Move.CANCEL)

    def _end(self, order: Order, move: Move) -> None:
        """End an order that is not filled, and with a parent its children."""
        order.move(move)
        self._retire(order)
        self._reports.status_changed(order)
        if move is Move.CANCEL:
            self._reports.noted(order, 202, CANCELLED_TEXT)
        for child in order.children:
            if not child.status.is_done:
                self._end(child, Move.CANCEL)

    def _retire(self, order: Order) -> None:
        # A cancel on its way to an order that was faster is answered when it arrives.
        for timer in (order.routing, None if order.status is Status.FILLED else order.cancelling):
            if timer is not None:
                timer.cancel()
        if order.watch is not None:
            order.watch.close()
        order.routing = order.watch = None
        order.completed_at = self._books.exchange_time()
        self.completed.append(order)


def _waits_for_trigger(order: Order) -> bool:
    return order.ticket.order_type == "STP" and not order.is_triggered


def _cannot_cancel(order: Order) -> Refused:
    order_id, state = order.ticket.order_id, order.status.value
    return Refused(10148, f"OrderId {order_id} that needs to be cancelled cannot be cancelled, state: {state}.")
