"""Market data: ticks of every kind, permissions, tick by tick, depth, bars in real time, the calculator."""

import asyncio
import itertools
import math
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.sim import Gateway, GatewayConfig
from ibkr_service.sim.contracts import ContractSpec, Universe
from ibkr_service.sim.generics import LEGAL
from ibkr_service.sim.pricing import Prices
from ibkr_service.sim.rawclient import AAPL, RawClient, contract, forex, stock
from ibkr_service.sim.smile import black_scholes, implied_volatility, smile
from ibkr_service.sim.timeline import NEW_YORK
from ibkr_service.sim.walk import RandomWalk

NOON = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)
OPTION = contract(local_symbol="AAPL  261218C00230000", sec_type="OPT", exchange="SMART")
SPX = contract(symbol="SPX", sec_type="IND", exchange="CBOE")
ES = contract(symbol="ES", sec_type="CONTFUT", exchange="CME")


def gateway_with(**known):
    return Gateway(GatewayConfig(**{"seed": 5, "started_at": NOON, "requests_per_second_max": 0} | known))


@pytest.fixture
async def gateway():
    gateway = gateway_with()
    yield gateway
    gateway.close()


@pytest.fixture
async def client(gateway):
    client = RawClient(gateway)
    client.forget()
    return client


def subscribe(client, req_id=3, instrument=None, *, generic="", snapshot=0, regulatory=0):
    client.ask(1, 11, req_id, *(stock() if instrument is None else instrument), 0, generic, snapshot, regulatory, "")


def ticks(client, req_id=3):
    """Tick type → its values, one after the other."""
    found = {}
    for message in client.messages[1:]:
        if message[0] in {"1", "2", "45", "46"} and message[2] == str(req_id):
            found.setdefault(int(message[3]), []).append(message[4])
    return found


# --- lines ----------------------------------------------------------------------------------------------------------


async def test_the_figures_of_the_day(gateway, client):
    """Open, high, low and yesterday's close are those of history; volume grows; timestamps are seconds."""
    subscribe(client)
    await asyncio.sleep(30)
    seen = ticks(client)
    client.ask(20, 9, *stock(), 0, "", "1 day", "2 D", 1, "TRADES", 2, 0, "")
    await asyncio.sleep(0.01)
    before, today = client.of(17)[0][5:13], client.of(17)[0][13:21]
    assert seen[14] == [today[1]]
    assert (seen[6][-1], seen[7][-1], seen[4][-1]) == (today[2], today[3], today[4])
    assert seen[9] == [before[4]]
    volumes = [int(value) for value in seen[8]]
    assert volumes == sorted(volumes)
    assert volumes[-1] >= int(today[5])
    assert abs(int(seen[45][-1]) - gateway.clock.now().timestamp()) < 2
    assert seen[49] == ["0"]


async def test_who_looks_late_sees_the_same_day(gateway, client):
    """High and low do not depend on who watched."""
    subscribe(client)
    await asyncio.sleep(120)
    late = RawClient(gateway, client_id=2)
    subscribe(late)
    await asyncio.sleep(10)
    early, other = ticks(client), ticks(late)
    assert all(early[kind][-1] == other[kind][-1] for kind in (1, 2, 4, 6, 7, 8, 9, 14))


async def test_an_index_has_a_last_price_only(client):
    """No bid, no ask; SPX moves with SPY."""
    subscribe(client, instrument=SPX)
    await asyncio.sleep(5)
    seen = ticks(client)
    assert {1, 2, 0, 3}.isdisjoint(seen)
    assert 4000 < float(seen[4][-1]) < 8000


GENERIC = {
    100: {29, 30}, 101: {27, 28}, 104: {23}, 106: {24}, 165: {15, 16, 17, 18, 19, 20, 21}, 221: {37}, 233: {48},
    236: {46, 89}, 411: {58}, 456: {59},
}  # fmt: skip


@pytest.mark.parametrize("code", GENERIC)
async def test_generic_ticks_of_a_stock(client, code):
    """Each code brings its types, and no other code's."""
    subscribe(client, generic=str(code))
    subscribe(client, 4)
    await asyncio.sleep(2)
    assert set(ticks(client)) - set(ticks(client, 4)) == GENERIC[code]
    assert all(value != "" for values in ticks(client).values() for value in values)


async def test_generic_ticks_of_options_and_futures(client):
    """An option's own side; a future's open interest."""
    subscribe(client, instrument=OPTION, generic="100,101,106")
    subscribe(client, 4, ES, generic="588")
    assert {29, 27, 24} <= set(ticks(client))
    assert {30, 28}.isdisjoint(ticks(client))
    assert 86 in ticks(client, 4)


