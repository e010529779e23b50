"""What an account holds: cash by currency and positions with their average cost. Only fills and expiries change it.

IB's convention: an average cost includes the multiplier and the commissions (of a currency pair only the price, since
its commission is charged in dollars). A fill that passes through zero closes one position and opens the opposite one.
A future costs nothing but its commission: what it has earned is paid when it is closed (IB settles every evening; the
sum is the same). What was realised, and the profit of the day, count from midnight in New York: `begin_day`.
"""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import date
from decimal import Decimal
from typing import Final

from ibkr_service.sim.contracts import Contract

BASE_CURRENCY: Final = "USD"
STARTING_CASH: Final = Decimal(1_000_000)

IN_FUTURES: Final = frozenset({"FUT"})
"""What is margined, not paid for."""

PriceOf = Callable[[Contract], Decimal | None]
"""Contract → its price in its currency, None while there is none."""


@dataclass(slots=True)
class Position:
    """So much of a contract; money in the contract's currency."""

    contract: Contract
    quantity: Decimal = Decimal(0)
    average_cost: Decimal = Decimal(0)
    """Of one contract, multiplier and commissions included."""

    entry: Decimal = Decimal(0)
    """Of one contract, multiplier included, without commissions."""

    realized: Decimal = Decimal(0)
    """Profit of everything closed today, after commissions."""

    quantity_at_midnight: Decimal = Decimal(0)
    value_at_midnight: Decimal = Decimal(0)
    spent: Decimal = Decimal(0)
    """What today's trades have cost, commissions included; negative when they have earned."""

    def trade(self, quantity: Decimal, price: Decimal, fees: Decimal) -> Decimal | None:
        """Buy (positive) or sell (negative) at a price; the profit of what that closed, None when it closed nothing."""
        unit = price * self.contract.units
        self.spent += quantity * unit + fees
        closing = Decimal(0)
        if self.quantity * quantity < 0:
            closing = min(abs(self.quantity), abs(quantity))
        profit = None
        if closing:
            closing_fees = fees * closing / abs(quantity)
            direction = 1 if self.quantity > 0 else -1
            profit = closing * (unit - self.average_cost) * direction - closing_fees
            self.quantity -= closing * direction
            self.realized += profit
            fees -= closing_fees
        opening = quantity + closing if quantity < 0 else quantity - closing
        if opening:
            self._open(opening, unit, fees)
        elif not self.quantity:
            self.average_cost = self.entry = Decimal(0)
        return profit

    def _open(self, opening: Decimal, unit: Decimal, fees: Decimal) -> None:
        direction = 1 if opening > 0 else -1
        held = abs(self.quantity)
        paid = abs(opening) * unit
        self.quantity += opening
        total = abs(self.quantity)
        self.average_cost = (held * self.average_cost + paid + direction * fees) / total
        self.entry = (held * self.entry + paid) / total

    def settled(self, quantity: Decimal, price: Decimal) -> Decimal:
        """What a trade pays out of a position that is margined: the gain of what it closes."""
        if self.quantity * quantity >= 0:
            return Decimal(0)
        closing = min(abs(self.quantity), abs(quantity))
        return closing * (price * self.contract.units - self.entry) * (1 if self.quantity > 0 else -1)

    def begin_day(self, price: Decimal | None) -> None:
        """Start the day's tally, at the price of midnight (at cost when there was none)."""
        unit = self.average_cost if price is None else price * self.contract.units
        self.quantity_at_midnight = self.quantity
        self.value_at_midnight = self.quantity * unit
        self.spent = self.realized = Decimal(0)


@dataclass(slots=True)
class Account:
    """An account: cash by currency, positions by contract id (closed ones stay, with quantity 0)."""

    code: str
    cash: dict[str, Decimal] = field(default_factory=lambda: {BASE_CURRENCY: STARTING_CASH})
    positions: dict[int, Position] = field(default_factory=dict)
    day: date | None = None
    """The exchange's day that `realized` and the like belong to."""

    def held(self) -> list[Position]:
        """Positions that are not closed, in the order in which they were first opened."""
        return [position for position in self.positions.values() if position.quantity]

    def quantity(self, con_id: int) -> Decimal:
        """How much is held of a contract, negative when short."""
        position = self.positions.get(con_id)
        return position.quantity if position is not None else Decimal(0)

    def begin_day(self, day: date, price_at_midnight: PriceOf) -> None:
        """Start a new day, unless it is the one that it was; nothing has been traded since midnight."""
        if self.day == day:
            return
        is_first, self.day = self.day is None, day
        for position in () if is_first else self.positions.values():
            position.begin_day(price_at_midnight(position.contract) if position.quantity else None)

    def copy(self) -> "Account":
        """An account of its own that holds the same."""
        positions = {con_id: replace(position) for con_id, position in self.positions.items()}
        return Account(self.code, dict(self.cash), positions, self.day)

    def trade(self, contract: Contract, quantity: Decimal, price: Decimal, fees: Decimal) -> Decimal | None:
        """Book a fill: `quantity` positive to buy; the profit of what it closed, or None.

        A currency pair moves both currencies, and its fees are in US dollars; the position that IB shows for it is a
        tally, no asset. Other fees are in the contract's currency.
        """
        position = self.positions.setdefault(contract.con_id, Position(contract))
        if contract.sec_type == "CASH":
            self.pay(contract.symbol, quantity)
            self.pay(contract.currency, -quantity * price)
            self.pay(BASE_CURRENCY, -fees)
            return position.trade(quantity, price, Decimal(0))
        if contract.sec_type in IN_FUTURES:
            self.pay(contract.currency, position.settled(quantity, price) - fees)
        else:
            self.pay(contract.currency, -quantity * price * contract.units - fees)
        return position.trade(quantity, price, fees)

    def pay(self, currency: str, amount: Decimal) -> None:
        """Book cash in (positive) or out."""
        self.cash[currency] = self.cash.get(currency, Decimal(0)) + amount
