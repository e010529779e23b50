"""Step 1, set-up: what the settings do, and which mistakes are found before anything starts; features/setup.feature.

The real command line runs in this process, in an empty folder and an environment without our variables. Where it does
start the service, the loop under it is a `SimLoop`: half a minute passes at once, in memory instead of on sockets.
"""

from __future__ import annotations

import asyncio
import os
import shlex
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from ibkr_service import cli, daemon, log
from ibkr_service.rehearsal.world import EPOCH
from ibkr_service.sim.loop import SimLoop
from tests.bdd.stage import ACCOUNT_IN_FULL, read_journal

scenarios("setup.feature")

PREFIX = "IBKR_SERVICE_"
REFUSED = 2


class Morning:
    """A clock that stands still at the opening of New York."""

    def now(self) -> datetime:
        return EPOCH


class Operator:
    """Somebody at a terminal: types a command, reads what comes back, looks into the folder."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.folder = folder
        self.exit_code: int | None = None
        self.output = ""
        self.errors = ""
        self._monkeypatch = monkeypatch
        self._capsys = capsys

    def writes(self, text: str) -> None:
        """Write the settings file."""
        (self.folder / "settings.toml").write_text(text, encoding="utf-8")

    def exports(self, name: str, value: str) -> None:
        """Set an environment variable."""
        self._monkeypatch.setenv(name, value)

    def types(self, command: str) -> None:
        """Run a command to its end."""
        self._monkeypatch.setattr(sys, "argv", ["ibkr-service", *shlex.split(command)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        self.exit_code = ended.value.code
        self.output, self.errors = self._capsys.readouterr()

    def effective(self) -> dict[str, tuple[str, str]]:
        """Return value and origin of each setting in the table that was printed."""
        rows = [[cell.strip() for cell in line.strip("│ ").split("│")] for line in self.output.splitlines()]
        return {row[0]: (row[1], row[2]) for row in rows if len(row) == 3}

    def journals(self) -> list[str]:
        """Return the journal files there are, and whatever else of them lies in the folder."""
        return sorted(str(path.relative_to(self.folder)) for path in self.folder.rglob("*.sqlite*"))


@pytest.fixture
def operator(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Iterator[Operator]:
    """Sit down at a terminal, in an empty folder."""
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.upper().startswith(PREFIX)]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("COLUMNS", "200")  # no value is folded
    monkeypatch.setattr(sys, "path", list(sys.path))  # `run` adds the folder
    monkeypatch.setattr(cli, "SystemClock", Morning)
    monkeypatch.setattr(daemon, "loop_factory", lambda: SimLoop)
    monkeypatch.setattr(daemon, "_signals", lambda _app, _loop: nullcontext())  # virtual time knows no signals
    yield Operator(tmp_path, monkeypatch, capsys)
    log.reset()
    asyncio.set_event_loop(None)


# --- what is given ---------------------------------------------------------------------------------------------------


@given("a settings file:")
def _file(operator: Operator, docstring: str) -> None:
    """Write it as it stands."""
    operator.writes(docstring)


@given(parsers.parse('a settings file with "{value}" as ibkr.{key}'))
def _file_with(operator: Operator, value: str, key: str) -> None:
    """Write a file with a single setting."""
    operator.writes(f"[ibkr]\n{key} = {value}\n")


@given(parsers.parse('a settings file with a strategy that runs "{run}"'))
def _strategy(operator: Operator, run: str) -> None:
    """Name one strategy without parameters."""
    operator.writes(f'[[strategies]]\nname = "mine"\nrun = "{run}"\n')


@given(parsers.parse("a settings file with sma_cross and the parameters {parameters}"))
def _parameters(operator: Operator, parameters: str) -> None:
    """Name the shipped strategy, with these parameters."""
    run = "ibkr_service.strategies.sma_cross:sma_cross"
    operator.writes(f'[[strategies]]\nname = "mine"\nrun = "{run}"\nparams = {{ {parameters} }}\n')


@given(parsers.parse("the environment variable {name} is {value}"))
def _variable(operator: Operator, name: str, value: str) -> None:
    """Export it."""
    operator.exports(name, value)


# --- what the operator does ------------------------------------------------------------------------------------------


@when("the operator checks the settings")
def _check(operator: Operator) -> None:
    """Show what is in effect."""
    operator.types("check")


@when(parsers.parse('the operator checks the settings with "{options}"'))
def _check_with(operator: Operator, options: str) -> None:
    """Show what is in effect, some of it set on the command line."""
    operator.types(f"check {options}")


@when("the operator runs the service")
def _run(operator: Operator) -> None:
    """Start it; should it start, it ends by itself."""
    operator.types("run --for 30s")


@when(parsers.parse('the operator runs the service with "{options}"'))
def _run_with(operator: Operator, options: str) -> None:
    """Start it with options; should it start, it ends by itself."""
    operator.types(f"run --for 30s {options}")


@when(parsers.parse("the operator runs the service for {seconds:d} seconds"))
def _run_for(operator: Operator, seconds: int) -> None:
    """Let it run that long, of virtual time."""
    operator.types(f"run --for {seconds}s")


# --- what comes back -------------------------------------------------------------------------------------------------


@then(parsers.parse("the exit code is {code:d}"))
def _exit_code(operator: Operator, code: int) -> None:
    """As the shell sees it."""
    assert operator.exit_code == code, operator.errors


@then("these settings are in effect, each by default:")
def _defaults(operator: Operator, datatable: list[list[str]]) -> None:
    """Each was named by nobody."""
    _, *rows = datatable
    shown = operator.effective()
    assert {key: shown[key] for key, _ in rows} == {key: (value, "default") for key, value in rows}


@then("these settings are in effect:")
def _settings(operator: Operator, datatable: list[list[str]]) -> None:
    """Each with the source that decided it."""
    _, *rows = datatable
    shown = operator.effective()
    assert {key: shown[key] for key, _, _ in rows} == {key: (value, origin) for key, value, origin in rows}


@then(parsers.parse("the account {account} is shown nowhere"))
def _masked(operator: Operator, account: str) -> None:
    """Neither this one nor any other stands in full in what was printed."""
    shown = operator.output + operator.errors
    assert account not in shown
    assert ACCOUNT_IN_FULL.search(shown) is None


@then(parsers.parse('it is refused in one line that says "{text}"'))
def _refused(operator: Operator, text: str) -> None:
    """One line on standard error, nothing else, and exit code 2."""
    assert operator.exit_code == REFUSED
    (line,) = operator.errors.splitlines()
    assert line.startswith("ibkr-service: ")
    assert text in line
    assert operator.output == ""


@then(parsers.parse('the line says "{text}"'))
def _says(operator: Operator, text: str) -> None:
    """The same line."""
    assert text in operator.errors


# --- what is in the folder -------------------------------------------------------------------------------------------


@then("no journal was made")
def _no_journal(operator: Operator) -> None:
    """Nothing was begun."""
    assert operator.journals() == []


@then(parsers.parse("the journal was made at {path}"))
def _journal_at(operator: Operator, path: str) -> None:
    """There, and nowhere else."""
    assert [name for name in operator.journals() if name.endswith(".sqlite")] == [path]


@then(
    parsers.parse(
        "the journal tells of a {mode} run, connected as client {client_id:d} for the only account, {account}"
    )
)
def _journal(operator: Operator, mode: str, client_id: int, account: str) -> None:
    """One run from beginning to end, one connection, READY."""
    (name,) = [name for name in operator.journals() if name.endswith(".sqlite")]
    facts = read_journal(operator.folder / name)
    started, opened = only(facts, "ServiceStarted"), only(facts, "SessionOpened")
    assert started["mode"] == mode
    assert (opened["client_id"], opened["account"], opened["accounts"]) == (client_id, account, [account])
    assert [fact["after"] for fact in facts if fact["kind"] == "LinkChanged"] == ["SYNCING", "READY", "DOWN"]
    assert only(facts, "ServiceStopped")["reason"] == "ran for 30 s as asked"


def only(facts: list[dict[str, Any]], kind: str) -> dict[str, Any]:
    """Return the one fact of a kind."""
    (fact,) = [fact for fact in facts if fact["kind"] == kind]
    return fact
