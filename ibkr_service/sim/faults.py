"""Misfortunes, with a vocabulary: what a test or a rehearsal says to make things go wrong.

Between the gateway and IB
    `cut` · `restore` · `farm_down` · `farm_up` · `compete` · `stop_competing`
Between the client and the gateway
    `drop` · `refuse` · `accept` · `mute` · `unmute` · `stall` · `resume` · `accept_and_close`
In what the gateway says
    `ignore` · `delay` · `lose` · `roll_back_ids` · `reject_next` · `false_cancel` · `duplicate_status` ·
    `commission_first` · `combo_legs_only` · `combo_legs_late` · `heal`
At the broker
    `fill` · `double` · `correct` · `foreign_order` · `manual_order` · `hold` · `split` · `assign`
"""

from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final

from ibkr_service.sim.contracts import Contract, ContractSpec
from ibkr_service.sim.gateway import CONNECTIVITY_LOST, FARM_BROKEN, FARM_OK, Gateway
from ibkr_service.sim.manual import manual_ticket
from ibkr_service.sim.marketdata import COMPETING_SESSION
from ibkr_service.sim.messages import Answer, Request, named
from ibkr_service.sim.misfortunes import Misfortunes
from ibkr_service.sim.orders import Execution, Order

if TYPE_CHECKING:
    from ibkr_service.sim.server import Server

RESTORED_EMPTY: Final = (
    1101,
    (
        "Connectivity between IB and Trader Workstation has been restored - data lost."
        " All data requests need to be resubmitted."
    ),
)
RESTORED: Final = (
    1102,
    (
        "Connectivity between IB and Trader Workstation has been restored - data maintained."
        " All data farms are connected: usfarm; ushmds; secdefnj."
    ),
)


