"""One function changes state: journal, book, mailboxes, in this order; and what happens when the disk says no.

Goal: no decision without its record, no fact lost for want of one. Method: a real journal on a temporary disk whose
writes can be made to fail, as a full disk makes it.
"""

from __future__ import annotations

import errno
import sqlite3
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest

from ibkr_service import hub as hub_module
from ibkr_service.core import events as ev
from ibkr_service.core.errors import JournalError
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.core.link import Link, Signal
from ibkr_service.core.orders import Intent, OrderState
from ibkr_service.hub import Hub, Subscriber, UnsavedOverflow
from ibkr_service.journal import Journal
from ibkr_service.mailbox import Mailbox

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
EUR, AAPL = Forex("EUR", "USD"), Stock("AAPL")


def never():
    """An overrun that must not happen."""
    raise AssertionError("overrun")


class Disk:
    """Makes a journal's writes fail, and work again."""

    def __init__(self, monkeypatch):
        self.is_full = False
        self.refused = 0
        whole = Journal._write

        whole_ahead = Journal._write_ahead

        def write(journal, row):
            if self.is_full:
                self.refused += 1
                raise sqlite3.OperationalError("database or disk is full")
            whole(journal, row)

        def write_ahead(journal, seq, event):
            if self.is_full:
                self.refused += 1
                raise OSError(errno.ENOSPC, "No space left on device")
            whole_ahead(journal, seq, event)

        monkeypatch.setattr(Journal, "_write", write)
        monkeypatch.setattr(Journal, "_write_ahead", write_ahead)

    def fills_up_after(self, monkeypatch, writes):
        """Take so many more writes, and no further one."""
        whole = Journal._write

        def write(journal, row):
            nonlocal writes
            if writes <= 0:
                self.is_full = True
            writes -= 1
            whole(journal, row)

        monkeypatch.setattr(Journal, "_write", write)


@pytest.fixture
def disk(monkeypatch):
    """A disk that can be full."""
    return Disk(monkeypatch)


@pytest.fixture
def path(tmp_path):
    """The journal's file."""
    return tmp_path / "journal.sqlite"


@pytest.fixture
def journal(path):
    """The journal."""
    journal = Journal(path)
    yield journal
    journal.close()


@pytest.fixture
def seen():
    """What the observer saw."""
    return []


@pytest.fixture
def hub(journal, seen):
    """A hub that is watched."""
    return Hub(journal, seen.append)


def subscriber(hub, name="s", *watched):
    """A strategy's place at the hub."""
    subscriber = Subscriber(name, Mailbox(1_000, never), set(watched))
    hub.subscribe(subscriber)
    return subscriber


async def read(subscriber):
    """Everything in its mailbox."""
    return [await subscriber.mailbox.get() for _ in range(len(subscriber.mailbox))]


def submitted(ref="r1", strategy="s", quantity=100):
    """An order of ours."""
    intent = Intent(instrument=EUR, action="BUY", quantity=D(quantity), order_type="LMT", limit_price=D(1))
    return ev.OrderSubmitted(at=AT, ref=ref, key=ref, strategy=strategy, account="DU1", intent=intent)


def fill(exec_id="0001.01", ref="r1", quantity=40, action="BUY"):
    """An execution."""
    return ev.Fill(
        at=AT,
        session=1,
        exec_id=exec_id,
        ref=ref,
        account="DU1",
        con_id=7,
        instrument=EUR,
        action=action,
        quantity=D(quantity),
        price=D(1),
        executed_at=AT,
        perm_id=0,
        order_id=1,
        client_id=1,
    )


def signal(what, code=None):
    """News of the line."""
    return ev.LinkSignalled(at=AT, session=1, signal=what, why="test", code=code)


def status(word="Submitted", ref="r1"):
    """The server's word."""
    return ev.OrderStatusReported(
        at=AT, session=1, ref=ref, order_id=1, client_id=1, perm_id=0, status=word, filled=D(0), remaining=D(100)
    )


def sent(ref="r1"):
    """It left."""
    return ev.OrderSent(at=AT, session=1, ref=ref, order_id=1)


def kinds(events):
    """Names of events."""
    return [type(event).__name__ for event in events]


# --- recording -------------------------------------------------------------------------------------------------------


async def test_a_fact_is_journalled_then_applied_then_delivered_then_observed(hub, journal, seen):
    """And what follows from it comes right behind, the same way."""
    strategy = subscriber(hub)
    hub.record(submitted())
    hub.record(sent())
    hub.record(fill())
    expected = ["OrderSubmitted", "OrderSent", "OrderChanged", "Fill", "OrderChanged"]
    assert kinds(journal.replay()) == kinds(seen) == expected
    assert kinds(await read(strategy)) == ["OrderChanged", "Fill", "OrderChanged"]
    assert hub.book.orders["r1"].filled == 40


