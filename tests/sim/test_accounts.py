"""Cash, positions and commissions."""

from datetime import date
from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.sim.accounts import STARTING_CASH, Account
from ibkr_service.sim.contracts import ContractSpec, Universe
from ibkr_service.sim.fees import commission

UNIVERSE = Universe(date(2026, 11, 23))
AAPL = UNIVERSE.stocks[265598]
EURUSD = UNIVERSE.pairs[12087792]
OPTION = UNIVERSE.find(ContractSpec(symbol="AAPL", sec_type="OPT"))[0]

TRADES = st.lists(
    st.tuples(
        st.integers(-500, 500).filter(bool).map(Decimal),
        st.decimals(min_value=Decimal("0.01"), max_value=1000, places=2),
    ),
    max_size=20,
)


def to_base(_currency: str) -> Decimal:
    return Decimal(1)


def test_an_average_cost_has_the_multiplier_and_the_commission():
    """IB's convention: 2 contracts at 3.00 cost 600 and the commission."""
    account = Account("DU1")
    assert account.trade(OPTION, Decimal(2), Decimal(3), Decimal("1.30")) is None
    assert account.positions[OPTION.con_id].average_cost == Decimal("300.65")
    assert account.cash["USD"] == STARTING_CASH - Decimal("601.30")


def test_closing_realizes_the_profit_after_commissions():
    """Bought at 10, sold at 12, a dollar each way."""
    account = Account("DU1")
    account.trade(AAPL, Decimal(100), Decimal(10), Decimal(1))
    assert account.trade(AAPL, Decimal(-100), Decimal(12), Decimal(1)) == Decimal(198)
    position = account.positions[AAPL.con_id]
    assert (position.quantity, position.average_cost, position.realized) == (0, 0, Decimal(198))
    assert account.cash["USD"] == STARTING_CASH + Decimal(198)


def test_a_fill_through_zero_closes_one_position_and_opens_the_other():
    """Long 100, sell 150: 100 are closed, 50 are short at the new price."""
    account = Account("DU1")
    account.trade(AAPL, Decimal(100), Decimal(10), Decimal(0))
    assert account.trade(AAPL, Decimal(-150), Decimal(11), Decimal(0)) == Decimal(100)
    position = account.positions[AAPL.con_id]
    assert (position.quantity, position.average_cost) == (Decimal(-50), Decimal(11))


@given(TRADES)
def test_cash_and_positions_balance(trades):
    """What was paid is what is held at cost, less what was earned: nothing appears, nothing vanishes."""
    account = Account("DU1")
    for quantity, price in trades:
        account.trade(AAPL, quantity, price, commission(AAPL, abs(quantity), price, to_base))
    position = account.positions.get(AAPL.con_id)
    held = position.quantity * position.average_cost if position else Decimal(0)
    earned = position.realized if position else Decimal(0)
    assert abs(account.cash["USD"] - (STARTING_CASH - held + earned)) < Decimal("1e-15")
    assert (position.quantity if position else 0) == sum(quantity for quantity, _ in trades)


@given(TRADES)
def test_a_currency_trade_moves_both_currencies(trades):
    """Buying euros pays dollars; the position is a tally of the euros."""
    account = Account("DU1")
    for quantity, price in trades:
        account.trade(EURUSD, quantity, price, Decimal(2))
    euros = sum((quantity for quantity, _ in trades), Decimal(0))
    dollars = sum((quantity * price + 2 for quantity, price in trades), Decimal(0))
    assert account.cash.get("EUR", Decimal(0)) == euros == account.quantity(EURUSD.con_id)
    assert account.cash["USD"] == STARTING_CASH - dollars


def test_commissions_have_minimums():
    """One dollar for stocks and options, two for currencies."""
    assert commission(AAPL, Decimal(10), Decimal(230), to_base) == Decimal("1.00")
    assert commission(AAPL, Decimal(1000), Decimal(230), to_base) == Decimal("5.000")
    assert commission(OPTION, Decimal(1), Decimal(3), to_base) == Decimal("1.00")
    assert commission(OPTION, Decimal(10), Decimal(3), to_base) == Decimal("6.50")
    assert commission(EURUSD, Decimal(20_000), Decimal("1.1"), to_base) == Decimal("2.00")
    assert commission(EURUSD, Decimal(1_000_000), Decimal("1.1"), to_base) == Decimal("22.00")
