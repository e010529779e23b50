"""The commands that read the journal, from what is typed to what is printed; and the copy that is made of it.

The journal is the one of `tests/test_schema.py`: five orders, three executions, one outage, in November 2026.
"""

from __future__ import annotations

import csv
import io
import json
import shlex
import sqlite3
import stat
import sys
from contextlib import closing
from datetime import UTC, datetime

import msgspec
import pytest

from ibkr_service import backup as backup_module
from ibkr_service import cli, cli_journal
from ibkr_service.backup import back_up
from ibkr_service.core import events as ev
from ibkr_service.core.errors import JournalError
from ibkr_service.journal import Journal
from tests.test_schema import OLD, outage


class Later:
    """A clock that stands still, three days after most of it happened."""

    def now(self):
        return datetime(2026, 11, 23, 14, 32, tzinfo=UTC)


@pytest.fixture
def path(tmp_path, monkeypatch):
    """A journal where the settings say that it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(cli_journal, "SystemClock", Later)
    (tmp_path / "var").mkdir()
    path = tmp_path / "var" / "ibkr_service.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(OLD.read_text())
    return path


@pytest.fixture
def types(capsys, monkeypatch):
    """Run a command; returns what it printed, and checks that it ended as it should."""

    def run(command, code=0):
        monkeypatch.setattr(sys, "argv", ["ibkr-service", *shlex.split(command)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        printed = capsys.readouterr()
        assert ended.value.code == code, printed.err
        return printed.err if code else printed.out

    return run


def test_the_journal_of_an_embedded_gateway_is_found(path, types):
    """What `run` without a TWS writes has another name; where both are, it is the usual one."""
    before = types("orders --json")
    path.rename(path.with_name("ibkr_service-simulated.sqlite"))
    assert types("orders --json") == before
    path.with_name("ibkr_service-simulated.sqlite").unlink()
    assert "there is no journal at var/ibkr_service.sqlite" in types("orders", code=2)


def keys(text):
    return [order["key"] for order in json.loads(text)["orders"]]


# --- orders, fills, incidents ----------------------------------------------------------------------------------------


def test_orders_in_a_table(path, types):
    """What became of each, in one line."""
    lines = types("orders").splitlines()
    assert lines[0].strip() == "5 orders, UTC"
    assert "submitted" in lines[2]
    first = " ".join(lines[4].split())
    assert first == "2026-11-20 14:30:05 trend aapl-1 AAPL BUY 100 LMT 231.50 \N{EN DASH} DAY FILLED 100 231.486 1.00"
    assert len([line for line in lines if "2026-11-20" in line]) == 5


def test_fills_in_a_table(path, types):
    """Likewise."""
    fills = types("fills")
    assert "corrected" in fills
    assert "learned by asking" in fills
    assert "104.40" in fills


def test_incidents_in_all_forms(path, types):
    """What was noticed when, and what it cost; one that goes on has no end yet."""
    assert types("incidents") == "no incidents\n"
    with closing(Journal(path)) as journal:
        for fact in (*outage(1), outage(2)[0]):
            journal.append(fact)
    over, under_way = types("incidents").splitlines()[4:6]
    assert " ".join(over.split()) == "2026-11-23 15:00:00 10.5 41.5 3 1 1 2 1 1 dead"
    assert "not yet" in under_way
    over, under_way = json.loads(types("incidents --json"))["incidents"]
    assert [stream["instrument"] for stream in over["streams"]] == ["AAPL", "MSFT", "EUR.USD"]
    assert over["orders"][0] == {"ref": "r1", "state": "FILLED"}
    assert (under_way["streams"], under_way["ended_at"]) == (None, None)
    over, under_way = csv.DictReader(io.StringIO(types("incidents --csv")))
    assert (over["ready_after_s"], under_way["ready_after_s"]) == ("41.5", "")
    assert json.loads(over["streams"])[0]["resubscribed"] is True


@pytest.mark.parametrize(
    ("options", "wanted"),
    [
        ("", ["aapl-1", "eur-1", "put-1", "aapl-2", "eur-2"]),
        ("--open", ["eur-2"]),
        ("--symbol aapl", ["aapl-1", "put-1", "aapl-2"]),
        ("--symbol EUR.USD", ["eur-1", "eur-2"]),
        ("--symbol 'AAPL 20261218 230 P'", ["put-1"]),
        ("--strategy hedge", ["put-1"]),
        ("--strategy trend --symbol EUR --open", ["eur-2"]),
        ("--days 3", ["eur-2"]),
        ("--days 3.0001", ["aapl-2", "eur-2"]),
        ("--days 4", ["aapl-1", "eur-1", "put-1", "aapl-2", "eur-2"]),
        ("--days 0", []),
    ],
)
def test_orders_can_be_chosen(path, types, options, wanted):
    """By what they are about, whose they are, how old, and whether they are over."""
    assert keys(types(f"orders --json {options}")) == wanted


def test_a_young_fill_of_an_old_order_has_its_strategy(path, types):
    """Whatever is left out for the sake of speed."""
    (fill,) = json.loads(types("fills --json --days 2.995"))["fills"]
    assert (fill["strategy"], fill["realized_pnl"], fill["commission"]) == ("trend", "104.40", "1.02")
    assert len(json.loads(types("fills --json"))["fills"]) == 3


def test_accounts_are_masked_unless_asked_for(path, types):
    """In all forms."""
    for command in ("orders --json", "orders --csv", "fills --json", "fills --csv", "orders", "fills"):
        assert "DU1234567" not in types(command)
        if "-" in command:
            assert "DU1234567" in types(f"{command} --unmasked")


def test_lines_for_other_programs(path, types):
    """The view's columns, empty where there is nothing."""
    rows = list(csv.DictReader(io.StringIO(types("orders --csv"))))
    assert (rows[0]["average_price"], rows[1]["average_price"], rows[1]["reason"]) == ("231.486", "", "cancel by trend")
    assert len(rows) == 5


