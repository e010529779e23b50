"""ib_insync's `IB` with what it lacks: it fails fast and says why, every request ends, and nothing stays behind.

Goal: no future hangs, no subscription or container leaks, no error is a bare TimeoutError. Method: the real library
against the simulated gateway, and against a gateway that says exactly what a script tells it to, under virtual time.
"""

from __future__ import annotations

import asyncio
import gc
import itertools
import logging
import socket

import ib_insync
import pytest

from ibkr_service.broker.dialling import KNOCK_S, SLOW_KNOCK_S, TIRELESS_S, Patience, dial
from ibkr_service.broker.ib import IB, adopt_running_loop
from ibkr_service.core.errors import (
    BrokerRefused,
    ClientIdInUse,
    GatewayError,
    GatewayUnreachable,
    NobodyListens,
    NotLoggedIn,
    NotReady,
    RequestTimeout,
    VersionUnsupported,
)
from ibkr_service.sim import Gateway, GatewayConfig, serve
from ibkr_service.sim.messages import Answer
from ibkr_service.sim.testing import simulated_gateway
from ibkr_service.sim.wire import frame

PORT = 4002
LOGGED_IN = (frame(Answer.MANAGED_ACCOUNTS, 1, "DU1"), frame(Answer.NEXT_VALID_ID, 1, 1))
HANDSHAKE = frame(176, "20261123 10:00:00 EST")


class Script(asyncio.Protocol):
    """A gateway that says one thing to the greeting and another to startApi, and may hang up after either."""

    def __init__(self, greeting=HANDSHAKE, welcome=LOGGED_IN, hangs_up_after=None):
        self.greeting, self.welcome, self.hangs_up_after = greeting, welcome, hangs_up_after
        self.heard = b""

    def connection_made(self, transport):
        """Somebody called."""
        self.transport = transport
        if self.hangs_up_after == "connect":
            transport.close()

    def data_received(self, data):
        """Say the next thing of the script."""
        greeted = b"API\0" in self.heard
        self.heard += data
        if not greeted:
            self.transport.write(self.greeting)
            if self.hangs_up_after == "greeting":
                self.transport.close()
        else:
            for message in self.welcome:
                self.transport.write(message)
            if self.hangs_up_after == "welcome":
                self.transport.close()


@pytest.fixture
def scripted():
    """Start a gateway that follows a script."""
    servers = []

    async def serve(**script):
        server = await asyncio.get_running_loop().create_server(lambda: Script(**script), "127.0.0.1", PORT)
        servers.append(server)

    yield serve
    for server in servers:
        server.close()


@pytest.fixture
async def server():
    """A simulated gateway."""
    async with simulated_gateway(GatewayConfig(seed=5)) as server:
        yield server


@pytest.fixture
async def ib(server):
    """A client of it."""
    ib = IB()
    await ib.connectAsync("127.0.0.1", server.port, 1)
    yield ib
    ib.teardown()


@pytest.fixture
async def eur(ib):
    """EUR.USD as the gateway knows it."""
    (details,) = await ib.reqContractDetailsAsync(ib_insync.Forex("EURUSD"))
    return details.contract


async def refused(port=PORT, timeout_s=5.0, client_id=1):
    """Connect, in vain; the error, and how long it took. Nothing must be left of it."""
    loop = asyncio.get_running_loop()
    began_s, tasks = loop.time(), asyncio.all_tasks()
    ib = IB()
    try:
        await ib.connectAsync("127.0.0.1", port, client_id, timeout_s)
    except Exception as exc:  # noqa: BLE001 - the test looks at it
        error, took_s = exc, loop.time() - began_s
    else:
        pytest.fail("it connected")
    await asyncio.sleep(0.1)
    assert asyncio.all_tasks() == tasks
    assert ib.client.conn.transport is None
    assert not ib.isConnected()
    return error, took_s


def lines_at(server):
    """How many market-data lines are open at the gateway."""
    return sum(stream.is_market_data for session in server.gateway.sessions for stream in session.streams.values())


def is_clean(ib):
    """Nothing is kept of requests that have ended."""
    wrapper = ib.wrapper
    return not (wrapper._futures or wrapper._results or wrapper._reqId2Contract)


