"""The journal's tables and views: one place that says what is in the file, and how an older file becomes one of today.

`journal` holds the facts, `snapshot` the book as it was at one of them, which only saves time. The views are for people
(`docs/journal.md`); each reads the facts a few times from end to end, so that no index has to be kept while orders are
written. Quantities and prices are text, as exact as they came; sums and averages are SQLite's floating point.
"""

from __future__ import annotations

import sqlite3

from ibkr_service.core.orders import TERMINAL

SCHEMA_VERSION = 3

TABLES = """
CREATE TABLE IF NOT EXISTS journal (
    seq  INTEGER PRIMARY KEY,
    at   TEXT NOT NULL,
    kind TEXT NOT NULL,
    ref  TEXT,
    body TEXT NOT NULL
);
CREATE TABLE IF NOT EXISTS snapshot (
    id   INTEGER PRIMARY KEY,
    part TEXT NOT NULL,
    crc  INTEGER NOT NULL,
    body BLOB NOT NULL
);
"""

_TERMINAL = "(" + ", ".join(f"'{name}'" for name in sorted(state.name for state in TERMINAL)) + ")"


def _words(instrument: str) -> str:
    """An instrument as people write it (`core/instrument.py`, `__str__`).

    Args:
        instrument: SQL of its path in a fact, with what comes before the field's name: `body, '$.instrument`.
    """

    def of(name: str) -> str:
        return f"json_extract({instrument}.{name}')"

    option = f"{of('symbol')}, {of('expiry')}, {of('strike')}, {of('right')}"
    return f"""CASE {of("kind")}
        WHEN 'Stock' THEN {of("symbol")} || iif({of("currency")} = 'USD', '', '.' || {of("currency")})
        WHEN 'Forex' THEN {of("symbol")} || '.' || {of("currency")}
        WHEN 'Option' THEN printf('%s %s %g %s', {option})
        WHEN 'FutureOption' THEN printf('%s %s %g %s (future option)', {option})
        WHEN 'Future' THEN {of("symbol")} || ' ' || {of("expiry")}
        WHEN 'Bag' THEN printf('%s combo of %d legs', {of("symbol")}, json_array_length({instrument}.legs'))
        WHEN 'Other' THEN iif({of("local_symbol")} <> '', {of("local_symbol")},
            {of("symbol")} || ' (' || {of("sec_type")} || ')')
        ELSE {of("symbol")} END"""


def _part(ref: str, number: int) -> str:
    """A part of an order's reference (core/refs.py), counted from 0."""
    return f"""json_extract('[' || replace(json_quote({ref}), '.', '","') || ']', '$[{number}]')"""


# What is common to the revisions of an execution: the id without what follows its last full stop (core/book.py).
_IDENTITY = "coalesce(nullif(nullif(rtrim(exec_id, replace(exec_id, '.', '')), ''), '.'), exec_id)"

# Common to the views: the newest revision of each execution, the newest report of what each cost. Each fact is taken
# apart once, which MATERIALIZED makes sure of: that is most of the time.
_EXECUTIONS = f"""
    reported AS MATERIALIZED (
        SELECT seq, at, ref, body, json_extract(body, '$.exec_id') AS exec_id,
               json_extract(body, '$.instrument.kind') AS kind, json_extract(body, '$.quantity') AS quantity,
               json_extract(body, '$.price') AS price, json_extract(body, '$.action') AS action
        FROM journal WHERE kind = 'Fill'
    ),
    executions AS MATERIALIZED (
        SELECT max(seq) AS seq, at, ref, body, exec_id, kind, action, quantity, price,
               {_IDENTITY} AS identity,
               count(*) - 1 AS corrections
        FROM reported GROUP BY identity
    ),
    charged AS MATERIALIZED (
        SELECT seq, json_extract(body, '$.exec_id') AS exec_id, json_extract(body, '$.commission') AS commission,
               json_extract(body, '$.currency') AS currency, json_extract(body, '$.realized_pnl') AS realized_pnl
        FROM journal WHERE kind = 'CommissionReported'
    ),
    costs AS MATERIALIZED (
        SELECT max(seq), {_IDENTITY} AS identity, commission, currency, realized_pnl FROM charged GROUP BY identity
    )"""

_SPREAD_SYMBOL = "json_extract(terms, '$.intent.instrument.legs[0].instrument.symbol')"

