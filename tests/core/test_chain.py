"""Chains as values, and what they consist of: the right classes and exchanges, strikes around the money."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.chain import (
    ChainRequest,
    ChainRow,
    Definition,
    OptionChain,
    Slice,
    what_is_missing,
)
from ibkr_service.core.chainselection import choose_slices, choose_strikes, days_to, strikes_not_listed
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.events import Greeks
from ibkr_service.core.instrument import Forex, FutureOption, Index, Option, Stock, name_of

TODAY = date(2026, 11, 23)
AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
FRIDAY, NEXT, LATER = "20261127", "20261204", "20261218"


def listed(trading_class, *expiries, exchange="SMART", multiplier="100"):
    """One answer to reqSecDefOptParams."""
    return Definition(exchange, trading_class, multiplier, frozenset(expiries), frozenset({100.0}))


def names(slices):
    """Expiry and class of each."""
    return [(one.expiry, one.trading_class) for one in slices]


# --- slices ----------------------------------------------------------------------------------------------------------


def test_the_exchange_is_smart_and_not_the_first():
    """TWS lists each exchange; the order of its answers means nothing."""
    definitions = [listed("AAPL", FRIDAY, NEXT, LATER, exchange="AMEX"), listed("AAPL", FRIDAY, exchange="SMART")]
    for order in (definitions, definitions[::-1]):
        (chosen,) = choose_slices(order, "AAPL", today=TODAY, expiries=1)
        assert chosen == Slice(FRIDAY, "AAPL", "SMART", "100")


def test_without_smart_it_is_the_exchange_that_lists_most():
    """As abroad, or on futures."""
    definitions = [listed("DBK", FRIDAY, exchange="A"), listed("DBK", FRIDAY, NEXT, exchange="B")]
    assert {one.exchange for one in choose_slices(definitions, "DBK", today=TODAY)} == {"B"}
    assert {one.exchange for one in choose_slices(definitions, "DBK", today=TODAY, exchange="A")} == {"A"}


def test_two_classes_on_one_date_are_two_slices():
    """A date counts once; the standard class comes first."""
    definitions = [listed("SPXW", FRIDAY, LATER), listed("SPX", LATER)]
    found = choose_slices(definitions, "SPX", today=TODAY, expiries=2)
    assert names(found) == [(FRIDAY, "SPXW"), (LATER, "SPX"), (LATER, "SPXW")]
    assert names(choose_slices(definitions, "SPX", today=TODAY, trading_class="SPX")) == [(LATER, "SPX")]


def test_adjusted_classes_are_left_out_unless_they_are_named():
    """After a merger, 2AAPL delivers something else than 100 shares."""
    definitions = [listed("2AAPL", FRIDAY), listed("AAPL1", FRIDAY), listed("AAPL", FRIDAY)]
    assert names(choose_slices(definitions, "AAPL", today=TODAY)) == [(FRIDAY, "AAPL")]
    assert names(choose_slices(definitions, "AAPL", today=TODAY, trading_class="2AAPL")) == [(FRIDAY, "2AAPL")]


def test_classes_with_a_number_stay_where_there_is_no_standard_class():
    """ZN1 is the first week's class on ZN, whose monthly one is OZN."""
    found = choose_slices([listed("ZN1", FRIDAY), listed("OZN", LATER)], "ZN", today=TODAY)
    assert names(found) == [(FRIDAY, "ZN1"), (LATER, "OZN")]


def test_a_symbol_with_a_space_has_a_class_without():
    """BRK B trades as BRKB."""
    found = choose_slices([listed("2BRKB", FRIDAY), listed("BRKB", FRIDAY)], "BRK B", today=TODAY)
    assert names(found) == [(FRIDAY, "BRKB")]


def test_what_has_ended_today_is_not_counted_but_can_be_named():
    """After the close the first expiry is the next one."""
    definitions = [listed("SPY", "20261120", "20261123", "20261124", FRIDAY)]
    day = {"today": TODAY, "soonest": date(2026, 11, 24)}
    assert [one.expiry for one in choose_slices(definitions, "SPY", expiries=1, today=TODAY)] == ["20261123"]
    assert [one.expiry for one in choose_slices(definitions, "SPY", expiries=1, **day)] == ["20261124"]
    assert [one.expiry for one in choose_slices(definitions, "SPY", expiries=(0, 2), **day)] == ["20261124"]
    assert [one.expiry for one in choose_slices(definitions, "SPY", expiries=["20261123"], **day)] == ["20261123"]


def test_days_to_expiry_include_both_ends():
    """Calendar days, weekends counted."""
    assert days_to(FRIDAY, TODAY) == 4
    definitions = [listed("AAPL", FRIDAY, NEXT, LATER)]
    chosen = choose_slices(definitions, "AAPL", today=TODAY, expiries=(4, 11))
    assert [one.expiry for one in chosen] == [FRIDAY, NEXT]


