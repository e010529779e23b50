"""The whole road on real recorded quotes.

Every fill lies within the market of its second, and three accounts of it agree.
"""

from __future__ import annotations

import asyncio
from bisect import bisect_right
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path

import pytest

from ibkr_service.core import events as ev
from ibkr_service.sim import GatewayConfig, ReplayFile
from ibkr_service.strategies.sma_cross import sma_cross
from ibkr_service.supervisor import StrategySpec
from tests.world import World, WorldConfig

RECORDING = Path(__file__).parents[2] / "shared" / "data" / "eurusd-quotes-2020-01-01.csv"
SPEED = 600.0
UTC_OFFSET = timedelta(hours=5)  # the recording's stamps are UTC-5, without daylight saving

SMA = StrategySpec("sma", sma_cross, {"instrument": "EUR.USD", "quantity": "20000", "fast": 20, "slow": 80})


def recorded_quotes(path):
    """Stamps in UTC, bids and asks, read here by other code than the simulator's."""
    stamps, quotes = [], []
    for line in path.read_text().splitlines():
        stamp, bid, ask, _ = line.split(",")
        at = datetime.strptime(stamp + "000", "%Y%m%d %H%M%S%f").replace(tzinfo=UTC) + UTC_OFFSET
        stamps.append(at)
        quotes.append((D(bid), D(ask)))
    return stamps, quotes


def market_during(stamps, quotes, second):
    """Lowest bid and highest ask in force at any moment of a second: executions are stamped to the second."""
    first = max(0, bisect_right(stamps, second) - 1)
    last = bisect_right(stamps, second + timedelta(seconds=1))
    window = quotes[first:last]
    return min(bid for bid, _ in window), max(ask for _, ask in window)


@pytest.mark.skipif(not RECORDING.exists(), reason="the recorded quotes are not here")
async def test_six_recorded_hours_are_traded_truthfully(tmp_path):
    """EUR/USD of 2020-01-01 at 600 times its speed, traded by the SMA cross."""
    stamps, quotes = recorded_quotes(RECORDING)
    gateway = GatewayConfig(replay=(ReplayFile(RECORDING),), speed=SPEED)
    async with World(WorldConfig(folder=tmp_path, gateway=gateway, strategies=[SMA])) as world:
        async with asyncio.timeout(120):
            await world.gateway.replay_ended.wait()
        await asyncio.sleep(1)
        fills = world.of(ev.Fill)
        assert len(fills) >= 10
        for fill in fills:
            low, high = market_during(stamps, quotes, fill.executed_at)
            assert low <= fill.price <= high, f"{fill} outside {low}..{high}"
            assert stamps[0] <= fill.executed_at <= stamps[-1] + timedelta(seconds=1)
        world.check_agreement()
        journal = [line for line in world.journal_lines() if '"kind":"Fill"' in line]
        assert len(journal) == len(fills) == len(world.gateway.executions)
        net = sum((f.signed for f in fills), D(0))
        assert net == world.app.book.strategy_position("sma", fills[0].instrument)


@pytest.mark.skipif(not RECORDING.exists(), reason="the recorded quotes are not here")
def test_the_check_above_can_fail():
    """A price a hundredth of a cent outside the recorded market is seen as outside."""
    stamps, quotes = recorded_quotes(RECORDING)
    low, high = market_during(stamps, quotes, stamps[100])
    assert low < high
    assert not low <= high + D("0.0001") <= high
