"""The simulated gateway by itself: how many ticks one gateway process delivers to one client over TCP.

The gateway runs in a process of its own, its clock so fast that the next change of a quote is always overdue. The
client knows nothing of the service and of ib_insync: it counts frames.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import socket
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import IO

import paired

from ibkr_service.daemon import loop_factory
from ibkr_service.sim import Gateway, GatewayConfig, serve
from ibkr_service.sim.listing import PAIRS, STOCKS
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.rawclient import forex, stock
from ibkr_service.sim.wire import API_PREFIX, LENGTH_BYTES, frame

SPEED = 10_000.0
TICKS = 150_000
QUICK_TICKS = 20_000
READ_BYTES = 256 * 1024
TIMEOUT_S = 60.0
PRICE, SIZE, ERROR = (str(int(kind)).encode() for kind in (Answer.TICK_PRICE, Answer.TICK_SIZE, Answer.ERROR))
NOTICES = (b"2104", b"2106", b"2158")  # "the farm is OK", at every start


async def _serve() -> None:
    """Be the gateway until standard input ends; then say what CPU it took since the first line of it."""
    config = GatewayConfig(speed=SPEED, requests_per_second_max=0)
    server = await serve(Gateway(config))
    print(server.port, flush=True)
    print(await asyncio.to_thread(_cpu_while_told), flush=True)
    await server.close()


def _cpu_while_told() -> float:
    sys.stdin.readline()
    began_s = time.process_time()
    sys.stdin.read()
    return time.process_time() - began_s


class Counting:
    """Cuts a stream of bytes into frames and counts them by kind."""

    def __init__(self) -> None:
        self.kinds: Counter[bytes] = Counter()
        self._rest = b""

    def feed(self, data: bytes) -> None:
        """Count what is complete."""
        data, at = self._rest + data, 0
        while at + LENGTH_BYTES <= len(data):
            end = at + LENGTH_BYTES + int.from_bytes(data[at : at + LENGTH_BYTES], "big")
            if end > len(data):
                break
            kind, _, rest = data[at + LENGTH_BYTES : end].partition(b"\0")
            self.kinds[kind] += 1
            if kind == ERROR and rest.split(b"\0")[2] not in NOTICES:
                raise AssertionError(f"the gateway complains: {rest!r}")
            at = end
        self._rest = data[at:]

    @property
    def ticks(self) -> int:
        """Prices and sizes so far."""
        return self.kinds[PRICE] + self.kinds[SIZE]


def _client(port: int, ticks: int, told: IO[str]) -> paired.Result:
    """Subscribe to everything that is listed, and count; the gateway is told when this begins and ends."""
    counting, hello = Counting(), b"v157..176"
    with socket.create_connection(("127.0.0.1", port), timeout=TIMEOUT_S) as line:
        line.sendall(API_PREFIX + len(hello).to_bytes(LENGTH_BYTES, "big") + hello)
        line.sendall(frame(Request.START_API, 2, 1, ""))
        specs = [stock(row.con_id) for row in STOCKS] + [forex(row.con_id) for row in PAIRS]
        for number, spec in enumerate(specs, 1):
            line.sendall(frame(Request.MKT_DATA, 11, number, *spec, 0, "", 0, 0, ""))
        while counting.ticks < len(specs) * 10:
            counting.feed(line.recv(READ_BYTES))
        told.write("begin\n")
        told.flush()
        began, began_s = counting.ticks, time.perf_counter()
        while counting.ticks < began + ticks:
            data = line.recv(READ_BYTES)
            if not data:
                raise AssertionError(f"the gateway hung up after {counting.ticks} ticks")
            counting.feed(data)
        told.close()
        return {"s": time.perf_counter() - began_s, "ticks": counting.ticks - began}


def measure(ticks: int) -> paired.Result:
    """One gateway process, one client."""
    with subprocess.Popen(  # noqa: S603 - this interpreter and this file
        [sys.executable, str(Path(__file__)), "--serve"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=paired.environment(),
    ) as process:
        assert process.stdin is not None, "a pipe"
        assert process.stdout is not None, "a pipe"
        try:
            found = _client(int(process.stdout.readline()), ticks, process.stdin)
            cpu_s = float(process.stdout.readline())
        except BaseException:
            process.kill()
            raise
    return {"per_s": found["ticks"] / found["s"], "per_cpu_s": found["ticks"] / cpu_s}


def rows(rounds: int, *, quick: bool) -> list[paired.Row]:
    """Both figures."""
    runs = [measure(QUICK_TICKS if quick else TICKS) for _ in range(rounds)]
    what = {"per_s": "gateway over TCP, ticks per second", "per_cpu_s": "gateway over TCP, ticks per CPU second"}
    return [paired.alone(text, [run[name] for run in runs]) for name, text in what.items()]


def main() -> None:
    """Be the gateway, or measure one."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--serve", action="store_true")
    if parser.parse_args().serve:
        with asyncio.Runner(loop_factory=loop_factory()) as runner:
            runner.run(_serve())
    else:
        print(json.dumps(measure(TICKS)))


if __name__ == "__main__":
    main()
