"""Ticks in: what a tick costs until a strategy reads it, against ib_insync by itself.

Sides: `raw` counts in a handler of pendingTickersEvent; `queue` passes each ticker through an asyncio.Queue to a
coroutine, which is what most people write; `service` is everything down to `async for event in desk.events()`, the
newest quote of each instrument; `every` is every single tick, down to `async for tick in desk.every_tick(…)`, and the
number and the checksum of what was read must be those of what `raw` found in `ticker.ticks`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from statistics import median
from typing import Any

import feed
import paired
import sides

from ibkr_service.core.events import RawTick, Tick
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.daemon import loop_factory
from ibkr_service.desk import Desk
from ibkr_service.sim import Server

CHUNKS = {"large": feed.large_chunks, "one": feed.one_tick_chunks}
TICKER_FIELDS = ("bid", "ask", "last", "bidSize", "askSize", "lastSize", "volume")
TICK_FIELDS = ("bid", "ask", "last", "bid_size", "ask_size", "last_size", "volume")
SETTLE_S = 0.1
SIZES = {"large": 300_000, "one": 50_000}
QUICK_SIZES = {"large": 20_000, "one": 6_000}


class Reader:
    """What stands at the end of each road: counts, notices the mark, and keeps whole quotes when they are checked."""

    def __init__(self) -> None:
        self.updates = 0
        self.checksum = 0.0
        self.checking = False
        self.quotes: dict[object, feed.Quote] = {}
        self.end = asyncio.Event()

    @asynccontextmanager
    async def attached(self, ib: sides.Library, *, queued: bool) -> AsyncIterator[None]:
        """Read in the library's own event, or behind a queue that its handler fills."""
        queue: asyncio.Queue[sides.Library] = asyncio.Queue()

        def read(tickers: set[sides.Library]) -> None:
            for ticker in tickers:
                self._read(ticker)

        def put(tickers: set[sides.Library]) -> None:
            for ticker in tickers:
                queue.put_nowait(ticker)

        async def consume() -> None:
            while True:
                self._read(await queue.get())

        ib.pendingTickersEvent += put if queued else read
        async with asyncio.TaskGroup() as around:
            consumer = around.create_task(consume(), name="consumer")
            yield
            consumer.cancel()

    def at_every_tick(self, watched: list[AnyInstrument]) -> Callable[[Desk], Coroutine[Any, Any, None]]:
        """Read each tick of each instrument, as a strategy does that must not miss one."""

        async def strategy(desk: Desk) -> None:
            async with asyncio.TaskGroup() as readers:
                for instrument in watched:
                    readers.create_task(self._read_every_tick(desk, instrument), name=f"reader of {instrument}")

        return strategy

    async def _read_every_tick(self, desk: Desk, instrument: AnyInstrument) -> None:
        async with desk.every_tick(instrument, unread_max=1_000_000) as ticks:
            async for tick in ticks:
                if not isinstance(tick, RawTick):
                    raise TypeError(f"{tick} among the ticks")
                self.updates += 1
                self.checksum += _sum(tick.price, tick.size)
                if tick.price == feed.MARK:
                    self.end.set()

    async def at_desk(self, desk: Desk) -> None:
        """Read as a strategy does."""
        async for event in desk.events():
            if isinstance(event, Tick):
                self.updates += 1
                if event.last == feed.MARK:
                    self.end.set()
                if self.checking:
                    self.quotes[event.instrument] = [getattr(event, name) for name in TICK_FIELDS]

    def _read(self, ticker: sides.Library) -> None:
        self.updates += 1
        if ticker.last == feed.MARK:
            self.end.set()
        if self.checking:
            self.quotes[id(ticker)] = [getattr(ticker, name) for name in TICKER_FIELDS]

    def read_each(self, tickers: set[sides.Library]) -> None:
        """Read each tick in the library's own event: what there was to read."""
        for ticker in tickers:
            for tick in ticker.ticks:
                self.updates += 1
                self.checksum += _sum(tick.price, tick.size)
            if ticker.last == feed.MARK:
                self.end.set()


