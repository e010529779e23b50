"""Each scenario of the line against the whole service: real ib_insync, simulated gateway, virtual time.

Goal: what each scenario expects of the service, in the words of its row. Method: a world in which the scenario's script
runs beside a strategy that lends its desk; what the gateway was asked, when a misfortune really began, and what the
service recorded are compared.
"""

from __future__ import annotations

import asyncio
import gc
from collections import Counter
from dataclasses import replace
from datetime import timedelta

import pytest

from ibkr_service.core import events as ev
from ibkr_service.core.bars import Bar
from ibkr_service.core.errors import ClientIdInUse, GatewayError, NotLoggedIn, Refused
from ibkr_service.core.instrument import Stock
from ibkr_service.core.intent import Intent
from ibkr_service.core.link import Link
from ibkr_service.core.orders import OrderState
from ibkr_service.sim.messages import Request
from ibkr_service.sim.scenarios import SCENARIOS, SECTIONS, Scenario
from tests.scenes import AAPL, EURUSD, MSFT, kept_diary, scene

DEAD_WITHIN_S = 15.0  # probe_interval_s, probe_timeout_s and a moment
WEDGED_WITHIN_S = 35.0  # probe_interval_s, wedged_timeout_s and a moment


def watch(at, *instruments):
    for each in instruments:
        at.desk.watch(each)


async def test_nightly_restart(tmp_path):
    """One incident; every subscription back; open orders matched; a missed fill once; no order id again."""
    async with scene("nightly-restart", tmp_path) as at:
        watch(at, AAPL, EURUSD)
        filled, open_ = at.desk.submit(at.low()), at.desk.submit(at.low(5))
        before = at.world.gateway.next_order_id(1)
        await at.play_out()
        assert at.one_incident().fills_recovered == 1
        (fill,) = at.fills(filled)
        assert (fill.quantity, fill.recovered) == (10, True)
        assert at.book.orders[open_].state is OrderState.WORKING
        assert not {OrderState.UNKNOWN, OrderState.ABSENT} & set(at.changes(open_))
        new = at.desk.submit(at.low(7))
        await at.until_state(new, OrderState.WORKING)
        assert at.book.orders[new].order_id >= before
        ids = [order.ticket.order_id for order in at.world.gateway.exchange.orders.values()]
        assert len(set(ids)) == len(ids) == 3
        for each in (AAPL, EURUSD):
            assert (len(at.told(ev.Gap, each)), len(at.told(ev.Resumed, each))) == (1, 1)
            assert at.book.quote(each)
        at.world.check_agreement()


async def test_upstream_blip_1102(tmp_path):
    """CUT, then READY; nothing is subscribed anew; the account is compared; the data has proved itself."""
    async with scene("upstream-blip-1102", tmp_path) as at:
        watch(at, AAPL, EURUSD)
        await at.flows(AAPL, EURUSD)
        looks, asked = len(at.world.of(ev.Snapshot)), at.asked(Request.MKT_DATA)
        await at.play_out()
        assert at.links() == [Link.SYNCING, Link.READY, Link.CUT, Link.SYNCING, Link.READY]
        assert at.asked(Request.MKT_DATA) == asked
        assert len(at.world.of(ev.Snapshot)) > looks
        for each in (AAPL, EURUSD):
            assert (len(at.told(ev.Gap, each)), len(at.told(ev.Resumed, each))) == (1, 1)
        assert not at.one_incident().silent


async def test_upstream_loss_1101(tmp_path):
    """Everything is subscribed anew; a gap and its end on every stream."""
    async with scene("upstream-loss-1101", tmp_path) as at:
        watch(at, AAPL, MSFT, EURUSD)
        await at.flows(AAPL, MSFT, EURUSD)
        asked = at.asked(Request.MKT_DATA)
        await at.play_out()
        assert at.asked(Request.MKT_DATA) == asked + 3
        for each in (AAPL, MSFT, EURUSD):
            assert (len(at.told(ev.Gap, each)), len(at.told(ev.Resumed, each))) == (1, 1)
            assert at.book.quote(each)
        at.one_incident()


async def test_silent_1102(tmp_path):
    """Data that does not come back is missed within its limit, and subscribed anew."""
    async with scene("silent-1102", tmp_path) as at:
        watch(at, AAPL, EURUSD)
        await at.flows(AAPL, EURUSD)
        asked = at.asked(Request.MKT_DATA)
        await at.play_out()
        back_s = at.met_s("Interactive Brokers is back")
        assert at.asked(Request.MKT_DATA) == asked + 2
        epoch = at.world.config.gateway.started_at
        for each in (AAPL, EURUSD):
            (resumed,) = at.told(ev.Resumed, each)
            assert (resumed.at - epoch).total_seconds() - back_s < at.world.config.session.probe_timeout_s + 10
        assert not at.one_incident().silent


