"""Why the broker holds something else than our executions say, where that can be told. Pure.

What happens to positions without an order, and how it is recognised:

- *expiry*: an option or future whose last day is over is gone.
- *assignment*, *exercise*: options are gone, and what they are options on has moved by exactly what they deliver. A
  short option is assigned, a long one exercised; before expiry, too. Several at once are one sum: a spread that was
  assigned on one leg, some options of many.
- *split*: quantity and average cost of shares changed in inverse proportion, by a ratio of small numbers. Shares that
  nobody paid for are no trade. Of few options a trade may look the same; an option that was split is another contract.

A difference that fits none of these is not explained here. What is proposed fits exactly or not at all; no price is
asked for, since it is gone by the time anybody asks.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time
from decimal import Decimal
from fractions import Fraction
from itertools import product
from math import prod
from typing import Literal
from zoneinfo import ZoneInfo

import msgspec

from ibkr_service.core.instrument import AnyInstrument, AnyOption, Future, FutureOption, Option, Stock

Explanation = Literal["expiry", "assignment", "exercise", "split"]

BROKER_ZONE = ZoneInfo("America/New_York")
CLOSE = time(16, 0)
TRIALS_MAX = 100_000  # ways in which some of many options may have been assigned; beyond, all or none of each
SPLIT_PARTS_MAX = 100  # 3 for 2, 1 for 50 … are splits; 137 for 91 is none
SPLIT_TOLERANCE = Decimal("0.005")  # of the total cost: TWS rounds average costs, and pays fractions of a share in cash

ZERO = Decimal(0)


class Difference(msgspec.Struct, frozen=True, kw_only=True):
    """One position of an account: what our executions say, and what the broker says.

    Costs are TWS's average costs per contract, of the last look that agreed and of now; None where not known.
    """

    con_id: int
    instrument: AnyInstrument
    ours: Decimal
    theirs: Decimal
    cost_before: Decimal | None = None
    cost_after: Decimal | None = None

    @property
    def moved(self) -> Decimal:
        """What the broker has more than we."""
        return self.theirs - self.ours

    @property
    def is_less(self) -> bool:
        """Whether all or a part of what was held is gone."""
        return abs(self.theirs) < abs(self.ours) and self.theirs * self.ours >= 0


class Lapsed(msgspec.Struct, frozen=True):
    """Options that were booked as expired: what they delivered may show only later."""

    instrument: AnyOption
    gone: Decimal


def group_of(instrument: AnyInstrument) -> tuple[str, str]:
    """What may have moved together: an underlying and everything on it."""
    return getattr(instrument, "symbol", ""), getattr(instrument, "currency", "")


def is_over(instrument: AnyInstrument, now: datetime) -> bool:
    """Whether its last day has ended, by the stock exchanges' close in New York."""
    text = getattr(instrument, "expiry", "")
    if not isinstance(instrument, (Option, Future)) or not (len(text) == len("20261218") and text.isdigit()):
        return False
    here = now.astimezone(BROKER_ZONE)
    try:
        last = date(int(text[:4]), int(text[4:6]), int(text[6:]))
    except ValueError:
        return False
    return here.date() > last or (here.date() == last and here.time() >= CLOSE)


def explain(differences: Iterable[Difference], now: datetime, lapsed: Sequence[Lapsed] = ()) -> dict[int, Explanation]:
    """The causes of the differences of one account, by conId; those without one are left out.

    Args:
        now: when the broker was asked. lapsed: what expired in the last days.
    """
    groups: defaultdict[tuple[str, str], list[Difference]] = defaultdict(list)
    for difference in differences:
        groups[group_of(difference.instrument)].append(difference)
    causes: dict[int, Explanation] = {}
    for group, members in groups.items():
        splits = dict.fromkeys(_splits(members), "split")
        rest = [one for one in members if one.con_id not in splits]
        causes |= splits  # type: ignore[arg-type]  # "split" it is
        causes |= _deliveries(rest, now, [old for old in lapsed if group_of(old.instrument) == group])
        for one in rest:
            if one.con_id not in causes and one.is_less and is_over(one.instrument, now):
                causes[one.con_id] = "expiry"
    return causes


# --- splits ----------------------------------------------------------------------------------------------------------


