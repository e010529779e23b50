"""Streams against the simulated gateway: in order, once, over every interruption; refused with a code; never leaked.

Goal: who reads a stream knows at any moment whether it is whole. What was missed of bars comes later, but comes.
Method: a whole service in a `World` under virtual time; what history says afterwards is the measure.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from dataclasses import replace
from datetime import UTC, timedelta

import pytest

from ibkr_service.broker import streams
from ibkr_service.broker.feeds import FeedState
from ibkr_service.core import events as ev
from ibkr_service.core.bars import Bar
from ibkr_service.core.errors import DeskClosed, InvalidIntent, InvalidRequest
from ibkr_service.core.instrument import Forex, Index, Stock
from ibkr_service.core.ticks import BidAskTick, Depth, MidPointTick, TradeTick
from ibkr_service.sim import GatewayConfig
from ibkr_service.supervisor import StrategySpec
from tests.world import EPOCH, World, WorldConfig

AAPL, EUR = Stock("AAPL"), Forex("EUR", "USD")
REAL_TIME, KEPT, TICKS, DEPTH = "real-time bars", "historical data", "tick by tick", "market depth"


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


def open_streams(world, kind):
    """How many subscriptions of a kind the gateway serves."""
    return sum(each == kind for session in world.gateway.sessions for each, _ in session.streams)


def unread(stream):
    """What a stream holds, taken out of it."""
    items = list(stream._items)
    stream._items.clear()
    return items


def bars_of(items):
    """The bars among items."""
    return [item for item in items if type(item) is Bar]


def kinds(items):
    """The names of what is not data, in order."""
    return [type(item).__name__ for item in items if isinstance(item, ev.Fact)]


def are_whole(bars, seconds):
    """Whether bars follow each other without a hole, each once."""
    return [bar.at for bar in bars] == [bars[0].at + timedelta(seconds=seconds * n) for n in range(len(bars))]


async def reconnected(world):
    """Wait until the line, lost or about to be, is READY on a new connection."""
    session = world.app.book.session
    await world.until(lambda: world.app.book.session > session, 300, "a new connection")
    await world.until_ready(120)


# --- bars ------------------------------------------------------------------------------------------------------------


async def test_five_second_bars_are_those_of_history(world, desk):
    """Each bar once, in order, with the numbers that history has for it."""
    async with desk.bars(EUR) as stream:
        await asyncio.sleep(63)
        bars = bars_of(unread(stream))
    assert len(bars) == 12
    assert are_whole(bars, 5)
    assert all(bar.at.tzinfo is UTC and bar.volume is None for bar in bars)
    past = await desk.history(EUR, "5 secs", start=bars[0].at, end=bars[-1].at)
    assert past == bars[:-1]


async def test_bars_survive_a_reconnect_with_a_backfill(world, desk):
    """The line is lost for a minute: Gap, Resumed with the count, the missed bars, the newer ones. None is missing."""
    stream = desk.bars(EUR)
    await asyncio.sleep(31)
    world.faults.refuse()
    world.faults.drop()
    await asyncio.sleep(60)
    await world.faults.accept()
    await reconnected(world)
    await asyncio.sleep(60)
    items = unread(stream)
    assert kinds(items) == ["Gap", "Resumed"]
    assert are_whole(bars_of(items), 5)
    resumed = next(n for n, item in enumerate(items) if type(item) is ev.Resumed)
    assert type(items[resumed - 1]) is ev.Gap
    assert items[resumed].backfilled >= 12
    assert items[resumed].epoch == items[resumed - 1].epoch == 1
    assert items[resumed].session > items[resumed - 1].session
    past = await desk.history(EUR, "5 secs", start=bars_of(items)[0].at, end=bars_of(items)[-1].at)
    assert past == bars_of(items)[:-1]


@pytest.mark.parametrize("data_kept", [True, False])
@pytest.mark.parametrize("size", ["5 secs", "1 min"])
async def test_bars_survive_a_cut_with_a_backfill(world, desk, size, data_kept):
    """1100, then 1102 or 1101 three minutes later: no bar is missing, whatever the broker says was kept."""
    seconds = {"5 secs": 5, "1 min": 60}[size]
    stream = desk.bars(EUR, size)
    await asyncio.sleep(150)
    world.faults.cut()
    await asyncio.sleep(180)
    world.faults.restore(data_kept=data_kept)
    await asyncio.sleep(300)
    items = unread(stream)
    assert kinds(items)[:2] == ["Gap", "Resumed"]
    assert set(kinds(items)) == {"Gap", "Resumed"}
    bars = bars_of(items)
    assert are_whole(bars, seconds)
    assert bars[-1].at + timedelta(seconds=seconds + 12) >= world.gateway.clock.now() - timedelta(seconds=seconds)
    past = await desk.history(EUR, size, start=bars[0].at, end=bars[-1].at)
    assert past == bars[:-1]


async def test_bars_kept_up_to_date_are_told_when_they_are_whole(world, desk):
    """Minutes of a share: each as history has it, no later than some seconds after its end."""
    stream = desk.bars(AAPL, "1 min")
    await asyncio.sleep(30)
    assert unread(stream) == []
    seen = []
    for _ in range(150):
        await asyncio.sleep(2)
        seen += [(world.gateway.clock.now(), bar) for bar in bars_of(unread(stream))]
    bars = [bar for _, bar in seen]
    assert len(bars) == 5
    assert all(timedelta(0) <= at - bar.at - timedelta(minutes=1) <= timedelta(seconds=12) for at, bar in seen)
    assert bars == await desk.history(AAPL, "1 min", start=bars[0].at, end=bars[-1].at + timedelta(minutes=1))
    assert all(bar.volume > 0 for bar in bars)


async def test_in_a_closed_market_no_old_bar_is_told_as_new(config, holder):
    """Saturday: nothing comes; the bars of Friday are in history."""
    saturday = EPOCH - timedelta(days=2)
    closed = replace(config, gateway=GatewayConfig(started_at=saturday, hours="real"))
    async with World(closed) as world:
        await world.until_ready()
        minutes, days = holder.desk.bars(AAPL, "1 min"), holder.desk.bars(AAPL, "1 day")
        await asyncio.sleep(300)
        world.faults.drop()
        await reconnected(world)
        await asyncio.sleep(300)
        for stream in (minutes, days):
            assert kinds(unread(stream)) == ["Gap", "Resumed"]


async def test_the_last_bar_before_the_close_does_not_wait_for_the_next_session(config, holder):
    """Friday, 17:00 in New York: no bar follows, and the last one is told all the same."""
    friday = EPOCH + timedelta(days=4, hours=7, minutes=27, seconds=30)
    real = replace(config, gateway=GatewayConfig(started_at=friday, hours="real"))
    async with World(real) as world:
        await world.until_ready()
        stream = holder.desk.bars(EUR, "1 min")
        await asyncio.sleep(300)
        bars = unread(stream)
        assert bars[-1].at == friday + timedelta(seconds=90)
        assert are_whole(bars, 60)


async def test_a_daily_bar_is_told_when_the_next_day_begins(config, holder):
    """Currencies change the day at 17:00 in New York; Monday's bar has its date, and the numbers of history."""
    evening = EPOCH + timedelta(hours=7, minutes=29, seconds=30)
    real = replace(config, gateway=GatewayConfig(started_at=evening, hours="real"))
    async with World(real) as world:
        await world.until_ready()
        stream = holder.desk.bars(EUR, "1 day")
        await asyncio.sleep(960)
        past = await holder.desk.history(EUR, "1 day", days=5)
        bars = unread(stream)
        assert [bar.at for bar in bars] == [EPOCH.date()]
        assert bars == past[-2:-1]


