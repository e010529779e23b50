"""Steps about orders: what a strategy wishes, what the broker makes of it, what is told."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal as D

import pytest
from pytest_bdd import given, parsers, then, when

from ibkr_service.core import events as ev
from ibkr_service.core.errors import Refused
from ibkr_service.core.instrument import Stock
from ibkr_service.core.intent import Intent
from ibkr_service.core.orders import Order, OrderState
from ibkr_service.rehearsal.world import EPOCH
from ibkr_service.sim import GatewayConfig
from tests.bdd.stage import Diary, Story

AAPL = Stock("AAPL")
WITHIN_S = 30.0


def the_order(story: Story) -> Order:
    """Return the only order there is."""
    (order,) = story.world.app.book.orders.values()
    return order


def mid(story: Story) -> D:
    """Return a price in the middle of the market, on the grid."""
    desk = story.trader.desk
    story.run(desk.qualify(AAPL))
    story.do(lambda _world: desk.watch(AAPL))
    story.until(lambda: desk.quote(AAPL) is not None, WITHIN_S, "a quote")
    quote = story.do(lambda _world: desk.quote(AAPL))
    assert quote is not None
    return D(str(round((quote.bid + quote.ask) / 2, 2)))


@given("a market that keeps real hours, and is closed")
def closed(story: Story) -> None:
    story.config.gateway = GatewayConfig(started_at=EPOCH - timedelta(days=1), hours="real")  # a Sunday


@given(parsers.parse('the broker will reject the next order because "{text}"'))
def will_reject(story: Story, text: str) -> None:
    story.do(lambda world: world.faults.reject_next(201, text))


@given(parsers.parse("a strategy buys {count:d} AAPL at most {distance:d} below the market"))
@when(parsers.parse("a strategy buys {count:d} AAPL at most {distance:d} below the market"))
def buys_below(story: Story, count: int, distance: int) -> None:
    story.submit(Intent.buy(AAPL, count, limit=mid(story) - distance))
    story.advance(2.0)


@when(parsers.parse("a strategy buys {count:d} AAPL at most {distance:d} above the market"))
def buys_above(story: Story, count: int, distance: int) -> None:
    ref = story.submit(Intent.buy(AAPL, count, limit=mid(story) + distance))
    story.run(story.trader.desk.finished(ref))
    story.advance(1.0)


@when(parsers.parse("a strategy buys {count:d} AAPL at the market"))
def buys_at_market(story: Story, count: int) -> None:
    story.do(lambda _world: story.trader.desk.watch(AAPL))
    story.advance(60.0)
    with pytest.raises(Refused) as caught:
        story.submit(Intent.buy(AAPL, count))
    story.refusal = caught.value


@when("it cancels the order")
def cancels(story: Story) -> None:
    ref = the_order(story).ref
    story.do(lambda _world: story.trader.desk.cancel(ref))
    story.run(story.trader.desk.finished(ref))


@when(parsers.parse("it changes the quantity to {count:d}"))
def changes(story: Story, count: int) -> None:
    ref = the_order(story).ref
    story.do(lambda _world: story.trader.desk.modify(ref, quantity=D(count)))
    story.advance(15.0)


@when(parsers.parse("a strategy previews {count:d} AAPL"), target_fixture="preview")
def previews(story: Story, count: int) -> object:
    return story.run(story.trader.desk.preview(Intent.buy(AAPL, count, limit=mid(story))))


@then("the order was SENT, WORKING and FILLED, in this order")
def was(story: Story) -> None:
    states = [event.after for event in story.trader.of(ev.OrderChanged)]
    assert states == [OrderState.SENT, OrderState.WORKING, OrderState.FILLED]


@then(parsers.parse("{count:d} AAPL are held"))
def held(story: Story, count: int) -> None:
    assert story.trader.desk.book.position(AAPL) == story.trader.desk.position(AAPL) == count


@then("book and gateway agree")
def agree(story: Story) -> None:
    story.do(lambda world: world.check_agreement())


@then(parsers.re(r"the order is (?P<state>[A-Z]+)$"))
def state_is(story: Story, state: str) -> None:
    assert the_order(story).state is OrderState[state]


@then(parsers.parse('the order is REJECTED because "{text}"'))
def rejected_because(story: Story, text: str) -> None:
    order = the_order(story)
    assert order.state is OrderState.REJECTED
    assert text in order.reason


@then("the gateway holds no open order")
def none_open(story: Story) -> None:
    assert story.world.gateway.open_orders == []


@then(parsers.parse("the gateway holds an order for {count:d}"))
def holds(story: Story, count: int) -> None:
    assert [order.ticket.quantity for order in story.world.gateway.open_orders] == [count]


@then("it is refused because the last quote is too old to price it with")
def refused(story: Story) -> None:
    assert isinstance(story.refusal, Refused)
    assert story.refusal.limit == "max_quote_age_s"
    assert "a MKT order with a quote" in story.refusal.asked
    assert "s old" in story.refusal.asked


@then("the refusal is in the log")
def refusal_logged(story: Story, diary: Diary) -> None:
    assert isinstance(story.refusal, Refused)
    assert diary.only(event="order refused")["asked"] == story.refusal.asked


@then("the log says why the broker rejected it")
def rejection_logged(diary: Diary) -> None:
    assert diary.only(event="broker on order")["text"] == "Order rejected - reason:The exchange is closed."


@then(parsers.re(r"the broker has (?P<outcome>accepted|refused) the change"))
def change_was(story: Story, outcome: str) -> None:
    assert [event.outcome for event in story.trader.of(ev.ModificationSettled)] == [outcome]


@then("the preview shows more margin and a commission")
def preview_shows(preview) -> None:
    assert preview.initial_margin_after > preview.initial_margin_before
    assert preview.commission > 0
