"""Prices on the grid: refused or rounded, never to the user's worse."""

from __future__ import annotations

from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.errors import InvalidIntent, Refused
from ibkr_service.core.increments import Increments, fitted
from ibkr_service.core.instrument import Option, Stock
from ibkr_service.core.intent import Intent

OPTIONS = Increments.of([(D(3), D("0.05")), (D(0), D("0.01"))])  # as options are quoted; order does not matter
prices = st.decimals(min_value="-1000", max_value="1000", places=6, allow_nan=False)
grids = st.sampled_from(
    [OPTIONS, Increments.of([(D(0), D("0.25"))]), Increments.of([(D(0), D("0.0001")), (D(1), D("0.01"))])]
)


@given(grids, prices, st.sampled_from(["BUY", "SELL"]))
def test_a_rounded_price_fits_and_is_no_worse(known, price, action):
    """Less than one increment away, below for a buyer, above for a seller; on the grid it stays what it is."""
    rounded = known.rounded(price, action)
    assert known.fits(rounded)
    assert rounded <= price if action == "BUY" else rounded >= price
    assert abs(rounded - price) < max(step for _, step in known.steps)
    assert known.rounded(rounded, action) == rounded


def test_an_increment_depends_on_the_price():
    """Cents below 3, nickels from 3 on; the sign does not matter."""
    assert [OPTIONS.at(D(p)) for p in ("0", "2.99", "3", "-3", "-2.99")] == [
        D("0.01"), D("0.01"), D("0.05"), D("0.05"), D("0.01"),
    ]  # fmt: skip
    assert not OPTIONS.fits(D("3.01"))
    assert OPTIONS.rounded(D("3.01"), "SELL") == D("3.05")
    assert not OPTIONS.fits(D("1E+30"))


def test_nothing_usable_is_nothing_known():
    """Increments of 0 are TWS's way to say none."""
    assert Increments.of([(D(0), D(0))]) is None


def test_an_intent_on_the_grid_is_itself():
    """No copy, no change; with nothing to fit neither."""
    option = Option("AAPL", "20270115", 150.0, "C")
    for intent in (Intent.buy(option, 1, limit="2.85"), Intent.buy(Stock("A"), 1), Intent.sell(option, 1, stop="3.05")):
        assert fitted(intent, OPTIONS, off_tick="refuse", unknown_increment="refuse") is intent


def test_limit_and_stop_are_rounded_together():
    """A buyer's both down, a seller's both up."""
    intent = fitted(
        Intent.buy(Stock("A"), 1, limit="3.09", stop="3.06"), OPTIONS, off_tick="round", unknown_increment="pass"
    )
    assert (intent.limit_price, intent.stop_price) == (D("3.05"), D("3.05"))
    sell = fitted(
        Intent.sell(Stock("A"), 1, limit="3.01", stop="3.06"), OPTIONS, off_tick="round", unknown_increment="pass"
    )
    assert (sell.limit_price, sell.stop_price) == (D("3.05"), D("3.10"))


def test_the_refusals():
    """They say the increment, the neighbours and the price; or that nobody knows."""
    intent = Intent.buy(Stock("A"), 1, limit="3.01")
    with pytest.raises(Refused, match=r"multiples of 0\.05, such as 3\.00 or 3\.05, asked limit_price 3\.01"):
        fitted(intent, OPTIONS, off_tick="refuse", unknown_increment="pass")
    assert fitted(intent, None, off_tick="refuse", unknown_increment="pass") is intent
    with pytest.raises(Refused, match="unknown_increment"):
        fitted(intent, None, off_tick="round", unknown_increment="refuse")
    with pytest.raises(InvalidIntent, match="no price"):
        fitted(Intent.buy(Stock("A"), 1, limit="1E+30"), OPTIONS, off_tick="round", unknown_increment="pass")
