# quotes.py
from ibkr_service import Desk, Forex, Stock
from ibkr_service.core.errors import ServiceError
from ibkr_service.core.events import Gap, RawTick, Resumed, SubscriptionFailed, SubscriptionWaiting, Tick

EURUSD, AAPL = Forex("EUR", "USD"), Stock("AAPL")


async def look(desk: Desk) -> None:
    try:
        quote = await desk.first_quote(AAPL, settle_s=1.0)  # once, without watching
        print("AAPL", quote.bid, quote.ask, quote.last, quote.volume, quote.data_type)
    except ServiceError as error:
        print("no quote of AAPL:", error)

    async with desk.every_tick(EURUSD) as ticks:  # each change by itself
        for _ in range(3):
            match await ticks.get():
                case RawTick(field=field, price=price):
                    print("EUR.USD", field, price)
                case Gap(reason=reason, lost=lost):
                    print("missed:", reason, lost)

    desk.watch(AAPL)  # the newest quote, over all reconnects
    async for event in desk.events():
        match event:
            case Tick():
                why_not = desk.why_unusable(event.instrument)
                print(event.bid, event.ask, "usable" if why_not is None else why_not)
            case Gap() | Resumed() | SubscriptionFailed() | SubscriptionWaiting():
                print(type(event).__name__, event.instrument)
