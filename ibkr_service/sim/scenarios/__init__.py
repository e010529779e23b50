"""Scenarios: what really happens to services like this one, as named scripts.

Each is one sentence, the public report of somebody's money or night lost, and a script that acts on the gateway at the
right moments. The same script runs live (`ibkr-service simulate --scenario NAME`) and in virtual time (a `World`).

    scenario.py   what a scenario is, and what a script holds in its hands
    line.py       the connection, the gateway, the line to Interactive Brokers
    orders.py     orders and fills
    requests.py   requests and limits

Whoever adds a section adds its module to `SECTIONS`.
"""

from typing import Final

from ibkr_service.sim.scenarios import line, orders, requests
from ibkr_service.sim.scenarios.scenario import Bystander, Client, Scenario, Stage

__all__ = ["SCENARIOS", "Bystander", "Client", "Scenario", "Stage", "named"]

SECTIONS: Final = {
    "the line": line.SCENARIOS,
    "orders and fills": orders.SCENARIOS,
    "requests and limits": requests.SCENARIOS,
}

SCENARIOS: Final = {scenario.name: scenario for scenarios in SECTIONS.values() for scenario in scenarios}
"""Every scenario by its name."""


def named(name: str) -> Scenario:
    """Find a scenario.

    Raises:
        ValueError: there is none of that name; the text says which there are.
    """
    try:
        return SCENARIOS[name]
    except KeyError:
        raise ValueError(f"no scenario is called {name!r}; there are {', '.join(SCENARIOS)}") from None
