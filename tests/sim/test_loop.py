"""SimLoop: time jumps, order holds, stillness is an error; and the real ib_insync client lives on it."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import itertools
import logging
import math
import struct
import threading
import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.sim.loop import Deadlock, Livelock, SimLoop, run

PORT = 4002


# --- time ------------------------------------------------------------------------------------------------------------


async def test_sleep_takes_virtual_time_only():
    """A night passes at once, and exactly."""
    loop = asyncio.get_running_loop()
    assert isinstance(loop, SimLoop)
    assert loop.time() == 0.0
    await asyncio.sleep(8 * 3600)
    assert loop.time() == 28_800.0


def test_time_starts_where_it_is_told():
    """run(start_s=…) sets the first reading of the clock."""

    async def main():
        await asyncio.sleep(1.5)
        return asyncio.get_running_loop().time()

    assert run(main(), start_s=100.0) == 101.5


@pytest.mark.parametrize("start_s", [-1.0, math.inf, math.nan])
def test_time_cannot_start_anywhere(start_s):
    """A start that is negative or not finite is refused."""
    with pytest.raises(ValueError, match="start_s"):
        SimLoop(start_s=start_s)


@given(st.lists(st.sampled_from([0.0, 0.1, 0.1 + 0.2, 0.3, 1.0]), max_size=60))
def test_equal_deadlines_keep_their_order(delays):
    """Timers run by time, and within one instant in the order in which they were set."""
    ran = []

    async def main():
        loop = asyncio.get_running_loop()
        for number, delay_s in enumerate(delays):
            loop.call_at(delay_s, ran.append, (delay_s, number))
        await asyncio.sleep(2)

    run(main())
    assert ran == sorted((delay_s, number) for number, delay_s in enumerate(delays))


@given(st.floats(0, 1e9), st.floats(1e-12, 1e6))
def test_a_timer_is_never_early(start_s, delay_s):
    """The clock shows at least the timer's time when it runs, at any magnitude."""

    async def main():
        loop = asyncio.get_running_loop()
        seen = loop.create_future()
        when_s = loop.call_later(delay_s, lambda: seen.set_result(loop.time())).when()
        assert await seen == when_s

    run(main(), start_s=start_s)


async def test_cancelled_timers_do_not_move_time():
    """A thousand timeouts that did not happen cost no time, and the heap forgets them."""
    loop = asyncio.get_running_loop()
    for _ in range(1000):
        async with asyncio.timeout(3600):
            await asyncio.sleep(0.001)
    assert loop.time() == pytest.approx(1.0)
    assert len(loop._timers) < 250


async def test_a_loop_that_is_held_runs_what_was_due_afterwards():
    """Time passes, nothing runs; then all that was due, in its order, and no timer that is not."""
    loop, ran = asyncio.get_running_loop(), []
    for due_s in (5.0, 3.0, 20.0):
        loop.call_later(due_s, lambda due_s=due_s: ran.append((due_s, loop.time())))
    loop.hold(10.0)
    assert ran == []
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    assert ran == [(3.0, 10.0), (5.0, 10.0)]
    await asyncio.sleep(15)
    assert ran[-1] == (20.0, 20.0)
    with pytest.raises(ValueError, match="held"):
        loop.hold(-1.0)


async def test_timer_at_nan_is_refused():
    """NaN would corrupt the order of the heap."""
    with pytest.raises(ValueError, match="NaN"):
        asyncio.get_running_loop().call_later(math.nan, print)


async def test_timeouts_and_groups_work():
    """The tools of asyncio need nothing special."""
    with pytest.raises(TimeoutError):
        await asyncio.wait_for(asyncio.sleep(10), 2)
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(asyncio.sleep(3 - n, n)) for n in range(3)]
    assert [task.result() for task in tasks] == [0, 1, 2]
    assert asyncio.get_running_loop().time() == 5.0


# --- stillness and storm ---------------------------------------------------------------------------------------------


async def waits_for_ever():
    """Wait for what nobody will do."""
    await asyncio.get_running_loop().create_future()


def test_deadlock_tells_who_waits_where():
    """When nothing can ever happen the loop says so, with each task's name and place."""

    async def main():
        async with asyncio.TaskGroup() as group:
            group.create_task(waits_for_ever(), name="strategy sma")
            group.create_task(asyncio.Queue().get(), name="hub")
            await asyncio.sleep(5)

    with pytest.raises(Deadlock) as caught:
        run(main())
    text = str(caught.value)
    assert "at 5.0 s" in text
    assert "3 tasks wait" in text
    assert "strategy sma: waits_for_ever (test_loop.py:" in text
    assert "hub: Queue.get (queues.py:" in text
    assert "main (test_loop.py:" in text


def test_deadlock_leaves_no_task_behind():
    """After a deadlock the tasks are cancelled and their cleanup runs."""
    cleaned = []

    async def main():
        try:
            await waits_for_ever()
        finally:
            cleaned.append(True)

    with pytest.raises(Deadlock):
        run(main())
    assert cleaned == [True]


