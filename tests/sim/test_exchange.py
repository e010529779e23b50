"""Orders and their fills, as a client sees them and as the books have them."""

import asyncio
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ibkr_service.sim import Gateway, GatewayConfig, ReplayFile
from ibkr_service.sim.contracts import Universe
from ibkr_service.sim.loop import SimLoop
from ibkr_service.sim.orders import DONE, TRANSITIONS, IllegalMove, Move, Order, Status
from ibkr_service.sim.rawclient import AAPL, EURUSD, MSFT, RawClient, combo, contract, forex, stock

CASH = Decimal(1_000_000)
AAPL_STOCK = Universe(date(2026, 11, 23)).stocks[AAPL]


@pytest.fixture
async def gateway():
    gateway = Gateway(GatewayConfig(seed=5, requests_per_second_max=0))
    yield gateway
    gateway.close()


@pytest.fixture
async def client(gateway):
    return RawClient(gateway)


def price_of(gateway, con_id=AAPL):
    return gateway.market.quote(gateway.universe.by_con_id(con_id))


def test_every_state_is_in_the_table_and_the_done_ones_lead_nowhere():
    """The table is complete."""
    assert set(TRANSITIONS) == set(Status)
    assert {status for status, moves in TRANSITIONS.items() if not moves} == set(DONE)


@pytest.mark.parametrize("status", list(Status))
@pytest.mark.parametrize("move", list(Move))
def test_an_illegal_move_raises_and_changes_nothing(status, move):
    """The state is untouched when the table does not have the move."""
    order = Order(ticket=None, client_id=1, perm_id=1, instrument=None, account="DU1", status=status)
    if move in TRANSITIONS[status]:
        order.move(move)
        assert order.status is TRANSITIONS[status][move]
    else:
        with pytest.raises(IllegalMove):
            order.move(move)
        assert order.status is status


async def test_a_market_order_is_told_in_ibs_order(gateway, client):
    """PreSubmitted, Submitted, the fill, Filled, and the commission after its execution."""
    client.place(1, orderRef="ref-1")
    assert client.statuses(1) == ["PreSubmitted"]
    await asyncio.sleep(0.3)
    kinds = [message[0] for message in client.messages[1:] if message[0] in {"3", "5", "11", "59"}]
    assert kinds == ["5", "3", "5", "3", "11", "5", "3", "59"]
    (fill,), (report,) = client.of(11), client.of(59)
    assert (fill[1], fill[2], fill[3]) == ("-1", "1", str(AAPL))
    assert fill[14] == report[2]
    assert (fill[18], fill[19], Decimal(fill[20])) == ("BOT", "100", gateway.executions[0].price)
    assert "ref-1" in fill
    assert report[3:5] == ["1", "USD"]
    assert report[5] == "1.7976931348623157E308"
    status = client.of(3)[-1]
    assert status[2:5] == ["Filled", "100", "0"]


async def test_a_market_order_fills_after_50_to_250_ms_at_the_quote_of_that_moment(gateway, client):
    """Never in the instant in which it arrives."""
    for order_id in range(1, 20):
        client.place(order_id, totalQuantity=1)
        placed_s = gateway.clock.seconds()
        await asyncio.sleep(0.049)
        assert len(gateway.executions) == order_id - 1
        await asyncio.sleep(0.202)
        asks = {gateway.market.prices.quote(AAPL_STOCK, placed_s + n / 100).ask for n in range(5, 26)}
        assert len(gateway.executions) == order_id
        assert gateway.executions[-1].price in asks


async def test_a_limit_order_rests_until_the_quote_reaches_it(gateway, client):
    """And then fills at the quote, never worse than its limit."""
    limit = price_of(gateway).ask - Decimal("0.30")
    client.place(1, orderType="LMT", lmtPrice=limit, tif="GTC")
    await asyncio.sleep(1)
    assert client.statuses(1) == ["PreSubmitted", "Submitted"]
    await asyncio.sleep(3600)
    assert all(execution.price <= limit for execution in gateway.executions)
    assert client.statuses(1)[-1] == "Filled"


