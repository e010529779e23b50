"""Option chains by a whole service against the simulated gateway, in virtual time.

Goal: a chain is complete, or says what is missing, at its deadline; slices are never mixed; it costs few messages, no
more lines than there are, and leaves none behind whatever happens. Method: a `World`; an `Ear` at the gateway's door
counts what is asked and lets it refuse or forget single questions.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import ib_insync
import pytest

from ibkr_service.broker import chains
from ibkr_service.broker.listings import AFTER_THE_CLOSE, KEPT_S, settlement_of
from ibkr_service.core import events as ev
from ibkr_service.core.chain import ChainRequest
from ibkr_service.core.errors import BrokerRefused, InvalidIntent, NotReady, RequestTimeout, UnknownInstrument
from ibkr_service.core.instrument import Future, FutureOption, Index, Option, Stock
from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.marketdata import lines_used
from ibkr_service.sim.messages import Request
from ibkr_service.supervisor import StrategySpec
from tests.world import EPOCH, World, WorldConfig

AAPL, SPX, ES = Stock("AAPL"), Index("SPX", "CBOE"), Future("ES", "202612", "CME")
FRIDAY, NEXT, THIRD_FRIDAY = "20261127", "20261204", "20261218"
REALISTIC = GatewayConfig(started_at=EPOCH, latency={"*": (0.15, 0.15)}, greeks_delay_s=(0.5, 2.0))
KIND, EXPIRY, CON_ID = 5, 6, 3  # fields of a question about a contract


class Ear:
    """Hears every question that reaches the gateway; some it refuses, some it forgets, the rest is answered as ever."""

    def __init__(self, world):
        self.heard = []
        self.refuse = lambda _request, _values: None
        self.forget = lambda _request, _values: False
        self.lines_max = 0
        self._answer, self._gateway = world.gateway.dispatch, world.gateway
        world.gateway.dispatch = self

    def __call__(self, session, values):
        request = Request(int(values[0]))
        self.heard.append((request, values))
        error = self.refuse(request, values)
        if error is not None:
            session.error(int(values[2]), *error)
        elif not self.forget(request, values):
            self._answer(session, values)

    def asked(self, request, kind=None):
        """How often, of a kind of contract if that is named."""
        return sum(r is request and kind in {None, v[KIND]} for r, v in self.heard)

    async def watch_lines(self):
        """Look at the gateway's lines all the time."""
        while True:
            self.lines_max = max(self.lines_max, lines_used(self._gateway))
            await asyncio.sleep(0.01)


class Holder:
    """A strategy that lends its desk to the test."""

    def __init__(self):
        self.desk = None

    async def run(self, desk):
        """Read until stopped."""
        self.desk = desk
        async for _ in desk.events():
            pass


class Scene:
    """A service that is READY, its strategy's desk, and an ear at the gateway."""

    def __init__(self, world, desk, ear):
        self.world, self.desk, self.ear = world, desk, ear

    @property
    def now_s(self):
        """Virtual seconds."""
        return asyncio.get_running_loop().time()

    async def chain(self, underlying=AAPL, **wanted):
        """Ask for one; keeps how long it took."""
        began_s = self.now_s
        try:
            return await self.desk.option_chain(underlying, **{"expiries": 1, "strikes": 4, **wanted})
        finally:
            self.took_s = self.now_s - began_s

    async def check_nothing_is_left(self):
        """No line with us; and when the gateway has read all we sent, none there."""
        assert [str(line.instrument) for line in self.world.app.session.lines] == []
        await asyncio.sleep(10)
        assert lines_used(self.world.gateway) == 0


@contextlib.asynccontextmanager
async def scene_in(folder, gateway=None, **session):
    """Begin it."""
    holder = Holder()
    config = WorldConfig(folder=folder, strategies=[StrategySpec("s", holder.run)])
    config.gateway = gateway or config.gateway
    config.session = replace(config.session, **session)
    async with World(config) as world:
        ear = Ear(world)
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
        yield Scene(world, holder.desk, ear)


@pytest.fixture
async def scene(tmp_path):
    """One with a gateway that answers at once."""
    async with scene_in(tmp_path) as scene:
        yield scene


