"""The composition root: builds everything, opens lifetimes in order, closes them in mirror order.

Settings stop here; below are plain values. Nothing else knows how many parts there are.

The order of opening: fitness of the machine, journal, book (from the journal), inbox and pump, session, strategies
(which wait for READY). Closing: no new intents, strategies, open orders as set, session, what is left in the inbox,
journal.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from datetime import timedelta
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Literal
from zoneinfo import ZoneInfo

import structlog

from ibkr_service import __version__, narrate
from ibkr_service.broker.ib import adopt_running_loop
from ibkr_service.broker.login import SessionConfig
from ibkr_service.broker.session import Session
from ibkr_service.checkpoints import Checkpoints
from ibkr_service.claims import Claims
from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.errors import (
    FatalError,
    GatewayError,
    JournalError,
    NotReady,
    ServiceError,
    Unfit,
    UnknownAccount,
    UnknownOrder,
)
from ibkr_service.core.incidents import STREAMS_MAX_S, Incidents
from ibkr_service.core.limits import Limits, tightened
from ibkr_service.core.link import Link
from ibkr_service.core.notices import Notices, Told
from ibkr_service.core.recording import Header
from ibkr_service.core.refs import Refs, run_id
from ibkr_service.desk import Desk
from ibkr_service.hub import Hub
from ibkr_service.journal import Durability, Journal
from ibkr_service.log import library_alarms
from ibkr_service.looplag import LoopLag
from ibkr_service.mailbox import Inbox
from ibkr_service.notifying import Channel, Courier
from ibkr_service.recorder import Recorder, RecordingConfig
from ibkr_service.retention import Pruning
from ibkr_service.settings import Settings
from ibkr_service.startstate import found, plain
from ibkr_service.supervisor import StrategySpec, Supervisor, arguments, load
from ibkr_service.watchdog import Watchdog

log = structlog.get_logger("ibkr_service")

EXIT_OK, EXIT_FAILED, EXIT_UNUSABLE = 0, 1, 2
SHUTTING_DOWN = "the service is shutting down"
QUARANTINE_REMINDER_S = 600.0  # how often a quarantine is said again while it lasts
PUMP_BATCH = 256  # events recorded before the strategies get a turn
SNAPSHOT_PAUSE_S, SNAPSHOT_RETRY_S = 0.01, 60.0  # between two steps; after the disk said no
PRUNE_AFTER_S, PRUNE_PAUSE_S, PRUNE_EVERY_S = 600.0, 0.02, 86_400.0
# Whose logged errors may mean lost data; the library's other errors are the broker's messages, which we have as facts.
TELLING_LOGGERS = ("ib_insync.Decoder", "eventkit", "asyncio")
ZONES = ("US/Eastern", "MET", "Japan")  # TWS writes execution times with such names

_DATA_TYPES = {"live": 1, "frozen": 2, "delayed": 3, "delayed_frozen": 4}


@dataclass(frozen=True)
class AppConfig:
    """The settings as plain values. Times in seconds; `hold_limit_s` None: no watchdog, and no other thread.

    `claims` is the folder in which a daemon claims its client id; None: it does not. `keep_days`: for how long every
    fact is kept; 0: for ever. `recording`: where the session is recorded to.
    """

    session: SessionConfig
    limits: Limits
    journal_path: Path
    durability: Durability = "process"
    journal_fresh: bool = False
    inbox_max: int = 10_000
    mailbox_max: int = 1_000
    shutdown_timeout_s: float = 10.0
    open_orders_at_shutdown: Literal["leave", "cancel"] = "leave"
    hold_limit_s: float | None = None
    claims: Path | None = None
    keep_days: int = 0
    told: Told = field(default_factory=Told)
    recording: RecordingConfig | None = None


def config_of(settings: Settings) -> AppConfig:
    """Take the settings apart into plain values."""
    ibkr, risk, service = settings.ibkr, settings.risk, settings.service
    return AppConfig(
        session=SessionConfig(
            host=ibkr.host,
            port=ibkr.port,
            client_id=ibkr.client_id,
            mode=ibkr.mode,
            account=ibkr.account,
            read_only=ibkr.read_only,
            connect_timeout_s=ibkr.connect_timeout_s,
            auto_reconnect=ibkr.auto_reconnect,
            reconnect_delay_min_s=ibkr.reconnect_delay_min_s,
            reconnect_delay_max_s=ibkr.reconnect_delay_max_s,
            max_rate_per_s=ibkr.max_rate_per_s,
            request_timeout_s=ibkr.request_timeout_s,
            ack_timeout_s=ibkr.ack_timeout_s,
            absent_after_s=ibkr.absent_after_s,
            probe_interval_s=ibkr.probe_interval_s,
            probe_timeout_s=ibkr.probe_timeout_s,
            wedged_timeout_s=ibkr.wedged_timeout_s,
            reconcile_interval_s=ibkr.reconcile_interval_s,
            timezone_tws=ibkr.timezone_tws,
            market_data_lines=ibkr.market_data_lines,
            market_data_type=_DATA_TYPES[ibkr.market_data_type],
            calendar_hours=risk.unknown_hours == "calendar",
            data_age_limit_s=ibkr.data_age_limit_s,
            write_buffer_max_bytes=ibkr.write_buffer_max_bytes,
            controller=ibkr.controller.controller,
        ),
        limits=risk.limits(
            ibkr.restart_window,
            read_only=ibkr.read_only,
            always_open=ibkr.mode == "simulated" and settings.simulator.hours == "always",
        ),
        journal_path=Path(settings.journal.path),
        durability=settings.journal.durability,
        keep_days=settings.journal.keep_days,
        inbox_max=service.inbox_max,
        mailbox_max=service.mailbox_max,
        shutdown_timeout_s=service.shutdown_timeout_s,
        open_orders_at_shutdown=service.open_orders_at_shutdown,
        hold_limit_s=service.hold_limit_s,
        told=Told(
            on=frozenset(settings.notify.on),
            after=timedelta(seconds=settings.notify.after_s),
            hourly_max=settings.notify.hourly_max,
            windows=tuple(window.window for window in ibkr.restart_window),
        ),
    )


def specs_of(settings: Settings) -> list[StrategySpec]:
    """Load the strategies that the settings name, and check their parameters.

    Raises:
        StrategyUnusable: one cannot be found, or its parameters do not fit.
    """
    specs = [
        StrategySpec(
            name=s.name,
            function=load(s.run),
            params=dict(s.params),
            risk=s.risk.own,
            restart=s.restart,
            restart_delay_s=s.restart_delay_s,
            restart_max=s.restart_max,
        )
        for s in settings.strategies
    ]
    for spec in specs:
        arguments(spec)
    return specs


def check_fitness() -> None:
    """Refuse to start on a machine or in an environment in which facts would be lost.

    Raises:
        Unfit: with what to install or remove.
    """
    for zone in ZONES:
        try:
            ZoneInfo(zone)
        except (LookupError, ValueError, OSError) as exc:
            raise Unfit(
                f"time zone {zone} is unknown here, so every fill would be lost: install the package tzdata"
            ) from exc
    try:
        distribution("aeventkit")
    except PackageNotFoundError:
        return
    raise Unfit("aeventkit is installed beside eventkit and overwrites its files: use an environment without ib_async")


class App:
    """The service: one session, one hub, any number of strategies.

    Args:
        clock, rng: the wall clock and the one source of randomness. observer: sees every recorded event (for people's
        eyes). channels: where people are told of what is told by `config.told`.
    """

    def __init__(
        self,
        config: AppConfig,
        specs: list[StrategySpec],
        *,
        clock: Clock,
        rng: random.Random,
        observer: Callable[[ev.Event], None] | None = None,
        channels: Sequence[Channel] = (),
    ) -> None:
        check_fitness()
        self.config = config
        self.clock: Clock = clock
        self.stop = asyncio.Event()
        self.stop_reason = "asked to stop"
        self.ready = asyncio.Event()
        self._changed = asyncio.Event()  # some order has a new state
        self._snapshot_due = asyncio.Event()
        self.recorder: Recorder | None = None
        self.claims = Claims(config.claims)
        self.claims.gateway(config.session.host, config.session.port, config.session.client_id)
        try:
            self.journal = Journal(config.journal_path, config.durability, fresh=config.journal_fresh)
        except BaseException:
            self.claims.release()
            raise
        self._observers = [observer] if observer is not None else []
        self._desks: list[Desk] = []
        try:
            self.hub = Hub(self.journal, self._observe, observer, absent_after_s=config.session.absent_after_s)
            self.incidents: Incidents | None = None  # not before the book is what it was
            self.courier: Courier | None = None
            self.hub.recover()
            self.book = self.hub.book
            book = self.book
            self.incidents = Incidents(book.incidents, was_ready=book.was_ready, under_way=book.incident)
            if channels:
                self.courier = self._courier(channels)
                self._observers.append(self.courier.note)
            self.inbox = Inbox(config.inbox_max)
            self.lag = LoopLag(self._loop_was_held)
            self._holder = ""  # who was last seen to hold the loop
            clock = self.clock = self._overheard(clock)
            self.session = Session(
                replace(config.session, restart_windows=config.limits.restart_windows),
                clock=clock,
                put=self.inbox.put,
                book=self.book,
                uniform=rng.uniform,
                taker=lambda instrument: self.hub.taker(instrument, self.inbox),
                lag=self.lag,
                tap=self.recorder,
            )
            self._built_at, self._built_s = clock.now(), asyncio.get_running_loop().time()
            self.run_id = run_id(int(self._built_at.timestamp()), self.book.last_run_id)
            # Two services that start in one second differ by their client ids.
            self.refs = Refs(f"{self.run_id}-{config.session.client_id}")
            self.supervisor = Supervisor(specs, make_desk=self.make_desk, hub=self.hub, clock=clock, ready=self.ready)
        except BaseException:
            self._discard_recording()
            self.journal.close()
            self.claims.release()
            raise
        self.inbox.on_high = self.session.pause_reading
        self.inbox.on_low = self.session.resume_reading

    def _courier(self, channels: Sequence[Channel]) -> Courier:
        session = self.config.session
        return Courier(
            Notices(self.config.told, under_way=self.book.incident),
            channels,
            self.clock,
            sender=f"IBKR {session.mode}, client {session.client_id}",
            journal_refuses=lambda: bool(self.hub.unsaved),
        )

    # --- life --------------------------------------------------------------------------------------------------------

    async def run(self) -> int:
        """Serve until `stop` is set; returns the exit code: 0 in order, 1 something failed, 2 not usable as set."""
        try:
            await self.serve()
        except FatalError as exc:
            log.error("cannot run", error=str(exc), kind=type(exc).__name__)
            return EXIT_UNUSABLE
        except ServiceError as exc:
            log.error("service ended", error=str(exc), kind=type(exc).__name__)
            return EXIT_FAILED
        return EXIT_OK

    async def serve(self) -> None:
        """Serve until `stop` is set.

        Raises:
            FatalError: it cannot be run as it is set. ServiceError: something failed.
        """
        adopt_running_loop()
        with ExitStack() as around:
            around.callback(self.claims.release)
            around.callback(self.journal.close)
            if self.recorder is not None:
                around.callback(self.recorder.close)
                self._begin_recording(self.recorder)
            around.enter_context(library_alarms(self._library_alarm))
            if self.config.hold_limit_s is not None:
                around.enter_context(Watchdog(self.config.hold_limit_s, self._held))
                around.enter_context(Checkpoints(self.journal))
            self._started()
            await self._serve()
            self.hub.record(ev.ServiceStopped(at=self.clock.now(), reason=self.stop_reason))
            self._snapshot_at_the_end()

    def accept_quarantine(self, account: str, by: str) -> None:
        """A person takes an account as the broker shows it: what was unexplained is adopted, and all orders may leave.

        Args:
            by: who, for the journal.

        Raises:
            UnknownAccount: it is not in quarantine. NotReady: what the broker holds is not verified now.
            JournalError: the disk refuses writes; nothing has changed.
        """
        if account not in self.book.quarantines:
            raise UnknownAccount("this account is not in quarantine")
        if self.book.link is not Link.READY:
            raise NotReady(f"the link is {self.book.link.name}: what the broker holds is not verified; try again")
        self.hub.decide(ev.QuarantineEnded(at=self.clock.now(), account=account, by=by))

    def accept_order(self, ref: str, by: str) -> None:
        """A person takes an order as over that nobody can account for: it counts no more. A fill is still a fill.

        Args:
            by: who, for the journal.

        Raises:
            UnknownOrder: there is none of this reference that the broker neither holds nor explains.
            NotReady: what the broker holds is not verified now. JournalError: the disk refuses writes.
        """
        order = next((order for order in self.book.unaccounted() if order.ref == ref), None)
        if order is None:
            raise UnknownOrder(f"{ref} is no order that cannot be accounted for")
        if self.book.link is not Link.READY:
            raise NotReady(f"the link is {self.book.link.name}: what the broker holds is not verified; try again")
        over = ev.OrderResolved(
            at=self.clock.now(),
            session=order.session,
            ref=ref,
            resolution="cancelled",
            detail=f"taken as over by {by}: the broker neither holds it nor tells what became of it",
        )
        self.hub.decide(over)

    async def _remind(self) -> None:
        """What only a person can end must not be forgotten: say it again."""
        while True:
            await asyncio.sleep(QUARANTINE_REMINDER_S)
            for quarantine in self.book.quarantines.values():
                narrate.say(quarantine)

    def request_stop(self, reason: str) -> None:
        """Begin an orderly shutdown; `run` returns when it is done."""
        if not self.stop.is_set():
            self.stop_reason = reason
            self.stop.set()
            if self.recorder is not None:
                self.recorder.stopping(reason)

    def _started(self) -> None:
        mode, run = self.config.session.mode, self.run_id
        self.hub.record(ev.ServiceStarted(at=self.clock.now(), run_id=run, mode=mode, version=__version__))

    def _overheard(self, clock: Clock) -> Clock:
        """The clock; one that the recorder listens at, if this session is recorded."""
        if self.config.recording is None:
            return clock
        self.recorder = Recorder(self.config.recording, clock)
        return self.recorder.clock

    def _discard_recording(self) -> None:
        if self.recorder is not None:
            self.recorder.discard()

    def _begin_recording(self, recorder: Recorder) -> None:
        """Write down what this service is and began with."""
        config, book = self.config, self.book
        names = ("inbox_max", "mailbox_max", "shutdown_timeout_s", "open_orders_at_shutdown", "keep_days")
        now_s = asyncio.get_running_loop().time()
        header = Header(
            version=__version__,
            masked=recorder.config.masked,
            mode=config.session.mode,
            seed=recorder.config.seed,
            run_id=self.run_id,
            started_at=self._built_at,
            built_s=self._built_s,
            began_s=now_s,
            is_virtual=recorder.config.is_virtual,
            session={**plain(config.session), "host": "127.0.0.1"},
            limits=plain(config.limits),
            service={name: getattr(config, name) for name in names},
            strategies=[
                plain({**vars(spec), "function": f"{spec.function.__module__}:{spec.function.__qualname__}"})
                for spec in self.supervisor.specs
            ],
            seq=self.journal.seq,
        )
        said = book.operator.said
        recorder.begin(
            header,
            accounts=(config.session.account, *book.accounts),
            names=() if said is None else (said.by,),
            before=found(self.journal, self.hub.snapshots.seq, now_s),
        )

    async def _serve(self) -> None:
        try:
            async with asyncio.TaskGroup() as parts:
                pump = parts.create_task(self._pump(), name="pump")
                session = parts.create_task(self.session.run(), name="session")
                strategies = parts.create_task(self.supervisor.run(), name="supervisor")
                upkeep = [
                    parts.create_task(self._take_snapshots(), name="snapshots"),
                    parts.create_task(self._remind(), name="reminder"),
                    parts.create_task(self._end_incidents(), name="incidents"),
                    parts.create_task(self.lag.run(), name="loop lag"),
                ]
                if self.recorder is not None:
                    upkeep.append(parts.create_task(self.recorder.run(), name="recorder"))
                if self.config.keep_days:
                    upkeep.append(parts.create_task(self._prune(self.config.keep_days), name="pruning"))
                if self.courier is not None:
                    upkeep.append(parts.create_task(self.courier.run(), name="courier"))
                await self.stop.wait()
                await self._shut_down(session, strategies, pump)
                if self.courier is not None:
                    await self.courier.finish()
                for task in upkeep:
                    task.cancel()
        except BaseExceptionGroup as group:
            raise _first_of_ours(group) from group

    async def _end_incidents(self) -> None:
        """An incident of which something never settles ends by time."""
        while True:
            await asyncio.sleep(STREAMS_MAX_S / 4)
            assert self.incidents is not None, "the book was recovered"
            for fact in self.incidents.due(self.clock.now()):
                self.hub.record(fact)

    def _held(self, task_name: str, held_s: float, stack: str) -> None:
        """The watchdog's finding, right after the loop was let go."""
        self._holder = task_name
        self.supervisor.held(task_name, held_s, stack)

    def _loop_was_held(self, held_s: float) -> None:
        holder, self._holder = self._holder, ""
        self.hub.record(ev.LoopHeld(at=self.clock.now(), held_s=round(held_s, 3), by=holder))

    async def _shut_down(
        self, session: asyncio.Task[None], strategies: asyncio.Task[None], pump: asyncio.Task[None]
    ) -> None:
        """Close in mirror order, each step bounded."""
        limit_s = self.config.shutdown_timeout_s
        log.info("shutting down", reason=self.stop_reason, limit_s=limit_s)
        for desk in tuple(self._desks):
            desk.refuse_orders(SHUTTING_DOWN)
        await _end(strategies, "strategies", limit_s)
        if self.config.open_orders_at_shutdown == "cancel":
            await self._cancel_open_orders(limit_s)
        await _end(session, "session", limit_s)
        await _end(pump, "pump", limit_s)
        while len(self.inbox):
            self.hub.record(self.inbox.pop())

    async def _cancel_open_orders(self, limit_s: float) -> None:
        for order in list(self.book.alive_orders()):
            self.cancel(order.ref, "shutdown")
        try:
            async with asyncio.timeout(limit_s):
                while any(self.book.alive_orders()):
                    self._changed.clear()
                    await self._changed.wait()
        except TimeoutError:
            left = [order.ref for order in self.book.alive_orders()]
            log.warning("open orders not confirmed as cancelled", orders=left)

    def cancel(self, ref: str, by: str) -> None:
        """Want an order gone, whoever's it is: sent now, or first thing when the orders are known again."""
        if not self.book.orders[ref].cancel_wanted:
            self.hub.record(ev.CancelRequested(at=self.clock.now(), ref=ref, by=by))
        self.session.cancel(self.book.orders[ref])

    async def _pump(self) -> None:
        """Move events from the inbox into the hub; let others run between batches."""
        while True:
            self.hub.record(await self.inbox.get())
            for _ in range(min(PUMP_BATCH, len(self.inbox))):
                self.hub.record(self.inbox.pop())
            if self.hub.snapshots.due:
                self._snapshot_due.set()
            await asyncio.sleep(0)

    async def _take_snapshots(self) -> None:
        """Write a snapshot of the book each time one is due, a little at a time."""
        snapshots = self.hub.snapshots
        while True:
            await self._snapshot_due.wait()
            try:
                if not self.hub.unsaved:  # the book would be ahead of the journal
                    snapshots.cut()
                for _ in iter(snapshots.step, False):
                    await asyncio.sleep(SNAPSHOT_PAUSE_S)
            except JournalError as exc:
                log.warning("no snapshot could be written; the next start takes longer", error=str(exc))
                await asyncio.sleep(SNAPSHOT_RETRY_S)
            self._snapshot_due.clear()

    async def _prune(self, keep_days: int) -> None:
        """Remove from the journal what it need not keep so long; a while after the start, then daily."""
        await asyncio.sleep(PRUNE_AFTER_S)
        while True:
            before = self.clock.now() - timedelta(days=keep_days)
            pruning = Pruning(self.journal, self.book, before=before, upto=self.hub.snapshots.seq)
            try:
                for _ in pruning.steps():
                    await asyncio.sleep(PRUNE_PAUSE_S)
            except JournalError as exc:
                log.warning("old facts could not be removed; tomorrow again", error=str(exc))
            else:
                log.info("old facts removed", before=before.date(), facts=pruning.removed, orders=pruning.closed)
            await asyncio.sleep(PRUNE_EVERY_S)

    def _snapshot_at_the_end(self) -> None:
        if self.hub.unsaved:
            return
        try:
            self.hub.snapshots.finish()
        except JournalError as exc:
            log.warning("no snapshot could be written; the next start takes longer", error=str(exc))

    # --- what the parts tell each other ------------------------------------------------------------------------------

    def make_desk(self, spec: StrategySpec, overrun: Callable[[], None], limits: Limits | None = None) -> Desk:
        """A desk for a strategy, or for the operator, who has limits of his own."""
        desk = Desk(
            spec.name,
            hub=self.hub,
            wire=self.session,
            watching=self.session.lines,
            limits=tightened(self.config.limits, spec.risk) if limits is None else limits,
            refs=self.refs,
            clock=self.clock,
            params=spec.params,
            facts_max=self.config.mailbox_max,
            overrun=overrun,
        )
        if self.stop.is_set():
            desk.refuse_orders(SHUTTING_DOWN)
        self._desks = [d for d in self._desks if not d.closed]
        self._desks.append(desk)
        return desk

    def _observe(self, event: ev.Event) -> None:
        """After an event was recorded: wake those who wait for it, say it, act on what is desired."""
        # What a crash kept from being recorded is told before there are any: it is no news of this process.
        for fact in self.incidents.apply(event) if self.incidents is not None else ():
            self.hub.record(fact)
        if isinstance(event, ev.LinkChanged):
            if event.after is Link.READY:
                self.ready.set()
            else:
                self.ready.clear()
            self._send_wanted_cancels([order.ref for order in self.book.alive_orders()])
        elif isinstance(event, ev.SessionOpened):
            if self.config.session.mode != "simulated":  # each simulated gateway has accounts of the same names
                self.claims.account(event.account, event.client_id)
        elif isinstance(event, ev.Snapshot):
            # Not of what it does not show: the answer would be a doubt, and a doubt is the next look, without end.
            self._send_wanted_cancels(event.open_refs)
        elif isinstance(event, ev.OpenOrderReported):
            self._send_wanted_cancels([event.ref])  # before all else is known again
        elif isinstance(event, ev.OrderChanged):
            self._changed.set()
            for desk in self._desks:
                desk.observe(event)
        self._pass_on(event)

    def _pass_on(self, event: ev.Event) -> None:
        """Tell those who only look on."""
        if self.recorder is not None:
            self.recorder.fact(event)
        narrate.say(event)
        for observe in self._observers:
            observe(event)

    def _send_wanted_cancels(self, among: Iterable[str]) -> None:
        """A cancel is desired state: what could not be sent before, or did not work, goes as soon as it can."""
        for ref in among:
            order = self.book.orders.get(ref)
            if order is not None and order.cancel_wanted and order.alive:
                self.session.cancel_still(order)

    def _library_alarm(self, logger: str, text: str) -> None:
        if logger.startswith(TELLING_LOGGERS):
            self.session.library_fault(logger, text)


async def _end(task: asyncio.Task[None], name: str, limit_s: float) -> None:
    """Cancel a part and wait for it, so long and no longer."""
    task.cancel()
    done, _ = await asyncio.wait([task], timeout=limit_s)
    if not done:
        log.error("does not end", part=name, after_s=limit_s)


def _first_of_ours(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The exception that says why the service ended: a defect before a finding of ours."""
    flat: list[BaseException] = []
    stack: list[BaseException] = [group]
    while stack:
        exc = stack.pop()
        if isinstance(exc, BaseExceptionGroup):
            stack.extend(exc.exceptions)
        else:
            flat.append(exc)
    return min(flat, key=lambda e: isinstance(e, (ServiceError, GatewayError)))
