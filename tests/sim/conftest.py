"""Which loops the simulator's own tests run on: those of whole connections on all three networks."""

import asyncio
from collections.abc import Callable, Mapping

import pytest
import uvloop

from ibkr_service.sim.loop import SimLoop

ON_ALL_NETWORKS = {"test_ib_insync.py", "test_server.py"}


@pytest.hookimpl(tryfirst=True)
def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]] | None:
    """Run them in memory and virtual time, on asyncio's TCP and on uvloop's; leave other tests as they are."""
    if item.path.name not in ON_ALL_NETWORKS:
        return None
    return {"memory": SimLoop, "tcp": asyncio.new_event_loop, "uvloop": uvloop.new_event_loop}
