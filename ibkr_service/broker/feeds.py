"""One subscription to bars, ticks or depth: what comes for it, its gaps, and who reads it.

A feed begins with its first reader and ends with its last. What it tells is in order: `Gap` when nothing can be
trusted from now on, `Resumed` when it goes on, items only while it flows. Bars are in `barfeeds.py`.

A feed knows nothing of connections. `streams.py` requests it, ends it, and lets nothing of an old request reach it.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Coroutine
from datetime import datetime
from typing import Any

import msgspec
import structlog

from ibkr_service.broker import datawire
from ibkr_service.broker.historybudget import Ticket, Toll
from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.bars import Bar
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.ticks import AnyTick, Depth, DepthRow
from ibkr_service.mailbox import Stream

log = structlog.get_logger("ibkr_service.broker")

RETRY_S = 60.0  # as lines.py: permissions, farms and competing sessions come and go
FIRST_ITEM_S = 30.0  # a silent feed is asked for anew; a closed market is silent, too, so less and less often
FIRST_ITEM_MAX_S = 600.0
Spawn = Callable[[Coroutine[Any, Any, None]], asyncio.Task[None]]
SMART_EXCHANGES = frozenset({"SMART", ""})


class Want(msgspec.Struct, frozen=True):
    """What is subscribed to. Equal wants share a feed. `kind`: of bars their size, of ticks TWS's word, or `depth`."""

    instrument: AnyInstrument
    kind: str
    what: str = ""
    regular_hours: bool = False
    rows: int = 0
    exchange: str = ""  # takes no part in an instrument's equality, but the book of one exchange is not another's


class FeedState(enum.Enum):
    """What has become of a feed on this connection."""

    WANTED = "WANTED"  # not requested yet
    ASKING = "ASKING"  # about to be requested: waits for its turn
    REQUESTED = "REQUESTED"  # requested; nothing came yet
    LIVE = "LIVE"
    FAILED = "FAILED"  # the broker refuses; asked again later


class Feed:
    """One subscription.

    Args:
        spawn: runs a coroutine for as long as the connection lives. poke: has wanted feeds requested.
    """

    proves_itself = True  # after 1102 it is enough that something comes

    def __init__(self, want: Want, *, clock: Clock, spawn: Spawn, poke: Callable[[], None]) -> None:
        self.want = want
        self.readers: list[Stream[Any]] = []
        self.state = FeedState.WANTED
        self.epoch = 0
        self.in_gap = False
        self.flowing = False  # something came since the last gap
        self.failure: ev.SubscriptionFailed | None = None  # the refusal that its readers know of
        self.request = -1
        self.ticket: Ticket | None = None  # history that it keeps open
        self.session = 0
        self.due_s = 0.0  # loop time at which to look at it again
        self.tries = 0  # requests on this connection without an answer
        self.heard = 0  # how often something came
        self.asking: asyncio.Task[None] | None = None
        self._clock = clock
        self._spawn = spawn
        self._poke = poke

    def __str__(self) -> str:
        return f"{self.want.kind} of {self.want.instrument}"

    # --- how TWS is asked --------------------------------------------------------------------------------------------

    def send(self, client: Any, request: int, contract: Any) -> None:
        """Request it."""
        raise NotImplementedError

    def stop(self, client: Any, request: int) -> None:
        """Cancel it."""
        raise NotImplementedError

    def toll(self) -> Toll:
        """What the request costs."""
        raise NotImplementedError

    # --- what becomes of it ------------------------------------------------------------------------------------------

    def requested(self, request: int, now_s: float) -> None:
        """The broker was asked."""
        self.state, self.request = FeedState.REQUESTED, request
        self.tries += 1
        self.due_s = now_s + min(FIRST_ITEM_S * self.tries, FIRST_ITEM_MAX_S)

    def alive(self) -> None:
        """Something came."""
        self.heard += 1
        self.state, self.tries, self.failure = FeedState.LIVE, 0, None

    def refused(self, code: int, text: str, now_s: float) -> None:
        """The broker says no, or no more; readers are told, once for each reason, and it is asked for again later."""
        self.state, self.due_s = FeedState.FAILED, now_s + RETRY_S
        self.break_off(f"{text} (code {code})")
        if self.failure is None or self.failure.code != code:
            self.failure = ev.SubscriptionFailed(
                at=self._clock.now(), session=self.session, instrument=self.want.instrument, code=code, text=text
            )
            log.warning("stream refused", stream=str(self), code=code, text=text)
            self.tell(self.failure)

    def break_off(self, reason: str, since: datetime | None = None) -> None:
        """Nothing that comes can be trusted from now on."""
        self.drop()
        if not self.flowing:
            return
        self.flowing, self.in_gap = False, True
        self.tell_gap(reason, since)

    def tell_gap(self, reason: str, since: datetime | None = None) -> None:
        """Say that something is missing."""
        self.epoch += 1
        now = self._clock.now()
        log.info("stream has a gap", stream=str(self), reason=reason)
        self.tell(self.gap(reason, since or now))

    def gap(self, reason: str, since: datetime, lost: int = 0) -> ev.Gap:
        """A gap of this epoch."""
        return ev.Gap(
            at=self._clock.now(),
            session=self.session,
            instrument=self.want.instrument,
            reason=reason,
            since=since,
            epoch=self.epoch,
            lost=lost,
        )

    def overflow(self, lost: int) -> ev.Gap:
        """What a reader finds in the place of what it left unread."""
        return self.gap(f"{lost} items were left unread for too long", self._clock.now(), lost)

    def flow(self, backfilled: int = 0) -> None:
        """It goes on, or begins."""
        self.flowing = True
        if self.in_gap:
            self.in_gap, now = False, self._clock.now()
            self.tell(
                ev.Resumed(
                    at=now,
                    session=self.session,
                    instrument=self.want.instrument,
                    until=now,
                    epoch=self.epoch,
                    backfilled=backfilled,
                )
            )

    def tell(self, item: object) -> None:
        """Deliver to all readers."""
        for reader in tuple(self.readers):
            reader.put(item)

    def drop(self) -> None:
        """Forget what was under way."""

    def farms(self, *, any_down: bool) -> None:
        """Some farm is down, or all are up: something may be missing without a word."""

    # --- what comes (datawire.Taker) ---------------------------------------------------------------------------------

    def past(self, bar: Bar) -> None:
        """A bar of the answer that a subscription begins with."""

    def past_end(self) -> None:
        """That answer is complete."""

    def bar(self, bar: Bar) -> None:
        """A bar of five seconds, or the newest bar as it stands now."""

    def tick(self, tick: AnyTick) -> None:
        """A tick."""

    def row(self, place: int, operation: int, side: int, row: DepthRow) -> None:
        """A change of the book."""

    def cleared(self) -> None:
        """The book begins anew."""


