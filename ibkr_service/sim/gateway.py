"""The gateway: what TWS would answer.

Requests are looked up in a table (`HANDLERS`) and answered by the desk that the subject belongs to: `marketdata`,
`orderdesk`, `backoffice`, `reference`, `frontdesk`. Behind it lie the market and the exchange, which go on when
clients, or the gateway's socket, come and go.
"""

import asyncio
import math
from collections.abc import Callable, Mapping
from datetime import date, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Final

from ibkr_service.sim import (
    answers,
    backoffice,
    barstreams,
    calculators,
    depth,
    frontdesk,
    history,
    marketdata,
    news,
    orderdesk,
    pastticks,
    profits,
    reference,
    scanner,
    tickbytick,
)
from ibkr_service.sim.accounts import BASE_CURRENCY, Account, Position
from ibkr_service.sim.almanac import Almanac
from ibkr_service.sim.calendars import RealHours, at, calendar_of, day_of
from ibkr_service.sim.chance import Chance
from ibkr_service.sim.clock import GatewayClock
from ibkr_service.sim.config import GatewayConfig
from ibkr_service.sim.contracts import Contract, ContractSpec, Universe, UnknownContract
from ibkr_service.sim.exchange import Exchange
from ibkr_service.sim.figures import Figures
from ibkr_service.sim.hours import Week
from ibkr_service.sim.latency import Latency, Range
from ibkr_service.sim.manual import manual_ticket
from ibkr_service.sim.market import Market
from ibkr_service.sim.messages import FREE_TEXT_ID, NO_VERSION_FIELD, Request, request_id_of
from ibkr_service.sim.misfortunes import Misfortunes
from ibkr_service.sim.occasions import LOGIN, Occasions
from ibkr_service.sim.orders import Execution, Order
from ibkr_service.sim.pacing import Pacing
from ibkr_service.sim.practice import Practice
from ibkr_service.sim.pricing import NEW_YORK, Prices
from ibkr_service.sim.quotes import PriceSource
from ibkr_service.sim.replay import Recording, Replay, ReplayError, load
from ibkr_service.sim.reporter import Reporter
from ibkr_service.sim.rules import Refused, invalid
from ibkr_service.sim.session import Peer, Session
from ibkr_service.sim.valuation import Valuation
from ibkr_service.sim.walk import RandomWalk
from ibkr_service.sim.wire import FieldError, Fields

Handler = Callable[["Gateway", Session, Fields], None]

UNTOLD_SCAN_S: Final = 60.0
"""How late a day's high and low learn of quotes that were left out on purpose, in gateway seconds."""

UPSTREAM_HELD_MAX: Final = 10_000
"""Requests that wait for IB to come back; what exceeds this is forgotten, oldest first."""

FARM_OK: Final = (2104, "Market data farm connection is OK:usfarm")
START_NOTICES: Final = (
    FARM_OK,
    (2106, "HMDS data farm connection is OK:ushmds"),
    (2158, "Sec-def data farm connection is OK:secdefnj"),
)
FARM_BROKEN: Final = (2103, "Market data farm connection is broken:usfarm")
CONNECTIVITY_LOST: Final = (1100, "Connectivity between IB and Trader Workstation has been lost.")
CLIENT_ID_TAKEN: Final = "Unable to connect as the client id is already in use. Retry with a unique client id."


