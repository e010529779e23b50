"""A running service keeps its journal in order: snapshots of the book when they are due and at the end, pruning daily.

Method: the service at the simulated gateway in virtual time, trading on. What a snapshot is worth is
`tests/test_snapshots.py`; here it is that they are taken, and that nothing waits for them.
"""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import closing
from decimal import Decimal as D

import pytest

from ibkr_service.core.errors import JournalError
from ibkr_service.core.instrument import Forex
from ibkr_service.core.orders import Intent
from ibkr_service.journal import Journal
from ibkr_service.retention import OF_THE_PAST
from ibkr_service.snapshots import Snapshots
from ibkr_service.supervisor import StrategySpec
from tests.test_schema import OLD
from tests.test_snapshots import folded, replayed
from tests.world import World, WorldConfig

EURUSD = Forex("EUR", "USD")


class Trader:
    """Buys and sells in turns, every ten seconds."""

    def __init__(self):
        self.orders = 0

    async def __call__(self, desk):
        await desk.qualify(EURUSD)
        desk.watch(EURUSD)
        while True:
            await desk.first_quote(EURUSD)
            self.orders += 1
            desk.submit(Intent(instrument=EURUSD, action="BUY" if self.orders % 2 else "SELL", quantity=D(1000)))
            await asyncio.sleep(10)


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A service that trades, for which a snapshot is due every forty facts."""
    monkeypatch.setattr(Snapshots, "every", 40)
    return WorldConfig(folder=tmp_path, strategies=[StrategySpec("s", Trader())])


def book_and_replayed(config, world):
    """The book as the service left it, and as all facts give it."""
    journal = Journal(config.folder / "journal.sqlite")
    try:
        return folded(world.app.book), folded(replayed(journal))
    finally:
        journal.close()


async def test_snapshots_are_taken_while_it_trades(config):
    """Each time one is due, soon; a start without a clean stop before it goes on from the last one."""
    async with World(config) as world:
        taken = []
        while len(taken) < 5:
            await asyncio.sleep(10)
            snapshots = world.app.hub.snapshots
            assert world.app.journal.seq - snapshots.seq < 2 * Snapshots.every
            if snapshots.seq not in {0, *taken}:
                taken.append(snapshots.seq)
        world.check_agreement()
    book, whole = book_and_replayed(config, world)
    assert book == whole


async def test_a_clean_stop_leaves_a_snapshot_of_everything(config):
    """The next start replays nothing."""
    async with World(config) as world:
        await asyncio.sleep(60)
        await world.stop_service()
        last = world.app.hub.snapshots.seq
        world.start_service()
        assert world.app.hub.snapshots.seq == last == world.app.journal.seq
        await world.until_ready()


async def test_a_disk_that_refuses_snapshots_stops_nothing(config, monkeypatch):
    """A snapshot is a saving of time: orders go on, and a later one is whole."""

    def refuse(_journal, *_steps):
        raise JournalError("database or disk is full")

    async with World(config) as world:
        with monkeypatch.context() as full:
            full.setattr(Journal, "_change", refuse)
            await asyncio.sleep(120)
            assert world.app.hub.snapshots.seq == 0
            assert len(world.app.book.fills) >= 10
        await asyncio.sleep(120)
        assert world.app.hub.snapshots.seq > 0
    book, whole = book_and_replayed(config, world)
    assert book == whole


async def test_no_snapshot_holds_what_the_disk_does_not_have(config, monkeypatch):
    """While facts wait for the disk the book is ahead of the journal."""
    write = Journal._write

    def refuse(_journal, _row):
        raise sqlite3.OperationalError("database or disk is full")

    async with World(config) as world:
        await asyncio.sleep(60)
        before = world.app.hub.snapshots.seq
        monkeypatch.setattr(Journal, "_write", refuse)
        world.faults.cut()
        await asyncio.sleep(60)
        assert world.app.hub.unsaved
        world.app.hub.snapshots.every = 0
        await asyncio.sleep(60)
        assert world.app.hub.snapshots.seq <= world.app.journal.seq
        await world.stop_service()
        assert before <= world.app.hub.snapshots.seq <= world.app.journal.seq
        monkeypatch.setattr(Journal, "_write", write)


async def test_old_facts_go_by_themselves(config):
    """Some minutes after the start, what is older than a day; the record stays, and the service trades on."""
    with closing(sqlite3.connect(config.folder / "journal.sqlite")) as database:
        database.executescript(OLD.read_text())  # three days before the world begins
    config.keep_days = 1
    async with World(config) as world:
        await asyncio.sleep(700)
        kinds = dict(world.app.journal._db.execute("SELECT kind, min(at) FROM journal GROUP BY kind").fetchall())
        old = {kind for kind, at in kinds.items() if at < "2026-11-21"}
        assert {"OrderSubmitted", "OrderClosed", "Fill", "CommissionReported", "Snapshot"} <= old
        assert not old & OF_THE_PAST
        assert world.app.book.order_for_key("trend", "aapl-1").done
        assert len(world.app.book.fills) > 50
