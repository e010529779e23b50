"""Mutated conversations thrown at the gateway: nothing but the offender's own line may suffer.

Goal: whatever bytes arrive, no exception escapes, other clients do not notice, and no memory stays behind. Method: the
real ib_insync talks to a gateway once, and what it sent is kept as frames. Each round a seeded mutation of such a
conversation goes to a gateway beside a client that behaves: over the simulated network in random pieces, or straight
into the bare protocol object. `make fuzz` runs it for a minute (SECONDS=n); the tests run some rounds of a fixed seed.

    python -m tests.sim.fuzz [SECONDS [SEED]]
"""

import asyncio
import gc
import random
import sys
import time
import tracemalloc
from collections.abc import Callable

from ibkr_service.sim import Gateway, GatewayConfig, Server
from ibkr_service.sim.loop import run
from ibkr_service.sim.messages import Request
from ibkr_service.sim.rawclient import RawClient, stock
from ibkr_service.sim.server import Connection
from ibkr_service.sim.session import Session
from ibkr_service.sim.wire import API_PREFIX, LENGTH_BYTES, frame

ROUNDS_PER_GATEWAY = 40
GROWTH_BYTES_MAX = 2_000_000
FRAMES_MAX = 60
OFFERED_IDS = 40
PROBLEMS = (
    *("", "0", "-1", "1", "2147483647", "9223372036854775808", "1.7976931348623157e+308", "Infinity", "-Infinity"),
    *(
        "nan",
        "1e400",
        "0x10",
        "٣",
        "½",
        "true",
        "BAG",
        "OPT",
        "CASH",
        "FUT",
        "BUY",
        "SELL",
        "MKT",
        "STP",
        "IOC",
        "SMART",
    ),
    *(
        "20261123 10:00:00",
        "20269999",
        "C",
        "?",
        "$LEDGER:ALL",
        "All",
        "PEG BENCH",
        "PEG BEST",
        "\udcff\udcfe",
        "A" * 5000,
    ),
)

Frames = list[tuple[str, ...]]


# --- what is mutated --------------------------------------------------------------------------------------------------


def recorded() -> Frames:
    """What ib_insync sends in a short life: every kind of request, in its own spelling."""
    sent: Frames = []
    keep = Session._request

    def request(session: Session, item: tuple[str, ...]) -> None:
        sent.append(item)
        keep(session, item)

    async def talk() -> None:
        async with Server(Gateway(GatewayConfig(seed=1, requests_per_second_max=0)), "127.0.0.1", 0) as server:
            await asyncio.wait_for(_life(server.port), 600)

    tables = sys.modules[Session.__module__]._STEPS
    state = next(state for state, step in tables.items() if step is keep)
    tables[state] = request
    try:
        run(talk())
    finally:
        tables[state] = keep
    assert {int(item[0]) for item in sent} >= {1, 3, 4, 9, 20, 61, 62, 78}, "the whole life"
    return sent


async def _life(port: int) -> None:
    import ib_insync as lib

    ib = lib.IB()
    ib.client.MaxRequests = 0
    await ib.connectAsync("127.0.0.1", port, clientId=1)
    apple, euro = lib.Stock("AAPL", "SMART", "USD"), lib.Forex("EURUSD")
    option = lib.Option("AAPL", "20261218", 230, "C", "SMART")
    await ib.qualifyContractsAsync(apple, euro, option)
    for contract in (apple, euro, option):
        ib.reqMktData(contract, "100,101,104,106,233,236")
    ib.reqTickByTickData(apple, "BidAsk")
    ib.reqMktDepth(euro)
    ib.reqRealTimeBars(euro, 5, "MIDPOINT", useRTH=False)
    ib.reqPnL("DU1234567")
    ib.reqPnLSingle("DU1234567", "", apple.conId)
    combo = lib.Bag(
        symbol="AAPL", exchange="SMART", currency="USD", comboLegs=[lib.ComboLeg(apple.conId, 1, "BUY", "SMART")] * 2
    )
    for order in (lib.MarketOrder("BUY", 10), lib.LimitOrder("SELL", 5, 1.5), lib.StopOrder("SELL", 1, 200)):
        trade = ib.placeOrder(apple, order)
        await asyncio.sleep(1)
        ib.cancelOrder(trade.order)
    ib.placeOrder(combo, lib.LimitOrder("BUY", 1, 400))
    for order in ib.bracketOrder("BUY", 1, 200, 300, 100):
        ib.placeOrder(apple, order)
    questions = (
        ib.reqContractDetailsAsync(lib.Option("AAPL", "20261218")),
        ib.reqSecDefOptParamsAsync("AAPL", "", "STK", apple.conId),
        ib.reqHistoricalDataAsync(apple, "", "1 D", "5 mins", "TRADES", useRTH=True, keepUpToDate=True),
        ib.reqHistoricalTicksAsync(apple, "20261123 09:30:00", "", 10, "TRADES", useRth=True),
        ib.reqHeadTimeStampAsync(apple, "TRADES", useRTH=True, formatDate=1),
        ib.reqMatchingSymbolsAsync("APP"),
        ib.reqExecutionsAsync(),
        ib.accountSummaryAsync(),
        ib.reqTickersAsync(euro),
        ib.whatIfOrderAsync(apple, lib.MarketOrder("BUY", 1)),
        ib.reqScannerDataAsync(
            lib.ScannerSubscription(instrument="STK", locationCode="STK.US", scanCode="TOP_PERC_GAIN")
        ),
    )
    await asyncio.gather(*(asyncio.wait_for(question, 20) for question in questions), return_exceptions=True)
    ib.reqGlobalCancel()
    for contract in (apple, euro):
        ib.cancelMktData(contract)
    await asyncio.sleep(1)
    ib.disconnect()


