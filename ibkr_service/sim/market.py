"""The market in motion: who watches what, and one timer for all, from one change of any quote to the next.

Nothing moves that nobody watches. Clients' subscriptions and working orders watch alike. Changes are told in the order
of their time, whatever they are changes of; those of one instant in the order in which they were expected.

A market that tells changes less often tells those of all instruments together, once an interval, as IB does with the
ticks that it has gathered: one wake-up, and one write per client.
"""

import heapq
import itertools
import math
from collections.abc import Callable, Hashable

from ibkr_service.sim.clock import GatewayClock, Timer
from ibkr_service.sim.contracts import Instrument
from ibkr_service.sim.pricing import Prices
from ibkr_service.sim.quotes import Quote

CHANGES_PER_WAKE_MAX = 200
"""A loop that is far behind skips the changes of an instrument beyond this many, as IB conflates ticks."""

CHANGES_PER_TURN_MAX = 400
"""After so many changes of all instruments the loop gets a turn for its sockets."""

_JUST_S = 1e-6


class Watch:
    """Somebody's interest in an instrument; `close` ends it."""

    __slots__ = ("_feed", "on_quote")

    def __init__(self, feed: "_Feed", on_quote: Callable[[Quote], None]) -> None:
        self._feed = feed
        self.on_quote = on_quote

    def close(self) -> None:
        """Stop being told; at once, even for a change that is just being delivered."""
        self._feed.watches.pop(self, None)
        self._feed.rest()


class _Feed:
    """The changes of one instrument's quote, while somebody watches."""

    def __init__(self, market: "Market", instrument: Instrument) -> None:
        self.market = market
        self.instrument = instrument
        self.watches: dict[Watch, None] = {}
        self.seen_s = market.clock.seconds()
        self.told_s = -math.inf
        self.late = 0
        self.is_waiting = False
        self.is_delivering = False

    def wake(self) -> None:
        """Wait for the next change, if somebody watches and nobody waits."""
        if self.watches and not self.is_waiting and not self.is_delivering:
            self._await_change(self.seen_s)

    def rest(self) -> None:
        """Stop waiting, and be forgotten, when nobody watches any more."""
        if not self.watches:
            self.market.forget(self)

    def deliver(self, change_s: float, now_s: float) -> None:
        """Tell one change, and wait for the next."""
        self.is_waiting = False
        self.is_delivering = True
        self.seen_s = change_s
        is_new = False
        try:
            quote = self.market.prices.quote(self.instrument, change_s)
            if quote is not None and (quote.at != self.told_s or not self.market.interval_s):
                is_new = True
                self.told_s = quote.at
                for watch in list(self.watches):
                    if watch in self.watches:
                        watch.on_quote(quote)
        finally:
            self.is_delivering = False
            if self.watches:
                self._go_on(self._seen(now_s), is_lively=is_new)

    def _seen(self, now_s: float) -> float:
        """From when on the next change is wanted: too many late ones in a row are skipped."""
        self.late = self.late + 1 if self.seen_s < now_s else 0
        if self.late >= CHANGES_PER_WAKE_MAX:
            self.late = 0
            self.seen_s = max(self.seen_s, now_s)
        return self.seen_s

    def _go_on(self, after_s: float, *, is_lively: bool) -> None:
        """Wait for the next change; what has just changed is looked at again when changes are told next."""
        if is_lively and self.market.interval_s:
            self._expect(self.market.gathered_s(after_s, after_s))
        else:
            self._await_change(after_s)

    def _await_change(self, after_s: float) -> None:
        change_s = self.market.prices.next_change(self.instrument, after_s)
        if change_s is not None:
            self._expect(self.market.gathered_s(change_s, after_s) if self.market.interval_s else change_s)

    def _expect(self, due_s: float) -> None:
        self.is_waiting = True
        self.market.expect(self, due_s)


class Market:
    """Quotes, now and as they change.

    Args:
        clock: gateway time.
        prices: what holds when.
        interval_s: how often changes are told, those of all instruments together; 0 tells every one in its time.
    """

    def __init__(self, clock: GatewayClock, prices: Prices, interval_s: float = 0.0) -> None:
        self.clock = clock
        self.prices = prices
        self.interval_s = interval_s
        self._feeds: dict[Hashable, _Feed] = {}
        self._expected: list[tuple[float, int, _Feed]] = []
        self._numbers = itertools.count()
        self._timer: Timer | None = None
        self._timer_s = 0.0
        self._is_turning = False

    def __repr__(self) -> str:
        return f"<Market [{len(self._feeds)} instruments watched]>"

    def quote(self, instrument: Instrument) -> Quote | None:
        """The quote that holds now: never older than the last one that a watcher was told."""
        feed = self._feeds.get(instrument.key)
        at_s = self.clock.seconds()
        if feed is not None:
            # All who look while a change is being delivered see that change, not one that comes after it.
            at_s = feed.seen_s if feed.is_delivering else max(at_s, feed.seen_s)
        return self.prices.quote(instrument, at_s)

    def watch(self, instrument: Instrument, on_quote: Callable[[Quote], None]) -> Watch:
        """Be told of every change of the quote, until the watch is closed."""
        feed = self._feeds.get(instrument.key)
        if feed is None:
            feed = self._feeds[instrument.key] = _Feed(self, instrument)
        watch = Watch(feed, on_quote)
        feed.watches[watch] = None
        feed.wake()
        return watch

    # What the feeds ask for.

    def expect(self, feed: _Feed, change_s: float) -> None:
        """Have a feed deliver its next change when it is time."""
        heapq.heappush(self._expected, (change_s, next(self._numbers), feed))
        if not self._is_turning:
            self._set_timer()

    def gathered_s(self, change_s: float, after_s: float) -> float:
        """When a change is told by a market that gathers them, later than what was told before."""
        return math.ceil((max(change_s, after_s + _JUST_S) - _JUST_S / 2) / self.interval_s) * self.interval_s

    def forget(self, feed: _Feed) -> None:
        """Drop a feed that nobody watches; with the last one the timer goes."""
        if self._feeds.get(feed.instrument.key) is feed:
            del self._feeds[feed.instrument.key]
        if not self._feeds:
            self._expected.clear()
            self._stop_timer()

    def _turn(self) -> None:
        """Tell the changes that are due, earliest first; the first one even when its timer came a trifle early."""
        self._timer = None
        self._is_turning = True
        now_s = max(self.clock.seconds(), self._timer_s)
        try:
            for _ in range(CHANGES_PER_TURN_MAX):
                if not self._expected or self._expected[0][0] > now_s:
                    break
                change_s, _, feed = heapq.heappop(self._expected)
                if feed.watches:
                    feed.deliver(change_s, now_s)
        finally:
            self._is_turning = False
            self._set_timer()

    def _set_timer(self) -> None:
        if not self._expected:
            return
        due_s = self._expected[0][0]
        if self._timer is not None and self._timer_s <= due_s:
            return
        self._stop_timer()
        self._timer_s = due_s
        self._timer = self.clock.call_at(due_s, self._turn)

    def _stop_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
