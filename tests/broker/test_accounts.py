"""What a connection subscribes to of its accounts: all that is held, nothing that is not, and none of it in the way.

Goal: profit and loss and the values of other accounts come by themselves over every misfortune of the line, nothing
is subscribed twice or left over, and a broker that refuses them costs only them.
Method: a whole service, the real ib_insync and the simulated gateway in virtual time; what is subscribed is read at the
gateway.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from dataclasses import replace
from decimal import Decimal as D

import pytest
import structlog

from ibkr_service.core import events as ev
from ibkr_service.core.errors import NotReady
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.core.link import Link
from ibkr_service.core.orders import Intent
from ibkr_service.sim import GatewayConfig
from ibkr_service.sim.contracts import ContractSpec
from ibkr_service.sim.messages import Request
from ibkr_service.supervisor import StrategySpec
from tests.world import EPOCH, World, WorldConfig

MINE, OTHER = "DU1234567", "DU7654321"
EUR, AAPL = Forex("EUR", "USD"), Stock("AAPL")
FIGURES_WITHIN_S = 5.0
ACCOUNT_STREAMS = ("pnl", "pnl single", "account", "account multi", "summary", "positions")


class Holder:
    """A strategy that does nothing by itself: the test holds its desk, and sees what it reads."""

    def __init__(self):
        self.desk = None
        self.seen = []

    async def run(self, desk):
        """Read until stopped."""
        self.desk = desk
        async for event in desk.events():
            self.seen.append(event)


@pytest.fixture
def holder():
    """The strategy."""
    return Holder()


@pytest.fixture
def config(tmp_path, holder):
    """A login with two accounts, of which one is in use."""
    config = WorldConfig(folder=tmp_path, strategies=[StrategySpec("s", holder.run)])
    config.gateway = GatewayConfig(started_at=EPOCH, accounts=(MINE, OTHER))
    config.session = replace(config.session, account=MINE, reconcile_interval_s=60.0)
    return config


@pytest.fixture
async def world(config, holder):
    """A world that is READY and has its figures."""
    async with World(config) as world:
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
        await asyncio.sleep(FIGURES_WITHIN_S)
        yield world


def give(world, account, con_id, quantity, price="100"):
    """Let an account hold something; nobody is told of it."""
    contract = world.gateway.universe.by_con_id(con_id)
    world.gateway.accounts[account].trade(contract, D(quantity), D(price), D(0))


async def trade(world, holder, instrument, action, quantity, account=""):
    """Trade at the market; returns when the figures have had time to follow."""
    holder.desk.watch(instrument)
    await world.until(lambda: holder.desk.quote(instrument) is not None)
    intent = Intent(instrument=instrument, action=action, quantity=D(quantity), account=account)
    await holder.desk.finished(holder.desk.submit(intent))
    await asyncio.sleep(FIGURES_WITHIN_S)


def subscribed(world):
    """How many subscriptions of each kind about accounts the gateway serves."""
    kinds = Counter(kind for session in world.gateway.sessions for kind, _ in session.streams)
    return {kind: kinds[kind] for kind in ACCOUNT_STREAMS if kinds[kind]}


def listen_in(monkeypatch, world, answer=None):
    """Note what the gateway is asked from now on; `answer` may take a request over."""
    heard = []
    dispatch = world.gateway.dispatch

    def note(session, values):
        heard.append((world.now_s, Request(int(values[0])), values))
        if answer is None or not answer(session, values):
            dispatch(session, values)

    monkeypatch.setattr(world.gateway, "dispatch", note)
    return heard


# --- what comes ------------------------------------------------------------------------------------------------------


async def test_a_summary_says_what_the_gateway_knows(world, holder):
    """Of the account in use and of the other one, every figure, with its profit and loss."""
    await trade(world, holder, AAPL, "BUY", 100)
    await trade(world, holder, EUR, "BUY", 30_000, OTHER)
    await world.until(lambda: world.gateway.clock.now().second == 0, 240)
    for account in (MINE, OTHER):
        figures = world.gateway.valuation.figures(world.gateway.accounts[account])
        summary = holder.desk.account_summary(account)
        assert summary.base_currency == "USD"
        assert summary.day_trades_remaining == "unlimited"
        # The gateway, as IB, tells values every three minutes: the prices have moved on since.
        for shown, true in (
            (summary.net_liquidation, figures.net_liquidation),
            (summary.total_cash, figures.cash),
            (summary.equity_with_loan, figures.equity),
            (summary.gross_position_value, figures.gross),
            (summary.initial_margin, figures.required.initial),
            (summary.maintenance_margin, figures.required.maintenance),
        ):
            assert shown == pytest.approx(true, abs=500)
        assert summary.equity_with_loan - summary.initial_margin == summary.available_funds
        assert summary.equity_with_loan - summary.maintenance_margin == summary.excess_liquidity
        assert summary.buying_power == 4 * summary.available_funds
        assert None not in (summary.daily_pnl, summary.unrealized_pnl, summary.realized_pnl)
    assert holder.desk.account_summary(OTHER).balance("EUR").cash == 30_000
    assert holder.desk.account_summary(MINE).balance("EUR") is None


async def test_a_position_is_valued(world, holder):
    """The account in use has a price and a value from the portfolio; both have profit and loss."""
    await trade(world, holder, AAPL, "BUY", 100)
    await trade(world, holder, AAPL, "BUY", 7, OTHER)
    mine, other = holder.desk.positions()[AAPL], holder.desk.positions(OTHER)[AAPL]
    held = world.gateway.accounts[MINE].positions[mine.con_id]
    assert (mine.quantity, other.quantity) == (100, 7)
    assert mine.average_cost == held.average_cost
    assert mine.market_value == mine.market_price * 100
    assert mine.unrealized_pnl == pytest.approx(mine.market_value - 100 * mine.average_cost, abs=D("0.01"))
    assert mine.daily_pnl is not None
    assert (other.market_price, other.market_value > 0) == (None, True)
    assert None not in (other.unrealized_pnl, other.daily_pnl)


async def test_what_was_told_does_not_change_with_the_library(world, holder):
    """One live object stands for all reports of an account: a report that was kept is what it was."""
    await trade(world, holder, AAPL, "BUY", 100)
    await asyncio.sleep(30)
    for kind in (ev.PnlReported, ev.PositionPnlReported):
        told = [event.daily_pnl for event in world.of(kind) if event.account == MINE]
        assert len(set(told)) > 5


async def test_figures_are_not_journalled(world, holder):
    """They are asked for anew in each session; a journal of every second would be of no use."""
    await trade(world, holder, AAPL, "BUY", 100)
    told = {type(event).__name__ for event in world.events}
    written = "".join(world.journal_lines())
    for kind in (
        "AccountValueReported",
        "AccountDownloaded",
        "PortfolioReported",
        "PnlReported",
        "PositionPnlReported",
    ):
        assert kind in told
        assert f'"{kind}"' not in written


# --- what is subscribed ----------------------------------------------------------------------------------------------

FLAT = {"pnl": 2, "account": 1, "account multi": 1, "positions": 1}


async def test_each_account_and_each_position_is_subscribed_once(world, holder, monkeypatch):
    """A position is subscribed when it appears and cancelled when it is gone, whatever the looks between."""
    heard = listen_in(monkeypatch, world)
    assert subscribed(world) == FLAT
    await trade(world, holder, AAPL, "BUY", 100)
    await trade(world, holder, AAPL, "BUY", 7, OTHER)
    await trade(world, holder, EUR, "BUY", 30_000)
    assert subscribed(world) == FLAT | {"pnl single": 3}
    await asyncio.sleep(600)
    assert subscribed(world) == FLAT | {"pnl single": 3}
    await trade(world, holder, AAPL, "SELL", 50)
    assert subscribed(world) == FLAT | {"pnl single": 3}
    await trade(world, holder, AAPL, "SELL", 50)
    assert subscribed(world) == FLAT | {"pnl single": 2}
    await trade(world, holder, AAPL, "SELL", 7, OTHER)
    await trade(world, holder, EUR, "SELL", 30_000)
    assert subscribed(world) == FLAT
    asked = Counter(request for _, request, _ in heard)
    assert (asked[Request.PNL], asked[Request.PNL_SINGLE], asked[Request.ACCOUNT_UPDATES_MULTI]) == (0, 3, 0)
    assert asked[Request.ACCOUNT_UPDATES] > 5, "there were looks"


@pytest.mark.parametrize("data_kept", [True, False])
async def test_after_an_interruption_everything_is_subscribed_once(world, holder, data_kept):
    """Nobody says which subscription survived 1100; the library would add one to the summary at each 1102."""
    await trade(world, holder, AAPL, "BUY", 100)
    for _ in range(3):
        world.faults.cut()
        await asyncio.sleep(20)
        world.faults.restore(data_kept=data_kept)
        await world.until_ready()
        with pytest.raises(NotReady):
            holder.desk.account_summary(OTHER)
        await asyncio.sleep(FIGURES_WITHIN_S)
        assert subscribed(world) == FLAT | {"pnl single": 1}
        assert holder.desk.account_summary(OTHER).net_liquidation == 1_000_000
        assert holder.desk.account_summary().daily_pnl is not None
        assert holder.desk.positions()[AAPL].daily_pnl is not None


async def test_a_position_that_went_away_unseen_is_cancelled(world, holder):
    """It was closed while the line was cut, and the report was lost: the look does not show it."""
    await trade(world, holder, AAPL, "BUY", 100)
    con_id = holder.desk.positions()[AAPL].con_id
    give(world, MINE, con_id, -100)
    await asyncio.sleep(120)
    assert holder.desk.positions() == {}
    assert subscribed(world) == FLAT


async def test_a_new_connection_subscribes_anew(world, holder):
    """And the old one's figures are not shown while its own have not come."""
    await trade(world, holder, AAPL, "BUY", 100)
    assert holder.desk.positions()[AAPL].daily_pnl is not None
    for request in (Request.PNL, Request.PNL_SINGLE):
        world.faults.ignore(request)
    world.faults.drop()
    await world.until(lambda: world.app.book.link is not Link.READY)
    for ask in (holder.desk.account_summary, holder.desk.positions):
        with pytest.raises(NotReady):
            ask()
    await world.until_ready()
    await asyncio.sleep(FIGURES_WITHIN_S)
    assert holder.desk.account_summary().daily_pnl is None
    assert holder.desk.positions()[AAPL].daily_pnl is None
    assert subscribed(world) == {kind: count for kind, count in FLAT.items() if kind != "pnl"}
    world.faults.heal()
    world.faults.drop()
    await asyncio.sleep(30)
    assert subscribed(world) == FLAT | {"pnl single": 1}
    assert holder.desk.account_summary().daily_pnl is not None
    assert holder.desk.positions()[AAPL].daily_pnl is not None


