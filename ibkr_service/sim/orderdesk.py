"""The order desk: placing, changing and cancelling, and questions about orders and fills."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Final

from ibkr_service.sim import answers
from ibkr_service.sim.booking import EXCHANGE_ZONE_NAME
from ibkr_service.sim.contracts import Combo, ContractSpec, UnknownContract
from ibkr_service.sim.exchange import MANUAL_CLIENT
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.orderread import read_place_order
from ibkr_service.sim.orders import Execution, Order
from ibkr_service.sim.orderwrite import completed_order, open_order, order_status
from ibkr_service.sim.pricing import NEW_YORK
from ibkr_service.sim.reporter import BINDING
from ibkr_service.sim.rules import Refused
from ibkr_service.sim.session import Session, Stream
from ibkr_service.sim.wire import FieldError, Fields, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

REJECTED: Final = 201
NEEDS_IB: Final = frozenset(
    {Request.PLACE_ORDER, Request.CANCEL_ORDER, Request.GLOBAL_CANCEL, Request.EXERCISE_OPTIONS}
)
ABOUT_ORDERS: Final = NEEDS_IB | {
    Request.OPEN_ORDERS,
    Request.ALL_OPEN_ORDERS,
    Request.AUTO_OPEN_ORDERS,
    Request.COMPLETED_ORDERS,
    Request.EXERCISE_OPTIONS,
}

_TIME = re.compile(r"(\d{8})[- ](\d{2}:\d{2}:\d{2})(?: .*)?")
_SIDES = {"": "", "BUY": "BOT", "BOT": "BOT", "SELL": "SLD", "SLD": "SLD", "SSHORT": "SLD"}


def _place(gateway: "Gateway", session: Session, fields: Fields) -> None:
    ticket = read_place_order(fields, session.version)
    misfortunes, exchange = gateway.misfortunes, gateway.exchange
    if misfortunes.rejections:
        code, text = misfortunes.rejections.pop(0)
        if code == REJECTED and (session.client_id, ticket.order_id) not in exchange.orders:
            exchange.reject(session.client_id, ticket, text)
            return
        raise Refused(code, text)
    if ticket.what_if:
        order, preview = exchange.preview(session.client_id, ticket)
        session.send(open_order(order, session.version, preview))
        return
    exchange.place(session.client_id, ticket)
    if misfortunes.false_cancels:
        raise Refused(*misfortunes.false_cancels.pop(0))


def _cancel(gateway: "Gateway", session: Session, fields: Fields) -> None:
    gateway.exchange.cancel(session.client_id, fields.whole())


def _cancel_all(gateway: "Gateway", _session: Session, _fields: Fields) -> None:
    gateway.exchange.cancel_all()


def _send_orders(session: Session, orders: list[Order]) -> None:
    for order in orders:
        session.send(open_order(order, session.version))
        session.send(order_status(order))
    session.send(frame(Answer.OPEN_ORDER_END, 1))


def _own_orders(gateway: "Gateway", session: Session, _fields: Fields) -> None:
    if session.client_id == MANUAL_CLIENT:
        _bind_all(gateway)
    own = gateway.exchange.open_orders()
    if session.client_id != gateway.config.master_client_id:
        own = [order for order in own if order.client_id == session.client_id]
    _send_orders(session, own)


def _all_orders(gateway: "Gateway", session: Session, _fields: Fields) -> None:
    _send_orders(session, gateway.exchange.open_orders())


def _completed(gateway: "Gateway", session: Session, fields: Fields) -> None:
    api_only = fields.flag()
    for order in gateway.exchange.completed_today():
        if api_only and order.is_manual:
            continue
        session.send(completed_order(order, session.version))
    session.send(frame(Answer.COMPLETED_ORDERS_END))


def _auto_bind(gateway: "Gateway", session: Session, fields: Fields) -> None:
    """From now on manual orders are client 0's too, and so are those that are there."""
    if session.client_id != MANUAL_CLIENT:
        text = "Only API connections with clientId set to 0 can set the auto bind TWS orders property."
        raise Refused(327, text)
    if not fields.flag():
        session.close_stream(*BINDING)
        return
    session.open_stream(*BINDING, Stream())
    for order in _bind_all(gateway):
        session.send(open_order(order, session.version))
        session.send(order_status(order))


