"""Instruments: identity without routing, validation, the short form."""

from __future__ import annotations

import pytest

from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Forex, Future, FutureOption, Index, Option, Stock, parse


def test_routing_is_no_part_of_identity():
    """A position comes back without the exchange that it was bought through."""
    assert Stock("AAPL", exchange="ISLAND", primary_exchange="NASDAQ") == Stock("AAPL")
    assert hash(Stock("AAPL", exchange="ISLAND")) == hash(Stock("AAPL"))


def test_kinds_and_currencies_are():
    """An option and its stock do not collide, nor a stock in two currencies."""
    option = Option("AAPL", "20270115", 150.0, "C")
    assert (
        len({Stock("AAPL"), Stock("AAPL", "EUR"), option, Option("AAPL", "20270115", 150.0, "P"), Forex("AAP", "LUS")})
        == 5
    )


@pytest.mark.parametrize(
    ("text", "instrument"),
    [
        ("aapl", Stock("AAPL")),
        (" EUR.USD ", Forex("EUR", "USD")),
        ("AAPL 20270115 150 C", Option("AAPL", "20270115", 150.0, "C")),
        ("spy 20270115 612.5 p", Option("SPY", "20270115", 612.5, "P")),
        ("STK:AAPL", Stock("AAPL")),
        ("stk:vod.gbp@lse", Stock("VOD", "GBP", "LSE")),
        ("STK:BRK B", Stock("BRK B")),
        ("CASH:EUR.USD", Forex("EUR", "USD")),
        ("ind:spx@cboe", Index("SPX", "CBOE")),
        ("IND:DAX.EUR@EUREX", Index("DAX", "EUREX", "EUR")),
        ("FUT:ES 202612@CME", Future("ES", "202612", "CME")),
        ("FUT:ES 202612 50@CME", Future("ES", "202612", "CME", multiplier="50")),
        ("FUT:ES 20261218 @ CME", Future("ES", "20261218", "CME")),
        ("OPT:AAPL 20270115 150 C", Option("AAPL", "20270115", 150.0, "C")),
        ("FOP:ES 20261218 6000 C@CME", FutureOption("ES", "20261218", 6000.0, "C", exchange="CME")),
    ],
)
def test_the_short_form_is_read(text, instrument):
    """As people type it."""
    found = parse(text)
    assert found == instrument
    assert getattr(found, "exchange", "") == getattr(instrument, "exchange", ""), "the exchange is no part of equality"


@pytest.mark.parametrize(
    "text",
    [
        "", "EUR/USD", "AAPL 150 C", "AAPL 20270115 x C", "AAPL 20270115 150 X", "AAPL 2027 150 C", "A B",
        "IND:SPX", "IND:@CBOE", "IND:SPX@", "IND:DAX.EURO@EUREX", "FUT:ES@CME", "FUT:ES 202612", "FUT:ES 2612@CME",
        "XYZ:AAPL", ":AAPL", "STK:", "STK:VOD.", "STK:AAPL@A B", "CASH:EUR", "OPT:AAPL 20270115", "FOP:ES 2026 1 C@CME",
    ],
)  # fmt: skip
def test_what_cannot_be_read_is_refused(text):
    """With a typed error that says something."""
    with pytest.raises(InvalidIntent):
        parse(text)
