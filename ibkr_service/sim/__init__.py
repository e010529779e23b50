"""A TWS of our own: a simulated Interactive Brokers gateway on the real wire protocol.

    bytes ─▶ server ─▶ session ─▶ gateway ─▶ marketdata · orderdesk · backoffice · reference     (what TWS would answer)
                                                 │            │           │
                                              market ◀── exchange ──▶ accounts, valuation        (what happens at IB)
                                                 │
                                    walk · replay ─▶ pricing                                     (where prices come
                                    from)

It shares nothing with the service that it tests, so that their mistakes cannot agree. It reads no clock and draws no
chance of its own: time is the running loop's, chance is the seed's.
"""

from ibkr_service.sim.config import GatewayConfig
from ibkr_service.sim.faults import Faults
from ibkr_service.sim.gateway import Gateway
from ibkr_service.sim.replay import ReplayError, ReplayFile
from ibkr_service.sim.server import Server, run_gateway, serve

__all__ = ["Faults", "Gateway", "GatewayConfig", "ReplayError", "ReplayFile", "Server", "run_gateway", "serve"]