async def test_many_positions_do_not_delay_a_quote(config, holder, monkeypatch):
    """A hundred subscriptions wait behind whatever somebody waits for, and all of them come in the end."""
    async with World(config) as world:
        options = world.gateway.universe.find(ContractSpec(symbol="AAPL", sec_type="OPT"))[:100]
        for option in options:
            give(world, MINE, option.con_id, 1, "1")
        heard = listen_in(monkeypatch, world)
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
        began_s = world.now_s
        await holder.desk.first_quote(AAPL)
        assert world.now_s - began_s < 1.0
        waiting = [request for _, request, _ in heard if request is Request.PNL_SINGLE]
        assert len(waiting) < 100
        await asyncio.sleep(10)
        assert subscribed(world)["pnl single"] == 100
        assert all(held.daily_pnl is not None for held in holder.desk.positions().values())
        assert world.of(ev.LibraryFault) == []


# --- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["refused", "ignored"])
async def test_no_profit_and_loss_costs_only_itself(config, holder, monkeypatch, how):
    """Some accounts are not offered any: READY all the same, every other figure is there, and None for this one."""

    def refuse(session, values):
        if Request(int(values[0])) not in {Request.PNL, Request.PNL_SINGLE}:
            return False
        if how == "refused":
            session.error(int(values[1]), 321, "Error validating request: PnL is not offered")
        return True

    async with World(config) as world:
        heard = listen_in(monkeypatch, world, refuse)
        await world.until_ready()
        await world.until(lambda: holder.desk is not None)
        await trade(world, holder, AAPL, "BUY", 100)
        await asyncio.sleep(600)
        assert world.app.book.link is Link.READY
        summary, held = holder.desk.account_summary(), holder.desk.positions()[AAPL]
        assert summary.daily_pnl is None
        assert summary.unrealized_pnl is not None  # the ledger's
        assert summary.net_liquidation > 900_000
        assert held.daily_pnl is None
        assert held.market_value > 0
        asked = Counter(request for _, request, _ in heard)
        assert (asked[Request.PNL], asked[Request.PNL_SINGLE]) == (2, 1)
        assert world.of(ev.LibraryFault) == []
        assert len(world.of(ev.SessionOpened)) == 1