def is_of(kind, request, values):
    """Whether it is a question for market data of a kind of contract."""
    return request is Request.MKT_DATA and values[KIND] == kind


# --- what a chain has ------------------------------------------------------------------------------------------------


async def test_a_row_has_everything(scene):
    """Quotes, sizes, volume, open interest, greeks, the underlying's price, and when."""
    steps = []
    chain = await scene.chain(strikes=4, on_progress=lambda done, of: steps.append((done, of)))
    assert chain.complete
    assert [(r.option.strike, r.option.right) for r in chain.rows] == [
        (strike, right) for strike in (225.0, 227.5, 230.0, 232.5) for right in "CP"
    ]
    for row in chain.rows:
        assert 0 < row.bid < row.ask
        assert row.bid <= row.last <= row.ask
        assert min(row.bid_size, row.ask_size, row.last_size) > 0
        assert None not in (row.volume, row.open_interest, row.close)
        assert row.implied_volatility > 0.1
        assert row.option.right == ("C" if row.delta > 0 else "P")
        assert row.gamma > 0
        assert row.vega > 0
        assert row.theta < 0
        assert (row.rho > 0) == (row.option.right == "C")
        assert not row.greeks.computed
        assert row.underlying_price == pytest.approx(chain.underlying_price, rel=0.01)
        assert row.at >= EPOCH
        assert (row.data_type, row.settlement, row.missing) == ("live", "PM", ())
        assert row.con_id == await scene.desk.qualify(row.option)
    assert steps[-1] == (8, 8)
    await scene.check_nothing_is_left()


async def test_spx_and_spxw_of_one_date_are_kept_apart(scene):
    """One settles at the opening, one at the close: other contracts, and other prices."""
    chain = await scene.chain(SPX, expiries=[THIRD_FRIDAY])
    assert chain.complete
    assert [(s.trading_class, s.settlement) for s in chain.slices] == [("SPX", "AM"), ("SPXW", "PM")]
    morning, evening = (chain.of(one) for one in chain.slices)
    assert [r.option.strike for r in morning] == [r.option.strike for r in evening]
    assert not {r.con_id for r in morning} & {r.con_id for r in evening}
    assert {(r.option.trading_class, r.settlement) for r in morning} == {("", "AM")}
    assert {(r.option.trading_class, r.settlement) for r in evening} == {("SPXW", "PM")}
    assert [r.option.trading_class for r in chain.rows] == [""] * 8 + ["SPXW"] * 8
    # Six and a half hours more of time value.
    assert all(
        one.greeks.option_price < other.greeks.option_price
        for one, other in zip(morning, evening, strict=True)
        if one.option.right == "C"
    )
    only = await scene.chain(SPX, expiries=[THIRD_FRIDAY], trading_class="SPXW")
    assert {r.option.trading_class for r in only.rows} == {"SPXW"}


async def test_options_on_a_future(scene):
    """Each future has its own; their model is Black's."""
    chain = await scene.chain(ES, expiries=2)
    assert chain.complete
    assert [(s.expiry, s.trading_class, s.settlement, s.multiplier) for s in chain.slices] == [
        ("20261130", "EW", "PM", "50"),
        (THIRD_FRIDAY, "ES", "AM", "50"),
    ]
    assert all(isinstance(r.option, FutureOption) and r.option.exchange == "CME" for r in chain.rows)
    assert chain.underlying_price == pytest.approx(5910, rel=0.02)
    for _, call, put in chain.pairs(chain.slices[1]):
        assert call.delta - put.delta == pytest.approx(1, abs=0.01)  # discounted by a month
        assert call.rho < 0  # on a future, both fall
        assert put.rho < 0
    later = await scene.chain(Future("ES", "202703", "CME"), expiries=["20261231"])
    assert later.complete
    assert later.underlying_price > chain.underlying_price


async def test_selection_by_days_by_range_and_by_right(scene):
    """As a trader says it."""
    chain = await scene.chain(expiries=(10, 12), strikes=(220, 230), rights="P")
    assert {r.option.expiry for r in chain.rows} == {NEXT}
    assert [r.option.strike for r in chain.rows] == [220.0, 222.5, 225.0, 227.5, 230.0]
    assert chain.calls == ()
    assert chain.nearest_delta(-0.5).option.strike == 230.0


