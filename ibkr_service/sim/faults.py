"""Misfortunes, with a vocabulary: what a test or a rehearsal says to make things go wrong.

Between the gateway and IB
    `cut` · `restore` · `farm_down` · `farm_up` · `silence` · `end_bars` · `compete` · `stop_competing` · `lose_data` ·
    `reconnect_data` · `reconnect_account`
Between the client and the gateway
    `drop` · `refuse` · `accept` · `shut_down` · `start_up` · `mute` · `unmute` · `stall` · `resume` · `deafen` ·
    `stop_reading` · `read_on` · `accept_and_close` · `occupy` · `vacate` · `slow` · `chop` · `glue` · `plain`
In what the gateway says
    `ignore` · `delay` · `lose` · `fail` · `babble` · `grant_lines` · `permit` · `hang_on_combos` · `roll_back_ids` ·
    `reject_next` · `false_cancel` · `duplicate_status` · `commission_first` · `combo_legs_only` · `combo_legs_late` ·
    `heal`
At the broker
    `fill` · `double` · `correct` · `foreign_order` · `manual_order` · `hold` · `split` · `assign`

Each is told, as it happens, to whoever listens: what it is in a few words, and whether it breaks or mends the service
that a client gets. So what a client says of an outage can be compared with when it really began.
"""

from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final, Literal

from ibkr_service.sim.barstreams import CurrentBar
from ibkr_service.sim.contracts import Contract, ContractSpec
from ibkr_service.sim.gateway import CONNECTIVITY_LOST, FARM_BROKEN, FARM_OK, Gateway
from ibkr_service.sim.manual import manual_ticket
from ibkr_service.sim.marketdata import COMPETING_SESSION
from ibkr_service.sim.messages import Answer, Request, named
from ibkr_service.sim.misfortunes import Failure, Misfortunes
from ibkr_service.sim.orders import Execution, Order
from ibkr_service.sim.session import Session, State
from ibkr_service.sim.wire import Value, frame

if TYPE_CHECKING:
    from ibkr_service.sim.server import Server

RESTORED_EMPTY: Final = (
    1101,
    (
        "Connectivity between IB and Trader Workstation has been restored - data lost."
        " All data requests need to be resubmitted."
    ),
)
RESTORED: Final = (1102, "Connectivity between IB and Trader Workstation has been restored - data maintained.")
FARMS_CONNECTED: Final = " All data farms are connected: usfarm; ushmds; secdefnj."
FARM_MISSING: Final = (
    " The following farms are connected: ushmds; secdefnj. The following farms are not connected: usfarm."
)


BARS_ENDED: Final = (10182, "Failed to request live updates (disconnected).")

Effect = Literal["breaks", "mends", "does"]
"""What a misfortune does to the service that a client gets: ends it, gives it back, or neither by itself."""


class Nobody:
    """The end of a line at which nobody is left, as of a client whose machine has vanished."""

    def send(self, data: bytes) -> None:
        """Lose it."""

    def close(self) -> None:
        """There is nothing to close."""


