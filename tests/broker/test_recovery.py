"""Silence on a connection that seems to be there, against the simulated gateway: who notices, how soon, what is done.

Goal: what is dead is noticed within the stated limit and dealt with step by step; what is only quiet is left alone; and
what our own process is to blame for costs no connection.
Method: a whole service in a `World` under virtual time; the strategy only lends its desk to the test.
"""

from __future__ import annotations

import asyncio
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from decimal import Decimal as D
from itertools import pairwise

import msgspec
import pytest

from ibkr_service.broker import recovery
from ibkr_service.broker.line import LineState
from ibkr_service.control import Request
from ibkr_service.controller import Controller
from ibkr_service.core import events as ev
from ibkr_service.core.incidents import STREAMS_MAX_S
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.core.ladder import COMMANDS, CUT_UNSAID_S
from ibkr_service.core.link import Link
from ibkr_service.core.orders import Intent
from ibkr_service.core.pulse import REACH
from ibkr_service.core.restartwindow import RestartWindow
from ibkr_service.operations import Operations
from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.messages import Request as Question
from ibkr_service.supervisor import StrategySpec
from tests.world import EPOCH, PORT, WIDE_LIMITS, World, WorldConfig

AAPL, MSFT, IBM, EUR = Stock("AAPL"), Stock("MSFT"), Stock("IBM"), Forex("EUR", "USD")
SYMBOLS = {"AAPL", "MSFT", "IBM", "GOOG"}
CURRENT_TIME, MKT_DATA, CANCEL_ORDER = (
    str(int(request)) for request in (Question.CURRENT_TIME, Question.MKT_DATA, Question.CANCEL_ORDER)
)
COMMAND_PORT = 7462
STEADY_S = 120.0  # in which a stream shows its pace
BELL_S = 1200.0  # from the start of the two afternoons below
LIMIT_S = 60.0  # the default of ibkr.data_age_limit_s
NOTICED_S = LIMIT_S + 2 * recovery.LOOK_S  # the limit, and how often it is looked at
CONTROLLER = Controller("127.0.0.1", COMMAND_PORT, frozenset(COMMANDS))


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


async def play(tmp_path, scenario, *, watch=(AAPL, MSFT), gateway=None, session=None, limits=None):
    """Run a scenario in a world that is READY, with streams that have shown their pace."""
    holder = Holder()
    config = WorldConfig(
        folder=tmp_path,
        gateway=GatewayConfig(**{"started_at": EPOCH} | (gateway or {})),
        strategies=[StrategySpec("s", holder.run)],
    )
    config = replace(config, session=replace(config.session, **(session or {})), **(limits or {}))
    async with World(config) as world:
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
        for instrument in watch:
            holder.desk.watch(instrument)
        await asyncio.sleep(STEADY_S)
        await scenario(world, holder)


async def soon(world, condition, within_s, what="it"):
    """As `world.until`, looking twice a second; returns how long it took."""
    began_s = world.now_s
    while not condition():
        assert world.now_s < began_s + within_s, f"{what} did not happen within {within_s:g} virtual seconds"
        await asyncio.sleep(0.5)
    return world.now_s - began_s


def rungs(world):
    """The steps that were taken, the controller's with their commands."""
    return [f"{s.rung} {s.what}" if s.rung == "controller" else s.rung for s in world.of(ev.RecoveryStep)]


def replace_price(wish, price):
    """The same wish at another price."""
    return msgspec.structs.replace(wish, limit_price=D(price))


def flows(holder, instrument):
    """Whether a quote of it may price an order at this moment."""
    return holder.desk.why_unusable(instrument) is None


def close_lines(world, *symbols):
    """The gateway drops subscriptions without a word: those of these symbols, or all."""
    for session in world.gateway.sessions:
        for (kind, number), stream in list(session.streams.items()):
            if stream.is_market_data and (not symbols or stream._instrument.symbol in symbols):
                session.close_stream(kind, number)


# --- data age --------------------------------------------------------------------------------------------------------


