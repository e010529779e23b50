"""Chance, seeded: numbers that depend on the seed and on what they are for, never on who drew one before.

One shared generator would let an extra request of one client change the fills of another. Here each draw names its
place, so that the same order of the same run meets the same luck whatever else happens.
"""

import hashlib

_BYTES = 8
_FRACTION_BITS = 53


def keyed_bytes(key: str, place: str) -> bytes:
    """Eight bytes that depend on nothing but a key and a place: the same in every process."""
    return hashlib.blake2b(f"{key}/{place}".encode(), digest_size=_BYTES).digest()


class Chance:
    """The luck of one run."""

    def __init__(self, seed: int) -> None:
        self.seed = seed

    def fraction(self, place: str) -> float:
        """A number from 0 up to but not including 1."""
        bits = int.from_bytes(keyed_bytes(str(self.seed), place), "big") >> (_BYTES * 8 - _FRACTION_BITS)
        return float(bits) / (1 << _FRACTION_BITS)

    def between(self, low: float, high: float, place: str) -> float:
        """A number between two others."""
        return low + (high - low) * self.fraction(place)

    def whole(self, below: int, place: str) -> int:
        """A whole number from 0 up to but not including `below`."""
        return int(self.fraction(place) * below)
