"""What an account holds: cash by currency and positions with their average cost. Only fills change it.

IB's convention: an average cost includes the multiplier and the commissions (of a currency pair only the price, since
its commission is charged in dollars). A fill that passes through zero closes one position and opens the opposite one.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Final

from ibkr_service.sim.contracts import Contract

BASE_CURRENCY: Final = "USD"
STARTING_CASH: Final = Decimal(1_000_000)

STOCK_FEE_PER_SHARE: Final = Decimal("0.005")
STOCK_FEE_MIN: Final = Decimal("1.00")
OPTION_FEE_PER_CONTRACT: Final = Decimal("0.65")
OPTION_FEE_MIN: Final = Decimal("1.00")
FOREX_FEE_RATE: Final = Decimal("0.00002")
FOREX_FEE_MIN: Final = Decimal("2.00")

ToBase = Callable[[str], Decimal]
"""Currency → how many US dollars one unit of it is worth."""


def commission(contract: Contract, quantity: Decimal, price: Decimal, to_base: ToBase) -> Decimal:
    """IB's commission in US dollars: fixed pricing for stocks and options, tiered spot rates for currencies."""
    match contract.sec_type:
        case "CASH":
            traded = quantity * price * to_base(contract.currency)
            return max(FOREX_FEE_MIN, round(traded * FOREX_FEE_RATE, 2))
        case "OPT":
            return max(OPTION_FEE_MIN, quantity * OPTION_FEE_PER_CONTRACT)
        case _:
            return max(STOCK_FEE_MIN, quantity * STOCK_FEE_PER_SHARE)


@dataclass(slots=True)
class Position:
    """So much of a contract; money in the contract's currency."""

    contract: Contract
    quantity: Decimal = Decimal(0)
    average_cost: Decimal = Decimal(0)
    """Of one contract, multiplier and commissions included."""

    realized: Decimal = Decimal(0)
    """Profit of everything closed so far, after commissions."""

    def trade(self, quantity: Decimal, price: Decimal, fees: Decimal) -> Decimal | None:
        """Buy (positive) or sell (negative) at a price; the profit of what that closed, None when it closed nothing."""
        unit = price * self.contract.units
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
            direction = 1 if opening > 0 else -1
            held = abs(self.quantity) * self.average_cost + abs(opening) * unit + direction * fees
            self.quantity += opening
            self.average_cost = held / abs(self.quantity)
        elif not self.quantity:
            self.average_cost = Decimal(0)
        return profit


@dataclass(slots=True)
class Account:
    """An account: cash by currency, positions by contract id (closed ones stay, with quantity 0)."""

    code: str
    cash: dict[str, Decimal] = field(default_factory=lambda: {BASE_CURRENCY: STARTING_CASH})
    positions: dict[int, Position] = field(default_factory=dict)

    def held(self) -> list[Position]:
        """Positions that are not closed, in the order in which they were first opened."""
        return [position for position in self.positions.values() if position.quantity]

    def quantity(self, con_id: int) -> Decimal:
        """How much is held of a contract, negative when short."""
        position = self.positions.get(con_id)
        return position.quantity if position is not None else Decimal(0)

    def trade(self, contract: Contract, quantity: Decimal, price: Decimal, fees: Decimal) -> Decimal | None:
        """Book a fill: `quantity` positive to buy, `fees` in US dollars; the profit of what it closed, or None.

        A currency pair moves both currencies; the position that IB shows for it is a tally, no asset.
        """
        position = self.positions.setdefault(contract.con_id, Position(contract))
        if contract.sec_type == "CASH":
            self._pay(contract.symbol, quantity)
            self._pay(contract.currency, -quantity * price)
            self._pay(BASE_CURRENCY, -fees)
            return position.trade(quantity, price, Decimal(0))
        self._pay(contract.currency, -quantity * price * contract.units - fees)
        return position.trade(quantity, price, fees)

    def _pay(self, currency: str, amount: Decimal) -> None:
        self.cash[currency] = self.cash.get(currency, Decimal(0)) + amount
