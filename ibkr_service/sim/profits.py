"""Profit and loss as it changes: reqPnL for an account, reqPnLSingle for a position.

TWS looks about once a second and says what has changed. Here too; but between two quotes nothing can change, so that a
stream sleeps until the next quote, the next fill or midnight, and then looks at the second at which it would have
looked anyway. A night of quotes four times a minute costs a tenth of looking every second.

A gateway that is set to look less often looks at everything in the same seconds: one wake-up, and one write per client.
"""

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from ibkr_service.sim import answers
from ibkr_service.sim.accounts import BASE_CURRENCY, Account, Position
from ibkr_service.sim.backoffice import account_of, end_of
from ibkr_service.sim.clock import Timer
from ibkr_service.sim.messages import Request
from ibkr_service.sim.rules import invalid
from ibkr_service.sim.session import Session, Stream
from ibkr_service.sim.wire import Fields

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

LOOK_S: Final = 1.0  # each stream in seconds of its own, as it began
SLEEP_MAX_S: Final = 60.0
PNL, PNL_SINGLE = "pnl", "pnl single"

_JUST_S = 1e-6


class Profits(Stream):
    """One stream of profits.

    Args:
        account: whose.
        write: what there is to say now.
        positions: what it depends on.
    """

    def __init__(
        self,
        gateway: "Gateway",
        session: Session,
        account: Account,
        write: Callable[[], bytes],
        positions: Callable[[], Iterable[Position]],
    ) -> None:
        self._gateway = gateway
        self._session = session
        self._account = account
        self._write = write
        self._positions = positions
        self._every_s = gateway.config.profit_interval_s
        self._began_s = gateway.clock.seconds() if self._every_s <= LOOK_S else 0.0
        self._said = b""
        self._timer: Timer | None = None
        self._due_s = math.inf

    def start(self) -> None:
        """Say what there is, and go on."""
        self._look_at(self._second_after(self._gateway.clock.seconds()))
        self._say()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def account_changed(self, account: Account, con_ids: list[int]) -> None:
        """A fill: look at the next second."""
        del con_ids
        next_s = self._second_after(self._gateway.clock.seconds())
        if account is self._account and self._timer is not None and next_s < self._due_s:
            self._look_at(next_s)

    def _look(self) -> None:
        now_s = self._gateway.clock.seconds()
        until_s = now_s
        if not self._gateway.is_cut and not self._say():
            until_s = self._quiet_until_s(now_s)
        if self._timer is not None:  # not closed by what was said
            self._look_at(self._second_after(until_s))

    def _say(self) -> bool:
        """Say what is new; whether anything was."""
        message = self._write()
        if message == self._said:
            return False
        self._said = message
        self._session.send(message)
        return True

    def _look_at(self, at_s: float) -> None:
        self.close()
        self._due_s, self._timer = at_s, self._gateway.clock.call_at(at_s, self._look)

    def _second_after(self, moment_s: float) -> float:
        """The next of our seconds; a timer may come a trifle early."""
        number = math.floor((moment_s - self._began_s) / self._every_s + _JUST_S) + 1
        return self._began_s + number * self._every_s

    def _quiet_until_s(self, now_s: float) -> float:
        """Until when nothing can change, short of a fill."""
        gateway, until_s = self._gateway, min(now_s + SLEEP_MAX_S, self._gateway.day_ends_s)
        for position in self._positions():
            contract = position.contract
            movers = [contract] if position.quantity else []
            if contract.currency != BASE_CURRENCY:
                movers += gateway.pairs_of(contract.currency)
            for mover in movers:
                change_s = gateway.market.prices.next_change(mover, now_s)
                if change_s is not None:
                    # What holds from a moment on is seen at that very moment: one that is a look's is looked at.
                    until_s = min(until_s, change_s - 2 * _JUST_S)
        return max(now_s, until_s)


def _pnl(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, account = fields.whole(), account_of(gateway, fields.text())

    def write() -> bytes:
        return answers.pnl(req_id, gateway.valuation.profit(account))

    profits = Profits(gateway, session, account, write, account.positions.values)
    session.open_stream(PNL, req_id, profits)
    profits.start()


def _pnl_single(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, account = fields.whole(), account_of(gateway, fields.text())
    fields.text()  # model code
    contract = gateway.universe.by_con_id(fields.whole())
    if contract is None:
        raise invalid("Invalid contract id")

    def position() -> Position:
        return account.positions.get(contract.con_id) or Position(contract)

    def write() -> bytes:
        gateway.valuation.begin_day(account)
        return answers.pnl_single(req_id, gateway.valuation.holding(position()))

    profits = Profits(gateway, session, account, write, lambda: [position()])
    session.open_stream(PNL_SINGLE, req_id, profits)
    profits.start()


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.PNL: _pnl,
    Request.CANCEL_PNL: end_of(PNL),
    Request.PNL_SINGLE: _pnl_single,
    Request.CANCEL_PNL_SINGLE: end_of(PNL_SINGLE),
}
