"""The reference desk: what is listed, where it trades, under which rules and at which hours."""

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ibkr_service.sim import listing
from ibkr_service.sim.contracts import Contract, ContractSpec, UnknownContract, read_spec
from ibkr_service.sim.hours import hours_text, schedule_of
from ibkr_service.sim.listed import option_exchanges
from ibkr_service.sim.messages import Answer, Request, Since
from ibkr_service.sim.options import Chain
from ibkr_service.sim.pricing import NEW_YORK
from ibkr_service.sim.rules import invalid
from ibkr_service.sim.session import Session
from ibkr_service.sim.wire import Fields, Value, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

NEEDS_IB: Final = frozenset({Request.CONTRACT_DETAILS, Request.SEC_DEF_OPT_PARAMS, Request.MATCHING_SYMBOLS})
ORDER_TYPES: Final = "ACTIVETIM,AD,ADJUST,ALERT,ALLOC,AVGCOST,BASKET,COND,DAY,GTC,IOC,LMT,MKT,STP,TRAIL,WHATIF"
BBO_EXCHANGE: Final = "9c0001"
"""The code under which tickReqParams announces the exchanges of the SMART quote."""

SMART_EXCHANGES: Final = (
    *((0, "AMEX", "A"), (1, "NASDAQOM", "B"), (2, "NYSENAT", "C"), (4, "ISE", "I"), (5, "EDGEA", "J")),
    *((6, "DRCTEDGE", "K"), (8, "NYSE", "N"), (9, "ARCA", "P"), (10, "NASDAQ", "Q"), (12, "IEX", "V")),
    *((14, "PSX", "X"), (15, "BYX", "Y"), (16, "BATS", "Z")),
)
"""Bit number, exchange and letter: as in the exchange strings of ticks."""

DEPTH_EXCHANGES: Final = (
    *(("ARCA", "STK"), ("BATS", "STK"), ("IEX", "STK"), ("NASDAQ", "STK"), ("NYSE", "STK")),
    *(("CME", "FUT"), ("NYMEX", "FUT"), ("COMEX", "FUT"), ("IDEALPRO", "CASH")),
)

OPENING_TEXTS: Final = {"FOP": "08:30 US/Central"}

_DETAILS_VERSION = 8
_ROWS = {row.con_id: row for row in (*listing.STOCKS, *listing.FOREIGN_STOCKS)}
_SUGGESTED_SIZE = {"STK": 100}
_GROUP_OF = {"CASH": 4}


# --- contract details -----------------------------------------------------------------------------------------------


