"""Steps that all features share: the service begins, time passes, the service ends."""

from __future__ import annotations

from pytest_bdd import given, parsers, then, when

from ibkr_service.core.events import LinkChanged
from ibkr_service.core.instrument import parse
from ibkr_service.rehearsal.world import EPOCH
from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.messages import Request
from tests.bdd.stage import Story

UNIT_S = {"second": 1.0, "minute": 60.0, "hour": 3600.0}
READY_WITHIN_S = 5.0
FIRST_QUOTE_WITHIN_S = 10.0

# --- beginnings ------------------------------------------------------------------------------------------------------


@given("the gateway is not running")
def _no_gateway(story: Story) -> None:
    """Nobody listens at the port."""
    story.config.gateway_starts = False


@given(parsers.re(r"a login with the accounts? (?P<names>.+)"))
def _login(story: Story, names: str) -> None:
    """The gateway manages these accounts."""
    story.config.gateway = GatewayConfig(started_at=EPOCH, accounts=tuple(names.split(" and ")))


@given(parsers.parse("the account {account} is chosen"))
def _chosen(story: Story, account: str) -> None:
    """`ibkr.account` names it."""
    story.session["account"] = account


@given("the service is READY")
def _ready(story: Story) -> None:
    """Gateway and service run, and everything is verified."""
    story.raise_curtain()
    story.until_ready(READY_WITHIN_S)


@given(parsers.parse("a strategy watches {name}"))
def _watching(story: Story, name: str) -> None:
    """The trader receives quotes of an instrument."""
    instrument = parse(name)
    story.do(lambda _world: story.trader.desk.watch(instrument))
    story.until(
        lambda: story.trader.desk.quote(instrument) is not None, FIRST_QUOTE_WITHIN_S, f"the first quote of {name}"
    )


@when("the service starts")
def _start(story: Story) -> None:
    """Start it with the settings that the story has named."""
    story.raise_curtain()


@when("the gateway starts")
def _start_gateway(story: Story) -> None:
    """Let the gateway listen from now on."""
    story.start_gateway()


# --- time ------------------------------------------------------------------------------------------------------------


@when(parsers.re(r"(?P<count>\d+) (?P<unit>second|minute|hour)s? pass(es)?$"))
def _pass(story: Story, count: str, unit: str) -> None:
    """Let virtual time pass."""
    story.advance(int(count) * UNIT_S[unit])


# --- misfortunes ------------------------------------------------------------------------------------------------------


@when("the gateway loses Interactive Brokers")
def _cut(story: Story) -> None:
    """1100: the gateway is there, but nothing behind it."""
    story.do(lambda world: world.faults.cut())


@when("the gateway answers all questions again")
def _healed(story: Story) -> None:
    """What the gateway says is right from now on."""
    story.do(lambda world: world.faults.heal())


# --- how the line is -------------------------------------------------------------------------------------------------


@then(parsers.re(r"the service becomes READY within (?P<count>\d+) (?P<unit>second|minute|hour)s?$"))
def _becomes_ready(story: Story, count: str, unit: str) -> None:
    """READY is reached in time."""
    story.until_ready(int(count) * UNIT_S[unit])


@then(parsers.parse("the link is {state}"))
def _link_is(story: Story, state: str) -> None:
    """The book says so."""
    assert story.world.app.book.link.name == state


@then("the service was never READY")
def _never_ready(story: Story) -> None:
    """No strategy began, no order could leave."""
    assert "READY" not in link_states(story)
    assert not story.trader.was_started


def link_states(story: Story) -> list[str]:
    """Return the states that the link went through, as recorded."""
    return [change.after.name for change in story.world.of(LinkChanged)]


# --- endings ---------------------------------------------------------------------------------------------------------


@when("the operator stops the service")
def _stop(story: Story) -> None:
    """Ask for an orderly end, as SIGTERM does."""
    story.asked_to_stop_s = story.loop.time()
    story.exit_code = story.run(story.world.stop_service())


@then(parsers.parse("the service ends by itself with exit code {code:d}"))
def _ends(story: Story, code: int) -> None:
    """Nobody asked it to."""
    story.await_end()
    assert story.exit_code == code


@then(parsers.parse("the service has ended with exit code {code:d}"))
def _has_ended(story: Story, code: int) -> None:
    """It was asked to."""
    assert story.exit_code == code


# --- what the gateway was asked --------------------------------------------------------------------------------------


@then(parsers.re(r"the gateway has seen (?P<count>\d+) orders?$"))
def _orders_seen(story: Story, count: str) -> None:
    """So many requests to place an order arrived, whatever became of them."""
    assert story.asked(Request.PLACE_ORDER) == int(count)
