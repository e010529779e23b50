"""Subscriptions as desired state: what is wanted survives, each interruption is told once, nothing leaks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import ib_insync
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.broker.line import TAKING, LineState, Rank
from ibkr_service.broker.lines import FIRST_TICK_S, LOOK_S, PROVE_S, RETRY_S, Lines
from ibkr_service.clock import LoopClock
from ibkr_service.core import events as ev
from ibkr_service.core.errors import BrokerRefused, DeskClosed, InvalidIntent, NotReady, RequestTimeout
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.sim.loop import run

EPOCH = datetime(2026, 11, 23, 15, tzinfo=UTC)
EUR, AAPL = Forex("EUR", "USD"), Stock("AAPL")
MSFT, JPY = Stock("MSFT"), Forex("USD", "JPY")
ALL = (EUR, AAPL, MSFT, JPY)


class Feed:
    """Lines, what they told, a broker that counts subscriptions, and tickers to tell them with."""

    def __init__(self, **known):
        self.told = []
        self.urgent = set(), set()
        self.lines = Lines(
            self.told.append, LoopClock(asyncio.get_running_loop(), EPOCH), urgent=lambda: self.urgent, **known
        )
        self.tickers = {}
        self.at_broker = {}  # id of a contract -> the contract
        self._requests = 0

    @property
    def now_s(self):
        """Loop time."""
        return asyncio.get_running_loop().time()

    def begin(self):
        """What the session does before it waits for contract details; returns the lines with their attempts."""
        due = self.lines.to_request(self.now_s)
        old = [self.lines.release(line) for line in due]
        self.cancelled = [contract for contract in [*self.lines.take_cancelled(), *old] if contract is not None]
        for contract in [*self.cancelled, *self.lines.take_forgotten()]:
            self.at_broker.pop(id(contract), None)
        return [(line, line.attempt) for line in due]

    def finish(self, asking):
        """What the session does when the details have come."""
        for line, attempt in asking:
            if self.lines.is_asking(line, attempt):
                self._requests += 1
                contract = ib_insync.Contract(localSymbol=str(line.instrument))
                ticker = self.tickers[line.instrument] = ib_insync.Ticker(contract=contract)
                self.at_broker[id(contract)] = contract
                self.lines.requested(line, self._requests, ticker, contract, self.now_s)

    def request(self):
        """Ask the broker for all that is due, as the session does; returns the contracts that were cancelled first."""
        self.finish(self.begin())
        return self.cancelled

    def refuse(self, instrument, code=354, text="no"):
        """The broker refuses what was asked for an instrument."""
        contract = self.line(instrument).contract
        self.at_broker.pop(id(contract), None)
        self.lines.failed(self.line(instrument).request, code, text)

    def tick(self, *instruments, bid=1.0):
        """Quotes arrive in one chunk."""
        for instrument in instruments:
            ticker = self.tickers[instrument]
            ticker.bid, ticker.bidSize, ticker.ask, ticker.askSize = bid, 1.0, bid + 1, 1.0
            sink = self.lines.sinks.get(self.line(instrument).request) if instrument in self.wanted else None
            if sink is not None:
                sink(EPOCH, self.now_s, 1, bid, 1.0)
        self.touch(*instruments)

    def size(self, instrument):
        """The size of a bid arrives, and no price."""
        self.lines.sinks[self.line(instrument).request](EPOCH, self.now_s, 0, 0.0, 5.0)
        self.touch(instrument)

    def touch(self, *instruments):
        """Something of these tickers has changed."""
        self.lines.arrived({self.tickers[instrument] for instrument in instruments}, EPOCH, self.now_s)

    def line(self, instrument=EUR):
        """The line of an instrument."""
        return next(line for line in self.lines if line.instrument == instrument)

    @property
    def wanted(self):
        """The instruments that somebody wants."""
        return {line.instrument for line in self.lines}

    def having(self, *states):
        """The instruments whose lines are in one of these states."""
        return {line.instrument for line in self.lines if line.state in states}

    @property
    def taken(self):
        """The instruments that use up a line."""
        return self.having(*TAKING)

    @property
    def kinds(self):
        """What was told, by name."""
        return [type(event).__name__ for event in self.told]

    def about(self, instrument):
        """What was told of one instrument, by name."""
        return [type(event).__name__ for event in self.told if event.instrument == instrument]


def never(_line):
    """A holder who is not called."""
    raise AssertionError("there was no news")


async def unread(stream):
    """What a stream holds, by name."""
    return [type(await stream.get()).__name__ for _ in range(len(stream))]


@pytest.fixture
async def feed():
    """Two watched instruments that tick."""
    feed = Feed()
    for instrument in (EUR, AAPL):
        feed.lines.watch(instrument)
    feed.request()
    feed.tick(EUR, AAPL)
    feed.told.clear()
    return feed


# --- what is wanted --------------------------------------------------------------------------------------------------


async def test_two_watchers_share_a_line():
    """One request; it ends with the last of them."""
    feed = Feed()
    feed.lines.watch(EUR)
    feed.lines.watch(EUR)
    feed.request()
    assert feed.line().request == 1
    feed.lines.unwatch(EUR)
    assert feed.request() == []
    feed.lines.unwatch(EUR)
    assert [contract.localSymbol for contract in feed.request()] == ["EUR.USD"]
    assert list(feed.lines) == []


async def test_unwatching_what_nobody_watches_is_nothing(feed):
    """And does not take a line from others."""
    feed.lines.unwatch(Stock("MSFT"))
    assert len(list(feed.lines)) == 2


async def test_what_is_no_instrument_cannot_be_watched():
    """The strategy that asks is told; the session never sees it."""
    feed = Feed()
    with pytest.raises(InvalidIntent):
        feed.lines.watch("EUR.USD")
    assert list(feed.lines) == []


async def test_wanting_wakes_the_subscriber(feed):
    """A watch, an unwatch, a reset: each is noticed once."""
    for change in (
        lambda: feed.lines.watch(Stock("MSFT")),
        lambda: feed.lines.unwatch(Stock("MSFT")),
        feed.lines.reset,
        feed.lines.poke,
    ):
        while feed.lines._wanted.is_set():
            await feed.lines.changed()
        waiter = asyncio.get_running_loop().create_task(feed.lines.changed())
        await asyncio.sleep(1)
        assert not waiter.done()
        change()
        await asyncio.wait_for(waiter, 1)


async def test_ticks_after_the_last_watcher_left_are_nobodys(feed):
    """Late ones still arrive from the library."""
    feed.lines.unwatch(EUR)
    feed.tick(EUR)
    assert feed.told == []


# --- ticks -----------------------------------------------------------------------------------------------------------


async def test_ticks_of_one_chunk_come_in_the_order_of_the_requests(feed):
    """The library hands over a set, whose order differs from run to run."""
    for _ in range(20):
        feed.tick(AAPL, EUR)
    assert [event.instrument for event in feed.told] == [EUR, AAPL] * 20


async def test_sizes_or_a_close_alone_are_no_quote():
    """TWS sends them first; nobody is told, and the line is not called live."""
    feed = Feed()
    feed.lines.watch(EUR)
    feed.request()
    ticker = feed.tickers[EUR]
    ticker.close, ticker.bidSize, ticker.bid = 1.0, 0.0, -1.0
    feed.lines.arrived({ticker}, EPOCH, feed.now_s)
    assert feed.told == []
    assert feed.line().state is LineState.REQUESTED


async def test_a_silent_line_is_asked_for_anew_ever_more_patiently():
    """The old request is cancelled each time: no line is left behind at the broker."""
    feed = Feed()
    feed.lines.watch(EUR)
    feed.request()
    waits = []
    for _ in range(3):
        waits.append(feed.lines.next_due_s() - feed.now_s)
        await asyncio.sleep(waits[-1])
        assert len(feed.request()) == 1
    assert waits == [FIRST_TICK_S, FIRST_TICK_S * 2, FIRST_TICK_S * 3]
    feed.tick(EUR)
    assert feed.lines.next_due_s() is None


# --- interruptions ---------------------------------------------------------------------------------------------------


async def test_an_interruption_is_told_once_and_its_end_right_before_the_first_tick(feed):
    """Gap, gap, gap is one Gap; Resumed comes with the data, and all carry the new epoch."""
    for _ in range(3):
        feed.lines.interrupt("cut")
    feed.lines.reset()
    feed.request()
    feed.tick(EUR)
    feed.tick(EUR)
    about_eur = [event for event in feed.told if event.instrument == EUR]
    assert [type(event).__name__ for event in about_eur] == ["Gap", "Resumed", "Tick", "Tick"]
    assert {event.epoch for event in about_eur} == {1}


async def test_a_line_that_never_ticked_has_no_gap():
    """Nothing was told, so nothing is interrupted."""
    feed = Feed()
    feed.lines.watch(EUR)
    feed.request()
    feed.lines.interrupt("cut")
    assert feed.told == []


async def test_a_line_lost_while_proving_itself_has_a_gap(feed):
    """1102 without a 1100 before it, then the socket goes: the stream was told to flow, so its end is told."""
    feed.lines.data_kept(feed.now_s, 10)
    feed.lines.interrupt("the socket is lost")
    assert feed.kinds == ["Gap", "Gap"]


async def test_a_refusal_in_the_middle_of_a_stream_is_a_gap(feed):
    """A competing session takes the data: the stream is not to be trusted from here on."""
    feed.lines.failed(feed.line().request, 10197, "competing live session")
    assert feed.kinds == ["Gap", "SubscriptionFailed"]
    feed.lines.interrupt("the socket is lost")
    assert [event.instrument for event in feed.told if isinstance(event, ev.Gap)] == [EUR, AAPL]
    feed.lines.reset()
    feed.request()
    feed.tick(EUR)
    assert feed.kinds[-2:] == ["Resumed", "Tick"]


async def test_a_gap_outlives_its_watchers(feed):
    """The last one left inside it; the next one's first tick closes it, with the epoch counted on."""
    feed.lines.interrupt("cut")
    feed.lines.unwatch(EUR)
    feed.lines.watch(EUR)
    feed.request()
    feed.told.clear()
    feed.tick(EUR)
    assert feed.kinds == ["Resumed", "Tick"]
    assert feed.told[0].epoch == feed.told[1].epoch == 1


