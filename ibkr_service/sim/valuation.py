"""What an account is worth: market values, margin and profit. The tags under which IB reports them are in `tags.py`.

    net liquidation value   cash, and the market value of everything
    equity with loan value  the same without options, which lend no equity: a long one must be paid for in full
    available funds         equity with loan value less initial margin
    excess liquidity        equity with loan value less maintenance margin

Simplification: dividends and interest do not accrue.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Final

from ibkr_service.sim import margin
from ibkr_service.sim.accounts import BASE_CURRENCY, IN_FUTURES, Account, Position, PriceOf
from ibkr_service.sim.contracts import Combo, Contract, Instrument
from ibkr_service.sim.fees import commission, currency_of
from ibkr_service.sim.margin import Held, Requirement
from ibkr_service.sim.orderwrite import Preview
from ibkr_service.sim.quotes import Quote

OPTIONS: Final = frozenset({"OPT", "FOP"})

_ZERO = Decimal(0)


@dataclass(frozen=True, slots=True)
class Row:
    """One account value, as text."""

    tag: str
    value: str
    currency: str


@dataclass(frozen=True, slots=True)
class Holding:
    """A position at its market value; money in the contract's currency."""

    position: Position
    price: Decimal

    @property
    def value(self) -> Decimal:
        """What it would sell for."""
        return self.position.quantity * self.price * self.position.contract.units

    @property
    def worth(self) -> Decimal:
        """What it adds to the account: a currency pair nothing (it is in the cash already), a future what it earned."""
        match self.position.contract.sec_type:
            case "CASH":
                return _ZERO
            case "FUT":
                return self.value - self.position.quantity * self.position.entry
            case _:
                return self.value

    @property
    def unrealized(self) -> Decimal:
        """Profit if it were closed now."""
        return self.value - self.position.quantity * self.position.average_cost

    @property
    def daily(self) -> Decimal:
        """Profit since midnight."""
        return self.value - self.position.value_at_midnight - self.position.spent

    def is_of(self, *sec_types: str) -> bool:
        """Whether it is one of these."""
        return self.position.contract.sec_type in sec_types


@dataclass(frozen=True, slots=True)
class Figures:
    """An account's figures at one moment, in US dollars, exact."""

    cash: Decimal
    net_liquidation: Decimal
    equity: Decimal
    """IB's equity with loan value."""

    gross: Decimal
    required: Requirement

    @property
    def available(self) -> Decimal:
        """What may still be spent."""
        return self.equity - self.required.initial

    @property
    def excess(self) -> Decimal:
        """What may still be lost."""
        return self.equity - self.required.maintenance


@dataclass(frozen=True, slots=True)
class Profit:
    """An account's profit in US dollars: since midnight, of what is held, and of what was closed since midnight."""

    daily: Decimal
    unrealized: Decimal
    realized: Decimal


