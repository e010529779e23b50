"""The recovery ladder: which step is next, how often each may be taken, and where it ends."""

from __future__ import annotations

from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.ladder import (
    COMMANDS,
    CUT_S,
    CUT_UNSAID_S,
    EVERY_S,
    FOR_DATA,
    GIVEN_UP_MAX,
    GIVEN_UP_WITHIN_S,
    REST_S,
    RUNGS,
    SESSION_EVERY_S,
    WAIT_S,
    Ladder,
    Rung,
    Scene,
    Silent,
)

ALL = frozenset(COMMANDS)
LOOK_S = 5.0


def silent(name, farm="usfarm", *, is_expected=True, was_asked=False, has_pace=True):
    return Silent(name, name, farm, 61.0, is_expected, was_asked, has_pace)


A, B, EUR = silent("A"), silent("B"), silent("EUR.USD", "cashfarm")
DEAD = Scene((A, B))


def climb(ladder, scene, seconds, start_s=0.0):
    """The steps of so long a time of one and the same scene, with their times."""
    steps, now_s = [], start_s
    while now_s <= start_s + seconds:
        step = ladder.next(now_s, scene)
        if step is not None:
            steps.append((now_s, step))
        now_s += LOOK_S
    return steps


def rungs(steps):
    return [step.command or step.rung.value for _, step in steps]


def test_a_dead_farm_climbs_rung_by_rung_and_then_rests():
    """Each rung once, in order, each with its time; the liveliest stream first, then all; then a person is told."""
    steps = climb(Ladder(ALL), DEAD, 600)
    assert rungs(steps) == [
        *("probe", "resubscribe one", "resubscribe farm", "new session", "RECONNECTDATA", "RESTART", "rest")
    ]
    assert [step.streams for _, step in steps[:3]] == [(), (A,), (A, B)]
    for (sooner_s, step), (later_s, _) in pairwise(steps):
        assert later_s - sooner_s >= WAIT_S[step.rung]


def test_what_may_only_be_quiet_is_asked_for_anew_and_no_more():
    """One first, then all; nothing is said to be untrue meanwhile. What does not even answer that is dead."""
    quiet = silent("far option", has_pace=False)
    steps = climb(Ladder(ALL), Scene((quiet,)), 200)
    assert rungs(steps) == ["probe", "resubscribe one", "resubscribe farm"]
    assert [step.doubted for _, step in steps] == [(), (), ()]
    vain = silent("far option", has_pace=False, was_asked=True)
    assert "new session" in rungs(climb(Ladder(ALL), Scene((vain,)), 200))


def test_without_a_controller_the_new_session_is_the_last_rung():
    """It says so, and begins again after five minutes, ten, twenty … an hour at most."""
    steps = climb(Ladder(), DEAD, 24 * 3600)
    assert rungs(steps[:5]) == ["probe", "resubscribe one", "resubscribe farm", "new session", "rest"]
    rests = [at_s for at_s, step in steps if step.rung is Rung.REST]
    waits = [later - sooner for sooner, later in pairwise(rests)]
    assert waits == sorted(waits)
    assert waits[0] >= REST_S
    assert waits[-1] <= 3600 + sum(WAIT_S.values()) + 5 * LOOK_S
    assert len(steps) <= 24 * 5


def test_streams_whose_farm_ticks_are_asked_for_anew_and_no_more():
    """Nobody is told: they may only be quiet."""
    steps = climb(Ladder(ALL), Scene((A, B), living=frozenset({"usfarm"})), 3600)
    assert set(rungs(steps)) == {"probe", "resubscribe one", "resubscribe farm"}


def test_one_stream_is_not_asked_for_twice_in_a_row():
    """The farm's rung is for those that were not asked for yet."""
    ladder = Ladder()
    assert ladder.next(0.0, Scene((A,))).rung is Rung.PROBE
    assert ladder.next(10.0, Scene((A,))).rung is Rung.RESUBSCRIBE_ONE
    assert ladder.next(30.0, Scene((silent("A", was_asked=True),))).rung is Rung.NEW_SESSION


def test_a_farm_that_is_announced_to_be_down_is_waited_for():
    """The broker will say when it is back."""
    steps = climb(Ladder(ALL), Scene((A, EUR), is_announced=True), 3600)
    assert set(rungs(steps)) == {"probe", "resubscribe one", "resubscribe farm"}


def test_streams_of_unknown_hours_are_worth_a_probe():
    """And no more."""
    assert set(rungs(climb(Ladder(ALL), Scene((silent("X", is_expected=False),)), 3600))) == {"probe"}


def test_nothing_happens_in_a_restart_window():
    """Whatever is silent, given up or cut."""
    ladder = Ladder(ALL)
    assert climb(ladder, Scene((A, B), at_rest=True), 3600) == []
    assert [ladder.lost(float(n), at_rest=True) for n in range(10)] == [None] * 10
    assert ladder.cut(0.0, 10 * CUT_S, 10 * CUT_UNSAID_S, at_rest=True) is None


