"""A strategy for rehearsals: it wants many things, and wants each of them once.

A `Wish` has a name. It is said again after every refusal and every restart under the same key, so that it becomes one
order; only when the service says that an order was rejected, is absent, or was cancelled by nobody, with nothing
filled, is it said under a new key. So a service that believes a false end buys twice, and is caught.
"""

from __future__ import annotations

import asyncio
import random
from dataclasses import dataclass
from datetime import date
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal
from functools import cache
from typing import Literal

from ibkr_service.core import spreads
from ibkr_service.core.bracket import Bracket
from ibkr_service.core.errors import GatewayError, JournalError, KeyReused, OrderError, RequestError, UnknownOrder
from ibkr_service.core.instrument import AnyInstrument, Forex, Option, Stock
from ibkr_service.core.intent import Intent
from ibkr_service.core.orders import ZERO, Order, OrderState
from ibkr_service.desk import Desk
from ibkr_service.sim.contracts import Universe

NAME = "rehearsal"
AAPL, MSFT, EURUSD, GOOGL = Stock("AAPL"), Stock("MSFT"), Forex("EUR", "USD"), Stock("GOOGL")
Kind = Literal["buy", "sell", "rest", "currency", "market", "spread", "spread rest", "condor", "bracket", "oca"]
# How often each is wished for, out of the sum.
KINDS: dict[Kind, int] = {
    "buy": 4,
    "sell": 3,
    "rest": 5,
    "currency": 2,
    "market": 2,
    "spread": 4,
    "spread rest": 2,
    "condor": 1,
    "bracket": 3,
    "oca": 1,
}
OF_SPREADS: tuple[Kind, ...] = ("spread", "spread rest", "condor")
ATTEMPTS_MAX = 3  # a wish that fails so often fails for a reason
RETRY_S = 3.0
GIVE_UP_S = 300.0  # how long a wish that cannot be said is said again
CENT, PIP = Decimal("0.01"), Decimal("0.0001")
NEAR, FAR = Decimal("0.01"), Decimal("0.04")  # how far beyond the market a limit is that fills at once, or rests
OVER = frozenset({OrderState.REJECTED, OrderState.ABSENT, OrderState.CANCELLED})


@dataclass(frozen=True)
class Wish:
    """One thing that is wanted: when, what, and how patiently (seconds of the loop)."""

    name: str
    at_s: float
    kind: Kind
    quantity: int
    patience_s: float
    change_s: float | None  # after which time its price is changed; into the market, or not
    into_market: bool


def wishes_of(rng: random.Random, count: int, until_s: float) -> tuple[Wish, ...]:
    """Draw wishes for a rehearsal; some of them are spreads."""
    kinds = [*OF_SPREADS[:2], *rng.choices(list(KINDS), weights=list(KINDS.values()), k=count - 2)]
    rng.shuffle(kinds)
    times = sorted(rng.uniform(8.0, until_s) for _ in kinds)
    return tuple(
        Wish(
            name=f"w{number:02}",
            at_s=at_s,
            kind=kind,
            quantity=rng.randint(1, 5) * 10,
            patience_s=rng.uniform(5.0, 200.0),
            change_s=rng.uniform(2.0, 60.0) if rng.random() < 0.6 else None,  # noqa: PLR2004 - more often than not
            into_market=rng.random() < 0.5,  # noqa: PLR2004 - a coin
        )
        for number, (at_s, kind) in enumerate(zip(times, kinds, strict=True), 1)
    )


@cache
def options_of(day: date) -> tuple[Option, Option, Option, Option]:
    """A put, a put, a call and a call on AAPL that are listed on a day, by strike, around its price."""
    universe = Universe(day)
    (underlying,) = (stock for stock in universe.stocks.values() if stock.symbol == AAPL.symbol)
    chain = universe.chain(underlying)
    assert chain is not None, "AAPL has options"
    middle = len(chain.strikes) // 2
    expiry = next(f"{day_:%Y%m%d}" for day_ in chain.expiries if (day_ - day).days > 7)  # noqa: PLR2004 - a week
    low, below, above, high = (float(strike) for strike in chain.strikes[middle - 2 : middle + 2])
    return (
        Option(AAPL.symbol, expiry, low, "P"),
        Option(AAPL.symbol, expiry, below, "P"),
        Option(AAPL.symbol, expiry, above, "C"),
        Option(AAPL.symbol, expiry, high, "C"),
    )


