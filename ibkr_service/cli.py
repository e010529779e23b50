"""The command line: `run`, `check`, `simulate`, and the commands of the other `cli_…` modules.

Options override the environment, which overrides the file. A mistake in any of them is one line on standard error and
exit code 2, before anything was started.
"""

from __future__ import annotations

import asyncio
import os
import re
import signal
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.table import Table

from ibkr_service import __version__, daemon, log
from ibkr_service.app import EXIT_FAILED, config_of, specs_of
from ibkr_service.channels import channels_of
from ibkr_service.claims import claims_folder
from ibkr_service.cli_journal import records
from ibkr_service.cli_market import market
from ibkr_service.cli_operator import operator
from ibkr_service.cli_options import (
    ClientId,
    Host,
    JournalFile,
    Live,
    LogLevel,
    Mode,
    Port,
    SettingsFile,
    fail,
    is_live,
)
from ibkr_service.cli_rehearse import rehearsing
from ibkr_service.cli_replay import replaying
from ibkr_service.clock import SystemClock
from ibkr_service.core.errors import FatalError, JournalError, ServiceError
from ibkr_service.core.notices import Notice
from ibkr_service.embedded import embedded_gateway
from ibkr_service.notifying import send_to_all
from ibkr_service.recorder import RecordingConfig, check_unused
from ibkr_service.settings import SettingsError, SimulatorSettings, StrategySettings, describe, load_settings
from ibkr_service.sim import scenarios
from ibkr_service.story import Story

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    help="A long-running trading service for Interactive Brokers.",
)
app.add_typer(market)
app.add_typer(rehearsing)
app.add_typer(replaying)
app.add_typer(records)
app.add_typer(operator)

DEMO = StrategySettings(
    name="demo",
    run="ibkr_service.strategies.sma_cross:sma_cross",
    params={"instrument": "EUR.USD", "quantity": "25000", "fast": 2, "slow": 5},
)
UNITS_BYTES = {"": 1, "k": 1_000, "M": 1_000_000, "G": 1_000_000_000}
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}

Replay = Annotated[str | None, typer.Option(help="Replay recorded quotes from this CSV file.")]
Speed = Annotated[float | None, typer.Option(help="How many times faster than recorded.")]
Hours = Annotated[str | None, typer.Option(help="always: markets never close; real: the exchanges' own hours.")]
Seed = Annotated[int | None, typer.Option(help="Seed of the simulated market.")]
Record = Annotated[Path | None, typer.Option("--record", help="Record the session to this new file, for `replay`.")]
RecordLimit = Annotated[str, typer.Option(help="The recording ends at this size, the service goes on.")]
LogFormat = Annotated[str | None, typer.Option(help="auto, console or json.")]


def main() -> None:
    """Run the command line; every expected failure is one line and an exit code."""
    try:
        app()
    except SettingsError as exc:
        fail(f"settings: {exc}")
    except (FatalError, JournalError) as exc:
        fail(str(exc))


