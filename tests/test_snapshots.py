"""A start from a snapshot ends with the book that replaying every fact gives; a snapshot is never believed blindly.

Method: hypothesis lives histories of a few orders through a real hub and journal, with snapshots cut, written whole, in
part or not at all, and compares the books. Then snapshots are damaged on purpose.
"""

from __future__ import annotations

import contextlib
import sqlite3
import tempfile
import typing
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ibkr_service import snapshots as snapshots_module
from ibkr_service.core import events as ev
from ibkr_service.core import link as links
from ibkr_service.core.book import Book
from ibkr_service.core.errors import JournalError
from ibkr_service.core.instrument import Bag, Forex, Option, Other, Stock
from ibkr_service.core.orders import Intent
from ibkr_service.core.refs import Ref, digest
from ibkr_service.core.shelf import Shelf
from ibkr_service.hub import Hub
from ibkr_service.journal import Journal
from ibkr_service.snapshots import HEAD, kept

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
ACCOUNT = "DU1234567"
INSTRUMENTS = (
    Stock("AAPL", primary_exchange="NASDAQ"),
    Forex("EUR", "USD"),
    Option("SPX", "20261218", 5000.5, "P", trading_class="SPXW"),
)
ANY = (*INSTRUMENTS, Bag("AAPL", "USD", ((1, 1, "BUY"), (2, 2, "SELL"))), Other("BOND", "T", "USD", 99))


def folded(book):
    """Everything a book has learned that outlives a session."""
    return {
        name: dict(getattr(book, name)) if isinstance(getattr(book, name), Shelf) else getattr(book, name)
        for name, _ in kept()
    }


def orders_of_keys(book):
    """The order in which mappings hold their keys decides in which order facts are journalled."""
    return {name: list(value) for name, value in folded(book).items() if isinstance(value, Mapping)}


def replayed(journal):
    """The book that all facts give."""
    journal.drop_parts()
    hub = Hub(journal)
    hub.recover()
    return hub.book


# --- histories -------------------------------------------------------------------------------------------------------