async def test_kept_bars_survive_a_reconnect(world, desk):
    """Ten minutes away: the minutes between are fetched."""
    stream = desk.bars(AAPL, "1 min")
    await asyncio.sleep(200)
    world.faults.refuse()
    world.faults.drop()
    await asyncio.sleep(600)
    await world.faults.accept()
    await reconnected(world)
    await asyncio.sleep(200)
    items = unread(stream)
    assert kinds(items) == ["Gap", "Resumed"]
    assert are_whole(bars_of(items), 60)
    assert next(item for item in items if type(item) is ev.Resumed).backfilled >= 9


async def test_bars_that_a_broken_farm_swallowed_are_fetched(world, desk):
    """2103 and no data, 2104 two hours later: nobody says that bars are missing, the bars do."""
    stream = desk.bars(EUR)
    await asyncio.sleep(32)
    world.faults.farm_down()
    await asyncio.sleep(7_200)
    world.faults.farm_up()
    await asyncio.sleep(60)
    items = unread(stream)
    assert kinds(items) == ["Gap", "Resumed"]
    assert are_whole(bars_of(items), 5)


async def test_a_backfill_that_is_refused_is_told(world, desk):
    """Bars go on with a hole, and the reader is told of it."""
    stream = desk.bars(EUR)
    await asyncio.sleep(31)
    world.faults.ignore("historicalData")
    world.faults.drop()
    await reconnected(world)
    await asyncio.sleep(200)
    items = unread(stream)
    assert kinds(items) == ["Gap", "Gap", "Resumed"]
    gaps = [item for item in items if type(item) is ev.Gap]
    assert "cannot be fetched" in gaps[1].reason
    assert [gap.epoch for gap in gaps] == [1, 2]
    bars = bars_of(items)
    assert [bar.at for bar in bars] == sorted({bar.at for bar in bars})


