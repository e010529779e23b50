"""What a strategy holds: a key is one order, and a closed desk lets nobody hang.

Goal: nothing comes between the check and the act. Method: a wire written by hand, which remembers what was placed and
can refuse as the real one does.
"""

from __future__ import annotations

import asyncio
import errno
import sqlite3
from datetime import UTC, datetime
from decimal import Decimal as D

import pytest

from ibkr_service.broker import orderfields
from ibkr_service.clock import LoopClock
from ibkr_service.core import events as ev
from ibkr_service.core.errors import (
    DeskClosed,
    JournalError,
    KeyReused,
    NotReady,
    Paced,
    Refused,
    ServiceError,
    UnknownAccount,
    UnknownOrder,
)
from ibkr_service.core.instrument import Forex, Option, Stock
from ibkr_service.core.link import Link, Signal
from ibkr_service.core.orders import Intent, OrderState
from ibkr_service.core.preview import Preview
from ibkr_service.core.refs import Refs, parse
from ibkr_service.core.risk import Limits
from ibkr_service.desk import Desk
from ibkr_service.hub import Hub
from ibkr_service.journal import Journal

EPOCH = datetime(2026, 11, 23, 15, tzinfo=UTC)
EUR, AAPL = Forex("EUR", "USD"), Stock("AAPL")
LIMITS = Limits(
    max_quantity=D(1_000),
    max_notional=D(2_000),
    max_open_orders=3,
    max_orders_per_minute=10,
    max_quote_age_s=30.0,
)


class Wire:
    """A line to the broker that remembers, and refuses on demand."""

    def __init__(self, journal):
        self.placed = []
        self.ids = 0
        self.cancelled = []
        self.modified = []
        self.grid = None  # the increments that are known
        self.refuses = None  # what check_can_place and reserve raise
        self.fails = None  # what place raises: the line went between the check and the act
        self.rows_when_placed = []
        self._journal = journal

    def check_can_place(self, count):
        """Or the refusal."""
        if self.refuses is not None:
            raise self.refuses

    def reserve(self, account):
        """An id that is one more than the last, or the refusal."""
        self.check_can_place(1)
        self.ids += 1
        return account or "DU1", self.ids, 1

    def place(self, order):
        """Remember it, and how much was journalled by then."""
        if self.fails is not None:
            raise self.fails
        self.placed.append(order)
        self.rows_when_placed.append(list(self._journal.replay()))
        return len(self.placed), 1

    def cancel(self, order):
        """Remember it."""
        self.cancelled.append(order.ref)
        return True

    def increments(self, instrument):
        """What the test says."""
        return self.grid

    def hours(self, instrument):
        """Nobody knows."""

    async def learn_hours(self, instrument):
        """Nothing to learn."""

    def check_fields(self, intent):
        """As the real one."""
        orderfields.check(intent)

    def check_can_modify(self, order):
        """As for a new order."""
        self.check_can_place(1)

    def modify(self, order, intent):
        """Remember it, and how much was journalled by then."""
        if self.fails is not None:
            raise self.fails
        self.modified.append((order.ref, intent))
        self.rows_when_placed.append(list(self._journal.replay()))

    async def preview(self, intent, timeout_s):
        """What it was asked about comes back."""
        return Preview(intent=intent, account="DU1")

    async def learn_increments(self, instrument):
        """Nothing to learn."""

    async def con_id(self, instrument):
        """Everything is known."""
        return 7


class Watching:
    """Counts watchers."""

    def __init__(self):
        self.watched = []

    def watch(self, instrument):
        """One more."""
        self.watched.append(instrument)

    def unwatch(self, instrument):
        """One less."""
        self.watched.remove(instrument)

    def why_no_quote(self, instrument):
        """What the lines know."""
        return f"nothing of {instrument}"