_ORDERS = f"""WITH{_EXECUTIONS},
    changed AS MATERIALIZED (
        SELECT max(seq), at, ref, json_extract(body, '$.after') AS state, json_extract(body, '$.filled') AS filled,
               json_extract(body, '$.why') AS why
        FROM journal WHERE kind IN ('OrderChanged', 'OrderClosed') GROUP BY ref
    ),
    modified AS MATERIALIZED (  -- the terms that held in the end
        SELECT max(seq), ref, iif(kind = 'OrderClosed', json_extract(body, '$.order'), body) AS body FROM journal
        WHERE (kind = 'ModificationSettled' AND json_extract(body, '$.outcome') <> 'refused') OR kind = 'OrderClosed'
        GROUP BY ref
    ),
    done AS MATERIALIZED (
        SELECT e.ref, total(iif(e.kind = 'Bag', e.quantity, 0)) AS combos,
               total(iif(e.kind = 'Bag', e.quantity * e.price, 0)) AS combos_cost,
               total(e.quantity) AS units, total(e.quantity * e.price) AS units_cost,
               total(iif(e.kind = 'Bag', 0, e.quantity * e.price * iif(e.action = 'BUY', 1, -1))) AS legs_cost,
               sum(c.commission) AS commission, max(c.currency) AS currency
        FROM executions e LEFT JOIN costs c USING (identity) WHERE e.ref <> '' GROUP BY e.ref
    ),
    -- Taken in from the broker, because the journal that knew them was lost: they have states, and no submission.
    adopted AS MATERIALIZED (
        SELECT min(seq) AS seq, at, ref, json_object(
            'key', 'adopted:' || {_part("ref", 4)}, 'strategy', {_part("ref", 3)},
            'account', json_extract(body, '$.account'), 'intent', json_object(
                'instrument', json(json_extract(body, '$.instrument')), 'action', json_extract(body, '$.action'),
                'quantity', json_extract(body, '$.quantity'), 'order_type', json_extract(body, '$.order_type'),
                'limit_price', json_extract(body, '$.limit_price'), 'stop_price', json_extract(body, '$.stop_price'),
                'tif', json_extract(body, '$.tif'))) AS body
        FROM journal WHERE kind = 'OpenOrderReported'
            AND ref IN (SELECT ref FROM changed EXCEPT SELECT ref FROM journal WHERE kind = 'OrderSubmitted')
        GROUP BY ref
    ),
    joined AS (
        SELECT s.seq, s.at, s.ref, s.body, coalesce(m.body, s.body) AS terms, c.at AS changed_at, c.state, c.filled,
               c.why, d.combos, d.combos_cost, d.units, d.units_cost, d.legs_cost, d.commission, d.currency
        FROM (SELECT seq, at, ref, body FROM journal WHERE kind = 'OrderSubmitted' UNION ALL SELECT * FROM adopted) s
        LEFT JOIN changed c USING (ref) LEFT JOIN modified m USING (ref) LEFT JOIN done d USING (ref)
    )
    SELECT seq, ref, json_extract(body, '$.key') AS key, json_extract(body, '$.strategy') AS strategy,
           json_extract(body, '$.account') AS account,
           CASE json_extract(terms, '$.intent.instrument.kind') WHEN 'Spread' THEN {_SPREAD_SYMBOL} || ' spread (' ||
                (SELECT group_concat(
                     json_extract(leg.value, '$.action') || ' ' || json_extract(leg.value, '$.ratio') || ' ' ||
                     {_words("leg.value, '$.instrument")}, ', ')
                 FROM json_each(terms, '$.intent.instrument.legs') leg) || ')'
                ELSE {_words("terms, '$.intent.instrument")} END AS instrument,
           coalesce(json_extract(terms, '$.intent.instrument.symbol'), {_SPREAD_SYMBOL}) AS symbol,
           json_extract(terms, '$.intent.action') AS action, json_extract(terms, '$.intent.quantity') AS quantity,
           json_extract(terms, '$.intent.order_type') AS order_type,
           json_extract(terms, '$.intent.limit_price') AS limit_price,
           json_extract(terms, '$.intent.stop_price') AS stop_price, json_extract(terms, '$.intent.tif') AS tif,
           coalesce(state, 'PENDING') AS state, coalesce(filled, '0') AS filled,
           CASE WHEN json_extract(terms, '$.intent.instrument.kind') NOT IN ('Spread', 'Bag')
                THEN round(units_cost / nullif(units, 0), 8)
                WHEN combos >= filled + 0 THEN round(combos_cost / nullif(combos, 0), 8)
                ELSE round(legs_cost * iif(json_extract(terms, '$.intent.action') = 'BUY', 1, -1)
                           / nullif(filled + 0, 0), 8) END AS average_price,
           round(commission, 8) AS commission, currency AS commission_currency,
           at AS submitted_at, iif(state IN {_TERMINAL}, changed_at, NULL) AS finished_at, coalesce(why, '') AS reason
    FROM joined ORDER BY seq"""

