"""An order's table: only the server ends an order, and a fill is accepted in every state."""

from __future__ import annotations

from datetime import UTC, datetime
from decimal import Decimal as D

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import Forex, Index, Stock
from ibkr_service.core.orders import TERMINAL, TRANSITIONS, Intent, Order, OrderSignal, OrderState

AT = datetime(2026, 11, 23, 15, tzinfo=UTC)


def an_order(quantity="10", **changes):
    intent = Intent(instrument=Stock("AAPL"), action="BUY", quantity=D(quantity))
    return Order(ref="r", key="k", strategy="s", account="DU1", intent=intent, submitted_at=AT, **changes)


@pytest.mark.parametrize("state", list(OrderState))
def test_a_fill_is_accepted_in_every_state(state):
    """What the broker executed is executed, whatever we thought."""
    order = an_order(state=state).with_fills(D(10), D(1000))
    assert order.state is OrderState.FILLED
    assert order.remaining == 0
    assert order.average_price == 100


@given(
    st.lists(
        st.sampled_from([s for s in OrderSignal if s not in {OrderSignal.FILLED, OrderSignal.PART_FILLED}]), max_size=20
    )
)
def test_a_terminal_state_is_left_by_a_fill_only(signals):
    """Any noise, in any order, moves a finished order nowhere."""
    for state in TERMINAL:
        order = an_order(state=state)
        for signal in signals:
            order = order.advanced(signal)
        assert order.state is state


@pytest.mark.parametrize("hint", [OrderSignal.REJECT_HINT, OrderSignal.DOUBT])
def test_an_error_code_ends_nothing(hint):
    """A WORKING order with an error is only provisionally cancelled, and comes back when the server shows it."""
    order = an_order(state=OrderState.WORKING).advanced(hint, "says the broker")
    assert order.state is OrderState.PROVISIONALLY_CANCELLED
    assert order.alive
    assert order.advanced(OrderSignal.LIVE).state is OrderState.WORKING


def test_a_partial_fill_does_not_end_a_wanted_cancel():
    """CANCEL_PENDING stays until the broker confirms or the rest fills."""
    order = an_order(state=OrderState.CANCEL_PENDING, cancel_wanted=True).with_fills(D(4), D(400))
    assert order.state is OrderState.CANCEL_PENDING
    assert order.with_fills(D(10), D(1000)).state is OrderState.FILLED


def test_a_live_report_does_not_forget_a_wanted_cancel():
    """After a reconnect the order is shown as Submitted; we still want it gone."""
    order = an_order(state=OrderState.UNKNOWN, cancel_wanted=True).advanced(OrderSignal.LIVE)
    assert order.state is OrderState.CANCEL_PENDING


def test_a_correction_can_take_a_fill_back():
    """10 of 10, then the broker corrects to 4."""
    order = an_order(state=OrderState.WORKING).with_fills(D(10), D(1000)).with_fills(D(4), D(400))
    assert (order.state, order.remaining) == (OrderState.PARTIALLY_FILLED, 6)


def test_every_state_has_a_row():
    """No state is forgotten by the table."""
    assert set(TRANSITIONS) == set(OrderState)


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"quantity": D(0)}, "above 0"),
        ({"quantity": D(-1)}, "above 0"),
        ({"quantity": D("NaN")}, "finite"),
        ({"quantity": D("Infinity")}, "finite"),
        ({"quantity": 1.0}, "must be a Decimal"),
        ({"action": "LONG"}, "BUY or SELL"),
        ({"order_type": "LMT"}, "needs a limit_price"),
        ({"order_type": "LMT", "limit_price": D("NaN")}, "finite"),
        ({"limit_price": D(1)}, "no limit_price"),
        ({"order_type": "STOP"}, "one of MKT, LMT, STP"),
        ({"tif": "ALWAYS"}, "one of DAY, FOK"),
        ({"instrument": Index("SPX", "CBOE")}, "an index"),
    ],
)
def test_a_senseless_intent_does_not_exist(changes, says):
    """It is refused where it is made, with what is allowed."""
    fields = {"instrument": Forex("EUR", "USD"), "action": "BUY", "quantity": D(1)} | changes
    with pytest.raises(InvalidIntent, match=says):
        Intent(**fields)
