"""Orders as a script places them: words for an `Intent`, and waiting for what the broker says.

`BrokerApi` (`api.py`) is this and the connection. Everything happens at the script's desk.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any, Literal

from ibkr_service.core.bracket import Bracket, BracketRefs, OcaType
from ibkr_service.core.combination import Spread
from ibkr_service.core.errors import InvalidIntent, RequestTimeout
from ibkr_service.core.instrument import Action, AnyInstrument, parse
from ibkr_service.core.intent import Algo, Exact, Intent, TimeInForce, Traded, exact
from ibkr_service.core.intent import OrderType as TwsOrderType
from ibkr_service.core.orders import Order
from ibkr_service.core.preview import Preview
from ibkr_service.desk import PREVIEW_TIMEOUT_S, Desk

CANCEL_TIMEOUT_S = MODIFY_TIMEOUT_S = 10.0
QUOTE_TIMEOUT_S, LOOK_S = 5.0, 0.02
TYPED_DECIMALS_MAX = 8

Direction = Literal["BUY", "SELL", "LONG", "SHORT"]
OrderType = Literal[
    "MARKET", "LIMIT", "STOP", "STOP_LIMIT", "TRAIL", "TRAIL_LIMIT", "MARKET_ON_CLOSE", "LIMIT_ON_CLOSE", "MIDPRICE"
]

_ACTIONS: Mapping[str, Action] = {"BUY": "BUY", "SELL": "SELL", "LONG": "BUY", "SHORT": "SELL"}
_TYPES: Mapping[str, TwsOrderType] = {
    "MARKET": "MKT",
    "LIMIT": "LMT",
    "STOP": "STP",
    "STOP_LIMIT": "STP LMT",
    "TRAIL": "TRAIL",
    "TRAIL_LIMIT": "TRAIL LIMIT",
    "MARKET_ON_CLOSE": "MOC",
    "LIMIT_ON_CLOSE": "LOC",
    "MIDPRICE": "MIDPRICE",
}
_NUMBERS = (
    "quantity",
    "limit_price",
    "debit",
    "credit",
    "stop_price",
    "trailing_amount",
    "trailing_percent",
    "limit_offset",
)


class Ordering:
    """The orders' part of `BrokerApi`."""

    @property
    def desk(self) -> Desk:
        """The script's desk."""
        raise NotImplementedError

    async def place_order(
        self,
        instrument: Traded | str,
        direction: Direction,
        quantity: Exact,
        spread: Spread | None = None,
        order_type: OrderType | TwsOrderType = "MARKET",
        price: Exact | float | None = None,
        *,
        key: str | None = None,
        **terms: Any,  # noqa: ANN401 - `intent_of` says
    ) -> str:
        """Place an order; returns its reference, which is also its orderRef in TWS.

        `place_order("AAPL", "LONG", 1, spread, "LIMIT", "2.85")` orders an option spread; a spread may as well stand in
        the first place. Its limit is `debit=` or `credit=`, or the bare price, which takes the natural direction; the
        log says in words what it came to ("receive at least 2.85").

        Args:
            spread: on the instrument that is named first. price: the limit of a LIMIT order, the same as `limit_price`;
            here a float is read as it was written (2.85), if it has at most 8 decimals.
            quantity: exact, as all numbers: Decimal, whole number or text; a float is refused. key: names the wish, so
            that placing it again, after a crash too, is still one order. terms: those of `intent_of`: order_type
            (MARKET if left out), limit_price, stop_price …

        Raises:
            InvalidIntent, Refused, NotReady, Paced, KeyReused, JournalError: nothing was sent, for the reason given.
        """
        desk = self.desk
        if price is not None:
            terms["limit_price"] = _typed("price", price)
        intent = intent_of(_named(instrument, spread), direction, quantity, order_type=order_type, **terms)
        await self._prepared(desk, [intent])
        return desk.submit(intent, key=key)

    async def place_bracket(
        self,
        instrument: Traded | str,
        direction: Direction,
        quantity: Exact,
        *,
        take_profit: Exact | Intent | None = None,
        stop_loss: Exact | Intent | None = None,
        exit_tif: TimeInForce = "GTC",
        key: str | None = None,
        **terms: Any,  # noqa: ANN401 - `intent_of` says
    ) -> BracketRefs:
        """Place an entry together with the exits that TWS activates when it fills; returns the references.

        Args:
            take_profit, stop_loss: prices (a limit, a stop), or intents of their own; one of them at least.
            terms: those of the entry, as in `place_order`.

        Raises:
            As `place_order`; nothing was sent.
        """
        desk = self.desk
        entry = intent_of(instrument, direction, quantity, **terms)
        bracket = Bracket.around(entry, take_profit=take_profit, stop_loss=stop_loss, exit_tif=exit_tif)
        await self._prepared(desk, bracket.intents)
        return desk.submit_bracket(bracket, key=key)

    async def place_oca(
        self, intents: Sequence[Intent], *, kind: OcaType = "cancel", key: str | None = None
    ) -> tuple[str, ...]:
        """Place orders of which one cancels the others when it fills (`Desk.submit_oca`); returns the references.

        Raises:
            As `place_order`; nothing was sent.
        """
        desk = self.desk
        await self._prepared(desk, intents)
        return desk.submit_oca(intents, kind=kind, key=key)

    async def _prepared(self, desk: Desk, intents: Iterable[Intent]) -> None:
        """Ask the broker for what the risk gate will want to know: contracts, increments, quotes."""
        for intent in intents:
            await desk.qualify(intent.instrument)
            if intent.limit_price is intent.stop_price is None or intent.order_type in {"TRAIL", "TRAIL LIMIT"}:
                await self._quoted(desk, intent.contracts)

    async def _quoted(self, desk: Desk, contracts: tuple[AnyInstrument, ...]) -> None:
        """Watch what a market order is for: the risk gate prices it by live quotes, or says why it cannot."""
        for contract in contracts:
            desk.watch(contract)
        try:
            async with asyncio.timeout(QUOTE_TIMEOUT_S):
                while any(desk.why_unusable(contract) is not None for contract in contracts):  # noqa: ASYNC110 - a quote also becomes usable by time
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            pass

    async def preview_order(
        self,
        instrument: Traded | str,
        direction: Direction,
        quantity: Exact,
        *,
        timeout_s: float = PREVIEW_TIMEOUT_S,
        **terms: Any,  # noqa: ANN401 - `intent_of` says
    ) -> Preview:
        """What an order would do to the account: margins before and after, commission. Nothing is placed.

        Args:
            terms: those of `place_order`.

        Raises:
            InvalidIntent, Refused, BrokerRefused, RequestTimeout, UnknownInstrument, NotReady, Paced: as they say.
        """
        desk = self.desk
        intent = intent_of(instrument, direction, quantity, **terms)
        await desk.qualify(intent.instrument)
        return await desk.preview(intent, timeout_s)

    async def get_order_status(self, ref: str) -> Order:
        """The order as it is now: state, filled, remaining, average price, why.

        Raises:
            UnknownOrder: this service has no such order. NotReady: there is no connection.
        """
        return self.desk.order(ref)

    async def modify_order(self, ref: str, *, timeout_s: float = MODIFY_TIMEOUT_S, **changes: Any) -> Order:  # noqa: ANN401 - `Desk.modify` says
        """Change terms of a working order, and wait for what the broker says; returns the order as it then is.

        Args:
            changes: those of `Desk.modify` (quantity, limit_price, stop_price …), numbers exact.

        Raises:
            UnknownOrder, InvalidIntent, Refused, NotReady, Paced, JournalError: nothing was sent. RequestTimeout: the
            broker has said nothing yet. Whether it took the change is in the order's intent.
        """
        desk = self.desk
        given = {name: exact(name, value) if name in _NUMBERS else value for name, value in changes.items()}
        desk.modify(ref, **given)
        try:
            async with asyncio.timeout(timeout_s):
                while desk.order(ref).change is not None:  # noqa: ASYNC110 - it is settled by many kinds of facts
                    await asyncio.sleep(LOOK_S)
        except TimeoutError:
            raise RequestTimeout(f"modification of {ref}", timeout_s) from None
        return desk.order(ref)

    async def cancel_order(self, ref: str, timeout_s: float = CANCEL_TIMEOUT_S) -> Order:
        """Cancel, and wait for what the broker says; returns the order in its final state, which may be FILLED.

        Raises:
            UnknownOrder: there is none. RequestTimeout: the broker has not confirmed it in time; the wish stays, and is
            carried out as soon as it can be.
        """
        desk = self.desk
        desk.cancel(ref)
        try:
            async with asyncio.timeout(timeout_s):
                return await desk.finished(ref)
        except TimeoutError:
            raise RequestTimeout(f"cancellation of {ref}", timeout_s) from None

    async def wait_for_order(self, ref: str, timeout_s: float) -> Order:
        """Wait until an order is filled, cancelled or rejected.

        Raises:
            UnknownOrder: there is none. RequestTimeout: it is still working.
        """
        try:
            async with asyncio.timeout(timeout_s):
                return await self.desk.finished(ref)
        except TimeoutError:
            raise RequestTimeout(f"end of {ref}", timeout_s) from None


