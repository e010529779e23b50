"""What the commands share: their options, how one connects, and how one ends.

`connecting` gives a command the options of the connection, which are the same for each that looks at the market.
"""

from __future__ import annotations

import functools
import inspect
import json
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, NoReturn, get_type_hints

import typer
from rich.console import Console, RenderableType
from rich.table import Table

from ibkr_service import tables
from ibkr_service.app import EXIT_UNUSABLE
from ibkr_service.core.chain import Expiries, Strikes
from ibkr_service.core.errors import InvalidRequest
from ibkr_service.settings import JournalSettings, Settings, SettingsError, load_settings

SettingsFile = Annotated[Path | None, typer.Option("--settings", help="The settings file (default: settings.toml).")]
Mode = Annotated[str | None, typer.Option(help="simulated, paper or live.")]
Host = Annotated[str | None, typer.Option(help="Host of TWS or the gateway.")]
Port = Annotated[int | None, typer.Option(help="Port of TWS or the gateway.")]
ClientId = Annotated[int | None, typer.Option(help="Client id of the connection.")]
Live = Annotated[bool, typer.Option("--live", help="Allow real money; ibkr.mode must be live as well.")]
JournalFile = Annotated[str | None, typer.Option("--journal", help="The journal file.")]
Account = Annotated[str | None, typer.Option(help="One of several accounts (default: ibkr.account).")]
Timeout = Annotated[float | None, typer.Option(help="Seconds to wait for the gateway, and for each answer.", min=0.1)]
LogLevel = Annotated[str | None, typer.Option(help="debug, info, warning or error.")]
AsJson = Annotated[bool, typer.Option("--json", help="One JSON document instead of tables.")]
Unmasked = Annotated[bool, typer.Option("--unmasked", help="Show account numbers in full.")]


SHUTDOWN_S = 1.0  # nothing of these commands is worth waiting for


def fail(text: str, code: int = EXIT_UNUSABLE) -> NoReturn:
    """End with one line on standard error."""
    sys.stderr.write(f"ibkr-service: {text}\n")
    raise SystemExit(code)


def is_live(settings: Path | None) -> bool:
    """Whether the settings say live; a command that never trades needs no flag for it."""
    try:
        load_settings(settings, environ=os.environ, overrides={}, live_flag=True)
    except SettingsError:
        return False
    return True


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The options of a command that connects, looks and leaves.

    Args:
        timeout: how long to wait for the gateway and for each answer, in seconds; None: as long as is usual for it.
    """

    settings: SettingsFile = None
    mode: Mode = None
    host: Host = None
    port: Port = None
    client_id: Annotated[
        int | None, typer.Option(help="Client id of the connection (default: ibkr.cli_client_id).")
    ] = None
    live: Live = False
    account: Account = None
    timeout: Timeout = None
    log_level: LogLevel = None

    def is_embedded(self, settings: Settings) -> bool:
        """Whether to look at a simulated gateway of one's own: nobody has said where another one is."""
        return settings.ibkr.mode == "simulated" and self.host is None and self.port is None

    def load(self, folder: Path) -> Settings:
        """The settings of a connection that reads only, beside a daemon: another client id, a journal in `folder`.

        Raises:
            SettingsError: one of them makes no sense.
        """
        overrides = {
            "ibkr.mode": self.mode,
            "ibkr.host": self.host,
            "ibkr.port": self.port,
            "ibkr.cli_client_id": self.client_id,  # by this name, since it must not be the daemon's
            "ibkr.account": self.account,
            "ibkr.connect_timeout_s": self.timeout,
            "log.level": self.log_level,
        }
        settings = load_settings(self.settings, environ=os.environ, overrides=overrides, live_flag=self.live)
        ibkr = settings.ibkr.model_copy(
            update={"client_id": settings.ibkr.cli_client_id, "read_only": True, "use_ib_insync": True}
        )
        journal = JournalSettings(path=str(folder / "journal.sqlite"))
        service = settings.service.model_copy(update={"shutdown_timeout_s": SHUTDOWN_S})
        return settings.model_copy(update={"ibkr": ibkr, "journal": journal, "service": service, "strategies": ()})


