"""The daemon and the gateway as two processes over TCP, as a user runs them.

These tests are about sockets, signals and exit codes.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sqlite3
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

pytestmark = pytest.mark.tcp

ROOT = Path(__file__).parents[1]
SETTINGS = """
[ibkr]
mode = "paper"
port = {port}
reconnect_delay_min_s = 0.1
reconnect_delay_max_s = 0.5
[journal]
path = "{journal}"
[[strategies]]
name = "links"
run = "link_watch_printer:printer"
"""
PRINTER = '''
"""Prints what a strategy sees, one JSON line per event."""
import json
from ibkr_service import Desk, Forex

async def printer(desk: Desk) -> None:
    desk.watch(Forex("EUR", "USD"))
    async for event in desk.events():
        after = getattr(getattr(event, "after", None), "name", None)
        print(json.dumps([type(event).__name__, after, getattr(event, "epoch", None)]), flush=True)
'''


@asynccontextmanager
async def process(*arguments: str, cwd: Path = ROOT) -> AsyncIterator[asyncio.subprocess.Process]:
    """A process of ibkr-service; killed at the end if it is still there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "ibkr_service", *arguments,
        cwd=cwd, env=environment, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.PIPE,
    )  # fmt: skip
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def line_with(running: asyncio.subprocess.Process, pattern: str) -> str:
    """The next line of its output that matches."""
    assert running.stdout is not None
    while True:
        line = (await running.stdout.readline()).decode()
        if not line:
            assert running.stderr is not None
            raise AssertionError(f"no {pattern!r}; it said: {(await running.stderr.read()).decode()[-2000:]}")
        if re.search(pattern, line):
            return line


async def listening(gateway: asyncio.subprocess.Process) -> int:
    """The port that a simulated gateway says it listens on."""
    return int((await line_with(gateway, "listening on ")).rpartition(":")[2])


def prepare(folder: Path, port: int) -> None:
    """Settings and strategy of the daemon under test."""
    (folder / "settings.toml").write_text(SETTINGS.format(port=port, journal=folder / "journal.sqlite"))
    (folder / "link_watch_printer.py").write_text(PRINTER)


async def test_the_gateway_dies_and_comes_back(tmp_path):
    """Kill it, start it again on the same port: READY by itself, the subscription back, the changes seen in order."""
    async with asyncio.timeout(60), process("simulate", "--port", "0") as gateway:
        port = await listening(gateway)
        prepare(tmp_path, port)
        async with process("run", cwd=tmp_path) as service:
            seen = [json.loads(await line_with(service, "^\\[")) for _ in range(2)]
            assert [kind for kind, _, _ in seen] == ["Recovered", "Tick"]
            gateway.kill()
            await gateway.wait()
            seen = []
            async with process("simulate", "--port", str(port)) as again:
                await listening(again)
                while not seen or seen[-1][0] != "Tick" or seen[-1][2] != 1:
                    seen.append(json.loads(await line_with(service, "^\\[")))
                links = [after for kind, after, _ in seen if kind == "LinkChanged"]
                assert links == ["DOWN", "SYNCING", "READY"]
                kinds = [kind for kind, _, _ in seen]
                gap, resumed = kinds.index("Gap"), kinds.index("Resumed")
                assert gap < resumed == len(kinds) - 2, "Resumed comes right before the first new tick"
                assert all(epoch == 0 for kind, _, epoch in seen[:gap] if kind == "Tick")
                service.send_signal(signal.SIGTERM)
                assert await service.wait() == 0


async def test_the_first_signal_ends_in_order_and_says_so(tmp_path):
    """SIGINT: exit code 0, the last fact of the journal is ServiceStopped, and the file is the owner's alone."""
    async with asyncio.timeout(60), process("simulate", "--port", "0") as gateway:
        prepare(tmp_path, await listening(gateway))
        async with process("run", cwd=tmp_path) as service:
            await line_with(service, "Tick")
            service.send_signal(signal.SIGINT)
            assert await service.wait() == 0
        database = sqlite3.connect(tmp_path / "journal.sqlite")
        kinds = [kind for (kind,) in database.execute("SELECT kind FROM journal ORDER BY seq")]
        database.close()
        assert kinds[-1] == "ServiceStopped"
        assert (tmp_path / "journal.sqlite").stat().st_mode & 0o777 == 0o600
        gateway.send_signal(signal.SIGTERM)
        assert await gateway.wait() == 0


