"""The newest quote of each instrument: a mapping whose places stay where they are."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from ibkr_service.core.events import Tick
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.core.quotes import Quotes

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
EUR, AAPL = Forex("EUR", "USD"), Stock("AAPL")


def tick(instrument, bid):
    """A quote."""
    return Tick(instrument, bid, at=AT)


def test_what_is_put_into_a_place_is_the_quote_of_its_instrument():
    """Whoever holds the place, and also after it was forgotten."""
    quotes = Quotes()
    place = quotes.place(EUR)
    assert (len(quotes), list(quotes), EUR in quotes, quotes.newest(EUR), quotes.get(EUR)) == (0, [], False, None, None)
    with pytest.raises(KeyError):
        quotes[EUR]
    place.tick = tick(EUR, 1.0)
    assert quotes == {EUR: tick(EUR, 1.0)}
    quotes[EUR] = tick(EUR, 2.0)
    assert place.tick == tick(EUR, 2.0)
    quotes.clear()
    assert (place.tick, len(quotes)) == (None, 0)
    place.tick = tick(EUR, 3.0)
    assert quotes[EUR] == tick(EUR, 3.0)
    assert quotes.place(Forex("EUR", "USD", exchange="SMART")) is place, "routing is no part of what it is"


def test_a_quote_that_is_forgotten_is_none():
    """Of one instrument; forgetting what is not there is an error, as with any mapping."""
    quotes = Quotes()
    quotes[EUR], quotes[AAPL] = tick(EUR, 1.0), tick(AAPL, 2.0)
    del quotes[EUR]
    assert dict(quotes) == {AAPL: tick(AAPL, 2.0)}
    assert quotes.newest(EUR) is None
    for unknown in (EUR, Stock("MSFT")):
        with pytest.raises(KeyError):
            del quotes[unknown]
