# minute_bars.py
from ibkr_service import Desk, Forex
from ibkr_service.core.bars import Bar
from ibkr_service.core.events import Gap, Resumed

EURUSD = Forex("EUR", "USD")


def progress(done: int, pages: int, bars: int) -> None:
    print(f"page {done} of {pages}, {bars} bars so far")


async def minute_bars(desk: Desk) -> None:
    async with desk.bars(EURUSD, "1 min") as stream:  # first the stream, so that nothing is missed in between
        past = await desk.history(EURUSD, "1 min", days=2, on_progress=progress)
        closes = {bar.at: bar.close for bar in past}  # the last one may still be growing: the stream has it whole
        async for item in stream:
            match item:
                case Bar():
                    closes[item.at] = item.close
                    print(f"{item.at:%H:%M}", item.close, "of", len(closes))
                case Gap():
                    print("gap:", item.reason)
                case Resumed():
                    print("goes on;", item.backfilled, "bars were missed and come now")
