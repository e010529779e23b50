"""Spreads as values: which way the money goes, and what is sent so that it does; closing and rolling."""

from __future__ import annotations

import doctest
from decimal import Decimal as D
from fractions import Fraction

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core import combination, legs
from ibkr_service.core import spreads as sp
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Forex, Future, FutureOption, Index, Option, Stock
from ibkr_service.core.netprice import Direction, NetPrice
from ibkr_service.core.spreads import Kind, Leg
from tests.core.spreadmaking import FAR, NAMED, NEAR, call, cents, fop, named, put, sides, spreads

DEBIT, CREDIT = Direction.DEBIT, Direction.CREDIT
BULL = NAMED[Kind.BULL_CALL]
actions = st.sampled_from([None, "BUY", "SELL"])


def net(*pairs):
    """A combination of (instrument, signed ratio)."""
    return sp.combination([legs.leg(*pair) for pair in pairs])[0]


# --- which way the money goes ----------------------------------------------------------------------------------------

DEBITS = [
    Kind.BULL_CALL, Kind.BEAR_PUT, Kind.STRADDLE, Kind.STRANGLE, Kind.REVERSE_IRON_CONDOR, Kind.REVERSE_IRON_BUTTERFLY,
    Kind.CALL_BUTTERFLY, Kind.PUT_BUTTERFLY, Kind.CALL_CALENDAR, Kind.PUT_CALENDAR, Kind.CALL_DIAGONAL,
    Kind.PUT_DIAGONAL,
]  # fmt: skip
CREDITS = [
    Kind.BEAR_CALL, Kind.BULL_PUT, Kind.SHORT_STRADDLE, Kind.SHORT_STRANGLE, Kind.IRON_CONDOR, Kind.IRON_BUTTERFLY,
    Kind.SHORT_CALL_BUTTERFLY, Kind.SHORT_PUT_BUTTERFLY, Kind.SHORT_CALL_CALENDAR, Kind.SHORT_PUT_CALENDAR,
    Kind.SHORT_CALL_DIAGONAL, Kind.SHORT_PUT_DIAGONAL,
    Kind.SHORT_BROKEN_WING_BUTTERFLY,  # this one: its upper wing is the wider, of puts, so it is never worth anything
]  # fmt: skip


@pytest.mark.parametrize("kind", NAMED)
def test_the_natural_direction_of_each_kind(kind):
    """Ratios have none, a broken wing may; calendars and diagonals have one that is not certain."""
    spread = NAMED[kind]
    wanted = DEBIT if kind in DEBITS else CREDIT if kind in CREDITS else None
    assert spread.natural is wanted
    assert spread.direction("LONG") is wanted
    assert spread.direction("SHORT") is (wanted and wanted.opposite)
    assert spread.is_certain == (wanted is not None and "calendar" not in str(kind) and "diagonal" not in str(kind))


@given(spreads(future=False))
def test_a_certain_direction_is_a_payoff_of_one_sign(spread):
    """Who only ever receives has paid for it; where both can be, nobody knows."""
    payoff = spread.payoff()
    values = [payoff.at(D(at) / 2) for at in range(400)] + [payoff.at(D(10) ** 7)]
    if any(value > 0 for value in values) and any(value < 0 for value in values):
        assert spread.natural is None
    elif any(values):
        assert spread.natural is (DEBIT if max(values) > 0 else CREDIT)
        assert spread.is_certain
    assert spread.inverse().natural is spread.direction("SHORT")


