"""The broker and the exchange behind the gateway: orders, their fills, and what fills do to accounts.

It lives at IB, not in the gateway: it survives every disconnect and restart, and works on while nobody is connected. It
knows nothing of sockets and messages: what happens it tells `Reports`.

    Exchange   what clients and people ask: new orders, new terms, cancels, previews, exercises
    Floor      orders on their way, at work, filled, ended (`floor.py`)
    Expiry     what ends by itself (`expiry.py`)

At midnight in New York the broker forgets: `executions_today` and `completed_today` are what a client may still ask
for. `executions` and `completed` are everything that ever happened, for tests.
"""

from dataclasses import replace
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from ibkr_service.sim import triggers
from ibkr_service.sim.accounts import Account, Position
from ibkr_service.sim.booking import Bookkeeper
from ibkr_service.sim.calendars import AlwaysOpen, Calendar
from ibkr_service.sim.chance import Chance
from ibkr_service.sim.clock import GatewayClock
from ibkr_service.sim.contracts import Contract, Instrument, Universe, UnknownContract
from ibkr_service.sim.expiry import Expiry, Settlement
from ibkr_service.sim.floor import LATENCY_S, Floor, Reports
from ibkr_service.sim.lifetimes import Wait
from ibkr_service.sim.market import Market
from ibkr_service.sim.orders import Execution, Move, Order, Status, Ticket
from ibkr_service.sim.orderwrite import Preview
from ibkr_service.sim.practice import LOCATE, Practice, margin_text, odd_lot_text
from ibkr_service.sim.rules import Refused, check, check_change, invalid
from ibkr_service.sim.valuation import Valuation

__all__ = ["LATENCY_S", "Exchange", "Practice", "Reports"]

MANUAL_CLIENT: Final = 0