# --- connecting ------------------------------------------------------------------------------------------------------


async def test_a_connection_is_usable_at_once(ib):
    """Logged on, version and accounts known, nothing asked on its own account."""
    assert ib.client.serverVersion() == 176
    assert ib.client.getAccounts() == ["DU1234567"]
    assert ib.wrapper.clientId == 1
    assert (await ib.reqCurrentTimeAsync()).year == 2026


async def test_nobody_listens():
    """Said at once, with the address."""
    error, took_s = await refused()
    assert isinstance(error, GatewayUnreachable)
    assert "nobody listens at 127.0.0.1:4002" in str(error)
    assert took_s < 0.01


async def knock(patience_s, limit_s=5):
    """Connect with patience; returns the connected IB, or the error, and how long it took."""
    loop = asyncio.get_running_loop()
    ib, began_s = IB(), loop.time()
    try:
        await ib.connectAsync("127.0.0.1", PORT, 1, limit_s, Patience(began_s + patience_s, began_s))
    except GatewayError as error:
        return error, loop.time() - began_s
    return ib, loop.time() - began_s


@pytest.mark.parametrize(
    ("away_s", "gap_s"), [(0.0, 0), (3.1, KNOCK_S), (700, KNOCK_S), (2 * TIRELESS_S, SLOW_KNOCK_S)]
)
async def test_a_port_that_refuses_is_knocked_at_until_it_accepts(away_s, gap_s):
    """However long it takes; the gateway sees the one connection that is then used."""
    loop = asyncio.get_running_loop()
    async with asyncio.TaskGroup() as group:
        knocking = group.create_task(knock(10_000))
        await asyncio.sleep(away_s)
        gateway = await serve(Gateway(GatewayConfig(seed=5)), port=PORT)
        ib, took_s = await knocking
        assert took_s <= away_s + gap_s + 0.01
        assert ib.isConnected()
        assert loop.network.connections(PORT) == 1
        ib.teardown()
        await gateway.close()


async def test_a_socket_that_is_connected_to_itself_is_nobody():
    """As happens to who knocks at a port of his own machine again and again."""
    loop = asyncio.get_running_loop()
    async with simulated_gateway(GatewayConfig(seed=5), port=PORT):
        loop.network._client_ports = itertools.count(PORT)
        error, _ = await refused()
        assert isinstance(error, NobodyListens)
        loop.network._client_ports = itertools.count(PORT)
        ib, took_s = await knock(10)
        assert ib.isConnected()
        assert took_s == pytest.approx(KNOCK_S, abs=0.01)
        ib.teardown()


async def test_a_name_that_does_not_resolve_is_asked_for_seldom():
    """A container that restarts has no name for a while: patience holds for it, too, at a slow pace."""

    class Nameless:
        asked = 0

        async def dial(self, _host, _port):
            self.asked += 1
            raise socket.gaierror(-2, "Name or service not known")

    loop, conn = asyncio.get_running_loop(), Nameless()
    async with asyncio.timeout(1) as scope:
        patience = Patience(loop.time() + 60, loop.time())
        with pytest.raises(socket.gaierror):
            await dial(conn, scope, "ib-gateway", PORT, timeout_s=5.0, patience=patience)
    assert conn.asked == 60 / SLOW_KNOCK_S + 1


async def test_patience_has_an_end():
    """And is not spent on a port that accepts: there the limit of the handshake holds, from the acceptance on."""
    error, took_s = await knock(7.3)
    assert isinstance(error, NobodyListens)
    assert took_s == pytest.approx(7.3, abs=0.01)
    gateway = await serve(Gateway(GatewayConfig(seed=5)), port=PORT)
    gateway.faults.mute()
    error, took_s = await knock(7.3)
    assert not isinstance(error, NobodyListens)
    assert took_s == pytest.approx(5, abs=0.01)
    await gateway.close()


async def test_a_mute_gateway(server):
    """It accepts and never answers: said after the limit, not after a multiple of it."""
    server.faults.mute()
    error, took_s = await refused(server.port)
    assert isinstance(error, GatewayUnreachable)
    assert "did not answer the handshake within 5 s" in str(error)
    assert took_s == pytest.approx(5, abs=0.01)
    await asyncio.sleep(1)
    assert asyncio.get_running_loop().network.connections(server.port) == 0


