"""The official client as the checks use it: every callback becomes an event in a journal, and waiting is on events.

One file serves ibapi 9.81 and 10.x. What differs between them is put right here: `error` has more arguments in 10.x,
commissions have another name, cancels take an `OrderCancel`, and quantities are `Decimal` instead of `float`.
"""

import inspect
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from harness import PATIENCE_S, Failed, Pace, expect, require
from ibapi.client import EClient
from ibapi.contract import ComboLeg, Contract
from ibapi.order import Order
from ibapi.wrapper import EWrapper

try:
    from ibapi.order_cancel import OrderCancel
except ImportError:
    OrderCancel = None

IS_OLD = OrderCancel is None
"""Whether this is the 9.81 client, which speaks protocol version 157."""

WARNINGS = frozenset({110, 165, 399, 404, 434, 492, 10167, 10349, *range(2100, 2200)})
"""Codes that tell something and refuse nothing (110 is both; for orders it is looked for by its code)."""

FIRST_REQUEST_ID = 1_000_000
"""Request ids stay clear of order ids."""

_SAME_THING = {"commissionAndFeesReport": "commissionReport", "updateMktDepthL2": "updateMktDepth"}
_ERROR_SHORT, _ORDERS = 3, frozenset({"openOrder", "orderStatus"})


@dataclass(frozen=True)
class Event:
    """A callback that came."""

    name: str
    args: tuple[Any, ...]

    @property
    def id(self) -> Any:
        """The first argument: of most callbacks the id of the request or the order."""
        return self.args[0] if self.args else None

    @property
    def code(self) -> int:
        """The code of an error, 0 for anything else."""
        return self.args[1] if self.name == "error" else 0

    @property
    def is_fatal(self) -> bool:
        """Whether it is an error that ends its request."""
        return self.name == "error" and self.code not in WARNINGS


