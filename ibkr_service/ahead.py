"""What was decided a moment ago: a file beside the journal in which an order stands before its bytes leave.

To commit a row SQLite takes locks and writes pages, which is the largest part of an order's way from the tick to the
wire. An entry in a mapped file costs no system call, and survives the death of the process as well: the pages are
the kernel's. The row follows when the order is on its way; a start finds what a kill kept from following, and puts it
in its place. The file's room on the disk is reserved when it is opened, so that a full disk cannot take it away later.

An entry is a head (number, size, checksum) and a body. The head is written last, so what was not written to its end
has none, or the one of an older entry, whose checksum is wrong: what it says was not acted upon.

What the first touch of code costs after a pause, not its time in a loop, is what an order waits for here; so the
checksum is one without tables, and nothing is formatted.
"""

from __future__ import annotations

import errno
import mmap
import os
import struct
import zlib
from collections.abc import Iterator
from pathlib import Path

SUFFIX = "-ahead"
SIZE = 256 * 1024  # bytes; an entry has less than a thousand, and is done with when its row has followed
HEAD = struct.Struct(">QII")  # the number of the row that it is to be, the size of the body, its checksum


class Ahead:
    """The file beside a journal, whose lock is held. Readable by the owner alone.

    Raises:
        OSError: it cannot be opened, or the disk has no room for it.
    """

    def __init__(self, journal: Path) -> None:
        self._path = Path(f"{journal}{SUFFIX}")
        file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            size = os.fstat(file).st_size
            if size < SIZE and os.pwrite(file, bytes(SIZE - size), size) < SIZE - size:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            self._map = mmap.mmap(file, SIZE)
        finally:
            os.close(file)
        self._end = 0

    def put(self, seq: int, body: bytes) -> None:
        """Write a fact that is to be a row.

        Raises:
            OSError: too many wait for their rows.
        """
        size = len(body)
        begin = self._end + HEAD.size
        end = begin + size
        if end > SIZE:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        self._map[begin:end] = body
        HEAD.pack_into(self._map, self._end, seq, size, zlib.adler32(body))
        self._end = end

    def followed(self) -> None:
        """All entries are rows by now, and may be written over: what is left of them has the numbers of rows."""
        self._end = 0

    def clear(self) -> None:
        """Write over everything."""
        self._map[:] = bytes(SIZE)
        self._end = 0

    def close(self, *, needed: bool) -> None:
        """Close the file, and remove it unless an entry in it still is to be a row; safe to call twice."""
        if not self._map.closed:
            self._map.close()
            if not needed:
                self._path.unlink(missing_ok=True)


def lines(journal: Path, after: int) -> Iterator[tuple[int, bytes]]:
    """The facts beside a journal that come next after its row of this number, oldest first.

    A kill leaves no hole between rows and entries: what does not follow is of another journal, put here or taken away.

    Raises:
        OSError: the file is there and cannot be read.
    """
    try:
        content = Path(f"{journal}{SUFFIX}").read_bytes()
    except FileNotFoundError:
        return
    at = 0
    while at + HEAD.size <= len(content):
        number, size, checksum = HEAD.unpack_from(content, at)
        begin, at = at + HEAD.size, at + HEAD.size + size
        body = content[begin:at]
        if not body or zlib.adler32(body) != checksum:
            return
        if number == after + 1:
            after += 1
            yield after, body
