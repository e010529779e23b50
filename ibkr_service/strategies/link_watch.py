"""A strategy that reacts to the link: it says what the line and its streams do, and how long each outage was.

It never trades.

The pattern is useful in any strategy: decisions only while the link is READY, nothing carried over a gap.
"""

from __future__ import annotations

from datetime import datetime

import msgspec
import structlog

from ibkr_service.core.events import FarmChanged, Gap, LinkChanged, PositionAdjusted, Recovered, Resumed
from ibkr_service.core.instrument import parse
from ibkr_service.core.link import Link
from ibkr_service.desk import Desk

log = structlog.get_logger("ibkr_service.strategies.link_watch")


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`instruments` whose streams to follow, in the short form."""

    instruments: list[str] = []


async def link_watch(desk: Desk, params: Params) -> None:
    """Log every change of the link, with the length of each outage in seconds."""
    for text in params.instruments:
        desk.watch(parse(text))
    out_since: datetime | None = None
    async for event in desk.events():
        match event:
            case Recovered():
                log.info("watching the link", positions=len(event.positions), unknown=len(event.unknown))
            case LinkChanged(after=Link.READY):
                outage_s = (event.at - out_since).total_seconds() if out_since else 0.0
                log.info("link ready", outage_s=round(outage_s, 3))
                out_since = None
            case LinkChanged():
                out_since = out_since or event.at
                log.warning("link not ready", state=event.after.name, why=event.why)
            case Gap() | Resumed():
                log.info(type(event).__name__.lower(), instrument=str(event.instrument), epoch=event.epoch)
            case FarmChanged():
                log.info("farm", farm=event.farm, up=event.up)
            case PositionAdjusted():
                log.warning(
                    "position adjusted", instrument=str(event.instrument), cause=event.cause, after=str(event.after)
                )
