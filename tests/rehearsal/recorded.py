"""A session in a world of virtual time, recorded, with the timeline that it had."""

from __future__ import annotations

import asyncio
import io
from collections.abc import Awaitable, Callable
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path

from ibkr_service import log
from ibkr_service.journal import export, open_readonly
from ibkr_service.rehearsal.machine import Recorded
from ibkr_service.rehearsal.replaying import listen, overheard
from ibkr_service.rehearsal.timeline import Entry, Timeline
from ibkr_service.rehearsal.wiretap import TappedLoop
from ibkr_service.rehearsal.world import World, WorldConfig


@dataclass(frozen=True)
class Lived:
    """What a recorded session was like."""

    path: Path
    timeline: tuple[Entry, ...]
    journal: tuple[str, ...]


def live(config: WorldConfig, story: Callable[[World], Awaitable[None]], name: str = "session.recording") -> Lived:
    """Let a story happen in a recorded world."""
    path = config.folder / name
    log.configure("error", "json", stream=io.StringIO())

    async def lived() -> Lived:
        loop = asyncio.get_running_loop()
        timeline = Timeline(loop.time, keeps=True)
        listen(loop, timeline)
        world = World(
            replace(config, strategies=[overheard(spec, timeline) for spec in config.strategies], record=path)
        )
        world.events = Recorded(timeline.service)
        async with world:
            await story(world)
            await world.stop_service()
            lines = journal_of(config.folder / "journal.sqlite")
        return Lived(path, tuple(timeline.entries), lines)

    with asyncio.Runner(loop_factory=TappedLoop) as runner:
        asyncio.set_event_loop(runner.get_loop())
        try:
            return runner.run(lived())
        finally:
            asyncio.set_event_loop(None)


def journal_of(path: Path) -> tuple[str, ...]:
    """The canonical lines of a journal."""
    with closing(open_readonly(path)) as database:
        return tuple(export(database))


def told(timeline: tuple[Entry, ...]) -> list[Entry]:
    """What a timeline says of the service: its wire, its facts, what its strategies read."""
    return [entry for entry in timeline if entry.side in {"wire", "service", "strategy"}]
