"""How old the data of each stream is, and which of them is silent that should not be.

Looked at from time to time, never per tick: a line has the time of its newest tick, a feed counts what came; each has
a `Pulse` of its own, which outlives connections. Silent is only what is expected to speak:

- its market is in its regular session, by the contract's own hours, or else by a calendar; where neither is known, only
  shortly after trouble with the line, and then no more is concluded than that a probe is due;
- the broker has not said why it is silent (refused, a competing session, the farm is down, trading is halted);
- it is subscribed, and not waiting for a free line.

A night, a weekend, a holiday and the afternoon of a half day are no outage.
"""

from __future__ import annotations

import asyncio
import enum
import math
from collections.abc import Awaitable, Callable, Hashable, Iterable, Iterator
from datetime import datetime, timedelta

import structlog

from ibkr_service.broker import codes
from ibkr_service.broker.feeds import Feed, FeedState
from ibkr_service.broker.line import Line, LineState
from ibkr_service.broker.lines import Lines
from ibkr_service.broker.streams import Streams
from ibkr_service.broker.tradinghours import UsCalendar, has_calendar
from ibkr_service.clock import Clock
from ibkr_service.core.errors import GatewayError, RequestError
from ibkr_service.core.hours import Hours
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.ladder import Scene, Silent
from ibkr_service.core.pulse import SIBLINGS, Pulse

log = structlog.get_logger("ibkr_service.broker")

ASK_AGAIN_S = 3600.0
TROUBLE_S = 300.0  # so long after READY, or after a farm came back, a stream of unknown hours is asked after
Stream = Line | Feed


class Sight(enum.Enum):
    """What is to be seen of a stream that may be expected to speak."""

    TOLD = "it has told something since the last look"
    QUIET = "it has not"
    UNSURE = "it has not, and nobody knows whether it trades"


