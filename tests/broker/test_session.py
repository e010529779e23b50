"""The session against the simulated gateway and its misfortunes: nothing is lost, doubled or taken for granted.

Goal: whatever the line does, the book ends up saying what the gateway says, each fill is told once, and no order is
sent twice.
Method: a whole service in a `World` under virtual time; the strategy only lends its desk to the test.
"""

from __future__ import annotations

import asyncio
import dataclasses
import gc
import sqlite3
import weakref
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime
from decimal import Decimal as D

import msgspec
import pytest

from ibkr_service import app as app_module
from ibkr_service.broker.connection import LineOver
from ibkr_service.broker.ib import IB
from ibkr_service.broker.login import choose_account
from ibkr_service.broker.session import SYNC_TRIES
from ibkr_service.broker.translate import contract_of, order_of
from ibkr_service.core import events as ev
from ibkr_service.core import spreads
from ibkr_service.core.errors import (
    AccountProblem,
    InvalidIntent,
    ModeMismatch,
    NotReady,
    Paced,
    Refused,
    UnknownAccount,
)
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.core.link import Link
from ibkr_service.core.orders import Intent, OrderState
from ibkr_service.journal import Journal, open_readonly
from ibkr_service.sim import GatewayConfig, answers
from ibkr_service.sim import session as gateway_session
from ibkr_service.sim.messages import Answer
from ibkr_service.sim.wire import frame
from ibkr_service.supervisor import StrategySpec
from tests.world import EPOCH, PORT, World, WorldConfig

EUR = Forex("EUR", "USD")
ACCOUNT = "DU1234567"
AWAY, THROUGH = "0.9", "2"  # limits to buy EUR.USD at: one that rests for ever, one that fills at once
POSITION_END = frame(Answer.POSITION_END, 1)


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

    def of(self, kind):
        """All events of a kind that the strategy has read."""
        return [event for event in self.seen if type(event) is kind]


@pytest.fixture
def holder():
    """The strategy."""
    return Holder()


@pytest.fixture
def config(tmp_path, holder):
    """A world with one strategy that holds its desk still."""
    return WorldConfig(folder=tmp_path, strategies=[StrategySpec("s", holder.run)])


def with_session(config, **changes):
    """The same world, the session's settings changed."""
    return replace(config, session=replace(config.session, **changes))


@pytest.fixture
async def world(config, holder):
    """A world that is READY, its strategy at its desk."""
    async with World(config) as world:
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
        yield world


def buy(price=AWAY, quantity="1000", **changes):
    """A wish to buy EUR.USD at a limit."""
    return Intent(
        instrument=EUR, action="BUY", quantity=D(quantity), order_type="LMT", limit_price=D(price), tif="GTC", **changes
    )


def state(world, ref):
    """An order's state in our book."""
    return world.app.book.orders[ref].state


def refs_at_gateway(world):
    """The references of all orders that ever reached the gateway, one for each order."""
    return [order.ticket.order_ref for order in world.gateway.exchange.orders.values()]


def look_soon(world):
    """Give the session reason to compare everything with the broker."""
    world.app.session._connection.look_soon()


async def reconnected(world):
    """Wait until the line, lost or about to be, is READY on a new connection."""
    session = world.app.book.session
    await world.until(lambda: world.app.book.session > session, 300, "a new connection")
    await world.until_ready(120)


@pytest.fixture
async def stranger(world):
    """Another API client of the same gateway."""
    ib = IB()
    await ib.connectAsync("127.0.0.1", PORT, 7)
    yield ib
    ib.teardown()


# --- synchronisation is verified -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("request_name", "says"),
    [
        ("positions", "positions"),
        ("allOpenOrders", "open orders"),
        ("completedOrders", "completed orders"),
        ("executions", "executions"),
        ("accountUpdates", "account updates"),
    ],
)
async def test_a_part_that_never_arrives_is_never_taken_for_empty(config, request_name, says):
    """Without positions, orders, executions or the account the link does not become READY; it says what is missing."""
    async with World(replace(with_session(config, request_timeout_s=5), gateway_starts=False)) as world:
        await world.start_gateway()
        world.faults.ignore(request_name)
        await asyncio.sleep(90)
        assert Link.READY not in [change.after for change in world.of(ev.LinkChanged)]
        assert world.of(ev.Snapshot) == []
        downs = [change.why for change in world.of(ev.LinkChanged) if change.after is Link.DOWN]
        assert downs, "the connection that cannot be verified is given up, and tried anew"
        assert all(f"{says}: no answer within 5 s" in why for why in downs)
        world.faults.heal()
        await world.until_ready(120)


async def test_a_part_that_comes_late_is_asked_again_on_the_same_connection(config):
    """One unanswered request costs one attempt, not the connection."""
    async with World(replace(with_session(config, request_timeout_s=5), gateway_starts=False)) as world:
        await world.start_gateway()
        world.faults.ignore("positions", times=SYNC_TRIES - 1)
        await world.until_ready()
        assert world.app.book.session == len(world.of(ev.SessionOpened)) + world.of(ev.SessionOpened)[0].session - 1
        assert len(world.of(ev.SessionOpened)) == 1


async def test_no_order_leaves_before_everything_is_verified(config, holder):
    """READY is proven first; until then a wish is refused, not parked."""
    async with World(config) as world:
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
        world.faults.ignore("positions")
        world.faults.drop()
        await world.until(lambda: world.app.book.link is Link.SYNCING, what="SYNCING")
        await asyncio.sleep(1)
        with pytest.raises(Refused, match="SYNCING"):
            holder.desk.submit(buy())
        with pytest.raises(NotReady, match="SYNCING"):
            world.app.session.check_can_place(1)
        assert refs_at_gateway(world) == []


@pytest.mark.parametrize(("kept", "code"), [(False, 1101), (True, 1102)])
async def test_after_a_cut_the_link_is_ready_only_when_verified_again(world, holder, kept, code):
    """1100: CUT and no orders. 1101 or 1102: SYNCING, a new look, then READY, on the same connection."""
    holder.desk.watch(EUR)
    await world.until(lambda: holder.of(ev.Tick), what="ticks")
    looks = len(world.of(ev.Snapshot))
    world.faults.cut()
    await world.until(lambda: world.app.book.link is Link.CUT, 1)
    with pytest.raises(Refused, match="CUT"):
        holder.desk.submit(buy())
    await asyncio.sleep(120)
    assert world.app.book.link is Link.CUT
    assert world.app.book.quote(EUR) is None
    world.faults.restore(data_kept=kept)
    await world.until_ready()
    assert len(world.of(ev.Snapshot)) == looks + 1
    assert len(world.of(ev.SessionOpened)) == 1
    assert code in [signal.code for signal in world.of(ev.LinkSignalled)]
    before = len(holder.of(ev.Tick))
    await world.until(lambda: len(holder.of(ev.Tick)) > before, 20, "ticks again")
    gaps = [type(event) for event in holder.seen if isinstance(event, (ev.Gap, ev.Resumed))]
    assert gaps == [ev.Gap, ev.Resumed]


