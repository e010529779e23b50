"""What spreads are worth at expiry: exact, at its ends too; and UNLIMITED as a value."""

from __future__ import annotations

import json
import operator
from decimal import Decimal as D
from fractions import Fraction
from itertools import pairwise

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core import spreads as sp
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.netprice import Direction, NetPrice
from ibkr_service.core.payoff import UNLIMITED, Unlimited
from tests.core.spreadmaking import call, cents, fop, put, sides, spreads, together

prices = st.integers(0, 40_000).map(lambda n: D(n) / 100)
limits = st.builds(NetPrice, cents, st.sampled_from(Direction))


def by_hand(spread, side, price):
    """Money at expiry, leg by leg, in another arithmetic."""
    total, at = Fraction(0), Fraction(price)
    for leg in spread.legs:
        option = leg.option
        if option is None:
            each = at
        elif option.right == "C":
            each = 100 * max(at - Fraction(option.strike), 0)
        else:
            each = 100 * max(Fraction(option.strike) - at, 0)
        if option is not None and option.multiplier == "1000":
            each *= 10
        total += (each if leg.action == "BUY" else -each) * leg.ratio
    return total if side == "LONG" else -total


@given(together, sides, prices)
def test_a_payoff_is_the_sum_of_its_legs(spread, side, price):
    """At every price, exactly; below zero, too, on a future, and on nothing else."""
    payoff = spread.payoff(side)
    assert Fraction(payoff.at(price)) == by_hand(spread, side, price)
    if payoff.slope_below is None:
        with pytest.raises(InvalidIntent, match="never below zero"):
            payoff.at(-price - 1)
    else:
        assert Fraction(payoff.at(-price)) == by_hand(spread, side, -price)


@given(together, sides)
def test_kinks_are_where_the_slope_changes(spread, side):
    """Nowhere else, but for the floor of a stock's price, and a flat line's only point."""
    payoff = spread.payoff(side)
    step = D("0.01")
    for number, (price, money) in enumerate(payoff.kinks):
        if number or (payoff.slope_below is not None and len(payoff.kinks) > 1):
            assert payoff.at(price + step) - money != money - payoff.at(price - step)


@given(together, sides, limits, st.lists(prices, min_size=1))
def test_profit_and_loss_are_bounds_that_are_attained(spread, side, price, looked_at):
    """No price of the underlying gives more or less, and some price gives just that."""
    outcome = spread.outcome(price, side)
    paid = spread.payoff(side).shifted(price.cash * spread.multiplier)
    seen = [paid.at(at) for at in (*looked_at, *(strike for strike, _ in outcome.points))]
    for bound, reached in ((outcome.max_profit, max(seen)), (outcome.max_loss, -min(seen))):
        if bound is not UNLIMITED:
            assert reached <= bound
            assert max(reached, 0) == bound
    assert not outcome.is_estimated


@given(together, sides, limits)
def test_unlimited_is_a_slope_that_does_not_end(spread, side, price):
    """Loss when the payoff falls for ever, profit when it rises; a stock can only rise for ever."""
    outcome = spread.outcome(price, side)
    payoff = spread.payoff(side)
    far = D(10) ** 9
    ends = [payoff.at(far + 1) - payoff.at(far)]
    if payoff.slope_below is not None:
        ends.append(payoff.at(-far - 1) - payoff.at(-far))
    assert (outcome.max_profit is UNLIMITED) == (max(ends) > 0)
    assert (outcome.max_loss is UNLIMITED) == (min(ends) < 0)


@given(together, sides, limits)
def test_break_evens_are_all_the_zeros(spread, side, price):
    """At each the profit is zero; between two, and beyond the last, its sign does not change."""
    outcome = spread.outcome(price, side)
    payoff = spread.payoff(side).shifted(price.cash * spread.multiplier)
    zeros = outcome.break_evens
    assert all(abs(payoff.at(zero)) < D("1e-18") for zero in zeros)
    low = D(0) if payoff.slope_below is None else D(-10_000)
    places = sorted({low, D(10_000), *zeros, *(at for at, _ in payoff.kinks)})
    signs = [(left, payoff.at(left), payoff.at(right)) for left, right in pairwise(places)]
    for left, before, after in signs:
        if left not in zeros:
            assert before * after >= -D("1e-9"), f"a zero after {left} was not told"


