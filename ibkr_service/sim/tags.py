"""The tags under which IB reports what an account is worth, and the rows of account updates and summaries.

    EquityWithLoanValue - InitMarginReq  = AvailableFunds  = FullAvailableFunds
    EquityWithLoanValue - MaintMarginReq = ExcessLiquidity = FullExcessLiquidity
    BuyingPower = 4 x AvailableFunds (IB: intraday, of a Reg T margin account)
    Cushion = ExcessLiquidity / NetLiquidation

Simplifications: look-ahead and overnight values are the present ones; SMA is Reg T equity less Reg T margin, without
memory; yesterday's equity is today's; day trades are not counted (-1: unlimited, as for accounts above 25,000 dollars).
"""

from collections.abc import Iterator
from decimal import Decimal
from typing import Final

from ibkr_service.sim.accounts import BASE_CURRENCY, Account
from ibkr_service.sim.valuation import OPTIONS, Figures, Holding, Row, Valuation

LEVERAGE: Final = 4
BASE_ROW: Final = "BASE"
EVERYTHING: Final = "All"

_CENT = Decimal("0.01")
_ZERO = Decimal(0)


def rows(valuation: Valuation, account: Account) -> list[Row]:
    """Every account value: the account's own, then its ledger by currency and in the base currency."""
    holdings = valuation.holdings(account)
    return [*account_rows(valuation, account, holdings), *ledger_rows(valuation, account, holdings)]


def account_rows(valuation: Valuation, account: Account, holdings: list[Holding] | None = None) -> list[Row]:
    """The values of the account as a whole."""
    figures = valuation.figures(account, holdings)
    plain = {
        "AccountCode": account.code,
        "AccountReady": "true",
        "AccountType": "INDIVIDUAL",
        "Cushion": f"{_ratio(max(_ZERO, figures.excess), figures.net_liquidation):.6f}",
        "DayTradesRemaining": "-1",
        "DayTradesRemainingT+1": "-1",
        "DayTradesRemainingT+2": "-1",
        "DayTradesRemainingT+3": "-1",
        "DayTradesRemainingT+4": "-1",
        "HighestSeverity": "0",
        "Leverage-S": f"{_ratio(figures.gross, figures.net_liquidation):.2f}",
        "LookAheadNextChange": "0",
        "TradingType-S": "STKNOPT",
    }
    return [Row(tag, value, "") for tag, value in plain.items()] + [
        Row(tag, cents(value), BASE_CURRENCY) for tag, value in _money(figures).items()
    ]


def _money(figures: Figures) -> dict[str, Decimal]:
    equity, needed = figures.equity, figures.required
    # As the cent rounds each of them, so that a client's own subtraction comes out even.
    available = round(equity, 2) - round(needed.initial, 2)
    excess = round(equity, 2) - round(needed.maintenance, 2)
    return {
        "AccruedCash": _ZERO,
        "AccruedDividend": _ZERO,
        "AvailableFunds": available,
        "BuyingPower": max(_ZERO, available) * LEVERAGE,
        "EquityWithLoanValue": equity,
        "ExcessLiquidity": excess,
        "FullAvailableFunds": available,
        "FullExcessLiquidity": excess,
        "FullInitMarginReq": needed.initial,
        "FullMaintMarginReq": needed.maintenance,
        "GrossPositionValue": figures.gross,
        "InitMarginReq": needed.initial,
        "LookAheadAvailableFunds": available,
        "LookAheadExcessLiquidity": excess,
        "LookAheadInitMarginReq": needed.initial,
        "LookAheadMaintMarginReq": needed.maintenance,
        "MaintMarginReq": needed.maintenance,
        "NetLiquidation": figures.net_liquidation,
        "PreviousDayEquityWithLoanValue": equity,
        "RegTEquity": equity,
        "RegTMargin": needed.initial,
        "SMA": available,
        "SettledCash": figures.cash,
        "TotalCashValue": figures.cash,
    }


def ledger_rows(valuation: Valuation, account: Account, holdings: list[Holding] | None = None) -> list[Row]:
    """The ledger: one block of rows per currency, and one in the base currency, called BASE."""
    held = valuation.holdings(account) if holdings is None else holdings
    currencies = list(account.cash)
    currencies += [code for code in dict.fromkeys(_currency(each) for each in held) if code not in account.cash]
    blocks = [_ledger(account, held, currency) for currency in currencies]
    rates = {currency: valuation.to_base(currency) for currency in currencies}
    total: dict[str, Decimal] = {}
    for currency, block in zip(currencies, blocks, strict=True):
        for tag, value in block.items():
            total[tag] = total.get(tag, _ZERO) + value * rates[currency]
    rates[BASE_ROW] = Decimal(1)
    found: list[Row] = []
    for currency, block in [*zip(currencies, blocks, strict=True), (BASE_ROW, total)]:
        rate = rates[currency]
        found.append(Row("Currency", currency, currency))
        found.append(Row("RealCurrency", currency, currency))
        found += [Row(tag, cents(value), currency) for tag, value in block.items()]
        found.append(Row("ExchangeRate", f"{rate:.7f}", currency))
    return found


def _currency(holding: Holding) -> str:
    return holding.position.contract.currency


def _ledger(account: Account, holdings: list[Holding], currency: str) -> dict[str, Decimal]:
    own = [holding for holding in holdings if _currency(holding) == currency]
    stocks = _sum_of(own, "STK")
    options = _sum_of(own, *OPTIONS)
    futures = _sum_of(own, "FUT")
    cash = account.cash.get(currency, _ZERO)
    positions = account.positions.values()
    return {
        "CashBalance": cash,
        "TotalCashBalance": cash,
        "AccruedCash": _ZERO,
        "StockMarketValue": stocks,
        "OptionMarketValue": options,
        "FuturesPNL": futures,
        "NetLiquidationByCurrency": cash + stocks + options + futures,
        "UnrealizedPnL": sum((holding.unrealized for holding in own), _ZERO),
        "RealizedPnL": sum((each.realized for each in positions if each.contract.currency == currency), _ZERO),
    }


def _sum_of(holdings: list[Holding], *sec_types: str) -> Decimal:
    return sum((holding.worth for holding in holdings if holding.is_of(*sec_types)), _ZERO)


def summary(valuation: Valuation, account: Account, tags: str) -> Iterator[Row]:
    """The rows that an account summary asks for: tags by name, ``$LEDGER``, ``$LEDGER:USD``, ``$LEDGER:ALL``."""
    wanted = [tag.strip() for tag in tags.split(",") if tag.strip()]
    names = set(wanted)
    yield from (row for row in account_rows(valuation, account) if row.tag in names)
    for tag in wanted:
        if tag.startswith("$LEDGER"):
            currency = tag.partition(":")[2].upper() or BASE_ROW
            yield from (row for row in ledger_rows(valuation, account) if currency in {"ALL", row.currency})


def _ratio(part: Decimal, whole: Decimal) -> Decimal:
    return part / whole if whole else _ZERO


def cents(amount: Decimal) -> str:
    """An amount as IB writes it."""
    return f"{amount.quantize(_CENT):f}"
