"""What happened, in order, from three sides: what the gateway did, what the service knew, what a strategy saw.

A campaign of thousands keeps none (`Timeline(keeps=False)`): it finds seeds, and a seed is told when it is replayed.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal, NamedTuple

from ibkr_service.core import events as ev
from ibkr_service.core.orders import UNCERTAIN

Side = Literal["gateway", "wire", "service", "strategy", "breach"]
SIDES: tuple[Side, ...] = ("gateway", "wire", "service", "strategy", "breach")


class Entry(NamedTuple):
    """One thing that happened. `at_s`: virtual seconds; `who`: on the strategies' side, which."""

    at_s: float
    side: Side
    who: str
    text: str

    def __str__(self) -> str:
        minutes, seconds = divmod(self.at_s, 60)
        who = f" {self.who}:" if self.who else ""
        return f"{int(minutes):3}:{seconds:06.3f}  {self.side:<8} {who} {self.text}"


class Timeline:
    """The entries of one rehearsal."""

    def __init__(self, now_s: Callable[[], float], *, keeps: bool) -> None:
        self.entries: list[Entry] = []
        self._now_s = now_s
        self._keeps = keeps

    def gateway(self, text: str) -> None:
        """What the gateway does, or what is done to it."""
        self._add("gateway", "", text)

    def wire(self, text: str) -> None:
        """What passes the socket."""
        self._add("wire", "", text)

    def service(self, event: ev.Event) -> None:
        """What the service records."""
        if self._keeps:
            self._note("service", "", event)

    def strategy(self, name: str, event: ev.Event) -> None:
        """What a strategy reads."""
        if self._keeps:
            self._note("strategy", name, event)

    def breach(self, invariant: str, text: str) -> None:
        """What must not be."""
        self._add("breach", "", f"{invariant}: {text}")

    def _note(self, side: Side, who: str, event: ev.Event) -> None:
        text = words(event)
        if text is not None:
            self._add(side, who, text)

    def _add(self, side: Side, who: str, text: str) -> None:
        if self._keeps:
            self.entries.append(Entry(self._now_s(), side, who, text))


def words(event: ev.Event) -> str | None:  # noqa: C901, PLR0911, PLR0912 - one row per kind of event, as in a table
    """An event in a few words; None if it is not worth a line."""
    match event:
        case ev.LinkChanged():
            return f"link {event.before.name} -> {event.after.name}: {event.why}"
        case ev.ServiceStarted():
            return f"service started, run {event.run_id}"
        case ev.ServiceStopped():
            return f"service stopped: {event.reason}"
        case ev.OrderSubmitted():
            return f"{event.ref} ({event.key}): {event.intent}"
        case ev.OrderNotSent() | ev.ModificationNotSent():
            return f"{event.ref} was not sent: {event.reason}"
        case ev.OrderErrored():
            return f"{event.ref} broker says {event.code}: {event.text} ({event.meaning})"
        case ev.OrderChanged():
            why = f": {event.why}" if event.why or event.after in UNCERTAIN else ""
            return f"{event.ref} {event.before.name} -> {event.after.name}, {event.filled} filled{why}"
        case ev.ModificationRequested():
            return f"{event.ref} is to become {event.intent}"
        case ev.ModificationSettled():
            return f"{event.ref} change {event.outcome}: {event.intent}"
        case ev.CancelRequested():
            return f"{event.ref} is to be cancelled, by {event.by}"
        case ev.OrderResolved():
            return f"{event.ref} found {event.resolution}: {event.detail}"
        case ev.Fill():
            late = ", found by asking" if event.recovered else ""
            return f"fill {event.exec_id}: {event.action} {event.quantity} {event.instrument} at {event.price}{late}"
        case ev.PositionAdjusted():
            return f"{event.instrument} adjusted from {event.before} to {event.after} ({event.cause})"
        case ev.Gap() | ev.Resumed():
            return f"{type(event).__name__.lower()} {event.instrument}"
        case ev.FarmChanged():
            return f"data farm {event.farm} is {'up' if event.up else 'down'}"
        case ev.SubscriptionFailed():
            return f"no data of {event.instrument}: {event.code} {event.text}"
        case ev.BrokerNotice():
            return f"broker says {event.code}: {event.text}"
        case ev.LibraryFault():
            return f"library fault: {event.text}"
        case ev.StrategyStarted():
            return f"strategy {event.name} started"
        case ev.StrategyStopped():
            return f"strategy {event.name} stopped: {event.how} {event.detail}"
        case _:
            return None
