"""What ib_async checks about orders, executions, accounts; and that nothing is met with silence."""

import asyncio

from async_app import UNSET, Desk, buy_far, eurusd, stock
from async_market import spread
from harness import Checks, Failed, expect, require
from ib_async import (
    Contract,
    ExecutionFilter,
    LimitOrder,
    MarketOrder,
    Option,
    Order,
    ScannerSubscription,
    Stock,
    StopOrder,
    TagValue,
    Trade,
    WshEventData,
)

checks = Checks()


@checks("order-market")
async def order_market(desk: Desk) -> None:
    con_id, before = (await desk.one(stock("MSFT"))).conId, await desk.positions()
    trade = await desk.fill(stock("MSFT"), MarketOrder("BUY", 100, orderRef="conformance"))
    status = trade.orderStatus
    expect("filled and remaining", (100.0, 0.0), (status.filled, status.remaining))
    require(status.avgFillPrice > 0 and status.permId > 0, "an average price and a permId", status)
    for fill in trade.fills:
        it = fill.execution
        came = (fill.contract.conId, it.side, it.acctNumber, it.orderRef, it.permId)
        expect("execution", (con_id, "BOT", desk.account, "conformance", status.permId), came)
        require(it.time.tzinfo is not None and it.execId and it.exchange, "id, exchange, a time with zone", it)
    expect("cumulative quantity", 100.0, trade.fills[-1].execution.cumQty)
    expect("position", before.get(con_id, 0) + 100, (await desk.positions())[con_id])


@checks("order-forex")
async def order_forex(desk: Desk) -> None:
    trade = await desk.fill(eurusd(), MarketOrder("SELL", 20_000))
    expect("side", "SLD", trade.fills[0].execution.side)


@checks("commissions")
async def commissions(desk: Desk) -> None:
    await desk.fill(stock("MSFT"), MarketOrder("BUY", 50))
    trade = await desk.fill(stock("MSFT"), MarketOrder("SELL", 50))
    await desk.until("commission reports", lambda: all(it.commissionReport.execId for it in trade.fills))
    for fill in trade.fills:
        report = fill.commissionReport
        expect("report of", (fill.execution.execId, "USD"), (report.execId, report.currency))
        require(0 < report.commission < 100, "a commission", report)
        require(abs(report.realizedPNL) < UNSET, "the profit of what was closed", report)


@checks("order-limit")
async def order_limit(desk: Desk) -> None:
    price = round((await desk.quote(stock("AAPL")))[0] * 0.8, 2)
    trade = await desk.rest(stock("AAPL"), LimitOrder("BUY", 10, price, tif="GTC", orderRef="resting"))
    expect("remaining", 10.0, trade.orderStatus.remaining)
    # Seen by another client, so that it is the gateway's word and not what the library remembers of what it sent.
    other = await desk.another(74)
    try:
        shown = [
            it for it in await other.ask(other.ib.reqAllOpenOrdersAsync()) if it.order.permId == trade.order.permId
        ]
        require(shown, "the order among those of all clients", "none")
        it = shown[0].order
        came = (it.action, it.totalQuantity, it.orderType, it.lmtPrice, it.tif, it.orderRef, it.account)
        expect("terms", ("BUY", 10.0, "LMT", price, "GTC", "resting", desk.account), came)
    finally:
        other.close()
    await desk.cancel(trade)


@checks("order-limit-fills")
async def order_limit_fills(desk: Desk) -> None:
    price = round((await desk.quote(stock("AAPL")))[1] * 1.02, 2)
    trade = await desk.fill(stock("AAPL"), LimitOrder("BUY", 10, price))
    require(trade.orderStatus.avgFillPrice <= price, f"not worse than {price}", trade.orderStatus.avgFillPrice)


@checks("order-modify")
async def order_modify(desk: Desk) -> None:
    bid, ask = await desk.quote(stock("TSLA"))
    trade = await desk.rest(stock("TSLA"), buy_far(bid, 10))
    perm_id, heard = trade.order.permId, []
    trade.order.lmtPrice, trade.order.totalQuantity = round(bid * 0.8, 2) - 1, 20
    desk.ib.openOrderEvent += heard.append
    desk.place(stock("TSLA"), trade.order)
    await desk.until("the gateway's openOrder", lambda: heard)
    desk.ib.openOrderEvent -= heard.append
    await desk.until("20 remaining", lambda: trade.orderStatus.remaining == 20)
    trade.order.lmtPrice = round(ask * 1.05, 2)
    await desk.status(desk.place(stock("TSLA"), trade.order), "Filled")
    await desk.until("20 shares", lambda: trade.filled() == 20)
    expect("permId", perm_id, trade.order.permId)


