"""The library's client with a linear framing, a short path for ticks, and a pacer in front of the socket.

ib_insync cuts every message off the front of its buffer, which copies the rest of the chunk each time: quadratic in
the chunk. Each message then becomes text, a list, a dictionary look-up and three event emissions. Here the buffer is
walked once; price and size ticks, nearly all that comes, are read from the bytes; events without listeners are not
emitted. What comes out is the same, field by field and event by event: `tests/broker/test_client.py` feeds both the
same bytes in random chunks. Anything unusual (a wrong number of fields, a number that is none) takes the library's own
road and meets its own error.
"""

from __future__ import annotations

import asyncio
import dataclasses
import errno
import logging
import struct
from collections.abc import Callable, Iterable
from datetime import datetime
from functools import cache
from typing import TYPE_CHECKING, Any, Protocol

from ib_insync.client import Client as LibraryClient
from ib_insync.connection import Connection as LibraryConnection
from ib_insync.decoder import Decoder as LibraryDecoder
from ib_insync.objects import TickData
from ib_insync.ticker import Ticker as LibraryTicker
from ib_insync.wrapper import Wrapper as LibraryWrapper

from ibkr_service.broker.pacer import Pacer

if TYPE_CHECKING:
    from ibkr_service.broker.ib import IB

log = logging.getLogger("eventkit.event")  # an error logged there is a fault that is looked into
_length, _length_at = struct.Struct(">I").pack, struct.Struct(">I").unpack_from
PREFIX = 4  # bytes of a message's length
IDS_MAX = 500  # request ids remembered, more than there are lines at a time; chains use up a thousand an hour
TICK_TYPES = {str(number).encode(): number for number in range(128)}
TICK_PRICE, TICK_SIZE = b"12"  # the first byte of these messages; the second is the separator
# What the broker says of orders, executions, positions, accounts and its time.
LEAVES_TICKERS_ALONE = frozenset(
    str(number).encode() for number in (3, 5, 6, 7, 8, 11, 49, 53, 54, 55, 59, 61, 62, 73, 74, 94, 95, 101, 102)
)
CURRENT_TIME = "49\x001\x00"  # the request and its version
BID, ASK, LAST = 1, 2, 4
BID_SIZE, ASK_SIZE, VOLUME = 0, 3, 8

Sink = Callable[[datetime, float, int, float, float], None]
"""Takes the ticks of one request in the order in which they came: when (UTC, loop time), tick type, price, size."""


class Ticker(LibraryTicker):
    """The library's, which is hashed by its identity, too; but there by a function in Python, for every chunk."""

    __eq__ = object.__eq__
    __hash__ = object.__hash__


