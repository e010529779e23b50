"""Tick in to order out, over TCP: from a tick's bytes into one socket to the order's bytes out of it.

Three processes. The *conductor* is the simulated gateway of both sides, one for each, with a stopwatch on its end of
the line. Side `raw` calls `ib.placeOrder` in a handler of pendingTickersEvent; side `service` is a strategy at its
desk: risk limits, journal (`process` durability), pacing and the log included. Both are connected all the time, and get
their ticks in turns; what is told between two ticks (acknowledgements, fills, commissions) is the gateway's own. So
both pay the same for the kernel, for the conductor's loop, and for the machine's good and bad moments.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

import feed
import ib_insync
import paired
import sides

from ibkr_service.core.events import Tick
from ibkr_service.core.instrument import Stock
from ibkr_service.core.orders import Intent
from ibkr_service.daemon import loop_factory
from ibkr_service.desk import Desk
from ibkr_service.sim import Server
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.server import Connection
from ibkr_service.sim.wire import LENGTH_BYTES, frame

AAPL = Stock("AAPL")
QUANTITY = 100
PAUSE_S = 0.04  # after an order's fill: for the commission, the position, and what both sides make of them
SETTLE_S = 1.0
LIMIT_S = 10.0
WARM_UP = 50
FIRST_CENTS = 30_000
PLACE_ORDER = f"{int(Request.PLACE_ORDER)}\0".encode()
SIDES = ("raw", "service")
BID, ASK, LAST = 1, 2, 4


class Signal:
    """The strategy of both sides: a higher bid is a reason to buy, and to sell in turns."""

    def __init__(self) -> None:
        self._bid = FIRST_CENTS / 100
        self._buys = False

    def action(self, bid: float | None) -> str | None:
        """What to do about a bid."""
        if bid is None or not bid > self._bid:  # NaN is the library's "none"
            return None
        self._bid, self._buys = bid, not self._buys
        return "BUY" if self._buys else "SELL"

    async def at_desk(self, desk: Desk) -> None:
        """Trade as a strategy does."""
        async for event in desk.events():
            if isinstance(event, Tick) and (action := self.action(event.bid)):
                desk.submit(Intent(instrument=AAPL, action=action, quantity=Decimal(QUANTITY)))


# --- the sides -------------------------------------------------------------------------------------------------------


class Address(NamedTuple):
    """Where the gateway is."""

    host: str
    port: int


@asynccontextmanager
async def raw(gateway: Address) -> AsyncIterator[None]:
    """ib_insync by itself."""
    signal = Signal()
    async with sides.raw_ib(gateway, [AAPL]) as (ib, tickers):
        contract = tickers[0].contract
        await ib.qualifyContractsAsync(contract)

        def on_tickers(tickers: set[Any]) -> None:
            for ticker in tickers:
                if action := signal.action(ticker.bid):
                    ib.placeOrder(contract, ib_insync.MarketOrder(action, QUANTITY))

        ib.pendingTickersEvent += on_tickers
        yield


@asynccontextmanager
async def service(gateway: Address) -> AsyncIterator[None]:
    """The service, likewise."""
    with tempfile.TemporaryDirectory() as home:
        async with sides.service(gateway, [AAPL], Path(home), Signal().at_desk):
            yield


async def trade(side: str, port: int) -> None:
    """Be a side, until standard input ends."""
    async with {"raw": raw, "service": service}[side](Address("127.0.0.1", port)):
        print("ready", flush=True)
        await asyncio.to_thread(sys.stdin.read)


# --- the conductor ---------------------------------------------------------------------------------------------------


class Stopwatch(asyncio.Protocol):
    """Stands between a socket and the gateway's end of it; notes when an order comes, and its fields."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self.orders: list[list[str]] = []
        self.came_ns = 0
        self.came = asyncio.Event()
        transport = connection._transport  # noqa: SLF001 - the wire itself is what is measured
        assert transport is not None, "connected"
        self._transport = transport
        transport.set_protocol(self)

    def data_received(self, data: bytes) -> None:
        """Note and pass on."""
        came_ns = time.perf_counter_ns()
        for message in feed.one_tick_chunks(data):  # the service asks for something else now and then
            if message.startswith(PLACE_ORDER, LENGTH_BYTES):
                self.came_ns = came_ns
                self.orders.append(message[LENGTH_BYTES:].decode().split("\0"))
                self.came.set()
        self._connection.data_received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """Pass on."""
        self._connection.connection_lost(exc)

    async def time_ns(self, chunk: bytes) -> int:
        """Send a tick; how long it took until the order came."""
        self.came.clear()
        began_ns = time.perf_counter_ns()
        self._transport.write(chunk)
        async with asyncio.timeout(LIMIT_S):
            await self.came.wait()
        return self.came_ns - began_ns

    def tell(self, chunk: bytes) -> None:
        """Send something that is answered by nothing."""
        self._transport.write(chunk)


