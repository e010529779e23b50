"""One process's relation to TWS: connect, verify, watch, back off, and again, until told to stop.

`run` is a loop around one connection at a time. A connection has seven keepers, all ended by the first that finds it
finished:

- *synchronising*: after the handshake, after 1101 and 1102, after anything doubtful and every few minutes, everything
  the broker holds is asked for and compared; only then does the link become READY;
- *probing*: a gateway that is silent, or talks but answers nothing, is given up within a stated time; a slow one is
not;
- *subscribing*: what is wanted is requested, and requested again; quotes and streams each have a keeper;
- *acknowledging*: an order that the broker does not acknowledge is looked for;
- *recovering*: data that grows old, or a line that takes nothing, is dealt with step by step (`recovery.py`);
- *informing*: what the accounts are worth is subscribed to.

What leaves: `place` and `cancel` are synchronous and see the line as it is now, not as the hub last heard.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import Any, TypeVar

import msgspec
import structlog

from ibkr_service.broker.asking import Questions
from ibkr_service.broker.client import Tap
from ibkr_service.broker.connection import Connection, GivenUp, LineOver
from ibkr_service.broker.dataage import DataAge
from ibkr_service.broker.dialling import Patience
from ibkr_service.broker.ib import IB, adopt_running_loop
from ibkr_service.broker.lines import Lines, Taker
from ibkr_service.broker.login import SessionConfig, choose_account
from ibkr_service.broker.orderwire import Tie
from ibkr_service.broker.recovery import Recovery
from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.backoff import delays
from ibkr_service.core.book import Book
from ibkr_service.core.errors import (
    GatewayError,
    NobodyListens,
    NotReady,
    Paced,
    SyncFailed,
)
from ibkr_service.core.link import STOPPING, Signal
from ibkr_service.core.orders import Intent, Order
from ibkr_service.looplag import LoopLag

log = structlog.get_logger("ibkr_service.broker")

T = TypeVar("T")

SYNC_TRIES = 3  # on one connection; then a new connection may help
SECOND_LOOK_S = 5.0  # what one look cannot explain, a second one this much later settles
DOUBT_SETTLES_S = 1.0  # after an error on an order, its status usually follows by itself
TIMER_STEP_S = 0.001  # a wait shorter than floats can add to the time would not end
PROBES_APART_S = 1.5  # TWS drops the second of two questions within a second
JUDGE_GRACE_S = 0.1  # deadlines are judged after bytes that are already waiting were read
CHANGE = "change of "  # before the reference, where a modification waits to be acknowledged
READY_RESETS_BACKOFF_S = 30.0  # a connection that lived this long was not a flap


class Session(Questions):
    """The service's one line to TWS; satisfies `wire.Wire`.

    Args:
        put: takes facts, in order (the inbox). book: read for the order-id high-water mark and for what is unsettled.
        uniform: `random.Random.uniform` of the injected generator, for the backoff's jitter.
        taker: gives what takes the ticks of an instrument, which may go a shorter way than facts.
        lag: for how long our own loop stood still.
        tap: is told what passes the socket.
    """

    def __init__(
        self,
        config: SessionConfig,
        *,
        clock: Clock,
        put: Callable[[ev.Event], None],
        book: Book,
        uniform: Callable[[float, float], float],
        taker: Taker | None = None,
        lag: LoopLag | None = None,
        tap: Tap | None = None,
    ) -> None:
        lines = Lines(put, clock, taker=taker, lines_max=config.market_data_lines, urgent=book.urgent)
        super().__init__(lines, clock, config.request_timeout_s, calendar_hours=config.calendar_hours)
        self.config = config
        self._clock = clock
        self._put = put
        self._book = book
        self._uniform = uniform
        self._paused_s: float | None = None  # since when the inbox is full, and nothing is read
        self._tap = tap
        self._paused = False
        self._opened_s = math.inf  # loop time at which the newest connection was opened, if it was
        self.last_failure: GatewayError | None = None  # why the newest connection failed or ended
        self._lag = lag or LoopLag()
        self.recovery = Recovery(
            config,
            DataAge(
                lines,
                self.streams,
                clock=clock,
                hours=self.hours,
                learn=self.learn_hours,
                limit_s=config.data_age_limit_s,
            ),
            clock=clock,
            put=put,
            lag=self._lag,
            windows=config.restart_windows,
            controller=config.controller,
            commanded=book.commanded,
        )

    # --- the life of the line ----------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep a verified connection for as long as this is not cancelled.

        Raises:
            ModeMismatch, AccountProblem: retrying cannot help.
            GatewayError: the connection failed and `auto_reconnect` is off.
        """
        adopt_running_loop()
        number = self._book.session
        waits = self._fresh_delays()
        loop = asyncio.get_running_loop()
        failures = 0
        refused_s: float | None = None  # since when nobody has listened
        wait_s = 0.0
        while True:
            number += 1
            self._opened_s = math.inf
            patience = Patience(loop.time() + wait_s, refused_s) if refused_s is not None else None
            try:
                await self._one_connection(number, patience)
                raise AssertionError("a connection ends with an exception")
            except GatewayError as exc:
                if not self.config.auto_reconnect:
                    raise
                if loop.time() - self._opened_s > READY_RESETS_BACKOFF_S:
                    waits, failures = self._fresh_delays(), 0
                if not isinstance(exc, NobodyListens):
                    if refused_s is not None:
                        waits = self._fresh_delays()  # it is coming up: this is no time for long waits
                    refused_s = None
                elif refused_s is None:
                    refused_s = loop.time()
                failures += 1
                wait_s = next(waits)
                # Kept for its words: the frames behind it would keep all that the connection knew.
                exc.__traceback__ = exc.__context__ = exc.__cause__ = None
                self.last_failure = exc
                self._report_failure(exc, failures, wait_s)
                await self.recovery.given_up(exc)
            if refused_s is None:
                await asyncio.sleep(wait_s)

    def _fresh_delays(self) -> Any:
        config = self.config
        return delays(self._uniform, min_s=config.reconnect_delay_min_s, max_s=config.reconnect_delay_max_s)

    def _report_failure(self, exc: GatewayError, failures: int, wait_s: float) -> None:
        """Say it once loudly; a gateway that is down all weekend is not news every minute.

        The next attempt comes after `wait_s`; at a port that refuses it begins now, and fails after so long.
        """
        say = log.error if failures == 1 else log.info
        say(
            "gateway connection failed" if not isinstance(exc, LineOver) else "gateway connection lost",
            error=str(exc),
            kind=type(exc).__name__,
            host=self.config.host,
            port=self.config.port,
            attempt=failures,
            retry_in_s=round(wait_s, 1),
        )

    async def _one_connection(self, number: int, patience: Patience | None) -> None:
        """Open a connection, serve it until it is over, close it. Always ends with an exception.

        Args:
            patience: how long to knock at a port that refuses; None: once.
        """
        config = self.config
        ib = IB(config.max_rate_per_s, self._clock, self._tap)
        ib.wrapper.keeps_ticks = False
        ib.TimezoneTWS = config.timezone_tws
        connection = Connection(ib, number, clock=self._clock, put=self._put, lines=self.lines)
        connection.intake.client_id = config.client_id
        if self._book.client_id == config.client_id:
            # No id was given twice, so a status tells which order it is about, though this connection has not shown it.
            known = {order.order_id: order.ref for order in self._book.alive_orders() if order.order_id}
            connection.intake.refs.update(known)
        opened = False
        try:
            await ib.connectAsync(config.host, config.port, config.client_id, config.connect_timeout_s, patience)
            self._opened_s = asyncio.get_running_loop().time()
            self._identify(connection)
            self._connection = connection
            opened = True
            self._on_open(connection)
            await self._serve(connection)
        except BaseException as exc:
            if isinstance(exc, GivenUp):
                self.recovery.record_new_session(str(exc))
            if opened:
                silent_s = exc.silent_s if isinstance(exc, LineOver) else 0.0
                self._on_lost(connection, STOPPING if isinstance(exc, asyncio.CancelledError) else str(exc), silent_s)
            raise
        finally:
            self._connection = None
            connection.close()

    def _identify(self, connection: Connection) -> None:
        """Prove the mode by the accounts, and choose the account."""
        accounts = tuple(connection.ib.client.getAccounts())
        connection.accounts = accounts
        connection.account = choose_account(accounts, self.config.mode, self.config.account)

    def _on_open(self, connection: Connection) -> None:
        ib = connection.ib
        ib.client.updateReqId(self._first_order_id())
        self.lines.session = connection.number
        self.lines.reset()
        self.lines.sinks = ib.wrapper.sinks
        at = self._clock.now()
        self._put(ev.LinkSignalled(at=at, session=connection.number, signal=Signal.SOCKET_UP, why="handshake done"))
        self._put(
            ev.SessionOpened(
                at=at,
                session=connection.number,
                server_version=ib.client.serverVersion(),
                client_id=self.config.client_id,
                accounts=connection.accounts,
                account=connection.account,
            )
        )
        if connection.cut:  # said during the handshake, before there was a link to move
            self._put(
                ev.LinkSignalled(
                    at=at, session=connection.number, signal=Signal.UPSTREAM_LOST, why="cut since the handshake"
                )
            )
        if self.config.client_id == 0:
            ib.reqAutoOpenOrders(True)
        ib.reqMarketDataType(self.config.market_data_type)
        if self._paused_s is not None:
            ib.pause_reading()

    def _first_order_id(self) -> int:
        """An order id that no order of ours ever had, whatever the gateway believes: each was journalled first."""
        return self._book.order_id_mark + 1

    def _on_lost(self, connection: Connection, why: str, silent_s: float) -> None:
        now = self._clock.now()
        self._put(ev.LinkSignalled(at=now, session=connection.number, signal=Signal.SOCKET_DOWN, why=why))
        since = now - timedelta(seconds=silent_s)
        self.lines.interrupt(why, since)
        self.streams.interrupt(why, since)

    async def _serve(self, connection: Connection) -> None:
        try:
            async with asyncio.TaskGroup() as keepers:
                for keeper in (
                    self._stay_synced,
                    self._stay_alive,
                    self._stay_subscribed,
                    self._stay_streamed,
                    self._stay_acked,
                    self._stay_informed,
                    self.recovery.keep,
                ):
                    keepers.create_task(keeper(connection), name=f"session:{keeper.__name__.strip('_')}")
                # In the body, not in the group's exit: before Python 3.13 only here are cancellations counted right.
                raise LineOver(await connection.over)
        except BaseExceptionGroup as group:
            task = asyncio.current_task()
            if task is not None and task.cancelling():
                raise asyncio.CancelledError from None  # a stop that coincided with a lost line is still a stop
            cause = _weightiest(group)
            if isinstance(cause, ConnectionError):  # the library's word for a socket that is gone
                raise LineOver(str(cause)) from cause
            raise cause from None

    # --- the keepers -------------------------------------------------------------------------------------------------

    async def _stay_synced(self, connection: Connection) -> None:
        """Look at everything now, and again whenever there is reason to."""
        failures, settle_s = 0, DOUBT_SETTLES_S
        while True:
            if connection.cut:
                await connection.until_look(self.config.reconcile_interval_s)
                continue
            generation, was_ready, faults = connection.generation, connection.ready, connection.intake.faults
            try:
                look = await connection.take_look(self.config.request_timeout_s, orders=self._orders_visible)
            except SyncFailed as exc:
                if generation != connection.generation:
                    continue  # overtaken by news of the line
                failures += 1
                log.warning("synchronisation failed", error=str(exc), attempt=failures)
                if failures >= SYNC_TRIES:
                    raise GivenUp(str(exc)) from exc
                continue
            failures = 0
            if generation != connection.generation:
                continue
            self._put(look)
            if not was_ready:
                self._on_synced(connection)
            connection.account_updates.looked(look)
            # A look that itself meets what cannot be understood must not cause the next one at once, for ever.
            met_faults = connection.intake.faults > faults
            settle_s = min(settle_s * 2, self.config.reconcile_interval_s) if met_faults else DOUBT_SETTLES_S
            await self._until_next_look(connection, settle_s)

    @property
    def _orders_visible(self) -> bool:
        return not self.config.read_only

    def _on_synced(self, connection: Connection) -> None:
        connection.ready = True
        now_s = asyncio.get_running_loop().time()
        if connection.data_doubtful and not connection.data_lost:
            self.lines.data_kept(now_s, self.config.probe_timeout_s)
        self.streams.synced(
            data_lost=connection.data_lost,
            data_doubtful=connection.data_doubtful,
            within_s=self.config.probe_timeout_s,
        )
        self._became_ready.set()
        connection.data_lost = connection.data_doubtful = False
        at = self._clock.now()
        self._put(ev.LinkSignalled(at=at, session=connection.number, signal=Signal.SYNCED, why="everything verified"))
        self.lines.poke()

    async def _until_next_look(self, connection: Connection, settle_s: float) -> None:
        interval_s = self.config.reconcile_interval_s
        second_s = min(SECOND_LOOK_S, interval_s)
        # Asked after a while, not at once: a long look is still on its way through the inbox.
        if not await connection.until_look(second_s) and not self._book.unsettled():
            await connection.until_look(interval_s - second_s)
        if connection.ready:
            await asyncio.sleep(settle_s)

    async def _stay_alive(self, connection: Connection) -> None:
        """Ask for the time, one question at a time; give the line up when it is dead or wedged."""
        loop, ib, config = asyncio.get_running_loop(), connection.ib, self.config
        asked_s = -PROBES_APART_S
        while True:
            await connection.until_probe(config.probe_interval_s)
            await asyncio.sleep(max(0.0, asked_s + PROBES_APART_S - loop.time()))
            asked_s, lag_s = loop.time(), self._lag.total_s
            answer = ib.reqCurrentTimeAsync()
            while not answer.done():
                ours_s = self._lag.total_s - lag_s  # nothing could be sent or read for so long
                dead_s = max(asked_s, ib.last_byte_s) + config.probe_timeout_s + ours_s
                wedged_s = asked_s + config.wedged_timeout_s + ours_s
                left_s = min(dead_s, wedged_s) - loop.time()
                if left_s > 0:
                    await asyncio.wait([answer], timeout=max(left_s, TIMER_STEP_S))
                else:
                    await self._judge(connection, answer, is_wedged=wedged_s <= dead_s)
            answer.exception()  # mark as seen; a lost socket is told by `over`

    async def _judge(self, connection: Connection, answer: asyncio.Future[Any], *, is_wedged: bool) -> None:
        """The deadline has passed: read what is already here, then decide. An answer is life, or any byte."""
        heard_s, lag_s = connection.ib.last_byte_s, self._lag.total_s
        await asyncio.sleep(JUDGE_GRACE_S)
        if answer.done() or self._lag.total_s > lag_s or self._paused_s is not None:
            return  # if our own loop stood still, or nothing is being read, the deadline is a later one
        if is_wedged:
            raise GivenUp(f"wedged: a probe was not answered for {self.config.wedged_timeout_s:g} s")
        if connection.ib.last_byte_s <= heard_s:
            silent_s = asyncio.get_running_loop().time() - connection.ib.last_byte_s
            raise GivenUp(f"dead: no byte for {self.config.probe_timeout_s:g} s after a probe", silent_s)

    async def _stay_streamed(self, connection: Connection) -> None:
        """As `_stay_subscribed`, for bars, ticks one by one and depth."""
        await self.streams.serve(connection.ib, connection.number, lambda: connection.ready)

    async def _stay_acked(self, connection: Connection) -> None:
        """An order that nobody acknowledges in time is looked for; the book then says what became of it."""
        loop, waiting, limit_s = asyncio.get_running_loop(), connection.intake.unacknowledged, self.config.ack_timeout_s
        while True:
            await connection.intake.order_sent.wait()
            connection.intake.order_sent.clear()
            while waiting:
                # In the order of sending, so the first is due first.
                ref, sent_s = next(iter(waiting.items()))
                await asyncio.sleep(max(0.0, sent_s + limit_s - loop.time()))
                if waiting.get(ref) == sent_s:
                    del waiting[ref]
                    changing = self._book.orders.get(ref.removeprefix(CHANGE))
                    if ref.startswith(CHANGE) and (changing is None or changing.change is None):
                        continue
                    log.warning("order not acknowledged; looking for it", ref=ref, timeout_s=limit_s)
                    connection.look_soon()

    async def _stay_informed(self, connection: Connection) -> None:
        """Profit and loss, and the values of the login's other accounts; none of it is needed to be READY."""
        await connection.account_updates.keep(connection.account, self.config.request_timeout_s)

    # --- the wire of the desks ---------------------------------------------------------------------------------------

    def check_can_place(self, count: int) -> None:
        """Whether so many new orders could leave at this very moment.

        Raises:
            NotReady: the line is not verified. Paced: no sending allowance.
        """
        if self._live().ib.client.pacer.room_for_orders() < count:
            raise self._paced()

    def _paced(self) -> Paced:
        return Paced(f"the allowance of {self.config.max_rate_per_s} messages a second is used up; try again")

    def reserve(self, account: str) -> tuple[str, int, int]:
        """What an order names that could leave at this very moment: account, order id, the connection's number.

        Args:
            account: which; empty for the one that the settings chose. The id is used by no order before or after.

        Raises:
            NotReady: the line is not verified. Paced: no sending allowance.
        """
        connection = self._live()
        client = connection.ib.client
        if client.pacer.room_for_orders() < 1:
            raise self._paced()
        return account or connection.account, client.getReqId(), connection.number

    def place(self, order: Order | ev.OrderSubmitted) -> tuple[int, int]:
        """Hand a journalled order to the socket, with the id that it was given; returns that and the connection.

        Raises:
            NotReady, Paced: it was not sent.
        """
        connection = self._live()
        ib = connection.ib
        order_id = order.order_id
        if order.session != connection.number:
            raise NotReady(f"{order.ref} was to leave over connection {order.session}, which is gone")
        instrument, con_id = self._sent_as(order.intent.instrument)
        # Straight to the pacer: the library's own trade book would add nothing but log texts and false states.
        write = connection.order_wire.message
        ib.client.pacer.send_order(write(order_id, order.intent, instrument, con_id, order.ref, order.account))
        connection.intake.refs[order_id] = order.ref
        connection.intake.sent(order.ref)
        return order_id, connection.number

    def place_bracket(self, orders: Sequence[Order]) -> list[tuple[int, int]]:
        """Hand a journalled entry and its exits to the socket; TWS holds them back until it has the last one.

        Returns the order ids, which were given to them before, and the connection's number.

        Raises:
            NotReady, Paced: none was sent.
        """
        self.check_can_place(len(orders))
        connection = self._live()
        ib = connection.ib
        ids = {order.ref: order.order_id for order in orders}
        if any(order.session != connection.number for order in orders):
            raise NotReady(f"{orders[0].ref} was to leave over a connection that is gone")
        messages = []
        for order in orders:
            instrument, con_id = self._sent_as(order.intent.instrument)
            tie = Tie(parent_id=ids.get(order.parent, 0), transmit=order is orders[-1])
            messages.append(connection.order_wire.tied(ids[order.ref], order, instrument, con_id, tie))
        for order, message in zip(orders, messages, strict=True):
            ib.client.pacer.send(message)
            connection.intake.refs[ids[order.ref]] = order.ref
            connection.intake.sent(order.ref)
        return [(ids[order.ref], connection.number) for order in orders]

    def check_can_modify(self, order: Order) -> None:
        """Whether new terms of an order could leave at this very moment.

        Raises:
            NotReady: the line is not verified, or the order's id is not known on this connection. Paced: no sending
            allowance.
        """
        self.check_can_place(1)
        connection = self._live()
        if order.session != connection.number or order.order_id <= 0:
            raise NotReady(f"{order.ref} cannot be changed: the broker has not shown it on this connection")

    def modify(self, order: Order, intent: Intent) -> None:
        """Hand journalled new terms of an order to the socket, from our own description of it (R29).

        Raises:
            NotReady, Paced: they were not sent.
        """
        self.check_can_modify(order)
        connection = self._live()
        instrument, con_id = self._sent_as(intent.instrument)
        wire = connection.order_wire
        if order.parent_id or order.oca_group:  # what is left out of a change is undone by it
            tie = Tie(order.parent_id, True, order.oca_group, order.oca_type)
            changed = msgspec.structs.replace(order, intent=intent)
            message = wire.tied(order.order_id, changed, instrument, con_id, tie)
        else:
            message = wire.message(order.order_id, intent, instrument, con_id, order.ref, order.account)
        connection.ib.client.pacer.send(message)
        # Only the order's new terms are an answer to it, and these the book judges: any status would end the wait.
        connection.intake.sent(CHANGE + order.ref)

    def cancel(self, order: Order) -> bool:
        """Ask for a cancellation if that is possible now; False if the order's id is not known on this connection."""
        connection = self._connection
        if (
            connection is None
            or not connection.ib.client.isReady()
            or connection.cut
            or order.session != connection.number
        ):
            return False
        connection.ib.client.cancelOrder(order.order_id, "")
        connection.cancels[order.ref] = asyncio.get_running_loop().time()
        connection.intake.sent(order.ref)  # a cancel wants an answer too
        return True

    def cancel_still(self, order: Order) -> None:
        """As `cancel`, for a wish that stands; not if it has left over this line since the last look began."""
        if self._connection is not None and order.ref not in self._connection.cancels:
            self.cancel(order)

    # --- the inbox's brake -------------------------------------------------------------------------------------------

    def library_fault(self, logger: str, text: str) -> None:
        """A library logged an error, so something may be missing: on record, and compared with the broker soon."""
        if self._connection is not None:
            self._connection.intake.fault(logger, text)
        else:
            self._put(ev.LibraryFault(at=self._clock.now(), logger=logger, text=text))

    def pause_reading(self) -> None:
        """The inbox is full: stop taking bytes from the socket."""
        if self._paused_s is None:
            self._paused_s = asyncio.get_running_loop().time()
        if self._connection is not None:
            self._connection.ib.pause_reading()

    def resume_reading(self) -> None:
        """The inbox has room again."""
        if self._paused_s is not None:
            self._lag.excuse(asyncio.get_running_loop().time() - self._paused_s)
            self._paused_s = None
        if self._connection is not None:
            self._connection.ib.resume_reading()


def _weightiest(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """Of what ended a connection, the thing to report: a defect before a fatal finding before a lost line."""
    flat: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        exc = stack.pop()
        if isinstance(exc, BaseExceptionGroup):
            stack.extend(exc.exceptions)
        else:
            flat.append(exc)
    return min(flat, key=lambda e: isinstance(e, (GatewayError, ConnectionError)))
