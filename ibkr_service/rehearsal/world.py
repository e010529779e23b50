"""A world: the unmodified service, the unmodified ib_insync and the simulated gateway on one `SimLoop`.

Nights pass in milliseconds, and twice in the same way. Tests that are coroutines use `World` on the loop they run on;
steps of a story, which are plain functions, use `StoryWorld`, whose verbs advance the clock: `world.advance(30)`.
"""

from __future__ import annotations

import asyncio
import errno
import os
import random
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import msgspec

from ibkr_service.app import App, AppConfig
from ibkr_service.broker.login import SessionConfig
from ibkr_service.clock import LoopClock
from ibkr_service.core import events as ev
from ibkr_service.core.link import Link
from ibkr_service.core.risk import Limits
from ibkr_service.notifying import Channel
from ibkr_service.recorder import RecordingConfig
from ibkr_service.settings_risk import RestartWindowSettings
from ibkr_service.sim import Faults, Gateway, GatewayConfig, Server, serve
from ibkr_service.sim.loop import SimLoop
from ibkr_service.sim.scenarios import Scenario
from ibkr_service.supervisor import StrategySpec

EPOCH = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)  # a Monday, 09:30 in New York
PORT = 7497
KILLED = -9

WIDE_LIMITS = Limits(
    max_quantity=Decimal(10_000_000),
    max_notional=Decimal(100_000_000),
    max_open_orders=15,
    max_orders_per_minute=1_000,
    max_quote_age_s=30.0,
)


@dataclass
class WorldConfig:
    """What differs from one world to another."""

    folder: Path
    seed: int = 1
    gateway: GatewayConfig = field(default_factory=lambda: GatewayConfig(started_at=EPOCH))
    session: SessionConfig = field(default_factory=lambda: SessionConfig(host="127.0.0.1", port=PORT, client_id=1))
    limits: Limits = WIDE_LIMITS
    strategies: list[StrategySpec] = field(default_factory=list)
    mailbox_max: int = 1_000
    inbox_max: int = 10_000
    shutdown_timeout_s: float = 10.0
    gateway_starts: bool = True
    claims: Path | None = None
    keep_days: int = 0
    channels: Sequence[Channel] = ()
    record: Path | None = None  # where the session is recorded to
    scenario: Scenario | None = None  # what happens to them; its needs come before what is set here

    def __post_init__(self) -> None:
        """See to it that the scenario has what it needs."""
        if self.scenario is not None:
            self.gateway = replace(self.gateway, **self.scenario.gateway)
            for key, value in self.scenario.settings.items():
                if key == "ibkr.restart_window":
                    windows = tuple(RestartWindowSettings(**window).window for window in value)
                    self.limits = msgspec.structs.replace(self.limits, restart_windows=windows)
                else:
                    self.session = replace(self.session, **{key.removeprefix("ibkr."): value})