async def test_a_refused_profit_and_loss_is_logged_with_its_position(world, holder, monkeypatch):
    """The broker's words name a request only; a warning of the stream is no refusal."""

    def refuse(session, values):
        if Request(int(values[0])) is Request.PNL_SINGLE:
            session.error(int(values[1]), 2150, "Invalid position trade derived value")
            session.error(int(values[1]), 321, "Error validating request: PnL is not offered")
        return False

    listen_in(monkeypatch, world, refuse)
    with structlog.testing.capture_logs() as lines:
        await trade(world, holder, AAPL, "BUY", 100)
    (line,) = [line for line in lines if line["event"] == "no profit and loss"]
    assert (line["account"], line["con_id"], line["code"]) == (MINE, holder.desk.positions()[AAPL].con_id, 321)


@pytest.mark.parametrize("how", ["refused", "ignored"])
async def test_another_accounts_values_that_do_not_come_cost_only_that_account(config, holder, monkeypatch, how):
    """An error for it instead of an empty answer; it is asked for again after each look, and known when they come."""
    config.session = replace(config.session, request_timeout_s=10.0)
    offered = False

    def refuse(session, values):
        if Request(int(values[0])) is not Request.ACCOUNT_UPDATES_MULTI or offered:
            return False
        if how == "refused":
            session.error(int(values[2]), 321, "Error validating request: not offered")
        return True

    async with World(config) as world:
        listen_in(monkeypatch, world, refuse)
        with structlog.testing.capture_logs() as lines:
            await world.until_ready()
            await world.until(lambda: holder.desk is not None)
            await asyncio.sleep(300)
        assert holder.desk.account_summary().net_liquidation == 1_000_000
        assert holder.desk.positions(OTHER) == {}
        with pytest.raises(NotReady, match="not all been received"):
            holder.desk.account_summary(OTHER)
        assert len([line for line in lines if line["event"] == "no values of an account"]) == 1
        assert len(world.of(ev.SessionOpened)) == 1
        offered = True
        await asyncio.sleep(75)
        assert holder.desk.account_summary(OTHER).net_liquidation == 1_000_000
        assert subscribed(world) == FLAT


