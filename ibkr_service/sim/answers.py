"""What the gateway says, message by message: pure functions from values to one frame each.

Orders, the longest messages, are written in `orderwrite.py`.
"""

from collections.abc import Iterable
from decimal import Decimal
from functools import lru_cache
from typing import Final

from ibkr_service.sim.contracts import Contract
from ibkr_service.sim.messages import FREE_TEXT_ID, Answer, Since
from ibkr_service.sim.orders import Execution
from ibkr_service.sim.orderwrite import contract_fields
from ibkr_service.sim.quotes import Greeks
from ibkr_service.sim.valuation import Holding, Profit, Row
from ibkr_service.sim.wire import LENGTH_BYTES, PLAIN_KNOWN_MAX, UNSET_DOUBLE, Value, frame, framed, plain

_EIGHT_NUMBERS: Final = "%.8f\0" * 8


def error(req_id: int, code: int, text: str, version: int, reject_json: str = "") -> bytes:
    """An error or a notice; -1 is the id of one that belongs to no request."""
    escaped = text.encode("unicode-escape").decode()
    tail = [reject_json.encode("unicode-escape").decode()] if version >= Since.ERROR_REJECT_JSON else []
    return frame(Answer.ERROR, 2, req_id, code, escaped, *tail)


def notice(code: int, text: str, version: int) -> bytes:
    """An error that belongs to no request."""
    return error(FREE_TEXT_ID, code, text, version)


# --- the session ----------------------------------------------------------------------------------------------------


def managed_accounts(codes: Iterable[str]) -> bytes:
    """The accounts that the login may use."""
    return frame(Answer.MANAGED_ACCOUNTS, 1, ",".join(codes))


def next_valid_id(order_id: int) -> bytes:
    """The first order id that the client may use."""
    return frame(Answer.NEXT_VALID_ID, 1, order_id)


def current_time(epoch_s: int) -> bytes:
    """The gateway's time, in seconds since 1970."""
    return frame(Answer.CURRENT_TIME, 1, epoch_s)


# --- market data ----------------------------------------------------------------------------------------------------


def tick_price(req_id: int, kind: int, price: Decimal, size: Decimal) -> bytes:
    """A price; a bid, an ask or a last price carries its size."""
    # Most of what a gateway says; a line's ticks begin alike, and prices come again and again.
    head, tail = _of_line(req_id, kind), _priced(price, size)
    return (len(head) + len(tail)).to_bytes(LENGTH_BYTES, "big") + head + tail


@lru_cache(maxsize=4096)
def _of_line(req_id: int, kind: int) -> bytes:
    """How the prices of a kind begin on a line."""
    return f"1\x006\x00{req_id}\x00{kind}\x00".encode("ascii")


@lru_cache(maxsize=PLAIN_KNOWN_MAX)
def _priced(price: Decimal, size: Decimal) -> bytes:
    can_auto_execute = 1
    return f"{plain(price)}\x00{plain(size)}\x00{can_auto_execute}\x00".encode("ascii")


def tick_size(req_id: int, kind: int, size: Decimal) -> bytes:
    """A size or a volume."""
    return framed(f"2\x006\x00{req_id}\x00{kind}\x00{plain(size)}\x00")


def tick_string(req_id: int, kind: int, text: str) -> bytes:
    """A text, in plain ASCII."""
    return framed(f"46\x006\x00{req_id}\x00{kind}\x00{text}\x00")


def tick_option(req_id: int, kind: int, greeks: Greeks) -> bytes:
    """An option's computed values; every field is a number."""
    tick_attrib = 0
    return framed(f"21\x00{req_id}\x00{kind}\x00{tick_attrib}\x00{_greeks(greeks)}")


@lru_cache(maxsize=4096)
def _greeks(greeks: Greeks) -> str:
    """The eight values: written once for all who subscribe."""
    numbers = (
        greeks.implied_vol,
        greeks.delta,
        greeks.price,
        0.0,  # present value of dividends
        greeks.gamma,
        greeks.vega,
        greeks.theta,
        greeks.under_price,
    )
    return _EIGHT_NUMBERS % numbers


def market_data_type(req_id: int, kind: int) -> bytes:
    """Whether what follows is live (1), frozen (2), delayed (3) or both (4)."""
    return frame(Answer.MARKET_DATA_TYPE, 1, req_id, kind)


def tick_req_params(req_id: int, min_tick: Decimal) -> bytes:
    """What holds for all ticks of a request."""
    bbo_exchange, snapshot_permissions = "9c0001", 3
    return frame(Answer.TICK_REQ_PARAMS, req_id, min_tick, bbo_exchange, snapshot_permissions)