async def test_rt_volume(client):
    """Six parts, a rising volume, an average within the day's range."""
    subscribe(client, generic="233")
    await asyncio.sleep(5)
    rows = [text.split(";") for text in ticks(client)[48]]
    assert {len(row) for row in rows} == {6}
    volumes = [int(row[3]) for row in rows]
    assert volumes == sorted(set(volumes))
    assert all(abs(float(row[4]) / float(row[0]) - 1) < 0.1 for row in rows)


async def test_statistics_are_in_order(client):
    """The longer the time, the wider the range."""
    subscribe(client, generic="165")
    seen = {kind: float(values[0]) for kind, values in ticks(client).items()}
    assert seen[19] <= seen[17] <= seen[15] < seen[16] <= seen[18] <= seen[20]


@pytest.mark.parametrize(("text", "code"), [("999", 321), ("abc", 321), ("-1", 321), ("100,,mdoff,292:BRFG", None)])
async def test_lists_of_generic_ticks(client, text, code):
    """What TWS does not know is refused, what it knows is accepted."""
    subscribe(client, generic=text)
    assert [error[1] for error in client.errors()] == ([code] if code else [])


async def test_without_the_quote(client):
    """A line for news has no ticks; with a number beside it there are those of that number, and no others."""
    subscribe(client, generic="mdoff,292:BRFG+DJNL")
    subscribe(client, 4, generic="mdoff,233")
    await asyncio.sleep(5)
    assert (client.errors(), ticks(client), set(ticks(client, 4))) == ([], {}, {48})


async def test_every_legal_code_is_accepted(client):
    """For every kind of instrument."""
    for req_id, instrument in enumerate((stock(), forex(), OPTION, SPX, ES)):
        subscribe(client, req_id, instrument, generic=",".join(map(str, LEGAL)))
    await asyncio.sleep(2)
    assert client.errors() == []


@pytest.mark.parametrize("instrument", [stock(), forex(), OPTION, SPX, ES], ids=lambda it: it[2])
@pytest.mark.parametrize("regulatory", [0, 1])
async def test_snapshots_end(client, instrument, regulatory):
    """Regulatory ones too; no line is held."""
    subscribe(client, instrument=instrument, snapshot=1 - regulatory, regulatory=regulatory)
    assert client.messages[-1] == ["57", "1", "3"]
    assert client.session.streams == {}
    assert ticks(client)


async def test_a_snapshot_has_no_generic_ticks(client):
    """321."""
    subscribe(client, generic="100", snapshot=1)
    assert client.errors() == [(3, 321)]


# --- permissions ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("permission", "kind", "errors"),
    [
        ("live", 1, []), ("live", 2, []), ("live", 3, []), ("delayed", 1, [10089]), ("delayed", 3, [10167]),
        ("delayed", 4, [10167]), ("none", 1, [354]), ("none", 3, [354]),
    ],
)  # fmt: skip
async def test_what_a_login_may_see(permission, kind, errors):
    """Refused, or delayed, or as it was asked for; the type is said first."""
    gateway = gateway_with(data_permission=permission)
    client = RawClient(gateway)
    client.ask(59, 1, kind)
    subscribe(client)
    assert [code for _, code in client.errors()] == errors
    is_shown = set(errors) <= {10167}
    assert client.of(58) == ([["58", "1", "3", str(kind)]] if is_shown else [])
    if is_shown:
        assert (66 in ticks(client), 1 in ticks(client)) == (kind >= 3, kind < 3)
    subscribe(client, 4, forex())
    assert ticks(client, 4)
    gateway.close()


async def test_delayed_prices_are_those_of_fifteen_minutes_ago(gateway, client):
    """All of them, the day's figures too."""
    subscribe(client)
    await asyncio.sleep(60)
    live = ticks(client)
    await asyncio.sleep(900)
    late = RawClient(gateway, client_id=2)
    late.ask(59, 1, 3)
    subscribe(late)
    await asyncio.sleep(0.001)
    delayed = ticks(late)
    pairs = {1: 66, 2: 67, 4: 68, 6: 72, 7: 73, 9: 75, 14: 76, 8: 74}
    assert all(live[kind][-1] == delayed[other][0] for kind, other in pairs.items())
    assert abs(int(delayed[88][0]) + 900 - gateway.clock.now().timestamp()) < 2