@checks("order-modify-wrongly")
async def order_modify_wrongly(desk: Desk) -> None:
    price = (await desk.quote(stock("TSLA")))[0]
    trade = await desk.rest(stock("TSLA"), buy_far(price, 10))
    since, wrong = len(desk.errors), LimitOrder("SELL", 10, trade.order.lmtPrice)
    desk.ib.client.placeOrder(trade.order.orderId, stock("TSLA"), wrong)
    expect("id of error 105", trade.order.orderId, (await desk.error(since, 105))[0])
    await desk.cancel(trade)


@checks("order-cancel")
async def order_cancel(desk: Desk) -> None:
    trade, since = await desk.rest(stock("AAPL"), buy_far((await desk.quote(stock("AAPL")))[0], 10)), len(desk.errors)
    await desk.cancel(trade)
    expect("id of error 202", trade.order.orderId, (await desk.error(since, 202))[0])
    open_orders = await desk.ask(desk.ib.reqOpenOrdersAsync())
    require(trade.order.permId not in [it.order.permId for it in open_orders], "the order gone", open_orders)


@checks("order-stop")
async def order_stop(desk: Desk) -> None:
    bid, ask = await desk.quote(stock("AMZN"))
    resting = await desk.status(desk.place(stock("AMZN"), StopOrder("BUY", 10, round(ask * 1.2, 2))), "PreSubmitted")
    await desk.fill(stock("AMZN"), MarketOrder("BUY", 10))
    await desk.fill(stock("AMZN"), StopOrder("SELL", 10, round(bid * 1.1, 2)))
    expect("the far stop", "PreSubmitted", resting.orderStatus.status)
    await desk.cancel(resting)


async def bracket_of(desk: Desk, symbol: str, *prices: float) -> list[Trade]:
    orders = desk.ib.bracketOrder("BUY", 10, *(round(price, 2) for price in prices))
    return [desk.place(stock(symbol), order) for order in orders]


@checks("bracket")
async def bracket(desk: Desk) -> None:
    bid, ask = await desk.quote(stock("NVDA"))
    parent, profit, loss = await bracket_of(desk, "NVDA", ask * 1.02, bid * 0.97, bid * 0.7)
    await desk.status(parent, "Filled")
    await desk.status(profit, "Filled")
    await desk.status(loss, "Cancelled")
    expect("parent of the profit taker", parent.order.orderId, profit.orderStatus.parentId)
    expect("filled of the stop", 0.0, loss.orderStatus.filled)


@checks("bracket-waits")
async def bracket_waits(desk: Desk) -> None:
    bid, _ = await desk.quote(stock("NVDA"))
    trades = await bracket_of(desk, "NVDA", bid * 0.8, bid * 0.9, bid * 0.5)
    await desk.status(trades[0], "Submitted")
    await desk.fill(stock("NVDA"), MarketOrder("BUY", 1))
    expect("children", ["PreSubmitted"] * 2, [it.orderStatus.status for it in trades[1:]])
    await desk.cancel(trades[0])
    for child in trades[1:]:
        await desk.status(child, "Cancelled")
    expect("filled", [0.0] * 3, [it.filled() for it in trades])


@checks("oca")
async def oca(desk: Desk) -> None:
    bid, ask = await desk.quote(stock("META"))
    orders = [buy_far(bid, 5), LimitOrder("BUY", 5, round(ask * 1.05, 2))]
    far, near = desk.ib.oneCancelsAll(orders, f"either of {desk.ib.client.getReqId()}", 1)
    resting = await desk.rest(stock("META"), far)
    await desk.fill(stock("META"), near)
    await desk.status(resting, "Cancelled")
    expect("filled of the other", 0.0, resting.filled())


