"""Combinations traded leg by leg: in the right order, within the net price, and with an end that was decided before.

Goal: nothing is sold before what covers it is there, the net price holds, and whatever is left in part is completed,
unwound or told. Method: real ib_insync, simulated gateway, virtual time; the gateway's arrivals are read.
"""

from __future__ import annotations

from decimal import Decimal as D

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st
from structlog.testing import capture_logs

from ibkr_service.core import spreads
from ibkr_service.core.errors import InvalidIntent, Refused
from ibkr_service.core.instrument import Option
from ibkr_service.core.legging import last_price, steps, worst_between
from ibkr_service.core.orders import OrderState
from ibkr_service.core.payoff import UNLIMITED
from ibkr_service.legging import leg_in
from tests.test_spread_orders import KINDS, floor
from tests.world import WIDE_LIMITS

LEGS = [Option("AAPL", "20270115", strike, right) for right in "PC" for strike in (140.0, 150.0, 160.0, 170.0)]
BULL = spreads.bull_call(LEGS[5], LEGS[6])
CONDOR = spreads.iron_condor(LEGS[0], LEGS[1], LEGS[6], LEGS[7])


# --- pure ------------------------------------------------------------------------------------------------------------


def test_bought_legs_come_first():
    """Nothing is sold before what covers it."""
    for spread in (BULL, CONDOR, spreads.short_straddle(LEGS[1], LEGS[5])):
        for side in ("LONG", "SHORT"):
            actions = [step.action for step in steps(spread, side, D(2))]
            assert actions == sorted(actions)  # BUY before SELL


def test_the_worst_state_between_is_known():
    """A bull call: first the whole premium of the bought call is at stake; a short straddle has no bound."""
    prices = {LEGS[5]: D("8.00"), LEGS[6]: D("4.00")}
    assert worst_between(steps(BULL, "LONG", D(2)), prices) == 1600
    straddle = spreads.short_straddle(LEGS[1], LEGS[5])
    assert worst_between(steps(straddle, "LONG", D(1)), {LEGS[1]: D(5), LEGS[5]: D(5)}) is UNLIMITED


@given(st.integers(1, 400), st.integers(1, 400), st.sampled_from(["LONG", "SHORT"]))
def test_the_last_leg_keeps_the_net_price(first_cents, net_cents, side):
    """Whatever the others cost, the last one's price makes the net what was said, exactly."""
    plan = steps(BULL, side, D(1))
    limit = BULL.net_price(D(net_cents) / 100, side=side)
    price = last_price(limit, BULL, side, {plan[0].instrument: D(first_cents) / 100}, plan[-1])
    paid = {plan[0].instrument: D(first_cents) / 100, plan[-1].instrument: price}
    cash = sum(-step.leg.signed * paid[step.instrument] for step in plan)
    assert cash == limit.cash


@pytest.mark.parametrize("quantity", ["0", "-1", "1.5"])
def test_a_quantity_is_whole(quantity):
    """Half a spread is none."""
    with pytest.raises(InvalidIntent):
        steps(BULL, "LONG", D(quantity))


# --- at the gateway --------------------------------------------------------------------------------------------------


def arrivals(at):
    """What reached the gateway, in order: action and right."""
    orders = sorted(at.world.gateway.exchange.orders.values(), key=lambda order: order.ticket.order_id)
    return [(order.ticket.action, order.ticket.order_type) for order in orders]


@pytest.mark.parametrize("side", ["LONG", "SHORT"])
async def test_all_legs_are_filled_one_after_the_other(tmp_path, side):
    """Complete, within the net price, and the positions are those of the spread."""
    async with floor(tmp_path) as at:
        spread = KINDS["bull call"](at)
        quote = await at.ready(spread)
        price = quote.ask + 1 if side == "LONG" else max(quote.bid - 1, D("0.05"))
        done = await leg_in(at.desk, spread, 2, side=side, limit=spread.net_price(price, side=side))
        assert done.state == "complete"
        assert arrivals(at) == [("BUY", "LMT"), ("SELL", "LMT")]
        assert all(order.state is OrderState.FILLED for order in done.orders)
        sign = 1 if side == "LONG" else -1
        assert {leg.instrument: at.desk.position(leg.instrument) for leg in spread.legs} == {
            leg.instrument: sign * 2 * leg.signed for leg in spread.legs
        }
        at.world.check_agreement()