async def test_a_large_order_is_filled_in_parts_of_what_is_displayed(gateway, client):
    """No quote gives more than its size; together they give the quantity."""
    client.place(1, totalQuantity=3000)
    await asyncio.sleep(10)
    fills = gateway.executions
    assert len(fills) > 3
    assert all(fill.shares <= 900 for fill in fills)
    assert sum(fill.shares for fill in fills) == 3000
    assert [fill[24] for fill in client.of(11)] == [str(fill.cumulative) for fill in fills]
    assert [int(status[3]) + int(status[4]) for status in client.of(3)] == [3000] * len(client.of(3))
    assert len({fill.exec_id for fill in fills}) == len(fills)


async def test_two_orders_cannot_both_take_the_displayed_size(gateway, client):
    """What one has taken of a quote the other does not get."""
    for order_id in range(1, 6):
        client.place(order_id, orderType="LMT", lmtPrice=Decimal(300), totalQuantity=900)
    await asyncio.sleep(30)
    taken: dict[Decimal, Decimal] = {}
    for fill in gateway.executions:
        taken[fill.time, fill.price] = taken.get((fill.time, fill.price), 0) + fill.shares
    assert sum(fill.shares for fill in gateway.executions) == 4500
    assert len(gateway.executions) > 5


async def test_an_ioc_order_takes_what_there_is_and_cancels_the_rest(gateway, client):
    """202 says so."""
    client.place(1, totalQuantity=5000, tif="IOC")
    client.place(2, orderType="LMT", lmtPrice=Decimal(1), tif="IOC")
    await asyncio.sleep(0.3)
    assert client.statuses(1)[-1] == client.statuses(2)[-1] == "Cancelled"
    assert 0 < gateway.executions[0].shares < 5000
    assert {(1, 202), (2, 202)} == set(client.errors())


async def test_a_cancel_takes_its_time_and_is_confirmed(gateway, client):
    """PendingCancel, Cancelled, and 202."""
    client.place(1, orderType="LMT", lmtPrice=Decimal(100))
    await asyncio.sleep(0.3)
    client.ask(4, 1, 1, "")
    assert client.statuses(1)[-1] == "PendingCancel"
    await asyncio.sleep(0.3)
    assert client.statuses(1)[-1] == "Cancelled"
    assert client.errors() == [(1, 202)]
    assert gateway.open_orders == []
    assert gateway.clock._timers == {}


RECORDING = """timestamp,bid,ask
2013-01-01 22:00:00,1.30,1.31
2013-01-01 22:00:10,1.29,1.30
"""


async def test_a_fill_may_be_faster_than_a_cancel(tmp_path):
    """The quote crosses while the cancel is on its way: the order is Filled, and the cancel is told 10148."""
    path = tmp_path / "eurusd.csv"
    path.write_text(RECORDING)
    gateway = Gateway(GatewayConfig(replay=(ReplayFile(path),)))
    client = RawClient(gateway)
    client.place(1, forex(), orderType="LMT", lmtPrice=Decimal("1.305"), totalQuantity=20_000)
    await asyncio.sleep(9.99)
    client.ask(4, 1, 1, "")
    client.ask(4, 1, 1, "")
    client.place(1, forex(), orderType="LMT", lmtPrice=Decimal("1.31"), totalQuantity=20_000)
    assert client.errors() == [(1, 105)]
    await asyncio.sleep(1)
    assert client.statuses(1) == ["PreSubmitted", "Submitted", "PendingCancel", "Filled"]
    assert client.errors() == [(1, 105), (1, 10148)]
    assert [execution.price for execution in gateway.executions] == [Decimal("1.30")]
    gateway.close()


