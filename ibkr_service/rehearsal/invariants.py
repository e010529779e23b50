"""What must hold whatever happens, watched from outside while a rehearsal runs.

Nothing here asks the service whether it is right. Orders are judged as their bytes pass the socket, against the journal
as a second connection reads it from the file; readiness is what the gateway's own bytes have shown; quotes are judged
where a strategy reads them. What must be true at the end is in `closing.py`.
"""

from __future__ import annotations

import asyncio
import json
import math
import sqlite3
from collections import defaultdict, deque
from dataclasses import dataclass
from typing import NamedTuple

from ibkr_service import ahead
from ibkr_service.core import events as ev
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.rehearsal.askers import ASKER
from ibkr_service.rehearsal.machine import Machine
from ibkr_service.rehearsal.tally import Tally
from ibkr_service.rehearsal.timeline import Timeline
from ibkr_service.rehearsal.traders import NAME
from ibkr_service.rehearsal.wiretap import REF_PARTS, Line
from ibkr_service.sim.faults import Effect
from ibkr_service.sim.messages import Request
from ibkr_service.sim.orders import Order

INVARIANTS: dict[str, str] = {
    "journal first": "every intent is in the journal before it is on the wire",
    "once": "nothing is sent twice, no order id has two orders, and a wish is one order",
    "ready only": "no new or modified order leaves unless the account was shown in full and IB is there",
    "cancel soon": "a wanted cancel leaves as soon as it can",
    "recovers": "the service goes on, and is READY within a bound after the faults have stopped",
    "agrees": "after the faults have stopped, book = ledger = gateway within a bound",
    "fills": "every fill that the broker can still report is told exactly once; the rest is announced as adjusted",
    "gaps": "every gap of a quote is announced before the quote goes on",
    "quotes": "after the faults have stopped, every watched quote flows again",
    "lines": "no market-data line and no connection is leaked",
    "incidents": "an outage is told once when it begins and once when it is over",
    "queues": "queues stay within their bounds",
    "storms": "no cancel and no look at the account is repeated without end",
    "tasks": "no task is left without an owner, and no exception unseen",
    "strategies": "what a strategy asks for is answered with a result or an error of ours",
    "ends": "a service that cannot be right ends by itself, with its exit code, before any order has left",
    "same journal": "the same seed gives the same journal, in every process",
    "substance": "a rehearsal has enough orders, spreads among them",
}

BEAT_S = 5.0  # how often what should not last is looked at
CANCEL_WITHIN_S = 5.0
STORM_S, STORM_MAX = 300.0, 120  # a look follows each doubt, so some in a minute are honest
SURPLUS_BEATS_MAX = 4
PACER_MAX = 1_000
UNSAVED_MAX = 20_000
MOMENT_S = 1e-6


@dataclass(frozen=True)
class Breach:
    """Something that must not be. `at_s`: virtual seconds."""

    at_s: float
    invariant: str
    text: str

    def __str__(self) -> str:
        return f"{self.at_s:9.3f} s  {self.invariant}: {self.text}"


class Recorded(NamedTuple):
    """A fill that the service recorded: when, in which life, and how many readers had begun by then."""

    at_s: float
    life: int
    exec_id: str
    ref: str
    readers: int


class Reader:
    """What a strategy has read, in one life of it; judges its stream of quotes."""

    def __init__(self, name: str, life: int, watch: Watch) -> None:
        self.name = name
        self.life = life
        self.ended_s = math.inf
        self.fills: list[str] = []
        self.watched: dict[AnyInstrument, None] = {}
        self._watch = watch
        self._last_s: dict[AnyInstrument, float] = {}
        self._in_gap: set[AnyInstrument] = set()
        self._gap_told: set[AnyInstrument] = set()  # since the last quote

    def forget(self, instrument: AnyInstrument) -> None:
        """It is not watched any more: what comes later begins anew."""
        self.watched.pop(instrument, None)
        self._last_s.pop(instrument, None)
        self._in_gap.discard(instrument)
        self._gap_told.discard(instrument)

    def read(self, event: ev.Event) -> None:
        """The strategy reads an event."""
        match event:
            case ev.Tick():
                self._tick(event)
            case ev.Gap():
                self._in_gap.add(event.instrument)
                self._gap_told.add(event.instrument)
            case ev.Resumed():
                self._in_gap.discard(event.instrument)
            case ev.Fill():
                if event.exec_id in self.fills:
                    self._watch.read_twice += 1
                    self._watch.breach("fills", f"{self.name} reads execution {event.exec_id} twice")
                self.fills.append(event.exec_id)
            case _:
                pass
        if not isinstance(event, ev.Tick):
            self._watch.timeline.strategy(self.name, event)

    def _tick(self, tick: ev.Tick) -> None:
        instrument = tick.instrument
        if instrument in self._in_gap:
            self._watch.breach("gaps", f"{self.name} reads a quote of {instrument} inside a gap")
        before_s = self._last_s.get(instrument)
        if before_s is not None and instrument not in self._gap_told:
            for at_s, why in reversed(self._watch.outages):
                if at_s <= before_s:
                    break
                if at_s < tick.mono_s:
                    text = f"{self.name} reads quotes of {instrument} over an outage ({why} at {at_s:.3f} s)"
                    self._watch.breach("gaps", f"{text} without a gap")
                    break
        self._last_s[instrument] = tick.mono_s
        self._gap_told.discard(instrument)


