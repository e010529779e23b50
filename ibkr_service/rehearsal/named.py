"""Rehearsals by name: outages that people have reported, each in the middle of trading.

A name stands for one sentence and its public source. Most are scenarios of the simulator, the same scripts that play
live; some are sequences of faults. Prices, wishes and moments come from the seed. All invariants are watched, as in a
random one.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from ibkr_service.rehearsal.askers import ASKERS
from ibkr_service.rehearsal.mishaps import Fault, Occasion
from ibkr_service.rehearsal.mood import MOODS
from ibkr_service.rehearsal.plan import RANDOM, Plan, draw
from ibkr_service.rehearsal.traders import Wish, wishes_of
from ibkr_service.rehearsal.world import EPOCH
from ibkr_service.sim.scenarios import SCENARIOS, Scenario

MINUTE_S = 60.0
WISHES = 24
DRIFT_MAX_S = 3 * 3600.0  # a market that rises or falls all weekend ends nowhere


@dataclass(frozen=True)
class Rehearsal:
    """A named rehearsal. `source`: the public report of it. `faults`: kind, choice, seconds, and on what occasion."""

    name: str
    sentence: str
    source: str
    faults: tuple[tuple[str, str, float, Occasion], ...]
    apart_s: float = 120.0

    def plan(self, seed: int) -> Plan:
        """This rehearsal with a seed."""
        rng = random.Random(f"{self.name} {seed}")
        at_s = rng.uniform(1.0, 5.0) * MINUTE_S
        faults = []
        for kind, choice, for_s, on in self.faults:
            faults.append(Fault(kind, round(at_s, 3), on, for_s, choice))
            at_s += for_s + rng.uniform(0.5, 1.5) * self.apart_s
        length_s = max(15 * MINUTE_S, at_s + 2 * MINUTE_S)
        return Plan(
            name=self.name,
            seed=seed,
            faults=tuple(faults),
            wishes=wishes_of(rng, WISHES, length_s - MINUTE_S),
            length_s=length_s,
            mood=rng.choice(list(MOODS)),
        )


FAULTS: tuple[Rehearsal, ...] = (
    Rehearsal(
        "silent-data",
        "quotes stop without a word, and only a new subscription brings them back",
        "IbcAlpha/IBC #143",
        (("silent", "forgotten", 100.0, ""), ("silent", "", 300.0, "order")),
    ),
    Rehearsal(
        "held-loop",
        "a strategy computes for longer than the heartbeat waits",
        "docs.python.org, Developing with asyncio",
        tuple(("held", "", 15.0, on) for on in ("order", "cancel", "")),
    ),
    Rehearsal(
        "slow-line",
        "every byte takes most of a second each way",
        "erdewit/ib_insync #604",
        (("far-away", "0.8", 600.0, ""),),
    ),
    Rehearsal(
        "crash-at-the-send",
        "the process dies as an order leaves, again and again",
        "QuantConnect/Lean #9292",
        tuple(("crash", "", 20.0, "order") for _ in range(4)),
    ),
    Rehearsal(
        "disk-full-and-cut-off",
        "the journal refuses writes while orders work and fill, and the line is lost meanwhile",
        "sqlite.org, SQLITE_FULL",
        (("disk-full", "", 60.0, "fill"), ("drop", "", 0.0, "")),
        apart_s=1.0,
    ),
    Rehearsal(
        "clock-set-back",
        "the machine's clock is set forward and back while orders work",
        "ntp.org, step threshold",
        (("clock-step", "40", 0.0, "order"), ("clock-step", "-40", 0.0, "order"), ("clock-step", "-2", 0.0, "")),
    ),
)
"""What no gateway's script can do: to the network, and to the machine that the service runs on."""

