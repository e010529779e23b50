"""Each scenario of orders and fills against the whole service: real ib_insync, simulated gateway, virtual time.

Goal: what a scenario is feared for does not happen; what the service says of it is exactly what it should. Method: a
world in which the scenario's script runs beside a strategy that lends its desk; the facts that the strategy read, the
book and the gateway's own records are compared.
"""

from __future__ import annotations

import asyncio
from decimal import Decimal as D

import pytest

from ibkr_service.core import events as ev
from ibkr_service.core import spreads
from ibkr_service.core.errors import JournalError, Refused
from ibkr_service.core.instrument import Option, Stock
from ibkr_service.core.intent import Intent
from ibkr_service.core.orders import OrderState
from ibkr_service.sim import scenarios
from tests.scenes import AAPL, MSFT, scene

UNCERTAIN = {OrderState.UNKNOWN, OrderState.PROVISIONALLY_CANCELLED}


async def test_fill_while_cut(tmp_path):
    """Exactly one fill after the reconnect."""
    async with scene("fill-while-cut", tmp_path) as at:
        ref = at.desk.submit(at.low())
        await at.play_out()
        (fill,) = at.fills(ref)
        assert (fill.quantity, fill.recovered) == (10, True)
        assert at.changes(ref)[-1:] == [OrderState.FILLED]
        assert not UNCERTAIN & set(at.changes(ref))
        at.world.check_agreement()


async def test_fill_before_midnight(tmp_path):
    """The position is reconciled and announced once, without quarantine; the order is UNKNOWN, never sent again."""
    async with scene("fill-before-midnight", tmp_path) as at:
        ref = at.desk.submit(at.low())
        await at.play_out()
        await asyncio.sleep(700)
        (adjusted,) = at.trader.of(ev.PositionAdjusted)
        assert (adjusted.before, adjusted.after, adjusted.cause) == (0, 10, "while_away")
        assert at.fills(ref) == []
        assert at.book.orders[ref].state is OrderState.UNKNOWN
        assert at.placed(ref) == 1
        assert at.quarantined() == {}
        at.world.check_agreement()


async def test_first_start_with_positions(tmp_path):
    """Opening entries, READY, no quarantine."""
    async with scene("first-start-with-positions", tmp_path) as at:
        told = [(e.instrument, e.before, e.after, e.cause) for e in at.world.of(ev.PositionAdjusted)]
        assert told == [(AAPL, 0, 300, "opening"), (MSFT, 0, -50, "opening")]
        assert at.quarantined() == {}
        assert at.desk.submit(at.low())
        at.world.check_agreement()


async def test_expiry_assignment(tmp_path):
    """The short call became stock (assignment), the other is gone (expiry); ledger and broker agree."""
    async with scene("expiry-assignment", tmp_path) as at:
        opened = {e.con_id: e for e in at.world.of(ev.PositionAdjusted)}
        assert {e.cause for e in opened.values()} == {"opening"}
        await at.play_out()
        adjusted = [e for e in at.world.of(ev.PositionAdjusted) if e.cause != "opening"]
        told = {(type(e.instrument), e.before, e.after, e.cause) for e in adjusted}
        assert told == {
            (Option, D(-2), D(0), "assignment"),
            (Option, D(3), D(0), "expiry"),
            (Stock, D(0), D(-200), "assignment"),
        }
        assert at.quarantined() == {}
        assert at.book.position(AAPL) == -200
        at.world.check_agreement()