class Watch:
    """The invariants that are watched continuously; a `wiretap.Listener`."""

    def __init__(self, timeline: Timeline, tally: Tally) -> None:
        self.timeline = timeline
        self.tally = tally
        self.breaches: list[Breach] = []
        self.outages: list[tuple[float, str]] = []
        self.readers: list[Reader] = []
        self.placed: dict[str, int] = {}  # reference -> how often it left
        self.wishes: defaultdict[str, dict[str, str]] = defaultdict(dict)  # wish -> reference -> key
        self.cancels_wanted: dict[str, float] = {}
        self.fills_recorded: list[Recorded] = []
        self.disk_failed_in: set[int] = set()  # lives in which the journal refused writes
        self.connections = 0
        self.read_twice = 0  # executions, by a strategy in one life of it
        self.ends: int | None = None  # the exit code with which the service has to end by itself
        self.counts_lines = True  # all lines are of strategies that only watch
        self._surplus_beats = 0
        self._machine: Machine | None = None
        self._journal: sqlite3.Connection | None = None
        self._ref_of: dict[int, str] = {}  # order id -> reference
        self._twice: set[object] = set()  # lines that were doubled at the last beat
        self._times: defaultdict[str, deque[float]] = defaultdict(deque)
        self._occasions: defaultdict[str, list[asyncio.Future[None]]] = defaultdict(list)

    # --- the rehearsal's side ----------------------------------------------------------------------------------------

    @property
    def machine(self) -> Machine:
        """The world that is watched."""
        assert self._machine is not None, "the watch has begun"
        return self._machine

    def begin(self, machine: Machine) -> None:
        """From now on watch this world."""
        self._machine = machine
        machine.loop.listener = self

    def end(self) -> None:
        """Watch no more."""
        self.machine.loop.listener = None
        if self._journal is not None:
            self._journal.close()

    def breach(self, invariant: str, text: str) -> None:
        """Something is not as it must be; said once."""
        assert invariant in INVARIANTS, f"{invariant} is an invariant"
        now_s = self.machine.loop.time()
        if not any((known.invariant, known.text) == (invariant, text) for known in self.breaches):
            self.breaches.append(Breach(now_s, invariant, text))
            self.timeline.breach(invariant, text)

    def occasion(self, name: str) -> asyncio.Future[None]:
        """The next time that this happens; done in the instant in which it does."""
        waiting = self.machine.loop.create_future()
        self._occasions[name].append(waiting)
        return waiting

    def struck(self, words: str, effect: Effect) -> None:
        """A misfortune happens at the gateway, or ends."""
        self.tally.struck(words, effect)
        self.timeline.gateway(words)

    def _happens(self, name: str) -> None:
        for waiting in self._occasions.pop(name, ()):
            if not waiting.done():
                waiting.set_result(None)

    # --- what passes the socket --------------------------------------------------------------------------------------

    def opened(self, line: Line) -> None:
        """The service has a new connection."""
        self.connections += 1
        self.timeline.wire(f"connection {line.number} opened")
        self._happens("connect")

    def placing(self, line: Line, order_id: int, ref: str, fields: list[str]) -> None:
        """A new or changed order is about to leave."""
        del fields
        if not line.may_place:
            why = "IB is cut off" if line.is_cut else "the connection is lost" if line.is_lost else "not yet verified"
            self.breach("ready only", f"{ref} leaves while {why}")
        self.tally.left(order_id, ref)
        before = self.placed.get(ref, 0)
        self.placed[ref] = before + 1
        submitted, modified, wish = self._journalled(ref)
        if submitted == 0:
            self.breach("journal first", f"{ref} leaves and is not in the journal")
        elif submitted > 1:
            self.breach("once", f"{ref} is in the journal {submitted} times")
        if before > modified:
            invariant = "journal first" if before == 1 and modified else "once"
            self.breach(invariant, f"{ref} leaves for the {before + 1}. time, with {modified} changes in the journal")
        if self._ref_of.setdefault(order_id, ref) != ref:
            self.breach("once", f"{ref} leaves under id {order_id}, which {self._ref_of[order_id]} has")
        if not before and wish is not None:
            self._check_wish(ref, *wish)
        self.timeline.wire(f"{ref} leaves as order {order_id}{' again' if before else ''}")
        self._happens("order")

    def _journalled(self, ref: str) -> tuple[int, int, tuple[str, str] | None]:
        """How often the journal's file has this order, how many changes of it, and its strategy and key."""
        if self._journal is None:
            path = self.machine.config.folder / "journal.sqlite"
            self._journal = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        submitted, modified, wish = 0, 0, None
        rows = self._journal.execute(
            "SELECT kind, json_extract(body, '$.strategy'), json_extract(body, '$.key') FROM journal"
            " WHERE ref = ? AND kind IN ('OrderSubmitted', 'ModificationRequested')",
            (ref,),
        ).fetchall()
        (last,) = self._journal.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()
        for _, body in ahead.lines(self.machine.config.folder / "journal.sqlite", last):
            fact = json.loads(body)
            if fact["ref"] == ref:
                rows.append((fact["kind"], fact.get("strategy"), fact.get("key")))
        for kind, strategy, key in rows:
            if kind == "OrderSubmitted":
                submitted, wish = submitted + 1, (strategy, key)
            else:
                modified += 1
        return submitted, modified, wish

    def _check_wish(self, ref: str, strategy: str, key: str) -> None:
        """A key is one order; and a wish that is said under a new key has nothing left of the earlier one."""
        wish, _, attempt = key.partition("/")
        attempt = attempt.partition("/")[0]
        name = f"{strategy}:{wish}"
        for other, (other_key) in self.wishes[name].items():
            if other_key == key:
                self.breach("once", f"{ref} and {other} stand for one key, {key}")
            elif attempt and other_key.partition("/")[2].partition("/")[0] != attempt:
                theirs = self.order_of(other)
                if theirs is not None and (not theirs.status.is_done or theirs.filled):
                    was = f"{theirs.status.value}, {theirs.filled} filled"
                    self.breach("once", f"{ref} replaces {other}, which is {was} at the broker")
        self.wishes[name][ref] = key

    def strategy_of(self, ref: str) -> str:
        """Whose order it is, as its reference says."""
        parts = ref.split(".")
        return parts[3] if len(parts) == REF_PARTS else ""

    def order_of(self, ref: str) -> Order | None:
        """The gateway's order of this reference."""
        for order in reversed(self.machine.gateway.exchange.orders.values()):
            if order.ticket.order_ref == ref:
                return order
        return None

    def asked(self, line: Line, request: int, fields: list[str]) -> None:
        """Anything else leaves."""
        self.tally.asked(request, fields)
        if request == Request.POSITIONS:
            self._count("looks at the account")
            self._happens("sync")
        elif request == Request.CANCEL_ORDER:
            self._count(f"cancels of order {fields[2]} on connection {line.number}")
            self._happens("cancel")

    def _count(self, what: str) -> None:
        times = self._times[what]
        times.append(self.machine.loop.time())
        while times[0] < times[-1] - STORM_S:
            times.popleft()
        if len(times) > STORM_MAX:
            self.breach("storms", f"more than {STORM_MAX} {what} within {STORM_S:g} s")

    def doubted(self, line: Line, why: str) -> None:
        """The line is in doubt: quotes have a gap, unless only IB's return is told."""
        if why != "data kept":
            self.outages.append((self.machine.loop.time(), why))
        self.timeline.wire(f"connection {line.number}: {why}")

    # --- what the service records, and strategies read ----------------------------------------------------------------

    def told(self, event: ev.Event) -> None:
        """The service has recorded an event."""
        if isinstance(event, ev.Tick):
            return
        self.tally.told(event)
        match event:
            case ev.CancelRequested():
                self.cancels_wanted.setdefault(event.ref, self.machine.loop.time())
            case ev.ServiceStarted() if self.machine.lives - 1 in self.disk_failed_in:
                # Of a wish that only memory held nobody knows any more; what the journal has is still wanted.
                orders = self.machine.app.book.orders
                self.cancels_wanted = {
                    ref: at_s
                    for ref, at_s in self.cancels_wanted.items()
                    if ref in orders and orders[ref].cancel_wanted
                }
            case ev.Fill():
                now_s, life = self.machine.loop.time(), self.machine.lives
                self.fills_recorded.append(Recorded(now_s, life, event.exec_id, event.ref, len(self.readers)))
                self._happens("fill")
            case ev.StrategyStopped(how="overrun"):
                self.breach("queues", f"strategy {event.name} is overrun")
            case ev.StrategyStopped(name=str(name), how="failed" | "exited" | "stuck" | "held_loop") if name in {
                NAME,
                ASKER,
            }:
                self.breach("strategies", f"strategy {name} {event.how}: {event.detail}")
            case ev.QuarantineBegan():
                self.breach("agrees", f"the account is quarantined: {event.why}")
            case _:
                pass
        self.timeline.service(event)

    # --- now and then ------------------------------------------------------------------------------------------------

    async def beat(self) -> None:
        """Look, again and again, at what may be so for a moment, but must not stay so."""
        while True:
            await asyncio.sleep(BEAT_S)
            self.look()

    def look(self) -> None:
        """Cancels, lines and queues as they are now."""
        machine = self.machine
        if machine.is_up and machine.has_ended and self.ends is None:
            self.breach("recovers", "the service ended, and nobody had asked it to")
        line = machine.loop.lines[-1] if machine.loop.lines else None
        if line is not None and line.may_place and machine.is_up:
            self._look_at_cancels(line)
            self._look_at_lines()
        self._look_at_queues()

    def _look_at_cancels(self, line: Line) -> None:
        now_s = self.machine.loop.time()
        assert line.verified_s is not None, "an order may leave on it"
        if now_s - line.verified_s < CANCEL_WITHIN_S:
            return
        for order in self.machine.gateway.open_orders:
            wanted_s = self.cancels_wanted.get(order.ticket.order_ref)
            known_s = line.orders.get(order.ticket.order_id)
            if wanted_s is None or known_s is None or now_s - max(wanted_s, known_s) < CANCEL_WITHIN_S:
                continue
            if line.cancels.get(order.ticket.order_id, -1.0) < wanted_s - MOMENT_S:
                late_s = now_s - max(wanted_s, known_s, line.verified_s)
                self.breach("cancel soon", f"{order.ticket.order_ref} is to be cancelled, but not for {late_s:.0f} s")

    def _look_at_lines(self) -> None:
        seen: set[object] = set()
        twice: set[object] = set()
        names: dict[object, object] = {}
        for session in self.machine.gateway.sessions:
            if session.client_id != self.machine.client_id:
                continue
            for stream in session.streams.values():
                if stream.is_market_data:
                    instrument = getattr(stream, "_instrument", None)
                    key = getattr(instrument, "key", None)
                    (twice if key in seen else seen).add(key)
                    names[key] = getattr(instrument, "local_symbol", instrument)
        for key in twice & self._twice:
            self.breach("lines", f"two market-data lines for {names[key]}")
        self._twice = twice
        if self.counts_lines:
            is_deaf = any(session.is_deaf for session in self.machine.gateway.sessions)  # to cancels, too
            surplus = 0 if is_deaf else self.lines_open() - len(self.wanted())
            self._surplus_beats = self._surplus_beats + 1 if surplus > 0 else 0
            if self._surplus_beats > SURPLUS_BEATS_MAX:
                self.breach("lines", f"{surplus} more market-data lines are open than are watched")

    def wanted(self) -> list[AnyInstrument]:
        """What the strategies of this life watch."""
        life = self.machine.lives
        return list(dict.fromkeys(i for reader in self.readers if reader.life == life for i in reader.watched))

    def lines_open(self) -> int:
        """How many market-data lines the gateway serves."""
        sessions = self.machine.gateway.sessions
        return sum(stream.is_market_data for session in sessions for stream in session.streams.values())

    def _look_at_queues(self) -> None:
        app = self.machine.app
        if app.inbox.peak > 2 * app.config.inbox_max:
            self.breach("queues", f"the inbox held {app.inbox.peak} events")
        if len(app.hub.unsaved) > UNSAVED_MAX:
            self.breach("queues", f"{len(app.hub.unsaved)} facts wait for the disk")
        connection = app.session._connection  # noqa: SLF001 - its queue is nowhere else
        if connection is not None and len(connection.ib.client.pacer) > PACER_MAX:
            self.breach("queues", f"{len(connection.ib.client.pacer)} messages wait to leave")
