"""Orders written from a template are the library's own, byte for byte."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal as D

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.broker import orderfields, translate
from ibkr_service.broker.ib import IB
from ibkr_service.broker.orderwire import OrderWire
from ibkr_service.core.errors import InvalidIntent, Paced
from ibkr_service.core.instrument import Forex, Future, FutureOption, Option, Stock
from ibkr_service.core.intent import TYPES, Algo, Intent
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
limits = numbers | st.sampled_from([D("-1.25"), D(0)])
percents = st.decimals(min_value="0.01", max_value="99.99", places=2, allow_nan=False)
quantities = numbers | st.sampled_from([D("1E+3"), D("100.00")])
TILL = datetime(2026, 11, 24, 21, tzinfo=UTC)
FIELDS = [
    {},
    {"hidden": True, "displaySize": 100},
    {"ocaGroup": "g", "ocaType": 1},
    {"minQty": 5, "allOrNone": False, "discretionaryAmt": D("0.50"), "percentOffset": "0.01"},
    {"scalePriceIncrement": D("0.01"), "scaleInitLevelSize": 10, "smartComboRoutingParams": {"NonGuaranteed": 1}},
    {"goodAfterTime": "20261124 15:00:00 UTC", "orderMiscOptions": {"a": "b"}, "nbboPriceCap": "2.50"},
]
ALGOS = [None, Algo.of("Adaptive", adaptivePriority="Urgent"), Algo.of("Vwap", maxPctVol=D("0.1"), noTakeLiq=True)]


@st.composite
def intents(draw):
    """Every order type with every term it can have."""
    kind = draw(st.sampled_from(sorted(TYPES)))
    row = TYPES[kind]
    terms = {name: draw(numbers if name != "limit_price" else limits) for name in sorted(row.needs)}
    if kind == "TRAIL LIMIT":
        terms |= draw(
            st.sampled_from([{"limit_offset": D("0.05")}, {"limit_price": D("9.50"), "stop_price": D("9.60")}])
        )
    elif row.may_have:
        terms |= {name: draw(numbers) for name in sorted(row.may_have) if draw(st.booleans())}
    if row.trails:
        terms |= draw(
            st.builds(lambda n: {"trailing_amount": n}, numbers)
            | st.builds(lambda n: {"trailing_percent": n}, percents)
        )
    tif = draw(st.sampled_from(sorted(row.tifs)))
    return Intent(
        instrument=draw(st.sampled_from(INSTRUMENTS)),
        action=draw(st.sampled_from(["BUY", "SELL"])),
        quantity=draw(quantities),
        order_type=kind,
        tif=tif,
        good_till=draw(st.sampled_from([TILL, TILL.replace(hour=20)])) if tif == "GTD" else None,
        outside_rth=draw(st.booleans()),
        algo=draw(st.sampled_from(ALGOS)),
        fields=draw(st.sampled_from(FIELDS)),
        **terms,
    )


ORDER_ID_MAX = 2**31 - 2  # one more is the library's word for "unset"
orders = st.tuples(
    st.integers(1, ORDER_ID_MAX - 1),
    intents(),
    st.integers(0, ORDER_ID_MAX),
    st.text("ibs.-0a", min_size=1, max_size=30),
)


def connected(version):
    """A client that believes to be connected."""
    ib = IB()
    ib.client._serverVersion, ib.client.connState, ib.client._apiReady = version, ib.client.CONNECTED, True
    return ib.client


@settings(max_examples=300, deadline=None)
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
            assert wire.message(order_id, intent, intent.instrument, con_id, ref, "DU1") == theirs
            assert wire.message(order_id + 1, intent, intent.instrument, con_id, ref, "DU2") != theirs

    run(both())


def test_each_order_type_says_its_terms_in_twss_fields():
    """What is a stop, an amount by which to trail, a limit offset or a date, and where the library has it."""

    def order(**terms):
        return translate.order_of(Intent.sell(Stock("AAPL"), 10, **terms), "r", "DU1")

    stop = order(stop="9.5", limit="9.4")
    assert (stop.orderType, stop.auxPrice, stop.lmtPrice) == ("STP LMT", "9.5", "9.4")
    trailing = order(trail="0.5", limit_offset="0.1", stop="9", good_till=TILL)
    assert (trailing.orderType, trailing.auxPrice, trailing.lmtPriceOffset) == ("TRAIL LIMIT", "0.5", "0.1")
    assert (trailing.trailStopPrice, trailing.goodTillDate, trailing.tif) == ("9", "20261124 21:00:00 UTC", "GTD")
    assert order(trail_percent=2).trailingPercent == "2"
    adaptive = order(algo=ALGOS[1])
    assert (adaptive.algoStrategy, adaptive.algoParams[0].tag, adaptive.algoParams[0].value) == (
        "Adaptive",
        "adaptivePriority",
        "Urgent",
    )
    assert order(fields={"displaySize": 5}).displaySize == 5


@pytest.mark.parametrize(
    ("fields", "says"),
    [
        ({"hiden": True}, "no field hiden: did you mean hidden"),
        ({"orderRef": "x"}, "orderRef cannot be set: the service"),
        ({"parentId": 1}, "the service"),
        ({"lmtPrice": "1"}, "say limit_price"),
        ({"conditions": ()}, "no journal can hold"),
        ({"hidden": 1}, "must be True or False"),
        ({"displaySize": "ten"}, "must be a whole number"),
        ({"displaySize": True}, "must be a whole number"),
        ({"nbboPriceCap": "much"}, "finite number"),
        ({"ocaGroup": 1}, "must be a text"),
        ({"ocaGroup": "a\0b"}, "must be a text"),
        ({"orderMiscOptions": "a=b"}, "mapping of tags"),
    ],
)
def test_a_field_that_cannot_be_is_refused(fields, says):
    """With what to use instead; nothing of it is written."""
    intent = Intent.buy(Stock("AAPL"), 1, fields=fields)
    with pytest.raises(InvalidIntent, match=says):
        orderfields.check(intent)


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
        wire.message(1, intent, intent.instrument, con_id, "ref", "DU1")
    assert len(wire._templates) <= 3


async def test_an_order_that_has_no_room_is_not_queued():
    """It is refused, as any order message is."""
    client, sent = connected(176), []
    client.pacer._transmit = sent.append
    share = Stock("A")
    message = OrderWire(client).message(1, Intent(instrument=share, action="BUY", quantity=D(1)), share, 0, "r", "DU1")
    for _ in range(client.pacer.rate_per_s):
        client.pacer.send(message)
    with pytest.raises(Paced):
        client.pacer.send(message)
    assert len(sent) == client.pacer.rate_per_s
