"""The memory that survives: append-only, owner-only, and never silently wrong.

A file that is not a sound journal of this version is refused with words that help; what was committed is there again.
"""

from __future__ import annotations

import json
import sqlite3
import stat
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal as D

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service import journal as journal_module
from ibkr_service.core import events as ev
from ibkr_service.core.errors import JournalError, ServiceError
from ibkr_service.core.instrument import Bag, Forex, Future, FutureOption, Index, Option, Other, Stock
from ibkr_service.core.link import Signal
from ibkr_service.core.orders import Intent
from ibkr_service.journal import SCHEMA_VERSION, Journal, export, open_readonly

AT = datetime(2026, 11, 23, 15, 0, 0, 123456, tzinfo=UTC)
EUR = Forex("EUR", "USD")


def submitted(ref="r1", key="k", **changes):
    """An order of ours."""
    intent = Intent(instrument=EUR, action="BUY", quantity=D(1000), order_type="LMT", limit_price=D("1.10"), **changes)
    return ev.OrderSubmitted(at=AT, ref=ref, key=key, strategy="s", account="DU1", intent=intent)


def fill(instrument=EUR, quantity="0.1", price="1.00000001"):
    """An execution."""
    return ev.Fill(
        at=AT,
        session=3,
        exec_id="0001.01.01",
        ref="r1",
        account="DU1",
        con_id=1,
        instrument=instrument,
        action="SELL",
        quantity=D(quantity),
        price=D(price),
        executed_at=AT,
        perm_id=7,
        order_id=2,
        client_id=1,
    )


FACTS = [
    submitted(),
    ev.LinkSignalled(at=AT, session=1, signal=Signal.UPSTREAM_LOST, why='a "quoted" text\nof two lines ✓', code=1100),
    fill(),
    fill(Stock("BRK B", primary_exchange="NYSE")),
    fill(Option("SPX", "20261218", 5000.5, "P", trading_class="SPXW")),
    fill(Future("ES", "202612", "CME")),
    fill(Index("SPX", "CBOE")),
    fill(Bag("AAPL", "USD", ((1, 1, "BUY"), (2, 2, "SELL")))),
    fill(Other("BOND", "T", "USD", 99, "T 4 5/8")),
    ev.Snapshot(
        at=AT,
        asked_at=AT,
        accounts=("DU1",),
        positions=(("DU1", 1, D("-0.5")),),
        open_refs=("r1",),
        completed=(("r2", "Filled"),),
        orders_visible=True,
    ),
]


@pytest.fixture
def path(tmp_path):
    """Where a journal will be."""
    return tmp_path / "deep" / "journal.sqlite"


@pytest.fixture
def journal(path):
    """An open, empty journal."""
    journal = Journal(path)
    yield journal
    journal.close()


# --- what is written is read -----------------------------------------------------------------------------------------


def test_facts_come_back_as_they_were(journal, path):
    """Every kind of instrument, Decimals to the digit, times to the microsecond, in order."""
    for fact in FACTS:
        journal.append(fact)
    journal.close()
    again = Journal(path)
    assert list(again.replay()) == FACTS
    assert str(FACTS[2].price) == str(next(e for e in again.replay() if isinstance(e, ev.Fill)).price)
    again.close()


def test_numbering_goes_on_where_it_ended(journal, path):
    """Rows of two runs have one sequence."""
    journal.append(FACTS[0])
    journal.close()
    again = Journal(path)
    again.append(FACTS[1])
    assert [json.loads(line)["seq"] for line in again.export()] == [1, 2]
    again.close()


def test_the_exported_form_is_canonical(tmp_path):
    """Equal histories give equal lines, byte by byte, keys sorted, one fact a line."""
    exports = []
    for name in ("a", "b"):
        journal = Journal(tmp_path / name)
        for fact in FACTS:
            journal.append(fact)
        exports.append(list(journal.export()))
        journal.close()
    assert exports[0] == exports[1]
    for line in exports[0]:
        assert "\n" not in line
        fact = json.loads(line)["fact"]
        assert list(fact) == sorted(fact)


