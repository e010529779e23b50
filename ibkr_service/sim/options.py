"""Which options are listed on a stock: expiries, strikes and contract ids, as pure functions of the stock and a date.

Contract ids are arithmetic, so that the same option has the same id on every day and in every run, and an id alone says
which stock it belongs to. Exchange holidays are not modelled: every Friday is a trading day.
"""

from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from functools import lru_cache
from typing import Final

from ibkr_service.sim.listing import SLOTS_MAX, STOCKS, Stock

MULTIPLIER: Final = "100"
WEEKLY_EXPIRIES: Final = 4
MONTHLY_EXPIRIES: Final = 6
STRIKES_EACH_SIDE: Final = 15

# id = base + ((slot * days + day) * half-dollar strikes + strike) * 2 + (1 for a put): below 2**31 for 14 stocks
# until 2047.
_CON_ID_BASE = 1_000_000_000
_DAY_0 = date(2020, 1, 1)
_DAYS = 10_000
_HALF_DOLLARS = 4_000
_IDS_PER_SLOT = _DAYS * _HALF_DOLLARS * 2

_FRIDAY = 4
_WEEK = timedelta(days=7)

# Strike steps grow with the price, as on the real exchanges: (up to this price, the step in dollars).
_STRIKE_STEPS = ((100, Decimal(1)), (300, Decimal("2.5")), (100_000, Decimal(5)))

if any(row.slot >= SLOTS_MAX for row in STOCKS):
    raise AssertionError("contract ids of options would leave 31 bits")


@dataclass(frozen=True, slots=True)
class Series:
    """One option: `right` is C or P, `strike` in dollars."""

    con_id: int
    expiry: date
    strike: Decimal
    right: str


@dataclass(frozen=True, slots=True)
class Chain:
    """The options of one stock."""

    symbol: str
    expiries: tuple[date, ...]
    strikes: tuple[Decimal, ...]
    series: tuple[Series, ...]


@lru_cache(maxsize=256)
def chain_of(stock: Stock, today: date) -> Chain:
    """The options that are listed on a stock on a day."""
    expiries = expiries_from(today)
    strikes = strikes_around(stock.reference)
    series = tuple(
        Series(con_id_of(stock.slot, expiry, strike, right), expiry, strike, right)
        for expiry in expiries
        for strike in strikes
        for right in ("C", "P")
    )
    return Chain(stock.symbol, expiries, strikes, series)


def expiries_from(today: date) -> tuple[date, ...]:
    """The next four Fridays, and the third Fridays of six months; today's expiry is still listed."""
    friday = today + timedelta(days=(_FRIDAY - today.weekday()) % 7)
    weekly = [friday + _WEEK * week for week in range(WEEKLY_EXPIRIES)]
    monthly: list[date] = []
    year, month = today.year, today.month
    while len(monthly) < MONTHLY_EXPIRIES:
        if (expiry := _third_friday(year, month)) >= today:
            monthly.append(expiry)
        year, month = (year + 1, 1) if month == 12 else (year, month + 1)  # noqa: PLR2004  December
    return tuple(sorted({*weekly, *monthly}))


def _third_friday(year: int, month: int) -> date:
    first = date(year, month, 1)
    return first + timedelta(days=(_FRIDAY - first.weekday()) % 7) + 2 * _WEEK


def strikes_around(reference: Decimal) -> tuple[Decimal, ...]:
    """Evenly spaced strikes on both sides of a price."""
    step = next(step for price_max, step in _STRIKE_STEPS if reference < price_max)
    middle = round(reference / step)
    return tuple(step * n for n in range(max(1, middle - STRIKES_EACH_SIDE), middle + STRIKES_EACH_SIDE + 1))


def con_id_of(slot: int, expiry: date, strike: Decimal, right: str) -> int:
    """The contract id of an option."""
    day = (expiry - _DAY_0).days % _DAYS
    return _CON_ID_BASE + ((slot * _DAYS + day) * _HALF_DOLLARS + int(strike * 2)) * 2 + (right == "P")


def slot_of(con_id: int) -> int:
    """Which stock's option an id belongs to; a number that no stock has when it is no option's."""
    return (con_id - _CON_ID_BASE) // _IDS_PER_SLOT if con_id >= _CON_ID_BASE else -1