async def test_a_look_that_a_cut_overtakes_proves_nothing(world):
    """Answers that were under way when 1100 came do not make the link READY."""
    look_soon(world)
    asyncio.get_running_loop().network.latency_s = 0.2
    world.faults.ignore("executions", times=1)
    await asyncio.sleep(2)
    world.faults.cut()
    await asyncio.sleep(100)
    assert world.app.book.link is Link.CUT


async def test_a_line_that_is_cut_at_logon_is_never_ready(config):
    """1100 said before the handshake ends is not forgotten."""
    async with World(replace(config, gateway_starts=False)) as world:
        await world.start_gateway()
        world.faults.cut()
        await world.until(lambda: world.of(ev.SessionOpened))
        await asyncio.sleep(60)
        assert world.app.book.link is Link.CUT
        world.faults.restore(data_kept=True)
        await world.until_ready()


async def test_farm_codes_do_not_move_the_link(world):
    """2103 and 2104 are facts beside the link."""
    world.faults.farm_down()
    await world.until(lambda: world.app.book.farms_down, 1)
    world.faults.cut()
    world.faults.farm_up()
    await world.until(lambda: not world.app.book.farms_down, 1)
    assert world.app.book.link is Link.CUT


async def test_1300_is_a_lost_socket(world):
    """The gateway says that it resets its socket and closes: a new connection follows."""
    world.gateway.notify(1300, "TWS socket port has been reset and this connection is being dropped.")
    await asyncio.sleep(0.01)
    world.faults.drop()
    await reconnected(world)
    assert [notice.code for notice in world.of(ev.BrokerNotice) if notice.code == 1300] == [1300]


@pytest.mark.parametrize("waiting", [False, True])
async def test_nothing_of_a_lost_connection_is_kept(world, holder, waiting):
    """Its objects go with it: no error, kept for its words, holds on to what was there when it happened."""
    holder.desk.watch(EUR)
    await asyncio.sleep(1)
    lost = weakref.ref(world.app.session._connection.ib)
    if waiting:  # a question is open when the line is lost, and its error comes out of that
        world.faults.ignore("current_time")
        await asyncio.sleep(6)
        assert lost().wrapper._futures
    world.faults.drop()
    await reconnected(world)
    await asyncio.sleep(1)
    gc.collect()
    assert lost() is None
    assert isinstance(world.app.session.last_failure, LineOver)


async def test_a_client_id_in_use_is_tried_again_with_the_same_id(config):
    """326 ends an attempt in an instant; when the other client is gone we are in."""
    async with World(replace(config, gateway_starts=False)) as world:
        await world.start_gateway()
        squatter = IB()
        await squatter.connectAsync("127.0.0.1", PORT, 1)
        await asyncio.sleep(60)
        assert world.of(ev.SessionOpened) == []
        squatter.teardown()
        await world.until_ready(70)
        assert world.app.book.client_id == 1


# --- dead, wedged, slow ----------------------------------------------------------------------------------------------


async def test_a_half_open_line_is_found_in_the_stated_time(world):
    """No byte and no reset: noticed within probe_interval + probe_timeout + 1 s, and a new connection is made."""
    session = world.config.session
    network = asyncio.get_running_loop().network
    frozen_s = world.now_s
    network.freeze(PORT)
    await world.until(lambda: world.app.book.link is Link.DOWN, 60)
    assert world.now_s - frozen_s <= session.probe_interval_s + session.probe_timeout_s + 1
    network.thaw(PORT)
    await world.until_ready(120)


@pytest.mark.parametrize("every_s", [2.0, 0.05])
async def test_a_wedged_gateway_is_found(world, every_s):
    """Bytes arrive, seldom or often, but no question is answered: given up after wedged_timeout."""

    def chatter():
        world.gateway.notify(2106, "HMDS data farm connection is OK:ushmds")
        asyncio.get_running_loop().call_later(every_s, chatter)

    chatter()
    session, since_s = world.config.session, world.now_s
    world.faults.ignore("currentTime")
    await world.until(lambda: world.app.book.link is Link.DOWN, 100)
    assert session.wedged_timeout_s <= world.now_s - since_s
    assert world.now_s - since_s <= session.probe_interval_s + session.wedged_timeout_s + 1
    assert "wedged" in world.of(ev.LinkChanged)[-1].why


async def test_a_slow_gateway_is_not_a_dead_one(world):
    """Answers that take most of the limit, for ten minutes, cost nothing."""
    network = asyncio.get_running_loop().network
    network.latency_s = (world.config.session.probe_timeout_s - 1) / 2
    await asyncio.sleep(600)
    assert world.app.book.link is Link.READY
    assert len(world.of(ev.SessionOpened)) == 1


async def test_a_stall_shorter_than_the_limit_is_survived(world, holder):
    """A gateway that freezes for some seconds keeps its connection, and an order given before is still known."""
    ref = holder.desk.submit(buy())
    for _ in range(5):
        world.faults.stall()
        await asyncio.sleep(world.config.session.probe_timeout_s - 2)
        world.faults.resume()
        await asyncio.sleep(10)
    assert len(world.of(ev.SessionOpened)) == 1
    assert state(world, ref) is OrderState.WORKING


async def test_reconnecting_goes_on_for_as_long_as_it_takes(world):
    """A gateway that is away for a night is found again within the longest waiting time."""
    world.faults.refuse()
    world.faults.drop()
    await asyncio.sleep(8 * 3600)
    await world.faults.accept()
    await world.until_ready(world.config.session.reconnect_delay_max_s * 1.5 + 5)
    assert len(asyncio.all_tasks()) < 25


async def test_sessions_leave_nothing_behind(config, holder):
    """Twenty lost connections later there are as many tasks and sockets as after the first."""
    async with World(with_session(config, reconnect_delay_min_s=0.1, reconnect_delay_max_s=0.2)) as world:
        await world.until(lambda: holder.desk is not None)
        holder.desk.watch(EUR)
        await reconnected_after_drop(world)
        tasks = len(asyncio.all_tasks())
        for _ in range(20):
            await reconnected_after_drop(world)
        assert len(asyncio.all_tasks()) == tasks
        assert asyncio.get_running_loop().network.connections(PORT) == 1
        assert len(world.gateway.sessions) == 1


async def reconnected_after_drop(world):
    """Lose the line and get it back."""
    world.faults.drop()
    await reconnected(world)


@pytest.mark.parametrize("moment_s", [i / 2000 for i in range(24)])
async def test_the_service_can_be_stopped_at_any_moment_of_logging_on(config, moment_s):
    """Handshake, synchronising, ready: a stop is obeyed at once."""
    async with World(config) as world:
        await asyncio.sleep(moment_s)
        asked_s = world.now_s
        assert await world.stop_service() == 0
        assert world.now_s - asked_s < 3


