"""Streams other than quotes, as desired state: bars, ticks one by one, the order book.

What is wanted survives connections; requests do not. Two readers of the same share one request; when the last one
leaves, it is cancelled. Each is requested when the link is READY, again after a reconnect and after 1101, and has to
prove itself after 1102. What the broker refuses is told to the readers with its code, and asked for again later.

`serve` is a keeper of one connection: with it end the requests, the waiting and the fetching that belong to it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine, Iterator
from datetime import datetime
from typing import Any

import structlog

from ibkr_service.broker import codes, translate
from ibkr_service.broker.barfeeds import BarFeed, KeptBarFeed
from ibkr_service.broker.feeds import DepthFeed, Feed, FeedState, TickFeed, Want
from ibkr_service.broker.history import History, bar_toll, default_what
from ibkr_service.broker.historybudget import HistoryBudget
from ibkr_service.clock import Clock
from ibkr_service.core.bars import DAY_S, Bar, BarSize, bar_size
from ibkr_service.core.errors import BrokerRefused, GatewayError, InvalidRequest, RequestTimeout, UnknownInstrument
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.link import Signal
from ibkr_service.core.ticks import TICK_KINDS
from ibkr_service.mailbox import Stream
from ibkr_service.marketdata import UNREAD_MAX, BarItem, DepthItem, TickByTickItem

log = structlog.get_logger("ibkr_service.broker")

REAL_TIME = "5 secs"  # the only size that reqRealTimeBars has
DEPTH_ROWS_MAX = 60
BACKFILL_TIMEOUT_S = 120.0
KEPT_MAX = 40  # bars kept up to date hold a request for history open for ever, of the fifty that there may be
WARNINGS = range(2100, 2200)  # TWS's range: something about the data, which goes on
INTERRUPTIONS = frozenset({Signal.UPSTREAM_LOST, Signal.RESTORED_DATA_LOST})


class Streams:
    """All feeds of the service.

    Args:
        as_sent: the session's. history: where missed bars are fetched, and whose budget bars that are kept up to date
        share.
    """

    def __init__(
        self,
        *,
        clock: Clock,
        as_sent: Callable[[AnyInstrument], Awaitable[tuple[AnyInstrument, int]]],
        history: History,
    ) -> None:
        # New real-time bars have the limit of sixty in ten minutes for themselves.
        self.real_time_budget = HistoryBudget(identical_s=0.0)
        self._clock = clock
        self._as_sent = as_sent
        self._history = history
        self._feeds: dict[Want, Feed] = {}
        self._by_request: dict[int, Feed] = {}  # of this connection
        self._ib: Any = None
        self._session = 0
        self._tick_budget = HistoryBudget(requests_max=1_000_000)  # of this connection: only the 15 seconds count
        self._work: asyncio.TaskGroup | None = None
        self._farms_down: dict[str, int] = {}  # the code that said so
        self._changed = asyncio.Event()

    def __iter__(self) -> Iterator[Feed]:
        return iter(tuple(self._feeds.values()))

    # --- what is wanted ----------------------------------------------------------------------------------------------

    def bars(
        self,
        instrument: AnyInstrument,
        size: str | BarSize = REAL_TIME,
        *,
        what: str = "",
        regular_hours: bool = False,
        unread_max: int = UNREAD_MAX,
    ) -> Stream[BarItem]:
        """Whole bars as they become whole; `5 secs` in real time, other sizes kept up to date by TWS.

        Raises:
            InvalidIntent, InvalidRequest: no instrument, no bar size.
        """
        size = bar_size(size)
        if size.seconds > DAY_S:
            raise InvalidRequest(f"bars of {size} do not stream: ask for history")
        want = Want(
            instrument, size.name, what or default_what(instrument), regular_hours, exchange=_exchange(instrument)
        )
        kind = BarFeed if size.name == REAL_TIME else KeptBarFeed

        def make() -> Feed:
            return kind(want, size, clock=self._clock, spawn=self._spawn, poke=self.poke, fetch=self._fetch)

        return self._open(want, make, unread_max)

    def tick_by_tick(
        self, instrument: AnyInstrument, kind: str, *, unread_max: int = UNREAD_MAX
    ) -> Stream[TickByTickItem]:
        """Every tick: trades (`Last`, `AllLast`), quotes (`BidAsk`) or midpoints (`MidPoint`).

        Raises:
            InvalidIntent, InvalidRequest: no instrument, no such kind.
        """
        if kind not in TICK_KINDS:
            raise InvalidRequest(f"there are no ticks {kind!r}: {', '.join(TICK_KINDS)}")
        want = Want(instrument, kind, exchange=_exchange(instrument))
        return self._open(
            want, lambda: TickFeed(want, clock=self._clock, spawn=self._spawn, poke=self.poke), unread_max
        )

    def depth(self, instrument: AnyInstrument, rows: int = 5, *, unread_max: int = UNREAD_MAX) -> Stream[DepthItem]:
        """The order book, whole, whenever it has changed.

        Raises:
            InvalidIntent, InvalidRequest: no instrument, too few or too many rows.
        """
        if not 1 <= rows <= DEPTH_ROWS_MAX:
            raise InvalidRequest(f"a book has 1 to {DEPTH_ROWS_MAX} rows, not {rows}")
        want = Want(instrument, "depth", rows=rows, exchange=_exchange(instrument))
        return self._open(
            want, lambda: DepthFeed(want, clock=self._clock, spawn=self._spawn, poke=self.poke), unread_max
        )

    def _open(self, want: Want, make: Callable[[], Feed], unread_max: int) -> Stream[Any]:
        translate.contract_of(want.instrument)
        feed = self._feeds.get(want)
        if feed is None:
            feed = self._feeds[want] = make()
        stream: Stream[Any] = Stream(unread_max, feed.overflow, lambda closed: self._closed(feed, closed))
        feed.readers.append(stream)
        if feed.failure is not None:
            stream.put(feed.failure)
        self.poke()
        return stream

    def _closed(self, feed: Feed, stream: Stream[Any]) -> None:
        feed.readers.remove(stream)
        if not feed.readers:
            del self._feeds[feed.want]
            self._release(feed)
            feed.drop()

    def poke(self) -> None:
        """Have wanted feeds requested."""
        self._changed.set()

    # --- one connection ----------------------------------------------------------------------------------------------

    async def serve(self, ib: Any, session: int, is_ready: Callable[[], bool]) -> None:
        """Make true what is wanted, for as long as a connection lives."""
        loop = asyncio.get_running_loop()
        self._ib, self._session, self._tick_budget = ib, session, HistoryBudget(requests_max=1_000_000)
        self._forget_requests()
        self._farms_down.clear()
        for feed in self:
            feed.farms(any_down=False)
        ib.messageEvent.connect(self._on_message)
        async with asyncio.TaskGroup() as self._work:
            try:
                while True:
                    for feed in self._due(loop.time()) if is_ready() else []:
                        self._release(feed)
                        feed.state, feed.session = FeedState.ASKING, session
                        feed.asking = self._spawn(self._request(feed, ib, is_ready))
                    try:
                        async with asyncio.timeout_at(self._next_due_s() if is_ready() else None):
                            await self._changed.wait()
                    except TimeoutError:
                        continue
                    self._changed.clear()
            finally:
                ib.messageEvent.disconnect(self._on_message)
                ib.wrapper.takers.clear()
                self._forget_requests()
                self._ib = None

    def synced(self, *, data_lost: bool, data_doubtful: bool, within_s: float) -> None:
        """The link is READY. After 1101 all has to be requested again; after 1102 what flowed has to prove itself."""
        now_s = asyncio.get_running_loop().time()
        for feed in self:
            if feed.state not in {FeedState.LIVE, FeedState.REQUESTED}:
                continue
            if data_lost or (data_doubtful and not feed.proves_itself):
                feed.break_off("requested anew")
                feed.state = FeedState.WANTED
            elif data_doubtful:
                feed.state, feed.due_s, feed.tries = FeedState.REQUESTED, now_s + within_s, 1
        self.poke()

    def ask_anew(self, feed: Feed, reason: str, since: datetime) -> None:
        """Give a feed's subscription up for dead and request it again; its readers are told of the gap."""
        if feed.state in {FeedState.REQUESTED, FeedState.LIVE}:
            feed.break_off(reason, since)
            feed.state = FeedState.WANTED
            self.poke()

    def interrupt(self, reason: str, since: datetime | None = None) -> None:
        """No stream can be trusted from now on, or since then."""
        for feed in self:
            feed.break_off(reason, since)

    def _due(self, now_s: float) -> list[Feed]:
        late = {FeedState.REQUESTED, FeedState.FAILED}
        return [feed for feed in self if feed.state is FeedState.WANTED or (feed.state in late and now_s >= feed.due_s)]

    def _next_due_s(self) -> float | None:
        late = {FeedState.REQUESTED, FeedState.FAILED}
        return min((feed.due_s for feed in self if feed.state in late), default=None)

    async def _request(self, feed: Feed, ib: Any, is_ready: Callable[[], bool]) -> None:
        loop, instrument = asyncio.get_running_loop(), feed.want.instrument
        try:
            sent, con_id = await self._as_sent(instrument)
            await self._take_turn(feed)
        except BrokerRefused as exc:
            feed.refused(exc.code, exc.text, loop.time())
        except UnknownInstrument as exc:
            feed.refused(translate.NO_SUCH_CONTRACT, str(exc), loop.time())
        except RequestTimeout as exc:
            feed.refused(0, str(exc), loop.time())
        except GatewayError:
            feed.state = FeedState.WANTED
        else:
            feed.state = FeedState.WANTED
            if is_ready() and ib.client.isConnected():
                request = ib.client.getReqId()
                self._by_request[request] = ib.wrapper.takers[request] = feed
                feed.requested(request, loop.time())
                feed.send(ib.client, request, translate.contract_of(sent, con_id))
        finally:
            if feed.asking is asyncio.current_task():
                feed.asking = None
        if feed.state is not FeedState.WANTED:  # else it is asked for again when the link is READY
            self.poke()

    async def _take_turn(self, feed: Feed) -> None:
        match feed:
            case KeptBarFeed():
                if sum(other.ticket is not None for other in self) >= KEPT_MAX:
                    text = f"{KEPT_MAX} streams of bars keep requests for history open; the rest is for downloads"
                    raise BrokerRefused(codes.HISTORY_BUSY, text)
                toll = bar_toll(feed.want.instrument, feed.size, feed.want.what, "kept up to date")
                feed.ticket = await self._history.budget.enter(toll)
            case BarFeed():
                async with self.real_time_budget.turn(feed.toll()):
                    pass
            case TickFeed():
                async with self._tick_budget.turn(feed.toll()):
                    pass

    def _release(self, feed: Feed) -> None:
        """End what was requested for a feed: at the broker, if it is still there."""
        if feed.asking is not None:
            feed.asking.cancel()
            feed.asking = None
        if feed.ticket is not None:
            self._history.budget.leave(feed.ticket)
            feed.ticket = None
        if self._by_request.pop(feed.request, None) is not None and self._ib is not None:
            self._ib.wrapper.takers.pop(feed.request, None)
            if self._ib.client.isConnected():
                feed.stop(self._ib.client, feed.request)
        feed.request = -1

    def _forget_requests(self) -> None:
        """Requests of a connection that is over mean nothing any more; all that is wanted is wanted again."""
        self._by_request.clear()
        for feed in self:
            self._release(feed)
            feed.drop()
            feed.state, feed.tries = FeedState.WANTED, 0
        self._changed.set()

    def _on_message(self, request: int, code: int, text: str, _json: str) -> None:
        if (signal := codes.LINK_SIGNALS.get(code)) is not None:
            if signal in INTERRUPTIONS:
                self.interrupt(text)
            for farm in codes.farms_back(text, self._farms_down):
                if farm in self._farms_down:
                    self._farm(farm, self._farms_down[farm], up=True)
        elif (up := codes.FARMS.get(code)) is not None:
            self._farm(codes.farm_name(text), code, up=up)
        feed_ = self._by_request.get(request)
        if feed_ is None or code in WARNINGS or code in codes.SUBSCRIPTION_NOTICES:
            return
        if code == codes.BOOK_RESET:
            feed_.cleared()
        elif code == codes.BUSTED:
            feed_.break_off(text)
            feed_.state = FeedState.WANTED
            self.poke()
        else:
            self._refused(feed_, code, text)

    def _farm(self, farm: str, code: int, *, up: bool) -> None:
        """A farm went down or came up. Those for history have no names that tell whom they serve."""
        if up:
            self._farms_down.pop(farm, None)
        else:
            self._farms_down[farm] = code
        for feed in self:
            feed.farms(any_down=bool(self._farms_down))
            if code not in codes.MARKET_DATA_FARMS or not codes.may_come_from(farm, feed.want.instrument):
                continue
            if not up:
                feed.break_off(f"market data farm {farm} is down")
            elif feed.in_gap and not feed.proves_itself and feed.state is FeedState.LIVE:
                feed.state = FeedState.WANTED
            elif feed.state is FeedState.FAILED:
                feed.due_s = asyncio.get_running_loop().time()  # that may have been why
        self.poke()

    def _refused(self, feed: Feed, code: int, text: str) -> None:
        if feed.state is not FeedState.LIVE:  # there is nothing at the broker to be cancelled
            del self._by_request[feed.request]
            self._ib.wrapper.takers.pop(feed.request, None)
        self._release(feed)
        feed.refused(code, text, asyncio.get_running_loop().time())
        self.poke()

    # --- what feeds need ---------------------------------------------------------------------------------------------

    def _spawn(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        assert self._work is not None, "data comes through a connection"
        return self._work.create_task(work)

    async def _fetch(self, want: Want, size: BarSize, start: datetime, end: datetime) -> list[Bar]:
        return await self._history.bars(
            want.instrument,
            size,
            start=start,
            end=end,
            what=want.what,
            regular_hours=want.regular_hours,
            timeout_s=BACKFILL_TIMEOUT_S,
        )


def _exchange(instrument: AnyInstrument) -> str:
    return getattr(instrument, "exchange", "")
