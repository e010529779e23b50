"""The file beside the journal: a decision stands in it before it is acted upon, and becomes a row afterwards.

Goal: a kill at any moment loses no order that may have left, and invents none. Method: a real journal whose files are
copied while it is open, which is what a killed process leaves behind; the copy is opened as the next process does.
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import stat
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ibkr_service import ahead
from ibkr_service.core import events as ev
from ibkr_service.core.errors import JournalError
from ibkr_service.core.instrument import Stock
from ibkr_service.core.orders import Intent
from ibkr_service.journal import Journal, open_readonly

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
AAPL = Stock("AAPL")


def order(number):
    """A decision."""
    intent = Intent(instrument=AAPL, action="BUY", quantity=D(number))
    return ev.OrderSubmitted(at=AT, ref=f"r{number}", key=f"k{number}", strategy="s", account="DU1", intent=intent)


def fact(number):
    """What happened."""
    return ev.OrderSent(at=AT + timedelta(seconds=number), session=1, ref=f"r{number}", order_id=number)


@pytest.fixture
def journal(tmp_path):
    """An open one."""
    opened = Journal(tmp_path / "journal.sqlite")
    yield opened
    opened.close()


def rows(journal):
    """What others see in the file."""
    database = open_readonly(journal.path)
    try:
        return [seq for (seq,) in database.execute("SELECT seq FROM journal ORDER BY seq")]
    finally:
        database.close()


def killed(journal, folder):
    """What the next process finds when this one is killed now: all facts, in order."""
    folder.mkdir()
    for file in journal.path.parent.iterdir():
        if file.is_file() and not file.name.endswith(("-shm", ".lock")):
            shutil.copy(file, folder / file.name)
    successor = Journal(folder / journal.path.name)
    try:
        return list(successor.replay())
    finally:
        successor.close()


def test_a_decision_is_a_row_before_the_next_fact_is(journal, tmp_path):
    """It is there for a successor at once, and for a reader of the file with what follows."""
    journal.append(fact(1))
    journal.append_ahead(order(2))
    assert (journal.seq, rows(journal)) == (2, [1])
    assert killed(journal, tmp_path / "one") == [fact(1), order(2)]
    journal.append(fact(2))
    assert rows(journal) == [1, 2, 3]
    assert killed(journal, tmp_path / "two") == [fact(1), order(2), fact(2)]


def test_whoever_reads_the_whole_journal_finds_it(journal):
    """Replay and export settle first."""
    journal.append_ahead(order(1))
    assert list(journal.replay()) == [order(1)]
    journal.append_ahead(order(2))
    assert len(list(journal.export())) == 2
    journal.append_ahead(order(3))
    journal.append_all([order(4), order(5)])
    assert list(journal.replay()) == [order(number) for number in range(1, 6)]


def test_closing_makes_it_a_row(tmp_path):
    """And the file beside is not needed any more."""
    journal = Journal(tmp_path / "journal.sqlite")
    journal.append_ahead(order(1))
    journal.close()
    journal.close()
    assert rows(journal) == [1]
    assert not journal.path.with_name("journal.sqlite-ahead").exists()


def test_a_journal_that_is_closed_takes_no_decision(tmp_path):
    """The same error as from the database: nothing may leave."""
    journal = Journal(tmp_path / "journal.sqlite")
    journal.close()
    with pytest.raises(JournalError, match="cannot be written"):
        journal.append_ahead(order(1))


def test_a_disk_that_refuses_to_the_end_leaves_the_line_for_the_next_start(tmp_path, monkeypatch):
    """The process ends in order, and the order is not lost."""

    def full(_row):
        raise sqlite3.OperationalError("database or disk is full")

    journal = Journal(tmp_path / "journal.sqlite")
    journal.append_ahead(order(1))
    monkeypatch.setattr(journal, "_write", full)
    journal.close()
    assert rows(journal) == []
    successor = Journal(journal.path)
    assert list(successor.replay()) == [order(1)]
    successor.close()


def test_an_entry_that_was_not_written_to_its_end_is_none(journal, tmp_path):
    """A kill in the middle: nothing had left."""
    journal.append(fact(1))
    journal.append_ahead(order(2))
    beside = tmp_path / "journal.sqlite-ahead"
    whole = beside.read_bytes()
    end = len(whole.rstrip(b"\0"))
    for cut in range(ahead.HEAD.size, end + ahead.HEAD.size):  # the body is written first, then the head
        folder = tmp_path / f"cut{cut}"
        head = whole[: max(0, cut - end)]
        beside.write_bytes(
            head.ljust(ahead.HEAD.size, b"\0") + whole[ahead.HEAD.size : cut].ljust(len(whole) - ahead.HEAD.size, b"\0")
        )
        if cut % 40 == 0:  # opening one takes some milliseconds
            assert killed(journal, folder) == [fact(1)]
        assert list(ahead.lines(journal.path, 1)) == []
    beside.write_bytes(whole)
    assert len(list(ahead.lines(journal.path, 1))) == 1


def test_a_file_of_another_journal_says_nothing(tmp_path):
    """The journal was moved away, the file beside it was forgotten."""
    old = Journal(tmp_path / "journal.sqlite")
    for number in range(1, 4):
        old.append(fact(number))
    old.append_ahead(order(4))
    shutil.copy(f"{old.path}-ahead", tmp_path / "other.sqlite-ahead")
    old.close()
    fresh = Journal(tmp_path / "other.sqlite")
    assert list(fresh.replay()) == []
    fresh.append(fact(1))
    fresh.close()
    assert list(ahead.lines(fresh.path, 3)) == [], "nothing of the other one is left"


def test_what_was_written_over_does_not_come_back(journal, tmp_path):
    """A short line over a long one; the rest of the long one is no line."""
    journal.append_ahead(order(10**20))
    journal.append(fact(1))
    journal.append_ahead(order(1))
    assert killed(journal, tmp_path / "copy") == [order(10**20), fact(1), order(1)]


def test_a_disk_that_refuses_the_row_keeps_the_line(journal, tmp_path, monkeypatch):
    """The fact after it is refused as well; both are written when the disk takes them, each once."""

    def full(_row):
        raise sqlite3.OperationalError("database or disk is full")

    journal.append_ahead(order(1))
    with monkeypatch.context() as disk:
        disk.setattr(journal, "_write", full)
        with pytest.raises(JournalError, match="full"):
            journal.append(fact(1))
        with pytest.raises(JournalError, match="full"):
            journal.settle()
        assert killed(journal, tmp_path / "copy") == [order(1)]
    journal.append(fact(1))
    assert list(journal.replay()) == [order(1), fact(1)]


def test_too_many_that_wait_are_refused(journal, monkeypatch):
    """No room for a line is a disk that says no."""
    monkeypatch.setattr(ahead, "SIZE", 900)
    journal.append_ahead(order(1))
    with pytest.raises(JournalError, match="No space left"):
        journal.append_ahead(order(2))
    journal.append(fact(1))
    journal.append_ahead(order(2))
    assert list(journal.replay()) == [order(1), fact(1), order(2)]


def test_no_room_for_the_file_is_told_at_the_start(tmp_path, monkeypatch):
    """It is reserved beforehand, so that it cannot be missing later."""
    write = os.pwrite
    monkeypatch.setattr(os, "pwrite", lambda file, content, at: write(file, content[:1000], at))
    with pytest.raises(JournalError, match="No space left"):
        Journal(tmp_path / "journal.sqlite")


def test_it_is_the_owners_alone(journal):
    """As the journal itself."""
    assert stat.S_IMODE(journal.path.with_name("journal.sqlite-ahead").stat().st_mode) == 0o600


def test_power_needs_the_disk(tmp_path):
    """A mapped page does not survive the machine: with that durability a decision is a row at once."""
    journal = Journal(tmp_path / "journal.sqlite", "power")
    journal.append_ahead(order(1))
    assert rows(journal) == [1]
    journal.close()


def test_beginning_anew_forgets_it(tmp_path):
    """With all the rest."""
    journal = Journal(tmp_path / "journal.sqlite")
    journal.append_ahead(order(1))
    kept = (tmp_path / "journal.sqlite-ahead").read_bytes()
    journal.close()
    (tmp_path / "journal.sqlite-ahead").write_bytes(kept)
    fresh = Journal(tmp_path / "journal.sqlite", fresh=True)
    assert list(fresh.replay()) == []
    fresh.close()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(st.sampled_from(["ahead", "fact", "both", "kill", "settle"]), max_size=12))
def test_any_history_is_what_a_successor_finds(tmp_path_factory, steps):
    """Whatever the order of decisions, facts and kills."""
    folder = tmp_path_factory.mktemp("history")
    journal, told = Journal(folder / "journal.sqlite"), []
    for number, step in enumerate(steps, 1):
        match step:
            case "ahead":
                journal.append_ahead(order(number))
                told.append(order(number))
            case "fact":
                journal.append(fact(number))
                told.append(fact(number))
            case "both":
                both = [order(number), order(number + 1000)]
                journal.append_all(both)
                told += both
            case "settle":
                journal.settle()
            case "kill":
                assert killed(journal, folder / f"copy{number}") == told
    assert list(journal.replay()) == told
    journal.close()
