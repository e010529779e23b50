"""Steps about option chains: what a strategy asks for, what it gets, what it costs the gateway."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace

import pytest
from pytest_bdd import given, parsers, then, when

from ibkr_service.core.chain import GREEKS, OptionChain
from ibkr_service.core.errors import ServiceError
from ibkr_service.core.instrument import AnyInstrument, Future, Index, Stock
from ibkr_service.rehearsal.world import EPOCH, World
from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.marketdata import lines_used
from ibkr_service.sim.messages import Request
from tests.bdd.stage import Diary, Story

SAMPLE_S = 0.02
QUOTE = ("bid", "ask", "last", "bid_size", "ask_size", "last_size", "volume", "open_interest")
SOURCES = {"from the broker": False, "computed by the service": True}
UNDERLYINGS: dict[str, AnyInstrument] = {"SPX": Index("SPX", "CBOE"), "ES 202612": Future("ES", "202612", "CME")}
SECONDS = r"(?P<deadline>\d+) seconds?"
ASKS = r"the strategy asks for the chain of (?P<name>[\w ]+?)"
WITH_EXPIRIES = ASKS + r" with (?P<expiries>\d+) expir(y|ies) and (?P<strikes>\d+) strikes?"
OF_DATE = ASKS + r" of (?P<date>\d{8})( in the class (?P<trading_class>\w+))? with (?P<strikes>\d+) strikes"


@dataclass
class Asked:
    """What was asked for, and what came of it."""

    chain: OptionChain | None = None
    failure: ServiceError | None = None
    took_s: float = 0.0
    lines_max: int = 0

    @property
    def whole(self) -> OptionChain:
        """The chain; there must be one."""
        assert self.chain is not None, f"there was no chain but {self.failure!r}"
        return self.chain


@pytest.fixture
def asked() -> Asked:
    """The story's chain."""
    return Asked()


# --- what is given ---------------------------------------------------------------------------------------------------


@given("a gateway that sends no greeks")
def _no_greeks(story: Story) -> None:
    """As TWS does where it lacks the underlying's price."""
    story.before.append(lambda world: world.faults.lose("tickOptionComputation"))


@given("a gateway without permission for market data")
def _no_permission(story: Story) -> None:
    """354 for everything."""
    story.config.gateway = GatewayConfig(started_at=EPOCH, data_permission="none")


@given("a gateway that sends no quotes of options")
def _silent_options(story: Story) -> None:
    """The subscription is accepted, and nothing follows."""

    def silence(world: World) -> None:
        answer = world.gateway.dispatch

        def listen(session: object, values: tuple[str, ...]) -> None:
            if not (int(values[0]) == Request.MKT_DATA and values[5] == "OPT"):
                answer(session, values)  # type: ignore[arg-type]

        world.gateway.dispatch = listen  # type: ignore[assignment, method-assign]

    story.before.append(silence)


@given("a gateway that takes its time")
def _slow(story: Story) -> None:
    """150 ms for an answer, half a second to two for greeks."""
    story.config.gateway = GatewayConfig(started_at=EPOCH, latency={"*": (0.15, 0.15)}, greeks_delay_s=(0.5, 2.0))


@given(parsers.parse("an account with {count:d} market-data lines"))
def _few_lines(story: Story, count: int) -> None:
    """Both sides know it."""
    story.config.gateway = replace(story.config.gateway, market_data_lines_max=count)
    story.session["market_data_lines"] = count


# --- what is asked ---------------------------------------------------------------------------------------------------


def ask(story: Story, asked: Asked, name: str, drop_after_s: float | None = None, **wanted: object) -> None:
    """Ask at the trader's desk, looking at the gateway's lines all the while."""
    desk, underlying = story.trader.desk, UNDERLYINGS.get(name, Stock(name))

    async def look() -> None:
        while True:
            asked.lines_max = max(asked.lines_max, lines_used(story.world.gateway))
            await asyncio.sleep(SAMPLE_S)

    async def happen() -> None:
        loop = asyncio.get_running_loop()
        looking, began_s = loop.create_task(look()), loop.time()
        if drop_after_s is not None:
            loop.call_later(drop_after_s, story.world.faults.drop)
        try:
            asked.chain = await desk.option_chain(underlying, **wanted)  # type: ignore[arg-type]
        except ServiceError as exc:
            asked.failure = exc
        finally:
            looking.cancel()
        asked.took_s = loop.time() - began_s

    story.run(happen())


