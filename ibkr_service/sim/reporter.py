"""Who hears of what: the exchange's reports on their way to the clients that may see them.

A report goes to the client that placed the order and to the master client, if they are connected now; to nobody else,
and not later. A manual order is client 0's, once that has asked for them (reqAutoOpenOrders). While the gateway is cut
off from IB reports wait.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import TYPE_CHECKING, Final

from ibkr_service.sim import answers
from ibkr_service.sim.accounts import Account
from ibkr_service.sim.contracts import Combo
from ibkr_service.sim.occasions import EXECUTION, ORDER
from ibkr_service.sim.orders import Execution, Order, Status
from ibkr_service.sim.orderwrite import open_order, order_status
from ibkr_service.sim.session import Session

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

BINDING: Final = ("binding", 0)
"""The stream of client 0 while it wants to hear of manual orders."""

LIVE: Final = -1
"""The request id of a fill that nobody asked for."""

REJECTED: Final = 201


class Reporter:
    """Tells clients what happens at the exchange."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._held: list[Callable[[], None]] = []
        self._copies = 0

    def order_changed(self, order: Order) -> None:
        """An order is new, or its terms or its progress have changed."""
        if order.is_manual and not order.ticket.order_id and any(BINDING in s.streams for s in self._gateway.sessions):
            self._gateway.exchange.bind(order)
        # Written at once: an order that waits to be told must be told as it was.
        status = order_status(order)
        versions = dict.fromkeys(session.version for session in self._gateway.sessions)
        opened = {version: open_order(order, version) for version in versions}

        def tell() -> None:
            for session in self._hearers(order):
                session.send(opened.get(session.version) or open_order(order, session.version))
                self._send_status(session, status)

        self._tell(tell)
        if not order.filled and order.status is not Status.HELD:
            self._gateway.occasions.tell(ORDER, order)

    def status_changed(self, order: Order) -> None:
        """Only an order's status has changed."""
        status = order_status(order)

        def tell() -> None:
            for session in self._hearers(order):
                self._send_status(session, status)

        self._tell(tell)

    def _send_status(self, session: Session, status: bytes) -> None:
        """Send a status, or as many copies as misfortune wants, the others perhaps after what comes next."""
        misfortunes = self._gateway.misfortunes
        session.send(status)
        for _ in range(misfortunes.status_copies - 1):
            if misfortunes.status_spread_s:
                self._copies += 1
                late_s = self._gateway.chance.between(0.0, misfortunes.status_spread_s, f"status:{self._copies}")
                self._gateway.clock.call_later(late_s, partial(session.send, status))
            else:
                session.send(status)

    def executed(self, execution: Execution) -> None:
        """A fill, or a leg of one."""
        misfortunes = self._gateway.misfortunes
        if isinstance(execution.order.instrument, Combo) and misfortunes.combo_reports != "whole":
            self._executed_oddly(execution)
        else:
            if misfortunes.commission_first and execution.commission is not None:
                self._charge(execution)
            self._send(execution.order, lambda session: [answers.exec_details(LIVE, execution, session.version)])
        self._gateway.occasions.tell(EXECUTION, execution)

    def _executed_oddly(self, execution: Execution) -> None:
        """Of a combination: the whole never, or its legs later, one by one."""
        misfortunes, is_whole = self._gateway.misfortunes, execution.contract is None
        if is_whole and misfortunes.combo_reports == "legs only":
            misfortunes.hidden_executions.add(execution.exec_id)
            return

        def tell() -> None:
            misfortunes.hidden_executions.discard(execution.exec_id)
            self._send(execution.order, lambda session: [answers.exec_details(LIVE, execution, session.version)])

        if is_whole or misfortunes.combo_reports == "legs only":
            tell()
            return
        hidden = misfortunes.hidden_executions
        legs = sum(
            one.exec_id in hidden for one in self._gateway.exchange.executions if one.order is execution.order
        )  # each combination's for itself
        misfortunes.hidden_executions.add(execution.exec_id)
        self._gateway.clock.call_later(misfortunes.legs_late_s * (legs + 1), tell)

    def charged(self, execution: Execution) -> None:
        """The commission of a fill is known."""
        if not self._gateway.misfortunes.commission_first:
            self._charge(execution)

    def _charge(self, execution: Execution) -> None:
        self._send(execution.order, lambda _session: [answers.commission_report(execution)])

    def noted(self, order: Order, code: int, text: str) -> None:
        """IB has a word to say about an order."""
        order_id = order.ticket.order_id
        details = self._gateway.misfortunes.reject_json if code == REJECTED else ""
        self._send(order, lambda session: [answers.error(order_id, code, text, session.version, details)])

    def account_changed(self, account: Account, con_ids: list[int]) -> None:
        """A fill has changed cash and positions."""

        def tell() -> None:
            for session in list(self._gateway.sessions):
                for stream in list(session.streams.values()):
                    stream.account_changed(account, con_ids)

        self._tell(tell)

    def release(self, *, lose: bool) -> None:
        """Tell (or lose) what waited while the gateway was cut off."""
        held, self._held = self._held, []
        if not lose:
            for tell in held:
                tell()

    def _send(self, order: Order, messages: Callable[[Session], list[bytes]]) -> None:
        def tell() -> None:
            for session in self._hearers(order):
                for message in messages(session):
                    session.send(message)

        self._tell(tell)

    def _tell(self, tell: Callable[[], None]) -> None:
        if self._gateway.is_cut and not self._gateway.tells_while_cut:
            self._held.append(tell)
        else:
            tell()

    def _hearers(self, order: Order) -> Iterator[Session]:
        master = self._gateway.config.master_client_id
        for session in list(self._gateway.sessions):
            is_own = session.client_id == order.client_id and (not order.is_manual or BINDING in session.streams)
            if is_own or session.client_id == master:
                yield session
