"""A market whose prices a test sets: everything else of the gateway is real."""

import asyncio
from decimal import Decimal
from typing import ClassVar

from ibkr_service.sim import Gateway, GatewayConfig
from ibkr_service.sim.contracts import ContractSpec
from ibkr_service.sim.quotes import Quote
from ibkr_service.sim.rawclient import AAPL, EURUSD, MSFT, RawClient

HOUR_S = 3600.0
PLENTY = Decimal(1_000_000)


class Script:
    """A price source: what was set last holds; before that everything costs what `START` says."""

    START: ClassVar = {AAPL: Decimal(200), MSFT: Decimal(400), EURUSD: Decimal("1.1")}

    def __init__(self, market):
        self._market = market
        self._clock = market.clock
        self._tapes = {}

    def set(self, con_id, bid, ask=None, last=None, size=PLENTY):
        """From now on a contract has this quote; a spread of a tick, and the bid as the last price, unless given."""
        bid = Decimal(str(bid))
        ask = bid + Decimal("0.01") if ask is None else Decimal(str(ask))
        last = bid if last is None else Decimal(str(last))
        last = None if con_id == EURUSD else last
        quote = Quote(self._clock.seconds(), bid, ask, Decimal(size), Decimal(size), last, Decimal(1))
        self._tapes.setdefault(con_id, []).append(quote)
        # Those who watch are told now, not at the next full hour.
        for feed in list(self._market._feeds.values()):
            changed = self._market.quote(feed.instrument)
            for watch in list(feed.watches):
                if watch in feed.watches:
                    watch.on_quote(changed)

    def quote(self, contract, at_s):
        for quote in reversed(self._tapes.get(contract.con_id, [])):
            if quote.at <= at_s:
                return quote
        bid = self.START.get(contract.con_id, Decimal(100))
        tick = contract.tick_at(bid)
        last = None if contract.sec_type == "CASH" else bid
        return Quote(0.0, bid, bid + tick, PLENTY, PLENTY, last, Decimal(1))

    def next_change(self, contract, after_s):
        return (after_s // HOUR_S + 1) * HOUR_S

    def moments(self, contract, from_s, to_s):
        return None


class Stage:
    """A gateway on scripted prices, and a client."""

    def __init__(self, client_id=1, **known):
        self.gateway = Gateway(GatewayConfig(requests_per_second_max=0, **known))
        self.script = Script(self.gateway.market)
        self.gateway.market.prices._base = self.script
        self.client = RawClient(self.gateway, client_id)
        self._next_id = 0

    def place(self, instrument=None, legs=(), **known):
        """Place an order under the next id, which is returned."""
        self._next_id += 1
        self.client.place(self._next_id, instrument, legs, **known)
        return self._next_id

    async def move(self, *bids, con_id=AAPL, **known):
        """One quote after another, long enough for each to be noticed."""
        for bid in bids:
            self.script.set(con_id, bid, **known)
            await asyncio.sleep(0.5)  # an order that this has sent out has arrived

    def option(self, strike=200, right="C", expiry="", con_id=AAPL):
        """An option of the soonest expiry, or of a day."""
        found = self.gateway.universe.find(
            ContractSpec(symbol="AAPL", sec_type="OPT", strike=Decimal(strike), right=right, expiry=expiry)
        )
        return min(found, key=lambda contract: contract.expiry)

    def status(self, order_id):
        return self.client.statuses(order_id)[-1]

    def prices(self, order_id):
        """The prices of an order's fills."""
        return [
            execution.price
            for execution in self.gateway.executions
            if execution.order.ticket.order_id == order_id and execution.instrument is execution.order.instrument
        ]

    def held(self, account=""):
        return {position.contract.local_symbol: position.quantity for position in self.gateway.positions(account)}

    def cash(self, currency="USD", account="DU1234567"):
        return self.gateway.accounts[account].cash[currency]

    def text(self, code):
        """The text of the latest error of a code."""
        return next(message[4] for message in reversed(self.client.of(4)) if message[3] == str(code))

    def close(self):
        self.gateway.close()