async def test_without_a_quote_orders_wait_and_ioc_orders_end(tmp_path):
    """Before the first recorded quote there is nothing to trade on."""
    early, late = tmp_path / "eurusd.csv", tmp_path / "gbpusd.csv"
    early.write_text(RECORDING)
    late.write_text(RECORDING.replace("22:00:00", "22:00:05"))
    gateway = Gateway(GatewayConfig(replay=(ReplayFile(early), ReplayFile(late))))
    client, pair = RawClient(gateway), forex(12087797)
    client.place(1, pair, totalQuantity=20_000)
    client.place(2, pair, totalQuantity=20_000, tif="IOC")
    client.place(3, pair, totalQuantity=20_000, whatIf=1)
    await asyncio.sleep(1)
    assert client.statuses(1)[-1] == "Submitted"
    assert client.statuses(2)[-1] == "Cancelled"
    await asyncio.sleep(5)
    assert client.statuses(1)[-1] == "Filled"
    gateway.close()


async def test_a_held_order_is_changed_transmitted_or_cancelled(gateway, client):
    """Nobody is told of it before."""
    client.place(1, transmit=0)
    client.place(1, transmit=0, totalQuantity=7)
    client.place(2, transmit=0)
    await asyncio.sleep(1)
    assert client.of(3) == client.of(5) == []
    client.place(1, totalQuantity=8)
    client.ask(4, 1, 2, "")
    await asyncio.sleep(1)
    assert client.statuses(1)[-1] == "Filled"
    assert client.statuses(2) == ["Cancelled"]
    assert gateway.executions[0].shares == 8


async def test_a_modification_of_an_order_under_way_goes_with_it(gateway, client):
    """New terms before it has arrived hold when it arrives; an unknown contract is no modification."""
    client.place(1, orderType="LMT", lmtPrice=Decimal(100), totalQuantity=1)
    client.place(1, orderType="LMT", lmtPrice=Decimal(300), totalQuantity=1)
    client.place(1, stock(1), orderType="LMT", lmtPrice=Decimal(300), totalQuantity=1)
    await asyncio.sleep(0.3)
    assert client.statuses(1)[-1] == "Filled"
    assert client.errors() == [(1, 200)]


async def test_cancels_that_cannot_be_are_refused(gateway, client):
    """10147 for an unknown order, 10148 for a done one."""
    client.place(1)
    await asyncio.sleep(0.3)
    client.ask(4, 1, 1, "")
    client.ask(4, 1, 99, "")
    assert client.errors() == [(1, 10148), (99, 10147)]
    assert client.of(4)[-2][4] == "OrderId 1 that needs to be cancelled cannot be cancelled, state: Filled."


async def test_the_same_id_again_modifies(gateway, client):
    """The new terms are echoed, and hold."""
    client.place(1, orderType="LMT", lmtPrice=Decimal(100))
    await asyncio.sleep(0.3)
    client.place(1, orderType="LMT", lmtPrice=Decimal(300), totalQuantity=50)
    assert gateway.exchange.orders[1, 1].ticket.quantity == 50
    await asyncio.sleep(0.3)
    assert client.statuses(1)[-1] == "Filled"
    assert gateway.executions[0].shares == 50


async def test_modifications_that_are_none_are_refused(gateway, client):
    """Another contract or side is 105, a done order 103, less than is filled 104."""
    client.place(1, orderType="LMT", lmtPrice=Decimal(100))
    client.place(1, stock(MSFT), orderType="LMT", lmtPrice=Decimal(100))
    client.place(1, action="SELL", orderType="LMT", lmtPrice=Decimal(100))
    client.place(2)
    await asyncio.sleep(0.3)
    client.place(2)
    client.place(3, totalQuantity=2000)
    await asyncio.sleep(0.3)
    client.place(3, totalQuantity=1)
    assert client.errors() == [(1, 105), (1, 105), (2, 103), (3, 104)]


