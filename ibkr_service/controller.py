"""The gateway's controller: IBC's command server, asked for what only it can do to the gateway.

IBC (https://github.com/IbcAlpha/IBC) starts TWS or IB Gateway and, with `CommandServerPort` in its config.ini, listens
for commands, one on a line. It answers `OK …` or `ERROR …`, and says `INFO …` in between unless that is switched off.
`RECONNECTDATA` and `RECONNECTACCOUNT` press the keys Ctrl-Alt-F and Ctrl-Alt-R, so that OK means "pressed", no more;
`RESTART` restarts the gateway without a new login, at once or at the next full minute, and ends the conversation. It
takes commands from its own machine, and from the addresses in `ControlFrom`. (Its user guide, "Command server"; the
answers as its sources have them, version 3.24.)

One conversation for each command, with a limit on all of it. Nothing is repeated here: what was sent may have worked.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from ibkr_service.core.errors import ControllerFailed
from ibkr_service.core.ladder import Command

TIMEOUT_S = 10.0
LINES_MAX = 50  # of chatter before the answer
LINE_BYTES_MAX = 4096


@dataclass(frozen=True)
class Controller:
    """Where the command server listens, and what it may be asked for. `timeout_s` is for a whole conversation."""

    host: str
    port: int
    commands: frozenset[Command]
    timeout_s: float = TIMEOUT_S

    async def say(self, command: Command) -> str:
        """Send a command; returns what follows the OK.

        Raises:
            ControllerFailed: it could not be reached, did not answer in time, or says ERROR.
        """
        where = f"the controller at {self.host}:{self.port}"
        try:
            async with asyncio.timeout(self.timeout_s):
                return await self._talk(command, where)
        except TimeoutError:
            raise ControllerFailed(f"{where} did not answer {command} within {self.timeout_s:g} s") from None
        except OSError as exc:
            raise ControllerFailed(f"{where} cannot be reached: {exc.strerror or exc}") from exc
        except ValueError as exc:  # a line that does not end
            raise ControllerFailed(f"{where} does not speak as a command server: {exc}") from exc

    async def _talk(self, command: Command, where: str) -> str:
        reader, writer = await asyncio.open_connection(self.host, self.port, limit=LINE_BYTES_MAX)
        try:
            return await self._converse(command, where, reader, writer)
        finally:
            writer.close()

    async def _converse(
        self, command: Command, where: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> str:
        writer.write(f"{command}\n".encode())
        for _ in range(LINES_MAX):
            line = await reader.readline()
            if not line:
                raise ControllerFailed(f"{where} hung up without an answer to {command}")
            word, _, rest = line.decode(errors="replace").strip().partition(" ")
            if word == "OK":
                return rest.strip()
            if word == "ERROR":
                raise ControllerFailed(f"{where} refuses {command}: {rest.strip()}")
        raise ControllerFailed(f"{where} talks, but does not answer {command}")
