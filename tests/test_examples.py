"""What the README shows is a file that runs."""

from __future__ import annotations

import asyncio
import importlib.util
from decimal import Decimal as D
from pathlib import Path

import pytest

from ibkr_service.core import events as ev
from ibkr_service.core.instrument import parse
from ibkr_service.strategies.link_watch import link_watch
from ibkr_service.strategies.watch import watch
from ibkr_service.supervisor import StrategySpec
from tests.world import World, WorldConfig

ROOT = Path(__file__).parents[1]
EURUSD = parse("EUR.USD")


def example(name):
    """The module of a file in examples/."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "examples" / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_readme_shows_the_file():
    """Word for word."""
    text = (ROOT / "examples" / "my_strategy.py").read_text()
    assert f"```python\n{text}```" in (ROOT / "README.md").read_text()


async def test_the_readmes_strategy_buys_once_over_a_restart(tmp_path, capsys):
    """Said at every tick, before and after a restart of the service: one order at the broker."""
    spec = StrategySpec("buyer", example("my_strategy").buy_once)
    async with World(WorldConfig(folder=tmp_path, strategies=[spec])) as world:
        await world.until_ready()
        await asyncio.sleep(10)
        await world.restart_service()
        await world.until_ready()
        await asyncio.sleep(10)
        assert len(world.of(ev.Tick)) > 20
        assert len(world.gateway.executions) == 1
        assert world.app.book.position(EURUSD) == D(20_000)
        world.check_agreement()
    said = capsys.readouterr().out
    assert [line for line in said.splitlines() if line.startswith("holding")] == ["holding 0", "holding 20000"]
    assert said.count("bought at") == 1


@pytest.mark.parametrize("strategy", [watch, link_watch])
async def test_the_strategies_that_only_look_survive_a_night(tmp_path, strategy):
    """A cut, a loss, an unknown instrument: they read on and send nothing."""
    spec = StrategySpec("looker", strategy, {"instruments": ["EUR.USD", "AAPL", "NOSUCH"]})
    async with World(WorldConfig(folder=tmp_path, strategies=[spec])) as world:
        await world.until_ready()
        await asyncio.sleep(5)
        world.faults.cut()
        await asyncio.sleep(60)
        world.faults.restore(data_kept=False)
        await world.until_ready()
        world.faults.drop()
        await asyncio.sleep(60)
        await world.until_ready()
        assert [e.instrument.symbol for e in world.of(ev.SubscriptionFailed)][:1] == ["NOSUCH"]
        assert not world.of(ev.StrategyStopped)
        assert not world.of(ev.OrderSubmitted)
        ticks = [e for e in world.of(ev.Tick) if e.instrument == EURUSD]
        assert ticks[0].epoch == 0
        assert ticks[-1].epoch == 2
