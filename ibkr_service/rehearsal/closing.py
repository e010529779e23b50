"""What must be true at the end of a rehearsal, when nothing goes wrong any more: seen from gateway, journal and book.

`differences` is asked again and again until it finds none, or the bound is over. `after_end` looks at what the service
left when it had stopped.
"""

from __future__ import annotations

import asyncio
import math
import sqlite3
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from decimal import Decimal
from pathlib import Path

import msgspec

from ibkr_service.core import events as ev
from ibkr_service.core.link import Link
from ibkr_service.core.orders import Order, OrderState
from ibkr_service.rehearsal.invariants import Watch
from ibkr_service.rehearsal.tally import DONE_BY_THE_BROKER, OURS
from ibkr_service.sim.orders import Execution, Status
from ibkr_service.sim.orders import Order as TheirOrder

ZERO = Decimal(0)
EXPECTED = {Status.FILLED: OrderState.FILLED, Status.CANCELLED: OrderState.CANCELLED}
NEVER_THERE = frozenset({OrderState.ABSENT, OrderState.REJECTED, OrderState.UNKNOWN})
QUOTE_AGE_MAX_S = 60.0
UNREAD_S = 1.0  # what was recorded so shortly before a service's end need not have been read


def differences(watch: Watch) -> Iterator[tuple[str, str]]:
    """What is not as it should be in the end, as (invariant, text); nothing when all is well."""
    machine = watch.machine
    if not machine.is_up or machine.app.book.link is not Link.READY:
        yield "recovers", f"the link is {machine.app.book.link.name}"
        return
    yield from _positions(watch)
    yield from _orders(watch)
    for execution in _reportable(watch):
        if machine.app.book.fill_by_exec_id(execution.exec_id) is None:
            yield "fills", f"execution {execution.exec_id} of {execution.order.ticket.order_ref} is not known"
    yield from _quotes(watch)
    yield from _lines(watch)
    if machine.app.incidents is not None and (under_way := machine.app.incidents.open) is not None:
        yield "incidents", f"incident {under_way.number} ({under_way.cause}) is not over"
    if machine.app.hub.unsaved:
        yield "fills", f"{len(machine.app.hub.unsaved)} facts have not reached the journal"


def _positions(watch: Watch) -> Iterator[tuple[str, str]]:
    book = watch.machine.app.book
    account = book.account
    theirs = {p.contract.con_id: p.quantity for p in watch.machine.gateway.positions(account) if p.quantity}
    reported = {con: p.quantity for (a, con), p in book.positions.items() if a == account and p.quantity}
    ledger = {con: quantity for (a, con), quantity in book.ledger.items() if a == account and quantity}
    for name, ours in (("positions", reported), ("ledger", ledger)):
        if ours != theirs:
            yield "agrees", f"{name} are {_plain(ours)}, the gateway's {_plain(theirs)}"


def _plain(quantities: dict[int, Decimal]) -> dict[int, str]:
    return {con_id: str(quantity) for con_id, quantity in sorted(quantities.items())}


def _orders(watch: Watch) -> Iterator[tuple[str, str]]:
    book = watch.machine.app.book
    theirs = {o.ticket.order_ref: o for o in watch.machine.gateway.exchange.orders.values()}
    forgotten = _forgotten(watch)
    for ref, order in book.orders.items():
        if not (ref in forgotten and order.state is OrderState.UNKNOWN):
            yield from _order(ref, order, theirs.get(ref))
    for ref in theirs:
        if ref.startswith(OURS) and ref not in book.orders:
            yield "agrees", f"{ref} is at the gateway, and the book does not know it"
    for foreign in book.foreign_orders.values():
        if foreign.ref.startswith(OURS):
            yield "agrees", f"{foreign.ref} is taken for somebody else's"