async def test_a_line_that_flaps_costs_no_bar(world, desk):
    """Lost again while the missed bars are being fetched, several times."""
    stream = desk.bars(EUR)
    await asyncio.sleep(31)
    for wait_s in (0.0, 3.0, 5.2, 7.0, 11.0):
        world.faults.drop()
        await reconnected(world)
        await asyncio.sleep(wait_s)
    await asyncio.sleep(120)
    items = unread(stream)
    assert are_whole(bars_of(items), 5)
    words = kinds(items)
    assert words == ["Gap", "Resumed"] * (len(words) // 2)
    assert len(bars_of(items)) >= 30


# --- ticks and depth -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("kind", "what"), [("Last", TradeTick), ("BidAsk", BidAskTick), ("MidPoint", MidPointTick)])
async def test_ticks_one_by_one_with_the_exchanges_time(world, desk, kind, what):
    """They are those that history has, to the second and to the cent."""
    async with desk.tick_by_tick(AAPL, kind) as stream:
        await asyncio.sleep(60)
        ticks = unread(stream)
    assert len(ticks) > 5
    assert {type(tick) for tick in ticks} == {what}
    assert all(EPOCH <= tick.at <= world.gateway.clock.now() for tick in ticks)
    show = {"Last": "TRADES", "BidAsk": "BID_ASK", "MidPoint": "MIDPOINT"}[kind]
    past = await world.app.session.history.ticks(AAPL, start=ticks[0].at, end=ticks[-1].at, what=show)
    told = [tick for tick in ticks if ticks[0].at < tick.at < ticks[-1].at]
    if kind == "Last":
        assert told == [tick for tick in past if ticks[0].at < tick.at]
    else:
        assert set(told) <= set(past)


async def test_ticks_and_depth_survive_a_reconnect(world, desk):
    """A gap, and they go on; nobody can give back the ticks between, and nobody claims to."""
    ticks, book = desk.tick_by_tick(AAPL, "BidAsk"), desk.depth(AAPL)
    await asyncio.sleep(20)
    world.faults.drop()
    await reconnected(world)
    await asyncio.sleep(30)
    for stream in (ticks, book):
        items = unread(stream)
        assert kinds(items) == ["Gap", "Resumed"]
        gap = next(n for n, item in enumerate(items) if type(item) is ev.Gap)
        assert type(items[gap + 1]) is ev.Resumed
        assert items[gap + 1].backfilled == 0
        assert gap > 0
        assert len(items) > gap + 2


async def test_the_book_is_sorted_and_as_deep_as_wanted(world, desk):
    """Best prices first; each item is a whole book."""
    async with desk.depth(AAPL, rows=3) as stream:
        await asyncio.sleep(30)
        books = unread(stream)
    assert len(books) > 5
    assert {type(book) for book in books} == {Depth}
    for book in books:
        assert len(book.bids) == len(book.asks) == 3
        assert [row.price for row in book.bids] == sorted((row.price for row in book.bids), reverse=True)
        assert [row.price for row in book.asks] == sorted(row.price for row in book.asks)
        assert book.bids[0].price < book.asks[0].price
        assert all(row.market_maker for row in book.bids)


@pytest.mark.parametrize("data_kept", [True, False])
async def test_after_a_cut_the_book_is_made_anew(world, desk, data_kept):
    """Rows that changed meanwhile are not told again, so the old book is not believed."""
    stream = desk.depth(AAPL)
    await asyncio.sleep(10)
    world.faults.cut()
    await asyncio.sleep(60)
    unread(stream)
    world.faults.restore(data_kept=data_kept)
    await world.until_ready()
    await asyncio.sleep(10)
    items = unread(stream)
    assert type(items[0]) is ev.Resumed
    assert open_streams(world, DEPTH) == 1
    assert all(len(book.bids) == len(book.asks) == 5 for book in items[1:])


async def test_a_row_that_does_not_exist_has_the_book_asked_for_anew(world, desk):
    """One message was missed: the book is not patched up, it is requested again."""
    stream = desk.depth(AAPL)
    await asyncio.sleep(10)
    unread(stream)
    (feed,) = world.app.session.streams
    feed.row(4, 2, 1, feed._sides[1][0])
    feed.row(4, 1, 1, feed._sides[1][0])
    await asyncio.sleep(10)
    items = unread(stream)
    assert kinds(items) == ["Gap", "Resumed"]
    assert all(len(book.bids) == len(book.asks) == 5 for book in items if type(book) is Depth)
    assert open_streams(world, DEPTH) == 1


# --- readers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("open_one", "kind"),
    [
        (lambda desk: desk.bars(EUR), REAL_TIME),
        (lambda desk: desk.bars(EUR, "30 secs"), KEPT),
        (lambda desk: desk.tick_by_tick(EUR, "MidPoint"), TICKS),
        (lambda desk: desk.depth(EUR), DEPTH),
    ],
)
async def test_two_readers_share_one_subscription_and_nothing_is_leaked(world, desk, open_one, kind):
    """One at the gateway while anybody reads, none afterwards; and so again after a reconnect."""
    for _ in range(2):
        first, second = open_one(desk), open_one(desk)
        await asyncio.sleep(100)
        assert open_streams(world, kind) == 1
        assert unread(first) == unread(second) != []
        first.close("done")
        await asyncio.sleep(35)
        assert open_streams(world, kind) == 1
        assert unread(second)
        with pytest.raises(DeskClosed):
            await first.get()
        world.faults.drop()
        await reconnected(world)
        await asyncio.sleep(60)
        assert open_streams(world, kind) == 1
        second.close("done")
        await asyncio.sleep(5)
        assert open_streams(world, kind) == 0
        assert list(world.app.session.streams) == []
        assert world.app.session._connection.ib.wrapper.takers == {}
    assert world.app.session.history.budget.opened == 0
    assert world.of(ev.LibraryFault) == []


