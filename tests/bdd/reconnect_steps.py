"""Steps about outages and endings: what breaks and comes back, what is known afterwards, what an end leaves behind."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from decimal import Decimal as D

from pytest_bdd import given, parsers, then, when

from ibkr_service.core import events as ev
from ibkr_service.core.errors import Refused
from ibkr_service.core.intent import Intent
from ibkr_service.desk import Desk
from ibkr_service.rehearsal.world import World
from ibkr_service.sim import orders as theirs
from ibkr_service.supervisor import StrategySpec
from tests.bdd.order_steps import AAPL, mid, the_order
from tests.bdd.stage import Diary, Story, read_journal

MINUTE_S = 60.0


def their_order(story: Story) -> theirs.Order:
    """Return the gateway's own view of the only order."""
    (order,) = story.world.gateway.exchange.orders.values()
    return order


# --- what breaks, and comes back -------------------------------------------------------------------------------------


def gone(story: Story) -> None:
    """The gateway hangs up, and nobody listens any more."""

    def go(world: World) -> None:
        world.faults.refuse()
        world.faults.drop()

    story.do(go)


@when(parsers.parse("the gateway restarts, and is away for {minutes:d} minutes"))
def restarts(story: Story, minutes: int) -> None:
    gone(story)
    story.advance(minutes * MINUTE_S)
    story.run(story.world.faults.accept())


@when(parsers.parse("the network says nothing any more for {minutes:d} minute"))
def says_nothing(story: Story, minutes: int) -> None:
    story.do(lambda world: world.faults.stall())
    story.advance(minutes * MINUTE_S)
    story.do(lambda world: world.faults.resume())


@when(parsers.parse("Interactive Brokers is away for {seconds:d} seconds, and forgets the subscriptions"))
def away(story: Story, seconds: int) -> None:
    story.do(lambda world: world.faults.cut())
    story.advance(seconds)
    story.do(lambda world: world.faults.restore(data_kept=False))


@when(parsers.parse("the data farm is down for {seconds:d} seconds"))
def farm(story: Story, seconds: int) -> None:
    story.do(lambda world: world.faults.farm_down())
    story.advance(seconds)
    story.do(lambda world: world.faults.farm_up())


def away_while(story: Story, act: Callable[[], object], seconds: float) -> None:
    """Break the line, let something happen, and let it come back."""
    gone(story)
    story.advance(1.0)
    story.do(lambda _world: act())
    story.advance(seconds)
    story.run(story.world.faults.accept())


@when(parsers.parse("the line breaks, the order fills, and the line is back after {seconds:d} seconds"))
def fills_while_away(story: Story, seconds: int) -> None:
    away_while(story, lambda: story.world.faults.fill(their_order(story)), seconds)


@when(parsers.parse("the line breaks, the strategy cancels, and the line is back after {seconds:d} seconds"))
def cancels_while_away(story: Story, seconds: int) -> None:
    ref = the_order(story).ref
    away_while(story, lambda: story.trader.desk.cancel(ref), seconds)


@when(parsers.parse("the gateway restarts with order ids that are {count:d} too low"))
def ids_back(story: Story, count: int) -> None:
    story.do(lambda world: world.faults.roll_back_ids(count))
    story.do(lambda world: world.faults.drop())
    story.advance(1.0)


@when(parsers.parse("a strategy buys {count:d} AAPL at most {distance:d} below the market, too"))
def buys_too(story: Story, count: int, distance: int) -> None:
    story.submit(Intent.buy(AAPL, count, limit=mid(story) - distance))
    story.advance(2.0)


@given("the gateway swallows the next order")
def swallows(story: Story) -> None:
    story.do(lambda world: world.faults.ignore("placeOrder", times=1))


@when("the process is killed and started again")
def killed(story: Story) -> None:
    story.run(story.world.kill())
    story.advance(5.0)
    story.do(lambda world: world.start_service())


# --- what is known afterwards ----------------------------------------------------------------------------------------


@then(parsers.re(r"(?P<count>\d+) (?P<unit>second|minute)s? pass(es)? afterwards$"))
def passes_afterwards(story: Story, count: str, unit: str) -> None:
    story.advance(int(count) * (MINUTE_S if unit == "minute" else 1.0))


def incident(story: Story) -> ev.IncidentClosed:
    """Return the only incident that is over."""
    (found,) = story.world.of(ev.IncidentClosed)
    return found


@then(parsers.parse("{count:d} incident is over, and none is open"))
def over(story: Story, count: int) -> None:
    opened = [fact.number for fact in story.world.of(ev.IncidentOpened)]
    assert opened == [fact.number for fact in story.world.of(ev.IncidentClosed)] == list(range(1, count + 1))
    assert story.world.app.book.incident is None


