"""The link's table: total where the broker speaks, strict where only we do."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.link import TRANSITIONS, IllegalSignal, Link, Signal, advance

BROKERS_OWN = (Signal.UPSTREAM_LOST, Signal.RESTORED_DATA_LOST, Signal.RESTORED_DATA_KEPT, Signal.SOCKET_DOWN)


@pytest.mark.parametrize("state", list(Link))
@pytest.mark.parametrize("signal", BROKERS_OWN)
def test_whatever_the_broker_says_has_a_row(state, signal):
    """No message of the gateway, at however odd a time, is an error of ours."""
    assert advance(state, signal) in Link


@pytest.mark.parametrize("state", list(Link))
def test_a_lost_socket_wins_from_anywhere(state):
    """SOCKET_DOWN leads to DOWN."""
    assert advance(state, Signal.SOCKET_DOWN) is Link.DOWN


def test_ready_is_reached_by_verification_only():
    """The only row that leads to READY is SYNCING + SYNCED."""
    rows = [
        (state, signal) for state, row in TRANSITIONS.items() for signal, after in row.items() if after is Link.READY
    ]
    assert rows == [(Link.SYNCING, Signal.SYNCED)]


def test_a_sync_that_1100_overtook_proves_nothing():
    """SYNCED while CUT leaves the link CUT."""
    assert advance(Link.CUT, Signal.SYNCED) is Link.CUT


@pytest.mark.parametrize(
    ("state", "signal"), [(Link.DOWN, Signal.SYNCED), (Link.READY, Signal.SOCKET_UP), (Link.READY, Signal.SYNCED)]
)
def test_an_impossible_signal_of_ours_raises(state, signal):
    """A defect speaks, and names itself."""
    with pytest.raises(IllegalSignal, match=f"{signal.name} cannot happen while the link is {state.name}"):
        advance(state, signal)


@given(st.lists(st.sampled_from(BROKERS_OWN), max_size=30))
def test_after_any_noise_a_new_socket_can_become_ready(noise):
    """However wild the night, DOWN → SOCKET_UP → SYNCED is READY."""
    state = Link.READY
    for signal in noise:
        state = advance(state, signal)
    state = advance(state, Signal.SOCKET_DOWN)
    assert advance(advance(state, Signal.SOCKET_UP), Signal.SYNCED) is Link.READY
