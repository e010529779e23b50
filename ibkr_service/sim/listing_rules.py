"""Market rules: the price grids of the simulated exchanges, under IB's numbers for them."""

from decimal import Decimal
from typing import Final

STOCK_RULE: Final = 26
OPTION_RULE: Final = 32
INDEX_OPTION_RULE: Final = 110
FOREX_RULE: Final = 239
FOREX_JPY_RULE: Final = 59
INDEX_FUTURE_RULE: Final = 67
CL_RULE: Final = 32_768
GC_RULE: Final = 32_769
CENT_RULE: Final = 32_770
POUND_RULE: Final = 32_771
EURO_RULE: Final = 557

MARKET_RULES: Final[dict[int, tuple[tuple[Decimal, Decimal], ...]]] = {
    STOCK_RULE: ((Decimal(0), Decimal("0.01")),),
    OPTION_RULE: ((Decimal(0), Decimal("0.01")), (Decimal(3), Decimal("0.05"))),
    INDEX_OPTION_RULE: ((Decimal(0), Decimal("0.05")), (Decimal(3), Decimal("0.1"))),
    FOREX_JPY_RULE: ((Decimal(0), Decimal("0.005")),),
    FOREX_RULE: ((Decimal(0), Decimal("0.00005")),),
    INDEX_FUTURE_RULE: ((Decimal(0), Decimal("0.25")),),
    CL_RULE: ((Decimal(0), Decimal("0.01")),),
    GC_RULE: ((Decimal(0), Decimal("0.1")),),
    CENT_RULE: ((Decimal(0), Decimal("0.01")),),
    EURO_RULE: ((Decimal(0), Decimal("0.02")),),
    POUND_RULE: ((Decimal(0), Decimal("0.0001")),),
}
"""Market rule id → steps of (from this price on, the price increment)."""
