"""An option chain as a value: which contracts were wanted, what is known of each, and what is missing.

A chain consists of *slices*: one expiry date in one trading class. SPX and SPXW on the same Friday are two slices
(one settles at the opening, one at the close) and never share a row. Which slices and strikes are wanted is decided in
`chainselection.py`, which are wanted by delta on the finished chain.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import Literal

import msgspec

from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.events import DataType, Greeks
from ibkr_service.core.instrument import AnyInstrument, AnyOption, Future, Index, Right, Stock, standard_class

Settlement = Literal["AM", "PM", ""]
Expiries = int | list[str] | tuple[int, int]
Strikes = int | list[float] | tuple[float, float]

GREEKS = ("implied_volatility", "delta", "gamma", "theta", "vega")


class Definition(msgspec.Struct, frozen=True):
    """One answer to reqSecDefOptParams: what an exchange lists in one trading class.

    The strikes are those of all expiries together; not every strike exists at every expiry.
    """

    exchange: str
    trading_class: str
    multiplier: str
    expiries: frozenset[str]
    strikes: frozenset[float]


class Slice(msgspec.Struct, frozen=True, order=True):
    """One expiry of one trading class.

    `expiry` is `YYYYMMDD`, the last day of trading as TWS names it (of SPX mostly the day before it settles);
    `settlement` is AM, PM, or empty where TWS is silent.
    """

    expiry: str
    trading_class: str
    exchange: str = ""
    multiplier: str = ""
    settlement: Settlement = ""


class ChainRow(msgspec.Struct, frozen=True, kw_only=True):
    """One contract of a chain. Prices per unit of the underlying; None where the market, or nobody, has a value.

    `missing` names what did not arrive within the time limit (`quote`, `greeks`, or why there is nothing at all);
    `at` is when the newest of it came in (UTC). `greeks.computed` says whose the greeks are.
    """

    option: AnyOption
    con_id: int
    settlement: Settlement = ""
    bid: float | None = None
    ask: float | None = None
    last: float | None = None
    bid_size: float | None = None
    ask_size: float | None = None
    last_size: float | None = None
    volume: float | None = None
    open_interest: float | None = None
    close: float | None = None
    greeks: Greeks = Greeks()
    data_type: DataType = "unknown"
    at: datetime | None = None
    missing: tuple[str, ...] = ()

    @property
    def mid(self) -> float | None:
        """Halfway between bid and ask, if both exist."""
        return None if self.bid is None or self.ask is None else (self.bid + self.ask) / 2

    @property
    def implied_volatility(self) -> float | None:
        """Annual, 0.25 is 25 %."""
        return self.greeks.implied_volatility

    @property
    def delta(self) -> float | None:
        """Per unit of the underlying."""
        return self.greeks.delta

    @property
    def gamma(self) -> float | None:
        """Change of delta per unit of the underlying."""
        return self.greeks.gamma

    @property
    def theta(self) -> float | None:
        """Per calendar day."""
        return self.greeks.theta

    @property
    def vega(self) -> float | None:
        """Per percentage point of volatility."""
        return self.greeks.vega

    @property
    def rho(self) -> float | None:
        """Per percentage point of interest; TWS does not send it, so it is always computed."""
        return self.greeks.rho

    @property
    def underlying_price(self) -> float | None:
        """At which the greeks were computed, by whomever."""
        return self.greeks.underlying_price


class OptionChain(msgspec.Struct, frozen=True, kw_only=True):
    """The chain of an underlying at one moment.

    `rows` are sorted by expiry, trading class, strike and right. `missing` says in words what was wanted and is not
    there, by contract or slice; a chain without it is complete.
    """

    underlying: AnyInstrument
    underlying_price: float | None
    at: datetime
    slices: tuple[Slice, ...]
    rows: tuple[ChainRow, ...]
    missing: tuple[str, ...] = ()

    @property
    def complete(self) -> bool:
        """Whether everything that was wanted is there."""
        return not self.missing

    @property
    def calls(self) -> tuple[ChainRow, ...]:
        """The calls among the rows."""
        return tuple(row for row in self.rows if row.option.right == "C")

    @property
    def puts(self) -> tuple[ChainRow, ...]:
        """The puts among the rows."""
        return tuple(row for row in self.rows if row.option.right == "P")

    def of(self, wanted: Slice) -> tuple[ChainRow, ...]:
        """The rows of one slice."""
        return tuple(row for row in self.rows if _is_of(row, wanted))

    def row(self, expiry: str, strike: float, right: Right, trading_class: str | None = None) -> ChainRow | None:
        """The row of one contract; None if it was not wanted or does not exist.

        Raises:
            InvalidIntent: two trading classes have such a contract, and none was named.
        """
        found = [
            row
            for row in self.rows
            if (row.option.expiry, row.option.strike, row.option.right) == (expiry, strike, right)
            and trading_class in {None, _class(row.option)}
        ]
        if len(found) > 1:
            names = " and ".join(_class(row.option) for row in found)
            raise InvalidIntent(f"{expiry} {strike:g} {right} exists in {names}: name the trading_class")
        return found[0] if found else None

    def nearest_delta(self, delta: float, wanted: Slice | None = None) -> ChainRow | None:
        """The contract whose delta is nearest: positive for a call (0.30), negative for a put (-0.30).

        Raises:
            InvalidIntent: that is no delta.
        """
        if not 0 < abs(delta) <= 1:
            raise InvalidIntent(f"a delta is 0.30 of a call, -0.30 of a put, not {delta!r}")
        right = "C" if delta > 0 else "P"
        rows = [
            row
            for row in self.rows
            if row.option.right == right and row.delta is not None and (wanted is None or _is_of(row, wanted))
        ]
        return min(rows, key=lambda row: abs((row.delta or 0.0) - delta), default=None)

    def with_delta(self, low: float, high: float) -> tuple[ChainRow, ...]:
        """The rows whose absolute delta lies within these two, both included."""
        return tuple(row for row in self.rows if row.delta is not None and low <= abs(row.delta) <= high)

    def at_the_money(self, wanted: Slice) -> float | None:
        """The strike nearest to the price of the underlying; the lower of two."""
        strikes = {row.option.strike for row in self.of(wanted)}
        if self.underlying_price is None or not strikes:
            return None
        price = self.underlying_price
        return min(sorted(strikes), key=lambda strike: abs(strike - price))

    def pairs(self, wanted: Slice) -> list[tuple[float, ChainRow | None, ChainRow | None]]:
        """Strike, call and put of one slice, as a chain is printed."""
        sides: dict[float, dict[str, ChainRow]] = {}
        for row in self.of(wanted):
            sides.setdefault(row.option.strike, {})[row.option.right] = row
        return [(strike, sides[strike].get("C"), sides[strike].get("P")) for strike in sorted(sides)]


def _class(option: AnyOption) -> str:
    """An option's trading class; TWS's is the symbol where none is given."""
    return option.trading_class or standard_class(option.symbol)


def _is_of(row: ChainRow, wanted: Slice) -> bool:
    return (row.option.expiry, _class(row.option)) == (wanted.expiry, wanted.trading_class)


Progress = Callable[[int, int], None]
"""Called with the number of contracts that are complete, and of all."""


def no_progress(_done: int, _all: int) -> None:
    """Nobody wants to know."""


@dataclass(frozen=True)
class ChainRequest:
    """What is wanted of a chain.

    Args:
        expiries: how many dates from today on, a list of dates as `YYYYMMDD`, or (least, most) days to expiry.
        strikes: how many around the money, a list of strikes, or (lowest, highest).
        rights: "C", "P" or "CP". trading_class: one of several (SPX, SPXW); all if not named, but for adjusted ones.
        deadline_s: when to be content with what there is, in seconds. compute: price greeks that the broker does not
        send; with `rate` and `dividend_yield`, both continuous and annual (0.04 is 4 %).

    Raises:
        InvalidIntent: it makes no sense.
    """

    underlying: AnyInstrument
    expiries: Expiries = 2
    strikes: Strikes = 10
    rights: str = "CP"
    trading_class: str | None = None
    exchange: str | None = None
    deadline_s: float = 30.0
    compute: bool = True
    rate: float = 0.04
    dividend_yield: float = 0.0
    on_progress: Progress = no_progress

    def __post_init__(self) -> None:
        if not isinstance(self.underlying, (Stock, Index, Future)):
            raise InvalidIntent(f"{self.underlying} has no options: the underlying is a Stock, an Index or a Future")
        if not self.rights or set(self.rights) - {"C", "P"}:
            raise InvalidIntent(f'rights is "C", "P" or "CP", not {self.rights!r}')
        if not 0 < self.deadline_s < math.inf:
            raise InvalidIntent(f"deadline_s must be positive and finite, not {self.deadline_s!r}")
        if not math.isfinite(self.rate) or not 0 <= self.dividend_yield < math.inf:
            raise InvalidIntent(f"rate {self.rate!r} or dividend_yield {self.dividend_yield!r} makes no sense")
        _check("expiries", self.expiries, "a number, a list of YYYYMMDD, or (least, most) days")
        _check("strikes", self.strikes, "a number, a list of strikes, or (lowest, highest)")

    @property
    def needs_price(self) -> bool:
        """Whether the price of the underlying decides which strikes are wanted."""
        return isinstance(self.strikes, int)


def _check(name: str, value: object, wanted: str) -> None:
    """Strategies are not type-checked; a text is a list of letters to Python, and True a number."""
    match value:
        case bool() | str():
            is_good = False
        case int():
            is_good = value >= 1
        case tuple():
            is_good = len(value) == len(("low", "high")) and all(isinstance(each, int | float) for each in value)
        case list():
            is_good = bool(value)
        case _:
            is_good = False
    if not is_good:
        raise InvalidIntent(f"{name} is {wanted}, not {value!r}")


def what_is_missing(row: ChainRow) -> tuple[str, ...]:
    """What a row lacks of a quote and greeks. A market with no bid is a quote; one with nothing at all is none."""
    missing = []
    if row.bid is None and row.ask is None and row.last is None:
        missing.append("quote")
    if any(getattr(row.greeks, name) is None for name in GREEKS):
        missing.append("greeks")
    return tuple(missing)
