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
from ibkr_service.sim.contracts import Contract, ContractSpec
from ibkr_service.sim.gateway import Gateway
from ibkr_service.sim.orders import Ticket
from ibkr_service.sim.server import Server
from ibkr_service.sim.testing import simulated_gateway

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
        pipe.send((server.port, {symbol: _price(server.gateway, spec) for symbol, spec in SPECS.items()}))
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
                pipe.send(state_of(server.gateway, arrived))


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


def state_of(gateway: Gateway, arrived: list[Arrived]) -> dict[str, Any]:
    """What the broker knows, as plain values."""
    symbols = {gateway.universe.resolve(spec).con_id: symbol for symbol, spec in SPECS.items()}  # type: ignore[union-attr]  # no combos
    executions = {}
    for execution in gateway.executions:
        assert isinstance(execution.instrument, Contract), "no combos are traded"
        signed = execution.shares if execution.side == "BOT" else -execution.shares
        executions[execution.exec_id] = (execution.order.ticket.order_ref, execution.instrument.con_id, signed)
    return {
        "arrived": tuple(arrived),
        "orders": {
            order.ticket.order_ref: (order.status.value, order.filled, order.status.is_done)
            for order in gateway.exchange.orders.values()
        },
        "executions": executions,
        "positions": {held.contract.con_id: held.quantity for held in gateway.positions() if held.quantity},
        "symbols": symbols,
    }
