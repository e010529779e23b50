"""Every protocol version from 157 to 178: what is written is read, and every message has the length it must have.

Method: orders are written by a second writer (`orderwriter.py`), which knows the protocol and not the simulator's
tables; lengths are those that the clients' decoders demand.
"""

import asyncio
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.contracts import Universe
from ibkr_service.sim.gateway import Gateway
from ibkr_service.sim.loop import run
from ibkr_service.sim.messages import SERVER_VERSION_MAX, SERVER_VERSION_MIN
from ibkr_service.sim.orderread import read_place_order
from ibkr_service.sim.orders import Move, Order
from ibkr_service.sim.orderwrite import completed_order, open_order
from ibkr_service.sim.rawclient import RawClient, frames, stock
from ibkr_service.sim.wire import Fields
from tests.sim import orderwriter

UNIVERSE = Universe(date(2026, 11, 23))
VERSIONS = range(SERVER_VERSION_MIN, SERVER_VERSION_MAX + 1)
PRICES = st.decimals(min_value=0, max_value=10_000, places=4).map(str)
TEXTS = st.text(st.characters(min_codepoint=32, max_codepoint=126), max_size=12)


def maybe(**fields):
    """Any of these fields, or none."""
    return st.fixed_dictionaries({}, optional=fields)


ORDERS = st.builds(
    lambda order, more, kind: {**order, **more, **kind},
    st.fixed_dictionaries(
        {
            "orderId": st.integers(1, 2**31 - 1),
            "conId": st.just(265598),
            "secType": st.just("STK"),
            "action": st.sampled_from(["BUY", "SELL"]),
            "totalQuantity": st.sampled_from(["1", "10.0", "300"]),
            "exchange": st.sampled_from(["SMART", "IBKRATS"]),
        }
    ),
    maybe(
        lmtPrice=PRICES,
        auxPrice=PRICES,
        tif=st.sampled_from(["DAY", "GTC", "IOC"]),
        account=TEXTS,
        orderRef=TEXTS,
        ocaGroup=TEXTS,
        faProfile=TEXTS,
        modelCode=TEXTS,
        hedgeType=st.sampled_from(["", "B"]),
        hedgeParam=PRICES,
        algoStrategy=st.sampled_from(["", "Adaptive"]),
        algoParams=st.lists(st.tuples(TEXTS, TEXTS), max_size=3),
        scalePriceIncrement=st.sampled_from(["0.05", "1"]),
        scaleProfitOffset=PRICES,
        deltaNeutralOrderType=st.sampled_from(["", "MKT"]),
        deltaNeutralConId=st.integers(0, 9),
        conditions=st.lists(
            st.sampled_from([(1, "a", 1, "100", 265598, "SMART", 0), (3, "o", 0, "20261224 10:00:00"), (4, "a", 1, 5)]),
            max_size=3,
        ),
        conditionsIgnoreRth=st.booleans(),
        triggerPrice=PRICES,
        cashQty=PRICES,
        whatIf=st.booleans(),
        transmit=st.booleans(),
        parentId=st.integers(0, 99),
    ),
    st.one_of(
        st.just({"orderType": "MKT"}),
        st.fixed_dictionaries({"orderType": st.just("PEG BENCH"), "referenceContractId": st.integers(0, 9)}),
        st.fixed_dictionaries({"orderType": st.just("PEG MID"), "midOffsetAtHalf": PRICES}),
        st.fixed_dictionaries(
            {
                "orderType": st.just("PEG BEST"),
                "competeAgainstBestOffset": st.sampled_from(["0.02", "Infinity", "Infinite"]),
                "midOffsetAtWhole": PRICES,
            }
        ),
    ),
)
PLAIN = {
    "orderId": 1,
    "conId": 265598,
    "exchange": "SMART",
    "action": "BUY",
    "totalQuantity": 1,
    "orderType": "MKT",
}
NEW_FIELDS = {
    "duration": (158, "60"),
    "postToAts": (160, "3"),
    "autoCancelParent": (162, "1"),
    "advancedErrorOverride": (166, "8229=1"),
    "manualOrderTime": (169, "20261123-14:30:00"),
}