class TickFeed(Feed):
    """Every trade, every quote or every midpoint."""

    def send(self, client: Any, request: int, contract: Any) -> None:
        """Request it."""
        client.reqTickByTickData(request, contract, self.want.kind, 0, False)

    def stop(self, client: Any, request: int) -> None:
        """Cancel it."""
        client.cancelTickByTickData(request)

    def toll(self) -> Toll:
        """One request for an instrument within 15 seconds."""
        return Toll(str(self), identity=repr(self.want.instrument))

    def tick(self, tick: AnyTick) -> None:
        """A tick."""
        self.alive()
        self.flow()
        self.tell(tick)


class DepthFeed(Feed):
    """The order book, told whole after each chunk of changes."""

    proves_itself = False  # rows that changed during a cut are not told again

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sides: tuple[list[DepthRow], list[DepthRow]] = ([], [])  # asks, bids: as TWS numbers them
        self._is_current = False
        self._told = True

    def send(self, client: Any, request: int, contract: Any) -> None:
        """Request it; of several exchanges where the instrument is routed by SMART."""
        self._is_current = True
        client.reqMktDepth(request, contract, self.want.rows, self._is_smart, [])

    def stop(self, client: Any, request: int) -> None:
        """Cancel it."""
        client.cancelMktDepth(request, self._is_smart)

    @property
    def _is_smart(self) -> bool:
        return self.want.exchange in SMART_EXCHANGES

    def toll(self) -> Toll:
        """Nothing."""
        return Toll(str(self), weight=0)

    def row(self, place: int, operation: int, side: int, row: DepthRow) -> None:
        """A change; one that fits no row means that we have missed one."""
        if not self._is_current:
            return
        rows = self._sides[side]
        if place > len(rows) or (place == len(rows) and operation == datawire.UPDATE):
            self.break_off(f"the book has no row {place}")
            self.state = FeedState.WANTED
            self._poke()
            return
        match operation:
            case datawire.INSERT:
                rows.insert(place, row)
            case datawire.UPDATE:
                rows[place] = row
            case _:
                del rows[place : place + 1]
        del rows[self.want.rows :]  # pushed out by an insertion
        self._tell_soon()

    def cleared(self) -> None:
        """The book begins anew."""
        for rows in self._sides:
            rows.clear()
        self._tell_soon()

    def drop(self) -> None:
        """The book means nothing any more."""
        self._is_current = False
        for rows in self._sides:
            rows.clear()

    def _tell_soon(self) -> None:
        self.alive()
        if self._told:
            self._told = False
            asyncio.get_running_loop().call_soon(self._tell_book)

    def _tell_book(self) -> None:
        self._told = True
        if self._is_current:
            self.flow()
            asks, bids = self._sides
            self.tell(Depth(at=self._clock.now(), bids=tuple(bids), asks=tuple(asks)))