def test_only_the_last_are_shown_to_people(path, types):
    """A table of thousands helps nobody; the title says how many there are."""
    journal = Journal(path)
    submitted = next(event for event in journal.replay() if isinstance(event, ev.OrderSubmitted))
    for number in range(60):
        journal.append(msgspec.structs.replace(submitted, ref=f"r{number}"))
    text = types("orders")  # beside the open journal
    journal.close()
    assert "65 orders, the last 50, UTC" in text
    assert text.count("PENDING") == 50


def test_nothing_is_an_answer(path, types):
    """And no error."""
    assert types("orders --symbol NOSUCH") == "no orders\n"
    assert types("fills --symbol NOSUCH --csv").startswith("seq,")


@pytest.mark.parametrize(
    ("command", "words"),
    [
        ("orders --json --csv", "contradict"),
        ("journal --json --csv", "contradict"),
        ("fills --journal nowhere.sqlite", "there is no journal at nowhere.sqlite"),
        ("orders --days -1", "--days"),
    ],
)
def test_wrong_use_is_one_line(path, types, command, words):
    """Exit code 2."""
    assert words in types(command, code=2)


# --- facts -----------------------------------------------------------------------------------------------------------


def test_the_journal_line_by_line(path, types):
    """Canonical, all or of the last days; as CSV too."""
    lines = types("journal").splitlines()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, 77))
    assert types("journal --json").splitlines() == lines
    assert types("journal --days 3").splitlines() == lines[55:]
    rows = list(csv.DictReader(io.StringIO(types("journal --csv --days 4"))))
    assert (len(rows), rows[-1]["kind"]) == (76, "ServiceStopped")
    assert types("journal --days 0") == ""


# --- backup ----------------------------------------------------------------------------------------------------------


def test_a_backup_is_made_beside_a_writer(path, types, tmp_path):
    """The same facts, the owner's alone, one file that opens as a journal."""
    journal = Journal(path)
    said = types("journal backup copy.sqlite")
    assert "up to fact 76" in said
    assert "found sound" in said
    copy = tmp_path / "copy.sqlite"
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    facts = list(journal.replay())
    journal.append(facts[0])
    journal.close()
    again = Journal(copy)
    assert list(again.replay()) == facts
    again.close()
    assert {file.name for file in tmp_path.iterdir()} == {"var", "copy.sqlite", "copy.sqlite.lock"}


def test_a_backup_overwrites_nothing(path, types, tmp_path):
    """Least of all an older backup."""
    (tmp_path / "copy.sqlite").write_text("precious")
    assert "nothing is overwritten" in types("journal backup copy.sqlite", code=2)
    assert (tmp_path / "copy.sqlite").read_text() == "precious"


def test_a_backup_that_fails_leaves_nothing(path, tmp_path, monkeypatch):
    """No half a file under a name that promises a whole one."""

    def unsound(_copy):
        raise sqlite3.DatabaseError("the copy is not sound: row 7 missing")

    monkeypatch.setattr(backup_module, "_checked", unsound)
    with pytest.raises(JournalError, match="row 7 missing"):
        back_up(path, tmp_path / "copy.sqlite")
    assert [file.name for file in tmp_path.iterdir()] == ["var"]
    monkeypatch.undo()
    with pytest.raises(JournalError, match="cannot write"):
        back_up(path, tmp_path / "nowhere" / "copy.sqlite")
    with pytest.raises(JournalError, match="no journal"):
        back_up(tmp_path / "none", tmp_path / "copy.sqlite")
    assert [file.name for file in tmp_path.iterdir()] == ["var"]


def test_a_writer_does_not_wait_for_a_backup(path, tmp_path):
    """In the middle of the copy a fact is written, at once; the copy is of the moment at which it began."""
    journal = Journal(path)
    first = next(iter(journal.replay()))
    with (
        closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as source,
        closing(sqlite3.connect(":memory:")) as copy,
    ):
        source.backup(copy, pages=-1, progress=lambda *_: journal.append(first))
        assert copy.execute("SELECT max(seq) FROM journal").fetchone() == (76,)
    assert journal.seq == 77
    journal.close()
