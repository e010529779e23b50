"""Many rehearsals on all cores: which failed, how small a failure can be made, and what was covered.

Every worker is a process with a hash seed of its own, and every twentieth rehearsal is done by two of them: their
journals must be equal. A failing one is repeated with ever fewer of its faults, until each that is left is needed.
"""

from __future__ import annotations

import multiprocessing
import os
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from contextlib import ExitStack
from dataclasses import dataclass, field, replace

from ibkr_service.rehearsal.invariants import Breach
from ibkr_service.rehearsal.mishaps import MISHAPS
from ibkr_service.rehearsal.plan import RANDOM, Plan
from ibkr_service.rehearsal.run import Company, Result, rehearse

TWIN_EVERY = 20
COVERED_PART = 0.05  # of all rehearsals, in which each kind of fault has to happen
COVERED_FROM = 200  # rehearsals; with fewer, chance may leave one out
FAULT = "fault "

Tell = Callable[[Result], None]


@dataclass
class Outcome:
    """What a campaign came to. `seen`: in how many rehearsals something happened; `total`: how often in all."""

    count: int = 0
    failed: list[Result] = field(default_factory=list)
    seen: Counter[str] = field(default_factory=Counter)
    total: Counter[str] = field(default_factory=Counter)
    seconds: float = 0.0  # virtual
    named: int = 0  # of them
    twins: int = 0

    def add(self, result: Result) -> None:
        """Count one more."""
        self.count += 1
        self.named += result.plan.name != RANDOM
        self.seconds += result.seconds
        self.seen.update(key for key, number in result.coverage.items() if number)
        self.total.update(result.coverage)
        if not result.passed:
            self.failed.append(result)

    @property
    def uncovered(self) -> list[str]:
        """The kinds of fault that happened too seldom, if there were rehearsals enough to tell."""
        drawn = self.count - self.named
        if drawn < COVERED_FROM:
            return []
        return [kind for kind in MISHAPS if self.seen[FAULT + kind] < COVERED_PART * drawn]

    @property
    def passed(self) -> bool:
        """Whether all passed, and every kind of fault happened often enough."""
        return not self.failed and not self.uncovered

    @property
    def verdict(self) -> str:
        """The last line."""
        hours = f"{self.seconds / 3600:.0f} virtual hours"
        good = self.count - len(self.failed)
        if self.passed:
            return f"passed: {good} of {self.count} rehearsals, {hours}"
        rare = f"; too seldom: {', '.join(self.uncovered)}" if self.uncovered else ""
        return f"FAILED: {len(self.failed)} of {self.count} rehearsals, {hours}{rare}"


def campaign(plans: Iterable[Plan], company: Company, *, jobs: int | None = None, tell: Tell) -> Outcome:
    """Rehearse many plans, in processes; `tell` hears of each result as it comes."""
    outcome = Outcome()
    with ExitStack() as around:
        workers = [around.enter_context(_worker(number)) for number in range(1, max(2, jobs or _cores()) + 1)]
        for result in _results(workers, plans, company, outcome):
            outcome.add(result)
            tell(result)
    outcome.failed.sort(key=lambda result: (result.plan.name, result.plan.seed))
    return outcome


def smallest(plan: Plan, company: Company, broken: Iterable[str]) -> Plan:
    """The plan with the fewest faults that still breaks one of these invariants; each that is left is needed."""
    kept = list(plan.kept or range(1, len(plan.faults) + 1))
    whole = replace(plan, kept=None)
    wanted = set(broken)
    needed = list(kept)
    for number in kept:
        fewer = [other for other in needed if other != number]
        if wanted & set(rehearse(_only(whole, kept, fewer), company).broken):
            needed = fewer
    return _only(whole, kept, needed)


def _only(plan: Plan, kept: list[int], wanted: list[int]) -> Plan:
    """Faults by their numbers in the seed's plan, of a plan that holds those in `kept`."""
    faults = tuple(fault for number, fault in zip(kept, plan.faults, strict=True) if number in wanted)
    return replace(plan, faults=faults, kept=tuple(wanted))


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _worker(number: int) -> ProcessPoolExecutor:
    """A process with a hash seed of its own, started now: it takes the environment of this moment."""
    before = os.environ.get("PYTHONHASHSEED")
    os.environ["PYTHONHASHSEED"] = str(number)
    try:
        worker = ProcessPoolExecutor(1, mp_context=multiprocessing.get_context("spawn"))
        worker.submit(int).result()
    finally:
        if before is None:
            del os.environ["PYTHONHASHSEED"]
        else:
            os.environ["PYTHONHASHSEED"] = before
    return worker


def _results(
    workers: list[ProcessPoolExecutor], plans: Iterable[Plan], company: Company, outcome: Outcome
) -> Iterator[Result]:
    """Keep every worker busy; yield results as they come, those of twins as one."""
    waiting: deque[tuple[int, Plan]] = deque(enumerate(plans))
    twins: dict[int, list[Result]] = {}
    left: dict[int, int] = {}
    queues: list[deque[tuple[int, Plan]]] = [deque() for _ in workers]
    busy: dict[Future[Result], tuple[int, int]] = {}
    while waiting or busy or any(queues):
        for place, worker in enumerate(workers):
            if place in (where for where, _ in busy.values()):
                continue
            if not queues[place] and waiting:
                number, plan = waiting.popleft()
                queues[place].append((number, plan))
                left[number] = 1
                if number % TWIN_EVERY == 0:
                    queues[(place + 1) % len(workers)].append((number, plan))
                    left[number] = 2
            if queues[place]:
                number, plan = queues[place].popleft()
                busy[worker.submit(rehearse, plan, company)] = (place, number)
        done, _ = wait(busy, return_when=FIRST_COMPLETED)
        for future in done:
            _, number = busy.pop(future)
            twins.setdefault(number, []).append(future.result())
            left[number] -= 1
            if not left[number]:
                both = twins.pop(number)
                outcome.twins += len(both) - 1
                yield as_one(both)


def as_one(results: list[Result]) -> Result:
    """The result of a seed that several processes have rehearsed; that their journals differ is a breach."""
    first = results[0]
    if all(other.digest == first.digest for other in results):
        return first
    difference = Breach(first.seconds, "same journal", "two processes wrote different journals for one seed")
    return replace(first, breaches=(*first.breaches, difference))