async def test_a_strike_that_is_not_listed_is_missing_by_name(scene):
    """The others are there; when none is, that is an error."""
    chain = await scene.chain(strikes=[230, 231])
    assert chain.missing == (f"{FRIDAY} AAPL: there is no strike 231",)
    assert len(chain.rows) == 2
    with pytest.raises(InvalidIntent, match="no strike that fits"):
        await scene.chain(strikes=(1, 2))
    await scene.check_nothing_is_left()


@pytest.mark.parametrize(("hour", "first"), [(15, "20261123"), (23, "20261124")])
async def test_todays_expiry_counts_until_its_end(tmp_path, hour, first):
    """At ten in the morning; not at six in the evening."""
    gateway = GatewayConfig(started_at=datetime(2026, 11, 23, hour, tzinfo=UTC))
    async with scene_in(tmp_path, gateway) as scene:
        chain = await scene.chain(SPX, strikes=2)
        assert [s.expiry for s in chain.slices] == [first]


# --- budgets ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("lines", "within_s"), [(100, 6.0), (30, 15.0)])
async def test_eighty_contracts_arrive_in_time(tmp_path, lines, within_s):
    """150 ms per request, first greeks after 0.5 to 2 s: under 6 seconds with 100 lines, under 15 with 30."""
    gateway = replace(REALISTIC, market_data_lines_max=lines)
    async with scene_in(tmp_path, gateway, market_data_lines=lines) as scene:
        looking = asyncio.get_running_loop().create_task(scene.ear.watch_lines())
        chain = await scene.chain(expiries=2, strikes=20)
        looking.cancel()
        assert chain.complete
        assert len(chain.rows) == 80
        assert not any(r.greeks.computed for r in chain.rows)
        assert scene.took_s < within_s
        assert min(81, lines) // 2 < scene.ear.lines_max <= lines
        assert not [e for e in scene.world.events if isinstance(e, ev.BrokerNotice) and e.code in {100, 101}]
        assert scene.ear.asked(Request.MKT_DATA) == 81  # nobody had to ask twice
        await scene.check_nothing_is_left()


async def test_one_question_per_slice_and_none_the_second_time(scene):
    """One for the underlying, one for what is listed, one per expiry and class; an hour later again."""
    chain = await scene.chain(expiries=3, strikes=10)
    assert len(chain.rows) == 60
    counted = Counter(request for request, _ in scene.ear.heard)
    assert counted[Request.SEC_DEF_OPT_PARAMS] == 1
    assert scene.ear.asked(Request.CONTRACT_DETAILS, "OPT") == 3
    assert scene.ear.asked(Request.CONTRACT_DETAILS, "STK") == 1
    scene.ear.heard.clear()
    assert (await scene.chain(expiries=3, strikes=10)).complete
    assert not scene.ear.asked(Request.CONTRACT_DETAILS) + scene.ear.asked(Request.SEC_DEF_OPT_PARAMS)
    await asyncio.sleep(KEPT_S)
    assert (await scene.chain(expiries=3, strikes=10)).complete
    assert scene.ear.asked(Request.CONTRACT_DETAILS, "OPT") == 3


async def test_two_chains_at_once_share_questions_and_lines(tmp_path):
    """As two strategies may ask."""
    async with scene_in(tmp_path, REALISTIC) as scene:
        both = await asyncio.gather(*(scene.desk.option_chain("AAPL", expiries=1, strikes=n) for n in (6, 10)))
        assert [(len(c.rows), c.complete) for c in both] == [(12, True), (20, True)]
        assert scene.ear.asked(Request.CONTRACT_DETAILS, "OPT") == 1
        assert scene.ear.asked(Request.SEC_DEF_OPT_PARAMS) == 1
        assert scene.ear.asked(Request.MKT_DATA, "OPT") == 20
        await scene.check_nothing_is_left()


