"""The gateway of a soak: a process of its own on real TCP, which is told what to do by JSON lines and answers by them.

    {"do": "nightly-restart", "for_s": 8}     goes through a misfortune to its end
    {"do": "state"}                           what the broker knows

The misfortunes have the names of the rehearsals (`ibkr_service/rehearsal/named.py`).
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Awaitable, Callable
from typing import Any

from ibkr_service.sim.config import GatewayConfig
from ibkr_service.sim.server import Server
from ibkr_service.sim.session import Session, State
from ibkr_service.sim.testing import simulated_gateway
from tests.crash.host import Arrived, _listen

CLIENT_ID = 1
IDS_BACK = 20


async def nightly_restart(server: Server, for_s: float) -> None:
    """1100 again and again, then nobody listens, then connections are dropped, then it works, with lower order ids."""
    for _ in range(3):
        server.faults.cut()
        await asyncio.sleep(1.0)
    server.faults.roll_back_ids(IDS_BACK)
    server.gateway.is_cut = False
    server.gateway.reporter.release(lose=True)  # whoever is not there is not told
    await server.stop()
    server.gateway.resume_upstream()
    await asyncio.sleep(for_s)
    server.faults.accept_and_close(2)
    await server.start()


async def half_open(server: Server, for_s: float) -> None:
    """Bytes stop, the socket stays open; in the end it is reset."""
    server.faults.stall()
    await asyncio.sleep(for_s)
    server.faults.drop()
    server.faults.resume()


async def client_id_in_use(server: Server, for_s: float) -> None:
    """The connection is lost, and its client id stays taken."""

    class Nobody:
        """The end of a line at which nobody is left."""

        def send(self, data: bytes) -> None:
            """Lose it."""

        def close(self) -> None:
            """There is nothing to close."""

    ghost = Session(server.gateway, Nobody())
    ghost.client_id, ghost.state = CLIENT_ID, State.RUNNING
    server.faults.drop()
    await asyncio.sleep(0)
    server.gateway.sessions.append(ghost)
    await asyncio.sleep(for_s)
    ghost.lost()


MISFORTUNES: dict[str, Callable[[Server, float], Awaitable[None]]] = {
    "nightly-restart": nightly_restart,
    "half-open": half_open,
    "client-id-in-use": client_id_in_use,
}


def state_of(server: Server, arrived: list[Arrived]) -> dict[str, Any]:
    """What the broker knows, as JSON can say it."""
    gateway = server.gateway
    ours = [session for session in gateway.sessions if session.client_id == CLIENT_ID]
    return {
        "arrived": [(each.client_id, each.order_id, each.ref, each.changes) for each in arrived],
        "orders": {
            order.ticket.order_ref: (order.status.value, str(order.filled), order.status.is_done)
            for order in gateway.exchange.orders.values()
        },
        "executions": [execution.exec_id for execution in gateway.executions],
        "positions": {str(held.contract.con_id): str(held.quantity) for held in gateway.positions() if held.quantity},
        "lines": sum(stream.is_market_data for session in ours for stream in session.streams.values()),
        "connections": len(server.connections),
    }


async def main(seed: int) -> None:
    """Run until standard input ends."""
    loop = asyncio.get_running_loop()
    lines = asyncio.StreamReader()
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    async with simulated_gateway(GatewayConfig(seed=seed, checks_margin=False)) as server:
        arrived = _listen(server.gateway)
        say({"port": server.port})
        async for line in lines:
            asked = json.loads(line)
            if asked["do"] == "state":
                say(state_of(server, arrived))
            else:
                await MISFORTUNES[asked["do"]](server, asked["for_s"])
                say({"done": asked["do"]})


def say(what: object) -> None:
    """One line to whoever started this."""
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(int(sys.argv[1])))
