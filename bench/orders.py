"""Tick in to order out: from a tick's bytes at the protocol to the order's bytes at the transport.

Side `raw` calls `ib.placeOrder` in a handler of pendingTickersEvent. Side `service` is a strategy at its desk: risk
limits, journal (`process` durability), pacing and the log included. One order every two virtual seconds, so that pacing
and rate limits are what they are in life; what is timed is real.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from decimal import Decimal
from pathlib import Path
from statistics import median
from typing import Any

import ib_insync
import paired
import sides

from ibkr_service.broker import translate
from ibkr_service.broker.ib import adopt_running_loop
from ibkr_service.clock import LoopClock
from ibkr_service.core.events import Tick
from ibkr_service.core.instrument import Stock
from ibkr_service.core.orders import Intent
from ibkr_service.desk import Desk
from ibkr_service.rehearsal.world import EPOCH, World, WorldConfig
from ibkr_service.sim import Server
from ibkr_service.sim.loop import run
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.wire import LENGTH_BYTES, frame
from ibkr_service.supervisor import StrategySpec

AAPL = Stock("AAPL")
QUANTITY = 100
PAUSE_S = 2.0  # virtual; 30 orders a minute is what settings.toml allows
WARM_UP = 50
FIRST_CENTS = 30_000
PLACE_ORDER = f"{int(Request.PLACE_ORDER)}\0".encode()


class Tap:
    """A transport that notes when an order passes, and the order's fields."""

    def __init__(self, transport: Any) -> None:  # noqa: ANN401 - any loop's transport
        self._transport = transport
        self.orders: list[list[str]] = []
        self.passed_ns = 0

    def write(self, data: bytes) -> None:
        """Note and pass on."""
        if data.startswith(PLACE_ORDER, LENGTH_BYTES):
            self.passed_ns = time.perf_counter_ns()
            self.orders.append(data[LENGTH_BYTES:].decode().split("\0"))
        self._transport.write(data)

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - whatever the transport has
        return getattr(self._transport, name)


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
        await desk.qualify(AAPL)
        desk.watch(AAPL)
        async for event in desk.events():
            if isinstance(event, Tick) and (action := self.action(event.bid)):
                desk.submit(Intent(instrument=AAPL, action=action, quantity=Decimal(QUANTITY)))


@asynccontextmanager
async def raw(folder: Path) -> AsyncIterator[tuple[Server, sides.Library, int]]:
    """ib_insync by itself: gateway, client, and the request id of the subscription."""
    del folder
    adopt_running_loop()
    async with sides.gateway() as server:
        ib, signal = ib_insync.IB(), Signal()
        await ib.connectAsync(server.host, server.port, clientId=1)
        contract = translate.contract_of(AAPL)
        await ib.qualifyContractsAsync(contract)

        def on_tickers(tickers: set[Any]) -> None:
            for ticker in tickers:
                if action := signal.action(ticker.bid):
                    ib.placeOrder(contract, ib_insync.MarketOrder(action, QUANTITY))

        ib.pendingTickersEvent += on_tickers
        ticker = ib.reqMktData(contract)
        yield server, ib.client, ib.wrapper.ticker2ReqId["mktData"][ticker]
        ib.disconnect()


@asynccontextmanager
async def service(folder: Path) -> AsyncIterator[tuple[Server, sides.Library, int]]:
    """The service, likewise: gateway, client, and the request id of the subscription."""
    sides.quiet_logs(folder, LoopClock(asyncio.get_running_loop(), EPOCH))
    world = World(WorldConfig(folder=folder, strategies=[StrategySpec("trader", Signal().at_desk)]))
    async with world:
        await world.until(lambda: bool(world.app.book.quotes), what="a quote")
        (line,) = world.app.session.lines
        yield world.server, sides.client_of(world.app), line.request
        world.check_agreement()


async def measure(side: str, orders: int) -> paired.Result:
    """One side's run."""
    with tempfile.TemporaryDirectory() as home:
        async with {"raw": raw, "service": service}[side](Path(home)) as (server, client, request):
            server.faults.farm_down()  # from here on the ticks are ours
            await asyncio.sleep(5)
            tap = client.conn.transport = Tap(client.conn.transport)
            # A quote in which nothing is missing that was there before, or the service would soon ask for it anew.
            client.conn.data_received(frame(Answer.TICK_PRICE, 6, request, 4, f"{FIRST_CENTS / 100:.2f}", 100, 1))
            taken_ns = []
            for number in range(1, WARM_UP + orders + 1):
                chunk = quote(request, FIRST_CENTS + number)
                # Never inside a message of the gateway's own: the end of a long answer may still be under way.
                await sides.until(lambda: not client._data)  # noqa: SLF001 - what is left of an incomplete message
                handed_ns = time.perf_counter_ns()
                client.conn.data_received(chunk)
                await asyncio.sleep(PAUSE_S)
                taken_ns.append(tap.passed_ns - handed_ns)
            check(tap.orders, WARM_UP + orders, server)
            client.conn.transport = tap._transport  # noqa: SLF001 - as it was
    return {"taken_ns": taken_ns[WARM_UP:]}


def quote(request: int, cents: int) -> bytes:
    """A bid and an ask, as TWS sends them: two messages in one chunk."""
    sides_ = ((1, cents), (2, cents + 2))
    return b"".join(frame(Answer.TICK_PRICE, 6, request, kind, f"{at / 100:.2f}", 300, 1) for kind, at in sides_)


def check(orders: list[list[str]], wanted: int, server: Server) -> None:
    """Both sides must have sent the same orders, and all of them must have been filled."""
    sent = [(fields[3], fields[16], fields[17], fields[18]) for fields in orders]
    expected = [("AAPL", "SELL" if n % 2 else "BUY", str(QUANTITY), "MKT") for n in range(wanted)]
    if sent != expected or len(server.gateway.executions) != wanted:
        raise AssertionError(f"{len(sent)} orders, {len(server.gateway.executions)} fills, of {wanted}: {sent[:2]}")


def rows(rounds: int, *, quick: bool) -> list[paired.Row]:
    """Median and 99th percentile of each side."""
    results = paired.alternate("orders.py", ["raw", "service"], rounds, "--orders", "40" if quick else "300")
    found = []
    for percent in (50, 99):
        baseline, ours = (
            [percentile(result["taken_ns"], percent) / 1000 for result in results[side]] for side in ("raw", "service")
        )
        name = "median" if percent == 50 else f"{percent}th percentile"  # noqa: PLR2004 - that is the median
        found.append(
            paired.Row(
                f"tick in to order out, µs, {name}",
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
    """Run one side and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["raw", "service"], required=True)
    parser.add_argument("--orders", type=int, required=True)
    chosen = parser.parse_args()
    print(json.dumps(run(measure(chosen.side, chosen.orders))))


if __name__ == "__main__":
    main()