async def test_two_chains_get_along_with_few_lines(tmp_path):
    """Neither starves while the other waits for its last contract."""
    gateway = replace(REALISTIC, market_data_lines_max=20)
    async with scene_in(tmp_path, gateway, market_data_lines=20) as scene:
        silent = {}
        scene.ear.forget = lambda r, v: is_of("OPT", r, v) and silent.setdefault("id", v[CON_ID]) == v[CON_ID]
        apple, other = await asyncio.gather(
            scene.desk.option_chain("AAPL", expiries=1, strikes=8, deadline_s=25),
            scene.desk.option_chain("MSFT", expiries=1, strikes=8, deadline_s=25),
        )
        assert len(apple.missing) + len(other.missing) == 1  # what the gateway forgets
        assert len(apple.rows) == len(other.rows) == 16
        await scene.check_nothing_is_left()


async def test_a_silent_contract_does_not_hold_up_the_others(tmp_path):
    """Its line goes to those who wait; at the deadline it is the only one missing."""
    async with scene_in(tmp_path, market_data_lines=3) as scene:
        silent = set()

        def forget(request, values):
            if is_of("OPT", request, values) and len(silent) < 2:
                silent.add(values[CON_ID])
            return is_of("OPT", request, values) and values[CON_ID] in silent

        scene.ear.forget = forget
        chain = await scene.chain(strikes=6, deadline_s=40)
        assert len(chain.missing) == 2
        assert {str(r.con_id) for r in chain.rows if r.missing} == silent
        assert {r.missing for r in chain.rows if r.missing} <= {
            ("quote", "greeks"),
            ("no market-data line was free",),
        }
        await scene.check_nothing_is_left()


# --- what the broker does not send -----------------------------------------------------------------------------------


async def test_greeks_that_do_not_come_are_computed(scene):
    """Long before the deadline, and near to what the broker's model says."""
    theirs = await scene.chain(strikes=6)
    scene.world.faults.lose("tickOptionComputation")
    ours = await scene.chain(strikes=6)
    assert ours.complete
    assert scene.took_s < 10
    assert all(r.greeks.computed and r.rho is not None for r in ours.rows)
    for mine, broker in zip(ours.rows, theirs.rows, strict=True):
        assert mine.delta == pytest.approx(broker.delta, abs=0.03)
        assert mine.implied_volatility == pytest.approx(broker.implied_volatility, rel=0.1)
        assert mine.theta == pytest.approx(broker.theta, rel=0.2)
        assert mine.vega == pytest.approx(broker.vega, rel=0.2)


async def test_who_wants_the_brokers_greeks_only_waits_for_them(scene):
    """Until the deadline; then they are missing."""
    scene.world.faults.lose("tickOptionComputation")
    chain = await scene.chain(strikes=2, compute=False, deadline_s=12)
    assert scene.took_s == pytest.approx(12, abs=0.1)
    assert {r.missing for r in chain.rows} == {("greeks",)}
    assert all(r.bid is not None and r.delta is None for r in chain.rows)


async def test_greeks_without_quotes(scene):
    """A closed market: the rest is there, early, and the quotes are missing by name."""
    chain = await scene.chain(strikes=2)
    strikes = sorted({r.option.strike for r in chain.rows})
    scene.world.faults.lose("tickPrice")
    chain = await scene.chain(strikes=strikes)
    assert scene.took_s < 10
    assert {r.missing for r in chain.rows} == {("quote",)}
    assert all(r.delta is not None for r in chain.rows)
    assert chain.underlying_price == chain.rows[0].underlying_price  # as TWS used it


async def test_delayed_data_is_marked(tmp_path):
    """Tick types 66 to 76 and 80 to 83: a chain like any other, but it says so."""
    gateway = GatewayConfig(started_at=EPOCH, data_permission="delayed")
    async with scene_in(tmp_path, gateway, market_data_type=3) as scene:
        chain = await scene.chain()
        assert chain.complete
        assert {r.data_type for r in chain.rows} == {"delayed"}
        assert not any(r.greeks.computed for r in chain.rows)


