"""A world whose machine may fail too: its disk fills, its clock is set, its process dies and comes back."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import datetime, timedelta

from ibkr_service.core import events as ev
from ibkr_service.rehearsal.mood import MOODS, MoodyGateway
from ibkr_service.rehearsal.wiretap import TappedLoop
from ibkr_service.rehearsal.world import World, WorldConfig
from ibkr_service.sim import serve
from ibkr_service.sim.faults import Effect
from ibkr_service.sim.network import Network


class Recorded(list[ev.Event]):
    """Everything that was recorded, and somebody who is told at once."""

    def __init__(self, told: Callable[[ev.Event], None]) -> None:
        super().__init__()
        self._told = told

    def append(self, event: ev.Event) -> None:
        """Keep all but ticks; tell all."""
        if not isinstance(event, ev.Tick):
            super().append(event)
        self._told(event)


class SteppedClock:
    """A wall clock that follows the loop, but may be set."""

    def __init__(self, loop: asyncio.AbstractEventLoop, epoch: datetime) -> None:
        self._loop = loop
        self._epoch = epoch
        self._step = timedelta(0)
        self._latest = (-1.0, epoch)  # it is asked many times in one instant

    def now(self) -> datetime:
        """Epoch, loop time, and by how much it was set."""
        now_s = self._loop.time()
        at_s, now = self._latest
        if at_s != now_s:
            now = self._epoch + self._step + timedelta(seconds=round(now_s, 6))
            self._latest = (now_s, now)
        return now

    def set_by(self, seconds: float) -> None:
        """Set it forward or back."""
        self._step += timedelta(seconds=seconds)
        self._latest = (-1.0, self._epoch)


class Machine(World):
    """A `World` on a `TappedLoop`, with what can befall the machine that the service runs on.

    Attributes:
        lives: how many services were started. is_up: whether one runs.
    """

    def __init__(
        self,
        config: WorldConfig,
        told: Callable[[ev.Event], None],
        *,
        latency_s: float,
        struck: Callable[[str, Effect], None],
    ) -> None:
        super().__init__(config)
        self.events: list[ev.Event] = Recorded(told)
        self._struck = struck
        loop = asyncio.get_running_loop()
        assert isinstance(loop, TappedLoop), "a rehearsal runs on a TappedLoop"
        self.loop = loop
        self.usual_latency_s = latency_s
        self.network.latency_s = latency_s
        self.mood = MOODS["calm"]
        self.step_s = 5.0  # between two quotes of an instrument
        self.has_figures = True  # of the day
        self.lives = 0
        self.is_up = False
        self.ended_s: dict[int, float] = {}  # when each life began to end
        self._stepped = SteppedClock(loop, config.gateway.started_at)
        self._only_one = asyncio.Lock()  # of those who stop and start it

    @property
    def network(self) -> Network:
        """The wire."""
        return self.loop.network

    @property
    def port(self) -> int:
        """The gateway's."""
        return self.config.session.port

    @property
    def client_id(self) -> int:
        """The service's."""
        return self.config.session.client_id

    async def start_gateway(self) -> None:
        """Let a gateway listen whose market is in this machine's mood."""
        gateway = MoodyGateway(self.config.gateway, self.mood, self.step_s, has_figures=self.has_figures)
        self._server = await serve(gateway, self.config.session.host, self.port)
        self.faults.listener = self._struck
        self._begin_script()

    def start_service(self) -> None:
        """Start a service, on a clock that may be set."""
        self._clock = self._stepped  # type: ignore[assignment] # World says LoopClock, and needs only a Clock
        super().start_service()
        self.lives += 1
        self.is_up = True

    async def stop_service(self) -> int:
        """Shut the service down in order."""
        self._ends()
        return await super().stop_service()

    async def kill(self) -> None:
        """The process dies: nothing more is written or sent, nothing is closed in order."""
        self._ends()
        self.network.reset(self.port)
        await super().kill()

    async def restart_after(self, seconds: float, *, is_crash: bool) -> None:
        """Stop the service, in order or not, and start it again."""
        async with self._only_one:
            if not self.is_up:
                return
            await (self.kill() if is_crash else self.stop_service())
            await asyncio.sleep(seconds)
            self.start_service()

    async def start_if_down(self) -> None:
        """Start the service, if it does not run."""
        async with self._only_one:
            if not self.is_up:
                self.start_service()

    def end_script(self) -> None:
        """The scenario does nothing any more."""
        if self._script is not None:
            self._script.cancel()

    def step_clock(self, seconds: float) -> None:
        """Set the wall clock forward or back; the loop's own time goes on evenly."""
        self._stepped.set_by(seconds)

    @property
    def has_ended(self) -> bool:
        """Whether the service's task is over."""
        return self._running is not None and self._running.done()

    def _ends(self) -> None:
        self.is_up = False
        self.ended_s.setdefault(self.lives, self.loop.time())

    @property
    def keepers(self) -> list[asyncio.Task[object]]:
        """The tasks that are the world's own, not the service's."""
        nights = self.server._nights  # noqa: SLF001 - the gateway's
        return [task for task in (nights,) if task is not None]
