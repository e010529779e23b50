"""ib_insync's objects into core values and back: nothing is rounded, nothing is guessed, sentinels become None."""

from __future__ import annotations

import math
from datetime import UTC, datetime
from decimal import Decimal as D

import ib_insync
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from ib_insync import util

from ibkr_service.broker import translate
from ibkr_service.core import events as ev
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Bag, Forex, Future, Index, Option, Other, Stock
from ibkr_service.core.orders import Intent

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
UNSET = util.UNSET_DOUBLE

SYMBOLS = st.text("ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789 ", min_size=1, max_size=8).map(str.strip).filter(bool)
CURRENCIES = st.sampled_from(["USD", "EUR", "JPY", "CHF"])
DATES = st.dates(datetime(2024, 1, 1).date(), datetime(2035, 1, 1).date()).map(lambda d: f"{d:%Y%m%d}")  # noqa: DTZ001 - a day
STRIKES = st.integers(1, 10_000_000).map(lambda cents: cents / 1000)
EXCHANGES = st.sampled_from(["CME", "CBOE", "EUREX"])


@st.composite
def options(draw):
    """An option; its trading class is empty where it would only repeat the symbol."""
    symbol = draw(SYMBOLS)
    trading_class = draw(st.sampled_from(["", symbol + "W"]))
    return Option(
        symbol, draw(DATES), draw(STRIKES), draw(st.sampled_from("CP")), "100", draw(CURRENCIES), trading_class
    )


LEGS = st.lists(
    st.tuples(st.integers(1, 10**9), st.integers(1, 9), st.sampled_from(["BUY", "SELL"])), min_size=1, max_size=4
).map(tuple)
INSTRUMENTS = st.one_of(
    st.builds(Stock, SYMBOLS, CURRENCIES),
    st.builds(Forex, CURRENCIES, CURRENCIES),
    options(),
    st.builds(Future, SYMBOLS, DATES, EXCHANGES, CURRENCIES, st.sampled_from(["", "50"])),
    st.builds(Index, SYMBOLS, EXCHANGES, CURRENCIES),
    st.builds(Bag, SYMBOLS, CURRENCIES, LEGS),
)


# --- instruments -----------------------------------------------------------------------------------------------------


@given(INSTRUMENTS)
def test_an_instrument_survives_the_journey(instrument):
    """Described to TWS and reported back, it is equal."""
    assert translate.instrument_of(translate.contract_of(instrument)) == instrument


@given(INSTRUMENTS, st.integers(1, 2**31))
def test_a_known_con_id_goes_along(instrument, con_id):
    """It settles every ambiguity, and changes nothing else."""
    contract = translate.contract_of(instrument, con_id)
    assert contract.conId == con_id
    assert translate.instrument_of(contract) == instrument


@given(INSTRUMENTS)
def test_a_contract_as_positions_report_it_is_the_same_instrument(instrument):
    """Without exchange, and with the trading class that only repeats the symbol."""
    assume(isinstance(instrument, (Stock, Forex, Option)))
    contract = translate.contract_of(instrument)
    contract.exchange = contract.primaryExchange = ""
    contract.tradingClass = contract.tradingClass or contract.symbol
    assert translate.instrument_of(contract) == instrument


TEXT = st.text(max_size=12)


@given(
    st.fixed_dictionaries(
        {
            "secType": st.sampled_from(["STK", "OPT", "FUT", "FOP", "CASH", "IND", "BAG", "BOND", "CRYPTO", "", "???"]),
            "strike": st.floats(),
            "conId": st.integers(-5, 2**40),
        },
        optional=dict.fromkeys(
            ("symbol", "lastTradeDateOrContractMonth", "right", "multiplier", "currency", "tradingClass"), TEXT
        ),
    )
)
def test_any_contract_is_some_instrument(fields):
    """Whatever an account holds, and however oddly it is described, can be shown: nothing is raised."""
    contract = ib_insync.Contract(**fields)
    instrument = translate.instrument_of(contract)
    assert str(instrument) is not None
    assert hash(instrument) == hash(translate.instrument_of(contract))


@pytest.mark.parametrize(("right", "expected"), [("C", "C"), ("CALL", "C"), ("P", "P"), ("PUT", "P")])
@pytest.mark.parametrize("expiry", ["20261218", "20261218 08:30 CST", "20261218-08:30:00"])
def test_both_spellings_of_rights_and_expiries_are_read(right, expected, expiry):
    """TWS uses short and long ones, with and without a time."""
    contract = ib_insync.Contract(
        secType="OPT", symbol="SPX", strike=5000, right=right, lastTradeDateOrContractMonth=expiry, currency="USD"
    )
    assert translate.instrument_of(contract) == Option("SPX", "20261218", 5000.0, expected)


