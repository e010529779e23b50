"""Ticks of the past, the head of the data, and the histogram of prices.

Ticks are the changes of the quote, found by walking from one to the next; within sessions only.

Simplification: an answer stops at the number of ticks asked for, where IB completes the last second.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Final

from ibkr_service.sim.bars import bar_of, windows
from ibkr_service.sim.barwrite import utc_stamp
from ibkr_service.sim.contracts import Combo, Contract, Instrument, read_spec
from ibkr_service.sim.historyread import (
    SHOWN,
    YEARS_MAX,
    Duration,
    bad_request,
    no_service,
    read_moment,
    sessions_of,
    years_before,
)
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.pricing import Prices
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.session import Session
from ibkr_service.sim.wire import Fields, Value, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

TICKS_MAX: Final = 1000
CHANGES_SEARCHED_MAX: Final = 8_000
KINDS: Final = frozenset({"TRADES", "BID_ASK", "MIDPOINT"})
NEEDS_IB: Final = frozenset({Request.HEAD_TIME_STAMP, Request.HISTOGRAM_DATA, Request.HISTORICAL_TICKS})
PERIOD_UNITS: Final = {"SECOND": "S", "DAY": "D", "WEEK": "W", "MONTH": "M", "YEAR": "Y"}
HISTOGRAM_BAR_S: Final = 300

PERIOD_MAX: Final = {"S": 9999, "D": 60, "W": 8, "M": 2, "Y": 0}
"""The longest period of each unit: a histogram is answered at once."""

_SPAN_S = 60.0
_WEEK_S = 7 * 86_400.0
_JUST_BEFORE_S = 1e-4
_WITHIN_STEP_S = 0.05


class PastTicks:
    """The ticks of one instrument and of one kind."""

    def __init__(self, gateway: "Gateway", instrument: Instrument, show: str, *, regular: bool) -> None:
        self._almanac = gateway.almanac
        self._prices = gateway.market.prices
        self._instrument = instrument
        self._show = show
        self._regular = regular
        self._budget = CHANGES_SEARCHED_MAX

    def before(self, end_s: float, count: int) -> list[Quote]:
        """The last ticks before a second since 1970, in order."""
        found: list[Quote] = []
        for session in self._almanac.back_from(self._instrument, end_s, regular=self._regular, floor=end_s - _WEEK_S):
            until = min(float(session.end), end_s)
            while until > session.start and len(found) < count and self._budget > 0:
                begin = max(float(session.start), until - _SPAN_S)
                found = [*self._between(begin, until), *found]
                until = begin
            if len(found) >= count or self._budget <= 0:
                break
        return found[-count:]

    def after(self, start_s: float, end_s: float, count: int) -> list[Quote]:
        """The first ticks from a second on, up to another one, in order."""
        found: list[Quote] = []
        back = self._almanac.back_from(
            self._instrument, min(end_s, start_s + _WEEK_S), regular=self._regular, floor=start_s
        )
        for session in reversed(list(back)):
            for quote in self._between(max(float(session.start), start_s), min(float(session.end), end_s)):
                found.append(quote)
                if len(found) >= count:
                    return found
        return found

    def _between(self, begin: float, end: float) -> Iterator[Quote]:
        started_s = self._prices.started_s
        at_s = self._prices.next_change(self._instrument, begin - started_s - _JUST_BEFORE_S)
        while at_s is not None and at_s < end - started_s and self._budget > 0:
            self._budget -= 1
            quote = self._prices.quote(self._instrument, at_s)
            if quote is not None and is_tick(self._prices, self._instrument, self._show, quote):
                yield quote
            at_s = self._prices.next_change(self._instrument, at_s)


def is_tick(prices: Prices, instrument: Instrument, show: str, quote: Quote) -> bool:
    """Whether a change of the quote is a tick of a kind: a trade is one only when something was traded."""
    if show != "TRADES":
        return True
    if quote.last is None:
        return False
    return prices.trades(instrument, quote.at - _JUST_BEFORE_S, quote.at + _WITHIN_STEP_S).number > 0


def ticks_message(req_id: int, show: str, quotes: Iterable[Quote], started_s: float, exchange: str) -> bytes:
    """One message with ticks of a kind."""
    rows: list[list[Value]] = []
    for quote in quotes:
        second = int(started_s + quote.at)
        match show:
            case "TRADES":
                rows.append([second, 0, quote.last, quote.last_size, exchange, ""])
            case "BID_ASK":
                rows.append([second, 0, quote.bid, quote.ask, quote.bid_size, quote.ask_size])
            case _:
                rows.append([second, 0, quote.mid, 0])
    answer = {"TRADES": Answer.HISTORICAL_TICKS_LAST, "BID_ASK": Answer.HISTORICAL_TICKS_BID_ASK}.get(
        show, Answer.HISTORICAL_TICKS
    )
    is_done = 1
    return frame(answer, req_id, len(rows), *(value for row in rows for value in row), is_done)


def traded_at(instrument: Instrument) -> str:
    """The exchange that reports a trade."""
    if isinstance(instrument, Combo):
        return instrument.exchange
    return instrument.primary_exchange or instrument.exchanges[-1]


def _historical_ticks(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, spec = fields.whole(), read_spec(fields)
    fields.flag()
    start, end, count = read_moment(fields.text()), read_moment(fields.text()), fields.whole()
    show, regular = fields.text().upper(), fields.flag()
    if show not in KINDS:
        raise bad_request(f"{show} is not a legal value of what to show. Legal ones are: {', '.join(sorted(KINDS))}")
    if not 1 <= count <= TICKS_MAX:
        raise bad_request(f"Number of ticks must be between 1 and {TICKS_MAX}")
    if (start is None) == (end is None):
        raise bad_request("Please specify either start or end date/time")
    instrument = gateway.universe.resolve(spec)
    if gateway.config.history_is_paced:
        subject = f"{instrument.key}/{instrument.exchange}/ticks/{show}"
        words = f"{subject}/{start}/{end}/{count}/{regular}"
        weight = 2 if show == "BID_ASK" else 1
        gateway.pacing.admit(session.client_id, gateway.clock.seconds(), words, subject, weight)
    ticks, now_s = PastTicks(gateway, instrument, show, regular=regular), gateway.clock.now().timestamp()
    if end is not None:
        quotes = ticks.before(min(end.timestamp(), now_s), count)
    else:
        assert start is not None, "one of them is given"
        quotes = ticks.after(start.timestamp(), now_s, count)
    started_s = gateway.market.prices.started_s
    session.send(ticks_message(req_id, show, quotes, started_s, traded_at(instrument)))


def head_second(gateway: "Gateway", instrument: Instrument) -> float | None:
    """When the data of an instrument begins: with a session years ago, or with its recording."""
    prices, now_s = gateway.market.prices, gateway.clock.now().timestamp()
    first = years_before(now_s, YEARS_MAX)
    at_s = prices.next_change(instrument, first - prices.started_s)
    if at_s is None or prices.started_s + at_s > now_s:
        return None
    if prices.started_s + at_s > first + _WEEK_S:
        return prices.started_s + at_s
    later = gateway.almanac.back_from(instrument, first + _WEEK_S, regular=True, floor=first)
    return min((float(session.start) for session in later), default=first)


def _head_timestamp(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, spec = fields.whole(), read_spec(fields)
    fields.flag()
    fields.flag()
    show, date_format = fields.text().upper(), fields.whole(1)
    if show not in SHOWN:
        raise bad_request(f"{show} is not a legal value of what to show. Legal ones are: {', '.join(sorted(SHOWN))}")
    instrument = gateway.universe.resolve(spec)
    second = head_second(gateway, instrument)
    is_traded = isinstance(instrument, Contract) and instrument.sec_type != "CASH"
    if second is None or (show == "TRADES" and not is_traded):
        raise no_service("No head time stamp")
    session.send(frame(Answer.HEAD_TIMESTAMP, req_id, utc_stamp(second) if date_format == 1 else str(int(second))))


def _histogram(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, spec = fields.whole(), read_spec(fields)
    fields.flag()
    regular, duration = fields.flag(), read_period(fields.text())
    instrument = gateway.universe.resolve(spec)
    prices, now_s = gateway.market.prices, gateway.clock.now().timestamp()
    floor = years_before(now_s, YEARS_MAX)
    sessions, first_s = sessions_of(gateway.almanac, instrument, duration, now_s, floor, regular=regular)
    sizes: dict[Value, int] = {}
    for window in windows(sessions, HISTOGRAM_BAR_S, first_s, now_s):
        bar = bar_of(prices, instrument, "TRADES", window, now_s - prices.started_s)
        if bar is not None:
            sizes[bar.close] = sizes.get(bar.close, 0) + bar.volume
    rows = sorted(sizes.items(), key=lambda row: -row[1])
    session.send(frame(Answer.HISTOGRAM_DATA, req_id, len(rows), *(value for row in rows for value in row)))


def read_period(text: str) -> Duration:
    """Read ``3 days``."""
    count, _, unit = text.strip().partition(" ")
    letter = PERIOD_UNITS.get(unit.strip().upper().removesuffix("S"))
    if letter is None or not count.isdecimal() or not 1 <= int(count[:4]) <= PERIOD_MAX[letter]:
        raise bad_request(f"Invalid histogram period [{text[:40]}]")
    return Duration(int(count), letter)


def _nothing_to_cancel(_gateway: "Gateway", _session: Session, fields: Fields) -> None:
    """Answers come at once, so a cancel always comes too late; IB says nothing then."""
    fields.whole()


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.HISTORICAL_TICKS: _historical_ticks,
    Request.HEAD_TIME_STAMP: _head_timestamp,
    Request.CANCEL_HEAD_TIME_STAMP: _nothing_to_cancel,
    Request.HISTOGRAM_DATA: _histogram,
    Request.CANCEL_HISTOGRAM_DATA: _nothing_to_cancel,
}
