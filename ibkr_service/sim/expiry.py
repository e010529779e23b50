"""What expires, and what is exercised: positions that turn into others, or into cash, without an order.

    at the close of the last day    orders in it are cancelled
    worthless options               vanish; so do those in the money that their owner has let lapse
    options in the money            on stocks: exercised or assigned into the stock at the strike; on futures: into
                                    the future; on indexes: paid out in cash
    futures                         paid out at the last price

The broker does it at the moment of the close, IB during the night. Assignment is total: every short option that ends in
the money is assigned, none before. A premium stays with the option: it is realised there, and the stock costs the
strike.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import date, datetime
from decimal import Decimal
from functools import partial
from typing import Final

from ibkr_service.sim.accounts import Account
from ibkr_service.sim.calendars import Calendar
from ibkr_service.sim.clock import GatewayClock
from ibkr_service.sim.contracts import Contract
from ibkr_service.sim.margin import intrinsic
from ibkr_service.sim.rules import Refused, invalid

IN_THE_MONEY_MIN: Final = Decimal("0.01")
EXERCISE: Final = 1
LAPSE: Final = 2

_OPTIONS = frozenset({"OPT", "FOP"})


@dataclass(frozen=True, slots=True)
class Settlement:
    """A change of position without an order: as if so much had been traded at a price, free of charge."""

    account: str
    contract: Contract
    quantity: Decimal
    price: Decimal
    moment: datetime


class Expiry:
    """Watches over everything that expires.

    Args:
        clock: gateway time.
        calendar: when the last day ends.
        accounts: by code.
        underlying: what an option is an option on.
        price_of: the price that settles; None while there is none.
        begin_day: see to an account's daily tallies before something is booked.
        ended: told that a contract has expired, before its positions are settled.
        changed: told of the positions that a settlement has changed.
    """

    def __init__(
        self,
        clock: GatewayClock,
        calendar: Calendar,
        accounts: dict[str, Account],
        underlying: Callable[[Contract], Contract | None],
        price_of: Callable[[Contract], Decimal | None],
        begin_day: Callable[[Account], None],
        ended: Callable[[Contract], None],
        changed: Callable[[Account, list[int]], None],
    ) -> None:
        self._clock = clock
        self._calendar = calendar
        self._accounts = accounts
        self._underlying = underlying
        self._price_of = price_of
        self._begin_day = begin_day
        self._ended = ended
        self._changed = changed
        self._watched: set[int] = set()
        self._lapsed: dict[tuple[str, int], Decimal] = {}
        self.settlements: list[Settlement] = []

    def watch(self, contracts: Iterable[Contract]) -> None:
        """See to it that these are settled when they expire."""
        for contract in contracts:
            if contract.expiry and contract.con_id not in self._watched:
                self._watched.add(contract.con_id)
                delay_s = (self.end_of(contract) - self._clock.now()).total_seconds()
                self._clock.call_later(max(0.0, delay_s), partial(self._expire, contract))

    def end_of(self, contract: Contract) -> datetime:
        """When a contract stops trading."""
        text = contract.expiry
        return self._calendar.close_of(date(int(text[:4]), int(text[4:6]), int(text[6:8])))

    def is_over(self, contract: Contract) -> bool:
        """Whether a contract has expired."""
        return bool(contract.expiry) and self._clock.now() >= self.end_of(contract)

    def exercise(self, account: Account, contract: Contract, action: int, quantity: int, *, overrides: bool) -> None:
        """Exercise a long option now, or let it lapse at its expiry.

        Raises:
            Refused: there is no such position, or it makes no sense to exercise it.
        """
        if action not in {EXERCISE, LAPSE} or quantity <= 0:
            raise invalid("Invalid exercise action or quantity")
        if contract.sec_type not in _OPTIONS or account.quantity(contract.con_id) < quantity:
            raise invalid(f"No unlapsed position exists in this option in account {account.code}")
        key = (account.code, contract.con_id)
        if action == LAPSE:
            self._lapsed[key] = self._lapsed.get(key, Decimal(0)) + quantity
            return
        if not overrides and self._value(contract) < IN_THE_MONEY_MIN:
            raise Refused(
                322, "Error processing request.-'bS' : cause - Exercise ignored because option is not in-the-money."
            )
        self._settle_option(account, contract, Decimal(quantity))

    def assign(self, account: Account, option: Contract, quantity: Decimal) -> None:
        """Assign so many of a short option before it expires, or exercise so many of a long one.

        Raises:
            ValueError: the account holds no such option, or not so many.
        """
        held = account.quantity(option.con_id)
        if option.sec_type not in _OPTIONS or not 0 < quantity <= abs(held):
            raise ValueError(f"account holds {held} of {option.local_symbol}, not {quantity}")
        self._settle_option(account, option, quantity if held > 0 else -quantity)

    def _value(self, option: Contract) -> Decimal:
        underlying = self._underlying(option)
        spot = None if underlying is None else self._price_of(underlying)
        return Decimal(0) if spot is None else intrinsic(option, spot)

    def _expire(self, contract: Contract) -> None:
        self._watched.discard(contract.con_id)
        self._ended(contract)
        for account in self._accounts.values():
            quantity = account.quantity(contract.con_id)
            if not quantity:
                continue
            if contract.sec_type in _OPTIONS:
                self._expire_option(account, contract, quantity)
            else:
                price = self._price_of(contract)
                assert price is not None, "what is held has been traded"
                self._book(account, [(contract, -quantity, price)])

    def _expire_option(self, account: Account, contract: Contract, quantity: Decimal) -> None:
        lapsed = min(max(quantity, Decimal(0)), self._lapsed.pop((account.code, contract.con_id), Decimal(0)))
        exercised = quantity - lapsed if self._value(contract) >= IN_THE_MONEY_MIN else Decimal(0)
        if quantity != exercised:
            self._book(account, [(contract, exercised - quantity, Decimal(0))])
        if exercised:
            self._settle_option(account, contract, exercised)

    def _settle_option(self, account: Account, option: Contract, quantity: Decimal) -> None:
        """Turn options (short ones: negative) into what they are options on, or into cash."""
        underlying = self._underlying(option)
        if underlying is None or underlying.sec_type == "IND":
            self._book(account, [(option, -quantity, self._value(option))])
            return
        direction = 1 if option.right == "C" else -1
        units = option.units if underlying.sec_type != "FUT" else Decimal(1)
        self._book(
            account, [(option, -quantity, Decimal(0)), (underlying, quantity * direction * units, option.strike)]
        )

    def _book(self, account: Account, trades: list[tuple[Contract, Decimal, Decimal]]) -> None:
        self._begin_day(account)
        moment = self._clock.now()
        for contract, quantity, price in trades:
            account.trade(contract, quantity, price, Decimal(0))
            self.settlements.append(Settlement(account.code, contract, quantity, price, moment))
        self._changed(account, [contract.con_id for contract, _, _ in trades])
        self.watch(contract for contract, _, _ in trades if account.quantity(contract.con_id))
