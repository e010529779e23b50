"""Trading hours as contract details tell them, and declared restarts: unknown is neither open nor closed."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from types import SimpleNamespace

import pytest

from ibkr_service.broker.tradinghours import TradingHours, UsCalendar
from ibkr_service.core.hours import hours_of
from ibkr_service.core.instrument import Future, Option, Stock
from ibkr_service.core.restartwindow import RestartWindow

TRADING = "20261123:0400-20261123:2000;20261124:0400-20261124:2000;20261126:CLOSED;20261127:0400-20261127:1700"
LIQUID = "20261123:0930-20261123:1600;20261124:0930-20261124:1600;20261126:CLOSED;20261127:0930-20261127:1300"
AAPL = Stock("AAPL")


def at(day, hour, minute=0):
    """A moment of November 2026, in UTC; New York is five hours behind."""
    return datetime(2026, 11, day, hour, minute, tzinfo=UTC)


@pytest.mark.parametrize(
    ("now", "liquid", "trading"),
    [
        (at(23, 14, 29), False, True),
        (at(23, 14, 30), True, True),
        (at(23, 20, 59), True, True),
        (at(23, 21), False, True),
        (at(24, 1), False, False),
        (at(26, 15), False, False),  # Thanksgiving
        (at(27, 17, 59), True, True),
        (at(27, 18), False, True),  # a half day
        (at(28, 15), None, None),  # beyond what was told
        (at(22, 15), None, None),
    ],
)
def test_sessions_are_in_the_time_of_the_exchange(now, liquid, trading):
    """From the opening, up to the close; what was not told is unknown."""
    hours = hours_of(TRADING, LIQUID, "US/Eastern")
    assert hours.is_open(now, outside_rth=False) is liquid
    assert hours.is_open(now, outside_rth=True) is trading


def test_a_night_session_belongs_to_the_next_day():
    """A future trades from the evening before; a break in the middle is two sessions."""
    hours = hours_of("20261122:1700-20261123:1515,20261123:1530-20261123:1600", "20261123:0830-1500", "US/Central")
    assert hours.is_open(at(22, 23), outside_rth=True) is True
    assert hours.is_open(at(23, 21, 20), outside_rth=True) is False
    assert hours.is_open(at(23, 15), outside_rth=False) is True
    assert hours.opens_next(at(23, 21, 20), outside_rth=True) == at(23, 21, 30)


@pytest.mark.parametrize(
    ("trading", "liquid", "zone"),
    [
        ("", "", "US/Eastern"),
        ("nonsense", LIQUID, "US/Eastern"),
        (TRADING, "20261199:0930-20261199:1600", "US/Eastern"),
        (TRADING, "20261123:1600-20261123:0930", "US/Eastern"),
        (TRADING, LIQUID, "Mars"),
        (TRADING, LIQUID, ""),
    ],
)
def test_what_cannot_be_read_is_unknown(trading, liquid, zone):
    """Never half of it: a part that cannot be read may be the one that counts."""
    assert hours_of(trading, liquid, zone) is None


def details(trading=TRADING, liquid=LIQUID, zone="US/Eastern"):
    return SimpleNamespace(tradingHours=trading, liquidHours=liquid, timeZoneId=zone)


def test_what_was_told_grows_old():
    """Contract details reach some days ahead: then they are asked for again; what was asked in vain, an hour later."""
    told = TradingHours()
    assert told.hours(AAPL, at(23, 15)) is None
    assert not told.is_asked(AAPL, at(23, 15))
    told.seen(AAPL, details(), at(23, 15))
    assert told.is_asked(AAPL, at(27, 15))
    assert not told.is_asked(AAPL, at(28, 15))
    told.seen(AAPL, details(zone="Mars"), at(28, 15))
    assert told.is_asked(AAPL, at(28, 15, 59))
    assert not told.is_asked(AAPL, at(28, 16))


def test_a_calendar_stands_in_and_says_so():
    """Where the broker told nothing: for shares and options in the United States, half days and extended hours too."""
    told = TradingHours(UsCalendar(at(23, 12)))
    hours = told.hours(AAPL, at(27, 17))
    assert hours.source == "calendar"
    assert hours.is_open(at(27, 17), outside_rth=False) is True
    assert hours.is_open(at(27, 18), outside_rth=False) is False
    assert hours.is_open(at(26, 15), outside_rth=True) is False
    assert hours.is_open(at(23, 9, 30), outside_rth=True) is True
    option = told.hours(Option("AAPL", "20270115", 150.0, "C"), at(23, 15))
    assert option.is_open(at(23, 9, 30), outside_rth=True) is False
    assert told.hours(Future("ES", "202612", "CME"), at(23, 15)) is None
    assert told.hours(Stock("VOD", "GBP"), at(23, 15)) is None
    told.seen(AAPL, details(), at(23, 15))
    assert told.hours(AAPL, at(27, 17)).source == "contract"
    assert told.hours(AAPL, at(30, 15)).source == "calendar"


@pytest.mark.parametrize(
    ("now", "covered"),
    [
        (at(24, 4, 43), False),
        (at(24, 4, 44), True),  # a minute before 23:45 in New York
        (at(24, 5, 9), True),
        (at(24, 5, 10), False),
        (at(29, 4, 50), False),  # Saturday night is not among the days
    ],
)
def test_a_restart_window_goes_over_midnight(now, covered):
    """It belongs to the day on which it begins, in its own time zone."""
    window = RestartWindow(start=time(23, 45), end=time(0, 10), timezone="America/New_York", days=frozenset(range(5)))
    assert window.covers(now, timedelta(minutes=1)) is covered


def test_a_window_just_after_midnight_is_seen_from_the_evening():
    """The minutes before it are on the day before."""
    window = RestartWindow(start=time(0, 0), end=time(0, 5), timezone="UTC")
    assert window.covers(datetime(2026, 11, 23, 23, 59, 30, tzinfo=UTC), timedelta(minutes=1))
