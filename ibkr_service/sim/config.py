"""What a simulated gateway is: plain values with honest defaults."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, time
from decimal import Decimal
from typing import Final

from ibkr_service.sim.accounts import STARTING_CASH
from ibkr_service.sim.calendars import HOURS
from ibkr_service.sim.latency import Range, ranges_of
from ibkr_service.sim.replay import ReplayFile

DEFAULT_STARTED_AT: Final = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
"""A Monday, 9:30 in New York: tests need no other."""

PERMISSIONS: Final = ("live", "delayed", "none")
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
        data_permission: ``live``; ``delayed``: live market data is refused, delayed is not; or ``none``.
        history_is_paced: whether IB's limits on requests for small bars hold.
        market_data_lines_max: IB's cap on concurrent market data subscriptions.
        requests_per_second_max: IB's cap on a client's messages; 0 for none.
        write_buffer_bytes_max: a client whose unread answers exceed this is dropped.
        quote_interval_s: how often changes of quotes are told, all together, to clients and to working orders, in
            gateway seconds; 0 tells every one in its time.
        latency: request name or ``*`` → least and most gateway seconds that the gateway takes to answer it.
        greeks_delay_s: least and most gateway seconds from a subscription to an option's first greeks, which real ones
            take to compute.
        greeks_interval_s: least gateway seconds from one line's greeks to its next; 0 tells them with every quote.
        profit_interval_s: how often profit and loss are looked at, in gateway seconds.
        hours: ``always``: markets never close; ``real``: they keep the exchanges' hours and holidays.
        checks_margin: reject orders that the account's equity does not cover.
        price_percentage_max: refuse limits farther than this from the market (109), as TWS's presets do; None for none.
        hard_to_borrow: symbols whose short sales wait until the stock is located (404).
        locate_s: how long that takes.
        command_port: where a command server such as IBC's listens; 0 takes a free port; None: there is none.
        nightly_reset: when, New York's time, the gateway loses IB and restarts, as real ones do; None for never.
    """

    seed: int = 0
    started_at: datetime = DEFAULT_STARTED_AT
    speed: float = 1.0
    accounts: tuple[str, ...] = ("DU1234567",)
    cash: Decimal = STARTING_CASH
    replay: tuple[ReplayFile, ...] = ()
    read_only: bool = False
    master_client_id: int | None = None
    data_permission: str = "live"
    history_is_paced: bool = True
    market_data_lines_max: int = 100
    requests_per_second_max: int = 50
    write_buffer_bytes_max: int = WRITE_BUFFER_BYTES_MAX
    quote_interval_s: float = 0.0
    latency: Mapping[str, Range] = field(default_factory=dict, hash=False)
    greeks_delay_s: Range = (0.0, 0.0)
    greeks_interval_s: float = 0.0
    profit_interval_s: float = 1.0
    hours: str = "always"
    checks_margin: bool = True
    price_percentage_max: Decimal | None = None
    hard_to_borrow: tuple[str, ...] = ()
    locate_s: float = 60.0
    nightly_reset: time | None = None
    command_port: int | None = None

    def __post_init__(self) -> None:
        if self.data_permission not in PERMISSIONS:
            raise ValueError(f"permissions are {', '.join(PERMISSIONS)}, not {self.data_permission!r}")
        if not self.accounts or any(not code for code in self.accounts):
            raise ValueError("a gateway needs an account")
        if len(set(self.accounts)) != len(self.accounts):
            raise ValueError("an account is named twice")
        ranges_of(self.latency)
        if not 0 <= self.quote_interval_s < float("inf"):
            raise ValueError(f"quote_interval_s is a number of seconds, not {self.quote_interval_s}")
        if not 0 <= self.greeks_delay_s[0] <= self.greeks_delay_s[1] < float("inf"):
            raise ValueError(f"greeks_delay_s goes from 0 up, not {self.greeks_delay_s}")
        if not 0 <= self.greeks_interval_s < float("inf"):
            raise ValueError(f"greeks_interval_s is a number of seconds, not {self.greeks_interval_s}")
        if not 0 < self.profit_interval_s < float("inf"):
            raise ValueError(f"profit_interval_s is a positive number of seconds, not {self.profit_interval_s}")
        if self.hours not in HOURS:
            raise ValueError(f"hours are {' or '.join(HOURS)}, not {self.hours!r}")
