"""What to do about silence, step by step: the next rung of the ladder is decided here, and nothing is done.

    probe → resubscribe one → resubscribe the farm → new session → the gateway's controller → rest

Each rung has its time to work; only what is still silent then leads to the next one. How high the ladder goes depends
on what is silent:

- some streams, while others of their farm tick: they are asked for anew, and no more. The farm lives.
- all of a farm: up to the top.
- a farm that the broker itself calls down (2103): not above asking anew. It will say when it is back.
- streams of which nobody knows whether they trade: a probe, and no more.
- streams that are slow, or of which little is known: they are asked for anew, and only if one does not even answer
  that, it counts as the others.

What costs much has a shortest distance: a new session for silent data every quarter of an hour, each command to the
controller as `EVERY_S` says. When all was tried a person is told, and it begins again, later and later.

Two roads lead to the controller without silent data: a gateway that is given up again and again (`lost`), and one that
stays cut off from IB (`cut`). The latter gets a new session as well, if it does not repeat that it is cut off: whoever
connects is told anew, and a word that was lost would else be waited for for ever. Nothing is decided while a declared
restart window lasts.
"""

from __future__ import annotations

import enum
from collections import deque
from collections.abc import Hashable, Mapping
from dataclasses import dataclass
from typing import Literal

Command = Literal["RECONNECTDATA", "RECONNECTACCOUNT", "RESTART"]
COMMANDS: tuple[Command, ...] = ("RECONNECTDATA", "RECONNECTACCOUNT", "RESTART")
"""What IBC's command server is ever asked for (its user guide, "Command server")."""


class Rung(enum.Enum):
    """A step of the ladder, from the cheapest up."""

    PROBE = "probe"
    RESUBSCRIBE_ONE = "resubscribe one"
    RESUBSCRIBE_FARM = "resubscribe farm"
    NEW_SESSION = "new session"
    CONTROLLER = "controller"
    REST = "rest"


RUNGS = (Rung.PROBE, Rung.RESUBSCRIBE_ONE, Rung.RESUBSCRIBE_FARM, Rung.NEW_SESSION, Rung.CONTROLLER)
WAIT_S = {
    Rung.PROBE: 5.0,
    Rung.RESUBSCRIBE_ONE: 15.0,
    Rung.RESUBSCRIBE_FARM: 20.0,
    Rung.NEW_SESSION: 30.0,
    Rung.CONTROLLER: 60.0,
}
"""How long each has to work."""

RESTARTING_S = 300.0  # a gateway that restarts logs in anew
SESSION_EVERY_S = 900.0
EVERY_S: Mapping[Command, float] = {"RECONNECTDATA": 900.0, "RECONNECTACCOUNT": 1800.0, "RESTART": 3600.0}
REST_S, REST_MAX_S = 300.0, 3600.0  # between two climbs that did not help
FOR_DATA: tuple[Command, ...] = ("RECONNECTDATA", "RESTART")
GIVEN_UP_MAX, GIVEN_UP_WITHIN_S = 3, 900.0  # so many connections given up in so short a time are the gateway's fault
CUT_S = 600.0  # a gateway that has lost IB finds it again by itself, nearly always
CUT_UNSAID_S = 900.0  # for so long it has not repeated that it is cut off: it may have found IB and not said so
NAMED_MAX = 5  # streams that are named in a reason


@dataclass(frozen=True)
class Silent:
    """A stream that should tell something and does not.

    Args:
        key: what it is to whoever can ask for it anew. farm: of streams that break off together.
        is_expected: it is known that it trades now; False: nobody knows. was_asked: it was asked for anew, in vain.
        has_pace: it was lively; False: it may only be quiet, though it is asked for anew to be sure.
    """

    key: Hashable
    name: str
    farm: str
    age_s: float
    is_expected: bool = True
    was_asked: bool = False
    has_pace: bool = True

    @property
    def is_telling(self) -> bool:
        """Whether its silence says that something is wrong: even one that is quiet answers a new request."""
        return self.has_pace or self.was_asked


@dataclass(frozen=True)
class Scene:
    """What is to be seen at one moment.

    Args:
        silent: the liveliest first. living: farms of which another stream tells something.
        is_unproven: a stream that was asked for anew has answered, and does not flow for sure yet.
        is_announced: the broker says that a market-data farm is down. at_rest: a restart window lasts.
    """

    silent: tuple[Silent, ...] = ()
    living: frozenset[str] = frozenset()
    is_unproven: bool = False
    is_announced: bool = False
    at_rest: bool = False


@dataclass(frozen=True)
class Step:
    """What to do now. `streams`: which to ask for anew. `command`: for the controller. `doubted`: not to be trusted."""

    rung: Rung
    why: str
    streams: tuple[Silent, ...] = ()
    command: Command | None = None
    doubted: tuple[Silent, ...] = ()