EXCUSED: dict[str, tuple[str, ...]] = {
    "combo-legs": ("fills",),  # the execution of the combination as a whole is never told
    "exec-correction": ("agrees", "fills"),  # the broker calls an order filled whose executions sum up to less
    "two-perm-ids": ("agrees",),  # two orders under one reference: it ends in a quarantine, until a person decides
    "unexplained-position": ("agrees",),  # likewise
}
"""What a scenario of the simulator breaks by itself, by its name: it is no fault of the service."""

BY_HAND = frozenset(
    {"fill-while-cut", "fill-before-midnight", "fill-during-1100", "fill-without-status", "status-storm"}
    | {"false-cancel", "cancel-fill-race", "disk-full", "sent-then-crash", "exec-correction"}
)
"""Scenarios that fill orders themselves: the market must leave these alone."""


@dataclass(frozen=True)
class Played:
    """A scenario of the simulator, played beside a strategy that trades."""

    scenario: Scenario

    @property
    def name(self) -> str:
        """The scenario's."""
        return self.scenario.name

    @property
    def sentence(self) -> str:
        """The scenario's."""
        return self.scenario.sentence

    @property
    def source(self) -> str:
        """The scenario's."""
        return self.scenario.source

    def plan(self, seed: int) -> Plan:
        """This scenario with a seed."""
        rng = random.Random(f"{self.name} {seed}")
        lasts_s = max(30 * MINUTE_S, self.scenario.lasts_s)
        length_s = max(40 * MINUTE_S, lasts_s + 5 * MINUTE_S)
        is_long = length_s > DRIFT_MAX_S
        wishes, mood = wishes_of(rng, WISHES, 30 * MINUTE_S if is_long else lasts_s), rng.choice(list(MOODS))
        if is_long:
            wishes = (*wishes[::2], *late(wishes[1::2], length_s - 30 * MINUTE_S))
            mood = "lively" if MOODS[mood].drift else mood
        if self.name in BY_HAND:
            wait_s, mood = rng.uniform(60.0, 200.0), "calm"
            wishes = tuple(replace(wish, kind="rest", change_s=None, patience_s=wait_s) for wish in wishes)
        return Plan(
            name=self.name,
            seed=seed,
            faults=(),
            wishes=wishes,
            length_s=length_s,
            started_at=self.scenario.gateway.get("started_at", EPOCH),
            mood=mood,
            scenario=self.scenario,
            excused=EXCUSED.get(self.name, ()),
            asks=self.name if self.name in ASKERS else "",
        )


def late(wishes: tuple[Wish, ...], by_s: float) -> tuple[Wish, ...]:
    """The same wishes, said so much later."""
    return tuple(replace(wish, at_s=wish.at_s + by_s) for wish in wishes)


REHEARSALS: dict[str, Rehearsal | Played] = {scenario.name: Played(scenario) for scenario in SCENARIOS.values()}
"""Every named rehearsal, by its name: the simulator's scenarios, and what is done to the machine."""

REHEARSALS |= {rehearsal.name: rehearsal for rehearsal in FAULTS}

Planned = Callable[[int], Plan]


def planned(name: str) -> Planned:
    """How a name and a seed become a plan; `module:name` is a `Scenario`, or a `Rehearsal`, of the user's own.

    Raises:
        ValueError: there is none of that name; the text says which there are.
    """
    if name == RANDOM:
        return draw
    if ":" in name:
        return _own(name)
    if name not in REHEARSALS:
        raise ValueError(f"no rehearsal is called {name!r}: there are {RANDOM}, {', '.join(REHEARSALS)}")
    return REHEARSALS[name].plan


def _own(name: str) -> Planned:
    module, _, attribute = name.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as exc:
        raise ValueError(f"the rehearsal {name!r} cannot be loaded: {exc}") from exc
    match found:
        case Scenario():
            chosen: Rehearsal | Played = Played(found)
        case Rehearsal() | Played():
            chosen = found
        case _:
            raise ValueError(f"{name!r} is no Scenario and no Rehearsal, but {found!r}")
    return lambda seed: replace(chosen.plan(seed), name=name)
