"""The daemon of a crash campaign: the real `ibkr-service run`, with a hook that kills it at a named point.

The hooks are set in the forked process before the command line is called; the product knows nothing of them. A point
is passed so many times (`Plot.passes`), then the process sends itself SIGKILL, in the very place.
"""

from __future__ import annotations

import errno
import multiprocessing
import os
import signal
import sqlite3
import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection as Pipe
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any, NoReturn

from ibkr_service import cli
from ibkr_service.broker import connection, session
from ibkr_service.broker.client import Client
from ibkr_service.clock import SystemClock
from ibkr_service.core import events as ev
from ibkr_service.journal import Journal
from ibkr_service.snapshots import HEAD, Snapshots
from tests.crash import trader

PLACE, CANCEL = "3\0", "4\0"
ORDERS_BEFORE_FULL = 6  # at most so many leave before the disk is full, so that facts about them are refused as well
REFUSALS = 60  # writes that a full disk refuses before it takes them again, or the process dies
# The product waits longer before it believes that an order never arrived; here the gateway is on the same machine.
SECOND_LOOK_S, DOUBT_SETTLES_S = 0.3, 0.1
SNAPSHOT_EVERY = 60  # facts; every restart of a life then begins with a snapshot of the book


@dataclass(frozen=True)
class Plot:
    """Where to die: a name of `POINTS`, and at which passage (1: the first)."""

    point: str
    passes: int


@dataclass
class _Countdown:
    """Kills the process at the last of so many passages."""

    left: int

    def passed(self) -> None:
        self.left -= 1
        if self.left == 0:
            die()


def die() -> NoReturn:
    """End as a power cut would have it: nothing is flushed, nobody is told."""
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError("nobody survives SIGKILL")


def _die_with_the_campaign() -> None:
    """Leave no daemon behind when somebody kills the campaign."""
    campaign = multiprocessing.parent_process()
    assert campaign is not None, "this process was started by one"
    wait([campaign.sentinel])
    die()


