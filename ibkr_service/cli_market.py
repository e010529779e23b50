"""The commands that look at market and account: `quote`, `chain`, `account`, `positions`, `history`.

Each connects read-only with a client id of its own (`ibkr.cli_client_id`), so that it may run beside a daemon; looks;
and leaves. In simulated mode it looks at an embedded simulated gateway, unless it is told where another one is. The
answer goes to standard output, all else to standard error.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import sys
import tempfile
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, TypeVar

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

from ibkr_service import daemon, log, tables, tables_chain
from ibkr_service.api import BrokerApi, IBKRIBInsyncApi, SimulatedBrokerApi
from ibkr_service.app import EXIT_FAILED, EXIT_OK
from ibkr_service.barfile import check_file, write_bars
from ibkr_service.cli_daemon import seen_by_daemon
from ibkr_service.cli_options import (
    AsJson,
    Connection,
    Unmasked,
    connecting,
    expiries_of,
    fail,
    moment_of,
    print_json,
    print_tables,
    screen_width,
    strikes_of,
)
from ibkr_service.clock import SystemClock
from ibkr_service.core.account import AccountSummary, HeldPosition
from ibkr_service.core.bars import Bar, bar_size
from ibkr_service.core.chain import ChainRequest, OptionChain
from ibkr_service.core.errors import FatalError, InvalidIntent, InvalidRequest, JournalError, ServiceError
from ibkr_service.core.instrument import AnyInstrument, parse

market = typer.Typer()

T = TypeVar("T")
Tell = Callable[[int, int], None]
Ask = Callable[[BrokerApi, Tell], Awaitable[T]]

EXIT_INTERRUPTED, EXIT_TERMINATED = 130, 143  # as of processes that SIGINT and SIGTERM have ended
QUOTE_S, CHAIN_S, PAGE_S = 10.0, 30.0, 300.0  # how long to wait unless --timeout says otherwise
PNL_S, LOOK_S = 3.0, 0.05  # profit and loss come in subscriptions of their own, about a second after all else
# Failures that end a command, which says them itself, in one line.
SAID = frozenset({"gateway connection failed", "no option chain", "no market data"})


# --- the commands ----------------------------------------------------------------------------------------------------


@market.command()
@connecting
def quote(
    *,
    connection: Connection,
    instruments: Annotated[list[str], typer.Argument(help="AAPL, EUR.USD, 'AAPL 20270115 150 C', IND:SPX@CBOE …")],
    as_json: AsJson = False,
) -> None:
    """Quotes: bid, ask, last, volume, the day's range. Exit code 1 if one of them cannot be had."""
    with _wrong_use():
        wanted = list(dict.fromkeys(parse(text) for text in instruments))
    limit_s = connection.timeout or QUOTE_S
    clock = SystemClock()
    found = look(connection, f"{len(wanted)} quotes", lambda broker, tell: quotes_of(broker, wanted, limit_s, tell))
    if as_json:
        print_json(tables.quotes_document(found, clock.now()))
    else:
        print_tables(tables.quotes_table(found, clock.now(), screen_width()))
    for line in tables.refusals(found):
        sys.stderr.write(f"ibkr-service: {line}\n")
    raise typer.Exit(EXIT_FAILED if tables.refusals(found) else EXIT_OK)


@market.command()
@connecting
def chain(
    *,
    connection: Connection,
    underlying: Annotated[str, typer.Argument(help="AAPL, IND:SPX@CBOE, 'FUT:ES 202612@CME'")],
    expiries: Annotated[str, typer.Option(help="2: the next two; 20-40: days from now; 20261218,20270115")] = "2",
    strikes: Annotated[str, typer.Option(help="10: around the money; 220-240; 220,225 (a single one: 220,)")] = "10",
    trading_class: Annotated[str | None, typer.Option("--class", help="One trading class, such as SPXW.")] = None,
    rights: Annotated[str, typer.Option(help="C, P or CP.")] = "CP",
    deadline: Annotated[float, typer.Option(help="Seconds after which what is there is shown.")] = CHAIN_S,
    as_json: AsJson = False,
) -> None:
    """The option chain: calls on the left, puts on the right, a rule where the money is."""
    with _wrong_use():
        wanted = ChainRequest(
            underlying=parse(underlying),
            expiries=expiries_of(expiries),
            strikes=strikes_of(strikes),
            rights="".join(sorted(rights.upper())),
            trading_class=trading_class.upper() if trading_class else None,
            deadline_s=deadline,
        )
    found = look(connection, f"chain of {wanted.underlying}", lambda broker, tell: chain_of(broker, wanted, tell))
    if as_json:
        print_json(tables_chain.chain_document(found))
        return
    print_tables(*tables_chain.chain_tables(found, screen_width()))
    print_tables(*tables_chain.chain_notes(found))


