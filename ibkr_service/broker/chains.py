"""Option chains under both budgets: few messages, no more lines than there are, complete at a deadline.

What is listed comes from `Listings`. Then every wanted contract holds a market-data line until its quote and greeks
are there. While others wait for a line, one that has all gives it up, and one that stays silent stands back and comes
again later. At the deadline the chain is returned as it is, with what is missing named: contracts, and slices whose
contracts nobody told. A lost connection is no failure but a delay.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import msgspec
import structlog

from ibkr_service.broker import greeks as pricing
from ibkr_service.broker.line import Line, LineState
from ibkr_service.broker.lines import Lines
from ibkr_service.broker.listings import Asking, Listed, Listings
from ibkr_service.clock import Clock
from ibkr_service.core import chain as core
from ibkr_service.core import events as ev
from ibkr_service.core.chain import ChainRequest, ChainRow, OptionChain, Slice
from ibkr_service.core.chainselection import choose_strikes, strikes_not_listed
from ibkr_service.core.errors import InvalidIntent, NotReady, RequestTimeout, ServiceError
from ibkr_service.core.instrument import AnyInstrument, name_of

log = structlog.get_logger("ibkr_service.broker")

PATIENCE_S = 4.0  # a silent line is given to somebody who waits after this long; greeks may take 2 s, pacing 1 s
SETTLED_S = 1.0  # nothing more can be expected of a contract that has quote and greeks for this long
HALF_S = 6.0  # nor of one that has only one of them for this long
CLOSE_S = 3.0  # an underlying that ticks, but has no price for this long: its market is closed
LOOK_S = 0.25


@dataclass(eq=False)
class _Seat:
    """One contract's place in a chain that is being fetched."""

    listed: Listed
    on_news: Callable[[Line], None] = lambda _line: None
    line: Line | None = None
    tick: ev.Tick | None = None
    failure: ServiceError | None = None
    first_s: float = 0.0  # when its first tick came
    asked_s: float = 0.0  # when it was first seen to have a line, this time
    done: bool = False
    no_line: bool = False  # it ended without one


@dataclass(eq=False)
class _Table:
    """A chain that is being fetched."""

    wanted: ChainRequest
    slices: list[Slice]  # that are wanted
    settled: dict[Slice, Slice] = field(default_factory=dict)  # those whose contracts are known, with their settlement
    seats: dict[Slice, list[_Seat]] = field(default_factory=dict)
    failures: dict[Slice, ServiceError] = field(default_factory=dict)
    missing: list[str] = field(default_factory=list)
    lacks_price: bool = False
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def all_seats(self) -> list[_Seat]:
        """In the order of the slices."""
        return [seat for one in self.slices for seat in self.seats.get(one, ())]

    @property
    def is_laid(self) -> bool:
        """Whether the contracts of every slice are known, or why not."""
        return len(self.seats) + len(self.failures) == len(self.slices)


