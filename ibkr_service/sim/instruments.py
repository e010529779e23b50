"""What is traded: a `Contract` is a listed instrument, a `Combo` a spread of them.

They know their price grid and their names, nothing of prices and of clients; `contracts.py` finds them.
"""

from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from ibkr_service.sim import listing

COMBO_CON_ID: Final = 28812380
"""The id under which IB reports any combo of US dollars."""

COMBO_TICK: Final = Decimal("0.01")


@dataclass(frozen=True, slots=True)
class Contract:
    """A listed instrument. Dates are ``YYYYMMDD``; `strike` and increments in `currency`.

    `settlement` is AM or PM for what expires: whether its last price is that of the opening or of the close.
    `contract_month` is the ``YYYYMM`` by which a future is called, which for some is not the month of its expiry.
    """

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
    settlement: str = ""
    contract_month: str = ""
    sec_ids: tuple[tuple[str, str], ...] = ()

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
        """The multiplier: the largest of its legs', as IB quotes a stock with an option per share."""
        return max(leg.contract.units for leg in self.legs)

    def weight(self, leg: Leg) -> Decimal:
        """How often a leg's price goes into the combo's: 100 shares with one option count once."""
        return leg.ratio * leg.contract.units / self.units

    @property
    def min_tick(self) -> Decimal:
        """The price increment."""
        return COMBO_TICK

    def tick_at(self, _price: Decimal) -> Decimal:
        """The price increment that holds at a price."""
        return COMBO_TICK


Instrument = Contract | Combo
