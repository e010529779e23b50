"""Subscriptions as desired state: what is wanted survives, each interruption is told once, nothing leaks."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime

import ib_insync
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.broker.lines import FIRST_TICK_S, RETRY_S, Lines, LineState
from ibkr_service.clock import LoopClock
from ibkr_service.core import events as ev
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.sim.loop import run

EPOCH = datetime(2026, 11, 23, 15, tzinfo=UTC)
EUR, AAPL = Forex("EUR", "USD"), Stock("AAPL")


class Feed:
    """Lines, what they told, and tickers to tell them with."""

    def __init__(self):
        self.told = []
        self.lines = Lines(self.told.append, LoopClock(asyncio.get_running_loop(), EPOCH))
        self.tickers = {}
        self._requests = 0

    @property
    def now_s(self):
        """Loop time."""
        return asyncio.get_running_loop().time()

    def request(self):
        """Ask the broker for all that is due, as the session does; returns the contracts that were cancelled first."""
        cancelled = self.lines.take_cancelled()
        for line in self.lines.to_request(self.now_s):
            cancelled += [contract for contract in [self.lines.release(line)] if contract is not None]
            self._requests += 1
            contract = ib_insync.Contract(localSymbol=str(line.instrument))
            ticker = self.tickers[line.instrument] = ib_insync.Ticker(contract=contract)
            self.lines.requested(line, self._requests, ticker, contract, self.now_s)
        return cancelled

    def tick(self, *instruments, bid=1.0):
        """Quotes arrive in one chunk."""
        for instrument in instruments:
            ticker = self.tickers[instrument]
            ticker.bid, ticker.bidSize, ticker.ask, ticker.askSize = bid, 1.0, bid + 1, 1.0
        self.lines.arrived({self.tickers[instrument] for instrument in instruments})

    def line(self, instrument=EUR):
        """The line of an instrument."""
        return next(line for line in self.lines if line.instrument == instrument)

    @property
    def kinds(self):
        """What was told, by name."""
        return [type(event).__name__ for event in self.told]


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
    feed.lines.arrived([ticker])
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
    feed.lines.arrived([old_ticker])
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
    feed.lines.failed(feed.line().request, 101, "too many tickers")
    assert [event.code for event in feed.told] == [354, 101]
    feed.lines.watch(EUR)
    await asyncio.sleep(RETRY_S)
    feed.request()
    feed.lines.failed(feed.line().request, 101, "too many tickers")
    assert [event.code for event in feed.told] == [354, 101, 101]


async def test_a_refused_line_that_ticks_after_all_is_live(feed):
    """Some errors are followed by data."""
    feed.lines.failed(feed.line().request, 10197, "competing")
    feed.tick(EUR)
    assert feed.line().state is LineState.LIVE
    assert feed.kinds == ["Gap", "SubscriptionFailed", "Resumed", "Tick"]


async def test_an_error_of_an_unknown_request_moves_nothing(feed):
    """Not every error is about market data."""
    feed.lines.failed(999, 200, "who?")
    assert feed.told == []


# --- in general ------------------------------------------------------------------------------------------------------

STEPS = {
    "watch": lambda feed, instrument: feed.lines.watch(instrument),
    "unwatch": lambda feed, instrument: feed.lines.unwatch(instrument),
    "request": lambda feed, _: feed.request(),
    "tick": lambda feed, instrument: feed.tick(instrument) if instrument in feed.tickers else None,
    "interrupt": lambda feed, _: feed.lines.interrupt("test"),
    "reset": lambda feed, _: feed.lines.reset(),
    "kept": lambda feed, _: feed.lines.data_kept(feed.now_s, 10),
    "fail": lambda feed, _: [feed.lines.failed(line.request, 354, "no") for line in feed.lines],
}


def check_story(events):
    """What was told of one instrument: no tick inside a gap, no gap twice, epochs rise one by one."""
    in_gap, epoch = False, 0
    for event in events:
        if isinstance(event, ev.Gap):
            assert not in_gap
            in_gap, epoch = True, epoch + 1
        elif isinstance(event, ev.Resumed):
            assert in_gap
            in_gap = False
        elif isinstance(event, ev.Tick):
            assert not in_gap
        assert getattr(event, "epoch", epoch) == epoch


@given(st.lists(st.tuples(st.sampled_from([*STEPS, "wait"]), st.sampled_from([EUR, AAPL])), max_size=60))
def test_whatever_happens_gaps_and_resumptions_alternate_and_tables_stay_small(script):
    """Any order of wishes, answers, errors and cuts; and no request or ticker is remembered for nothing."""

    async def play():
        feed = Feed()
        for what, instrument in script:
            if what == "wait":
                await asyncio.sleep(20)
            else:
                STEPS[what](feed, instrument)
            assert len(feed.lines._by_request) <= len(list(feed.lines))
            assert len(feed.lines._by_ticker) <= len(list(feed.lines))
        for instrument in (EUR, AAPL):
            check_story([event for event in feed.told if event.instrument == instrument])

    run(play())
