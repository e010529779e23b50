# my_strategy.py
from decimal import Decimal

from ibkr_service import Desk, Forex, Intent
from ibkr_service.core.events import Fill, Gap, Recovered, Tick

EURUSD = Forex("EUR", "USD")


async def buy_once(desk: Desk) -> None:
    desk.watch(EURUSD)
    async for event in desk.events():
        match event:
            case Recovered():  # always first: what there already is
                print("holding", desk.position(EURUSD))
            case Gap():  # what was known before is not to be trusted
                print("gap:", event.reason)
            case Tick(bid=float()):
                # The same key is the same order: said at every tick, sent once, also after a restart.
                desk.submit(Intent(instrument=EURUSD, action="BUY", quantity=Decimal(20_000)), key="first")
            case Fill():
                print("bought at", event.price)
