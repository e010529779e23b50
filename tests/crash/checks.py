"""What must hold after a kill, after a restart and at the end, seen from three sides: gateway, journal, book.

Each check yields one line per breach; none means that all is well.
"""

from __future__ import annotations

import sqlite3
from collections import Counter, defaultdict
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

from ibkr_service import ahead, journal
from ibkr_service.core import events as ev
from ibkr_service.core.book import Book
from ibkr_service.core.orders import Order, OrderState
from ibkr_service.hub import SAYS_NOTHING_NOW
from tests.crash import plan

Broker = dict[str, Any]
"""What `host.state_of` says."""

Account = dict[str, Any]
"""What `trader.account_of` says."""

OVER = ("FILLED", "CANCELLED", "REJECTED", "ABSENT")


@dataclass
class Facts:
    """A journal, read from its file, and the book that it folds into."""

    submitted: dict[str, ev.OrderSubmitted] = field(default_factory=dict)
    submissions: Counter[str] = field(default_factory=Counter)
    fills: Counter[str] = field(default_factory=Counter)
    adjusted: list[ev.PositionAdjusted] = field(default_factory=list)
    book: Book = field(default_factory=Book)


def read(path: Path) -> Facts:
    """Read a journal that no process has open, as it lies there; none is one without facts."""
    facts = Facts()
    if not path.exists():
        return facts
    with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
        if not database.execute("SELECT 1 FROM sqlite_master WHERE name = 'journal'").fetchone():
            return facts  # killed while the file was made
        bodies = database.execute("SELECT seq, body FROM journal ORDER BY seq").fetchall()
        bodies += ahead.lines(path, bodies[-1][0] if bodies else 0)
        for _, body in bodies:
            event: ev.Event = journal._decoder.decode(body)
            match event:
                case ev.OrderSubmitted():
                    facts.submitted[event.ref] = event
                    facts.submissions[event.ref] += 1
                case ev.Fill():
                    facts.fills[event.exec_id] += 1
                case ev.PositionAdjusted():
                    facts.adjusted.append(event)
                case _:
                    pass
            if type(event) not in SAYS_NOTHING_NOW:
                facts.book.apply(event)
    return facts


def after_kill(facts: Facts, broker: Broker, full: list[tuple[datetime, datetime | None]]) -> Iterator[str]:
    """Check what must hold at any moment, also with the daemon dead. `full`: when the disk refused writes."""
    yield from _arrivals(facts, broker)
    yield from _wishes(facts, broker)
    yield from _journalled(facts, broker)
    for begin, end in full:
        for event in facts.submitted.values():
            if begin <= event.at and (end is None or event.at <= end):
                yield f"{event.ref} was submitted while the disk refused writes"


def _arrivals(facts: Facts, broker: Broker) -> Iterator[str]:
    """Nothing arrived that was not journalled before, nothing twice as new, nothing under another order's id."""
    ref_of: dict[tuple[int, int], str] = {}
    for order in broker["arrived"]:
        if order.ref not in facts.submitted:
            yield f"{order.ref} reached the gateway and is not in the journal"
        if ref_of.setdefault((order.client_id, order.order_id), order.ref) != order.ref:
            yield f"{order.ref} was sent under an order id that another order had: {order.order_id}"
    for ref, times in Counter(order.ref for order in broker["arrived"] if not order.changes).items():
        if times > 1:
            yield f"{ref} reached the gateway {times} times"


def _wishes(facts: Facts, broker: Broker) -> Iterator[str]:
    """A key stands for one order, and of a wish's attempts at most one arrived."""
    refs_of, reached = defaultdict(set), defaultdict(set)
    for submitted in facts.submitted.values():
        refs_of[submitted.key].add(submitted.ref)
    for order in broker["arrived"]:
        if order.ref in facts.submitted:
            reached[facts.submitted[order.ref].key.partition("/")[0]].add(order.ref)
    for key, refs in refs_of.items():
        if len(refs) > 1:
            yield f"key {key} stands for {', '.join(sorted(refs))}"
    for wish, refs in reached.items():
        if len(refs) > 1:
            yield f"wish {wish} reached the gateway as {', '.join(sorted(refs))}"


def _journalled(facts: Facts, broker: Broker) -> Iterator[str]:
    """Orders and executions are in the journal once, executions are the gateway's, no position had to be adjusted."""
    for ref, times in facts.submissions.items():
        if times > 1:
            yield f"{ref} was journalled {times} times"
    for exec_id, times in facts.fills.items():
        if times > 1:
            yield f"execution {exec_id} is {times} times in the journal"
        if exec_id not in broker["executions"]:
            yield f"execution {exec_id} is in the journal, and not at the gateway"
    for event in facts.adjusted:
        yield f"a position was adjusted from {event.before} to {event.after} ({event.cause})"


