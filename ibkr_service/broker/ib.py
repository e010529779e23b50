"""ib_insync's `IB` with what it lacks, and without what hurts. Its private parts are used here and in `client.py` only.

What is different here:

- `connectAsync` fails fast and says why (326 in a millisecond instead of a bare TimeoutError), and does *not*
  synchronise: the session does, request by request, so that a part which did not arrive is never taken for empty.
- `reqMktDataAsync` exists: it completes with the first usable quote, or raises the broker's error for that request.
- `request` gives every request a time limit, one at a time per key, and cleans up after a timeout.
- What the broker says about orders is emitted as it is on the wire (`serverStatusEvent`, `serverOrderEvent`,
  `executionEvent`, `commissionEvent`). The library's own book of trades is bypassed: it swallows executions, invents
  cancellations from error codes and builds log texts that cost milliseconds.
- All outbound messages pass a `Pacer`, and the inbound ones a linear framing (`client.py`).

The library finds its event loop through the policy, so a loop made by a factory must be made current first:
`adopt_running_loop`.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Self, TypeVar

import ib_insync
import structlog
from eventkit import Event
from ib_insync.wrapper import RequestError as LibraryRequestError

from ibkr_service.broker.client import Client, Tap, TickWrapper
from ibkr_service.broker.codes import CLIENT_ID_IN_USE, SUBSCRIPTION_FAILURES
from ibkr_service.broker.datawire import DataWrapper
from ibkr_service.broker.dialling import Patience, dial
from ibkr_service.broker.whatif import has_margin
from ibkr_service.clock import Clock, SystemClock
from ibkr_service.core.errors import (
    BrokerRefused,
    ClientIdInUse,
    GatewayError,
    GatewayMute,
    GatewayUnreachable,
    NobodyListens,
    NotLoggedIn,
    NotReady,
    RequestTimeout,
    VersionUnsupported,
)

log = structlog.get_logger("ibkr_service.broker")

T = TypeVar("T")

KEEPALIVE_IDLE_S = 10
TOO_OLD = "version must be"  # the library's words for a gateway below MinClientVersion, told on apiError alone
UNACKED_TIMEOUT_MS = 20_000  # the kernel gives up on unacknowledged bytes after this long (TCP_USER_TIMEOUT)


def adopt_running_loop() -> None:
    """Make the running loop the policy's current one.

    ib_insync asks the policy, not the running loop; under uvloop or any `loop_factory` they differ and `connectAsync`
    dies with "attached to a different loop". To be called before the first `IB()`.
    """
    asyncio.set_event_loop(asyncio.get_running_loop())


class Wrapper(DataWrapper, TickWrapper):
    """Passes on what the broker says about orders, untouched; leaves the rest to the library."""

    ib: IB

    def connectAck(self) -> None:
        self.ib.handshakeEvent.emit(self.ib.client.serverVersion())

    def connectionClosed(self) -> None:
        # The library's own also keeps the error in a global event; it would hold the frames of all who waited for an
        # answer, and with them this connection, until the next one is lost.
        for future in self._futures.values():
            if not future.done():
                future.set_exception(ConnectionError("Socket disconnect"))
            if not future.cancelled():
                future.exception()  # mark as seen: who asked may have been stopped in the same moment
        self.reset()

    def marketDataType(self, reqId: int, marketDataId: int) -> None:
        super().marketDataType(reqId, marketDataId)
        ticker = self.reqId2Ticker.get(reqId)
        if ticker is not None:
            ticker.told_data_type = marketDataId  # the library's own field says "live" before anybody did

    def orderStatus(  # noqa: PLR0913, PLR0917 - the library's signature
        self,
        orderId: int,
        status: str,
        filled: float,
        remaining: float,
        avgFillPrice: float,  # noqa: ARG002
        permId: int,
        parentId: int,  # noqa: ARG002
        lastFillPrice: float,  # noqa: ARG002
        clientId: int,
        whyHeld: str,
        mktCapPrice: float = 0.0,  # noqa: ARG002
    ) -> None:
        self.ib.serverStatusEvent.emit(orderId, clientId, permId, status, filled, remaining, whyHeld)

    def openOrder(self, orderId: int, contract: Any, order: Any, orderState: Any) -> None:
        if order.whatIf:
            # Before the real answer TWS sends one with unset margins, in a spelling that the library does not know.
            if has_margin(orderState):
                super().openOrder(orderId, contract, order, orderState)
            return
        # Ids must exceed those of every order seen, of other clients too, or TWS answers 103.
        self.ib.client.updateReqId(orderId + 1)
        listed = self._results.get("openOrders")
        if listed is not None:
            listed.append((order.orderRef, order.permId))
        self.ib.serverOrderEvent.emit(orderId, contract, order, orderState)

    def contractDetails(self, reqId: int, contractDetails: Any) -> None:
        # As above: a late answer finds no container.
        if reqId in self._results:
            super().contractDetails(reqId, contractDetails)

    bondContractDetails = contractDetails  # noqa: N815 - the library's name

    def completedOrder(self, contract: Any, order: Any, orderState: Any) -> None:
        # A late answer finds no container; the library would raise KeyError for each (ib_insync #683).
        listed = self._results.get("completedOrders")
        if listed is not None:
            listed.append((contract, order, orderState))

    def execDetails(self, reqId: int, contract: Any, execution: Any) -> None:
        asked = reqId in self._futures
        if asked:
            self._results[reqId].append(execution.execId)
        self.ib.executionEvent.emit(contract, execution, asked)

    def commissionReport(self, commissionReport: Any) -> None:
        self.ib.commissionEvent.emit(commissionReport)

    def error(self, reqId: int, errorCode: int, errorString: str, advancedOrderRejectJson: str) -> None:
        self.ib.messageEvent.emit(reqId, errorCode, errorString, advancedOrderRejectJson)
        super().error(reqId, errorCode, errorString, advancedOrderRejectJson)


class IB(ib_insync.IB):
    """One connection, used once. A new session makes a new one: a reused IB keeps ghosts.

    Args:
        max_rate_per_s: messages in any second. clock: stamps what arrives. tap: is told what passes the socket.
    """

    RaiseRequestErrors = True

    def __init__(self, max_rate_per_s: int = 40, clock: Clock | None = None, tap: Tap | None = None) -> None:
        # Not super().__init__(): it would make the library's own Wrapper and Client.
        self._createEvents()
        self.serverStatusEvent = Event("serverStatusEvent")
        self.serverOrderEvent = Event("serverOrderEvent")
        self.executionEvent = Event("executionEvent")
        self.commissionEvent = Event("commissionEvent")
        self.messageEvent = Event("messageEvent")
        self.handshakeEvent = Event("handshakeEvent")
        self.clock = clock or SystemClock()
        self.loop = asyncio.get_running_loop()
        self.last_byte_s = self.loop.time()
        self.wrapper = Wrapper(self)
        self.client = Client(self.wrapper, max_rate_per_s, tap)
        self.client.apiEnd += self.disconnectedEvent
        self._logger = ib_insync.ib.logging.getLogger("ib_insync.ib")
        self._one_at_a_time: defaultdict[str, asyncio.Lock] = defaultdict(asyncio.Lock)

    # --- the connection ----------------------------------------------------------------------------------------------

    async def connectAsync(
        self,
        host: str = "127.0.0.1",
        port: int = 7497,
        clientId: int = 1,
        timeout: float = 20.0,  # noqa: ASYNC109
        patience: Patience | None = None,
    ) -> IB:
        """Connect and log on; nothing is synchronised yet.

        Args:
            timeout: limit in seconds, from when the port accepts. patience: how long to knock at a port that refuses;
            None: once.

        Raises:
            NobodyListens: as it says, to the end of the patience. GatewayUnreachable: the peer closed or kept silent
            before the handshake was done.
            ClientIdInUse: 326. NotLoggedIn: handshake done, but no account or order id followed.
            VersionUnsupported: the gateway's protocol is outside what the decoder knows. After each, the socket is
            closed and this object is used up.
        """
        try:
            await self._connect(host, port, clientId, timeout, patience or Patience(0.0, 0.0))
        except BaseException:
            self.teardown()
            raise
        self._watch_the_wire()
        return self

    async def _connect(self, host: str, port: int, client_id: int, timeout_s: float, patience: Patience) -> None:
        where = f"{host}:{port}"
        self.wrapper.clientId = client_id
        with _Handshake(self, where, client_id, timeout_s) as handshake:
            try:
                async with handshake.scope:
                    await dial(self.client.conn, handshake.scope, host, port, timeout_s=timeout_s, patience=patience)
                    await self.client.connectAsync(host, port, client_id, timeout=None)
            except OSError as exc:  # a TimeoutError is one too
                if handshake.failure is not None:
                    raise handshake.failure from None
                if not isinstance(exc, TimeoutError):
                    raise NobodyListens(f"nobody listens at {where} ({exc.strerror or exc})") from exc
                if handshake.version:
                    raise NotLoggedIn(
                        f"the gateway at {where} sent no account or order id within {timeout_s:g} s: is it logged in?"
                    ) from None
                raise GatewayMute(
                    f"{where} accepts connections but did not answer the handshake within {timeout_s:g} s"
                ) from None
            if handshake.failure is not None:
                raise handshake.failure

    def _watch_the_wire(self) -> None:
        """Let the kernel notice a dead peer, and the write buffer stay small enough to see one."""
        transport = self.client.conn.transport
        sock = transport.get_extra_info("socket") if transport else None
        if sock is None:
            return  # an in-memory connection has none
        with suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
            for name, value in (("TCP_KEEPIDLE", KEEPALIVE_IDLE_S), ("TCP_KEEPINTVL", 3), ("TCP_KEEPCNT", 3)):
                if hasattr(socket, name):
                    sock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
            if hasattr(socket, "TCP_USER_TIMEOUT"):
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, UNACKED_TIMEOUT_MS)

    def teardown(self) -> None:
        """End this connection for good: fail what is pending, drop the socket without waiting for a flush.

        Safe to call twice.

        `disconnect()` would leave every pending future hanging, and a half-open socket open.
        """
        self.client.pacer.close()
        self.client.conn.disconnected -= self.client._onSocketDisconnected  # noqa: SLF001 - it would call this an error
        transport = self.client.conn.transport
        for future in list(self.wrapper._futures.values()):  # noqa: SLF001 - this file is where private parts are used
            if not future.done():
                future.set_exception(ConnectionError("Socket disconnect"))
                future.exception()  # mark as seen: nobody may be waiting
        self.wrapper._futures.clear()  # noqa: SLF001
        self.client.reset()  # whoever still sends is told "Not connected"
        if transport is not None:
            transport.abort()

    @property
    def unsent_bytes(self) -> int:
        """Bytes that were written and that the kernel has not taken yet."""
        transport = self.client.conn.transport
        return 0 if transport is None or transport.is_closing() else transport.get_write_buffer_size()

    def pause_reading(self) -> None:
        """Stop taking bytes from the socket; TCP makes the gateway wait."""
        transport = self.client.conn.transport
        if transport is not None and transport.is_reading():
            transport.pause_reading()

    def resume_reading(self) -> None:
        """Take bytes from the socket again."""
        transport = self.client.conn.transport
        if transport is not None and not transport.is_closing() and not transport.is_reading():
            transport.resume_reading()

    # --- requests ----------------------------------------------------------------------------------------------------

    async def request(
        self, what: str, call: Callable[[], Awaitable[T]], timeout_s: float, *, key: str | None = None
    ) -> T:
        """Ask one thing of the broker.

        Args:
            what: a name for messages. call: starts the library's request. timeout_s: the limit, waiting for earlier
            ones not counted.
            key: requests of one key go one at a time; the library links some answers by name only, so that of two such
                requests under way the first would hang for ever.

        Raises:
            BrokerRefused: with the broker's code and words. RequestTimeout: no answer. NotReady: the socket is, or
            went, down.
        """
        if key is None:
            return await self._request(what, call, timeout_s)
        async with self._one_at_a_time[key]:
            return await self._request(what, call, timeout_s)

    async def _request(self, what: str, call: Callable[[], Awaitable[T]], timeout_s: float) -> T:
        if not self.client.isConnected():
            raise NotReady(f"{what}: the connection to the gateway is down")  # the library would register it first
        try:
            # Not wait_for: before Python 3.12 it swallows a cancellation that coincides with the answer.
            async with asyncio.timeout(timeout_s):
                return await call()
        except TimeoutError:
            raise RequestTimeout(what, timeout_s) from None
        except LibraryRequestError as exc:
            raise BrokerRefused(exc.code, exc.message, what) from exc
        except ConnectionError as exc:
            raise NotReady(f"{what}: the connection to the gateway is down") from exc
        finally:
            self._sweep()

    def _sweep(self) -> None:
        """Forget requests that were given up.

        The library keeps them for ever, and some swallow later events (finding 10).
        """
        wrapper = self.wrapper
        for key in [k for k, future in wrapper._futures.items() if future.done()]:  # noqa: SLF001
            for table in (wrapper._futures, wrapper._reqId2Contract):  # noqa: SLF001
                table.pop(key, None)
        for key in wrapper._results.keys() - wrapper._futures.keys():  # noqa: SLF001 - of refused requests, too
            del wrapper._results[key]  # noqa: SLF001

    # --- market data -------------------------------------------------------------------------------------------------

    def reqMarketRuleAsync(self, marketRuleId: int) -> Any:
        """As the library's, without its limit of one second, after which it answers None."""
        future = self.wrapper.startReq(f"marketRule-{marketRuleId}")
        self.client.reqMarketRule(marketRuleId)
        return future

    def start_quotes(self, contract: Any, generic_ticks: str = "") -> tuple[int, Any]:
        """Subscribe; return the request id, which `reqMktData` keeps to itself, and the ticker.

        A contract object that is subscribed stays so: the library would overwrite the first request id, and that line
        could never be cancelled.
        """
        ticker = self.wrapper.tickers.get(id(contract))
        if ticker not in self.wrapper.ticker2ReqId["mktData"]:
            ticker = self.reqMktData(contract, generic_ticks)
        return self.wrapper.ticker2ReqId["mktData"][ticker], ticker

    def stop_quotes(self, contract: Any, *, tell: bool = True) -> int:
        """Cancel a subscription and forget its ticker, which the library would keep.

        Args:
            tell: False if the gateway has no such subscription any more.

        Returns:
            The id of its request if nothing ever came of that, so that it may not have been carried out yet; else 0.
        """
        ticker = self.wrapper.tickers.pop(id(contract), None)
        if ticker is None:
            return 0
        request = self.wrapper.endTicker(ticker, "mktData")
        self.wrapper.reqId2Ticker.pop(request, None)
        if tell and request and self.client.isConnected():
            self.client.cancelMktData(request)
        return request if request and ticker.time is None else 0

    async def reqMktDataAsync(
        self,
        contract: Any,
        genericTickList: str = "",
        timeout_s: float = 10.0,
    ) -> Any:
        """Subscribe to market data and wait for the first usable quote.

        The subscription stays; end it with `stop_quotes`.

        Usable: a bid and an ask, or a last price, that is a price. (0 and -1 with size 0 are TWS's ways to say "none".)

        Returns:
            The library's live Ticker.

        Raises:
            BrokerRefused: the broker's error for this request (no permission, unknown contract, line cap …).
            RequestTimeout: no usable quote in time. NotReady: the connection went down. After each, nothing stays
            subscribed that was not before.
        """
        was_subscribed = id(contract) in self.wrapper.tickers
        try:
            request, ticker = self.start_quotes(contract, genericTickList)
        except ConnectionError as exc:
            self.stop_quotes(contract)
            raise NotReady(f"{_describe(contract)}: the connection to the gateway is down") from exc
        if was_subscribed and _has_quote(ticker):
            return ticker
        # The library fails it with ConnectionError when the socket is lost, as it does all it has under way.
        first: asyncio.Future[Any] = self.wrapper.startReq(("first quote", object()))

        def on_message(about: int, code: int, text: str, _json: str) -> None:
            if about == request and code in SUBSCRIPTION_FAILURES and not first.done():
                first.set_exception(BrokerRefused(code, text, _describe(contract)))

        def on_update(updated: Any) -> None:
            if _has_quote(updated) and not first.done():
                first.set_result(updated)

        self.messageEvent += on_message
        ticker.updateEvent += on_update
        try:
            return await self._request(f"first quote of {_describe(contract)}", lambda: first, timeout_s)
        except BaseException:
            if not was_subscribed:
                self.stop_quotes(contract)
            raise
        finally:
            self.messageEvent -= on_message
            ticker.updateEvent -= on_update


