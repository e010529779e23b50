"""The order book: rows below the best bid and above the best ask, and who keeps one.

The first row is the quote. Behind it there is an order on every tick of the grid, its size a matter of the seed.

Simplifications: rows never come and go, they change; a market maker is an exchange.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ibkr_service.sim.contracts import Contract, read_spec
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.path import mixed
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.rules import Refused, invalid
from ibkr_service.sim.session import Session, Stream
from ibkr_service.sim.wire import Fields, Value, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

STREAM: Final = "market depth"
STREAMS_MAX: Final = 3
ROWS: Final = 5
ROWS_MAX: Final = 60
INSERT, UPDATE, DELETE = 0, 1, 2
ASK_SIDE, BID_SIDE = 0, 1
HOLD_S: Final = 2.0
"""How long the size of a row behind the best one stays."""

BBO_EXCHANGE: Final = "9c0001"
EXCHANGES: Final = (("NASDAQ", "Q"), ("NYSE", "N"), ("ARCA", "P"), ("BATS", "Z"), ("IEX", "V"), ("AMEX", "A"))
NEEDS_IB: Final = frozenset({Request.MKT_DEPTH})

_Row = tuple[Decimal, Decimal]


class Depth(Stream):
    """A subscription to the order book of one instrument."""

    def __init__(
        self, gateway: "Gateway", session: Session, req_id: int, contract: Contract, rows: int, *, is_smart: bool
    ) -> None:
        self._gateway = gateway
        self._session = session
        self._req_id = req_id
        self._contract = contract
        self._rows = rows
        self._is_smart = is_smart
        self._said: dict[int, list[_Row]] = {ASK_SIDE: [], BID_SIDE: []}
        quote = gateway.market.quote(contract)
        if quote is not None:
            self._on_quote(quote)
        self._watch = gateway.market.watch(contract, self._on_quote)

    def close(self) -> None:
        """Send nothing more."""
        self._watch.close()

    def _on_quote(self, quote: Quote) -> None:
        if not self._gateway.data_flows:
            return
        for side in (BID_SIDE, ASK_SIDE):
            self._say(side, book_side(self._contract, quote, side, self._rows))

    def _say(self, side: int, rows: list[_Row]) -> None:
        said = self._said[side]
        for place, row in enumerate(rows):
            if place >= len(said):
                self._send(place, INSERT, side, row)
            elif said[place] != row:
                self._send(place, UPDATE, side, row)
        for place in reversed(range(len(rows), len(said))):
            self._send(place, DELETE, side, (Decimal(0), Decimal(0)))
        self._said[side] = rows

    def _send(self, place: int, operation: int, side: int, row: _Row) -> None:
        values: list[Value] = [operation, side, *row]
        if self._is_smart:
            maker = EXCHANGES[(place + side) % len(EXCHANGES)][0]
            message = frame(Answer.MARKET_DEPTH_L2, 1, self._req_id, place, maker, *values, 1)
        else:
            message = frame(Answer.MARKET_DEPTH, 1, self._req_id, place, *values)
        self._session.send(message)


def book_side(contract: Contract, quote: Quote, side: int, rows: int) -> list[_Row]:
    """One side of the book, the best price first; a bid is never below one tick."""
    best, size, away = (quote.bid, quote.bid_size, -1) if side == BID_SIDE else (quote.ask, quote.ask_size, 1)
    tick, slot = contract.min_tick, int(quote.at // HOLD_S)
    book = [(best, size)]
    for n in range(1, rows):
        price = best + away * n * tick
        if price < tick:
            break
        luck = mixed(contract.con_id + slot, int(price / tick))
        book.append((price, size * (1 + luck % 9)))
    return book


def _subscribe(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, spec = fields.whole(), read_spec(fields)
    rows, is_smart = fields.whole(), fields.flag()
    if (STREAM, req_id) in session.streams:
        raise Refused(102, "Duplicate ticker ID.")
    if sum(kind == STREAM for each in gateway.sessions for kind, _ in each.streams) >= STREAMS_MAX:
        raise Refused(309, f"Max number ({STREAMS_MAX}) of market depth requests has been reached")
    contract = gateway.universe.resolve(spec)
    if not isinstance(contract, Contract) or contract.sec_type == "IND":
        raise Refused(10092, "Deep market data is not supported for this combination of security type/exchange")
    wanted = min(rows, ROWS_MAX) if rows > 0 else ROWS
    session.open_stream(STREAM, req_id, Depth(gateway, session, req_id, contract, wanted, is_smart=is_smart))


def _cancel(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id = fields.whole()
    if not session.close_stream(STREAM, req_id):
        raise Refused(310, f"Can't find the subscribed market depth with tickerId:{req_id}")


def _exchanges(_gateway: "Gateway", session: Session, _fields: Fields) -> None:
    group = 1
    rows = [[exchange, "STK", "", "Deep2" if n else "Deep", group] for n, (exchange, _) in enumerate(EXCHANGES)]
    rows += [["IDEALPRO", "CASH", "", "Deep", 4], ["CME", "FUT", "", "Deep", group]]
    session.send(frame(Answer.MKT_DEPTH_EXCHANGES, len(rows), *(value for row in rows for value in row)))


def _smart_components(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, wanted = fields.whole(), fields.text()
    if wanted != BBO_EXCHANGE:
        raise invalid(f"Invalid BBO exchange {wanted[:40]}")
    rows = [value for bit, (exchange, letter) in enumerate(EXCHANGES) for value in (bit, exchange, letter)]
    session.send(frame(Answer.SMART_COMPONENTS, req_id, len(EXCHANGES), *rows))


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.MKT_DEPTH: _subscribe,
    Request.CANCEL_MKT_DEPTH: _cancel,
    Request.MKT_DEPTH_EXCHANGES: _exchanges,
    Request.SMART_COMPONENTS: _smart_components,
}