class Office:
    """A hub on a fresh journal, a wire, and desks that know each other only through them."""

    def __init__(self, folder):
        self.clock = LoopClock(asyncio.get_running_loop(), EPOCH)
        self.path = folder / "journal.sqlite"
        self.journal = Journal(self.path)
        self.hub = Hub(self.journal, self.observe)
        self.wire, self.watching = Wire(self.journal), Watching()
        self.refs = Refs("run")
        self.desks = []

    def observe(self, event):
        """What the app does with each recorded event."""
        for desk in self.desks:
            desk.observe(event)

    def desk(self, name="s", facts_max=100, limits=LIMITS):
        """A desk for a strategy."""
        desk = Desk(
            name,
            hub=self.hub,
            wire=self.wire,
            watching=self.watching,
            limits=limits,
            refs=self.refs,
            clock=self.clock,
            params={},
            facts_max=facts_max,
            overrun=lambda: None,
        )
        self.desks.append(desk)
        return desk

    def record(self, kind, **fields):
        """A fact of now, through connection 1."""
        self.hub.record(kind(at=self.clock.now(), session=1, **fields))

    def ready(self):
        """The line is verified."""
        self.record(ev.LinkSignalled, signal=Signal.SOCKET_UP, why="")
        self.record(ev.SessionOpened, server_version=176, client_id=1, accounts=("DU1", "DU2"), account="DU1")
        self.record(ev.LinkSignalled, signal=Signal.SYNCED, why="")

    def status(self, ref, word):
        """The server's word on an order."""
        self.record(
            ev.OrderStatusReported,
            ref=ref,
            order_id=1,
            client_id=1,
            perm_id=0,
            status=word,
            filled=D(0),
            remaining=D(0),
        )

    def fill(self, ref, quantity, exec_id="0001.01"):
        """An execution."""
        self.record(
            ev.Fill,
            exec_id=exec_id,
            ref=ref,
            account="DU1",
            con_id=7,
            instrument=EUR,
            action="BUY",
            quantity=D(quantity),
            price=D(1),
            executed_at=EPOCH,
            perm_id=0,
            order_id=1,
            client_id=1,
        )


@pytest.fixture
async def office(tmp_path):
    """An office whose line is READY."""
    office = Office(tmp_path)
    office.ready()
    yield office
    office.journal.close()


@pytest.fixture
async def desk(office):
    """A strategy's desk in it."""
    return office.desk()


def buy(quantity=100, price="1", **changes):
    """A wish."""
    return Intent(instrument=EUR, action="BUY", quantity=D(quantity), order_type="LMT", limit_price=D(price), **changes)


async def waiting(desk, ref):
    """A task that waits for the end of an order, and has begun to."""
    task = asyncio.get_running_loop().create_task(desk.finished(ref))
    await asyncio.sleep(0)
    return task


# --- modify ----------------------------------------------------------------------------------------------------------


async def test_a_change_is_journalled_before_it_leaves(office, desk):
    """The row is there when the wire is asked; what holds is what was submitted."""
    ref = desk.submit(buy(), key="k")
    office.status(ref, "Submitted")
    desk.modify(ref, quantity=D(50))
    assert [(r, i.quantity) for r, i in office.wire.modified] == [(ref, 50)]
    assert [type(fact).__name__ for fact in office.wire.rows_when_placed[-1]][-1] == "ModificationRequested"
    assert (desk.order(ref).intent.quantity, desk.order(ref).change.quantity) == (100, 50)


async def test_a_change_needs_the_journal(office, desk, monkeypatch):
    """A disk that says no: nothing leaves, nothing is wished."""
    ref = desk.submit(buy(), key="k")
    office.status(ref, "Submitted")

    def full(_seq, _event):
        raise OSError(errno.ENOSPC, "disk is full")

    monkeypatch.setattr(office.journal, "_write_ahead", full)
    with pytest.raises(JournalError):
        desk.modify(ref, quantity=D(50))
    assert (office.wire.modified, desk.order(ref).change) == ([], None)


@pytest.mark.parametrize("error", [NotReady("gone"), Paced("too fast"), ConnectionError("closed")])
async def test_a_change_that_could_not_leave_is_not_waited_for(office, desk, error):
    """The line went between the check and the act: recorded as not sent."""
    ref = desk.submit(buy(), key="k")
    office.status(ref, "Submitted")
    office.wire.fails = error
    with pytest.raises(type(error)):
        desk.modify(ref, quantity=D(50))
    assert desk.order(ref).change is None
    assert [type(f).__name__ for f in office.journal.replay()][-2:] == ["ModificationNotSent", "ModificationSettled"]


async def test_only_its_own_orders_can_be_changed_and_not_while_shutting_down(office, desk):
    """As with cancelling and submitting."""
    ref = desk.submit(buy(), key="k")
    office.status(ref, "Submitted")
    with pytest.raises(UnknownOrder):
        office.desk("t").modify(ref, quantity=D(50))
    desk.refuse_orders("the service stops")
    with pytest.raises(Refused, match="shutdown"):
        desk.modify(ref, quantity=D(50))
    assert office.wire.modified == []


