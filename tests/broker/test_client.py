"""The short path must be the long one: the same bytes, cut anywhere, give what ib_insync gives, event by event."""

from __future__ import annotations

import asyncio
import dataclasses
import logging
import random
import struct
from itertools import pairwise

import ib_insync
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from ib_insync.decoder import Decoder as LibraryDecoder

from ibkr_service.broker import translate
from ibkr_service.broker.client import Client, Decoder
from ibkr_service.broker.ib import IB
from ibkr_service.broker.intake import Intake
from ibkr_service.broker.lines import Lines
from ibkr_service.clock import SystemClock
from ibkr_service.core.instrument import Forex, Option, Stock
from ibkr_service.sim.loop import run

REQUESTS = [11, 12, 13]
UNKNOWN = 99
FIELDS = [f.name for f in dataclasses.fields(ib_insync.Ticker) if f.name not in {"time", "contract", "ticks"}]


def frame(*fields):
    """A message as TWS sends it."""
    body = "".join(f"{field}\0" for field in fields).encode()
    return struct.pack(">I", len(body)) + body


def ready(ib):
    """As after a handshake, with three subscriptions."""
    ib.client._serverVersion = ib.client.decoder.serverVersion = 176
    ib.client._apiReady = True
    for request in REQUESTS:
        ib.wrapper.reqId2Ticker[request] = ib_insync.Ticker(contract=ib_insync.Contract(conId=request))
    return ib


class Diary:
    """Everything that an IB says, in a form that compares."""

    def __init__(self, ib, *, reads_ticks=True):
        self.reads_ticks = reads_ticks
        self.pages = []
        ib.pendingTickersEvent += self.on_tickers
        ib.updateEvent += lambda: self.pages.append("update")
        ib.errorEvent += lambda *error: self.pages.append(error)
        for request in REQUESTS:
            ib.wrapper.reqId2Ticker[request].updateEvent += self.on_ticker
        self.whole = []

    def on_tickers(self, tickers):
        """One chunk's tickers: the library gives them as a set."""
        self.pages.append(sorted(map(self.page, tickers)))

    def on_ticker(self, ticker):
        """Of one ticker; their order within a chunk is that of a set."""
        self.whole.append(self.page(ticker))

    def page(self, ticker):
        """A ticker's state, without the wall clock."""
        ticks = [tuple(tick)[1:] for tick in ticker.ticks] if self.reads_ticks else []
        return repr((ticker.contract.conId, ticks, [getattr(ticker, name) for name in FIELDS]))


def feed(ib, chunks, logged, *, reads_ticks=True):
    """Let it read the chunks; returns all that came of it."""
    diary = Diary(ib, reads_ticks=reads_ticks)
    logged.clear()
    for chunk in chunks:
        ib.client.conn.data_received(chunk)
    stats = (ib.client._numBytesRecv, ib.client._numMsgRecv, bytes(ib.client._data))
    final = [diary.page(ib.wrapper.reqId2Ticker[request]) for request in REQUESTS]
    return diary.pages, sorted(diary.whole), final, stats, list(logged)


numbers = st.sampled_from(["0", "1", "100", "-1", "1.25", "1.26", "0.0", "1e3", "nan", "1.7976931348623157E308"])
odd = st.sampled_from(["", "x", "\uff11\uff12", "1_0", " 7", "-0"])
requests = st.sampled_from([*map(str, REQUESTS), str(UNKNOWN), "-1", ""])
# Whether the request id is one that a client must cope with or nonsense, the outcome must be the library's.
price_types = st.sampled_from(["1", "2", "4", "6", "7", "9", "14", "37", "66", "68", "72", "77", "200", "x"])
size_types = st.sampled_from(["0", "3", "5", "8", "21", "27", "34", "69", "71", "74", "200"])
plain = st.one_of(
    st.tuples(st.just("1"), st.just("6"), requests, price_types, numbers | odd, numbers | odd, st.just("1")),
    st.tuples(st.just("2"), st.just("6"), requests, size_types, numbers | odd),
)
others = st.one_of(
    st.tuples(st.just("45"), st.just("6"), requests, st.sampled_from(["49", "23"]), numbers),
    st.tuples(st.just("46"), st.just("6"), requests, st.just("48"), st.just("1.5;100;1600000000000;5;1.4;true")),
    st.tuples(st.just("58"), st.just("1"), requests, st.sampled_from(["1", "3"])),
    st.tuples(st.just("4"), st.just("2"), requests, st.just("354"), st.just("not subscribed"), st.just("")),
    st.tuples(st.just("1"), st.just("6"), requests),  # fields are missing
    st.tuples(st.just("2"), st.just("6"), requests, st.just("8"), st.just("5"), st.just("one more")),
    st.tuples(st.just("777"), st.just("1")),  # no such message
    st.tuples(st.text(alphabet="12\u00e9", max_size=3)),
)


