"""Records a session to a file: what passes the socket, what the service puts on record, what a person asks of it.

Nothing here may harm the session. The session's side appends a tuple to a list and goes on; four times a second the
list is made into bytes, masked on the way, a little at a time, and written by a thread. A disk that is full, a file
that reached its limit, a defect in here: each ends the recording with an alarm, and the trading goes on.

`broker/` knows this by its shape alone (`broker.client.Tap`).
"""

from __future__ import annotations

import asyncio
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import msgspec
import structlog

from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.errors import RecordingUnusable
from ibkr_service.core.masking import Masks
from ibkr_service.core.recording import HELLO, Framing, Header, Kind, Record, Writer, encoded, first_line, framed

log = structlog.get_logger("ibkr_service.recorder")

FLUSH_S = 0.25  # a process that is killed loses so much of the end
SLICE = 64  # records that are made into bytes before others get a turn
WAITING_MAX = 200_000  # records that the disk may be behind
CLOSE_S = 5.0  # at the end a disk that hangs is waited for so long
LIMIT = 100_000_000  # bytes: some four million chunks, a day of fifty in a second

OF_PERSONS = frozenset({"OperatorSaid", "QuarantineEnded"})  # facts that a person stands behind

_Item = tuple[Kind, float, int, object]
_encode = msgspec.json.Encoder(order="sorted").encode


@dataclass(frozen=True)
class RecordingConfig:
    """Where a session is recorded to.

    Args:
        masked: whether account numbers are replaced. limit: bytes of the file; the recording ends there. seed: of the
        service's randomness, which a replay needs. is_virtual: whether the loop's time is.
    """

    path: Path
    masked: bool = True
    limit: int = LIMIT
    seed: int = 0
    is_virtual: bool = False


