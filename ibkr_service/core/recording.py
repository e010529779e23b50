"""The file that a session is recorded to: docs/recording.md describes it, this reads and writes it.

    first line      the `Header` as JSON
    blocks          u32 length, u32 CRC-32, then so many bytes of one deflate stream, flushed at the end of each block
    in the stream   records: u8 kind, f64 seconds, u32 connection, u32 length, contents

Only ever appended to. Of a file that ends in the middle of a block, all blocks before it are read, and what is missing
is said.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator
from datetime import datetime
from enum import IntEnum
from typing import Any, NamedTuple

import msgspec

from ibkr_service.core.errors import RecordingUnusable

FORMAT = 1
KEY = "ibkr_service_recording"  # the first key of the header: what tells a recording from any other file
LEVEL = 3  # of the compression: half the size of a message at a third of the processor time of the usual level
PREFIX = 4  # bytes of a message's length
HELLO = b"API\0"  # stands in front of a client's first message
MESSAGE_MAX = 0xFFFFFF  # bytes; what claims to be longer is no message
HEADER_MAX = 4 * 1024 * 1024

_BLOCK = struct.Struct(">II")
_RECORD = struct.Struct(">BdII")


class Kind(IntEnum):
    """What a record is. Connections are counted from 1, one for each attempt to connect."""

    CONNECT = 1  # the service tries to connect
    OPENED = 2  # it is connected
    REFUSED = 3  # it is not; contents: errno and words as JSON
    IN = 4  # bytes from the gateway: the messages that were whole with this chunk
    OUT = 5  # a message to the gateway
    EOF = 6  # the gateway closes the connection
    LOST = 7  # it is gone; contents: why, empty if it was closed on purpose
    FACT = 8  # what the service put on record, as JSON
    OPERATOR = 9  # a request over the control socket, as JSON
    READ = 10  # the service looks at the wall clock; the seconds are those since `started_at`
    STOP = 11  # the service is asked to stop; contents: why
    END = 12  # of the recording; contents: why, empty if the service has ended
    ROW = 13  # of the journal, before the start: number, moment, kind, reference, body, as JSON
    PART = 14  # of the book, before the start: name and contents, as MessagePack


class Record(NamedTuple):
    """One thing that happened. `at_s`: loop time, but of a look at the wall clock (`READ`) what it showed."""

    kind: Kind
    at_s: float
    connection: int
    data: bytes


class Header(msgspec.Struct, frozen=True, kw_only=True):
    """What a session began with.

    Args:
        ibkr_service_recording: the format's number. version: of the service. masked: whether accounts are.
        mode: of trading. seed: of the randomness. run_id: of the run. started_at: the wall clock when the service was
        built, at `built_s` of loop time; it began to run at `began_s`.
        is_virtual: whether time was virtual, so that what happened at one moment did so in a known order.
        session, limits, service: the settings that matter, as plain values. strategies: what traded.
        seq: how many facts the journal had.
    """

    ibkr_service_recording: int = FORMAT
    version: str
    masked: bool
    mode: str
    seed: int
    run_id: str
    started_at: datetime
    built_s: float
    began_s: float
    is_virtual: bool = False
    session: dict[str, Any]
    limits: dict[str, Any]
    service: dict[str, Any]
    strategies: list[dict[str, Any]] = []
    seq: int = 0


class Recording(NamedTuple):
    """A recording that was read. `cut`: what is missing at its end, in words; empty if nothing is."""

    header: Header
    records: list[Record]
    cut: str


class Writer:
    """Makes the bytes of a file. What it returns is to be appended in order."""

    def __init__(self) -> None:
        self._deflate = zlib.compressobj(LEVEL, zlib.DEFLATED, -zlib.MAX_WBITS)

    def block(self, records: bytes | bytearray) -> bytes:
        """A block of encoded records."""
        body = self._deflate.compress(records) + self._deflate.flush(zlib.Z_SYNC_FLUSH)
        return _BLOCK.pack(len(body), zlib.crc32(body)) + body


def first_line(header: Header, mask: Any) -> bytes:  # noqa: ANN401 - a function from bytes to bytes
    """The beginning of a file."""
    return bytes(mask(msgspec.json.encode(header))) + b"\n"


def encoded(record: Record) -> bytes:
    """A record as it stands in a block."""
    kind, at_s, connection, data = record
    return _RECORD.pack(kind, at_s, connection, len(data)) + data


def read(data: bytes, name: str) -> Recording:
    """Read a recording.

    Args:
        name: of the file, for messages.

    Raises:
        RecordingUnusable: it is none, or of another version.
    """
    line, newline, rest = data[:HEADER_MAX].partition(b"\n")
    header = _header(line, name, is_whole=bool(newline))
    contents, cut = _contents(data[len(line) + 1 :] if newline else rest)
    records = []
    at = 0
    while len(contents) - at >= _RECORD.size:
        kind, at_s, connection, length = _RECORD.unpack_from(contents, at)
        end = at + _RECORD.size + length
        if end > len(contents):
            break
        try:
            records.append(Record(Kind(kind), at_s, connection, bytes(contents[at + _RECORD.size : end])))
        except ValueError:
            raise RecordingUnusable(f"{name} has records of a kind ({kind}) that this version does not know") from None
        at = end
    if not cut and (not records or records[-1].kind is not Kind.END):
        cut = "it does not end in order: the process was killed, or still runs"
    return Recording(header, records, cut)


def _header(line: bytes, name: str, *, is_whole: bool) -> Header:
    if not line.startswith(b'{"%s":' % KEY.encode()):
        raise RecordingUnusable(f"{name} is not a recording of this service")
    if not is_whole:
        raise RecordingUnusable(f"{name} is cut off in its first line: nothing of it can be used")
    try:
        number = msgspec.json.decode(line)[KEY]
        if number != FORMAT:
            raise RecordingUnusable(f"{name} is written in format {number!r}; this version reads format {FORMAT}")
        return msgspec.json.decode(line, type=Header)
    except msgspec.MsgspecError as exc:
        raise RecordingUnusable(f"{name} has a first line that cannot be read: {exc}") from exc


def _contents(data: bytes) -> tuple[bytearray, str]:
    """What the blocks hold, and what is wrong at the end."""
    inflate = zlib.decompressobj(-zlib.MAX_WBITS)
    contents = bytearray()
    at = 0
    while at < len(data):
        body_at = at + _BLOCK.size
        if body_at > len(data):
            return contents, f"the last block is cut off: {len(data) - at} bytes are left of it"
        length, crc = _BLOCK.unpack_from(data, at)
        body = data[body_at : body_at + length]
        if len(body) < length:
            return contents, f"the last block is cut off: {len(body)} of its {length} bytes are there"
        if zlib.crc32(body) != crc:
            return contents, f"the block at byte {at} is damaged; what comes after it is lost"
        try:
            contents += inflate.decompress(body)
        except zlib.error:
            return contents, f"the block at byte {at} cannot be unpacked; what comes after it is lost"
        at = body_at + length
    return contents, ""


class Framing:
    """Cuts what passes in one direction of a connection into messages; keeps what is not one yet."""

    def __init__(self) -> None:
        self.rest = b""
        self.is_lost = False  # what passes is not what it should be

    def messages(self, data: bytes) -> Iterator[bytes]:
        """The messages that are whole with these bytes, lengths not included."""
        data = self.rest + data
        at, size = 0, len(data)
        while size - at >= PREFIX:
            end = at + PREFIX + int.from_bytes(data[at : at + PREFIX])
            if end - at > MESSAGE_MAX:
                self.is_lost = True
                break
            if end > size:
                break
            yield data[at + PREFIX : end]
            at = end
        self.rest = b"" if self.is_lost else data[at:]


def framed(message: bytes) -> bytes:
    """A message as it stands on the wire."""
    return len(message).to_bytes(PREFIX) + message