def after_turns(turns, act):
    """Do something so many turns of the loop from now, in this very instant."""
    if turns:
        asyncio.get_running_loop().call_soon(after_turns, turns - 1, act)
    else:
        act()


@pytest.mark.parametrize("turns", range(8))
async def test_a_cancellation_as_the_line_dies_is_obeyed(world, turns):
    """Before Python 3.13 a TaskGroup drops the one that coincides with a child's failure; the session must not."""
    session = next(task for task in asyncio.all_tasks() if task.get_name() == "session")
    over = world.app.session._connection.over
    over.add_done_callback(lambda _: after_turns(turns, session.cancel))
    world.faults.drop()
    await asyncio.wait([session], timeout=3)
    assert session.done()


@pytest.mark.parametrize("turns", range(0, 30, 3))
async def test_a_stop_as_the_line_dies_is_obeyed(config, turns):
    """Gateway and service are stopped together, as a machine does: it is not taken for one more lost line."""
    async with World(config) as world:
        await world.until_ready()
        over = world.app.session._connection.over
        over.add_done_callback(lambda _: after_turns(turns, lambda: world.app.request_stop("both at once")))
        world.faults.drop()
        assert await asyncio.wait_for(world.ended(), 5) == 0


@pytest.mark.parametrize("moment_s", [i / 5000 for i in range(20)])
async def test_a_line_lost_at_any_moment_of_logging_on_is_made_anew(config, moment_s):
    """Losing the socket in the middle of the handshake or of a synchronisation is one more attempt, nothing else."""
    async with World(config) as world:
        await asyncio.sleep(moment_s)
        world.faults.drop()
        await world.until_ready(30)
        assert world.app.book.account == ACCOUNT


# --- fills -----------------------------------------------------------------------------------------------------------


async def test_fills_while_the_socket_is_down_are_told_exactly_once(world, holder):
    """An order fills while nobody listens; after the reconnect the strategy reads the fill, once, as recovered."""
    ref = holder.desk.submit(buy(THROUGH))
    world.faults.lose("execDetails")
    world.faults.lose("orderStatus")
    world.faults.lose("openOrder")
    world.faults.refuse()
    await asyncio.sleep(0.01)
    world.faults.drop()
    await world.until(lambda: world.gateway.executions, what="the fill at the exchange")
    assert world.of(ev.Fill) == []
    world.faults.heal()
    await world.faults.accept()
    await reconnected(world)
    for _ in range(3):
        await reconnected_after_drop(world)
    await asyncio.sleep(700)  # and over further looks
    (fill,) = world.of(ev.Fill)
    assert (fill.ref, fill.quantity, fill.recovered) == (ref, D(1000), True)
    assert holder.of(ev.Fill) == [fill]
    assert state(world, ref) is OrderState.FILLED
    assert [c.commission for c in world.of(ev.CommissionReported)] == [D(2)]
    assert holder.desk.position(EUR) == 1000
    world.check_agreement()


async def test_fills_while_the_line_is_cut_are_told_exactly_once(world, holder):
    """What IB never reports afterwards is found by asking."""
    ref = holder.desk.submit(buy(THROUGH))
    world.faults.cut()
    await asyncio.sleep(5)
    world.faults.restore(data_kept=True, lose_reports=True)
    await world.until_ready()
    await world.until(lambda: state(world, ref) is OrderState.FILLED, 20)
    assert len(world.of(ev.Fill)) == len(holder.of(ev.Fill)) == 1
    world.check_agreement()


async def test_a_lost_execution_report_is_found_at_the_next_look(world, holder):
    """The status says Filled, the execution never comes: nothing is believed until the broker was asked."""
    world.faults.lose("execDetails", times=1)
    ref = holder.desk.submit(buy(THROUGH))
    await asyncio.sleep(5)
    assert state(world, ref) is not OrderState.FILLED
    assert holder.desk.position(EUR) == 0
    await asyncio.sleep(world.config.session.reconcile_interval_s + 5)
    assert state(world, ref) is OrderState.FILLED
    assert holder.desk.position(EUR) == 1000
    assert [adjusted.cause for adjusted in world.of(ev.PositionAdjusted)] == []
    world.check_agreement()


async def test_every_report_may_come_many_times(world, holder):
    """Statuses three times each: each change is told once."""
    world.faults.duplicate_status(copies=3)
    ref = holder.desk.submit(buy(THROUGH))
    await world.until(lambda: state(world, ref) is OrderState.FILLED)
    await asyncio.sleep(2)
    changes = [(change.before, change.after) for change in holder.of(ev.OrderChanged)]
    assert len(changes) == len(set(changes))
    assert changes[-1][1] is OrderState.FILLED
    assert len(holder.of(ev.Fill)) == 1


async def test_a_split_wire_changes_nothing(world, holder):
    """Every byte on its own, and hundreds of messages in one chunk: the same fills."""
    network = asyncio.get_running_loop().network
    for misfortune in (lambda: network.split(1), network.glue):
        misfortune()
        ref = holder.desk.submit(buy(THROUGH))
        await world.until(lambda ref=ref: state(world, ref) is OrderState.FILLED)
    assert len(world.of(ev.Fill)) == 2
    world.check_agreement()


async def test_a_position_traded_elsewhere_is_announced(world, stranger):
    """Somebody else buys on this account: the book follows, and what we did not execute is for a person to accept."""
    stranger.client.placeOrder(1, contract_of(EUR), order_of(buy(THROUGH, "5000"), "by hand", ACCOUNT))
    await world.until(lambda: world.app.book.position(EUR) == 5000, what="the position")
    assert world.of(ev.Fill) == []
    await asyncio.sleep(world.config.session.reconcile_interval_s + 20)
    assert world.of(ev.PositionAdjusted) == []
    assert list(world.app.book.quarantines) == [ACCOUNT]
    with pytest.raises(UnknownAccount):
        world.app.accept_quarantine("DU999", "me")
    world.faults.cut()
    await world.until(lambda: world.app.book.link is Link.CUT)
    with pytest.raises(NotReady):
        world.app.accept_quarantine(ACCOUNT, "me")
    world.faults.restore(data_kept=True)
    await world.until_ready()
    world.app.accept_quarantine(ACCOUNT, "me")
    (adjusted,) = world.of(ev.PositionAdjusted)
    assert (adjusted.before, adjusted.after, adjusted.cause) == (0, 5000, "accepted")
    world.check_agreement()


async def test_a_slow_line_and_steady_fills_announce_no_mismatch(world, holder):
    """A fill that arrives while the positions are being listed explains the difference."""
    asyncio.get_running_loop().network.latency_s = 0.3
    for number in range(120):
        if number % 6 == 0:
            look_soon(world)
        holder.desk.submit(buy(THROUGH), key=f"{number}")
        await asyncio.sleep(0.3)
    await asyncio.sleep(60)
    world.check_agreement()
    assert [(a.before, a.after, a.cause) for a in world.of(ev.PositionAdjusted)] == []


