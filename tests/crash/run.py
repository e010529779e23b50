"""The campaign of kill -9: daemons that trade with a simulated gateway over TCP are killed and started again.

    python -m tests.crash.run [--rounds N] [--seed S] [--point NAME] [--jobs J]

A *life* is a gateway in a process of its own, a journal, and a row of daemons (rounds), each killed with SIGKILL: every
other one at a random moment, the others at a named point (`victim.POINTS`). After each kill the journal is compared
with what reached the gateway, after each start what the service believes with both; at the end of a life a last daemon
brings the positions to their targets, and everything must be equal. Life i has the seed S + i.

The last line is the verdict; the exit code is 0 only if all passed. What failed is told with the command that lives
the life again, and its folder is kept.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import threading
import time
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any

from ibkr_service.clock import SystemClock
from tests.crash import checks, host, victim
from tests.crash.victim import PASSES_MAX, PASSES_USUAL, POINTS, Plot

ROUNDS_PER_LIFE = 10
PATIENCE_S = 120.0  # nothing here takes a tenth of this on an idle machine
STARTING_S, TRADING_S = 0.8, 1.5  # random moments: the start with its reconciliation, and the trading that follows
BREACHES_TOLD = 12
NEVER = 10**9  # so many passages no daemon lives to see
SETTINGS = """
[ibkr]
mode = "paper"
port = {port}
reconnect_delay_min_s = 0.05
reconnect_delay_max_s = 0.2
reconcile_interval_s = 1.0
ack_timeout_s = 2.0
[journal]
path = "journal.sqlite"
[risk]
max_notional = 1_000_000_000
max_orders_per_minute = 1_000_000
max_account_orders_per_minute = "none"
duplicate_window_s = 0
collar_percent = "none"
trading_hours = "off"
[[strategies]]
name = "trader"
run = "tests.crash.trader:trader"
[strategies.params]
seed = {seed}
stint = {stint}
prices = {prices}
legs = {legs}
"""

# Children are forked from a clean process that has the product loaded: a start takes a tenth of the usual time.
context = multiprocessing.get_context("forkserver")


class Failed(Exception):
    """A round did not pass; the text says what was found."""


@dataclass(frozen=True)
class Round:
    """How a daemon of a life is to die: at a plot's point, or at a random moment of its start or its trading."""

    number: int
    plot: Plot | None = None
    starting_s: float | None = None
    trading_s: float | None = None

    def __str__(self) -> str:
        if self.plot is not None:
            return f"{self.plot.point}, passage {self.plot.passes}"
        if self.starting_s is not None:
            return f"{self.starting_s:.3f} s after the start"
        return f"{self.trading_s:.3f} s of trading"