# --- submit ----------------------------------------------------------------------------------------------------------


async def test_an_order_is_journalled_before_it_leaves(office, desk):
    """The row is there when the wire is asked; afterwards it is SENT."""
    ref = desk.submit(buy(), key="k")
    (order,) = office.wire.placed
    assert order.ref == ref
    assert [type(fact).__name__ for fact in office.wire.rows_when_placed[0]][-1] == "OrderSubmitted"
    assert desk.order(ref).state is OrderState.SENT
    assert parse(ref).strategy == "s"


async def test_the_same_key_is_the_same_order(office, desk):
    """Said three times, in whatever state it is by then, by whichever desk of the strategy."""
    ref = desk.submit(buy(), key="k")
    office.status(ref, "Cancelled")
    desk.close("restarted")
    again = office.desk()
    assert again.submit(buy(), key="k") == ref
    assert len(office.wire.placed) == 1


async def test_the_same_key_of_another_strategy_is_another_order(office, desk):
    """Keys are a strategy's own."""
    assert desk.submit(buy(), key="k") != office.desk("t").submit(buy(), key="k")
    assert len(office.wire.placed) == 2


async def test_a_key_cannot_stand_for_another_wish(office, desk):
    """KeyReused, naming both; nothing left."""
    desk.submit(buy(100), key="k")
    with pytest.raises(KeyReused, match=r"BUY 100 .*not for BUY 200"):
        desk.submit(buy(200), key="k")
    assert len(office.wire.placed) == 1


async def test_a_known_key_is_answered_while_the_line_is_down(office, desk):
    """Asking again is no new order: it needs no line."""
    ref = desk.submit(buy(), key="k")
    office.record(ev.LinkSignalled, signal=Signal.SOCKET_DOWN, why="")
    assert desk.submit(buy(), key="k") == ref


async def test_without_a_key_each_call_is_a_new_wish(office, desk):
    """Also after the strategy was restarted: references never repeat."""
    refs = [desk.submit(buy()) for _ in range(2)]
    desk.close("restarted")
    refs.append(office.desk().submit(buy()))
    assert len(set(refs)) == len(office.wire.placed) == 3


@pytest.mark.parametrize(
    ("intent", "limit"),
    [
        (buy(1_001, price="0.01"), "max_quantity"),
        (buy(1_000, price="2.01"), "max_notional"),
        (Intent(instrument=EUR, action="BUY", quantity=D(1)), "max_quote_age_s"),
        (buy(account="DU9"), "account"),
    ],
)
async def test_a_limit_refuses_and_nothing_happens(office, desk, intent, limit):
    """Not in the journal, not on the wire, and the key is free for another wish."""
    rows = len(list(office.journal.replay()))
    with pytest.raises(Refused) as caught:
        desk.submit(intent, key="k")
    assert caught.value.limit == limit
    assert len(list(office.journal.replay())) == rows
    assert office.wire.placed == []
    assert desk.submit(buy(1), key="k")


async def test_open_orders_and_orders_a_minute_are_limited(office, desk):
    """Three alive on a side; the fourth is refused until one ends; and so many a minute."""
    refs = [desk.submit(buy()) for _ in range(3)]
    with pytest.raises(Refused, match="max_open_orders"):
        desk.submit(buy())
    office.status(refs[0], "Cancelled")
    assert desk.submit(buy())
    for ref in list(office.hub.book.orders):
        office.status(ref, "Cancelled")
    for number in range(6):
        office.status(desk.submit(buy(10 + number)), "Cancelled")
    with pytest.raises(Refused, match="max_orders_per_minute"):
        desk.submit(buy())
    await asyncio.sleep(61)
    assert desk.submit(buy())


@pytest.mark.parametrize("what", [Signal.UPSTREAM_LOST, Signal.SOCKET_DOWN, Signal.RESTORED_DATA_KEPT])
async def test_a_line_that_is_not_ready_refuses(office, desk, what):
    """CUT, DOWN, SYNCING: no order leaves."""
    office.record(ev.LinkSignalled, signal=what, why="")
    assert office.hub.book.link is not Link.READY
    with pytest.raises(Refused, match="link"):
        desk.submit(buy())
    assert office.wire.placed == []


