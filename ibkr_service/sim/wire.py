r"""Bytes to fields and back: the framing of the TWS API, and nothing of what the fields mean.

A frame is a 4-byte big-endian length and a payload of fields, each ended by a NUL. A client opens with the raw
bytes ``API\0`` and one length-prefixed version range, ``v157..176``, optionally followed by options.

This file does no input or output: `Inbound` is fed what arrived, in pieces of any size, and yields what is complete.
How the bytes were cut can never be seen from outside. Whatever it is fed it raises only `WireError`: the peer was
wrong.

    WireError
    ├── HandshakeError   the first bytes are not a TWS API handshake
    ├── FrameTooLong     a frame announces more than we are willing to keep
    └── FieldError       a field is missing, or is not what its place demands
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from functools import lru_cache
from typing import Final

API_PREFIX: Final = b"API\0"
LENGTH_BYTES: Final = 4
# The largest honest request is replaceFA's XML; the official client refuses frames above 16 MiB - 1.
FRAME_BYTES_MAX: Final = 1 << 20
HELLO_BYTES_MAX: Final = 512

UNSET_DOUBLE: Final = "1.7976931348623157E308"
"""What TWS writes for a number that has no value, in the few places where an empty field would not do."""

UNSET_ABOVE: Final = Decimal("1e300")
UNSET_WHOLE: Final = frozenset({"2147483647", "9223372036854775807", "170141183460469231731687303715884105727"})
WHOLE_DIGITS_MAX: Final = 19
EXPONENT_MAX: Final = 320
PLAIN_KNOWN_MAX: Final = 1 << 15

_HELLO = re.compile(r"v(\d{1,4})(?:\.\.(\d{1,4}))?(?: (.*))?", re.DOTALL)
_WHOLE = re.compile(r"[+-]?\d+")
_INFINITE = frozenset({"Infinite", "Infinity", "inf"})
_FLAGS = {"": False, "0": False, "1": True, "false": False, "true": True, "False": False, "True": True}

Value = str | int | float | Decimal | None
"""What a field can be written from; None is an unset field."""


class WireError(Exception):
    """The peer sent bytes that are not the TWS API."""


class HandshakeError(WireError):
    """The first bytes are not a TWS API handshake."""


class FrameTooLong(WireError):
    """A frame announces more bytes than we are willing to keep."""

    def __init__(self, length: int, length_max: int) -> None:
        super().__init__(f"a frame of {length} bytes; the limit is {length_max}")
        self.length = length


class FieldError(WireError):
    """A field is missing, or is not what its place demands."""


@dataclass(frozen=True, slots=True)
class Hello:
    """A client's opening words: the protocol versions that it speaks, and its options."""

    version_min: int
    version_max: int
    options: str = ""


class Inbound:
    """A client's half of the conversation: feed it bytes, take a `Hello` and then frames as tuples of text."""

    def __init__(self, frame_bytes_max: int = FRAME_BYTES_MAX) -> None:
        self._frame_bytes_max = frame_bytes_max
        self._buffer = bytearray()
        self._at = 0
        self._greeted = False

    def feed(self, data: bytes) -> None:
        """Keep what arrived."""
        self._buffer += data

    def received(self) -> Iterator[Hello | tuple[str, ...]]:
        """Yield what is complete, once.

        Raises:
            WireError: what follows is not the protocol; everything before it has been yielded.
        """
        while (item := self._next()) is not None:
            yield item
        if self._at:
            del self._buffer[: self._at]
            self._at = 0

    def _next(self) -> Hello | tuple[str, ...] | None:
        if self._greeted:
            payload = self._payload(self._at, self._frame_bytes_max)
            return None if payload is None else _split(payload)
        head = bytes(self._buffer[: len(API_PREFIX)])
        if not API_PREFIX.startswith(head):
            raise HandshakeError(f"expected {API_PREFIX!r}, not {head!r}")
        payload = self._payload(len(API_PREFIX), HELLO_BYTES_MAX)
        if payload is None:
            return None
        self._greeted = True
        return parse_hello(payload)

    def _payload(self, start: int, length_max: int) -> bytes | None:
        body = start + LENGTH_BYTES
        if len(self._buffer) < body:
            return None
        length = int.from_bytes(self._buffer[start:body], "big")
        if length > length_max:
            raise FrameTooLong(length, length_max)
        if len(self._buffer) < body + length:
            return None
        self._at = body + length
        return bytes(self._buffer[body : self._at])


def parse_hello(payload: bytes) -> Hello:
    """Read ``v157..176 +PACEAPI``; a single number is a range of one."""
    match = _HELLO.fullmatch(payload.decode(errors="replace").rstrip("\0"))
    if match is None:
        raise HandshakeError(f"expected a version range, not {payload[:40]!r}")
    low, high, options = match.groups()
    return Hello(int(low), int(high or low), options or "")


