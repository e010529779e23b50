"""Orders written from a template are the library's own, byte for byte."""

from __future__ import annotations

from decimal import Decimal as D

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.broker import translate
from ibkr_service.broker.ib import IB
from ibkr_service.broker.orderwire import OrderWire
from ibkr_service.core.errors import Paced
from ibkr_service.core.instrument import Forex, Future, FutureOption, Option, Stock
from ibkr_service.core.orders import Intent
from ibkr_service.sim.loop import run

INSTRUMENTS = [
    Stock("AAPL"),
    Stock("AAPL", exchange="NYSE"),
    Stock("AAPL", primary_exchange="NASDAQ"),
    Stock("SAP", "EUR"),
    Forex("EUR", "USD"),
    Option("SPX", "20261218", 5900.0, "C", trading_class="SPXW"),
    FutureOption("ES", "20261218", 5900.0, "P", "50", exchange="CME"),
    Future("ES", "202612", "CME"),
]
numbers = st.decimals(min_value="0.00001", max_value="1000000", places=5, allow_nan=False).filter(bool)
intents = st.builds(
    lambda instrument, action, quantity, price, tif, outside: Intent(
        instrument=instrument,
        action=action,
        quantity=quantity,
        order_type="MKT" if price is None else "LMT",
        limit_price=price,
        tif=tif,
        outside_rth=outside,
    ),
    st.sampled_from(INSTRUMENTS),
    st.sampled_from(["BUY", "SELL"]),
    numbers | st.sampled_from([D("1E+3"), D("100.00")]),
    st.none() | numbers | st.sampled_from([D("-1.25"), D(0)]),
    st.sampled_from(["DAY", "GTC", "IOC"]),
    st.booleans(),
)
ORDER_ID_MAX = 2**31 - 2  # one more is the library's word for "unset"
orders = st.tuples(
    st.integers(1, ORDER_ID_MAX), intents, st.integers(0, 2**31), st.text("ibs.-0a", min_size=1, max_size=30)
)


def connected(version):
    """A client that believes to be connected."""
    ib = IB()
    ib.client._serverVersion, ib.client.connState, ib.client._apiReady = version, ib.client.CONNECTED, True
    return ib.client


@settings(max_examples=150, deadline=None)
@given(version=st.sampled_from([157, 176, 178]), placed=st.lists(orders, min_size=1, max_size=8))
def test_what_leaves_is_what_the_library_writes(version, placed):
    """For every kind of order, the first time and the next."""

    async def both():
        client = connected(version)
        wire = OrderWire(client)
        for order_id, intent, con_id, ref in placed:
            contract = translate.contract_of(intent.instrument, con_id)
            order = translate.order_of(intent, ref, "DU1")
            theirs = client.written(lambda: client.placeOrder(order_id, contract, order))  # noqa: B023 - called at once
            assert wire.message(order_id, intent, con_id, ref, "DU1") == theirs
            assert wire.message(order_id - 1, intent, con_id, ref, "DU2") != theirs

    run(both())


async def test_what_is_only_written_does_not_leave():
    """And what follows leaves again."""
    client, sent = connected(176), []
    client.pacer._transmit = sent.append
    assert client.written(client.reqCurrentTime).startswith("49\0")
    assert sent == []
    client.reqCurrentTime()
    assert len(sent) == 1


async def test_kinds_of_order_do_not_pile_up(monkeypatch):
    """They are remembered within bounds."""
    monkeypatch.setattr("ibkr_service.broker.orderwire.TEMPLATES_MAX", 3)
    wire = OrderWire(connected(176))
    intent = Intent(instrument=Stock("AAPL"), action="BUY", quantity=D(1))
    for con_id in range(10):
        wire.message(1, intent, con_id, "ref", "DU1")
    assert len(wire._templates) <= 3


async def test_an_order_that_has_no_room_is_not_queued():
    """It is refused, as any order message is."""
    client, sent = connected(176), []
    client.pacer._transmit = sent.append
    message = OrderWire(client).message(1, Intent(instrument=Stock("A"), action="BUY", quantity=D(1)), 0, "r", "DU1")
    for _ in range(client.pacer.rate_per_s):
        client.pacer.send(message)
    with pytest.raises(Paced):
        client.pacer.send(message)
    assert len(sent) == client.pacer.rate_per_s