async def test_lines_that_go_silent_are_noticed_within_the_limit_and_asked_for_anew(tmp_path):
    """All of a farm at once, without a word: that one is unknown to the gateway has the others prove themselves."""

    async def scenario(world, holder):
        close_lines(world)
        assert await soon(world, lambda: rungs(world), 200) <= NOTICED_S
        await soon(world, lambda: flows(holder, AAPL) and flows(holder, MSFT), 60)
        await asyncio.sleep(2 * STREAMS_MAX_S)
        assert rungs(world) == ["probe", "resubscribe one"]
        assert len(world.of(ev.SessionOpened)) == 1
        gaps = world.of(ev.Gap)
        assert {gap.instrument for gap in gaps} == {AAPL, MSFT}
        for gap in gaps:
            assert LIMIT_S <= (gap.at - gap.since).total_seconds() <= NOTICED_S + 25
        (over,) = world.of(ev.IncidentClosed)
        assert over.steps == ("probe", "resubscribe one")
        assert over.silent == ()

    await play(tmp_path, scenario)


async def test_what_is_forgotten_over_a_closed_market_is_found_with_what_trades(tmp_path):
    """A currency pair falls silent at night and is unknown to the gateway; no shares trade that could be missed."""

    async def scenario(world, holder):
        close_lines(world)
        await soon(world, lambda: {gap.instrument for gap in world.of(ev.Gap)} == {EUR, AAPL}, NOTICED_S + 30)
        await soon(world, lambda: flows(holder, EUR) and flows(holder, AAPL), 30)
        assert {back.instrument for back in world.of(ev.Resumed)} == {EUR, AAPL}
        (of_aapl,) = [gap for gap in world.of(ev.Gap) if gap.instrument == AAPL]
        assert "forgets" in of_aapl.reason
        assert of_aapl.since < of_aapl.at - timedelta(seconds=LIMIT_S)
        await asyncio.sleep(STREAMS_MAX_S)
        assert len(world.of(ev.Gap)) == 2
        assert rungs(world) == ["probe", "resubscribe one"]

    night = {"started_at": datetime(2026, 11, 24, 3, tzinfo=UTC)}
    await play(tmp_path, scenario, watch=(EUR, AAPL), gateway=night)


async def test_one_forgotten_line_costs_the_living_nothing(tmp_path):
    """The others are put to the proof and tick: no gap is told of them, and none is asked for anew."""

    async def scenario(world, _holder):
        close_lines(world, "AAPL")
        await soon(world, lambda: world.of(ev.Resumed), 600)
        await asyncio.sleep(STREAMS_MAX_S)
        assert {gap.instrument for gap in world.of(ev.Gap)} == {AAPL}
        assert not [line for line in world.app.session.lines if line.state is not LineState.LIVE]

    await play(tmp_path, scenario)


async def test_an_outage_makes_no_stream_slower(tmp_path):
    """What fell silent right after a long outage is noticed within the same limit: nothing could come in between."""

    async def scenario(world, holder):
        await world.faults.shut_down()
        await asyncio.sleep(2 * LIMIT_S)
        await world.faults.start_up()
        await world.until_ready()
        await soon(world, lambda: flows(holder, AAPL) and flows(holder, MSFT), 30)
        before = len(rungs(world))
        close_lines(world)
        assert await soon(world, lambda: len(rungs(world)) > before, 200) <= NOTICED_S + 5
        await soon(world, lambda: flows(holder, AAPL) and flows(holder, MSFT), 60)

    await play(tmp_path, scenario)


async def test_one_silent_line_is_asked_for_anew_when_the_rest_of_its_farm_ticks(tmp_path):
    """It is given longer, since it may only be quiet; nothing else is touched."""

    async def scenario(world, holder):
        close_lines(world, "AAPL")
        await soon(world, lambda: world.of(ev.Gap), 400)
        await soon(world, lambda: flows(holder, AAPL), 60)
        await asyncio.sleep(STREAMS_MAX_S)
        assert rungs(world) == ["probe", "resubscribe one"]
        assert {gap.instrument for gap in world.of(ev.Gap)} == {AAPL}

    await play(tmp_path, scenario, watch=(AAPL, MSFT, IBM))


