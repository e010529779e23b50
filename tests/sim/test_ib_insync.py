"""The real, unmodified ib_insync against the simulated gateway: over real TCP, on uvloop, and in virtual time.

Goal: what the library decodes is what happened, and it never logs an error of its own. Method: one scenario per test,
run on all three networks (conftest.py); a fixture fails the test on any ERROR of the library's decoder and wrapper that
the test has not announced.
"""

import asyncio
import logging
import math
from datetime import UTC, datetime
from decimal import Decimal

import pytest

from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.testing import simulated_gateway

pytestmark = pytest.mark.tcp
TIMEOUT_S = 30


@pytest.fixture
def expected_errors():
    """Codes of the errors that a test provokes."""
    return set()


@pytest.fixture(autouse=True)
def no_library_errors(caplog, expected_errors):
    """Fail on every error that the library logs while decoding, or that the gateway sends unasked."""
    caplog.set_level(logging.INFO, logger="ib_insync")
    yield
    errors = [
        record.getMessage()
        for record in caplog.get_records("call")
        if record.levelno >= logging.ERROR
        and record.name in {"ib_insync.Decoder", "ib_insync.wrapper", "eventkit.event"}
    ]
    assert [error for error in errors if not any(error.startswith(f"Error {code},") for code in expected_errors)] == []


@pytest.fixture
async def server():
    """A gateway, twenty times faster than life."""
    async with simulated_gateway(GatewayConfig(seed=11, speed=20)) as server:
        yield server


async def connect(server, client_id=1, **known):
    """A connected client."""
    asyncio.set_event_loop(asyncio.get_running_loop())  # ib_insync asks the policy, not the running loop
    from ib_insync import IB

    ib = IB()
    ib.RaiseRequestErrors = True
    ib.client.MaxRequests = 0  # the library's throttle does not work in virtual time, and counts against the gateway's
    await ib.connectAsync("127.0.0.1", server.port, clientId=client_id, timeout=TIMEOUT_S, **known)
    return ib


@pytest.fixture
async def ib(server):
    """A client of it."""
    ib = await connect(server)
    yield ib
    ib.disconnect()
    await asyncio.sleep(0)


async def until(ib, condition):
    """Wait until something holds; the library tells after every packet."""
    async with asyncio.timeout(TIMEOUT_S):
        while not condition():
            await ib.updateEvent


async def listed(ib, *contracts):
    """Contracts with their ids."""
    await ib.qualifyContractsAsync(*contracts)
    return contracts


async def test_connecting_synchronises_everything(server, ib):
    """Version, accounts and every first download; nothing timed out."""
    assert ib.client.serverVersion() == 176
    assert ib.managedAccounts() == ["DU1234567"]
    values = {(value.tag, value.currency): value.value for value in ib.accountValues()}
    assert values["NetLiquidation", "USD"] == "1000000.00"
    assert {"BuyingPower", "AvailableFunds", "ExcessLiquidity", "Cushion", "AccountType"} <= {tag for tag, _ in values}
    assert ib.positions() == ib.trades() == ib.fills() == []
    assert {"positions", "openOrders", "completedOrders"}.isdisjoint(ib.wrapper._futures)
    assert abs((await ib.reqCurrentTimeAsync() - datetime(2026, 11, 23, 14, 30, tzinfo=UTC)).total_seconds()) < 600


async def test_contract_details_of_stocks_pairs_and_options(server, ib, expected_errors):
    """Qualified, partially described, unknown."""
    from ib_insync import Forex, Option, Stock
    from ib_insync.wrapper import RequestError

    stock, pair = await listed(ib, Stock("AAPL", "SMART", "USD"), Forex("EURUSD"))
    assert (stock.conId, stock.primaryExchange, pair.conId, pair.localSymbol) == (265598, "NASDAQ", 12087792, "EUR.USD")
    (details,) = await ib.reqContractDetailsAsync(stock)
    assert (details.minTick, details.timeZoneId, details.longName) == (0.01, "US/Eastern", "APPLE INC")
    assert details.minSize == 1
    assert len(details.tradingSessions()) == 5
    (rule,) = await ib.reqMarketRuleAsync(int((await ib.reqContractDetailsAsync(pair))[0].marketRuleIds))
    assert rule.increment == 0.00005
    chains = await ib.reqSecDefOptParamsAsync("AAPL", "", "STK", stock.conId)
    assert [chain.exchange for chain in chains] == ["SMART", "AMEX", "CBOE", "ISE", "PHLX"]
    expiry = chains[0].expirations[0]
    every = await ib.reqContractDetailsAsync(Option("AAPL", expiry, exchange="SMART"))
    assert len(every) == 2 * len(chains[0].strikes)
    assert {each.contract.strike for each in every} == set(chains[0].strikes)
    assert [each.contract.symbol for each in await ib.reqMatchingSymbolsAsync("MSFT")] == ["MSFT"]
    expected_errors.add(200)
    with pytest.raises(RequestError) as caught:
        await ib.reqContractDetailsAsync(Stock("NOPE", "SMART", "USD"))
    assert caught.value.code == 200


