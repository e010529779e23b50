"""A steady market: 12,000 messages a second for some seconds, as they come from a socket; how long is the loop held?

A sampler asks to be called every millisecond; how late it is called is how long the loop was held by something else.
The strategy reads the newest quotes of forty instruments. Wall time, on one core of this machine.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import json
import tempfile
import time
from pathlib import Path

import feed
import paired
import sides
import ticks

from ibkr_service.daemon import loop_factory

MESSAGES_PER_S, STEP_S = 12_000, 0.005
LENGTH_S, QUICK_S = 10.0, 1.0
SAMPLE_S = 0.001


async def measure(length_s: float) -> paired.Result:
    """Feed, and sample."""
    per_step = round(MESSAGES_PER_S * STEP_S)
    steps = round(length_s / STEP_S)
    reader, work = ticks.Reader(), feed.make(steps * per_step)
    single = feed.one_tick_chunks(work.timed)
    chunks = [b"".join(single[start : start + per_step]) for start in range(0, len(single), per_step)]
    held_ms: list[float] = []

    async def sample() -> None:
        while True:
            asked_s = time.perf_counter()
            await asyncio.sleep(SAMPLE_S)
            held_ms.append(max(0.0, (time.perf_counter() - asked_s - SAMPLE_S) * 1000))

    with tempfile.TemporaryDirectory() as home:
        async with sides.gateway() as server:
            watched = sides.forty_instruments(server)
            async with sides.service(server, watched, Path(home), reader.at_desk) as client:
                server.gateway.clock.close()
                await asyncio.sleep(ticks.SETTLE_S)
                gc.collect()
                async with asyncio.TaskGroup() as around:
                    sampling = around.create_task(sample(), name="sample")
                    began_s = time.perf_counter()
                    for number, chunk in enumerate(chunks):
                        client.conn.data_received(chunk)
                        await asyncio.sleep(max(0.0, began_s + (number + 1) * STEP_S - time.perf_counter()))
                    took_s = time.perf_counter() - began_s
                    sampling.cancel()
    held_ms.sort()
    return {
        "messages_per_s": work.ticks / took_s,
        "held_p99_ms": held_ms[int(len(held_ms) * 0.99)],
        "held_max_ms": held_ms[-1],
        "samples": len(held_ms),
    }


def rows(*, quick: bool) -> list[paired.Row]:
    """One line of the table."""
    found = paired.child("steady.py", *(["--quick"] if quick else []))
    what = f"loop held at {found['messages_per_s']:,.0f} messages a second, 99th percentile (max), ms"
    return [paired.Row(what, "", f"{found['held_p99_ms']:.1f}", f"({found['held_max_ms']:.1f})")]


def main() -> None:
    """Run it and print its result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    length_s = QUICK_S if parser.parse_args().quick else LENGTH_S
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        print(json.dumps(runner.run(measure(length_s))))


if __name__ == "__main__":
    main()