async def test_a_contract_without_permission(scene):
    """354 for one of them: the broker's words in its row, and nobody waits for it."""
    refused = set()

    def refuse(request, values):
        if is_of("OPT", request, values) and (not refused or values[CON_ID] in refused):
            refused.add(values[CON_ID])
            return 354, "Requested market data is not subscribed."
        return None

    scene.ear.refuse = refuse
    chain = await scene.chain()
    assert scene.took_s < 5
    (row,) = (r for r in chain.rows if r.missing)
    assert "Requested market data is not subscribed. (code 354)" in row.missing[0]
    assert chain.missing == (f"{row.option}: {row.missing[0]}",)
    assert row.bid is None
    await scene.check_nothing_is_left()


async def test_an_underlying_without_permission(scene):
    """Around the money there is the broker's error, at once; named strikes need no underlying."""
    scene.ear.refuse = lambda r, v: (354, "Requested market data is not subscribed.") if is_of("STK", r, v) else None
    with pytest.raises(BrokerRefused) as refused:
        await scene.chain()
    assert refused.value.code == 354
    assert scene.took_s < 2
    chain = await scene.chain(strikes=[225, 230])
    assert chain.complete
    assert scene.took_s < 5
    assert chain.underlying_price == pytest.approx(230, rel=0.02)
    await scene.check_nothing_is_left()


async def test_an_underlying_that_stays_silent(scene):
    """No price is no price: the time limit, and not strikes around 0 or 100."""
    scene.ear.forget = lambda r, v: is_of("STK", r, v)
    with pytest.raises(RequestTimeout, match="a price to choose strikes by"):
        await scene.chain(deadline_s=20)
    assert scene.took_s == pytest.approx(20, abs=0.3)
    assert (await scene.chain(strikes=[230], deadline_s=20)).complete
    assert scene.took_s < 5
    await scene.check_nothing_is_left()


async def test_a_slice_that_is_refused(scene):
    """The others come; it is named with the broker's words. When all are, that is the error."""
    scene.ear.refuse = lambda r, v: (
        (200, "No security definition has been found for the request")
        if r is Request.CONTRACT_DETAILS and v[KIND] == "OPT" and v[EXPIRY] == NEXT
        else None
    )
    chain = await scene.chain(expiries=[FRIDAY, NEXT])
    assert [s.expiry for s in chain.slices] == [FRIDAY]
    assert len(chain.rows) == 8
    (missing,) = chain.missing
    assert missing.startswith(f"{NEXT} AAPL: ")
    assert "No security definition" in missing
    with pytest.raises(BrokerRefused):
        await scene.chain(expiries=[NEXT])
    scene.ear.refuse = lambda _r, _v: None  # a bogus 200 of the nightly reset is not remembered
    assert (await scene.chain(expiries=[NEXT])).complete


async def test_a_slice_that_is_never_answered(scene):
    """At the deadline the other one is complete."""
    scene.ear.forget = lambda r, v: r is Request.CONTRACT_DETAILS and v[KIND] == "OPT" and v[EXPIRY] == NEXT
    chain = await scene.chain(expiries=[FRIDAY, NEXT], deadline_s=8)
    assert scene.took_s == pytest.approx(8, abs=0.1)
    assert [bool(r.missing) for r in chain.rows] == [False] * 8
    assert chain.missing == (f"{NEXT} AAPL: its contracts did not come within 8 s",)
    await scene.check_nothing_is_left()


async def test_an_empty_answer_is_not_remembered(scene):
    """TWS gives such answers in its nightly reset."""
    scene.world.faults.lose("SEC_DEF_OPT_PARAMS", times=5)
    with pytest.raises(InvalidIntent, match="AAPL has no options"):
        await scene.chain()
    assert (await scene.chain()).complete


async def test_an_unknown_symbol(scene):
    """A typed error at once, and not a single line was asked for."""
    with pytest.raises(UnknownInstrument, match="NOSUCH"):
        await scene.chain("NOSUCH")
    assert scene.took_s < 1
    assert scene.ear.asked(Request.CONTRACT_DETAILS) == 1
    assert not scene.ear.asked(Request.MKT_DATA)
    await scene.check_nothing_is_left()