@pytest.mark.parametrize(
    ("expiries", "others", "complaint"),
    [
        (["20261128"], {}, "no expiry 20261128; the first are"),
        ((100, 200), {}, "no expiry in 100 to 200 days"),
        (2, {"trading_class": "XYZ"}, "no options of trading class XYZ"),
        (2, {"exchange": "CBOE"}, "no options at CBOE"),
        (2, {"today": date(2027, 1, 1)}, "no options that have not expired"),
    ],
)
def test_what_is_not_listed_is_refused_in_words(expiries, others, complaint):
    """With what is there instead."""
    with pytest.raises(InvalidIntent, match=complaint):
        choose_slices([listed("AAPL", FRIDAY, NEXT)], "AAPL", **{"today": TODAY, "expiries": expiries, **others})


dates = st.dates(date(2026, 11, 1), date(2027, 3, 1)).map(lambda day: f"{day:%Y%m%d}")
definitions_of = st.builds(
    listed,
    st.sampled_from(["SPX", "SPXW", "2SPX"]),
    dates,
    dates,
    dates,
    exchange=st.sampled_from(["SMART", "CBOE", "ISE"]),
)


@given(st.lists(definitions_of, min_size=1, max_size=8), st.integers(1, 5), st.randoms())
def test_slices_are_unique_sorted_and_independent_of_the_order_of_answers(definitions, count, random):
    """Whatever TWS lists, in whatever order."""
    shuffled = random.sample(definitions, len(definitions))
    try:
        found = choose_slices(definitions, "SPX", today=TODAY, expiries=count)
    except InvalidIntent:  # all is over
        assert not any(e >= "20261123" for d in definitions if d.trading_class != "2SPX" for e in d.expiries)
        return
    assert choose_slices(shuffled, "SPX", today=TODAY, expiries=count) == found
    assert len(names(found)) == len(set(names(found)))
    assert [one.expiry for one in found] == sorted(one.expiry for one in found)
    assert 1 <= len({one.expiry for one in found}) <= count
    assert all(one.expiry >= "20261123" for one in found)
    for one in found:  # nothing is made up
        assert any(
            one.expiry in d.expiries and (d.trading_class, d.exchange) == (one.trading_class, one.exchange)
            for d in definitions
        )


# --- strikes ---------------------------------------------------------------------------------------------------------

LISTED = [90.0, 95.0, 100.0, 105.0, 110.0]


@pytest.mark.parametrize(
    ("count", "price", "expected"),
    [
        (1, 101.0, [100.0]),
        (1, 104.0, [105.0]),
        (1, 102.5, [100.0]),  # as far from both: the lower, as `at_the_money` says
        (2, 101.0, [100.0, 105.0]),
        (3, 101.0, [95.0, 100.0, 105.0]),
        (3, 104.0, [100.0, 105.0, 110.0]),
        (4, 100.0, [90.0, 95.0, 100.0, 105.0]),
        (4, 200.0, [95.0, 100.0, 105.0, 110.0]),
        (4, 1.0, [90.0, 95.0, 100.0, 105.0]),
        (9, 101.0, LISTED),
    ],
)
def test_strikes_around_the_money(count, price, expected):
    """As many on each side as there are."""
    assert choose_strikes(LISTED, count, price) == expected


@given(
    st.lists(st.integers(1, 400).map(lambda n: n * 0.5), min_size=1, unique=True),
    st.integers(1, 60),
    st.floats(0.5, 250.0),
)
def test_the_nearest_strike_is_always_among_those_around_the_money(strikes, count, price):
    """They are neighbours, ascending, and as many as asked for or as there are."""
    found = choose_strikes(strikes, count, price)
    known = sorted(strikes)
    assert len(found) == min(count, len(known))
    first = known.index(found[0])
    assert found == known[first : first + len(found)]
    nearest = min(known, key=lambda strike: abs(strike - price))
    assert nearest in found
    below = sum(strike < price for strike in found)
    if first > 0 and first + len(found) < len(known):
        assert abs(below - (len(found) - below)) <= 1


def test_strikes_by_name_and_by_range():
    """Both ends included; a strike that is a hair off in binary is the same."""
    assert choose_strikes(LISTED, (95, 105), None) == [95.0, 100.0, 105.0]
    assert choose_strikes([0.1 + 0.2, 1.0], [0.3], None) == [0.1 + 0.2]
    assert choose_strikes(LISTED, [100, 101], None) == [100.0]
    assert strikes_not_listed(LISTED, [100, 101]) == [101]
    assert strikes_not_listed(LISTED, (1, 2)) == strikes_not_listed(LISTED, 5) == []


def test_around_the_money_needs_the_money():
    """No price is not a price of 0 or 100."""
    with pytest.raises(InvalidIntent, match="price of the underlying"):
        choose_strikes(LISTED, 2, None)


@pytest.mark.parametrize(
    "wrong",
    [
        {"underlying": Forex("EUR", "USD")},
        {"underlying": Option("AAPL", FRIDAY, 100.0, "C")},
        {"rights": ""},
        {"rights": "X"},
        {"deadline_s": 0},
        {"deadline_s": float("nan")},
        {"deadline_s": float("inf")},
        {"expiries": 0},
        {"expiries": True},
        {"expiries": []},
        {"expiries": FRIDAY},
        {"expiries": (1, 2, 3)},
        {"strikes": 0},
        {"strikes": []},
        {"strikes": 99.5},
        {"dividend_yield": -0.01},
        {"rate": float("nan")},
    ],
    ids=str,
)
def test_what_makes_no_sense_is_refused_before_anything_is_asked(wrong):
    """Strategies are not type-checked."""
    with pytest.raises(InvalidIntent):
        ChainRequest(**{"underlying": Stock("AAPL"), **wrong})


