"""The soak: a daemon under uvloop trades over real TCP while its gateway goes away again and again, in real time.

    python -m tests.soak.run [--for 10m] [--quick] [--seed S]

`nightly-restart`, `half-open` and `client-id-in-use` in turn, each at least once, with trading between them. After
each the daemon must be READY again with exactly one more incident, journal and gateway must agree about every order,
execution and position, none doubled and none lost, and the lines must be the wanted ones. At the end: memory and open
files did not grow (`rules.py`), and the daemon ends in order. The last line is the verdict; the exit code is 0 only if
all held.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import re
import shutil
import signal
import sqlite3
import sys
import tempfile
import traceback
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

from ibkr_service import control
from ibkr_service.control import Request, socket_path
from tests.crash import checks
from tests.soak.rules import Sample, differences, growth
from tests.soak.trader import HOLD, WATCHED

ROOT = Path(__file__).parents[2]
SAMPLE_S = 10.0
ANSWER_MAX_BYTES = 2**26  # of the gateway, which names every order
PATIENCE_S = 90.0  # for being READY again
SETTLES_S = 90.0  # what is under way ends within this; an order of which the broker knows nothing after half a minute
UNITS_S = {"s": 1.0, "m": 60.0, "h": 3600.0}
SETTINGS = """
[ibkr]
mode = "paper"
port = {port}
{ibkr}
[journal]
path = "journal.sqlite"
[log]
format = "json"
[risk]
max_orders_per_minute = 1000
max_account_orders_per_minute = "none"
duplicate_window_s = 0
trading_hours = "off"
[[strategies]]
name = "trader"
run = "tests.soak.trader:trader"
params = {{ seed = {seed}, pause_s = {pause_s} }}
"""
QUICK = "probe_interval_s = 2\nprobe_timeout_s = 2\nreconnect_delay_min_s = 0.5\nabsent_after_s = 4"


class Failed(Exception):
    """The soak cannot go on; why."""


class Soak:
    """One run. `trades_s`: how long is traded between two misfortunes; `away_s`: how long each lasts."""

    def __init__(self, folder: Path, *, for_s: float, seed: int, quick: bool) -> None:
        self._folder, self._for_s, self._seed, self._quick = folder, for_s, seed, quick
        self._trades_s = 2.0 if quick else 30.0  # a connection that lives for less is a flap, and waits longer
        self._away_s = {
            "nightly-restart": 2.0 if quick else 10.0,
            "half-open": 6.0 if quick else 20.0,
            "client-id-in-use": 2.0 if quick else 10.0,
        }
        self.breaches: list[str] = []
        self.samples: list[Sample] = []
        self.played = 0
        self.longest_s: dict[str, float] = {}
        self._began_s = 0.0

    async def run(self) -> None:
        """From the first process to the end of the last."""
        self._began_s = self._now_s()
        self._gateway = await self._start("-m", "tests.soak.gateway", str(self._seed), stdin=asyncio.subprocess.PIPE)
        try:
            port = (await self._said())["port"]
            settings = SETTINGS.format(
                port=port, ibkr=QUICK if self._quick else "", seed=self._seed, pause_s=0.2 if self._quick else 0.5
            )
            (self._folder / "settings.toml").write_text(settings)
            with (self._folder / "daemon.log").open("wb") as log:
                self._daemon = await self._start("-m", "ibkr_service", "run", stderr=log)
            try:
                await self._soak()
            finally:
                await self._end()
        finally:
            self._gateway.terminate()
            await self._gateway.wait()

    async def _soak(self) -> None:
        await self._until(lambda: self._has_fills() >= 1, PATIENCE_S, "the first fill")
        sampling = asyncio.get_running_loop().create_task(self._sample())
        try:
            names = list(self._away_s)
            while self.played < len(names) or self._now_s() - self._began_s < self._for_s:
                await asyncio.sleep(self._trades_s)
                await self._misfortune(names[self.played % len(names)])
        finally:
            sampling.cancel()
        if not self._quick:
            self.breaches += growth(self.samples)

    async def _misfortune(self, name: str) -> None:
        """Let it happen while orders are under way, and look at what is left."""
        before, began_s = len(self._incidents()), self._now_s()
        await self._ask({"do": name, "for_s": self._away_s[name]})
        await self._until(lambda: self._over(before), PATIENCE_S, f"the end of the incident of {name}")
        over = self._incidents()[before:]
        self.longest_s[name] = max(self.longest_s.get(name, 0.0), over[0][2] or 0.0)
        if len(over) != 1:
            self.breaches.append(f"{name} was {len(over)} incidents: {[cause for _, cause, _ in over]}")
        (self._folder / HOLD).touch()
        found = await self._settled()
        (self._folder / HOLD).unlink()
        self.breaches += [f"{name}: {breach}" for breach in found]
        self.played += 1
        cause, ready_s = over[0][1], over[0][2]
        took_s = self._now_s() - began_s
        self._tell(f"{name}: {cause}; READY after {ready_s:.1f} s, {len(found)} breaches, {took_s:.0f} s in all")

    async def _settled(self) -> list[str]:
        """What is wrong when nothing is under way any more; waits for that."""
        until_s = self._now_s() + SETTLES_S
        while True:
            await asyncio.sleep(1.0)
            broker = await self._ask({"do": "state"})
            facts = checks.read(self._folder / "journal.sqlite")
            found = [*differences(facts, broker, len(WATCHED)), *await self._working(facts)]
            if not found or self._now_s() > until_s:
                return found

    async def _working(self, facts: checks.Facts) -> list[str]:
        """Whether the daemon itself believes what its journal says."""
        answer = await control.ask(socket_path(self._folder / "journal.sqlite"), Request("orders"), 10.0)
        ours = {row["ref"] for row in answer.data["ours"]}
        journal = {order.ref for order in facts.book.alive_orders()}
        differ = ours ^ journal
        return [f"the daemon's working orders are not its journal's: {sorted(differ)}"] if differ else []

    async def _end(self) -> None:
        if self._daemon.returncode is None:
            self._daemon.send_signal(signal.SIGTERM)
        try:
            async with asyncio.timeout(PATIENCE_S):
                code = await self._daemon.wait()
        except TimeoutError:
            self._daemon.kill()
            code = await self._daemon.wait()
        if code:
            self.breaches.append(f"the daemon ended with {code}")

    # --- looking -----------------------------------------------------------------------------------------------------

    def _query(self, sql: str) -> list[Any]:
        path = self._folder / "journal.sqlite"
        if not path.exists():
            return []
        with closing(sqlite3.connect(f"{path.as_uri()}?mode=ro", uri=True)) as database:
            try:
                return database.execute(sql).fetchall()
            except sqlite3.OperationalError:  # it is just being made
                return []

    def _has_fills(self) -> int:
        return int((self._query("SELECT count(*) FROM journal WHERE kind = 'Fill'") or [(0,)])[0][0])

    def _incidents(self) -> list[tuple[int, str, float | None]]:
        return self._query("SELECT number, cause, ready_after_s FROM incidents")

    def _over(self, before: int) -> bool:
        found = self._incidents()
        return len(found) > before and all(ready_s is not None for _, _, ready_s in found)

    async def _sample(self) -> None:
        """Note every so often what the daemon uses."""
        proc = Path("/proc") / str(self._daemon.pid)
        ticks = os.sysconf("SC_CLK_TCK")
        while True:
            await asyncio.sleep(SAMPLE_S)
            rss_kb = int(re.search(r"VmRSS:\s+(\d+)", (proc / "status").read_text())[1])  # type: ignore[index]  # Linux
            spent = (proc / "stat").read_text().rpartition(")")[2].split()
            cpu_s = (int(spent[11]) + int(spent[12])) / ticks
            files = len(list((proc / "fd").iterdir()))
            self.samples.append(Sample(self._now_s() - self._began_s, cpu_s, rss_kb / 1024, files))

    # --- processes ---------------------------------------------------------------------------------------------------

    async def _start(self, *arguments: str, **streams: Any) -> asyncio.subprocess.Process:
        environment = {**os.environ, "PYTHONPATH": str(ROOT), "XDG_RUNTIME_DIR": str(self._folder)}
        return await asyncio.create_subprocess_exec(
            sys.executable, *arguments, cwd=self._folder, env=environment, limit=ANSWER_MAX_BYTES,
            **({"stdout": asyncio.subprocess.PIPE} | streams if "stdin" in streams else streams),
        )  # fmt: skip

    async def _ask(self, what: dict[str, Any]) -> dict[str, Any]:
        assert self._gateway.stdin is not None, "it was started with one"
        self._gateway.stdin.write(json.dumps(what).encode() + b"\n")
        return await self._said()

    async def _said(self) -> dict[str, Any]:
        assert self._gateway.stdout is not None, "it was started with one"
        line = await self._gateway.stdout.readline()
        if not line:
            raise Failed("the gateway has ended")
        answer: dict[str, Any] = json.loads(line)
        return answer

    async def _until(self, condition: Callable[[], bool], limit_s: float, what: str) -> None:
        until_s = self._now_s() + limit_s
        while not condition():
            if self._daemon.returncode is not None:
                raise Failed(f"the daemon ended with {self._daemon.returncode}")
            if self._now_s() > until_s:
                raise Failed(f"{what} did not come within {limit_s:g} s")
            await asyncio.sleep(0.5)

    def _now_s(self) -> float:
        return asyncio.get_running_loop().time()

    def _tell(self, line: str) -> None:
        sys.stdout.write(f"{self._now_s() - self._began_s:6.0f} s  {line}\n")
        sys.stdout.flush()

    # --- the end -----------------------------------------------------------------------------------------------------

    def figures(self) -> str:
        """What it cost, in a few lines."""
        facts = checks.read(self._folder / "journal.sqlite")
        lines = [f"{len(facts.submitted)} orders, {len(facts.fills)} executions, {self.played} misfortunes"]
        lines += [f"{name}: READY after {ready_s:.1f} s at most" for name, ready_s in self.longest_s.items()]
        if len(self.samples) > 1:
            first, last = self.samples[0], self.samples[-1]
            load = (last.cpu_s - first.cpu_s) / (last.at_s - first.at_s)
            thirds = [self.samples[part * len(self.samples) // 3] for part in range(3)]
            lines.append(
                "memory at the beginning of each third and at the end: "
                + ", ".join(f"{sample.rss_mb:.1f}" for sample in (*thirds, last))
                + f" MB; open files {first.files} to {last.files}; {100 * load:.1f} % of a processor"
            )
        return "\n".join(lines)


def seconds(text: str) -> float:
    """Read `10m`, `90s` or a number of seconds."""
    found = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is not a duration: write 10m or 90s")
    return float(found[1]) * UNITS_S[found[2] or "s"]


def main(arguments: list[str] | None = None) -> int:
    """Run a soak; returns the exit code."""
    parser = argparse.ArgumentParser(description="A daemon in real time over real TCP while its gateway goes away.")
    parser.add_argument("--for", dest="for_s", type=seconds, default=600.0, help="such as 10m")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--quick", action="store_true", help="short misfortunes; memory is not judged")
    chosen = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="soak-"))
    soak = Soak(folder, for_s=chosen.for_s, seed=chosen.seed, quick=chosen.quick)
    try:
        asyncio.run(soak.run())
    except Failed as exc:
        soak.breaches.append(str(exc))
    except Exception as exc:  # noqa: BLE001 - the last line is the verdict, whatever happens
        traceback.print_exc(file=sys.stdout)
        soak.breaches.append(f"the soak itself failed: {exc!r}")
    sys.stdout.write(soak.figures() + "\n")
    for breach in soak.breaches:
        sys.stdout.write(f"BREACH {breach}\n")
    if soak.breaches:
        sys.stdout.write(f"journal and log are in {folder}\n")
    else:
        shutil.rmtree(folder)
    sys.stdout.write(f"soak: {chosen.for_s:g} s, {soak.played} misfortunes, {len(soak.breaches)} breaches\n")
    return 1 if soak.breaches else 0


if __name__ == "__main__":
    raise SystemExit(main())