def usual(seed):
    """What a busy market sends: few instruments, few prices, so that most ticks repeat something of an earlier one."""
    rng = random.Random(seed)
    for _ in range(rng.randrange(60)):
        request, price, size = rng.choice(REQUESTS[:2]), rng.choice(["1.25", "1.26", "7"]), rng.choice(["0", "5", "9"])
        if rng.random() < 0.7:
            yield "1", "6", request, rng.choice(["1", "2", "4"]), price, size, "1"
        else:
            yield "2", "6", request, rng.choice(["0", "3", "5", "8"]), size


@st.composite
def streams(draw):
    """Usual ticks with unusual messages among them."""
    messages = list(usual(draw(st.integers(0, 2**32))))
    for message in draw(st.lists(plain | others, max_size=12)):
        messages.insert(draw(st.integers(0, len(messages))), message)
    return b"".join(frame(*message) for message in messages)


@pytest.fixture(scope="module")
def logged():
    """What the libraries log as errors: who and how often, not the words of a traceback."""

    class Handler(logging.Handler):
        def emit(self, record):
            found.append((record.name, record.levelname, record.getMessage().split(":")[0]))

    found, handler = [], Handler(logging.WARNING)
    loggers = [logging.getLogger(name) for name in ("ib_insync", "eventkit")]
    for logger in loggers:
        logger.addHandler(handler)
    yield found
    for logger in loggers:
        logger.removeHandler(handler)


@settings(max_examples=150, deadline=None)
@given(stream=streams(), cuts=st.lists(st.integers(0, 2_000), max_size=12), tail=st.binary(max_size=6))
def test_the_same_bytes_give_the_same_events(logged, stream, cuts, tail):
    """In any chunks: tickers, ticks, errors, what is logged, what is counted, and what is left over."""
    stream += struct.pack(">I", 60) + b"1\0" + tail  # a message that is not whole yet
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]
    chunks = [stream[a:b] for a, b in pairwise(edges)]

    async def both():
        theirs = feed(ready(ib_insync.IB()), chunks, logged)
        return theirs, feed(ready(IB()), chunks, logged)

    theirs, ours = run(both())
    assert ours == theirs


@settings(max_examples=50, deadline=None)
@given(stream=streams())
def test_without_the_list_of_ticks_all_else_is_the_same(logged, stream):
    """Who does not read `ticker.ticks` loses nothing else."""

    async def both():
        sparing = ready(IB())
        sparing.wrapper.keeps_ticks = False
        theirs = feed(ready(ib_insync.IB()), [stream], logged, reads_ticks=False)
        return theirs, feed(sparing, [stream], logged, reads_ticks=False)

    theirs, ours = run(both())
    assert ours == theirs


def test_the_comparison_would_see_a_difference(logged):
    """A stream that is not the same gives a different diary: the test above can fail."""

    async def both(price):
        chunks = [frame("1", "6", "11", "1", "1.25", "100", "1"), frame("1", "6", "11", "2", price, "100", "1")]
        return feed(ready(ib_insync.IB()), [chunks[0], chunks[1]], logged)

    assert run(both("1.26")) != run(both("1.27"))


async def test_a_message_in_many_pieces_is_read_once_whole():
    """Half a megabyte in pieces of a kilobyte, as scanner parameters come: linear, and complete."""
    ib, seen = ready(IB()), []
    ib.wrapper.scannerParameters = seen.append
    text = "x" * 500_000
    data = frame("19", "1", text)
    for at in range(0, len(data), 1_000):
        ib.client.conn.data_received(data[at : at + 1_000])
    assert seen == [text]
    assert bytes(ib.client._data) == b""


async def test_a_teardown_in_the_middle_of_a_chunk_ends_the_reading():
    """What a handler closes is closed: the rest of its chunk belongs to nobody."""
    ib, seen = ready(IB()), []

    def on_message(_request, code, _text, _json):
        seen.append(code)
        ib.teardown()

    ib.messageEvent += on_message
    chunk = frame("4", "2", "-1", "2104", "ok", "") + frame("4", "2", "-1", "2106", "ok", "")
    ib.client.conn.data_received(chunk)
    assert seen == [2104]
    assert bytes(ib.client._data) == b""


async def test_a_handler_that_raises_does_not_close_the_connection(logged):
    """As with the library: logged where a fault is looked for, and the next chunk is read."""
    ib, seen = ready(IB()), []
    logged.clear()

    def explode(tickers):
        seen.append(len(tickers))
        raise RuntimeError("oops")

    ib.wrapper.on_tickers = explode
    for price in ("1.25", "1.26"):
        ib.client.conn.data_received(frame("1", "6", "11", "1", price, "100", "1"))
    assert seen == [1, 1]
    assert [name for name, _, _ in logged] == ["eventkit.event"] * 2


