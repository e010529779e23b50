"""Closing everything: at no moment, whatever fills, is a sold option left without what covered it."""

from __future__ import annotations

from collections import defaultdict
from decimal import Decimal as D

from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.core.combination import Spread
from ibkr_service.core.flattening import Step, plan
from ibkr_service.core.instrument import Forex, Option, Other, Stock
from ibkr_service.core.legs import leg
from ibkr_service.core.worstloss import _each_covered

AAPL = Stock("AAPL")


def option(strike, right="C", expiry="20270115"):
    return Option("AAPL", expiry, float(strike), right)


def words(made):
    return [[str(step) for step in stage] for stage in made.stages]


def test_the_stages():
    """Single shorts, spreads, longs, and stock at the end; what nobody can trade is named."""
    bond = Other("BOND", "T", "USD", 7)
    made = plan(
        {
            AAPL: D(100),
            Forex("EUR", "USD"): D(-5),
            bond: D(3),
            option(150): D(1),
            option(160): D(-1),
            option(100, "P", "20270219"): D(-2),
            option(300, expiry="20280121"): D(4),
        }
    )
    assert words(made) == [
        ["BUY 2 AAPL 20270219 100 P"],
        ["SELL 1 AAPL bull call spread (BUY 1 AAPL 20270115 150 C, SELL 1 AAPL 20270115 160 C)"],
        ["SELL 4 AAPL 20280121 300 C"],
        ["SELL 100 AAPL", "BUY 5 EUR.USD"],
    ]
    assert made.left_alone == ((bond, D(3)),)


def test_legs_one_by_one():
    """Where the spread does not trade: the short comes back first."""
    made = plan({option(150): D(1), option(160): D(-1)}, whole=False)
    assert words(made) == [["BUY 1 AAPL 20270115 160 C"], ["SELL 1 AAPL 20270115 150 C"]]


def moved(step: Step, quantity: int):
    """What filling so much of a step does."""
    sign = 1 if step.action == "BUY" else -1
    if isinstance(step.traded, Spread):
        return [(one.instrument, sign * one.signed * quantity) for one in step.traded.legs]
    return [(step.traded, sign * quantity)]


def count_naked(held):
    """Sold calls and puts for which there is no bought one, and no hundred shares, of any kind."""
    net = defaultdict(int)
    shares = int(held.get(AAPL, 0))
    for one, quantity in held.items():
        if isinstance(one, Option):
            net[one.right] += int(quantity)
    calls = max(0, -net["C"] - max(shares, 0) // 100)
    puts = max(0, -net["P"] - max(-shares, 0) // 100)
    return calls, puts


def is_covered(held):
    """Whether each sold option has a bought one of its own that lives as long and is no worse."""
    options = {one: int(quantity) for one, quantity in held.items() if isinstance(one, Option) and quantity}
    legs = [leg(one, quantity) for one, quantity in options.items()]
    return _each_covered(legs, [one for one in legs if one.action == "SELL"])


OPTIONS = st.builds(
    option, st.sampled_from([90, 100, 110, 120]), st.sampled_from("CP"), st.sampled_from(["20270115", "20270219"])
)
HELD = st.dictionaries(OPTIONS, st.integers(-4, 4).filter(bool), max_size=6)


@settings(max_examples=300, deadline=None)
@given(HELD, st.sampled_from([-200, 0, 100, 300]), st.booleans(), st.data())
def test_no_fill_uncovers_anything(options, shares, whole, data):
    """Steps of a stage fill in any order and by parts; the next stage begins when all have."""
    held = {one: D(quantity) for one, quantity in options.items()}
    if shares:
        held[AAPL] = D(shares)
    made = plan(held, whole=whole)
    naked, covered = count_naked(held), is_covered(held)
    for stage in made.stages:
        left = {number: int(step.quantity) for number, step in enumerate(stage)}
        while left:
            number = data.draw(st.sampled_from(sorted(left)))
            part = data.draw(st.integers(1, left[number]))
            left[number] -= part
            if not left[number]:
                del left[number]
            for contract, signed in moved(stage[number], part):
                before = held.get(contract, D(0))
                held[contract] = before + signed
                assert abs(held[contract]) <= abs(before) or isinstance(stage[number].traded, Spread)
            now = count_naked(held)
            assert all(after <= before for after, before in zip(now, naked, strict=True)), stage[number]
            assert not covered or is_covered(held), stage[number]
            naked = now
    assert not any(held.values())
