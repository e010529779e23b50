"""What TWS would answer: sessions, requests, visibility, limits, and answers that do not depend on chance."""

import asyncio
import hashlib
import itertools
import os
import subprocess
import sys
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.sim import Gateway, GatewayConfig, ReplayError, ReplayFile
from ibkr_service.sim.gateway import HANDLERS
from ibkr_service.sim.loop import SimLoop
from ibkr_service.sim.messages import NO_REQUEST_ID, NO_VERSION_FIELD, Answer, Request, named, request_id_of
from ibkr_service.sim.rawclient import AAPL, EURUSD, MSFT, RawClient, combo, contract, forex, stock
from ibkr_service.sim.wire import frame


@pytest.fixture
async def gateway():
    gateway = Gateway(GatewayConfig(seed=5))
    yield gateway
    gateway.close()


@pytest.fixture
async def client(gateway):
    return RawClient(gateway)


# --- the session ----------------------------------------------------------------------------------------------------


async def test_a_session_starts_as_tws_starts_it(gateway):
    """Version and time; nothing more before startApi; then accounts, the next id and the notices."""
    client = RawClient(gateway, client_id=None)
    assert client.messages == [["176", "20261123 09:30:00 EST"]]
    client.ask(71, 2, 1, "")
    assert client.messages[1:] == [
        ["15", "1", "DU1234567"],
        ["9", "1", "1"],
        ["4", "2", "-1", "2104", "Market data farm connection is OK:usfarm", ""],
        ["4", "2", "-1", "2106", "HMDS data farm connection is OK:ushmds", ""],
        ["4", "2", "-1", "2158", "Sec-def data farm connection is OK:secdefnj", ""],
    ]


@pytest.mark.parametrize(
    ("versions", "version"),
    [("v157..176", 176), ("v100..157", 157), ("v100..226", 178), ("v163", 163), ("v100..200 +PACEAPI", 178)],
)
async def test_the_lower_version_is_spoken(gateway, versions, version):
    """Never above our own."""
    assert RawClient(gateway, versions=versions).messages[0][0] == str(version)


@pytest.mark.parametrize("versions", ["v100", "v100..156", "v179..200", "v201", "hello"])
async def test_without_a_common_version_the_line_is_closed(gateway, versions):
    """And not a byte is said."""
    client = RawClient(gateway, client_id=None, versions=versions)
    assert (client.is_closed, client.data) == (True, b"")


async def test_old_versions_get_old_layouts(gateway):
    """Errors without JSON, contract details with a version field and without sizes."""
    new, old = RawClient(gateway), RawClient(gateway, client_id=2, versions="v157")
    for client in (new, old):
        client.ask(9, 8, 1, *stock(), 0, "", "")
        client.ask(81, 2, "AAPL")
    assert len(new.of(4)[0]) == 6
    assert len(old.of(4)[0]) == 5
    assert old.of(10)[0][1:4] == ["8", "1", "AAPL"]
    assert len(new.of(10)[0]) - len(old.of(10)[0]) == 3 - 2
    assert len(new.of(79)[0]) - len(old.of(79)[0]) == 2


async def test_a_taken_client_id_is_turned_away(gateway, client):
    """326 and close; the first one notices nothing, and when it leaves the id is free again."""
    client.forget()
    second = RawClient(gateway)
    assert second.errors() == [(-1, 326)]
    assert second.of(15) == second.of(9) == []
    assert second.is_closed
    assert client.messages[1:] == []
    client.session.lost()
    assert RawClient(gateway).errors() == []


async def test_the_next_id_is_above_every_id_that_the_client_used(gateway, client):
    """Each client id has its own count, which survives its sessions."""
    client.place(41, whatIf=1)
    client.place(40)
    client.session.lost()
    assert RawClient(gateway).of(9) == [["9", "1", "41"]]
    assert RawClient(gateway, client_id=2).of(9) == [["9", "1", "1"]]


