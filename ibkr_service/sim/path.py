"""Seeded price paths: a random walk that is a *function* of time, for years back and ahead, with known extremes.

Three levels, so that every question has a bounded cost:

1. a chain of normal steps, one per segment of the day (`timeline.py`);
2. within a segment a skeleton: from its start to its low and its high (or high and low) to its end, the extremes drawn
   from the law of a Brownian bridge. So the range of a whole session is known without looking inside;
3. between two points of the skeleton a bridge by midpoint displacement that turns back at the low and the high. One
   value costs its depth in the tree; a block of values is computed at once, when the extremes of a part are wanted, or
   when somebody follows the path there, value by value. A few blocks are kept, and the extremes of many: so the range
   of a night costs the two blocks in which it begins and ends, however long it is.

Each random number comes from a hash of (seed, instrument, place): the path is the same in whatever order it is asked
for, in every process, however often gateways start.

Simplifications: no drift, no jumps; a segment's high and low are drawn independently of each other.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from statistics import NormalDist

import numpy as np
from numpy.typing import NDArray

from ibkr_service.sim.chance import keyed_bytes
from ibkr_service.sim.timeline import Timeline

_NORMAL = NormalDist()
_MASK = (1 << 64) - 1
_GOLDEN, _MIX_1, _MIX_2 = 0x9E3779B97F4A7C15, 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
_UNIFORM = 1 / (1 << 32)
_FRACTION = 1 / (1 << 52)

# A displacement is ±(0.8 ... 1.2) standard deviations, scaled to variance 1.
_SCALE = 1 / math.sqrt(1 + 0.4**2 / 12)
_LEAST, _SPREAD = 0.8 * _SCALE, 0.4 * _SCALE
_BLOCK_STEPS = 1 << 14
_BLOCKS_MAX = 8
_RANGES_MAX = 1024  # blocks, of which only the extremes are kept: more than a month
_LOOKS_MAX = 64  # more single values cost more than a block
_LOOKED_MAX = 64
_SKELETONS_MAX = 1024
_LEG_POWER = 1.3
_LIKELY = 0.75


def mixed(seed: int, place: int) -> int:
    """64 bits that depend on a seed and a place: splitmix64, a few times faster than a cryptographic hash."""
    bits = (seed + place * _GOLDEN) & _MASK
    bits = ((bits ^ (bits >> 30)) * _MIX_1) & _MASK
    bits = ((bits ^ (bits >> 27)) * _MIX_2) & _MASK
    return bits ^ (bits >> 31)


def seed_of(key: str, place: str) -> int:
    """A seed for `mixed`."""
    return int.from_bytes(keyed_bytes(key, place), "big")


_Range = tuple[float, int, float, int]
"""The lowest value and its step, the highest value and its step."""


@dataclass(frozen=True, slots=True)
class _Leg:
    """A bridge from step `first` to step `last`; `rate` is its standard deviation per square root of a step."""

    first: int
    last: int
    at_first: float
    at_last: float
    seed: int
    rate: float
    low: float
    high: float


@dataclass(frozen=True, slots=True)
class _Skeleton:
    """A segment: its legs, and the steps at which it is lowest and highest."""

    first: int
    last: int
    low: float
    lowest: int
    high: float
    highest: int
    legs: tuple[_Leg, ...]


_Cell = tuple[int, int, float, float, int]
"""First and last step, the values there, and the number of the node in the tree."""


class Path:
    """One instrument's path, in units of a trading day's standard deviation; 0 at the anchor.

    Args:
        key: seed and instrument.
        timeline: how its days are cut.
        anchor: the step at which it is 0.
    """

    def __init__(self, key: str, timeline: Timeline, anchor: int) -> None:
        self._seed = seed_of(key, "path")
        self._timeline = timeline
        self._base = timeline.index_of(anchor)
        self._ahead, self._back = [0.0], [0.0]
        self._skeletons: dict[int, _Skeleton] = {}
        self._known_blocks: dict[int, NDArray[np.float64]] = {}
        self._ranges: dict[int, _Range] = {}
        self._current: _Skeleton | None = None
        self._leg: _Leg | None = None
        self._open: list[_Cell] = []
        self._around: _Cell = (0, 0, 0.0, 0.0, 1)
        self._block_at = (0, 0, np.empty(0))
        self._looks: dict[int, int] = {}
        self._offset = 0.0
        self._offset = self.at(anchor)

    def at(self, step: int) -> float:
        """The value that holds from a step on."""
        first, last, values = self._block_at
        if first <= step < last:
            return values.item(step - first) - self._offset
        return self._sought(step) - self._offset

    def _sought(self, step: int) -> float:
        """A value, by descending to it in its tree, or only to the block that it lies in."""
        leg = self._leg
        if leg is None or not leg.first <= step < leg.last:
            leg = self._leg = _leg_at(self._skeleton_at(step), step)
            self._around = _root(leg)
            self._open = [self._around]
        stack = self._open
        while not stack[-1][0] <= step < stack[-1][1]:
            stack.pop()
        cell = stack[-1]
        while cell[1] - cell[0] > _BLOCK_STEPS:
            cell = self._around = _half(leg, cell, step)
            stack.append(cell)
        if self._is_worth_a_block(self._around):
            first, last = self._around[:2]
            self._block_at = first, last, self._block(leg, self._around)
            return self._block_at[2].item(step - first)
        while cell[1] - cell[0] > 1:
            cell = _half(leg, cell, step)
            stack.append(cell)
        return cell[2]

    def _is_worth_a_block(self, cell: _Cell) -> bool:
        """Whether all values of a cell are known, or one has been looked at so often that they had better be."""
        if cell[0] in self._known_blocks:
            return True
        looks = self._looks.get(cell[0], 0) + 1
        if len(self._looks) >= _LOOKED_MAX:
            self._looks.clear()
        self._looks[cell[0]] = looks
        return looks > _LOOKS_MAX

    def extremes(self, first: int, last: int) -> tuple[int, int]:
        """The steps, from `first` up to but not including `last`, at which it is lowest and highest."""
        lowest = highest = first
        low = high = self.at(first)
        step = first
        while step < last:
            skeleton = self._skeleton_at(step)
            known = (
                [(skeleton.low, skeleton.lowest, skeleton.high, skeleton.highest)]
                if step == skeleton.first and last >= skeleton.last
                else self._ranges_of(skeleton, step, min(last, skeleton.last))
            )
            for block_low, block_lowest, block_high, block_highest in known:
                if block_low - self._offset < low:
                    low, lowest = block_low - self._offset, block_lowest
                if block_high - self._offset > high:
                    high, highest = block_high - self._offset, block_highest
            step = skeleton.last
        return lowest, highest

    def _ranges_of(self, skeleton: _Skeleton, first: int, last: int) -> Iterator[_Range]:
        """The extremes from one step to another within a segment, block by block."""
        step = first
        while step < last:
            leg = _leg_at(skeleton, step)
            cell = _root(leg)
            while cell[1] - cell[0] > _BLOCK_STEPS:
                cell = _half(leg, cell, step)
            if step == cell[0] and last >= cell[1]:
                yield self._range(leg, cell)
            else:
                yield _extremes_of(step, self._block(leg, cell)[step - cell[0] : last - cell[0]])
            step = cell[1]

    def _range(self, leg: _Leg, cell: _Cell) -> _Range:
        """The extremes of a whole block, whose values need not be kept for them."""
        known = self._ranges.get(cell[0])
        if known is None:
            if len(self._ranges) >= _RANGES_MAX:
                self._ranges.clear()
            values = self._known_blocks.get(cell[0])
            known = _extremes_of(cell[0], _expanded(leg, cell) if values is None else values)
            self._ranges[cell[0]] = known
        return known

    def _block(self, leg: _Leg, cell: _Cell) -> NDArray[np.float64]:
        """The values of a block; those that were wanted last are kept."""
        known = self._known_blocks.pop(cell[0], None)
        if known is None:
            known = _expanded(leg, cell)
            if len(self._known_blocks) >= _BLOCKS_MAX:
                del self._known_blocks[next(iter(self._known_blocks))]
        self._known_blocks[cell[0]] = known
        return known

    def _skeleton_at(self, step: int) -> _Skeleton:
        current = self._current
        if current is None or not current.first <= step < current.last:
            current = self._current = self._skeleton(self._timeline.index_of(step))
        return current

    def _skeleton(self, index: int) -> _Skeleton:
        known = self._skeletons.get(index)
        if known is None:
            if len(self._skeletons) >= _SKELETONS_MAX:
                self._skeletons.clear()
            known = self._skeletons[index] = self._made(index)
        return known

    def _made(self, index: int) -> _Skeleton:
        first, last = self._timeline.bounds(index)
        variance = self._timeline.weight(index)
        start, end = self._level(index), self._level(index + 1)
        seed = mixed(self._seed, 2 * index + 1)
        luck = [(mixed(seed, n) >> 32) * _UNIFORM for n in range(6)]
        high = start + _reach_of_bridge(end - start, variance, luck[0])
        low = start - _reach_of_bridge(start - end, variance, luck[1])
        low_first = luck[2] < (_LIKELY if end >= start else 1 - _LIKELY)
        points = [start, low, high, end] if low_first else [start, high, low, end]
        steps = _spaced(first, last, points, luck[3:])
        rate = math.sqrt(variance / (last - first))
        legs = tuple(
            _Leg(steps[n], steps[n + 1], points[n], points[n + 1], mixed(seed, 10 + n), rate, low, high)
            for n in range(3)
        )
        lowest, highest = (steps[1], steps[2]) if low_first else (steps[2], steps[1])
        return _Skeleton(first, last, low, lowest, high, highest, legs)

    def _level(self, index: int) -> float:
        """The value at the start of a segment, 0 for the one that the anchor lies in."""
        ahead, back = self._ahead, self._back
        while len(ahead) <= index - self._base:
            ahead.append(ahead[-1] + self._step(self._base + len(ahead) - 1))
        while len(back) <= self._base - index:
            back.append(back[-1] - self._step(self._base - len(back)))
        return ahead[index - self._base] if index >= self._base else back[self._base - index]

    def _step(self, index: int) -> float:
        luck = (mixed(self._seed, 2 * index) >> 12) + 0.5
        return math.sqrt(self._timeline.weight(index)) * _NORMAL.inv_cdf(luck * _FRACTION)


def _reach_of_bridge(change: float, variance: float, luck: float) -> float:
    """How far above its start a Brownian bridge rises that ends `change` higher."""
    return (change + math.sqrt(change * change - 2 * variance * math.log(max(luck, 1e-12)))) / 2


def _spaced(first: int, last: int, points: list[float], luck: list[float]) -> list[int]:
    """When the points of a skeleton are met: the farther apart, the longer it takes, give or take."""
    shares = [
        (abs(points[n + 1] - points[n]) + 1e-9) ** _LEG_POWER * (0.5 + 1.5 * luck[n]) for n in range(len(points) - 1)
    ]
    total, steps = sum(shares), [first]
    for n in range(len(shares) - 1):
        share = steps[-1] + round((last - first) * shares[n] / total)
        steps.append(min(max(share, steps[-1] + 1), last - len(shares) + 1 + n))
    return [*steps, last]


def _leg_at(skeleton: _Skeleton, step: int) -> _Leg:
    for leg in skeleton.legs:
        if step < leg.last:
            return leg
    raise AssertionError("a step lies in its segment")


def _root(leg: _Leg) -> _Cell:
    return leg.first, leg.last, leg.at_first, leg.at_last, 1


def _half(leg: _Leg, cell: _Cell, step: int) -> _Cell:
    """The half of a cell that a step lies in."""
    middle, value = _middle(leg, cell)
    first, last, at_first, at_last, node = cell
    if step < middle:
        return first, middle, at_first, value, 2 * node
    return middle, last, value, at_last, 2 * node + 1


def _extremes_of(first: int, values: NDArray[np.float64]) -> _Range:
    lowest, highest = int(values.argmin()), int(values.argmax())
    return float(values[lowest]), first + lowest, float(values[highest]), first + highest


def _middle(leg: _Leg, cell: _Cell) -> tuple[int, float]:
    """The middle step of a cell, and the bridge's value there: turned back where it would leave the leg's range."""
    first, last, at_first, at_last, node = cell
    middle = (first + last) >> 1
    size, before = last - first, middle - first
    bits = mixed(leg.seed, node)
    between = at_first + (at_last - at_first) * before / size
    aside = leg.rate * math.sqrt(before * (last - middle) / size) * (_LEAST + _SPREAD * (bits >> 32) * _UNIFORM)
    up, down = between + aside, between - aside
    if up <= leg.high and (bits & 1 or down < leg.low):
        return middle, up
    return middle, down if down >= leg.low else between


def _expanded(leg: _Leg, cell: _Cell) -> NDArray[np.float64]:
    """Every value of a cell at once; the same arithmetic as in `_middle`, so the same numbers to the last bit."""
    size = cell[1] - cell[0]
    values = np.empty(size + 1)
    values[0], values[size] = cell[2], cell[3]
    firsts, lasts = np.array([0]), np.array([size])
    nodes = np.array([cell[4]], dtype=np.uint64)
    while (wide := lasts - firsts > 1).any():
        firsts, lasts, nodes = firsts[wide], lasts[wide], nodes[wide]
        middles = (firsts + lasts) >> 1
        sizes, before = lasts - firsts, middles - firsts
        bits = _mixed_all(leg.seed, nodes)
        at_firsts = values[firsts]
        between = at_firsts + (values[lasts] - at_firsts) * before / sizes
        luck = _LEAST + _SPREAD * (bits >> np.uint64(32)) * _UNIFORM
        aside = leg.rate * np.sqrt(before * (lasts - middles) / sizes) * luck
        up, down = between + aside, between - aside
        goes_up = (up <= leg.high) & (((bits & np.uint64(1)) == 1) | (down < leg.low))
        values[middles] = np.where(goes_up, up, np.where(down >= leg.low, down, between))
        firsts, lasts = np.concatenate((firsts, middles)), np.concatenate((middles, lasts))
        nodes = np.concatenate((nodes * np.uint64(2), nodes * np.uint64(2) + np.uint64(1)))
    return values[:size]


def _mixed_all(seed: int, places: NDArray[np.uint64]) -> NDArray[np.uint64]:
    bits = np.uint64(seed) + places * np.uint64(_GOLDEN)
    bits = (bits ^ (bits >> np.uint64(30))) * np.uint64(_MIX_1)
    bits = (bits ^ (bits >> np.uint64(27))) * np.uint64(_MIX_2)
    return bits ^ (bits >> np.uint64(31))
