"""Getting into a combination leg by leg, for who asks for it: `await leg_in(desk, spread, 2, limit=…)`.

A BAG is the rule: its legs fill together or not at all. Legging gives that up for the chance of a better price, or
where no exchange takes the combination. Bought legs go first, each at the far side of its quote; the last one is
limited by what the net price leaves for it. What happens when time runs out with a part of it done is decided before
the first order leaves: complete it at the market, unwind it, or leave it and raise the alarm.

Each leg is an order of the strategy with a key of its own, so that a call with the same key after a crash goes on where
it was.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from decimal import Decimal
from typing import Literal

import msgspec
import structlog

from ibkr_service.core.combination import Side, Spread
from ibkr_service.core.errors import InvalidIntent, OrderError, Refused, RequestTimeout
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.intent import Exact, Intent, exact
from ibkr_service.core.legging import ENDINGS, Ending, LegStep, last_price, steps, worst_between
from ibkr_service.core.netprice import NetPrice
from ibkr_service.core.orders import Order
from ibkr_service.core.payoff import Money
from ibkr_service.desk import Desk

log = structlog.get_logger("ibkr_service.legging")

LOOK_S = 0.05
SETTLE_S = 30.0  # how long a cancel or a market order may take before it counts as not done
State = Literal["complete", "unwound", "incomplete"]


class LeggedIn(msgspec.Struct, frozen=True):
    """What came of it: all legs, none any more, or a part that somebody has to look at; and the legs' orders."""

    state: State
    orders: tuple[Order, ...]
    why: str = ""


async def leg_in(
    desk: Desk,
    spread: Spread,
    quantity: Exact,
    *,
    side: Side = "LONG",
    limit: NetPrice | None = None,
    deadline_s: float = 60.0,
    on_deadline: Ending = "alarm",
    key: str | None = None,
) -> LeggedIn:
    """Trade a combination leg by leg.

    Args:
        limit: the worst net price, from `spread.net_price(…, side=side)`; None: what the legs' quotes ask for.
        deadline_s: for all of it. on_deadline: "complete" the missing legs at the market, "unwind" what was traded
        (sold legs first), or cancel and raise the "alarm", in the log and in the result.
        key: names the wish; the legs' keys are `key/leg 1`, `key/leg 2` …

    Raises:
        InvalidIntent: it makes no sense. Refused: a limit forbids a leg, or the worst state on the way.
        RequestTimeout: no quotes in time. NotReady, Paced, JournalError, UnknownInstrument: as they say. Before the
        first order only; whatever happens after it is in the result.
    """
    if on_deadline not in ENDINGS:
        raise InvalidIntent(f"on_deadline is one of {', '.join(ENDINGS)}, not {on_deadline!r}")
    if limit is not None:
        spread.check_limit(limit, side)
    planned = steps(spread, side, exact("quantity", quantity))
    ends_s = asyncio.get_running_loop().time() + deadline_s
    await desk.qualify(spread)
    await _quoted(desk, spread, ends_s)
    prices: dict[AnyInstrument, Decimal] = {step.instrument: _far_side(desk, step) for step in planned}
    loss = worst_between(planned, prices)
    desk.check_worst_loss(loss, f"{side} {exact('quantity', quantity)} {spread} leg by leg")
    legging = _Legging(desk, spread, side, limit, planned, ends_s, key or desk.unique_key(), loss)
    return await legging.run(on_deadline)


async def _quoted(desk: Desk, spread: Spread, ends_s: float) -> None:
    for leg in spread.legs:
        desk.watch(leg.instrument)
    while desk.net_quote(spread) is None:
        if asyncio.get_running_loop().time() >= ends_s:
            silent = next(leg for leg in spread.legs if desk.quote(leg.instrument) is None)
            raise RequestTimeout(f"quote of {silent.instrument}: {desk.why_unusable(silent.instrument)}", 0)
        await asyncio.sleep(LOOK_S)


def _far_side(desk: Desk, step: LegStep) -> Decimal:
    """What the market asks for a leg now."""
    quote = desk.quote(step.instrument)
    side = None if quote is None else quote.ask if step.action == "BUY" else quote.bid
    if side is None:
        raise Refused("max_quote_age_s", "live quotes of all legs", f"{step.instrument}: no quote")
    return Decimal(repr(side))


