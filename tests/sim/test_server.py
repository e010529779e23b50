"""The gateway on a socket, and misfortunes of the socket; on all three networks (conftest.py)."""

import asyncio
from contextlib import asynccontextmanager

import pytest

from ibkr_service.sim import Gateway, GatewayConfig, Server, run_gateway, serve
from ibkr_service.sim.pytest_plugin import ibkr_gateway, ibkr_gateway_config  # noqa: F401  the fixtures under test
from ibkr_service.sim.rawclient import forex, stock
from ibkr_service.sim.wire import API_PREFIX, frame

pytestmark = pytest.mark.tcp
TIMEOUT_S = 10


@pytest.fixture
async def server():
    """A gateway, twenty times faster than life."""
    server = await serve(Gateway(GatewayConfig(speed=20, requests_per_second_max=0, write_buffer_bytes_max=1_000_000)))
    yield server
    await server.close()
    assert server.gateway.clock._timers == {}
    assert server.connections == {}


class Client:
    """A client on a stream."""

    def __init__(self, reader, writer):
        self.reader, self.writer = reader, writer

    def ask(self, *values):
        self.writer.write(frame(*values))

    async def hear(self):
        """The next message; raises IncompleteReadError or ConnectionError at the end."""
        async with asyncio.timeout(TIMEOUT_S):
            length = int.from_bytes(await self.reader.readexactly(4), "big")
            return (await self.reader.readexactly(length)).decode().split("\0")[:-1]

    async def hear_until(self, kind):
        """Messages up to one of a kind."""
        while (message := await self.hear())[0] != str(kind):
            pass
        return message

    async def is_hung_up_on(self):
        """Whether the line ends, whatever is said before."""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                await self.reader.read()
        except ConnectionError:
            return True
        return self.reader.at_eof()


@asynccontextmanager
async def dial(server, client_id=1):
    """A connection; with a client id its session has started."""
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    client = Client(reader, writer)
    try:
        writer.write(API_PREFIX + b"\0\0\0\x09v157..176")
        if client_id is not None:
            client.ask(71, 2, client_id, "")
        yield client
    finally:
        writer.transport.abort()


async def is_silent(client):
    """Whether nothing is heard for a while: real silence cannot be waited for otherwise."""
    try:
        async with asyncio.timeout(0.05):
            await client.reader.readexactly(1)
    except TimeoutError:
        return True
    return False


async def test_a_client_comes_and_goes(server):
    """Its id is free as soon as its line is gone."""
    async with dial(server) as client:
        assert (await client.hear_until(9))[2] == "1"
        assert len(server.gateway.sessions) == 1
    for _ in range(3):
        async with dial(server) as client:
            assert (await client.hear())[0] == "176"
            message = await client.hear()
            assert message[0] in {"15", "4"}  # 326 while the old line is still closing
            if message[0] == "15":
                return
    raise AssertionError("the client id was never freed")


async def test_a_restart_keeps_the_port_and_the_books(server):
    """Clients are dropped; what IB knows lives on."""
    port = server.port
    async with dial(server) as client:
        await client.hear_until(9)
        await server.restart()
        assert await client.is_hung_up_on()
    assert server.port == port
    async with dial(server) as client:
        await client.hear_until(9)


async def test_a_stopped_server_refuses_and_starts_again(server):
    """Stopping and starting twice is harmless."""
    await server.stop()
    await server.stop()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)
    await server.start()
    await server.start()
    async with dial(server) as client:
        await client.hear_until(9)


async def test_garbage_ends_the_offenders_line_only(server):
    """Others do not notice."""
    async with dial(server) as good, dial(server, client_id=None) as bad:
        await good.hear_until(9)
        bad.writer.write(b"\xff" * 100)
        assert await bad.is_hung_up_on()
        good.ask(49, 1)
        await good.hear_until(49)


async def test_a_client_that_does_not_read_is_dropped(server):
    """When too much waits for it; memory is bounded."""
    async with dial(server) as client, dial(server, client_id=2) as other:
        await client.hear_until(9)
        client.writer.transport.pause_reading()
        connection = next(iter(server.connections))
        for _ in range(60):
            if not client.writer.transport.is_closing():
                client.ask(9, 8, 5, 0, "AAPL", "OPT", *[""] * 13)  # about a third of a megabyte each
            await asyncio.sleep(0.001)
        async with asyncio.timeout(TIMEOUT_S):
            await connection.lost.wait()
        assert [session.client_id for session in server.gateway.sessions] == [2]
        await other.hear_until(9)


async def test_drop_aborts_every_line(server):
    """And new ones are welcome."""
    async with dial(server, 1) as one, dial(server, 2) as two:
        await one.hear_until(9)
        await two.hear_until(9)
        server.faults.drop()
        assert await one.is_hung_up_on()
        assert await two.is_hung_up_on()
    async with dial(server) as client:
        await client.hear_until(9)