def test_a_commit_survives_the_death_of_the_process(path):
    """Killed without a chance to close anything, right after the append."""
    script = (
        "import os, pathlib, sys\n"
        "from tests.test_journal import FACTS\n"
        "from ibkr_service.journal import Journal\n"
        "journal = Journal(pathlib.Path(sys.argv[1]))\n"
        "for fact in FACTS: journal.append(fact)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, path], check=False, timeout=60)
    journal = Journal(path)
    assert list(journal.replay()) == FACTS
    journal.close()


def test_orders_and_fills_can_be_asked_for_in_sql(journal):
    """The views name what people look for; the state is the last one told."""
    journal.append(submitted())
    journal.append(fill())
    db = journal._db
    assert db.execute("SELECT strategy, key, action, quantity, symbol, order_type, state FROM orders").fetchall() == [
        ("s", "k", "BUY", "1000", "EUR", "LMT", "PENDING")
    ]
    assert db.execute("SELECT ref, action, quantity, price FROM fills").fetchall() == [
        ("r1", "SELL", "0.1", "1.00000001")
    ]


# --- one writer, owner only ------------------------------------------------------------------------------------------


def test_the_file_is_the_owners_alone(journal, path):
    """Mode 0600 for the journal and everything beside it, whatever the umask."""
    journal.append(FACTS[0])
    for file in path.parent.iterdir():
        assert stat.S_IMODE(file.stat().st_mode) & 0o077 == 0, file.name


def test_a_second_writer_is_refused(journal, path):
    """With what to do about it; the first goes on undisturbed."""
    with pytest.raises(JournalError, match="in use by another ibkr_service: stop that one"):
        Journal(path)
    journal.append(FACTS[0])
    assert len(list(journal.replay())) == 1


def test_a_refused_second_writer_leaves_the_lock_to_the_first(journal, path):
    """Trying twice does not break the lock."""
    for _ in range(2):
        with pytest.raises(JournalError, match="in use"):
            Journal(path)


def test_a_closed_journal_can_be_opened_again(journal, path):
    """The lock goes with the file; closing twice is harmless."""
    journal.close()
    journal.close()
    Journal(path).close()


def test_others_may_look_while_it_is_written(journal, path):
    """A read-only view beside the running daemon."""
    journal.append(FACTS[0])
    db = open_readonly(path)
    assert len(list(export(db))) == 1
    journal.append(FACTS[1])
    assert len(list(export(db))) == 2
    with pytest.raises(sqlite3.OperationalError, match="readonly"):
        db.execute("DELETE FROM journal")
    db.close()


# --- what is not sound is refused ------------------------------------------------------------------------------------


def test_a_file_that_is_no_database_is_refused(path):
    """It is left as it is, with words on how to go on."""
    path.parent.mkdir()
    path.write_bytes(b"this is not a database, it is a letter" * 100)
    before = path.read_bytes()
    with pytest.raises(JournalError, match="move it away and start again"):
        Journal(path)
    assert path.read_bytes() == before


def test_a_corrupt_journal_is_refused(journal, path):
    """Pages overwritten in the middle are found at the start, not in the night."""
    for number in range(500):
        journal.append(submitted(f"r{number}"))
    journal.close()
    data = bytearray(path.read_bytes())
    data[4096 * 3 : 4096 * 12] = b"\xff" * (4096 * 9)
    path.write_bytes(data)
    with pytest.raises(JournalError, match="move it away"):
        Journal(path)


def test_a_journal_of_a_newer_version_is_refused(journal, path):
    """Upgrade, it says; nothing in it is changed."""
    journal.append(FACTS[0])
    journal._db.execute(f"PRAGMA user_version={SCHEMA_VERSION + 1}")
    journal.close()
    with pytest.raises(JournalError, match=r"newer ibkr_service .*upgrade"):
        Journal(path)


def test_a_refused_journal_is_not_left_locked(path):
    """The next attempt fails for the same reason, not because of the first."""
    path.parent.mkdir()
    path.write_bytes(b"no database" * 1000)
    for _ in range(2):
        with pytest.raises(JournalError, match="cannot be read"):
            Journal(path)


@pytest.mark.parametrize(
    "body",
    ['{"kind":"FromTheFuture","at":"2026-11-23T15:00:00Z"}', '{"kind":"Fill"}', "", "\x00", '{"kind":"Fill"'],
)
def test_a_row_that_cannot_be_read_is_named(journal, body):
    """Replaying stops with the row's number: a history with a hole is none."""
    journal.append(FACTS[0])
    journal._db.execute("INSERT INTO journal VALUES (2, 'x', 'x', NULL, ?)", (body,))
    with pytest.raises(JournalError, match="row 2, cannot be read"):
        list(journal.replay())


@pytest.mark.parametrize("body", [b"\xff\xfe", 5, 1.5])
def test_a_row_of_another_type_is_named_too(journal, body):
    """SQLite lets anything into a column; we do not die of it without a word."""
    journal.append(FACTS[0])
    journal._db.execute("INSERT INTO journal VALUES (2, 'x', 'x', NULL, ?)", (body,))
    with pytest.raises(JournalError, match="row 2, cannot be read"):
        list(journal.replay())


def test_a_folder_in_place_of_the_file_is_refused(tmp_path):
    """Whatever stands in the way: the text does not advise to throw the journal away."""
    (tmp_path / "journal.sqlite").mkdir()
    with pytest.raises(JournalError, match=r"cannot use journal .*keep it"):
        Journal(tmp_path / "journal.sqlite")


def test_a_journal_that_another_program_holds_is_not_called_corrupt(journal, path):
    """Somebody's SQL shell with an open transaction: nobody is told to move a sound journal away."""
    journal.append(FACTS[0])
    journal.close()
    shell = sqlite3.connect(path, timeout=0, isolation_level=None)
    shell.execute("PRAGMA journal_mode=DELETE")
    shell.execute("BEGIN EXCLUSIVE")
    with pytest.raises(JournalError, match=r"locked.*keep it"):
        Journal(path)
    shell.rollback()
    shell.close()
    again = Journal(path)
    assert list(again.replay()) == [FACTS[0]]
    again.close()


def test_a_path_under_a_file_is_refused(tmp_path):
    """Its folder cannot be made."""
    (tmp_path / "file").write_text("")
    with pytest.raises(JournalError, match=r"choose another journal\.path"):
        Journal(tmp_path / "file" / "journal.sqlite")


def test_looking_at_what_is_not_there_is_refused(tmp_path):
    """And no empty file is made."""
    with pytest.raises(JournalError, match="there is no journal"):
        open_readonly(tmp_path / "none.sqlite")
    assert list(tmp_path.iterdir()) == []


def test_looking_at_what_is_no_journal_is_refused(tmp_path):
    """A letter, or a database of somebody else."""
    (tmp_path / "letter").write_text("dear reader" * 100)
    sqlite3.connect(tmp_path / "theirs").execute("CREATE TABLE t (x)").connection.close()
    for name in ("letter", "theirs"):
        with pytest.raises(JournalError, match="cannot be read"):
            open_readonly(tmp_path / name)


# --- the disk says no ------------------------------------------------------------------------------------------------


def test_a_write_that_fails_is_told_and_leaves_no_trace(journal, monkeypatch):
    """After it the next fact takes the same number: the sequence has no hole."""
    journal.append(FACTS[0])
    write = journal._write

    def full(row):
        raise sqlite3.OperationalError("database or disk is full")

    monkeypatch.setattr(journal, "_write", full)
    with pytest.raises(JournalError, match="cannot be written: database or disk is full"):
        journal.append(FACTS[1])
    monkeypatch.setattr(journal, "_write", write)
    journal.append(FACTS[2])
    assert [json.loads(line)["seq"] for line in journal.export()] == [1, 2]
    assert list(journal.replay()) == [FACTS[0], FACTS[2]]


def test_a_full_database_is_told(journal):
    """SQLite's own word for it, not a double's."""
    journal._db.execute("PRAGMA max_page_count=20")

    def fill_up():
        for number in range(10_000):
            journal.append(submitted(f"r{number}", key="x" * 500))

    with pytest.raises(JournalError, match="full"):
        fill_up()
    journal._db.execute("PRAGMA max_page_count=2000")
    written = len(list(journal.replay()))
    journal.append(FACTS[0])
    assert len(list(journal.replay())) == written + 1


def test_another_programs_lock_is_not_waited_for(journal, path):
    """A write that waited would hold the event loop: it fails at once, and works when the lock is gone."""
    shell = sqlite3.connect(path, timeout=0, isolation_level=None)
    shell.execute("BEGIN IMMEDIATE")
    assert journal._db.execute("PRAGMA busy_timeout").fetchone()[0] <= 100
    with pytest.raises(JournalError, match="locked"):
        journal.append(FACTS[0])
    shell.rollback()
    shell.close()
    journal.append(FACTS[0])
    assert list(journal.replay()) == [FACTS[0]]


@pytest.mark.parametrize("durability", ["process", "power"])
def test_both_durabilities_write(tmp_path, durability):
    """What they promise is SQLite's business; that they are set is ours."""
    journal = Journal(tmp_path / "j", durability)
    journal.append(FACTS[0])
    assert journal._db.execute("PRAGMA synchronous").fetchone() == ({"process": 1, "power": 2}[durability],)
    assert journal._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    journal.close()


# --- what is not read back before it is written ----------------------------------------------------------------------

ODD = [None, False, True, 0, 1, -1, 1.5, float("nan"), "", "x", "\ud800", "\0", "BUY", "MKT", (), [], {}, D("NaN")]
TERMS = {
    "action": ["BUY", "SELL"],
    "quantity": [D(1), D("0.1"), D("1E+30"), D("1E-20"), D("Infinity")],
    "order_type": ["MKT", "LMT", "LOC"],
    "limit_price": [None, D("1.10"), D("-1E+40"), D("-0")],
    "tif": ["DAY", "GTC", "IOC", "OPG"],
    "outside_rth": [False, True],
    "account": ["", "DU1"],
    "stop_price": [None],
    "fields": [(), (("hidden", True),)],
    "unnatural": [False],
}
PARTS = ["AAPL", "20261218", 150.0, 150, 10**400, "C", "USD", "SMART", float("inf")]


@st.composite
def instruments(draw):
    """What a strategy might call an instrument; usually it is one."""
    kind = draw(st.sampled_from([Stock, Forex, Option, FutureOption, Future]))
    if kind in {Option, FutureOption}:
        parts = ["SPY", "20261218", draw(st.sampled_from([150, 1.5, 10**400, 5e-324, 1e308, *ODD])), "C"]
    else:
        parts = ["AAPL", "USD", "SMART"]
    if draw(st.integers(0, 3)) == 0:
        parts[draw(st.integers(0, len(parts) - 1))] = draw(st.sampled_from(ODD + PARTS))
    return kind(*parts)


@settings(max_examples=1_000, deadline=None)
@given(data=st.data())
def test_a_plain_order_that_can_be_made_can_be_read_back(data):
    """Its row is not read before it is written: whatever the checks of its parts let pass must come back equal."""
    try:
        terms = {name: data.draw(st.sampled_from(usual)) for name, usual in TERMS.items()}
        if data.draw(st.integers(0, 2)) == 0:
            terms[data.draw(st.sampled_from(list(TERMS)))] = data.draw(st.sampled_from(ODD))
        intent = Intent(instrument=data.draw(instruments()), **terms)
    except (ServiceError, ValueError, TypeError, AttributeError):
        return
    key = data.draw(st.sampled_from(["k", "", "\ud800", "✓", "\0"]))
    event = ev.OrderSubmitted(at=AT, ref="r1", key=key, strategy="s", account="DU1", intent=intent)
    try:
        body = journal_module._json(event)
    except JournalError:
        return
    assert journal_module._decoder.decode(body) == event
