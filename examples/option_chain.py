# option_chain.py
from ibkr_service import Desk
from ibkr_service.core.chain import ChainRow


def side(row: ChainRow | None) -> str:
    if row is None or row.missing:
        return f"{'?':>28}"
    return f"{row.bid or 0:8.2f} {row.ask or 0:8.2f} {row.implied_volatility or 0:5.1%} {row.delta or 0:+.2f}"


async def print_chain(desk: Desk) -> None:
    chain = await desk.option_chain("AAPL", expiries=2, strikes=6, deadline_s=20)
    for one in chain.slices:
        money = chain.at_the_money(one)
        print(f"{one.trading_class} {one.expiry} ({one.settlement}), AAPL at {chain.underlying_price}")
        for strike, call, put in chain.pairs(one):
            print(f"{side(call)}  {strike:7.1f}{'<' if strike == money else ' '} {side(put)}")
    hedge = chain.nearest_delta(-0.30)
    if hedge is not None:
        print("hedge:", hedge.option, "for", hedge.mid)
    print("missing:", ", ".join(chain.missing) or "nothing")
