"""A small trading application in five steps: set up, connect, look at the market, trade, look at the account.

    python examples/main_trader.py

It runs on the simulated broker. With `use_ib_insync=True` the same program talks to TWS or IB Gateway.
"""

import asyncio

from ibkr_service.api import BrokerApi, get_broker_api
from ibkr_service.core.errors import RequestError, ServiceError


async def main() -> None:
    # 1. Set-up: the factory chooses the implementation; settings come from settings.toml and the environment.
    broker = get_broker_api(use_ib_insync=False)

    # 2. Connection: False, and a line in the log, if no gateway answers.
    if not await broker.connect():
        raise SystemExit("no connection")
    try:
        await trade(broker)
    finally:
        await broker.disconnect()


async def trade(broker: BrokerApi) -> None:
    # 3. Market data: a quote, and the option chain around the money.
    quote = await broker.get_market_data("AAPL")
    print(f"AAPL  bid {quote.bid}  ask {quote.ask}  last {quote.last}  ({quote.data_type}, {quote.at:%H:%M:%S} UTC)")
    chain = await broker.get_option_chain("AAPL", expiries=1, strikes=4)
    for row in chain.calls:
        print(f"{row.option}  {row.bid} x {row.ask}  iv {row.implied_volatility:.1%}  delta {row.delta:+.2f}")
    try:
        await broker.get_market_data("NOSUCHSYMBOL")
    except RequestError as exc:
        print(f"refused: {exc}")

    # 4. Orders: the key makes it one order, however often this runs; a cancellation is waited for.
    ref = await broker.place_order("AAPL", "BUY", 100, key="first hundred")
    order = await broker.wait_for_order(ref, timeout_s=10)
    print(f"{order.state.name}: {order.filled} AAPL at {order.average_price}")
    ref = await broker.place_order("AAPL", "BUY", 100, order_type="LIMIT", limit_price="100.00")
    print(f"{(await broker.cancel_order(ref)).state.name}: the order at 100.00")

    # 5. Account and positions.
    summary = await broker.get_account_summary()
    print(f"net liquidation {summary.net_liquidation} {summary.base_currency}, cash {summary.total_cash}")
    for instrument, held in (await broker.get_positions()).items():
        print(f"{instrument}: {held.quantity} at {held.average_cost:.2f}, now {held.market_price}")


if __name__ == "__main__":
    try:
        asyncio.run(main())
    except ServiceError as exc:
        raise SystemExit(f"{type(exc).__name__}: {exc}") from None