async def test_data_that_was_kept_has_to_prove_itself(feed):
    """1102: no new request while ticks come; one for the line that stays silent."""
    feed.lines.data_kept(feed.now_s, 10)
    feed.tick(EUR)
    await asyncio.sleep(10)
    assert [contract.localSymbol for contract in feed.request()] == ["AAPL"]
    assert feed.line(EUR).request == 1


async def test_after_a_reset_old_requests_mean_nothing(feed):
    """A late error or tick of the dead connection moves no line; nothing of it is to be cancelled on the new one."""
    feed.lines.unwatch(AAPL)
    old_request, old_ticker = feed.line().request, feed.tickers[EUR]
    feed.lines.reset()
    feed.lines.failed(old_request, 200, "late")
    feed.lines.arrived({old_ticker}, EPOCH, feed.now_s)
    assert feed.told == []
    assert feed.line().state is LineState.WANTED
    assert feed.request() == []


# --- refusals --------------------------------------------------------------------------------------------------------


async def test_a_refused_line_is_told_once_and_tried_again():
    """Every minute, for as long as it takes; told again only for another reason, or to a new watcher."""
    feed = Feed()
    feed.lines.watch(EUR)
    for _ in range(5):
        feed.request()
        feed.lines.failed(feed.line().request, 354, "not subscribed")
        assert feed.lines.to_request(feed.now_s) == []
        await asyncio.sleep(RETRY_S)
    assert feed.kinds == ["SubscriptionFailed"]
    feed.request()
    feed.lines.failed(feed.line().request, 10089, "needs a subscription")
    assert [event.code for event in feed.told] == [354, 10089]
    feed.lines.watch(EUR)
    await asyncio.sleep(RETRY_S)
    feed.request()
    feed.lines.failed(feed.line().request, 10089, "needs a subscription")
    assert [event.code for event in feed.told] == [354, 10089, 10089]


