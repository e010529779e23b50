"""Each scenario of requests and limits against the whole service: real ib_insync, simulated gateway, virtual time.

Goal: what each scenario expects of the service, in the words of its row. Method: as in `test_scenarios_line`; where the
gateway is feared for a limit, a service without its budget shows that the limit is there.
"""

from __future__ import annotations

import asyncio
from datetime import timedelta
from itertools import pairwise

import pytest

from ibkr_service.broker import lines
from ibkr_service.broker.historybudget import HistoryBudget
from ibkr_service.core import events as ev
from ibkr_service.core.errors import BrokerRefused, Refused, RequestTimeout, ServiceError
from ibkr_service.core.instrument import Bag, Forex, Stock
from ibkr_service.core.intent import Intent
from ibkr_service.core.link import Link
from ibkr_service.core.orders import OrderState
from ibkr_service.sim.messages import Request
from ibkr_service.sim.pacing import VIOLATION
from ibkr_service.sim.scenarios import SECTIONS
from ibkr_service.sim.scenarios.requests import GARBAGE, LINES
from tests.scenes import AAPL, EURUSD, MSFT, scene

MANY = [Stock(s) for s in ("AAPL", "MSFT", "GOOGL", "AMZN", "TSLA", "NVDA", "META", "JPM", "V", "WMT", "XOM", "IBM")]


def notices(at, code):
    return [notice for notice in at.world.of(ev.BrokerNotice) if notice.code == code]


async def ask_for_much(at):
    """More questions at once than a second has room for; each is answered."""
    async with asyncio.TaskGroup() as asking:
        for number in range(200):
            stock = MANY[number % len(MANY)]
            asking.create_task(at.desk.request("reqContractDetailsAsync", stock, timeout_s=60))


async def test_pacing_100(tmp_path):
    """With our pacer the gateway never complains, and an order does not wait for two hundred questions."""
    async with scene("pacing-100", tmp_path) as at:
        async with asyncio.TaskGroup() as asking:
            asking.create_task(ask_for_much(at))
            await asyncio.sleep(0.5)
            began_s = at.world.now_s
            at.desk.submit(at.low())
            await at.until(lambda: at.asked(Request.PLACE_ORDER), "the order", 5)
            assert at.world.now_s - began_s < 0.2
        assert at.asked(Request.CONTRACT_DETAILS) >= 200
        assert notices(at, 100) == []
        assert at.links() == [Link.SYNCING, Link.READY]


async def test_pacing_100_without_the_pacer(tmp_path):
    """Then it does complain, and we slow down before it hangs up."""
    async with scene("pacing-100", tmp_path, max_rate_per_s=10_000) as at:
        with pytest.raises(ExceptionGroup) as failed:
            await ask_for_much(at)
        assert failed.group_contains(ServiceError)
        assert notices(at, 100)
        assert at.world.app.session._connection.ib.client.pacer.rate_per_s < 10_000


async def test_lines_101(tmp_path):
    """The budget learns the cap; who has to wait is told once; what trades comes first; all flow in the end."""
    async with scene("lines-101", tmp_path) as at:
        for each in MANY:
            at.desk.watch(each)
        await asyncio.sleep(30)
        assert at.world.app.session.lines.cap == LINES
        waiting = [event.instrument for event in at.trader.of(ev.SubscriptionWaiting)]
        flowing = [each for each in MANY if at.book.quote(each)]
        assert len(flowing) == LINES
        assert sorted(map(str, waiting + flowing)) == sorted(map(str, MANY))
        # A quote that somebody waits for, and the quote of a working order, take turns with what is only watched.
        assert (await at.desk.first_quote(EURUSD, 30)).bid
        urgent = waiting[-1]
        await at.desk.qualify(urgent)
        at.desk.submit(Intent.buy(urgent, 1, limit="10", tif="GTC"))
        await at.flows(urgent, within_s=lines.LOOK_S + 20)
        await asyncio.sleep(300)
        assert len(at.trader.of(ev.SubscriptionWaiting)) <= len(MANY) + 2
        assert len(notices(at, 101)) < 30
        await at.play_out()
        await at.flows(*MANY, within_s=600)
        assert all(at.told(ev.SubscriptionFailed, each) == [] for each in MANY)


async def test_historical_162(tmp_path):
    """It is asked for again after a pause, and the answer is whole."""
    async with scene("historical-162", tmp_path) as at:
        bars = await at.desk.history(EURUSD, "1 min", days=0.1)
        assert len(bars) > 100
        assert at.asked(Request.HISTORICAL_DATA) == 3
        asked_s = [heard.at_s for heard in at.world.heard if heard.request is Request.HISTORICAL_DATA]
        assert all(later - earlier >= 10 for earlier, later in pairwise(asked_s))


async def test_historical_162_that_does_not_end(tmp_path):
    """A typed error, in the end."""
    async with scene("historical-162", tmp_path) as at:
        at.world.faults.fail("historicalData", 162, VIOLATION)
        with pytest.raises(BrokerRefused) as refused:
            await at.desk.history(EURUSD, "1 min", days=0.1)
        assert refused.value.code == 162
        assert at.asked(Request.HISTORICAL_DATA) < 10