async def test_requests_before_the_start_are_refused(gateway):
    """504, and the session can still start."""
    client = RawClient(gateway, client_id=None)
    client.ask(49, 1)
    client.ask(71, 2, 1, "")
    assert client.errors() == [(-1, 504)]
    assert client.of(9) == [["9", "1", "1"]]


async def test_small_questions_are_answered(gateway, client):
    """The time, the next id, the accounts."""
    client.forget()
    client.ask(49, 1)
    client.ask(8, 1, 1)
    client.ask(17, 1)
    client.ask(14, 1, 5)
    epoch = int(datetime(2026, 11, 23, 14, 30, tzinfo=UTC).timestamp())
    assert client.messages[1:] == [["49", "1", str(epoch)], ["9", "1", "1"], ["15", "1", "DU1234567"]]


# --- nonsense -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("request_", sorted(set(Request) - set(HANDLERS) - {Request.START_API}))
async def test_what_is_not_modelled_says_so(gateway, client, request_):
    """Never silence: an error with the request's own id."""
    head = [] if request_ in NO_VERSION_FIELD else [1]
    client.ask(request_, *head, 77, "", "", "")
    ((req_id, code),) = client.errors()
    assert (req_id, code) == (-1 if request_ in NO_REQUEST_ID else 77, 322)
    assert "not modelled" in client.of(4)[-1][4]


@pytest.mark.parametrize(
    ("values", "error"), [((999, 1), (-1, 505)), (("x",), (-1, 505)), ((1, 11, "x"), (-1, 320)), ((9, 8, 5), (5, 320))]
)
async def test_nonsense_in_fields_is_answered_with_an_error(gateway, client, values, error):
    """The connection lives on."""
    client.ask(*values)
    client.ask(49, 1)
    assert client.errors() == [error]
    assert client.of(49)


async def test_nonsense_in_the_framing_ends_the_connection(gateway, client):
    """The offending client's, nobody else's."""
    other = RawClient(gateway, client_id=2)
    client.write(b"\xff\xff\xff\xff")
    assert client.is_closed
    assert not other.is_closed
    assert [session.client_id for session in gateway.sessions] == [2]
    client.write(b"more")


@settings(deadline=None, max_examples=300)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(sorted(HANDLERS)),
            st.lists(
                st.one_of(
                    st.sampled_from(
                        [
                            "",
                            "0",
                            "1",
                            "-1",
                            "100",
                            "AAPL",
                            "STK",
                            "BAG",
                            "OPT",
                            "BUY",
                            "SMART",
                            "LMT",
                            "1e5",
                            "nan",
                            "USD",
                        ]
                    ),
                    st.integers(-(2**70), 2**70).map(str),
                    st.text(max_size=5),
                    st.just(str(AAPL)),
                ),
                max_size=130,
            ),
        ),
        max_size=5,
    )
)
def test_no_request_can_crash_the_gateway(requests):
    """Whatever is in the fields, the next question is answered."""

    async def fuzz():
        gateway = Gateway(GatewayConfig(requests_per_second_max=0))
        client = RawClient(gateway)
        for request, values in requests:
            client.ask(request, *(value.replace("\0", "") for value in values))
        await asyncio.sleep(2)
        client.forget()
        client.ask(49, 1)
        assert client.of(49)
        gateway.close()

    with asyncio.Runner(loop_factory=SimLoop) as runner:
        runner.run(fuzz())


async def test_too_many_messages_are_warned_about_and_then_end_the_connection(gateway, client):
    """Fifty in a second; at the third offence the line is closed."""
    for _ in range(60):
        client.ask(49, 1)
    assert client.errors() == [(-1, 100)]
    await asyncio.sleep(1.1)
    for _ in range(50):
        client.ask(49, 1)
    assert client.errors() == [(-1, 100)]
    for _ in range(200):
        client.ask(49, 1)
    assert client.errors() == [(-1, 100)] * 3
    assert client.is_closed