def connecting(command: Callable[..., None]) -> Callable[..., None]:
    """Give a command the options of a connection; it is called with them as `connection`."""
    names = [field.name for field in fields(Connection)]

    @functools.wraps(command)
    def run(**given: Any) -> None:  # noqa: ANN401 - whatever the options are
        command(connection=Connection(**{name: given.pop(name) for name in names}), **given)

    hints = get_type_hints(Connection, include_extras=True)
    keyword = inspect.Parameter.KEYWORD_ONLY
    shared = [
        inspect.Parameter(f.name, keyword, default=f.default, annotation=hints[f.name]) for f in fields(Connection)
    ]
    own_hints = get_type_hints(command, include_extras=True)
    own = [
        parameter.replace(annotation=own_hints[name])
        for name, parameter in inspect.signature(command).parameters.items()
        if name != "connection"
    ]
    del run.__wrapped__  # typer would look behind it
    run.__signature__ = inspect.Signature([*own, *shared])  # type: ignore[attr-defined]  # that is how it is said
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*own, *shared)}
    return run


# --- what people type ------------------------------------------------------------------------------------------------


def expiries_of(text: str) -> Expiries:
    """Read `2` (the next two dates), `20-40` (days to expiry), `20261218,2027-01-15` (dates; one is enough).

    Raises:
        InvalidRequest: with the forms that are understood.
    """
    text = "".join(text.split())
    if re.fullmatch(r"\d{1,4}", text) and int(text):
        return int(text)
    if found := re.fullmatch(r"(\d{1,4})-(\d{1,4})", text):
        return int(found[1]), int(found[2])
    days = [day for day in text.split(",") if day]
    if days and all(re.fullmatch(r"\d{8}|\d{4}-\d\d-\d\d", day) for day in days):
        return [day.replace("-", "") for day in days]
    raise InvalidRequest(f"cannot read expiries {text!r}: write 2, 20-40 (days) or 20261218,20270115")


def strikes_of(text: str) -> Strikes:
    """Read `10` (so many around the money), `220-240` (a range), `220,222.5` (strikes; a single one is `220,`).

    Raises:
        InvalidRequest: with the forms that are understood.
    """
    text = "".join(text.split())
    number = r"\d+(?:\.\d+)?"
    if text.isdecimal() and int(text):
        return int(text)
    if found := re.fullmatch(f"({number})-({number})", text):
        return float(found[1]), float(found[2])
    if "," in text and re.fullmatch(f"{number}(,{number})*,?", text):
        return [float(strike) for strike in text.split(",") if strike]
    raise InvalidRequest(f"cannot read strikes {text!r}: write 10 (around the money), 220-240, or 220,225")


def moment_of(text: str | None) -> datetime | None:
    """Read `2026-11-20`, `2026-11-20T14:30`, with an offset if it is not UTC.

    Raises:
        InvalidRequest: it is no moment.
    """
    if text is None:
        return None
    try:
        at = datetime.fromisoformat(text)
    except ValueError:
        raise InvalidRequest(f"cannot read the moment {text!r}: write 2026-11-20 or 2026-11-20T14:30 (UTC)") from None
    return at.replace(tzinfo=UTC) if at.tzinfo is None else at


# --- saying ----------------------------------------------------------------------------------------------------------


def screen_width() -> int:
    """How many characters a line has: a terminal's, while a file or a pipe has room for everything."""
    console = Console()
    return console.width if console.is_terminal else tables.ANY_WIDTH


def print_tables(*things: RenderableType) -> None:
    """Print tables, and lines of text, in full width where there is no terminal."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = max(console.width, tables.width_of(*(thing for thing in things if isinstance(thing, Table))))
    for thing in things:
        console.print(thing, soft_wrap=isinstance(thing, str), markup=False)


def print_json(document: dict[str, Any]) -> None:
    """Print one JSON document; on several lines for people."""
    indent = 2 if sys.stdout.isatty() else None
    sys.stdout.write(json.dumps(document, ensure_ascii=False, indent=indent, allow_nan=False) + "\n")