async def test_a_refused_line_that_ticks_after_all_is_live(feed):
    """Some errors are followed by data."""
    feed.lines.failed(feed.line().request, 10197, "competing")
    feed.tick(EUR)
    assert feed.line().state is LineState.LIVE
    assert feed.kinds == ["Gap", "SubscriptionFailed", "Resumed", "Tick"]


async def test_of_a_refused_line_nothing_is_left_to_cancel(feed):
    """But the library has a ticker to forget; a competing session only suspends."""
    contracts = [feed.line(instrument).contract for instrument in (EUR, AAPL)]
    feed.lines.failed(feed.line(EUR).request, 10197, "competing")
    feed.lines.failed(feed.line(AAPL).request, 354, "not subscribed")
    assert feed.lines.take_forgotten() == contracts[1:]
    assert feed.lines.take_cancelled() == []
    for instrument in (EUR, AAPL):
        feed.lines.unwatch(instrument)
    assert feed.lines.take_cancelled() == contracts[:1]


async def test_an_error_of_an_unknown_request_moves_nothing(feed):
    """Not every error is about market data."""
    feed.lines.failed(999, 200, "who?")
    assert feed.told == []


# --- what a gap leaves behind ----------------------------------------------------------------------------------------


async def test_a_tick_of_the_chunk_that_told_the_gap_does_not_end_it(feed):
    """The library tells of tickers at the end of a chunk: a tick in front of the 2103 comes out behind it."""
    feed.tickers[AAPL].bid = 2.0
    feed.lines.farm_down("usfarm")
    feed.touch(AAPL)
    assert feed.about(AAPL) == ["Gap"]
    feed.tick(AAPL, bid=3.0)
    assert feed.about(AAPL) == ["Gap", "Resumed", "Tick"]
    assert feed.told[-1].bid == 3.0


async def test_prices_from_before_a_gap_are_no_quote_after_it(feed):
    """Greeks, a volume or one side come first: what did not come again is not told, and is asked for anew soon."""
    feed.lines.farm_down("usfarm")
    feed.lines.farm_up("usfarm", feed.now_s)
    feed.tickers[AAPL].volume = 5.0
    feed.touch(AAPL)
    assert feed.about(AAPL) == ["Gap"]
    feed.tickers[AAPL].ask, feed.tickers[AAPL].askSize = 9.0, 1.0
    feed.touch(AAPL)
    assert feed.about(AAPL) == ["Gap", "Resumed", "Tick"]
    assert (feed.told[-1].bid, feed.told[-1].ask) == (None, 9.0)
    await asyncio.sleep(feed.lines.next_due_s() - feed.now_s)
    assert [contract.localSymbol for contract in feed.request()] == ["AAPL"]
    feed.tick(AAPL)
    assert feed.about(AAPL) == ["Gap", "Resumed", "Tick", "Tick"]
    assert feed.line(AAPL).state is LineState.LIVE
    assert len(feed.at_broker) == 2


async def test_a_quote_that_is_whole_again_is_not_asked_for_anew(feed):
    """Both sides came: nothing is due."""
    feed.lines.farm_down("usfarm")
    feed.tickers[AAPL].ask, feed.tickers[AAPL].askSize = 9.0, 1.0
    feed.touch(AAPL)
    assert feed.lines.next_due_s() == feed.now_s + FIRST_TICK_S
    feed.tick(AAPL)
    assert feed.lines.next_due_s() is None


async def test_a_farm_touches_what_it_may_serve_only(feed):
    """The farm of stocks has no currencies; a farm that nobody knows may have anything."""
    feed.lines.farm_down("usfarm.nj")
    assert [event.instrument for event in feed.told] == [AAPL]
    feed.lines.farm_down("newfarm")
    assert [event.instrument for event in feed.told] == [AAPL, EUR]


async def test_what_stays_silent_after_the_farm_is_back_is_asked_for_anew(feed):
    """Also what was asked for in vain, ever more patiently, while the farm was down."""
    feed.lines.watch(MSFT)
    feed.lines.farm_down("usfarm")
    for _ in range(7):
        await asyncio.sleep(60)
        feed.request()
    feed.lines.farm_up("usfarm", feed.now_s)
    assert feed.lines.next_due_s() == feed.now_s + FIRST_TICK_S
    await asyncio.sleep(FIRST_TICK_S)
    assert sorted(contract.localSymbol for contract in feed.request()) == ["AAPL", "MSFT"]
    assert len(feed.at_broker) == 3


# --- a gateway that forgets ------------------------------------------------------------------------------------------