async def test_disk_full(tmp_path):
    """No new order leaves, a cancel does; the fill is delivered at once and is in the journal afterwards."""
    async with scene("disk-full", tmp_path) as at:
        ref = at.desk.submit(at.low())
        other = at.desk.submit(at.low(5))
        await at.until_state(other, OrderState.WORKING)
        await asyncio.sleep(4)
        with pytest.raises(JournalError):
            at.desk.submit(at.low(7))
        at.desk.cancel(other)
        await at.until_state(other, OrderState.CANCELLED, 5)
        await at.until_state(ref, OrderState.FILLED, 20)
        assert at.world.app.hub.unsaved, "the disk is still full"
        assert len(at.fills(ref)) == 1
        assert len(at.world.gateway.exchange.orders) == 2
        await at.play_out()
        third = at.desk.submit(at.low(9))
        await at.until_state(third, OrderState.WORKING)
        assert not at.world.app.hub.unsaved
        kept = list(at.world.app.journal.replay())
        assert [fact for fact in kept if isinstance(fact, ev.Fill)] == at.fills(ref)
        at.world.check_agreement()


async def test_fill_during_1100(tmp_path):
    """Accepted at once, while the link is CUT."""
    async with scene("fill-during-1100", tmp_path) as at:
        ref = at.desk.submit(at.low())
        await at.until_state(ref, OrderState.FILLED, 10)
        assert at.book.link.name == "CUT"
        (fill,) = at.fills(ref)
        assert not fill.recovered
        await at.play_out()
        assert at.fills(ref) == [fill]
        at.world.check_agreement()


async def test_fill_without_status(tmp_path):
    """What is filled is the sum of the executions."""
    async with scene("fill-without-status", tmp_path) as at:
        ref = at.desk.submit(at.low())
        await at.until(lambda: at.book.orders[ref].filled == 5, "half of it")
        assert at.book.orders[ref].state is OrderState.PARTIALLY_FILLED
        await at.until_state(ref, OrderState.FILLED)
        assert [fill.quantity for fill in at.fills(ref)] == [5, 5]
        await asyncio.sleep(700)
        assert at.world.of(ev.OrderStatusReported) == []
        assert not UNCERTAIN & set(at.changes(ref))
        at.world.check_agreement()


async def test_status_storm(tmp_path):
    """One change each, whatever comes late."""
    async with scene("status-storm", tmp_path) as at:
        ref = at.desk.submit(at.low())
        await at.play_out()
        assert at.changes(ref) == [
            OrderState.SENT,
            OrderState.WORKING,
            OrderState.PARTIALLY_FILLED,
            OrderState.FILLED,
        ]
        assert len(at.fills(ref)) == 2
        # The storm was one: the same word came again after another one.
        words = [fact.status for fact in at.world.of(ev.OrderStatusReported)]
        assert len(words) > len(set(words))


async def test_false_cancel(tmp_path):
    """Provisional, then alive, then filled; never called cancelled, never sent again."""
    async with scene("false-cancel", tmp_path) as at:
        for code in (10148, 105, 161, 10349):
            ref = at.desk.submit(at.low(), key=str(code))
            await at.until_state(ref, OrderState.FILLED, 60)
            assert len(at.fills(ref)) == 1
            seen = at.changes(ref)
            assert (OrderState.PROVISIONALLY_CANCELLED in seen) == (code != 10349), (code, seen)
            assert not {OrderState.CANCELLED, OrderState.REJECTED, OrderState.UNKNOWN} & set(seen)
            assert at.desk.submit(at.low(), key=str(code)) == ref
            assert at.placed(ref) == 1
        at.world.check_agreement()


async def test_cancel_fill_race(tmp_path):
    """Filled wins; what the broker says of the cancel disturbs nobody."""
    async with scene("cancel-fill-race", tmp_path) as at:
        ref = at.desk.submit(at.low())
        await at.until_state(ref, OrderState.WORKING)
        await asyncio.sleep(1)
        at.desk.cancel(ref)
        order = await at.desk.finished(ref)
        assert (order.state, order.filled) == (OrderState.FILLED, 10)
        await at.play_out()
        assert 10148 in [error.code for error in at.world.of(ev.OrderErrored)]
        assert at.changes(ref) == [
            OrderState.SENT,
            OrderState.WORKING,
            OrderState.CANCEL_PENDING,
            OrderState.FILLED,
        ]
        at.world.check_agreement()


