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
import ticks
import virtual_hour

ROUNDS = 5
QUICK_ROUNDS = 1
ROUNDS_ALONE = 3


def main() -> None:
    """Run them and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one round of little work: do they run?")
    quick: bool = parser.parse_args().quick
    rounds, alone = (QUICK_ROUNDS, QUICK_ROUNDS) if quick else (ROUNDS, ROUNDS_ALONE)
    rows = [
        *ticks.rows(rounds, quick=quick),
        *orders.rows(rounds, quick=quick),
        *virtual_hour.rows(alone, quick=quick),
        *gateway.rows(alone, quick=quick),
    ]
    paired.print_table(rows)
    python = f"{platform.python_implementation()} {platform.python_version()}"
    print(f"\n{python} on {os.cpu_count()} cores, {rounds} rounds; baseline: ib_insync by itself")


if __name__ == "__main__":
    main()
