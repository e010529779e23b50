"""A stream's pulse: what is silence for it, and what is only its pace."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.pulse import BEATS_MIN, FACTOR, PATIENCE_BEATS, PATIENCE_MAX, PROOF_BEATS, REACH, Pulse

STATED_S = 60.0


def beating(every_s, beats=BEATS_MIN):
    """A pulse that beat so often, and when it did last."""
    pulse, now_s = Pulse(0, 0.0), 0.0
    for mark in range(1, beats + 1):
        now_s += every_s
        assert pulse.take(mark, now_s)
    return pulse, now_s


def test_a_lively_stream_has_the_stated_limit():
    """However fast it is."""
    for every_s in (1.0, 5.0, 15.0):
        pulse, now_s = beating(every_s)
        assert pulse.limit_s(STATED_S) == STATED_S
        assert pulse.age_s(now_s + 61) == 61


def test_a_slower_stream_has_more_and_the_silence_of_a_slow_one_says_little():
    """An option that is quoted every five minutes says nothing by a pause of ten."""
    pulse, _ = beating(30.0)
    assert (pulse.has_pace(STATED_S), pulse.limit_s(STATED_S)) == (True, FACTOR * 30)
    slow_s = REACH * STATED_S / FACTOR + 1
    pulse, _ = beating(slow_s)
    assert (pulse.has_pace(STATED_S), pulse.limit_s(STATED_S)) == (False, FACTOR * slow_s)


def test_a_stream_of_which_little_is_known_has_long():
    """It may have ticked once, at the subscription, and never again; or it was forgotten in its first minute."""
    assert Pulse(None, 0.0).limit_s(STATED_S) is None
    for beats in range(1, BEATS_MIN):
        pulse, now_s = beating(1.0, beats)
        assert (pulse.has_pace(STATED_S), pulse.limit_s(STATED_S)) == (False, REACH * STATED_S)
    pulse.ask()
    pulse.take("from the cache", now_s + 300)
    assert pulse.limit_s(STATED_S) == 2 * REACH * STATED_S, "each time in vain, it is asked for more seldom"


def test_a_lull_is_forgotten():
    """A pause of an hour ago does not blind for ever."""
    pulse, now_s = beating(5.0)
    pulse.take("after a lull", now_s + 200)
    assert pulse.limit_s(STATED_S) == FACTOR * 200
    for beat in range(60):
        pulse.take(beat, now_s + 205 + 5 * beat)
    assert pulse.limit_s(STATED_S) == STATED_S


def test_rest_is_no_age_and_teaches_nothing():
    """A night between two beats is not its pace."""
    pulse, now_s = beating(5.0)
    pulse.rest("the same", now_s + 60_000)
    assert pulse.age_s(now_s + 60_005) == 5
    pulse.take("morning", now_s + 60_005)
    assert pulse.limit_s(STATED_S) == STATED_S


def test_the_time_in_which_nobody_listened_is_no_age():
    """Our own loop stood still."""
    pulse, now_s = beating(5.0)
    pulse.excuse(15.0)
    assert pulse.age_s(now_s + 20) == 5


def test_who_answers_a_new_request_has_to_prove_itself_and_is_given_twice_the_time():
    """The first answer may come from a cache, and it may only have been quiet; a steady flow earns the trust back."""
    pulse, now_s = beating(5.0)
    pulse.ask()
    assert pulse.take("answer", now_s + 70)
    assert pulse.proof == PROOF_BEATS
    assert pulse.limit_s(STATED_S) == 2 * STATED_S
    for beat in range(PROOF_BEATS):
        pulse.take(("beat", beat), now_s + 75 + 5 * beat)
    assert pulse.proof == 0
    for beat in range(PATIENCE_BEATS):
        pulse.take(("later", beat), now_s + 100 + 5 * beat)
    assert pulse.limit_s(STATED_S) == STATED_S


moves = st.lists(
    st.tuples(st.sampled_from(["take", "same", "none", "rest", "wait", "ask", "excuse"]), st.floats(0.1, 500.0)),
    max_size=60,
)


@given(moves)
def test_whatever_it_lives_through_its_limit_is_never_below_the_stated_one(lived):
    """Nor is its age ever negative, or more than the time since it was made."""
    pulse, now_s = Pulse(None, 0.0), 0.0
    for number, (move, seconds) in enumerate(lived):
        now_s += seconds
        match move:
            case "take":
                assert pulse.take(number, now_s)
                assert pulse.is_living(now_s)
            case "same":
                assert not pulse.take(pulse._mark, now_s)
            case "none":
                assert not pulse.take(None, now_s)
            case "rest":
                pulse.rest(None, now_s)
            case "wait":
                pulse.wait(now_s)
            case "ask":
                pulse.ask()
            case _:
                pulse.excuse(seconds)
        limit_s = pulse.limit_s(STATED_S)
        slowest_s = max(REACH * STATED_S, FACTOR * pulse.usual_s)
        assert limit_s is None or STATED_S <= limit_s <= slowest_s * PATIENCE_MAX
        assert 0 <= pulse.age_s(now_s) <= now_s
        assert (limit_s is None) == (pulse.beats == 0)
        assert limit_s is None or pulse.has_pace(STATED_S) or limit_s >= REACH * STATED_S
