"""Order references: unique, recognisable, never confused with another program's."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.refs import Refs, digest, parse, run_id


def test_a_reference_can_be_taken_apart():
    """Run, number, strategy and digest come back."""
    parts = parse(Refs("abc").next("sma-1", "k"))
    assert parts is not None
    assert (parts.run_id, parts.number, parts.strategy, parts.digest) == ("abc", 1, "sma-1", digest("sma-1", "k"))


def test_foreign_references_are_not_ours():
    """What people type into TWS's Order Ref column is left alone."""
    assert [parse(text) for text in ("", "my order", "ibs", "ibs.a.b.c.d", "xyz.1.2.s.d")] == [None] * 5


@given(st.integers(0, 2**40), st.integers(0, 2**40))
def test_a_run_id_is_new_even_if_the_clock_stands_still_or_goes_back(first_s, then_s):
    """The journal's last run decides, not the clock alone."""
    first = run_id(first_s, "")
    assert int(run_id(then_s, first), 36) > int(first, 36)


@given(st.lists(st.text(max_size=5), max_size=30))
def test_references_of_a_run_are_unique(keys):
    """Also for equal keys."""
    refs = Refs("r")
    made = [refs.next("s", key) for key in keys]
    assert len(set(made)) == len(made)