# --- orders ----------------------------------------------------------------------------------------------------------


async def test_rolled_back_ids_stay_above_our_mark(world, holder):
    """The gateway forgets which ids it gave: ours go on above the highest ever used, and no order is replaced."""
    first = holder.desk.submit(buy())
    await world.until(lambda: state(world, first) is OrderState.WORKING)
    mark = world.app.book.order_id_mark
    world.faults.roll_back_ids(1000)
    await reconnected_after_drop(world)
    second = holder.desk.submit(buy("0.95"))
    await world.until(lambda: state(world, second) is OrderState.WORKING)
    assert world.app.book.orders[second].order_id > mark
    assert len(world.gateway.open_orders) == 2


async def test_rolled_back_ids_stay_above_our_mark_after_a_restart(world, holder):
    """The mark is in the journal."""
    first = holder.desk.submit(buy())
    await world.until(lambda: state(world, first) is OrderState.WORKING)
    world.faults.roll_back_ids(1000)
    holder.desk = None
    await world.restart_service()
    await world.until_ready()
    await world.until(lambda: holder.desk is not None)
    second = holder.desk.submit(buy("0.95"))
    await world.until(lambda: state(world, second) is OrderState.WORKING)
    assert len(world.gateway.open_orders) == 2


async def test_rolled_back_ids_stay_above_an_id_that_a_crash_hid(world, holder, monkeypatch):
    """An order left, and a crash kept `OrderSent` from the journal: its id is not used again, twice in a row."""
    write = Journal._write

    def dying(journal, row):
        if row[2] != "OrderSubmitted":
            raise sqlite3.OperationalError("the process is as good as dead")
        write(journal, row)

    for number in range(2):
        with monkeypatch.context() as crash:
            crash.setattr(Journal, "_write", dying)
            ref = holder.desk.submit(buy(THROUGH), key=f"{number}")
            await world.until(lambda ref=ref: state(world, ref) is OrderState.FILLED)
            holder.desk = None
            await world.stop_service()
        world.faults.roll_back_ids(1000)
        world.start_service()
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
    last = holder.desk.submit(buy(), key="last")
    await world.until(lambda: state(world, last) is OrderState.WORKING)
    assert len(set(refs_at_gateway(world))) == 3


async def test_a_silently_dropped_order_is_looked_for_and_never_sent_again(world, holder):
    """IB is known to drop orders without a word: after the deadline the broker is asked, and the answer is UNKNOWN."""
    world.faults.ignore("placeOrder", times=1)
    ref = holder.desk.submit(buy(THROUGH))
    await asyncio.sleep(1)
    looks = len(world.of(ev.Snapshot))
    await world.until(lambda: state(world, ref) is OrderState.UNKNOWN, 20)
    assert len(world.of(ev.Snapshot)) > looks
    await asyncio.sleep(1000)
    assert state(world, ref) is OrderState.UNKNOWN
    assert refs_at_gateway(world) == []
    assert holder.desk.submit(buy(THROUGH), key="another")  # the strategy goes on


async def test_a_dropped_order_is_absent_once_the_connection_is_gone(world, holder):
    """It can no longer arrive: half a minute on a new connection that knows nothing of it settles that."""
    world.faults.ignore("placeOrder", times=1)
    ref = holder.desk.submit(buy(THROUGH), key="k")
    await world.until(lambda: state(world, ref) is OrderState.UNKNOWN, 20)
    await reconnected_after_drop(world)
    await world.until(lambda: state(world, ref) is OrderState.ABSENT, 60)
    assert holder.desk.submit(buy(THROUGH), key="k") == ref
    assert refs_at_gateway(world) == []


async def test_an_order_that_the_gateway_holds_back_is_not_called_absent(world, holder):
    """It kept the order for 20 s, over a lost line: only then is it shown, and the key was never free."""
    world.faults.delay("placeOrder", 20)
    ref = holder.desk.submit(buy(), key="k")
    await asyncio.sleep(0.1)
    await reconnected_after_drop(world)
    await world.until(lambda: state(world, ref) is OrderState.UNKNOWN, 20)
    await asyncio.sleep(40)
    assert state(world, ref) is OrderState.WORKING
    assert OrderState.ABSENT not in [change.after for change in world.of(ev.OrderChanged)]
    assert refs_at_gateway(world) == [ref]


async def test_what_is_sent_again_is_watched_in_the_order_of_sending(world, holder):
    """A cancel after a later order: each is looked for at its own deadline, none before."""
    first, second = holder.desk.submit(buy()), holder.desk.submit(buy("0.8"))
    intake = world.app.session._connection.intake
    intake.sent(first)
    assert list(intake.unacknowledged) == [second, first]


async def test_an_order_sent_as_the_line_dies_is_accounted_for(world, holder):
    """Frozen before the bytes leave: UNKNOWN after the reconnect, then ABSENT; never sent twice."""
    network = asyncio.get_running_loop().network
    network.freeze(PORT)
    ref = holder.desk.submit(buy(THROUGH))
    await world.until(lambda: world.app.book.link is Link.DOWN, 60)
    network.thaw(PORT)
    await world.until_ready(120)
    await world.until(lambda: world.app.book.orders[ref].done, 60)
    await asyncio.sleep(60)
    reached = refs_at_gateway(world)
    assert len(reached) <= 1
    assert state(world, ref) is (OrderState.FILLED if reached else OrderState.ABSENT)
    world.check_agreement()


async def test_a_look_that_is_long_on_its_way_through_the_inbox_is_followed_by_a_second(world, holder, monkeypatch):
    """With hundreds of executions to be told again: what it left in doubt does not wait for five minutes."""
    monkeypatch.setattr(app_module, "PUMP_BATCH", 0)
    for number in range(12):
        holder.desk.submit(buy(THROUGH, str(1000 + number)))
    await world.until(lambda: len(world.of(ev.CommissionReported)) == 12)
    network = asyncio.get_running_loop().network
    network.freeze(PORT)
    ref = holder.desk.submit(buy(AWAY))
    await world.until(lambda: world.app.book.link is Link.DOWN, 60)
    world.faults.drop()
    network.reset(PORT)
    network.thaw(PORT)
    await world.until_ready(120)
    await world.until(lambda: state(world, ref) is OrderState.ABSENT, 60)
    assert ref not in refs_at_gateway(world)


async def test_an_order_lost_before_midnight_is_not_called_absent_after_it(config, holder):
    """The broker forgets executions and completed orders at midnight: an order that filled unseen stays UNKNOWN."""
    late = datetime(2026, 11, 24, 4, 55, tzinfo=UTC)  # 23:55 in New York
    async with World(replace(config, gateway=GatewayConfig(started_at=late))) as world:
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
        for report in ("openOrder", "orderStatus", "execDetails"):
            world.faults.lose(report)
        ref = holder.desk.submit(buy(THROUGH))
        await world.until(lambda: world.gateway.executions)
        world.faults.refuse()
        world.faults.drop()
        await asyncio.sleep(600)
        world.gateway.exchange.executions.clear()  # midnight
        world.gateway.exchange.completed.clear()
        world.faults.heal()
        await world.faults.accept()
        await reconnected(world)
        await asyncio.sleep(60)
        assert [adjusted.cause for adjusted in world.of(ev.PositionAdjusted)] == ["while_away"]
        assert state(world, ref) is OrderState.UNKNOWN