_PERM_ID_BASE = 1_000_000_000
_PERM_IDS = 900_000_000
_OrderKey = tuple[int, int]


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
        calendar: when markets are open.
        practice: how the broker does business.
    """

    def __init__(  # noqa: PLR0913  the world
        self,
        clock: GatewayClock,
        market: Market,
        universe: Universe,
        accounts: dict[str, Account],
        valuation: Valuation,
        chance: Chance,
        reports: Reports,
        *,
        calendar: Calendar | None = None,
        practice: Practice | None = None,
    ) -> None:
        self._clock = clock
        self._market = market
        self._universe = universe
        self._accounts = accounts
        self._valuation = valuation
        self._reports = reports
        self._practice = practice or Practice()
        calendar = calendar or AlwaysOpen()
        self._books = Bookkeeper(clock, market, valuation, chance)
        self._floor = Floor(
            clock,
            market,
            calendar,
            accounts,
            self._books,
            chance,
            reports,
            locate=self._locate,
            traded=self._traded,
        )
        self._expiry = Expiry(
            clock,
            calendar,
            accounts,
            universe.underlying,
            self._settlement_price,
            valuation.begin_day,
            self._contract_ended,
            reports.account_changed,
        )
        self._perm_id = _PERM_ID_BASE + chance.whole(_PERM_IDS, "perm_id")
        self._manual_ids = 0
        self.orders: dict[_OrderKey, Order] = {}
        self.completed = self._floor.completed
        self.executions = self._floor.executions
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
        if ticket.order_id <= 0:
            raise Refused(10149, f"Invalid order id: {ticket.order_id}")
        order = self._order(client_id, ticket)
        self._register(order)
        if ticket.transmit:
            self._transmit(order)

    def enter_by_hand(self, ticket: Ticket) -> Order:
        """Take an order from a person at TWS. It has no id of a client's until client 0 binds it.

        Raises:
            Refused: as `place`.
        """
        order = self._order(MANUAL_CLIENT, ticket)
        order.is_manual = True
        self._manual_ids -= 1
        self._register(order, self._manual_ids)
        self._transmit(order)
        return order

    def bind(self, order: Order) -> None:
        """Give a manual order an id by which client 0 can speak of it: a negative one."""
        order_id = next(key[1] for key, known in self.orders.items() if known is order)
        order.ticket = replace(order.ticket, order_id=order_id)

    def cancel_by_hand(self, order: Order) -> None:
        """A person at TWS cancels an order, whoever placed it.

        Raises:
            Refused: it is done.
        """
        self._floor.ask_cancel(order)

    def preview(self, client_id: int, ticket: Ticket) -> tuple[Order, Preview]:
        """What an order would do; it is not placed.

        Raises:
            Refused: it would be refused.
        """
        order = self._order(client_id, ticket)
        order.move(Move.TRANSMIT)
        return order, self._preview(order, ticket.quantity)

    def reject(self, client_id: int, ticket: Ticket, text: str) -> None:
        """Take a new order and reject it (IB: 201).

        Raises:
            Refused: it is not even an order.
        """
        order = self._order(client_id, ticket)
        self._register(order)
        self._turn_down(order, text)

    def cancel(self, client_id: int, order_id: int) -> None:
        """Try to cancel an order.

        Raises:
            Refused: there is no such order, or it is done.
        """
        order = self.orders.get((client_id, order_id))
        if order is None or (order.is_manual and order.ticket.order_id != order_id):
            raise Refused(10147, f"OrderId {order_id} that needs to be cancelled is not found.")
        self._floor.ask_cancel(order)

    def cancel_all(self) -> None:
        """Try to cancel every order of every client; each that cannot be is told so."""
        for order in list(self._floor.live):
            if order.status.is_done:
                continue
            try:
                self._floor.ask_cancel(order)
            except Refused as refusal:
                self._reports.noted(order, refusal.code, refusal.text)

    def exercise(self, account: str, contract: Contract, action: int, quantity: int, *, overrides: bool) -> None:
        """Exercise a long option, or let it lapse.

        Raises:
            Refused: there is no such position, or it makes no sense to exercise it.
        """
        self._expiry.exercise(self._accounts[self._account(account)], contract, action, quantity, overrides=overrides)

    # What a rehearsal makes happen.

    def fill_now(self, order: Order, quantity: Decimal | None = None, price: Decimal | None = None) -> None:
        """Fill an order whatever the market says.

        Raises:
            ValueError: it is done, or there is nothing to price it by.
        """
        self._floor.fill_now(order, quantity, price)

    def double(self, order: Order) -> Order:
        """Let an order stand twice: the same ticket, another permanent id. Its own id goes on to mean the first."""
        self._perm_id += 1
        twin = Order(
            order.ticket,
            order.client_id,
            self._perm_id,
            order.instrument,
            order.account,
            order.parent,
            terms=order.terms,
        )
        triggers.arm(twin)
        self._manual_ids -= 1
        self._register(twin, self._manual_ids)
        self._transmit(twin)
        return twin

    def correct(self, execution: Execution, shares: Decimal, price: Decimal | None = None) -> Execution:
        """Correct an execution: its next revision, and what that changes in order and account."""
        base, _, revision = execution.exec_id.rpartition(".")
        price = execution.price if price is None else price
        less, order = shares - execution.shares, execution.order
        corrected = replace(
            execution,
            exec_id=f"{base}.{int(revision) + 1:02d}",
            shares=shares,
            price=price,
            cumulative=execution.cumulative + less,
        )
        order.filled += less
        order.spent += shares * price - execution.shares * execution.price
        self.executions.append(corrected)
        if corrected.contract is not None:
            account, sign = self._accounts[order.account], 1 if corrected.side == "BOT" else -1
            account.trade(corrected.contract, sign * less, price, Decimal(0))
            self._reports.executed(corrected)
            self._reports.charged(corrected)
            self._reports.account_changed(account, [corrected.contract.con_id])
        return corrected

    def transfer(self, account: str, contract: Contract, quantity: Decimal, price: Decimal) -> None:
        """Move a position into an account (out: negative) without an order, as IB does between accounts."""
        self._hold(account, contract).trade(quantity, price, Decimal(0))
        self._expiry.watch([contract])
        self._reports.account_changed(self._accounts[self._account(account)], [contract.con_id])

    def split(self, contract: Contract, ratio: Decimal) -> None:
        """Split a stock: `ratio` new shares for each old one, in every account; the market's price stays as it is."""
        for account in self._accounts.values():
            held = account.positions.get(contract.con_id)
            if held is not None and held.quantity:
                held.quantity *= ratio
                held.quantity_at_midnight *= ratio
                held.average_cost /= ratio
                held.entry /= ratio
                self._reports.account_changed(account, [contract.con_id])

    def assign(self, account: str, option: Contract, quantity: Decimal) -> None:
        """Assign so many of a short option before it expires, or exercise so many of a long one.

        Raises:
            ValueError: the account does not hold so many.
        """
        self._expiry.assign(self._accounts[self._account(account)], option, quantity)

    def _hold(self, account: str, contract: Contract) -> Position:
        positions = self._accounts[self._account(account)].positions
        return positions.setdefault(contract.con_id, Position(contract))

    # What anybody may see.

    def open_orders(self) -> list[Order]:
        """Orders that have been transmitted and are not done."""
        return [order for order in self._floor.live if order.status is not Status.HELD]

    def executions_today(self) -> list[Execution]:
        """Executions since midnight in New York."""
        today = self._books.exchange_day()
        return [execution for execution in self.executions if execution.day == today]

    def completed_today(self) -> list[Order]:
        """Orders that have ended since midnight in New York."""
        today = self._books.exchange_day()
        return [order for order in self.completed if order.completed_on == today]

    @property
    def settlements(self) -> list[Settlement]:
        """Every change of a position without an order: expiries, exercises, assignments."""
        return self._expiry.settlements

    # New orders and new terms.

    def _register(self, order: Order, order_id: int | None = None) -> None:
        client_id = order.client_id
        self.orders[client_id, order.ticket.order_id if order_id is None else order_id] = order
        self._floor.live[order] = None
        self.last_order_ids[client_id] = max(order.ticket.order_id, self.last_order_ids.get(client_id, 0))
        if order.parent is not None:
            order.parent.children.append(order)

    def _order(self, client_id: int, ticket: Ticket) -> Order:
        if not ticket.spec.exchange:
            raise invalid("Please enter exchange")
        instrument = self._resolve(ticket)
        self._check(ticket, instrument)
        account = self._account(ticket.account)
        parent = self._parent(client_id, ticket)
        self._perm_id += 1
        order = Order(ticket, client_id, self._perm_id, instrument, account, parent, terms=ticket.terms)
        triggers.arm(order)
        return order

    def _check(self, ticket: Ticket, instrument: Instrument) -> None:
        check(ticket, instrument)
        contracts = [instrument] if isinstance(instrument, Contract) else [leg.contract for leg in instrument.legs]
        if any(self._expiry.is_over(contract) for contract in contracts):
            raise Refused(392, "Invalid order: contract expired.")
        good_till = ticket.terms.good_till
        if ticket.tif == "GTD" and good_till is not None and good_till <= self._clock.now():
            raise invalid("Good till date is in the past")
        self._practice.check_percentage(ticket, self._market.quote(instrument))

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

    def _parent(self, client_id: int, ticket: Ticket) -> Order | None:
        if not ticket.parent_id:
            return None
        parent = self.orders.get((client_id, ticket.parent_id))
        if parent is None or (parent.status.is_done and parent.status is not Status.FILLED):
            raise Refused(10006, "Missing parent order.")
        if parent.status is Status.PENDING_CANCEL:
            raise Refused(106, f"Can't transmit order ID: {ticket.order_id}")
        return parent

    def _modify(self, order: Order, ticket: Ticket) -> None:
        if order.status.is_done:
            raise Refused(103, "Duplicate order id")
        if order.status is Status.PENDING_CANCEL:
            raise Refused(105, "Order being modified does not match original order.")
        check_change(order.ticket, ticket, order.instrument, self._resolve(ticket), order.filled)
        self._check(ticket, order.instrument)
        if order.status is not Status.HELD and ticket.quantity > order.ticket.quantity:
            self._demand_margin(order, ticket.quantity - order.filled)
        self._set_terms(order, ticket)
        if order.status is Status.HELD:
            if ticket.transmit:
                self._transmit(order)
            return
        self._reports.order_changed(order)
        self._floor.admit(order)

    def _set_terms(self, order: Order, ticket: Ticket) -> None:
        old, stop = order.ticket, order.stop
        order.ticket, order.terms = ticket, ticket.terms
        triggers.arm(order)
        if old.order_type != ticket.order_type:
            order.is_triggered = False
        elif order.style.trails and old.terms.trail_stop == ticket.terms.trail_stop:
            order.stop = stop

    def _transmit(self, order: Order) -> None:
        """The whole bracket goes live: the parent to the exchange, its children to wait for it."""
        root = order.parent or order
        members = [member for member in [root, *root.children] if member.status is Status.HELD]
        for member in members:
            member.move(Move.TRANSMIT)
            self._reports.order_changed(member)
        for member in members:
            if not member.status.is_done and self._has_margin(member):
                if (text := odd_lot_text(member)) is not None:
                    self._reports.noted(member, 399, text)
                self._floor.admit(member)

    # Margin, and other reasons to hesitate.

    def _preview(self, order: Order, quantity: Decimal) -> Preview:
        account = self._accounts[order.account]
        return self._valuation.preview(account, order.instrument, order.ticket.sign * quantity, self._market.quote)

    def _demand_margin(self, order: Order, quantity: Decimal) -> None:
        if not self._practice.checks_margin:
            return
        preview = self._preview(order, quantity)
        if not preview.is_covered:
            raise Refused(201, margin_text(preview))

    def _has_margin(self, order: Order) -> bool:
        """Whether the account can bear it; a child is taken to close what its parent opens."""
        if order.parent is not None:
            return True
        try:
            self._demand_margin(order, order.remaining)
        except Refused as refusal:
            self._turn_down(order, refusal.text)
            return False
        return True

    def _turn_down(self, order: Order, text: str) -> None:
        self._reports.noted(order, 201, text)
        self._floor.end(order, Move.REJECT)

    def _locate(self, order: Order, now: datetime) -> Wait | None:
        """Whether a short sale must wait until its stock has been found."""
        contract = order.instrument
        if order.is_located or order.ticket.sign > 0 or not isinstance(contract, Contract):
            return None
        held = self._accounts[order.account].quantity(contract.con_id)
        if contract.symbol not in self._practice.hard_to_borrow or held >= order.remaining:
            return None
        order.is_located = True
        return Wait(now + timedelta(seconds=self._practice.locate_s), LOCATE, held_for="locate")

    # What follows from fills, and from the passing of time.

    def _traded(self, _account: Account, executions: list[Execution]) -> None:
        self._expiry.watch(execution.contract for execution in executions if execution.contract is not None)

    def _settlement_price(self, contract: Contract) -> Decimal | None:
        quote = self._market.quote(contract)
        return None if quote is None else quote.last or quote.mid

    def _contract_ended(self, contract: Contract) -> None:
        """A contract has expired: no order in it can be filled any more."""
        for order in list(self._floor.live):
            instrument = order.instrument
            legs = (instrument,) if isinstance(instrument, Contract) else tuple(leg.contract for leg in instrument.legs)
            if not order.status.is_done and any(leg.con_id == contract.con_id for leg in legs):
                self._floor.end(order, Move.CANCEL)
