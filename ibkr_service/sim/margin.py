"""Margin: what an account must have to hold what it holds.

Reg T, as IB states it on its margin pages ("US stocks", "US options", "Spot currencies"):

    stocks          50 % at first, 25 % later; short ones 50 % and 30 %
    long options    nothing: they are paid for, and lend no equity
    short options   market value + max(20 % of the underlying - out of the money, 10 % of it; of a put's strike)
    covered calls   nothing beyond the stock; so short puts covered by a short stock
    spreads         the most that can be lost at expiry, found at every strike: verticals, butterflies, condors; a
                    long leg must live as long as the short one that it covers
    futures         an amount per contract, or a percentage of the value
    currencies      a percentage of every balance that is not in US dollars

Simplifications: no portfolio margin, no concentration or volatility surcharges, no look-ahead; a margin deficiency
closes nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from decimal import Decimal
from itertools import groupby
from typing import Final

from ibkr_service.sim.contracts import Contract

INITIAL_RATE: Final = Decimal("0.50")
MAINTENANCE_RATE: Final = Decimal("0.25")
SHORT_MAINTENANCE_RATE: Final = Decimal("0.30")
SHORT_OPTION_RATE: Final = Decimal("0.20")
SHORT_OPTION_RATE_MIN: Final = Decimal("0.10")
FOREX_RATE: Final = Decimal("0.03")
FUTURE_RATES: Final = (Decimal("0.08"), Decimal("0.07"))
FUTURES: Final[dict[str, tuple[Decimal, Decimal]]] = {
    "ES": (Decimal(23_500), Decimal(21_400)),
    "MES": (Decimal(2_350), Decimal(2_140)),
    "NQ": (Decimal(34_000), Decimal(31_000)),
    "MNQ": (Decimal(3_400), Decimal(3_100)),
    "CL": (Decimal(7_200), Decimal(6_500)),
    "GC": (Decimal(16_500), Decimal(15_000)),
}
"""Product → initial and maintenance margin of one contract, of the order of those of 2025; others by percentage."""

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Held:
    """So much of a contract, and what it and its underlying cost; money in the contract's currency."""

    contract: Contract
    quantity: Decimal
    price: Decimal
    under_price: Decimal = _ZERO


@dataclass(frozen=True, slots=True)
class Requirement:
    """Initial and maintenance margin."""

    initial: Decimal = _ZERO
    maintenance: Decimal = _ZERO

    def __add__(self, other: "Requirement") -> "Requirement":
        return Requirement(self.initial + other.initial, self.maintenance + other.maintenance)

    def times(self, factor: Decimal) -> "Requirement":
        """So many times as much: in another currency."""
        return Requirement(self.initial * factor, self.maintenance * factor)


def of_plain(held: Held) -> Requirement:
    """The margin of what has no options on it in the account: stocks and futures."""
    worth = abs(held.quantity * held.price * held.contract.units)
    match held.contract.sec_type:
        case "CASH" | "OPT" | "FOP":
            return Requirement()
        case "FUT":
            per_contract = FUTURES.get(held.contract.symbol)
            if per_contract is None:
                return Requirement(worth * FUTURE_RATES[0], worth * FUTURE_RATES[1])
            return Requirement(abs(held.quantity) * per_contract[0], abs(held.quantity) * per_contract[1])
        case _:
            later = MAINTENANCE_RATE if held.quantity > 0 else SHORT_MAINTENANCE_RATE
            return Requirement(worth * INITIAL_RATE, worth * later)


def of_options(options: Iterable[Held], stock: Decimal) -> Decimal:
    """The margin of all options on one underlying, of which so much is held."""
    uncovered = _without_covered(list(options), stock)
    if not any(held.quantity < 0 for held in uncovered):
        return _ZERO
    naked = _spreads_and_naked(uncovered)
    lost = _most_lost(uncovered)
    return naked if lost is None else min(naked, lost)


def _without_covered(options: list[Held], stock: Decimal) -> list[Held]:
    """What is left when the stock has covered the short calls (long stock) or the short puts (short stock)."""
    right, shares = ("C", stock) if stock > 0 else ("P", -stock)
    left: list[Held] = []
    for held in sorted(options, key=lambda each: each.contract.strike, reverse=right == "P"):
        covered = _ZERO
        if held.quantity < 0 and held.contract.right == right:
            covered = min(-held.quantity, shares // held.contract.units)
            shares -= covered * held.contract.units
        if held.quantity + covered:
            left.append(replace(held, quantity=held.quantity + covered))
    return left


def naked(short: Held) -> Decimal:
    """IB's formula for one uncovered short option contract."""
    contract, under = short.contract, short.under_price
    if contract.right == "C":
        out_of_the_money, floor = max(_ZERO, contract.strike - under), under
    else:
        out_of_the_money, floor = max(_ZERO, under - contract.strike), contract.strike
    share = max(SHORT_OPTION_RATE * under - out_of_the_money, SHORT_OPTION_RATE_MIN * floor)
    return (short.price + share) * contract.units


def _spreads_and_naked(options: list[Held]) -> Decimal:
    """Each short option with the cheapest long one that covers it, what remains naked."""
    total = _ZERO
    for _, group in groupby(sorted(options, key=_right), key=_right):
        members = list(group)
        longs = {n: held.quantity for n, held in enumerate(members) if held.quantity > 0}
        for short in (held for held in members if held.quantity < 0):
            left = -short.quantity
            covers = [n for n in longs if members[n].contract.expiry >= short.contract.expiry]
            for n in sorted(covers, key=lambda n: _width(short, members[n])):
                width = _width(short, members[n])
                paired = min(left, longs[n])
                if width >= naked(short) or not paired:
                    continue
                total += paired * width
                left -= paired
                longs[n] -= paired
            total += left * naked(short)
    return total


def _right(held: Held) -> str:
    return held.contract.right


def _width(short: Held, long: Held) -> Decimal:
    """What a vertical spread of one contract each can lose, premiums aside."""
    direction = 1 if short.contract.right == "C" else -1
    return max(_ZERO, (long.contract.strike - short.contract.strike) * direction) * short.contract.units


def _most_lost(options: list[Held]) -> Decimal | None:
    """The most that all options together can pay at expiry, None when that has no end; premiums aside."""
    latest = max(held.contract.expiry for held in options if held.quantity < 0)
    lasting = [held for held in options if held.quantity < 0 or held.contract.expiry >= latest]
    calls = sum((held.quantity * held.contract.units for held in lasting if held.contract.right == "C"), _ZERO)
    if calls < 0:
        return None
    worst = min(_paid(lasting, spot) for spot in [_ZERO, *(held.contract.strike for held in lasting)])
    return max(_ZERO, -worst)


def _paid(options: list[Held], spot: Decimal) -> Decimal:
    return sum((held.quantity * intrinsic(held.contract, spot) * held.contract.units for held in options), _ZERO)


def intrinsic(option: Contract, spot: Decimal) -> Decimal:
    """What exercising an option is worth, per unit of the underlying."""
    return max(_ZERO, spot - option.strike if option.right == "C" else option.strike - spot)
