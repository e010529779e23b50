"""How often a stream tells something, so that its silence can be told from its quiet.

A liquid stock ticks every second, an option far out of the money once an hour; one limit for both would miss the first
or ask for the second all night. So each stream is held against its own pace: it is *steady* when it has told something
in several looks, and *silent* when it has told nothing for much longer than it usually does, and never before a limit
that the settings state. The silence of one that is slow, or of which little is known yet, says nothing of its farm; but
it may have been forgotten as well, so it is asked for anew after a long while, more and more seldom.

While nothing is to be expected (the market is closed or halted, the line is down, the broker has refused it) it rests:
its age does not grow.
"""

from __future__ import annotations

import math
from collections.abc import Hashable

BEATS_MIN = 6  # looks in which it told something before anything is concluded from its silence
FACTOR = 4.0  # its longest usual pause times this is no silence yet
DECAY = 0.95  # of the longest pause, with each beat: a lull of an hour ago says little
REACH = 5.0  # times the stated limit: the silence of a stream that would need more says nothing of its farm
PATIENCE_MAX = 8
PATIENCE_BEATS = 60  # beats after which it is trusted twice as much again
PROOF_BEATS = 3  # the first answer to a new request may come from a cache; so many beats are a stream that flows
LIVING_S = 15.0  # what has told something so lately is alive
SIBLINGS = 4.0  # a stream is given so much longer while others of its farm tick


class Pulse:
    """The pulse of one stream, taken from time to time. Times are loop seconds.

    Args:
        mark: tells one moment of the stream from another: a count, or the time of its newest item; None for nothing.
    """

    __slots__ = ("_mark", "asked", "beats", "heard_s", "patience", "proof", "told_s", "usual_s")

    def __init__(self, mark: Hashable, now_s: float) -> None:
        self.heard_s = now_s  # when it last told something, or rested
        self.told_s = -math.inf  # when it last told something
        self.usual_s = 0.0  # the longest pause of late
        self.beats = 0
        self.patience = 1
        self.proof = 0  # beats that are still missing until it counts as recovered
        self.asked = False  # asked for anew, and nothing came yet
        self._mark = mark

    def take(self, mark: Hashable, now_s: float) -> bool:
        """Look at it; whether it has told something since the last look."""
        if mark is None or mark == self._mark:
            return False
        self._mark = mark
        if self.asked:
            # It may only have been quiet: before it is asked for again it has twice the time.
            self.asked, self.proof = False, PROOF_BEATS
            self.patience = min(self.patience * 2, PATIENCE_MAX)
        else:
            self.usual_s = max(now_s - self.heard_s, self.usual_s * DECAY)
            self.beats += 1
            self.proof = max(0, self.proof - 1)
            if self.beats % PATIENCE_BEATS == 0:
                self.patience = max(1, self.patience // 2)
        self.heard_s = self.told_s = now_s
        return True

    def rest(self, mark: Hashable, now_s: float) -> None:
        """Nothing is to be expected of it now."""
        if mark is not None:
            self._mark = mark
        self.heard_s, self.proof, self.asked = now_s, 0, False

    def wait(self, now_s: float) -> None:
        """Nothing can come now, but what was found out about it holds: its age begins anew."""
        self.heard_s = now_s

    def excuse(self, seconds: float) -> None:
        """For so long nobody could listen: it is no older for that."""
        self.heard_s += seconds

    def ask(self) -> None:
        """It is asked for anew."""
        self.asked = True

    def is_living(self, now_s: float) -> bool:
        """Whether it has told something just now."""
        return now_s - self.told_s <= LIVING_S

    def has_pace(self, stated_s: float) -> bool:
        """Whether it is known to be so lively that its silence says something.

        Args:
            stated_s: as in `limit_s`.
        """
        return self.beats >= BEATS_MIN and FACTOR * self.usual_s <= REACH * stated_s

    def limit_s(self, stated_s: float) -> float | None:
        """For how long it may tell nothing; None: it never has told anything.

        Args:
            stated_s: the limit of the settings, for a stream that is never quiet for long.
        """
        if not self.beats:
            return None
        least_s = stated_s if self.has_pace(stated_s) else REACH * stated_s
        return max(least_s, FACTOR * self.usual_s) * self.patience

    def age_s(self, now_s: float) -> float:
        """For how long it has told nothing."""
        return max(0.0, now_s - self.heard_s)
