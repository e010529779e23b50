"""The strategy of a soak: watches stocks, trades one after the other, keeps some orders resting, changes and cancels.

While a file named `hold` lies in the working directory it wishes nothing new, so that books can be compared.
"""

from __future__ import annotations

import asyncio
import random
from contextlib import suppress
from decimal import Decimal
from pathlib import Path

import msgspec

from ibkr_service import Desk, Stock
from ibkr_service.core.errors import GatewayError, JournalError, OrderError, RequestError
from ibkr_service.core.orders import Intent
from ibkr_service.sim import listing

WATCHED = tuple(Stock(row.symbol) for row in listing.STOCKS if row.slot != listing.NO_OPTIONS)[:30]
HOLD = Path("hold")
RESTING_MAX = 10
CENT = Decimal("0.01")


class Params(msgspec.Struct, frozen=True):
    """`pause_s`: between two wishes."""

    seed: int = 1
    pause_s: float = 0.5


async def trader(desk: Desk, params: Params) -> None:
    """Trade until stopped."""
    rng = random.Random(params.seed)
    for stock in WATCHED:
        desk.watch(stock)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(_read(desk))
        number = 0
        while True:
            await asyncio.sleep(params.pause_s)
            if not HOLD.exists():  # noqa: ASYNC240 - a look at a folder, in a test
                number += 1
                with suppress(OrderError, GatewayError, JournalError, RequestError):  # an outage: the next one
                    _wish(desk, rng, number)


async def _read(desk: Desk) -> None:
    async for event in desk.events():
        del event


def _wish(desk: Desk, rng: random.Random, number: int) -> None:
    """Trade, rest, change or cancel: one thing."""
    stock, dice = rng.choice(WATCHED), rng.random()
    quote = desk.quote(stock)
    if quote is None or quote.bid is None or quote.ask is None:
        return
    resting = [o for o in desk.book.alive_orders() if o.strategy == desk.name and o.intent.tif == "GTC"]
    away = (Decimal(str(quote.bid)) * Decimal("0.97")).quantize(CENT)
    if dice < 0.6:
        buys = desk.position(stock) <= 0
        through = Decimal(str(quote.ask)) * Decimal("1.01") if buys else Decimal(str(quote.bid)) * Decimal("0.99")
        side = Intent.buy if buys else Intent.sell
        desk.submit(side(stock, rng.randint(1, 9), limit=str(through.quantize(CENT)), tif="DAY"), key=f"w{number}")
    elif dice < 0.8 and len(resting) < RESTING_MAX:
        desk.submit(Intent.buy(stock, rng.randint(1, 9), limit=str(away), tif="GTC"), key=f"w{number}")
    elif resting and dice < 0.9:
        one = rng.choice(resting)
        assert one.intent.limit_price is not None, "it is a limit order"
        desk.modify(one.ref, limit_price=one.intent.limit_price - CENT)
    elif resting:
        desk.cancel(rng.choice(resting).ref)
