"""The journal's log is moved into its file on a thread, and nothing is lost or delayed by it."""

from __future__ import annotations

import sqlite3
import threading
from datetime import UTC, datetime

import pytest

from ibkr_service import checkpoints as module
from ibkr_service.checkpoints import Checkpoints
from ibkr_service.core import events as ev
from ibkr_service.journal import Journal

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
PAGE = 4096


@pytest.fixture
def journal(tmp_path):
    """The journal."""
    journal = Journal(tmp_path / "journal.sqlite")
    yield journal
    journal.close()


def write(journal, rows):
    """So many facts."""
    for code in range(rows):
        journal.append(ev.BrokerNotice(at=AT, code=code, text="x" * 400))


def log_bytes(journal):
    """How long its write-ahead log is."""
    return journal.path.with_name(f"{journal.path.name}-wal").stat().st_size


def test_a_checkpoint_moves_the_log_into_the_file(journal):
    """The file has all rows by itself, and the log begins anew instead of growing."""
    checkpoints = Checkpoints(journal)
    write(journal, 300)
    before = journal.path.stat().st_size
    assert checkpoints.make()
    assert journal.path.stat().st_size > before + 300 * 400
    length = log_bytes(journal)
    write(journal, 100)
    assert log_bytes(journal) == length
    assert sum(1 for _ in journal.replay()) == 400


def test_a_checkpoint_waits_for_nobody(journal):
    """Somebody is writing, and somebody reads: what can be moved is moved, and the rest stays in the log."""
    write(journal, 10)
    with sqlite3.connect(journal.path) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM journal").fetchone() == (10,)
        write(journal, 10)
        assert Checkpoints(journal).make()
        write(journal, 10)
        assert reader.execute("SELECT count(*) FROM journal").fetchone() == (10,)
    assert sum(1 for _ in journal.replay()) == 30


def test_the_thread_makes_one_when_it_is_worth_the_while(journal, monkeypatch):
    """Not before so many rows; and it ends with its block."""
    monkeypatch.setattr(module, "LOOK_S", 0.001)
    monkeypatch.setattr(module, "ROWS", 50)
    made = threading.Event()
    with Checkpoints(journal) as checkpoints:
        whole = checkpoints.make

        def make():
            found = whole()
            made.set()
            return found

        checkpoints.make = make
        write(journal, 49)
        assert checkpoints.made == 0
        write(journal, 1)
        assert made.wait(30)
        assert checkpoints.made == 1
    assert not checkpoints._thread.is_alive()


def test_a_log_that_nobody_shortens_is_bounded(journal):
    """SQLite's own way comes within a write, at the length that was set."""
    journal.checkpoint_at(50)
    write(journal, 1_000)
    assert log_bytes(journal) < 60 * (PAGE + 24)


def test_a_checkpoint_that_fails_is_said_and_nothing_else_happens(journal, monkeypatch):
    """The disk is full, say: facts are written as before."""

    def refuse(*_arguments, **_options):
        raise sqlite3.OperationalError("disk I/O error")

    checkpoints = Checkpoints(journal)
    with monkeypatch.context() as patched:
        patched.setattr(sqlite3, "connect", refuse)
        assert not checkpoints.make()
    assert checkpoints.made == 0
    write(journal, 3)
    assert sum(1 for _ in journal.replay()) == 3
