"""Orders on the wire: what ib_insync writes is read, and what is written ib_insync reads back equal."""

import dataclasses
import logging
from datetime import date
from decimal import Decimal

import pytest

from ibkr_service.sim.contracts import Universe, read_spec
from ibkr_service.sim.orderlayout import CORE, PLACE_TAIL
from ibkr_service.sim.orderread import read_place_order
from ibkr_service.sim.orders import Move, Order
from ibkr_service.sim.orderwrite import completed_order, open_order
from ibkr_service.sim.rawclient import frames, stock
from ibkr_service.sim.rules import Refused, check
from ibkr_service.sim.wire import FieldError, Fields

UNIVERSE = Universe(date(2026, 11, 23))
SERVERS_OWN = {
    "deltaNeutralOrderType",  # TWS fills in None
    "adjustedOrderType",
    "deltaNeutralOpenClose",
    "clientId",
    "permId",
    "volatilityType",
    "transmit",  # not echoed
    "orderMiscOptions",
    "extOperator",
    "overridePercentageConstraints",
    "activeStartTime",
    "activeStopTime",
    "scaleTable",
    "algoId",
    "manualOrderTime",
    "advancedErrorOverride",
    "mifid2DecisionMaker",
    "softDollarTier",
}


def sent_by_ib_insync(contract, order, version):
    """The fields of the placeOrder that the library sends, after the message id."""
    from ib_insync.client import Client

    client = Client(wrapper=None)
    sent = []
    client.connState = Client.CONNECTED
    client._serverVersion = version
    client.sendMsg = sent.append
    client.placeOrder(7, contract, order)
    return sent[0].split("\0")[1:-1]


def read_by_ib_insync(message, version):
    """The order that the library decodes."""
    from ib_insync.decoder import Decoder

    class Wrapper:
        def openOrder(self, _order_id, contract, order, state):  # noqa: N802  the library's name
            self.seen = contract, order, state

        def completedOrder(self, contract, order, state):  # noqa: N802  same
            self.seen = contract, order, state

    wrapper = Wrapper()
    Decoder(wrapper, version).interpret(frames(message)[0])
    return wrapper.seen


def rich_order():
    """A limit order with something in every group of the layout."""
    from ib_insync import LimitOrder, PriceCondition, TagValue, TimeCondition

    return LimitOrder(
        "SELL",
        300,
        123.45,
        auxPrice=1.5,
        orderId=7,
        tif="GTC",
        orderRef="2147483647",
        account="DU1234567",
        outsideRth=True,
        ocaGroup="group",
        ocaType=2,
        hidden=True,
        displaySize=100,
        minQty=50,
        algoStrategy="Adaptive",
        algoParams=[TagValue("adaptivePriority", "Urgent")],
        hedgeType="B",
        hedgeParam="0.5",
        scalePriceIncrement=0.05,
        scaleInitLevelSize=10,
        scaleProfitOffset=0.1,
        deltaNeutralOrderType="MKT",
        deltaNeutralConId=5,
        conditions=[
            PriceCondition(1, "a", True, 100.0, 265598, "SMART", 0),
            TimeCondition(3, "o", True, "20261224 10:00:00 US/Eastern"),
        ],
        conditionsIgnoreRth=True,
        trailStopPrice=99.0,
        triggerPrice=98.0,
        duration=60,
        postToAts=3,
        autoCancelParent=True,
        usePriceMgmtAlgo=True,
        goodAfterTime="20261224 10:00:00 US/Eastern",
        goodTillDate="20261225 10:00:00 US/Eastern",
        discretionaryAmt=0.02,
        percentOffset=0.01,
        cashQty=1000.0,
    )


def placed(contract, order, version):
    """The order at the broker, from the library's own bytes."""
    ticket = read_place_order(Fields(sent_by_ib_insync(contract, order, version)), version)
    placed = Order(ticket, 1, 99, UNIVERSE.resolve(ticket.spec), "DU1234567")
    placed.move(Move.TRANSMIT)
    return placed


