"""History against the simulated gateway, which keeps IB's limits: everything arrives, once, or the reason does.

Goal: whatever the line does in between, a download holds every bar of its range once; nothing is taken for empty.
Method: a whole service in a `World` under virtual time. The gateway's own path of prices says what is right.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest

from ibkr_service.core import events as ev
from ibkr_service.core.errors import (
    BrokerRefused,
    DeskClosed,
    InvalidRequest,
    NotReady,
    RequestTimeout,
    UnknownInstrument,
)
from ibkr_service.core.instrument import Forex, Future, Stock
from ibkr_service.core.ticks import BidAskTick, MidPointTick, TradeTick
from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.messages import Request
from ibkr_service.supervisor import StrategySpec
from tests.world import EPOCH, World, WorldConfig

AAPL, EUR = Stock("AAPL"), Forex("EUR", "USD")
HISTORY = "historical data"  # the gateway's name for an open query


class Holder:
    """A strategy that lends its desk to the test."""

    def __init__(self):
        self.desk = None

    async def run(self, desk):
        """Read until stopped."""
        self.desk = desk
        async for _ in desk.events():
            pass


@pytest.fixture
def holder():
    """The strategy."""
    return Holder()


@pytest.fixture
def config(tmp_path, holder):
    """A world with one strategy that holds its desk still."""
    return WorldConfig(folder=tmp_path, strategies=[StrategySpec("s", holder.run)])


@pytest.fixture
async def world(config, holder):
    """A world that is READY, its strategy at its desk."""
    async with World(config) as world:
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
        yield world


@pytest.fixture
def desk(world, holder):
    """The strategy's desk."""
    return holder.desk


def open_queries(world):
    """How many requests for bars are open at the gateway."""
    return sum(kind == HISTORY for session in world.gateway.sessions for kind, _ in session.streams)


def whole_second(world):
    """The gateway's time, in whole seconds."""
    return world.gateway.clock.now().replace(microsecond=0)


# --- ranges ----------------------------------------------------------------------------------------------------------


async def test_a_range_beyond_one_request_has_every_bar_once(world, desk):
    """Nine days of minutes of a currency pair: one bar for each minute of its sessions, in order."""
    told = []
    start = EPOCH - timedelta(days=9)
    bars = await desk.history(EUR, "1 min", start=start, end=EPOCH, on_progress=lambda *progress: told.append(progress))
    beginnings = [bar.at for bar in bars]
    assert beginnings == sorted(set(beginnings))
    assert all(start <= at < EPOCH for at in beginnings)
    almanac, pair = world.gateway.almanac, world.gateway.universe.by_con_id(world.app.session._con_ids[EUR])
    sessions = list(almanac.back_from(pair, EPOCH.timestamp(), regular=False, floor=start.timestamp()))
    minutes = {
        second
        for session in sessions
        for second in range(session.start, session.end, 60)
        if start.timestamp() <= second < EPOCH.timestamp()
    }
    assert {at.timestamp() for at in beginnings} == minutes
    assert [done for done, _, _ in told] == list(range(1, 10))
    assert {pages for _, pages, _ in told} == {9}
    assert told[-1][2] == len(bars)
    assert {bar.volume for bar in bars} == {None}, "MIDPOINT has no volume, and says so"


async def test_pages_say_the_same_as_one_request(world, desk):
    """Bars at the seam of two pages are whole: six weeks of hours as pages, and each week by itself."""
    end = EPOCH - timedelta(minutes=30)  # on the hour
    start = end - timedelta(weeks=6)
    whole = await desk.history(AAPL, "1 hour", start=start, end=end)
    parts = []
    for week in range(6):
        begin = start + timedelta(weeks=week)
        parts += await desk.history(AAPL, "1 hour", start=begin, end=begin + timedelta(weeks=1))
    assert whole == parts
    assert all(bar.at.tzinfo is UTC for bar in whole)
    assert all(bar.volume > 0 and bar.count > 0 and bar.average > 0 for bar in whole)


async def test_days_have_dates(world, desk):
    """A daily bar is of a trading day, not of a moment. Today's session has just begun: it has none yet."""
    bars = await desk.history(AAPL, "1 day", days=500, regular_hours=True)
    assert all(type(bar.at) is date for bar in bars)
    assert bars[-1].at == date(2026, 11, 20)
    assert 330 < len(bars) < 360
    weeks = await desk.history(AAPL, "1 week", days=500)
    assert 70 <= len(weeks) <= 73


async def test_a_future_as_it_stands_in_a_position_is_asked_for_with_its_exchange(world, desk):
    """Positions come without one, and TWS answers no request without one; streams as history."""
    asked, plain = [], world.gateway.dispatch

    def heard(session, values):
        if values[0] in {str(int(Request.HISTORICAL_DATA)), str(int(Request.REAL_TIME_BARS))}:
            asked.append("CME" in values)
        plain(session, values)

    world.gateway.dispatch = heard
    future = Future("ES", "202612", exchange="")
    assert await desk.history(future, "1 min", start=EPOCH - timedelta(minutes=20), end=EPOCH)
    async with desk.bars(future, "5 secs") as bars:
        await bars.get()
    assert asked == [True, True]


