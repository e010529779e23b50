"""Market-data subscriptions as desired state, within the budget of lines: who wants what, and what has become of it.

A *line* is one concurrent subscription that IB allows. Two watchers share one. What is wanted survives connections;
the request id, the ticker and the first-tick deadline do not. Every interruption is told once as `Gap`, every return
as `Resumed` right before the first new tick, with an epoch that both and all ticks carry.

There are fewer lines than wishes (100, or what error 101 teaches). The more urgent wish gets one: legs of open
positions, then working orders, then chains, then watches; a less urgent one yields, with a `Gap`. Who has to wait is
told once, `SubscriptionWaiting`, and is next as soon as a line is free.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from datetime import datetime
from typing import Any

from ibkr_service.broker import codes, translate
from ibkr_service.broker.client import Sink
from ibkr_service.broker.line import ANYTHING, TAKING, Line, LineState, Rank, StreamItem
from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.errors import NotReady, ServiceError
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.mailbox import Stream

RETRY_S = 60.0  # a refused line is asked for again: permissions, farms and competing sessions come and go
FIRST_TICK_S = 15.0  # a line that stays silent this long in the session is asked for anew
LINES_MAX = 100  # what IB grants a plain account
PROVE_S = 5.0  # … or this long, after the gateway was found to forget what it was asked for
LOOK_S = 5.0  # how often who waits is compared with who has a line
TOO_MANY_LINES = 101

Taker = Callable[[AnyInstrument], Callable[[ev.Tick], None]]
"""Gives what takes the ticks of an instrument: asked once for each line, not for each tick."""


class Lines:
    """All subscriptions of the service.

    Args:
        put: takes the facts (the inbox). taker: gives what takes the ticks of an instrument; the default is `put`.
        lines_max: how many lines the account has. urgent: the instruments of open positions and of working orders.
    """

    def __init__(
        self,
        put: Callable[[ev.Event], None],
        clock: Clock,
        *,
        taker: Taker | None = None,
        lines_max: int = LINES_MAX,
        urgent: Callable[[], tuple[set[AnyInstrument], set[AnyInstrument]]] = lambda: (set(), set()),
    ) -> None:
        self.session = 0
        self.lines_max = lines_max
        self.cap = lines_max  # what the broker grants now
        self.farms_down: set[str] = set()  # those of market data that the broker says are down
        self.sinks: dict[int, Sink] = {}  # of this connection: by request, who must see every tick
        self._cap_grows_s = 0.0
        self._cap_step = 1
        self._looked_s = 0.0
        self._put = put
        self._taker: Taker = taker or (lambda _instrument: put)
        self._clock = clock
        self._urgent = urgent
        self._turns = 0
        self._lines: dict[AnyInstrument, Line] = {}
        self._by_request: dict[int, Line] = {}
        self._by_ticker: dict[int, Line] = {}  # id of a ticker that its IB keeps alive
        self._left: dict[AnyInstrument, tuple[int, bool]] = {}  # epoch and gap of lines that nobody watches now
        self._wanted = asyncio.Event()
        self._to_cancel: list[Any] = []
        self._to_forget: list[Any] = []

    def __iter__(self) -> Iterator[Line]:
        return iter(tuple(self._lines.values()))

    # --- what is wanted ----------------------------------------------------------------------------------------------

    def watch(self, instrument: AnyInstrument) -> ev.Tick | None:
        """One more watcher of an instrument; returns the newest quote if the line flows already.

        Raises:
            InvalidIntent: it is not one; told to the strategy that asks, since the session could not live with it.
        """
        line = self._line(instrument, watch=True)
        line.watchers += 1
        if line.state is not LineState.LIVE or line.tick is None or not _is_quote(line.tick):
            return None
        if line.flowing:
            return line.tick
        self._flow(line)  # until now it was only held: told as if it came in now, after the end of a gap
        self._put(line.tick)
        return None

    def unwatch(self, instrument: AnyInstrument) -> None:
        """One watcher less; the last one ends the subscription."""
        line = self._lines.get(instrument)
        if line is not None and line.watchers:
            line.watchers -= 1
            if not line.watchers:
                line.flowing = False
            self._end_unwanted(line)

    def every_tick(self, instrument: AnyInstrument, unread_max: int) -> Stream[StreamItem]:
        """A stream of every tick of an instrument; closing it is unwatching.

        Raises:
            InvalidIntent: it is no instrument.
        """

        def overflow(lost: int) -> StreamItem:
            now = self._clock.now()
            why = f"{lost} ticks were left unread for too long"
            return ev.Gap(
                at=now, session=self.session, instrument=instrument, reason=why, since=now, epoch=line.epoch, lost=lost
            )

        def ended(stream: Stream[StreamItem]) -> None:
            line.streams.remove(stream)
            line.streams_in_gap.discard(stream)
            if not line.streams:
                self.sinks.pop(line.request, None)
            self.unwatch(instrument)

        self.watch(instrument)
        line = self._lines[instrument]
        stream = Stream[StreamItem](unread_max, overflow, ended)
        line.streams.append(stream)
        if line.request >= 0:
            self._sink(line)
        return stream

    def hold(self, instrument: AnyInstrument, on_news: Callable[[Line], None]) -> Line:
        """Claim a line for somebody who waits for its data; `on_news` is called when there is some, or a failure.

        Raises:
            InvalidIntent: it is no instrument.
        """
        line = self._line(instrument, watch=False)
        line.holders.append(on_news)
        return line

    def stand_back(self, line: Line) -> None:
        """Let others have this line for a while: it goes to the end of the queue, still wanted."""
        if line.state is LineState.REQUESTED or (line.state is LineState.LIVE and not line.watchers):
            self._break_off(line, "its market-data line was left to another")
            self._to_cancel.append(self.release(line))
            line.state, line.turn = LineState.WANTED, self._next_turn()
            self._wanted.set()

    def let_go(self, line: Line, on_news: Callable[[Line], None]) -> None:
        """Give back what `hold` claimed."""
        line.holders.remove(on_news)
        self._end_unwanted(line)
        self._wanted.set()  # it is less urgent now

    def _line(self, instrument: AnyInstrument, *, watch: bool) -> Line:
        translate.contract_of(instrument)
        line = self._lines.get(instrument)
        if line is None:
            # A gap that began before stays open until ticks come; its epoch goes on counting.
            epoch, in_gap = self._left.pop(instrument, (0, False))
            line = Line(instrument, self._next_turn(), self._taker(instrument), epoch=epoch, in_gap=in_gap)
            self._lines[instrument] = line
        elif line.state is LineState.FAILED:
            line.state = LineState.WANTED  # somebody asks anew: so do we
        line.failure = None
        if watch:  # who only holds learns it by himself
            line.told_code, line.told_waiting = None, False
        self._wanted.set()
        return line

    def _end_unwanted(self, line: Line) -> None:
        if line.wanted or self._lines.get(line.instrument) is not line:
            return
        del self._lines[line.instrument]
        if line.epoch:
            self._left[line.instrument] = (line.epoch, line.in_gap)
        if line.contract is not None:
            self._to_cancel.append(line.contract)
        self._forget(line)
        self._wanted.set()

    async def changed(self) -> None:
        """Wait until something is wanted that is not so."""
        await self._wanted.wait()
        self._wanted.clear()

    def why_no_quote(self, instrument: AnyInstrument) -> str:
        """Why there is no quote of it (yet), in words that continue "no quote"."""
        line = self._lines.get(instrument)
        if line is None:
            return "nobody watches it"
        if line.failure is not None:
            return str(line.failure)
        if line.waiting:
            return f"all {self.cap} market-data lines are taken by what is no less urgent"
        return "none has come yet"

    def poke(self) -> None:
        """Let the subscriber look at all lines again."""
        self._wanted.set()

    # --- the budget --------------------------------------------------------------------------------------------------

    def to_request(self, now_s: float) -> list[Line]:
        """Lines to ask for now: silent ones again; then, while lines last, new ones and refused ones that are due.

        What has to yield for them is found in `take_cancelled`, which is to be carried out first.
        """
        hungry = [line for line in self._lines.values() if line.is_hungry(now_s)]
        chosen = self._choose(hungry, now_s) if hungry else []
        # Last: one that had to yield is not asked for again.
        silent = [line for line in self._lines.values() if line.state is LineState.REQUESTED and now_s >= line.due_s]
        for line in silent:
            if line.on_proof:
                heard = line.tick.at if line.tick is not None else None
                self._break_off(line, "the gateway forgets what it was asked for, and this one was silent, too", heard)
        return _asking(chosen + silent)

    def _choose(self, hungry: list[Line], now_s: float) -> list[Line]:
        """Which of those that want a line get one, most urgent first."""
        if self.cap < self.lines_max and now_s >= self._cap_grows_s:
            self.cap, self._cap_grows_s = min(self.lines_max, self.cap + self._cap_step), now_s + RETRY_S
            self._cap_step *= 2  # after a refusal of all, as a reconnection may bring, a hundred minutes are too long
        self._looked_s = now_s
        ranks = self._ranks()
        free = self.cap - self.taken
        chosen = []
        for line in sorted(hungry, key=lambda line: (ranks[line], line.turn)):
            if free > 0:
                free -= 1
                chosen.append(line)
            elif line.may_displace and self._make_room(line, ranks):
                chosen.append(line)
            else:
                self._wait(line)
        return chosen

    @property
    def taken(self) -> int:
        """How many lines are in use, or about to be."""
        return sum(line.state in TAKING for line in self._lines.values())

    def _ranks(self) -> dict[Line, Rank]:
        positions, orders = self._urgent()
        return {
            line: Rank.POSITION
            if line.instrument in positions
            else Rank.ORDER
            if line.instrument in orders
            else Rank.CHAIN
            if line.holders
            else Rank.WATCH
            for line in self._lines.values()
        }

    def _make_room(self, line: Line, ranks: dict[Line, Rank]) -> bool:
        """Take a line from the least urgent wish, if that is less urgent than this one."""
        yielding = [
            other
            for other in self._lines.values()
            if other.state in {LineState.REQUESTED, LineState.LIVE} and ranks[other] > ranks[line]
        ]
        if not yielding:
            return False
        victim = max(yielding, key=lambda other: (ranks[other], other.turn))
        self._break_off(victim, f"its market-data line was needed for {line.instrument}")
        self._to_cancel.append(self.release(victim))
        victim.state, victim.turn = LineState.WANTED, self._next_turn()
        self._wait(victim)
        return True

    def _wait(self, line: Line) -> None:
        """There is no line for it; its watchers are told once, until it flows again."""
        line.waiting = True
        if line.told_waiting or not line.watchers:
            return  # a holder is told by its own time limit
        line.told_waiting = True
        waiting = ev.SubscriptionWaiting(
            at=self._clock.now(), session=self.session, instrument=line.instrument, lines=self.cap
        )
        self._put(waiting)
        for stream in tuple(line.streams):
            stream.put(waiting)

    def _next_turn(self) -> int:
        self._turns += 1
        return self._turns

    # --- what became of it -------------------------------------------------------------------------------------------

    def next_due_s(self) -> float | None:
        """The loop time at which a line wants to be looked at, if any does."""
        times = [line.due_s for line in self._lines.values() if line.state is LineState.REQUESTED or line.is_resting]
        if any(line.waiting for line in self._lines.values()):
            times.append(self._looked_s + LOOK_S)  # nobody tells of positions and orders that make one urgent
            if self.cap < self.lines_max:
                times.append(self._cap_grows_s)
        return min(times, default=None)

    def take_cancelled(self) -> list[Any]:
        """Contracts whose subscription nobody wants any more."""
        taken, self._to_cancel = self._to_cancel, []
        return taken

    def take_forgotten(self) -> list[Any]:
        """Contracts of which the broker has no subscription any more, but the library does."""
        taken, self._to_forget = self._to_forget, []
        return taken

    def requested(
        self, line: Line, request: int, ticker: Any, contract: Any, now_s: float, *, releasing: int = 0
    ) -> None:
        """The broker was asked.

        Args:
            now_s: when the request leaves. releasing: how many lines the broker still has to be told to give up.
        """
        line.rivals = releasing + sum(
            other.state in {LineState.REQUESTED, LineState.LIVE} for other in self._lines.values()
        )
        line.state, line.request, line.contract, line.ticker = LineState.REQUESTED, request, contract, ticker
        line.tick, line.failure, line.rest_at = None, None, ANYTHING
        line.had.clear()
        line.on_proof = False
        line.tries += 1
        line.asked_in_gap = line.in_gap
        line.due_s = now_s + FIRST_TICK_S * line.tries
        self._by_request[request] = line
        self._by_ticker[id(ticker)] = line
        if line.streams:
            self._sink(line)
        self._wanted.set()  # its first tick is due

    def is_asking(self, line: Line, attempt: int) -> bool:
        """Whether this attempt to ask for it is the present one: not overtaken by an unwatch, or by lost data."""
        return line.wanted and line.state is LineState.ASKING and line.attempt == attempt

    def postponed(self, line: Line) -> None:
        """It could not be asked for now after all."""
        if line.state is LineState.ASKING:
            line.state = LineState.WANTED
            self._wanted.set()

    def release(self, line: Line) -> Any:
        """Forget the request of a line that is to be asked for anew; returns the contract to cancel, if any."""
        contract, line.contract = line.contract, None
        self._forget(line)
        return contract

    def refused(self, line: Line, code: int, text: str, now_s: float, error: ServiceError | None = None) -> None:
        """The line cannot be had now; its watchers are told, once for each reason, and it is tried again later.

        Error 101 means that there are fewer lines than we thought: it waits for one.
        """
        if code == TOO_MANY_LINES:
            self._learn_cap(line, now_s)
            return
        line.state, line.due_s, line.waiting = LineState.FAILED, now_s + RETRY_S, False
        line.failure = error or translate.refusal(code, text, line.instrument)
        self._break_off(line, f"{text} (code {code})")
        if code != codes.COMPETING_SESSION:  # that one may come back to life by itself; of others nothing is left
            contract = self.release(line)
            if contract is not None:
                self._to_forget.append(contract)
        if line.told_code != code and line.watchers:
            line.told_code = code
            failed = ev.SubscriptionFailed(
                at=self._clock.now(), session=self.session, instrument=line.instrument, code=code, text=text
            )
            self._put(failed)
            for stream in tuple(line.streams):
                stream.put(failed)
        self._notify(line)
        self._wanted.set()  # its line is free for another

    def _learn_cap(self, line: Line, now_s: float) -> None:
        self._break_off(line, "all market-data lines are taken (code 101)")
        contract = self.release(line)
        if contract is not None:
            self._to_forget.append(contract)
        line.state = LineState.WANTED
        # 0 if other clients of the login have them all.
        flowing = sum(other.state is LineState.LIVE for other in self._lines.values())
        self.cap = max(min(self.cap, line.rivals), flowing)
        self._cap_grows_s, self._cap_step = now_s + RETRY_S, 1
        self._wanted.set()

    def failed(self, request: int, code: int, text: str) -> None:
        """The broker refuses the subscription that has this request id, if there is one, or has none to cancel."""
        line = self._by_request.get(request)
        if line is not None:
            self.refused(line, code, text, asyncio.get_running_loop().time())
        elif code == codes.NO_SUCH_REQUEST:
            self._unknown(request, asyncio.get_running_loop().time())

    def _unknown(self, request: int, now_s: float) -> None:
        """The gateway has no subscription of this request id.

        If it is one that flowed, fell silent and was given up, the gateway forgets without a word. No other shows that:
        what has told nothing since then must prove itself, soon, even where silence would be no wonder.
        """
        since_s = next((line.given_up_s for line in self._lines.values() if line.given_up == request), None)
        if since_s is None:
            return
        for line in self._lines.values():
            if line.state is LineState.LIVE and (line.tick is None or line.tick.mono_s < since_s):
                line.state, line.due_s, line.tries, line.on_proof = LineState.REQUESTED, now_s + PROVE_S, 1, True
        self._wanted.set()

    def arrived(self, tickers: set[Any], now: datetime, now_s: float, others: int = ANYTHING) -> None:
        """Ticks came in: one `Tick` per subscribed ticker, in the order of the requests.

        Args:
            others: a number that is another one whenever tickers may have changed in more than bid, ask, last and
            volume.
        """
        if len(tickers) == 1:
            (ticker,) = tickers
            line = self._by_ticker.get(id(ticker))
            if line is not None:
                self._arrived(line, ticker, now, now_s, others)
            return
        found = [(line, ticker) for ticker in tickers if (line := self._by_ticker.get(id(ticker)))]
        found.sort(key=_by_request)
        for line, ticker in found:
            self._arrived(line, ticker, now, now_s, others)

    def _arrived(self, line: Line, ticker: Any, now: datetime, now_s: float, others: int) -> None:
        if others != line.rest_at or others == ANYTHING:
            line.rest, line.rest_at = translate.rest(line.instrument, ticker), others
        tick = line.tick = translate.tick(now, self.session, line.instrument, ticker, line.epoch, now_s, line.rest)
        # Sizes or a close alone are not yet a quote.
        if tick.bid is not None or tick.ask is not None or tick.last is not None:
            if line.state is not LineState.LIVE or line.had:
                self._prove(line, tick, now_s)
            if line.watchers:
                if not line.flowing:
                    self._flow(line)
                line.take(tick)
        if line.holders:
            self._notify(line)

    def _prove(self, line: Line, tick: ev.Tick, now_s: float) -> None:
        """It is LIVE if all prices that were there before a gap have come again; if not, they are asked for anew soon.

        TWS tells only what changes, so that a price may stay away though it is valid.
        """
        line.waiting = line.on_proof = False
        line.had = {name for name in line.had if getattr(tick, name) is None}
        if not line.had:
            line.state, line.tries = LineState.LIVE, 0
        elif line.state is not LineState.REQUESTED:
            line.state, line.due_s, line.tries = LineState.REQUESTED, now_s + FIRST_TICK_S, 1
            self._wanted.set()

    def _flow(self, line: Line) -> None:
        """From here on its ticks are told; first of all, that a gap is over."""
        line.flowing, line.told_code, line.told_waiting = True, None, False
        if line.in_gap:
            line.in_gap = False
            self._put(self._resumed(line))

    def _resumed(self, line: Line) -> ev.Resumed:
        now = self._clock.now()
        return ev.Resumed(
            at=now,
            session=self.session,
            instrument=line.instrument,
            until=now,
            epoch=line.epoch,
            resubscribed=line.asked_in_gap,
        )

    def _sink(self, line: Line) -> None:
        """Let the streams of a line see every tick of its request."""
        session, instrument = self.session, line.instrument
        names, unset = translate.TICK_FIELDS, translate.UNSET_FROM

        def push(at: datetime, mono_s: float, tick_type: int, price: float, size: float) -> None:
            line.pushed = True
            if line.streams_in_gap:
                for stream in line.streams:
                    if stream in line.streams_in_gap:
                        stream.put(self._resumed(line))
                line.streams_in_gap.clear()
            if 0 < price < unset and size >= 0 and tick_type in names:  # nearly always; a call less for each tick
                tick = ev.RawTick(at, session, instrument, names[tick_type], price, size, line.epoch, mono_s)
            else:
                tick = translate.raw_tick(at, session, instrument, tick_type, price, size, line.epoch, mono_s)
            for stream in line.streams:
                stream.put(tick)

        self.sinks[line.request] = push

    def _notify(self, line: Line) -> None:
        for on_news in tuple(line.holders):
            on_news(line)

    # --- interruptions -----------------------------------------------------------------------------------------------

    def interrupt(self, reason: str, since: datetime | None = None) -> None:
        """No stream can be trusted from now on, or since then: `Gap` on each that was told to flow."""
        for line in tuple(self._lines.values()):
            self._break_off(line, reason, since)
            if line.holders:
                line.failure = NotReady(reason)
                self._notify(line)

    def doubt(self, line: Line, reason: str, since: datetime) -> None:
        """A line is not to be trusted from then on, until it ticks."""
        if self._lines.get(line.instrument) is line:
            self._break_off(line, reason, since)

    def ask_anew(self, line: Line, reason: str, since: datetime) -> None:
        """Give a line's subscription up for dead and request it again, at once; its watchers are told of the gap."""
        if self._lines.get(line.instrument) is not line or line.state not in {LineState.REQUESTED, LineState.LIVE}:
            return  # nobody wants it any more, it is about to be requested, or it was refused
        if line.state is LineState.LIVE:
            line.given_up, line.given_up_s = line.request, asyncio.get_running_loop().time()
        self._break_off(line, reason, since)
        self._to_cancel.append(self.release(line))
        line.state = LineState.WANTED  # its turn stays: it has not used what it had
        self._wanted.set()

    def farm_down(self, farm: str) -> None:
        """A market-data farm is down: what it sends is not to be trusted until it ticks again."""
        self.farms_down.add(farm)
        for line in tuple(self._lines.values()):
            if codes.may_come_from(farm, line.instrument):
                self._break_off(line, f"market data farm {farm} is down")

    def farm_up(self, farm: str, now_s: float) -> None:
        """The farm is back. Streams go on by themselves; one that does not is asked for anew."""
        self.farms_down.discard(farm)
        for line in self._lines.values():
            is_silent = line.state is LineState.REQUESTED or (line.state is LineState.LIVE and line.tick is None)
            if is_silent and codes.may_come_from(farm, line.instrument):
                line.state, line.due_s, line.tries = LineState.REQUESTED, now_s + FIRST_TICK_S, 1
        self._wanted.set()

    def _break_off(self, line: Line, reason: str, since: datetime | None = None) -> None:
        line.distrust()
        is_told, was_pushed = line.flowing, line.pushed
        line.pushed = False
        if is_told:
            line.flowing, line.in_gap, line.asked_in_gap = False, True, False
            line.epoch += 1
        elif not was_pushed:
            return
        now = self._clock.now()
        gap = ev.Gap(
            at=now,
            session=self.session,
            instrument=line.instrument,
            reason=reason,
            since=since or now,
            epoch=line.epoch,
        )
        if is_told:  # else only who sees every tick has seen any
            self._put(gap)
        for stream in tuple(line.streams):
            stream.put(gap)
        line.streams_in_gap.update(line.streams)

    def reset(self) -> None:
        """The requests of a dead connection mean nothing any more; all that is wanted is wanted again."""
        self.farms_down.clear()
        self._to_cancel.clear()
        self._to_forget.clear()
        for line in self._lines.values():
            line.contract = None
        self.data_lost()

    def data_lost(self) -> None:
        """1101: the broker has dropped the subscriptions. All that is wanted is wanted again.

        What flowed is only to be forgotten; a request that the gateway may not have passed on yet is cancelled.
        """
        self._by_request.clear()
        self._by_ticker.clear()
        self.sinks.clear()
        for line in self._lines.values():
            if line.contract is not None:
                (self._to_forget if line.state is LineState.LIVE else self._to_cancel).append(line.contract)
            line.state, line.contract, line.request, line.tries = LineState.WANTED, None, -1, 0
            line.ticker = line.tick = line.failure = None
            line.waiting, line.on_proof, line.given_up = False, False, None
            line.had.clear()
        self._wanted.set()

    def data_kept(self, now_s: float, within_s: float) -> None:
        """1102: the broker says that the streams go on. Each must prove it, or it is asked for anew."""
        for line in self._lines.values():
            line.failure = None
            if line.state in {LineState.LIVE, LineState.REQUESTED}:
                line.state, line.due_s, line.tries = LineState.REQUESTED, now_s + within_s, 1
            elif line.state is LineState.FAILED:
                line.due_s = now_s  # the cut may have been why
        self._wanted.set()

    def _forget(self, line: Line) -> None:
        if self._by_request.get(line.request) is line:
            del self._by_request[line.request]
            self.sinks.pop(line.request, None)
        if line.ticker is not None and self._by_ticker.get(id(line.ticker)) is line:
            del self._by_ticker[id(line.ticker)]
        line.ticker, line.tick, line.request = None, None, -1
        line.had.clear()


def _by_request(found: tuple[Line, Any]) -> int:
    return found[0].request


def _is_quote(tick: ev.Tick) -> bool:
    return tick.bid is not None or tick.ask is not None or tick.last is not None


def _asking(lines: list[Line]) -> list[Line]:
    for line in lines:
        line.state, line.waiting = LineState.ASKING, False
        line.attempt += 1
    return lines
