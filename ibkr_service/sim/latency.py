"""How long the gateway thinks before it answers, per kind of request: seeded, and never out of order.

Answers to one client keep their order within a subject (a cancel never overtakes what it cancels, nor a change its
order); questions about different subjects may overtake each other, as they do at a real gateway.
"""

from collections.abc import Callable, Mapping
from math import isfinite
from typing import Final

from ibkr_service.sim.chance import Chance
from ibkr_service.sim.clock import GatewayClock
from ibkr_service.sim.messages import Request, named

EVERY: Final = "*"
"""The name that stands for every request without a latency of its own."""

_ORDERS = frozenset({Request.PLACE_ORDER, Request.CANCEL_ORDER, Request.GLOBAL_CANCEL, Request.EXERCISE_OPTIONS})
_CANCEL = "CANCEL_"

Range = tuple[float, float]


def ranges_of(latency: Mapping[str, Range]) -> dict[Request | None, Range]:
    """Read a configuration; None is the key of all other requests.

    Raises:
        ValueError: no request has such a name, or a range is none.
    """
    ranges: dict[Request | None, Range] = {}
    for name, (low, high) in latency.items():
        if not (0 <= low <= high and isfinite(high)):
            raise ValueError(f"a latency goes from 0 up: not {low} to {high} for {name!r}")
        ranges[None if name == EVERY else Request(named(Request, name))] = (low, high)
    return ranges


class Latency:
    """Holds requests back for as long as the configuration says.

    Args:
        latency: request name (any spelling) or ``*`` → least and most, in gateway seconds.
        chance: draws from between.
        clock: gateway time.
    """

    def __init__(self, latency: Mapping[str, Range], chance: Chance, clock: GatewayClock) -> None:
        self._ranges = ranges_of(latency)
        self._chance = chance
        self._clock = clock
        self._drawn: dict[tuple[int, Request], int] = {}
        self._due_s: dict[tuple[int, str], float] = {}

    def change(self, latency: Mapping[str, Range]) -> None:
        """Take other ranges from now on; what is held already stays held."""
        self._ranges = ranges_of(latency)

    def hold(self, client_id: int, request: Request, answer: Callable[[], None]) -> None:
        """Answer when it is time: at once, unless somebody asked for a latency."""
        if not self._ranges:
            answer()
            return
        due_s = self._due(client_id, request)
        if due_s <= self._clock.seconds():
            answer()
        else:
            self._clock.call_at(due_s, answer)

    def _due(self, client_id: int, request: Request) -> float:
        low, high = self._ranges.get(request) or self._ranges.get(None, (0.0, 0.0))
        number = self._drawn[client_id, request] = self._drawn.get((client_id, request), 0) + 1
        drawn_s = self._chance.between(low, high, f"latency:{client_id}:{request.name}:{number}")
        subject = client_id, subject_of(request)
        due_s = self._due_s[subject] = max(self._clock.seconds() + drawn_s, self._due_s.get(subject, 0.0))
        return due_s


def subject_of(request: Request) -> str:
    """What a request is about: requests of one subject are answered in their order."""
    return "orders" if request in _ORDERS else request.name.removeprefix(_CANCEL)
