"""The budget of history against IB's limits, as the gateway keeps them.

Goal: whatever is asked in whatever order, the gateway has no reason to say 162, nobody starves, and who waits is seen.
Method: the budget under virtual time; every turn is shown to the simulated gateway's own `Pacing`.
"""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.broker.historybudget import HistoryBudget, Toll
from ibkr_service.sim.loop import SimLoop
from ibkr_service.sim.pacing import Pacing


def toll(name, *, same="", subject="", weight=1):
    """A request for small bars."""
    return Toll(name, same or name, subject or name, weight)


def now_s():
    """Virtual seconds."""
    return asyncio.get_running_loop().time()


class Clerk:
    """Takes turns one after the other or at once, and shows each to the gateway's limits."""

    def __init__(self, budget):
        self.budget = budget
        self.order = []
        self._pacing = Pacing()

    async def ask(self, toll, for_s=0.0):
        """Wait for a turn, and keep the request open for a while."""
        async with self.budget.turn(toll):
            self.order.append((toll.what, now_s()))
            if toll.weight:
                self._pacing.admit(1, now_s(), toll.identity, toll.subject, toll.weight)
            await asyncio.sleep(for_s)

    async def ask_all(self, tolls, for_s=0.0):
        """All at once."""
        async with asyncio.TaskGroup() as group:
            for each in tolls:
                group.create_task(self.ask(each, for_s))


@pytest.fixture
async def clerk():
    """A clerk with a fresh budget."""
    return Clerk(HistoryBudget())


async def test_sixty_in_ten_minutes(clerk):
    """The first sixty leave at once, the others as the ten minutes pass; in order."""
    await clerk.ask_all([toll(f"{n}") for n in range(130)])
    assert [name for name, _ in clerk.order] == [f"{n}" for n in range(130)]
    times = [at_s for _, at_s in clerk.order]
    assert times[49] == 0.0
    assert times[59] == 0.0
    assert 600 < times[60] < 602
    assert 1_200 < times[120] < 1_203


async def test_bid_ask_counts_twice_and_does_not_starve(clerk):
    """Half as many; and one that needs two places is not overtaken for ever by those that need one."""
    await clerk.ask_all([toll(f"{n}", weight=2) for n in range(29)])
    await clerk.ask(toll("single"))
    async with asyncio.TaskGroup() as group:
        group.create_task(clerk.ask(toll("double", weight=2)))
        await asyncio.sleep(1)
        group.create_task(clerk.ask(toll("later")))
    assert [name for name, _ in clerk.order][-2:] == ["double", "later"]
    assert clerk.order[-1][1] >= clerk.order[-2][1] > 600


async def test_the_same_request_waits_fifteen_seconds_and_lets_others_pass(clerk):
    """One that waits for itself only holds up nobody."""
    await clerk.ask(toll("a"))
    await clerk.ask_all([toll("again", same="a", subject="a"), toll("b")])
    assert [name for name, _ in clerk.order] == ["a", "b", "again"]
    assert 15 < clerk.order[-1][1] < 16


async def test_six_for_one_contract_within_two_seconds_are_too_many(clerk):
    """The sixth waits."""
    await clerk.ask_all([toll(f"{n}", subject="AAPL") for n in range(12)])
    times = [at_s for _, at_s in clerk.order]
    assert times[4] == 0.0
    assert 2 < times[5] < 3
    assert 4 < times[10] < 6


async def test_fifty_open(clerk):
    """Requests that do not count are still open; whoever leaves makes room at once."""
    await clerk.ask_all([Toll(f"{n}", weight=0) for n in range(120)], for_s=7.0)
    times = [at_s for _, at_s in clerk.order]
    assert times[49] == 0.0
    assert times[50] == times[99] == 7.0
    assert times[100] == 14.0
    assert clerk.budget.opened == 0


async def test_big_bars_do_not_wait_for_small_ones(clerk):
    """The ten minutes are used up; what does not count passes."""
    await clerk.ask_all([toll(f"{n}") for n in range(60)])
    async with asyncio.TaskGroup() as group:
        group.create_task(clerk.ask(toll("small")))
        await asyncio.sleep(0)
        await clerk.ask(Toll("minutes", weight=0))
        assert now_s() == 0.0
        (waiting,) = clerk.budget.waiting
        assert waiting.what == "small"
        assert waiting.left_s == pytest.approx(600.5)
        await asyncio.sleep(100)
        (waiting,) = clerk.budget.waiting
        assert (waiting.waited_s, waiting.left_s) == (pytest.approx(100), pytest.approx(500.5))


async def test_who_gives_up_gives_back(clerk):
    """A cancelled wait leaves no trace; one cancelled at the moment of its turn, none either."""
    budget = clerk.budget
    await clerk.ask_all([toll(f"{n}") for n in range(60)])
    waits = [asyncio.create_task(clerk.ask(toll(f"w{n}"))) for n in range(3)]  # noqa: TID251 - awaited below
    await asyncio.sleep(10)
    waits[0].cancel()
    await asyncio.sleep(0)
    assert [waiting.what for waiting in budget.waiting] == ["w1", "w2"]
    asyncio.get_running_loop().call_at(600.5, waits[1].cancel)
    await asyncio.gather(*waits, return_exceptions=True)
    assert [name for name, _ in clerk.order][60:] == ["w2"]
    assert budget.opened == 0
    assert budget.waiting == []


async def test_backing_off_holds_up_what_counts(clerk):
    """After a 162 nobody who counts asks for a while."""
    clerk.budget.back_off(30)
    await clerk.ask_all([toll("small"), Toll("minutes", weight=0)])
    assert clerk.order == [("minutes", 0.0), ("small", 30.0)]


REQUESTS = st.lists(
    st.tuples(
        st.floats(0, 30), st.sampled_from("abc"), st.sampled_from("12"), st.sampled_from([1, 1, 2]), st.floats(0, 5)
    ),
    max_size=90,
)


@settings(max_examples=40, deadline=None)
@given(REQUESTS)
def test_the_gateway_never_has_to_say_162(requests):
    """Any requests at any time: each gets its turn, and none breaks a limit."""

    async def live():
        clerk = Clerk(HistoryBudget())
        async with asyncio.TaskGroup() as group:
            for wait_s, subject, rest, weight, for_s in requests:
                group.create_task(clerk.ask(toll("x", same=subject + rest, subject=subject, weight=weight), for_s))
                await asyncio.sleep(wait_s)
        assert len(clerk.order) == len(requests)
        assert clerk.budget.opened == 0

    loop = SimLoop()
    try:
        loop.run_until_complete(live())
    finally:
        loop.close()