async def test_closing_the_desk_closes_its_streams(world, desk):
    """All of them, at the gateway too; and it opens no more."""
    opened = [desk.bars(EUR), desk.tick_by_tick(EUR, "BidAsk"), desk.depth(EUR), desk.bars(EUR, "1 min")]
    await asyncio.sleep(10)
    desk.close("over")
    await asyncio.sleep(5)
    assert all(stream.closed for stream in opened)
    assert sum(open_streams(world, kind) for kind in (REAL_TIME, KEPT, TICKS, DEPTH)) == 0
    for again in (lambda: desk.bars(EUR), lambda: desk.tick_by_tick(EUR, "BidAsk"), lambda: desk.depth(EUR)):
        with pytest.raises(DeskClosed):
            again()


async def test_a_slow_reader_is_told_what_it_lost(world, desk):
    """A gap with the count comes in the place of the lost bars; the other reader loses nothing."""
    slow, fast = desk.bars(EUR, unread_max=5), desk.bars(EUR)
    await asyncio.sleep(62)
    items, all_bars = unread(slow), unread(fast)
    assert len(all_bars) == 12
    assert type(items[0]) is ev.Gap
    lost = slow.lost
    assert lost >= 5
    assert bars_of(items) == all_bars[-len(bars_of(items)) :]
    assert len(bars_of(items)) + lost >= 12