@pytest.mark.parametrize(
    ("known", "code"),
    [
        ({"totalQuantity": 0}, 434),
        ({"totalQuantity": -5}, 321),
        ({"totalQuantity": Decimal("0.5")}, 10243),
        ({"orderType": "LMT"}, 321),
        ({"orderType": "LMT", "lmtPrice": Decimal("100.001")}, 110),
        ({"orderType": "LMT", "lmtPrice": Decimal(-1)}, 110),
        ({"orderType": "STP", "auxPrice": Decimal("0.005")}, 110),
        ({"orderType": "REL"}, 387),
        ({"tif": "OPG"}, 201),
        ({"account": "DU9"}, 321),
        ({"parentId": 77}, 10006),
        ({"lmtPrice": "nan"}, 320),
        ({"action": "HOLD"}, 320),
        ({"totalQuantity": "many"}, 320),
    ],
)
async def test_orders_that_make_no_sense_are_refused(gateway, client, known, code):
    """With IB's code, and no order is left behind."""
    client.place(1, **known)
    assert client.errors() == [(1, code)]
    assert client.of(5) == []
    assert gateway.exchange.orders == {}


@pytest.mark.parametrize(
    ("instrument", "code"),
    [
        (stock(1), 200),
        (contract(symbol="NOPE", sec_type="STK", exchange="SMART"), 200),
        (contract(con_id=AAPL, sec_type="STK"), 321),
        (contract(symbol="AAPL", sec_type="OPT", exchange="SMART"), 200),
        (combo(), 200),
    ],
)
async def test_orders_for_no_contract_are_refused(gateway, client, instrument, code):
    """Unknown, ambiguous, without an exchange, without legs."""
    client.place(1, instrument)
    assert client.errors() == [(1, code)]


async def test_several_accounts_must_be_told_apart():
    """435, and after that the named account gets the fill."""
    gateway = Gateway(GatewayConfig(accounts=("DU1", "DU2")))
    client = RawClient(gateway)
    client.place(1)
    client.place(2, account="DU2")
    await asyncio.sleep(0.3)
    assert client.errors() == [(1, 435)]
    assert (gateway.positions("DU1"), gateway.positions("DU2")[0].quantity) == ([], 100)
    gateway.close()


async def test_a_bracket_waits_for_its_parent_and_then_for_one_child(gateway, client):
    """Held until the last is transmitted; the parent's fill sends the children out; one's fill cancels the other."""
    ask = price_of(gateway).ask
    client.place(1, orderType="LMT", lmtPrice=ask + 1, transmit=0)
    client.place(2, action="SELL", orderType="LMT", lmtPrice=ask - 2, parentId=1, transmit=0)
    assert client.of(5) == client.of(3) == gateway.open_orders == []
    client.place(3, action="SELL", orderType="STP", auxPrice=ask - 50, parentId=1)
    assert [client.statuses(n) for n in (1, 2, 3)] == [["PreSubmitted"]] * 3
    assert [message[10] for message in client.of(3)] == ["", "child", "child,trigger"]
    await asyncio.sleep(0.3)
    assert client.statuses(1)[-1] == "Filled"
    await asyncio.sleep(0.5)
    assert client.statuses(2)[-1] == "Filled"
    assert client.statuses(3) == ["PreSubmitted", "Cancelled"]
    assert client.errors() == [(3, 202)]
    assert gateway.positions() == []


async def test_cancelling_the_parent_cancels_the_children(gateway, client):
    """Nothing of the bracket is left."""
    client.place(1, orderType="LMT", lmtPrice=Decimal(100), transmit=0)
    client.place(2, action="SELL", orderType="LMT", lmtPrice=Decimal(300), parentId=1)
    await asyncio.sleep(0.3)
    client.ask(4, 1, 1, "")
    await asyncio.sleep(0.3)
    assert client.statuses(1)[-1] == client.statuses(2)[-1] == "Cancelled"
    assert gateway.open_orders == []


async def test_an_oca_group_ends_with_its_first_fill(gateway, client):
    """One cancels all."""
    client.place(1, orderType="LMT", lmtPrice=Decimal(100), ocaGroup="group")
    client.place(2, orderType="LMT", lmtPrice=Decimal(100), ocaGroup="other")
    client.place(3, stock(MSFT), ocaGroup="group", totalQuantity=1)
    await asyncio.sleep(0.3)
    assert client.statuses(1)[-1] == "Cancelled"
    assert client.statuses(2)[-1] == "Submitted"


