"""Seeded prices: quotes, trades and volumes along the paths of `path.py`.

Bid, ask, midpoint and last price are rising functions of the path, so that they are extreme when it is. A trade comes
with every change of the quote while there is a session, at the grid price nearest to the path.

Simplifications: quotes go on moving when there is no session, a little; spreads do not depend on the time of day; a
future and the index of its product move along the same path; yesterday's close is not an auction's.
"""

import math
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from typing import Final

from ibkr_service.sim import futures, listing
from ibkr_service.sim.contracts import Contract
from ibkr_service.sim.path import Path, mixed, seed_of
from ibkr_service.sim.quotes import NO_TRADES, Moments, Quote, Trades
from ibkr_service.sim.timeline import FOREX_TIMELINE, NEW_YORK, STEPS_PER_S, STOCK_TIMELINE, Timeline

INTERVAL_S: Final = 1 / STEPS_PER_S
"""How often a quote changes: about what IB sends for a liquid stock."""

FOREX_SIZE: Final = Decimal(1_000_000)
DEFAULT_START: Final = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
TRADING_DAYS_PER_YEAR: Final = 252

_PHASES = 25
_EPSILON_STEPS = 1e-6  # a timer may fire this much early
_STEPS_PER_SIZE = 2
_SIZES = tuple(Decimal(100 * number) for number in range(1, 10))
_PAD = 0.3  # how far bid and ask keep from the path, in ticks
_PAD_PER_PRICE = 5e-6
_LAST_LOOKED_BACK = 40  # segments; more than a long weekend has
_FRIDAY = 4
_PACES_MAX = 2048  # a year of segments

# How much of a regular session's trading falls into a step of each segment.
_STOCK_PACE = (0.0, 0.03, 1.0, 0.03, 0.0)
_FUTURE_PACE = (0.1, 0.1, 1.0, 0.1, 0.1)
_INDEX_PACE = (0.0, 0.0, 1.0, 0.0, 0.0)
_ROUND_THE_CLOCK = (0.5, 0.0, 0.5)
_NO_PACE = (0.0, 0.0, 0.0)


@dataclass(frozen=True, slots=True)
class Profile:
    """How an instrument moves and trades; `volume` in units per step of a regular session."""

    path: int
    reference: Decimal
    volatility: float
    timeline: Timeline
    pace: tuple[float, ...]
    volume: int = 0


def profile_of(contract: Contract, today: date) -> Profile | None:
    """What the tables say of a contract; None for what has no path of its own."""
    if (known := _PROFILES.get(contract.con_id)) is not None:
        return known
    root = futures.root_of(contract.con_id) if contract.expiry else None
    if root is None:
        return None
    # The contracts of one product move along one path, each from its own distance to the spot.
    reference = futures.fair_price(root, date.fromisoformat(contract.expiry), today)
    timeline, pace = (STOCK_TIMELINE, _FUTURE_PACE) if root.follows else (FOREX_TIMELINE, _ROUND_THE_CLOCK)
    return Profile(root.follows or root.under_con_id, reference, root.volatility, timeline, pace, 8)


def _volume_of(con_id: int) -> int:
    """From 2 to 20 million shares a day."""
    return 20 + mixed(con_id, 1) % 190


_PROFILES: Final = {
    **{
        row.con_id: Profile(
            row.con_id, row.reference, row.volatility, STOCK_TIMELINE, _STOCK_PACE, _volume_of(row.con_id)
        )
        for row in (*listing.STOCKS, *listing.FOREIGN_STOCKS)
    },
    **{
        row.con_id: Profile(row.follows or row.con_id, row.reference, row.volatility, STOCK_TIMELINE, _INDEX_PACE)
        for row in listing.INDEXES
    },
    **{
        row.con_id: Profile(row.con_id, row.reference, row.volatility, FOREX_TIMELINE, _NO_PACE)
        for row in listing.PAIRS
    },
}


