"""A moving-average cross that trades one instrument: long above, flat (or short) below.

An example of structure, not advice.

What it shows: it begins from `Recovered` and the book instead of from zero, so that a restart does not double its
position; it names each wish with a key; it keeps one order under way at most; it forgets its averages at a `Gap`,
since prices from before and after must not mix; and it treats a refusal as an answer, not as an accident.
"""

from __future__ import annotations

from collections import deque
from decimal import Decimal

import msgspec
import structlog

from ibkr_service.core.errors import GatewayError, OrderError
from ibkr_service.core.events import Gap, OrderChanged, Recovered, Tick
from ibkr_service.core.instrument import AnyInstrument, parse
from ibkr_service.core.orders import UNCERTAIN, Action, Intent
from ibkr_service.desk import Desk

log = structlog.get_logger("ibkr_service.strategies.sma_cross")


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What to trade and how.

    Args:
        instrument: in the short form, such as `EUR.USD`. quantity: of the position to hold, in units of the instrument.
        fast, slow: lengths of the averages, in quotes. short: hold the opposite position below, instead of none.
    """

    instrument: str
    quantity: Decimal
    fast: int = 20
    slow: int = 80
    short: bool = False

    def __post_init__(self) -> None:
        if not 0 < self.fast < self.slow:
            raise ValueError("fast must be above 0 and below slow")
        if not self.quantity > 0:
            raise ValueError("quantity must be above 0")


class Averages:
    """The two means of the newest mid prices."""

    def __init__(self, fast: int, slow: int) -> None:
        self._fast, self._slow = fast, slow
        self._prices: deque[float] = deque(maxlen=slow)

    def add(self, price: float) -> None:
        """One more price."""
        self._prices.append(price)

    def forget(self) -> None:
        """Begin again."""
        self._prices.clear()

    def signal(self) -> int | None:
        """1 with the fast mean above the slow one, -1 below, None while there are too few prices or no difference."""
        if len(self._prices) < self._slow:
            return None
        prices = list(self._prices)
        fast, slow = sum(prices[-self._fast :]) / self._fast, sum(prices) / self._slow
        return None if fast == slow else (1 if fast > slow else -1)


async def sma_cross(desk: Desk, params: Params) -> None:
    """Hold `quantity` while the fast average is above the slow one."""
    instrument = parse(params.instrument)
    averages = Averages(params.fast, params.slow)
    desk.watch(instrument)
    async for event in desk.events():
        match event:
            case Recovered():
                log.info(
                    "continuing",
                    instrument=str(instrument),
                    position=str(desk.position(instrument)),
                    working=len(event.working),
                )
            case Gap():
                averages.forget()
            case Tick(mid=float(mid)):
                averages.add(mid)
                signal = averages.signal()
                if signal is not None:
                    _hold(desk, instrument, _target(params, signal))
            case OrderChanged() if event.after in UNCERTAIN:
                log.warning("order in doubt; waiting", ref=event.ref, state=event.after.name, why=event.why)


def _target(params: Params, signal: int) -> Decimal:
    if signal > 0:
        return params.quantity
    return -params.quantity if params.short else Decimal(0)


def _hold(desk: Desk, instrument: AnyInstrument, target: Decimal) -> None:
    """Order the difference to the target, unless an order that may still fill is under way."""
    if any(desk.book.alive_orders(desk.name)):
        return
    difference = target - desk.position(instrument)
    if not difference:
        return
    action: Action = "BUY" if difference > 0 else "SELL"
    # The orders so far number the wish: after a crash the same wish gets the same name, and is not sent twice.
    key = f"{action}-{difference.copy_abs()}-after-{desk.book.done_orders(desk.name)}"
    try:
        desk.submit(Intent(instrument=instrument, action=action, quantity=difference.copy_abs()), key=key)
    except (OrderError, GatewayError) as exc:
        log.info("not now", why=str(exc))
