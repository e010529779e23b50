"""Instruments: identity without routing, validation, the short form."""

from __future__ import annotations

import pytest

from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Forex, Option, Stock, parse


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
    ],
)
def test_the_short_form_is_read(text, instrument):
    """As people type it."""
    assert parse(text) == instrument


@pytest.mark.parametrize(
    "text", ["", "EUR/USD", "AAPL 150 C", "AAPL 20270115 x C", "AAPL 20270115 150 X", "AAPL 2027 150 C", "A B"]
)
def test_what_cannot_be_read_is_refused(text):
    """With a typed error that says something."""
    with pytest.raises(InvalidIntent):
        parse(text)
