"""Quotes, accounts, positions and bars as tables for people, and as documents for programs.

Pure: from values to rich's tables and to what JSON can say. What the market, or nobody, has is a dash in a table and
None in a document. Account numbers are masked unless whoever calls does not want it. Chains are in
`tables_chain.py`.
"""

from __future__ import annotations

import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ibkr_service.core import events as ev
from ibkr_service.core.account import AccountSummary, HeldPosition
from ibkr_service.core.bars import Bar
from ibkr_service.core.errors import ServiceError
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.log import mask_account

Quoted = tuple[AnyInstrument, ev.Tick | ServiceError]
"""An instrument with its quote, or with the reason why there is none."""

Row = dict[str, Text]
"""A row's cells by column."""

NOTHING = "\N{EN DASH}"
DECIMALS_MIN, DECIMALS_MAX = 2, 6  # of prices
LAST_BARS = 20  # so many of a download are shown to a person
ANY_WIDTH = 10_000


# --- numbers ---------------------------------------------------------------------------------------------------------


def decimals(prices: Iterable[float | Decimal | None]) -> int:
    """How many decimals these prices need to stand below each other, 2 to 6."""
    texts = (f"{price:.{DECIMALS_MAX}f}".rstrip("0") for price in prices if price is not None)
    return max([DECIMALS_MIN, *(len(text.partition(".")[2]) for text in texts)])


def price_text(price: float | Decimal | None, places: int = DECIMALS_MIN) -> str:
    """A price with so many decimals."""
    return NOTHING if price is None else f"{price:.{places}f}"


def size_text(size: float | Decimal | None) -> str:
    """A quantity or volume, in groups of three digits; decimals only where there are any."""
    if size is None:
        return NOTHING
    text = f"{size:,.8f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def money_text(amount: Decimal | None) -> str:
    """An amount of money, in groups of three digits."""
    return NOTHING if amount is None else f"{amount:,.2f}"


def change_percent(tick: ev.Tick) -> float | None:
    """How far the last price is from the close before, in %; of what has no last price (currencies) the middle is."""
    price = tick.last if tick.last is not None else tick.mid
    return None if price is None or not tick.close else (price / tick.close - 1) * 100


def age_s(tick: ev.Tick, now: datetime) -> float:
    """How long ago the newest part of a quote came in, in seconds."""
    return max(0.0, (now - tick.at).total_seconds())


# --- quotes ----------------------------------------------------------------------------------------------------------


# What a narrow terminal goes without, in this order: rather a column less than a price cut off.
_QUOTE_LEAVES = ("age", "high", "low", "close", "ask size", "bid size", "volume")
_QUOTE = (
    "instrument", "bid size", "bid", "ask", "ask size", "last", "change", "volume", "high", "low", "close", "data",
    "age",
)  # fmt: skip


def quotes_table(quotes: Sequence[Quoted], now: datetime, width: int = ANY_WIDTH) -> Table:
    """A row for each instrument; why one could not be had is in `refusals`.

    Args:
        width: in characters.
    """
    rows = [
        _quote_cells(quote, now) if isinstance(quote, ev.Tick) else {"data": Text("error", style="red")}
        for _, quote in quotes
    ]
    for (instrument, _), row in zip(quotes, rows, strict=True):
        row["instrument"] = Text(str(instrument))
    return fitted(_QUOTE, rows, _QUOTE_LEAVES, width, left=("instrument", "data"))


def refusals(quotes: Sequence[Quoted]) -> list[str]:
    """Why some of the instruments have no quote, a line each."""
    found = []
    for instrument, reason in quotes:
        if isinstance(reason, ServiceError):
            found.append(str(reason) if str(instrument) in str(reason) else f"{instrument}: {reason}")
    return found


def _quote_cells(tick: ev.Tick, now: datetime) -> Row:
    places = decimals((tick.bid, tick.ask, tick.last, tick.high, tick.low, tick.close))
    change = change_percent(tick)
    colour = "" if not change else "green" if change > 0 else "red"
    cells: Row = {
        name: Text(price_text(getattr(tick, name), places)) for name in ("bid", "ask", "last", "high", "low", "close")
    }
    return cells | {
        "bid size": Text(size_text(tick.bid_size)),
        "ask size": Text(size_text(tick.ask_size)),
        "change": Text(NOTHING if change is None else f"{change:+.2f} %", style=colour),
        "volume": Text(size_text(tick.volume)),
        "data": Text(_data_text(tick), style="" if tick.data_type == "live" and not tick.halted else "yellow"),
        "age": Text(f"{age_s(tick, now):.1f} s"),
    }