async def test_a_repetition_is_neither_written_nor_told(hub, journal):
    """The broker repeats itself."""
    strategy = subscriber(hub)
    hub.record(submitted())
    for _ in range(3):
        hub.record(status())
        hub.record(fill())
    assert kinds(journal.replay()).count("Fill") == 1
    assert kinds(journal.replay()).count("OrderStatusReported") == 1
    assert kinds(await read(strategy)).count("Fill") == 1


async def test_ticks_are_delivered_and_not_written(hub, journal):
    """They are of this moment."""
    watcher = subscriber(hub, "s", EUR)
    hub.record(ev.Tick(at=AT, instrument=EUR, bid=1.0, ask=1.1))
    assert kinds(await read(watcher)) == ["Tick"]
    assert list(journal.replay()) == []


async def test_a_strategy_reads_its_own_orders_what_it_watches_and_what_all_must_know(hub):
    """And nothing of its neighbours."""
    mine, other = subscriber(hub, "s", EUR), subscriber(hub, "t", AAPL)
    hub.record(submitted("r1", "s"))
    hub.record(fill())
    hub.record(ev.CommissionReported(at=AT, exec_id="0001.01", commission=D(2), currency="USD"))
    hub.record(ev.Tick(at=AT, instrument=EUR))
    hub.record(ev.Tick(at=AT, instrument=AAPL))
    hub.record(signal(Signal.SOCKET_UP))
    hub.record(fill("0009.01", ref="somebody else's"))
    assert kinds(await read(mine)) == ["Fill", "OrderChanged", "CommissionReported", "LinkChanged", "Tick"]
    assert kinds(await read(other)) == ["LinkChanged", "Tick"]


async def test_who_has_unsubscribed_reads_no_more(hub):
    """Also twice, and also in the middle of a delivery."""
    first, second = subscriber(hub, "s"), subscriber(hub, "t")
    hub.unsubscribe(first)
    hub.unsubscribe(first)
    hub.record(signal(Signal.SOCKET_UP))
    assert len(first.mailbox) == 0
    assert kinds(await read(second)) == ["LinkChanged"]


async def test_one_that_is_overrun_does_not_keep_the_others_from_reading(hub):
    """The mailbox that is full closes; the fact reaches everybody else."""
    told = []
    slow = Subscriber("slow", Mailbox(1, lambda: told.append("slow")))
    slow.mailbox.begin_reading()
    hub.subscribe(slow)
    quick = subscriber(hub, "quick")
    for what in (Signal.SOCKET_UP, Signal.SYNCED, Signal.UPSTREAM_LOST):
        hub.record(signal(what))
    assert told == ["slow"]
    assert [change.after for change in await read(quick)] == [Link.SYNCING, Link.READY, Link.CUT]


# --- the disk says no ------------------------------------------------------------------------------------------------


def test_a_decision_that_cannot_be_written_does_not_happen(hub, disk, seen):
    """No order in the book, nothing observed; and when the disk takes writes again, it can be made."""
    disk.is_full = True
    with pytest.raises(JournalError, match="No space left"):
        hub.commit(submitted())
    assert hub.book.orders == {}
    assert seen == []
    disk.is_full = False
    hub.commit(submitted())
    assert hub.book.orders["r1"].state is OrderState.PENDING


async def test_a_fact_that_cannot_be_written_is_a_fact(hub, disk, journal):
    """Applied and delivered at once; written later, in order, before anything newer."""
    strategy = subscriber(hub)
    hub.record(submitted())
    disk.is_full = True
    hub.record(sent())
    hub.record(fill("0001.01", quantity=40))
    hub.record(fill("0002.01", quantity=60))
    assert hub.book.orders["r1"].state is OrderState.FILLED
    assert kinds(await read(strategy)) == ["OrderChanged", "Fill", "OrderChanged", "Fill", "OrderChanged"]
    assert kinds(journal.replay()) == ["OrderSubmitted"]
    disk.is_full = False
    hub.record(signal(Signal.SOCKET_UP))
    assert kinds(journal.replay()) == [
        "OrderSubmitted",
        *("OrderSent", "OrderChanged", "Fill", "OrderChanged", "Fill", "OrderChanged"),
        *("LinkSignalled", "LinkChanged"),
    ]
    assert not hub.unsaved


def test_a_decision_waits_for_the_facts_before_it(hub, disk, monkeypatch, journal):
    """As long as one fact is unsaved no order is made, even if the disk would take that one."""
    disk.is_full = True
    hub.record(signal(Signal.SOCKET_UP))
    with pytest.raises(JournalError):
        hub.commit(submitted())
    disk.is_full = False
    disk.fills_up_after(monkeypatch, 1)  # it takes one of the two facts that wait
    with pytest.raises(JournalError):
        hub.commit(submitted())
    assert hub.book.orders == {}
    assert kinds(journal.replay()) == ["LinkSignalled"]
    assert kinds(hub.unsaved) == ["LinkChanged"]