class RandomWalk:
    """A price source for stocks, indexes, futures and currency pairs.

    Args:
        seed: chooses the paths.
        started_at: the date and time of gateway second 0, at which every price is its reference.
    """

    def __init__(self, seed: int, started_at: datetime = DEFAULT_START) -> None:
        self._seed = seed
        self._started_at = started_at
        self._today = started_at.astimezone(NEW_YORK).date()
        self._walkers: dict[int, _Walker] = {}
        self._paths: dict[int, Path] = {}

    def quote(self, contract: Contract, at_s: float) -> Quote | None:
        """The quote that holds at a gateway second."""
        walker = self._walkers.get(contract.con_id) or self._walker(contract)
        return None if walker is None else walker.quote(walker.step_at(at_s))

    def next_change(self, contract: Contract, after_s: float) -> float | None:
        """When the quote changes next."""
        walker = self._walker(contract)
        return None if walker is None else walker.start_of(walker.step_at(after_s) + 1)

    def moments(self, contract: Contract, from_s: float, to_s: float) -> Moments | None:
        """When the quotes of a span are the first, the lowest, the highest and the last one."""
        walker = self._walker(contract)
        return None if walker is None else walker.moments(walker.first_from(from_s), walker.first_from(to_s))

    def trades(self, contract: Contract, from_s: float, to_s: float) -> Trades:
        """What was traded within a span."""
        walker = self._walker(contract)
        return NO_TRADES if walker is None else walker.trades(walker.first_from(from_s), walker.first_from(to_s))

    def _walker(self, contract: Contract) -> "_Walker | None":
        walker = self._walkers.get(contract.con_id)
        if walker is None:
            profile = profile_of(contract, self._today)
            if profile is None:
                return None
            walker = self._walkers[contract.con_id] = _Walker(
                contract, profile, self._path(profile), self._started_at.timestamp()
            )
        return walker

    def _path(self, profile: Profile) -> Path:
        if profile.path not in self._paths:
            anchor = math.floor(self._started_at.timestamp() * STEPS_PER_S)
            self._paths[profile.path] = Path(f"{self._seed}/{profile.path}", profile.timeline, anchor)
        return self._paths[profile.path]


