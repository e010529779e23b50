"""Rude clients: each costs itself its line, and nobody else anything."""

import asyncio

import pytest

from ibkr_service.sim import Gateway, GatewayConfig, Server
from ibkr_service.sim.loop import run
from ibkr_service.sim.rawclient import RawClient, stock
from ibkr_service.sim.wire import API_PREFIX, frame

HELLO = API_PREFIX + b"\0\0\0\x09v157..176"


def life(scenario, **known):
    """Run a scenario with a server, and a client that behaves."""

    async def main():
        async with Server(Gateway(GatewayConfig(seed=4, **known)), "127.0.0.1", 0) as server:
            witness = RawClient(server.gateway, client_id=99)
            result = await scenario(server)
            witness.forget()
            witness.ask(49, 1)
            assert witness.of(49), "the witness is served"
            return result

    return run(main())


async def hung_up_after(server, data, seconds=5.0):
    """Whether the gateway closes the line after these bytes, and what it said before."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    writer.write(data)
    said = b""
    try:
        async with asyncio.timeout(seconds):
            while piece := await reader.read(1 << 16):
                said += piece
    except TimeoutError:
        return False, said
    except ConnectionResetError:
        return True, said
    finally:
        writer.transport.abort()
    return True, said


@pytest.mark.parametrize(
    "data",
    [
        b"GET / HTTP/1.1\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        API_PREFIX + b"\xff\xff\xff\xff",
        API_PREFIX + b"\0\0\0\x04\xff\xfe\xfd\xfc",
        HELLO + b"\x7f\xff\xff\xff",
        HELLO + frame(71, 2, 1, "") + b"\xff\xff\xff\xff1",
    ],
)
def test_bad_framing_ends_the_line(data):
    """At once, and with nothing kept of it."""
    assert life(lambda server: hung_up_after(server, data))[0]


def test_a_handshake_byte_by_byte_is_a_handshake():
    """However slowly it comes."""

    async def scenario(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        for byte in HELLO + frame(71, 2, 1, ""):
            writer.write(bytes([byte]))
            await asyncio.sleep(10)
        said = await reader.read(1 << 16)
        writer.transport.abort()
        return said

    assert b"176\0" in life(scenario)


def test_half_a_frame_and_nothing_more_costs_nothing():
    """The line stays; what is kept of it is bounded by the largest frame."""

    async def scenario(server):
        return await hung_up_after(server, HELLO + frame(71, 2, 1, "") + b"\0\0\x10\0" + b"4" * 100)

    assert life(scenario)[0] is False


def test_a_half_closed_line_is_answered_and_closed():
    """What was asked before the end is answered."""

    async def scenario(server):
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(HELLO + frame(71, 2, 1, "") + frame(49, 1))
        await asyncio.sleep(1)
        writer.write_eof()
        said = await asyncio.wait_for(reader.read(), 5)
        writer.transport.abort()
        await asyncio.sleep(1)
        return said, [session.client_id for session in server.gateway.sessions]

    said, clients = life(scenario)
    assert b"\x0049\x001\x00" in said.replace(b"\0\0\0\x10", b"\0")
    assert clients == [99]


def test_text_that_is_no_utf_8_is_not_fatal():
    """An account name in another encoding is unknown, and the line lives on."""
    pnl = b"92\x001\0\xff\xfe\0\0"
    request = len(pnl).to_bytes(4, "big") + pnl
    closed, said = life(lambda server: hung_up_after(server, HELLO + frame(71, 2, 1, "") + request + frame(49, 1)))
    assert not closed
    assert b"4\x002\x001\x00321\x00" in said
    assert b"49\x001\x00" in said


def test_one_that_subscribes_and_never_reads_is_dropped():
    """When its share of memory is full; the others have their ticks."""

    async def scenario(server):
        _, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.transport.pause_reading()
        writer.write(HELLO + frame(71, 2, 1, ""))
        for number, con_id in enumerate(list(server.gateway.universe.stocks)[:40]):
            writer.write(frame(1, 11, number, *stock(con_id), 0, "", 0, 0, ""))
        for _ in range(600):
            await asyncio.sleep(1)
            if not server.connections:
                break
        writer.transport.abort()
        return not server.connections

    assert life(scenario, write_buffer_bytes_max=200_000, requests_per_second_max=0)
