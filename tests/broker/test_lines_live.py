"""Market-data lines on the wire: the real ib_insync against the simulated gateway, in virtual time.

Goal: what the service believes to have subscribed is what the gateway serves, whatever goes wrong, and nobody is left
without an answer.
Method: a whole service in a `World`; the strategy only lends its desk to the test. After each test the gateway's lines
are compared with ours and with the library's tickers.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from dataclasses import replace
from decimal import Decimal as D
from types import SimpleNamespace

import pytest

from ibkr_service.broker.line import LineState
from ibkr_service.broker.lines import LOOK_S, RETRY_S
from ibkr_service.core import events as ev
from ibkr_service.core.errors import BrokerRefused, DeskClosed, NoLineFree, NotReady, RequestTimeout, UnknownInstrument
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.core.orders import Intent
from ibkr_service.sim import GatewayConfig, answers
from ibkr_service.sim.marketdata import STREAM, lines_used
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.wire import frame
from ibkr_service.supervisor import StrategySpec
from tests.world import EPOCH, World, WorldConfig

EUR, JPY = Forex("EUR", "USD"), Forex("USD", "JPY")
AAPL, MSFT, IBM, NOSUCH = Stock("AAPL"), Stock("MSFT"), Stock("IBM"), Stock("NOSUCH")
BID, HALTED = 1, 49
TICK_GENERIC_VERSION = 6


class Holder:
    """A strategy that does nothing by itself: the test holds its desk, and sees what it reads."""

    def __init__(self):
        self.desk = None
        self.seen = []

    async def run(self, desk):
        """Read until stopped."""
        self.desk = desk
        async for event in desk.events():
            self.seen.append(event)

    def about(self, instrument, *kinds):
        """What it has read of an instrument; of these kinds, if any are named."""
        found = [event for event in self.seen if getattr(event, "instrument", None) == instrument]
        return [event for event in found if not kinds or isinstance(event, kinds)]

    def story(self, instrument):
        """What it has read of an instrument by name; ticks in a row are one."""
        names = [type(event).__name__ for event in self.about(instrument)]
        return [name for i, name in enumerate(names) if name != "Tick" or i == 0 or names[i - 1] != "Tick"]


def subscribed(world):
    """The request ids of the gateway's market-data lines."""
    return {number for session in world.gateway.sessions for kind, number in session.streams if kind == STREAM}


def check_lines(world):
    """What the gateway serves is what we believe; the library keeps no ticker beyond it."""
    lines, connection = world.app.session.lines, world.app.session._connection
    taken = {line.request for line in lines if line.state in {LineState.REQUESTED, LineState.LIVE}}
    assert subscribed(world) == taken
    refused = {line.request for line in lines if line.state is LineState.FAILED and line.request >= 0}
    wrapper = connection.ib.wrapper
    assert set(wrapper.reqId2Ticker) == taken | refused
    assert len(wrapper.tickers) == len(wrapper.ticker2ReqId["mktData"]) == len(taken | refused)


async def play(tmp_path, scenario, *, strategies=1, gateway=None, session=None):
    """Run a scenario in a world that is READY, with its strategies at their desks; compare the lines at the end."""
    holders = [Holder() for _ in range(strategies)]
    config = WorldConfig(
        folder=tmp_path,
        gateway=GatewayConfig(started_at=EPOCH, **(gateway or {})),
        strategies=[StrategySpec(f"s{number}", holder.run) for number, holder in enumerate(holders)],
    )
    config = replace(config, session=replace(config.session, **(session or {})))
    async with World(config) as world:
        await world.until_ready()
        await world.until(lambda: all(holder.desk for holder in holders))
        await scenario(world, *holders)
        if world.app.session._connection is not None and world.app.session._connection.ready:
            await asyncio.sleep(1)
            check_lines(world)


def flows(holder, instrument):
    """Whether a quote of it may price an order at this moment."""
    return holder.desk.why_unusable(instrument) is None


# --- one line, many readers ------------------------------------------------------------------------------------------