@pytest.mark.parametrize(
    ("spread", "natural"),
    [
        # One side of it is enough.
        (net((Stock("AAPL"), 100), (call(100), -1)), DEBIT),  # covered call
        (net((Stock("AAPL"), 100), (put(100), 1), (call(100), -1)), DEBIT),  # conversion: always the strike
        (net((Stock("AAPL"), -100), (call(100), 1)), CREDIT),
        (net((call(100), 1), (call(110), -1), (put(100), -1), (put(110), 1)), DEBIT),  # box: always 10
        (sp.call_butterfly(call(90), call(100), call(105), broken_wing=True), DEBIT),
        (sp.call_butterfly(call(95), call(100), call(110), broken_wing=True), None),
        (net((call(100), 1), (put(100), -1)), None),  # synthetic stock
        # Nothing at all.
        (
            net((call(90), 1), (call(100), -2), (call(110), 1), (put(90), -1), (put(100), 2), (put(110), -1)),
            None,
        ),
        # Bought options that cover, by right, strike and time.
        (sp.diagonal(call(100), call(105, FAR)), None),
        (sp.diagonal(put(100), put(95, FAR)), None),
        (net((call(100), -1), (put(100, FAR), 1)), None),
        (net((call(100), -2), (call(100, FAR), 1)), None),
        (net((call(100), -1), (call(100, FAR), 2)), DEBIT),
        (net((call(105), -1), (put(95), -1), (call(105, FAR), 1), (put(95, FAR), 1)), DEBIT),  # double calendar
        (net((Stock("AAPL"), 100), (call(100), -1), (call(110, FAR), -1)), None),
        # A future's quote is not paid, and each expiry has another future.
        (net((Future("CL", "202702", "NYMEX", multiplier="1000"), 1), (fop(100, "C"), -1)), None),
        (net((Future("CL", "202702", "NYMEX", multiplier="1000"), 1), (fop(100, "P"), 1), (fop(100, "C"), -1)), None),
        (sp.calendar(fop(100, "C"), fop(100, "C", FAR)), None),
        (sp.bull_call(fop(90, "C"), fop(100, "C")), DEBIT),
    ],
)  # fmt: skip
def test_the_natural_direction_of_others(spread, natural):
    """From the legs, whatever they are called."""
    assert spread.natural is natural


@pytest.mark.parametrize(
    ("spread", "side", "said", "words"),
    [
        (BULL, "LONG", {"price": D("2.85")}, "pay at most 2.85"),
        (BULL, "LONG", {"debit": D("2.85")}, "pay at most 2.85"),
        (BULL, "SHORT", {"price": D("2.85")}, "receive at least 2.85"),
        (BULL, "SHORT", {"credit": D("2.85")}, "receive at least 2.85"),
        (NAMED[Kind.BULL_PUT], "LONG", {"price": D("2.85")}, "receive at least 2.85"),
        (NAMED[Kind.BULL_PUT], "SHORT", {"price": D("2.85")}, "pay at most 2.85"),
        (NAMED[Kind.IRON_CONDOR], "LONG", {"price": D("2.85")}, "receive at least 2.85"),
        (NAMED[Kind.SHORT_STRADDLE], "LONG", {"price": D("2.85")}, "receive at least 2.85"),
        (NAMED[Kind.CALL_CALENDAR], "LONG", {"price": D(1)}, "pay at most 1"),
        (NAMED[Kind.PUT_CALENDAR], "LONG", {"credit": D(1)}, "receive at least 1"),  # usual is not certain
        (NAMED[Kind.CALL_FRONT_RATIO], "LONG", {"credit": D(1)}, "receive at least 1"),
        (NAMED[Kind.CALL_FRONT_RATIO], "LONG", {"debit": D(1)}, "pay at most 1"),
        (BULL, "LONG", {"credit": D(0)}, "receive at least 0"),
        (BULL, "SHORT", {"debit": D("0.05"), "unnatural": True}, "pay at most 0.05"),
    ],
)
def test_a_limit_says_what_it_means(spread, side, said, words):
    """A bare price takes the natural direction; both words are always possible where nothing is certain."""
    price = spread.net_price(**said, side=side)
    assert str(price) == words
    assert spread.order(side, price).limit_price in {price.amount, -price.amount}


