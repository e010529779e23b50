"""A wish: what to buy or sell, how, and until when. Existing means valid; values are exact.

Order types, times in force and further fields have TWS's names
(https://interactivebrokers.github.io/tws-api/available_orders.html). What a type needs and what it cannot have is one
row of `TYPES`; whatever makes no sense is an `InvalidIntent` that says what to write instead. Whether ib_insync knows a
further field is checked where ib_insync is, in `broker/orderfields.py`.

An intent is journalled: a new field has a default, so that an old journal can still be read.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any, Literal, NamedTuple, Self, TypeGuard

import msgspec

from ibkr_service.core.combination import Side, Spread
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import (
    Action,
    AnyInstrument,
    Bag,
    Forex,
    Future,
    Index,
    Instrument,
    Option,
    Other,
    Stock,
)
from ibkr_service.core.netprice import NetPrice

OrderType = Literal["MKT", "LMT", "STP", "STP LMT", "TRAIL", "TRAIL LIMIT", "MOC", "LOC", "MIDPRICE"]
TimeInForce = Literal["DAY", "GTC", "IOC", "FOK", "GTD", "OPG"]
Traded = AnyInstrument | Spread
FieldValue = str | int | bool | tuple[tuple[str, str], ...]
Exact = Decimal | int | str
"""A number as people write it; a float is not what was written."""

TRAILING = frozenset({"TRAIL", "TRAIL LIMIT"})
DECIMALS_MAX = 20  # far beyond any market's; it finds Decimal(0.1), which has 55 and would reach the wire with them
PERCENT_MAX = 100


class TypeRow(NamedTuple):
    """What one order type must have, may have, and in which times in force it exists."""

    needs: frozenset[str] = frozenset()
    may_have: frozenset[str] = frozenset()
    tifs: frozenset[str] = frozenset({"DAY", "GTC", "IOC", "FOK", "GTD"})
    trails: bool = False


_RESTING = frozenset({"DAY", "GTC", "GTD"})  # what waits for a trigger cannot be immediate (TWS error 111)
TYPES: Mapping[str, TypeRow] = MappingProxyType(
    {
        "MKT": TypeRow(tifs=frozenset({"DAY", "GTC", "IOC", "FOK", "GTD", "OPG"})),
        "LMT": TypeRow(frozenset({"limit_price"}), tifs=frozenset({"DAY", "GTC", "IOC", "FOK", "GTD", "OPG"})),
        "STP": TypeRow(frozenset({"stop_price"}), tifs=_RESTING),
        "STP LMT": TypeRow(frozenset({"stop_price", "limit_price"}), tifs=_RESTING),
        "TRAIL": TypeRow(may_have=frozenset({"stop_price"}), tifs=_RESTING, trails=True),
        "TRAIL LIMIT": TypeRow(
            may_have=frozenset({"stop_price", "limit_price", "limit_offset"}), tifs=_RESTING, trails=True
        ),
        "MOC": TypeRow(tifs=frozenset({"DAY"})),
        "LOC": TypeRow(frozenset({"limit_price"}), tifs=frozenset({"DAY"})),
        "MIDPRICE": TypeRow(may_have=frozenset({"limit_price"}), tifs=_RESTING),
    }
)
TIMES_IN_FORCE = frozenset({"DAY", "GTC", "IOC", "FOK", "GTD", "OPG"})
SPREAD_TYPES = ("MKT", "LMT")
_PRICES = ("limit_price", "stop_price", "limit_offset")
_SIMPLE = frozenset({"DAY", "GTC", "IOC"})
_ORDERED = frozenset({Stock, Forex, Option, Future})


class Algo(msgspec.Struct, frozen=True):
    """An algorithm of IB's, by its name and its parameters' names .

    They are IB's (https://interactivebrokers.github.io/tws-api/ibalgos.html).
    `Algo.of("Adaptive", adaptivePriority="Urgent")`; `Algo.of("Vwap", maxPctVol="0.1", noTakeLiq=True)`.
    """

    name: str
    parameters: tuple[tuple[str, str], ...] = ()

    @classmethod
    def of(cls, name: str, **parameters: Exact | bool) -> Self:
        """With its parameters as people write them; a truth value becomes TWS's 1 or 0.

        Raises:
            InvalidIntent: the name is empty, or a parameter is not exact.
        """
        return cls(name, tuple((key, _word(f"{name} {key}", value)) for key, value in parameters.items()))

    def __post_init__(self) -> None:
        if not (_is_text(self.name) and self.name and _are_tags(self.parameters)):
            raise InvalidIntent('an algorithm is written Algo.of("Adaptive", adaptivePriority="Normal")')

    def __str__(self) -> str:
        return f"{self.name}({', '.join(f'{name}={value}' for name, value in self.parameters)})"


class Intent(msgspec.Struct, frozen=True, kw_only=True):
    """A wish: buy or sell a quantity of an instrument. Existing means valid.

    `Intent.buy(AAPL, 100, limit="231.50")` reads better for people; this is the whole of it.

    Args:
        quantity: in units of the instrument (shares, contracts, base currency), > 0.
        instrument: of a spread BUY opens the LONG side of it, SELL the SHORT one; quantity counts spreads.
        limit_price: in the quote currency; of LMT, STP LMT, LOC; of MIDPRICE, if given, the worst price. Of a spread
        the signed price that goes on the wire (docs/spreads.md); `buy`, `sell` and `of` take debit= and credit=.
        account: empty for the account that the settings chose.
        stop_price: what triggers STP and STP LMT; of a trailing order where the stop starts (default: TWS computes it).
        trailing_amount, trailing_percent: how far the stop trails the market, in the quote currency or percent of the
        price; one of the two.
        limit_offset: of TRAIL LIMIT, how far the limit lies beyond the stop, >= 0; or else stop_price and limit_price.
        good_till: when a GTD order ends; with its time zone.
        unnatural: of a spread: the limit's money goes against the certain direction, on purpose.
        fields: further TWS order fields by their ib_insync names, `{"hidden": True, "displaySize": 100}`; kept as
        sorted pairs, numbers with decimals as text.

    Raises:
        InvalidIntent: it makes no sense, with what to write instead.
    """

    instrument: Traded
    action: Action
    quantity: Decimal
    order_type: OrderType = "MKT"
    limit_price: Decimal | None = None
    tif: TimeInForce = "DAY"
    outside_rth: bool = False
    account: str = ""
    stop_price: Decimal | None = None
    trailing_amount: Decimal | None = None
    trailing_percent: Decimal | None = None
    limit_offset: Decimal | None = None
    good_till: datetime | None = None
    algo: Algo | None = None
    fields: tuple[tuple[str, FieldValue], ...] = ()
    unnatural: bool = False

    def __post_init__(self) -> None:
        is_usual = (  # at a glance, since a strategy makes intents between a tick and an order
            type(self.instrument) in _ORDERED
            and self.outside_rth is False
            and type(self.account) is str
            and type(self.quantity) is Decimal
            and str(self.quantity).isdecimal()
        )
        if not is_usual:
            _check_instrument(self.instrument)
            _check_kind("outside_rth", self.outside_rth, bool)
            _check_kind("account", self.account, str)
            _check_decimal("quantity", self.quantity)
        if self.quantity <= 0:
            raise InvalidIntent(f"quantity must be above 0, not {self.quantity}")
        if self.action not in {"BUY", "SELL"}:
            raise InvalidIntent(f"action must be BUY or SELL, not {self.action!r}")
        if type(self.instrument) is Spread or self.unnatural:
            _check_spread(self)
        if self.is_plain:
            if self.order_type == "MKT":
                if self.limit_price is not None:
                    raise InvalidIntent("a MKT order has no limit_price")
            elif self.limit_price is None:
                raise InvalidIntent("a LMT order needs a limit_price")
            else:
                _check_decimal("limit_price", self.limit_price)
            return
        _check_type(self)
        _check_trailing(self)
        _check_time(self)
        if self.algo is not None and not isinstance(self.algo, Algo):
            raise InvalidIntent('algo is written Algo.of("Adaptive", adaptivePriority="Normal")')
        msgspec.structs.force_setattr(self, "fields", _pairs(self.fields))

    @classmethod
    def buy(cls, instrument: Traded, quantity: Exact, **terms: Any) -> Self:  # noqa: ANN401 - `of` says
        """Buy: `Intent.buy(AAPL, 100)`, `Intent.buy(AAPL, 100, limit="231.50", tif="GTC")`; terms as in `of`."""
        return cls.of("BUY", instrument, quantity, **terms)

    @classmethod
    def sell(cls, instrument: Traded, quantity: Exact, **terms: Any) -> Self:  # noqa: ANN401 - `of` says
        """Sell: `Intent.sell(AAPL, 100, stop="225")`, `Intent.sell(AAPL, 100, trail_percent="2")`; as in `of`."""
        return cls.of("SELL", instrument, quantity, **terms)

    @classmethod
    def of(  # noqa: PLR0913 - an order has many terms; all have defaults
        cls,
        action: Action,
        instrument: Traded,
        quantity: Exact,
        *,
        limit: Exact | None = None,
        debit: Exact | None = None,
        credit: Exact | None = None,
        unnatural: bool = False,
        stop: Exact | None = None,
        trail: Exact | None = None,
        trail_percent: Exact | None = None,
        limit_offset: Exact | None = None,
        order_type: OrderType | None = None,
        tif: TimeInForce | None = None,
        good_till: datetime | None = None,
        outside_rth: bool = False,
        algo: Algo | None = None,
        fields: Mapping[str, object] | None = None,
        account: str = "",
    ) -> Self:
        """An intent whose order type follows from its prices, if it is not said.

        No price is MKT, `limit` LMT, `stop` STP, both STP LMT; with `trail` or `trail_percent` TRAIL, with a limit or
        `limit_offset` besides TRAIL LIMIT; `good_till` means GTD. MOC, LOC and MIDPRICE have to be said.

        A limit of a spread is `debit` or `credit`, or a bare `limit`, which takes the natural direction of this side.

        Raises:
            InvalidIntent: it makes no sense.
        """
        limit = limit_of(instrument, action, limit, debit=debit, credit=credit, unnatural=unnatural)
        if order_type is None:
            order_type = _type_of(
                has_limit=(limit, limit_offset) != (None, None),
                has_stop=stop is not None,
                trails=(trail, trail_percent) != (None, None),
            )
        return cls(
            instrument=instrument,
            action=action,
            quantity=exact("quantity", quantity),
            order_type=order_type,
            limit_price=_optional("limit", limit),
            stop_price=_optional("stop", stop),
            trailing_amount=_optional("trail", trail),
            trailing_percent=_optional("trail_percent", trail_percent),
            limit_offset=_optional("limit_offset", limit_offset),
            tif=tif or ("DAY" if good_till is None else "GTD"),
            good_till=good_till,
            outside_rth=outside_rth,
            algo=algo,
            fields=_pairs(fields or ()),
            account=account,
            unnatural=unnatural,
        )

    @property
    def contracts(self) -> tuple[AnyInstrument, ...]:
        """The single contracts that it trades: the instrument, or the legs of the spread."""
        traded = self.instrument
        return tuple(leg.instrument for leg in traded.legs) if isinstance(traded, Spread) else (traded,)

    @property
    def net_price(self) -> NetPrice | None:
        """The limit of a spread with its direction; None for anything else."""
        if self.limit_price is None or not isinstance(self.instrument, Spread):
            return None
        return NetPrice.of_signed(self.action, self.limit_price, is_unnatural=self.unnatural)

    @property
    def is_plain(self) -> bool:
        """Whether it is a MKT or LMT order and nothing else is said: nearly every one is."""
        return (
            self.order_type in {"MKT", "LMT"}
            and self.tif in _SIMPLE
            and self.fields == ()  # not merely empty: what is written as {} is made a tuple
            and self.algo is None
            and self.stop_price is None
            and self.trailing_amount is None
            and self.trailing_percent is None
            and self.limit_offset is None
            and self.good_till is None
        )

    @property
    def signed(self) -> Decimal:
        """Quantity with the sign of the position change."""
        return self.quantity if self.action == "BUY" else -self.quantity

    def __str__(self) -> str:
        words = [f"{self.action} {self.quantity} {self.instrument} {self.order_type}"]
        if self.limit_price is not None:
            words.append(str(self.net_price or self.limit_price))
        for name, value in (
            ("stop", self.stop_price),
            ("trail", self.trailing_amount),
            ("trail %", self.trailing_percent),
            ("limit offset", self.limit_offset),
        ):
            if value is not None:
                words.append(f"{name} {value}")
        words.append(self.tif)
        if self.good_till is not None:
            words.append(f"till {self.good_till:%Y-%m-%d %H:%M:%S %Z}")
        if self.outside_rth:
            words.append("outside hours")
        if self.algo is not None:
            words.append(str(self.algo))
        words += [f"{name}={value}" for name, value in self.fields]
        return " ".join(words)


def exact(name: str, value: object) -> Decimal:
    """A number as it was written.

    Raises:
        InvalidIntent: a float, a truth value, or no number.
    """
    if isinstance(value, Decimal):
        return value
    if isinstance(value, (float, bool)):
        raise InvalidIntent(f'{name} must be exact: write Decimal("{value}") or "{value}"')
    try:
        return Decimal(value)  # type: ignore[arg-type]  # whatever else it is, it is refused here
    except (InvalidOperation, TypeError, ValueError):
        raise InvalidIntent(f"{name} is no number: {value!r}") from None


def limit_of(
    traded: Traded, action: Action, limit: object, *, debit: object, credit: object, unnatural: bool
) -> Decimal | None:
    """The limit price on the wire, from the words that people have for it.

    Raises:
        InvalidIntent: `debit`, `credit` or `unnatural` of what is no spread; of a spread, whatever leaves a doubt about
        the direction (`Spread.net_price`).
    """
    bare, paid, received = _optional("limit", limit), _optional("debit", debit), _optional("credit", credit)
    if not isinstance(traded, Spread):
        if (paid, received) != (None, None) or unnatural:
            raise InvalidIntent("debit=, credit= and unnatural= are for spreads: say limit=")
        return bare
    if bare is paid is received is None and not unnatural:
        return None
    side: Side = "LONG" if action == "BUY" else "SHORT"
    return traded.net_price(bare, debit=paid, credit=received, side=side, unnatural=unnatural).signed(action)


def _optional(name: str, value: object) -> Decimal | None:
    return None if value is None else exact(name, value)


def _type_of(*, has_limit: bool, has_stop: bool, trails: bool) -> OrderType:
    if trails:
        return "TRAIL LIMIT" if has_limit else "TRAIL"
    if has_stop:
        return "STP LMT" if has_limit else "STP"
    return "LMT" if has_limit else "MKT"


# --- checks ----------------------------------------------------------------------------------------------------------


def _check_type(intent: Intent) -> None:
    kind = intent.order_type
    row = TYPES.get(kind)
    if row is None:
        raise InvalidIntent(f"order_type must be one of {', '.join(TYPES)}, not {kind!r}")
    for name in _PRICES:
        value = getattr(intent, name)
        if value is None:
            if name in row.needs:
                raise InvalidIntent(f"a {kind} order needs a {name}")
            continue
        if name not in row.needs | row.may_have:
            raise InvalidIntent(f"a {kind} order has no {name}")
        _check_decimal(name, value)
    if intent.stop_price is not None and intent.stop_price <= 0 and not isinstance(intent.instrument, Bag):
        raise InvalidIntent(f"stop_price must be above 0, not {intent.stop_price}")
    if intent.limit_offset is not None and intent.limit_offset < 0:
        raise InvalidIntent(f"limit_offset must be 0 or more, not {intent.limit_offset}: TWS adds it on the right side")


def _check_trailing(intent: Intent) -> None:  # noqa: C901 - a list of what cannot be
    kind, amount, percent = intent.order_type, intent.trailing_amount, intent.trailing_percent
    if not TYPES[kind].trails:
        if (amount, percent) != (None, None):
            raise InvalidIntent(f"a {kind} order does not trail: use TRAIL or TRAIL LIMIT")
        return
    if (amount is None) == (percent is None):
        raise InvalidIntent(f"a {kind} order needs one of trailing_amount and trailing_percent")
    if amount is not None:
        _check_decimal("trailing_amount", amount)
        if amount <= 0:
            raise InvalidIntent(f"trailing_amount must be above 0, not {amount}")
    if percent is not None:
        _check_decimal("trailing_percent", percent)
        if not 0 < percent < PERCENT_MAX:
            raise InvalidIntent(f"trailing_percent must lie between 0 and 100, not {percent}")
    if kind == "TRAIL LIMIT":
        if (intent.limit_offset is None) == (intent.limit_price is None):
            raise InvalidIntent("a TRAIL LIMIT order needs one of limit_offset and limit_price")
        if intent.limit_price is not None and intent.stop_price is None:
            raise InvalidIntent("a TRAIL LIMIT order with a limit_price needs the stop_price that it belongs to")


def _check_time(intent: Intent) -> None:
    kind, tif, till = intent.order_type, intent.tif, intent.good_till
    allowed = TYPES[kind].tifs
    if tif not in TIMES_IN_FORCE:
        raise InvalidIntent(f"tif must be one of {', '.join(sorted(TIMES_IN_FORCE))}, not {tif!r}")
    if tif not in allowed:
        raise InvalidIntent(f"tif of a {kind} order must be one of {', '.join(sorted(allowed))}, not {tif}")
    if (tif == "GTD") != (till is not None):
        raise InvalidIntent("good_till goes with tif GTD, and only with it")
    if till is not None and getattr(till, "tzinfo", None) is None:
        raise InvalidIntent(f"good_till must be a datetime with its time zone, not {till!r}")


def _pairs(fields: object) -> tuple[tuple[str, FieldValue], ...]:
    """Further fields as sorted pairs of what JSON can tell apart, so that what is read back is equal."""
    pairs = tuple(fields.items()) if isinstance(fields, Mapping) else fields
    if not isinstance(pairs, tuple):
        raise InvalidIntent(f'fields are written {{"hidden": True}}, not {fields!r}')
    found: dict[str, FieldValue] = {}
    for pair in pairs:
        if not (isinstance(pair, tuple) and len(pair) == 2 and isinstance(pair[0], str)):  # noqa: PLR2004 - a pair
            raise InvalidIntent(f'fields are written {{"hidden": True}}, not {pair!r}')
        name, value = pair
        found[name] = _field_value(name, value)
    return tuple(sorted(found.items()))


def _field_value(name: str, value: object) -> FieldValue:
    if isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, Decimal) and value.is_finite():
        return f"{value:f}"
    if isinstance(value, Mapping):
        return tuple((str(tag), _word(f"{name} {tag}", word)) for tag, word in value.items())
    if _are_tags(value):
        return value
    raise InvalidIntent(f"{name} must be a text, a whole number, a Decimal, True or False, not {value!r}")


def _word(name: str, value: object) -> str:
    """A parameter as TWS reads it."""
    if isinstance(value, str):
        return value
    return str(int(value)) if isinstance(value, bool) else f"{exact(name, value):f}"


def _is_text(value: object) -> bool:
    return isinstance(value, str)


def _are_tags(value: object) -> TypeGuard[tuple[tuple[str, str], ...]]:
    """Whether it is what JSON gives back for tags with their values."""
    return isinstance(value, tuple) and all(
        isinstance(pair, tuple) and [type(part) for part in pair] == [str, str] for pair in value
    )


def _check_decimal(name: str, value: object) -> None:
    # A float would reach the wire as 0.30000000000000004, and NaN as "nan".
    if not isinstance(value, Decimal):
        raise InvalidIntent(f"{name} must be a Decimal, not {type(value).__name__}")
    if not value.is_finite():
        raise InvalidIntent(f"{name} must be finite, not {value}")
    exponent = value.as_tuple().exponent
    if isinstance(exponent, int) and exponent < -DECIMALS_MAX:
        raise InvalidIntent(f'{name} has {-exponent} decimals: write Decimal("0.1"), not Decimal(0.1)')


def _check_kind(name: str, value: object, kind: type) -> None:
    # Structs do not check types when they are made.
    if not isinstance(value, kind):
        raise InvalidIntent(f"{name} must be {kind.__name__}, not {value!r}")


def _check_instrument(instrument: object) -> None:
    if isinstance(instrument, Spread):
        return
    if not isinstance(instrument, Instrument):
        raise InvalidIntent(f"{instrument!r} is not an instrument: use Stock, Forex, Option, Future or a spread")
    if isinstance(instrument, Index):
        raise InvalidIntent(f"{instrument} is an index: it can be watched, not traded")
    # A Bag is what the broker shows of a combination: an order that is adopted has one, a desk takes none.
    if isinstance(instrument, Other):
        raise InvalidIntent(f"{instrument} cannot be ordered: the service knows nothing of it but its conId")


def _check_spread(intent: Intent) -> None:
    """What holds of spreads only."""
    _check_kind("unnatural", intent.unnatural, bool)
    traded = intent.instrument
    if not isinstance(traded, Spread):
        raise InvalidIntent("unnatural=True is for the limit of a spread")
    if intent.order_type not in SPREAD_TYPES:
        raise InvalidIntent(
            f"a spread is ordered as {' or '.join(SPREAD_TYPES)}, not {intent.order_type}: what triggers or trails "
            "has a sign that nobody could read"
        )
    if intent.quantity != intent.quantity.to_integral_value():
        raise InvalidIntent(f"a quantity of spreads is whole, not {intent.quantity}")
    if intent.limit_price is None:
        if intent.unnatural:
            raise InvalidIntent("unnatural=True goes with a limit")
        return
    _check_decimal("limit_price", intent.limit_price)
    limit = NetPrice.of_signed(intent.action, intent.limit_price, is_unnatural=intent.unnatural)
    traded.check_limit(limit, "LONG" if intent.action == "BUY" else "SHORT")
