"""The night's reset, as a client of the real library lives through it."""

import asyncio
from datetime import UTC, datetime, time
from decimal import Decimal

from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.loop import SimLoop
from ibkr_service.sim.testing import simulated_gateway

CONFIG = GatewayConfig(started_at=datetime(2026, 11, 24, 4, 40, tzinfo=UTC), nightly_reset=time(23, 45))


def in_virtual_time(doing):
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        asyncio.set_event_loop(runner.get_loop())
        return runner.run(doing())


async def connected(port):
    from ib_insync import IB

    ib = IB()
    ib.client.MaxRequests = 0
    ib.codes = []
    ib.errorEvent += lambda _id, code, *_: ib.codes.append(code)
    await ib.connectAsync("127.0.0.1", port, clientId=1, timeout=30)
    return ib


async def a_night():
    async with simulated_gateway(CONFIG) as server:
        ib = await connected(server.port)
        await asyncio.sleep(5 * 60 + 5)
        assert 1100 in ib.codes
        assert ib.isConnected()
        await asyncio.sleep(30)
        assert not ib.isConnected()
        refused = 0
        try:
            await connected(server.port)
        except OSError:
            refused += 1
        await asyncio.sleep(90)
        ib = await connected(server.port)
        assert 1100 in ib.codes
        await asyncio.sleep(10)
        assert 1101 in ib.codes
        ib.disconnect()
        await asyncio.sleep(24 * 3600 + 300)
        assert server.gateway.clock.now() > datetime(2026, 11, 25, 4, 50, tzinfo=UTC)
        assert not server.gateway.is_cut
        return refused


def test_a_gateway_with_a_reset_goes_and_comes_back_every_night():
    """1100, the line drops, connections are refused, then it is back with 1101; the second night likewise."""
    assert in_virtual_time(a_night) == 1


async def orders():
    """Types, a trailing stop, a spread and a preview through the library."""
    from ib_insync import ComboLeg, Contract, Forex, LimitOrder, Order, Stock, StopLimitOrder

    async with simulated_gateway(GatewayConfig(seed=3)) as server:
        ib = await connected(server.port)
        apple, microsoft, pair = Stock("AAPL", "SMART", "USD"), Stock("MSFT", "SMART", "USD"), Forex("EURUSD")
        await ib.qualifyContractsAsync(apple, microsoft, pair)
        preview = await ib.whatIfOrderAsync(apple, Order(action="BUY", totalQuantity=100, orderType="MKT"))
        assert Decimal(preview.initMarginChange) > 0
        assert preview.minCommission == preview.maxCommission == preview.commission == 1.0
        trades = [
            ib.placeOrder(apple, Order(action="BUY", totalQuantity=10, orderType="MIDPRICE")),
            ib.placeOrder(apple, Order(action="SELL", totalQuantity=10, orderType="TRAIL", trailingPercent=3)),
            ib.placeOrder(apple, StopLimitOrder("SELL", 10, 100, 101)),
            ib.placeOrder(pair, Order(action="BUY", totalQuantity=20_000, orderType="MKT", tif="FOK")),
            ib.placeOrder(apple, LimitOrder("BUY", 1, 100, tif="GTD", goodTillDate="20261123 15:00:00 UTC")),
        ]
        legs = [
            ComboLeg(conId=apple.conId, ratio=1, action="BUY", exchange="SMART"),
            ComboLeg(conId=microsoft.conId, ratio=1, action="SELL", exchange="SMART"),
        ]
        bag = Contract(symbol="AAPL", secType="BAG", exchange="SMART", currency="USD", comboLegs=legs)
        spread = ib.placeOrder(bag, LimitOrder("BUY", 5, -100))
        await asyncio.sleep(3)
        assert [trade.orderStatus.status for trade in trades] == [
            "Filled",
            "PreSubmitted",
            "PreSubmitted",
            "Filled",
            "Submitted",
        ]
        assert spread.orderStatus.status == "Filled"
        assert spread.orderStatus.avgFillPrice < -100
        assert [fill.contract.secType for fill in spread.fills] == ["BAG", "STK", "STK"]
        await ib.reqOpenOrdersAsync()
        assert trades[1].order.trailStopPrice > 0
        await asyncio.sleep(1800)
        assert trades[4].orderStatus.status == "Cancelled"
        ib.disconnect()
        await asyncio.sleep(1)


def test_the_real_library_trades_every_way():
    """What it decodes is what happened."""
    in_virtual_time(orders)