class Valuation:
    """The present worth of accounts.

    Args:
        price_of: the market's prices.
        pair_price: the price of one currency in another, None when there is no such pair.
        under_price: the price of an option's underlying, None while there is none.
        today: the broker's date.
        price_at_midnight: what a contract cost when that date began.
    """

    def __init__(
        self,
        price_of: PriceOf,
        pair_price: Callable[[str, str], Decimal | None],
        under_price: PriceOf = lambda _contract: None,
        today: Callable[[], date] = lambda: date.min,
        price_at_midnight: PriceOf = lambda _contract: None,
    ) -> None:
        self._price_of = price_of
        self._pair_price = pair_price
        self._under_price = under_price
        self._today = today
        self._price_at_midnight = price_at_midnight

    def begin_day(self, account: Account) -> None:
        """See that an account's tallies are those of today; before anything is read or booked."""
        account.begin_day(self._today(), self._price_at_midnight)

    def to_base(self, currency: str) -> Decimal:
        """How many US dollars one unit of a currency is worth; 1 for a currency that no pair prices."""
        if currency == BASE_CURRENCY:
            return Decimal(1)
        if (direct := self._pair_price(currency, BASE_CURRENCY)) is not None:
            return direct
        inverse = self._pair_price(BASE_CURRENCY, currency)
        return round(1 / inverse, 7) if inverse else Decimal(1)

    def holding(self, position: Position) -> Holding:
        """A position at its market value; at cost while there is no price."""
        price = self._price_of(position.contract)
        return Holding(position, position.average_cost / position.contract.units if price is None else price)

    def holdings(self, account: Account) -> list[Holding]:
        """All open positions at their market values."""
        self.begin_day(account)
        return [self.holding(position) for position in account.held()]

    def _sum(self, holdings: list[Holding], amount: Callable[[Holding], Decimal]) -> Decimal:
        return sum((amount(holding) * self.to_base(holding.position.contract.currency) for holding in holdings), _ZERO)

    def cash(self, account: Account) -> Decimal:
        """All cash, in US dollars."""
        return sum((amount * self.to_base(currency) for currency, amount in account.cash.items()), _ZERO)

    def figures(self, account: Account, holdings: list[Holding] | None = None) -> Figures:
        """An account's figures."""
        held = self.holdings(account) if holdings is None else holdings
        cash = self.cash(account)
        net = cash + self._sum(held, lambda holding: holding.worth)
        options = self._sum(held, lambda holding: holding.value if holding.is_of(*OPTIONS) else _ZERO)
        gross = self._sum(held, lambda holding: _ZERO if holding.is_of("CASH", *IN_FUTURES) else abs(holding.value))
        return Figures(cash, net, net - options, gross, self._required(account, held))

    def net_liquidation(self, account: Account) -> Decimal:
        """Cash and market values, in US dollars."""
        return self.figures(account).net_liquidation

    def _required(self, account: Account, holdings: list[Holding]) -> Requirement:
        """Margin, in US dollars."""
        total = Requirement()
        on_underlying: dict[int, list[Held]] = {}
        for holding in holdings:
            contract = holding.position.contract
            held = Held(contract, holding.position.quantity, holding.price)
            if contract.sec_type in OPTIONS:
                under_price = self._under_price(contract) or contract.strike
                on_underlying.setdefault(contract.under_con_id, []).append(replace(held, under_price=under_price))
            else:
                total += margin.of_plain(held).times(self.to_base(contract.currency))
        for under_con_id, options in on_underlying.items():
            needed = margin.of_options(options, account.quantity(under_con_id))
            needed *= self.to_base(options[0].contract.currency)
            total += Requirement(needed, needed)
        abroad = sum(
            (abs(amount) * self.to_base(code) for code, amount in account.cash.items() if code != BASE_CURRENCY), _ZERO
        )
        return total + Requirement(abroad, abroad).times(margin.FOREX_RATE)

    def preview(
        self, account: Account, instrument: Instrument, quantity: Decimal, quote_of: Callable[[Contract], Quote | None]
    ) -> Preview:
        """What buying (or, negative, selling) would do to the account now.

        The order is tried on a copy of the account, at the quotes: what it says is what a fill there will do.
        """
        after = account.copy()
        fees = _ZERO
        for contract, ratio in _legs(instrument):
            signed = ratio * quantity
            quote = quote_of(contract)
            price = _ZERO if quote is None else quote.ask if signed > 0 else quote.bid
            charge = commission(contract, abs(signed), price, self.to_base)
            after.trade(contract, signed, price, charge)
            fees += charge * self.to_base(currency_of(contract))
        before, then = self.figures(account), self.figures(after)
        return Preview(
            initial_before=round(before.required.initial, 2),
            maintenance_before=round(before.required.maintenance, 2),
            equity_before=round(before.equity, 2),
            initial_change=round(then.required.initial, 2) - round(before.required.initial, 2),
            maintenance_change=round(then.required.maintenance, 2) - round(before.required.maintenance, 2),
            equity_change=round(then.equity, 2) - round(before.equity, 2),
            commission=round(fees, 2),
        )

    def profit(self, account: Account) -> Profit:
        """An account's profit."""
        self.begin_day(account)
        everything = [self.holding(position) for position in account.positions.values()]
        return Profit(
            daily=self._sum(everything, lambda holding: holding.daily),
            unrealized=self._sum(everything, lambda holding: holding.unrealized),
            realized=self._sum(everything, lambda holding: holding.position.realized),
        )


def _legs(instrument: Instrument) -> list[tuple[Contract, int]]:
    if isinstance(instrument, Combo):
        return [(leg.contract, leg.ratio * leg.sign) for leg in instrument.legs]
    return [(instrument, 1)]