class _Legging:
    """One way through the legs."""

    def __init__(
        self,
        desk: Desk,
        spread: Spread,
        side: Side,
        limit: NetPrice | None,
        planned: Sequence[LegStep],
        ends_s: float,
        key: str,
        loss: Money,
    ) -> None:
        self._desk, self._spread, self._side, self._limit = desk, spread, side, limit
        self._planned, self._ends_s, self._key, self._loss = planned, ends_s, key, loss
        self._refs: dict[AnyInstrument, list[str]] = {step.instrument: [] for step in planned}

    async def run(self, ending: Ending) -> LeggedIn:
        why = await self._go_in()
        if why is None:
            return self._result("complete")
        log.warning("a combination is not complete", spread=str(self._spread), why=why, then=ending)
        if not await self._cancel_open():
            log.error("a leg's order may still fill: nothing more is sent", spread=str(self._spread), why=why)
            return self._result("incomplete", f"{why}; an order is still open: cancel it, and see what is held")
        return await self._end(ending, why)

    async def _end(self, ending: Ending, why: str) -> LeggedIn:
        """Make the best of what was traded; nothing works any more."""
        if all(self._missing(step) == 0 for step in self._planned):
            return self._result("complete")
        if ending == "complete" and await self._at_market("complete", self._missing_intents()):
            return self._result("complete", why)
        if ending == "unwind" and await self._at_market("unwind", self._unwinding_intents()):
            return self._result("unwound", why)
        if any(self._filled(step) for step in self._planned):
            log.error("a combination is held in part", spread=str(self._spread), why=why, then=ending)
            return self._result("incomplete", why)
        return self._result("unwound", why)

    async def _go_in(self) -> str | None:
        """Trade leg after leg; returns why it stopped, None if all are there."""
        for number, step in enumerate(self._planned, start=1):
            key = f"{self._key}/leg {number}"
            known = self._desk.book.order_for_key(self._desk.name, key)
            try:
                ref = known.ref if known else self._submit(step, key)
            except (OrderError, ConnectionError) as exc:
                if number == 1:
                    raise  # nothing has happened
                return f"{step.instrument}: {exc}"
            self._refs[step.instrument].append(ref)
            try:
                async with asyncio.timeout_at(self._ends_s):
                    order = await self._desk.finished(ref)
            except TimeoutError:
                return f"{step.instrument} was not filled in time"
            if order.remaining > 0:
                return f"{step.instrument} is {order.state.name}: {order.reason}"
        return None

    def _submit(self, step: LegStep, key: str) -> str:
        intent = self._intent(step, is_last=step is self._planned[-1])
        return self._desk.submit_leg(intent, key=key, known_loss=self._loss)

    def _intent(self, step: LegStep, *, is_last: bool) -> Intent:
        if is_last and self._limit is not None:
            paid: dict[AnyInstrument, Decimal] = {
                other.instrument: self._average(other) for other in self._planned if other is not step
            }
            price = last_price(self._limit, self._spread, self._side, paid, step)
        else:
            price = _far_side(self._desk, step)
        price = self._desk.tradable(step.instrument, price, step.action)
        return Intent(
            instrument=step.instrument, action=step.action, quantity=step.quantity, order_type="LMT", limit_price=price
        )

    def _average(self, step: LegStep) -> Decimal:
        average = self._desk.order(self._refs[step.instrument][0]).average_price
        assert average is not None, "the legs before the last one are filled"
        return average

    def _filled(self, step: LegStep) -> Decimal:
        """Net contracts traded of a leg, in its own direction."""
        orders = (self._desk.order(ref) for ref in self._refs[step.instrument])
        return sum((o.filled if o.intent.action == step.action else -o.filled for o in orders), Decimal(0))

    def _missing(self, step: LegStep) -> Decimal:
        return step.quantity - self._filled(step)

    def _missing_intents(self) -> list[Intent]:
        return [
            Intent(instrument=step.instrument, action=step.action, quantity=missing)
            for step in self._planned
            if (missing := self._missing(step)) > 0
        ]

    def _unwinding_intents(self) -> list[Intent]:
        """What takes back what was traded; sold legs first, so that none is left uncovered."""
        ordered = sorted(self._planned, key=lambda step: step.action != "SELL")
        return [
            Intent(instrument=step.instrument, action="SELL" if step.action == "BUY" else "BUY", quantity=filled)
            for step in ordered
            if (filled := self._filled(step)) > 0
        ]

    async def _at_market(self, what: str, intents: Sequence[Intent]) -> bool:
        """Trade at the market, one after the other; whether all of it was filled."""
        for number, intent in enumerate(intents, start=1):
            try:
                ref = self._desk.submit_leg(intent, key=f"{self._key}/{what} {number}", known_loss=self._loss)
                self._refs[intent.contracts[0]].append(ref)
                async with asyncio.timeout(SETTLE_S):
                    order = await self._desk.finished(ref)
            except (OrderError, ConnectionError, TimeoutError) as exc:
                log.error("a leg could not be traded at the market", intent=str(intent), error=str(exc))
                return False
            if order.remaining > 0:
                return False
        return True

    async def _cancel_open(self) -> bool:
        """Cancel what works; whether all has come to an end. What has not may fill yet, and be held twice."""
        for refs in self._refs.values():
            for ref in refs:
                if not self._desk.order(ref).done:
                    self._desk.cancel(ref)
                    try:
                        async with asyncio.timeout(SETTLE_S):
                            await self._desk.finished(ref)
                    except TimeoutError:
                        log.error("a leg's order could not be cancelled in time", ref=ref)
        return all(self._desk.order(ref).done for refs in self._refs.values() for ref in refs)

    def _result(self, state: State, why: str = "") -> LeggedIn:
        refs = [ref for refs in self._refs.values() for ref in refs]
        return LeggedIn(state, tuple(self._desk.order(ref) for ref in refs), why)
