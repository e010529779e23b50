"""What the accounts are worth: summaries and positions, folded from what the broker reports in one session.

A `Statements` is the book's part for this. It begins empty with each session, so that no figure of an earlier one can
be taken for a present one, and answers only for accounts of which everything has arrived: `NotReady` otherwise, never
an empty answer. A field is None where the broker has no value; 0 and negative amounts are the broker's own.

How TWS reports an account (TWS API documentation, Account Updates; changelog of May 2026 for the prefix):

- values are text under a tag: those of the whole account in its base currency, and a *ledger* with one block of rows
  per currency and one in the pseudo-currency `BASE`, the sum of all. TWS 10.47 may prefix the ledger's tags with
  `$LEDGER-`; without the prefix `AccruedCash` exists in both, and cannot be told apart, so it is not in the summary;
- tags that end in -C, -S, -P … repeat a value for a segment (commodities, securities, Paxos); only the total counts;
- 1.7976931348623157E308 and an empty text stand for "no value"; `DayTradesRemaining` is -1 for "unlimited";
- `AccountReady` is false while IB resets: values that come meanwhile may be wrong.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from datetime import datetime
from decimal import Decimal, InvalidOperation
from typing import Literal

import msgspec

from ibkr_service.core import events as ev
from ibkr_service.core.errors import NotReady
from ibkr_service.core.instrument import (
    AnyInstrument,
    Bag,
    Forex,
    Future,
    Index,
    Instrument,
    Option,
    Other,
    Stock,
)

Holding = tuple[str, int]  # (account, conId)
Rows = dict[tuple[str, str], ev.AccountValueReported]  # (tag, currency) -> the newest value
DayTrades = int | Literal["unlimited"]

BASE = "BASE"  # TWS's pseudo-currency: the ledger's sum, in the account's base currency
LEDGER = "$LEDGER-"
UNSET_FROM = Decimal("1e300")  # TWS writes "unset" as the largest double, in several spellings
UNLIMITED = -1  # DayTradesRemaining of an account that day-trades without restriction
_SEC_TYPES: dict[type[Instrument], str] = {
    Stock: "STK",
    Forex: "CASH",
    Option: "OPT",
    Future: "FUT",
    Index: "IND",
    Bag: "BAG",
}


class CurrencyBalance(msgspec.Struct, frozen=True, kw_only=True):
    """One currency of an account's ledger. Amounts in this currency; None where the broker has no value.

    `cash` as of the trades, settled or not; `stock_value` and `option_value` at market; `net_liquidation` all of it;
    `unrealized_pnl` and `realized_pnl` of positions in this currency; `exchange_rate` in base currency for one unit.
    """

    currency: str
    cash: Decimal | None = None
    stock_value: Decimal | None = None
    option_value: Decimal | None = None
    net_liquidation: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    realized_pnl: Decimal | None = None
    exchange_rate: Decimal | None = None


class AccountSummary(msgspec.Struct, frozen=True, kw_only=True):
    """What an account is worth and may still do. Amounts in `base_currency`; None where the broker has no value.

    The names are those of TWS: `equity_with_loan` decides on margin, `available_funds` is it less `initial_margin`,
    `excess_liquidity` is it less `maintenance_margin`; `gross_position_value` adds long and short positions.

    `day_trades_remaining` is a number, "unlimited", or None. `daily_pnl` is since IB's daily reset, and None where IB
    offers no PnL subscription; `unrealized_pnl` and `realized_pnl` are that subscription's as well, or else the sum of
    the ledger. `by_currency` is the ledger, in the alphabetical order of currencies.

    `at` (UTC) is when an account value last changed, or the broker last repeated them all, whichever is later. The PnL
    does not count: it comes every second, the values every three minutes or with a trade.
    """

    account: str
    base_currency: str | None
    at: datetime
    net_liquidation: Decimal | None = None
    total_cash: Decimal | None = None
    equity_with_loan: Decimal | None = None
    initial_margin: Decimal | None = None
    maintenance_margin: Decimal | None = None
    available_funds: Decimal | None = None
    excess_liquidity: Decimal | None = None
    buying_power: Decimal | None = None
    gross_position_value: Decimal | None = None
    day_trades_remaining: DayTrades | None = None
    daily_pnl: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    realized_pnl: Decimal | None = None
    by_currency: tuple[CurrencyBalance, ...] = ()

    def balance(self, currency: str) -> CurrencyBalance | None:
        """The ledger's block of one currency, None if the account has none."""
        return next((block for block in self.by_currency if block.currency == currency), None)


