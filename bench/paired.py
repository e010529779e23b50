"""Pairs: the same work on several sides, each in a process of its own, in turns; what comes out are ratios.

A machine has good and bad minutes. Sides that alternate share them, so the ratio of their medians says more than any
figure by itself; the least and the greatest ratio of a round say how much to believe it.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

HERE = Path(__file__).parent
Result = dict[str, Any]


@dataclass(frozen=True)
class Row:
    """A line of the table: what was measured, both figures, and their ratio, if they are a pair."""

    what: str
    baseline: str
    service: str
    ratio: str = ""


def child(script: str, *arguments: str) -> Result:
    """Run one side in a process of its own; it prints its result as the last line.

    Raises:
        RuntimeError: it failed; what it said is in the text.
    """
    command = [sys.executable, str(HERE / script), *arguments]
    # The service may be a checkout that is not installed, and it must find itself in the child, too.
    done = subprocess.run(  # noqa: S603 - this interpreter, and files of this folder
        command, capture_output=True, text=True, check=False, cwd=HERE.parent, env=environment()
    )
    if done.returncode:
        raise RuntimeError(f"{' '.join(command[1:])} failed:\n{done.stdout}{done.stderr}")
    result: Result = json.loads(done.stdout.splitlines()[-1])
    return result


def environment() -> dict[str, str]:
    """The child's environment: ours, and this checkout first on its path."""
    return {**os.environ, "PYTHONPATH": str(HERE.parent)}


def alternate(script: str, sides: list[str], rounds: int, *arguments: str) -> dict[str, list[Result]]:
    """Run all sides that many times, in turns, each second round backwards."""
    results: dict[str, list[Result]] = {side: [] for side in sides}
    for number in range(rounds):
        for side in sides if number % 2 == 0 else reversed(sides):
            results[side].append(child(script, "--side", side, *arguments))
    return results


def ratio(upper: list[float], lower: list[float]) -> str:
    """The ratio of the medians, and the least and greatest ratio of a round."""
    by_round = [u / low for u, low in zip(upper, lower, strict=True)]
    return f"{median(upper) / median(lower):.2f} ({min(by_round):.2f}..{max(by_round):.2f})"


def alone(what: str, values: list[float]) -> Row:
    """A figure that has no pair: its median, and its least and greatest value."""
    spread = f"({min(values):,.0f}..{max(values):,.0f})" if len(values) > 1 else ""
    return Row(what, "", f"{median(values):,.0f}", spread)


def print_table(rows: list[Row]) -> None:
    """Print the rows in columns."""
    lines = [Row("what", "baseline", "service", "ratio (min..max)"), *rows]
    cells = [(row.what, row.baseline, row.service, row.ratio) for row in lines]
    widths = [max(len(cell[column]) for cell in cells) for column in range(4)]
    for number, cell in enumerate(cells):
        print("  ".join(text.ljust(width) for text, width in zip(cell, widths, strict=True)).rstrip())
        if number == 0:
            print("  ".join("-" * width for width in widths))