async def test_two_strategies_and_a_question_share_one_line(tmp_path):
    """One request reaches the gateway; the second reader has the newest quote at once; the last to leave ends it."""

    async def scenario(world, one, other):
        one.desk.watch(AAPL)
        await world.until(lambda: flows(one, AAPL))
        other.desk.watch(AAPL)
        await asyncio.sleep(0)
        assert other.about(AAPL)[0] in one.about(AAPL)
        assert (await one.desk.first_quote(AAPL)).bid is not None
        async with one.desk.every_tick(AAPL) as ticks:
            assert isinstance(await ticks.get(), ev.RawTick)
            assert lines_used(world.gateway) == 1
        one.desk.unwatch(AAPL)
        await asyncio.sleep(5)
        assert lines_used(world.gateway) == 1
        other.desk.unwatch(AAPL)
        await asyncio.sleep(5)
        assert lines_used(world.gateway) == 0

    await play(tmp_path, scenario, strategies=2)


async def test_a_watch_that_ends_before_the_contract_is_known_leaves_nothing(tmp_path):
    """And one that begins again at once has one line."""

    async def scenario(world, one):
        for _ in range(3):
            one.desk.watch(AAPL)
            await asyncio.sleep(0.5)
            one.desk.unwatch(AAPL)
        await asyncio.sleep(20)
        assert lines_used(world.gateway) == 0
        one.desk.watch(AAPL)
        one.desk.unwatch(AAPL)
        one.desk.watch(AAPL)
        await world.until(lambda: flows(one, AAPL))
        assert lines_used(world.gateway) == 1

    await play(tmp_path, scenario, gateway={"latency": {"reqContractDetails": (2, 5)}})


async def test_a_question_that_is_given_up_leaves_nothing(tmp_path):
    """Cancelled at any moment of it."""

    async def scenario(world, one):
        for after_s in (0.0, 0.5, 1.0, 1.5, 2.5):
            asking = asyncio.get_running_loop().create_task(one.desk.first_quote(AAPL))
            await asyncio.sleep(after_s)
            asking.cancel()
            with suppress(asyncio.CancelledError):
                await asking
        await asyncio.sleep(20)
        assert lines_used(world.gateway) == 0

    await play(tmp_path, scenario, gateway={"latency": {"reqContractDetails": (1, 1), "reqMktData": (1, 1)}})


async def test_questions_for_many_leave_nothing(tmp_path):
    """More questions than lines, all at once: each is answered, one after the other gives its line back."""

    async def scenario(world, one):
        pairs = [Forex(symbol, "USD") for symbol in ("EUR", "GBP", "AUD", "NZD")] + [AAPL, MSFT, IBM]
        async with asyncio.TaskGroup() as group:
            quotes = [group.create_task(one.desk.first_quote(instrument, 60)) for instrument in pairs]
        assert [quote.result().instrument for quote in quotes] == pairs
        await asyncio.sleep(5)
        assert lines_used(world.gateway) == 0

    await play(tmp_path, scenario, gateway={"market_data_lines_max": 2})


# --- the budget ------------------------------------------------------------------------------------------------------


async def test_error_101_teaches_how_many_lines_there_are(tmp_path):
    """Who got none is told; asked again once a minute, and served as soon as the gateway grants more or one is free."""

    async def scenario(world, one):
        everything = (EUR, JPY, AAPL, MSFT)
        for instrument in everything:
            one.desk.watch(instrument)
        await asyncio.sleep(5)
        assert world.app.session.lines.cap == lines_used(world.gateway) == 2
        waiting = [event.instrument for event in world.of(ev.SubscriptionWaiting)]
        assert len(waiting) == 2
        refusals = len([notice for notice in world.of(ev.BrokerNotice) if notice.code == 101])
        await asyncio.sleep(10 * RETRY_S)
        assert len([notice for notice in world.of(ev.BrokerNotice) if notice.code == 101]) <= refusals + 10
        assert len(world.of(ev.SubscriptionWaiting)) == 2
        assert world.of(ev.Gap) == world.of(ev.SubscriptionFailed) == []
        one.desk.unwatch(next(instrument for instrument in everything if instrument not in waiting))
        await world.until(lambda: any(flows(one, instrument) for instrument in waiting), 5)
        world.gateway.config = replace(world.gateway.config, market_data_lines_max=10)
        await world.until(lambda: all(flows(one, instrument) for instrument in waiting), 3 * RETRY_S)

    await play(tmp_path, scenario, gateway={"market_data_lines_max": 2})