def main(folder: str, pipe: Pipe, plot: Plot | None) -> None:
    """Be the daemon of a folder with its settings.toml, until killed."""
    os.chdir(folder)
    out = os.open("daemon.log", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.dup2(out, 1)
    os.dup2(out, 2)
    threading.Thread(target=_die_with_the_campaign, daemon=True).start()
    trader.campaign = pipe
    os.environ["XDG_RUNTIME_DIR"] = folder  # what it claims there is no affair of another campaign
    Snapshots.every = SNAPSHOT_EVERY
    session.SECOND_LOOK_S, session.DOUBT_SETTLES_S = SECOND_LOOK_S, DOUBT_SETTLES_S
    if plot is not None:
        POINTS[plot.point](_Countdown(plot.passes))
    sys.argv = ["ibkr-service", "run", "--settings", str(Path("settings.toml"))]
    cli.main()


# --- points ----------------------------------------------------------------------------------------------------------


def _around_row(kind: str | None, *, after: bool) -> Callable[[_Countdown], None]:
    """Before or after a fact of some kind (None: any) is committed."""

    def install(countdown: _Countdown) -> None:
        write = Journal._write

        def hooked(self: Journal, row: tuple[object, ...]) -> None:
            meant = kind is None or row[2] == kind
            if meant and not after:
                countdown.passed()
            write(self, row)
            if meant and after:
                countdown.passed()

        Journal._write = hooked  # type: ignore[method-assign]  # what this file is for

    return install


def _around_ahead(*, after: bool) -> Callable[[_Countdown], None]:
    """Before or after a decision stands in the file beside the journal; its row follows."""

    def install(countdown: _Countdown) -> None:
        write = Journal._write_ahead

        def hooked(self: Journal, seq: int, event: ev.Event) -> None:
            if not after:
                countdown.passed()
            write(self, seq, event)
            if after:
                countdown.passed()

        Journal._write_ahead = hooked  # type: ignore[method-assign]  # what this file is for

    return install


def _around_part(*, head: bool, after: bool) -> Callable[[_Countdown], None]:
    """Before or after a part of a snapshot of the book is stored, or the head that closes it."""

    def install(countdown: _Countdown) -> None:
        change = Journal._change

        def hooked(self: Journal, *steps: tuple[str, tuple[object, ...]]) -> None:
            meant = (HEAD in steps[0][1]) == head
            if meant and not after:
                countdown.passed()
            change(self, *steps)
            if meant and after:
                countdown.passed()

        Journal._change = hooked  # type: ignore[method-assign]  # what this file is for

    return install


def _around_send(message_id: str, *, after: bool) -> Callable[[_Countdown], None]:
    """Before a message is handed to the transport, or when its bytes have really left."""

    def install(countdown: _Countdown) -> None:
        transmit = Client._transmit

        def hooked(self: Client, message: str) -> None:
            if not message.startswith(message_id):
                transmit(self, message)
                return
            if after:
                # uvloop writes at the end of the turn, too late for us: past it, straight to the socket.
                data = self._prefix(message.encode())
                assert os.write(self.conn.transport.get_extra_info("socket").fileno(), data) == len(data)
                countdown.passed()
                return
            countdown.passed()
            transmit(self, message)

        Client._transmit = hooked  # type: ignore[method-assign]  # what this file is for

    return install


def _in_look(countdown: _Countdown) -> None:
    """Between the questions of a reconciliation."""
    get = connection._Answers.get

    async def hooked(self: Any, name: str, call: Any, **options: Any) -> Any:
        countdown.passed()
        return await get(self, name, call, **options)

    connection._Answers.get = hooked  # type: ignore[method-assign]  # what this file is for


def _after_look(countdown: _Countdown) -> None:
    """Everything has been answered, nothing of it is a Snapshot yet."""
    take_look = connection.Connection.take_look

    async def hooked(self: Any, timeout_s: float, *, orders: bool) -> ev.Snapshot:
        look = await take_look(self, timeout_s, orders=orders)
        countdown.passed()
        return look

    connection.Connection.take_look = hooked  # type: ignore[method-assign]  # what this file is for


def _in_replay(countdown: _Countdown) -> None:
    """While the book is rebuilt from the journal."""
    replay = Journal.replay

    def hooked(self: Journal, after: int = 0) -> Iterator[ev.Event]:
        for event in replay(self, after):
            countdown.passed()
            yield event

    Journal.replay = hooked  # type: ignore[method-assign]  # what this file is for


# --- a disk that refuses ---------------------------------------------------------------------------------------------


class _Disk:
    """Refuses every write from one of the first orders on, orders and facts, for so many writes."""

    def __init__(self, countdown: _Countdown, *, recovers: bool) -> None:
        self._countdown, self._recovers = countdown, recovers
        self._orders_left = 1 + countdown.left % ORDERS_BEFORE_FULL
        self._refused = 0
        self._last_refusal = SystemClock().now()
        self._is_full = False
        self._is_over = False

    def install(self) -> None:
        write, write_ahead, transmit = Journal._write, Journal._write_ahead, Client._transmit
        disk = self

        def hooked_write(journal: Journal, row: tuple[object, ...]) -> None:
            if disk.refuses(str(row[1])):
                raise sqlite3.OperationalError("database or disk is full")
            write(journal, row)

        def hooked_write_ahead(journal: Journal, seq: int, event: ev.Event) -> None:
            disk._orders_left -= isinstance(event, ev.OrderSubmitted)
            if disk.refuses(event.at.isoformat()):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            write_ahead(journal, seq, event)

        def hooked_transmit(client: Client, message: str) -> None:
            if disk._is_full and message.startswith(PLACE):
                trader.tell("leak", message)
            transmit(client, message)

        Journal._write = hooked_write  # type: ignore[method-assign]  # what this file is for
        Journal._write_ahead = hooked_write_ahead  # type: ignore[method-assign]  # what this file is for
        Client._transmit = hooked_transmit  # type: ignore[method-assign]  # what this file is for

    def refuses(self, at: str) -> bool:
        """Whether a write of this moment meets a full disk."""
        if self._is_over:
            self._countdown.passed()
            return False
        if not self._is_full and self._orders_left == 0:
            self._is_full = True
            trader.tell("disk full", at)
        if not self._is_full:
            return False
        if self._refused < REFUSALS:
            self._refused += 1
            self._last_refusal = SystemClock().now()
            return True
        if not self._recovers:
            die()
        self._is_full, self._is_over = False, True
        # Not now: the order whose write is the first to pass was stamped a moment ago.
        trader.tell("disk free", self._last_refusal.isoformat())
        return False


POINTS: dict[str, Callable[[_Countdown], None]] = {
    "before-commit": _around_ahead(after=False),
    "after-send": _around_send(PLACE, after=True),
    "in-look": _in_look,
    "disk-full": lambda countdown: _Disk(countdown, recovers=False).install(),
    "before-fill": _around_row("Fill", after=False),
    "after-commit": _around_ahead(after=True),
    "before-send": _around_send(PLACE, after=False),
    "disk-free-again": lambda countdown: _Disk(countdown, recovers=True).install(),
    "after-look": _after_look,
    "before-cancel": _around_send(CANCEL, after=False),
    "before-order-row": _around_row("OrderSubmitted", after=False),
    "after-order-row": _around_row("OrderSubmitted", after=True),
    "after-sent": _around_row("OrderSent", after=True),
    "after-fill": _around_row("Fill", after=True),
    "after-cancel": _around_send(CANCEL, after=True),
    "in-replay": _in_replay,
    "before-snapshot": _around_row("Snapshot", after=False),
    "after-snapshot": _around_row("Snapshot", after=True),
    "after-part": _around_part(head=False, after=True),
    "before-head": _around_part(head=True, after=False),
    "after-head": _around_part(head=True, after=True),
    "before-row": _around_row(None, after=False),
    "after-row": _around_row(None, after=True),
}
"""Where a daemon can be killed, by name; in this order, so that a short campaign has the most telling ones."""

PASSES_MAX = {"in-replay": 30, "in-look": 10, "after-look": 1, "before-snapshot": 1, "after-snapshot": 1}
PASSES_MAX |= {"before-row": 150, "after-row": 150, "disk-full": 6, "disk-free-again": 40}
PASSES_MAX |= {"before-cancel": 3, "after-cancel": 3}
PASSES_USUAL = 5
