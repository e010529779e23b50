"""How fast we may talk: every outbound message of a connection passes here, ib_insync's own included.

TWS drops a client that sends more than 50 messages in a second, as *it* counts them (error 100). The library's
throttle lets two bursts of 45 meet in one second and is a single queue, so a cancel can wait behind hundreds of
requests; it is switched off, and this stands at `client.sendMsg` in its place.

Two limits: `rate_per_s` messages in any second, and an even gap between everything that is not about orders. A part
of the rate is reserved for orders: a quarter, or the room of one bracket while what flowed before an outage is asked
for again (`restore`), since until then hardly an order can be priced. A cancel goes first; an order is sent at once or
refused (`Paced`), never queued: a price that waited is a different wish. A heartbeat takes the next free place, before
further orders: a line that is busy with orders must not be taken for dead. The rest waits in order of urgency.
"""

from __future__ import annotations

import asyncio
import heapq
from collections import deque
from collections.abc import Callable

from ibkr_service.core.errors import Paced

WINDOW_S = 1.0
WAKE_MARGIN_S = 0.001  # a timer may fire a hair early; waking late costs a millisecond, waking early a busy loop
RATE_MIN_PER_S = 5
BURST = 10  # a fresh connection may ask this many things at once
RESTORING_SHARE = 3  # an entry and its two exits
RESTORES_WITHIN = 2.0  # times what the rate allows

CANCEL, ORDER, HEARTBEAT, REQUEST, RELEASE, HISTORY, ACCOUNT = range(7)
MARKET_DATA, CANCEL_MARKET_DATA = "1\0", "2\0"
# First field of a message -> urgency; all others are REQUEST.
_URGENCY = {
    "3": ORDER,  # placeOrder
    "4": CANCEL,  # cancelOrder
    "58": CANCEL,  # reqGlobalCancel
    "71": HEARTBEAT,  # startApi
    "49": HEARTBEAT,  # reqCurrentTime
    "20": HISTORY,  # reqHistoricalData
    "87": HISTORY,  # reqHeadTimeStamp
    "96": HISTORY,  # reqHistoricalTicks
    # What accounts are worth: a subscription for each position, and nobody waits. Their cancels must not overtake them.
    **dict.fromkeys(("76", "77"), ACCOUNT),  # reqAccountUpdatesMulti
    **dict.fromkeys(("92", "93"), ACCOUNT),  # reqPnL
    **dict.fromkeys(("94", "95"), ACCOUNT),  # reqPnLSingle
}


