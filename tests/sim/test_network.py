"""The in-memory network keeps asyncio's manners: order, flow control, endings; and breaks them on request."""

from __future__ import annotations

import asyncio
import contextvars

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.sim.loop import run
from ibkr_service.sim.transport import WINDOW_BYTES

PORT = 7497


class Recorder(asyncio.Protocol):
    """A protocol that remembers what it was told, and when."""

    def __init__(self, *, keep_open=False):
        self.keep_open = keep_open
        self.calls = []
        self.chunks = []
        self.times = []

    @property
    def data(self):
        return b"".join(self.chunks)

    def connection_made(self, transport):
        self.calls.append("made")
        self.transport = transport

    def data_received(self, data):
        self.calls.append("data")
        self.chunks.append(data)
        self.times.append(asyncio.get_running_loop().time())

    def eof_received(self):
        self.calls.append("eof")
        return self.keep_open

    def connection_lost(self, exc):
        self.calls.append("lost" if exc is None else type(exc).__name__)

    def pause_writing(self):
        self.calls.append("pause")

    def resume_writing(self):
        self.calls.append("resume")


class Link:
    """A server, a client, and the network between them."""

    def __init__(self, loop, listener, client, server):
        self.loop, self.listener, self.client, self.server = loop, listener, client, server
        self.network = loop.network

    def __iter__(self):
        return iter((self.client, self.server, self.network))


@pytest.fixture
async def link():
    """A connection between two recorders."""
    return await make_link()


async def make_link(**server_options):
    """Connect a recorder to another; the options are the serving one's."""
    loop = asyncio.get_running_loop()
    servers = []

    def factory():
        servers.append(Recorder(**server_options))
        return servers[-1]

    listener = await loop.create_server(factory, "127.0.0.1", PORT)
    _, client = await loop.create_connection(Recorder, "127.0.0.1", PORT)
    return Link(loop, listener, client, servers[0])


# --- servers ---------------------------------------------------------------------------------------------------------


async def test_port_zero_gives_a_free_port():
    """Two servers on port 0 get two ports, and both can be reached."""
    loop = asyncio.get_running_loop()
    ports = []
    for _ in range(2):
        server = await loop.create_server(Recorder, "127.0.0.1", 0)
        ports.append(server.sockets[0].getsockname()[1])
    assert len(set(ports)) == 2
    for port in ports:
        transport, _ = await loop.create_connection(Recorder, "localhost", port)
        assert transport.get_extra_info("peername") == ("127.0.0.1", port)
        assert transport.get_extra_info("sockname")[1] >= 49_152
        assert transport.get_extra_info("socket") is None


async def test_a_taken_port_is_refused():
    """Two servers cannot have one port; a closed one gives it back."""
    loop = asyncio.get_running_loop()
    async with await loop.create_server(Recorder, "127.0.0.1", PORT) as server:
        with pytest.raises(OSError, match="address"):
            await loop.create_server(Recorder, "127.0.0.1", PORT)
        assert server.is_serving()
    assert not server.is_serving()
    assert server.sockets == ()
    await loop.create_server(Recorder, "127.0.0.1", PORT)


async def test_a_server_may_begin_later():
    """start_serving=False reserves the port but refuses."""
    loop = asyncio.get_running_loop()
    server = await loop.create_server(Recorder, "127.0.0.1", PORT, start_serving=False)
    with pytest.raises(ConnectionRefusedError):
        await loop.create_connection(Recorder, "127.0.0.1", PORT)
    await server.start_serving()
    await loop.create_connection(Recorder, "127.0.0.1", PORT)
    server.close()
    with pytest.raises(RuntimeError, match="closed"):
        await server.start_serving()


async def test_serve_forever_ends_with_its_task():
    """Cancelling serve_forever closes the server."""
    server = await asyncio.get_running_loop().create_server(Recorder, "127.0.0.1", PORT)
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(5):
            await server.serve_forever()
    assert not server.is_serving()


async def test_wait_closed_waits_for_the_last_connection(link):
    """close() stops listening only; wait_closed() waits for who is still there."""
    link.listener.close()
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(link.listener.wait_closed(), 5)
    link.listener.close_clients()
    await link.listener.wait_closed()
    assert link.server.calls == ["made", "lost"]


async def test_abort_clients(link):
    """abort_clients() ends every accepted connection at once."""
    link.listener.abort_clients()
    await asyncio.sleep(1)
    assert link.client.calls == ["made", "eof", "lost"]


async def test_a_factory_that_raises_costs_the_connection_only():
    """The client sees the end, the loop's handler the exception, the server goes on."""
    loop = asyncio.get_running_loop()
    reported = []
    loop.set_exception_handler(lambda _loop, context: reported.append(context["exception"]))
    server = await loop.create_server(lambda: 1 / 0, "127.0.0.1", PORT)
    _, client = await loop.create_connection(Recorder, "127.0.0.1", PORT)
    await asyncio.sleep(1)
    assert client.calls == ["made", "eof", "lost"]
    assert isinstance(reported[0], ZeroDivisionError)
    assert server.is_serving()