async def test_an_unknown_request_that_had_flowed_puts_the_quiet_to_the_proof(feed):
    """One ticks in time and goes on as if nothing had been; the other is asked for anew, and has a gap since then."""
    feed.lines.watch(MSFT)
    feed.request()
    feed.tick(MSFT)
    feed.told.clear()
    await asyncio.sleep(60)
    given_up = feed.line(EUR).request
    feed.lines.ask_anew(feed.line(EUR), "silent", EPOCH)
    feed.request()
    feed.lines.failed(given_up, 300, "Can't find EId")
    assert feed.having(LineState.LIVE) == set()
    assert feed.kinds == ["Gap"]
    feed.tick(EUR, MSFT)
    await asyncio.sleep(PROVE_S)
    assert [contract.localSymbol for contract in feed.request()] == ["AAPL"]
    feed.tick(AAPL)
    assert feed.about(MSFT) == ["Tick"]
    assert feed.about(AAPL) == ["Gap", "Resumed", "Tick"]
    (gap,) = [event for event in feed.told if isinstance(event, ev.Gap) and event.instrument == AAPL]
    assert gap.since == EPOCH
    assert feed.having(LineState.LIVE) == {EUR, AAPL, MSFT}


async def test_what_has_ticked_since_is_not_put_to_the_proof(feed):
    """A new request that was answered by then, too."""
    given_up = feed.line(EUR).request
    feed.lines.ask_anew(feed.line(EUR), "silent", EPOCH)
    feed.request()
    feed.tick(EUR, AAPL)
    feed.lines.failed(given_up, 300, "Can't find EId")
    assert feed.having(LineState.LIVE) == {EUR, AAPL}


async def test_a_line_that_lacks_a_side_is_not_called_forgotten(feed):
    """It flows, and is asked for anew for what has not come again: no gap, and no word of a gateway that forgets."""
    feed.lines.interrupt("cut")
    feed.tickers[EUR].bid = 2.0
    feed.touch(EUR)
    assert feed.about(EUR) == ["Gap", "Resumed", "Tick"]
    for _ in range(2):
        await asyncio.sleep(2 * FIRST_TICK_S)
        feed.request()
    assert feed.about(EUR) == ["Gap", "Resumed", "Tick"]


@pytest.mark.parametrize("how", ["never flowed", "told twice", "after a reset", "nobody's"])
async def test_an_unknown_request_that_says_nothing_of_others(feed, how):
    """No proof is asked for: the request may never have arrived, or is not of this connection."""
    given_up = feed.line(EUR).request if how != "nobody's" else -1
    if how == "never flowed":
        feed.lines.data_kept(feed.now_s, FIRST_TICK_S)
        feed.tick(AAPL)
    if how != "nobody's":
        feed.lines.ask_anew(feed.line(EUR), "silent", EPOCH)
    await asyncio.sleep(1)
    feed.request()
    if how == "told twice":
        feed.lines.failed(given_up, 300, "Can't find EId")
        feed.tick(EUR, AAPL)
        await asyncio.sleep(1)
    if how == "after a reset":
        feed.lines.reset()
        feed.request()
        feed.tick(EUR, AAPL)
        await asyncio.sleep(1)
    feed.lines.failed(given_up, 300, "Can't find EId")
    assert AAPL in feed.having(LineState.LIVE)


async def test_lost_data_leaves_nothing_at_the_broker_or_in_the_library(feed):
    """1101: what flowed is forgotten, what was never answered is cancelled, for the gateway may yet pass it on."""
    feed.lines.watch(MSFT)
    feed.request()
    contracts = {line.instrument: line.contract for line in feed.lines}
    feed.lines.interrupt("cut")
    feed.lines.data_lost()
    forgotten = feed.lines.take_forgotten()
    assert forgotten == [contracts[EUR], contracts[AAPL]]
    assert feed.lines.take_cancelled() == [contracts[MSFT]]
    assert feed.having(LineState.WANTED) == {EUR, AAPL, MSFT}


async def test_what_was_watched_only_in_between_is_told_of_no_gap(feed):
    """The last watcher left, somebody still holds it: whoever watches next gets the newest quote and no history."""
    feed.lines.hold(EUR, lambda _line: None)
    feed.lines.unwatch(EUR)
    feed.lines.interrupt("cut")
    assert feed.about(EUR) == []
    feed.tick(EUR)
    assert feed.about(EUR) == []
    assert feed.lines.watch(EUR) is None
    assert feed.about(EUR) == ["Tick"]


async def test_who_watches_a_line_that_is_held_in_a_gap_is_told_its_end_first(feed):
    """The line ticks already, for a holder; nobody was told that the gap is over."""
    feed.lines.interrupt("cut")
    feed.lines.unwatch(EUR)
    feed.lines.hold(EUR, lambda _line: None)
    feed.request()
    feed.tick(EUR)
    assert feed.about(EUR) == ["Gap"]
    feed.lines.watch(EUR)
    assert feed.about(EUR) == ["Gap", "Resumed", "Tick"]
    feed.tick(EUR)
    assert feed.about(EUR) == ["Gap", "Resumed", "Tick", "Tick"]


async def test_who_watches_what_flows_gets_the_newest_quote(feed):
    """Without a second word to those who have it."""
    assert feed.lines.watch(EUR).bid == 1.0
    assert feed.told == []
    assert feed.lines.watch(MSFT) is None


# --- the budget ------------------------------------------------------------------------------------------------------


@pytest.fixture
async def full():
    """Two lines, both taken by watchers."""
    feed = Feed(lines_max=2)
    for instrument in (EUR, AAPL):
        feed.lines.watch(instrument)
    feed.request()
    feed.tick(EUR, AAPL)
    feed.told.clear()
    return feed


