"""Whatever clients do, the books balance: a state machine on the exchange.

Method: hypothesis chooses what clients and the market do, in any order, in virtual time; after every step the books are
checked against the executions, and at the end every message that clients have had. The quick profile runs with every
test run; `HYPOTHESIS_PROFILE=thorough pytest tests/sim/test_exchange_machine.py` is for campaigns.
"""

import asyncio
import os
from decimal import Decimal

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from ibkr_service.sim.contracts import Combo, Contract
from ibkr_service.sim.loop import SimLoop
from ibkr_service.sim.orders import DONE, Status
from ibkr_service.sim.rawclient import AAPL, EURUSD, MSFT, RawClient, combo, forex, stock
from ibkr_service.sim.terms import Kind
from tests.sim.stage import Stage

D = Decimal
CASH = D(1_000_000)
ACCOUNTS = ("DU1", "DU2")
TICKS = st.integers(-40, 40)
SIDES = st.sampled_from(["BUY", "SELL"])
QUANTITIES = st.integers(1, 900)
CLIENTS = st.integers(0, 1)
SINGLES = st.sampled_from([AAPL, MSFT, EURUSD])
TYPES = st.sampled_from(
    ["MKT", "LMT", "STP", "STP LMT", "TRAIL", "TRAIL LIMIT", "MIT", "LIT", "MIDPRICE", "MOC", "LOC"]
)
TIFS = st.sampled_from(["DAY", "GTC", "IOC", "FOK", "GTD"])
LEGS = [(AAPL, 1, "BUY", "SMART"), (MSFT, 2, "SELL", "SMART")]


def instrument_of(con_id):
    return forex(con_id) if con_id == EURUSD else stock(con_id)