@then(parsers.parse('its cause is that "{words}"'))
def cause_is(story: Story, words: str) -> None:
    assert words in incident(story).cause


@then(parsers.parse("the stream of {name} had a gap of {least:d} to {most:d} minutes"))
def had_gap(story: Story, name: str, least: int, most: int) -> None:
    (gap,) = [stream for stream in incident(story).streams if stream.instrument == name]
    assert least * MINUTE_S <= (gap.until - gap.since).total_seconds() <= most * MINUTE_S


@then(parsers.parse("it was detected within {seconds:d} seconds by the default settings"))
def detected(story: Story, seconds: int) -> None:
    assert 0 < incident(story).detected_after_s <= seconds


@then(parsers.parse("new quotes of {name} arrive"))
def quotes_arrive(story: Story, name: str) -> None:
    desk = story.trader.desk
    before = desk.book.quotes[AAPL]
    story.advance(30.0)
    assert name == str(AAPL)
    assert desk.book.quotes[AAPL].mono_s > before.mono_s
    assert story.do(lambda _world: desk.why_unusable(AAPL)) is None


@then("it was filled once, and the fill was recovered")
def recovered(story: Story) -> None:
    (fill,) = story.world.of(ev.Fill)
    assert fill.recovered
    assert fill.quantity == the_order(story).filled


@then(parsers.parse("the gateway holds both orders, for {one:d} and for {other:d}"))
def holds_both(story: Story, one: int, other: int) -> None:
    assert sorted(order.ticket.quantity for order in story.world.gateway.open_orders) == sorted([D(one), D(other)])
    ids = [order.order_id for order in story.world.app.book.orders.values()]
    assert len(set(ids)) == 2


@then("the log has an error that says so")
def error_says_so(story: Story, diary: Diary) -> None:
    (line,) = diary.lines(event="order", level="error", state="UNKNOWN")
    assert line["ref"] == the_order(story).ref


# --- endings ---------------------------------------------------------------------------------------------------------


@given("open orders are cancelled at the end")
def cancelled_at_the_end(story: Story) -> None:
    begin = story.begin

    def began(**session: object) -> None:
        begin(**session)
        story.world.app.config = replace(story.world.app.config, open_orders_at_shutdown="cancel")

    story.begin = began  # type: ignore[method-assign]  # a setting that a world does not have


@given("a strategy that buys 10 AAPL when it is told to end", target_fixture="refusals")
def buys_at_the_end(story: Story) -> list[Refused]:
    refusals: list[Refused] = []

    async def late(desk: Desk) -> None:
        desk.watch(AAPL)
        try:
            await asyncio.Event().wait()
        finally:
            try:
                desk.submit(Intent.buy(AAPL, 10))
            except Refused as exc:
                refusals.append(exc)

    story.config.strategies.append(StrategySpec("late", late))
    return refusals


@given("it knows the price of AAPL")
def knows_price(story: Story) -> None:
    mid(story)


@then("it was refused because the service is shutting down")
def refused_at_the_end(refusals: list[Refused]) -> None:
    assert [refusal.limit for refusal in refusals] == ["shutdown"]


@given("a strategy that swallows its cancellation")
def swallows_cancellation(story: Story) -> None:
    async def stubborn(desk: Desk) -> None:
        del desk
        while True:
            try:
                await asyncio.sleep(3600.0)
            except asyncio.CancelledError:
                continue  # what a bare `except:` in a user's code does

    story.config.strategies.append(StrategySpec("stubborn", stubborn))


@then(parsers.parse("the service has ended within {seconds:d} seconds"))
def ended_within(story: Story, seconds: int) -> None:
    stopped = story.world.of(ev.ServiceStopped)
    assert len(stopped) == 1
    assert story.exit_code is not None
    assert story.loop.time() <= story.asked_to_stop_s + seconds


@when("the order fills while nobody is there")
def fills_alone(story: Story) -> None:
    story.do(lambda world: world.faults.fill(their_order(story)))
    story.advance(5.0)


@when("the service is started again")
def started_again(story: Story) -> None:
    story.do(lambda world: world.start_service())


@then("the last fact of the journal is that the service stopped")
def last_fact(story: Story) -> None:
    assert read_journal(story.config.folder / "journal.sqlite")[-1]["kind"] == "ServiceStopped"


@then("no incident was told")
def no_incident(story: Story) -> None:
    assert story.world.of(ev.IncidentOpened) == []
