"""ib_insync's objects into core values and back; float into Decimal. Pure.

Instruments: what TWS reports becomes the value that a user would write. A trading class that only repeats the symbol
is left out; one that differs (SPXW) is kept, since it is another contract. Floats come off the wire as text and go
through `repr`, never through binary arithmetic; -1, 0 with no size, NaN and 1.7976931348623157e308 are TWS's ways to
say "nothing" and become None.
"""

from __future__ import annotations

import json
import math
import re
from datetime import datetime
from decimal import Decimal
from sys import intern
from typing import Any

import ib_insync

from ibkr_service.broker import orderfields
from ibkr_service.core import events as ev
from ibkr_service.core.errors import BrokerRefused, InvalidIntent, RequestError, UnknownInstrument
from ibkr_service.core.instrument import (
    AnyInstrument,
    Bag,
    Forex,
    Future,
    FutureOption,
    Index,
    Option,
    Other,
    Right,
    Stock,
)
from ibkr_service.core.intent import TRAILING
from ibkr_service.core.orders import Action, Intent

LIMITED = frozenset({"LMT", "LOC", "STP LMT"})  # whose limit stays what it was set to
NO_SUCH_CONTRACT = 200  # "No security definition has been found for the request"
NO_GREEK = -2.0  # TWS's "not computed"
UNSET_FROM = 1e300  # TWS writes "unset" as the largest double, in several spellings

