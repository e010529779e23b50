"""What a strategy has not read yet: facts in order and all of them, ticks newest only; and the metered inbox."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core import events as ev
from ibkr_service.core.errors import DeskClosed
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.core.link import Link
from ibkr_service.mailbox import Inbox, Mailbox
from ibkr_service.sim.loop import run

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
EUR, AAPL = Forex("EUR", "USD"), Stock("AAPL")
INSTRUMENTS = [EUR, AAPL]


def tick(instrument=EUR, bid=1.0, epoch=0):
    """A quote."""
    return ev.Tick(at=AT, instrument=instrument, bid=bid, ask=bid + 1, epoch=epoch)


def gap(instrument=EUR, epoch=1):
    """An interruption."""
    return ev.Gap(at=AT, instrument=instrument, reason="test", since=AT, epoch=epoch)


def notice(code):
    """Some fact."""
    return ev.BrokerNotice(at=AT, code=code, text="")


def never():
    """An overrun that must not happen."""
    raise AssertionError("overrun")


async def drained(mailbox):
    """Everything that is in it, in the order of reading."""
    return [await mailbox.get() for _ in range(len(mailbox))]


# --- the mailbox -----------------------------------------------------------------------------------------------------


async def test_facts_come_in_order_and_before_ticks():
    """A fill does not wait behind quotes."""
    box = Mailbox(10, never)
    for event in (tick(EUR), notice(1), tick(AAPL), notice(2)):
        box.put(event)
    assert await drained(box) == [notice(1), notice(2), tick(EUR), tick(AAPL)]


async def test_only_the_newest_tick_of_an_instrument_is_kept():
    """Nine of ten thousand are replaced; the instruments take turns by their waiting time."""
    box = Mailbox(1, never)
    for number in range(10_000):
        box.put(tick(EUR, number))
        box.put(tick(AAPL, number))
    assert len(box) == 2
    assert box.replaced == 19_998
    assert await drained(box) == [tick(EUR, 9_999), tick(AAPL, 9_999)]


async def test_a_tick_neither_overtakes_nor_trails_its_gap():
    """The unread tick from before a gap is gone; other instruments' ticks are not."""
    box = Mailbox(10, never)
    for event in (tick(EUR, 1), tick(AAPL, 2), gap(EUR), tick(EUR, 3, epoch=1)):
        box.put(event)
    assert await drained(box) == [gap(EUR), tick(AAPL, 2), tick(EUR, 3, epoch=1)]


EVENTS = st.lists(
    st.one_of(
        st.builds(lambda i, n: ("tick", i, n), st.sampled_from(INSTRUMENTS), st.integers(0, 9)),
        st.builds(lambda i: ("gap", i), st.sampled_from(INSTRUMENTS)),
        st.just(("fact",)),
        st.just(("read",)),
    ),
    max_size=60,
)


@given(EVENTS)
def test_whatever_comes_no_fact_is_lost_and_no_old_epoch_follows_its_gap(script):
    """Any mixture of ticks, gaps, facts and reads: all facts once and in order; epochs never go back after a gap."""

    async def play():
        box, put, read = Mailbox(100, never), [], []
        epochs = dict.fromkeys(INSTRUMENTS, 0)
        for number, (what, *about) in enumerate(script):
            match what:
                case "tick":
                    box.put(tick(about[0], float(about[1]), epochs[about[0]]))
                case "gap":
                    epochs[about[0]] += 1
                    put.append(gap(about[0], epochs[about[0]]))
                    box.put(put[-1])
                case "fact":
                    put.append(notice(number))
                    box.put(put[-1])
                case "read" if len(box):
                    read.append(await box.get())
        read += await drained(box)
        assert [event for event in read if not isinstance(event, ev.Tick)] == put
        told = dict.fromkeys(INSTRUMENTS, 0)
        for event in read:
            if isinstance(event, ev.Gap):
                told[event.instrument] = event.epoch
            elif isinstance(event, ev.Tick):
                assert event.epoch == told[event.instrument]

    run(play())


async def test_one_fact_too_many_is_an_overrun_told_once():
    """Facts are never dropped one by one: the reader goes."""
    told = []
    box = Mailbox(3, lambda: told.append("overrun"))
    box.begin_reading()
    for code in range(10):
        box.put(notice(code))
    assert told == ["overrun"]
    assert len(box) == 0
    with pytest.raises(DeskClosed, match="overrun"):
        await box.get()


async def test_who_has_not_begun_to_read_is_owed_the_state_alone():
    """Facts are skipped before the first reading, not after; nobody is overrun meanwhile."""
    box = Mailbox(3, never)
    for code in range(10):
        box.put(notice(code))
    assert len(box) <= 3
    assert box.begin_reading()  # some were skipped: the reader has to be told the state
    assert len(box) == 0
    assert not box.begin_reading()
    box.put(notice(11))
    assert (await box.get()).code == 11


async def test_ticks_alone_overrun_nothing():
    """However many instruments there are."""
    box = Mailbox(1, never)
    for number in range(500):
        box.put(tick(Stock(f"S{number}")))
    box.put(notice(1))
    assert len(box) == 501


async def test_a_reader_wakes_for_what_comes():
    """It waits without polling, and is woken by a fact."""
    box = Mailbox(10, never)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(box.get())
        await asyncio.sleep(3)
        box.put(notice(7))
    assert reading.result() == notice(7)