class _Handshake:
    """Listens while a connection is made; the first reason to give up ends `scope` at once and is kept in `failure`."""

    def __init__(self, ib: IB, where: str, client_id: int, timeout_s: float) -> None:
        self.scope = asyncio.timeout(timeout_s)
        self.failure: GatewayError | None = None
        self.version = 0  # the client forgets it when it gives up
        self._client = ib.client
        self._where = where
        self._client_id = client_id
        self._wiring: list[tuple[Any, Callable[..., None]]] = [
            (ib.messageEvent, self._on_message),
            (ib.handshakeEvent, self._on_handshake),
            (ib.client.apiError, self._on_api_error),
            (ib.client.conn.disconnected, self._on_closed),
        ]

    def __enter__(self) -> Self:
        for event, handler in self._wiring:
            event.connect(handler)
        return self

    def __exit__(self, *_exc: object) -> None:
        for event, handler in self._wiring:
            event.disconnect(handler)

    def _fail(self, error: GatewayError) -> None:
        if self.failure is None:
            self.failure = error
            self.scope.reschedule(asyncio.get_running_loop().time())

    def _on_message(self, _request: int, code: int, text: str, _json: str) -> None:
        if code == CLIENT_ID_IN_USE:
            self._fail(ClientIdInUse(f"client id {self._client_id} is in use at {self._where}: {text}"))

    def _on_handshake(self, version: int) -> None:
        self.version = version
        lowest, highest = self._client.MinClientVersion, self._client.MaxClientVersion
        if not lowest <= version <= highest:
            self._fail(VersionUnsupported(f"server version {version} of {self._where} is outside {lowest}..{highest}"))

    def _on_api_error(self, text: str) -> None:
        if TOO_OLD in text:
            self._fail(VersionUnsupported(f"{self._where} is too old: {text}"))

    def _on_closed(self, text: str) -> None:
        why = f": {text}" if text else ""
        self._fail(GatewayUnreachable(f"{self._where} closed the connection during the handshake{why}"))


def _has_quote(ticker: Any) -> bool:
    return bool(ticker.hasBidAsk() or ticker.last > 0)


def _describe(contract: Any) -> str:
    return contract.localSymbol or f"{contract.symbol} {contract.secType}"
