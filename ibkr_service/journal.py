"""The memory that survives: an append-only SQLite file of facts, written before anything is done about them.

Events are kept as JSON with a sequence number, one row each; everything else (orders, fills, positions) is derived by
replaying them through the book. `export` prints the canonical form: SQLite's own bytes differ from run to run, the
exported lines do not.

An order's decision takes a shorter way (`append_ahead`): a line in a file beside the database, which becomes a row
before any other fact does.

Durability: in WAL mode with `synchronous=NORMAL` a committed row survives the death of the process (`process`), with
`FULL` also that of the machine (`power`). https://www.sqlite.org/pragma.html#pragma_synchronous
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Literal

import msgspec

from ibkr_service import ahead
from ibkr_service.core import events as ev
from ibkr_service.core.errors import JournalError
from ibkr_service.core.instrument import Forex, Future, FutureOption, Option, Stock
from ibkr_service.core.orders import Order
from ibkr_service.schema import SCHEMA_VERSION, prepare

BUSY_TIMEOUT_S = 0.05  # a write that waits for another program's lock holds the event loop; SQLite's default is 5 s
Durability = Literal["process", "power"]

Row = tuple[int, str, str, str | None, str]
"""Number, time, kind and order reference of a fact, and the fact as JSON."""

_PLAIN = frozenset({Stock, Forex, Option, FutureOption, Future})  # instruments that check all their values themselves
_encoder = msgspec.json.Encoder(order="sorted")
_quick_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[ev.Event] = msgspec.json.Decoder(ev.Event)


class Journal:
    """The journal file. One process at a time may write it.

    Args:
        path: the file; it and its folder are made if need be, readable by the owner alone.
        durability: what a committed fact survives. fresh: begin anew; what the file held is deleted.

    Raises:
        JournalError: locked by another process, corrupt, of a newer version, or not writable; the text says how to
        recover.
    """

    def __init__(self, path: Path, durability: Durability = "process", *, fresh: bool = False) -> None:
        self.path = path
        self._seq = 0
        self._is_quick = durability == "process"
        self._owed: list[tuple[int, ev.Event]] = []  # in the file beside, to be rows before anything else is
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._lock = _lock(path)
            if fresh:  # not before the lock: another process may be writing it
                for suffix in ("", "-wal", "-shm", ahead.SUFFIX):
                    Path(f"{path}{suffix}").unlink(missing_ok=True)
        except OSError as exc:
            raise JournalError(
                f"cannot use journal {path}: {exc.strerror or exc}; choose another journal.path"
            ) from exc
        try:
            self._db = _open(path, durability)
            self._cursor = self._db.cursor()  # one for all writes: sqlite3 keeps track of each that it has made
            self._seq = self._db.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()[0]
            self._ahead = ahead.Ahead(path)
            self._catch_up()
        except (OSError, sqlite3.OperationalError) as exc:  # the disk or another process, not the journal's contents
            self._lock.close()
            raise JournalError(
                f"cannot use journal {path} ({exc}): keep it, see to the disk, its rights and who else has it open, "
                "then start again"
            ) from exc
        except sqlite3.Error as exc:
            self._lock.close()
            raise JournalError(
                f"journal {path} cannot be read ({exc}): move it away and start again; "
                "orders of this service are then adopted from the broker by their orderRef"
            ) from exc
        except JournalError:
            self._lock.close()
            raise

    def append(self, event: ev.Event) -> None:
        """Commit one fact.

        Raises:
            JournalError: it was not written.
        """
        row = _row(self._seq + 1, event)
        if self._owed:
            self._together(row)
        else:
            try:
                self._write(row)
            except sqlite3.Error as exc:
                raise self._failed(exc) from exc
        self._seq += 1

    def append_ahead(self, event: ev.Event) -> None:
        """Commit a decision on which somebody waits: it survives the death of the process when this returns.

        It is a row of the database before any other fact is, or at the next start. With durability "power" this is
        `append`.

        Raises:
            JournalError: it was not written.
        """
        if not self._is_quick:
            self.append(event)
            return
        seq = self._seq + 1
        try:
            self._write_ahead(seq, event)
        except (OSError, ValueError) as exc:  # mmap's word for a file that is closed
            raise self._failed(exc) from exc
        self._owed.append((seq, event))
        self._seq = seq

    def settle(self) -> None:
        """Make rows of what stands in the file beside.

        Raises:
            JournalError: it was not written; it still stands there.
        """
        if self._owed:
            self._together()

    def _failed(self, exc: Exception) -> JournalError:
        return JournalError(f"journal {self.path} cannot be written: {exc}")

    def _together(self, *more: Row) -> None:
        """Write the rows that are owed and what comes after them, or none."""
        with self._transaction():
            for seq, event in self._owed:
                self._write(_row(seq, event))
            for row in more:
                self._write(row)
        self._owed = []
        self._ahead.followed()

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        try:
            self._db.execute("BEGIN")
            try:
                yield
                self._db.execute("COMMIT")
            except BaseException:
                if self._db.in_transaction:  # a full disk may have ended it
                    self._db.execute("ROLLBACK")
                raise
        except sqlite3.Error as exc:
            raise self._failed(exc) from exc

    def _catch_up(self) -> None:
        """Make rows of what a kill left in the file beside."""
        for seq, body in ahead.lines(self.path, self._seq):
            self._owed.append((seq, _decoded(body, f"{self.path}{ahead.SUFFIX}, line {seq}")))
            self._seq = seq
        self.settle()
        self._ahead.clear()

    def append_all(self, events: Sequence[ev.Event]) -> None:
        """Commit facts that belong together: all of them, or none.

        Raises:
            JournalError: none was written.
        """
        self.settle()
        before = self._seq
        try:
            with self._transaction():
                for event in events:
                    self._write(_row(self._seq + 1, event))
                    self._seq += 1
        except BaseException:
            self._seq = before
            raise

    # Two seams: rehearsals make them raise, as a full disk does.

    def _write(self, row: Row) -> None:
        self._cursor.execute("INSERT INTO journal (seq, at, kind, ref, body) VALUES (?, ?, ?, ?, ?)", row)

    def _write_ahead(self, seq: int, event: ev.Event) -> None:
        self._ahead.put(seq, _json(event, _quick_encoder))

    @property
    def seq(self) -> int:
        """The number of the last fact that was written; 0 in an empty journal."""
        return self._seq

    def checkpoint_at(self, pages: int) -> None:
        """Let SQLite move its write-ahead log into the file when it is so long, within a write."""
        self._db.execute(f"PRAGMA wal_autocheckpoint={pages}")

    def replay(self, after: int = 0) -> Iterator[ev.Event]:
        """All facts, or those after one, oldest first.

        Raises:
            JournalError: a row cannot be read back.
        """
        self.settle()
        yield from facts(self._db, self.path, after)

    # --- the snapshot (snapshots.py) ---------------------------------------------------------------------------------

    def parts(self, name: str | None = None) -> Iterator[tuple[int, str, int, bytes]]:
        """What is stored of the book, in the order in which it was stored: number, name, checksum, contents.

        Args:
            name: only parts of this name.

        Raises:
            JournalError: it cannot be read.
        """
        try:
            yield from self._db.execute(
                "SELECT id, part, crc, body FROM snapshot WHERE part = coalesce(?, part) ORDER BY id", (name,)
            )
        except sqlite3.Error as exc:
            raise JournalError(f"the snapshot in {self.path} cannot be read: {exc}") from exc

    def add_part(self, part: str, crc: int, body: bytes) -> None:
        """Store a part of the book.

        Raises:
            JournalError: it was not written.
        """
        self._change(("INSERT INTO snapshot (part, crc, body) VALUES (?, ?, ?)", (part, crc, body)))

    def replace_part(self, part: str, crc: int, body: bytes) -> None:
        """Store a part that takes the place of those of this name.

        Raises:
            JournalError: nothing was written.
        """
        self._change(
            ("DELETE FROM snapshot WHERE part = ?", (part,)),
            ("INSERT INTO snapshot (part, crc, body) VALUES (?, ?, ?)", (part, crc, body)),
        )

    def drop_parts(self, above: int = 0) -> None:
        """Forget what is stored of the book, or what was stored after this number.

        Raises:
            JournalError: nothing was written.
        """
        # Without a condition SQLite empties the table at once.
        self._change(("DELETE FROM snapshot WHERE id > ?", (above,)) if above else ("DELETE FROM snapshot", ()))

    # --- retention (retention.py) ------------------------------------------------------------------------------------

    def rows(self, columns: str, *, after: int, upto: int, most: int) -> list[tuple[Any, ...]]:
        """Some columns of the next rows, undecoded; the first of the columns is `seq`.

        Raises:
            JournalError: they cannot be read.
        """
        where = "seq > ? AND seq <= ? ORDER BY seq LIMIT ?"
        self.settle()
        try:
            return self._db.execute(f"SELECT {columns} FROM journal WHERE {where}", (after, upto, most)).fetchall()  # noqa: S608 - our own columns
        except sqlite3.Error as exc:
            raise JournalError(f"journal {self.path} cannot be read: {exc}") from exc

    def close_orders(self, ended: Iterable[tuple[int, Order]]) -> None:
        """Put the end of each order in place of its last `OrderChanged`, whose number is given.

        Raises:
            JournalError: nothing was written.
        """
        steps: list[tuple[str, tuple[object, ...]]] = []
        for seq, order in ended:
            last = _decoder.decode(self._db.execute("SELECT body FROM journal WHERE seq = ?", (seq,)).fetchone()[0])
            assert isinstance(last, ev.OrderChanged), f"row {seq} is the last change of {order.ref}"
            closed = ev.OrderClosed(
                at=last.at,
                session=last.session,
                ref=order.ref,
                after=last.after,
                filled=last.filled,
                why=last.why,
                order=order,
            )
            values = (type(closed).__name__, _json(closed).decode(), seq)
            steps.append(("UPDATE journal SET kind = ?, body = ? WHERE seq = ?", values))
        self._change(*steps)

    def remove(self, rows: Iterable[int]) -> None:
        """Remove facts of long ago that nothing is folded from any more.

        Raises:
            JournalError: nothing was removed.
        """
        self._change(*(("DELETE FROM journal WHERE seq = ?", (seq,)) for seq in rows))

    def compact(self) -> None:
        """Give the room of removed facts back to the disk; nobody else may use the file meanwhile.

        Raises:
            JournalError: the disk has no room for the copy that it takes, or another program reads.
        """
        try:
            self._db.execute("VACUUM")
        except sqlite3.Error as exc:
            raise JournalError(f"journal {self.path} cannot be compacted: {exc}") from exc

    def _change(self, *steps: tuple[str, tuple[object, ...]]) -> None:
        """Several statements at once or not at all."""
        self.settle()
        try:
            self._db.execute("BEGIN IMMEDIATE")
            for sql, values in steps:
                self._db.execute(sql, values)
            self._db.execute("COMMIT")
        except sqlite3.Error as exc:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise JournalError(f"journal {self.path} cannot be written: {exc}") from exc

    def export(self) -> Iterator[str]:
        """The canonical form: one JSON line per fact, keys sorted. Equal histories give equal lines."""
        self.settle()
        yield from export(self._db)

    def close(self) -> None:
        """Close the file; safe to call twice. What the disk refuses now is a row at the next start."""
        with suppress(JournalError):
            self.settle()
        self._ahead.close(needed=bool(self._owed))
        self._owed = []
        self._db.close()
        self._lock.close()


def _row(seq: int, event: ev.Event) -> Row:
    return (seq, event.at.isoformat(), type(event).__name__, getattr(event, "ref", None), _json(event).decode())


def _json(event: ev.Event, encoder: msgspec.json.Encoder = _encoder) -> bytes:
    """The fact as JSON that can be read back: one row that cannot would bar every later start.

    Raises:
        JournalError: a value is of a kind that the fact does not have (a strategy may pass anything).
    """
    try:
        body = encoder.encode(event)
        if not _is_plain_order(event):
            _decoder.decode(body)
    except (TypeError, ValueError, OverflowError, msgspec.MsgspecError) as exc:
        raise JournalError(f"a {type(event).__name__} that could not be read back is not written: {exc}") from exc
    return body


def facts(db: sqlite3.Connection, path: Path, after: int = 0) -> Iterator[ev.Event]:
    """All facts of an open journal database that came after one, oldest first.

    Raises:
        JournalError: a row cannot be read back.
    """
    for seq, body in db.execute("SELECT seq, body FROM journal WHERE seq > ? ORDER BY seq", (after,)):
        yield _decoded(body, f"{path}, row {seq}")


def _decoded(body: bytes | str, where: str) -> ev.Event:
    try:
        return _decoder.decode(body)
    except msgspec.DecodeError as exc:
        raise JournalError(f"journal {where}, cannot be read ({exc}): restore a backup or move it away") from exc


def _is_plain_order(event: ev.Event) -> bool:
    """Whether it is a decision whose every value was checked where it came in, so that its JSON can be read back.

    Such a row is on the way of an order, where reading it back takes as long as two thirds of writing it. Of a plain
    intent the checks are complete (`core/intent.py`, `core/instrument.py`); `tests/test_journal.py` reads whatever they
    let pass.
    """
    return (
        type(event) is ev.OrderSubmitted
        and type(event.intent.instrument) in _PLAIN
        and type(getattr(event.intent.instrument, "strike", 0.0)) is float  # a whole number may be too large for one
        and event.intent.is_plain
        and event.intent.unnatural is False
        and event.wish is None
    )


def export(db: sqlite3.Connection, first: int = 0) -> Iterator[str]:
    """The canonical lines of an open journal database, all or from one on."""
    for seq, body in db.execute("SELECT seq, body FROM journal WHERE seq >= ? ORDER BY seq", (first,)):
        yield f'{{"seq":{seq},"fact":{body}}}'


def open_readonly(path: Path) -> sqlite3.Connection:
    """Open a journal for looking at, beside a running daemon or without one.

    Raises:
        JournalError: there is none, or it is not one.
    """
    if not path.exists():
        raise JournalError(f"there is no journal at {path}")
    try:
        db = sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)
        db.execute("SELECT 1 FROM journal LIMIT 1")
    except sqlite3.Error as exc:
        raise JournalError(f"journal {path} cannot be read: {exc}") from exc
    return db


def _open(path: Path, durability: Durability) -> sqlite3.Connection:
    # Created by us first, so that it never exists with wider rights.
    os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
    db = sqlite3.connect(path, timeout=BUSY_TIMEOUT_S, isolation_level=None)  # each INSERT commits by itself
    try:
        _check(db, path)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute(f"PRAGMA synchronous={'FULL' if durability == 'power' else 'NORMAL'}")
        prepare(db)
    except BaseException:
        db.close()
        raise
    return db


def _check(db: sqlite3.Connection, path: Path) -> None:
    """Refuse what is not a sound journal of this version or an earlier one."""
    version = db.execute("PRAGMA user_version").fetchone()[0]
    if version > SCHEMA_VERSION:
        newer = f"schema {version}, here {SCHEMA_VERSION}"
        raise JournalError(f"journal {path} was written by a newer ibkr_service ({newer}): upgrade")
    if db.execute("PRAGMA quick_check(1)").fetchone()[0] != "ok":
        raise sqlite3.DatabaseError("it is corrupt")


def _lock(path: Path) -> IO[str]:
    """Hold an exclusive lock on a file beside the journal for as long as it is open."""
    file = os.fdopen(os.open(f"{path}.lock", os.O_RDWR | os.O_CREAT, 0o600), "w")  # held for the life of the journal
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as exc:
        file.close()
        raise JournalError(
            f"journal {path} is in use by another ibkr_service: stop that one, or choose another journal.path"
        ) from exc
    return file
