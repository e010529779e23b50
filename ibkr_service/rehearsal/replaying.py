"""A recorded session, lived again: the same bytes at the same moments into the whole service, in virtual time.

The service is built as it was: settings, seed, wall clock, the journal and the book it found. The gateway is the
recording (`script.py`). What the service sends and puts on record is held against what it sent and put on record then.
"""

from __future__ import annotations

import asyncio
import functools
import hashlib
import io
import random
import re
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import closing, suppress
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec

from ibkr_service import log
from ibkr_service.app import App, AppConfig
from ibkr_service.broker.login import SessionConfig
from ibkr_service.control import Request
from ibkr_service.core import events as ev
from ibkr_service.core.errors import RecordingUnusable, ServiceError
from ibkr_service.core.limits import Limits
from ibkr_service.core.recording import Header, Kind, Record, Recording, read
from ibkr_service.desk import Desk
from ibkr_service.journal import export, open_readonly
from ibkr_service.operations import Operations
from ibkr_service.rehearsal.lineup import Difference
from ibkr_service.rehearsal.script import Script, ScriptedNetwork
from ibkr_service.rehearsal.timeline import Entry, Timeline
from ibkr_service.rehearsal.wiretap import Line, TappedLoop
from ibkr_service.startstate import restore
from ibkr_service.supervisor import Strategy, StrategySpec, load

SHIPPED = "ibkr_service.strategies."  # of what a recording names, only this is loaded: a file is not to run code
CUT = "the recording ends here"
AFTERWARDS_S = 60.0  # what an orderly end may take
_MOMENT = re.compile(rb'"\d{4}-\d\d-\d\dT[^"]*"')
_encode = msgspec.json.Encoder(order="sorted").encode
_fact = msgspec.json.Decoder(ev.Event)


@dataclass(frozen=True)
class Replayed:
    """What a replay came to.

    Attributes:
        timeline: gateway, wire, service and strategies, in seconds since the service was built. journal: canonical
        lines, from what the recorded session found in its journal on. differences: of what left, in order.
        first_fact: the first fact that is another one, empty if none is; of its moment nothing is said.
        facts, messages: how many were the same, how many left. off_s: the most that a fact's moment is off.
        notes: what one should know of the recording and this replay.
    """

    header: Header
    timeline: tuple[Entry, ...]
    journal: tuple[str, ...]
    differences: tuple[Difference, ...]
    first_fact: str
    facts: int
    messages: int
    moved: int
    mapped: int
    off_s: float
    seconds: float
    notes: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Whether the service did again what it did then."""
        return not self.differences and not self.first_fact

    @property
    def exact(self) -> bool:
        """Whether it did so in the same order and at the same moments, to the microsecond."""
        return self.same and not self.moved and not self.off_s

    @property
    def digest(self) -> str:
        """Of the journal's canonical lines."""
        return hashlib.sha256("\n".join(self.journal).encode()).hexdigest()

    @property
    def verdict(self) -> str:
        """One line."""
        if not self.same:
            count = len(self.differences)
            what = [f"{count} messages" if count != 1 else "1 message"] if count else []
            what += ["facts"] if self.first_fact else []
            return f"DIFFERS: {' and '.join(what)}"
        off = "" if self.exact else f", moments off by {self.off_s * 1000:.1f} ms at most"
        return f"the same: {self.messages} messages, {self.facts} facts{off}"


def replay(
    path: Path | str,
    strategy: Strategy | None = None,
    *,
    name: str = "own",
    params: Mapping[str, Any] | None = None,
    strategies: Sequence[StrategySpec] = (),
) -> Replayed:
    """Live through a recorded session again, on a loop of its own; for users' tests, too.

    Args:
        path: of the recording. strategy: one that takes part, under this name and with these parameters; the name is
        part of its orders' references, so it should be the recorded one. strategies: any number of them, instead.
        Without either, those of the recording that come with the service take part.

    Raises:
        RecordingUnusable: it cannot be read, or was made by another version of the format.
        RuntimeError: an event loop is running here.
    """
    if strategy is not None:
        strategies = [StrategySpec(name, strategy, dict(params or {}))]
    return relive(load_recording(path), strategies)


def load_recording(path: Path | str) -> Recording:
    """Read a recording.

    Raises:
        RecordingUnusable: there is none, or none that can be used.
    """
    try:
        data = Path(path).read_bytes()
    except OSError as exc:
        raise RecordingUnusable(f"cannot read {path}: {exc.strerror or exc}") from exc
    return read(data, str(path))


def relive(recording: Recording, strategies: Sequence[StrategySpec] = ()) -> Replayed:
    """As `replay`, of a recording that was read.

    Raises:
        RecordingUnusable: its settings mean nothing to this version. RuntimeError: an event loop is running here.
    """
    if asyncio._get_running_loop() is not None:  # noqa: SLF001 - the public way to ask is an exception
        raise RuntimeError("a replay has an event loop of its own: call it from a plain function")
    start_s = recording.header.built_s
    with tempfile.TemporaryDirectory(prefix="replay-") as folder:
        log.configure("error", "json", stream=io.StringIO())
        with asyncio.Runner(loop_factory=lambda: TappedLoop(start_s=start_s)) as runner:
            asyncio.set_event_loop(runner.get_loop())  # ib_insync asks for the current loop, not for the running one
            try:
                return runner.run(_Replay(recording, strategies, Path(folder)).live())
            finally:
                asyncio.set_event_loop(None)


