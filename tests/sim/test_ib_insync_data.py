"""The real, unmodified ib_insync asks for market data of every kind, in virtual time.

What the library decodes is what is right, and it never logs an error that a test has not announced.
"""

import asyncio
import logging
import math
from datetime import UTC, date, datetime

import pytest

from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.testing import simulated_gateway

NOON = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)


@pytest.fixture
def expected_errors():
    """Codes of the errors that a test provokes."""
    return set()


@pytest.fixture(autouse=True)
def no_library_errors(caplog, expected_errors):
    """Fail on every error that the library logs while decoding, or that the gateway sends unasked."""
    caplog.set_level(logging.INFO, logger="ib_insync")
    yield
    names = {"ib_insync.Decoder", "ib_insync.wrapper", "eventkit.event"}
    records = [each for each in caplog.get_records("call") if each.levelno >= logging.ERROR and each.name in names]
    errors = [record.getMessage() for record in records]
    assert [error for error in errors if not any(error.startswith(f"Error {code},") for code in expected_errors)] == []


@pytest.fixture
async def ib():
    """A connected client."""
    asyncio.set_event_loop(asyncio.get_running_loop())  # ib_insync asks the policy, not the running loop
    from ib_insync import IB

    async with simulated_gateway(GatewayConfig(seed=11, started_at=NOON)) as server:
        ib = IB()
        ib.RaiseRequestErrors = True
        ib.client.MaxRequests = 0  # the library's throttle does not work in virtual time
        await ib.connectAsync("127.0.0.1", server.port, clientId=1, timeout=30)
        yield ib
        ib.disconnect()
        await asyncio.sleep(0)


async def listed(ib, contract):
    """A contract with its id."""
    await ib.qualifyContractsAsync(contract)
    return contract


@pytest.fixture
async def apple(ib):
    from ib_insync import Stock

    return await listed(ib, Stock("AAPL", "SMART", "USD"))


@pytest.fixture
async def call(ib):
    from ib_insync import Option

    return await listed(ib, Option("AAPL", "20261218", 230, "C", "SMART"))


@pytest.mark.parametrize(
    ("duration", "size", "show", "count"),
    [("5 D", "1 day", "TRADES", 5), ("1 D", "30 mins", "BID_ASK", 5), ("3600 S", "1 min", "MIDPOINT", 60)],
)
async def test_history(ib, apple, duration, size, show, count):
    """Bars with dates or with aware times."""
    bars = await ib.reqHistoricalDataAsync(apple, "", duration, size, show, useRTH=True)
    assert len(bars) == count
    assert all(bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high for bar in bars)
    assert all(type(bar.date) is date if size == "1 day" else bar.date.tzinfo for bar in bars)


async def test_history_of_an_end(ib, apple):
    """The library writes ends with zones."""
    end = datetime(2026, 11, 20, 16, 0, tzinfo=UTC)
    bars = await ib.reqHistoricalDataAsync(apple, end, "1 D", "30 mins", "TRADES", useRTH=True, formatDate=2)
    assert bars[-1].date == datetime(2026, 11, 20, 15, 30, tzinfo=UTC)


async def test_history_kept_up_to_date(ib, apple, expected_errors):
    """The last bar changes, and then there is another one."""
    expected_errors.add(162)  # what TWS says to a cancel
    bars = await ib.reqHistoricalDataAsync(apple, "", "600 S", "1 min", "TRADES", useRTH=True, keepUpToDate=True)
    news = []
    bars.updateEvent += lambda _bars, has_new_bar: news.append(has_new_bar)
    before = len(bars)
    await asyncio.sleep(125)
    assert len(bars) == before + 3
    assert len(news) > 100
    ib.cancelHistoricalData(bars)
    await asyncio.sleep(1)
    ib.wrapper.reqId2Subscriber.clear()


async def test_schedule_head_histogram_and_ticks(ib, apple):
    """Small questions about the past."""
    schedule = await ib.reqHistoricalScheduleAsync(apple, 3)
    assert [each.refDate for each in schedule.sessions] == ["20261119", "20261120", "20261123"]
    assert (await ib.reqHeadTimeStampAsync(apple, "TRADES", useRTH=True, formatDate=2)).year == 2016
    assert sum(each.count for each in await ib.reqHistogramDataAsync(apple, True, "2 days")) > 1000
    for show in ("TRADES", "BID_ASK", "MIDPOINT"):
        ticks = await ib.reqHistoricalTicksAsync(apple, "", NOON, 50, show, useRth=True)
        assert len(ticks) == 50
        assert ticks[-1].time < NOON