def intent_of(  # noqa: PLR0913 - an order has many terms; all have defaults
    instrument: Traded | str,
    direction: Direction,
    quantity: Exact,
    *,
    order_type: OrderType | TwsOrderType = "MARKET",
    limit_price: Exact | None = None,
    debit: Exact | None = None,
    credit: Exact | None = None,
    unnatural: bool = False,
    stop_price: Exact | None = None,
    trailing_amount: Exact | None = None,
    trailing_percent: Exact | None = None,
    limit_offset: Exact | None = None,
    tif: TimeInForce | None = None,
    good_till: datetime | None = None,
    outside_rth: bool = False,
    algo: Algo | None = None,
    fields: Mapping[str, object] | None = None,
    account: str = "",
) -> Intent:
    """An order in a script's words; the terms are those of `Intent`.

    Raises:
        InvalidIntent: it makes no sense.
    """
    if direction not in _ACTIONS:
        raise InvalidIntent(f"direction is one of {', '.join(_ACTIONS)}, not {direction!r}")
    kind = _TYPES.get(order_type) or (order_type if order_type in _TYPES.values() else None)
    if kind is None:
        raise InvalidIntent(f"order_type is one of {', '.join(_TYPES)}, not {order_type!r}")
    has_limit = (limit_price, debit, credit) != (None, None, None)
    if (order_type == "LIMIT" and not has_limit) or (order_type == "MARKET" and has_limit):
        raise InvalidIntent("a LIMIT order has a limit_price, a MARKET order has none")
    return Intent.of(
        _ACTIONS[direction],
        instrument if isinstance(instrument, Spread) else instrument_of(instrument),
        exact("quantity", quantity),
        order_type=kind,  # type: ignore[arg-type]  # one of TWS's names
        limit=_optional("limit_price", limit_price),
        debit=_optional("debit", debit),
        credit=_optional("credit", credit),
        unnatural=unnatural,
        stop=_optional("stop_price", stop_price),
        trail=_optional("trailing_amount", trailing_amount),
        trail_percent=_optional("trailing_percent", trailing_percent),
        limit_offset=_optional("limit_offset", limit_offset),
        tif=tif,
        good_till=good_till,
        outside_rth=outside_rth,
        algo=algo,
        fields=fields,
        account=account,
    )


