"""Net prices: no sign, always a direction, and rounding that is never worse."""

from __future__ import annotations

from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.netprice import Direction, NetPrice, combo_increment

DEBIT, CREDIT = Direction.DEBIT, Direction.CREDIT
directions = st.sampled_from(Direction)
amounts = st.decimals(0, 10**6, places=4)
increments = st.sampled_from([D("0.01"), D("0.05"), D("0.1"), D("0.0125"), D("0.25"), D(1)])


@pytest.mark.parametrize(
    ("price", "words", "bought", "sold", "cash"),
    [
        (NetPrice(D("2.85"), DEBIT), "pay at most 2.85", "2.85", "-2.85", "-2.85"),
        (NetPrice(D("2.85"), CREDIT), "receive at least 2.85", "-2.85", "2.85", "2.85"),
        (NetPrice(D("0.00"), DEBIT), "pay at most 0.00", "0.00", "0.00", "0.00"),
        (NetPrice(D("0.00"), CREDIT), "receive at least 0.00", "0.00", "0.00", "0.00"),
        (NetPrice(D("-0.00"), CREDIT), "receive at least 0.00", "0.00", "0.00", "0.00"),
        (NetPrice(D("1E+2"), DEBIT), "pay at most 100", "100", "-100", "-100"),
    ],
)
def test_words_and_signs(price, words, bought, sold, cash):
    """A debit is positive for a BUY and negative for a SELL, a credit the other way; there is no -0 and no exponent."""
    assert str(price) == words
    assert (f"{price.signed('BUY'):f}", f"{price.signed('SELL'):f}", f"{price.cash:f}") == (bought, sold, cash)


@given(amounts, directions, increments)
def test_rounding_is_never_worse_and_never_far(amount, direction, increment):
    """A debit does not rise, a credit does not fall, neither by a whole increment; twice is once."""
    price = NetPrice(amount, direction)
    rounded = price.rounded(increment)
    assert rounded.cash >= price.cash
    assert rounded.cash - price.cash < increment
    assert rounded.amount % increment == 0
    assert rounded.direction is direction
    assert rounded.rounded(increment) == rounded


@pytest.mark.parametrize(
    ("amount", "increment", "debit", "credit"),
    [("2.87", "0.05", "2.85", "2.90"), ("2.85", "0.05", "2.85", "2.85"), ("0.03", "0.05", "0.00", "0.05")],
)
def test_rounding_by_hand(amount, increment, debit, credit):
    """Down for a debit, up for a credit; a debit of less than one increment becomes nothing."""
    assert NetPrice(D(amount), DEBIT).rounded(D(increment)).amount == D(debit)
    assert NetPrice(D(amount), CREDIT).rounded(D(increment)).amount == D(credit)


def test_rounding_keeps_what_was_meant_on_purpose():
    """That a price goes against nature is not lost on the way to the wire."""
    assert NetPrice(D("0.07"), DEBIT, is_unnatural=True).rounded(D("0.05")) == NetPrice(
        D("0.05"), DEBIT, is_unnatural=True
    )


@pytest.mark.parametrize(
    ("amount", "said"),
    [
        (2.85, "is a Decimal, such as Decimal"),
        (3, "is a Decimal"),
        ("2.85", "is a Decimal"),
        (None, "is a Decimal"),
        (D("NaN"), "is finite"),
        (D("Infinity"), "is finite"),
        (D("-2.85"), "has no sign, -2.85 has: say debit=2.85 or credit=2.85"),
        (D(0.1), "at most 8 decimals, not 55"),  # noqa: RUF032 - the mistake that is meant
        (D("1e10"), "is at most"),
    ],
)
def test_what_is_no_amount_is_refused(amount, said):
    """With what would be right."""
    with pytest.raises(InvalidIntent, match=said):
        NetPrice(amount, DEBIT)
    with pytest.raises(InvalidIntent):
        NetPrice(D(1), DEBIT).rounded(amount)


def test_a_direction_is_one_of_two():
    """A text in its place would be neither, and fall to one side."""
    with pytest.raises(InvalidIntent, match="DEBIT"):
        NetPrice(D(1), "DEBIT")
    with pytest.raises(InvalidIntent, match="an increment is above 0"):
        NetPrice(D(1), DEBIT).rounded(D(0))


@pytest.mark.parametrize(
    ("legs", "combo"),
    [
        (["0.01", "0.01"], "0.01"),
        (["0.05", "0.05", "0.05"], "0.05"),
        (["0.01", "0.05"], "0.01"),
        (["0.1", "0.05"], "0.05"),
        (["0.02", "0.05"], "0.01"),
        (["0.25", "0.05"], "0.05"),
        (["0.0125"], "0.0125"),
    ],
)
def test_a_combos_increment_comes_from_its_legs(legs, combo):
    """The finest of them, or the grid that they have in common."""
    assert combo_increment(map(D, legs)) == D(combo)


@given(st.lists(increments, min_size=1, max_size=4))
def test_each_legs_price_lies_on_the_combos_grid(legs):
    """So do sums and differences of them; and no coarser grid has that."""
    combo = combo_increment(legs)
    steps = [leg / combo for leg in legs]
    assert all(step == step.to_integral_value() for step in steps)
    assert not any(all(step % factor == 0 for step in steps) for factor in (2, 3, 5, 7))


@pytest.mark.parametrize("legs", [[], [D("0.01"), D(0)], [D("-0.01")], [0.01], [D("NaN")]])
def test_an_increment_of_every_leg_is_needed(legs):
    """Unknown is never taken for a cent."""
    with pytest.raises(InvalidIntent):
        combo_increment(legs)