async def test_a_read_only_gateway_refuses_orders():
    """321, about orders and questions about orders alike; everything else works."""
    gateway = Gateway(GatewayConfig(read_only=True))
    client = RawClient(gateway)
    client.place(1)
    client.ask(5, 1)
    client.ask(4, 1, 1, "")
    client.ask(61, 1)
    assert client.errors() == [(1, 321), (-1, 321), (1, 321)]
    assert client.of(62)
    gateway.close()


# --- contracts ------------------------------------------------------------------------------------------------------


async def test_contract_details_have_the_exact_layout(gateway, client):
    """Every field in its place, hours and sizes included."""
    client.ask(9, 8, 7, *contract(symbol="AAPL", sec_type="STK", exchange="SMART", currency="USD"), 0, "", "", "")
    (details,) = client.of(10)
    assert details[:5] == ["10", "7", "AAPL", "STK", ""]
    assert details[12] == str(AAPL)
    assert details[13] == "0.01"
    assert details[27].startswith("20261123:0930-20261123:1600;20261124")
    assert "20261123:0400-20261123:2000" in details[26]
    assert details[30:37] == ["3", "ISIN", "US0378331005", "CUSIP", "037833100", "FIGI", "BBG000B9XRY4"]
    assert details[-3:] == ["1", "1", "100"]
    assert len(details) == 40 + 6
    assert client.of(52) == [["52", "1", "7"]]


async def test_unknown_contracts_get_200_and_no_end(gateway, client):
    """And a combo, which has no details, 321."""
    client.ask(9, 8, 1, *contract(symbol="NOPE", sec_type="STK"), 0, "", "", "")
    client.ask(9, 8, 2, *combo(), 0, "", "", "")
    client.ask(9, 8, 3, *contract(symbol="AAPL"), 0, "", "", "")
    assert client.errors() == [(1, 200), (2, 321), (3, 321)]
    assert client.of(4)[-3][4] == "No security definition has been found for the request"
    assert client.of(52) == []


async def test_option_parameters_come_once_per_exchange(gateway, client):
    """Expiries and strikes with their counts."""
    client.ask(78, 4, "AAPL", "", "STK", AAPL)
    first, *rest = client.of(75)
    assert [first[2], *(message[2] for message in rest)] == ["SMART", "AMEX", "CBOE", "ISE", "PHLX"]
    expiries = int(first[6])
    strikes = int(first[7 + expiries])
    assert len(first) == 8 + expiries + strikes
    assert client.of(76) == [["76", "4"]]
    client.ask(78, 5, "AAPL", "", "STK", MSFT)
    assert client.errors() == [(5, 321)]


async def test_market_rules_and_symbols_are_answered(gateway, client):
    """Price steps, and samples with their description."""
    client.ask(91, 32)
    client.ask(81, 6, "IBM")
    client.ask(91, 1)
    assert client.of(93) == [["93", "32", "2", "0", "0.01", "3", "0.05"]]
    assert client.of(79)[0][2:10] == ["1", "8314", "IBM", "STK", "NYSE", "USD", "1", "OPT"]
    assert client.errors() == [(-1, 321)]


# --- market data ----------------------------------------------------------------------------------------------------


def subscribe(client, req_id, instrument=None, *, snapshot=0):
    client.ask(1, 11, req_id, *(stock() if instrument is None else instrument), 0, "", snapshot, 0, "")


async def test_a_subscription_begins_with_its_parameters_and_ticks_at_once(gateway, client):
    """81 and 58 first; then ticks as the quote changes, and none after the cancel."""
    subscribe(client, 3)
    kinds = [message[0] for message in client.messages[6:]]
    assert kinds[:3] == ["81", "58", "1"]
    await asyncio.sleep(2)
    assert {message[3] for message in client.of(1)} == {"1", "2", "4", "6", "7", "9", "14"}
    assert {message[3] for message in client.of(2)} <= {"0", "3", "5", "8"}
    client.ask(2, 2, 3)
    client.forget()
    await asyncio.sleep(2)
    assert client.messages[1:] == []
    client.ask(2, 2, 3)
    assert client.errors() == [(3, 300)]