@pytest.mark.parametrize(
    ("symbol", "trading_class", "expected"),
    [
        ("AAPL", "AAPL", ""),
        ("AAPL", "", ""),
        ("BRK B", "BRKB", ""),
        ("SPX", "SPXW", "SPXW"),
        ("AAPL", "2AAPL", "2AAPL"),
    ],
)
def test_a_trading_class_is_kept_where_it_says_more_than_the_symbol(symbol, trading_class, expected):
    """Else a position would be another instrument than the one that was ordered."""
    contract = ib_insync.Contract(
        secType="OPT", symbol=symbol, strike=500, right="C", lastTradeDateOrContractMonth="20261218", currency="USD"
    )
    contract.tradingClass = trading_class
    assert translate.instrument_of(contract).trading_class == expected


@pytest.mark.parametrize("nothing_sent", [None, math.nan, 1.7976931348623157e308])
def test_a_greek_that_tws_does_not_know_is_none(nothing_sent):
    """It has many words for it; theta and vega are -2 then, which the library leaves standing."""
    fields = dict.fromkeys(("impliedVol", "delta", "optPrice", "pvDividend", "gamma", "undPrice"), nothing_sent)
    found = translate.greeks(ib_insync.OptionComputation(0, **fields, vega=-2.0, theta=-2.0))
    assert found == ev.Greeks()


def test_greeks_are_taken_as_they_are():
    """TWS's units are ours: a theta per day, a vega per point, a volatility where 0.25 is 25 %."""
    computation = ib_insync.OptionComputation(0, 0.25, -0.4, 3.2, 0.0, 0.02, 0.11, -0.05, 230.0)
    assert translate.greeks(computation) == ev.Greeks(
        implied_volatility=0.25,
        delta=-0.4,
        gamma=0.02,
        theta=-0.05,
        vega=0.11,
        option_price=3.2,
        underlying_price=230.0,
    )


@pytest.mark.parametrize("nothing", ["EUR.USD", None, 5, ib_insync.Stock("AAPL")])
def test_what_is_no_instrument_is_refused(nothing):
    """A text is not a contract; the words say what is."""
    with pytest.raises(InvalidIntent, match="use Stock, Forex"):
        translate.contract_of(nothing)


def test_another_kind_is_found_by_its_id():
    """A bond cannot be described, but it can be named."""
    contract = translate.contract_of(Other("BOND", "T", "USD", 99))
    assert (contract.secType, contract.conId) == ("BOND", 99)


# --- numbers ---------------------------------------------------------------------------------------------------------


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_a_float_becomes_the_decimal_that_was_typed(value):
    """Through its shortest text, never through binary digits; or it is TWS's "unset"."""
    if abs(value) >= translate.UNSET_FROM:
        with pytest.raises(ValueError, match="not a number"):
            translate.decimal(value)
        assert translate.optional_decimal(value) is None
    else:
        assert translate.decimal(value) == D(repr(value))
        assert float(translate.decimal(value)) == value


@pytest.mark.parametrize(
    ("value", "text"),
    [(10.0, "10"), (0.1, "0.1"), (1e-05, "0.00001"), (1e16, "10000000000000000"), (-0.5, "-0.5"), (100.10, "100.1")],
)
def test_a_decimal_is_written_as_people_write_it(value, text):
    """No trailing zeros, no exponent for what people trade."""
    assert str(translate.decimal(value)) == text


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, UNSET, 1.7976931348623157e308])
def test_what_is_no_number_is_never_taken_for_one(value):
    """Refused where a number is needed, None where it may be missing."""
    with pytest.raises(ValueError, match="not a number"):
        translate.decimal(value)
    assert translate.optional_decimal(value) is None


def test_nothing_is_none():
    """And zero is zero."""
    assert translate.optional_decimal(None) is None
    assert translate.optional_decimal(0.0) == 0


# --- orders ----------------------------------------------------------------------------------------------------------

QUANTITIES = st.decimals("0.000001", "1e12", allow_nan=False, allow_infinity=False, places=12).filter(lambda d: d > 0)


