"""The market data desk: subscriptions and snapshots, live, frozen and delayed.

A subscription sends what differs from what it sent before, as IB does. What a login may see is a setting of the gateway
(`data_permission`); currencies are free for all, as they are at IB.

Simplifications: delayed data is the quote of fifteen minutes ago; a snapshot is complete at once; a regulatory snapshot
is a snapshot and costs nothing.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from ibkr_service.sim import answers
from ibkr_service.sim.clock import Timer
from ibkr_service.sim.contracts import Contract, Instrument, read_legs, read_spec
from ibkr_service.sim.generics import Generics, read_codes
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.rules import Refused, invalid
from ibkr_service.sim.session import Session, Stream
from ibkr_service.sim.ticks import HALTED, Tick, Ticks
from ibkr_service.sim.wire import Fields

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

STREAM: Final = "market data"
LIVE, FROZEN, DELAYED, DELAYED_FROZEN = 1, 2, 3, 4
DELAY_S: Final = 900.0
COMPETING_SESSION: Final = (10197, "No market data during competing live session")
NOT_HALTED: Final = Tick(Answer.TICK_GENERIC, HALTED, 0)

NEEDS_IB: Final = frozenset({Request.MKT_DATA})

_JUST_BEFORE_S = 1e-3


class Line(Stream):
    """One market data line: a subscription to one instrument."""

    is_market_data = True

    def __init__(self, gateway: "Gateway", instrument: Instrument, ticks: Ticks, generics: Generics, kind: int) -> None:
        self._gateway = gateway
        self._instrument = instrument
        self._ticks = ticks
        self._generics = generics
        self._is_delayed = kind in {DELAYED, DELAYED_FROZEN}
        self._figures = gateway.figures_of(delayed=self._is_delayed)
        self._open_until = -math.inf
        self._lacks_greeks = False
        self._greeks_due: Timer | None = None

    def start(self) -> "Line":
        """Tell every change from now on."""
        self._watch = self._gateway.market.watch(self._instrument, self._on_quote)
        return self

    def compute_greeks(self, within_s: float) -> None:
        """Have no greeks until so many gateway seconds from now."""
        self._lacks_greeks = True
        self._greeks_due = self._gateway.clock.call_later(within_s, self._greeks_are_there)

    def _greeks_are_there(self) -> None:
        self._lacks_greeks, self._greeks_due = False, None
        self.say_now()

    def say_now(self) -> None:
        """Send what there is: outside sessions the last quote of the latest one."""
        quote = self._gateway.market.quote(self._instrument)
        if quote is None or not self._gateway.data_flows:
            return
        if not self._is_on(quote):
            prices = self._gateway.market.prices
            session = self._gateway.almanac.latest(self._instrument, prices.started_s + quote.at, regular=False)
            if session is not None:
                quote = prices.quote(self._instrument, session.end - prices.started_s - _JUST_BEFORE_S) or quote
        self._say(quote)
        if not self._is_delayed and not self._generics.are_alone:
            self._ticks.add(iter([NOT_HALTED]))

    def close(self) -> None:
        """Send nothing more."""
        if self._greeks_due is not None:
            self._greeks_due.cancel()
        self._watch.close()

    def _on_quote(self, quote: Quote) -> None:
        if self._gateway.data_flows and self._is_on(quote):
            self._say(quote)

    def _say(self, quote: Quote) -> None:
        shown = quote
        if self._is_delayed:
            # A recording does not reach back before its beginning: its first minutes are not delayed.
            shown = self._gateway.market.prices.quote(self._instrument, quote.at - DELAY_S) or quote
        if self._lacks_greeks:
            shown = shown._replace(greeks=None)
        day = self._figures.of(self._instrument, shown)
        if not self._generics.are_alone:
            self._ticks.say(shown, day)
        if not self._generics.are_silent:
            self._ticks.add(self._generics.ticks(shown, day))

    def _is_on(self, quote: Quote) -> bool:
        """Whether there is a session; always, where markets never rest."""
        almanac = self._gateway.almanac
        if almanac.never_rests or quote.at < self._open_until:
            return True
        started_s = self._gateway.market.prices.started_s
        session = almanac.latest(self._instrument, started_s + quote.at, regular=False)
        if session is None or started_s + quote.at >= session.end:
            return False
        self._open_until = session.end - started_s
        return True


def _subscribe(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, spec = fields.whole(), read_spec(fields)
    legs = read_legs(fields) if spec.is_combo else ()
    if fields.flag():
        fields.skip(3)  # the delta-neutral contract
    codes = read_codes(fields.text())
    is_snapshot, is_regulatory = fields.flag(), fields.flag() if fields.remaining else False
    is_snapshot = is_snapshot or is_regulatory
    if (STREAM, req_id) in session.streams:
        raise Refused(102, "Duplicate ticker ID.")
    if is_snapshot and codes:
        raise invalid("Snapshot market data subscription is not applicable to generic ticks")
    if not is_snapshot:
        need_a_line(gateway)
    instrument = gateway.universe.resolve(replace(spec, legs=legs))
    kind = permitted(gateway, session, req_id, instrument)
    line = _line(gateway, session, req_id, instrument, codes, kind)
    session.send(answers.tick_req_params(req_id, instrument.min_tick))
    session.send(answers.market_data_type(req_id, kind))
    low_s, high_s = gateway.config.greeks_delay_s
    if high_s and not is_snapshot:
        line.compute_greeks(gateway.chance.between(low_s, high_s, f"greeks:{session.client_id}:{req_id}"))
    line.say_now()
    if is_snapshot:
        session.send(answers.snapshot_end(req_id))
    else:
        session.open_stream(STREAM, req_id, line.start())


def _line(
    gateway: "Gateway", session: Session, req_id: int, instrument: Instrument, codes: frozenset[int], kind: int
) -> Line:
    ticks = Ticks(
        session,
        req_id,
        delayed=kind in {DELAYED, DELAYED_FROZEN},
        has_sides=not (isinstance(instrument, Contract) and instrument.sec_type == "IND"),
        started_s=gateway.market.prices.started_s,
        greeks_interval_s=gateway.config.greeks_interval_s,
    )
    return Line(gateway, instrument, ticks, Generics(gateway, instrument, codes), kind)


def permitted(gateway: "Gateway", session: Session, req_id: int, instrument: Instrument) -> int:
    """The type of market data that a client gets.

    Raises:
        Refused: none, with what it has asked for.
    """
    kind = session.market_data_type
    permission = gateway.misfortunes.data_permission or gateway.config.data_permission
    is_free = isinstance(instrument, Contract) and instrument.sec_type == "CASH"
    if permission == "live" or is_free:
        return kind
    if permission == "none":
        raise Refused(354, f"Requested market data is not subscribed. {_feed(instrument)}")
    if kind in {LIVE, FROZEN}:
        hint = "See link in 'Market Data Connections' dialog for more details.Delayed market data is available."
        text = f"Requested market data requires additional subscription for API. {hint}{_feed(instrument)}"
        raise Refused(10089, text)
    session.error(req_id, 10167, "Requested market data is not subscribed. Displaying delayed market data.")
    return kind


def _feed(instrument: Instrument) -> str:
    where = getattr(instrument, "primary_exchange", "") or instrument.exchange
    return f"{instrument.symbol} {where}/TOP/ALL"


def need_a_line(gateway: "Gateway") -> None:
    """See that a market data line is left.

    Raises:
        Refused: there is none, or another session of the login has the data.
    """
    granted = gateway.misfortunes.lines_max
    if lines_used(gateway) >= (gateway.config.market_data_lines_max if granted is None else granted):
        raise Refused(101, "Max number of tickers has been reached")
    if gateway.data_is_elsewhere:
        raise Refused(*COMPETING_SESSION)


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