@pytest.mark.parametrize(
    ("spread", "said", "why"),
    [
        (BULL, {}, "a limit needs a price"),
        (BULL, {"debit": D(1), "credit": D(1)}, "contradict each other"),
        (BULL, {"price": D(1), "debit": D(1)}, "give the one that is meant"),
        (BULL, {"price": D(1), "credit": D(1)}, "give the one that is meant"),
        (BULL, {"price": D(-1)}, "has no sign, -1 has: say debit=1 or credit=1"),
        (BULL, {"debit": D(-1)}, "has no sign"),
        (BULL, {"credit": D(1)}, "always a debit, so credit=1 contradicts it: say debit=1"),
        (NAMED[Kind.BULL_PUT], {"debit": D(1)}, "always a credit, so debit=1 contradicts it: say credit=1"),
        (BULL, {"debit": D(1), "side": "SHORT"}, "SHORT .* always a credit"),
        (BULL, {"price": D(1), "unnatural": True}, "needs debit= or credit="),
        (BULL, {"debit": D(1), "unnatural": True}, "debit=1 is nothing unusual for LONG .*: leave it out"),
        (NAMED[Kind.CALL_CALENDAR], {"credit": D(1), "unnatural": True}, "nothing unusual"),
        (BULL, {"price": 2.85}, "Decimal"),
        (BULL, {"debit": D(1), "side": "BUY"}, "LONG or SHORT, not 'BUY'"),
        (NAMED[Kind.CALL_FRONT_RATIO], {"price": D(1)}, "depends on the market: say debit=1 or credit=1"),
        (NAMED[Kind.BROKEN_WING_BUTTERFLY], {"price": D(1)}, "depends on the market"),
    ],
)
def test_a_limit_that_does_not_is_refused(spread, said, why):
    """With what would be right."""
    with pytest.raises(InvalidIntent, match=why):
        spread.net_price(**said)


def test_no_way_round_the_check():
    """A price that was made elsewhere, or for the other side, does not reach the wire."""
    with pytest.raises(InvalidIntent, match="always a debit"):
        BULL.order("LONG", NetPrice(D(1), CREDIT))
    with pytest.raises(InvalidIntent, match="always a credit"):
        BULL.order("SHORT", BULL.net_price(D(1)))
    assert BULL.order("LONG", NetPrice(D(1), CREDIT, is_unnatural=True)).limit_price == -1
    rid = BULL.net_price(debit=D("0.03"), side="SHORT", unnatural=True).rounded(D("0.05"))
    assert BULL.order("SHORT", rid).limit_price == 0, "what is rounded to nothing contradicts nothing"


# --- what goes on the wire -------------------------------------------------------------------------------------------


@given(named | spreads(expiries=(NEAR, FAR)), sides, cents, st.sampled_from(Direction), st.data())
def test_what_changes_hands_is_what_the_words_say(spread, side, amount, direction, data):
    """At any prices of the legs, both ways of writing it trade alike, and never for more or less than was said.

    The broker here knows IB's rule only: the combo's price is that of its legs as they are written; a BUY trades at the
    limit or less, a SELL at the limit or more.
    """
    price = NetPrice(amount, direction, is_unnatural=spread.is_certain and direction is not spread.direction(side))
    market = {one.instrument: Fraction(data.draw(cents, str(one.instrument))) for one in spread.legs}
    scale = {one.instrument: one.multiplier / spread.multiplier for one in spread.legs}
    worth = sum(
        Fraction(held) * market[one] * Fraction(scale[one]) for one, held in spread.positions(1, side).items()
    )  # paid for what is held afterwards
    is_allowed = worth <= amount if direction is DEBIT else -worth >= amount
    for action in ("BUY", "SELL"):
        order = spread.order(side, price, action)
        assert order.action == action
        quote = sum(one.signed * market[one.instrument] * Fraction(scale[one.instrument]) for one in order.legs)
        fills = quote <= order.limit_price if action == "BUY" else quote >= order.limit_price
        assert fills == is_allowed
        held = {one.instrument: one.signed if action == "BUY" else -one.signed for one in order.legs}
        assert held == spread.positions(1, side)
        worst = -order.limit_price if action == "BUY" else order.limit_price
        assert worst == (-amount if direction is DEBIT else amount)


