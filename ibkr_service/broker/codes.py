"""TWS message codes: what each one means to us. One table; nothing else in the service compares code numbers.

Sources: https://interactivebrokers.github.io/tws-api/message_codes.html, and public reports where IB's page is silent
or wrong (each with its issue number). A code that is not here is never ignored: as a message it is passed on marked
unknown, on an order it is a doubt that only the server's own status settles.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from types import MappingProxyType
from typing import Literal

from ibkr_service.core.instrument import Bag, Forex, Future, FutureOption, Index, Instrument, Option, Other, Stock
from ibkr_service.core.link import Signal

OrderMeaning = Literal["rejected", "cancelled", "doubtful", "notice"]

CLIENT_ID_IN_USE = 326
# Of market data, not of history: broken, well, and asleep until it is needed.
MARKET_DATA_FARMS: frozenset[int] = frozenset({2103, 2104, 2108})
READ_ONLY_API = (
    321  # also a general validation error; to an order-list request it means the gateway's Read-Only API switch
)

LINK_SIGNALS: Mapping[int, Signal] = MappingProxyType(
    {
        1100: Signal.UPSTREAM_LOST,
        2110: Signal.UPSTREAM_LOST,  # TWS to server is broken; it is restored by itself
        1101: Signal.RESTORED_DATA_LOST,
        1102: Signal.RESTORED_DATA_KEPT,
    }
)

# Code -> is the farm up? 2107, 2108 and 2119 (inactive, connecting) are up: farms sleep until needed.
FARMS: Mapping[int, bool] = MappingProxyType(
    {
        2103: False,
        2105: False,
        2157: False,
        2104: True,
        2106: True,
        2107: True,
        2108: True,
        2119: True,
        2158: True,
    }
)

# What an error code says about the order that it names. Only 201 is a refusal in plain words, and even that may be of
# a modification.
ORDER_MEANINGS: Mapping[int, OrderMeaning] = MappingProxyType(
    {
        201: "rejected",  # order rejected
        202: "cancelled",  # cancelled by the system or the user; the status follows
        **dict.fromkeys(
            (103, 104, 105, 106, 107, 109, 110, 135, 136, 161, 321, 329), "doubtful"
        ),  # a modification may have failed
        **dict.fromkeys((388, 434, 435, 460, 463, 10268), "rejected"),  # size, account, permission, attribute
        **dict.fromkeys((200, 10006, 10318), "rejected"),  # contract or parent not found
        **dict.fromkeys((10147, 10148, 10149), "doubtful"),  # a cancel that found nothing to cancel: it may have filled
        **dict.fromkeys((399, 404, 492, 2109, 2161, 10167), "notice"),  # held, locating shares, ignored flag
        **dict.fromkeys(
            (10311, 10341, 10349), "notice"
        ),  # direct routing, preset, time in force set by preset (ib_async #191)
    }
)

# No data will come on this line: not subscribed, no permission, unknown, too many lines, a competing session.
SUBSCRIPTION_FAILURES: frozenset[int] = frozenset(
    {101, 200, 300, 309, 316, 321, 322, 354, 430, 10089, 10090, 10091, 10168, 10186, 10189, 10190, 10197}
)
# … of which these say "partly" or "delayed instead": data follows, so they end nothing.
SUBSCRIPTION_NOTICES: frozenset[int] = frozenset({10090, 10091, 10167})  # 10091: rust-ibapi #804
SUBSCRIPTION_FAILURES -= SUBSCRIPTION_NOTICES

RATE_EXCEEDED = 100
NO_SUCH_REQUEST = 300  # to a cancel: the gateway has no such subscription
COMPETING_SESSION = 10197
HISTORY_REFUSED, HISTORY_BUSY = 162, 322  # what is meant by them is in their words only
BOOK_RESET = 317  # the order book begins anew
BUSTED = 10225  # a trade was taken back; the subscription to bars is over, and has to be made again at once
NOTICES: frozenset[int] = frozenset(
    {RATE_EXCEEDED, 162, 165, 300, 310, 317, 366, 420, 502, 504, 1300, 10092, 10182, 10187, 10197, 10225}
)


def order_meaning(code: int) -> OrderMeaning:
    """What a code says about the order that it names; a doubt if we do not know it."""
    if code in ORDER_MEANINGS:
        return ORDER_MEANINGS[code]
    return "notice" if 2100 <= code < 2200 else "doubtful"  # noqa: PLR2004 - TWS's range of warnings


def is_known(code: int) -> bool:
    """Whether this table, or TWS's range of warnings, has the code."""
    return (
        code in LINK_SIGNALS
        or code in FARMS
        or code in ORDER_MEANINGS
        or code in SUBSCRIPTION_FAILURES
        or code in SUBSCRIPTION_NOTICES
        or code in NOTICES
        or code == CLIENT_ID_IN_USE
        or 2100 <= code < 2200  # noqa: PLR2004 - TWS's range of warnings
    )


_CONNECTED = re.compile(r"farms are connected:\s*([^\s;]+(?:;\s*[^\s;]+)*)")  # names may have a full stop in them

# Which market-data farm serves what, by the beginning of its name, as people report them; IB documents none of it.
_FARM_KINDS: Mapping[str, tuple[type[Instrument], ...]] = MappingProxyType(
    {
        "cashfarm": (Forex,),
        "usfuture": (Future, FutureOption),
        "usopt": (Option, Bag),  # which options on futures are, too: where they come from nobody has said
        "usbond": (Other,),
        "usfarm": (Stock, Index, Bag, Other),
    }
)


def may_come_from(farm: str, instrument: Instrument) -> bool:
    """Whether an instrument's quotes may come from this farm. A farm that we do not know may send anything."""
    for name, kinds in _FARM_KINDS.items():
        if farm.startswith(name):
            return isinstance(instrument, kinds)
    return True


def feed_group(instrument: Instrument) -> str:
    """What an instrument's data breaks off with: its farm, as far as that is known, else its kind and currency."""
    currency = getattr(instrument, "currency", "")
    if currency != "USD" and not isinstance(instrument, Forex):
        return f"{type(instrument).__name__} in {currency}"
    return next((name for name, kinds in _FARM_KINDS.items() if isinstance(instrument, kinds)), "")


def farms_back(text: str, down: Iterable[str]) -> tuple[str, ...]:
    """The farms that a 1101 or 1102 says are connected: those that it names, and if it says "all", those of `down`.

    A farm that was down before need not be told of by a 2104 of its own. Those "not connected" are not taken for down:
    one that only sleeps is among them, and of a broken one 2103 tells.
    """
    named = _CONNECTED.search(text)
    names = tuple(name.strip() for name in named[1].rstrip(". ").split(";")) if named else ()
    others = tuple(down) if "all data farms are connected" in text.lower() else ()
    return tuple(dict.fromkeys((*filter(None, names), *others)))


def farm_name(text: str) -> str:
    """The farm in `Market data farm connection is OK:usfarm`; the whole text if there is no name in it.

    2107 and 2108 have it after a full stop: `… should be available upon demand.ushmds`.
    """
    name = text.rpartition(":")[2].strip()
    return name.rpartition("demand.")[2].strip() or text
