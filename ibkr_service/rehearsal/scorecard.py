"""The scorecard: what every outage cost, over several seeds, as a page in Markdown.

The same seeds give the same page, on every machine. Numbers are those of `tally.py`, so measured from outside the
service; the page says what each means, what is behind it and what it does not show.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import median

from ibkr_service.rehearsal.named import REHEARSALS, Played, Rehearsal
from ibkr_service.rehearsal.run import Result
from ibkr_service.rehearsal.tally import Figures
from ibkr_service.sim.scenarios import SECTIONS

MACHINE = "the machine and the network"
OWN = "your own"
REPORT = re.compile(r"([\w.-]+/[\w.-]+)((?: #\d+,?)+)$")
SOON_S = 0.05
COLUMNS = (
    "rehearsal",
    "outages",
    "known after",
    "READY after repair",
    "over after repair",
    "gaps",
    "asked again",
    "orders",
    "unknown, resolved",
    "fills",
    "found by asking",
    "adjusted",
    "doubled",
    "lost",
    "passed",
)

INTRODUCTION = """\
# Reliability

What the service does when things go wrong, measured: every outage below is rehearsed with {seeds} in virtual time, the
whole service against the simulated gateway ([rehearsals.md](rehearsals.md)), while a strategy trades and watches
quotes. Written by `{command}`; the same seeds give the same page.

**{verdict}**

## What the columns say

Times are in seconds: the median, and the worst. They are taken where the service cannot talk itself out of it.

- *outages*: how often the service that a client gets really broke, at the gateway, or with the service's own process.
- *known after*: from the moment in which it broke at the gateway to the moment in which the service recorded it
  (`IncidentOpened`). What is over before anybody could notice is not counted; a process that is dead knows nothing.
- *READY after repair*: from the moment in which the gateway would serve again to a link that is READY, when all that
  the broker holds was asked for and compared. Empty where the link stays READY.
- *over after repair*: from there to the end of the incident: the last stream flows again that had a gap, and of each
  order in doubt it is known what became of it.
- *gaps*: interruptions that strategies were told of, each before the next quote.
- *asked again*: requests for market data, counted on the wire, for what had been requested before.
- *orders*: those that left, counted on the wire.
- *unknown, resolved*: orders whose fate was in doubt at some time, and those of them of which it is known at the end.
- *fills*: executions at the broker. *found by asking*: those that no message had told.
- *adjusted*: changes of positions that the broker explains by no fill any more, announced as such.
- *doubled*: orders that left more often than the journal has them, or under two ids; fills that the journal, or a
  strategy, has twice.
- *lost*: orders and executions at the broker of which neither the journal nor an adjustment tells.
- *passed*: the rehearsals in which every invariant held.
"""

LIMITS = """\
## What this does not show

