"""The broker as a script sees it: the same service, five steps, typed errors, nothing left behind."""

from __future__ import annotations

import asyncio
import runpy
import sys
from datetime import UTC, datetime
from decimal import Decimal as D
from pathlib import Path

import pytest
import structlog
from structlog.testing import capture_logs

from ibkr_service.api import IBKRIBInsyncApi, SimulatedBrokerApi, get_broker_api
from ibkr_service.clock import LoopClock
from ibkr_service.core import events as ev
from ibkr_service.core.errors import (
    AccountProblem,
    BrokerRefused,
    GatewayUnreachable,
    InvalidIntent,
    JournalError,
    KeyReused,
    NotReady,
    Refused,
    RequestTimeout,
    UnknownInstrument,
    UnknownOrder,
)
from ibkr_service.core.instrument import Forex, Stock
from ibkr_service.core.orders import OrderState
from ibkr_service.settings import Settings, SettingsError, load_settings
from ibkr_service.sim import Gateway, GatewayConfig, serve

EPOCH = datetime(2026, 11, 23, 15, tzinfo=UTC)
ROOT = Path(__file__).parents[1]
AAPL, EURUSD = Stock("AAPL"), Forex("EUR", "USD")


def settings(folder, **keys):
    """Settings with a journal in a folder of its own."""
    overrides = {"journal.path": str(folder / "journal.sqlite"), **{f"ibkr.{k}": v for k, v in keys.items()}}
    return load_settings(environ={}, overrides=overrides)


@pytest.fixture
def clock():
    """Virtual time."""
    return lambda: LoopClock(asyncio.get_running_loop(), EPOCH)


@pytest.fixture
async def broker(tmp_path, clock):
    """A connected simulated broker."""
    api = SimulatedBrokerApi(settings(tmp_path), clock=clock())
    async with api:
        yield api


@pytest.fixture
async def gateway():
    """A gateway that listens where the settings say."""
    server = await serve(Gateway(GatewayConfig(started_at=EPOCH)), "127.0.0.1", 7497)
    yield server
    await server.close()


# --- the factory -----------------------------------------------------------------------------------------------------


def test_the_factory_makes_what_is_asked_for(tmp_path, monkeypatch):
    """ib_insync unless told otherwise, by argument or by setting."""
    monkeypatch.chdir(tmp_path)
    assert type(get_broker_api()) is IBKRIBInsyncApi
    assert type(get_broker_api(use_ib_insync=False)) is SimulatedBrokerApi
    assert type(get_broker_api({"use_ib_insync": False})) is SimulatedBrokerApi
    assert type(get_broker_api(Settings())) is IBKRIBInsyncApi


def test_single_keys_and_files_are_settings(tmp_path, monkeypatch):
    """A key of [ibkr] by its name, others dotted; a file by its path."""
    monkeypatch.chdir(tmp_path)
    api = get_broker_api({"port": 4002, "client_id": 7, "risk.max_quantity": "5"})
    assert (api.settings.ibkr.port, api.settings.ibkr.client_id, api.settings.risk.max_quantity) == (4002, 7, D(5))
    (tmp_path / "mine.toml").write_text("[ibkr]\nport = 4001\n")
    assert get_broker_api(tmp_path / "mine.toml").settings.ibkr.port == 4001
    assert get_broker_api("mine.toml").settings.ibkr.port == 4001
    with pytest.raises(SettingsError, match="prot"):
        get_broker_api({"prot": 4002})


