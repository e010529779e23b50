"""A virtual trading day with the raw ib_insync attached: 6.5 hours, 20 lines, 200 orders, in how many real seconds?

Everything is in one process on the simulator's loop: gateway, in-memory network and the unmodified library. Each line
has one update a second, a bid and an ask message each (currency pairs: a stock would add its trades). `python
bench/virtual_day.py`, or `… --quick` for half an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1]))

from ibkr_service.sim import GatewayConfig, Server
from ibkr_service.sim.gateway import Gateway
from ibkr_service.sim.listing import PAIRS
from ibkr_service.sim.loop import run

DAY_S, QUICK_S = 6.5 * 3600, 1800.0
LINES, ORDERS = 20, 200
PARTS = 20


async def day(seconds: float) -> dict[str, float]:
    """Live through it; count what the library has seen."""
    from ib_insync import IB, Forex, LimitOrder, MarketOrder  # noqa: PLC0415 - it wants the loop to be there

    config = GatewayConfig(quote_interval_s=1.0, requests_per_second_max=0)
    async with Server(Gateway(config), "127.0.0.1", 0) as server:
        ib = IB()
        ib.client.MaxRequests = 0
        await ib.connectAsync("127.0.0.1", server.port, clientId=1)
        contracts = await ib.qualifyContractsAsync(*(Forex(row.symbol + row.currency) for row in PAIRS[:LINES]))
        updates = 0

        def on_tickers(tickers: object) -> None:
            nonlocal updates
            updates += len(tickers)  # type: ignore[arg-type]

        ib.pendingTickersEvent += on_tickers
        for contract in contracts:
            ib.reqMktData(contract)
        began_s, cpu_s = time.perf_counter(), time.process_time()
        for number in range(ORDERS):
            order = MarketOrder("BUY" if number % 2 else "SELL", 25_000)
            if number % PARTS == 0:
                order = LimitOrder("BUY", 25_000, 0.5 if contracts[0].symbol != "USD" else 50)
            ib.placeOrder(contracts[number % 3], order)
            await asyncio.sleep(seconds / ORDERS)
        found = {
            "seconds": time.perf_counter() - began_s,
            "cpu_seconds": time.process_time() - cpu_s,
            "updates": updates,
            "bytes": ib.client.connectionStats().numBytesRecv,
            "fills": len(ib.fills()),
        }
        ib.disconnect()
        await asyncio.sleep(1)
        return found


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    length_s = QUICK_S if chosen.quick else DAY_S
    found = run(day(length_s))
    if chosen.json:
        print(json.dumps(found))
        return
    print(
        f"{length_s / 3600:g} virtual hours in {found['seconds']:.1f} s ({found['cpu_seconds']:.1f} s CPU): "
        f"{found['updates']:,.0f} updates of {LINES} lines, {found['bytes'] / 1e6:.1f} MB, "
        f"{ORDERS} orders, {found['fills']} fills"
    )


if __name__ == "__main__":
    main()
