"""A market for rehearsals: cheap to compute, and in a mood.

The simulator's own walk is made to look like a market at any zoom. A rehearsal needs prices that move, cross limits and
are the same for the same seed, and it needs thousands of hours of them: here a price is two waves and a drift around
the walk's first price. `Moods` says how large they are.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal

from ibkr_service.sim import Gateway, GatewayConfig
from ibkr_service.sim.contracts import Contract, Instrument
from ibkr_service.sim.figures import Day, Figures
from ibkr_service.sim.path import mixed
from ibkr_service.sim.quotes import Moments, PriceSource, Quote, Trades
from ibkr_service.sim.replay import Recording

TRADED_EVERY = 4  # quotes; nothing is traded at the others, which have no last price
SIZE = Decimal(500)
FOREX_SIZE = Decimal(1_000_000)
PHASES = 997
JUST = 1e-9
NOTHING_KNOWN = Day()


@dataclass(frozen=True)
class Mood:
    """How prices move: height of the waves and drift per hour as parts of the price, a wave's length in seconds."""

    wave: float
    drift: float
    period_s: float


MOODS = {
    "calm": Mood(wave=0.001, drift=0.0, period_s=900.0),
    "lively": Mood(wave=0.006, drift=0.002, period_s=300.0),
    "wild": Mood(wave=0.03, drift=0.0, period_s=120.0),
    "falling": Mood(wave=0.002, drift=-0.05, period_s=400.0),
    "rising": Mood(wave=0.002, drift=0.05, period_s=400.0),
}


class MoodyPrices:
    """A `PriceSource`: quotes that hold for `step_s` seconds each.

    Args:
        seed: chooses the phases of the waves. walk: says where prices start, and what is listed.
    """

    def __init__(self, seed: int, mood: Mood, step_s: float, walk: PriceSource) -> None:
        self._seed = seed
        self._mood = mood
        self._step_s = step_s
        self._walk = walk
        self._start: dict[int, Quote | None] = {}
        self._latest: dict[int, Quote] = {}

    def quote(self, contract: Contract, at_s: float) -> Quote | None:
        """The quote that holds at a gateway second."""
        con_id = contract.con_id
        at = self._step_of(at_s)
        latest = self._latest.get(con_id)
        if latest is not None and latest.at == at:
            return latest
        start = self._started(contract)
        if start is None:
            return None
        latest = self._latest[con_id] = self._made(contract, start, at)
        return latest

    def next_change(self, contract: Contract, after_s: float) -> float | None:
        """When the quote changes next."""
        del contract
        return self._step_of(after_s) + self._step_s

    def moments(self, contract: Contract, from_s: float, to_s: float) -> Moments | None:
        """As if a span had nothing but its first and its last quote."""
        del contract
        first = self._step_of(from_s)
        first += self._step_s if first < from_s else 0.0
        last = self._step_of(to_s)
        last -= self._step_s if last >= to_s else 0.0
        return Moments(first, first, last, last) if first <= last else None

    def trades(self, contract: Contract, from_s: float, to_s: float) -> Trades:
        """One trade of a unit with every fourth quote."""
        del contract
        every_s = TRADED_EVERY * self._step_s
        count = math.ceil(to_s / every_s - JUST) - math.ceil(from_s / every_s - JUST)
        return Trades(count, count)

    def _step_of(self, at_s: float) -> float:
        # All change in the same instants: what is looked at when something changes is looked at less often.
        return math.floor(at_s / self._step_s + JUST) * self._step_s

    def _started(self, contract: Contract) -> Quote | None:
        if contract.con_id not in self._start:
            self._start[contract.con_id] = self._walk.quote(contract, 0.0)
        return self._start[contract.con_id]

    def _made(self, contract: Contract, start: Quote, at: float) -> Quote:
        mood, turn = self._mood, 2 * math.pi
        phase = mixed(self._seed, contract.con_id) % PHASES / PHASES
        slow = math.sin(turn * (at / mood.period_s + phase)) - math.sin(turn * phase)
        fast = math.sin(turn * (at / mood.period_s * 7.3 + phase)) - math.sin(turn * phase)
        moved = 1 + mood.wave * (slow + 0.3 * fast) + mood.drift * at / 3600
        tick = contract.min_tick
        middle = max(2, round(float(start.mid) * moved / float(tick)))
        half = max(1, round(float(start.ask - start.bid) / float(tick) / 2))
        bid, ask = tick * (middle - half), tick * (middle + half)
        if contract.sec_type == "CASH":
            return Quote(at, bid, ask, FOREX_SIZE, FOREX_SIZE)
        if round(at / self._step_s) % TRADED_EVERY:
            return Quote(at, bid, ask, SIZE, SIZE)
        return Quote(at, bid, ask, SIZE, SIZE, last=tick * middle, last_size=Decimal(1))


class _NoFigures(Figures):
    """Figures of a day of which nothing is known."""

    def of(self, instrument: Instrument, quote: Quote) -> Day:
        del instrument, quote
        return NOTHING_KNOWN


class MoodyGateway(Gateway):
    """A gateway whose market is in a mood; without figures of the day if need be."""

    def __init__(self, config: GatewayConfig, mood: Mood, step_s: float, *, has_figures: bool = True) -> None:
        self._mood, self._step_s = mood, step_s
        super().__init__(config)
        self._no_figures = None if has_figures else _NoFigures(self.market.prices, self.almanac)

    def figures_of(self, *, delayed: bool = False) -> Figures:
        """Open, high, low and volume of the day; none, if nobody looks at them."""
        return self._no_figures or super().figures_of(delayed=delayed)

    def _source(self, tapes: dict[int, Recording]) -> PriceSource:
        return MoodyPrices(self.config.seed, self._mood, self._step_s, super()._source(tapes))