async def test_an_answer_that_a_cut_overtook_proves_nothing(config, holder, monkeypatch):
    """The values of the other account end after 1100: they are asked for again before they count."""
    async with World(config) as world:
        lost = world.gateway.dispatch

        def cut_before(session, values):
            if Request(int(values[0])) is Request.ACCOUNT_UPDATES_MULTI and not world.gateway.is_cut:
                world.faults.cut()
                world.gateway.is_cut = False  # the answer was on its way already
                lost(session, values)
                world.gateway.is_cut = True
                return True
            return False

        listen_in(monkeypatch, world, cut_before)
        await world.until(lambda: world.app.book.link is Link.CUT)
        monkeypatch.undo()
        await asyncio.sleep(10)
        assert world.of(ev.AccountDownloaded) == []
        world.faults.restore(data_kept=True)
        await world.until_ready()
        await asyncio.sleep(FIGURES_WITHIN_S)
        assert holder.desk.account_summary(OTHER).net_liquidation == 1_000_000
        assert subscribed(world) == FLAT


async def test_a_line_that_is_lost_while_values_come_is_just_lost(config, holder):
    """It is not said of the account that it was refused, and the next connection asks again."""
    async with World(config) as world:
        world.faults.ignore(Request.ACCOUNT_UPDATES_MULTI)
        with structlog.testing.capture_logs() as lines:
            await world.until_ready()
            await asyncio.sleep(FIGURES_WITHIN_S)
            world.faults.heal()
            world.faults.drop()
            await world.until(lambda: world.app.book.link is not Link.READY)
            await world.until_ready()
            await asyncio.sleep(FIGURES_WITHIN_S)
        said = [
            (line["event"], line["kind"])
            for line in lines
            if line["log_level"] in {"warning", "error"}
            if "kind" in line
        ]
        assert said == [("gateway connection lost", "LineOver")]
        assert not [line for line in lines if line["event"] == "no values of an account"]
        assert holder.desk.account_summary(OTHER).net_liquidation == 1_000_000


# --- who is told -----------------------------------------------------------------------------------------------------


async def test_figures_are_told_to_those_who_watch_the_account(world, holder):
    """And to nobody else; of an account that is not watched, nothing."""
    await trade(world, holder, AAPL, "BUY", 100)
    figures = ev.AccountValueReported | ev.PortfolioReported | ev.PnlReported | ev.PositionPnlReported
    assert not any(isinstance(event, figures) for event in holder.seen)
    holder.desk.watch_account()
    await asyncio.sleep(200)
    told = [event for event in holder.seen if isinstance(event, figures)]
    assert {type(event) for event in told} == set(figures.__args__)
    assert {event.account for event in told} == {MINE}
    holder.desk.unwatch_account()
    count = len(holder.seen)
    await asyncio.sleep(30)
    assert not any(isinstance(event, figures) for event in holder.seen[count:])


async def test_figures_are_told_while_ready_only(world, holder):
    """What comes while the line is being verified is a part of what is to be known, and not news."""
    holder.desk.watch_account()
    await asyncio.sleep(5)
    count = len(holder.seen)
    world.faults.drop()
    await world.until(lambda: world.app.book.link is not Link.READY)
    await world.until_ready()
    await asyncio.sleep(0.05)
    states = [event.after for event in holder.seen[count:] if isinstance(event, ev.LinkChanged)]
    assert states == [Link.DOWN, Link.SYNCING, Link.READY]
    before_ready = holder.seen[count:]
    assert not any(isinstance(event, ev.AccountValueReported) for event in before_ready)
    await asyncio.sleep(FIGURES_WITHIN_S)
    assert isinstance(holder.seen[-1], ev.PnlReported)
    assert holder.seen[-1].session == world.app.book.session
