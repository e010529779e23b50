"""Steps about orders: what a strategy wishes, what the broker makes of it, what is told."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal as D
from typing import Literal

import pytest
from pytest_bdd import given, parsers, then, when

from ibkr_service.core import events as ev
from ibkr_service.core.bracket import Bracket, BracketRefs
from ibkr_service.core.chain import OptionChain
from ibkr_service.core.errors import InvalidIntent, Refused
from ibkr_service.core.instrument import AnyOption, Stock
from ibkr_service.core.intent import Intent
from ibkr_service.core.orders import Order, OrderState
from ibkr_service.core.spreads import Spread, bear_put, bull_call
from ibkr_service.desk import Desk
from ibkr_service.ordering import Ordering
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


class Script(Ordering):
    """The script's words for orders, at the desk of the story."""

    def __init__(self, story: Story) -> None:
        self.story = story

    @property
    def desk(self) -> Desk:
        return self.story.trader.desk


@given("the option chain of AAPL", target_fixture="chain")
def option_chain(story: Story) -> OptionChain:
    return story.run(story.trader.desk.option_chain(AAPL, expiries=1, strikes=4))


def two(chain: OptionChain, right: str) -> list[AnyOption]:
    """The two strikes in the middle of a chain."""
    rows = [row.option for row in chain.rows if row.option.right == right]
    return rows[len(rows) // 2 - 1 : len(rows) // 2 + 1]


@when(
    parsers.parse('a script places "{side}" {count:d} bull call spread with a limit {more} above the market'),
    target_fixture="spread",
)
def places_limit(story: Story, chain: OptionChain, side: Literal["LONG"], count: int, more: str) -> Spread:
    spread, desk = bull_call(*two(chain, "C")), story.trader.desk
    for leg in spread.legs:
        story.do(lambda _world, leg=leg: desk.watch(leg.instrument))
    story.until(lambda: desk.net_quote(spread) is not None, WITHIN_S, "a net quote")
    price = float(story.do(lambda _world: desk.net_quote(spread)).ask + D(more))
    ref = story.run(Script(story).place_order("AAPL", side, count, spread, "LIMIT", price))
    story.run(desk.finished(ref))
    story.advance(1.0)
    return spread


@when(parsers.parse('a script places "{side}" {count:d} bear put spreads at the market'), target_fixture="spread")
def places_market(story: Story, chain: OptionChain, side: Literal["LONG"], count: int) -> Spread:
    spread = bear_put(*two(chain, "P"))
    ref = story.run(Script(story).place_order("AAPL", side, count, spread))
    story.run(story.trader.desk.finished(ref))
    story.advance(1.0)
    return spread


@when("a script asks for a credit of 2.85 to go LONG a bull call spread")
def asks_credit(story: Story, chain: OptionChain) -> None:
    spread = bull_call(*two(chain, "C"))
    with pytest.raises(InvalidIntent) as caught:
        story.run(Script(story).place_order(spread, "LONG", 1, order_type="LIMIT", credit="2.85"))
    story.refusal = caught.value


@then(parsers.parse('it is refused because "{words}"'))
def refused_because(story: Story, words: str) -> None:
    assert words in str(story.refusal)


@then("the log says that it pays at most that")
def pays_at_most(story: Story, diary: Diary) -> None:
    price = the_order(story).intent.limit_price
    assert f"pay at most {price}" in diary.only(event="order submitted")["intent"]


@then(parsers.re(r"the legs of (?P<count>\d+) spreads? are held"))
def legs_held(story: Story, spread: Spread, count: str) -> None:
    book = story.trader.desk.book
    assert {leg.instrument: book.position(leg.instrument) for leg in spread.legs} == spread.positions(int(count))


@when(parsers.parse("a strategy buys {count:d} AAPL in a bracket"), target_fixture="bracket")
def buys_bracket(story: Story, count: int) -> BracketRefs:
    price, desk = mid(story), story.trader.desk
    bracket = Bracket.around(Intent.buy(AAPL, count, limit=price + 2), take_profit=price + 7, stop_loss=price - 5)
    refs = story.do(lambda _world: desk.submit_bracket(bracket))
    story.run(desk.finished(refs.entry))
    story.advance(1.0)
    return refs


@when("the take profit is reached")
def reached(story: Story, bracket: BracketRefs) -> None:
    price, desk = mid(story), story.trader.desk
    assert bracket.take_profit is not None
    story.do(lambda _world: desk.modify(bracket.take_profit, limit_price=price - 1))
    story.run(desk.finished(bracket.take_profit))
    story.advance(1.0)


@then("entry and take profit are FILLED, and the stop loss is CANCELLED")
def one_exit(story: Story, bracket: BracketRefs) -> None:
    orders = story.trader.desk.book.orders
    ends = [orders[ref].state for ref in (bracket.entry, bracket.take_profit, bracket.stop_loss) if ref]
    assert ends == [OrderState.FILLED, OrderState.FILLED, OrderState.CANCELLED]


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
