"""What options are listed on an underlying: asked once, kept for an hour, shared by all who ask at the same time.

One request for the definitions of an underlying (reqSecDefOptParams), and one for each expiry of a trading class: a
description without strike and right brings all its contracts, with their ids. A lost line is waited for; an empty
answer is not kept, since TWS gives such answers in its nightly reset.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from sys import intern
from typing import Any, Protocol, TypeVar
from weakref import WeakValueDictionary
from zoneinfo import ZoneInfo

import ib_insync

from ibkr_service.broker import translate
from ibkr_service.broker.ib import IB
from ibkr_service.clock import Clock
from ibkr_service.core.chain import ChainRequest, Definition, Settlement, Slice
from ibkr_service.core.chainselection import choose_slices
from ibkr_service.core.errors import NotReady
from ibkr_service.core.instrument import AnyInstrument, AnyOption, Future, Option

T = TypeVar("T")

KEPT_S = 3600.0  # what is listed changes overnight, and strikes are added when the market moves far
RETRY_S = 0.25  # between two looks for a line that is back
NOON = 12
NEW_YORK = ZoneInfo("America/New_York")
AFTER_THE_CLOSE = timedelta(hours=7, minutes=30)  # before midnight: at 16:30 the last options of the day have ended


class Asking(Protocol):
    """What a chain needs of the session."""

    async def ask(
        self,
        what: str,
        call: Callable[[IB], Awaitable[T]],
        *,
        timeout_s: float | None = None,
        key: str | None = None,
    ) -> T:
        """Ask one read-only thing of the broker."""
        ...

    async def con_id(self, instrument: AnyInstrument) -> int:
        """The broker's id of an instrument."""
        ...

    async def until_ready(self) -> None:
        """Wait until the link is READY."""
        ...

    def remember(self, instrument: AnyInstrument, con_id: int) -> None:
        """What `con_id` would find out."""
        ...


@dataclass(frozen=True)
class Listed:
    """A contract that exists. `expires` is the day of its settlement, which for some is after the last day of trading.

    `settlement` says when on that day: at the opening (AM) or at the close (PM); empty where TWS does not say it.
    """

    option: AnyOption
    con_id: int
    settlement: Settlement
    expires: date


class Listings:
    """Finds out what is listed.

    Args:
        session: asks the broker.
    """

    def __init__(self, session: Asking, clock: Clock) -> None:
        self._session = session
        self._clock = clock
        self._kept: dict[object, tuple[float, Any]] = {}
        self._asking: WeakValueDictionary[object, asyncio.Lock] = WeakValueDictionary()

    async def con_id(self, underlying: AnyInstrument) -> int:
        """The broker's id of an underlying.

        Raises:
            UnknownInstrument, BrokerRefused, RequestTimeout: as they say.
        """
        return await self._once(("id", underlying), lambda: self._session.con_id(underlying))

    async def slices(self, wanted: ChainRequest) -> list[Slice]:
        """The slices that are wanted, without their settlement, which is known with their contracts.

        Raises:
            InvalidIntent: nothing listed fits. UnknownInstrument, BrokerRefused, RequestTimeout: as they say.
        """
        underlying = wanted.underlying
        definitions = await self._once(("definitions", underlying), lambda: self._definitions(underlying))
        now = self._clock.now().astimezone(NEW_YORK)
        return choose_slices(
            definitions,
            underlying.symbol,
            today=now.date(),
            soonest=(now + AFTER_THE_CLOSE).date(),
            expiries=wanted.expiries,
            trading_class=wanted.trading_class,
            exchange=wanted.exchange,
        )

    async def contracts(self, underlying: AnyInstrument, one: Slice) -> list[Listed]:
        """All contracts of a slice.

        Raises:
            BrokerRefused, RequestTimeout: as they say.
        """
        return await self._once(("contracts", underlying, one), lambda: self._contracts(underlying, one))

    async def _once(self, key: object, fetch: Callable[[], Awaitable[T]]) -> T:
        now_s = asyncio.get_running_loop().time()
        self._kept = {k: kept for k, kept in self._kept.items() if now_s - kept[0] < KEPT_S}
        # Who comes second waits for the first, and asks by itself only if the first gave up.
        lock = self._asking.setdefault(key, asyncio.Lock())
        async with lock:
            if key in self._kept:
                value: T = self._kept[key][1]
                return value
            found = await self._patiently(fetch)
            if found:
                self._kept[key] = now_s, found
            return found

    async def _patiently(self, fetch: Callable[[], Awaitable[T]]) -> T:
        """A line that was lost in the middle comes back; the caller's time limit says how long that may take."""
        while True:
            try:
                return await fetch()
            except NotReady:
                await asyncio.sleep(RETRY_S)  # the session may not have noticed yet
                await self._session.until_ready()

    async def _definitions(self, underlying: AnyInstrument) -> list[Definition]:
        con_id = await self._session.con_id(underlying)
        sec_type = translate.contract_of(underlying).secType
        exchange = underlying.exchange if isinstance(underlying, Future) else ""
        found = await self._session.ask(
            f"option parameters of {underlying}",
            lambda ib: ib.reqSecDefOptParamsAsync(underlying.symbol, exchange, sec_type, con_id),
        )
        return [
            Definition(
                intern(d.exchange),
                intern(d.tradingClass),
                intern(d.multiplier),
                frozenset(map(intern, d.expirations)),  # the same ones on each of twenty exchanges
                frozenset(d.strikes),
            )
            for d in found
            if int(d.underlyingConId or con_id) == con_id  # of a future: not those of its other months
        ]

    async def _contracts(self, underlying: AnyInstrument, one: Slice) -> list[Listed]:
        """With one request: strike and right are left out."""
        con_id = await self._session.con_id(underlying)
        description = ib_insync.Contract(
            secType="FOP" if isinstance(underlying, Future) else "OPT",
            symbol=underlying.symbol,
            lastTradeDateOrContractMonth=one.expiry,
            exchange=one.exchange,
            currency=underlying.currency,
            tradingClass=one.trading_class,
            multiplier=one.multiplier,
        )
        details = await self._session.ask(
            f"contracts of {underlying} {one.expiry} {one.trading_class}",
            lambda ib: ib.reqContractDetailsAsync(description),
        )
        return [
            listed
            for detail in details
            if detail.contract.tradingClass in {one.trading_class, ""}
            and (detail.underConId in {0, con_id} or not isinstance(underlying, Future))
            and (listed := _listed(detail)) is not None
            and listed.option.expiry == one.expiry
        ]


def _listed(detail: Any) -> Listed | None:
    option = translate.instrument_of(detail.contract)
    if not isinstance(option, Option):
        return None
    text = detail.realExpirationDate[:8]
    real = text if text.isdigit() and text >= option.expiry else option.expiry
    expires = datetime.strptime(real, "%Y%m%d").date()  # noqa: DTZ007 - a date has no zone
    return Listed(option, detail.contract.conId, settlement_of(detail), expires)


def settlement_of(detail: Any) -> Settlement:
    """AM if trading ends before the day on which the contract settles, or in the morning of that day; PM otherwise."""
    real, last = detail.realExpirationDate, detail.contract.lastTradeDateOrContractMonth[:8]
    hour = detail.lastTradeTime.partition(":")[0]
    if real and last and real > last:
        return "AM"
    if hour.isdigit():
        return "AM" if int(hour) < NOON else "PM"
    return "PM" if real else ""