def _forgotten(watch: Watch) -> set[str]:
    """Orders of whose end the broker told nobody, and which it does not list any more: they stay UNKNOWN."""
    exchange, known = watch.machine.gateway.exchange, watch.machine.app.book
    listed = {order.ticket.order_ref for order in exchange.completed_today()}
    told = {execution.exec_id for execution in exchange.executions_today()}
    untold = {e.order.ticket.order_ref for e in exchange.executions if known.fill_by_exec_id(e.exec_id) is None}
    untold -= {e.order.ticket.order_ref for e in exchange.executions if e.exec_id in told}
    return untold | {o.ticket.order_ref for o in exchange.completed if o.ticket.order_ref not in listed}


def _order(ref: str, order: Order, known: TheirOrder | None) -> Iterator[tuple[str, str]]:
    if known is None:
        if order.state not in NEVER_THERE:
            yield "agrees", f"{ref} is {order.state.name}, and never reached the gateway"
        return
    if order.filled != known.filled:
        yield "agrees", f"{ref} is filled {order.filled}, at the gateway {known.filled}"
    status = known.status
    if not status.is_done:
        if order.done:
            yield "agrees", f"{ref} is {order.state.name}, and {status.value} at the gateway"
    elif status in EXPECTED:
        if order.state is not EXPECTED[status]:
            yield "agrees", f"{ref} is {order.state.name}, and {status.value} at the gateway"
    elif not order.done:
        yield "agrees", f"{ref} is {order.state.name}, and {status.value} at the gateway"


def _quotes(watch: Watch) -> Iterator[tuple[str, str]]:
    machine = watch.machine
    now_s = machine.loop.time()
    for instrument in watch.wanted():
        quote = machine.app.book.quote(instrument)
        if quote is None:
            yield "quotes", f"{instrument} has no quote"
        elif now_s - quote.mono_s > QUOTE_AGE_MAX_S:
            yield "quotes", f"the quote of {instrument} is {now_s - quote.mono_s:.0f} s old"


def _lines(watch: Watch) -> Iterator[tuple[str, str]]:
    machine = watch.machine
    count = machine.network.connections(machine.port)
    if count != 1:
        yield "lines", f"{count} connections are open"
    lines, wanted = watch.lines_open(), watch.wanted()
    if watch.counts_lines and lines != len(wanted):
        yield "lines", f"{lines} market-data lines are open, {len(wanted)} instruments are watched"


# --- when the service has stopped ------------------------------------------------------------------------------------


def after_end(watch: Watch, path: Path) -> Iterator[tuple[str, str]]:
    """What the journal must hold, and what must be gone, after the service has stopped."""
    facts = _read(path)
    yield from _fills(watch, facts)
    yield from _incidents(facts)
    yield from _adjustments(watch, facts)
    machine = watch.machine
    if count := machine.network.connections(machine.port):
        yield "lines", f"{count} connections are open after the end"
    keepers = {asyncio.current_task(), *machine.keepers}
    for task in asyncio.all_tasks():
        if task not in keepers and not task.done():
            yield "tasks", f"{task.get_name()} still runs after the end: {task.get_coro()!r}"
    for text in machine.loop.complaints:
        yield "tasks", f"asyncio says: {text}"


class _Facts:
    def __init__(self) -> None:
        self.fills: Counter[str] = Counter()
        self.fill_of: dict[str, ev.Fill] = {}
        self.adjusted: list[ev.PositionAdjusted] = []
        self.incidents: list[ev.IncidentOpened | ev.IncidentClosed] = []


