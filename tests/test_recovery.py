"""How soon everything is back: a restart of the gateway with a hundred lines and fifty working orders, in virtual time.

Goal: from the moment the port accepts, READY and the first tick of every line take at most 1.2 times what the limit of
messages a second allows for those that are necessary. Method: the moments of the gateway's port and of the service's
ticks, and what the client sent, counted as it left.
"""

from __future__ import annotations

import asyncio
import sys
from collections import Counter
from contextlib import asynccontextmanager

from ibkr_service.app import config_of
from ibkr_service.broker.dialling import KNOCK_S
from ibkr_service.broker.login import SessionConfig
from ibkr_service.broker.pacer import Pacer
from ibkr_service.core import events as ev
from ibkr_service.core.instrument import Forex, Option, Stock
from ibkr_service.core.link import Link, Signal
from ibkr_service.core.orders import Intent, OrderState
from ibkr_service.settings import Settings
from ibkr_service.sim import listing
from ibkr_service.sim.messages import Request
from ibkr_service.supervisor import StrategySpec
from tests.world import PORT, World, WorldConfig

LINES, ORDERS = 100, 50
EXPIRY = "20261218"
STOCKS = [Stock(row.symbol) for row in listing.STOCKS if row.slot != listing.NO_OPTIONS]
# Each once: the handshake, the kind of data, and the five questions of which the answers make READY.
NECESSARY = {
    Request.START_API: 1,
    Request.MARKET_DATA_TYPE: 1,
    Request.POSITIONS: 1,
    Request.ALL_OPEN_ORDERS: 1,
    Request.COMPLETED_ORDERS: 1,
    Request.ACCOUNT_UPDATES: 1,
    Request.EXECUTIONS: 1,
    Request.MKT_DATA: LINES,
}
RATIO_MAX = 1.2
HALF_OPEN_MAX_S = 15.0
EUR = Forex("EUR", "USD")


class Trader:
    """Watches and orders; notes when a line ticked first since `ticked` was emptied."""

    def __init__(self):
        self.desk = None
        self.ticked = {}

    async def __call__(self, desk):
        self.desk = desk
        async for event in desk.events():
            if isinstance(event, ev.Tick):
                self.ticked.setdefault(event.instrument, asyncio.get_running_loop().time())


@asynccontextmanager
async def busy(folder):
    """A READY world with all its lines flowing and its orders working."""
    trader = Trader()
    config = WorldConfig(folder, strategies=[StrategySpec("trader", trader)])
    async with World(config) as world:
        await world.until(lambda: trader.desk is not None, what="the strategy")
        strikes = [float(contract.strike) for contract in world.faults.options("AAPL", EXPIRY, "C")]
        options = [Option("AAPL", EXPIRY, strike, right) for strike in strikes for right in ("C", "P")]
        options.sort(key=lambda option: abs(option.strike - 230))
        instruments = [*STOCKS, *options[: LINES - len(STOCKS)]]
        assert len(instruments) == LINES
        for instrument in instruments:
            trader.desk.watch(instrument)
        await world.until(lambda: len(trader.ticked) == LINES, 60, "every line")
        for number in range(ORDERS):
            stock = STOCKS[number % 10]
            wish = Intent.buy(stock, 1 + number, limit="5", tif="GTC")
            trader.desk.submit(wish)
            await asyncio.sleep(0.05)
        await world.until(
            lambda: [o.state for o in world.app.book.orders.values()] == [OrderState.WORKING] * ORDERS, what="orders"
        )
        yield world, trader


def necessary_s(world):
    """How long the necessary messages take at the limit, and not a message more."""
    return sum(NECESSARY.values()) / world.config.session.max_rate_per_s


async def restart(world, trader, outage_s):
    """Let the gateway be away for so long; returns what took how long from when its port accepts, in seconds."""
    await world.server.stop()
    await asyncio.sleep(outage_s)
    trader.ticked.clear()
    told = len(world.events)
    accepts_s = world.now_s
    await world.server.start()
    ready_s = []

    def is_back():
        ready_s.extend([world.now_s] * (world.app.book.link is Link.READY and not ready_s))
        return ready_s and len(trader.ticked) == LINES

    await world.until(is_back, 30, "READY and a tick on every line")
    assert [e.signal for e in world.events[told:] if isinstance(e, ev.LinkSignalled)].count(Signal.SOCKET_UP) == 1
    return ready_s[0] - accepts_s, max(trader.ticked.values()) - accepts_s


async def test_a_restart_of_the_gateway_costs_hardly_more_than_its_messages(tmp_path, monkeypatch):
    """After outages short and long: found at once, nothing superfluous asked, all lines requested at the full rate."""
    sent = []
    original = Pacer._put_on_wire

    def overheard(pacer, message):
        sent.append((asyncio.get_running_loop().time(), Request(int(message.partition("\0")[0]))))
        original(pacer, message)

    async with busy(tmp_path) as (world, trader):
        monkeypatch.setattr(Pacer, "_put_on_wire", overheard)
        for outage_s in (2.5, 7.3, 61.9, 1804.2):
            sent.clear()
            ready_after_s, took_s = await restart(world, trader, outage_s)
            ratio = took_s / necessary_s(world)
            sys.stdout.write(
                f"away {outage_s:g} s: READY in {ready_after_s:.2f} s, every line in {took_s:.2f} s, {ratio:.2f}\n"
            )
            assert ready_after_s < KNOCK_S + 0.1
            assert ratio <= RATIO_MAX
            asked = Counter(request for _, request in sent)
            assert {request: asked.pop(request) for request in NECESSARY} == NECESSARY
            assert set(asked) <= {Request.PNL, Request.CURRENT_TIME}, "what the account is worth; the heartbeat"
            times = [at_s for at_s, _ in sent]
            assert max(sum(0 <= later - at_s < 1 for later in times) for at_s in times) <= 40
            assert [o.state for o in world.app.book.orders.values()] == [OrderState.WORKING] * ORDERS
            await asyncio.sleep(3)
        incidents = world.of(ev.IncidentClosed)
        assert [(len(found.streams), found.resubscribed, found.silent) for found in incidents] == [
            (LINES, LINES, ())
        ] * 4
        world.check_agreement()


async def test_a_half_open_socket_is_found_within_fifteen_seconds(tmp_path):
    """With the default settings, at any phase of the heartbeat, and said so in the incident."""
    assert SessionConfig("127.0.0.1", 7497, 1) == config_of(Settings()).session
    worst_s = 0.0
    trader = Trader()
    async with World(WorldConfig(tmp_path, strategies=[StrategySpec("trader", trader)])) as world:
        await world.until(lambda: trader.desk is not None, what="the strategy")
        trader.desk.watch(EUR)
        network = asyncio.get_running_loop().network
        for number in range(24):
            await world.until(lambda: EUR in trader.ticked, what="ticks")
            await asyncio.sleep(5 + number * 0.19)
            frozen_s = world.now_s
            network.freeze(PORT)
            await world.until(lambda: world.app.book.link is Link.DOWN, what="its detection")
            worst_s = max(worst_s, world.now_s - frozen_s)
            network.thaw(PORT)
            trader.ticked.clear()
            await world.until(lambda: world.app.book.incident is None, 120, "the end of the incident")
        sys.stdout.write(f"found after {worst_s:.1f} s at the latest\n")
        assert 13.9 < worst_s <= HALF_OPEN_MAX_S, "the heartbeat's phase was swept"
        assert max(incident.detected_after_s for incident in world.of(ev.IncidentClosed)) <= HALF_OPEN_MAX_S
