"""The broker as a script sees it: `async with get_broker_api() as broker: await broker.get_market_data("AAPL")`.

There is no second implementation behind it: it runs the service, with its session, journal, hub and risk gate, and the
script works at a desk like any strategy. `IBKRIBInsyncApi` connects to the TWS or gateway of the settings;
`SimulatedBrokerApi` brings a simulated gateway of its own, needs no TWS, and refuses to exist outside simulated mode.

Results are frozen values with units and times; errors are the exceptions of `core/errors.py`. What the market does not
have is None.
"""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import Mapping
from contextlib import AsyncExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import structlog

from ibkr_service import log as logs
from ibkr_service.app import App, AppConfig, config_of
from ibkr_service.broker.ib import adopt_running_loop
from ibkr_service.clock import Clock, SystemClock
from ibkr_service.core import events as ev
from ibkr_service.core.account import AccountSummary, HeldPosition
from ibkr_service.core.bars import Bar
from ibkr_service.core.chain import OptionChain
from ibkr_service.core.errors import GatewayUnreachable, NotReady
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.desk import Desk
from ibkr_service.embedded import at_embedded, embedded_gateway
from ibkr_service.ordering import Ordering, instrument_of
from ibkr_service.settings import Settings, SettingsError, load_settings
from ibkr_service.supervisor import StrategySpec

log = structlog.get_logger("ibkr_service.api")

SCRIPT = "script"  # the name under which a script's orders are booked
SETTLE_S = 1.0  # volume, high, low and close come in messages of their own, right after the first prices
LOOK_S = 0.02

Config = Settings | Mapping[str, Any] | str | Path | None
"""Settings; single keys, dotted or of `[ibkr]` (`{"port": 4002}`); a settings file; None: settings.toml, if any."""


class BrokerApi(Ordering):
    """What both implementations share. Make one with `get_broker_api`.

    Args:
        settings: checked settings. clock: the wall clock. patient: whether a gateway at which nobody listens is waited
        for; False: connecting fails at once.
    """

    def __init__(self, settings: Settings, *, clock: Clock | None = None, patient: bool = True) -> None:
        self.settings = settings
        self._patient = patient
        self._clock = clock or SystemClock()
        self._app: App | None = None
        self._desk: Desk | None = None
        self._task: asyncio.Task[None] | None = None

    # --- connection --------------------------------------------------------------------------------------------------

    async def connect(self, timeout_s: float | None = None) -> bool:
        """Connect and verify the account's whole state; tries again until the time is over. False: it did not work.

        Why not is in the log, one line an attempt, and is what `async with` raises. From then on the session keeps the
        connection by itself (`ibkr.auto_reconnect`).

        Args:
            timeout_s: the default is `ibkr.connect_timeout_s`.

        Raises:
            FatalError: retrying cannot help (the accounts contradict the mode, several accounts and none chosen …).
            JournalError: the journal cannot be used, for instance because another service does.
        """
        try:
            await self._connect(self.settings.ibkr.connect_timeout_s if timeout_s is None else timeout_s)
        except ConnectFailed as failed:
            log.error("not connected", error=str(failed.reason), kind=type(failed.reason).__name__)
            return False
        return True

    async def _connect(self, timeout_s: float) -> None:
        if self._task is not None:
            if not self._task.done():
                return
            await self.disconnect()
        adopt_running_loop()
        ready: asyncio.Future[Desk] = asyncio.get_running_loop().create_future()
        # Owned by this object until `disconnect`: a TaskGroup would have to be left where it was entered.
        self._task = asyncio.get_running_loop().create_task(self._serve(ready), name="ibkr_service:api")
        try:
            either: list[asyncio.Future[Any]] = [ready, self._task]
            async with asyncio.timeout(timeout_s):
                while not any(each.done() for each in either) and (self._patient or not self._is_hopeless()):
                    look_s = None if self._patient else LOOK_S
                    await asyncio.wait(either, timeout=look_s, return_when=asyncio.FIRST_COMPLETED)
        except TimeoutError:
            pass
        except BaseException:
            await self.disconnect()
            raise
        if ready.done() and not ready.cancelled():
            self._desk = ready.result()
            return
        reason = self._app.session.last_failure if self._app is not None else None
        await self.disconnect()  # raises what ended the service, if it ended by itself
        where = f"{self.settings.ibkr.host}:{self.settings.ibkr.port}"
        raise ConnectFailed(reason or GatewayUnreachable(f"{where} was not ready within {timeout_s:g} s"))

    def _is_hopeless(self) -> bool:
        return self._app is not None and isinstance(self._app.session.last_failure, GatewayUnreachable)

    async def _serve(self, ready: asyncio.Future[Desk]) -> None:
        """Be the service, with one strategy that does nothing but hand out its desk."""

        async def script(desk: Desk) -> None:
            if not ready.done():
                ready.set_result(desk)
            await asyncio.get_running_loop().create_future()

        async with AsyncExitStack() as around:
            config = await self._config(around)
            # A script may compute for as long as it likes: no watchdog.
            config = replace(config, hold_limit_s=None)
            rng = random.Random(random.SystemRandom().getrandbits(64))
            spec = StrategySpec(SCRIPT, script)
            self._app = App(config, [spec], clock=self._clock, rng=rng)
            await self._app.serve()

    async def _config(self, around: AsyncExitStack) -> AppConfig:
        """The settings as plain values; whatever must live as long as the service is entered into `around`."""
        raise NotImplementedError

    async def disconnect(self) -> None:
        """End the session in order: open orders are left or cancelled as the settings say. Twice is once.

        Raises:
            ServiceError: what ended the service before, if it did not end by itself.
        """
        task, self._task, self._desk = self._task, None, None
        if task is None:
            return
        if self._app is not None:
            self._app.request_stop("the script disconnects")
        elif not task.done():
            task.cancel()
        try:
            await task
        except asyncio.CancelledError:
            if not task.cancelled():
                raise
        finally:
            self._app = None

    async def __aenter__(self) -> Self:
        """Connect.

        Raises:
            GatewayError: it did not work, and why. Otherwise as `connect`.
        """
        try:
            await self._connect(self.settings.ibkr.connect_timeout_s)
        except ConnectFailed as failed:
            raise failed.reason from None
        return self

    async def __aexit__(self, *_exc: object) -> None:
        await self.disconnect()

    @property
    def is_connected(self) -> bool:
        """Whether the link is READY: verified in this session, and nothing has made it doubtful since."""
        return self._app is not None and self._app.ready.is_set()

    @property
    def desk(self) -> Desk:
        """The desk: everything that a strategy can do (streams, history, any request of ib_insync, events).

        Raises:
            NotReady: there is no connection.
        """
        if self._desk is None:
            raise NotReady("not connected: call connect() first")
        return self._desk

    # --- market data -------------------------------------------------------------------------------------------------

    async def get_market_data(self, instrument: AnyInstrument | str, timeout_s: float = 10.0) -> ev.Tick:
        """A quote: bid, ask, last, sizes, volume, high, low, open, close; `at` in UTC, `data_type` live or delayed.

        Args:
            instrument: a value, or the short form (`AAPL`, `EUR.USD`, `AAPL 20270115 150 C`).

        Raises:
            UnknownInstrument, BrokerRefused: no such thing, or no permission. RequestTimeout: nobody quotes it now.
            NoLineFree, NotReady: as they say.
        """
        return await self.desk.first_quote(instrument_of(instrument), timeout_s, settle_s=SETTLE_S)

    async def get_option_chain(self, symbol: AnyInstrument | str, **selection: Any) -> OptionChain:  # noqa: ANN401 - Desk.option_chain says
        """Calls and puts with prices and greeks; the arguments are those of `Desk.option_chain`.

        Raises:
            UnknownInstrument, InvalidIntent, BrokerRefused, RequestTimeout, NotReady: as they say.
        """
        return await self.desk.option_chain(instrument_of(symbol), **selection)

    async def get_history(self, instrument: AnyInstrument | str, bar_size: str, **choice: Any) -> list[Bar]:  # noqa: ANN401 - Desk.history says
        """Historical bars; the arguments are those of `Desk.history`."""
        return await self.desk.history(instrument_of(instrument), bar_size, **choice)

    # --- account -----------------------------------------------------------------------------------------------------

    async def get_account_summary(self, account: str = "") -> AccountSummary:
        """What the account is worth and may spend, in its base currency.

        Raises:
            NotReady: the session is not synchronised; never an empty answer.
        """
        return self.desk.account_summary(account)

    async def get_positions(self, account: str = "") -> Mapping[AnyInstrument, HeldPosition]:
        """What the account holds, by instrument: an option and its stock do not collide.

        Raises:
            NotReady: the session is not synchronised; never an empty answer.
        """
        return self.desk.positions(account)