class Journal:
    """Every event in the order in which it came; one thread writes, another waits."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._news = threading.Condition()

    def write(self, event: Event) -> None:
        """Add an event and wake who waits."""
        with self._news:
            self._events.append(event)
            self._news.notify_all()

    def mark(self) -> int:
        """The present end: what comes later is news."""
        return len(self._events)

    def wait(
        self,
        since: int,
        wanted: Callable[[Event], bool],
        done: Callable[[list[Event]], bool],
        patience: float,
    ) -> tuple[list[Event], bool]:
        """Collect wanted events until `done` says so; the events, and whether it did."""
        heard: list[Event] = []
        position = since

        def is_done() -> bool:
            nonlocal position
            while position < len(self._events):
                event = self._events[position]
                position += 1
                if wanted(event):
                    heard.append(event)
                    if done(heard):
                        return True
            return False

        with self._news:
            was_done = self._news.wait_for(is_done, patience)
        return heard, was_done


def _callback(name: str) -> Callable[..., None]:
    plain = _SAME_THING.get(name, name)

    def record(self: "Ears", *args: Any, **more: Any) -> None:
        values = (*args, *more.values())
        if name == "error" and len(values) > _ERROR_SHORT:
            values = (values[0], values[2], values[3])
        self.journal.write(Event(plain, values))

    return record


class Ears(EWrapper):
    """Hears every callback there is, whatever its signature."""

    def __init__(self, journal: Journal) -> None:
        super().__init__()
        self.journal = journal


for _name, _method in inspect.getmembers(EWrapper, inspect.isfunction):
    if not _name.startswith("_") and _name != "logAnswer" and not _name.endswith("ProtoBuf"):
        setattr(Ears, _name, _callback(_name))


def summary(events: list[Event]) -> str:
    """Events in words: errors with their text, anything else counted."""
    counts: dict[str, int] = {}
    for event in events:
        if event.name == "error":
            word = f"error {event.code} {event.args[2]!r}"
        elif event.name == "orderStatus":
            word = f"status {event.args[1]}"
        else:
            word = event.name
        counts[word] = counts.get(word, 0) + 1
    return ", ".join(word if count == 1 else f"{count} x {word}" for word, count in counts.items()) or "nothing"


class Tws:
    """A connection of the official client to a gateway."""

    def __init__(self, host: str, port: int, client_id: int, patience: float = PATIENCE_S) -> None:
        self.host, self.port, self.client_id, self.patience = host, port, client_id, patience
        self.journal = Journal()
        self.api = EClient(Ears(self.journal))
        self._pace = Pace()
        self._request_id = FIRST_REQUEST_ID
        self._order_id = 0
        self._thread: threading.Thread | None = None
        self.account = ""

    # The connection.

    def dial(self) -> None:
        """Connect, and digest what comes in a thread of its own; without waiting for a welcome."""
        self.api.connect(self.host, self.port, self.client_id)
        self._thread = threading.Thread(target=self.api.run, daemon=True)
        self._thread.start()

    def open(self) -> "Tws":
        """Connect and wait for the welcome."""
        self.dial()
        self._order_id = self.hear("nextValidId", since=0, patience=PATIENCE_S).id
        self.account = self.hear("managedAccounts", since=0, patience=PATIENCE_S).id.split(",")[0]
        return self

    def close(self) -> None:
        """Disconnect, and wait until the client has really hung up."""
        # The reader sits in recv for up to a second more, and the socket is open for as long.
        threads = [self._thread, self.api.reader]
        self.api.disconnect()
        for thread in filter(None, threads):
            thread.join(PATIENCE_S)

    @contextmanager
    def another(self, client_id: int) -> "Iterator[Tws]":
        """A second client of the same gateway."""
        other = Tws(self.host, self.port, client_id, self.patience).open()
        try:
            yield other
        finally:
            other.close()

    # Asking.

    def call(self, method: str, *args: Any) -> None:
        """Call a method of the client, not faster than a polite client does."""
        pause = self._pace.pause()
        if pause:
            time.sleep(pause)
        getattr(self.api, method)(*args)

    def fresh(self) -> int:
        """A request id that was not used before."""
        self._request_id += 1
        return self._request_id

    def ask(self, method: str, *args: Any, until: "str | Callable[[list[Event]], bool]") -> list[Event]:
        """Send a request with a fresh id; return its answers up to `until`: a name, or a condition on all of them."""
        is_last = (lambda heard: heard[-1].name == until) if isinstance(until, str) else until
        heard, was_done = self._answers(method, args, self.fresh(), lambda heard: heard[-1].is_fatal or is_last(heard))
        if not was_done or heard[-1].is_fatal:
            wanted = until if isinstance(until, str) else (until.__doc__ or "the rest of the answer").rstrip(".")
            raise Failed(f"{wanted} after {method} within {self.patience:g} s", summary(heard))
        return heard

    def refusal(self, method: str, *args: Any, codes: tuple[int, ...], request_id: int = 0) -> str:
        """Send a request that must be refused with one of these codes; the text."""
        heard, _ = self._answers(method, args, request_id or self.fresh(), lambda heard: heard[-1].is_fatal)
        if not heard or heard[-1].code not in codes:
            raise Failed(f"{method} to be refused with {codes}", summary(heard))
        return heard[-1].args[2]

    def _answers(
        self, method: str, args: tuple[Any, ...], request_id: int, done: Callable[[list[Event]], bool]
    ) -> tuple[list[Event], bool]:
        since = self.journal.mark()
        self.call(method, request_id, *args)
        is_answer = lambda event: event.id == request_id and event.name not in _ORDERS  # noqa: E731
        return self.journal.wait(since, is_answer, done, self.patience)

    def hear(
        self,
        name: str,
        matches: Callable[[Event], bool] = lambda _: True,
        since: int | None = None,
        patience: float = 0.0,
    ) -> Event:
        """Wait for one event of a name."""
        patience = patience or self.patience
        heard, was_done = self.journal.wait(
            self.journal.mark() if since is None else since,
            lambda event: event.name == name or event.is_fatal,
            lambda heard: heard[-1].name == name and matches(heard[-1]),
            patience,
        )
        if not was_done:
            raise Failed(f"{name} within {patience:g} s", summary(heard))
        return heard[-1]

    def download(self, method: str, *args: Any, names: tuple[str, ...], end: str) -> list[Event]:
        """Send a request that has no id; its answers are known by their names, the last by `end`."""
        since = self.journal.mark()
        self.call(method, *args)
        heard, was_done = self.journal.wait(
            since,
            lambda event: event.name in {*names, end} or (event.is_fatal and event.id == -1),
            lambda heard: heard[-1].is_fatal or heard[-1].name == end,
            self.patience,
        )
        if not was_done or heard[-1].is_fatal:
            raise Failed(f"{end} after {method} within {self.patience:g} s", summary(heard))
        return heard

    # What many checks ask.

    def details(self, contract: Contract) -> list[Any]:
        """All contract details that a description fits."""
        return [event.args[1] for event in self.ask("reqContractDetails", contract, until="contractDetailsEnd")[:-1]]

    def one(self, contract: Contract) -> Contract:
        """The one contract that a description means, as the gateway knows it."""
        found = self.details(contract)
        expect(f"number of contracts for {contract}", 1, len(found))
        return found[0].contract

    def chain(self, symbol: str) -> Any:
        """The arguments of the SMART chain: id, exchange, conId, class, multiplier, expiries, strikes."""
        underlying = self.one(stock(symbol))
        events = self.ask(
            "reqSecDefOptParams", symbol, "", "STK", underlying.conId, until="securityDefinitionOptionParameterEnd"
        )
        smart = [event.args for event in events if event.name.endswith("Parameter") and event.args[1] == "SMART"]
        require(smart, f"a SMART chain of {symbol}", summary(events))
        return smart[0]

    def at_the_money(self, symbol: str, right: str = "C", step: int = 0) -> Contract:
        """A listed option near the money, `step` strikes away."""
        chain, price = self.chain(symbol), self.quote(stock(symbol))[1]
        expiry, strikes = sorted(chain[5])[1], sorted(chain[6])
        nearest = min(range(len(strikes)), key=lambda index: abs(strikes[index] - price))
        return self.one(option(symbol, expiry, strikes[nearest + step], right))

    def quote(self, contract: Contract) -> tuple[float, float]:
        """Bid and ask from a snapshot."""
        events = self.ask("reqMktData", contract, "", True, False, [], until="tickSnapshotEnd")
        prices = {event.args[1]: event.args[2] for event in events if event.name == "tickPrice"}
        require({1, 2} <= set(prices), f"bid and ask of {contract.symbol}", prices)
        return prices[1], prices[2]

    def positions(self) -> dict[int, tuple[float, float]]:
        """Quantity and average cost by contract id."""
        events = self.download("reqPositions", names=("position",), end="positionEnd")
        self.call("cancelPositions")
        return {event.args[1].conId: (float(event.args[2]), event.args[3]) for event in events[:-1]}

    def own_orders(self, method: str = "reqOpenOrders") -> dict[int, Any]:
        """Open orders by order id (by permId for orders of other clients)."""
        events = self.download(method, names=("openOrder",), end="openOrderEnd")
        return {event.args[2].permId: event.args[2] for event in events[:-1]}

    def time(self) -> int:
        """The gateway's time, in seconds since 1970; also a round trip."""
        return self.download("reqCurrentTime", names=(), end="currentTime")[-1].id

    # Orders.

    def next_order_id(self) -> int:
        """An order id that was not used before."""
        self._order_id += 1
        return self._order_id - 1

    def place(self, contract: Contract, order: Order, order_id: int = 0) -> "Placed":
        """Place an order, or change the one of this id."""
        order_id = order_id or self.next_order_id()
        placed = Placed(self, order_id, self.journal.mark())
        self.call("placeOrder", order_id, contract, order)
        return placed

    def cancel(self, order_id: int) -> None:
        """Ask for a cancel, and wait for nothing."""
        self.call("cancelOrder", order_id, *([] if IS_OLD else [OrderCancel()]))

    def cancel_everything(self) -> None:
        """Ask for a cancel of all orders of all clients."""
        self.call("reqGlobalCancel", *([] if IS_OLD else [OrderCancel()]))


