"""What `run` prints for a person who watches: a line per turn of events, and a table of positions at the end."""

from __future__ import annotations

from decimal import Decimal

from rich.console import Console
from rich.table import Table

from ibkr_service.app import App
from ibkr_service.core import events as ev
from ibkr_service.core.orders import UNCERTAIN
from ibkr_service.log import mask_account


class Story:
    """Prints events as they are recorded.

    Args:
        console: where to.
    """

    def __init__(self, console: Console) -> None:
        self.fills = 0
        self._console = console
        self._ticks = 0

    def announce(self, seed: int) -> None:
        """Say that nothing here is real."""
        self._console.print(
            f"trading on an embedded simulated gateway (seed {seed}); no account is touched", highlight=False
        )

    def tell(self, event: ev.Event) -> None:  # noqa: C901 - one row per kind of event, as in a table
        """Print an event if it is part of the story."""
        match event:
            case ev.SessionOpened():
                account = mask_account(event.account)
                self._say(event, f"connected: account {account}, server version {event.server_version}")
            case ev.LinkChanged():
                self._say(event, f"link {event.before.name} -> {event.after.name}: {event.why}")
            case ev.StrategyStarted():
                self._say(event, f"strategy {event.name} started")
            case ev.StrategyStopped():
                self._say(event, f"strategy {event.name} stopped: {event.how} {event.detail}")
            case ev.Tick():
                self._ticks += 1
                if self._ticks == 1:
                    self._say(event, f"first quote: {event.instrument} {event.bid} / {event.ask}")
            case ev.OrderSubmitted():
                self._say(event, f"order {event.intent}")
            case ev.OrderChanged() if event.after in UNCERTAIN:
                self._say(event, f"order {event.ref} is {event.after.name}: {event.why}")
            case ev.Fill():
                self.fills += 1
                self._say(event, f"fill  {event.action} {event.quantity} {event.instrument} at {event.price}")
            case ev.Gap() | ev.Resumed():
                self._say(event, f"{type(event).__name__.lower()} {event.instrument}")
            case _:
                pass

    def _say(self, event: ev.Event, text: str) -> None:
        self._console.print(f"{event.at:%H:%M:%S} {text}", highlight=False, soft_wrap=True)

    def end(self, app: App) -> None:
        """Print the positions and a line of figures."""
        book = app.book
        table = Table(title="Positions", title_justify="left")
        for column in ("account", "instrument", "quantity", "average cost", "last quote"):
            table.add_column(column, justify="left" if column in {"account", "instrument"} else "right")
        for held in book.positions.values():
            if held.quantity:
                quote = book.quotes.get(held.instrument)
                price = "" if quote is None or quote.mid is None else f"{quote.bid} / {quote.ask}"
                unit_cost = held.average_cost
                cost = "" if unit_cost is None else f"{unit_cost.quantize(Decimal('1e-6')).normalize():f}"
                table.add_row(mask_account(held.account), str(held.instrument), f"{held.quantity:f}", cost, price)
        self._console.print(table)
        self._console.print(
            f"{self._ticks} ticks, {self.fills} fills, journal {app.config.journal_path}", highlight=False
        )