def test_only_a_number_of_strikes_needs_the_price():
    """Named ones are found in a closed market as well."""
    request = ChainRequest(Stock("AAPL"))
    assert request.needs_price
    assert not replace(request, strikes=[100.0]).needs_price
    assert not replace(request, strikes=(90, 100)).needs_price


# --- the chain -------------------------------------------------------------------------------------------------------


def row(strike, right, delta=None, trading_class="", expiry=LATER):
    """A row."""
    option = Option("SPX", expiry, strike, right, trading_class=trading_class)
    return ChainRow(option=option, con_id=1, greeks=Greeks(delta=delta), bid=1.0, ask=2.0)


MORNING, EVENING = Slice(LATER, "SPX", settlement="AM"), Slice(LATER, "SPXW", settlement="PM")
CHAIN = OptionChain(
    underlying=Index("SPX", "CBOE"),
    underlying_price=5901.0,
    at=AT,
    slices=(MORNING, EVENING),
    rows=(
        row(5900.0, "C", 0.5),
        row(5900.0, "P", -0.5),
        row(5900.0, "C", 0.55, "SPXW"),
        row(5900.0, "P", -0.45, "SPXW"),
        row(5925.0, "C", 0.31, "SPXW"),
    ),
)


def test_slices_never_share_a_row():
    """The same strike of two classes is two contracts."""
    assert len(CHAIN.of(MORNING)) == 2
    assert len(CHAIN.of(EVENING)) == 3
    assert not set(map(id, CHAIN.of(MORNING))) & set(map(id, CHAIN.of(EVENING)))
    with pytest.raises(InvalidIntent, match="SPX and SPXW"):
        CHAIN.row(LATER, 5900.0, "C")
    assert CHAIN.row(LATER, 5900.0, "C", "SPX").delta == 0.5
    assert CHAIN.row(LATER, 5900.0, "C", "SPXW").delta == 0.55
    assert CHAIN.row(LATER, 1.0, "C") is None


def test_a_row_is_found_by_its_delta():
    """Positive for calls, negative for puts; one slice or all."""
    assert CHAIN.nearest_delta(0.3).option.strike == 5925.0
    assert CHAIN.nearest_delta(0.3, MORNING).delta == 0.5
    assert CHAIN.nearest_delta(-0.44).option.trading_class == "SPXW"
    assert [each.delta for each in CHAIN.with_delta(0.3, 0.45)] == [-0.45, 0.31]


@pytest.mark.parametrize("delta", [0, 30, float("nan")])
def test_what_is_no_delta_is_refused(delta):
    """30 is what people say; 0.30 is what it is."""
    with pytest.raises(InvalidIntent):
        CHAIN.nearest_delta(delta)


def test_calls_puts_and_pairs():
    """As a chain is printed; a side that does not exist is None."""
    assert {each.option.right for each in CHAIN.calls} == {"C"}
    assert {each.option.right for each in CHAIN.puts} == {"P"}
    assert [(strike, call is None, put is None) for strike, call, put in CHAIN.pairs(EVENING)] == [
        (5900.0, False, False),
        (5925.0, False, True),
    ]
    assert CHAIN.at_the_money(EVENING) == 5900.0


def test_a_class_named_like_the_symbol_is_found():
    """BRKB belongs to BRK B, with or without the class in the instrument."""
    option = Option("BRK B", FRIDAY, 500.0, "C")
    chain = OptionChain(
        underlying=Stock("BRK B"), underlying_price=None, at=AT, slices=(), rows=(ChainRow(option=option, con_id=1),)
    )
    assert len(chain.of(Slice(FRIDAY, "BRKB"))) == 1
    assert chain.at_the_money(Slice(FRIDAY, "BRKB")) is None


def test_what_a_row_lacks():
    """No bid is a market; nothing at all is none. Greeks are there when all of them are."""
    every = Greeks(implied_volatility=0.2, delta=0.5, gamma=0.1, theta=-0.1, vega=0.1)
    option = Option("AAPL", FRIDAY, 100.0, "C")
    assert what_is_missing(ChainRow(option=option, con_id=1)) == ("quote", "greeks")
    assert what_is_missing(ChainRow(option=option, con_id=1, ask=0.05, greeks=every)) == ()
    half = Greeks(implied_volatility=0.2, delta=0.5)
    assert what_is_missing(ChainRow(option=option, con_id=1, last=1.0, greeks=half)) == ("greeks",)


def test_a_name_says_the_class_where_the_symbol_does_not():
    """A complaint about SPX might be about either."""
    assert name_of(row(5900.0, "C", None, "SPXW").option) == "SPX 20261218 5900 C (SPXW)"
    assert name_of(FutureOption("ES", LATER, 5900.0, "P")) == "ES 20261218 5900 P (future option)"
