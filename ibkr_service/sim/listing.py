"""What is listed: the stocks, indexes, futures and currency pairs of the simulated world, as tables.

Contract ids are IB's own as far as they are known; nothing depends on that. Reference prices are where the seeded walk
starts; `follows` names the contract whose path another one moves along, so that SPX, SPY and ES agree. To list another
instrument add a row; a `slot` numbers the contract ids of a class of options, so a slot is never reused.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from ibkr_service.sim.listing_rules import (
    CENT_RULE,
    CL_RULE,
    EURO_RULE,
    FOREX_JPY_RULE,
    FOREX_RULE,
    GC_RULE,
    INDEX_FUTURE_RULE,
    INDEX_OPTION_RULE,
    MARKET_RULES,
    OPTION_RULE,
    POUND_RULE,
    STOCK_RULE,
)

__all__ = [
    "FOREIGN_STOCKS",
    "FOREX_JPY_RULE",
    "FOREX_RULE",
    "INDEXES",
    "INDEX_TICK_RULE",
    "MARKET_RULES",
    "NO_OPTIONS",
    "OPTION_CLASSES",
    "OPTION_RULE",
    "PAIRS",
    "ROOTS",
    "SEC_IDS",
    "STOCKS",
    "STOCK_RULE",
    "Index",
    "OptionClass",
    "Pair",
    "Root",
    "Stock",
]

NO_OPTIONS: Final = -1
"""The slot of a stock that has no options."""


@dataclass(frozen=True, slots=True)
class Stock:
    """A row of the stock table; `reference` in its currency, `volatility` per year."""

    slot: int
    con_id: int
    symbol: str
    name: str
    primary_exchange: str
    reference: Decimal
    volatility: float
    industry: str = ""
    category: str = ""
    stock_type: str = "COMMON"
    currency: str = "USD"
    market_rule: int = STOCK_RULE


@dataclass(frozen=True, slots=True)
class Pair:
    """A row of the currency table; `reference` in units of `currency` for one unit of `symbol`."""

    con_id: int
    symbol: str
    currency: str
    reference: Decimal
    volatility: float
    market_rule: int


@dataclass(frozen=True, slots=True)
class Index:
    """A row of the index table; `follows` is the contract id whose path it moves along."""

    con_id: int
    symbol: str
    name: str
    exchange: str
    reference: Decimal
    volatility: float
    follows: int = 0


@dataclass(frozen=True, slots=True)
class Root:
    """A row of the futures table: one product, with a contract in each of `months` (the letters of the trade).

    `expires` names the rule for the last trading day, `listed` says how many months lie ahead; `carry` per year is how
    much dearer the later contract is.
    """

    number: int
    symbol: str
    name: str
    exchange: str
    multiplier: str
    market_rule: int
    months: str
    expires: str
    listed: int
    reference: Decimal
    volatility: float
    carry: float
    follows: int = 0
    under_con_id: int = 0


@dataclass(frozen=True, slots=True)
class OptionClass:
    """A class of options: what trades under one trading class on one underlying.

    `expiries` names the rule for its expiry dates; `settlement` is AM (the opening of that day) or PM (its close). On
    futures `under_con_id` is 0: each expiry is on the future of `symbol` that is the next to end then.
    """

    slot: int
    under_con_id: int
    symbol: str
    trading_class: str
    reference: Decimal
    expiries: str = "weekly"
    settlement: str = "PM"
    strikes_each_side: int = 15
    market_rule: int = OPTION_RULE
    under_sec_type: str = "STK"
    under_name: str = ""
    multiplier: str = "100"
    exchanges: tuple[str, ...] = ()
    """Where it trades; empty for where all options on such an underlying do."""


_TECH, _COMM, _FIN, _ENERGY = "Technology", "Communications", "Financial", "Energy"
_CYCLICAL, _STAPLES, _INDUSTRY = "Consumer, Cyclical", "Consumer, Non-cyclical", "Industrial"

# fmt: off
STOCKS: Final = (
    Stock(0, 265598, "AAPL", "APPLE INC", "NASDAQ", Decimal(230), 0.28, _TECH, "Computers"),
    Stock(1, 272093, "MSFT", "MICROSOFT CORP", "NASDAQ", Decimal(430), 0.25, _TECH, "Software"),
    Stock(2, 756733, "SPY", "SPDR S&P 500 ETF TRUST", "ARCA", Decimal(590), 0.15, "", "", "ETF"),
    Stock(3, 320227571, "QQQ", "INVESCO QQQ TRUST SERIES 1", "NASDAQ", Decimal(510), 0.20, "", "", "ETF"),
    Stock(4, 3691937, "AMZN", "AMAZON.COM INC", "NASDAQ", Decimal(205), 0.32, _COMM, "Internet"),
    Stock(5, 76792991, "TSLA", "TESLA INC", "NASDAQ", Decimal(340), 0.60, _CYCLICAL, "Auto Manufacturers"),
    Stock(6, 4391, "AMD", "ADVANCED MICRO DEVICES", "NASDAQ", Decimal(140), 0.50, _TECH, "Semiconductors"),
    Stock(7, 4815747, "NVDA", "NVIDIA CORP", "NASDAQ", Decimal(145), 0.50, _TECH, "Semiconductors"),
    Stock(8, 107113386, "META", "META PLATFORMS INC-CLASS A", "NASDAQ", Decimal(560), 0.35, _COMM, "Internet"),
    Stock(9, 208813719, "GOOGL", "ALPHABET INC-CL A", "NASDAQ", Decimal(175), 0.30, _COMM, "Internet"),
    Stock(10, 8314, "IBM", "INTL BUSINESS MACHINES CORP", "NYSE", Decimal(225), 0.22, _TECH, "Computers"),
    Stock(11, 8894, "KO", "COCA-COLA CO/THE", "NYSE", Decimal(63), 0.14, _STAPLES, "Beverages"),
    # Slots 12 to 15 are those of index options, below.
    Stock(16, 15124833, "NFLX", "NETFLIX INC", "NASDAQ", Decimal(880), 0.35, _COMM, "Internet"),
    Stock(17, 270639, "INTC", "INTEL CORP", "NASDAQ", Decimal(25), 0.45, _TECH, "Semiconductors"),
    Stock(18, 1520593, "JPM", "JPMORGAN CHASE & CO", "NYSE", Decimal(245), 0.22, _FIN, "Banks"),
    Stock(19, 10098, "BAC", "BANK OF AMERICA CORP", "NYSE", Decimal(46), 0.25, _FIN, "Banks"),
    Stock(20, 13977, "XOM", "EXXON MOBIL CORP", "NYSE", Decimal(120), 0.24, _ENERGY, "Oil&Gas"),
    Stock(21, 6459, "DIS", "WALT DISNEY CO/THE", "NYSE", Decimal(115), 0.26, _COMM, "Media"),
    Stock(22, 9579970, "IWM", "ISHARES RUSSELL 2000 ETF", "ARCA", Decimal(235), 0.22, "", "", "ETF"),
    Stock(23, 51529211, "GLD", "SPDR GOLD SHARES", "ARCA", Decimal(250), 0.15, "", "", "ETF"),
    Stock(24, 15547841, "TLT", "ISHARES 20+ YEAR TREASURY BD", "NASDAQ", Decimal(90), 0.15, "", "", "ETF"),
    Stock(25, 208813720, "GOOG", "ALPHABET INC-CL C", "NASDAQ", Decimal(177), 0.30, _COMM, "Internet"),
    Stock(26, 87335484, "C", "CITIGROUP INC", "NYSE", Decimal(69), 0.27, _FIN, "Banks"),
    Stock(27, 4627828, "GS", "GOLDMAN SACHS GROUP INC", "NYSE", Decimal(580), 0.26, _FIN, "Banks"),
    Stock(28, 49462172, "V", "VISA INC-CLASS A SHARES", "NYSE", Decimal(310), 0.20, _FIN, "Diversified Finan Serv"),
    Stock(29, 38685693, "MA", "MASTERCARD INC - A", "NYSE", Decimal(520), 0.21, _FIN, "Diversified Finan Serv"),
    Stock(30, 9599491, "F", "FORD MOTOR CO", "NYSE", Decimal(11), 0.35, _CYCLICAL, "Auto Manufacturers"),
    Stock(31, 37018770, "T", "AT&T INC", "NYSE", Decimal(23), 0.22, _COMM, "Telecommunications"),
    Stock(32, 13824, "WMT", "WALMART INC", "NYSE", Decimal(90), 0.20, _CYCLICAL, "Retail"),
    Stock(33, 11031, "PFE", "PFIZER INC", "NYSE", Decimal(25), 0.26, _STAPLES, "Pharmaceuticals"),
    Stock(34, 8719, "JNJ", "JOHNSON & JOHNSON", "NYSE", Decimal(155), 0.16, _STAPLES, "Pharmaceuticals"),
    Stock(35, 4762, "BA", "BOEING CO/THE", "NYSE", Decimal(150), 0.35, _INDUSTRY, "Aerospace/Defense"),
    Stock(36, 268084, "CSCO", "CISCO SYSTEMS INC", "NASDAQ", Decimal(58), 0.20, _COMM, "Telecommunications"),
    Stock(37, 272800, "ORCL", "ORACLE CORP", "NYSE", Decimal(190), 0.30, _TECH, "Software"),
    Stock(38, 265768, "ADBE", "ADOBE INC", "NASDAQ", Decimal(515), 0.32, _TECH, "Software"),
    Stock(39, 273544, "QCOM", "QUALCOMM INC", "NASDAQ", Decimal(157), 0.34, _TECH, "Semiconductors"),
    Stock(40, 199169591, "PYPL", "PAYPAL HOLDINGS INC", "NASDAQ", Decimal(86), 0.36, _STAPLES, "Commercial Services"),
    Stock(41, 365207014, "UBER", "UBER TECHNOLOGIES INC", "NYSE", Decimal(71), 0.40, _TECH, "Internet"),
    Stock(42, 73128548, "DIA", "SPDR DJIA TRUST", "ARCA", Decimal(442), 0.14, "", "", "ETF"),
    Stock(43, 4215220, "XLF", "FINANCIAL SELECT SECTOR SPDR", "ARCA", Decimal(50), 0.18, "", "", "ETF"),
    Stock(44, 39039301, "SLV", "ISHARES SILVER TRUST", "ARCA", Decimal(28), 0.28, "", "", "ETF"),
    Stock(NO_OPTIONS, 117902840, "ASML", "ASML HOLDING NV-NY REG SHS", "NASDAQ", Decimal(670), 0.38, _TECH,
          "Semiconductors", "NY REG SHRS"),
    Stock(NO_OPTIONS, 195014116, "SHOP", "SHOPIFY INC - CLASS A", "NASDAQ", Decimal(105), 0.50, _TECH, "Internet"),
)

FOREIGN_STOCKS: Final = (
    Stock(NO_OPTIONS, 117589399, "ASML", "ASML HOLDING NV", "AEB", Decimal(640), 0.38, _TECH, "Semiconductors",
          currency="EUR", market_rule=EURO_RULE),
    Stock(NO_OPTIONS, 195014113, "SHOP", "SHOPIFY INC - CLASS A", "TSE", Decimal(147), 0.50, _TECH, "Internet",
          currency="CAD", market_rule=CENT_RULE),
    Stock(NO_OPTIONS, 14121, "SIE", "SIEMENS AG-REG", "IBIS", Decimal(182), 0.26, _INDUSTRY, "Machinery",
          currency="EUR", market_rule=EURO_RULE),
    Stock(NO_OPTIONS, 155592145, "VOD", "VODAFONE GROUP PLC", "LSE", Decimal("0.72"), 0.24, _COMM,
          "Telecommunications", currency="GBP", market_rule=POUND_RULE),
)
"""Shares in other currencies; two of them carry a symbol that is also listed in US dollars."""

PAIRS: Final = (
    Pair(12087792, "EUR", "USD", Decimal("1.0850"), 0.08, FOREX_RULE),
    Pair(12087797, "GBP", "USD", Decimal("1.2650"), 0.08, FOREX_RULE),
    Pair(15016059, "USD", "JPY", Decimal("150.00"), 0.10, FOREX_JPY_RULE),
    Pair(14433401, "AUD", "USD", Decimal("0.6550"), 0.10, FOREX_RULE),
    Pair(15016062, "USD", "CAD", Decimal("1.3900"), 0.07, FOREX_RULE),
    Pair(12087820, "USD", "CHF", Decimal("0.8850"), 0.08, FOREX_RULE),
    Pair(12087807, "EUR", "GBP", Decimal("0.8350"), 0.06, FOREX_RULE),
    Pair(14321016, "EUR", "JPY", Decimal("162.75"), 0.10, FOREX_JPY_RULE),
    Pair(39453441, "NZD", "USD", Decimal("0.5870"), 0.10, FOREX_RULE),
    Pair(12087817, "EUR", "CHF", Decimal("0.9600"), 0.06, FOREX_RULE),
    Pair(14321015, "GBP", "JPY", Decimal("189.75"), 0.11, FOREX_JPY_RULE),
    Pair(710_000_001, "EUR", "AUD", Decimal("1.6565"), 0.08, FOREX_RULE),
    Pair(710_000_002, "EUR", "CAD", Decimal("1.5080"), 0.07, FOREX_RULE),
    Pair(710_000_003, "AUD", "JPY", Decimal("98.25"), 0.12, FOREX_JPY_RULE),
    Pair(710_000_004, "CAD", "JPY", Decimal("107.90"), 0.11, FOREX_JPY_RULE),
    Pair(710_000_005, "CHF", "JPY", Decimal("169.50"), 0.10, FOREX_JPY_RULE),
    Pair(710_000_006, "GBP", "CHF", Decimal("1.1195"), 0.07, FOREX_RULE),
    Pair(710_000_007, "AUD", "CAD", Decimal("0.9105"), 0.08, FOREX_RULE),
    Pair(710_000_008, "AUD", "NZD", Decimal("1.1160"), 0.06, FOREX_RULE),
    Pair(710_000_009, "EUR", "NZD", Decimal("1.8485"), 0.09, FOREX_RULE),
)

INDEXES: Final = (
    Index(416904, "SPX", "S&P 500 Stock Index", "CBOE", Decimal(5900), 0.15, follows=756733),
    Index(416843, "NDX", "NASDAQ 100 Stock Index", "NASDAQ", Decimal(20750), 0.20, follows=320227571),
    Index(13455763, "VIX", "CBOE Volatility Index", "CBOE", Decimal(16), 1.00),
    Index(416888, "RUT", "Russell 2000 Stock Index", "RUSSELL", Decimal(2370), 0.22, follows=9579970),
)

ROOTS: Final = (
    Root(0, "ES", "E-mini S&P 500", "CME", "50", INDEX_FUTURE_RULE, "HMUZ", "third friday", 5,
         Decimal(5900), 0.15, 0.03, follows=756733, under_con_id=11004968),
    Root(1, "MES", "Micro E-Mini S&P 500 Stock Price Index", "CME", "5", INDEX_FUTURE_RULE, "HMUZ", "third friday", 5,
         Decimal(5900), 0.15, 0.03, follows=756733, under_con_id=362673777),
    Root(2, "NQ", "E-mini NASDAQ 100", "CME", "20", INDEX_FUTURE_RULE, "HMUZ", "third friday", 5,
         Decimal(20750), 0.20, 0.03, follows=320227571, under_con_id=11004958),
    Root(3, "CL", "Light Sweet Crude Oil", "NYMEX", "1000", CL_RULE, "FGHJKMNQUVXZ", "before the 25th", 12,
         Decimal("69.50"), 0.35, -0.02, under_con_id=17340715),
    Root(4, "GC", "Gold", "COMEX", "100", GC_RULE, "GJMQVZ", "third last day", 6,
         Decimal(2680), 0.15, 0.05, follows=51529211, under_con_id=17340718),
)

_CENT_CLASSES: Final = {"SPY", "QQQ", "IWM"}
"""The exchanges quote these options in cents at any price, all others in five cents from 3.00 on."""

OPTION_CLASSES: Final = (
    *(
        OptionClass(row.slot, row.con_id, row.symbol, row.symbol, row.reference, under_name=row.name,
                    expiries="daily" if row.symbol in {"SPY", "QQQ"} else "weekly",
                    market_rule=STOCK_RULE if row.symbol in _CENT_CLASSES else OPTION_RULE)
        for row in STOCKS if row.slot != NO_OPTIONS
    ),
    OptionClass(12, 416904, "SPX", "SPX", Decimal(5900), "monthly", "AM", 50, INDEX_OPTION_RULE, "IND",
                "S&P 500 Stock Index"),
    OptionClass(13, 416904, "SPX", "SPXW", Decimal(5900), "daily", "PM", 50, INDEX_OPTION_RULE, "IND",
                "S&P 500 Stock Index"),
    OptionClass(14, 416843, "NDX", "NDX", Decimal(20750), "monthly", "AM", 40, INDEX_OPTION_RULE, "IND",
                "NASDAQ 100 Stock Index"),
    OptionClass(15, 416843, "NDX", "NDXP", Decimal(20750), "daily", "PM", 40, INDEX_OPTION_RULE, "IND",
                "NASDAQ 100 Stock Index"),
    # Quarterly ones end at the opening of the future's last day, those of the month's last day at its close.
    OptionClass(45, 0, "ES", "ES", Decimal(5900), "quarterly", "AM", 50, INDEX_OPTION_RULE, "FUT", "E-mini S&P 500",
                "50", ("CME",)),
    OptionClass(46, 0, "ES", "EW", Decimal(5900), "end of month", "PM", 50, INDEX_OPTION_RULE, "FUT", "E-mini S&P 500",
                "50", ("CME",)),
)
# fmt: on

_ISINS = {
    265598: ("US0378331005", "BBG000B9XRY4"),
    272093: ("US5949181045", "BBG000BPH459"),
    756733: ("US78462F1030", "BBG000BDTBL9"),
    3691937: ("US0231351067", "BBG000BVPV84"),
    76792991: ("US88160R1014", "BBG000N9MNX3"),
    4815747: ("US67066G1040", "BBG000BBJQV0"),
    208813719: ("US02079K3059", "BBG009S39JX6"),
    8314: ("US4592001014", "BBG000BLNNH6"),
}
SEC_IDS: Final = {
    con_id: (("ISIN", isin), ("CUSIP", isin[2:11]), ("FIGI", figi)) for con_id, (isin, figi) in _ISINS.items()
}
"""Contract id → identifiers of other registries; a CUSIP is the middle of an American ISIN."""

INDEX_TICK_RULE: Final = CENT_RULE