def snapshot_end(req_id: int) -> bytes:
    """A snapshot is complete."""
    return frame(Answer.TICK_SNAPSHOT_END, 1, req_id)


# --- fills ----------------------------------------------------------------------------------------------------------


def exec_details(req_id: int, execution: Execution, version: int) -> bytes:
    """A fill; the id is -1 when it is live."""
    order = execution.order
    return frame(
        Answer.EXEC_DETAILS,
        req_id,
        order.ticket.order_id,
        *contract_fields(execution.instrument, execution.exchange),
        execution.exec_id,
        execution.time,
        order.account,
        execution.exchange,
        execution.side,
        execution.shares,
        execution.price,
        order.perm_id,
        order.client_id,
        0,  # liquidation
        execution.cumulative,
        execution.average_price,
        order.ticket.order_ref,
        "",  # economic value rule
        "",  # its multiplier
        "",  # model code
        2,  # last liquidity: removed
        *([0] if version >= Since.EXECUTION_PENDING_PRICE else []),
    )


def commission_report(execution: Execution) -> bytes:
    """What a fill cost, and the profit of what it closed."""
    realized: Value = UNSET_DOUBLE if execution.realized is None else round(execution.realized, 6)
    return frame(
        Answer.COMMISSION_REPORT,
        1,
        execution.exec_id,
        execution.commission,
        execution.commission_currency,
        realized,
        UNSET_DOUBLE,  # yield
        "",  # yield redemption date
    )


# --- accounts -------------------------------------------------------------------------------------------------------


def _contract_of_position(contract: Contract) -> list[Value]:
    fields = contract_fields(contract, "")
    fields[5] = contract.right
    return fields


def position(account: str, contract: Contract, quantity: Decimal, average_cost: Decimal) -> bytes:
    """A position; quantity 0 when it has just been closed."""
    cost = round(average_cost, 8)
    return frame(Answer.POSITION, 3, account, *_contract_of_position(contract), quantity, cost)


def position_multi(req_id: int, account: str, contract: Contract, quantity: Decimal, average_cost: Decimal) -> bytes:
    """A position, for one account and model."""
    cost, model = round(average_cost, 8), ""
    return frame(Answer.POSITION_MULTI, 1, req_id, account, *_contract_of_position(contract), quantity, cost, model)


def account_value(account: str, row: Row) -> bytes:
    """One account value."""
    return frame(Answer.ACCOUNT_VALUE, 2, row.tag, row.value, row.currency, account)


def _home(contract: Contract) -> str:
    """What a portfolio calls the primary exchange; for an option IB names the first that lists it, AMEX or CBOE."""
    return contract.primary_exchange or next(place for place in contract.exchanges if place != "SMART")


def portfolio(account: str, holding: Holding) -> bytes:
    """A position at its market value."""
    contract, held = holding.position.contract, holding.position
    return frame(
        Answer.PORTFOLIO,
        8,
        contract.con_id,
        contract.symbol,
        contract.sec_type,
        contract.expiry,
        contract.strike,
        contract.right or "0",
        contract.multiplier,
        _home(contract),
        contract.currency,
        contract.local_symbol,
        contract.trading_class,
        held.quantity,
        round(holding.price, 8),
        round(holding.value, 2),
        round(held.average_cost, 8),
        round(holding.unrealized, 2),
        round(held.realized, 2),
        account,
    )


def account_update_multi(req_id: int, account: str, row: Row) -> bytes:
    """One account value, for one account and model."""
    model = ""
    return frame(Answer.ACCOUNT_UPDATE_MULTI, 1, req_id, account, model, row.tag, row.value, row.currency)


def account_summary(req_id: int, account: str, row: Row) -> bytes:
    """One row of an account summary."""
    return frame(Answer.ACCOUNT_SUMMARY, 1, req_id, account, row.tag, row.value, row.currency)


def pnl(req_id: int, profit: Profit) -> bytes:
    """Profit of an account."""
    return frame(Answer.PNL, req_id, *(round(part, 2) for part in (profit.daily, profit.unrealized, profit.realized)))


def pnl_single(req_id: int, holding: Holding) -> bytes:
    """Profit of a position."""
    realized, unrealized = holding.position.realized, holding.unrealized
    numbers = [round(number, 2) for number in (holding.daily, unrealized, realized, holding.value)]
    return frame(Answer.PNL_SINGLE, req_id, holding.position.quantity, *numbers)
