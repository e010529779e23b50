"""Bars that go on: five-second bars in real time, and the last bar of a history that is kept up to date."""

import math
from collections.abc import Callable
from datetime import datetime
from typing import TYPE_CHECKING, Final

from ibkr_service.sim.almanac import Session as TradingSession
from ibkr_service.sim.bars import DAY_S, VALUES, Bar, Window, bar_of, joined, period_of, windows
from ibkr_service.sim.barwrite import bar_date
from ibkr_service.sim.clock import Timer
from ibkr_service.sim.contracts import Instrument, read_spec
from ibkr_service.sim.historyread import HistoryRequest, bad_request
from ibkr_service.sim.marketdata import need_a_line
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.rules import Refused
from ibkr_service.sim.session import Session, Stream
from ibkr_service.sim.timeline import NEW_YORK
from ibkr_service.sim.wire import Fields, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

REAL_TIME: Final = "real-time bars"
REAL_TIME_SIZE_S: Final = 5
UPDATE_EVERY_S: Final = 1
SHOWN: Final = frozenset({"TRADES", "MIDPOINT", "BID", "ASK"})
NEEDS_IB: Final = frozenset({Request.REAL_TIME_BARS})

_JUST_AFTER_S = 1e-6
_JUST_BEFORE_S = 1e-3


class _Ticking(Stream):
    """A stream that says something whenever the clock shows a multiple of some seconds."""

    def __init__(self, gateway: "Gateway", instrument: Instrument, every_s: int, *, regular: bool) -> None:
        self._gateway = gateway
        self._instrument = instrument
        self._every_s = every_s
        self._regular = regular
        self._timer: Timer | None = None
        self._due = 0
        self._wait(gateway.clock.now().timestamp())

    def close(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _wait(self, second: float) -> None:
        self._due = (math.floor(second / self._every_s + _JUST_AFTER_S) + 1) * self._every_s
        at_s = self._due - self._gateway.market.prices.started_s
        self._timer = self._gateway.clock.call_at(at_s, self._tick)

    def _tick(self) -> None:
        # A loop that is far behind skips what it has missed, as IB conflates.
        due = self._due
        self._wait(max(due, self._gateway.clock.now().timestamp() - self._every_s))
        session = self._gateway.almanac.latest(self._instrument, due - _JUST_AFTER_S, regular=self._regular)
        is_on = session is not None and due <= session.end
        if self._gateway.data_flows and (is_on or self._gateway.almanac.never_rests):
            self._say(due, session if is_on else None)

    def _say(self, due: int, session: TradingSession | None) -> None:
        raise NotImplementedError

    def _bar(self, show: str, window: Window, due: int) -> Bar | None:
        """The bar of a window as it stood a moment before it was due."""
        prices = self._gateway.market.prices
        return bar_of(prices, self._instrument, show, window, due - prices.started_s - _JUST_BEFORE_S)


class RealTimeBars(_Ticking):
    """A bar every five seconds, of the five seconds before."""

    is_market_data = True

    def __init__(
        self, gateway: "Gateway", session: Session, req_id: int, instrument: Instrument, show: str, *, regular: bool
    ) -> None:
        self._session = session
        self._req_id = req_id
        self._show = show
        super().__init__(gateway, instrument, REAL_TIME_SIZE_S, regular=regular)

    def _say(self, due: int, session: TradingSession | None) -> None:
        day = session.day if session is not None else datetime.fromtimestamp(due, NEW_YORK).date()
        bar = self._bar(self._show, Window(due - REAL_TIME_SIZE_S, due, day), due)
        if bar is not None:
            numbers = (bar.open, bar.high, bar.low, bar.close, bar.volume, bar.average, bar.count)
            self._session.send(frame(Answer.REAL_TIME_BARS, 3, self._req_id, bar.start, *numbers))


class CurrentBar(_Ticking):
    """The last bar of a history, every second until it is complete; then the next one."""

    def __init__(
        self, gateway: "Gateway", session: Session, request: HistoryRequest, instrument: Instrument, latest: Bar
    ) -> None:
        self._session = session
        self._request = request
        self._latest = latest
        self._closed: list[Bar] = []
        super().__init__(gateway, instrument, UPDATE_EVERY_S, regular=request.regular)

    def _say(self, due: int, session: TradingSession | None) -> None:
        if session is None:
            return
        request = self._request
        window = next(
            (each for each in windows([session], request.size_s, due - UPDATE_EVERY_S, due) if due <= each.end), None
        )
        bar = None if window is None else self._bar(request.show, window, due)
        if bar is None:
            return
        if request.size_s > DAY_S:
            bar = self._with_days_before(bar, session)
        if bar != self._latest:
            self._latest = bar
            self._send(bar)

    def _with_days_before(self, bar: Bar, session: TradingSession) -> Bar:
        """The week or month so far: its days before today, and today."""
        if not self._closed or self._closed[-1].day != session.day:
            self._closed = [bar]
            size_s = self._request.size_s
            for before in self._gateway.almanac.back_from(
                self._instrument, session.start, regular=self._regular, floor=session.start - size_s
            ):
                if period_of(before.day, size_s) != period_of(session.day, size_s):
                    break
                window = Window(before.start, before.end, before.day)
                earlier = self._bar(self._request.show, window, before.end)
                if earlier is not None:
                    self._closed.insert(0, earlier)
        self._closed[-1] = bar
        return joined(self._closed)

    def _send(self, bar: Bar) -> None:
        date = bar_date(bar, self._request)
        numbers = (bar.open, bar.close, bar.high, bar.low, bar.average, bar.volume)
        self._session.send(frame(Answer.HISTORICAL_DATA_UPDATE, self._request.req_id, bar.count, date, *numbers))


def _subscribe(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, spec = fields.whole(), read_spec(fields)
    fields.whole()  # the size: five seconds, whatever it says
    show, regular = fields.text().upper(), fields.flag()
    if show not in SHOWN or show not in VALUES:
        raise bad_request(f"{show} is not a legal value of what to show. Legal ones are: {', '.join(sorted(SHOWN))}")
    if (REAL_TIME, req_id) in session.streams:
        raise Refused(102, "Duplicate ticker ID.")
    instrument = gateway.universe.resolve(spec)
    need_a_line(gateway)
    quote = gateway.market.quote(instrument)
    if show == "TRADES" and quote is not None and quote.last is None:
        text = f"Invalid Real-time Query:No historical market data for {instrument.symbol}/{spec.sec_type} Last 5"
        raise Refused(420, text)
    session.open_stream(REAL_TIME, req_id, RealTimeBars(gateway, session, req_id, instrument, show, regular=regular))


def _cancel(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id = fields.whole()
    if not session.close_stream(REAL_TIME, req_id):
        raise Refused(300, f"Can't find EId with tickerId:{req_id}")


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.REAL_TIME_BARS: _subscribe,
    Request.CANCEL_REAL_TIME_BARS: _cancel,
}
