"""What the README shows is a file that runs."""

from __future__ import annotations

import asyncio
import importlib.util
import runpy
from decimal import Decimal as D
from pathlib import Path

import pytest
import structlog

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


def test_the_page_on_history_shows_the_file():
    """Word for word."""
    text = (ROOT / "examples" / "minute_bars.py").read_text()
    assert f"```python\n{text}```" in (ROOT / "docs" / "history.md").read_text()


async def test_the_example_of_bars_goes_on_over_a_reconnect(tmp_path, capsys):
    """Two days of the past, then each minute, then a gap, and what was missed."""
    spec = StrategySpec("bars", example("minute_bars").minute_bars)
    async with World(WorldConfig(folder=tmp_path, strategies=[spec])) as world:
        await world.until_ready()
        await asyncio.sleep(200)
        world.faults.drop()
        await asyncio.sleep(200)
    said = capsys.readouterr().out.splitlines()
    assert next(line for line in said if line.startswith("page")).startswith("page 1 of 2, ")
    minutes = [line.split()[0] for line in said if line[2:3] == ":"]
    assert minutes == [f"14:{minute}" for minute in range(int(minutes[0][3:]), 36)]
    assert sum(line.startswith("gap:") for line in said) == 1
    assert sum(line.startswith("goes on;") for line in said) == 1


def test_the_page_on_the_account_shows_the_file():
    """Word for word."""
    text = (ROOT / "examples" / "account_report.py").read_text()
    assert f"```python\n{text}```" in (ROOT / "docs" / "account.md").read_text()


async def test_the_account_is_reported(tmp_path, capsys):
    """What it is worth, a position as it appears, the profit of the day, and after a restart what it holds."""
    specs = [
        StrategySpec("reporter", example("account_report").report),
        StrategySpec("buyer", example("my_strategy").buy_once),
    ]
    async with World(WorldConfig(folder=tmp_path, strategies=specs)) as world:
        await world.until_ready()
        await asyncio.sleep(10)
        await world.restart_service()
        await world.until_ready()
        await asyncio.sleep(10)
    said = capsys.readouterr().out.splitlines()
    assert "worth 1000000.00 USD, 1000000.00 to spend" in said
    assert said.count("now 20000 EUR.USD") == 1
    assert any(line.startswith("20000 EUR.USD, cost 1.") and "worth 2" in line for line in said)
    assert len([line for line in said if line.startswith("today ")]) > 5


def test_the_page_on_option_chains_shows_the_file():
    """Word for word."""
    text = (ROOT / "examples" / "option_chain.py").read_text()
    assert f"```python\n{text}```" in (ROOT / "docs" / "option-chains.md").read_text()


async def test_the_chain_is_printed(tmp_path, capsys):
    """Two expiries, six strikes each, a hedge, and nothing is missing."""
    spec = StrategySpec("printer", example("option_chain").print_chain)
    async with World(WorldConfig(folder=tmp_path, strategies=[spec])) as world:
        await world.until_ready()
        await asyncio.sleep(20)
    said = capsys.readouterr().out.splitlines()
    assert [line.split(",")[0] for line in said if line.startswith("AAPL 2")] == [
        "AAPL 20261127 (PM)",
        "AAPL 20261204 (PM)",
    ]
    rows = [line for line in said if line.startswith("  ") and "%" in line]
    assert len(rows) == 12
    assert sum("<" in row for row in rows) == 2
    assert any(line.startswith("hedge: AAPL 2026") for line in said)
    assert "missing: nothing" in said


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


def test_the_page_about_market_data_shows_the_file():
    """Word for word."""
    text = (ROOT / "examples" / "quotes.py").read_text()
    assert f"```python\n{text}```" in (ROOT / "docs" / "market-data.md").read_text()


async def test_the_example_about_quotes_prints_what_it_says(tmp_path, capsys):
    """A question, three changes, then usable quotes; and what an interruption is."""
    spec = StrategySpec("looker", example("quotes").look)
    async with World(WorldConfig(folder=tmp_path, strategies=[spec])) as world:
        await world.until_ready()
        await asyncio.sleep(20)
        world.faults.drop()
        await asyncio.sleep(30)
    said = capsys.readouterr().out.splitlines()
    said = [line for line in said if not line.startswith("20")]  # log lines begin with the time
    assert said[0].startswith("AAPL ")
    assert said[0].endswith(" live")
    assert [line.split()[0] for line in said[1:4]] == ["EUR.USD"] * 3
    assert said[4].endswith(" usable")
    assert [line for line in said if line.endswith(" AAPL")] == ["Gap AAPL", "Resumed AAPL"]


def test_the_readmes_script_is_the_file():
    """Word for word."""
    text = (ROOT / "examples" / "look_around.py").read_text()
    assert f"```python\n{text}```" in (ROOT / "README.md").read_text()


@pytest.mark.tcp
def test_the_readmes_script_runs(tmp_path, monkeypatch, capsys):
    """As printed: factory, connection, quote, chain, account, positions."""
    monkeypatch.chdir(tmp_path)
    structlog.reset_defaults()  # as in a fresh process: another test may have set up logging
    runpy.run_path(str(ROOT / "examples" / "look_around.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("AAPL 2")
    assert sum(" C: " in line and "delta 0." in line for line in said) == 12
    assert sum(" P: " in line and "delta -0." in line for line in said) == 12
    assert said[-1].startswith("worth 1000000")
