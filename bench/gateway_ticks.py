"""How many ticks one gateway process delivers over TCP: to one client, and 200 lines to five clients at once.

The gateway runs in a process of its own, its clock so fast that the next change of a quote is always overdue; the
clients, in one process, do nothing but count frames. `python bench/gateway_ticks.py`, or `… --quick`.

    ticks per second       what the clients got (with fewer than two free cores: less than the gateway could give)
    ticks per CPU second   what the gateway delivered per second of its own processor time
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import selectors
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ibkr_service.sim import Gateway, GatewayConfig, serve  # noqa: E402 - this checkout, installed or not
from ibkr_service.sim.contracts import Contract, ContractSpec, Universe  # noqa: E402
from ibkr_service.sim.messages import Answer, Request  # noqa: E402
from ibkr_service.sim.rawclient import contract  # noqa: E402
from ibkr_service.sim.wire import API_PREFIX, LENGTH_BYTES, frame  # noqa: E402

SPEED = 400.0
SECONDS, QUICK_SECONDS = 5.0, 1.0
WARM_UP_S = 1.0
READ_BYTES = 1 << 18
TICKS = {str(int(kind)).encode() for kind in (Answer.TICK_PRICE, Answer.TICK_SIZE, Answer.TICK_STRING)}
SCENES = {"one client, 40 lines": (1, 40), "five clients, 200 lines": (5, 200)}


def loop_factory() -> asyncio.AbstractEventLoop:
    """What the daemon runs on: uvloop where there is one."""
    try:
        import uvloop  # noqa: PLC0415 - not on every platform
    except ImportError:
        return asyncio.new_event_loop()
    return uvloop.new_event_loop()


async def _serve() -> None:
    """Be the gateway until standard input ends; a line read is answered by the CPU seconds so far."""
    config = GatewayConfig(speed=SPEED, requests_per_second_max=0, market_data_lines_max=1_000)
    server = await serve(Gateway(config))
    print(server.port, flush=True)
    while await asyncio.to_thread(sys.stdin.readline):
        print(time.process_time(), flush=True)
    await server.close()


def _instruments(count: int) -> list[Contract]:
    """Stocks and pairs, then futures and options."""
    universe = Universe(GatewayConfig().started_at.date())
    found = [*universe.stocks.values(), *universe.pairs.values(), *universe.futures.values()]
    found += universe.find(ContractSpec(symbol="SPY", sec_type="OPT", expiry="20261218"))
    found += universe.find(ContractSpec(symbol="AAPL", sec_type="OPT", expiry="20261218"))
    found += universe.find(ContractSpec(symbol="MSFT", sec_type="OPT", expiry="20261218"))
    return found[:count]


class Counting:
    """One client: it subscribes, and counts the ticks that come."""

    def __init__(self, port: int, number: int, instruments: list[Contract]) -> None:
        self.ticks = 0
        self._rest = b""
        self.line = socket.create_connection(("127.0.0.1", port), timeout=60)
        hello = b"v157..176"
        self.line.sendall(API_PREFIX + len(hello).to_bytes(LENGTH_BYTES, "big") + hello)
        self.line.sendall(frame(Request.START_API, 2, number, ""))
        for req_id, each in enumerate(instruments):
            spec = contract(con_id=each.con_id, sec_type=each.sec_type, exchange=each.exchange)
            self.line.sendall(frame(Request.MKT_DATA, 11, req_id, *spec, 0, "", 0, 0, ""))

    def read(self) -> None:
        """Count what is complete."""
        data, at = self._rest + self.line.recv(READ_BYTES), 0
        if not data:
            raise AssertionError("the gateway hung up")
        while at + LENGTH_BYTES <= len(data):
            end = at + LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES], "big")
            if end > len(data):
                break
            self.ticks += data[at + LENGTH_BYTES : data.index(b"\0", at + LENGTH_BYTES)] in TICKS
            at = end
        self._rest = data[at:]


def _listen(clients: list[Counting], seconds: float) -> tuple[int, float]:
    """Read for so long; how many ticks came, and how long it was."""
    selector = selectors.DefaultSelector()
    for client in clients:
        selector.register(client.line, selectors.EVENT_READ, client)
    before, began_s = sum(client.ticks for client in clients), time.perf_counter()
    while time.perf_counter() - began_s < seconds:
        for key, _ in selector.select(1):
            key.data.read()
    return sum(client.ticks for client in clients) - before, time.perf_counter() - began_s


def measure(clients: int, lines: int, seconds: float) -> dict[str, float]:
    """One gateway process and so many clients."""
    with subprocess.Popen(  # noqa: S603 - this interpreter and this file
        [sys.executable, str(Path(__file__)), "--serve"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        try:
            port = int(_told(process))
            instruments = _instruments(lines)
            connected = [Counting(port, number, instruments) for number in range(1, clients + 1)]
            _listen(connected, WARM_UP_S)
            before_s = _cpu_s(process)
            ticks, lasted_s = _listen(connected, seconds)
            cpu_s = _cpu_s(process) - before_s
            return {"ticks_per_s": ticks / lasted_s, "ticks_per_cpu_s": ticks / cpu_s}
        finally:
            process.kill()


def _cpu_s(process: Any) -> float:  # noqa: ANN401 - a Popen of text
    process.stdin.write("\n")
    process.stdin.flush()
    return float(_told(process))


def _told(process: Any) -> str:  # noqa: ANN401 - same
    line: str = process.stdout.readline()
    return line


def main() -> None:
    """Be the gateway, or measure one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--json", action="store_true")
    chosen = parser.parse_args()
    if chosen.serve:
        with asyncio.Runner(loop_factory=loop_factory) as runner:
            runner.run(_serve())
        return
    seconds = QUICK_SECONDS if chosen.quick else SECONDS
    found = {scene: measure(*size, seconds) for scene, size in SCENES.items()}
    if chosen.json:
        print(json.dumps(found))
        return
    for scene, figures in found.items():
        line = f"{scene:26} {figures['ticks_per_s']:>10,.0f} ticks/s {figures['ticks_per_cpu_s']:>10,.0f} ticks/CPU s"
        print(f"{line}   ({os.cpu_count()} cores)")


if __name__ == "__main__":
    main()
