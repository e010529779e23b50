"""The further fields of an order, by their ib_insync names: which there are, who owns them, and as what they are sent.

The list is ib_insync's own (`dataclasses.fields(Order)`), so that nothing has to be added here when it grows. What the
service itself decides (identity, account, transmission) or an `Intent` says in words of its own is refused here, and so
is what no text can say (conditions, leg prices).
"""

from __future__ import annotations

import dataclasses
import difflib
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from types import MappingProxyType
from typing import Any

import ib_insync

from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.intent import FieldValue, Intent

_SERVICE, _SERVER = "the service decides it itself", "only the server sets it"
_OBJECTS = "its values are objects that no journal can hold"
OWNED: Mapping[str, str] = MappingProxyType(
    {
        **dict.fromkeys(("orderId", "clientId", "permId", "orderRef", "transmit", "parentId", "whatIf"), _SERVICE),
        **dict.fromkeys(
            ("parentPermId", "filledQuantity", "shareholder", "autoCancelDate", "refFuturesConId"), _SERVER
        ),
        **dict.fromkeys(("conditions", "orderComboLegs", "softDollarTier"), _OBJECTS),
        "account": "say account=",
        "action": "say buy or sell",
        "totalQuantity": "say quantity=",
        "orderType": "say order_type=",
        "lmtPrice": "say limit_price=",
        "auxPrice": "say stop_price= or trailing_amount=",
        "trailStopPrice": "say stop_price=",
        "trailingPercent": "say trailing_percent=",
        "lmtPriceOffset": "say limit_offset=",
        "tif": "say tif=",
        "goodTillDate": "say good_till=",
        "outsideRth": "say outside_rth=",
        "algoStrategy": "say algo=",
        "algoParams": "say algo=",
    }
)
_DEFAULTS: Mapping[str, Any] = MappingProxyType(dataclasses.asdict(ib_insync.Order()))
_COMPARED = "scalePriceIncrement"  # the library compares this one with numbers before it writes it


def check(intent: Intent) -> None:
    """Look at the further fields of an intent.

    Raises:
        InvalidIntent: there is no such field, it is not for the user to set, or its value is of another kind.
    """
    for name, value in intent.fields:
        if name not in _DEFAULTS:
            near = difflib.get_close_matches(name, _DEFAULTS, n=1)
            raise InvalidIntent(f"an order has no field {name}{f': did you mean {near[0]}?' if near else ''}")
        if name in OWNED:
            raise InvalidIntent(f"the field {name} cannot be set: {OWNED[name]}")
        _sent(name, value)


def apply(intent: Intent, order: Any) -> None:
    """Set the further fields of the library's order.

    Raises:
        InvalidIntent: as `check`.
    """
    check(intent)
    for name, value in intent.fields:
        setattr(order, name, _sent(name, value))


def _sent(name: str, value: FieldValue) -> Any:
    """The value as the library writes it; a number with decimals stays the text that it is."""
    match _DEFAULTS[name]:
        case bool():
            if isinstance(value, bool):
                return value
            wanted = "True or False"
        case int():
            if isinstance(value, int) and not isinstance(value, bool):
                return value
            wanted = "a whole number"
        case float():
            return _number(name, value)
        case list():
            if isinstance(value, tuple):
                return [ib_insync.TagValue(tag, word) for tag, word in value]
            wanted = "a mapping of tags to values"
        case _:
            if isinstance(value, str) and "\0" not in value:
                return value
            wanted = "a text"
    raise InvalidIntent(f"the field {name} must be {wanted}, not {value!r}")


def _number(name: str, value: FieldValue) -> Any:
    if isinstance(value, (str, int)) and not isinstance(value, bool):
        try:
            number = Decimal(value)
        except InvalidOperation:
            number = Decimal("NaN")
        if number.is_finite():
            return number if name == _COMPARED else f"{number:f}"
    raise InvalidIntent(f"the field {name} must be a finite number (a Decimal, or its text), not {value!r}")