class Placed:
    """An order that was sent, and what is heard of it."""

    def __init__(self, tws: Tws, order_id: int, since: int) -> None:
        self._tws, self.order_id, self._since = tws, order_id, since

    def _is_mine(self, event: Event) -> bool:
        if event.name == "execDetails":
            return event.id == -1 and event.args[2].orderId == self.order_id
        return event.id == self.order_id and (event.name in _ORDERS or event.name == "error")

    def wait(self, what: str, done: Callable[[list[Event]], bool]) -> list[Event]:
        """All events of the order, when they fulfil a condition."""
        tws = self._tws
        heard, was_done = tws.journal.wait(self._since, self._is_mine, done, tws.patience)
        if not was_done:
            raise Failed(f"{what} of order {self.order_id} within {tws.patience:g} s", summary(heard))
        return heard

    def until(self, *statuses: str) -> Event:
        """Wait for one of these statuses; a refusal fails at once."""

        def done(heard: list[Event]) -> bool:
            last = heard[-1]
            if last.is_fatal and last.code != 202:
                raise Failed(f"status {' or '.join(statuses)} of order {self.order_id}", summary(heard))
            return last.name == "orderStatus" and last.args[1] in statuses

        return self.wait(f"status {' or '.join(statuses)}", done)[-1]

    def cancel(self) -> Event:
        """Cancel the order; its last status."""
        self._since = self._tws.journal.mark()
        self._tws.cancel(self.order_id)
        return self.until("Cancelled")

    def refused(self, *codes: int) -> Event:
        """Wait for an error with one of these codes."""
        return self.wait(f"error {codes}", lambda heard: heard[-1].code in codes)[-1]

    def shown(self, matches: Callable[[Any], bool] = lambda _: True) -> Event:
        """Wait for an openOrder, perhaps with certain terms."""
        done = lambda heard: heard[-1].name == "openOrder" and matches(heard[-1].args[2])  # noqa: E731
        return self.wait("openOrder with these terms", done)[-1]

    def executions(self, what: str, done: Callable[[list[Event]], bool]) -> list[Event]:
        """The executions so far, when they fulfil a condition."""

        def enough(heard: list[Event]) -> bool:
            fills = [event for event in heard if event.name == "execDetails"]
            return bool(fills) and done(fills)

        return [event for event in self.wait(what, enough) if event.name == "execDetails"]

    def commission_of(self, exec_id: str) -> Any:
        """Wait for the commission report of an execution."""
        found = self._tws.hear("commissionReport", lambda event: event.id.execId == exec_id, self._since)
        return found.id


