"""Market-data subscriptions as desired state: who wants what, and what has become of it on this connection.

A *line* is one concurrent subscription that IB allows. Two watchers share one. What is wanted survives connections;
the request id, the ticker and the first-tick deadline do not. Every interruption is told once as `Gap`, every return
as `Resumed` right before the first new tick, with an epoch that both and all ticks carry.
"""

from __future__ import annotations

import asyncio
import enum
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Any

from ibkr_service.broker import translate
from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.instrument import AnyInstrument

RETRY_S = 60.0  # a refused line is asked for again: permissions, farms and competing sessions come and go
FIRST_TICK_S = 15.0  # a line that stays silent this long in the session is asked for anew


class LineState(enum.Enum):
    """What has become of a subscription on this connection."""

    WANTED = "WANTED"  # not requested yet
    REQUESTED = "REQUESTED"  # requested; no tick yet
    LIVE = "LIVE"
    FAILED = "FAILED"  # the broker refuses; asked again later


@dataclass(eq=False)
class Line:
    """One subscription."""

    instrument: AnyInstrument
    watchers: int = 0
    state: LineState = LineState.WANTED
    epoch: int = 0
    in_gap: bool = False
    flowing: bool = False  # ticks were told since the last gap
    told_code: int | None = None  # the refusal that its watchers know of
    request: int = -1
    contract: Any = None
    due_s: float = 0.0  # loop time at which to look at it again
    tries: int = 0  # requests on this connection without a tick