async def test_a_stop_order_waits_for_its_trigger(gateway, client):
    """Then it is a market order."""
    bid = price_of(gateway).bid
    client.place(1, action="SELL", orderType="STP", auxPrice=bid - Decimal("0.40"), totalQuantity=1)
    await asyncio.sleep(0.3)
    assert client.statuses(1) == ["PreSubmitted"]
    await asyncio.sleep(3600)
    assert client.statuses(1) == ["PreSubmitted", "Submitted", "Filled"]
    assert gateway.executions[0].price <= bid - Decimal("0.40")


async def test_a_combo_fills_as_a_whole_and_by_leg(gateway, client):
    """One execution for the combo, one for each leg at its own price, commissions for the legs only."""
    legs = [(AAPL, 1, "BUY", "SMART"), (MSFT, 2, "SELL", "SMART")]
    client.place(1, combo(), legs, totalQuantity=3)
    await asyncio.sleep(0.3)
    whole, first, second = gateway.executions
    assert whole.price == first.price - 2 * second.price
    assert [(fill[5], fill[18], fill[19]) for fill in client.of(11)] == [
        ("BAG", "BOT", "3"),
        ("STK", "BOT", "3"),
        ("STK", "SLD", "6"),
    ]
    assert len({fill[21] for fill in client.of(11)}) == 1
    assert [report[2] for report in client.of(59)] == [first.exec_id, second.exec_id]
    assert {position.contract.symbol: position.quantity for position in gateway.positions()} == {"AAPL": 3, "MSFT": -6}
    description = next(message for message in client.of(5) if message[4] == "BAG")
    assert "265598|1,272093|-2" in description


async def test_a_combo_is_sold_at_the_other_side(gateway, client):
    """Selling the combo sells what buying it buys."""
    client.place(1, combo(), [(AAPL, 1, "BUY", "SMART"), (MSFT, 1, "SELL", "SMART")], action="SELL", totalQuantity=1)
    await asyncio.sleep(0.3)
    assert {position.contract.symbol: position.quantity for position in gateway.positions()} == {"AAPL": -1, "MSFT": 1}


async def test_a_what_if_order_is_answered_and_not_placed(gateway, client):
    """Numeric margins, whatIf=1, the same id, and nothing else."""
    client.place(1, whatIf=1)
    (answer,) = client.of(5)
    assert answer[1] == "1"
    assert client.of(3) == gateway.open_orders == []
    at = answer.index("PreSubmitted")
    assert answer[at - 1] == "1"
    numbers = [Decimal(text) for text in answer[at + 1 : at + 13]]
    assert numbers[3] > 0
    assert numbers[6] == numbers[0] + numbers[3]
    assert numbers[9] == numbers[10] == 1
    client.place(2, stock(1), whatIf=1)
    assert client.errors() == [(2, 200)]


async def test_a_currency_order_moves_both_currencies(gateway, client):
    """A million euros at a time, two dollars at least."""
    client.place(1, forex(), totalQuantity=20_000)
    await asyncio.sleep(0.3)
    (fill,) = gateway.executions
    cash = gateway.accounts["DU1234567"].cash
    assert cash["EUR"] == 20_000
    assert cash["USD"] == CASH - 20_000 * fill.price - 2
    assert gateway.positions()[0].contract.con_id == EURUSD


async def test_a_rejected_order_becomes_inactive(gateway, client):
    """201, and then the status."""
    gateway.misfortunes.rejections.append((201, "Order rejected - reason:no"))
    client.place(1)
    assert client.errors() == [(1, 201)]
    assert client.statuses(1) == ["Inactive"]
    client.place(1)
    assert client.errors()[-1] == (1, 103)


async def test_the_books_agree_with_the_executions_after_a_day(gateway, client):
    """Cash and positions are what the executions say."""
    for n in range(1, 60):
        side = "BUY" if n % 3 else "SELL"
        client.place(n, stock(AAPL if n % 2 else MSFT), action=side, totalQuantity=50 * n)
        await asyncio.sleep(60)
    check_books(gateway)


