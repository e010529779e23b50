"""ib_insync's `IB` with what it lacks, and without what hurts. Every use of its private parts is in this file.

What is different here:

- `connectAsync` fails fast and says why (326 in a millisecond instead of a bare TimeoutError), and does *not*
  synchronise: the session does, request by request, so that a part which did not arrive is never taken for empty.
- `reqMktDataAsync` exists: it completes with the first usable quote, or raises the broker's error for that request.
- `request` gives every request a time limit, one at a time per key, and cleans up after a timeout.
- What the broker says about orders is emitted as it is on the wire (`serverStatusEvent`, `serverOrderEvent`,
  `executionEvent`, `commissionEvent`). The library's own book of trades is bypassed: it swallows executions, invents
  cancellations from error codes and builds log texts that cost milliseconds.
- All outbound messages pass a `Pacer`.

The library finds its event loop through the policy, so a loop made by a factory must be made current first:
`adopt_running_loop`.
"""

from __future__ import annotations

import asyncio
import socket
from collections import defaultdict
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import ib_insync
import structlog
from eventkit import Event
from ib_insync.client import Client as LibraryClient
from ib_insync.wrapper import RequestError as LibraryRequestError
from ib_insync.wrapper import Wrapper as LibraryWrapper

from ibkr_service.broker.codes import CLIENT_ID_IN_USE, SUBSCRIPTION_FAILURES
from ibkr_service.broker.pacer import Pacer
from ibkr_service.core.errors import (
    BrokerRefused,
    ClientIdInUse,
    GatewayError,
    GatewayUnreachable,
    NotLoggedIn,
    NotReady,
    RequestTimeout,
    VersionUnsupported,
)

log = structlog.get_logger("ibkr_service.broker")

T = TypeVar("T")

KEEPALIVE_IDLE_S = 10
UNACKED_TIMEOUT_MS = 20_000  # the kernel gives up on unacknowledged bytes after this long (TCP_USER_TIMEOUT)


def adopt_running_loop() -> None:
    """Make the running loop the policy's current one.

    ib_insync asks the policy, not the running loop; under uvloop or any `loop_factory` they differ and `connectAsync`
    dies with "attached to a different loop". To be called before the first `IB()`.
    """
    asyncio.set_event_loop(asyncio.get_running_loop())


class Wrapper(LibraryWrapper):
    """Passes on what the broker says about orders, untouched; leaves the rest to the library."""

    ib: IB

    def tcpDataArrived(self) -> None:
        self.ib.last_byte_s = asyncio.get_running_loop().time()
        super().tcpDataArrived()

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
            super().openOrder(orderId, contract, order, orderState)
            return
        # Ids must exceed those of every order seen, of other clients too, or TWS answers 103.
        self.ib.client.updateReqId(orderId + 1)
        listed = self._results.get("openOrders")
        if listed is not None:
            listed.append(order.orderRef)
        self.ib.serverOrderEvent.emit(orderId, contract, order, orderState)

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


class Client(LibraryClient):
    """Sends through a pacer instead of the library's throttle."""

    def __init__(self, wrapper: Wrapper, max_rate_per_s: int) -> None:
        self.pacer = Pacer(self._transmit, max_rate_per_s)
        super().__init__(wrapper)

    def sendMsg(self, msg: str) -> None:
        if msg:
            self.pacer.send(msg)

    def _transmit(self, message: str) -> None:
        self.conn.sendMsg(self._prefix(message.encode()))


