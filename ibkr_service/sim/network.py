"""A network that is made of memory: listeners, connections, and what may befall them on purpose.

What travels here are the real bytes between real `asyncio` protocols; only the wire is missing (`transport.py`).
Misfortunes have a vocabulary: `freeze`/`thaw`, `refuse`/`accept`, `split`/`glue`/`plain`, `reset`. A port stands for a
machine at the other end; the host's name is not looked at.

The network reads no clock but the loop's, draws no random number, and knows nothing of what the bytes mean.
"""

from __future__ import annotations

import asyncio
import contextvars
import errno
import itertools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ibkr_service.sim.transport import MemoryTransport, Pipe, reset_by_peer

LATENCY_S = 0.0002  # one way, as on a busy loopback; above 0, so that no answer comes in the instant of its question
CHUNK_BYTES_MAX = 256 * 1024  # the most that asyncio's own transport reads at once
GLUE_HOLD_S = 0.05  # long enough for hundreds of messages of a busy feed
FIRST_FREE_PORT = 40_000  # handed out for port 0
FIRST_CLIENT_PORT = 49_152  # the ephemeral range of RFC 6335

ProtocolFactory = Callable[[], asyncio.BaseProtocol]


class Network:
    """Listeners, connections, and the misfortunes that may befall them.

    Attributes:
        latency_s: how long a byte travels one way, in seconds. It may be changed at any time; bytes never overtake.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, *, latency_s: float = LATENCY_S) -> None:
        self.loop = loop
        self.latency_s = latency_s
        self.chunk_bytes = CHUNK_BYTES_MAX
        self.hold_s = 0.0
        self._listeners: dict[int, Listener] = {}
        self._pairs: dict[int, _Pair] = {}
        self._refusing: set[int] = set()
        self._frozen: dict[int, asyncio.Event] = {}
        self._free_ports = itertools.count(FIRST_FREE_PORT)
        self._client_ports = itertools.count(FIRST_CLIENT_PORT)

    # --- misfortunes -------------------------------------------------------------------------------------------------

    def freeze(self, port: int) -> None:
        """Make the line half-open: bytes stop both ways, the sockets stay open, writes buffer, connects hang."""
        self._frozen.setdefault(port, asyncio.Event())

    def thaw(self, port: int) -> None:
        """Let the bytes that `freeze` held go on, in order. Harmless on a port that is not frozen."""
        thawed = self._frozen.pop(port, None)
        if thawed is None:
            return
        thawed.set()
        for pair in self._pairs_of(port):
            for pipe in pair.pipes:
                pipe.thaw()

    def refuse(self, port: int) -> None:
        """Refuse new connections to `port`, whoever listens there; connections that exist go on."""
        self._refusing.add(port)

    def accept(self, port: int) -> None:
        """Undo `refuse`."""
        self._refusing.discard(port)

    def reset(self, port: int) -> None:
        """Break every connection of `port` at once: both ends get `ConnectionResetError`, unread bytes are lost."""
        for pair in self._pairs_of(port):
            pair.client.lose(reset_by_peer())
            pair.server.lose(reset_by_peer())

    def split(self, chunk_bytes: int) -> None:
        """Deliver at most `chunk_bytes` bytes in one `data_received`; 1 cuts every frame at every byte."""
        if chunk_bytes < 1:
            raise ValueError(f"chunk_bytes must be at least 1, not {chunk_bytes}")
        self.chunk_bytes, self.hold_s = chunk_bytes, 0.0

    def glue(self, hold_s: float = GLUE_HOLD_S) -> None:
        """Deliver only at multiples of `hold_s` seconds, so that what was sent in between comes as one chunk."""
        if not 0 < hold_s < math.inf:
            raise ValueError(f"hold_s must be a positive number of seconds, not {hold_s}")
        self.chunk_bytes, self.hold_s = CHUNK_BYTES_MAX, hold_s

    def plain(self) -> None:
        """Undo `split` and `glue`."""
        self.chunk_bytes, self.hold_s = CHUNK_BYTES_MAX, 0.0

    # --- what a test may ask -----------------------------------------------------------------------------------------

    def connections(self, port: int) -> int:
        """Count the connections of `port` of which at least one end is still open."""
        return sum(1 for _ in self._pairs_of(port))

    def is_frozen(self, port: int) -> bool:
        """Tell whether `freeze(port)` holds."""
        return port in self._frozen

    # --- what the loop asks ------------------------------------------------------------------------------------------

    def listen(self, factory: ProtocolFactory, host: str, port: int, *, start: bool = True) -> Listener:
        """Reserve `port` (0: the next free one) for `factory`. Raises `OSError` (EADDRINUSE) when it is taken."""
        port = port or next(free for free in self._free_ports if free not in self._listeners)
        if port in self._listeners:
            raise OSError(errno.EADDRINUSE, f"error while attempting to bind on address ('{host}', {port})")
        listener = self._listeners[port] = Listener(self, factory, (host, port), serving=start)
        return listener

    def unlisten(self, port: int) -> None:
        """Give `port` back. Called by the listener when it closes."""
        del self._listeners[port]

    async def connect(
        self, factory: ProtocolFactory, host: str, port: int
    ) -> tuple[MemoryTransport, asyncio.BaseProtocol]:
        """Open a connection: one journey there, one back.

        Raises `ConnectionRefusedError` after the same round trip when nobody serves `port`. A frozen port neither
        accepts nor refuses: the call waits until it thaws.
        """
        await self._travel(port)
        listener = self._listeners.get(port)
        if listener is None or not listener.is_serving() or port in self._refusing:
            await self._travel(port)
            raise ConnectionRefusedError(errno.ECONNREFUSED, f"Connect call failed ('{host}', {port})")
        pair = self._join((host, port), listener)
        self.loop.call_soon(listener.accept, pair.server, context=listener.context)
        try:
            await self._travel(port)
            if pair.client.lost:
                raise reset_by_peer()  # noqa: TRY301  # what was acquired is given back in one place
            protocol = factory()
            await pair.client.open(protocol)
        except BaseException:
            pair.client.abort()
            raise
        return pair.client, protocol

    def arrival_s(self) -> float:
        """Loop time at which what is sent now arrives."""
        arrival_s = self.loop.time() + self.latency_s
        return math.ceil(arrival_s / self.hold_s) * self.hold_s if self.hold_s else arrival_s

    async def _travel(self, port: int) -> None:
        await asyncio.sleep(self.latency_s)
        while port in self._frozen:
            await self._frozen[port].wait()

    def _join(self, address: tuple[str, int], listener: Listener) -> _Pair:
        number = next(self._client_ports)
        near, far = (address[0], number), address
        upward, downward = Pipe(self, far[1]), Pipe(self, far[1])
        client = MemoryTransport(self.loop, upward, downward, contextvars.copy_context(), near, far)
        server = MemoryTransport(self.loop, downward, upward, listener.context.copy(), far, near)
        for end in (client, server):
            end.when_lost(lambda _: self._forget(number))
        server.when_lost(listener.detach)
        pair = self._pairs[number] = _Pair(far[1], client, server, (upward, downward))
        return pair

    def _forget(self, number: int) -> None:
        pair = self._pairs.get(number)
        if pair and pair.client.lost and pair.server.lost:
            del self._pairs[number]

    def _pairs_of(self, port: int) -> Iterator[_Pair]:
        return (pair for pair in list(self._pairs.values()) if pair.port == port)


class Listener(asyncio.AbstractServer):
    """What `create_server` returns: a served port, with the interface of `asyncio.Server`."""

    def __init__(self, network: Network, factory: ProtocolFactory, address: tuple[str, int], *, serving: bool) -> None:
        self.context = contextvars.copy_context()  # the factory and its protocols run in the context of create_server
        self._network = network
        self._factory = factory
        self._address = address
        self._serving = serving
        self._closed = asyncio.Event()
        self._clients: dict[MemoryTransport, None] = {}  # a dict, since a set has no order
        self._idle = asyncio.Event()

    def __repr__(self) -> str:
        return f"<Listener {self._address} serving={self._serving}>"

    @property
    def sockets(self) -> tuple[ListeningSocket, ...]:
        """What listens: one address, or nothing after `close`."""
        return () if self._closed.is_set() else (ListeningSocket(self._address),)

    def get_loop(self) -> asyncio.AbstractEventLoop:
        """The loop that the server belongs to."""
        return self._network.loop

    def is_serving(self) -> bool:
        """Tell whether new connections are accepted."""
        return self._serving

    async def start_serving(self) -> None:
        """Begin to accept connections. Raises `RuntimeError` on a closed server."""
        if self._closed.is_set():
            raise RuntimeError(f"server {self!r} is closed")
        self._serving = True

    async def serve_forever(self) -> None:
        """Accept connections until the server is closed or the caller is cancelled, then close it."""
        await self.start_serving()
        try:
            await self._closed.wait()
        finally:
            self.close()

    def close(self) -> None:
        """Stop to listen; connections that exist go on."""
        if self._closed.is_set():
            return
        self._serving = False
        self._closed.set()
        self._network.unlisten(self._address[1])
        self._note_idle()

    async def wait_closed(self) -> None:
        """Wait until the server is closed and its last connection is gone, as Python does since 3.12.1."""
        await self._idle.wait()

    def close_clients(self) -> None:
        """Close every connection that was accepted here and still exists."""
        for transport in list(self._clients):
            transport.close()

    def abort_clients(self) -> None:
        """Abort every connection that was accepted here and still exists."""
        for transport in list(self._clients):
            transport.abort()

    def accept(self, transport: MemoryTransport) -> None:
        """Give a new connection its protocol. A factory that raises costs the connection, not the server."""
        if transport.lost:
            return
        self._clients[transport] = None
        try:
            protocol = self._factory()
        except BaseException:
            transport.abort()
            raise
        transport.open(protocol)

    def detach(self, transport: MemoryTransport) -> None:
        """Forget a connection that is lost."""
        self._clients.pop(transport, None)
        self._note_idle()

    def _note_idle(self) -> None:
        if self._closed.is_set() and not self._clients:
            self._idle.set()


@dataclass(frozen=True)
class ListeningSocket:
    """The one thing that is asked of a server's socket: where it listens."""

    address: tuple[str, int]

    def getsockname(self) -> tuple[str, int]:
        """Host and port, as `socket.getsockname`."""
        return self.address


@dataclass(frozen=True, slots=True)
class _Pair:
    port: int
    client: MemoryTransport
    server: MemoryTransport
    pipes: tuple[Pipe, Pipe]