@when(parsers.re(WITH_EXPIRIES + "$"))
def _ask(story: Story, asked: Asked, name: str, expiries: str, strikes: str) -> None:
    """The next expiries, strikes around the money."""
    ask(story, asked, name, expiries=int(expiries), strikes=int(strikes))


@when(parsers.re(WITH_EXPIRIES + ", within " + SECONDS + "$"))
def _ask_within(story: Story, asked: Asked, name: str, expiries: str, strikes: str, deadline: str) -> None:
    """The same with a deadline."""
    ask(story, asked, name, expiries=int(expiries), strikes=int(strikes), deadline_s=float(deadline))


@when(parsers.re(WITH_EXPIRIES + ", and the connection breaks after " + SECONDS + "$"))
def _ask_and_break(story: Story, asked: Asked, name: str, expiries: str, strikes: str, deadline: str) -> None:
    """The same with a misfortune."""
    ask(story, asked, name, float(deadline), expiries=int(expiries), strikes=int(strikes))


@when(parsers.re(OF_DATE + "$"))
def _ask_of_date(story: Story, asked: Asked, name: str, date: str, trading_class: str | None, strikes: str) -> None:
    """One date, by name."""
    ask(story, asked, name, expiries=[date], strikes=int(strikes), trading_class=trading_class or None)


# --- what came of it -------------------------------------------------------------------------------------------------


@then(parsers.parse("the chain is complete, with {calls:d} calls and {puts:d} puts"))
def _is_complete(asked: Asked, calls: int, puts: int) -> None:
    """Nothing is missing."""
    chain = asked.whole
    assert chain.missing == ()
    assert (len(chain.calls), len(chain.puts)) == (calls, puts)


@then("each option has bid, ask, last, sizes, volume and open interest")
def _has_quotes(asked: Asked) -> None:
    """Prices that are prices."""
    for row in asked.whole.rows:
        assert all(getattr(row, name) is not None for name in QUOTE)
        assert 0 < row.bid < row.ask


@then(parsers.parse("each option has implied volatility, delta, gamma, theta, vega and rho, {source}"))
def _has_greeks(asked: Asked, source: str) -> None:
    """All of them, and whose they are."""
    for row in asked.whole.rows:
        assert all(getattr(row.greeks, name) is not None for name in (*GREEKS, "rho"))
        assert row.greeks.computed == SOURCES[source]


@then("calls have positive deltas and puts negative ones")
def _deltas(asked: Asked) -> None:
    """As they must."""
    assert all(row.delta > 0 for row in asked.whole.calls)
    assert all(row.delta < 0 for row in asked.whole.puts)


@then("the gateway was asked for contracts once per expiry")
def _asked_once(story: Story, asked: Asked) -> None:
    """And once for the underlying."""
    assert story.asked(Request.CONTRACT_DETAILS) == len(asked.whole.slices) + 1
    assert story.asked(Request.SEC_DEF_OPT_PARAMS) == 1


@then("no market-data line is left")
def _no_line_left(story: Story) -> None:
    """Neither with us nor at the gateway, once it has read all."""
    story.advance(10)
    assert not list(story.world.app.session.lines)
    assert lines_used(story.world.gateway) == 0


@then(parsers.parse("the price of the underlying is near to {price}"))
def _near(asked: Asked, price: str) -> None:
    """Within two percent."""
    assert asked.whole.underlying_price == pytest.approx(float(price.replace(",", "")), rel=0.02)


@then(parsers.parse("its contracts have the multiplier {multiplier} and trade at {exchange}"))
def _contracts(asked: Asked, multiplier: str, exchange: str) -> None:
    """Those of the future."""
    assert {(row.option.multiplier, row.option.exchange) for row in asked.whole.rows} == {(multiplier, exchange)}


