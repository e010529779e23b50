"""A quarantine is loud, survives what a process does not, and is shown to people; and what a person may do about it."""

from __future__ import annotations

import asyncio
import io
import json
from contextlib import closing
from decimal import Decimal as D

import pytest
from typer.testing import CliRunner

from ibkr_service import cli, log
from ibkr_service.app import QUARANTINE_REMINDER_S
from ibkr_service.clock import LoopClock
from ibkr_service.control import Request
from ibkr_service.core import events as ev
from ibkr_service.core.errors import JournalError
from ibkr_service.core.instrument import Stock
from ibkr_service.journal import facts, open_readonly
from ibkr_service.operations import Operations
from ibkr_service.reconciliation import Reconciliation
from ibkr_service.supervisor import StrategySpec
from tests.bdd.stage import Trader
from tests.world import EPOCH, World, WorldConfig

ACCOUNT = "DU1234567"


@pytest.fixture
async def world(tmp_path):
    """A service that has found what nobody can explain: a short position in MSFT."""
    async with World(WorldConfig(folder=tmp_path, strategies=[StrategySpec("trader", Trader())])) as world:
        await world.until_ready()
        world.faults.hold("MSFT", D(-70), D(400))
        world.app.session._connection.look_soon()
        await world.until(lambda: world.app.book.quarantines, 30, "quarantine")
        yield world


def loud(stream):
    return [line for line in map(json.loads, stream.getvalue().splitlines()) if "quarantine" in line["event"]]


async def test_it_is_said_at_once_and_again_while_it_lasts(tmp_path):
    """An error each time, without the account's number; nothing more after it was accepted."""
    stream = io.StringIO()
    log.configure("info", "json", stream, LoopClock(asyncio.get_running_loop(), EPOCH).now)
    try:
        async with World(WorldConfig(folder=tmp_path)) as world:
            await world.until_ready()
            world.faults.hold("MSFT", D(-70), D(400))
            world.app.session._connection.look_soon()
            await world.until(lambda: world.app.book.quarantines, 30, "quarantine")
            await asyncio.sleep(3 * QUARANTINE_REMINDER_S)
            said = loud(stream)
            assert len(said) == 4
            assert {line["level"] for line in said} == {"error"}
            assert "MSFT: the broker holds -70" in said[-1]["why"]
            world.app.accept_quarantine(ACCOUNT, "the operator")
            await asyncio.sleep(3 * QUARANTINE_REMINDER_S)
            (ended,) = loud(stream)[4:]
            assert (ended["level"], ended["by"]) == ("warning", "the operator")
            assert ACCOUNT not in stream.getvalue()
    finally:
        log.reset()


async def test_a_full_disk_lets_nobody_end_it(world):
    """What is not in the journal has not happened."""
    world.fill_disk()
    with pytest.raises(JournalError):
        world.app.accept_quarantine(ACCOUNT, "me")
    assert ACCOUNT in world.app.book.quarantines
    assert world.of(ev.PositionAdjusted) == []
    world.free_disk()
    world.app.accept_quarantine(ACCOUNT, "me")
    assert world.app.book.quarantines == {}


async def test_the_journal_tells_people_what_is_wrong(world):
    """Beside the running service, and with the exit code of something that waits for a person."""
    world.faults.foreign_order(7, "AAPL", "BUY", D(10), orderType="LMT", lmtPrice=D(1), orderRef="theirs")
    world.app.session._connection.look_soon()
    await world.until(lambda: world.app.book.foreign_orders, 30, "the order of others")
    path = world.config.folder / "journal.sqlite"
    shown = CliRunner().invoke(cli.app, ["reconcile", "--journal", str(path)])
    assert shown.exit_code == 1, shown.output
    assert "MSFT: the broker holds -70, our executions say 0" in shown.output
    assert "client 7: BUY 10 AAPL LMT (theirs)" in shown.output
    assert ACCOUNT not in shown.output
    assert Reconciliation.of(path) == Reconciliation.of_book(world.app.book)
    world.app.accept_quarantine(ACCOUNT, "me")
    calm = CliRunner().invoke(cli.app, ["reconcile", "--journal", str(path)])
    assert (calm.exit_code, "in quarantine: none" in calm.output) == (0, True), calm.output


async def test_the_operator_accepts_over_the_control_line(world):
    """First shown, then taken; the status says so, without the account's number."""
    operations = Operations(world.app)
    status = await operations.handle(Request("status"))
    assert any("in quarantine: MSFT: the broker holds -70" in line for line in status.text)
    preview = await operations.handle(Request("accept", by="anna", preview=True))
    assert (preview.ok, ACCOUNT in world.app.book.quarantines) == (True, True)
    taken = await operations.handle(Request("accept", by="anna"))
    assert taken.data == {"accepted": 1, "orders": []}
    assert "all orders may leave" in taken.text
    assert ACCOUNT not in " ".join([*status.text, *preview.text, *taken.text])
    assert [ended.by for ended in world.of(ev.QuarantineEnded)] == ["anna"]
    again = await operations.handle(Request("accept", by="anna"))
    assert "nothing was done" in again.text[-1]
    world.check_agreement()


async def test_everything_about_it_is_in_the_journal(world):
    """Who ended it, and what was adopted."""
    world.app.accept_quarantine(ACCOUNT, "me")
    with closing(open_readonly(world.config.folder / "journal.sqlite")) as database:
        kept = [
            fact
            for fact in facts(database, world.config.folder)
            if isinstance(fact, (ev.QuarantineBegan, ev.QuarantineEnded, ev.PositionAdjusted))
        ]
    assert [type(fact) for fact in kept] == [ev.QuarantineBegan, ev.QuarantineEnded, ev.PositionAdjusted]
    assert (kept[1].by, kept[2].instrument, kept[2].cause) == ("me", Stock("MSFT"), "accepted")
