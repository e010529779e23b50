"""Step 2, connection: what happens on the line, told in features/connection.feature."""

from __future__ import annotations

from collections import Counter
from datetime import datetime, timedelta
from decimal import Decimal
from itertools import pairwise

import pytest
from pytest_bdd import given, parsers, scenarios, then, when

from ibkr_service.core import events as ev
from ibkr_service.core.errors import Refused
from ibkr_service.core.instrument import Forex, Stock, parse
from ibkr_service.core.link import Link
from ibkr_service.core.orders import Intent
from ibkr_service.rehearsal.world import EPOCH, PORT
from ibkr_service.sim.listing import PAIRS, STOCKS
from ibkr_service.sim.messages import Request
from ibkr_service.sim.rawclient import RawClient
from tests.bdd.stage import Diary, Story, read_journal
from tests.bdd.steps import link_states

scenarios("connection.feature")

EURUSD = parse("EUR.USD")
EVERYTHING = [*(Stock(stock.symbol) for stock in STOCKS), *(Forex(pair.symbol, pair.currency) for pair in PAIRS)]
FAR_BELOW = Intent(
    instrument=EURUSD, action="BUY", quantity=Decimal(20_000), order_type="LMT", limit_price=Decimal("0.9")
)
AT_MARKET = Intent(instrument=EURUSD, action="BUY", quantity=Decimal(20_000))
TIMES = {"once": 1, "twice": 2}


@pytest.fixture
def others() -> list[RawClient]:
    """Other programs at the same gateway."""
    return []


# --- what is given ---------------------------------------------------------------------------------------------------


@given(parsers.parse("the mode is {mode}"))
def _mode(story: Story, mode: str) -> None:
    """`ibkr.mode` says so."""
    story.session["mode"] = mode


@given("automatic reconnection is off")
def _no_reconnection(story: Story) -> None:
    """`ibkr.auto_reconnect` is false."""
    story.session["auto_reconnect"] = False


@given(parsers.parse("the limit of {rate:d} messages a second"))
def _rate(story: Story, rate: int) -> None:
    """`ibkr.max_rate_per_s` says so."""
    story.session["max_rate_per_s"] = rate


@given("a gateway that tells no account")
def _no_login(story: Story) -> None:
    """The handshake works, but nobody has logged in yet."""
    story.before.append(lambda world: world.faults.lose("managedAccounts"))


@given("a gateway that is cut off from Interactive Brokers")
def _cut_before(story: Story) -> None:
    """It says 1100 while we connect."""
    story.before.append(lambda world: world.faults.cut())


@given("a gateway that accepts connections and never answers")
def _mute(story: Story) -> None:
    """It hangs, as a gateway does while it starts."""
    story.before.append(lambda world: world.faults.mute())


@given(parsers.parse("another client of the gateway with id {client_id:d}"))
def _other_client(story: Story, others: list[RawClient], client_id: int) -> None:
    """Somebody has connected before us."""
    story.before.append(lambda world: others.append(RawClient(world.gateway, client_id)))


@given("the account has bought 20,000 EUR.USD")
def _bought(story: Story) -> None:
    """An order of ours has filled, and the broker shows the position."""
    ref = story.submit(AT_MARKET)
    story.run(story.trader.desk.finished(ref))
    story.until(lambda: story.trader.desk.book.position(EURUSD) == AT_MARKET.quantity, what="the position")


# --- what happens on the line ----------------------------------------------------------------------------------------


@when("the connection breaks")
def _breaks(story: Story) -> None:
    """Every socket is reset."""
    story.do(lambda world: world.faults.drop())


@when("the connection breaks, and from now on the gateway leaves the question for positions unanswered")
def _breaks_for_positions(story: Story) -> None:
    """The new connection works, except for one answer."""
    story.do(lambda world: world.faults.ignore("reqPositions"))
    story.do(lambda world: world.faults.drop())


@when(parsers.parse("the gateway is away for {seconds:d} seconds"))
def _away(story: Story, seconds: int) -> None:
    """It closes every connection and does not listen for a while, as it does every night."""
    story.do(lambda world: world.faults.refuse())
    story.do(lambda world: world.faults.drop())
    story.advance(seconds)
    assert link_states(story)[-1] == "DOWN"
    story.run(story.world.faults.accept())


@when("the network swallows everything")
def _freeze(story: Story) -> None:
    """The sockets stay open, but no byte passes."""
    story.loop.network.freeze(PORT)


@when("the network works again")
def _thaw(story: Story) -> None:
    """New connections are possible."""
    story.loop.network.thaw(PORT)


@when(parsers.parse("Interactive Brokers is back, with market data {data}"))
def _restored(story: Story, data: str) -> None:
    """1102 if the subscriptions have survived, 1101 if not."""
    story.do(lambda world: world.faults.restore(data_kept=data == "kept"))
    story.advance(1)