async def test_a_sink_sees_every_tick_in_order_across_requests():
    """Also those that a newer one replaces within the same chunk."""
    ib, seen = ready(IB()), []
    for request in (11, 12):
        ib.wrapper.sinks[request] = lambda _at, _mono_s, *tick, request=request: seen.append((request, *tick))
    ib.client.conn.data_received(
        frame("1", "6", "11", "1", "1.25", "100", "1")
        + frame("1", "6", "12", "4", "7", "5", "1")
        + frame("1", "6", "11", "1", "1.26", "100", "1")
        + frame("1", "6", "11", "1", "1.26", "100", "1")  # nothing new: the library drops it, too
        + frame("1", "6", "13", "1", "9", "100", "1")  # nobody's
        + frame("2", "6", "11", "8", "5000")
        + frame("2", "6", "11", "5", "3")  # the size of a last price that is not known
        + frame("1", "6", "11", "6", "1.3", "0", "1")
    )
    assert seen == [
        (11, 1, 1.25, 100.0),
        (12, 4, 7.0, 5.0),
        (11, 1, 1.26, 100.0),
        (11, 8, -1.0, 5000.0),
        (11, 6, 1.3, 0.0),
    ]


async def test_request_ids_are_remembered_within_bounds(monkeypatch):
    """Ids of requests that come and go do not pile up."""
    monkeypatch.setattr("ibkr_service.broker.client.IDS_MAX", 5)
    ib = ready(IB())
    for request in range(100, 120):
        ib.client.conn.data_received(frame("1", "6", str(request), "1", "1.25", "100", "1"))
        assert len(ib.client._ids) <= 5
    assert list(ib.client._ids.values()) == [115, 116, 117, 118, 119]
    assert isinstance(ib.client, Client)
    await asyncio.sleep(0)


@settings(max_examples=50, deadline=None)
@given(stream=streams(), cuts=st.lists(st.integers(0, 2_000), max_size=12))
def test_a_tick_has_all_of_its_ticker_though_not_all_is_read_each_time(logged, stream, cuts):
    """What changes seldom is kept by the line; after each chunk its tick is what a fresh reading gives."""
    edges = [0, *sorted(cut for cut in cuts if cut < len(stream)), len(stream)]

    async def play():
        ib, told = ready(IB()), []
        ib.wrapper.keeps_ticks = False
        lines = Lines(told.append, SystemClock())
        Intake(ib, session=1, clock=SystemClock(), put=told.append, lines=lines, on_signal=told.append, on_doubt=list)
        watched = dict(zip(REQUESTS, (Stock("A"), Option("A", "20261218", 5.0, "P"), Forex("EUR", "USD")), strict=True))
        for instrument in watched.values():
            lines.watch(instrument)
        for line, request in zip(lines.to_request(0.0), REQUESTS, strict=True):
            lines.requested(line, request, ib.wrapper.reqId2Ticker[request], None, 0.0)
        read = 0
        for a, b in pairwise(edges):
            before = {line.request: line.tick for line in lines}
            ib.client.conn.data_received(stream[a:b])
            for line in lines:
                if line.tick is not before.get(line.request) and line.tick is not None:
                    now = line.tick
                    assert now == translate.tick(now.at, 0, line.instrument, line.ticker, now.epoch, now.mono_s)
                    read += 1
        return read

    run(play())


PARSED = [
    ib_insync.Contract,
    ib_insync.Order,
    ib_insync.OrderState,
    ib_insync.ContractDetails,
    ib_insync.ComboLeg,
    ib_insync.Execution,
    ib_insync.PriceCondition,
]


@given(st.sampled_from(PARSED), st.data())
def test_numbers_are_read_as_the_library_reads_them(kind, data):
    """Whatever is written into an object's fields: the same values, or the same error."""
    names = [field.name for field in dataclasses.fields(kind)]
    texts = data.draw(st.dictionaries(st.sampled_from(names), numbers | odd, max_size=8))
    outcomes = []
    for decoder in (LibraryDecoder, Decoder):
        parsed = kind()
        for name, text in texts.items():
            setattr(parsed, name, text)
        try:
            decoder(None, 176).parse(parsed)
        except ValueError as error:
            outcomes.append(str(error))
        else:
            outcomes.append([(type(value), repr(value)) for value in vars(parsed).values()])
    assert outcomes[0] == outcomes[1]


async def test_a_connection_reads_with_the_decoder_that_knows_its_version():
    """The handshake tells it the version."""
    ib = IB()
    ib.client._on_handshake("176")
    assert isinstance(ib.client.decoder, Decoder)
    assert ib.client.decoder.serverVersion == 176
    ib.teardown()