class Exchange(RuleBasedStateMachine):
    """Two clients, two accounts, three instruments and a combo of two of them."""

    @initialize(size=st.sampled_from([50, 300, 100_000]))
    def open(self, size):
        """Open a gateway with so much displayed on each side."""
        self.runner = asyncio.Runner(loop_factory=SimLoop)
        self.size = size
        self.done: dict[int, tuple] = {}
        self.limits: dict[int, set] = {}
        self.placed: list[tuple] = []
        self.modified: set[int] = set()
        self.run(self._open())

    def run(self, doing):
        return self.runner.run(doing)

    async def _open(self):
        self.stage = Stage(accounts=ACCOUNTS, checks_margin=False)
        self.gateway = self.stage.gateway
        self.clients = [self.stage.client, RawClient(self.gateway, 2)]
        self.ids = [0, 0]
        for con_id, bid in ((AAPL, "200"), (MSFT, "400"), (EURUSD, "1.1")):
            self.stage.script.set(con_id, bid, ask=D(bid) + self.tick(con_id), size=self.size)

    def tick(self, con_id):
        return D("0.0001") if con_id == EURUSD else D("0.05")

    def bid(self, con_id):
        return self.gateway.market.quote(self.gateway.universe.by_con_id(con_id)).bid

    def place(self, who, instrument, legs=(), **known):
        """Place an order, and remember how: for modifications."""

        async def act():
            self.ids[who] += 1
            order_id = self.ids[who]
            self.clients[who].place(order_id, instrument, legs, **known)
            self.placed.append((who, order_id, instrument, legs, known))
            return order_id

        return self.run(act())

    def prices(self, con_id, order_type, ticks):
        """The price fields of an order, so many ticks off the market."""
        price = self.bid(con_id) + ticks * self.tick(con_id)
        tick = self.tick(con_id)
        stop, trail = {"auxPrice": price}, {"auxPrice": (1 + abs(ticks)) * tick}
        both = {**stop, "lmtPrice": price + (ticks % 5 - 2) * tick}
        return {
            "MKT": {},
            "MOC": {},
            "LMT": {"lmtPrice": price},
            "LOC": {"lmtPrice": price},
            "MIDPRICE": {"lmtPrice": price if ticks % 2 else ""},
            "STP": stop,
            "MIT": stop,
            "STP LMT": both,
            "LIT": both,
            "TRAIL": trail,
            "TRAIL LIMIT": {**trail, "lmtPriceOffset": tick},
        }[order_type]

    @rule(
        who=CLIENTS, con_id=SINGLES, action=SIDES, quantity=QUANTITIES, kind=TYPES, tif=TIFS, ticks=TICKS,
        account=st.sampled_from(ACCOUNTS), group=st.sampled_from(["", "", "a", "b"]), oca=st.integers(1, 3),
        whole=st.booleans(),
    )  # fmt: skip
    def order(self, who, con_id, action, quantity, kind, tif, ticks, account, group, oca, whole):  # noqa: PLR0913, PLR0917
        """One order."""
        known = self.prices(con_id, kind, ticks)
        known |= {"goodTillDate": "20261123 20:00:00 US/Eastern"} if tif == "GTD" else {}
        self.place(
            who, instrument_of(con_id), action=action, totalQuantity=quantity, orderType=kind, tif=tif,
            account=account, ocaGroup=group, ocaType=oca if group else "", allOrNone=int(whole and ticks > 20), **known,
        )  # fmt: skip

    @rule(who=CLIENTS, action=SIDES, quantity=QUANTITIES, ticks=TICKS, market=st.booleans())
    def spread(self, who, action, quantity, ticks, market):
        """A combo with a ratio of two: its price is negative."""
        price = self.bid(AAPL) - 2 * self.bid(MSFT) + ticks * D("0.05")
        known = {"orderType": "MKT"} if market else {"orderType": "LMT", "lmtPrice": price}
        self.place(who, combo(), LEGS, action=action, totalQuantity=quantity, account="DU1", **known)

    @rule(who=CLIENTS, quantity=QUANTITIES, ticks=TICKS, market=st.booleans(), step=st.integers(1, 30))
    def bracket(self, who, quantity, ticks, market, step):
        """A parent, a profit taker and a stop."""
        bid, tick = self.bid(AAPL), self.tick(AAPL)
        shared = {"totalQuantity": quantity, "account": "DU2"}
        entry = {"orderType": "MKT"} if market else {"orderType": "LMT", "lmtPrice": bid + ticks * tick}
        parent = self.place(who, stock(), transmit=0, **entry, **shared)
        child = {"action": "SELL", "parentId": parent, **shared}
        self.place(who, stock(), transmit=0, orderType="LMT", lmtPrice=bid + step * tick, **child)
        self.place(who, stock(), orderType="STP", auxPrice=bid - step * tick, tif="GTC", **child)

    @precondition(lambda self: self.placed)
    @rule(data=st.data(), quantity=QUANTITIES, ticks=TICKS)
    def modify(self, data, quantity, ticks):
        """New quantity and prices for any order that was ever placed."""
        who, order_id, instrument, legs, known = data.draw(st.sampled_from(self.placed))
        con_id = instrument[0] or AAPL
        terms = {**known, "totalQuantity": quantity, "transmit": 1}
        if not legs and known["orderType"] not in {"TRAIL", "TRAIL LIMIT"}:
            terms |= self.prices(con_id, known["orderType"], ticks)

        async def act():
            self.clients[who].place(order_id, instrument, legs, **terms)
            known = self.gateway.exchange.orders.get((who + 1, order_id))
            self.modified.add(known.perm_id if known is not None else 0)

        self.run(act())

    @precondition(lambda self: self.placed)
    @rule(data=st.data())
    def cancel(self, data):
        """Cancel any order that was ever placed."""
        who, order_id, *_ = data.draw(st.sampled_from(self.placed))

        async def act():
            self.clients[who].ask(4, 1, order_id, "")

        self.run(act())

    @rule()
    def cancel_everything(self):
        """Of all clients."""

        async def act():
            self.clients[0].ask(58, 1)

        self.run(act())

    @rule(con_id=SINGLES, ticks=st.integers(-30, 30), wide=st.integers(1, 3))
    def quote(self, con_id, ticks, wide):
        """The market moves."""

        async def act():
            bid = max(self.tick(con_id), self.bid(con_id) + ticks * self.tick(con_id))
            self.stage.script.set(con_id, bid, ask=bid + wide * self.tick(con_id), size=self.size)
            await asyncio.sleep(0.3)

        self.run(act())

    @rule(seconds=st.sampled_from([0.01, 0.1, 0.3, 1.0, 60.0]))
    def wait(self, seconds):
        """Time passes."""
        self.run(asyncio.sleep(seconds))

    @rule()
    def next_close(self):
        """Past the closing auction, with a quote every hour."""
        self.run(asyncio.sleep(6.5 * 3600))

    # What must hold.

    @invariant()
    def books_balance(self):
        """Cash and positions of each account are what its executions say."""
        if not hasattr(self, "gateway"):
            return
        cash = {code: {"USD": CASH} for code in ACCOUNTS}
        held = {code: {} for code in ACCOUNTS}
        for fill in self.gateway.executions:
            contract = fill.contract
            if contract is None:
                continue
            purse, positions = cash[fill.order.account], held[fill.order.account]
            signed = fill.shares if fill.side == "BOT" else -fill.shares
            positions[contract.con_id] = positions.get(contract.con_id, 0) + signed
            if contract.sec_type == "CASH":
                purse[contract.symbol] = purse.get(contract.symbol, 0) + signed
            purse["USD"] -= signed * fill.price * contract.units + fill.commission
        for code, account in self.gateway.accounts.items():
            assert account.cash == cash[code]
            assert {each.contract.con_id: each.quantity for each in account.held()} == {
                con_id: quantity for con_id, quantity in held[code].items() if quantity
            }

    @invariant()
    def orders_are_sound(self):
        """Filled within quantity and limit; done for good; every id once."""
        if not hasattr(self, "gateway"):
            return
        fills = {}
        for fill in self.gateway.executions:
            if fill.instrument is fill.order.instrument:
                fills.setdefault(fill.order, []).append(fill)
        orders = list(self.gateway.exchange.orders.values())
        for order in orders:
            own = fills.get(order, [])
            assert sum(fill.shares for fill in own) == order.filled <= order.ticket.quantity
            assert (order.status is Status.FILLED) == (order.remaining == 0)
            self.check_limit(order, own)
            if order.status in DONE:
                frozen = (order.status, order.filled, order.ticket, order.completed_at)
                assert self.done.setdefault(order.perm_id, frozen) == frozen
                assert order.watch is None
                assert order.routing is None
        exec_ids = [fill.exec_id for fill in self.gateway.executions]
        assert len({order.perm_id for order in orders}) == len(orders)
        assert len(set(exec_ids)) == len(exec_ids)

    def check_limit(self, order, fills):
        """No fill was worse than a limit that the order ever had."""
        limits = self.limits.setdefault(order.perm_id, set())
        limits.add(order.limit)
        if order.style.kind is Kind.MARKET or None in limits:
            return
        worst = max(limits) if order.ticket.sign > 0 else min(limits)
        assert all((fill.price - worst) * order.ticket.sign <= 0 for fill in fills)

    @invariant()
    def combos_are_the_sum_of_their_legs(self):
        """In price and in quantity."""
        if not hasattr(self, "gateway"):
            return
        fills = self.gateway.executions
        for n, whole in enumerate(fills):
            if isinstance(whole.instrument, Combo):
                first, second = fills[n + 1 : n + 3]
                assert whole.price == first.price - 2 * second.price
                assert (first.shares, second.shares) == (whole.shares, 2 * whole.shares)

    @invariant()
    def groups_never_overfill(self):
        """The children of a bracket sell no more than its parent has bought, as it was placed."""
        if not hasattr(self, "gateway"):
            return
        for order in self.gateway.exchange.orders.values():
            if order.children and all(isinstance(child.instrument, Contract) for child in order.children):
                sold = sum(child.filled for child in order.children)
                if not self.was_modified(order):
                    assert sold <= order.filled

    def was_modified(self, parent):
        return any(order.perm_id in self.modified for order in [parent, *parent.children])

    def teardown(self):
        """Every execution was told once, every commission after its execution."""
        if not hasattr(self, "gateway"):
            return
        self.run(asyncio.sleep(1))
        self.books_balance()
        self.orders_are_sound()
        told = [message for client in self.clients for message in client.of(11)]
        assert len(told) == len(self.gateway.executions)
        for client in self.clients:
            kinds = [(message[0], message[14 if message[0] == "11" else 2]) for message in client.messages[1:]
                     if message[0] in {"11", "59"}]  # fmt: skip
            for n, (kind, exec_id) in enumerate(kinds):
                assert kind == "11" or ("11", exec_id) in kinds[:n]
        self.run(self._close())
        self.runner.close()

    async def _close(self):
        self.stage.close()


QUICK = settings(max_examples=40, stateful_step_count=30, deadline=None, suppress_health_check=list(HealthCheck))
THOROUGH = settings(QUICK, max_examples=400, stateful_step_count=60)

TestExchange = Exchange.TestCase
TestExchange.settings = THOROUGH if os.environ.get("HYPOTHESIS_PROFILE") == "thorough" else QUICK