async def test_a_gateway_without_a_single_line_is_not_asked_without_end(tmp_path):
    """Another client of the login has them all: one request a minute."""

    async def scenario(world, one):
        one.desk.watch(EUR)
        one.desk.watch(AAPL)
        await asyncio.sleep(10 * RETRY_S)
        assert len([notice for notice in world.of(ev.BrokerNotice) if notice.code == 101]) <= 12
        with pytest.raises(NoLineFree, match="none of the 0 market-data lines"):
            await one.desk.first_quote(MSFT, 5)

    await play(tmp_path, scenario, gateway={"market_data_lines_max": 0})


async def test_who_asks_for_a_quote_gets_a_line_from_who_watches(tmp_path):
    """The watcher has a gap, is told that it waits, and has its line back when the question is answered."""

    async def scenario(world, one):
        one.desk.watch(EUR)
        one.desk.watch(AAPL)
        await world.until(lambda: flows(one, EUR) and flows(one, AAPL))
        assert (await one.desk.first_quote(MSFT)).instrument == MSFT
        await world.until(lambda: flows(one, AAPL))
        assert one.story(AAPL) == ["Tick", "Gap", "SubscriptionWaiting", "Resumed", "Tick"]
        assert one.story(EUR) == ["Tick"]

    await play(tmp_path, scenario, session={"market_data_lines": 2})


async def test_a_working_order_needs_its_quote_more_than_a_watch(tmp_path):
    """What waits for a line gets one within seconds after an order was sent; a position comes before an order."""

    async def scenario(world, one):
        for instrument in (EUR, AAPL, JPY):
            one.desk.watch(instrument)
        await world.until(lambda: flows(one, EUR) and flows(one, AAPL))
        away = {"action": "BUY", "quantity": D(1_000), "order_type": "LMT"}
        one.desk.submit(Intent(instrument=JPY, limit_price=D(1), **away))
        await world.until(lambda: flows(one, JPY), 2 * LOOK_S)
        assert not flows(one, AAPL)
        one.desk.watch(MSFT)
        ref = one.desk.submit(Intent(instrument=MSFT, limit_price=D(1000), **(away | {"quantity": D(1)})))
        await one.desk.finished(ref)
        one.desk.submit(Intent(instrument=EUR, limit_price=D("0.5"), **away))
        await world.until(lambda: flows(one, MSFT), 2 * LOOK_S)
        assert len([instrument for instrument in (EUR, JPY) if flows(one, instrument)]) == 1

    await play(tmp_path, scenario, session={"market_data_lines": 2})


async def test_a_slow_pacer_does_not_make_a_request_look_silent(tmp_path):
    """A request that waits for its turn is not asked for again before it has left."""

    async def scenario(world, one):
        heard = []
        dispatch = world.gateway.dispatch
        world.gateway.dispatch = lambda session, values: (heard.append(int(values[0])), dispatch(session, values))
        for symbol in ("AAPL", "MSFT", "IBM", "AMZN", "NVDA", "META", "TSLA", "JPM", "XOM", "KO", "QCOM", "WMT"):
            for _ in range(4):
                world.app.session._connection.ib.client.send(9, 8, 1, "")
            one.desk.watch(Stock(symbol))
        await asyncio.sleep(200)
        assert heard.count(Request.MKT_DATA) == 12

    await play(tmp_path, scenario, session={"max_rate_per_s": 2})


# --- interruptions ---------------------------------------------------------------------------------------------------


async def cut(world, *, kept):
    """The gateway loses Interactive Brokers for a minute."""
    world.faults.cut()
    await asyncio.sleep(60)
    world.faults.restore(data_kept=kept)
    await world.until_ready()


async def lose_socket(world):
    """The connection breaks."""
    session = world.app.book.session
    world.faults.drop()
    await world.until(lambda: world.app.book.session > session, 60)
    await world.until_ready()