@given(QUANTITIES, st.none() | st.decimals("-1e6", "1e6", allow_nan=False, allow_infinity=False, places=12))
def test_an_orders_numbers_reach_the_wire_digit_by_digit(quantity, price):
    """No 0.30000000000000004, no 1E+3."""
    kind = "MKT" if price is None else "LMT"
    intent = Intent(instrument=Stock("A"), action="BUY", quantity=quantity, order_type=kind, limit_price=price)
    order = translate.order_of(intent, "ref", "DU1")
    assert D(order.totalQuantity) == quantity
    assert "E" not in order.totalQuantity
    if price is None:
        assert order.lmtPrice == UNSET
    else:
        assert D(order.lmtPrice) == price
        assert "E" not in order.lmtPrice
    assert (order.orderRef, order.account, order.transmit, order.orderId) == ("ref", "DU1", True, 0)


@pytest.mark.parametrize(
    ("field", "expected"),
    [("outside_rth", ("outsideRth", True)), ("tif", ("tif", "GTC"))],
)
def test_the_terms_of_an_order_are_kept(field, expected):
    """Time in force and trading hours."""
    value = {"outside_rth": True, "tif": "GTC"}[field]
    intent = Intent(instrument=Stock("A"), action="SELL", quantity=D(1), **{field: value})
    order = translate.order_of(intent, "ref", "DU1")
    assert getattr(order, expected[0]) == expected[1]
    assert order.action == "SELL"


def an_execution(**changes):
    """An execution as the library decodes it."""
    fields = {
        "execId": "0001.01.01",
        "time": AT,
        "acctNumber": "DU1",
        "side": "BOT",
        "shares": 100.0,
        "price": 1.1,
        "permId": 5,
        "clientId": 1,
        "orderId": 3,
        "orderRef": "ref",
    }
    return ib_insync.Execution(**(fields | changes))


@pytest.mark.parametrize(("side", "action", "signed"), [("BOT", "BUY", 100), ("SLD", "SELL", -100)])
def test_a_fill_has_the_executions_figures(side, action, signed):
    """Exact, with the sign of what it does to the position."""
    contract = translate.contract_of(Stock("AAPL"), 7)
    fill = translate.fill(AT, 3, contract, an_execution(side=side), recovered=True)
    assert (fill.action, fill.signed, fill.price, fill.con_id) == (action, signed, D("1.1"), 7)
    assert (fill.ref, fill.exec_id, fill.session, fill.recovered) == ("ref", "0001.01.01", 3, True)


@pytest.mark.parametrize("changes", [{"side": "XYZ"}, {"shares": math.nan}, {"price": UNSET}, {"shares": math.inf}])
def test_a_fill_that_makes_no_sense_is_not_made(changes):
    """The intake turns that into a fault, and it is looked for again."""
    with pytest.raises((KeyError, ValueError)):
        translate.fill(AT, 1, translate.contract_of(Stock("A"), 7), an_execution(**changes), recovered=False)


def test_an_open_orders_figures():
    """What the server shows, ours or not; a limit price only where there is one."""
    order = ib_insync.Order(orderId=3, clientId=1, permId=5, action="SSHORT", totalQuantity=D(10), orderType="LMT")
    order.lmtPrice, order.orderRef, order.account = 1.25, "ref", "DU1"
    seen = translate.open_order(AT, 1, translate.contract_of(Stock("A")), order, "Submitted")
    assert (seen.action, seen.quantity, seen.limit_price, seen.status) == ("SELL", 10, D("1.25"), "Submitted")
    order.orderType, order.lmtPrice = "MKT", 0.0
    assert translate.open_order(AT, 1, translate.contract_of(Stock("A")), order, "Submitted").limit_price is None
    order.orderType, order.lmtPrice = "LMT", UNSET
    assert translate.open_order(AT, 1, translate.contract_of(Stock("A")), order, "Submitted").limit_price is None


@pytest.mark.parametrize(("realized", "expected"), [(UNSET, None), (0.0, 0), (-12.5, D("-12.5"))])
def test_a_commission_leaves_open_what_the_broker_left_open(realized, expected):
    """No profit is not a profit of zero."""
    report = ib_insync.CommissionReport(execId="1", commission=2.0, currency="USD", realizedPNL=realized)
    event = translate.commission(AT, 1, report)
    assert (event.commission, event.realized_pnl) == (2, expected)