async def test_what_tws_has_no_words_for_is_not_asked(world, desk):
    """No size, no range, no zone: refused before anything leaves, and by name."""
    for wrong in (
        {"bar_size": "7 mins", "days": 1},
        {"bar_size": "1 min"},
        {"bar_size": "1 min", "days": 1, "start": EPOCH},
        {"bar_size": "1 min", "start": EPOCH, "end": EPOCH},
        {"bar_size": "1 min", "start": datetime(2026, 11, 1)},  # noqa: DTZ001 - the very mistake
        {"bar_size": "1 min", "days": 9, "what": "ADJUSTED_LAST"},
        {"bar_size": "1 min", "days": 1, "end": EPOCH, "what": "ADJUSTED_LAST"},
    ):
        with pytest.raises(InvalidRequest):
            await desk.history(AAPL, **wrong)


async def test_adjusted_last_ends_now(world, desk):
    """TWS takes no end for it."""
    bars = await desk.history(AAPL, "1 day", days=30, what="ADJUSTED_LAST")
    assert len(bars) >= 20


# --- failures are typed ----------------------------------------------------------------------------------------------


async def test_every_failure_has_its_code(world, desk):
    """162 without "no data", 200, 321: raised, never an empty list."""
    with pytest.raises(BrokerRefused, match="No historical market data") as refused:
        await desk.history(EUR, "1 min", days=1, what="TRADES")
    assert refused.value.code == 162
    with pytest.raises((BrokerRefused, UnknownInstrument)):
        await desk.history(Stock("NOSUCH"), "1 min", days=1)
    with pytest.raises(BrokerRefused) as refused:
        await desk.history(AAPL, "1 min", days=1, what="SOMETHING")
    assert refused.value.code == 321


async def test_no_data_in_words_is_an_empty_page(world, desk):
    """Before the beginning of all data the broker says so in words: that page is empty, the others are not."""
    head = await world.app.session.history.head_timestamp(AAPL)
    bars = await desk.history(AAPL, "1 day", start=head - timedelta(days=900), end=head + timedelta(days=30))
    assert bars
    assert min(bar.at for bar in bars) >= head.date() - timedelta(days=1)
    assert [notice.code for notice in world.of(ev.BrokerNotice) if "no data" in notice.text] == [162, 162]


async def test_no_answer_is_no_empty_answer(world, desk):
    """A request that is never answered raises, and does not stay open at the gateway."""
    world.faults.ignore("historicalData")
    with pytest.raises(RequestTimeout):
        await desk.history(AAPL, "1 min", days=1, timeout_s=90)
    world.faults.heal()
    assert await desk.history(AAPL, "1 min", days=1)


async def test_a_lost_answer_is_asked_for_again(world, desk):
    """One answer is lost on the way: the page is asked for again."""
    world.faults.lose("historicalData", times=1)
    assert await desk.history(AAPL, "1 min", days=1)
    assert open_queries(world) == 0


async def test_who_gives_up_leaves_nothing_open(config, holder):
    """A cancelled download is cancelled at the gateway, too."""
    slow = replace(config, gateway=GatewayConfig(started_at=EPOCH, latency={"historicalData": (5.0, 5.0)}))
    async with World(slow) as world:
        await world.until_ready()
        task = asyncio.create_task(holder.desk.history(AAPL, "1 secs", days=0.02))  # noqa: TID251 - awaited below
        await asyncio.sleep(2)
        client, cancelled = world.app.session._connection.ib.client, []
        cancel = client.cancelHistoricalData
        client.cancelHistoricalData = lambda request: (cancelled.append(request), cancel(request))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert len(cancelled) == 1
        await asyncio.sleep(20)
        assert open_queries(world) == 0
        assert world.app.session.history.budget.opened == 0
        assert world.app.session.history.budget.waiting == []


async def test_a_closed_desk_asks_nothing(world, desk):
    """As everything else of a desk."""
    desk.close("over")
    with pytest.raises(DeskClosed):
        await desk.history(AAPL, "1 min", days=1)


# --- over a reconnect ------------------------------------------------------------------------------------------------


async def test_a_download_goes_on_after_a_reconnect(world, desk):
    """The line is lost three times in the middle; the result is that of an undisturbed download."""
    expected = await desk.history(EUR, "1 min", start=EPOCH - timedelta(days=10), end=EPOCH)
    lost = []

    def disturb(done, _pages, _bars):
        if done in {3, 4, 9}:
            lost.append(done)
            world.faults.drop()

    await asyncio.sleep(20)
    began_s = world.now_s
    bars = await desk.history(
        EUR, "1 min", start=EPOCH - timedelta(days=10), end=EPOCH, on_progress=disturb, timeout_s=120
    )
    assert lost == [3, 4, 9]
    assert world.now_s > began_s + 3, "each time it waited for the new connection"
    assert bars == expected