@checks("combo")
async def combo(desk: Desk) -> None:
    bag, before = await spread(desk), await desk.positions()
    wanted = {bag.comboLegs[0].conId: 2.0, bag.comboLegs[1].conId: -2.0}
    trade = await desk.fill(bag, MarketOrder("BUY", 2))

    def legs() -> dict[int, float]:
        shares: dict[int, float] = {}
        for fill in trade.fills:
            if fill.contract.secType != "BAG":
                signed = fill.execution.shares * (1 if fill.execution.side == "BOT" else -1)
                shares[fill.contract.conId] = shares.get(fill.contract.conId, 0.0) + signed
        return shares

    await desk.until("executions of both legs", lambda: legs() == wanted)
    of_legs = [fill for fill in trade.fills if fill.contract.secType != "BAG"]
    await desk.until("commissions of the legs", lambda: all(it.commissionReport.commission > 0 for it in of_legs))
    expect("shares of the combo", 2.0, trade.filled())
    after = await desk.positions()
    expect("change of the positions", wanted, {it: after[it] - before.get(it, 0) for it in wanted})


@checks("combo-limit")
async def combo_limit(desk: Desk) -> None:
    bag = await spread(desk)
    trade = await desk.rest(bag, LimitOrder("BUY", 1, 0.01))
    shown = [it for it in await desk.ask(desk.ib.reqOpenOrdersAsync()) if it.order.permId == trade.order.permId]
    expect("open orders of it", 1, len(shown))
    await desk.cancel(trade)


@checks("what-if")
async def what_if(desk: Desk) -> None:
    since = len(desk.ib.openTrades())
    state = await desk.ask(desk.ib.whatIfOrderAsync(stock("AAPL"), MarketOrder("BUY", 100)))
    margins = [float(it) for it in (state.initMarginChange, state.maintMarginChange, state.initMarginAfter)]
    require(all(0 < margin < UNSET for margin in margins), "margins", state)
    require(0 < state.commission < UNSET, "a commission", state)
    require(0 < state.minCommission <= state.maxCommission < UNSET, "the least and the most commission", state)
    expect("further open orders", 0, len(await desk.ask(desk.ib.reqOpenOrdersAsync())) - since)


@checks("what-if-refused")
async def what_if_refused(desk: Desk) -> None:
    await desk.refusal(lambda: desk.ib.whatIfOrderAsync(stock("NOSUCHTHING"), MarketOrder("BUY", 1)), 200)
    # What the suites of ib_insync and ib_async ask for: no exchange in the contract is 321.
    await desk.refusal(lambda: desk.ib.whatIfOrderAsync(Stock("XXX"), MarketOrder("BUY", 100)), 321)


@checks("order-refused")
async def order_refused(desk: Desk) -> None:
    wrong: tuple[tuple[Contract, Order, tuple[int, ...]], ...] = (
        (stock("NOSUCHTHING"), MarketOrder("BUY", 1), (200,)),
        (Stock("AAPL", "", "USD"), MarketOrder("BUY", 1), (321,)),
        (stock("AAPL"), LimitOrder("BUY", 1, 100.001), (110,)),
        (stock("AAPL"), MarketOrder("BUY", 0), (321, 201, 434, 104)),
        (stock("AAPL"), Order(action="BUY", totalQuantity=1, orderType="NO SUCH TYPE"), (387, 321, 201)),
        (Option("AAPL", "20010119", 1, "C", "SMART"), MarketOrder("BUY", 1), (200,)),
    )
    for contract, order, codes in wrong:
        since, trade = len(desk.errors), desk.place(contract, order)
        expect(f"id of error {codes}", trade.order.orderId, (await desk.error(since, *codes))[0])


@checks("order-duplicate-id")
async def order_duplicate_id(desk: Desk) -> None:
    trade = await desk.fill(stock("AAPL"), MarketOrder("BUY", 1))
    since = len(desk.errors)
    desk.ib.client.placeOrder(trade.order.orderId, stock("AAPL"), MarketOrder("BUY", 1))
    expect("id of error 103", trade.order.orderId, (await desk.error(since, 103))[0])


@checks("cancel-unknown")
async def cancel_unknown(desk: Desk) -> None:
    since = len(desk.errors)
    desk.ib.client.cancelOrder(7_654_321, "")
    expect("id of error 10147", 7_654_321, (await desk.error(since, 10147))[0])


@checks("cancel-too-late")
async def cancel_too_late(desk: Desk) -> None:
    trade = await desk.fill(stock("AAPL"), MarketOrder("BUY", 1))
    since = len(desk.errors)
    desk.ib.client.cancelOrder(trade.order.orderId, "")
    expect("id of error 10148", trade.order.orderId, (await desk.error(since, 10148))[0])


