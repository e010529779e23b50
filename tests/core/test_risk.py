"""Limits: each refuses, says which it is, and unknown is never zero."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import msgspec
import pytest

from ibkr_service.core import events as ev
from ibkr_service.core.book import Book
from ibkr_service.core.instrument import Future, Option, Stock
from ibkr_service.core.link import Signal
from ibkr_service.core.orders import Intent
from ibkr_service.core.risk import Limits, check, check_change

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
AAPL = Stock("AAPL")
LIMITS = Limits(
    max_quantity=D(100), max_notional=D(20_000), max_open_orders=2, max_orders_per_minute=3, max_quote_age_s=30.0
)


@pytest.fixture
def book():
    """READY, with a live quote 100.00/100.10 at loop time 1000."""
    book = Book()
    for signal in (Signal.SOCKET_UP, Signal.SYNCED):
        book.apply(ev.LinkSignalled(at=AT, signal=signal, why=""))
    book.apply(ev.Tick(at=AT, instrument=AAPL, bid=100.0, ask=100.1, data_type="live", mono_s=1000.0))
    return book


def ask(book, limits=LIMITS, mono_s=1001.0, **fields):
    intent = Intent(**{"instrument": AAPL, "action": "BUY", "quantity": D(10)} | fields)
    return check(intent, "s", limits, book, now=AT, mono_s=mono_s)


def submit(book, n, at=AT, strategy="s", action="BUY"):
    intent = Intent(instrument=AAPL, action=action, quantity=D(1))
    for i in range(n):
        book.apply(
            ev.OrderSubmitted(
                at=at, ref=f"{strategy}{i}{action}", key=str(i), strategy=strategy, account="", intent=intent
            )
        )


def test_a_modest_order_passes(book):
    """No limit is met."""
    assert ask(book) is None


def test_read_only_refuses_everything(book):
    """Looking is allowed, ordering is not."""
    assert ask(book, msgspec.structs.replace(LIMITS, read_only=True)).limit == "read_only"


@pytest.mark.parametrize("signal", [Signal.UPSTREAM_LOST, Signal.RESTORED_DATA_KEPT, Signal.SOCKET_DOWN])
def test_the_link_must_be_ready(book, signal):
    """CUT, SYNCING and DOWN refuse; nothing is parked."""
    book.apply(ev.LinkSignalled(at=AT, signal=signal, why=""))
    assert ask(book).limit == "link"


def test_the_quantity_of_one_order(book):
    """One above the limit is one too many; the refusal says both."""
    assert ask(book, quantity=D(100), order_type="LMT", limit_price=D(1)) is None
    refused = ask(book, quantity=D(101), order_type="LMT", limit_price=D(1))
    assert (refused.limit, refused.allowed, refused.asked) == ("max_quantity", "100", "101")


def test_the_notional_is_priced_by_the_limit_or_the_quote(book):
    """100 x 100.10 passes a limit of 20,000; 100 x 201 does not; neither does a contract of 100 shares at 201."""
    assert ask(book, quantity=D(100)) is None
    assert ask(book, quantity=D(100), order_type="LMT", limit_price=D(201)).limit == "max_notional"
    option = Option("AAPL", "20270115", 150.0, "C")
    assert ask(book, instrument=option, quantity=D(1), order_type="LMT", limit_price=D(201)).asked == "20100"


@pytest.mark.parametrize(
    ("tick", "mono_s", "says"),
    [
        (None, 1001.0, "no quote"),
        ({"data_type": "delayed"}, 1001.0, "delayed"),
        ({"data_type": "unknown"}, 1001.0, "unknown"),
        ({"ask": None}, 1001.0, "lacks a side"),
        ({"bid": 101.0}, 1001.0, "crossed"),
        ({}, 1031.0, "31.0 s old"),
    ],
)
def test_a_market_order_needs_a_quote_that_can_price_it(book, tick, mono_s, says):
    """Stale, delayed, one-sided or crossed quotes price nothing (R31)."""
    if tick is None:
        book.quotes.clear()
    else:
        quote = {"bid": 100.0, "ask": 100.1, "data_type": "live", "mono_s": 1000.0} | tick
        book.apply(ev.Tick(at=AT, instrument=AAPL, **quote))
    refused = ask(book, mono_s=mono_s)
    assert refused.limit == "max_quote_age_s"
    assert says in refused.asked


def test_open_orders_are_counted_per_side(book):
    """IB allows 20 per side; we stop earlier. The other side is free."""
    submit(book, 2, strategy="other")
    assert ask(book).limit == "max_open_orders"
    assert ask(book, action="SELL") is None


def test_a_flood_is_stopped_per_strategy(book):
    """Three in a minute, then no; another strategy and another minute are free."""
    loose = msgspec.structs.replace(LIMITS, max_open_orders=20)
    submit(book, 3)
    assert ask(book, loose).limit == "max_orders_per_minute"
    intent = Intent(instrument=AAPL, action="BUY", quantity=D(1))
    assert check(intent, "t", loose, book, now=AT, mono_s=1001.0) is None
    assert check(intent, "s", loose, book, now=AT + timedelta(seconds=61), mono_s=1001.0) is None


@pytest.mark.parametrize(
    ("terms", "notional"),
    [
        ({"stop": 300}, "30000"),
        ({"stop": 300, "limit": 250}, "30000"),  # the larger of the two
        ({"stop": 250, "limit": 300}, "30000"),
        ({"order_type": "LOC", "limit": 300}, "30000"),
        ({"order_type": "MIDPRICE", "limit": 300}, "30000"),
        ({"limit": 299, "fields": {"discretionaryAmt": D(1)}}, "30000"),
        ({"trail": 5, "stop": 1}, "10010.0"),  # by the market, whatever it starts with
        ({"trail_percent": 5, "limit": 1, "stop": 1}, "10010.0"),
        ({"order_type": "MOC"}, "10010.0"),
        ({"order_type": "MIDPRICE"}, "10010.0"),
        ({"tif": "OPG"}, "10010.0"),
    ],
)
def test_each_order_type_is_priced(book, terms, notional):
    """By its own prices where they bound it, otherwise by the live quote: what it may cost is what is asked."""
    tight = msgspec.structs.replace(LIMITS, max_notional=D(10_000))
    refused = check(Intent.buy(AAPL, 100, **terms), "s", tight, book, now=AT, mono_s=1001.0)
    assert (refused.limit, refused.asked) == ("max_notional", notional)


@pytest.mark.parametrize(
    ("intent", "notional"),
    [
        (Intent.buy(AAPL, 100, stop="0.01"), "10010.00"),  # triggers at once
        (Intent.sell(AAPL, 100, limit="0.01"), "10000.00"),
        (Intent.sell(AAPL, 100, order_type="LOC", limit="0.01"), "10000.00"),
        (Intent.sell(AAPL, 100, order_type="MIDPRICE", limit="0.01"), "10000.00"),
    ],
)
def test_a_price_that_is_no_bound_prices_nothing(book, intent, notional):
    """A decimal point in the wrong place: it would trade at the market, and counts as that."""
    tight = msgspec.structs.replace(LIMITS, max_notional=D(9_000), collar_percent=None)
    refused = check(intent, "s", tight, book, now=AT, mono_s=1001.0)
    assert refused.limit == "max_notional"
    assert D(refused.asked) == D(notional)
    assert check(intent, "s", tight, book, now=AT, mono_s=1001.0 + 60) is None  # as the setting says
    careful = msgspec.structs.replace(tight, unknown_quote="refuse")
    assert check(intent, "s", careful, book, now=AT, mono_s=1001.0 + 60).limit == "max_quote_age_s"


@pytest.mark.parametrize(
    "intent",
    [Intent.buy(AAPL, 100, limit="0.01"), Intent.sell(AAPL, 100, stop="0.01"), Intent.buy(AAPL, 1, stop="300")],
)
def test_a_price_that_is_a_bound_counts(book, intent):
    """A passive limit, a stop that sells far below, a stop to buy above the market."""
    tight = msgspec.structs.replace(LIMITS, max_notional=D(301))
    assert check(intent, "s", tight, book, now=AT, mono_s=1001.0) is None


@pytest.mark.parametrize(
    "terms",
    [{"trail": 5, "stop": 99}, {"trail": 5, "limit_offset": 1}, {"order_type": "MOC"}, {"order_type": "MIDPRICE"}],
)
def test_what_the_market_prices_needs_a_quote(book, terms):
    """Unknown is no, and the refusal names the order type."""
    book.quotes.clear()
    refused = check(Intent.buy(AAPL, 1, **terms), "s", LIMITS, book, now=AT, mono_s=1001.0)
    assert refused.limit == "max_quote_age_s"
    assert "no quote" in refused.asked


def test_a_future_is_not_priced_without_its_multiplier(book):
    """40 of them at 6,000 are 12 million, not 240,000: unknown is never 1."""
    loose = msgspec.structs.replace(LIMITS, max_notional=D(300_000))
    es = Future("ES", "202612", "CME")
    refused = check(Intent.buy(es, 1, limit="6000"), "s", loose, book, now=AT, mono_s=1001.0)
    assert (refused.limit, "multiplier=" in refused.asked) == ("max_notional", True)
    known = msgspec.structs.replace(es, multiplier="50")
    assert check(Intent.buy(known, 1, limit="6000"), "s", loose, book, now=AT, mono_s=1001.0) is None
    assert check(Intent.buy(known, 2, limit="6000"), "s", loose, book, now=AT, mono_s=1001.0).asked == "600000"


@pytest.mark.parametrize("field", ["cashQty", "hedgeType", "deltaNeutralOrderType"])
def test_what_cannot_be_priced_is_refused(book, field):
    """A field that makes another order of it than the quantity says."""
    intent = Intent.buy(AAPL, 1, limit=1, fields={field: "1"})
    assert field in check(intent, "s", LIMITS, book, now=AT, mono_s=1001.0).asked


def test_a_modification_is_no_further_order_but_counts(book):
    """As many orders as are allowed are open: a change passes, until there were too many messages in the minute."""
    submit(book, 2)
    intent = Intent.buy(AAPL, 1, limit=100)
    assert check(intent, "s", LIMITS, book, now=AT, mono_s=1001.0).limit == "max_open_orders"
    order = book.orders["s0BUY"]
    assert check_change(intent, "s", LIMITS, book, now=AT, mono_s=1001.0, order=order) is None
    big = Intent.buy(AAPL, 101, limit=100)
    assert check_change(big, "s", LIMITS, book, now=AT, mono_s=1001.0, order=order).limit == "max_quantity"
    book.apply(ev.ModificationRequested(at=AT, ref="s0BUY", intent=intent))
    refused = check_change(intent, "s", LIMITS, book, now=AT, mono_s=1001.0, order=book.orders["s0BUY"])
    assert refused.limit == "max_orders_per_minute"
