"""Tables and documents of quotes, chains, accounts, positions and bars: values in, text out, no terminal."""

from __future__ import annotations

import io
import json
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal as D

import pytest
from rich.console import Console
from rich.table import Table

from ibkr_service import tables, tables_chain
from ibkr_service.core.account import AccountSummary, CurrencyBalance, HeldPosition
from ibkr_service.core.bars import Bar
from ibkr_service.core.chain import ChainRow, OptionChain, Slice
from ibkr_service.core.errors import BrokerRefused, RequestTimeout
from ibkr_service.core.events import Greeks, Tick
from ibkr_service.core.instrument import Forex, Option, Stock

NOW = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
AAPL = Stock("AAPL")
NO = "\N{EN DASH}"  # what stands for no value
FRIDAY = Slice("20261127", "AAPL", "SMART", "100", "PM")
MONTH = Slice("20261218", "AAPL", "SMART", "100", "")


def lines(*shown: Table, width: int = 300) -> list[str]:
    """What is printed, without the blank lines."""
    console = Console(width=width, file=io.StringIO(), color_system=None)
    for table in shown:
        console.print(table)
    return [line.rstrip() for line in console.file.getvalue().splitlines() if line.strip()]  # type: ignore[attr-defined]


def cells(line: str) -> list[str]:
    """The cells of a printed row that contain no double space."""
    return [cell.strip() for cell in line.split("  ") if cell.strip()]


def tick(**fields: object) -> Tick:
    return Tick(at=NOW - timedelta(seconds=1.5), session=1, **{"instrument": AAPL, "data_type": "live"} | fields)


# --- numbers ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("prices", "places"),
    [([230.0], 2), ([230.0, 230.125], 3), ([1.08495], 5), ([None, 0.5], 2), ([], 2), ([1 / 3], 6), ([0.1 + 0.2], 2)],
)
def test_prices_have_the_decimals_that_they_need(prices, places):
    """At least two, at most six; what a float has beyond that is noise."""
    assert tables.decimals(prices) == places


@pytest.mark.parametrize(
    ("size", "text"),
    [(1_234_567.0, "1,234,567"), (0.0, "0"), (-0.0, "0"), (D("-0.5"), "-0.5"), (100, "100"), (None, NO)],
)
def test_sizes_are_grouped(size, text):
    """Whole numbers without decimals; nothing at all is a dash."""
    assert tables.size_text(size) == text


@pytest.mark.parametrize(
    ("fields", "percent"),
    [
        ({"last": 99.0, "close": 100.0}, -1.0),
        ({"bid": 1.0, "ask": 1.2, "close": 1.0}, 10.0),
        ({"last": 99.0}, None),
        ({"last": 99.0, "close": 0.0}, None),
        ({"bid": 1.0, "close": 1.0}, None),
    ],
)
def test_the_change_is_since_the_close(fields, percent):
    """Of the last price; of the middle where nothing has a last price; unknown without a close."""
    assert tables.change_percent(tick(**fields)) == pytest.approx(percent)


# --- quotes ----------------------------------------------------------------------------------------------------------

QUOTES: list[tables.Quoted] = [
    (
        AAPL,
        tick(
            bid=229.99, bid_size=500.0, ask=230.01, ask_size=800.0, last=230.0, volume=6_919_200.0, high=232.5,
            low=229.0, close=232.0,
        ),
    ),
    (Forex("EUR", "USD"), tick(instrument=Forex("EUR", "USD"), bid=1.08495, ask=1.085, data_type="delayed_frozen")),
    (Stock("NOSUCH"), BrokerRefused(200, "No security definition", "NOSUCH")),
    (Stock("QUIET"), RequestTimeout("first quote", 10)),
]  # fmt: skip