class HeldPosition(msgspec.Struct, frozen=True, kw_only=True):
    """What an account holds of one instrument. None where the broker has no value.

    `quantity` in units of the instrument (contracts, shares), negative when short. `average_cost` is of one unit and
    *includes* the multiplier and commissions (an option bought at 3.00 has cost 300.65); `market_price` is of one unit
    as it is quoted, *without* the multiplier; `market_value` is of the whole position, *with* it. All three, and the
    unrealised and realised PnL, are in the instrument's currency. `daily_pnl` is since IB's daily reset.

    Price, value, unrealised and realised PnL belong to a quantity: after a trade they are None until the broker has
    valued the new one. For an account other than the one in use there is no price, and the rest is what IB's PnL
    subscription says, whose currency IB does not document. So it is with `daily_pnl`.

    `at` (UTC) is when one of the figures last changed, or the broker last confirmed the position, whichever is later.
    """

    account: str
    instrument: AnyInstrument
    con_id: int
    quantity: Decimal
    at: datetime
    average_cost: Decimal | None = None
    market_price: Decimal | None = None
    market_value: Decimal | None = None
    unrealized_pnl: Decimal | None = None
    realized_pnl: Decimal | None = None
    daily_pnl: Decimal | None = None


def amount(text: str | None) -> Decimal | None:
    """A value of TWS as a number; None for no value, an unset one, or what is no number."""
    if text is None:
        return None
    try:
        value = Decimal(text)
    except InvalidOperation:
        return None
    return value if value.is_finite() and abs(value) < UNSET_FROM else None


def day_trades(text: str | None) -> DayTrades | None:
    """TWS's `DayTradesRemaining`: a count, "unlimited" for -1, None for anything else."""
    value = amount(text)
    if value is None or value != value.to_integral_value() or value < UNLIMITED:
        return None
    return "unlimited" if value == UNLIMITED else int(value)


