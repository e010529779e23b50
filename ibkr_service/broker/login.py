"""What the session needs to know before it connects, and which account it may trade once it has."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from ibkr_service.controller import Controller
from ibkr_service.core.errors import AccountProblem, ModeMismatch
from ibkr_service.core.restartwindow import RestartWindow

Mode = Literal["simulated", "paper", "live"]


@dataclass(frozen=True)
class SessionConfig:
    """What the session needs to know of the settings. Times in seconds."""

    host: str
    port: int
    client_id: int
    mode: Mode = "simulated"
    account: str = ""
    read_only: bool = False
    connect_timeout_s: float = 20.0
    auto_reconnect: bool = True
    reconnect_delay_min_s: float = 2.0
    reconnect_delay_max_s: float = 60.0
    max_rate_per_s: int = 40
    request_timeout_s: float = 30.0
    ack_timeout_s: float = 10.0
    absent_after_s: float = 30.0
    probe_interval_s: float = 4.0
    probe_timeout_s: float = 10.0
    wedged_timeout_s: float = 30.0
    data_age_limit_s: float = 60.0
    write_buffer_max_bytes: int = 262_144
    reconcile_interval_s: float = 300.0
    timezone_tws: str = ""
    market_data_type: int = 1
    market_data_lines: int = 100
    calendar_hours: bool = False
    restart_windows: tuple[RestartWindow, ...] = ()
    controller: Controller | None = None


def choose_account(accounts: tuple[str, ...], mode: Mode, wanted: str) -> str:
    """The account that orders will name, after the mode was proven by all of them: paper accounts begin with D.

    Args:
        wanted: `ibkr.account`; empty for the only one.

    Raises:
        ModeMismatch: the accounts contradict the mode. AccountProblem: none can be chosen.
    """
    demo = [a.startswith("D") for a in accounts]
    if mode == "live" and any(demo):
        raise ModeMismatch("ibkr.mode is live, but the gateway is logged in to a paper account: no order will leave")
    if mode != "live" and not all(demo):
        raise ModeMismatch(f"ibkr.mode is {mode}, but the gateway is logged in to a live account: no order will leave")
    if wanted and wanted not in accounts:
        raise AccountProblem("ibkr.account is not among the accounts of this login")
    if not wanted and len(accounts) != 1:
        raise AccountProblem(f"ibkr.account is empty, but this login manages {len(accounts)} accounts: name one")
    return wanted or accounts[0]
