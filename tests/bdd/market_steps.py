"""Steps about market data: what a strategy asks for and watches, what the gateway serves, what is not to be trusted."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from decimal import Decimal as D

import pytest
from pytest_bdd import given, parsers, then, when

from ibkr_service.core import events as ev
from ibkr_service.core.errors import Refused, ServiceError
from ibkr_service.core.instrument import AnyInstrument, parse
from ibkr_service.core.orders import Intent
from ibkr_service.sim.marketdata import lines_used
from ibkr_service.sim.messages import Request
from ibkr_service.supervisor import StrategySpec
from tests.bdd.stage import Diary, Story, Trader

SETTLE_S = 2.0
TIMES = {"once": 1, "twice": 2}
PERMISSIONS = {"live": "live", "delayed": "delayed", "no": "none"}
KINDS = {"the gap": ev.Gap, "the refusal": ev.SubscriptionFailed, "that it waits": ev.SubscriptionWaiting}
MARKS = (ev.Gap, ev.Resumed, ev.SubscriptionFailed, ev.SubscriptionWaiting)


@dataclass
class Market:
    """What a story has asked of the market, and who else asks."""

    quote: ev.Tick | None = None
    error: ServiceError | None = None
    asked_at_s: float = 0.0
    watched: list[AnyInstrument] = field(default_factory=list)
    second: Trader = field(default_factory=Trader)
    seen: int = 0  # how many ticks the second strategy had read


@pytest.fixture
def market() -> Market:
    """Return what this story has asked of the market."""
    return Market()


# --- what is given ---------------------------------------------------------------------------------------------------


@given(parsers.parse("a login with {permission} market data"))
def _permission(story: Story, permission: str) -> None:
    """The login may see so much of stocks."""
    story.config.gateway = replace(story.config.gateway, data_permission=PERMISSIONS[permission])


@given("a login with delayed market data, and the service content with it")
def _delayed(story: Story) -> None:
    """`ibkr.market_data_type` is delayed."""
    story.config.gateway = replace(story.config.gateway, data_permission="delayed")
    story.session["market_data_type"] = 3


@given(parsers.re(r"a login with (?P<count>\d+) market-data lines?"))
def _lines(story: Story, count: str) -> None:
    """The gateway grants so many; the service believes that there are a hundred."""
    story.config.gateway = replace(story.config.gateway, market_data_lines_max=int(count))


@given("a second strategy")
def _second(story: Story, market: Market) -> None:
    """Another one in the same service."""
    story.config.strategies.append(StrategySpec("second", market.second))


# --- what strategies do ----------------------------------------------------------------------------------------------


@when(parsers.parse("a strategy asks for a quote of {name}"))
def _asks(story: Story, market: Market, name: str) -> None:
    """`desk.first_quote`, with time for the day's figures; a failure is an answer too."""
    market.quote = market.error = None
    try:
        market.quote = story.run(story.trader.desk.first_quote(parse(name), settle_s=SETTLE_S))
    except ServiceError as exc:
        market.error = exc
    market.asked_at_s = story.loop.time()


@when(parsers.re(r"a strategy begins to watch (?P<names>.+)$"))
def _watches(story: Story, market: Market, names: str) -> None:
    """`desk.watch`, all of them in one moment."""
    market.watched = [parse(name) for name in names.replace(" and ", ", ").split(", ")]
    story.do(lambda _world: [story.trader.desk.watch(instrument) for instrument in market.watched])


@when(parsers.parse("the second strategy begins to watch {name}"))
def _second_watches(story: Story, market: Market, name: str) -> None:
    """At its own desk."""
    story.do(lambda _world: market.second.desk.watch(parse(name)))


@when(parsers.parse("the {which} strategy stops watching {name}"))
def _stops(story: Story, market: Market, which: str, name: str) -> None:
    """`desk.unwatch`."""
    trader = market.second if which == "second" else story.trader
    market.seen = len(market.second.of(ev.Tick))
    story.do(lambda _world: trader.desk.unwatch(parse(name)))


@when("the strategy stops watching one that has a usable quote")
def _stops_one(story: Story, market: Market) -> None:
    """Its line is free."""
    first = usable(story, market)[0]
    story.do(lambda _world: story.trader.desk.unwatch(first))


