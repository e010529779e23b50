"""When a soak has held: what gateway and journal must agree on, and what flat means."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from decimal import Decimal
from statistics import median
from typing import Any

from ibkr_service.core.orders import OrderState
from tests.crash import checks
from tests.crash.checks import Facts
from tests.crash.host import Arrived

FLAT = 1.05  # the last third's median memory over that of the second third
RSS_MAX_MB = 300.0
FILES_MORE = 2  # open files, in the last third over the first


@dataclass(frozen=True)
class Sample:
    """What the daemon used at a moment: seconds of the soak and of the processor, resident memory, open files."""

    at_s: float
    cpu_s: float
    rss_mb: float
    files: int


def differences(facts: Facts, broker: dict[str, Any], lines: int) -> Iterator[str]:
    """What journal and gateway disagree about while nothing is under way; `lines`: how many there should be."""
    executions = dict.fromkeys(broker["executions"])
    arrived = tuple(Arrived(*each) for each in broker["arrived"])
    yield from checks.after_kill(facts, {"arrived": arrived, "executions": executions}, [])
    if set(facts.fills) != set(executions):
        yield f"executions of journal and gateway differ: {sorted(set(facts.fills) ^ set(executions))}"
    for ref, order in facts.book.orders.items():
        known = broker["orders"].get(ref)
        if known is None:
            if order.state not in {OrderState.ABSENT, OrderState.REJECTED}:
                yield f"{ref} is {order.state.name}, and never reached the gateway"
            continue
        status, filled, done = known
        if order.filled != Decimal(filled) or order.done is not done:
            yield f"{ref} is {order.state.name} with {order.filled}, at the gateway {status} with {filled}"
    for ref in broker["orders"].keys() - set(facts.book.orders):
        yield f"{ref} is at the gateway only"
    held = {int(con_id): Decimal(quantity) for con_id, quantity in broker["positions"].items()}
    book = {con_id: p.quantity for (_, con_id), p in facts.book.positions.items() if p.quantity}
    ledger = {con_id: quantity for (_, con_id), quantity in facts.book.ledger.items() if quantity}
    if not held == book == ledger:
        yield f"the gateway holds {held}, the book {book}, the ledger {ledger}"
    if broker["lines"] != lines:
        yield f"{broker['lines']} market-data lines are open at the gateway, wanted are {lines}"


def growth(samples: Sequence[Sample]) -> Iterator[str]:
    """What has grown that should be flat."""
    third = len(samples) // 3
    if third < 3:
        yield f"{len(samples)} samples are too few to say anything of memory"
        return
    first, second, last = samples[:third], samples[third : 2 * third], samples[2 * third :]
    before_mb, after_mb = (median(sample.rss_mb for sample in part) for part in (second, last))
    if after_mb > before_mb * FLAT:
        yield f"memory grows: {before_mb:.1f} MB at the median of the second third, {after_mb:.1f} MB of the last"
    if (most_mb := max(sample.rss_mb for sample in samples)) > RSS_MAX_MB:
        yield f"{most_mb:.0f} MB of memory were used"
    before, after = (max(sample.files for sample in part) for part in (first, last))
    if after > before + FILES_MORE:
        yield f"open files grow: {before} at most in the first third, {after} in the last"
