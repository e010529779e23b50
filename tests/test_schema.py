"""A file of an earlier version becomes one of today, and the views say what people ask for.

Method: `tests/data/journal-schema-1.sql` is the text of a journal that version 1 has written: an order filled in two
parts of which one was corrected, one cancelled, one rejected, one modified and filled during an outage, one that works.
"""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from datetime import UTC, datetime, timedelta
from decimal import Decimal as D
from pathlib import Path

import pytest

from ibkr_service.core import events as ev
from ibkr_service.core.combination import Spread
from ibkr_service.core.instrument import Bag, Forex, Future, FutureOption, Index, Option, Other, Stock
from ibkr_service.core.legs import Leg
from ibkr_service.core.orders import Intent, OrderState
from ibkr_service.hub import Hub
from ibkr_service.journal import Journal, export, open_readonly
from ibkr_service.schema import SCHEMA_VERSION, VIEWS, with_views

OLD = Path(__file__).parent / "data" / "journal-schema-1.sql"
AT = datetime(2026, 11, 23, 15, tzinfo=UTC)


@pytest.fixture
def old(tmp_path):
    """A file of version 1."""
    path = tmp_path / "journal.sqlite"
    with closing(sqlite3.connect(path)) as database:
        database.executescript(OLD.read_text())
    return path


@pytest.fixture
def journal(tmp_path):
    """A new, empty journal."""
    journal = Journal(tmp_path / "new.sqlite")
    yield journal
    journal.close()


def rows(database, view):
    """The rows of a view, by column."""
    found = database.execute(f"SELECT * FROM {view}")
    names = [column[0] for column in found.description]
    return [dict(zip(names, row, strict=True)) for row in found]


def version_of(path):
    with closing(sqlite3.connect(path)) as database:
        return database.execute("PRAGMA user_version").fetchone()[0]


# --- migration -------------------------------------------------------------------------------------------------------


def test_an_old_file_becomes_one_of_today_when_it_is_opened(old):
    """Every fact is where it was; the book is what the facts say."""
    with closing(open_readonly(old)) as database:
        facts = list(export(database))
    journal = Journal(old)
    hub = Hub(journal)
    hub.recover()
    assert version_of(old) == SCHEMA_VERSION == 3
    assert list(journal.export()) == facts
    assert len(facts) == 76
    states = [(order.key, order.state) for order in hub.book.orders.values()]
    assert states == [
        ("aapl-1", OrderState.FILLED),
        ("eur-1", OrderState.CANCELLED),
        ("put-1", OrderState.REJECTED),
        ("aapl-2", OrderState.FILLED),
        ("eur-2", OrderState.WORKING),
    ]
    journal.close()


def test_a_migration_happens_at_once_or_not_at_all(old, monkeypatch):
    """One that fails half way leaves the old file, which the next start takes up again."""
    before = "\n".join(sqlite3.connect(old).iterdump())
    with monkeypatch.context() as broken:
        broken.setitem(VIEWS, "incidents", "SELECT nonsense FROM")
        with pytest.raises(Exception, match="syntax error"):
            Journal(old)
    assert "\n".join(sqlite3.connect(old).iterdump()) == before
    assert version_of(old) == 1
    Journal(old).close()
    assert version_of(old) == 3


def test_a_file_of_today_is_left_alone(old):
    """The second opening writes nothing."""
    Journal(old).close()
    before = old.read_bytes()
    Journal(old).close()
    assert old.read_bytes() == before


def test_an_old_file_that_is_only_looked_at_has_the_views_too(old):
    """And stays what it was."""
    before = old.read_bytes()
    with closing(open_readonly(old)) as database:
        with_views(database)
        assert len(rows(database, "orders")) == 5
        assert rows(database, "incidents") == []
    assert old.read_bytes() == before


# --- views -----------------------------------------------------------------------------------------------------------


def test_orders_say_what_became_of_them(old):
    """Terms as they hold, what was executed and charged, how it ended."""
    journal = Journal(old)
    first, cancelled, rejected, modified, working = rows(journal._db, "orders")
    assert first == {
        "seq": 8,
        "ref": "ibs.tk1-7.1.trend.e43a2bb3",
        "key": "aapl-1",
        "strategy": "trend",
        "account": "DU1234567",
        "instrument": "AAPL",
        "symbol": "AAPL",
        "action": "BUY",
        "quantity": "100",
        "order_type": "LMT",
        "limit_price": "231.50",
        "stop_price": None,
        "tif": "DAY",
        "state": "FILLED",
        "filled": "100",
        "average_price": 231.486,  # 40 at 231.48, 60 at the corrected 231.49
        "commission": 1.0,
        "commission_currency": "USD",
        "submitted_at": "2026-11-20T14:30:05+00:00",
        "finished_at": "2026-11-20T14:30:07.051000+00:00",
        "reason": "",
    }
    assert (cancelled["state"], cancelled["reason"], cancelled["average_price"]) == (
        "CANCELLED",
        "cancel by trend",
        None,
    )
    assert (rejected["state"], rejected["instrument"]) == ("REJECTED", "AAPL 20261218 230 P")
    assert "no margin (code 201)" in rejected["reason"]
    assert (modified["limit_price"], modified["state"], modified["average_price"]) == ("232.50", "FILLED", 232.55)
    assert (working["state"], working["finished_at"], working["tif"]) == ("WORKING", None, "GTC")
    journal.close()


