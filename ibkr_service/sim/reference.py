"""The reference desk: what is listed, under which rules, and what time it is."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ibkr_service.sim import answers, listing
from ibkr_service.sim.contracts import Contract, UnknownContract, read_spec
from ibkr_service.sim.hours import ZONE_NAME, exchange_hours, forex_hours
from ibkr_service.sim.messages import Answer, Request, Since
from ibkr_service.sim.options import MULTIPLIER
from ibkr_service.sim.pricing import NEW_YORK
from ibkr_service.sim.rules import Refused, invalid
from ibkr_service.sim.session import Session
from ibkr_service.sim.wire import Fields, Value, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

NEEDS_IB: Final = frozenset({Request.CONTRACT_DETAILS, Request.SEC_DEF_OPT_PARAMS, Request.MATCHING_SYMBOLS})
ORDER_TYPES: Final = "ACTIVETIM,AD,ADJUST,ALERT,ALLOC,AVGCOST,BASKET,COND,DAY,GTC,IOC,LMT,MKT,STP,TRAIL,WHATIF"

_DETAILS_VERSION = 8
_ROWS = {row.con_id: row for row in listing.STOCKS}


def _contract_details(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, spec = fields.whole(), read_spec(fields)
    if spec.is_combo:
        return  # IB never answers for a combo; a client must not wait for ever
    if not spec.sec_type and not spec.con_id:
        raise invalid("Please enter a valid security type")
    matches = gateway.universe.find(spec)
    if not matches:
        raise UnknownContract
    for contract in matches:
        session.send(_details(gateway, req_id, contract, session.version))
    session.send(frame(Answer.CONTRACT_DETAILS_END, 1, req_id))


def _details(gateway: "Gateway", req_id: int, contract: Contract, version: int) -> bytes:
    is_new_layout = version >= Since.CONTRACT_SIZE_INCREMENTS
    head: list[Value] = [req_id] if is_new_layout else [_DETAILS_VERSION, req_id]
    multiplier_of_sizes: list[Value] = [] if is_new_layout else [100]
    sizes: list[Value] = [1, 1, 1 if contract.sec_type == "OPT" else 100] if is_new_layout else []
    if version == Since.CONTRACT_SIZE_INCREMENTS - 1:
        sizes = [1]
    return frame(
        Answer.CONTRACT_DETAILS,
        *head,
        contract.symbol,
        contract.sec_type,
        contract.expiry,
        contract.strike,
        contract.right,
        contract.exchange,
        contract.currency,
        contract.local_symbol,
        _market_name(contract),
        contract.trading_class,
        contract.con_id,
        contract.min_tick,
        *multiplier_of_sizes,
        contract.multiplier,
        ORDER_TYPES,
        ",".join(contract.exchanges),
        1,  # price magnifier
        contract.under_con_id,
        contract.long_name,
        contract.primary_exchange,
        contract.expiry[:6],
        *_trade(contract),
        *_hours(gateway, contract),
        "",  # economic value rule
        0,  # its multiplier
        0,  # security ids
        *_underlying(contract),
        ",".join(str(contract.market_rule) for _ in contract.exchanges),
        contract.expiry,
        _ROWS[contract.con_id].stock_type if contract.sec_type == "STK" else "",
        *sizes,
    )


def _market_name(contract: Contract) -> str:
    return {"STK": "NMS", "OPT": contract.symbol}.get(contract.sec_type, contract.local_symbol)


def _trade(contract: Contract) -> list[Value]:
    """Industry, category and subcategory."""
    row = _ROWS.get(contract.under_con_id or contract.con_id)
    return [row.industry, row.category, row.category] if row is not None else ["", "", ""]


def _hours(gateway: "Gateway", contract: Contract) -> list[Value]:
    """Time zone, trading hours and liquid hours."""
    today = gateway.clock.now().astimezone(NEW_YORK).date()
    if contract.sec_type == "CASH":
        hours = forex_hours(today)
        return [ZONE_NAME, hours, hours]
    liquid = exchange_hours(today, "0930", "1600")
    trading = liquid if contract.sec_type == "OPT" else exchange_hours(today, "0400", "2000")
    return [ZONE_NAME, trading, liquid]


def _underlying(contract: Contract) -> list[Value]:
    """Aggregated group, underlying symbol and underlying security type."""
    group = 4 if contract.sec_type == "CASH" else 1
    return [group, contract.symbol, "STK"] if contract.under_con_id else [group, "", ""]


def _market_rule(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    rule = fields.whole()
    if rule not in listing.MARKET_RULES:
        raise invalid(f"Invalid market rule id {rule}")
    steps = listing.MARKET_RULES[rule]
    flat = [value for step in steps for value in step]
    session.send(frame(Answer.MARKET_RULE, rule, len(steps), *flat))


def _option_parameters(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, symbol, future_exchange = fields.whole(), fields.text().upper(), fields.text()
    fields.text()  # the underlying's security type
    underlying = gateway.universe.stocks.get(fields.whole())
    chain = gateway.universe.chain(underlying) if underlying is not None else None
    if underlying is None or chain is None or underlying.symbol != symbol:
        raise Refused(321, "Error validating request.-'cO' : cause - Invalid contract id")
    for exchange in () if future_exchange else ("SMART", "CBOE"):
        session.send(
            frame(
                Answer.SEC_DEF_OPT_PARAMS,
                req_id,
                exchange,
                underlying.con_id,
                symbol,
                MULTIPLIER,
                len(chain.expiries),
                *(f"{expiry:%Y%m%d}" for expiry in chain.expiries),
                len(chain.strikes),
                *chain.strikes,
            )
        )
    session.send(frame(Answer.SEC_DEF_OPT_PARAMS_END, req_id))


def _matching_symbols(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, matches = fields.whole(), gateway.universe.search(fields.text())
    values: list[Value] = []
    for stock in matches:
        values += [stock.con_id, stock.symbol, stock.sec_type, stock.primary_exchange, stock.currency, 1, "OPT"]
        if session.version >= Since.SYMBOL_DESCRIPTION:
            values += [stock.long_name, ""]
    session.send(frame(Answer.SYMBOL_SAMPLES, req_id, len(matches), *values))


def _current_time(gateway: "Gateway", session: Session, _fields: Fields) -> None:
    session.send(answers.current_time(int(gateway.clock.now().timestamp())))


def _ids(gateway: "Gateway", session: Session, _fields: Fields) -> None:
    session.send(answers.next_valid_id(gateway.next_order_id(session.client_id)))


def _managed_accounts(gateway: "Gateway", session: Session, _fields: Fields) -> None:
    session.send(answers.managed_accounts(gateway.config.accounts))


def _log_level(_gateway: "Gateway", _session: Session, _fields: Fields) -> None:
    """TWS takes note and says nothing."""


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.CONTRACT_DETAILS: _contract_details,
    Request.MARKET_RULE: _market_rule,
    Request.SEC_DEF_OPT_PARAMS: _option_parameters,
    Request.MATCHING_SYMBOLS: _matching_symbols,
    Request.CURRENT_TIME: _current_time,
    Request.IDS: _ids,
    Request.MANAGED_ACCTS: _managed_accounts,
    Request.SET_SERVER_LOG_LEVEL: _log_level,
}
