"""Keeps the journal's write-ahead log short, away from the orders.

What is committed stands in the log until a *checkpoint* moves it into the file, which takes some milliseconds and waits
for the disk. SQLite does that by itself within every thousandth write or so, and the next one may be an order's. Here a
thread does it on a connection of its own; it does not keep anybody from writing or reading. Should it fall behind,
SQLite's own way comes first at `LOG_PAGES_MAX`, so that the log is bounded.
https://www.sqlite.org/wal.html#application_initiated_checkpoints

It needs real time, as the watchdog does; rehearsals do without both.
"""

from __future__ import annotations

import sqlite3
import threading
from contextlib import closing
from types import TracebackType
from typing import Self

import structlog

from ibkr_service.journal import Journal

log = structlog.get_logger("ibkr_service.journal")

LOOK_S = 1.0
ROWS = 500  # written since the last checkpoint, so that one is worth the while; each takes a page or two of the log
LOG_PAGES_MAX = 16_000  # 64 MB


class Checkpoints:
    """Makes checkpoints of an open journal between `__enter__` and `__exit__`, which comes before the journal's end."""

    def __init__(self, journal: Journal) -> None:
        self.made = 0
        self._journal = journal
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="checkpoints", daemon=True)

    def __enter__(self) -> Self:
        """From now on SQLite makes none by itself, unless the log has become long."""
        self._journal.checkpoint_at(LOG_PAGES_MAX)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Stop; the last one is made when the journal is closed."""
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        before = self._journal.seq
        while not self._stopping.wait(LOOK_S):
            rows = self._journal.seq
            if rows - before >= ROWS:
                before = rows
                self.make()

    def make(self) -> bool:
        """Move what is in the log into the file; False if that was not possible, which is logged and tried again."""
        try:
            with closing(sqlite3.connect(self._journal.path)) as db:
                db.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except sqlite3.Error as exc:
            log.warning("journal checkpoint failed; its log grows", error=str(exc), rows=self._journal.seq)
            return False
        self.made += 1
        return True
