"""What the accounts are worth: TWS's rows read rightly, nothing of an old session, no empty answer for an unknown one.

Goal: a figure is the broker's own, of this session, or None; what is not complete is an error.
Method: a book is fed by hand with the rows that TWS sends, odd ones included.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core import events as ev
from ibkr_service.core.account import CurrencyBalance, amount, day_trades
from ibkr_service.core.book import Book
from ibkr_service.core.errors import NotReady, UnknownAccount
from ibkr_service.core.instrument import Option, Other, Stock
from ibkr_service.core.link import Link, Signal

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)
MINE, OTHER = "DU1", "DU2"
AAPL, AAPL_CALL = Stock("AAPL"), Option("AAPL", "20270115", 150.0, "C")
UNSET = "1.7976931348623157E308"

# What TWS sends for the whole account, and the field that shows it.
MONEY = {
    "NetLiquidation": "net_liquidation",
    "TotalCashValue": "total_cash",
    "EquityWithLoanValue": "equity_with_loan",
    "InitMarginReq": "initial_margin",
    "MaintMarginReq": "maintenance_margin",
    "AvailableFunds": "available_funds",
    "ExcessLiquidity": "excess_liquidity",
    "BuyingPower": "buying_power",
    "GrossPositionValue": "gross_position_value",
}
LEDGER = {
    "CashBalance": "cash",
    "StockMarketValue": "stock_value",
    "OptionMarketValue": "option_value",
    "NetLiquidationByCurrency": "net_liquidation",
    "UnrealizedPnL": "unrealized_pnl",
    "RealizedPnL": "realized_pnl",
    "ExchangeRate": "exchange_rate",
}


class Told:
    """A book and the broker's voice: each verb is one message, recorded as the hub does."""

    def __init__(self, *, session=1):
        self.book = Book()
        self.at = AT
        self.session = session
        self.open(session)

    def record(self, kind, **fields):
        """Record an event, and what follows from it; each a second after the one before."""
        self.at += timedelta(seconds=1)
        fields.setdefault("session", self.session)
        waiting = [kind(at=self.at, **fields)]
        while waiting:
            event = waiting.pop(0)
            if self.book.is_news(event):
                waiting[:0] = self.book.apply(event)

    def signal(self, signal):
        """The line."""
        self.record(ev.LinkSignalled, signal=signal, why="")

    def open(self, session):
        """A new connection."""
        self.session = session
        self.signal(Signal.SOCKET_UP)
        self.record(ev.SessionOpened, server_version=176, client_id=1, accounts=(MINE, OTHER), account=MINE)

    def value(self, tag, value, currency="USD", account=MINE, **fields):
        """An account value."""
        self.record(ev.AccountValueReported, account=account, tag=tag, value=value, currency=currency, **fields)

    def position(self, instrument, con_id, quantity, cost="100", account=MINE):
        """A position."""
        average_cost = None if cost is None else D(cost)
        self.record(
            ev.PositionReported,
            account=account,
            con_id=con_id,
            instrument=instrument,
            quantity=D(quantity),
            average_cost=average_cost,
        )

    def portfolio(self, instrument, con_id, quantity, price="5", value="50"):
        """What a position is worth."""
        self.record(
            ev.PortfolioReported,
            account=MINE,
            con_id=con_id,
            instrument=instrument,
            quantity=D(quantity),
            market_price=D(price),
            market_value=D(value),
            unrealized_pnl=D(1),
            realized_pnl=D(2),
        )

    def position_pnl(self, con_id, quantity, daily="3", account=MINE):
        """Its profit and loss."""
        self.record(
            ev.PositionPnlReported,
            account=account,
            con_id=con_id,
            quantity=D(quantity),
            daily_pnl=D(daily),
            unrealized_pnl=D(4),
            realized_pnl=None,
            market_value=D(60),
        )

    def verified(self):
        """A complete look, and READY."""
        self.looked()
        self.signal(Signal.SYNCED)

    def looked(self):
        """A complete look."""
        held = tuple((a, c, p.quantity) for (a, c), p in self.book.positions.items() if p.quantity)
        self.record(
            ev.Snapshot,
            asked_at=self.at,
            accounts=(MINE, OTHER),
            positions=held,
            open_refs=(),
            completed=(),
            orders_visible=True,
        )