class _Walker:
    """One instrument's walk; it remembers its latest quote, since an option chain asks for it over and over."""

    def __init__(self, contract: Contract, profile: Profile, path: Path, started_s: float) -> None:
        self._profile = profile
        self._path = path
        self._seed = seed_of(str(contract.con_id), "trades")
        self._tick = contract.min_tick
        # The path counts quarters of a second since 1970, floats are finer when they count from the gateway's start.
        self._origin = math.floor(started_s * STEPS_PER_S)
        self._into_step_s = started_s - self._origin * INTERVAL_S
        # Instruments do not all change in the same instant.
        self._phase_s = (contract.con_id % _PHASES) * (INTERVAL_S / _PHASES)
        self._ticks = float(profile.reference / self._tick)
        self._volatility = profile.volatility / math.sqrt(TRADING_DAYS_PER_YEAR)
        self._pad = _PAD + self._ticks * _PAD_PER_PRICE
        # A currency has no last price and no volume: it is not traded on an exchange.
        self._is_currency = profile.timeline is FOREX_TIMELINE and not any(profile.pace)
        self._latest: Quote | None = None
        self._latest_step = -1
        self._sides_ticks = (0, 0)
        self._sides = (Decimal(0), Decimal(0))
        self._segment = (0, 0, 0)
        self._paces: dict[int, tuple[int, int, int]] = {}

    def step_at(self, at_s: float) -> int:
        """The step whose quote holds at a gateway second."""
        return self._origin + math.floor((at_s + self._into_step_s - self._phase_s) * STEPS_PER_S + _EPSILON_STEPS)

    def start_of(self, step: int) -> float:
        """The gateway second at which a step begins."""
        return (step - self._origin) * INTERVAL_S - self._into_step_s + self._phase_s

    def first_from(self, from_s: float) -> int:
        """The first step that begins at a gateway second or later."""
        return self._origin + math.ceil((from_s + self._into_step_s - self._phase_s) * STEPS_PER_S - _EPSILON_STEPS)

    def quote(self, step: int) -> Quote:
        if self._latest is None or self._latest_step != step:
            self._latest_step, self._latest = step, self._made(step)
        return self._latest

    def moments(self, first: int, last: int) -> Moments | None:
        if first >= last:
            return None
        lowest, highest = (first, first) if last == first + 1 else self._path.extremes(first, last)
        return Moments(*(self.start_of(step) for step in (first, lowest, highest, last - 1)))

    def trades(self, first: int, last: int) -> Trades:
        volume = count = 0
        index = self._index_of(first) if first < last else 0
        while first < last:
            begin, end, rate = self._pace_of(index)
            until = min(last, end)
            if rate:
                volume += self._volume(index, rate, until - begin, end - begin)
                volume -= self._volume(index, rate, first - begin, end - begin)
                count += until - first
            first = until
            index += 1
        return Trades(volume if self._profile.volume else 0, count)

    def _made(self, step: int) -> Quote:
        ticks = self._ticks * math.exp(self._volatility * self._path.at(step))
        bid_ticks = max(1, math.floor(ticks - self._pad))
        ask_ticks = max(bid_ticks + 1, math.ceil(ticks + self._pad))
        if self._sides_ticks != (bid_ticks, ask_ticks):  # mostly they are those of the step before
            self._sides_ticks = (bid_ticks, ask_ticks)
            self._sides = (self._tick * bid_ticks, self._tick * ask_ticks)
        bid, ask = self._sides
        if self._is_currency:
            return Quote(self.start_of(step), bid, ask, FOREX_SIZE, FOREX_SIZE)
        sizes = mixed(self._seed, step // _STEPS_PER_SIZE)
        last, last_size = self._last(step, ticks)
        return Quote(
            self.start_of(step), bid, ask, _SIZES[sizes % 9], _SIZES[(sizes >> 8) % 9], last=last, last_size=last_size
        )

    def _last(self, step: int, ticks: float) -> tuple[Decimal, Decimal]:
        """The price and the size of the latest trade: of this step, or of the last one of the session before."""
        index = self._index_of(step)
        begin, end, rate = self._pace_of(index)
        if not rate:
            for _ in range(_LAST_LOOKED_BACK):
                if rate:
                    break
                index -= 1
                begin, end, rate = self._pace_of(index)
            step = end - 1
            ticks = self._ticks * math.exp(self._volatility * self._path.at(step))
        price = self._tick * max(1, math.floor(ticks + 0.5))
        if not self._profile.volume:
            return price, Decimal(0)
        size = self._volume(index, rate, step - begin + 1, end - begin)
        return price, Decimal(size - self._volume(index, rate, step - begin, end - begin))

    def _index_of(self, step: int) -> int:
        """The segment of a step; mostly it is the one of the step before."""
        begin, end, index = self._segment
        if not begin <= step < end:
            index = self._profile.timeline.index_of(step)
            self._segment = *self._profile.timeline.bounds(index), index
        return index

    def _pace_of(self, index: int) -> tuple[int, int, int]:
        """A segment: its first step, the first one after it, and the volume per step."""
        known = self._paces.get(index)
        if known is None:
            if len(self._paces) >= _PACES_MAX:
                self._paces.clear()
            day, part = divmod(index, self._profile.timeline.per_day)
            pace = self._profile.pace[part] if (day - 1) % 7 <= _FRIDAY else 0.0
            liveliness = 0.6 + (mixed(self._seed, -day) % 1000) / 1000
            rate = max(1, round((self._profile.volume or 1) * pace * liveliness)) if pace else 0
            known = self._paces[index] = *self._profile.timeline.bounds(index), rate
        return known

    def _volume(self, index: int, rate: int, steps: int, length: int) -> int:
        """What was traded in the first steps of a segment; each of them trades at least one unit."""
        if 0 < steps < length:
            return steps * rate + mixed(self._seed + index, steps) % rate
        return steps * rate