async def test_only_what_has_changed_is_sent(gateway, client):
    """The same price and size twice is one tick."""
    subscribe(client, 3, forex())
    await asyncio.sleep(60)
    bids = [message[4] for message in client.of(1) if message[3] == "1"]
    assert all(a != b for a, b in itertools.pairwise(bids))


async def test_a_snapshot_ends(gateway, client):
    """Ticks, then 57, and no line is held."""
    subscribe(client, 3, snapshot=1)
    assert client.messages[-1] == ["57", "1", "3"]
    client.forget()
    await asyncio.sleep(2)
    assert client.messages[1:] == []


async def test_delayed_data_have_their_own_tick_types(gateway, client):
    """After reqMarketDataType 3."""
    client.ask(59, 1, 3)
    subscribe(client, 3)
    assert client.of(58) == [["58", "1", "3", "3"]]
    assert {message[3] for message in client.of(1)} == {"66", "67", "68", "75"}
    client.ask(59, 1, 9)
    assert client.errors() == [(-1, 321)]


async def test_options_come_with_greeks(gateway, client):
    """At the bid, at the ask, at the last price and of the model; all fields are numbers."""
    subscribe(client, 3, contract(local_symbol="AAPL  261218C00230000", sec_type="OPT", exchange="SMART"))
    greeks = client.of(21)
    assert [message[2] for message in greeks] == ["10", "11", "12", "13"]
    assert all(len(message) == 12 for message in greeks)
    assert all(float(field) == float(field) for message in greeks for field in message)


async def test_combos_have_market_data(gateway, client):
    """A spread's bid and ask are its legs'."""
    legs = [AAPL, 1, "BUY", "SMART", MSFT, 1, "SELL", "SMART"]
    client.ask(1, 11, 3, *combo(), 2, *legs, 0, "", 0, 0, "")
    bid = next(message for message in client.of(1) if message[3] == "1")
    quotes = [gateway.market.quote(gateway.universe.stocks[con_id]) for con_id in (AAPL, MSFT)]
    assert Decimal(bid[4]) == quotes[0].bid - quotes[1].ask


async def test_lines_are_limited_and_unknown_contracts_have_none():
    """101 above the cap, for all clients together; 200; 102 for an id in use."""
    gateway = Gateway(GatewayConfig(market_data_lines_max=3))
    client, other = RawClient(gateway), RawClient(gateway, client_id=2)
    subscribe(client, 1)
    subscribe(client, 1)
    subscribe(client, 2, stock(MSFT))
    subscribe(other, 3)
    subscribe(client, 4)
    subscribe(client, 5, stock(1), snapshot=1)
    subscribe(client, 6, snapshot=1)
    assert client.errors() == [(1, 102), (4, 101), (5, 200)]
    client.ask(2, 2, 1)
    subscribe(client, 4)
    assert client.errors()[3:] == []
    other.session.lost()
    subscribe(client, 5)
    assert client.errors()[3:] == []
    gateway.close()


# --- orders: who sees what ------------------------------------------------------------------------------------------


async def test_a_client_sees_its_own_orders_and_the_master_sees_all():
    """Live reports, open orders and executions."""
    gateway = Gateway(GatewayConfig(master_client_id=9))
    own, other, master = RawClient(gateway, 1), RawClient(gateway, 2), RawClient(gateway, 9)
    own.place(1)
    own.place(2, orderType="LMT", lmtPrice=Decimal(100))
    await asyncio.sleep(0.3)
    assert own.statuses(1) == master.statuses(1) == ["PreSubmitted", "Submitted", "Filled"]
    assert other.of(3) == other.of(11) == []
    for client, orders, fills in ((own, 1, 1), (other, 0, 0), (master, 1, 1)):
        client.forget()
        client.ask(5, 1)
        client.ask(7, 3, 50, 0, "", "", "", "", "", "")
        assert len(client.of(5)) == len(client.of(3)) == orders
        assert len(client.of(11)) == len(client.of(59)) == fills
        assert client.of(53) == [["53", "1"]]
        assert client.of(55) == [["55", "1", "50"]]
    other.forget()
    other.ask(16, 1)
    other.ask(99, 0)
    assert len(other.of(5)) == 1
    assert len(other.of(101)) == 1
    assert other.of(102) == [["102"]]
    gateway.close()