def after_restart(before: Facts, earlier: Broker, later: Broker, account: Account) -> Iterator[str]:
    """Check what a daemon believes when it is READY.

    Args:
        before: the journal as the one before left it. earlier, later: the gateway before the start, and now.
    """
    for exec_id, execution in earlier["executions"].items():
        if account["fills"].get(exec_id) != execution:
            yield f"execution {exec_id} {execution} was missed: {account['fills'].get(exec_id)}"
    for exec_id, execution in account["fills"].items():
        if later["executions"].get(exec_id) != execution:
            yield f"execution {exec_id} {execution} is not the gateway's {later['executions'].get(exec_id)}"
    for ref, order in before.book.orders.items():
        key, _, filled = account["orders"].get(ref, ("nothing", "", Decimal(0)))
        if key != order.key or filled < order.filled:
            yield f"{order} was forgotten: {account['orders'].get(ref)}"
    yield from _believed_over(later, account)
    yield from _strangers(account)
    if earlier["executions"] == later["executions"]:
        yield from _positions(later, account)


def _believed_over(broker: Broker, account: Account) -> Iterator[str]:
    """What is taken for over is over at the gateway, what is taken for absent never was there."""
    for ref, (_, state, _) in account["orders"].items():
        status, filled, done = broker["orders"].get(ref, ("unknown", Decimal(0), True))
        if state in OVER and not done:
            yield f"{ref} is {state}, but {status} at the gateway"
        if state == "ABSENT" and status != "unknown":
            yield f"{ref} is ABSENT, but {status} at the gateway, {filled} filled"


def at_the_end(seed: int, facts: Facts, broker: Broker, account: Account) -> Iterator[str]:
    """Check a life that came to its end: everything is equal, and as it was aimed at."""
    wanted = _wanted(seed, broker)
    held = broker["positions"]
    if held != wanted:
        yield f"the broker holds {held}, wanted is {wanted}"
    if set(facts.fills) != set(broker["executions"]):
        yield f"executions of journal and gateway differ: {sorted(set(facts.fills) ^ set(broker['executions']))}"
    if account["fills"] != broker["executions"]:
        yield "executions of book and gateway differ"
    folded = {ref: (order.key, order.state.name, order.filled) for ref, order in facts.book.orders.items()}
    if folded != account["orders"]:
        yield f"orders of journal and book differ: {sorted(set(folded.items()) ^ set(account['orders'].items()))}"
    for ref, order in facts.book.orders.items():
        yield from _order(ref, order, broker["orders"].get(ref))
    yield from _strangers(account)
    yield from _positions(broker, account)


def _wanted(seed: int, broker: Broker) -> dict[int, Decimal]:
    """The positions that a life aims at, by conId; those of a spread are its legs'."""
    wanted: Counter[int] = Counter()
    for symbol, quantity in plan.targets(seed).items():
        for con_id, ratio in broker["contracts"][symbol]:
            wanted[con_id] += quantity * ratio
    return {con_id: quantity for con_id, quantity in wanted.items() if quantity}


def views(path: Path, account: Account) -> Iterator[str]:
    """What a person reads at a SQL prompt is what the service believes."""
    with closing(journal.open_readonly(path)) as database:
        states = dict(database.execute("SELECT ref, state FROM orders"))
        fills = {exec_id for (exec_id,) in database.execute("SELECT exec_id FROM fills")}
    for ref, (_, state, _) in account["orders"].items():
        if states.get(ref) != state:
            yield f"{ref} is {state}, in the view orders {states.get(ref)}"
    if fills != set(account["fills"]):
        yield f"the view fills is not the book's: {sorted(fills ^ set(account['fills']))}"


def _order(ref: str, order: Order, known: tuple[str, Decimal, bool] | None) -> Iterator[str]:
    status, filled, done = known or ("unknown", Decimal(0), True)
    if order.filled != filled:
        yield f"{ref} is filled {order.filled}, at the gateway {filled}"
    expected = {"Filled": OrderState.FILLED, "Cancelled": OrderState.CANCELLED, "Inactive": OrderState.REJECTED}
    if known is None:
        if order.state not in {OrderState.ABSENT, OrderState.REJECTED}:
            yield f"{ref} is {order.state.name}, and never reached the gateway"
    elif not done or expected[status] is not order.state:
        yield f"{ref} is {order.state.name}, and {status} at the gateway"


def _strangers(account: Account) -> Iterator[str]:
    for ref in account["foreign"]:
        yield f"{ref or 'an order without reference'} is taken for somebody else's"
    for ref, (key, _, _) in account["orders"].items():
        if key.startswith("adopted:"):
            yield f"{ref} had to be adopted"


def _positions(broker: Broker, account: Account) -> Iterator[str]:
    for side in ("positions", "ledger"):
        if account[side] != broker["positions"]:
            yield f"{side} are {account[side]}, the gateway's {broker['positions']}"