@pytest.mark.parametrize(
    ("what", "requests"),
    [(lambda world: cut(world, kept=True), 1), (lambda world: cut(world, kept=False), 2), (lose_socket, 2)],
    ids=["1102", "1101", "socket"],
)
async def test_an_interruption_is_one_gap_and_leaves_one_line(tmp_path, what, requests):
    """Whatever the cause; nothing from before it is left at the gateway or in the library; epochs tell apart."""

    async def scenario(world, one):
        asked = []
        dispatch = world.gateway.dispatch
        world.gateway.dispatch = lambda session, values: (asked.append(int(values[0])), dispatch(session, values))
        one.desk.watch(EUR)
        async with one.desk.every_tick(JPY) as stream:
            await world.until(lambda: flows(one, EUR) and len(stream))
            await what(world)
            await world.until(lambda: flows(one, EUR), 20)
            await asyncio.sleep(30)
            assert one.story(EUR) == ["Tick", "Gap", "Resumed", "Tick"]
            assert [tick.epoch for tick in one.about(EUR, ev.Tick)][:: len(one.about(EUR, ev.Tick)) - 1] == [0, 1]
            items = [await stream.get() for _ in range(len(stream))]
            marks = [(type(item), item.epoch) for item in items if not isinstance(item, ev.RawTick)]
            assert marks == [(ev.Gap, 1), (ev.Resumed, 1)]
            assert items[-1].epoch == 1
            check_lines(world)
        assert asked.count(Request.MKT_DATA) == 2 * requests

    await play(tmp_path, scenario)


@pytest.mark.parametrize("after_s", [0.0, 0.5, 1.5, 2.5, 3.5])
@pytest.mark.parametrize("kept", [True, False], ids=["1102", "1101"])
async def test_a_cut_in_the_middle_of_a_request_leaves_one_line(tmp_path, kept, after_s):
    """While the contract is looked up, while the request is under way: the gateway may pass it on after the cut."""

    async def scenario(world, one):
        one.desk.watch(AAPL)
        await asyncio.sleep(after_s)
        world.faults.cut()
        await asyncio.sleep(10)
        world.faults.restore(data_kept=kept)
        await world.until_ready()
        await world.until(lambda: flows(one, AAPL), 60)
        await asyncio.sleep(30)
        check_lines(world)

    slow = {"latency": {"reqContractDetails": (2, 2), "reqMktData": (1, 1), "reqPositions": (0, 3)}}
    await play(tmp_path, scenario, gateway=slow)


@pytest.mark.parametrize("kept", [True, False])
async def test_a_request_that_a_cut_gateway_keeps_and_nobody_wants_any_more_leaves_no_line(tmp_path, kept):
    """Its cancel finds nothing (300) during the cut; the gateway carries the request out when it is over."""

    async def scenario(world, holder):
        await holder.desk.qualify(IBM)
        holder.desk.watch(EUR)
        await world.until(lambda: holder.desk.why_unusable(EUR) is None, 20)
        holder.desk.watch(IBM)  # leaves before the gateway can say that it is cut off
        world.faults.cut()
        await asyncio.sleep(20)
        holder.desk.unwatch(IBM)
        await asyncio.sleep(20)
        world.faults.restore(data_kept=kept)
        await world.until_ready()
        await world.until(lambda: holder.desk.why_unusable(EUR) is None, 30)
        assert any(notice.code == 300 for notice in world.of(ev.BrokerNotice))
        assert lines_used(world.gateway) == 1

    await play(tmp_path, scenario)


async def test_an_answer_from_before_lost_data_asks_for_no_second_line(tmp_path):
    """The contract is looked up twice, before and after 1101; both answers come when the link is READY again."""

    async def scenario(world, one):
        one.desk.watch(AAPL)
        await asyncio.sleep(1)
        world.faults.cut()
        world.faults.restore(data_kept=False)
        await world.until_ready()
        await world.until(lambda: flows(one, AAPL), 60)
        await asyncio.sleep(30)
        check_lines(world)

    await play(tmp_path, scenario, gateway={"latency": {"reqContractDetails": (10, 10)}})


async def test_a_farm_outage_makes_quotes_unusable_and_its_end_usable(tmp_path):
    """2103 touches what this farm may serve; the same subscription goes on after 2104, or is made anew."""

    async def scenario(world, one):
        one.desk.watch(AAPL)
        one.desk.watch(EUR)
        await world.until(lambda: flows(one, AAPL) and flows(one, EUR))
        world.faults.farm_down()
        await asyncio.sleep(0.1)
        assert "usfarm is down" in one.desk.why_unusable(AAPL)
        with pytest.raises(RequestTimeout):
            await one.desk.first_quote(AAPL, 5)
        await asyncio.sleep(300)
        assert not flows(one, AAPL)
        assert one.about(EUR, ev.Gap) == []
        world.faults.farm_up()
        await world.until(lambda: flows(one, AAPL), 20)
        assert one.story(AAPL) == ["Tick", "Gap", "Resumed", "Tick"]

    await play(tmp_path, scenario)


