"""What ib_async checks about the connection, contracts, and data, live and historical."""

import asyncio
import math
import re
from datetime import date, datetime

from async_app import Desk, buy_far, eurusd, stock
from harness import Checks, Failed, expect, require
from ib_async import Bag, ComboLeg, Contract, Forex, Future, Index, Option, ScannerSubscription, Stock

checks = Checks()

LINES_MAX, FLOW = 120, 3
BY_TICK = {"Last": "AAPL", "AllLast": "MSFT", "BidAsk": "NVDA", "MidPoint": "AMZN"}
"""Kind of tick → the stock to ask for: the library keeps the ticks of all kinds of a contract in one list."""

GENERIC = "100,101,104,106,165,221,233,236,411,456"


@checks("handshake")
async def handshake(desk: Desk) -> None:
    require(desk.ib.client.serverVersion() in range(157, 179), "a version", desk.ib.client.serverVersion())
    require(re.fullmatch(r"[A-Z]+\d+", desk.account), "an account code", desk.account)
    other = Desk(desk.host, desk.port, 70, desk.patience)
    try:
        await other.open(is_synchronised=True)
        require(other.ib.accountValues(), "account values of a synchronised connection", "none")
    except ConnectionError as error:
        raise Failed("a synchronised connection", error) from None
    finally:
        other.close()


@checks("handshake-notices")
async def handshake_notices(desk: Desk) -> None:
    for code in (2104, 2106, 2158):
        expect(f"id of notice {code}", -1, (await desk.error(0, code))[0])


@checks("managed-accounts")
async def managed_accounts(desk: Desk) -> None:
    heard: list[str] = []
    wrapper = desk.ib.wrapper
    was, wrapper.managedAccounts = wrapper.managedAccounts, heard.append
    try:
        desk.ib.client.reqManagedAccts()
        await desk.until("managedAccounts", lambda: heard)
    finally:
        wrapper.managedAccounts = was
    require(desk.account in heard[0].split(","), f"{desk.account} among the accounts", heard)


@checks("next-order-id")
async def next_order_id(desk: Desk) -> None:
    used = await desk.rest(stock("KO"), buy_far(10))
    heard: list[int] = []
    wrapper = desk.ib.wrapper
    wrapper.nextValidId = heard.append
    desk.ib.client.reqIds(1)
    await desk.until("nextValidId", lambda: heard)
    del wrapper.nextValidId
    require(heard[0] > used.order.orderId, f"a next valid order id above {used.order.orderId}", heard)
    await desk.cancel(used)


@checks("current-time")
async def current_time(desk: Desk) -> None:
    first = await desk.ask(desk.ib.reqCurrentTimeAsync())
    second = await desk.ask(desk.ib.reqCurrentTimeAsync())
    require(first <= second, f"time that goes on from {first}", second)
    require(first.year >= 2020, "a year of our time", first)


@checks("user-info")
async def user_info(desk: Desk) -> None:
    # The library ends the request and throws the text away.
    require(await desk.ask(desk.ib.reqUserInfoAsync()) is not None, "an answer", None)


@checks("client-id-taken")
async def client_id_taken(desk: Desk) -> None:
    twin, hung_up = Desk(desk.host, desk.port, desk.client_id, desk.patience), asyncio.Event()
    twin.ib.client.conn.disconnected += lambda _: hung_up.set()
    opening = asyncio.ensure_future(twin.open())  # noqa: TID251  ended in this function
    try:
        await twin.error(0, 326)
        await asyncio.wait_for(hung_up.wait(), desk.patience)
        require(not opening.done() or opening.exception(), "no welcome", opening)
    finally:
        opening.cancel()
        await asyncio.gather(opening, return_exceptions=True)
        twin.close()
    await desk.ask(desk.ib.reqCurrentTimeAsync())


