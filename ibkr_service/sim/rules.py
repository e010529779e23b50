"""What the broker refuses: one small rule per reason, and a table of them in the order in which they are looked at.

Codes and texts are IB's ("API message codes"); texts of 201 that speak of the simulator are our own.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Final

from ibkr_service.sim.contracts import Combo, Contract, Instrument
from ibkr_service.sim.orders import Ticket
from ibkr_service.sim.terms import STYLES, Kind
from ibkr_service.sim.triggers import METHODS

TIMES_IN_FORCE: Final = frozenset({"DAY", "GTC", "IOC", "FOK", "GTD"})
TIMES_NOT_MODELLED: Final = frozenset({"OPG", "DTC", "AUC", "GTX"})
COMBO_TYPES: Final = frozenset({"MKT", "LMT", "STP", "STP LMT"})
ONE_WAY_TYPES: Final = frozenset({"MOC", "LOC", "MIDPRICE", "TRAIL", "TRAIL LIMIT"})
"""Types to and from which an order cannot be changed."""

TYPES_OF: Final[dict[str, frozenset[str]]] = {
    "STK": frozenset(STYLES),
    "FUT": frozenset(STYLES) - {"MOC", "LOC", "MIDPRICE"},
    "OPT": frozenset(STYLES) - {"MOC", "LOC", "MIDPRICE"},
    "FOP": frozenset(STYLES) - {"MOC", "LOC", "MIDPRICE"},
    "CASH": frozenset(STYLES) - {"MOC", "LOC", "MIDPRICE"},
}
"""Security type → the order types that it can be traded with; another one cannot be traded at all."""

QUANTITY_MAX: Final = Decimal(1_000_000_000)
PERCENT_MAX: Final = Decimal(100)


class Refused(Exception):
    """The broker refuses a request: IB's error code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


def invalid(cause: str) -> Refused:
    """IB's refusal of a request that makes no sense."""
    return Refused(321, f"Error validating request.-'bW' : cause - {cause}")


def not_modelled(what: str) -> Refused:
    """Our own refusal of what we would have to pretend."""
    return Refused(201, f"Order rejected - reason:{what} not modelled by the simulator")


NOT_MODELLED: Final = (
    "discretionaryAmt",
    "percentOffset",
    "deltaNeutralOrderType",
    "deltaNeutralContract",
    "scalePriceIncrement",
    "hedgeType",
    "conditions",
    "adjustedOrderType",
    "triggerPrice",
    "cashQty",
    "discretionaryUpToLimitPrice",
    "orderLegs",
)
"""Attributes that change how an order trades: ignoring one of them would be a lie, so the order is refused."""

PLAIN_ALGORITHMS: Final = frozenset({"Adaptive"})
"""Algorithms whose orders are taken as plain ones: Adaptive only seeks a better price within the same limit."""

_NOTHING = frozenset({"", "0", "0.0", "false", "False"})


def check(ticket: Ticket, instrument: Instrument) -> None:
    """Look at an order.

    Raises:
        Refused: the first rule that it breaks.
    """
    for rule in RULES:
        rule(ticket, instrument)


def _type_is_known(ticket: Ticket, instrument: Instrument) -> None:
    if not ticket.order_type:
        raise Refused(107, "Cannot transmit incomplete order.")
    if ticket.order_type not in STYLES:
        raise Refused(387, "Unsupported order type for this exchange and security type.")
    if isinstance(instrument, Combo):
        possible = COMBO_TYPES
    elif instrument.sec_type not in TYPES_OF:
        raise Refused(412, "The contract is not available for trading.")
    else:
        possible = TYPES_OF[instrument.sec_type]
    if ticket.order_type not in possible:
        raise Refused(387, "Unsupported order type for this exchange and security type.")


def _time_in_force_is_known(ticket: Ticket, _instrument: Instrument) -> None:
    if ticket.tif in TIMES_NOT_MODELLED:
        raise not_modelled(f"The time-in-force {ticket.tif} is")
    if ticket.tif not in TIMES_IN_FORCE:
        raise Refused(391, "The time-in-force is invalid.")


def _time_in_force_fits_type(ticket: Ticket, _instrument: Instrument) -> None:
    style = STYLES[ticket.order_type]
    if style.is_for_close and ticket.tif != "DAY":
        raise Refused(113, "The Tif option should be set to DAY for MOC and LOC orders.")
    if style.is_triggered and ticket.tif in {"IOC", "FOK"}:
        raise Refused(111, "The TIF (Tif type) and the order type are incompatible.")
    if ticket.tif == "GTD" and ticket.terms.good_till is None:
        raise invalid("Please enter a good till date")


