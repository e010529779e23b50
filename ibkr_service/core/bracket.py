"""Orders that belong together: a bracket (an entry with its exits) and a group of which one cancels the others.

TWS keeps the ties: exits wait until their entry fills, and then cancel each other
(https://interactivebrokers.github.io/tws-api/bracket_order.html); orders of one OCA group cancel or reduce each other
(https://interactivebrokers.github.io/tws-api/oca.html). Here is what makes sense, and how a group is named by its key.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise
from typing import Literal, Self

import msgspec

from ibkr_service.core.combination import Spread
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Action
from ibkr_service.core.intent import Exact, Intent, TimeInForce, exact, limit_of

OcaType = Literal["cancel", "reduce", "reduce_unblocked"]
OCA_TYPES: dict[OcaType, int] = {"cancel": 1, "reduce": 2, "reduce_unblocked": 3}
EXITS_AT = frozenset({"LMT", "STP", "STP LMT", "TRAIL", "TRAIL LIMIT"})
PARTS = ("entry", "take profit", "stop loss")


class Bracket(msgspec.Struct, frozen=True, kw_only=True):
    """An entry and the exits that TWS activates when it fills. Existing means valid.

    `Bracket.around(Intent.buy(AAPL, 100, limit="230"), take_profit="240", stop_loss="225")`; an exit may be an `Intent`
    of its own (a trailing stop, say).

    Raises:
        InvalidIntent: the parts do not belong together, with what would be right.
    """

    entry: Intent
    take_profit: Intent | None = None
    stop_loss: Intent | None = None

    def __post_init__(self) -> None:
        if self.take_profit is None and self.stop_loss is None:
            raise InvalidIntent("a bracket has a take_profit, a stop_loss, or both: else submit the entry alone")
        for name, part in zip(PARTS, (self.entry, self.take_profit, self.stop_loss), strict=True):
            if part is not None:
                _check_part(name, part, self.entry)
        _check_prices(self)

    @classmethod
    def around(
        cls,
        entry: Intent,
        *,
        take_profit: Intent | Exact | None = None,
        stop_loss: Intent | Exact | None = None,
        exit_tif: TimeInForce = "GTC",
    ) -> Self:
        """A bracket from prices: a limit that takes the profit, a stop that ends the loss.

        Args:
            take_profit: of a spread the bare price takes the natural direction of closing it.
            exit_tif: of exits that are given as prices; by default they outlive the day, as the position does.

        Raises:
            InvalidIntent: it makes no sense.
        """
        if not isinstance(entry, Intent):
            raise InvalidIntent(f"the entry of a bracket is an Intent, not {entry!r}")
        return cls(
            entry=entry,
            take_profit=take_profit
            if take_profit is None or isinstance(take_profit, Intent)
            else _exit(entry, exit_tif, limit=take_profit),
            stop_loss=stop_loss
            if stop_loss is None or isinstance(stop_loss, Intent)
            else _exit(entry, exit_tif, stop=stop_loss),
        )

    @property
    def intents(self) -> tuple[Intent, ...]:
        """Entry first, then its exits."""
        return tuple(part for part in (self.entry, self.take_profit, self.stop_loss) if part is not None)

    @property
    def names(self) -> tuple[str, ...]:
        """What each of the `intents` is."""
        parts = zip(PARTS, (self.entry, self.take_profit, self.stop_loss), strict=True)
        return tuple(name for name, part in parts if part is not None)


class BracketRefs(msgspec.Struct, frozen=True):
    """The references of a bracket's orders."""

    entry: str
    take_profit: str | None = None
    stop_loss: str | None = None


def _exit(entry: Intent, tif: TimeInForce, *, limit: Exact | None = None, stop: Exact | None = None) -> Intent:
    action: Action = "SELL" if entry.action == "BUY" else "BUY"
    price = limit_of(entry.instrument, action, limit, debit=None, credit=None, unnatural=False)
    return Intent(
        instrument=entry.instrument,
        action=action,
        quantity=entry.quantity,
        order_type="LMT" if limit is not None else "STP",
        limit_price=price,
        stop_price=None if stop is None else exact("stop_loss", stop),
        tif=tif,
        outside_rth=entry.outside_rth,
        account=entry.account,
    )


def _check_part(name: str, part: object, entry: Intent) -> None:
    if not isinstance(part, Intent):
        raise InvalidIntent(f"the {name} of a bracket is an Intent or a price, not {part!r}")
    if part is entry:
        return
    if part.instrument != entry.instrument:
        raise InvalidIntent(f"the {name} is for {part.instrument}, the entry for {entry.instrument}")
    if part.action == entry.action:
        raise InvalidIntent(
            f"the {name} must {'SELL' if entry.action == 'BUY' else 'BUY'}: the entry is a {entry.action}"
        )
    if part.quantity != entry.quantity:
        raise InvalidIntent(f"the {name} is for {part.quantity}, the entry for {entry.quantity}")
    if part.account != entry.account:
        raise InvalidIntent(f"the {name} names another account than the entry")
    if part.order_type not in EXITS_AT:
        raise InvalidIntent(f"the {name} is one of {', '.join(sorted(EXITS_AT))}, not {part.order_type}")


def _check_prices(bracket: Bracket) -> None:
    """Profit on the one side, loss on the other, the entry's limit between them."""
    if isinstance(bracket.entry.instrument, Spread):
        return  # what a spread's prices mean is checked where they are made
    up = 1 if bracket.entry.action == "BUY" else -1
    levels = [
        (name, price)
        for name, part in (
            ("stop_loss", bracket.stop_loss),
            ("entry", bracket.entry),
            ("take_profit", bracket.take_profit),
        )
        if part is not None and (price := _level(name, part)) is not None
    ]
    for (lower, low), (upper, high) in pairwise(levels):
        if (high - low) * up <= 0:
            side = "above" if up > 0 else "below"
            raise InvalidIntent(f"to {bracket.entry.action}, {upper} must lie {side} {lower}, not {high} and {low}")


def _level(name: str, part: Intent) -> Decimal | None:
    if name == "stop_loss":
        return part.stop_price
    return part.limit_price if part.order_type == "LMT" else None


def oca_terms(intents: Iterable[Intent], group: str, kind: OcaType) -> tuple[Intent, ...]:
    """The intents as members of one OCA group.

    Raises:
        InvalidIntent: fewer than two, or one that names a group itself.
    """
    members = tuple(intents)
    if kind not in OCA_TYPES:
        raise InvalidIntent(f"kind is one of {', '.join(OCA_TYPES)}, not {kind!r}")
    if len(members) < 2:  # noqa: PLR2004 - one cancels the other
        raise InvalidIntent("a group has two orders at least")
    for intent in members:
        if not isinstance(intent, Intent):
            raise InvalidIntent(f"a group is made of Intents, not {intent!r}")
        if any(name.startswith("oca") for name, _ in intent.fields):
            raise InvalidIntent(f"{intent} names an OCA group itself: leave it out")
    terms = (("ocaGroup", group), ("ocaType", OCA_TYPES[kind]))
    return tuple(msgspec.structs.replace(intent, fields=(*intent.fields, *terms)) for intent in members)
