"""Brackets and OCA groups from submission to the end of the last one: real ib_insync, simulated gateway.

Goal: all of a group is in the journal before a byte leaves, TWS's ties hold through changes and reconnects, and a
position never has two exits that both fill.
"""

from __future__ import annotations

import sqlite3
from decimal import Decimal as D

import msgspec
import pytest

from ibkr_service.core import events as ev
from ibkr_service.core import spreads
from ibkr_service.core.bracket import Bracket
from ibkr_service.core.errors import InvalidIntent, JournalError, KeyReused, Paced, Refused
from ibkr_service.core.instrument import Stock
from ibkr_service.core.intent import Intent
from ibkr_service.core.orders import OrderState
from ibkr_service.sim.messages import Request
from tests.test_order_life import stage
from tests.world import WIDE_LIMITS

AAPL = Stock("AAPL")


def around(at, distance=D(5), quantity=10):
    """A bracket whose entry fills at once and whose exits are far away."""
    entry = Intent.buy(AAPL, quantity, limit=at.mid + 2)
    return Bracket.around(entry, take_profit=at.mid + 2 + distance, stop_loss=at.mid - distance)


def states(at, refs):
    return [at.desk.order(ref).state for ref in (refs.entry, refs.take_profit, refs.stop_loss)]


async def in_place(at, bracket, **more):
    refs = at.desk.submit_bracket(bracket, **more)
    working = OrderState.WORKING
    await at.world.until(lambda: states(at, refs) == [OrderState.FILLED, working, working], what="entry and exits")
    return refs


async def test_exits_wait_for_the_entry_and_one_cancels_the_other(tmp_path):
    """The take profit is moved into the market: it fills, the stop is cancelled, nothing is held."""
    async with stage(tmp_path) as at:
        refs = await in_place(at, around(at))
        theirs = at.theirs(refs.take_profit)
        assert theirs.ticket.parent_id == at.theirs(refs.entry).ticket.order_id
        at.desk.modify(refs.take_profit, limit_price=at.mid - 1)
        filled, cancelled = OrderState.FILLED, OrderState.CANCELLED
        await at.world.until(lambda: states(at, refs) == [filled, filled, cancelled], what="one exit")
        assert at.desk.position(AAPL) == 0
        at.world.check_agreement()


async def test_the_exits_of_an_entry_that_works_do_not_let_go_of_a_covered_call(tmp_path):
    """A bracket is submitted, changed and filled beside it; the shares under the call stay."""
    limits = msgspec.structs.replace(WIDE_LIMITS, allow_unlimited_loss=False)
    async with stage(tmp_path, limits=limits) as at:
        desk = at.desk
        chain = await desk.option_chain(AAPL, expiries=1, strikes=4)
        call = next(row.option for row in chain.rows if row.option.right == "C")
        await desk.qualify(call)
        desk.watch(call)
        await at.world.until(lambda: desk.quote(call) is not None, what="a quote of the call")

        async def filled(ref):
            await at.world.until(lambda: desk.order(ref).state is OrderState.FILLED, what=f"{ref} fills")

        await filled(desk.submit(Intent.buy(AAPL, 100)))
        await filled(desk.submit(Intent.sell(call, 1)))
        with pytest.raises(Refused, match="max_loss"):
            desk.submit(Intent.sell(AAPL, 100))
        entry = Intent.buy(AAPL, 100, limit=at.mid - 20)
        refs = desk.submit_bracket(Bracket.around(entry, take_profit=at.mid + 20, stop_loss=at.mid - 30))
        await at.world.until(lambda: desk.order(refs.entry).state is OrderState.WORKING, what="the entry works")
        with pytest.raises(Refused, match="max_loss"):
            desk.submit(Intent.sell(AAPL, 100))
        lower = desk.order(refs.stop_loss).intent.stop_price - 1
        desk.modify(refs.stop_loss, stop_price=lower)
        await at.world.until(lambda: desk.order(refs.stop_loss).change is None, what="the stop is moved")
        assert desk.order(refs.stop_loss).intent.stop_price == lower
        desk.modify(refs.entry, limit_price=at.mid + 2)
        await filled(refs.entry)
        with pytest.raises(Refused, match="max_loss"):
            desk.submit(Intent.sell(AAPL, 100))  # its exits sell what it bought
        desk.cancel(refs.stop_loss)
        desk.cancel(refs.take_profit)
        await at.world.until(lambda: all(desk.order(one).done for one in (refs.stop_loss, refs.take_profit)))
        await filled(desk.submit(Intent.sell(AAPL, 100)))
        assert (desk.position(AAPL), desk.position(call)) == (100, -1)
        at.world.check_agreement()


