"""What IB charges for a trade: fixed pricing for stocks, options and futures, tiered spot rates for currencies.

Minimums are per order, not per fill: `due` charges for each fill what the order as a whole owes more than before.
Sources: IB's pricing pages. Exchange, clearing and regulatory fees are not modelled.
"""

from collections.abc import Callable
from decimal import Decimal
from typing import Final

from ibkr_service.sim.accounts import BASE_CURRENCY
from ibkr_service.sim.contracts import Contract

STOCK_FEE_PER_SHARE: Final = Decimal("0.005")
STOCK_FEE_MIN: Final = Decimal("1.00")
OPTION_FEE_PER_CONTRACT: Final = Decimal("0.65")
OPTION_FEE_MIN: Final = Decimal("1.00")
FUTURE_FEE_PER_CONTRACT: Final = Decimal("2.25")
"""IB's 0.85 and about 1.40 for the exchange, as for an E-mini."""

FOREX_FEE_RATE: Final = Decimal("0.00002")
FOREX_FEE_MIN: Final = Decimal("2.00")

_NOTHING = (Decimal(0), Decimal(0))

ToBase = Callable[[str], Decimal]
"""Currency → how many US dollars one unit of it is worth."""


def commission(contract: Contract, quantity: Decimal, price: Decimal, to_base: ToBase) -> Decimal:
    """The commission of an order that is filled at once."""
    return _owed(contract, _measure(contract, quantity, price, to_base))


def currency_of(contract: Contract) -> str:
    """In which currency it is charged."""
    return BASE_CURRENCY if contract.sec_type == "CASH" else contract.currency


def due(
    charged: dict[int, tuple[Decimal, Decimal]], contract: Contract, quantity: Decimal, price: Decimal, to_base: ToBase
) -> Decimal:
    """The commission of one more fill of an order, which `charged` remembers."""
    so_far, paid = charged.get(contract.con_id, _NOTHING)
    measure = so_far + _measure(contract, quantity, price, to_base)
    owed = _owed(contract, measure)
    charged[contract.con_id] = measure, owed
    return owed - paid


def _measure(contract: Contract, quantity: Decimal, price: Decimal, to_base: ToBase) -> Decimal:
    """What a commission is reckoned by: dollars of a currency, shares or contracts of anything else."""
    return quantity * price * to_base(contract.currency) if contract.sec_type == "CASH" else quantity


def _owed(contract: Contract, measure: Decimal) -> Decimal:
    match contract.sec_type:
        case "CASH":
            return max(FOREX_FEE_MIN, round(measure * FOREX_FEE_RATE, 2))
        case "OPT" | "FOP":
            return max(OPTION_FEE_MIN, measure * OPTION_FEE_PER_CONTRACT)
        case "FUT":
            return measure * FUTURE_FEE_PER_CONTRACT
        case _:
            return max(STOCK_FEE_MIN, measure * STOCK_FEE_PER_SHARE)