class Ladder:
    """Where on the ladder we are, and what was done when. Times are loop seconds.

    Args:
        commands: what the controller may be asked for. asked_s: when each was last asked for.
    """

    def __init__(
        self, commands: frozenset[Command] = frozenset(), asked_s: Mapping[Command, float] | None = None
    ) -> None:
        self._commands = commands
        self._asked_s: dict[Command, float] = dict(asked_s or {})
        self._session_s: float | None = None
        self._given_up_s: deque[float] = deque(maxlen=GIVEN_UP_MAX)
        self._rung: Rung | None = None
        self._until_s = 0.0
        self._rest_s = REST_S
        self._said: set[Command] = set()  # in this climb

    @property
    def rung(self) -> Rung | None:
        """The last step of the climb that is under way; None: there is none."""
        return self._rung

    def next(self, now_s: float, scene: Scene) -> Step | None:
        """The next step for what is silent, if it is time for one."""
        if not scene.silent:
            if not scene.is_unproven:
                self._rung, self._until_s, self._rest_s = None, 0.0, REST_S
                self._said.clear()
            return None
        if scene.at_rest or now_s < self._until_s:
            return None
        for rung in RUNGS:
            if self._is_below(rung):
                step = self._at(rung, now_s, scene)
                if step is not None:
                    return self._take(step, now_s)
        return self._exhausted(now_s, scene)

    def lost(self, now_s: float, *, at_rest: bool) -> Step | None:
        """A connection was given up because the gateway did not answer on it."""
        self._given_up_s.append(now_s)
        if at_rest or len(self._given_up_s) < GIVEN_UP_MAX or now_s - self._given_up_s[0] > GIVEN_UP_WITHIN_S:
            return None
        if not self._may_say("RESTART", now_s):
            return None
        self._given_up_s.clear()
        why = f"given up {GIVEN_UP_MAX} times within {GIVEN_UP_WITHIN_S / 60:.0f} minutes: it does not answer"
        return self._take(Step(Rung.CONTROLLER, why, command="RESTART"), now_s)

    def cut(self, now_s: float, cut_for_s: float, unsaid_s: float, *, at_rest: bool) -> Step | None:
        """The gateway has been cut off from IB for so long (1100), and last said so so long ago."""
        if at_rest:
            return None
        why = f"cut off from Interactive Brokers for {cut_for_s / 60:.0f} minutes"
        if cut_for_s >= CUT_S and self._may_say("RECONNECTACCOUNT", now_s):
            return self._take(Step(Rung.CONTROLLER, why, command="RECONNECTACCOUNT"), now_s)
        if unsaid_s >= CUT_UNSAID_S and self._may_have_session(now_s):
            why += f"; last said {unsaid_s / 60:.0f} minutes ago, so it may be over"
            return self._take(Step(Rung.NEW_SESSION, why), now_s)
        return None

    # --- one rung ----------------------------------------------------------------------------------------------------

    def _is_below(self, rung: Rung) -> bool:
        """Whether a rung is still before us. The controller has several commands."""
        if self._rung is None or rung is Rung.CONTROLLER:
            return True
        return RUNGS.index(rung) > RUNGS.index(self._rung)

    def _at(self, rung: Rung, now_s: float, scene: Scene) -> Step | None:
        expected = tuple(one for one in scene.silent if one.is_expected)
        dead = tuple(one for one in expected if one.is_telling and one.farm not in scene.living)
        may_climb = bool(dead) and not scene.is_announced
        match rung:
            case Rung.PROBE:
                return Step(rung, _why(scene.silent))
            case Rung.RESUBSCRIBE_ONE if expected:
                first = (dead or expected)[:1]
                return Step(rung, _why(expected), first, doubted=tuple(one for one in expected if one.is_telling))
            case Rung.RESUBSCRIBE_FARM if expected and (
                self._rest_s > REST_S or not all(one.was_asked for one in expected)
            ):
                return Step(rung, _why(expected), expected)
            case Rung.NEW_SESSION if may_climb and self._may_have_session(now_s):
                return Step(rung, _why(dead), dead)
            case Rung.CONTROLLER if may_climb:
                for command in FOR_DATA:
                    if command not in self._said and self._may_say(command, now_s):
                        return Step(rung, _why(dead), dead, command)
        return None

    def _take(self, step: Step, now_s: float) -> Step:
        self._rung = step.rung
        self._until_s = now_s + (RESTARTING_S if step.command == "RESTART" else WAIT_S[step.rung])
        if step.rung is Rung.NEW_SESSION:
            self._session_s = now_s
        if step.command is not None:
            self._asked_s[step.command] = now_s
            self._said.add(step.command)
        return step

    def _exhausted(self, now_s: float, scene: Scene) -> Step | None:
        """All was tried: again in a while. A person is told if a whole farm is dead and nobody has said so."""
        rest_s, self._rest_s = self._rest_s, min(REST_MAX_S, self._rest_s * 2)
        self._rung, self._until_s = Rung.RESUBSCRIBE_ONE, now_s + rest_s
        self._said.clear()
        dead = tuple(one for one in scene.silent if one.is_expected and one.is_telling and one.farm not in scene.living)
        if not dead or scene.is_announced:
            return None
        return Step(Rung.REST, f"{_why(dead)}; nothing has helped, again in {rest_s / 60:.0f} minutes", dead)

    def _may_have_session(self, now_s: float) -> bool:
        return self._session_s is None or now_s - self._session_s >= SESSION_EVERY_S

    def _may_say(self, command: Command, now_s: float) -> bool:
        asked_s = self._asked_s.get(command)
        return command in self._commands and (asked_s is None or now_s - asked_s >= EVERY_S[command])


def _why(silent: tuple[Silent, ...]) -> str:
    names = ", ".join(one.name for one in silent[:NAMED_MAX])
    more = f" and {len(silent) - NAMED_MAX} more" if len(silent) > NAMED_MAX else ""
    return f"silent for {max(one.age_s for one in silent):.0f} s: {names}{more}"