async def test_a_stream_that_is_closed_at_once_is_never_requested(world, desk):
    """Opened and closed before the keeper has turned."""
    desk.bars(EUR).close("changed my mind")
    stream = desk.bars(EUR, "1 min")
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    stream.close("changed my mind")
    await asyncio.sleep(10)
    assert open_streams(world, REAL_TIME) + open_streams(world, KEPT) == 0
    assert world.app.session.history.budget.opened == 0


async def test_what_is_wanted_while_the_link_is_down_is_requested_when_it_is_ready(world, desk):
    """Desired state."""
    world.faults.refuse()
    world.faults.drop()
    await asyncio.sleep(1)
    stream = desk.bars(EUR)
    await asyncio.sleep(30)
    await world.faults.accept()
    await reconnected(world)
    await asyncio.sleep(12)
    assert are_whole(unread(stream), 5)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("open_one", "code"),
    [
        (lambda desk: desk.bars(EUR, what="TRADES"), 420),
        (lambda desk: desk.bars(EUR, "1 min", what="TRADES"), 162),
        (lambda desk: desk.bars(EUR, "1 min", what="NONSENSE"), 321),
        (lambda desk: desk.bars(Stock("NOSUCH")), 200),
        (lambda desk: desk.tick_by_tick(EUR, "Last"), 10189),
        (lambda desk: desk.depth(Index("SPX", "CBOE")), 10092),
    ],
)
async def test_every_refusal_reaches_the_reader_with_its_code(world, desk, open_one, code):
    """Once, however often it is asked for again; a reader that comes later is told, too."""
    stream = open_one(desk)
    await asyncio.sleep(200)
    (failed,) = unread(stream)
    assert type(failed) is ev.SubscriptionFailed
    assert failed.code == code
    later = open_one(desk)
    assert unread(later) == [failed]
    (feed,) = world.app.session.streams
    assert feed.state is FeedState.FAILED


async def test_too_many_ticks_and_books_are_refused_and_retried(world, desk):
    """10190 and 309 for those beyond the limit; they get their turn when others leave."""
    symbols = ("AAPL", "MSFT", "SPY", "QQQ", "IBM", "AMZN")
    ticks = [desk.tick_by_tick(Stock(symbol), "BidAsk") for symbol in symbols]
    books = [desk.depth(Stock(symbol)) for symbol in symbols[:4]]
    await asyncio.sleep(20)
    assert [type(unread(stream)[0]).__name__ for stream in ticks] == ["BidAskTick"] * 5 + ["SubscriptionFailed"]
    refused = [unread(stream)[0] for stream in books]
    assert [type(item).__name__ for item in refused] == ["Depth"] * 3 + ["SubscriptionFailed"]
    assert refused[-1].code == 309
    ticks[0].close("done")
    books[0].close("done")
    await asyncio.sleep(70)
    assert type(unread(ticks[-1])[-1]) is BidAskTick
    assert type(unread(books[-1])[-1]) is Depth


async def test_all_lines_taken_is_told(config, holder):
    """101: real-time bars take a market-data line each."""
    few = replace(config, gateway=GatewayConfig(started_at=EPOCH, market_data_lines_max=1))
    async with World(few) as world:
        await world.until_ready()
        first, second = holder.desk.bars(EUR), holder.desk.bars(AAPL)
        await asyncio.sleep(20)
        assert are_whole(unread(first), 5)
        assert [item.code for item in unread(second)] == [101]
        first.close("done")
        await asyncio.sleep(70)
        assert are_whole(unread(second), 5)