async def test_a_false_cancel_is_provisional(world, holder):
    """An error that the library would take for a cancellation: in doubt for a moment, then what the server says."""
    world.faults.false_cancel(code=161, text="Cancel attempted when order is not in a cancellable state.")
    ref = holder.desk.submit(buy(THROUGH))
    await world.until(lambda: state(world, ref) is OrderState.FILLED)
    states = [change.after for change in holder.of(ev.OrderChanged)]
    assert OrderState.PROVISIONALLY_CANCELLED in states
    assert OrderState.CANCELLED not in states
    world.check_agreement()


async def test_a_false_cancel_of_a_resting_order_is_taken_back_by_asking(world, holder):
    """Nothing more is reported by itself: the look finds the order alive."""
    world.faults.lose("orderStatus")
    world.faults.lose("openOrder", times=2)
    world.faults.false_cancel(code=10268, text="The 'EtradeOnly' order attribute is not supported.")
    ref = holder.desk.submit(buy())
    await world.until(lambda: state(world, ref) is OrderState.PROVISIONALLY_CANCELLED, 5)
    await world.until(lambda: state(world, ref) is OrderState.WORKING, 10)


async def test_a_notice_changes_nothing(world, holder):
    """10349 ("TIF was set to DAY") is no cancellation."""
    world.faults.false_cancel()
    ref = holder.desk.submit(buy())
    await asyncio.sleep(5)
    assert state(world, ref) is OrderState.WORKING
    told = {error.code: error.meaning for error in world.of(ev.OrderErrored)}
    assert told.pop(10349) == "notice"
    assert set(told) <= {399}  # a small currency order is an odd lot, says IB
    assert OrderState.PROVISIONALLY_CANCELLED not in [change.after for change in holder.of(ev.OrderChanged)]


@pytest.mark.parametrize("code", [201, 103, 110, 200, 10243])
async def test_a_refused_order_comes_to_an_end_by_asking(world, holder, code):
    """With a status (201) it ends REJECTED; where only silence follows it is UNKNOWN; never WORKING."""
    world.faults.reject_next(code, "Order rejected - reason:simulated")
    ref = holder.desk.submit(buy())
    await asyncio.sleep(30)
    assert state(world, ref) in {OrderState.REJECTED, OrderState.UNKNOWN}
    assert (state(world, ref) is OrderState.REJECTED) == (code == 201)


async def test_the_brokers_reason_for_a_refusal_is_kept(world, holder):
    """What the strategy reads says why, not only that."""
    world.faults.reject_next(201, "Order rejected - reason:no margin")
    ref = holder.desk.submit(buy())
    await world.until(lambda: state(world, ref) is OrderState.REJECTED)
    assert "no margin" in world.app.book.orders[ref].reason


async def test_a_cancel_is_confirmed_by_the_server_only(world, holder):
    """CANCEL_PENDING until the server's status."""
    ref = holder.desk.submit(buy())
    await world.until(lambda: state(world, ref) is OrderState.WORKING)
    holder.desk.cancel(ref)
    assert state(world, ref) is OrderState.CANCEL_PENDING
    assert (await asyncio.wait_for(holder.desk.finished(ref), 5)).state is OrderState.CANCELLED
    assert world.gateway.open_orders == []


async def test_a_cancel_that_comes_too_late_is_a_fill(world, holder):
    """10148: the order was faster; it ends FILLED, and the position is held."""
    world.faults.lose("orderStatus")
    world.faults.lose("execDetails", times=1)
    ref = holder.desk.submit(buy(THROUGH))
    await world.until(lambda: world.gateway.executions)
    holder.desk.cancel(ref)
    world.faults.heal()
    await world.until(lambda: state(world, ref) is OrderState.FILLED, 20)
    assert holder.desk.position(EUR) == 1000


async def test_an_order_of_an_earlier_connection_can_be_cancelled(world, holder):
    """After a reconnect the order is known by its new id."""
    ref = holder.desk.submit(buy())
    await world.until(lambda: state(world, ref) is OrderState.WORKING)
    await asyncio.sleep(1)
    await reconnected_after_drop(world)
    holder.desk.cancel(ref)
    await world.until(lambda: state(world, ref) is OrderState.CANCELLED, 10)
    assert world.gateway.open_orders == []


@pytest.mark.parametrize("away", ["cut", "down"])
async def test_a_cancel_wanted_while_away_is_sent_first(world, holder, away):
    """It is accepted at once, and on the wire before anything else after the synchronisation."""
    ref = holder.desk.submit(buy())
    await world.until(lambda: state(world, ref) is OrderState.WORKING)
    await asyncio.sleep(1)
    if away == "cut":
        world.faults.cut()
        await world.until(lambda: world.app.book.link is Link.CUT, 5)
    else:
        world.faults.refuse()
        world.faults.drop()
        await world.until(lambda: world.app.book.link is Link.DOWN, 5)
    holder.desk.cancel(ref)
    assert state(world, ref) is OrderState.CANCEL_PENDING
    await asyncio.sleep(30)
    assert len(world.gateway.open_orders) == 1
    if away == "cut":
        world.faults.restore(data_kept=True)
    else:
        await world.faults.accept()
    await world.until(lambda: state(world, ref) is OrderState.CANCELLED, 60)
    ready_s = [change.at for change in world.of(ev.LinkChanged) if change.after is Link.READY][-1]
    cancelled_s = [c.at for c in world.of(ev.OrderChanged) if c.after is OrderState.CANCELLED][-1]
    assert (cancelled_s - ready_s).total_seconds() < 1


async def test_a_wanted_cancel_leaves_as_soon_as_its_order_is_shown(world, holder):
    """The rest of the look may take long: the order is gone before the link is READY, and was asked for once."""
    ref = holder.desk.submit(buy())
    await world.until(lambda: state(world, ref) is OrderState.WORKING)
    await asyncio.sleep(1)
    world.faults.refuse()
    world.faults.drop()
    await world.until(lambda: world.app.book.link is Link.DOWN, 5)
    holder.desk.cancel(ref)
    world.faults.ignore("executions", times=1)
    await world.faults.accept()
    await world.until(lambda: state(world, ref) is OrderState.CANCELLED, 60)
    assert world.app.book.link is Link.SYNCING
    await world.until_ready(60)
    await asyncio.sleep(30)
    assert {error.code for error in world.of(ev.OrderErrored)} == {399, 202}, "a second one would be answered by 10148"


