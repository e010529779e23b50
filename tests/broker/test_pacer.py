"""How fast we talk: never above the rate in any second, urgent things first, orders never queued.

Goal: TWS never has reason to say "max rate exceeded", and no cancel or heartbeat waits behind requests. Method: any
sequence of messages and pauses on virtual time, which shows a timer that spins as a Livelock.
"""

from __future__ import annotations

import asyncio
import itertools

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.broker.pacer import BURST, WINDOW_S, Pacer
from ibkr_service.core.errors import Paced
from ibkr_service.sim.loop import run

CANCEL, ORDER, HEARTBEAT, REQUEST, HISTORY = "4\0", "3\0", "49\0", "9\0", "20\0"
DATA = "1\0"
URGENCY = {CANCEL: 0, ORDER: 1, HEARTBEAT: 2, REQUEST: 3, HISTORY: 4}
KINDS = st.sampled_from(list(URGENCY))
PAUSES = st.sampled_from([0.0, 0.0, 0.0, 0.0001, 0.024, 0.025, 0.3, 0.999, 1.0, 1.001, 2.5])


class Line:
    """A pacer, what left through it and when."""

    def __init__(self, rate_per_s, order_share=None):
        self.sent = []
        self.refused = 0
        self.pacer = Pacer(self._transmit, rate_per_s, order_share)

    def _transmit(self, message):
        self.sent.append((asyncio.get_running_loop().time(), message))

    def send(self, message):
        """Send; count a refusal. Whether it was accepted."""
        try:
            self.pacer.send(message)
        except Paced:
            self.refused += 1
            return False
        return True

    async def empty(self):
        """Let everything leave: the slowest line here sends one message a second."""
        await asyncio.sleep(2 * len(self.pacer))
        assert len(self.pacer) == 0

    def most_in_a_window(self):
        """The most messages within any second, as TWS may count."""
        times = [at_s for at_s, _ in self.sent]
        return max((sum(first <= other < first + WINDOW_S for other in times) for first in times), default=0)


@settings(deadline=None)
@given(
    st.integers(2, 50),
    st.lists(st.tuples(KINDS, PAUSES, st.integers(1, 30)), max_size=25),
    st.sampled_from([0.0, 1e-9, 12345.678, 1e9]),
)
def test_never_more_than_the_rate_in_any_second(rate, script, start_s):
    """Any mixture, any pauses, also after a year of uptime: the bound holds, all but refused orders leave, in time."""

    async def play():
        line, accepted = Line(rate), 0
        for kind, pause_s, count in script:
            accepted += sum(line.send(f"{kind}{number}") for number in range(count))
            await asyncio.sleep(pause_s)
        await line.empty()
        assert line.most_in_a_window() <= rate
        assert len(line.sent) == accepted

    run(play(), start_s=start_s)


@settings(deadline=None)
@given(st.integers(4, 50), st.lists(KINDS, min_size=1, max_size=150))
def test_what_waits_leaves_in_the_order_of_urgency(rate, kinds):
    """Sent in one instant: of what had to wait, cancels leave first, then heartbeats, requests and history."""

    async def play():
        line = Line(rate)
        while line.send(f"{REQUEST}filler") and len(line.pacer) == 0:
            pass  # up to the limit, so that all that follows waits, if it may
        at_once = len(line.sent)
        for number, kind in enumerate(kinds):
            line.send(f"{kind}{number}")
        await line.empty()
        waited = [m for at_s, m in line.sent[at_once:] if at_s > 0 and "filler" not in m]
        ranks = [(URGENCY[m.partition("\0")[0] + "\0"], int(m.partition("\0")[2])) for m in waited]
        assert ranks == sorted(ranks)
        assert not any(m.startswith(ORDER) for m in waited)

    run(play())


@given(st.integers(2, 50), st.integers(1, 200))
def test_an_order_leaves_now_or_never(rate, count):
    """As many as there is room for, in this very instant; the rest is refused, and nothing is left in the queue."""

    async def play():
        line = Line(rate)
        room = line.pacer.room_for_orders()
        for number in range(count):
            line.send(f"{ORDER}{number}")
        assert len(line.sent) == min(count, room) == min(count, rate)
        assert line.refused == count - len(line.sent)
        assert len(line.pacer) == 0
        assert line.pacer.room_for_orders() == rate - len(line.sent)

    run(play())


async def test_room_for_orders_is_kept_free_of_requests():
    """A thousand requests are waiting; an order still leaves at once, a quarter of the rate of them each second."""
    line = Line(40)
    for number in range(1_000):
        line.send(f"{REQUEST}{number}")
    for _ in range(10):
        await asyncio.sleep(1)
        assert sum(line.send(f"{ORDER}") for _ in range(10)) == 10
    assert line.most_in_a_window() <= 40


async def test_a_cancel_passes_hundreds_of_requests():
    """ib_insync's own throttle lets it wait four seconds."""
    line = Line(40)
    for number in range(200):
        line.send(f"{REQUEST}{number}")
    line.send(f"{CANCEL}7")
    assert line.sent[-1] == (0.0, f"{CANCEL}7")