class IB(ib_insync.IB):
    """One connection, used once. A new session makes a new one: a reused IB keeps ghosts.

    Args:
        max_rate_per_s: messages in any second.
    """

    RaiseRequestErrors = True

    def __init__(self, max_rate_per_s: int = 40) -> None:
        # Not super().__init__(): it would make the library's own Wrapper and Client.
        self._createEvents()
        self.serverStatusEvent = Event("serverStatusEvent")
        self.serverOrderEvent = Event("serverOrderEvent")
        self.executionEvent = Event("executionEvent")
        self.commissionEvent = Event("commissionEvent")
        self.messageEvent = Event("messageEvent")
        self.last_byte_s = asyncio.get_running_loop().time()
        self.wrapper = Wrapper(self)
        self.client = Client(self.wrapper, max_rate_per_s)
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
    ) -> IB:
        """Connect and log on; nothing is synchronised yet.

        Args:
            timeout: limit in seconds for the whole of it.

        Raises:
            GatewayUnreachable: nobody listens, or the peer closed or kept silent before the handshake was done.
            ClientIdInUse: 326. NotLoggedIn: handshake done, but no account or order id followed.
            VersionUnsupported: the gateway's protocol is outside what the decoder knows.
        """
        failure: list[GatewayError] = []
        where = f"{host}:{port}"
        loop = asyncio.get_running_loop()
        scope = asyncio.timeout(timeout)

        def fail(error: GatewayError) -> None:
            if not failure:
                failure.append(error)
                scope.reschedule(loop.time())

        def on_message(_request: int, code: int, text: str, _json: str) -> None:
            if code == CLIENT_ID_IN_USE:
                fail(ClientIdInUse(f"client id {clientId} is in use at {where}: {text}"))

        def on_closed(text: str) -> None:
            fail(GatewayUnreachable(f"{where} closed the connection during the handshake{': ' + text if text else ''}"))

        self.messageEvent += on_message
        self.client.conn.disconnected += on_closed
        self.wrapper.clientId = clientId
        try:
            async with scope:
                await self.client.connectAsync(host, port, clientId, timeout=None)
        except OSError as exc:  # a TimeoutError is one too
            if failure:
                raise failure[0] from None
            if not isinstance(exc, TimeoutError):
                raise GatewayUnreachable(f"nobody listens at {where} ({exc.strerror or exc})") from exc
            if self.client.serverVersion():
                raise NotLoggedIn(
                    f"the gateway at {where} sent no account or order id within {timeout:g} s: is it logged in?"
                ) from None
            raise GatewayUnreachable(
                f"{where} accepts connections but did not answer the handshake within {timeout:g} s"
            ) from None
        finally:
            self.messageEvent -= on_message
            self.client.conn.disconnected -= on_closed
        self._check_version()
        self._watch_the_wire()
        return self

    def _check_version(self) -> None:
        version = self.client.serverVersion()
        if not self.client.MinClientVersion <= version <= self.client.MaxClientVersion:
            raise VersionUnsupported(
                f"server version {version} is outside {self.client.MinClientVersion}..{self.client.MaxClientVersion}"
            )

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
        if transport is not None:
            transport.abort()

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
        try:
            return await asyncio.wait_for(call(), timeout_s)
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
        for key in [k for k, future in wrapper._futures.items() if future.cancelled()]:  # noqa: SLF001
            for table in (wrapper._futures, wrapper._results, wrapper._reqId2Contract):  # noqa: SLF001
                table.pop(key, None)

    # --- market data -------------------------------------------------------------------------------------------------

    def start_quotes(self, contract: Any, generic_ticks: str = "") -> tuple[int, Any]:
        """Subscribe; return the request id, which `reqMktData` keeps to itself, and the ticker."""
        ticker = self.reqMktData(contract, generic_ticks)
        return self.wrapper.ticker2ReqId["mktData"][ticker], ticker

    def stop_quotes(self, contract: Any) -> None:
        """Cancel a subscription and forget its ticker, which the library would keep."""
        ticker = self.wrapper.tickers.pop(id(contract), None)
        if ticker is None:
            return
        request = self.wrapper.endTicker(ticker, "mktData")
        self.wrapper.reqId2Ticker.pop(request, None)
        if request and self.client.isConnected():
            self.client.cancelMktData(request)

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
            subscribed.
        """
        loop = asyncio.get_running_loop()
        first: asyncio.Future[Any] = loop.create_future()
        request, ticker = self.start_quotes(contract, genericTickList)

        def on_message(about: int, code: int, text: str, _json: str) -> None:
            if about == request and code in SUBSCRIPTION_FAILURES and not first.done():
                first.set_exception(BrokerRefused(code, text, _describe(contract)))

        def on_update(updated: Any) -> None:
            if (updated.hasBidAsk() or updated.last > 0) and not first.done():
                first.set_result(updated)

        def on_down() -> None:
            if not first.done():
                first.set_exception(NotReady(f"{_describe(contract)}: the connection to the gateway is down"))

        self.messageEvent += on_message
        ticker.updateEvent += on_update
        self.disconnectedEvent += on_down
        try:
            return await asyncio.wait_for(first, timeout_s)
        except BaseException as exc:
            self.stop_quotes(contract)
            if isinstance(exc, TimeoutError):
                raise RequestTimeout(f"first quote of {_describe(contract)}", timeout_s) from None
            raise
        finally:
            self.messageEvent -= on_message
            ticker.updateEvent -= on_update
            self.disconnectedEvent -= on_down


def _describe(contract: Any) -> str:
    return contract.localSymbol or f"{contract.symbol} {contract.secType}"
