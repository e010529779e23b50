# look_around.py
import asyncio

from ibkr_service.api import get_broker_api


async def main() -> None:
    async with get_broker_api(use_ib_insync=False) as broker:  # simulated; without the argument: your TWS
        quote = await broker.get_market_data("AAPL")
        print(f"AAPL {quote.bid} / {quote.ask}, last {quote.last}, {quote.data_type}")

        chain = await broker.get_option_chain("AAPL", expiries=2, strikes=6)
        for row in chain.rows:
            print(f"{row.option}: {row.bid} / {row.ask}, iv {row.implied_volatility}, delta {row.delta}")

        account = await broker.get_account_summary()
        print(f"worth {account.net_liquidation} {account.base_currency}, cash {account.total_cash}")

        for instrument, held in (await broker.get_positions()).items():
            print(f"{instrument}: {held.quantity} at {held.average_cost}")


asyncio.run(main())
