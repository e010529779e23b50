"""Bars of volatility: realised from daily closes, and implied by the simulator's own options."""

import math
from bisect import bisect_left
from collections.abc import Iterable, Iterator
from datetime import date
from decimal import Decimal
from itertools import islice, pairwise
from statistics import stdev
from typing import TYPE_CHECKING, Final

from ibkr_service.sim.bars import Bar, Window
from ibkr_service.sim.contracts import Contract, Instrument
from ibkr_service.sim.historyread import YEARS_MAX, years_before
from ibkr_service.sim.pricing import UNDERLYING_ROWS
from ibkr_service.sim.smile import smile
from ibkr_service.sim.walk import TRADING_DAYS_PER_YEAR

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

RETURNS: Final = 30
"""IB's historical volatility is that of thirty trading days."""

IMPLIED_YEARS: Final = 30 / 365
_DIGITS = 6
_CLOSES_MIN = 3
_JUST_BEFORE_S = 1e-3


def volatility_bars(gateway: "Gateway", instrument: Instrument, show: str, spans: Iterable[Window]) -> list[Bar]:
    """One value per day, whatever the size of the bars."""
    assert isinstance(instrument, Contract), "combos have no volatility"
    all_spans = list(spans)
    if not all_spans:
        return []
    days = sorted({window.day for window in all_spans})
    if show == "OPTION_IMPLIED_VOLATILITY":
        value = implied(instrument)
        known = dict.fromkeys(days, value) if value is not None else {}
    else:
        known = _realised_by_day(gateway, instrument, all_spans[-1].end, days)
    return [
        Bar(window.start, window.day, *(round(Decimal(known[window.day]), _DIGITS),) * 4)
        for window in all_spans
        if window.day in known
    ]


def _realised_by_day(gateway: "Gateway", contract: Contract, end_s: float, days: list[date]) -> dict[date, float]:
    """The realised volatility before each of some days."""
    closes = dict(_closes_before(gateway, contract, end_s, len(days) + RETURNS + 1))
    dates = sorted(closes)
    known: dict[date, float] = {}
    for day in days:
        past = dates[: bisect_left(dates, day)][-RETURNS - 1 :]
        if (value := _deviation([closes[each] for each in past])) is not None:
            known[day] = value
    return known


def implied(contract: Contract) -> float | None:
    """The volatility per year of an option of thirty days at the money; None for what has no options."""
    row = UNDERLYING_ROWS.get(contract.con_id)
    return None if row is None else smile(row.volatility, 1.0, 1.0, IMPLIED_YEARS)


def realised(gateway: "Gateway", contract: Contract, second: float) -> float | None:
    """The volatility per year of the thirty daily returns before a moment."""
    closes = [close for _, close in _closes_before(gateway, contract, second, RETURNS + 1)]
    return _deviation(closes[::-1])


def _closes_before(gateway: "Gateway", contract: Contract, second: float, count: int) -> Iterator[tuple[date, float]]:
    """Closing prices of the sessions that had ended before a moment, the latest first."""
    prices = gateway.market.prices
    floor = years_before(second, YEARS_MAX)
    ended = (
        each for each in gateway.almanac.back_from(contract, second, regular=True, floor=floor) if each.end <= second
    )
    for session in islice(ended, count):
        quote = prices.quote(contract, session.end - prices.started_s - _JUST_BEFORE_S)
        if quote is None:
            return
        yield session.day, float(quote.mid)


def _deviation(closes: list[float]) -> float | None:
    if len(closes) < _CLOSES_MIN:
        return None
    return stdev(math.log(later / earlier) for earlier, later in pairwise(closes)) * math.sqrt(TRADING_DAYS_PER_YEAR)
