"""Events as log lines: which ones people should read, at which level, in which words. Nothing is decided here."""

from __future__ import annotations

import structlog

from ibkr_service.core import events as ev
from ibkr_service.core.ladder import Rung
from ibkr_service.core.link import STOPPING, Link
from ibkr_service.core.orders import UNCERTAIN

log = structlog.get_logger("ibkr_service.events")

SILENT = frozenset(
    {ev.AccountValueReported, ev.PortfolioReported, ev.PnlReported, ev.PositionPnlReported, ev.CommissionReported}
    | {ev.OrderStatusReported, ev.OpenOrderReported}
)
"""Most of what arrives, and nothing to read: it need not be held against every row of the table."""


def say(event: ev.Event) -> None:
    """Log an event, if a person wants to know of it."""
    if type(event) not in SILENT:
        _say(event)


def _say(event: ev.Event) -> None:  # noqa: C901, PLR0912, PLR0915 - one row per kind of event, as in a table
    match event:
        case ev.LinkChanged(after=Link.READY):
            log.info("link", state="READY", before=event.before.name, session=event.session)
        case ev.LinkChanged():
            unwanted = event.before is Link.READY and event.why != STOPPING
            say_so = log.warning if unwanted else log.info
            say_so("link", state=event.after.name, before=event.before.name, why=event.why, session=event.session)
        case ev.IncidentOpened() | ev.IncidentClosed():
            _say_incident(event)
        case ev.RecoveryStep() | ev.ControllerAnswered() | ev.LoopHeld():
            _say_recovery(event)
        case ev.SessionOpened():
            log.info("connected", server_version=event.server_version, client_id=event.client_id, account=event.account)
        case ev.OrderSubmitted():
            log.info("order submitted", ref=event.ref, strategy=event.strategy, intent=str(event.intent))
        case ev.OrderErrored(meaning="cancelled"):
            log.info("broker on order", ref=event.ref, code=event.code, text=event.text, meaning=event.meaning)
        case ev.OrderErrored():
            log.warning("broker on order", ref=event.ref, code=event.code, text=event.text, meaning=event.meaning)
        case ev.OrderChanged() if event.after in UNCERTAIN:
            log.error("order", state=event.after.name, ref=event.ref, before=event.before.name, why=event.why)
        case ev.OrderChanged():
            log.info("order", state=event.after.name, ref=event.ref, filled=str(event.filled), why=event.why)
        case ev.ModificationRequested() | ev.ModificationSettled():
            _say_modification(event)
        case ev.OrderNotSent():
            log.warning("order not sent", ref=event.ref, reason=event.reason)
        case ev.Fill():
            what, price = str(event.instrument), str(event.price)
            log.info(
                "fill", ref=event.ref, action=event.action, quantity=str(event.quantity), instrument=what, price=price
            )
        case ev.PositionReported():
            log.info(
                "position",
                instrument=str(event.instrument),
                quantity=str(event.quantity),
                average_cost=str(event.average_cost),
                account=event.account,
            )
        case ev.PositionAdjusted() | ev.QuarantineBegan() | ev.QuarantineEnded():
            _say_difference(event)
        case ev.SubscriptionFailed():
            log.error("no market data", instrument=str(event.instrument), code=event.code, text=event.text)
        case ev.SubscriptionWaiting():
            log.warning("waits for a market-data line", instrument=str(event.instrument), lines=event.lines)
        case ev.Gap():
            log.warning("gap", instrument=str(event.instrument), reason=event.reason)
        case ev.Resumed():
            log.info("resumed", instrument=str(event.instrument))
        case ev.FarmChanged(up=False):
            log.warning("data farm down", farm=event.farm, code=event.code)
        case ev.BrokerNotice():
            say_at = log.info if event.known else log.warning
            say_at("broker says", code=event.code, text=event.text, request=event.request, known=event.known)
        case ev.LibraryFault():
            log.error("library fault", source=event.logger, text=event.text)
        case ev.StrategyStarted():
            log.info("strategy started", strategy=event.name, attempt=event.attempt)
        case ev.StrategyStopped():
            calm = event.how in {"returned", "cancelled"}
            (log.info if calm else log.error)(
                "strategy stopped", strategy=event.name, how=event.how, detail=event.detail
            )
        case ev.ServiceStarted() | ev.ServiceStopped():
            _say_service(event)
        case _:
            pass


def _say_service(event: ev.ServiceStarted | ev.ServiceStopped) -> None:
    if isinstance(event, ev.ServiceStarted):
        log.info("service started", run_id=event.run_id, mode=event.mode, version=event.version)
    else:
        log.info("service stopped", reason=event.reason)


def _say_incident(event: ev.IncidentOpened | ev.IncidentClosed) -> None:
    if isinstance(event, ev.IncidentOpened):
        log.warning("incident", number=event.number, cause=event.cause)
        return
    log.warning(
        "incident over",
        number=event.number,
        cause=event.cause,
        detected_after_s=event.detected_after_s,
        ready_after_s=event.ready_after_s,
        streams_with_gap=len(event.streams),
        resubscribed=event.resubscribed,
        silent=list(event.silent),
        steps=list(event.steps),
        orders_unknown=event.orders_unknown,
        orders_resolved=event.orders_resolved,
        fills_recovered=event.fills_recovered,
    )


def _say_recovery(event: ev.RecoveryStep | ev.ControllerAnswered | ev.LoopHeld) -> None:
    match event:
        case ev.RecoveryStep(rung=Rung.REST.value):
            log.error("recovery has done all that it can: look at the gateway", why=event.why, streams=event.what)
        case ev.RecoveryStep():
            log.warning("recovery", rung=event.rung, why=event.why, what=event.what)
        case ev.ControllerAnswered():
            say_so = log.warning if event.ok else log.error
            say_so("the gateway's controller answers", command=event.command, ok=event.ok, text=event.text)
        case ev.LoopHeld():
            log.warning("our own event loop stood still", held_s=event.held_s, by=event.by or "not seen")


def _say_modification(event: ev.ModificationRequested | ev.ModificationSettled) -> None:
    if isinstance(event, ev.ModificationRequested):
        log.info("modification sent", ref=event.ref, intent=str(event.intent))
    else:
        say_so = log.info if event.outcome == "accepted" else log.warning
        say_so("modification", outcome=event.outcome, ref=event.ref, holds=str(event.intent), why=event.why)


def _say_difference(event: ev.PositionAdjusted | ev.QuarantineBegan | ev.QuarantineEnded) -> None:
    match event:
        case ev.QuarantineBegan():
            say, since = "account in quarantine: only reducing orders, until a person accepts", f"{event.at:%F %T}"
            log.error(say, account=event.account, why=event.why, since=since)
        case ev.QuarantineEnded():
            log.warning("quarantine ended", account=event.account, by=event.by)
        case ev.PositionAdjusted():
            change = {"before": str(event.before), "after": str(event.after)}
            log.warning("position adjusted", instrument=str(event.instrument), cause=event.cause, **change)
