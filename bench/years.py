"""The start with years of history: from the process's birth to READY, with 100,000 orders in the journal.

The journal is made by a hub as in life: each order is submitted, sent, shown, reported, filled and charged, which makes
ten facts. Started is a process of its own, at a simulated gateway in another one. Two starts: from the snapshot that a
clean stop leaves, and as after an upgrade, when every fact is folded anew.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import paired
import sides

from ibkr_service.app import App, AppConfig
from ibkr_service.broker.login import SessionConfig
from ibkr_service.clock import SystemClock
from ibkr_service.core import events as ev
from ibkr_service.core.instrument import Stock
from ibkr_service.core.link import Link
from ibkr_service.core.orders import Intent
from ibkr_service.core.refs import Refs
from ibkr_service.hub import Hub
from ibkr_service.journal import Journal
from ibkr_service.rehearsal.world import WIDE_LIMITS

ORDERS, QUICK_ORDERS = 100_000, 2_000
ACCOUNT = "DU1234567"
BEGAN = datetime(2024, 1, 2, 14, 30, tzinfo=UTC)
APART = timedelta(minutes=7)
STOCKS = tuple(Stock(symbol) for symbol in ("AAPL", "MSFT", "SPY", "TSLA"))
READY = "READY"


def write_history(path: Path, orders: int) -> int:
    """Write a journal with so many filled orders, and the snapshot of a clean stop; returns the number of facts."""
    journal = Journal(path, "power")  # each decision is a row at once, and all rows are one transaction
    journal._db.execute("BEGIN")  # noqa: SLF001 - nobody waits for these writes, and nothing is lost with them
    hub, refs = Hub(journal), Refs("1-1")
    hub.record(ev.ServiceStarted(at=BEGAN, run_id="1", mode="simulated", version="0"))
    hub.record(
        ev.SessionOpened(at=BEGAN, session=1, server_version=176, client_id=1, accounts=(ACCOUNT,), account=ACCOUNT)
    )
    for number in range(orders):
        write_order(hub, refs, number)
    journal._db.execute("COMMIT")  # noqa: SLF001 - as above
    hub.snapshots.finish()
    facts = journal.seq
    journal.close()
    return facts


def write_order(hub: Hub, refs: Refs, number: int) -> None:
    """One order's life; of two orders of a stock the second closes the first."""
    at, stock = BEGAN + number * APART, STOCKS[number % len(STOCKS)]
    action = "SELL" if number // len(STOCKS) % 2 else "BUY"
    intent = Intent.of(action, stock, 100, limit="231.50")
    key, perm_id, order_id = f"wish-{number}", 1_000_000 + number, number + 1
    ref, exec_id = refs.next("trend", key), f"0000e0d5.{number:08x}.01.01"
    hub.commit(ev.OrderSubmitted(at=at, ref=ref, key=key, strategy="trend", account=ACCOUNT, intent=intent))
    hub.record(ev.OrderSent(at=at, session=1, ref=ref, order_id=order_id))
    hub.record(
        ev.OpenOrderReported(
            at=at,
            session=1,
            ref=ref,
            order_id=order_id,
            client_id=1,
            perm_id=perm_id,
            account=ACCOUNT,
            instrument=stock,
            action=action,
            quantity=intent.quantity,
            order_type="LMT",
            status="Submitted",
            limit_price=intent.limit_price,
            tif="DAY",
            outside_rth=False,
        )
    )
    for status in ("Submitted", "Filled"):
        filled = intent.quantity if status == "Filled" else Decimal(0)
        if filled:
            hub.record(
                ev.Fill(
                    at=at,
                    session=1,
                    exec_id=exec_id,
                    ref=ref,
                    account=ACCOUNT,
                    con_id=1000 + number % len(STOCKS),
                    instrument=stock,
                    action=action,
                    quantity=intent.quantity,
                    price=Decimal("231.45"),
                    executed_at=at,
                    perm_id=perm_id,
                    order_id=order_id,
                    client_id=1,
                )
            )
        hub.record(
            ev.OrderStatusReported(
                at=at,
                session=1,
                ref=ref,
                order_id=order_id,
                client_id=1,
                perm_id=perm_id,
                status=status,
                filled=filled,
                remaining=intent.quantity - filled,
            )
        )
    hub.record(ev.CommissionReported(at=at, session=1, exec_id=exec_id, commission=Decimal("1.05"), currency="USD"))