async def test_a_cancel_waits_for_no_more_than_the_window():
    """Even when the second is full of orders; and no further order gets in before it."""
    line = Line(40)
    for number in range(40):
        line.send(f"{ORDER}{number}")
    line.send(f"{CANCEL}7")
    assert not line.send(f"{ORDER}late")
    await asyncio.sleep(WINDOW_S + 0.002)
    assert line.sent[-1][1] == f"{CANCEL}7"
    assert line.send(f"{ORDER}now")


async def test_a_heartbeat_is_not_starved_by_orders():
    """A strategy uses every place there is: the probe still leaves within a second, so the line is not given up."""
    line = Line(40)
    for number in range(40 * 20):
        line.send(f"{ORDER}{number}")
        if number % 200 == 100:
            asked_s = asyncio.get_running_loop().time()
            line.send(f"{HEARTBEAT}{asked_s}")
        await asyncio.sleep(1 / 80)
    beats = [(at_s, float(m.partition("\0")[2])) for at_s, m in line.sent if m.startswith(HEARTBEAT)]
    assert len(beats) == 4
    assert all(at_s - asked_s <= WINDOW_S + 0.01 for at_s, asked_s in beats)
    assert line.most_in_a_window() <= 40


async def test_requests_are_spread_evenly():
    """Once the first burst is a second old they leave at equal gaps, not in one lump a second."""
    line = Line(40)
    for number in range(100):
        line.send(f"{REQUEST}{number}")
    await line.empty()
    times = [at_s for at_s, _ in line.sent]
    assert times[:BURST] == [0.0] * BURST
    steady = [at_s for at_s in times if at_s > WINDOW_S]
    gaps = [later - earlier for earlier, later in itertools.pairwise(steady)]
    assert len(gaps) > 50
    assert max(gaps) < 0.1
    assert sum(gaps) / len(gaps) == pytest.approx(1 / 30, rel=0.1)


async def test_what_flowed_before_an_outage_is_asked_for_at_nearly_the_full_rate():
    """Until it has left, orders keep the room of a bracket in any second; afterwards, their quarter again."""
    line = Line(40)
    line.pacer.restore(100)
    line.pacer.restore(0)
    for number in range(100):
        line.send(f"{DATA}{number}")
    orders = 0
    while len(line.pacer):
        orders += line.send(f"{ORDER}{orders}")
        await asyncio.sleep(1 / 3)
    data = [at_s for at_s, message in line.sent if message.startswith(DATA)]
    assert data[-1] == pytest.approx(100 / 37, abs=0.15)
    assert orders >= 6
    assert line.most_in_a_window() <= 40
    await asyncio.sleep(2)
    began_s = asyncio.get_running_loop().time()
    for number in range(120):
        line.send(f"{DATA}{number}")
    await line.empty()
    data = [at_s for at_s, message in line.sent if message.startswith(DATA)]
    assert data[-1] - began_s == pytest.approx(120 / 30, abs=0.4)


async def test_what_is_given_up_before_it_was_asked_for_keeps_no_room_from_orders():
    """Lines that nobody wants any more: soon orders have their quarter again."""
    line = Line(40)
    line.pacer.restore(100)
    await asyncio.sleep(10)
    for number in range(100):
        line.send(f"{DATA}{number}")
    await asyncio.sleep(0.999)
    assert len(line.sent) == 30


async def test_a_closed_pacer_sends_nothing_more():
    """What waits is dropped; a request goes nowhere; an order is refused aloud, since it must not seem to have left."""
    line = Line(2)
    for number in range(10):
        line.send(f"{REQUEST}{number}")
    line.pacer.close()
    line.pacer.close()
    left = len(line.sent)
    line.pacer.send(f"{REQUEST}late")
    with pytest.raises(ConnectionError):
        line.pacer.send(f"{ORDER}late")
    await asyncio.sleep(60)
    assert len(line.sent) == left
    assert len(line.pacer) == 0


@pytest.mark.parametrize("rate", [1, 2, 3])
async def test_the_slowest_rates_still_let_everything_through(rate):
    """One message a second is slow, not stuck: ten take ten seconds."""
    line = Line(rate)
    for number in range(7):
        line.send(f"{REQUEST}{number}")
    for kind in (HISTORY, HEARTBEAT, CANCEL):
        line.send(f"{kind}1")
    await asyncio.sleep(10)
    assert len(line.sent) == 10
    assert line.most_in_a_window() <= rate


async def test_after_error_100_there_is_silence_and_then_less():
    """A second in which nothing leaves, no order is promised, and from then on a fifth fewer; never below a floor."""
    line = Line(40)
    line.send(f"{REQUEST}0")
    line.pacer.back_off()
    for number in range(200):
        line.send(f"{REQUEST}{number}")
    assert not line.send(f"{ORDER}1")
    await asyncio.sleep(WINDOW_S - 0.001)
    assert len(line.sent) == 1
    await asyncio.sleep(0.1)
    assert line.send(f"{ORDER}2")
    await line.empty()
    assert line.pacer.rate_per_s == 32
    assert line.most_in_a_window() <= 32
    for _ in range(50):
        line.pacer.back_off()
    assert line.pacer.rate_per_s == 5
