"""What a desk is connected to: the narrow things that the session provides, and a desk knows only by their shape.

Orders and questions leave through a `Wire`, quotes are asked for of a `Watching`; `broker/` satisfies both without
either knowing the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from ibkr_service.core import events as ev
from ibkr_service.core.chain import ChainRequest, OptionChain
from ibkr_service.core.combination import Spread
from ibkr_service.core.hours import Hours
from ibkr_service.core.increments import Increments
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.intent import Traded
from ibkr_service.core.orders import Intent, Order
from ibkr_service.core.preview import Preview
from ibkr_service.mailbox import Stream
from ibkr_service.marketdata import PastData, Streaming

TickItem = ev.RawTick | ev.Gap | ev.Resumed | ev.SubscriptionFailed | ev.SubscriptionWaiting


class Wire(Protocol):
    """The narrow thing a desk places orders on.

    What is synchronous acts at once or not at all.
    """

    def check_can_place(self, count: int) -> None:
        """Raises `NotReady` or `Paced` if so many orders cannot leave now."""
        ...

    def reserve(self, account: str) -> tuple[str, int, int]:
        """Account (empty: the default), order id and connection of the next order; raises as `check_can_place`."""
        ...

    def place(self, order: Order | ev.OrderSubmitted) -> tuple[int, int]:
        """Send what is journalled; returns (order id, connection number). Raises `NotReady` or `Paced` if not sent."""
        ...

    def place_bracket(self, orders: Sequence[Order]) -> list[tuple[int, int]]:
        """Send an entry and its exits together; as `place`. Raises `NotReady` or `Paced` if none was sent."""
        ...

    def check_can_modify(self, order: Order) -> None:
        """Raises `NotReady` or `Paced` if a change of this order cannot leave now."""
        ...

    def modify(self, order: Order, intent: Intent) -> None:
        """Send new terms of an order. Raises `NotReady` or `Paced` if they were not sent."""
        ...

    def check_fields(self, intent: Intent) -> None:
        """Raises `InvalidIntent` if a further field does not exist or cannot be set."""
        ...

    def increments(self, traded: Traded) -> Increments | None:
        """At which prices it can trade, as far as that is known."""
        ...

    async def learn_legs(self, spread: Spread) -> None:
        """Ask for what a spread needs to be ordered, once."""
        ...

    def check_legs(self, spread: Spread) -> None:
        """Raises `InvalidIntent` if that was not asked for."""
        ...

    async def learn_increments(self, instrument: AnyInstrument) -> None:
        """Ask for them, once."""
        ...

    def hours(self, instrument: AnyInstrument) -> Hours | None:
        """When it trades, as far as that is known."""
        ...

    async def learn_hours(self, instrument: AnyInstrument) -> None:
        """Ask for them, again if they are old."""
        ...

    async def preview(self, intent: Intent, timeout_s: float) -> Preview:
        """What an order would do to its account."""
        ...

    def cancel(self, order: Order) -> bool:
        """Send a cancellation; False if that is not possible now."""
        ...

    async def con_id(self, instrument: AnyInstrument) -> int:
        """The broker's id of an instrument."""
        ...

    async def first_quote(self, instrument: AnyInstrument, timeout_s: float, settle_s: float = 0.0) -> ev.Tick:
        """One usable quote."""
        ...

    async def request(self, name: str, *arguments: object, timeout_s: float | None = None, **options: object) -> Any:  # noqa: ANN401 - as many shapes as requests
        """Any read-only request of ib_insync."""
        ...

    async def option_chain(self, wanted: ChainRequest) -> OptionChain:
        """A chain with quotes and greeks."""
        ...

    @property
    def history(self) -> PastData:
        """Where history is asked for."""
        ...

    @property
    def streams(self) -> Streaming:
        """Where streams other than quotes are opened."""
        ...


class Watching(Protocol):
    """Where market data is asked for."""

    def watch(self, instrument: AnyInstrument) -> ev.Tick | None:
        """One more watcher; the newest quote if there is one already."""
        ...

    def unwatch(self, instrument: AnyInstrument) -> None:
        """One watcher less."""
        ...

    def why_no_quote(self, instrument: AnyInstrument) -> str:
        """What keeps a quote of it from coming, in words."""
        ...

    def every_tick(self, instrument: AnyInstrument, unread_max: int) -> Stream[TickItem]:
        """Each tick by itself."""
        ...
