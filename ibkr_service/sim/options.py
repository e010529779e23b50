"""Which options are listed: expiries, strikes and contract ids, as pure functions of a class of options and a date.

Contract ids are arithmetic, so that the same option has the same id on every day and in every run, and an id alone says
which class it belongs to. Exchange holidays are not modelled: every Friday is a trading day.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final

from ibkr_service.sim.listing import OPTION_CLASSES, OptionClass

DAILY_EXPIRIES: Final = 10
WEEKLY_EXPIRIES: Final = 4
MONTHLY_EXPIRIES: Final = 6
QUARTERLY_EXPIRIES: Final = 3
ENDS_OF_MONTHS: Final = 4

# The first twelve slots: base + ((slot * days + day) * half-dollar strikes + strike) * 2 + (1 for a put). Later ones
# count steps of the strike grid instead of half dollars, so that all of them stay below 2**31 until 2047.
_CON_ID_BASE = 1_000_000_000
_DAY_0 = date(2020, 1, 1)
_DAYS = 10_000
_HALF_DOLLARS = 4_000
_WIDE_SLOTS = 12
_IDS_PER_WIDE_SLOT = _DAYS * _HALF_DOLLARS * 2
_DENSE_BASE = _CON_ID_BASE + _WIDE_SLOTS * _IDS_PER_WIDE_SLOT
_STEPS_MAX = 256
_IDS_PER_SLOT = _DAYS * _STEPS_MAX * 2
SLOTS_MAX: Final = _WIDE_SLOTS + (2**31 - 1 - _DENSE_BASE) // _IDS_PER_SLOT

_FRIDAY = 4
_DAY = timedelta(days=1)
_WEEK = timedelta(days=7)
_DECEMBER = 12
_QUARTERS = frozenset({3, 6, 9, 12})

# Strike steps grow with the price, as on the real exchanges: (up to this price, the step in dollars).
_STRIKE_STEPS = (
    (20, Decimal("0.5")),
    (100, Decimal(1)),
    (300, Decimal("2.5")),
    (1_000, Decimal(5)),
    (10_000, Decimal(25)),
    (math.inf, Decimal(100)),
)

if any(row.slot >= SLOTS_MAX for row in OPTION_CLASSES) or len({row.slot for row in OPTION_CLASSES}) < len(
    OPTION_CLASSES
):
    raise AssertionError("contract ids of options would leave 31 bits, or meet")


@dataclass(frozen=True, slots=True)
class Series:
    """One option: `right` is C or P, `strike` in dollars."""

    con_id: int
    expiry: date
    strike: Decimal
    right: str


@dataclass(frozen=True, slots=True)
class Chain:
    """The options of one class."""

    symbol: str
    trading_class: str
    multiplier: str
    expiries: tuple[date, ...]
    strikes: tuple[Decimal, ...]
    series: tuple[Series, ...]


@lru_cache(maxsize=256)
def chain_of(row: OptionClass, today: date) -> Chain:
    """The options of a class that are listed on a day."""
    expiries = EXPIRY_RULES[row.expiries](today)
    strikes = strikes_around(row.reference, row.strikes_each_side)
    step = strike_step(row.reference)
    series = tuple(
        Series(con_id_of(row.slot, expiry, strike, right, step), expiry, strike, right)
        for expiry in expiries
        for strike in strikes
        for right in ("C", "P")
    )
    return Chain(row.symbol, row.trading_class, row.multiplier, expiries, strikes, series)


def expiries_from(today: date) -> tuple[date, ...]:
    """The next four Fridays, and the third Fridays of six months; today's expiry is still listed."""
    friday = today + timedelta(days=(_FRIDAY - today.weekday()) % 7)
    weekly = [friday + _WEEK * week for week in range(WEEKLY_EXPIRIES)]
    return tuple(sorted({*weekly, *third_fridays(today)}))


def daily_expiries_from(today: date) -> tuple[date, ...]:
    """The next ten weekdays as well."""
    days = (today + _DAY * n for n in range(DAILY_EXPIRIES * 2))
    weekdays = [day for day in days if day.weekday() <= _FRIDAY][:DAILY_EXPIRIES]
    return tuple(sorted({*weekdays, *expiries_from(today)}))


def third_fridays(today: date) -> tuple[date, ...]:
    """The third Fridays of six months, from today on."""
    return _of_months(today, third_friday, MONTHLY_EXPIRIES)


def quarterly(today: date) -> tuple[date, ...]:
    """The third Fridays of the last months of three quarters, from today on."""
    return tuple(day for day in _of_months(today, third_friday, 3 * QUARTERLY_EXPIRIES) if day.month in _QUARTERS)


def ends_of_months(today: date) -> tuple[date, ...]:
    """The last weekdays of four months, from today on."""
    return _of_months(today, _last_weekday, ENDS_OF_MONTHS)


def _of_months(today: date, day_of: Callable[[int, int], date], count: int) -> tuple[date, ...]:
    found: list[date] = []
    year, month = today.year, today.month
    while len(found) < count:
        if (expiry := day_of(year, month)) >= today:
            found.append(expiry)
        year, month = (year + 1, 1) if month == _DECEMBER else (year, month + 1)
    return tuple(found)


def _last_weekday(year: int, month: int) -> date:
    first_of_next = date(year + 1, 1, 1) if month == _DECEMBER else date(year, month + 1, 1)
    last = first_of_next - _DAY
    return last - _DAY * max(0, last.weekday() - _FRIDAY)


def third_friday(year: int, month: int) -> date:
    """The day on which most monthly contracts end."""
    first = date(year, month, 1)
    return first + timedelta(days=(_FRIDAY - first.weekday()) % 7) + 2 * _WEEK


EXPIRY_RULES: Final[dict[str, Callable[[date], tuple[date, ...]]]] = {
    "weekly": expiries_from,
    "daily": daily_expiries_from,
    "monthly": third_fridays,
    "quarterly": quarterly,
    "end of month": ends_of_months,
}


def strike_step(reference: Decimal) -> Decimal:
    """How far strikes are apart at a price."""
    return next(step for price_max, step in _STRIKE_STEPS if reference < price_max)


def strikes_around(reference: Decimal, each_side: int) -> tuple[Decimal, ...]:
    """Evenly spaced strikes on both sides of a price."""
    step = strike_step(reference)
    middle = round(reference / step)
    return tuple(step * n for n in range(max(1, middle - each_side), middle + each_side + 1))


def con_id_of(slot: int, expiry: date, strike: Decimal, right: str, step: Decimal) -> int:
    """The contract id of an option."""
    day = (expiry - _DAY_0).days % _DAYS
    if slot < _WIDE_SLOTS:
        return _CON_ID_BASE + ((slot * _DAYS + day) * _HALF_DOLLARS + int(strike * 2)) * 2 + (right == "P")
    row = (slot - _WIDE_SLOTS) * _DAYS + day
    return _DENSE_BASE + (row * _STEPS_MAX + int(strike / step) % _STEPS_MAX) * 2 + (right == "P")


def slot_of(con_id: int) -> int:
    """Which class an option's id belongs to; a number that no class has when it is no option's."""
    if con_id < _CON_ID_BASE:
        return -1
    if con_id < _DENSE_BASE:
        return (con_id - _CON_ID_BASE) // _IDS_PER_WIDE_SLOT
    return _WIDE_SLOTS + (con_id - _DENSE_BASE) // _IDS_PER_SLOT
