"""Subscriptions to bars: each bar once, in order, and only whole ones, over all interruptions.

Bars that were missed are fetched from history before the stream goes on: `Gap`, `Resumed(backfilled=n)`, those n bars,
then the newer ones. If they cannot be had, a second `Gap` says so before the `Resumed`.

Data also stops without a word (a farm that is down and does not say so, a quiet market looks the same). So a hole
between two bars, and a bar of which nothing was heard near its end, are looked up in history before they are believed.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Awaitable, Callable
from datetime import date, datetime, timedelta
from typing import Any

import structlog

from ibkr_service.broker import datawire
from ibkr_service.broker.feeds import Feed, Spawn, Want
from ibkr_service.broker.historybudget import Toll
from ibkr_service.clock import Clock
from ibkr_service.core.bars import Bar, BarSize, moment
from ibkr_service.core.errors import GatewayError, RequestError

log = structlog.get_logger("ibkr_service.broker")

WHOLE_AFTER_S = 10.0  # TWS tells the last of a bar a few seconds late
QUIET = timedelta(seconds=15)  # a bar around whose end nothing was heard for so long may lack its end
HOLE_MAX_S = 3_600  # real-time bars missing for longer are looked up only if a farm was down: at night there are none
HOLE_MIN_S = 60  # holes of bars kept up to date that are shorter are not worth a request that counts
BACKFILL_S = {5: 12 * 3_600}  # by bar size: a longer gap is filled at its end only, or the budget would be gone
LONG_BACKFILL = timedelta(days=30)


class BarFeed(Feed):
    """Five-second bars in real time.

    Args:
        fetch: the bars of a range, from history.
    """

    def __init__(
        self,
        want: Want,
        size: BarSize,
        *,
        clock: Clock,
        spawn: Spawn,
        poke: Callable[[], None],
        fetch: Callable[[Want, BarSize, datetime, datetime], Awaitable[list[Bar]]],
    ) -> None:
        super().__init__(want, clock=clock, spawn=spawn, poke=poke)
        self.size = size
        self.latest: datetime | date | None = None  # told or looked up, or of before our time
        self.covered = self._clock.now()  # where the next bar should begin
        self.doubtful = False  # a farm was down
        self._farm_is_down = False
        self._fetch = fetch
        self._filling: asyncio.Task[None] | None = None
        self._held: deque[tuple[Bar, bool]] = deque()  # bars that wait for older ones; whether they are surely right

    def send(self, client: Any, request: int, contract: Any) -> None:
        """Request it."""
        client.reqRealTimeBars(request, contract, self.size.seconds, self.want.what, self.want.regular_hours, [])

    def stop(self, client: Any, request: int) -> None:
        """Cancel it."""
        client.cancelRealTimeBars(request)

    def toll(self) -> Toll:
        """Sixty new requests in ten minutes, in a budget of their own."""
        return Toll(str(self))

    def bar(self, bar: Bar) -> None:
        """A whole bar."""
        self.alive()
        self.live_from(bar.at)
        self.whole(bar)

    def farms(self, *, any_down: bool) -> None:
        """While one is down, and once afterwards, bars may be missing or wrong, and are looked up."""
        self._farm_is_down = any_down
        self.doubtful = self.doubtful or any_down

    def drop(self) -> None:
        """Forget what was under way; it is fetched when the stream goes on."""
        if self._filling is not None:
            self._filling.cancel()
        self._filling = None
        self._held.clear()

    def live_from(self, at: datetime | date) -> None:
        """The stream goes on, or begins, with the bar of this beginning."""
        if self.latest is None:
            self.latest, self.covered = just_before(at), moment(at)
            self.flow()
        elif self.in_gap and self._filling is None:
            self._filling = self._spawn(self._fill(at))

    def whole(self, bar: Bar, *, sure: bool = True) -> None:
        """A bar that will not change any more; told when the older ones are.

        Args:
            sure: False if its end may be missing.
        """
        self._held.append((bar, sure))
        self._tell_held()

    def is_hole(self, missing_s: float) -> bool:
        """Whether bars that are missing for so long are to be looked up: there is one for every five seconds."""
        return missing_s > 0 and (self.doubtful or missing_s < HOLE_MAX_S)

    def _tell_held(self) -> None:
        while self._held and self._filling is None:
            bar, sure = self._held[0]
            assert self.latest is not None, "the stream has begun"
            if bar.at > self.latest:
                if self.in_gap or self.is_hole((moment(bar.at) - self.covered).total_seconds()):
                    self._filling = self._spawn(self._fill(bar.at))
                    return
                if not sure:
                    self._held.popleft()
                    self._filling = self._spawn(self._fill(self._end(bar), instead_of=bar))
                    return
            self._held.popleft()
            self.doubtful = self._farm_is_down
            self._deliver(bar)

    def _end(self, bar: Bar) -> datetime | date:
        return bar.at + timedelta(seconds=self.size.seconds)

    def _deliver(self, bar: Bar) -> None:
        if self.latest is None or bar.at > self.latest:
            self.latest, self.covered = bar.at, moment(self._end(bar))
            self.flow()
            self.tell(bar)

    async def _fill(self, until: datetime | date, instead_of: Bar | None = None) -> None:
        """Fetch and deliver what is missing before a moment; then those that came meanwhile.

        Args:
            instead_of: a bar that may be wrong, told only if history does not have it.
        """
        assert self.latest is not None, "the stream has begun"
        since, latest = moment(self.latest), self.latest
        start, end = since, moment(until)
        longest = timedelta(seconds=BACKFILL_S.get(self.size.seconds, LONG_BACKFILL.total_seconds()))
        if end - start > longest:
            start = end - longest
            self._tell_loss(f"only the last {longest} of so long a gap are fetched", since)
        missed: list[Bar] = []
        try:
            if end > start:
                missed = [b for b in await self._fetch(self.want, self.size, start, end) if latest < b.at < until]
        except (RequestError, GatewayError) as exc:
            log.warning("missed bars cannot be fetched", stream=str(self), error=str(exc))
            self._tell_loss(f"missed bars cannot be fetched: {exc}", since)
        # From here on without an await: nothing may come in between.
        self._filling = None
        late = [bar for bar in missed if instead_of is None or bar.at != instead_of.at]
        if late and not self.in_gap:
            self._tell_loss("bars did not come", since)
        self.flow(backfilled=len(late))
        for bar in missed if instead_of is None else [*missed, instead_of]:
            self._deliver(bar)
        # What history does not have is not looked up again.
        self.latest, self.covered = max(self.latest, just_before(until)), max(self.covered, moment(until))
        self.doubtful = self._farm_is_down
        self._tell_held()

    def _tell_loss(self, reason: str, since: datetime) -> None:
        self.in_gap = True
        self.tell_gap(reason, since)


class KeptBarFeed(BarFeed):
    """Bars of any size, kept up to date by TWS; each is told when it is whole.

    It is whole when the next one begins, or some seconds after its time. Those of a day are looked up then.
    """

    proves_itself = False  # what a bar missed during a cut, TWS does not make up for

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._growing: Bar | None = None
        self._heard = self._clock.now()  # when something was last heard of it
        self._past: Bar | None = None
        self._is_current = False  # the answer that it begins with is here
        self._timer: asyncio.TimerHandle | None = None

    def send(self, client: Any, request: int, contract: Any) -> None:
        """Request it, with as little of the past as possible."""
        self._past, self._is_current = None, False
        seconds = max(2 * self.size.seconds, 120)
        duration = f"{min(seconds, 86_400)} S" if self.size.is_intraday else "1 W"
        what, regular, form = self.want.what, self.want.regular_hours, datawire.EPOCH_SECONDS
        client.reqHistoricalData(request, contract, "", duration, self.size.name, what, regular, form, True, [])

    def stop(self, client: Any, request: int) -> None:
        """Cancel it."""
        client.cancelHistoricalData(request)

    def past(self, bar: Bar) -> None:
        """Of the past only the bar counts that is growing now; what was missed is fetched."""
        self._past = bar

    def past_end(self) -> None:
        """It is current from now on."""
        self._is_current = True
        self.alive()
        bar = self._past
        if bar is None:
            return
        if self.latest is None and self._was_whole(bar):
            # Of before our time: the market is closed, or the next bar has no trade yet.
            self.latest, self.covered = bar.at, moment(self._end(bar))
            self.flow()
        else:
            self.bar(bar)

    def bar(self, bar: Bar) -> None:
        """The newest bar, as it stands now."""
        if not self._is_current:
            return  # of a stream that was broken off
        self.alive()
        growing = self._growing
        if growing is not None and bar.at < growing.at:
            return
        if growing is None or bar.at > growing.at:
            self._ended(quiet=self._clock.now() - self._heard > QUIET)
            self.live_from(bar.at)
        self._growing, self._heard = bar, self._clock.now()
        self._end_in_time(bar)

    def drop(self) -> None:
        """Nothing more is believed until it is requested anew."""
        super().drop()
        self._growing, self._is_current = None, False
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def is_hole(self, missing_s: float) -> bool:
        """Where nothing was traded there is no bar either: looked up always, unless that costs too much."""
        return missing_s > 0 and (self.doubtful or missing_s >= HOLE_MIN_S)

    def _ended(self, *, quiet: bool = True) -> None:
        """The growing bar is whole: tell it, if that was not done in time.

        Args:
            quiet: nothing was heard around its end, so that it may lack its end.
        """
        bar = self._growing
        if bar is None or self.latest is None or bar.at <= self.latest:
            return
        costs_too_much = self.size.seconds < HOLE_MIN_S
        sure = not self.doubtful and (costs_too_much or not quiet)
        self.whole(bar, sure=self.size.is_intraday and sure)

    def _was_whole(self, bar: Bar) -> bool:
        now, end = self._clock.now(), self._end(bar)
        return end <= now if isinstance(end, datetime) else end <= now.date()

    def _end_in_time(self, bar: Bar) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if isinstance(bar.at, datetime) and self.latest is not None and bar.at > self.latest:
            late = bar.at + timedelta(seconds=self.size.seconds + WHOLE_AFTER_S) - self._clock.now()
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(0.0, late.total_seconds()), self._ended)


def just_before(at: datetime | date) -> datetime | date:
    """A moment or day that no bar in question begins at or after."""
    return at - timedelta(seconds=1) if isinstance(at, datetime) else at - timedelta(days=1)