def instrument_of(thing: AnyInstrument | str) -> AnyInstrument:
    """The instrument, written out or in its short form (`AAPL`, `EUR.USD`)."""
    return parse(thing) if isinstance(thing, str) else thing


def _named(thing: Traded | str, spread: Spread | None) -> Traded | str:
    """What is traded: the instrument, or the spread on it."""
    if spread is None:
        return thing
    if not isinstance(spread, Spread):
        raise InvalidIntent(f"a spread is made with core/spreads.py, such as bull_call(lower, upper), not {spread!r}")
    underlying = instrument_of(thing) if isinstance(thing, str) else thing
    if getattr(underlying, "symbol", "") != spread.symbol:
        raise InvalidIntent(f"{spread} is not a spread on {underlying}")
    return spread


def _typed(name: str, value: Exact | float) -> Exact:
    """A float as it was written, which its shortest text says; one that was computed has digits that nobody wrote."""
    if not isinstance(value, float):
        return value
    written = Decimal(repr(value))
    exponent = written.as_tuple().exponent
    if not isinstance(exponent, int) or -exponent > TYPED_DECIMALS_MAX:
        raise InvalidIntent(f'{name} must be exact: write Decimal("…") or "…", not {value!r}')
    return written


def _optional(name: str, value: Exact | None) -> Exact | None:
    return None if value is None else exact(name, value)