async def test_who_has_to_wait_is_told_once_and_is_next(full):
    """And told again only after it had a line."""
    full.lines.watch(MSFT)
    for _ in range(3):
        full.request()
    assert full.about(MSFT) == ["SubscriptionWaiting"]
    assert full.told[-1].lines == 2
    full.lines.unwatch(EUR)
    full.request()
    full.tick(MSFT)
    assert full.about(MSFT) == ["SubscriptionWaiting", "Tick"]
    assert full.taken == {AAPL, MSFT}


@pytest.mark.parametrize("rank", [Rank.POSITION, Rank.ORDER, Rank.CHAIN])
async def test_the_less_urgent_yields_with_a_gap_and_is_told_that_it_waits(full, rank):
    """The one that came last of the least urgent; it returns with the next free line."""
    if rank is Rank.CHAIN:
        held = full.lines.hold(MSFT, lambda _line: None)
    else:
        full.urgent[rank].add(MSFT)
        full.lines.watch(MSFT)
    assert [contract.localSymbol for contract in full.request()] == ["AAPL"]
    assert full.about(AAPL) == ["Gap", "SubscriptionWaiting"]
    assert full.taken == {EUR, MSFT}
    assert len(full.at_broker) == 2
    if rank is Rank.CHAIN:
        full.lines.let_go(held, held.holders[0])
    else:
        full.lines.unwatch(MSFT)
    full.request()
    full.tick(AAPL)
    assert full.about(AAPL) == ["Gap", "SubscriptionWaiting", "Resumed", "Tick"]


async def test_nobody_yields_to_an_equal(full):
    """Lines do not go round in circles."""
    for instrument in (EUR, AAPL):
        full.urgent[Rank.ORDER].add(instrument)
    full.urgent[Rank.ORDER].add(MSFT)
    full.lines.watch(MSFT)
    assert full.request() == []
    assert full.about(MSFT) == ["SubscriptionWaiting"]


async def test_one_that_is_being_asked_does_not_yield(full):
    """Its contract is being looked up; in the next look it may."""
    full.lines.reset()
    asking = full.begin()
    full.lines.hold(MSFT, never)
    assert full.begin() == []
    full.finish(asking)
    assert full.taken == {EUR, AAPL}
    full.request()
    assert full.taken == {EUR, MSFT}


async def test_a_silent_line_that_yields_is_not_asked_for_again():
    """It was due to be asked for anew at the very moment at which a more urgent one took its place."""
    feed = Feed(lines_max=1)
    feed.lines.watch(EUR)
    feed.request()
    await asyncio.sleep(FIRST_TICK_S)
    feed.lines.hold(MSFT, never)
    feed.request()
    assert feed.taken == {MSFT}
    assert len(feed.at_broker) == 1


async def test_who_becomes_urgent_while_waiting_gets_a_line_soon(full):
    """An order is placed, a position opened: nobody tells the lines, so they look."""
    full.lines.watch(MSFT)
    full.request()
    full.urgent[Rank.POSITION].add(MSFT)
    assert full.lines.next_due_s() == full.now_s + LOOK_S
    await asyncio.sleep(LOOK_S)
    full.request()
    assert full.taken == {EUR, MSFT}


async def test_who_waits_is_looked_at_when_somebody_becomes_less_urgent(full):
    """Its holder has left; its watcher stays, and yields."""
    held = full.lines.hold(EUR, never)
    full.lines.hold(AAPL, never)
    full.lines.hold(MSFT, never)
    full.request()
    while full.lines._wanted.is_set():
        await full.lines.changed()
    full.lines.let_go(held, never)
    await asyncio.wait_for(full.lines.changed(), 1)
    full.request()
    assert full.taken == {AAPL, MSFT}


async def test_what_the_broker_refuses_displaces_nobody_again_and_again(full):
    """A position without permission takes a watcher's line once, not every minute; it gets the next free one."""
    full.urgent[Rank.POSITION].add(MSFT)
    full.lines.watch(MSFT)
    full.request()
    full.refuse(MSFT)
    for _ in range(5):
        full.request()
        full.tick(EUR, AAPL)
        await asyncio.sleep(RETRY_S)
    assert full.kinds.count("Gap") == 1
    full.lines.unwatch(EUR)
    full.request()
    assert full.taken == {AAPL, MSFT}


async def test_a_refused_line_for_which_there_is_no_room_does_not_keep_us_busy(full):
    """Its time to be asked again is over, but no line is free: the next look is not now."""
    full.urgent[Rank.POSITION].add(MSFT)
    full.lines.watch(MSFT)
    full.request()
    full.refuse(MSFT)
    full.request()
    await asyncio.sleep(RETRY_S)
    full.request()
    assert full.lines.next_due_s() > full.now_s


async def test_what_nobody_answered_for_may_displace(full):
    """A lookup that timed out is no refusal."""
    full.urgent[Rank.POSITION].add(MSFT)
    full.lines.watch(MSFT)
    ((line, _),) = full.begin()
    full.lines.refused(line, 0, "no answer", full.now_s, RequestTimeout("contract details", 30))
    full.request()
    full.tick(EUR, AAPL)
    await asyncio.sleep(RETRY_S)
    full.request()
    assert full.taken == {EUR, MSFT}


# --- the cap ---------------------------------------------------------------------------------------------------------


def grant(feed, lines):
    """Let a broker that grants so many lines answer what it was asked."""
    asked = [line.instrument for line in feed.lines if line.state is LineState.REQUESTED]
    served = max(0, len(asked) - max(0, len(feed.at_broker) - lines))
    for instrument in asked[:served]:
        feed.tick(instrument)
    for instrument in asked[served:]:
        feed.refuse(instrument, 101, "Max number of tickers has been reached")


