"""Misfortunes between the gateway and IB, and in what the gateway says."""

import asyncio
from decimal import Decimal

import pytest

from ibkr_service.sim import Faults, Gateway, GatewayConfig, Server
from ibkr_service.sim.rawclient import AAPL, RawClient, combo, stock


@pytest.fixture
async def gateway():
    """A gateway that closes."""
    gateway = Gateway(GatewayConfig(seed=5))
    yield gateway
    gateway.close()


@pytest.fixture
def faults(gateway) -> Faults:
    """Its faults; no socket is needed."""
    return Server(gateway, "127.0.0.1", 0).faults


@pytest.fixture
async def client(gateway):
    """A connected client."""
    return RawClient(gateway)


def subscribe(client, req_id=3):
    """A market data line."""
    client.ask(1, 11, req_id, *stock(), 0, "", 0, 0, "")


async def test_a_cut_stops_ticks_and_holds_orders(gateway, faults, client):
    """1100; orders and questions wait; afterwards everything goes on."""
    subscribe(client)
    faults.cut()
    assert client.errors() == [(-1, 1100)]
    client.forget()
    client.place(1)
    client.ask(9, 8, 5, *stock(), 0, "", "", "")
    await asyncio.sleep(5)
    assert client.messages[1:] == []
    client.ask(49, 1)
    assert client.of(49)
    faults.restore(data_kept=True)
    assert client.errors() == [(-1, 1102)]
    assert client.of(10)
    await asyncio.sleep(1)
    assert client.statuses(1)[-1] == "Filled"
    assert client.of(1)


async def test_fills_during_a_cut_are_reported_afterwards(gateway, faults, client):
    """What was at the exchange goes on there."""
    client.ask(61, 1)
    client.place(1)
    faults.cut()
    await asyncio.sleep(1)
    assert len(gateway.executions) == 1
    assert client.of(11) == client.of(61) == []
    faults.restore(data_kept=True)
    kinds = [message[0] for message in client.messages if message[0] in {"3", "11", "59", "61"}]
    assert kinds == ["3", "3", "11", "3", "59", "61"]
    assert client.statuses(1) == ["PreSubmitted", "Submitted", "Filled"]


async def test_reports_may_be_lost_for_good(gateway, faults, client):
    """As IB sometimes does: only a question brings them to light."""
    client.place(1)
    faults.cut()
    await asyncio.sleep(1)
    faults.restore(data_kept=True, lose_reports=True)
    assert client.of(11) == []
    client.ask(7, 3, 9, 0, "", "", "", "", "", "")
    assert len(client.of(11)) == 1


async def test_data_lost_drops_subscriptions_silently(gateway, faults, client):
    """1101: no ticks, the line is free, and its cancel is 300."""
    subscribe(client)
    faults.cut()
    faults.restore(data_kept=False)
    assert client.errors() == [(-1, 1100), (-1, 1101)]
    client.forget()
    await asyncio.sleep(5)
    assert client.messages[1:] == []
    client.ask(2, 2, 3)
    assert client.errors() == [(3, 300)]
    subscribe(client)
    assert client.of(1)


async def test_an_order_held_by_a_cut_is_placed_though_its_client_has_left(gateway, faults, client):
    """The gateway had it."""
    faults.cut()
    client.place(1)
    client.ask(9, 8, 5, *stock(), 0, "", "", "")
    client.session.lost()
    faults.restore(data_kept=True)
    await asyncio.sleep(1)
    assert [order.status.value for order in gateway.completed_orders] == ["Filled"]


async def test_who_connects_during_an_outage_is_told(gateway, faults):
    """1100 and 2103 after the notices."""
    faults.cut()
    faults.farm_down()
    assert RawClient(gateway).errors() == [(-1, 2103), (-1, 1100)]


async def test_a_broken_farm_stops_ticks_only(gateway, faults, client):
    """2103 and 2104; orders go through."""
    subscribe(client)
    faults.farm_down()
    client.forget()
    client.place(1)
    await asyncio.sleep(1)
    assert client.of(1) == []
    assert client.statuses(1)[-1] == "Filled"
    faults.farm_up()
    await asyncio.sleep(1)
    assert client.of(1)


async def test_requests_are_ignored_always_or_a_number_of_times(gateway, faults, client):
    """By any spelling of the name."""
    faults.ignore("positions")
    faults.ignore("reqCurrentTime", times=2)
    faults.ignore("placeOrder", times=1)
    for _ in range(3):
        client.ask(61, 1)
        client.ask(49, 1)
    client.place(1)
    client.place(2)
    assert client.of(62) == []
    assert len(client.of(49)) == 1
    assert list(gateway.exchange.orders) == [(1, 2)]
    faults.heal()
    client.ask(61, 1)
    assert client.of(62)


async def test_answers_are_lost(gateway, faults, client):
    """The order is filled, and nobody hears of it."""
    faults.lose("execDetails", times=1)
    faults.lose("orderStatus")
    client.place(1)
    client.place(2)
    await asyncio.sleep(1)
    assert len(gateway.executions) == 2
    assert len(client.of(11)) == 1
    assert client.of(3) == []
    assert len(client.of(59)) == 2


