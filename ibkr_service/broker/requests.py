"""Everything else that ib_insync can ask: any read-only request by its ib_insync name, paced, limited in time, frozen.

So nobody who comes from bare ib_insync loses anything: scanners, news, fundamentals, calendars, matching symbols …
What places, changes or cancels orders is refused (orders leave through `Desk.submit`), and so is what the service
itself keeps (the account's state, quotes), with the name of what to use instead. The library's objects mutate and
belong to a connection; an answer is a frozen copy with the same field names.
"""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Awaitable, Callable, Mapping
from enum import Enum
from functools import cache
from types import MappingProxyType
from typing import Any

from ibkr_service.broker import translate
from ibkr_service.broker.ib import IB
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Instrument

# Whether the library waits for the answer under a name instead of a number: then two at a time would hang the first.
_ONE_AT_A_TIME = {
    "reqMktDepthExchangesAsync": "mktDepthExchanges",
    "reqNewsProvidersAsync": "newsProviders",
    "reqScannerParametersAsync": "scannerParams",
    "reqMarketRuleAsync": "marketRule",
    "requestFAAsync": "requestFA",
}
HISTORICAL = frozenset(
    {
        "reqHistoricalDataAsync",
        "reqHistoricalScheduleAsync",
        "reqHistoricalTicksAsync",
        "reqHeadTimeStampAsync",
        "reqHistogramDataAsync",
    }
)
ALLOWED = HISTORICAL | {
    *_ONE_AT_A_TIME,
    "reqContractDetailsAsync",
    "qualifyContractsAsync",
    "reqMatchingSymbolsAsync",
    "reqSecDefOptParamsAsync",
    "reqSmartComponentsAsync",
    "reqFundamentalDataAsync",
    "reqScannerDataAsync",
    "calculateImpliedVolatilityAsync",
    "calculateOptionPriceAsync",
    "reqNewsArticleAsync",
    "reqHistoricalNewsAsync",
    "getWshMetaDataAsync",
    "getWshEventDataAsync",
    "reqUserInfoAsync",
}
INSTEAD = MappingProxyType(
    {
        "connectAsync": "the session connects by itself",
        "reqTickersAsync": "use desk.first_quote, which keeps to the budget of market-data lines",
        "reqMktDataAsync": "use desk.watch, desk.every_tick or desk.first_quote",
        "whatIfOrderAsync": "orders go through the desk",
        "reqCurrentTimeAsync": "the session asks it as its heartbeat; two at a time would hang",
        "reqPositionsAsync": "use desk.positions() or desk.book",
        "reqAccountUpdatesAsync": "use desk.account_summary()",
        "reqAccountUpdatesMultiAsync": "use desk.account_summary(account)",
        "reqAccountSummaryAsync": "use desk.account_summary()",
        "accountSummaryAsync": "use desk.account_summary()",
        "reqOpenOrdersAsync": "use desk.book: the session keeps it equal to the broker's",
        "reqAllOpenOrdersAsync": "use desk.book: the session keeps it equal to the broker's",
        "reqCompletedOrdersAsync": "use desk.book: the session keeps it equal to the broker's",
        "reqExecutionsAsync": "use desk.book: the session keeps it equal to the broker's",
    }
)


def check(name: str) -> None:
    """Refuse what is no read-only request.

    Raises:
        InvalidIntent: it is not one, with what to use instead.
    """
    if name in ALLOWED:
        return
    if name in INSTEAD:
        raise InvalidIntent(f"{name} is not asked through request: {INSTEAD[name]}")
    raise InvalidIntent(f"{name!r} is no read-only request of ib_insync; known are {', '.join(sorted(ALLOWED))}")


def key_of(name: str) -> str | None:
    """Under which name requests of this kind go one at a time; None if they need not."""
    return _ONE_AT_A_TIME.get(name)


def call_of(
    name: str, arguments: tuple[object, ...], options: Mapping[str, object], con_ids: Mapping[Any, int]
) -> Callable[[IB], Awaitable[Any]]:
    """How to ask it. Instruments become contracts; the library's own objects are copied, since it mutates them."""
    positional = [_argument(value, con_ids) for value in arguments]
    named = {key: _argument(value, con_ids) for key, value in options.items()}
    return lambda ib: getattr(ib, name)(*positional, **named)


def _argument(value: Any, con_ids: Mapping[Any, int]) -> Any:
    if isinstance(value, Instrument):
        return translate.contract_of(value, con_ids.get(value, 0))  # type: ignore[arg-type]  # a subclass of the union
    return copy.deepcopy(value)


def frozen(value: Any) -> Any:  # noqa: PLR0911 - one row per kind of container
    """A copy that nobody can change: dataclasses become frozen ones of the same name and fields, lists tuples.

    What has no other form (text, numbers, times, enums) stays what it is.
    """
    if isinstance(value, Enum) or value is None:
        return value
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = {field.name: frozen(getattr(value, field.name)) for field in dataclasses.fields(value)}
        return _frozen_class(type(value))(**fields)
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*map(frozen, value))
    if isinstance(value, (list, tuple)):
        return tuple(map(frozen, value))
    if isinstance(value, (set, frozenset)):
        return frozenset(map(frozen, value))
    if isinstance(value, dict):
        return MappingProxyType({key: frozen(inner) for key, inner in value.items()})
    return value


@cache
def _frozen_class(kind: type) -> type:
    """The frozen twin of a library's dataclass. A container among them (BarDataList) becomes a plain tuple before."""
    names = [(field.name, Any) for field in dataclasses.fields(kind)]
    return dataclasses.make_dataclass(kind.__name__, names, frozen=True)
