"""openOrder, completedOrder and orderStatus, written along the layout."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from ibkr_service.sim.contracts import COMBO_CON_ID, Combo, Instrument
from ibkr_service.sim.messages import Answer, Since
from ibkr_service.sim.orderlayout import (
    COMPLETED_LAYOUT,
    DELTA_NEUTRAL,
    DELTA_NEUTRAL_SHORT,
    OPEN_LAYOUT,
    PEG_BENCH,
    PEG_BEST,
    SCALE,
    SERVER_DEFAULTS,
    STATE_NUMBERS,
    VERSIONS,
    of_version,
)
from ibkr_service.sim.orders import Order, Status
from ibkr_service.sim.terms import STYLES
from ibkr_service.sim.wire import UNSET_DOUBLE, Value, frame, parse_number

ZERO_WHEN_EMPTY: Final = frozenset({"lmtPrice", "auxPrice", "volatilityType", "continuousUpdate", "triggerMethod"})
"""Fields that TWS fills with 0 where the client left them empty."""


@dataclass(frozen=True, slots=True)
class Preview:
    """What an order would do to its account, in US dollars: the answer to a what-if order."""

    initial_before: Decimal
    maintenance_before: Decimal
    equity_before: Decimal
    initial_change: Decimal
    maintenance_change: Decimal
    equity_change: Decimal
    commission: Decimal

    @property
    def initial_after(self) -> Decimal:
        """Initial margin after it."""
        return self.initial_before + self.initial_change

    @property
    def equity_after(self) -> Decimal:
        """Equity with loan value after it."""
        return self.equity_before + self.equity_change

    @property
    def is_covered(self) -> bool:
        """Whether the equity covers the margin after it, or it demands no more than it brings."""
        return self.equity_after >= self.initial_after or self.equity_change >= self.initial_change

    def margins(self) -> list[Value]:
        """Before, change and after: each of initial margin, maintenance margin and equity."""
        before = [self.initial_before, self.maintenance_before, self.equity_before]
        change = [self.initial_change, self.maintenance_change, self.equity_change]
        return [*before, *change, *(old + new for old, new in zip(before, change, strict=True))]


def contract_fields(instrument: Instrument, exchange: str) -> list[Value]:
    """The eleven fields in which the gateway describes a contract."""
    if isinstance(instrument, Combo):
        symbol, currency = instrument.symbol, instrument.currency
        return [COMBO_CON_ID, symbol, "BAG", "", 0, "?", "", exchange, currency, str(COMBO_CON_ID), "COMB"]
    return [
        instrument.con_id,
        instrument.symbol,
        instrument.sec_type,
        instrument.expiry,
        instrument.strike,
        instrument.right or "?",
        instrument.multiplier,
        exchange,
        instrument.currency,
        instrument.local_symbol,
        instrument.trading_class,
    ]


def order_status(order: Order) -> bytes:
    """An orderStatus message."""
    return frame(
        Answer.ORDER_STATUS,
        order.ticket.order_id,
        order.status.value,
        order.filled,
        order.remaining,
        round(order.average_price, 8),
        order.perm_id,
        order.ticket.parent_id,
        order.last_price,
        order.client_id,
        order.why_held,
        0,
    )


def open_order(order: Order, version: int, preview: Preview | None = None) -> bytes:
    """An openOrder message; with a preview the answer to a what-if order."""
    writer = _Writer(order, version, preview)
    contract = contract_fields(order.instrument, order.ticket.spec.exchange)
    return frame(Answer.OPEN_ORDER, order.ticket.order_id, *contract, *writer.along(OPEN_LAYOUT))


def completed_order(order: Order, version: int) -> bytes:
    """A completedOrder message; nothing about such an order changes, so it is written once."""
    if (known := order.completed.get(version)) is not None:
        return known
    contract = contract_fields(order.instrument, order.ticket.spec.exchange)
    message = frame(Answer.COMPLETED_ORDER, *contract, *_Writer(order, version, None).along(COMPLETED_LAYOUT))
    if order.status.is_done:
        order.completed[version] = message
    return message


class _Writer:
    """One order's fields by name: what the client wrote, overlaid with what the broker knows better."""

    def __init__(self, order: Order, version: int, preview: Preview | None) -> None:
        self.order = order
        self.version = version
        self.preview = preview
        self.own: dict[str, Value] = {
            "action": order.ticket.action,
            "totalQuantity": order.ticket.quantity,
            "tif": order.ticket.tif,
            "account": order.account,
            "clientId": order.client_id,
            "permId": order.perm_id,
            "parentId": order.ticket.parent_id,
            "comboLegsDescrip": _legs_description(order.instrument),
            "whatIf": preview is not None,
            "status": order.status.value,
            "sharesAllocation": "",
            **_moving_prices(order),
            "filledQuantity": order.filled,
            "autoCancelDate": "",
            "refFuturesConId": 0,
            "parentPermId": order.parent.perm_id if order.parent is not None else 0,
            "shareholder": "Not an insider or substantial shareholder",
            "completedTime": order.completed_at,
            "completedStatus": _completed_status(order),
        }

    def along(self, layout: tuple[str, ...]) -> list[Value]:
        """The values along a layout."""
        values: list[Value] = []
        for name in of_version(layout, self.version):
            if name in _WRITE_GROUPS:
                values += _WRITE_GROUPS[name](self)
            else:
                values.append(self.value(name))
        return values

    def value(self, name: str) -> Value:
        """One field."""
        if name in self.own:
            return self.own[name]
        text = self.order.ticket.values.get(name, "")
        if text == "":
            return SERVER_DEFAULTS.get(name, 0 if name in ZERO_WHEN_EMPTY else "")
        return text