@pytest.mark.parametrize("deadline_s", [1e-9, 0.01, 0.2, 0.4])
async def test_a_deadline_before_anything(tmp_path, deadline_s):
    """Too early for contracts is an error; too early for quotes is a chain that lacks them."""
    async with scene_in(tmp_path, REALISTIC) as scene:
        with pytest.raises(RequestTimeout):
            await scene.chain(deadline_s=deadline_s)
        assert scene.took_s == pytest.approx(deadline_s, abs=0.01)
        chain = await scene.chain(deadline_s=1.0, strikes=20)
        assert scene.took_s == pytest.approx(1.0, abs=0.01)
        assert len([r for r in chain.rows if r.missing]) > 0
        assert len(chain.missing) == len([r for r in chain.rows if r.missing])
        await scene.check_nothing_is_left()


# --- while something else happens ------------------------------------------------------------------------------------


async def test_a_watched_contract_in_a_quiet_market(scene):
    """What is known of it already is part of the chain; who watches it goes on watching."""
    first = await scene.chain(strikes=2)
    option = first.rows[0].option
    scene.desk.watch(option)
    await scene.world.until(lambda: (q := scene.world.app.book.quote(option)) is not None and q.greeks is not None)
    for answer in ("tickPrice", "tickSize", "tickOptionComputation", "tickString", "tickGeneric"):
        scene.world.faults.lose(answer)
    scene.ear.heard.clear()
    chain = await scene.chain(strikes=[option.strike], rights=option.right, deadline_s=20)
    assert chain.complete
    assert scene.took_s < 3
    assert not scene.ear.asked(Request.MKT_DATA, "OPT")
    assert [line.instrument for line in scene.world.app.session.lines] == [option]
    scene.world.faults.heal()
    before = len(scene.world.of(ev.Tick))
    await asyncio.sleep(30)
    assert len(scene.world.of(ev.Tick)) > before


@pytest.mark.parametrize("after_s", [0.05, 0.2, 0.4, 1.0, 2.5])
async def test_a_reconnect_in_the_middle(tmp_path, after_s):
    """While the listing, the contracts, the quotes are asked for: it takes longer, and is complete."""
    async with scene_in(tmp_path, REALISTIC) as scene:
        asking = asyncio.get_running_loop().create_task(scene.chain(expiries=2, strikes=10, deadline_s=40))
        await asyncio.sleep(after_s)
        scene.world.faults.drop()
        chain = await asking
        assert len(scene.world.of(ev.SessionOpened)) == 2
        assert chain.complete
        assert len(chain.rows) == 40
        await scene.check_nothing_is_left()


async def test_a_line_that_does_not_come_back(tmp_path):
    """At the deadline what was there is there, and why the rest is not."""
    async with scene_in(tmp_path, REALISTIC) as scene:
        asking = asyncio.get_running_loop().create_task(scene.chain(expiries=2, strikes=20, deadline_s=10))
        await asyncio.sleep(2.8)
        scene.world.faults.refuse()
        scene.world.faults.drop()
        chain = await asking
        assert scene.took_s == pytest.approx(10, abs=0.1)
        whole = [r for r in chain.rows if not r.missing]
        assert 0 < len(whole) < 80
        assert all("closed the connection" in r.missing[-1] for r in chain.rows if r.missing)
        assert [str(line.instrument) for line in scene.world.app.session.lines] == []
        with pytest.raises(NotReady):
            await scene.chain()


async def test_1101_in_the_middle(tmp_path):
    """IB is away for five seconds and has lost the subscriptions."""
    async with scene_in(tmp_path, REALISTIC) as scene:
        asking = asyncio.get_running_loop().create_task(scene.chain(strikes=10, deadline_s=40))
        await asyncio.sleep(1.0)
        scene.world.faults.cut()
        await asyncio.sleep(5)
        scene.world.faults.restore(data_kept=False)
        chain = await asking
        assert chain.complete
        await scene.check_nothing_is_left()


@pytest.mark.parametrize("after_s", [0.05, 0.2, 0.35, 0.6, 1.5, 3.0])
async def test_who_gives_up_leaves_nothing_behind(tmp_path, after_s):
    """A cancelled strategy, at any point."""
    async with scene_in(tmp_path, REALISTIC, market_data_lines=30) as scene:
        asking = asyncio.get_running_loop().create_task(scene.chain(expiries=2, strikes=20))
        await asyncio.sleep(after_s)
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking
        await scene.check_nothing_is_left()
        assert (await scene.chain(expiries=2)).complete  # and holds nothing up


