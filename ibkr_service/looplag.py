"""For how long our own event loop stood still: a timer that comes late tells it.

While a coroutine computes, nothing is read and nothing is sent. What came late meanwhile is our own fault, so whoever
judges the broker by the clock takes this off. The watchdog (`watchdog.py`) sees from outside *who* holds the loop; this
is inside the loop, and so works in virtual time as well.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable

EVERY_S = 2.0  # what is shorter may pass unseen: every limit that it is taken off is far longer
LATE_S = 0.5  # a timer that is later than this was kept from running
TOLD_S = 2.0  # what is said to people, and goes on record


class LoopLag:
    """Adds up how late its timer came.

    Args:
        told: called in the loop with the seconds of a hold that is worth telling, right after it.
    """

    def __init__(self, told: Callable[[float], None] = lambda _seconds: None, told_s: float = TOLD_S) -> None:
        self.total_s = 0.0
        self.worst_s = 0.0
        self.holds = 0  # those that were told
        self._told = told
        self._told_s = told_s

    def excuse(self, seconds: float) -> None:
        """Nothing was read for so long, for another reason of our own."""
        self.total_s += seconds

    async def run(self) -> None:
        """Measure until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due_s = loop.time() + EVERY_S
            await asyncio.sleep(EVERY_S)
            late_s = loop.time() - due_s
            if late_s <= LATE_S:
                continue
            self.total_s += late_s
            self.worst_s = max(self.worst_s, late_s)
            if late_s >= self._told_s:
                self.holds += 1
                self._told(late_s)