class Pacer:
    """Sends messages no faster than TWS bears.

    Args:
        transmit: puts one message on the socket.
        rate_per_s: messages in any second; TWS drops a client above 50.
        order_share: how many of them only orders and cancels may use.
    """

    def __init__(self, transmit: Callable[[str], None], rate_per_s: int, order_share: int | None = None) -> None:
        self.rate_per_s = rate_per_s
        self.order_share = max(1, rate_per_s // 4) if order_share is None else order_share
        self._transmit = transmit
        self._loop = asyncio.get_running_loop()
        self._sent: deque[float] = deque()
        self._queue: list[tuple[int, int, str]] = []
        self._count = 0
        self._credit = float(BURST)
        self._credit_at = self._loop.time()
        self._timer: asyncio.TimerHandle | None = None
        self._silent_until_s = 0.0
        self._to_restore = 0  # so many of the next requests for market data bring back what flowed before an outage
        self._restored_s = 0.0  # loop time by which that is over
        self._closed = False

    def __len__(self) -> int:
        return len(self._queue)

    @property
    def _ordinary_rate(self) -> int:
        is_restoring = self._to_restore and self._loop.time() < self._restored_s
        share = min(self.order_share, RESTORING_SHARE) if is_restoring else self.order_share
        return max(1, self.rate_per_s - share)

    def restore(self, count: int) -> None:
        """So many of the next requests for market data bring back what flowed before an outage.

        Until they have left, less is kept for orders; not for longer than they take, should some be given up meanwhile.
        """
        if not count:
            return
        self._to_restore = max(self._to_restore, count)
        self._restored_s = self._loop.time() + RESTORES_WITHIN * (len(self._queue) + count) / self.rate_per_s

    def back_off(self) -> None:
        """TWS says that we talk too fast (error 100): silence for a second, then a fifth slower.

        After repeats it hangs up.
        """
        self.rate_per_s = max(RATE_MIN_PER_S, self.rate_per_s * 4 // 5)
        self.order_share = min(self.order_share, max(1, self.rate_per_s // 4))
        self._silent_until_s = self._loop.time() + WINDOW_S

    def room_for_orders(self) -> int:
        """How many orders could leave right now. None while a cancel or a heartbeat waits: those go first."""
        return self._room(self._loop.time())

    def _room(self, now_s: float) -> int:
        if (self._queue and self._queue[0][0] <= HEARTBEAT) or now_s < self._silent_until_s:
            return 0
        return self.rate_per_s - self._in_window(now_s)

    def send(self, message: str) -> None:
        """Send now or as soon as the limits allow.

        Raises:
            Paced: an order, and there is no room now. It was not queued. ConnectionError: an order, after `close`.
        """
        urgency = _URGENCY.get(message.partition("\0")[0], REQUEST)
        if urgency == ORDER:
            self.send_order(message)
            return
        if self._closed:
            return
        self._count += 1
        heapq.heappush(self._queue, (urgency, self._count, message))
        self._drain()

    def send_order(self, message: str) -> None:
        """Send an order, now or not at all.

        Raises:
            Paced, ConnectionError: as `send`.
        """
        if self._closed:
            raise ConnectionError("Not connected")  # the library's words
        now_s = self._loop.time()
        if self._room(now_s) < 1:
            raise Paced(f"{self.rate_per_s} messages have left within the last second; try again")
        self._sent.append(now_s)
        self._transmit(message)

    @property
    def wait_s(self) -> float:
        """How long what is sent now will about wait until it leaves, in seconds."""
        return len(self._queue) / self._ordinary_rate

    @property
    def releases(self) -> int:
        """How many market-data lines are given up in words that have not left yet."""
        return sum(_is_release(item) for item in self._queue)

    def defer_releases(self, but: int) -> None:
        """Let what gives up a market-data line wait behind what asks for something, all but the oldest `but` of them.

        Nobody waits for it, unless lines are short; then so many have to leave before the next request for one.
        """
        hurried = {number for _, number, _ in heapq.nsmallest(but, filter(_is_release, self._queue), key=_number)}
        self._queue = [
            (REQUEST if item[1] in hurried else RELEASE, *item[1:]) if _is_release(item) else item
            for item in self._queue
        ]
        heapq.heapify(self._queue)

    def close(self) -> None:
        """Drop what waits; send nothing more."""
        self._closed = True
        self._queue.clear()
        if self._timer is not None:
            self._timer.cancel()

    def _drain(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        while self._queue:
            wait_s = self._wait_s(self._queue[0][0])
            if wait_s > 0:
                self._timer = self._loop.call_later(wait_s + WAKE_MARGIN_S, self._drain)
                return
            urgency, _, message = heapq.heappop(self._queue)
            if urgency > HEARTBEAT:
                self._credit -= 1
                self._to_restore -= self._to_restore > 0 and message.startswith(MARKET_DATA)
            self._put_on_wire(message)

    def _wait_s(self, urgency: int) -> float:
        """How long a message of this urgency has to wait, in seconds."""
        now = self._loop.time()
        if now < self._silent_until_s:
            return self._silent_until_s - now
        used = self._in_window(now)
        limit = self.rate_per_s if urgency <= HEARTBEAT else self._ordinary_rate
        if used >= limit:
            free_s = self._sent[used - limit] + WINDOW_S
            if urgency > HEARTBEAT:
                self._credit, self._credit_at = 1.0, free_s  # waiting for room earns one place, no second burst
            return free_s - now
        if urgency <= HEARTBEAT:
            return 0.0
        self._credit = min(BURST, self._credit + max(0.0, now - self._credit_at) * self._ordinary_rate)
        self._credit_at = now
        return 0.0 if self._credit >= 1 else (1 - self._credit) / self._ordinary_rate

    def _in_window(self, now_s: float) -> int:
        sent = self._sent
        while sent and now_s >= sent[0] + WINDOW_S:
            sent.popleft()
        return len(sent)

    def _put_on_wire(self, message: str) -> None:
        self._sent.append(self._loop.time())
        self._transmit(message)


def _is_release(item: tuple[int, int, str]) -> bool:
    return item[2].startswith(CANCEL_MARKET_DATA)


def _number(item: tuple[int, int, str]) -> int:
    return item[1]