def test_a_quote_is_a_row():
    """Each number in its column, decimals by row, data type and age at the end, a dash for what there is not."""
    header, _, aapl, euro, nosuch, quiet = lines(tables.quotes_table(QUOTES, NOW))
    assert cells(header) == [
        "instrument", "bid size", "bid", "ask", "ask size", "last", "change", "volume", "high", "low", "close", "data",
        "age",
    ]  # fmt: skip
    assert cells(aapl) == [
        "AAPL", "500", "229.99", "230.01", "800", "230.00", "-0.86 %", "6,919,200", "232.50", "229.00", "232.00",
        "live", "1.5 s",
    ]  # fmt: skip
    assert cells(euro) == ["EUR.USD", NO, "1.08495", "1.08500", *[NO] * 7, "delayed frozen", "1.5 s"]
    assert cells(nosuch) == ["NOSUCH", *[NO] * 10, "error", NO]
    assert cells(quiet)[0] == "QUIET"


def test_a_narrow_terminal_has_fewer_columns_and_no_price_is_cut_off():
    """The least important go first; what is left is whole."""
    full = lines(tables.quotes_table(QUOTES, NOW))
    table = tables.quotes_table(QUOTES, NOW, width=80)
    header, _, aapl, *_ = lines(table, width=80)
    assert max(map(len, full)) > 80
    assert "age" not in header
    assert cells(aapl)[:1] == ["AAPL"]
    assert {"229.99", "230.01", "230.00", "live"} <= set(cells(aapl))
    assert "…" not in "".join(lines(table, width=80))


def test_reasons_are_told_with_the_name_once():
    """The broker's words name the instrument already, or it is put in front."""
    assert tables.refusals(QUOTES) == [
        "NOSUCH: No security definition (code 200)",
        "QUIET: first quote: no answer within 10 s",
    ]


def test_the_document_of_quotes():
    """As JSON: moments in UTC, None for what there is not, the reason in `error`, the instrument in both forms."""
    document = json.loads(json.dumps(tables.quotes_document(QUOTES, NOW), allow_nan=False))
    assert document["at"] == "2026-11-23T14:30:00Z"
    aapl, euro, nosuch, _ = document["quotes"]
    assert (aapl["bid"], aapl["at"], aapl["age_s"], aapl["error"]) == (229.99, "2026-11-23T14:29:58.500000Z", 1.5, None)
    assert euro["last"] is None
    assert euro["contract"] == {"kind": "Forex", "symbol": "EUR", "currency": "USD", "exchange": "IDEALPRO"}
    assert (nosuch["instrument"], nosuch["bid"], nosuch["at"]) == ("NOSUCH", None, None)
    assert "No security definition" in nosuch["error"]
    assert aapl.keys() == nosuch.keys()


# --- chains ----------------------------------------------------------------------------------------------------------


def row(one: Slice, strike: float, right: str, **fields: object) -> ChainRow:
    option = Option("AAPL", one.expiry, strike, right)  # type: ignore[arg-type]
    return ChainRow(option=option, con_id=1, **{"data_type": "live", "at": NOW} | fields)


def chain(**fields: object) -> OptionChain:
    """Two slices; the put at 235 does not exist, the call at 230 has no bid, and its greeks are our own."""
    rows = (
        row(FRIDAY, 225.0, "C", bid=6.4, ask=6.6, volume=437.0, open_interest=1028.0,
            greeks=Greeks(implied_volatility=0.306, delta=0.736)),
        row(FRIDAY, 225.0, "P", bid=1.37, ask=1.4, greeks=Greeks(implied_volatility=0.306, delta=-0.264)),
        row(FRIDAY, 230.0, "C", ask=3.5, greeks=Greeks(implied_volatility=0.305, delta=0.514, computed=True)),
        row(FRIDAY, 230.0, "P", bid=3.25, ask=3.4),
        row(FRIDAY, 235.0, "C", bid=1.48, ask=1.52),
        row(MONTH, 230.0, "C", bid=8.0, ask=8.2, data_type="delayed"),
    )  # fmt: skip
    whole = {"underlying": AAPL, "underlying_price": 231.5, "at": NOW, "slices": (FRIDAY, MONTH), "rows": rows}
    return OptionChain(**whole | fields)


