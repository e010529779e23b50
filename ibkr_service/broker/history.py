"""The past: bars of any range, ticks, where the data begins, trading hours. Paged, paced, and told how far it is.

A download goes on where it was when the line was lost: a page that did not arrive is asked for again, one that did is
not. Empty is only what the broker calls empty in words; every other failure is raised with its code. Who waits for a
turn is in `history.budget.waiting`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta
from typing import Any, Protocol, TypeVar

import structlog

from ibkr_service.broker import datawire, translate
from ibkr_service.broker.codes import HISTORY_BUSY, HISTORY_REFUSED
from ibkr_service.broker.historybudget import PACED_BAR_MAX_S, HistoryBudget, Ticket, Toll
from ibkr_service.clock import Clock
from ibkr_service.core.bars import Bar, BarSize, Page, bar_size, merged, moment, pages, within
from ibkr_service.core.errors import BrokerRefused, InvalidRequest, NotReady, RequestTimeout
from ibkr_service.core.instrument import AnyInstrument, Forex
from ibkr_service.core.ticks import AnyTick, TradingHours
from ibkr_service.marketdata import Progress

log = structlog.get_logger("ibkr_service.broker")

T = TypeVar("T")

TIMEOUT_S = 300.0
ATTEMPT_S = 60.0  # an answer that does not come within this was lost; ib_insync gives up at the same age
TRIES_MIN = 4  # … or within this part of the limit
RECONNECTED_S = 1.0
PACING_WAITS_S = (15.0, 30.0, 60.0, 120.0, 240.0, 300.0)  # after the last one ten minutes have passed
SHARED_S = 15.0  # for as long as the same request may not be made again, its answer serves
TICKS_PER_PAGE = 1_000  # the most that IB gives
NO_DATA, PACING, TOO_MANY_OPEN = "query returned no data", "pacing violation", "simultaneous"


class Ask(Protocol):
    """How a question is put to the broker: `Session.ask`."""

    def __call__(
        self, what: str, call: Callable[[Any], Awaitable[T]], *, timeout_s: float | None = None
    ) -> Awaitable[T]:
        """Ask once, on the connection of this moment."""
        ...


class History:
    """Everything that lies in the past.

    Args:
        ask, as_sent: the session's. until_ready: returns when the link is READY.
    """

    def __init__(
        self,
        *,
        ask: Ask,
        as_sent: Callable[[AnyInstrument], Awaitable[tuple[AnyInstrument, int]]],
        until_ready: Callable[[], Awaitable[None]],
        clock: Clock,
        budget: HistoryBudget | None = None,
    ) -> None:
        self.budget = budget or HistoryBudget()
        self._ask = ask
        self._as_sent = as_sent
        self._until_ready = until_ready
        self._clock = clock
        self._answers: dict[str, tuple[float, list[Bar]]] = {}  # by request in words: when it came, what it was
        self._same: dict[str, tuple[asyncio.Lock, int]] = {}  # one at a time of the same request; how many want it

    async def bars(  # noqa: PLR0913 - a range can be said in several ways
        self,
        instrument: AnyInstrument,
        size: str | BarSize,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        days: float | None = None,
        what: str = "",
        regular_hours: bool = False,
        on_progress: Progress | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> list[Bar]:
        """The bars that begin from `start` up to `end`, in order, each once. The last one may still be growing.

        Args:
            size: TWS's name (`1 min`). start, or days (of the calendar) before the end. end: now if left out.
            what: TRADES (the default; MIDPOINT for currencies), BID, ASK, BID_ASK, ADJUSTED_LAST …
            regular_hours: leave out what was outside them. on_progress: told after each page.
            timeout_s: the limit for each page, the wait for its turn not counted, that for the link counted.

        Raises:
            InvalidRequest: range or size make no sense. BrokerRefused: the broker's error (162, 200, 321, 354 …).
            RequestTimeout: a page was not answered. NotReady: the link did not come back in time.
            UnknownInstrument: no contract, or several, fit.
        """
        size = bar_size(size)
        what = what or default_what(instrument)
        if (start is None) == (days is None):
            raise InvalidRequest("say either start or days")
        if what == "ADJUSTED_LAST" and end is not None:
            raise InvalidRequest("ADJUSTED_LAST always ends now: leave the end out")
        end = moment(end) if end is not None else _whole_second(self._clock.now())
        start = moment(start) if start is not None else end - timedelta(days=days or 0)
        todo, parts, count = self._pages(start, end, size, what), [], 0
        for done, page in enumerate(todo, 1):
            got = await self._page(instrument, page, size, what, regular_hours=regular_hours, timeout_s=timeout_s)
            parts.append(within(got, page.start, page.end))
            count += len(parts[-1])
            if on_progress is not None:
                on_progress(done, len(todo), count)
        return merged(parts)

    async def head_timestamp(
        self, instrument: AnyInstrument, *, what: str = "", regular_hours: bool = False, timeout_s: float = TIMEOUT_S
    ) -> datetime:
        """When the data of an instrument begins, UTC.

        Raises:
            As `bars`.
        """
        what = what or default_what(instrument)

        async def call(ib: Any, contract: Any) -> datetime:
            return await datawire.head_timestamp(ib, contract, what, regular_hours=regular_hours)

        toll = Toll(f"head timestamp of {instrument} {what}", weight=0)
        return await self._answer(instrument, toll, call, timeout_s)

    async def ticks(
        self,
        instrument: AnyInstrument,
        *,
        start: datetime,
        end: datetime | None = None,
        what: str = "",
        regular_hours: bool = False,
        on_progress: Progress | None = None,
        timeout_s: float = TIMEOUT_S,
    ) -> list[AnyTick]:
        """The ticks from `start` up to `end` (now if left out), in order; a thousand per request.

        Args:
            what: TRADES (the default; MIDPOINT for currencies), BID_ASK, MIDPOINT. on_progress: nobody knows how many
            pages there will be, so all pages are told as one more than are done.

        Raises:
            As `bars`.
        """
        what = what or default_what(instrument)
        start, end = moment(start), moment(end) if end is not None else _whole_second(self._clock.now())
        found: list[AnyTick] = []
        at, done = start, 0
        while at < end:
            page = await self._tick_page(instrument, at, what, regular_hours=regular_hours, timeout_s=timeout_s)
            done += 1
            # A page begins with the second in which the last one ended: what is known of it comes again.
            known = _of_last_second(found, at)
            news = page[len(known) :] if page[: len(known)] == known else page
            found += [tick for tick in news if start <= tick.at < end]
            if on_progress is not None:
                on_progress(done, done + 1, len(found))
            if news:
                at = max(at, news[-1].at)
            elif len(page) >= TICKS_PER_PAGE:
                at += timedelta(seconds=1)  # a second with more ticks than a page holds
            else:
                break
        return found

    async def trading_hours(
        self, instrument: AnyInstrument, days: int, *, regular_hours: bool = True, timeout_s: float = TIMEOUT_S
    ) -> list[TradingHours]:
        """The sessions of the last so many trading days.

        Raises:
            As `bars`.
        """

        async def call(ib: Any, contract: Any) -> list[TradingHours]:
            return await datawire.trading_hours(ib, contract, days, None, regular_hours=regular_hours)

        return await self._answer(instrument, Toll(f"trading hours of {instrument}", weight=0), call, timeout_s)

    # --- pages -------------------------------------------------------------------------------------------------------

    @staticmethod
    def _pages(start: datetime, end: datetime, size: BarSize, what: str) -> list[Page]:
        found = pages(start, end, size)
        if what == "ADJUSTED_LAST" and len(found) > 1:
            raise InvalidRequest(f"ADJUSTED_LAST ends now and takes one request: no more than {size.longest_s} seconds")
        return found

    async def _page(
        self,
        instrument: AnyInstrument,
        page: Page,
        size: BarSize,
        what: str,
        *,
        regular_hours: bool,
        timeout_s: float,
    ) -> list[Bar]:
        """One page; of those who want the same at the same time one asks."""
        toll = bar_toll(instrument, size, what, f"{page.end}/{page.duration}/{regular_hours}")
        end = None if what == "ADJUSTED_LAST" else page.end

        async def call(ib: Any, contract: Any) -> list[Bar]:
            return await datawire.past_bars(
                ib, contract, end, page.duration, size.name, what, regular_hours=regular_hours
            )

        same = f"{toll.what}/{page.end}/{page.duration}/{regular_hours}/{_route(instrument)}"
        lock, wanted = self._same.get(same, (asyncio.Lock(), 0))
        self._same[same] = lock, wanted + 1
        try:
            async with lock:
                shared = self._shared(same)
                if shared is None:
                    shared = await self._answer_or_nothing(instrument, toll, call, timeout_s)
                    self._answers[same] = (_now_s(), shared)
                return shared
        finally:
            lock, wanted = self._same.pop(same)
            if wanted > 1:
                self._same[same] = lock, wanted - 1

    def _shared(self, same: str) -> list[Bar] | None:
        oldest_s = _now_s() - SHARED_S
        self._answers = {key: answer for key, answer in self._answers.items() if answer[0] > oldest_s}
        answer = self._answers.get(same)
        return answer[1] if answer is not None else None

    async def _answer_or_nothing(
        self, instrument: AnyInstrument, toll: Toll, call: Callable[[Any, Any], Awaitable[list[T]]], timeout_s: float
    ) -> list[T]:
        try:
            return await self._answer(instrument, toll, call, timeout_s)
        except BrokerRefused as exc:
            if exc.code == HISTORY_REFUSED and NO_DATA in exc.text.lower():
                return []  # its own words: there is nothing in this page
            raise

    async def _tick_page(
        self, instrument: AnyInstrument, at: datetime, what: str, *, regular_hours: bool, timeout_s: float
    ) -> list[AnyTick]:
        async def call(ib: Any, contract: Any) -> list[AnyTick]:
            return await datawire.past_ticks(ib, contract, at, TICKS_PER_PAGE, what, regular_hours=regular_hours)

        subject = f"{_route(instrument)}/ticks/{what}"
        toll = Toll(f"ticks of {instrument} {what}", f"{subject}/{at}/{regular_hours}", subject, _weight(what))
        return await self._answer_or_nothing(instrument, toll, call, timeout_s)

    # --- one answer --------------------------------------------------------------------------------------------------

    async def _answer(
        self, instrument: AnyInstrument, toll: Toll, call: Callable[[Any, Any], Awaitable[T]], timeout_s: float
    ) -> T:
        """Ask until there is an answer: after a lost line, a lost answer, a breach of the pacing; within the limit."""
        translate.contract_of(instrument)  # refuses what is no instrument before anybody waits
        left_s, breaches = timeout_s, 0
        while True:
            began_s = _now_s()
            await self._link(toll, left_s)
            left_s -= _now_s() - began_s
            began_s, pause_s = _now_s(), RECONNECTED_S
            try:
                # Before its turn: IB counts a request from when it comes, and so may not come later than its turn.
                contract = translate.contract_of(*await self._as_sent(instrument))
                left_s -= _now_s() - began_s

                async with self.budget.turn(toll) as ticket:
                    began_s = _now_s()

                    async def once(ib: Any, contract: Any = contract, ticket: Ticket = ticket) -> T:
                        self.budget.leaves(ticket, ib.client.pacer.wait_s)
                        return await call(ib, contract)

                    attempt_s = min(ATTEMPT_S, timeout_s / TRIES_MIN, max(left_s, 1.0))
                    return await self._ask(toll.what, once, timeout_s=attempt_s)
            except RequestTimeout:
                left_s -= _now_s() - began_s
                if left_s <= 0:
                    raise RequestTimeout(toll.what, timeout_s) from None
                log.info("history not answered; asking again", what=toll.what)
            except NotReady:
                left_s -= _now_s() - began_s + RECONNECTED_S
                if left_s <= 0:
                    raise
            except BrokerRefused as exc:
                if not is_pacing(exc) or breaches >= len(PACING_WAITS_S):
                    raise
                wait_s = PACING_WAITS_S[breaches]
                log.warning("asked for history too often", what=toll.what, wait_s=wait_s)
                self.budget.back_off(wait_s)
                if not toll.weight:
                    pause_s = wait_s  # it waits for no turn; but if it is refused, it is not asked again at once
                breaches += 1
            await asyncio.sleep(pause_s)

    async def _link(self, toll: Toll, left_s: float) -> None:
        try:
            async with asyncio.timeout(left_s):
                await self._until_ready()
        except TimeoutError:
            raise NotReady(f"{toll.what}: the link did not become READY in time") from None


def default_what(instrument: AnyInstrument) -> str:
    """TRADES; currencies have none that are reported, so MIDPOINT."""
    return "MIDPOINT" if isinstance(instrument, Forex) else "TRADES"


def is_pacing(exc: BrokerRefused) -> bool:
    """Whether the broker only says that we ask too often."""
    text = exc.text.lower()
    return (exc.code == HISTORY_REFUSED and PACING in text) or (exc.code == HISTORY_BUSY and TOO_MANY_OPEN in text)


def bar_toll(instrument: AnyInstrument, size: BarSize, what: str, rest: str) -> Toll:
    """What a request for bars costs; those of a minute or more are only counted while they are open."""
    name = f"{size} bars of {instrument} {what}"
    if size.seconds > PACED_BAR_MAX_S:
        return Toll(name, weight=0)
    subject = f"{_route(instrument)}/{what}"
    return Toll(name, f"{subject}/{size}/{rest}", subject, _weight(what))


def _of_last_second(ticks: list[AnyTick], at: datetime) -> list[AnyTick]:
    first = len(ticks)
    while first and ticks[first - 1].at == at:
        first -= 1
    return ticks[first:]


def _weight(what: str) -> int:
    return 2 if what == "BID_ASK" else 1


def _route(instrument: AnyInstrument) -> str:
    return f"{instrument!r}"


def _whole_second(at: datetime) -> datetime:
    """Up to the next whole second: TWS knows no smaller ones."""
    return at if not at.microsecond else at.replace(microsecond=0) + timedelta(seconds=1)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
