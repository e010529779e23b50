"""The gateway on a socket: asyncio transports and protocols, and nothing else.

It runs on any loop that has them: real TCP, uvloop, or an in-memory network in virtual time. The server may stop and
start again; the gateway behind it, and the brokerage behind that, live on.
"""

import asyncio
from collections.abc import Callable
from typing import Final, Self, cast

from ibkr_service.sim.commandserver import CommandServer
from ibkr_service.sim.config import GatewayConfig
from ibkr_service.sim.faults import Faults
from ibkr_service.sim.gateway import Gateway
from ibkr_service.sim.nightly import Nightly
from ibkr_service.sim.session import Session

DEFAULT_HOST: Final = "127.0.0.1"
PIECE_EVERY_S: Final = 0.0002
PIECES_WAITING_MAX: Final = 4_000


class Connection(asyncio.Protocol):
    """One socket, and the session on it.

    Messages of one turn of the loop leave in one write. A client that does not read is dropped when too much waits for
    it.
    """

    def __init__(self, server: "Server") -> None:
        self._server = server
        self._transport: asyncio.Transport | None = None
        self._session: Session | None = None
        self._outbox: list[bytes] = []
        self._outbox_bytes = 0
        self._pieces = bytearray()
        self._piece_due: asyncio.TimerHandle | None = None
        self._room = 0
        self._inbox: list[bytes] = []
        self._flushing: asyncio.Handle | None = None
        self._is_closing = False
        self._is_doomed = False
        self.lost = asyncio.Event()

    # asyncio.Protocol

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client has connected."""
        self._transport = cast("asyncio.Transport", transport)
        self._server.connections[self] = None
        if self._server.closes_next > 0:
            self._server.closes_next -= 1
            self._transport.close()
            if not self._server.closes_next:
                self._server.faults.say("the gateway keeps connections again", "mends")
        elif not self._server.is_mute:
            self._session = self._server.gateway.connect(self)

    def data_received(self, data: bytes) -> None:
        """The client has sent something."""
        if self._session is None:
            return
        if self._server.is_stalled:
            self._inbox.append(data)
            self._pause()
        else:
            self._session.receive(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone, for whatever reason."""
        del exc
        self._server.connections.pop(self, None)
        self._forget()
        if self._session is not None:
            self._session.lost()
        self.lost.set()

    # The session's peer

    def send(self, data: bytes) -> None:
        """Pass bytes on, soon; too many of them unread end the connection."""
        if self._is_closing or (not self._outbox and not self._begin()):
            return
        waiting = self._outbox_bytes + len(data)
        if waiting > self._room:
            self._overflow()
            return
        self._outbox.append(data)
        self._outbox_bytes = waiting

    def close(self) -> None:
        """Hang up after what was sent."""
        if self._transport is not None and not self._is_closing:
            self._flush()
            self._whole()
            self._is_closing = True
            self._transport.close()

    # The server's part

    def abort(self) -> None:
        """Hang up at once."""
        self._is_closing = True
        self._forget()
        if self._transport is not None:
            self._transport.abort()

    def freeze(self) -> None:
        """Send what was said before the freeze, and read no more."""
        self._flush()
        self._pause()

    def stop_reading(self) -> None:
        """Read no more, and go on sending."""
        self._pause()

    def read_on(self) -> None:
        """Read again."""
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()

    def thaw(self) -> None:
        """Let flow what waited in both directions."""
        if self._is_doomed:
            self.abort()
            return
        inbox, self._inbox = self._inbox, []
        if self._transport is not None and not self._transport.is_closing():
            self._transport.resume_reading()
        self._flush()
        if self._pieces:
            self._write_piece()
        for data in inbox:
            if self._session is not None:
                self._session.receive(data)

    def _begin(self) -> bool:
        """Begin to collect what leaves in one write; whether the line still takes anything."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return False
        unread = transport.get_write_buffer_size() + len(self._pieces)
        self._room = self._server.gateway.config.write_buffer_bytes_max - unread
        if self._flushing is None and not self._server.is_stalled:
            loop = asyncio.get_running_loop()
            hold_s = self._server.hold_s
            self._flushing = loop.call_later(hold_s, self._flush) if hold_s else loop.call_soon(self._flush)
        return True

    def _overflow(self) -> None:
        # A frozen gateway hangs up on nobody: the client learns of it when the gateway thaws.
        if self._server.is_stalled:
            self._is_doomed = True
        else:
            self.abort()

    def _pause(self) -> None:
        if self._transport is not None and self._transport.is_reading():
            self._transport.pause_reading()

    def _flush(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if not self._outbox or self._transport is None or self._server.is_stalled:
            return
        data = b"".join(self._outbox)
        self._outbox.clear()
        self._outbox_bytes = 0
        if self._transport.is_closing():  # uvloop's transports refuse a write to a line that is gone
            return
        if self._server.chunk_bytes or self._pieces:
            self._pieces += data
            self._write_piece()
        else:
            self._transport.write(data)

    def _write_piece(self) -> None:
        """Write a few bytes, and the next few in a moment: each is a chunk of its own at the other end."""
        if self._piece_due is not None or self._transport is None or self._transport.is_closing():
            return
        size = self._server.chunk_bytes or len(self._pieces)
        # What is far behind goes on faster: the client is to be troubled, not to be starved.
        size = max(size, len(self._pieces) // PIECES_WAITING_MAX)
        self._transport.write(bytes(self._pieces[:size]))
        del self._pieces[:size]
        if self._pieces:
            self._piece_due = asyncio.get_running_loop().call_later(PIECE_EVERY_S, self._next_piece)

    def _next_piece(self) -> None:
        self._piece_due = None
        if not self._server.is_stalled:
            self._write_piece()

    def _whole(self) -> None:
        """Write at once what waits in pieces."""
        if self._piece_due is not None:
            self._piece_due.cancel()
            self._piece_due = None
        if self._pieces and self._transport is not None and not self._transport.is_closing():
            self._transport.write(bytes(self._pieces))
        self._pieces.clear()

    def _forget(self) -> None:
        if self._flushing is not None:
            self._flushing.cancel()
            self._flushing = None
        if self._piece_due is not None:
            self._piece_due.cancel()
            self._piece_due = None
        self._pieces.clear()
        self._outbox.clear()
        self._outbox_bytes = 0
        self._inbox.clear()


class Server:
    """A gateway that listens; made by `serve`."""

    def __init__(self, gateway: Gateway, host: str, port: int) -> None:
        self.gateway = gateway
        self.host = host
        self.port = port
        self.connections: dict[Connection, None] = {}
        self.faults = Faults(gateway, self)
        self.is_mute = False
        self.is_stalled = False
        self.closes_next = 0
        self.chunk_bytes = 0
        self.hold_s = 0.0
        self._listener: asyncio.Server | None = None
        self._nights: asyncio.Task[None] | None = None
        self.commands = CommandServer(self)

    def __repr__(self) -> str:
        state = "listening" if self._listener is not None else "stopped"
        return f"<Server {self.host}:{self.port} {state} [{len(self.connections)} connections]>"

    async def start(self) -> None:
        """Listen; again on the port that it had before."""
        if self._listener is not None:
            return
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: Connection(self), self.host, self.port)
        if not self.port:
            self.port = int(self._listener.sockets[0].getsockname()[1])
        moment = self.gateway.config.nightly_reset
        if moment is not None and self._nights is None:
            self._nights = loop.create_task(Nightly(self.gateway.clock, self.faults, moment).run(), name="nights")
        if self.gateway.config.command_port is not None and not self.commands.port:
            await self.commands.start(self.host, self.gateway.config.command_port)

    async def stop(self) -> None:
        """Stop listening and drop every client; orders, positions and executions live on."""
        listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()
        self.is_stalled = False
        dropped = list(self.connections)
        self.drop()
        for connection in dropped:
            await connection.lost.wait()
        if listener is not None:
            await listener.wait_closed()

    async def restart(self) -> None:
        """Stop and start, as the gateway does every night."""
        await self.stop()
        await self.start()

    async def close(self) -> None:
        """Stop for good: the gateway ends, every timer is cancelled."""
        if self._nights is not None:
            self._nights.cancel()
            await asyncio.gather(self._nights, return_exceptions=True)
        await self.commands.close()
        await self.stop()
        self.gateway.close()

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.close()

    # What the faults ask for.

    def drop(self) -> None:
        """Abort every connection."""
        for connection in list(self.connections):
            connection.abort()

    def refuse(self) -> None:
        """Stop listening; present connections stay."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None

    async def accept(self) -> None:
        """Listen again, on the same port."""
        await self.start()

    def stall(self) -> None:
        """Read nothing and send nothing, on connections present and to come."""
        for connection in list(self.connections):
            connection.freeze()
        self.is_stalled = True

    def stop_reading(self) -> None:
        """Read nothing on present connections, and go on sending."""
        for connection in list(self.connections):
            connection.stop_reading()

    def read_on(self) -> None:
        """Read on all connections again."""
        for connection in list(self.connections):
            connection.read_on()

    def resume(self) -> None:
        """Read and send again."""
        self.is_stalled = False
        for connection in list(self.connections):
            connection.thaw()


async def serve(gateway: Gateway, host: str = DEFAULT_HOST, port: int = 0) -> Server:
    """Start listening; port 0 takes a free one, see `Server.port`."""
    server = Server(gateway, host, port)
    await server.start()
    return server


async def run_gateway(
    config: GatewayConfig,
    host: str = DEFAULT_HOST,
    port: int = 0,
    *,
    on_started: Callable[[Server], None] | None = None,
    stop: asyncio.Event | None = None,
) -> None:
    """Run a gateway until `stop` is set, or until it is cancelled. It prints nothing.

    Args:
        config: what it is.
        host: where it listens.
        port: where it listens; 0 takes a free port.
        on_started: told once it listens.
        stop: set to end it.

    Raises:
        ReplayError: a recording cannot be played.
        OSError: it cannot listen there.
    """
    async with Server(Gateway(config), host, port) as server:
        if on_started is not None:
            on_started(server)
        await (stop or asyncio.Event()).wait()
