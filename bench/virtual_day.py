"""A virtual trading day with the raw ib_insync attached: 6.5 hours, 20 lines, 200 orders, in how many real seconds?

Everything is in one process on the simulator's loop: gateway, in-memory network and the unmodified library. Quotes of
20 currency pairs are told once a second (a stock would add its trades). There are two such days:

    every side     a recording in which every bid and every ask changes every second: 936,000 prices to write and read
    price path     the seeded path: a side that has not changed is not told again, as at IB, so about a third of that

Prices are counted as the library has decoded them; the first day fails when one is missing. `python
bench/virtual_day.py`, or `… --quick` for half an hour.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import sys
import tempfile
import time
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parents[1]))

from ibkr_service.sim import GatewayConfig, ReplayFile, Server
from ibkr_service.sim.config import DEFAULT_STARTED_AT
from ibkr_service.sim.gateway import Gateway
from ibkr_service.sim.listing import PAIRS
from ibkr_service.sim.loop import run

DAY_S, QUICK_S = 23_400, 1_800
LINES, ORDERS = 20, 200
PARTS = 20
ROWS = PAIRS[:LINES]
BID, ASK = 1, 2
TICKS_TURNED = 211  # a recorded side goes round so many prices, in steps that are no multiple of it
TICKS_STEPPED = 4
PIP_DIGITS = 4


class Counting:
    """What has reached the user of the library."""

    def __init__(self) -> None:
        self.updates = 0
        self.prices = 0

    def __call__(self, tickers: Any) -> None:  # noqa: ANN401 - a set of the library's
        """Hear of all that one piece of data has changed."""
        self.updates += len(tickers)
        for ticker in tickers:
            for tick in ticker.ticks:
                self.prices += tick.tickType in {BID, ASK}


def record(folder: Path, seconds: int) -> tuple[ReplayFile, ...]:
    """Write a day in which every line's bid and ask change every second."""
    stamps = [f"{DEFAULT_STARTED_AT + timedelta(seconds=n):%Y-%m-%d %H:%M:%S}+00:00" for n in range(seconds + 1)]
    files = []
    for number, row in enumerate(ROWS):
        pip = Decimal(1).scaleb(row.reference.adjusted() - PIP_DIGITS)
        sides = [f"{row.reference + pip * n},{row.reference + pip * (n + 2)}" for n in range(TICKS_TURNED)]
        path = folder / f"{row.symbol}{row.currency}.csv"
        told = (f"{at},{sides[(number + TICKS_STEPPED * n) % TICKS_TURNED]}" for n, at in enumerate(stamps))
        path.write_text("\n".join(["timestamp,bid,ask", *told]) + "\n")
        files.append(ReplayFile(path, f"{row.symbol}.{row.currency}"))
    return tuple(files)


async def day(seconds: int, replay: tuple[ReplayFile, ...] = ()) -> dict[str, float]:
    """Live through it; count what the library has seen."""
    from ib_insync import IB, Forex, LimitOrder, MarketOrder  # noqa: PLC0415 - it wants the loop to be there

    config = GatewayConfig(quote_interval_s=1.0, requests_per_second_max=0, replay=replay)
    async with Server(Gateway(config), "127.0.0.1", 0) as server:
        ib = IB()
        ib.client.MaxRequests = 0
        await ib.connectAsync("127.0.0.1", server.port, clientId=1)
        contracts = await ib.qualifyContractsAsync(*(Forex(row.symbol + row.currency) for row in ROWS))
        counting = Counting()
        ib.pendingTickersEvent += counting
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
            "updates": counting.updates,
            "prices": counting.prices,
            "bytes": ib.client.connectionStats().numBytesRecv,
            "fills": len(ib.fills()),
        }
        ib.disconnect()
        await asyncio.sleep(1)
        return found


def measure(seconds: int) -> dict[str, dict[str, float]]:
    """Both days."""
    with tempfile.TemporaryDirectory() as folder:
        every_side = run(day(seconds, record(Path(folder), seconds)))
    # The last update may still be on its way; before the first there is the state of things at the subscription.
    wanted = 2 * LINES * (seconds - 1)
    if every_side["prices"] < wanted:
        raise RuntimeError(f"{every_side['prices']} prices have reached the library, not {wanted}")
    return {"every side": every_side, "price path": run(day(seconds))}


def main() -> None:
    """Measure, and print the figures."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    length_s = QUICK_S if chosen.quick else DAY_S
    scenes = measure(length_s)
    if chosen.json:
        print(json.dumps(scenes))
        return
    for scene, found in scenes.items():
        print(
            f"{scene}: {length_s / 3600:g} virtual hours in {found['seconds']:.1f} s ({found['cpu_seconds']:.1f} s "
            f"CPU): {found['prices']:,.0f} prices in {found['updates']:,.0f} updates of {LINES} lines, "
            f"{found['bytes'] / 1e6:.1f} MB, {ORDERS} orders, {found['fills']} fills"
        )


if __name__ == "__main__":
    main()
