"""What is traded: frozen values in the words of TWS.

An instrument's identity is what it is, not how it is routed: `exchange` and `primary_exchange` are hints for the
broker and take no part in equality, since positions come back from TWS without them. A `Bag` is a combination by its
legs' conIds.
"""

from __future__ import annotations

import re
from functools import cached_property
from operator import attrgetter
from typing import Literal

import msgspec

from ibkr_service.core.errors import InvalidIntent

Right = Literal["C", "P"]
Action = Literal["BUY", "SELL"]
ROUTING = frozenset({"exchange", "primary_exchange"})
_KINDS: dict[str, tuple[type, ...]] = {"strike": (float, int), "con_id": (int,), "legs": (tuple,)}  # all else is text


class Instrument(msgspec.Struct, frozen=True, eq=False, tag_field="kind", dict=True):
    """Base of all instruments. Equality and hash leave routing hints out; the hash is computed once."""

    def __post_init__(self) -> None:
        # A struct does not check types when it is made; a wrong one would be journalled, and could not be read back.
        for name in self.__struct_fields__:
            value, kinds = getattr(self, name), _KINDS.get(name, (str,))
            if not isinstance(value, kinds) or isinstance(value, bool):
                wanted = " or ".join(kind.__name__ for kind in kinds)
                raise InvalidIntent(f"{type(self).__name__}: {name} must be {wanted}, not {value!r}")

    @property
    def identity(self) -> tuple[object, ...]:
        """Every field that is not a routing hint."""
        kind = type(self)
        read = _IDENTITY.get(kind)
        if read is None:
            names = [name for name in self.__struct_fields__ if name not in ROUTING]
            _IDENTITY[kind] = read = attrgetter(*names)
        return read(self)

    def __eq__(self, other: object) -> bool:
        # The same object nearly always: this is asked for every tick.
        return self is other or (type(self) is type(other) and self.identity == other.identity)

    def __hash__(self) -> int:
        return self._hash

    @cached_property
    def _hash(self) -> int:
        return hash(self.identity)


_IDENTITY: dict[type[Instrument], attrgetter[tuple[object, ...]]] = {}


class Stock(Instrument, frozen=True, eq=False, tag="Stock"):
    """A share or ETF. `primary_exchange` settles symbols that trade in several places."""

    symbol: str
    currency: str = "USD"
    exchange: str = "SMART"
    primary_exchange: str = ""

    def __str__(self) -> str:
        return self.symbol if self.currency == "USD" else f"{self.symbol}.{self.currency}"


class Forex(Instrument, frozen=True, eq=False, tag="Forex"):
    """A currency pair: `Forex("EUR", "USD")` is EUR.USD, quoted in USD for one EUR; quantity in EUR."""

    symbol: str
    currency: str
    exchange: str = "IDEALPRO"

    def __str__(self) -> str:
        return f"{self.symbol}.{self.currency}"


class Option(Instrument, frozen=True, eq=False, tag="Option"):
    """An option. `expiry` is `YYYYMMDD`.

    `strike` in `currency`, `multiplier` in units of the underlying per contract.
    """

    symbol: str
    expiry: str
    strike: float
    right: Right
    multiplier: str = "100"
    currency: str = "USD"
    trading_class: str = ""
    exchange: str = "SMART"

    def __post_init__(self) -> None:
        Instrument.__post_init__(self)
        if self.right not in {"C", "P"}:
            raise InvalidIntent(f"option right must be C or P, not {self.right!r}")
        if not re.fullmatch(r"\d{8}", self.expiry):
            raise InvalidIntent(f"option expiry must be YYYYMMDD, not {self.expiry!r}")
        if not 0 < self.strike < float("inf"):
            raise InvalidIntent(f"option strike must be a positive number, not {self.strike!r}")

    def __str__(self) -> str:
        return f"{self.symbol} {self.expiry} {self.strike:g} {self.right}"


class FutureOption(Option, frozen=True, eq=False, tag="FutureOption"):
    """An option on a future, such as ES: `exchange` is that of the future, `multiplier` the future's."""

    exchange: str = "CME"
    multiplier: str = ""

    def __str__(self) -> str:
        return f"{self.symbol} {self.expiry} {self.strike:g} {self.right} (future option)"


AnyOption = Option | FutureOption


def standard_class(symbol: str) -> str:
    """The trading class that is named like the symbol: BRKB for BRK B."""
    return symbol.replace(" ", "")


def name_of(option: AnyOption) -> str:
    """An option's name for messages, with its trading class where the symbol does not say it."""
    return f"{option} ({option.trading_class})" if option.trading_class else str(option)


class Future(Instrument, frozen=True, eq=False, tag="Future"):
    """A futures contract. `expiry` is `YYYYMM` or `YYYYMMDD`."""

    symbol: str
    expiry: str
    exchange: str
    currency: str = "USD"
    multiplier: str = ""

    def __str__(self) -> str:
        return f"{self.symbol} {self.expiry}"


