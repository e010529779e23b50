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
from pathlib import Path
from typing import Any

import feed
import paired
import sides

from ibkr_service.core.events import Tick
from ibkr_service.daemon import loop_factory
from ibkr_service.desk import Desk

CHUNKS = {"large": feed.large_chunks, "one": feed.one_tick_chunks}
FIELDS = ("bid", "ask", "last", "bidSize", "askSize", "lastSize", "volume")
SIZES = {"large": 300_000, "one": 60_000}
QUICK_SIZES = {"large": 30_000, "one": 10_000}


class Reader:
    """What stands at the end of each road: counts, notices the mark, and keeps whole quotes when they are checked."""

    def __init__(self) -> None:
        self.updates = 0
        self.checking = False
        self.quotes: dict[Any, feed.Quote] = {}
        self.end = asyncio.Event()

    def on_tickers(self, tickers: set[Any]) -> None:
        """Read in the library's own event."""
        for ticker in tickers:
            self._read(ticker)

    async def from_queue(self, queue: asyncio.Queue[Any]) -> None:
        """Read what a handler put."""
        while True:
            self._read(await queue.get())

    async def at_desk(self, desk: Desk) -> None:
        """Read as a strategy does."""
        async for event in desk.events():
            if isinstance(event, Tick):
                self.updates += 1
                if event.last == feed.MARK:
                    self.end.set()
                if self.checking:
                    self.quotes[event.instrument] = [
                        float("nan") if value is None else value
                        for value in (event.bid, event.ask, event.last, event.bid_size, event.ask_size,
                                      event.last_size, event.volume)
                    ]  # fmt: skip

    def _read(self, ticker: Any) -> None:  # noqa: ANN401 - ib_insync has no types
        self.updates += 1
        if ticker.last == feed.MARK:
            self.end.set()
        if self.checking:
            self.quotes[id(ticker)] = [getattr(ticker, name) for name in FIELDS]


async def measure(side: str, folder: Path, chunking: str) -> paired.Result:
    """One side's run."""
    reader, work = Reader(), feed.load(folder)
    async with sides.gateway() as server:
        watched = sides.forty_instruments(server)
        if side == "service":
            with tempfile.TemporaryDirectory() as home:
                async with sides.service(server, watched, Path(home), reader.at_desk) as (app, client):
                    return await _timed(work, chunking, server, client, reader, list(watched))
        async with sides.raw_ib(server, watched) as (ib, tickers), asyncio.TaskGroup() as around:
            queue: asyncio.Queue[Any] = asyncio.Queue()
            if side == "queue":
                consumer = around.create_task(reader.from_queue(queue), name="consumer")
                ib.pendingTickersEvent += lambda some: [queue.put_nowait(ticker) for ticker in some]
            else:
                consumer = around.create_task(asyncio.Event().wait(), name="nobody")
                ib.pendingTickersEvent += reader.on_tickers
            result = await _timed(work, chunking, server, ib.client, reader, [id(ticker) for ticker in tickers])
            consumer.cancel()
            return result


async def _timed(
    work: feed.Feed, chunking: str, server: Any, client: Any, reader: Reader, keys: list[Any]
) -> paired.Result:
    """Feed everything; count the CPU of the timed part; check what was read."""
    cut = CHUNKS[chunking]
    server.gateway.clock.close()  # from here on it says nothing by itself
    await asyncio.sleep(0.2)
    await sides.deliver(client, cut(work.opening))
    await asyncio.sleep(0.1)
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
    return {"cpu_s": cpu_s, "ticks": work.ticks, "per_cpu_s": work.ticks / cpu_s, "updates": updates}


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
        f"{paired.median(fast):,.0f}",
        f"{paired.median(slow):,.0f}",
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
