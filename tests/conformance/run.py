"""Runs the clients of others against the simulated gateway; as a program it runs all of them and prints a table.

Every client is a process in an environment of its own, and has a gateway of its own on a free port: nothing that one
leaves behind can help or disturb another. The gateway is twenty times faster than life, because most of what a check
waits for is the exchange. The two suites of libraries expect a TWS at the ports where it is in life, and get it there.

Usage: python -m tests.conformance.run        the exit code is 0 only if all passed
"""

import asyncio
import os
import re
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree as ET

from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.server import Server
from ibkr_service.sim.testing import simulated_gateway
from tests.conformance.environments import Unreachable, python_of, suite_of

HERE = Path(__file__).parent
GATEWAY = GatewayConfig(seed=7, speed=20, market_data_lines_max=30, requests_per_second_max=100)
"""Few lines, so that the cap is soon reached.

Twice IB's messages a second, because on a busy machine what a client that keeps to 45 sends in two seconds may arrive
in one; pacing has tests of its own.
"""

AT_A_TIME = 3
"""Of three clients about two are waiting: enough for two cores."""
SCRIPT_LIMIT_S = 120
SUITE_LIMIT_S = 60
SUITE_TEST_LIMIT_S = 8

SCRIPTS = {"ibapi-10": "official.py", "ibapi-9": "official.py", "ib_async": "async_client.py"}
"""Environment → the script that runs in it."""

SUITE_PORTS = {"ib_insync": (7497,), "ib_async": (7497, 4001)}
"""Library → the ports at which its suite wants a TWS."""

CANNOT_PASS = {
    "ib_async": {
        "test_requests::test_request_error_raised": "it awaits error 321, which ends no request in ib_async",
    },
}
"""Tests of the suites that no gateway can make pass, and why (docs/conformance.md)."""

_LINE = re.compile(r"(passed) (\S+) \(.*|(FAILED) (\S+?): (.*)")


@dataclass
class Outcome:
    """What came of a client."""

    client: str
    passed: list[str] = field(default_factory=list)
    failed: dict[str, str] = field(default_factory=dict)
    seconds: float = 0.0
    skipped: str = ""

    @property
    def is_good(self) -> bool:
        """Whether it ran, and nothing failed."""
        return bool(self.passed) and not self.failed and not self.skipped


async def run_script(
    name: str,
    *options: str,
    config: GatewayConfig = GATEWAY,
    prepare: Callable[[Server], None] = lambda _: None,
) -> Outcome:
    """Run the conformance script of a client against a fresh gateway; `prepare` may give the gateway faults."""
    outcome = Outcome(name)
    try:
        python = await asyncio.to_thread(python_of, name)
    except Unreachable as reason:
        outcome.skipped = str(reason)
        return outcome
    started = time.perf_counter()
    async with simulated_gateway(config) as server:
        prepare(server)
        command = [str(python), str(HERE / SCRIPTS[name]), str(server.port), *options]
        text, code = await _output(command, SCRIPT_LIMIT_S)
    outcome.seconds = time.perf_counter() - started
    for line in text.splitlines():
        if match := _LINE.fullmatch(line):
            if match[1]:
                outcome.passed.append(match[2])
            else:
                outcome.failed[match[4]] = match[5]
    if (code == 0) == bool(outcome.failed) or not (outcome.passed or outcome.failed):
        outcome.failed["the script itself"] = f"exit code {code}: {text[-600:]}"
    return outcome