@given(named, sides)
def test_long_buys_and_short_sells_the_same_bag(spread, side):
    """So one BAG's quotes and orders belong together; a market order has no price."""
    order = spread.order(side, None)
    assert (order.action, order.legs, order.limit_price) == ("BUY" if side == "LONG" else "SELL", spread.legs, None)


def test_the_docstring_is_true():
    """Its examples are what is sent."""
    assert doctest.testmod(combination).attempted > 5
    assert doctest.testmod(combination).failed == 0


def test_an_action_is_checked():
    """A word of the wrong kind would be sent as it is."""
    with pytest.raises(InvalidIntent, match="BUY or SELL, not 'LONG'"):
        BULL.order("LONG", None, "LONG")
    with pytest.raises(InvalidIntent, match="LONG or SHORT, not 'BUY'"):
        BULL.order("BUY", None)


# --- what it is made of ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ((call(100), 0, "BUY"), "a whole number from 1 on, not 0"),
        ((call(100), -1, "BUY"), "a whole number from 1 on, not -1"),
        ((call(100), 1.0, "BUY"), "a whole number"),
        ((call(100), True, "BUY"), "a whole number"),
        ((call(100), 1, "LONG"), "BUY or SELL, not 'LONG'"),
        ((Index("SPX", "CBOE"), 1, "BUY"), "cannot be a leg"),
        ((Forex("EUR", "USD"), 1, "BUY"), "cannot be a leg"),
        (("AAPL 20270115 100 C", 1, "BUY"), "cannot be a leg"),
    ],
)
def test_what_is_no_leg(given, why):
    """With what would be right."""
    with pytest.raises(InvalidIntent, match=why):
        Leg(*given)


EURO = Option("AAPL", NEAR, 100.0, "C", currency="EUR")
MINI = Option("AAPL", NEAR, 110.0, "C", multiplier="10")
MERGED = Option("AAPL", NEAR, 110.0, "C", trading_class="2AAPL")


@pytest.mark.parametrize(
    ("pairs", "why"),
    [
        ([(call(100), 1)], "at least two legs, not 1"),
        ([(Stock("AAPL"), 1), (Stock("MSFT"), -1)], "no leg is an option"),
        ([(call(100), 1), (Option("MSFT", NEAR, 100.0, "C"), -1)], "different symbol, AAPL and MSFT"),
        ([(call(100), 1), (Stock("MSFT"), -100)], "different symbol"),
        ([(call(110), 1), (EURO, -1)], "different currency, USD and EUR"),
        ([(call(100), 1), (MINI, -1)], "different multipliers, 100 and 10"),
        ([(call(100), 1), (MERGED, -1)], "deliver different things"),
        ([(call(100), 1), (Future("AAPL", "202701", "X", multiplier="100"), -1)], "no common underlying"),
        ([(call(100), 1), (FutureOption("AAPL", NEAR, 100.0, "C", multiplier="100"), -1)], "no common underlying"),
        ([(fop(100, "C"), 1), (Stock("CL"), -1)], "no common underlying"),
        ([(fop(100, "C"), 1), (Option("CL", NEAR, 90.0, "C", multiplier="1000"), -1)], "no common underlying"),
        ([(FutureOption("CL", NEAR, 80.0, "C"), 1), (FutureOption("CL", NEAR, 81.0, "C"), -1)], "its multiplier is ''"),
        ([(call(100), 1), (call(110), -1), (Option("AAPL", NEAR, 90.0, "C", multiplier="0"), 1)], "multiplier is '0'"),
        ([(call(100), 1), (Option("AAPL", NEAR, 90.0, "C", multiplier="x"), 1)], "its multiplier is 'x'"),
        ([(call(100), 1), (call(100), 2)], "twice: write it once, with ratio 3"),
        ([(call(100), 1), (call(100), -1)], "cancels out: leave it out"),
        ([(call(100), 3), (call(100), -1)], "cancels out: write BUY 2 AAPL"),
        ([(call(100), 1), (Option("AAPL", NEAR, 100.0, "C", trading_class="AAPL"), 1)], "twice"),
        ([(call(100), 1), (Option("AAPL", NEAR, 100, "C"), 1)], "twice"),
        ([(call(100), 2), (call(110), -4)], "ratios 2:4 are 2 times 1:2: order 2 of 1:2"),
    ],
)  # fmt: skip
def test_legs_that_make_no_combination(pairs, why):
    """Each refusal says what is wrong, and what would be right."""
    with pytest.raises(InvalidIntent, match=why):
        sp.Spread(tuple(legs.leg(*pair) for pair in pairs))