class DataAge:
    """Watches the streams.

    Args:
        hours: when an instrument trades, as far as the broker has told. learn: asks it. limit_s: how long a lively
        stream may be silent.
    """

    def __init__(
        self,
        lines: Lines,
        streams: Streams,
        *,
        clock: Clock,
        hours: Callable[[AnyInstrument], Hours | None],
        learn: Callable[[AnyInstrument], Awaitable[None]],
        limit_s: float,
    ) -> None:
        self._lines = lines
        self._streams = streams
        self._clock = clock
        self._told_hours = hours
        self._learn = learn
        self._limit_s = limit_s
        self._pulses: dict[Stream, Pulse] = {}
        self._looked_at = clock.now()
        self._groups: dict[Stream, str] = {}  # what each breaks off together with
        self._open_now: dict[int, bool | None] = {}  # of hours, by identity: those of many are one object
        self._heard_at: dict[Stream, datetime] = {}  # until when each can be trusted
        self._unknown: list[AnyInstrument] = []  # whose hours would have to be known
        self._asked_s: dict[AnyInstrument, float] = {}  # when these were asked for
        self._calendar: UsCalendar | None = None

    def __iter__(self) -> Iterator[Stream]:
        yield from self._lines
        yield from self._streams

    def look(self, now_s: float, *, trouble_s: float, is_climbing: bool) -> Scene:
        """Take all pulses, and say who is silent.

        Args:
            trouble_s: how long ago the line was last in trouble. is_climbing: something is being done about silence:
            that one stream of a farm has come back does not excuse the others.
        """
        pulses, self._pulses = self._pulses, {}
        self._unknown.clear()
        self._open_now.clear()
        found = [
            (stream, self._look_at(stream, pulses.get(stream) or Pulse(None, now_s), now_s, trouble_s))
            for stream in self
        ]
        self._looked_at = self._clock.now()
        self._heard_at = {stream: at for stream, at in self._heard_at.items() if stream in self._pulses}
        self._groups = {stream: self._groups.get(stream) or _group(stream) for stream, _ in found}
        groups = self._groups
        living = {groups[stream] for stream, sight in found if sight and self._pulses[stream].is_living(now_s)}
        silent: list[tuple[float, Silent]] = []
        for stream, sight in found:
            pulse = self._pulses[stream]
            limit_s = pulse.limit_s(self._limit_s)
            if sight not in {Sight.QUIET, Sight.UNSURE} or limit_s is None:
                continue
            has_pace = pulse.has_pace(self._limit_s)
            if has_pace and groups[stream] in living and not is_climbing:
                limit_s *= SIBLINGS
            age_s = pulse.age_s(now_s)
            if age_s >= limit_s or pulse.asked:
                one = Silent(
                    stream,
                    _name(stream),
                    groups[stream],
                    age_s,
                    is_expected=sight is Sight.QUIET,
                    was_asked=pulse.asked,
                    has_pace=has_pace,
                )
                silent.append((pulse.usual_s, one))
        silent.sort(key=lambda one: one[0])
        return Scene(
            silent=tuple(one for _, one in silent),
            living=frozenset(living),
            is_unproven=any(self._pulses[stream].proof for stream, sight in found if sight and self._has_pace(stream)),
            is_announced=bool(self._lines.farms_down),
        )

    def _look_at(self, stream: Stream, pulse: Pulse, now_s: float, trouble_s: float) -> Sight | None:
        """Take one pulse; what is to be seen of it, None if it rests."""
        self._pulses[stream] = pulse
        mark, instrument, now = _mark(stream), _instrument(stream), self._clock.now()
        is_judged = pulse.has_pace(self._limit_s) or pulse.age_s(now_s) >= self._limit_s
        is_open = self._is_open_now(instrument, now) if is_judged else True
        if is_open is None:
            self._unknown.append(instrument)
        if _is_excused(stream) or is_open is False or self._is_announced(instrument):
            pulse.rest(mark, now_s)
            return None
        if pulse.take(mark, now_s):
            self._heard_at[stream] = stream.tick.at if isinstance(stream, Line) and stream.tick else self._looked_at
            return Sight.TOLD
        if is_open is None and trouble_s > TROUBLE_S:
            pulse.rest(mark, now_s)
            return None
        return Sight.UNSURE if is_open is None else Sight.QUIET

    def _has_pace(self, stream: Stream) -> bool:
        return self._pulses[stream].has_pace(self._limit_s)

    def wait(self, now_s: float) -> None:
        """The link is not READY: nothing is to be expected, and nothing learned."""
        for pulse in self._pulses.values():
            pulse.wait(now_s)

    def excuse(self, seconds: float) -> None:
        """For so long our own loop could not listen."""
        for pulse in self._pulses.values():
            pulse.excuse(seconds)

    def asked(self, silents: Iterable[Silent]) -> None:
        """These are about to be requested again with everything else."""
        for silent in silents:
            if (pulse := self._pulse(silent)) is not None:
                pulse.ask()

    def _pulse(self, silent: Silent) -> Pulse | None:
        return self._pulses.get(silent.key) if isinstance(silent.key, Line | Feed) else None

    def ask_anew(self, silent: Silent, reason: str) -> None:
        """Have a silent stream requested again."""
        pulse, stream = self._pulse(silent), silent.key
        if pulse is None:
            return  # nobody wants it any more
        pulse.ask()
        if isinstance(stream, Line):
            self._lines.ask_anew(stream, reason, self._since(stream, silent))
        elif isinstance(stream, Feed):
            self._streams.ask_anew(stream, reason, self._since(stream, silent))

    def doubt(self, silent: Silent, reason: str) -> None:
        """Tell who reads a stream that it is not to be trusted; whatever it still says by itself is the end of that."""
        stream = silent.key
        if isinstance(stream, Line):
            self._lines.doubt(stream, reason, self._since(stream, silent))
        elif isinstance(stream, Feed) and stream.proves_itself:
            stream.break_off(reason, self._since(stream, silent))

    def _since(self, stream: Stream, silent: Silent) -> datetime:
        """From when on nothing of it can be trusted."""
        return self._heard_at.get(stream) or self._clock.now() - timedelta(seconds=silent.age_s)

    # --- when it trades ----------------------------------------------------------------------------------------------

    def to_ask_hours(self, now_s: float) -> AnyInstrument | None:
        """An instrument whose hours are not known and were not asked for of late; None: there is none."""
        for instrument in self._unknown:
            if now_s - self._asked_s.get(instrument, -math.inf) >= ASK_AGAIN_S:
                self._asked_s[instrument] = now_s
                return instrument
        return None

    async def learn_hours(self, instrument: AnyInstrument) -> None:
        """Ask the broker when an instrument trades; if it does not say, get a calendar that may know."""
        try:
            await self._learn(instrument)
        except (RequestError, GatewayError) as exc:
            log.info("trading hours are not known", instrument=str(instrument), error=str(exc))
        if self._calendar is None and self._is_open(instrument, self._clock.now()) is None and has_calendar(instrument):
            # A second of work: not in the loop.
            loop = asyncio.get_running_loop()
            self._calendar = await loop.run_in_executor(None, UsCalendar, self._clock.now())
            log.warning(
                "no trading hours from the broker: the exchange's calendar stands in", instrument=str(instrument)
            )

    def _is_open(self, instrument: AnyInstrument, now: datetime) -> bool | None:
        """Whether it is in its regular session; None: nobody knows."""
        hours = self._told_hours(instrument)
        if (hours is None or not hours.covers(now)) and self._calendar is not None:
            hours = self._calendar.hours(instrument, now)
        return None if hours is None else hours.is_open(now, outside_rth=False)

    def _is_open_now(self, instrument: AnyInstrument, now: datetime) -> bool | None:
        """The same, for the many of one look."""
        hours = self._told_hours(instrument)
        if hours is None or not hours.covers(now):
            return self._is_open(instrument, now)
        if id(hours) not in self._open_now:
            self._open_now[id(hours)] = self._is_open(instrument, now)
        return self._open_now[id(hours)]

    def _is_announced(self, instrument: AnyInstrument) -> bool:
        return any(codes.may_come_from(farm, instrument) for farm in self._lines.farms_down)


def _mark(stream: Stream) -> Hashable:
    """What changes when the stream has told something."""
    if isinstance(stream, Feed):
        return stream.heard or None
    return None if stream.tick is None else stream.tick.mono_s


def _instrument(stream: Stream) -> AnyInstrument:
    return stream.want.instrument if isinstance(stream, Feed) else stream.instrument


def _group(stream: Stream) -> str:
    return codes.feed_group(_instrument(stream))


def _name(stream: Stream) -> str:
    return str(stream if isinstance(stream, Feed) else stream.instrument)


def _is_excused(stream: Stream) -> bool:
    """Whether there is a reason for its silence that has been told."""
    if isinstance(stream, Feed):
        return stream.state is FeedState.FAILED
    if stream.state is LineState.FAILED or stream.waiting:
        return True
    return stream.tick is not None and stream.tick.halted
