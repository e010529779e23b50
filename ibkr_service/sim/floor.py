"""The floor: orders on their way to the exchange, at work there, and on their way out.

Nothing trades in the instant in which it arrives: a new or changed order takes a seeded 50-250 ms of gateway time to
the exchange, and a cancel as long to catch up with it, so that a fill may be faster. An order whose time has not come,
or whose market is closed, waits at the broker; one that outlives its market's session goes back there.
"""

from collections.abc import Callable
from datetime import datetime
from decimal import Decimal
from typing import Final, Protocol

from ibkr_service.sim import links, triggers
from ibkr_service.sim.accounts import Account
from ibkr_service.sim.booking import Bookkeeper
from ibkr_service.sim.calendars import Calendar
from ibkr_service.sim.chance import Chance
from ibkr_service.sim.clock import GatewayClock, Timer
from ibkr_service.sim.lifetimes import AT_ONCE, Wait, end_of, is_too_late_for_close, rest_of, wait_of
from ibkr_service.sim.market import Market
from ibkr_service.sim.matching import Displayed, at_the_close, quantity, touch
from ibkr_service.sim.orders import Execution, Move, Order, Status
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.rules import Refused

LATENCY_S: Final = (0.05, 0.25)
CANCELLED_TEXT: Final = "Order Canceled - reason:"
CLOSED_TEXT: Final = "Order rejected - reason:Exchange is closed."
TOO_LATE_TEXT: Final = "Order rejected - reason:It is too late to submit an order for the close"


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