@pytest.fixture
def told():
    """A session that was opened, and is not verified yet."""
    return Told()


# --- the rows of TWS -------------------------------------------------------------------------------------------------


def test_a_summary_has_the_accounts_own_amounts(told):
    """Each field is the value of its tag, in the currency that the account is kept in."""
    for number, tag in enumerate(MONEY):
        told.value(tag, f"{number}.25", "EUR")
    told.value("DayTradesRemaining", "3", "")
    told.verified()
    summary = told.book.account_summary()
    assert {field: getattr(summary, field) for field in MONEY.values()} == {
        field: D(f"{number}.25") for number, field in enumerate(MONEY.values())
    }
    assert (summary.account, summary.base_currency, summary.day_trades_remaining) == (MINE, "EUR", 3)


def test_what_the_broker_does_not_say_is_none(told):
    """Neither 0 nor -1: an account of which nothing is known but that everything was sent."""
    told.verified()
    summary = told.book.account_summary()
    known = {name: getattr(summary, name) for name in summary.__struct_fields__}
    assert known.pop("at") == told.book.discrepancies.verified_at
    assert (known.pop("account"), known.pop("by_currency")) == (MINE, ())
    assert set(known.values()) == {None}


def test_segments_other_currencies_and_the_pseudo_currency_are_not_the_account(told):
    """`-S`, `-C`, `-P`, BASE and a ledger in another currency have similar names; the total is the one without."""
    told.value("NetLiquidation", "1000")
    for tag in (
        "NetLiquidation-S",
        "NetLiquidation-C",
        "NetLiquidation-P",
        "AvailableFunds-S",
        "NetLiquidationUncertainty",
    ):
        told.value(tag, "7")
    told.value("NetLiquidation", "8", "BASE")
    told.value("AvailableFunds", "9", "EUR")
    told.verified()
    summary = told.book.account_summary()
    assert (summary.net_liquidation, summary.base_currency, summary.available_funds) == (D(1000), "USD", None)


@pytest.mark.parametrize("prefix", ["", "$LEDGER-"])
def test_the_ledger_is_shown_by_currency(told, prefix):
    """With or without the prefix of TWS 10.47; BASE is the sum, and no currency."""
    told.value("NetLiquidation", "1000")
    for currency in ("USD", "EUR", "BASE"):
        for number, tag in enumerate(LEDGER):
            told.value(prefix + tag, f"{number}.5", currency)
    told.value(prefix + "UnrealizedPnL", "70", "BASE")
    told.value(prefix + "RealizedPnL", "80", "BASE")
    told.verified()
    summary = told.book.account_summary()
    block = {field: D(f"{number}.5") for number, field in enumerate(LEDGER.values())}
    assert summary.by_currency == (CurrencyBalance(currency="EUR", **block), CurrencyBalance(currency="USD", **block))
    assert summary.balance("EUR") == summary.by_currency[0]
    assert summary.balance("GBP") is None
    assert (summary.unrealized_pnl, summary.realized_pnl, summary.daily_pnl) == (D(70), D(80), None)


def test_the_subscription_to_profit_and_loss_goes_before_the_ledger(told):
    """It comes every second; where it has no value, the ledger still may."""
    told.value("UnrealizedPnL", "70", "BASE")
    told.value("RealizedPnL", "80", "BASE")
    told.verified()
    told.record(ev.PnlReported, account=MINE, daily_pnl=D(5), unrealized_pnl=D(0))
    summary = told.book.account_summary()
    assert (summary.daily_pnl, summary.unrealized_pnl, summary.realized_pnl) == (D(5), D(0), D(80))


@given(st.decimals(allow_nan=False, allow_infinity=False, min_value=D("-1e290"), max_value=D("1e290")))
def test_every_number_is_read_as_it_is_written(number):
    """No float is in between."""
    assert amount(str(number)) == number


@pytest.mark.parametrize(
    "text", [UNSET, UNSET.lower(), "-" + UNSET, "", " ", "NaN", "Infinity", "1,000.00", "USD", None]
)
def test_what_is_no_amount_is_none(text):
    """TWS's ways to say nothing; TWS does not localise numbers, so a comma is no number either."""
    assert amount(text) is None