async def test_exec_correction(tmp_path):
    """The corrected quantity counts, once: in order, ledger and the strategy's own position."""
    async with scene("exec-correction", tmp_path) as at:
        ref = at.desk.submit(at.low(limit="900"))
        await at.until_state(ref, OrderState.FILLED)
        await at.play_out()
        order = at.book.orders[ref]
        assert (order.filled, order.state) == (6, OrderState.PARTIALLY_FILLED)
        assert at.desk.position(AAPL) == 6
        assert [fill.quantity for fill in at.book.fills_of(ref)] == [6]
        assert [fill.quantity for fill in at.fills(ref)] == [10, 6]
        await asyncio.sleep(700)  # the looks show both revisions again
        assert [fill.quantity for fill in at.fills(ref)] == [10, 6]
        assert at.book.orders[ref].state is OrderState.CANCELLED, "the broker will do nothing more with it"
        assert at.book.unaccounted() == ()
        at.world.check_agreement()


async def test_commission_first(tmp_path):
    """An early commission is kept and told; one that never comes keeps nobody waiting."""
    async with scene("commission-first", tmp_path) as at:
        first = at.desk.submit(at.low(limit="900"))
        await at.until_state(first, OrderState.FILLED)
        await at.play_out()
        (fill,) = at.fills(first)
        kinds = [type(e) for e in at.world.events if getattr(e, "exec_id", None) == fill.exec_id]
        assert kinds == [ev.CommissionReported, ev.Fill]
        assert at.book.commissions[fill.exec_id].commission > 0
        second = at.desk.submit(at.low(limit="900"))
        await at.until_state(second, OrderState.FILLED)
        await asyncio.sleep(700)
        (other,) = at.fills(second)
        assert other.exec_id not in at.book.commissions
        at.world.check_agreement()


async def test_combo_legs(tmp_path):
    """Each spread is filled once, by its own execution or by those of its legs; positions are those of the legs."""
    async with scene("combo-legs", tmp_path) as at:
        chain = await at.desk.option_chain(AAPL, expiries=1, strikes=6)
        calls = [row.option for row in chain.rows if row.option.right == "C"]
        spread = spreads.bull_call(calls[0], calls[1])
        await at.desk.qualify(spread)
        for leg in spread.legs:
            at.desk.watch(leg.instrument)
        await at.until(lambda: at.desk.net_quote(spread) is not None, "a net quote")
        first = at.desk.submit(Intent.buy(spread, 2, debit=at.desk.net_quote(spread).ask + 1))
        await at.until_state(first, OrderState.FILLED)
        assert at.desk.position(calls[0]) == 0, "the legs are late"
        await at.play_out()
        assert at.changes(first).count(OrderState.FILLED) == 1
        second = at.desk.submit(Intent.buy(spread, 1, debit=at.desk.net_quote(spread).ask + 1))
        await at.until_state(second, OrderState.FILLED)
        await asyncio.sleep(700)
        assert [len(at.fills(ref)) for ref in (first, second)] == [3, 2]
        assert (at.desk.position(spread), at.desk.position(calls[0]), at.desk.position(calls[1])) == (3, 3, -3)
        assert at.world.of(ev.PositionAdjusted) == []
        at.world.check_agreement()


async def test_id_rollback(tmp_path):
    """Ids go on above the highest ever used; the first order is not replaced by a later one."""
    async with scene("id-rollback", tmp_path) as at:
        first = at.desk.submit(at.low())
        await at.play_out()
        mark = at.book.order_id_mark
        assert at.world.gateway.next_order_id(1) <= mark, "the gateway would hand out a used id"
        second = at.desk.submit(at.low(5))
        await at.until_state(second, OrderState.WORKING)
        assert at.book.orders[second].order_id > mark
        assert {o.ticket.order_ref for o in at.world.gateway.open_orders} == {first, second}


