"""A recorded gateway: it says again what it said, at the same moments, whatever it is told.

It stands where the network stands in a rehearsal: the service connects through the loop, gets the recorded outcome, and
hears the recorded bytes. What was recorded after the service had sent something waits until it has sent it here, too,
for a while (`GRACE_S`); then the replay goes its own way, which is said.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import math
from collections import defaultdict, deque
from collections.abc import Callable

import msgspec

from ibkr_service.core.recording import Kind, Record, Recording
from ibkr_service.rehearsal.lineup import Difference, Lineup, Numbers
from ibkr_service.sim.network import Network, ProtocolFactory
from ibkr_service.sim.transport import Bytes, MemoryTransport, Pipe, reset_by_peer

GRACE_S = 1.0
EARLY_S = 0.1  # an attempt to connect this long before the recorded one is another one
PATIENCE_S = 120.0  # how long an accepted connection waits for somebody to come
MOMENT_S = 1e-6  # between two things of a recording in real time, so that what follows from the first has followed
ARMED_S = 0.0002  # before its moment, as a byte that travels: what the service had set for the same moment goes first
OF_CONNECTIONS = frozenset({Kind.OPENED, Kind.REFUSED, Kind.IN, Kind.EOF, Kind.LOST})
PLAYED = OF_CONNECTIONS | {Kind.OPERATOR, Kind.STOP}


class ScriptedNetwork(Network):
    """The network of a loop on which a recording is replayed."""

    def __init__(self, loop: asyncio.AbstractEventLoop, script: Script) -> None:
        super().__init__(loop)
        self._script = script

    async def connect(
        self, factory: ProtocolFactory, host: str, port: int
    ) -> tuple[MemoryTransport, asyncio.BaseProtocol]:
        """The recorded outcome of this attempt, at its moment."""
        line = self._script.attempt()
        transport = MemoryTransport(
            self.loop,
            _Heard(self, port, line),
            _Fed(self, port, self._script),
            contextvars.copy_context(),
            (host, line.number),
            (host, port),
        )
        made: list[asyncio.BaseProtocol] = []

        def open_() -> None:
            """As `MemoryTransport.open`, without a turn of the loop between its end and that of this attempt."""
            made.append(factory())
            transport.set_protocol(made[0])
            for step in (lambda: made[0].connection_made(transport), transport.resume_reading, line.is_open):
                self.loop.call_soon(step, context=transport.context)

        line.opens, line.prepared = open_, transport
        self._script.wake()
        await line.outcome
        return transport, made[0]


class _Heard(Pipe):
    """What the service sends."""

    def __init__(self, network: Network, port: int, line: Line) -> None:
        super().__init__(network, port)
        self._line = line

    def send(self, data: Bytes) -> None:
        self._line.sent(bytes(data))

    def end(self) -> None:
        """Nobody is told."""


class _Fed(Pipe):
    """What the service hears; it is handed over by the script."""

    def __init__(self, network: Network, port: int, script: Script) -> None:
        super().__init__(network, port)
        self._script = script

    def wake(self) -> None:
        self._script.wake()


class Line:
    """One attempt to connect, as recorded and as it goes now."""

    def __init__(self, number: int, lineup: Lineup, script: Script) -> None:
        self.number = number
        self.lineup = lineup
        self.transport: MemoryTransport | None = None  # once it is open
        self.prepared: MemoryTransport | None = None
        self.opens: Callable[[], None] | None = None
        self.outcome: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.is_given_up = False
        self._script = script

    def open(self) -> None:
        """The gateway accepts."""
        if self.opens is None or self.outcome.done():
            return
        self.transport = self.prepared
        self.opens()

    def is_open(self) -> None:
        """The service may go on."""
        if not self.outcome.done():
            self.outcome.set_result(None)

    def sent(self, data: bytes) -> None:
        """The service sends bytes."""
        if not self._script.is_over:
            self.lineup.sent(data)
            self._script.wake()

    @property
    def is_reading(self) -> bool:
        """Whether the service takes bytes now."""
        return self.transport is not None and self.transport.is_reading()

    @property
    def is_closed(self) -> bool:
        """Whether the service has ended it, or has not waited for it."""
        if self.is_given_up or self.outcome.cancelled():
            return True
        return self.transport is not None and self.transport.is_closing()


class Script:
    """Plays the records of a recording.

    Args:
        differs: is told each difference of the outbound side. tells: is told in words what the gateway does.
        acts: does what is no business of the network: the operator's word, the stop.
    """

    def __init__(
        self,
        recording: Recording,
        *,
        differs: Callable[[Difference], None],
        tells: Callable[[str], None],
        acts: Callable[[Record], None],
    ) -> None:
        self.is_over = False  # all was played; what is sent from here on has nothing to be compared with
        self.played = asyncio.Event()
        self.shift_s = 0.0  # by how much everything comes later, since the service connected later
        self._loop = asyncio.get_running_loop()
        self._is_virtual = recording.header.is_virtual
        self._differs, self._tells, self._acts = differs, tells, acts
        self._numbers = Numbers()
        self._outbound: defaultdict[int, list[tuple[int, Record]]] = defaultdict(list)
        self._steps: list[tuple[int, int, Record]] = []  # place, facts recorded before it, what it is
        self._reads: list[deque[float]] = [deque()]  # what the wall clock showed before the first step, the second …
        self._attempts: dict[int, float] = {}  # recorded: number, and when
        self._opened: set[int] = set()  # of these, those that were accepted
        self._prepare(recording.records)
        self.lines: dict[int, Line] = {}
        self._next = 1  # attempt to be made
        self.facts = 0
        self._counts_facts = True
        self._has_begun = False
        self._at = 0
        self._blocked = False
        self._is_woken = False
        self._deadline: asyncio.TimerHandle | None = None

    def _prepare(self, records: list[Record]) -> None:
        facts = 0
        for index, record in enumerate(records):
            if record.kind is Kind.FACT:
                facts += 1
            elif record.kind is Kind.READ:
                self._reads[-1].append(record.at_s)
            elif record.kind is Kind.CONNECT:
                self._attempts[record.connection] = record.at_s
            elif record.kind is Kind.OUT:
                self._outbound[record.connection].append((index, record))
            elif record.kind in PLAYED and not (record.kind is Kind.LOST and not record.data):
                if record.kind is Kind.OPENED:
                    self._opened.add(record.connection)
                self._steps.append((index, facts, record))
                self._reads.append(deque())

    # --- the service's side ------------------------------------------------------------------------------------------

    def attempt(self) -> Line:
        """The service tries to connect."""
        now_s = self._loop.time() - self.shift_s
        while self._next in self._attempts and self._is_missed(self._next, now_s):
            self._misses_attempt()
        number = self._next
        if self.is_over or self._attempts.get(number, math.inf) > now_s + EARLY_S:
            if not self.is_over:
                self._differs(Difference(self._loop.time(), number, "", "an attempt to connect, which is refused"))
            stray = Line(0, self._lineup(0), self)
            stray.outcome.set_exception(ConnectionRefusedError(errno.ECONNREFUSED, "nobody listened then"))
            return stray
        self._next += 1
        line = self.lines[number] = Line(number, self._lineup(number), self)
        return line

    def _lineup(self, number: int) -> Lineup:
        return Lineup(number, self._outbound[number], self._numbers, self._loop.time, self._differs)

    def _is_missed(self, number: int, now_s: float) -> bool:
        """Whether a recorded attempt that came to nothing was not made here."""
        return number not in self._opened and self._attempts[number] + GRACE_S < now_s

    def _misses_attempt(self) -> None:
        self._differs(Difference(self._loop.time(), self._next, "an attempt to connect", ""))
        self._next += 1

    def fact(self) -> None:
        """The service has put something on record."""
        self.facts += 1
        self.wake()

    def read(self) -> float | None:
        """What the wall clock showed at this place; None if nobody looked then."""
        reads = self._reads[self._at]
        return reads.popleft() if reads and self._has_begun else None

    def wake(self) -> None:
        """Something happened that a record may have waited for."""
        if self._blocked and not self._is_woken:
            self._is_woken = True
            if self._is_virtual:
                self._loop.call_soon(self._again)
            else:
                self._loop.call_later(MOMENT_S, self._again)

    def _again(self) -> None:
        self._is_woken = False
        if self._blocked:
            self._step()

    # --- playing -----------------------------------------------------------------------------------------------------

    def begin(self) -> None:
        """Play."""
        self._has_begun = True
        self._arm()

    def finish(self) -> None:
        """Nothing more will be sent: what has not been is missing."""
        self.is_over = True
        if self._deadline is not None:
            self._deadline.cancel()
        for line in self.lines.values():
            line.lineup.give_up()
        while self._next in self._attempts:
            self._misses_attempt()

    def _arm(self) -> None:
        if self._at == len(self._steps):
            self.played.set()
            return
        now_s, due_s = self._loop.time(), self._steps[self._at][2].at_s + self.shift_s
        if due_s - ARMED_S > now_s:
            self._loop.call_at(due_s - ARMED_S, self._set, due_s)
        elif self._is_virtual and due_s <= now_s:
            self._loop.call_soon(self._step)
        else:
            self._set(due_s if self._is_virtual else max(due_s, now_s + MOMENT_S))

    def _set(self, due_s: float) -> None:
        self._loop.call_at(due_s, self._step)

    def _step(self) -> None:
        index, facts, record = self._steps[self._at]
        if self._must_wait(index, facts, record):
            self._blocked = True
            if self._deadline is None:
                patience_s = PATIENCE_S if record.kind is Kind.OPENED else GRACE_S
                self._deadline = self._loop.call_later(patience_s, self._give_up)
            return
        self._unblock()
        self._at += 1
        if record.kind is Kind.OPENED and self._loop.time() - record.at_s > GRACE_S:
            self.shift_s = max(self.shift_s, self._loop.time() - record.at_s)
        self._play(record)
        self._arm()

    def _unblock(self) -> None:
        self._blocked = False
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _must_wait(self, index: int, facts: int, record: Record) -> bool:
        if self._counts_facts and self.facts < facts:
            return True
        if record.kind not in OF_CONNECTIONS:
            return False
        line = self.lines.get(record.connection)
        if line is None:
            return record.connection >= self._next
        if line.is_closed:
            return False
        if record.kind in {Kind.OPENED, Kind.REFUSED}:
            return line.prepared is None
        return not line.is_reading or line.lineup.lacks(index)

    def _give_up(self) -> None:
        """It has waited long enough: from here on the replay is another story."""
        self._deadline = None
        if not self._blocked:
            return
        index, facts, record = self._steps[self._at]
        if self._counts_facts and self.facts < facts:
            self._counts_facts = False
        if record.kind in OF_CONNECTIONS:
            line = self.lines.get(record.connection)
            if line is None:
                self._unblock()
                self._at += 1
                self._arm()
                return
            if line.transport is not None and not line.is_closed and not line.is_reading:
                self._deadline = self._loop.call_later(GRACE_S, self._give_up)  # the service's own brake
                return
            if line.transport is None and record.kind not in {Kind.OPENED, Kind.REFUSED}:
                line.is_given_up = True  # it was refused here, or never accepted
            line.lineup.give_up(index)
        self._step()

    def _play(self, record: Record) -> None:
        if record.kind not in OF_CONNECTIONS:
            self._acts(record)
            return
        line = self.lines.get(record.connection)
        if line is None or line.is_closed:
            return
        match record.kind:
            case Kind.OPENED:
                line.open()
            case Kind.REFUSED:
                number, text = msgspec.json.decode(record.data)
                self._tells(f"refuses connection {line.number}")
                if not line.outcome.done():
                    line.outcome.set_exception(OSError(number, text) if number else OSError(text))
            case Kind.IN:
                assert line.transport is not None, "it was waited for"
                line.transport.receive(line.lineup.translated(record.data))  # nothing, too, is a sign of life
            case Kind.EOF:
                assert line.transport is not None, "it was waited for"
                self._tells(f"closes connection {line.number}")
                line.transport.receive_eof()
            case _:
                assert line.transport is not None, "it was waited for"
                self._tells(f"connection {line.number} is lost: {record.data.decode()}")
                line.transport.lose(_error(record.data.decode()))


def _error(text: str) -> Exception:
    known = reset_by_peer()
    return known if text == str(known) else ConnectionError(text)
