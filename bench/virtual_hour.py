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
from ibkr_service.core.events import Gap, Tick
from ibkr_service.core.instrument import Forex
from ibkr_service.core.link import Link
from ibkr_service.desk import Desk
from ibkr_service.rehearsal.world import EPOCH, World, WorldConfig
from ibkr_service.sim.loop import run
from ibkr_service.supervisor import StrategySpec

HOUR_S = 3_600.0
QUICK_S = 120.0


class Watcher:
    """A strategy that only reads."""

    def __init__(self) -> None:
        self.ticks = 0
        self.newest: Tick | None = None

    async def at_desk(self, desk: Desk) -> None:
        """Count ticks."""
        desk.watch(Forex("EUR", "USD"))
        async for event in desk.events():
            if isinstance(event, Tick):
                self.ticks, self.newest = self.ticks + 1, event


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
            check(world, watcher, ticks)
    return {"virtual_per_real": virtual_s / real_s, "events_per_cpu_s": recorded / cpu_s, "events": recorded}


def check(world: World, watcher: Watcher, ticks: int) -> None:
    """A calm hour: the link stayed READY, no stream broke off, and the strategy read every tick, the newest one too."""
    told = world.of(Tick)
    if world.app.book.link is not Link.READY or world.of(Gap) or not ticks:
        raise AssertionError(f"not a calm hour: {ticks} ticks, {len(world.of(Gap))} gaps, {world.app.book.link}")
    if watcher.ticks != len(told) or watcher.newest != told[-1]:
        raise AssertionError(f"{watcher.ticks} ticks read of {len(told)}")


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