async def test_modify_when_cut(tmp_path):
    """Refused by risk with the reason; the gateway never hears of it."""
    async with scene("modify-when-cut", tmp_path) as at:
        ref = at.desk.submit(at.low())
        await at.until(lambda: at.book.link.name == "CUT", "CUT", 10)
        with pytest.raises(Refused, match="CUT"):
            at.desk.modify(ref, quantity=D(20))
        await at.play_out()
        assert at.world.of(ev.ModificationRequested) == []
        (theirs,) = at.world.gateway.open_orders
        assert theirs.ticket.quantity == 10


async def test_two_perm_ids(tmp_path):
    """Alarm and quarantine; both orders are visible."""
    async with scene("two-perm-ids", tmp_path) as at:
        ref = at.desk.submit(at.low())
        await at.play_out()
        account = at.book.account
        assert list(at.quarantined()) == [account]
        assert ref in at.quarantined()[account].why
        theirs = {order.perm_id for order in at.world.gateway.open_orders}
        assert len(theirs) == 2
        assert {at.book.orders[ref].perm_id, *at.book.foreign_orders} == theirs
        with pytest.raises(Refused, match="in quarantine since"):
            at.desk.submit(at.low(5))
        at.desk.cancel(ref)
        await at.until_state(ref, OrderState.CANCELLED, 30)


async def test_silent_drop(tmp_path):
    """After the ack deadline it is looked for, announced as UNKNOWN, and not sent again."""
    async with scene("silent-drop", tmp_path) as at:
        ref = at.desk.submit(at.low(), key="k")
        await at.until_state(ref, OrderState.UNKNOWN, at.world.config.session.ack_timeout_s + 5)
        await asyncio.sleep(700)
        assert at.changes(ref) == [OrderState.SENT, OrderState.UNKNOWN]
        assert at.desk.submit(at.low(), key="k") == ref
        assert at.placed(ref) == 0


async def test_sent_then_crash(tmp_path):
    """The one that never arrived is proven absent and announced; the one that did is matched. Neither is sent twice."""
    async with scene("sent-then-crash", tmp_path) as at:
        lost = at.desk.submit(at.low(), key="lost")
        await at.until(lambda: at.world.app.book is not at.book or at.world._running.done(), "the crash", 10)
        await at.until(lambda: not at.world._running.done(), "a new life")
        await at.world.until_ready()
        assert at.book.orders[lost].state is OrderState.UNKNOWN
        await at.until_state(lost, OrderState.ABSENT, 120)
        assert at.desk.submit(at.low(), key="lost") == lost
        arrived = at.desk.submit(at.low(), key="arrived")
        await at.until(at.world._running.done, "the second crash", 10)
        await at.play_out()
        assert at.book.orders[arrived].state is OrderState.WORKING
        assert at.desk.submit(at.low(), key="arrived") == arrived
        assert (at.placed(lost), at.placed(arrived)) == (0, 1)


async def test_foreign_order(tmp_path):
    """Both are visible; cancelling ours, with the very id of theirs, and all of ours leaves them alone."""
    async with scene("foreign-order", tmp_path) as at:
        seen = {(order.client_id, order.quantity): order for order in at.book.foreign_orders.values()}
        assert set(seen) == {(7, D(10)), (0, D(20))}
        ref = at.desk.submit(at.low())
        await at.until_state(ref, OrderState.WORKING)
        at.desk.cancel_all()
        await at.until_state(ref, OrderState.CANCELLED)
        await asyncio.sleep(700)
        assert sorted(order.client_id for order in at.world.gateway.open_orders) == [0, 7]
        assert len(at.book.foreign_orders) == 2
        assert set(at.book.orders) == {ref}


async def test_restart_window(tmp_path):
    """Refused with the reason from a minute before on; a cancel passes."""
    async with scene("restart-window", tmp_path) as at:
        resting = at.desk.submit(at.low())
        await at.until_state(resting, OrderState.WORKING)
        await asyncio.sleep(4 * 60 + 10 - at.world.now_s)
        with pytest.raises(Refused, match="restart from 23:45"):
            at.desk.submit(at.low(5))
        with pytest.raises(Refused, match="restart from 23:45"):
            at.desk.modify(resting, quantity=D(5))
        at.desk.cancel(resting)
        await at.until_state(resting, OrderState.CANCELLED)
        await asyncio.sleep(300)
        await at.world.until_ready(120)
        await asyncio.sleep(60)
        assert at.desk.submit(at.low(5))