async def test_ticks_of_a_stock_a_pair_and_an_option(server, ib):
    """Bid below ask, greeks, and no more after the cancel."""
    from ib_insync import Forex, Option, Stock

    contracts = await listed(
        ib, Stock("AAPL", "SMART", "USD"), Forex("EURUSD"), Option("AAPL", "20261218", 230, "C", "SMART")
    )
    tickers = [ib.reqMktData(contract) for contract in contracts]
    counts = [0, 0, 0]
    for n, ticker in enumerate(tickers):
        ticker.updateEvent += lambda _ticker, n=n: counts.__setitem__(n, counts[n] + 1)
    await until(ib, lambda: min(counts) >= 5)
    for ticker in tickers:
        assert 0 < ticker.bid < ticker.ask
        assert ticker.bidSize > 0
        assert ticker.marketDataType == 1
    assert tickers[0].last > 0 < tickers[0].volume
    assert all(math.isfinite(value) for value in (tickers[2].modelGreeks.delta, tickers[2].bidGreeks.impliedVol))
    for contract in contracts:
        ib.cancelMktData(contract)
    (snapshot,) = await ib.reqTickersAsync(contracts[0])
    assert snapshot.bid > 0


async def test_a_market_order_is_filled_and_paid_for(server, ib):
    """Fill, commission, position, portfolio and account values agree with the broker's books."""
    from ib_insync import MarketOrder, Stock

    (stock,) = await listed(ib, Stock("AAPL", "SMART", "USD"))
    trade = ib.placeOrder(stock, MarketOrder("BUY", 10, orderRef="strategy-1"))
    await until(ib, lambda: trade.isDone() and ib.portfolio() and ib.positions())
    await until(ib, lambda: all(fill.commissionReport.execId for fill in trade.fills))
    assert trade.orderStatus.status == "Filled"
    assert [entry.status for entry in trade.log if not entry.message] == [
        "PendingSubmit",
        "PreSubmitted",
        "Submitted",
        "Filled",
    ]
    (fill,), (execution,) = trade.fills, server.gateway.executions
    assert (fill.execution.execId, fill.execution.orderRef) == (execution.exec_id, "strategy-1")
    assert Decimal(str(fill.execution.price)) == execution.price
    assert abs((fill.execution.time - server.gateway.clock.now()).total_seconds()) < 300
    assert (fill.commissionReport.commission, fill.commissionReport.currency) == (1.0, "USD")
    (position,), (held,) = ib.positions(), server.gateway.positions()
    assert position.position == 10
    assert Decimal(str(position.avgCost)) == held.average_cost
    (item,) = ib.portfolio()
    assert item.position == 10
    await until(ib, lambda: cash_of(ib) == server.gateway.accounts["DU1234567"].cash["USD"])
    closing = ib.placeOrder(stock, MarketOrder("SELL", 10))
    await until(ib, lambda: closing.isDone() and not ib.positions() and not ib.portfolio())
    await until(ib, lambda: closing.fills[0].commissionReport.realizedPNL != 0)


async def test_from_an_option_that_is_held_to_its_underlying(server, ib, expected_errors):
    """A portfolio names the first exchange that lists the option, and the stock is found by that name."""
    from ib_insync import Bag, ComboLeg, MarketOrder, Option, Stock
    from ib_insync.wrapper import RequestError

    put, *_ = await listed(ib, Option("AAPL", "20261218", 220, "P", "SMART"))
    ib.placeOrder(put, MarketOrder("SELL", 1))
    await until(ib, ib.portfolio)
    (held,) = (item.contract for item in ib.portfolio())
    assert (held.symbol, held.primaryExchange) == ("AAPL", "AMEX")
    (stock,) = await listed(ib, Stock(held.symbol, "SMART", "USD", primaryExchange=held.primaryExchange))
    assert (stock.conId, stock.primaryExchange) == (265598, "NASDAQ")
    expected_errors.add(321)
    legs = [ComboLeg(stock.conId, 100, "BUY", "SMART"), ComboLeg(put.conId, 1, "BUY", "SMART")]
    with pytest.raises(RequestError, match="'BAG' isn't supported"):
        await ib.reqContractDetailsAsync(Bag(symbol="AAPL", exchange="SMART", currency="USD", comboLegs=legs))