@given(ORDERS, st.sampled_from(VERSIONS))
def test_an_order_of_any_version_is_read_as_it_was_written(order, version):
    """Every field in its place, and not one left over."""
    order = {**order, **{name: text for name, (_, text) in NEW_FIELDS.items()}}
    reader = Fields(orderwriter.fields(order, version))
    ticket = read_place_order(reader, version)
    assert reader.remaining == 0
    assert (ticket.order_id, ticket.quantity) == (order["orderId"], Decimal(order["totalQuantity"]))
    assert (ticket.transmit, ticket.what_if) == (order.get("transmit", True), order.get("whatIf", False))
    for name in ("lmtPrice", "orderType", "orderRef", "modelCode", "algoStrategy", "triggerPrice", "cashQty"):
        assert ticket.values[name] == str(order.get(name, "")), name
    assert ticket.values.get("faProfile", "") == (order.get("faProfile", "") if version < 177 else "")
    for name, (since, text) in NEW_FIELDS.items():
        assert ticket.values.get(name, "") == (text if version >= since else ""), name


@given(ORDERS, st.integers(1, 8))
def test_a_missing_tail_is_unset(order, missing):
    """The official client of 2020 leaves off what it does not know, whatever the gateway announces."""
    order = {**order, "orderType": "MKT", "exchange": "SMART"}
    texts = orderwriter.fields(order, 178)
    ticket = read_place_order(Fields(texts[:-missing]), 178)
    assert ticket.quantity == Decimal(order["totalQuantity"])
    assert ticket.values["manualOrderTime"] == ""


@pytest.mark.parametrize(("version", "length"), [(157, 110), (163, 113), (176, 115), (177, 114), (178, 114)])
def test_a_plain_order_has_the_length_of_its_version(version, length):
    """As the protocol says; the message id is one of the fields."""
    assert len(orderwriter.fields({"orderId": 1, "orderType": "MKT"}, version)) + 1 == length


@pytest.mark.parametrize(
    ("version", "opened", "completed"),
    [(157, 128, 96), (158, 129, 96), (160, 130, 96), (162, 131, 96), (170, 136, 101), (176, 136, 101), (177, 135, 100)],
)
def test_orders_are_told_in_the_length_of_the_version(version, opened, completed):
    """ib_insync 0.9.86, ib_async 2.1.0 and the official clients read exactly these."""
    ticket = read_place_order(Fields(orderwriter.fields(PLAIN, version)), version)
    placed = Order(ticket, 1, 99, UNIVERSE.resolve(ticket.spec), "DU1")
    placed.move(Move.TRANSMIT)
    assert len(frames(open_order(placed, version))[0]) == opened
    assert len(frames(completed_order(placed, version))[0]) == completed


def test_infinity_is_told_as_every_client_reads_it():
    """ib_insync writes Infinite and cannot read it."""
    order = {**PLAIN, "orderType": "PEG BEST", "competeAgainstBestOffset": "Infinite"}
    ticket = read_place_order(Fields(orderwriter.fields(order, 176)), 176)
    placed = Order(ticket, 1, 99, UNIVERSE.resolve(ticket.spec), "DU1")
    assert frames(open_order(placed, 176))[0][-3] == "Infinity"


@pytest.mark.parametrize(
    ("version", "details", "execution"), [(157, 45, 31), (163, 46, 31), (164, 46, 31), (178, 46, 32)]
)
def test_contracts_and_fills_are_told_in_the_length_of_the_version(version, details, execution):
    """Of contractDetails with three security ids, and execDetails."""

    async def talk():
        gateway = Gateway(GatewayConfig())
        client = RawClient(gateway, versions=f"v157..{version}")
        client.ask(9, 8, 1, *stock(), 0, "", "", "")
        client.ask(3, *orderwriter.fields(PLAIN, version))
        await asyncio.sleep(5)
        gateway.close()
        return client

    client = run(talk())
    assert [len(message) for message in client.of(10)] == [details]
    assert {len(message) for message in client.of(11)} == {execution}
    assert {len(message) for message in client.of(4)} == {6 if version >= 166 else 5}