async def test_a_frozen_line():
    """Not even the socket opens."""
    loop = asyncio.get_running_loop()
    loop.network.freeze(PORT)
    error, took_s = await refused()
    assert isinstance(error, GatewayUnreachable)
    assert took_s == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("moment", ["connect", "greeting"])
async def test_a_gateway_that_hangs_up_during_the_handshake(scripted, moment):
    """Said at once, not after the limit."""
    await scripted(hangs_up_after=moment, welcome=())
    error, took_s = await refused()
    assert isinstance(error, GatewayUnreachable)
    assert "closed the connection during the handshake" in str(error)
    assert took_s < 0.1


async def test_a_gateway_that_hangs_up_after_the_login(scripted):
    """Half of the login was said: it is not taken for a connection."""
    await scripted(hangs_up_after="welcome", welcome=LOGGED_IN[:1])
    error, took_s = await refused()
    assert isinstance(error, GatewayUnreachable)
    assert took_s < 0.1


async def test_a_gateway_that_logs_us_in_and_hangs_up(scripted):
    """Connected for an instant: either an error at once, or a connection that knows that it is over."""
    await scripted(hangs_up_after="welcome")
    ib = IB()
    over = asyncio.Event()
    ib.disconnectedEvent += over.set
    try:
        await ib.connectAsync("127.0.0.1", PORT, 1, 5)
    except GatewayUnreachable:
        return
    await asyncio.wait_for(over.wait(), 1)
    assert not ib.isConnected()


async def test_a_client_id_in_use_is_told_in_an_instant(server, ib):
    """326: the library alone would let us wait for the limit."""
    error, took_s = await refused(server.port)
    assert isinstance(error, ClientIdInUse)
    assert "client id 1 is in use" in str(error)
    assert took_s < 0.01
    assert ib.isConnected(), "the one that holds it is not disturbed"


@pytest.mark.parametrize(
    "welcome",
    [(), LOGGED_IN[:1], LOGGED_IN[1:], (frame(Answer.MANAGED_ACCOUNTS, 1, ""), LOGGED_IN[1])],
    ids=["nothing", "no id", "no account", "empty accounts"],
)
async def test_a_gateway_that_is_not_logged_in(scripted, welcome):
    """The handshake works, but no account or order id comes: a login or a second factor is pending."""
    await scripted(welcome=welcome)
    error, took_s = await refused()
    assert isinstance(error, NotLoggedIn)
    assert "is it logged in?" in str(error)
    assert took_s == pytest.approx(5, abs=0.01)


@pytest.mark.parametrize("version", [156, 100, 177, 187, 222])
async def test_a_protocol_that_we_cannot_decode(scripted, version):
    """Older or newer than the decoder: said at once, instead of misreading prices."""
    await scripted(greeting=frame(version, "20261123 10:00:00 EST"))
    error, took_s = await refused()
    assert isinstance(error, VersionUnsupported)
    assert took_s < 0.1


@pytest.mark.parametrize(
    "greeting",
    [
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        frame("not a number", "today"),
        b"\0\0\0\0" * 10,
        b"\xff" * 100,
        frame("", ""),
    ],
    ids=["http", "text", "empty frames", "huge frame", "empty fields"],
)
async def test_something_else_that_listens(scripted, greeting):
    """A web server, another protocol: GatewayUnreachable within the limit, whatever it says."""
    await scripted(greeting=greeting, welcome=())
    error, took_s = await refused()
    assert isinstance(error, GatewayUnreachable)
    assert took_s <= 5.01


async def test_a_login_in_single_bytes_is_a_login(server):
    """However TCP cuts it."""
    asyncio.get_running_loop().network.split(1)
    ib = IB()
    await ib.connectAsync("127.0.0.1", server.port, 1)
    assert ib.client.getAccounts() == ["DU1234567"]
    ib.teardown()


