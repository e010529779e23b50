"""Steps about limits: what is allowed, what a strategy wants all the same, and what it hears."""

from __future__ import annotations

from datetime import time, timedelta
from decimal import Decimal as D

import msgspec
from pytest_bdd import given, parsers, then, when

from ibkr_service.control import Request
from ibkr_service.core.errors import Refused
from ibkr_service.core.instrument import Stock, parse
from ibkr_service.core.intent import Intent
from ibkr_service.core.restartwindow import RestartWindow
from ibkr_service.operations import Operations
from ibkr_service.rehearsal.world import EPOCH
from tests.bdd.order_steps import mid
from tests.bdd.stage import Story

AAPL = Stock("AAPL")
SETTLED_S = 2.0


def limit(story: Story, **values: object) -> None:
    """Change what the story's world allows."""
    story.config.limits = msgspec.structs.replace(story.config.limits, **values)


@given(parsers.re(r"the limit (?P<name>[a-z_]+) is (?P<value>\S+)"))
def limit_is(story: Story, name: str, value: str) -> None:
    known = getattr(story.config.limits, name)
    if name == "symbols":
        limit(story, symbols=frozenset(value.split(",")))
    elif isinstance(known, float):
        limit(story, **{name: float(value)})
    else:
        limit(story, **{name: int(value) if name.endswith("per_minute") else D(value)})


@given("unlimited losses are not allowed")
def bounded(story: Story) -> None:
    limit(story, allow_unlimited_loss=False)


@given("trading hours are kept")
def kept(story: Story) -> None:
    limit(story, trading_hours="keep")


@given("the gateway is going to restart in a minute")
def restarts(story: Story) -> None:
    at = EPOCH + timedelta(minutes=1)
    window = RestartWindow(start=at.time(), end=time(at.hour, at.minute + 5), timezone="UTC")
    limit(story, restart_windows=(window,))


@given("AAPL has been qualified")
def qualified(story: Story) -> None:
    story.run(story.trader.desk.qualify(AAPL))


@given(parsers.parse("{count:d} AAPL were bought"))
def bought(story: Story, count: int) -> None:
    ref = story.submit(Intent.buy(AAPL, count, limit=mid(story) + 5))
    story.run(story.trader.desk.finished(ref))
    story.advance(SETTLED_S)


@given(parsers.parse("{count:d} AAPL were bought, and the day shows a loss"))
def bought_at_a_loss(story: Story, count: int) -> None:
    bought(story, count)
    book = story.world.app.book
    story.until(lambda: (book.daily_pnl(book.account) or 0) < 0, 30.0, "a loss, the commission at least")


@when(parsers.re(r"a strategy wants to (?P<action>buy|sell) (?P<count>\d+) (?P<name>.+) at (?P<price>\S+)"))
def wants(story: Story, action: str, count: str, name: str, price: str) -> None:
    make = Intent.buy if action == "buy" else Intent.sell
    story.refusal = None
    try:
        story.submit(make(parse(name), count, limit=price))
    except Refused as refusal:
        story.refusal = refusal
    story.advance(0.2)


@when(parsers.parse('the operator says "{verb}"'))
def operator_says(story: Story, verb: str) -> None:
    answer = story.run(Operations(story.world.app).handle(Request(verb, by="anna")))
    assert answer.ok, answer


@then(parsers.parse("{count:d} AAPL are held by the account"))
def held_by_account(story: Story, count: int) -> None:
    assert story.world.app.book.position(AAPL) == count


@then(parsers.parse('it is refused by {name}, which allows "{allowed}", since it asked for "{asked}"'))
def refused_with(story: Story, name: str, allowed: str, asked: str) -> None:
    assert isinstance(story.refusal, Refused)
    assert story.refusal.limit == name
    assert story.refusal.allowed.startswith(allowed)
    assert story.refusal.asked == asked


@then(parsers.re(r"it is refused by (?P<name>[a-z_]+)$"))
def refused_by(story: Story, name: str) -> None:
    assert isinstance(story.refusal, Refused)
    assert story.refusal.limit == name


@then("the refusal names when the market opens")
def names_opening(story: Story) -> None:
    assert isinstance(story.refusal, Refused)
    assert "which begin at 2026-11-23 09:30" in story.refusal.allowed
