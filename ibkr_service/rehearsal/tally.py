"""What an outage cost, measured from outside: when it really began, when the service knew, when all was well again.

Moments of faults are the gateway's own (`Faults.listener`), moments of knowledge are those at which the service
recorded it, both in virtual seconds of the one loop. What was sent is counted on the wire, what happened at the broker,
what is told in the journal's file: nothing here is what the service says of itself.
"""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path

import msgspec

from ibkr_service.core import events as ev
from ibkr_service.core.link import Link
from ibkr_service.core.orders import UNCERTAIN, OrderState
from ibkr_service.rehearsal.machine import Machine
from ibkr_service.sim.faults import Effect
from ibkr_service.sim.messages import Request

OURS = "ibs."
DONE_BY_THE_BROKER = frozenset({"opening", "expiry", "assignment", "exercise", "split"})  # not by fills of orders
AGAIN_WITHIN_S = 30.0  # a line that was cancelled so shortly before is asked for again, not anew
CON_ID_FIELD, REQUEST_FIELD = 3, 2  # of reqMktData, of cancelMktData


@dataclass(frozen=True)
class Outage:
    """One outage. Virtual seconds: from the fault to the knowledge of it, and from the repair to READY and to quotes.

    None: the service never knew of it (`known_s`); the link never left READY (`ready_s`); no incident ended (`over_s`).
    """

    cause: str
    known_s: float | None
    ready_s: float | None
    over_s: float | None


@dataclass(frozen=True)
class Figures:
    """What a rehearsal came to in numbers. `lost` and `doubled` are to be 0."""

    outages: tuple[Outage, ...] = ()
    unnoticed: int = 0  # what broke and was mended before anybody could know
    gaps: int = 0
    resumed: int = 0
    resubscribed: int = 0
    orders: int = 0
    unknown: int = 0
    resolved: int = 0
    fills: int = 0
    recovered: int = 0
    adjusted: int = 0
    doubled: int = 0
    lost: int = 0


@dataclass
class _Current:
    cause: str
    began_s: float | None  # None: it began with the service's own end
    known_s: float | None = None
    mended_s: float | None = None
    ready_s: float | None = None
    left_ready: bool = False
    flows_s: float | None = None  # the last stream that was told to flow again
    is_closed: bool = False  # the incident is over, though streams are silent

    @property
    def flows_again(self) -> bool:
        """Whether streams that were given up as silent have come back after all."""
        return self.is_closed and self.mended_s is not None and (self.flows_s or 0.0) > self.mended_s


@dataclass
class _Placed:
    """What left of one order."""

    times: int = 0
    ids: set[int] = field(default_factory=set)


