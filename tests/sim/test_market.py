"""The market in motion, and the clock that moves it."""

import asyncio
import itertools
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from ibkr_service.sim.clock import GatewayClock
from ibkr_service.sim.contracts import Universe
from ibkr_service.sim.market import CHANGES_PER_TURN_MAX, CHANGES_PER_WAKE_MAX, Market
from ibkr_service.sim.pricing import Prices
from ibkr_service.sim.replay import Recording, Replay
from ibkr_service.sim.walk import RandomWalk

STARTED_AT = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
UNIVERSE = Universe(date(2026, 11, 23))
AAPL = UNIVERSE.stocks[265598]


def make_market(speed: float = 1.0) -> Market:
    clock = GatewayClock(asyncio.get_running_loop(), started_at=STARTED_AT, speed=speed)
    return Market(clock, Prices(UNIVERSE, RandomWalk(0), STARTED_AT))


async def test_gateway_time_runs_at_its_speed():
    """A hundred times faster: a minute of the loop is a hundred of the gateway."""
    clock = GatewayClock(asyncio.get_running_loop(), started_at=STARTED_AT, speed=100)
    come = []
    clock.call_later(300, lambda: come.append(clock.seconds()))
    clock.call_at(600, lambda: come.append(clock.seconds()))
    await asyncio.sleep(60)
    assert clock.seconds() == pytest.approx(6000)
    assert clock.now() == clock.at(clock.seconds())
    assert come == [pytest.approx(300), pytest.approx(600)]


async def test_a_closed_clock_calls_nobody():
    """Timers set before and after are cancelled alike."""
    clock = GatewayClock(asyncio.get_running_loop(), started_at=STARTED_AT)
    come = []
    clock.call_later(1, lambda: come.append("before"))
    cancelled = clock.call_later(0.5, lambda: come.append("cancelled"))
    cancelled.cancel()
    clock.close()
    clock.call_later(1, lambda: come.append("after"))
    await asyncio.sleep(5)
    assert come == []


@pytest.mark.parametrize("speed", [0, -1, float("inf"), float("nan")])
async def test_a_clock_needs_a_speed(speed):
    """Time does not stand still and does not run backwards."""
    with pytest.raises(ValueError, match="speed"):
        GatewayClock(asyncio.get_running_loop(), started_at=STARTED_AT, speed=speed)


async def test_a_clock_needs_a_zone():
    """A naive date means nothing."""
    with pytest.raises(ValueError, match="time zone"):
        GatewayClock(asyncio.get_running_loop(), started_at=datetime(2026, 1, 1))  # noqa: DTZ001  the point of the test


async def test_watchers_see_the_same_quotes_in_order():
    """Two who watch the same instrument are told the same."""
    market, seen, other = make_market(), [], []
    watch = market.watch(AAPL, seen.append)
    market.watch(AAPL, other.append)
    await asyncio.sleep(10)
    assert seen == other
    assert 39 <= len(seen) <= 41
    assert [quote.at for quote in seen] == sorted(quote.at for quote in seen)
    assert market.quote(AAPL) == seen[-1]
    watch.close()
    await asyncio.sleep(1)
    assert len(other) > len(seen)


async def test_the_path_does_not_depend_on_watchers():
    """Who begins to watch late sees what the others see."""
    early, late = make_market(), make_market()
    seen, seen_late = [], []
    early.watch(AAPL, seen.append)
    await asyncio.sleep(5)
    late.watch(AAPL, seen_late.append)
    await asyncio.sleep(5)
    assert seen[-len(seen_late) :] == seen_late


async def test_nothing_moves_that_nobody_watches():
    """When the last watch is closed its timer goes, and the feed is forgotten."""
    market = make_market()
    watch = market.watch(AAPL, lambda _quote: None)
    watch.close()
    watch.close()
    assert repr(market) == "<Market [0 instruments watched]>"
    assert market.clock._timers == {}