async def test_ids_are_rolled_back(gateway, faults, client):
    """The next valid id is one that has been used; using it is 103."""
    client.place(5)
    await asyncio.sleep(1)
    faults.roll_back_ids(3)
    client.ask(8, 1, 1)
    assert client.of(9)[-1][2] == "3"
    faults.roll_back_ids(100)
    client.ask(8, 1, 1)
    assert client.of(9)[-1][2] == "1"
    client.place(5)
    assert client.errors() == [(5, 103)]


async def test_the_next_order_is_refused(gateway, faults, client):
    """With any code, once."""
    faults.reject_next(10349, "whatever")
    client.place(1)
    client.place(2)
    assert client.errors() == [(1, 10349)]
    assert list(gateway.exchange.orders) == [(1, 2)]
    client.place(3, orderType="LMT", lmtPrice=Decimal(1))
    faults.reject_next()
    client.place(3, orderType="LMT", lmtPrice=Decimal(2))
    assert client.errors()[-1] == (3, 201)
    assert gateway.exchange.orders[1, 3].ticket.limit == 1


async def test_a_false_cancel_is_an_error_for_an_order_that_lives(gateway, faults, client):
    """It is filled afterwards."""
    faults.false_cancel(10349)
    client.place(1)
    assert client.errors() == [(1, 10349)]
    await asyncio.sleep(1)
    assert client.statuses(1)[-1] == "Filled"
    assert gateway.positions()[0].contract.con_id == AAPL


async def test_every_status_is_said_twice(gateway, faults, client):
    """As IB does."""
    faults.duplicate_status()
    client.place(1)
    await asyncio.sleep(1)
    assert client.statuses(1) == ["PreSubmitted"] * 2 + ["Submitted"] * 2 + ["Filled"] * 2


def test_nothing_by_that_name():
    """A misspelt fault fails the test that uses it."""

    async def misspell():
        gateway = Gateway(GatewayConfig())
        with pytest.raises(ValueError, match="positons"):
            Server(gateway, "", 0).faults.ignore("positons")
        gateway.close()

    asyncio.run(misspell())


async def test_copies_of_a_status_come_after_newer_ones(gateway, faults, client):
    """Old news again, seconds later."""
    faults.duplicate_status(copies=3, spread_s=5)
    client.place(1)
    await asyncio.sleep(10)
    told = client.statuses(1)
    assert len(told) == 3 * len(set(told))
    assert told[::3] != told[1::3], "not each word three times in a row"
    assert "Filled" in told


async def test_a_request_can_be_kept_back(gateway, faults, client):
    """Also when its client has gone."""
    faults.delay("placeOrder", 20)
    client.place(1)
    client.session.lost()
    await asyncio.sleep(19)
    assert gateway.exchange.orders == {}
    await asyncio.sleep(2)
    assert len(gateway.executions) == 1


async def test_an_order_is_filled_whatever_the_market_says(gateway, faults, client):
    """In parts; what is done cannot be filled again."""
    client.place(1, orderType="LMT", lmtPrice=Decimal(1))
    order = gateway.exchange.orders[1, 1]
    faults.fill(order, quantity=Decimal(40))
    faults.fill(order)
    assert [(e.shares, e.price) for e in gateway.executions] == [(40, 1), (60, 1)]
    assert order.status.value == "Filled"
    with pytest.raises(ValueError, match="cannot be filled"):
        faults.fill(order)


async def test_a_correction_has_the_next_revision_and_moves_the_position(gateway, faults, client):
    """Both revisions can be asked for, the newest last."""
    client.place(1)
    await asyncio.sleep(1)
    (first,) = gateway.executions
    second = faults.correct(first, Decimal(90))
    assert (first.exec_id[:-2], first.exec_id[-2:]) == (second.exec_id[:-2], "01")
    assert second.exec_id.endswith(".02")
    assert [held.quantity for held in gateway.positions()] == [90]
    client.forget()
    client.ask(7, 3, 5, 0, "", "", "", "", "", "")
    assert [message[14] for message in client.of(11)] == [first.exec_id, second.exec_id]


async def test_positions_can_come_and_change_without_an_order(gateway, faults):
    """From before, by a split, by an assignment; nothing is paid for a split."""
    faults.hold("AAPL", Decimal(100), Decimal(180))
    faults.split("AAPL", Decimal(4))
    (held,) = gateway.positions()
    assert (held.quantity, held.average_cost) == (400, 45)
    option = faults.options("AAPL", "20261218", "C")[0]
    faults.hold(option, Decimal(-2), Decimal(5))
    faults.assign(option, Decimal(1))
    assert {p.contract.con_id: p.quantity for p in gateway.positions()} == {AAPL: 300, option.con_id: -1}
    with pytest.raises(ValueError, match="not 2"):
        faults.assign(option, Decimal(2))


