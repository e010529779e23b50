"""The fixture `ibkr_gateway` for users' tests: a simulated gateway on a free loopback port.

Switch it on with ``pytest_plugins = ["ibkr_service.sim.pytest_plugin"]`` in a conftest.py. To change what it is,
override the fixture `ibkr_gateway_config`.
"""

from collections.abc import AsyncIterator

import pytest
import pytest_asyncio

from ibkr_service.sim.config import GatewayConfig
from ibkr_service.sim.server import Server
from ibkr_service.sim.testing import simulated_gateway


@pytest.fixture
def ibkr_gateway_config() -> GatewayConfig:
    """What the gateway of `ibkr_gateway` is."""
    return GatewayConfig()


@pytest_asyncio.fixture
async def ibkr_gateway(ibkr_gateway_config: GatewayConfig) -> AsyncIterator[Server]:
    """A simulated gateway that listens on 127.0.0.1, see `Server.port`."""
    async with simulated_gateway(ibkr_gateway_config) as server:
        yield server
