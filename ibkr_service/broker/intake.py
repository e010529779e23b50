"""The handlers of one connection: stamp, translate, put. Nothing waits here, nothing is decided here.

A handler runs inside the socket's `data_received`; an exception in it would be logged by eventkit and forgotten, and
a BaseException would close the socket. So each is guarded: what it raises becomes a `LibraryFault`, and the session
looks at the broker again.

The object belongs to its connection, which keeps it alive: eventkit holds bound methods only weakly.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from functools import wraps
from typing import Any, Concatenate, ParamSpec, cast

from ibkr_service.broker import codes, translate
from ibkr_service.broker.ib import IB
from ibkr_service.broker.lines import Lines
from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.link import Signal

P = ParamSpec("P")

FAULTS_TOLD_MAX = 1_000  # different texts remembered; a stream that is broken in more ways is told in full


def guarded(handler: Callable[Concatenate[Intake, P], None]) -> Callable[Concatenate[Intake, P], None]:
    """Turn whatever a handler raises into a `LibraryFault`."""

    @wraps(handler)
    def run(self: Intake, *args: P.args, **kwargs: P.kwargs) -> None:
        try:
            handler(self, *args, **kwargs)
        except Exception as exc:  # noqa: BLE001 - anything: the stream must go on, and the doubt must be seen
            self.fault(f"ibkr_service.intake.{handler.__name__}", f"{type(exc).__name__}: {exc}")

    return cast("Callable[Concatenate[Intake, P], None]", run)


class Intake:
    """Turns one connection's library events into facts.

    Args:
        ib: the connection. session: its number. put: takes the facts (the inbox). lines: who watches what.
        on_signal: told synchronously of 1100, 1101, 1102, before any later message is read.
        on_doubt: told that something was not understood, or that an order is in doubt.
    """

    def __init__(
        self,
        ib: IB,
        *,
        session: int,
        clock: Clock,
        put: Callable[[ev.Event], None],
        lines: Lines,
        on_signal: Callable[[Signal], None],
        on_doubt: Callable[[], None],
    ) -> None:
        self.session = session
        self.client_id = -1
        self.refs: dict[int, str] = {}  # order id -> our reference, in this session
        self.unacknowledged: dict[str, float] = {}  # reference -> loop time at which it was sent
        self.order_sent = asyncio.Event()
        self.faults = 0
        self._farms_down: set[str] = set()  # of any kind, in this session
        self._faults_told: set[str] = set()
        self._ib = ib
        self._clock = clock
        self._put = put
        self._lines = lines
        self._on_signal = on_signal
        self._on_doubt = on_doubt
        for event, handler in self._wiring():
            event.connect(handler, self.on_handler_error)
        ib.wrapper.on_tickers = self.on_tickers

    def _wiring(self) -> list[tuple[Any, Callable[..., None]]]:
        ib = self._ib
        return [
            (ib.messageEvent, self.on_message),
            (ib.serverStatusEvent, self.on_status),
            (ib.serverOrderEvent, self.on_order),
            (ib.executionEvent, self.on_execution),
            (ib.commissionEvent, self.on_commission),
            (ib.positionEvent, self.on_position),
            (ib.accountValueEvent, self.on_account_value),
            (ib.updatePortfolioEvent, self.on_portfolio),
            (ib.pnlEvent, self.on_pnl),
            (ib.pnlSingleEvent, self.on_position_pnl),
        ]

    def close(self) -> None:
        """Listen no more: what an old connection still says belongs to nobody."""
        for event, handler in self._wiring():
            event.disconnect(handler, self.on_handler_error)
        self._ib.wrapper.on_tickers = None

    def sent(self, ref: str) -> None:
        """An order left; the broker should acknowledge it. In the order of sending, also what is sent again."""
        self.unacknowledged.pop(ref, None)
        self.unacknowledged[ref] = asyncio.get_running_loop().time()
        self.order_sent.set()

    def fault(self, logger: str, text: str) -> None:
        """Something was not understood, so something may be missing. The same one is told once a connection."""
        self.faults += 1
        if text in self._faults_told:
            return
        if len(self._faults_told) < FAULTS_TOLD_MAX:
            self._faults_told.add(text)
        self._put(ev.LibraryFault(at=self._clock.now(), session=self.session, logger=logger, text=text))
        self._on_doubt()

    def on_handler_error(self, event: Any, error: BaseException) -> None:
        """Eventkit caught what a handler raised."""
        self.fault(f"eventkit.{event}", f"{type(error).__name__}: {error}")

    # --- messages ----------------------------------------------------------------------------------------------------

    @guarded
    def on_message(self, request: int, code: int, text: str, reject_json: str) -> None:
        """An error, warning or notice: to the link, a farm, an order, a subscription, or just on record."""
        at = self._clock.now()
        if reject_json:
            text = f"{text} ({'; '.join(translate.reject_words(reject_json))})"
        if (signal := codes.LINK_SIGNALS.get(code)) is not None:
            self._put(ev.LinkSignalled(at=at, session=self.session, signal=signal, why=text, code=code))
            self._on_signal(signal)
            self._farms_back(code, text)
        elif (up := codes.FARMS.get(code)) is not None:
            farm = codes.farm_name(text)
            (self._farms_down.discard if up else self._farms_down.add)(farm)
            self._put(ev.FarmChanged(at=at, session=self.session, farm=farm, up=up, code=code))
            if code in codes.MARKET_DATA_FARMS and not up:
                self._lines.farm_down(farm)
            elif code in codes.MARKET_DATA_FARMS:
                self._lines.farm_up(farm, asyncio.get_running_loop().time())
        elif (ref := self.refs.get(request)) is not None:
            meaning = codes.order_meaning(code)
            if meaning != "notice":
                self.unacknowledged.pop(ref, None)
            self._put(ev.OrderErrored(at=at, session=self.session, ref=ref, code=code, text=text, meaning=meaning))
            if meaning in {"rejected", "doubtful"}:
                self._on_doubt()  # the order may be alive: ask the server
        else:
            if code in codes.SUBSCRIPTION_FAILURES:
                self._lines.failed(request, code, text)
            known = codes.is_known(code)
            self._put(ev.BrokerNotice(at=at, session=self.session, code=code, text=text, request=request, known=known))

    def _farms_back(self, code: int, text: str) -> None:
        for farm in codes.farms_back(text, sorted(self._farms_down)):
            self._farms_down.discard(farm)
            self._put(ev.FarmChanged(at=self._clock.now(), session=self.session, farm=farm, up=True, code=code))
            if farm in self._lines.farms_down:
                self._lines.farm_up(farm, asyncio.get_running_loop().time())

    # --- orders ------------------------------------------------------------------------------------------------------

    @guarded
    def on_status(
        self, order_id: int, client_id: int, perm_id: int, status: str, filled: float, remaining: float, why_held: str
    ) -> None:
        """The server's word on an order."""
        ref = self._ref(order_id, client_id)
        self.unacknowledged.pop(ref, None)
        self._put(
            ev.OrderStatusReported(
                at=self._clock.now(),
                session=self.session,
                ref=ref,
                order_id=order_id,
                client_id=client_id,
                perm_id=perm_id,
                status=status,
                filled=translate.decimal(filled),
                remaining=translate.decimal(remaining),
                why_held=why_held,
            )
        )

    @guarded
    def on_order(self, order_id: int, contract: Any, order: Any, state: Any) -> None:
        """An order that the server holds.

        Ours are known by their reference, whoever placed them in whichever session.
        """
        if order.orderRef and order.clientId == self.client_id and order_id > 0:
            self.refs[order_id] = order.orderRef
        self.unacknowledged.pop(order.orderRef, None)
        self._put(translate.open_order(self._clock.now(), self.session, contract, order, state.status))

    @guarded
    def on_execution(self, contract: Any, execution: Any, asked: bool) -> None:  # noqa: FBT001 - an event's argument
        """An execution, as it happens or as we asked."""
        self.unacknowledged.pop(execution.orderRef, None)
        self._put(translate.fill(self._clock.now(), self.session, contract, execution, recovered=asked))

    @guarded
    def on_commission(self, report: Any) -> None:
        """What an execution cost; before or after it, the ledger does not mind."""
        self._put(translate.commission(self._clock.now(), self.session, report))

    def _ref(self, order_id: int, client_id: int) -> str:
        return self.refs.get(order_id, "") if client_id == self.client_id else ""

    # --- account and market data -------------------------------------------------------------------------------------

    @guarded
    def on_position(self, held: Any) -> None:
        """A position."""
        self._put(translate.position(self._clock.now(), self.session, held))

    @guarded
    def on_account_value(self, value: Any) -> None:
        """An account value."""
        if value.modelCode:
            return
        self._put(
            ev.AccountValueReported(
                at=self._clock.now(),
                session=self.session,
                account=value.account,
                tag=value.tag,
                value=value.value,
                currency=value.currency,
            )
        )

    @guarded
    def on_portfolio(self, item: Any) -> None:
        """What a position is worth."""
        self._put(translate.portfolio(self._clock.now(), self.session, item))

    @guarded
    def on_pnl(self, live: Any) -> None:
        """An account's profit and loss."""
        self._put(translate.pnl(self._clock.now(), self.session, live))

    @guarded
    def on_position_pnl(self, live: Any) -> None:
        """A position's profit and loss."""
        self._put(translate.position_pnl(self._clock.now(), self.session, live))

    def on_tickers(self, tickers: Any) -> None:
        """The tickers that one chunk of bytes touched. A set of identity hashes: sorted, so that two runs agree."""
        ib = self._ib
        try:
            self._lines.arrived(tickers, ib.wrapper.lastTime, ib.last_byte_s, ib.wrapper.others)
        except Exception as exc:  # noqa: BLE001 - as `guarded`, without its calls: this is asked for every tick
            self.fault("ibkr_service.intake.on_tickers", f"{type(exc).__name__}: {exc}")