def _change_field(luck: random.Random, frames: Frames) -> None:
    at = luck.randrange(len(frames))
    values = list(frames[at])
    place = luck.randrange(len(values))
    values[place] = luck.choice((*PROBLEMS, str(luck.randint(-5, 200)), values[place] * 2, values[place][:-1]))
    frames[at] = tuple(values)


def _change_request(luck: random.Random, frames: Frames) -> None:
    at = luck.randrange(len(frames))
    frames[at] = (str(int(luck.choice(list(Request)))), *frames[at][1:])


def _shorten(luck: random.Random, frames: Frames) -> None:
    at = luck.randrange(len(frames))
    frames[at] = frames[at][: luck.randrange(len(frames[at]) + 1)] or ("",)


def _lengthen(luck: random.Random, frames: Frames) -> None:
    at = luck.randrange(len(frames))
    place = luck.randrange(len(frames[at]) + 1)
    frames[at] = frames[at][:place] + tuple(luck.choices(PROBLEMS, k=luck.randint(1, 50))) + frames[at][place:]


def _repeat(luck: random.Random, frames: Frames) -> None:
    frames.insert(luck.randrange(len(frames)), luck.choice(frames))


def _swap(luck: random.Random, frames: Frames) -> None:
    one, other = luck.randrange(len(frames)), luck.randrange(len(frames))
    frames[one], frames[other] = frames[other], frames[one]


FRAME_MUTATIONS: tuple[Callable[[random.Random, Frames], None], ...] = (
    *(_change_field,) * 4,
    *(_change_request, _shorten, _lengthen, _repeat, _swap),
)


def mutated(luck: random.Random, conversation: Frames) -> bytes:
    """A conversation that went wrong: its fields, its frames, and now and then its bytes."""
    start = luck.randrange(len(conversation))
    frames = conversation[start : start + luck.randint(1, FRAMES_MAX)]
    for _ in range(luck.randint(0, 12)):
        luck.choice(FRAME_MUTATIONS)(luck, frames)
    version = luck.choice([b"v157..176", b"v157..178", b"v100..157", b"v100..226", b"v163 +PACEAPI"])
    hello = API_PREFIX + len(version).to_bytes(LENGTH_BYTES, "big") + version
    start_api = frame(Request.START_API, 2, luck.randint(2, OFFERED_IDS), "")
    data = bytearray(hello + start_api + b"".join(frame(*values) for values in frames))
    if luck.random() < 0.3:
        for _ in range(luck.randint(1, 8)):
            at = luck.randrange(len(data))
            change = luck.choice([b"", b"\0", b"\xff", luck.randbytes(4), data[at : at + 40] * 2])
            data[at : at + luck.randint(0, 4)] = change
    return bytes(data)


# --- where it goes ---------------------------------------------------------------------------------------------------


class Witness(RawClient):
    """A client that behaves, and counts what it hears instead of keeping it."""

    heard = 0

    def send(self, data: bytes) -> None:
        """Count."""
        self.heard += 1

    def is_served(self) -> bool:
        """Whether its next question is answered at once."""
        before = self.heard
        self.ask(Request.CURRENT_TIME, 1)
        return self.heard > before and not self.is_closed