@pytest.mark.parametrize("refusal", [Paced("full"), NotReady("the link is CUT")])
@pytest.mark.parametrize("account", ["", "DU2"])
async def test_what_cannot_leave_now_does_not_spend_its_key(office, desk, refusal, account):
    """The wire knows better than the book: refused before the journal; the same key works a moment later."""
    office.wire.refuses = refusal
    with pytest.raises(type(refusal)):
        desk.submit(buy(account=account), key="k")
    office.wire.refuses = None
    ref = desk.submit(buy(account=account), key="k")
    assert desk.order(ref).state is OrderState.SENT
    assert desk.order(ref).account == (account or "DU1")


@pytest.mark.parametrize("failure", [Paced("full"), NotReady("down"), ConnectionError("Not connected")])
async def test_an_order_that_was_not_handed_over_is_known_not_to_have_left(office, desk, failure):
    """Journalled, then the socket was gone: REJECTED, never UNKNOWN, and the strategy hears of it."""
    office.wire.fails = failure
    with pytest.raises(type(failure)):
        desk.submit(buy(), key="k")
    (order,) = office.hub.book.orders.values()
    assert order.state is OrderState.REJECTED
    assert str(failure) in order.reason


async def test_when_the_disk_says_no_no_order_leaves(office, desk, monkeypatch):
    """JournalError; a cancel still passes; and the key is free when the disk is well again."""
    working = desk.submit(buy(), key="old")
    whole, whole_ahead = Journal._write, Journal._write_ahead

    def full(journal, row):
        raise sqlite3.OperationalError("database or disk is full")

    def full_ahead(journal, seq, event):
        raise OSError(errno.ENOSPC, "disk is full")

    monkeypatch.setattr(Journal, "_write", full)
    monkeypatch.setattr(Journal, "_write_ahead", full_ahead)
    with pytest.raises(JournalError, match="disk is full"):
        desk.submit(buy(), key="new")
    desk.cancel(working)
    assert office.wire.cancelled == [working]
    assert len(office.wire.placed) == 1
    monkeypatch.setattr(Journal, "_write", whole)
    monkeypatch.setattr(Journal, "_write_ahead", whole_ahead)
    assert desk.submit(buy(), key="new")
    assert len(office.wire.placed) == 2


@pytest.mark.parametrize(
    "mistake",
    [
        lambda desk: desk.submit(buy(), key=7),
        lambda desk: desk.submit(buy(), key="\ud800"),
        lambda desk: desk.submit(buy(account=5)),
        lambda desk: desk.submit(buy(outside_rth="yes")),
        lambda desk: desk.submit(Intent(instrument="EUR.USD", action="BUY", quantity=D(1))),
        lambda desk: desk.submit(limit(Option("AAPL", "20270115", D(150), "C"))),
        lambda desk: desk.submit(limit(Option("AAPL", "20270115", 150, "C", 100))),
        lambda desk: desk.submit(limit(Stock(5))),
    ],
    ids=["key", "half a character", "account", "flag", "instrument", "strike", "multiplier", "symbol"],
)
async def test_a_value_of_the_wrong_type_never_reaches_the_journal_or_the_wire(office, desk, mistake):
    """A row that could not be read back would bar the next start: the strategy gets a typed error instead."""
    with pytest.raises((ServiceError, ValueError)):
        mistake(desk)
    assert office.wire.placed == []
    assert [fact for fact in office.journal.replay() if isinstance(fact, ev.OrderSubmitted)] == []


def limit(instrument):
    """A wish for one of something."""
    return Intent(instrument=instrument, action="BUY", quantity=D(1), order_type="LMT", limit_price=D(1))


async def test_a_desk_that_refuses_orders_still_cancels(office, desk):
    """During a shutdown."""
    ref = desk.submit(buy())
    desk.refuse_orders("the service is shutting down")
    with pytest.raises(Refused, match="shutting down"):
        desk.submit(buy())
    desk.cancel(ref)
    assert office.wire.cancelled == [ref]


# --- cancel ----------------------------------------------------------------------------------------------------------


async def test_a_cancel_is_wanted_once(office, desk):
    """Journalled and sent; saying it again says nothing new; an order that is done is left alone."""
    ref = desk.submit(buy())
    desk.cancel(ref)
    desk.cancel(ref)
    assert office.wire.cancelled == [ref]
    assert desk.order(ref).state is OrderState.CANCEL_PENDING
    office.status(ref, "Cancelled")
    desk.cancel(ref)
    assert office.wire.cancelled == [ref]