class _Clock:
    """The recorded wall clock: it shows what it showed at the same place, and goes with the loop elsewhere."""

    def __init__(self, loop: asyncio.AbstractEventLoop, script: Script, header: Header) -> None:
        self._loop = loop
        self._script = script
        self._started_at, self._built_s = header.started_at, round(header.built_s, 6)
        self._ahead = timedelta(0)  # of the loop, when somebody looked last

    def now(self) -> datetime:
        """The recorded time, to the microsecond."""
        by_loop = self._started_at - timedelta(seconds=self._built_s) + timedelta(seconds=round(self._loop.time(), 6))
        read_s = self._script.read()
        if read_s is None:
            return by_loop + self._ahead
        shown = self._started_at + timedelta(seconds=read_s)
        self._ahead = shown - by_loop
        return shown


class _Wire:
    """Notes what passes the socket; a `wiretap.Listener`."""

    def __init__(self, timeline: Timeline) -> None:
        self._timeline = timeline
        self._placed: set[str] = set()

    def opened(self, line: Line) -> None:
        """The service has a new connection."""
        self._timeline.wire(f"connection {line.number} opened")

    def placing(self, line: Line, order_id: int, ref: str, fields: list[str]) -> None:
        """A new or changed order leaves."""
        del line, fields
        self._timeline.wire(f"{ref} leaves as order {order_id}{' again' if ref in self._placed else ''}")
        self._placed.add(ref)

    def asked(self, line: Line, request: int, fields: list[str]) -> None:
        """Anything else leaves: not worth a line."""

    def doubted(self, line: Line, why: str) -> None:
        """The gateway says that IB is gone, or back; or the connection is lost."""
        self._timeline.wire(f"connection {line.number}: {why}")


def listen(loop: TappedLoop, timeline: Timeline) -> None:
    """From now on note on the timeline what passes the sockets of a loop."""
    loop.listener = _Wire(timeline)


def overheard(spec: StrategySpec, timeline: Timeline) -> StrategySpec:
    """The strategy, at a desk that notes on the timeline what is read there."""
    wanted = spec.function

    @functools.wraps(wanted)
    async def strategy(desk: Desk, *arguments: object) -> None:
        events = desk.events

        async def noted() -> AsyncIterator[ev.Event]:
            async for event in events():
                if not isinstance(event, ev.Tick):
                    timeline.strategy(spec.name, event)
                yield event

        desk.events = noted  # type: ignore[method-assign]
        await wanted(desk, *arguments)

    return StrategySpec(
        spec.name, strategy, spec.params, spec.risk, spec.restart, spec.restart_delay_s, spec.restart_max
    )


@dataclass
class _Facts:
    """What the service puts on record here, beside what it put there then."""

    recorded: list[bytes]
    seen: list[bytes] = field(default_factory=list)

    def first_difference(self, *, is_whole: bool) -> str:
        """In words; empty if there is none. Of a recording that was cut off, what came later is not missed."""
        for then, now in zip(self.recorded, self.seen, strict=False):
            if _timeless(_today(then)) != _timeless(now):
                return f"recorded {then.decode()}; here {now.decode()}"
        if len(self.recorded) > len(self.seen):
            return f"recorded, and not here: {self.recorded[len(self.seen)].decode()}"
        if is_whole and len(self.seen) > len(self.recorded):
            return f"here, and not recorded: {self.seen[len(self.recorded)].decode()}"
        return ""

    def off_s(self) -> float:
        """The most that a moment is off."""
        pairs = zip(self.recorded, self.seen, strict=False)
        return max((abs((_at(then) - _at(now)).total_seconds()) for then, now in pairs), default=0.0)