async def run_suite(name: str) -> Outcome:
    """Run the test suite of a library, unmodified, against a gateway at the ports that it expects."""
    outcome = Outcome(f"suite of {name}")
    try:
        folder = await asyncio.to_thread(suite_of, name)
        python = await asyncio.to_thread(python_of, f"suite-{name}")
    except Unreachable as reason:
        outcome.skipped = str(reason)
        return outcome
    started = time.perf_counter()
    async with AsyncExitStack() as stack:
        for port in SUITE_PORTS[name]:
            try:
                await stack.enter_async_context(simulated_gateway(GatewayConfig(seed=7), port=port))
            except OSError:
                outcome.skipped = f"port {port}, where the suite wants a TWS, is taken"
                return outcome
        own = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        # An empty configuration: the one of this repository lies above the suite, and is not meant for it.
        results, nothing = own / "results.xml", own / "pytest.ini"
        nothing.write_text("[pytest]\n")
        options = [
            "-c",
            str(nothing),
            "--asyncio-mode=auto",
            f"--timeout={SUITE_TEST_LIMIT_S}",
            "-p",
            "no:cacheprovider",
        ]
        command = [str(python), "-m", "pytest", "-q", *options, f"--junitxml={results}", str(folder / "tests")]
        text, _ = await _output(command, SUITE_LIMIT_S)
        _read_results(results, outcome, text)
    outcome.seconds = time.perf_counter() - started
    for test, reason in CANNOT_PASS.get(name, {}).items():
        if test in outcome.passed:
            outcome.failed[test] = f"is said to be unable to pass ({reason}), and passed"
        else:
            outcome.failed.pop(test, None)
    return outcome


def _read_results(results: Path, outcome: Outcome, text: str) -> None:
    if not results.exists():
        outcome.failed["the suite itself"] = text[-600:]
        return
    for case in ET.parse(results).iter("testcase"):
        name = f"{case.get('classname', '').rpartition('.')[2]}::{case.get('name')}"
        broken = [child for child in case if child.tag in {"failure", "error"}]
        if broken:
            outcome.failed[name] = broken[0].get("message", "")[:300]
        else:
            outcome.passed.append(name)


async def _output(command: list[str], limit_s: float) -> tuple[str, int]:
    """Run a program; what it printed, and its exit code (-1 when it took too long)."""
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("PYTHON", "COV_", "PYTEST"))}
    process = await asyncio.create_subprocess_exec(
        *command,
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
        env=environment,
    )
    lines: list[bytes] = []

    async def read() -> int:
        assert process.stdout is not None
        while chunk := await process.stdout.read(1 << 16):
            lines.append(chunk)
        return await process.wait()

    try:
        code = await asyncio.wait_for(read(), limit_s)
    except TimeoutError:
        process.kill()
        await process.wait()
        lines.append(f"\nstopped after {limit_s:g} s\n".encode())
        code = -1
    return b"".join(lines).decode(errors="replace"), code


async def run_all() -> list[Outcome]:
    """Every client and every suite, a few at a time."""
    turn, ports = asyncio.Semaphore(AT_A_TIME), asyncio.Lock()

    async def script(name: str) -> Outcome:
        async with turn:
            return await run_script(name)

    async def suite(name: str) -> Outcome:
        async with turn, ports:
            return await run_suite(name)

    return await asyncio.gather(*map(script, SCRIPTS), *map(suite, SUITE_PORTS))


def table(outcomes: list[Outcome]) -> str:
    """Outcomes for people: a table, what failed, and the verdict as the last line."""
    lines = [f"{'client':<20}{'passed':>8}{'failed':>8}{'seconds':>9}"]
    for it in outcomes:
        numbers = f"{len(it.passed):>8}{len(it.failed):>8}{it.seconds:>9.1f}"
        lines.append(f"{it.client:<20}{f'  skipped: {it.skipped}' if it.skipped else numbers}")
    for it in outcomes:
        lines += [f"{it.client}: {name}: {reason}" for name, reason in it.failed.items()]
    lines.append(verdict(outcomes))
    return "\n".join(lines)


def verdict(outcomes: list[Outcome]) -> str:
    """Whether the gateway is conformant; a client that could not be had proves nothing."""
    if failed := [it.client for it in outcomes if not it.is_good and not it.skipped]:
        return f"NOT conformant: {', '.join(failed)}"
    if skipped := [it.client for it in outcomes if it.skipped]:
        return f"incomplete: what ran has passed, but not everything ran: {', '.join(skipped)}"
    return "conformant: everything passed"


def main() -> int:
    """Run everything and print the table."""
    outcomes = asyncio.run(run_all())
    sys.stdout.write(table(outcomes) + "\n")
    return 0 if all(it.is_good for it in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