async def stuck(at, ending):
    """A net price that the second leg cannot reach: the first one is filled, the second works until time is up."""
    spread = KINDS["bull call"](at)
    await at.ready(spread)
    return spread, await leg_in(
        at.desk, spread, 1, limit=spread.net_price(D("0.01")), deadline_s=20.0, on_deadline=ending, key="k"
    )


async def test_time_is_up_and_the_rest_is_completed_at_the_market(tmp_path):
    """As it was decided."""
    async with floor(tmp_path) as at:
        _, done = await stuck(at, "complete")
        assert (done.state, "not filled in time" in done.why) == ("complete", True)
        assert arrivals(at) == [("BUY", "LMT"), ("SELL", "LMT"), ("SELL", "MKT")]
        await at.world.until(lambda: len(at.held()) == 2, what="both legs")
        at.world.check_agreement()


async def test_time_is_up_and_what_was_traded_is_unwound(tmp_path):
    """Nothing is held in the end."""
    async with floor(tmp_path) as at:
        _, done = await stuck(at, "unwind")
        assert done.state == "unwound"
        await at.world.until(lambda: at.held() == {}, what="nothing held")
        assert at.world.gateway.open_orders == []


async def test_time_is_up_and_somebody_has_to_look(tmp_path):
    """The order is cancelled, the part is told."""
    async with floor(tmp_path) as at:
        with capture_logs() as told:
            spread, done = await stuck(at, "alarm")
        assert done.state == "incomplete"
        assert [line["event"] for line in told if line["log_level"] == "error"] == ["a combination is held in part"]
        assert at.world.gateway.open_orders == []
        assert at.desk.position(spread.legs[0].instrument) == 1


@pytest.mark.parametrize("ending", ["complete", "unwind"])
async def test_nothing_is_sent_for_a_leg_whose_order_may_still_fill(tmp_path, ending):
    """The gateway does not hear the cancel: a market order beside it could trade the leg twice."""
    async with floor(tmp_path) as at:
        at.world.faults.ignore("CANCEL_ORDER")
        _, done = await stuck(at, ending)
        assert done.state == "incomplete"
        assert "still open" in done.why
        assert arrivals(at) == [("BUY", "LMT"), ("SELL", "LMT")]


async def test_the_same_key_goes_on_where_it_was(tmp_path):
    """After a restart the legs that were ordered are not ordered again."""
    async with floor(tmp_path) as at:
        spread = KINDS["bull call"](at)
        quote = await at.ready(spread)
        limit = spread.net_price(quote.ask + 1)
        first = await leg_in(at.desk, spread, 1, limit=limit, key="k")
        await at.world.restart_service()
        await at.world.until(lambda: not at.desk.closed, what="a new desk")
        again = await leg_in(at.desk, spread, 1, limit=limit, key="k")
        assert [order.ref for order in again.orders] == [order.ref for order in first.orders]
        assert len(at.world.gateway.exchange.orders) == 2


async def test_the_worst_state_on_the_way_is_refused_before_the_first_order(tmp_path):
    """The whole premium of the bought call is more than may be lost, though the spread itself is not."""
    limits = msgspec.structs.replace(WIDE_LIMITS, max_loss=D(100), allow_unlimited_loss=False)
    async with floor(tmp_path, limits=limits) as at:
        spread = KINDS["bull call"](at)
        await at.ready(spread)
        with pytest.raises(Refused, match="max_loss"):
            await leg_in(at.desk, spread, 1)
        assert arrivals(at) == []


async def test_a_sold_leg_is_covered_by_the_bought_one(tmp_path):
    """A bounded loss is enough: the gate looks at the whole."""
    limits = msgspec.structs.replace(WIDE_LIMITS, max_loss=D(50_000), allow_unlimited_loss=False)
    async with floor(tmp_path, limits=limits) as at:
        spread = KINDS["bull call"](at)
        await at.ready(spread)
        assert (await leg_in(at.desk, spread, 1)).state == "complete"