async def test_a_status_tells_of_an_order_that_is_not_shown(world, holder):
    """Its acknowledgement was lost, and so is each openOrder from then on: it is not called absent."""
    world.faults.lose("openOrder")
    world.faults.lose("orderStatus")
    ref = holder.desk.submit(buy(), key="k")
    await asyncio.sleep(0.1)
    world.faults.heal()
    world.faults.lose("openOrder")
    await reconnected_after_drop(world)
    await asyncio.sleep(300)
    assert OrderState.ABSENT not in [change.after for change in world.of(ev.OrderChanged)]
    assert holder.desk.submit(buy(), key="k") == ref
    world.faults.heal()
    await asyncio.sleep(30)
    assert state(world, ref) is OrderState.WORKING
    assert refs_at_gateway(world) == [ref]


async def test_a_cancel_that_got_lost_is_sent_again(world, holder):
    """A cancel is desired state: while the broker shows the order as open, it is asked for."""
    ref = holder.desk.submit(buy())
    await world.until(lambda: state(world, ref) is OrderState.WORKING)
    world.faults.ignore("cancelOrder", times=1)
    holder.desk.cancel(ref)
    await world.until(lambda: state(world, ref) is OrderState.CANCELLED, 700)


async def test_a_cancel_of_an_order_that_filled_meanwhile_is_not_sent(world, holder):
    """Wanted while DOWN, but the order filled: nothing is left to cancel."""
    ref = holder.desk.submit(buy(THROUGH))
    for report in ("execDetails", "orderStatus", "openOrder"):
        world.faults.lose(report)
    world.faults.refuse()
    await asyncio.sleep(0.01)
    world.faults.drop()
    await world.until(lambda: world.app.book.link is Link.DOWN, 5)
    holder.desk.cancel(ref)
    await asyncio.sleep(5)
    world.faults.heal()
    await world.faults.accept()
    await reconnected(world)
    await asyncio.sleep(2)
    assert state(world, ref) is OrderState.FILLED
    assert {error.code for error in world.of(ev.OrderErrored)} <= {399}  # an odd lot; no 10148


async def test_a_burst_of_orders_is_paced_and_never_queued(world, holder):
    """More than the allowance of a second: the rest is refused there and then, and the gateway never complains."""
    sent, paced = 0, 0
    for number in range(60):
        try:
            holder.desk.submit(buy(quantity=f"{1000 + number}", price=f"0.{5000 + number * 10}"), key=f"{number}")
            sent += 1
        except (Paced, Refused) as exc:
            paced += isinstance(exc, Paced)
            if isinstance(exc, Refused):
                break
    assert sent <= world.config.session.max_rate_per_s
    await asyncio.sleep(5)
    assert len(refs_at_gateway(world)) == sent
    assert 100 not in [notice.code for notice in world.of(ev.BrokerNotice)]


async def test_a_paced_wish_can_be_said_again(world, holder):
    """Paced means that nothing happened: the same key, a second later, is sent."""
    intent = buy(account=ACCOUNT)
    pacer = world.app.session._connection.ib.client.pacer
    while pacer.room_for_orders():
        pacer._sent.append(world.now_s)
    with pytest.raises(Paced):
        holder.desk.submit(intent, key="k")
    await asyncio.sleep(2)
    ref = holder.desk.submit(intent, key="k")
    await world.until(lambda: state(world, ref) is OrderState.WORKING, 5)


# --- restarts --------------------------------------------------------------------------------------------------------


async def test_the_same_key_is_the_same_order_after_a_restart(world, holder):
    """Journal, broker and strategy agree that there is one order, and `Recovered` says so first."""
    intent = buy()
    ref = holder.desk.submit(intent, key="entry")
    await world.until(lambda: state(world, ref) is OrderState.WORKING)
    holder.desk, holder.seen = None, []
    await world.restart_service()
    await world.until_ready()
    await world.until(lambda: holder.seen)
    assert isinstance(holder.seen[0], ev.Recovered)
    assert holder.seen[0].working == ((ref, "entry"),)
    assert holder.desk.submit(intent, key="entry") == ref
    await asyncio.sleep(5)
    assert refs_at_gateway(world) == [ref]


async def test_a_fill_while_the_service_is_off_is_found_at_the_start(world, holder):
    """Told once, to the strategy that owns it, and in its position."""
    world.faults.lose("execDetails")
    ref = holder.desk.submit(buy(THROUGH), key="k")
    await asyncio.sleep(0.01)
    await world.stop_service()
    await asyncio.sleep(60)
    world.faults.heal()
    holder.desk = None
    world.start_service()
    await world.until_ready()
    await world.until(lambda: holder.desk is not None)
    await asyncio.sleep(5)
    assert state(world, ref) is OrderState.FILLED
    assert holder.desk.position(EUR) == 1000
    assert len(world.of(ev.Fill)) == 1
    world.check_agreement()


async def test_with_the_journal_lost_an_open_order_is_adopted(world, holder):
    """Its reference is on the order: the key is not sent a second time, and the order is ours to see and cancel."""
    ref = holder.desk.submit(buy(), key="entry")
    await world.until(lambda: state(world, ref) is OrderState.WORKING)
    await world.stop_service()
    for file in world.config.folder.iterdir():
        file.unlink()
    holder.desk = None
    world.start_service()
    await world.until_ready()
    await world.until(lambda: holder.desk is not None)
    assert holder.desk.submit(buy(), key="entry") == ref
    assert world.app.book.orders[ref].state is OrderState.WORKING
    await asyncio.sleep(5)
    assert refs_at_gateway(world) == [ref]
    (row,) = orders_view(world)
    assert row[:2] == (ref, f"adopted:{ref.rpartition('.')[2]}")
    assert row[2:] == ("s", ACCOUNT, "EUR.USD", "BUY", "1000", "LMT", AWAY, "GTC", "WORKING", "0", None)
    holder.desk.cancel(ref)
    await world.until(lambda: state(world, ref) is OrderState.CANCELLED, 5)
    (row,) = orders_view(world)
    assert row[-3] == "CANCELLED"


def orders_view(world):
    """What a person reads at a SQL prompt."""
    columns = "ref, key, strategy, account, instrument, action, quantity, order_type, limit_price, tif"
    sql = f"SELECT {columns}, state, filled, average_price FROM orders"
    with closing(open_readonly(world.config.folder / "journal.sqlite")) as database:
        return database.execute(sql).fetchall()


