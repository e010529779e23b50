"""What passes the service's socket, both ways, as an eavesdropper between the service and the network sees it.

Invariants are judged here and at the gateway, never by what the service says of itself. Every connection that is made
on a `TappedLoop` is the service's: the gateway only accepts.
"""

from __future__ import annotations

import asyncio
import struct
from collections.abc import Callable
from typing import Any, Protocol

from ibkr_service.sim.loop import SimLoop
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.transport import MemoryTransport

LENGTH_BYTES = 4
_length_at = struct.Struct(">I").unpack_from
HELLO = b"API\0"
CONNECTIVITY = {"1100": "lost", "2110": "lost", "1101": "data lost", "1102": "data kept"}
# With the last of these the account has been shown in full.
ENDS = frozenset(
    str(int(answer))
    for answer in (
        Answer.POSITION_END,
        Answer.OPEN_ORDER_END,
        Answer.COMPLETED_ORDERS_END,
        Answer.ACCOUNT_DOWNLOAD_END,
        Answer.EXEC_DETAILS_END,
    )
)
ERROR = str(int(Answer.ERROR))
OPEN_ORDER = str(int(Answer.OPEN_ORDER))
PLACE_ORDER = str(int(Request.PLACE_ORDER))
CANCEL_ORDER = str(int(Request.CANCEL_ORDER))
# What is looked into of all that arrives; a feed of ticks passes by.
_TELLING = frozenset(kind.encode() for kind in ENDS | {ERROR, OPEN_ORDER})
CODE_FIELD = 3  # of an error message: id, version, request, code
REF_PREFIX = "ibs."
REF_PARTS = 5


class Line:
    """One connection of the service, and what its bytes have shown so far."""

    def __init__(self, number: int, opened_s: float) -> None:
        self.number = number
        self.opened_s = opened_s
        self.is_cut = False
        self.shown: set[str] = set()  # which lists have come to their end since the line was last in doubt
        self.verified_s: float | None = None  # since when all have
        self.orders: dict[int, float] = {}  # order ids of this connection that were sent or shown on it, since when
        self.cancels: dict[int, float] = {}  # order id -> when its cancellation was last asked for
        self.is_lost = False

    @property
    def may_place(self) -> bool:
        """Whether the account was shown in full since the last doubt, and IB is there."""
        return not self.is_lost and not self.is_cut and self.verified_s is not None


class Listener(Protocol):
    """Who wants to know what passes. Called in the instant, before the bytes have any effect."""

    def opened(self, line: Line) -> None:
        """The service has a new connection."""

    def placing(self, line: Line, order_id: int, ref: str, fields: list[str]) -> None:
        """A new or changed order leaves."""

    def asked(self, line: Line, request: int, fields: list[str]) -> None:
        """Anything else leaves."""

    def doubted(self, line: Line, why: str) -> None:
        """The gateway says that IB is gone, or back; or the connection is lost."""


class TappedLoop(SimLoop):
    """A `SimLoop` whose outgoing connections are overheard by `listener`."""

    def __init__(self, *, start_s: float = 0.0) -> None:
        super().__init__(start_s=start_s)
        self.listener: Listener | None = None
        self.lines: list[Line] = []
        self.complaints: list[str] = []  # what asyncio itself found wrong: exceptions that nobody saw
        self.set_exception_handler(lambda _loop, context: self.complaints.append(_complaint(context)))

    async def create_connection(  # type: ignore[override]  # as in SimLoop
        self,
        protocol_factory: Callable[[], asyncio.BaseProtocol],
        host: str | None = None,
        port: int | None = None,
        **options: object,
    ) -> tuple[MemoryTransport, asyncio.BaseProtocol]:
        """Connect, and overhear."""
        line = Line(len(self.lines) + 1, self.time())
        taps: list[_Ear] = []

        def overheard() -> asyncio.BaseProtocol:
            ear = _Ear(protocol_factory(), line, self)
            taps.append(ear)
            return ear

        transport, _ = await super().create_connection(overheard, host, port, **options)
        self.lines.append(line)
        plain_write = transport.write

        def write(data: Any) -> None:  # noqa: ANN401 - whatever a transport takes
            taps[0].sent(bytes(data))
            plain_write(data)

        transport.write = write  # type: ignore[method-assign]
        if self.listener is not None:
            self.listener.opened(line)
        return transport, taps[0].inner


