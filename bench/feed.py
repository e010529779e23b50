"""The ticks that both sides are fed: made from a seed, the same bytes for everybody.

It has three parts. *Opening*: a bid, ask and last for every instrument, then a tenth of the ticks; it warms up and
is not timed. *Timed*: random ticks, and the mark: the last instrument trades at `MARK`, so that a reader knows that it
has read the end. *Closing*: a new volume for every instrument, so that each side tells the whole quote of each once
more. What these quotes must then be is computed here, by neither side.
"""

from __future__ import annotations

import json
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ibkr_service.sim.messages import Answer
from ibkr_service.sim.wire import LENGTH_BYTES, frame

SEED = 20260101
INSTRUMENTS = 40
FIRST_REQUEST = 5_000  # request ids are FIRST_REQUEST, FIRST_REQUEST + 1, … on both sides
CHUNK_BYTES = 64 * 1024
MARK = 99_999.0

BID, ASK, LAST, VOLUME = 1, 2, 4, 8
SIZE_OF = {BID: 0, ASK: 3, LAST: 5}
# What a liquid stock sends: mostly prices that carry their size, now and then a size alone.
KINDS = [BID] * 36 + [ASK] * 36 + [LAST] * 14 + [SIZE_OF[BID]] * 5 + [SIZE_OF[ASK]] * 5 + [VOLUME] * 4

PARTS = ("opening", "timed", "closing")

Quote = list[float]
"""bid, ask, last, bid size, ask size, last size, volume."""


@dataclass(frozen=True)
class Feed:
    """The three parts, how many ticks the timed one holds, and every instrument's last quote."""

    opening: bytes
    timed: bytes
    closing: bytes
    ticks: int
    quotes: list[Quote]


class _Market:
    """Random ticks, and the quotes that they add up to."""

    def __init__(self) -> None:
        self._rng = random.Random(SEED)
        self._cents = [self._rng.randrange(2_000, 60_000) for _ in range(INSTRUMENTS)]
        self.fields: list[dict[int, float]] = [{} for _ in range(INSTRUMENTS)]

    def price(self, number: int, kind: int, price: float) -> bytes:
        size = self._rng.randrange(1, 90) * 100
        self.fields[number] |= {kind: price, SIZE_OF[kind]: float(size)}
        return frame(Answer.TICK_PRICE, 6, FIRST_REQUEST + number, kind, f"{price:.2f}", size, 1)

    def size(self, number: int, kind: int) -> bytes:
        size = self._rng.randrange(1, 1_000_000) * 100
        self.fields[number][kind] = float(size)
        return frame(Answer.TICK_SIZE, 6, FIRST_REQUEST + number, kind, size)

    def next(self) -> bytes:
        rng, number = self._rng, self._rng.randrange(INSTRUMENTS)
        kind = rng.choice(KINDS)
        if kind not in SIZE_OF:
            return self.size(number, kind)
        return self.price(number, kind, self.walk(number, kind))

    def walk(self, number: int, kind: int) -> float:
        cents = self._cents[number] = max(100, self._cents[number] + self._rng.randrange(-3, 4))
        return (cents + {BID: 0, ASK: 5, LAST: 2}[kind]) / 100

    def quote(self, number: int) -> Quote:
        return [self.fields[number][kind] for kind in (BID, ASK, LAST, 0, 3, 5, VOLUME)]


def make(ticks: int) -> Feed:
    """Make a feed with that many timed ticks, the mark among them."""
    market, everyone = _Market(), range(INSTRUMENTS)
    opening = [market.price(n, kind, market.walk(n, kind)) for n in everyone for kind in SIZE_OF]
    opening += [market.next() for _ in range(ticks // 10)]
    timed = [market.next() for _ in range(ticks - 1)]
    timed.append(market.price(INSTRUMENTS - 1, LAST, MARK))
    closing = [market.size(n, VOLUME) for n in everyone]
    quotes = [market.quote(n) for n in everyone]
    return Feed(b"".join(opening), b"".join(timed), b"".join(closing), ticks, quotes)


def save(feed: Feed, folder: Path) -> None:
    """Write it, for the processes that are measured."""
    for part in PARTS:
        (folder / part).write_bytes(getattr(feed, part))
    (folder / "known.json").write_text(json.dumps({"ticks": feed.ticks, "quotes": feed.quotes}))


def load(folder: Path) -> Feed:
    """Read what `save` wrote."""
    known = json.loads((folder / "known.json").read_text())
    return Feed(**{part: (folder / part).read_bytes() for part in PARTS}, **known)


def large_chunks(data: bytes) -> list[bytes]:
    """As a busy socket hands them over: cut anywhere."""
    return [data[start : start + CHUNK_BYTES] for start in range(0, len(data), CHUNK_BYTES)]


def one_tick_chunks(data: bytes) -> list[bytes]:
    """As a calm socket hands them over: each tick by itself."""
    return list(_frames(data))


def _frames(data: bytes) -> Iterator[bytes]:
    at = 0
    while at < len(data):
        end = at + LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES], "big")
        yield data[at:end]
        at = end
