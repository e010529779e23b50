"""Bars and pages: whatever is asked for is covered, once, by requests that TWS takes.

Goal: no hole and no overlap, for every range and size. Method: properties, with a model of what durations mean.
"""

from __future__ import annotations

import re
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.bars import DAY_S, SIZES, WEEK_S, Bar, bar_size, merged, moment, pages, within
from ibkr_service.core.errors import InvalidRequest

UNITS_S = {"S": 1, "W": WEEK_S, "Y": 365 * DAY_S}
MOMENTS = st.datetimes(datetime(2015, 1, 1), datetime(2027, 1, 1), timezones=st.just(UTC))  # noqa: DTZ001 - hypothesis


def bar(at, close=1.0):
    """A bar of nothing but its beginning and its close."""
    return Bar(at=at, open=1.0, high=1.0, low=1.0, close=close)


def reach_s(duration):
    """How far back a duration reaches at least, in seconds."""
    amount, unit = duration.split()
    return int(amount) * UNITS_S[unit]


@given(start=MOMENTS, seconds=st.integers(1, 40 * DAY_S), size=st.sampled_from(list(SIZES.values())))
def test_pages_cover_a_range_without_hole_or_overlap(start, seconds, size):
    """They follow each other from its first bar to its end, and each duration reaches back to its page's start."""
    end = start + timedelta(seconds=seconds)
    if size.seconds < 10:
        end = min(end, start + timedelta(days=2))
    found = pages(start, end, size)
    assert start <= found[0].start
    assert found[0].start - start < timedelta(seconds=size.seconds if size.seconds <= 60 else 1e-6)
    assert found[-1].end == end
    assert all(a.end == b.start for a, b in pairwise(found))
    for page in found:
        assert page.start < page.end
        assert reach_s(page.duration) >= (page.end - page.start).total_seconds()


@given(start=MOMENTS, seconds=st.integers(1, 20 * DAY_S), size=st.sampled_from(list(SIZES.values())))
def test_no_page_is_longer_than_tws_allows(start, seconds, size):
    """By size: half an hour of seconds … a year of days. Durations of seconds end at a day."""
    for page in pages(start, start + timedelta(seconds=min(seconds, size.longest_s * 50)), size):
        amount, unit = page.duration.split()
        assert unit in UNITS_S
        if size.seconds <= DAY_S:
            assert reach_s(page.duration) <= max(size.longest_s, 60)
        if unit == "S":
            assert 60 <= int(amount) <= DAY_S
        assert re.fullmatch(r"[1-9]\d*", amount)


@given(start=MOMENTS, days=st.integers(2, 300), size=st.sampled_from([s for s in SIZES.values() if s.is_intraday]))
def test_pages_meet_where_no_bar_is_cut(start, days, size):
    """On a multiple of the size, or on a Saturday at noon."""
    days = min(days, max(2, size.longest_s * 30 // DAY_S))
    if size.longest_s < 2 * 3_600:
        days = 2
    for page in pages(start, start + timedelta(days=days), size)[1:]:
        is_saturday = page.start.weekday() == 5 and (page.start.hour, page.start.minute) == (12, 0)
        assert is_saturday or (page.start.timestamp() % size.seconds == 0 and size.seconds <= 3_600)


def test_a_range_that_does_not_begin_on_a_bar_needs_no_page_for_the_rest():
    """Two days of minutes until now are two requests."""
    end = datetime(2026, 11, 23, 14, 30, 17, tzinfo=UTC)
    assert len(pages(end - timedelta(days=2), end, bar_size("1 min"))) == 2


def test_weeks_survive_summer_time():
    """A range of whole weeks over the change of clocks: a week in New York may be an hour short."""
    end = datetime(2026, 11, 4, 15, tzinfo=UTC)
    found = pages(end - timedelta(weeks=4), end, bar_size("1 hour"))
    assert [page.duration for page in found] == ["1 W", "4 W"], "not 4 W alone"


@pytest.mark.parametrize(
    ("text", "name"),
    [("1 min", "1 min"), ("1 mins", "1 min"), ("5 sec", "5 secs"), ("1 DAY", "1 day"), ("1  hour", "1 hour")],
)
def test_sizes_are_read_as_people_write_them(text, name):
    """Singular and plural."""
    assert bar_size(text).name == name


@pytest.mark.parametrize("text", ["7 mins", "", "1", "day", None, "1 year", "1m"])
def test_what_is_no_size_is_refused_with_those_that_are(text):
    """The error is the documentation."""
    with pytest.raises(InvalidRequest, match=r"1 secs, 5 secs, .*1 month"):
        bar_size(text)


def test_a_moment_has_a_zone():
    """Or nobody knows when it is. A date is its midnight, UTC."""
    with pytest.raises(InvalidRequest, match="no time zone"):
        moment(datetime(2026, 11, 23))  # noqa: DTZ001 - the very mistake
    assert moment(date(2026, 11, 23)) == datetime(2026, 11, 23, tzinfo=UTC)
    with pytest.raises(InvalidRequest, match="holds nothing"):
        pages(datetime(2026, 1, 1, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC), bar_size("1 min"))


def test_merging_sorts_and_keeps_the_later_word():
    """A bar that was cut by the end of one page is whole in the next."""
    noon = datetime(2026, 11, 23, 12, tzinfo=UTC)
    later = noon + timedelta(minutes=1)
    assert merged([[bar(later, 2.0)], [bar(noon), bar(later, 3.0)]]) == [bar(noon), bar(later, 3.0)]


def test_within_is_half_open_and_knows_days():
    """From the start, up to but without the end; of days those from the start's on."""
    start, end = datetime(2026, 11, 20, 15, tzinfo=UTC), datetime(2026, 11, 23, tzinfo=UTC)
    inside = [bar(start), bar(end - timedelta(seconds=1)), bar(date(2026, 11, 20)), bar(date(2026, 11, 23))]
    outside = [bar(start - timedelta(seconds=1)), bar(end), bar(date(2026, 11, 19))]
    assert within([*inside, *outside], start, end) == inside
