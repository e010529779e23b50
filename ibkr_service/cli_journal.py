"""The commands about the journal: `orders`, `fills`, `incidents`, `journal`, and its `backup` and `prune`.

All but the last open the file read-only, beside a running daemon or without one. None connects to anything.
"""

from __future__ import annotations

import sqlite3
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from ibkr_service import log, tables_journal
from ibkr_service.backup import back_up
from ibkr_service.cli_daemon import journal_of
from ibkr_service.cli_options import (
    AsJson,
    SettingsFile,
    Unmasked,
    fail,
    moment_of,
    print_json,
    print_tables,
    screen_width,
)
from ibkr_service.clock import SystemClock
from ibkr_service.core.errors import InvalidRequest, JournalError
from ibkr_service.core.orders import TERMINAL
from ibkr_service.hub import Hub
from ibkr_service.journal import Journal, export, open_readonly
from ibkr_service.retention import Pruning
from ibkr_service.schema import with_views
from ibkr_service.tables_journal import Record

records = typer.Typer()
journal = typer.Typer(invoke_without_command=True)
records.add_typer(journal, name="journal")

JournalPath = Annotated[Path | None, typer.Option("--journal", help="The journal file (default: journal.path).")]
AsCsv = Annotated[bool, typer.Option("--csv", help="Lines of comma-separated values instead of tables.")]
Days = Annotated[float | None, typer.Option(help="Only those of so many days up to now.", min=0)]
Symbol = Annotated[str | None, typer.Option(help="Only this symbol or instrument: AAPL, 'AAPL 20270115 150 C'.")]
Strategy = Annotated[str | None, typer.Option(help="Only this strategy.")]


