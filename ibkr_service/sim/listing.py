"""What is listed: the stocks and currency pairs of the simulated world, as tables, with IB's own contract ids.

Reference prices are where the seeded walk starts. To list another instrument add a row; a stock's `slot` numbers its
options' contract ids, so a slot is never reused.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

SLOTS_MAX: Final = 14
"""Room for optionable stocks in the 31-bit contract ids; `options.py` has the arithmetic."""


@dataclass(frozen=True, slots=True)
class Stock:
    """A row of the stock table; `reference` in US dollars, `volatility` per year."""

    slot: int
    con_id: int
    symbol: str
    name: str
    primary_exchange: str
    reference: Decimal
    volatility: float
    industry: str
    category: str
    stock_type: str = "COMMON"


@dataclass(frozen=True, slots=True)
class Pair:
    """A row of the currency table; `reference` in units of `currency` for one unit of `symbol`."""

    con_id: int
    symbol: str
    currency: str
    reference: Decimal
    volatility: float
    market_rule: int


STOCKS: Final = (
    Stock(0, 265598, "AAPL", "APPLE INC", "NASDAQ", Decimal(230), 0.28, "Technology", "Computers"),
    Stock(1, 272093, "MSFT", "MICROSOFT CORP", "NASDAQ", Decimal(430), 0.25, "Technology", "Software"),
    Stock(2, 756733, "SPY", "SPDR S&P 500 ETF TRUST", "ARCA", Decimal(590), 0.15, "", "", "ETF"),
    Stock(3, 320227571, "QQQ", "INVESCO QQQ TRUST SERIES 1", "NASDAQ", Decimal(510), 0.20, "", "", "ETF"),
    Stock(4, 3691937, "AMZN", "AMAZON.COM INC", "NASDAQ", Decimal(205), 0.32, "Communications", "Internet"),
    Stock(5, 76792991, "TSLA", "TESLA INC", "NASDAQ", Decimal(340), 0.60, "Consumer, Cyclical", "Auto Manufacturers"),
    Stock(6, 4391, "AMD", "ADVANCED MICRO DEVICES", "NASDAQ", Decimal(140), 0.50, "Technology", "Semiconductors"),
    Stock(7, 4815747, "NVDA", "NVIDIA CORP", "NASDAQ", Decimal(145), 0.50, "Technology", "Semiconductors"),
    Stock(
        8, 107113386, "META", "META PLATFORMS INC-CLASS A", "NASDAQ", Decimal(560), 0.35, "Communications", "Internet"
    ),
    Stock(9, 208813719, "GOOGL", "ALPHABET INC-CL A", "NASDAQ", Decimal(175), 0.30, "Communications", "Internet"),
    Stock(10, 8314, "IBM", "INTL BUSINESS MACHINES CORP", "NYSE", Decimal(225), 0.22, "Technology", "Computers"),
    Stock(11, 8894, "KO", "COCA-COLA CO/THE", "NYSE", Decimal(63), 0.14, "Consumer, Non-cyclical", "Beverages"),
)

FOREX_RULE: Final = 239
FOREX_JPY_RULE: Final = 59
STOCK_RULE: Final = 26
OPTION_RULE: Final = 32

PAIRS: Final = (
    Pair(12087792, "EUR", "USD", Decimal("1.0850"), 0.08, FOREX_RULE),
    Pair(12087797, "GBP", "USD", Decimal("1.2650"), 0.08, FOREX_RULE),
    Pair(15016059, "USD", "JPY", Decimal("150.00"), 0.10, FOREX_JPY_RULE),
    Pair(14433401, "AUD", "USD", Decimal("0.6550"), 0.10, FOREX_RULE),
    Pair(15016062, "USD", "CAD", Decimal("1.3900"), 0.07, FOREX_RULE),
    Pair(12087820, "USD", "CHF", Decimal("0.8850"), 0.08, FOREX_RULE),
    Pair(12087807, "EUR", "GBP", Decimal("0.8350"), 0.06, FOREX_RULE),
)

MARKET_RULES: Final[dict[int, tuple[tuple[Decimal, Decimal], ...]]] = {
    STOCK_RULE: ((Decimal(0), Decimal("0.01")),),
    OPTION_RULE: ((Decimal(0), Decimal("0.01")), (Decimal(3), Decimal("0.05"))),
    FOREX_JPY_RULE: ((Decimal(0), Decimal("0.005")),),
    FOREX_RULE: ((Decimal(0), Decimal("0.00005")),),
}
"""Market rule id → steps of (from this price on, the price increment)."""
