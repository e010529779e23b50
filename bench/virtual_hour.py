"""A virtual hour: service, gateway and one watched instrument on a `SimLoop`, which is what rehearsals and tests cost.

There is nothing to pair it with; both figures are of this machine alone.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import tempfile
import time
from pathlib import Path

import paired
import sides

from ibkr_service.clock import LoopClock
from ibkr_service.core.events import Tick
from ibkr_service.core.instrument import Forex
from ibkr_service.core.link import Link
from ibkr_service.desk import Desk
from ibkr_service.rehearsal.world import EPOCH, World, WorldConfig
from ibkr_service.sim.loop import run
from ibkr_service.supervisor import StrategySpec

HOUR_S = 3_600.0
QUICK_S = 300.0
CHANGES_PER_S = 4  # of a quote, in the simulated market


class Watcher:
    """A strategy that only reads."""

    def __init__(self) -> None:
        self.ticks = 0

    async def at_desk(self, desk: Desk) -> None:
        """Count ticks."""
        desk.watch(Forex("EUR", "USD"))
        async for event in desk.events():
            self.ticks += isinstance(event, Tick)


async def measure(virtual_s: float) -> paired.Result:
    """Live through so much virtual time."""
    watcher = Watcher()
    with tempfile.TemporaryDirectory() as home:
        sides.quiet_logs(Path(home), LoopClock(asyncio.get_running_loop(), EPOCH))
        async with World(WorldConfig(Path(home), strategies=[StrategySpec("watcher", watcher.at_desk)])) as world:
            await world.until(lambda: watcher.ticks > 0, what="a tick")
            recorded, ticks = world.app.hub.recorded, watcher.ticks
            began_s, began_cpu_s = time.perf_counter(), time.process_time()
            await asyncio.sleep(virtual_s)
            real_s, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
            recorded, ticks = world.app.hub.recorded - recorded, watcher.ticks - ticks
            world.check_agreement()
            # A quote that changed to what it was is not sent again, so there are somewhat fewer ticks than changes.
            if world.app.book.link is not Link.READY or not 0.5 < ticks / (virtual_s * CHANGES_PER_S) <= 1:  # noqa: PLR2004
                raise AssertionError(f"{ticks} ticks in {virtual_s} s, link {world.app.book.link}")
    return {"virtual_per_real": virtual_s / real_s, "events_per_cpu_s": recorded / cpu_s, "events": recorded}


def rows(rounds: int, *, quick: bool) -> list[paired.Row]:
    """Both figures."""
    runs = [paired.child("virtual_hour.py", "--seconds", str(QUICK_S if quick else HOUR_S)) for _ in range(rounds)]
    what = {"virtual_per_real": "virtual seconds per second", "events_per_cpu_s": "events recorded per CPU second"}
    return [paired.alone(text, [run[name] for run in runs]) for name, text in what.items()]


def main() -> None:
    """Run once and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, required=True)
    print(json.dumps(run(measure(parser.parse_args().seconds))))


if __name__ == "__main__":
    main()