def check_books(gateway: Gateway, modified: set[int] = frozenset()) -> None:
    """Cash and positions change by fills only, and no order is filled beyond its quantity or its limit."""
    account = gateway.accounts["DU1234567"]
    cash, held = CASH, {}
    for execution in gateway.executions:
        instrument = execution.contract
        if instrument is None:
            continue
        sign = 1 if execution.side == "BOT" else -1
        held[instrument.con_id] = held.get(instrument.con_id, 0) + sign * execution.shares
        cash -= sign * execution.shares * execution.price * instrument.units + execution.commission
    assert cash == account.cash["USD"]
    assert {con_id: quantity for con_id, quantity in held.items() if quantity} == {
        position.contract.con_id: position.quantity for position in account.held()
    }
    for order in gateway.exchange.orders.values():
        fills = [fill for fill in gateway.executions if fill.order is order and fill.instrument is order.instrument]
        assert sum(fill.shares for fill in fills) == order.filled <= order.ticket.quantity
        assert (order.status is Status.FILLED) == (order.filled == order.ticket.quantity)
        if order.ticket.order_type == "LMT" and order.ticket.order_id not in modified:
            assert all((fill.price - order.ticket.limit) * order.ticket.sign <= 0 for fill in fills)
    ids = [execution.exec_id for execution in gateway.executions]
    perm_ids = [order.perm_id for order in gateway.exchange.orders.values()]
    assert len(set(ids)) == len(ids)
    assert len(set(perm_ids)) == len(perm_ids)


ACTS = st.lists(
    st.one_of(
        st.tuples(
            st.just("place"),
            st.sampled_from([AAPL, MSFT]),
            st.sampled_from(["BUY", "SELL"]),
            st.integers(1, 2500),
            st.sampled_from(["MKT", "LMT", "STP"]),
            st.integers(-30, 30),
            st.sampled_from(["DAY", "IOC"]),
        ),
        st.tuples(st.just("modify"), st.integers(0, 9), st.integers(1, 2500), st.integers(-30, 30)),
        st.tuples(st.just("cancel"), st.integers(0, 9)),
        st.tuples(st.just("wait"), st.sampled_from([0.01, 0.2, 3.0, 60.0])),
    ),
    min_size=1,
    max_size=25,
)


@settings(deadline=None, max_examples=60, suppress_health_check=[HealthCheck.too_slow])
@given(ACTS, st.integers(0, 5))
def test_whatever_clients_do_the_books_balance(acts, seed):
    """Place, modify, cancel and wait in any order."""
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(trade(acts, seed))


async def trade(acts, seed):
    gateway = Gateway(GatewayConfig(seed=seed, requests_per_second_max=0))
    client, placed, modified = RawClient(gateway), [], set()
    for act in acts:
        match act:
            case ("place", con_id, action, quantity, kind, offset, tif):
                price = price_of(gateway, con_id).bid + Decimal(offset) / 100
                placed.append((con_id, action, kind))
                client.place(
                    len(placed),
                    stock(con_id),
                    action=action,
                    totalQuantity=quantity,
                    orderType=kind,
                    lmtPrice=price if kind == "LMT" else "",
                    auxPrice=price if kind == "STP" else "",
                    tif=tif,
                )
            case ("modify", n, quantity, offset) if n < len(placed) and placed[n][2] == "LMT":
                con_id, action, kind = placed[n]
                modified.add(n + 1)
                price = price_of(gateway, con_id).bid + Decimal(offset) / 100
                client.place(
                    n + 1, stock(con_id), action=action, totalQuantity=quantity, orderType=kind, lmtPrice=price
                )
            case ("cancel", n):
                client.ask(4, 1, n + 1, "")
            case ("wait", seconds):
                await asyncio.sleep(seconds)
    await asyncio.sleep(1)
    check_books(gateway, modified)
    assert sum(message[0] == "11" for message in client.messages[1:]) == len(gateway.executions)
    gateway.close()