async def test_a_link_that_does_not_come_back_ends_the_wait(world, desk):
    """Waiting for the link has the request's limit."""
    world.faults.refuse()
    world.faults.drop()
    await asyncio.sleep(1)
    began_s = world.now_s
    with pytest.raises(NotReady):
        await desk.history(AAPL, "1 min", days=1, timeout_s=40)
    assert world.now_s - began_s == pytest.approx(40, abs=2)
    await world.faults.accept()


async def test_a_cut_upstream_only_delays(world, desk):
    """1100 in the middle of a request, 1102 half a minute later."""
    download = asyncio.create_task(desk.history(AAPL, "1 min", days=2))  # noqa: TID251 - awaited below
    await asyncio.sleep(0)
    world.faults.cut()
    await asyncio.sleep(30)
    world.faults.restore(data_kept=True)
    assert await download
    await world.until_ready()


# --- pacing ----------------------------------------------------------------------------------------------------------


async def test_a_hundred_small_pages_break_no_limit(world, desk):
    """A hundred requests for five-second bars: the gateway never says 162, and it takes the time that IB wants."""
    began_s = world.now_s
    bars = await desk.history(EUR, "5 secs", start=EPOCH - timedelta(hours=90), end=EPOCH)
    assert len(bars) == len({bar.at for bar in bars})
    assert world.now_s - began_s > 600, "more than sixty in ten minutes are not allowed"
    assert 162 not in {notice.code for notice in world.of(ev.BrokerNotice)}


async def test_who_waits_is_visible(world, desk):
    """A download that has to wait is named, with how long."""
    download = asyncio.create_task(  # noqa: TID251 - awaited below
        desk.history(EUR, "5 secs", start=EPOCH - timedelta(hours=70), end=EPOCH)
    )
    budget = world.app.session.history.budget
    await world.until(lambda: budget.used >= 60, 300, "sixty requests")
    await asyncio.sleep(5)
    (waiting,) = budget.waiting
    assert waiting.what == "5 secs bars of EUR.USD MIDPOINT"
    assert waiting.left_s > 500
    download.cancel()
    with pytest.raises(asyncio.CancelledError):
        await download
    assert budget.waiting == []


async def test_the_same_request_at_the_same_time_is_one(world, desk):
    """Two strategies want the same: one asks, both have it."""
    end = EPOCH - timedelta(hours=1)
    first, second = await asyncio.gather(
        desk.history(AAPL, "5 secs", days=0.02, end=end), desk.history(AAPL, "5 secs", days=0.02, end=end)
    )
    assert first == second != []
    assert world.app.session.history.budget.used == 1


async def test_a_breach_that_we_did_not_see_coming_is_waited_out(world, desk):
    """After a restart the broker remembers what we do not: 162 "pacing violation" is waited out, not raised."""
    words = f"x{EPOCH}"
    for n in range(60):
        world.gateway.pacing.admit(1, world.gateway.clock.seconds(), f"{words}{n}", f"{n}")
    began_s = world.now_s
    assert await desk.history(AAPL, "5 secs", days=0.02)
    assert world.now_s - began_s > 500


# --- ticks and the rest ----------------------------------------------------------------------------------------------


async def test_ticks_come_in_pages(world, desk):
    """More than a thousand: in order, none twice, none missing."""
    history = world.app.session.history
    start = EPOCH - timedelta(hours=2)
    ticks = await history.ticks(EUR, start=start, end=start + timedelta(minutes=40))
    assert len(ticks) > 1_000
    assert all(type(tick) is MidPointTick for tick in ticks)
    assert [tick.at for tick in ticks] == sorted(tick.at for tick in ticks)
    halves = [
        await history.ticks(EUR, start=start + timedelta(minutes=20 * n), end=start + timedelta(minutes=20 * (n + 1)))
        for n in range(2)
    ]
    assert halves[0] + halves[1] == ticks


async def test_ticks_of_each_kind(world, desk):
    """Trades with their exchange, quotes with both sides."""
    history = world.app.session.history
    start = EPOCH - timedelta(minutes=3)
    trades = await history.ticks(AAPL, start=start, end=EPOCH)
    quotes = await history.ticks(AAPL, start=start, end=EPOCH, what="BID_ASK")
    assert trades
    assert quotes
    assert all(type(tick) is TradeTick and tick.exchange for tick in trades)
    assert all(type(tick) is BidAskTick and tick.bid < tick.ask for tick in quotes)


async def test_where_the_data_begins_and_when_there_is_trading(world, desk):
    """Head timestamp and schedule, in UTC."""
    history = world.app.session.history
    head = await history.head_timestamp(AAPL)
    assert head.tzinfo is UTC
    assert head < EPOCH - timedelta(days=3_000)
    hours = await history.trading_hours(AAPL, 5)
    assert len(hours) == 5
    assert hours[-1].opens == EPOCH
    assert hours[-1].closes - hours[-1].opens == timedelta(hours=6.5)