_DATA_TYPES: dict[int, ev.DataType] = {0: "unknown", 1: "live", 2: "frozen", 3: "delayed", 4: "delayed_frozen"}
# TWS's tick types (https://interactivebrokers.github.io/tws-api/tick_types.html), live and delayed.
TICK_FIELDS: dict[int, str] = {
    **dict.fromkeys((1, 66), "bid"),
    **dict.fromkeys((2, 67), "ask"),
    **dict.fromkeys((4, 68), "last"),
    **dict.fromkeys((0, 69), "bid_size"),
    **dict.fromkeys((3, 70), "ask_size"),
    **dict.fromkeys((5, 71), "last_size"),
    **dict.fromkeys((8, 74), "volume"),
    **dict.fromkeys((6, 72), "high"),
    **dict.fromkeys((7, 73), "low"),
    **dict.fromkeys((9, 75), "close"),
    **dict.fromkeys((14, 76), "open"),
}
_SIZES = frozenset({0, 3, 5, 8, 69, 70, 71, 74})
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
        case FutureOption():
            contract = ib_insync.FuturesOption(
                instrument.symbol,
                instrument.expiry,
                instrument.strike,
                instrument.right,
                instrument.exchange,
                instrument.multiplier,
                instrument.currency,
                tradingClass=instrument.trading_class,
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
    # The thousands of contracts of a chain share these few texts, each of which came with each of them anew.
    symbol, currency, multiplier = intern(contract.symbol), intern(contract.currency), intern(contract.multiplier)
    # BRK B trades as BRKB.
    own_class = contract.tradingClass not in {symbol, symbol.replace(" ", ""), ""}
    trading_class = intern(contract.tradingClass) if own_class else ""
    expiry = intern(contract.lastTradeDateOrContractMonth.split("-")[0].split(" ")[0])
    match contract.secType:
        case "STK":
            return Stock(symbol, currency)
        case "CASH":
            return Forex(symbol, currency)
        case "OPT" if contract.right and 0 < contract.strike < math.inf and re.fullmatch(r"\d{8}", expiry):
            right: Right = "C" if contract.right.startswith("C") else "P"
            return Option(symbol, expiry, contract.strike, right, multiplier or "100", currency, trading_class)
        case "FOP" if contract.right and 0 < contract.strike < math.inf and re.fullmatch(r"\d{8}", expiry):
            side: Right = "C" if contract.right.startswith("C") else "P"
            return FutureOption(
                symbol, expiry, contract.strike, side, multiplier, currency, trading_class, intern(contract.exchange)
            )
        case "FUT":
            return Future(symbol, expiry, contract.exchange, currency, multiplier)
        case "IND":
            return Index(symbol, contract.exchange, currency)
        case "BAG":
            legs = tuple((leg.conId, leg.ratio, leg.action) for leg in contract.comboLegs or ())
            return Bag(symbol, currency, legs)
        case sec_type:
            return Other(sec_type, symbol, currency, contract.conId, contract.localSymbol)


def generic_ticks(instrument: AnyInstrument) -> str:
    """What to ask for beside the quote: of an option its open interest (101)."""
    return "101" if isinstance(instrument, Option) else ""


def refusal(code: int, text: str, instrument: AnyInstrument) -> RequestError:
    """What the broker's error for a request about an instrument is to whoever asked."""
    if code == NO_SUCH_CONTRACT:
        return UnknownInstrument(f"{instrument}: {text} (code {code})")
    return BrokerRefused(code, text, str(instrument))


def reject_words(reject_json: str) -> list[str]:
    """What TWS's advanced order reject says to people: each text of several words in it, once.

    IB documents no layout; what is no JSON is said as it is.
    """
    try:
        found = json.loads(reject_json)
    except ValueError:
        return [reject_json]
    words: dict[str, None] = {}
    waiting = [found]
    while waiting:
        part = waiting.pop(0)
        if isinstance(part, dict):
            waiting += part.values()
        elif isinstance(part, list):
            waiting += part
        elif isinstance(part, str) and " " in part.strip():
            words[part.strip()] = None
    return list(words) or [reject_json]


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
    if intent.is_plain:
        return order
    auxiliary = auxiliary_price(intent)
    if auxiliary is not None:
        order.auxPrice = _plain(auxiliary)
    if intent.order_type in TRAILING and intent.stop_price is not None:
        order.trailStopPrice = _plain(intent.stop_price)
    if intent.trailing_percent is not None:
        order.trailingPercent = _plain(intent.trailing_percent)
    if intent.limit_offset is not None:
        order.lmtPriceOffset = _plain(intent.limit_offset)
    if intent.good_till is not None:
        order.goodTillDate = ib_insync.util.formatIBDatetime(intent.good_till)
    if intent.algo is not None:
        order.algoStrategy = intent.algo.name
        order.algoParams = [ib_insync.TagValue(name, value) for name, value in intent.algo.parameters]
    orderfields.apply(intent, order)
    return order


def auxiliary_price(intent: Intent) -> Decimal | None:
    """What TWS calls auxPrice: the stop price, or of a trailing order the amount by which it trails."""
    return intent.trailing_amount if intent.order_type in TRAILING else intent.stop_price


def _plain(value: Decimal) -> str:
    """The number digit by digit, as the library passes text on: `str` might write 1E+3, a float 0.30000000000000004."""
    return f"{value:f}"


def open_order(at: datetime, session: int, contract: Any, order: Any, status: str) -> ev.OpenOrderReported:
    """An order that the server showed."""
    trails = order.orderType in TRAILING
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
        limit_price=optional_decimal(order.lmtPrice) if order.orderType in LIMITED else None,
        stop_price=optional_decimal(order.auxPrice) if order.orderType in {"STP", "STP LMT"} else None,
        trailing_amount=optional_decimal(order.auxPrice) if trails else None,
        trailing_percent=optional_decimal(order.trailingPercent) if trails else None,
        limit_offset=optional_decimal(order.lmtPriceOffset) if trails else None,
        tif=order.tif,
        outside_rth=bool(order.outsideRth),
        parent_id=order.parentId,
        oca_group=order.ocaGroup,
        oca_type=order.ocaType,
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
    """A position as the broker reports it.

    Raises:
        ValueError: the quantity is no number.
    """
    return ev.PositionReported(
        at=at,
        session=session,
        account=held.account,
        con_id=held.contract.conId,
        instrument=instrument_of(held.contract),
        quantity=decimal(float(held.position)),
        average_cost=optional_decimal(float(held.avgCost)),
    )


def portfolio(at: datetime, session: int, item: Any) -> ev.PortfolioReported:
    """What a position is worth. Its cost is left to the position, which says the same.

    Raises:
        ValueError: the quantity is no number.
    """
    return ev.PortfolioReported(
        at=at,
        session=session,
        account=item.account,
        con_id=item.contract.conId,
        instrument=instrument_of(item.contract),
        quantity=decimal(float(item.position)),
        market_price=optional_decimal(item.marketPrice),
        market_value=optional_decimal(item.marketValue),
        unrealized_pnl=optional_decimal(item.unrealizedPNL),
        realized_pnl=optional_decimal(item.realizedPNL),
    )


def pnl(at: datetime, session: int, live: Any) -> ev.PnlReported:
    """An account's profit and loss at this moment; the library keeps one object per account and changes it."""
    return ev.PnlReported(
        at=at,
        session=session,
        account=live.account,
        daily_pnl=optional_decimal(live.dailyPnL),
        unrealized_pnl=optional_decimal(live.unrealizedPnL),
        realized_pnl=optional_decimal(live.realizedPnL),
    )


def position_pnl(at: datetime, session: int, live: Any) -> ev.PositionPnlReported:
    """A position's profit and loss at this moment; the library keeps one object per position and changes it.

    Raises:
        ValueError: the quantity is no number.
    """
    return ev.PositionPnlReported(
        at=at,
        session=session,
        account=live.account,
        con_id=live.conId,
        quantity=decimal(float(live.position)),
        daily_pnl=optional_decimal(live.dailyPnL),
        unrealized_pnl=optional_decimal(live.unrealizedPnL),
        realized_pnl=optional_decimal(live.realizedPnL),
        market_value=optional_decimal(live.value),
    )


# --- market data -----------------------------------------------------------------------------------------------------


Rest = tuple[float | None, float | None, float | None, float | None, ev.DataType, bool, ev.Greeks | None, float | None]
"""What changes seldom: high, low, open, close, data type, halted, greeks, open interest."""


def rest(instrument: AnyInstrument, ticker: Any) -> Rest:
    """The ticker's fields that are neither bid, ask, last nor volume.

    `data_type` stays "unknown" until the broker has said what it sends.
    """
    now = ticker.__dict__
    return (
        high if 0 <= (high := now["high"]) < UNSET_FROM else None,
        low if 0 <= (low := now["low"]) < UNSET_FROM else None,
        first if 0 <= (first := now["open"]) < UNSET_FROM else None,
        close if 0 <= (close := now["close"]) < UNSET_FROM else None,
        _DATA_TYPES.get(now.get("told_data_type", 0), "unknown"),
        now["halted"] > 0,
        None if now["modelGreeks"] is None else greeks(now["modelGreeks"]),
        open_interest(instrument, ticker) if isinstance(instrument, Option) else None,
    )


def tick(
    at: datetime,
    session: int,
    instrument: AnyInstrument,
    ticker: Any,
    epoch: int,
    mono_s: float,
    seldom: Rest | None = None,
) -> ev.Tick:
    """The ticker's fields at this moment, frozen.

    Args:
        seldom: what `rest` gives; None: it is read.
    """
    high, low, first, close, data_type, halted, model, interest = seldom or rest(instrument, ticker)
    now = ticker.__dict__  # a dataclass has its defaults in the class, where every look-up would begin
    bid, bid_size, ask, ask_size = now["bid"], now["bidSize"], now["ask"], now["askSize"]
    if not (0 < bid < UNSET_FROM and bid_size >= 0):  # nearly always it is; NaN compares False
        bid, bid_size = _quote(bid, bid_size)
    if not (0 < ask < UNSET_FROM and ask_size >= 0):
        ask, ask_size = _quote(ask, ask_size)
    return ev.Tick(  # by position: for a struct of so many fields that takes a seventh of the time
        instrument,
        bid,
        ask,
        last if 0 <= (last := now["last"]) < UNSET_FROM else None,
        bid_size,
        ask_size,
        last_size if 0 <= (last_size := now["lastSize"]) < UNSET_FROM else None,
        volume if 0 <= (volume := now["volume"]) < UNSET_FROM else None,
        high,
        low,
        first,
        close,
        data_type,
        epoch,
        mono_s,
        halted,
        model,
        interest,
        at=at,
        session=session,
    )


def greeks(computation: Any) -> ev.Greeks:
    """An option computation of TWS. Its -1 and -2 are the library's None already; the unset double is not."""
    return ev.Greeks(
        implied_volatility=_finite(computation.impliedVol),
        delta=_finite(computation.delta),
        gamma=_finite(computation.gamma),
        theta=_finite(computation.theta) if computation.theta != NO_GREEK else None,  # the library forgets these two
        vega=_finite(computation.vega) if computation.vega != NO_GREEK else None,
        option_price=_finite(computation.optPrice),
        underlying_price=_finite(computation.undPrice),
    )


def open_interest(option: Option, ticker: Any) -> float | None:
    """The open interest of this option, in contracts: TWS sends both sides of a strike on separate tick types."""
    return _number(ticker.callOpenInterest if option.right == "C" else ticker.putOpenInterest)


def raw_tick(
    at: datetime,
    session: int,
    instrument: AnyInstrument,
    tick_type: int,
    price: float,
    size: float,
    epoch: int,
    mono_s: float,
) -> ev.RawTick:
    """One tick, by TWS's tick type; delayed types are named as the live ones."""
    field = TICK_FIELDS.get(tick_type) or str(tick_type)
    if 0 < price < UNSET_FROM and 0 <= size < UNSET_FROM:  # nearly always
        return ev.RawTick(at, session, instrument, field, price, size, epoch, mono_s)
    value, amount = _quote(price, size)
    if tick_type in _SIZES:
        amount = _number(size)
    return ev.RawTick(at, session, instrument, field, value, amount, epoch, mono_s)


def _finite(value: float | None) -> float | None:
    """A figure that may well be negative."""
    return value if value is not None and abs(value) < UNSET_FROM else None  # NaN compares False


def _number(value: float) -> float | None:
    """A figure that must not be negative; -1 is TWS's "none"."""
    return value if value >= 0 and value < UNSET_FROM else None  # NaN compares False


def _quote(price: float, size: float) -> tuple[float | None, float | None]:
    """One side of the market. -1 with size 0 is "no quote"; a combination may well be quoted at -1.00 with a size."""
    if not abs(price) < UNSET_FROM or (price in {-1.0, 0.0} and not size > 0):  # NaN compares False
        return None, None
    return price, _number(size)