def _attributes_are_modelled(ticket: Ticket, _instrument: Instrument) -> None:
    for name in NOT_MODELLED:
        if ticket.values.get(name, "") not in _NOTHING:
            raise not_modelled(f"The attribute {name} is")
    if ticket.terms.trigger_method not in METHODS:
        raise Refused(146, "Invalid trigger method.")


def _algorithm_is_plain(ticket: Ticket, _instrument: Instrument) -> None:
    name = ticket.terms.algorithm
    if name and name not in PLAIN_ALGORITHMS:
        raise Refused(442, "Specified algorithm is not allowed for this order.")


def _quantity_is_positive(ticket: Ticket, _instrument: Instrument) -> None:
    if ticket.quantity == 0:
        raise Refused(434, "The order size cannot be zero.")
    if not 0 < ticket.quantity <= QUANTITY_MAX:
        raise invalid("Order size does not conform to market rule. Please enter a valid size")
    if ticket.terms.quantity_min > ticket.quantity:
        raise Refused(388, "Order size is smaller than the minimum requirement.")


def _quantity_is_whole(ticket: Ticket, _instrument: Instrument) -> None:
    if ticket.quantity != ticket.quantity.to_integral_value():
        raise Refused(10243, "Fractional-sized order cannot be placed via API. Please use desktop version of TWS.")


def _has_price(ticket: Ticket, _instrument: Instrument) -> None:
    style = STYLES[ticket.order_type]
    if style.kind is Kind.LIMIT and not style.trails and ticket.limit is None:
        raise invalid("Please enter a limit price")
    if style.is_triggered and not style.trails and ticket.aux is None:
        raise invalid("Please enter a stop price")


def _trails_by_something(ticket: Ticket, _instrument: Instrument) -> None:
    terms = ticket.terms
    if not STYLES[ticket.order_type].trails:
        if terms.trail_percent is not None:
            raise invalid("Trailing percent is for trailing orders only")
        return
    percent = terms.trail_percent
    if percent is not None and not 0 < percent < PERCENT_MAX:
        raise Refused(159, "The percent offset value must be between 0% and 100%.")
    if percent is None and (ticket.aux is None or ticket.aux <= 0):
        raise Refused(158, "You must specify an offset amount or a percent offset value.")
    has_limit = terms.limit_offset is not None or (ticket.limit is not None and terms.trail_stop is not None)
    if ticket.order_type == "TRAIL LIMIT" and not has_limit:
        raise invalid("Please enter a limit price offset, or a limit price and a trailing stop price")


def _prices_are_on_the_grid(ticket: Ticket, instrument: Instrument) -> None:
    style, is_signed = STYLES[ticket.order_type], isinstance(instrument, Combo)
    limit = None if style.kind is Kind.MARKET else ticket.limit
    # TWS fills in 0 where a client has left a midpoint order without a limit.
    limit = None if style.kind is Kind.MIDPOINT and not limit else limit
    stop = ticket.terms.trail_stop if style.trails else ticket.aux if style.is_triggered else None
    for price in (limit, stop):
        if price is not None and ((price <= 0 and not is_signed) or price % instrument.tick_at(price)):
            raise Refused(110, "The price does not conform to the minimum price variation for this contract.")


def _combo_is_of_one_currency(_ticket: Ticket, instrument: Instrument) -> None:
    if not isinstance(instrument, Combo):
        return
    if {leg.contract.currency for leg in instrument.legs} != {instrument.currency}:
        raise not_modelled("Combos of several currencies are")
    if any(leg.contract.sec_type not in TYPES_OF for leg in instrument.legs):
        raise Refused(412, "The contract is not available for trading.")


def _is_the_same_order(old: Ticket, new: Ticket) -> bool:
    return (old.action, old.spec.sec_type, old.parent_id) == (new.action, new.spec.sec_type, new.parent_id)


def check_change(old: Ticket, new: Ticket, known: Contract | Combo, found: Instrument, filled: Decimal) -> None:
    """Look at a modification.

    Raises:
        Refused: it is not a modification of that order, or there is nothing left to modify.
    """
    if known.key != found.key or not _is_the_same_order(old, new):
        raise Refused(105, "Order being modified does not match original order.")
    types = {old.order_type, new.order_type}
    if len(types) > 1 and types & ONE_WAY_TYPES:
        raise Refused(329, "Order modify failed. Cannot change to the new order type.")
    if new.quantity <= filled:
        raise Refused(104, "Can't modify a filled order.")


RULES: Final[tuple[Callable[[Ticket, Instrument], None], ...]] = (
    _type_is_known,
    _time_in_force_is_known,
    _time_in_force_fits_type,
    _attributes_are_modelled,
    _algorithm_is_plain,
    _quantity_is_positive,
    _quantity_is_whole,
    _has_price,
    _trails_by_something,
    _prices_are_on_the_grid,
    _combo_is_of_one_currency,
)