@pytest.mark.parametrize(
    ("wanted", "count"),
    [
        ([0, "", "", "", "", "", ""], 2),
        ([1, "DU1234567", "", "AAPL", "STK", "SMART", "BUY"], 1),
        ([0, "", "", "", "", "", "SELL"], 1),
        ([0, "", "", "", "CASH", "", ""], 0),
        ([5, "", "", "", "", "", ""], 0),
        ([0, "", "20261123 09:30:10", "", "", "", ""], 1),
        ([0, "", "20261123-14:30:10", "", "", "", ""], 1),
        ([0, "", "20261123-14:00:00 UTC", "", "", "", ""], 2),
    ],
)
async def test_executions_are_filtered(gateway, client, wanted, count):
    """By client, account, time, symbol, type, exchange and side."""
    client.place(1)
    await asyncio.sleep(30)
    client.place(2, stock(MSFT), action="SELL")
    await asyncio.sleep(0.3)
    client.forget()
    client.ask(7, 3, 50, *wanted)
    assert len(client.of(11)) == count
    assert client.errors() == []


async def test_an_order_lives_on_without_its_client(gateway, client):
    """Its fill is not told later, but it is found."""
    client.place(1)
    client.session.lost()
    await asyncio.sleep(0.3)
    again = RawClient(gateway)
    assert again.of(11) == []
    again.ask(7, 3, 50, 0, "", "", "", "", "", "")
    again.ask(61, 1)
    assert len(again.of(11)) == len(again.of(61)) == 1


async def test_global_cancel_cancels_everybodys_orders(gateway, client):
    """Of all clients."""
    other = RawClient(gateway, client_id=2)
    other.place(1, orderType="LMT", lmtPrice=Decimal(100))
    await asyncio.sleep(0.3)
    client.ask(58, 1)
    await asyncio.sleep(0.3)
    assert other.statuses(1)[-1] == "Cancelled"


# --- accounts -------------------------------------------------------------------------------------------------------


async def test_account_updates_are_downloaded_and_then_pushed(gateway, client):
    """6, 7, 8, 54; after a fill what has changed; every three minutes the prices."""
    client.ask(6, 2, 1, "DU1234567")
    assert client.of(54) == [["54", "1", "DU1234567"]]
    tags = {(message[2], message[4]): message[3] for message in client.of(6)}
    assert tags["NetLiquidation", "USD"] == tags["CashBalance", "BASE"] == "1000000.00"
    client.forget()
    client.place(1)
    await asyncio.sleep(0.3)
    assert client.of(7)[-1][13] == "100"
    assert len(client.of(6)) > 5
    client.forget()
    await asyncio.sleep(181)
    assert len(client.of(7)) == 1
    assert client.of(8)
    client.ask(6, 2, 0, "DU1234567")
    client.forget()
    await asyncio.sleep(400)
    assert client.messages[1:] == []


async def test_positions_are_told_and_then_pushed(gateway, client):
    """A closed one with quantity 0."""
    client.ask(61, 1)
    client.ask(74, 1, 8, "DU1234567", "")
    assert client.of(62) == [["62", "1"]]
    assert client.of(72) == [["72", "1", "8"]]
    client.place(1)
    await asyncio.sleep(0.3)
    client.place(2, action="SELL")
    await asyncio.sleep(0.3)
    assert [message[14] for message in client.of(61)] == ["100", "0"]
    assert [message[15] for message in client.of(71)] == ["100", "0"]
    assert client.of(61)[0][2:5] == ["DU1234567", str(AAPL), "AAPL"]
    client.ask(64, 1)
    client.ask(75, 1, 8)
    client.place(3)
    await asyncio.sleep(0.3)
    assert len(client.of(61)) == len(client.of(71)) == 2