def test_what_is_no_leg_is_refused_in_a_list():
    """A pair or a text would be an AttributeError later."""
    for made in (sp.Spread, sp.combination):
        with pytest.raises(InvalidIntent, match="Leg"):
            made(((call(100), 1), (call(110), -1)))
    with pytest.raises(InvalidIntent, match="at least two legs, not 0"):
        sp.combination([])


@given(spreads(expiries=(NEAR, FAR)), st.integers(1, 9), st.randoms(use_true_random=False))
def test_ratios_are_reduced_and_the_order_of_legs_does_not_matter(spread, times, shuffle):
    """A list of legs is a number of one spread."""
    multiplied = [msgspec.structs.replace(one, ratio=one.ratio * times) for one in spread.legs]
    shuffle.shuffle(multiplied)
    assert sp.combination(multiplied) == (spread, times)
    assert hash(sp.combination(multiplied)[0]) == hash(spread)


@given(named | spreads(expiries=(NEAR, FAR)))
def test_it_survives_the_journal(spread):
    """As JSON and back."""
    assert msgspec.json.decode(msgspec.json.encode(spread), type=sp.Spread) == spread


def test_numbered_symbols_are_no_adjusted_classes():
    """Toyota's options in Tokyo are of class 7203, and may be given without it."""
    a, b = (
        Option("7203", NEAR, 100.0, "C", currency="JPY"),
        Option("7203", NEAR, 110.0, "C", currency="JPY", trading_class="7203"),
    )
    assert sp.bull_call(a, b).kind is Kind.BULL_CALL


# --- closing and rolling ---------------------------------------------------------------------------------------------


@given(named | spreads(expiries=(NEAR, FAR)))
def test_closing_leaves_nothing(spread):
    """And brings what opening cost, when that is certain."""
    both = [spread.positions(), sp.closing(spread).positions()]
    assert all(both[0][one] + both[1][one] == 0 for one in both[0])
    assert sp.closing(sp.closing(spread)) == spread
    assert sp.closing(spread).positions() == spread.positions(side="SHORT")


@given(named, named)
def test_rolling_turns_one_into_the_other(held, into):
    """Whatever they have in common is not traded."""
    if held == into:
        with pytest.raises(InvalidIntent, match="nothing to roll"):
            sp.rolling(held, into)
        return
    before, after = held.positions(), into.positions()
    moved = {one: after.get(one, 0) - before.get(one, 0) for one in {**before, **after}}
    moved = {one: signed for one, signed in moved.items() if signed}
    if len(moved) == 1:  # one more short call makes a ratio of a vertical: an order by itself
        with pytest.raises(InvalidIntent, match="at least two legs"):
            sp.rolling(held, into)
        return
    roll, count = sp.rolling(held, into)
    assert roll.positions(count) == moved


def test_rolling_by_hand():
    """A short put a month further: bought back and sold anew, usually for a credit."""
    near = sp.bull_put(put(90), put(100))
    roll, count = sp.rolling(near, sp.bull_put(put(90), put(95)))
    assert (roll.kind, count) == (Kind.BEAR_PUT, 1)
    assert roll.positions() == {put(95): -1, put(100): 1}
    roll, count = sp.rolling(near, sp.bull_put(put(90, FAR), put(100, FAR)))
    assert (roll.kind, count, roll.natural) == (Kind.CUSTOM, 1, None)
    with pytest.raises(InvalidIntent, match="different symbol"):
        sp.rolling(near, sp.bull_put("MSFT 20270115 90 P", "MSFT 20270115 100 P"))