@pytest.mark.parametrize("mode", ["paper", "live"])
def test_nobody_gets_invented_fills_by_accident(mode, tmp_path, monkeypatch):
    """A simulated broker exists in simulated mode only."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="simulated"):
        get_broker_api({"mode": mode}, use_ib_insync=False, live=mode == "live")


def test_real_money_takes_the_setting_and_the_flag(tmp_path, monkeypatch):
    """Either alone is refused."""
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SettingsError, match="live"):
        get_broker_api({"mode": "live"})
    with pytest.raises(SettingsError, match="live"):
        get_broker_api(live=True)
    with pytest.raises(SettingsError, match="live"):
        get_broker_api(Settings(), live=True)
    assert get_broker_api({"mode": "live"}, live=True).settings.ibkr.mode == "live"


# --- connection ------------------------------------------------------------------------------------------------------


async def test_connecting_to_a_gateway_and_leaving(gateway, tmp_path, clock):
    """True when the account's state is verified; afterwards nothing is left, and it can be done again."""
    api = IBKRIBInsyncApi(settings(tmp_path), clock=clock())
    with pytest.raises(NotReady, match="connect"):
        await api.get_positions()
    for _ in range(2):
        assert await api.connect()
        assert await api.connect()  # it is connected already
        assert api.is_connected
        assert len(gateway.gateway.sessions) == 1
        await api.disconnect()
        await api.disconnect()
        await asyncio.sleep(1)
        assert not api.is_connected
        assert gateway.gateway.sessions == []


async def test_nobody_listens(tmp_path, clock):
    """False, one clear error line; with `async with` the typed error; and nothing keeps running."""
    api = IBKRIBInsyncApi(settings(tmp_path, connect_timeout_s=5), clock=clock())
    with capture_logs() as logged:
        assert not await api.connect()
    (line,) = [line for line in logged if line["event"] == "not connected"]
    assert line["error"].startswith("nobody listens at 127.0.0.1:7497")
    assert line["log_level"] == "error"
    with pytest.raises(GatewayUnreachable, match="7497"):
        async with api:
            raise AssertionError("it cannot be entered")
    assert len(asyncio.all_tasks()) == 1


async def test_a_gateway_that_comes_late_is_waited_for(tmp_path, clock):
    """It is tried again within the time limit."""
    api = IBKRIBInsyncApi(settings(tmp_path, connect_timeout_s=60), clock=clock())
    async with asyncio.TaskGroup() as group:
        connecting = group.create_task(api.connect())
        await asyncio.sleep(10)
        server = await serve(Gateway(GatewayConfig(started_at=EPOCH)), "127.0.0.1", 7497)
    assert connecting.result()
    await api.disconnect()
    await server.close()


async def test_a_cancelled_connect_leaves_nothing(tmp_path, clock):
    """The service that was being started ends, too."""
    api = IBKRIBInsyncApi(settings(tmp_path, connect_timeout_s=60), clock=clock())
    with pytest.raises(TimeoutError):
        async with asyncio.timeout(1):
            await api.connect()
    assert len(asyncio.all_tasks()) == 1


async def test_what_no_retry_can_help_is_raised(gateway, tmp_path, clock):
    """An account that is not there: typed, at once, from both ways to connect."""
    api = IBKRIBInsyncApi(settings(tmp_path, account="DU999"), clock=clock())
    with pytest.raises(AccountProblem):
        await api.connect()
    with pytest.raises(AccountProblem):
        async with api:
            raise AssertionError("it cannot be entered")
    await asyncio.sleep(1)
    assert gateway.gateway.sessions == []


async def test_two_on_one_journal_are_refused(broker, tmp_path, clock):
    """The second is told before it connects."""
    second = SimulatedBrokerApi(broker.settings, clock=clock())
    with pytest.raises(JournalError):
        await second.connect()


async def test_the_connection_is_kept_over_a_loss(gateway, tmp_path, clock):
    """What is asked in between is refused, never answered emptily; afterwards all is as before."""
    api = IBKRIBInsyncApi(settings(tmp_path), clock=clock())
    async with api:
        gateway.faults.drop()
        await asyncio.sleep(0.5)
        assert not api.is_connected
        with pytest.raises(NotReady):
            await api.get_positions()
        with pytest.raises(NotReady):
            await api.get_market_data("AAPL")
        await asyncio.sleep(30)
        assert api.is_connected
        assert (await api.get_market_data("AAPL")).bid


# --- market data -----------------------------------------------------------------------------------------------------


async def test_a_quote(broker):
    """All that a quote of a stock consists of, with its time and source."""
    quote = await broker.get_market_data("AAPL")
    assert quote.instrument == AAPL
    assert 0 < quote.bid < quote.ask
    assert quote.low <= quote.last <= quote.high
    assert quote.volume > 0
    assert quote.close > 0
    assert quote.data_type == "live"
    assert abs((quote.at - EPOCH).total_seconds()) < 30
    assert (await broker.get_market_data(EURUSD)).instrument == EURUSD