async def test_lines_that_the_broker_was_not_told_to_give_up_yet_count_as_his():
    """Their cancellations still wait for their turn to leave."""
    feed = Feed()
    feed.lines.watch(EUR)
    ((line, _),) = feed.begin()
    contract = ib_insync.Contract()
    feed.lines.requested(line, 1, ib_insync.Ticker(contract=contract), contract, feed.now_s, releasing=2)
    feed.lines.failed(1, 101, "Max number of tickers has been reached")
    assert feed.lines.cap == 2


async def test_what_was_given_back_meanwhile_teaches_nothing():
    """The broker refuses the third while two are there; by the time that we hear of it, these are gone."""
    feed = Feed()
    for instrument in ALL:
        feed.lines.watch(instrument)
    feed.request()
    third, fourth = list(feed.lines)[2:]
    for instrument in ALL[:2]:
        feed.tick(instrument)
        feed.lines.unwatch(instrument)
    for line in (third, fourth):
        feed.refuse(line.instrument, 101)
    assert feed.lines.cap == 2
    feed.request()
    assert feed.taken == set(ALL[2:])


@pytest.mark.parametrize("granted", [0, 1, 3])
async def test_error_101_teaches_the_cap(granted):
    """One refused request each; then it is known, and nobody is asked for until a minute has passed."""
    feed = Feed()
    for instrument in ALL:
        feed.lines.watch(instrument)
    feed.request()
    grant(feed, granted)
    asked = feed._requests
    for _ in range(10):
        feed.request()
    assert feed._requests == asked == 4
    assert feed.lines.cap == len(feed.taken) == len(feed.at_broker) == granted
    assert feed.kinds.count("SubscriptionWaiting") == 4 - granted
    assert feed.kinds.count("Gap") == feed.kinds.count("SubscriptionFailed") == 0


async def test_the_cap_is_tried_once_a_minute_and_who_waits_is_told_once():
    """The broker may grant more again: one more after a minute, and then ever more at a time."""
    feed = Feed()
    for instrument in ALL:
        feed.lines.watch(instrument)
    for minute in range(5):
        feed.request()
        grant(feed, 1)
        feed.request()
        assert feed._requests == 4 + minute
        assert feed.lines.next_due_s() <= feed.now_s + RETRY_S
        await asyncio.sleep(RETRY_S)
    assert feed.kinds.count("SubscriptionWaiting") == 3
    for taken in (2, 4):
        feed.request()
        grant(feed, 100)
        assert len(feed.taken) == taken
        await asyncio.sleep(RETRY_S)
    assert len(feed.at_broker) == 4


# --- holding ---------------------------------------------------------------------------------------------------------


async def test_who_holds_hears_of_ticks_and_failures():
    """And nobody else is told: no Tick, no SubscriptionFailed."""
    feed, news = Feed(), []

    def on_news(line):
        news.append((line.tick and line.tick.bid, line.failure))

    line = feed.lines.hold(EUR, on_news)
    feed.request()
    feed.tick(EUR)
    feed.refuse(EUR, 354, "no")
    assert [news[0], type(news[1][1])] == [(1.0, None), BrokerRefused]
    feed.lines.interrupt("the socket is lost")
    assert isinstance(news[2][1], NotReady)
    feed.lines.let_go(line, on_news)
    feed.request()
    assert feed.told == []
    assert not feed.at_broker


async def test_holding_does_not_tell_the_watchers_again():
    """A refusal that they know of is news for the holder only."""
    feed = Feed()
    feed.lines.watch(EUR)
    feed.request()
    feed.refuse(EUR)
    line = feed.lines.hold(EUR, news := [].append)
    feed.request()
    feed.refuse(EUR)
    assert feed.kinds == ["SubscriptionFailed"]
    assert isinstance(news.__self__[0].failure, BrokerRefused)
    feed.lines.let_go(line, news)


async def test_standing_back_is_told_to_those_who_watch(full):
    """A line that flows for a watcher while it proves itself, and whose holder lets others have it."""
    line = full.lines.hold(EUR, lambda _line: None)
    full.lines.data_kept(full.now_s, 10)
    full.lines.stand_back(line)
    assert full.about(EUR) == ["Gap"]
    full.request()
    full.tick(EUR)
    assert full.about(EUR) == ["Gap", "Resumed", "Tick"]


# --- overtaken while asking ------------------------------------------------------------------------------------------


async def test_data_lost_while_a_contract_is_looked_up_leaves_one_request(feed):
    """Two lookups are under way then; the answer to the first means nothing."""
    feed.lines.watch(MSFT)
    first = feed.begin()
    feed.lines.interrupt("cut")
    feed.lines.data_lost()
    second = feed.begin()
    assert not feed.lines.is_asking(*first[0])
    for asking in (first, second, first):
        feed.finish(asking)
    assert len(feed.at_broker) == 3
    assert feed.line(MSFT).contract is not None


async def test_unwatching_and_watching_while_a_contract_is_looked_up_leaves_one_request():
    """The first wish is over, the second asks for itself."""
    feed = Feed()
    feed.lines.watch(EUR)
    first = feed.begin()
    feed.lines.unwatch(EUR)
    feed.finish(first)
    assert not feed.at_broker
    feed.lines.watch(EUR)
    second = feed.begin()
    feed.finish(first)
    feed.finish(second)
    assert len(feed.at_broker) == 1


async def test_what_was_postponed_is_asked_for_later(feed):
    """The link was not READY when the lookup ended."""
    feed.lines.watch(MSFT)
    ((line, _),) = feed.begin()
    while feed.lines._wanted.is_set():
        await feed.lines.changed()
    feed.lines.postponed(line)
    await asyncio.wait_for(feed.lines.changed(), 1)
    feed.request()
    assert MSFT in feed.having(LineState.REQUESTED)


# --- every tick ------------------------------------------------------------------------------------------------------


