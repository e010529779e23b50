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
_VOLUME_PER_STEP = 150
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
        self._seed = seed
        self._paths: dict[int, BrownianPath] = {}
        self._references = {
            **{
                row.con_id: (row.reference, row.volatility / math.sqrt(_STOCK_STEPS_PER_YEAR)) for row in listing.STOCKS
            },
            **{row.con_id: (row.reference, row.volatility / math.sqrt(_FOREX_STEPS_PER_YEAR)) for row in listing.PAIRS},
        }

    def quote(self, contract: Contract, at_s: float) -> Quote | None:
        """The quote that holds at a gateway second."""
        if contract.con_id not in self._references:
            return None
        step = self._step(contract, at_s)
        reference, volatility = self._references[contract.con_id]
        key = f"{self._seed}/{contract.con_id}"
        path = self._paths.setdefault(contract.con_id, BrownianPath(key))
        middle = float(reference) * math.exp(volatility * path.at(step))
        noise = keyed_bytes(key, f"step:{step}")
        tick = contract.min_tick
        bid = tick * max(1, math.floor(middle / float(tick)))
        if contract.sec_type == "CASH":
            # A currency has no last price and no volume: it is not traded on an exchange.
            ask = bid + tick * (1 + noise[0] % 2)
            return Quote(self._start(contract, step), bid, ask, FOREX_SIZE, FOREX_SIZE, close=reference)
        ask = bid + tick * (1 + noise[0] % 3)
        return Quote(
            at=self._start(contract, step),
            bid=bid,
            ask=ask,
            bid_size=Decimal(100 * (1 + noise[1] % 9)),
            ask_size=Decimal(100 * (1 + noise[2] % 9)),
            last=bid if noise[3] % 2 else ask,
            last_size=Decimal(1 + noise[4]),
            volume=Decimal(step * _VOLUME_PER_STEP + noise[5] % _VOLUME_PER_STEP),
            close=reference,
        )

    def next_change(self, contract: Contract, after_s: float) -> float | None:
        """When the quote changes next."""
        return self._start(contract, self._step(contract, after_s) + 1)

    def _step(self, contract: Contract, at_s: float) -> int:
        return max(0, math.floor((at_s + _phase_s(contract)) / INTERVAL_S + _EPSILON_STEPS))

    def _start(self, contract: Contract, step: int) -> float:
        return step * INTERVAL_S - _phase_s(contract)


def _phase_s(contract: Contract) -> float:
    # Instruments do not all change in the same instant.
    return (contract.con_id % _PHASES) * (INTERVAL_S / _PHASES)
