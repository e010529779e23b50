"""The two ends of a connection in memory, and the two pipes between them.

A byte passes through three places in its pipe:

    write() ─▶ outbox ──────────────▶ wire ──────────▶ inbox ─▶ data_received()
               the sender's write     in flight        arrived, not yet read
               buffer                                  (the reader pauses)

Wire and inbox together hold at most `WINDOW_BYTES`, as two kernels do; a reader that pauses therefore fills the
sender's write buffer, and `pause_writing()` follows, as it does over TCP. The ends of the stream travel behind the
bytes, and a byte that reaches a closed end is answered by a reset.

What the weather is like (latency, a frozen port, split chunks) is asked of `Conditions`; see `network.py`.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
from asyncio.transports import _FlowControlMixin
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, Protocol

WINDOW_BYTES = 64 * 1024  # what both kernels hold between two processes before the writer has to keep the rest

Bytes = bytes | bytearray | memoryview


class Conditions(Protocol):
    """What a pipe asks of the network around it."""

    loop: asyncio.AbstractEventLoop
    latency_s: float
    chunk_bytes: int

    def is_frozen(self, port: int) -> bool:
        """Tell whether bytes of `port` stand still."""

    def arrival_s(self) -> float:
        """Loop time at which what is sent now arrives."""


class MemoryTransport(_FlowControlMixin):
    """One end of a connection, with the manners of asyncio's socket transport.

    `_FlowControlMixin` is what asyncio's own transports use for `pause_writing` and the water marks; taking it means
    that the marks behave alike. There is no socket: `get_extra_info("socket")` is None.
    """

    # Of _FlowControlMixin; typeshed does not tell.
    _maybe_pause_protocol: Callable[[], None]
    _maybe_resume_protocol: Callable[[], None]
    _protocol_paused: bool

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        out: Pipe,
        into: Pipe,
        context: contextvars.Context,
        sockname: tuple[str, int],
        peername: tuple[str, int],
    ) -> None:
        super().__init__({"sockname": sockname, "peername": peername}, loop)
        self.context = context
        self.lost = False
        self._loop = loop
        self._out, self._in = out, into
        out.sender = into.receiver = self
        self._protocol: Any = None  # Protocol and StreamReaderProtocol share no useful type
        self._reading = False
        self._closing = False
        self._eof_written = False
        self._farewells: list[Callable[[MemoryTransport], None]] = []

    def __repr__(self) -> str:
        state = "lost" if self.lost else "closing" if self._closing else "open"
        return f"<MemoryTransport {self.get_extra_info('sockname')} → {self.get_extra_info('peername')} {state}>"

    # --- opening and protocol ----------------------------------------------------------------------------------------

    def open(self, protocol: asyncio.BaseProtocol) -> asyncio.Future[None]:
        """Marry the protocol: `connection_made` next, then bytes may come. The future is done after that."""
        opened = self._loop.create_future()
        self._protocol = protocol
        for step in (lambda: protocol.connection_made(self), self._begin_reading, lambda: _finish(opened)):
            self._loop.call_soon(step, context=self.context)
        return opened

    def when_lost(self, farewell: Callable[[MemoryTransport], None]) -> None:
        """Have `farewell(self)` called after `connection_lost`."""
        self._farewells.append(farewell)

    def get_protocol(self) -> asyncio.BaseProtocol:
        """The protocol that bytes go to."""
        protocol: asyncio.BaseProtocol = self._protocol
        return protocol

    def set_protocol(self, protocol: asyncio.BaseProtocol) -> None:
        """Let another protocol take over."""
        self._protocol = protocol

    # --- reading -----------------------------------------------------------------------------------------------------

    def is_reading(self) -> bool:
        """Tell whether bytes are being handed to the protocol."""
        return self._reading and not self._closing

    def pause_reading(self) -> None:
        """Leave what arrives in the inbox; when the window is full, the sender has to wait."""
        self._reading = False

    def resume_reading(self) -> None:
        """Undo `pause_reading`."""
        self._begin_reading()

    def receive(self, data: bytes) -> None:
        """Hand bytes to the protocol; one that raises loses its connection, as over TCP."""
        self._call("data_received", data)

    def receive_eof(self) -> None:
        """Tell the protocol that the peer will send no more; unless it wants to go on writing, close."""
        if not self._call("eof_received"):
            self.close()

    # --- writing -----------------------------------------------------------------------------------------------------

    def write(self, data: Bytes) -> None:
        """Send bytes; what the window has no room for waits in the write buffer. Ignored once closing."""
        if not isinstance(data, bytes | bytearray | memoryview):
            raise TypeError(f"data argument must be a bytes-like object, not {type(data).__name__!r}")
        if self._eof_written:
            raise RuntimeError("Cannot call write() after write_eof()")
        if data and not self._closing:
            self._out.send(data)
            self._maybe_pause_protocol()

    def writelines(self, list_of_data: Iterable[Bytes]) -> None:
        """Send several pieces as one."""
        self.write(b"".join(list_of_data))

    def can_write_eof(self) -> bool:
        """Half-closing works."""
        return True

    def write_eof(self) -> None:
        """Close the writing half after what is buffered; reading goes on."""
        if not self._closing:
            self._eof_written = True
            self._out.end()

    def get_write_buffer_size(self) -> int:
        """Bytes that were written and are not on the wire yet."""
        return len(self._out.outbox)

    def awaits_drain(self) -> bool:
        """Tell whether somebody wants to know that the write buffer has shrunk."""
        return self._protocol_paused or self._closing

    def drained(self) -> None:
        """Hear from the pipe that the write buffer has shrunk."""
        self._maybe_resume_protocol()
        if self._closing and not self._out.outbox:
            self.lose(None)

    # --- closing -----------------------------------------------------------------------------------------------------

    def is_closing(self) -> bool:
        """Tell whether the transport is closing or closed."""
        return self._closing

    def close(self) -> None:
        """Read no more, flush, then `connection_lost(None)`; with unsent bytes on a frozen line that is never."""
        if self._closing:
            return
        self._closing = True
        self._out.end()
        if not self._out.outbox:
            self.lose(None)

    def abort(self) -> None:
        """Close at once: unsent bytes are dropped; the peer sees the end as soon as the line lets it."""
        self.lose(None)

    def lose(self, exc: Exception | None) -> None:
        """End this side: `connection_lost(exc)` is called soon, and once."""
        if self.lost:
            return
        self.lost = self._closing = True
        self._out.outbox.clear()
        self._out.end()
        self._in.wake()
        self._loop.call_soon(self._connection_lost, exc, context=self.context)

    def _begin_reading(self) -> None:
        self._reading = True
        self._in.wake()

    def _connection_lost(self, exc: Exception | None) -> None:
        try:
            if self._protocol is not None:
                self._protocol.connection_lost(exc)
        finally:
            for farewell in self._farewells:
                farewell(self)

    def _call(self, method: str, *args: bytes) -> object:
        try:
            return getattr(self._protocol, method)(*args)
        except (SystemExit, KeyboardInterrupt):
            raise
        except BaseException as exc:  # noqa: BLE001  # CancelledError included: so does asyncio's own transport
            message = f"Fatal error: protocol.{method}() call failed."
            context = {"message": message, "exception": exc, "transport": self, "protocol": self._protocol}
            self._loop.call_exception_handler(context)
            self.lose(exc if isinstance(exc, Exception) else None)
            return None


class Pipe:
    """One direction of a connection. `sender` and `receiver` are set by the two transports."""

    sender: MemoryTransport
    receiver: MemoryTransport

    def __init__(self, network: Conditions, port: int) -> None:
        self.outbox = bytearray()
        self._network = network
        self._port = port
        self._wire: deque[_Segment] = deque()
        self._wire_bytes = 0
        self._inbox = bytearray()
        self._ending = False  # the sender has written its last byte
        self._end_sent = False
        self._end_arrived = False
        self._awake = False  # a delivery is scheduled

    def send(self, data: Bytes) -> None:
        """Take bytes from the sender."""
        room = WINDOW_BYTES - len(self._inbox) - self._wire_bytes
        if not self.outbox and len(data) <= room and not self._network.is_frozen(self._port):
            self._launch(data)  # as most do; nothing waits, nothing is split
            return
        self.outbox += data
        self._pump()

    def end(self) -> None:
        """Send the end of the stream after the bytes that still wait."""
        self._ending = True
        self._pump()

    def thaw(self) -> None:
        """Send on its way again what a frozen line has held."""
        if self._wire:
            held = list(self._wire)
            self._wire.clear()
            self._wire_bytes = 0
            for segment in held:
                self._launch(bytes(segment.data), last=segment.last)
        self._pump()

    def wake(self) -> None:
        """Deliver soon, in the receiver's own context and never inside somebody else's call."""
        if not self._awake:
            self._awake = True
            self._network.loop.call_soon(self._deliver, context=self.receiver.context)

    def _pump(self) -> None:
        if self._network.is_frozen(self._port):
            return
        room = WINDOW_BYTES - len(self._inbox) - self._wire_bytes
        if self.outbox and room > 0:
            self._launch(bytes(self.outbox[:room]))
            del self.outbox[:room]
            if self.sender.awaits_drain():
                self._network.loop.call_soon(self.sender.drained, context=self.sender.context)
        if self._ending and not self._end_sent and not self.outbox:
            self._end_sent = True
            self._launch(b"", last=True)

    def _launch(self, data: Bytes, *, last: bool = False) -> None:
        arrival_s = self._network.arrival_s()
        self._wire_bytes += len(data)
        if self._wire and self._wire[-1].arrival_s >= arrival_s:  # same instant, or a latency that was lowered
            self._wire[-1].data += data
            self._wire[-1].last |= last
            return
        self._wire.append(_Segment(arrival_s, bytearray(data), last))
        self._network.loop.call_at(arrival_s, self._arrive, context=self.receiver.context)

    def _arrive(self) -> None:
        if self._network.is_frozen(self._port):
            return
        while self._wire and self._wire[0].arrival_s <= self._network.loop.time():
            segment = self._wire.popleft()
            self._wire_bytes -= len(segment.data)
            self._inbox += segment.data
            self._end_arrived |= segment.last
        if not self._awake:
            self._deliver()  # the loop has called us, in the receiver's context: there is nobody to wait for

    def _deliver(self) -> None:
        self._awake = False
        if self.receiver.lost:
            self._bounce()
        elif not self.receiver.is_reading():
            return
        elif self._inbox:
            chunk = bytes(self._inbox[: self._network.chunk_bytes])
            del self._inbox[: len(chunk)]
            if self.outbox or self._ending:
                self._pump()
            self.receiver.receive(chunk)
            if self._inbox or self._end_arrived:
                self.wake()
        elif self._end_arrived:
            self._end_arrived = False
            self.receiver.receive_eof()

    def _bounce(self) -> None:
        """Bytes for a closed end are answered by a reset, as TCP does."""
        if self._inbox:
            self._inbox.clear()
            self._network.loop.call_later(self._network.latency_s, self._reset_sender, context=self.sender.context)

    def _reset_sender(self) -> None:
        if not self._network.is_frozen(self._port):
            self.sender.lose(reset_by_peer())


@dataclass(slots=True)
class _Segment:
    arrival_s: float
    data: bytearray
    last: bool


def reset_by_peer() -> ConnectionResetError:
    """Say what TCP says when the other end is gone."""
    return ConnectionResetError(errno.ECONNRESET, "Connection reset by peer")


def _finish(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
