"""A simulated gateway for tests: on a free loopback port, closed when the test ends.

    async with simulated_gateway(GatewayConfig(seed=7, speed=20)) as server:
        ib = IB()
        await ib.connectAsync("127.0.0.1", server.port, clientId=1)
        server.faults.cut()
        assert server.gateway.positions() == []

With pytest, ``pytest_plugins = ["ibkr_service.sim.pytest_plugin"]`` offers the same as the fixture `ibkr_gateway`.
"""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from ibkr_service.sim.config import GatewayConfig
from ibkr_service.sim.gateway import Gateway
from ibkr_service.sim.server import DEFAULT_HOST, Server


@asynccontextmanager
async def simulated_gateway(
    config: GatewayConfig | None = None, host: str = DEFAULT_HOST, port: int = 0
) -> AsyncIterator[Server]:
    """A gateway that listens while the block runs."""
    async with Server(Gateway(config or GatewayConfig()), host, port) as server:
        yield server
