"""Tick-by-tick data: every trade, every quote or every midpoint, after some of the past when they were asked for."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ibkr_service.sim.contracts import Combo, Instrument, read_spec
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.pastticks import TICKS_MAX, PastTicks, is_tick, ticks_message, traded_at
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.rules import Refused, invalid
from ibkr_service.sim.session import Session, Stream
from ibkr_service.sim.wire import Fields, Value, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

STREAM: Final = "tick by tick"
LINES_PER_STREAM: Final = 20
"""IB allows one tick-by-tick subscription per twenty market data lines, three at least."""

STREAMS_MIN: Final = 3
KINDS: Final = {"Last": (1, "TRADES"), "AllLast": (2, "TRADES"), "BidAsk": (3, "BID_ASK"), "MidPoint": (4, "MIDPOINT")}
"""The client's word → the wire's number, and the ticks of the past that belong to it."""

NEEDS_IB: Final = frozenset({Request.TICK_BY_TICK_DATA})


class TickByTick(Stream):
    """A subscription to every tick of a kind."""

    def __init__(
        self,
        gateway: "Gateway",
        session: Session,
        req_id: int,
        instrument: Instrument,
        kind: str,
        *,
        ignores_size: bool,
    ) -> None:
        self._gateway = gateway
        self._session = session
        self._req_id = req_id
        self._instrument = instrument
        self._number, self._show = KINDS[kind]
        self._ignores_size = ignores_size
        self._said: list[Value] = []
        self._watch = gateway.market.watch(instrument, self._on_quote)

    def close(self) -> None:
        """Send nothing more."""
        self._watch.close()

    def _on_quote(self, quote: Quote) -> None:
        prices = self._gateway.market.prices
        if not self._gateway.data_flows or not is_tick(prices, self._instrument, self._show, quote):
            return
        values = self._values(quote)
        if self._show == "TRADES" or values != self._said:
            self._said = values
            second = int(prices.started_s + quote.at)
            self._session.send(frame(Answer.TICK_BY_TICK, self._req_id, self._number, second, *self._fields(quote)))

    def _values(self, quote: Quote) -> list[Value]:
        """What must change for a new tick."""
        fields = self._fields(quote)
        return fields[:2] if self._show == "BID_ASK" and self._ignores_size else fields

    def _fields(self, quote: Quote) -> list[Value]:
        no_attributes = 0
        match self._show:
            case "TRADES":
                return [quote.last, quote.last_size, no_attributes, traded_at(self._instrument), ""]
            case "BID_ASK":
                return [quote.bid, quote.ask, quote.bid_size, quote.ask_size, no_attributes]
            case _:
                return [quote.mid]


def _subscribe(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, spec = fields.whole(), read_spec(fields)
    kind, count, ignores_size = fields.text(), fields.whole(), fields.flag()
    if kind not in KINDS:
        raise invalid(f"{kind[:40]} is not a legal type of tick-by-tick data. Legal ones are: {', '.join(KINDS)}")
    if not 0 <= count <= TICKS_MAX:
        raise invalid(f"Number of ticks must be between 0 and {TICKS_MAX}")
    if (STREAM, req_id) in session.streams:
        raise Refused(102, "Duplicate ticker ID.")
    streams = sum(key == STREAM for each in gateway.sessions for key, _ in each.streams)
    if streams >= max(STREAMS_MIN, gateway.config.market_data_lines_max // LINES_PER_STREAM):
        raise Refused(10190, "Max number of tick-by-tick requests has been reached.")
    instrument = gateway.universe.resolve(spec)
    show = KINDS[kind][1]
    if isinstance(instrument, Combo) or (show == "TRADES" and instrument.sec_type == "CASH"):
        name = f"{instrument.symbol}/{spec.sec_type}"
        raise Refused(10189, f"Failed to request tick-by-tick data:{kind} is not supported for {name}")
    if count:
        prices, now_s = gateway.market.prices, gateway.clock.now().timestamp()
        quotes = PastTicks(gateway, instrument, show, regular=False).before(now_s, count)
        session.send(ticks_message(req_id, show, quotes, prices.started_s, traded_at(instrument)))
    session.open_stream(
        STREAM, req_id, TickByTick(gateway, session, req_id, instrument, kind, ignores_size=ignores_size)
    )


def _cancel(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id = fields.whole()
    if not session.close_stream(STREAM, req_id):
        raise Refused(300, f"Can't find EId with tickerId:{req_id}")


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.TICK_BY_TICK_DATA: _subscribe,
    Request.CANCEL_TICK_BY_TICK_DATA: _cancel,
}
