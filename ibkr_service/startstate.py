"""What a service began with, for its recording: what it read of its journal, and its settings as plain values.

The journal of years is not copied: the last snapshot of the book and the facts after it are what a start reads, and so
what a replay needs. If a start could not use the snapshot, it has read all facts, and all are taken.
"""

from __future__ import annotations

import sqlite3
import zlib
from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec

from ibkr_service.core.recording import Kind, Record
from ibkr_service.journal import Journal
from ibkr_service.log import is_secret

ROWS_AT_ONCE = 1_000


def found(journal: Journal, snapshot_seq: int, at_s: float) -> Iterator[Record]:
    """What a start has read.

    Args:
        snapshot_seq: the fact that the snapshot it used was cut after; 0 if it used none.

    Raises:
        JournalError: it cannot be read again.
    """
    if snapshot_seq:
        for _, name, _, body in journal.parts():
            yield Record(Kind.PART, at_s, 0, msgspec.msgpack.encode([name, body]))
    after = max(0, snapshot_seq - 1)  # the fact itself too: a snapshot of what the journal does not have is refused
    while rows := journal.rows("seq, at, kind, ref, body", after=after, upto=journal.seq, most=ROWS_AT_ONCE):
        for row in rows:
            yield Record(Kind.ROW, at_s, 0, msgspec.json.encode(row))
        after = rows[-1][0]


def restore(path: Path, records: Sequence[Record]) -> int:
    """Make a journal of it; returns how many parts of a snapshot it has."""
    Journal(path).close()
    parts = [msgspec.msgpack.decode(record.data) for record in records if record.kind is Kind.PART]
    rows = [msgspec.json.decode(record.data) for record in records if record.kind is Kind.ROW]
    with closing(sqlite3.connect(path)) as db, db:
        db.executemany("INSERT INTO journal (seq, at, kind, ref, body) VALUES (?, ?, ?, ?, ?)", rows)
        db.executemany(
            "INSERT INTO snapshot (part, crc, body) VALUES (?, ?, ?)",
            [(name, zlib.crc32(body), body) for name, body in parts],
        )
    return len(parts)


def plain(value: object) -> Any:  # noqa: ANN401 - what JSON has
    """Settings as JSON has them; what sounds secret is left out."""
    return _without_secrets(msgspec.to_builtins(value, enc_hook=str))


def _without_secrets(value: Any) -> Any:  # noqa: ANN401 - same
    if isinstance(value, dict):
        return {key: "***" if is_secret(str(key)) else _without_secrets(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_without_secrets(inner) for inner in value]
    return value
