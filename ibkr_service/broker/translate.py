"""ib_insync's objects into core values and back; float into Decimal. Pure.

Instruments: what TWS reports becomes the value that a user would write. A trading class that only repeats the symbol
is left out; one that differs (SPXW) is kept, since it is another contract. Floats come off the wire as text and go
through `repr`, never through binary arithmetic; -1, 0 with no size, NaN and 1.7976931348623157e308 are TWS's ways to
say "nothing" and become None.
"""

from __future__ import annotations

import math
import re
from datetime import datetime
from decimal import Decimal
from typing import Any

import ib_insync

from ibkr_service.core import events as ev
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import AnyInstrument, Bag, Forex, Future, Index, Option, Other, Right, Stock
from ibkr_service.core.orders import Action, Intent

UNSET_FROM = 1e300  # TWS writes "unset" as the largest double, in several spellings

_DATA_TYPES: dict[int, ev.DataType] = {1: "live", 2: "frozen", 3: "delayed", 4: "delayed_frozen"}
_ACTIONS: dict[str, Action] = {
    "BOT": "BUY",
    "SLD": "SELL",
    "BUY": "BUY",
    "SELL": "SELL",
    "SSHORT": "SELL",
    "SLONG": "SELL",
}


def decimal(value: float) -> Decimal:
    """A float from the wire as a Decimal: 10.0 is 10, 1e-05 is 0.00001.

    Raises:
        ValueError: not a finite number, or TWS's "unset".
    """
    if not math.isfinite(value) or abs(value) >= UNSET_FROM:
        raise ValueError(f"not a number: {value!r}")
    exact = Decimal(repr(value))
    return Decimal(int(exact)) if exact == exact.to_integral_value() else exact.normalize()


def optional_decimal(value: float | None) -> Decimal | None:
    """As `decimal`; None for unset values."""
    if value is None or not math.isfinite(value) or abs(value) >= UNSET_FROM:
        return None
    return decimal(value)


# --- contracts -------------------------------------------------------------------------------------------------------


def contract_of(instrument: AnyInstrument, con_id: int = 0) -> Any:
    """The contract that describes an instrument to TWS; with its conId if that is known.

    Raises:
        InvalidIntent: it is not an instrument at all.
    """
    match instrument:
        case Stock():
            contract = ib_insync.Stock(
                instrument.symbol, instrument.exchange, instrument.currency, primaryExchange=instrument.primary_exchange
            )
        case Forex():
            contract = ib_insync.Forex(
                symbol=instrument.symbol, currency=instrument.currency, exchange=instrument.exchange
            )
        case Option():
            contract = ib_insync.Option(
                instrument.symbol,
                instrument.expiry,
                instrument.strike,
                instrument.right,
                instrument.exchange,
                instrument.multiplier,
                instrument.currency,
                tradingClass=instrument.trading_class,
            )
        case Future():
            contract = ib_insync.Future(
                instrument.symbol,
                instrument.expiry,
                instrument.exchange,
                multiplier=instrument.multiplier,
                currency=instrument.currency,
            )
        case Index():
            contract = ib_insync.Index(instrument.symbol, instrument.exchange, instrument.currency)
        case Bag():
            legs = [
                ib_insync.ComboLeg(conId=c, ratio=r, action=a, exchange=instrument.exchange)
                for c, r, a in instrument.legs
            ]
            contract = ib_insync.Bag(
                symbol=instrument.symbol, currency=instrument.currency, exchange=instrument.exchange, comboLegs=legs
            )
        case Other():
            contract = ib_insync.Contract(secType=instrument.sec_type, conId=instrument.con_id)
        case _:
            raise InvalidIntent(f"{instrument!r} is not an instrument: use Stock, Forex, Option, Future or Index")
    contract.conId = con_id or contract.conId
    return contract


def instrument_of(contract: Any) -> AnyInstrument:  # noqa: PLR0911 - one row per security type
    """What a contract from TWS is."""
    symbol, currency = contract.symbol, contract.currency
    trading_class = "" if contract.tradingClass in {symbol, ""} else contract.tradingClass
    expiry = contract.lastTradeDateOrContractMonth.split("-")[0].split(" ")[0]
    match contract.secType:
        case "STK":
            return Stock(symbol, currency)
        case "CASH":
            return Forex(symbol, currency)
        case "OPT" if contract.right and 0 < contract.strike < math.inf and re.fullmatch(r"\d{8}", expiry):
            right: Right = "C" if contract.right.startswith("C") else "P"
            return Option(symbol, expiry, contract.strike, right, contract.multiplier or "100", currency, trading_class)
        case "FUT":
            return Future(symbol, expiry, contract.exchange, currency, contract.multiplier)
        case "IND":
            return Index(symbol, contract.exchange, currency)
        case "BAG":
            legs = tuple((leg.conId, leg.ratio, leg.action) for leg in contract.comboLegs or ())
            return Bag(symbol, currency, legs)
        case sec_type:
            return Other(sec_type, symbol, currency, contract.conId, contract.localSymbol)


