"""What recording a session costs: CPU time for each chunk, on the way of a tick and behind it.

One process, no socket: chunks of one tick each go through the client's connection with and without a recorder, in
turns; then what was recorded is masked, compressed and written. `python bench/recording.py`, or `… --quick`.

    on the way      CPU microseconds that a chunk takes longer, the look at the wall clock included
    afterwards      CPU microseconds a chunk, in slices of `SLICE` records and on a thread
"""

from __future__ import annotations

import argparse
import asyncio
import statistics
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from ibkr_service.broker.client import Connection, TappedConnection  # noqa: E402 - this checkout, installed or not
from ibkr_service.clock import SystemClock  # noqa: E402
from ibkr_service.core.recording import Header, framed  # noqa: E402
from ibkr_service.recorder import Recorder, RecordingConfig  # noqa: E402

ROUNDS, QUICK_ROUNDS = 15, 3
CHUNKS = 20_000


def _chunks() -> list[bytes]:
    return [
        framed(b"1\x006\x00%d\x00%d\x00%d.%02d\x00%d\x001\x00" % (n % 90, 1 + n % 2, 200 + n % 7, n % 100, n % 900))
        for n in range(CHUNKS)
    ]


def _header(clock: SystemClock) -> Header:
    return Header(
        version="0", masked=True, mode="paper", seed=0, run_id="0", started_at=clock.now(), built_s=0.0, began_s=0.0,
        session={}, limits={}, service={},
    )  # fmt: skip


def _cpu_us(take: object, now: object, chunks: list[bytes]) -> float:
    began = time.process_time()
    for chunk in chunks:
        now()  # type: ignore[operator]
        take(chunk)  # type: ignore[operator]
    return (time.process_time() - began) / len(chunks) * 1e6


async def measure(rounds: int) -> None:
    """Print the figures."""
    chunks, clock = _chunks(), SystemClock()
    on_the_way, afterwards, sizes = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        for number in range(rounds):
            recorder = Recorder(RecordingConfig(Path(folder) / str(number)), clock)
            recorder.begin(_header(clock), ["DU1234567"], [])
            tapped, plain = TappedConnection(len, recorder), Connection(len)  # type: ignore[arg-type]
            without_us = _cpu_us(plain.data_received, clock.now, chunks)
            with_us = _cpu_us(tapped.data_received, recorder.clock.now, chunks)
            on_the_way.append(with_us - without_us)
            began = time.process_time()
            recorder.close()
            afterwards.append((time.process_time() - began) / CHUNKS * 1e6)
            sizes.append((Path(folder) / str(number)).stat().st_size / CHUNKS)
    spread, after = f"{min(on_the_way):.2f} to {max(on_the_way):.2f}", statistics.median(afterwards)
    print(f"on the way   {statistics.median(on_the_way):6.2f} us a chunk (of {rounds} rounds: {spread})")
    print(f"afterwards   {after:6.2f} us a chunk ({min(afterwards):.2f} to {max(afterwards):.2f})")
    print(f"in the file  {statistics.median(sizes):6.1f} bytes a chunk, of {len(chunks[0])} on the wire")


def main() -> None:
    """Read the options and measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true")
    asyncio.run(measure(QUICK_ROUNDS if parser.parse_args().quick else ROUNDS))


if __name__ == "__main__":
    main()