@given(together, limits)
def test_the_other_side_gains_what_this_one_loses(spread, price):
    """LONG and SHORT at one price add up to nothing."""
    other = NetPrice(price.amount, price.direction.opposite)
    mine, yours = spread.outcome(price), spread.outcome(other, "SHORT")
    assert (mine.max_profit, mine.max_loss) == (yours.max_loss, yours.max_profit)
    assert mine.break_evens == yours.break_evens


def test_unlimited_is_above_every_number():
    """So a limit on the loss refuses it without knowing of it."""
    for number in (D("1e30"), D("-1e30"), 0, 10**40):
        for above in (operator.gt, operator.ge, operator.ne):
            assert above(UNLIMITED, number)
            assert not above(number, UNLIMITED) or above is operator.ne
        for below in (operator.lt, operator.le, operator.eq):
            assert not below(UNLIMITED, number)
            assert below(number, UNLIMITED) or below is operator.eq
    assert max(D(1), UNLIMITED, D(2)) is UNLIMITED
    assert min(D(1), UNLIMITED) == 1
    beside = [compare(UNLIMITED, UNLIMITED) for compare in (operator.gt, operator.lt, operator.ge, operator.le)]
    assert beside == [False, False, True, True]


@pytest.mark.parametrize("other", [D("NaN"), D("Infinity"), 1.5, float("inf"), None, "1"])
def test_unlimited_is_compared_with_money_only(other):
    """A float, a missing figure or NaN is a defect somewhere, and no answer would be right."""
    for compare in (Unlimited.__lt__, Unlimited.__le__, Unlimited.__gt__, Unlimited.__ge__):
        assert compare(UNLIMITED, other) is NotImplemented
    with pytest.raises(TypeError):
        operator.gt(UNLIMITED, other)


def test_unlimited_has_no_arithmetic():
    """Twice without bound is not a number that a sum may go on with."""
    with pytest.raises(TypeError):
        UNLIMITED * 2


def test_a_put_on_a_future_is_worth_more_below_zero():
    """Crude oil was at -37 on 2020-04-20: who sold such a put lost without bound."""
    sold = sp.short_strangle(fop(10, "P"), fop(30, "C"))
    assert sold.payoff().at(D(-37)) == -47_000
    below = sp.put_front_ratio(fop(10, "P"), fop(12, "P"))
    assert below.outcome(below.net_price(credit=D(1))).max_loss is UNLIMITED
    of_stock = sp.put_front_ratio(put(10), put(12))
    assert of_stock.outcome(of_stock.net_price(credit=D(1))).max_loss == 700


def test_a_stretch_of_zeros_is_told_by_its_ends():
    """A condor for nothing neither gains nor loses beyond its wings."""
    condor = sp.iron_condor(put(90), put(95), call(105), call(110))
    free = condor.outcome(condor.net_price(credit=D(5)))
    assert free.break_evens == (0, 90, 110)
    assert free.max_loss == 0


def test_it_can_be_journalled():
    """As JSON; Decimals as text, UNLIMITED by its name."""
    outcome = sp.straddle(put(100), call(100)).outcome(NetPrice(D("7.5"), Direction.DEBIT))
    text = msgspec.json.encode(outcome)
    assert json.loads(text)["max_profit"] == "UNLIMITED"
    assert json.loads(text)["max_loss"] == "750.0"


# --- estimates -------------------------------------------------------------------------------------------------------


def flat(option, underlying, _on, volatility):
    """A model that can be checked by hand: intrinsic value, and volatility in units of money on top."""
    sign = 1 if option.right == "C" else -1
    return max(sign * (underlying - D(str(option.strike))), D(0)) + volatility


def tent(option, underlying, _on, volatility):
    """The same, with less time value away from the strike, as options have it."""
    sign = 1 if option.right == "C" else -1
    distance = underlying - D(str(option.strike))
    return max(sign * distance, D(0)) + max(volatility * 100 - abs(distance) / 2, D(0))