@then(parsers.parse("it took less than {seconds:d} seconds"))
def _quick(asked: Asked, seconds: int) -> None:
    """Of virtual time."""
    assert asked.took_s < seconds


@then(parsers.parse("it took {seconds:d} seconds"))
def _took(asked: Asked, seconds: int) -> None:
    """Not a moment longer."""
    assert asked.took_s == pytest.approx(seconds, abs=0.1)


@then(parsers.parse("the only strike is the one that is nearest to the price of {name}"))
def _at_the_money(asked: Asked, name: str) -> None:
    """Strikes are 2.50 apart."""
    chain = asked.whole
    assert chain.underlying.symbol == name
    (strike,) = {row.option.strike for row in chain.rows}
    assert abs(strike - chain.underlying_price) <= 1.25 + 0.1  # the price has moved a little since


@then(parsers.parse("the deltas of its call and its put are near to {call:g} and {put:g}"))
def _near_half(asked: Asked, call: float, put: float) -> None:
    """At the money they are."""
    chain = asked.whole
    assert chain.calls[0].delta == pytest.approx(call, abs=0.15)
    assert chain.puts[0].delta == pytest.approx(put, abs=0.15)


@then(parsers.parse("{below:d} strikes are below the price of {name} and {above:d} above"))
def _balanced(asked: Asked, below: int, above: int, name: str) -> None:
    """Around the money."""
    chain = asked.whole
    assert chain.underlying.symbol == name
    strikes = {row.option.strike for row in chain.rows}
    assert sum(strike < chain.underlying_price for strike in strikes) == below
    assert sum(strike > chain.underlying_price for strike in strikes) == above


@then(parsers.parse("the {right} whose delta is nearest to {delta:g} is {where} the money"))
def _by_delta(asked: Asked, right: str, delta: float, where: str) -> None:
    """And its delta is near."""
    row = asked.whole.nearest_delta(delta)
    assert row.option.right == right[0].upper()
    assert row.delta == pytest.approx(delta, abs=0.1)
    assert (row.option.strike > asked.whole.underlying_price) == (where == "above")


@then("the chain has these slices")
def _slices(asked: Asked, datatable: list[list[str]]) -> None:
    """With their hour of settlement, on the slice and on each row."""
    chain = asked.whole
    assert chain.complete
    found = [[s.expiry, s.trading_class, s.settlement, str(len(chain.of(s)))] for s in chain.slices]
    assert found == datatable[1:]
    assert all(row.settlement == one.settlement for one in chain.slices for row in chain.of(one))
    assert len(chain.rows) == sum(int(row[3]) for row in datatable[1:])


@then("no contract is in both")
def _disjoint(asked: Asked) -> None:
    """By the broker's ids."""
    first, second = ({row.con_id for row in asked.whole.of(one)} for one in asked.whole.slices)
    assert not first & second


@then(parsers.parse('that fails with {kind}, which says "{text}"'))
def _fails(asked: Asked, kind: str, text: str) -> None:
    """A typed error."""
    assert type(asked.failure).__name__ == kind
    assert text in str(asked.failure)


@then(parsers.parse("the log has one error about the chain of {name}, {kind}"))
def _logged(diary: Diary, name: str, kind: str) -> None:
    """Once, and clearly."""
    diary.only(level="error", event="no option chain", underlying=name, kind=kind)


@then(parsers.parse("the chain is not complete: all {count:d} options miss quote and greeks"))
def _partial(asked: Asked, count: int) -> None:
    """Each by its name."""
    chain = asked.whole
    assert not chain.complete
    assert [row.missing for row in chain.rows] == [("quote", "greeks")] * count
    assert chain.missing == tuple(f"{row.option}: quote, greeks" for row in chain.rows)


@then(parsers.parse("the log has one warning that {count:d} are missing in the chain of {name}"))
def _warned(diary: Diary, count: int, name: str) -> None:
    """Once."""
    diary.only(level="warning", event="option chain is not complete", underlying=name, missing=count)


@then(parsers.parse("the gateway never served more than {count:d} lines"))
def _within(asked: Asked, count: int) -> None:
    """Although there were many more contracts."""
    assert count // 2 < asked.lines_max <= count
