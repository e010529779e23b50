"""Some rounds of the fuzz target with fixed seeds; `make fuzz` has more time."""

import pytest

from tests.sim import fuzz


@pytest.fixture(scope="module")
def conversation():
    return fuzz.recorded()


@pytest.mark.parametrize("seed", range(5))
def test_mutated_conversations_harm_nobody_else(conversation, seed):
    """No exception escapes, the offender goes, a client that behaves is served throughout."""
    fuzz.batch(conversation, seed)


def test_nothing_is_left_behind(conversation):
    """What a gateway knew goes with it."""
    assert fuzz.growth(conversation, [1, 2], rounds=10) < fuzz.GROWTH_BYTES_MAX
