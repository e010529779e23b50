"""Spreads among positions."""

from __future__ import annotations

from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.instrument import Forex, Option, Stock
from ibkr_service.core.recognition import recognise
from ibkr_service.core.spreads import Kind, combination
from tests.core.spreadmaking import FAR, NAMED, NEAR, STRIKES, call, fop, named, put

K = Kind


def held(*pairs):
    """Positions from (instrument, signed)."""
    return {instrument: D(signed) for instrument, signed in pairs}


def kinds(found):
    """What was recognised, as (kind, how many), sorted."""
    return sorted((str(spread.kind), count) for spread, count in found.spreads)


@given(named, st.integers(1, 20))
def test_what_was_put_together_is_found(spread, count):
    """Any named spread, alone in the account."""
    found = recognise(spread.positions(count))
    assert found.spreads == ((spread, count),)
    assert found.singles == ()


@given(named, st.integers(1, 9), named, st.integers(1, 9))
def test_underlyings_do_not_mix(one, n, other, m):
    """One spread in each is found as if it were alone."""
    elsewhere, _ = combination(
        type(leg)(Option("MSFT", leg.option.expiry, leg.option.strike, leg.option.right), leg.ratio, leg.action)
        for leg in other.legs
    )
    found = recognise({**one.positions(n), **elsewhere.positions(m)})
    assert set(found.spreads) == {(one, n), (elsewhere, m)}


contracts = st.builds(
    lambda make, strike, expiry: make(strike, expiry),
    st.sampled_from([call, put]),
    st.sampled_from(STRIKES),
    st.sampled_from([NEAR, FAR]),
) | st.builds(fop, st.sampled_from(STRIKES[:3]), st.sampled_from("CP"), st.sampled_from([NEAR, FAR]))
accounts = st.dictionaries(
    contracts | st.sampled_from([Stock("AAPL"), Forex("EUR", "USD"), Option("AAPL", NEAR, 1.0, "C", multiplier="")]),
    st.integers(-6, 6).map(D) | st.just(D("0.5")),
    max_size=14,
)


@given(accounts)
def test_the_parts_add_up_to_the_whole(positions):
    """Whatever is held; every spread has a name, and what is left over has none."""
    found = recognise(positions)
    total = dict(found.singles)
    assert len(total) == len(found.singles)
    for spread, count in found.spreads:
        assert spread.kind is not K.CUSTOM
        assert count > 0
        for one, signed in spread.positions(count).items():
            total[one] = total.get(one, D(0)) + signed
    assert {one: signed for one, signed in total.items() if signed} == {
        one: signed for one, signed in positions.items() if signed
    }
    assert all(quantity for _, quantity in found.singles)


@given(accounts)
def test_no_single_leg_is_left_beside_its_partner(positions):
    """A short with a long of its right and expiry is a vertical; with a later one, a calendar or diagonal."""
    left = [
        (option, quantity)
        for option, quantity in recognise(positions).singles
        if isinstance(option, Option) and option.multiplier and quantity == int(quantity)
    ]
    sides = {}
    for option, quantity in left:
        sides.setdefault((option.symbol, option.right), set()).add(quantity > 0)
    assert all(len(side) == 1 for side in sides.values())


@given(accounts, st.randoms(use_true_random=False))
def test_the_order_of_positions_does_not_matter(positions, shuffle):
    """The broker reports them in any."""
    items = list(positions.items())
    shuffle.shuffle(items)
    one, other = recognise(positions), recognise(dict(items))
    assert set(one.spreads) == set(other.spreads)
    assert set(one.singles) == set(other.singles)


@pytest.mark.parametrize(
    ("positions", "spreads", "singles"),
    [
        (held(), [], []),
        (held((call(100), 0)), [], []),
        (held((call(100), 3), (call(110), -2)), [("bull call spread", 2)], [(call(100), 1)]),
        (held((call(100), 2), (call(110), -3)), [("call front ratio", 1)], []),
        # A ratio beside anything else is a vertical and what is not covered.
        (
            held((call(100), 1), (call(110), -2), (put(90), 1)),
            [("bull call spread", 1)],
            [(call(110), -1), (put(90), 1)],
        ),
        (
            held((put(90), 2), (put(95), -2), (call(105), -2), (call(110), 3)),
            [("iron condor", 2)],
            [(call(110), 1)],
        ),
        (
            held((put(90), 1), (put(95), -1), (call(105), -2), (call(110), 2)),
            [("bear call spread", 1), ("iron condor", 1)],
            [],
        ),
        (held((put(90), -1), (put(100), 1), (call(100), 1), (call(105), -1), (call(120), 5)),
         [("reverse iron butterfly", 1)], [(call(120), 5)]),
        (held((put(110), 1), (put(120), -1), (call(90), -1), (call(95), 1)),
         [("bear call spread", 1), ("bull put spread", 1)], []),
        (held((call(90), 1), (call(100), -2), (call(110), 1), (put(90), 1)), [("call butterfly", 1)], [(put(90), 1)]),
        (held((call(90), 1), (call(95), -1), (call(105), -1), (call(110), 1)),
         [("bear call spread", 1), ("bull call spread", 1)], []),
        (held((put(100), 2), (call(100), 3)), [("straddle", 2)], [(call(100), 1)]),
        (held((put(95), -1), (put(90), -1), (call(105), -1)), [("short strangle", 1)], [(put(90), -1)]),
        # Covering shorts comes first: two calendars, and not a short strangle with a strangle.
        (held((put(95), -1), (call(105), -1), (put(95, FAR), 1), (call(105, FAR), 1)),
         [("call calendar", 1), ("put calendar", 1)], []),
        (held((call(100), -1), (call(100, FAR), 2), (call(105, FAR), 1), (call(110), -1)),
         [("call calendar", 1), ("call diagonal", 1)], [(call(100, FAR), 1)]),
        # The whole of one expiry has a name, beside another expiry.
        (held((call(100), 2), (call(110), -3), (put(100, FAR), 1)), [("call front ratio", 1)], [(put(100, FAR), 1)]),
        (held((Stock("AAPL"), 100), (call(110), -1)), [], [(Stock("AAPL"), 100), (call(110), -1)]),
    ],
)  # fmt: skip
def test_the_rule_by_hand(positions, spreads, singles):
    """Each step of it."""
    found = recognise(positions)
    assert kinds(found) == spreads
    assert sorted(found.singles, key=str) == sorted(((one, D(signed)) for one, signed in singles), key=str)


def test_one_contract_with_two_descriptions_is_one():
    """With its trading class, as the broker reports it, and without, as people type it; and strikes as numbers."""
    known = Option("AAPL", NEAR, 100, "C", trading_class="AAPL")
    found = recognise(held((known, 1), (call(100), 1), (call(110), -2)))
    assert kinds(found) == [("bull call spread", 2)]
    assert recognise(held((known, 1), (call(100), -1))).singles == ()


def test_what_delivers_something_else_is_no_partner():
    """An adjusted class, another multiplier, another currency."""
    others = [
        Option("AAPL", NEAR, 110.0, "C", trading_class="2AAPL"),
        Option("AAPL", NEAR, 110.0, "C", multiplier="10"),
        Option("AAPL", NEAR, 110.0, "C", currency="EUR"),
    ]
    for other in others:
        found = recognise(held((call(100), 1), (other, -1)))
        assert found.spreads == ()
        assert dict(found.singles) == held((call(100), 1), (other, -1))


def test_every_kind_is_among_those_tried():
    """So that the first test speaks of all names."""
    assert set(NAMED) == set(Kind) - {K.CUSTOM}
    assert all(spread.kind is kind for kind, spread in NAMED.items())