async def start(path: Path, port: int, orders: int) -> None:
    """Start the service on this journal, say when it is READY, and end without a snapshot, as a kill would."""
    sides.quiet_logs(path.parent, SystemClock())
    config = AppConfig(session=SessionConfig("127.0.0.1", port, 1), limits=WIDE_LIMITS, journal_path=path)

    def observe(event: ev.Event) -> None:
        if isinstance(event, ev.LinkChanged) and event.after is Link.READY:
            print(READY, flush=True)
            app.request_stop("the benchmark ends")

    app = App(config, [], clock=SystemClock(), rng=random.Random(1), observer=observe)
    app.hub.snapshots.finish = lambda: None  # type: ignore[method-assign]  # each start finds what the first one found
    await app.run()
    book = app.book
    key = f"wish-{orders // 2}"
    order = book.order_for_key("trend", key)
    if len(book.orders) != orders or order is None or not order.done or not book.fills_of(order.ref):
        raise AssertionError(f"{len(book.orders)} of {orders} orders; {key} is {order}")


@contextmanager
def gateway() -> Iterator[int]:
    """A simulated gateway in a process of its own: the port that it listens on."""
    command = [sys.executable, "-m", "ibkr_service", "simulate", "--port", "0"]
    with subprocess.Popen(  # noqa: S603 - this interpreter, and our own command
        command, stdout=subprocess.PIPE, text=True, cwd=paired.HERE.parent, env=paired.environment()
    ) as running:
        assert running.stdout is not None, "it was asked for"
        try:
            yield int(running.stdout.readline().rpartition(":")[2])
        finally:
            running.terminate()


def started_s(path: Path, port: int, orders: int) -> float:
    """Seconds from the birth of a process to READY."""
    command = [sys.executable, __file__, "--start", str(path), "--port", str(port), "--orders", str(orders)]
    begun = time.perf_counter()
    with subprocess.Popen(  # noqa: S603 - this interpreter, and this file
        command, stdout=subprocess.PIPE, text=True, cwd=paired.HERE.parent, env=paired.environment()
    ) as running:
        assert running.stdout is not None, "it was asked for"
        line = running.stdout.readline().strip()
        taken = time.perf_counter() - begun
    if line != READY or running.returncode:
        raise RuntimeError(f"the service did not become READY as it should: {line!r}, exit code {running.returncode}")
    return taken


def measure(orders: int, rounds: int) -> paired.Result:
    """Make the journal, start on it so often from its snapshot, then once without."""
    with tempfile.TemporaryDirectory() as home, gateway() as port:
        path = Path(home) / "journal.sqlite"
        facts = write_history(path, orders)
        megabytes = path.stat().st_size / 1e6
        starts = [started_s(path, port, orders) for _ in range(rounds)]
        journal = Journal(path)
        journal.drop_parts()
        journal.close()
        anew = started_s(path, port, orders)
    return {"facts": facts, "megabytes": megabytes, "starts": starts, "anew": anew}


def rows(rounds: int, *, quick: bool) -> list[paired.Row]:
    """The start from a snapshot, and the one after an upgrade."""
    orders = QUICK_ORDERS if quick else ORDERS
    found = paired.child("years.py", "--orders", str(orders), "--rounds", str(rounds))
    starts = sorted(found["starts"])
    what = f"start to READY with {orders:,} orders ({found['facts']:,} facts, {found['megabytes']:,.0f} MB), seconds"
    spread = f"({starts[0]:.2f}..{starts[-1]:.2f})"
    return [
        paired.Row(what, "", f"{starts[len(starts) // 2]:.2f}", spread),
        paired.Row("the same after an upgrade, every fact folded anew, seconds", "", f"{found['anew']:.1f}"),
    ]


def main() -> None:
    """Be the service that is started, or measure and print the result."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--orders", type=int, required=True)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--start", type=Path)
    parser.add_argument("--port", type=int)
    chosen = parser.parse_args()
    if chosen.start is not None:
        asyncio.run(start(chosen.start, chosen.port, chosen.orders))
    else:
        print(json.dumps(measure(chosen.orders, chosen.rounds)))


if __name__ == "__main__":
    main()