def duration_s(text: str) -> float:
    """Read `30s`, `5m`, `1h30m` or a plain number of seconds.

    Raises:
        typer.BadParameter: with the forms that are understood.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text):
        text += "s"
    if not re.fullmatch(r"(\d+(\.\d+)?[smhd])+", text):
        raise typer.BadParameter(f"{text!r} is not a duration: write 30s, 5m or 1h30m")
    return sum(float(number) * UNITS_S[unit] for number, unit in re.findall(r"(\d+(?:\.\d+)?)([smhd])", text))


def size_bytes(text: str) -> int:
    """Read `500MB`, `2GB`, `64kB` or a plain number of bytes.

    Raises:
        typer.BadParameter: with the forms that are understood.
    """
    found = re.fullmatch(r"(\d{1,12})\s*([kMG]?)B?", text)
    if found is None or not int(found[1]):
        raise typer.BadParameter(f"{text!r} is not a size: write 500MB, 2GB or a number of bytes")
    return int(found[1]) * UNITS_BYTES[found[2]]


@app.command()
def run(  # noqa: PLR0913 - each is an option
    *,
    settings: SettingsFile = None,
    simulate: Annotated[bool, typer.Option("--simulate", help="Trade on an embedded simulated gateway.")] = False,
    demo: Annotated[bool, typer.Option("--demo", help="Add a strategy that trades, and tell the story.")] = False,
    for_: Annotated[str | None, typer.Option("--for", help="End in order after this long, such as 30s.")] = None,
    mode: Mode = None,
    host: Host = None,
    port: Port = None,
    client_id: ClientId = None,
    live: Live = False,
    replay: Replay = None,
    speed: Speed = None,
    seed: Seed = None,
    hours: Hours = None,
    journal: JournalFile = None,
    record: Record = None,
    record_limit: RecordLimit = "100MB",
    unmasked: Annotated[bool, typer.Option("--unmasked", help="Record account numbers in full.")] = False,
    log_level: LogLevel = None,
    log_format: LogFormat = None,
) -> None:
    """Run the service until SIGTERM or SIGINT."""
    overrides = {
        "ibkr.mode": "simulated" if simulate else mode,
        "ibkr.host": host,
        "ibkr.port": port,
        "ibkr.client_id": client_id,
        "simulator.replay": replay,
        "simulator.speed": speed,
        "simulator.seed": seed,
        "simulator.hours": hours,
        "journal.path": journal,
        "log.level": log_level or ("error" if demo else None),
        "log.format": log_format,
    }
    if simulate and mode not in {None, "simulated"}:
        raise typer.BadParameter(f"--simulate and --mode {mode} contradict each other")
    recording = _recording(record, record_limit, masked=not unmasked)
    length_s = duration_s(for_) if for_ is not None else None
    chosen = load_settings(settings, environ=os.environ, overrides=overrides, live_flag=live)
    if demo and not chosen.strategies:
        chosen = chosen.model_copy(update={"strategies": (DEMO,)})
    clock = SystemClock()
    log.configure(chosen.log.level, chosen.log.format, now=clock.now)
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - a strategy beside settings.toml is found, as with python -m
    story = Story(Console())
    simulator = chosen.simulator if chosen.ibkr.mode == "simulated" else None
    if demo and simulator is not None:
        story.announce(simulator.seed)
    code = daemon.run(
        daemon.Daemon(
            config=replace(
                config_of(chosen),
                claims=claims_folder(os.environ, Path(tempfile.gettempdir())),
                recording=recording,
            ),
            specs=specs_of(chosen),
            clock=clock,
            simulator=simulator,
            duration_s=length_s,
            observer=story.tell if demo else None,
            at_end=story.end if demo else lambda _app: None,
            channels=channels_of(chosen.notify.urls),
        )
    )
    raise typer.Exit(code)


def _recording(file: Path | None, limit: str, *, masked: bool) -> RecordingConfig | None:
    """Where the session is to be recorded; a mistake is found before anything starts."""
    if file is None:
        if not masked:
            raise typer.BadParameter("--unmasked goes with --record FILE")
        return None
    check_unused(file)
    return RecordingConfig(file, masked, size_bytes(limit))


@app.command()
def check(
    *,
    settings: SettingsFile = None,
    mode: Mode = None,
    host: Host = None,
    port: Port = None,
    client_id: ClientId = None,
    live: Live = False,
) -> None:
    """Print the effective settings, and whether the gateway answers."""
    overrides = {"ibkr.mode": mode, "ibkr.host": host, "ibkr.port": port, "ibkr.client_id": client_id}
    chosen = load_settings(settings, environ=os.environ, overrides=overrides, live_flag=live)
    specs_of(chosen)
    channels_of(chosen.notify.urls)
    log.configure("error", "console", now=SystemClock().now)
    table = Table("key", "value", "from")
    for key, value, origin in describe(chosen):
        table.add_row(key, value, origin)
    console = Console()
    console.print(table)
    if chosen.ibkr.mode == "simulated":
        console.print("gateway: simulated mode starts its own; nothing to reach")
        return
    with asyncio.Runner(loop_factory=daemon.loop_factory()) as runner:
        try:
            report = runner.run(daemon.probe(config_of(chosen).session))
        except ServiceError as exc:
            console.print(f"gateway: [red]no[/red] - {exc}", soft_wrap=True)
            raise typer.Exit(1) from None
    console.print(f"gateway: [green]yes[/green] - {report}", soft_wrap=True)


@app.command()
def simulate(  # noqa: PLR0913 - each is an option
    *,
    settings: SettingsFile = None,
    host: Annotated[str, typer.Option(help="Address to listen on; keep it loopback.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="Port to listen on; 0 is a free one.", min=0, max=65_535)] = 7497,
    seed: Seed = None,
    replay: Replay = None,
    speed: Speed = None,
    hours: Hours = None,
    command_port: Annotated[
        int | None, typer.Option(help="Port of a command server as IBC has one; 0 is a free one.", min=0, max=65_535)
    ] = None,
    scenario: Annotated[str | None, typer.Option(help="Let this misfortune happen; `list` names them.")] = None,
) -> None:
    """Run the simulated gateway alone, until SIGTERM or SIGINT."""
    if scenario == "list":
        sys.stdout.write("".join(f"{one}\n" for one in scenarios.SCENARIOS.values()))
        return
    try:
        misfortune = scenarios.named(scenario) if scenario is not None else None
    except ValueError as exc:
        raise typer.BadParameter(str(exc)) from None
    overrides = {
        "simulator.seed": seed,
        "simulator.replay": replay,
        "simulator.speed": speed,
        "simulator.hours": hours,
    }
    chosen = load_settings(settings, environ=os.environ, overrides=overrides, live_flag=is_live(settings))
    with asyncio.Runner(loop_factory=daemon.loop_factory()) as runner:
        try:
            runner.run(_simulate(chosen.simulator, host, port, misfortune, command_port))
        except OSError as exc:
            fail(f"cannot listen on {host}:{port}: {exc.strerror or exc}")


async def _simulate(
    simulator: SimulatorSettings,
    host: str,
    port: int,
    scenario: scenarios.Scenario | None = None,
    command_port: int | None = None,
) -> None:
    stop = asyncio.Event()
    with _stopping(stop):
        async with (
            embedded_gateway(simulator, SystemClock(), host, port, scenario, command_port=command_port) as server,
            asyncio.TaskGroup() as play,
        ):
            script = None
            if scenario is not None:
                _announce(f"scenario {scenario}")
                for key, value in scenario.settings.items():
                    _announce(f"the service needs {key} = {value}")
                server.faults.listener = lambda words, _effect: _announce(words)
                script = play.create_task(scenario.play(server, scenarios.Bystander(_announce)), name="scenario")
                script.add_done_callback(lambda _: _announce("the scenario has been played"))
            if command_port is not None:
                _announce(f"taking commands on {host}:{server.commands.port}")
            _announce(f"listening on {host}:{server.port}")
            await stop.wait()
            if script is not None:
                script.cancel()


def _announce(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


@contextmanager
def _stopping(stop: asyncio.Event) -> Iterator[None]:
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, stop.set)
    try:
        yield
    finally:
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.remove_signal_handler(number)


@app.command()
def notify(
    *,
    settings: SettingsFile = None,
    test: Annotated[bool, typer.Option("--test", help="Send a test to each address.")] = False,
) -> None:
    """Say whom the service tells of what; with --test tell them something."""
    chosen = load_settings(settings, environ=os.environ, overrides={}, live_flag=is_live(settings)).notify
    channels = channels_of(chosen.urls)
    if not channels:
        fail("notify.urls is empty: nobody is told of anything")
    if not test:
        names = ", ".join(channel.name for channel in channels)
        sys.stdout.write(f"{names}: of {', '.join(chosen.on)}\n")
        return
    notice = Notice(kind="test", at=SystemClock().now(), title="ibkr-service: a test", text="Notifications arrive.")
    failures = asyncio.run(send_to_all(channels, notice))
    for channel, failure in zip(channels, failures, strict=True):
        sys.stdout.write(f"{channel.name}: {failure or 'sent'}\n")
    raise typer.Exit(EXIT_FAILED if any(failures) else 0)


@app.command()
def version() -> None:
    """Print the version."""
    sys.stdout.write(f"ibkr-service {__version__}\n")
