"""The soak's own rules are ones that can fail; and a short soak, in real time, when asked for."""

from __future__ import annotations

import pytest

from tests.crash.checks import Facts
from tests.soak.rules import FILES_MORE, RSS_MAX_MB, Sample, differences, growth
from tests.soak.run import main, seconds

NOTHING = {"arrived": [], "orders": {}, "executions": [], "positions": {}, "lines": 3}


def samples(*rss_mb, files=20):
    return [Sample(10.0 * number, 0.0, each, files) for number, each in enumerate(rss_mb)]


def test_memory_that_warms_up_and_stays_is_flat():
    """Whatever it does in the first third, and however it wavers."""
    assert list(growth(samples(50, 70, 90, 100, 101, 100, 102, 101, 100))) == []


def test_memory_that_grows_is_told():
    """By more than five percent from third to third, or beyond all measure."""
    (breach,) = growth(samples(*range(100, 136, 4)))
    assert "memory grows" in breach
    (breach,) = growth(samples(*[RSS_MAX_MB + 1] * 9))
    assert "301 MB" in breach
    (breach,) = growth(samples(1, 2, 3))
    assert "too few" in breach


def test_files_that_stay_open_are_told():
    """A socket forgotten at each outage."""
    before, after = samples(*[100] * 6), samples(*[100] * 3, files=20 + FILES_MORE + 1)
    (breach,) = growth([*before, *after])
    assert "open files grow" in breach


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"lines": 2}, "2 market-data lines are open at the gateway, wanted are 3"),
        ({"executions": ["x"]}, "executions of journal and gateway differ"),
        ({"orders": {"r": ("Submitted", "0", False)}}, "r is at the gateway only"),
        ({"positions": {"1": "5"}}, "the gateway holds"),
        ({"arrived": [(1, 5, "r", False)]}, "r reached the gateway and is not in the journal"),
        ({"arrived": [(1, 5, "r", False), (1, 6, "r", False)]}, "r reached the gateway 2 times"),
    ],
)
def test_each_difference_is_told(changes, words):
    """An empty journal agrees with a gateway that knows nothing, and with no other."""
    assert list(differences(Facts(), NOTHING, 3)) == []
    assert any(words in breach for breach in differences(Facts(), NOTHING | changes, 3))


def test_how_long():
    """As people write it."""
    assert [seconds(text) for text in ("10m", "90s", "20", "1.5h")] == [600, 90, 20, 5400]


@pytest.mark.soak
@pytest.mark.timeout(300)
def test_a_short_soak_holds(capfd):
    """Each misfortune once, on real sockets and in real time; memory is for the long one."""
    assert main(["--for", "1s", "--quick"]) == 0
    assert "3 misfortunes, 0 breaches" in capfd.readouterr().out