async def test_a_farm_that_sleeps_after_an_outage_is_not_down(tmp_path):
    """2108 in place of 2104: it is there, and wakes up when it is asked for something."""

    async def scenario(world, one):
        one.desk.watch(AAPL)
        await world.until(lambda: flows(one, AAPL))
        (session,) = world.gateway.sessions
        world.faults.farm_down()
        await asyncio.sleep(60)
        world.gateway.farm_is_down = False
        asleep = "Market data farm connection is inactive but should be available upon demand.usfarm"
        session.send(answers.error(-1, 2108, asleep, session.version))
        await world.until(lambda: flows(one, AAPL), 20)
        assert world.app.session.lines.farms_down == set()

    await play(tmp_path, scenario)


@pytest.mark.parametrize("back", [True, False])
async def test_a_farm_that_is_back_with_the_line_is_not_down(tmp_path, back):
    """2103, 1100, and the 1102 names the farm: no 2104 comes. If it is named as missing, it is waited for."""

    async def scenario(world, one):
        one.desk.watch(AAPL)
        await world.until(lambda: flows(one, AAPL))
        world.faults.farm_down()
        await asyncio.sleep(5)
        world.faults.cut()
        await asyncio.sleep(60)
        world.gateway.farm_is_down = not back
        world.faults.restore(data_kept=True)
        await world.until_ready(60)
        await asyncio.sleep(60)
        assert flows(one, AAPL) == back
        assert bool(world.app.book.farms_down) != back
        assert bool(world.app.session.lines.farms_down) != back
        world.faults.farm_up()
        await world.until(lambda: flows(one, AAPL), 20)
        assert not world.app.book.farms_down

    await play(tmp_path, scenario)


async def test_a_farm_of_history_is_back_with_all_the_others(tmp_path):
    """2105, and a 1102 that says "all" without their names."""

    async def scenario(world, _one):
        (session,) = world.gateway.sessions

        def say(code, text):
            session.send(answers.error(-1, code, text, session.version))

        say(2105, "HMDS data farm connection is broken:ushmds")
        await world.until(lambda: set(world.app.book.farms_down) == {"ushmds"})
        say(1100, "Connectivity between IB and Trader Workstation has been lost.")
        say(1102, "Connectivity has been restored - data maintained. All data farms are connected.")
        await world.until(lambda: not world.app.book.farms_down, 60)

    await play(tmp_path, scenario)


async def test_a_quote_of_before_the_outage_is_not_usable_after_it(tmp_path):
    """A tick in the very chunk of the 2103, and greeks or sizes while the farm is down, resume nothing."""

    async def scenario(world, one):
        one.desk.watch(AAPL)
        await world.until(lambda: flows(one, AAPL))
        (session,) = world.gateway.sessions
        (request,) = subscribed(world)
        world.gateway.farm_is_down = True
        last = answers.tick_price(request, BID, one.desk.quote(AAPL).bid, 500)
        session.send(last + answers.error(-1, 2103, "Market data farm connection is broken:usfarm", session.version))
        await asyncio.sleep(1)
        session.send(answers.tick_size(request, 8, 12345))
        await asyncio.sleep(1)
        assert "usfarm is down" in one.desk.why_unusable(AAPL)
        assert one.story(AAPL) == ["Tick", "Gap"]
        world.faults.farm_up()
        await world.until(lambda: flows(one, AAPL), 20)

    await play(tmp_path, scenario)


# --- refusals --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("instrument", "permission", "data_type", "code", "error"),
    [
        (NOSUCH, "live", 1, 200, UnknownInstrument),
        (AAPL, "none", 1, 354, BrokerRefused),
        (AAPL, "delayed", 1, 10089, BrokerRefused),
    ],
)
async def test_a_refusal_is_told_once_and_never_costs_a_line(tmp_path, instrument, permission, data_type, code, error):
    """To who watches as an event, to who asks as an error; it is tried again every minute."""

    async def scenario(world, one):
        one.desk.watch(instrument)
        one.desk.watch(EUR)
        await asyncio.sleep(5 * RETRY_S)
        assert [event.code for event in one.about(instrument)] == [code]
        assert one.desk.quote(instrument) is None
        with pytest.raises(error, match=str(code)):
            await one.desk.first_quote(instrument)
        assert [event.code for event in one.about(instrument)] == [code]
        assert lines_used(world.gateway) == 1
        assert one.story(EUR) == ["Tick"]
        # What was refused is not there to be cancelled: the gateway would say so (300).
        assert {notice.code for notice in world.of(ev.BrokerNotice) if notice.request >= 0} == {code}
        if instrument is AAPL:
            world.gateway.config = replace(world.gateway.config, data_permission="live")
            await world.until(lambda: flows(one, AAPL), RETRY_S + 5)

    await play(tmp_path, scenario, gateway={"data_permission": permission}, session={"market_data_type": data_type})