async def test_streams_work():
    """asyncio.start_server and open_connection, with drain and wait_closed."""

    async def echo(reader, writer):
        writer.write((await reader.readline()).upper())
        await writer.drain()
        writer.close()
        await writer.wait_closed()

    async with await asyncio.start_server(echo, "127.0.0.1", PORT):
        reader, writer = await asyncio.open_connection("127.0.0.1", PORT)
        writer.writelines([b"hel", b"lo\n"])
        assert await reader.read() == b"HELLO\n"
        writer.close()
        await writer.wait_closed()


# --- bytes -----------------------------------------------------------------------------------------------------------


async def test_bytes_take_the_latency(link):
    """A byte arrives one latency later; what is written in one instant arrives together."""
    client, server, network = link
    network.latency_s = 0.5
    begun_s = link.loop.time()
    client.transport.write(b"one ")
    client.transport.write(bytearray(b"two"))
    await asyncio.sleep(1)
    assert server.chunks == [b"one two"]
    assert server.times == [begun_s + 0.5]


async def test_bytes_never_overtake(link):
    """When the latency falls, later bytes still arrive later."""
    client, server, network = link
    network.latency_s = 2.0
    client.transport.write(b"slow ")
    await asyncio.sleep(0.5)
    network.latency_s = 0.1
    client.transport.write(b"fast")
    await asyncio.sleep(1)
    assert server.data == b""
    await asyncio.sleep(1)
    assert server.data == b"slow fast"


@given(
    st.lists(st.tuples(st.binary(max_size=200_000), st.sampled_from([0.0, 0.0001, 0.3])), max_size=8),
    st.sampled_from(["plain", "split", "glue"]),
)
def test_what_is_written_is_what_arrives(pieces, weather):
    """Whatever the segmentation and the pauses: the same bytes, then the end, on both sides."""

    async def main():
        client, server, network = await make_link()
        if weather == "split":
            network.split(997)
        elif weather == "glue":
            network.glue()
        for piece, pause_s in pieces:
            client.transport.write(piece)
            await asyncio.sleep(pause_s)
        client.transport.close()
        await asyncio.sleep(60)
        assert server.data == b"".join(piece for piece, _ in pieces)
        assert server.calls[-2:] == ["eof", "lost"]
        assert client.calls[-1] == "lost"
        assert network.connections(PORT) == 0

    run(main())


async def test_split_and_glue(link):
    """split() cuts at every byte, glue() collects over time, plain() does neither."""
    client, server, network = link
    network.split(1)
    client.transport.write(b"abc")
    await asyncio.sleep(1)
    assert server.chunks == [b"a", b"b", b"c"]
    network.glue(0.05)
    for _ in range(10):
        client.transport.write(b"x")
        await asyncio.sleep(0.004)
    await asyncio.sleep(1)
    assert server.chunks[3:] == [b"x" * 10]
    network.plain()
    client.transport.write(b"end")
    await asyncio.sleep(1)
    assert server.chunks[4:] == [b"end"]
    for wrong in (lambda: network.split(0), lambda: network.glue(0)):
        with pytest.raises(ValueError, match="must be"):
            wrong()


async def test_wrong_writes(link):
    """Text and writes after the end are errors; writes after close are ignored."""
    transport = link.client.transport
    with pytest.raises(TypeError, match="bytes-like"):
        transport.write("text")
    assert transport.can_write_eof()
    transport.write_eof()
    with pytest.raises(RuntimeError, match="write_eof"):
        transport.write(b"late")
    link.server.transport.close()
    link.server.transport.write(b"late")
    await asyncio.sleep(1)
    assert link.client.data == b""


# --- flow control ----------------------------------------------------------------------------------------------------


async def test_a_reader_that_pauses_stops_the_writer(link):
    """The window fills, then the write buffer, then pause_writing; and everything comes when reading resumes."""
    client, server, _ = link
    server.transport.pause_reading()
    assert not server.transport.is_reading()
    sent = bytes(range(256)) * 1024
    client.transport.write(sent)
    await asyncio.sleep(1)
    assert client.transport.get_write_buffer_size() == len(sent) - WINDOW_BYTES
    assert client.calls == ["made", "pause"]
    assert server.data == b""
    server.transport.resume_reading()
    await asyncio.sleep(1)
    assert server.data == sent
    assert client.calls == ["made", "pause", "resume"]


