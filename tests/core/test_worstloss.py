"""The most that an order can lose: exact where all expires together, never too low elsewhere."""

from __future__ import annotations

from decimal import Decimal as D

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from ibkr_service.core.combination import Spread, combination
from ibkr_service.core.instrument import FutureOption, Option, Stock
from ibkr_service.core.legs import Leg, leg
from ibkr_service.core.payoff import UNLIMITED
from ibkr_service.core.spreads import bear_call, bull_call, calendar, diagonal, iron_condor, short_strangle
from ibkr_service.core.worstloss import worst_loss


def option(strike, right="C", expiry="20270115", **more):
    return Option("AAPL", expiry, float(strike), right, **more)


C150, C160, P140, P130 = option(150), option(160), option(140, "P"), option(130, "P")
LATER = option(150, expiry="20270219")


@pytest.mark.parametrize(
    ("traded", "action", "cash", "loss"),
    [
        (C150, "BUY", "-3", D(300)),
        (C150, "SELL", "3", UNLIMITED),
        (P140, "SELL", "3", D(13_700)),
        (bull_call(C150, C160), "BUY", "-2.85", D(285)),
        (bull_call(C150, C160), "SELL", "2.85", D(715)),
        (bear_call(C150, C160), "BUY", "2.85", D(715)),
        (iron_condor(P130, P140, C150, C160), "BUY", "4", D(600)),
        (short_strangle(P140, C150), "BUY", "6", UNLIMITED),
        (Spread((Leg(Stock("AAPL"), 100, "BUY"), leg(C150, -1))), "BUY", "-140", D(14_000)),
        (Spread((Leg(Stock("AAPL"), 100, "BUY"), leg(C150, -1))), "SELL", "140", D(1_000)),
        (calendar(C150, LATER), "BUY", "-2", D(200)),
        (calendar(C150, LATER), "SELL", "2", UNLIMITED),
        (diagonal(C150, option(160, expiry="20270219")), "BUY", "-1", D(1_100)),
        (diagonal(C150, option(140, expiry="20270219")), "BUY", "-12", D(1_200)),
        (Stock("AAPL"), "BUY", "-140", None),
    ],
)
def test_what_can_be_lost(traded, action, cash, loss):
    """For one of it, with the multiplier in it."""
    assert worst_loss(traded, action, D(cash)) == loss


def test_options_on_futures_of_two_months_cover_nothing():
    """Each is on another future, and a future has no floor."""
    near = FutureOption("ES", "20261218", 6000.0, "P", multiplier="50")
    far = FutureOption("ES", "20270319", 6000.0, "P", multiplier="50")
    assert worst_loss(near, "SELL", D(10)) is UNLIMITED
    assert worst_loss(calendar(near, far), "BUY", D(-10)) is UNLIMITED
    assert worst_loss(near, "BUY", D(-10)) == 500


def test_several_sold_expiries_are_covered_each_or_not_at_all():
    """Two calendars in one: the debit. With one long option less: no bound."""
    last = option(150, expiry="20270319")
    middle = option(150, expiry="20270219")
    both = Spread((leg(C150, -1), leg(middle, -1), leg(last, 2)))
    assert worst_loss(both, "BUY", D(-4)) == 400
    one = Spread((leg(C150, -1), leg(middle, -1), leg(last, 1)))
    assert worst_loss(one, "BUY", D(-4)) is UNLIMITED


def test_the_same_day_settled_at_another_hour_covers_nothing():
    """SPX settles at the opening, SPXW at the close: the one is gone when the other ends."""
    am = Option("SPX", "20261218", 6000.0, "C", trading_class="SPX")
    pm = Option("SPX", "20261218", 6000.0, "C", trading_class="SPXW")
    assert worst_loss(Spread((leg(am, 1), leg(pm, -1))), "BUY", D(0)) is UNLIMITED


RATIOS = st.integers(-3, 3).filter(bool)


@given(
    st.lists(st.tuples(st.sampled_from([130, 140, 150, 160]), st.sampled_from("CP"), RATIOS), min_size=2, max_size=4)
)
def test_no_price_at_expiry_loses_more(rows):
    """Against the payoff itself, looked at from zero to far above."""
    signed = {option(strike, right): ratio for strike, right, ratio in rows}
    assume(len(signed) > 1)
    spread, _ = combination(leg(one, ratio) for one, ratio in signed.items())
    loss = worst_loss(spread, "BUY", D(1))
    prices = [D(price) for price in range(0, 1_000, 5)]
    seen = max(-sum(one.part.at(price) for one in spread.legs) - 100 for price in prices)
    assert loss is UNLIMITED or loss >= seen
