"""The limits of the gate one by one: what each counts, what passes it, and that unknown is never zero."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal as D

import msgspec
import pytest

from ibkr_service.core import events as ev
from ibkr_service.core.book import Book
from ibkr_service.core.bracket import oca_terms
from ibkr_service.core.hours import hours_of
from ibkr_service.core.instrument import Bag, Forex, Future, Option, Stock
from ibkr_service.core.limits import Limits, tightened
from ibkr_service.core.link import Signal
from ibkr_service.core.orders import Intent
from ibkr_service.core.restartwindow import RestartWindow
from ibkr_service.core.risk import check, check_change, check_group
from ibkr_service.core.spreads import Leg, bull_call, combination

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)  # a Monday, 10:00 in New York
AAPL, MSFT = Stock("AAPL"), Stock("MSFT")
C150 = Option("AAPL", "20270115", 150.0, "C", trading_class="AAPL")
C160 = Option("AAPL", "20270115", 160.0, "C", trading_class="AAPL")
CON_IDS = {AAPL: 1, MSFT: 2, C150: 3, C160: 4}
OPEN = Limits(
    max_quantity=D(10_000),
    max_notional=D(10_000_000),
    max_open_orders=20,
    max_orders_per_minute=1_000,
    max_quote_age_s=30.0,
)


class Desk:
    """A book that is READY, with quotes 100.00/100.10 and 3.00/3.10, and the questions that are put to the gate."""

    def __init__(self):
        self.book = Book()
        self.orders = 0
        self.now = AT
        self.hours = None
        for signal in (Signal.SOCKET_UP, Signal.SYNCED):
            self.book.apply(ev.LinkSignalled(at=AT, session=1, signal=signal, why=""))
        self.book.apply(
            ev.SessionOpened(at=AT, session=1, server_version=176, client_id=1, accounts=("DU1", "DU2"), account="DU1")
        )
        for instrument, bid in ((AAPL, 100.0), (MSFT, 100.0), (C150, 3.0), (C160, 1.0)):
            self.quote(instrument, bid)

    def quote(self, instrument, bid):
        self.book.apply(
            ev.Tick(at=AT, instrument=instrument, bid=bid, ask=round(bid + 0.1, 2), data_type="live", mono_s=1000.0)
        )

    def hold(self, instrument, quantity, account="DU1", summed=None):
        """What the broker says, and what our fills add up to: the same, unless told otherwise."""
        self.book.apply(
            ev.PositionAdjusted(
                at=AT,
                account=account,
                con_id=CON_IDS.get(instrument, 99),
                instrument=instrument,
                before=D(0),
                after=D(quantity if summed is None else summed),
                cause="opening",
            )
        )
        self.book.apply(
            ev.PositionReported(
                at=AT,
                session=1,
                account=account,
                con_id=CON_IDS.get(instrument, 99),
                instrument=instrument,
                quantity=D(quantity),
                average_cost=D(1),
            )
        )

    def work(self, intent, strategy="s", account="DU1", parent=""):
        """An order that is working."""
        self.orders += 1
        ref = f"ref{self.orders}"
        self.book.apply(
            ev.OrderSubmitted(
                at=self.now, ref=ref, key=ref, strategy=strategy, account=account, intent=intent, parent=parent
            )
        )
        return ref

    def bracket(self, entry, *exits):
        """An entry that works, and its exits; returns their references."""
        first = self.work(entry)
        return first, *(self.work(one, parent=first) for one in exits)

    def fill(self, ref):
        """All of an order."""
        intent = self.book.orders[ref].intent
        self.book.apply(
            ev.Fill(
                at=self.now,
                exec_id=f"{ref}.01",
                executed_at=self.now,
                client_id=1,
                ref=ref,
                order_id=1,
                perm_id=0,
                account="DU1",
                con_id=CON_IDS[intent.instrument],
                instrument=intent.instrument,
                action=intent.action,
                quantity=intent.quantity,
                price=D(1),
            )
        )

    def shown(self, ref, oca_group, oca_type=1):
        """An order of ours as the broker shows it."""
        self.foreign(AAPL, "SELL", 100, ref=ref, oca_group=oca_group, oca_type=oca_type)

    def foreign(self, instrument, action, quantity, account="DU1", *, ref="", oca_group="", oca_type=0):
        self.orders += 1
        self.book.apply(
            ev.OpenOrderReported(
                at=AT,
                ref=ref,
                oca_group=oca_group,
                oca_type=oca_type,
                order_id=-1,
                client_id=7,
                perm_id=1000 + self.orders,
                account=account,
                instrument=instrument,
                action=action,
                quantity=D(quantity),
                order_type="LMT",
                status="Submitted",
            )
        )

    def say(self, verb):
        self.book.apply(ev.OperatorSaid(at=AT, verb=verb, by="anna"))

    def value(self, tag, value, currency="USD"):
        self.book.apply(
            ev.AccountValueReported(at=AT, session=1, account="DU1", tag=tag, value=value, currency=currency)
        )

    def portfolio(self, instrument, quantity, price):
        self.book.apply(
            ev.PortfolioReported(
                at=AT,
                session=1,
                account="DU1",
                con_id=CON_IDS.get(instrument, 99),
                instrument=instrument,
                quantity=D(quantity),
                market_price=D(price),
            )
        )

    def ask(self, intent, strategy="s", **limits):
        """The name of the limit that refuses it, or None."""
        refusal = self.refusal(intent, strategy, **limits)
        return refusal.limit if refusal is not None else None

    def refusal(self, intent, strategy="s", *, after=None, order=None, **limits):
        rest = {"now": self.now, "mono_s": 1001.0, "hours": lambda _contract: self.hours}
        wide = msgspec.structs.replace(OPEN, **limits)
        if order is not None:
            return check_change(intent, strategy, wide, self.book, order=self.book.orders[order], **rest)
        return check(intent, strategy, wide, self.book, after=after, **rest)


@pytest.fixture
def desk():
    return Desk()


def buy(quantity=10, instrument=AAPL, limit="100", **terms):
    return Intent.buy(instrument, quantity, limit=limit, **terms)


def sell(quantity=10, instrument=AAPL, limit="100.10", **terms):
    return Intent.sell(instrument, quantity, limit=limit, **terms)


# --- what reduces ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("verb", ["stop-entries", "halt"])
def test_the_operator_lets_only_reducing_orders_pass(desk, verb):
    """Closing passes, in part or whole; opening, adding and turning around do not."""
    desk.hold(AAPL, 10)
    desk.say(verb)
    assert desk.ask(sell(10)) is None
    assert desk.ask(sell(11)) == "only_reducing"
    assert desk.ask(buy(1)) == "only_reducing"
    assert desk.ask(buy(1, MSFT)) == "only_reducing"
    refused = desk.refusal(buy(1))
    assert "by anna" in refused.allowed
    assert refused.asked == "BUY 1 AAPL LMT 100 DAY"
    desk.say("resume")
    assert desk.ask(buy(1)) is None


def test_a_halt_is_not_softened(desk):
    """Only resume ends it."""
    desk.say("halt")
    desk.say("stop-entries")
    assert desk.book.operator.is_halted


def test_working_orders_count_against_what_may_be_reduced(desk):
    """Two orders that reduce by themselves must not turn the position around together; nor with one of others."""
    desk.hold(AAPL, 10)
    desk.say("halt")
    ref = desk.work(sell(6))
    assert desk.ask(sell(4)) is None
    assert desk.ask(sell(5)) == "only_reducing"
    desk.foreign(AAPL, "SELL", 1)
    assert desk.ask(sell(4)) == "only_reducing"
    assert desk.ask(sell(3)) is None
    assert desk.refusal(sell(9), order=ref) is None  # the order itself does not count twice
    assert desk.refusal(sell(10), order=ref).limit == "only_reducing"


def test_a_fill_that_the_position_does_not_show_yet_is_not_closed_again(desk):
    """Between the execution and the report of the position both are possible: only what both allow reduces."""
    desk.say("halt")
    desk.hold(AAPL, 10, summed=4)
    assert desk.ask(sell(4)) is None
    assert desk.ask(sell(5)) == "only_reducing"
    desk.hold(AAPL, -10, summed=0)
    assert desk.ask(buy(1)) == "only_reducing"
    desk.say("resume")
    assert desk.ask(buy(91), max_position=D(90)) == "max_position"
    assert desk.ask(sell(81), max_position=D(90)) == "max_position"


def test_another_account_s_position_is_not_ours_to_reduce(desk):
    desk.hold(AAPL, 10, account="DU2")
    desk.say("halt")
    assert desk.ask(sell(10)) == "only_reducing"
    assert desk.ask(sell(10, account="DU2")) is None


def test_a_contract_is_known_by_any_of_its_descriptions(desk):
    """The broker reports an option with its class, and a future with its day."""
    desk.hold(C150, 2)
    desk.hold(Future("ES", "20261218", "CME", multiplier="50"), 1)
    desk.say("halt")
    assert desk.ask(sell(2, Option("AAPL", "20270115", 150.0, "C"), "3")) is None
    assert desk.ask(sell(1, Future("ES", "202612", "CME", multiplier="50"), "6000")) is None
    assert desk.ask(sell(1, Future("ES", "202703", "CME", multiplier="50"), "6000")) == "only_reducing"


def test_a_spread_reduces_if_each_of_its_legs_does(desk):
    bull = bull_call(C150, C160)
    desk.hold(C150, 2)
    desk.hold(C160, -1)
    desk.say("halt")
    assert desk.ask(Intent.sell(bull, 1, limit="2")) is None
    assert desk.ask(Intent.sell(bull, 2, limit="2")) == "only_reducing"
    assert desk.ask(Intent.buy(bull, 1, limit="2")) == "only_reducing"


def test_the_children_of_a_bracket_are_seen_after_their_parent(desk):
    """By itself a stop that sells what is not there yet opens something; after the entry it reduces."""
    entry, target, stop = buy(10), sell(10, limit="120"), Intent.sell(AAPL, 10, stop="90")
    limits = {"max_position": D(10)}
    desk.hold(AAPL, 0)
    assert desk.refusal(stop, after=entry, **limits) is None
    wide = msgspec.structs.replace(OPEN, **limits)
    rest = {"now": AT, "mono_s": 1001.0}
    assert check_group([target, stop], "s", wide, desk.book, parent=entry, **rest) is None
    # Without a parent the two are an OCA group: only one fills.
    desk.hold(AAPL, 10)
    desk.say("halt")
    assert check_group([target, stop], "s", wide, desk.book, **rest) is None
    assert check_group([target, buy(1)], "s", wide, desk.book, **rest).limit == "only_reducing"
    tight = msgspec.structs.replace(wide, max_orders_per_minute=2)
    desk.say("resume")
    assert check_group([target, stop], "s", tight, desk.book, **rest) is None
    assert check_group([target, stop, target], "s", tight, desk.book, **rest).limit == "max_orders_per_minute"
    one = msgspec.structs.replace(wide, max_open_orders=1)
    assert check_group([target, stop], "s", one, desk.book, **rest).limit == "max_open_orders"


# --- how much, how often ---------------------------------------------------------------------------------------------


def test_symbols_are_those_of_the_underlying(desk):
    only = {"symbols": frozenset({"AAPL", "EUR.USD"})}
    assert desk.ask(buy(1), **only) is None
    assert desk.ask(buy(1, C150, "3"), **only) is None
    assert desk.ask(buy(1, Forex("EUR", "USD"), "1.1"), **only) is None
    refused = desk.refusal(buy(1, MSFT), **only)
    assert (refused.limit, refused.allowed, refused.asked) == ("symbols", "AAPL, EUR.USD", "MSFT")


def test_the_account_s_orders_are_counted_whoever_sends_them(desk):
    desk.work(buy(1), strategy="one")
    desk.work(buy(2), strategy="two")
    desk.work(buy(3), strategy="two", account="DU2")
    assert desk.ask(buy(4), max_account_orders_per_minute=3) is None
    assert desk.ask(buy(4), max_account_orders_per_minute=2) == "max_account_orders_per_minute"
    desk.now += timedelta(seconds=60)
    assert desk.ask(buy(4), max_account_orders_per_minute=2) is None


def test_orders_of_others_count_as_open(desk):
    """IB counts all of a side; a combination of others on the same underlying may be the same one."""
    for _ in range(2):
        desk.foreign(AAPL, "BUY", 1)
    desk.foreign(AAPL, "BUY", 1, account="DU2")
    assert desk.ask(buy(1), max_open_orders=3) is None
    assert desk.ask(buy(1), max_open_orders=2) == "max_open_orders"
    assert desk.ask(sell(1), max_open_orders=2) is None


@pytest.mark.parametrize(
    ("second", "seconds", "limit"),
    [
        (buy(5), 0.4, "duplicate_window_s"),
        (buy(5), 0.5, None),
        (buy(6), 0.0, None),
        (sell(5), 0.0, None),
        (buy(5, limit="99"), 0.0, None),
    ],
)
def test_the_same_order_twice_in_a_moment_is_a_mistake(desk, second, seconds, limit):
    desk.work(buy(5))
    desk.work(buy(7))
    desk.now += timedelta(seconds=seconds)
    assert desk.ask(second, duplicate_window_s=0.5) == limit
    assert desk.ask(second, "another", duplicate_window_s=0.5) is None
    assert desk.ask(second) is None  # 0 is never


def test_what_never_left_is_no_duplicate(desk):
    """An order that was paced away may be wished again at once."""
    ref = desk.work(buy(5))
    desk.book.apply(ev.OrderNotSent(at=AT, ref=ref, reason="paced"))
    assert desk.ask(buy(5), duplicate_window_s=0.5) is None


# --- money -----------------------------------------------------------------------------------------------------------


def test_premium_counts_options_only(desk):
    assert desk.ask(buy(10, C150, "3"), max_premium=D(3_000)) is None
    refused = desk.refusal(buy(11, C150, "3"), max_premium=D(3_000))
    assert (refused.limit, refused.allowed, refused.asked) == ("max_premium", "3000", "3300")
    assert desk.ask(buy(100, AAPL), max_premium=D(3_000)) is None
    covered, _ = combination([Leg(AAPL, 100, "BUY"), Leg(C150, 1, "SELL")])
    assert desk.ask(Intent.buy(covered, 1, debit="97"), max_premium=D(310)) is None
    assert desk.ask(Intent.buy(covered, 2, debit="97"), max_premium=D(310)) == "max_premium"
    desk.book.quotes.pop(C150)
    refused = desk.refusal(Intent.buy(covered, 1, debit="97"), max_premium=D(310))
    assert (refused.limit, "no quote" in refused.asked) == ("max_premium", True)


def test_the_loss_of_a_spread_is_its_payoff_at_this_price(desk):
    bull = bull_call(C150, C160)
    own = {"max_loss": D(1_000), "allow_unlimited_loss": False}
    assert desk.ask(Intent.buy(bull, 5, limit="2"), **own) is None
    refused = desk.refusal(Intent.buy(bull, 6, limit="2"), **own)
    assert (refused.limit, refused.allowed, refused.asked) == ("max_loss", "1000", "1200")
    assert desk.ask(Intent.sell(bull, 1, limit="2"), **own) is None
    assert desk.ask(Intent.sell(bull, 2, limit="2"), **own) == "max_loss"
    assert desk.refusal(Intent.buy(bull, 5), **own).asked == "1050.0"  # a market order: by the quotes


def test_an_unlimited_loss_has_to_be_allowed(desk):
    naked = sell(1, C150, "3")
    refused = desk.refusal(naked, allow_unlimited_loss=False)
    assert (refused.limit, "unlimited" in refused.asked) == ("max_loss", True)
    assert desk.ask(naked, allow_unlimited_loss=False, max_loss=D(10**9)) == "max_loss"
    assert desk.ask(naked, max_loss=D(1)) is None  # it was allowed on purpose
    desk.hold(C150, 1)
    assert desk.ask(naked, allow_unlimited_loss=False) is None  # it closes what is held
    assert desk.ask(sell(2, C150, "3"), allow_unlimited_loss=False) == "max_loss"


def test_shares_cover_the_calls_that_are_sold_on_them(desk):
    """As long as no other call and no sale needs them."""
    own = {"allow_unlimited_loss": False}
    desk.hold(AAPL, 250)
    assert desk.ask(sell(2, C150, "3"), **own) is None
    assert desk.ask(sell(3, C150, "3"), **own) == "max_loss"
    desk.work(sell(1, C160, "1"))
    assert desk.ask(sell(1, C150, "3"), **own) is None
    assert desk.ask(sell(2, C150, "3"), **own) == "max_loss"
    desk.work(sell(51, AAPL))
    assert desk.ask(sell(1, C150, "3"), **own) == "max_loss"


C150_LATER = Option("AAPL", "20270219", 150.0, "C", trading_class="AAPL")
C160_LATER = Option("AAPL", "20270219", 160.0, "C", trading_class="AAPL")
P150 = Option("AAPL", "20270115", 150.0, "P", trading_class="AAPL")
IBM_CALL = Option("IBM", "20270115", 160.0, "C", trading_class="IBM")


@pytest.mark.parametrize(
    ("held", "asked", "limit"),
    [
        ([(C150, 1), (C160, -1)], Intent.sell(C150, 1, limit="3"), "max_loss"),
        ([(C150, 2), (C160, -1)], Intent.sell(C150, 1, limit="3"), None),
        ([(C150, 2), (C160, -1)], Intent.sell(C150, 2, limit="3"), "max_loss"),
        ([(C150, 1), (C160, -1), (AAPL, 100)], Intent.sell(C150, 1, limit="3"), None),
        ([(AAPL, 150), (C160, -1)], Intent.sell(AAPL, 50), None),
        ([(AAPL, 150), (C160, -1)], Intent.sell(AAPL, 51), "max_loss"),
        ([(AAPL, 100), (C160, -1)], Intent.sell(AAPL, 100, stop="90"), "max_loss"),
        ([(AAPL, 100), (IBM_CALL, -1)], Intent.sell(AAPL, 100), None),
        ([(AAPL, 100), (C160, -1), (C150, 1)], Intent.sell(AAPL, 100), None),
        # A bought call covers as long as it lives.
        ([(C150, 1), (C150_LATER, 1), (C160, -1)], Intent.sell(C150, 1, limit="3"), None),
        ([(C150, 1), (C150_LATER, 1), (C160_LATER, -1)], Intent.sell(C150_LATER, 1, limit="3"), "max_loss"),
        ([(C150, 1), (C150_LATER, 1), (C160_LATER, -1)], Intent.sell(C150, 1, limit="3"), None),
        # It was naked before: nothing that is sold made it so.
        ([(C160, -1), (AAPL, -100)], Intent.sell(AAPL, 10), None),
        ([(C150, 1), (AAPL, -100)], Intent.sell(C150, 1, limit="3"), None),
        # What loses no more than is known is for max_loss to look at when it is opened.
        ([(P150, 1), (C160, -1), (C150, 1)], Intent.sell(P150, 1, limit="3"), None),
        ([(C150, 1), (C160, -1)], Intent.sell(bull_call(C150, C160), 1, credit="2"), None),
        ([(C150, 1), (C160, -1)], Intent.buy(C160, 1, limit="1"), None),
    ],
)
def test_what_covers_a_sold_call_is_not_sold_away_from_under_it(desk, held, asked, limit):
    """Neither bought calls nor shares, unless a loss without bound is allowed."""
    for number, (instrument, size) in enumerate(held):
        CON_IDS.setdefault(instrument, 100 + number)
        desk.hold(instrument, size)
        desk.quote(instrument, 3.0)
    assert desk.ask(asked, allow_unlimited_loss=False) == limit
    assert desk.ask(asked, allow_unlimited_loss=True) is None


def test_what_works_to_sell_covers_nothing_and_a_fill_counts_before_its_position(desk):
    """One of two is on its way out; a call was bought back, and the broker still shows it."""
    own = {"allow_unlimited_loss": False}
    desk.hold(C150, 2)
    desk.hold(C160, -1)
    desk.work(Intent.sell(C150, 1, limit="3"))
    assert desk.ask(Intent.sell(C150, 1, limit="3.01"), **own) == "max_loss"
    desk.hold(C160, -1, summed=0)
    assert desk.ask(Intent.sell(C150, 1, limit="3.01"), **own) is None


BOUNDED = {"allow_unlimited_loss": False}
TARGET, STOP = Intent.sell(AAPL, 100, limit="120"), Intent.sell(AAPL, 100, stop="90")
ENTRY = Intent.buy(AAPL, 100, limit="95")


@pytest.mark.parametrize(("shares", "free"), [(200, 0), (300, 100)])
def test_of_a_group_one_order_counts(desk, shares, free):
    """Two exits of a hundred shares sell a hundred; what they leave free may be sold, and no more."""
    desk.hold(AAPL, shares)
    desk.hold(C160, -1)
    _, stop = (desk.work(one) for one in oca_terms((TARGET, STOP), "g", "cancel"))
    assert desk.ask(Intent.sell(AAPL, free + 1, limit="101"), **BOUNDED) == "max_loss"
    assert not free or desk.ask(Intent.sell(AAPL, free, limit="101"), **BOUNDED) is None
    wish = desk.book.orders[stop].intent
    assert desk.ask(msgspec.structs.replace(wish, stop_price=D(92)), order=stop, **BOUNDED) is None
    assert desk.ask(msgspec.structs.replace(wish, quantity=D(100 + free)), order=stop, **BOUNDED) is None
    larger = msgspec.structs.replace(wish, quantity=D(101 + free))
    assert desk.ask(larger, order=stop, **BOUNDED) == "max_loss"


def test_of_a_group_that_does_not_hold_its_orders_back_all_count(desk):
    """TWS lets the others of the third type work on: more than one can fill."""
    desk.hold(AAPL, 200)
    desk.hold(C160, -1)
    for one in oca_terms((TARGET, STOP), "g", "reduce_unblocked"):
        desk.work(one)
    desk.hold(AAPL, 300)
    assert desk.ask(Intent.sell(AAPL, 1, limit="101"), **BOUNDED) == "max_loss"


def test_exits_count_with_their_entry(desk):
    """While it works they sell what it buys. It cannot be made smaller than they are, where that takes cover."""
    desk.hold(AAPL, 100)
    desk.hold(C160, -1)
    entry, _, stop = desk.bracket(ENTRY, TARGET, STOP)
    assert desk.ask(Intent.sell(AAPL, 1, limit="101"), **BOUNDED) == "max_loss"
    assert desk.ask(Intent.sell(AAPL, 100, stop="88"), order=stop, **BOUNDED) is None
    assert desk.ask(Intent.sell(AAPL, 101, stop="88"), order=stop, **BOUNDED) == "max_loss"
    assert desk.ask(Intent.buy(AAPL, 100, limit="96"), order=entry, **BOUNDED) is None
    assert desk.ask(Intent.buy(AAPL, 99, limit="95"), order=entry, **BOUNDED) == "max_loss"
    desk.hold(AAPL, 200)
    assert desk.ask(Intent.sell(AAPL, 100, limit="101"), **BOUNDED) is None
    assert desk.ask(Intent.buy(AAPL, 99, limit="95"), order=entry, **BOUNDED) is None


def test_exits_of_an_entry_that_has_filled_count_once(desk):
    """One cancels the other."""
    desk.hold(AAPL, 200)
    desk.hold(C160, -1)
    entry, *_ = desk.bracket(ENTRY, TARGET, STOP)
    desk.fill(entry)
    assert desk.ask(Intent.sell(AAPL, 100, limit="101"), **BOUNDED) is None
    assert desk.ask(Intent.sell(AAPL, 101, limit="101"), **BOUNDED) == "max_loss"


def test_exits_count_with_what_their_entry_may_become(desk):
    """A change of it to less is on its way: so much less may it buy."""
    desk.hold(AAPL, 200)
    desk.hold(C160, -1)
    entry, *_ = desk.bracket(ENTRY, STOP)
    assert desk.ask(Intent.sell(AAPL, 100, limit="101"), **BOUNDED) is None
    desk.book.apply(ev.ModificationRequested(at=AT, ref=entry, intent=Intent.buy(AAPL, 40, limit="95")))
    assert desk.ask(Intent.sell(AAPL, 40, limit="101"), **BOUNDED) is None
    assert desk.ask(Intent.sell(AAPL, 41, limit="101"), **BOUNDED) == "max_loss"


def test_a_bracket_beside_exits_that_work_sells_what_it_buys(desk):
    """Its exits are seen after their entry."""
    desk.hold(AAPL, 200)
    desk.hold(C160, -1)
    for one in oca_terms((TARGET, STOP), "g", "cancel"):
        desk.work(one)
    exits = [Intent.sell(AAPL, 50, limit="120"), Intent.sell(AAPL, 50, stop="90")]
    limits = msgspec.structs.replace(OPEN, **BOUNDED)
    rest = {"now": AT, "mono_s": 1001.0}
    assert check_group(exits, "s", limits, desk.book, parent=Intent.buy(AAPL, 50, limit="95"), **rest) is None
    assert check_group(exits, "s", limits, desk.book, **rest).limit == "max_loss"


@pytest.mark.parametrize(("oca_type", "count"), [(1, 1), (3, 2)])
def test_a_group_is_also_what_the_broker_shows_as_one(desk, oca_type, count):
    """Of an adopted order its terms do not say it; of those of others nothing else does."""
    desk.hold(AAPL, 400)
    desk.hold(C160, -1)
    adopted = desk.work(STOP)
    desk.shown(adopted, "theirs", oca_type)
    desk.foreign(AAPL, "SELL", 100, oca_group="theirs", oca_type=oca_type)
    free = 300 - 100 * count
    assert desk.ask(Intent.sell(AAPL, free, limit="101"), **BOUNDED) is None
    assert desk.ask(Intent.sell(AAPL, free + 1, limit="101"), **BOUNDED) == "max_loss"
    larger = Intent.sell(AAPL, 400 - 100 * count, stop="90")
    assert desk.ask(larger, order=adopted, **BOUNDED) is None


def test_a_covered_call_on_its_way_in_keeps_its_shares(desk):
    """Whichever of the two is asked first: the shares that come with the call, and their sale."""
    covered, _ = combination([Leg(AAPL, 100, "BUY"), Leg(C150, 1, "SELL")])
    sale, purchase = Intent.sell(AAPL, 1, limit="101"), Intent.buy(covered, 1, debit="97")
    assert desk.ask(sale, **BOUNDED) is None
    assert desk.ask(purchase, **BOUNDED) is None
    desk.work(purchase)
    assert desk.ask(sale, **BOUNDED) == "max_loss"
    other = Desk()
    other.work(sale)
    assert other.ask(purchase, **BOUNDED) == "max_loss"


def test_what_others_sell_counts(desk):
    """Their order takes the cover, and so would ours; a combination that TWS showed is its legs."""
    desk.hold(AAPL, 100)
    desk.hold(C160, -1)
    desk.foreign(AAPL, "SELL", 100)
    assert desk.ask(Intent.sell(AAPL, 100, limit="101"), **BOUNDED) == "max_loss"


@pytest.mark.parametrize("adopted", [True, False])
def test_the_calls_in_a_combination_of_others_count(desk, adopted):
    """Its legs have numbers only; those of contracts that the book knows are looked at."""
    desk.hold(C150, 1)
    desk.hold(C150, 0)
    desk.hold(AAPL, 100)
    bag = Bag("AAPL", "USD", legs=((CON_IDS[C150], 1, "SELL"), (99, 1, "BUY")))
    if adopted:
        desk.work(Intent(instrument=bag, action="BUY", quantity=D(1)))
    else:
        desk.foreign(bag, "BUY", 1)
    assert desk.ask(Intent.sell(AAPL, 100, limit="101"), **BOUNDED) == "max_loss"
    assert desk.ask(Intent.sell(C160, 1, limit="1"), **BOUNDED) == "max_loss"


@pytest.mark.parametrize(
    ("sold", "other"),
    [
        (C150, Option("AAPL", "20270115", 10.0, "C", trading_class="2AAPL")),
        (C150, Option("AAPL", "20270115", 150.0, "C", currency="EUR", trading_class="AAPL")),
    ],
)
def test_what_delivers_something_else_covers_nothing(desk, sold, other):
    """What a split has left, and another currency."""
    CON_IDS.setdefault(other, 200)
    desk.hold(sold, 1)
    desk.hold(C160, -1)
    desk.hold(other, 1)
    assert desk.ask(Intent.sell(sold, 1, limit="3"), **BOUNDED) == "max_loss"


def test_options_that_settle_at_different_hours_cover_each_other_no_more_than_in_a_spread(desk):
    """SPX settles at the opening of the day on which SPXW settles at the close."""
    morning, evening, sold = (
        Option("SPX", "20270115", strike, "C", trading_class=name)
        for strike, name in ((5000.0, "SPX"), (5000.0, "SPXW"), (5010.0, "SPXW"))
    )
    for number, (contract, size) in enumerate(((morning, 1), (evening, 1), (sold, -1)), 210):
        CON_IDS.setdefault(contract, number)
        desk.hold(contract, size)
        desk.quote(contract, 3.0)
    assert desk.ask(Intent.sell(evening, 1, limit="3"), **BOUNDED) == "max_loss"
    assert desk.ask(Intent.sell(morning, 1, limit="3"), **BOUNDED) is None


def test_shares_in_another_currency_are_other_shares(desk):
    """A call on SAP in euros does not hold the shares in dollars."""
    dollars, euros = Stock("SAP"), Stock("SAP", "EUR")
    call = Option("SAP", "20270115", 150.0, "C", currency="EUR", trading_class="SAP")
    for number, (contract, size) in enumerate(((dollars, 100), (euros, 100), (call, -1)), 220):
        CON_IDS.setdefault(contract, number)
        desk.hold(contract, size)
        desk.quote(contract, 100.0)
    assert desk.ask(Intent.sell(dollars, 100, limit="100.1"), **BOUNDED) is None
    assert desk.ask(Intent.sell(euros, 100, limit="100.1"), **BOUNDED) == "max_loss"


def test_a_leg_whose_loss_was_looked_at_as_a_whole_takes_no_cover_either(desk):
    """Its own bought leg is on its way out; or it sells what covers something else."""
    limits = msgspec.structs.replace(OPEN, **BOUNDED)
    ask = {"now": AT, "mono_s": 1001.0, "known_loss": D(500)}
    desk.hold(C150, 1)
    assert check(Intent.sell(C160, 1, limit="1"), "s", limits, desk.book, **ask) is None
    desk.work(Intent.sell(C150, 1, limit="3.50"))
    assert check(Intent.sell(C160, 1, limit="1"), "s", limits, desk.book, **ask).limit == "max_loss"


def test_two_closings_of_a_calendar_may_work_at_once(desk):
    """Each takes the bought call and the sold one."""
    near, far = C160, C160_LATER
    CON_IDS.setdefault(far, 230)
    desk.hold(near, -2)
    desk.hold(far, 2)
    desk.quote(far, 3.0)
    closing, _ = combination([Leg(near, 1, "SELL"), Leg(far, 1, "BUY")])
    desk.work(Intent.sell(closing, 1, credit="1"))
    assert desk.ask(Intent.sell(closing, 1, credit="1.10"), **BOUNDED) is None


def test_cover_is_counted_by_the_worse_word_in_quarantine(desk):
    """Somebody sold a call that our sum does not know."""
    own = {"allow_unlimited_loss": False}
    desk.hold(C150, 1)
    desk.hold(C160, -1, summed=0)
    assert desk.ask(Intent.sell(C150, 1, limit="3"), **own) is None
    desk.book.apply(ev.QuarantineBegan(at=AT, account="DU1", why="C160"))
    assert desk.ask(Intent.sell(C150, 1, limit="3"), **own) == "max_loss"


def test_a_loss_of_the_day_stops_entries_and_unknown_is_not_zero(desk):
    own = {"max_daily_loss": D(500)}
    desk.hold(AAPL, 10)
    refused = desk.refusal(buy(1), **own)
    assert (refused.limit, "not told" in refused.asked) == ("max_daily_loss", True)
    assert desk.ask(buy(1), **own, unknown_pnl="pass") is None
    assert desk.ask(sell(1), **own) is None
    for daily, limit in (("-499", None), ("-500", "max_daily_loss"), ("800", None)):
        desk.book.apply(ev.PnlReported(at=AT, session=1, account="DU1", daily_pnl=D(daily)))
        assert desk.ask(buy(1), **own) == limit
        assert desk.ask(sell(1), **own) is None


def test_the_whole_account_is_bounded_in_its_own_currency(desk):
    own = {"max_account_notional": D(3_000)}
    assert "not told" in desk.refusal(buy(1), **own).asked
    desk.value("GrossPositionValue", "1000")
    desk.value("NetLiquidation", "5000")
    assert desk.ask(buy(20), **own) is None
    assert desk.ask(buy(21), **own) == "max_account_notional"
    desk.work(buy(5, MSFT))
    assert desk.refusal(buy(20), **own).asked == "3500"
    vod = Stock("VOD", "GBP")
    assert "not known" in desk.refusal(buy(1, vod, "1"), **own).asked
    desk.value("ExchangeRate", "1.25", "GBP")
    assert desk.ask(buy(1_200, vod, "1"), **own) is None
    assert desk.ask(buy(1_201, vod, "1"), **own) == "max_account_notional"


def test_the_whole_account_has_futures_and_what_was_just_filled(desk):
    """GrossPositionValue is of stocks and options, and as old as the portfolio that came with it."""
    own = {"max_account_notional": D(3_000)}
    desk.value("GrossPositionValue", "1000")
    desk.value("NetLiquidation", "5000")
    desk.hold(AAPL, 10)
    desk.portfolio(AAPL, 10, "100")
    assert desk.ask(buy(19), **own) is None, "its 1000 are those shares"
    desk.hold(AAPL, 15)  # five were filled since
    assert desk.ask(buy(14), **own) is None
    assert desk.ask(buy(15), **own) == "max_account_notional"
    future = Future("ES", "202612", "CME", multiplier="5")
    desk.hold(future, -1)
    assert "ES" in desk.refusal(buy(1), **own).asked, "nobody knows what it is worth"
    desk.portfolio(future, -1, "200")
    assert desk.ask(buy(4), **own) is None
    assert desk.ask(buy(5), **own) == "max_account_notional"


# --- positions -------------------------------------------------------------------------------------------------------


def test_a_position_is_bounded_with_all_that_works(desk):
    own = {"max_position": D(100)}
    desk.hold(AAPL, 60)
    desk.work(buy(30))
    assert desk.ask(buy(10), **own) is None
    refused = desk.refusal(buy(11), **own)
    assert (refused.limit, refused.asked) == ("max_position", "101 AAPL with all that is working")
    assert desk.ask(sell(160), **own) is None
    assert desk.ask(sell(161), **own) == "max_position"
    desk.hold(AAPL, 500)
    assert desk.ask(sell(1), **own) is None  # smaller than it is
    assert desk.ask(buy(1), **own) == "max_position"


def test_a_strategy_has_a_position_of_its_own(desk):
    own = {"max_strategy_position": D(10)}
    desk.hold(AAPL, 1_000)  # of others
    assert desk.ask(buy(10), **own) is None
    desk.work(buy(4))
    desk.work(buy(4), strategy="other")
    assert desk.ask(buy(6), **own) is None
    assert desk.ask(buy(7), **own) == "max_strategy_position"
    assert desk.ask(sell(10), **own) is None


# --- price and time --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("intent", "passes"),
    [
        (buy(limit="102.10"), True),
        (buy(limit="102.11"), False),
        (buy(limit="1"), True),  # passive
        (sell(limit="98"), True),
        (sell(limit="97.99"), False),
        (sell(limit="900"), True),
        (buy(1, C150, "3.60"), True),  # 2 % would be 0.06: the smallest width holds
        (buy(1, C150, "3.61"), False),
        (Intent.buy(AAPL, 1, order_type="LOC", limit="110"), False),
        (Intent.buy(AAPL, 1, stop="110", limit="130"), True),  # triggered later, elsewhere
        (Intent.buy(bull_call(C150, C160), 1, debit="2.60"), True),
        (Intent.buy(bull_call(C150, C160), 1, debit="2.61"), False),
        (Intent.sell(bull_call(C150, C160), 1, credit="1.39"), False),
    ],
)
def test_a_limit_stays_within_the_collar(desk, intent, passes):
    """2 % through the quote of its side, and at least 0.50; the spread trades at 1.90 to 2.10."""
    refusal = desk.refusal(intent, collar_percent=D(2), collar_min=D("0.5"))
    assert (refusal is None) is passes
    if refusal is not None:
        assert refusal.limit == "collar_percent"
        assert f"a limit of {intent.limit_price}" in refusal.asked


def test_without_a_quote_nobody_knows_the_collar(desk):
    own = {"collar_percent": D(2)}
    desk.book.quotes.pop(AAPL)
    assert desk.ask(buy(limit="500"), **own) is None
    refused = desk.refusal(buy(limit="500"), **own, unknown_quote="refuse")
    assert (refused.limit, "no quote" in refused.asked) == ("collar_percent", True)


TOLD = hours_of("20261123:0400-20261123:2000", "20261123:0930-20261123:1600", "US/Eastern")
EARLY, LATE = AT.replace(hour=12), AT + timedelta(hours=16)  # 7:00; in the night


@pytest.mark.parametrize(
    ("intent", "now", "limit"),
    [
        (buy(), AT, None),
        (buy(), EARLY, "trading_hours"),
        (buy(outside_rth=True), EARLY, None),
        (Intent.buy(AAPL, 1), EARLY, "trading_hours"),
        (Intent.buy(AAPL, 1, tif="GTC"), EARLY, "trading_hours"),  # nobody knows at what it would open
        (buy(tif="GTC"), EARLY, None),
        (buy(tif="OPG"), EARLY, None),
        (buy(tif="IOC"), EARLY, "trading_hours"),
        (buy(outside_rth=True), AT.replace(hour=8), "trading_hours"),
        (buy(1, C150, "3"), EARLY, "trading_hours"),
    ],
)
def test_orders_that_do_not_wait_need_an_open_market(desk, intent, now, limit):
    desk.hours, desk.now = TOLD, now
    assert desk.ask(intent, trading_hours="keep") == limit
    assert desk.ask(intent, trading_hours="off") is None


def test_the_refusal_says_when_and_by_what(desk):
    desk.now, desk.hours = EARLY, TOLD
    assert "begin at 2026-11-23 09:30" in desk.refusal(buy(), trading_hours="keep").allowed
    desk.hours = msgspec.structs.replace(TOLD, source="calendar")
    assert "by a calendar" in desk.refusal(buy(), trading_hours="keep").allowed


@pytest.mark.parametrize("hours", [None, TOLD])
def test_unknown_hours_are_neither_open_nor_closed(desk, hours):
    """Never asked for, or too old."""
    desk.hours, desk.now = hours, LATE + timedelta(days=1)
    assert desk.ask(buy(), trading_hours="keep") is None
    assert desk.ask(buy(), trading_hours="keep", unknown_hours="refuse") == "trading_hours"


def test_no_entry_is_sent_into_a_restart(desk):
    window = RestartWindow(start=time(10, 1), end=time(10, 5), timezone="America/New_York")
    desk.hold(AAPL, 10)
    assert desk.ask(buy(), restart_windows=(window,), no_orders_before_s=59.0) is None
    refused = desk.refusal(buy(), restart_windows=(window,), no_orders_before_s=60.0)
    assert (refused.limit, "10:01 to 10:05" in refused.allowed) == ("restart_window", True)
    assert desk.ask(sell(), restart_windows=(window,)) is None


# --- a strategy's own ------------------------------------------------------------------------------------------------


def test_a_strategy_may_be_tighter_never_looser():
    limits = msgspec.structs.replace(OPEN, max_loss=D(100), symbols=frozenset({"A", "B"}), duplicate_window_s=1.0)
    own = {"max_quantity": D(5), "max_loss": D(50), "symbols": frozenset({"A"}), "duplicate_window_s": 2.0}
    assert tightened(limits, own).max_quantity == 5
    for looser in (
        {"max_quantity": D(10**9)},
        {"max_loss": D(101)},
        {"symbols": frozenset({"A", "C"})},
        {"symbols": frozenset()},
        {"duplicate_window_s": 0.5},
    ):
        with pytest.raises(ValueError, match="looser"):
            tightened(limits, looser)
    with pytest.raises(ValueError, match="looser"):
        tightened(msgspec.structs.replace(limits, allow_unlimited_loss=False), {"allow_unlimited_loss": True})
