"""What a strategy can see: quotes, ticks, bars, chains, the account, and any read-only request of ib_insync.

A desk (`desk.py`) is a view and a hand: it adds the orders. Everything that is seen here is frozen; what is asked for
survives reconnects where it is a subscription, and has a time limit where it is a question.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from datetime import datetime
from decimal import Decimal
from typing import Any, TypeVar

from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core import risk
from ibkr_service.core.account import AccountSummary, HeldPosition
from ibkr_service.core.bars import Bar
from ibkr_service.core.book import Book
from ibkr_service.core.chain import ChainRequest, Expiries, OptionChain, Strikes, no_progress
from ibkr_service.core.chain import Progress as ChainProgress
from ibkr_service.core.combination import Spread
from ibkr_service.core.errors import DeskClosed, UnknownAccount
from ibkr_service.core.increments import on_increment
from ibkr_service.core.instrument import Action, AnyInstrument, parse
from ibkr_service.core.intent import Traded
from ibkr_service.core.netquote import NetQuote, net_quote
from ibkr_service.core.orders import OrderState
from ibkr_service.core.recognition import Recognised, recognise
from ibkr_service.hub import Hub, Subscriber
from ibkr_service.mailbox import Mailbox, Stream
from ibkr_service.marketdata import UNREAD_MAX, BarItem, DepthItem, Progress, TickByTickItem
from ibkr_service.wire import TickItem, Watching, Wire

S = TypeVar("S")
UNREAD_TICKS_MAX = 100_000  # some seconds of a very busy instrument; about 10 MB


class View:
    """One strategy's eyes. `book` is what the service believes to hold; to be read only.

    Args:
        name: the strategy's name, unique. hub, wire, watching: where facts are recorded, questions leave, quotes are
        asked for.
        limits: say how old a quote may be. facts_max: how many unread facts are tolerated. overrun: called when there
        is one more.
    """

    def __init__(
        self,
        name: str,
        *,
        hub: Hub,
        wire: Wire,
        watching: Watching,
        limits: risk.Limits,
        clock: Clock,
        facts_max: int,
        overrun: Callable[[], None],
    ) -> None:
        self.name = name
        self.book: Book = hub.book
        self._hub = hub
        self._wire = wire
        self._watching = watching
        self._limits = limits
        self._clock = clock
        self._closed_because: str | None = None
        self._subscriber = Subscriber(name, Mailbox(facts_max, overrun))
        self._streams: list[Stream[Any]] = []
        hub.subscribe(self._subscriber)

    # --- reading -----------------------------------------------------------------------------------------------------

    def events(self) -> AsyncIterator[ev.Event]:
        """Everything that concerns this strategy, for as long as it lives.

        `Recovered` first, then facts in order, ticks newest-wins.

        Raises:
            DeskClosed: the strategy was stopped.
        """
        return self._subscriber.mailbox.read(self.welcome)

    def position(self, instrument: Traded) -> Decimal:
        """What this strategy's own orders have filled, net, over all its runs. The account's: `book.position`.

        Of a spread it counts what was traded as that spread.
        """
        return self.book.strategy_position(self.name, instrument)

    def quote(self, instrument: AnyInstrument) -> ev.Tick | None:
        """The newest quote that can price an order (live, two-sided, young), or None."""
        return self.book.quote(instrument) if self.why_unusable(instrument) is None else None

    def net_quote(self, spread: Spread) -> NetQuote | None:
        """What a spread could be sold and bought at now, by the quotes of its legs; None if one is not usable."""
        if any(self.why_unusable(leg.instrument) is not None for leg in spread.legs):
            return None
        return net_quote(spread, lambda leg: self.book.quotes[leg])

    def tradable(self, instrument: AnyInstrument, price: Decimal, action: Action) -> Decimal:
        """The nearest price at which it can trade, no worse for who buys or sells; to the cent if nobody knows."""
        known = self._wire.increments(instrument)
        return on_increment(price, action, known)

    def held_spreads(self, account: str = "") -> Recognised:
        """The named spreads that an account's positions make up, and what is left (`core/recognition.py`).

        Raises:
            NotReady: the link is not READY. UnknownAccount: not one of this login.
        """
        held = self.book.held_positions(account)
        return recognise({instrument: position.quantity for instrument, position in held.items()})

    def why_unusable(self, instrument: AnyInstrument) -> str | None:
        """Why there is no quote of it that can price an order, in words; None if there is one.

        It must be watched, outside a gap, live, two-sided, not crossed, not halted and younger than
        `risk.max_quote_age_s`.
        """
        gap = self.book.gaps.get(instrument)
        if gap is not None:
            return f"no quote since {gap.since:%H:%M:%S} UTC ({gap.reason})"
        quote = self.book.quote(instrument)
        if quote is None:
            return f"no quote ({self._watching.why_no_quote(instrument)})"
        return risk.why_unusable(quote, self._limits.max_quote_age_s, asyncio.get_running_loop().time())

    # --- market data -------------------------------------------------------------------------------------------------

    def watch(self, instrument: AnyInstrument) -> None:
        """Receive ticks of an instrument, over all reconnects, until `unwatch`. Watching twice is watching once."""
        self._check_open()
        if instrument not in self._subscriber.watched:
            newest = self._watching.watch(instrument)  # first: it refuses what is no instrument
            self._hub.watch(self._subscriber, instrument)
            # It flows for somebody else already: no need to wait for it to change. What the hub has not recorded yet
            # comes from there.
            recorded = self.book.quote(instrument)
            if newest is not None and recorded is not None:
                self._subscriber.mailbox.put(recorded)

    def unwatch(self, instrument: AnyInstrument) -> None:
        """Receive no more ticks of it; the unread one is discarded."""
        if instrument in self._subscriber.watched:
            self._hub.unwatch(self._subscriber, instrument)
            self._watching.unwatch(instrument)

    def every_tick(self, instrument: AnyInstrument, unread_max: int = UNREAD_TICKS_MAX) -> Stream[TickItem]:
        """Each tick by itself, in order, over all reconnects: `async with desk.every_tick(AAPL) as ticks: async for …`.

        Items are `RawTick`, and `Gap`, `Resumed`, `SubscriptionFailed`, `SubscriptionWaiting` where they belong. Who
        leaves more than `unread_max` ticks unread finds a `Gap` that counts what was `lost`. `watch` is for those who
        want the newest quote only; the two share one market-data line.

        Raises:
            InvalidIntent: it is no instrument. DeskClosed.
        """
        self._check_open()
        return self._keep(self._watching.every_tick(instrument, unread_max))

    def _keep(self, stream: Stream[S]) -> Stream[S]:
        """Close a stream with the desk."""
        self._streams = [kept for kept in self._streams if not kept.closed]
        self._streams.append(stream)
        return stream

    async def qualify(self, instrument: Traded) -> int:
        """Make sure that the broker knows the instrument, at which prices and when it trades; returns its conId.

        Of a spread each leg; it has no conId of its own, and 0 is returned.

        Raises:
            UnknownInstrument, BrokerRefused, RequestTimeout, NotReady.
        """
        self._check_open()
        if isinstance(instrument, Spread):
            await self._wire.learn_legs(instrument)
            return 0
        con_id = await self._wire.con_id(instrument)
        await self._wire.learn_increments(instrument)
        await self._wire.learn_hours(instrument)
        return con_id

    async def first_quote(
        self, instrument: AnyInstrument, timeout_s: float = 10.0, *, settle_s: float = 0.0
    ) -> ev.Tick:
        """One usable quote of an instrument that need not be watched: a bid and an ask, or a last price.

        Args:
            settle_s: wait so much longer for volume, high, low and close, which come in messages of their own.

        Raises:
            BrokerRefused: the broker's error for this request. RequestTimeout: none came within `timeout_s`.
            NoLineFree: every market-data line was taken for so long. UnknownInstrument, NotReady, DeskClosed: as they
            say.
        """
        self._check_open()
        return await self._wire.first_quote(instrument, timeout_s, settle_s)

    async def request(self, name: str, *arguments: object, timeout_s: float | None = None, **options: object) -> Any:  # noqa: ANN401 - as many shapes as requests
        """Any read-only request of ib_insync, paced and with a time limit: `request("reqMatchingSymbolsAsync", "APP")`.

        Instruments may stand where ib_insync wants contracts. The answer is a frozen copy with ib_insync's field
        names, lists as tuples.

        Raises:
            InvalidIntent: it places orders, or the service itself keeps it (the text says what to use), or there is no
            such request. BrokerRefused, RequestTimeout, NotReady, DeskClosed: as they say.
        """
        self._check_open()
        return await self._wire.request(name, *arguments, timeout_s=timeout_s, **options)

    # --- bars, ticks one by one, depth (docs/history.md) -------------------------------------------------------------

    async def history(  # noqa: PLR0913 - a range can be said in several ways
        self,
        instrument: AnyInstrument,
        bar_size: str,
        *,
        start: datetime | None = None,
        end: datetime | None = None,
        days: float | None = None,
        what: str = "",
        regular_hours: bool = False,
        on_progress: Progress | None = None,
        timeout_s: float = 300.0,
    ) -> list[Bar]:
        """The bars that begin from `start`, or `days` before the end, up to `end` (now if left out); each once.

        As many requests as it takes, within IB's limits, over reconnects; `on_progress(pages done, all pages, bars)`.

        Args:
            bar_size: TWS's name (`1 min`). what: TRADES (MIDPOINT for currencies) if left out. timeout_s: for each
            request, the wait for its turn not counted.

        Raises:
            InvalidRequest, BrokerRefused, RequestTimeout, UnknownInstrument, NotReady, DeskClosed: as they say.
        """
        self._check_open()
        return await self._wire.history.bars(
            instrument,
            bar_size,
            start=start,
            end=end,
            days=days,
            what=what,
            regular_hours=regular_hours,
            on_progress=on_progress,
            timeout_s=timeout_s,
        )

    def bars(
        self,
        instrument: AnyInstrument,
        bar_size: str = "5 secs",
        *,
        what: str = "",
        regular_hours: bool = False,
        unread_max: int = UNREAD_MAX,
    ) -> Stream[BarItem]:
        """Each bar when it is whole, over all reconnects: `async with desk.bars(AAPL) as bars: async for …`.

        Items are `Bar`, and `Gap`, `Resumed`, `SubscriptionFailed` where they belong; after `Resumed(backfilled=n)`
        come the n bars that were missed.

        Raises:
            InvalidIntent, InvalidRequest: no instrument, no bar size. DeskClosed.
        """
        self._check_open()
        return self._keep(
            self._wire.streams.bars(instrument, bar_size, what=what, regular_hours=regular_hours, unread_max=unread_max)
        )

    def tick_by_tick(
        self, instrument: AnyInstrument, kind: str, *, unread_max: int = UNREAD_MAX
    ) -> Stream[TickByTickItem]:
        """Every trade (`Last`, `AllLast`), quote (`BidAsk`) or midpoint (`MidPoint`) with the exchange's time.

        IB allows few of these at a time (10190). Items as those of `bars`.

        Raises:
            InvalidIntent, InvalidRequest: no instrument, no such kind. DeskClosed.
        """
        self._check_open()
        return self._keep(self._wire.streams.tick_by_tick(instrument, kind, unread_max=unread_max))

    def depth(self, instrument: AnyInstrument, rows: int = 5, *, unread_max: int = UNREAD_MAX) -> Stream[DepthItem]:
        """The order book, whole, whenever it has changed. Items as those of `bars`.

        Raises:
            InvalidIntent, InvalidRequest: no instrument, too many rows. DeskClosed.
        """
        self._check_open()
        return self._keep(self._wire.streams.depth(instrument, rows, unread_max=unread_max))

    # --- account -----------------------------------------------------------------------------------------------------

    def account_summary(self, account: str = "") -> AccountSummary:
        """What an account is worth and may still do, as of now; no request is made.

        Args:
            account: one of this login's; empty for the one in use.

        Raises:
            NotReady: the link is not READY, or not all values of this account have come (those of the account in use
            have when the link is READY). UnknownAccount: this login does not manage it.
        """
        return self.book.account_summary(account)

    def positions(self, account: str = "") -> dict[AnyInstrument, HeldPosition]:
        """What an account holds, by instrument, whoever traded it; empty if it verifiably holds nothing.

        What this strategy has traded is `position`. Of several accounts each is asked for by itself; their names are
        `book.accounts`.

        Raises:
            NotReady: the link is not READY. UnknownAccount: this login does not manage this account.
        """
        return self.book.held_positions(account)

    def watch_account(self, account: str = "") -> None:
        """Receive an account's figures as they change while the link is READY, until `unwatch_account`.

        They are `AccountValueReported`, `PortfolioReported`, `PnlReported`, `PositionPnlReported`; of each value only
        the newest is kept unread, as with ticks. `PositionReported` comes without this, and none is left out.

        Raises:
            UnknownAccount: this login does not manage it. DeskClosed.
        """
        self._check_open()
        account = account or self.book.account
        if account not in self.book.accounts:
            raise UnknownAccount("an account that this login does not manage cannot be watched")
        self._subscriber.accounts.add(account)

    def unwatch_account(self, account: str = "") -> None:
        """Receive an account's figures no longer; the unread ones are discarded."""
        account = account or self.book.account
        self._subscriber.accounts.discard(account)
        self._subscriber.mailbox.forget_account(account)

    async def option_chain(  # noqa: PLR0913 - each narrows the chain; all have defaults
        self,
        underlying: AnyInstrument | str,
        *,
        expiries: Expiries = 2,
        strikes: Strikes = 10,
        rights: str = "CP",
        trading_class: str | None = None,
        exchange: str | None = None,
        deadline_s: float = 30.0,
        compute: bool = True,
        rate: float = 0.04,
        dividend_yield: float = 0.0,
        on_progress: ChainProgress = no_progress,
    ) -> OptionChain:
        """The options of an underlying with quotes and greeks, within the budgets of messages and lines.

        Args:
            underlying: a stock's symbol, or a Stock, Index or Future. The rest: see `ChainRequest`.

        Returns:
            What was there at the latest after `deadline_s`; what is not there is named in `missing`.

        Raises:
            InvalidIntent: nothing listed fits what is wanted. UnknownInstrument, BrokerRefused, RequestTimeout,
            NotReady, DeskClosed: as they say.
        """
        self._check_open()
        wanted = ChainRequest(
            underlying=parse(underlying) if isinstance(underlying, str) else underlying,
            expiries=expiries,
            strikes=strikes,
            rights=rights,
            trading_class=trading_class,
            exchange=exchange,
            deadline_s=deadline_s,
            compute=compute,
            rate=rate,
            dividend_yield=dividend_yield,
            on_progress=on_progress,
        )
        return await self._wire.option_chain(wanted)

    # --- its life ----------------------------------------------------------------------------------------------------

    def welcome(self) -> None:
        """Put `Recovered` first into the mailbox."""
        book = self.book
        mine = list(book.alive_orders(self.name))
        unknown = [o for o in mine if o.state is OrderState.UNKNOWN]
        self._subscriber.mailbox.put(
            ev.Recovered(
                at=self._clock.now(),
                session=book.session,
                positions=tuple((p.account, p.instrument, p.quantity) for p in book.positions.values() if p.quantity),
                working=tuple((o.ref, o.key) for o in mine if o not in unknown),
                unknown=tuple((o.ref, o.key) for o in unknown),
            )
        )

    @property
    def closed(self) -> bool:
        """Whether the strategy of this desk is over."""
        return self._closed_because is not None

    def close(self, why: str) -> None:
        """See nothing more: what was watched is watched no longer, streams end."""
        if self._closed_because is not None:
            return
        self._closed_because = why
        self._hub.unsubscribe(self._subscriber)
        self._subscriber.mailbox.close(why)
        for instrument in tuple(self._subscriber.watched):
            self.unwatch(instrument)
        for stream in self._streams:
            stream.close(why)

    def _check_open(self) -> None:
        if self._closed_because is not None:
            raise DeskClosed(f"the desk of {self.name} is closed: {self._closed_because}")
