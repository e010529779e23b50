"""The simulated gateway inside the process: on a free loopback port, with a journal of its own.

The simulated broker forgets everything with the process, so a journal kept across runs would only disagree with it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import time
from pathlib import Path

from ibkr_service.app import AppConfig
from ibkr_service.clock import Clock
from ibkr_service.core.errors import Unfit
from ibkr_service.settings import SimulatorSettings
from ibkr_service.sim import Gateway, GatewayConfig, ReplayError, ReplayFile, Server, serve
from ibkr_service.sim.scenarios import Scenario


@asynccontextmanager
async def embedded_gateway(
    settings: SimulatorSettings,
    clock: Clock,
    host: str = "127.0.0.1",
    port: int = 0,
    scenario: Scenario | None = None,
    *,
    command_port: int | None = None,
) -> AsyncIterator[Server]:
    """A simulated gateway, on a free loopback port unless told otherwise, for as long as the context lasts.

    Args:
        scenario: what the gateway has to be like for it comes before the settings. command_port: of its command server.

    Raises:
        Unfit: the recording cannot be read.
    """
    server = await serve(gateway_of(settings, clock, scenario, command_port=command_port), host, port)
    try:
        yield server
    finally:
        await server.close()


def gateway_of(
    settings: SimulatorSettings, clock: Clock, scenario: Scenario | None = None, *, command_port: int | None = None
) -> Gateway:
    """The simulated gateway that the settings describe.

    Raises:
        Unfit: the recording cannot be read.
    """
    replay = (ReplayFile.parse(settings.replay),) if settings.replay else ()
    config = GatewayConfig(
        seed=settings.seed,
        started_at=clock.now(),
        speed=settings.speed,
        replay=replay,
        hours=settings.hours,
        nightly_reset=time.fromisoformat(settings.nightly_reset) if settings.nightly_reset else None,
        command_port=command_port,
    )
    try:
        return Gateway(config if scenario is None else replace(config, **scenario.gateway))
    except (ReplayError, ValueError) as exc:
        raise Unfit(f"simulator.replay: {exc}") from exc


def embedded_journal(path: Path) -> Path:
    """The journal beside the usual one that a service at an embedded gateway writes."""
    return path.with_name(f"{path.stem}-simulated{path.suffix}")


def at_embedded(config: AppConfig, server: Server) -> AppConfig:
    """The same service at an embedded gateway, with that one's own journal, begun anew."""
    return replace(
        config,
        session=replace(config.session, host="127.0.0.1", port=server.port),
        journal_path=embedded_journal(config.journal_path),
        journal_fresh=True,
    )
