"""Greeks that we compute: known values, put-call parity, finite differences, and prices that no volatility explains."""

from __future__ import annotations

import math
from datetime import UTC, date, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.broker import greeks
from ibkr_service.broker.greeks import LEAST_YEARS, computed, implied_volatility, market_value, with_rho, years_left
from ibkr_service.core.events import Greeks, Tick
from ibkr_service.core.instrument import FutureOption, Option

CALL, PUT = (Option("AAPL", "20271217", 42.0 - 2, right) for right in "CP")
FUT_CALL, FUT_PUT = (FutureOption("ES", "20271217", 40.0, right, "CME", "50") for right in "CP")
YEARS = 0.5
PLAIN = {"rate": 0.10, "dividend_yield": 0.0}


def model(option, under=42.0, years=YEARS, rate=0.10, volatility=0.20, dividend_yield=0.0):
    """The price, by the library."""
    return greeks._model(option, under, years, rate, volatility, dividend_yield).price()


def test_the_text_books_values():
    """Hull's example: S 42, K 40, r 10 %, 20 %, half a year: 4.76 and 0.81."""
    assert model(CALL) == pytest.approx(4.759, abs=0.001)
    assert model(PUT) == pytest.approx(0.8086, abs=0.001)


def test_black_76s_value():
    """Hull's example: a put, F 20, K 20, r 9 %, 25 %, four months: 1.12."""
    put = FutureOption("CL", "20271217", 20.0, "P", "NYMEX", "1000")
    assert model(put, 20.0, 4 / 12, 0.09, 0.25) == pytest.approx(1.12, abs=0.005)


@given(st.floats(0.05, 1.0), st.floats(0.05, 1.5), st.floats(30.0, 55.0), st.floats(0.0, 0.08))
def test_put_call_parity(volatility, years, under, dividend_yield):
    """A call less a put is a forward."""
    call, put = (model(o, under, years, 0.05, volatility, dividend_yield) for o in (CALL, PUT))
    assert call - put == pytest.approx(under * math.exp(-dividend_yield * years) - 40 * math.exp(-0.05 * years))
    call, put = (model(o, under, years, 0.05, volatility) for o in (FUT_CALL, FUT_PUT))
    assert call - put == pytest.approx((under - 40) * math.exp(-0.05 * years))


@given(st.floats(0.10, 0.9), st.floats(0.1, 1.5), st.sampled_from([CALL, PUT, FUT_CALL, FUT_PUT]))
def test_the_implied_volatility_leads_back_to_the_price(volatility, years, option):
    """Near the money, where prices have volatility in them."""
    price = model(option, 41.0, years, 0.04, volatility)
    found = implied_volatility(option, price, 41.0, years, rate=0.04, dividend_yield=0.0)
    assert found == pytest.approx(volatility, abs=1e-7)


@pytest.mark.parametrize("dividend_yield", [0.0, 0.03])
@pytest.mark.parametrize("option", [CALL, PUT, FUT_CALL, FUT_PUT], ids=str)
def test_each_greek_is_the_slope_that_its_unit_says(option, dividend_yield):
    """Per 1 of the underlying, per calendar day, per percentage point of volatility and of interest."""
    base = {"rate": 0.04, "volatility": 0.25, "dividend_yield": dividend_yield}
    price = model(option, 41.0, YEARS, **base)
    found = computed(option, price, 41.0, YEARS, rate=0.04, dividend_yield=dividend_yield)
    step = 1e-3

    def up(**changed):
        return model(option, **{"under": 41.0, "years": YEARS, **base, **changed})

    delta = (up(under=41 + step) - up(under=41 - step)) / (2 * step)
    gamma = (up(under=41 + step) - 2 * price + up(under=41 - step)) / step**2
    day = 1 / 365
    theta = (up(years=YEARS - day / 2) - up(years=YEARS + day / 2)) / 1.0
    vega = (up(volatility=0.255) - up(volatility=0.245)) / 1.0
    rho = (up(rate=0.045) - up(rate=0.035)) / 1.0
    assert found.implied_volatility == pytest.approx(0.25, abs=1e-6)
    assert found.delta == pytest.approx(delta, abs=1e-5)
    assert found.gamma == pytest.approx(gamma, abs=1e-4)
    assert found.theta == pytest.approx(theta, rel=1e-3)
    assert found.vega == pytest.approx(vega, rel=1e-3)
    assert found.rho == pytest.approx(rho, rel=1e-3)
    assert (found.computed, found.option_price, found.underlying_price) == (True, price, 41.0)