def test_fills_are_the_latest_revisions(old):
    """Once each, with what they cost."""
    journal = Journal(old)
    first, corrected, recovered = rows(journal._db, "fills")
    assert (first["price"], first["corrections"], first["commission"]) == ("231.48", 0, "0.40")
    assert (corrected["exec_id"], corrected["price"], corrected["corrections"]) == (
        "0000e0d5.6560a1b3.01.02",
        "231.49",
        1,
    )
    assert (recovered["recovered"], recovered["realized_pnl"], recovered["strategy"]) == (1, "104.40", "trend")
    assert recovered["executed_at"] == "2026-11-20T14:42:05.504000+00:00"
    assert recovered["learned_at"] == "2026-11-20T14:42:35.504000+00:00"
    journal.close()


def outage(number=1, **changes):
    """The two facts of an incident."""
    opened = ev.IncidentOpened(at=AT, number=number, cause="dead")
    told = {
        "detected_after_s": 10.5,
        "ready_after_s": 41.5,
        "attempts": 3,
        "streams": (
            ev.StreamGap(instrument="AAPL", since=AT, until=AT + timedelta(seconds=45), resubscribed=True),
            ev.StreamGap(instrument="MSFT", since=AT, until=AT + timedelta(seconds=44)),
            ev.StreamGap(instrument="EUR.USD", since=AT),
        ),
        "orders_unknown": 2,
        "orders_resolved": 1,
        "orders": (ev.OrderInDoubt(ref="r1", state="FILLED"), ev.OrderInDoubt(ref="r2", state="UNKNOWN")),
        "fills_recovered": 1,
    } | changes
    ended_at = AT + timedelta(seconds=102)
    return opened, ev.IncidentClosed(at=ended_at, number=number, cause="dead", began_at=AT, **told)


def test_incidents_are_what_the_service_made_of_them(journal):
    """One row for each, with all that it cost."""
    for fact in outage():
        journal.append(fact)
    (found,) = rows(journal._db, "incidents")
    streams, orders = json.loads(found.pop("streams")), json.loads(found.pop("orders"))
    assert found == {
        "seq": 1,
        "number": 1,
        "began_at": "2026-11-23T15:00:00+00:00",
        "cause": "dead",
        "detected_after_s": 10.5,
        "ready_after_s": 41.5,
        "ended_at": "2026-11-23T15:01:42+00:00",
        "attempts": 3,
        "streams_with_gap": 3,
        "streams_resubscribed": 1,
        "streams_silent": 1,
        "orders_unknown": 2,
        "orders_resolved": 1,
        "fills_recovered": 1,
    }
    assert [(stream["instrument"], stream["resubscribed"], stream["until"] is None) for stream in streams] == [
        ("AAPL", True, False),
        ("MSFT", False, False),
        ("EUR.USD", False, True),
    ]
    assert orders == [{"ref": "r1", "state": "FILLED"}, {"ref": "r2", "state": "UNKNOWN"}]


def test_an_outage_that_goes_on_has_no_end(journal):
    """What it cost is not known yet."""
    before, after = outage(1, streams=(), orders=()), outage(2)
    for fact in (*before, after[0]):
        journal.append(fact)
    over, under_way = rows(journal._db, "incidents")
    assert (over["streams_with_gap"], over["streams_resubscribed"], over["streams_silent"]) == (0, 0, 0)
    assert (under_way["number"], under_way["cause"]) == (2, "dead")
    known = ("seq", "number", "began_at", "cause")
    assert [value for name, value in under_way.items() if name not in known] == [None] * 12


@pytest.mark.parametrize("version", [2, SCHEMA_VERSION])
def test_a_file_with_other_views_gets_those_of_today(old, version):
    """Whatever its version. Its facts stay; outages that were derived from the link's changes are shown no more."""
    Journal(old).close()
    with closing(sqlite3.connect(old)) as database:
        for name in VIEWS:
            database.execute(f"DROP VIEW {name}")
            database.execute(f"CREATE VIEW {name} AS SELECT 'of another day' AS word")
        database.execute(f"PRAGMA user_version={version}")
        database.commit()
    journal = Journal(old)
    assert version_of(old) == SCHEMA_VERSION
    assert len(rows(journal._db, "orders")) == 5
    assert rows(journal._db, "incidents") == []
    journal.close()


