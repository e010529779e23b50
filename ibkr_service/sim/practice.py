"""How the broker does business, beyond what its rules say of every order: margin, presets, odd lots, short sales."""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from ibkr_service.sim.contracts import Contract
from ibkr_service.sim.orders import Order, Ticket
from ibkr_service.sim.orderwrite import Preview
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.rules import Refused

LOCATE: Final = (404, "Order held while securities are located.")
ODD_LOTS: Final = {"EUR": 20_000, "GBP": 20_000, "USD": 25_000, "AUD": 25_000, "CAD": 25_000, "CHF": 25_000}
"""Below these amounts of its first currency an order for a pair is an odd lot."""

_PERCENT = 100


@dataclass(frozen=True, slots=True)
class Practice:
    """The broker's settings; those of `GatewayConfig` have the same names."""

    checks_margin: bool = True
    price_percentage_max: Decimal | None = None
    hard_to_borrow: tuple[str, ...] = ()
    locate_s: float = 60.0

    def check_percentage(self, ticket: Ticket, quote: Quote | None) -> None:
        """Look at how far a limit is from the market.

        Raises:
            Refused: too far.
        """
        allowed, limit = self.price_percentage_max, ticket.limit
        if allowed is None or limit is None or quote is None or ticket.terms.ignores_percentage:
            return
        if abs(limit - quote.mid) * _PERCENT > allowed * abs(quote.mid):
            text = "Price is out of the range defined by the Percentage setting at order defaults frame."
            raise Refused(109, f"{text} The order will not be transmitted.")


def margin_text(preview: Preview) -> str:
    """IB's words for an order that the account cannot bear."""
    return (
        "Order rejected - reason:YOUR ORDER IS NOT ACCEPTED. IN ORDER TO OBTAIN THE DESIRED POSITION YOUR EQUITY WITH"
        f" LOAN VALUE [{preview.equity_after:.2f} USD] MUST EXCEED THE INITIAL MARGIN [{preview.initial_after:.2f} USD]"
    )


def odd_lot_text(order: Order) -> str | None:
    """IB's words for an order in currencies that is too small for IdealPro; None when it is not."""
    contract, ticket = order.instrument, order.ticket
    if not isinstance(contract, Contract) or contract.sec_type != "CASH":
        return None
    least = ODD_LOTS.get(contract.symbol)
    if least is None or ticket.quantity >= least:
        return None
    return (
        f"Order Message:\n{ticket.action} {ticket.quantity.normalize():f} {contract.local_symbol}\n"
        f"Warning: Your order size is below the {contract.symbol} {least} IdealPro minimum"
        " and will be routed as an odd lot order."
    )
