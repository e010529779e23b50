"""What an account is worth: market values, margin, and the tags under which IB reports them.

Simplifications: margin is a percentage per security type and knows no hedges between positions; look-ahead and
overnight values are the present ones; dividends and interest do not accrue.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from ibkr_service.sim.accounts import BASE_CURRENCY, Account, Position, commission
from ibkr_service.sim.contracts import Combo, Contract, Instrument
from ibkr_service.sim.orderwrite import Preview

LEVERAGE: Final = 4
INITIAL_RATE: Final = Decimal("0.50")
MAINTENANCE_RATE: Final = Decimal("0.25")
SHORT_OPTION_RATE: Final = Decimal("0.20")
FOREX_RATE: Final = Decimal("0.03")
BASE_ROW: Final = "BASE"
EVERYTHING: Final = "All"

_CENT = Decimal("0.01")
_ZERO = Decimal(0)

PriceOf = Callable[[Contract], Decimal | None]
"""Contract → its present price in its currency, None while there is none."""


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
    def unrealized(self) -> Decimal:
        """Profit if it were closed now."""
        return self.value - self.position.quantity * self.position.average_cost

    @property
    def is_asset(self) -> bool:
        """Whether it has a value of its own; a currency pair's is in the cash already."""
        return self.position.contract.sec_type != "CASH"