class _Replay:
    """A recording being replayed."""

    _app: App
    _group: asyncio.TaskGroup
    _clock: _Clock

    def __init__(self, recording: Recording, strategies: Sequence[StrategySpec], folder: Path) -> None:
        self._recording = recording
        self._header = recording.header
        self._folder = folder
        self._notes = [f"the recording: {recording.cut}"] if recording.cut else []
        self._specs = list(strategies) or self._shipped()
        self._facts = _Facts([record.data for record in recording.records if record.kind is Kind.FACT])
        self._differences: list[Difference] = []
        self._is_whole = not recording.cut and recording.records[-1].data == b""

    async def live(self) -> Replayed:
        """Live through it."""
        loop = asyncio.get_running_loop()
        assert isinstance(loop, TappedLoop), "a replay runs on a TappedLoop"
        header = self._header
        self._timeline = Timeline(lambda: loop.time() - header.built_s, keeps=True)
        self._script = Script(self._recording, differs=self._differs, tells=self._timeline.gateway, acts=self._act)
        loop.network = ScriptedNetwork(loop, self._script)
        listen(loop, self._timeline)
        path = self._folder / "journal.sqlite"
        parts = restore(path, self._recording.records)
        self._clock = _Clock(loop, self._script, header)
        self._app = self._service(path)
        if self._app.run_id != header.run_id or (parts and not self._app.hub.snapshots.seq):
            self._notes.append("the book at the start was kept by another version: it is not the recorded one")
        async with asyncio.TaskGroup() as self._group:
            await asyncio.sleep(header.began_s - loop.time())
            running = self._group.create_task(self._app.run(), name="app")
            self._script.begin()
            played = self._group.create_task(self._script.played.wait(), name="replay:played")
            await asyncio.wait([running, played], return_when=asyncio.FIRST_COMPLETED)
            if not self._is_whole:
                self._script.is_over = True
            self._app.request_stop(CUT)
            await asyncio.wait([running], timeout=AFTERWARDS_S)
            played.cancel()
            running.cancel()
        self._script.finish()
        return self._result(path, loop)

    def _result(self, path: Path, loop: TappedLoop) -> Replayed:
        lineups = [line.lineup for line in self._script.lines.values()]
        if self._script.shift_s:
            self._notes.append(f"the service connected later; in the end all came {self._script.shift_s:.1f} s later")
        with closing(open_readonly(path)) as database:
            journal = tuple(export(database, self._header.seq + 1))
        return Replayed(
            header=self._header,
            timeline=tuple(self._timeline.entries),
            journal=journal,
            differences=tuple(self._differences),
            first_fact=self._facts.first_difference(is_whole=self._is_whole),
            facts=len(self._facts.seen),
            messages=sum(lineup.count for lineup in lineups),
            moved=sum(lineup.moved for lineup in lineups),
            mapped=sum(lineup.mapped for lineup in lineups),
            off_s=self._facts.off_s(),
            seconds=loop.time() - self._header.built_s,
            notes=tuple(self._notes),
        )

    def _service(self, path: Path) -> App:
        """The service as it was built."""
        header = self._header
        try:
            config = AppConfig(
                session=msgspec.convert(header.session, SessionConfig, strict=False),
                limits=msgspec.convert(header.limits, Limits, strict=False),
                journal_path=path,
                **header.service,
            )
        except (msgspec.MsgspecError, TypeError) as exc:
            raise RecordingUnusable(f"the recording's settings mean nothing to this version: {exc}") from exc
        specs = [overheard(spec, self._timeline) for spec in self._specs]
        return App(config, specs, clock=self._clock, rng=random.Random(header.seed), observer=self._observe)

    def _shipped(self) -> list[StrategySpec]:
        """The recorded strategies that come with the service; what is not here is noted."""
        specs = []
        for recorded in self._header.strategies:
            run, name = str(recorded.get("function", "")), recorded.get("name")
            if not run.startswith(SHIPPED):
                self._notes.append(f"strategy {name} ({run}) does not take part: the settings do not name it")
                continue
            try:
                spec = msgspec.convert({**recorded, "function": None}, _Spec, strict=False)
                specs.append(StrategySpec(**{**msgspec.structs.asdict(spec), "function": load(run)}))
            except (ServiceError, msgspec.MsgspecError) as exc:
                self._notes.append(f"strategy {name} ({run}) does not take part: {exc}")
        return specs

    # --- what happens ------------------------------------------------------------------------------------------------

    def _observe(self, event: ev.Event) -> None:
        self._timeline.service(event)
        if type(event) in ev.JOURNALLED:
            self._facts.seen.append(_encode(event))
            self._script.fact()

    def _differs(self, difference: Difference) -> None:
        self._differences.append(difference)
        self._timeline.breach("outbound", str(difference))

    def _act(self, record: Record) -> None:
        match record.kind:
            case Kind.STOP:
                self._app.request_stop(record.data.decode())
            case _:
                request = msgspec.json.decode(record.data, type=Request)
                self._timeline.gateway(f"the operator asks: {request.verb}")
                self._group.create_task(_asked(Operations(self._app).handle, request), name="replay:operator")


class _Spec(msgspec.Struct):
    """A strategy as the header has it."""

    name: str
    params: dict[str, Any]
    risk: dict[str, Any]
    restart: str
    restart_delay_s: float
    restart_max: int


async def _asked(handle: Callable[[Request], Any], request: Request) -> None:
    """Ask, as over the control socket; what goes wrong goes wrong for who asked."""
    with suppress(ServiceError):
        await handle(request)


def _timeless(fact: bytes) -> bytes:
    return _MOMENT.sub(b'""', fact)


def _today(fact: bytes) -> bytes:
    """A recorded fact as this version writes it."""
    try:
        return _encode(_fact.decode(fact))
    except msgspec.MsgspecError:
        return fact


def _at(fact: bytes) -> datetime:
    return msgspec.json.decode(fact, type=_At).at


class _At(msgspec.Struct):
    at: datetime
