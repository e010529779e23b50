"""The stage of every story: a world in virtual time, a trader in it, and the diary of what the service logged.

The service, ib_insync and the gateway are the real ones of `World`. What a story adds is a vocabulary: misfortunes that
are there before the service's first byte, a strategy that keeps what it reads, and the log as parsed lines.
"""

from __future__ import annotations

import asyncio
import io
import json
import re
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import datetime
from itertools import pairwise
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import pytest

from ibkr_service import log
from ibkr_service.clock import LoopClock
from ibkr_service.core import events as ev
from ibkr_service.core.orders import Intent
from ibkr_service.desk import Desk
from ibkr_service.journal import export, open_readonly
from ibkr_service.rehearsal.world import EPOCH, StoryWorld, World, WorldConfig
from ibkr_service.sim import Gateway
from ibkr_service.sim.messages import Request
from ibkr_service.sim.session import Session
from ibkr_service.supervisor import StrategySpec

T = TypeVar("T")

ACCOUNT_IN_FULL = re.compile(r"\b[DFIU]{1,2}\d{5,9}\b")
END_WITHIN_S = 3600.0  # of virtual time: a service that is to end has no excuse after that


class Diary:
    """What the service logged, as parsed JSON lines."""

    def __init__(self) -> None:
        self.stream = io.StringIO()

    @property
    def text(self) -> str:
        """All of it, as written."""
        return self.stream.getvalue()

    def lines(self, **wanted: object) -> list[dict[str, Any]]:
        """Return the lines that carry all these values, oldest first."""
        lines = [json.loads(line) for line in self.text.splitlines()]
        return [line for line in lines if wanted.items() <= line.items()]

    def waits_s(self, **wanted: object) -> list[float]:
        """Return the seconds between one such line and the next."""
        times = [datetime.fromisoformat(line["time"]) for line in self.lines(**wanted)]
        return [(after - before).total_seconds() for before, after in pairwise(times)]

    def only(self, **wanted: object) -> dict[str, Any]:
        """Return the line that carries all these values; there must be exactly one."""
        found = self.lines(**wanted)
        assert len(found) == 1, f"{len(found)} lines with {wanted} in:\n{self.text}"
        return found[0]


class Trader:
    """A strategy that keeps everything it reads; the story trades at its desk."""

    def __init__(self) -> None:
        self.seen: list[ev.Event] = []
        self._desk: Desk | None = None

    async def __call__(self, desk: Desk) -> None:
        """Read until the service ends."""
        self._desk = desk
        async for event in desk.events():
            self.seen.append(event)

    @property
    def desk(self) -> Desk:
        """The desk, once the service has been READY."""
        assert self._desk is not None, "the strategy was started"
        return self._desk

    @property
    def was_started(self) -> bool:
        """Whether the service ever let it work."""
        return self._desk is not None

    def of(self, *kinds: type[Any]) -> list[Any]:
        """Return what it read of these kinds, oldest first."""
        return [event for event in self.seen if isinstance(event, kinds)]


class Heard(NamedTuple):
    """A request as the gateway received it."""

    at_s: float
    client_id: int
    request: Request


class Story(StoryWorld):
    """A world with a diary, a trader, and misfortunes arranged beforehand."""

    def __init__(self, folder: Path) -> None:
        self.trader = Trader()
        super().__init__(WorldConfig(folder=folder, strategies=[StrategySpec("trader", self.trader)]))
        self.diary = Diary()
        self.session: dict[str, object] = {}  # what differs from the default settings of the connection
        self.before: list[Callable[[World], object]] = []  # done to the gateway before the service's first byte
        self.heard: list[Heard] = []  # what the gateway was asked
        self.exit_code: int | None = None
        self.asked_to_stop_s = 0.0
        self.refusal: Exception | None = None

    def raise_curtain(self) -> None:
        """Start gateway and service, with the settings and misfortunes that the story has named."""
        self.begin(**self.session)
        if self.config.gateway_starts:
            self._prepare()

    def start_gateway(self) -> None:
        """Let a gateway listen that was not there when the service started."""
        self.run(self.world.start_gateway())
        self._prepare()

    def _prepare(self) -> None:
        assert not self.world.server.connections, "the service has not connected yet"
        self._listen_in(self.world.gateway)
        for act in self.before:
            self.do(act)

    def _listen_in(self, gateway: Gateway) -> None:
        """Note every request that reaches the gateway; the gateway itself answers as ever."""
        answer = gateway.dispatch

        def note(session: Session, values: tuple[str, ...]) -> None:
            self.heard.append(Heard(self.loop.time(), session.client_id, Request(int(values[0]))))
            answer(session, values)

        gateway.dispatch = note  # type: ignore[method-assign]

    def asked(self, request: Request) -> int:
        """Count how often the gateway was asked this."""
        return sum(heard.request is request for heard in self.heard)

    def do(self, act: Callable[[World], T]) -> T:
        """Let something happen inside the loop; returns what it returns."""

        async def happen() -> T:
            return act(self.world)

        return self.run(happen())

    def submit(self, intent: Intent) -> str:
        """Submit an order at the trader's desk."""
        return self.do(lambda _world: self.trader.desk.submit(intent))

    def until_ready(self, within_s: float) -> None:
        """Let time pass until the link is READY."""
        self.run(self.world.until_ready(within_s))

    def await_end(self) -> None:
        """Let time pass until the service has ended by itself."""

        async def end() -> int:
            async with asyncio.timeout(END_WITHIN_S):
                return await asyncio.shield(self.world.ended())  # late, it is the story that failed

        self.exit_code = self.run(end())


def read_journal(path: Path) -> list[dict[str, Any]]:
    """Return the facts of a journal that is closed, oldest first."""
    with closing(open_readonly(path)) as database:
        return [json.loads(line)["fact"] for line in export(database)]


@pytest.fixture
def story(tmp_path: Path) -> Iterator[Story]:
    """Tell a story. Whatever it tells, no account number may stand in full in its log."""
    story = Story(tmp_path)
    log.configure("info", "json", story.diary.stream, LoopClock(story.loop, EPOCH).now)
    try:
        yield story
        story.close()
    finally:
        log.reset()
        if not story.loop.is_closed():
            story.loop.close()
    assert ACCOUNT_IN_FULL.search(story.diary.text) is None, "an account number stands in full in the log"


@pytest.fixture
def diary(story: Story) -> Diary:
    """Return what the service has logged so far."""
    return story.diary
