"""What the strategy of a crash campaign wishes for: a pure function of seed, stint and symbol.

A *life* is one gateway, one journal and a row of daemons, each killed; a *stint* is what is wished for while one of
these daemons lives. Every wish has a name, so that the next daemon says the same wishes again and continues; at the
end of each stint the net position in each instrument is to be what `targets` says.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from ibkr_service.core.instrument import AnyInstrument, Forex, Stock
from ibkr_service.core.intent import Traded
from ibkr_service.core.orders import Action, Intent
from ibkr_service.core.spreads import Spread, bull_call

SINGLES: dict[str, AnyInstrument] = {
    "AAPL": Stock("AAPL"),
    "MSFT": Stock("MSFT"),
    "EUR.USD": Forex("EUR", "USD"),
}
SPREAD = "AAPL spread"
SYMBOLS = (*SINGLES, SPREAD)
SMALL_MAX, LARGE_MIN, LARGE_MAX = 200, 1_200, 2_400
"""A quote displays 100 to 900: a large order is filled in parts."""
SPREADS_MAX, SPREADS_LARGE_MIN, SPREADS_LARGE_MAX = 5, 20, 60
"""An option displays 5 to 50."""

CancelAt = Literal["never", "working", "partly filled"]
KINDS = ("market", "limit", "resting", "large", "at once", "repriced")


@dataclass(frozen=True)
class Wish:
    """One thing to want. After a start that found it absent or not sent, it is wished again as another attempt."""

    name: str
    intent: Intent
    cancel: CancelAt = "never"
    reprice: Decimal | None = None
    """Once it is working: change the limit to this, at which it fills."""


def traded(legs: Sequence[str]) -> dict[str, Traded]:
    """What is traded, by symbol; `legs` are the options of the spread, lower strike first, as people write them."""
    return {**SINGLES, SPREAD: bull_call(*legs)}


def targets(seed: int) -> dict[str, Decimal]:
    """The net position that a life aims at."""
    luck = random.Random(f"targets {seed}")
    sizes = {symbol: SPREADS_MAX if symbol == SPREAD else SMALL_MAX for symbol in SYMBOLS}
    return {symbol: Decimal(luck.randint(-size, size)) for symbol, size in sizes.items()}


def wishes(seed: int, stint: int, symbol: str, instrument: Traded, price: Decimal) -> list[Wish]:
    """What is wished for in a stint, in this order; `price` is about the market's, of the spread half its width."""
    luck = random.Random(f"{seed} {stint} {symbol}")
    kinds = [*KINDS, luck.choice(KINDS)]
    luck.shuffle(kinds)
    return [_wish(luck, f"{stint}.{symbol}.{number}", kind, instrument, price) for number, kind in enumerate(kinds)]


def _wish(luck: random.Random, name: str, kind: str, instrument: Traded, price: Decimal) -> Wish:
    action: Action = "BUY" if luck.random() < 0.5 else "SELL"
    is_large, is_spread = kind in {"large", "at once"}, isinstance(instrument, Spread)
    large = (SPREADS_LARGE_MIN, SPREADS_LARGE_MAX) if is_spread else (LARGE_MIN, LARGE_MAX)
    small = (1, SPREADS_MAX) if is_spread else (1, SMALL_MAX)
    quantity = Decimal(luck.randint(*(large if is_large else small)))
    if kind == "market":
        return Wish(name, Intent(instrument=instrument, action=action, quantity=quantity))
    # No spread is worth more than its width, and none less than nothing.
    high, low = (Decimal(2), Decimal("0.01")) if is_spread else (Decimal("1.5"), Decimal("0.5"))
    fills, rests = (high, low) if action == "BUY" else (low, high)
    limit = round(price * (rests if kind in {"resting", "repriced"} else fills), 2)
    intent = Intent(
        instrument=instrument,
        action=action,
        quantity=quantity,
        order_type="LMT",
        limit_price=limit,
        tif="IOC" if kind == "at once" else "DAY",
    )
    cancel: dict[str, CancelAt] = {"resting": "working", "large": "partly filled"}
    return Wish(name, intent, cancel.get(kind, "never"), round(price * fills, 2) if kind == "repriced" else None)
