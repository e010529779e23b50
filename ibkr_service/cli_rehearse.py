"""The command `rehearse`: the whole service against the simulator in virtual time, while things go wrong.

One rehearsal prints its timeline; many print a progress bar, what failed and how to repeat it, and what was covered.
The last line is the verdict; the exit code is 0 only if all passed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from ibkr_service.app import EXIT_FAILED, EXIT_OK, config_of, specs_of
from ibkr_service.cli_options import SettingsFile, fail, is_live
from ibkr_service.rehearsal.campaign import FAULT, Outcome, campaign, smallest
from ibkr_service.rehearsal.mishaps import MISHAPS
from ibkr_service.rehearsal.named import REHEARSALS, planned
from ibkr_service.rehearsal.picture import picture
from ibkr_service.rehearsal.plan import RANDOM, Plan
from ibkr_service.rehearsal.run import Company, Result, rehearse
from ibkr_service.rehearsal.scorecard import Scorecard
from ibkr_service.settings import load_settings

rehearsing = typer.Typer()


class Risk(StrEnum):
    """Whose limits hold in a rehearsal."""

    WIDE = "wide"
    OWN = "own"


SAID_EVERY = 50  # where there is no terminal to draw a bar on
SHOWN_FAILURES = 10  # so many are made small and told; the others are named


@rehearsing.command(name="rehearse")
def rehearse_command(  # noqa: PLR0913 - each is an option
    *,
    name: Annotated[str | None, typer.Argument(help="A name (see --list), random, or module:scenario.")] = None,
    seed: Annotated[int, typer.Option(help="Chooses prices, moments and, of random ones, the faults.")] = 1,
    every: Annotated[bool, typer.Option("--all", help="Every named rehearsal.")] = False,
    seeds: Annotated[int | None, typer.Option(help="So many seeds: of random ones, NAME, or --all.", min=1)] = None,
    first: Annotated[int, typer.Option("--from", help="The first seed of these.")] = 1,
    faults: Annotated[
        str | None, typer.Option(help="Only these faults of the seed, such as 1,4; none for none.")
    ] = None,
    html: Annotated[Path | None, typer.Option(help="Write a picture of the timeline to this file.")] = None,
    jobs: Annotated[int | None, typer.Option(help="How many processes (default: one for each core).", min=1)] = None,
    scorecard: Annotated[Path | None, typer.Option(help="Write what every outage cost to this file.")] = None,
    check: Annotated[bool, typer.Option("--check", help="Do not write it: say whether the file is current.")] = False,
    listed: Annotated[bool, typer.Option("--list", help="Print the names and what they stand for.")] = False,
    settings: SettingsFile = None,
    risk: Annotated[Risk, typer.Option(help="The limits: wide ones, or those of your settings.")] = Risk.WIDE,
    without_own: Annotated[bool, typer.Option("--alone", help="Leave the strategies of the settings out.")] = False,
) -> None:
    """Rehearse outages against the simulator, with no account: invariants are watched, the last line is the verdict."""
    if listed:
        Console().print(_names())
        return
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - a strategy beside settings.toml is found, as with `run`
    company = _company(settings, risk, without_own=without_own)
    if every or seeds is not None:
        names = list(REHEARSALS) if every else [name or RANDOM]
        numbers = range(seed, seed + 1) if seeds is None else range(first, first + seeds)
        plans = [_plan(each, number) for each in names for number in numbers]
        page = None if scorecard is None else _Page(scorecard, _command(every, seeds, first), is_checked=check)
        _many(plans, company, jobs, page)
    if name is None:
        fail("say which one: a name, --all or --seeds N; --list prints the names")
    _one(_with_faults(_plan(name, seed), faults), company, html)


def _plan(name: str, seed: int) -> Plan:
    try:
        return planned(name)(seed)
    except ValueError as exc:
        fail(str(exc))


class _Page:
    """The scorecard, and the file that it is for."""

    def __init__(self, path: Path, command: str, *, is_checked: bool) -> None:
        self.card = Scorecard()
        self._path = path
        self._command = command
        self._is_checked = is_checked

    def finish(self) -> str | None:
        """Write it, or compare it; what is wrong with the file, if anything is."""
        page = self.card.page(self._command)
        if not self._is_checked:
            self._path.write_text(page, encoding="utf-8")
            return None
        if self._path.exists() and self._path.read_text(encoding="utf-8") == page:
            return None
        return f"{self._path} is not what these rehearsals say: write it anew, without --check"


def _command(every: bool, seeds: int | None, first: int) -> str:  # noqa: FBT001 - as on the command line
    begins = f" --from {first}" if first != 1 else ""
    return f"ibkr-service rehearse{' --all' if every else ''}{f' --seeds {seeds}' if seeds else ''}{begins} --scorecard"


def _company(settings: Path | None, risk: Risk, *, without_own: bool) -> Company:
    """The user's own strategies, with the timings they would run with; and, if wanted, their limits."""
    if without_own and risk is Risk.WIDE:
        return Company()
    chosen = load_settings(settings, environ=os.environ, overrides={}, live_flag=is_live(settings))
    config = config_of(chosen)
    limits = config.limits if risk is Risk.OWN else None
    return Company(limits=limits) if without_own else Company(tuple(specs_of(chosen)), config.session, limits)