def _read(path: Path) -> _Facts:
    """The journal's facts about fills, read from the file."""
    facts, decoder = _Facts(), msgspec.json.Decoder(ev.Event)
    with closing(sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro", uri=True)) as database:
        for (body,) in database.execute(
            "SELECT body FROM journal WHERE kind IN ('Fill', 'PositionAdjusted', 'IncidentOpened', 'IncidentClosed')"
            " ORDER BY seq"
        ):
            event = decoder.decode(body)
            if isinstance(event, ev.Fill):
                facts.fills[event.exec_id] += 1
                facts.fill_of[event.exec_id] = event
            elif isinstance(event, ev.PositionAdjusted):
                facts.adjusted.append(event)
            elif isinstance(event, ev.IncidentOpened | ev.IncidentClosed):
                facts.incidents.append(event)
    return facts


def _fills(watch: Watch, facts: _Facts) -> Iterator[tuple[str, str]]:
    gateway = watch.machine.gateway
    theirs = {e.exec_id: e for e in gateway.executions}
    for exec_id, times in facts.fills.items():
        if times > 1:
            yield "fills", f"execution {exec_id} is in the journal {times} times"
        execution = theirs.get(exec_id)
        if execution is None:
            yield "fills", f"execution {exec_id} is in the journal, and not at the gateway"
        elif not _same(facts.fill_of[exec_id], execution):
            yield "fills", f"execution {exec_id} is {facts.fill_of[exec_id]}, at the gateway {execution}"
    for execution in _reportable(watch):
        if execution.exec_id not in facts.fills:
            yield "fills", f"execution {execution.exec_id} of {execution.order.ticket.order_ref} was never told"
    yield from _readings(watch)


def _reportable(watch: Watch) -> list[Execution]:
    """Executions of the service's orders that the gateway still tells to who asks: those of today."""
    gateway = watch.machine.gateway
    today = {e.exec_id for e in gateway.exchange.executions_today()}
    return [e for e in gateway.executions if e.exec_id in today and e.order.ticket.order_ref.startswith(OURS)]


def _incidents(facts: _Facts) -> Iterator[tuple[str, str]]:
    """One after the other, each told when it begins and when it is over."""
    number, is_open = 0, False
    for event in facts.incidents:
        begins = isinstance(event, ev.IncidentOpened)
        number += begins
        if begins is is_open or event.number != number:
            what, state = "begins" if begins else "is over", "under way" if is_open else "over"
            yield "incidents", f"incident {event.number} {what}, and the one before is {state}"
        is_open = begins
    if is_open:
        yield "incidents", f"incident {number} has no end in the journal"


def _same(fill: ev.Fill, execution: Execution) -> bool:
    side = "BOT" if fill.action == "BUY" else "SLD"
    return (fill.quantity, fill.price, side) == (execution.shares, execution.price, execution.side)


def _readings(watch: Watch) -> Iterator[tuple[str, str]]:
    """What was recorded while a strategy ran has been read by it; and nothing in two lives, unless the disk failed."""
    ends_s = watch.machine.ended_s
    for at_s, life, exec_id, ref, begun in watch.fills_recorded:
        name = watch.strategy_of(ref)
        readers = [r for r in watch.readers[:begun] if r.life == life and r.name == name]
        if not readers or any(exec_id in reader.fills for reader in readers):
            continue
        if min(r.ended_s for r in readers) - at_s > UNREAD_S and ends_s.get(life, math.inf) - at_s > UNREAD_S:
            yield "fills", f"execution {exec_id} of {ref} was recorded, and {name} has not read it"
    lives: dict[tuple[str, str], int] = {}
    for reader in watch.readers:
        for exec_id in reader.fills:
            earlier = lives.setdefault((reader.name, exec_id), reader.life)
            if earlier != reader.life and earlier not in watch.disk_failed_in:
                yield "fills", f"{reader.name} has read execution {exec_id} in two lives"


def _adjustments(watch: Watch, facts: _Facts) -> Iterator[tuple[str, str]]:
    """What was adjusted is what was never told, per instrument."""
    untold: Counter[int] = Counter()
    for execution in watch.machine.gateway.executions:
        if execution.contract is not None and execution.exec_id not in facts.fills:
            sign = 1 if execution.side == "BOT" else -1
            untold[execution.contract.con_id] += sign * execution.shares  # type: ignore[assignment] # a sum of Decimals
    adjusted: Counter[int] = Counter()
    for event in facts.adjusted:
        if event.cause in DONE_BY_THE_BROKER:
            continue
        adjusted[event.con_id] += event.after - event.before  # type: ignore[assignment] # as above
    for con_id in dict.fromkeys([*untold, *adjusted]):
        if untold[con_id] != adjusted[con_id]:
            yield (
                "fills",
                f"of contract {con_id}, {untold[con_id]} was never told as fills, but {adjusted[con_id]} was adjusted",
            )