@pytest.mark.parametrize("has_budget", [True, False])
async def test_historical_162_is_prevented(tmp_path, monkeypatch, has_budget):
    """Seventy requests for small bars at once: with the budget IB's own limit is never met; without it, it is."""
    if not has_budget:
        monkeypatch.setattr(HistoryBudget, "_free_s", lambda *_: 0.0)
    async with scene("pacing-100", tmp_path) as at:
        pairs = [Forex(symbol, "USD") for symbol in ("EUR", "GBP", "AUD", "NZD")]
        for pair in pairs:
            await at.desk.qualify(pair)
        now = at.world.config.gateway.started_at
        wanted = [
            at.desk.history(pairs[number % 4], "10 secs", end=now - timedelta(minutes=number), days=0.01)
            for number in range(70)
        ]
        answers = await asyncio.gather(*wanted, return_exceptions=True)
        assert all(isinstance(answer, (list, ServiceError)) for answer in answers)
        assert has_budget <= all(isinstance(answer, list) for answer in answers)
    assert bool(notices(at, 162)) is not has_budget


async def test_bag_details_hang(tmp_path):
    """A typed timeout; a combination is traded all the same, since its legs are looked up."""
    async with scene("bag-details-hang", tmp_path) as at:
        bag = Bag("AAPL", "USD", ((265598, 1, "BUY"), (272093, 1, "SELL")))
        began_s = at.world.now_s
        with pytest.raises(RequestTimeout):
            await at.desk.request("reqContractDetailsAsync", bag, timeout_s=12)
        assert at.world.now_s - began_s < 13
        assert at.book.link is Link.READY
        assert await at.desk.qualify(AAPL)


async def test_no_permission(tmp_path):
    """A typed error for a question; a watcher is told once a code; data flows as soon as it is permitted."""
    async with scene("no-permission", tmp_path) as at:
        with pytest.raises(BrokerRefused) as refused:
            await at.desk.first_quote(AAPL)
        assert refused.value.code == 354
        at.desk.watch(AAPL)
        at.desk.watch(EURUSD)
        await at.flows(EURUSD)
        with pytest.raises(Refused, match="quote"):
            at.desk.submit(Intent.buy(AAPL, 1))
        await at.play_out()
        await at.flows(AAPL, within_s=90)
        codes = [failed.code for failed in at.told(ev.SubscriptionFailed, AAPL)]
        assert codes == [354, 10089, 10168]
        assert at.told(ev.SubscriptionFailed, EURUSD) == []


async def test_no_permission_but_delayed_data(tmp_path):
    """Delayed data is marked as delayed, and no order is priced by it."""
    async with scene("no-permission", tmp_path, market_data_type=3) as at:
        at.desk.watch(AAPL)
        await at.until(lambda: at.told(ev.Tick, AAPL), "delayed data", 400)
        assert {tick.data_type for tick in at.told(ev.Tick, AAPL)} == {"delayed"}
        assert notices(at, 10167)
        assert at.desk.why_unusable(AAPL)
        with pytest.raises(Refused, match="delayed"):
            at.desk.submit(Intent.buy(AAPL, 1))


async def test_late_greeks(tmp_path):
    """The chain is complete at its deadline: greeks that are not there are None, or computed and marked."""
    async with scene("late-greeks", tmp_path, quiet=False) as at:
        wanted = {"expiries": 1, "strikes": 4}
        patient = await at.desk.option_chain(AAPL, **wanted, deadline_s=30, compute=False)
        assert patient.missing == ()
        assert all(row.delta is not None and not row.greeks.computed for row in patient.rows)

        began_s = at.world.now_s
        hasty = await at.desk.option_chain(AAPL, **wanted, deadline_s=6, compute=False)
        assert at.world.now_s - began_s < 7
        assert all(row.bid is not None and row.delta is None and "greeks" in row.missing for row in hasty.rows)

        computed = await at.desk.option_chain(AAPL, **wanted, deadline_s=6, compute=True)
        assert all(row.delta is not None and row.greeks.computed for row in computed.rows)

        await at.until(lambda: at.world.gateway.misfortunes.lost_answers, "never", 500)
        never = await at.desk.option_chain(AAPL, **wanted, deadline_s=30, compute=False)
        assert all(row.bid is not None and row.delta is None for row in never.rows)


async def test_bogus_200(tmp_path):
    """Good contracts that were called unknown are asked for again, never given up."""
    async with scene("bogus-200", tmp_path, starts=False) as at:
        await at.until(lambda: at.trader.was_started, "the strategy")
        for each in (AAPL, MSFT, EURUSD):
            at.desk.watch(each)
        await at.flows(AAPL, MSFT, EURUSD, within_s=90)
        ref = at.desk.submit(at.low())
        await at.play_out()
        await at.flows(AAPL, MSFT, EURUSD, within_s=90)
        assert {failed.code for failed in at.trader.of(ev.SubscriptionFailed)} == {200}
        assert at.book.orders[ref].state is OrderState.WORKING
        assert await at.desk.qualify(AAPL)
        at.world.check_agreement()


async def test_garbage(tmp_path):
    """On record, compared with the broker, and the stream goes on."""
    async with scene("garbage", tmp_path, quiet=False) as at:
        at.desk.watch(EURUSD)
        ref = at.desk.submit(at.low())
        await at.play_out()
        faults = at.world.of(ev.LibraryFault)
        assert len(faults) >= len(GARBAGE) - 1
        looks = [look.at for look in at.world.of(ev.Snapshot)]
        assert all(any(0 <= (look - fault.at).total_seconds() < 30 for look in looks) for fault in faults)
        await asyncio.sleep(5)
        newest = at.book.quote(EURUSD)
        assert at.world.now_s - newest.mono_s < 5
        assert at.book.orders[ref].state is OrderState.WORKING
        at.world.check_agreement()


def test_every_scenario_of_the_section_is_tested():
    """A row without a test is a promise without a proof."""
    names = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    assert {scenario.name for scenario in SECTIONS["requests and limits"]} <= names
