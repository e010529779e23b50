"""How often we may ask for history: whoever asks waits here for a turn, in the order in which they came.

IB's limits (https://interactivebrokers.github.io/tws-api/historical_limitations.html), the answer to a breach being
error 162 "pacing violation":

- 60 requests in any ten minutes, those for BID_ASK count twice;
- not the same request twice within 15 seconds;
- not six requests for the same contract, exchange and kind of data within two seconds;
- 50 requests open at a time.

The first three are hard for bars of 30 seconds or less and for ticks. For longer bars IB says to have lifted them and
slows such clients down instead; so only the last one holds for these here. Our windows are a little longer than IB's,
which counts when a request arrives, not when it leaves.

The limits are of the login's client, not of the connection: this outlives reconnects.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import structlog

log = structlog.get_logger("ibkr_service.broker")

REQUESTS_MAX, WINDOW_S = 60, 600.0
IDENTICAL_S = 15.0
SIMILAR_MAX, SIMILAR_S = 5, 2.0
OPEN_MAX = 50
MARGIN_S = 0.5  # a request may travel this much faster than the one before it
PACED_BAR_MAX_S = 30
LONG_WAIT_S = 5.0  # waits longer than this are worth a line in the log


@dataclass(frozen=True)
class Toll:
    """What a request costs.

    Args:
        what: a name for messages. identity: all of the request in words; empty if it may be repeated at once.
        subject: contract, exchange and kind of data; empty if there may be many.
        weight: how many requests it counts for; 0 if it is only counted while it is open.
    """

    what: str
    identity: str = ""
    subject: str = ""
    weight: int = 1


@dataclass(frozen=True)
class Waiting:
    """Who waits for a turn, for how long already, and for how long still at least, in seconds."""

    what: str
    waited_s: float
    left_s: float


@dataclass(eq=False, slots=True)
class Sent:
    """A request that counts: when it left, or is about to."""

    at_s: float
    toll: Toll


@dataclass(eq=False)
class Ticket:
    """A turn, had or awaited."""

    toll: Toll
    asked_s: float
    turn: asyncio.Future[None] = field(repr=False)
    is_open: bool = False
    sent: Sent | None = None  # what counts of it


class HistoryBudget:
    """Turns to ask for history, first come, first served.

    One that waits for its own contract only lets others pass; one that waits for the ten minutes lets nobody pass who
    needs them too, or requests that count twice would wait for ever.
    """

    def __init__(
        self,
        *,
        requests_max: int = REQUESTS_MAX,
        identical_s: float = IDENTICAL_S,
        open_max: int = OPEN_MAX,
    ) -> None:
        self.requests_max = requests_max
        self.identical_s = identical_s
        self.open_max = open_max
        self.opened = 0  # requests that are open now
        self._sent: deque[Sent] = deque()
        self._queue: list[Ticket] = []
        self._silent_until_s = 0.0
        self._timer: asyncio.TimerHandle | None = None

    @property
    def waiting(self) -> list[Waiting]:
        """Who waits now, first come first."""
        now_s = _now_s()
        return [Waiting(t.toll.what, now_s - t.asked_s, max(0.0, self._free_s(t.toll) - now_s)) for t in self._queue]

    @property
    def used(self) -> int:
        """How many requests count within these ten minutes."""
        self._forget()
        return sum(sent.toll.weight for sent in self._sent)

    @asynccontextmanager
    async def turn(self, toll: Toll) -> AsyncIterator[Ticket]:
        """Wait for a turn; the request counts as open until the block is left."""
        ticket = await self.enter(toll)
        try:
            yield ticket
        finally:
            self.leave(ticket)

    async def enter(self, toll: Toll) -> Ticket:
        """Wait for a turn. The request counts as open until `leave`."""
        ticket = Ticket(toll, _now_s(), asyncio.get_running_loop().create_future())
        self._queue.append(ticket)
        self._admit()
        if not ticket.is_open:
            wait_s = self._free_s(toll) - _now_s()
            if wait_s > LONG_WAIT_S:
                log.info("a request for history has to wait", what=toll.what, wait_s=round(wait_s, 1))
        try:
            await ticket.turn
        except asyncio.CancelledError:
            if ticket in self._queue:
                self._queue.remove(ticket)
            self.leave(ticket)
            raise
        return ticket

    def leave(self, ticket: Ticket) -> None:
        """The request is no longer open. Leaving twice is leaving once."""
        if ticket.is_open:
            ticket.is_open = False
            self.opened -= 1
        self._admit()

    def leaves(self, ticket: Ticket, in_s: float) -> None:
        """The request is on its way, but waits for so long behind others: IB counts it from when it comes."""
        if ticket.sent is not None:
            ticket.sent.at_s = max(ticket.sent.at_s, _now_s() + in_s)

    def back_off(self, seconds: float) -> None:
        """The broker says that we ask too often: no request that counts gets a turn for so long."""
        self._silent_until_s = max(self._silent_until_s, _now_s() + seconds)

    def _admit(self) -> None:
        """Give turns to those whose time has come; wake up for the next one."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        now_s, window_is_closed, next_s = _now_s(), False, float("inf")
        for ticket in tuple(self._queue):
            if ticket.turn.done():
                self._queue.remove(ticket)  # cancelled, and about to learn of it
                continue
            if self.opened >= self.open_max:
                break  # whoever leaves calls again
            if ticket.toll.weight and window_is_closed:
                continue
            free_s = self._free_s(ticket.toll)
            if free_s > now_s:
                next_s = min(next_s, free_s)
                window_is_closed = window_is_closed or self._window_free_s(ticket.toll) > now_s
                continue
            self._queue.remove(ticket)
            ticket.is_open = True
            self.opened += 1
            if ticket.toll.weight:
                ticket.sent = Sent(now_s, ticket.toll)
                self._sent.append(ticket.sent)
            ticket.turn.set_result(None)
        if next_s < float("inf"):
            self._timer = asyncio.get_running_loop().call_at(next_s, self._admit)

    def _free_s(self, toll: Toll) -> float:
        """The loop time from which on a request is within the limits, if nobody else asks before."""
        self._forget()
        if not toll.weight:
            return 0.0
        times = [self._window_free_s(toll)]
        alike = [sent for sent in self._sent if toll.identity == sent.toll.identity != ""]
        times += [sent.at_s + self.identical_s + MARGIN_S for sent in alike]
        similar = sorted(sent.at_s for sent in self._sent if toll.subject == sent.toll.subject != "")
        if len(similar) >= SIMILAR_MAX:
            times.append(similar[-SIMILAR_MAX] + SIMILAR_S + MARGIN_S)
        return max(times)

    def _window_free_s(self, toll: Toll) -> float:
        used = sum(sent.toll.weight for sent in self._sent)
        free_s = self._silent_until_s
        for sent in self._sent:
            if used + toll.weight <= self.requests_max:
                break
            used -= sent.toll.weight
            free_s = max(free_s, sent.at_s + WINDOW_S + MARGIN_S)
        return free_s

    def _forget(self) -> None:
        now_s = _now_s()
        while self._sent and now_s >= self._sent[0].at_s + WINDOW_S + MARGIN_S:
            self._sent.popleft()


def _now_s() -> float:
    return asyncio.get_running_loop().time()
