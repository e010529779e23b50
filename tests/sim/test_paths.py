"""Price paths: the same in whatever order, random enough, with extremes that are the path's own."""

import itertools
import math
import random
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.sim import path as paths
from ibkr_service.sim.path import Path
from ibkr_service.sim.timeline import FOREX_TIMELINE, NEW_YORK, STEPS_PER_S, STOCK_TIMELINE

OPENING = int(datetime(2026, 11, 23, 14, 30, tzinfo=UTC).timestamp()) * STEPS_PER_S
DAY = 86_400 * STEPS_PER_S


def make(key: str = "key", timeline=STOCK_TIMELINE) -> Path:
    return Path(key, timeline, OPENING)


def test_the_path_is_the_same_in_whatever_order_it_is_asked_for():
    """It has no memory of who looked, nor of when."""
    steps = [OPENING + n for n in (*range(300), 262_143, 1_000_000, -5, -DAY, -400 * DAY, 40 * DAY)]
    forward = make()
    values = {step: forward.at(step) for step in steps}
    shuffled = make()
    random.Random(1).shuffle(steps)
    assert {step: shuffled.at(step) for step in steps} == values
    assert make("other").at(OPENING + 100) != values[OPENING + 100]


def test_the_path_is_zero_at_its_anchor():
    """And its changes do not depend on the anchor: a gateway that starts later sees the same market move."""
    later = Path("key", STOCK_TIMELINE, OPENING + 3 * DAY)
    assert make().at(OPENING) == later.at(OPENING + 3 * DAY) == 0
    changes = [path.at(OPENING + 5 * DAY) - path.at(OPENING - 5 * DAY) for path in (make(), later)]
    assert math.isclose(*changes, abs_tol=1e-9)


def test_within_a_session_it_is_a_random_walk():
    """Steps have the variance of their segment, and do not depend on each other."""
    path = make("walk")
    steps = [path.at(OPENING + n + 1) - path.at(OPENING + n) for n in range(20_000)]
    variance = 0.82 / (6.5 * 3600 * STEPS_PER_S)
    assert abs(sum(step**2 for step in steps) / len(steps) / variance - 1) < 0.05
    assert abs(sum(a * b for a, b in itertools.pairwise(steps)) / sum(step**2 for step in steps)) < 0.03


def test_a_year_of_days_has_the_volatility_that_was_asked_for():
    """252 daily changes of variance 1, give or take."""
    path = make("year")
    today = STOCK_TIMELINE.index_of(OPENING)
    sessions = [today - n * STOCK_TIMELINE.per_day for n in range(7 * 365)]
    closes = [path.at(STOCK_TIMELINE.bounds(index)[1]) for index in sessions if STOCK_TIMELINE.weight(index) > 0.5]
    changes = [a - b for a, b in itertools.pairwise(closes)]
    assert abs(sum(change**2 for change in changes) / len(changes) - 1) < 0.1


@settings(deadline=None, max_examples=60)
@given(st.integers(-3 * DAY, 3 * DAY), st.integers(1, 20_000), st.sampled_from([STOCK_TIMELINE, FOREX_TIMELINE]))
def test_extremes_are_those_of_every_step(first, length, timeline):
    """Computed in blocks, step by step, or known from the skeleton: to the last bit the same."""
    path, plain = make("x", timeline), make("x", timeline)
    first += OPENING
    lowest, highest = path.extremes(first, first + length)
    values = [plain.at(step) for step in range(first, first + length)]
    assert (path.at(lowest), path.at(highest)) == (min(values), max(values))
    assert first <= min(lowest, highest) <= max(lowest, highest) < first + length


@settings(deadline=None, max_examples=40)
@given(st.lists(st.integers(0, 2 * DAY), min_size=3, max_size=3, unique=True))
def test_the_range_of_a_whole_is_that_of_its_parts(cuts):
    """However it is cut."""
    path = make("parts")
    first, middle, last = sorted(OPENING - DAY + cut for cut in cuts)
    whole = path.extremes(first, last)
    parts = [*path.extremes(first, middle), *path.extremes(middle, last)]
    assert path.at(whole[0]) == min(map(path.at, parts))
    assert path.at(whole[1]) == max(map(path.at, parts))


def test_a_path_that_is_followed_is_the_same_as_one_that_is_looked_at():
    """Whoever goes on value by value is served from blocks; two at a time, live and a quarter of an hour late, too."""
    followed, late = make(), 900 * STEPS_PER_S
    steps = [step for n in range(0, 40_000, 4) for step in (OPENING + n, OPENING + n - late)]
    values = [followed.at(step) for step in steps]
    assert followed._known_blocks
    looked_at = {step: make().at(step) for step in steps[::97]}
    assert {step: values[steps.index(step)] for step in looked_at} == looked_at


def test_memory_does_not_grow_with_what_was_looked_at():
    """Skeletons and blocks are kept in bounded numbers; only the chain grows, by a few numbers a day."""
    path = make("bounded")
    for day in range(1200):
        path.extremes(OPENING - day * DAY, OPENING - day * DAY + 5000)
    assert len(path._skeletons) <= 1024
    assert len(path._known_blocks) <= 8
    for day in range(40):
        path.extremes(OPENING - (day + 1) * DAY + 5000, OPENING - day * DAY - 5000)
    assert 500 < len(path._ranges) <= 1024


def test_the_range_of_a_long_night_costs_no_more_than_that_of_a_short_one(monkeypatch):
    """Twenty hours are some sixty blocks; once known, a later look at them computes the newest only."""
    computed = []
    expanded = paths._expanded
    monkeypatch.setattr(paths, "_expanded", lambda leg, cell: computed.append(cell[0]) or expanded(leg, cell))
    path, hour = make("night", FOREX_TIMELINE), 3600 * STEPS_PER_S
    begin = OPENING - 8 * hour
    path.extremes(begin, begin + 20 * hour)
    whole = len(computed)
    assert whole > 16
    for minute in range(60):
        now = begin + 20 * hour + minute * 60 * STEPS_PER_S
        path.at(now)
        path.extremes(begin + minute, now)  # the option that is looked at first has its own beginning
        path.at(begin - 10 * hour)
    assert len(computed) - whole <= 4


@pytest.mark.parametrize("timeline", [STOCK_TIMELINE, FOREX_TIMELINE])
def test_segments_cover_all_time_without_gaps(timeline):
    """Through both changes of summer time as well."""
    step = int(datetime(2026, 3, 1, tzinfo=NEW_YORK).timestamp()) * STEPS_PER_S
    end = step + int(timedelta(days=300).total_seconds()) * STEPS_PER_S
    while step < end:
        index = timeline.index_of(step)
        first, last = timeline.bounds(index)
        assert first == step
        assert timeline.index_of(last - 1) == index
        step = last