async def test_two_orders_under_one_reference(gateway, faults, client):
    """Two permanent ids, both open; a cancel by the id ends the first only."""
    client.place(1, orderType="LMT", lmtPrice=Decimal(1), orderRef="mine")
    twin = faults.double(gateway.exchange.orders[1, 1])
    client.forget()
    client.ask(16, 1)
    assert len(client.of(5)) == 2
    assert len({order.perm_id for order in gateway.open_orders}) == 2
    client.ask(4, 1, 1, "")
    await asyncio.sleep(1)
    assert gateway.open_orders == [twin]


async def test_what_a_script_waits_for(gateway, faults, client):
    """The next order, the next execution, the next request, be it ignored or not."""
    async with asyncio.TaskGroup() as waiters:
        order, execution, _ = [waiters.create_task(gateway.occasions.next(kind)) for kind in ("order", "execution", 3)]
        await asyncio.sleep(0)
        client.place(1)
    assert order.result().key == (1, 1)
    assert execution.result().order is order.result()
    faults.ignore("placeOrder")
    async with asyncio.TaskGroup() as waiters:
        waiters.create_task(gateway.occasions.next(3))
        await asyncio.sleep(0)
        client.place(2)


# --- the rest of the vocabulary --------------------------------------------------------------------------------------


def details(client, req_id, fields=None):
    """A question for contract details."""
    client.ask(9, 8, req_id, *(fields or stock()), 0, "", "", "")


async def test_each_misfortune_is_told_as_it_happens(gateway, faults):
    """What it is, and whether it breaks or mends what a client gets."""
    told = []
    faults.listener = lambda words, effect: told.append((words, effect))
    faults.cut()
    faults.restore(data_kept=False)
    faults.ignore("positions", 2)
    assert told == [
        ("the gateway loses Interactive Brokers: 1100", "breaks"),
        ("Interactive Brokers is back: 1101", "mends"),
        ("positions is not answered 2 times", "does"),
    ]


async def test_silence_tells_nobody(gateway, faults, client):
    """Ticks end, and no message says so; what is asked for anew flows."""
    subscribe(client)
    client.forget()
    faults.silence()
    await asyncio.sleep(60)
    assert client.messages[1:] == []
    subscribe(client)
    assert client.of(1)


@pytest.mark.parametrize("tells", [True, False])
async def test_bars_that_were_kept_up_to_date_may_end(gateway, faults, client, tells):
    """With 10182, or without a word."""
    client.ask(20, 7, *stock(), 0, "", "1 min", "120 S", 0, "TRADES", 2, 1, "")
    await asyncio.sleep(10)
    assert client.of(90)
    client.forget()
    faults.end_bars(tells=tells)
    await asyncio.sleep(10)
    assert client.of(90) == []
    assert client.errors() == ([(7, 10182)] if tells else [])


async def test_a_deaf_gateway_goes_on_ticking(gateway, faults, client):
    """Requests are swallowed, ticks flow; a new session is heard."""
    subscribe(client)
    faults.deafen()
    client.forget()
    client.ask(49, 1)
    await asyncio.sleep(60)
    assert client.of(49) == []
    assert client.of(1)
    other = RawClient(gateway, 2)
    other.ask(49, 1)
    assert other.of(49)


async def test_every_answer_may_be_slow(gateway, faults, client):
    """And as fast as configured again."""
    faults.slow(2.0, 8.0)
    client.ask(49, 1)
    await asyncio.sleep(1.9)
    assert client.of(49) == []
    await asyncio.sleep(6.2)
    assert len(client.of(49)) == 1
    faults.slow(0.0, 0.0)
    client.ask(49, 1)
    assert len(client.of(49)) == 2


async def test_a_kind_of_request_may_fail(gateway, faults, client):
    """So many times, one failure after another; then it is answered."""
    faults.fail("contractDetails", 200, "unknown", times=2)
    faults.fail("reqContractDetails", 321, "no", times=1)
    for req_id in range(1, 5):
        details(client, req_id)
    assert client.errors() == [(1, 200), (2, 200), (3, 321)]
    assert len(client.of(10)) == 1


async def test_nonsense_reaches_every_client(gateway, faults, client):
    """Whatever it is."""
    faults.babble(999, 1, "what is this")
    assert client.messages[-1] == ["999", "1", "what is this"]


async def test_fewer_lines_and_permissions(gateway, faults, client):
    """Those that are open stay; healing gives back what the configuration says."""
    subscribe(client, 3)
    faults.grant_lines(1)
    subscribe(client, 4)
    faults.heal()
    subscribe(client, 5)
    faults.permit("none")
    subscribe(client, 6)
    faults.permit("delayed")
    subscribe(client, 7)
    faults.permit(None)
    subscribe(client, 8)
    assert client.errors() == [(4, 101), (6, 354), (7, 10089)]
    assert {message[2] for message in client.of(1)} == {"3", "5", "8"}


async def test_details_of_a_combination_may_never_come(gateway, faults, client):
    """321 otherwise."""
    details(client, 1, combo())
    faults.hang_on_combos()
    details(client, 2, combo())
    await asyncio.sleep(60)
    assert client.errors() == [(1, 321)]