def test_calls_left_puts_right_and_the_strike_between():
    """Bid and ask next to the strike on both sides, a dash for no value, nothing where there is no contract."""
    friday, _ = tables_chain.chain_tables(chain())
    title, header, rule, low, middle, money, high = lines(friday)
    assert title == "AAPL 27 Nov 2026 PM, 4 days, class AAPL, underlying at 231.50"
    assert cells(header) == [
        "OI", "volume", "iv", "delta", "bid", "ask", "strike", "bid", "ask", "delta", "iv", "volume", "OI"
    ]  # fmt: skip
    assert cells(low) == [
        "1,028", "437", "30.6%", "+0.736", "6.40", "6.60", "225", "1.37", "1.40", "-0.264", "30.6%", NO, NO
    ]  # fmt: skip
    assert cells(middle)[4:9] == [NO, "3.50", "230", "3.25", "3.40"]
    assert cells(high) == [NO, NO, NO, NO, "1.48", "1.52", "235"], "there is no put"
    assert set(money.strip()) == set(rule.strip()) == {"─"}, "the money lies between 230 and 235"


@pytest.mark.parametrize(("price", "where"), [(None, []), (220.0, []), (240.0, []), (225.0, [1]), (231.5, [2])])
def test_the_rule_is_where_the_money_is(price, where):
    """After the last strike that is not above the price; nowhere if all strikes are on one side."""
    friday, _ = tables_chain.chain_tables(chain(underlying_price=price))
    assert [number for number, row in enumerate(friday.rows, 1) if row.end_section] == where


def test_what_is_in_the_money_is_shaded():
    """Calls below the price of the underlying, puts above it."""
    friday, _ = tables_chain.chain_tables(chain())
    columns = [[cell.style for cell in column._cells] for column in (friday.columns[4], friday.columns[7])]
    assert columns == [["cyan", "cyan", ""], ["", "", "cyan"]]


def test_each_slice_is_a_table_and_a_narrow_terminal_leaves_out_the_same_columns_in_all():
    """Down to bid and ask; prices are never cut off."""
    wide = tables_chain.chain_tables(chain())
    assert [len(table.columns) for table in wide] == [13, 13]
    narrow = tables_chain.chain_tables(chain(), width=70)
    assert [len(table.columns) for table in narrow] == [9, 9]
    assert [len(table.columns) for table in tables_chain.chain_tables(chain(), width=10)] == [5, 5]
    assert tables_chain.chain_tables(chain(slices=(), rows=())) == []


def test_what_is_missing_is_said_below():
    """Delayed data, greeks of our own, and every gap, up to a limit."""
    notes = tables_chain.chain_notes(chain(missing=("AAPL 20261218: late",)))
    assert notes == [
        "not live: some of it is delayed",
        "greeks of 1 contracts were computed here, not by the broker",
        "missing: AAPL 20261218: late",
    ]
    many = tables_chain.chain_notes(chain(rows=(), missing=tuple(map(str, range(25)))))
    assert len(many) == 21
    assert many[-1] == "missing: 5 more"


def test_the_document_of_a_chain():
    """Slices with their rows; greeks by name."""
    document = json.loads(json.dumps(tables_chain.chain_document(chain(missing=("x",))), allow_nan=False))
    assert (document["underlying"], document["underlying_price"], document["missing"]) == ("AAPL", 231.5, ["x"])
    friday, month = document["slices"]
    assert (friday["expiry"], friday["settlement"], friday["days_to_expiry"]) == ("20261127", "PM", 4)
    assert friday["at_the_money"] == 230.0
    assert [(each["strike"], each["right"]) for each in month["rows"]] == [(230.0, "C")]
    first = friday["rows"][0]
    assert (first["bid"], first["greeks"]["delta"], first["last"]) == (6.4, 0.736, None)


# --- account and positions -------------------------------------------------------------------------------------------

SUMMARY = AccountSummary(
    account="DU1234567",
    base_currency="USD",
    at=NOW,
    net_liquidation=D("1000250.5"),
    daily_pnl=D("-12.345"),
    day_trades_remaining="unlimited",
    by_currency=(CurrencyBalance(currency="EUR", cash=D(25_000), exchange_rate=D("1.0850")),),
)


