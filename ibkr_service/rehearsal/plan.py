"""What a random rehearsal consists of, drawn from its seed: faults, market, latencies, wishes.

The same seed is the same plan, in every process and on every machine. `Plan.only` keeps some of its faults, and changes
nothing else: that is how a failing seed is made small.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

from ibkr_service.rehearsal.mishaps import MISHAPS, OCCASIONS, Fault
from ibkr_service.rehearsal.mood import MOODS
from ibkr_service.rehearsal.traders import Wish, wishes_of
from ibkr_service.rehearsal.world import EPOCH
from ibkr_service.sim.latency import Range
from ibkr_service.sim.scenarios import Scenario

LENGTH_S = 1800.0
FAULTS_MIN, FAULTS_MAX = 3, 10
WISHES_MIN, WISHES_MAX = 22, 30
BEFORE_MIDNIGHT = datetime(2026, 11, 24, 4, 45, tzinfo=UTC)
"""A Monday, 23:45 in New York: the broker forgets today's executions in the middle of the rehearsal."""


MIDNIGHT_S = 900.0
OUTAGES = ("refuse", "mute", "id-taken", "cut", "nightly-restart", "no-login", "restart", "crash")


@dataclass(frozen=True)
class Plan:
    """One rehearsal. Times in virtual seconds since its start; `latency_s` one way, of the line to the gateway."""

    name: str
    seed: int
    faults: tuple[Fault, ...]
    wishes: tuple[Wish, ...]
    length_s: float = LENGTH_S
    started_at: datetime = EPOCH
    mood: str = "calm"
    quote_interval_s: float = 5.0
    latency_s: float = 0.0002
    latencies: Mapping[str, Range] = field(default_factory=dict)  # as of the gateway's settings
    scenario: Scenario | None = None  # is played besides
    excused: tuple[str, ...] = ()  # invariants that its scenario breaks by itself
    asks: str = ""  # the name of the strategy that asks for what the scenario is about, if there is one
    kept: tuple[int, ...] | None = None  # which faults of the seed these are, from 1; None for all

    def only(self, numbers: Collection[int]) -> Plan:
        """The same with these of its faults alone, counted from 1."""
        chosen = tuple(number for number in range(1, len(self.faults) + 1) if number in numbers)
        return replace(self, faults=tuple(self.faults[number - 1] for number in chosen), kept=chosen)

    @property
    def replay(self) -> str:
        """The command that does it again."""
        faults = "" if self.kept is None else f" --faults {','.join(map(str, self.kept)) or 'none'}"
        return f"ibkr-service rehearse {self.name} --seed {self.seed}{faults}"


RANDOM = "random"


def draw(seed: int) -> Plan:
    """The random rehearsal of a seed."""
    rng = random.Random(f"rehearsal {seed}")
    wishes = wishes_of(rng, rng.randint(WISHES_MIN, WISHES_MAX), LENGTH_S - 240)
    plan = Plan(
        name=RANDOM,
        seed=seed,
        faults=_faults(rng, rng.randint(FAULTS_MIN, FAULTS_MAX)),
        wishes=wishes,
        started_at=rng.choices((EPOCH, BEFORE_MIDNIGHT), (8, 1))[0],
        mood=rng.choice(list(MOODS)),
        quote_interval_s=rng.choice((10.0, 11.0, 12.0)),
        latency_s=rng.choice((0.0002, 0.0002, 0.02, 0.12)),
        latencies=rng.choice(({}, {}, {"*": (0.0, 0.5)}, {"placeOrder": (0.0, 2.0), "cancelOrder": (0.0, 2.0)})),
    )
    if plan.started_at is EPOCH:
        return plan
    return replace(plan, faults=_sorted([*plan.faults, _over_midnight(rng, wishes)]))


def _faults(rng: random.Random, count: int) -> tuple[Fault, ...]:
    """Faults, some of them in bursts: what is hard is the second one, while the first is being dealt with."""
    faults: list[Fault] = []
    at_s = 0.0
    for kind in rng.sample(list(MISHAPS), count):
        mishap = MISHAPS[kind]
        in_burst = bool(faults) and rng.random() < 0.4  # noqa: PLR2004 - less often than not
        at_s = at_s + rng.uniform(0.0, 15.0) if in_burst else rng.uniform(0.0, LENGTH_S - 180)
        low_s, high_s = mishap.lasts
        # Short ones are as telling as long ones: on a logarithmic scale.
        for_s = low_s * (high_s / low_s) ** rng.random() if low_s else 0.0
        on = rng.choices(OCCASIONS, (8, 5, 1, 3, 2, 2))[0]
        faults.append(Fault(kind, round(at_s, 3), on, round(for_s, 3), rng.choice(mishap.choices)))
    return _sorted(faults)


def _over_midnight(rng: random.Random, wishes: tuple[Wish, ...]) -> Fault:
    """An outage that begins as an order has left and ends on another day: what is filled meanwhile is never told."""
    kind = rng.choice(OUTAGES)
    evening = [wish.at_s for wish in wishes if MIDNIGHT_S - 180 < wish.at_s < MIDNIGHT_S - 1]
    at_s = (evening[-1] if evening else MIDNIGHT_S - 60) + rng.uniform(0.0, 0.5)
    for_s = MIDNIGHT_S - at_s + rng.uniform(1.0, 60.0)
    return Fault(kind, round(at_s, 3), "", round(for_s, 3), MISHAPS[kind].choices[-1])


def _sorted(faults: list[Fault]) -> tuple[Fault, ...]:
    return tuple(sorted(faults, key=lambda fault: fault.at_s))
