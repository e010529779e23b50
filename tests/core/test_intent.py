"""A wish that exists makes sense, reads back as it was, and says what it is."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal as D

import msgspec
import pytest

from ibkr_service.core import spreads
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Stock
from ibkr_service.core.intent import Algo, Intent

AAPL = Stock("AAPL")
TILL = datetime(2026, 11, 24, 21, tzinfo=UTC)


@pytest.mark.parametrize(
    ("terms", "order_type", "tif"),
    [
        ({}, "MKT", "DAY"),
        ({"limit": "2.85"}, "LMT", "DAY"),
        ({"stop": 3}, "STP", "DAY"),
        ({"stop": 3, "limit": 2}, "STP LMT", "DAY"),
        ({"trail": "0.5"}, "TRAIL", "DAY"),
        ({"trail_percent": 2}, "TRAIL", "DAY"),
        ({"trail": 1, "limit_offset": 0}, "TRAIL LIMIT", "DAY"),
        ({"trail": 1, "limit": 2, "stop": 3}, "TRAIL LIMIT", "DAY"),
        ({"limit": 1, "good_till": TILL}, "LMT", "GTD"),
        ({"limit": 1, "tif": "FOK"}, "LMT", "FOK"),
        ({"tif": "OPG"}, "MKT", "OPG"),
        ({"order_type": "MOC"}, "MOC", "DAY"),
        ({"order_type": "LOC", "limit": 1}, "LOC", "DAY"),
        ({"order_type": "MIDPRICE"}, "MIDPRICE", "DAY"),
        ({"limit": 1, "algo": Algo.of("Adaptive", adaptivePriority="Urgent")}, "LMT", "DAY"),
        ({"limit": 1, "fields": {"hidden": True, "displaySize": 1, "nbboPriceCap": D("1.50")}}, "LMT", "DAY"),
        ({"limit": 1, "fields": {"orderMiscOptions": {"b": 1, "a": True}}}, "LMT", "DAY"),
    ],
)
def test_the_order_type_follows_from_the_prices_and_reads_back(terms, order_type, tif):
    """What is journalled is what was wished, hash and all: a key must know it again after a restart."""
    for action, make in (("BUY", Intent.buy), ("SELL", Intent.sell)):
        intent = make(AAPL, 100, **terms)
        assert (intent.action, intent.quantity, intent.order_type, intent.tif) == (action, 100, order_type, tif)
        again = msgspec.json.decode(msgspec.json.encode(intent), type=Intent)
        assert again == intent
        assert hash(again) == hash(intent)


def test_an_old_journal_can_be_read():
    """A wish of the time when there were market and limit orders only."""
    old = (
        b'{"instrument":{"kind":"Stock","symbol":"AAPL"},"action":"BUY","quantity":"1","order_type":"LMT",'
        b'"limit_price":"2.5","tif":"DAY","outside_rth":false,"account":""}'
    )
    assert msgspec.json.decode(old, type=Intent) == Intent.buy(AAPL, 1, limit="2.5")


def test_an_intent_is_said_in_one_line():
    """With all that is not the default."""
    intent = Intent.sell(
        AAPL, 5, trail=1, limit_offset="0.1", stop=9, good_till=TILL, outside_rth=True, fields={"hidden": True},
        algo=Algo.of("Vwap", maxPctVol=D("0.1")),
    )  # fmt: skip
    assert str(intent) == (
        "SELL 5 AAPL TRAIL LIMIT stop 9 trail 1 limit offset 0.1 GTD till 2026-11-24 21:00:00 UTC outside hours "
        "Vwap(maxPctVol=0.1) hidden=True"
    )


@pytest.mark.parametrize(
    ("terms", "says"),
    [
        ({"limit": 2.85}, r'must be exact: write Decimal\("2.85"\)'),
        ({"limit": True}, "must be exact"),
        ({"limit": "much"}, "no number"),
        ({"limit": D("NaN")}, "finite"),
        ({"limit": D("Infinity")}, "finite"),
        ({"limit": D(0.1)}, "55 decimals"),  # noqa: RUF032 - that is the mistake
        ({"order_type": "STP"}, "needs a stop_price"),
        ({"order_type": "STP LMT", "stop": 1}, "needs a limit_price"),
        ({"order_type": "LOC"}, "needs a limit_price"),
        ({"order_type": "MOC", "limit": 1}, "no limit_price"),
        ({"order_type": "LMT", "limit": 1, "stop": 1}, "no stop_price"),
        ({"stop": 0}, "stop_price must be above 0"),
        ({"stop": D("NaN")}, "finite"),
        ({"order_type": "TRAIL"}, "one of trailing_amount and"),
        ({"trail": 1, "trail_percent": 1}, "one of trailing_amount and"),
        ({"trail": 0}, "above 0"),
        ({"trail": D("NaN")}, "finite"),
        ({"trail_percent": 100}, "between 0 and 100"),
        ({"order_type": "LMT", "limit": 1, "trail": 1}, "does not trail"),
        ({"order_type": "TRAIL LIMIT", "trail": 1}, "one of limit_offset and limit_price"),
        ({"trail": 1, "limit_offset": 1, "limit": 1, "stop": 1}, "one of limit_offset and limit_price"),
        ({"trail": 1, "limit": 1}, "needs the stop_price"),
        ({"trail": 1, "limit_offset": -1}, "0 or more"),
        ({"tif": "GTD"}, "goes with tif GTD"),
        ({"limit": 1, "tif": "DAY", "good_till": TILL}, "goes with tif GTD"),
        ({"limit": 1, "good_till": TILL.replace(tzinfo=None)}, "time zone"),
        ({"limit": 1, "good_till": "20261124"}, "time zone"),
        ({"stop": 1, "tif": "IOC"}, "must be one of DAY, GTC, GTD, not IOC"),
        ({"stop": 1, "tif": "OPG"}, "must be one of"),
        ({"order_type": "MOC", "tif": "GTC"}, "must be one of DAY, not GTC"),
        ({"limit": 1, "algo": "Adaptive"}, r"Algo\.of"),
        ({"limit": 1, "fields": {"hidden": 1.5}}, "must be a text"),
        ({"limit": 1, "fields": {1: 1}}, "are written"),
        ({"limit": 1, "fields": ["hidden"]}, "are written"),
    ],
)
def test_nonsense_does_not_exist(terms, says):
    """It is refused where it is made, with what to write instead."""
    with pytest.raises(InvalidIntent, match=says):
        Intent.buy(AAPL, 1, **terms)


def test_an_algorithm_is_exact_too():
    """Its parameters are text on the wire, so nothing is left to chance."""
    assert Algo.of("Vwap", noTakeLiq=True, maxPctVol=D("1E-1")).parameters == (("noTakeLiq", "1"), ("maxPctVol", "0.1"))
    for wrong in (lambda: Algo.of("Vwap", maxPctVol=0.1), lambda: Algo(""), lambda: Algo("Vwap", {"a": "b"})):
        with pytest.raises(InvalidIntent):
            wrong()


# --- spreads ---------------------------------------------------------------------------------------------------------

BULL = spreads.bull_call("AAPL 20270115 150 C", "AAPL 20270115 160 C")
CALENDAR = spreads.calendar("AAPL 20270115 150 C", "AAPL 20270319 150 C")


def test_the_limit_of_a_spread_is_said_and_echoed_in_words():
    """Whichever way it is said, the wire's sign follows, and the words name the direction."""
    for intent in (Intent.buy(BULL, 1, limit="2.85"), Intent.buy(BULL, 1, debit="2.85")):
        assert intent.limit_price == D("2.85")
        assert "pay at most 2.85" in str(intent)
    for intent in (Intent.sell(BULL, 1, limit="2.85"), Intent.sell(BULL, 1, credit="2.85")):
        assert intent.limit_price == D("2.85")
        assert "receive at least 2.85" in str(intent)
    odd = Intent.buy(BULL, 1, credit="0.05", unnatural=True)
    assert odd.limit_price == D("-0.05")
    assert Intent.sell(CALENDAR, 1, debit="0.10").limit_price == D("-0.10")


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda: Intent.buy(BULL, 1, credit="2.85"), "contradicts"),
        (lambda: Intent.buy(BULL, 1, debit="2.85", credit="2.85"), "contradict each other"),
        (lambda: Intent.buy(BULL, 1, limit="-2.85"), "sign"),
        (lambda: Intent.buy(BULL, 1, limit=2.85), "exact"),
        (lambda: Intent.buy(BULL, "1.5", debit="2.85"), "whole"),
        (lambda: Intent.buy(BULL, 1, stop="2.85"), "MKT or LMT"),
        (lambda: Intent.buy(BULL, 1, unnatural=True), "price"),
        (lambda: Intent.buy(Stock("AAPL"), 1, debit="2.85"), "for spreads"),
        (lambda: Intent.buy(Stock("AAPL"), 1, limit="2.85", unnatural=True), "for spreads"),
        (
            lambda: Intent(instrument=BULL, action="BUY", quantity=D(1), order_type="LMT", limit_price=D("-2.85")),
            "always",
        ),
    ],
)
def test_what_leaves_a_doubt_about_a_spread_is_refused(make, words):
    """Each with what to say instead."""
    with pytest.raises(InvalidIntent, match=words):
        make()


def test_a_spread_survives_the_journal():
    """With its legs, its sign and its purpose."""
    for intent in (Intent.buy(BULL, 3, debit="2.85"), Intent.buy(BULL, 1, credit="0.05", unnatural=True)):
        assert msgspec.json.decode(msgspec.json.encode(intent), type=Intent) == intent
