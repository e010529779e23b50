"""Orders that a person enters at TWS: a ticket without a client behind it."""

from collections.abc import Mapping
from decimal import Decimal

from ibkr_service.sim.contracts import ContractSpec
from ibkr_service.sim.orderlayout import CORE, PLACE_TAIL, PLACE_VERSIONS
from ibkr_service.sim.orders import Ticket
from ibkr_service.sim.terms import read_terms
from ibkr_service.sim.wire import field, parse_number

UNBOUND: int = 0
"""The order id of a manual order that no client has been given."""


def manual_ticket(spec: ContractSpec, action: str, quantity: Decimal, fields: Mapping[str, str | Decimal]) -> Ticket:
    """Write the ticket; a market order for the day unless `fields` say otherwise.

    Raises:
        ValueError: placeOrder has no such field.
    """
    names = {name for name in (*CORE, *PLACE_TAIL) if not name.startswith("<")}
    names |= {name for name, _ in PLACE_VERSIONS} | {"conditions", "deltaNeutralContract"}
    if unknown := set(fields) - names:
        raise ValueError(f"placeOrder has no field {', '.join(sorted(unknown))}")
    values = dict.fromkeys(sorted(names), "") | {"orderType": "MKT", "tif": "DAY", "transmit": "1"}
    values |= {"conditions": "0", "orderLegs": "0", "smartParams": "0", "exchange": spec.exchange}
    values |= {name: field(value) for name, value in fields.items()}
    values |= {"action": action, "totalQuantity": field(quantity)}
    return Ticket(
        order_id=UNBOUND,
        spec=spec,
        values=values,
        action=action,
        quantity=quantity,
        order_type=values["orderType"],
        limit=parse_number(values["lmtPrice"]),
        aux=parse_number(values["auxPrice"]),
        tif=values["tif"],
        account=values["account"],
        order_ref=values["orderRef"],
        transmit=True,
        parent_id=0,
        oca_group=values["ocaGroup"],
        what_if=False,
        terms=read_terms(values),
    )