async def test_what_cannot_be_quoted(broker):
    """Unknown, and unreadable."""
    with pytest.raises(UnknownInstrument, match="NOSUCH"):
        await broker.get_market_data("NOSUCH")
    with pytest.raises(InvalidIntent, match="write AAPL"):
        await broker.get_market_data("what is this")
    with pytest.raises(UnknownInstrument):
        await broker.get_option_chain("NOSUCH")


async def test_a_chain(broker):
    """Calls and puts, each with prices and greeks."""
    chain = await broker.get_option_chain("AAPL", expiries=1, strikes=4)
    assert chain.complete
    assert len(chain.calls) == len(chain.puts) == 4
    assert all(row.bid is not None and row.delta is not None for row in chain.rows)


async def test_history(broker):
    """Bars by the hour."""
    bars = await broker.get_history("AAPL", "1 hour", days=2)
    assert bars
    assert all(bar.low <= bar.open <= bar.high for bar in bars)


# --- any request -----------------------------------------------------------------------------------------------------


async def test_any_read_only_request_of_ib_insync(broker):
    """By its name; frozen; instruments stand where contracts do."""
    found = await broker.desk.request("reqMatchingSymbolsAsync", "AAPL")
    assert isinstance(found, tuple)
    assert found[0].contract.symbol == "AAPL"
    with pytest.raises(AttributeError):
        found[0].contract.symbol = "X"
    (detail,) = await broker.desk.request("reqContractDetailsAsync", AAPL)
    assert detail.contract.conId > 0
    assert detail.longName
    bars = await broker.desk.request(
        "reqHistoricalDataAsync", AAPL, "", "1 D", "1 hour", "TRADES", useRTH=True, formatDate=2
    )
    assert bars[0].close > 0
    providers = await asyncio.gather(*[broker.desk.request("reqNewsProvidersAsync") for _ in range(3)])
    assert providers[0] == providers[1] == providers[2] != ()


async def test_a_scanner_through_the_same_door(broker):
    """With the library's own object as its argument, which is not changed."""
    import ib_insync

    wanted = ib_insync.ScannerSubscription(instrument="STK", locationCode="STK.US.MAJOR", scanCode="TOP_PERC_GAIN")
    found = await broker.desk.request("reqScannerDataAsync", wanted)
    assert len(found) > 0
    assert found[0].contractDetails.contract.symbol


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("placeOrder", "no read-only request"),
        ("cancelOrder", "no read-only request"),
        ("reqGlobalCancel", "no read-only request"),
        ("whatIfOrderAsync", "desk"),
        ("connectAsync", "session"),
        ("reqTickersAsync", "first_quote"),
        ("reqPositionsAsync", "positions"),
        ("reqExecutionsAsync", "book"),
        ("__class__", "no read-only request"),
        ("disconnect", "no read-only request"),
    ],
)
async def test_what_is_no_read_only_request_is_refused(broker, name, match):
    """With what to use instead."""
    with pytest.raises(InvalidIntent, match=match):
        await broker.desk.request(name)


async def test_a_request_that_the_broker_refuses(broker):
    """Typed, with the broker's code; a stream in disguise is none."""
    with pytest.raises(BrokerRefused) as refused:
        await broker.desk.request("reqContractDetailsAsync", Stock("NOSUCH"))
    assert refused.value.code == 200
    with pytest.raises(InvalidIntent, match=r"desk\.bars"):
        await broker.desk.request("reqHistoricalDataAsync", AAPL, "", "1 D", "1 hour", "TRADES", keepUpToDate=True)


# --- orders ----------------------------------------------------------------------------------------------------------


