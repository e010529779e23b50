"""What a person is to be told while nobody looks: which facts, how soon, how often.

An outage is told when it has lasted a while, so that a blip wakes nobody, and again when it is over. One that is
expected (a declared restart window) is told only if it goes on when the window is over. An order is told that stays
UNKNOWN; all else at once. Of one kind no more than so many are told within an hour: the rest is counted, and the next
one says how many there were.

Pure: facts and times go in, notices come out. How they travel is for `notifying.py`.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Literal, get_args

import msgspec

from ibkr_service.core import events as ev
from ibkr_service.core.ladder import Rung
from ibkr_service.core.orders import OrderState
from ibkr_service.core.restartwindow import RestartWindow

Kind = Literal["incident", "quarantine", "halt", "order", "strategy", "journal", "alarm"]
KINDS: tuple[Kind, ...] = get_args(Kind)
HOUR = timedelta(hours=1)
AT_ONCE = timedelta()
_ENDED_BY_ITSELF = frozenset({"returned", "cancelled"})


class Notice(msgspec.Struct, frozen=True, kw_only=True):
    """One thing to tell. `title` is one line; `text` may be several. Account numbers are as they are."""

    kind: Kind | Literal["test"]
    at: datetime
    title: str
    text: str = ""


class Told(msgspec.Struct, frozen=True, kw_only=True):
    """What is wanted.

    Args:
        on: which kinds. after: how long an outage or a doubt must last. hourly_max: of one kind.
        windows: when outages are expected.
    """

    on: frozenset[str] = frozenset(KINDS)
    after: timedelta = timedelta(seconds=60)
    hourly_max: int = 6
    windows: tuple[RestartWindow, ...] = ()


class Notices:
    """Folds facts into notices.

    Args:
        under_way: the incident that an earlier process left open.
    """

    def __init__(self, told: Told, *, under_way: ev.IncidentOpened | None = None) -> None:
        self._told = told
        self._incident = under_way  # that is open, and was not told
        self._said_incident = 0  # the number of the one that was
        self._unknown: dict[str, datetime] = {}  # orders in doubt, not told -> since when
        self._ready: list[Notice] = []
        self._refusing = False
        self._sent: dict[str, deque[datetime]] = {}
        self._held: dict[str, Held] = {}  # what was one too many

    def apply(self, event: ev.Event) -> None:  # noqa: C901 - one row per kind of event, as in a table
        """Take in a fact."""
        match event:
            case ev.IncidentOpened():
                self._incident = event
            case ev.IncidentClosed():
                self._over(event)
            case ev.OrderChanged(after=OrderState.UNKNOWN):
                self._unknown.setdefault(event.ref, event.at)
            case ev.OrderChanged():
                self._unknown.pop(event.ref, None)
            case ev.QuarantineBegan():
                why = "only orders that reduce positions leave, until a person accepts"
                self._say("quarantine", event.at, f"account {event.account} in quarantine", f"{event.why}\n{why}")
            case ev.QuarantineEnded():
                self._say("quarantine", event.at, f"quarantine of account {event.account} ended by {event.by}")
            case ev.OperatorSaid():
                self._say("halt", event.at, f"{event.verb} by {event.by}")
            case ev.StrategyStopped() if event.how not in _ENDED_BY_ITSELF:
                self._say("strategy", event.at, f"strategy {event.name} was stopped: {event.how}", event.detail)
            case ev.RecoveryStep(rung=Rung.REST.value):
                self._say("alarm", event.at, "data is silent and nothing helps: look at the gateway", event.why)
            case ev.LibraryFault():
                self._say("alarm", event.at, f"a library reports an error: {event.logger}", event.text)
            case _:
                pass

    def due(self, at: datetime, *, journal_refuses: bool) -> list[Notice]:
        """What is to be told now.

        Args:
            journal_refuses: whether facts wait for a disk that says no.
        """
        if journal_refuses != self._refusing:
            self._refusing = journal_refuses
            if journal_refuses:
                text = "facts are kept in memory, no order leaves; cancels pass"
                self._say("journal", at, "the journal refuses writes", text)
            else:
                self._say("journal", at, "the journal takes writes again")
        self._say_incident(at)
        self._say_unknown(at)
        fresh, self._ready = self._ready, []
        return self._within_limits(fresh, at)

    # --- what takes its time -----------------------------------------------------------------------------------------

    def _say_incident(self, at: datetime) -> None:
        found = self._incident
        if found is None or at - found.at < self._told.after:
            return
        if any(window.covers(at, AT_ONCE) for window in self._told.windows):
            return
        self._incident, self._said_incident = None, found.number
        self._say("incident", at, f"incident {found.number}: {found.cause}", f"since {_clock(found.at)}; not over yet")

    def _over(self, event: ev.IncidentClosed) -> None:
        self._incident = None
        if event.number != self._said_incident:
            return
        lines = [
            f"{event.cause}, from {_clock(event.began_at)} to {_clock(event.at)}",
            f"READY after {event.ready_after_s:.0f} s; {len(event.streams)} streams had a gap",
            f"orders in doubt: {event.orders_unknown}, of which {event.orders_resolved} are known again",
            f"fills learned of by asking: {event.fills_recovered}",
        ]
        if event.steps:
            lines.append(f"done about it: {', '.join(event.steps)}")
        if event.silent:
            lines.append(f"still silent: {', '.join(event.silent)}")
        self._say("incident", event.at, f"incident {event.number} is over", "\n".join(lines))

    def _say_unknown(self, at: datetime) -> None:
        late = [ref for ref, since in self._unknown.items() if at - since >= self._told.after]
        for ref in late:
            since = self._unknown.pop(ref)
            text = f"since {_clock(since)} nobody can say whether it works; it is not sent again"
            self._say("order", at, f"order {ref} is UNKNOWN", text)

    # --- how often ---------------------------------------------------------------------------------------------------

    def _say(self, kind: Kind, at: datetime, title: str, text: str = "") -> None:
        if kind in self._told.on:
            self._ready.append(Notice(kind=kind, at=at, title=title, text=text))

    def _within_limits(self, fresh: Sequence[Notice], at: datetime) -> list[Notice]:
        passed = []
        for notice in fresh:
            if notice.kind in self._held or not self._has_room(notice.kind, at):
                self._held.setdefault(notice.kind, Held(notice)).add(notice)
            else:
                passed.append(notice)
                self._sent[notice.kind].append(at)
        for kind in [kind for kind in self._held if self._has_room(kind, at)]:
            passed.append(self._held.pop(kind).summary())
            self._sent[kind].append(at)
        return passed

    def _has_room(self, kind: str, at: datetime) -> bool:
        sent = self._sent.setdefault(kind, deque())
        while sent and at - sent[0] >= HOUR:
            sent.popleft()
        return len(sent) < self._told.hourly_max


class Held:
    """What was one too many: how many, since when, and the newest."""

    def __init__(self, first: Notice) -> None:
        self._first_at = first.at
        self._count = 0
        self._last = first

    def add(self, notice: Notice) -> None:
        """One more."""
        self._count += 1
        self._last = notice

    def summary(self) -> Notice:
        """The newest, and how many there were before it that nobody was told."""
        if self._count == 1:
            return self._last
        more = f"{self._count - 1} more of this kind, since {_clock(self._first_at)}, were held back before it"
        return msgspec.structs.replace(self._last, text=f"{self._last.text}\n{more}".lstrip())


def _clock(at: datetime) -> str:
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"
