"""The smallest strategy: watch some instruments and say what they do. It never trades."""

from __future__ import annotations

import msgspec
import structlog

from ibkr_service.core.events import Gap, Resumed, SubscriptionFailed, Tick
from ibkr_service.core.instrument import parse
from ibkr_service.desk import Desk

log = structlog.get_logger("ibkr_service.strategies.watch")


class Params(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`instruments` in the short form: `AAPL`, `EUR.USD`, `AAPL 20270115 150 C`."""

    instruments: list[str]


async def watch(desk: Desk, params: Params) -> None:
    """Log quotes, gaps and refusals of some instruments."""
    for text in params.instruments:
        desk.watch(parse(text))
    async for event in desk.events():
        match event:
            case Tick():
                log.debug("quote", instrument=str(event.instrument), bid=event.bid, ask=event.ask)
            case Gap():
                log.warning("gap", instrument=str(event.instrument), reason=event.reason)
            case Resumed():
                log.info("resumed", instrument=str(event.instrument))
            case SubscriptionFailed():
                log.warning("no data", instrument=str(event.instrument), code=event.code, text=event.text)
