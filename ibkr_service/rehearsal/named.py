"""Rehearsals by name: outages that people have reported, each as a fixed sequence of faults in the middle of trading.

A name stands for one sentence, its public source, and the faults; prices, wishes and moments come from the seed. All
invariants are watched, as in a random one.
"""

from __future__ import annotations

import importlib
import random
from collections.abc import Callable
from dataclasses import dataclass, replace

from ibkr_service.rehearsal.mishaps import Fault, Occasion
from ibkr_service.rehearsal.mood import MOODS
from ibkr_service.rehearsal.plan import RANDOM, Plan, draw
from ibkr_service.rehearsal.traders import wishes_of
from ibkr_service.rehearsal.world import EPOCH
from ibkr_service.sim.scenarios import SCENARIOS, Scenario

MINUTE_S = 60.0
WISHES = 24
SOURCES = {
    "Lean": "QuantConnect/Lean.Brokerages.InteractiveBrokers",
    "ins": "erdewit/ib_insync",
    "async": "ib-api-reloaded/ib_async",
    "NT": "nautechsystems/nautilus_trader",
}


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


REHEARSALS: dict[str, Rehearsal | Played] = {
    rehearsal.name: rehearsal
    for rehearsal in (
        Rehearsal(
            "nightly-restart",
            "1100 again and again, the gateway is gone for minutes, accepts and drops, and hands out lower order ids",
            "ins #41, #469, #503; Lean #227, #242",
            (("nightly-restart", "ids lower", 240.0, ""),),
        ),
        Rehearsal(
            "upstream-blip-1102", "1100, and 1102 forty seconds later", "Lean #249", (("cut", "1102", 40.0, "order"),)
        ),
        Rehearsal(
            "upstream-loss-1101",
            "1100, then 1101: all subscriptions are silently gone",
            "ins #256; NT #1533, #3001",
            (("cut", "1101", 60.0, "order"),),
        ),
        Rehearsal("silent-1102", "1102, but the quotes never come back", "NT #3733", (("silent-1102", "", 30.0, ""),)),
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
        Rehearsal("farm-blip", "2103, and 2104 three seconds later", "NT #3968", (("farm", "", 3.0, ""),)),
        Rehearsal("farm-loss", "2103 for an hour in the session", "NT #4469", (("farm", "", 3600.0, ""),)),
        Rehearsal(
            "half-open",
            "bytes stop, the socket stays open, writes go nowhere",
            "ins #386",
            (("half-open", "reset", 90.0, "order"), ("half-open", "thaws", 90.0, "cancel")),
        ),
        Rehearsal(
            "mute-gateway",
            "connections are accepted, the handshake is never answered",
            "NT #4796",
            (("mute", "", 180.0, ""),),
        ),
        Rehearsal(
            "accept-close",
            "a forwarder accepts and closes while the gateway is down",
            "gnzsnz/ib-gateway-docker #15",
            (("accept-close", "4", 0.0, ""), ("accept-close", "4", 0.0, "connect")),
        ),
        Rehearsal(
            "client-id-in-use",
            "326 for a while after a quick reconnect",
            "ins #376; NT #3796",
            (("id-taken", "", 30.0, ""),),
        ),
        Rehearsal(
            "no-next-valid-id",
            "the handshake is fine, but no order id comes: the login is pending",
            "heshiming/ibga #24; UnusualAlpha/ib-gateway-docker #123",
            (("no-login", "", 120.0, ""),),
        ),
        Rehearsal(
            "partial-sync",
            "a part of the account is never shown",
            "async #84, #82; ins #355, #638; NT #4230",
            (
                ("ignore", "positions", 60.0, ""),
                ("ignore", "openOrders", 60.0, ""),
                ("ignore", "completedOrders", 60.0, ""),
                ("ignore", "executions", 60.0, ""),
            ),
        ),
        Rehearsal("competing-session", "10197 on every line", "stoqey/ib #240", (("competing", "", 240.0, ""),)),
        Rehearsal(
            "wedged", "quotes go on, but no request is answered", "ins #604", (("ignore", "currentTime", 120.0, ""),)
        ),
        Rehearsal(
            "restore-storm",
            "1100 and 1101 alternate for hours",
            "Lean #258",
            tuple(("flapping", "20", 600.0, "") for _ in range(6)),
        ),
        Rehearsal(
            "slow-line", "every byte takes most of a second each way", "ins #604", (("far-away", "0.8", 600.0, ""),)
        ),
        Rehearsal(
            "split-and-glue",
            "messages come in pieces of a few bytes, then many in one chunk",
            "the stream protocol itself",
            (("split", "7", 240.0, ""), ("glue", "2.0", 240.0, "")),
        ),
        Rehearsal(
            "crash-at-the-send",
            "the process dies as an order leaves, again and again",
            "QuantConnect/Lean #9292",
            tuple(("crash", "", 20.0, "order") for _ in range(4)),
        ),
        Rehearsal(
            "full-disk",
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
        Rehearsal(
            "garbage",
            "messages make no sense, known and unknown ones",
            "async #188",
            (
                ("garbage", "unknown message", 0.0, ""),
                ("garbage", "broken execution", 0.0, "fill"),
                ("garbage", "broken status", 0.0, "order"),
                ("garbage", "broken position", 0.0, "sync"),
            ),
        ),
    )
}
"""Every named rehearsal, by its name; the simulator's own scenarios are added below."""

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
        wishes, mood = wishes_of(rng, WISHES, 30 * MINUTE_S), rng.choice(list(MOODS))
        if self.name in BY_HAND:
            wait_s, mood = rng.uniform(60.0, 200.0), "calm"
            wishes = tuple(replace(wish, kind="rest", change_s=None, patience_s=wait_s) for wish in wishes)
        return Plan(
            name=self.name,
            seed=seed,
            faults=(),
            wishes=wishes,
            length_s=40 * MINUTE_S,
            started_at=self.scenario.gateway.get("started_at", EPOCH),
            mood=mood,
            scenario=self.scenario,
            excused=EXCUSED.get(self.name, ()),
        )


REHEARSALS |= {scenario.name: Played(scenario) for scenario in SCENARIOS.values()}

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
