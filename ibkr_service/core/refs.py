"""Order references: how an order of ours is known again, anywhere and for ever.

A reference is TWS's `orderRef`, shown there in a column of its own: `ibs.<run>.<number>.<strategy>.<digest of the
key>`. The digest lets a
wish be recognised even when the journal is lost: the order still stands at the broker, and the same key must not
become a second one.
"""

from __future__ import annotations

import hashlib
from typing import NamedTuple

PREFIX = "ibs"
_DIGITS = "0123456789abcdefghijklmnopqrstuvwxyz"


class Ref(NamedTuple):
    """A reference, taken apart."""

    run_id: str
    number: int
    strategy: str
    digest: str

    def __str__(self) -> str:
        return f"{PREFIX}.{self.run_id}.{self.number}.{self.strategy}.{self.digest}"


def digest(strategy: str, key: str) -> str:
    """Eight hex digits that tell keys apart where the key itself may not fit."""
    return hashlib.blake2s(f"{strategy}\0{key}".encode(errors="surrogatepass"), digest_size=4).hexdigest()


def parse(text: str) -> Ref | None:
    """The parts of a reference of this service; None if it is somebody else's."""
    match text.split("."):
        case [prefix, run_id, number, strategy, key_digest] if prefix == PREFIX and number.isdigit():
            return Ref(run_id, int(number), strategy, key_digest)
        case _:
            return None


def run_id(seconds: int, last: str) -> str:
    """A name for a run that no earlier run of this journal had: the time in base 36, or the last one plus one."""
    number = max(seconds, int(last, 36) + 1 if last else 0)
    digits = ""
    while number:
        number, rest = divmod(number, 36)
        digits = _DIGITS[rest] + digits
    return digits or "0"


class Refs:
    """The references of one run, each given once."""

    def __init__(self, this_run: str) -> None:
        self.run_id = this_run
        self._count = 0

    def next(self, strategy: str, key: str) -> str:
        """A fresh reference for the order that this key will stand for."""
        self._count += 1
        return f"{PREFIX}.{self.run_id}.{self._count}.{strategy}.{digest(strategy, key)}"