def rounds_of(seed: int, count: int, point: str | None) -> list[Round]:
    """The rounds of a life: half of them random, the points in turn over the lives; `point`: all at this one."""
    luck = random.Random(f"rounds {seed}")
    names = list(POINTS)
    rounds = []
    for number in range(1, count + 1):
        if point is None and number % 2:
            starts = luck.random() < 0.25
            moment_s = luck.uniform(0, STARTING_S if starts else TRADING_S)
            rounds.append(Round(number, None, moment_s if starts else None, None if starts else moment_s))
        else:
            name = point or names[((seed - 1) * (ROUNDS_PER_LIFE // 2) + number // 2 - 1) % len(names)]
            rounds.append(Round(number, Plot(name, luck.randint(1, PASSES_MAX.get(name, PASSES_USUAL)))))
    return rounds


@dataclass
class Tally:
    """What was done, over all lives."""

    wanted: int
    random: int = 0
    named: int = 0
    failed: int = 0
    orders: int = 0
    fills: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    @property
    def kills(self) -> int:
        return self.random + self.named

    def verdict(self) -> str:
        kinds = f"{self.random} random, {self.named} at named points"
        missing = self.wanted - self.kills
        rest = f", {missing} not carried out" if missing else ""
        return f"crash: {self.kills} kills ({kinds}), {self.failed} failed{rest}"


class Life:
    """One gateway and its row of daemons."""

    def __init__(self, seed: int, rounds: list[Round], tally: Tally, folder: Path) -> None:
        self._seed, self._rounds, self._tally, self._folder = seed, rounds, tally, folder
        self._journal = folder / "journal.sqlite"
        self._full: list[tuple[datetime, datetime | None]] = []
        self._facts = checks.Facts()
        self._stint = 0

    def live(self) -> None:
        """Go through all rounds and to the end.

        Raises:
            Failed: something did not hold.
        """
        pipe, theirs = context.Pipe()
        gateway = context.Process(target=host.main, args=(theirs, self._seed), daemon=True)
        gateway.start()
        theirs.close()
        try:
            self._gateway = pipe
            self._port, self._prices, self._legs = self._answer()
            for planned in self._rounds:
                self._round(planned)
            self._last()
        finally:
            pipe.close()
            gateway.join(PATIENCE_S)

    # --- rounds ------------------------------------------------------------------------------------------------------

    def _round(self, planned: Round) -> None:
        began_s = time.perf_counter()
        for _ in range(3):  # not every stint has, say, so many cancels
            with self._daemon(planned.plot) as daemon:
                died = self._until_death(daemon, planned)
            broker = self._ask("quiet")
            self._facts = checks.read(self._journal)
            _insist(checks.after_kill(self._facts, broker, self._full))
            if died:
                break
        else:
            raise Failed(f"{planned} was not reached in three stints")
        with self._tally.lock:
            self._tally.random += planned.plot is None
            self._tally.named += planned.plot is not None
            _say(
                f"{self._tally.kills}/{self._tally.wanted} seed {self._seed} round {planned.number}: {planned}: ok,"
                f" {len(broker['arrived'])} orders, {len(broker['executions'])} executions,"
                f" {time.perf_counter() - began_s:.1f} s"
            )

    def _until_death(self, daemon: _Daemon, planned: Round) -> bool:
        """Watch a daemon die; False if it had done everything before it came to its point."""
        if planned.starting_s is not None:
            daemon.watch(planned.starting_s)
            daemon.kill()
            return True
        if not self._begin(daemon, can_die=planned.plot is not None):
            return True
        if planned.trading_s is not None:
            daemon.watch(planned.trading_s)
            daemon.kill()
            return True
        done = daemon.watch(PATIENCE_S, "done")
        if done is None and daemon.is_alive:
            raise Failed(f"{planned}: neither done nor dead after {PATIENCE_S:g} s")
        daemon.kill()
        return done is None

    def _begin(self, daemon: _Daemon, *, can_die: bool) -> bool:
        """Wait until a daemon is READY, compare what it believes, let it trade; False if it died on the way."""
        account = daemon.watch(PATIENCE_S, "recovered")
        if account is None:
            if can_die and not daemon.is_alive:
                return False
            raise Failed("it never was READY")
        _insist(checks.after_restart(self._facts, self._before, self._ask("state"), account))
        return daemon.go() or can_die

    def _last(self) -> None:
        """Let the last daemon finish, with a disk that is full for a while; stop it in order, compare everything."""
        with self._daemon(Plot("disk-free-again", NEVER + self._seed)) as daemon:
            self._begin(daemon, can_die=False)
            account = daemon.watch(PATIENCE_S, "done")
            if account is None:
                raise Failed("the last daemon does not come to its end")
            daemon.stop()
        broker, facts = self._ask("quiet"), checks.read(self._journal)
        _insist(checks.after_kill(facts, broker, self._full))
        _insist(checks.at_the_end(self._seed, facts, broker, account))
        _insist(checks.views(self._journal, account))
        with self._tally.lock:
            self._tally.orders += len(broker["arrived"])
            self._tally.fills += len(broker["executions"])

    @contextmanager
    def _daemon(self, plot: Plot | None) -> Iterator[_Daemon]:
        self._stint += 1
        prices = "{ " + ", ".join(f'"{symbol}" = "{price}"' for symbol, price in self._prices.items()) + " }"
        legs = json.dumps(self._legs)
        settings = SETTINGS.format(port=self._port, seed=self._seed, stint=self._stint, prices=prices, legs=legs)
        (self._folder / "settings.toml").write_text(settings)
        self._before = self._ask("state")
        daemon = _Daemon(self._folder, plot, self._full)
        try:
            yield daemon
        finally:
            daemon.kill()
            if self._full and self._full[-1][1] is None:  # it died with its disk full; the next one's is not
                self._full[-1] = (self._full[-1][0], SystemClock().now())

    # --- the gateway -------------------------------------------------------------------------------------------------

    def _ask(self, question: str) -> Any:
        self._gateway.send(question)
        return self._answer()

    def _answer(self) -> Any:
        if not self._gateway.poll(PATIENCE_S):
            raise Failed("the gateway does not answer")
        return self._gateway.recv()


class _Daemon:
    """A daemon's process, and what it says."""

    def __init__(self, folder: Path, plot: Plot | None, full: list[tuple[datetime, datetime | None]]) -> None:
        self._full = full
        self._pipe, theirs = context.Pipe()
        self._process: BaseProcess = context.Process(target=victim.main, args=(str(folder), theirs, plot), daemon=True)
        self._process.start()
        theirs.close()

    @property
    def is_alive(self) -> bool:
        return self._process.is_alive()

    def watch(self, seconds: float, until: str = "") -> Any:
        """Listen for so long, until it says `until` (whose content is returned) or dies (None).

        Raises:
            Failed: it died of something else than SIGKILL, or sent an order while the disk refused writes.
        """
        deadline_s = time.perf_counter() + seconds
        while (left_s := deadline_s - time.perf_counter()) > 0:
            ready = wait([self._pipe, self._process.sentinel], left_s)
            if self._pipe in ready:
                try:
                    kind, what = self._pipe.recv()
                except (EOFError, OSError):  # a SIGKILL may cut a message in two
                    self._process.join()
                    self._buried()
                    return None
                self._heard(kind, what)
                if kind == until:
                    return what
            elif ready:
                self._buried()
                return None
        return None

    def _heard(self, kind: str, what: Any) -> None:
        match kind:
            case "leak":
                raise Failed(f"an order left while the disk refused writes: {what!r}")
            case "failed":
                raise Failed(f"the strategy failed: {what}")
            case "disk full":
                self._full.append((datetime.fromisoformat(what), None))
            case "disk free":
                self._full[-1] = (self._full[-1][0], datetime.fromisoformat(what))
            case _:
                pass

    def _buried(self) -> None:
        if self._process.exitcode != -9:
            raise Failed(f"it ended by itself with exit code {self._process.exitcode}: see daemon.log")

    def go(self) -> bool:
        """Let it trade; False if it is dead."""
        try:
            self._pipe.send("go")
        except OSError:
            return False
        return True

    def kill(self) -> None:
        """SIGKILL, and bury it."""
        self._process.kill()
        self._process.join()
        self._pipe.close()

    def stop(self) -> None:
        """Ask for the orderly end."""
        self._process.terminate()
        self._process.join(PATIENCE_S)
        if self._process.exitcode != 0:
            raise Failed(f"SIGTERM ended it with exit code {self._process.exitcode}: see daemon.log")


def _insist(breaches: Iterable[str]) -> None:
    found = list(breaches)
    if len(found) > BREACHES_TOLD:
        found[BREACHES_TOLD:] = [f"… and {len(found) - BREACHES_TOLD} more"]
    if found:
        raise Failed("\n    ".join(found))


def _say(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


# --- the campaign ----------------------------------------------------------------------------------------------------


def _one_life(seed: int, count: int, point: str | None, tally: Tally) -> None:
    folder = Path(tempfile.mkdtemp(prefix=f"crash-{seed}-"))
    try:
        Life(seed, rounds_of(seed, count, point), tally, folder).live()
    except Exception as exc:  # noqa: BLE001 - whatever it is: the campaign goes on and is told
        again = f"python -m tests.crash.run --rounds {count} --seed {seed}" + (f" --point {point}" if point else "")
        what = str(exc) if isinstance(exc, Failed) else repr(exc)
        with tally.lock:
            tally.failed += 1
            _say(f"FAILED seed {seed}: {what}\n    again: {again}\n    kept: {folder}")
    else:
        shutil.rmtree(folder)


def campaign(rounds: int, seed: int, point: str | None, jobs: int) -> Tally:
    """So many kills, in as many lives as it takes."""
    tally = Tally(rounds)
    context.set_forkserver_preload(["tests.crash.victim", "tests.crash.host"])
    with ThreadPoolExecutor(jobs) as pool:
        for number, done in enumerate(range(0, rounds, ROUNDS_PER_LIFE)):
            pool.submit(_one_life, seed + number, min(ROUNDS_PER_LIFE, rounds - done), point, tally)
    return tally


def main() -> int:
    """Run a campaign as the command line says; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m tests.crash.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=200, help="how many kills")
    parser.add_argument("--seed", type=int, default=1, help="of the first life; the next has one more")
    parser.add_argument("--point", choices=list(POINTS), help="kill at this point only")
    parser.add_argument("--jobs", type=int, default=min(4, os.cpu_count() or 1), help="lives at a time")
    chosen = parser.parse_args()
    began_s = time.perf_counter()
    tally = campaign(chosen.rounds, chosen.seed, chosen.point, chosen.jobs)
    _say(f"{tally.orders} orders and {tally.fills} executions in {time.perf_counter() - began_s:.0f} s")
    _say(tally.verdict())
    return 0 if tally.failed == 0 and tally.kills == chosen.rounds else 1


if __name__ == "__main__":
    sys.exit(main())
