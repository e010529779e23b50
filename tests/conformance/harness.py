"""Named checks of a gateway, run one after the other by a client that somebody else wrote.

A script makes a list of checks and gives it to `main`. A check is a function of the client that raises `Failed`, which
says what was expected and what came. Nothing here knows the client, the simulator or pytest: only the standard library,
because every client lives in an environment of its own.

Output, one line each, flushed, so that whoever started the script sees how far it came:

    passed NAME (0.2 s)
    FAILED NAME: expected ...; came ...
    CLIENT: 72 passed, 1 failed, 12.3 s
"""

import argparse
import logging
import sys
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PATIENCE_S = 6.0
"""How long a check waits for any one thing. "Never silence" promises an answer within a few seconds."""

MESSAGES_PER_SECOND = 45
"""What a polite client sends; IB's limit is 50."""


class Failed(Exception):
    """A check has failed."""

    def __init__(self, expected: object, came: object) -> None:
        super().__init__(f"expected {expected}; came {came}")


def expect(what: str, expected: object, came: object) -> None:
    """Fail unless something is exactly as expected."""
    if expected != came:
        raise Failed(f"{what} {expected!r}", repr(came))


def require(holds: object, expected: str, came: object) -> None:
    """Fail unless a condition holds."""
    if not holds:
        raise Failed(expected, repr(came))


@dataclass(frozen=True)
class Check:
    """A named check, and the function that makes it."""

    name: str
    run: Callable[..., Any]


class Checks:
    """A list of checks, filled by a decorator; names are unique."""

    def __init__(self) -> None:
        self.all: list[Check] = []

    def __call__(self, name: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        assert name not in self.names, f"two checks are called {name}"

        def add(function: Callable[..., Any]) -> Callable[..., Any]:
            self.all.append(Check(name, function))
            return function

        return add

    @property
    def names(self) -> list[str]:
        """The names, in order."""
        return [check.name for check in self.all]


class Pace:
    """Keeps a client below a number of messages a second; `pause` says for how long the next one must wait."""

    def __init__(self, per_second: int = MESSAGES_PER_SECOND) -> None:
        self._per_second = per_second
        self._sent: deque[float] = deque()

    def pause(self) -> float:
        """Count a message; return the seconds that it must wait."""
        now = time.perf_counter()
        while self._sent and now - self._sent[0] >= 1:
            self._sent.popleft()
        wait = max(0.0, 1 - (now - self._sent[-self._per_second])) if len(self._sent) >= self._per_second else 0.0
        self._sent.append(now + wait)
        return wait


class ErrorLog(logging.Handler):
    """Keeps what a client's library logs as an error: a message that it could not digest."""

    def __init__(self) -> None:
        super().__init__(logging.ERROR)
        self.lines: list[str] = []

    def emit(self, record: logging.LogRecord) -> None:
        self.lines.append(record.getMessage()[:300])


def say(line: str) -> None:
    """Print a line at once."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def arguments(client: str) -> argparse.Namespace:
    """Read the command line that all scripts share."""
    parser = argparse.ArgumentParser(description=f"Conformance of a TWS gateway, seen by {client}.")
    parser.add_argument("port", type=int)
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--only", default="", help="names of the checks to run, separated by commas")
    parser.add_argument("--patience", type=float, default=PATIENCE_S, help="seconds to wait for any one thing")
    parser.add_argument("--list", action="store_true", help="print the names of all checks and end")
    return parser.parse_args()


def chosen(checks: Iterable[Check], only: str) -> list[Check]:
    """The checks that were asked for, all of them by default."""
    wanted = set(filter(None, only.split(",")))
    found = [check for check in checks if not wanted or check.name in wanted]
    unknown = wanted - {check.name for check in found}
    if unknown:
        raise SystemExit(f"no such check: {', '.join(sorted(unknown))}")
    return found


def listed(checks: Iterable[Check]) -> None:
    """Print the names of checks."""
    for check in checks:
        say(check.name)


class Report:
    """Prints results as they come, and the last line."""

    def __init__(self, client: str) -> None:
        self._client = client
        self._started = self._last = time.perf_counter()
        self._passed = self._failed = 0

    def passed(self, name: str) -> None:
        """A check has passed."""
        self._passed += 1
        now = time.perf_counter()
        say(f"passed {name} ({now - self._last:.1f} s)")
        self._last = now

    def failed(self, name: str, reason: BaseException) -> None:
        """A check has failed; what is no `Failed` is a surprise, told with its place."""
        self._failed += 1
        self._last = time.perf_counter()
        text = str(reason)
        if not isinstance(reason, Failed):
            place = traceback.extract_tb(reason.__traceback__)[-1]
            text = f"surprise {type(reason).__name__}: {reason} at {Path(place.filename).name}:{place.lineno}"
        say(f"FAILED {name}: {' '.join(text.split())[:900]}")

    def finish(self) -> int:
        """Print the last line; return the exit code."""
        seconds = time.perf_counter() - self._started
        say(f"{self._client}: {self._passed} passed, {self._failed} failed, {seconds:.1f} s")
        return 1 if self._failed or not self._passed else 0
