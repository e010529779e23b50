"""What starts and keeps a gateway, and takes commands for it: the command server of an IBC, as far as clients see it.

One command on a line, in any case; the answer is `OK …` or `ERROR …` on a line. `RECONNECTDATA` and `RECONNECTACCOUNT`
have the gateway make its connections to IB anew, `RESTART` ends it and starts it again without a new login, `EXIT` ends
the conversation. Simplifications: commands work at once, `STOP`, `PAUSE` and `ENABLEAPI` are refused, a restart takes
`RESTART_S`, and cures whatever the gateway does wrong.
"""

import asyncio
from typing import TYPE_CHECKING, Final, cast

if TYPE_CHECKING:
    from ibkr_service.sim.server import Server

RESTART_S: Final = 40.0
"""How long a gateway is away that restarts, in gateway seconds."""

LINE_BYTES_MAX: Final = 1024


class CommandServer:
    """Listens for commands to one gateway.

    Args:
        server: the gateway on its socket.
    """

    def __init__(self, server: "Server") -> None:
        self.port = 0
        self.commands: list[str] = []
        """Every command that was given, oldest first."""

        self.is_mute = False
        """Whether it takes commands and never answers."""

        self._server = server
        self._listener: asyncio.Server | None = None
        self._restarting: asyncio.Task[None] | None = None

    async def start(self, host: str, port: int) -> None:
        """Listen; port 0 takes a free one."""
        loop = asyncio.get_running_loop()
        self._listener = await loop.create_server(lambda: _Conversation(self), host, port)
        self.port = int(self._listener.sockets[0].getsockname()[1])

    async def close(self) -> None:
        """Listen no more; a restart that is under way ends."""
        if self._listener is not None:
            self._listener.close()
            self._listener = None
        if self._restarting is not None:
            self._restarting.cancel()
            await asyncio.gather(self._restarting, return_exceptions=True)

    def obey(self, command: str) -> str:
        """Carry out a command; returns the line that answers it."""
        self.commands.append(command)
        match command:
            case "RECONNECTDATA":
                self._server.faults.reconnect_data()
                return "OK "
            case "RECONNECTACCOUNT":
                self._server.faults.reconnect_account()
                return "OK "
            case "RESTART" if self._restarting is not None and not self._restarting.done():
                return "ERROR RESTART already in progress"
            case "RESTART":
                self._restarting = asyncio.get_running_loop().create_task(self._restart(), name="restart")
                return "OK RESTART in progress"
            case _:
                return "ERROR Command invalid"

    async def _restart(self) -> None:
        """End the gateway and start it again; what was wrong with it is over, and what it served is gone."""
        gateway, faults = self._server.gateway, self._server.faults
        await self._server.stop()
        await asyncio.sleep(RESTART_S / gateway.config.speed)
        faults.cure()
        await self._server.start()


class _Conversation(asyncio.Protocol):
    def __init__(self, commands: CommandServer) -> None:
        self._commands = commands
        self._unread = b""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast("asyncio.Transport", transport)

    def data_received(self, data: bytes) -> None:
        *lines, self._unread = (self._unread + data).split(b"\n")
        for line in lines:
            command = line.decode(errors="replace").strip().upper()
            if not command:
                continue
            if command == "EXIT":
                self._say("OK Goodbye")
                self._transport.close()
                return
            self._say(self._commands.obey(command))
        if len(self._unread) > LINE_BYTES_MAX:
            self._transport.close()

    def _say(self, line: str) -> None:
        if not self._commands.is_mute and not self._transport.is_closing():
            self._transport.write(f"{line}\n".encode())