class Recorder:
    """One recording, from `begin` to `close`. None of its methods but the constructor raises.

    Raises:
        RecordingUnusable: the file is there already, or cannot be made.
    """

    def __init__(self, config: RecordingConfig, clock: Clock) -> None:
        self.config = config
        self.ended = ""  # why it ended early; empty while all is well
        self.clock = _OverheardClock(clock, self)
        self._time = asyncio.get_running_loop().time
        self._file = _create(config.path)
        self._masks = Masks(active=config.masked)
        self._writer = Writer()
        self._framings: dict[tuple[int, Kind], Framing] = {}
        self._pending: deque[_Item] = deque()
        self._put: Callable[[_Item], None] = _nowhere
        self._out = bytearray()  # encoded
        self._unwritten: deque[bytearray] = deque()  # handed to the thread
        self._writing = threading.Lock()
        self._written = 0
        self._connections = 0
        self._header: Header | None = None

    # --- what happens (called by the session; costs a microsecond) ---------------------------------------------------

    def connecting(self) -> int:
        """An attempt to connect begins; returns its number."""
        self._connections += 1
        self._put((Kind.CONNECT, self._time(), self._connections, b""))
        return self._connections

    def opened(self, number: int) -> None:
        """The connection is there."""
        self._put((Kind.OPENED, self._time(), number, b""))

    def refused(self, number: int, error: OSError) -> None:
        """There is none."""
        self._put((Kind.REFUSED, self._time(), number, _encode([error.errno or 0, error.strerror or ""])))

    def inbound(self, number: int, data: bytes) -> None:
        """Bytes have come."""
        self._put((Kind.IN, self._time(), number, data))

    def outbound(self, number: int, data: bytes) -> None:
        """Bytes leave."""
        self._put((Kind.OUT, self._time(), number, data))

    def eof(self, number: int) -> None:
        """The gateway will send no more."""
        self._put((Kind.EOF, self._time(), number, b""))

    def lost(self, number: int, error: Exception | None) -> None:
        """The connection is gone; without an error we have closed it, or the gateway has said `eof`."""
        text = "" if error is None else str(error) or type(error).__name__
        self._put((Kind.LOST, self._time(), number, text.encode()))

    def fact(self, event: ev.Event) -> None:
        """The service has put something on record."""
        if type(event) in ev.JOURNALLED:
            self._put((Kind.FACT, self._time(), 0, event))

    def read(self, moment: datetime) -> None:
        """The service has looked at the wall clock."""
        self._put((Kind.READ, 0.0, 0, moment))

    def operator(self, request: msgspec.Struct) -> None:
        """A person asks for something."""
        self._put((Kind.OPERATOR, self._time(), 0, request))

    def stopping(self, reason: str) -> None:
        """The service is asked to stop."""
        self._put((Kind.STOP, self._time(), 0, reason.encode()))

    # --- its life ----------------------------------------------------------------------------------------------------

    def begin(
        self, header: Header, accounts: Iterable[str], before: Iterable[Record], names: Iterable[str] = ()
    ) -> None:
        """Write what the session begins with; record from now on.

        Args:
            accounts, names: of persons, that are known. before: the journal and the book as they were found.
        """
        self._header = header
        try:
            self._masks.learn(account.encode() for account in accounts)
            for name in names:
                self._masks.learn_name(name.encode())
            found = [encoded(record._replace(data=self._before(record))) for record in before]
            # After the rest, which may name accounts that are no more than words here.
            self._append(first_line(header, self._masks.text))
            self._out += b"".join(found)
            self._hand_over()
            self._write()
        except Exception as exc:  # noqa: BLE001 - as everywhere here: the session must not notice
            self._end(f"it could not be begun: {exc}")
            return
        self._put = self._pending.append
        log.info("recording", path=str(self.config.path), masked=self.config.masked)

    def discard(self) -> None:
        """The service could not be built: nothing happened that could be recorded."""
        self.close()
        self.config.path.unlink(missing_ok=True)

    async def run(self) -> None:
        """Write what is recorded, until cancelled."""
        loop = asyncio.get_running_loop()
        while not self.ended:
            await asyncio.sleep(FLUSH_S)
            try:
                await self._flush(loop)
            except asyncio.CancelledError:
                raise
            except Exception as exc:  # noqa: BLE001 - same
                self._end(str(exc))

    async def _flush(self, loop: asyncio.AbstractEventLoop) -> None:
        while self._pending:
            self._encode_some()
            await asyncio.sleep(0)
        if self._out:
            self._hand_over()
            writing = loop.run_in_executor(None, self._write)
            while not writing.done():
                await asyncio.wait([writing], timeout=FLUSH_S)
                if len(self._pending) > WAITING_MAX:
                    self._end("the disk is too slow for it")
                    return
            writing.result()
        self._check_limit()

    def close(self) -> None:
        """The session is over: write what is left."""
        try:
            if not self.ended and self._header is not None:
                while self._pending:
                    self._encode_some()
                self._out += encoded(Record(Kind.END, self._time(), 0, b""))
                self._hand_over()
                self._write()
        except Exception as exc:  # noqa: BLE001 - same
            self._end(str(exc))
        self._put = _nowhere
        if self._writing.acquire(timeout=CLOSE_S):
            if self._file >= 0:
                os.close(self._file)
                self._file = -1
            self._writing.release()

    def _end(self, why: str) -> None:
        """No more of it, and everybody is to know."""
        if self.ended:
            return
        self.ended = why
        self._put = _nowhere
        self._pending.clear()
        log.error("the recording has ended, the service goes on", path=str(self.config.path), why=why)

    def _check_limit(self) -> None:
        if self._written >= self.config.limit and not self.ended:
            why = f"it has reached its limit of {self.config.limit} bytes"
            self._out += encoded(Record(Kind.END, self._time(), 0, why.encode()))
            self._hand_over()
            self._write()
            self._end(why)

    # --- bytes -------------------------------------------------------------------------------------------------------

    def _encode_some(self) -> None:
        for _ in range(min(SLICE, len(self._pending))):
            kind, at_s, number, what = self._pending.popleft()
            if isinstance(what, datetime):
                assert self._header is not None, "it was begun"
                self._out += encoded(Record(kind, (what - self._header.started_at).total_seconds(), 0, b""))
                continue
            self._out += encoded(Record(kind, at_s, number, self._contents(kind, number, what)))

    def _contents(self, kind: Kind, number: int, what: object) -> bytes:
        if kind is Kind.IN or kind is Kind.OUT:
            assert isinstance(what, bytes | bytearray), "bytes pass the socket"
            return self._passed(number, kind, bytes(what))
        if kind is Kind.FACT:
            return self._masks.fact(_encode(what))
        if kind is Kind.OPERATOR:
            name = getattr(what, "by", "")
            self._masks.learn_name(name.encode())
            return self._masks.fact(_encode(what))
        assert isinstance(what, bytes), "the rest is ready"
        if kind is Kind.LOST:
            self._framings.pop((number, Kind.IN), None)
            self._framings.pop((number, Kind.OUT), None)
        return self._masks.text(what)

    def _before(self, record: Record) -> bytes:
        """What was found in the journal, masked."""
        if record.kind is Kind.PART:
            return self._masks.packed(record.data)
        *row, body = msgspec.json.decode(record.data)
        if (by := msgspec.json.decode(body, type=_By)).kind in OF_PERSONS:
            self._masks.learn_name(by.by.encode())
        return _encode([*row, self._masks.fact(body.encode()).decode()])

    def _passed(self, number: int, kind: Kind, data: bytes) -> bytes:
        """The messages that are whole now, masked."""
        framing = self._framings.get((number, kind))
        if framing is None:
            framing = self._framings[number, kind] = Framing()
        if framing.is_lost:
            return b""
        hello = HELLO if kind is Kind.OUT and data.startswith(HELLO) else b""
        message = self._masks.message
        return hello + b"".join(framed(message(body)) for body in framing.messages(data[len(hello) :]))

    def _hand_over(self) -> None:
        self._unwritten.append(self._out)
        self._out = bytearray()

    def _write(self) -> None:
        """Write what was handed over; by the thread, or at the end, which a late thread may come after."""
        if not self._writing.acquire(timeout=CLOSE_S):
            raise TimeoutError("the disk does not answer")
        try:
            while self._unwritten:
                self._append(self._writer.block(self._unwritten.popleft()))
        finally:
            self._writing.release()

    def _append(self, data: bytes) -> None:
        view = memoryview(data)
        while view:
            done = os.write(self._file, view)
            view = view[done:]
            self._written += done