class Floor:
    """Orders that have been transmitted.

    Args:
        clock: gateway time.
        market: the quotes to match against.
        calendar: when markets are open.
        accounts: by code.
        books: writes executions.
        chance: latencies.
        reports: whom to tell.
        locate: whether, and until when, a short sale waits for its stock.
        traded: told after a fill has been booked.
    """

    def __init__(  # noqa: PLR0913  everything that a fill touches
        self,
        clock: GatewayClock,
        market: Market,
        calendar: Calendar,
        accounts: dict[str, Account],
        books: Bookkeeper,
        chance: Chance,
        reports: Reports,
        *,
        locate: Callable[[Order, datetime], Wait | None],
        traded: Callable[[Account, list[Execution]], None],
    ) -> None:
        self._clock = clock
        self._market = market
        self._calendar = calendar
        self._accounts = accounts
        self._books = books
        self._chance = chance
        self._reports = reports
        self._locate = locate
        self._traded = traded
        self._displayed = Displayed()
        self.live: dict[Order, None] = {}
        """Orders that are not done, untransmitted ones included, oldest first."""

        self.completed: list[Order] = []
        self.executions: list[Execution] = []

    # From the broker to the exchange.

    def admit(self, order: Order) -> None:
        """Take a transmitted order, new or with new terms, and send it out as soon as it may go."""
        self._stop(order)
        order.is_routed = False
        self._set_end(order)
        self.send_out(order)

    def send_out(self, order: Order) -> None:
        """Let an order go to the exchange, unless there is something to wait for."""
        order.waiting = None
        if order.waits_for_parent or order.status.is_done:
            return
        now = self._clock.now()
        if is_too_late_for_close(order, now, self._calendar):
            self._reject(order, TOO_LATE_TEXT)
            return
        wait = wait_of(order, now, self._calendar) or self._locate(order, now)
        if wait is None:
            order.held_for = ""
            self._route(order)
        elif order.ticket.tif in AT_ONCE and wait.notice is not None:
            self._reject(order, CLOSED_TEXT)
        else:
            self._hold(order, wait)

    def _hold(self, order: Order, wait: Wait) -> None:
        if wait.held_for != order.held_for:
            order.held_for = wait.held_for
            self._reports.status_changed(order)
        if wait.notice is not None:
            self._reports.noted(order, *wait.notice)
        order.waiting = self._at(wait.until, lambda: self.send_out(order))

    def _at(self, moment: datetime, callback: Callable[[], None]) -> Timer:
        return self._clock.call_later(max(0.0, (moment - self._clock.now()).total_seconds()), callback)

    def _set_end(self, order: Order) -> None:
        now = self._clock.now()
        end = end_of(order, now, self._calendar)
        if end is not None:
            order.ending = self._at(end, lambda: self._expire(order))

    def _expire(self, order: Order) -> None:
        if not order.status.is_done:
            self.end(order, Move.CANCEL)

    def _route(self, order: Order) -> None:
        place = f"route:{order.perm_id}:{order.ticket.limit}:{order.ticket.aux}"
        order.routing = self._clock.call_later(self._latency(place), lambda: self._arrive(order))

    def _latency(self, place: str) -> float:
        return self._chance.between(*LATENCY_S, place)

    # At the exchange.

    def _arrive(self, order: Order) -> None:
        order.routing = None
        order.is_routed = True
        if order.style.is_for_close:
            self._await_close(order)
            return
        if order.status is not Status.PENDING_CANCEL and not order.waits_for_trigger:
            self._activate(order)
        if order.watch is None:
            order.watch = self._market.watch(order.instrument, lambda quote: self._match(order, quote))
        rest = rest_of(order, self._clock.now(), self._calendar)
        if rest is not None:
            order.waiting = self._at(rest, lambda: self._rest(order))
        quote = self._market.quote(order.instrument)
        if quote is not None:
            self._match(order, quote)
        elif order.ticket.tif in AT_ONCE:
            self.end(order, Move.CANCEL)

    def _activate(self, order: Order) -> None:
        was = order.status
        order.move(Move.ACTIVATE)
        if order.status is not was:
            self._reports.order_changed(order)

    def _rest(self, order: Order) -> None:
        """The market has closed on an order that outlives it: back to the broker until it opens."""
        if order.status.is_done or (order.ending is not None and order.ticket.tif == "DAY"):
            return
        self._stop(order, ending=False)
        if order.watch is not None:
            order.watch.close()
            order.watch = None
        order.is_routed = False
        was = order.status
        order.move(Move.REST)
        if order.status is not was:
            self._reports.status_changed(order)
        wait = wait_of(order, self._clock.now(), self._calendar)
        if wait is not None:
            order.waiting = self._at(wait.until, lambda: self.send_out(order))

    def _match(self, order: Order, quote: Quote) -> None:
        if not order.is_routed or order.status.is_done:
            return
        if order.waits_for_trigger:
            if order.status is Status.PENDING_CANCEL or not triggers.observe(order, quote):
                return
            order.is_triggered = True
            self._activate(order)
        price = touch(order, quote)
        if price is not None:
            sign = order.ticket.sign
            fill = quantity(order, self._displayed.left(order.instrument, quote, sign))
            if fill > 0:
                self._displayed.take(order.instrument, quote, sign, fill)
                self._fill(order, fill, price, quote)
        if order.ticket.tif in AT_ONCE and not order.status.is_done:
            self.end(order, Move.CANCEL)

    # The closing auction.

    def _await_close(self, order: Order) -> None:
        if order.status is not Status.PENDING_CANCEL:
            self._activate(order)
        close = self._calendar.close(order.instrument, self._clock.now())
        order.waiting = self._at(close, lambda: self._auction(order))

    def _auction(self, order: Order) -> None:
        """Fill an order at the closing price, all of it, or cancel it."""
        order.waiting = None
        quote = self._market.quote(order.instrument)
        price = None if quote is None else quote.last or quote.mid
        if quote is not None and price is not None and order.workable and at_the_close(order, price):
            self._fill(order, order.workable, price, quote)
        if not order.status.is_done:
            self.end(order, Move.CANCEL)

    # Fills, and what follows from them.

    def fill_now(self, order: Order, quantity: Decimal | None, price: Decimal | None) -> None:
        """Fill an order whatever the market says: all that is left of it at its limit, unless told otherwise.

        Raises:
            ValueError: it is done, or there is nothing to price it by.
        """
        quote = self._market.quote(order.instrument)
        if price is None:
            price = order.limit if order.limit is not None or quote is None else quote.mid
        if order.status.is_done or price is None or quote is None:
            raise ValueError(f"{order!r} cannot be filled")
        if order.status is Status.PRE_SUBMITTED:
            self._stop(order, ending=False)
            order.is_routed = True
            self._activate(order)
        self._fill(order, order.remaining if quantity is None else quantity, price, quote)

    def _fill(self, order: Order, fill: Decimal, price: Decimal, quote: Quote) -> None:
        remaining = order.remaining
        order.filled += fill
        order.spent += fill * price
        order.last_price = price
        order.move(Move.FILL if order.remaining == 0 else Move.FILL_PART)
        if order.status.is_done:
            self._retire(order)
        account = self._accounts[order.account]
        executions = self._books.book(account, order, fill, price, quote)
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
        self._traded(account, executions)
        self._follow_fill(order, fill, remaining)

    def _follow_fill(self, order: Order, fill: Decimal, of: Decimal) -> None:
        """A fill cancels or reduces the orders linked to it, and sends the order's children out."""
        for other in links.siblings_of(order):
            self._reduce(other, fill, of)
        for other in links.group_of(order, list(self.live)):
            if order.terms.oca_type in links.REDUCING:
                self._reduce(other, fill, of)
            elif not other.status.is_done:
                self.end(other, Move.CANCEL)
        for child in order.children:
            if child.status is Status.PRE_SUBMITTED and not (child.is_routed or child.routing or child.waiting):
                self.send_out(child)

    def _reduce(self, other: Order, fill: Decimal, of: Decimal) -> None:
        if other.status.is_done:
            return
        cut = links.cut(other, fill, of)
        if cut >= other.remaining:
            self.end(other, Move.CANCEL)
        else:
            self._shrink(other, cut)

    def _shrink(self, order: Order, cut: Decimal) -> None:
        order.reduced += cut
        order.ticket = order.ticket.of_quantity(order.ticket.quantity - cut)
        if order.status is not Status.HELD:
            self._reports.order_changed(order)

    # The end.

    def ask_cancel(self, order: Order) -> None:
        """Try to cancel an order.

        Raises:
            Refused: it cannot be.
        """
        if order.status.is_done:
            raise _cannot_cancel(order)
        if not order.is_routed:
            self.end(order, Move.CANCEL)
            return
        if is_too_late_for_close(order, self._clock.now(), self._calendar):
            raise Refused(
                161, f"Cancel attempted when order is not in a cancellable state. Order permId ={order.perm_id}"
            )
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
            self.end(order, Move.CANCEL)

    def _reject(self, order: Order, text: str) -> None:
        self._reports.noted(order, 201, text)
        self.end(order, Move.REJECT)

    def end(self, order: Order, move: Move) -> None:
        """End an order that is not filled, and with a parent its children."""
        order.move(move)
        self._retire(order)
        self._reports.status_changed(order)
        if move is Move.CANCEL:
            self._reports.noted(order, 202, CANCELLED_TEXT)
        for child in order.children:
            if not child.status.is_done:
                self._bereave(child)

    def _bereave(self, child: Order) -> None:
        """The parent has ended unfilled, or filled in part: the child's quantity is what the parent leaves it."""
        cut = child.ticket.quantity - links.share_of(child)
        if cut >= child.remaining:
            self.end(child, Move.CANCEL)
        elif cut > 0:
            self._shrink(child, cut)

    def _stop(self, order: Order, *, ending: bool = True) -> None:
        """Cancel what is to come for an order, but for a cancel."""
        for timer in (order.routing, order.waiting, order.ending if ending else None):
            if timer is not None:
                timer.cancel()
        order.routing = order.waiting = None
        if ending:
            order.ending = None

    def _retire(self, order: Order) -> None:
        self._stop(order)
        # A cancel on its way to an order that was faster is answered when it arrives.
        if order.cancelling is not None and order.status is not Status.FILLED:
            order.cancelling.cancel()
        if order.watch is not None:
            order.watch.close()
            order.watch = None
        order.completed_at = self._books.exchange_time()
        order.completed_on = self._books.exchange_day()
        self.live.pop(order, None)
        self.completed.append(order)


def _cannot_cancel(order: Order) -> Refused:
    order_id, state = order.ticket.order_id, order.status.value
    return Refused(10148, f"OrderId {order_id} that needs to be cancelled cannot be cancelled, state: {state}.")