@pytest.mark.parametrize(
    ("price", "under", "years"),
    [
        (1.99, 42.0, YEARS),  # a call for less than it is worth when exercised
        (42.0, 42.0, YEARS),  # for as much as the stock itself
        (0.0, 42.0, YEARS),
        (-1.0, 42.0, YEARS),
        (3.0, 0.0, YEARS),
        (3.0, -37.0, YEARS),  # crude oil has been there
        (3.0, 42.0, 0.0),  # over
    ],
)
@pytest.mark.parametrize("option", [CALL, FUT_CALL], ids=["stock", "future"])
def test_what_no_volatility_explains_has_no_greeks(option, price, under, years):
    """None, and no exception: one strange quote must not cost the chain."""
    assert computed(option, price, under, years, rate=0.0, dividend_yield=0.0) is None


@given(
    st.floats(1e-4, 1e4),
    st.floats(1e-2, 1e4),
    st.floats(LEAST_YEARS, 3.0),
    st.sampled_from([CALL, PUT, FUT_CALL, FUT_PUT]),
)
def test_any_price_has_finite_greeks_or_none(price, under, years, option):
    """From the last minute to three years, from worthless to absurd."""
    found = computed(option, price, under, years, rate=0.04, dividend_yield=0.01)
    if found is not None:
        figures = (found.delta, found.gamma, found.theta, found.vega, found.rho)
        assert all(math.isfinite(figure) for figure in figures)
        assert abs(found.delta) <= 1
        assert found.gamma >= 0
        assert found.vega >= 0


def test_a_day_has_an_end_by_settlement():
    """16:00 in New York, or 09:30; summer time counts, and then nothing is left."""
    noon = datetime(2026, 12, 18, 17, tzinfo=UTC)
    day = date(2026, 12, 18)
    assert years_left(day, "PM", noon) * 365 * 24 == pytest.approx(4)
    assert years_left(day, "AM", noon) == 0
    assert years_left(day, "AM", datetime(2026, 12, 18, 13, 30, tzinfo=UTC)) * 365 * 24 == pytest.approx(1)
    assert years_left(date(2027, 7, 16), "PM", datetime(2027, 7, 16, 19, tzinfo=UTC)) * 365 * 24 == pytest.approx(1)
    assert years_left(day, "PM", datetime(2026, 12, 18, 20, 59, 59, 900_000, tzinfo=UTC)) == LEAST_YEARS
    assert years_left(day, "", datetime(2026, 12, 18, 21, tzinfo=UTC)) == 0


def test_rho_is_added_to_the_brokers_greeks_and_nothing_else_changed():
    """TWS never sends it."""
    theirs = Greeks(implied_volatility=0.2, delta=0.7, gamma=0.05, theta=-0.01, vega=0.09, underlying_price=42.0)
    ours = with_rho(theirs, CALL, None, YEARS, **PLAIN)
    assert ours.rho == pytest.approx(40 * YEARS * math.exp(-0.05) * 0.7349 / 100, rel=1e-3)
    assert not ours.computed
    assert ours.delta == 0.7


@pytest.mark.parametrize(
    "theirs",
    [
        Greeks(delta=0.5, underlying_price=42.0),
        Greeks(implied_volatility=0.0, underlying_price=42.0),
        Greeks(implied_volatility=0.2),
        Greeks(implied_volatility=0.2, underlying_price=-37.0),
        Greeks(implied_volatility=0.2, underlying_price=42.0, rho=1.0),
    ],
)
def test_without_what_it_takes_there_is_no_rho(theirs):
    """And no exception."""
    assert with_rho(theirs, CALL, None, YEARS, **PLAIN) == theirs
    good = Greeks(implied_volatility=0.2, underlying_price=42.0)
    assert with_rho(good, CALL, None, 0.0, **PLAIN) == good


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ({"bid": 1.0, "ask": 1.2, "last": 9.0}, 1.1),
        ({"ask": 0.05, "last": 3.0}, None),  # the last trade was weeks ago
        ({"ask": 0.05, "last": 0.03}, 0.03),
        ({"bid": 2.0, "last": 1.0}, None),
        ({"bid": 2.0, "last": 2.5}, 2.5),
        ({"last": 2.5}, 2.5),
        ({"ask": 0.05}, None),
        ({}, None),
    ],
)
def test_what_an_option_is_worth_by_its_market(sides, expected):
    """A stale trade is not a price."""
    tick = Tick(CALL, at=datetime(2026, 11, 23, tzinfo=UTC), session=1, **sides)
    assert market_value(tick) == (None if expected is None else pytest.approx(expected))