def test_it_begins_at_the_bottom_when_what_was_silent_flows():
    """Not before: a first answer may come from a cache."""
    ladder = Ladder(ALL)
    climb(ladder, DEAD, 30)
    assert ladder.rung is not None
    assert ladder.next(35.0, Scene(is_unproven=True)) is None
    assert ladder.rung is not None
    assert ladder.next(40.0, Scene()) is None
    assert ladder.rung is None
    assert ladder.next(45.0, DEAD).rung is Rung.PROBE


def test_a_gateway_that_is_given_up_again_and_again_is_restarted():
    """The third time in a quarter of an hour; once an hour; not at all if that is not allowed."""
    ladder = Ladder(ALL)
    found = [ladder.lost(n * 40.0, at_rest=False) for n in range(60)]
    commands = [(n, step.command) for n, step in enumerate(found) if step is not None]
    assert commands == [(GIVEN_UP_MAX - 1, "RESTART")]
    slow = [Ladder(ALL).lost(n * GIVEN_UP_WITHIN_S, at_rest=False) for n in range(10)]
    assert slow == [None] * 10
    none = Ladder(frozenset({"RECONNECTDATA"}))
    assert [none.lost(float(n), at_rest=False) for n in range(10)] == [None] * 10


def test_a_gateway_that_stays_cut_is_told_to_reconnect_now_and_then():
    """After ten minutes, and every half hour."""
    ladder = Ladder(ALL)
    said = [n for n in range(7200) if ladder.cut(float(n), float(n), 1.0, at_rest=False) is not None]
    assert said == [600, 2400, 4200, 6000]


def test_a_gateway_that_does_not_repeat_that_it_is_cut_is_asked_by_a_new_session():
    """Which it tells anew, if it still is."""
    ladder = Ladder()
    assert ladder.cut(0.0, 10 * CUT_S, CUT_UNSAID_S - 1, at_rest=False) is None
    step = ladder.cut(1.0, 10 * CUT_S, CUT_UNSAID_S, at_rest=False)
    assert (step.rung, step.command) == (Rung.NEW_SESSION, None)
    assert "15 minutes ago" in step.why


def test_what_an_earlier_process_asked_for_counts():
    """A restart half an hour ago, before the service was started: not again yet."""
    assert "RESTART" not in rungs(climb(Ladder(ALL, {"RESTART": -1800.0}), DEAD, 1200))
    assert "RESTART" in rungs(climb(Ladder(ALL, {"RESTART": -1800.0}), DEAD, 7200))


streams = st.builds(
    silent,
    st.sampled_from("ABCDE"),
    st.sampled_from(["usfarm", "cashfarm"]),
    is_expected=st.booleans(),
    was_asked=st.booleans(),
    has_pace=st.booleans(),
)
scenes = st.builds(
    Scene,
    st.lists(streams, max_size=4).map(tuple),
    living=st.frozensets(st.sampled_from(["usfarm", "cashfarm"])),
    is_unproven=st.booleans(),
    is_announced=st.booleans(),
    at_rest=st.booleans(),
)
moments = st.tuples(
    st.sampled_from(["look", "look", "look", "lost", "cut"]), st.sampled_from([5.0, 20.0, 300.0, 2000.0]), scenes
)


def advanced(ladder, what, now_s, scene):
    """The step that follows from what happens."""
    match what:
        case "look":
            return ladder.next(now_s, scene)
        case "lost":
            return ladder.lost(now_s, at_rest=scene.at_rest)
        case _:
            return ladder.cut(now_s, now_s, now_s, at_rest=scene.at_rest)


def check_step(step, before, scene):
    """A step for what is silent fits what is to be seen, and is above the one before."""
    assert scene.silent
    assert step.command is None or step.command in FOR_DATA
    assert all(one.is_expected for one in step.streams)
    if step.rung in {Rung.NEW_SESSION, Rung.CONTROLLER, Rung.REST}:
        assert any(one.is_expected and one.is_telling and one.farm not in scene.living for one in scene.silent)
        assert not scene.is_announced
    if step.rung in RUNGS and before in RUNGS and step.rung is not Rung.CONTROLLER:
        assert RUNGS.index(step.rung) > RUNGS.index(before)


@given(commands=st.frozensets(st.sampled_from(COMMANDS)), moments=st.lists(moments, max_size=80))
def test_whatever_happens_each_rung_is_bounded(commands, moments):
    """No command that is not allowed, too soon or in a window; no session for what lives or was announced."""
    ladder, now_s = Ladder(commands), 0.0
    taken, said, sessions = [], {command: [] for command in COMMANDS}, []
    for what, seconds, scene in moments:
        now_s += seconds
        before = ladder.rung
        step = advanced(ladder, what, now_s, scene)
        if step is None:
            continue
        assert not scene.at_rest
        if step.command is not None:
            assert step.rung is Rung.CONTROLLER
            assert step.command in commands
            said[step.command].append(now_s)
        if what == "look":
            check_step(step, before, scene)
            taken.append(now_s)
        if step.rung is Rung.NEW_SESSION:
            sessions.append(now_s)
    assert all(later - sooner >= min(WAIT_S.values()) for sooner, later in pairwise(taken))
    assert all(later - sooner >= SESSION_EVERY_S for sooner, later in pairwise(sessions))
    for command, times in said.items():
        assert all(later - sooner >= EVERY_S[command] for sooner, later in pairwise(times))
