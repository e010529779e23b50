"""What a price is here: the `Quote`, and the `PriceSource` that says which quote holds at which gateway second.

A price source is a function of time with no memory of who asked. That is what makes the market lazy (nobody watches,
nothing is computed) and the path the same however many clients watch it, and from whenever on. It knows the past as
well: `moments` says when a price was extreme, so that a bar of any size costs four quotes.
"""

from decimal import Decimal
from typing import NamedTuple, Protocol

from ibkr_service.sim.contracts import Contract


class Greeks(NamedTuple):
    """An option's model values; `theta` per day, `vega` per volatility point of one hundredth."""

    price: float
    implied_vol: float
    delta: float
    gamma: float
    vega: float
    theta: float
    under_price: float


class Quote(NamedTuple):
    """The best bid and ask from gateway second `at` on; sizes in units of the contract.

    A tuple, as it is made for every change of every instrument: that costs a fifth of a frozen dataclass.
    """

    at: float
    bid: Decimal
    ask: Decimal
    bid_size: Decimal
    ask_size: Decimal
    last: Decimal | None = None
    last_size: Decimal | None = None
    greeks: tuple[Greeks, Greeks, Greeks, Greeks] | None = None
    """For an option: at the bid, at the ask, at the last price, and of the model."""

    @property
    def mid(self) -> Decimal:
        """Half way between bid and ask."""
        return (self.bid + self.ask) / 2


class Moments(NamedTuple):
    """Gateway seconds within a span at which a quote was the first, the lowest, the highest and the last one."""

    first: float
    lowest: float
    highest: float
    last: float


class Trades(NamedTuple):
    """How much was traded, and in how many trades."""

    volume: int
    number: int


NO_TRADES = Trades(0, 0)


class PriceSource(Protocol):
    """Where prices come from."""

    def quote(self, contract: Contract, at_s: float) -> Quote | None:
        """The quote that holds at a gateway second; None before the first."""
        ...

    def next_change(self, contract: Contract, after_s: float) -> float | None:
        """The gateway second of the first change after a moment; None when nothing will change any more."""
        ...

    def moments(self, contract: Contract, from_s: float, to_s: float) -> Moments | None:
        """The first, lowest, highest and last of the changes from a second up to but not including another one."""
        ...

    def trades(self, contract: Contract, from_s: float, to_s: float) -> Trades:
        """What was traded from a second up to but not including another one."""
        ...