async def test_generic_ticks(ib, apple):
    """Everything that a ticker has fields for."""
    ticker = ib.reqMktData(apple, "100,101,104,106,165,221,233,236,411,456")
    await asyncio.sleep(10)
    names = "open high low close volume last lastSize halted markPrice vwap rtVolume shortableShares histVolatility"
    names += " impliedVolatility rtHistVolatility callVolume putVolume callOpenInterest putOpenInterest avVolume"
    names += " low13week high52week"
    assert [name for name in names.split() if not math.isfinite(getattr(ticker, name))] == []
    assert ticker.low <= ticker.last <= ticker.high
    assert ticker.dividends.next12Months > 0
    assert ticker.low52week <= ticker.low13week < ticker.high13week <= ticker.high52week


async def test_delayed_ticks_and_greeks(ib, call):
    """The library maps the delayed types to the same fields."""
    ib.reqMarketDataType(3)
    ticker = ib.reqMktData(call)
    await asyncio.sleep(3)
    assert ticker.marketDataType == 3
    assert 0 < ticker.bid < ticker.ask
    for greeks in (ticker.bidGreeks, ticker.askGreeks, ticker.lastGreeks, ticker.modelGreeks):
        assert 0 < greeks.delta < 1
    assert ticker.bidGreeks.impliedVol < ticker.modelGreeks.impliedVol < ticker.askGreeks.impliedVol


async def test_snapshots_of_a_stock_and_an_option(ib, apple, call):
    """They end; the library waits for that."""
    for ticker in await ib.reqTickersAsync(apple, call):
        assert 0 < ticker.bid < ticker.ask


async def test_the_calculator(ib, call):
    """There and back."""
    there = await ib.calculateOptionPriceAsync(call, 0.4, 230)
    back = await ib.calculateImpliedVolatilityAsync(call, there.optPrice, 230)
    assert back.impliedVol == pytest.approx(0.4, abs=1e-4)


@pytest.mark.parametrize("kind", ["Last", "AllLast", "BidAsk", "MidPoint"])
async def test_tick_by_tick(ib, apple, kind):
    """Ticks as objects."""
    ticker, seen = ib.reqTickByTickData(apple, kind), []
    ticker.updateEvent += lambda each: seen.extend(each.tickByTicks)
    await asyncio.sleep(10)
    assert len(seen) > 10
    ib.cancelTickByTickData(apple, kind)


@pytest.mark.parametrize("is_smart", [True, False])
async def test_depth(ib, apple, is_smart):
    """The library keeps the book in order."""
    ticker = ib.reqMktDepth(apple, 5, is_smart)
    await asyncio.sleep(10)
    bids, asks = [level.price for level in ticker.domBids], [level.price for level in ticker.domAsks]
    assert (bids, asks) == (sorted(bids, reverse=True), sorted(asks))
    assert (len(bids), len(asks)) == (5, 5)
    assert bids[0] < asks[0]
    ib.cancelMktDepth(apple, is_smart)
    assert len(await ib.reqMktDepthExchangesAsync()) > 3
    assert len(await ib.reqSmartComponentsAsync("9c0001")) > 3


async def test_real_time_bars(ib, apple):
    """Every five seconds."""
    bars = ib.reqRealTimeBars(apple, 5, "TRADES", False)
    await asyncio.sleep(21)
    assert len(bars) == 4
    assert all(bar.low <= min(bar.open_, bar.close) <= bar.high for bar in bars)
    ib.cancelRealTimeBars(bars)


async def test_news(ib, apple):
    """Providers, headlines, an article, a bulletin."""
    codes = "+".join(provider.code for provider in await ib.reqNewsProvidersAsync())
    first, *_ = await ib.reqHistoricalNewsAsync(apple.conId, codes, "", "", 3)
    assert first.time <= NOON.replace(tzinfo=None)
    article = await ib.reqNewsArticleAsync(first.providerCode, first.articleId)
    assert first.headline in article.articleText
    ib.reqNewsBulletins(True)
    await asyncio.sleep(1)
    assert len(ib.newsBulletins()) == 1


async def test_scanners(ib, expected_errors):
    """Parameters and rankings; an unknown code is refused."""
    from ib_insync import ScannerSubscription
    from ib_insync.wrapper import RequestError

    expected_errors.add(162)  # what TWS says to a cancel, too
    assert "TOP_PERC_GAIN" in await ib.reqScannerParametersAsync()
    scan = ScannerSubscription(instrument="STK", locationCode="STK.US.MAJOR", scanCode="MOST_ACTIVE", numberOfRows=7)
    rows = await ib.reqScannerDataAsync(scan)
    assert [row.rank for row in rows] == list(range(7))
    scan.scanCode = "TOP_GOSSIP"
    with pytest.raises(RequestError):
        await ib.reqScannerDataAsync(scan)