@pytest.mark.parametrize(
    "instrument",
    [
        Stock("AAPL"),
        Stock("VOD", "GBP", primary_exchange="LSE"),
        Forex("EUR", "USD"),
        Option("SPX", "20261218", 5000.5, "P", trading_class="SPXW"),
        Option("AAPL", "20261218", 230, "C"),
        FutureOption("ES", "20261218", 6000.0, "C"),
        Future("ES", "202612", "CME"),
        Index("SPX", "CBOE"),
        Bag("AAPL", "USD", ((1, 1, "BUY"), (2, 2, "SELL"))),
        Other("BOND", "T", "USD", 99, "T 4 5/8"),
        Other("FUND", "X", "USD", 98),
    ],
    ids=str,
)
def test_instruments_read_as_everywhere_else(journal, instrument):
    """In the view as in the log, in tables and on the command line."""
    journal.append(fill("0001.01.01", instrument))
    (found,) = rows(journal._db, "fills")
    assert found["instrument"] == str(instrument)


def fill(exec_id, instrument, *, ref="r1", action="BUY", quantity="1", price="1"):
    return ev.Fill(
        at=AT,
        exec_id=exec_id,
        ref=ref,
        account="DU1234567",
        con_id=1,
        instrument=instrument,
        action=action,
        quantity=D(quantity),
        price=D(price),
        executed_at=AT,
        perm_id=7,
        order_id=2,
        client_id=1,
    )


def test_an_execution_without_a_revision_is_one_too(journal):
    """The id alone is its identity, as in the book."""
    for exec_id in ("plain", ".5", "other"):
        journal.append(fill(exec_id, Stock("AAPL")))
    assert [found["exec_id"] for found in rows(journal._db, "fills")] == ["plain", ".5", "other"]


def test_fills_of_strangers_are_shown_without_strategy(journal):
    """An empty reference belongs to nobody, however many orders there are."""
    journal.append(fill("0001.01.01", Stock("AAPL"), ref=""))
    (found,) = rows(journal._db, "fills")
    assert (found["ref"], found["strategy"], found["part"]) == ("", None, None)


@pytest.mark.parametrize(
    ("ref", "strategy"),
    [
        ("ibs.tk1-7.1.trend.e43a2bb3", "trend"),
        ("mine", None),
        ('ibs."].x', None),
        ("ibs.a.b.c\\.d", "c\\"),
        ("ibs", None),
    ],
)
def test_fills_of_adopted_orders_have_their_strategy(journal, ref, strategy):
    """It is a part of the reference; whatever else a reference may be does no harm."""
    journal.append(fill("0001.01.01", Stock("AAPL"), ref=ref))
    (found,) = rows(journal._db, "fills")
    assert found["strategy"] == strategy


CALL, SHORT = Option("AAPL", "20261218", 230, "C"), Option("AAPL", "20261218", 240, "C")
LEGS = (("0001.02.01", CALL, "BUY", "5.20"), ("0001.03.01", SHORT, "SELL", "4.00"))


@pytest.fixture
def spread(journal):
    """A hub with an order for two spreads that works."""
    hub = Hub(journal)
    what = Spread((Leg(CALL, 1, "BUY"), Leg(SHORT, 1, "SELL")))
    intent = Intent(instrument=what, action="BUY", quantity=D(2), order_type="LMT", limit_price=D("1.25"))
    hub.commit(ev.OrderSubmitted(at=AT, ref="r1", key="k", strategy="s", account="DU1234567", intent=intent))
    hub.record(ev.OrderSent(at=AT, session=1, ref="r1", order_id=2))
    return hub


def test_the_price_of_a_spread_is_that_of_the_whole(spread, journal):
    """Its legs are executions as well, but not of the order's quantity."""
    spread.record(fill("0001.01.01", Bag("AAPL", "USD", ((1, 1, "BUY"), (2, 1, "SELL"))), quantity="2", price="1.20"))
    for exec_id, leg, action, price in LEGS:
        spread.record(fill(exec_id, leg, action=action, quantity="2", price=price))
    (found,) = rows(journal._db, "orders")
    assert (found["state"], found["filled"], found["average_price"], found["symbol"]) == ("FILLED", "2", 1.2, "AAPL")
    assert found["instrument"] == "AAPL spread (BUY 1 AAPL 20261218 230 C, SELL 1 AAPL 20261218 240 C)"
    assert [part["part"] for part in rows(journal._db, "fills")] == ["combo", "leg", "leg"]


def test_a_spread_whose_legs_alone_were_reported_has_a_price_too(spread, journal):
    """The broker does not always tell of the whole; the book's own average says the same."""
    for exec_id, leg, action, price in LEGS:
        spread.record(fill(exec_id, leg, action=action, quantity="2", price=price))
    (found,) = rows(journal._db, "orders")
    assert (found["state"], found["average_price"]) == ("FILLED", 1.2)
    assert spread.book.orders["r1"].average_price == D("1.2")
