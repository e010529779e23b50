"""Bars, ticks one by one and depth as they are on the wire, by request; and history that is cancelled when given up.

The library keeps lists that grow without end, stamps ticks with its own time instead of the exchange's, drops bars
that come before it has any, and raises in its decoder for a row of the book that it does not have. So whoever
subscribes is told each message itself, as a core value: `Wrapper.takers`, by request id. Nobody there: the message is
of a subscription that was ended, and is dropped; one that the library's own methods made goes to the library.

A request for history that times out in ib_insync stays open at the broker when its caller is cancelled (50 are
allowed); here it is cancelled there, too.
"""

from __future__ import annotations

import asyncio
from datetime import UTC, date, datetime
from typing import Any, Protocol
from zoneinfo import ZoneInfo

from ib_insync import util
from ib_insync.wrapper import Wrapper as LibraryWrapper

from ibkr_service.core.bars import Bar
from ibkr_service.core.ticks import AnyTick, BidAskTick, DepthRow, MidPointTick, TradeTick, TradingHours

EPOCH_SECONDS = 2  # formatDate: moments as seconds since 1970, days as YYYYMMDD
INSERT, UPDATE, DELETE = range(3)


class Taker(Protocol):
    """Who is told what comes for a request."""

    def past(self, bar: Bar) -> None:
        """A bar of the answer that a subscription to bars begins with."""
        ...

    def past_end(self) -> None:
        """That answer is complete."""
        ...

    def bar(self, bar: Bar) -> None:
        """A bar of five seconds, or the newest bar as it stands now."""
        ...

    def tick(self, tick: AnyTick) -> None:
        """A tick."""
        ...

    def row(self, place: int, operation: int, side: int, row: DepthRow) -> None:
        """A change of the book. `side`: 1 is the bid's."""
        ...


class DataWrapper(LibraryWrapper):
    """Tells takers what comes for their requests."""

    def __init__(self, ib: Any) -> None:
        super().__init__(ib)
        self.takers: dict[int, Taker] = {}  # by request id, of this connection

    def historicalData(self, reqId: int, bar: Any) -> None:
        taker = self.takers.get(reqId)
        if taker is None:
            super().historicalData(reqId, bar)
            return
        bar.date = util.parseIBDatetime(bar.date)
        taker.past(bar_of(bar))

    def historicalDataEnd(self, reqId: int, _start: str, _end: str) -> None:
        taker = self.takers.get(reqId)
        if taker is None:
            super().historicalDataEnd(reqId, _start, _end)
        else:
            taker.past_end()

    def historicalDataUpdate(self, reqId: int, bar: Any) -> None:
        taker = self.takers.get(reqId)
        if taker is None:
            super().historicalDataUpdate(reqId, bar)
            return
        bar.date = util.parseIBDatetime(bar.date)
        taker.bar(bar_of(bar))

    def realtimeBar(  # noqa: PLR0913, PLR0917 - the library's signature
        self,
        reqId: int,
        time: int,
        open_: float,
        high: float,
        low: float,
        close: float,
        volume: float,
        wap: float,
        count: int,
    ) -> None:
        taker = self.takers.get(reqId)
        if taker is None:
            super().realtimeBar(reqId, time, open_, high, low, close, volume, wap, count)
            return
        taker.bar(_bar(_utc(time), (open_, high, low, close), volume, wap, count))

    def tickByTickAllLast(
        self,
        reqId: int,
        tickType: int,
        time: int,
        price: float,
        size: float,
        tickAttribLast: Any,
        exchange: str,
        specialConditions: str,
    ) -> None:
        taker = self.takers.get(reqId)
        if taker is not None:
            taker.tick(_trade(_utc(time), price, size, tickAttribLast, exchange, specialConditions))
        elif reqId in self.reqId2Ticker:
            super().tickByTickAllLast(reqId, tickType, time, price, size, tickAttribLast, exchange, specialConditions)

    def tickByTickBidAsk(
        self,
        reqId: int,
        time: int,
        bidPrice: float,
        askPrice: float,
        bidSize: float,
        askSize: float,
        tickAttribBidAsk: Any,
    ) -> None:
        taker = self.takers.get(reqId)
        if taker is not None:
            taker.tick(_bid_ask(_utc(time), bidPrice, askPrice, bidSize, askSize, tickAttribBidAsk))
        elif reqId in self.reqId2Ticker:
            super().tickByTickBidAsk(reqId, time, bidPrice, askPrice, bidSize, askSize, tickAttribBidAsk)

    def tickByTickMidPoint(self, reqId: int, time: int, midPoint: float) -> None:
        taker = self.takers.get(reqId)
        if taker is not None:
            taker.tick(MidPointTick(at=_utc(time), price=midPoint))
        elif reqId in self.reqId2Ticker:
            super().tickByTickMidPoint(reqId, time, midPoint)

    def updateMktDepthL2(
        self,
        reqId: int,
        position: int,
        marketMaker: str,
        operation: int,
        side: int,
        price: float,
        size: float,
        isSmartDepth: bool = False,  # noqa: FBT001, FBT002 - the library's signature
    ) -> None:
        taker = self.takers.get(reqId)
        if taker is not None:
            taker.row(position, operation, side, DepthRow(price, size, marketMaker))
        elif reqId in self.reqId2Ticker:
            super().updateMktDepthL2(reqId, position, marketMaker, operation, side, price, size, isSmartDepth)


