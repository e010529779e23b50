"""Every code of IB-facts sections 2.5 and 12 means what our policy says, and no unknown one is ignored."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.broker import codes
from ibkr_service.broker.codes import (
    FARMS,
    LINK_SIGNALS,
    SUBSCRIPTION_FAILURES,
    farm_name,
    farms_back,
    feed_group,
    is_known,
    may_come_from,
    order_meaning,
)
from ibkr_service.core.instrument import Future, FutureOption
from ibkr_service.core.link import Signal

# Section 12, "Ours". Terminal after the server's word or reconciliation -> rejected; keep and reconcile -> doubtful.
POLICY = {
    "rejected": {201, 388, 434, 460, 463, 10268, 200, 10318, 10006},
    "cancelled": {202},
    "doubtful": {103, 104, 105, 106, 107, 109, 110, 135, 136, 161, 321, 329, 10147, 10148, 10149},
    "notice": {399, 404, 492, 2109, 2161, 10167, 10311, 10341, 10349},
}


@pytest.mark.parametrize(("code", "meaning"), [(code, meaning) for meaning, group in POLICY.items() for code in group])
def test_a_code_about_an_order_means_what_the_policy_says(code, meaning):
    """One row of section 12 each."""
    assert order_meaning(code) == meaning
    assert is_known(code)


@given(st.integers(-1, 200_000))
def test_no_code_ends_an_order_by_itself(code):
    """Whatever is not in the table is a doubt, or a notice in TWS's range of warnings: never an end, never nothing."""
    known = {code: meaning for meaning, group in POLICY.items() for code in group} | codes.ORDER_MEANINGS
    expected = known.get(code, "notice" if 2100 <= code < 2200 else "doubtful")
    assert order_meaning(code) == expected


@pytest.mark.parametrize(
    ("code", "signal"),
    [
        (1100, Signal.UPSTREAM_LOST),
        (2110, Signal.UPSTREAM_LOST),
        (1101, Signal.RESTORED_DATA_LOST),
        (1102, Signal.RESTORED_DATA_KEPT),
    ],
)
def test_the_codes_that_move_the_link(code, signal):
    """Section 2.5; and there are no others."""
    assert LINK_SIGNALS[code] is signal
    assert len(LINK_SIGNALS) == 4


@pytest.mark.parametrize("code", [2103, 2105, 2157])
def test_a_broken_farm_is_down(code):
    """Data, history, definitions."""
    assert FARMS[code] is False


@pytest.mark.parametrize("code", [2104, 2106, 2158, 2107, 2108, 2119])
def test_a_farm_that_is_fine_sleeping_or_connecting_is_up(code):
    """Never an alarm."""
    assert FARMS[code] is True


def test_a_code_is_of_one_kind():
    """A farm never moves the link, and an upstream loss is no farm."""
    assert not set(LINK_SIGNALS) & set(FARMS)


@pytest.mark.parametrize("code", [101, 200, 354, 10089, 10168, 10190, 10197])
def test_codes_after_which_no_data_comes_end_a_subscription(code):
    """Line cap, unknown contract, no permission, competing session (section 3)."""
    assert code in SUBSCRIPTION_FAILURES


@pytest.mark.parametrize("code", [10090, 10091, 10167, 2104, 399])
def test_codes_after_which_data_follows_end_no_subscription(code):
    """Partly subscribed, delayed instead: the ticks still come."""
    assert code not in SUBSCRIPTION_FAILURES


def test_an_option_on_a_future_may_come_from_either_farm():
    """Nobody has said from which; it breaks off with the futures."""
    option, future = FutureOption("ES", "20261218", 6000.0, "C"), Future("ES", "202612", "CME")
    assert may_come_from("usfuture", option)
    assert may_come_from("usopt", option)
    assert not may_come_from("usopt", future)
    assert feed_group(option) == feed_group(future) == "usfuture"


@pytest.mark.parametrize("code", [100, 162, 165, 300, 317, 326, 502, 504, 1300, 10182, 2199])
def test_codes_without_an_order_are_known(code):
    """They are passed on as facts, not as surprises."""
    assert is_known(code)


@pytest.mark.parametrize("code", [0, 99, 999, 2099, 2200, 98765])
def test_other_codes_are_unknown(code):
    """And are marked so."""
    assert not is_known(code)


@pytest.mark.parametrize(
    ("text", "back"),
    [
        (
            "restored - data maintained. All data farms are connected: cashfarm; usfarm; secdefnj.",
            "cashfarm usfarm secdefnj x",
        ),
        ("restored - data maintained. All data farms are connected.", "x"),
        (
            "The following farms are connected: usfarm.nj; hfarm. The following farms are not connected: x.",
            "usfarm.nj hfarm",
        ),
        ("The following farms are connected: usfarm.nj. The following farms are not connected: x; y.", "usfarm.nj"),
        ("The following farms are not connected: x.", ""),
        ("restored - data lost. All data requests need to be resubmitted.", ""),
        ("", ""),
    ],
)
def test_the_farms_that_are_back_with_the_line(text, back):
    """Those that are named, or all; not those that are said to be missing."""
    assert list(farms_back(text, ["x"])) == back.split()


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("Market data farm connection is OK:usfarm", "usfarm"),
        ("Sec-def data farm connection is OK:secdefnj ", "secdefnj"),
        ("HMDS data farm connection is inactive but should be available upon demand.ushmds", "ushmds"),
        ("Market data farm connection is inactive but should be available upon demand.usfarm.nj", "usfarm.nj"),
        ("A message without a name", "A message without a name"),
        ("ends with a colon:", "ends with a colon:"),
        ("", ""),
    ],
)
def test_the_farms_name_is_behind_the_colon_or_the_last_word(text, name):
    """Or the whole text, so that two farms are never taken for one."""
    assert farm_name(text) == name
