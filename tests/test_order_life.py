"""Every order type from submission to its end; changing, previewing, refusing: real ib_insync, simulated gateway.

Goal: what the service says about an order is what the gateway holds. Method: one world in virtual time per test; the
gateway's own order is compared with ours.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from datetime import timedelta
from decimal import Decimal as D

import msgspec
import pytest

from ibkr_service.core import events as ev
from ibkr_service.core.errors import (
    BrokerRefused,
    InvalidIntent,
    NotReady,
    Refused,
    RequestTimeout,
    UnknownInstrument,
    UnknownOrder,
)
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.core.intent import Algo, Intent
from ibkr_service.core.orders import OrderState
from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.messages import Request
from ibkr_service.supervisor import StrategySpec
from tests.bdd.stage import Trader
from tests.world import EPOCH, WIDE_LIMITS, World, WorldConfig

AAPL = Stock("AAPL")
CENT = D("0.01")
BEFORE_THE_CLOSE = {"hours": "real", "started_at": EPOCH + timedelta(hours=6, minutes=15)}  # 15:45 in New York


class Stage:
    """A READY world with a trader who watches AAPL and knows its increments."""

    def __init__(self, world, trader):
        self.world, self.trader = world, trader

    @property
    def desk(self):
        return self.trader.desk

    @property
    def mid(self):
        """A price on the grid, in the middle of the market."""
        quote = self.desk.quote(AAPL)
        return D(str(round((quote.bid + quote.ask) / 2, 2)))

    def theirs(self, ref):
        """The gateway's own order."""
        (order,) = [o for o in self.world.gateway.exchange.orders.values() if o.ticket.order_ref == ref]
        return order

    def settled(self):
        """What became of modifications."""
        return [(fact.outcome, fact.intent) for fact in self.trader.of(ev.ModificationSettled)]

    async def working(self, intent):
        """An order that the broker has acknowledged."""
        ref = self.desk.submit(intent)
        await self.world.until(lambda: self.desk.order(ref).state is OrderState.WORKING, what="WORKING")
        return ref

    async def until_settled(self, count=1):
        await self.world.until(lambda: len(self.settled()) >= count, what="a settled modification")


@asynccontextmanager
async def stage(folder, *, limits=WIDE_LIMITS, **gateway):
    trader = Trader()
    config = WorldConfig(
        folder=folder,
        strategies=[StrategySpec("trader", trader)],
        limits=limits,
        gateway=GatewayConfig(**{"started_at": EPOCH} | gateway),
    )
    async with World(config) as world:
        await world.until(lambda: trader.was_started, what="the strategy")
        await trader.desk.qualify(AAPL)
        trader.desk.watch(AAPL)
        await world.until(lambda: trader.desk.quote(AAPL) is not None, what="a quote")
        yield Stage(world, trader)


# --- each order type -------------------------------------------------------------------------------------------------

TYPES = {
    "MKT": lambda _mid: {},
    "LMT": lambda mid: {"limit": mid + 5},
    "LMT IOC": lambda mid: {"limit": mid + 5, "tif": "IOC"},
    "LMT FOK": lambda mid: {"limit": mid + 5, "tif": "FOK"},
    "STP": lambda mid: {"stop": mid - 5},
    "STP LMT": lambda mid: {"stop": mid - 5, "limit": mid + 5},
    "TRAIL": lambda _mid: {"trail": CENT},
    "TRAIL %": lambda _mid: {"trail_percent": "0.01"},
    "TRAIL LIMIT": lambda _mid: {"trail": CENT, "limit_offset": "5"},
    "MOC": lambda _mid: {"order_type": "MOC"},
    "LOC": lambda mid: {"order_type": "LOC", "limit": mid + 50},
    "MIDPRICE": lambda _mid: {"order_type": "MIDPRICE"},
    "MIDPRICE capped": lambda mid: {"order_type": "MIDPRICE", "limit": mid + 5},
    "adaptive": lambda mid: {"limit": mid + 5, "algo": Algo.of("Adaptive", adaptivePriority="Urgent")},
    "fields": lambda mid: {"limit": mid + 5, "fields": {"hidden": True, "displaySize": 5}},
}


