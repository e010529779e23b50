"""The strategy of a crash campaign: carries out the plan, reports what it believes, begins again where it was.

It keeps one order under way per instrument, and names every wish; after a restart it says all of its wishes again, from
the first one on. What it reports goes through a pipe to the campaign, so that the last thing said before a SIGKILL has
arrived.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import suppress
from decimal import Decimal
from multiprocessing.connection import Connection
from typing import Any

import msgspec

from ibkr_service.core.errors import GatewayError, JournalError, OrderError, RequestError
from ibkr_service.core.orders import Intent, Order, OrderState
from ibkr_service.core.spreads import Spread
from ibkr_service.desk import Desk
from tests.crash import plan

NEVER_REACHED = frozenset({OrderState.ABSENT, OrderState.REJECTED})
ATTEMPTS_MAX = 20  # a wish that fails so often fails for another reason than a crash

campaign: Connection | None = None
"""The campaign's end of the pipe; set by the process before the service starts."""


class Params(msgspec.Struct, frozen=True):
    """`stint` counts the daemons of this life; `prices` are those that limits are made from; `legs` the spread's."""

    seed: int
    stint: int
    prices: dict[str, str]
    legs: list[str]


async def trader(desk: Desk, params: Params) -> None:
    """Say what was recovered, wait for the word, then trade until every wish of this stint is settled."""
    try:
        await _trade(desk, params)
    except Exception as exc:
        tell("failed", repr(exc))
        raise


async def _trade(desk: Desk, params: Params) -> None:
    changed = asyncio.Condition()
    async with asyncio.TaskGroup() as tasks:
        reader = tasks.create_task(_read(desk, changed))
        for traded in plan.traded(params.legs).values():
            for instrument in [leg.instrument for leg in traded.legs] if isinstance(traded, Spread) else [traded]:
                desk.watch(instrument)
        tell("recovered", account_of(desk))
        await _word()
        async with asyncio.TaskGroup() as hands:
            for symbol in plan.SYMBOLS:
                hands.create_task(_Hand(desk, params, symbol, changed).trade())
        await _until(changed, lambda: not any(desk.book.alive_orders()))
        tell("done", account_of(desk))
        await reader


def tell(kind: str, what: object) -> None:
    """Send the campaign a message; it has left when this returns."""
    assert campaign is not None, "the process has set the pipe"
    campaign.send((kind, what))


def account_of(desk: Desk) -> dict[str, Any]:
    """What the service believes, as plain values that can be compared with the gateway's."""
    book = desk.book
    return {
        "fills": {fill.exec_id: (fill.ref, fill.con_id, fill.signed) for fill in book.fills.values()},
        "orders": {o.ref: (o.key, o.state.name, o.filled) for o in book.orders.values()},
        "positions": {con_id: p.quantity for (_, con_id), p in book.positions.items() if p.quantity},
        "ledger": {con_id: quantity for (_, con_id), quantity in book.ledger.items() if quantity},
        "foreign": sorted(order.ref for order in book.foreign_orders.values()),
    }


async def _word() -> None:
    """Wait until the campaign says that trading may begin."""
    assert campaign is not None, "the process has set the pipe"
    loop, said = asyncio.get_running_loop(), asyncio.Event()
    loop.add_reader(campaign.fileno(), said.set)
    try:
        await said.wait()
    finally:
        loop.remove_reader(campaign.fileno())
    campaign.recv()


async def _read(desk: Desk, changed: asyncio.Condition) -> None:
    async for event in desk.events():
        del event
        async with changed:
            changed.notify_all()


async def _until(changed: asyncio.Condition, fact: Callable[[], bool]) -> None:
    async with changed:
        await changed.wait_for(fact)


class _Hand:
    """Carries out the wishes for one instrument, one after the other."""

    def __init__(self, desk: Desk, params: Params, symbol: str, changed: asyncio.Condition) -> None:
        self._desk, self._params, self._symbol, self._changed = desk, params, symbol, changed
        self._instrument = plan.traded(params.legs)[symbol]
        self._target = plan.targets(params.seed)[symbol]

    async def trade(self) -> None:
        params = self._params
        await self._qualify()
        for stint in range(1, params.stint + 1):
            for wish in plan.wishes(
                params.seed, stint, self._symbol, self._instrument, Decimal(params.prices[self._symbol])
            ):
                await self._settle(wish)
            if stint == params.stint or not self._begun(stint + 1):
                await self._close(stint)

    async def _qualify(self) -> None:
        """A spread's legs are to be known before it can be ordered."""
        while isinstance(self._instrument, Spread):
            try:
                await self._desk.qualify(self._instrument)
            except (OrderError, GatewayError, RequestError):
                async with self._changed:
                    await self._changed.wait()
            else:
                return

    def _begun(self, stint: int) -> bool:
        prefix = f"{stint}.{self._symbol}."
        return any(o.key.startswith(prefix) for o in self._desk.book.orders.values())

    async def _close(self, stint: int) -> None:
        """Order what is missing to the target, until nothing is."""
        number = 0
        while True:
            name = f"{stint}.{self._symbol}.close{number}"
            known = self._desk.book.order_for_key(self._desk.name, f"{name}/0")
            missing = self._target - self._desk.position(self._instrument)
            if known is None and not missing:
                return
            if known is not None:
                intent = known.intent
            else:
                action = "BUY" if missing > 0 else "SELL"
                intent = Intent(instrument=self._instrument, action=action, quantity=abs(missing))
            await self._settle(plan.Wish(name, intent))
            number += 1

    async def _settle(self, wish: plan.Wish) -> None:
        """See a wish through to its end; wish again only what the broker certainly never had."""
        for attempt in range(ATTEMPTS_MAX):
            order = await self._finish(await self._submit(wish, f"{wish.name}/{attempt}"), wish)
            if order.state not in NEVER_REACHED or order.filled:
                return
        raise AssertionError(f"{wish} came to nothing {ATTEMPTS_MAX} times; the last one: {order}")

    async def _submit(self, wish: plan.Wish, key: str) -> str:
        """Say it until the service takes it: each event, a tick at the latest, is an occasion."""
        while True:
            try:
                return self._desk.submit(wish.intent, key=key)
            except JournalError:
                tell("refused", key)
            except (OrderError, GatewayError):
                known = self._desk.book.order_for_key(self._desk.name, key)
                if known is not None:
                    return known.ref
            async with self._changed:
                await self._changed.wait()

    async def _finish(self, ref: str, wish: plan.Wish) -> Order:
        cancel = wish.cancel

        def order() -> Order:
            return self._desk.order(ref)

        while wish.reprice is not None and not order().done and order().intent.limit_price != wish.reprice:
            with suppress(OrderError, GatewayError, JournalError):
                self._desk.modify(ref, limit_price=wish.reprice)
            async with self._changed:
                await self._changed.wait()

        def is_time() -> bool:
            started = order().filled > 0 if cancel == "partly filled" else order().state is not OrderState.SENT
            return order().done or (cancel != "never" and started and order().state is not OrderState.PENDING)

        await _until(self._changed, is_time)
        if not order().done:
            self._desk.cancel(ref)
            await _until(self._changed, lambda: order().done)
        return order()
