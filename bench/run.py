"""All benchmarks, one table. `make bench`, or `make bench ARGS=--quick`; docs/performance.md says what is measured.

These are figures to compare, not tests: nothing fails because it is slow, only because it did the wrong work.
"""

from __future__ import annotations

import argparse
import os
import platform

import gateway
import orders
import paired
import steady
import ticks
import virtual_hour
import years

ROUNDS = 5
QUICK_ROUNDS = 1
ROUNDS_ALONE = 3


def whole_gateway(*, quick: bool) -> list[paired.Row]:
    """What the simulated gateway must bear: many lines over TCP, and a whole trading day in virtual time."""
    options = ["--json", *(["--quick"] if quick else [])]
    scenes = paired.child("gateway_ticks.py", *options)
    rows = [
        paired.Row(f"gateway over TCP, {scene}, ticks per second", "", f"{found['ticks_per_s']:,.0f}")
        for scene, found in scenes.items()
    ]
    days = paired.child("virtual_day.py", *options)
    length = "half a virtual hour" if quick else "a virtual trading day of 6.5 h"
    rows += [
        paired.Row(f"{length}, 20 lines, 200 orders, {scene}, seconds", "", f"{found['seconds']:.1f}")
        for scene, found in days.items()
    ]
    return rows


def main() -> None:
    """Run them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of little work: do they run?")
    quick: bool = parser.parse_args().quick
    rounds, alone = (QUICK_ROUNDS, QUICK_ROUNDS) if quick else (ROUNDS, ROUNDS_ALONE)
    rows = [
        *ticks.rows(rounds, quick=quick),
        *steady.rows(quick=quick),
        *orders.rows(rounds, quick=quick),
        *virtual_hour.rows(alone, quick=quick),
        *gateway.rows(alone, quick=quick),
        *whole_gateway(quick=quick),
        *years.rows(alone, quick=quick),
    ]
    paired.print_table(rows)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"\n{python} on {os.cpu_count()} cores, {rounds} rounds; baseline: ib_insync by itself")


if __name__ == "__main__":
    main()