async def test_farm_blip(tmp_path):
    """The link stays READY; bars that ended are asked for again, and no bar is missing or told twice."""
    async with scene("farm-blip", tmp_path) as at:
        bars = []
        stream = at.desk.bars(AAPL, "1 min")
        async with asyncio.TaskGroup() as reading:
            reader = reading.create_task(read(stream, bars))
            await at.play_out()
            assert at.links() == [Link.SYNCING, Link.READY]
            await asyncio.sleep(300)
            reader.cancel()
        starts = [bar.at for bar in bars if isinstance(bar, Bar)]
        assert starts == [starts[0] + timedelta(minutes=number) for number in range(len(starts))]
        assert timedelta(minutes=len(starts)) >= (starts[-1] - starts[0]) > timedelta(minutes=5)
        epoch, up_s = at.world.config.gateway.started_at, at.world.met[-1][0]
        resumed = [(item.at - epoch).total_seconds() for item in bars if isinstance(item, ev.Resumed)]
        assert len(resumed) == 2
        assert resumed[1] - up_s < 5.0  # 10182 is no reason to wait when the farm is back
        assert at.asked(Request.HISTORICAL_DATA) >= 3


async def read(stream, into):
    async for item in stream:
        into.append(item)


async def test_farm_loss(tmp_path):
    """READY all the time; no quote of the farm; no order is priced by it; all is well again at 2104."""
    async with scene("farm-loss", tmp_path) as at:
        watch(at, AAPL)
        await at.flows(AAPL)
        assert at.desk.submit(Intent.buy(AAPL, 1))
        await at.until(lambda: at.book.incident is not None, "the incident", 200)
        began_s = at.world.now_s
        assert began_s - at.met_s("the market data farm breaks") < 1.0
        while at.world.now_s < began_s + 3500:
            assert at.desk.quote(AAPL) is None
            assert at.book.link is Link.READY
            with pytest.raises(Refused, match="quote"):
                at.desk.submit(Intent.buy(AAPL, 1))
            await asyncio.sleep(60)
        await at.play_out()
        assert at.desk.quote(AAPL)
        assert at.desk.submit(Intent.buy(AAPL, 1))
        at.one_incident()


async def test_half_open(tmp_path):
    """Noticed by the heartbeat within its limit, twice; the line is given up; a new session."""
    async with scene("half-open", tmp_path) as at:
        watch(at, AAPL, EURUSD)
        await at.play_out()
        froze = [at_s for at_s, words, _ in at.world.met if words == "the gateway freezes"]
        assert len(froze) == 2
        for at_s in froze:
            assert at.left_ready_s(at_s) - at_s < DEAD_WITHIN_S
        assert at.links().count(Link.DOWN) >= 2
        began, over = at.incidents()
        assert (len(began), len(over)) == (2, 2)
        await at.flows(AAPL, EURUSD)
        assert len(at.world.server.connections) == 1


async def test_mute_gateway(tmp_path):
    """The attempt times out, the next one comes after a pause; no connection is left over; one incident."""
    async with scene("mute-gateway", tmp_path) as at:
        await at.until(lambda: at.book.link is Link.DOWN, "the loss", 200)
        most = 0
        while at.book.link is not Link.READY:
            most = max(most, len(at.world.server.connections))
            await asyncio.sleep(0.5)
        assert most == 1
        assert 3 <= len(at.world.of(ev.LinkChanged)) <= 12
        at.one_incident()


async def test_accept_close(tmp_path):
    """A pause before each attempt, one incident, and not a line of the log for each attempt."""
    with kept_diary() as diary:
        async with scene("accept-close", tmp_path) as at:
            await at.until(lambda: at.book.link is Link.DOWN, "the loss", 200)
            began_s = at.world.now_s
            await at.play_out()
            assert at.world.now_s - began_s > 120
            at.one_incident()
        lines = diary.lines(event="gateway connection failed")
        assert [line["attempt"] for line in lines] == list(range(2, 2 + len(lines)))
        assert 4 <= len(lines) <= 10
        assert [line["level"] for line in diary.lines(level="error")].count("error") <= 1
        waits = [line["retry_in_s"] for line in lines]
        assert max(waits) > 4 * min(waits)


async def test_client_id_in_use(tmp_path):
    """Seen at once, not after the connect timeout; the same id is tried again, until it is free."""
    with kept_diary() as diary:
        async with scene("client-id-in-use", tmp_path) as at:
            await at.until(lambda: isinstance(at.world.app.session.last_failure, ClientIdInUse), "326", 200)
            assert at.world.now_s - at.met_s("connections are dropped") < 5.0
            await at.play_out()
            assert at.world.gateway.sessions[0].client_id == 1
            at.one_incident()
        assert len(diary.lines(kind="ClientIdInUse")) >= 3


