"""From when until when an order may trade: pure decisions about an order, a moment and a calendar."""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from ibkr_service.sim.calendars import NEW_YORK, Calendar
from ibkr_service.sim.contracts import Combo, Instrument
from ibkr_service.sim.orders import Order

AT_ONCE: Final = frozenset({"IOC", "FOK"})
CLOSE_CUTOFF: Final = timedelta(minutes=10)
"""So long before the close the exchanges take no more orders for it, and cancel none."""

ZONE_NAME: Final = "US/Eastern"
HELD_TEXT: Final = (
    "Order Message:\n{action} {quantity} {name}\nWarning: Your order will not be placed at the exchange until {until}"
)


@dataclass(frozen=True, slots=True)
class Wait:
    """An order must wait at the broker until a moment, and what IB has to say about it."""

    until: datetime
    notice: tuple[int, str] | None = None
    held_for: str = ""


def wait_of(order: Order, now: datetime, calendar: Calendar) -> Wait | None:
    """Whether an order must wait for its time or for the market to open."""
    moment = max(now, order.terms.good_after or now)
    sitting = calendar.sitting(order.instrument, moment, extended=order.terms.outside_rth)
    start = max(moment, sitting.opens)
    if start <= now:
        return None
    is_closed = sitting.opens > now and calendar.rests
    return Wait(start, (399, _held_text(order, start)) if is_closed else None)


def _held_text(order: Order, until: datetime) -> str:
    return HELD_TEXT.format(
        action=order.ticket.action,
        quantity=f"{order.ticket.quantity.normalize():f}",
        name=name_of(order.instrument),
        until=f"{until.astimezone(NEW_YORK):%Y-%m-%d %H:%M:%S} {ZONE_NAME}",
    )


def name_of(instrument: Instrument) -> str:
    """What IB calls an instrument in its messages: ``AAPL NASDAQ.NMS``, ``EUR.USD``."""
    if isinstance(instrument, Combo):
        return f"{instrument.symbol} Bag"
    if instrument.sec_type == "STK":
        return f"{instrument.symbol} {instrument.primary_exchange}.{instrument.trading_class}"
    return instrument.local_symbol


def end_of(order: Order, now: datetime, calendar: Calendar) -> datetime | None:
    """When an order's time in force is over; None when it is not limited, or when the auction ends it."""
    if order.style.is_for_close:
        return None
    if order.ticket.tif == "GTD":
        return order.terms.good_till
    if order.ticket.tif != "DAY":
        return None
    moment = max(now, order.terms.good_after or now)
    return calendar.sitting(order.instrument, moment, extended=order.terms.outside_rth).closes


def rest_of(order: Order, now: datetime, calendar: Calendar) -> datetime | None:
    """When the market closes on an order that outlives its sitting; None when markets do not."""
    if not calendar.rests or order.style.is_for_close:
        return None
    sitting = calendar.sitting(order.instrument, now, extended=order.terms.outside_rth)
    return sitting.closes if sitting.holds(now) else None


def is_too_late_for_close(order: Order, now: datetime, calendar: Calendar) -> bool:
    """Whether the auction that an order is meant for takes no more changes."""
    return order.style.is_for_close and calendar.rests and calendar.close(order.instrument, now) - now <= CLOSE_CUTOFF