class Chains:
    """Fetches chains.

    Args:
        session: asks the broker. lines: the budget of market-data lines.
    """

    def __init__(self, session: Asking, lines: Lines, clock: Clock) -> None:
        self._session = session
        self._lines = lines
        self._clock = clock
        self._listings = Listings(session, clock)

    async def chain(self, wanted: ChainRequest) -> OptionChain:
        """The chain as far as it could be had within `deadline_s`.

        Raises:
            UnknownInstrument: no such underlying. InvalidIntent: nothing listed fits. RequestTimeout: not even what is
            listed, or the price around which strikes are wanted, was known in time. BrokerRefused: as it says.
        """
        about = str(wanted.underlying)
        try:
            chain = await self._chain(wanted, asyncio.get_running_loop().time() + wanted.deadline_s)
        except ServiceError as exc:
            log.error("no option chain", underlying=about, kind=type(exc).__name__, error=str(exc))
            raise
        if not chain.complete:
            log.warning(
                "option chain is not complete", underlying=about, missing=len(chain.missing), first=chain.missing[0]
            )
        return chain

    async def _chain(self, wanted: ChainRequest, deadline_s: float) -> OptionChain:
        try:
            async with asyncio.timeout_at(deadline_s):
                await self._listings.con_id(wanted.underlying)  # first: else its line would ask as well
                table = _Table(wanted, await self._listings.slices(wanted))
        except TimeoutError:
            raise RequestTimeout(f"what is listed on {wanted.underlying}", wanted.deadline_s) from None
        underlying = _Underlying(self._lines, wanted.underlying)
        try:
            async with asyncio.TaskGroup() as looking:  # its tasks raise nothing: what fails, `_fill` did
                price = looking.create_task(underlying.first_price(), name="chain:price")
                looks = [
                    looking.create_task(self._look(table, one, price), name=f"chain:{one.expiry} {one.trading_class}")
                    for one in table.slices
                ]
                try:
                    await self._fill(table, deadline_s)
                finally:
                    table.lacks_price = wanted.needs_price and not price.done()
                    for task in [price, *looks]:
                        task.cancel()
            return self._result(table, underlying.newest())
        except ExceptionGroup as group:
            raise group.exceptions[0] from None
        finally:
            underlying.close()

    async def _look(self, table: _Table, one: Slice, price: asyncio.Task[float | ServiceError]) -> None:
        """Find the contracts of a slice, and seat those that are wanted."""
        wanted = table.wanted
        try:
            listed = await self._listings.contracts(wanted.underlying, one)
            if not listed:
                raise InvalidIntent(f"{wanted.underlying} {one.expiry} {one.trading_class} has no contracts")
            around = await price if wanted.needs_price else None
            if isinstance(around, ServiceError):
                raise around
            strikes = choose_strikes((each.option.strike for each in listed), wanted.strikes, around)
        except ServiceError as exc:
            table.failures[one] = exc
        else:
            absent = strikes_not_listed((each.option.strike for each in listed), wanted.strikes)
            table.missing += [f"{one.expiry} {one.trading_class}: there is no strike {strike:g}" for strike in absent]
            table.settled[one] = msgspec.structs.replace(one, settlement=listed[0].settlement)
            chosen = [each for each in listed if each.option.strike in strikes and each.option.right in wanted.rights]
            chosen.sort(key=lambda each: (each.option.strike, each.option.right))
            table.seats[one] = [_Seat(each) for each in chosen]
        table.changed.set()

    # --- quotes and greeks -------------------------------------------------------------------------------------------

    async def _fill(self, table: _Table, deadline_s: float) -> None:
        """Hold a line for every contract until its data is there, or the time is over."""
        loop, told = asyncio.get_running_loop(), -1
        try:
            while loop.time() < deadline_s:
                seats = table.all_seats
                for seat in seats:
                    if seat.line is None and not seat.done:
                        self._sit_down(seat, table.changed)
                done = self._settle(seats, table.wanted, loop.time())
                if done != told:
                    told = done
                    table.wanted.on_progress(done, len(seats))
                if table.is_laid and done == len(seats):
                    return
                table.changed.clear()
                try:
                    async with asyncio.timeout_at(min(deadline_s, loop.time() + LOOK_S)):
                        await table.changed.wait()
                except TimeoutError:
                    pass
        finally:
            for seat in table.all_seats:
                seat.no_line = seat.line is not None and seat.line.state is LineState.WANTED
                self._leave(seat)

    def _sit_down(self, seat: _Seat, changed: asyncio.Event) -> None:
        self._session.remember(seat.listed.option, seat.listed.con_id)
        seat.on_news = _listener(seat, changed, asyncio.get_running_loop())
        seat.line = self._lines.hold(seat.listed.option, seat.on_news)
        seat.on_news(seat.line)  # somebody may watch it already, and its market may be quiet

    def _settle(self, seats: list[_Seat], wanted: ChainRequest, now_s: float) -> int:
        """See who has all that can be expected; make room if others wait. Returns how many are done."""
        waiting = [line for line in self._lines if line.state is LineState.WANTED]
        is_contested = any(line.holders for line in waiting)  # by somebody who is no less urgent than a chain
        for seat in seats:
            seat.done = seat.done or _is_done(seat, wanted, now_s)
            line = seat.line
            if line is None:
                continue
            if seat.done and waiting:
                self._leave(seat)
            elif line.state not in {LineState.REQUESTED, LineState.LIVE}:
                seat.asked_s = now_s
            elif is_contested and not seat.done and now_s - seat.asked_s >= PATIENCE_S:
                self._lines.stand_back(line)
        return sum(seat.done for seat in seats)

    def _leave(self, seat: _Seat) -> None:
        if seat.line is not None:
            self._lines.let_go(seat.line, seat.on_news)
            seat.line = None

    # --- the result --------------------------------------------------------------------------------------------------

    def _result(self, table: _Table, price: float | None) -> OptionChain:
        """What is there.

        Raises:
            ServiceError: why there is nothing at all.
        """
        wanted, seats = table.wanted, table.all_seats
        if not table.settled:
            what = "a price to choose strikes by" if table.lacks_price else "the contracts"
            late = RequestTimeout(f"{what} of {wanted.underlying}", wanted.deadline_s)
            raise next(iter(table.failures.values()), late)
        if not seats and table.is_laid and not table.failures:
            raise InvalidIntent(f"{wanted.underlying} has no strike that fits {wanted.strikes!r}")
        if price is None:
            price = _by_options(seats)
        rows = [self._row(seat, wanted, price) for seat in seats]
        late_text = f"its contracts did not come within {wanted.deadline_s:g} s"
        missing = [
            f"{one.expiry} {one.trading_class}: {table.failures.get(one, late_text)}"
            for one in table.slices
            if one not in table.settled
        ]
        missing += sorted(table.missing)
        missing += [f"{name_of(row.option)}: {', '.join(row.missing)}" for row in rows if row.missing]
        return OptionChain(
            underlying=wanted.underlying,
            underlying_price=price,
            at=self._clock.now(),
            slices=tuple(table.settled[one] for one in table.slices if one in table.settled),
            rows=tuple(rows),
            missing=tuple(missing),
        )

    def _row(self, seat: _Seat, wanted: ChainRequest, price: float | None) -> ChainRow:
        listed, tick = seat.listed, seat.tick
        row = ChainRow(option=listed.option, con_id=listed.con_id, settlement=listed.settlement)
        why = str(seat.failure) if seat.failure else "no market-data line was free" if seat.no_line else ""
        if tick is None:
            return msgspec.structs.replace(row, missing=(why,) if why else core.what_is_missing(row))
        row = msgspec.structs.replace(
            row,
            bid=tick.bid,
            ask=tick.ask,
            last=tick.last,
            bid_size=tick.bid_size,
            ask_size=tick.ask_size,
            last_size=tick.last_size,
            volume=tick.volume,
            open_interest=tick.open_interest,
            close=tick.close,
            data_type=tick.data_type,
            at=tick.at,
            greeks=self._greeks(listed, tick, wanted, price),
        )
        lacks = core.what_is_missing(row)
        return msgspec.structs.replace(row, missing=(*lacks, why) if lacks and why else lacks)

    def _greeks(self, listed: Listed, tick: ev.Tick, wanted: ChainRequest, price: float | None) -> ev.Greeks:
        years = pricing.years_left(listed.expires, listed.settlement, self._clock.now())
        rate, dividend_yield = wanted.rate, wanted.dividend_yield
        if _has_greeks(tick):
            assert tick.greeks is not None, "it has them"
            return pricing.with_rho(tick.greeks, listed.option, price, years, rate=rate, dividend_yield=dividend_yield)
        value = pricing.market_value(tick)
        found = None
        if wanted.compute and price is not None and value is not None:
            found = pricing.computed(listed.option, value, price, years, rate=rate, dividend_yield=dividend_yield)
        return found or tick.greeks or ev.Greeks()