def _with_faults(plan: Plan, faults: str | None) -> Plan:
    if faults is None:
        return plan
    words = [] if faults == "none" else faults.split(",")
    if not all(word.isdigit() and 1 <= int(word) <= len(plan.faults) for word in words):
        fail(f"--faults takes numbers from 1 to {len(plan.faults)}, such as 1,2, or none; not {faults!r}")
    return plan.only([int(word) for word in words])


def _one(plan: Plan, company: Company, html: Path | None) -> None:
    result = rehearse(plan, company, keeps=True)
    for entry in result.timeline:
        sys.stdout.write(f"{entry}\n")
    sys.stdout.write("\n")
    for breach in result.breaches:
        sys.stdout.write(f"{breach}\n")
    if html is not None:
        html.write_text(picture(result), encoding="utf-8")
    sys.stdout.write(f"{result.verdict}\n")
    raise typer.Exit(EXIT_OK if result.passed else EXIT_FAILED)


def _many(plans: Sequence[Plan], company: Company, jobs: int | None, page: _Page | None = None) -> None:
    console = Console(stderr=True)
    columns = (TextColumn("rehearsing"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=len(plans))

        def tell(result: Result) -> None:
            bar.advance(task)
            if page is not None:
                page.card.add(result)
            done = int(bar.tasks[0].completed)
            if not console.is_terminal and done % SAID_EVERY == 0:
                console.print(f"{done} of {len(plans)} rehearsals", highlight=False)
            if not result.passed:
                console.print(result.verdict, style="red", highlight=False, soft_wrap=True)

        outcome = campaign(plans, company, jobs=jobs, tell=tell)
    wrong = None if page is None else page.finish()
    _report(outcome, company, sys.stdout.write)
    if wrong is not None:
        sys.stdout.write(f"{wrong}\n")
    raise typer.Exit(EXIT_OK if outcome.passed and wrong is None else EXIT_FAILED)


def _report(outcome: Outcome, company: Company, write: Callable[[str], object]) -> None:
    Console().print(_coverage(outcome))
    for number, result in enumerate(outcome.failed):
        if number >= SHOWN_FAILURES:
            write(f"{result.verdict}\n")
            continue
        write(f"\n{result.plan.name}, seed {result.plan.seed}:\n")
        for breach in result.breaches:
            write(f"{breach}\n")
        small = smallest(result.plan, company, result.broken)
        for fault in small.faults:
            write(f"  needs: {fault}\n")
        write(f"  again: {replace(small).replay}\n")
    write(f"{outcome.verdict}\n")


def _coverage(outcome: Outcome) -> Table:
    table = Table("what", "in rehearsals", "of all", "times", title="Coverage", title_justify="left")
    keys = [FAULT + kind for kind in MISHAPS if outcome.count > outcome.named or outcome.seen[FAULT + kind]]
    keys += sorted(key for key in outcome.seen if not key.startswith(FAULT))
    for key in keys:
        seen = outcome.seen[key]
        part = f"{100 * seen / outcome.count:.0f} %" if outcome.count else "-"
        table.add_row(key, str(seen), part, str(outcome.total[key]))
    table.add_row("done twice, in two processes", str(outcome.twins), "", "")
    return table


def _names() -> Table:
    table = Table("name", "what happens", "reported in")
    for rehearsal in REHEARSALS.values():
        table.add_row(rehearsal.name, rehearsal.sentence, rehearsal.source)
    table.add_row(RANDOM, "faults, market and latencies drawn from the seed", "")
    return table
