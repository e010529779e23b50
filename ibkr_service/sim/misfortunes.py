"""What the gateway does wrong on purpose: state that it consults, set through the vocabulary in `faults.py`."""

from dataclasses import dataclass, field
from typing import Literal

from ibkr_service.sim.wire import LENGTH_BYTES

Countdown = dict[int, int | None]
"""Message id → how many more times; None for always."""

ComboReports = Literal["whole", "legs only", "legs late"]


@dataclass(slots=True)
class Misfortunes:
    """Everything that goes wrong just now; by default nothing."""

    ignored_requests: Countdown = field(default_factory=dict)
    lost_answers: Countdown = field(default_factory=dict)
    delayed_requests: dict[int, float] = field(default_factory=dict)
    """Message id → gateway seconds for which it is kept before it is acted upon."""

    rejections: list[tuple[int, str]] = field(default_factory=list)
    reject_json: str = ""
    """What rejections carry beside their text: TWS's advanced order reject."""

    false_cancels: list[tuple[int, str]] = field(default_factory=list)
    status_copies: int = 1
    status_spread_s: float = 0.0
    """Copies of a status come this much later at most, each at a moment of its own: after what came after it."""

    order_ids_back: int = 0
    commission_first: bool = False
    combo_reports: ComboReports = "whole"
    legs_late_s: float = 0.0
    hidden_executions: set[str] = field(default_factory=set)
    """Executions that nobody is shown, even when they ask."""

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
