"""Opening the socket: at a port at which nobody listens we knock until somebody does.

A refused connection costs the gateway nothing: there is none. So a gateway that comes back is found within a quarter
of a second (after an absence of hours: within ten), and the socket that it accepts is the one that is used: it sees
one connection, not a knock and then a connection. Backing off is for what a gateway accepts and then drops, or never
answers (`core/backoff.py`).
"""

from __future__ import annotations

import asyncio
import socket

from ibkr_service.broker.client import Connection

KNOCK_S = 0.25  # between two knocks
TIRELESS_S = 3600.0  # restarts and maintenance take less; after that …
SLOW_KNOCK_S = 10.0


async def dial(
    conn: Connection, scope: asyncio.Timeout, host: str, port: int, *, timeout_s: float, patience: Patience
) -> None:
    """Open the socket of a connection.

    Args:
        scope: the time limit around this; it is set to `timeout_s` from each knock, and so from the acceptance.
        patience: how long to go on knocking.

    Raises:
        OSError: nobody listens, still.
    """
    loop = asyncio.get_running_loop()
    while True:
        scope.reschedule(loop.time() + timeout_s)
        try:
            await conn.dial(host, port)
        except OSError as exc:
            gap_s = patience.gap_s(loop.time())
            if gap_s is None:
                raise
            if isinstance(exc, socket.gaierror):
                gap_s = max(gap_s, SLOW_KNOCK_S)  # the name of a container that restarts: a question to others
            scope.reschedule(None)
            await asyncio.sleep(gap_s)
        else:
            return


class Patience:
    """For how long a closed port is knocked at, and how often.

    Args:
        until_s: loop time at which to give up. since_s: loop time since which nobody has listened.
    """

    def __init__(self, until_s: float, since_s: float) -> None:
        self._until_s = until_s
        self._since_s = since_s

    def gap_s(self, now_s: float) -> float | None:
        """How long to wait before the next knock; None: no more."""
        left_s = self._until_s - now_s
        if left_s <= 0:
            return None
        return min(left_s, KNOCK_S if now_s - self._since_s < TIRELESS_S else SLOW_KNOCK_S)
