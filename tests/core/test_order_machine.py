"""An order under everything that a broker can say, in any order: the table holds.

Goal: no illegal state; what is filled is what the ledger says; an end is left by a fill or a correction only; a
modification never kills. Method: hypothesis drives a `Book` with every message about two orders, repeated, reordered
and contradicting, and looks after each.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from ibkr_service.core import events as ev
from ibkr_service.core.book import Book
from ibkr_service.core.errors import InvalidIntent, Refused
from ibkr_service.core.instrument import Stock
from ibkr_service.core.intent import Intent
from ibkr_service.core.link import Signal
from ibkr_service.core.modification import changed
from ibkr_service.core.orders import STATUS_SIGNALS, TERMINAL, TRANSITIONS, OrderState

AAPL, CON_ID, ACCOUNT = Stock("AAPL"), 265598, "DU1"
REFS = ("a", "b")
STATUSES = (*STATUS_SIGNALS, "Filled", "NeverHeardOf")
refs = st.sampled_from(REFS)
quantities = st.integers(1, 12).map(D)


class OrderTable(RuleBasedStateMachine):
    """Two orders, one bought and one sold, and a broker that says anything."""

    def __init__(self):
        super().__init__()
        self.book = Book()
        self.at = datetime(2026, 11, 23, 15, tzinfo=UTC)
        self.executions = 0
        self.revisions = {}  # execution -> (ref, revision)
        self.ends = {}  # ref -> the end that it was seen in
        self.may_leave = set()  # references for which a fill or a correction has just come

    def tell(self, kind, **fields):
        """As the hub does: news only, and what follows from it."""
        self.at += timedelta(milliseconds=1)
        waiting = [kind(at=self.at, session=1, **fields)]
        while waiting:
            event = waiting.pop(0)
            if self.book.is_news(event):
                before = {ref: order.state for ref, order in self.book.orders.items()}
                said = self.book.apply(event)
                waiting = [*said, *waiting]
                self.check_steps(before, said)

    def check_steps(self, before, said):
        """Every step is told, and in the table, of one signal each; together they lead from there to here."""
        for ref, state in before.items():
            was = state
            for step in (fact for fact in said if isinstance(fact, ev.OrderChanged) and fact.ref == ref):
                assert step.before is was, f"{ref}: from {was} to {step}"
                assert step.after in {was, *TRANSITIONS[was].values()}, f"{ref}: {was} -> {step.after}"
                was = step.after
            assert self.book.orders[ref].state is was, f"{ref}: a step that nobody was told"

    @initialize()
    def begin(self):
        for signal in (Signal.SOCKET_UP, Signal.SYNCED):
            self.tell(ev.LinkSignalled, signal=signal, why="")
        for ref, make in zip(REFS, (Intent.buy, Intent.sell), strict=True):
            self.tell(
                ev.OrderSubmitted, ref=ref, key=ref, strategy="s", account=ACCOUNT, intent=make(AAPL, 10, limit=100)
            )

    def action(self, ref):
        return self.book.orders[ref].intent.action

    @rule(ref=refs)
    def sent(self, ref):
        self.tell(ev.OrderSent, ref=ref, order_id=1 + REFS.index(ref))

    @rule(ref=refs)
    def not_sent(self, ref):
        self.tell(ev.OrderNotSent, ref=ref, reason="the socket is gone")

    @rule(ref=refs, status=st.sampled_from(STATUSES), filled=quantities)
    def status(self, ref, status, filled):
        """`filled` may be anything: it is not believed."""
        self.tell(
            ev.OrderStatusReported,
            ref=ref,
            order_id=1 + REFS.index(ref),
            client_id=1,
            perm_id=7 + REFS.index(ref),
            status=status,
            filled=filled,
            remaining=D(0),
        )

    @rule(ref=refs, status=st.sampled_from(STATUSES), quantity=quantities, limit=st.integers(99, 101).map(D))
    def open_order(self, ref, status, quantity, limit):
        self.tell(
            ev.OpenOrderReported,
            ref=ref,
            order_id=1 + REFS.index(ref),
            client_id=1,
            perm_id=7 + REFS.index(ref),
            account=ACCOUNT,
            instrument=AAPL,
            action=self.action(ref),
            quantity=quantity,
            order_type="LMT",
            status=status,
            limit_price=limit,
        )
        order = self.book.orders[ref]
        if order.alive:
            assert (order.intent.quantity, order.intent.limit_price) == (quantity, limit), "the server's word holds"

    @rule(ref=refs, meaning=st.sampled_from(["rejected", "cancelled", "doubtful", "notice"]))
    def error(self, ref, meaning):
        before = self.book.orders[ref]
        self.tell(ev.OrderErrored, ref=ref, code=201, text="no", meaning=meaning)
        after = self.book.orders[ref]
        assert after.state not in TERMINAL or after.state is before.state, "a code ends nothing"
        if before.change is not None:
            assert after.state is before.state, "it was about the modification"

    @rule(ref=refs)
    def cancel(self, ref):
        if self.book.orders[ref].alive:
            self.tell(ev.CancelRequested, ref=ref, by="s")

    @rule(ref=refs, quantity=quantities)
    def modify(self, ref, quantity):
        order = self.book.orders[ref]
        try:
            intent = changed(order, {"quantity": quantity})
        except (Refused, InvalidIntent):
            return
        assert order.alive
        assert quantity > order.filled
        self.tell(ev.ModificationRequested, ref=ref, intent=intent)
        assert self.book.orders[ref].intent == order.intent, "a wish changes nothing"

    @rule(ref=refs)
    def modification_not_sent(self, ref):
        self.tell(ev.ModificationNotSent, ref=ref, reason="the socket is gone")
        assert self.book.orders[ref].change is None

    @rule(ref=refs, quantity=st.integers(1, 4).map(D))
    def fill(self, ref, quantity):
        self.executions += 1
        self.revisions[self.executions] = (ref, 1)
        self.execute(self.executions, quantity)

    @rule(data=st.data(), quantity=st.integers(1, 4).map(D))
    def correct(self, data, quantity):
        if self.revisions:
            number = data.draw(st.sampled_from(sorted(self.revisions)))
            ref, revision = self.revisions[number]
            self.revisions[number] = (ref, revision + 1)
            self.execute(number, quantity)

    @rule(data=st.data())
    def repeat(self, data):
        """The same execution again, as each look at the broker brings it: nothing happens."""
        if self.revisions:
            number = data.draw(st.sampled_from(sorted(self.revisions)))
            before = dict(self.book.orders)
            self.execute(number, D(999), allowed=False)
            assert self.book.orders == before

    def execute(self, number, quantity, *, allowed=True):
        ref, revision = self.revisions[number]
        if allowed:
            self.may_leave.add(ref)
        self.tell(
            ev.Fill,
            exec_id=f"0000.{number}.{revision:02}",
            ref=ref,
            account=ACCOUNT,
            con_id=CON_ID,
            instrument=AAPL,
            action=self.action(ref),
            quantity=quantity,
            price=D(100),
            executed_at=self.at,
            perm_id=7 + REFS.index(ref),
            order_id=1 + REFS.index(ref),
            client_id=1,
        )

    @rule(
        shown=st.sets(refs),
        completed=st.lists(st.tuples(refs, st.sampled_from(["Cancelled", "Filled", "Inactive"])), max_size=2),
        visible=st.booleans(),
    )
    def look(self, shown, completed, visible):
        """A look at everything, which may know less than it said before."""
        asked_at = self.at + timedelta(milliseconds=1)
        self.tell(
            ev.Snapshot,
            asked_at=asked_at,
            accounts=(ACCOUNT,),
            positions=(),
            open_refs=tuple(sorted(shown)),
            completed=tuple(completed),
            orders_visible=visible,
        )
        for ref in shown if visible else ():
            assert self.book.orders[ref].change is None, "a look that shows the order settles its modification"

    @invariant()
    def what_is_filled_is_the_ledger(self):
        for ref, order in self.book.orders.items():
            fills = self.book.fills_of(ref)
            assert order.filled == sum((fill.quantity for fill in fills), D(0))
            assert order.cost == sum((fill.quantity * fill.price for fill in fills), D(0))
        filled = sum((fill.signed for fill in self.book.fills.values()), D(0))
        assert self.book.strategy_position("s", AAPL) == filled

    @invariant()
    def an_end_is_left_by_a_fill_only(self):
        for ref, order in self.book.orders.items():
            end = self.ends.get(ref)
            if end is not None and order.state is not end:
                assert ref in self.may_leave, f"{ref} left {end} for {order.state} without a fill"
            self.ends[ref] = order.state if order.done else None
        self.may_leave.clear()

    @invariant()
    def the_indices_agree(self):
        alive = {order.ref for order in self.book.orders.values() if order.alive}
        assert {order.ref for order in self.book.alive_orders()} == alive
        assert self.book.done_orders("s") == len(self.book.orders) - len(alive)
        assert all(order.change is None for order in self.book.orders.values() if order.done)

    @invariant()
    def filled_orders_are_full(self):
        for order in self.book.orders.values():
            if order.state is OrderState.FILLED:
                assert order.remaining <= 0
            elif order.alive and order.filled:
                assert order.remaining > 0


TestOrderTable = OrderTable.TestCase
TestOrderTable.settings = settings(max_examples=100, stateful_step_count=40, deadline=None)
