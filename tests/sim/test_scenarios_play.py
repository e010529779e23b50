"""Each scenario's script by itself, as `simulate --scenario` plays it: for a client that only logs on and watches.

Goal: a script never fails, whoever its client is, and it ends or waits for what that client never does. Method: a
gateway in virtual time, a bystander in place of the machine, a client without a socket.
"""

import asyncio

import pytest

from ibkr_service.sim import Gateway, GatewayConfig, serve
from ibkr_service.sim.rawclient import RawClient, stock
from ibkr_service.sim.scenarios import SCENARIOS, Bystander, named

WAITING_FOR_ORDERS_S = 3600.0


@pytest.mark.parametrize("name", SCENARIOS)
async def test_a_script_plays_without_the_service(name):
    """It comes to its end, or waits for an order."""
    scenario = named(name)
    said = []
    gateway = Gateway(scenario.config(seed=3, quote_interval_s=600.0))
    server = await serve(gateway, "127.0.0.1", 7497)
    async with asyncio.TaskGroup() as tasks:
        script = tasks.create_task(scenario.play(server, Bystander(said.append)))
        await asyncio.sleep(0.1)
        client = RawClient(gateway)
        client.ask(1, 11, 1, *stock(), 0, "", 0, 0, "")
        client.ask(7, 3, 9, 0, "", "", "", "", "", "")
        await asyncio.sleep(scenario.lasts_s + WAITING_FOR_ORDERS_S)
        if not script.done():
            assert gateway.occasions.is_awaited
            script.cancel()
    await server.close()


def test_the_configuration_of_each_can_be_read():
    """Its needs are fields of the gateway's."""
    assert all(isinstance(scenario.config(), GatewayConfig) for scenario in SCENARIOS.values())