class TickWrapper(LibraryWrapper):
    """The library's wrapper, its two busiest methods made short. Where they differ from it, that is a defect."""

    ib: IB

    def __init__(self, ib: IB) -> None:
        super().__init__(ib)
        self.pendingTickers: set[Any]
        self.sinks: dict[int, Sink] = {}  # by request id: who must see every tick
        self.keeps_ticks = True  # in `ticker.ticks`, as the library does; False for who does not read them
        self.on_tickers: Callable[[Iterable[Any]], None] | None = None  # told before the library's own listeners
        self._loop_time, self._now = ib.loop.time, ib.clock.now
        self.others = 0  # counts what may have changed more of a ticker than bid, ask, last and volume

    def startTicker(self, reqId: int, contract: Any, tickType: int | str) -> Any:
        if id(contract) not in self.tickers:
            self.tickers[id(contract)] = Ticker(contract=contract)
        return super().startTicker(reqId, contract, tickType)

    def priceSizeTick(  # noqa: C901, PLR0912 - a call more for each tick would cost a tenth of its time
        self, reqId: int, tickType: int, price: float, size: float
    ) -> None:
        ticker = self.reqId2Ticker.get(reqId)
        if ticker is None:
            super().priceSizeTick(reqId, tickType, price, size)
            return
        if tickType == BID:
            if price != ticker.bid:
                ticker.prevBid, ticker.bid = ticker.bid, price
            elif size == ticker.bidSize:
                return
            if size != ticker.bidSize:
                ticker.prevBidSize, ticker.bidSize = ticker.bidSize, size
        elif tickType == ASK:
            if price != ticker.ask:
                ticker.prevAsk, ticker.ask = ticker.ask, price
            elif size == ticker.askSize:
                return
            if size != ticker.askSize:
                ticker.prevAskSize, ticker.askSize = ticker.askSize, size
        elif tickType == LAST:
            if price != ticker.last:
                ticker.prevLast, ticker.last = ticker.last, price
            if size != ticker.lastSize:
                ticker.prevLastSize, ticker.lastSize = ticker.lastSize, size
        else:
            self.others += 1
            told = len(ticker.ticks)
            super().priceSizeTick(reqId, tickType, price, size)
            if len(ticker.ticks) > told and (sink := self.sinks.get(reqId)):
                sink(self.lastTime, self.ib.last_byte_s, tickType, price, size)
            return
        now = self.lastTime
        if ticker.time is not now:  # a ticker's hash is a Python function: asked once a chunk, not once a tick
            ticker.time = now
            self.pendingTickers.add(ticker)
        if price or size:
            if self.keeps_ticks:
                ticker.ticks.append(TickData(now, tickType, price, size))
            if self.sinks and (sink := self.sinks.get(reqId)):
                sink(now, self.ib.last_byte_s, tickType, price, size)

    def tickSize(self, reqId: int, tickType: int, size: float) -> None:  # noqa: C901 - as above
        ticker = self.reqId2Ticker.get(reqId)
        if ticker is None:
            super().tickSize(reqId, tickType, size)
            return
        if tickType == VOLUME:
            price, ticker.volume = -1.0, size
        elif tickType == BID_SIZE:
            if size == ticker.bidSize:
                return
            price, ticker.prevBidSize, ticker.bidSize = ticker.bid, ticker.bidSize, size
        elif tickType == ASK_SIZE:
            if size == ticker.askSize:
                return
            price, ticker.prevAskSize, ticker.askSize = ticker.ask, ticker.askSize, size
        else:
            self.others += 1
            told = len(ticker.ticks)
            super().tickSize(reqId, tickType, size)
            if len(ticker.ticks) > told and (sink := self.sinks.get(reqId)):
                sink(self.lastTime, self.ib.last_byte_s, tickType, ticker.ticks[-1].price, size)
            return
        now = self.lastTime
        if ticker.time is not now:
            ticker.time = now
            self.pendingTickers.add(ticker)
        if price or size:
            if self.keeps_ticks:
                ticker.ticks.append(TickData(now, tickType, price, size))
            if self.sinks and (sink := self.sinks.get(reqId)):
                sink(now, self.ib.last_byte_s, tickType, price, size)

    def tcpDataArrived(self) -> None:
        self.ib.last_byte_s, self.lastTime = self._loop_time(), self._now()
        if self.pendingTickers:
            for ticker in self.pendingTickers:
                ticker.ticks, ticker.tickByTicks, ticker.domTicks = [], [], []
            self.pendingTickers = set()

    def tcpDataProcessed(self) -> None:
        ib, pending = self.ib, self.pendingTickers
        if ib.updateEvent._slots:  # noqa: SLF001 - its len() is a Python function
            ib.updateEvent.emit()
        if not pending:
            return
        now = self.lastTime
        for ticker in pending:
            ticker.time = now
        if self.on_tickers is not None:
            self.on_tickers(pending)
        for ticker in pending:
            if ticker.updateEvent._slots:  # noqa: SLF001 - same
                ticker.updateEvent.emit(ticker)
        if ib.pendingTickersEvent._slots:  # noqa: SLF001 - same
            ib.pendingTickersEvent.emit(pending)