async def test_no_next_valid_id(tmp_path):
    """Reported as a gateway that is not logged in; tried again; one incident."""
    async with scene("no-next-valid-id", tmp_path) as at:
        await at.until(lambda: isinstance(at.world.app.session.last_failure, NotLoggedIn), "the finding", 200)
        assert "logged in" in str(at.world.app.session.last_failure)
        await at.play_out()
        at.one_incident()


async def test_partial_sync(tmp_path):
    """Not READY while a part is missing, whichever; asked again; the position is never taken for none."""
    async with scene("partial-sync", tmp_path) as at:
        at.desk.submit(Intent.buy(AAPL, 10, limit="900"))
        await at.until(lambda: at.book.position(AAPL) == 10, "the position")
        missing, before = set(), {}
        script = at.world._script
        while not script.done():
            assert at.book.position(AAPL) == at.desk.position(AAPL) == 10
            ignored = dict(at.world.gateway.misfortunes.ignored_requests)
            told, before = before == ignored, ignored  # that the connection is lost is known a moment later
            if ignored and told:
                missing.add(tuple(ignored))
                assert at.book.link is not Link.READY
                with pytest.raises((Refused, GatewayError)):
                    at.desk.submit(at.low(1))
            await asyncio.sleep(1)
        assert len(missing) == 5
        await at.play_out()
        assert len(at.incidents()[0]) == 5
        at.world.check_agreement()


async def test_competing_session(tmp_path):
    """The feed is down, and that is said once a line; asked again until it is back; the link stays READY."""
    async with scene("competing-session", tmp_path) as at:
        watch(at, AAPL, EURUSD)
        await at.flows(AAPL, EURUSD)
        await at.until(lambda: at.book.incident is not None, "the incident", 200)
        asked = at.asked(Request.MKT_DATA)
        assert at.desk.quote(AAPL) is None
        await at.play_out()
        await at.flows(AAPL, EURUSD, within_s=90)
        assert at.links() == [Link.SYNCING, Link.READY]
        assert 2 <= at.asked(Request.MKT_DATA) - asked <= 16
        for each in (AAPL, EURUSD):
            (failed,) = at.told(ev.SubscriptionFailed, each)
            assert failed.code == 10197
            assert len(at.told(ev.Resumed, each)) == 1
        at.one_incident()


@pytest.mark.timeout(400)  # hours of virtual time; seconds of a machine that has nothing else to do
async def test_weekend_2fa(tmp_path):
    """One incident from Saturday to Monday; retries without haste; one line of alarm; trading goes on on Monday."""
    with kept_diary() as diary:
        async with scene("weekend-2fa", tmp_path) as at:
            watch(at, EURUSD)
            ref = at.desk.submit(at.low())
            await at.play_out()
            over = at.one_incident()
            hours = over.ready_after_s / 3600
            assert 54 < hours < 56
            assert over.ready_after_s - (at.met_s("what the gateway says") - at.met_s("the gateway is shut")) < 90
            attempts = len(diary.lines(event="gateway connection failed"))
            assert 40 * hours < attempts < 80 * hours  # about one a minute, and no more
            assert len(diary.lines(level="error")) == 1
            assert at.book.orders[ref].state is OrderState.WORKING
            await at.flows(EURUSD)


@pytest.mark.parametrize(("account", "mode"), [("U1234567", "paper"), ("U1234567", "simulated"), ("DU1234567", "live")])
async def test_mode_mix_up(tmp_path, account, mode):
    """No order leaves, one clear line, exit code 2."""
    mixed = SCENARIOS["mode-mix-up"]
    reverse = replace(mixed, gateway={"accounts": (account,)})
    with kept_diary() as diary, pytest.MonkeyPatch.context() as patch:
        patch.setitem(SCENARIOS, "mode-mix-up", reverse)
        async with scene("mode-mix-up", tmp_path, starts=False, mode=mode) as at:
            assert await at.world.ended() == mixed.ends == 2
            assert at.asked(Request.PLACE_ORDER) == 0
            assert not at.trader.was_started
        (line,) = diary.lines(level="error")
        assert "no order will leave" in line["error"]
        assert account not in diary.text