# --- requests that are ended at the broker, too, when nobody waits any more ------------------------------------------


async def past_bars(
    ib: Any, contract: Any, end: datetime | None, duration: str, size: str, what: str, *, regular_hours: bool
) -> list[Bar]:
    """The bars that one request gives. `end`: None for now."""
    request = ib.client.getReqId()
    answer = ib.wrapper.startReq(request, contract)
    ib.client.reqHistoricalData(
        request, contract, util.formatIBDatetime(end), duration, size, what, regular_hours, EPOCH_SECONDS, False, []
    )
    try:
        return [bar_of(bar) for bar in await answer]
    except asyncio.CancelledError:
        _end(ib, ib.client.cancelHistoricalData, request)
        raise


async def head_timestamp(ib: Any, contract: Any, what: str, *, regular_hours: bool) -> datetime:
    """When the data of a contract begins."""
    request = ib.client.getReqId()
    answer = ib.wrapper.startReq(request, contract)
    ib.client.reqHeadTimeStamp(request, contract, what, regular_hours, EPOCH_SECONDS)
    try:
        head: datetime = await answer
    finally:
        _end(ib, ib.client.cancelHeadTimeStamp, request)  # answered or not, it counts as open until this
    return head.replace(tzinfo=UTC) if head.tzinfo is None else head.astimezone(UTC)


async def past_ticks(
    ib: Any, contract: Any, start: datetime, count: int, what: str, *, regular_hours: bool
) -> list[AnyTick]:
    """Ticks from a moment on. They cannot be cancelled."""
    found = await ib.reqHistoricalTicksAsync(contract, start, "", count, what, regular_hours)
    return [_past_tick(tick) for tick in found]


async def trading_hours(
    ib: Any, contract: Any, days: int, end: datetime | None, *, regular_hours: bool
) -> list[TradingHours]:
    """The sessions of the last trading days."""
    found = await ib.reqHistoricalScheduleAsync(contract, days, end or "", regular_hours)
    zone = ZoneInfo(found.timeZone)

    def at(text: str) -> datetime:
        return datetime.strptime(text, "%Y%m%d-%H:%M:%S").replace(tzinfo=zone).astimezone(UTC)

    return [TradingHours(day=s.refDate, opens=at(s.startDateTime), closes=at(s.endDateTime)) for s in found.sessions]


def _end(ib: Any, cancel: Any, request: int) -> None:
    if ib.client.isConnected():
        cancel(request)


# --- the library's objects into core values --------------------------------------------------------------------------


def bar_of(bar: Any) -> Bar:
    """A bar of an answer, its date parsed by the library."""
    at: datetime | date = bar.date
    if isinstance(at, datetime):
        at = at.astimezone(UTC)
    return _bar(at, (bar.open, bar.high, bar.low, bar.close), bar.volume, bar.average, bar.barCount)


def _bar(
    at: datetime | date, prices: tuple[float, float, float, float], volume: float, average: float, count: int
) -> Bar:
    opens, high, low, close = prices
    is_traded = volume >= 0
    return Bar(
        at=at,
        open=opens,
        high=high,
        low=low,
        close=close,
        volume=volume if is_traded else None,
        average=average if is_traded and average != -1 else None,
        count=count if count >= 0 else None,
    )


def _utc(seconds: int) -> datetime:
    return datetime.fromtimestamp(seconds, UTC)


def _trade(at: datetime, price: float, size: float, attributes: Any, exchange: str, conditions: str) -> TradeTick:
    return TradeTick(
        at=at,
        price=price,
        size=size,
        exchange=exchange,
        conditions=conditions,
        past_limit=attributes.pastLimit,
        unreported=attributes.unreported,
    )


def _bid_ask(at: datetime, bid: float, ask: float, bid_size: float, ask_size: float, attributes: Any) -> BidAskTick:
    return BidAskTick(
        at=at,
        bid=_side(bid, bid_size),
        ask=_side(ask, ask_size),
        bid_size=bid_size,
        ask_size=ask_size,
        bid_past_low=attributes.bidPastLow,
        ask_past_high=attributes.askPastHigh,
    )


def _side(price: float, size: float) -> float | None:
    """-1 or 0 without a size is TWS's "none"; a combination may well be quoted at -1.00 with a size."""
    return None if price in {-1.0, 0.0} and not size > 0 else price


def _past_tick(tick: Any) -> AnyTick:
    if hasattr(tick, "priceBid"):
        return _bid_ask(tick.time, tick.priceBid, tick.priceAsk, tick.sizeBid, tick.sizeAsk, tick.tickAttribBidAsk)
    if hasattr(tick, "exchange"):
        return _trade(tick.time, tick.price, tick.size, tick.tickAttribLast, tick.exchange, tick.specialConditions)
    return MidPointTick(at=tick.time, price=tick.price)