@when("the strategy learns that there is no second line")
def _learns(story: Story) -> None:
    """It asks for one in vain; from here on the service knows."""
    story.do(lambda _world: story.trader.desk.watch(parse("IBM")))
    story.advance(5)
    story.do(lambda _world: story.trader.desk.unwatch(parse("IBM")))
    assert story.world.app.session.lines.cap == 1


# --- misfortunes -----------------------------------------------------------------------------------------------------


@when("another session of the user takes the market data")
def _compete(story: Story) -> None:
    """10197."""
    story.do(lambda world: world.faults.compete())


@when("the other session ends")
def _stop_competing(story: Story) -> None:
    """Nobody tells us."""
    story.do(lambda world: world.faults.stop_competing())


@when("the data farm of stocks goes down")
def _farm_down(story: Story) -> None:
    """2103, and silence."""
    story.do(lambda world: world.faults.farm_down())


@when("the data farm of stocks is back")
def _farm_up(story: Story) -> None:
    """2104, and ticks."""
    story.do(lambda world: world.faults.farm_up())


@when("the connection is lost")
def _lost(story: Story) -> None:
    """The socket is reset; the service comes back by itself."""
    story.do(lambda world: world.faults.drop())


@when(parsers.parse("Interactive Brokers is away for a minute, and the data is {fate}"))
def _away(story: Story, fate: str) -> None:
    """1100, then 1102 or 1101."""
    story.do(lambda world: world.faults.cut())
    story.advance(60)
    story.do(lambda world: world.faults.restore(data_kept=fate == "kept"))


# --- what a quote is -------------------------------------------------------------------------------------------------


def quoted(market: Market) -> ev.Tick:
    """Return the quote that was asked for."""
    assert market.quote is not None, f"there is a quote, and not {market.error!r}"
    return market.quote


def why_unusable(story: Story, instrument: AnyInstrument, trader: Trader | None = None) -> str | None:
    """Return why there is no quote that may price an order; None if there is one."""
    desk = (trader or story.trader).desk
    why, quote = story.do(lambda _world: (desk.why_unusable(instrument), desk.quote(instrument)))
    assert (why is None) == (quote is not None)
    return why


def usable(story: Story, market: Market) -> list[AnyInstrument]:
    """Return what is watched and has a quote that may price an order."""
    return [instrument for instrument in market.watched if why_unusable(story, instrument) is None]


def third(story: Story) -> AnyInstrument:
    """Return the instrument that waits for a line."""
    (waiting,) = story.trader.of(ev.SubscriptionWaiting)
    return waiting.instrument


@then("the quote has a bid, an ask and a last price")
def _complete(market: Market) -> None:
    """And they fit together."""
    quote = quoted(market)
    assert quote.bid is not None
    assert quote.ask is not None
    assert quote.last is not None
    assert 0 < quote.bid < quote.ask
    assert abs(quote.last - quote.bid) < quote.bid / 10


@then("it has the day's volume, high, low and close")
def _figures(market: Market) -> None:
    """None of them is missing, none is 0 in disguise."""
    quote = quoted(market)
    assert quote.volume is not None
    assert quote.high is not None
    assert quote.low is not None
    assert quote.close is not None
    assert 0 < quote.low <= quote.high
    assert quote.close > 0


@then("it is live, and not a second old")
def _live(market: Market) -> None:
    """By the broker's word, and by our clock."""
    quote = quoted(market)
    assert quote.data_type == "live"
    assert 0 <= market.asked_at_s - quote.mono_s < 1


@then("it is delayed")
def _is_delayed(market: Market) -> None:
    """By the broker's word."""
    assert quoted(market).data_type == "delayed"


@then(parsers.parse("the quote of {name} is usable"))
def _usable(story: Story, name: str) -> None:
    """It may price an order."""
    assert why_unusable(story, parse(name)) is None


@then(parsers.re(r'the quote of (?P<name>\S+) is unusable, since (it|there) is "(?P<why>.+)"'))
def _unusable(story: Story, name: str, why: str) -> None:
    """And the desk says why."""
    assert why in (why_unusable(story, parse(name)) or "it is usable")


@then(parsers.re(r'a market order for (?P<name>\S+) is refused, since (it|there) is "(?P<why>.+)"'))
def _refused(story: Story, name: str, why: str) -> None:
    """Nothing leaves."""
    with pytest.raises(Refused, match=why):
        story.submit(Intent(instrument=parse(name), action="BUY", quantity=D(1)))


