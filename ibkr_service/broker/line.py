"""One market-data subscription: what is wanted of it, and what has become of it."""

from __future__ import annotations

import enum
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from ibkr_service.broker.translate import Rest
from ibkr_service.core import events as ev
from ibkr_service.core.errors import RequestTimeout, ServiceError
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.mailbox import Stream

PRICES = ("bid", "ask", "last")  # what makes a quote
StreamItem = ev.RawTick | ev.Gap | ev.Resumed | ev.SubscriptionFailed | ev.SubscriptionWaiting


class LineState(enum.Enum):
    """What has become of a subscription on this connection."""

    WANTED = "WANTED"  # not requested yet
    ASKING = "ASKING"  # about to be requested: the contract is being looked up
    REQUESTED = "REQUESTED"  # requested; no tick yet
    LIVE = "LIVE"
    FAILED = "FAILED"  # the broker refuses; asked again later


ANYTHING = -1  # in place of a number of changes: anything may have changed
TAKING = frozenset({LineState.ASKING, LineState.REQUESTED, LineState.LIVE})  # states that use up a line


class Rank(enum.IntEnum):
    """Who gets a line first: the lower the sooner."""

    POSITION = 0  # a leg of an open position
    ORDER = 1  # the instrument of a working order
    CHAIN = 2  # a quote or a chain that somebody is waiting for
    WATCH = 3  # a stream


@dataclass(eq=False, slots=True)
class Line:
    """One subscription."""

    instrument: AnyInstrument
    turn: int  # the lower the longer it has waited
    take: Callable[[ev.Tick], None]  # takes its ticks for those who watch
    watchers: int = 0
    holders: list[Callable[[Line], None]] = field(default_factory=list)
    streams: list[Stream[StreamItem]] = field(default_factory=list)
    state: LineState = LineState.WANTED
    epoch: int = 0
    in_gap: bool = False
    asked_in_gap: bool = False  # anew, since the gap began
    flowing: bool = False  # ticks were told since the last gap
    pushed: bool = False  # something was told to the streams since the last gap, be it sizes alone
    streams_in_gap: set[Stream[StreamItem]] = field(default_factory=set)  # who was told of the gap
    had: set[str] = field(default_factory=set)  # prices from before a gap that have not come again
    told_code: int | None = None  # the refusal that its watchers know of
    waiting: bool = False  # for a line: all are taken
    told_waiting: bool = False
    failure: ServiceError | None = None  # why there is no data, for those who wait for it
    request: int = -1
    contract: Any = None
    ticker: Any = None
    tick: ev.Tick | None = None  # the newest, be it a quote or not
    rest: Rest | None = None  # what the ticker has besides the quote
    rest_at: int = ANYTHING  # the number of changes at which that was read
    due_s: float = 0.0  # loop time at which to look at it again
    tries: int = 0  # requests on this connection without a tick
    rivals: int = 0  # lines that the broker served, or was asked for, when it was asked for this one
    given_up: int | None = None  # its request that flowed, then told nothing more and was cancelled; when
    given_up_s: float = 0.0
    on_proof: bool = False  # the gateway forgot another: silence until `due_s` means that it forgot this one, too
    attempt: int = 0  # tells an answer to the present asking from a late one

    @property
    def wanted(self) -> bool:
        """Whether anybody still wants it."""
        return bool(self.watchers or self.holders)

    def distrust(self) -> None:
        """Prices from before a gap are no quote after it.

        The library keeps them in its ticker; of the chunk of bytes that told the gap, too.
        """
        tick, self.tick = self.tick, None
        if self.ticker is None:
            return
        if tick is not None:
            self.had |= {name for name in PRICES if getattr(tick, name) is not None}
        for name in PRICES:
            setattr(self.ticker, name, math.nan)
            setattr(self.ticker, f"{name}Size", math.nan)

    def is_hungry(self, now_s: float) -> bool:
        """Whether it is to be asked for as soon as there is room."""
        return self.state is LineState.WANTED or (self.state is LineState.FAILED and now_s >= self.due_s)

    @property
    def is_resting(self) -> bool:
        """Whether it was refused, and its time to be asked for again is not here yet."""
        return self.state is LineState.FAILED and not self.waiting

    @property
    def may_displace(self) -> bool:
        """Whether others may have to yield for it: not for what the broker has refused, and may refuse every minute."""
        return self.state is LineState.WANTED or isinstance(self.failure, RequestTimeout)
