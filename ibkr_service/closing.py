"""Closing all positions, by the plan of `core/flattening.py`: collared limits, stage after stage, until none is left.

The orders are those of a desk named `operator`, and pass the risk gate as all do: they reduce, or they do not leave.
The plan is made anew after each stage from what is then held, of each underlying by itself, so that one that does not
trade holds up no other.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from decimal import Decimal

import msgspec

from ibkr_service.app import App
from ibkr_service.core.asked import Asked, no_hours
from ibkr_service.core.combination import Spread
from ibkr_service.core.errors import InvalidIntent, RequestError, RequestTimeout, ServiceError
from ibkr_service.core.flattening import Plan, Stage, Step, plan
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.intent import Intent
from ibkr_service.core.limits import Limits
from ibkr_service.core.moneyrules import collar
from ibkr_service.core.operator import OPERATOR
from ibkr_service.core.pricing import symbol_of
from ibkr_service.desk import Desk
from ibkr_service.supervisor import StrategySpec

QUOTE_S = 5.0
FILL_S = 10.0  # an order that has not traded by then is cancelled, and tried again
SETTLE_S = 5.0  # the report of a position follows its fill
LOOK_S = 0.05
TRIES = 2  # of spreads as a whole; then their legs, as often
MUCH = Decimal(10) ** 15
DEFAULT_COLLAR = Decimal(2)  # percent, where the settings have no collar


def closing_limits(limits: Limits) -> Limits:
    """The general limits without those of size: what is held has to go, however large. All else stays."""
    return msgspec.structs.replace(
        limits,
        max_quantity=MUCH,
        max_notional=MUCH,
        max_position=None,
        max_strategy_position=None,
        max_premium=None,
        max_loss=None,
        allow_unlimited_loss=True,
        symbols=frozenset(),
        duplicate_window_s=0.0,
        max_orders_per_minute=1_000,
        max_account_orders_per_minute=None,
        collar_percent=limits.collar_percent or DEFAULT_COLLAR,
    )


def worded(number: Decimal) -> str:
    """A number as people write it."""
    return f"{number.normalize():f}"


class Closing:
    """One attempt at closing everything."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._book = app.book
        self._limits = closing_limits(app.config.limits)
        self._done: list[str] = []
        self._why: dict[str, str] = {}  # underlying -> why it does not go on
        self._stopped_because: str | None = None

    def stop(self, why: str) -> None:
        """Send nothing more; whoever says so cancels what works."""
        self._stopped_because = why

    async def preview(self) -> list[str]:
        """The plan in words."""
        lines = []
        for symbol, held in sorted(self._groups().items()):
            the_plan = plan(held)
            for number, stage in enumerate(the_plan.stages, 1):
                lines += [f"{symbol}, step {number}: {step}" for step in stage]
            lines += [f"{symbol}: {worded(size)} {one} is left to you" for one, size in the_plan.left_alone]
        return lines or ["no positions"]

    async def run(self) -> tuple[list[str], list[str]]:
        """Close; returns what was done, and what is left with the reason.

        Raises:
            NotReady: nobody knows what is held.
        """
        spec = StrategySpec(OPERATOR, _nothing)
        desk = self._app.make_desk(spec, lambda: None, self._limits)
        try:
            tries: dict[str, int] = {}
            while groups := {name: held for name, held in self._groups().items() if tries.get(name, 0) < 2 * TRIES}:
                plans = {name: plan(held, whole=tries.get(name, 0) < TRIES) for name, held in groups.items()}
                if self._stopped_because or not any(the_plan.stages for the_plan in plans.values()):
                    break
                await self._round(desk, plans)
                await self._settled()
                after = self._groups()
                for name, held in groups.items():
                    stuck = after.get(name) == held
                    tries[name] = tries.get(name, 0) + 1 if stuck else min(tries.get(name, 0), TRIES)
        finally:
            desk.close("positions were closed")
        left = [
            f"{worded(size)} {one} ({self._stopped_because or self._why.get(name, 'it cannot be ordered')})"
            for name, held in self._groups().items()
            for one, size in held.items()
        ]
        return self._done, left

    def _groups(self) -> dict[str, dict[AnyInstrument, Decimal]]:
        """What the account in use holds, by underlying."""
        groups: dict[str, dict[AnyInstrument, Decimal]] = {}
        for instrument, position in self._book.held_positions().items():
            groups.setdefault(symbol_of(instrument), {})[instrument] = position.quantity
        return groups

    async def _round(self, desk: Desk, plans: dict[str, Plan]) -> None:
        """The next stage of each underlying, all at once."""
        async with asyncio.TaskGroup() as stages:
            for name, the_plan in plans.items():
                if the_plan.stages:
                    stages.create_task(self._stage(desk, name, the_plan.stages[0]), name=f"closing:{name}")

    async def _stage(self, desk: Desk, name: str, stage: Stage) -> None:
        refs = [ref for step in stage if (ref := await self._submit(desk, name, step)) is not None]
        await self._until(lambda: all(desk.order(ref).done for ref in refs), FILL_S)
        for ref in refs:
            desk.cancel(ref)
        await self._until(lambda: all(desk.order(ref).done for ref in refs), FILL_S)
        for ref in refs:
            order = desk.order(ref)
            words = f"{order.intent.action} {worded(order.filled)} of {worded(order.intent.quantity)}"
            price = "" if order.average_price is None else f" at {worded(order.average_price)}"
            if order.filled:
                self._done.append(f"{words} {order.intent.instrument}{price}")
            if order.alive:
                self._why[name] = f"order {ref} is {order.state.name}"
            elif order.remaining:
                self._why[name] = f"the order did not trade within {FILL_S:g} s"

    async def _submit(self, desk: Desk, name: str, step: Step) -> str | None:
        """Send one order of the plan; None if it cannot be sent, and why is kept."""
        try:
            await desk.qualify(step.traded)
            contracts = (
                [leg.instrument for leg in step.traded.legs] if isinstance(step.traded, Spread) else [step.traded]
            )
            for contract in contracts:
                desk.watch(contract)
            await self._until(lambda: all(desk.why_unusable(each) is None for each in contracts), QUOTE_S)
            for contract in contracts:
                why = desk.why_unusable(contract)
                if why is not None:
                    raise RequestTimeout(f"a quote of {contract}: {why}", QUOTE_S)
            if self._stopped_because:
                return None
            return desk.submit(self._intent(step))
        except (InvalidIntent, RequestError, ServiceError) as exc:
            self._why[name] = str(exc)
            return None

    def _intent(self, step: Step) -> Intent:
        """The order, at the worst price within the collar that is on the increments."""
        market = Intent(instrument=step.traded, action=step.action, quantity=step.quantity)
        now, mono_s = self._app.clock.now(), asyncio.get_running_loop().time()
        asked = Asked(market, OPERATOR, self._limits, self._book, now=now, mono_s=mono_s, hours=no_hours)
        limit = collar(asked)
        if isinstance(step.traded, Spread):
            if step.traded.contradicts(step.action, limit):
                limit = Decimal(0)  # rather for nothing than for money in the wrong direction
        elif limit <= 0:
            limit = Decimal("0.01")
        known = self._app.session.increments(step.traded)
        if known is not None:
            limit = known.rounded(limit, step.action)
        return msgspec.structs.replace(market, order_type="LMT", limit_price=limit)

    async def _settled(self) -> None:
        """Wait until the reported positions are those that our fills add up to."""
        await self._until(
            lambda: all(reported == summed for _, reported, summed in self._book.holdings(self._book.account)), SETTLE_S
        )

    async def _until(self, condition: Callable[[], bool], within_s: float) -> bool:
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + within_s
        while not condition() and loop.time() < give_up_s:  # noqa: ASYNC110 - of many things, none an event of its own
            await asyncio.sleep(LOOK_S)
        return condition()


async def _nothing(_desk: Desk) -> None:
    """The operator's desk is no strategy: nobody runs it."""
