"""Strategies that ask: for history, chains, many lines, much at once, where a scenario is about questions.

Each asks again and again, and judges what it gets: a whole answer, or an error of ours in the time that it allows. What
is neither fails the strategy, and with it the rehearsal.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from ibkr_service.core import events as ev
from ibkr_service.core.errors import RequestTimeout, ServiceError
from ibkr_service.core.instrument import Bag, Forex, Stock
from ibkr_service.desk import Desk

ASKER = "asker"
PAUSE_S = 120.0
STOCKS = tuple(Stock(s) for s in ("GOOGL", "AMZN", "TSLA", "NVDA", "META", "JPM", "V", "WMT", "XOM", "IBM"))
EURUSD = Forex("EUR", "USD")
COMBO = Bag("AAPL", "USD", ((265598, 1, "BUY"), (272093, 1, "SELL")))
LIMIT_S, GRACE_S = 20.0, 5.0
RATE_EXCEEDED = 100


class Unanswered(Exception):
    """What was asked for came to neither an answer nor an error of ours."""


async def within(limit_s: float, asked: Awaitable[Any], what: str) -> Any:  # noqa: ANN401 - whatever was asked for
    """The answer, or None after an error of ours.

    Raises:
        Unanswered: there was neither within the limit.
    """
    try:
        async with asyncio.timeout(limit_s + GRACE_S):
            return await asked
    except ServiceError:
        return None
    except TimeoutError:
        raise Unanswered(f"{what} came to nothing within {limit_s:g} s") from None


async def _history(desk: Desk) -> None:
    asked = desk.history(EURUSD, "1 min", days=0.05, timeout_s=60.0)
    bars = await within(900.0, asked, "history")  # waits for its turn are not counted by the service
    if bars is not None and len(bars) < 60:  # noqa: PLR2004 - of seventy-two minutes
        raise Unanswered(f"history has {len(bars)} bars of 72")


async def _chain(desk: Desk) -> None:
    asked = desk.option_chain(Stock("AAPL"), expiries=1, strikes=4, deadline_s=LIMIT_S)
    chain = await within(LIMIT_S, asked, "a chain")
    if chain is None:
        return
    for row in chain.rows:
        if row.bid is not None and row.delta is None and "greeks" not in row.missing:
            raise Unanswered(f"{row.option} has no greeks, and the chain does not say so")


async def _combo_details(desk: Desk) -> None:
    try:
        async with asyncio.timeout(LIMIT_S + GRACE_S):
            found = await desk.request("reqContractDetailsAsync", COMBO, timeout_s=LIMIT_S)
    except RequestTimeout:
        return
    except ServiceError:
        return
    raise Unanswered(f"contract details of a combination: {found}")


async def _much(desk: Desk) -> None:
    async with asyncio.TaskGroup() as asking:
        for number in range(150):
            asked = desk.request("reqContractDetailsAsync", STOCKS[number % len(STOCKS)], timeout_s=60.0)
            asking.create_task(within(60.0, asked, "contract details"))


async def _lines(desk: Desk) -> None:
    for stock in STOCKS:
        desk.watch(stock)
    try:
        await within(60.0, desk.first_quote(Stock("MSFT"), 60.0), "a quote")
        await asyncio.sleep(300)
    finally:
        for stock in STOCKS:
            desk.unwatch(stock)


ASKERS: dict[str, Callable[[Desk], Awaitable[None]]] = {
    "pacing-100": _much,
    "lines-101": _lines,
    "historical-162": _history,
    "bag-details-hang": _combo_details,
    "late-greeks": _chain,
}
"""Who asks in which scenario, by its name."""


class Asker:
    """The strategy: asks as long as the rehearsal goes on."""

    def __init__(self, name: str) -> None:
        self.asks = ASKERS[name]
        self.is_over = False

    async def __call__(self, desk: Desk) -> None:
        """Ask, pause, ask."""
        async with asyncio.TaskGroup() as hands:
            hands.create_task(self._read(desk), name="rehearsal:asker reads")
            while not self.is_over:
                await self.asks(desk)
                await asyncio.sleep(PAUSE_S)

    async def _read(self, desk: Desk) -> None:
        async for event in desk.events():
            if isinstance(event, ev.BrokerNotice) and event.code == RATE_EXCEEDED:
                raise Unanswered("the gateway says that we send too fast")
