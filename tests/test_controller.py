"""The client of the gateway's controller: one command, one answer, one limit, whatever is at the other end."""

from __future__ import annotations

import asyncio

import pytest

from ibkr_service.controller import LINES_MAX, Controller
from ibkr_service.core.errors import ControllerFailed
from ibkr_service.core.ladder import COMMANDS
from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.testing import simulated_gateway

PORT = 7462
CONTROLLER = Controller("127.0.0.1", PORT, frozenset(COMMANDS))


class Says(asyncio.Protocol):
    """Answers the first bytes with these, and hangs up, if told to."""

    def __init__(self, answer, *, hangs_up=False):
        self.heard = b""
        self._answer, self._hangs_up = answer, hangs_up

    def connection_made(self, transport):
        self._transport = transport

    def data_received(self, data):
        self.heard += data
        self._transport.write(self._answer)
        if self._hangs_up:
            self._transport.close()


async def asked(answer, **how):
    """What the client makes of an answer, and what it said."""
    says = Says(answer, **how)
    server = await asyncio.get_running_loop().create_server(lambda: says, "127.0.0.1", PORT)
    try:
        return await CONTROLLER.say("RECONNECTDATA"), says.heard
    finally:
        server.close()


@pytest.mark.parametrize(
    ("answer", "text"),
    [
        (b"OK \n", ""),
        (b"OK RESTART in progress\r\n", "RESTART in progress"),
        (b"INFO IBC Command Server\r\nINFO Restarting TWS\r\nOK done\r\n", "done"),
    ],
)
async def test_the_answer_is_what_follows_the_ok(answer, text):
    """With or without information before it; one command on a line was sent."""
    assert await asked(answer) == (text, b"RECONNECTDATA\n")


@pytest.mark.parametrize(
    ("answer", "how", "says"),
    [
        (b"ERROR Command invalid\n", {}, "refuses RECONNECTDATA: Command invalid"),
        (b"", {}, "did not answer RECONNECTDATA within 10 s"),
        (b"OK without an end", {}, "did not answer"),
        (b"", {"hangs_up": True}, "hung up"),
        (b"INFO again\n" * (LINES_MAX + 1), {}, "talks, but does not answer"),
        (b"x" * 10_000, {}, "does not speak as a command server"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", {"hangs_up": True}, "hung up"),
        (b"\xff\xfe\n", {"hangs_up": True}, "hung up"),
    ],
)
async def test_whatever_else_comes_is_a_failure_within_the_limit(answer, how, says):
    """Typed, in one line that says who did not do what."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    with pytest.raises(ControllerFailed, match=says):
        await asked(answer, **how)
    assert loop.time() - began_s <= CONTROLLER.timeout_s + 0.01


async def test_nobody_there_and_a_frozen_line_are_failures_too():
    """Refused at once; a connection that is never made, within the limit."""
    with pytest.raises(ControllerFailed, match="cannot be reached"):
        await CONTROLLER.say("RESTART")
    network = asyncio.get_running_loop().network
    network.freeze(PORT)
    with pytest.raises(ControllerFailed, match="did not answer RESTART"):
        await CONTROLLER.say("RESTART")


async def test_the_simulators_command_server_does_as_it_is_told():
    """Lost data flows again, a cut is over, a restart takes its time and cures; nonsense is an error."""
    async with simulated_gateway(GatewayConfig(command_port=PORT)) as server:
        assert server.commands.port == PORT
        server.faults.lose_data()
        assert not server.gateway.data_flows
        assert await CONTROLLER.say("RECONNECTDATA") == ""
        assert server.gateway.data_flows
        server.faults.cut()
        await CONTROLLER.say("RECONNECTACCOUNT")
        assert not server.gateway.is_cut
        server.faults.lose_data("restart")
        await CONTROLLER.say("RECONNECTDATA")
        assert not server.gateway.data_flows
        assert await CONTROLLER.say("RESTART") == "RESTART in progress"
        with pytest.raises(ControllerFailed, match="already in progress"):
            await CONTROLLER.say("RESTART")
        await asyncio.sleep(60)
        assert server.gateway.data_flows
        with pytest.raises(ControllerFailed, match="Command invalid"):
            await CONTROLLER.say("STOP")
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        writer.write(b"\r\nreconnectdata\r\nEXIT\r\n")
        assert await reader.read() == b"OK \nOK Goodbye\n"
        writer.close()


@pytest.mark.tcp
async def test_over_real_sockets():
    """The same on a real loop."""
    async with simulated_gateway(GatewayConfig(command_port=0)) as server:
        controller = Controller("127.0.0.1", server.commands.port, frozenset(COMMANDS), timeout_s=5.0)
        assert await controller.say("RECONNECTDATA") == ""
        with pytest.raises(ControllerFailed, match="Command invalid"):
            await controller.say("NONSENSE")
    with pytest.raises(ControllerFailed, match="cannot be reached"):
        await controller.say("RECONNECTDATA")