async def test_one_who_gives_up_does_not_take_the_other_along(tmp_path):
    """They shared the question."""
    async with scene_in(tmp_path, REALISTIC) as scene:
        loop = asyncio.get_running_loop()
        first, second = (loop.create_task(scene.chain()) for _ in range(2))
        await asyncio.sleep(0.2)
        first.cancel()
        assert (await second).complete


async def test_a_progress_bar_that_raises(scene):
    """The caller's own exception comes out, nothing stays."""

    def progress(done, _all):
        if done:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await scene.chain(on_progress=progress)
    await scene.check_nothing_is_left()


# --- single decisions ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("last", "real", "hour", "expected"),
    [
        ("20261217", "20261218", "", "AM"),  # SPX: trades until Thursday, settles on Friday
        ("20261217", "20261218", "15:00", "AM"),
        ("20261218", "20261218", "08:30:00", "AM"),  # ES: trades until the opening
        ("20261218", "20261218", "15:00", "PM"),
        ("20261218", "20261218", "", "PM"),
        ("20261218", "", "", ""),
    ],
)
def test_when_a_contract_settles(last, real, hour, expected):
    """TWS says it in dates and hours."""
    contract = ib_insync.Contract(lastTradeDateOrContractMonth=last)
    detail = ib_insync.ContractDetails(contract=contract, realExpirationDate=real, lastTradeTime=hour)
    assert settlement_of(detail) == expected


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ({"bid": 99.0, "ask": 101.0, "last": 99.2}, 100.0),
        ({"bid": 80.0, "ask": 150.0, "last": 100.0}, 100.0),  # nobody quotes at night
        ({"bid": 80.0, "ask": 90.0, "last": 100.0}, 85.0),
        ({"last": 5900.0}, 5900.0),  # an index
        ({"bid": 99.0, "last": 99.5}, 99.5),
        ({"bid": 99.0}, None),
        ({}, None),
    ],
)
def test_the_price_of_an_underlying(sides, expected):
    """The middle, unless the market is wide around the last trade."""
    assert chains.price_of(ev.Tick(AAPL, at=EPOCH, session=1, **sides)) == expected


WHOLE = ev.Greeks(implied_volatility=0.2, delta=0.5, gamma=0.1, theta=-0.1, vega=0.1)


@pytest.mark.parametrize(
    ("fields", "compute", "done_after_s"),
    [
        ({"bid": 1.0, "ask": 1.1, "greeks": WHOLE, "open_interest": 5.0}, True, 0.0),
        ({"bid": 1.0, "ask": 1.1, "greeks": WHOLE}, True, chains.SETTLED_S),
        ({"ask": 0.05, "greeks": WHOLE, "open_interest": 5.0}, True, chains.SETTLED_S),  # nobody bids
        ({"ask": 0.05}, True, chains.HALF_S),
        ({"ask": 0.05}, False, None),
        ({"greeks": WHOLE}, True, chains.HALF_S),
        ({"close": 1.0}, True, None),
    ],
)
def test_when_nothing_more_is_to_be_expected(fields, compute, done_after_s):
    """A contract that nobody bids for must not cost the whole time limit."""
    option = Option("AAPL", FRIDAY, 300.0, "C")
    seat = chains._Seat(None, tick=ev.Tick(option, at=EPOCH, session=1, **fields), first_s=100.0)
    wanted = ChainRequest(AAPL, compute=compute)
    moments = [0.0, chains.SETTLED_S, chains.HALF_S, 1_000.0]
    expected = [done_after_s is not None and moment >= done_after_s for moment in moments]
    assert [chains._is_done(seat, wanted, 100.0 + moment) for moment in moments] == expected


def test_the_day_of_options_ends_at_half_past_four():
    """In New York; the last of them trade until 16:15."""
    assert timedelta(days=1) - AFTER_THE_CLOSE == timedelta(hours=16, minutes=30)