@checks("client-id-freed")
async def client_id_freed(desk: Desk) -> None:
    first = await desk.another(71)
    trade = await first.rest(stock("KO"), buy_far(10))
    first.close()
    again = await Desk(desk.host, desk.port, 71, desk.patience).open(is_synchronised=True)
    try:
        expect("orders that outlived the connection", [trade.order.permId], [it.permId for it in again.ib.openOrders()])
        require(again.ib.client.getReqId() > trade.order.orderId, f"an id above {trade.order.orderId}", "a lower one")
        await again.cancel(again.ib.openTrades()[0])
    finally:
        again.close()


@checks("details-stock")
async def details_stock(desk: Desk) -> None:
    (it,) = await desk.ask(desk.ib.reqContractDetailsAsync(stock("AAPL")))
    expect("AAPL", (265598, "NASDAQ", 0.01), (it.contract.conId, it.contract.primaryExchange, it.minTick))
    require("APPLE" in it.longName, "a long name with APPLE", it.longName)
    require(it.tradingSessions() and it.liquidSessions(), "sessions that the library can read", it.tradingHours)
    expect("market rules per exchange", it.validExchanges.count(","), it.marketRuleIds.count(","))


@checks("details-forex")
async def details_forex(desk: Desk) -> None:
    (it,) = await desk.ask(desk.ib.reqContractDetailsAsync(eurusd()))
    expect("EUR.USD", (12087792, "EUR.USD", 0.00005), (it.contract.conId, it.contract.localSymbol, it.minTick))


@checks("details-future")
async def details_future(desk: Desk) -> None:
    found = await desk.ask(desk.ib.reqContractDetailsAsync(Future("ES", exchange="CME")))
    months = sorted(it.contract.lastTradeDateOrContractMonth for it in found)
    require(len(set(months)) > 1, "several months of ES", months)
    expect("multipliers", {"50"}, {it.contract.multiplier for it in found})
    named = await desk.one(Future("ES", months[0][:6], "CME"))
    expect("the contract of a month", months[0], named.lastTradeDateOrContractMonth)


@checks("details-index")
async def details_index(desk: Desk) -> None:
    it = await desk.one(Index("SPX", "CBOE", "USD"))
    require(it.conId > 0 and it.secType == "IND", "an index with an id", it)


@checks("details-options-of-a-day")
async def details_options_of_a_day(desk: Desk) -> None:
    expiry = sorted((await desk.chain("AAPL")).expirations)[1]
    wanted = Option("AAPL", expiry, exchange="SMART", currency="USD")
    found = [it.contract for it in await desk.ask(desk.ib.reqContractDetailsAsync(wanted))]
    require(len(found) >= 50, "at least 50 options", len(found))
    expect("expiries", {expiry}, {it.lastTradeDateOrContractMonth for it in found})
    expect("rights", {"C", "P"}, {it.right for it in found})
    expect("one id each", len(found), len({it.conId for it in found}))


@checks("details-option")
async def details_option(desk: Desk) -> None:
    chain = await desk.chain("AAPL")
    expiry, strike = sorted(chain.expirations)[1], sorted(chain.strikes)[10]
    (it,) = await desk.ask(desk.ib.reqContractDetailsAsync(Option("AAPL", expiry, strike, "P", "SMART")))
    expect("the option", (strike, "P", "100"), (it.contract.strike, it.contract.right, it.contract.multiplier))
    named = Contract(secType="OPT", localSymbol=it.contract.localSymbol, exchange="SMART", currency="USD")
    expect("by local symbol", it.contract.conId, (await desk.one(named)).conId)


@checks("details-by-id")
async def details_by_id(desk: Desk) -> None:
    known = await desk.one(stock("MSFT"))
    expect("the same stock", "MSFT", (await desk.one(Contract(conId=known.conId, exchange="SMART"))).symbol)