async def test_a_market_order_fills_and_is_held(broker):
    """Placed by its key again, it is the same order."""
    ref = await broker.place_order("AAPL", "LONG", 100, key="hundred")
    order = await broker.wait_for_order(ref, 10)
    assert (order.state, order.filled, order.remaining) == (OrderState.FILLED, D(100), D(0))
    assert await broker.place_order("AAPL", "LONG", 100, key="hundred") == ref
    with pytest.raises(KeyReused):
        await broker.place_order("AAPL", "LONG", 200, key="hundred")
    assert (await broker.get_order_status(ref)).state is OrderState.FILLED
    held = (await broker.get_positions())[AAPL]
    assert held.quantity == 100
    assert held.average_cost == pytest.approx(order.average_price, rel=D("0.01"))


async def test_a_limit_order_is_cancelled_and_confirmed(broker):
    """The answer is the broker's: CANCELLED when it is, not when it was asked for."""
    ref = await broker.place_order("AAPL", "BUY", 10, order_type="LIMIT", limit_price="100.00")
    await asyncio.sleep(1)
    assert (await broker.get_order_status(ref)).state is OrderState.WORKING
    with pytest.raises(RequestTimeout):
        await broker.wait_for_order(ref, 5)
    assert (await broker.cancel_order(ref)).state is OrderState.CANCELLED
    assert (await broker.cancel_order(ref)).state is OrderState.CANCELLED


async def test_a_stop_order_is_modified_and_ends_filled(broker):
    """It waits below the market until it is told to wait above; the answer is the order as the broker has it."""
    ref = await broker.place_order("AAPL", "SELL", 10, order_type="STOP", stop_price="100.00", tif="GTC")
    await asyncio.sleep(1)
    order = await broker.modify_order(ref, quantity=4, stop_price="110.00")
    assert (order.intent.quantity, order.intent.stop_price, order.state) == (4, 110, OrderState.WORKING)
    await broker.modify_order(ref, stop_price="900.00")
    order = await broker.wait_for_order(ref, 60)
    assert (order.state, order.filled) == (OrderState.FILLED, 4)
    with pytest.raises(Refused, match="one FILLED"):
        await broker.modify_order(ref, quantity=9)


@pytest.mark.parametrize(
    ("kind", "terms"),
    [
        ("STOP_LIMIT", {"stop_price": "400.00", "limit_price": "401"}),
        ("TRAIL", {"trailing_percent": 20}),
        ("TRAIL_LIMIT", {"trailing_amount": "20", "limit_offset": "1"}),
        ("MARKET_ON_CLOSE", {}),
        ("MIDPRICE", {"limit_price": "100"}),
        ("STP", {"stop_price": 400}),
    ],
)
async def test_every_order_type_has_a_word(broker, kind, terms):
    """A script's, or TWS's own."""
    ref = await broker.place_order("AAPL", "BUY", 10, order_type=kind, **terms)
    await asyncio.sleep(1)
    assert (await broker.get_order_status(ref)).state is OrderState.WORKING
    assert (await broker.cancel_order(ref)).state is OrderState.CANCELLED


async def test_a_preview_places_nothing(broker):
    """Margin and commission, or what is wrong with it."""
    told = await broker.preview_order("AAPL", "BUY", 100, order_type="LIMIT", limit_price="230.00")
    assert told.initial_margin_after > 0
    assert told.commission > 0
    assert broker.desk.book.orders == {}
    with pytest.raises(Refused, match="off_tick"):
        await broker.preview_order("AAPL", "BUY", 100, order_type="LIMIT", limit_price="230.001")


async def test_a_filled_order_is_not_reported_as_cancelled(broker):
    """Cancelling too late says FILLED."""
    ref = await broker.place_order("EUR.USD", "SELL", 20_000)
    await broker.wait_for_order(ref, 10)
    assert (await broker.cancel_order(ref)).state is OrderState.FILLED


async def test_a_cancellation_that_nobody_confirms_is_told(gateway, tmp_path, clock):
    """In time, and as what it is: not confirmed."""
    async with IBKRIBInsyncApi(settings(tmp_path), clock=clock()) as api:
        ref = await api.place_order("AAPL", "BUY", 10, order_type="LIMIT", limit_price="100.00")
        await asyncio.sleep(1)
        gateway.faults.ignore("CANCEL_ORDER")
        with pytest.raises(RequestTimeout, match="cancellation"):
            await api.cancel_order(ref, timeout_s=2)
        assert (await api.get_order_status(ref)).cancel_wanted