@pytest.mark.parametrize(
    ("text", "shown"),
    [("3", 3), ("0", 0), ("-1", "unlimited"), ("-2", None), ("1.5", None), ("", None), (UNSET, None), (None, None)],
)
def test_unlimited_day_trades_are_not_minus_one(text, shown):
    """Nor a large number: a word."""
    assert day_trades(text) == shown


@given(
    st.lists(
        st.tuples(st.sampled_from(sorted(MONEY)), st.sampled_from(["USD", "EUR", "BASE", ""]), st.integers(-5, 5)),
        max_size=40,
    )
)
def test_the_newest_value_counts(rows):
    """Whatever comes in whatever order, each field shows the last value of its tag in the newest base currency."""
    told = Told()
    last, base = {}, None
    for tag, currency, number in rows:
        changes = last.get((tag, currency)) != number
        last[tag, currency] = number
        told.value(tag, str(number), currency)
        if tag == "NetLiquidation" and currency in {"USD", "EUR"} and changes:
            base = currency
    told.verified()
    summary = told.book.account_summary()
    assert summary.base_currency == base
    for tag, field in MONEY.items():
        assert getattr(summary, field) == last.get((tag, base or ""))


# --- known or unknown ------------------------------------------------------------------------------------------------


def test_nothing_is_said_before_everything_was_verified(told):
    """Values and positions have come, but perhaps not all of them."""
    told.value("NetLiquidation", "1000")
    told.position(AAPL, 7, "5")
    for ask in (told.book.account_summary, told.book.held_positions):
        with pytest.raises(NotReady, match="SYNCING"):
            ask()
    told.verified()
    assert told.book.account_summary().net_liquidation == 1000
    assert told.book.held_positions()[AAPL].quantity == 5


@pytest.mark.parametrize("signal", [Signal.SOCKET_DOWN, Signal.UPSTREAM_LOST, Signal.RESTORED_DATA_KEPT])
def test_nothing_is_said_after_the_line_was_lost(told, signal):
    """What was true a moment ago is not reported as true."""
    told.value("NetLiquidation", "1000")
    told.verified()
    told.signal(signal)
    for ask in (told.book.account_summary, told.book.held_positions):
        with pytest.raises(NotReady):
            ask()


def test_an_account_of_another_login_is_unknown(told):
    """It is not an account that holds nothing."""
    told.verified()
    for ask in (told.book.account_summary, told.book.held_positions):
        with pytest.raises(UnknownAccount):
            ask("DU3")


def test_another_account_is_known_when_its_own_values_are_complete(told):
    """READY says nothing of it, and its positions were verified before its values came."""
    told.position(AAPL, 7, "5", account=OTHER)
    told.verified()
    told.value("NetLiquidation", "2000", account=OTHER)
    with pytest.raises(NotReady, match="not all been received"):
        told.book.account_summary(OTHER)
    assert told.book.held_positions(OTHER)[AAPL].quantity == 5
    assert told.book.held_positions(MINE) == {}
    told.record(ev.AccountDownloaded, account=OTHER)
    assert told.book.account_summary(OTHER).net_liquidation == 2000
    assert told.book.account_summary(MINE).net_liquidation is None


def test_a_new_session_knows_nothing_of_the_old_one(told):
    """A value that the broker does not send any more is gone, as is the profit of yesterday."""
    told.value("NetLiquidation", "1000")
    told.value("BuyingPower", "4000")
    told.position(AAPL, 7, "5")
    told.portfolio(AAPL, 7, "5")
    told.record(ev.PnlReported, account=MINE, daily_pnl=D(5))
    told.verified()
    told.signal(Signal.SOCKET_DOWN)
    told.open(2)
    told.value("NetLiquidation", "900")
    told.verified()
    summary = told.book.account_summary()
    assert (summary.net_liquidation, summary.buying_power, summary.daily_pnl) == (900, None, None)
    position = told.book.held_positions()[AAPL]
    assert (position.quantity, position.average_cost, position.market_value) == (5, 100, None)