class Faults:
    """Makes things go wrong, and right again."""

    def __init__(self, gateway: Gateway, server: "Server") -> None:
        self._gateway = gateway
        self._server = server

    # Between the gateway and IB.

    def cut(self, *, tells_orders: bool = False) -> None:
        """The gateway loses IB: 1100 to every client, no ticks; orders and questions wait, and so do fills.

        Args:
            tells_orders: what happens to orders is told all the same, as IB sometimes does.
        """
        self._gateway.is_cut = True
        self._gateway.tells_while_cut = tells_orders
        self._gateway.notify(*CONNECTIVITY_LOST)

    def restore(self, *, data_kept: bool, lose_reports: bool = False) -> None:
        """IB is back: 1102, or 1101 when subscriptions were silently dropped.

        Args:
            data_kept: whether market data subscriptions survived.
            lose_reports: never tell what happened to orders meanwhile, as IB sometimes does.
        """
        gateway = self._gateway
        gateway.is_cut = False
        if not data_kept:
            for session in gateway.sessions:
                for (kind, stream_id), stream in list(session.streams.items()):
                    if stream.is_market_data:
                        session.close_stream(kind, stream_id)
        gateway.notify(*(RESTORED if data_kept else RESTORED_EMPTY))
        gateway.reporter.release(lose=lose_reports)
        gateway.resume_upstream()

    def farm_down(self) -> None:
        """The market data farm breaks: 2103, and no more ticks."""
        self._gateway.farm_is_down = True
        self._gateway.notify(*FARM_BROKEN)

    def farm_up(self) -> None:
        """The market data farm is back: 2104, and ticks again."""
        self._gateway.farm_is_down = False
        self._gateway.notify(*FARM_OK)

    def compete(self) -> None:
        """The user logs in elsewhere and takes the market data: 10197 on each line, and when one is asked for."""
        self._gateway.data_is_elsewhere = True
        for session in self._gateway.sessions:
            for (kind, stream_id), stream in list(session.streams.items()):
                if stream.is_market_data:
                    session.close_stream(kind, stream_id)
                    session.error(stream_id, *COMPETING_SESSION)

    def stop_competing(self) -> None:
        """The other session has ended; nobody is told."""
        self._gateway.data_is_elsewhere = False

    # Between the client and the gateway.

    def drop(self) -> None:
        """Abort every connection."""
        self._server.drop()

    def refuse(self) -> None:
        """Stop listening: new connections are refused, present ones stay."""
        self._server.refuse()

    async def accept(self) -> None:
        """Listen again, on the same port."""
        await self._server.accept()

    def mute(self) -> None:
        """From now on accept connections, but never answer on them."""
        self._server.is_mute = True

    def unmute(self) -> None:
        """Answer new connections again; those accepted meanwhile stay unanswered."""
        self._server.is_mute = False

    def stall(self) -> None:
        """Freeze: sockets stay open, nothing is read and nothing is sent."""
        self._server.stall()

    def resume(self) -> None:
        """Thaw: what waited in both directions flows."""
        self._server.resume()

    def accept_and_close(self, times: int = 1) -> None:
        """Accept that many connections, and close each at once."""
        self._server.closes_next = times

    # In what the gateway says.

    def ignore(self, request: str | int, times: int | None = None) -> None:
        """Swallow a kind of request, by name (``positions``, ``reqOpenOrders``) or number: always, or so many times."""
        self._misfortunes.ignored_requests[named(Request, request)] = times

    def delay(self, request: str | int, seconds: float) -> None:
        """Keep a kind of request for so many gateway seconds before acting on it, even if its client has gone."""
        self._misfortunes.delayed_requests[named(Request, request)] = seconds

    def lose(self, answer: str | int, times: int | None = None) -> None:
        """Lose a kind of answer, by name (``execDetails``, ``orderStatus``) or number: always, or so many times."""
        self._misfortunes.lost_answers[named(Answer, answer)] = times

    def roll_back_ids(self, count: int) -> None:
        """Hand out a next valid order id that is `count` too low."""
        self._misfortunes.order_ids_back = count

    def reject_next(
        self, code: int = 201, text: str = "Order rejected - reason:simulated", details_json: str = ""
    ) -> None:
        """Refuse the next order with this error; 201 makes it Inactive, any other code leaves no order.

        Args:
            details_json: TWS's advanced order reject, which goes with 201.
        """
        self._misfortunes.rejections.append((code, text))
        self._misfortunes.reject_json = details_json

    def false_cancel(self, code: int = 10349, text: str = "Order TIF was set to DAY based on order preset.") -> None:
        """Send this error for the next order, which lives on all the same."""
        self._misfortunes.false_cancels.append((code, text))

    def duplicate_status(self, copies: int = 2, spread_s: float = 0.0) -> None:
        """Send every orderStatus so many times; the copies up to `spread_s` later, so that old ones follow new ones."""
        self._misfortunes.status_copies = copies
        self._misfortunes.status_spread_s = spread_s

    def commission_first(self) -> None:
        """Report what a fill costs before the fill itself."""
        self._misfortunes.commission_first = True

    def combo_legs_only(self) -> None:
        """Of a combination's fill report the legs, never the whole, not even when asked."""
        self._misfortunes.combo_reports = "legs only"

    def combo_legs_late(self, seconds: float) -> None:
        """Of a combination's fill report the whole, then its legs one by one, so many gateway seconds apart."""
        self._misfortunes.combo_reports, self._misfortunes.legs_late_s = "legs late", seconds

    def heal(self) -> None:
        """What the gateway says is right again: undo everything of this group."""
        self._gateway.misfortunes = Misfortunes()

    # At the broker.

    def fill(self, order: Order, quantity: Decimal | None = None, price: Decimal | None = None) -> None:
        """Fill an order whatever the market says: what is left of it, at its limit, unless told otherwise."""
        self._gateway.exchange.fill_now(order, quantity, price)

    def double(self, order: Order) -> Order:
        """Let an order stand twice, as after a modification that IB took for a new order."""
        return self._gateway.exchange.double(order)

    def correct(self, execution: Execution, shares: Decimal, price: Decimal | None = None) -> Execution:
        """Correct an execution, as exchanges do: the same id with its next revision."""
        return self._gateway.exchange.correct(execution, shares, price)

    def foreign_order(
        self, client_id: int, symbol: str, action: str, quantity: Decimal, **fields: str | Decimal
    ) -> Order:
        """Another client's order in a stock; `fields` are those of placeOrder by their official names."""
        exchange = self._gateway.exchange
        order_id = exchange.last_order_ids.get(client_id, 0) + 1
        ticket = manual_ticket(self._stock_spec(symbol), action, quantity, fields)
        exchange.place(client_id, replace(ticket, order_id=order_id))
        return exchange.orders[client_id, order_id]

    def manual_order(self, symbol: str, action: str, quantity: Decimal, **fields: str | Decimal) -> Order:
        """An order in a stock that a person enters at TWS."""
        return self._gateway.enter_manual_order(self._stock_spec(symbol), action, quantity, **fields)

    def hold(self, contract: str | Contract, quantity: Decimal, price: Decimal, account: str = "") -> None:
        """Let an account hold something that nobody ordered here: from before, or moved in (out: negative)."""
        found = self.stock(contract) if isinstance(contract, str) else contract
        self._gateway.exchange.transfer(account, found, quantity, price)

    def split(self, symbol: str, ratio: Decimal) -> None:
        """Split a stock: so many new shares for each old one."""
        self._gateway.exchange.split(self.stock(symbol), ratio)

    def assign(self, option: Contract, quantity: Decimal, account: str = "") -> None:
        """Assign short options before they expire, or exercise long ones; the stock moves at the strike."""
        self._gateway.exchange.assign(account, option, quantity)

    def stock(self, symbol: str) -> Contract:
        """A listed stock."""
        contract = self._gateway.universe.resolve(self._stock_spec(symbol))
        assert isinstance(contract, Contract), "a stock is no combination"
        return contract

    def options(self, symbol: str, expiry: str, right: str) -> list[Contract]:
        """The listed options on a stock of one expiry (`YYYYMMDD`) and right, by strike."""
        spec = ContractSpec(symbol=symbol, sec_type="OPT", expiry=expiry, right=right, exchange="SMART", currency="USD")
        return sorted(self._gateway.universe.find(spec), key=lambda option: option.strike)

    def _stock_spec(self, symbol: str) -> ContractSpec:
        return ContractSpec(symbol=symbol, sec_type="STK", exchange="SMART", currency="USD")

    @property
    def _misfortunes(self) -> Misfortunes:
        return self._gateway.misfortunes
