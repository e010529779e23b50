"""The process around the service: event loop, signals, the embedded gateway of simulated mode, the end.

SIGTERM and SIGINT ask for an orderly shutdown; after the first one the previous handlers come back, so that a second
really kills. In simulated mode without a gateway elsewhere, one is started in the same process (`embedded.py`).
"""

from __future__ import annotations

import asyncio
import gc
import os
import random
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace

import structlog

from ibkr_service import pages
from ibkr_service.app import EXIT_FAILED, EXIT_UNUSABLE, App, AppConfig
from ibkr_service.broker.ib import IB, adopt_running_loop
from ibkr_service.broker.login import SessionConfig, choose_account
from ibkr_service.clock import Clock
from ibkr_service.control import Answer, Request, listening, socket_path
from ibkr_service.core import events as ev
from ibkr_service.core.errors import FatalError, ServiceError
from ibkr_service.embedded import at_embedded, embedded_gateway
from ibkr_service.log import mask_account
from ibkr_service.notifying import Channel
from ibkr_service.operations import LOOKING, Operations
from ibkr_service.settings import SimulatorSettings
from ibkr_service.sim import Server
from ibkr_service.supervisor import StrategySpec

log = structlog.get_logger("ibkr_service")

GATHER_AFTER_S = 10.0  # from the start: connected, and the strategies are at work
COLLECT_AFTER = (10_000, 20, 50)  # objects more than before; younger collections; see `gc.set_threshold`


@dataclass(frozen=True)
class Daemon:
    """What a daemon run consists of.

    Args:
        simulator: start an embedded gateway with these settings; None: connect to the gateway that the settings name.
        duration_s: end by itself after so many seconds, in order. observer: sees every recorded event.
        at_end: called with the stopped service, before the process ends. channels: where people are told.
    """

    config: AppConfig
    specs: list[StrategySpec]
    clock: Clock
    simulator: SimulatorSettings | None = None
    duration_s: float | None = None
    observer: Callable[[ev.Event], None] | None = None
    at_end: Callable[[App], None] = lambda _app: None
    channels: Sequence[Channel] = ()


def run(daemon: Daemon) -> int:
    """Run a daemon to its end; returns the exit code."""
    with asyncio.Runner(loop_factory=loop_factory()) as runner:
        code, stuck = runner.run(_serve(daemon))
        if stuck:
            # A coroutine that can be neither cancelled nor closed would keep the loop from closing for ever.
            log.error("ending in spite of strategies that do not", strategies=stuck)
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
    return code


def loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    """Make uvloop's loops where there is a uvloop."""
    if sys.platform == "win32":
        return None
    import uvloop  # noqa: PLC0415 - not on every platform

    factory: Callable[[], asyncio.AbstractEventLoop] = uvloop.new_event_loop
    return factory


def spare_the_collector() -> None:
    """Keep garbage collections out of the way of orders.

    What there is now (libraries, the book as it was read back) stays for the life of the process: it is not looked
    through any more, which took 70 ms. What comes is looked through seldom, since reference counts free nearly all of
    it; a collection of the youngest takes less than a millisecond, and comes once in some hundred orders.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(*COLLECT_AFTER)


async def _serve(daemon: Daemon) -> tuple[int, list[str]]:
    adopt_running_loop()  # before anything of ib_insync is made
    seed = random.SystemRandom().getrandbits(64)
    log.info("seeded", seed=seed)
    daemon = _with_seed(daemon, seed)
    try:
        if daemon.simulator is None:
            return await _run_app(daemon, daemon.config, random.Random(seed), None)
        async with embedded_gateway(daemon.simulator, daemon.clock) as server:
            port = server.port
            log.info("simulated gateway listening", host="127.0.0.1", port=port, seed=daemon.simulator.seed)
            config = at_embedded(daemon.config, server)
            return await _run_app(daemon, config, random.Random(seed), server)
    except FatalError as exc:
        log.error("cannot run", error=str(exc), kind=type(exc).__name__)
        return EXIT_UNUSABLE, []
    except ServiceError as exc:
        log.error("cannot run", error=str(exc), kind=type(exc).__name__)
        return EXIT_FAILED, []


def _with_seed(daemon: Daemon, seed: int) -> Daemon:
    """The recording, if there is one, knows the seed: a replay needs it."""
    recording = daemon.config.recording
    if recording is None:
        return daemon
    return replace(daemon, config=replace(daemon.config, recording=replace(recording, seed=seed)))


async def _run_app(
    daemon: Daemon, config: AppConfig, rng: random.Random, server: Server | None
) -> tuple[int, list[str]]:
    app = App(config, daemon.specs, clock=daemon.clock, rng=rng, observer=daemon.observer, channels=daemon.channels)
    spare_the_collector()
    loop = asyncio.get_running_loop()
    operations = Operations(app)

    async def handle(request: Request) -> Answer:
        if app.recorder is not None and request.verb not in LOOKING:
            app.recorder.operator(request)
        return await operations.handle(request)

    with _signals(app, loop):
        async with listening(socket_path(config.journal_path), handle), asyncio.TaskGroup() as around:
            ending = around.create_task(_end_by_itself(app, daemon.duration_s, server), name="ending")
            gathering = around.create_task(_gather_pages(), name="gathering pages")
            code = await app.run()
            ending.cancel()
            gathering.cancel()
    daemon.at_end(app)
    return code, app.supervisor.abandoned


async def _gather_pages() -> None:
    """When what the service needs day by day is in memory: beside the loop, since it takes some ten milliseconds."""
    await asyncio.sleep(GATHER_AFTER_S)
    log.debug("memory gathered", large_pages=await asyncio.to_thread(pages.gather))


async def _end_by_itself(app: App, duration_s: float | None, server: Server | None) -> None:
    """Ask for the shutdown when the time is over, or the recording that is replayed."""
    try:
        async with asyncio.timeout(duration_s):
            if server is not None and server.gateway.config.replay:
                await server.gateway.replay_ended.wait()
                app.request_stop("the recording ended")
            await asyncio.Event().wait()
    except TimeoutError:
        app.request_stop(f"ran for {duration_s:g} s as asked")


@contextmanager
def _signals(app: App, loop: asyncio.AbstractEventLoop) -> Iterator[None]:
    """First SIGINT or SIGTERM: shut down in order. Second: the default, which kills."""
    handled = (signal.SIGINT, signal.SIGTERM)

    def on_signal(number: signal.Signals) -> None:
        for each in handled:
            loop.remove_signal_handler(each)
            signal.signal(each, signal.SIG_DFL)
        app.request_stop(f"{number.name} received; once more kills")

    for number in handled:
        loop.add_signal_handler(number, on_signal, number)
    try:
        yield
    finally:
        for number in handled:
            loop.remove_signal_handler(number)


async def probe(config: SessionConfig) -> str:
    """Connect, prove the mode, disconnect; returns what was found in one line.

    Raises:
        ServiceError: the gateway does not answer, or its accounts do not fit the settings.
    """
    adopt_running_loop()
    ib = IB(config.max_rate_per_s)
    try:
        await ib.connectAsync(config.host, config.port, config.client_id, config.connect_timeout_s)
        accounts = tuple(ib.client.getAccounts())
        account = choose_account(accounts, config.mode, config.account)
    finally:
        ib.teardown()
    names = ", ".join(mask_account(a) for a in accounts)
    version = ib.client.decoder.serverVersion
    where = f"{config.host}:{config.port}, server version {version}"
    return f"{where}, accounts {names}; orders would name {mask_account(account)}"
