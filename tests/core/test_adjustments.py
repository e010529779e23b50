"""Why a position changed without an order: what explains itself, exactly or not at all."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.adjustments import Difference, Lapsed, explain, is_over
from ibkr_service.core.instrument import Forex, Future, FutureOption, Option, Other, Stock

AAPL = Stock("AAPL")
FRIDAY = "20261218"
BEFORE = datetime(2026, 12, 18, 20, 59, tzinfo=UTC)  # 15:59 in New York
AFTER = datetime(2026, 12, 18, 21, 0, tzinfo=UTC)
STOCK = 1


def call(strike=100.0, expiry=FRIDAY, **more):
    return Option("AAPL", expiry, strike, "C", **more)


def put(strike=100.0, expiry=FRIDAY):
    return Option("AAPL", expiry, strike, "P")


def gone(con_id, instrument, ours, theirs=0, **costs):
    return Difference(con_id=con_id, instrument=instrument, ours=D(ours), theirs=D(theirs), **costs)


def shares(moved, held=0):
    return gone(STOCK, AAPL, held, held + moved)


@pytest.mark.parametrize("ours", [3, -3])
@pytest.mark.parametrize("instrument", [call(), put(), Future("ES", FRIDAY, "CME", multiplier="50")])
def test_what_is_gone_after_its_last_day_has_expired(instrument, ours):
    """Long or short; not a minute before the close."""
    assert explain([gone(5, instrument, ours)], AFTER) == {5: "expiry"}
    assert explain([gone(5, instrument, ours)], BEFORE) == {}


@pytest.mark.parametrize("now", [BEFORE, AFTER])
@pytest.mark.parametrize(
    ("option", "ours", "moved", "cause"),
    [
        (call(), -2, -200, "assignment"),
        (put(), -2, 200, "assignment"),
        (call(), 2, 200, "exercise"),
        (put(), 2, -200, "exercise"),
        (call(multiplier="10"), -2, -20, "assignment"),
    ],
)
def test_options_that_delivered(option, ours, moved, cause, now):
    """Early as well: sign, right and multiplier must fit to the share."""
    for held in (0, 500, -500):
        assert explain([gone(5, option, ours), shares(moved, held)], now) == {5: cause, STOCK: cause}
    for wrong in (-moved, moved + 1, moved * 2):
        assert STOCK not in explain([gone(5, option, ours), shares(wrong)], now)
    other = gone(STOCK, Stock("MSFT"), 0, moved)
    assert STOCK not in explain([gone(5, option, ours), other], now)


def test_an_option_gone_before_its_time_without_its_shares_is_not_explained():
    """It was sold by somebody."""
    assert explain([gone(5, call(), -2)], BEFORE) == {}
    assert explain([gone(5, call(), -2), shares(-100)], BEFORE) == {}


def test_a_spread_assigned_on_one_leg():
    """The short leg became stock; the long one is still held, or has expired, or was exercised for the same shares."""
    short, long = gone(5, call(100), -1), gone(6, call(110), 1)
    assert explain([short, shares(-100)], BEFORE) == {5: "assignment", STOCK: "assignment"}
    assert explain([short, long, shares(-100)], AFTER) == {5: "assignment", 6: "expiry", STOCK: "assignment"}
    assert explain([short, long], AFTER) == {5: "expiry", 6: "expiry"}, "or both delivered: it is the same"
    assert explain([short, long, shares(100)], AFTER) == {5: "expiry", 6: "exercise", STOCK: "exercise"}


def test_of_many_only_some_delivered():
    """Three of five short puts were assigned, the rest expired."""
    found = explain([gone(5, put(), -5), gone(6, call(), 4), shares(300)], AFTER)
    assert found in (
        {5: "assignment", 6: "expiry", STOCK: "assignment"},
        {5: "expiry", 6: "exercise", STOCK: "exercise"},
    )
    assert explain([gone(5, put(), -5, -2), shares(300)], BEFORE) == {5: "assignment", STOCK: "assignment"}


def test_shares_that_came_a_day_later_belong_to_what_has_expired():
    """IB books the option first."""
    lapsed = [Lapsed(call(), D(-2))]
    assert explain([shares(-200)], AFTER, lapsed) == {STOCK: "assignment"}
    assert explain([shares(-100)], AFTER, lapsed) == {STOCK: "assignment"}, "one of the two"
    assert explain([shares(-300)], AFTER, lapsed) == {}
    assert explain([shares(200)], AFTER, lapsed) == {}


def test_an_option_on_a_future_delivers_futures():
    """One for one."""
    option, future = FutureOption("ES", FRIDAY, 6000.0, "C", multiplier="50"), Future("ES", "20270319", "CME")
    assert explain([gone(5, option, 3), gone(2, future, 0, 3)], BEFORE) == {5: "exercise", 2: "exercise"}


@pytest.mark.parametrize(("new", "old"), [(2, 1), (3, 2), (4, 1), (20, 1), (1, 10), (11, 10)])
@pytest.mark.parametrize("held", [100, -100, 330])
def test_a_split_multiplies_shares_and_divides_their_cost(new, old, held):
    """Fractions of a share are paid out."""
    ratio = D(new) / D(old)
    after = D(int(held * ratio))
    cost = {"cost_before": D("181.37"), "cost_after": round(D("181.37") / ratio, 4)}
    assert explain([gone(STOCK, AAPL, held, after, **cost)], BEFORE) == {STOCK: "split"}


@pytest.mark.parametrize(
    ("theirs", "cost_after"),
    [(200, "181"), (200, None), (200, "91.8"), (199, "90.5"), (-200, "90.5"), (120, "170")],
    ids=["same cost", "no cost", "other cost", "one less", "turned", "bought"],
)
def test_what_only_looks_like_a_split(theirs, cost_after):
    """Twice as many shares that were paid for are a trade."""
    costs = {"cost_before": D(181), "cost_after": None if cost_after is None else D(cost_after)}
    assert explain([gone(STOCK, AAPL, 100, theirs, **costs)], BEFORE) == {}


@pytest.mark.parametrize(("ours", "theirs"), [(11, 12), (6, 7), (-11, -12), (40, 41)])
def test_one_more_of_a_few_is_no_split(ours, theirs):
    """It was paid for; and some ratio of small numbers fits every cost."""
    costs = {"cost_before": D(437), "cost_after": D(427)}
    assert explain([gone(5, call(), ours, theirs, **costs)], BEFORE) == {}


def test_an_option_whose_strike_was_split_is_another_contract():
    """10 calls at 200 became 20 at 100, for the same money."""
    old = gone(5, call(200), 10, 0, cost_before=D(800))
    new = gone(6, call(100), 0, 20, cost_after=D(400))
    assert explain([old, new], BEFORE) == {5: "split", 6: "split"}
    assert explain([old, gone(6, call(100), 0, 21, cost_after=D(400))], BEFORE) == {}


def test_what_nobody_can_explain():
    """Currencies, things that we do not understand, options that came from nowhere, dates that are none."""
    for instrument in (Forex("EUR", "USD"), Other("BOND", "X", "USD", 9), call(), AAPL):
        assert explain([gone(9, instrument, 0, 5)], AFTER) == {}
    assert not is_over(Future("ES", "202612", "CME"), AFTER)
    assert not is_over(Future("ES", "20261399", "CME"), AFTER)


@given(
    st.lists(
        st.tuples(st.sampled_from([call(100), call(110), put(90), put(100)]), st.integers(-4, 4).filter(bool)),
        min_size=1,
        max_size=4,
        unique_by=lambda pair: pair[0],
    ),
    st.data(),
)
def test_whatever_delivered_is_found(legs, data):
    """Any part of any expired options, any sign: options and shares are always explained together."""
    moved = 0
    for option, held in legs:
        delivered = data.draw(st.integers(0, abs(held)))
        moved += delivered * 100 * (1 if held > 0 else -1) * (1 if option.right == "C" else -1)
    differences = [gone(10 + n, option, held) for n, (option, held) in enumerate(legs)]
    if moved:
        differences.append(shares(moved))
    assert set(explain(differences, AFTER)) == {difference.con_id for difference in differences}
