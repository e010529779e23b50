"""Telling people outside, without ever getting in the way: rules, bounded queues, time limits.

The rules are in `core/notices.py`; a channel is one address to which notices go. Each has a queue and a task of its
own, so that one that hangs holds up no other. A notice that could not be delivered is tried again a few times and then
dropped; the log says so once for each channel and kind, until it works again. At the end of the service what waits has
a few seconds.

It needs nothing of the service but the facts and a look at whether the journal refuses writes; nothing waits for it.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec
import structlog

from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.notices import Notice, Notices
from ibkr_service.log import mask_accounts

log = structlog.get_logger("ibkr_service.notify")

LOOK_S = 1.0  # how often the rules are asked what has become due
QUEUE_MAX = 50  # notices that may wait for a channel; then the oldest goes
SEND_MAX_S = 30.0
RETRY_S = (10.0, 60.0, 300.0)  # between the attempts to deliver one
AT_END_S = 5.0


class NotSent(Exception):
    """A notice could not be delivered; why, without secrets."""


class Channel(Protocol):
    """One address to which notices go."""

    name: str
    """What it is, without its secrets."""

    async def send(self, notice: Notice) -> None:
        """Deliver one.

        Raises:
            NotSent: it was not.
        """


class Courier:
    """Takes facts, brings notices.

    Args:
        notices: the rules. sender: stands before each title. journal_refuses: whether facts wait for the disk.
    """

    def __init__(
        self,
        notices: Notices,
        channels: Sequence[Channel],
        clock: Clock,
        *,
        sender: str,
        journal_refuses: Callable[[], bool],
    ) -> None:
        self._notices = notices
        self._sender = sender
        self._clock = clock
        self._journal_refuses = journal_refuses
        self._ways = [_Way(channel) for channel in channels]

    def note(self, event: ev.Event) -> None:
        """Take in a fact; costs next to nothing, and raises nothing."""
        try:
            self._notices.apply(event)
        except Exception:
            log.exception("a fact cannot be told", kind=type(event).__name__)

    async def run(self) -> None:
        """Bring what becomes due, until cancelled."""
        async with asyncio.TaskGroup() as ways:
            for way in self._ways:
                ways.create_task(way.run(), name=f"notify:{way.channel.name}")
            while True:
                self._look()
                await asyncio.sleep(LOOK_S)

    def __len__(self) -> int:
        """How many notices wait."""
        return sum(len(way) for way in self._ways)

    async def finish(self, limit_s: float = AT_END_S) -> None:
        """Let what waits leave, so long and no longer."""
        self._look()
        try:
            async with asyncio.timeout(limit_s):
                for way in self._ways:
                    await way.empty()
        except TimeoutError:
            log.warning("notifications were not sent", waiting=len(self))

    def _look(self) -> None:
        try:
            due = self._notices.due(self._clock.now(), journal_refuses=self._journal_refuses())
        except Exception:
            log.exception("what is to be told cannot be found out")
            return
        for notice in due:
            dressed = msgspec.structs.replace(
                notice,
                title=mask_accounts(f"{self._sender}: {notice.title}"),
                text=mask_accounts(notice.text),
            )
            for way in self._ways:
                way.put(dressed)


class _Way:
    """One channel with its queue."""

    def __init__(self, channel: Channel) -> None:
        self.channel = channel
        self._queue: deque[Notice] = deque()
        self._dropped = 0
        self._failing: set[str] = set()  # kinds of which the log has said that they do not arrive
        self._is_bringing = False
        self._filled = asyncio.Event()
        self._emptied = asyncio.Event()
        self._emptied.set()

    def __len__(self) -> int:
        return len(self._queue) + self._is_bringing

    def put(self, notice: Notice) -> None:
        """One more to bring."""
        if len(self._queue) == QUEUE_MAX:
            self._queue.popleft()
            self._dropped += 1
        self._queue.append(notice)
        self._filled.set()
        self._emptied.clear()

    async def empty(self) -> None:
        """Wait until nothing waits."""
        await self._emptied.wait()

    async def run(self) -> None:
        """Bring one after the other, until cancelled."""
        while True:
            await self._filled.wait()
            self._is_bringing = True
            await self._bring(self._queue.popleft())
            self._is_bringing = False
            if not self._queue:
                self._filled.clear()
                self._emptied.set()

    async def _bring(self, notice: Notice) -> None:
        for wait_s in (*RETRY_S, None):
            failure = await attempt(self.channel, self._with_dropped(notice))
            if failure is None:
                self._dropped = 0
                self._failing.discard(notice.kind)
                return
            if notice.kind not in self._failing:
                self._failing.add(notice.kind)
                log.warning("notification failed", channel=self.channel.name, kind=notice.kind, error=failure)
            if wait_s is not None:
                await asyncio.sleep(wait_s)
        self._dropped += 1

    def _with_dropped(self, notice: Notice) -> Notice:
        if not self._dropped:
            return notice
        text = f"{notice.text}\n{self._dropped} notifications before it could not be delivered"
        return msgspec.structs.replace(notice, text=text.lstrip())


async def attempt(channel: Channel, notice: Notice) -> str | None:
    """Deliver a notice, once; returns why that did not work, None if it did."""
    try:
        async with asyncio.timeout(SEND_MAX_S):
            await channel.send(notice)
    except NotSent as exc:
        return str(exc)
    except TimeoutError:
        return f"no answer within {SEND_MAX_S:g} s"
    except Exception as exc:  # noqa: BLE001 - whatever a channel is made of: it must not end the service
        return f"{type(exc).__name__} in the channel"
    return None


async def send_to_all(channels: Sequence[Channel], notice: Notice) -> list[str | None]:
    """Deliver a notice to each channel, once; returns for each why that did not work, None if it did."""
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(attempt(channel, notice), name=channel.name) for channel in channels]
    return [task.result() for task in tasks]
