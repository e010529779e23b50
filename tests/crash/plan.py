"""What the strategy of a crash campaign wishes for: a pure function of seed, stint and symbol.

A *life* is one gateway, one journal and a row of daemons, each killed; a *stint* is what is wished for while one of
these daemons lives. Every wish has a name, so that the next daemon says the same wishes again and continues; at the
end of each stint the net position in each instrument is to be what `targets` says.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Literal

from ibkr_service.core.instrument import AnyInstrument, Forex, Stock
from ibkr_service.core.orders import Action, Intent

INSTRUMENTS: dict[str, AnyInstrument] = {
    "AAPL": Stock("AAPL"),
    "MSFT": Stock("MSFT"),
    "EUR.USD": Forex("EUR", "USD"),
}
SMALL_MAX, LARGE_MIN, LARGE_MAX = 200, 1_200, 2_400
"""A quote displays 100 to 900: a large order is filled in parts."""

CancelAt = Literal["never", "working", "partly filled"]
KINDS = ("market", "limit", "resting", "large", "at once")


@dataclass(frozen=True)
class Wish:
    """One thing to want. After a start that found it absent or not sent, it is wished again as another attempt."""

    name: str
    intent: Intent
    cancel: CancelAt = "never"


def targets(seed: int) -> dict[str, Decimal]:
    """The net position that a life aims at."""
    luck = random.Random(f"targets {seed}")
    return {symbol: Decimal(luck.randint(-SMALL_MAX, SMALL_MAX)) for symbol in INSTRUMENTS}


def wishes(seed: int, stint: int, symbol: str, price: Decimal) -> list[Wish]:
    """What is wished for in a stint, in this order; `price` is about the market's."""
    luck = random.Random(f"{seed} {stint} {symbol}")
    kinds = [*KINDS, luck.choice(KINDS)]
    luck.shuffle(kinds)
    return [_wish(luck, f"{stint}.{symbol}.{number}", kind, symbol, price) for number, kind in enumerate(kinds)]


def _wish(luck: random.Random, name: str, kind: str, symbol: str, price: Decimal) -> Wish:
    action: Action = "BUY" if luck.random() < 0.5 else "SELL"
    is_large = kind in {"large", "at once"}
    quantity = Decimal(luck.randint(LARGE_MIN, LARGE_MAX) if is_large else luck.randint(1, SMALL_MAX))
    if kind == "market":
        return Wish(name, Intent(instrument=INSTRUMENTS[symbol], action=action, quantity=quantity))
    generous = (action == "BUY") == (kind != "resting")
    limit = round(price * (Decimal("1.5") if generous else Decimal("0.5")), 2)
    intent = Intent(
        instrument=INSTRUMENTS[symbol],
        action=action,
        quantity=quantity,
        order_type="LMT",
        limit_price=limit,
        tif="IOC" if kind == "at once" else "DAY",
    )
    cancel: dict[str, CancelAt] = {"resting": "working", "large": "partly filled"}
    return Wish(name, intent, cancel.get(kind, "never"))
