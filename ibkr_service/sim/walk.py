"""Seeded prices: a random walk that is a *function* of time.

Brownian motion is built by midpoint displacement, each random number drawn from a hash of (seed, instrument, place in
the path). So the price at any moment can be computed alone, in a few microseconds, and never depends on who looked
before.

Simplifications: markets are open round the clock, the walk has no drift, and yesterday's close is the reference price.
"""

import math
from decimal import Decimal
from statistics import NormalDist
from typing import Final

from ibkr_service.sim import listing
from ibkr_service.sim.chance import keyed_bytes
from ibkr_service.sim.contracts import Contract
from ibkr_service.sim.quotes import Quote

INTERVAL_S: Final = 0.25
"""How often a quote changes: about what IB sends for a liquid stock."""

FOREX_SIZE: Final = Decimal(1_000_000)

_STEPS_PER_SPAN = 1 << 18  # about 18 hours between two anchors of the path
_STOCK_STEPS_PER_YEAR = 252 * 6.5 * 3600 / INTERVAL_S
_FOREX_STEPS_PER_YEAR = 260 * 24 * 3600 / INTERVAL_S
_PHASES = 25
_EPSILON_STEPS = 1e-6  # a timer may fire this much early
_UNIFORM_BITS = 52
_STEPS_PER_TRADE = 4  # a trade a second, a new size every half
_STEPS_PER_SIZE = 2
_VOLUME_PER_TRADE = 600
_NORMAL = NormalDist()


class BrownianPath:
    """A standard Brownian motion: `at(n)` has variance n, and is the same in whatever order it is asked for."""

    def __init__(self, key: str) -> None:
        self._key = key
        self._anchors = [0.0]
        self._open: list[tuple[int, int, float, float]] = []

    def at(self, step: int) -> float:
        """The value after a number of steps, 0 or more."""
        span, _ = divmod(step, _STEPS_PER_SPAN)
        stack = self._open
        while stack and not stack[-1][0] <= step < stack[-1][1]:
            stack.pop()
        if not stack:
            low = span * _STEPS_PER_SPAN
            stack.append((low, low + _STEPS_PER_SPAN, self._anchor(span), self._anchor(span + 1)))
        low, high, at_low, at_high = stack[-1]
        while high - low > 1:
            middle = (low + high) // 2
            at_middle = (at_low + at_high) / 2 + math.sqrt((high - low) / 4) * self._gauss(f"{low}:{high}")
            if step < middle:
                high, at_high = middle, at_middle
            else:
                low, at_low = middle, at_middle
            stack.append((low, high, at_low, at_high))
        return at_low

    def _anchor(self, span: int) -> float:
        while len(self._anchors) <= span:
            step = math.sqrt(_STEPS_PER_SPAN) * self._gauss(f"anchor:{len(self._anchors)}")
            self._anchors.append(self._anchors[-1] + step)
        return self._anchors[span]

    def _gauss(self, place: str) -> float:
        bits = int.from_bytes(keyed_bytes(self._key, place), "big") >> (64 - _UNIFORM_BITS)
        return _NORMAL.inv_cdf((bits + 0.5) / (1 << _UNIFORM_BITS))


class RandomWalk:
    """A price source for stocks and currency pairs."""

    def __init__(self, seed: int) -> None:
        self._walkers: dict[int, _Walker] = {}
        for rows, steps_per_year in ((listing.STOCKS, _STOCK_STEPS_PER_YEAR), (listing.PAIRS, _FOREX_STEPS_PER_YEAR)):
            for row in rows:
                volatility = row.volatility / math.sqrt(steps_per_year)
                self._walkers[row.con_id] = _Walker(f"{seed}/{row.con_id}", row.reference, volatility, row.con_id)

    def quote(self, contract: Contract, at_s: float) -> Quote | None:
        """The quote that holds at a gateway second."""
        walker = self._walkers.get(contract.con_id)
        return None if walker is None else walker.quote(contract, walker.step_at(at_s))

    def next_change(self, contract: Contract, after_s: float) -> float | None:
        """When the quote changes next."""
        walker = self._walkers.get(contract.con_id)
        return None if walker is None else walker.start_of(walker.step_at(after_s) + 1)


class _Walker:
    """One instrument's walk; it remembers its latest quote, since an option chain asks for it over and over."""

    def __init__(self, key: str, reference: Decimal, volatility: float, con_id: int) -> None:
        self._key = key
        self._reference = reference
        self._volatility = volatility
        self._path = BrownianPath(key)
        # Instruments do not all change in the same instant.
        self._phase_s = (con_id % _PHASES) * (INTERVAL_S / _PHASES)
        self._latest: tuple[int, Quote] | None = None
        self._latest_trade: tuple[int, Decimal] | None = None

    def step_at(self, at_s: float) -> int:
        return max(0, math.floor((at_s + self._phase_s) / INTERVAL_S + _EPSILON_STEPS))

    def start_of(self, step: int) -> float:
        return step * INTERVAL_S - self._phase_s

    def quote(self, contract: Contract, step: int) -> Quote:
        if self._latest is None or self._latest[0] != step:
            self._latest = (
                step,
                self._pair(contract, step) if contract.sec_type == "CASH" else self._stock(contract, step),
            )
        return self._latest[1]

    def _pair(self, contract: Contract, step: int) -> Quote:
        # A currency has no last price and no volume: it is not traded on an exchange.
        bid, ask = self._sides(contract, step)
        return Quote(self.start_of(step), bid, ask, FOREX_SIZE, FOREX_SIZE, close=self._reference)

    def _stock(self, contract: Contract, step: int) -> Quote:
        bid, ask = self._sides(contract, step)
        trade = step // _STEPS_PER_TRADE
        sizes = keyed_bytes(self._key, f"sizes:{step // _STEPS_PER_SIZE}")
        traded = keyed_bytes(self._key, f"trade:{trade}")
        return Quote(
            at=self.start_of(step),
            bid=bid,
            ask=ask,
            bid_size=Decimal(100 * (1 + sizes[0] % 9)),
            ask_size=Decimal(100 * (1 + sizes[1] % 9)),
            last=self._last(contract, trade, traded[0]),
            last_size=Decimal(1 + traded[1]),
            volume=Decimal(trade * _VOLUME_PER_TRADE + traded[2] % _VOLUME_PER_TRADE),
            close=self._reference,
        )

    def _last(self, contract: Contract, trade: int, luck: int) -> Decimal:
        """The price of a trade: one side of the quote at its time."""
        if self._latest_trade is None or self._latest_trade[0] != trade:
            sides = self._sides(contract, trade * _STEPS_PER_TRADE)
            self._latest_trade = trade, sides[luck % 2]
        return self._latest_trade[1]

    def _sides(self, contract: Contract, step: int) -> tuple[Decimal, Decimal]:
        tick = contract.min_tick
        middle = float(self._reference) * math.exp(self._volatility * self._path.at(step))
        ticks = max(1, math.floor(middle / float(tick)))
        spread_max = 2 if contract.sec_type == "CASH" else 3
        spread = 1 + keyed_bytes(self._key, f"spread:{step}")[0] % spread_max
        return tick * ticks, tick * (ticks + spread)