def test_a_calendar_is_estimated_at_the_front_expiry():
    """Bought at 3, the back option worth 5 at the strike and nothing 10 away: by hand."""
    spread = sp.calendar(call(100), call(100, "20270219"))
    asked = []
    outcome = spread.estimate(
        NetPrice(D(3), Direction.DEBIT), lambda *all_: asked.append(all_) or tent(*all_), D("0.05")
    )
    assert outcome.is_estimated
    assert outcome.volatility == D("0.05")
    assert outcome.on == "20270115"
    assert outcome.max_profit == 200
    assert outcome.max_loss == 300
    assert outcome.break_evens == (96, 104)
    assert {(option.expiry, on, volatility) for option, _, on, volatility in asked} == {
        ("20270219", "20270115", D("0.05"))
    }


def test_only_the_options_that_live_on_are_priced_by_the_model():
    """And the ends are known without it: who sold two for one loses without bound."""
    naked, _ = sp.combination([sp.Leg(call(100), 2, "SELL"), sp.Leg(call(100, "20270219"), 1, "BUY")])
    price = NetPrice(D(1), Direction.CREDIT)
    assert naked.estimate(price, flat, D("0.5")).max_loss is UNLIMITED
    assert naked.estimate(price, flat, D("0.5"), "SHORT").max_profit is UNLIMITED
    covered = sp.calendar(call(100), call(100, "20270219"))
    lost = covered.estimate(NetPrice(D(3), Direction.DEBIT), flat, D("0.5"), prices=[D(50), D(100)])
    assert lost.points == ((50, -250), (100, -250))
    assert (lost.max_profit, lost.max_loss) == (0, 250)
    gained = covered.estimate(NetPrice(D(3), Direction.CREDIT), flat, D("0.5"), "SHORT", prices=[D(50), D(100)])
    assert (gained.max_profit, gained.max_loss) == (250, 0)


@given(spreads(expiries=("20270115", "20270219")), sides, limits, st.lists(prices, min_size=2, max_size=9))
def test_an_estimate_with_no_time_value_is_the_payoff(spread, side, price, looked_at):
    """Whatever the legs: with a model that says intrinsic value, both agree where they look."""
    outcome = spread.estimate(price, lambda *all_: flat(*all_[:3], D(0)), D("0.2"), side, looked_at)
    for at, profit in outcome.points:
        assert Fraction(profit) == by_hand(spread, side, at) + Fraction(price.cash * spread.multiplier)


@pytest.mark.parametrize("value", [D(-1), D("NaN"), 1.5, None])
def test_what_a_model_cannot_have_meant_is_refused(value):
    """It would become a maximum loss."""
    spread = sp.calendar(call(100), call(100, "20270219"))
    with pytest.raises(InvalidIntent, match="the pricing model gave"):
        spread.estimate(NetPrice(D(3), Direction.DEBIT), lambda *_: value, D("0.2"))


@pytest.mark.parametrize("volatility", [D(0), D(-1), D("NaN"), 0.2])
def test_a_volatility_is_a_decimal_above_zero(volatility):
    """The mark on the estimate must be true."""
    spread = sp.calendar(call(100), call(100, "20270219"))
    with pytest.raises(InvalidIntent, match="a volatility is a Decimal above 0"):
        spread.estimate(NetPrice(D(3), Direction.DEBIT), flat, volatility)


def test_what_does_not_expire_together_has_no_payoff():
    """Not even two classes of one day: SPX settles at the opening, SPXW at the close."""
    spread = sp.calendar(call(100), call(100, "20270219"))
    with pytest.raises(InvalidIntent, match="estimate"):
        spread.outcome(NetPrice(D(3), Direction.DEBIT))
    am = sp.Option("SPX", "20270115", 6000.0, "C", trading_class="SPX")
    pm = sp.Option("SPX", "20270115", 6100.0, "C", trading_class="SPXW")
    mixed, _ = sp.combination([sp.Leg(am, 1, "BUY"), sp.Leg(pm, 1, "SELL")])
    with pytest.raises(InvalidIntent, match="does not expire all at once"):
        mixed.payoff()