async def test_a_watch_closed_while_a_change_is_delivered_is_told_nothing_more():
    """Not even the change that is just being delivered."""
    market, told = make_market(), []
    watches = [market.watch(AAPL, lambda _quote: (told.append("first"), watches[1].close()))]
    watches.append(market.watch(AAPL, lambda _quote: told.append("second")))
    await asyncio.sleep(1)
    assert set(told) == {"first"}


async def test_a_loop_that_is_far_behind_skips_changes():
    """It conflates, it does not starve the loop: after a pause only so many changes come at once."""
    market, seen = make_market(), []
    market.watch(AAPL, seen.append)
    asyncio.get_running_loop()._now_s += 1000  # a turn of the loop that took very long
    await asyncio.sleep(1)
    assert CHANGES_PER_WAKE_MAX < len(seen) <= CHANGES_PER_WAKE_MAX + 5
    assert seen[-1].at >= market.clock.seconds() - 1


async def test_a_loop_that_is_behind_tells_all_in_the_order_of_time():
    """And gives the sockets a turn in between."""
    market, told, turns = make_market(), [], []
    for con_id in (265598, 272093, 756733):
        market.watch(UNIVERSE.stocks[con_id], lambda quote: told.append(quote.at))
    loop = asyncio.get_running_loop()
    loop._now_s += 49

    def turn():
        turns.append(len(told))
        if len(turns) < 5:
            loop.call_soon(turn)

    loop.call_soon(turn)
    await asyncio.sleep(0.2)
    assert told == sorted(told)
    assert len(told) > CHANGES_PER_TURN_MAX
    assert len(set(turns)) > 1


async def test_changes_can_be_told_less_often():
    """One a second instead of four; an order that works looks then as well."""
    clock = GatewayClock(asyncio.get_running_loop(), started_at=STARTED_AT)
    market, seen = Market(clock, Prices(UNIVERSE, RandomWalk(0), STARTED_AT), interval_s=1.0), []
    market.watch(AAPL, seen.append)
    await asyncio.sleep(60)
    assert 59 <= len(seen) <= 60
    assert {round(later.at - sooner.at, 6) for sooner, later in itertools.pairwise(seen)} == {1.0}


async def test_what_is_told_less_often_is_told_together():
    """Instruments have their own moments; a market that gathers changes has one for all, and orders see the same."""
    clock = GatewayClock(asyncio.get_running_loop(), started_at=STARTED_AT)
    market, told = Market(clock, Prices(UNIVERSE, RandomWalk(0), STARTED_AT), interval_s=1.0), []
    for contract in (AAPL, UNIVERSE.stocks[272093], UNIVERSE.stocks[756733]):
        market.watch(contract, lambda quote, of=contract: told.append((clock.seconds(), of, quote)))
    await asyncio.sleep(60)
    assert [sum(at == second for at, _, _ in told) for second in range(61)] == [0, *[3] * 60]
    assert all(quote == market.prices.quote(of, at) for at, of, quote in told)


async def test_a_market_that_gathers_changes_waits_for_what_rests():
    """A recorded quote that stays is told once; after the last one there is nothing to wait for."""
    clock = GatewayClock(asyncio.get_running_loop(), started_at=STARTED_AT)
    pair = UNIVERSE.pair("EUR", "USD")
    prices = [(Decimal(bid), Decimal(bid) + 1) for bid in range(1, 6)]
    recording = Recording(STARTED_AT, [0.0, 0.25, 0.5, 10.0, 20.5], prices)
    source = Replay({pair.con_id: recording}, STARTED_AT, RandomWalk(0))
    market, told = Market(clock, Prices(UNIVERSE, source, STARTED_AT), interval_s=1.0), []
    market.watch(pair, lambda quote: told.append((clock.seconds(), int(quote.bid))))
    await asyncio.sleep(60)
    assert told == [(1, 3), (10, 4), (21, 5)]
    assert market.clock._timers == {}