async def test_water_marks(link):
    """The limits are asyncio's."""
    client, _, network = link
    assert client.transport.get_write_buffer_limits() == (16_384, 65_536)
    client.transport.set_write_buffer_limits(high=10)
    network.freeze(PORT)
    client.transport.write(b"0123456789")
    assert client.calls == ["made"]
    client.transport.write(b"!")
    assert client.calls == ["made", "pause"]
    network.thaw(PORT)
    await asyncio.sleep(1)
    assert client.calls == ["made", "pause", "resume"]


# --- endings ---------------------------------------------------------------------------------------------------------


async def test_close_flushes_first(link):
    """A megabyte that is written before close() arrives."""
    client, server, _ = link
    client.transport.write(b"x" * 1_000_000)
    client.transport.close()
    assert client.transport.is_closing()
    assert client.calls == ["made", "pause"]
    await asyncio.sleep(1)
    assert len(server.data) == 1_000_000
    assert client.calls[-1] == "lost"
    assert server.calls[-2:] == ["eof", "lost"]


async def test_half_close(link):
    """write_eof ends one direction only."""
    link.listener.close()
    link.listener.abort_clients()
    await asyncio.sleep(1)
    client, server, _ = await make_link(keep_open=True)
    client.transport.write_eof()
    await asyncio.sleep(1)
    assert server.calls == ["made", "eof"]
    server.transport.write(b"still here")
    server.transport.close()
    await asyncio.sleep(1)
    assert client.data == b"still here"
    assert client.calls[-2:] == ["eof", "lost"]


async def test_abort_drops_what_is_buffered(link):
    """abort() ends at once; the peer sees an end, not an error."""
    client, server, network = link
    network.freeze(PORT)
    client.transport.write(b"never sent")
    client.transport.abort()
    await asyncio.sleep(1)
    assert client.calls == ["made", "lost"]
    assert server.calls == ["made"]
    assert network.connections(PORT) == 1
    network.thaw(PORT)
    await asyncio.sleep(1)
    assert server.calls == ["made", "eof", "lost"]
    assert network.connections(PORT) == 0


async def test_connection_lost_comes_once_and_later(link):
    """close, abort and reset together end in one connection_lost, never inside the call."""
    client, _, network = link
    client.transport.close()
    client.transport.abort()
    network.reset(PORT)
    assert client.calls == ["made"]
    await asyncio.sleep(1)
    assert client.calls == ["made", "lost"]


async def test_bytes_for_a_closed_end_are_answered_by_a_reset():
    """Who goes on writing to a closed end gets ConnectionResetError, as over TCP."""
    client, server, _ = await make_link(keep_open=True)
    client.transport.close()
    await asyncio.sleep(1)
    server.transport.write(b"anyone?")
    await asyncio.sleep(1)
    assert server.calls == ["made", "eof", "ConnectionResetError"]


@pytest.mark.parametrize("error", [ValueError, asyncio.CancelledError])
async def test_a_protocol_that_raises_loses_its_connection(link, error):
    """An exception in data_received is reported and ends the connection: IB-facts finding 13."""
    client, server, _ = link
    reported = []
    link.loop.set_exception_handler(lambda _loop, context: reported.append(context["message"]))

    def fail(_data):
        raise error

    server.data_received = fail
    client.transport.write(b"x")
    await asyncio.sleep(1)
    assert reported == ["Fatal error: protocol.data_received() call failed."]
    assert server.calls[-1] in {"ValueError", "lost"}
    assert client.calls == ["made", "eof", "lost"]


def test_a_protocol_that_exits_ends_the_loop():
    """SystemExit is not the transport's to swallow."""

    async def main():
        client, server, _ = await make_link()

        def leave(_data):
            raise SystemExit(3)

        server.data_received = leave
        client.transport.write(b"x")
        await asyncio.sleep(1)

    with pytest.raises(SystemExit):
        run(main())


async def test_protocols_can_be_exchanged(link):
    """set_protocol hands the stream to another."""
    client, server, _ = link
    other = Recorder()
    server.transport.set_protocol(other)
    assert server.transport.get_protocol() is other
    client.transport.write(b"x")
    await asyncio.sleep(1)
    assert (server.data, other.data) == (b"", b"x")


# --- misfortunes -----------------------------------------------------------------------------------------------------


async def test_refuse_and_accept(link):
    """New connections are refused, old ones go on."""
    client, server, network = link
    network.refuse(PORT)
    with pytest.raises(ConnectionRefusedError):
        await link.loop.create_connection(Recorder, "127.0.0.1", PORT)
    client.transport.write(b"still")
    await asyncio.sleep(1)
    assert server.data == b"still"
    network.accept(PORT)
    await link.loop.create_connection(Recorder, "127.0.0.1", PORT)
    assert network.connections(PORT) == 2