async def test_what_is_forgotten_in_its_first_minute_is_asked_for_anew(tmp_path):
    """Its pace is not known, so it has longer, and nothing above a new request is done for it."""

    async def scenario(world, holder):
        holder.desk.watch(IBM)
        await world.until(lambda: flows(holder, IBM), 20)
        close_lines(world, "IBM")
        await soon(world, lambda: [gap for gap in world.of(ev.Gap) if gap.instrument == IBM], REACH * LIMIT_S + 60)
        await soon(world, lambda: flows(holder, IBM), 60)
        await asyncio.sleep(STREAMS_MAX_S)
        assert rungs(world) == ["probe", "resubscribe one"]
        assert {gap.instrument for gap in world.of(ev.Gap)} == {IBM}

    await play(tmp_path, scenario)


async def test_after_1102_what_does_not_come_back_is_asked_for_anew(tmp_path):
    """silent-1102: within probe_timeout_s of READY, long before the data's age says so."""

    async def scenario(world, holder):
        world.faults.cut()
        await asyncio.sleep(30)
        close_lines(world)
        world.faults.restore(data_kept=True)
        await world.until(lambda: flows(holder, AAPL) and flows(holder, MSFT), 20)
        assert len(world.of(ev.SessionOpened)) == 1

    await play(tmp_path, scenario)


async def test_data_that_stays_dead_climbs_to_the_top_and_no_higher(tmp_path):
    """silent-1102 that nothing helps: each rung once, a person is told, and then ever more seldom."""

    async def scenario(world, _holder):
        world.faults.cut()
        await asyncio.sleep(30)
        world.faults.lose_data("never")
        world.faults.restore(data_kept=True)
        await soon(world, lambda: "rest" in rungs(world), 900)
        assert rungs(world) == ["probe", "resubscribe one", "resubscribe farm", "new session", "rest"]
        sessions = len(world.of(ev.SessionOpened))
        assert sessions == 2
        await asyncio.sleep(3 * 3600)
        later = rungs(world)[5:]
        assert len(later) <= 5 * 3
        assert len(world.of(ev.SessionOpened)) <= sessions + 5
        assert "controller" not in " ".join(later)
        world.faults.reconnect_data()
        world.gateway.lost_data_until = ""
        await world.until_ready()

    await play(tmp_path, scenario)


@pytest.mark.parametrize(
    ("until", "commands"),
    [("reconnect", ["RECONNECTDATA"]), ("restart", ["RECONNECTDATA", "RESTART"])],
)
async def test_the_controller_brings_back_what_a_new_session_does_not(tmp_path, until, commands):
    """Data is dead until the gateway makes its connections anew, or is restarted: asked in this order, and it flows."""

    async def scenario(world, holder):
        world.faults.lose_data(until)
        await soon(world, lambda: world.server.commands.commands == commands, 1200, f"{commands}")
        await soon(world, lambda: flows(holder, AAPL) and flows(holder, MSFT), 300)
        steps = [f"controller {command}" for command in commands]
        assert rungs(world) == ["probe", "resubscribe one", "resubscribe farm", "new session", *steps]
        assert [answer.ok for answer in world.of(ev.ControllerAnswered)] == [True] * len(commands)
        await asyncio.sleep(3 * STREAMS_MAX_S)
        assert world.app.book.link is Link.READY
        assert world.server.commands.commands == commands
        assert [step for incident in world.of(ev.IncidentClosed) for step in incident.steps][-1] == steps[-1]

    await play(tmp_path, scenario, gateway={"command_port": COMMAND_PORT}, session={"controller": CONTROLLER})


