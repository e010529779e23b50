"""A world in which a scenario plays, and a trader at his desk: what the tests of scenarios have in common."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager, contextmanager
from dataclasses import replace

from ibkr_service import log
from ibkr_service.clock import LoopClock
from ibkr_service.core import events as ev
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.core.intent import Intent
from ibkr_service.core.link import Link
from ibkr_service.sim import GatewayConfig, scenarios
from ibkr_service.sim.messages import Request
from ibkr_service.supervisor import StrategySpec
from tests.bdd.stage import Diary, Heard, Trader
from tests.world import EPOCH, World, WorldConfig

AAPL, MSFT, EURUSD = Stock("AAPL"), Stock("MSFT"), Forex("EUR", "USD")


class Scene:
    """A world in which a scenario plays, and a trader at his desk."""

    def __init__(self, world, trader):
        self.world, self.trader = world, trader

    @property
    def desk(self):
        return self.trader.desk

    @property
    def book(self):
        return self.world.app.book

    def low(self, quantity=10, **terms):
        """A limit so far below the market that only the scenario fills it."""
        return Intent.buy(AAPL, quantity, **{"limit": "100", "tif": "GTC"} | terms)

    async def until(self, condition, what, within_s=60.0):
        await self.world.until(condition, within_s, what)

    async def until_state(self, ref, state, within_s=60.0):
        await self.until(lambda: self.book.orders[ref].state is state, f"{ref} {state}", within_s)

    async def play_out(self):
        """Let the script come to its end, and the service settle."""
        script = self.world._script
        await asyncio.wait([script])
        assert script.exception() is None, script.exception()
        await self.world.until_ready(300)
        await asyncio.sleep(30)

    def changes(self, ref):
        """The states that an order was told to have gone through."""
        return [change.after for change in self.trader.of(ev.OrderChanged) if change.ref == ref]

    def fills(self, ref):
        return [fill for fill in self.trader.of(ev.Fill) if fill.ref == ref]

    def placed(self, ref):
        """How often this reference ever reached the broker."""
        return sum(order.ticket.order_ref == ref for order in self.world.gateway.exchange.orders.values())

    def asked(self, request, since_s=0.0):
        """How often the gateway was asked this."""
        return sum(heard.request is request and heard.at_s >= since_s for heard in self.world.heard)

    def met_s(self, words):
        """When a misfortune was met whose words begin so, the first time."""
        return next(at_s for at_s, text, _ in self.world.met if text.startswith(words))

    def links(self):
        """The states that the link has come to, one after another."""
        return [change.after for change in self.world.of(ev.LinkChanged)]

    def left_ready_s(self, since_s=0.0):
        """When the link left READY, the first time from then on."""
        epoch = self.world.config.gateway.started_at
        times = [(e.at - epoch).total_seconds() for e in self.world.of(ev.LinkChanged) if e.before is Link.READY]
        return next(at_s for at_s in times if at_s >= since_s - 0.01)

    def told(self, kind, instrument):
        return [event for event in self.trader.of(kind) if event.instrument == instrument]

    def incidents(self):
        return self.world.of(ev.IncidentOpened), self.world.of(ev.IncidentClosed)

    def one_incident(self):
        """The only one that there was; it is over."""
        (began,), (over,) = self.incidents()
        assert began.number == over.number
        return over

    async def flows(self, *instruments, within_s=60.0):
        """Wait until each has a quote."""
        await self.until(lambda: all(self.book.quote(each) for each in instruments), "quotes", within_s)

    def quarantined(self):
        return dict(self.book.quarantines)


@asynccontextmanager
async def scene(name, folder, *, starts=True, quiet=True, gateway=None, **session):
    """A scenario being played. quiet: quotes come every five seconds only. gateway, session: what differs of them."""
    trader = Trader()
    config = WorldConfig(
        folder=folder,
        strategies=[StrategySpec("trader", trader)],
        gateway=replace(GatewayConfig(started_at=EPOCH, quote_interval_s=5.0 if quiet else 0.0), **(gateway or {})),
        scenario=scenarios.named(name),
    )
    config.session = replace(config.session, **session)
    async with Recorded(config) as world:
        at = Scene(world, trader)
        if starts:
            await world.until(lambda: trader.was_started, what="the strategy")
            await trader.desk.qualify(AAPL)
        yield at


class Recorded(World):
    """A world that notes what the gateway is asked, and what misfortunes it meets."""

    def __init__(self, config):
        super().__init__(config)
        self.heard = []
        self.met = []

    def _begin_script(self):
        gateway, loop = self.server.gateway, asyncio.get_running_loop()
        answer = gateway.dispatch

        def note(session, values):
            self.heard.append(Heard(loop.time(), session.client_id, Request(int(values[0]))))
            answer(session, values)

        gateway.dispatch = note
        self.faults.listener = lambda words, effect: self.met.append((loop.time(), words, effect))
        super()._begin_script()


@contextmanager
def kept_diary():
    """What the service logs meanwhile."""
    diary = Diary()
    log.configure("info", "json", diary.stream, LoopClock(asyncio.get_running_loop(), EPOCH).now)
    try:
        yield diary
    finally:
        log.reset()