@then(parsers.parse("it is told {error}, with the code {code:d}"))
def _told(market: Market, error: str, code: int) -> None:
    """A typed error, and the broker's code in it."""
    assert type(market.error).__name__ == error
    assert str(code) in str(market.error)


# --- what strategies read --------------------------------------------------------------------------------------------


@then(parsers.parse("it has read once that there are no data of {name}, with the code {code:d}"))
def _read_failure(story: Story, name: str, code: int) -> None:
    """However often the service has asked again."""
    failures = [(event.instrument, event.code) for event in story.trader.of(ev.SubscriptionFailed)]
    assert failures == [(parse(name), code)]
    assert story.trader.of(ev.Tick) == []


@then(parsers.parse("the log has one error, about {name}, with the code {code:d}"))
def _logged(diary: Diary, name: str, code: int) -> None:
    """A person sees it once."""
    line = diary.only(level="error")
    assert (line["event"], line["instrument"], line["code"]) == ("no market data", name, code)


@then("2 of the 3 have a usable quote")
def _two_of_three(story: Story, market: Market) -> None:
    """Each of them all the time: nobody lost a line to an equal."""
    assert len(usable(story, market)) == 2
    assert story.trader.of(ev.Gap) == []


@then("the third has a usable quote")
def _third_usable(story: Story) -> None:
    """The free line is its own."""
    assert why_unusable(story, third(story)) is None


@then(parsers.parse("it has read once that the third waits for one of {count:d} lines"))
def _waits(story: Story, market: Market, count: int) -> None:
    """And that one is not among those that have quotes."""
    (waiting,) = story.trader.of(ev.SubscriptionWaiting)
    assert waiting.lines == count
    assert waiting.instrument not in usable(story, market)


@then(parsers.parse("the log warns once that the third waits for one of {count:d} lines"))
def _waits_in_log(story: Story, diary: Diary, count: int) -> None:
    """A person may buy more."""
    line = diary.only(event="waits for a market-data line")
    assert (line["level"], line["instrument"], line["lines"]) == ("warning", str(third(story)), count)


@then(parsers.re(r"the strategy read (?P<marks>.+), and then new quotes of (?P<name>\S+)$"))
def _marks(story: Story, marks: str, name: str) -> None:
    """In this order, each once; the quotes after them have another epoch than those before."""
    instrument = parse(name)
    events = [event for event in story.trader.of(ev.Tick, *MARKS) if event.instrument == instrument]
    read = [type(event) for event in events if not isinstance(event, ev.Tick)]
    assert read == [KINDS.get(mark, ev.Resumed) for mark in marks.split(", ")]
    ends = [isinstance(event, ev.Resumed) for event in events].index(True)
    begins = [isinstance(event, ev.Gap) for event in events].index(True)
    before, after = events[:begins], events[ends + 1 :]
    assert {event.epoch for event in before} == {0}
    assert {event.epoch for event in after} == {1}
    assert not any(isinstance(event, ev.Tick) for event in events[begins:ends])


@then(parsers.parse("the second strategy has a quote of {name}"))
def _second_has(story: Story, market: Market, name: str) -> None:
    """It did not have to wait for a change."""
    assert why_unusable(story, parse(name), market.second) is None
    assert market.second.of(ev.Tick)


@then(parsers.parse("the second strategy read new quotes of {name}"))
def _second_reads_on(market: Market, name: str) -> None:
    """The other's leaving took nothing from it."""
    new = market.second.of(ev.Tick)[market.seen :]
    assert {tick.instrument for tick in new} == {parse(name)}
    assert market.second.of(ev.Gap) == []


# --- what the gateway serves -----------------------------------------------------------------------------------------


@then(parsers.re(r"the gateway serves (?P<count>\d+) market-data lines?$"))
def _serves(story: Story, count: str) -> None:
    """Nothing is left behind; cancellations have their turn first."""
    story.advance(1)
    assert lines_used(story.world.gateway) == int(count)


@then(parsers.parse("the gateway was asked for quotes {times}"))
def _asked(story: Story, times: str) -> None:
    """So many requests arrived."""
    assert story.asked(Request.MKT_DATA) == TIMES[times]