_FILLS = f"""WITH{_EXECUTIONS},
    submitted AS MATERIALIZED (
        SELECT ref, json_extract(body, '$.strategy') AS strategy,
               json_extract(body, '$.intent.instrument.kind') AS kind
        FROM journal WHERE kind = 'OrderSubmitted'
    )
    SELECT e.seq, replace(json_extract(e.body, '$.executed_at'), 'Z', '+00:00') AS executed_at,
           e.at AS learned_at, e.exec_id, e.ref,
           coalesce(s.strategy, iif(e.ref LIKE 'ibs.%', {_part("e.ref", 3)}, NULL)) AS strategy,
           json_extract(e.body, '$.account') AS account, {_words("e.body, '$.instrument")} AS instrument,
           json_extract(e.body, '$.instrument.symbol') AS symbol, json_extract(e.body, '$.action') AS action,
           e.quantity, e.price, c.commission, c.currency AS commission_currency, c.realized_pnl,
           CASE WHEN e.kind = 'Bag' THEN 'combo' WHEN s.kind IN ('Spread', 'Bag') THEN 'leg' END AS part, e.corrections,
           json_extract(e.body, '$.recovered') AS recovered
    FROM executions e LEFT JOIN costs c USING (identity) LEFT JOIN submitted s ON s.ref = e.ref AND e.ref <> ''
    ORDER BY e.seq"""

# What the service itself made of an outage (core/incidents.py). One that is still open has no second half.
_INCIDENTS = """WITH closed AS MATERIALIZED (
        SELECT at, body, json_extract(body, '$.number') AS number,
               coalesce(json_extract(body, '$.streams'), '[]') AS streams
        FROM journal WHERE kind = 'IncidentClosed'
    )
    SELECT o.seq, json_extract(o.body, '$.number') AS number, o.at AS began_at,
           json_extract(o.body, '$.cause') AS cause,
           json_extract(c.body, '$.detected_after_s') AS detected_after_s,
           json_extract(c.body, '$.ready_after_s') AS ready_after_s, c.at AS ended_at,
           json_extract(c.body, '$.attempts') AS attempts, json_array_length(c.streams) AS streams_with_gap,
           iif(c.at IS NULL, NULL, (SELECT count(*) FROM json_each(c.streams)
               WHERE json_extract(value, '$.resubscribed'))) AS streams_resubscribed,
           iif(c.at IS NULL, NULL, (SELECT count(*) FROM json_each(c.streams)
               WHERE json_extract(value, '$.until') IS NULL)) AS streams_silent,
           json_extract(c.body, '$.orders_unknown') AS orders_unknown,
           json_extract(c.body, '$.orders_resolved') AS orders_resolved,
           json_extract(c.body, '$.fills_recovered') AS fills_recovered,
           c.streams, json_extract(c.body, '$.orders') AS orders
    FROM journal o LEFT JOIN closed c ON c.number = json_extract(o.body, '$.number')
    WHERE o.kind = 'IncidentOpened' ORDER BY o.seq"""

VIEWS = {"orders": _ORDERS, "fills": _FILLS, "incidents": _INCIDENTS}


def prepare(db: sqlite3.Connection) -> None:
    """Make an empty file, or one of an earlier version, into one of today: at once or not at all.

    Views that differ from today's are made anew in a file of any version.

    Raises:
        sqlite3.Error: it cannot be written.
    """
    today = {name: f"CREATE VIEW {name} AS {sql}" for name, sql in VIEWS.items()}
    there = dict(db.execute("SELECT name, sql FROM sqlite_master WHERE type = 'view'"))
    if db.execute("PRAGMA user_version").fetchone()[0] == SCHEMA_VERSION and today.items() <= there.items():
        return
    views = "".join(f"DROP VIEW IF EXISTS {name};\n{sql};\n" for name, sql in today.items())
    # The index of schema 1 cost every write something, and no view needs it.
    script = f"{TABLES} DROP INDEX IF EXISTS journal_ref; {views} PRAGMA user_version={SCHEMA_VERSION};"
    try:
        db.executescript(f"BEGIN IMMEDIATE; {script} COMMIT;")
    except BaseException:
        if db.in_transaction:
            db.rollback()
        raise


def with_views(db: sqlite3.Connection) -> None:
    """Give a connection that only reads today's views, whatever the version of the file."""
    for name, sql in VIEWS.items():
        db.execute(f"CREATE TEMP VIEW {name} AS {sql}")