class _Underlying:
    """The underlying's line, for as long as a chain is fetched."""

    def __init__(self, lines: Lines, instrument: AnyInstrument) -> None:
        self._lines = lines
        self._changed = asyncio.Event()
        self._tick: ev.Tick | None = None
        self._failure: ServiceError | None = None
        self._is_closed = False  # its market
        self._line: Line | None = lines.hold(instrument, self._on_news)
        self._on_news(self._line)

    def _on_news(self, line: Line) -> None:
        if line.tick is not None:
            self._tick = line.tick
        self._failure = line.failure
        self._changed.set()

    def newest(self) -> float | None:
        """Its price, if there is any yet; the last close where nothing newer comes."""
        tick = self._tick
        if tick is None:
            return None
        found = price_of(tick)
        return found if found is not None else tick.close

    async def first_price(self) -> float | ServiceError:
        """Wait for a price, or for the reason why there will be none; the caller sets the limit."""
        loop, closed_s = asyncio.get_running_loop(), None
        while True:
            if self._failure is not None and not isinstance(self._failure, NotReady):
                return self._failure
            if self._tick is not None:  # sizes or a close alone: the market may be closed
                closed_s = closed_s or loop.time() + CLOSE_S
                price = price_of(self._tick)
                if price is None and loop.time() >= closed_s:
                    price = self._tick.close
                if price is not None:
                    return price
            self._changed.clear()
            try:
                async with asyncio.timeout_at(closed_s if closed_s and loop.time() < closed_s else None):
                    await self._changed.wait()
            except TimeoutError:
                pass

    def close(self) -> None:
        """Give the line back."""
        if self._line is not None:
            self._lines.let_go(self._line, self._on_news)
            self._line = None