@pytest.mark.parametrize(
    "order",
    [
        ("AAPL", "UP", 1, {}),
        ("AAPL", "BUY", 1.5, {}),
        ("AAPL", "BUY", True, {}),
        ("AAPL", "BUY", "many", {}),
        ("AAPL", "BUY", None, {}),
        ("AAPL", "BUY", 0, {}),
        ("AAPL", "BUY", 1, {"order_type": "LIMIT"}),
        ("AAPL", "BUY", 1, {"limit_price": "5"}),
        ("AAPL", "BUY", 1, {"order_type": "LIMIT", "limit_price": 5.01}),
        ("AAPL", "BUY", 1, {"order_type": "STOP"}),
        ("AAPL", "BUY", 1, {"order_type": "ICEBERG"}),
        ("AAPL", "BUY", 1, {"order_type": "TRAIL", "trailing_percent": 2.5}),
    ],
)
async def test_what_makes_no_sense_is_refused(broker, order):
    """Before anything is sent."""
    *arguments, options = order
    with pytest.raises(InvalidIntent):
        await broker.place_order(*arguments, **options)
    assert list(broker.desk.book.orders) == []


async def test_refusals_say_why(broker):
    """A limit of ours, an instrument that does not exist, an order that is none."""
    with pytest.raises(Refused, match="max_quantity"):
        await broker.place_order("AAPL", "BUY", 10_000_000)
    with pytest.raises(UnknownInstrument):
        await broker.place_order("NOSUCH", "BUY", 1)
    with pytest.raises(UnknownOrder):
        await broker.cancel_order("no-such-ref")
    with pytest.raises(UnknownOrder):
        await broker.get_order_status("no-such-ref")


# --- account and events ----------------------------------------------------------------------------------------------


async def test_the_account(broker):
    """Cash and equity in the base currency."""
    summary = await broker.get_account_summary()
    assert summary.base_currency == "USD"
    assert summary.net_liquidation == summary.total_cash == D(1_000_000)
    assert summary.equity_with_loan > 0
    assert await broker.get_positions() == {}


async def test_a_script_that_never_reads_events_is_not_overrun(tmp_path, clock):
    """None are kept for it until it does; from then on they come like a strategy's."""
    base = settings(tmp_path)
    few = base.model_copy(update={"service": base.service.model_copy(update={"mailbox_max": 20})})
    async with SimulatedBrokerApi(few, clock=clock()) as api:
        for number in range(30):
            ref = await api.place_order("EUR.USD", "BUY", 20_000 + number)
            await api.wait_for_order(ref, 10)
            await asyncio.sleep(3)  # no more than 30 a minute
        stream = api.desk.events()
        assert isinstance(await anext(stream), ev.Recovered)
        ref = await api.place_order("EUR.USD", "SELL", 20_000)
        kinds = set()
        while (event := await anext(stream)) is not None:
            kinds.add(type(event))
            if isinstance(event, ev.OrderChanged) and event.after is OrderState.FILLED:
                break
        assert ev.Fill in kinds
        assert event.ref == ref


# --- the example -----------------------------------------------------------------------------------------------------


@pytest.mark.tcp
def test_the_main_trader_runs(tmp_path, monkeypatch, capsys):
    """All five steps, over real sockets, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["main_trader.py"])
    structlog.reset_defaults()  # as in a fresh process: another test may have set up logging
    runpy.run_path(str(ROOT / "examples" / "main_trader.py"), run_name="__main__")
    said = capsys.readouterr().out.splitlines()
    assert said[0].startswith("AAPL  bid ")
    assert sum(" C  " in line for line in said) == 4
    assert any(line.startswith("refused: NOSUCHSYMBOL") for line in said)
    assert any(line.startswith("FILLED: 100 AAPL at ") for line in said)
    assert "CANCELLED: the order at 100.00" in said
    assert any(line.startswith("net liquidation ") for line in said)
    assert said[-1].startswith("AAPL: 100 at ")