def _data_text(tick: ev.Tick) -> str:
    return f"{tick.data_type.replace('_', ' ')}{', halted' if tick.halted else ''}"


def quotes_document(quotes: Sequence[Quoted], now: datetime) -> dict[str, Any]:
    """`{"at", "quotes": [{"instrument", "contract", "bid", …, "error"}]}`; prices are None where there is an error."""
    fields = ("bid", "bid_size", "ask", "ask_size", "last", "last_size", "volume", "high", "low", "open", "close")
    rows = []
    for instrument, quote in quotes:
        tick = quote if isinstance(quote, ev.Tick) else None
        rows.append(
            named(instrument)
            | {name: getattr(tick, name, None) for name in fields}
            | {
                "change_percent": change_percent(tick) if tick else None,
                "data_type": tick.data_type if tick else None,
                "halted": tick.halted if tick else None,
                "greeks": tick.greeks if tick else None,
                "open_interest": tick.open_interest if tick else None,
                "at": tick.at if tick else None,
                "age_s": age_s(tick, now) if tick else None,
                "error": None if tick else str(quote),
            }
        )
    return plain({"at": now, "quotes": rows})


# --- account and positions -------------------------------------------------------------------------------------------


_LEDGER_LEAVES = ("option value", "stock value", "rate", "realized PnL", "unrealized PnL")
_LEDGER = (
    "currency", "cash", "stock value", "option value", "net liquidation", "unrealized PnL", "realized PnL", "rate",
)  # fmt: skip
_SUMMARY = (
    "net liquidation", "total cash", "equity with loan", "gross position value", "initial margin",
    "maintenance margin", "available funds", "excess liquidity", "buying power", "daily PnL", "unrealized PnL",
    "realized PnL",
)  # fmt: skip


def account_tables(summary: AccountSummary, *, unmasked: bool = False, width: int = ANY_WIDTH) -> list[Table]:
    """What the account is worth, and its ledger by currency."""
    base, trades = summary.base_currency or "amount", summary.day_trades_remaining
    worth: list[Row] = [{"": Text(name), base: _amount(summary, name)} for name in _SUMMARY]
    worth.append({"": Text("day trades remaining"), base: Text(NOTHING if trades is None else str(trades))})
    ledger: list[Row] = [
        {name: _amount(block, name) for name in _LEDGER[1:-1]}
        | {
            "currency": Text(block.currency),
            "rate": Text(NOTHING if block.exchange_rate is None else f"{block.exchange_rate.normalize():f}"),
        }
        for block in summary.by_currency
    ]
    first = table_of(("", base), worth, left=("",))
    first.title = f"Account {_account(summary.account, unmasked)}, {summary.at:%H:%M:%S} UTC"
    second = fitted(_LEDGER, ledger, _LEDGER_LEAVES, width, left=("currency",))
    second.title = "By currency"
    return [first, second]


def account_document(summary: AccountSummary, *, unmasked: bool = False) -> dict[str, Any]:
    """The summary, field by field."""
    return plain(fields_of(summary) | {"account": _account(summary.account, unmasked)})


_POSITION_LEAVES = ("daily PnL", "realized PnL", "average cost", "price")
_POSITION = (
    "instrument", "quantity", "average cost", "price", "value", "currency", "unrealized PnL", "realized PnL",
    "daily PnL",
)  # fmt: skip


def positions_table(
    account: str,
    positions: Mapping[AnyInstrument, HeldPosition],
    now: datetime,
    *,
    unmasked: bool = False,
    width: int = ANY_WIDTH,
) -> Table:
    """A row for each position; amounts in its own currency, average cost with multiplier and commissions."""
    rows: list[Row] = [
        {
            "instrument": Text(str(instrument)),
            "quantity": Text(size_text(held.quantity)),
            "average cost": Text(price_text(held.average_cost, decimals([held.average_cost]))),
            "price": Text(price_text(held.market_price, decimals([held.market_price]))),
            "value": Text(money_text(held.market_value)),
            "currency": Text(instrument.currency),
            "unrealized PnL": _gain(held.unrealized_pnl),
            "realized PnL": _gain(held.realized_pnl),
            "daily PnL": _gain(held.daily_pnl),
        }
        for instrument, held in positions.items()
    ]
    table = fitted(_POSITION, rows, _POSITION_LEAVES, width, left=("instrument", "currency"))
    table.title = f"Positions of {_account(account, unmasked)}, {now:%H:%M:%S} UTC"
    return table