@pytest.mark.parametrize("moment_s", [0, 0.0001, 0.0003, 0.0005, 0.0007, 0.001])
async def test_a_connect_can_be_cancelled_at_any_moment(server, moment_s):
    """Nothing is left: no task, no socket, and the client id is free."""
    tasks = asyncio.all_tasks()
    ib = IB()
    connecting = asyncio.get_running_loop().create_task(ib.connectAsync("127.0.0.1", server.port, 1))
    await asyncio.sleep(moment_s)
    connecting.cancel()
    try:
        await connecting
    except asyncio.CancelledError:
        pass
    else:
        ib.teardown()
    await asyncio.sleep(1)
    assert asyncio.all_tasks() == tasks
    assert server.gateway.sessions == []
    again = IB()
    await again.connectAsync("127.0.0.1", server.port, 1)
    again.teardown()


async def test_the_policys_loop_is_the_running_one():
    """ib_insync asks the policy; under a loop factory they differ, until this is called."""
    asyncio.set_event_loop(None)
    adopt_running_loop()
    assert ib_insync.util.getLoop() is asyncio.get_running_loop()


# --- teardown --------------------------------------------------------------------------------------------------------


async def test_teardown_fails_what_is_pending(server, ib, eur):
    """Each waiter gets an answer at once: the library's own disconnect would let all of them hang."""
    server.faults.stall()
    loop = asyncio.get_running_loop()
    pending = [
        loop.create_task(ib.request("time", ib.reqCurrentTimeAsync, 60)),
        loop.create_task(ib.request("positions", ib.reqPositionsAsync, 60, key="positions")),
        loop.create_task(ib.request("positions", ib.reqPositionsAsync, 60, key="positions")),
        loop.create_task(ib.reqMktDataAsync(eur, timeout_s=60)),
    ]
    await asyncio.sleep(1)
    began_s = loop.time()
    ib.teardown()
    ib.teardown()
    results = await asyncio.gather(*pending, return_exceptions=True)
    assert [type(result) for result in results] == [NotReady] * 4
    assert loop.time() - began_s < 0.01
    assert is_clean(ib)
    server.faults.resume()


async def test_a_lost_connection_leaves_no_exception_unseen(server, ib):
    """Who asked may be stopped in the moment in which the connection is lost; asyncio would complain of it later."""
    complaints = []
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(lambda _loop, context: complaints.append(context["message"]))
    server.faults.stall()
    ib.reqCurrentTimeAsync()
    await asyncio.sleep(1)
    server.faults.drop()
    await asyncio.sleep(1)
    gc.collect()
    assert ib.client.conn.transport is None
    assert complaints == []


async def test_teardown_frees_a_half_open_socket(server, ib):
    """Unsent bytes do not keep it open; `close()` would wait for their flush for ever."""
    network = asyncio.get_running_loop().network
    network.freeze(server.port)
    ib.reqCurrentTimeAsync()
    await asyncio.sleep(1)
    ib.teardown()
    await asyncio.sleep(0.01)
    assert ib.client.conn.transport is None
    network.thaw(server.port)


async def test_after_teardown_nothing_is_sent_and_nothing_hangs(server, ib, eur):
    """Requests and orders are told "not connected"; the gateway hears nothing."""
    ib.teardown()
    with pytest.raises(NotReady):
        await ib.request("time", ib.reqCurrentTimeAsync, 60)
    with pytest.raises(NotReady):
        await ib.reqMktDataAsync(eur)
    with pytest.raises(ConnectionError):
        ib.client.placeOrder(1, eur, ib_insync.MarketOrder("BUY", 1000))
    ib.stop_quotes(eur)
    await asyncio.sleep(1)
    assert server.gateway.exchange.orders == {}


# --- requests --------------------------------------------------------------------------------------------------------


async def test_a_request_that_is_not_answered_ends(server, ib):
    """RequestTimeout with its name; nothing of it is kept, and the next one of its kind works."""
    server.faults.ignore("positions", times=1)
    with pytest.raises(RequestTimeout, match="positions: no answer within 3 s"):
        await ib.request("positions", ib.reqPositionsAsync, 3, key="positions")
    assert is_clean(ib)
    assert await ib.request("positions", ib.reqPositionsAsync, 3, key="positions") == []
    assert is_clean(ib)