async def _over_the_network(luck: random.Random, server: Server, data: bytes) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
    at = 0
    while at < len(data):
        size = luck.choice([1, 3, 50, 5000])
        writer.write(data[at : at + size])
        at += size
        if luck.random() < 0.1:
            await asyncio.sleep(luck.random())
    ending = luck.randrange(4)
    if ending == 0 and writer.can_write_eof() and not writer.is_closing():
        writer.write_eof()
    if ending == 1:
        writer.transport.abort()
    if ending == 2:  # one that never reads
        writer.transport.pause_reading()
    await asyncio.sleep(luck.choice([0.01, 1, 5]))
    del reader
    writer.transport.abort()


class _NoTransport(asyncio.Transport):
    """A line that takes everything and delivers nothing."""

    def write(self, data: bytes | bytearray | memoryview) -> None:
        """Swallow."""

    def get_write_buffer_size(self) -> int:
        """Nothing ever waits."""
        return 0

    def is_closing(self) -> bool:
        """It never closes by itself."""
        return False

    def close(self) -> None:
        """Nobody listens."""

    abort = close


async def _bare(luck: random.Random, server: Server, data: bytes) -> None:
    connection = Connection(server)
    connection.connection_made(_NoTransport())
    at = 0
    while at < len(data):
        size = luck.randint(1, 2000)
        connection.data_received(data[at : at + size])
        at += size
    await asyncio.sleep(luck.choice([0, 0.3, 2]))
    connection.connection_lost(None)


async def _batch(luck: random.Random, conversation: Frames, rounds: int) -> None:
    loop, faults = asyncio.get_running_loop(), []
    loop.set_exception_handler(lambda _loop, context: faults.append(context))
    config = GatewayConfig(seed=luck.randrange(99), requests_per_second_max=luck.choice([0, 50]))
    async with Server(Gateway(config), "127.0.0.1", 0) as server:
        witness = Witness(server.gateway)
        witness.ask(Request.MKT_DATA, 11, 1, *stock(), 0, "", 0, 0, "")
        for _ in range(rounds):
            data = mutated(luck, conversation)
            try:
                await luck.choice([_over_the_network, _bare])(luck, server, data)
                if faults:
                    raise faults[0].get("exception") or AssertionError(faults)  # noqa: TRY301  one place for the note
            except Exception as error:
                error.add_note(f"after {data!r}")
                raise
            assert witness.is_served(), data
            await asyncio.sleep(1)
            assert [session.client_id for session in server.gateway.sessions] == [1], "the offender is gone"
        heard = witness.heard
        await asyncio.sleep(5)
        assert witness.heard > heard, "ticks go on"
        assert not server.connections


def batch(conversation: Frames, seed: int, rounds: int = ROUNDS_PER_GATEWAY) -> None:
    """One gateway's life among vandals."""
    run(_batch(random.Random(seed), conversation, rounds))


def growth(conversation: Frames, seeds: list[int], rounds: int) -> int:
    """How many bytes are left behind by so many gateways, after a first one that fills the caches."""
    batch(conversation, seeds[0], rounds)
    gc.collect()
    tracemalloc.start()
    try:
        batch(conversation, seeds[0], rounds)
        gc.collect()
        before, _ = tracemalloc.get_traced_memory()
        for seed in seeds:
            batch(conversation, seed, rounds)
        gc.collect()
        return tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()


def main(arguments: list[str]) -> None:
    """Fuzz for so many seconds; print what was done."""
    seconds, seed = float(arguments[0]) if arguments else 60.0, int(arguments[1]) if arguments[1:] else 0
    conversation, started, batches = recorded(), time.perf_counter(), 0
    while time.perf_counter() - started < seconds:
        try:
            batch(conversation, seed + batches)
        except BaseException:
            sys.stderr.write(f"failed with seed {seed + batches}: python -m tests.sim.fuzz 1 {seed + batches}\n")
            raise
        batches += 1
    left = growth(conversation, [seed, seed + 1], 10)
    report = (
        f"{batches * ROUNDS_PER_GATEWAY} conversations from {len(conversation)} requests, {left:,} bytes left behind"
    )
    sys.stdout.write(report + "\n")
    assert left < GROWTH_BYTES_MAX


if __name__ == "__main__":
    main(sys.argv[1:])
