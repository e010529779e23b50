"""Ticks in: what a tick costs until a strategy reads it, against ib_insync by itself.

Sides: `raw` counts in a handler of pendingTickersEvent; `queue` passes each ticker through an asyncio.Queue to a
coroutine, which is what most people write; `service` is everything down to `async for event in desk.events()`.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from statistics import median

import feed
import paired
import sides

from ibkr_service.core.events import Tick
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


async def measure(side: str, folder: Path, chunking: str) -> paired.Result:
    """One side's run."""
    reader, work = Reader(), feed.load(folder)
    async with sides.gateway() as server:
        watched = sides.forty_instruments(server)
        if side == "service":
            with tempfile.TemporaryDirectory() as home:
                async with sides.service(server, watched, Path(home), reader.at_desk) as client:
                    return await _timed(work, CHUNKS[chunking], server, client, reader, list(watched))
        async with sides.raw_ib(server, watched) as (ib, tickers), reader.attached(ib, queued=side == "queue"):
            keys = [id(ticker) for ticker in tickers]
            return await _timed(work, CHUNKS[chunking], server, ib.client, reader, keys)


async def _timed(
    work: feed.Feed,
    cut: Callable[[bytes], list[bytes]],
    server: Server,
    client: sides.Library,
    reader: Reader,
    keys: list[object],
) -> paired.Result:
    """Feed everything; count the CPU of the timed part; check what was read."""
    server.gateway.clock.close()  # from here on it says nothing by itself
    await asyncio.sleep(SETTLE_S)
    await sides.deliver(client, cut(work.opening))
    await asyncio.sleep(SETTLE_S)
    chunks, reader.updates = cut(work.timed), 0
    gc.collect()
    began_s = time.process_time()
    await sides.deliver(client, chunks)
    await reader.end.wait()
    cpu_s, updates = time.process_time() - began_s, reader.updates
    reader.checking = True
    await sides.deliver(client, [work.closing])
    await sides.until(lambda: len(reader.quotes) == len(keys))
    if [reader.quotes[key] for key in keys] != work.quotes:
        raise AssertionError("the last quotes are not those that were sent")
    return {"ticks": work.ticks, "per_cpu_s": work.ticks / cpu_s, "updates": updates}


def rows(rounds: int, *, quick: bool) -> list[paired.Row]:
    """Measure all; large chunks in pairs, single ticks in threes."""
    found = []
    sizes = QUICK_SIZES if quick else SIZES
    for chunking, others in (("large", ["raw"]), ("one", ["raw", "queue"])):
        with tempfile.TemporaryDirectory() as folder:
            feed.save(feed.make(sizes[chunking]), Path(folder))
            results = paired.alternate("ticks.py", [*others, "service"], rounds, "--feed", folder, "--chunks", chunking)
        found += [_row(chunking, other, results[other], results["service"]) for other in others]
    return found


def _row(chunking: str, other: str, baseline: list[paired.Result], service: list[paired.Result]) -> paired.Row:
    words = {"large": "64 KiB chunks", "one": "one tick a chunk", "raw": "handler", "queue": "handler, asyncio.Queue"}
    slow, fast = ([run["per_cpu_s"] for run in runs] for runs in (service, baseline))
    return paired.Row(
        f"ticks per CPU second, {words[chunking]}, vs {words[other]}",
        f"{median(fast):,.0f}",
        f"{median(slow):,.0f}",
        paired.ratio(slow, fast),
    )


def main() -> None:
    """Run one side and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--side", choices=["raw", "queue", "service"], required=True)
    parser.add_argument("--feed", type=Path, required=True)
    parser.add_argument("--chunks", choices=list(CHUNKS), required=True)
    chosen = parser.parse_args()
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        print(json.dumps(runner.run(measure(chosen.side, chosen.feed, chosen.chunks))))


if __name__ == "__main__":
    main()