class Life:
    """A service's days with three orders and more, told by the facts; each step may be anything the broker says."""

    def __init__(self, folder):
        self.path = Path(folder) / "journal.sqlite"
        self.at = AT
        self.number = 0
        self.journal = Journal(self.path)
        self.hub = Hub(self.journal)
        self.record(ev.ServiceStarted(at=self.at, run_id="1", mode="paper", version="0"))

    def record(self, event):
        self.hub.record(event)

    def restart(self):
        """As after a kill: nothing is written any more."""
        self.journal.close()
        self.journal = Journal(self.path)
        self.hub = Hub(self.journal)
        self.hub.recover()

    def ref(self, number):
        return str(Ref("1-1", number, "s", digest("s", f"k{number}")))

    def act(self, what, order, value):
        self.at += timedelta(seconds=7 + 40_000 * (value == 9))
        getattr(self, f"_{what}")(order, value)

    def _submit(self, order, value):
        self.number += 1
        intent = Intent(
            instrument=INSTRUMENTS[value % len(INSTRUMENTS)],
            action="BUY" if value % 2 else "SELL",
            quantity=D(10),
            order_type="LMT",
            limit_price=D("1.10"),
        )
        ref = self.ref(self.number)
        self.hub.commit(
            ev.OrderSubmitted(at=self.at, ref=ref, key=f"k{self.number}", strategy="s", account=ACCOUNT, intent=intent)
        )
        self.record(ev.OrderSent(at=self.at, session=1, ref=ref, order_id=self.number))

    def _status(self, order, value):
        words = ("Submitted", "PreSubmitted", "Cancelled", "Inactive", "Filled", "Nonsense")
        self.record(
            ev.OrderStatusReported(
                at=self.at,
                session=1,
                ref=self.ref(order),
                order_id=order,
                client_id=1,
                perm_id=100 + order,
                status=words[value % len(words)],
                filled=D(value),
                remaining=D(10 - value),
            )
        )

    def _open(self, order, value):
        ours = value < 7
        self.record(
            ev.OpenOrderReported(
                at=self.at,
                session=1,
                ref=self.ref(order) if ours else "",
                order_id=order,
                client_id=1,
                perm_id=100 + order if ours else 900,
                account=ACCOUNT,
                instrument=ANY[value % len(ANY)],
                action="BUY",
                quantity=D(10 + value),
                order_type="LMT",
                status="Submitted",
                limit_price=D("1.1") + D(value) / 100,
                tif="DAY",
            )
        )

    def _fill(self, order, value):
        self.record(
            ev.Fill(
                at=self.at,
                session=1,
                exec_id=f"0001.{order:02}.0{value % 4}.0{value % 2 + 1}",
                ref=self.ref(order) if value % 3 else "",
                account=ACCOUNT,
                con_id=value % 3,
                instrument=ANY[value % len(ANY)],
                action="BUY" if order % 2 else "SELL",
                quantity=D(value % 5 + 1),
                price=D("1.1000"),
                executed_at=self.at,
                perm_id=100 + order,
                order_id=order,
                client_id=1,
            )
        )
        self.record(
            ev.CommissionReported(
                at=self.at, exec_id=f"0001.{order:02}.0{value % 4}.01", commission=D(value), currency="USD"
            )
        )

    def _error(self, order, value):
        meaning = ("rejected", "doubtful", "cancelled", "notice")[value % 4]
        self.record(ev.OrderErrored(at=self.at, session=1, ref=self.ref(order), code=201, text="no", meaning=meaning))

    def _cancel(self, order, value):
        self.record(ev.CancelRequested(at=self.at, ref=self.ref(order), by="test"))

    def _modify(self, order, value):
        if (known := self.hub.book.orders.get(self.ref(order))) is not None:
            intent = msgspec.structs.replace(known.intent, quantity=D(20 + value))
            self.hub.commit(ev.ModificationRequested(at=self.at, ref=known.ref, intent=intent))

    def _position(self, order, value):
        self.record(
            ev.PositionReported(
                at=self.at,
                session=1,
                account=ACCOUNT,
                con_id=value % 3,
                instrument=ANY[value % len(ANY)],
                quantity=D(value - 4),
                average_cost=None if value % 2 else D("12.5"),
            )
        )

    def _session(self, order, value):
        self.record(
            ev.SessionOpened(
                at=self.at, session=value, server_version=176, client_id=1, accounts=(ACCOUNT,), account=ACCOUNT
            )
        )

    def _line(self, order, value):
        signals = list(links.TRANSITIONS[self.hub.book.link])
        signal = signals[value % len(signals)]
        self.record(ev.LinkSignalled(at=self.at, session=1, signal=signal, why="test"))
        self.record(ev.FarmChanged(at=self.at, session=1, farm="usfarm", up=bool(value % 2), code=2103))

    def _look(self, order, value):
        held = tuple((p.account, p.con_id, p.quantity + value // 8) for p in self.hub.book.positions.values())
        self.record(
            ev.Snapshot(
                at=self.at,
                session=1,
                asked_at=self.at - timedelta(seconds=3),
                accounts=(ACCOUNT,),
                positions=held,
                open_refs=(self.ref(order),),
                open_perm_ids=(100 + order,),
                completed=((self.ref(value), "Cancelled"),),
                orders_visible=bool(value % 4),
            )
        )

    def _cut(self, order, value):
        self.hub.snapshots.cut()

    def _write(self, order, value):
        for _ in range(value):
            self.hub.snapshots.step()

    def _finish(self, order, value):
        self.hub.snapshots.finish()

    def _restart(self, order, value):
        self.restart()


ACTS = [name.removeprefix("_") for name in vars(Life) if name.startswith("_") and not name.startswith("__")]
STEPS = st.lists(st.tuples(st.sampled_from(["submit", *ACTS]), st.integers(1, 6), st.integers(0, 9)), max_size=60)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS)
def test_a_snapshot_and_what_followed_it_are_the_whole_history(steps):
    """Whatever happened, however often it was killed: the same book, in the same order, and nothing owed twice."""
    with tempfile.TemporaryDirectory() as folder:
        life = Life(folder)
        for what, order, value in steps:
            life.act(what, order, value)
        life.journal.close()
        journal = Journal(life.path)
        hub = Hub(journal)
        hub.recover()
        facts, whole = list(journal.replay()), replayed(journal)
        assert folded(hub.book) == folded(whole)
        assert orders_of_keys(hub.book) == orders_of_keys(whole)
        assert vars(hub.book.working) == vars(whole.working)
        assert list(journal.replay()) == facts, "the second replay found nothing owed"
        journal.close()


# --- nothing is left out ---------------------------------------------------------------------------------------------


def test_every_field_of_a_book_is_in_a_snapshot_or_of_the_session():
    """A field that is added later is packed by its type; one that msgspec cannot read back fails here."""
    for name, kind in kept():
        if typing.get_origin(kind) is Shelf:
            key, value = typing.get_args(kind)
            msgspec.msgpack.Decoder(dict[key, value])
        else:
            msgspec.msgpack.Decoder(kind)
            assert "object" not in str(kind), f"{name}: what was an object comes back as something else"
    names = {field.name for field in msgspec.structs.fields(Book)}
    others = Book.OF_THE_SESSION | Book.DERIVED | Book.SETTINGS
    assert names > others
    assert {name for name, _ in kept()} == names - others


def test_a_book_has_no_room_for_what_no_snapshot_knows():
    """An attribute that is not a declared field cannot even be set."""
    with pytest.raises(AttributeError):
        Book().forgotten = 1


# --- a snapshot is not believed blindly ------------------------------------------------------------------------------


@pytest.fixture
def life(tmp_path):
    """Some orders, one filled, with a snapshot of it, and a fact that came later."""
    life = Life(tmp_path)
    for what, order, value in [("session", 0, 1), ("submit", 1, 1), ("submit", 2, 2), ("fill", 1, 4), ("status", 2, 0)]:
        life.act(what, order, value)
    life.hub.snapshots.finish()
    life.act("status", 2, 2)
    yield life
    life.journal.close()


def recovered(life):
    """The book after a restart, and the fact that it continued after."""
    life.restart()
    return folded(life.hub.book), life.hub.snapshots.seq


def test_a_start_continues_where_the_snapshot_ends(life, monkeypatch):
    """Only the facts after it are read."""
    before, asked = folded(life.hub.book), []
    replay = Journal.replay
    monkeypatch.setattr(Journal, "replay", lambda journal, after=0: asked.append(after) or replay(journal, after))
    assert recovered(life) == (before, asked[0])
    assert asked[0] > 5


@pytest.mark.parametrize(
    "sql",
    [
        "UPDATE snapshot SET body = x'c1'",
        "UPDATE snapshot SET body = substr(body, 2) WHERE part = 'orders'",
        "UPDATE snapshot SET body = 'text' WHERE part = 'orders'",
        "UPDATE snapshot SET crc = crc + 1",
        "UPDATE snapshot SET part = 'link' WHERE part = 'orders'",
        "UPDATE snapshot SET part = 'nonsense' WHERE part = 'orders'",
        "DELETE FROM snapshot WHERE part = 'head'",
        "DELETE FROM snapshot WHERE part = 'orders'",
        "DELETE FROM journal WHERE seq > 3",
    ],
)
def test_a_snapshot_that_cannot_be_right_is_not_used(life, sql):
    """Then all facts are replayed; and the next snapshot is a whole one again."""
    life.journal._db.execute(sql)
    life.restart()
    facts = Hub(life.journal)
    for event in life.journal.replay():
        facts.book.apply(event)
    assert life.hub.snapshots.seq == 0
    assert folded(life.hub.book) == folded(facts.book)
    life.hub.snapshots.finish()
    assert recovered(life) == (folded(facts.book), life.journal.seq)


def test_what_the_process_was_told_outlives_a_snapshot_that_is_not_used(life):
    """Only what was folded is forgotten."""
    life.journal._db.execute("UPDATE snapshot SET crc = crc + 1")
    hub = Hub(life.journal)
    hub.book.absent_after_s = 7.5
    hub.recover()
    assert (hub.snapshots.seq, hub.book.absent_after_s) == (0, 7.5)


def test_a_snapshot_of_other_code_is_not_used(life, monkeypatch):
    """After an upgrade the facts are folded anew, as the new code understands them."""
    before = folded(life.hub.book)
    monkeypatch.setattr(snapshots_module, "fingerprint", lambda: "another version")
    assert recovered(life) == (before, 0)
    life.hub.snapshots.finish()
    assert recovered(life) == (before, life.journal.seq)
    monkeypatch.undo()
    assert recovered(life) == (before, 0)


def test_without_its_source_the_code_trusts_no_snapshot(life, monkeypatch):
    """It cannot tell itself from another version."""
    before = folded(life.hub.book)
    monkeypatch.setattr(snapshots_module, "fingerprint", lambda: "")
    life.hub.snapshots.finish()
    assert recovered(life) == (before, 0)


def test_a_snapshot_that_was_not_finished_is_none(life):
    """A kill between its parts: the one before it holds, and its remains are not taken for parts of the next."""
    seq = life.hub.snapshots.seq
    life.act("submit", 3, 3)
    life.hub.snapshots.cut()
    for _ in range(3):
        assert life.hub.snapshots.step()
    before = folded(life.hub.book)
    assert recovered(life) == (before, seq)
    life.act("submit", 4, 4)
    life.hub.snapshots.finish()
    after = folded(life.hub.book)
    assert recovered(life) == (after, life.journal.seq)
    assert life.journal._db.execute("SELECT count(*) FROM snapshot WHERE part = ?", (HEAD,)).fetchone() == (1,)


def test_a_part_that_the_disk_refuses_is_written_later(life, monkeypatch):
    """Nothing of a snapshot is lost between two tries, whatever happened meanwhile."""
    change, refused = Journal._change, []

    def refuse(journal, *steps):
        refused.append(steps)
        raise JournalError("the disk is full")

    life.hub.snapshots.cut()
    while True:
        monkeypatch.setattr(Journal, "_change", refuse)
        with contextlib.suppress(JournalError):  # a step that finds nothing new to write succeeds
            life.hub.snapshots.step()
        monkeypatch.setattr(Journal, "_change", change)
        if not life.hub.snapshots.step():
            break
        life.act("submit", 0, 5)
    assert len(refused) >= 2, "a part and the head"
    before = folded(life.hub.book)
    assert recovered(life)[0] == before
    assert life.hub.snapshots.seq > 5


def test_a_fact_between_cut_and_head_is_replayed(life):
    """The cut is what counts, not the moment at which it was written."""
    life.hub.snapshots.cut()
    at = life.journal.seq
    life.act("fill", 2, 4)
    while life.hub.snapshots.step():
        life.act("status", 1, 5)
    before = folded(life.hub.book)
    assert recovered(life) == (before, at)


def test_the_head_alone_is_replaced(life):
    """What did not change is not written again."""
    life.hub.snapshots.finish()
    rows = life.journal._db.execute("SELECT count(*) FROM snapshot").fetchone()
    life.act("line", 0, 1)
    life.hub.snapshots.finish()
    assert life.journal._db.execute("SELECT count(*) FROM snapshot").fetchone() == rows


def test_a_look_from_outside_sees_facts_only(life, tmp_path):
    """The canonical form of a journal does not know of snapshots."""
    lines = list(life.journal.export())
    life.hub.snapshots.finish()
    assert list(life.journal.export()) == lines
    with contextlib.closing(sqlite3.connect(life.path)) as database:
        assert database.execute("SELECT count(*) FROM journal").fetchone() == (len(lines),)
