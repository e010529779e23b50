"""A sample of random rehearsals, as they run in a campaign, and what a campaign says of those that fail.

Goal: every change is held against a few dozen seeds, those that once failed among them, and a failure can be repeated
from its last line. Method: the campaign itself, its processes included. Two hundred seeds, and what they cover, are
`.ci/run`; thousands are `make rehearse`.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from ibkr_service.broker.lines import Lines
from ibkr_service.rehearsal.campaign import COVERED_FROM, Outcome, as_one, campaign, smallest
from ibkr_service.rehearsal.mishaps import MISHAPS, Fault
from ibkr_service.rehearsal.plan import BEFORE_MIDNIGHT, FAULTS_MIN, LENGTH_S, MIDNIGHT_S, OUTAGES, draw
from ibkr_service.rehearsal.run import Company, rehearse
from tests.rehearsal.test_mutations import plan

SEEDS = [
    int(line.split()[0])
    for line in (Path(__file__).parent / "seeds.txt").read_text().splitlines()
    if line[:1].isdigit()
]
SAMPLE = 8
UNTOLD_AT_MIDNIGHT = 6  # a seed in which orders are filled while the service is away, until the next day


@pytest.mark.timeout(600)
def test_seeds_pass():
    """Those that once failed, and some more; some of them twice, in processes with other hash seeds."""
    results = []
    plans = [draw(seed) for seed in [*SEEDS, *range(1, SAMPLE + 1)]]
    outcome = campaign(plans, Company(), jobs=2, tell=results.append)
    assert [result.verdict for result in outcome.failed] == []
    assert (outcome.count, len(results)) == (len(plans), len(plans))
    assert outcome.twins >= 1
    assert outcome.verdict.startswith(f"passed: {len(plans)} of {len(plans)} rehearsals")
    assert all(result.seconds >= LENGTH_S and result.coverage["orders"] >= 20 for result in results)
    assert all(result.coverage["spreads"] for result in results)


def test_every_kind_of_fault_is_in_one_plan_of_twenty():
    """Drawn, not lived: what is planned is what happens, and a plan has three faults at least."""
    plans = [draw(seed) for seed in range(1, 1001)]
    assert min(len(p.faults) for p in plans) >= FAULTS_MIN
    for kind in MISHAPS:
        assert sum(any(fault.kind == kind for fault in p.faults) for p in plans) >= 50, kind


def test_midnight_comes_while_the_service_is_away():
    """An outage begins before and ends after; in some of them the fills of that time are adjusted."""
    plans = [p for p in map(draw, range(1, 1001)) if p.started_at == BEFORE_MIDNIGHT]
    assert len(plans) > 80
    for p in plans:
        assert any(f.kind in OUTAGES and f.at_s < MIDNIGHT_S < f.at_s + f.for_s for f in p.faults), p.seed
    (untold,) = (p for p in plans if p.seed == UNTOLD_AT_MIDNIGHT)
    assert rehearse(untold).coverage["adjustments"] > 0


def test_too_little_coverage_is_a_failure():
    """A campaign that never met a kind of fault has proved nothing about it."""
    outcome = Outcome(count=COVERED_FROM)
    assert "drop" in outcome.uncovered
    assert not outcome.passed
    assert "too seldom" in outcome.verdict


def test_a_rehearsal_without_substance_fails():
    """Few orders prove little, and none of them a spread still less."""
    thin = draw(3).only([])
    result = rehearse(replace(thin, wishes=tuple(wish for wish in thin.wishes if wish.kind == "rest")))
    assert result.broken == ("substance",)
    assert "0 spreads" in str(result.breaches[0])


def test_twins_that_differ_fail():
    """Two journals for one seed: somebody has thrown dice."""
    result = rehearse(plan(length_s=60.0))
    assert as_one([result, result]) is result
    assert as_one([result, replace(result, digest="another")]).broken == ("same journal",)


def test_a_failure_is_made_small_and_repeated_from_its_words(monkeypatch):
    """Of three faults the one that matters is left; the command has its number and does the same again."""
    monkeypatch.setattr(Lines, "interrupt", lambda _lines, _reason, _since=None: None)
    faults = (
        Fault("repeated-status", 20.0, "", 60.0),
        Fault("drop", 100.0, "", 0.0),
        Fault("split", 150.0, "", 20.0, "50"),
    )
    failing = plan(*faults, length_s=300.0)
    broken = rehearse(failing).broken
    assert "gaps" in broken
    small = smallest(failing, Company(), broken)
    assert [fault.kind for fault in small.faults] == ["drop"]
    assert small.replay == "ibkr-service rehearse mutation --seed 7 --faults 2"
    assert failing.only([2]).faults == small.faults