def positions_document(
    account: str, positions: Mapping[AnyInstrument, HeldPosition], now: datetime, *, unmasked: bool = False
) -> dict[str, Any]:
    """`{"account", "at", "positions": [{"instrument", "contract", "quantity", …}]}`."""
    rows = [
        named(instrument) | fields_of(held, without={"instrument", "account"}) for instrument, held in positions.items()
    ]
    return plain({"account": _account(account, unmasked), "at": now, "positions": rows})


def _amount(value: msgspec.Struct, name: str) -> Text:
    amount = getattr(value, name.lower().replace(" ", "_"))
    return _gain(amount) if name.endswith("PnL") else Text(money_text(amount))


def _gain(amount: Decimal | None) -> Text:
    """A profit or loss, in its colour."""
    return Text(money_text(amount), style="" if not amount else "green" if amount > 0 else "red")


def _account(account: str, unmasked: bool) -> str:  # noqa: FBT001 - never called from elsewhere
    return account if unmasked else mask_account(account)


# --- bars ------------------------------------------------------------------------------------------------------------


_PRICES_OF_BARS = ("open", "high", "low", "close")


def bars_table(about: str, bars: Sequence[Bar], width: int = ANY_WIDTH) -> Table:
    """The last bars of a download; the title says how many there are."""
    shown = bars[-LAST_BARS:]
    begins = "UTC" if not shown or isinstance(shown[0].at, datetime) else "date"
    places = decimals(getattr(bar, name) for bar in shown for name in _PRICES_OF_BARS)
    rows: list[Row] = [
        {name: Text(price_text(getattr(bar, name), places)) for name in (*_PRICES_OF_BARS, "average")}
        | {
            begins: Text(f"{bar.at:%Y-%m-%d %H:%M:%S}" if isinstance(bar.at, datetime) else bar.at.isoformat()),
            "volume": Text(size_text(bar.volume)),
            "trades": Text(size_text(bar.count)),
        }
        for bar in shown
    ]
    names = (begins, *_PRICES_OF_BARS, "volume", "average", "trades")
    table = fitted(names, rows, ("trades", "average", "volume"), width, left=(begins,))
    table.title = f"{about}: {len(bars)} bars" + (f", the last {len(shown)}" if len(shown) < len(bars) else "")
    return table


def bars_document(instrument: AnyInstrument, bar_size: str, bars: Sequence[Bar]) -> dict[str, Any]:
    """`{"instrument", "contract", "bar_size", "bars": [{"at", "open", …}]}`."""
    return plain(named(instrument) | {"bar_size": bar_size, "bars": bars})


# --- both ------------------------------------------------------------------------------------------------------------


def table_of(names: Sequence[str], rows: Iterable[Row] = (), left: Iterable[str] = ()) -> Table:
    """Columns of numbers, but for those on the `left`; a cell that a row does not have is a dash."""
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, title_justify="left")
    for name in names:
        table.add_column(name, justify="left" if name in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*[row.get(name, NOTHING) for name in names])
    return table


def fitted(
    names: Sequence[str], rows: Sequence[Row], leaves: Sequence[str], width: int, left: Iterable[str] = ()
) -> Table:
    """As wide as it may be, without as many of the columns that may be left out as it takes."""
    left = frozenset(left)
    tables = (
        table_of([name for name in names if name not in leaves[:out]], rows, left) for out in range(len(leaves) + 1)
    )
    table = next(tables)
    while width_of(table) > width:
        narrower = next(tables, None)
        if narrower is None:
            break
        table = narrower
    return table


def width_of(*tables: Table) -> int:
    """How many characters the widest of them takes if nothing is cut off."""
    console = Console(width=ANY_WIDTH, file=io.StringIO())
    return max((console.measure(table).maximum for table in tables), default=0)


def named(instrument: AnyInstrument, name: str = "instrument") -> dict[str, Any]:
    """An instrument in a document: as people write it, and field by field."""
    return {name: str(instrument), "contract": instrument}


def fields_of(value: msgspec.Struct, without: Iterable[str] = ()) -> dict[str, Any]:
    """A value's fields by name."""
    return {name: getattr(value, name) for name in value.__struct_fields__ if name not in set(without)}


def plain(document: dict[str, Any]) -> dict[str, Any]:
    """Only what JSON has: Decimals as text, moments in ISO 8601 (UTC)."""
    found: dict[str, Any] = msgspec.to_builtins(document)
    return found