class IBKRIBInsyncApi(BrokerApi):
    """The TWS or IB Gateway at `ibkr.host` and `ibkr.port`, through ib_insync."""

    async def _config(self, around: AsyncExitStack) -> AppConfig:
        del around
        return config_of(self.settings)


class SimulatedBrokerApi(BrokerApi):
    """A simulated gateway inside the process: everything works, nothing is real."""

    async def _config(self, around: AsyncExitStack) -> AppConfig:
        server = await around.enter_async_context(embedded_gateway(self.settings.simulator, self._clock))
        return at_embedded(config_of(self.settings), server)


class ConnectFailed(Exception):
    """`_connect` gave up; never leaves this module."""

    def __init__(self, reason: Exception) -> None:
        self.reason = reason
        super().__init__(str(reason))


def get_broker_api(
    config: Config = None,
    use_ib_insync: bool = True,  # noqa: FBT001, FBT002 - the signature that was asked for
    *,
    live: bool = False,
) -> BrokerApi:
    """The broker: through ib_insync, or simulated.

    Args:
        config: settings, single keys, a file, or None for `settings.toml` and the environment.
        use_ib_insync: False, here or as `ibkr.use_ib_insync`, is the simulated one.
        live: whether real money may be used; `ibkr.mode = "live"` needs it as well.

    Raises:
        SettingsError: a setting makes no sense, or simulation is asked for in paper or live mode.
    """
    settings = _settings(config, live=live)
    if not structlog.is_configured():
        # A script that does not care about logging gets what it must not miss, and its own output stays readable.
        level = settings.log.level if "log" in settings.model_fields_set else "warning"
        logs.configure(level, settings.log.format, now=SystemClock().now)
    if use_ib_insync and settings.ibkr.use_ib_insync:
        return IBKRIBInsyncApi(settings)
    if settings.ibkr.mode != "simulated":
        raise SettingsError(f'ibkr.mode = "{settings.ibkr.mode}": a simulated broker exists in mode "simulated" only')
    return SimulatedBrokerApi(settings)


def _settings(config: Config, *, live: bool) -> Settings:
    match config:
        case Settings():
            if (config.ibkr.mode == "live") != live:
                raise SettingsError(
                    f'ibkr.mode = "{config.ibkr.mode}": live=True goes with mode "live", and only with it'
                )
            return config
        case Mapping():
            keys = {key if "." in key else f"ibkr.{key}": value for key, value in config.items()}
            return load_settings(environ=os.environ, overrides=keys, live_flag=live)
        case None:
            return load_settings(environ=os.environ, live_flag=live)
    return load_settings(Path(config), environ=os.environ, live_flag=live)