class Valuation:
    """The present worth of accounts.

    Args:
        price_of: the market's prices.
        pair_price: the price of one currency in another, None when there is no such pair.
    """

    def __init__(self, price_of: PriceOf, pair_price: Callable[[str, str], Decimal | None]) -> None:
        self._price_of = price_of
        self._pair_price = pair_price

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
        return [self.holding(position) for position in account.held()]

    def _sum(self, holdings: list[Holding], worth: Callable[[Holding], Decimal]) -> Decimal:
        return sum((worth(holding) * self.to_base(holding.position.contract.currency) for holding in holdings), _ZERO)

    def net_liquidation(self, account: Account) -> Decimal:
        """Cash and market values, in US dollars."""
        assets = [holding for holding in self.holdings(account) if holding.is_asset]
        return self.cash(account) + self._sum(assets, lambda holding: holding.value)

    def cash(self, account: Account) -> Decimal:
        """All cash, in US dollars."""
        return sum((amount * self.to_base(currency) for currency, amount in account.cash.items()), _ZERO)

    def margins(self, account: Account) -> tuple[Decimal, Decimal]:
        """Initial and maintenance margin, in US dollars."""
        initial = maintenance = _ZERO
        for holding in self.holdings(account):
            first, later = self._margin(holding.position.contract, holding.position.quantity, holding.price)
            initial, maintenance = initial + first, maintenance + later
        return initial, maintenance

    def _margin(self, contract: Contract, quantity: Decimal, price: Decimal) -> tuple[Decimal, Decimal]:
        worth = abs(quantity * price * contract.units) * self.to_base(contract.currency)
        match contract.sec_type:
            case "CASH":
                return worth * FOREX_RATE, worth * FOREX_RATE
            case "OPT" if quantity > 0:
                return worth, worth
            case "OPT":
                exposure = abs(quantity) * contract.units * contract.strike * SHORT_OPTION_RATE
                return worth + exposure, worth + exposure
            case _:
                return worth * INITIAL_RATE, worth * MAINTENANCE_RATE

    def preview(self, account: Account, instrument: Instrument, quantity: Decimal) -> Preview:
        """What buying (or, negative, selling) would do to the account."""
        legs = [(instrument, 1)] if isinstance(instrument, Contract) else _legs(instrument)
        initial, maintenance = self.margins(account)
        fees = initial_change = maintenance_change = _ZERO
        for contract, ratio in legs:
            price = self._price_of(contract) or _ZERO
            before = account.quantity(contract.con_id)
            old = self._margin(contract, before, price)
            new = self._margin(contract, before + ratio * quantity, price)
            initial_change += new[0] - old[0]
            maintenance_change += new[1] - old[1]
            fees += commission(contract, abs(ratio * quantity), price, self.to_base)
        return Preview(
            initial_before=round(initial, 2),
            maintenance_before=round(maintenance, 2),
            equity_before=round(self.net_liquidation(account), 2),
            initial_change=round(initial_change, 2),
            maintenance_change=round(maintenance_change, 2),
            equity_change=round(-fees, 2),
            commission=round(fees, 2),
        )

    def rows(self, account: Account) -> list[Row]:
        """Every account value: the account's own, then its ledger by currency and in the base currency."""
        return [*self.account_rows(account), *self.ledger_rows(account)]

    def account_rows(self, account: Account) -> list[Row]:
        """The values of the account as a whole."""
        net, cash = self.net_liquidation(account), self.cash(account)
        initial, maintenance = self.margins(account)
        assets = [holding for holding in self.holdings(account) if holding.is_asset]
        gross = self._sum(assets, lambda holding: abs(holding.value))
        available, excess = net - initial, net - maintenance
        money: dict[str, Decimal] = {
            "AccruedCash": _ZERO,
            "AccruedDividend": _ZERO,
            "AvailableFunds": available,
            "BuyingPower": max(_ZERO, available) * LEVERAGE,
            "EquityWithLoanValue": net,
            "ExcessLiquidity": excess,
            "FullAvailableFunds": available,
            "FullExcessLiquidity": excess,
            "FullInitMarginReq": initial,
            "FullMaintMarginReq": maintenance,
            "GrossPositionValue": gross,
            "InitMarginReq": initial,
            "LookAheadAvailableFunds": available,
            "LookAheadExcessLiquidity": excess,
            "LookAheadInitMarginReq": initial,
            "LookAheadMaintMarginReq": maintenance,
            "MaintMarginReq": maintenance,
            "NetLiquidation": net,
            "PreviousDayEquityWithLoanValue": net,
            "RegTEquity": net,
            "RegTMargin": initial,
            "SMA": net,
            "SettledCash": cash,
            "TotalCashValue": cash,
        }
        plain = {
            "AccountCode": account.code,
            "AccountReady": "true",
            "AccountType": "INDIVIDUAL",
            "Cushion": f"{max(_ZERO, excess / net) if net else _ZERO:.6f}",
            "DayTradesRemaining": "-1",
            "DayTradesRemainingT+1": "-1",
            "HighestSeverity": "0",
            "Leverage-S": f"{gross / net if net else _ZERO:.2f}",
            "LookAheadNextChange": "0",
        }
        return [Row(tag, value, "") for tag, value in plain.items()] + [
            Row(tag, _cents(value), BASE_CURRENCY) for tag, value in money.items()
        ]

    def ledger_rows(self, account: Account) -> list[Row]:
        """The ledger: one block of rows per currency, and one in the base currency, called BASE."""
        blocks = [self._ledger(account, currency) for currency in account.cash]
        total: dict[str, Decimal] = {}
        for currency, block in zip(account.cash, blocks, strict=True):
            for tag, value in block.items():
                total[tag] = total.get(tag, _ZERO) + value * self.to_base(currency)
        rows: list[Row] = []
        for currency, block in [*zip(account.cash, blocks, strict=True), (BASE_ROW, total)]:
            rate = Decimal(1) if currency == BASE_ROW else self.to_base(currency)
            rows.append(Row("Currency", currency, currency))
            rows += [Row(tag, _cents(value), currency) for tag, value in block.items()]
            rows.append(Row("ExchangeRate", f"{rate:.7f}", currency))
        return rows

    def _ledger(self, account: Account, currency: str) -> dict[str, Decimal]:
        holdings = [holding for holding in self.holdings(account) if holding.position.contract.currency == currency]
        stocks, options = (
            sum((holding.value for holding in holdings if holding.position.contract.sec_type == sec_type), _ZERO)
            for sec_type in ("STK", "OPT")
        )
        cash = account.cash[currency]
        positions = account.positions.values()
        return {
            "CashBalance": cash,
            "TotalCashBalance": cash,
            "AccruedCash": _ZERO,
            "StockMarketValue": stocks,
            "OptionMarketValue": options,
            "NetLiquidationByCurrency": cash + stocks + options,
            "UnrealizedPnL": sum((holding.unrealized for holding in holdings), _ZERO),
            "RealizedPnL": sum((p.realized for p in positions if p.contract.currency == currency), _ZERO),
        }

    def summary(self, account: Account, tags: str) -> Iterator[Row]:
        """The rows that an account summary asks for: tags by name, ``$LEDGER``, ``$LEDGER:USD``, ``$LEDGER:ALL``."""
        wanted = [tag.strip() for tag in tags.split(",") if tag.strip()]
        names = set(wanted)
        yield from (row for row in self.account_rows(account) if row.tag in names)
        for tag in wanted:
            if tag.startswith("$LEDGER"):
                currency = tag.partition(":")[2].upper() or BASE_ROW
                yield from (row for row in self.ledger_rows(account) if currency in {"ALL", row.currency})

    def profit(self, account: Account) -> tuple[Decimal, Decimal]:
        """Unrealised and realised profit, in US dollars."""
        unrealized = self._sum(self.holdings(account), lambda holding: holding.unrealized)
        realized = sum(
            (position.realized * self.to_base(position.contract.currency) for position in account.positions.values()),
            _ZERO,
        )
        return unrealized, realized


def _legs(combo: Combo) -> list[tuple[Contract, int]]:
    return [(leg.contract, leg.ratio * leg.sign) for leg in combo.legs]


def _cents(amount: Decimal) -> str:
    return f"{amount.quantize(_CENT):f}"