async def test_greeks_can_be_delayed(client):
    """80 to 83."""
    client.ask(59, 1, 3)
    subscribe(client, instrument=OPTION)
    assert [message[2] for message in client.of(21)] == ["80", "81", "82", "83"]


async def test_greeks_may_be_told_less_often_than_quotes():
    """Prices with every change, greeks at once and then twenty seconds later, at the earliest."""
    model, asks = [], []
    for interval_s in (0.0, 20.0):
        gateway = gateway_with(quote_interval_s=1.0, greeks_interval_s=interval_s)
        client = RawClient(gateway)
        subscribe(client, instrument=OPTION)
        await asyncio.sleep(90)
        model.append(len([message for message in client.of(21) if message[2] == "13"]))
        asks.append(ticks(client)[2])
        gateway.close()
    assert asks[0] == asks[1]
    assert model[0] > 8
    assert 3 <= model[1] <= 5


async def test_outside_real_hours_there_is_the_last_quote_and_silence():
    """A line opened at night shows the evening's last quote; at four in the morning it begins to move."""
    night = datetime(2026, 11, 24, 3, 59, tzinfo=NEW_YORK)
    gateway = gateway_with(started_at=night, hours="real")
    client = RawClient(gateway)
    subscribe(client)
    first = ticks(client)
    await asyncio.sleep(59)
    assert ticks(client) == first
    stamp = datetime.fromtimestamp(int(first[45][0]), NEW_YORK)
    assert stamp.strftime("%d %H:%M:%S") == "23 19:59:59"
    await asyncio.sleep(5)
    assert len(ticks(client)[1]) > 1
    gateway.close()


# --- tick by tick ---------------------------------------------------------------------------------------------------


def by_tick(client, kind, req_id=5, *, instrument=None, count=0, ignores_size=0):
    client.ask(97, req_id, *(stock() if instrument is None else instrument), kind, count, ignores_size)


@pytest.mark.parametrize(
    ("kind", "number", "width"), [("Last", 1, 5), ("AllLast", 2, 5), ("BidAsk", 3, 5), ("MidPoint", 4, 1)]
)
async def test_tick_by_tick(client, kind, number, width):
    """The exact layout; times in order; nothing after the cancel."""
    by_tick(client, kind)
    await asyncio.sleep(5)
    rows = client.of(99)
    assert len(rows) >= 5
    assert {(row[2], len(row)) for row in rows} == {(str(number), 4 + width)}
    times = [int(row[3]) for row in rows]
    assert times == sorted(times)
    client.ask(98, 5)
    await asyncio.sleep(2)
    assert len(client.of(99)) == len(rows)
    client.ask(98, 5)
    assert client.errors() == [(5, 300)]


async def test_trades_add_up_to_the_bar(gateway, client):
    """Every trade of a minute, and the minute's bar."""
    by_tick(client, "AllLast")
    await asyncio.sleep(59.95)
    rows = client.of(99)
    client.ask(20, 9, *stock(), 0, "", "1 min", "60 S", 1, "TRADES", 2, 0, "")
    await asyncio.sleep(0.001)
    bar = client.of(17)[0][-8:]
    assert (len(rows), sum(int(row[5]) for row in rows)) == (int(bar[7]), int(bar[5]))
    assert (rows[0][4], rows[-1][4]) == (bar[1], bar[4])


async def test_sizes_can_be_ignored(client):
    """Only new prices make a tick."""
    by_tick(client, "BidAsk", ignores_size=1)
    await asyncio.sleep(30)
    sides = [row[4:6] for row in client.of(99)]
    assert all(a != b for a, b in itertools.pairwise(sides))


@pytest.mark.parametrize(("kind", "answer"), [("Last", 98), ("BidAsk", 97), ("MidPoint", 96)])
async def test_ticks_of_the_past_come_first(client, kind, answer):
    """As many as were asked for."""
    by_tick(client, kind, count=12)
    (message,) = client.of(answer)
    assert (message[1], message[2], message[-1]) == ("5", "12", "1")


async def test_limits_of_tick_by_tick(client):
    """Five streams for a hundred lines; no trades of currencies; unknown kinds."""
    for req_id in range(6):
        by_tick(client, "MidPoint", req_id)
    by_tick(client, "Gossip", 7)
    client.ask(98, 0)
    by_tick(client, "Last", 8, instrument=forex())
    by_tick(client, "Last", 1)
    assert client.errors() == [(5, 10190), (7, 321), (8, 10189), (1, 102)]


# --- depth ----------------------------------------------------------------------------------------------------------