@checks("cancel-all")
async def cancel_all(desk: Desk) -> None:
    price, other = (await desk.quote(stock("KO")))[0], await desk.another(72)
    try:
        mine, theirs = await desk.rest(stock("KO"), buy_far(price)), await other.rest(stock("KO"), buy_far(price, 2))
        desk.ib.reqGlobalCancel()
        await desk.status(mine, "Cancelled")
        await other.status(theirs, "Cancelled")
    finally:
        other.close()
    expect("open orders of all", [], await desk.ask(desk.ib.reqAllOpenOrdersAsync()))


@checks("open-orders")
async def open_orders(desk: Desk) -> None:
    price, other = (await desk.quote(stock("KO")))[0], await desk.another(73)
    try:
        mine, theirs = await desk.rest(stock("KO"), buy_far(price)), await other.rest(stock("KO"), buy_far(price, 2))
        ids = [mine.order.permId, theirs.order.permId]
        own = [it.order.permId for it in await desk.ask(desk.ib.reqOpenOrdersAsync())]
        everybodys = {it.order.permId: it for it in await desk.ask(desk.ib.reqAllOpenOrdersAsync())}
        expect("mine and theirs among the own orders", [True, False], [it in own for it in ids])
        expect("mine and theirs among all orders", [True, True], [it in everybodys for it in ids])
        expect("client of the other order", 73, everybodys[ids[1]].order.clientId)
        await desk.cancel(mine)
        await other.cancel(theirs)
    finally:
        other.close()


@checks("executions")
async def executions(desk: Desk) -> None:
    trades = [await desk.fill(stock("IBM"), MarketOrder(*side)) for side in (("BUY", 3), ("SELL", 2))]
    charged: list[str] = []
    desk.ib.commissionReportEvent += lambda _, __, report: charged.append(report.execId)
    fills = await desk.ask(desk.ib.reqExecutionsAsync())
    for trade, shares in zip(trades, (3, 2), strict=True):
        mine = [fill for fill in fills if fill.execution.permId == trade.order.permId]
        expect("shares", shares, sum(fill.execution.shares for fill in mine))
        await desk.until("commissions", lambda mine=mine: {it.execution.execId for it in mine} <= set(charged))


@checks("executions-filter")
async def executions_filter(desk: Desk) -> None:
    for symbol, action in (("IBM", "BUY"), ("QQQ", "BUY"), ("IBM", "SELL")):
        await desk.fill(stock(symbol), MarketOrder(action, 1))

    async def found(**wanted):
        return await desk.ask(desk.ib.reqExecutionsAsync(ExecutionFilter(**wanted)))

    expect("symbols", {"IBM"}, {it.contract.symbol for it in await found(symbol="IBM")})
    expect("sides of IBM", {"SLD"}, {it.execution.side for it in await found(symbol="IBM", side="SELL")})
    expect("types", {"STK"}, {it.contract.secType for it in await found(secType="STK")})
    expect("executions of the future", [], await found(time="20990101-00:00:00"))
    expect("clients", {desk.client_id}, {it.execution.clientId for it in await found(clientId=desk.client_id)})


@checks("completed-orders")
async def completed_orders(desk: Desk) -> None:
    filled = await desk.fill(stock("QQQ"), MarketOrder("BUY", 2, orderRef="done"))
    dropped = await desk.rest(stock("QQQ"), LimitOrder("BUY", 2, 100, orderRef="dropped"))
    await desk.cancel(dropped)
    found = await desk.ask(desk.ib.reqCompletedOrdersAsync(False))
    states = {it.order.permId: (it.orderStatus.status, it.order.orderRef) for it in found}
    expect("the filled one", ("Filled", "done"), states.get(filled.order.permId))
    expect("the cancelled one", ("Cancelled", "dropped"), states.get(dropped.order.permId))


@checks("positions")
async def positions(desk: Desk) -> None:
    con_id, before = (await desk.one(stock("GOOGL"))).conId, await desk.positions()
    heard: list = []
    desk.ib.positionEvent += heard.append
    trade = await desk.fill(stock("GOOGL"), MarketOrder("BUY", 30))
    wanted = before.get(con_id, 0) + 30
    mine = lambda: [it for it in heard if it.contract.conId == con_id and it.position == wanted]  # noqa: E731
    pushed = (await desk.until(f"a position of {wanted}", mine))[0]
    desk.ib.positionEvent -= heard.append
    require(abs(pushed.avgCost / trade.orderStatus.avgFillPrice - 1) < 0.05, "an average cost near the price", pushed)