def test_what_an_old_session_still_says_is_discarded(told):
    """It was in the inbox when the new session began."""
    told.signal(Signal.SOCKET_DOWN)
    told.open(2)
    told.value("NetLiquidation", "1", session=1)
    told.record(ev.PnlReported, account=MINE, daily_pnl=D(5), session=1)
    told.record(ev.AccountDownloaded, account=OTHER, session=1)
    told.verified()
    summary = told.book.account_summary()
    assert (summary.net_liquidation, summary.daily_pnl) == (None, None)
    with pytest.raises(NotReady):
        told.book.account_summary(OTHER)
    assert not told.book.is_news(ev.PnlReported(at=AT, session=1, account=MINE, daily_pnl=D(5))), "nobody is told"


def test_after_an_interruption_only_what_was_asked_for_again_is_known(told):
    """The look brings the account in use; its profit and the other accounts are unknown until they come again."""
    told.value("NetLiquidation", "1000")
    told.value("NetLiquidation", "2000", account=OTHER)
    told.position(AAPL, 7, "5")
    told.portfolio(AAPL, 7, "5")
    told.position_pnl(7, "5")
    told.record(ev.PnlReported, account=MINE, daily_pnl=D(5))
    told.record(ev.AccountDownloaded, account=OTHER)
    told.verified()
    assert told.book.held_positions()[AAPL].daily_pnl == 3
    told.signal(Signal.UPSTREAM_LOST)
    told.signal(Signal.RESTORED_DATA_KEPT)
    told.verified()
    summary = told.book.account_summary()
    assert (summary.net_liquidation, summary.daily_pnl) == (1000, None)
    assert told.book.held_positions()[AAPL].daily_pnl is None
    with pytest.raises(NotReady):
        told.book.account_summary(OTHER)
    told.record(ev.AccountDownloaded, account=OTHER)
    assert told.book.account_summary(OTHER).net_liquidation is None


def test_an_account_that_ib_resets_is_not_reported(told):
    """Values that come while `AccountReady` is false may be wrong."""
    told.value("AccountReady", "true", "")
    told.value("NetLiquidation", "1000")
    told.verified()
    assert told.book.account_summary().net_liquidation == 1000
    told.value("AccountReady", "false", "")
    with pytest.raises(NotReady, match="resetting"):
        told.book.account_summary()
    told.value("AccountReady", "true", "")
    assert told.book.account_summary().net_liquidation == 1000


def test_a_repetition_is_no_news(told):
    """The broker repeats everything at every look; that it does is worth a time stamp only."""
    told.value("NetLiquidation", "1000")
    told.portfolio(AAPL, 7, "5")
    told.record(ev.PnlReported, account=MINE, daily_pnl=D(5))
    told.position_pnl(7, "5")
    later = {"at": AT + timedelta(hours=1), "session": 1, "account": MINE}
    same = [
        ev.AccountValueReported(**later, tag="NetLiquidation", value="1000", currency="USD"),
        ev.PnlReported(**later, daily_pnl=D(5)),
        ev.PositionPnlReported(
            **later, con_id=7, quantity=D(5), daily_pnl=D(3), unrealized_pnl=D(4), market_value=D(60)
        ),
        ev.PortfolioReported(
            **later, con_id=7, instrument=AAPL, quantity=D(5), market_price=D(5), market_value=D(50),
            unrealized_pnl=D(1), realized_pnl=D(2),
        ),
    ]  # fmt: skip
    assert [told.book.is_news(event) for event in same] == [False] * 4
    other = [
        ev.AccountValueReported(**later, tag="NetLiquidation", value="1001", currency="USD"),
        ev.PnlReported(**later, daily_pnl=D(6)),
        ev.PositionPnlReported(**later, con_id=7, quantity=D(5)),
        ev.PortfolioReported(**later, con_id=8, instrument=AAPL, quantity=D(5)),
    ]
    assert [told.book.is_news(event) for event in other] == [True] * 4


def test_the_time_of_a_summary_is_that_of_its_newest_value(told):
    """A change, or a look that has confirmed everything; the profit of every second does not make old values young."""
    told.value("NetLiquidation", "1000")
    told.verified()
    looked_at = told.book.discrepancies.verified_at
    told.record(ev.PnlReported, account=MINE, daily_pnl=D(5))
    assert told.book.account_summary().at == looked_at
    told.value("NetLiquidation", "1001")
    assert told.book.account_summary().at == told.at
    told.looked()
    assert told.book.account_summary().at == told.at


# --- positions -------------------------------------------------------------------------------------------------------