def _contract_details(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, spec = fields.whole(), read_spec(fields)
    fields.forgive_absent()
    include_expired, sec_id_type, sec_id = fields.flag(), fields.text().upper(), fields.text().upper()
    if spec.is_combo:
        if gateway.misfortunes.is_mute_on_combos:
            return
        # ib_async counts 321 among its warnings, and waits for ever: hence the legend that IB does not answer.
        raise invalid("'BAG' isn't supported for contract data request. Please enter a valid security type")
    spec = replace(spec, include_expired=include_expired, sec_id_type=sec_id_type, sec_id=sec_id)
    _check(spec)
    matches = gateway.universe.find(spec)
    if not matches:
        raise UnknownContract
    for contract in matches:
        session.send(_details(gateway, req_id, contract, session.version))
    session.send(frame(Answer.CONTRACT_DETAILS_END, 1, req_id))


def _check(spec: ContractSpec) -> None:
    """Refuse what IB does not even look for."""
    if not spec.sec_type and not spec.con_id and not spec.sec_id:
        raise invalid("Please enter a valid security type")


def _details(gateway: "Gateway", req_id: int, contract: Contract, version: int) -> bytes:
    is_new_layout = version >= Since.CONTRACT_SIZE_INCREMENTS
    size = _SUGGESTED_SIZE.get(contract.sec_type, 1)
    sizes: list[Value] = [1, 1, size] if is_new_layout else []
    if version == Since.CONTRACT_SIZE_INCREMENTS - 1:
        sizes = [1]  # the one version that knew a minimum size only
    return frame(
        Answer.CONTRACT_DETAILS,
        *([req_id] if is_new_layout else [_DETAILS_VERSION, req_id]),
        contract.symbol,
        contract.sec_type,
        _last_trade(contract),
        contract.strike,
        contract.right,
        contract.exchange,
        contract.currency,
        contract.local_symbol,
        _market_name(contract),
        contract.trading_class,
        contract.con_id,
        contract.min_tick,
        *([] if is_new_layout else [size]),  # a multiplier of the sizes of ticks, gone since
        contract.multiplier,
        ORDER_TYPES,
        ",".join(contract.exchanges),
        1,  # price magnifier
        contract.under_con_id,
        contract.long_name,
        contract.primary_exchange,
        contract.contract_month,
        *_trade(contract),
        *_hours(gateway, contract),
        "",  # economic value rule
        0,  # its multiplier
        len(contract.sec_ids),
        *(text for pair in contract.sec_ids for text in pair),
        *_underlying(gateway, contract),
        ",".join([str(contract.market_rule)] * len(contract.exchanges)),
        contract.expiry,
        _ROWS[contract.con_id].stock_type if contract.sec_type == "STK" else "",
        *sizes,
    )


def _last_trade(contract: Contract) -> str:
    """Date, and for what settles at the opening also the time and its zone: ``20261218 08:30 US/Central``."""
    if contract.right and contract.settlement == "AM":
        return f"{contract.expiry} {OPENING_TEXTS.get(contract.sec_type, '09:30 US/Eastern')}"
    return contract.expiry


def _market_name(contract: Contract) -> str:
    return "NMS" if contract.sec_type == "STK" else contract.trading_class


def _trade(contract: Contract) -> list[Value]:
    """Industry, category and subcategory."""
    row = _ROWS.get(contract.under_con_id or contract.con_id)
    return [row.industry, row.category, row.category] if row is not None else ["", "", ""]


def _hours(gateway: "Gateway", contract: Contract) -> list[Value]:
    """Time zone, trading hours and liquid hours."""
    today = gateway.clock.now().astimezone(NEW_YORK).date()
    schedule, week = schedule_of(contract), gateway.week
    spans = (schedule.trading, schedule.liquid)
    return [schedule.zone, *(hours_text(week, schedule, span, today) for span in spans)]


def _underlying(gateway: "Gateway", contract: Contract) -> list[Value]:
    """Aggregated group, underlying symbol and underlying security type."""
    group = _GROUP_OF.get(contract.sec_type, 1)
    if not contract.under_con_id:
        return [group, "", ""]
    underlying = gateway.universe.underlying(contract)
    return [group, contract.symbol, "IND" if underlying is None else underlying.sec_type]


# --- options, symbols -----------------------------------------------------------------------------------------------


def _option_parameters(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, symbol, future_exchange = fields.whole(), fields.text().upper(), fields.text()
    fields.text()  # the underlying's security type
    underlying = gateway.universe.by_con_id(fields.whole())
    if underlying is None or underlying.symbol != symbol:
        raise invalid("Invalid contract id")
    for row, chain in gateway.universe.chains_by_class(underlying):
        exchanges = option_exchanges(row)
        if underlying.sec_type == "FUT":  # of these the client names the exchange, of others none
            exchanges = tuple(each for each in exchanges if each == future_exchange)
        elif future_exchange:
            exchanges = ()
        for exchange in exchanges:
            session.send(_parameters(req_id, exchange, underlying, chain))
    session.send(frame(Answer.SEC_DEF_OPT_PARAMS_END, req_id))


def _parameters(req_id: int, exchange: str, underlying: Contract, chain: Chain) -> bytes:
    return frame(
        Answer.SEC_DEF_OPT_PARAMS,
        req_id,
        exchange,
        underlying.con_id,
        chain.trading_class,
        chain.multiplier,
        len(chain.expiries),
        *(f"{expiry:%Y%m%d}" for expiry in chain.expiries),
        len(chain.strikes),
        *chain.strikes,
    )


def _matching_symbols(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, matches = fields.whole(), gateway.universe.search(fields.text())
    values: list[Value] = []
    for match in matches:
        derived = gateway.universe.derivatives(match)
        values += [match.con_id, match.symbol, match.sec_type, match.primary_exchange or match.exchange, match.currency]
        values += [len(derived), *derived]
        if session.version >= Since.SYMBOL_DESCRIPTION:
            values += [match.long_name, ""]
    session.send(frame(Answer.SYMBOL_SAMPLES, req_id, len(matches), *values))


# --- exchanges and their rules --------------------------------------------------------------------------------------


def _market_rule(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    rule = fields.whole()
    if rule not in listing.MARKET_RULES:
        raise invalid(f"Invalid market rule id {rule}")
    steps = listing.MARKET_RULES[rule]
    session.send(frame(Answer.MARKET_RULE, rule, len(steps), *_flat(steps)))


def _smart_components(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, code = fields.whole(), fields.text()
    if code != BBO_EXCHANGE:
        raise invalid(f"Invalid BBO exchange {code[:40]}")
    session.send(frame(Answer.SMART_COMPONENTS, req_id, len(SMART_EXCHANGES), *_flat(SMART_EXCHANGES)))


def _depth_exchanges(_gateway: "Gateway", session: Session, _fields: Fields) -> None:
    rows = [
        (exchange, sec_type, "", "Deep2" if sec_type == "STK" else "Deep", 1) for exchange, sec_type in DEPTH_EXCHANGES
    ]
    session.send(frame(Answer.MKT_DEPTH_EXCHANGES, len(rows), *_flat(rows)))


def _flat(rows: Iterable[Iterable[Value]]) -> list[Value]:
    return [value for row in rows for value in row]


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.CONTRACT_DETAILS: _contract_details,
    Request.SEC_DEF_OPT_PARAMS: _option_parameters,
    Request.MATCHING_SYMBOLS: _matching_symbols,
    Request.MARKET_RULE: _market_rule,
    Request.SMART_COMPONENTS: _smart_components,
    Request.MKT_DEPTH_EXCHANGES: _depth_exchanges,
}
