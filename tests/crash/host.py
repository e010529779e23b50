"""The gateway of a crash campaign, in a process of its own that survives the daemons, and can be asked over a pipe.

It keeps its own record of what arrived: every new order by order id and `orderRef`, in the order of arrival.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from decimal import Decimal
from multiprocessing.connection import Connection
from typing import Any

from ibkr_service.sim.config import GatewayConfig
from ibkr_service.sim.contracts import COMBO_CON_ID, Contract, ContractSpec
from ibkr_service.sim.gateway import Gateway
from ibkr_service.sim.orders import Ticket
from ibkr_service.sim.server import Server
from ibkr_service.sim.testing import simulated_gateway
from tests.crash.plan import SPREAD

SPECS = {
    "AAPL": ContractSpec(symbol="AAPL", sec_type="STK", exchange="SMART", currency="USD"),
    "MSFT": ContractSpec(symbol="MSFT", sec_type="STK", exchange="SMART", currency="USD"),
    "EUR.USD": ContractSpec(symbol="EUR", sec_type="CASH", exchange="IDEALPRO", currency="USD"),
}
SPEED = 5.0  # the market's haste: orders reach it in 10 to 50 ms

IDS_BACK = 20  # in every other life the gateway hands out a next valid order id that is too low


@dataclass(frozen=True)
class Arrived:
    """A placeOrder that made a new order, or (`changes`) new terms of one that was there."""

    client_id: int
    order_id: int
    ref: str
    changes: bool


def main(pipe: Connection, seed: int) -> None:
    """Run a gateway until the pipe is closed."""
    asyncio.run(_main(pipe, seed))


async def _main(pipe: Connection, seed: int) -> None:
    async with simulated_gateway(GatewayConfig(seed=seed, speed=SPEED, checks_margin=False)) as server:
        if seed % 2 == 0:
            server.faults.roll_back_ids(IDS_BACK)
        arrived = _listen(server.gateway)
        prices = {symbol: _price(server.gateway, spec) for symbol, spec in SPECS.items()}
        legs = _legs(server.gateway, prices["AAPL"])
        prices[SPREAD] = (legs[1].strike - legs[0].strike) / 2
        pipe.send((server.port, prices, [f"AAPL {leg.expiry} {leg.strike:f} C" for leg in legs]))
        loop, asked = asyncio.get_running_loop(), asyncio.Event()
        loop.add_reader(pipe.fileno(), asked.set)
        while True:
            await asked.wait()
            asked.clear()
            while pipe.poll():
                try:
                    question = pipe.recv()
                except EOFError:
                    loop.remove_reader(pipe.fileno())
                    return
                if question == "quiet":
                    await _quiet(server)
                pipe.send(state_of(server.gateway, arrived, legs))


def _legs(gateway: Gateway, price: Decimal) -> tuple[Contract, Contract]:
    """Two calls with the money between them, of an expiry that no campaign lives to see."""
    calls = gateway.universe.find(ContractSpec(symbol="AAPL", sec_type="OPT", currency="USD", right="C"))
    expiries = sorted({call.expiry for call in calls})
    ladder = sorted((call for call in calls if call.expiry == expiries[-1]), key=lambda call: call.strike)
    below = [call for call in ladder if call.strike <= price][-1]
    above = next(call for call in ladder if call.strike > price)
    return below, above


async def _quiet(server: Server) -> None:
    """Wait until all bytes of clients that are gone have been read."""
    for connection in list(server.connections):
        await connection.lost.wait()


def _listen(gateway: Gateway) -> list[Arrived]:
    arrived: list[Arrived] = []
    exchange = gateway.exchange
    place, reject = exchange.place, exchange.reject

    def record(client_id: int, ticket: Ticket) -> None:
        known = (client_id, ticket.order_id) in exchange.orders
        arrived.append(Arrived(client_id, ticket.order_id, ticket.order_ref, known))

    def on_place(client_id: int, ticket: Ticket) -> None:
        record(client_id, ticket)
        place(client_id, ticket)

    def on_reject(client_id: int, ticket: Ticket, text: str) -> None:
        record(client_id, ticket)
        reject(client_id, ticket, text)

    exchange.place, exchange.reject = on_place, on_reject  # type: ignore[method-assign]  # a witness at the door
    return arrived


def _price(gateway: Gateway, spec: ContractSpec) -> Decimal:
    contract = gateway.universe.resolve(spec)
    quote = gateway.market.quote(contract)
    assert quote is not None, "markets are open"
    return quote.mid


def state_of(gateway: Gateway, arrived: list[Arrived], legs: tuple[Contract, Contract]) -> dict[str, Any]:
    """What the broker knows, as plain values."""
    contracts = {
        symbol: [(gateway.universe.resolve(spec).con_id, 1)]  # type: ignore[union-attr]  # no combos
        for symbol, spec in SPECS.items()
    }
    contracts[SPREAD] = [(legs[0].con_id, 1), (legs[1].con_id, -1)]
    executions = {}
    for execution in gateway.executions:
        traded = execution.instrument
        con_id = traded.con_id if isinstance(traded, Contract) else COMBO_CON_ID
        signed = execution.shares if execution.side == "BOT" else -execution.shares
        executions[execution.exec_id] = (execution.order.ticket.order_ref, con_id, signed)
    return {
        "arrived": tuple(arrived),
        "orders": {
            order.ticket.order_ref: (order.status.value, order.filled, order.status.is_done)
            for order in gateway.exchange.orders.values()
        },
        "executions": executions,
        "positions": {held.contract.con_id: held.quantity for held in gateway.positions() if held.quantity},
        "contracts": contracts,
    }