class Statements:
    """The figures of all accounts in one session; the book owns it, and hands it every event about them.

    Args:
        session: its number. account: the one in use, whose values come with every look at the broker.
    """

    def __init__(self, session: int = 0, account: str = "") -> None:
        self._session = session
        self._account = account
        self._looked_at: datetime | None = None
        self._complete_at: dict[str, datetime] = {}  # account -> when everything of it had last arrived
        self._values: defaultdict[str, Rows] = defaultdict(dict)
        self._portfolio: dict[Holding, ev.PortfolioReported] = {}
        self._pnl: dict[str, ev.PnlReported] = {}
        self._position_pnl: dict[Holding, ev.PositionPnlReported] = {}

    # --- folding -----------------------------------------------------------------------------------------------------

    def is_news(self, figure: ev.AccountFigure) -> bool:
        """Whether a figure is of this session and differs from the one before it."""
        if figure.session != self._session:
            return False
        known = self._known(figure)
        return known is None or msgspec.structs.replace(known, at=figure.at) != figure

    def _known(self, figure: ev.AccountFigure) -> ev.AccountFigure | None:
        match figure:
            case ev.AccountValueReported():
                return self._values[figure.account].get((figure.tag, figure.currency))
            case ev.PortfolioReported():
                return self._portfolio.get((figure.account, figure.con_id))
            case ev.PnlReported():
                return self._pnl.get(figure.account)
            case ev.PositionPnlReported():
                return self._position_pnl.get((figure.account, figure.con_id))

    def apply(self, event: ev.AccountFigure | ev.AccountDownloaded | ev.PositionReported | ev.Snapshot) -> None:
        """Take in what was reported of an account; nothing of another session."""
        if event.session != self._session:
            return
        match event:
            case ev.AccountValueReported():
                self._values[event.account][event.tag, event.currency] = event
            case ev.PortfolioReported():
                self._portfolio[event.account, event.con_id] = event
            case ev.PnlReported():
                self._pnl[event.account] = event
            case ev.PositionPnlReported():
                self._position_pnl[event.account, event.con_id] = event
            case ev.AccountDownloaded():
                self._complete_at[event.account] = event.at
            case ev.Snapshot():
                self._looked_at = self._complete_at[self._account] = event.at
            case ev.PositionReported() if not event.quantity:  # should it be opened again, these are old
                self._portfolio.pop((event.account, event.con_id), None)
                self._position_pnl.pop((event.account, event.con_id), None)
            case ev.PositionReported():
                pass

    def interrupted(self) -> None:
        """The line is not READY any more: only what the next look brings may be answered from then on.

        The values of the account in use stay, since TWS repeats them then; all else is asked for anew.
        """
        self._complete_at.clear()
        self._pnl.clear()
        self._position_pnl.clear()
        for account in [account for account in self._values if account != self._account]:
            del self._values[account]

    # --- reading -----------------------------------------------------------------------------------------------------

    def value(self, account: str, tag: str, currency: str | None = None) -> Decimal | None:
        """An account value by TWS's tag, in the first currency that has it if none is named; None if there is none."""
        rows = self._values.get(account, {})
        return next(
            (amount(row.value) for (t, c), row in rows.items() if t == tag and currency in {None, c}),
            None,
        )

    def daily_pnl(self, account: str) -> Decimal | None:
        """Profit and loss since IB's daily reset, in the base currency; None if it was not told."""
        pnl = self._pnl.get(account)
        return pnl.daily_pnl if pnl else None

    def exchange_rate(self, account: str, currency: str) -> Decimal | None:
        """The base currency for one unit of another; None if it was not told."""
        rows = self._values.get(account, {})
        return Decimal(1) if currency == _base_currency(rows) else _ledger(rows, "ExchangeRate", currency)

    def summary(self, account: str) -> AccountSummary:
        """What an account is worth.

        Raises:
            NotReady: not everything of it has arrived in this session, or IB is resetting the account.
        """
        complete_at = self._complete_at.get(account)
        if complete_at is None:
            raise NotReady("the values of this account have not all been received in this session")
        rows = self._values.get(account, {})
        if any(tag == "AccountReady" and row.value == "false" for (tag, _), row in rows.items()):
            raise NotReady("IB is resetting this account: its values may be wrong until it is ready again")
        base = _base_currency(rows)
        pnl = self._pnl.get(account)

        def money(tag: str) -> Decimal | None:
            return amount(_text(rows, tag, base or ""))

        return AccountSummary(
            account=account,
            base_currency=base,
            at=max([complete_at, *(row.at for row in rows.values())]),
            net_liquidation=money("NetLiquidation"),
            total_cash=money("TotalCashValue"),
            equity_with_loan=money("EquityWithLoanValue"),
            initial_margin=money("InitMarginReq"),
            maintenance_margin=money("MaintMarginReq"),
            available_funds=money("AvailableFunds"),
            excess_liquidity=money("ExcessLiquidity"),
            buying_power=money("BuyingPower"),
            gross_position_value=money("GrossPositionValue"),
            day_trades_remaining=day_trades(_text(rows, "DayTradesRemaining", "")),
            daily_pnl=pnl.daily_pnl if pnl else None,
            unrealized_pnl=_first(pnl.unrealized_pnl if pnl else None, _ledger(rows, "UnrealizedPnL", BASE)),
            realized_pnl=_first(pnl.realized_pnl if pnl else None, _ledger(rows, "RealizedPnL", BASE)),
            by_currency=_balances(rows),
        )

    def positions(self, account: str, held: Iterable[ev.PositionReported]) -> dict[AnyInstrument, HeldPosition]:
        """What an account holds, by instrument, in the order of conIds.

        Two contracts that one description fits (two listings in one currency) must not hide each other: the one with
        the higher conId appears as an `Other` with its conId.

        Args:
            held: the broker's word on the account's positions, verified in this session; closed ones are left out.
        """
        found: dict[AnyInstrument, HeldPosition] = {}
        for report in sorted(held, key=lambda report: report.con_id):
            if report.quantity and report.account == account:
                instrument = report.instrument if report.instrument not in found else _by_con_id(report)
                found[instrument] = self._valued(report, instrument)
        return found

    def in_portfolio(self, account: str, con_id: int) -> ev.PortfolioReported | None:
        """What TWS last said a position is worth; None if it said nothing, or tells it of another account only."""
        return self._portfolio.get((account, con_id))

    def _valued(self, report: ev.PositionReported, instrument: AnyInstrument) -> HeldPosition:
        holding = (report.account, report.con_id)
        portfolio, pnl = self._portfolio.get(holding), self._position_pnl.get(holding)
        # Never mixed: the portfolio is in the instrument's currency, and the two count realised PnL differently.
        worth = portfolio if report.account == self._account else pnl
        if worth is not None and worth.quantity != report.quantity:
            worth = None
        moments = [fact.at for fact in (report, portfolio, pnl) if fact is not None]
        return HeldPosition(
            account=report.account,
            instrument=instrument,
            con_id=report.con_id,
            quantity=report.quantity,
            at=max(moments if self._looked_at is None else [*moments, self._looked_at]),
            average_cost=report.average_cost,
            market_price=worth.market_price if isinstance(worth, ev.PortfolioReported) else None,
            market_value=worth.market_value if worth else None,
            unrealized_pnl=worth.unrealized_pnl if worth else None,
            realized_pnl=worth.realized_pnl if worth else None,
            daily_pnl=pnl.daily_pnl if pnl else None,
        )


