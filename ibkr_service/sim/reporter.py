"""Who hears of what: the exchange's reports on their way to the clients that may see them.

A report goes to the client that placed the order and to the master client, if they are connected now; to nobody else,
and not later. A manual order is client 0's, once that has asked for them (reqAutoOpenOrders). While the gateway is cut
off from IB reports wait.
"""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Final

from ibkr_service.sim import answers
from ibkr_service.sim.accounts import Account
from ibkr_service.sim.orders import Execution, Order
from ibkr_service.sim.orderwrite import open_order, order_status
from ibkr_service.sim.session import Session

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

BINDING: Final = ("binding", 0)
"""The stream of client 0 while it wants to hear of manual orders."""

LIVE: Final = -1
"""The request id of a fill that nobody asked for."""


class Reporter:
    """Tells clients what happens at the exchange."""

    def __init__(self, gateway: "Gateway") -> None:
        self._gateway = gateway
        self._held: list[Callable[[], None]] = []

    def order_changed(self, order: Order) -> None:
        """An order is new, or its terms or its progress have changed."""
        if order.is_manual and not order.ticket.order_id and any(BINDING in s.streams for s in self._gateway.sessions):
            self._gateway.exchange.bind(order)
        # Written at once: an order that waits to be told must be told as it was.
        status, copies = order_status(order), self._gateway.misfortunes.status_copies
        versions = dict.fromkeys(session.version for session in self._gateway.sessions)
        opened = {version: open_order(order, version) for version in versions}

        def tell() -> None:
            for session in self._hearers(order):
                session.send(opened.get(session.version) or open_order(order, session.version))
                for _ in range(copies):
                    session.send(status)

        self._tell(tell)

    def status_changed(self, order: Order) -> None:
        """Only an order's status has changed."""
        status, copies = order_status(order), self._gateway.misfortunes.status_copies
        self._send(order, lambda _session: [status] * copies)

    def executed(self, execution: Execution) -> None:
        """A fill, or a leg of one."""
        self._send(execution.order, lambda session: [answers.exec_details(LIVE, execution, session.version)])

    def charged(self, execution: Execution) -> None:
        """The commission of a fill is known."""
        self._send(execution.order, lambda _session: [answers.commission_report(execution)])

    def noted(self, order: Order, code: int, text: str) -> None:
        """IB has a word to say about an order."""
        order_id = order.ticket.order_id
        self._send(order, lambda session: [answers.error(order_id, code, text, session.version)])

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
        if self._gateway.is_cut:
            self._held.append(tell)
        else:
            tell()

    def _hearers(self, order: Order) -> Iterator[Session]:
        master = self._gateway.config.master_client_id
        for session in list(self._gateway.sessions):
            is_own = session.client_id == order.client_id and (not order.is_manual or BINDING in session.streams)
            if is_own or session.client_id == master:
                yield session