async def test_a_cancelled_entry_takes_its_exits_with_it(tmp_path):
    """The broker cancels them; nobody else has to."""
    async with stage(tmp_path) as at:
        entry = Intent.buy(AAPL, 10, limit=at.mid - 20)
        refs = at.desk.submit_bracket(Bracket.around(entry, take_profit=at.mid, stop_loss=at.mid - 30))
        await at.world.until(lambda: states(at, refs) == [OrderState.WORKING] * 3, what="all working")
        at.desk.cancel(refs.entry)
        await at.world.until(lambda: states(at, refs) == [OrderState.CANCELLED] * 3, what="all cancelled")
        assert at.world.gateway.open_orders == []


async def test_a_changed_exit_is_still_tied_after_a_reconnect(tmp_path):
    """The ties are those that the broker shows; a change that left them out would undo them."""
    async with stage(tmp_path) as at:
        refs = await in_place(at, around(at))
        at.world.faults.drop()
        await at.world.until(lambda: at.world.app.book.session == 2, what="a new connection")
        await at.world.until_ready()
        at.desk.modify(refs.stop_loss, stop_price=at.mid - 6)
        await at.world.until(lambda: at.desk.order(refs.stop_loss).change is None, what="a settled change")
        assert at.desk.order(refs.stop_loss).intent.stop_price == at.theirs(refs.stop_loss).ticket.aux
        at.desk.modify(refs.take_profit, limit_price=at.mid - 1)
        await at.world.until(lambda: states(at, refs)[1:] == [OrderState.FILLED, OrderState.CANCELLED], what="one exit")


async def test_a_bracket_with_a_key_is_one_bracket_after_a_restart(tmp_path):
    """Three orders, however often it is said."""
    async with stage(tmp_path) as at:
        bracket, other = around(at), around(at, quantity=20)
        refs = await in_place(at, bracket, key="monday")
        assert at.desk.submit_bracket(bracket, key="monday") == refs
        await at.world.restart_service()
        await at.world.until(lambda: not at.desk.closed, what="a new desk")
        assert at.desk.submit_bracket(bracket, key="monday") == refs
        assert len(at.world.gateway.exchange.orders) == 3
        with pytest.raises(KeyReused):
            at.desk.submit_bracket(other, key="monday")


async def test_a_full_disk_means_no_part_of_it(tmp_path):
    """The journal refuses the third of three rows: none is there, nothing leaves, the keys are free."""
    async with stage(tmp_path) as at:
        journal, rows = at.world.app.journal, []
        write = journal._write

        def fails(row):
            rows.append(row)
            if len(rows) == 3:
                raise sqlite3.OperationalError("database or disk is full")
            write(row)

        journal._write = fails
        before = at.world.journal_lines()
        bracket = around(at)
        with pytest.raises(JournalError):
            at.desk.submit_bracket(bracket, key="k")
        assert at.world.journal_lines() == before
        assert at.desk.book.orders == {}
        assert at.world.gateway.exchange.orders == {}
        journal._write = write
        await in_place(at, bracket, key="k")


