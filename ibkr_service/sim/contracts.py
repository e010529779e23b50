"""How a client's description finds what is traded.

`ContractSpec` is what a client wrote: an id, a name, or a partial description. `Universe` matches it to the `Contract`
or `Combo` that is meant; it knows nothing of prices.

    UnknownContract     no instrument matches (IB: 200)
    └── AmbiguousContract   several do, and one was wanted (IB: 200 with another text)
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from decimal import Decimal
from typing import Final

from ibkr_service.sim import listed, listing, options
from ibkr_service.sim.instruments import COMBO_CON_ID, COMBO_TICK, Combo, Contract, Instrument, Leg
from ibkr_service.sim.wire import FieldError, Fields

__all__ = [
    "COMBO_CON_ID",
    "COMBO_TICK",
    "AmbiguousContract",
    "Combo",
    "Contract",
    "ContractSpec",
    "Instrument",
    "Leg",
    "LegSpec",
    "Universe",
    "UnknownContract",
    "read_legs",
    "read_spec",
]

NOT_FOUND_TEXT: Final = "No security definition has been found for the request"
MATCHES_MAX: Final = 16
CONTINUOUS: Final = "CONTFUT"
FUTURES_OPTION: Final = "FOP"

_MONTH_LETTERS = 6

_RIGHTS = {"C": "C", "CALL": "C", "P": "P", "PUT": "P", "": "", "?": "", "0": ""}
_EXCHANGE_ALIASES = {"ISLAND": "NASDAQ", "AMEX": "AMEX", "GLOBEX": "CME", "ECBOT": "CBOT"}


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
    sec_id_type: str = ""
    sec_id: str = ""
    include_expired: bool = False

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
        today: the gateway's date when it started: what expires is listed as on that day.
    """

    def __init__(self, today: date) -> None:
        self.today = today
        self.stocks = listed.stocks(listing.STOCKS)
        self.foreign_stocks = listed.stocks(listing.FOREIGN_STOCKS)
        self.pairs = listed.pairs()
        self.indexes = listed.indexes()
        self.futures: dict[int, Contract] = {}
        """Every future that is listed, products in the order of the table, soonest first."""
        self.expired_futures: dict[int, Contract] = {}
        for root in listing.ROOTS:
            expired, ahead = listed.futures_of(root, today)
            self.futures |= {contract.con_id: contract for contract in ahead}
            self.expired_futures |= {contract.con_id: contract for contract in expired}
        self._plain = self.stocks | self.foreign_stocks | self.pairs | self.indexes | self.futures
        self._pairs = {(pair.symbol, pair.currency): pair for pair in self.pairs.values()}
        self._options: dict[int, dict[int, Contract]] = {}

    def by_con_id(self, con_id: int) -> Contract | None:
        """Find the instrument of an id."""
        if contract := self._plain.get(con_id) or self.expired_futures.get(con_id):
            return contract
        row = _CLASSES_BY_SLOT.get(options.slot_of(con_id))
        return None if row is None else self._options_of(row).get(con_id)

    def chains(self, underlying: Contract) -> list[options.Chain]:
        """The option chains of a stock, an index or a future, one per trading class; empty when it has none."""
        return [chain for _, chain in self.chains_by_class(underlying)]

    def chains_by_class(self, underlying: Contract) -> list[tuple[listing.OptionClass, options.Chain]]:
        """The same, each with its class."""
        if underlying.sec_type != "FUT":
            return [(row, options.chain_of(row, self.today)) for row in _CLASSES.get(underlying.con_id, ())]
        rows = (row for row in _CLASSES.get(0, ()) if row.symbol == underlying.symbol)
        found = ((row, listed.chain_on(row, underlying, self.today)) for row in rows)
        return [(row, chain) for row, chain in found if chain.expiries]

    def chain(self, underlying: Contract) -> options.Chain | None:
        """The first option chain of a stock or an index, None when it has none."""
        return next(iter(self.chains(underlying)), None)

    def derivatives(self, contract: Contract) -> tuple[str, ...]:
        """The security types that are listed on a contract."""
        if contract.sec_type == "FUT":
            return ("FOP",) if self.chains(contract) else ()
        return ("OPT",) if contract.con_id in _CLASSES else ()

    def underlying(self, contract: Contract) -> Contract | None:
        """What an option is an option on."""
        return self._plain.get(contract.under_con_id)

    def front(self, symbol: str) -> Contract | None:
        """The future of a product that expires next."""
        return next((contract for contract in self.futures.values() if contract.symbol == symbol), None)

    def find(self, spec: ContractSpec) -> list[Contract]:
        """Every instrument that a description fits, in a stable order; each with the exchange that was asked for."""
        return [
            replace(contract, exchange=_exchange_of(contract, spec.exchange)) if spec.exchange else contract
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
        """Stocks and indexes whose symbol begins with, or whose name contains, a pattern."""
        wanted = pattern.strip().upper()
        if not wanted:
            return []
        known = [*self.stocks.values(), *self.foreign_stocks.values(), *self.indexes.values()]
        by_symbol = [contract for contract in known if contract.symbol.startswith(wanted)]
        by_symbol.sort(key=lambda contract: contract.symbol != wanted)
        by_name = [contract for contract in known if wanted in contract.long_name.upper() and contract not in by_symbol]
        return (by_symbol + by_name)[:MATCHES_MAX]

    def pair(self, symbol: str, currency: str) -> Contract | None:
        """The currency pair that prices `symbol` in `currency`."""
        return self._pairs.get((symbol, currency))

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

    def _candidates(self, spec: ContractSpec) -> Iterable[Contract]:
        if spec.con_id:
            contract = self.by_con_id(spec.con_id)
            return [] if contract is None else [_as_asked(spec, contract)]
        look = _LOOKS.get(spec.sec_type)
        return [] if look is None else look(self, spec)

    def _shares(self, _spec: ContractSpec) -> Iterable[Contract]:
        return [*self.stocks.values(), *self.foreign_stocks.values()]

    def _continuous(self, spec: ContractSpec) -> Iterator[Contract]:
        """The front month of a product, under the name of a series that never ends."""
        front = self.front(spec.symbol)
        if front is not None:
            yield _as_asked(spec, front)

    def _dated(self, spec: ContractSpec) -> Iterator[Contract]:
        if spec.include_expired:
            yield from self.expired_futures.values()
        yield from self.futures.values()

    def _option_candidates(self, spec: ContractSpec) -> Iterator[Contract]:
        local_class = spec.local_symbol.partition(" ")[0]
        if spec.sec_type == FUTURES_OPTION:
            local_class = local_class[:-2]  # without month and year
        for row in listing.OPTION_CLASSES:
            if (row.under_sec_type == "FUT") != (spec.sec_type == FUTURES_OPTION):
                continue
            names = (
                (spec.symbol, row.symbol),
                (local_class, row.trading_class),
                (spec.trading_class, row.trading_class),
            )
            asked = [(wanted, has) for wanted, has in names if wanted]
            if asked and all(wanted == has for wanted, has in asked):
                yield from self._options_of(row).values()

    def _options_of(self, row: listing.OptionClass) -> dict[int, Contract]:
        if row.slot not in self._options:
            self._options[row.slot] = {option.con_id: option for option in listed.options_of(row, self.today)}
        return self._options[row.slot]


_LOOKS: Final[dict[str, Callable[[Universe, ContractSpec], Iterable[Contract]]]] = {
    "STK": Universe._shares,  # noqa: SLF001  the table belongs to the class
    "CASH": lambda universe, _spec: universe.pairs.values(),
    "IND": lambda universe, _spec: universe.indexes.values(),
    "FUT": Universe._dated,  # noqa: SLF001  same
    CONTINUOUS: Universe._continuous,  # noqa: SLF001  same
    "OPT": Universe._option_candidates,  # noqa: SLF001  same
    FUTURES_OPTION: Universe._option_candidates,  # noqa: SLF001  same
}

_CLASSES_BY_SLOT: Final = {row.slot: row for row in listing.OPTION_CLASSES}
_CLASSES: Final[dict[int, list[listing.OptionClass]]] = {}
for _row in listing.OPTION_CLASSES:
    _CLASSES.setdefault(_row.under_con_id, []).append(_row)


def _as_asked(spec: ContractSpec, contract: Contract) -> Contract:
    is_continuous = spec.sec_type == CONTINUOUS and contract.sec_type == "FUT"
    return replace(contract, sec_type=CONTINUOUS) if is_continuous else contract


def _exchange_of(contract: Contract, asked: str) -> str:
    return asked if asked in contract.exchanges else _EXCHANGE_ALIASES[asked]


def _fits(spec: ContractSpec, contract: Contract) -> bool:
    # What tells most options apart is looked at first: a chain has thousands.
    if (spec.strike is not None and spec.strike != contract.strike) or not _is_of_date(spec.expiry, contract):
        return False
    wanted = (
        (spec.symbol, contract.symbol),
        (spec.sec_type, contract.sec_type),
        (spec.currency, contract.currency),
        (spec.local_symbol, contract.local_symbol),
        (spec.trading_class, contract.trading_class),
        (spec.right, contract.right),
        (spec.multiplier, contract.multiplier or spec.multiplier),
    )
    return (
        all(asked in {"", has} for asked, has in wanted)
        and _is_traded_at(spec.exchange, contract)
        and (not contract.primary_exchange or _is_traded_at(spec.primary_exchange, contract))
        and _has_id(spec, contract)
    )


def _is_of_date(asked: str, contract: Contract) -> bool:
    """A day means the expiry; a month means the month by which the contract is called."""
    if len(asked) == _MONTH_LETTERS and contract.contract_month:
        return asked == contract.contract_month
    return contract.expiry.startswith(asked)


def _is_traded_at(exchange: str, contract: Contract) -> bool:
    """A primary exchange, too, only tells namesakes apart: any place where the stock is traded will do."""
    return not exchange or exchange in contract.exchanges or _EXCHANGE_ALIASES.get(exchange) in contract.exchanges


def _has_id(spec: ContractSpec, contract: Contract) -> bool:
    return not spec.sec_id or (spec.sec_id_type, spec.sec_id) in contract.sec_ids
