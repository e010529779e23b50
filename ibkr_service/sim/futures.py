"""Which futures are listed: months, last trading days and contract ids, as pure functions of a product and a date.

Exchange holidays are not modelled; the rules for the last day are those of the exchanges otherwise.
"""

import calendar
from collections.abc import Callable
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal
from typing import Final

from ibkr_service.sim.listing import ROOTS, Root
from ibkr_service.sim.options import third_friday

MONTH_LETTERS: Final = "FGHJKMNQUVXZ"
EXPIRED_MONTHS: Final = 24
"""How far back contracts are known that have expired."""

_CON_ID_BASE = 700_000_000
_MONTHS_PER_ROOT = 10_000
_MONTHS_PER_YEAR = 12
_DAY = timedelta(days=1)
_SATURDAY = 5
_DAYS_PER_YEAR = 365


@dataclass(frozen=True, slots=True)
class Delivery:
    """One contract of a product: its month, its last trading day, and its id."""

    con_id: int
    year: int
    month: int
    expiry: date

    @property
    def code(self) -> str:
        """The trade's name for the month, ``Z6``."""
        return f"{MONTH_LETTERS[self.month - 1]}{self.year % 10}"

    @property
    def contract_month(self) -> str:
        """The month by which it is called, ``202612``."""
        return f"{self.year:04d}{self.month:02d}"


def deliveries(root: Root, today: date) -> tuple[tuple[Delivery, ...], tuple[Delivery, ...]]:
    """The contracts of a product: those that have expired, and those that are listed."""
    month = today.year * _MONTHS_PER_YEAR + today.month - 1 - EXPIRED_MONTHS
    expired: list[Delivery] = []
    listed: list[Delivery] = []
    while len(listed) < root.listed:
        delivery = _delivery(root, *divmod(month, _MONTHS_PER_YEAR))
        if MONTH_LETTERS[month % _MONTHS_PER_YEAR] in root.months:
            (expired if delivery.expiry < today else listed).append(delivery)
        month += 1
    return tuple(expired), tuple(listed)


def fair_price(root: Root, expiry: date, today: date) -> Decimal:
    """What a contract costs where the product's own price stands at its reference."""
    years = Decimal(max(0, (expiry - today).days)) / _DAYS_PER_YEAR
    return root.reference * (1 + Decimal(str(root.carry)) * years)


def root_of(con_id: int) -> Root | None:
    """Which product's contract an id belongs to; None when it is no future's."""
    number = (con_id - _CON_ID_BASE) // _MONTHS_PER_ROOT
    return next((root for root in ROOTS if root.number == number), None)


def _delivery(root: Root, year: int, month_index: int) -> Delivery:
    month = month_index + 1
    con_id = _CON_ID_BASE + root.number * _MONTHS_PER_ROOT + (year - 2000) * _MONTHS_PER_YEAR + month_index
    return Delivery(con_id, year, month, LAST_DAYS[root.expires](year, month))


def _before_the_25th(year: int, month: int) -> date:
    """Three business days before the 25th of the month before, four when that is a weekend: crude oil."""
    before = date(year, month, 1) - _DAY
    day = date(before.year, before.month, 25)
    return _business_days_back(day, 3 + (day.weekday() >= _SATURDAY))


def _third_last_day(year: int, month: int) -> date:
    """The third last business day of the month: metals."""
    last = date(year, month, calendar.monthrange(year, month)[1])
    return _business_days_back(last + _DAY, 3)


def _business_days_back(day: date, count: int) -> date:
    while count:
        day -= _DAY
        count -= day.weekday() < _SATURDAY
    return day


LAST_DAYS: Final[dict[str, Callable[[int, int], date]]] = {
    "third friday": third_friday,
    "before the 25th": _before_the_25th,
    "third last day": _third_last_day,
}