class Faults:
    """Makes things go wrong, and right again.

    Attributes:
        listener: told of each misfortune as it happens; None if nobody is.
    """

    def __init__(self, gateway: Gateway, server: "Server") -> None:
        self._gateway = gateway
        self._server = server
        self._ghosts: list[Session] = []
        self.listener: Callable[[str, Effect], None] | None = None

    def say(self, words: str, effect: Effect) -> None:
        """Tell the listener that something happens."""
        if self.listener is not None:
            self.listener(words, effect)

    # Between the gateway and IB.

    def cut(self, *, tells_orders: bool = False) -> None:
        """The gateway loses IB: 1100 to every client, no ticks; orders and questions wait, and so do fills.

        Args:
            tells_orders: what happens to orders is told all the same, as IB sometimes does.
        """
        self.say("the gateway loses Interactive Brokers: 1100", "breaks")
        self._gateway.is_cut = True
        self._gateway.tells_while_cut = tells_orders
        self._gateway.notify(*CONNECTIVITY_LOST)

    def restore(self, *, data_kept: bool, lose_reports: bool = False, tells: bool = True) -> None:
        """IB is back: 1102, or 1101 when subscriptions were silently dropped.

        Args:
            data_kept: whether market data subscriptions survived.
            lose_reports: never tell what happened to orders meanwhile, as IB sometimes does.
            tells: False: neither message comes.
        """
        gateway = self._gateway
        said = str(1102 if data_kept else 1101) if tells else "and nobody is told"
        self.say(f"Interactive Brokers is back: {said}", "mends")
        gateway.is_cut = False
        if not data_kept:
            self._end_market_data()
        if tells:
            code, text = RESTORED if data_kept else RESTORED_EMPTY
            gateway.notify(
                code, text + (FARM_MISSING if gateway.farm_is_down else FARMS_CONNECTED if data_kept else "")
            )
        gateway.reporter.release(lose=lose_reports)
        gateway.resume_upstream()

    def farm_down(self) -> None:
        """The market data farm breaks: 2103, and no more ticks."""
        self.say("the market data farm breaks: 2103", "breaks")
        self._gateway.farm_is_down = True
        self._gateway.notify(*FARM_BROKEN)

    def farm_up(self) -> None:
        """The market data farm is back: 2104, and ticks again."""
        self.say("the market data farm is back: 2104", "mends")
        self._gateway.farm_is_down = False
        self._gateway.notify(*FARM_OK)

    def silence(self) -> None:
        """Every subscription to market data ends, and nobody is told."""
        self.say("market data stops without a word", "breaks")
        self._end_market_data()

    def _end_market_data(self) -> None:
        for session in self._gateway.sessions:
            for (kind, stream_id), stream in list(session.streams.items()):
                if stream.is_market_data:
                    session.close_stream(kind, stream_id)

    def end_bars(self, *, tells: bool) -> None:
        """Bars that were kept up to date are not any more: with 10182, or without a word."""
        self.say(f"bars end {'with 10182' if tells else 'without a word'}", "does")
        for session in self._gateway.sessions:
            for (kind, stream_id), stream in list(session.streams.items()):
                if isinstance(stream, CurrentBar):
                    session.close_stream(kind, stream_id)
                    if tells:
                        session.error(stream_id, *BARS_ENDED)

    def compete(self) -> None:
        """The user logs in elsewhere and takes the market data: 10197 on each line, and when one is asked for."""
        self.say("another session takes the market data: 10197", "breaks")
        self._gateway.data_is_elsewhere = True
        for session in self._gateway.sessions:
            for (kind, stream_id), stream in list(session.streams.items()):
                if stream.is_market_data:
                    session.close_stream(kind, stream_id)
                    session.error(stream_id, *COMPETING_SESSION)

    def stop_competing(self) -> None:
        """The other session has ended; nobody is told."""
        self.say("the other session has ended", "mends")
        self._gateway.data_is_elsewhere = False

    def lose_data(self, until: str = "reconnect") -> None:
        """Market data stops without a word, on lines present and to come.

        Args:
            until: ``reconnect``: the gateway's data connections are made anew; ``restart``: the gateway is restarted.
        """
        self.say("market data stops without a word", "breaks")
        self._gateway.lost_data_until = until

    def reconnect_data(self) -> None:
        """The gateway makes its data connections anew, as its controller may ask: 2104, and lost data flows again."""
        if self._gateway.lost_data_until == "reconnect":
            self._gateway.lost_data_until = ""
        self.say("the gateway makes its data connections anew", "mends" if self._gateway.data_flows else "does")
        self._gateway.notify(*FARM_OK)

    def reconnect_account(self) -> None:
        """The gateway makes its connection to IB anew: a cut is over, subscriptions are gone."""
        if self._gateway.is_cut:
            self.restore(data_kept=False)

    # Between the client and the gateway.

    def drop(self) -> None:
        """Abort every connection."""
        self.say("connections are dropped", "breaks")
        self._server.drop()

    def refuse(self) -> None:
        """Stop listening: new connections are refused, present ones stay."""
        self.say("new connections are refused", "does")
        self._server.refuse()

    async def accept(self) -> None:
        """Listen again, on the same port."""
        self.say("connections are accepted again", "mends")
        await self._server.accept()

    async def shut_down(self) -> None:
        """The gateway's process ends: every client is dropped, nobody listens, and IB passes nothing on any more."""
        self.say("the gateway is shut down", "breaks")
        self._gateway.is_cut = False
        self._gateway.reporter.release(lose=True)  # whoever is not there is not told
        await self._server.stop()
        self._gateway.resume_upstream()

    async def start_up(self) -> None:
        """It is started again, on the same port."""
        self.say("the gateway is started", "mends")
        await self._server.start()

    def mute(self) -> None:
        """From now on accept connections, but never answer on them."""
        self.say("new connections are not answered", "does")
        self._server.is_mute = True

    def unmute(self) -> None:
        """Answer new connections again; those accepted meanwhile stay unanswered."""
        self.say("new connections are answered again", "mends")
        self._server.is_mute = False

    def stall(self) -> None:
        """Freeze: sockets stay open, nothing is read and nothing is sent."""
        self.say("the gateway freezes", "breaks")
        self._server.stall()

    def resume(self) -> None:
        """Thaw: what waited in both directions flows."""
        self.say("the gateway thaws", "mends")
        self._server.resume()

    def deafen(self) -> None:
        """Swallow every request of those who are connected now; what flows to them flows on. New sessions are heard."""
        self.say("no request is answered any more", "breaks")
        for session in self._gateway.sessions:
            session.is_deaf = True

    def stop_reading(self) -> None:
        """Read nothing, and go on sending, on present connections: what clients write piles up."""
        self.say("nothing is read any more", "breaks")
        self._server.stop_reading()

    def read_on(self) -> None:
        """Read again."""
        self.say("what clients write is read again", "mends")
        self._server.read_on()

    def accept_and_close(self, times: int = 1) -> None:
        """Accept that many connections, and close each at once; 0 ends it."""
        self.say(f"{times} connections are accepted and closed", "does" if times else "mends")
        self._server.closes_next = times

    def occupy(self) -> None:
        """Drop every client; its id stays taken, as if its old session had not ended yet: 326."""
        ids = [session.client_id for session in self._gateway.sessions]
        self.drop()
        for client_id in ids:
            ghost = Session(self._gateway, Nobody())
            ghost.client_id, ghost.state = client_id, State.RUNNING
            self._gateway.sessions.append(ghost)
            self._ghosts.append(ghost)

    def vacate(self) -> None:
        """Client ids that were only occupied are free again."""
        ghosts, self._ghosts = self._ghosts, []
        for ghost in ghosts:
            self.say(f"client id {ghost.client_id} is free again", "mends")
            ghost.lost()

    def slow(self, least_s: float, most_s: float) -> None:
        """Think so long before every answer, in gateway seconds; 0 and 0: as long as the configuration says."""
        self.say(f"answers take {least_s:g} to {most_s:g} s", "does")
        self._gateway.slow_down({"*": (least_s, most_s)} if most_s else self._gateway.config.latency)

    def chop(self, chunk_bytes: int) -> None:
        """Send so few bytes at a time, each time as a chunk of its own; 1 cuts every message at every byte."""
        self.say(f"what is said comes {chunk_bytes} bytes at a time", "does")
        self._server.chunk_bytes, self._server.hold_s = chunk_bytes, 0.0

    def glue(self, hold_s: float) -> None:
        """Send what is said within so many seconds of the loop in one chunk."""
        self.say(f"what is said comes in one chunk every {hold_s:g} s", "does")
        self._server.chunk_bytes, self._server.hold_s = 0, hold_s

    def plain(self) -> None:
        """Undo `chop` and `glue`."""
        self.say("what is said comes as it is said", "does")
        self._server.chunk_bytes, self._server.hold_s = 0, 0.0

    # In what the gateway says.

    def ignore(self, request: str | int, times: int | None = None) -> None:
        """Swallow a kind of request, by name (``positions``, ``reqOpenOrders``) or number: always, or so many times."""
        self.say(f"{request} is not answered{_times(times)}", "does")
        self._misfortunes.ignored_requests[named(Request, request)] = times

    def delay(self, request: str | int, seconds: float) -> None:
        """Keep a kind of request for so many gateway seconds before acting on it, even if its client has gone."""
        self.say(f"{request} waits for {seconds:g} s", "does")
        self._misfortunes.delayed_requests[named(Request, request)] = seconds

    def lose(self, answer: str | int, times: int | None = None) -> None:
        """Lose a kind of answer, by name (``execDetails``, ``orderStatus``) or number: always, or so many times."""
        self.say(f"{answer} is lost{_times(times)}", "does")
        self._misfortunes.lost_answers[named(Answer, answer)] = times

    def fail(self, request: str | int, code: int, text: str, times: int | None = None) -> None:
        """Answer a kind of request, by name or number, with an error: always, or so many times; then what was said."""
        self.say(f"{request} is answered with {code}{_times(times)}", "does")
        failures = self._misfortunes.failed_requests.setdefault(named(Request, request), [])
        failures.append(Failure(code, text, times))

    def babble(self, *fields: Value) -> None:
        """Send every client a message of these fields, whatever they mean."""
        self.say(f"the gateway says {' '.join(map(str, fields))[:60]}", "does")
        for session in list(self._gateway.sessions):
            session.send(frame(*fields))

    def grant_lines(self, count: int | None) -> None:
        """Refuse market data lines above so many (101); those that are open stay. None: as the configuration says."""
        self.say(f"{'no fewer' if count is None else count} market data lines are granted", "does")
        self._misfortunes.lines_max = count

    def permit(self, data: str | None) -> None:
        """From now on the login has ``live``, ``delayed`` or no (``none``) market data; None: as configured."""
        self.say(f"market data of the login: {data or 'as ever'}", "does")
        self._misfortunes.data_permission = data

    def hang_on_combos(self) -> None:
        """Never answer a question for the contract details of a combination."""
        self.say("contract details of combinations are not answered", "does")
        self._misfortunes.is_mute_on_combos = True

    def roll_back_ids(self, count: int) -> None:
        """Hand out a next valid order id that is `count` too low."""
        self.say(f"order ids go back by {count}", "does")
        self._misfortunes.order_ids_back = count

    def reject_next(
        self, code: int = 201, text: str = "Order rejected - reason:simulated", details_json: str = ""
    ) -> None:
        """Refuse the next order with this error; 201 makes it Inactive, any other code leaves no order.

        Args:
            details_json: TWS's advanced order reject, which goes with 201.
        """
        self.say(f"the next order is rejected: {code}", "does")
        self._misfortunes.rejections.append((code, text))
        self._misfortunes.reject_json = details_json

    def false_cancel(self, code: int = 10349, text: str = "Order TIF was set to DAY based on order preset.") -> None:
        """Send this error for the next order, which lives on all the same."""
        self.say(f"the next order gets {code}, and lives on", "does")
        self._misfortunes.false_cancels.append((code, text))

    def duplicate_status(self, copies: int = 2, spread_s: float = 0.0) -> None:
        """Send every orderStatus so many times; the copies up to `spread_s` later, so that old ones follow new ones."""
        self.say(f"every orderStatus is said {copies} times", "does")
        self._misfortunes.status_copies = copies
        self._misfortunes.status_spread_s = spread_s

    def commission_first(self) -> None:
        """Report what a fill costs before the fill itself."""
        self.say("commissions come before their executions", "does")
        self._misfortunes.commission_first = True

    def combo_legs_only(self) -> None:
        """Of a combination's fill report the legs, never the whole, not even when asked."""
        self.say("of combinations only the legs are reported", "does")
        self._misfortunes.combo_reports = "legs only"

    def combo_legs_late(self, seconds: float) -> None:
        """Of a combination's fill report the whole, then its legs one by one, so many gateway seconds apart."""
        self.say(f"legs of combinations are reported {seconds:g} s apart", "does")
        self._misfortunes.combo_reports, self._misfortunes.legs_late_s = "legs late", seconds

    def heal(self) -> None:
        """What the gateway says is right again: undo everything of this group."""
        self.say("what the gateway says is right again", "mends")
        self._gateway.misfortunes = Misfortunes()

    def cure(self) -> None:
        """A gateway that was restarted: everything of these groups is right again, but what IB itself does."""
        self.heal()
        self.unmute()
        self.say("the gateway was restarted", "mends")
        self._gateway.lost_data_until = ""
        self._gateway.is_cut = False

    # At the broker.

    def fill(self, order: Order, quantity: Decimal | None = None, price: Decimal | None = None) -> None:
        """Fill an order whatever the market says: what is left of it, at its limit, unless told otherwise."""
        self.say(f"{order.ticket.order_ref or 'an order'} fills", "does")
        self._gateway.exchange.fill_now(order, quantity, price)

    def double(self, order: Order) -> Order:
        """Let an order stand twice, as after a modification that IB took for a new order."""
        self.say(f"{order.ticket.order_ref or 'an order'} stands twice", "does")
        return self._gateway.exchange.double(order)

    def correct(self, execution: Execution, shares: Decimal, price: Decimal | None = None) -> Execution:
        """Correct an execution, as exchanges do: the same id with its next revision."""
        self.say(f"execution {execution.exec_id} is corrected to {shares}", "does")
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


def _times(times: int | None) -> str:
    return "" if times is None else " once" if times == 1 else f" {times} times"
