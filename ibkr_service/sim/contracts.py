"""What is traded, and how a client's description finds it.

`Contract` is a listed instrument, `Combo` a spread of them, `ContractSpec` what a client wrote: an id, a name, or a
partial description. `Universe` matches one to the other; it knows nothing of prices.

    UnknownContract     no instrument matches (IB: 200)
    └── AmbiguousContract   several do, and one was wanted (IB: 200 with another text)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Final

from ibkr_service.sim import listing, options
from ibkr_service.sim.wire import FieldError, Fields

NOT_FOUND_TEXT: Final = "No security definition has been found for the request"
COMBO_CON_ID: Final = 28812380
"""The id under which IB reports any combo of US dollars."""

COMBO_TICK: Final = Decimal("0.01")
STOCK_EXCHANGES: Final = ("SMART", "NYSE", "NASDAQ", "ARCA", "BATS", "IEX", "ISLAND")
OPTION_EXCHANGES: Final = ("SMART", "CBOE")
FOREX_EXCHANGES: Final = ("IDEALPRO",)
SEC_TYPES: Final = frozenset(
    {"STK", "OPT", "CASH", "BAG", "FUT", "FOP", "IND", "CFD", "BOND", "FUND", "CMDTY", "WAR", "CRYPTO"}
)
MATCHES_MAX: Final = 16
CURRENCY_LETTERS: Final = 3

_RIGHTS = {"C": "C", "CALL": "C", "P": "P", "PUT": "P", "": "", "?": "", "0": ""}
_EXCHANGE_ALIASES = {"ISLAND": "NASDAQ", "AMEX": "AMEX"}


class UnknownContract(LookupError):
    """No listed instrument matches a description."""

    def __init__(self, text: str = NOT_FOUND_TEXT) -> None:
        super().__init__(text)
        self.text = text


class AmbiguousContract(UnknownContract):
    """Several instruments match where one was wanted."""

    def __init__(self, symbol: str) -> None:
        super().__init__(f"The contract description specified for {symbol} is ambiguous.")


@dataclass(frozen=True, slots=True)
class Contract:
    """A listed instrument. Dates are ``YYYYMMDD``; `strike` and increments in `currency`."""

    con_id: int
    symbol: str
    sec_type: str
    currency: str
    exchange: str
    local_symbol: str
    trading_class: str
    market_rule: int
    exchanges: tuple[str, ...]
    long_name: str
    primary_exchange: str = ""
    expiry: str = ""
    strike: Decimal = Decimal(0)
    right: str = ""
    multiplier: str = ""
    under_con_id: int = 0

    @property
    def key(self) -> int:
        """What identifies it."""
        return self.con_id

    @property
    def units(self) -> Decimal:
        """How much of the underlying one contract is worth: the multiplier, 1 when there is none."""
        return Decimal(self.multiplier or 1)

    @property
    def min_tick(self) -> Decimal:
        """The finest price increment."""
        return listing.MARKET_RULES[self.market_rule][0][1]

    def tick_at(self, price: Decimal) -> Decimal:
        """The price increment that holds at a price."""
        increment = self.min_tick
        for low_edge, step in listing.MARKET_RULES[self.market_rule]:
            if abs(price) >= low_edge:
                increment = step
        return increment


@dataclass(frozen=True, slots=True)
class Leg:
    """One leg of a combo: buying the combo trades `ratio` of `contract` on the leg's own side."""

    contract: Contract
    ratio: int
    action: str

    @property
    def sign(self) -> int:
        """+1 when buying the combo buys this leg, -1 when it sells it."""
        return 1 if self.action == "BUY" else -1


@dataclass(frozen=True, slots=True)
class Combo:
    """A spread traded as one instrument (IB: security type BAG); its price is the sum of its legs'."""

    symbol: str
    currency: str
    exchange: str
    legs: tuple[Leg, ...]

    @property
    def key(self) -> tuple[tuple[int, int, str], ...]:
        """What identifies it."""
        return tuple((leg.contract.con_id, leg.ratio, leg.action) for leg in self.legs)

    @property
    def units(self) -> Decimal:
        """The multiplier of its legs (of the first; combos of unlike multipliers are not modelled)."""
        return self.legs[0].contract.units

    @property
    def min_tick(self) -> Decimal:
        """The price increment."""
        return COMBO_TICK

    def tick_at(self, _price: Decimal) -> Decimal:
        """The price increment that holds at a price."""
        return COMBO_TICK


