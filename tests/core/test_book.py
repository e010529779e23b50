"""The book: folding facts, ignoring repetitions, comparing with the broker."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core import events as ev
from ibkr_service.core import spreads
from ibkr_service.core.book import Book, exec_key
from ibkr_service.core.instrument import Bag, Forex, Option, Stock
from ibkr_service.core.link import Link, Signal
from ibkr_service.core.orders import Intent, OrderState
from ibkr_service.core.refs import Refs, digest

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
AAPL, CON = Stock("AAPL"), 265598
ACCOUNT = "DU1"


def record(book, event):
    """What the hub does, without journal and mailboxes."""
    if not book.is_news(event):
        return []
    seen = [event]
    for follows in book.apply(event):
        seen += record(book, follows)
    return seen


def opened(session=1):
    return ev.SessionOpened(
        at=AT, session=session, server_version=176, client_id=1, accounts=(ACCOUNT,), account=ACCOUNT
    )


def submitted(ref="ibs.r.1.s.00000000", quantity="10", at=AT):
    intent = Intent(instrument=AAPL, action="BUY", quantity=D(quantity))
    return ev.OrderSubmitted(at=at, ref=ref, key=ref, strategy="s", account=ACCOUNT, intent=intent)


def sent(ref="ibs.r.1.s.00000000", session=1):
    return ev.OrderSent(at=AT, session=session, ref=ref, order_id=7)


def filled(exec_id="e.1.01", quantity="10", price="100", ref="ibs.r.1.s.00000000", action="BUY"):
    return ev.Fill(
        at=AT, session=1, exec_id=exec_id, ref=ref, account=ACCOUNT, con_id=CON, instrument=AAPL, action=action,
        quantity=D(quantity), price=D(price), executed_at=AT, perm_id=99, order_id=7, client_id=1,
    )  # fmt: skip


def status(text, ref="ibs.r.1.s.00000000", filled_quantity="0", session=1):
    return ev.OrderStatusReported(
        at=AT, session=session, ref=ref, order_id=7, client_id=1, perm_id=99, status=text,
        filled=D(filled_quantity), remaining=D(0),
    )  # fmt: skip


def shown(text="Submitted", ref="ibs.r.1.s.00000000", session=1, client_id=1, perm_id=99):
    return ev.OpenOrderReported(
        at=AT, session=session, ref=ref, order_id=7, client_id=client_id, perm_id=perm_id, account=ACCOUNT,
        instrument=AAPL, action="BUY", quantity=D(10), order_type="MKT", status=text,
    )  # fmt: skip


def look(positions=(), open_refs=(), completed=(), session=1, after_s=60.0):
    at = AT + timedelta(seconds=after_s)
    return ev.Snapshot(
        at=at, session=session, asked_at=at, accounts=(ACCOUNT,),
        positions=tuple((ACCOUNT, con_id, D(quantity)) for con_id, quantity in positions),
        open_refs=tuple(open_refs), completed=tuple(completed), orders_visible=True,
    )  # fmt: skip


def held(quantity):
    return ev.PositionReported(
        at=AT, session=1, account=ACCOUNT, con_id=CON, instrument=AAPL, quantity=D(quantity), average_cost=D(100)
    )


@pytest.fixture
def book():
    """A book with an open session and one order sent."""
    book = Book()
    for event in (opened(), look(after_s=-60), submitted(), sent()):
        record(book, event)
    return book


REF = "ibs.r.1.s.00000000"


def test_an_execution_counts_once(book):
    """The broker reports it live, again on request, again after each reconnect."""
    first = record(book, filled())
    assert [type(e).__name__ for e in first] == ["Fill", "OrderChanged"]
    assert record(book, filled()) == []
    assert book.orders[REF].filled == 10
    assert book.ledger[ACCOUNT, CON] == 10


def test_a_correction_replaces(book):
    """`.01.02` corrects `.01.01` (ib_insync #364)."""
    record(book, filled("e.1.01", "10"))
    record(book, filled("e.1.02", "4"))
    assert (book.orders[REF].filled, book.ledger[ACCOUNT, CON]) == (4, 4)
    assert record(book, filled("e.1.01", "10")) == []  # the old revision comes late


@given(st.permutations([("a.01", "3"), ("b.01", "4"), ("a.02", "2"), ("c.01", "1")]))
def test_executions_in_any_order_give_one_ledger(order):
    """Order of arrival does not matter; the highest revision counts."""
    book = Book()
    for event in (opened(), submitted(), sent(), *(filled(e, q) for e, q in order)):
        record(book, event)
    assert book.ledger[ACCOUNT, CON] == book.orders[REF].filled == 7


def test_exec_ids_without_a_dot_are_their_own_identity():
    """Nothing is cut off where there is nothing to cut."""
    assert exec_key("abc") == ("abc", "")
    assert exec_key("0000e0d5.6543abcd.01.02") == ("0000e0d5.6543abcd.01", "02")


def test_a_status_storm_is_one_change(book):
    """Each status two or three times (Lean): one OrderChanged."""
    changes = [
        e
        for s in ["PreSubmitted", "Submitted", "Submitted", "PreSubmitted", "Submitted"]
        for e in record(book, status(s))
    ]
    assert [e.after for e in changes if isinstance(e, ev.OrderChanged)] == [OrderState.WORKING]


def test_a_false_cancel_is_provisional_and_then_fills(book):
    """10148, 105, 10349 … for an order that lives (ib_insync #502)."""
    record(book, status("Submitted"))
    error = ev.OrderErrored(at=AT, session=1, ref=REF, code=10148, text="cannot be cancelled", meaning="doubtful")
    record(book, error)
    assert book.orders[REF].state is OrderState.PROVISIONALLY_CANCELLED
    record(book, shown())  # the same status as before: but it settles a doubt
    assert book.orders[REF].state is OrderState.WORKING
    record(book, filled())
    assert book.orders[REF].state is OrderState.FILLED


def test_a_repeated_status_settles_a_doubt(book):
    """Also an orderStatus that was heard before the doubt is news after it."""
    record(book, status("Submitted"))
    record(book, ev.OrderErrored(at=AT, session=1, ref=REF, code=105, text="mismatch", meaning="doubtful"))
    record(book, status("Submitted"))
    assert book.orders[REF].state is OrderState.WORKING


def test_an_unknown_status_is_a_doubt(book):
    """A word that TWS never said before is neither ignored nor believed."""
    record(book, status("Suspended"))
    assert book.orders[REF].state is OrderState.PROVISIONALLY_CANCELLED


def test_an_order_that_vanished_is_unknown_and_never_absent_on_the_same_connection(book):
    """It may still be on its way: announced, not guessed (`silent-drop`)."""
    record(book, look())
    assert book.orders[REF].state is OrderState.UNKNOWN
    assert book.unsettled()
    record(book, look(after_s=70))
    assert book.orders[REF].state is OrderState.UNKNOWN
    assert not book.unsettled()  # looked for twice; asking for ever would not help


def test_an_order_of_a_dead_connection_is_proven_absent_by_a_long_silence(book):
    """`sent-then-crash`: nothing of it at the broker, asked over a new connection for half a minute."""
    record(book, opened(session=2))
    record(book, look(session=2))
    assert book.orders[REF].state is OrderState.UNKNOWN
    for after_s, state in ((70, OrderState.UNKNOWN), (99, OrderState.UNKNOWN), (100, OrderState.ABSENT)):
        assert book.unsettled(), "it is asked for until the silence was long enough"
        record(book, look(session=2, after_s=after_s))
        assert book.orders[REF].state is state, after_s
    assert not book.unsettled()


MIDNIGHT_S = 14 * 3600.0  # New York's, after AT


def test_about_midnight_nobody_is_called_absent(book):
    """The broker has forgotten the day, and our clock, which is a minute late, does not know it."""
    late = "ibs.r.2.s.00000001"
    record(book, submitted(late, at=AT + timedelta(seconds=MIDNIGHT_S - 100)))
    record(book, sent(late))
    record(book, opened(session=2))
    for after_s in (-65, -30, 5, 40):
        record(book, look(session=2, after_s=MIDNIGHT_S + after_s))
        assert book.orders[late].state is OrderState.UNKNOWN, after_s


def test_about_midnight_a_difference_has_a_cause(book):
    """Likewise: what was filled and is no longer reported is adjusted, by our clock a minute before midnight."""
    record(book, look(after_s=MIDNIGHT_S - 300, open_refs=[REF]))
    record(book, held(10))
    record(book, look(positions=[(CON, 10)], open_refs=[REF], after_s=MIDNIGHT_S - 70))
    second = record(book, look(positions=[(CON, 10)], open_refs=[REF], after_s=MIDNIGHT_S - 60))
    assert [e.cause for e in second if isinstance(e, ev.PositionAdjusted)] == ["while_away"]


def test_an_order_that_the_broker_once_acknowledged_is_never_called_absent(book):
    """It existed; only a person can say what became of it."""
    record(book, status("Submitted"))
    for n in range(3):
        record(book, look(session=2, after_s=60 + n))
    assert book.orders[REF].state is OrderState.UNKNOWN


def test_an_order_submitted_after_the_question_is_not_judged_by_the_answer(book):
    """A look takes time; what was sent meanwhile is not missing from it."""
    record(book, submitted("ibs.r.2.s.00000001", at=AT + timedelta(seconds=61)))
    record(book, look(open_refs=[REF], after_s=60))
    assert book.orders["ibs.r.2.s.00000001"].state is OrderState.PENDING


def test_completed_orders_end_what_we_missed(book):
    """Cancelled while we were away."""
    record(book, look(completed=[(REF, "Cancelled")]))
    assert book.orders[REF].state is OrderState.CANCELLED


def test_a_fill_after_unknown_is_still_a_fill(book):
    """The truth comes late."""
    record(book, look())
    record(book, filled())
    assert book.orders[REF].state is OrderState.FILLED


def test_first_start_books_opening_entries():
    """An account that already trades is no mismatch."""
    book = Book()
    record(book, opened())
    record(book, held(300))
    record(book, filled(ref="", quantity="100"))  # today's executions, somebody else's
    seen = record(book, look(positions=[(CON, 300)]))
    adjusted = [e for e in seen if isinstance(e, ev.PositionAdjusted)]
    assert [(e.before, e.after, e.cause) for e in adjusted] == [(100, 300, "opening")]


def test_a_difference_is_announced_after_a_second_look_only(book):
    """A fill may be on its way when the first look is taken."""
    record(book, held(5))
    first = record(book, look(positions=[(CON, 5)], open_refs=[REF]))
    assert not [e for e in first if isinstance(e, ev.PositionAdjusted)]
    assert book.unsettled()
    second = record(book, look(positions=[(CON, 5)], open_refs=[REF], after_s=70))
    (began,) = [e for e in second if isinstance(e, ev.QuarantineBegan)]
    assert began.why == "AAPL: the broker holds 5, our executions say 0"
    assert book.only_reducing(ACCOUNT) == f"in quarantine since {began.at:%Y-%m-%d %H:%M} UTC: {began.why}"
    assert not book.unsettled()
    third = record(book, look(positions=[(CON, 5)], open_refs=[REF], after_s=80))
    assert not [e for e in third if not isinstance(e, ev.Snapshot)], "it is said once"
    ended = record(book, ev.QuarantineEnded(at=AT, account=ACCOUNT, by="me"))
    assert [e.cause for e in ended if isinstance(e, ev.PositionAdjusted)] == ["accepted"]
    assert (book.ledger[ACCOUNT, CON], book.only_reducing(ACCOUNT)) == (5, None)


def test_a_difference_that_grows_in_quarantine_is_said_again(book):
    """A person must not accept what was never shown."""
    record(book, held(5))
    for n, quantity in enumerate((5, 5, 9, 9, 9)):
        seen = record(book, look(positions=[(CON, quantity)], open_refs=[REF], after_s=60 + 10 * n))
        told = [e.why for e in seen if isinstance(e, ev.QuarantineBegan)]
        assert bool(told) == (n in {1, 3}), (n, told)
    ended = record(book, ev.QuarantineEnded(at=AT, account=ACCOUNT, by="me"))
    assert [e.after for e in ended if isinstance(e, ev.PositionAdjusted)] == [9]


def test_what_was_filled_since_the_last_look_is_not_accepted_away(book):
    """Accepting adopts the difference, not a number that is old by now."""
    record(book, held(5))
    record(book, look(positions=[(CON, 5)], open_refs=[REF]))
    record(book, look(positions=[(CON, 5)], open_refs=[REF], after_s=70))
    record(book, filled())
    ended = record(book, ev.QuarantineEnded(at=AT, account=ACCOUNT, by="me"))
    assert [(e.before, e.after) for e in ended if isinstance(e, ev.PositionAdjusted)] == [(10, 15)]


def test_a_quarantine_is_as_old_as_its_first_reason(book):
    """And tells them all."""
    first, second = (ev.QuarantineBegan(at=AT + timedelta(hours=n), account=ACCOUNT, why=f"why {n}") for n in (0, 1))
    for event in (first, second, second):
        record(book, event)
    assert (book.quarantines[ACCOUNT].at, book.quarantines[ACCOUNT].why) == (AT, "why 0; why 1")


def test_fills_of_both_orders_under_one_reference_count(book):
    """What was bought twice was bought twice; the order that we know stays the one that we know."""
    record(book, shown())
    record(book, shown(perm_id=100))
    record(book, filled())
    record(book, msgspec.structs.replace(filled("f.1.01"), perm_id=100))
    order = book.orders[REF]
    assert (order.filled, order.perm_id, book.ledger[ACCOUNT, CON]) == (20, 99, 20)


def test_a_quarantine_outlives_its_reason(book):
    """The difference went away by itself: a person still has to look."""
    record(book, held(5))
    record(book, look(positions=[(CON, 5)], open_refs=[REF]))
    record(book, look(positions=[(CON, 5)], open_refs=[REF], after_s=70))
    record(book, look(positions=[], open_refs=[REF], after_s=80))
    assert book.only_reducing(ACCOUNT)
    ended = record(book, ev.QuarantineEnded(at=AT, account=ACCOUNT, by="me"))
    assert not [e for e in ended if isinstance(e, ev.PositionAdjusted)], "nothing is left to adopt"
    assert book.ledger.get((ACCOUNT, CON), D(0)) == 0


def test_an_id_of_another_client_is_not_ours_to_cancel(book):
    """The same order, shown under the client id of a former life: its id here would name a stranger's order."""
    record(book, opened(session=2))
    mark = book.order_id_mark
    record(book, msgspec.structs.replace(shown(session=2, client_id=9), order_id=3000))
    order = book.orders[REF]
    assert (order.session, order.order_id, order.state) == (1, 7, OrderState.WORKING)
    assert book.order_id_mark == mark
    assert record(book, msgspec.structs.replace(shown(session=2, client_id=9), order_id=3000)) == [], "told once"


def test_a_second_order_under_our_reference_does_not_take_the_place_of_the_first(book):
    """Both are visible; when the one that we knew is gone, the other one is it."""
    record(book, shown())
    record(book, shown(perm_id=100))
    assert (book.orders[REF].perm_id, list(book.foreign_orders)) == (99, [100])
    both = msgspec.structs.replace(look(open_refs=[REF, REF]), open_perm_ids=(99, 100), doubled_refs=(REF,))
    began = [e for e in record(book, both) if isinstance(e, ev.QuarantineBegan)]
    assert [e.account for e in began] == [ACCOUNT]
    assert not [e for e in record(book, both) if isinstance(e, ev.QuarantineBegan)], "said once"
    record(book, ev.QuarantineEnded(at=AT, account=ACCOUNT, by="me"))
    assert not [e for e in record(book, both) if isinstance(e, ev.QuarantineBegan)], "a person has accepted it"
    record(book, msgspec.structs.replace(look(open_refs=[REF], after_s=70), open_perm_ids=(100,)))
    assert (book.orders[REF].perm_id, book.foreign_orders) == (100, {})


def test_an_order_that_is_over_and_shown_at_work_by_two_looks_is_loud(book):
    """Told to be cancelled, and alive: no status brings it back, so that nobody here would cancel it."""
    record(book, status("Cancelled"))
    record(book, shown())
    assert book.orders[REF].state is OrderState.CANCELLED, "only a fill leaves a terminal state"

    def began(*, after_s):
        told = record(book, look(open_refs=[REF], after_s=after_s))
        return [e for e in told if isinstance(e, ev.QuarantineBegan)]

    assert began(after_s=60) == [], "it may have been on its way while the broker answered"
    (doubt,) = began(after_s=360)
    assert doubt.account == ACCOUNT
    assert REF in doubt.why
    assert "cancel it at TWS" in doubt.why
    assert began(after_s=660) == [], "said once"
    record(book, ev.QuarantineEnded(at=AT, account=ACCOUNT, by="me"))
    assert began(after_s=960) == [], "a person has accepted it"
    record(book, look(after_s=1260))
    assert began(after_s=1560) == [], "gone, so that it begins anew"
    assert began(after_s=1860) != []


@pytest.mark.parametrize("state", ["Inactive", "Cancelled"])
def test_an_order_that_is_over_and_still_listed_as_over_is_no_doubt(book, state):
    """TWS goes on listing what it refused."""
    record(book, status(state))
    record(book, shown(state))
    told = [*record(book, look(open_refs=[REF])), *record(book, look(open_refs=[REF], after_s=360))]
    assert not [e for e in told if isinstance(e, ev.QuarantineBegan)]


def test_a_difference_that_a_fill_explains_is_no_difference(book):
    """The execution arrived between the looks."""
    record(book, held(10))
    record(book, look(positions=[(CON, 10)], open_refs=[REF]))
    record(book, filled())
    second = record(book, look(positions=[(CON, 10)], after_s=70))
    assert not [e for e in second if isinstance(e, ev.PositionAdjusted)]


def test_beyond_the_brokers_midnight_a_difference_has_a_cause(book):
    """`fill-before-midnight`: the broker no longer reports the execution."""
    record(book, held(10))
    night = 24 * 3600.0
    record(book, look(positions=[(CON, 10)], open_refs=[REF], after_s=night))
    second = record(book, look(positions=[(CON, 10)], open_refs=[REF], after_s=night + 10))
    assert [e.cause for e in second if isinstance(e, ev.PositionAdjusted)] == ["while_away"]


def test_a_position_that_the_broker_no_longer_lists_is_closed(book):
    """After a reconnect it does not say 0 by itself."""
    record(book, held(10))
    record(book, look(positions=[], open_refs=[REF]))
    assert book.position(AAPL) == 0


def test_a_position_opened_while_a_look_was_under_way_is_not_closed_by_it(book):
    """The list of positions was answered before the fill; what the broker pushed since then is newer."""
    begun = AT - timedelta(seconds=1)
    told = record(book, msgspec.structs.replace(look(open_refs=[REF]), asked_at=begun))
    record(book, held(10))
    told = record(book, msgspec.structs.replace(look(open_refs=[REF]), asked_at=begun))
    assert [event for event in told if isinstance(event, ev.PositionReported)] == []
    assert book.position(AAPL) == 10


def changed(quantity, at=AT):
    intent = msgspec.structs.replace(submitted().intent, quantity=D(quantity))
    return ev.ModificationRequested(at=at, session=1, ref=REF, intent=intent)


def test_what_fills_with_a_change_to_more_under_way_is_not_over(book):
    """Its last execution as it was overtakes the openOrder that shows the change: the rest works on."""
    for event in (status("Submitted"), changed(20), filled()):
        record(book, event)
    assert book.orders[REF].state is OrderState.PARTIALLY_FILLED
    record(book, msgspec.structs.replace(shown(), quantity=D(20)))
    order = book.orders[REF]
    assert (order.state, order.remaining, order.change) == (OrderState.PARTIALLY_FILLED, 10, None)
    assert book.working.left(ACCOUNT) == {AAPL: (D(10), D(0))}


@pytest.mark.parametrize("how", ["error", "look"])
def test_a_change_that_came_too_late_leaves_a_filled_order(book, how):
    """The broker says so, or shows the order no more."""
    for event in (status("Submitted"), changed(20), filled()):
        record(book, event)
    if how == "error":
        over = ev.OrderErrored(
            at=AT, session=1, ref=REF, code=104, text="Cannot modify a filled order", meaning="doubtful"
        )
    else:
        over = look(positions=[(CON, 10)], completed=[(REF, "Filled")])
    told = record(book, over)
    assert book.orders[REF].state is OrderState.FILLED
    assert [event.after for event in told if isinstance(event, ev.OrderChanged)] == [OrderState.FILLED]
    assert book.working.left(ACCOUNT) == {}


def test_a_short_sale_that_waits_for_shares_is_alive(book):
    """Inactive with whyHeld "locate": it may be executed at any moment (ib_insync #363)."""
    record(book, shown("Inactive"))
    record(book, msgspec.structs.replace(status("Inactive"), why_held="locate"))
    assert book.orders[REF].state is OrderState.WORKING
    record(book, status("Inactive"))
    assert book.orders[REF].state is OrderState.REJECTED


def test_an_order_that_nobody_can_account_for_is_named(book):
    """Neither open nor completed the day after; a look that shows it takes that back."""
    next_day = look(after_s=86_400)
    record(book, status("Submitted"))
    for _ in range(2):
        record(book, next_day)
        next_day = look(after_s=86_460)
    assert [order.ref for order in book.unaccounted()] == [REF]
    record(book, status("Submitted"))
    assert book.unaccounted() == ()


def test_an_order_that_may_yet_arrive_is_not_one_to_be_taken_as_over(book):
    """Never acknowledged, on the connection that it left through: the gateway may hold it back. Not on a later one."""
    for after_s in (86_400, 86_460):
        record(book, look(after_s=after_s))
    assert book.orders[REF].state is OrderState.UNKNOWN
    assert book.unaccounted() == ()
    record(book, opened(session=2))
    record(book, look(after_s=86_520, session=2))
    assert [order.ref for order in book.unaccounted()] == [REF]


def test_a_lost_journals_order_is_adopted_and_its_key_is_spent():
    """The order stands at the broker with our reference: never sent again."""
    book = Book()
    ref = Refs("old").next("s", "the wish")
    record(book, opened())
    record(book, shown(ref=ref))
    assert book.orders[ref].state is OrderState.WORKING
    assert book.adopted_ref("s", digest("s", "the wish")) == ref
    record(book, filled(ref=ref))
    assert book.orders[ref].state is OrderState.FILLED


def test_another_clients_order_with_our_prefix_is_not_adopted():
    """Two services on one account are told apart by their client ids."""
    book = Book()
    ref = Refs("old").next("s", "the wish")
    record(book, opened())
    record(book, shown(ref=ref, client_id=2))
    assert ref not in book.orders
    assert book.foreign_orders[99].ref == ref


def test_the_link_changes_only_when_it_changes(book):
    """Eight hundred repetitions of 1100 are one LinkChanged."""
    book = Book()
    up = [ev.LinkSignalled(at=AT, signal=s, why="") for s in (Signal.SOCKET_UP, Signal.SYNCED)]
    cut = [ev.LinkSignalled(at=AT, signal=Signal.UPSTREAM_LOST, why="") for _ in range(800)]
    changes = [e for event in up + cut for e in record(book, event) if isinstance(e, ev.LinkChanged)]
    assert [e.after for e in changes] == [Link.SYNCING, Link.READY, Link.CUT]


def test_a_quote_inside_a_gap_is_no_quote():
    """What was known before the gap cannot price anything."""
    book, eurusd = Book(), Forex("EUR", "USD")
    record(book, ev.Tick(at=AT, instrument=eurusd, bid=1.1, ask=1.2))
    assert book.quote(eurusd) is not None
    record(book, ev.Gap(at=AT, instrument=eurusd, reason="", since=AT, epoch=1))
    assert book.quote(eurusd) is None
    record(book, ev.Resumed(at=AT, instrument=eurusd, until=AT, epoch=1))
    record(book, ev.Tick(at=AT, instrument=eurusd, bid=1.3, ask=1.4, epoch=1))
    assert book.quote(eurusd).bid == 1.3


def test_account_values_are_numbers_or_nothing():
    """A text where a number was expected is not 0."""
    book = Book()
    record(book, opened())
    for tag, value in (("NetLiquidation", "1000.50"), ("AccountType", "INDIVIDUAL")):
        record(book, ev.AccountValueReported(at=AT, session=1, account=ACCOUNT, tag=tag, value=value, currency="USD"))
    assert book.value("NetLiquidation") == D("1000.50")
    assert book.value("AccountType") is None
    assert book.value("Unheard") is None


# --- combinations ----------------------------------------------------------------------------------------------------

LOW, HIGH = Option("AAPL", "20270115", 100.0, "C"), Option("AAPL", "20270115", 110.0, "C")
LOW_CON, HIGH_CON = 11, 12


def leg_filled(exec_id, con_id, instrument, action, at):
    return msgspec.structs.replace(
        filled(exec_id, quantity="3", action=action),
        at=at,
        con_id=con_id,
        instrument=instrument,
        ref="ibs.r.2.s.00000001",
    )


@pytest.mark.parametrize(("come", "quarantined"), [(True, False), (False, True)])
def test_a_combinations_fill_explains_what_its_legs_have_not_told_yet(book, come, quarantined):
    """Seconds later they do (Lean #217); what does not come within a minute is a difference like any other."""
    ref, noon = "ibs.r.2.s.00000001", AT + timedelta(seconds=3600)
    intent = Intent(
        instrument=spreads.bull_call(LOW, HIGH), action="BUY", quantity=D(3), order_type="LMT", limit_price=D(2)
    )
    record(book, ev.OrderSubmitted(at=noon, ref=ref, key=ref, strategy="s", account=ACCOUNT, intent=intent))
    record(book, sent(ref))
    record(book, leg_filled("c.01.01", 0, Bag("AAPL", "USD", ()), "BUY", noon))
    for con_id, option, quantity in ((LOW_CON, LOW, 3), (HIGH_CON, HIGH, -3)):
        record(book, msgspec.structs.replace(held(quantity), con_id=con_id, instrument=option))
    positions = [(LOW_CON, 3), (HIGH_CON, -3)]
    for after_s in (3605, 3612, 3640):
        record(book, look(positions=positions, open_refs=[REF], after_s=after_s))
        assert not book.quarantines, after_s
        assert book.unsettled()
    if come:
        record(book, leg_filled("c.02.01", LOW_CON, LOW, "BUY", noon + timedelta(seconds=45)))
        record(book, leg_filled("c.03.01", HIGH_CON, HIGH, "SELL", noon + timedelta(seconds=50)))
    for after_s in (3670, 3680, 3690):
        record(book, look(positions=positions, open_refs=[REF], after_s=after_s))
    assert bool(book.quarantines) is quarantined
