"""Incidents: one per outage, whatever noise it makes.

An incident begins when the link leaves READY, when a data farm goes down, or when a stream falls silent by itself, and
ends when the link is READY, every farm that went down is up, every stream that had a gap flows again, and every order
that was in doubt is accounted for. What takes longer than `STREAMS_MAX_S` after READY is told as such: a stream that
nobody wants any more never comes back.
A socket that flaps ten times before it holds is one incident with ten attempts.

An orderly stop is no incident; a process that died is: its successor opens one, if it was READY when it was last heard.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime, timedelta

import msgspec

from ibkr_service.core import events as ev
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.ladder import Rung
from ibkr_service.core.link import STOPPING, Link
from ibkr_service.core.orders import OrderState

COMPETING_SESSION = 10197  # the data is refused for as long as another session of the login has it, and comes back
STREAMS_MAX_S = 60.0  # and orders in doubt
SAME_OUTAGE = timedelta(seconds=1)  # a gap that is told so shortly before the link changes belongs to it
SAME_CLIMB = timedelta(seconds=60)  # a step of the recovery ladder so shortly before belongs to it, too
DIED = "the service ended without a word"
TELLING = frozenset({ev.ServiceStarted, ev.LinkChanged, ev.FarmChanged, ev.Gap, ev.RecoveryStep})


class Open(msgspec.Struct):
    """The incident that is under way."""

    number: int
    cause: str
    began_at: datetime
    since: datetime
    """From when on data is not to be trusted, as far as anybody noticed: the oldest gap's beginning, or `began_at`."""
    ready_at: datetime | None = None
    attempts: int = 0
    gaps: dict[AnyInstrument, datetime] = {}  # since when, of those that are still open
    ended: dict[AnyInstrument, ev.StreamGap] = {}  # of each that is over, from its first beginning to its last end
    unknown: dict[str, OrderState] = {}  # orders that were UNKNOWN meanwhile -> what they are now
    recovered: int = 0
    steps: list[str] = []  # of the recovery ladder


