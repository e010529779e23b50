"""What people are told: not of a blip, not of what is expected, not too often, and nothing without a trace."""

from __future__ import annotations

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal as D

from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core import events as ev
from ibkr_service.core.notices import HOUR, KINDS, Notices, Told
from ibkr_service.core.orders import OrderState
from ibkr_service.core.restartwindow import RestartWindow

START = datetime(2026, 11, 23, 15, tzinfo=UTC)
MAX = 3


def at(seconds):
    return START + timedelta(seconds=seconds)


def told(**changes):
    return Told(**{"hourly_max": MAX} | changes)


def opened(seconds, number=1):
    return ev.IncidentOpened(at=at(seconds), number=number, cause="dead: no byte")


def closed(seconds, began_s, number=1, **changes):
    what = {"orders_unknown": 2, "orders_resolved": 1, "fills_recovered": 1} | changes
    return ev.IncidentClosed(
        at=at(seconds),
        number=number,
        cause="dead: no byte",
        began_at=at(began_s),
        detected_after_s=1.0,
        ready_after_s=seconds - began_s,
        attempts=1,
        **what,
    )


def order(seconds, state, ref="r"):
    return ev.OrderChanged(at=at(seconds), ref=ref, before=OrderState.WORKING, after=state, filled=D(0), remaining=D(1))


def titles(notices, seconds, *, refuses=False):
    return [notice.title for notice in notices.due(at(seconds), journal_refuses=refuses)]


def test_an_outage_is_told_when_it_has_lasted_a_while_and_when_it_is_over():
    """Once each."""
    notices = Notices(told())
    notices.apply(opened(0))
    assert titles(notices, 59) == []
    assert titles(notices, 60) == ["incident 1: dead: no byte"]
    assert titles(notices, 90) == []
    notices.apply(closed(100, 0, streams=(ev.StreamGap(instrument="AAPL", since=at(0)),)))
    (over,) = notices.due(at(100), journal_refuses=False)
    assert over.title == "incident 1 is over"
    assert "orders in doubt: 2, of which 1 are known again" in over.text
    assert "fills learned of by asking: 1" in over.text
    assert "still silent: AAPL" in over.text


def test_a_blip_wakes_nobody():
    """Neither its beginning nor its end."""
    notices = Notices(told())
    notices.apply(opened(0))
    notices.apply(closed(3, 0))
    assert titles(notices, 600) == []


def test_a_restart_that_was_declared_is_quiet_unless_it_lasts_beyond_its_end():
    """Half past three to twenty to four in UTC."""
    window = RestartWindow(start=time(15, 30), end=time(15, 40), timezone="UTC")
    notices = Notices(told(windows=(window,)))
    notices.apply(opened(1801))
    assert titles(notices, 2300) == []
    notices.apply(closed(2350, 1801))
    assert titles(notices, 2400) == []
    notices.apply(opened(1802 + 86_400, 2))
    assert titles(notices, 2399 + 86_400) == []
    assert titles(notices, 2400 + 86_400) == ["incident 2: dead: no byte"]


def test_an_incident_of_the_process_before_is_told_too():
    """It is still under way."""
    notices = Notices(told(), under_way=opened(-500, 7))
    assert titles(notices, 0) == ["incident 7: dead: no byte"]


def test_an_order_is_told_that_stays_unknown():
    """One that is found again meanwhile is none of anybody's business."""
    notices = Notices(told())
    notices.apply(order(0, OrderState.UNKNOWN))
    notices.apply(order(0, OrderState.UNKNOWN, "s"))
    notices.apply(order(30, OrderState.WORKING, "s"))
    assert titles(notices, 59) == []
    assert titles(notices, 61) == ["order r is UNKNOWN"]
    assert titles(notices, 62) == []


def test_all_else_is_told_at_once():
    """Quarantine, the operator, strategies, libraries, the disk."""
    notices = Notices(told())
    for fact in (
        ev.QuarantineBegan(at=at(0), account="DU1234567", why="3 shares too many"),
        ev.OperatorSaid(at=at(0), verb="halt", by="ann"),
        ev.StrategyStopped(at=at(0), name="s", how="failed", detail="ValueError()"),
        ev.StrategyStopped(at=at(0), name="t", how="cancelled"),
        ev.StrategyStopped(at=at(0), name="u", how="returned"),
        ev.LibraryFault(at=at(0), logger="ib_insync.Decoder", text="?"),
        ev.RecoveryStep(at=at(0), rung="probe", why="silent for 61 s: AAPL"),
        ev.RecoveryStep(at=at(0), rung="rest", why="silent for 300 s: AAPL; nothing has helped"),
    ):
        notices.apply(fact)
    assert titles(notices, 0) == [
        "account DU1234567 in quarantine",
        "halt by ann",
        "strategy s was stopped: failed",
        "a library reports an error: ib_insync.Decoder",
        "data is silent and nothing helps: look at the gateway",
    ]
    assert titles(notices, 1, refuses=True) == ["the journal refuses writes"]
    assert titles(notices, 2, refuses=True) == []
    assert titles(notices, 3) == ["the journal takes writes again"]


def test_only_what_is_wanted_is_told():
    """By kind."""
    notices = Notices(told(on=frozenset({"halt"})))
    notices.apply(ev.StrategyStopped(at=at(0), name="s", how="failed"))
    notices.apply(ev.OperatorSaid(at=at(0), verb="halt", by="ann"))
    assert titles(notices, 0, refuses=True) == ["halt by ann"]


def test_what_is_too_much_is_counted_and_told_with_the_next():
    """The newest in full, of the rest how many there were; each kind by itself."""
    notices = Notices(told())
    for number in range(10):
        notices.apply(ev.LibraryFault(at=at(number), logger=f"l{number}", text="?"))
        assert len(titles(notices, number)) == (number < MAX)
    notices.apply(ev.OperatorSaid(at=at(20), verb="halt", by="ann"))
    assert titles(notices, 20) == ["halt by ann"]
    assert titles(notices, HOUR.total_seconds() - 1) == []
    (late,) = notices.due(at(HOUR.total_seconds()), journal_refuses=False)
    assert late.title == "a library reports an error: l9"
    assert "6 more of this kind, since 2026-11-23 15:00:03 UTC, were held back before it" in late.text


@given(st.lists(st.tuples(st.integers(0, 1200), st.integers(1, 4)), max_size=60))
def test_never_more_than_so_many_within_an_hour_and_none_is_lost(moments):
    """Whatever the storm: each is told, or counted in one that is."""
    notices, now, sent, said = Notices(told()), 0, [], 0
    for wait_s, count in moments:
        now += wait_s
        for _ in range(count):
            notices.apply(ev.OperatorSaid(at=at(now), verb="halt", by="x"))
            said += 1
        sent += [(now, notice) for notice in notices.due(at(now), journal_refuses=False)]
    for _ in range(2):
        now += 3600
        sent += [(now, notice) for notice in notices.due(at(now), journal_refuses=False)]
    counted = sum(1 + (int(n.text.split(" more of this kind")[0]) if "held back" in n.text else 0) for _, n in sent)
    assert counted == said
    times = [moment for moment, _ in sent]
    assert all(sum(first <= other < first + 3600 for other in times) <= MAX for first in times)
    assert {notice.kind for _, notice in sent} <= set(KINDS)