Instrument = Contract | Combo


@dataclass(frozen=True, slots=True)
class LegSpec:
    """A leg as a client wrote it."""

    con_id: int
    ratio: int
    action: str
    exchange: str


@dataclass(frozen=True, slots=True)
class ContractSpec:
    """A contract as a client described it; what it left out is empty, 0 or None."""

    con_id: int = 0
    symbol: str = ""
    sec_type: str = ""
    expiry: str = ""
    strike: Decimal | None = None
    right: str = ""
    multiplier: str = ""
    exchange: str = ""
    primary_exchange: str = ""
    currency: str = ""
    local_symbol: str = ""
    trading_class: str = ""
    legs: tuple[LegSpec, ...] = ()

    @property
    def is_combo(self) -> bool:
        """Whether it describes a combo."""
        return self.sec_type == "BAG"


def read_spec(fields: Fields) -> ContractSpec:
    """Take the twelve fields in which a client describes a contract."""
    con_id, symbol, sec_type, expiry = fields.whole(), fields.text(), fields.text().upper(), fields.text()
    strike, right, multiplier = fields.number(), fields.text().upper(), fields.text()
    if right not in _RIGHTS:
        raise FieldError(f"expected a right such as C or P, not {right[:40]!r}")
    return ContractSpec(
        con_id=con_id,
        symbol=symbol.upper(),
        sec_type=sec_type,
        expiry=expiry,
        strike=strike or None,
        right=_RIGHTS[right],
        multiplier=multiplier.removesuffix(".0"),
        exchange=fields.text().upper(),
        primary_exchange=fields.text().upper(),
        currency=fields.text().upper(),
        local_symbol=fields.text().upper(),
        trading_class=fields.text().upper(),
    )


def read_legs(fields: Fields) -> tuple[LegSpec, ...]:
    """Take the legs of a combo, as market data requests carry them."""
    return tuple(
        LegSpec(fields.whole(), fields.whole(1), fields.text().upper(), fields.text().upper())
        for _ in range(fields.count())
    )


class Universe:
    """Everything that can be traded.

    Args:
        today: the gateway's date when it started: option expiries are those that lay ahead on that day.
    """

    def __init__(self, today: date) -> None:
        self.today = today
        self.stocks = {row.con_id: _stock(row) for row in listing.STOCKS}
        self.pairs = {row.con_id: _pair(row) for row in listing.PAIRS}
        self._chains: dict[int, dict[int, Contract]] = {}

    def by_con_id(self, con_id: int) -> Contract | None:
        """Find the instrument of an id."""
        if contract := self.stocks.get(con_id) or self.pairs.get(con_id):
            return contract
        slot = options.slot_of(con_id)
        for row in listing.STOCKS:
            if row.slot == slot:
                return self._options_of(row).get(con_id)
        return None

    def chain(self, underlying: Contract) -> options.Chain | None:
        """The option chain of a stock, None for anything else."""
        row = next((row for row in listing.STOCKS if row.con_id == underlying.con_id), None)
        return None if row is None else options.chain_of(row, self.today)

    def find(self, spec: ContractSpec) -> list[Contract]:
        """Every instrument that a description fits, in a stable order; each with the exchange that was asked for."""
        return [
            replace(contract, exchange=spec.exchange) if spec.exchange else contract
            for contract in self._candidates(spec)
            if _fits(spec, contract)
        ]

    def resolve(self, spec: ContractSpec) -> Instrument:
        """The one instrument that a description means.

        Raises:
            UnknownContract: there is none; or (AmbiguousContract) there are several.
        """
        if spec.is_combo:
            return self._combo(spec)
        matches = self.find(spec)
        if not matches:
            raise UnknownContract
        if len(matches) > 1:
            raise AmbiguousContract(spec.symbol or spec.local_symbol)
        return matches[0]

    def search(self, pattern: str) -> list[Contract]:
        """Stocks whose symbol begins with, or whose name contains, a pattern."""
        wanted = pattern.strip().upper()
        if not wanted:
            return []
        by_symbol = [stock for stock in self.stocks.values() if stock.symbol.startswith(wanted)]
        by_name = [stock for stock in self.stocks.values() if wanted in stock.long_name and stock not in by_symbol]
        return (by_symbol + by_name)[:MATCHES_MAX]

    def pair(self, symbol: str, currency: str) -> Contract | None:
        """The currency pair that prices `symbol` in `currency`."""
        return next((pair for pair in self.pairs.values() if (pair.symbol, pair.currency) == (symbol, currency)), None)

    def _combo(self, spec: ContractSpec) -> Combo:
        legs = [(self.by_con_id(leg.con_id), leg) for leg in spec.legs]
        if not legs or any(contract is None or leg.ratio <= 0 for contract, leg in legs):
            raise UnknownContract
        found = tuple(
            Leg(contract, leg.ratio, "BUY" if leg.action in {"BUY", "B"} else "SELL")
            for contract, leg in legs
            if contract is not None
        )
        return Combo(spec.symbol or found[0].contract.symbol, spec.currency or "USD", spec.exchange or "SMART", found)

    def _candidates(self, spec: ContractSpec) -> Iterator[Contract]:
        if spec.con_id:
            contract = self.by_con_id(spec.con_id)
            if contract is not None:
                yield contract
        elif spec.sec_type == "STK":
            yield from self.stocks.values()
        elif spec.sec_type == "CASH":
            yield from self.pairs.values()
        elif spec.sec_type == "OPT":
            symbol = spec.symbol or spec.local_symbol.partition(" ")[0]
            for row in listing.STOCKS:
                if symbol == row.symbol or (not symbol and spec.trading_class == row.symbol):
                    yield from self._options_of(row).values()

    def _options_of(self, row: listing.Stock) -> dict[int, Contract]:
        if row.con_id not in self._chains:
            chain = options.chain_of(row, self.today)
            self._chains[row.con_id] = {series.con_id: _option(row, series) for series in chain.series}
        return self._chains[row.con_id]