@market.command()
@connecting
def account(*, connection: Connection, unmasked: Unmasked = False, as_json: AsJson = False) -> None:
    """What the account is worth and may spend."""

    async def ask(broker: BrokerApi, _tell: Tell) -> Any:  # noqa: ANN401 - an AccountSummary
        await _until(lambda: broker.desk.account_summary().daily_pnl is not None)
        return await broker.get_account_summary()

    found = seen_by_daemon(connection, "account", AccountSummary) or look(connection, "account", ask)
    if as_json:
        print_json(tables.account_document(found, unmasked=unmasked))
    else:
        print_tables(*tables.account_tables(found, unmasked=unmasked, width=screen_width()))


@market.command()
@connecting
def positions(*, connection: Connection, unmasked: Unmasked = False, as_json: AsJson = False) -> None:
    """What the account holds, with values and profit and loss."""

    async def ask(broker: BrokerApi, _tell: Tell) -> Any:  # noqa: ANN401 - account and positions
        await _until(lambda: all(held.daily_pnl is not None for held in broker.desk.positions().values()))
        return broker.desk.book.account, await broker.get_positions()

    told = seen_by_daemon(connection, "positions", tuple[str, list[HeldPosition]])
    if told is None:
        name, found = look(connection, "positions", ask)
    else:
        name, found = told[0], {held.instrument: held for held in told[1]}
    now = SystemClock().now()
    if as_json:
        print_json(tables.positions_document(name, found, now, unmasked=unmasked))
    elif found:
        print_tables(tables.positions_table(name, found, now, unmasked=unmasked, width=screen_width()))
    else:
        print_tables(f"{name if unmasked else log.mask_account(name)} holds nothing")


@market.command()
@connecting
def history(  # noqa: PLR0913 - each is an option
    *,
    connection: Connection,
    instrument: Annotated[str, typer.Argument(help="AAPL, EUR.USD, 'FUT:ES 202612@CME' …")],
    bars: Annotated[str, typer.Option(help="TWS's name of the bar size: 5 secs, 1 min, 1 hour, 1 day …")] = "1 day",
    days: Annotated[float | None, typer.Option(help="How far back (default: 1, or 30 of daily bars).")] = None,
    start: Annotated[str | None, typer.Option(help="2026-11-20 or 2026-11-20T14:30, UTC.")] = None,
    end: Annotated[str | None, typer.Option(help="The same (default: now).")] = None,
    what: Annotated[str, typer.Option(help="TRADES, MIDPOINT, BID, ASK, BID_ASK …")] = "",
    regular_hours: Annotated[bool, typer.Option("--rth", help="Regular trading hours only.")] = False,
    out: Annotated[Path | None, typer.Option(help="Write all of them to FILE.csv or FILE.parquet.")] = None,
    as_json: AsJson = False,
) -> None:
    """Historical bars: a table of the last ones, or all of them in a file."""
    with _wrong_use():
        thing, size = parse(instrument), bar_size(bars)
        choice: dict[str, Any] = {"start": moment_of(start), "end": moment_of(end), "days": days}
        if out is not None:
            check_file(out)
    if days is None and start is None:
        choice["days"] = 1 if size.is_intraday else 30
    choice |= {"what": what.upper(), "regular_hours": regular_hours, "timeout_s": connection.timeout or PAGE_S}

    async def ask(broker: BrokerApi, tell: Tell) -> list[Bar]:
        return await broker.get_history(
            thing, size.name, on_progress=lambda done, pages, _: tell(done, pages), **choice
        )

    found = look(connection, f"{size} bars of {thing}", ask)
    _show_bars(thing, size.name, found, out, as_json=as_json)


def _show_bars(thing: AnyInstrument, size: str, bars: Sequence[Bar], out: Path | None, *, as_json: bool) -> None:
    if out is not None:
        try:
            write_bars(out, bars)
        except OSError as exc:
            fail(f"{out}: {exc.strerror or exc}", EXIT_FAILED)
    if as_json and out is not None:
        ends = {"first": bars[0].at.isoformat(), "last": bars[-1].at.isoformat()} if bars else {}
        print_json({"instrument": str(thing), "bar_size": size, "count": len(bars), "out": str(out), **ends})
    elif as_json:
        print_json(tables.bars_document(thing, size, bars))
    elif out is not None:
        print_tables(f"{len(bars)} bars of {size} of {thing} in {out}")
    elif bars:
        print_tables(tables.bars_table(f"{thing}, {size}", bars, screen_width()))
    else:
        print_tables(f"no bars of {size} of {thing} in this range: its market was closed")