class Tally:
    """Counts while a rehearsal runs.

    Args:
        now_s: virtual seconds.
    """

    def __init__(self, now_s: Callable[[], float]) -> None:
        self._now_s = now_s
        self._outages: list[Outage] = []
        self._current: _Current | None = None
        self._unnoticed = 0
        self._counts: Counter[str] = Counter()
        self._unknown: set[str] = set()
        self._placed: dict[str, _Placed] = {}
        self._lines: dict[str, float | None] = {}  # contract -> when its line was given back, None: not yet
        self._contract_of: dict[str, str] = {}  # request -> contract

    # --- what happens ------------------------------------------------------------------------------------------------

    def struck(self, words: str, effect: Effect) -> None:
        """A misfortune, or its end."""
        current = self._current
        is_over = current is not None and (current.is_closed or (current.known_s is None and current.mended_s))
        if effect == "breaks" and is_over:
            self._over(ended=False)
            current = None
        if effect == "breaks" and current is None:
            self._current = _Current(words, self._now_s())
        elif effect == "mends" and current is not None and not current.flows_again:
            current.mended_s = self._now_s()

    def told(self, event: ev.Event) -> None:
        """The service has recorded a fact."""
        match event:
            case ev.IncidentOpened():
                self._known(event.cause)
            case ev.IncidentClosed() if event.silent and self._current is not None:
                self._current.is_closed = True  # what stays silent was told; it may flow again all the same
            case ev.IncidentClosed():
                self._over(ended=True)
            case ev.LinkChanged():
                self._linked(event)
            case ev.ServiceStarted() if self._current is not None:
                self._current.mended_s = self._now_s()
            case ev.Resumed() if self._current is not None:
                self._current.flows_s = self._now_s()
            case ev.OrderChanged() if event.after in UNCERTAIN:
                self._unknown.add(event.ref)
            case _:
                pass
        self._count(event)

    def _count(self, event: ev.Event) -> None:
        match event:
            case ev.Gap() if event.lost == 0:
                self._counts["gaps"] += 1
            case ev.Resumed():
                self._counts["resumed"] += 1
            case ev.Fill(recovered=True):
                self._counts["recovered"] += 1
            case ev.PositionAdjusted() if event.cause not in DONE_BY_THE_BROKER:
                self._counts["adjusted"] += 1
            case _:
                pass

    def left(self, order_id: int, ref: str) -> None:
        """An order, or a change of one, leaves."""
        placed = self._placed.setdefault(ref, _Placed())
        placed.times += 1
        placed.ids.add(order_id)

    def asked(self, request: int, fields: list[str]) -> None:
        """Anything else leaves; fields as on the wire."""
        if request == Request.MKT_DATA:
            contract = fields[CON_ID_FIELD]
            given_back_s = self._lines.get(contract, -AGAIN_WITHIN_S)
            if given_back_s is None or self._now_s() - given_back_s < AGAIN_WITHIN_S:
                self._counts["resubscribed"] += 1
            self._lines[contract] = None
            self._contract_of[fields[REQUEST_FIELD]] = contract
        elif request == Request.CANCEL_MKT_DATA:
            contract = self._contract_of.pop(fields[REQUEST_FIELD], "")
            if contract in self._lines:
                self._lines[contract] = self._now_s()

    def _known(self, cause: str) -> None:
        if self._current is not None and self._current.is_closed:
            self._over(ended=False)
        if self._current is None:
            self._current = _Current(cause, None, left_ready=True)
        if self._current.known_s is None:
            self._current.known_s = self._now_s()

    def _linked(self, event: ev.LinkChanged) -> None:
        current = self._current
        if current is None:
            return
        if event.after is Link.READY:
            current.ready_s = self._now_s()
        elif event.before is Link.READY:
            current.left_ready = True

    def _over(self, *, ended: bool) -> None:
        current, self._current = self._current, None
        if current is None:
            return
        began_s = current.began_s
        if current.known_s is None:
            self._unnoticed += 1
            return
        mended_s = max(current.mended_s or 0.0, began_s if began_s is not None else current.known_s)
        over_s = self._now_s() if ended else current.flows_s if current.is_closed else None
        ready_s = max(0.0, current.ready_s - mended_s) if current.ready_s is not None and current.left_ready else None
        self._outages.append(
            Outage(
                cause=current.cause,
                known_s=None if began_s is None else current.known_s - began_s,
                ready_s=ready_s,
                over_s=max(0.0, over_s - mended_s) if over_s is not None else None,
            )
        )

    # --- the end -----------------------------------------------------------------------------------------------------

    def figures(self, machine: Machine, journal: Path, read_twice: int) -> Figures:
        """All of it, after the service has ended.

        Args:
            journal: its file. read_twice: how many executions a strategy has read twice.
        """
        self._over(ended=False)
        written = _Written(journal)
        ours = [e for e in machine.gateway.executions if e.order.ticket.order_ref.startswith(OURS)]
        states = {ref: order.state for ref, order in machine.app.book.orders.items()}
        resolved = sum(states.get(ref, OrderState.UNKNOWN) not in UNCERTAIN for ref in self._unknown)
        return Figures(
            outages=tuple(self._outages),
            unnoticed=self._unnoticed,
            gaps=self._counts["gaps"],
            resumed=self._counts["resumed"],
            resubscribed=self._counts["resubscribed"],
            orders=len(self._placed),
            unknown=len(self._unknown),
            resolved=resolved,
            fills=len(ours),
            recovered=self._counts["recovered"],
            adjusted=self._counts["adjusted"],
            doubled=self._doubled(written) + read_twice,
            lost=_lost(machine, written),
        )

    def _doubled(self, written: _Written) -> int:
        """Orders that left more often than they and their changes are in the journal, and fills that it has twice."""
        orders = 0
        for ref, placed in self._placed.items():
            orders += max(0, placed.times - written.submitted[ref] - written.modified[ref]) + len(placed.ids) - 1
        return orders + sum(times - 1 for times in written.fills.values())


class _Written:
    """What the journal's file says of orders and fills."""

    def __init__(self, path: Path) -> None:
        self.submitted: Counter[str] = Counter()
        self.modified: Counter[str] = Counter()
        self.fills: Counter[str] = Counter()
        self.adjusted: dict[int, Decimal] = {}
        decoder = msgspec.json.Decoder(ev.Event)
        kinds = "'OrderSubmitted', 'ModificationRequested', 'Fill', 'PositionAdjusted'"
        with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
            for (body,) in database.execute(f"SELECT body FROM journal WHERE kind IN ({kinds}) ORDER BY seq"):  # noqa: S608 - our own words
                self._take(decoder.decode(body))

    def _take(self, event: ev.Event) -> None:
        match event:
            case ev.OrderSubmitted():
                self.submitted[event.ref] += 1
            case ev.ModificationRequested():
                self.modified[event.ref] += 1
            case ev.Fill():
                self.fills[event.exec_id] += 1
            case ev.PositionAdjusted() if event.cause not in DONE_BY_THE_BROKER:
                before = self.adjusted.get(event.con_id, Decimal(0))
                self.adjusted[event.con_id] = before + event.after - event.before
            case _:
                pass


def _lost(machine: Machine, written: _Written) -> int:
    """Orders at the broker that the journal does not have, and executions that are neither told nor adjusted."""
    exchange = machine.gateway.exchange
    orders = {o.ticket.order_ref for o in exchange.orders.values() if o.ticket.order_ref.startswith(OURS)}
    lost = sum(ref not in written.submitted for ref in orders)
    reportable = {execution.exec_id for execution in exchange.executions_today()}
    untold: dict[int, list[Decimal]] = {}
    for execution in machine.gateway.executions:
        if execution.contract is None or execution.exec_id in written.fills:
            continue  # of a combination the legs are what changes hands
        if execution.exec_id in reportable and execution.order.ticket.order_ref.startswith(OURS):
            lost += 1
            continue
        signed = execution.shares if execution.side == "BOT" else -execution.shares
        untold.setdefault(execution.contract.con_id, []).append(signed)
    for con_id, quantities in untold.items():
        if sum(quantities) != written.adjusted.get(con_id, Decimal(0)):
            lost += len(quantities)
    return lost