@checks("positions-multi")
async def positions_multi(desk: Desk) -> None:
    await desk.fill(stock("GOOGL"), MarketOrder("BUY", 1))
    single, multi, ended = await desk.positions(), {}, []
    wrapper, req_id = desk.ib.wrapper, desk.ib.client.getReqId()
    wrapper.positionMulti = lambda _, __, ___, contract, quantity, *____: multi.update({contract.conId: quantity})
    wrapper.positionMultiEnd = ended.append
    desk.ib.client.reqPositionsMulti(req_id, desk.account, "")
    await desk.until("positionMultiEnd", lambda: ended)
    desk.ib.client.cancelPositionsMulti(req_id)
    del wrapper.positionMulti, wrapper.positionMultiEnd
    expect("the positions of reqPositions", single, multi)


@checks("account-summary")
async def account_summary(desk: Desk) -> None:
    rows = {it.tag: it for it in await desk.ask(desk.ib.accountSummaryAsync()) if it.currency != "BASE"}
    wanted = {"NetLiquidation", "TotalCashValue", "BuyingPower", "AvailableFunds", "MaintMarginReq"}
    require(wanted <= set(rows), f"{wanted} among the tags", sorted(rows))
    require(float(rows["NetLiquidation"].value) > 0, "a net liquidation above 0", rows["NetLiquidation"])


@checks("account-summary-ledger")
async def account_summary_ledger(desk: Desk) -> None:
    rows = await desk.ask(desk.ib.accountSummaryAsync())
    ledger = {it.currency for it in rows if it.tag == "CashBalance"}
    require({"BASE", "USD"} <= ledger, "cash in BASE and USD", ledger)


@checks("account-updates")
async def account_updates(desk: Desk) -> None:
    trade = await desk.fill(stock("GOOGL"), MarketOrder("BUY", 1))
    con_id = trade.fills[0].contract.conId
    await desk.ask(desk.ib.reqAccountUpdatesAsync(desk.account))
    held = lambda: [it for it in desk.ib.portfolio() if it.contract.conId == con_id]  # noqa: E731
    it = (await desk.until("GOOGL in the portfolio", held))[0]
    require(abs(it.position * it.marketPrice - it.marketValue) < 1, "value = quantity x price", it)
    values = {value.tag for value in desk.ib.accountValues(desk.account)}
    require({"NetLiquidation", "TotalCashBalance", "AccountCode"} <= values, "account values", sorted(values)[:9])


@checks("account-updates-multi")
async def account_updates_multi(desk: Desk) -> None:
    heard: set[str] = set()
    wrapper = desk.ib.wrapper
    wrapper.accountUpdateMulti = lambda _, __, ___, tag, *____: heard.add(tag)
    await desk.ask(desk.ib.reqAccountUpdatesMultiAsync(desk.account))
    del wrapper.accountUpdateMulti
    require({"NetLiquidation", "TotalCashBalance"} <= heard, "account values", sorted(heard)[:9])


@checks("pnl")
async def pnl(desk: Desk) -> None:
    await desk.fill(stock("GOOGL"), MarketOrder("BUY", 10))
    it, heard = desk.ib.reqPnL(desk.account), []
    desk.ib.pnlEvent += lambda pnl: heard.append(pnl.unrealizedPnL)
    await desk.until("pnl, and another as prices move", lambda: len(heard) >= 2)
    desk.ib.cancelPnL(desk.account)
    require(abs(it.dailyPnL) < 1e7 and abs(it.unrealizedPnL) < 1e7, "numbers", it)


@checks("pnl-single")
async def pnl_single(desk: Desk) -> None:
    con_id = (await desk.fill(stock("GOOGL"), MarketOrder("BUY", 10))).fills[0].contract.conId
    held = (await desk.positions())[con_id]
    it = desk.ib.reqPnLSingle(desk.account, "", con_id)
    await desk.until("pnlSingle", lambda: it.position == held and it.value > 0)
    desk.ib.cancelPnLSingle(desk.account, "", con_id)