# --- asking ----------------------------------------------------------------------------------------------------------


def look(connection: Connection, about: str, ask: Ask[T]) -> T:
    """Connect, ask, leave.

    Raises:
        SettingsError, FatalError, JournalError: it cannot be done as it is set (exit code 2, see `cli.main`).
        SystemExit: the gateway or the broker said no, after the reason was printed.
    """
    with tempfile.TemporaryDirectory(prefix="ibkr-service-") as folder:
        settings = connection.load(Path(folder))
        embedded = connection.is_embedded(settings)
        _say_less(connection, settings.log.level)
        clock = SystemClock()
        broker = (SimulatedBrokerApi if embedded else IBKRIBInsyncApi)(settings, clock=clock, patient=False)
        with asyncio.Runner(loop_factory=daemon.loop_factory()) as runner, _progress(about) as tell:
            try:
                answer = runner.run(_ask(broker, ask, tell))
            except KeyboardInterrupt:
                raise typer.Exit(EXIT_INTERRUPTED) from None
            except asyncio.CancelledError:
                raise typer.Exit(EXIT_TERMINATED) from None
            except (FatalError, JournalError):
                raise
            except InvalidRequest as exc:
                fail(str(exc))
            except ServiceError as exc:
                fail(log.mask_accounts(str(exc)), EXIT_FAILED)
    if embedded:
        seed = settings.simulator.seed
        sys.stderr.write(f"an embedded simulated gateway (seed {seed}) was asked; nothing of this is real\n")
    return answer


async def _ask(broker: BrokerApi, ask: Ask[T], tell: Tell) -> T:
    asking = asyncio.current_task()
    assert asking is not None, "this is a coroutine of a task"
    with suppress(NotImplementedError):  # virtual time knows no signals; SIGINT is asyncio's own
        asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, asking.cancel)
    async with broker:
        return await ask(broker, tell)


async def quotes_of(
    broker: BrokerApi, wanted: Sequence[AnyInstrument], timeout_s: float, tell: Tell
) -> list[tables.Quoted]:
    """The quote of each instrument, all at once, or why there is none."""
    done = 0

    async def one(instrument: AnyInstrument) -> tables.Quoted:
        nonlocal done
        try:
            return instrument, await broker.get_market_data(instrument, timeout_s)
        except ServiceError as exc:
            return instrument, exc
        finally:
            done += 1
            tell(done, len(wanted))

    async with asyncio.TaskGroup() as asking:
        tasks = [asking.create_task(one(instrument)) for instrument in wanted]
    return [task.result() for task in tasks]


async def chain_of(broker: BrokerApi, wanted: ChainRequest, tell: Tell) -> OptionChain:
    """The chain that is wanted."""
    return await broker.get_option_chain(
        wanted.underlying,
        expiries=wanted.expiries,
        strikes=wanted.strikes,
        rights=wanted.rights,
        trading_class=wanted.trading_class,
        deadline_s=wanted.deadline_s,
        on_progress=tell,
    )


async def _until(is_there: Callable[[], bool]) -> None:
    """Wait for what may come a little later, or never."""
    loop = asyncio.get_running_loop()
    give_up_s = loop.time() + PNL_S
    while not is_there() and loop.time() < give_up_s:  # noqa: ASYNC110 - a figure is not an event of its own
        await asyncio.sleep(LOOK_S)


# --- saying ----------------------------------------------------------------------------------------------------------


@contextmanager
def _wrong_use() -> Iterator[None]:
    """Before anything was started: one line, exit code 2."""
    try:
        yield
    except (InvalidIntent, InvalidRequest) as exc:
        fail(str(exc))


def _say_less(connection: Connection, level: str) -> None:
    """Log errors only, and not those that the command says itself; all that was asked for if it was."""
    log.configure(level if connection.log_level else "error", "console", now=SystemClock().now)
    if connection.log_level is None:
        for handler in logging.getLogger().handlers:
            handler.addFilter(lambda record: not (isinstance(record.msg, dict) and record.msg.get("event") in SAID))


@contextmanager
def _progress(about: str) -> Iterator[Tell]:
    """A bar on standard error, if a person can see it."""
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task(about, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total or None)
