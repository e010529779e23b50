"""May this intent become an order? Pure: limits, intent, book and the time in; `None` or a refusal out.

The gate is `RULES`, a table of small functions (`rules.py`, `moneyrules.py`, `cover.py`) that are asked in order; the
first that objects is heard. Every refusal says which limit, its value and what was asked. Where a figure is unknown the
answer is no, or what its setting says: unknown is never treated as zero. docs/risk.md has the table of what each limit
counts and what passes it.

An order *reduces* if it makes every position that it touches smaller and turns none around, whatever else is working
(`core/exposure.py`). Reducing orders pass what exists to keep positions from being opened.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from functools import lru_cache

from ibkr_service.core import cover, moneyrules, rules
from ibkr_service.core.asked import Asked, HoursOf, Rule, no_hours
from ibkr_service.core.book import Book
from ibkr_service.core.errors import Refused
from ibkr_service.core.limits import Limits
from ibkr_service.core.orders import Intent, Order
from ibkr_service.core.payoff import Money
from ibkr_service.core.pricing import why_unusable

__all__ = ["Limits", "check", "check_change", "check_group", "why_unusable"]

# Each rule, and the limits under which it can refuse anything. Cheap ones first, and `notional` before those that need
# its price.
RULES: tuple[tuple[Rule, Callable[[Limits], bool]], ...] = (
    (rules.read_only, lambda limits: limits.read_only),
    (rules.link, lambda _: True),
    (rules.quantity, lambda _: True),
    (rules.rate, lambda _: True),
    (rules.symbols, lambda limits: bool(limits.symbols)),
    (rules.only_reducing, lambda _: True),
    (rules.restart_window, lambda limits: bool(limits.restart_windows)),
    (rules.duplicate, lambda limits: limits.duplicate_window_s > 0),
    (rules.open_orders, lambda _: True),
    (rules.trading_hours, lambda limits: limits.trading_hours != "off"),
    (moneyrules.notional, lambda _: True),
    (moneyrules.premium, lambda limits: limits.max_premium is not None),
    (moneyrules.loss, lambda limits: limits.max_loss is not None or not limits.allow_unlimited_loss),
    (cover.stays, lambda limits: not limits.allow_unlimited_loss),
    (moneyrules.daily_loss, lambda limits: limits.max_daily_loss is not None),
    (rules.position, lambda limits: limits.max_position is not None),
    (rules.strategy_position, lambda limits: limits.max_strategy_position is not None),
    (moneyrules.account_notional, lambda limits: limits.max_account_notional is not None),
    (moneyrules.collared, lambda limits: limits.collar_percent is not None),
)


@lru_cache(maxsize=64)
def rules_under(limits: Limits) -> tuple[Rule, ...]:
    """The rules that can refuse something under these limits."""
    return tuple(rule for rule, may_refuse in RULES if may_refuse(limits))


def check(  # noqa: PLR0913 - all that an answer depends on
    intent: Intent,
    strategy: str,
    limits: Limits,
    book: Book,
    *,
    now: datetime,
    mono_s: float,
    hours: HoursOf = no_hours,
    after: Intent | None = None,
    known_loss: Money | None = None,
) -> Refused | None:
    """The first limit that forbids the order, or None.

    Args:
        now: wall clock, for rates, windows and hours. mono_s: the event loop's time, for the age of quotes.
        hours: of a contract, as far as they are known. after: an intent that is taken as filled, such as the parent.
        known_loss: the most that can be lost with what it is a part of, if that was looked at as a whole.
    """
    filled = () if after is None else (after,)
    asked = Asked(
        intent, strategy, limits, book, now=now, mono_s=mono_s, hours=hours, after=filled, known_loss=known_loss
    )
    return _first(asked)


def check_change(
    intent: Intent,
    strategy: str,
    limits: Limits,
    book: Book,
    *,
    now: datetime,
    mono_s: float,
    hours: HoursOf = no_hours,
    order: Order,
) -> Refused | None:
    """As `check`, for new terms of an order that exists: there is no order more than before.

    Args:
        intent: the order as it is to be. order: as it is.
    """
    return _first(Asked(intent, strategy, limits, book, now=now, mono_s=mono_s, hours=hours, changing=order))


def check_group(
    intents: Sequence[Intent],
    strategy: str,
    limits: Limits,
    book: Book,
    *,
    now: datetime,
    mono_s: float,
    hours: HoursOf = no_hours,
    parent: Intent | None = None,
) -> Refused | None:
    """As `check`, for orders of which only one will fill, and only after their parent, if there is one.

    Each is held against positions as if the parent were filled and its siblings were not there; as messages and as open
    orders they count together. The parent is asked as well.
    """
    before = () if parent is None else (parent,)
    if parent is not None:
        refusal = _first(Asked(parent, strategy, limits, book, now=now, mono_s=mono_s, hours=hours))
        if refusal is not None:
            return refusal
    for number, intent in enumerate(intents):
        beside = (*before, *intents[:number])
        asked = Asked(intent, strategy, limits, book, now=now, mono_s=mono_s, hours=hours, after=before, beside=beside)
        refusal = _first(asked)
        if refusal is not None:
            return refusal
    return None


def _first(asked: Asked) -> Refused | None:
    for rule in rules_under(asked.limits):
        refusal = rule(asked)
        if refusal is not None:
            return refusal
    return None