async def test_what_options_are_priced_in(server, ib):
    """Those on SPY, QQQ and IWM in cents at any price, the others in five cents from 3.00 on."""
    from ib_insync import Option

    steps = {}
    for symbol, strike in (("SPY", 590), ("QQQ", 510), ("IWM", 235), ("AAPL", 230)):
        (details,) = await ib.reqContractDetailsAsync(Option(symbol, "20261218", strike, "C", "SMART"))
        rule = await ib.reqMarketRuleAsync(int(details.marketRuleIds.split(",")[0]))
        steps[symbol] = [(step.lowEdge, step.increment) for step in rule]
    cents = [(0, 0.01)]
    assert steps == {"SPY": cents, "QQQ": cents, "IWM": cents, "AAPL": [*cents, (3, 0.05)]}


def cash_of(ib):
    """The account's dollars, as the client was told."""
    return next(Decimal(v.value) for v in ib.accountValues() if (v.tag, v.currency) == ("CashBalance", "USD"))


async def test_a_limit_order_rests_is_changed_and_is_cancelled(server, ib, expected_errors):
    """Each step is confirmed by the server."""
    from ib_insync import LimitOrder, Stock

    (stock,) = await listed(ib, Stock("AAPL", "SMART", "USD"))
    trade = ib.placeOrder(stock, LimitOrder("BUY", 10, 100, tif="GTC"))
    await until(ib, lambda: trade.orderStatus.status == "Submitted")
    trade.order.lmtPrice = 101
    ib.placeOrder(stock, trade.order)
    await until(ib, lambda: trade.log[-1].message == "Modified")
    assert [order.ticket.limit for order in server.gateway.open_orders] == [101]
    (reloaded,) = await ib.reqOpenOrdersAsync()
    assert (reloaded.order.lmtPrice, reloaded.order.tif) == (101, "GTC")
    ib.cancelOrder(trade.order)
    await until(ib, lambda: trade.orderStatus.status == "Cancelled")
    assert server.gateway.open_orders == []
    (completed,) = await ib.reqCompletedOrdersAsync(False)
    assert (completed.order.permId, completed.orderStatus.status) == (trade.order.permId, "Cancelled")
    expected_errors.add(10148)
    ib.client.cancelOrder(trade.order.orderId)
    await until(ib, lambda: trade.log[-1].errorCode == 0)


async def test_a_marketable_limit_order_fills_within_its_limit(server, ib):
    """At the touched quote."""
    from ib_insync import Forex, LimitOrder

    (pair,) = await listed(ib, Forex("EURUSD"))
    trade = ib.placeOrder(pair, LimitOrder("BUY", 20_000, 1.10))
    await until(ib, trade.isDone)
    assert trade.fills[0].execution.price < 1.10
    assert trade.filled() == 20_000


async def test_a_bracket(server, ib, expected_errors):
    """The children wait for the parent; the profit taker's fill cancels the stop."""
    from ib_insync import Stock

    (stock,) = await listed(ib, Stock("AAPL", "SMART", "USD"))
    bracket = ib.bracketOrder("BUY", 10, limitPrice=240, takeProfitPrice=200, stopLossPrice=100)
    parent, profit, stop = [ib.placeOrder(stock, order) for order in bracket]
    await until(ib, lambda: parent.isDone() and profit.isDone() and stop.isDone())
    statuses = [trade.orderStatus.status for trade in (parent, profit, stop)]
    assert statuses == ["Filled", "Filled", "Cancelled"]
    assert server.gateway.positions() == []


async def test_a_combo(server, ib):
    """One execution for the spread, one for each leg; the library counts the spread's only."""
    from ib_insync import ComboLeg, Contract, MarketOrder, Option

    calls = await listed(ib, *(Option("AAPL", "20261218", strike, "C", "SMART") for strike in (230, 240)))
    legs = [
        ComboLeg(conId=call.conId, ratio=1, action=action, exchange="SMART")
        for call, action in zip(calls, ("BUY", "SELL"), strict=True)
    ]
    spread = Contract(secType="BAG", symbol="AAPL", exchange="SMART", currency="USD", comboLegs=legs)
    trade = ib.placeOrder(spread, MarketOrder("BUY", 3))
    await until(ib, lambda: trade.isDone() and len(ib.positions()) == 2)
    await until(ib, lambda: len(trade.fills) == 3)
    assert trade.filled() == 3
    whole, long, short = trade.fills
    assert [fill.contract.secType for fill in trade.fills] == ["BAG", "OPT", "OPT"]
    assert whole.execution.price == pytest.approx(long.execution.price - short.execution.price)
    assert {position.contract.strike: position.position for position in ib.positions()} == {230: 3, 240: -3}
    again = (await ib.reqAllOpenOrdersAsync()) or await ib.reqCompletedOrdersAsync(False)
    assert [(leg.conId, leg.action) for leg in again[0].contract.comboLegs] == [
        (calls[0].conId, "BUY"),
        (calls[1].conId, "SELL"),
    ]
    ticker = ib.reqMktData(spread)
    await until(ib, lambda: ticker.bid < ticker.ask)