@pytest.mark.parametrize("kind", TYPES)
async def test_an_order_of_each_type_is_filled(tmp_path, kind):
    """From submission to the fill; book, ledger and gateway agree."""
    async with stage(tmp_path, **BEFORE_THE_CLOSE if "OC" in kind else {}) as at:
        terms = TYPES[kind](at.mid)
        ref = at.desk.submit(Intent.buy(AAPL, 10, **terms))
        order = await at.desk.finished(ref)
        assert (order.state, order.filled) == (OrderState.FILLED, D(10)), order
        assert at.theirs(ref).ticket.order_type == order.intent.order_type
        await at.world.until(lambda: at.desk.book.position(AAPL) == 10, what="the position")
        at.world.check_agreement()


RESTING = {
    "LMT": lambda mid: {"limit": mid - 20, "tif": "GTC"},
    "STP": lambda mid: {"stop": mid + 20},
    "STP LMT": lambda mid: {"stop": mid + 20, "limit": mid + 21},
    "TRAIL": lambda _mid: {"trail": 20},
    "TRAIL %": lambda _mid: {"trail_percent": 20},
    "TRAIL LIMIT": lambda mid: {"trail": 20, "limit": mid + 21, "stop": mid + 20},
    "MOC": lambda _mid: {"order_type": "MOC"},
    "LOC": lambda mid: {"order_type": "LOC", "limit": mid - 20},
    "MIDPRICE": lambda mid: {"order_type": "MIDPRICE", "limit": mid - 20},
}


@pytest.mark.parametrize("kind", RESTING)
async def test_an_order_of_each_type_waits_and_can_be_cancelled(tmp_path, kind):
    """What is nowhere near the market is WORKING until the broker confirms the cancellation."""
    async with stage(tmp_path, **BEFORE_THE_CLOSE if "OC" in kind else {}) as at:
        ref = await at.working(Intent.buy(AAPL, 10, **RESTING[kind](at.mid)))
        at.desk.cancel(ref)
        assert (await at.desk.finished(ref)).state is OrderState.CANCELLED
        assert at.trader.of(ev.ModificationSettled) == [], "the broker shows the terms that we sent"


async def test_an_order_good_till_a_moment_ends_then(tmp_path):
    """GTD."""
    async with stage(tmp_path) as at:
        ref = await at.working(Intent.buy(AAPL, 1, limit=at.mid - 20, good_till=EPOCH + timedelta(minutes=5)))
        ended = await at.desk.finished(ref)
        assert ended.state is OrderState.CANCELLED
        assert 290 < at.world.now_s < 310


async def test_all_orders_of_a_strategy_are_cancelled(tmp_path):
    """Those of nobody else; a second time there is nothing to cancel."""
    async with stage(tmp_path) as at:
        refs = [await at.working(Intent.buy(AAPL, 1, limit=at.mid - 20 - n)) for n in range(3)]
        assert at.desk.cancel_all() == tuple(refs)
        for ref in refs:
            assert (await at.desk.finished(ref)).state is OrderState.CANCELLED
        assert at.desk.cancel_all() == ()


