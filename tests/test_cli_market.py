"""The commands that look at the market, from what is typed to what is printed.

Most run in this process on virtual time against the embedded gateway, whose clock stands at the opening of New York;
the last ones as processes of their own over TCP: they are about that.
"""

from __future__ import annotations

import asyncio
import csv
import json
import os
import shlex
import signal
import sys
import tempfile
from collections.abc import AsyncIterator, Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pytest

from ibkr_service import barfile, cli, cli_market, daemon, log
from ibkr_service.api import BrokerApi
from ibkr_service.cli_options import Connection, expiries_of, moment_of, strikes_of
from ibkr_service.core.bars import Bar
from ibkr_service.core.errors import InvalidRequest
from ibkr_service.rehearsal.world import EPOCH
from ibkr_service.settings import SettingsError
from ibkr_service.sim.loop import SimLoop
from tests.test_two_processes import line_with, listening, prepare, process

NOTE = "an embedded simulated gateway (seed 1) was asked; nothing of this is real\n"


class Morning:
    """A clock that stands still at the opening of New York."""

    def now(self) -> datetime:
        return EPOCH


class Person:
    """Somebody who types a command and reads what comes back."""

    def __init__(self, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
        self._capsys = capsys
        self._monkeypatch = monkeypatch
        self.exit_code: int | str | None = None
        self.output = self.errors = ""
        self.loops: list[SimLoop] = []  # whose times are how long the commands took, in virtual seconds

    def loop(self) -> SimLoop:
        """A loop for the next command."""
        self.loops.append(SimLoop())
        return self.loops[-1]

    def types(self, command: str) -> None:
        """Run a command to its end."""
        self._monkeypatch.setattr(sys, "argv", ["ibkr-service", *shlex.split(command)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        self.exit_code = ended.value.code
        self.output, self.errors = self._capsys.readouterr()

    def document(self, command: str) -> Any:
        """What a command prints as JSON; only the note about simulation beside it."""
        self.types(command)
        assert (self.exit_code, self.errors) == (0, NOTE)
        return json.loads(self.output)


@pytest.fixture
def person(tmp_path, monkeypatch, capsys) -> Iterator[Person]:
    """Sit down in an empty folder; temporary files go there too."""
    (tmp_path / "temporary").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    for name in [name for name in os.environ if name.upper().startswith("IBKR_SERVICE_")]:
        monkeypatch.delenv(name)
    monkeypatch.setattr(cli_market, "SystemClock", Morning)
    somebody = Person(capsys, monkeypatch)
    monkeypatch.setattr(daemon, "loop_factory", lambda: somebody.loop)
    yield somebody
    log.reset()
    asyncio.set_event_loop(None)
    assert [path.name for path in tmp_path.rglob("*") if path.name != "temporary" and path.suffix != ".csv"] == [], (
        "the journal of a command is thrown away"
    )


# --- quote -----------------------------------------------------------------------------------------------------------


def test_quotes_are_shown_in_the_order_in_which_they_were_asked_for(person):
    """A stock, a currency pair, an index, a future; named twice is shown once."""
    person.types("quote EUR.USD AAPL IND:SPX@CBOE 'FUT:ES 202612@CME' aapl")
    names = [line.split("  ")[0].strip() for line in person.output.splitlines() if "live" in line]
    assert names == ["EUR.USD", "AAPL", "SPX", "ES 202612"]
    assert (person.exit_code, person.errors) == (0, NOTE)


def test_one_that_cannot_be_had_does_not_keep_the_others(person):
    """It is a row, its reason a line on standard error, and the exit code is 1."""
    person.types("quote NOSUCH AAPL")
    assert person.exit_code == 1
    assert [line.split()[-2] for line in person.output.splitlines() if "NOSUCH" in line] == ["error"]
    assert "230." in person.output
    assert person.errors == NOTE + (
        "ibkr-service: NOSUCH: No security definition has been found for the request (code 200)\n"
    )


def test_quotes_as_json(person):
    """One document and nothing else on standard output."""
    document = person.document("quote AAPL EUR.USD --json")
    assert [quote["instrument"] for quote in document["quotes"]] == ["AAPL", "EUR.USD"]
    assert all(quote["bid"] < quote["ask"] and quote["data_type"] == "live" for quote in document["quotes"])
    assert person.output.count("\n") == 1, "one line, when nobody looks"


def test_quotes_that_fail_are_in_the_document_too(person):
    """With the reason; programs see the exit code as well."""
    person.types("quote NOSUCH --json")
    assert person.exit_code == 1
    (quote,) = json.loads(person.output)["quotes"]
    assert "No security definition" in quote["error"]


# --- chain -----------------------------------------------------------------------------------------------------------


def test_a_chain(person):
    """A table for each expiry, as many strikes as wanted, bid and ask next to the strike."""
    person.types("chain AAPL --expiries 2 --strikes 4")
    assert (person.exit_code, person.errors) == (0, NOTE)
    titles = [line for line in person.output.splitlines() if line.startswith("AAPL")]
    assert [title.split(", class")[0] for title in titles] == [
        "AAPL 27 Nov 2026 PM, 4 days",
        "AAPL 04 Dec 2026 PM, 11 days",
    ]
    strikes = [line.split()[6] for line in person.output.splitlines() if "%" in line]
    assert strikes[:4] == strikes[4:], "the same four of both expiries"
    assert [float(strike) - float(strikes[0]) for strike in strikes[:4]] == [0.0, 2.5, 5.0, 7.5]
    assert "230.00" in strikes[1:3], "around the money"
    assert "missing" not in person.output


def test_a_chain_of_an_index_by_class_and_of_a_future(person):
    """Underlyings that a symbol alone does not name."""
    document = person.document("chain IND:SPX@CBOE --class spx --expiries 20261218 --strikes 2 --rights c --json")
    assert document["underlying"] == "SPX"
    assert [one["trading_class"] for one in document["slices"]] == ["SPX"], "SPXW has that date, too"
    assert [row["right"] for row in document["slices"][0]["rows"]] == ["C", "C"]
    document = person.document("chain 'FUT:ES 202612@CME' --expiries 20-40 --strikes 5850-5900 --json")
    rows = document["slices"][0]["rows"]
    assert {row["strike"] for row in rows} == {5850.0, 5875.0, 5900.0}
    assert rows[0]["contract"]["kind"] == "FutureOption"


def test_what_is_not_listed_is_refused(person):
    """Exit code 1, one line, with what there is."""
    person.types("chain AAPL --expiries 20261225 --strikes 220,")
    assert (person.exit_code, person.output) == (1, "")
    assert person.errors.startswith("ibkr-service: AAPL has no expiry 20261225")
    assert person.errors.count("\n") == 1


def test_what_is_missing_is_said(person):
    """A strike that does not exist, below the table; the rest is shown."""
    person.types("chain AAPL --expiries 1 --strikes 230,231.23")
    assert person.exit_code == 0
    assert "missing: 20261127 AAPL: there is no strike 231.23" in person.output


# --- account, positions ----------------------------------------------------------------------------------------------


def test_the_account(person):
    """Masked, unless it is asked for; profit and loss is waited for."""
    person.types("account")
    assert "Account DU…567" in person.output
    assert "1,000,000.00" in person.output
    assert "DU1234567" not in person.output
    assert person.document("account --json")["daily_pnl"] is not None
    assert person.document("account --json --unmasked")["account"] == "DU1234567"


def test_an_account_that_is_not_there_is_wrong_use(person):
    """Exit code 2, like everything else that does not fit the settings."""
    person.types("account --account DU7654321")
    assert (person.exit_code, person.output) == (2, "")
    assert person.errors == "ibkr-service: ibkr.account is not among the accounts of this login\n"


def test_no_positions(person):
    """Said in words, and an empty list for programs."""
    person.types("positions")
    assert person.output == "DU…567 holds nothing\n"
    assert person.document("positions --json")["positions"] == []


# --- history ---------------------------------------------------------------------------------------------------------


def test_bars_as_a_table(person):
    """The last twenty."""
    person.types('history AAPL --bars "1 hour" --start 2026-11-19 --end 2026-11-21')
    assert "bars, the last 20" in person.output
    assert sum(line.startswith(" 2026-11-") for line in person.output.splitlines()) == 20
    assert (person.exit_code, person.errors) == (0, NOTE)


def test_bars_of_regular_hours(person):
    """From the opening of New York to its close."""
    document = person.document('history AAPL --bars "1 hour" --start 2026-11-19 --end 2026-11-20 --rth --json')
    begins = [bar["at"] for bar in document["bars"]]
    assert (begins[0], begins[-1], len(begins)) == ("2026-11-19T14:30:00Z", "2026-11-19T20:00:00Z", 7)


def test_bars_to_a_csv_file(person, tmp_path):
    """Every bar of five days, in order, in place of what there was, and nothing else in the folder."""
    (tmp_path / "bars.csv").write_text("old")
    person.types('history AAPL --bars "5 mins" --days 5 --out bars.csv')
    with (tmp_path / "bars.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert person.output == f"{len(rows)} bars of 5 mins of AAPL in bars.csv\n"
    assert [row["at"] for row in rows] == sorted({row["at"] for row in rows})
    assert rows[0]["at"].endswith("Z")
    assert all(float(row["low"]) <= float(row["close"]) <= float(row["high"]) for row in rows)
    assert len(rows) > 300
    document = person.document('history AAPL --bars "5 mins" --days 5 --out bars.csv --json')
    assert (document["count"], document["out"]) == (len(rows), "bars.csv")


def test_bars_as_json(person):
    """Daily ones have dates; thirty days of them unless said otherwise."""
    document = person.document("history AAPL --json")
    days = [date.fromisoformat(bar["at"]) for bar in document["bars"]]
    assert len(days) in range(18, 24)
    assert (EPOCH.date() - days[0]).days in range(24, 31)


def test_no_bars_is_said_in_words(person):
    """On a Saturday."""
    person.types('history AAPL --bars "1 min" --start 2026-11-21T12:00 --end 2026-11-22')
    assert person.output == "no bars of 1 min of AAPL in this range: its market was closed\n"
    assert person.exit_code == 0


def test_a_disk_that_says_no(person, monkeypatch):
    """One line, exit code 1."""

    def full(_path: Path, _bars: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(cli_market, "write_bars", full)
    person.types("history AAPL --out bars.csv")
    assert person.exit_code == 1
    assert person.errors.endswith("ibkr-service: bars.csv: No space left on device\n")


def test_a_file_is_whole_or_as_it_was(tmp_path, monkeypatch):
    """A bar that cannot be written leaves the old file, and no part of a new one."""
    path = tmp_path / "bars.csv"
    path.write_text("old")
    with pytest.raises(AttributeError):
        barfile.write_bars(path, [Bar(at=EPOCH, open=1, high=1, low=1, close=1), None])  # type: ignore[list-item]
    assert [(each.name, each.read_text()) for each in tmp_path.iterdir()] == [("bars.csv", "old")]


def test_who_reads_the_old_file_goes_on_reading_it(tmp_path):
    """The new one takes its name, at once; it is not written over the old one."""
    path = tmp_path / "bars.csv"
    path.write_text("old")
    with path.open() as reader:
        barfile.write_bars(path, [Bar(at=EPOCH, open=1, high=1, low=1, close=1)])
        assert reader.read() == "old"
    assert path.read_text().splitlines()[1] == "2026-11-23T14:30:00Z,1,1,1,1,,,"


@pytest.mark.parametrize("at", [EPOCH, date(2026, 11, 20)])
def test_bars_to_parquet(tmp_path, at):
    """Moments in UTC or dates, null for what there is not."""
    parquet = pytest.importorskip("pyarrow.parquet")
    path = tmp_path / "bars.parquet"
    barfile.check_file(path)
    barfile.write_bars(path, [Bar(at=at, open=1.5, high=2, low=1, close=1.75, volume=None, count=3)])
    (row,) = parquet.read_table(path).to_pylist()
    assert row == {
        "at": at, "open": 1.5, "high": 2.0, "low": 1.0, "close": 1.75, "volume": None, "average": None, "count": 3
    }  # fmt: skip


# --- wrong use -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "says"),
    [
        ("quote 'A B'", "cannot read instrument 'A B'"),
        ("chain EUR.USD", "EUR.USD has no options"),
        ("chain AAPL --expiries 0", "cannot read expiries '0'"),
        ("chain AAPL --strikes x", "cannot read strikes 'x'"),
        ("chain AAPL --rights X", "rights is"),
        ("chain AAPL --deadline 0", "deadline_s must be positive"),
        ('history AAPL --bars "1 mn"', "there is no bar size '1 mn'"),
        ("history AAPL --start monday", "cannot read the moment 'monday'"),
        ("history AAPL --out bars.txt", "ends in .csv or .parquet"),
        ("history AAPL --out nowhere/bars.csv", "there is no folder nowhere"),
        ("quote AAPL --mode live", "real money needs the option --live"),
        ("quote AAPL --client-id 1", "must not be the same as client_id"),
        ("quote AAPL --port 0", "ibkr.port = 0 (option)"),
    ],
)
def test_wrong_use_is_one_line_and_exit_code_2(person, monkeypatch, command, says):
    """Before anything is started."""
    monkeypatch.setattr(BrokerApi, "_connect", None)
    person.types(command)
    assert (person.exit_code, person.output) == (2, "")
    assert person.errors.startswith("ibkr-service: ")
    assert says in person.errors
    assert person.errors.count("\n") == 1


def test_a_range_that_makes_no_sense_is_wrong_use(person):
    """Though only the service finds out."""
    person.types("history AAPL --start 2026-11-20 --end 2026-11-19")
    assert person.exit_code == 2
    assert person.errors.count("\n") == 1


def test_parquet_without_pyarrow_names_the_extra(person, monkeypatch):
    """Before an hour of downloading."""
    monkeypatch.setattr(barfile, "find_spec", lambda _name: None)
    person.types("history AAPL --out bars.parquet")
    assert person.exit_code == 2
    assert "pip install 'ibkr-service[parquet]'" in person.errors


@pytest.mark.parametrize(
    ("text", "expiries"),
    [
        ("2", 2),
        ("20-40", (20, 40)),
        ("20261218", ["20261218"]),
        ("20261218, 2027-01-15", ["20261218", "20270115"]),
        ("2026-12-18", ["20261218"]),
    ],
)
def test_expiries_as_people_type_them(text, expiries):
    """A number, days, dates."""
    assert expiries_of(text) == expiries


@pytest.mark.parametrize(
    ("text", "strikes"),
    [("10", 10), ("220-240", (220.0, 240.0)), ("220,222.5", [220.0, 222.5]), ("220,", [220.0]), ("5-7.5", (5.0, 7.5))],
)
def test_strikes_as_people_type_them(text, strikes):
    """A number, a range, a list."""
    assert strikes_of(text) == strikes


@pytest.mark.parametrize("text", ["", "0", "-1", "x", ",", "1,,2", "20-", "2.5", "202612"])
def test_what_is_neither_is_refused(text):
    """2.5 may be a strike, but then as a list: `2.5,`."""
    for read in (expiries_of, strikes_of):
        if (read, text) != (strikes_of, "202612"):
            with pytest.raises(InvalidRequest):
                read(text)


def test_moments_are_utc_unless_they_say_otherwise():
    """A day is its midnight."""
    assert moment_of("2026-11-20") == datetime(2026, 11, 20, tzinfo=UTC)
    assert moment_of("2026-11-20T09:30-05:00") == datetime(2026, 11, 20, 14, 30, tzinfo=UTC)
    assert moment_of(None) is None


# --- the connection --------------------------------------------------------------------------------------------------


def test_a_command_reads_only_under_an_id_and_a_journal_of_its_own(person, tmp_path):
    """Whatever the settings of the daemon beside it say."""
    (tmp_path / "settings.csv").write_text(
        '[ibkr]\nmode = "paper"\nclient_id = 7\ncli_client_id = 8\nport = 4002\n'
        '[[strategies]]\nname = "mine"\nrun = "no.such:strategy"\n'
    )
    settings = Connection(settings=Path("settings.csv")).load(tmp_path / "temporary")
    assert (settings.ibkr.client_id, settings.ibkr.read_only, settings.ibkr.port) == (8, True, 4002)
    assert settings.journal.path == str(tmp_path / "temporary" / "journal.sqlite")
    assert settings.strategies == ()
    assert Connection(settings=Path("settings.csv"), client_id=9).load(tmp_path).ibkr.client_id == 9
    with pytest.raises(SettingsError):
        Connection(settings=Path("settings.csv"), client_id=7).load(tmp_path)


@pytest.mark.parametrize(
    ("options", "embedded"),
    [({}, True), ({"port": 7497}, False), ({"host": "127.0.0.1"}, False), ({"mode": "paper"}, False)],
)
def test_a_gateway_of_its_own_only_if_no_other_is_named(person, tmp_path, options, embedded):
    """Simulated mode with nothing else said."""
    connection = Connection(**options)
    assert connection.is_embedded(connection.load(tmp_path)) is embedded


def test_a_person_at_a_terminal_sees_progress(person, monkeypatch):
    """On standard error, so that standard output can be read by a program."""
    monkeypatch.setenv("FORCE_COLOR", "1")  # rich takes everything for a terminal
    monkeypatch.setenv("TERM", "xterm")
    person.types("chain AAPL --expiries 1 --strikes 2 --json")
    assert "chain of AAPL" in person.errors
    assert "4/4" in person.errors
    assert len(json.loads(person.output)["slices"][0]["rows"]) == 4


def test_nobody_listens(person):
    """At once, one line, exit code 1: a person at a terminal does not wait for a gateway to appear."""
    person.types("quote AAPL --port 4999")
    assert (person.exit_code, person.output) == (1, "")
    assert person.errors.startswith("ibkr-service: nobody listens at 127.0.0.1:4999")
    assert person.errors.count("\n") == 1
    assert person.loops[0].time() < 1.0


# --- processes -------------------------------------------------------------------------------------------------------


@pytest.fixture
async def gateway() -> AsyncIterator[int]:
    """The port of a simulated gateway in a process of its own."""
    async with process("simulate", "--port", "0") as running:
        yield await listening(running)


@pytest.mark.tcp
async def test_beside_a_daemon_at_the_same_gateway(tmp_path, gateway):
    """The daemon has its client id and its journal; quote and positions have their own, and it does not notice."""
    prepare(tmp_path, gateway)
    async with asyncio.timeout(60), process("run", cwd=tmp_path) as service:
        await line_with(service, "Tick")
        async with process("quote", "AAPL", "EUR.USD", "--json", cwd=tmp_path) as quote:
            out, err = await quote.communicate()
        assert (quote.returncode, err) == (0, b"")
        assert [each["error"] for each in json.loads(out)["quotes"]] == [None, None]
        for words, said in (((), b"the running daemon was asked\n"), (("--client-id", "91"), b"")):
            async with process("positions", *words, cwd=tmp_path) as positions:
                out, err = await positions.communicate()
            assert (positions.returncode, out.decode(), err) == (0, "DU…567 holds nothing\n", said)
        service.send_signal(signal.SIGTERM)
        assert await service.wait() == 0


@pytest.mark.tcp
async def test_simulated_mode_at_a_named_port_is_the_gateway_there(tmp_path, gateway):
    """`simulate` in one terminal, `quote --port` in another."""
    async with asyncio.timeout(60), process("quote", "AAPL", "--port", str(gateway), cwd=tmp_path) as quote:
        out, err = await quote.communicate()
    assert (quote.returncode, err) == (0, b"")
    assert "AAPL" in out.decode()


@pytest.mark.tcp
@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
async def test_ctrl_c_ends_at_once_and_leaves_nothing(tmp_path, monkeypatch, number, code):
    """While a gateway does not answer: no traceback, no temporary folder. Being terminated is the same."""
    called = asyncio.Event()

    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        called.set()
        await reader.read()
        writer.close()

    monkeypatch.setenv("TMPDIR", str(tmp_path))
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # started with & by a shell: children would ignore it as well
        signal.signal(signal.SIGINT, signal.default_int_handler)
    async with asyncio.timeout(100), await asyncio.start_server(silent, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with process("quote", "AAPL", "--port", str(port), cwd=tmp_path) as quote:
            await called.wait()
            quote.send_signal(number)
            async with asyncio.timeout(40):  # a loaded machine takes seconds; the code says that it was the signal
                out, err = await quote.communicate()
    assert (quote.returncode, out, err) == (code, b"", b"")
    assert list(tmp_path.iterdir()) == []