async def test_a_what_if_order(server, ib):
    """Numeric margins and a commission, and no order."""
    from ib_insync import LimitOrder, Stock

    (stock,) = await listed(ib, Stock("AAPL", "SMART", "USD"))
    state = await ib.whatIfOrderAsync(stock, LimitOrder("BUY", 10, 200))
    assert float(state.initMarginChange) > float(state.maintMarginChange) > 0
    assert float(state.equityWithLoanAfter) < 1_000_000
    assert state.commission == state.maxCommission == 1
    assert server.gateway.open_orders == []


async def test_account_summary_and_profits(server, ib):
    """Requests about the account."""
    from ib_insync import MarketOrder, Stock

    (stock,) = await listed(ib, Stock("AAPL", "SMART", "USD"))
    trade = ib.placeOrder(stock, MarketOrder("BUY", 10))
    await until(ib, trade.isDone)
    summary = {(row.tag, row.currency): row.value for row in await ib.accountSummaryAsync()}
    assert Decimal(summary["GrossPositionValue", "USD"]) > 2000
    profit = ib.reqPnL("DU1234567")
    single = ib.reqPnLSingle("DU1234567", "", stock.conId)
    await until(ib, lambda: single.position == 10 and not math.isnan(profit.dailyPnL))


async def test_everything_is_there_after_a_restart_of_the_gateway(server, ib):
    """Orders, positions, executions and ids are the broker's, not the socket's."""
    from ib_insync import LimitOrder, MarketOrder, Stock

    (stock,) = await listed(ib, Stock("AAPL", "SMART", "USD"))
    filled = ib.placeOrder(stock, MarketOrder("BUY", 10, orderRef="a"))
    resting = ib.placeOrder(stock, LimitOrder("BUY", 10, 100, orderRef="b"))
    await until(ib, lambda: filled.isDone() and resting.orderStatus.status == "Submitted")
    port, highest = server.port, resting.order.orderId
    gone = asyncio.Event()
    ib.disconnectedEvent += gone.set
    await server.restart()
    async with asyncio.timeout(TIMEOUT_S):
        await gone.wait()
    assert server.port == port
    again = await connect(server)
    assert [position.position for position in again.positions()] == [10]
    assert {trade.order.orderRef: trade.orderStatus.status for trade in again.trades()} == {
        "a": "Filled",
        "b": "Submitted",
    }
    (fill,) = again.fills()
    assert fill.commissionReport.commission == 1
    assert again.client.getReqId() > highest
    again.disconnect()


async def test_a_taken_client_id(server, ib, expected_errors):
    """326, and the first client notices nothing."""
    expected_errors.add(326)
    from ib_insync import IB

    errors, second = [], IB()
    second.errorEvent += lambda req_id, code, *_: errors.append((req_id, code))
    with pytest.raises((TimeoutError, asyncio.TimeoutError)):
        await second.connectAsync("127.0.0.1", server.port, clientId=1, timeout=0.5)
    assert (-1, 326) in errors
    assert ib.isConnected()
    assert await ib.reqCurrentTimeAsync()


async def test_two_clients_see_their_own_orders(server, ib):
    """And both see the positions."""
    from ib_insync import MarketOrder, Stock

    other = await connect(server, client_id=2)
    (stock,) = await listed(ib, Stock("AAPL", "SMART", "USD"))
    trade = ib.placeOrder(stock, MarketOrder("BUY", 10))
    await until(ib, trade.isDone)
    await until(other, other.positions)
    assert other.trades() == other.fills() == []
    assert len(await other.reqExecutionsAsync()) == 0
    other.disconnect()


async def test_a_rejected_order(server, ib, expected_errors):
    """The library shows Cancelled, then the server says Inactive."""
    from ib_insync import MarketOrder, Stock

    expected_errors.add(201)
    (stock,) = await listed(ib, Stock("AAPL", "SMART", "USD"))
    server.faults.reject_next()
    trade = ib.placeOrder(stock, MarketOrder("BUY", 10))
    await until(ib, lambda: trade.orderStatus.status == "Inactive")
    assert "Cancelled" in [entry.status for entry in trade.log]


async def test_requests_for_what_is_not_sold_fail_at_once(server, ib, expected_errors):
    """With an error, not with silence."""
    from ib_insync import Stock
    from ib_insync.wrapper import RequestError

    expected_errors.add(430)
    (stock,) = await listed(ib, Stock("AAPL", "SMART", "USD"))
    with pytest.raises(RequestError):
        await ib.reqFundamentalDataAsync(stock, "ReportSnapshot")