def _split(payload: bytes) -> tuple[str, ...]:
    fields = payload.decode(errors="surrogateescape").split("\0")
    if fields[-1] == "":
        fields.pop()
    return tuple(fields)


class Fields:
    """The fields of one request, taken in order; each accessor says what its place demands."""

    def __init__(self, values: Sequence[str]) -> None:
        self._values = values
        self._at = 0
        self._lenient = False

    def forgive_absent(self) -> None:
        """From here on an absent field is an empty one: old clients leave off the tail that they do not know."""
        self._lenient = True

    @property
    def remaining(self) -> int:
        """How many fields have not been taken."""
        return max(0, len(self._values) - self._at)

    def text(self) -> str:
        """Take the next field as it is."""
        if self._at >= len(self._values):
            if not self._lenient:
                raise FieldError(f"the request ends after {len(self._values)} fields")
            return ""
        self._at += 1
        return self._values[self._at - 1]

    def skip(self, count: int = 1) -> None:
        """Pass over fields of no interest."""
        for _ in range(count):
            self.text()

    def whole(self, default: int = 0) -> int:
        """Take an integer; empty is `default`."""
        text = self.text()
        if text == "":
            return default
        number, _, fraction = text.partition(".")
        if not _WHOLE.fullmatch(number) or len(number) > WHOLE_DIGITS_MAX + 1 or fraction.strip("0"):
            raise FieldError(f"field {self._at}: expected a whole number, not {text[:40]!r}")
        return int(number)

    def count(self, count_max: int = 1000) -> int:
        """Take the number of entries that follow; bounded, so that no request can make us loop for ever."""
        number = self.whole()
        if not 0 <= number <= count_max:
            raise FieldError(f"field {self._at}: expected a count up to {count_max}, not {number}")
        return number

    def number(self) -> Decimal | None:
        """Take a decimal number; empty or one of the clients' sentinels is None (unset)."""
        text = self.text()
        return parse_number(text, f"field {self._at}")

    def flag(self) -> bool:
        """Take a boolean."""
        text = self.text()
        if text not in _FLAGS:
            raise FieldError(f"field {self._at}: expected 0 or 1, not {text[:40]!r}")
        return _FLAGS[text]


def parse_number(text: str, where: str = "number") -> Decimal | None:
    """Read a decimal number as the clients write it; None when it is unset.

    Raises:
        FieldError: it is no number, not a number at all (NaN), or absurdly large or fine.
    """
    if text == "" or text in UNSET_WHOLE:
        return None
    if text in _INFINITE:
        return Decimal("Infinity")
    try:
        number = Decimal(text)
    except InvalidOperation:
        raise FieldError(f"{where}: expected a number, not {text[:40]!r}") from None
    if number.is_infinite():
        return number
    if number.is_nan() or abs(number.adjusted()) > EXPONENT_MAX:
        raise FieldError(f"{where}: expected a number, not {text[:40]!r}")
    return None if number > UNSET_ABOVE else number


def field(value: Value) -> str:
    """Write one field: whole numbers without ``.0``, booleans as 1 and 0, None as an empty field."""
    if isinstance(value, str):
        return value.replace("\0", " ")
    if isinstance(value, int):
        return str(int(value))
    if value is None:
        return ""
    return plain(value if isinstance(value, Decimal) else Decimal(repr(value)))


@lru_cache(maxsize=PLAIN_KNOWN_MAX)
def plain(number: Decimal) -> str:
    """Write a number without an exponent and without idle zeros; prices and sizes come again and again."""
    text = format(number, "f")
    if text.endswith("nity"):
        return text
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text


_SHORT: Final[dict[type, Callable[..., str]]] = {int: str, Decimal: plain}
"""How `field` writes values of these very types, whose subclasses (flags, enums) it knows better."""


def frame(*values: Value) -> bytes:
    """Write one message: every field with its NUL, and the length in front."""
    # A text without a NUL is its own field: most fields of most messages take this short way.
    fields = [
        value if type(value) is str and "\0" not in value else _SHORT.get(type(value), field)(value) for value in values
    ]
    payload = ("\0".join([*fields, ""])).encode(errors="surrogateescape")
    return len(payload).to_bytes(LENGTH_BYTES, "big") + payload


def framed(text: str) -> bytes:
    """Put the length in front of a message whose fields, plain ASCII, have their NULs: the short way of ticks."""
    return len(text).to_bytes(LENGTH_BYTES, "big") + text.encode("ascii")
