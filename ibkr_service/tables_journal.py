"""What the journal's views say, as tables for people and as documents and lines for programs.

A row is a view's row by column (`docs/journal.md`). Averages and sums are SQLite's floating point, and are written with
eight decimals at most; all other numbers are text, as exact as they came.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterable, Sequence
from datetime import datetime
from decimal import Decimal
from typing import Any

from rich.table import Table
from rich.text import Text

from ibkr_service.log import mask_account
from ibkr_service.tables import ANY_WIDTH, NOTHING, Row, fitted, money_text, size_text

Record = dict[str, Any]
"""A row of a view, by column."""

LAST = 50  # so many rows are shown to a person
_SUMS = frozenset({"average_price", "commission"})

_ORDERS = (
    "submitted", "strategy", "key", "instrument", "action", "quantity", "type", "limit", "stop", "tif", "state",
    "filled", "average", "commission", "reason",
)  # fmt: skip
_ORDERS_LEAVE = ("reason", "stop", "commission", "key", "tif", "strategy", "type")
_FILLS = (
    "executed", "strategy", "instrument", "action", "quantity", "price", "commission", "currency", "realized PnL",
    "part", "note",
)  # fmt: skip
_FILLS_LEAVE = ("note", "part", "currency", "realized PnL", "strategy", "commission")
_INCIDENTS = ("began", "noticed", "ready", "gaps", "asked anew", "silent", "unknown", "resolved", "fills", "cause")
_INCIDENTS_LEAVE = ("asked anew", "silent", "resolved", "unknown", "fills", "gaps", "noticed")
_LISTS = ("streams", "orders")  # columns of incidents that hold JSON


def records_of(names: Sequence[str], rows: Iterable[tuple[Any, ...]], *, unmasked: bool = False) -> list[Record]:
    """A view's rows by column, ready to be shown: sums as text, accounts masked."""
    found = [dict(zip(names, row, strict=True)) for row in rows]
    for record in found:
        for name in _SUMS & record.keys():
            if isinstance(record[name], float):
                record[name] = f"{record[name]:.8f}".rstrip("0").rstrip(".")
        if record.get("account") and not unmasked:
            record["account"] = mask_account(record["account"])
    return found


def orders_table(orders: Sequence[Record], width: int = ANY_WIDTH) -> Table:
    """The last orders; the title says how many there are."""
    rows: list[Row] = [
        {
            "submitted": _moment(order["submitted_at"]),
            "strategy": Text(order["strategy"]),
            "key": Text(order["key"]),
            "instrument": Text(order["instrument"]),
            "action": _side(order["action"]),
            "quantity": _size(order["quantity"]),
            "type": Text(order["order_type"]),
            "limit": _text(order["limit_price"]),
            "stop": _text(order["stop_price"]),
            "tif": Text(order["tif"]),
            "state": Text(order["state"]),
            "filled": _size(order["filled"]),
            "average": _text(order["average_price"]),
            "commission": _paid(order),
            "reason": Text(order["reason"]),
        }
        for order in orders[-LAST:]
    ]
    left = ("submitted", "strategy", "key", "instrument", "action", "type", "tif", "state", "reason")
    return _titled(fitted(_ORDERS, rows, _ORDERS_LEAVE, width, left=left), orders, "order")


def fills_table(fills: Sequence[Record], width: int = ANY_WIDTH) -> Table:
    """The last executions; the title says how many there are."""
    rows: list[Row] = [
        {
            "executed": _moment(fill["executed_at"]),
            "strategy": _text(fill["strategy"]),
            "instrument": Text(fill["instrument"]),
            "action": _side(fill["action"]),
            "quantity": _size(fill["quantity"]),
            "price": Text(fill["price"]),
            "commission": _paid(fill),
            "currency": _text(fill["commission_currency"]),
            "realized PnL": _gain(fill["realized_pnl"]),
            "part": _text(fill["part"]),
            "note": Text(", ".join(_notes(fill))),
        }
        for fill in fills[-LAST:]
    ]
    left = ("executed", "strategy", "instrument", "action", "currency", "part", "note")
    return _titled(fitted(_FILLS, rows, _FILLS_LEAVE, width, left=left), fills, "fill")


def incidents_table(incidents: Sequence[Record], width: int = ANY_WIDTH) -> Table:
    """The last outages; the title says how many there are. The times after which something was so are seconds."""
    rows: list[Row] = [
        {
            "began": _moment(incident["began_at"]),
            "noticed": _seconds(incident["detected_after_s"]),
            "ready": _seconds(incident["ready_after_s"]) if incident["ended_at"] else Text("not yet", style="red"),
            "gaps": _count(incident["streams_with_gap"]),
            "asked anew": _count(incident["streams_resubscribed"]),
            "silent": _count(incident["streams_silent"]),
            "unknown": _count(incident["orders_unknown"]),
            "resolved": _count(incident["orders_resolved"]),
            "fills": _count(incident["fills_recovered"]),
            "cause": Text(incident["cause"]),
        }
        for incident in incidents[-LAST:]
    ]
    return _titled(fitted(_INCIDENTS, rows, _INCIDENTS_LEAVE, width, left=("began", "cause")), incidents, "incident")


def unfolded(incidents: Sequence[Record]) -> list[Record]:
    """Incidents with their streams and orders as lists, for a document."""
    return [
        {name: json.loads(value) if name in _LISTS and value is not None else value for name, value in incident.items()}
        for incident in incidents
    ]


def csv_text(names: Sequence[str], records: Iterable[Record]) -> str:
    """All rows with a line of names above; what there is not is empty."""
    text = io.StringIO()
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(records)
    return text.getvalue()


def _titled(table: Table, records: Sequence[Record], what: str) -> Table:
    many = "" if len(records) == 1 else "s"
    table.title = f"{len(records)} {what}{many}" + (f", the last {LAST}" if len(records) > LAST else "") + ", UTC"
    return table


def _moment(text: str) -> Text:
    return Text(f"{datetime.fromisoformat(text):%Y-%m-%d %H:%M:%S}")


def _seconds(value: float | None) -> Text:
    return Text(NOTHING if value is None else f"{value:,.1f}")


def _count(value: int | None) -> Text:
    return Text(NOTHING if value is None else str(value))


def _text(value: str | None) -> Text:
    return Text(NOTHING if value is None else value)


def _size(text: str) -> Text:
    return Text(size_text(Decimal(text)))


def _side(action: str) -> Text:
    return Text(action, style="green" if action == "BUY" else "red")


def _paid(record: Record) -> Text:
    paid = record["commission"]
    return Text(money_text(None if paid is None else Decimal(paid)))


def _gain(text: str | None) -> Text:
    amount = None if text is None else Decimal(text)
    return Text(money_text(amount), style="" if not amount else "green" if amount > 0 else "red")


def _notes(fill: Record) -> Iterable[str]:
    if fill["corrections"]:
        yield "corrected"
    if fill["recovered"]:
        yield "learned by asking"
    if not fill["ref"]:
        yield "not ours"
