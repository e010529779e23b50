"""What the broker refuses: one small rule per reason, and a table of them in the order in which they are looked at."""

from collections.abc import Callable
from decimal import Decimal
from typing import Final

from ibkr_service.sim.contracts import Combo, Contract, Instrument
from ibkr_service.sim.orders import Ticket

ORDER_TYPES: Final = frozenset({"MKT", "LMT", "STP"})
TIMES_IN_FORCE: Final = frozenset({"DAY", "GTC", "IOC"})
QUANTITY_MAX: Final = Decimal(1_000_000_000)


class Refused(Exception):
    """The broker refuses a request: IB's error code and text."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(f"{code} {text}")
        self.code = code
        self.text = text


def invalid(cause: str) -> Refused:
    """IB's refusal of a request that makes no sense."""
    return Refused(321, f"Error validating request.-'bW' : cause - {cause}")


NOT_MODELLED: Final = (
    "goodAfterTime",
    "goodTillDate",
    "displaySize",
    "allOrNone",
    "minQty",
    "discretionaryAmt",
    "percentOffset",
    "deltaNeutralOrderType",
    "deltaNeutralContract",
    "trailStopPrice",
    "trailingPercent",
    "scalePriceIncrement",
    "hedgeType",
    "algoStrategy",
    "conditions",
    "adjustedOrderType",
    "triggerPrice",
    "cashQty",
    "discretionaryUpToLimitPrice",
)
"""Attributes that change how an order trades: ignoring one of them would be a lie, so the order is refused."""

_NOTHING = frozenset({"", "0", "0.0", "false", "False"})


def check(ticket: Ticket, instrument: Instrument) -> None:
    """Look at an order.

    Raises:
        Refused: the first rule that it breaks.
    """
    for rule in RULES:
        rule(ticket, instrument)


def _type_is_known(ticket: Ticket, _instrument: Instrument) -> None:
    if ticket.order_type not in ORDER_TYPES:
        raise Refused(387, "Unsupported order type for this exchange and security type.")


def _time_in_force_is_known(ticket: Ticket, _instrument: Instrument) -> None:
    if ticket.tif not in TIMES_IN_FORCE:
        raise Refused(201, f"Order rejected - reason:The time-in-force {ticket.tif} is not modelled by the simulator")


def _attributes_are_modelled(ticket: Ticket, _instrument: Instrument) -> None:
    for name in NOT_MODELLED:
        if ticket.values.get(name, "") not in _NOTHING:
            raise Refused(201, f"Order rejected - reason:The attribute {name} is not modelled by the simulator")


def _quantity_is_positive(ticket: Ticket, _instrument: Instrument) -> None:
    if not 0 < ticket.quantity <= QUANTITY_MAX:
        raise invalid("Order size cannot be zero. Please enter a valid size")


def _quantity_is_whole(ticket: Ticket, _instrument: Instrument) -> None:
    if ticket.quantity != ticket.quantity.to_integral_value():
        raise Refused(10243, "Fractional-sized order cannot be placed via API. Please use desktop version of TWS.")


def _has_price(ticket: Ticket, _instrument: Instrument) -> None:
    if ticket.order_type == "LMT" and ticket.limit is None:
        raise invalid("Please enter a limit price")
    if ticket.order_type == "STP" and ticket.aux is None:
        raise invalid("Please enter a stop price")


def _price_is_on_the_grid(ticket: Ticket, instrument: Instrument) -> None:
    price = {"LMT": ticket.limit, "STP": ticket.aux}.get(ticket.order_type)
    if price is None:
        return
    is_signed = isinstance(instrument, Combo)
    if (price <= 0 and not is_signed) or price % instrument.tick_at(price):
        raise Refused(110, "The price does not conform to the minimum price variation for this contract.")


def _combo_has_one_multiplier(_ticket: Ticket, instrument: Instrument) -> None:
    if isinstance(instrument, Combo) and len({leg.contract.units for leg in instrument.legs}) > 1:
        raise Refused(201, "Order rejected - reason:Combos of unlike multipliers are not modelled by the simulator")


def _is_the_same_order(old: Ticket, new: Ticket) -> bool:
    return (old.action, old.spec.sec_type, old.parent_id) == (new.action, new.spec.sec_type, new.parent_id)


def check_change(old: Ticket, new: Ticket, known: Contract | Combo, found: Instrument, filled: Decimal) -> None:
    """Look at a modification.

    Raises:
        Refused: it is not a modification of that order, or there is nothing left to modify.
    """
    if known.key != found.key or not _is_the_same_order(old, new):
        raise Refused(105, "Order being modified does not match original order.")
    if new.quantity <= filled:
        raise Refused(104, "Can't modify a filled order.")


RULES: Final[tuple[Callable[[Ticket, Instrument], None], ...]] = (
    _type_is_known,
    _time_in_force_is_known,
    _attributes_are_modelled,
    _quantity_is_positive,
    _quantity_is_whole,
    _has_price,
    _price_is_on_the_grid,
    _combo_has_one_multiplier,
)