async def test_margin_reject(tmp_path):
    """REJECTED with all of the broker's words, those of the advanced reject too."""
    async with scene("margin-reject", tmp_path) as at:
        ref = at.desk.submit(at.low())
        order = await at.desk.finished(ref)
        assert order.state is OrderState.REJECTED
        assert "YOUR ORDER IS NOT ACCEPTED" in order.reason
        assert "Equity with loan value is below the initial margin" in order.reason
        assert at.changes(ref)[-1] is OrderState.REJECTED


async def test_held_order(tmp_path):
    """A notice, and the order is alive until the open fills it."""
    async with scene("held-order", tmp_path) as at:
        ref = at.desk.submit(at.low(limit="900", tif="DAY"))
        await at.until_state(ref, OrderState.WORKING)
        await asyncio.sleep(60)
        (notice,) = at.trader.of(ev.OrderErrored)
        assert (notice.code, notice.meaning) == (399, "notice")
        assert at.world.of(ev.OrderStatusReported)[-1].status == "PreSubmitted"
        assert at.book.orders[ref].state is OrderState.WORKING
        await at.until_state(ref, OrderState.FILLED, 1000)
        assert not UNCERTAIN & set(at.changes(ref))
        at.world.check_agreement()


async def test_unexplained_position(tmp_path):
    """Quarantine after a second look: reducing orders only, over a restart too, until a person accepts."""
    async with scene("unexplained-position", tmp_path) as at:
        resting = at.desk.submit(at.low())
        filled = at.desk.submit(Intent.buy(AAPL, 20, limit="900"))
        await at.until_state(filled, OrderState.FILLED)
        await at.play_out()
        assert at.quarantined() == {}, "a first look proves nothing"
        await asyncio.sleep(320)
        account = at.book.account
        assert list(at.quarantined()) == [account]
        assert "MSFT: the broker holds 70, our executions say 0" in at.quarantined()[account].why
        assert at.world.of(ev.PositionAdjusted) == []
        looks = len(at.world.of(ev.Snapshot))
        await asyncio.sleep(1000)
        assert len(at.world.of(ev.Snapshot)) - looks <= 4, (
            "what only a person can explain is not asked for again and again"
        )
        for _ in range(2):
            for refused in (at.low(5), Intent.sell(AAPL, 21, limit="900"), Intent.sell(MSFT, 71, limit="900")):
                with pytest.raises(Refused, match="in quarantine since"):
                    at.desk.submit(refused)
            await at.world.restart_service()
            await at.world.until_ready()
            await at.until(lambda: not at.desk.closed, "a new desk")
        reducing = at.desk.submit(Intent.sell(AAPL, 12, limit="900"))
        with pytest.raises(Refused, match="in quarantine since"):
            at.desk.submit(Intent.sell(AAPL, 9, limit="900"))  # with what works it would be 21
        at.desk.cancel(reducing)
        await at.until_state(reducing, OrderState.CANCELLED)
        assert len(at.world.of(ev.QuarantineBegan)) == 1
        at.world.app.accept_quarantine(account, "the operator")
        (adjusted,) = at.world.of(ev.PositionAdjusted)
        assert (adjusted.before, adjusted.after, adjusted.cause) == (0, 70, "accepted")
        assert at.quarantined() == {}
        assert at.desk.submit(at.low(5))
        assert at.book.orders[resting].state is OrderState.WORKING
        await asyncio.sleep(700)
        assert at.quarantined() == {}
        at.world.check_agreement()


async def test_every_scenario_has_a_test():
    """A row without a test is a promise without a proof."""
    names = {name.removeprefix("test_").replace("_", "-") for name in globals() if name.startswith("test_")}
    assert {scenario.name for scenario in scenarios.SECTIONS["orders and fills"]} <= names
