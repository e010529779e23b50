"""Option chains as tables for people, and as documents for programs. Pure, like `tables.py`."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import date
from typing import Any

import msgspec
from rich import box
from rich.table import Table
from rich.text import Text

from ibkr_service.core.chain import ChainRow, OptionChain, Slice
from ibkr_service.core.chainselection import days_to
from ibkr_service.core.instrument import AnyOption
from ibkr_service.tables import (
    ANY_WIDTH,
    NOTHING,
    decimals,
    fields_of,
    named,
    plain,
    price_text,
    size_text,
    table_of,
    width_of,
)

MISSING_MAX = 20  # so many lines on what is missing
RULED = box.Box("    \n    \n ── \n    \n ── \n    \n    \n    \n")  # rules below the head and where the money is

# From the strike outwards, so that bid and ask stand next to it on both sides; the outermost go first if it is narrow.
_PRICES = ("bid", "ask")
_CHAIN_COLUMNS = (*_PRICES, "delta", "iv", "volume", "OI")


def chain_tables(chain: OptionChain, width: int = ANY_WIDTH) -> list[Table]:
    """A table for each slice: calls on the left, puts on the right, a rule where the money is.

    Args:
        width: in characters; in a narrow terminal open interest, volume and so on are left out rather than cut off.
    """
    for kept in range(len(_CHAIN_COLUMNS), len(_PRICES), -1):
        tables = [_slice_table(chain, one, _CHAIN_COLUMNS[:kept]) for one in chain.slices]
        if width_of(*tables) <= width:
            return tables
    return [_slice_table(chain, one, _PRICES) for one in chain.slices]


def slice_title(chain: OptionChain, one: Slice) -> str:
    """Underlying, expiry, days to it, settlement, trading class, price of the underlying."""
    days = days_to(one.expiry, chain.at.date())
    settled = f" {one.settlement}" if one.settlement else ""
    price = price_text(chain.underlying_price, decimals([chain.underlying_price]))
    day = f"{_day(one.expiry):%d %b %Y}"
    return f"{chain.underlying} {day}{settled}, {days} days, class {one.trading_class}, underlying at {price}"


def _slice_table(chain: OptionChain, one: Slice, columns: Sequence[str]) -> Table:
    left = [*reversed([name for name in columns if name not in _PRICES]), *_PRICES]
    table = table_of(())
    table.box = RULED
    table.title = slice_title(chain, one)
    for name in left:
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("strike", justify="center", style="bold", no_wrap=True)
    for name in columns:
        table.add_column(name, justify="right", no_wrap=True)
    pairs = chain.pairs(one)
    rows = [row for _, *both in pairs for row in both if row is not None]
    places = decimals(price for row in rows for price in (row.bid, row.ask))
    price = chain.underlying_price
    strike_places = 0 if all(strike == int(strike) for strike, _, _ in pairs) else decimals(s for s, _, _ in pairs)
    for number, (strike, call, put) in enumerate(pairs):
        above = price is not None and strike > price
        # In the money is what a chain shades: calls below the price of the underlying, puts above it.
        call_style, put_style = ("", "cyan") if above else ("cyan", "") if price is not None else ("", "")
        cells = _side(call, places, call_style)
        table.add_row(
            *[cells[name] for name in left],
            f"{strike:.{strike_places}f}",
            *[_side(put, places, put_style)[name] for name in columns],
            end_section=_money_is_after(number, pairs, price),
        )
    return table


def _money_is_after(number: int, pairs: Sequence[tuple[float, Any, Any]], price: float | None) -> bool:
    if price is None or number + 1 >= len(pairs):
        return False
    return pairs[number][0] <= price < pairs[number + 1][0]


def _side(row: ChainRow | None, places: int, style: str) -> dict[str, Text]:
    """One contract's cells; greeks that were computed here, not by the broker, are in italics."""
    if row is None:
        return dict.fromkeys(_CHAIN_COLUMNS, Text("", style=style))
    greek = f"{style} italic".strip() if row.greeks.computed else style
    iv, delta = row.implied_volatility, row.delta
    return {
        "bid": Text(price_text(row.bid, places), style=style),
        "ask": Text(price_text(row.ask, places), style=style),
        "delta": Text(NOTHING if delta is None else f"{delta:+.3f}", style=greek),
        "iv": Text(NOTHING if iv is None else f"{iv:.1%}", style=greek),
        "volume": Text(size_text(row.volume), style=style),
        "OI": Text(size_text(row.open_interest), style=style),
    }


def chain_notes(chain: OptionChain) -> list[str]:
    """What must be said below the tables: data that is not live, greeks of our own, and what is missing."""
    kinds = sorted({row.data_type for row in chain.rows if row.at is not None} - {"live"})
    notes = [f"not live: some of it is {', '.join(kinds)}".replace("_", " ")] if kinds else []
    own = sum(row.greeks.computed for row in chain.rows)
    if own:
        notes.append(f"greeks of {own} contracts were computed here, not by the broker")
    notes += [f"missing: {text}" for text in chain.missing[:MISSING_MAX]]
    if len(chain.missing) > MISSING_MAX:
        notes.append(f"missing: {len(chain.missing) - MISSING_MAX} more")
    return notes


def chain_document(chain: OptionChain) -> dict[str, Any]:
    """`{"underlying", "underlying_price", "at", "slices": [{"expiry", …, "rows": […]}], "missing"}`."""
    slices = [
        msgspec.structs.asdict(one)
        | {
            "days_to_expiry": days_to(one.expiry, chain.at.date()),
            "at_the_money": chain.at_the_money(one),
            "rows": [_chain_row(row) for row in chain.of(one)],
        }
        for one in chain.slices
    ]
    about = named(chain.underlying, "underlying") | {"underlying_price": chain.underlying_price, "at": chain.at}
    return plain(about | {"slices": slices, "missing": chain.missing})


def _chain_row(row: ChainRow) -> dict[str, Any]:
    option: AnyOption = row.option
    return named(option) | {"strike": option.strike, "right": option.right} | fields_of(row, without={"option"})


def _day(expiry: str) -> date:
    return date(int(expiry[:4]), int(expiry[4:6]), int(expiry[6:8]))