class Gateway:
    """A simulated TWS or IB Gateway, and the Interactive Brokers behind it.

    Args:
        config: what it is.
        loop: its clock; by default the running loop.

    Raises:
        ReplayError: a recording cannot be played.
    """

    def __init__(self, config: GatewayConfig, loop: asyncio.AbstractEventLoop | None = None) -> None:
        self.config = config
        recordings = [(file, load(file.path)) for file in config.replay]
        started_at = min((recording.started_at for _, recording in recordings), default=config.started_at)
        self.clock = GatewayClock(loop or asyncio.get_running_loop(), started_at=started_at, speed=config.speed)
        self.universe = Universe(started_at.astimezone(NEW_YORK).date())
        self._day = date.min
        self.day_ends_s = -math.inf
        """The gateway second of the broker's next midnight, as of the last look at the date."""

        self.replay_ended = asyncio.Event()
        """Set when the last recorded quote has been played; never without a recording."""

        source = self._source({self._recorded(file.local_symbol, file.path): tape for file, tape in recordings})
        self.market = Market(self.clock, Prices(self.universe, source, self.clock.started_at), config.quote_interval_s)
        self.accounts = {code: Account(code, {BASE_CURRENCY: config.cash}) for code in config.accounts}
        calendar = calendar_of(config.hours)
        self.valuation = Valuation(
            self._price_of, self._pair_price, self._under_price, self._today, self._price_at_midnight
        )
        self.misfortunes = Misfortunes()
        self.occasions = Occasions()
        self.chance = Chance(config.seed)
        self._latency = Latency(config.latency, self.chance, self.clock)
        self.reporter = Reporter(self)
        self.exchange = Exchange(
            self.clock,
            self.market,
            self.universe,
            self.accounts,
            self.valuation,
            self.chance,
            self.reporter,
            calendar=calendar,
            practice=Practice(
                config.checks_margin, config.price_percentage_max, config.hard_to_borrow, config.locate_s
            ),
        )
        self.week = calendar if isinstance(calendar, Week) else Week()
        """Which days and hours contract details announce."""
        self.almanac = Almanac(RealHours() if calendar.rests else Week(), never_rests=not calendar.rests)
        self.pacing = Pacing()
        # Delayed lines look at other moments: each kind goes on from where it looked last.
        scan_s = UNTOLD_SCAN_S if config.quote_interval_s else 0.0
        self._figures = {late: Figures(self.market.prices, self.almanac, scan_s) for late in (False, True)}
        self.display_groups: dict[int, str] = {}
        self.sessions: list[Session] = []
        self.is_cut = False
        self.tells_while_cut = False
        self.farm_is_down = False
        self.data_is_elsewhere = False
        self.lost_data_until = ""
        """What brings back market data that was lost without a word: ``reconnect`` or ``restart``; empty: none was."""

        self._upstream: list[tuple[Session, tuple[str, ...]]] = []

    def __repr__(self) -> str:
        return f"<Gateway {self.clock!r} [{len(self.sessions)} clients] {self.exchange!r}>"

    # What a test may look at.

    def positions(self, account: str = "") -> list[Position]:
        """Open positions of an account (by default the first)."""
        return self.accounts[account or self.config.accounts[0]].held()

    @property
    def executions(self) -> list[Execution]:
        """Every execution so far, legs of combos included."""
        return list(self.exchange.executions)

    @property
    def open_orders(self) -> list[Order]:
        """Orders that have been transmitted and are not done."""
        return self.exchange.open_orders()

    @property
    def completed_orders(self) -> list[Order]:
        """Orders that are done, in the order in which they ended."""
        return list(self.exchange.completed)

    def enter_manual_order(self, spec: ContractSpec, action: str, quantity: Decimal, **fields: str | Decimal) -> Order:
        """Enter an order as a person at TWS would; `fields` are those of placeOrder by their official names.

        Raises:
            Refused: the broker does not take it.
        """
        return self.exchange.enter_by_hand(manual_ticket(spec, action, quantity, fields))

    # Clients come and go.

    def connect(self, peer: Peer) -> Session:
        """A client has connected."""
        return Session(self, peer)

    def join(self, session: Session) -> None:
        """A client has started its session: welcome it, or turn it away when its id is taken."""
        if any(other.client_id == session.client_id for other in self.sessions):
            session.error(FREE_TEXT_ID, 326, CLIENT_ID_TAKEN)
            session.close()
            return
        self.sessions.append(session)
        self.occasions.tell(LOGIN, session)
        session.send(answers.managed_accounts(self.config.accounts))
        session.send(answers.next_valid_id(self.next_order_id(session.client_id)))
        for code, text in START_NOTICES:
            session.error(FREE_TEXT_ID, code, text)
        if self.farm_is_down:
            session.error(FREE_TEXT_ID, *FARM_BROKEN)
        if self.is_cut:
            session.error(FREE_TEXT_ID, *CONNECTIVITY_LOST)

    def leave(self, session: Session) -> None:
        """A client is gone."""
        if session in self.sessions:
            self.sessions.remove(session)

    def next_order_id(self, client_id: int) -> int:
        """An order id above every one that this client id ever used, unless ids were rolled back."""
        return max(1, self.exchange.last_order_ids.get(client_id, 0) + 1 - self.misfortunes.order_ids_back)

    def login_time(self) -> str:
        """The time in the handshake."""
        return f"{self.clock.now().astimezone(NEW_YORK):%Y%m%d %H:%M:%S} EST"

    def close(self) -> None:
        """End for good: every timer is cancelled."""
        for session in list(self.sessions):
            session.close()
        self.clock.close()

    # Requests.

    def dispatch(self, session: Session, values: tuple[str, ...]) -> None:
        """Answer one request; nonsense is answered with an error."""
        try:
            request = Request(int(values[0]))
        except (ValueError, IndexError):
            session.error(FREE_TEXT_ID, 505, "Fatal Error: Unknown message id.")
            return
        self.occasions.tell(request.value, values)
        if session.is_deaf or self.misfortunes.ignores(request):
            return
        if self.is_cut and request in NEEDS_IB:
            self._upstream.append((session, values))
            del self._upstream[:-UPSTREAM_HELD_MAX]
            return
        late_s = self.misfortunes.delayed_requests.get(request)
        if late_s is not None:
            self.clock.call_later(late_s, lambda: self._answer(session, request, values))
            return
        self._latency.hold(session.client_id, request, lambda: self._answer(session, request, values))

    def _answer(self, session: Session, request: Request, values: tuple[str, ...]) -> None:
        if session not in self.sessions and request not in ABOUT_ORDERS:
            return  # gone while its question waited
        req_id = request_id_of(values)
        handler = HANDLERS.get(request) or _not_modelled(request)
        if self.config.read_only and request in ABOUT_ORDERS:
            handler = _read_only
        failure = self.misfortunes.failure_of(request)
        if failure is not None:
            handler = _refusing(*failure)
        try:
            handler(self, session, Fields(values[1 if request in NO_VERSION_FIELD else 2 :]))
        except FieldError as error:
            session.error(req_id, 320, f"Error reading request: {error}")
        except UnknownContract as error:
            session.error(req_id, 200, error.text)
        except Refused as error:
            session.error(req_id, error.code, error.text)

    def notify(self, code: int, text: str) -> None:
        """Tell every client something that belongs to no request."""
        for session in list(self.sessions):
            session.error(FREE_TEXT_ID, code, text)

    def resume_upstream(self) -> None:
        """IB is back: what waited for it goes on, orders even of clients that have left."""
        waiting, self._upstream = self._upstream, []
        for session, values in waiting:
            self._answer(session, Request(int(values[0])), values)

    def slow_down(self, latency: Mapping[str, Range]) -> None:
        """From now on think so long before answering: as the configuration's `latency`."""
        self._latency.change(latency)

    @property
    def data_flows(self) -> bool:
        """Whether market data reaches clients."""
        return not (self.is_cut or self.farm_is_down or self.lost_data_until)

    # Prices.

    def figures_of(self, *, delayed: bool = False) -> Figures:
        """The figures of the day, for live or for delayed data."""
        return self._figures[delayed]

    def _source(self, tapes: dict[int, Recording]) -> PriceSource:
        walk = RandomWalk(self.config.seed, self.clock.started_at)
        if not tapes:
            return walk
        replay = Replay(tapes, self.clock.started_at, walk)
        self.clock.call_at(replay.ended_s, self.replay_ended.set)
        return replay

    def _recorded(self, local_symbol: str, path: Path) -> int:
        symbol, _, currency = local_symbol.partition(".")
        pair = self.universe.pair(symbol, currency)
        if pair is None:
            raise ReplayError(path, 0, f"{local_symbol} is not listed")
        return pair.con_id

    def _price_of(self, contract: Contract) -> Decimal | None:
        quote = self.market.quote(contract)
        return None if quote is None else quote.mid

    def _under_price(self, option: Contract) -> Decimal | None:
        underlying = self.universe.underlying(option)
        return None if underlying is None else self._price_of(underlying)

    def _today(self) -> date:
        if self.clock.seconds() >= self.day_ends_s:
            self._day = day_of(self.clock.now())
            midnight = at(self._day + timedelta(days=1), time(0))
            self.day_ends_s = (midnight - self.clock.started_at).total_seconds()
        return self._day

    def _price_at_midnight(self, contract: Contract) -> Decimal | None:
        midnight = at(self._today(), time(0))
        quote = self.market.prices.quote(contract, max(0.0, (midnight - self.clock.started_at).total_seconds()))
        return None if quote is None else quote.mid

    def pairs_of(self, currency: str) -> list[Contract]:
        """The pairs that price a currency in US dollars."""
        pairs = (self.universe.pair(currency, BASE_CURRENCY), self.universe.pair(BASE_CURRENCY, currency))
        return [pair for pair in pairs if pair is not None]

    def _pair_price(self, symbol: str, currency: str) -> Decimal | None:
        pair = self.universe.pair(symbol, currency)
        return None if pair is None else self._price_of(pair)


