"""The market data desk: subscriptions, snapshots, and ticks as a quote changes.

A subscription sends what differs from what it sent before, as IB does. Generic ticks are accepted and not modelled yet.
"""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ibkr_service.sim import answers
from ibkr_service.sim.contracts import Instrument, read_legs, read_spec
from ibkr_service.sim.messages import Request
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.rules import Refused
from ibkr_service.sim.session import Session, Stream
from ibkr_service.sim.wire import Fields

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

STREAM: Final = "market data"
LIVE, FROZEN, DELAYED, DELAYED_FROZEN = 1, 2, 3, 4

BID, ASK, LAST, CLOSE = 1, 2, 4, 9
SIZE_OF: Final = {BID: 0, ASK: 3, LAST: 5}
VOLUME: Final = 8
GREEKS: Final = (10, 11, 13)
DELAYED_KINDS: Final = {1: 66, 2: 67, 4: 68, 9: 75, 0: 69, 3: 70, 5: 71, 8: 74, 10: 80, 11: 81, 13: 83}
"""Live tick type → the tick type of the same thing delayed."""

NEEDS_IB: Final = frozenset({Request.MKT_DATA})


class Ticks:
    """Turns quotes into ticks, leaving out what has been said already."""

    def __init__(self, session: Session, req_id: int, *, delayed: bool) -> None:
        self._session = session
        self._req_id = req_id
        self._delayed = delayed
        self._said: dict[int, object] = {}

    def say(self, quote: Quote) -> None:
        """Send what is new in a quote."""
        self._say_price(BID, quote.bid, quote.bid_size)
        self._say_price(ASK, quote.ask, quote.ask_size)
        if quote.last is not None and quote.last_size is not None:
            self._say_price(LAST, quote.last, quote.last_size)
        if quote.volume is not None and self._is_new(VOLUME, quote.volume):
            self._session.send(answers.tick_size(self._req_id, self._kind(VOLUME), quote.volume))
        if quote.close is not None and self._is_new(CLOSE, quote.close):
            self._session.send(answers.tick_price(self._req_id, self._kind(CLOSE), quote.close, Decimal(0)))
        for kind, greeks in zip(GREEKS, quote.greeks or (), strict=False):
            if self._is_new(kind, greeks):
                self._session.send(answers.tick_option(self._req_id, self._kind(kind), greeks))

    def _say_price(self, kind: int, price: Decimal, size: Decimal) -> None:
        has_new_price, has_new_size = self._is_new(kind, price), self._is_new(SIZE_OF[kind], size)
        if has_new_price:
            # The price carries its size.
            self._session.send(answers.tick_price(self._req_id, self._kind(kind), price, size))
        elif has_new_size:
            self._session.send(answers.tick_size(self._req_id, self._kind(SIZE_OF[kind]), size))

    def _is_new(self, kind: int, value: object) -> bool:
        if self._said.get(kind) == value:
            return False
        self._said[kind] = value
        return True

    def _kind(self, kind: int) -> int:
        return DELAYED_KINDS[kind] if self._delayed else kind


class Line(Stream):
    """One market data line: a subscription to one instrument."""

    is_market_data = True

    def __init__(self, gateway: "Gateway", instrument: Instrument, ticks: Ticks) -> None:
        self._gateway = gateway
        self._ticks = ticks
        self._watch = gateway.market.watch(instrument, self._on_quote)

    def _on_quote(self, quote: Quote) -> None:
        if self._gateway.data_flows:
            self._ticks.say(quote)

    def close(self) -> None:
        """Send nothing more."""
        self._watch.close()


def _subscribe(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, spec = fields.whole(), read_spec(fields)
    legs = read_legs(fields) if spec.is_combo else ()
    if fields.flag():
        fields.skip(3)  # the delta-neutral contract
    fields.text()  # generic ticks
    is_snapshot = fields.flag()
    if (STREAM, req_id) in session.streams:
        raise Refused(102, "Duplicate ticker ID.")
    if not is_snapshot and lines_used(gateway) >= gateway.config.market_data_lines_max:
        raise Refused(101, "Max number of tickers has been reached")
    instrument = gateway.universe.resolve(replace(spec, legs=legs))
    is_delayed = session.market_data_type in {DELAYED, DELAYED_FROZEN}
    ticks = Ticks(session, req_id, delayed=is_delayed)
    session.send(answers.tick_req_params(req_id, instrument.min_tick))
    session.send(answers.market_data_type(req_id, session.market_data_type))
    quote = gateway.market.quote(instrument)
    if quote is not None and gateway.data_flows:
        ticks.say(quote)
    if is_snapshot:
        session.send(answers.snapshot_end(req_id))
    else:
        session.open_stream(STREAM, req_id, Line(gateway, instrument, ticks))


def lines_used(gateway: "Gateway") -> int:
    """Market data lines in use; all clients of a login share the cap."""
    return sum(stream.is_market_data for session in gateway.sessions for stream in session.streams.values())


def _cancel(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id = fields.whole()
    if not session.close_stream(STREAM, req_id):
        raise Refused(300, f"Can't find EId with tickerId:{req_id}")


def _set_type(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    kind = fields.whole()
    if kind not in {LIVE, FROZEN, DELAYED, DELAYED_FROZEN}:
        raise Refused(321, f"Error validating request.-'cf' : cause - {kind} is no market data type")
    session.market_data_type = kind


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.MKT_DATA: _subscribe,
    Request.CANCEL_MKT_DATA: _cancel,
    Request.MARKET_DATA_TYPE: _set_type,
}
