"""The operator's commands: they speak with the running daemon over its control socket (docs/control.md).

`stop-entries`, `resume`, `cancel-all`, `halt`, `flatten` and `reconcile --accept` change something and need a daemon;
`status` and `open-orders` say that there is none. Exit codes: 0 done, 1 asked and not (wholly) done, 2 no daemon, or no
answer.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from ibkr_service.app import EXIT_FAILED, EXIT_OK
from ibkr_service.cli_daemon import asked, journal_of, sockets
from ibkr_service.cli_options import AsJson, JournalFile, SettingsFile, fail
from ibkr_service.control import Answer
from ibkr_service.reconciliation import Reconciliation

operator = typer.Typer()

ANSWER_S, FLATTEN_S = 15.0, 600.0
Preview = Annotated[bool, typer.Option("--preview", help="Say what would be done; do nothing.")]


@operator.command()
def status(*, settings: SettingsFile = None, journal: JournalFile = None, as_json: AsJson = False) -> None:
    """How the running daemon is: link, trading, orders, positions."""
    _say(_asked("status", settings, journal), as_json=as_json)


@operator.command("open-orders")
def open_orders(*, settings: SettingsFile = None, journal: JournalFile = None, as_json: AsJson = False) -> None:
    """The working orders that the running daemon knows, its own and those of others."""
    _say(_asked("orders", settings, journal), as_json=as_json)


@operator.command("stop-entries")
def stop_entries(
    *, settings: SettingsFile = None, journal: JournalFile = None, preview: Preview = False, as_json: AsJson = False
) -> None:
    """Let only orders leave that reduce a position. Working orders stay."""
    _say(_asked("stop-entries", settings, journal, preview=preview), as_json=as_json)


@operator.command()
def resume(
    *, settings: SettingsFile = None, journal: JournalFile = None, preview: Preview = False, as_json: AsJson = False
) -> None:
    """Let all orders leave again, after stop-entries, halt or flatten."""
    _say(_asked("resume", settings, journal, preview=preview), as_json=as_json)


@operator.command("cancel-all")
def cancel_all(
    *, settings: SettingsFile = None, journal: JournalFile = None, preview: Preview = False, as_json: AsJson = False
) -> None:
    """Cancel every working order of the service; those of others are left alone."""
    _say(_asked("cancel-all", settings, journal, preview=preview), as_json=as_json)


@operator.command()
def halt(
    *, settings: SettingsFile = None, journal: JournalFile = None, preview: Preview = False, as_json: AsJson = False
) -> None:
    """Cancel every working order, then let only orders leave that reduce a position."""
    _say(_asked("halt", settings, journal, preview=preview), as_json=as_json)


@operator.command()
def flatten(
    *, settings: SettingsFile = None, journal: JournalFile = None, preview: Preview = False, as_json: AsJson = False
) -> None:
    """Stop entries, cancel every working order, and close all positions by collared limits."""
    _say(_asked("flatten", settings, journal, preview=preview), as_json=as_json)


@operator.command()
def reconcile(
    *,
    settings: SettingsFile = None,
    journal: JournalFile = None,
    accept: Annotated[bool, typer.Option("--accept", help="Take the broker's word; ends every quarantine.")] = False,
    preview: Preview = False,
    as_json: AsJson = False,
) -> None:
    """What the broker and the journal disagree about, as of the last look; exit code 1 if a person has to act.

    Read from the journal, beside a running daemon or without one; accepting needs the daemon.
    """
    if accept:
        _say(_asked("accept", settings, journal, preview=preview), as_json=as_json)
    report = Reconciliation.of(journal_of(settings, journal))
    if as_json:
        sys.stdout.write(json.dumps(asdict(report), ensure_ascii=False, default=str) + "\n")
    else:
        sys.stdout.write("".join(f"{line}\n" for line in report.lines()))
    raise typer.Exit(EXIT_FAILED if report.needs_a_person else EXIT_OK)


def _asked(verb: str, settings: Path | None, journal: str | None, *, preview: bool = False) -> Answer:
    """Ask the daemon of these settings; without one it is an error, since nothing was done."""
    paths = sockets(settings, journal)
    answer = asked(paths, verb, FLATTEN_S if verb == "flatten" else ANSWER_S, preview=preview)
    if answer is None:
        return fail(f"no daemon is running (nobody listens at {' or '.join(map(str, paths))}): nothing was done")
    return answer


def _say(answer: Answer, *, as_json: bool) -> None:
    if as_json:
        document = {"ok": answer.ok, "text": answer.text, "data": answer.data, "error": answer.error}
        sys.stdout.write(json.dumps(document, ensure_ascii=False) + "\n")
    else:
        for line in answer.text:
            sys.stdout.write(line + "\n")
        if answer.error:
            sys.stderr.write(f"ibkr-service: {answer.error}\n")
    raise typer.Exit(EXIT_OK if answer.ok else EXIT_FAILED)
