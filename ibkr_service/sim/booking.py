"""From a fill to its executions: for a combo one as a whole and one per leg, at the legs' own prices."""

from dataclasses import dataclass
from datetime import date
from decimal import Decimal
from typing import Final

from ibkr_service.sim import fees
from ibkr_service.sim.accounts import Account
from ibkr_service.sim.chance import Chance
from ibkr_service.sim.clock import GatewayClock
from ibkr_service.sim.contracts import Combo, Contract, Instrument
from ibkr_service.sim.market import Market
from ibkr_service.sim.orders import Execution, Order
from ibkr_service.sim.pricing import NEW_YORK
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.valuation import Valuation

EXCHANGE_ZONE_NAME: Final = "US/Eastern"
"""The zone in which IB writes execution times, by its old name."""

_SERIALS = 0x7000_0000


class Bookkeeper:
    """Writes executions, and books them to accounts."""

    def __init__(self, clock: GatewayClock, market: Market, valuation: Valuation, chance: Chance) -> None:
        self._clock = clock
        self._market = market
        self._valuation = valuation
        self._serial = chance.whole(_SERIALS, "exec_id")

    def exchange_time(self) -> str:
        """Now, as executions have it."""
        return f"{self._clock.now().astimezone(NEW_YORK):%Y%m%d %H:%M:%S} {EXCHANGE_ZONE_NAME}"

    def exchange_day(self) -> date:
        """The broker's date."""
        return self._clock.now().astimezone(NEW_YORK).date()

    def book(self, account: Account, order: Order, quantity: Decimal, price: Decimal, quote: Quote) -> list[Execution]:
        """Book a fill that the order has counted already; the order's own execution is the first."""
        self._serial += 1
        signed = order.ticket.sign * quantity
        instrument = order.instrument
        if isinstance(instrument, Contract):
            return [self._traded(account, order, _Piece(instrument, signed, price, order.filled, order.average_price))]
        whole = _Piece(instrument, signed, price, order.filled, order.average_price)
        return [self._execution(order, whole, None), *self._legs(account, order, instrument, signed, quote)]

    def _legs(self, account: Account, order: Order, combo: Combo, signed: Decimal, quote: Quote) -> list[Execution]:
        executions: list[Execution] = []
        for part, leg in enumerate(combo.legs, start=2):
            quantity = signed * leg.sign * leg.ratio
            leg_quote = self._market.prices.quote(leg.contract, quote.at)
            assert leg_quote is not None, "a combo has a quote when all its legs have"
            price = leg_quote.ask if quantity > 0 else leg_quote.bid
            piece = _Piece(leg.contract, quantity, price, order.filled * leg.ratio, price, part)
            executions.append(self._traded(account, order, piece))
        return executions

    def _traded(self, account: Account, order: Order, piece: "_Piece") -> Execution:
        contract = piece.instrument
        assert isinstance(contract, Contract), "a combo as a whole moves no position"
        self._valuation.begin_day(account)
        to_base = self._valuation.to_base
        charge = fees.due(order.charged, contract, abs(piece.signed), piece.price, to_base)
        realized = account.trade(contract, piece.signed, piece.price, charge)
        if realized is not None and contract.sec_type == "CASH":
            realized = realized * to_base(contract.currency) - charge
        return self._execution(order, piece, _Charge(charge, fees.currency_of(contract), realized))

    def _execution(self, order: Order, piece: "_Piece", charge: "_Charge | None") -> Execution:
        return Execution(
            exec_id=f"0000e0d5.{self._serial:08x}.{piece.part:02d}.01",
            order=order,
            instrument=piece.instrument,
            time=self.exchange_time(),
            day=self.exchange_day(),
            exchange=_venue(piece.instrument),
            side="BOT" if piece.signed > 0 else "SLD",
            shares=abs(piece.signed),
            price=piece.price,
            cumulative=piece.cumulative,
            average_price=round(piece.average_price, 8),
            commission=None if charge is None else charge.fees,
            commission_currency="" if charge is None else charge.currency,
            realized=None if charge is None else charge.realized,
        )


@dataclass(frozen=True, slots=True)
class _Piece:
    """What changed hands: of the order's instrument, or of one leg of it."""

    instrument: Instrument
    signed: Decimal
    price: Decimal
    cumulative: Decimal
    average_price: Decimal
    part: int = 1


@dataclass(frozen=True, slots=True)
class _Charge:
    fees: Decimal
    currency: str
    realized: Decimal | None


def _venue(instrument: Instrument) -> str:
    """Where it traded: smart routing sends a stock to its primary exchange, an option to the CBOE."""
    if isinstance(instrument, Combo):
        return instrument.exchange
    if instrument.exchange != "SMART":
        return instrument.exchange
    return instrument.primary_exchange or instrument.exchanges[-1]