async def measure(side: str, folder: Path, chunking: str) -> paired.Result:
    """One side's run."""
    reader, work = Reader(), feed.load(folder)
    async with sides.gateway() as server, AsyncExitStack() as around:
        watched = sides.forty_instruments(server)
        keys: list[object] = []
        if side in {"service", "every"}:
            home = Path(around.enter_context(tempfile.TemporaryDirectory()))
            strategy = reader.at_desk if side == "service" else reader.at_every_tick(watched)
            service = sides.service(server, watched, home, strategy, watch=side == "service")
            client = await around.enter_async_context(service)
            keys = list(watched) if side == "service" else []
        else:
            ib, tickers = await around.enter_async_context(sides.raw_ib(server, watched))
            client = ib.client
            if side == "raw_ticks":
                ib.pendingTickersEvent += reader.read_each
            else:
                await around.enter_async_context(reader.attached(ib, queued=side == "queue"))
                keys = [id(ticker) for ticker in tickers]
        return await _timed(work, CHUNKS[chunking], server, client, reader, keys)


async def _timed(
    work: feed.Feed,
    cut: Callable[[bytes], list[bytes]],
    server: Server,
    client: sides.Library,
    reader: Reader,
    keys: list[object],
) -> paired.Result:
    """Feed everything; count the CPU of the timed part; check what was read: the last quotes, or each tick's sum."""
    server.gateway.clock.close()  # from here on it says nothing by itself
    await asyncio.sleep(SETTLE_S)
    await sides.deliver(client, cut(work.opening))
    await asyncio.sleep(SETTLE_S)
    chunks, reader.updates, reader.checksum = cut(work.timed), 0, 0.0
    gc.collect()
    began_s = time.process_time()
    await sides.deliver(client, chunks)
    await reader.end.wait()
    read = -1
    while read != reader.updates:  # the other instruments' readers
        read = reader.updates
        await asyncio.sleep(0)
    cpu_s, updates = time.process_time() - began_s, reader.updates
    if keys:
        reader.checking = True
        await sides.deliver(client, [work.closing])
        await sides.until(lambda: len(reader.quotes) == len(keys))
        if [reader.quotes[key] for key in keys] != work.quotes:
            raise AssertionError("the last quotes are not those that were sent")
    return {
        "ticks": work.ticks,
        "per_cpu_s": work.ticks / cpu_s,
        "updates": updates,
        "checksum": round(reader.checksum, 2),
    }


def _sum(price: float | None, size: float | None) -> float:
    """What a tick adds to the checksum. A volume comes without a price, which the library says as -1."""
    return (price if price is not None and price > 0 else 0.0) + (size or 0.0)


def rows(rounds: int, *, quick: bool) -> list[paired.Row]:
    """Measure all; large chunks in fours, single ticks in threes."""
    found = []
    sizes = QUICK_SIZES if quick else SIZES
    for chunking, sides_of in (("large", ["raw", "every", "service"]), ("one", ["raw", "queue", "service"])):
        with tempfile.TemporaryDirectory() as folder:
            feed.save(feed.make(sizes[chunking]), Path(folder))
            arguments = ("--feed", folder, "--chunks", chunking)
            results = paired.alternate("ticks.py", sides_of, rounds, *arguments)
            if "every" in results:
                _check_each(paired.child("ticks.py", "--side", "raw_ticks", *arguments), results["every"])
        if chunking == "large":
            found.append(_row(chunking, "raw", results["raw"], results["service"], "newest wins"))
            found.append(_row(chunking, "raw", results["raw"], results["every"], "every tick"))
        else:
            found += [
                _row(chunking, other, results[other], results["service"], "newest wins") for other in sides_of[:2]
            ]
    return found


def _check_each(reference: paired.Result, found: list[paired.Result]) -> None:
    """Every tick that the library has must have been delivered, once, with its price and size."""
    for run in found:
        for what in ("updates", "checksum"):
            if run[what] != reference[what]:
                raise AssertionError(f"every tick: {what} {run[what]}, but the library has {reference[what]}")


def _row(
    chunking: str, other: str, baseline: list[paired.Result], service: list[paired.Result], kind: str
) -> paired.Row:
    words = {"large": "64 KiB chunks", "one": "one tick a chunk", "raw": "handler", "queue": "handler, asyncio.Queue"}
    slow, fast = ([run["per_cpu_s"] for run in runs] for runs in (service, baseline))
    return paired.Row(
        f"ticks per CPU second, {words[chunking]}, {kind}, vs {words[other]}",
        f"{median(fast):,.0f}",
        f"{median(slow):,.0f}",
        paired.ratio(slow, fast),
    )


def main() -> None:
    """Run one side and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["raw", "raw_ticks", "queue", "service", "every"], required=True)
    parser.add_argument("--feed", type=Path, required=True)
    parser.add_argument("--chunks", choices=list(CHUNKS), required=True)
    chosen = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        print(json.dumps(runner.run(measure(chosen.side, chosen.feed, chosen.chunks))))


if __name__ == "__main__":
    main()