def _fits(spec: ContractSpec, contract: Contract) -> bool:
    # What tells most options apart is looked at first: a chain has hundreds.
    if (spec.strike is not None and spec.strike != contract.strike) or not contract.expiry.startswith(spec.expiry):
        return False
    primary = _EXCHANGE_ALIASES.get(spec.primary_exchange, spec.primary_exchange)
    wanted = (
        (spec.symbol, contract.symbol),
        (spec.sec_type, contract.sec_type),
        (spec.currency, contract.currency),
        (spec.local_symbol, contract.local_symbol),
        (spec.trading_class, contract.trading_class),
        (spec.right, contract.right),
        (spec.multiplier, contract.multiplier or spec.multiplier),
        (primary, contract.primary_exchange or primary),
    )
    return all(asked in {"", has} for asked, has in wanted) and (
        not spec.exchange or spec.exchange in contract.exchanges
    )


def _stock(row: listing.Stock) -> Contract:
    return Contract(
        con_id=row.con_id,
        symbol=row.symbol,
        sec_type="STK",
        currency="USD",
        exchange="SMART",
        local_symbol=row.symbol,
        trading_class="NMS" if row.primary_exchange == "NASDAQ" else row.symbol,
        market_rule=listing.STOCK_RULE,
        exchanges=STOCK_EXCHANGES,
        long_name=row.name,
        primary_exchange=row.primary_exchange,
    )


def _pair(row: listing.Pair) -> Contract:
    return Contract(
        con_id=row.con_id,
        symbol=row.symbol,
        sec_type="CASH",
        currency=row.currency,
        exchange="IDEALPRO",
        local_symbol=f"{row.symbol}.{row.currency}",
        trading_class=f"{row.symbol}.{row.currency}",
        market_rule=row.market_rule,
        exchanges=FOREX_EXCHANGES,
        long_name=f"{row.symbol} cash against {row.currency}",
    )


def _option(row: listing.Stock, series: options.Series) -> Contract:
    expiry = f"{series.expiry:%Y%m%d}"
    return Contract(
        con_id=series.con_id,
        symbol=row.symbol,
        sec_type="OPT",
        currency="USD",
        exchange="SMART",
        local_symbol=f"{row.symbol:<6}{expiry[2:]}{series.right}{int(series.strike * 1000):08d}",
        trading_class=row.symbol,
        market_rule=listing.OPTION_RULE,
        exchanges=OPTION_EXCHANGES,
        long_name=row.name,
        expiry=expiry,
        strike=series.strike,
        right=series.right,
        multiplier=options.MULTIPLIER,
        under_con_id=row.con_id,
    )
