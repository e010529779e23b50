"""What is asked of the broker over the connection of the moment: contracts, quotes, chains, any read-only request.

The session (`session.py`) is this and the life of the connection. Nothing here outlives a connection but what is
wanted: the lines, and the ids of instruments, which never change.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import msgspec
import structlog

from ibkr_service.broker import orderfields, requests, translate, whatif
from ibkr_service.broker.chains import Chains
from ibkr_service.broker.connection import Connection
from ibkr_service.broker.history import History
from ibkr_service.broker.historybudget import Toll
from ibkr_service.broker.ib import IB
from ibkr_service.broker.line import Line
from ibkr_service.broker.lines import Lines
from ibkr_service.broker.marketrules import MarketRules
from ibkr_service.broker.streams import Streams
from ibkr_service.broker.tradinghours import TradingHours, UsCalendar
from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.chain import ChainRequest, OptionChain
from ibkr_service.core.combination import Spread
from ibkr_service.core.errors import (
    BrokerRefused,
    InvalidIntent,
    NoLineFree,
    NotReady,
    RequestTimeout,
    UnknownInstrument,
)
from ibkr_service.core.hours import Hours
from ibkr_service.core.increments import Increments
from ibkr_service.core.instrument import AnyInstrument, Bag, Future, FutureOption
from ibkr_service.core.intent import Intent, Traded
from ibkr_service.core.preview import Preview

log = structlog.get_logger("ibkr_service.broker")

T = TypeVar("T")


class Questions:
    """Asks the broker.

    Args:
        lines: the market-data lines. request_timeout_s: the default limit of a request, in seconds.
        calendar_hours: whether a calendar stands in for hours that the broker has not told.
    """

    def __init__(self, lines: Lines, clock: Clock, request_timeout_s: float, *, calendar_hours: bool = False) -> None:
        self.lines = lines
        self.chains = Chains(self, lines, clock)
        self._request_timeout_s = request_timeout_s
        self._connection: Connection | None = None
        self._con_ids: dict[AnyInstrument, int] = {}
        self._exchanges: dict[AnyInstrument, str] = {}  # of futures that were described without one, as positions are
        self._rules = MarketRules()
        self._now = clock.now
        self._hours = TradingHours(UsCalendar(clock.now()) if calendar_hours else None)
        self._became_ready = asyncio.Event()
        self.history = History(ask=self.ask, as_sent=self.as_sent, until_ready=self.until_ready, clock=clock)
        self.streams = Streams(clock=clock, as_sent=self.as_sent, history=self.history)

    def _live(self) -> Connection:
        connection = self._connection
        if connection is None:
            raise NotReady("the link is DOWN")
        if not connection.ready:
            raise NotReady("the link is CUT" if connection.cut else "the link is SYNCING")
        return connection

    # --- one question ------------------------------------------------------------------------------------------------

    async def ask(
        self,
        what: str,
        call: Callable[[IB], Awaitable[T]],
        *,
        timeout_s: float | None = None,
        key: str | None = None,
    ) -> T:
        """Ask one read-only thing of the broker, on the connection of this moment, paced and with a limit.

        Args:
            what: a name for messages. call: starts the library's request on the IB that it is given. timeout_s: the
            default is `request_timeout_s`. key: requests of one key go one at a time.

        Raises:
            BrokerRefused, RequestTimeout: as they say. NotReady: the link is, or went, down.
        """
        ib = self._live().ib
        limit_s = timeout_s or self._request_timeout_s
        answer = await ib.request(what, lambda: call(ib), limit_s, key=key)
        if answer is None:  # the library gave up by itself (reqMatchingSymbols after 4 s): no answer, not an empty one
            raise RequestTimeout(what, limit_s)
        return answer

    async def until_ready(self) -> None:
        """Wait until the link is READY."""
        while self._connection is None or not self._connection.ready:
            self._became_ready.clear()
            await self._became_ready.wait()

    async def con_id(self, instrument: AnyInstrument) -> int:
        """The conId of an instrument, asked once.

        Raises:
            UnknownInstrument: no contract, or several, fit. BrokerRefused, RequestTimeout, NotReady: as they say.
        """
        return await self._con_id(self._live(), instrument)

    async def as_sent(self, instrument: AnyInstrument) -> tuple[AnyInstrument, int]:
        """What goes on the wire for an instrument, and its conId, asked once.

        Raises:
            As `con_id`.
        """
        await self.con_id(instrument)
        return self._sent_as(instrument)

    async def _con_id(self, connection: Connection, instrument: AnyInstrument) -> int:
        if instrument in self._con_ids:
            return self._con_ids[instrument]
        return await self._read_details(connection, instrument)

    async def _read_details(self, connection: Connection, instrument: AnyInstrument) -> int:
        """Ask for contract details, and keep what they say; returns the conId."""
        contract = translate.contract_of(instrument)
        try:
            found = await connection.ib.request(
                f"contract details of {instrument}",
                lambda: connection.ib.reqContractDetailsAsync(contract),
                self._request_timeout_s,
            )
        except BrokerRefused as exc:
            raise translate.refusal(exc.code, exc.text, instrument) from exc
        if len(found) != 1:
            raise UnknownInstrument(f"{instrument} fits {len(found)} contracts; describe exactly one")
        con_id: int = found[0].contract.conId
        self._con_ids[instrument] = con_id
        if isinstance(instrument, (Future, FutureOption)) and not instrument.exchange:
            self._exchanges[instrument] = found[0].contract.exchange
        self._rules.seen(instrument, found[0])
        self._hours.seen(instrument, found[0], self._now())
        return con_id

    async def learn_legs(self, spread: Spread) -> None:
        """Know what a spread needs to be ordered: the conIds of its legs, their increments and hours.

        Raises:
            UnknownInstrument, BrokerRefused, RequestTimeout, NotReady: as they say, of the leg that they name.
        """
        for leg in spread.legs:
            await self.con_id(leg.instrument)
            await self.learn_increments(leg.instrument)
            await self.learn_hours(leg.instrument)

    def check_legs(self, spread: Spread) -> None:
        """Whether a spread could be sent now.

        Raises:
            InvalidIntent: a leg's conId is not known.
        """
        self._sent_as(spread)

    def _sent_as(self, traded: Traded) -> tuple[AnyInstrument, int]:
        """What goes on the wire, and its conId: of a spread the BAG of its legs' conIds, LONG side as it is.

        The broker reports positions without an exchange, and takes no order without one: of a future it is looked up.
        """
        if isinstance(traded, (Future, FutureOption)) and not traded.exchange:
            exchange = self._exchanges.get(traded, "")
            return msgspec.structs.replace(traded, exchange=exchange), self._con_ids.get(traded, 0)
        if not isinstance(traded, Spread):
            return traded, self._con_ids.get(traded, 0)
        for leg in traded.legs:
            if leg.instrument not in self._con_ids:
                raise InvalidIntent(f"the broker has not been asked for {leg.instrument}: await desk.qualify(spread)")
        legs = tuple((self._con_ids[leg.instrument], leg.ratio, leg.action) for leg in traded.legs)
        return Bag(traded.symbol, traded.currency, legs, traded.options[0].exchange), 0

    async def learn_increments(self, instrument: AnyInstrument) -> None:
        """Know at which prices an instrument can trade; asked once, and never given up for an order.

        Raises:
            UnknownInstrument: no contract, or several, fit. BrokerRefused, RequestTimeout, NotReady: as they say.
        """
        if self._rules.is_whole(instrument):
            return
        if self._rules.rule_of(instrument) is None:
            self._con_ids.pop(instrument, None)  # known from a listing, without its details
            await self.con_id(instrument)
        rule = self._rules.rule_of(instrument)
        if rule and not self._rules.has(rule):
            steps = await self.ask(f"market rule {rule}", lambda ib: ib.reqMarketRuleAsync(rule), key="marketRule")
            self._rules.told(rule, steps)

    async def learn_hours(self, instrument: AnyInstrument) -> None:
        """Know when an instrument trades; asked again when what was told is over.

        Raises:
            UnknownInstrument: no contract, or several, fit. BrokerRefused, RequestTimeout, NotReady: as they say.
        """
        if not self._hours.is_asked(instrument, self._now()):
            await self._read_details(self._live(), instrument)

    def hours(self, instrument: AnyInstrument) -> Hours | None:
        """When an instrument trades, as far as that is known."""
        return self._hours.hours(instrument, self._now())

    def increments(self, traded: Traded) -> Increments | None:
        """At which prices something can trade, as far as the broker has been asked."""
        return self._rules.combined(traded) if isinstance(traded, Spread) else self._rules.increments(traded)

    def check_fields(self, intent: Intent) -> None:
        """Look at an intent's further fields.

        Raises:
            InvalidIntent: ib_insync knows no such field, or it is not for the user to set.
        """
        orderfields.check(intent)

    async def preview(self, intent: Intent, timeout_s: float) -> Preview:
        """What an order would do to its account; nothing is placed.

        Raises:
            UnknownInstrument, BrokerRefused, RequestTimeout, NotReady, Paced: as they say.
        """
        connection = self._live()
        traded = intent.instrument
        if isinstance(traded, Spread):
            await self.learn_legs(traded)
        else:
            await self._con_id(connection, traded)
        contract = translate.contract_of(*self._sent_as(traded))
        connection = self._live()
        account = intent.account or connection.account
        return await whatif.preview(connection.ib, contract, intent, account, timeout_s)

    async def request(self, name: str, *arguments: object, timeout_s: float | None = None, **options: object) -> Any:
        """Any read-only request of ib_insync by its name; see `requests.py`.

        Raises:
            InvalidIntent: it is none. BrokerRefused, RequestTimeout, NotReady: as they say.
        """
        requests.check(name)
        if options.get("keepUpToDate"):
            raise InvalidIntent("keepUpToDate is a stream, not a request: use desk.bars")
        call = requests.call_of(name, arguments, options, self._con_ids)
        if name not in requests.HISTORICAL:
            return requests.frozen(await self.ask(name, call, timeout_s=timeout_s, key=requests.key_of(name)))
        async with self.history.budget.turn(Toll(name, identity=f"{name}{arguments}{sorted(options.items())}")):
            return requests.frozen(await self.ask(name, call, timeout_s=timeout_s))

    def remember(self, instrument: AnyInstrument, con_id: int) -> None:
        """Spare `con_id` the question: somebody has just seen the contract."""
        self._con_ids[instrument] = con_id

    async def option_chain(self, wanted: ChainRequest) -> OptionChain:
        """An option chain; see `Chains.chain`.

        Raises:
            NotReady: the link is, or went, down. And what `Chains.chain` raises.
        """
        self._live()
        return await self.chains.chain(wanted)

    async def first_quote(self, instrument: AnyInstrument, timeout_s: float, settle_s: float = 0.0) -> ev.Tick:
        """One usable quote (a bid and an ask, or a last price); its line is given back at once.

        Args:
            settle_s: wait so much longer for the fields that come in messages of their own (volume, high, low, close).

        Raises:
            BrokerRefused: the broker's error for this request. RequestTimeout: no usable quote within `timeout_s`.
            NoLineFree: all lines were taken for so long. UnknownInstrument: no contract, or several, fit.
            NotReady: the link is, or went, down.
        """
        self._live()
        quote: asyncio.Future[ev.Tick] = asyncio.get_running_loop().create_future()
        settled = asyncio.Event()
        newest: list[ev.Tick] = []

        def on_news(line: Line) -> None:
            if line.tick is not None and has_quote(line.tick):
                newest[:] = [line.tick]
                if not quote.done():
                    quote.set_result(line.tick)
                if is_whole(line.tick):
                    settled.set()
            elif line.failure is not None and not quote.done():
                quote.set_exception(line.failure)

        line = self.lines.hold(instrument, on_news)
        try:
            on_news(line)
            async with asyncio.timeout(timeout_s):
                await quote
            if settle_s > 0:
                with suppress(TimeoutError):
                    async with asyncio.timeout(settle_s):
                        await settled.wait()
            return newest[0]
        except TimeoutError:
            if line.waiting:
                raise NoLineFree(str(instrument), self.lines.cap, timeout_s) from None
            raise RequestTimeout(f"first quote of {instrument}", timeout_s) from None
        finally:
            self.lines.let_go(line, on_news)
            if not quote.cancel() and not quote.cancelled():
                quote.exception()  # mark as seen: who was cancelled at the same moment does not look

    # --- market-data lines -------------------------------------------------------------------------------------------

    async def _stay_subscribed(self, connection: Connection) -> None:
        """Make true what is wanted: cancel, request, ask again for what stays silent or was refused."""
        loop, lines = asyncio.get_running_loop(), self.lines
        # A gateway that is cut off keeps requests, and knows nothing of them when they are cancelled: they are
        # cancelled again when it has carried them out.
        kept: list[int] = []
        async with asyncio.TaskGroup() as asking:  # one contract that nobody answers for must not hold up the others
            while True:
                due = lines.to_request(loop.time()) if connection.ready else []
                old_contracts = [lines.release(line) for line in due]
                while kept and connection.ready:
                    connection.ib.client.cancelMktData(kept.pop())
                for contract in [*lines.take_cancelled(), *old_contracts]:
                    request = 0 if contract is None else connection.ib.stop_quotes(contract)
                    if request and not connection.ready:
                        kept.append(request)
                for contract in lines.take_forgotten():
                    connection.ib.stop_quotes(contract, tell=False)
                pacer = connection.ib.client.pacer
                pacer.defer_releases(but=max(0, lines.taken + pacer.releases - lines.cap))
                pacer.restore(sum(line.in_gap for line in due))
                for line in due:
                    asking.create_task(
                        self._request_line(connection, line, line.attempt), name=f"session:ask {line.instrument}"
                    )
                due_s = lines.next_due_s() if connection.ready else None
                try:
                    async with asyncio.timeout_at(due_s):
                        await lines.changed()
                except TimeoutError:
                    pass

    async def _request_line(self, connection: Connection, line: Line, attempt: int) -> None:
        loop, lines = asyncio.get_running_loop(), self.lines
        refusal = None
        try:
            await self._con_id(connection, line.instrument)
        except (BrokerRefused, UnknownInstrument, RequestTimeout) as exc:
            refusal = exc
        if not lines.is_asking(line, attempt):
            return  # overtaken: nobody wants it any more, or it was asked for anew
        if not connection.ready and not isinstance(refusal, (BrokerRefused, UnknownInstrument)):
            lines.postponed(line)
            return
        match refusal:
            case BrokerRefused():
                lines.refused(line, refusal.code, refusal.text, loop.time(), refusal)
            case UnknownInstrument():
                lines.refused(line, translate.NO_SUCH_CONTRACT, str(refusal), loop.time(), refusal)
            case RequestTimeout():
                log.warning("no contract details", instrument=str(line.instrument), error=str(refusal))
                lines.refused(line, 0, str(refusal), loop.time(), refusal)
            case None:
                contract = translate.contract_of(*self._sent_as(line.instrument))
                request, ticker = connection.ib.start_quotes(contract, translate.generic_ticks(line.instrument))
                pacer = connection.ib.client.pacer
                sent_s = loop.time() + pacer.wait_s
                lines.requested(line, request, ticker, contract, sent_s, releasing=pacer.releases)


def has_quote(tick: ev.Tick) -> bool:
    """Whether it holds something to go by: both sides of the market, or a last price."""
    return (tick.bid is not None and tick.ask is not None) or tick.last is not None


def is_whole(tick: ev.Tick) -> bool:
    """Whether nothing is missing that a quote of a stock in session has."""
    return None not in {tick.bid, tick.ask, tick.last, tick.volume, tick.high, tick.low, tick.close}