# --- modifying -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "name", "change"),
    [
        ("LMT", "limit_price", lambda mid: mid - 10),
        ("LMT", "quantity", lambda _mid: D(7)),
        ("LMT", "tif", lambda _mid: "DAY"),
        ("LMT", "outside_rth", lambda _mid: True),
        ("STP", "stop_price", lambda mid: mid + 30),
        ("STP LMT", "limit_price", lambda mid: mid + 30),
        ("TRAIL", "trailing_amount", lambda _mid: D(15)),
        ("TRAIL %", "trailing_percent", lambda _mid: D(15)),
    ],
)
async def test_each_term_can_be_modified(tmp_path, kind, name, change):
    """The gateway holds the new term, ours follows its word, and the key still stands for what was wished."""
    async with stage(tmp_path) as at:
        wish = Intent.buy(AAPL, 10, **RESTING[kind](at.mid))
        ref = at.desk.submit(wish, key="k")
        await at.world.until(lambda: at.desk.order(ref).state is OrderState.WORKING)
        value = change(at.mid)
        at.desk.modify(ref, **{name: value})
        assert getattr(at.desk.order(ref).intent, name) == getattr(wish, name), "not before the broker's word"
        await at.until_settled()
        order = at.desk.order(ref)
        assert at.settled() == [("accepted", msgspec.structs.replace(wish, **{name: value}))]
        assert (getattr(order.intent, name), order.state, order.change) == (value, OrderState.WORKING, None)
        assert at.desk.submit(wish, key="k") == ref
        theirs = at.theirs(ref).ticket
        shown = {"limit_price": theirs.limit, "quantity": theirs.quantity, "stop_price": theirs.aux, "tif": theirs.tif}
        shown |= {"trailing_amount": theirs.aux, "outside_rth": theirs.terms.outside_rth}
        shown["trailing_percent"] = theirs.terms.trail_percent
        assert shown[name] == value


async def test_a_modified_order_is_filled_at_its_new_terms(tmp_path):
    """Smaller and dearer: 4 of 10 are all of it."""
    async with stage(tmp_path) as at:
        ref = await at.working(Intent.buy(AAPL, 10, limit=at.mid - 20))
        at.desk.modify(ref, limit_price=at.mid + 5, quantity=D(4))
        ended = await at.desk.finished(ref)
        assert (ended.state, ended.filled, ended.remaining) == (OrderState.FILLED, 4, 0)


async def test_a_change_is_journalled_before_it_leaves_and_read_back(tmp_path):
    """After a restart the order has the terms that the broker holds."""
    async with stage(tmp_path) as at:
        ref = await at.working(Intent.buy(AAPL, 10, limit=at.mid - 20, tif="GTC"))
        at.desk.modify(ref, quantity=D(6))
        assert type(list(at.world.app.journal.replay())[-1]) is ev.ModificationRequested
        await at.until_settled()
        await at.world.restart_service()
        await at.world.until_ready()
        order = at.world.app.book.orders[ref]
        assert (order.intent.quantity, order.wished.quantity, order.state) == (6, 10, OrderState.WORKING)


@pytest.mark.parametrize("code", [201, 104, 105, 110, 321, 9999])
async def test_a_refused_modification_does_not_end_the_order(tmp_path, code):
    """Whatever the code: the order is WORKING at its old terms, and never seemed to be anything else."""
    async with stage(tmp_path) as at:
        ref = await at.working(Intent.buy(AAPL, 10, limit=at.mid - 20))
        before = at.desk.order(ref).intent
        at.world.gateway.misfortunes.rejections.append((code, "no"))
        at.desk.modify(ref, quantity=D(20))
        await at.until_settled()
        assert at.settled() == [("refused", before)]
        await at.world.until(lambda: at.world.now_s > 120, 200)  # looks at the broker have passed
        order = at.desk.order(ref)
        assert (order.state, order.intent, order.change) == (OrderState.WORKING, before, None)
        assert not [c for c in at.trader.of(ev.OrderChanged) if c.after is OrderState.PROVISIONALLY_CANCELLED]
        assert at.theirs(ref).ticket.quantity == 10


async def test_a_modification_that_is_lost_is_found_out(tmp_path):
    """The broker never heard of it: the look after the deadline says that the old terms hold."""
    async with stage(tmp_path) as at:
        ref = await at.working(Intent.buy(AAPL, 10, limit=at.mid - 20))
        at.world.faults.ignore(Request.PLACE_ORDER)
        at.desk.modify(ref, quantity=D(20))
        await at.until_settled()
        assert [outcome for outcome, _ in at.settled()] == ["refused"]
        assert at.desk.order(ref).intent.quantity == 10