class _Ear(asyncio.Protocol):
    """Stands between the transport and the client's own protocol."""

    def __init__(self, inner: asyncio.BaseProtocol, line: Line, loop: TappedLoop) -> None:
        self.inner: Any = inner
        self._line = line
        self._loop = loop
        self._rest = b""
        self._sent_rest = b""

    def __getattr__(self, name: str) -> Any:  # noqa: ANN401 - pause_writing, eof_received and all else
        return getattr(self.inner, name)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.inner.connection_made(transport)

    def connection_lost(self, exc: Exception | None) -> None:
        self._line.is_lost = True
        self._doubt("connection lost")
        self.inner.connection_lost(exc)

    def eof_received(self) -> Any:  # noqa: ANN401 - what the inner protocol says
        return self.inner.eof_received()

    def data_received(self, data: bytes) -> None:
        self._rest = self._overheard(self._rest + data if self._rest else data)
        self.inner.data_received(data)

    def pause_writing(self) -> None:
        self.inner.pause_writing()

    def resume_writing(self) -> None:
        self.inner.resume_writing()

    def _frames(self, data: bytes, take: Callable[[bytes], None]) -> bytes:
        at = 0
        while len(data) - at >= LENGTH_BYTES:
            end = at + LENGTH_BYTES + _length_at(data, at)[0]
            if end > len(data):
                break
            take(data[at + LENGTH_BYTES : end])
            at = end
        return data[at:]

    def _overheard(self, data: bytes) -> bytes:
        """Look into what tells something; returns the rest. `_frames` without a call for each tick."""
        at, size = 0, len(data)
        while size - at >= LENGTH_BYTES:
            begin = at + LENGTH_BYTES
            end = begin + _length_at(data, at)[0]
            if end > size:
                break
            if data[begin : data.find(b"\0", begin)] in _TELLING:
                self._received(data[begin:end])
            at = end
        return data[at:]

    def _received(self, message: bytes) -> None:
        kind = message[: message.find(b"\0")].decode("ascii", "replace")
        line, now_s = self._line, self._loop.time()
        if kind in ENDS:
            line.shown.add(kind)
            if line.verified_s is None and not line.is_cut and line.shown >= ENDS:
                line.verified_s = now_s
            return
        fields = message.decode("utf-8", "replace").split("\0")
        if kind == OPEN_ORDER:
            if fields[1].lstrip("-").isdigit():
                line.orders.setdefault(int(fields[1]), now_s)
            return
        if len(fields) <= CODE_FIELD:
            return
        said = CONNECTIVITY.get(fields[CODE_FIELD])
        if said is not None:
            line.is_cut = said == "lost"
            self._doubt(said)

    def _doubt(self, why: str) -> None:
        self._line.shown.clear()
        self._line.verified_s = None
        if self._loop.listener is not None:
            self._loop.listener.doubted(self._line, why)

    def sent(self, data: bytes) -> None:
        """Bytes leave, in whatever pieces."""
        data = self._sent_rest + data
        self._sent_rest = self._frames(data.removeprefix(HELLO), self._leaves)

    def _leaves(self, message: bytes) -> None:
        kind = message[: message.find(b"\0")].decode("ascii", "replace")
        listener, line = self._loop.listener, self._line
        if not kind.isdigit():
            return  # the versions that the client offers
        fields = message.decode("utf-8", "replace").split("\0")
        if kind == PLACE_ORDER:
            ref = next((field for field in fields if is_ref(field)), "")
            if ref:  # else only a preview
                line.orders.setdefault(int(fields[1]), self._loop.time())
                if listener is not None:
                    listener.placing(line, int(fields[1]), ref, fields)
                return
        if kind == CANCEL_ORDER:
            line.cancels[int(fields[2])] = self._loop.time()
        if listener is not None:
            listener.asked(line, int(kind), fields)


def is_ref(text: str) -> bool:
    """Whether a text is an order reference of the service; its OCA groups have names of four parts."""
    return text.startswith(REF_PREFIX) and text.count(".") == REF_PARTS - 1


def _complaint(context: dict[str, Any]) -> str:
    exception = context.get("exception")
    return f"{context.get('message', '')}{f': {exception!r}' if exception else ''}"