def test_the_account():
    """Every figure on a line, the ledger below, the number masked."""
    shown = lines(*tables.account_tables(SUMMARY))
    found = {cells(line)[0]: cells(line)[1:] for line in shown}
    assert shown[0] == "Account DU…567, 14:30:00 UTC"
    assert found["net liquidation"] == ["1,000,250.50"]
    assert found["daily PnL"] == ["-12.34"]
    assert found["buying power"] == [NO]
    assert found["day trades remaining"] == ["unlimited"]
    assert found["EUR"] == ["25,000.00", NO, NO, NO, NO, NO, "1.085"]


@pytest.mark.parametrize(("unmasked", "name"), [(False, "DU…567"), (True, "DU1234567")])
def test_account_numbers_are_masked_unless_asked_for(unmasked, name):
    """In tables and in documents."""
    held = {AAPL: HeldPosition(account="DU1234567", instrument=AAPL, con_id=265598, quantity=D(100), at=NOW)}
    shown = [
        *lines(*tables.account_tables(SUMMARY, unmasked=unmasked)),
        *lines(tables.positions_table("DU1234567", held, NOW, unmasked=unmasked)),
    ]
    documents = [
        tables.account_document(SUMMARY, unmasked=unmasked),
        tables.positions_document("DU1234567", held, NOW, unmasked=unmasked),
    ]
    assert [line for line in shown if name in line] == [shown[0], f"Positions of {name}, 14:30:00 UTC"]
    assert [document["account"] for document in documents] == [name, name]
    assert ("1234567" in json.dumps(documents) + "".join(shown)) is unmasked


def test_the_document_of_the_account():
    """Decimals as text, exactly as they are."""
    document = tables.account_document(SUMMARY)
    assert (document["net_liquidation"], document["buying_power"]) == ("1000250.5", None)
    assert document["by_currency"][0]["exchange_rate"] == "1.0850"


def test_positions():
    """Quantity, cost with its decimals, values and profits in the position's currency."""
    held = HeldPosition(
        account="DU1", instrument=AAPL, con_id=1, quantity=D(-100), at=NOW, average_cost=D("230.0125"),
        market_price=D("229.5"), market_value=D(-22950), unrealized_pnl=D("51.25"),
    )  # fmt: skip
    title, header, _, aapl = lines(tables.positions_table("DU1234567", {AAPL: held}, NOW))
    assert title == "Positions of DU…567, 14:30:00 UTC"
    assert cells(header)[:5] == ["instrument", "quantity", "average cost", "price", "value"]
    assert cells(aapl) == ["AAPL", "-100", "230.0125", "229.50", "-22,950.00", "USD", "51.25", NO, NO]
    (document,) = tables.positions_document("DU1234567", {AAPL: held}, NOW)["positions"]
    assert (document["instrument"], document["quantity"], document["daily_pnl"]) == ("AAPL", "-100", None)


# --- bars ------------------------------------------------------------------------------------------------------------


def bar(at: datetime | date, **fields: object) -> Bar:
    return Bar(at=at, **{"open": 230.0, "high": 231.0, "low": 229.5, "close": 230.25} | fields)


def test_the_last_bars_of_many():
    """Twenty, and how many there are."""
    many = [bar(NOW + timedelta(minutes=n), volume=1000.0 + n, count=7) for n in range(25)]
    title, header, _, first, *rest = lines(tables.bars_table("AAPL, 1 min", many))
    assert title == "AAPL, 1 min: 25 bars, the last 20"
    assert cells(header)[0] == "UTC"
    assert cells(first) == ["2026-11-23 14:35:00", "230.00", "231.00", "229.50", "230.25", "1,005", NO, "7"]
    assert len(rest) == 19


def test_daily_bars_have_dates():
    """And all of a few are shown."""
    title, header, _, only = lines(tables.bars_table("AAPL, 1 day", [bar(date(2026, 11, 20))]))
    assert title == "AAPL, 1 day: 1 bars"
    assert (cells(header)[0], cells(only)[0]) == ("date", "2026-11-20")


def test_the_document_of_bars():
    """Each bar by its fields."""
    document = tables.bars_document(AAPL, "1 min", [bar(NOW), bar(date(2026, 11, 20))])
    assert [each["at"] for each in document["bars"]] == ["2026-11-23T14:30:00Z", "2026-11-20"]
    assert document["bars"][0]["volume"] is None