async def test_delayed_data_is_a_quote_that_prices_nothing(tmp_path):
    """10167 is a notice; the ticks say that they are delayed, and the reason why they cannot price says so too."""

    async def scenario(world, one):
        one.desk.watch(AAPL)
        await world.until(lambda: one.about(AAPL, ev.Tick))
        await asyncio.sleep(1)
        tick = one.about(AAPL, ev.Tick)[-1]
        assert (tick.data_type, tick.bid is None, tick.ask is None) == ("delayed", False, False)
        assert one.desk.why_unusable(AAPL) == "a quote that is delayed, not live"
        assert one.desk.quote(AAPL) is None
        assert world.of(ev.SubscriptionFailed) == []
        assert (await one.desk.first_quote(AAPL)).data_type == "delayed"
        assert [notice.code for notice in world.of(ev.BrokerNotice) if notice.request >= 0] == [10167]

    await play(tmp_path, scenario, gateway={"data_permission": "delayed"}, session={"market_data_type": 3})


async def test_a_competing_session_is_a_gap_and_ends_by_itself(tmp_path):
    """10197 in the middle of a stream: told, tried again every minute, and served when the other has left."""

    async def scenario(world, one):
        one.desk.watch(EUR)
        await world.until(lambda: flows(one, EUR))
        world.faults.compete()
        await asyncio.sleep(1)
        assert one.story(EUR) == ["Tick", "Gap", "SubscriptionFailed"]
        assert "10197" in one.desk.why_unusable(EUR)
        with pytest.raises(BrokerRefused, match="10197"):
            await one.desk.first_quote(EUR)
        await asyncio.sleep(3 * RETRY_S)
        assert not flows(one, EUR)
        world.faults.stop_competing()
        await world.until(lambda: flows(one, EUR), RETRY_S + 5)
        assert one.story(EUR) == ["Tick", "Gap", "SubscriptionFailed", "Resumed", "Tick"]

    await play(tmp_path, scenario)


async def test_a_halt_prices_nothing(tmp_path):
    """Trading is halted: the quote is there, but not usable; and usable again when trading is resumed."""

    async def scenario(world, one):
        one.desk.watch(AAPL)
        await world.until(lambda: flows(one, AAPL))
        (session,) = world.gateway.sessions
        (request,) = subscribed(world)
        session.send(frame(Answer.TICK_GENERIC, TICK_GENERIC_VERSION, request, HALTED, 1))
        await asyncio.sleep(0.1)
        assert one.desk.why_unusable(AAPL) == "a quote of an instrument whose trading is halted"
        session.send(frame(Answer.TICK_GENERIC, TICK_GENERIC_VERSION, request, HALTED, 0))
        await world.until(lambda: flows(one, AAPL), 5)

    await play(tmp_path, scenario)


async def test_a_line_that_nobody_answers_is_asked_for_again_and_leaves_one(tmp_path):
    """The request, or the contract details, are swallowed; later all is well."""

    async def scenario(world, one):
        world.faults.ignore("reqMktData", 2)
        one.desk.watch(EUR)
        await asyncio.sleep(10)
        assert "no quote" in one.desk.why_unusable(EUR)
        await world.until(lambda: flows(one, EUR), 60)
        world.faults.ignore("reqContractDetails", 1)
        one.desk.watch(AAPL)
        await world.until(lambda: flows(one, AAPL), 30 + RETRY_S + 5)
        assert [event.code for event in one.about(AAPL, ev.SubscriptionFailed)] == [0]

    await play(tmp_path, scenario)


# --- one quote -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("misfortune", "error"),
    [
        (lambda world: world.faults.ignore("reqMktData"), RequestTimeout),
        (lambda world: world.faults.ignore("reqContractDetails"), RequestTimeout),
        (lambda world: world.faults.farm_down(), RequestTimeout),
        (lambda world: world.faults.compete(), BrokerRefused),
    ],
    ids=["no answer", "no contract", "farm", "competing"],
)
async def test_a_question_always_ends(tmp_path, misfortune, error):
    """In its time, with an error that says why, and without a line."""

    async def scenario(world, one):
        misfortune(world)
        began_s = world.now_s
        with pytest.raises(error):
            await one.desk.first_quote(AAPL, 10)
        assert world.now_s - began_s <= 10
        world.faults.heal()

    await play(tmp_path, scenario)


