"""The prices at which an instrument can trade: TWS's market rules (minimum price variations), and what to do off them.

A price between two increments is error 110 at the broker. Here it is refused before anything leaves, or rounded in the
user's favour, as `risk.off_tick` says: what is bought is rounded down, what is sold is rounded up. That is less likely
to trade, and never at a worse price. A stop is rounded the same way: it is reached a little earlier or later, but the
price that it stands for is no worse.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import ROUND_CEILING, ROUND_FLOOR, Decimal, InvalidOperation
from typing import Literal

import msgspec

from ibkr_service.core.errors import InvalidIntent, Refused
from ibkr_service.core.intent import Intent

OffTick = Literal["refuse", "round"]
UnknownIncrement = Literal["pass", "refuse"]
PRICE_MAX = Decimal(10) ** 15  # up to here Decimal's 28 digits are exact with any increment
ON_TICK = ("limit_price", "stop_price")
"""The terms of an intent that are prices; a trailing amount is a distance, and TWS rounds the stop itself."""


class Increments(msgspec.Struct, frozen=True):
    """The increments of one instrument: (from this price on, increment), ascending; prices in its quote currency.

    The side of zero does not matter: where prices may be negative, -3.01 has the increment of 3.01.
    """

    steps: tuple[tuple[Decimal, Decimal], ...]

    @classmethod
    def of(cls, steps: Iterable[tuple[Decimal, Decimal]]) -> Increments | None:
        """From what the broker sent; None if there is no usable increment in it."""
        usable = tuple(sorted((low, step) for low, step in steps if step > 0))
        return cls(usable) if usable else None

    def at(self, price: Decimal) -> Decimal:
        """The increment at a price."""
        size, found = abs(price), self.steps[0][1]
        for low, step in self.steps:
            if size < low:
                break
            found = step
        return found

    def fits(self, price: Decimal) -> bool:
        """Whether something can trade at this price."""
        try:
            return not price % self.at(price)
        except InvalidOperation:  # so large that the quotient has more than 28 digits
            return False

    def rounded(self, price: Decimal, action: str) -> Decimal:
        """The nearest price that is no worse for who buys or sells: down for BUY, up for SELL."""
        if abs(price) >= PRICE_MAX:
            raise InvalidIntent(f"{price} is no price")
        step = self.at(price)
        way = ROUND_FLOOR if action == "BUY" else ROUND_CEILING
        nearest = (price / step).to_integral_value(way) * step
        # Over the border of two steps the finer increment may not fit the coarser one: once more, there.
        return nearest if self.fits(nearest) else self.rounded(nearest, action)


def fitted(
    intent: Intent, known: Increments | None, *, off_tick: OffTick, unknown_increment: UnknownIncrement
) -> Intent:
    """The intent with prices at which its instrument can trade; nearly always itself.

    Args:
        known: the instrument's increments, None if the broker has not been asked.

    Raises:
        Refused: a price lies between two increments (`off_tick`), or nobody knows (`unknown_increment`).
    """
    limit, stop = intent.limit_price, intent.stop_price
    if limit is stop is None:
        return intent
    if known is None:
        if unknown_increment == "refuse":
            raise Refused("unknown_increment", "prices of a known increment", f"{intent}: await desk.qualify first")
        return intent
    if (limit is None or known.fits(limit)) and (stop is None or known.fits(stop)):
        return intent
    off = {name: price for name in ON_TICK if (price := getattr(intent, name)) is not None and not known.fits(price)}
    if off_tick == "refuse":
        name, price = next(iter(off.items()))
        near = {known.rounded(price, side) for side in ("BUY", "SELL")}
        words = " or ".join(f"{each:f}" for each in sorted(near))
        raise Refused("off_tick", f"multiples of {known.at(price):f}, such as {words}", f"{name} {price:f}")
    return msgspec.structs.replace(intent, **{name: known.rounded(price, intent.action) for name, price in off.items()})


def on_increment(price: Decimal, action: str, known: Increments | None) -> Decimal:
    """A price at which something can trade, no worse than this one; to the cent if nobody knows its increments."""
    if known is not None:
        return known.rounded(price, action)
    return price.quantize(Decimal("0.01"), ROUND_FLOOR if action == "BUY" else ROUND_CEILING)