async def test_a_stream_sees_every_tick_and_its_interruptions(feed):
    """In order; and closing it is unwatching."""
    stream = feed.lines.every_tick(MSFT, 100)
    feed.request()
    feed.tick(MSFT)
    feed.tick(MSFT)
    feed.lines.interrupt("cut")
    feed.lines.data_lost()
    feed.request()
    feed.tick(MSFT)
    items = [await stream.get() for _ in range(len(stream))]
    assert [type(item).__name__ for item in items] == ["RawTick", "RawTick", "Gap", "Resumed", "RawTick"]
    assert [item.epoch for item in items] == [0, 0, 1, 1, 1]
    stream.close("enough")
    feed.request()
    assert feed.taken == {EUR, AAPL}
    assert feed.lines.sinks == {}


async def test_a_stream_is_told_the_end_of_the_gaps_that_it_was_told_of(feed):
    """Not of one that ended before it was opened, nor of one that had begun."""
    feed.lines.interrupt("cut")
    feed.tick(EUR)
    late = feed.lines.every_tick(EUR, 100)
    feed.tick(EUR)
    assert await unread(late) == ["RawTick"]
    feed.lines.interrupt("cut")
    inside = feed.lines.every_tick(EUR, 100)
    feed.tick(EUR)
    assert await unread(inside) == ["RawTick"]
    assert await unread(late) == ["Gap", "Resumed", "RawTick"]
    assert feed.about(EUR).count("Resumed") == 2


async def test_a_stream_that_has_seen_sizes_alone_is_told_of_a_gap_all_the_same(feed):
    """Who only watches has not seen them: the book's gap goes on, or there is none."""
    stream = feed.lines.every_tick(EUR, 100)
    feed.tick(EUR)
    feed.lines.interrupt("cut")
    told = feed.about(EUR)
    feed.size(EUR)
    assert await unread(stream) == ["RawTick", "Gap", "Resumed", "RawTick"]
    feed.lines.interrupt("cut")
    feed.lines.interrupt("cut")
    feed.size(EUR)
    assert await unread(stream) == ["Gap", "Resumed", "RawTick"]
    assert feed.about(EUR) == told
    feed.tick(EUR)
    assert feed.about(EUR)[len(told) :][:1] == ["Resumed"]


async def test_sizes_alone_change_nothing_about_a_gap_that_is_on_record(feed):
    """It ends as it began, however often who sees every tick is interrupted in it, or has been."""
    stream = feed.lines.every_tick(EUR, 100)
    feed.tick(EUR)
    feed.lines.interrupt("first")
    feed.lines.ask_anew(feed.line(), "silent", EPOCH)
    feed.request()
    feed.size(EUR)
    feed.lines.farm_down("cashfarm")
    stream.close("enough")
    feed.lines.interrupt("nobody has seen anything since")
    feed.tick(EUR)
    gap, resumed = (one for one in feed.told if one.instrument == EUR and isinstance(one, ev.Gap | ev.Resumed))
    assert (gap.epoch, resumed.epoch, resumed.resubscribed) == (1, 1, True)


async def test_a_stream_that_is_opened_while_its_line_is_not_asked_for_leaves_no_sink(full):
    """The old request's id means nothing any more."""
    full.lines.hold(MSFT, never)
    full.request()
    stream = full.lines.every_tick(AAPL, 100)
    assert full.lines.sinks == {}
    stream.close("enough")


async def test_a_stream_may_be_closed_in_its_own_iteration(feed):
    """By its reader, or by another of the same line."""
    feed.lines.every_tick(EUR, 100)
    stream = feed.lines.every_tick(EUR, 100)
    feed.tick(EUR)
    items = aiter(stream)
    assert isinstance(await anext(items), ev.RawTick)
    stream.close("enough")
    with pytest.raises(DeskClosed, match="enough"):
        await anext(items)
    stream.close("twice is once")
    assert feed.line().watchers == 2
    feed.tick(EUR)
    assert len(feed.line().streams) == 1


async def test_what_is_left_unread_is_counted(feed):
    """All of it, however often the stream overflows before somebody reads."""
    stream = feed.lines.every_tick(EUR, 3)
    for _ in range(10):
        feed.tick(EUR)
    gap = await stream.get()
    rest = await unread(stream)
    assert isinstance(gap, ev.Gap)
    assert gap.lost == stream.lost == 10 - len(rest)
    assert set(rest) == {"RawTick"}
    feed.tick(EUR)
    assert await unread(stream) == ["RawTick"]


async def test_streams_are_told_of_waiting_and_refusal(full):
    """In the stream itself: who reads one need not read events."""
    stream = full.lines.every_tick(MSFT, 100)
    full.request()
    full.lines.unwatch(EUR)
    full.request()
    full.refuse(MSFT)
    assert await unread(stream) == ["SubscriptionWaiting", "SubscriptionFailed"]


# --- in general ------------------------------------------------------------------------------------------------------