async def test_a_bracket_that_has_no_room_is_refused_whole(tmp_path):
    """Not one of three orders goes alone."""
    async with stage(tmp_path) as at:
        pacer = at.world.app.session._connection.ib.client.pacer
        await at.world.until(lambda: pacer.room_for_orders() >= 20, what="room")
        for _ in range(pacer.room_for_orders() - 2):
            at.desk.submit(Intent.buy(AAPL, 1, limit=at.mid - 20))
            at.desk.cancel_all() if len(list(at.desk.book.alive_orders())) > 12 else None
            if pacer.room_for_orders() <= 2:
                break
        before = len(at.desk.book.orders)
        with pytest.raises(Paced):
            at.desk.submit_bracket(around(at))
        assert len(at.desk.book.orders) == before


async def test_one_of_a_group_cancels_the_others(tmp_path):
    """Whichever comes first; the key is the whole group."""
    async with stage(tmp_path) as at:
        low, high = Intent.buy(AAPL, 5, limit=at.mid - 20), Intent.sell(AAPL, 5, limit=at.mid + 20)
        refs = at.desk.submit_oca([low, high], key="pair")
        await at.world.until(
            lambda: [at.desk.order(ref).state for ref in refs] == [OrderState.WORKING] * 2, what="both working"
        )
        assert at.desk.submit_oca([low, high], key="pair") == refs
        assert at.theirs(refs[0]).ticket.oca_group == at.theirs(refs[1]).ticket.oca_group != ""
        at.desk.modify(refs[0], limit_price=at.mid + 2)
        await at.world.until(
            lambda: [at.desk.order(ref).state for ref in refs] == [OrderState.FILLED, OrderState.CANCELLED],
            what="one filled, the other cancelled",
        )
        assert at.desk.position(AAPL) == 5


async def test_a_spread_has_a_take_profit(tmp_path):
    """It closes what was opened, in the natural direction of closing."""
    bull = spreads.bull_call("AAPL 20270115 150 C", "AAPL 20270115 160 C")
    bracket = Bracket.around(Intent.buy(bull, 1, debit="2.85"), take_profit="4.00")
    assert str(bracket.take_profit).startswith("SELL 1 AAPL bull call spread")
    assert "receive at least 4.00" in str(bracket.take_profit)
    with pytest.raises(InvalidIntent):
        Bracket.around(Intent.buy(bull, 1, debit="2.85"), stop_loss="1.00")


BUY = Intent.buy(AAPL, 10, limit="230")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Bracket(entry=BUY), "submit the entry alone"),
        (lambda: Bracket.around(BUY, take_profit="229"), "above"),
        (lambda: Bracket.around(BUY, stop_loss="231"), "above"),
        (lambda: Bracket.around(Intent.sell(AAPL, 10, limit="230"), take_profit="231"), "below"),
        (lambda: Bracket(entry=BUY, take_profit=Intent.buy(AAPL, 10, limit="240")), "must SELL"),
        (lambda: Bracket(entry=BUY, take_profit=Intent.sell(AAPL, 9, limit="240")), "for 9"),
        (lambda: Bracket(entry=BUY, take_profit=Intent.sell(Stock("MSFT"), 10, limit="240")), "MSFT"),
        (lambda: Bracket(entry=BUY, stop_loss=Intent.sell(AAPL, 10)), "not MKT"),
    ],
)
def test_what_does_not_belong_together_is_refused(make, words):
    """With what would be right."""
    with pytest.raises(InvalidIntent, match=words):
        make()


async def test_the_last_message_of_a_bracket_transmits_all(tmp_path):
    """Until then TWS holds the others back."""
    async with stage(tmp_path) as at:
        heard = []
        answer = at.world.gateway.dispatch

        def note(session, values):
            if int(values[0]) == Request.PLACE_ORDER:
                heard.append(values)
            answer(session, values)

        at.world.gateway.dispatch = note
        refs = await in_place(at, around(at))
        tickets = [at.theirs(ref).ticket for ref in (refs.entry, refs.take_profit, refs.stop_loss)]
        assert [ticket.transmit for ticket in tickets] == [False, False, True]
        assert len(heard) == 3
        assert len(at.trader.of(ev.Fill)) >= 1
