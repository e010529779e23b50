"""The two sides, each after a real handshake with a simulated gateway in the same process.

What is measured afterwards is handed to the real protocol object, `ib.client.conn.data_received(chunk)`, as the
transport does; the gateway has fallen silent, so that its work is not counted.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import feed
import ib_insync

from ibkr_service import log, pages
from ibkr_service.app import App, AppConfig
from ibkr_service.broker import translate
from ibkr_service.broker.ib import adopt_running_loop
from ibkr_service.broker.login import SessionConfig
from ibkr_service.clock import Clock, SystemClock
from ibkr_service.core.instrument import AnyInstrument, Forex, Option, Stock
from ibkr_service.daemon import spare_the_collector
from ibkr_service.desk import Desk
from ibkr_service.rehearsal.world import WIDE_LIMITS
from ibkr_service.sim import Gateway, GatewayConfig, Server, serve
from ibkr_service.sim.contracts import ContractSpec
from ibkr_service.supervisor import StrategySpec

Library = Any  # ib_insync has no types

LIMIT_S = 30.0  # no handshake and no subscription takes so long
HOLD_LIMIT_S = 2.0  # as settings.toml has it
NEVER_S = 3_600.0
FAST = 100_000  # messages a second: pacing is not what is measured
OPTIONS_EXPIRY = "20261218"


def quiet_logs(folder: Path, clock: Clock) -> None:
    """Log as the daemon does when its output goes to a file."""
    log.configure("info", "json", stream=(folder / "log").open("w"), now=clock.now)


@asynccontextmanager
async def gateway() -> AsyncIterator[Server]:
    """A simulated gateway on this loop; its own limit on messages is off."""
    server = await serve(Gateway(GatewayConfig(requests_per_second_max=0)))
    try:
        yield server
    finally:
        await server.close()


def forty_instruments(server: Server) -> list[AnyInstrument]:
    """All stocks and currency pairs of the simulated world, and options of SPY to make it forty."""
    universe = server.gateway.universe
    found: list[AnyInstrument] = [Stock(c.symbol) for c in universe.stocks.values()]
    found += [Forex(c.symbol, c.currency) for c in universe.pairs.values()]
    chain = universe.find(ContractSpec(symbol="SPY", sec_type="OPT", expiry=OPTIONS_EXPIRY))
    found += [Option("SPY", c.expiry, float(c.strike), "C" if c.right == "C" else "P") for c in chain]
    return found[: feed.INSTRUMENTS]


async def until(condition: Callable[[], bool]) -> None:
    """Wait until something is so.

    Raises:
        TimeoutError: it never was.
    """
    async with asyncio.timeout(LIMIT_S):
        while not condition():  # noqa: ASYNC110 - conditions have no event
            await asyncio.sleep(0.01)


@asynccontextmanager
async def raw_ib(server: Server, watched: list[AnyInstrument]) -> AsyncIterator[tuple[Library, list[Library]]]:
    """ib_insync by itself, connected, synchronised and subscribed; and its tickers."""
    adopt_running_loop()
    ib = ib_insync.IB()
    ib.client.MaxRequests = 0
    await ib.connectAsync(server.host, server.port, clientId=1)
    ib.client.updateReqId(feed.FIRST_REQUEST)
    tickers = [ib.reqMktData(translate.contract_of(instrument)) for instrument in watched]
    await until(lambda: all(ticker.bid == ticker.bid for ticker in tickers))
    assert [ib.wrapper.ticker2ReqId["mktData"][t] for t in tickers] == _requests(watched), "the feed's request ids"
    try:
        yield ib, tickers
    finally:
        ib.disconnect()


@asynccontextmanager
async def service(
    server: Server,
    watched: list[AnyInstrument],
    folder: Path,
    strategy: Callable[[Desk], Coroutine[Any, Any, None]],
    *,
    watch: bool = True,
) -> AsyncIterator[Library]:
    """The service with one strategy, its link READY and its lines LIVE: the library's client that it uses.

    Args:
        watch: False if the strategy subscribes by itself, in the order of `watched`.
    """
    clock = SystemClock()
    quiet_logs(folder, clock)
    config = AppConfig(
        # No probes: an answer must not fall between two pieces of a message of the feed.
        session=SessionConfig(server.host, server.port, 1, max_rate_per_s=FAST, probe_interval_s=NEVER_S),
        limits=WIDE_LIMITS,
        journal_path=folder / "journal.sqlite",
        hold_limit_s=HOLD_LIMIT_S,
    )

    async def subscribed(desk: Desk) -> None:
        for instrument in watched:
            await desk.qualify(instrument)
        client_of(app).updateReqId(feed.FIRST_REQUEST)
        for instrument in watched if watch else ():
            desk.watch(instrument)
        await strategy(desk)

    app = App(config, [StrategySpec("reader", subscribed)], clock=clock, rng=random.Random(feed.SEED))
    spare_the_collector()  # as the daemon does
    async with asyncio.TaskGroup() as around:
        around.create_task(app.run(), name="app")
        await until(lambda: len(app.book.quotes) == len(watched))
        assert [line.request for line in app.session.lines] == _requests(watched), "the feed's request ids"
        await asyncio.to_thread(pages.gather)  # as the daemon does
        try:
            yield client_of(app)
        finally:
            app.request_stop("the benchmark ends")


def client_of(app: App) -> Library:
    """The library's client on the service's connection."""
    connection = app.session._connection  # noqa: SLF001 - where the bytes go in
    assert connection is not None, "connected"
    return connection.ib.client


def _requests(watched: list[AnyInstrument]) -> list[int]:
    return [feed.FIRST_REQUEST + number for number in range(len(watched))]


async def deliver(client: Library, chunks: list[bytes]) -> None:
    """Hand over chunk after chunk, one in each turn of the loop, as a transport does; stop while reading is paused."""
    conn = client.conn
    for chunk in chunks:
        while not conn.transport.is_reading():  # noqa: ASYNC110 - the transport has no event
            await asyncio.sleep(0)
        conn.data_received(chunk)
        await asyncio.sleep(0)