async def test_account_summaries_have_the_tags_that_were_asked_for(gateway, client):
    """By name, and the ledger in the base currency, in one, in all."""
    client.place(1, forex(), totalQuantity=20_000)
    await asyncio.sleep(0.3)
    client.ask(62, 1, 5, "All", "NetLiquidation,BuyingPower,$LEDGER:EUR")
    rows = {(message[4], message[6]): message[5] for message in client.of(63)}
    assert set(rows) > {("NetLiquidation", "USD"), ("BuyingPower", "USD"), ("CashBalance", "EUR")}
    assert rows["CashBalance", "EUR"] == "20000.00"
    assert client.of(64) == [["64", "1", "5"]]
    client.ask(62, 1, 6, "All", "$LEDGER")
    assert {message[6] for message in client.of(63) if message[2] == "6"} == {"BASE"}
    client.ask(62, 1, 7, "All", "$LEDGER")
    assert client.errors() == [(7, 322)]
    client.ask(63, 1, 5)
    client.ask(62, 1, 7, "Nobody", "$LEDGER")
    assert client.errors()[1:] == [(7, 321)]


async def test_profits_are_told_once_a_second(gateway, client):
    """Of the account, and of a position."""
    client.place(1)
    await asyncio.sleep(0.3)
    client.ask(92, 5, "DU1234567", "")
    client.ask(94, 6, "DU1234567", "", AAPL)
    client.ask(94, 7, "DU1234567", "", 1)
    await asyncio.sleep(10)
    assert 2 < len(client.of(94)) <= 11
    assert client.of(95)[-1][2] == "100"
    assert client.errors() == [(7, 321)]
    client.ask(93, 5)
    client.ask(95, 6)
    client.forget()
    await asyncio.sleep(10)
    assert client.messages[1:] == []


async def test_multi_account_updates_are_answered(gateway, client):
    """73 and 74; with the ledger flag only the ledger."""
    client.ask(76, 1, 5, "DU1234567", "", 0)
    client.ask(76, 1, 6, "", "", 1)
    assert client.of(74) == [["74", "1", "5"], ["74", "1", "6"]]
    tags = [{message[5] for message in client.of(73) if message[2] == req_id} for req_id in ("5", "6")]
    assert "NetLiquidation" in tags[0] - tags[1]
    assert "CashBalance" in tags[1]
    client.ask(77, 1, 5)
    client.ask(76, 1, 8, "DU9", "", 1)
    assert client.errors() == [(8, 321)]


# --- replay ---------------------------------------------------------------------------------------------------------

RECORDING = "timestamp,bid,ask\n2013-01-01 22:00:00+00:00,1.30,1.31\n2013-01-01 22:00:10+00:00,1.32,1.33\n"


async def test_a_recording_is_the_clock(tmp_path):
    """It starts at the first stamp; ticks, times and fills are the recording's; it says when it has ended."""
    path = tmp_path / "eurusd-test.csv"
    path.write_text(RECORDING)
    gateway = Gateway(GatewayConfig(replay=(ReplayFile(path),), speed=2))
    client = RawClient(gateway)
    client.ask(49, 1)
    assert client.of(49)[0][2] == str(int(datetime(2013, 1, 1, 22, tzinfo=UTC).timestamp()))
    subscribe(client, 3, forex())
    client.place(1, forex(), totalQuantity=1000)
    assert not gateway.replay_ended.is_set()
    await gateway.replay_ended.wait()
    assert gateway.clock.seconds() == pytest.approx(10)
    await asyncio.sleep(1)
    assert [message[4] for message in client.of(1) if message[3] == "1"] == ["1.3", "1.32"]
    assert [message[5] for message in client.of(1) if message[3] == "1"] == ["1000000"] * 2
    (fill,) = client.of(11)
    assert (fill[15], fill[20]) == ("20130101 17:00:00 US/Eastern", "1.31")
    assert gateway.market.quote(gateway.universe.pairs[EURUSD]).bid == Decimal("1.32")
    gateway.close()


