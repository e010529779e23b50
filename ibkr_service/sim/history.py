"""The history desk: bars of the past, the trading schedule, and bars that are kept up to date.

A long request is answered in slices, a few bars per turn of the loop, so that nobody else has to wait for it.
"""

from collections.abc import Callable, Iterator
from itertools import islice
from typing import TYPE_CHECKING, Final

from ibkr_service.sim.bars import BID_ASK, DAY_S, Bar, Window, bar_of, merged, windows
from ibkr_service.sim.barstreams import CurrentBar
from ibkr_service.sim.barwrite import ZONE, bar_fields, dashed, stamp
from ibkr_service.sim.clock import Timer
from ibkr_service.sim.contracts import Combo, Instrument
from ibkr_service.sim.historyread import (
    SCHEDULE,
    VOLATILITIES,
    YEARS_MAX,
    HistoryRequest,
    no_service,
    read_history,
    read_moment,
    sessions_of,
    years_before,
)
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.pacing import OPEN_MAX, PACED_SIZE_MAX_S
from ibkr_service.sim.rules import Refused
from ibkr_service.sim.session import Session, Stream
from ibkr_service.sim.volatility import volatility_bars
from ibkr_service.sim.wire import Fields, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

STREAM: Final = "historical data"
BARS_MAX: Final = 50_000
"""The longest answer, of about four megabytes."""

BARS_PER_TURN: Final = 25

NEEDS_IB: Final = frozenset({Request.HISTORICAL_DATA})


class Query(Stream):
    """A request for bars that is being answered."""

    def __init__(
        self, gateway: "Gateway", session: Session, request: HistoryRequest, instrument: Instrument, end_s: float
    ) -> None:
        self._gateway = gateway
        self._session = session
        self._request = request
        self._instrument = instrument
        self._end_s = end_s
        self._timer: Timer | None = None
        sessions, self._first_s = sessions_of(
            gateway.almanac, instrument, request.duration, end_s, earliest(gateway), regular=request.regular
        )
        self._sessions = sessions
        self._windows = windows(sessions, request.size_s, self._first_s, end_s)
        self._bars: list[Bar] = []

    def close(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def go_on(self) -> None:
        """Compute the next slice; after the last one send the answer."""
        self._timer = None
        if self._request.show in VOLATILITIES:
            self._bars = volatility_bars(self._gateway, self._instrument, self._request.show, self._windows)
        else:
            some = list(islice(self._windows, BARS_PER_TURN))
            self._bars += self._made(some)
            if some and len(self._bars) <= BARS_MAX:
                self._timer = self._gateway.clock.call_later(0, self.go_on)
                return
        del self._session.streams[STREAM, self._request.req_id]
        self._finish()

    def _made(self, some: list[Window]) -> Iterator[Bar]:
        prices = self._gateway.market.prices
        until_s = self._end_s - prices.started_s
        for window in some:
            bar = bar_of(prices, self._instrument, self._request.show, window, until_s)
            if bar is not None:
                yield bar

    def _finish(self) -> None:
        request, session = self._request, self._session
        bars = list(merged(self._bars, request.size_s)) if request.size_s > DAY_S else self._bars
        if not bars or len(bars) > BARS_MAX:
            refusal = _nothing(self._instrument, request) if not bars else no_service("Time length exceed max.")
            session.error(request.req_id, refusal.code, refusal.text)
            return
        values = [value for bar in bars for value in bar_fields(bar, request)]
        start, end = (stamp(second) for second in (self._first_s, self._end_s))
        session.send(frame(Answer.HISTORICAL_DATA, request.req_id, start, end, len(bars), *values))
        if request.stays_current:
            current = CurrentBar(self._gateway, session, request, self._instrument, bars[-1])
            session.open_stream(STREAM, request.req_id, current)


def earliest(gateway: "Gateway") -> float:
    """The second before which there is no history."""
    return years_before(gateway.clock.now().timestamp(), YEARS_MAX)


def end_second(gateway: "Gateway", text: str) -> float:
    """The moment that an end means, no later than now."""
    now_s, end = gateway.clock.now().timestamp(), read_moment(text)
    return now_s if end is None else min(now_s, end.timestamp())


def _nothing(instrument: Instrument, request: HistoryRequest) -> Refused:
    if request.show in {"TRADES", "ADJUSTED_LAST"} and not isinstance(instrument, Combo):
        name = f"{instrument.symbol}/{instrument.sec_type}@{instrument.exchange}"
        if instrument.sec_type == "CASH":
            return no_service(f"No historical market data for {name} Last {request.size_s}")
    return no_service("HMDS query returned no data: " + _title(instrument, request))


def _title(instrument: Instrument, request: HistoryRequest) -> str:
    name = instrument.symbol if isinstance(instrument, Combo) else instrument.local_symbol
    return f"{name}@{instrument.exchange} {request.show.title()}"


def _historical_data(gateway: "Gateway", session: Session, fields: Fields) -> None:
    request = read_history(fields)
    instrument = gateway.universe.resolve(request.spec)
    end_s = end_second(gateway, request.end)
    if (STREAM, request.req_id) in session.streams:
        raise Refused(322, "Error processing request.-'bN' : cause - Duplicate ticker id")
    if gateway.config.history_is_paced and sum(kind == STREAM for kind, _ in session.streams) >= OPEN_MAX:
        text = f"Only {OPEN_MAX} simultaneous API historical data requests allowed."
        raise Refused(322, f"Error processing request.-'bN' : cause - {text}")
    if gateway.config.history_is_paced and request.size_s <= PACED_SIZE_MAX_S:
        subject = f"{instrument.key}/{instrument.exchange}/{request.show}"
        words = f"{subject}/{request.end}/{request.size}/{request.duration}/{request.regular}/{request.stays_current}"
        weight = 2 if request.show == BID_ASK else 1
        gateway.pacing.admit(session.client_id, gateway.clock.seconds(), words, subject, weight)
    if request.show == SCHEDULE:
        _schedule(gateway, session, request, instrument, end_s)
        return
    if request.show in VOLATILITIES and (isinstance(instrument, Combo) or instrument.sec_type not in {"STK", "IND"}):
        raise no_service("HMDS query returned no data: " + _title(instrument, request))
    query = Query(gateway, session, request, instrument, end_s)
    session.open_stream(STREAM, request.req_id, query)
    query.go_on()


def _schedule(
    gateway: "Gateway", session: Session, request: HistoryRequest, instrument: Instrument, end_s: float
) -> None:
    almanac, duration = gateway.almanac, request.duration
    sessions, _ = sessions_of(almanac, instrument, duration, end_s, earliest(gateway), regular=request.regular)
    if not sessions:
        raise _nothing(instrument, request)
    values = [text for each in sessions for text in (dashed(each.start), dashed(each.end), f"{each.day:%Y%m%d}")]
    start, end = dashed(sessions[0].start), dashed(sessions[-1].end)
    session.send(frame(Answer.HISTORICAL_SCHEDULE, request.req_id, start, end, ZONE, len(sessions), *values))


def _cancel(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id = fields.whole()
    if not session.close_stream(STREAM, req_id):
        raise Refused(366, f"No historical data query found for ticker id:{req_id}")
    raise no_service(f"API historical data query cancelled: {req_id}")


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.HISTORICAL_DATA: _historical_data,
    Request.CANCEL_HISTORICAL_DATA: _cancel,
}
