"""One incident per outage, whatever noise it makes, with what it cost."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core import events as ev
from ibkr_service.core.incidents import DIED, STREAMS_MAX_S, Incidents
from ibkr_service.core.instrument import Stock
from ibkr_service.core.link import STOPPING, Link
from ibkr_service.core.orders import OrderState

START = datetime(2026, 11, 23, 15, tzinfo=UTC)
AAPL, MSFT = Stock("AAPL"), Stock("MSFT")


def at(seconds):
    return START + timedelta(seconds=seconds)


def link(seconds, before, after, why="dead"):
    return ev.LinkChanged(at=at(seconds), before=before, after=after, why=why)


def gap(seconds, instrument, since=None, lost=0):
    since = at(seconds if since is None else since)
    return ev.Gap(at=at(seconds), instrument=instrument, reason="dead", since=since, epoch=1, lost=lost)


def resumed(seconds, instrument, backfilled=0, *, asked=False):
    end = at(seconds)
    return ev.Resumed(at=end, instrument=instrument, until=end, epoch=1, backfilled=backfilled, resubscribed=asked)


def failed(seconds, instrument, code):
    return ev.SubscriptionFailed(at=at(seconds), instrument=instrument, code=code, text="no data")


def ready(seconds=0):
    return link(seconds, Link.SYNCING, Link.READY)


def told(facts, incidents=None):
    incidents = incidents or Incidents()
    return [said for fact in facts for said in incidents.apply(fact)]


def test_a_competing_session_is_one_incident_however_many_lines_it_takes():
    """Each line is refused by itself, and comes back by itself."""
    taken = [gap(10, AAPL), failed(10, AAPL, 10197), gap(11, MSFT), failed(11, MSFT, 10197)]
    (opened,) = told([ready(), *taken], incidents := Incidents())
    (closed,) = told([resumed(40, AAPL), resumed(41, MSFT)], incidents)
    assert (opened.number, closed.number) == (1, 1)
    assert [stream.until - stream.since for stream in closed.streams] == [timedelta(seconds=30)] * 2


def test_a_line_that_is_refused_for_good_holds_no_incident_up():
    """It will not flow again by itself."""
    opened, closed = told([ready(), gap(10, AAPL), failed(10, AAPL, 354)])
    assert (opened.number, closed.number) == (1, 1)


def test_an_outage_is_one_incident_with_all_that_it_cost():
    """Flapping, gaps, doubts and recovered fills are one story."""
    opened, closed = told(
        [
            ready(),
            gap(10, AAPL, since=2),
            gap(10, MSFT, since=3),
            link(10, Link.READY, Link.DOWN, "dead: no byte"),
            link(12, Link.DOWN, Link.SYNCING),
            link(13, Link.SYNCING, Link.DOWN, "refused"),
            link(20, Link.DOWN, Link.SYNCING),
            ev.OrderChanged(
                at=at(21), ref="r", before=OrderState.WORKING, after=OrderState.UNKNOWN, filled=D(0), remaining=D(1)
            ),
            ev.OrderChanged(
                at=at(22), ref="r", before=OrderState.UNKNOWN, after=OrderState.WORKING, filled=D(0), remaining=D(1)
            ),
            ready(23),
            resumed(24, AAPL, asked=True),
            resumed(25, MSFT, backfilled=4),
        ]
    )
    assert (opened.number, opened.cause) == (1, "AAPL: dead")
    assert closed.number == 1
    assert (closed.detected_after_s, closed.ready_after_s, closed.attempts) == (8.0, 13.0, 2)
    assert closed.streams == (
        ev.StreamGap(instrument="AAPL", since=at(2), until=at(24), resubscribed=True),
        ev.StreamGap(instrument="MSFT", since=at(3), until=at(25), backfilled=4),
    )
    assert (closed.silent, closed.resubscribed) == ((), 1)
    assert (closed.orders_unknown, closed.orders_resolved) == (1, 1)
    assert closed.orders == (ev.OrderInDoubt(ref="r", state="WORKING"),)


def test_a_stream_that_breaks_off_twice_in_an_outage_has_one_gap():
    """From the first beginning to the last end; or without one."""
    start = [ready(), gap(1, AAPL), link(1, Link.READY, Link.DOWN), resumed(2, AAPL, backfilled=1), gap(3, AAPL)]
    _, closed = told([*start, ready(4), resumed(5, AAPL, backfilled=2)])
    assert closed.streams == (ev.StreamGap(instrument="AAPL", since=at(1), until=at(5), backfilled=3),)
    incidents = Incidents()
    told([*start, ready(4)], incidents)
    (closed,) = incidents.due(at(100))
    assert (closed.streams[0].since, closed.silent) == (at(1), ("AAPL",))


def step(seconds, rung, what=""):
    return ev.RecoveryStep(at=at(seconds), rung=rung, why="silent", what=what)


def test_the_steps_that_were_taken_are_part_of_the_incident():
    """Those before it was one, too, if they led to it: not a probe of an hour ago that was answered."""
    _, closed = told(
        [
            ready(),
            step(1, "probe"),
            step(3600, "probe"),
            step(3605, "resubscribe one", "AAPL"),
            gap(3605, AAPL, since=3540),
            step(3620, "controller", "RECONNECTDATA"),
            resumed(3630, AAPL),
        ]
    )
    assert closed.steps == ("probe", "resubscribe one", "controller RECONNECTDATA")
    _, closed = told([ready(), gap(1, AAPL), resumed(2, AAPL)])
    assert closed.steps == ()


def test_a_start_and_a_stop_are_no_incidents():
    """Nor is a stream whose reader was too slow."""
    assert told([link(0, Link.DOWN, Link.SYNCING), ready(1), link(5, Link.READY, Link.DOWN, STOPPING)]) == []
    assert told([ready(), gap(1, AAPL, lost=3)]) == []


def test_a_process_that_died_is_one():
    """Its successor tells it, and ends it."""
    start = ev.ServiceStarted(at=at(0), run_id="r", mode="paper", version="1")
    opened, closed = told([start, ready(5)], Incidents(3, was_ready=True))
    assert (opened.number, opened.cause) == (4, DIED)
    assert closed.ready_after_s == 5.0
    assert told([start, ready(5)]) == []


def test_an_incident_that_a_dead_process_left_open_is_ended_by_the_next():
    """It keeps its number and its beginning."""
    before = ev.IncidentOpened(at=at(-60), number=7, cause="dead")
    (closed,) = told([ready(5)], Incidents(7, was_ready=True, under_way=before))
    assert (closed.number, closed.began_at, closed.ready_after_s) == (7, at(-60), 65.0)


def test_a_farm_that_is_down_is_one_until_it_is_up():
    """The link does not move."""
    down, up = (ev.FarmChanged(at=at(t), farm="usfarm", up=t > 1, code=2103) for t in (1, 9))
    opened, closed = told([ready(), down, up])
    assert opened.cause == "data farm usfarm is down"
    assert closed.ready_after_s == 0.0


def test_a_farm_that_was_down_does_not_outlive_its_connection():
    """Nobody may say that it is up again: it sleeps until it is needed. The next connection is told of it anew."""
    down = ev.FarmChanged(at=at(1), farm="ushmds", up=False, code=2105)
    opened, closed = told([ready(), down, link(5, Link.READY, Link.DOWN), ready(9)])
    assert (opened.cause, closed.ready_after_s) == ("data farm ushmds is down", 8.0)


def test_a_stream_that_does_not_come_back_is_told_as_silent():
    """A minute after READY nobody waits for it any more."""
    incidents = Incidents()
    assert len(told([ready(), gap(1, AAPL), link(1, Link.READY, Link.DOWN), ready(5)], incidents)) == 1
    assert incidents.due(at(5 + STREAMS_MAX_S - 1)) == []
    (closed,) = incidents.due(at(5 + STREAMS_MAX_S))
    assert closed.silent == ("AAPL",)


def doubt(seconds, before, after):
    at_ = at(seconds)
    return ev.OrderChanged(at=at_, ref="r", before=before, after=after, filled=D(0), remaining=D(1))


def test_an_order_in_doubt_keeps_it_open_until_it_is_accounted_for():
    """Or for a minute after READY; then it is told as what it still is."""
    lost = [ready(), link(1, Link.READY, Link.DOWN), doubt(2, OrderState.SENT, OrderState.UNKNOWN), ready(5)]
    incidents = Incidents()
    assert len(told(lost, incidents)) == 1
    (closed,) = incidents.apply(doubt(35, OrderState.UNKNOWN, OrderState.ABSENT))
    assert (closed.ready_after_s, closed.orders_unknown, closed.orders_resolved) == (4.0, 1, 1)
    assert closed.orders == (ev.OrderInDoubt(ref="r", state="ABSENT"),)
    incidents = Incidents()
    told(lost, incidents)
    (closed,) = incidents.due(at(5 + STREAMS_MAX_S))
    assert (closed.orders_unknown, closed.orders_resolved) == (1, 0)


FACTS = st.lists(
    st.one_of(
        st.sampled_from(list(Link)).map(lambda after: ("link", after)),
        st.sampled_from(["gap", "resumed", "down", "up", "start"]).map(lambda kind: (kind, None)),
    ),
    max_size=30,
)


@given(FACTS)
def test_incidents_open_and_close_in_turns(kinds):
    """Whatever happens: numbers rise by one, none is open twice, and after all is well none stays open."""
    incidents, now, said, state = Incidents(), 0, [], Link.DOWN
    for kind, after in [*kinds, ("up", None), ("link", Link.SYNCING), ("link", Link.READY)]:
        now += 1
        match kind:
            case "link":
                fact, state = link(now, state, after), after
            case "gap":
                fact = gap(now, AAPL)
            case "resumed":
                fact = resumed(now, AAPL)
            case "start":
                fact = ev.ServiceStarted(at=at(now), run_id="r", mode="paper", version="1")
            case _:
                fact = ev.FarmChanged(at=at(now), farm="f", up=kind == "up", code=2103)
        said += incidents.apply(fact)
    said += incidents.due(at(now + 2 * STREAMS_MAX_S))
    assert incidents.open is None
    opened = [fact.number for fact in said if isinstance(fact, ev.IncidentOpened)]
    closed = [fact.number for fact in said if isinstance(fact, ev.IncidentClosed)]
    assert opened == closed == list(range(1, len(opened) + 1))
    turns = [type(fact) for fact in said]
    assert turns == [ev.IncidentOpened, ev.IncidentClosed] * len(opened)