class Index(Instrument, frozen=True, eq=False, tag="Index"):
    """An index: quotes, but no orders."""

    symbol: str
    exchange: str
    currency: str = "USD"

    def __str__(self) -> str:
        return self.symbol


class Bag(Instrument, frozen=True, eq=False, tag="Bag"):
    """A combination as the broker reports it: (conId, ratio, BUY or SELL) per leg."""

    symbol: str
    currency: str
    legs: tuple[tuple[int, int, str], ...] = ()
    exchange: str = "SMART"

    def __str__(self) -> str:
        return f"{self.symbol} combo of {len(self.legs)} legs"


class Other(Instrument, frozen=True, eq=False, tag="Other"):
    """Anything else an account may hold (bond, fund, warrant …): visible by conId, not traded by us."""

    sec_type: str
    symbol: str
    currency: str
    con_id: int
    local_symbol: str = ""

    def __str__(self) -> str:
        return self.local_symbol or f"{self.symbol} ({self.sec_type})"


AnyInstrument = Stock | Forex | Option | FutureOption | Future | Index | Bag | Other


FORMS = (
    "AAPL, EUR.USD, 'AAPL 20270115 150 C', STK:VOD.GBP@LSE, IND:SPX@CBOE, 'FUT:ES 202612 50@CME' or "
    "'FOP:ES 20261218 6000 C@CME'"
)


def parse(text: str) -> AnyInstrument:
    """Read the short form that people type: `AAPL`, `EUR.USD`, `AAPL 20270115 150 C`.

    With TWS's name of the kind in front everything else can be said, too: `IND:SPX@CBOE`, `FUT:ES 202612@CME` (or, with
    the multiplier that an order needs, `FUT:ES 202612 50@CME`), `FOP:ES 20261218 6000 C@CME`, `STK:VOD.GBP@LSE`
    (currency and exchange), `STK:BRK B`, `CASH:EUR.USD`.

    Raises:
        InvalidIntent: with the forms that are understood.
    """
    plain = " ".join(text.upper().split())
    kind, colon, rest = plain.partition(":")
    try:
        found = _typed(kind, rest.strip()) if colon else _short(plain)
    except InvalidIntent as exc:
        raise InvalidIntent(f"cannot read instrument {text!r}: {exc}") from None
    if found is None:
        raise InvalidIntent(f"cannot read instrument {text!r}: write {FORMS}")
    return found


def _short(text: str) -> AnyInstrument | None:
    match text.split():
        case [one] if re.fullmatch(r"[A-Z]{3}\.[A-Z]{3}", one):
            return Forex(*one.split("."))
        case [one] if re.fullmatch(r"[A-Z0-9]{1,12}", one):
            return Stock(one)
        case [symbol, expiry, strike, right] if _is_strike(strike) and right in {"C", "P"}:
            return Option(symbol, expiry, float(strike), "C" if right == "C" else "P")
    return None


def _typed(kind: str, text: str) -> AnyInstrument | None:  # noqa: PLR0911 - one for each kind
    """What stands behind `IND:` and the like: symbol[.currency] [expiry [strike right]][@exchange]."""
    text, at, exchange = (part.strip() for part in text.partition("@"))
    words = text.split()
    if not words or (at and not re.fullmatch(r"[A-Z0-9]+", exchange)):
        return None
    routed = {"exchange": exchange} if at else {}
    name, dot, currency = text.partition(".")
    money = {"currency": currency} if dot and re.fullmatch("[A-Z]{3}", currency) else {}
    match kind, words:
        case "STK", _ if re.fullmatch(r"[A-Z0-9]+( [A-Z0-9]+)?", name) and bool(dot) == bool(money):
            return Stock(name, **routed, **money)
        case "CASH", [_] if re.fullmatch(r"[A-Z]{3}", name) and money:
            return Forex(name, **routed, **money)
        case "IND", [_] if at and name and bool(dot) == bool(money):
            return Index(name, exchange, **money)
        case "FUT", [symbol, expiry, *multiplier] if at and re.fullmatch(r"\d{6}(\d{2})?", expiry):
            if len(multiplier) > 1 or not all(_is_strike(number) for number in multiplier):
                return None
            return Future(symbol, expiry, exchange, multiplier=multiplier[0] if multiplier else "")
        case (("OPT" | "FOP"), [symbol, expiry, strike, right]) if _is_strike(strike) and right in {"C", "P"}:
            side: Right = "C" if right == "C" else "P"
            return (Option if kind == "OPT" else FutureOption)(symbol, expiry, float(strike), side, **routed)
    return None


def _is_strike(text: str) -> bool:
    return re.fullmatch(r"\d+(\.\d+)?", text) is not None