@cache
def _numbers_of(kind: type) -> tuple[tuple[str, Callable[[Any], object], object], ...]:
    """The fields of a library's class that are no texts: name, how it is read, what it is if it is left out."""
    readers: dict[type, Callable[[Any], object]] = {int: int, float: float, bool: lambda text: bool(int(text))}
    fields = [(each.name, readers.get(type(each.default)), each.default) for each in dataclasses.fields(kind)]
    return tuple((name, read, default) for name, read, default in fields if read is not None)


class Decoder(LibraryDecoder):
    """The library's decoder; it looks at the fields of a class once, not at each object of it."""

    def parse(self, obj: Any) -> None:
        """Read the texts of an object's numbers, of which an order has more than a hundred, most of them left out."""
        values = obj.__dict__
        for name, read, default in _numbers_of(obj.__class__):
            text = values[name]
            if text is not default:
                values[name] = read(text) if text else default


class Tap(Protocol):
    """Who is told what passes the socket. Called in the instant; none of it raises."""

    def connecting(self) -> int:
        """An attempt to connect begins; returns its number."""
        ...

    def opened(self, number: int) -> None:
        """The connection is there."""
        ...

    def refused(self, number: int, error: OSError) -> None:
        """There is none."""
        ...

    def inbound(self, number: int, data: bytes) -> None:
        """Bytes have come."""
        ...

    def outbound(self, number: int, data: bytes) -> None:
        """Bytes leave."""
        ...

    def eof(self, number: int) -> None:
        """The gateway will send no more."""
        ...

    def lost(self, number: int, error: Exception | None) -> None:
        """The connection is gone."""
        ...


class Connection(LibraryConnection):
    """Hands bytes over without the detour of an event; the library's own event is for those who listen.

    The socket is opened by `dial`, before the library's client begins to count its time.
    """

    transport: Any

    def __init__(self, take: Callable[[bytes], None]) -> None:
        super().__init__()
        self._take = take

    async def dial(self, host: str, port: int) -> None:
        """Open the socket.

        Raises:
            OSError: nobody listens. Who knocks at a port of his own machine for long may be given this very port to
            knock from, and is then connected to himself (TCP's simultaneous open): that is nobody, too.
        """
        await super().connectAsync(host, port)
        transport = self.transport
        if transport.get_extra_info("sockname") == transport.get_extra_info("peername"):
            self.transport = None
            transport.set_protocol(asyncio.Protocol())  # its end is no news
            transport.abort()
            raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to itself: nobody listens")

    async def connectAsync(self, host: str, port: int) -> None:  # noqa: ARG002 - the library's signature
        """Nothing is left to do, unless the peer has hung up already."""
        if not self.isConnected():
            raise ConnectionError("Socket disconnect")

    def data_received(self, data: bytes) -> None:
        """As eventkit, an exception is logged and the connection goes on."""
        try:
            self._take(data)
        except Exception:
            log.exception("error while reading from the gateway")
        if self.hasData._slots:  # noqa: SLF001 - same
            self.hasData.emit(data)


class TappedConnection(Connection):
    """A connection that tells a tap what passes."""

    def __init__(self, take: Callable[[bytes], None], tap: Tap) -> None:
        super().__init__(take)
        self._tap = tap
        self._number = 0

    async def dial(self, host: str, port: int) -> None:
        self._number = self._tap.connecting()
        try:
            await super().dial(host, port)
        except OSError as exc:
            self._tap.refused(self._number, exc)
            raise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:  # noqa: ARG002 - asyncio's signature
        self._tap.opened(self._number)

    def sendMsg(self, msg: bytes) -> None:
        if self.transport and not self.transport.is_closing():
            self._tap.outbound(self._number, msg)
        super().sendMsg(msg)

    def data_received(self, data: bytes) -> None:
        self._tap.inbound(self._number, data)
        super().data_received(data)

    def eof_received(self) -> None:
        self._tap.eof(self._number)

    def connection_lost(self, exc: Exception | None) -> None:
        self._tap.lost(self._number, exc)
        super().connection_lost(exc)