def _splits(members: Sequence[Difference]) -> Iterator[int]:
    for one in members:
        is_share = isinstance(one.instrument, Stock)
        if is_share and _is_split(one.ours, one.cost_before, one.theirs, one.cost_after):
            yield one.con_id
    # An option is another contract when its strike was divided: the old one is gone, the new one was never bought.
    for old, new in product(members, members):
        if isinstance(old.instrument, Option) and isinstance(new.instrument, Option) and not (old.theirs or new.ours):
            was, is_now = old.instrument, new.instrument
            ratio = Decimal(repr(was.strike)) / Decimal(repr(is_now.strike))
            same = (was.expiry, was.right) == (is_now.expiry, is_now.right)
            if (
                same
                and new.theirs == old.ours * ratio
                and _is_split(old.ours, old.cost_before, new.theirs, new.cost_after)
            ):
                yield old.con_id
                yield new.con_id


def _is_split(before: Decimal, cost_before: Decimal | None, after: Decimal, cost_after: Decimal | None) -> bool:
    """Whether the same money is held in another number of pieces."""
    if not cost_before or not cost_after or cost_before < 0 or cost_after < 0 or before * after <= 0:
        return False
    ratio = Fraction(cost_before / cost_after).limit_denominator(SPLIT_PARTS_MAX)
    if ratio in {0, 1} or ratio.numerator > SPLIT_PARTS_MAX:
        return False
    exact = Decimal(ratio.numerator) / Decimal(ratio.denominator)
    is_ratio = abs(cost_before / cost_after / exact - 1) <= SPLIT_TOLERANCE
    paid_out = abs(before) * exact - abs(after)  # a fraction of a share; more than there was is a trade
    return is_ratio and 0 <= paid_out < 1 and after != before


# --- options that deliver --------------------------------------------------------------------------------------------


class _Candidate(msgspec.Struct, frozen=True):
    """Options that are gone: how many may have delivered, and what each delivers."""

    con_id: int | None  # None: booked as expired before
    is_short: bool
    unit: Decimal  # of the underlying, per option, signed
    counts: tuple[int, ...]  # how many may have delivered, all or none first


def _deliveries(members: Sequence[Difference], now: datetime, lapsed: Sequence[Lapsed]) -> dict[int, Explanation]:
    """Which of the options that are gone account for what their underlying has moved by."""
    underlying = [one for one in members if isinstance(one.instrument, (Stock, Future))]
    gone = [one for one in members if isinstance(one.instrument, Option) and one.is_less]
    if len(underlying) > 1 or not (gone or lapsed) or any(_is_fraction(one.moved) for one in gone):
        return {}
    moved = underlying[0].moved if underlying else ZERO
    candidates = [
        _candidate(one.con_id, one.instrument, -one.moved, may_lapse=is_over(one.instrument, now))
        for one in gone
        if isinstance(one.instrument, Option)
    ] + [_candidate(None, old.instrument, old.gone, may_lapse=True) for old in lapsed]
    chosen = _choose(candidates, moved) if moved else None
    if chosen is None:
        return {}
    causes: dict[int, Explanation] = {}
    shorts = False
    for candidate, count in zip(candidates, chosen, strict=True):
        shorts |= bool(count) and candidate.is_short
        if candidate.con_id is not None:
            delivered: Explanation = "assignment" if candidate.is_short else "exercise"
            causes[candidate.con_id] = delivered if count else "expiry"
    causes[underlying[0].con_id] = "assignment" if shorts else "exercise"
    return causes


def _candidate(con_id: int | None, option: Option, gone: Decimal, *, may_lapse: bool) -> _Candidate:
    """`gone` options, signed as they were held."""
    each = Decimal(1) if isinstance(option, FutureOption) else Decimal(option.multiplier or 100)
    whole = int(abs(gone))
    counts = (0, whole, *range(1, whole)) if may_lapse else (whole,)
    sign = (1 if gone > 0 else -1) * (1 if option.right == "C" else -1)
    return _Candidate(con_id, gone < 0, sign * each, counts)


def _choose(candidates: Sequence[_Candidate], moved: Decimal) -> tuple[int, ...] | None:
    """How many of each have delivered: as few contracts as possible, all or none of one where that is enough."""
    plain = [candidate.counts[:2] for candidate in candidates]
    every = [candidate.counts for candidate in candidates]
    for counts in (plain, every):
        if prod(len(one) for one in counts) > TRIALS_MAX:
            continue
        fitting = [
            way
            for way in product(*counts)
            if sum((c.unit * n for c, n in zip(candidates, way, strict=True)), ZERO) == moved
        ]
        if fitting:
            return min(fitting, key=lambda way: (sum(1 for n in way if n), sum(way)))
    return None


def _is_fraction(quantity: Decimal) -> bool:
    return quantity != quantity.to_integral_value()