@pytest.mark.parametrize("what", ["drop", "cut"])
@pytest.mark.parametrize("after_s", [0.5, 1.5, 2.5])
async def test_a_question_is_told_at_once_that_the_line_is_gone(tmp_path, what, after_s):
    """In any phase of it; and while the link is not READY it is not even asked."""

    async def scenario(world, one):
        asking = asyncio.get_running_loop().create_task(one.desk.first_quote(AAPL, 60))
        await asyncio.sleep(after_s)
        getattr(world.faults, what)()
        with pytest.raises(NotReady):
            async with asyncio.timeout(1):
                await asking
        with pytest.raises(NotReady):
            await one.desk.first_quote(AAPL, 60)
        if what == "cut":
            world.faults.restore(data_kept=True)
        await world.until_ready()
        assert (await one.desk.first_quote(AAPL, 60)).instrument == AAPL

    slow = {"latency": {"reqContractDetails": (1, 1), "reqMktData": (2, 2)}}
    await play(tmp_path, scenario, gateway=slow)


# --- every tick ------------------------------------------------------------------------------------------------------


async def test_every_tick_of_the_wire_is_told_in_order(tmp_path):
    """As many as the gateway sent, none joined, none left out."""

    async def scenario(world, one):
        async with one.desk.every_tick(EUR) as stream:
            await world.until(lambda: len(stream) > 2)
            (session,) = world.gateway.sessions
            (request,) = subscribed(world)
            world.gateway.farm_is_down = True
            await asyncio.sleep(1)
            before = len(stream)
            prices = [round(1 + number / 1000, 3) for number in range(1, 501)]
            session.send(b"".join(answers.tick_price(request, BID, price, 10) for price in prices))
            await asyncio.sleep(1)
            items = [await stream.get() for _ in range(len(stream))][before:]
            assert [(item.field, item.price, item.size) for item in items] == [("bid", p, 10.0) for p in prices]
            world.gateway.farm_is_down = False

    await play(tmp_path, scenario)


async def test_a_reader_of_every_tick_that_is_too_slow_is_told_how_many_it_lost(tmp_path):
    """All are counted: those it read, and those that were lost."""

    async def scenario(world, one):
        async with one.desk.every_tick(EUR) as whole, one.desk.every_tick(EUR, 10) as part:
            await asyncio.sleep(120)
            items = [await part.get() for _ in range(len(part))]
            assert isinstance(items[0], ev.Gap)
            assert items[0].lost + len(items) - 1 == len(whole) > 50
            rest = [await whole.get() for _ in range(len(whole))]
            assert items[1:] == rest[-len(items) + 1 :]

    await play(tmp_path, scenario)


async def test_a_stream_ends_with_its_desk(tmp_path):
    """The strategy is stopped: who reads is told, and the line is given back."""

    async def scenario(world, one):
        stream = one.desk.every_tick(EUR)
        await world.until(lambda: len(stream))
        one.desk.close("the strategy was stopped")
        with pytest.raises(DeskClosed):
            await stream.get()
        await asyncio.sleep(2)
        assert lines_used(world.gateway) == 0

    await play(tmp_path, scenario)


# --- facts and ticks keep their order --------------------------------------------------------------------------------