async def test_kept_bars_leave_room_for_downloads(world, desk, monkeypatch):
    """They hold requests for history open; when too many do, the next one is refused, and downloads go on."""
    monkeypatch.setattr(streams, "KEPT_MAX", 1)
    first, second = desk.bars(EUR, "1 min"), desk.bars(AAPL, "1 min")
    await asyncio.sleep(20)
    assert [item.code for item in unread(second)] == [322]
    assert await desk.history(AAPL, "1 min", days=1)
    first.close("done")
    await asyncio.sleep(180)
    assert bars_of(unread(second))


MISFORTUNES = (
    lambda faults: faults.drop(),
    lambda faults: faults.cut(),
    lambda faults: faults.restore(data_kept=True),
    lambda faults: faults.restore(data_kept=False),
    lambda faults: faults.farm_down(),
    lambda faults: faults.farm_up(),
    lambda faults: faults.lose("historicalData", times=1),
    lambda faults: faults.ignore("historicalData", times=1),
    lambda faults: faults.ignore("realTimeBars", times=1),
)


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_every_bar_is_told_once(world, desk, seed):
    """Half an hour of misfortunes at random moments, then peace: no bar is missing, none comes twice."""
    rng = random.Random(seed)
    fast, slow = desk.bars(EUR), desk.bars(EUR, "1 min")
    await asyncio.sleep(130)
    until_s = world.now_s + 1_800
    while world.now_s < until_s:
        rng.choice(MISFORTUNES)(world.faults)
        await asyncio.sleep(rng.choice((0.0, 0.3, 4.0, 5.0, 31.0, 90.0)))
    world.faults.farm_up()
    if world.gateway.is_cut:
        world.faults.restore(data_kept=rng.random() < 0.5)
    world.faults.heal()
    await asyncio.sleep(400)
    for stream, seconds in ((fast, 5), (slow, 60)):
        items = unread(stream)
        bars = bars_of(items)
        assert are_whole(bars, seconds)
        assert world.gateway.clock.now() - bars[-1].at < timedelta(seconds=2 * seconds + 15)
        assert "cannot be fetched" not in str(items)
        past = await desk.history(EUR, "5 secs" if seconds == 5 else "1 min", start=bars[0].at, end=bars[-1].at)
        assert past == bars[:-1]
        told = [item for item in items if not isinstance(item, Bar)]
        assert [type(item) for item in told[-1:]] == [ev.Resumed]
    assert world.of(ev.LibraryFault) == []


async def test_nonsense_is_refused_at_once(world, desk):
    """Before anything leaves."""
    for wrong in (
        lambda: desk.bars(EUR, "7 mins"),
        lambda: desk.bars(EUR, "1 week"),
        lambda: desk.tick_by_tick(EUR, "Every"),
        lambda: desk.depth(EUR, rows=0),
    ):
        with pytest.raises(InvalidRequest):
            wrong()
    with pytest.raises(InvalidIntent):
        desk.bars("EURUSD")
    assert list(world.app.session.streams) == []


async def test_real_time_bars_that_were_busted_begin_anew(world, desk):
    """10225: a trade was taken back, the subscription is over."""
    stream = desk.bars(EUR)
    await asyncio.sleep(31)
    (session,) = world.gateway.sessions
    ((_, request),) = [key for key in session.streams if key[0] == REAL_TIME]
    session.close_stream(REAL_TIME, request)
    session.error(request, 10225, "Bust event occurred, current subscription is deactivated.")
    await asyncio.sleep(40)
    items = unread(stream)
    assert kinds(items) == ["Gap", "Resumed"]
    assert are_whole(bars_of(items), 5)


async def test_a_silent_stream_is_asked_for_again(world, desk):
    """The request was lost: after a while there is another, and one only."""
    world.faults.ignore("realTimeBars", times=1)
    stream = desk.bars(EUR)
    await asyncio.sleep(60)
    assert are_whole(unread(stream), 5)
    assert open_streams(world, REAL_TIME) == 1


async def test_reading_is_an_async_for(world, desk):
    """As in the documentation."""
    seen = []
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(22), desk.bars(EUR) as bars:
            async for item in bars:
                seen.append(item)  # noqa: PERF401 - what was seen before the timeout counts
    assert len(seen) == 4
    await asyncio.sleep(1)
    assert open_streams(world, REAL_TIME) == 0