async def test_a_reader_that_is_cancelled_loses_nothing():
    """Even when the fact and the cancellation come in the same instant."""
    box = Mailbox(10, never)
    reading = asyncio.get_running_loop().create_task(box.get())
    await asyncio.sleep(0)
    box.put(notice(7))
    reading.cancel()
    with pytest.raises(asyncio.CancelledError):
        await reading
    assert await box.get() == notice(7)


async def test_closing_wakes_the_reader_and_discards_the_rest():
    """Whoever reads now or later is told why; what is put afterwards goes nowhere."""
    box = Mailbox(10, never)
    reading = asyncio.get_running_loop().create_task(box.get())
    await asyncio.sleep(0)
    box.close("the strategy was stopped")
    box.put(notice(1))
    with pytest.raises(DeskClosed, match="was stopped"):
        await reading
    with pytest.raises(DeskClosed, match="was stopped"):
        await box.get()
    assert len(box) == 0


async def test_a_forgotten_instrument_leaves_no_tick():
    """Unwatched: its unread tick is discarded, others stay."""
    box = Mailbox(10, never)
    box.put(tick(EUR))
    box.put(tick(AAPL))
    box.forget(EUR)
    box.forget(Stock("NEVER"))
    assert await drained(box) == [tick(AAPL)]


def figure(value, tag="NetLiquidation", account="DU1", currency="USD"):
    """An account value."""
    return ev.AccountValueReported(at=AT, account=account, tag=tag, value=str(value), currency=currency)


def link(after):
    """The line has another state."""
    return ev.LinkChanged(at=AT, before=Link.READY, after=after, why="")


async def test_only_the_newest_figure_of_each_kind_is_kept():
    """Some hundred values every three minutes cannot fill a mailbox; each kind is a place of its own."""
    box = Mailbox(1, never)
    kinds = [
        figure,
        lambda n: figure(n, tag="BuyingPower"),
        lambda n: figure(n, currency="EUR"),
        lambda n: figure(n, account="DU2"),
        lambda n: ev.PnlReported(at=AT, account="DU1", daily_pnl=Decimal(n)),
        lambda n: ev.PositionPnlReported(at=AT, account="DU1", con_id=7, quantity=Decimal(n)),
        lambda n: ev.PositionPnlReported(at=AT, account="DU1", con_id=8, quantity=Decimal(n)),
        lambda n: ev.PortfolioReported(at=AT, account="DU1", con_id=7, instrument=AAPL, quantity=Decimal(n)),
    ]
    for number in range(1_000):
        for kind in kinds:
            box.put(kind(number))
    assert await drained(box) == [kind(999) for kind in kinds]


async def test_a_figure_waits_its_turn_among_ticks():
    """A reader whom a storm of ticks keeps busy reads it all the same, and ticks are not kept from him by figures."""
    box = Mailbox(1, never)
    read = []
    for number in range(4):
        for event in (tick(EUR, number), tick(AAPL, number), figure(number)):
            box.put(event)
        read.append(await box.get())
    assert read == [tick(EUR, 0), tick(AAPL, 1), figure(2), tick(EUR, 3)]


async def test_figures_do_not_outlive_the_link():
    """Unread ones of a line that is not verified any more are not read later; ticks have their gaps for that."""
    box = Mailbox(10, never)
    for event in (figure(1), tick(EUR), link(Link.CUT), figure(2), link(Link.SYNCING), figure(3), link(Link.READY)):
        box.put(event)
    states = [link(Link.CUT), link(Link.SYNCING), link(Link.READY)]
    assert await drained(box) == [*states, tick(EUR), figure(3)]


async def test_a_forgotten_account_leaves_no_figure():
    """Another account and the ticks stay."""
    box = Mailbox(1, never)
    for event in (figure(1), figure(2, account="DU2"), tick(EUR)):
        box.put(event)
    box.forget_account("DU1")
    assert await drained(box) == [figure(2, account="DU2"), tick(EUR)]


# --- the inbox -------------------------------------------------------------------------------------------------------


async def test_the_inbox_keeps_everything_in_order():
    """It never drops, whatever the mark."""
    inbox = Inbox(high=2)
    for code in range(100):
        inbox.put(notice(code))
    assert [(await inbox.get()).code for _ in range(100)] == list(range(100))
    assert inbox.peak == 100


async def test_above_the_mark_the_source_is_told_to_stop_and_below_half_to_go_on():
    """Each once, and again the next time."""
    inbox, told = Inbox(high=10), []
    inbox.on_high = lambda: told.append(("high", len(inbox)))
    inbox.on_low = lambda: told.append(("low", len(inbox)))
    for _ in range(2):
        for code in range(15):
            inbox.put(notice(code))
        while len(inbox):
            inbox.pop()
    assert told == [("high", 11), ("low", 4)] * 2


@given(st.integers(1, 20), st.lists(st.booleans(), max_size=200))
def test_the_source_is_never_left_stopped_with_an_empty_inbox(high, script):
    """Any order of putting and taking: once the inbox is empty the source runs."""
    inbox, stopped = Inbox(high), [False]
    inbox.on_high = lambda: stopped.__setitem__(0, True)
    inbox.on_low = lambda: stopped.__setitem__(0, False)
    for put in script:
        if put:
            inbox.put(notice(1))
        elif len(inbox):
            inbox.pop()
    while len(inbox):
        inbox.pop()
    assert stopped == [False]


async def test_the_inbox_wakes_its_reader():
    """One that waits gets the first event."""
    inbox = Inbox(10)
    async with asyncio.TaskGroup() as group:
        reading = group.create_task(inbox.get())
        await asyncio.sleep(1)
        inbox.put(notice(1))
        inbox.put(notice(2))
    assert reading.result() == notice(1)
    assert len(inbox) == 1