def test_what_waits_for_the_disk_is_bounded(hub, disk, monkeypatch):
    """Beyond the bound the process stops: the broker tells it all again at the next start."""
    monkeypatch.setattr(hub_module, "UNSAVED_MAX", 10)
    disk.is_full = True

    def flood():
        for number in range(100):
            hub.record(ev.BrokerNotice(at=AT, code=number, text=""))

    with pytest.raises(UnsavedOverflow, match="10 facts"):
        flood()
    assert len(hub.unsaved) == 10


def test_a_journal_that_recovers_by_itself_is_complete_again(hub, disk, path, journal):
    """After the trouble a new process reads the same state."""
    hub.record(submitted())
    disk.is_full = True
    hub.record(sent())
    hub.record(fill())
    disk.is_full = False
    hub.record(status())
    journal.close()
    again = Journal(path)
    recovered = Hub(again)
    recovered.recover()
    assert recovered.book.orders == hub.book.orders
    assert recovered.book.ledger == hub.book.ledger
    again.close()


# --- recovery --------------------------------------------------------------------------------------------------------


def history():
    """A day: two orders, fills, a correction, statuses, a look."""
    return [
        ev.ServiceStarted(at=AT, run_id="a", mode="simulated", version="0"),
        signal(Signal.SOCKET_UP),
        ev.SessionOpened(at=AT, session=1, server_version=176, client_id=1, accounts=("DU1",), account="DU1"),
        ev.PositionReported(
            at=AT, session=1, account="DU1", con_id=8, instrument=AAPL, quantity=D(5), average_cost=D(1)
        ),
        look(positions=(("DU1", 8, D(5)),)),
        signal(Signal.SYNCED),
        submitted("r1"),
        sent("r1"),
        status(),
        fill("0001.01", quantity=40),
        fill("0001.02", quantity=30),
        ev.CancelRequested(at=AT, ref="r1", by="s"),
        status("Cancelled"),
        submitted("r2"),
        sent("r2"),
        look(positions=(("DU1", 8, D(5)), ("DU1", 7, D(30))), minutes=1),
        look(positions=(("DU1", 8, D(5)), ("DU1", 7, D(30))), minutes=2),
        signal(Signal.SOCKET_DOWN),
    ]


def look(positions=(), minutes=0):
    """A verified look that finds no order."""
    at = AT + timedelta(minutes=minutes)
    return ev.Snapshot(
        at=at,
        session=1,
        asked_at=at,
        accounts=("DU1",),
        positions=positions,
        open_refs=(),
        completed=(),
        orders_visible=True,
    )


def test_a_new_process_has_the_state_of_the_old_one(hub, path, journal):
    """Orders, ledger, positions, marks; but not the line, which is another one."""
    for event in history():
        hub.record(event)
    journal.close()
    again = Journal(path)
    lines = list(again.export())
    recovered = Hub(again)
    recovered.recover()
    for what in ("orders", "ledger", "positions", "order_id_mark", "session", "last_run_id", "fills", "account"):
        assert getattr(recovered.book, what) == getattr(hub.book, what), what
    assert recovered.book.link is Link.DOWN
    assert list(again.export()) == lines, "a sound journal is not added to by reading it"
    again.close()


def test_a_journal_torn_anywhere_is_completed(hub, tmp_path, journal):
    """Cut after any row, as a crash does: a recovery writes what followed from the last cause, and nothing twice."""
    for event in history():
        hub.record(event)
    facts = list(journal.replay())
    for length in range(len(facts) + 1):
        torn = Journal(tmp_path / f"torn{length}")
        for fact in facts[:length]:
            torn.append(fact)
        recovered = Hub(torn)
        recovered.recover()
        completed = list(torn.replay())
        assert completed == facts[: len(completed)], f"cut after {length}"
        missing = facts[length : len(completed)]
        assert set(kinds(missing)) <= {"OrderChanged", "OrderResolved", "PositionAdjusted", "PositionReported"}
        follows = facts[len(completed)] if len(completed) < len(facts) else None
        # Link facts of an old process are not owed: they say nothing about this one.
        assert not isinstance(follows, (ev.OrderChanged, ev.OrderResolved, ev.PositionAdjusted)), f"cut after {length}"
        torn.close()


def test_recovering_twice_writes_nothing_twice(hub, tmp_path, journal):
    """A crash during the recovery is a torn journal like any other."""
    hub.record(submitted())
    hub.record(fill())
    facts = list(journal.replay())[:-1]
    torn = Journal(tmp_path / "torn")
    for fact in facts:
        torn.append(fact)
    for _ in range(3):
        Hub(torn).recover()
    assert kinds(torn.replay()) == ["OrderSubmitted", "Fill", "OrderChanged"]
    torn.close()
