"""Option spreads as orders, from the words of a user to the fill: real ib_insync, simulated gateway.

Goal: no sign is wrong anywhere between `debit=2.85` and the money, each spread is filled once, and positions are those
of the legs. Method: one world in virtual time per test; the gateway's own order and executions are compared with ours.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from decimal import Decimal as D

import pytest

from ibkr_service.core import events as ev
from ibkr_service.core import spreads
from ibkr_service.core.errors import InvalidIntent, Refused
from ibkr_service.core.instrument import Bag, Stock
from ibkr_service.core.intent import Intent
from ibkr_service.core.legs import Leg
from ibkr_service.core.orders import OrderState
from ibkr_service.sim import GatewayConfig
from ibkr_service.supervisor import StrategySpec
from tests.bdd.stage import Trader
from tests.world import EPOCH, WIDE_LIMITS, World, WorldConfig

AAPL = Stock("AAPL")


class Floor:
    """A READY world, a trader, and spreads on AAPL whose legs are watched and qualified."""

    def __init__(self, world, trader, chain):
        self.world, self.trader, self.chain = world, trader, chain

    @property
    def desk(self):
        return self.trader.desk

    def options(self, right, count):
        """So many options around the money, by strike."""
        rows = [row for row in self.chain.rows if row.option.right == right]
        start = (len(rows) - count) // 2
        return [row.option for row in rows[start : start + count]]

    async def ready(self, spread):
        """Watched and qualified; returns its net quote."""
        await self.desk.qualify(spread)
        for leg in spread.legs:
            self.desk.watch(leg.instrument)
        await self.world.until(lambda: self.desk.net_quote(spread) is not None, what="a net quote")
        return self.desk.net_quote(spread)

    def theirs(self, ref):
        (order,) = [o for o in self.world.gateway.exchange.orders.values() if o.ticket.order_ref == ref]
        return order

    def held(self):
        """What the gateway says the account holds, by contract, without zeros."""
        account = self.desk.book.account
        return {p.contract.con_id: p.quantity for p in self.world.gateway.positions(account) if p.quantity}


@asynccontextmanager
async def floor(folder, *, limits=WIDE_LIMITS, **gateway):
    trader = Trader()
    config = WorldConfig(
        folder=folder,
        strategies=[StrategySpec("trader", trader)],
        limits=limits,
        gateway=GatewayConfig(**{"started_at": EPOCH} | gateway),
    )
    async with World(config) as world:
        await world.until(lambda: trader.was_started, what="the strategy")
        chain = await trader.desk.option_chain(AAPL, expiries=1, strikes=8)
        yield Floor(world, trader, chain)


def vertical(at, kind, right):
    return kind(*at.options(right, 2))


KINDS = {
    "bull call": lambda at: vertical(at, spreads.bull_call, "C"),
    "bear put": lambda at: spreads.bear_put(*at.options("P", 2)),
    "bull put": lambda at: vertical(at, spreads.bull_put, "P"),
    "bear call": lambda at: vertical(at, spreads.bear_call, "C"),
}


@pytest.mark.parametrize("side", ["LONG", "SHORT"])
@pytest.mark.parametrize("kind", KINDS)
async def test_a_marketable_limit_is_filled_with_the_money_going_the_natural_way(tmp_path, kind, side):
    """The bare price is read off the market with room; cash at the broker moves the way that was said."""
    async with floor(tmp_path) as at:
        spread = KINDS[kind](at)
        quote = await at.ready(spread)
        action = "BUY" if side == "LONG" else "SELL"
        worst = quote.side(action)
        price = abs(worst) + D("0.20") * (1 if spread.direction(side).value == "DEBIT" else -1)
        intent = Intent.of(action, spread, 2, limit=price)
        words = "pay at most" if spread.direction(side).value == "DEBIT" else "receive at least"
        assert f"{words} {price}" in str(intent)
        order = await at.desk.finished(at.desk.submit(intent))
        assert (order.state, order.filled) == (OrderState.FILLED, D(2)), order
        theirs = at.theirs(order.ref)
        assert theirs.ticket.action == action
        assert theirs.ticket.limit == order.intent.limit_price
        # Never worse than said, and in the natural direction.
        cash = order.average_price * (-1 if action == "BUY" else 1)
        natural = spread.direction(side).value
        assert (-price <= cash < 0) if natural == "DEBIT" else (cash >= price)
        held = {leg.instrument: (1 if side == "LONG" else -1) * 2 * leg.signed for leg in spread.legs}
        await at.world.until(lambda: all(at.desk.book.position(c) == q for c, q in held.items()), what="positions")
        assert {c: at.desk.position(c) for c in held} == held
        assert at.desk.position(spread) == (2 if side == "LONG" else -2)
        at.world.check_agreement()
        bags = [fill for fill in at.trader.of(ev.Fill) if isinstance(fill.instrument, Bag)]
        legs = [fill for fill in at.trader.of(ev.Fill) if not isinstance(fill.instrument, Bag)]
        assert sum(fill.quantity for fill in bags) == 2
        assert sum(fill.quantity for fill in legs) == 4


async def test_a_market_order_of_an_iron_condor_is_priced_by_its_legs(tmp_path):
    """The risk gate knows what it costs; without quotes of all legs it refuses."""
    async with floor(tmp_path) as at:
        puts, calls = at.options("P", 4), at.options("C", 8)
        condor = spreads.iron_condor(puts[0], puts[1], calls[-2], calls[-1])
        await at.desk.qualify(condor)
        with pytest.raises(Refused, match="no quote"):
            at.desk.submit(Intent.buy(condor, 1))
        await at.ready(condor)
        order = await at.desk.finished(at.desk.submit(Intent.buy(condor, 1)))
        assert (order.state, order.filled) == (OrderState.FILLED, 1)
        assert order.average_price < 0  # a credit
        at.world.check_agreement()


async def test_an_unqualified_spread_is_refused_before_anything_is_written(tmp_path):
    """Its legs have no conIds yet."""
    async with floor(tmp_path) as at:
        written = len(at.world.journal_lines())
        bull = spreads.bull_call("AAPL 20270115 150 C", "AAPL 20270115 160 C")
        with pytest.raises(InvalidIntent, match=r"await desk\.qualify"):
            at.desk.submit(Intent.buy(bull, 1, debit="2.85"))
        assert len(at.world.journal_lines()) == written


async def test_a_working_spread_is_changed_and_cancelled(tmp_path):
    """A change says debit, credit or the bare price, too; the wrong word is refused."""
    async with floor(tmp_path) as at:
        spread = KINDS["bull put"](at)
        quote = await at.ready(spread)
        ref = at.desk.submit(Intent.buy(spread, 1, credit=-quote.bid + 1))  # nobody pays so much
        await at.world.until(lambda: at.desk.order(ref).state is OrderState.WORKING, what="WORKING")
        with pytest.raises(InvalidIntent, match="contradicts"):
            at.desk.modify(ref, debit=D("1.00"))
        at.desk.modify(ref, limit_price=-quote.bid + 2)
        await at.world.until(lambda: at.desk.order(ref).change is None, what="a settled change")
        assert at.desk.order(ref).intent.net_price.amount == -quote.bid + 2
        assert at.theirs(ref).ticket.limit == quote.bid - 2
        at.desk.cancel(ref)
        order = await at.desk.finished(ref)
        assert order.state is OrderState.CANCELLED
        assert at.held() == {}


async def test_a_spread_is_the_same_order_after_a_restart(tmp_path):
    """Its key is in the journal with all its legs; the order is matched, not sent again."""
    async with floor(tmp_path) as at:
        spread = KINDS["bull call"](at)
        quote = await at.ready(spread)
        intent = Intent.buy(spread, 1, debit=quote.bid - D("0.50"))
        ref = at.desk.submit(intent, key="monday")
        await at.world.until(lambda: at.desk.order(ref).state is OrderState.WORKING, what="WORKING")
        await at.world.restart_service()
        await at.world.until(lambda: not at.desk.closed, what="a new desk")
        assert at.desk.submit(intent, key="monday") == ref
        assert at.desk.order(ref).intent == intent
        assert len(at.world.gateway.open_orders) == 1


async def test_a_spread_is_closed_from_the_positions(tmp_path):
    """What the account holds is recognised, and its inverse closes it."""
    async with floor(tmp_path) as at:
        spread = KINDS["bull call"](at)
        quote = await at.ready(spread)
        await at.desk.finished(at.desk.submit(Intent.buy(spread, 3, debit=quote.ask + 1)))
        await at.world.until(lambda: len(at.desk.held_spreads().spreads) == 1, what="the spread")
        ((held, count),) = at.desk.held_spreads().spreads
        assert (held, count) == (spread, 3)
        await at.desk.finished(at.desk.submit(Intent.buy(spreads.closing(held), count)))
        await at.world.until(lambda: at.held() == {}, what="nothing held")
        at.world.check_agreement()


async def test_a_covered_call_counts_its_shares_once(tmp_path):
    """Its price is per share: 100 shares beside one option."""
    async with floor(tmp_path) as at:
        (call,) = at.options("C", 1)
        covered, count = spreads.combination([Leg(AAPL, 100, "BUY"), Leg(call, 1, "SELL")])
        quote = await at.ready(covered)
        stock = at.desk.quote(AAPL)
        assert D(repr(stock.bid)) / 2 < quote.ask < D(repr(stock.ask))
        order = await at.desk.finished(at.desk.submit(Intent.buy(covered, count, debit=quote.ask + 1)))
        assert order.average_price <= quote.ask + 1
        await at.world.until(lambda: at.desk.book.position(AAPL) == 100, what="100 shares")
        at.world.check_agreement()


async def test_a_preview_of_a_spread(tmp_path):
    """TWS's what-if for a BAG."""
    async with floor(tmp_path) as at:
        spread = KINDS["bear put"](at)
        quote = await at.ready(spread)
        told = await at.desk.preview(Intent.buy(spread, 2, debit=quote.ask))
        assert told.commission is not None
        assert told.commission > 0