def _moving_prices(order: Order) -> dict[str, Value]:
    """The stop of a trailing order, and the limit that goes with it, as they are now."""
    style = STYLES.get(order.ticket.order_type)  # an order of a type that is not modelled can be written all the same
    if style is None or not style.trails or order.stop is None:
        return {}
    return {"trailStopPrice": order.stop, **({} if order.limit is None else {"lmtPrice": order.limit})}


def _completed_status(order: Order) -> str:
    if order.status is Status.FILLED:
        return f"Filled Size: {order.filled.normalize():f}"
    return "Cancelled by Trader" if order.status is Status.CANCELLED else "Order rejected"


def _legs_description(instrument: Instrument) -> str:
    if not isinstance(instrument, Combo):
        return ""
    return ",".join(f"{leg.contract.con_id}|{leg.ratio * leg.sign}" for leg in instrument.legs)


def _named(writer: _Writer, names: Sequence[str]) -> list[Value]:
    return [writer.value(name) for name in names]


def _list(values: Mapping[str, str], name: str) -> list[Value]:
    return list(values.get(name, "0").split("\0"))


def _legs(writer: _Writer) -> list[Value]:
    values = writer.order.ticket.values
    instrument = writer.order.instrument
    legs = instrument.legs if isinstance(instrument, Combo) else ()
    fields: list[Value] = [len(legs)]
    for leg in legs:
        fields += [leg.contract.con_id, leg.ratio, leg.action, instrument.exchange, 0, 0, "", -1]
    return [*fields, *_list(values, "orderLegs"), *_list(values, "smartParams")]


def _scale(writer: _Writer) -> list[Value]:
    increment = parse_number(writer.order.ticket.values["scalePriceIncrement"])
    return _named(writer, SCALE) if increment is not None and increment > 0 else []


def _hedge(writer: _Writer) -> list[Value]:
    return [writer.value("hedgeParam")] if writer.order.ticket.values["hedgeType"] else []


def _delta_neutral_contract(writer: _Writer) -> list[Value]:
    text = writer.order.ticket.values["deltaNeutralContract"]
    return [1, *text.split("\0")] if text else [0]


def _algo(writer: _Writer) -> list[Value]:
    values = writer.order.ticket.values
    return _list(values, "algoParams") if values["algoStrategy"] else []


def _peg_bench(writer: _Writer) -> list[Value]:
    return _named(writer, PEG_BENCH) if writer.order.ticket.order_type == "PEG BENCH" else []


def _versions(writer: _Writer) -> list[Value]:
    return [writer.value(name) for name, since in VERSIONS if writer.version >= since] + _peg_best(writer)


def _peg_best(writer: _Writer) -> list[Value]:
    return _named(writer, PEG_BEST) if writer.version >= Since.ORDER_PEG_BEST else []


def _state(writer: _Writer) -> list[Value]:
    status, preview = writer.order.status.value, writer.preview
    if preview is None:
        return [status, *[UNSET_DOUBLE] * len(STATE_NUMBERS), "", "", "", "", ""]
    commission = preview.commission
    return [status, *preview.margins(), commission, commission, commission, "USD", ""]


_WRITE_GROUPS: Final[dict[str, Callable[[_Writer], list[Value]]]] = {
    "<deltaNeutral>": lambda writer: _named(writer, DELTA_NEUTRAL),
    "<deltaNeutralShort>": lambda writer: _named(writer, DELTA_NEUTRAL_SHORT),
    "<legs>": _legs,
    "<scale>": _scale,
    "<hedge>": _hedge,
    "<deltaNeutralContract>": _delta_neutral_contract,
    "<algo>": _algo,
    "<state>": _state,
    "<pegBench>": _peg_bench,
    "<conditions>": lambda writer: _list(writer.order.ticket.values, "conditions"),
    "<versions>": _versions,
    "<pegBest>": _peg_best,
}
