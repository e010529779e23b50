"""Waiting times: within bounds, growing, jittered, reproducible."""

from __future__ import annotations

import itertools
import random

from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.backoff import delays


@given(st.integers(), st.floats(0.1, 10), st.floats(10, 600))
def test_every_delay_is_within_its_bounds(seed, min_s, max_s):
    """Never faster than min_s, never slower than max_s."""
    waits = itertools.islice(delays(random.Random(seed).uniform, min_s=min_s, max_s=max_s), 50)
    assert all(min_s <= wait <= max_s for wait in waits)


def test_delays_grow_to_the_cap():
    """After a dozen attempts the wait is at most a jitter away from the cap."""
    waits = list(itertools.islice(delays(random.Random(1).uniform, min_s=2, max_s=60), 20))
    assert waits[0] < 3
    assert all(wait >= 48 for wait in waits[12:])


def test_two_clients_do_not_knock_in_step():
    """Different seeds wait differently; the same seed waits the same."""

    def first(seed):
        return list(itertools.islice(delays(random.Random(seed).uniform, min_s=2, max_s=60), 8))

    assert first(1) != first(2)
    assert first(3) == first(3)
