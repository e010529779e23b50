"""`ibkr-service rehearse`, the fixture for users' tests, and what a rehearsal shows.

Goal: a user's own strategy and a user's own scenario are rehearsed as ours are; the last line is the verdict, and the
exit code says the same. Method: the command and the fixture themselves.
"""

from __future__ import annotations

import asyncio
import re
import sys

import pytest
from typer.testing import CliRunner

from ibkr_service import Intent, Stock, cli
from ibkr_service.broker.lines import Lines
from ibkr_service.core import events as ev
from ibkr_service.rehearsal.named import REHEARSALS, planned
from ibkr_service.rehearsal.pytest_plugin import rehearsed
from ibkr_service.rehearsal.run import rehearse
from ibkr_service.sim.scenarios import Scenario
from ibkr_service.strategies.link_watch import link_watch

AAPL = Stock("AAPL")


async def _two_drops(at):
    """A user's own misfortune."""
    for _ in range(2):
        await at.next_order()
        at.faults.drop()
        await at.sleep(30)


TWO_DROPS = Scenario("two-drops", "the connection is lost as an order arrives, twice", "", _two_drops)


async def buyer(desk, params: dict):
    """A strategy that buys once, and says no more."""
    desk.watch(AAPL)
    async for event in desk.events():
        if isinstance(event, ev.Tick) and event.ask is not None:
            break
    desk.submit(Intent.buy(AAPL, params["quantity"], limit="900", tif="GTC"), key="once")
    async for _ in desk.events():
        pass


async def fragile(desk):
    """A strategy that cannot stand a gap."""
    desk.watch(AAPL)
    async for event in desk.events():
        if isinstance(event, ev.Gap):
            sys.exit(f"cannot stand it: {event.reason}")


def run(*arguments):
    return CliRunner().invoke(cli.app, ["rehearse", *arguments])


def test_one_rehearsal_prints_its_timeline_and_the_verdict(tmp_path):
    """Gateway, wire, service and strategy speak; the picture needs nothing from anywhere."""
    page = tmp_path / "night.html"
    result = run("upstream-loss-1101", "--seed", "2", "--alone", "--html", str(page))
    assert result.exit_code == 0, result.output
    lines = result.output.splitlines()
    assert lines[-1] == "passed: upstream-loss-1101, seed 2"
    for side in ("gateway", "wire", "service", "strategy"):
        assert any(re.match(rf" *\d+:\d\d\.\d{{3}}  {side}", line) for line in lines), side
    text = page.read_text()
    assert "<svg" in text
    assert "gap AAPL" in text
    assert not re.search(r"(src|href)\s*=|https?://", text)


def test_a_failure_says_how_to_repeat_it(monkeypatch):
    """Exit code 1, the breach with its moment, the command."""
    monkeypatch.setattr(Lines, "interrupt", lambda _lines, _reason, _since=None: None)
    result = run("disk-full-and-cut-off", "--seed", "2", "--alone", "--faults", "2")
    assert result.exit_code == 1
    last = result.output.splitlines()[-1]
    assert last.startswith("FAILED: disk-full-and-cut-off, seed 2: gaps")
    assert last.endswith("again: ibkr-service rehearse disk-full-and-cut-off --seed 2 --faults 2")
    assert re.search(r"\d s  gaps: rehearsal reads quotes of \S+ over an outage", result.output)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["no-such-night"], "no rehearsal is called 'no-such-night': there are random, "),
        ([], "say which one"),
        (["random", "--faults", "99"], "--faults takes numbers from 1 to"),
        (["tests.no_such:thing"], "cannot be loaded"),
    ],
)
def test_what_makes_no_sense_is_one_line(arguments, words, capsys):
    """Exit code 2 before anything began."""
    result = run(*arguments, "--alone")
    assert result.exit_code == 2
    assert words in result.output


def test_the_users_own_limits_hold_if_wanted(tmp_path):
    """Five at most: whatever is larger does not leave, and that is no failure. Wide limits let it pass."""
    settings = tmp_path / "settings.toml"
    settings.write_text("[risk]\nmax_quantity = 5\n")
    shared = ("random", "--seed", "3", "--faults", "none", "--alone", "--settings", str(settings))
    wide, own = run(*shared), run(*shared, "--risk", "own")
    leaves = " leaves as order "
    assert (wide.exit_code, own.exit_code) == (0, 0), own.output
    assert wide.output.count(leaves) > 20
    assert own.output.count(leaves) < wide.output.count(leaves) / 2


def test_the_list_has_every_name():
    """With what happens, and who reported it."""
    output = run("--list").output
    assert all(name[:12] in output for name in REHEARSALS)


def test_without_faults_nothing_happens():
    """The seed's market and wishes, none of its faults: no connection is lost."""
    result = rehearse(planned("random")(3).only([]))
    assert result.passed, result.verdict
    assert result.coverage["connections"] == 1
    assert result.plan.replay == "ibkr-service rehearse random --seed 3 --faults none"


def test_the_users_own_strategy_is_rehearsed():
    """It trades once over all restarts, and its side of the story is told."""
    result = rehearsed(buyer, name="crash-at-the-send", seed=4, params={"quantity": 7})
    assert result.passed, result.breaches
    assert result.coverage["lives"] == 5
    orders = [line for line in result.journal if '"kind":"OrderSubmitted"' in line and '"strategy":"own"' in line]
    assert len(orders) == 1
    assert any(entry.side == "strategy" and entry.who == "own" for entry in result.timeline)


def test_a_users_strategy_that_fails_is_told_and_harms_nobody():
    """Its end is in the timeline; what it does to itself breaks no invariant of the service."""
    result = rehearsed(fragile, name="upstream-blip-1102", seed=1)
    assert result.passed, result.breaches
    assert any("strategy own stopped: exited" in entry.text for entry in result.timeline)


def test_the_users_own_scenario_is_rehearsed():
    """By module and name, as on the command line."""
    result = rehearse(planned("tests.rehearsal.test_rehearse_command:TWO_DROPS")(1))
    assert result.passed, result.breaches
    assert result.coverage["connections"] == 3


def test_a_strategy_of_the_repository_lives_through_a_random_one():
    """Beside ours, whose invariants hold."""
    result = rehearsed(link_watch, seed=5)
    assert result.passed, result.breaches


def test_a_rehearsal_needs_a_loop_of_its_own():
    """Called from a coroutine it says so, instead of hanging."""

    async def inside():
        rehearsed(seed=1)

    with pytest.raises(RuntimeError, match="event loop"):
        asyncio.run(inside())