The gateway is simulated: where IB's differs, the page proves nothing. That other clients understand it is shown in
[conformance.md](conformance.md), what it simplifies is told in [simulator.md](simulator.md). The times are those of
virtual time, in which computing costs nothing; what it costs is measured in [performance.md](performance.md). A named
outage strikes as its script says; what nobody thought of is the business of random rehearsals (`make rehearse`).
"""


@dataclass
class Row:
    """All rehearsals of one name."""

    name: str
    results: list[Figures] = field(default_factory=list)
    passed: int = 0

    def cells(self) -> list[str]:
        """The row, as texts."""
        outages = [outage for figures in self.results for outage in figures.outages]
        return [
            f"`{self.name}`",
            str(len(outages)) if outages else "",
            times(outage.known_s for outage in outages),
            times(outage.ready_s for outage in outages),
            times(outage.over_s for outage in outages),
            count(figures.gaps for figures in self.results),
            count(figures.resubscribed for figures in self.results),
            count(figures.orders for figures in self.results),
            pair(self.sum("unknown"), self.sum("resolved")),
            count(figures.fills for figures in self.results),
            count(figures.recovered for figures in self.results),
            count(figures.adjusted for figures in self.results),
            str(self.sum("doubled")),
            str(self.sum("lost")),
            f"{self.passed} of {len(self.results)}",
        ]

    def sum(self, name: str) -> int:
        """A number over all of its rehearsals."""
        return sum(getattr(figures, name) for figures in self.results)


def times(seconds: Iterable[float | None]) -> str:
    """Median and worst; nothing if nothing was measured."""
    known = [each for each in seconds if each is not None]
    if not known:
        return ""
    middle, worst = in_words(median(known)), in_words(max(known))
    return middle if middle == worst else f"{middle}, {worst}"


def in_words(seconds: float) -> str:
    """Seconds with the digits that mean something."""
    return "at once" if seconds < SOON_S else f"{seconds:.1f}"


def count(numbers: Iterable[int]) -> str:
    """A sum; nothing for none."""
    return str(sum(numbers) or "")


def pair(all_of_them: int, part: int) -> str:
    """How many, and how many of these; nothing for none."""
    return f"{all_of_them}, {part}" if all_of_them else ""


class Scorecard:
    """Collects results, and writes the page."""

    def __init__(self) -> None:
        self._results: dict[tuple[str, int], Result] = {}

    def add(self, result: Result) -> None:
        """One more rehearsal; of those that are done twice, the last one counts."""
        self._results[result.plan.name, result.plan.seed] = result

    def rows(self) -> dict[str, Row]:
        """The rows by name, in the order of the list."""
        order = [*REHEARSALS, *sorted({name for name, _ in self._results} - set(REHEARSALS))]
        rows: dict[str, Row] = {}
        for name, seed in sorted(self._results, key=lambda key: (order.index(key[0]), key[1])):
            result = self._results[name, seed]
            row = rows.setdefault(name, Row(name))
            row.results.append(result.figures)
            row.passed += result.passed
        return rows

    def page(self, command: str) -> str:
        """The page. `command`: what wrote it."""
        rows = self.rows()
        seeds = sorted({seed for _, seed in self._results})
        parts = [
            INTRODUCTION.format(
                seeds=f"{len(seeds)} seeds" if len(seeds) > 1 else "one seed",
                command=command,
                verdict=self._verdict(rows),
            )
        ]
        for section, names in _sections(rows):
            chosen = [rows[name] for name in names]
            parts.append(f"## {section[0].upper()}{section[1:]}\n\n{_table(COLUMNS, [row.cells() for row in chosen])}")
            parts.append(_table(("rehearsal", "what happens", "reported in"), [_meaning(name) for name in names]))
        return "\n".join([*parts, LIMITS])

    def _verdict(self, rows: dict[str, Row]) -> str:
        total = sum(len(row.results) for row in rows.values())
        passed = sum(row.passed for row in rows.values())
        told = {
            name: sum(row.sum(name) for row in rows.values())
            for name in ("orders", "fills", "recovered", "doubled", "lost")
        }
        return (
            f"{passed} of {total} rehearsals of {len(rows)} outages passed: {told['orders']:,} orders,"
            f" {told['fills']:,} fills, {told['recovered']:,} of them found by asking; {told['doubled']} doubled,"
            f" {told['lost']} lost."
        )


def _sections(rows: dict[str, Row]) -> list[tuple[str, list[str]]]:
    """The names that have results, by section."""
    found = [(section, [each.name for each in scenarios]) for section, scenarios in SECTIONS.items()]
    listed = {name for _, names in found for name in names}
    found.append((MACHINE, [name for name in REHEARSALS if name not in listed]))
    found.append((OWN, [name for name in rows if name not in REHEARSALS]))
    present = [(section, [name for name in names if name in rows]) for section, names in found]
    return [(section, names) for section, names in present if names]


def _meaning(name: str) -> list[str]:
    known: Rehearsal | Played | None = REHEARSALS.get(name)
    return [f"`{name}`", known.sentence if known else "", linked(known.source) if known else ""]


def linked(source: str) -> str:
    """A source with links to the reports that it names: `owner/repository #1, #2`."""
    parts = []
    for part in source.split("; "):
        found = REPORT.match(part)
        if found is None:
            parts.append(part)
            continue
        repository, numbers = found[1], re.findall(r"\d+", found[2])
        links = [f"[#{number}](https://github.com/{repository}/issues/{number})" for number in numbers]
        parts.append(f"{repository} {', '.join(links)}")
    return "; ".join(parts)


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