def test_an_option_and_its_stock_do_not_collide(told):
    """They have the symbol in common, and nothing else."""
    told.position(AAPL, 7, "100", cost="150.5")
    told.position(AAPL_CALL, 8, "-1", cost="300.65")
    told.portfolio(AAPL, 7, "100", price="151", value="15100")
    told.portfolio(AAPL_CALL, 8, "-1", price="2.5", value="-250")
    told.verified()
    positions = told.book.held_positions()
    assert list(positions) == [AAPL, AAPL_CALL]
    stock, call = positions[AAPL], positions[AAPL_CALL]
    assert (stock.con_id, stock.quantity, stock.average_cost, stock.market_value) == (7, 100, D("150.5"), 15100)
    assert (call.con_id, call.quantity, call.average_cost, call.market_value) == (8, -1, D("300.65"), -250)
    assert (stock.market_price, call.market_price) == (151, D("2.5"))


def test_two_contracts_of_one_description_do_not_hide_each_other(told):
    """A symbol may be listed twice in one currency."""
    told.position(AAPL, 9, "3")
    told.position(AAPL, 7, "5")
    told.verified()
    positions = told.book.held_positions()
    assert {instrument: held.quantity for instrument, held in positions.items()} == {
        AAPL: 5,
        Other("STK", "AAPL", "USD", 9, "AAPL"): 3,
    }
    assert all(held.instrument == instrument for instrument, held in positions.items())


def test_a_closed_position_is_none(told):
    """0 is not held; and what it was worth does not come back with it."""
    told.position(AAPL, 7, "5")
    told.portfolio(AAPL, 7, "5")
    told.position_pnl(7, "5")
    told.verified()
    told.position(AAPL, 7, "0")
    assert told.book.held_positions() == {}
    told.position(AAPL, 7, "5")
    held = told.book.held_positions()[AAPL]
    assert (held.quantity, held.market_value, held.daily_pnl) == (5, None, None)


def test_what_other_quantity_was_worth_is_not_shown(told):
    """After a trade the value is unknown until it comes."""
    told.position(AAPL, 7, "5")
    told.portfolio(AAPL, 7, "5")
    told.verified()
    told.position(AAPL, 7, "10", cost="101")
    held = told.book.held_positions()[AAPL]
    assert (held.quantity, held.average_cost) == (10, 101)
    assert (held.market_price, held.market_value, held.unrealized_pnl, held.realized_pnl) == (None,) * 4
    told.portfolio(AAPL, 7, "10", value="100")
    held = told.book.held_positions()[AAPL]
    assert (held.market_price, held.market_value, held.unrealized_pnl, held.realized_pnl) == (5, 100, 1, 2)


def test_the_positions_of_another_account_are_valued_by_their_profit_and_loss(told):
    """TWS sends a portfolio for one account at a time: there is no price for the others."""
    for account in (MINE, OTHER):
        told.position(AAPL, 7, "5", account=account)
        told.position_pnl(7, "5", account=account)
    told.portfolio(AAPL, 7, "5")
    told.verified()
    mine, other = told.book.held_positions(MINE)[AAPL], told.book.held_positions(OTHER)[AAPL]
    assert (mine.market_price, mine.market_value, mine.unrealized_pnl, mine.daily_pnl) == (5, 50, 1, 3)
    assert (other.market_price, other.market_value, other.unrealized_pnl, other.daily_pnl) == (None, 60, 4, 3)


def test_a_cost_that_the_broker_does_not_know_is_none(told):
    """The position is held all the same."""
    told.position(AAPL, 7, "5", cost=None)
    told.verified()
    held = told.book.held_positions()[AAPL]
    assert (held.quantity, held.average_cost) == (5, None)


def test_the_time_of_a_position_is_that_of_its_newest_figure(told):
    """Or of the look that has confirmed it, though it changed long ago."""
    told.position(AAPL, 7, "5")
    told.verified()
    assert told.book.held_positions()[AAPL].at == told.book.discrepancies.verified_at
    told.portfolio(AAPL, 7, "5")
    assert told.book.held_positions()[AAPL].at == told.at
    told.position_pnl(7, "5")
    assert told.book.held_positions()[AAPL].at == told.at
    assert told.book.link is Link.READY