async def test_a_farm_that_is_announced_to_be_down_is_waited_for(tmp_path):
    """2103 for an hour: the broker has said why, and will say when it is back. No new session, no command."""

    async def scenario(world, holder):
        world.faults.farm_down()
        await asyncio.sleep(3600)
        assert not {"new session", "rest"} & set(rungs(world))
        world.faults.farm_up()
        await world.until(lambda: flows(holder, AAPL), 60)
        assert len(world.of(ev.SessionOpened)) == 1
        assert world.server.commands.commands == []

    gateway, session = {"command_port": COMMAND_PORT}, {"controller": CONTROLLER}
    await play(tmp_path, scenario, watch=(AAPL, EUR), gateway=gateway, session=session)


@pytest.mark.parametrize(
    ("started_at", "what"),
    [
        (datetime(2026, 11, 23, 20, 40, tzinfo=UTC), "a night"),
        (datetime(2026, 11, 27, 17, 40, tzinfo=UTC), "a half day"),
    ],
)
async def test_a_closed_market_is_no_outage(tmp_path, started_at, what):
    """Streams that were lively until the bell, and then nothing for hours: not one step is taken."""

    async def scenario(world, _holder):
        await asyncio.sleep(BELL_S - STEADY_S + 20)
        assert rungs(world) == []
        close_lines(world)  # the simulator's shares trade on for some hours
        await asyncio.sleep(3 * 3600)
        assert rungs(world) == [], what
        assert world.of(ev.IncidentOpened) == []

    await play(tmp_path, scenario, gateway={"started_at": started_at, "hours": "real", "quote_interval_s": 5.0})


async def test_of_hours_that_nobody_knows_a_probe_is_all(tmp_path):
    """The broker tells none, and it is no American stock: asked after once, shortly after READY, and left alone."""

    async def scenario(world, _holder):
        world.app.session._hours._told.clear()
        world.app.session._hours.seen = lambda *_: None
        close_lines(world)
        await asyncio.sleep(1800)
        assert set(rungs(world)) == {"probe"}
        assert world.of(ev.Gap) == []

    await play(tmp_path, scenario, watch=(EUR,))


async def test_the_calendar_stands_in_for_hours_that_the_broker_does_not_tell(tmp_path):
    """An American stock: it is in session by the calendar, so its silence is noticed."""

    async def scenario(world, holder):
        world.app.session._hours._told.clear()
        world.app.session._hours.seen = lambda *_: None
        await asyncio.sleep(30)
        close_lines(world)
        await soon(world, lambda: "resubscribe one" in rungs(world), NOTICED_S + 10)
        await soon(world, lambda: flows(holder, AAPL), 60)

    await play(tmp_path, scenario, watch=(AAPL,))


async def test_bars_and_ticks_that_go_silent_are_noticed_too(tmp_path):
    """Each stream has its own age; what was missed of bars is fetched."""

    async def scenario(world, holder):
        streams = world.app.session.streams
        async with streams.bars(AAPL) as bars, streams.tick_by_tick(AAPL, "BidAsk") as ticks:
            await asyncio.sleep(STEADY_S)
            while len(bars):
                await bars.get()
            while len(ticks):
                await ticks.get()
            close_lines(world)
            for session in world.gateway.sessions:
                for kind, number in list(session.streams):
                    session.close_stream(kind, number)
            await soon(world, lambda: "resubscribe farm" in rungs(world), NOTICED_S + 40)
            await asyncio.sleep(60)
            told = [await bars.get() for _ in range(len(bars))]
            names = [type(item).__name__ for item in told]
            assert "Resumed" in names[names.index("Gap") :]
            (resumed,) = [item for item in told if isinstance(item, ev.Resumed)]
            assert resumed.backfilled >= LIMIT_S / 5
            found = [item.at for item in told if type(item).__name__ == "Bar"]
            assert all(later - sooner == timedelta(seconds=5) for sooner, later in pairwise(found))
            assert ev.Resumed in [type(await ticks.get()) for _ in range(len(ticks))]

    await play(tmp_path, scenario)


