"""The scorecard: every outage that people reported, and what it costs.

Goal: no name is missing, the figures are those of the gateway, the wire and the journal, and a service that doubles or
loses something cannot have a clean card. Method: the list of names; defects of `test_mutations`; the committed page.
"""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibkr_service import cli
from ibkr_service.rehearsal.mishaps import Fault
from ibkr_service.rehearsal.named import REHEARSALS, planned
from ibkr_service.rehearsal.run import rehearse
from ibkr_service.rehearsal.scorecard import COLUMNS, Scorecard, linked
from ibkr_service.sim.scenarios import SCENARIOS, SECTIONS
from tests.rehearsal import test_mutations as mutations

HERE = Path(__file__).parent
PAGE = HERE.parents[1] / "docs" / "reliability.md"
PLANS = HERE.parents[2] / "shared" / "SCENARIOS.md"
CUT = mutations.plan(Fault("cut", 80.0, "", 90.0, "1102"))


def rows_of(page):
    """The rows with figures, by name."""
    lines = [re.split(r" *\| *", line)[1:-1] for line in page.splitlines() if line.startswith("| `")]
    return {line[0].strip("`"): dict(zip(COLUMNS, line, strict=True)) for line in lines if len(line) == len(COLUMNS)}


def card_of(*results):
    card = Scorecard()
    for result in results:
        card.add(result)
    return card


# --- the names -------------------------------------------------------------------------------------------------------


def test_no_scenario_is_lost():
    """The registry has what the list has, section by section."""
    listed = {}
    for line in (HERE.parent / "data" / "scenarios.txt").read_text().splitlines():
        if line.startswith("["):
            names = listed[line.strip("[]")] = []
        elif line and not line.startswith("#"):
            names.append(line)
    assert {section: [each.name for each in each_of] for section, each_of in SECTIONS.items()} == listed


@pytest.mark.skipif(not PLANS.exists(), reason="the table of scenarios is not beside the repository")
def test_the_list_is_that_of_the_plans():
    """Every row of the tables has a script, and is rehearsed."""
    planned_names = set(re.findall(r"^\| `([a-z0-9-]+)` \|", PLANS.read_text(), re.MULTILINE))
    assert len(planned_names) > 40
    assert planned_names <= set(SCENARIOS) <= set(REHEARSALS)


# --- the figures -----------------------------------------------------------------------------------------------------


def test_an_outage_is_measured_from_the_gateway():
    """Ninety seconds without IB: known with the message, READY with the repair, a gap for each stream."""
    figures = rehearse(CUT).figures
    (outage,) = figures.outages
    assert outage.known_s == pytest.approx(0.0002, abs=0.001)
    assert outage.ready_s < 1.0
    assert 0.0 < outage.over_s < 60.0
    assert figures.gaps == figures.resumed >= 7
    assert figures.orders > 10
    assert figures.fills > 5
    assert (figures.doubled, figures.lost) == (0, 0)


def test_a_service_that_does_not_hear_of_it_knows_it_late(monkeypatch):
    """What the service says of itself is not asked: it never heard of 1100."""
    mutations.ignore_1100(monkeypatch)
    figures = rehearse(CUT).figures
    assert all(outage.known_s is None or outage.known_s > 1.0 for outage in figures.outages)
    assert figures.outages or figures.unnoticed


def test_a_service_that_waits_is_late(monkeypatch):
    """READY after repair is as long as it takes."""
    sound = rehearse(mutations.DROPPED).figures
    mutations.wait_an_hour(monkeypatch)
    late = rehearse(mutations.DROPPED).figures
    assert max(outage.ready_s for outage in sound.outages) < 10.0
    assert all(outage.ready_s is None or outage.ready_s > 10.0 for outage in late.outages)


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # what defects leave behind
@pytest.mark.parametrize(
    ("defect", "plan", "column"),
    [
        (mutations.double_fills, mutations.DROPPED, "doubled"),
        (mutations.send_twice, mutations.QUIET, "doubled"),
        (mutations.tell_fills_twice, mutations.QUIET, "doubled"),
        (mutations.never_look_again, mutations.LOST_FILL, "lost"),
    ],
    ids=lambda each: getattr(each, "__name__", None),
)
def test_a_broken_service_has_no_clean_card(monkeypatch, defect, plan, column):
    """What is doubled or lost is counted, and the row does not pass."""
    sound = rows_of(card_of(rehearse(plan)).page("command"))["mutation"]
    assert (sound["doubled"], sound["lost"], sound["passed"]) == ("0", "0", "1 of 1")
    with monkeypatch.context() as patch:
        defect(patch)
        card = card_of(rehearse(plan))
    row = rows_of(card.page("command"))["mutation"]
    assert int(row[column]) > 0, row
    assert row["passed"] == "0 of 1"


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_same_seeds_give_the_same_page():
    """In whatever order the results come."""
    results = [rehearse(planned(name)(seed)) for name in ("upstream-loss-1101", "margin-reject") for seed in (1, 2)]
    again = [rehearse(result.plan) for result in reversed(results)]
    assert card_of(*results).page("command") == card_of(*again).page("command")


def test_reports_are_linked():
    """Each number to its own repository; what is no report stays as it is."""
    text = linked("erdewit/ib_insync #41, #469; the stream protocol itself")
    assert text == (
        "erdewit/ib_insync [#41](https://github.com/erdewit/ib_insync/issues/41),"
        " [#469](https://github.com/erdewit/ib_insync/issues/469); the stream protocol itself"
    )


def test_the_command_writes_the_page_and_checks_it(tmp_path):
    """A page that says something else is not current, and the exit code says so."""
    page = tmp_path / "card.md"
    command = ["rehearse", "margin-reject", "--alone", "--seeds", "2", "--jobs", "1", "--scorecard", str(page)]
    assert CliRunner().invoke(cli.app, command).exit_code == 0
    row = rows_of(page.read_text())["margin-reject"]
    assert row["passed"] == "2 of 2"
    assert CliRunner().invoke(cli.app, [*command, "--check"]).exit_code == 0
    page.write_text(page.read_text().replace("2 of 2", "3 of 3"))
    result = CliRunner().invoke(cli.app, [*command, "--check"])
    assert result.exit_code == 1
    assert "is not what these rehearsals say" in result.output


def test_the_committed_page_has_every_name_and_is_clean():
    """`make reliability` writes it anew; a sample is rehearsed here."""
    rows = rows_of(PAGE.read_text())
    assert list(rows) == list(REHEARSALS)
    for row in rows.values():
        passed, _, of = row["passed"].partition(" of ")
        assert passed == of
        assert (row["doubled"], row["lost"]) == ("0", "0")
    for name in ("upstream-blip-1102", "margin-reject", "mode-mix-up"):
        fresh = rows_of(card_of(rehearse(planned(name)(1))).page("command"))[name]
        assert (fresh["doubled"], fresh["lost"], fresh["passed"]) == ("0", "0", "1 of 1")
