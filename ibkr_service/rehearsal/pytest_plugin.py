"""The fixture `ibkr_rehearsal` for users' tests: a strategy lives through an outage in virtual time, in a second.

Switch it on with ``pytest_plugins = ["ibkr_service.rehearsal.pytest_plugin"]`` in a conftest.py::

    def test_my_strategy_survives_the_night(ibkr_rehearsal):
        result = ibkr_rehearsal(my_strategy, name="nightly-restart", seed=3, params={"instrument": "AAPL"})
        assert result.passed, result.verdict

The test is a plain function: a rehearsal has an event loop of its own.
"""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from ibkr_service.core.risk import Limits
from ibkr_service.rehearsal.named import planned
from ibkr_service.rehearsal.plan import RANDOM, Plan
from ibkr_service.rehearsal.run import Company, Result, rehearse
from ibkr_service.supervisor import Strategy, StrategySpec

Rehearse = Callable[..., Result]


@pytest.fixture
def ibkr_rehearsal() -> Rehearse:
    """A function that rehearses a strategy; see `rehearsed`."""
    return rehearsed


def rehearsed(
    strategy: Strategy | None = None,
    *,
    name: str = RANDOM,
    seed: int = 1,
    plan: Plan | None = None,
    params: Mapping[str, Any] | None = None,
    limits: Limits | None = None,
) -> Result:
    """Rehearse, beside the strategy that trades in every rehearsal; the result has timeline and journal.

    Args:
        strategy: the user's own, or None. name, seed: of the rehearsal, as on the command line. plan: instead of these.
        params: the strategy's table of parameters. limits: risk limits, wide ones if left out.

    Raises:
        ValueError: no rehearsal has this name.
    """
    own = () if strategy is None else (StrategySpec("own", strategy, dict(params or {}), restart="on_failure"),)
    return rehearse(plan or planned(name)(seed), Company(own, limits=limits), keeps=True)