@when("the gateway answers new connections again")
def _unmuted(story: Story) -> None:
    """Those that it accepted before stay unanswered."""
    story.do(lambda world: world.faults.unmute())


@when("the other client leaves")
def _leaves(story: Story, others: list[RawClient]) -> None:
    """The id is free."""
    story.do(lambda _world: others[0].session.lost())


@when("the trader orders")
@when("the trader orders again")
def _orders(story: Story) -> None:
    """A limit order far below the market leaves the desk."""
    story.submit(FAR_BELOW)
    story.advance(1)


@when("a strategy watches all stocks and currencies at once")
def _watch_everything(story: Story) -> None:
    """Everything is asked for in one moment."""
    story.do(lambda _world: [story.trader.desk.watch(instrument) for instrument in EVERYTHING])


# --- the account -----------------------------------------------------------------------------------------------------


@then(parsers.parse("it trades for the account {account}"))
def _account(story: Story, account: str) -> None:
    """The session has it, and so has the book."""
    (opened,) = story.world.of(ev.SessionOpened)
    assert (opened.account, opened.accounts) == (account, story.config.gateway.accounts)
    assert story.world.app.book.account == account


@then(parsers.parse("the account is worth {amount} USD"))
def _worth(story: Story, amount: str) -> None:
    """The broker's own figure has arrived."""
    assert story.world.app.book.value("NetLiquidation", "USD") == Decimal(amount.replace(",", ""))


@then(parsers.parse("the order of the gateway is for the account {account}"))
def _order_account(story: Story, account: str) -> None:
    """The order names the chosen account."""
    assert [order.account for order in story.world.gateway.open_orders] == [account]


@then("its book has shown 20,000 EUR.USD all the time")
def _book_kept(story: Story) -> None:
    """A position that was not told is not a position of zero."""
    assert story.world.app.book.position(EURUSD) == AT_MARKET.quantity
    reported = [event.quantity for event in story.world.of(ev.PositionReported)]
    assert set(reported) == {AT_MARKET.quantity}
    assert story.world.of(ev.PositionAdjusted) == []


@then("book, fills and gateway agree on 20,000 EUR.USD")
def _agree(story: Story) -> None:
    """All three accounts of it are the same."""
    assert story.world.app.book.position(EURUSD) == AT_MARKET.quantity
    story.do(lambda world: world.check_agreement())


# --- the line --------------------------------------------------------------------------------------------------------


@then(parsers.parse("the link was {states}, in this order"))
def _link_was(story: Story, states: str) -> None:
    """From the beginning of the story, and nothing in between."""
    assert link_states(story) == states.split(", ")


@then("the service has connected again but has not been READY since")
def _connected_in_vain(story: Story) -> None:
    """There were sockets, more than one, and none was believed."""
    states = link_states(story)
    last_ready = len(states) - states[::-1].index("READY")
    assert Counter(states[:last_ready])["READY"] == 1
    assert Counter(states[last_ready:])["SYNCING"] > 1
    assert story.world.app.book.link is not Link.READY


@then("the service has connected once")
def _connected_once(story: Story) -> None:
    """The socket was kept."""
    assert len(story.world.of(ev.SessionOpened)) == 1


@then(parsers.parse("the gateway has one client, with id {client_id:d}"))
def _one_client(story: Story, client_id: int) -> None:
    """That is us, and our name is the one that was set."""
    assert [session.client_id for session in story.world.gateway.sessions] == [client_id]
    assert {opened.client_id for opened in story.world.of(ev.SessionOpened)} == {client_id}


@then("the gateway has no client")
def _no_client(story: Story) -> None:
    """It has seen us go."""
    story.advance(1)
    assert story.world.gateway.sessions == []
    assert not story.world.server.connections


@then("the other client was left alone")
def _left_alone(others: list[RawClient]) -> None:
    """It is still connected, and was told nothing."""
    (other,) = others
    assert not other.is_closed
    assert other.errors() == []


@then("an order is refused, since the link is not READY")
def _refused(story: Story) -> None:
    """The desk says no, and nothing is recorded as submitted."""
    submitted = len(story.world.of(ev.OrderSubmitted))
    with pytest.raises(Refused) as caught:
        story.submit(FAR_BELOW)
    assert (caught.value.limit, caught.value.allowed) == ("link", "READY")
    story.advance(1)
    assert len(story.world.of(ev.OrderSubmitted)) == submitted


# --- the market data -------------------------------------------------------------------------------------------------


@then(parsers.parse("the quotes of EUR.USD were asked for {times}"))
def _asked_for(story: Story, times: str) -> None:
    """Subscriptions that survived are not made anew, those that were lost are."""
    story.advance(60)  # a stream that stayed silent would have been asked for again by now
    assert story.asked(Request.MKT_DATA) == TIMES[times]