WIDE = 0.02  # of the price: a market wider than this says less than the last trade within it


def price_of(tick: ev.Tick) -> float | None:
    """The middle of the market; the last price where there is no middle, or where the market is wide around it."""
    mid, last = tick.mid, tick.last
    if mid is None or tick.bid is None or tick.ask is None:
        return last
    is_wide = tick.ask - tick.bid > WIDE * abs(mid)
    return last if is_wide and last is not None and tick.bid <= last <= tick.ask else mid


def _listener(seat: _Seat, changed: asyncio.Event, loop: asyncio.AbstractEventLoop) -> Callable[[Line], None]:
    def on_news(line: Line) -> None:
        tick = line.tick
        if tick is not None:
            if seat.tick is None:
                seat.first_s = loop.time()
            # After a pause a line begins with less than it had; what it had is still the better answer.
            if seat.tick is None or _lacks(tick) <= _lacks(seat.tick):
                seat.tick = tick
        seat.failure = line.failure
        changed.set()

    return on_news


def _has_greeks(tick: ev.Tick) -> bool:
    return tick.greeks is not None and tick.greeks.delta is not None and tick.greeks.implied_volatility is not None


def _has_quote(tick: ev.Tick) -> bool:
    return tick.bid is not None or tick.ask is not None or tick.last is not None


def _lacks(tick: ev.Tick) -> int:
    return (not _has_quote(tick)) + (not _has_greeks(tick))


def _is_done(seat: _Seat, wanted: ChainRequest, now_s: float) -> bool:
    """Whether nothing more is to be expected.

    Who asks for the broker's own greeks waits for them; else a quote is enough to compute them.
    """
    if seat.failure is not None and not isinstance(seat.failure, NotReady):
        return True
    tick = seat.tick
    if tick is None:
        return False
    age_s = now_s - seat.first_s
    if _has_greeks(tick) and _has_quote(tick):
        is_full = tick.bid is not None and tick.ask is not None and tick.open_interest is not None
        return is_full or age_s >= SETTLED_S
    return age_s >= HALF_S and (_has_greeks(tick) or (_has_quote(tick) and wanted.compute))


def _by_options(seats: Iterable[_Seat]) -> float | None:
    """The price of an underlying that does not say it, as TWS used it for its options' greeks."""
    for seat in seats:
        if seat.tick is not None and seat.tick.greeks is not None and seat.tick.greeks.underlying_price:
            return seat.tick.greeks.underlying_price  # 0 is TWS's word for unknown
    return None
