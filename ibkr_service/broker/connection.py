"""One connection, from handshake to teardown: an `IB`, its intake, and what this connection knows of the line.

A session lives through many of these and never uses one twice. `generation` counts the moments at which everything
learned before became doubtful (1100, 1101, 1102): a synchronisation that such a moment overtook proves nothing.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import structlog

from ibkr_service.broker import codes, translate
from ibkr_service.broker.accounts import AccountUpdates
from ibkr_service.broker.ib import IB
from ibkr_service.broker.intake import Intake
from ibkr_service.broker.lines import Lines
from ibkr_service.broker.orderwire import OrderWire
from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.errors import GatewayError, RequestError, SyncFailed
from ibkr_service.core.link import Signal

log = structlog.get_logger("ibkr_service.broker")


class LineOver(GatewayError):
    """This connection is finished: lost, dead, wedged, or of no use. The session makes a new one.

    Args:
        silent_s: for how long nothing had come when we knew.
    """

    def __init__(self, text: str, silent_s: float = 0.0) -> None:
        super().__init__(text)
        self.silent_s = silent_s


class GivenUp(LineOver):
    """The socket is there, but we have decided to make a new session.

    Args:
        is_stuck: because the gateway does not answer; False: because its data does not come.
    """

    def __init__(self, text: str, silent_s: float = 0.0, *, is_stuck: bool = True) -> None:
        super().__init__(text, silent_s)
        self.is_stuck = is_stuck


class Connection:
    """A connected IB and what it told us.

    Args:
        ib: fresh, not connected. number: of this connection, unique in the journal. put: the inbox.
    """

    def __init__(self, ib: IB, number: int, *, clock: Clock, put: Callable[[ev.Event], None], lines: Lines) -> None:
        self.ib = ib
        self.order_wire = OrderWire(ib.client)
        self.number = number
        self.account = ""
        self.accounts: tuple[str, ...] = ()
        self.ready = False  # verified, and nothing has made it doubtful since
        self.cut = False  # 1100 without 1101 or 1102
        self.data_lost = False  # 1101: every subscription has to be made again
        self.data_doubtful = False  # 1102: the streams have to prove themselves
        self.cancels: dict[str, float] = {}  # reference -> loop time at which its cancel left, since the last look
        self.generation = 0
        self.over: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self._clock = clock
        self._put = put
        self._lines = lines
        self.cut_s = 0.0  # loop time of the 1100
        self.cut_said_s = 0.0  # and of its last repetition
        self._look = asyncio.Event()
        self._probe = asyncio.Event()
        self._read_only_api = False
        self.intake = Intake(
            ib,
            session=number,
            clock=clock,
            put=put,
            lines=lines,
            on_signal=self._on_signal,
            on_doubt=self.look_soon,
        )
        self.account_updates = AccountUpdates(ib, session=number, clock=clock, put=put)
        ib.messageEvent += self._on_message
        ib.disconnectedEvent += self._on_disconnected

    def close(self) -> None:
        """Stop listening, fail what is pending, drop the socket."""
        self.ready = False
        self.intake.close()
        self.account_updates.close()
        self.ib.messageEvent -= self._on_message
        self.ib.disconnectedEvent -= self._on_disconnected
        self.ib.teardown()
        if not self.over.done():
            self.over.cancel()

    # --- what the line does ------------------------------------------------------------------------------------------

    def _on_signal(self, signal: Signal) -> None:
        self.ready = False
        self.generation += 1
        self.account_updates.interrupted()
        match signal:
            case Signal.UPSTREAM_LOST:
                self.cut_said_s = asyncio.get_running_loop().time()
                if not self.cut:
                    self.cut_s = self.cut_said_s
                self.cut = True
                self.cancels.clear()
                self._lines.interrupt("the gateway lost Interactive Brokers")
            case Signal.RESTORED_DATA_LOST:
                self.cut, self.data_lost = False, True
                self._lines.interrupt("the gateway lost its data")
                self._lines.data_lost()  # now: what still ticks from here on was asked for and never answered before
            case Signal.RESTORED_DATA_KEPT:
                self.cut, self.data_doubtful = False, True
            case _:
                raise AssertionError(f"no message means {signal}")
        self._look.set()

    def _on_message(self, _request: int, code: int, text: str, _json: str) -> None:
        if code == codes.RATE_EXCEEDED:
            log.error("TWS says that we send too fast; slowing down", rate_per_s=self.ib.client.pacer.rate_per_s)
            self.ib.client.pacer.back_off()
        if code == codes.READ_ONLY_API and "read-only" in text.lower():
            self._read_only_api = True

    def _on_disconnected(self) -> None:
        self.ready = False
        if not self.over.done():
            self.over.set_result("the gateway closed the connection")

    def look_soon(self) -> None:
        """Something is doubtful: compare orders, fills and positions with the broker soon."""
        self._look.set()

    def probe_soon(self) -> None:
        """Ask the gateway for a sign of life now, instead of at the next turn."""
        self._probe.set()

    async def until_probe(self, within_s: float) -> None:
        """Wait until a probe is wanted, at most `within_s`."""
        try:
            async with asyncio.timeout(within_s):
                await self._probe.wait()
        except TimeoutError:
            pass
        self._probe.clear()

    async def until_look(self, within_s: float) -> bool:
        """Wait until a look is wanted, at most `within_s`; whether one is."""
        try:
            async with asyncio.timeout(within_s):
                await self._look.wait()
        except TimeoutError:
            return False
        self._look.clear()
        return True

    # --- looking at everything ---------------------------------------------------------------------------------------

    async def take_look(self, timeout_s: float, *, orders: bool) -> ev.Snapshot:
        """Ask for positions, orders, completed orders, account and executions; each must answer.

        Args:
            timeout_s: the limit of each request. orders: False if the gateway shows none (read-only).

        Raises:
            SyncFailed: naming what did not arrive. Nothing of it is to be taken for empty.
        """
        asked_at, asked_s = self._clock.now(), asyncio.get_running_loop().time()
        ib = self.ib
        answers = _Answers(ib, timeout_s)
        positions = await answers.get("positions", ib.reqPositionsAsync)
        open_orders: list[tuple[str, int]] = []
        completed: list[Any] = []
        if orders:
            open_orders = await answers.get("open orders", ib.reqAllOpenOrdersAsync, key="openOrders")
            completed = await answers.get("completed orders", lambda: ib.reqCompletedOrdersAsync(False))
        await answers.get("account updates", lambda: ib.reqAccountUpdatesAsync(self.account))
        # After the orders: an execution must find its order in our book.
        await answers.get("executions", ib.reqExecutionsAsync)
        if answers.missing and self._read_only_api and "open orders" in answers.missing:
            answers.missing["open orders"] += (
                "; the gateway is in Read-Only API mode: set ibkr.read_only = true or switch it off"
            )
        if answers.missing:
            raise SyncFailed(answers.missing)
        try:
            quantities = [(p.account, p.contract.conId, translate.decimal(float(p.position))) for p in positions]
        except (ValueError, OverflowError) as exc:
            raise SyncFailed({"positions": f"a quantity cannot be understood: {exc}"}) from exc
        self.cancels = {ref: left_s for ref, left_s in self.cancels.items() if left_s >= asked_s}
        return ev.Snapshot(
            at=self._clock.now(),
            session=self.number,
            asked_at=asked_at,
            accounts=self.accounts,
            positions=tuple(held for held in quantities if held[2]),
            open_refs=tuple(ref for ref, _ in open_orders if ref),
            open_perm_ids=tuple(perm_id for _, perm_id in open_orders),
            completed=tuple((order.orderRef, state.status) for _, order, state in completed if order.orderRef),
            orders_visible=orders,
            doubled_refs=_doubled(open_orders),
        )

    def stamp(self) -> datetime:
        """Now, on the service's clock."""
        return self._clock.now()


def _doubled(open_orders: list[tuple[str, int]]) -> tuple[str, ...]:
    """The references that stand on more than one order, in the order in which they were shown."""
    perm_ids: dict[str, set[int]] = {}
    for ref, perm_id in open_orders:
        if ref and perm_id:
            perm_ids.setdefault(ref, set()).add(perm_id)
    return tuple(ref for ref, ids in perm_ids.items() if len(ids) > 1)


class _Answers:
    """The answers to a list of questions, and which of them did not come."""

    def __init__(self, ib: IB, timeout_s: float) -> None:
        self.missing: dict[str, str] = {}
        self._ib = ib
        self._timeout_s = timeout_s

    async def get(self, name: str, call: Callable[[], Awaitable[Any]], *, key: str | None = None) -> Any:
        """The answer, or an empty list with the reason noted in `missing`."""
        try:
            return await self._ib.request(name, call, self._timeout_s, key=key or name)
        except (RequestError, GatewayError) as exc:
            self.missing[name] = str(exc)
            return []