async def test_a_recording_of_something_that_is_not_listed_is_refused(tmp_path):
    """The error names the file."""
    path = tmp_path / "eurxyz.csv"
    path.write_text(RECORDING)
    with pytest.raises(ReplayError, match=r"EUR\.XYZ"):
        Gateway(GatewayConfig(replay=(ReplayFile(path),)))


# --- the same again -------------------------------------------------------------------------------------------------


async def script(chunk: int = 0, seed: int = 3) -> bytes:
    """A busy minute; everything that the gateway said."""
    gateway = Gateway(GatewayConfig(seed=seed))
    client = RawClient(gateway, chunk=chunk)
    subscribe(client, 1)
    subscribe(client, 2, forex())
    client.ask(6, 2, 1, "DU1234567")
    client.ask(61, 1)
    client.place(10, totalQuantity=1500)
    client.place(11, forex(), orderType="LMT", lmtPrice=Decimal("1.0852"), totalQuantity=20_000)
    client.place(12, combo(), [(AAPL, 1, "BUY", "SMART"), (MSFT, 1, "SELL", "SMART")], totalQuantity=2)
    await asyncio.sleep(30)
    client.ask(4, 1, 11, "")
    client.ask(7, 3, 50, 0, "", "", "", "", "", "")
    client.ask(99, 0)
    await asyncio.sleep(30)
    gateway.close()
    return client.data


async def test_answers_do_not_depend_on_how_bytes_were_cut():
    """One byte at a time or all at once."""
    whole = await script()
    assert whole == await script(chunk=1) == await script(chunk=7)
    assert whole != await script(seed=4)


def digest() -> str:
    """What the script comes to, as a short text."""
    with asyncio.Runner(loop_factory=SimLoop) as runner:
        return hashlib.sha256(runner.run(script())).hexdigest()


def test_the_same_seed_gives_the_same_bytes_in_every_process():
    """Whatever PYTHONHASHSEED is: no set is walked in an order that matters."""
    root = Path(__file__).parents[2]
    code = "import runpy, sys; print(runpy.run_path(sys.argv[1])['digest']())"
    outputs = {
        subprocess.run(
            [sys.executable, "-W", "ignore", "-c", code, __file__],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(root)},
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    }
    assert outputs == {digest() + "\n"}


# --- names ----------------------------------------------------------------------------------------------------------


def test_messages_have_names_in_any_spelling():
    """Tests say what they mean."""
    for spelling in ("positions", "reqPositions", "POSITIONS", 61):
        assert named(Request, spelling) == 61
    assert named(Request, "placeOrder") == 3
    assert named(Answer, "execDetails") == 11
    for nonsense in ("nothing", 999):
        with pytest.raises(ValueError, match="not"):
            named(Request, nonsense)


@pytest.mark.parametrize(
    ("values", "req_id"),
    [
        (("1", "11", "7"), 7),
        (("3", "9"), 9),
        (("4", "1", "5"), 5),
        (("61", "1"), -1),
        (("1",), -1),
        (("x",), -1),
        ((), -1),
    ],
)
def test_the_id_that_an_error_must_carry_is_found(values, req_id):
    """Behind the version field, where there is one."""
    assert request_id_of(values) == req_id


def test_frames_of_the_server_end_each_field():
    """Clients drop the element after the last NUL."""
    assert frame(9, 1, 5) == b"\0\0\0\x06" + b"9\x001\x005\0"