async def test_two_modifications_after_each_other(tmp_path):
    """The second is upon the first, though nobody has answered that yet."""
    async with stage(tmp_path) as at:
        ref = await at.working(Intent.buy(AAPL, 10, limit=at.mid - 20))
        at.desk.modify(ref, quantity=D(8))
        at.desk.modify(ref, outside_rth=True)
        await at.world.until(lambda: at.desk.order(ref).change is None, what="the last word")
        holds = at.desk.order(ref).intent
        assert (holds.quantity, holds.outside_rth) == (8, True)


async def test_what_cannot_be_modified_is_refused(tmp_path):
    """Unknown, done, unacknowledged, cancelled, not READY, less than is filled, senseless; nothing leaves."""
    async with stage(tmp_path) as at:
        desk, asked = at.desk, at.world.gateway.exchange
        with pytest.raises(UnknownOrder):
            desk.modify("nothing", quantity=D(1))
        filled = desk.submit(Intent.buy(AAPL, 1, limit=at.mid + 5))
        with pytest.raises(Refused, match="one SENT"):
            desk.modify(filled, quantity=D(2))
        await desk.finished(filled)
        with pytest.raises(Refused, match="one FILLED"):
            desk.modify(filled, quantity=D(2))
        ref = await at.working(Intent.buy(AAPL, 10, limit=at.mid - 20))
        for changes, says in (
            ({"order_type": "MKT"}, "order_type cannot be changed"),
            ({"quantity": D(0)}, "above 0"),
            ({"quantity": 5}, "must be a Decimal"),
            ({"limit_price": None}, "needs a limit_price"),
            ({"stop_price": D(1)}, "no stop_price"),
        ):
            with pytest.raises(InvalidIntent, match=says):
                desk.modify(ref, **changes)
        trailing = await at.working(Intent.sell(AAPL, 1, trail=20, stop=at.mid - 20))
        with pytest.raises(InvalidIntent, match="say stop_price="):  # it would be sent, and has moved since
            desk.modify(trailing, trailing_amount=D(15))
        with pytest.raises(Refused, match="off_tick"):
            desk.modify(ref, limit_price=at.mid + D("0.001"))
        with pytest.raises(Refused, match="max_quantity"):
            desk.modify(ref, quantity=D(100_000_000))
        desk.modify(ref, quantity=D(10))  # nothing new: nothing is sent
        at.world.faults.cut()
        await at.world.until(lambda: desk.book.link.name == "CUT", what="CUT")
        with pytest.raises(Refused, match="link"):
            desk.modify(ref, quantity=D(5))
        assert at.theirs(ref).ticket.quantity == 10
        assert asked is at.world.gateway.exchange
        desk.cancel(ref)
        with pytest.raises(Refused, match="to be cancelled"):
            desk.modify(ref, quantity=D(5))
        assert at.world.of(ev.ModificationRequested) == []


# --- increments and fields -------------------------------------------------------------------------------------------


async def test_a_price_off_the_increment_is_refused_before_it_leaves(tmp_path):
    """With the prices beside it."""
    async with stage(tmp_path) as at:
        with pytest.raises(Refused, match=r"multiples of 0.01, such as 100\.00 or 100\.01, asked limit_price 100\.001"):
            at.desk.submit(Intent.buy(AAPL, 1, limit="100.001"))
        with pytest.raises(Refused, match="stop_price"):
            at.desk.submit(Intent.buy(AAPL, 1, stop="900.001"))
        assert at.world.of(ev.OrderSubmitted) == []


@pytest.mark.parametrize(("action", "rounded"), [("BUY", "100.00"), ("SELL", "900.01")])
async def test_a_price_can_be_rounded_but_never_to_the_worse(tmp_path, action, rounded):
    """Down for a buyer, up for a seller; the key stands for what was wished."""
    async with stage(tmp_path, limits=msgspec.structs.replace(WIDE_LIMITS, off_tick="round")) as at:
        wish = Intent.of(action, AAPL, 1, limit=D(rounded) + (D("0.001") if action == "BUY" else D("-0.001")))
        ref = at.desk.submit(wish, key="k")
        assert at.desk.order(ref).intent.limit_price == D(rounded)
        assert at.desk.submit(wish, key="k") == ref
        await at.world.until(lambda: at.desk.order(ref).state is OrderState.WORKING)
        assert at.theirs(ref).ticket.limit == D(rounded)