# --- the line --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("waits_bytes", "within_s"), [(90_000, 10.0 + 2 * recovery.LOOK_S + 0.5), (400_000, recovery.LOOK_S + 0.5)]
)
async def test_a_line_that_takes_nothing_is_dead_though_it_brings_ticks(tmp_path, waits_bytes, within_s):
    """The gateway does not read: bytes pile up here. Noticed by them, not by the probe that is unanswered."""

    async def scenario(world, holder):
        world.faults.stop_reading()
        world.app.session._connection.ib.client.pacer.send("9\0" + "8\0" * (waits_bytes // 2))
        assert await soon(world, lambda: world.app.book.link is Link.DOWN, 60) <= within_s
        assert "wait to be sent" in world.of(ev.LinkChanged)[-1].why
        assert rungs(world) == ["new session"]
        await world.until_ready(60)
        await soon(world, lambda: flows(holder, AAPL), 30)
        await asyncio.sleep(2 * STREAMS_MAX_S)
        (over,) = world.of(ev.IncidentClosed)
        assert over.steps == ("new session",)

    await play(tmp_path, scenario, session={"wedged_timeout_s": 300.0, "probe_timeout_s": 10.0})


async def test_a_gateway_that_is_wedged_again_and_again_is_restarted(tmp_path):
    """Quotes go on, no question is answered, in session after session: the third time its controller is asked, once."""

    async def scenario(world, holder):
        world.faults.ignore("currentTime")
        await soon(world, lambda: world.server.commands.commands, 300)
        assert world.server.commands.commands == ["RESTART"]
        assert rungs(world) == ["new session"] * 3 + ["controller RESTART"]
        await asyncio.sleep(60)
        await world.until_ready(120)
        await asyncio.sleep(1800)
        assert world.server.commands.commands == ["RESTART"]
        assert flows(holder, AAPL)

    gateway, session = {"command_port": COMMAND_PORT}, {"controller": CONTROLLER}
    await play(tmp_path, scenario, gateway=gateway, session=session)


async def test_a_gateway_that_stays_cut_off_is_told_to_reconnect(tmp_path):
    """1100 for ten minutes: RECONNECTACCOUNT, and 1101 follows."""

    async def scenario(world, holder):
        world.faults.cut()
        assert await soon(world, lambda: world.server.commands.commands, 900) >= 600
        assert world.server.commands.commands == ["RECONNECTACCOUNT"]
        await world.until_ready(60)
        await soon(world, lambda: flows(holder, AAPL), 30)

    gateway, session = {"command_port": COMMAND_PORT}, {"controller": CONTROLLER}
    await play(tmp_path, scenario, gateway=gateway, session=session)


@pytest.mark.parametrize("data_kept", [True, False])
async def test_a_cut_whose_end_nobody_tells_is_not_for_ever(tmp_path, data_kept):
    """A new session after a quarter of an hour; it finds the gateway well, and what was missed."""

    async def scenario(world, holder):
        before = world.app.book.session
        world.faults.cut()
        await asyncio.sleep(30)
        world.faults.restore(data_kept=data_kept, tells=False)
        await asyncio.sleep(CUT_UNSAID_S - 60)
        assert world.app.book.link is Link.CUT
        await world.until_ready(120)
        assert world.app.book.session == before + 1
        await soon(world, lambda: flows(holder, AAPL), 30)
        assert rungs(world) == ["new session"]

    await play(tmp_path, scenario)


async def test_a_cut_that_lasts_is_told_to_each_new_session(tmp_path):
    """So orders stay where they are; and a gateway that repeats it is left alone."""

    async def scenario(world, _holder):
        world.faults.cut()
        for _ in range(6):
            await asyncio.sleep(CUT_UNSAID_S / 3)
            world.faults.cut()
        assert rungs(world) == []
        await asyncio.sleep(3 * CUT_UNSAID_S)
        assert rungs(world).count("new session") in {2, 3}
        assert world.app.book.link is Link.CUT
        world.faults.restore(data_kept=True)
        await world.until_ready(60)

    await play(tmp_path, scenario)


async def test_nothing_is_done_about_silence_in_a_declared_restart_window(tmp_path):
    """Neither a new session nor a command: the gateway is going to restart anyway."""

    async def scenario(world, _holder):
        world.faults.lose_data("restart")
        await asyncio.sleep(1500)
        assert rungs(world) == []
        assert world.server.commands.commands == []
        await asyncio.sleep(900)
        assert world.server.commands.commands == ["RECONNECTDATA", "RESTART"]

    window = RestartWindow(start=time(9, 32), end=time(10, 0), timezone="America/New_York")
    limits = {"limits": msgspec.structs.replace(WIDE_LIMITS, restart_windows=(window,))}
    gateway, session = {"command_port": COMMAND_PORT}, {"controller": CONTROLLER}
    await play(tmp_path, scenario, gateway=gateway, session=session, limits=limits)


@pytest.mark.parametrize("trouble", ["mute", "nobody", "error"])
async def test_a_controller_that_is_no_help_costs_nothing(tmp_path, trouble):
    """It does not answer, is not there, or says ERROR: on record, and the service goes on."""

    async def scenario(world, _holder):
        if trouble == "mute":
            world.server.commands.is_mute = True
            world.server.commands.obey = lambda _command: ""
        elif trouble == "nobody":
            await world.server.commands.close()
        else:
            world.server.commands.obey = lambda _command: "ERROR not now"
        world.faults.lose_data("never")
        await soon(world, lambda: "rest" in rungs(world), 1200)
        answers = world.of(ev.ControllerAnswered)
        assert [answer.command for answer in answers] == ["RECONNECTDATA", "RESTART"]
        assert not any(answer.ok for answer in answers)
        says = {"mute": "did not answer", "nobody": "cannot be reached", "error": "refuses"}[trouble]
        assert all(says in answer.text for answer in answers)
        assert world.app.book.link is Link.READY

    gateway, session = {"command_port": COMMAND_PORT}, {"controller": CONTROLLER}
    await play(tmp_path, scenario, gateway=gateway, session=session)


async def test_a_restart_is_not_asked_for_again_by_the_next_process(tmp_path):
    """Once an hour holds over a restart of the service, too: the journal knows."""

    async def scenario(world, _holder):
        world.faults.ignore("currentTime")
        await soon(world, lambda: world.server.commands.commands, 300)
        assert "RESTART" in world.app.book.commanded
        await world.kill()
        world.faults.ignore("currentTime")
        world.start_service()
        await asyncio.sleep(900)
        assert world.server.commands.commands == ["RESTART"]

    world_has = {"gateway": {"command_port": COMMAND_PORT}, "session": {"controller": CONTROLLER}}
    await play(tmp_path, scenario, **world_has)


async def test_hours_of_1100_and_1101_cost_no_session_and_no_storm(tmp_path):
    """restore-storm: the work of each signal is bounded, and silence in between is not taken for more."""

    async def scenario(world, holder):
        asked = []
        plain = world.gateway.dispatch

        def counted(session, values):
            asked.append(values[0])
            plain(session, values)

        world.gateway.dispatch = counted
        for number in range(200):
            world.faults.cut()
            await asyncio.sleep(5)
            world.faults.restore(data_kept=bool(number % 2))
            await asyncio.sleep(5)
        assert len(world.of(ev.SessionOpened)) == 1
        assert rungs(world) == []
        assert len(asked) <= 200 * 20
        await soon(world, lambda: flows(holder, AAPL) and flows(holder, MSFT), 60)

    await play(tmp_path, scenario)


# --- our own fault ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("watch", [(), (AAPL, MSFT)])
async def test_a_strategy_that_holds_the_loop_costs_no_connection(tmp_path, watch):
    """Fifteen seconds, at any phase of the heartbeat, over a slow line: told as ours, and nobody else is blamed.

    Without streams nothing but the answer to the probe comes, long after its deadline.
    """

    async def scenario(world, holder):
        asyncio.get_running_loop().network.latency_s = 2.0
        for number in range(12):
            await asyncio.sleep(30 + number * 0.7)
            asyncio.get_running_loop().hold(15)
        await asyncio.sleep(30)
        assert len(world.of(ev.SessionOpened)) == 1
        assert world.of(ev.IncidentOpened) == []
        assert rungs(world) == []
        assert len(world.of(ev.LoopHeld)) == 12
        assert all(12 <= held.held_s <= 15 for held in world.of(ev.LoopHeld))
        status = await Operations(world.app).handle(Request("status"))
        assert (status.data["loop_holds"], status.data["recovering"]) == (12, "")
        assert status.data["loop_held_worst_s"] == pytest.approx(15, abs=2.5)
        assert any("our own loop stood still 12 times" in line for line in status.text)
        assert all(flows(holder, instrument) for instrument in watch)

    await play(tmp_path, scenario, watch=watch)


async def test_a_held_loop_does_not_hide_a_dead_line(tmp_path):
    """What it took is added to the limit, and no more."""

    async def scenario(world, _holder):
        asyncio.get_running_loop().network.freeze(PORT)
        await asyncio.sleep(2)
        asyncio.get_running_loop().hold(15)
        took_s = await soon(world, lambda: world.app.book.link is Link.DOWN, 60)
        assert took_s <= 4 + 10 + 15 + 1
        asyncio.get_running_loop().network.thaw(PORT)

    await play(tmp_path, scenario)


async def test_after_the_machine_slept_a_probe_comes_first(tmp_path):
    """The wall clock is an hour on, the loop's is not: a question at once, everything is looked at, nothing is lost."""

    async def scenario(world, holder):
        asked = []
        plain = world.gateway.dispatch

        def heard(session, values):
            asked.append((world.now_s, values[0]))
            plain(session, values)

        world.gateway.dispatch = heard
        looks = len(world.of(ev.Snapshot))
        world._clock._epoch += timedelta(hours=1)
        await asyncio.sleep(recovery.LOOK_S + 3)
        assert len(world.of(ev.Snapshot)) == looks + 1
        probes = [at_s for at_s, request in asked if request == CURRENT_TIME]
        assert len(probes) >= 2
        assert all(later - sooner >= 1.0 for sooner, later in pairwise(probes))
        await asyncio.sleep(60)
        assert len(world.of(ev.SessionOpened)) == 1
        assert rungs(world) == []

    await play(tmp_path, scenario)


# --- who is asked for first ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("loss", ["1101", "new session"])
async def test_what_matters_most_is_asked_for_first(tmp_path, loss):
    """Cancels before all else; then what is held, what has working orders, what is watched."""

    async def scenario(world, holder):
        desk = holder.desk
        for instrument in (MSFT, IBM):
            await desk.qualify(instrument)
        world.faults.hold("MSFT", D(100), D(100))
        await soon(world, lambda: world.app.book.position(MSFT) == 100, 400)
        wish = Intent(instrument=IBM, action="BUY", quantity=D(1), order_type="LMT", limit_price=D(1), tif="GTC")
        order, unwanted = desk.submit(wish), desk.submit(replace_price(wish, "1.01"))
        await soon(world, lambda: all(world.app.book.orders[ref].alive for ref in (order, unwanted)), 30)
        await asyncio.sleep(5)
        asked = []
        plain = world.gateway.dispatch

        def heard(session, values):
            if values[0] in {MKT_DATA, CANCEL_ORDER}:
                asked.append(values[0] if values[0] == CANCEL_ORDER else next(v for v in values if v in SYMBOLS))
            plain(session, values)

        world.gateway.dispatch = heard
        world.faults.cut()
        await asyncio.sleep(1)
        desk.cancel(unwanted)
        if loss == "1101":
            world.faults.restore(data_kept=False)
        else:
            world.gateway.is_cut = False
            world.faults.drop()
        await world.until_ready(60)
        await asyncio.sleep(20)
        assert list(dict.fromkeys(asked)) == [CANCEL_ORDER, "MSFT", "IBM", "AAPL", "GOOG"]
        assert CANCEL_ORDER not in asked[asked.index("MSFT") :]

    await play(tmp_path, scenario, watch=(AAPL, Stock("GOOG"), IBM, MSFT))
