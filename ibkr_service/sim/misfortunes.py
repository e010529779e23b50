"""What the gateway does wrong on purpose: state that it consults, set through the vocabulary in `faults.py`."""

from dataclasses import dataclass, field
from typing import Literal

from ibkr_service.sim.wire import LENGTH_BYTES

Countdown = dict[int, int | None]
"""Message id → how many more times; None for always."""

ComboReports = Literal["whole", "legs only", "legs late"]


@dataclass(slots=True)
class Failure:
    """How a kind of request fails, and how many more times; None for always."""

    code: int
    text: str
    times: int | None


@dataclass(slots=True)
class Misfortunes:
    """Everything that goes wrong just now; by default nothing."""

    ignored_requests: Countdown = field(default_factory=dict)
    lost_answers: Countdown = field(default_factory=dict)
    delayed_requests: dict[int, float] = field(default_factory=dict)
    """Message id → gateway seconds for which it is kept before it is acted upon."""

    failed_requests: dict[int, list[Failure]] = field(default_factory=dict)
    """Message id → how requests of that kind fail, the next one first."""

    is_mute_on_combos: bool = False
    """Whether contract details of a combination are never answered, as IB's legend has it."""

    lines_max: int | None = None
    """How many market data lines are granted, in place of what the configuration says."""

    data_permission: str | None = None
    """What market data a login may see, in place of what the configuration says."""

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

    def failure_of(self, request: int) -> tuple[int, str] | None:
        """With which code and text a request fails; it counts as one of those to fail."""
        waiting = self.failed_requests.get(request)
        if not waiting:
            return None
        first = waiting[0]
        if first.times is not None:
            first.times -= 1
            if first.times <= 0:
                waiting.pop(0)
        return first.code, first.text

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