async def test_freeze_holds_both_ways_and_thaw_lets_go_in_order(link):
    """On a frozen line nothing arrives, not even what was under way; after the thaw everything, in order."""
    client, server, network = link
    client.transport.write(b"under way, ")
    network.freeze(PORT)
    network.freeze(PORT)
    client.transport.write(b"buffered")
    server.transport.write(b"answer")
    await asyncio.sleep(3600)
    assert (server.data, client.data) == (b"", b"")
    assert client.transport.get_write_buffer_size() == len(b"buffered")
    network.thaw(PORT)
    network.thaw(PORT)
    await asyncio.sleep(1)
    assert (server.data, client.data) == (b"under way, buffered", b"answer")


async def test_connecting_to_a_frozen_port_hangs_until_the_thaw(link):
    """A connect to a half-open machine neither succeeds nor fails."""
    link.network.freeze(PORT)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(link.loop.create_connection(Recorder, "127.0.0.1", PORT), 20)
    async with asyncio.TaskGroup() as group:
        waiting = group.create_task(link.loop.create_connection(Recorder, "127.0.0.1", PORT))
        await asyncio.sleep(5)
        assert not waiting.done()
        link.network.thaw(PORT)
    assert waiting.result()[1].calls == ["made"]
    assert link.network.connections(PORT) == 2


async def test_a_connect_that_is_cancelled_leaves_nothing():
    """Cancelled between the server's accept and the client's return: both ends are closed."""
    loop = asyncio.get_running_loop()
    servers = []
    await loop.create_server(lambda: servers.append(Recorder()) or servers[-1], "127.0.0.1", PORT)
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(loop.create_connection(Recorder, "127.0.0.1", PORT), loop.network.latency_s * 1.5)
    await asyncio.sleep(1)
    assert servers[0].calls == ["made", "eof", "lost"]
    assert loop.network.connections(PORT) == 0


async def test_reset_while_connecting():
    """A reset between accept and return is the connect's error."""
    loop = asyncio.get_running_loop()
    await loop.create_server(Recorder, "127.0.0.1", PORT)
    loop.call_later(loop.network.latency_s * 1.5, loop.network.reset, PORT)
    with pytest.raises(ConnectionResetError):
        await loop.create_connection(Recorder, "127.0.0.1", PORT)


async def test_reset_before_the_accept():
    """A reset that comes before the server has accepted spares it the protocol."""
    loop = asyncio.get_running_loop()
    made = []
    await loop.create_server(lambda: made.append(1), "127.0.0.1", PORT)
    # Two turns of the loop after the SYN arrives, and so just before the accept.
    loop.call_later(loop.network.latency_s, lambda: loop.call_soon(loop.call_soon, loop.network.reset, PORT))
    with pytest.raises(ConnectionResetError):
        await loop.create_connection(Recorder, "127.0.0.1", PORT)
    assert made == []


async def test_reset_tells_both_ends(link):
    """Both ends of every connection get ConnectionResetError; other ports notice nothing."""
    await link.loop.create_server(Recorder, "127.0.0.1", PORT + 1)
    _, other = await link.loop.create_connection(Recorder, "127.0.0.1", PORT + 1)
    link.client.transport.write(b"lost")
    link.network.reset(PORT)
    await asyncio.sleep(1)
    assert link.client.calls == link.server.calls == ["made", "ConnectionResetError"]
    assert other.calls == ["made"]
    assert repr(link.client.transport).endswith("lost>")


# --- whose call it is ------------------------------------------------------------------------------------------------


async def test_server_and_client_keep_their_own_context():
    """A context variable of the client's task is not seen by the server's protocol, and nobody's task is current."""
    loop = asyncio.get_running_loop()
    name = contextvars.ContextVar("name", default="nobody")
    seen = []

    class Curious(Recorder):
        def data_received(self, data):
            seen.append((name.get(), asyncio.current_task()))

    await loop.create_server(Curious, "127.0.0.1", PORT)
    name.set("client")
    transport, _ = await loop.create_connection(Recorder, "127.0.0.1", PORT)
    transport.write(b"x")
    await asyncio.sleep(1)
    assert seen == [("nobody", None)]


def test_the_same_program_does_the_same_twice():
    """Two runs of a busy conversation give the same trace, bytes and times."""

    async def main():
        client, server, network = await make_link()
        for n in range(200):
            (client if n % 3 else server).transport.write(bytes([n]) * n)
            if n == 50:
                network.freeze(PORT)
            if n == 80:
                network.thaw(PORT)
            await asyncio.sleep(0.0001 * (n % 5))
        await asyncio.sleep(1)
        return client.chunks, client.times, server.chunks, server.times

    assert run(main()) == run(main())


def test_loops_do_not_share_a_network():
    """Each loop has its own ports."""

    async def main():
        await asyncio.get_running_loop().create_server(Recorder, "127.0.0.1", PORT)
        with pytest.raises(ConnectionRefusedError):
            await asyncio.get_running_loop().create_connection(Recorder, "127.0.0.1", PORT + 1)

    run(main())
    run(main())
