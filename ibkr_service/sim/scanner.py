"""Market scanners: the US stocks of the simulated world, ranked by the figures of their day. And what is not for sale.

A subscription is answered at once and again every half minute. Filters by price and by volume count, others do not.
Fundamental data and Wall Street Horizon need subscriptions that a simulated login does not have.
"""

from collections.abc import Callable
from dataclasses import dataclass
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ibkr_service.sim.clock import Timer
from ibkr_service.sim.contracts import Contract
from ibkr_service.sim.figures import Day
from ibkr_service.sim.historyread import no_service
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.rules import Refused
from ibkr_service.sim.session import Session, Stream
from ibkr_service.sim.volatility import implied
from ibkr_service.sim.wire import Fields, Value, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

STREAM: Final = "scanner"
REFRESH_S: Final = 30.0
ROWS_MAX: Final = 50
STREAMS_MAX: Final = 10
NEEDS_IB: Final = frozenset({Request.SCANNER_SUBSCRIPTION, Request.SCANNER_PARAMETERS})


@dataclass(frozen=True, slots=True)
class Candidate:
    """A stock and its day so far."""

    contract: Contract
    price: Decimal
    day: Day

    @property
    def gain(self) -> float:
        """The change since yesterday's close, as a fraction."""
        return float(self.price / self.day.close) - 1 if self.day.close else 0.0

    @property
    def gain_since_open(self) -> float:
        """The change since today's opening."""
        return float(self.price / self.day.open) - 1 if self.day.open else 0.0

    @property
    def range(self) -> float:
        """High less low, as a fraction of the price."""
        if self.day.high is None or self.day.low is None:
            return 0.0
        return float((self.day.high - self.day.low) / self.price)

    @property
    def volume(self) -> float:
        """Shares traded today."""
        return float(self.day.volume or 0)


SCANS: Final[dict[str, Callable[[Candidate], float]]] = {
    "TOP_PERC_GAIN": lambda each: each.gain,
    "TOP_PERC_LOSE": lambda each: -each.gain,
    "MOST_ACTIVE": lambda each: each.volume,
    "MOST_ACTIVE_USD": lambda each: each.volume * float(each.price),
    "HOT_BY_VOLUME": lambda each: each.volume * (1 + abs(each.gain)),
    "HOT_BY_PRICE": lambda each: abs(each.gain),
    "HOT_BY_PRICE_RANGE": lambda each: each.range,
    "TOP_PRICE_RANGE": lambda each: each.range,
    "TOP_OPEN_PERC_GAIN": lambda each: each.gain_since_open,
    "TOP_OPEN_PERC_LOSE": lambda each: -each.gain_since_open,
    "HIGH_OPT_IMP_VOLAT": lambda each: implied(each.contract) or 0.0,
    "LOW_OPT_IMP_VOLAT": lambda each: -(implied(each.contract) or 0.0),
}
"""Scan code → what the ranking falls with."""


@dataclass(frozen=True, slots=True)
class Scan:
    """What a client wants to see."""

    req_id: int
    rows: int
    code: str
    price_above: Decimal | None
    price_below: Decimal | None
    volume_above: int

    def admits(self, each: Candidate) -> bool:
        """Whether a stock passes the filters."""
        return (
            (self.price_above is None or each.price > self.price_above)
            and (self.price_below is None or each.price < self.price_below)
            and each.volume >= self.volume_above
        )


class Scanner(Stream):
    """A subscription to a scan."""

    def __init__(self, gateway: "Gateway", session: Session, scan: Scan) -> None:
        self._gateway = gateway
        self._session = session
        self._scan = scan
        self._timer: Timer | None = None
        self._say()

    def close(self) -> None:
        """Send nothing more."""
        if self._timer is not None:
            self._timer.cancel()

    def _say(self) -> None:
        self._timer = self._gateway.clock.call_later(REFRESH_S, self._say)
        if self._gateway.data_flows:
            self._session.send(scanner_data(self._scan, ranked(self._gateway, self._scan)))


def ranked(gateway: "Gateway", scan: Scan) -> list[Contract]:
    """The stocks that a scan finds, best first."""
    found: list[Candidate] = []
    for contract in gateway.universe.stocks.values():
        quote = gateway.market.quote(contract) if contract.currency == "USD" else None
        if quote is not None:
            day = gateway.figures_of().of(contract, quote)
            found.append(Candidate(contract, quote.mid if quote.last is None else quote.last, day))
    key = SCANS[scan.code]
    rows = sorted((each for each in found if scan.admits(each)), key=lambda each: (-key(each), each.contract.con_id))
    return [each.contract for each in rows[: scan.rows]]