async def test_with_the_journal_lost_an_open_combination_is_adopted(world, holder):
    """A spread's order comes back as the broker shows it: ours to see and cancel, not to change; its key is spent."""
    chain = await holder.desk.option_chain(Stock("AAPL"), expiries=1, strikes=4)
    calls = [row.option for row in chain.rows if row.option.right == "C"]
    spread = spreads.bull_call(calls[0], calls[1])
    await holder.desk.qualify(spread)
    wish = Intent.buy(spread, 1, debit="0.01")
    ref = holder.desk.submit(wish, key="spread")
    await world.until(lambda: state(world, ref) is OrderState.WORKING)
    await world.stop_service()
    for file in world.config.folder.iterdir():
        file.unlink()
    holder.desk = None
    world.start_service()
    await world.until_ready()
    await world.until(lambda: holder.desk is not None)
    order = world.app.book.orders[ref]
    assert (order.state, len(order.intent.instrument.legs)) == (OrderState.WORKING, 2)
    assert holder.desk.submit(wish, key="spread") == ref
    with pytest.raises(InvalidIntent, match="make a spread"):
        holder.desk.modify(ref, quantity=D(2))
    with pytest.raises(InvalidIntent, match="make a spread"):
        holder.desk.submit(order.intent)
    holder.desk.cancel(ref)
    await world.until(lambda: state(world, ref) is OrderState.CANCELLED, 5)


async def test_with_the_journal_lost_a_filled_order_is_not_repeated(world, holder):
    """Today's executions carry the reference: the key is spent."""
    ref = holder.desk.submit(buy(THROUGH), key="entry")
    await world.until(lambda: state(world, ref) is OrderState.FILLED)
    await world.stop_service()
    for file in world.config.folder.iterdir():
        file.unlink()
    holder.desk = None
    world.start_service()
    await world.until_ready()
    await world.until(lambda: holder.desk is not None)
    assert holder.desk.submit(buy(THROUGH), key="entry") == ref
    await asyncio.sleep(5)
    assert refs_at_gateway(world) == [ref]
    assert world.app.book.position(EUR) == 1000
    world.check_agreement()


async def test_positions_held_at_the_first_start_are_opening_entries(config, holder):
    """What was there before us is adopted at once, and said."""
    async with World(config) as world:
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
        holder.desk.submit(buy(THROUGH, "3000"))
        await world.until(lambda: world.app.book.position(EUR) == 3000)
        await world.stop_service()
        for file in config.folder.iterdir():
            file.unlink()
        world.gateway.exchange.executions.clear()  # yesterday
        world.start_service()
        await world.until_ready()
        (opening,) = world.of(ev.PositionAdjusted)
        assert (opening.before, opening.after, opening.cause) == (0, 3000, "opening")
        world.check_agreement()


async def test_a_foreign_order_is_seen_and_left_alone(world, holder, stranger):
    """Another client's order with our very order id: visible, not adopted, not cancelled."""
    ours = holder.desk.submit(buy())
    await world.until(lambda: state(world, ours) is OrderState.WORKING)
    order_id = world.app.book.orders[ours].order_id
    stranger.client.placeOrder(order_id, contract_of(EUR), order_of(buy("0.8"), "theirs", ACCOUNT))
    await asyncio.sleep(world.config.session.reconcile_interval_s + 5)
    (foreign,) = world.app.book.foreign_orders.values()
    assert (foreign.ref, foreign.client_id, foreign.order_id) == ("theirs", 7, order_id)
    assert set(world.app.book.orders) == {ours}
    holder.desk.cancel(ours)
    await world.until(lambda: state(world, ours) is OrderState.CANCELLED, 5)
    assert [order.client_id for order in world.gateway.open_orders] == [7]


async def test_a_foreign_order_that_is_gone_is_seen_no_more(world, stranger):
    """Other clients' statuses are not sent to us: the next look must tell."""
    stranger.client.placeOrder(1, contract_of(EUR), order_of(buy("0.8"), "theirs", ACCOUNT))
    await world.until(lambda: world.gateway.open_orders)
    look_soon(world)
    await world.until(lambda: world.app.book.foreign_orders, 20)
    stranger.client.cancelOrder(1, "")
    await world.until(lambda: not world.gateway.open_orders)
    await asyncio.sleep(2 * world.config.session.reconcile_interval_s + 10)
    assert world.app.book.foreign_orders == {}


# --- odd input -------------------------------------------------------------------------------------------------------


@pytest.fixture
def slip_in(monkeypatch):
    """A hand on the wire: puts messages of one's own before a message of the gateway's."""

    def install(before, *messages):
        whole = gateway_session.Session.send

        def send(session, message):
            if message == before:
                for extra in messages:
                    whole(session, extra)
            whole(session, message)

        monkeypatch.setattr(gateway_session.Session, "send", send)

    return install


def odd_position(world, con_id=999, quantity=b"5", cost=b"1", **contract):
    """A position message with fields that nobody expects."""
    contract = dataclasses.replace(world.gateway.universe.pair("EUR", "USD"), con_id=con_id, **contract)
    fields = answers.position(ACCOUNT, contract, D(5), D(1))[4:].split(b"\0")
    fields[-3:-1] = [quantity, cost]
    message = b"\0".join(fields)
    return len(message).to_bytes(4, "big") + message


@pytest.mark.parametrize("cost", [b"1.7976931348623157E308", b"NaN", b"", b"-1"])
async def test_a_position_without_a_sensible_cost_is_still_held(world, slip_in, cost):
    """What we hold must not be lost because of what it is said to have cost."""
    slip_in(POSITION_END, odd_position(world, cost=cost))
    await reconnected_after_drop(world)
    assert world.app.book.positions[ACCOUNT, 999].quantity == 5
    assert world.of(ev.LibraryFault) == []


async def test_a_position_in_an_odd_contract_is_still_held(world, slip_in):
    """An option whose expiry is no date is not an option to us, but it is there."""
    odd = odd_position(world, sec_type="OPT", expiry="2027JAN1", strike=D(100), right="C")
    slip_in(POSITION_END, odd)
    await reconnected_after_drop(world)
    assert world.app.book.positions[ACCOUNT, 999].quantity == 5


async def test_a_position_that_is_no_number_does_not_end_the_service(world, slip_in):
    """It cannot be verified, so the link is not READY; but the daemon lives, and recovers when the broker does."""
    slip_in(POSITION_END, odd_position(world, quantity=b"NaN"))
    world.faults.drop()
    await asyncio.sleep(60)
    assert not world._running.done()


async def test_an_order_of_ours_that_makes_no_sense_does_not_end_the_service(world):
    """A limit order without a price, under our prefix: visible, its key spent, not adopted."""
    world.app.inbox.put(
        ev.OpenOrderReported(
            at=EPOCH,
            session=1,
            ref="ibs.x.1.s.12345678",
            order_id=5,
            client_id=1,
            perm_id=5,
            account=ACCOUNT,
            instrument=EUR,
            action="BUY",
            quantity=D(0),
            order_type="LMT",
            status="Submitted",
        )
    )
    await asyncio.sleep(1)
    assert not world._running.done()