class Trader:
    """The strategy: `StrategySpec(NAME, Trader(wishes, options))`. One object lives through all restarts."""

    def __init__(self, wishes: tuple[Wish, ...], options: tuple[Option, Option, Option, Option]) -> None:
        self.wishes = wishes
        self.condor = spreads.iron_condor(*options)
        self.vertical = spreads.bull_call(*options[2:])
        self.watched: tuple[AnyInstrument, ...] = (AAPL, MSFT, EURUSD, *options)
        self.is_over = False  # nothing new is wanted, and what rests is to go

    async def __call__(self, desk: Desk) -> None:
        """Carry out all wishes, those of an earlier life included."""
        for instrument in self.watched:
            desk.watch(instrument)
        async with asyncio.TaskGroup() as hands:
            hands.create_task(self._read(desk), name="rehearsal:reader")
            hands.create_task(self._look_around(desk), name="rehearsal:looker")
            for wish in self.wishes:
                hands.create_task(self._carry_out(desk, wish), name=f"rehearsal:{wish.name}")

    async def _read(self, desk: Desk) -> None:
        async for _ in desk.events():
            pass

    async def _look_around(self, desk: Desk) -> None:
        """Want a line now and then, and give it back."""
        while True:
            await asyncio.sleep(45)
            if self.is_over:
                return
            desk.watch(GOOGL)
            await asyncio.sleep(40)
            desk.unwatch(GOOGL)

    async def _carry_out(self, desk: Desk, wish: Wish) -> None:
        await asyncio.sleep(max(0.0, wish.at_s - _now_s()))
        for attempt in range(1, ATTEMPTS_MAX + 1):
            refs = await self._place(desk, wish, f"{wish.name}/{attempt}")
            if not refs or await self._see_through(desk, wish, refs):
                return

    # --- saying it ---------------------------------------------------------------------------------------------------

    async def _place(self, desk: Desk, wish: Wish, key: str) -> tuple[str, ...]:
        """Say a wish until it is an order; nothing if that takes too long."""
        give_up_s = max(wish.at_s, _now_s()) + GIVE_UP_S
        while True:
            known = _known(desk, key)
            if known:
                return known
            if self.is_over or _now_s() > give_up_s:
                return ()
            try:
                if wish.kind in OF_SPREADS:
                    await desk.qualify(self.condor if wish.kind == "condor" else self.vertical)
                refs = self._submit(desk, wish, key)
            except KeyReused:
                continue  # it was said while we asked
            except (GatewayError, JournalError, OrderError, RequestError):
                refs = _known(desk, key)  # a broken line after the journal: it is an order, and has not left
            if refs:
                return refs
            await asyncio.sleep(RETRY_S)

    def _submit(self, desk: Desk, wish: Wish, key: str) -> tuple[str, ...]:
        match wish.kind:
            case "bracket":
                refs = desk.submit_bracket(self._bracket(desk, wish), key=key)
                return tuple(ref for ref in (refs.entry, refs.take_profit, refs.stop_loss) if ref is not None)
            case "oca":
                pair = [Intent.buy(on, wish.quantity, limit=_price(desk, on, "BUY", FAR)) for on in (AAPL, MSFT)]
                return desk.submit_oca(pair, key=key)
            case _:
                return (desk.submit(self._intent(desk, wish), key=key),)

    def _intent(self, desk: Desk, wish: Wish) -> Intent:  # noqa: PLR0911 - one row per kind of wish
        quantity = wish.quantity
        match wish.kind:
            case "buy":
                return Intent.buy(AAPL, quantity, limit=_price(desk, AAPL, "BUY", -NEAR), tif="GTC")
            case "sell":
                return Intent.sell(AAPL, quantity, limit=_price(desk, AAPL, "SELL", -NEAR), tif="GTC")
            case "rest":
                return Intent.buy(MSFT, quantity, limit=_price(desk, MSFT, "BUY", FAR), tif="GTC")
            case "currency":
                return Intent.buy(EURUSD, quantity * 1000, limit=_price(desk, EURUSD, "BUY", -NEAR), tif="GTC")
            case "market":
                return Intent.sell(MSFT, quantity)
            case "condor":
                return Intent.buy(self.condor, quantity // 10)
            case _:
                quote = desk.net_quote(self.vertical)
                if quote is None:
                    raise GatewayError("no quote of the legs")
                over = Decimal("0.30") if wish.kind == "spread" else Decimal("-1.00")
                return Intent.buy(self.vertical, quantity // 10, debit=max(CENT, quote.ask + over), tif="GTC")

    def _bracket(self, desk: Desk, wish: Wish) -> Bracket:
        near = _price(desk, AAPL, "BUY", -NEAR)
        entry = Intent.buy(AAPL, wish.quantity, limit=near, tif="GTC")
        exits = (near * (1 + FAR)).quantize(CENT), (near * (1 - FAR)).quantize(CENT)
        return Bracket.around(entry, take_profit=exits[0], stop_loss=exits[1])

    # --- seeing it through -------------------------------------------------------------------------------------------

    async def _see_through(self, desk: Desk, wish: Wish, refs: tuple[str, ...]) -> bool:
        """Wait, change, lose patience; whether the wish is over, for better or worse."""
        end_s = _now_s() + wish.patience_s
        if wish.change_s is not None and wish.change_s < wish.patience_s:
            await _finished(desk, refs, wish.change_s)
            self._change(desk, wish, refs[-1])
        await _finished(desk, refs, max(0.0, end_s - _now_s()))
        for ref in refs:
            if not desk.order(ref).done:
                desk.cancel(ref)
        orders = [await desk.finished(ref) for ref in refs]
        return not all(_came_to_nothing(order) for order in orders)

    def _change(self, desk: Desk, wish: Wish, ref: str) -> None:
        """Move a limit, into the market or a little."""
        order = desk.order(ref)
        limit = order.intent.limit_price
        if order.done or limit is None or wish.kind not in {"rest", "spread rest", "oca", "buy", "sell"}:
            return
        try:
            if wish.kind == "rest" and wish.into_market:
                limit = _price(desk, MSFT, "BUY", -NEAR)
            elif wish.kind == "spread rest":
                limit = limit + Decimal("0.05")
            else:
                limit = (limit * Decimal("1.002")).quantize(CENT)
            desk.modify(ref, limit_price=limit)
        except (GatewayError, JournalError, OrderError, UnknownOrder):
            return  # as it cannot be changed now, it stays as it is


async def _finished(desk: Desk, refs: tuple[str, ...], within_s: float) -> None:
    try:
        async with asyncio.timeout(within_s):
            for ref in refs:
                await desk.finished(ref)
    except TimeoutError:
        pass


def _known(desk: Desk, key: str) -> tuple[str, ...]:
    """The orders that a key already stands for: one, a bracket's, or a group's."""
    keys = (key, *(f"{key}/{part}" for part in ("entry", "take profit", "stop loss", "1", "2")))
    return tuple(order.ref for k in keys if (order := desk.book.order_for_key(desk.name, k)) is not None)


def _came_to_nothing(order: Order) -> bool:
    return order.state in OVER and not order.filled and not order.cancel_wanted


def _price(desk: Desk, instrument: Stock | Forex, action: str, off: Decimal) -> Decimal:
    """A limit so far from the market, a negative distance being beyond it.

    Raises:
        GatewayError: there is no quote to start from.
    """
    quote = desk.quote(instrument)
    if quote is None or quote.mid is None:
        raise GatewayError(f"no quote of {instrument}")
    step = PIP if isinstance(instrument, Forex) else CENT
    worse = 1 - off if action == "BUY" else 1 + off
    price = Decimal(repr(quote.mid)) * worse
    assert price > ZERO, "prices are positive"
    return price.quantize(step, ROUND_CEILING if action == "SELL" else ROUND_FLOOR)


def _now_s() -> float:
    return asyncio.get_running_loop().time()
