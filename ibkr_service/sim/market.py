"""The market in motion: who watches what, and a timer per watched instrument, from one change of its quote to the next.

Nothing moves that nobody watches. Clients' subscriptions and working orders watch alike.
"""

from collections.abc import Callable, Hashable

from ibkr_service.sim.clock import GatewayClock, Timer
from ibkr_service.sim.contracts import Instrument
from ibkr_service.sim.pricing import Prices
from ibkr_service.sim.quotes import Quote

CHANGES_PER_WAKE_MAX = 200
"""A loop that is far behind skips the changes beyond this many, as IB conflates ticks."""


class Watch:
    """Somebody's interest in an instrument; `close` ends it."""

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
        self._due_s = self.seen_s
        self._timer: Timer | None = None
        self.is_delivering = False

    def wake(self) -> None:
        """Wait for the next change, if somebody watches and nobody waits."""
        if self.watches and self._timer is None and not self.is_delivering:
            change_s = self.market.prices.next_change(self.instrument, self.seen_s)
            if change_s is not None:
                self._due_s = change_s
                self._timer = self.market.clock.call_at(change_s, self._deliver)

    def rest(self) -> None:
        """Stop waiting, and be forgotten, when nobody watches any more."""
        if self.watches:
            return
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self.market.forget(self)

    def _deliver(self) -> None:
        self._timer = None
        self.is_delivering = True
        try:
            self._deliver_until(self.market.clock.seconds())
        finally:
            self.is_delivering = False
            self.wake()

    def _deliver_until(self, now_s: float) -> None:
        """Tell every change up to now; the first one even when its timer came a trifle early."""
        change_s: float | None = self._due_s
        for turn in range(CHANGES_PER_WAKE_MAX):
            if change_s is None or not self.watches or (turn and change_s > now_s):
                return
            self.seen_s = change_s
            quote = self.market.prices.quote(self.instrument, change_s)
            for watch in list(self.watches):
                if quote is not None and watch in self.watches:
                    watch.on_quote(quote)
            change_s = self.market.prices.next_change(self.instrument, change_s)
        self.seen_s = max(self.seen_s, now_s)


class Market:
    """Quotes, now and as they change."""

    def __init__(self, clock: GatewayClock, prices: Prices) -> None:
        self.clock = clock
        self.prices = prices
        self._feeds: dict[Hashable, _Feed] = {}

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

    def forget(self, feed: _Feed) -> None:
        """Drop a feed that nobody watches."""
        if self._feeds.get(feed.instrument.key) is feed:
            del self._feeds[feed.instrument.key]