# Contracts and orders, as a user writes them.


def contract(sec_type: str, symbol: str, exchange: str, currency: str = "USD") -> Contract:
    made = Contract()
    made.secType, made.symbol, made.exchange, made.currency = sec_type, symbol, exchange, currency
    return made


def stock(symbol: str) -> Contract:
    return contract("STK", symbol, "SMART")


def forex(symbol: str, currency: str) -> Contract:
    return contract("CASH", symbol, "IDEALPRO", currency)


def option(symbol: str, expiry: str = "", strike: float = 0.0, right: str = "") -> Contract:
    made = contract("OPT", symbol, "SMART")
    made.lastTradeDateOrContractMonth, made.strike, made.right = expiry, strike, right
    made.multiplier = "100"
    return made


def by_id(con_id: int, exchange: str = "SMART") -> Contract:
    made = Contract()
    made.conId, made.exchange = con_id, exchange
    return made


def bag(symbol: str, *legs: tuple[int, int, str]) -> Contract:
    """A combo of (contract id, ratio, action)."""
    made = contract("BAG", symbol, "SMART")
    made.comboLegs = []
    for con_id, ratio, action in legs:
        leg = ComboLeg()
        leg.conId, leg.ratio, leg.action, leg.exchange = con_id, ratio, action, "SMART"
        made.comboLegs.append(leg)
    return made


def order(action: str, quantity: int, order_type: str = "MKT", **more: Any) -> Order:
    made = Order()
    made.action, made.totalQuantity, made.orderType = action, Decimal(quantity), order_type
    made.tif = "DAY"
    # ibapi 9.81 sets these two, and every TWS of today refuses them (10268).
    made.eTradeOnly = made.firmQuoteOnly = False
    for name, value in more.items():
        require(hasattr(made, name), f"an order attribute {name}", "none")
        setattr(made, name, value)
    return made


def limit(action: str, quantity: int, price: float, **more: Any) -> Order:
    return order(action, quantity, "LMT", lmtPrice=round(price, 2), **more)


def stop(action: str, quantity: int, price: float, **more: Any) -> Order:
    return order(action, quantity, "STP", auxPrice=round(price, 2), **more)


def number_of(thing: Any, name: str) -> float:
    """A number that 10.x calls commissionAndFees and 9.81 commission."""
    value = getattr(thing, name, None)
    return float(getattr(thing, f"{name}AndFees") if value is None else value)