@then("the strategy read the gap, the return, and then new quotes of EUR.USD, none from before the gap")
def _gap_and_return(story: Story) -> None:
    """The stream itself says when it is not to be trusted, and each quote says to which side it belongs."""
    story.advance(30)
    stream = story.trader.of(ev.Tick, ev.Gap, ev.Resumed)
    (gap,) = story.trader.of(ev.Gap)
    (resumed,) = story.trader.of(ev.Resumed)
    at_gap, at_return = stream.index(gap), stream.index(resumed)
    before, after = stream[:at_gap], stream[at_return + 1 :]
    assert at_return == at_gap + 1, "nothing is read inside the gap"
    assert before
    assert after
    assert {tick.epoch for tick in before} == {gap.epoch - 1}
    assert {tick.epoch for tick in (resumed, *after)} == {gap.epoch}
    assert max(tick.at for tick in before) <= gap.since < resumed.until <= min(tick.at for tick in after)


@then("a quote of each has arrived")
def _all_quoted(story: Story) -> None:
    """Pacing delays what is asked; it forgets nothing."""
    assert {tick.instrument for tick in story.trader.of(ev.Tick)} == set(EVERYTHING)


@then(parsers.parse("in no second did the gateway receive more than {rate:d} messages"))
def _in_pace(story: Story, rate: int) -> None:
    """As the gateway counts them."""
    times = [heard.at_s for heard in story.heard]
    most = max(sum(start <= at < start + 1 for at in times) for start in times)
    assert 0 < most <= rate


# --- the log ---------------------------------------------------------------------------------------------------------


@then(parsers.parse("the log says once that it connected to server version {version:d} for the account {masked}"))
def _connected_line(diary: Diary, version: int, masked: str) -> None:
    """One line, with what a person wants to know."""
    line = diary.only(event="connected")
    assert (line["level"], line["server_version"], line["account"], line["client_id"]) == ("info", version, masked, 1)


@then(parsers.parse('the log has one error, {kind}, which says "{text}"'))
def _one_error(diary: Diary, kind: str, text: str) -> None:
    """One line at error level in all, however often it was tried."""
    line = diary.only(level="error")
    assert line["kind"] == kind
    assert text in line["error"]
    assert "\n" not in line["error"]


@then(parsers.parse("the log has no error within {seconds:d} seconds"))
def _no_error_yet(story: Story, diary: Diary, seconds: int) -> None:
    """It is too early to complain."""
    story.advance(seconds)
    assert diary.lines(level="error") == []


@then("the service says so again after 2 seconds, then after longer and longer waits of at most 60 seconds")
def _waits(diary: Diary) -> None:
    """A line with the wait to come; a calm one after the first. Meanwhile it knocks at the port without a word."""
    lines = diary.lines(event="gateway connection failed")
    assert [line["attempt"] for line in lines] == list(range(1, len(lines) + 1))
    assert {line["level"] for line in lines[1:]} == {"info"}
    assert {(line["host"], line["port"]) for line in lines} == {("127.0.0.1", PORT)}
    promised = [line["retry_in_s"] for line in lines]
    assert len(promised) >= 7
    assert promised[0] == 2
    assert all(one < other for one, other in pairwise(promised))
    assert promised[-1] <= 60
    assert diary.waits_s(event="gateway connection failed") == pytest.approx(promised[:-1], abs=0.1)


@then("the service has given up twice, after 20 seconds each, and tries again")
def _given_up(story: Story, diary: Diary) -> None:
    """What it gave up it let go: the gateway holds the connection of the attempt under way, and no other."""
    first, second = diary.lines(event="gateway connection failed")
    (between_s,) = diary.waits_s(event="gateway connection failed")
    assert datetime.fromisoformat(first["time"]) == EPOCH + timedelta(seconds=20)
    assert between_s == pytest.approx(first["retry_in_s"] + 20, abs=0.1)
    assert second["attempt"] == 2
    assert len(story.world.server.connections) == 1


# --- the end ---------------------------------------------------------------------------------------------------------


@then("the last word of the journal is that the service stopped")
def _last_word(story: Story) -> None:
    """On the disk, after the file was closed."""
    facts = read_journal(story.config.folder / "journal.sqlite")
    assert facts[0]["kind"] == "ServiceStarted"
    assert facts[-1]["kind"] == "ServiceStopped"
    assert [fact["kind"] for fact in facts].count("ServiceStopped") == 1


@then("the service has ended with exit code 0, at once")
def _ended_at_once(story: Story) -> None:
    """Nothing was waited for."""
    assert story.exit_code == 0
    assert story.loop.time() < 60.5