async def test_a_message_that_is_never_understood_does_not_keep_us_asking(world, holder):
    """The fault is on record and the broker was asked again; then the usual rhythm returns."""
    holder.desk.submit(buy(THROUGH))
    await world.until(lambda: world.gateway.executions)
    executions = world.gateway.exchange.executions
    executions.append(dataclasses.replace(executions[0], exec_id="0000.1.01", side="XYZ"))
    looks, lines = len(world.of(ev.Snapshot)), len(world.journal_lines())
    look_soon(world)
    await asyncio.sleep(600)
    assert len(world.of(ev.LibraryFault)) >= 1
    assert len(world.of(ev.Snapshot)) - looks < 30
    assert len(world.journal_lines()) - lines < 200


@pytest.mark.parametrize(
    "message",
    [
        frame(999, 1, "what is this"),
        frame(Answer.ORDER_STATUS, "x", "Submitted", "many", 0),
        frame(Answer.ORDER_STATUS, 1, "Elsewhere", 0, 1000, 0, 77, 0, 0, 1, "", 0),
        frame(Answer.ERROR, 2, 1, 99999, "never heard of", ""),
        frame(Answer.ERROR, 2, -1, 2199, "a warning of the future", ""),
        frame(Answer.EXEC_DETAILS, -1),
        frame(Answer.TICK_PRICE, 6, 12345, 1, "nan", "nan", 0),
        frame(Answer.POSITION, 3, ACCOUNT),
        b"\0\0\0\1\0",
    ],
    ids=["unknown id", "no number", "unknown status", "unknown error", "warning", "short", "nan", "torn", "empty"],
)
async def test_nonsense_on_the_wire_is_survived(world, holder, message):
    """Whatever the gateway says, the daemon lives, and the next order is placed and filled."""
    for session in world.gateway.sessions:
        session.send(message)
    await asyncio.sleep(10)
    await world.until_ready()
    ref = holder.desk.submit(buy(THROUGH))
    await world.until(lambda: state(world, ref) is OrderState.FILLED)
    world.check_agreement()


async def test_an_unknown_code_is_passed_on_as_unknown(world):
    """Never swallowed."""
    world.gateway.notify(98765, "a message of the future")
    await world.until(lambda: world.of(ev.BrokerNotice), 5)
    assert [(n.code, n.known) for n in world.of(ev.BrokerNotice)] == [(98765, False)]


# --- the mode is proven ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("accounts", "mode", "wanted", "chosen"),
    [
        (("DU1",), "paper", "", "DU1"),
        (("DU1",), "simulated", "DU1", "DU1"),
        (("DU1", "DU2"), "paper", "DU2", "DU2"),
        (("U1",), "live", "", "U1"),
    ],
)
def test_the_account_is_the_one_that_was_named_or_the_only_one(accounts, mode, wanted, chosen):
    """Nothing is guessed."""
    assert choose_account(accounts, mode, wanted) == chosen


@pytest.mark.parametrize(
    ("accounts", "mode", "wanted", "error"),
    [
        (("U1",), "paper", "", ModeMismatch),
        (("U1",), "simulated", "", ModeMismatch),
        (("DU1", "U1"), "paper", "DU1", ModeMismatch),
        (("DU1",), "live", "", ModeMismatch),
        (("U1", "DU1"), "live", "U1", ModeMismatch),
        (("DU1", "DU2"), "paper", "", AccountProblem),
        (("DU1",), "paper", "DU9", AccountProblem),
        ((), "paper", "", AccountProblem),
    ],
)
def test_an_account_that_contradicts_the_mode_ends_it(accounts, mode, wanted, error):
    """One live account among paper ones is enough to stop."""
    with pytest.raises(error):
        choose_account(accounts, mode, wanted)


async def test_a_live_account_in_paper_mode_ends_the_service(config):
    """Exit code 2, nothing sent, whatever the port."""
    live = replace(config, gateway=GatewayConfig(started_at=EPOCH, accounts=("U1234567",)))
    async with World(with_session(live, mode="paper")) as world:
        assert await asyncio.wait_for(world.ended(), 30) == 2
        assert world.of(ev.SessionOpened) == []


async def test_a_read_only_service_sends_no_order(config, holder):
    """It synchronises without orders, and refuses them."""
    limits = msgspec.structs.replace(config.limits, read_only=True)
    gateway = GatewayConfig(started_at=EPOCH, read_only=True)
    async with World(replace(with_session(config, read_only=True), limits=limits, gateway=gateway)) as world:
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
        with pytest.raises(Refused, match="read_only"):
            holder.desk.submit(buy())
        assert [look.orders_visible for look in world.of(ev.Snapshot)] == [False]


async def test_a_read_only_gateway_is_named_as_the_cause(config):
    """With read_only off, the orders never come: the text says which switch to turn."""
    gateway = GatewayConfig(started_at=EPOCH, read_only=True)
    async with World(replace(with_session(config, request_timeout_s=2), gateway=gateway)) as world:
        await asyncio.sleep(60)
        whys = [change.why for change in world.of(ev.LinkChanged) if change.after is Link.DOWN]
        assert any("ibkr.read_only = true" in why for why in whys)


# --- market data -----------------------------------------------------------------------------------------------------


async def test_what_is_watched_is_watched_again_on_each_connection(world, holder):
    """Ticks, a gap, ticks of a new epoch; one line at the gateway."""
    holder.desk.watch(EUR)
    await world.until(lambda: holder.of(ev.Tick))
    await reconnected_after_drop(world)
    await world.until(lambda: holder.of(ev.Resumed), 20)
    await world.until(lambda: holder.of(ev.Tick)[-1].epoch == 1, 20)
    order = [type(event).__name__ for event in holder.seen if isinstance(event, (ev.Gap, ev.Resumed))]
    assert order == ["Gap", "Resumed"]
    assert sum(stream.is_market_data for stream in world.gateway.sessions[0].streams.values()) == 1
    assert holder.desk.quote(EUR) is not None


async def test_a_watch_begun_during_an_outage_can_price_orders_afterwards(world, holder):
    """The gap that was open when the last watcher left is closed for the next one."""
    holder.desk.watch(EUR)
    await world.until(lambda: holder.of(ev.Tick))
    world.faults.refuse()
    world.faults.drop()
    await world.until(lambda: world.app.book.link is Link.DOWN, 5)
    holder.desk.unwatch(EUR)
    holder.desk.watch(EUR)
    await world.faults.accept()
    await reconnected(world)
    await world.until(lambda: holder.desk.quote(EUR) is not None, 30, "a usable quote")
    assert holder.of(ev.Tick)[-1].epoch == 1


async def test_an_unknown_instrument_is_refused_to_its_watchers_alone(world, holder):
    """SubscriptionFailed; other lines flow."""
    holder.desk.watch(Stock("NOPE"))
    holder.desk.watch(EUR)
    await world.until(lambda: holder.of(ev.SubscriptionFailed) and holder.of(ev.Tick), 20)
    (failed,) = holder.of(ev.SubscriptionFailed)
    assert (failed.instrument, failed.code) == (Stock("NOPE"), 200)
    await asyncio.sleep(600)
    assert holder.of(ev.SubscriptionFailed) == [failed]
    assert world.app.book.link is Link.READY