async def test_wedged(tmp_path):
    """Found by the probe that is not answered, though quotes flow; a new session."""
    async with scene("wedged", tmp_path, quiet=False) as at:
        watch(at, EURUSD)
        await at.play_out()
        began_s = at.met_s("no request")
        await at.until(lambda: at.book.link is Link.DOWN, "the finding", 60)
        assert at.world.now_s - began_s < WEDGED_WITHIN_S
        assert "wedged" in str(at.world.app.session.last_failure)
        await at.world.until_ready()
        await at.flows(EURUSD)


@pytest.mark.timeout(400)  # hours of virtual time; seconds of a machine that has nothing else to do
async def test_restore_storm(tmp_path):
    """Work for each signal is bounded, requests are paced, memory is flat."""
    async with scene("restore-storm", tmp_path) as at:
        watch(at, AAPL, EURUSD)
        await at.flows(AAPL, EURUSD)
        script, asked, cuts, said, objects = at.world._script, Counter(), 0, Counter(), []
        while not script.done():
            await asyncio.sleep(1200)  # a hundred times
            asked.update(heard.request for heard in at.world.heard)
            cuts += sum(words.startswith("the gateway loses") for _, words, _ in at.world.met)
            said.update(type(event) for event in at.world.events)
            assert not [notice for notice in at.world.of(ev.BrokerNotice) if notice.code == 100]
            for recorded in (at.world.heard, at.world.met, at.world.events, at.trader.seen):
                recorded.clear()
            gc.collect()
            objects.append(len(gc.get_objects()))
        assert cuts == 800
        assert asked[Request.MKT_DATA] <= 2 * 100 + 10  # every eighth time data is lost
        assert asked[Request.POSITIONS] <= 810
        assert 800 < said[ev.Gap] <= 2 * 800  # a stream that has not come back yet gets no second one
        assert 0 <= said[ev.Gap] - said[ev.Resumed] <= 2
        assert said[ev.IncidentOpened] <= 800
        assert max(objects[2:]) - objects[1] < 3_000, objects
        await at.world.until_ready()
        await at.flows(AAPL, EURUSD)


async def test_slow_gateway(tmp_path):
    """READY all the time; every question is answered or ends with its limit; a cancel goes before all of them."""
    async with scene("slow-gateway", tmp_path) as at:
        ref = at.desk.submit(at.low())
        await at.until_state(ref, OrderState.WORKING)
        await at.until(lambda: at.world.met, "slowness", 200)
        stocks = [Stock(name) for name in ("IBM", "MSFT", "GOOGL", "AMZN", "TSLA", "NVDA", "META", "JPM")]
        async with asyncio.TaskGroup() as asking:
            asked = [asking.create_task(at.desk.qualify(each)) for each in stocks * 10]
            await asyncio.sleep(0)
            wanted_s = at.world.now_s
            at.desk.cancel(ref)
            await at.until(lambda: at.asked(Request.CANCEL_ORDER), "the cancel", 5)
            assert at.world.now_s - wanted_s < 0.2
        assert all(task.result() for task in asked)
        await at.until_state(ref, OrderState.CANCELLED, 30)
        await at.play_out()
        assert set(at.links()[2:]) <= {Link.READY}, at.links()


async def test_split_and_glue(tmp_path):
    """The same ticks and the same facts as without."""
    told = []
    for turn, script in enumerate((SCENARIOS["split-and-glue"].script, _nothing)):
        with pytest.MonkeyPatch.context() as patch:
            patch.setitem(SCENARIOS, "split-and-glue", Scenario("split-and-glue", "", "", script))
            folder = tmp_path / str(turn)
            folder.mkdir()
            async with scene("split-and-glue", folder) as at:
                ticks = []
                stream = at.desk.every_tick(EURUSD, 100_000)
                async with asyncio.TaskGroup() as reading:
                    reader = reading.create_task(read(stream, ticks))
                    refs = []
                    for number in range(12):
                        await asyncio.sleep(60)
                        refs.append(at.desk.submit(Intent.buy(AAPL, 1, limit="900"), key=f"{number}"))
                    await asyncio.sleep(60)
                    reader.cancel()
                assert all(at.book.orders[ref].state is OrderState.FILLED for ref in refs)
                seen = [(tick.field, tick.price, tick.size) for tick in ticks if isinstance(tick, ev.RawTick)]
                assert len(seen) == len(ticks)
                told.append((seen, [(fill.quantity, fill.price) for fill in at.world.of(ev.Fill)]))
                assert at.world.of(ev.LibraryFault) == []
    assert told[0][1] == told[1][1]
    assert told[0][0] == told[1][0]
    assert len(told[0][0]) > 150


async def _nothing(at):
    del at


def test_every_scenario_of_the_section_is_tested():
    """A row without a test is a promise without a proof."""
    names = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    assert {scenario.name for scenario in SECTIONS["the line"]} <= names