async def test_a_request_that_is_refused_says_why(ib):
    """The broker's code and words; the container is not kept."""
    for _ in range(3):
        with pytest.raises(BrokerRefused) as caught:
            await ib.request("details", lambda: ib.reqContractDetailsAsync(ib_insync.Stock("NOPE", "SMART", "USD")), 3)
        assert (caught.value.code, caught.value.about) == (200, "details")
    assert is_clean(ib)


async def test_a_request_on_a_line_that_dies_ends(server, ib):
    """At once."""
    server.faults.stall()
    asking = asyncio.get_running_loop().create_task(ib.request("time", ib.reqCurrentTimeAsync, 60))
    await asyncio.sleep(1)
    server.faults.drop()
    with pytest.raises(NotReady, match="down"):
        await asyncio.wait_for(asking, 1)
    assert is_clean(ib)


async def test_requests_of_one_key_go_one_at_a_time(server, ib):
    """The library links some answers by name only: of two under way the first would hang for ever."""
    answers = await asyncio.gather(
        *(ib.request(f"positions {n}", ib.reqPositionsAsync, 5, key="positions") for n in range(5))
    )
    assert answers == [[]] * 5
    assert is_clean(ib)


async def test_one_that_times_out_gives_its_key_back(server, ib):
    """Also one that is cancelled while it waits for its turn."""
    server.faults.ignore("positions", times=1)
    loop = asyncio.get_running_loop()
    first, second, third = (
        loop.create_task(ib.request(f"{n}", ib.reqPositionsAsync, 3, key="positions")) for n in range(3)
    )
    await asyncio.sleep(1)
    second.cancel()
    with pytest.raises(RequestTimeout):
        await first
    assert await third == []
    assert second.cancelled()


async def test_a_late_answer_is_no_error(server, ib, eur, caplog):
    """What was given up and is answered after all disturbs nobody: the decoder must not cry wolf."""
    server.faults.stall()
    calls = [
        lambda: ib.reqContractDetailsAsync(eur),
        ib.reqPositionsAsync,
        ib.reqAllOpenOrdersAsync,
        lambda: ib.reqCompletedOrdersAsync(False),
        ib.reqExecutionsAsync,
        lambda: ib.reqAccountUpdatesAsync("DU1234567"),
        ib.reqCurrentTimeAsync,
    ]
    for call in calls:
        with pytest.raises(RequestTimeout):
            await ib.request("it", call, 0.5)
    server.faults.resume()
    await asyncio.sleep(5)
    assert [record.getMessage() for record in caplog.records if record.levelno >= logging.ERROR] == []
    assert is_clean(ib)


async def test_a_cancellation_that_meets_the_answer_is_obeyed(ib):
    """Before Python 3.12 `wait_for` swallows it, and a keeper that must end would go on."""
    loop = asyncio.get_running_loop()
    answer = loop.create_future()
    asking = loop.create_task(ib.request("it", lambda: answer, 5))
    await asyncio.sleep(0)
    answer.set_result("an answer")
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking


# --- market data -----------------------------------------------------------------------------------------------------


async def test_the_first_quote_is_waited_for(server, ib, eur):
    """A ticker with a price; the subscription stays until it is ended, and then nothing of it is left."""
    ticker = await ib.reqMktDataAsync(eur)
    assert ticker.hasBidAsk()
    assert lines_at(server) == 1
    bid = ticker.bid
    await asyncio.sleep(60)
    assert ticker.bid != bid, "it goes on"
    ib.stop_quotes(eur)
    ib.stop_quotes(eur)
    await asyncio.sleep(1)
    assert lines_at(server) == 0
    assert ib.wrapper.tickers == {}
    assert ib.wrapper.reqId2Ticker == {}
    assert is_clean(ib)


async def test_a_refused_subscription_says_why(server, ib):
    """The broker's error for this very request; nothing stays subscribed or kept."""
    with pytest.raises(BrokerRefused) as caught:
        await ib.reqMktDataAsync(ib_insync.Stock("NOPE", "SMART", "USD"))
    assert caught.value.code == 200
    await asyncio.sleep(1)
    assert lines_at(server) == 0
    assert ib.wrapper.tickers == {}
    assert is_clean(ib)