class _By(msgspec.Struct):
    """Who stands behind a fact."""

    kind: str
    by: str = ""


class _OverheardClock:
    """The wall clock; what it shows is recorded, since whoever looks may decide by it."""

    def __init__(self, clock: Clock, recorder: Recorder) -> None:
        self._now = clock.now
        self._read = recorder.read

    def now(self) -> datetime:
        """The current time in UTC."""
        moment = self._now()
        self._read(moment)
        return moment


def check_unused(path: Path) -> None:
    """See, before anything is started, that a recording can be made here.

    Raises:
        RecordingUnusable: it cannot.
    """
    if path.is_symlink() or path.exists():
        raise RecordingUnusable(f"{path} exists already, and no recording is written over: choose another name")
    if not path.absolute().parent.is_dir():
        raise RecordingUnusable(f"cannot record to {path}: there is no folder {path.parent}")


def _create(path: Path) -> int:
    """A new file for its owner alone; neither an existing one nor a link is written to."""
    try:
        return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_APPEND, 0o600)
    except FileExistsError:
        raise RecordingUnusable(
            f"{path} exists already, and no recording is written over: choose another name"
        ) from None
    except OSError as exc:
        raise RecordingUnusable(f"cannot record to {path}: {exc.strerror or exc}") from exc


def _nowhere(_item: _Item) -> None:
    """Nothing is recorded now."""
