"""Is the line usable? One state, a handful of signals, one table.

`READY` means: socket up, upstream up, and the whole account state verified in this session. Only then may a new or
modified order leave. Farm codes (2103, 2104 …) are facts beside the link and never move it; a socket loss wins from
anywhere.

A signal that the broker may send at an odd time (a second 1100, a 1102 with no 1100 before it) has its row: it is
never an error. `SYNCED` is ours alone; it proves nothing once the line was cut again, hence `CUT -> CUT`.
"""

from __future__ import annotations

import enum
from collections.abc import Mapping
from types import MappingProxyType

STOPPING = "the service stops"
"""Why a link goes down that was told to."""


class Link(enum.Enum):
    """How usable the line to Interactive Brokers is."""

    DOWN = "DOWN"  # no socket
    SYNCING = "SYNCING"  # socket up; positions, orders, fills and account being verified
    READY = "READY"  # verified: orders may leave
    CUT = "CUT"  # socket up, but the gateway lost Interactive Brokers (1100, 2110)


class Signal(enum.Enum):
    """What can happen to the line."""

    SOCKET_UP = "SOCKET_UP"
    SOCKET_DOWN = "SOCKET_DOWN"
    SYNCED = "SYNCED"
    SYNC_LOST = "SYNC_LOST"  # we found a reason to verify everything again
    UPSTREAM_LOST = "UPSTREAM_LOST"  # 1100, 2110
    RESTORED_DATA_LOST = "RESTORED_DATA_LOST"  # 1101: every subscription is gone
    RESTORED_DATA_KEPT = "RESTORED_DATA_KEPT"  # 1102


_RESTORED = {Signal.RESTORED_DATA_LOST: Link.SYNCING, Signal.RESTORED_DATA_KEPT: Link.SYNCING}

TRANSITIONS: Mapping[Link, Mapping[Signal, Link]] = MappingProxyType(
    {
        Link.DOWN: {
            Signal.SOCKET_UP: Link.SYNCING,
            Signal.SOCKET_DOWN: Link.DOWN,
            # Said while the handshake was still going on; the session says it again once the link is up.
            Signal.UPSTREAM_LOST: Link.DOWN,
            Signal.RESTORED_DATA_LOST: Link.DOWN,
            Signal.RESTORED_DATA_KEPT: Link.DOWN,
        },
        Link.SYNCING: {
            Signal.SOCKET_DOWN: Link.DOWN,
            Signal.SYNCED: Link.READY,
            Signal.SYNC_LOST: Link.SYNCING,
            Signal.UPSTREAM_LOST: Link.CUT,
            **_RESTORED,
        },
        Link.READY: {
            Signal.SOCKET_DOWN: Link.DOWN,
            Signal.SYNC_LOST: Link.SYNCING,
            Signal.UPSTREAM_LOST: Link.CUT,
            **_RESTORED,
        },
        Link.CUT: {
            Signal.SOCKET_DOWN: Link.DOWN,
            Signal.SYNCED: Link.CUT,
            Signal.SYNC_LOST: Link.CUT,
            Signal.UPSTREAM_LOST: Link.CUT,
            **_RESTORED,
        },
    }
)


class IllegalSignal(AssertionError):
    """A signal in a state where only a defect of ours can have produced it."""


def advance(state: Link, signal: Signal) -> Link:
    """The next state.

    Raises:
        IllegalSignal: the table has no such row; nothing changes.
    """
    try:
        return TRANSITIONS[state][signal]
    except KeyError:
        raise IllegalSignal(f"{signal.name} cannot happen while the link is {state.name}") from None