class World:
    """Service and gateway on the running loop. Use as an async context manager.

    The brokerage behind the gateway outlives the service: `restart_service` is what a crash of the machine looks like
    from there.
    """

    def __init__(self, config: WorldConfig) -> None:
        self.config = config
        self.events: list[ev.Event] = []  # all that was recorded, of all runs
        self._around = AsyncExitStack()
        self._server: Server | None = None
        self._app: App | None = None
        self._group: asyncio.TaskGroup | None = None
        self._running: asyncio.Task[int] | None = None
        self._script: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Self:
        """Start the gateway, if it is to start; then the service."""
        loop = asyncio.get_running_loop()
        self._clock = LoopClock(loop, self.config.gateway.started_at)
        self._group = await self._around.enter_async_context(asyncio.TaskGroup())
        if self.config.gateway_starts:
            await self.start_gateway()
        self.start_service()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop the service in order, then the gateway."""
        if self._script is not None:
            self._script.cancel()
        if self._app is not None:
            await self.stop_service()
        if self._server is not None:
            await self._server.close()
        await self._around.__aexit__(kind, exc, trace)

    # --- the parts ---------------------------------------------------------------------------------------------------

    @property
    def app(self) -> App:
        """The service as it runs now, or ran last."""
        assert self._app is not None, "a service was started"
        return self._app

    @property
    def server(self) -> Server:
        """The gateway."""
        assert self._server is not None, "a gateway was started"
        return self._server

    @property
    def gateway(self) -> Gateway:
        """What the gateway knows: its own positions, orders, executions."""
        return self.server.gateway

    @property
    def faults(self) -> Faults:
        """The misfortunes that can be made to happen."""
        return self.server.faults

    @property
    def now_s(self) -> float:
        """Virtual seconds since the world began."""
        return asyncio.get_running_loop().time()

    async def start_gateway(self) -> None:
        """Let the gateway listen."""
        host, port = self.config.session.host, self.config.session.port
        self._server = await serve(Gateway(self.config.gateway), host, port)
        self._begin_script()

    def _begin_script(self) -> None:
        """Let the scenario, if there is one, begin to play on the gateway."""
        if self.config.scenario is not None and self._server is not None:
            assert self._group is not None, "the world was entered"
            self._script = self._group.create_task(self.config.scenario.play(self._server, self), name="scenario")

    def start_service(self) -> None:
        """Start a service on this world's journal."""
        config = AppConfig(
            session=self.config.session,
            limits=self.config.limits,
            journal_path=self.config.folder / "journal.sqlite",
            mailbox_max=self.config.mailbox_max,
            inbox_max=self.config.inbox_max,
            shutdown_timeout_s=self.config.shutdown_timeout_s,
            claims=self.config.claims,
            keep_days=self.config.keep_days,
            recording=(
                RecordingConfig(self.config.record, seed=self.config.seed, is_virtual=True)
                if self.config.record
                else None
            ),
        )
        rng = random.Random(self.config.seed)
        self._app = App(
            config,
            self.config.strategies,
            clock=self._clock,
            rng=rng,
            observer=self.events.append,
            channels=self.config.channels,
        )
        assert self._group is not None, "the world was entered"
        self._running = self._group.create_task(self._app.run(), name="app")

    async def stop_service(self) -> int:
        """Shut the service down in order; returns its exit code."""
        self.app.request_stop("the rehearsal ends")
        return await self.ended()

    async def ended(self) -> int:
        """Wait until the service has ended by itself; returns its exit code (that of SIGKILL if it was killed)."""
        assert self._running is not None, "a service was started"
        await asyncio.wait([self._running])
        return KILLED if self._running.cancelled() else self._running.result()

    # --- the machine that the service runs on, as scenarios see it ---------------------------------------------------

    def fill_disk(self) -> None:
        """From now on the journal cannot be written."""

        def refuse(_row: tuple[object, ...]) -> None:
            raise sqlite3.OperationalError("database or disk is full")

        def refuse_ahead(_seq: int, _event: ev.Event) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        journal = self.app.journal  # a disk's seams
        journal._write, journal._write_ahead = refuse, refuse_ahead  # type: ignore[method-assign, assignment]  # noqa: SLF001

    def free_disk(self) -> None:
        """The journal can be written again."""
        for seam in ("_write", "_write_ahead"):
            self.app.journal.__dict__.pop(seam, None)

    async def kill(self) -> None:
        """The service's process dies: nothing more is written or sent, nothing is closed in order."""
        assert self._running is not None, "a service was started"
        self.fill_disk()
        self.server.drop()
        self._running.cancel()
        await asyncio.wait([self._running])

    async def start(self) -> None:
        """Start a service on the journal that the last one left."""
        self.start_service()

    async def restart_service(self) -> None:
        """Stop the service and start another on the same journal."""
        await self.stop_service()
        self.start_service()

    # --- time and truth ----------------------------------------------------------------------------------------------

    async def until(self, condition: Callable[[], bool], within_s: float = 60.0, what: str = "it") -> None:
        """Let time pass until something is so.

        Raises:
            AssertionError: it was not so within the limit.
        """
        deadline_s = self.now_s + within_s
        while not condition():
            assert self.now_s < deadline_s, f"{what} did not happen within {within_s:g} virtual seconds"
            await asyncio.sleep(0.01)

    async def until_ready(self, within_s: float = 60.0) -> None:
        """Let time pass until the link is READY."""
        await self.until(lambda: self.app.book.link is Link.READY, within_s, "READY")

    def of(self, kind: type[Any]) -> list[Any]:
        """All recorded events of one kind, oldest first."""
        return [event for event in self.events if type(event) is kind]

    def journal_lines(self) -> list[str]:
        """The canonical form of the journal, while the service runs."""
        return list(self.app.journal.export())

    def check_agreement(self) -> None:
        """Book, ledger and the gateway's own positions must say the same.

        Raises:
            AssertionError: they do not.
        """
        book = self.app.book
        account = book.account
        gateway = {p.contract.con_id: p.quantity for p in self.gateway.positions(account) if p.quantity}
        broker = {con: p.quantity for (a, con), p in book.positions.items() if a == account and p.quantity}
        ledger = {con: quantity for (a, con), quantity in book.ledger.items() if a == account and quantity}
        assert gateway == broker == ledger, f"gateway {gateway}, book {broker}, ledger {ledger}"


class StoryWorld:
    """A world with a synchronous face, for the steps of a story: each verb lets virtual time pass."""

    def __init__(self, config: WorldConfig) -> None:
        self.loop = SimLoop()
        asyncio.set_event_loop(self.loop)
        self.config = config
        self._world: World | None = None

    @property
    def world(self) -> World:
        """The world, once it began."""
        assert self._world is not None, "the story has begun"
        return self._world

    def begin(self, **session: object) -> None:
        """Start gateway and service, the session's settings changed as given."""
        if session:
            # mypy cannot see that the names are fields; replace() checks them.
            self.config.session = replace(self.config.session, **session)  # type: ignore[arg-type]
        world = World(self.config)
        self._world = self.loop.run_until_complete(world.__aenter__())

    def advance(self, seconds: float) -> None:
        """Let virtual time pass."""
        self.loop.run_until_complete(asyncio.sleep(seconds))

    def until(self, condition: Callable[[], bool], within_s: float = 60.0, what: str = "it") -> None:
        """Let virtual time pass until something is so, or fail."""
        self.loop.run_until_complete(self.world.until(condition, within_s, what))

    def run(self, coroutine: Any) -> Any:  # noqa: ANN401 - whatever the coroutine returns
        """Run something to its end in this world."""
        return self.loop.run_until_complete(coroutine)

    def close(self) -> None:
        """End the story."""
        try:
            if self._world is not None:
                self.loop.run_until_complete(self._world.__aexit__(None, None, None))
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()