@pytest.mark.parametrize("version", [157, 158, 160, 163, 166, 169, 176])
@pytest.mark.parametrize("kind", ["plain", "rich", "pegged"])
def test_what_the_library_sends_it_reads_back(version, kind, caplog):
    """Field by field, in every layout, nothing left over and nothing missing."""
    from ib_insync import Order as IBOrder
    from ib_insync import Stock

    order = {"plain": lambda: IBOrder("", 7, action="BUY", totalQuantity=1), "rich": rich_order, "pegged": pegged}[
        kind
    ]()
    order.orderId = 7
    at_broker = placed(Stock("AAPL", "SMART", "USD"), order, version)
    with caplog.at_level(logging.ERROR):
        contract, read, state = read_by_ib_insync(open_order(at_broker, version), version)
    assert caplog.records == []
    assert (contract.conId, contract.exchange, state.status) == (265598, "SMART", "PreSubmitted")
    if version == 158:
        return  # ib_insync expects the duration from 159 on; the official client from 158
    skipped = set(SERVERS_OWN) if kind != "rich" else SERVERS_OWN - {"deltaNeutralOrderType"}
    skipped |= {"duration", "postToAts", "autoCancelParent"} if version < 162 else set()
    for field in dataclasses.fields(order):
        if field.name in skipped or (field.name in {"lmtPrice", "auxPrice", "tif", "account"} and kind != "rich"):
            continue
        assert getattr(read, field.name) == getattr(order, field.name), field.name
    assert (read.permId, read.clientId) == (99, 1)


def pegged():
    """An order of a type with fields of its own."""
    from ib_insync import Order as IBOrder

    return IBOrder(
        action="BUY",
        totalQuantity=5,
        orderType="PEG BENCH",
        referenceContractId=3,
        peggedChangeAmount=0.1,
        referenceChangeAmount=0.2,
        referenceExchangeId="SMART",
    )


@pytest.mark.parametrize("kind", ["rich", "pegged"])
def test_completed_orders_are_read_back(kind, caplog):
    """Their layout differs."""
    from ib_insync import Stock

    order = {"rich": rich_order, "pegged": pegged}[kind]()
    at_broker = placed(Stock("AAPL", "SMART", "USD"), order, 176)
    at_broker.move(Move.CANCEL)
    with caplog.at_level(logging.ERROR):
        contract, read, state = read_by_ib_insync(completed_order(at_broker, 176), 176)
    assert caplog.records == []
    assert (contract.symbol, read.permId, state.status) == ("AAPL", 99, "Cancelled")
    assert (read.orderRef, read.totalQuantity) == (order.orderRef, order.totalQuantity)
    assert state.completedStatus == "Cancelled by Trader"


def test_a_plain_order_has_115_fields_at_176():
    """As the protocol says; the id is one of them."""
    from ib_insync import MarketOrder, Stock

    fields = sent_by_ib_insync(Stock("AAPL", "SMART", "USD"), MarketOrder("BUY", 1), 176)
    assert len(fields) + 1 == 115
    reader = Fields(fields)
    read_place_order(reader, 176)
    assert reader.remaining == 0


def test_the_official_clients_sentinels_and_missing_tail_are_unset():
    """The official client writes unset numbers out, and leaves off what its version does not know."""
    sentinels = {
        **dict.fromkeys(["triggerPrice", "lmtPriceOffset", "adjustedStopPrice", "cashQty"], "1.7976931348623157e+308"),
        "action": "BUY",
        "totalQuantity": "10.0",
        "orderType": "MKT",
        "orderRef": "2147483647",
    }
    texts = ["7", *(str(value) for value in stock()), *(sentinels.get(name, "") for name in CORE)]
    tail = [name for name in PLACE_TAIL if name not in {"<deltaNeutral>", "<scale>", "<hedge>", "<algo>", "<pegBench>"}]
    texts += ["0" if name.startswith("<") else sentinels.get(name, "") for name in tail if name != "<versions>"]
    for fields in (texts, texts[:-6]):
        ticket = read_place_order(Fields(fields), 176)
        assert (ticket.quantity, ticket.limit, ticket.order_ref) == (Decimal(10), None, "2147483647")
        assert ticket.values["triggerPrice"] == ticket.values["duration"] == ""
        check(ticket, UNIVERSE.stocks[265598])


def test_attributes_that_are_not_modelled_are_refused():
    """An order that would be traded otherwise than asked is not traded at all."""
    from ib_insync import Stock

    at_broker = placed(Stock("AAPL", "SMART", "USD"), rich_order(), 176)
    with pytest.raises(Refused, match="not modelled"):
        check(at_broker.ticket, at_broker.instrument)


def test_conditions_of_unknown_types_are_refused():
    """Their length cannot be known."""
    from ib_insync import MarketOrder, PriceCondition, Stock

    order = MarketOrder("BUY", 1, conditions=[PriceCondition(2)])
    with pytest.raises(FieldError, match="condition"):
        placed(Stock("AAPL", "SMART", "USD"), order, 176)


def test_a_contract_is_read_as_twelve_fields():
    """And no more."""
    fields = Fields([str(value) for value in stock()] + ["next"])
    assert read_spec(fields).con_id == 265598
    assert fields.text() == "next"
