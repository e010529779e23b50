"""Which loop a test runs on: virtual time unless it is marked `tcp`."""

from __future__ import annotations

import asyncio
import os
import tempfile
from collections.abc import Callable, Mapping

import pytest

from ibkr_service.sim.loop import SimLoop

# What daemons claim in these tests is no affair of those that run on this machine, or of another worker's.
_claims = tempfile.TemporaryDirectory(prefix="ibkr-service-tests-")
os.environ["XDG_RUNTIME_DIR"] = _claims.name

# Fixtures and steps that the features share.
pytest_plugins = [
    "tests.bdd.stage",
    "tests.bdd.steps",
    "tests.bdd.account_steps",
    "tests.bdd.market_steps",
    "tests.bdd.chain_steps",
    "tests.bdd.order_steps",
    "tests.bdd.risk_steps",
    "tests.bdd.reconnect_steps",
]


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], asyncio.AbstractEventLoop]]:
    """Give every async test a fresh `SimLoop`, and those that need real sockets or processes a real loop."""
    return {"tcp": asyncio.new_event_loop} if item.get_closest_marker("tcp") else {"sim": SimLoop}
