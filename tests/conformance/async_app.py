"""ib_async as the checks use it: requests with a limit of time, and waiting on what the library shows.

The library is used as its users use it; where it hides an answer (it ends no request on 321) `errorEvent` is heard.
"""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from harness import PATIENCE_S, Failed, expect, require
from ib_async import (
    IB,
    Contract,
    Forex,
    LimitOrder,
    Option,
    RequestError,
    StartupFetchALL,
    StartupFetchNONE,
    Stock,
    Ticker,
    Trade,
)

UNSET = 1e300
CONNECT_LIMIT_S = 1.0
"""The least time for a connection, however impatient a run is."""

FIRST_ERROR, NOTICES = 100, range(2100, 2200)


class Desk:
    """A connected `IB`, and everything that it has called an error."""

    def __init__(self, host: str, port: int, client_id: int, patience: float = PATIENCE_S) -> None:
        self.host, self.port, self.client_id, self.patience = host, port, client_id, patience
        self.ib = IB()
        self.ib.RaiseRequestErrors = True
        self.errors: list[tuple[int, int, str]] = []
        self.ib.errorEvent += lambda req_id, code, text, _: self.errors.append((req_id, code, text))
        self.complaints: list[str] = []

    async def open(self, *, is_synchronised: bool = False) -> "Desk":
        """Connect; synchronised as users do it, where any silence fails, or with as little as the library can."""
        fields = StartupFetchALL if is_synchronised else StartupFetchNONE
        await self.ib.connectAsync(
            self.host,
            self.port,
            clientId=self.client_id,
            timeout=max(self.patience, CONNECT_LIMIT_S),
            raiseSyncErrors=is_synchronised,
            fetchFields=fields,
        )
        return self

    def close(self) -> None:
        """Disconnect."""
        self.ib.disconnect()

    async def another(self, client_id: int) -> "Desk":
        """A second client of the same gateway; the caller closes it."""
        return await Desk(self.host, self.port, client_id, self.patience).open()

    @property
    def account(self) -> str:
        """The first account."""
        return self.ib.managedAccounts()[0]

    # Waiting.

    async def until(self, what: str, holds: Callable[[], Any]) -> Any:
        """Wait until something holds; it is looked at after every message. Its value."""
        result: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        since = len(self.errors)

        def look(*_: object) -> None:
            try:
                value = holds()
            except Exception as error:  # noqa: BLE001  a check's own condition must not end in the library's log
                if not result.done():
                    result.set_exception(error)
                return
            if value and not result.done():
                result.set_result(value)

        self.ib.updateEvent += look
        try:
            look()
            return await asyncio.wait_for(result, self.patience)
        except TimeoutError:
            raise Failed(f"{what} within {self.patience:g} s", self.errors[since:] or "nothing") from None
        finally:
            self.ib.updateEvent -= look

    async def ask(self, request: Awaitable[Any]) -> Any:
        """The result of a request; an error, or silence, fails."""
        since = len(self.errors)
        task = asyncio.ensure_future(request)  # noqa: TID251  ended in this function
        refused = asyncio.ensure_future(self.until("", lambda: self._refusals(since) or task.done()))  # noqa: TID251  ended in this function
        try:
            await asyncio.wait({task, refused}, timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                return task.result()
            if refused.done():
                raise Failed("an answer", self.errors[since:])
        except RequestError as error:
            raise Failed("an answer", f"error {error.code} {error.message!r}") from None
        finally:
            task.cancel()
            refused.cancel()
            await asyncio.gather(task, refused, return_exceptions=True)
        raise Failed(f"an answer within {self.patience:g} s", self.errors[since:] or "nothing")

    async def refusal(self, make: Callable[[], Awaitable[Any]], *codes: int) -> str:
        """Make a request that must be refused with one of these codes; the text."""
        since, req_id = len(self.errors), self.ib.client._reqIdSeq  # the id that the request is about to take
        task = asyncio.ensure_future(make())  # noqa: TID251  ended in this function
        try:
            found = await self.until(
                f"error {codes} for request {req_id}",
                lambda: [it for it in self.errors[since:] if it[0] == req_id],
            )
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        require(found[0][1] in codes, f"a refusal with {codes}", found[0])
        return found[0][2]

    async def error(self, since: int, *codes: int) -> tuple[int, int, str]:
        """Wait for an error with one of these codes."""
        found = await self.until(f"error {codes}", lambda: [it for it in self.errors[since:] if it[1] in codes])
        return found[0]

    def _refusals(self, since: int) -> list[tuple[int, int, str]]:
        """Errors that belong to no id: refusals of requests that have none."""
        return [it for it in self.errors[since:] if it[0] == -1 and it[1] >= FIRST_ERROR and it[1] not in NOTICES]

    # What many checks ask.

    async def one(self, contract: Contract) -> Contract:
        """The one contract that a description means."""
        found = await self.ask(self.ib.reqContractDetailsAsync(contract))
        expect(f"number of contracts for {contract}", 1, len(found))
        return found[0].contract

    async def known(self, contract: Contract) -> Contract:
        """The contract with its id, without which the library keeps no ticker."""
        return contract if contract.conId or contract.secType == "BAG" else await self.one(contract)

    async def chain(self, symbol: str) -> Any:
        """The SMART option chain of a stock."""
        underlying = await self.one(stock(symbol))
        chains = await self.ask(self.ib.reqSecDefOptParamsAsync(symbol, "", "STK", underlying.conId))
        smart = [chain for chain in chains if chain.exchange == "SMART"]
        require(smart, f"a SMART chain of {symbol}", chains)
        return smart[0]

    async def at_the_money(self, symbol: str, right: str = "C", step: int = 0) -> Contract:
        """A listed option near the money, `step` strikes away."""
        chain, (_, price) = await self.chain(symbol), await self.quote(stock(symbol))
        strikes = sorted(chain.strikes)
        nearest = min(range(len(strikes)), key=lambda index: abs(strikes[index] - price))
        expiry = sorted(chain.expirations)[1]
        return await self.one(Option(symbol, expiry, strikes[nearest + step], right, "SMART", currency="USD"))

    async def quote(self, contract: Contract) -> tuple[float, float]:
        """Bid and ask from a snapshot."""
        (ticker,) = await self.ask(self.ib.reqTickersAsync(await self.known(contract)))
        require(0 < ticker.bid < ticker.ask, f"bid and ask of {contract.symbol}", (ticker.bid, ticker.ask))
        return ticker.bid, ticker.ask

    async def line(self, contract: Contract, what: str, holds: Callable[[Ticker], Any], generic: str = "") -> Ticker:
        """Open a line until something holds, and close it."""
        contract, since, req_id = await self.known(contract), len(self.errors), self.ib.client._reqIdSeq
        ticker = self.ib.reqMktData(contract, generic)

        def has_come() -> bool:
            if refusals := [it for it in self.errors[since:] if it[0] == req_id]:
                raise Failed(what, refusals)
            return bool(holds(ticker))

        try:
            await self.until(what, has_come)
        finally:
            self.ib.cancelMktData(contract)
        return ticker

    async def positions(self) -> dict[int, float]:
        """Quantity by contract id."""
        found = await self.ask(self.ib.reqPositionsAsync())
        return {it.contract.conId: it.position for it in found}

    # Orders.

    def place(self, contract: Contract, order: Any) -> Trade:
        """Place an order, or change it."""
        return self.ib.placeOrder(contract, order)

    async def status(self, trade: Trade, *statuses: str) -> Trade:
        """Wait for one of these statuses."""
        since = len(self.errors)

        def has_come() -> bool:
            status = trade.orderStatus.status
            if trade.isDone() and status not in statuses:
                raise Failed(
                    f"status {' or '.join(statuses)}", f"{status} {self.errors[since:]} {trade.log[-1].message}"
                )
            return status in statuses

        await self.until(f"status {' or '.join(statuses)} after {trade.orderStatus.status}", has_come)
        return trade

    async def fill(self, contract: Contract, order: Any) -> Trade:
        """Place an order, and wait until it is filled and charged for."""
        trade = await self.status(self.place(contract, order), "Filled")
        await self.until("executions of the whole order", lambda: trade.remaining() == 0)
        return trade

    async def rest(self, contract: Contract, order: Any) -> Trade:
        """Place an order that rests."""
        return await self.status(self.place(contract, order), "Submitted")

    async def cancel(self, trade: Trade) -> Trade:
        """Cancel an order."""
        self.ib.cancelOrder(trade.order)
        return await self.status(trade, "Cancelled")


def stock(symbol: str) -> Stock:
    return Stock(symbol, "SMART", "USD")


def eurusd() -> Forex:
    return Forex("EURUSD")


def buy_far(price: float, quantity: int = 1, **more: Any) -> LimitOrder:
    """A buy that rests, far below the market."""
    return LimitOrder("BUY", quantity, round(price * 0.8, 2), tif="DAY", **more)
