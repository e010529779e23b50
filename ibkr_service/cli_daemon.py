"""Asking the running daemon from the command line, if there is one: which socket, and what to do with its answer."""

from __future__ import annotations

import asyncio
import getpass
import os
import sys
from pathlib import Path
from typing import TypeVar

import msgspec

from ibkr_service.app import EXIT_FAILED
from ibkr_service.cli_options import Connection, fail
from ibkr_service.control import Answer, ControlFailed, NoDaemon, Request, ask, socket_path
from ibkr_service.embedded import embedded_journal
from ibkr_service.settings import SettingsError, load_settings

T = TypeVar("T")

LOOK_S = 10.0


def journals(settings: Path | None, journal: str | None = None) -> list[Path]:
    """The journals that these settings may mean: with an embedded gateway it has another name."""
    overrides = {"journal.path": journal}
    try:
        chosen = load_settings(settings, environ=os.environ, overrides=overrides, live_flag=False)
    except SettingsError:  # a command that trades nothing anew needs no --live
        chosen = load_settings(settings, environ=os.environ, overrides=overrides, live_flag=True)
    path = Path(chosen.journal.path)
    return [path, *([embedded_journal(path)] if chosen.ibkr.mode == "simulated" else [])]


def journal_of(settings: Path | None, journal: str | None = None) -> Path:
    """The journal that is meant: the one that was named, or the first that is there."""
    paths = journals(settings, journal)
    return next((path for path in paths if path.exists()), paths[0])


def sockets(settings: Path | None, journal: str | None = None) -> list[Path]:
    """Where the daemon of these settings listens."""
    return [socket_path(path) for path in journals(settings, journal)]


def asked(paths: list[Path], verb: str, timeout_s: float, *, preview: bool = False) -> Answer | None:
    """The answer of the daemon at one of these sockets; None if there is none."""
    request = Request(verb, by=_user(), preview=preview)
    for path in paths:
        if not path.exists():
            continue
        try:
            return asyncio.run(ask(path, request, timeout_s))
        except NoDaemon:
            continue
        except ControlFailed as exc:
            return fail(str(exc))
    return None


def seen_by_daemon(connection: Connection, verb: str, kind: type[T]) -> T | None:
    """What the running daemon says of itself; None if none runs, or the command was told where to connect."""
    if connection != Connection(
        settings=connection.settings, timeout=connection.timeout, log_level=connection.log_level
    ):
        return None
    answer = asked(sockets(connection.settings), verb, connection.timeout or LOOK_S)
    if answer is None:
        return None
    if not answer.ok:
        return fail(answer.error, EXIT_FAILED)
    sys.stderr.write("the running daemon was asked\n")
    return msgspec.convert(answer.data, kind, strict=False)


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a container without a name for its user
        return f"user {os.getuid()}"