class Client(LibraryClient):
    """Reads the socket in one pass; sends through a pacer instead of the library's throttle."""

    def __init__(self, wrapper: TickWrapper, max_rate_per_s: int, tap: Tap | None = None) -> None:
        self.pacer = Pacer(self._transmit, max_rate_per_s)
        self._resets = 0
        self._written: list[str] | None = None
        self._ids: dict[bytes, int] = {}
        self._price_tick, self._size_tick = wrapper.priceSizeTick, wrapper.tickSize
        self._data: bytes | bytearray
        super().__init__(wrapper)
        self.decoder = Decoder(wrapper, 0)
        take = self._onSocketHasData
        self.conn = Connection(take) if tap is None else TappedConnection(take, tap)
        self.conn.disconnected += self._onSocketDisconnected

    def reset(self) -> None:
        super().reset()
        self._ticking = False  # may change with any message that is no tick
        self._resets += 1  # whoever is walking a buffer now holds bytes of a connection that is over
        self._missing = 0

    # --- outbound ----------------------------------------------------------------------------------------------------

    def sendMsg(self, msg: str) -> None:
        if self._written is not None:
            self._written.append(msg)
        elif msg:
            self.pacer.send(msg)

    def reqCurrentTime(self) -> None:
        """The heartbeat; as the library's, which takes longer to write it than all else that becomes of it."""
        if not self.isConnected():
            raise ConnectionError("Not connected")
        self.sendMsg(CURRENT_TIME)

    def written(self, send: Callable[[], None]) -> str:
        """What one of the library's methods would send; it is not sent."""
        found: list[str] = []
        self._written = found
        try:
            send()
        finally:
            self._written = None
        (message,) = found
        return message

    def _transmit(self, message: str) -> None:
        body = message.encode()
        self.conn.sendMsg(_length(len(body)) + body)

    # --- inbound -----------------------------------------------------------------------------------------------------

    def _onSocketHasData(self, data: bytes) -> None:
        wrapper = self.wrapper
        wrapper.tcpDataArrived()
        self._numBytesRecv += len(data)
        if self._data:
            # A message in many pieces: gathered, and looked at when it is whole.
            self._data += data
            if len(self._data) < self._missing:
                wrapper.tcpDataProcessed()
                return
            data = bytes(self._data)
            self._walk(data)
        elif (
            self._ticking
            and len(data) > PREFIX + 1
            and _length_at(data)[0] == len(data) - PREFIX
            and self._is_one_tick(data)
        ):
            self._numMsgRecv += 1
        else:
            self._walk(data)
        wrapper.tcpDataProcessed()

    def _is_one_tick(self, data: bytes) -> bool:
        """Handle a message that came by itself, as most ticks do; False if it is no tick. `_walk` without its loop."""
        if data[PREFIX + 1]:
            return False
        kind = data[PREFIX]
        try:
            if kind == TICK_PRICE:
                _, _, request, tick_type, price, volume, _, _ = data[PREFIX:].split(b"\0")
                if price:
                    self._price_tick(
                        self._ids.get(request) or self._id(request),
                        TICK_TYPES[tick_type],
                        float(price),
                        float(volume or 0),
                    )
                return True
            if kind == TICK_SIZE:
                _, _, request, tick_type, volume, _ = data[PREFIX:].split(b"\0")
                self._size_tick(self._ids.get(request) or self._id(request), TICK_TYPES[tick_type], float(volume or 0))
                return True
        except (ValueError, KeyError):  # from reading the arguments: these two methods raise nothing
            pass
        return False

    def _walk(self, data: bytes) -> None:  # noqa: C901 - a call more for each message costs more than all of these
        """Handle all whole messages; keep the rest."""
        resets, at, size, count, ticks_alone = self._resets, 0, len(data), 0, True
        price_tick, size_tick = self._price_tick, self._size_tick
        ids, length_at, ticking = self._ids, _length_at, self._ticking
        try:
            # As the library: a length with nothing behind it is looked at when more has come.
            while size - at > PREFIX:
                begin = at + PREFIX
                end = begin + length_at(data, at)[0]
                if end > size:
                    break
                at, count = end, count + 1
                if ticking and end - begin > 1 and data[begin + 1] == 0:
                    kind = data[begin]
                    try:
                        if kind == TICK_PRICE:
                            _, _, request, tick_type, price, volume, _, _ = data[begin:end].split(b"\0")
                            if price:
                                # Looking a number up takes a quarter of the time of reading it.
                                price_tick(
                                    ids.get(request) or self._id(request),
                                    TICK_TYPES[tick_type],
                                    float(price),
                                    float(volume or 0),
                                )
                            continue
                        if kind == TICK_SIZE:
                            _, _, request, tick_type, volume, _ = data[begin:end].split(b"\0")
                            size_tick(ids.get(request) or self._id(request), TICK_TYPES[tick_type], float(volume or 0))
                            continue
                    except (ValueError, KeyError):  # from reading the arguments: these two methods raise nothing
                        pass
                ticks_alone = False
                self._handle(data[begin:end])
                if self._resets != resets:
                    return
                ticking = ticking or self._is_ticking()
            if not ticks_alone:
                self._ticking = self._is_ticking()
        finally:
            self._numMsgRecv += count
            if self._resets == resets and (at < size or self._data):
                self._keep(data, at)

    def _is_ticking(self) -> bool:
        """Whether ticks may take the short path."""
        return self._apiReady and not self._logger.isEnabledFor(logging.DEBUG)

    def _id(self, text: bytes) -> int:
        """A request id; remembered, since nearly every tick repeats one."""
        number, ids = int(text), self._ids
        if len(ids) >= IDS_MAX:  # the oldest goes: mostly it is that of a line that was given back
            del ids[next(iter(ids))]
        ids[text] = number
        return number

    def _keep(self, data: bytes, at: int) -> None:
        """Remember what is not a whole message yet, and how much it takes to be one."""
        if at == len(data):
            if self._data:
                self._data = b""
            return
        rest = self._data = bytearray(data[at:])
        self._missing = PREFIX + 1 if len(rest) <= PREFIX else PREFIX + _length_at(rest)[0]

    def _handle(self, body: bytes) -> None:
        """The library's own road: the handshake, the start of the API, and all messages that are no ticks."""
        if body[: body.find(b"\0")] not in LEAVES_TICKERS_ALONE:
            self.wrapper.others += 1
        fields = body.decode(errors="backslashreplace").split("\0")
        fields.pop()  # what follows the last separator
        if self._logger.isEnabledFor(logging.DEBUG):
            self._logger.debug("<<< %s", ",".join(fields))
        if not self._serverVersion and len(fields) == 2:  # noqa: PLR2004 - version and time
            self._on_handshake(fields[0])
            return
        if not self._apiReady:
            self._snoop(fields)
        self.decoder.interpret(fields)

    def _on_handshake(self, version: str) -> None:
        self._serverVersion = int(version)
        if self._serverVersion < self.MinClientVersion:
            self._onSocketDisconnected("TWS/gateway version must be >= 972")
            return
        self.decoder.serverVersion = self._serverVersion
        self.connState = LibraryClient.CONNECTED
        self.startApi()
        self.wrapper.connectAck()
        self._logger.info("Logged on to server version %s", self._serverVersion)

    def _snoop(self, fields: list[str]) -> None:
        """The API is ready when the first order id and the accounts are known."""
        match int(fields[0]):
            case 9:
                _, _, valid_id = fields
                self.updateReqId(int(valid_id))
                self._hasReqId = True
            case 15:
                _, _, accounts = fields
                self._accounts = [account for account in accounts.split(",") if account]
        if self._hasReqId and self._accounts:
            self._apiReady = True
            self.apiStart.emit()
