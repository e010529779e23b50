"""placeOrder, read: text by text along the layout, into a `Ticket`.

What the simulator does not act on it still keeps, to echo it as TWS does.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Final

from ibkr_service.sim.contracts import LegSpec, read_spec
from ibkr_service.sim.messages import Since
from ibkr_service.sim.orderlayout import (
    CONDITION_FIELDS,
    CORE,
    DELTA_NEUTRAL,
    FREE_TEXT,
    PEG_BENCH,
    PLACE_TAIL,
    PLACE_VERSIONS,
    SCALE,
    of_version,
)
from ibkr_service.sim.orders import Ticket
from ibkr_service.sim.terms import read_terms
from ibkr_service.sim.wire import UNSET_WHOLE, FieldError, Fields, parse_number

_UNSET_DOUBLE_OF_CLIENTS = "1.7976931348623157e+308"
_ACTIONS = {"BUY": "BUY", "SELL": "SELL", "SSHORT": "SELL"}


def read_place_order(fields: Fields, version: int) -> Ticket:
    """Read a placeOrder request, from its order id on.

    Raises:
        FieldError: a field is missing or is not what its place demands.
    """
    order_id = fields.whole()
    spec = read_spec(fields)
    values = {"exchange": spec.exchange, **{name: _clean(name, fields.text()) for name in CORE}}
    legs: tuple[LegSpec, ...] = ()
    if spec.is_combo:
        legs = _read_legs(fields, values)
    fields.forgive_absent()
    for name in of_version(PLACE_TAIL, version):
        if name in _READ_GROUPS:
            _READ_GROUPS[name](fields, values, version)
        else:
            values[name] = _clean(name, fields.text())
    quantity = parse_number(values["totalQuantity"], "totalQuantity")
    if quantity is None or quantity.is_infinite():
        raise FieldError("totalQuantity: expected a number")
    return Ticket(
        order_id=order_id,
        spec=replace(spec, legs=legs),
        values=values,
        action=_action(values["action"]),
        quantity=quantity,
        order_type=values["orderType"].upper(),
        limit=_finite(values, "lmtPrice"),
        aux=_finite(values, "auxPrice"),
        tif=values["tif"].upper() or "DAY",
        account=values["account"],
        order_ref=values["orderRef"],
        transmit=values["transmit"] != "0",
        parent_id=Fields([values["parentId"]]).whole(),
        oca_group=values["ocaGroup"],
        what_if=values["whatIf"] in {"1", "true", "True"},
        terms=read_terms(values),
    )


def _clean(name: str, text: str) -> str:
    if name in FREE_TEXT:
        return text
    if text == "Infinite":
        return "Infinity"  # ib_insync writes the one, and reads only the other
    return "" if text in UNSET_WHOLE or text == _UNSET_DOUBLE_OF_CLIENTS else text


def _action(text: str) -> str:
    action = _ACTIONS.get(text.upper())
    if action is None:
        raise FieldError(f"action: expected BUY or SELL, not {text[:40]!r}")
    return action


def _finite(values: Mapping[str, str], name: str) -> Decimal | None:
    number = parse_number(values[name], name)
    if number is not None and number.is_infinite():
        raise FieldError(f"{name}: expected a finite number")
    return number


def _read_legs(fields: Fields, values: dict[str, str]) -> tuple[LegSpec, ...]:
    legs: list[LegSpec] = []
    for _ in range(fields.count()):
        con_id, ratio, action, exchange = fields.whole(), fields.whole(1), fields.text().upper(), fields.text().upper()
        fields.skip(4)  # openClose, shortSaleSlot, designatedLocation, exemptCode
        legs.append(LegSpec(con_id, ratio, action, exchange))
    _read_list(fields, values, "orderLegs", 1)
    _read_list(fields, values, "smartParams", 2)
    return tuple(legs)


def _read_list(fields: Fields, values: dict[str, str], name: str, width: int) -> None:
    count = fields.count()
    values[name] = "\0".join([str(count), *(fields.text() for _ in range(count * width))])


def _read_names(fields: Fields, values: dict[str, str], names: Sequence[str]) -> None:
    values.update({name: _clean(name, fields.text()) for name in names})


def _read_delta_neutral(fields: Fields, values: dict[str, str], _version: int) -> None:
    if values["deltaNeutralOrderType"]:
        _read_names(fields, values, DELTA_NEUTRAL)


def _read_scale(fields: Fields, values: dict[str, str], _version: int) -> None:
    if _is_positive(values["scalePriceIncrement"]):
        _read_names(fields, values, SCALE)


def _read_hedge(fields: Fields, values: dict[str, str], _version: int) -> None:
    if values["hedgeType"]:
        values["hedgeParam"] = fields.text()


def _read_delta_neutral_contract(fields: Fields, values: dict[str, str], _version: int) -> None:
    values["deltaNeutralContract"] = "\0".join(fields.text() for _ in range(3)) if fields.flag() else ""


def _read_algo(fields: Fields, values: dict[str, str], _version: int) -> None:
    if values["algoStrategy"]:
        _read_list(fields, values, "algoParams", 2)


def _read_peg_bench(fields: Fields, values: dict[str, str], _version: int) -> None:
    if values["orderType"] == "PEG BENCH":
        _read_names(fields, values, PEG_BENCH)


def _read_conditions(fields: Fields, values: dict[str, str], _version: int) -> None:
    count = fields.count()
    texts: list[str] = []
    for _ in range(count):
        kind = fields.whole()
        if kind not in CONDITION_FIELDS:
            raise FieldError(f"no condition has the type {kind}")
        texts += [str(kind), *(fields.text() for _ in range(CONDITION_FIELDS[kind]))]
    if count:
        texts += [fields.text(), fields.text()]
    values["conditions"] = "\0".join([str(count), *texts])


def _read_versions(fields: Fields, values: dict[str, str], version: int) -> None:
    for name, since in PLACE_VERSIONS:
        if version >= since:
            values[name] = _clean(name, fields.text())
    if version < Since.ORDER_PEG_BEST:
        return
    if values["exchange"] == "IBKRATS":
        values["minTradeQty"] = fields.text()
    if values["orderType"] == "PEG BEST":
        _read_names(fields, values, ["minCompeteSize", "competeAgainstBestOffset"])
        if parse_number(values["competeAgainstBestOffset"]) == Decimal("Infinity"):
            _read_names(fields, values, ["midOffsetAtWhole", "midOffsetAtHalf"])
    elif values["orderType"] == "PEG MID":
        _read_names(fields, values, ["midOffsetAtWhole", "midOffsetAtHalf"])


def _is_positive(text: str) -> bool:
    number = parse_number(text)
    return number is not None and number > 0


_READ_GROUPS: Final[dict[str, Callable[[Fields, dict[str, str], int], None]]] = {
    "<deltaNeutral>": _read_delta_neutral,
    "<scale>": _read_scale,
    "<hedge>": _read_hedge,
    "<deltaNeutralContract>": _read_delta_neutral_contract,
    "<algo>": _read_algo,
    "<pegBench>": _read_peg_bench,
    "<conditions>": _read_conditions,
    "<versions>": _read_versions,
}
