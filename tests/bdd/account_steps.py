"""Steps about what an account holds and is worth: what the broker books, what a strategy is told."""

from __future__ import annotations

from decimal import Decimal as D

import pytest
from pytest_bdd import given, parsers, then, when

from ibkr_service.core import events as ev
from ibkr_service.core.account import AccountSummary, HeldPosition
from ibkr_service.core.errors import NotReady, UnknownAccount
from ibkr_service.core.instrument import AnyInstrument, Forex, Option, Stock, parse
from ibkr_service.core.link import Link
from ibkr_service.core.orders import Intent
from ibkr_service.rehearsal.world import World
from ibkr_service.sim.contracts import Contract, ContractSpec
from ibkr_service.sim.messages import Request
from tests.bdd.stage import Diary, Story

MINE = "DU1234567"
AAPL = Stock("AAPL")
FIGURES_WITHIN_S = 3.0
FIRST_QUOTE_WITHIN_S = 10.0
CALL_COST = D("3.00")  # of one unit: a contract is of 100
STOCK_COST = D(150)


def number(text: str) -> D:
    """Read `20,000`."""
    return D(text.replace(",", ""))


def contract_of(world: World, instrument: AnyInstrument) -> Contract:
    """Return what the gateway trades under this description."""
    kind = "CASH" if isinstance(instrument, Forex) else "STK"
    spec = ContractSpec(symbol=instrument.symbol, sec_type=kind, currency=instrument.currency)
    return world.gateway.universe.find(spec)[0]