STUBBORN = """
async def stubborn(desk):
    print("started", flush=True)
    while True:
        try:
            await __import__("asyncio").sleep(3600)
        except BaseException:
            continue
"""


async def test_a_second_signal_kills(tmp_path):
    """While the orderly shutdown waits for somebody who does not end, another signal ends the process at once."""
    async with asyncio.timeout(60), process("simulate", "--port", "0") as gateway:
        prepare(tmp_path, await listening(gateway))
        (tmp_path / "link_watch_printer.py").write_text(STUBBORN.replace("stubborn(", "printer("))
        async with process("run", cwd=tmp_path) as service:
            await line_with(service, "started")
            service.send_signal(signal.SIGTERM)
            assert service.stderr is not None
            while b"shutting down" not in await service.stderr.readline():
                pass
            service.send_signal(signal.SIGTERM)
            assert await service.wait() == -signal.SIGTERM


async def test_a_strategy_that_nothing_can_end_does_not_keep_the_process(tmp_path):
    """Abandoned, and the daemon ends by itself with exit code 0."""
    async with asyncio.timeout(60), process("simulate", "--port", "0") as gateway:
        prepare(tmp_path, await listening(gateway))
        (tmp_path / "link_watch_printer.py").write_text(STUBBORN.replace("stubborn(", "printer("))
        async with process("run", cwd=tmp_path) as service:
            await line_with(service, "started")
            service.send_signal(signal.SIGTERM)
            assert await service.wait() == 0


async def test_the_demo_ends_by_itself(tmp_path):
    """`run --simulate --demo --for`: a line per fill, a table of positions, exit code 0."""
    async with asyncio.timeout(60), process("run", "--simulate", "--demo", "--for", "1s", cwd=tmp_path) as service:
        out, err = await service.communicate()
        assert service.returncode == 0, err.decode()
        assert "link SYNCING -> READY" in out.decode()
        assert "Positions" in out.decode()
        assert "DU1234567" not in (out + err).decode()


async def test_a_scenario_is_played_live(tmp_path):
    """`simulate --scenario`: it says what it is and what it needs, listens, and the client's machine is asked for."""
    async with (
        asyncio.timeout(60),
        process("simulate", "--port", "0", "--scenario", "first-start-with-positions") as gateway,
    ):
        assert gateway.stdout is not None
        said = b""
        while b"played" not in said:
            said += await gateway.stdout.readline()
        assert b"scenario first-start-with-positions: the first start" in said
        assert b"listening on 127.0.0.1:" in said
        port = int(said.split(b"127.0.0.1:")[1].split()[0])
        async with process("positions", "--port", str(port), "--json", cwd=tmp_path) as asking:
            out, err = await asking.communicate()
        assert asking.returncode == 0, err.decode()
        assert '"AAPL"' in out.decode()


async def test_what_happens_in_a_scenario_is_said_as_it_happens():
    """So that whoever watches his own client knows what it is told."""
    async with asyncio.timeout(60), process("simulate", "--port", "0", "--scenario", "bag-details-hang") as gateway:
        assert gateway.stdout is not None
        said = [await gateway.stdout.readline() for _ in range(3)]
        assert b"contract details of combinations are not answered\n" in said


async def test_a_scenario_that_there_is_not_is_refused():
    """With the names of those that there are."""
    async with asyncio.timeout(30), process("simulate", "--scenario", "doomsday") as gateway:
        _, err = await gateway.communicate()
        assert gateway.returncode == 2
        assert b"fill-while-cut" in err
