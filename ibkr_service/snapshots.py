"""The book as it was at one fact, kept in the journal file: a start replays only what came after it.

A snapshot is a saving of time and nothing else. It is made of parts: rows with what came or changed on a shelf since
the snapshot before, and a last row, the head, with all the small fields. The head is written when the rest is there; a
snapshot that was not finished is none. One that cannot be read, or was made by other code (`fingerprint`), is thrown
away, and the whole journal is replayed: slower, and as right.

It is cut between two facts, which costs next to nothing, and written afterwards in steps of about a millisecond, so
that an order has to wait for one step at most.
"""

from __future__ import annotations

import functools
import hashlib
import typing
import zlib
from collections import deque
from collections.abc import Iterator
from importlib import resources
from typing import Any

import msgspec
import structlog

from ibkr_service import core
from ibkr_service.core.book import Book
from ibkr_service.core.errors import JournalError
from ibkr_service.core.shelf import Format, Shelf
from ibkr_service.journal import Journal

log = structlog.get_logger("ibkr_service.snapshots")

HEAD = "head"
SNAPSHOT_EVERY = 5_000  # facts: a tenth of a second of replaying
STEP = 200  # values packed in one step: well under a millisecond on a machine of today
_FAILURES = (JournalError, msgspec.MsgspecError, LookupError, ValueError, TypeError)


class Head(msgspec.Struct, frozen=True):
    """The last part of a snapshot. `fields` are the book's small fields, each as the bytes of its value.

    `seq` is the fact that it was cut after, `parts` how many parts came before it.
    """

    seq: int
    made_by: str
    parts: int
    fields: dict[str, msgspec.Raw]


def kept() -> Iterator[tuple[str, Any]]:
    """The fields of a book that outlive a session, with their types."""
    for field in msgspec.structs.fields(Book):
        if field.name not in Book.OF_THE_SESSION | Book.DERIVED | Book.SETTINGS:
            yield field.name, field.type


@functools.cache
def fingerprint() -> str:
    """Tells the code that folds facts into a book, and the values it is made of, from any other version of it.

    Empty where the source was not installed: then no snapshot can be trusted.
    """
    sources = sorted((f for f in resources.files(core).iterdir() if f.name.endswith(".py")), key=lambda f: f.name)
    if not sources:
        return ""
    digest = hashlib.blake2s(digest_size=16)
    for source in sources:
        digest.update(source.name.encode() + b"\0" + source.read_bytes() + b"\0")
    return digest.hexdigest()


class Snapshots:
    """Reads and writes the snapshots of one book in one journal. A new one is due after `every` facts."""

    every = SNAPSHOT_EVERY

    def __init__(self, journal: Journal, book: Book) -> None:
        self.seq = 0  # the fact that the last whole snapshot was cut after
        self._journal = journal
        self._book = book
        self._formats: dict[str, Format[Any, Any]] = {
            name: Format(*typing.get_args(kind)) for name, kind in kept() if typing.get_origin(kind) is Shelf
        }
        self._types = {name: kind for name, kind in kept() if name not in self._formats}
        self._above: int | None = None  # what is stored behind this number is no part of a snapshot
        self._cut_at = 0
        self._parts = 0  # how many are stored
        self._fields: dict[str, msgspec.Raw] | None = None  # of the snapshot that is being written
        self._unwritten: deque[tuple[str, bytes]] = deque()  # packed, but refused by the disk

    # --- reading -----------------------------------------------------------------------------------------------------

    def load(self) -> int:
        """Fill the book, which must be new, with the last snapshot; returns the fact to continue after, 0 if none."""
        try:
            head, self._above = self._last_head()
            if head is not None:
                self._fill(head)
        except _FAILURES as exc:
            log.warning("the snapshot cannot be used, the whole journal is replayed", why=str(exc))
            self._forget()
        return self.seq

    def _last_head(self) -> tuple[Head | None, int]:
        """The head that closes the parts, and its number; None if there is none, or none that this code has made."""
        found = next(self._journal.parts(HEAD), None)
        if found is None:
            return None, 0
        number, _, crc, body = found
        head = msgspec.msgpack.decode(_checked(HEAD, crc, body), type=Head)
        if not head.made_by or head.made_by != fingerprint():
            log.info("the snapshot was made by other code, the whole journal is replayed")
            return None, 0
        if head.seq > self._journal.seq:
            raise ValueError(f"it was cut at fact {head.seq}, but the journal ends at {self._journal.seq}")
        return head, number

    def _fill(self, head: Head) -> None:
        values = {name: msgspec.msgpack.decode(head.fields[name], type=kind) for name, kind in self._types.items()}
        for _, part, crc, body in self._journal.parts():
            if part == HEAD:
                break
            form = self._formats[part]
            getattr(self._book, part).load(_checked(part, crc, body), form)
            self._parts += 1
        if self._parts != head.parts:
            raise ValueError(f"it has {self._parts} of {head.parts} parts")
        for name, value in values.items():
            setattr(self._book, name, value)
        self._book.derive()
        self.seq = head.seq

    def _forget(self) -> None:
        fresh = Book()
        for field in set(self._book.__struct_fields__) - Book.SETTINGS:
            setattr(self._book, field, getattr(fresh, field))
        self.seq, self._above, self._parts = 0, 0, 0

    # --- writing -----------------------------------------------------------------------------------------------------

    @property
    def due(self) -> bool:
        """Whether so much was written since the last one that a new one is worth its while."""
        return self._journal.seq - self.seq >= self.every

    def cut(self) -> None:
        """Hold the book fast as it is; every fact that is in it must be in the journal. `step` writes it.

        A snapshot that is being written is finished first, by further steps.
        """
        if self._fields is not None:
            return
        self._cut_at = self._journal.seq
        self._fields = {n: msgspec.Raw(msgspec.msgpack.encode(getattr(self._book, n))) for n in self._types}
        for name, form in self._formats.items():
            getattr(self._book, name).freeze(form)

    def step(self) -> bool:
        """Write a little of what was cut; returns whether something is left.

        Raises:
            JournalError: it was not written; the next step tries again.
        """
        if self._fields is None:
            return False
        if self._above is not None:
            self._journal.drop_parts(self._above)
            self._above = None
            return True
        if not self._unwritten:
            name = next((name for name in self._formats if getattr(self._book, name).frozen), None)
            if name is None:
                head = msgspec.msgpack.encode(Head(self._cut_at, fingerprint(), self._parts, self._fields))
                self._journal.replace_part(HEAD, zlib.crc32(head), head)
                self.seq, self._fields = self._cut_at, None
                return False
            if packed := getattr(self._book, name).pack(STEP):
                self._unwritten.append((name, packed))
        while self._unwritten:
            name, packed = self._unwritten[0]
            self._journal.add_part(name, zlib.crc32(packed), packed)
            self._unwritten.popleft()
            self._parts += 1
        return True

    def finish(self) -> None:
        """Write a whole snapshot of the present moment, if there is anything that the last one does not have.

        Raises:
            JournalError: it was not written.
        """
        while self.step():
            pass
        if self._journal.seq > self.seq:
            self.cut()
            while self.step():
                pass


def _checked(part: str, crc: object, body: object) -> bytes:
    if not isinstance(body, bytes) or zlib.crc32(body) != crc:
        raise ValueError(f"part {part} is damaged")
    return body