def _base_currency(rows: Rows) -> str | None:
    """The currency of the account's own values; the newest, should it ever change."""
    own = [row for (tag, currency), row in rows.items() if tag == "NetLiquidation" and currency not in {"", BASE}]
    return max(own, key=lambda row: row.at).currency if own else None


def _text(rows: Rows, tag: str, currency: str) -> str | None:
    row = rows.get((tag, currency))
    return None if row is None else row.value


def _ledger(rows: Rows, tag: str, currency: str) -> Decimal | None:
    """A value of the ledger, under either of its names."""
    prefixed = _text(rows, LEDGER + tag, currency)
    return amount(prefixed if prefixed is not None else _text(rows, tag, currency))


def _balances(rows: Rows) -> tuple[CurrencyBalance, ...]:
    currencies = {currency for tag, currency in rows if tag.removeprefix(LEDGER) == "CashBalance"} - {BASE, ""}
    return tuple(
        CurrencyBalance(
            currency=currency,
            cash=_ledger(rows, "CashBalance", currency),
            stock_value=_ledger(rows, "StockMarketValue", currency),
            option_value=_ledger(rows, "OptionMarketValue", currency),
            net_liquidation=_ledger(rows, "NetLiquidationByCurrency", currency),
            unrealized_pnl=_ledger(rows, "UnrealizedPnL", currency),
            realized_pnl=_ledger(rows, "RealizedPnL", currency),
            exchange_rate=_ledger(rows, "ExchangeRate", currency),
        )
        for currency in sorted(currencies)
    )


def _first(one: Decimal | None, other: Decimal | None) -> Decimal | None:
    return one if one is not None else other


def _by_con_id(report: ev.PositionReported) -> Other:
    """The instrument of a position whose description another one has already."""
    instrument = report.instrument
    return Other(_SEC_TYPES[type(instrument)], instrument.symbol, instrument.currency, report.con_id, str(instrument))