@asynccontextmanager
async def connected(side: str) -> AsyncIterator[tuple[Server, Stopwatch]]:
    """A gateway, and a side that is connected to it and has its first quote; from here on the ticks are ours."""
    async with sides.gateway() as server:
        process = await asyncio.create_subprocess_exec(
            sys.executable,
            str(Path(__file__)),
            *("--side", side, "--port", str(server.port)),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=paired.environment(),
        )
        assert process.stdin is not None, "a pipe"
        assert process.stdout is not None, "a pipe"
        try:
            async with asyncio.timeout(sides.LIMIT_S):
                said = await process.stdout.readline()
            if said != b"ready\n":
                raise RuntimeError(f"side {side} did not start: {said!r}")
            (connection,) = server.connections
            server.faults.farm_down()
            yield server, Stopwatch(connection)
        finally:
            process.stdin.close()
            await process.wait()


async def conduct(orders: int) -> paired.Result:
    """Let both sides trade, in turns; each second time the other one first."""
    taken_ns: dict[str, list[int]] = {side: [] for side in SIDES}
    async with AsyncExitStack() as around:
        lines = {side: await around.enter_async_context(connected(side)) for side in SIDES}
        await asyncio.sleep(SETTLE_S)
        for _, watch in lines.values():
            # A quote in which nothing is missing that was there before, or the service would soon ask for it anew.
            watch.tell(price(LAST, FIRST_CENTS))
        for number in range(1, WARM_UP + orders + 1):
            for side in SIDES if number % 2 else reversed(SIDES):
                server, watch = lines[side]
                taken_ns[side].append(await watch.time_ns(quote(FIRST_CENTS + number)))
                await filled(server, number)
                await asyncio.sleep(PAUSE_S)
        await asyncio.sleep(SETTLE_S)
        for side, (server, watch) in lines.items():
            check(side, watch.orders, WARM_UP + orders, server)
    return {side: taken_ns[side][WARM_UP:] for side in SIDES}


async def filled(server: Server, number: int) -> None:
    """Wait until so many orders are."""
    await sides.until(lambda: len(server.gateway.executions) == number)


def price(kind: int, cents: int) -> bytes:
    """A price tick."""
    return frame(Answer.TICK_PRICE, 6, feed.FIRST_REQUEST, kind, f"{cents / 100:.2f}", 300, 1)


def quote(cents: int) -> bytes:
    """A bid and an ask, as TWS sends them: two messages in one chunk."""
    return price(BID, cents) + price(ASK, cents + 2)


def check(side: str, orders: list[list[str]], wanted: int, server: Server) -> None:
    """Both sides must have sent the same orders, and all of them must have been filled."""
    sent = [(fields[3], fields[16], fields[17], fields[18]) for fields in orders]
    expected = [("AAPL", "SELL" if n % 2 else "BUY", str(QUANTITY), "MKT") for n in range(wanted)]
    if sent != expected or len(server.gateway.executions) != wanted:
        fills = len(server.gateway.executions)
        raise AssertionError(f"{side}: {len(sent)} orders, {fills} fills, of {wanted}: {sent[:2]}")


def rows(rounds: int, *, quick: bool) -> list[paired.Row]:
    """Median and 99th percentile of each side."""
    runs = [paired.child("orders.py", "--orders", "40" if quick else "400") for _ in range(rounds)]
    found = []
    for percent in (50, 99):
        baseline, ours = ([percentile(run[side], percent) / 1000 for run in runs] for side in SIDES)
        name = "median" if percent == 50 else f"{percent}th percentile"  # noqa: PLR2004 - that is the median
        found.append(
            paired.Row(
                f"tick in to order out over TCP, µs, {name}",
                f"{median(baseline):,.0f}",
                f"{median(ours):,.0f}",
                paired.ratio(ours, baseline),
            )
        )
    return found


def percentile(values: list[int], percent: int) -> int:
    """The value that so many percent do not exceed."""
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def main() -> None:
    """Conduct and print the result, or be a side."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, default=400)
    parser.add_argument("--side", choices=SIDES)
    parser.add_argument("--port", type=int)
    parser.add_argument("--text", action="store_true", help="print percentiles instead of every value")
    chosen = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        if chosen.side:
            runner.run(trade(chosen.side, chosen.port))
            return
        found = runner.run(conduct(chosen.orders))
    if not chosen.text:
        print(json.dumps(found))
        return
    for percent in (50, 90, 99):
        low, high = (percentile(found[side], percent) / 1000 for side in SIDES)
        print(f"{percent} %: raw {low:,.0f} µs, service {high:,.0f} µs, ratio {high / low:.2f}")


if __name__ == "__main__":
    main()