# --- orders ----------------------------------------------------------------------------------------------------------


def order_of(intent: Intent, ref: str, account: str) -> Any:
    """The library's order for an intent, naming its account and our reference."""
    order = ib_insync.Order(
        action=intent.action,
        totalQuantity=_plain(intent.quantity),
        orderType=intent.order_type,
        tif=intent.tif,
        outsideRth=intent.outside_rth,
        account=account,
        orderRef=ref,
        transmit=True,
    )
    if intent.limit_price is not None:
        order.lmtPrice = _plain(intent.limit_price)
    return order


def _plain(value: Decimal) -> str:
    """The number digit by digit, as the library passes text on: `str` might write 1E+3, a float 0.30000000000000004."""
    return f"{value:f}"


def open_order(at: datetime, session: int, contract: Any, order: Any, status: str) -> ev.OpenOrderReported:
    """An order that the server showed."""
    return ev.OpenOrderReported(
        at=at,
        session=session,
        ref=order.orderRef,
        order_id=order.orderId,
        client_id=order.clientId,
        perm_id=order.permId,
        account=order.account,
        instrument=instrument_of(contract),
        action=_ACTIONS.get(order.action, "BUY"),
        quantity=decimal(float(order.totalQuantity)),
        order_type=order.orderType,
        status=status,
        limit_price=optional_decimal(order.lmtPrice) if order.orderType.startswith("LMT") else None,
    )


def fill(at: datetime, session: int, contract: Any, execution: Any, *, recovered: bool) -> ev.Fill:
    """An execution.

    Raises:
        KeyError, ValueError: a side or number that makes no sense (becomes a LibraryFault, and is looked for again).
    """
    return ev.Fill(
        at=at,
        session=session,
        exec_id=execution.execId,
        ref=execution.orderRef,
        account=execution.acctNumber,
        con_id=contract.conId,
        instrument=instrument_of(contract),
        action=_ACTIONS[execution.side],
        quantity=decimal(float(execution.shares)),
        price=decimal(float(execution.price)),
        executed_at=execution.time,
        perm_id=execution.permId,
        order_id=execution.orderId,
        client_id=execution.clientId,
        recovered=recovered,
    )


def commission(at: datetime, session: int, report: Any) -> ev.CommissionReported:
    """What an execution cost."""
    return ev.CommissionReported(
        at=at,
        session=session,
        exec_id=report.execId,
        commission=optional_decimal(report.commission) or Decimal(0),
        currency=report.currency,
        realized_pnl=optional_decimal(report.realizedPNL),
    )


def position(at: datetime, session: int, held: Any) -> ev.PositionReported:
    """A position as the broker reports it. A cost that is unset becomes 0: what is held must not be lost for it."""
    return ev.PositionReported(
        at=at,
        session=session,
        account=held.account,
        con_id=held.contract.conId,
        instrument=instrument_of(held.contract),
        quantity=decimal(float(held.position)),
        average_cost=optional_decimal(float(held.avgCost)) or Decimal(0),
    )


# --- market data -----------------------------------------------------------------------------------------------------


def tick(at: datetime, session: int, instrument: AnyInstrument, ticker: Any, epoch: int, mono_s: float) -> ev.Tick:
    """The ticker's fields at this moment, frozen.

    `data_type` stays "unknown" until the broker has said what it sends.
    """
    bid, bid_size = _quote(ticker.bid, ticker.bidSize)
    ask, ask_size = _quote(ticker.ask, ticker.askSize)
    return ev.Tick(
        at=at,
        session=session,
        instrument=instrument,
        bid=bid,
        ask=ask,
        last=_number(ticker.last),
        bid_size=bid_size,
        ask_size=ask_size,
        last_size=_number(ticker.lastSize),
        volume=_number(ticker.volume),
        high=_number(ticker.high),
        low=_number(ticker.low),
        open=_number(ticker.open),
        close=_number(ticker.close),
        data_type=_DATA_TYPES.get(getattr(ticker, "told_data_type", 0), "unknown"),
        epoch=epoch,
        mono_s=mono_s,
    )


def _number(value: float) -> float | None:
    """A figure that must not be negative; -1 is TWS's "none"."""
    return value if value >= 0 and value < UNSET_FROM else None  # NaN compares False


def _quote(price: float, size: float) -> tuple[float | None, float | None]:
    """One side of the market. -1 with size 0 is "no quote"; a combination may well be quoted at -1.00 with a size."""
    if not abs(price) < UNSET_FROM or (price in {-1.0, 0.0} and not size > 0):  # NaN compares False
        return None, None
    return price, _number(size)