def scanner_data(scan: Scan, contracts: list[Contract]) -> bytes:
    """The ranking."""
    values: list[Value] = []
    for rank, contract in enumerate(contracts):
        values += [rank, contract.con_id, contract.symbol, contract.sec_type, contract.expiry, contract.strike]
        values += [contract.right, "SMART", contract.currency, contract.local_symbol, "NMS", contract.trading_class]
        values += ["", "", "", ""]  # distance, benchmark, projection, legs
    return frame(Answer.SCANNER_DATA, 3, scan.req_id, len(contracts), *values)


def _subscribe(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, rows, instrument, location, code = (
        fields.whole(),
        fields.whole(-1),
        fields.text(),
        fields.text(),
        fields.text(),
    )
    above, below, volume = fields.number(), fields.number(), fields.number()
    if code not in SCANS:
        raise no_service(f"Scanner type with code {code[:40]} is disabled")
    if instrument not in {"STK", ""} or location.partition(".")[0] not in {"STK", ""}:
        raise no_service(f"Scanner for {instrument[:20]} in {location[:40]} is disabled")
    if sum(kind == STREAM for kind, _ in session.streams) >= STREAMS_MAX:
        raise no_service("Only 10 simultaneous API scanner subscriptions allowed.")
    shown = min(rows, ROWS_MAX) if rows > 0 else ROWS_MAX
    scan = Scan(req_id, shown, code, above, below, int(volume) if volume is not None and volume.is_finite() else 0)
    session.open_stream(STREAM, req_id, Scanner(gateway, session, scan))


def _cancel(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id = fields.whole()
    if not session.close_stream(STREAM, req_id):
        raise Refused(365, f"No scanner subscription found for ticker id:{req_id}")
    raise no_service(f"API scanner subscription cancelled: {req_id}")


def _parameters(_gateway: "Gateway", session: Session, _fields: Fields) -> None:
    session.send(frame(Answer.SCANNER_PARAMETERS, 1, PARAMETERS))


def _parameters_xml() -> str:
    types = "".join(
        f"<ScanType><displayName>{code.replace('_', ' ').title()}</displayName><scanCode>{code}</scanCode>"
        "<instruments>STK</instruments></ScanType>"
        for code in SCANS
    )
    return (
        '<?xml version="1.0" encoding="UTF-8"?><ScanParameterResponse>'
        "<InstrumentList><Instrument><name>US Stocks</name><type>STK</type></Instrument></InstrumentList>"
        "<LocationTree><Location><displayName>US Stocks</displayName><locationCode>STK.US.MAJOR</locationCode>"
        "<instruments>STK</instruments></Location></LocationTree>"
        f"<ScanTypeList>{types}</ScanTypeList></ScanParameterResponse>"
    )


PARAMETERS: Final = _parameters_xml()


# --- what is not for sale -------------------------------------------------------------------------------------------


def _refusing(code: int, text: str) -> Callable[["Gateway", Session, Fields], None]:
    def refuse(_gateway: "Gateway", _session: Session, fields: Fields) -> None:
        fields.whole()
        raise Refused(code, text)

    return refuse


def _silent(_gateway: "Gateway", _session: Session, fields: Fields) -> None:
    """A cancel of what was refused."""
    fields.whole()


NO_FUNDAMENTALS: Final = "We are sorry, but fundamentals data for the security specified is not available.Not allowed"

HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.SCANNER_SUBSCRIPTION: _subscribe,
    Request.CANCEL_SCANNER_SUBSCRIPTION: _cancel,
    Request.SCANNER_PARAMETERS: _parameters,
    Request.FUNDAMENTAL_DATA: _refusing(430, NO_FUNDAMENTALS),
    Request.CANCEL_FUNDAMENTAL_DATA: _silent,
    Request.WSH_META_DATA: _refusing(10279, "Failed request WSH metadata: not subscribed"),
    Request.CANCEL_WSH_META_DATA: _refusing(10280, "Failed cancel WSH metadata"),
    Request.WSH_EVENT_DATA: _refusing(10283, "Fail request WSH event data: not subscribed"),
    Request.CANCEL_WSH_EVENT_DATA: _refusing(10284, "Fail cancel WSH event data"),
}