class Play:
    """Anything that may happen to four wishes and two lines, in any order."""

    def __init__(self):
        self.feed = Feed(lines_max=2)
        self.held = []
        self.streams = []
        self.taken = 0
        self.asking = []

    def watch(self, instrument):
        self.feed.lines.watch(instrument)

    def unwatch(self, instrument):
        line = next((line for line in self.feed.lines if line.instrument == instrument), None)
        if line is not None and line.watchers > len(line.streams):
            self.feed.lines.unwatch(instrument)

    def hold(self, instrument):
        def on_news(_line):
            """Any news will do."""

        self.held.append((self.feed.lines.hold(instrument, on_news), on_news))

    def let_go(self, _instrument):
        if self.held:
            self.feed.lines.let_go(*self.held.pop())

    def stand_back(self, _instrument):
        if self.held:
            self.feed.lines.stand_back(self.held[-1][0])

    def stream(self, instrument):
        self.streams.append((instrument, self.feed.lines.every_tick(instrument, 1_000)))

    def close(self, _instrument):
        if self.streams:
            self.streams.pop()[1].close("enough")

    def urgent(self, instrument):
        self.feed.urgent[0].symmetric_difference_update({instrument})

    def ordered(self, instrument):
        self.feed.urgent[1].symmetric_difference_update({instrument})

    def request(self, _instrument):
        self.feed.finish(self.asking)
        self.asking = []
        self.feed.request()
        self.check_justice()

    def ask(self, _instrument):
        self.asking += self.feed.begin()
        self.check_justice()

    def tick(self, instrument):
        ticker = self.feed.tickers.get(instrument)
        if ticker is not None and id(ticker.contract) in self.feed.at_broker:
            self.feed.tick(instrument)

    def refuse(self, instrument):
        if instrument in self.feed.having(LineState.REQUESTED, LineState.LIVE):
            self.feed.refuse(instrument, 354)

    def full(self, instrument):
        if instrument in self.feed.having(LineState.REQUESTED):
            self.feed.refuse(instrument, 101)

    def farm(self, _instrument):
        self.feed.lines.farm_down("usfarm")

    def farm_back(self, _instrument):
        self.feed.lines.farm_up("usfarm", self.feed.now_s)

    def interrupt(self, _instrument):
        self.feed.lines.interrupt("test")

    def reset(self, _instrument):
        self.feed.lines.interrupt("test")
        self.feed.lines.reset()
        self.feed.at_broker.clear()
        self.asking = []

    def lost(self, _instrument):
        self.feed.lines.interrupt("test")
        self.feed.lines.data_lost()

    def kept(self, _instrument):
        self.feed.lines.data_kept(self.feed.now_s, 10)

    def check_justice(self):
        """Right after a look: no line is free while somebody waits, and none is held from somebody more urgent."""
        lines = self.feed.lines
        ranks = lines._ranks()
        waiting = [line for line in lines if line.state is LineState.WANTED]
        if waiting:
            assert lines.taken >= lines.cap
        for line in waiting:
            displaceable = {LineState.REQUESTED, LineState.LIVE}
            assert all(ranks[other] <= ranks[line] for other in lines if other.state in displaceable)
            assert lines.next_due_s() is not None
        due_s = lines.next_due_s()
        assert due_s is None or due_s > self.feed.now_s

    def check(self):
        """At any moment: the budget, the tables, the broker's subscriptions, and what was told."""
        feed, lines = self.feed, self.feed.lines
        assert lines.taken <= max(lines.cap, self.taken)  # after error 101 those that are asked for may be too many
        assert lines.cap <= lines.lines_max
        self.taken = lines.taken
        known = len(list(lines))
        for table in (lines._by_request, lines._by_ticker, lines.sinks):
            assert len(table) <= known
        assert set(lines.sinks) <= set(lines._by_request)
        ours = {id(line.contract) for line in lines if line.state in {LineState.REQUESTED, LineState.LIVE}}
        given_up = {id(c) for c in (*lines._to_cancel, *lines._to_forget)}
        retried = {id(line.contract) for line in lines if line.state not in TAKING}
        assert ours <= set(feed.at_broker) <= ours | given_up | retried
        for instrument in ALL:
            check_story([event for event in feed.told if event.instrument == instrument])


STEPS = sorted(name for name in vars(Play) if not name.startswith(("_", "check")))


def check_story(events, epoch=0):
    """What was told of one instrument: no tick inside a gap, no gap twice, epochs rise one by one."""
    in_gap = False
    for event in events:
        if isinstance(event, ev.Gap):
            assert not in_gap
            in_gap, epoch = True, event.epoch if epoch is None else epoch + 1
        elif isinstance(event, ev.Resumed):
            assert in_gap
            in_gap = False
        elif isinstance(event, (ev.Tick, ev.RawTick)):
            assert not in_gap
            epoch = event.epoch if epoch is None else epoch
        assert getattr(event, "epoch", epoch) == epoch


async def check_stream(stream):
    """What one stream was told: as `check_story`, but a gap may have begun before it was opened."""
    check_story([await stream.get() for _ in range(len(stream))], epoch=None)


@settings(max_examples=400)
@given(st.lists(st.tuples(st.sampled_from([*STEPS, "wait"]), st.sampled_from(ALL)), max_size=80))
def test_whatever_happens_the_budget_holds_and_gaps_and_resumptions_alternate(script):
    """Any order of wishes, answers, errors and cuts; and no request, ticker or subscription is left for nothing."""

    async def play():
        play = Play()
        for what, instrument in script:
            if what == "wait":
                await asyncio.sleep(20)
            else:
                getattr(play, what)(instrument)
            play.check()
        for _, stream in play.streams:
            await check_stream(stream)

    run(play())


async def test_why_there_is_no_quote_is_said_in_words():
    """Nobody watches, none has come, refused, all lines taken."""
    feed = Feed()
    assert feed.lines.why_no_quote(EUR) == "nobody watches it"
    feed.lines.watch(EUR)
    feed.request()
    assert feed.lines.why_no_quote(EUR) == "none has come yet"
    feed.refuse(EUR, 354, "not subscribed")
    assert "not subscribed (code 354)" in feed.lines.why_no_quote(EUR)
    few = Feed(lines_max=1)
    few.lines.watch(EUR)
    few.lines.watch(AAPL)
    few.request()
    assert few.lines.why_no_quote(AAPL).startswith("all 1 market-data lines are taken")