def call_on_apple(world: World) -> Contract:
    """Return the first call of the gateway's chain."""
    calls = world.gateway.universe.find(ContractSpec(symbol="AAPL", sec_type="OPT", right="C"))
    return calls[len(calls) // 2]


def give(world: World, account: str, contract: Contract, quantity: D, price: D) -> None:
    """Book a trade at the gateway that did not go through us; nobody is told."""
    world.gateway.accounts[account].trade(contract, quantity, price, D(0))


def trade(story: Story, action: str, quantity: D, name: str) -> None:
    """Trade at the market, and let the figures follow."""
    instrument, desk = parse(name), story.trader.desk
    before = desk.book.position(instrument)
    story.do(lambda _world: desk.watch(instrument))
    story.until(lambda: desk.quote(instrument) is not None, FIRST_QUOTE_WITHIN_S, f"the first quote of {name}")
    intent = Intent(instrument=instrument, action="BUY" if action == "buys" else "SELL", quantity=quantity)
    ref = story.submit(intent)
    story.run(desk.finished(ref))
    wanted = before + (quantity if action == "buys" else -quantity)
    story.until(lambda: desk.book.position(instrument) == wanted, what="the position")
    story.advance(FIGURES_WITHIN_S)


def summary(story: Story, account: str = "") -> AccountSummary:
    """Ask at the trader's desk."""
    return story.do(lambda _world: story.trader.desk.account_summary(account))


def positions(story: Story, account: str = "") -> dict[AnyInstrument, HeldPosition]:
    """Ask at the trader's desk."""
    return story.do(lambda _world: story.trader.desk.positions(account))


def the_call(story: Story) -> HeldPosition:
    """Return the one option that is held."""
    (held,) = (held for held in positions(story).values() if isinstance(held.instrument, Option))
    return held


# --- what is given ---------------------------------------------------------------------------------------------------


@given("an account that holds 100 AAPL and 2 calls on AAPL, bought at 3.00")
def _holds_both(story: Story) -> None:
    """Bought before we came."""
    story.before.append(lambda world: give(world, MINE, contract_of(world, AAPL), D(100), STOCK_COST))
    story.before.append(lambda world: give(world, MINE, call_on_apple(world), D(2), CALL_COST))


@given(parsers.parse("the account {account} holds {quantity:d} {name}"))
def _holds(story: Story, account: str, quantity: int, name: str) -> None:
    """Bought before we came."""
    instrument = parse(name)
    story.before.append(lambda world: give(world, account, contract_of(world, instrument), D(quantity), STOCK_COST))


@given("a gateway that offers no profit and loss")
def _no_pnl(story: Story) -> None:
    """It is silent about it, as for some accounts of IB."""
    for request in (Request.PNL, Request.PNL_SINGLE):
        story.before.append(lambda world, request=request: world.faults.ignore(request))


@given("a gateway that does not tell the values of other accounts")
def _no_others(story: Story) -> None:
    """That request is not answered."""
    story.before.append(lambda world: world.faults.ignore(Request.ACCOUNT_UPDATES_MULTI))


@given(parsers.re(r"the account has bought (?P<quantity>[\d,]+) (?P<name>\S+)$"))
def _has_bought(story: Story, quantity: str, name: str) -> None:
    """An order of ours has filled, and the broker shows the position."""
    trade(story, "buys", number(quantity), name)


@given("the strategy watches the account")
def _watches(story: Story) -> None:
    """From now on."""
    story.do(lambda _world: story.trader.desk.watch_account())


# --- what happens ----------------------------------------------------------------------------------------------------


@when(parsers.re(r"the account (?P<action>buys|sells) (?P<quantity>[\d,]+) (?P<name>\S+)$"))
def _trades(story: Story, action: str, quantity: str, name: str) -> None:
    """An order of ours fills."""
    trade(story, action, number(quantity), name)


@when("the gateway goes away")
def _away(story: Story) -> None:
    """It closes every connection and does not listen."""
    story.do(lambda world: world.faults.refuse())
    story.do(lambda world: world.faults.drop())
    story.advance(1)
    assert story.world.app.book.link is Link.DOWN


@when("the gateway comes back")
def _back(story: Story) -> None:
    """It listens again."""
    story.run(story.world.faults.accept())


@when(parsers.parse("the connection breaks, and the {what} are not told any more"))
def _breaks_for(story: Story, what: str) -> None:
    """The new connection works, except for one answer."""
    request = {"positions": Request.POSITIONS, "account values": Request.ACCOUNT_UPDATES}[what]
    story.do(lambda world: world.faults.ignore(request))
    story.do(lambda world: world.faults.drop())


@when("meanwhile the account buys 50 AAPL by other means and receives 5,000 USD")
def _meanwhile(story: Story) -> None:
    """By telephone, while nobody was connected."""
    story.do(lambda world: give(world, MINE, contract_of(world, AAPL), D(50), STOCK_COST))
    story.do(lambda world: world.gateway.accounts[MINE].pay("USD", D(5_000)))


# --- the summary -----------------------------------------------------------------------------------------------------


@then(parsers.parse("the summary is in {currency}"))
def _base(story: Story, currency: str) -> None:
    """The account's base currency."""
    assert (summary(story).account, summary(story).base_currency) == (MINE, currency)


@then("the summary has these amounts")
def _amounts(story: Story, datatable: list[list[str]]) -> None:
    """Exactly, and not None."""
    told = summary(story)
    assert {name: getattr(told, name.replace(" ", "_")) for name, _ in datatable} == {
        name: number(amount) for name, amount in datatable
    }


@then("day trades are unlimited")
def _unlimited(story: Story) -> None:
    """TWS says -1."""
    assert summary(story).day_trades_remaining == "unlimited"


@then("the gross position value is what 100 AAPL are worth")
def _gross(story: Story) -> None:
    """Within what the price may have moved since."""
    told, price = summary(story).gross_position_value, story.trader.desk.book.quote(AAPL).mid
    assert told is not None
    assert abs(told - 100 * D(price)) < 100 * D(price) / 100


@then("the initial margin is more than 0")
def _margin(story: Story) -> None:
    """What is held must be secured."""
    told = summary(story)
    assert told.initial_margin >= told.maintenance_margin > 0


@then(parsers.re(r"(?P<rest>available funds|excess liquidity) (are|is) equity with loan less (?P<less>.+ margin)$"))
def _identity(story: Story, rest: str, less: str) -> None:
    """To the cent."""
    told = summary(story)
    assert getattr(told, rest.replace(" ", "_")) == told.equity_with_loan - getattr(told, less.replace(" ", "_"))


@then(parsers.re(r"the profit and loss of the day( of (?P<name>\S+))? is (?P<how>known|unknown)$"))
def _pnl(story: Story, name: str | None, how: str) -> None:
    """Of the account, or of a position; unknown is None."""
    told = positions(story)[parse(name)].daily_pnl if name else summary(story).daily_pnl
    assert (told is None) == (how == "unknown")


@then("the account has 20,000 EUR in cash, at the rate at which EUR.USD is quoted")
def _euros(story: Story) -> None:
    """The ledger's block."""
    block, quote = summary(story).balance("EUR"), story.trader.desk.book.quote(parse("EUR.USD"))
    assert block.cash == number("20,000")
    assert abs(block.exchange_rate / D(quote.mid) - 1) < D("0.001")


@then(parsers.parse("the cash in USD is less than {amount}"))
def _dollars(story: Story, amount: str) -> None:
    """They were paid with it, and the total says so only for the commission and the spread."""
    told = summary(story)
    assert told.balance("USD").cash < number(amount)
    assert abs(told.total_cash - number(amount)) < 100


@then(parsers.parse("the account {account} is worth {amount}"))
def _worth(story: Story, account: str, amount: str) -> None:
    """Its net liquidation value."""
    assert summary(story, account).net_liquidation == number(amount)


@then(parsers.parse("the account {account} has 1,000,000 USD less the price of 7 AAPL in cash"))
def _cash(story: Story, account: str) -> None:
    """Of which we were told though it is not the account in use."""
    assert summary(story, account).total_cash == number("1,000,000") - 7 * STOCK_COST


@then("the summary says what the gateway knows")
def _agrees(story: Story) -> None:
    """Cash to the cent; the values may have moved a little since."""
    told = summary(story)
    figures = story.do(lambda world: world.gateway.valuation.figures(world.gateway.accounts[MINE]))
    assert told.total_cash == round(figures.cash, 2)
    assert abs(told.net_liquidation - figures.net_liquidation) < figures.gross / 100


# --- the positions ---------------------------------------------------------------------------------------------------


@then(
    parsers.re(
        r"the account (?P<account>DU\d+ )?holds (?P<quantity>[\d,]+) (?P<name>[A-Z.]+)(?P<alone> and nothing else)?$"
    )
)
def _holds_now(story: Story, account: str | None, quantity: str, name: str, alone: str | None) -> None:
    """As the broker says."""
    held = positions(story, (account or "").strip())
    assert held[parse(name)].quantity == number(quantity)
    assert alone is None or len(held) == 1


@then("the account holds nothing")
def _flat(story: Story) -> None:
    """Verified, and not merely not told."""
    assert positions(story) == {}


@then("the average cost of AAPL is what was paid, commissions included")
def _cost(story: Story) -> None:
    """Per share."""
    fills = story.world.of(ev.Fill)
    fees = sum(report.commission for report in story.world.of(ev.CommissionReported))
    paid = sum(fill.quantity * fill.price for fill in fills) + fees
    assert positions(story)[AAPL].average_cost == paid / 100


@then("the market value of AAPL is 100 times its market price")
def _value(story: Story) -> None:
    """A share is one unit."""
    held = positions(story)[AAPL]
    assert held.market_value == 100 * held.market_price > 0


@then("the unrealised profit of AAPL is its market value less its cost")
def _unrealised(story: Story) -> None:
    """To the cent."""
    held = positions(story)[AAPL]
    assert abs(held.unrealized_pnl - (held.market_value - 100 * held.average_cost)) <= D("0.01")


@then("the account holds 2 of the call")
def _calls(story: Story) -> None:
    """Beside the stock, under a key of its own."""
    assert the_call(story).quantity == D(2)
    assert the_call(story).instrument.symbol == AAPL.symbol
    assert len(positions(story)) == len({held.con_id for held in positions(story).values()}) == 2


@then("the average cost of the call is 300")
def _call_cost(story: Story) -> None:
    """The multiplier is in it."""
    assert the_call(story).average_cost == CALL_COST * 100


@then("the market value of the call is 200 times its market price")
def _call_value(story: Story) -> None:
    """Two contracts of a hundred each: the multiplier is not in the price."""
    assert the_call(story).market_value == 200 * the_call(story).market_price > 0


@then("the strategy was told of 100 and then of 150 AAPL")
def _told(story: Story) -> None:
    """In this order, and of nothing else."""
    assert [event.quantity for event in story.trader.of(ev.PositionReported)] == [100, 150]


@then("the log has a line for each, with instrument, quantity and average cost, for the account DU…567")
def _logged(story: Story, diary: Diary) -> None:
    """At level info."""
    lines = diary.lines(event="position", level="info", instrument="AAPL", account="DU…567")
    assert [line["quantity"] for line in lines] == ["100", "150"]
    assert lines[-1]["average_cost"] == str(positions(story)[AAPL].average_cost)
    assert len(diary.lines(event="position")) == 2


# --- what is refused -------------------------------------------------------------------------------------------------


def refused(story: Story, error: type[Exception], text: str, account: str = "") -> None:
    """Ask for summary and positions; both must raise this."""
    for ask in (summary, positions):
        with pytest.raises(error, match=text):
            ask(story, account)


@then(parsers.parse("summary and positions are refused, since the link is {state}"))
def _refused(story: Story, state: str) -> None:
    """An error instead of an empty answer."""
    refused(story, NotReady, f"the link is {state}")


@then(parsers.parse("summary and positions of the account {account} are refused, since the login does not manage it"))
def _unmanaged(story: Story, account: str) -> None:
    """It is not an account that holds nothing; and the text is safe to be logged."""
    refused(story, UnknownAccount, rf"^((?!{account}).)*$", account)


@then(parsers.parse("the summary of the account {account} is refused, since it is not known"))
def _not_known(story: Story, account: str) -> None:
    """Its positions are, by another request."""
    with pytest.raises(NotReady, match="not all been received"):
        summary(story, account)
    assert positions(story, account) == {}


# --- a new session, and changes --------------------------------------------------------------------------------------


@then("no figure is older than the new session")
def _young(story: Story) -> None:
    """Nothing was taken over from the old one."""
    opened = story.world.of(ev.SessionOpened)[-1]
    assert summary(story).at > opened.at
    assert all(held.at > opened.at for held in positions(story).values())
    assert story.world.app.book.session == opened.session > 1


@then("it was told of values, the portfolio, and profit and loss")
def _told_of_figures(story: Story) -> None:
    """Each kind, of the account in use, and of this session."""
    for kind in (ev.AccountValueReported, ev.PortfolioReported, ev.PnlReported, ev.PositionPnlReported):
        told = story.trader.of(kind)
        assert {(event.account, event.session) for event in told} == {(MINE, 1)}, kind