class Lines:
    """All subscriptions of the service.

    Args:
        put: takes the facts (the inbox).
    """

    def __init__(self, put: Callable[[ev.Event], None], clock: Clock) -> None:
        self.session = 0
        self._put = put
        self._clock = clock
        self._lines: dict[AnyInstrument, Line] = {}
        self._by_request: dict[int, Line] = {}
        self._by_ticker: dict[int, Line] = {}  # id of a ticker that its IB keeps alive
        self._left: dict[AnyInstrument, tuple[int, bool]] = {}  # epoch and gap of lines that nobody watches now
        self._wanted = asyncio.Event()
        self._to_cancel: list[Any] = []

    def __iter__(self) -> Iterator[Line]:
        return iter(tuple(self._lines.values()))

    # --- what is wanted ----------------------------------------------------------------------------------------------

    def watch(self, instrument: AnyInstrument) -> None:
        """One more watcher of an instrument.

        Raises:
            InvalidIntent: it is not one; told to the strategy that asks, since the session could not live with it.
        """
        translate.contract_of(instrument)
        line = self._lines.get(instrument)
        if line is None:
            # A gap that began before stays open until ticks come; its epoch goes on counting.
            epoch, in_gap = self._left.pop(instrument, (0, False))
            line = self._lines[instrument] = Line(instrument, epoch=epoch, in_gap=in_gap)
        line.watchers += 1
        line.told_code = None
        self._wanted.set()

    def unwatch(self, instrument: AnyInstrument) -> None:
        """One watcher less; the last one ends the subscription."""
        line = self._lines.get(instrument)
        if line is None:
            return
        line.watchers -= 1
        if line.watchers <= 0:
            del self._lines[instrument]
            if line.epoch:
                self._left[instrument] = (line.epoch, line.in_gap)
            if line.contract is not None:
                self._to_cancel.append(line.contract)
            self._forget(line)
            self._wanted.set()

    async def changed(self) -> None:
        """Wait until something is wanted that is not so."""
        await self._wanted.wait()
        self._wanted.clear()

    def poke(self) -> None:
        """Let the subscriber look at all lines again."""
        self._wanted.set()

    # --- what became of it -------------------------------------------------------------------------------------------

    def to_request(self, now_s: float) -> list[Line]:
        """Lines to ask for now: new ones, refused ones whose time has come, silent ones."""
        due = []
        for line in self._lines.values():
            waiting = line.state in {LineState.REQUESTED, LineState.FAILED} and now_s >= line.due_s
            if line.state is LineState.WANTED or waiting:
                due.append(line)
        return due

    def next_due_s(self) -> float | None:
        """The loop time at which a line wants to be looked at, if any does."""
        times = [line.due_s for line in self._lines.values() if line.state in {LineState.REQUESTED, LineState.FAILED}]
        return min(times, default=None)

    def take_cancelled(self) -> list[Any]:
        """Contracts whose subscription nobody wants any more."""
        taken, self._to_cancel = self._to_cancel, []
        return taken

    def requested(self, line: Line, request: int, ticker: Any, contract: Any, now_s: float) -> None:
        """The broker was asked."""
        line.state, line.request, line.contract = LineState.REQUESTED, request, contract
        line.tries += 1
        line.due_s = now_s + FIRST_TICK_S * line.tries
        self._by_request[request] = line
        self._by_ticker[id(ticker)] = line

    def release(self, line: Line) -> Any:
        """Forget the request of a line that is to be asked for anew; returns the contract to cancel, if any."""
        contract, line.contract = line.contract, None
        self._forget(line)
        line.state = LineState.WANTED
        return contract

    def refused(self, line: Line, code: int, text: str, now_s: float) -> None:
        """The line cannot be had now; its watchers are told, once for each reason, and it is tried again later."""
        line.state, line.due_s = LineState.FAILED, now_s + RETRY_S
        self._break_off(line, f"{text} (code {code})")
        if line.told_code != code:
            line.told_code = code
            self._put(
                ev.SubscriptionFailed(
                    at=self._clock.now(), session=self.session, instrument=line.instrument, code=code, text=text
                )
            )

    def failed(self, request: int, code: int, text: str) -> None:
        """The broker refuses the subscription that has this request id, if there is one."""
        line = self._by_request.get(request)
        if line is not None:
            self.refused(line, code, text, asyncio.get_running_loop().time())

    def arrived(self, tickers: Iterable[Any]) -> None:
        """Ticks came in: one `Tick` per subscribed ticker, in the order of the requests."""
        now, now_s = self._clock.now(), asyncio.get_running_loop().time()
        touched = [(line.request, line, ticker) for ticker in tickers if (line := self._by_ticker.get(id(ticker)))]
        for _, line, ticker in sorted(touched, key=lambda item: item[0]):
            tick = translate.tick(now, self.session, line.instrument, ticker, line.epoch, now_s)
            if tick.bid is None and tick.ask is None and tick.last is None:
                continue  # sizes or a close alone are not yet a quote
            line.state, line.tries = LineState.LIVE, 0
            line.flowing, line.told_code = True, None
            if line.in_gap:
                line.in_gap = False
                self._put(
                    ev.Resumed(at=now, session=self.session, instrument=line.instrument, until=now, epoch=line.epoch)
                )
            self._put(tick)

    # --- interruptions -----------------------------------------------------------------------------------------------

    def interrupt(self, reason: str) -> None:
        """No stream can be trusted from now on: `Gap` on each that was told to flow."""
        for line in self._lines.values():
            self._break_off(line, reason)

    def _break_off(self, line: Line, reason: str) -> None:
        if not line.flowing:
            return
        line.flowing, line.in_gap = False, True
        line.epoch += 1
        now = self._clock.now()
        self._put(
            ev.Gap(at=now, session=self.session, instrument=line.instrument, reason=reason, since=now, epoch=line.epoch)
        )

    def reset(self) -> None:
        """The requests of a dead connection mean nothing any more; all that is wanted is wanted again."""
        self._by_request.clear()
        self._by_ticker.clear()
        self._to_cancel.clear()
        for line in self._lines.values():
            line.state, line.contract, line.request, line.tries = LineState.WANTED, None, -1, 0
        self._wanted.set()

    def data_kept(self, now_s: float, within_s: float) -> None:
        """1102: the broker says that the streams go on. Each must prove it, or it is asked for anew."""
        for line in self._lines.values():
            if line.state is LineState.LIVE:
                line.state, line.due_s, line.tries = LineState.REQUESTED, now_s + within_s, 1
        self._wanted.set()

    def _forget(self, line: Line) -> None:
        if self._by_request.get(line.request) is line:
            del self._by_request[line.request]
        for key in [key for key, owner in self._by_ticker.items() if owner is line]:
            del self._by_ticker[key]