def _bind_all(gateway: "Gateway") -> list[Order]:
    unbound = [order for order in gateway.exchange.open_orders() if order.is_manual and not order.ticket.order_id]
    for order in unbound:
        gateway.exchange.bind(order)
    return unbound


def _exercise(gateway: "Gateway", _session: Session, fields: Fields) -> None:
    fields.whole()  # request id
    spec = ContractSpec(
        con_id=fields.whole(),
        symbol=fields.text().upper(),
        sec_type=fields.text().upper(),
        expiry=fields.text(),
        strike=fields.number() or None,
        right=fields.text().upper()[:1].strip("?0"),
        multiplier=fields.text(),
        exchange=fields.text().upper(),
        currency=fields.text().upper(),
        local_symbol=fields.text().upper(),
        trading_class=fields.text().upper(),
    )
    action, quantity, account, overrides = fields.whole(), fields.whole(), fields.text(), fields.flag()
    contract = gateway.universe.resolve(spec)
    if isinstance(contract, Combo):
        raise UnknownContract
    gateway.exchange.exercise(account, contract, action, quantity, overrides=overrides)


@dataclass(frozen=True, slots=True)
class _Filter:
    """Which executions a client asks for; what it left open is empty."""

    client_id: int
    account: str
    since: datetime | None
    symbol: str
    sec_type: str
    exchange: str
    side: str

    def fits(self, execution: Execution) -> bool:
        instrument = execution.instrument
        sec_type = "BAG" if isinstance(instrument, Combo) else instrument.sec_type
        wanted = (
            (self.account, execution.order.account),
            (self.symbol, instrument.symbol),
            (self.sec_type, sec_type),
            (self.exchange, execution.exchange),
            (self.side, execution.side),
        )
        return (
            all(asked in {"", has} for asked, has in wanted)
            and self.client_id in {0, execution.order.client_id}
            and (self.since is None or _exchange_time(execution.time) >= self.since)
        )


def _executions(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id = fields.whole()
    client_id, account, since = fields.whole(), fields.text(), _client_time(fields.text())
    symbol, sec_type = fields.text().upper(), fields.text().upper()
    exchange, side = fields.text().upper(), fields.text().upper()
    if side not in _SIDES:
        raise FieldError(f"expected a side such as BUY, not {side[:40]!r}")
    wanted = _Filter(client_id, account, since, symbol, sec_type, "" if exchange == "SMART" else exchange, _SIDES[side])
    is_master = session.client_id == gateway.config.master_client_id
    hidden = gateway.misfortunes.hidden_executions
    for execution in gateway.exchange.executions_today():
        if execution.exec_id in hidden:
            continue
        if wanted.fits(execution) and (is_master or execution.order.client_id == session.client_id):
            session.send(answers.exec_details(req_id, execution, session.version))
            if execution.commission is not None:
                session.send(answers.commission_report(execution))
    session.send(frame(Answer.EXEC_DETAILS_END, 1, req_id))


def _client_time(text: str) -> datetime | None:
    """Read ``YYYYMMDD HH:MM:SS`` (New York) or ``YYYYMMDD-HH:MM:SS`` (UTC); empty is None."""
    if not text:
        return None
    match = _TIME.fullmatch(text)
    if match is None:
        raise FieldError(f"expected YYYYMMDD HH:MM:SS, not {text[:40]!r}")
    zone = UTC if text[8] == "-" else NEW_YORK
    try:
        return datetime.strptime(f"{match[1]} {match[2]}", "%Y%m%d %H:%M:%S").replace(tzinfo=zone)
    except ValueError:
        raise FieldError(f"expected YYYYMMDD HH:MM:SS, not {text[:40]!r}") from None


def _exchange_time(text: str) -> datetime:
    plain = text.removesuffix(f" {EXCHANGE_ZONE_NAME}")
    return datetime.strptime(plain, "%Y%m%d %H:%M:%S").replace(tzinfo=NEW_YORK)


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.PLACE_ORDER: _place,
    Request.CANCEL_ORDER: _cancel,
    Request.GLOBAL_CANCEL: _cancel_all,
    Request.OPEN_ORDERS: _own_orders,
    Request.ALL_OPEN_ORDERS: _all_orders,
    Request.AUTO_OPEN_ORDERS: _auto_bind,
    Request.EXERCISE_OPTIONS: _exercise,
    Request.COMPLETED_ORDERS: _completed,
    Request.EXECUTIONS: _executions,
}