async def test_no_tick_overtakes_a_fact_of_its_stream(tmp_path):
    """Ticks go straight to the hub while the inbox is empty: never past a Gap or Resumed that waits in it."""

    async def scenario(world, one):
        one.desk.watch(EUR)
        await world.until(lambda: flows(one, EUR))
        (session,) = world.gateway.sessions
        (request,) = subscribed(world)
        for number in range(50):
            price = answers.tick_price(request, BID, round(1 + number / 100, 2), 10)
            down = answers.error(-1, 2103, "Market data farm connection is broken:cashfarm", session.version)
            session.send(price + down)
            await asyncio.sleep(0)
            session.send(answers.tick_price(request, BID, round(2 + number / 100, 2), 10))
            await asyncio.sleep(0.001 * (number % 3))
        await asyncio.sleep(1)
        state = SimpleNamespace(epoch=0, in_gap=False)
        recorded = [event for event in world.events if getattr(event, "instrument", None) == EUR]
        for event in recorded:
            state.in_gap = isinstance(event, ev.Gap) or (state.in_gap and not isinstance(event, ev.Resumed))
            state.epoch += isinstance(event, ev.Gap)
            assert event.epoch == state.epoch
            assert not (state.in_gap and isinstance(event, ev.Tick))
        kinds = [type(event) for event in recorded]
        assert kinds.count(ev.Gap) == kinds.count(ev.Resumed) > 20
        assert [type(event) for event in one.about(EUR, ev.Gap, ev.Resumed)] == [ev.Gap, ev.Resumed] * kinds.count(
            ev.Gap
        )

    await play(tmp_path, scenario)


# --- in general ------------------------------------------------------------------------------------------------------


def tell_badly(world, dice, state):
    """One misfortune, or the end of one."""
    faults = world.faults
    match dice.randrange(9):
        case 0:
            faults.drop()
        case 1 if not world.gateway.is_cut:
            faults.cut()
        case 1 | 2 if world.gateway.is_cut:
            faults.restore(data_kept=dice.random() < 0.5)
        case 3:
            faults.farm_up() if world.gateway.farm_is_down else faults.farm_down()
        case 4:
            faults.stop_competing() if world.gateway.data_is_elsewhere else faults.compete()
        case 5:
            faults.ignore(dice.choice(["reqMktData", "reqContractDetails"]), 1)
        case 6:
            lines = dice.choice([0, 2, 100])
            world.gateway.config = replace(world.gateway.config, market_data_lines_max=lines)
        case _:
            state.calm += 1


def wish(desk, dice, state, group):
    """One wish of a strategy, or the end of one."""
    instrument = dice.choice((EUR, JPY, AAPL, MSFT, IBM, NOSUCH))

    async def ask():
        with suppress(BrokerRefused, NoLineFree, NotReady, RequestTimeout, UnknownInstrument):
            await desk.first_quote(instrument, dice.choice((0.5, 5, 30)))

    match dice.randrange(5):
        case 0 | 1:
            desk.watch(instrument)
        case 2:
            desk.unwatch(instrument)
        case 3:
            group.create_task(ask())
        case 4 if state.streams and dice.random() < 0.5:
            state.streams.pop().close("enough")
        case 4:
            state.streams.append(desk.every_tick(instrument))


@pytest.mark.parametrize("seed", range(6))
async def test_whatever_happens_all_flows_in_the_end_and_nothing_is_left(tmp_path, seed):
    """Wishes and misfortunes in any order; then all is well: each watched line flows, each story is in order."""
    dice = random.Random(seed)

    async def scenario(world, one):
        state = SimpleNamespace(calm=0, streams=[])
        async with asyncio.TaskGroup() as group:
            for _ in range(60):
                for _ in range(dice.randrange(3)):
                    wish(one.desk, dice, state, group)
                tell_badly(world, dice, state)
                await asyncio.sleep(dice.choice((0.0, 0.01, 1.0, 20.0)))
            world.faults.heal()
            world.faults.stop_competing()
            world.faults.farm_up()
            world.gateway.config = replace(world.gateway.config, market_data_lines_max=100)
            if world.gateway.is_cut:
                world.faults.restore(data_kept=True)
            await world.until_ready(200)
        await asyncio.sleep(6 * RETRY_S)
        for instrument in {EUR, JPY, AAPL, MSFT, IBM} & one.desk._subscriber.watched:
            assert flows(one, instrument), f"{instrument}: {one.desk.why_unusable(instrument)}"
        for instrument in (EUR, JPY, AAPL, MSFT, IBM):
            events = [event for event in world.events if getattr(event, "instrument", None) == instrument]
            in_gap = False
            for event in events:
                assert not (in_gap and isinstance(event, (ev.Gap, ev.Tick)))
                assert in_gap or not isinstance(event, ev.Resumed)
                in_gap = isinstance(event, ev.Gap) or (in_gap and not isinstance(event, ev.Resumed))
        check_lines(world)
        assert world.of(ev.LibraryFault) == []
        assert state.calm

    slow = {"latency": {"reqContractDetails": (0, 2), "reqMktData": (0, 1)}}
    await play(tmp_path, scenario, gateway=slow)