@records.command()
def orders(  # noqa: PLR0913 - each is an option
    *,
    settings: SettingsFile = None,
    path: JournalPath = None,
    days: Days = None,
    symbol: Symbol = None,
    strategy: Strategy = None,
    only_open: Annotated[bool, typer.Option("--open", help="Only those that may still fill.")] = False,
    unmasked: Unmasked = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Orders of ours, what became of them, and what they cost; the last fifty in a table, all as JSON or CSV."""
    chosen = _Choice(days=days, column="submitted_at", symbol=symbol, strategy=strategy, only_open=only_open)
    show = _Show(tables_journal.orders_table, as_json=as_json, as_csv=as_csv, unmasked=unmasked)
    show("orders", _file(settings, path), chosen)


@records.command()
def fills(
    *,
    settings: SettingsFile = None,
    path: JournalPath = None,
    days: Days = None,
    symbol: Symbol = None,
    strategy: Strategy = None,
    unmasked: Unmasked = False,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Executions with commissions, corrections applied; the last fifty in a table, all as JSON or CSV."""
    chosen = _Choice(days=days, column="executed_at", symbol=symbol, strategy=strategy)
    show = _Show(tables_journal.fills_table, as_json=as_json, as_csv=as_csv, unmasked=unmasked)
    show("fills", _file(settings, path), chosen)


@records.command()
def incidents(
    *,
    settings: SettingsFile = None,
    path: JournalPath = None,
    days: Days = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Outages: when, why, after how many seconds noticed and READY, and what each meant for streams, orders, fills."""
    show = _Show(tables_journal.incidents_table, as_json=as_json, as_csv=as_csv)
    show("incidents", _file(settings, path), _Choice(days=days, column="began_at"))


@journal.callback()
def journal_(
    context: typer.Context,
    *,
    settings: SettingsFile = None,
    path: JournalPath = None,
    days: Days = None,
    as_json: AsJson = False,
    as_csv: AsCsv = False,
) -> None:
    """Every fact, in its canonical form: one JSON line each. Works beside a running service."""
    if context.invoked_subcommand is not None:
        return
    _one_form(as_json=as_json, as_csv=as_csv)
    with _opened(_file(settings, path)) as database:
        first = _first_seq(database, days) if days is not None else 0
        if not as_csv:
            for line in export(database, first):
                sys.stdout.write(line + "\n")
            return
        found = database.execute("SELECT seq, at, kind, ref, body FROM journal WHERE seq >= ? ORDER BY seq", (first,))
        names = [column[0] for column in found.description]
        sys.stdout.write(tables_journal.csv_text(names, (dict(zip(names, row, strict=True)) for row in found)))


@journal.command()
def backup(
    *,
    target: Annotated[Path, typer.Argument(metavar="FILE", help="The copy; it must not exist yet.")],
    settings: SettingsFile = None,
    path: JournalPath = None,
) -> None:
    """Copy the journal, also while the service runs; the copy is opened and checked before it has its name."""
    made = back_up(_file(settings, path), target)
    last = f"up to fact {made.seq} of {made.at}" if made.seq else "without a fact"
    sys.stdout.write(f"{target}: {last}, {made.size:,} bytes, opened and found sound\n")


@journal.command()
def prune(
    *,
    before: Annotated[str, typer.Option(help="2026-01-01 (UTC): what was learned earlier may go.")],
    settings: SettingsFile = None,
    path: JournalPath = None,
) -> None:
    """Remove what was reported about finished orders and the line before a date. The service must not be running."""
    file = _file(settings, path)
    if not file.exists():
        fail(f"there is no journal at {file}")
    try:
        limit = moment_of(before)
    except InvalidRequest as exc:
        fail(str(exc))
    if limit is None or limit > SystemClock().now() - timedelta(days=1):
        fail("the last day is kept: name an earlier date")
    log.configure("error", "console", now=SystemClock().now)
    with closing(Journal(file)) as opened:
        hub, size = Hub(opened), file.stat().st_size
        hub.recover()
        hub.snapshots.finish()
        pruning = Pruning(opened, hub.book, before=limit, upto=hub.snapshots.seq)
        for _ in pruning.steps():
            pass
        opened.compact()
    sys.stdout.write(
        f"{pruning.removed} facts removed, {pruning.closed} orders closed; "
        f"{size:,} bytes before, {file.stat().st_size:,} now\n"
    )


# --- reading ---------------------------------------------------------------------------------------------------------


class _Choice:
    """Which rows of a view are wanted. `column` is the moment that `days` is about."""

    def __init__(
        self,
        *,
        days: float | None,
        column: str,
        symbol: str | None = None,
        strategy: str | None = None,
        only_open: bool = False,
    ) -> None:
        self.days = days
        self.conditions: list[tuple[str, tuple[object, ...]]] = []
        if days is not None:
            self.conditions.append((f"{column} >= ?", (_since(days),)))
        if symbol is not None:
            self.conditions.append(("? IN (upper(symbol), upper(instrument))", (symbol.upper(),)))
        if strategy is not None:
            self.conditions.append(("strategy = ?", (strategy,)))
        if only_open:
            over = [state.name for state in TERMINAL]
            self.conditions.append((f"state NOT IN ({', '.join('?' * len(over))})", tuple(over)))

    def read(self, view: str, database: sqlite3.Connection) -> tuple[list[str], list[tuple[Any, ...]]]:
        """The names of a view's columns, and the rows that are wanted."""
        if self.days is not None and view != "incidents":
            # What is older need not be taken apart; but a young execution may be of an old order.
            first = _first_seq(database, self.days)
            young = f"SELECT * FROM main.journal WHERE seq >= {first:d} OR kind = 'OrderSubmitted'"  # noqa: S608 - a number
            database.execute(f"CREATE TEMP VIEW journal AS {young}")
        with_views(database)
        where = " AND ".join(condition for condition, _ in self.conditions) or "true"
        values = [value for _, some in self.conditions for value in some]
        found = database.execute(f"SELECT * FROM {view} WHERE {where} ORDER BY seq", values)  # noqa: S608 - ours
        return [column[0] for column in found.description], found.fetchall()


class _Show:
    """How rows are to be shown."""

    def __init__(
        self,
        table: Callable[[Sequence[Record], int], Table],
        *,
        as_json: bool,
        as_csv: bool,
        unmasked: bool = True,
    ) -> None:
        _one_form(as_json=as_json, as_csv=as_csv)
        self._table, self._as_json, self._as_csv, self._unmasked = table, as_json, as_csv, unmasked

    def __call__(self, view: str, path: Path, choice: _Choice) -> None:
        """Read and print.

        Raises:
            JournalError: there is no journal, or it cannot be read.
        """
        with _opened(path) as database:
            names, rows = choice.read(view, database)
        found = tables_journal.records_of(names, rows, unmasked=self._unmasked)
        if self._as_json:
            whole = tables_journal.unfolded(found) if view == "incidents" else found
            print_json({"at": SystemClock().now().isoformat(), view: whole})
        elif self._as_csv:
            sys.stdout.write(tables_journal.csv_text(names, found))
        elif found:
            print_tables(self._table(found, screen_width()))
        else:
            print_tables(f"no {view}")


@contextmanager
def _opened(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(open_readonly(path)) as database:
        try:
            yield database
        except sqlite3.Error as exc:
            raise JournalError(f"journal {path} cannot be read: {exc}") from exc


def _file(settings: Path | None, path: Path | None) -> Path:
    return path if path is not None else journal_of(settings)


def _since(days: float) -> str:
    return (SystemClock().now() - timedelta(days=days)).isoformat()


def _first_seq(database: sqlite3.Connection, days: float) -> int:
    """The first fact of so many days; one behind the last if there is none."""
    found = database.execute("SELECT min(seq) FROM journal WHERE at >= ?", (_since(days),)).fetchone()[0]
    last = database.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()[0]
    return int(found if found is not None else last + 1)


def _one_form(*, as_json: bool, as_csv: bool) -> None:
    if as_json and as_csv:
        fail("--json and --csv contradict each other")
