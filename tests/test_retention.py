"""What is removed from a journal of years, and that what is left folds into the same book.

Method: the lives of `tests/test_snapshots.py`, pruned at any moment of them; and a service in virtual time that prunes
by itself while it trades.
"""

from __future__ import annotations

import sqlite3
import tempfile
from contextlib import closing
from datetime import timedelta

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ibkr_service.core.errors import JournalError
from ibkr_service.core.orders import OrderState
from ibkr_service.hub import Hub
from ibkr_service.journal import Journal
from ibkr_service.retention import OF_A_CLOSED_ORDER, OF_THE_PAST, Pruning
from tests.test_cli_journal import Later, path, types
from tests.test_schema import OLD
from tests.test_snapshots import STEPS, Life, folded, replayed

__all__ = ["Later", "path", "types"]  # fixtures

# The server's last words on orders that are over serve to recognise repetitions within a day, and are let go; what was
# seen of strangers, and of differences, the next look says anew.
LET_GO = frozenset({"_last_status", "_last_terms", "foreign_orders", "_differences", "_looked_twice", "_verified_at"})


def remembered(book):
    """What a book must know for ever, however it was folded."""
    found = {name: value for name, value in folded(book).items() if name not in LET_GO}
    found["_alive"] = list(found["_alive"])
    found["working"] = vars(book.working)
    return found


def prune(journal, book, before, upto=None):
    pruning = Pruning(journal, book, before=before, upto=journal.seq if upto is None else upto)
    for _ in pruning.steps():
        pass
    return pruning


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(steps=STEPS, share=st.floats(0, 1), done=st.integers(0, 40))
def test_what_is_left_folds_into_the_same_book(steps, share, done):
    """Pruned at any moment, wholly or until a kill in the middle, once or twice: orders, keys, fills, ledger."""
    with tempfile.TemporaryDirectory() as folder:
        life = Life(folder)
        for what, order, value in steps:
            life.act(what, order, value)
        before = life.at - (1 - share) * (life.at - AT_FIRST) + timedelta(microseconds=1)
        life.journal.close()
        with closing(Journal(life.path)) as journal:
            hub = Hub(journal)
            hub.recover()
            whole = remembered(replayed(journal))
            pruning = Pruning(journal, hub.book, before=before, upto=journal.seq)
            for _, _ in zip(pruning.steps(), range(done), strict=False):
                pass
            assert remembered(replayed(journal)) == whole, "after a part of it"
            prune(journal, hub.book, before)
            assert remembered(replayed(journal)) == whole
            assert prune(journal, hub.book, before).removed == 0, "nothing is left to do"


AT_FIRST = Life.__init__.__globals__["AT"]


@pytest.fixture
def old(tmp_path):
    """A journal with five orders, and its book."""
    file = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(file)) as database:
        database.executescript(OLD.read_text())
    journal = Journal(file)
    hub = Hub(journal)
    hub.recover()
    yield hub
    journal.close()


def kinds(journal):
    return {kind for (kind,) in journal._db.execute("SELECT DISTINCT kind FROM journal")}


def test_the_chatter_goes_and_the_record_stays(old):
    """Of finished orders: submission, executions, costs, end. Of the one that works: everything."""
    journal = old._journal
    views = {name: journal._db.execute(f"SELECT * FROM {name}").fetchall() for name in ("orders", "fills")}
    pruning = prune(journal, old.book, Later().now())
    assert (pruning.closed, pruning.removed) == (4, 49)
    assert not kinds(journal) & OF_THE_PAST
    left = journal._db.execute("SELECT ref, kind FROM journal WHERE ref IS NOT NULL").fetchall()
    working = next(order.ref for order in old.book.orders.values() if order.state is OrderState.WORKING)
    assert not {kind for ref, kind in left if ref != working} & OF_A_CLOSED_ORDER
    assert {kind for ref, kind in left if ref == working} == {
        "OrderSubmitted",
        "OrderSent",
        "OpenOrderReported",
        "OrderStatusReported",
        "OrderChanged",
    }
    assert {name: journal._db.execute(f"SELECT * FROM {name}").fetchall() for name in views} == views


def test_what_is_young_or_not_in_the_snapshot_stays(old):
    """The moment counts, and the number of the last fact that may be touched."""
    journal = old._journal
    facts = list(journal.replay())
    assert prune(journal, old.book, facts[0].at).removed == 0
    assert prune(journal, old.book, Later().now(), upto=0).removed == 0
    assert list(journal.replay()) == facts
    young = facts[40].at
    prune(journal, old.book, young)
    assert [fact for fact in journal.replay() if fact.at >= young] == [fact for fact in facts if fact.at >= young]


def test_the_last_looks_stay(old):
    """What differs from the broker for the second time is decided by them."""
    looks = [fact for fact in old._journal.replay() if type(fact).__name__ == "Snapshot"]
    prune(old._journal, old.book, Later().now())
    assert [fact for fact in old._journal.replay() if type(fact).__name__ == "Snapshot"] == looks[-2:]


def test_on_the_command_line(path, types):
    """With the service stopped; the file is smaller, and says the same."""
    before = types("orders --csv"), types("fills --csv")
    said = types("journal prune --before 2026-11-21")
    assert said.startswith("49 facts removed, 4 orders closed; ")
    assert (types("orders --csv"), types("fills --csv")) == before
    assert types("journal prune --before 2026-11-21").startswith("0 facts removed, 0 orders closed; ")


def test_on_the_command_line_what_makes_no_sense_is_refused(path, types):
    """One line, exit code 2."""
    assert "name an earlier date" in types("journal prune --before 2026-11-23", code=2)
    assert "cannot read the moment" in types("journal prune --before yesterday", code=2)
    assert "there is no journal" in types("journal prune --before 2026-11-21 --journal none.sqlite", code=2)
    with closing(Journal(path)):
        assert "in use by another ibkr_service" in types("journal prune --before 2026-11-21", code=2)


def test_a_step_that_the_disk_refuses_is_told(old, monkeypatch):
    """What was done before it holds; the next time does the rest."""

    def refuse(_journal, *_steps):
        raise JournalError("the disk is full")

    with monkeypatch.context() as full:
        full.setattr(Journal, "_change", refuse)
        with pytest.raises(JournalError):
            prune(old._journal, old.book, Later().now())
    assert prune(old._journal, old.book, Later().now()).closed == 4