def test_sleeping_until_infinity_is_a_deadlock():
    """A timer that is never due is no reason to wait."""
    with pytest.raises(Deadlock):
        run(asyncio.sleep(math.inf))


def test_livelock_is_noticed():
    """Work that makes work without time passing ends with an error, and the tasks can still be cancelled."""

    async def spin():
        for _ in itertools.count():
            await asyncio.sleep(0)

    with asyncio.Runner(loop_factory=lambda: SimLoop(callbacks_max=1000)) as runner:
        with pytest.raises(Livelock, match=r"more than 1000 callbacks at 0\.0 s") as caught:
            runner.run(spin())
        assert "spin (test_loop.py:" in str(caught.value)


def test_a_timer_that_is_due_at_once_for_ever_is_a_livelock():
    """The library's throttle does this at exactly one second of virtual time (IB-facts 7)."""

    async def main():
        loop = asyncio.get_running_loop()

        def again():
            loop.call_at(1.0, again)

        again()
        await asyncio.sleep(2)

    with (
        asyncio.Runner(loop_factory=lambda: SimLoop(callbacks_max=1000)) as runner,
        pytest.raises(Livelock, match=r"at 1\.0 s"),
    ):
        runner.run(main())


def test_much_work_over_time_is_no_livelock():
    """Only the callbacks of one instant are counted."""

    async def main():
        for _ in range(200):
            await asyncio.sleep(0.001)

    with asyncio.Runner(loop_factory=lambda: SimLoop(callbacks_max=50)) as runner:
        runner.run(main())


# --- threads, generators, warnings -----------------------------------------------------------------------------------


async def test_executor_runs_inline():
    """to_thread runs here and now, in this thread, and carries results and errors."""
    assert await asyncio.to_thread(threading.get_ident) == threading.get_ident()
    with pytest.raises(ZeroDivisionError):
        await asyncio.get_running_loop().run_in_executor(None, lambda: 1 / 0)


async def test_threadsafe_call_from_the_same_thread():
    """call_soon_threadsafe is call_soon."""
    loop = asyncio.get_running_loop()
    seen = loop.create_future()
    loop.call_soon_threadsafe(seen.set_result, "here")
    assert await seen == "here"


async def test_names_resolve_to_this_machine():
    """No name server is asked."""
    loop = asyncio.get_running_loop()
    assert [info[4] for info in await loop.getaddrinfo("tws.example", 7497)] == [("127.0.0.1", 7497)]


async def test_what_is_not_simulated_says_so():
    """Signals and TLS are refused, not ignored."""
    loop = asyncio.get_running_loop()
    with pytest.raises(NotImplementedError):
        loop.add_signal_handler(15, print)
    with pytest.raises(NotImplementedError, match="ssl"):
        await loop.create_connection(asyncio.Protocol, "127.0.0.1", PORT, ssl=True)
    with pytest.raises(ValueError, match="port"):
        await loop.create_connection(asyncio.Protocol, "127.0.0.1")


def test_run_restores_the_current_loop():
    """While run() runs its loop is the policy's current one; afterwards the former is back."""
    former = asyncio.new_event_loop()
    asyncio.set_event_loop(former)

    async def main():
        assert asyncio.get_event_loop_policy().get_event_loop() is asyncio.get_running_loop()

    try:
        run(main())
        assert asyncio.get_event_loop_policy().get_event_loop() is former
    finally:
        asyncio.set_event_loop(None)
        former.close()


@pytest.mark.parametrize("debug", [False, True])
def test_nothing_is_left_behind(debug):
    """Open connections, servers and generators cause no ResourceWarning, in debug mode neither."""

    async def main():
        async def numbers():
            yield 1
            await asyncio.sleep(1)

        loop = asyncio.get_running_loop()
        await loop.create_server(asyncio.Protocol, "127.0.0.1", PORT)
        await loop.create_connection(asyncio.Protocol, "127.0.0.1", PORT)
        async for _ in numbers():
            break
        await asyncio.sleep(1)

    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        with asyncio.Runner(loop_factory=SimLoop, debug=debug) as runner:
            runner.run(main())
        del runner
        gc.collect()
    assert [str(warning.message) for warning in caught] == []


# --- the real client -------------------------------------------------------------------------------------------------


ENDS = {"61": ["62", "1"], "5": ["53", "1"], "99": ["102"], "6": ["54", "1", "DU1234567"]}
ENDS_WITH_ID = {"76": "74", "7": "55"}