@checks("details-unknown")
async def details_unknown(desk: Desk) -> None:
    for unknown in (
        stock("NOSUCHTHING"),
        Contract(conId=999, exchange="SMART"),
        Option("AAPL", "20010119", 1, "C", "SMART"),
    ):
        await desk.refusal(lambda it=unknown: desk.ib.reqContractDetailsAsync(it), 200)


@checks("ambiguous")
async def ambiguous(desk: Desk) -> None:
    since, many = len(desk.errors), Option("AAPL", right="C", exchange="SMART", currency="USD")
    desk.ib.client.reqMktData(desk.ib.client.getReqId(), many, "", False, False, [])
    text = (await desk.error(since, 200))[2]
    require("ambiguous" in text, "a text that says ambiguous", text)


@checks("chain")
async def chain(desk: Desk) -> None:
    it = await desk.chain("SPY")
    expect(
        "underlying, class and multiplier",
        (756733, "SPY", "100"),
        (int(it.underlyingConId), it.tradingClass, it.multiplier),
    )
    require(len(it.expirations) > 3 and len(it.strikes) > 5, "expiries and strikes", it)
    middle = sorted(it.strikes)[len(it.strikes) // 2]
    listed = await desk.one(Option("SPY", min(it.expirations), middle, "C", "SMART", currency="USD"))
    expect("strike of a listed option", middle, listed.strike)


@checks("chain-unknown")
async def chain_unknown(desk: Desk) -> None:
    await desk.refusal(lambda: desk.ib.reqSecDefOptParamsAsync("AAPL", "", "STK", 999), 321, 200)


@checks("matching-symbols")
async def matching_symbols(desk: Desk) -> None:
    samples = await desk.ask(desk.ib.reqMatchingSymbolsAsync("AAP"))
    apple = [it for it in samples if it.contract.symbol == "AAPL" and it.contract.secType == "STK"]
    require(apple, "AAPL among the samples", samples)
    expect("AAPL and its options", (265598, True), (apple[0].contract.conId, "OPT" in apple[0].derivativeSecTypes))


@checks("matching-symbols-none")
async def matching_symbols_none(desk: Desk) -> None:
    expect("samples", [], await desk.ask(desk.ib.reqMatchingSymbolsAsync("QZXQZX")))


@checks("market-rule")
async def market_rule(desk: Desk) -> None:
    (it,) = await desk.ask(desk.ib.reqContractDetailsAsync(eurusd()))
    rule = await desk.ask(desk.ib.reqMarketRuleAsync(int(it.marketRuleIds.split(",")[0])))
    expect("its first step", (0.0, it.minTick), (rule[0].lowEdge, rule[0].increment))


@checks("depth-exchanges")
async def depth_exchanges(desk: Desk) -> None:
    known = await desk.ask(desk.ib.reqMktDepthExchangesAsync())
    require(known and all(it.exchange and it.secType for it in known), "exchanges with depth", known)


@checks("smart-components")
async def smart_components(desk: Desk) -> None:
    ticker = await desk.line(stock("AAPL"), "a bid", lambda it: it.bid > 0)
    require(ticker.bboExchange, "a bboExchange", ticker.bboExchange)
    require(await desk.ask(desk.ib.reqSmartComponentsAsync(ticker.bboExchange)), "exchanges behind letters", "none")


@checks("news-providers")
async def news_providers(desk: Desk) -> None:
    known = await desk.ask(desk.ib.reqNewsProvidersAsync())
    require(known and all(it.code and it.name for it in known), "providers with code and name", known)


@checks("scanner-parameters")
async def scanner_parameters(desk: Desk) -> None:
    xml = await desk.ask(desk.ib.reqScannerParametersAsync())
    require(xml.lstrip().startswith("<") and "TOP_PERC_GAIN" in xml, "XML with TOP_PERC_GAIN", xml[:80])


@checks("scanner")
async def scanner(desk: Desk) -> None:
    wanted = ScannerSubscription(5, "STK", "STK.US.MAJOR", "TOP_PERC_GAIN")
    rows = await desk.ask(desk.ib.reqScannerDataAsync(wanted))
    require(0 < len(rows) <= 5, "one to five rows", rows)
    expect("ranks", list(range(len(rows))), [row.rank for row in rows])


@checks("ticks-stock")
async def ticks_stock(desk: Desk) -> None:
    it = await desk.line(stock("AAPL"), "bid, ask and last", lambda it: it.bid > 0 and it.ask > 0 and it.last > 0)
    require(it.bid < it.ask and it.bidSize > 0 and it.askSize > 0, "a bid below the ask, with sizes", it)
    expect("market data type, minimum tick", (1, 0.01), (it.marketDataType, it.minTick))


@checks("ticks-forex")
async def ticks_forex(desk: Desk) -> None:
    bid, ask = await desk.quote(eurusd())
    require(0.5 < bid < ask < 2, "a rate of EUR.USD", (bid, ask))
    require(abs(bid / 0.00005 - round(bid / 0.00005)) < 1e-6, "a price on the grid of 0.00005", bid)


@checks("ticks-flow")
async def ticks_flow(desk: Desk) -> None:
    seen: set[float] = set()

    def several(it) -> bool:
        seen.update([it.bid] if it.bid > 0 else [])
        return len(seen) >= FLOW

    await desk.line(Forex("GBPUSD"), "three different bids", several)


@checks("ticks-cancel")
async def ticks_cancel(desk: Desk) -> None:
    gone = await desk.line(Forex("AUDUSD"), "bid and ask", lambda it: it.bid > 0 and it.ask > 0)
    await desk.ask(desk.ib.reqCurrentTimeAsync())
    await _silent_while_others_tick(desk, gone)


async def _silent_while_others_tick(desk: Desk, gone) -> None:
    """While the EUR.USD line of the script goes on ticking, nothing comes for this ticker."""
    times, last = set(), gone.time

    def others_tick() -> bool:
        if gone.time != last:
            raise Failed("no tick after the end", gone.ticks)
        times.add(desk.heartbeat.time)
        return len(times) > FLOW

    await desk.until("other lines to go on ticking", others_tick)


@checks("ticks-duplicate-id")
async def ticks_duplicate_id(desk: Desk) -> None:
    since, client = len(desk.errors), desk.ib.client
    req_id = client.getReqId()
    for _ in range(2):
        client.reqMktData(req_id, stock("IBM"), "", False, False, [])
    expect("id of error 102", req_id, (await desk.error(since, 102))[0])
    client.cancelMktData(req_id)


@checks("snapshot")
async def snapshot(desk: Desk) -> None:
    (it,) = await desk.ask(desk.ib.reqTickersAsync(await desk.one(stock("MSFT"))))
    require(it.bid > 0 and it.ask > it.bid and it.last > 0, "bid, ask and last before the end", it)
    await _silent_while_others_tick(desk, it)


@checks("ticks-unknown")
async def ticks_unknown(desk: Desk) -> None:
    since, req_id = len(desk.errors), desk.ib.client.getReqId()
    desk.ib.client.reqMktData(req_id, stock("NOSUCHTHING"), "", False, False, [])
    expect("id of error 200", req_id, (await desk.error(since, 200))[0])


@checks("ticks-delayed")
async def ticks_delayed(desk: Desk) -> None:
    desk.ib.reqMarketDataType(3)
    it = await desk.line(stock("QQQ"), "delayed bid and ask", lambda it: it.bid > 0 and it.ask > 0)
    desk.ib.reqMarketDataType(1)
    expect("market data type", 3, it.marketDataType)


@checks("ticks-generic")
async def ticks_generic(desk: Desk) -> None:
    wanted = ("histVolatility", "impliedVolatility", "callVolume", "markPrice", "rtVolume", "shortable", "dividends")

    def all_of_them(it) -> bool:
        missing[:] = [name for name in wanted if getattr(it, name) is None or getattr(it, name) != getattr(it, name)]
        return not missing

    missing: list[str] = []
    try:
        await desk.line(stock("AMZN"), "generic ticks", all_of_them, GENERIC)
    except Failed as error:
        raise Failed(f"generic ticks: {missing} missing", error) from None


@checks("ticks-index")
async def ticks_index(desk: Desk) -> None:
    it = await desk.line(Index("SPX", "CBOE", "USD"), "a level", lambda it: it.last > 0)
    require(it.last > 100, "a level of SPX", it.last)


@checks("ticks-future")
async def ticks_future(desk: Desk) -> None:
    months = await desk.ask(desk.ib.reqContractDetailsAsync(Future("ES", exchange="CME")))
    front = min((it.contract for it in months), key=lambda it: it.lastTradeDateOrContractMonth)
    it = await desk.line(front, "bid and ask", lambda it: it.bid > 0 and it.ask > 0)
    require(it.bid < it.ask, "a bid below the ask", it)


async def spread(desk: Desk) -> Bag:
    near, far = await desk.at_the_money("AAPL"), await desk.at_the_money("AAPL", step=2)
    legs = [ComboLeg(near.conId, 1, "BUY", "SMART"), ComboLeg(far.conId, 1, "SELL", "SMART")]
    return Bag(symbol="AAPL", exchange="SMART", currency="USD", comboLegs=legs)


@checks("ticks-combo")
async def ticks_combo(desk: Desk) -> None:
    it = await desk.line(await spread(desk), "bid and ask", lambda it: it.bid == it.bid and it.ask == it.ask)
    require(it.bid < it.ask, "a bid below the ask", (it.bid, it.ask))


@checks("greeks")
async def greeks(desk: Desk) -> None:
    wanted, underlying = await desk.at_the_money("AAPL"), sum(await desk.quote(stock("AAPL"))) / 2
    it = await desk.line(wanted, "greeks", lambda it: it.bidGreeks and it.askGreeks and it.modelGreeks)
    model = it.modelGreeks
    require(0.05 < model.impliedVol < 2 and 0.2 < model.delta < 0.8, "volatility and delta at the money", model)
    require(model.gamma > 0 and model.vega > 0 and model.theta < 0 and model.optPrice > 0, "signs", model)
    require(abs(model.undPrice / underlying - 1) < 0.05, f"an underlying near {underlying}", model.undPrice)


@checks("calculate-implied-volatility")
async def calculate_implied_volatility(desk: Desk) -> None:
    wanted, (under, _) = await desk.at_the_money("AAPL"), await desk.quote(stock("AAPL"))
    low, high = [await desk.ask(desk.ib.calculateImpliedVolatilityAsync(wanted, price, under)) for price in (10, 20)]
    require(0 < low.impliedVol < high.impliedVol, "more volatility in a dearer option", (low, high))


@checks("calculate-option-price")
async def calculate_option_price(desk: Desk) -> None:
    wanted, (under, _) = await desk.at_the_money("AAPL"), await desk.quote(stock("AAPL"))
    low, high = [await desk.ask(desk.ib.calculateOptionPriceAsync(wanted, vol, under)) for vol in (0.2, 0.5)]
    require(0 < low.optPrice < high.optPrice, "a dearer option at more volatility", (low, high))


async def _by_tick(desk: Desk, kind: str) -> list:
    contract, since, seen = await desk.one(stock(BY_TICK[kind])), len(desk.errors), []
    ticker = desk.ib.reqTickByTickData(contract, kind)

    def three() -> bool:
        if len(desk.errors) > since:
            raise Failed(f"three {kind} ticks", desk.errors[since:])
        seen.extend(tick for tick in ticker.tickByTicks if tick not in seen)
        return len(seen) >= FLOW

    try:
        await desk.until(f"three {kind} ticks", three)
    finally:
        desk.ib.cancelTickByTickData(contract, kind)
    return seen


@checks("tick-by-tick-last")
async def tick_by_tick_last(desk: Desk) -> None:
    for kind, number in (("Last", 1), ("AllLast", 2)):
        for tick in await _by_tick(desk, kind):
            require(tick.price > 0 and tick.tickType == number, "a trade", tick)


@checks("tick-by-tick-bid-ask")
async def tick_by_tick_bid_ask(desk: Desk) -> None:
    for tick in await _by_tick(desk, "BidAsk"):
        require(0 < tick.bidPrice < tick.askPrice, "a quote", tick)


@checks("tick-by-tick-midpoint")
async def tick_by_tick_midpoint(desk: Desk) -> None:
    for tick in await _by_tick(desk, "MidPoint"):
        require(tick.midPoint > 0, "a price", tick)


@checks("real-time-bars")
async def real_time_bars(desk: Desk) -> None:
    since, bars = len(desk.errors), desk.ib.reqRealTimeBars(stock("AAPL"), 5, "TRADES", False)

    def two() -> bool:
        if len(desk.errors) > since:
            raise Failed("two real-time bars", desk.errors[since:])
        return len(bars) >= 2

    try:
        await desk.until("two real-time bars", two)
    finally:
        desk.ib.cancelRealTimeBars(bars)
    apart = (bars[1].time - bars[0].time).total_seconds()
    require(apart > 0 and apart % 5 == 0, "bars some five seconds apart", apart)
    require(bars[0].low <= bars[0].open_ <= bars[0].high, "low to high", bars[0])


@checks("depth")
async def depth(desk: Desk) -> None:
    for is_smart, where in ((False, Stock("AAPL", "NASDAQ", "USD")), (True, stock("MSFT"))):
        contract, since = await desk.one(where), len(desk.errors)
        it = desk.ib.reqMktDepth(contract, 5, is_smart)

        def both_sides(it=it, since=since) -> object:
            if len(desk.errors) > since:
                raise Failed("depth on both sides", desk.errors[since:])
            return it.domBids and it.domAsks and (it.domBids[0].price, it.domAsks[0].price)

        try:
            bid, ask = await desk.until("depth on both sides", both_sides)
        finally:
            desk.ib.cancelMktDepth(contract, is_smart)
        require(0 < bid < ask, "a bid below the ask", (bid, ask))


async def history(desk: Desk, what, *, duration="1 D", size="1 hour", show="TRADES", rth=False):
    request = desk.ib.reqHistoricalDataAsync(what, "", duration, size, show, rth, 1, timeout=0)
    bars = await desk.ask(request)
    require(bars, f"bars of {size}", desk.errors[-2:])
    dates = [bar.date for bar in bars]
    expect("dates in order", sorted(set(dates)), dates)
    for bar in bars:
        lowest, highest = min(bar.open, bar.close), max(bar.open, bar.close)
        require(0 < bar.low <= lowest <= highest <= bar.high, "low to high", bar)
    return bars


@checks("history-days")
async def history_days(desk: Desk) -> None:
    bars = await history(desk, stock("AAPL"), duration="10 D", size="1 day", rth=True)
    require(8 <= len(bars) <= 11, "about 10 bars", len(bars))
    require(all(type(bar.date) is date and bar.volume > 0 for bar in bars), "dates, and volume", bars[0])


@checks("history-hours")
async def history_hours(desk: Desk) -> None:
    bars = await history(desk, stock("AAPL"), duration="2 D")
    require(len(bars) >= 7 and bars[0].date.tzinfo is not None, "at least seven hours, with a zone", bars[0])


@checks("history-minutes")
async def history_minutes(desk: Desk) -> None:
    bars = await history(desk, eurusd(), duration="3600 S", size="5 mins", show="MIDPOINT")
    require(10 <= len(bars) <= 14, "about 12 bars", len(bars))
    expect("volume of midpoints", {-1}, {bar.volume for bar in bars})


@checks("history-seconds")
async def history_seconds(desk: Desk) -> None:
    bars = await history(desk, eurusd(), duration="120 S", size="5 secs", show="BID_ASK")
    require(20 <= len(bars) <= 26, "about 24 bars", len(bars))


@checks("history-weeks")
async def history_weeks(desk: Desk) -> None:
    bars = await history(desk, stock("SPY"), duration="6 M", size="1 week", rth=True)
    require(len(bars) >= 20, "half a year", len(bars))


@checks("history-keep-up-to-date")
async def history_keep_up_to_date(desk: Desk) -> None:
    request = desk.ib.reqHistoricalDataAsync(
        eurusd(), "", "300 S", "5 secs", "MIDPOINT", False, 1, keepUpToDate=True, timeout=0
    )
    bars, updates = await desk.ask(request), []
    require(bars, "bars", desk.errors[-2:])
    bars.updateEvent += lambda _, is_new: updates.append(is_new)
    await desk.until("an update", lambda: updates)
    desk.ib.cancelHistoricalData(bars)


@checks("history-refused")
async def history_refused(desk: Desk) -> None:
    def ask(what, duration, size):
        return desk.ib.reqHistoricalDataAsync(what, "", duration, size, "TRADES", True, timeout=0)

    await desk.refusal(lambda: ask(stock("NOSUCHTHING"), "1 D", "1 hour"), 200)
    await desk.refusal(lambda: ask(stock("AAPL"), "1 D", "7 parsecs"), 321)
    await desk.refusal(lambda: ask(stock("AAPL"), "1 eternity", "1 hour"), 321)


@checks("head-timestamp")
async def head_timestamp(desk: Desk) -> None:
    it = await desk.ask(desk.ib.reqHeadTimeStampAsync(stock("AAPL"), "TRADES", True, 2))
    now = await desk.ask(desk.ib.reqCurrentTimeAsync())
    require(isinstance(it, datetime) and it < now, "a time in the past", it)


@checks("history-ticks")
async def history_ticks(desk: Desk) -> None:
    now = await desk.ask(desk.ib.reqCurrentTimeAsync())
    for what, show in ((stock("AAPL"), "TRADES"), (stock("AAPL"), "BID_ASK"), (eurusd(), "MIDPOINT")):
        ticks = await desk.ask(desk.ib.reqHistoricalTicksAsync(what, "", now, 20, show, False))
        require(ticks, f"ticks of {show}", ticks)
        times = [tick.time for tick in ticks]
        expect("times in order", sorted(times), times)


@checks("history-schedule")
async def history_schedule(desk: Desk) -> None:
    it = await desk.ask(desk.ib.reqHistoricalScheduleAsync(stock("AAPL"), 10))
    require(it.timeZone and 6 <= len(it.sessions) <= 12, "about 10 sessions, and a zone", it)


@checks("histogram")
async def histogram(desk: Desk) -> None:
    items = await desk.ask(desk.ib.reqHistogramDataAsync(stock("AAPL"), True, "3 days"))
    require(items and all(it.price > 0 for it in items), "prices and counts", items)


@checks("line-cap")
async def line_cap(desk: Desk) -> None:
    client, since, opened = desk.ib.client, len(desk.errors), []
    while len(opened) < LINES_MAX and not any(code == 101 for _, code, _ in desk.errors[since:]):
        opened.append(client.getReqId())
        client.reqMktData(opened[-1], Forex("EURGBP"), "", False, False, [])
        await desk.ask(desk.ib.reqCurrentTimeAsync())
    req_id, _, _ = await desk.error(since, 101)
    require(req_id in opened, "the id of the line that was too much", req_id)
    for one in opened:
        client.cancelMktData(one)
    await desk.line(Forex("EURGBP"), "a line after the cancels", lambda it: not math.isnan(it.bid))