async def test_a_silent_subscription_ends(server, ib, eur):
    """No quote within the limit: RequestTimeout, and the line is given back."""
    server.faults.farm_down()
    with pytest.raises(RequestTimeout, match=r"first quote of EUR\.USD: no answer within 3 s"):
        await ib.reqMktDataAsync(eur, timeout_s=3)
    await asyncio.sleep(1)
    assert lines_at(server) == 0
    assert is_clean(ib)


async def test_a_subscription_on_a_line_that_dies_ends(server, ib, eur):
    """NotReady at once."""
    server.faults.farm_down()
    asking = asyncio.get_running_loop().create_task(ib.reqMktDataAsync(eur, timeout_s=60))
    await asyncio.sleep(1)
    server.faults.drop()
    with pytest.raises(NotReady):
        await asyncio.wait_for(asking, 1)


async def test_a_cancelled_wait_gives_the_line_back(server, ib, eur):
    """Who asked has gone."""
    server.faults.farm_down()
    asking = asyncio.get_running_loop().create_task(ib.reqMktDataAsync(eur, timeout_s=60))
    await asyncio.sleep(1)
    assert lines_at(server) == 1
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    await asyncio.sleep(1)
    assert lines_at(server) == 0
    assert ib.wrapper.tickers == {}


async def test_a_quote_without_a_price_is_not_the_first(server, ib, eur):
    """-1 with size 0 is TWS's "none": waited on."""
    server.faults.farm_down()
    asking = asyncio.get_running_loop().create_task(ib.reqMktDataAsync(eur, timeout_s=60))
    await asyncio.sleep(1)
    (request,) = ib.wrapper.reqId2Ticker
    (session,) = server.gateway.sessions
    for kind, price, size in ((1, -1, 0), (2, -1, 0), (4, 0, 0), (9, 1.1, 0), (1, 1.1, 500)):
        session.send(frame(Answer.TICK_PRICE, 6, request, kind, price, size, 0))
        await asyncio.sleep(0.1)
        assert not asking.done(), f"tick {kind} at {price} is no quote"
    session.send(frame(Answer.TICK_PRICE, 6, request, 2, 1.2, 500, 0))
    assert (await asking).ask == 1.2


async def test_a_contract_subscribed_twice_is_one_line(server, ib, eur):
    """The library would forget the first request, and that line could never be cancelled."""
    first, second = await asyncio.gather(ib.reqMktDataAsync(eur), ib.reqMktDataAsync(eur))
    assert first is second is await ib.reqMktDataAsync(eur)
    await asyncio.sleep(1)
    assert lines_at(server) == 1
    ib.stop_quotes(eur)
    await asyncio.sleep(1)
    assert lines_at(server) == 0


async def test_hundreds_of_subscriptions_leave_nothing_behind(server, ib, eur):
    """Equal contracts are new objects each time, as a script makes them."""
    for _ in range(200):
        contract = ib_insync.Contract(conId=eur.conId, secType="CASH", exchange="IDEALPRO")
        await ib.reqMktDataAsync(contract)
        ib.stop_quotes(contract)
    await asyncio.sleep(1)
    wrapper = ib.wrapper
    assert lines_at(server) == 0
    assert [wrapper.tickers, wrapper.reqId2Ticker, wrapper.ticker2ReqId["mktData"]] == [{}, {}, {}]
    assert len(wrapper.pendingTickers) <= 1, "those of the last packet"
    assert is_clean(ib)


async def test_reading_can_be_paused(server, ib, eur):
    """TCP makes the gateway wait; nothing is lost."""
    ticker = await ib.reqMktDataAsync(eur)
    ib.pause_reading()
    ib.pause_reading()
    await asyncio.sleep(1)
    bid = (ticker.bid, ticker.ask)
    await asyncio.sleep(30)
    assert (ticker.bid, ticker.ask) == bid
    ib.resume_reading()
    ib.resume_reading()
    await asyncio.sleep(5)
    assert (ticker.bid, ticker.ask) != bid
    ib.teardown()
    ib.pause_reading()
    ib.resume_reading()
