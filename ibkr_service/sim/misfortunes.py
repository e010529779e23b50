"""What the gateway does wrong on purpose: state that it consults, set through the vocabulary in `faults.py`."""

from dataclasses import dataclass, field

from ibkr_service.sim.wire import LENGTH_BYTES

Countdown = dict[int, int | None]
"""Message id → how many more times; None for always."""


@dataclass(slots=True)
class Misfortunes:
    """Everything that goes wrong just now; by default nothing."""

    ignored_requests: Countdown = field(default_factory=dict)
    lost_answers: Countdown = field(default_factory=dict)
    rejections: list[tuple[int, str]] = field(default_factory=list)
    false_cancels: list[tuple[int, str]] = field(default_factory=list)
    status_copies: int = 1
    order_ids_back: int = 0

    def ignores(self, request: int) -> bool:
        """Whether a request is swallowed; it counts as one of those to swallow."""
        return _count_down(self.ignored_requests, request)

    def loses(self, message: bytes) -> bool:
        """Whether an answer never leaves; it counts as one of those to lose."""
        if not self.lost_answers:
            return False
        number = message[LENGTH_BYTES:].partition(b"\0")[0]
        return number.isdigit() and _count_down(self.lost_answers, int(number))


def _count_down(left: Countdown, message: int) -> bool:
    if message not in left:
        return False
    times = left[message]
    if times is not None:
        if times <= 1:
            del left[message]
        else:
            left[message] = times - 1
    return True