async def test_only_its_own_orders_can_be_cancelled(office, desk):
    """Neither a neighbour's nor one that does not exist."""
    theirs = office.desk("t").submit(buy())
    for ref in (theirs, "ibs.x.1.s.00000000"):
        with pytest.raises(UnknownOrder):
            desk.cancel(ref)
    assert office.wire.cancelled == []


async def test_a_cancel_is_accepted_while_the_line_is_down(office, desk):
    """It is desired state: kept, and shown."""
    ref = desk.submit(buy())
    office.record(ev.LinkSignalled, signal=Signal.SOCKET_DOWN, why="")
    desk.cancel(ref)
    assert desk.order(ref).cancel_wanted
    assert desk.order(ref).state is OrderState.CANCEL_PENDING


# --- finished --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("word", "state"), [("Cancelled", OrderState.CANCELLED), ("Inactive", OrderState.REJECTED)])
async def test_the_end_of_an_order_can_be_waited_for(office, desk, word, state):
    """By several at once; and asked for afterwards."""
    ref = desk.submit(buy())
    waiters = [await waiting(desk, ref) for _ in range(3)]
    office.status(ref, word)
    assert [(await waiter).state for waiter in waiters] == [state] * 3
    assert (await desk.finished(ref)).state is state


async def test_a_partial_fill_is_no_end(office, desk):
    """The last share is."""
    ref = desk.submit(buy(100))
    waiter = await waiting(desk, ref)
    office.fill(ref, 40)
    await asyncio.sleep(1)
    assert not waiter.done()
    office.fill(ref, 60, "0002.01")
    assert (await waiter).state is OrderState.FILLED
    assert desk.position(EUR) == 100


async def test_unknown_is_no_end(office, desk):
    """It may yet fill."""
    ref = desk.submit(buy())
    waiter = await waiting(desk, ref)
    office.record(ev.OrderResolved, ref=ref, resolution="lost", detail="")
    await asyncio.sleep(1)
    assert not waiter.done()
    office.fill(ref, 100)
    assert (await waiter).state is OrderState.FILLED


async def test_a_waiter_that_is_cancelled_leaves_nothing(office, desk):
    """No future remains, and the order's end later harms nobody."""
    ref = desk.submit(buy())
    waiter = await waiting(desk, ref)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    assert desk._finished == {}
    office.status(ref, "Cancelled")


async def test_nobody_waits_at_a_closed_desk(office, desk):
    """Readers and waiters are told why; later calls too."""
    ref = desk.submit(buy())
    waiter = await waiting(desk, ref)
    reader = asyncio.get_running_loop().create_task(drain(desk))
    await asyncio.sleep(0)
    desk.close("strategy overrun")
    for task in (waiter, reader):
        with pytest.raises(DeskClosed, match="overrun"):
            await task
    for call in (lambda: desk.submit(buy()), lambda: desk.cancel(ref), lambda: desk.watch(EUR)):
        with pytest.raises(DeskClosed, match="overrun"):
            call()
    with pytest.raises(DeskClosed):
        await desk.finished(ref)
    with pytest.raises(DeskClosed):
        await desk.qualify(EUR)
    assert desk.order(ref).state is OrderState.SENT, "orders stay as they are"
    desk.close("again")


async def drain(desk):
    """Read on and on."""
    async for _ in desk.events():
        pass


async def test_an_unknown_reference_is_said_to_be_unknown(desk):
    """At once, not by waiting."""
    with pytest.raises(UnknownOrder):
        desk.order("nothing")
    with pytest.raises(UnknownOrder):
        await desk.finished("nothing")


# --- market data and welcome -----------------------------------------------------------------------------------------


async def test_watching_twice_is_watching_once(office, desk):
    """And unwatching what is not watched is nothing."""
    desk.watch(EUR)
    desk.watch(EUR)
    assert office.watching.watched == [EUR]
    desk.unwatch(EUR)
    desk.unwatch(EUR)
    desk.unwatch(AAPL)
    assert office.watching.watched == []


