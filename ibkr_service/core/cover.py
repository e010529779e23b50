"""What covers a sold call stays: neither shares nor bought calls are sold away from under it.

An order that only reduces can leave a loss without bound all the same: the bought call of a spread that is sold singly,
the shares under a sold call. So the account as it is now is held against the worst that it can become: this order
and any of those that work fill, and none that would help. Orders of which only one can fill count once, and the exits
of an entry that still works only with what they have beyond it: TWS sends them out as the entry fills.

A bought call covers as long as it lives, whatever its strike: the loss has a bound then. What settles at another hour
of the same day, in another currency or in what a split has left covers nothing. Puts are not looked at, since what they
lose has a bound; neither are short shares, nor options on futures.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from decimal import Decimal
from typing import NamedTuple

from ibkr_service.core.asked import Asked
from ibkr_service.core.book import Book
from ibkr_service.core.bracket import OCA_TYPES
from ibkr_service.core.errors import Refused
from ibkr_service.core.exposure import Move
from ibkr_service.core.instrument import AnyInstrument, Bag, Option, Stock
from ibkr_service.core.intent import FieldValue, Intent
from ibkr_service.core.legs import adjusted_class, series_of
from ibkr_service.core.orders import ZERO, Order
from ibkr_service.core.working import left_of, moves

# Of the third type more than one can fill (https://interactivebrokers.github.io/tws-api/oca.html).
ONE_FILLS = frozenset({OCA_TYPES["cancel"], OCA_TYPES["reduce"]})
Series = tuple[str, str]


class Delivery(NamedTuple):
    """What calls deliver: shares, or what a split or merger has made of them (`adjusted`)."""

    symbol: str
    currency: str
    adjusted: str = ""

    @classmethod
    def of(cls, contract: AnyInstrument) -> Delivery | None:
        """What a contract is, or delivers; None: it is neither a share nor a call on one."""
        if isinstance(contract, Stock):
            return cls(contract.symbol, contract.currency)
        if type(contract) is Option and contract.right == "C":
            return cls(contract.symbol, contract.currency, adjusted_class(contract))
        return None


class State(NamedTuple):
    """Calls by their series, in the shares that they deliver, and shares; signed. A position, or what an order does."""

    calls: Mapping[Series, Decimal]
    shares: Decimal

    @classmethod
    def of(cls, parts: Iterable[Move], delivery: Delivery) -> State:
        """What is in it of this delivery."""
        calls: dict[Series, Decimal] = {}
        shares = ZERO
        for contract, signed in parts:
            if Delivery.of(contract) != delivery:
                continue
            if isinstance(contract, Option):
                series = series_of(contract)
                calls[series] = calls.get(series, ZERO) + signed * Decimal(contract.multiplier or 1)
            else:
                shares += signed
        return cls(calls, shares)

    def plus(self, other: State, times: int = 1) -> State:
        """Both together."""
        calls = {
            series: self.calls.get(series, ZERO) + times * other.calls.get(series, ZERO)
            for series in {**self.calls, **other.calls}
        }
        return State(calls, self.shares + times * other.shares)

    @property
    def days(self) -> set[str]:
        """When calls in it expire."""
        return {day for day, _ in self.calls}

    def needs(self, day: str) -> Decimal:
        """How many shares calls that expire on this day would need, beyond what later calls cover."""
        due = sum((max(-size, ZERO) for (expiry, _), size in self.calls.items() if expiry == day), ZERO)
        return due - sum((size for (expiry, _), size in self.calls.items() if expiry > day), ZERO)

    @property
    def uncovered(self) -> Decimal:
        """On so many shares calls are sold that nothing covers. Short shares are no concern of this rule."""
        return max((self.needs(day) - max(self.shares, ZERO) for day in self.days), default=ZERO)

    def adds(self, day: str) -> Decimal:
        """How many shares more an order makes calls need that are sold until this day; < 0: fewer."""
        return -sum((size for (expiry, _), size in self.calls.items() if expiry >= day), ZERO)

    def takes(self, day: str) -> Decimal:
        """How much of what covers these calls an order takes; < 0: it gives."""
        return self.adds(day) - self.shares


def stays(asked: Asked) -> Refused | None:
    """Whether every sold call keeps its cover, or has no less than now, whatever of the orders at work fills."""
    order = asked.changing
    if order is None and all(signed > 0 for _, signed in asked.moves):
        return None
    before = () if order is None else moves(order.intent, left_of(order))
    for delivery in {Delivery.of(contract) for contract, _ in (*asked.moves, *before)} - {None}:
        assert delivery is not None, "those were taken out"
        now = State.of((*_held(asked), *_filled(asked.after)), delivery)
        units = _units(asked, delivery)
        days = now.days.union(*(one.days for members in units for one in members))
        change = State.of(asked.moves, delivery).plus(State.of(before, delivery), -1)
        if not any(change.adds(day) > 0 or change.takes(day) > 0 for day in days):
            continue  # nothing is sold that was not to be sold before
        worst = max((_worst(now, units, day) for day in days), default=ZERO)
        if worst > max(now.uncovered, ZERO):
            bare = f"may leave calls sold on {worst:f} {delivery.symbol} without cover: buy those back first"
            return Refused(
                "max_loss", "a bounded loss (allow_unlimited_loss is false)", f"{asked.intent}, which {bare}"
            )
    return None


def _worst(now: State, units: Sequence[Sequence[State]], day: str) -> Decimal:
    """What can be uncovered of the calls of a day, at most: what they can need at most, less what can be left of it.

    The fills that make them need most need not be those that leave least: a covered call that is on its way in does
    the one and not the other. So this is too much rather than too little.
    """
    needing, leaving = _after(now, units, lambda one: one.adds(day)), _after(now, units, lambda one: one.takes(day))
    return min(needing.needs(day), leaving.needs(day) - leaving.shares)


def _after(now: State, units: Sequence[Sequence[State]], harm: Callable[[State], Decimal]) -> State:
    """The state when of each unit the order fills that does most harm, and none that does none."""
    state = now
    for members in units:
        most = max(members, key=harm)
        if harm(most) > 0:
            state = state.plus(most)
    return state


def _held(asked: Asked) -> Iterator[Move]:
    """Positions, by our own sum of fills: it knows of a call that was bought back before the broker shows it.

    While something is unexplained, by the lower of both.
    """
    is_doubtful = asked.account in asked.book.quarantines
    for contract, reported, summed in asked.book.holdings(asked.account):
        yield contract, min(reported, summed) if is_doubtful else summed


def _filled(intents: Iterable[Intent]) -> Iterator[Move]:
    for intent in intents:
        yield from moves(intent, intent.quantity)


def _units(asked: Asked, delivery: Delivery) -> list[list[State]]:
    """This order and what works in the account besides, by what can fill: of each unit one."""
    book, changing = asked.book, asked.changing
    instead = _unit(changing) if changing is not None else _oca(asked.intent)
    units: dict[Hashable, list[State]] = {}
    for order in book.alive_orders():
        if order.account != asked.account or _unit(order) == instead:  # itself, or what it fills instead of
            continue
        parts = moves(order.intent, left_of(order))
        shrunk = asked.quantity if changing is not None and order.parent == changing.ref else None
        found = State.of(_apart(book, _effective(book, parts, order, shrunk)), delivery)
        units.setdefault(_unit(order), []).append(found)
    for other in book.foreign_orders.values():
        if other.account == asked.account:
            signed = other.quantity if other.action == "BUY" else -other.quantity
            one_fills = other.oca_group and other.oca_type in ONE_FILLS
            unit = ("oca", other.oca_group) if one_fills else ("foreign", other.perm_id)
            if unit != instead:
                units.setdefault(unit, []).append(State.of(_apart(book, ((other.instrument, signed),)), delivery))
    return [[State.of(_effective(book, asked.moves, changing), delivery)], *units.values()]


def _unit(order: Order) -> Hashable:
    """What an order fills instead of: the other exits of its entry, or the others of its group."""
    if order.parent:
        return "exits", order.parent
    if order.oca_group and order.oca_type in ONE_FILLS:
        return "oca", order.oca_group
    return _oca(order.intent) or ("order", order.ref)


def _oca(intent: Intent) -> tuple[str, FieldValue] | None:
    """The group that an intent names; None: none, or one of which more than one can fill."""
    fields = dict(intent.fields)
    return ("oca", fields["ocaGroup"]) if fields.get("ocaGroup") and fields.get("ocaType") in ONE_FILLS else None


def _effective(
    book: Book, parts: tuple[Move, ...], order: Order | None, entry_left: Decimal | None = None
) -> tuple[Move, ...]:
    """What an exit may do beyond its entry, which fills first; of any other order all of it.

    Args:
        entry_left: what is to be left of the entry; None: as it is, or as it will be if it becomes less.
    """
    entry = book.orders.get(order.parent) if order is not None and order.parent else None
    if entry is None or entry.done:
        return parts
    if entry_left is None:
        quantity = entry.intent.quantity if entry.change is None else min(entry.intent.quantity, entry.change.quantity)
        entry_left = max(quantity - entry.filled, ZERO)
    bought = dict(moves(entry.intent, entry_left))
    return tuple((contract, signed + bought.get(contract, ZERO)) for contract, signed in parts)


def _apart(book: Book, parts: Iterable[Move]) -> Iterator[Move]:
    """The legs of combinations that the book knows in place of these; what it does not know is not held."""
    for contract, signed in parts:
        if not isinstance(contract, Bag):
            yield contract, signed
            continue
        for con_id, ratio, action in contract.legs:
            leg = book.instruments.get(con_id)
            if leg is not None:
                yield leg, signed * (ratio if action == "BUY" else -ratio)
