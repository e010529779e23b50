"""What a simulated gateway is: plain values with honest defaults."""

from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal
from typing import Final

from ibkr_service.sim.accounts import STARTING_CASH
from ibkr_service.sim.replay import ReplayFile

DEFAULT_STARTED_AT: Final = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
"""A Monday, 9:30 in New York: tests need no other."""

WRITE_BUFFER_BYTES_MAX: Final = 8 << 20
"""A client that lets this much pile up has stopped reading."""


@dataclass(frozen=True, slots=True)
class GatewayConfig:
    """A simulated gateway.

    Args:
        seed: chooses prices, delays and ids; the same seed and the same requests give the same answers.
        started_at: the gateway's date and time, aware, at its start; a recording's first stamp takes its place.
        speed: gateway seconds per second.
        accounts: account codes; paper accounts begin with D.
        cash: what each account starts with, in US dollars.
        replay: recordings to play.
        read_only: refuse everything about orders, as a gateway with "Read-Only API" does.
        master_client_id: the client that sees every client's orders and fills.
        market_data_lines_max: IB's cap on concurrent market data subscriptions.
        requests_per_second_max: IB's cap on a client's messages; 0 for none.
        write_buffer_bytes_max: a client whose unread answers exceed this is dropped.
    """

    seed: int = 0
    started_at: datetime = DEFAULT_STARTED_AT
    speed: float = 1.0
    accounts: tuple[str, ...] = ("DU1234567",)
    cash: Decimal = STARTING_CASH
    replay: tuple[ReplayFile, ...] = ()
    read_only: bool = False
    master_client_id: int | None = None
    market_data_lines_max: int = 100
    requests_per_second_max: int = 50
    write_buffer_bytes_max: int = WRITE_BUFFER_BYTES_MAX

    def __post_init__(self) -> None:
        if not self.accounts or any(not code for code in self.accounts):
            raise ValueError("a gateway needs an account")
        if len(set(self.accounts)) != len(self.accounts):
            raise ValueError("an account is named twice")