def book(client, req_id=6, *, is_smart):
    """The book as the messages have made it: bids and asks."""
    sides = {"1": [], "0": []}
    for message in client.of(13 if is_smart else 12):
        if message[2] != str(req_id):
            continue
        place, rest = int(message[3]), message[5:] if is_smart else message[4:]
        operation, side, price, size = rest[:4]
        if operation == "0":
            sides[side].insert(place, (float(price), float(size)))
        elif operation == "1":
            sides[side][place] = (float(price), float(size))
        else:
            del sides[side][place]
    return sides["1"], sides["0"]


@pytest.mark.parametrize("is_smart", [True, False])
async def test_the_book_is_sorted_and_begins_with_the_quote(gateway, client, is_smart):
    """At every moment."""
    client.ask(10, 5, 6, *stock(), 7, int(is_smart), "")
    for _ in range(20):
        await asyncio.sleep(1)
        bids, asks = book(client, is_smart=is_smart)
        quote = gateway.market.quote(gateway.universe.stocks[AAPL])
        assert (len(bids), len(asks)) == (7, 7)
        assert bids == sorted(bids, reverse=True)
        assert asks == sorted(asks)
        assert (bids[0], asks[0]) == (
            (float(quote.bid), float(quote.bid_size)),
            (float(quote.ask), float(quote.ask_size)),
        )
    assert {len(message) for message in client.of(13 if is_smart else 12)} == {10 if is_smart else 8}
    client.ask(11, 1, 6, int(is_smart))
    before = len(client.messages)
    await asyncio.sleep(2)
    assert len(client.messages) == before


async def test_three_books_at_a_time(client):
    """309, 310, 10092."""
    for req_id in range(4):
        client.ask(10, 5, req_id, *stock(), 5, 1, "")
    client.ask(11, 1, 9, 1)
    client.ask(11, 1, 0, 1)
    client.ask(10, 5, 8, *SPX, 5, 1, "")
    assert client.errors() == [(3, 309), (9, 310), (8, 10092)]


async def test_depth_exchanges_and_smart_components(client):
    """With their counts."""
    client.ask(82)
    client.ask(83, 4, "9c0001")
    client.ask(83, 5, "nonsense")
    (exchanges,), (components,) = client.of(80), client.of(82)
    assert len(exchanges) == 2 + 5 * int(exchanges[1])
    assert len(components) == 3 + 3 * int(components[2])
    assert client.errors() == [(5, 321)]


# --- real-time bars -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("show", ["TRADES", "MIDPOINT", "BID", "ASK"])
async def test_real_time_bars(client, show):
    """Every five seconds, the bar that history has."""
    client.ask(50, 3, 5, *stock(), 5, show, 1, "")
    await asyncio.sleep(31)
    rows = client.of(50)
    assert [int(after[3]) - int(before[3]) for before, after in itertools.pairwise(rows)] == [5] * (len(rows) - 1)
    assert len(rows) == 6
    client.ask(51, 1, 5)
    client.ask(20, 9, *stock(), 0, "", "5 secs", "60 S", 1, show, 2, 0, "")
    await asyncio.sleep(20)
    assert len(client.of(50)) == 6
    values = client.of(17)[0][5:]
    history = {values[n]: values[n : n + 8] for n in range(0, len(values), 8)}
    for row in rows:
        assert history[row[3]] == row[3:]


async def test_bad_requests_for_real_time_bars(gateway, client):
    """321, 420, 102, 300 and the cap of lines, which they share."""
    client.ask(50, 3, 1, *stock(), 5, "GOSSIP", 1, "")
    client.ask(50, 3, 2, *forex(), 5, "TRADES", 1, "")
    client.ask(50, 3, 3, *stock(), 5, "TRADES", 1, "")
    client.ask(50, 3, 3, *stock(), 5, "TRADES", 1, "")
    client.ask(51, 1, 9)
    for req_id in range(100):
        subscribe(client, 100 + req_id)
    assert client.errors() == [(1, 321), (2, 420), (3, 102), (9, 300), (199, 101)]


# --- options --------------------------------------------------------------------------------------------------------

UNIVERSE = Universe(NOON.date())
CHAIN = UNIVERSE.find(ContractSpec(symbol="AAPL", sec_type="OPT"))
PRICES = Prices(UNIVERSE, RandomWalk(0, NOON), NOON)