class Incidents:
    """Folds facts into incidents; `apply` returns what follows.

    Args:
        count: of those in the journal. was_ready: the process before this one was READY when it was last heard of.
        under_way: the incident that it left open.
    """

    def __init__(self, count: int = 0, *, was_ready: bool = False, under_way: ev.IncidentOpened | None = None) -> None:
        self.open: Open | None = None
        self.count = count
        self._link = Link.DOWN
        self._was_ready = was_ready
        self._farms: set[str] = set()
        self._steps: list[tuple[datetime, str]] = []  # taken while there was no incident yet
        if under_way is not None:
            self.open = Open(under_way.number, under_way.cause, under_way.at, under_way.at)

    def apply(self, event: ev.Event) -> list[ev.Event]:
        """Take in a fact; return the incident that it opened or closed, if any."""
        said: list[ev.Event] = []
        if self.open is None and type(event) not in TELLING:
            return said  # as most do: nothing is under way, and nothing begins
        match event:
            case ev.ServiceStarted() if self._was_ready and self.open is None:
                said = self._begin(event, DIED)
            case ev.LinkChanged():
                if event.after is Link.DOWN:
                    self._farms.clear()  # a new connection is told of them anew
                said = self._linked(event)
            case ev.FarmChanged(up=False):
                self._farms.add(event.farm)
                said = self._begin(event, f"data farm {event.farm} is down")
            case ev.FarmChanged():
                self._farms.discard(event.farm)
            case ev.Gap():
                said = self._gap(event)
            case ev.Resumed() | ev.SubscriptionFailed():
                self._flows(event)
            case ev.RecoveryStep():
                self._stepped(event)
            case _:
                self._noted(event)
        return said + self._ended(event.at)

    def due(self, at: datetime) -> list[ev.Event]:
        """What has to be told because time has passed."""
        return self._ended(at)

    def _linked(self, event: ev.LinkChanged) -> list[ev.Event]:
        self._link = event.after
        if event.after is Link.READY:
            if self.open is not None:
                self.open.ready_at = event.at
            return []
        if self.open is not None:
            self.open.ready_at = None
            self.open.attempts += event.after is Link.SYNCING
            return []
        if event.before is not Link.READY:
            return []
        if event.why == STOPPING:
            return []
        return self._begin(event, event.why)

    def _begin(self, event: ev.Event, cause: str) -> list[ev.Event]:
        if self.open is not None:
            return []
        self.count += 1
        self.open = Open(self.count, cause, event.at, event.at)
        self.open.steps += [rung for at, rung in self._steps if event.at - at <= SAME_CLIMB]
        self._steps.clear()
        if self._link is Link.READY:
            self.open.ready_at = event.at
        return [ev.IncidentOpened(at=event.at, session=event.session, number=self.count, cause=cause)]

    def _stepped(self, event: ev.RecoveryStep) -> None:
        """A step of the ladder: of the incident that is open, or of the one that it turns out to be."""
        rung = f"{event.rung} {event.what}" if event.rung == Rung.CONTROLLER.value else event.rung
        if self.open is not None:
            self.open.steps.append(rung)
        else:
            self._steps = [step for step in self._steps if event.at - step[0] <= SAME_CLIMB]
            self._steps.append((event.at, rung))

    def _gap(self, event: ev.Gap) -> list[ev.Event]:
        said = self._begin(event, f"{event.instrument}: {event.reason}") if event.lost == 0 else []
        if self.open is not None:
            self.open.gaps.setdefault(event.instrument, event.since)
            self.open.since = min(self.open.since, event.since)
        return said

    def _flows(self, event: ev.Resumed | ev.SubscriptionFailed) -> None:
        if self.open is None:
            return
        if isinstance(event, ev.SubscriptionFailed) and event.code == COMPETING_SESSION:
            return  # each line is refused by itself: one outage all the same
        since = self.open.gaps.pop(event.instrument, None)
        if since is None or not isinstance(event, ev.Resumed):
            return
        before = self.open.ended.get(event.instrument)
        self.open.ended[event.instrument] = ev.StreamGap(
            instrument=str(event.instrument),
            since=since if before is None else before.since,
            until=event.until,
            resubscribed=event.resubscribed or (before is not None and before.resubscribed),
            backfilled=event.backfilled + (0 if before is None else before.backfilled),
        )

    def _noted(self, event: ev.Event) -> None:
        if self.open is None:
            return
        match event:
            case ev.OrderChanged(after=OrderState.UNKNOWN):
                self.open.unknown[event.ref] = event.after
            case ev.OrderChanged() if event.ref in self.open.unknown:
                self.open.unknown[event.ref] = event.after
            case ev.Fill(recovered=True):
                self.open.recovered += 1
            case _:
                pass

    def _ended(self, at: datetime) -> list[ev.Event]:
        found = self.open
        if found is None or found.ready_at is None or self._link is not Link.READY or self._farms:
            return []
        waited_s = (at - found.ready_at).total_seconds()
        is_settled = not found.gaps and OrderState.UNKNOWN not in found.unknown.values()
        if not is_settled and waited_s < STREAMS_MAX_S:
            return []
        self.open = None
        return [
            ev.IncidentClosed(
                at=at,
                number=found.number,
                cause=found.cause,
                began_at=found.began_at,
                detected_after_s=max(0.0, (found.began_at - found.since).total_seconds()),
                ready_after_s=max(0.0, (found.ready_at - found.began_at).total_seconds()),
                attempts=found.attempts,
                streams=tuple(_streams(found)),
                orders_unknown=len(found.unknown),
                orders_resolved=sum(state is not OrderState.UNKNOWN for state in found.unknown.values()),
                orders=tuple(ev.OrderInDoubt(ref=ref, state=state.name) for ref, state in found.unknown.items()),
                fills_recovered=found.recovered,
                steps=tuple(found.steps),
            )
        ]


def _streams(found: Open) -> Iterator[ev.StreamGap]:
    """What the outage meant for each stream that had a gap."""
    for instrument, gap in found.ended.items():
        yield msgspec.structs.replace(gap, until=None) if instrument in found.gaps else gap
    for instrument, since in found.gaps.items():
        if instrument not in found.ended:
            yield ev.StreamGap(instrument=str(instrument), since=since)