async def test_closing_unwatches_everything(office, desk):
    """A neighbour's watch stays."""
    other = office.desk("t")
    for instrument in (EUR, AAPL):
        desk.watch(instrument)
    other.watch(EUR)
    desk.close("done")
    assert office.watching.watched == [EUR]


async def test_a_quote_is_given_only_if_it_can_price_an_order(office, desk):
    """Live, two-sided, young, and not inside a gap."""
    now_s = asyncio.get_running_loop().time()
    assert desk.quote(EUR) is None
    assert desk.why_unusable(EUR) == "no quote (nothing of EUR.USD)"
    office.record(ev.Tick, instrument=EUR, bid=1.0, ask=1.1, data_type="delayed", mono_s=now_s)
    assert desk.quote(EUR) is None
    office.record(ev.Tick, instrument=EUR, bid=1.0, ask=1.1, data_type="live", mono_s=now_s)
    assert desk.quote(EUR).ask == 1.1
    office.record(ev.Gap, instrument=EUR, reason="", since=EPOCH, epoch=1)
    assert desk.quote(EUR) is None
    office.record(ev.Resumed, instrument=EUR, until=EPOCH, epoch=1)
    office.record(ev.Tick, instrument=EUR, bid=1.0, ask=1.1, data_type="live", mono_s=now_s, epoch=1)
    assert desk.quote(EUR) is not None
    await asyncio.sleep(31)
    assert desk.quote(EUR) is None


async def test_a_strategy_is_told_first_what_there_already_is(office, desk):
    """Its own orders that may still fill, the unknown ones apart; the account's positions."""
    working, lost, done = (desk.submit(buy(), key=key) for key in ("a", "b", "c"))
    office.desk("t").submit(Intent(instrument=AAPL, action="BUY", quantity=D(1), order_type="LMT", limit_price=D(1)))
    office.record(ev.OrderResolved, ref=lost, resolution="lost", detail="")
    office.status(done, "Cancelled")
    office.record(ev.PositionReported, account="DU1", con_id=7, instrument=EUR, quantity=D(5), average_cost=D(1))
    desk.close("restarted")
    again = office.desk()
    again.welcome()
    first = await anext(again.events())
    assert isinstance(first, ev.Recovered)
    assert first.working == ((working, "a"),)
    assert first.unknown == ((lost, "b"),)
    assert first.positions == (("DU1", EUR, D(5)),)


# --- account ---------------------------------------------------------------------------------------------------------


def look(office):
    """The broker has shown everything: nothing."""
    office.record(
        ev.Snapshot,
        asked_at=EPOCH,
        accounts=("DU1", "DU2"),
        positions=(),
        open_refs=(),
        completed=(),
        orders_visible=True,
    )


async def test_an_account_is_reported_when_it_is_known_only(office, desk):
    """An error before the first look, for another account, for one that is not ours, and when the line is lost."""
    ask = (desk.account_summary, desk.positions)
    with pytest.raises(NotReady):
        desk.account_summary()
    look(office)
    assert desk.account_summary().account == "DU1"
    assert desk.positions() == desk.positions("DU2") == {}
    with pytest.raises(NotReady):
        desk.account_summary("DU2")
    for question in (*ask, desk.watch_account):
        with pytest.raises(UnknownAccount):
            question("DU3")
    office.record(ev.LinkSignalled, signal=Signal.UPSTREAM_LOST, why="")
    for question in ask:
        with pytest.raises(NotReady):
            question()


async def test_an_accounts_figures_come_to_the_desk_that_watches_it(office, desk):
    """The account in use by default; a desk that does not ask gets none, nor one that asks no longer."""
    other = office.desk("t")
    other.watch_account("DU2")
    desk.watch_account()

    def tell(value):
        for account in ("DU1", "DU2"):
            office.record(ev.AccountValueReported, account=account, tag="BuyingPower", value=value, currency="USD")

    def unread(of):
        box = of._subscriber.mailbox
        return [(slot.unread.account, slot.unread.value) for slot in box.slots_unread]

    tell("1")
    tell("2")
    assert (unread(desk), unread(other)) == ([("DU1", "2")], [("DU2", "2")])
    desk.unwatch_account()
    tell("3")
    assert (unread(desk), unread(other)) == ([], [("DU2", "3")])
    desk.close("done")
    with pytest.raises(DeskClosed):
        desk.watch_account()


async def test_qualifying_asks_the_broker(desk):
    """The conId."""
    assert await desk.qualify(EUR) == 7