async def test_an_unknown_increment_is_passed_or_refused_as_set(tmp_path):
    """Of an instrument that nobody has asked for."""
    strict = msgspec.structs.replace(WIDE_LIMITS, unknown_increment="refuse")
    async with stage(tmp_path, limits=strict) as at:
        other = Intent.buy(Stock("MSFT"), 1, limit="100")
        with pytest.raises(Refused, match=r"await desk\.qualify"):
            at.desk.submit(other)
        await at.desk.qualify(Stock("MSFT"))
        at.desk.submit(other)


async def test_an_unknown_field_is_refused(tmp_path):
    """Nothing is journalled."""
    async with stage(tmp_path) as at:
        with pytest.raises(InvalidIntent, match="no field hiden"):
            at.desk.submit(Intent.buy(AAPL, 1, limit=at.mid, fields={"hiden": True}))
        assert at.world.of(ev.OrderSubmitted) == []


# --- preview ---------------------------------------------------------------------------------------------------------


async def test_a_preview_shows_margin_and_commission_and_places_nothing(tmp_path):
    """Margin after is more than before; no order, no fact about one, anywhere."""
    async with stage(tmp_path) as at:
        seen = len(at.world.events)
        told = await at.desk.preview(Intent.buy(AAPL, 100, limit=at.mid))
        assert told.initial_margin_after > told.initial_margin_before
        assert told.initial_margin_change == told.initial_margin_after - told.initial_margin_before
        assert told.equity_with_loan_before > 0
        assert (told.commission > 0, told.commission_currency) == (True, "USD")
        assert not [fact for fact in at.world.events[seen:] if "Order" in type(fact).__name__]
        assert at.desk.book.orders == {}
        assert at.desk.book.foreign_orders == {}
        assert list(at.world.gateway.exchange.orders) == []


async def test_a_preview_of_what_would_be_refused_is_a_typed_failure(tmp_path):
    """The broker's code and words, the time limit, an unknown instrument, a price off the increment."""
    async with stage(tmp_path) as at:
        intent = Intent.buy(AAPL, 100, limit=at.mid)
        at.world.gateway.misfortunes.rejections.append((110, "off the grid"))
        with pytest.raises(BrokerRefused, match="off the grid"):
            await at.desk.preview(intent)
        at.world.faults.ignore(Request.PLACE_ORDER)
        began_s = at.world.now_s
        with pytest.raises(RequestTimeout):
            await at.desk.preview(intent, timeout_s=3.0)
        assert at.world.now_s - began_s == pytest.approx(3.0, abs=0.1)
        with pytest.raises(UnknownInstrument):
            await at.desk.preview(Intent.buy(Stock("NOSUCH"), 1))
        with pytest.raises(Refused, match="off_tick"):
            await at.desk.preview(Intent.buy(AAPL, 1, limit="100.001"))
        at.world.faults.cut()
        await at.world.until(lambda: at.desk.book.link.name == "CUT", what="CUT")
        with pytest.raises(NotReady):
            await at.desk.preview(intent)


# --- answers that do not come ----------------------------------------------------------------------------------------


async def test_a_market_rule_that_comes_late_or_never_is_a_typed_timeout(tmp_path):
    """The library gives up after a second and answers None; nobody may take that for a rule."""
    async with stage(tmp_path) as at:
        at.world.faults.ignore(Request.MARKET_RULE)
        with pytest.raises(RequestTimeout, match="market rule"):
            await at.desk.qualify(Forex("EUR", "USD"))


async def test_a_search_that_is_not_answered_is_a_typed_timeout(tmp_path):
    """As above, after four seconds: not an empty list."""
    async with stage(tmp_path) as at:
        at.world.faults.ignore(Request.MATCHING_SYMBOLS)
        with pytest.raises(RequestTimeout):
            await at.desk.request("reqMatchingSymbolsAsync", "APP")