async def test_refuse_turns_new_clients_away_and_accept_takes_them_again(server):
    """Present ones stay."""
    async with dial(server) as client:
        await client.hear_until(9)
        server.faults.refuse()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection("127.0.0.1", server.port)
        client.ask(49, 1)
        await client.hear_until(49)
        await server.faults.accept()
        async with dial(server, 2) as other:
            await other.hear_until(9)


async def test_mute_accepts_and_never_answers(server):
    """Until it is undone, for lines to come."""
    server.faults.mute()
    async with dial(server) as client:
        assert await is_silent(client)
        server.faults.unmute()
        assert await is_silent(client)
        async with dial(server) as other:
            await other.hear_until(9)


async def test_stall_holds_both_directions_until_resume(server):
    """The socket stays open; what waited flows afterwards, in order."""
    async with dial(server) as client:
        await client.hear_until(9)
        await client.hear_until(4)
        await client.hear_until(4)
        await client.hear_until(4)
        client.ask(1, 11, 3, *forex(), 0, "", 0, 0, "")
        await client.hear_until(1)
        server.faults.stall()
        while not await is_silent(client):
            pass
        client.ask(49, 1)
        client.ask(8, 1, 1)
        assert await is_silent(client)
        async with dial(server, 2) as late:
            assert await is_silent(late)
            server.faults.resume()
            await late.hear_until(9)
        await client.hear_until(49)
        await client.hear_until(9)
        await client.hear_until(1)


async def test_a_stalled_line_with_too_much_to_say_ends_when_it_thaws(server):
    """Not before: a frozen gateway hangs up on nobody."""
    async with dial(server) as client:
        await client.hear_until(9)
        server.faults.stall()
        (session,) = server.gateway.sessions
        for _ in range(10_000):
            session.error(-1, 2104, "x" * 100)
        while not await is_silent(client):
            pass
        server.faults.resume()
        assert await client.is_hung_up_on()


async def test_accept_and_close(server):
    """So many times, and then no more."""
    server.faults.accept_and_close(times=2)
    for _ in range(2):
        async with dial(server) as client:
            assert await client.is_hung_up_on()
    async with dial(server) as client:
        await client.hear_until(9)


async def test_what_comes_in_pieces_or_in_one_chunk_is_what_was_said(server):
    """Byte by byte, then glued; a line that ends in the middle of it still says all it had to say."""
    async with dial(server) as client:
        server.faults.chop(1)
        client.ask(49, 1)
        assert (await client.hear_until(49))[0] == "49"
        server.faults.chop(7)
        client.ask(9, 8, 5, *stock(), 0, "", "", "")
        assert (await client.hear_until(52))[2] == "5"
        server.faults.glue(0.05)
        client.ask(49, 1)
        client.ask(49, 1)
        assert (await client.hear_until(49))[0] == (await client.hear())[0] == "49"
        server.faults.plain()
        client.ask(49, 1)
        assert (await client.hear_until(49))[0] == "49"


async def test_a_client_id_may_stay_taken(server):
    """326 and a closed line, until it is vacated."""
    async with dial(server) as client:
        await client.hear_until(9)
        server.faults.occupy()
        assert await client.is_hung_up_on()
    async with dial(server, client_id=None) as client:
        client.ask(71, 2, 1, "")
        assert (await client.hear_until(4))[3] == "326"
        assert await client.is_hung_up_on()
    server.faults.vacate()
    async with dial(server) as client:
        client.ask(49, 1)
        assert await client.hear_until(49)


async def test_a_gateway_is_shut_down_and_started(server):
    """Nobody listens, then somebody does."""
    async with dial(server) as client:
        await server.faults.shut_down()
        assert await client.is_hung_up_on()
    with pytest.raises(ConnectionRefusedError):
        async with dial(server):
            pass
    await server.faults.start_up()
    async with dial(server) as client:
        client.ask(49, 1)
        assert await client.hear_until(49)


async def test_run_gateway_runs_until_it_is_stopped():
    """The command line's entry: it tells when it listens, and closes everything."""
    started: asyncio.Future[Server] = asyncio.get_running_loop().create_future()
    stop = asyncio.Event()
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(run_gateway(GatewayConfig(), on_started=started.set_result, stop=stop))
        server = await started
        async with dial(server) as client:
            await client.hear_until(9)
            stop.set()
            assert await client.is_hung_up_on()
    with pytest.raises(ConnectionRefusedError):
        await asyncio.open_connection("127.0.0.1", server.port)


async def test_the_plugins_fixture_is_a_gateway_that_listens(ibkr_gateway):  # noqa: F811  pytest injects fixtures by name
    """What users' tests get."""
    async with dial(ibkr_gateway) as client:
        await client.hear_until(9)
        client.ask(9, 8, 1, *stock(), 0, "", "", "")
        assert (await client.hear_until(10))[2] == "AAPL"