@settings(deadline=None, max_examples=200)
@given(st.sampled_from(CHAIN), st.floats(-30 * 86_400, 20 * 86_400))
def test_put_call_parity(option, at_s):
    """Call less put is the forward, at every strike and expiry."""
    under = PRICES.quote(UNIVERSE.stocks[AAPL], at_s)
    years, volatility = PRICES.years_left(option, at_s), PRICES.volatility(option, at_s)
    call, put = (black_scholes(right, float(under.mid), float(option.strike), years, volatility) for right in "CP")
    assert math.isclose(
        call.price - put.price, float(under.mid) - float(option.strike) * math.exp(-0.04 * years), abs_tol=1e-6
    )


@settings(deadline=None, max_examples=200)
@given(st.floats(0.05, 0.8), st.floats(0.4, 2.5), st.floats(0.4, 2.5), st.floats(0.7, 1.4), st.floats(0.002, 2.0))
def test_calls_fall_and_puts_rise_with_the_strike(base, one, other, spot, years):
    """In spite of the smile."""
    low, high = sorted((one, other))
    values = {
        right: [
            black_scholes(right, 100 * spot, 100 * strike, years, smile(base, 100.0, 100 * strike, years)).price
            for strike in (low, high)
        ]
        for right in "CP"
    }
    assert values["C"][0] >= values["C"][1] - 1e-9
    assert values["P"][0] <= values["P"][1] + 1e-9


def test_the_smile_smiles():
    """Low strikes are dearer than high ones, far ones than near ones, near expiries than far ones."""
    low, middle, high, far = (smile(0.3, 100.0, strike, 0.1) for strike in (80.0, 100.0, 110.0, 160.0))
    assert low > middle
    assert far > high
    assert smile(0.3, 100.0, 100.0, 0.01) > middle > smile(0.3, 100.0, 100.0, 1.0)


@settings(deadline=None, max_examples=100)
@given(st.sampled_from("CP"), st.floats(0.05, 2.0), st.floats(0.8, 1.2), st.floats(0.05, 1.0))
def test_implied_volatility_is_the_inverse_of_the_price(right, volatility, strike, years):
    """Where the price depends on the volatility at all."""
    price = black_scholes(right, 100.0, 100 * strike, years, volatility).price
    if black_scholes(right, 100.0, 100 * strike, years, volatility).vega > 1e-3:
        assert math.isclose(implied_volatility(right, price, 100.0, 100 * strike, years), volatility, rel_tol=1e-4)


async def test_the_calculator(client):
    """There and back; what cannot be is said as IB says it."""
    client.ask(55, 3, 1, *OPTION, 0.5, 230, 0, "")
    price = client.of(21)[0][6]
    client.ask(54, 3, 2, *OPTION, price, 230, 0, "")
    client.ask(54, 3, 3, *OPTION, 0.01, 500, 0, "")
    client.ask(54, 3, 4, *stock(), 1, 230, 0, "")
    client.ask(54, 3, 5, *OPTION, -1, 230, 0, "")
    client.ask(55, 3, 6, *OPTION, 99, 230, 0, "")
    client.ask(56, 1, 2)
    client.ask(57, 1, 1)
    there, back, nothing = client.of(21)
    assert {len(message) for message in client.of(21)} == {12}
    assert {message[2] for message in client.of(21)} == {"53"}
    assert float(back[4]) == pytest.approx(0.5, abs=1e-5)
    assert nothing[4:6] == ["-1", "-2"]
    assert float(there[-1]) == 230
    assert client.errors() == [(4, 321), (5, 321), (6, 321)]


# --- as time goes by ------------------------------------------------------------------------------------------------


async def test_a_virtual_day_leaves_nothing_behind(gateway, client):
    """What is kept for lines, books and ticks does not grow."""
    gateway.market.interval_s = 60.0
    for req_id, instrument in enumerate((stock(), forex(), OPTION, SPX, ES)):
        subscribe(client, req_id, instrument, generic="100,165,233,236")
    client.ask(10, 5, 6, *stock(), 5, 1, "")
    by_tick(client, "AllLast")
    await asyncio.sleep(3600)
    early = _sizes(gateway)
    for _ in range(23):
        client.forget()
        await asyncio.sleep(3600)
    assert gateway.clock.now() >= NOON + timedelta(hours=23)
    late = _sizes(gateway)
    assert all(late[key] <= early[key] + 20 for key in early), (early, late)


def _sizes(gateway):
    walk = gateway.market.prices._base
    return {
        "timers": len(gateway.clock._timers),
        "expected": len(gateway.market._expected),
        "figures": sum(len(each._known) for each in gateway._figures.values()),
        "walkers": len(walk._walkers),
        "blocks": max(len(path._known_blocks) for path in walk._paths.values()),
        "streams": len(gateway.sessions[0].streams),
    }