@pytest.mark.parametrize("cost", [UNSET, math.nan, math.inf])
def test_a_position_is_not_lost_for_its_cost(cost):
    """How much is held counts; no cost is not a cost of zero."""
    held = ib_insync.Position("DU1", translate.contract_of(Stock("A"), 7), -3.0, cost)
    position = translate.position(AT, 1, held)
    assert (position.quantity, position.average_cost) == (-3, None)


def test_a_portfolio_item_is_frozen_and_leaves_open_what_tws_left_open():
    """An unset price is none; the account, the conId and the amounts are those of the message."""
    item = ib_insync.PortfolioItem(translate.contract_of(Stock("A"), 7), -3.0, UNSET, math.nan, 12.5, 0.0, -7.25, "DU1")
    assert translate.portfolio(AT, 2, item) == ev.PortfolioReported(
        at=AT,
        session=2,
        account="DU1",
        con_id=7,
        instrument=Stock("A"),
        quantity=D(-3),
        market_price=None,
        market_value=None,
        unrealized_pnl=D(0),
        realized_pnl=D("-7.25"),
    )


def test_profit_and_loss_is_a_copy_of_an_object_that_the_library_changes():
    """What was taken from it stays as it was."""
    account = ib_insync.PnL("DU1", "", 1.5, UNSET, math.nan)
    single = ib_insync.PnLSingle("DU1", "", 7, 1.5, -2.0, UNSET, 3, 40.25)
    of_account, of_position = translate.pnl(AT, 2, account), translate.position_pnl(AT, 2, single)
    account.dailyPnL = single.dailyPnL = 99.0
    assert of_account == ev.PnlReported(at=AT, session=2, account="DU1", daily_pnl=D("1.5"))
    assert of_position == ev.PositionPnlReported(
        at=AT,
        session=2,
        account="DU1",
        con_id=7,
        quantity=D(3),
        daily_pnl=D("1.5"),
        unrealized_pnl=D(-2),
        realized_pnl=None,
        market_value=D("40.25"),
    )


def test_a_position_that_is_no_number_is_not_made():
    """It is a fault, never a zero."""
    held = ib_insync.Position("DU1", translate.contract_of(Stock("A"), 7), math.nan, 1.0)
    with pytest.raises(ValueError, match="not a number"):
        translate.position(AT, 1, held)


# --- quotes ----------------------------------------------------------------------------------------------------------


def tick(**fields):
    """A tick made of a ticker with these fields."""
    ticker = ib_insync.Ticker(contract=ib_insync.Stock("A"))
    for name, value in fields.items():
        setattr(ticker, name, value)
    return translate.tick(AT, 1, Stock("A"), ticker, epoch=2, mono_s=3.0)


@pytest.mark.parametrize(
    ("price", "size", "expected"),
    [
        (-1.0, 0.0, None),  # TWS's "no quote"
        (0.0, 0.0, None),
        (-1.0, math.nan, None),
        (math.nan, 5.0, None),
        (math.inf, 5.0, None),
        (UNSET, 5.0, None),
        (-1.0, 5.0, -1.0),  # a combination may be quoted so
        (0.0, 5.0, 0.0),
        (-0.35, 0.0, -0.35),
        (1.1, 0.0, 1.1),
        (1.1, 5.0, 1.1),
    ],
)
def test_a_side_without_a_quote_is_none(price, size, expected):
    """-1 and 0 without size mean nothing; with size they are prices."""
    quote = tick(bid=price, bidSize=size, ask=price, askSize=size)
    assert quote.bid == quote.ask == expected
    assert (quote.bid_size is None) == (expected is None or not size >= 0)


@given(st.floats())
def test_no_figure_of_a_tick_is_ever_a_sentinel(value):
    """Whatever the wire holds: a finite number, or None."""
    names = ("bid", "ask", "last", "bidSize", "askSize", "lastSize", "volume", "high", "low", "open", "close")
    quote = tick(**dict.fromkeys(names, value))
    figures = [quote.bid, quote.ask, quote.last, quote.bid_size, quote.ask_size, quote.last_size, quote.volume]
    figures += [quote.high, quote.low, quote.open, quote.close]
    for figure in figures:
        assert figure is None or (math.isfinite(figure) and abs(figure) < translate.UNSET_FROM)


def test_the_kind_of_data_is_unknown_until_it_was_told():
    """The library says "live" before anybody did; we do not."""
    assert tick().data_type == "unknown"
    assert [tick(told_data_type=n).data_type for n in (1, 2, 3, 4, 9)] == [
        *("live", "frozen", "delayed", "delayed_frozen"),
        "unknown",
    ]
