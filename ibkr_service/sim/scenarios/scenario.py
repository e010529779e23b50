"""What a scenario is, and what its script holds in its hands: the `Stage`.

A script begins when the gateway listens, before any client has logged on, so that it can prepare. It waits in gateway
time or for occasions ("the next order"), acts through `Faults`, and ends when it has nothing more to do; it may be
cancelled at any moment.
"""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol

from ibkr_service.sim.config import GatewayConfig
from ibkr_service.sim.contracts import Contract
from ibkr_service.sim.messages import Request, named
from ibkr_service.sim.occasions import EXECUTION, LOGIN, ORDER
from ibkr_service.sim.orders import Execution, Order
from ibkr_service.sim.server import Server


class Client(Protocol):
    """What a script may do to the machine that the client runs on. A rehearsal does it; a bystander says it."""

    def fill_disk(self) -> None:
        """From now on nothing can be written there."""

    def free_disk(self) -> None:
        """There is room again."""

    async def kill(self) -> None:
        """The client's process dies in this moment, without a last word."""

    async def start(self) -> None:
        """It is started again, on the disk that it left."""


class Bystander:
    """For a gateway whose clients are out of reach: says what a person would have to do.

    Args:
        say: takes one line.
    """

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say

    def fill_disk(self) -> None:
        """Ask for a full disk."""
        self._say("now let the client's disk be full")

    def free_disk(self) -> None:
        """Ask for room on the disk."""
        self._say("now let the client's disk have room again")

    async def kill(self) -> None:
        """Ask for the client's end."""
        self._say("now kill the client (kill -9)")

    async def start(self) -> None:
        """Ask for a new client."""
        self._say("now start the client again")


class Stage:
    """What a script acts upon.

    Args:
        server: the gateway on its socket.
        client: the machine of the client.
    """

    def __init__(self, server: Server, client: Client) -> None:
        self.server = server
        self.gateway = server.gateway
        self.faults = server.faults
        self.client = client
        self._whiles = 0

    @property
    def now(self) -> datetime:
        """Gateway time."""
        return self.gateway.clock.now()

    async def sleep(self, seconds: float) -> None:
        """Let gateway seconds pass."""
        over = asyncio.Event()
        self.gateway.clock.call_later(seconds, over.set)
        await over.wait()

    async def sleep_until(self, moment: datetime) -> None:
        """Let gateway time pass until a moment; none, if it is over."""
        await self.sleep(max(0.0, (moment - self.now).total_seconds()))

    async def a_while(self, least_s: float = 20.0, most_s: float = 120.0) -> None:
        """Let some gateway seconds pass: how many says the gateway's seed, so that each strikes at another moment."""
        self._whiles += 1
        await self.sleep(self.gateway.chance.between(least_s, most_s, f"scenario:{self._whiles}"))

    async def next_login(self) -> None:
        """Wait until a client's session begins."""
        await self.gateway.occasions.next(LOGIN)

    async def in_the_middle(self, within_s: float = 120.0) -> None:
        """Wait for the next order, so as to strike in the middle of it; no longer than this, if none comes."""
        with suppress(TimeoutError):
            async with asyncio.timeout(within_s / self.gateway.config.speed):
                await self.next_order()

    def fill_one(self) -> None:
        """Fill an order that rests, if there is one: the first of a single contract that depends on no other."""
        for order in self.gateway.open_orders:
            ticket = order.ticket
            if isinstance(order.instrument, Contract) and not ticket.parent_id and not ticket.oca_group:
                self.faults.fill(order)
                return

    async def next_order(self) -> Order:
        """Wait for the next order that the broker takes, of any client."""
        order: Order = await self.gateway.occasions.next(ORDER)
        return order

    async def next_execution(self) -> Execution:
        """Wait for the next execution, of any client."""
        execution: Execution = await self.gateway.occasions.next(EXECUTION)
        return execution

    async def next_request(self, request: str | int) -> None:
        """Wait until a client asks for something, by the request's name or number, be it ignored or not."""
        await self.gateway.occasions.next(named(Request, request))

    async def lose_line(self, away_s: float) -> None:
        """Drop all clients and refuse them for so long."""
        self.faults.refuse()
        self.faults.drop()
        await self.sleep(away_s)
        await self.faults.accept()


Script = Callable[[Stage], Awaitable[None]]


@dataclass(frozen=True)
class Scenario:
    """A misfortune with a name.

    Args:
        name: what it is called on the command line.
        sentence: what happens.
        source: who was hit by it; empty where the reason is plain.
        script: what makes it happen.
        gateway: fields of `GatewayConfig` that it needs.
        settings: what the service has to be told, by dotted key, as on its command line.
        lasts_s: how long it may take, in gateway seconds.
        ends: the exit code with which the service has to end by itself; None if it has to live on.
    """

    name: str
    sentence: str
    source: str
    script: Script
    gateway: Mapping[str, Any] = field(default_factory=dict)
    settings: Mapping[str, Any] = field(default_factory=dict)
    lasts_s: float = 1800.0
    ends: int | None = None

    def __str__(self) -> str:
        return f"{self.name}: {self.sentence}"

    def config(self, **known: Any) -> GatewayConfig:  # noqa: ANN401  the fields are as various as the class's
        """The gateway that it plays on; what it needs comes before what is wished."""
        return GatewayConfig(**{**known, **self.gateway})

    async def play(self, server: Server, client: Client) -> None:
        """Run the script to its end."""
        await self.script(Stage(server, client))
