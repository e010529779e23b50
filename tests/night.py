"""Eight virtual hours with two refused and two lost connections; prints processor seconds and a digest of the journal.

`test_determinism` runs it in processes of its own: `python -m tests.night FOLDER`.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import sys
from datetime import timedelta
from pathlib import Path
from time import process_time

from ibkr_service import log
from ibkr_service.core import events as ev
from ibkr_service.core.link import Link
from ibkr_service.sim import GatewayConfig, ReplayFile
from ibkr_service.sim.loop import run
from ibkr_service.strategies.sma_cross import sma_cross
from ibkr_service.supervisor import StrategySpec
from tests.world import EPOCH, World, WorldConfig

HOURS_S = 8 * 3600.0
SMA = StrategySpec(
    "sma", sma_cross, {"instrument": "EUR.USD", "quantity": "20000", "fast": 5, "slow": 15, "short": True}
)


def write_recording(path: Path) -> None:
    """A quote every fifteen seconds for eight hours: two waves, so that the averages cross."""
    rows = ["timestamp,bid,ask"]
    for n in range(int(HOURS_S / 15) + 1):
        mid = 1.1 + 0.002 * math.sin(n / 50) + 0.0005 * math.sin(n / 5.3)
        at = EPOCH + timedelta(seconds=15 * n)
        rows.append(f"{at:%Y-%m-%d %H:%M:%S}+00:00,{mid - 0.00005:.5f},{mid + 0.00005:.5f}")
    path.write_text("\n".join(rows) + "\n")


async def night(folder: Path) -> list[str]:
    """Live through the night; return the journal's canonical lines."""
    recording = folder / "eurusd-night.csv"
    write_recording(recording)
    gateway = GatewayConfig(replay=(ReplayFile(recording),))
    async with World(WorldConfig(folder=folder, gateway=gateway, strategies=[SMA])) as world:
        world.faults.refuse()  # refused at the start …
        world.faults.drop()
        await asyncio.sleep(90)
        await world.faults.accept()
        await world.until_ready(120)
        await asyncio.sleep(2 * 3600)
        world.faults.drop()  # … lost …
        await asyncio.sleep(2 * 3600)
        world.faults.refuse()  # … lost and refused for five minutes
        world.faults.drop()
        await asyncio.sleep(300)
        await world.faults.accept()
        await asyncio.sleep(HOURS_S - world.now_s)
        assert world.app.book.link is Link.READY
        assert len([e for e in world.of(ev.LinkChanged) if e.after is Link.DOWN]) >= 2
        assert len(world.of(ev.Fill)) > 20
        world.check_agreement()
        return world.journal_lines()


if __name__ == "__main__":
    log.configure("error", "json", stream=sys.stderr)
    began_s = process_time()
    lines = run(night(Path(sys.argv[1])))
    took_s = process_time() - began_s
    sys.stdout.write(f"{took_s:.2f} {len(lines)} {hashlib.sha256(chr(10).join(lines).encode()).hexdigest()}\n")