class ScriptedGateway(asyncio.Protocol):
    """Just enough of a TWS to let `connectAsync` finish: one frame in, some frames out."""

    def __init__(self, silent=()):
        self.silent = silent
        self.heard = []
        self.lost = "not yet"
        self.buffer = b""

    def connection_made(self, transport):
        self.transport = transport

    def connection_lost(self, exc):
        self.lost = exc

    def data_received(self, data):
        self.buffer += data
        if self.buffer.startswith(b"API\0"):
            self.buffer = self.buffer[4:]
        while len(self.buffer) >= 4 and len(self.buffer) >= (end := 4 + struct.unpack(">I", self.buffer[:4])[0]):
            frame, self.buffer = self.buffer[4:end], self.buffer[end:]
            self.answer(frame.decode().split("\0"))

    def send(self, *fields):
        frame = "".join(f"{field}\0" for field in fields).encode()
        self.transport.write(struct.pack(">I", len(frame)) + frame)

    def answer(self, fields):
        kind = fields[0]
        self.heard.append(kind)
        if kind in self.silent:
            return
        if kind.startswith("v"):
            self.send("176", "20261123 09:30:00 US/Eastern")
        elif kind == "71":
            self.send("15", "1", "DU1234567")
            self.send("9", "1", "101")
        elif kind in ENDS:
            self.send(*ENDS[kind])
        elif kind in ENDS_WITH_ID:
            self.send(ENDS_WITH_ID[kind], "1", fields[2])
        elif kind == "49":
            self.send("49", "1", "1764000000")


@pytest.fixture
async def ib():
    """Make ib_insync's own client, its throttle off (R34). Async, since eventkit wants a current loop at import."""
    import ib_insync

    ib = ib_insync.IB()
    ib.client.MaxRequests = 0
    return ib


@contextlib.asynccontextmanager
async def gateway(**options):
    """Serve one scripted gateway per connection; yields the list of them."""
    gateways = []

    def factory():
        gateways.append(ScriptedGateway(**options))
        return gateways[-1]

    async with await asyncio.get_running_loop().create_server(factory, "127.0.0.1", PORT):
        yield gateways


async def test_ib_insync_connects(ib):
    """The real client finishes its whole synchronisation, asks a question, and says goodbye."""
    loop = asyncio.get_running_loop()
    async with gateway() as gateways:
        await ib.connectAsync("127.0.0.1", PORT, clientId=1, timeout=5)
        assert ib.isConnected()
        assert ib.managedAccounts() == ["DU1234567"]
        assert sorted(gateways[0].heard[1:]) == sorted(["71", "61", "5", "99", "6", "76", "7"])
        assert (await ib.reqCurrentTimeAsync()).year == 2025
        assert 0 < loop.time() < 0.01
        ib.disconnect()
        await asyncio.sleep(1)
        assert gateways[0].lost is None
        assert loop.network.connections(PORT) == 0


@pytest.mark.parametrize("weather", ["split", "glue"])
async def test_ib_insync_does_not_mind_segmentation(ib, weather):
    """One byte at a time or everything at once: the same session."""
    network = asyncio.get_running_loop().network
    network.split(1) if weather == "split" else network.glue(0.05)
    async with gateway():
        await ib.connectAsync("127.0.0.1", PORT, clientId=1, timeout=5)
        assert ib.managedAccounts() == ["DU1234567"]
        ib.disconnect()
        await asyncio.sleep(1)


async def test_ib_insync_is_refused(ib):
    """Nobody listens: the error comes at once, not after the timeout."""
    with pytest.raises(ConnectionRefusedError):
        await ib.connectAsync("127.0.0.1", PORT, clientId=1, timeout=20)
    assert asyncio.get_running_loop().time() < 0.01


async def test_ib_insync_times_out_on_a_mute_gateway(ib):
    """A handshake that is never answered costs its timeout in virtual time, and leaves no connection."""
    async with gateway(silent=["71"]) as gateways:
        with pytest.raises(TimeoutError):
            await ib.connectAsync("127.0.0.1", PORT, clientId=1, timeout=20)
        await asyncio.sleep(1)
        assert asyncio.get_running_loop().time() == pytest.approx(21, abs=0.01)
        assert gateways[0].lost is None


async def test_ib_insync_on_a_half_open_line_is_freed_by_abort_only(ib):
    """IB-facts finding 8: unsent bytes keep `disconnect` from finishing for ever; `transport.abort` ends it."""
    network = asyncio.get_running_loop().network
    async with gateway() as gateways:
        await ib.connectAsync("127.0.0.1", PORT, clientId=1, timeout=5)
        transport = ib.client.conn.transport
        network.freeze(PORT)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ib.reqCurrentTimeAsync(), 10)
        assert transport.get_write_buffer_size() > 0
        ib.disconnect()
        await asyncio.sleep(3600)
        assert ib.client.conn.transport is transport
        transport.abort()
        await asyncio.sleep(1)
        assert ib.client.conn.transport is None
        assert gateways[0].lost == "not yet"  # the gateway cannot know
        network.thaw(PORT)
        await asyncio.sleep(1)
        assert gateways[0].lost is None


async def test_ib_insync_hears_of_a_reset(ib, caplog):
    """A reset socket fails what waits and emits `disconnectedEvent`."""
    caplog.set_level(logging.CRITICAL, "ib_insync")
    async with gateway(silent=["49"]):
        await ib.connectAsync("127.0.0.1", PORT, clientId=1, timeout=5)
        events = []
        ib.disconnectedEvent += lambda: events.append("disconnected")
        async with asyncio.TaskGroup() as group:
            group.create_task(_reset_later())
            with pytest.raises(ConnectionError):
                await ib.reqCurrentTimeAsync()
        assert events == ["disconnected"]


async def _reset_later():
    await asyncio.sleep(1)
    asyncio.get_running_loop().network.reset(PORT)