def _read_only(_gateway: Gateway, _session: Session, _fields: Fields) -> None:
    raise invalid("The API interface is currently in Read-Only mode.")


def _not_modelled(request: Request) -> Handler:
    text = f"Error processing request.-'sim' : cause - {request.name.lower()} is not modelled by the simulator"
    return _refusing(322, text)


def _refusing(code: int, text: str) -> Handler:
    def refuse(_gateway: Gateway, _session: Session, _fields: Fields) -> None:
        raise Refused(code, text)

    return refuse


HANDLERS: Final[dict[Request, Handler]] = {
    **marketdata.HANDLERS,
    **barstreams.HANDLERS,
    **calculators.HANDLERS,
    **depth.HANDLERS,
    **history.HANDLERS,
    **news.HANDLERS,
    **pastticks.HANDLERS,
    **scanner.HANDLERS,
    **tickbytick.HANDLERS,
    **orderdesk.HANDLERS,
    **backoffice.HANDLERS,
    **profits.HANDLERS,
    **reference.HANDLERS,
    **frontdesk.HANDLERS,
}

MARKET_NEEDS_IB: Final = frozenset[Request]().union(
    barstreams.NEEDS_IB,
    calculators.NEEDS_IB,
    depth.NEEDS_IB,
    history.NEEDS_IB,
    marketdata.NEEDS_IB,
    news.NEEDS_IB,
    pastticks.NEEDS_IB,
    scanner.NEEDS_IB,
    tickbytick.NEEDS_IB,
)

NEEDS_IB: Final = orderdesk.NEEDS_IB | reference.NEEDS_IB | MARKET_NEEDS_IB
"""Requests that a gateway cannot answer while it is cut off from IB."""

ABOUT_ORDERS: Final = orderdesk.ABOUT_ORDERS
"""Requests that a read-only gateway refuses."""