@checks("nobodys-account")
async def nobodys_account(desk: Desk) -> None:
    client = desk.ib.client
    for ask in (
        lambda req_id: client.reqAccountSummary(req_id, "NOBODY", "NetLiquidation"),
        lambda req_id: client.reqPositionsMulti(req_id, "U999", ""),
        lambda req_id: client.reqAccountUpdatesMulti(req_id, "U999", "", False),
        lambda req_id: client.reqPnL(req_id, "U999", ""),
        lambda req_id: client.reqPnLSingle(req_id, desk.account, "", 999),
    ):
        since, req_id = len(desk.errors), client.getReqId()
        ask(req_id)
        expect("id of the refusal", req_id, (await desk.error(since, 321, 200))[0])


def _requests(desk: Desk):
    """Requests of the library: a name, and what makes the request."""
    ib, apple, unknown = desk.ib, stock("AAPL"), stock("NOSUCHTHING")
    nonsense = ScannerSubscription(5, "STK", "STK.NOWHERE", "NO_SUCH_SCAN")
    yield "reqNewsArticle", lambda: ib.reqNewsArticleAsync("BRFG", "BRFG$00000000", [])
    yield "reqHistogramData", lambda: ib.reqHistogramDataAsync(apple, True, "1 day")
    yield "reqHeadTimeStamp", lambda: ib.reqHeadTimeStampAsync(unknown, "TRADES", True, 1)
    yield "reqHistoricalTicks", lambda: ib.reqHistoricalTicksAsync(unknown, "", "20261120 16:00:00", 5, "TRADES", True)
    yield "reqFundamentalData", lambda: ib.reqFundamentalDataAsync(apple, "ReportSnapshot")
    yield "calculateImpliedVolatility", lambda: ib.calculateImpliedVolatilityAsync(apple, 1, 100)
    yield "calculateOptionPrice", lambda: ib.calculateOptionPriceAsync(apple, 0.2, 100)
    yield "reqMatchingSymbols", lambda: ib.reqMatchingSymbolsAsync("")
    yield (
        "reqHistoricalData",
        lambda: ib.reqHistoricalDataAsync(apple, "", "1 D", "1 hour", "FEE_RATE", True, timeout=0),
    )
    yield "getWshMetaData", ib.getWshMetaDataAsync
    yield "getWshEventData", lambda: ib.getWshEventDataAsync(WshEventData())
    yield "reqUserInfo", ib.reqUserInfoAsync
    yield "reqScannerData", lambda: ib.reqScannerDataAsync(nonsense, [], [TagValue("x", "y")])


@checks("never-silence")
async def never_silence(desk: Desk) -> None:
    """Any request gets an answer or an error within a few seconds; the library hides 321, so errors are heard too."""
    since, waiting, ids = len(desk.errors), {}, {}
    for name, make in _requests(desk):
        ids[name] = desk.ib.client._reqIdSeq  # the id that the request is about to take
        waiting[name] = asyncio.ensure_future(make())  # noqa: TID251  ended in this function
        await asyncio.sleep(0)

    def silent() -> list[str]:
        refused = {it[0] for it in desk.errors[since:]}
        return [name for name, task in waiting.items() if not task.done() and ids[name] not in refused]

    try:
        await desk.until("an answer or an error to every request", lambda: not silent())
    except Failed:
        raise Failed("an answer or an error to every request", f"silence after {silent()}") from None
    finally:
        for task in waiting.values():
            task.cancel()
        await asyncio.gather(*waiting.values(), return_exceptions=True)


@checks("never-silence-without-id")
async def never_silence_without_id(desk: Desk) -> None:
    silent, ib = [], desk.ib
    for name, ask in {
        "reqScannerParameters": ib.reqScannerParametersAsync,
        "reqNewsProviders": ib.reqNewsProvidersAsync,
        "reqMktDepthExchanges": ib.reqMktDepthExchangesAsync,
        "reqMarketRule": lambda: ib.reqMarketRuleAsync(999_999),
        "requestFA": lambda: ib.requestFAAsync(1),
    }.items():
        since, task = len(desk.errors), asyncio.ensure_future(ask())  # noqa: TID251  ended in this function
        try:
            await desk.until(name, lambda since=since, task=task: task.done() or desk.errors[since:])
        except Failed:
            silent.append(name)
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
    expect("requests without an answer", [], silent)


@checks("connection-lasted")
async def connection_lasted(desk: Desk) -> None:
    """The last check of the script: nothing that came has made the library hang up or complain."""
    await desk.ask(desk.ib.reqCurrentTimeAsync())
    require(desk.ib.isConnected(), "a library that is still connected", "it has hung up")
    if desk.complaints:
        raise Failed("no message that the library cannot digest", desk.complaints[:3])
