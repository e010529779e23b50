"""How to close all positions: a plan in stages, in which no sold option loses what covers it.

Each stage waits until the one before is done. Spreads are closed whole, as one order in fixed ratios:

1. single sold options are bought back;
2. spreads in which something is sold, first those that have no more bought options of a right than sold ones: what they
   have too many may cover something else;
3. with nothing sold any more, the options that were bought;
4. stock, futures and currencies, which may have covered options.

The stages are of all underlyings together; it costs a little time, and there is nothing to get wrong. Where a spread
does not trade as a whole, `whole=False` gives its legs, sold ones first by the same stages.
"""

from __future__ import annotations

from collections.abc import Mapping
from decimal import Decimal

import msgspec

from ibkr_service.core.combination import Spread
from ibkr_service.core.instrument import Action, AnyInstrument, Bag, Index, Instrument, Option, Other
from ibkr_service.core.intent import Traded
from ibkr_service.core.recognition import Recognised, recognise


class Step(msgspec.Struct, frozen=True):
    """One order of the plan."""

    traded: Traded
    action: Action
    quantity: Decimal

    def __str__(self) -> str:
        return f"{self.action} {self.quantity:f} {self.traded}"


Stage = tuple[Step, ...]


class Plan(msgspec.Struct, frozen=True):
    """Stages, each to be done before the next, and what nobody here can close."""

    stages: tuple[Stage, ...]
    left_alone: tuple[tuple[AnyInstrument, Decimal], ...] = ()


def plan(positions: Mapping[AnyInstrument, Decimal], *, whole: bool = True) -> Plan:
    """How to close these positions.

    Args:
        positions: signed quantities. whole: close spreads as such.
    """
    held = {one: quantity for one, quantity in positions.items() if quantity}
    alone = tuple((one, quantity) for one, quantity in held.items() if isinstance(one, Bag | Index | Other))
    can = {one: quantity for one, quantity in held.items() if (one, quantity) not in alone}
    found = recognise(can) if whole else Recognised((), tuple(can.items()))
    stages: tuple[list[Step], ...] = ([], [], [], [], [])
    for instrument, quantity in found.singles:
        step = _closing(instrument, quantity)
        is_option = isinstance(instrument, Option)
        stages[0 if is_option and quantity < 0 else 3 if is_option else 4].append(step)
    for spread, count in found.spreads:
        if all(leg.action == "BUY" for leg in spread.legs):
            stages[3].extend(_closing(leg.instrument, Decimal(leg.ratio * count)) for leg in spread.legs)
        elif all(leg.action == "SELL" for leg in spread.legs):
            stages[0].extend(_closing(leg.instrument, Decimal(-leg.ratio * count)) for leg in spread.legs)
        else:
            stages[2 if _has_more_bought(spread) else 1].append(Step(spread, "SELL", Decimal(count)))
    return Plan(tuple(tuple(stage) for stage in stages if stage), alone)


def _closing(instrument: Instrument, quantity: Decimal) -> Step:
    return Step(instrument, "SELL" if quantity > 0 else "BUY", abs(quantity))  # type: ignore[arg-type]  # of the union


def _has_more_bought(spread: Spread) -> bool:
    """Whether of calls, or of puts, more are bought than sold."""
    net = {"C": 0, "P": 0}
    for leg in spread.legs:
        if leg.option is not None:
            net[leg.option.right] += leg.signed
    return any(count > 0 for count in net.values())
