"""History: bars of every size from the path that the ticks come from, and what IB says of bad requests."""

import asyncio
import contextlib
import itertools
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.sim import Gateway, GatewayConfig, ReplayFile
from ibkr_service.sim.bars import BAR_SIZES, Window, bar_of
from ibkr_service.sim.historyread import Duration, read_duration, read_moment
from ibkr_service.sim.loop import SimLoop
from ibkr_service.sim.pricing import Prices
from ibkr_service.sim.rawclient import AAPL, EURUSD, MSFT, RawClient, contract, forex, stock
from ibkr_service.sim.rules import Refused
from ibkr_service.sim.timeline import NEW_YORK
from ibkr_service.sim.walk import RandomWalk

NOON = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)
OPTION = contract(local_symbol="AAPL  261218C00230000", sec_type="OPT", exchange="SMART")
PUT = contract(local_symbol="AAPL  261218P00230000", sec_type="OPT", exchange="SMART")
ES = contract(symbol="ES", sec_type="CONTFUT", exchange="CME")
SPX = contract(symbol="SPX", sec_type="IND", exchange="CBOE")


@pytest.fixture
async def gateway():
    gateway = Gateway(GatewayConfig(seed=5, started_at=NOON, requests_per_second_max=0))
    yield gateway
    gateway.close()


@pytest.fixture
async def client(gateway):
    client = RawClient(gateway)
    client.forget()
    return client


def ask(  # noqa: PLR0913  the request has as many fields
    client, instrument, duration, size, show="TRADES", *, req_id=7, rth=1, end="", form=1, keep=0
):
    client.ask(20, req_id, *instrument, 0, end, size, duration, rth, show, form, keep, "")


async def bars_of(client, *args, **known):
    """The bars of a request, as dictionaries of text and numbers."""
    client.forget()
    ask(client, *args, **known)
    for _ in range(5000):
        await asyncio.sleep(0)
        if client.of(17) or client.of(4):
            break
    assert client.errors() == [], client.of(4)
    (message,) = client.of(17)
    rows = [message[5 + 8 * n : 13 + 8 * n] for n in range(int(message[4]))]
    assert len(message) == 5 + 8 * len(rows)
    return [
        dict(zip(("open", "high", "low", "close", "volume", "average", "count"), map(float, row[1:]), strict=True))
        | {"date": row[0]}
        for row in rows
    ]


def is_sound(bar) -> bool:
    return 0 < bar["low"] <= min(bar["open"], bar["close"]) <= max(bar["open"], bar["close"]) <= bar["high"]


DURATIONS = {1: "120 S", 60: "3600 S", 1800: "1 D", 86_400: "10 D", 7 * 86_400: "6 M", 30 * 86_400: "1 Y"}


@pytest.mark.parametrize("size", BAR_SIZES)
@pytest.mark.parametrize("instrument", [stock(), forex()], ids=["stock", "forex"])
async def test_every_bar_size(client, size, instrument):
    """In order, low to high, on the clock; volume of trades only."""
    duration = next(text for size_s, text in reversed(DURATIONS.items()) if BAR_SIZES[size] >= size_s)
    is_forex = instrument[0] == EURUSD
    bars = await bars_of(client, instrument, duration, size, "MIDPOINT" if is_forex else "TRADES", form=2, rth=0)
    assert len(bars) >= 1
    assert all(map(is_sound, bars))
    dates = [int(bar["date"]) for bar in bars]
    assert dates == sorted(set(dates))
    if BAR_SIZES[size] < 86_400:
        # The first bar of a session may begin between two marks of the clock.
        assert sum(date % BAR_SIZES[size] != 0 for date in dates if BAR_SIZES[size] <= 3600) <= 1
    assert all((bar["volume"] == bar["count"] == bar["average"] == -1) is is_forex for bar in bars)


@pytest.mark.parametrize("instrument", [stock(), forex(), OPTION, PUT, ES, SPX], ids=lambda it: f"{it[2]}{it[10]}")
@pytest.mark.parametrize("show", ["MIDPOINT", "BID", "ASK", "BID_ASK"])
async def test_every_instrument_and_side(client, instrument, show):
    """Bars of quotes have no volume."""
    bars = await bars_of(client, instrument, "2 D", "1 hour", show)
    assert len(bars) >= 3
    assert all(map(is_sound, bars))
    assert {bar["volume"] for bar in bars} == {-1}


@pytest.mark.parametrize("show", ["HISTORICAL_VOLATILITY", "OPTION_IMPLIED_VOLATILITY"])
async def test_bars_of_volatility(client, show):
    """Near the volatility of the table, 0.28."""
    bars = await bars_of(client, stock(), "1 Y", "1 day", show)
    average = sum(bar["close"] for bar in bars) / len(bars)
    assert len(bars) > 250
    assert 0.2 < average < 0.36


async def test_dates_are_written_as_they_were_asked_for(client):
    """With a zone, as epoch seconds, or as a day."""
    first = (await bars_of(client, stock(), "1 D", "30 mins"))[0]["date"]
    second = (await bars_of(client, stock(), "1 D", "30 mins", form=2))[0]["date"]
    day = (await bars_of(client, stock(), "3 D", "1 day", form=2))[-1]["date"]
    assert first == "20261123 09:30:00 US/Eastern"
    assert second == str(int(datetime(2026, 11, 23, 9, 30, tzinfo=NEW_YORK).timestamp()))
    assert day == "20261123"


@pytest.mark.parametrize(
    ("end", "last"),
    [
        ("20261120 11:00:00 US/Eastern", "20261120 10:30:00 US/Eastern"),
        ("20261120 11:00:00", "20261120 10:30:00 US/Eastern"),
        ("20261120-16:00:00", "20261120 10:30:00 US/Eastern"),
        ("20261121 12:00:00 US/Eastern", "20261120 15:30:00 US/Eastern"),
        ("20261120", "20261120 15:30:00 US/Eastern"),
        ("20301120 12:00:00 UTC", "20261123 11:30:00 US/Eastern"),
    ],
)
async def test_ends_in_all_forms(client, end, last):
    """With a zone, in New York's time, in UTC, at the weekend, as a date, in the future."""
    bars = await bars_of(client, stock(), "1 D", "30 mins", end=end)
    assert bars[-1]["date"] == last


async def test_regular_hours_or_all(client):
    """13 half hours, or 32."""
    end = "20261120 23:00:00 US/Eastern"
    regular = await bars_of(client, stock(), "1 D", "30 mins", end=end)
    everything = await bars_of(client, stock(), "1 D", "30 mins", end=end, rth=0)
    assert (len(regular), len(everything)) == (13, 32)
    assert [bar for bar in everything if bar["date"] in {each["date"] for each in regular}] == regular


async def test_a_bar_is_the_sum_of_its_parts(client):
    """The day, its hours and its minutes agree on every price and on the volume."""
    end = "20261120 18:00:00 US/Eastern"
    days = await bars_of(client, stock(), "1 D", "1 day", end=end)
    for size in ("1 hour", "5 mins", "1 min"):
        parts = await bars_of(client, stock(), "1 D", size, end=end)
        assert parts[0]["open"] == days[0]["open"]
        assert parts[-1]["close"] == days[0]["close"]
        assert max(bar["high"] for bar in parts) == days[0]["high"]
        assert min(bar["low"] for bar in parts) == days[0]["low"]
        assert sum(bar["volume"] for bar in parts) == days[0]["volume"]
        assert sum(bar["count"] for bar in parts) == days[0]["count"]


async def test_weeks_and_months_are_made_of_days(client):
    """Dated by their last day, with the extremes of their days."""
    days = await bars_of(client, stock(), "3 M", "1 day")
    months = await bars_of(client, stock(), "3 M", "1 month")
    for month in months:
        own = [bar for bar in days if bar["date"][:6] == month["date"][:6]]
        assert month["date"] == own[-1]["date"]
        assert month["high"] == max(bar["high"] for bar in own)
        assert month["volume"] == sum(bar["volume"] for bar in own)
        assert month["low"] <= month["average"] <= month["high"]


async def test_live_ticks_and_the_newest_bar_agree(gateway, client):
    """The bar that was being made while a client watched has the extremes of what it saw."""
    await asyncio.sleep(120)
    client.forget()
    client.ask(1, 11, 3, *stock(), 0, "", 0, 0, "")
    await asyncio.sleep(119.9)
    seen = [(message[3], float(message[4])) for message in client.of(1)]
    lasts = [price for kind, price in seen if kind == "4"]
    bids = [price for kind, price in seen if kind == "1"]
    (bar,) = (await bars_of(client, stock(), "120 S", "2 mins"))[-1:]
    assert (bar["high"], bar["low"], bar["close"]) == (max(lasts), min(lasts), lasts[-1])
    (bar,) = (await bars_of(client, stock(), "120 S", "2 mins", "BID"))[-1:]
    assert (bar["high"], bar["low"], bar["close"]) == (max(bids), min(bids), bids[-1])


async def test_a_history_that_is_kept_up_to_date(gateway, client):
    """Updates of the open bar, then of the next; the finished bar is what history says later. Until the cancel."""
    ask(client, stock(), "600 S", "1 min", keep=1, form=2)
    await asyncio.sleep(150)
    updates = client.of(90)
    assert {len(message) for message in updates} == {10}
    finished = {message[3]: message for message in updates}
    assert len(finished) == 3
    client.ask(25, 1, 7)
    assert client.errors() == [(7, 162)]
    before = len(client.of(90))
    await asyncio.sleep(5)
    assert len(client.of(90)) == before
    bars = {bar["date"]: bar for bar in await bars_of(client, stock(), "600 S", "1 min", form=2)}
    for date in sorted(finished)[:-1]:
        _, _, count, _, opens, close, high, low, average, volume = map(float, finished[date])
        assert bars[date] == {
            "date": date, "open": opens, "high": high, "low": low, "close": close,
            "volume": volume, "average": average, "count": count,
        }  # fmt: skip


@pytest.mark.parametrize(
    ("size", "keep"), [("1 day", "5 D"), ("1 week", "1 M"), ("1 month", "3 M")], ids=["day", "week", "month"]
)
async def test_days_and_longer_are_kept_up_to_date_too(client, size, keep):
    """What is sent is the whole bar so far."""
    ask(client, stock(), keep, size, keep=1)
    await asyncio.sleep(10)
    update = client.of(90)[-1]
    bar = (await bars_of(client, stock(), keep, size, req_id=8))[-1]
    assert update[3] == bar["date"] == "20261123"
    assert float(update[6]) <= bar["high"]
    assert float(update[9]) <= bar["volume"] < 1.01 * float(update[9])


@settings(deadline=None, max_examples=50)
@given(
    st.integers(0, 2000), st.sampled_from([1, 5, 30, 60, 300]), st.sampled_from(["TRADES", "MIDPOINT", "BID", "ASK"])
)
def test_any_bar_is_the_aggregate_of_the_quotes_within(start, size, show):
    """By looking at each of them."""
    from ibkr_service.sim.bars import VALUES
    from ibkr_service.sim.contracts import Universe

    universe = Universe(NOON.date())
    prices = Prices(universe, RandomWalk(3, NOON), NOON)
    second = int(NOON.timestamp()) + start
    for con_id in (AAPL, MSFT):
        share = universe.stocks[con_id]
        bar = bar_of(prices, share, show, Window(second, second + size, NOON.date()), 1e9)
        values, at_s = [], prices.next_change(share, start - 1e-3)
        while at_s < start + size - 1e-6:
            values.append(VALUES[show](prices.quote(share, at_s)))
            at_s = prices.next_change(share, at_s)
        assert (bar.open, bar.high, bar.low, bar.close) == (values[0], max(values), min(values), values[-1])


def test_the_past_is_the_same_for_everybody():
    """For a gateway with other clients, other questions and another order of them."""

    def history(questions):
        async def main():
            gateway = Gateway(GatewayConfig(seed=9, started_at=NOON))
            client = RawClient(gateway)
            answers = {}
            for question in questions:
                answers[question] = await bars_of(client, stock(question[0]), question[1], question[2])
            gateway.close()
            return answers

        with asyncio.Runner(loop_factory=SimLoop) as runner:
            return runner.run(main())

    questions = [(AAPL, "5 D", "1 day"), (MSFT, "1 D", "5 mins"), (AAPL, "1 D", "1 hour"), (AAPL, "1 Y", "1 week")]
    assert history(questions) == history(questions[::-1])


async def test_a_year_of_days_is_fast(client):
    """Less than 50 ms of work, for an instrument that nobody has looked at yet; the best of several."""
    taken = []
    for con_id in (AAPL, MSFT, 756733, 8314, 4391, 8894):
        begin = time.process_time()
        bars = await bars_of(client, stock(con_id), "1 Y", "1 day")
        taken.append(time.process_time() - begin)
        assert len(bars) >= 250
    assert min(taken) < 0.05 * 3, taken  # three times, for machines that are busy


async def test_the_schedule(client):
    """Sessions with their days."""
    ask(client, stock(), "5 D", "1 day", "SCHEDULE")
    (message,) = client.of(106)
    assert message[2:6] == ["20261117-09:30:00", "20261123-16:00:00", "US/Eastern", "5"]
    assert message[-3:] == ["20261123-09:30:00", "20261123-16:00:00", "20261123"]


@pytest.mark.parametrize(
    ("known", "code"),
    [
        ({"size": "7 parsecs"}, 321),
        ({"duration": "1 eternity"}, 321),
        ({"duration": "0 D"}, 321),
        ({"duration": "90000 S"}, 321),
        ({"duration": "400 D"}, 321),
        ({"show": "GOSSIP"}, 321),
        ({"end": "yesterday"}, 321),
        ({"end": "20261120 11:00:00 Nowhere/Land"}, 321),
        ({"form": 3}, 321),
        ({"end": "20261120 11:00:00 US/Eastern", "keep": 1}, 321),
        ({"end": "20261120 11:00:00 US/Eastern", "show": "ADJUSTED_LAST"}, 321),
        ({"show": "SCHEDULE", "size": "1 hour"}, 321),
        ({"instrument": forex(), "show": "TRADES"}, 162),
        ({"instrument": forex(), "show": "HISTORICAL_VOLATILITY"}, 162),
        ({"instrument": contract(symbol="NOPE", sec_type="STK", exchange="SMART", currency="USD")}, 200),
        ({"end": "19801120 11:00:00 US/Eastern"}, 162),
    ],
)
async def test_bad_requests(client, known, code):
    """IB's codes, with the id of the request; and the gateway lives on."""
    ask(client, known.pop("instrument", stock()), **{"duration": "1 D", "size": "1 hour"} | known)
    await asyncio.sleep(0.1)
    assert client.errors() == [(7, code)]
    assert client.session.streams == {}


async def test_a_cancel_without_a_query(client):
    """366."""
    client.ask(25, 1, 99)
    assert client.errors() == [(99, 366)]


async def test_a_long_answer_does_not_stop_others(gateway, client):
    """It is made in slices; a cancel in the middle ends it."""
    ask(client, stock(), "6 M", "1 hour")
    assert client.of(17) == []
    client.ask(49, 1)
    assert client.of(49)
    client.ask(25, 1, 7)
    await asyncio.sleep(1)
    assert client.of(17) == []
    assert client.errors() == [(7, 162)]


# --- pacing ---------------------------------------------------------------------------------------------------------


async def test_identical_requests_for_small_bars_are_paced(client):
    """162 within 15 seconds, not after; bars of a minute are free."""
    ask(client, stock(), "60 S", "5 secs")
    ask(client, stock(), "60 S", "5 secs", req_id=8)
    await asyncio.sleep(16)
    ask(client, stock(), "60 S", "5 secs", req_id=9)
    for req_id in range(10, 20):
        ask(client, stock(), "1 D", "1 min", req_id=req_id)
    await asyncio.sleep(1)
    assert client.errors() == [(8, 162)]
    assert "pacing violation" in client.of(4)[0][4]


async def test_six_requests_for_the_same_contract_within_two_seconds(client):
    """The sixth is one too many."""
    for n in range(6):
        ask(client, stock(), f"{60 + n} S", "5 secs", req_id=n + 1)
    await asyncio.sleep(1)
    assert client.errors() == [(6, 162)]


async def test_sixty_requests_in_ten_minutes(client):
    """BID_ASK counts twice."""
    for n in range(30):
        ask(client, stock(), f"{60 + n} S", "5 secs", "BID_ASK", req_id=n + 1)
        await asyncio.sleep(1)
    ask(client, stock(), "1800 S", "5 secs", req_id=100)
    await asyncio.sleep(600)
    ask(client, stock(), "1800 S", "5 secs", req_id=101)
    await asyncio.sleep(1)
    assert client.errors() == [(100, 162)]


async def test_pacing_can_be_switched_off():
    """For tests of other things."""
    gateway = Gateway(GatewayConfig(started_at=NOON, history_is_paced=False, requests_per_second_max=0))
    client = RawClient(gateway)
    for n in range(80):
        ask(client, stock(), "60 S", "5 secs", req_id=n)
    await asyncio.sleep(1)
    assert len(client.of(17)) == 80
    gateway.close()


async def test_fifty_open_requests(client):
    """The next one is refused; each cancel makes room."""
    for n in range(51):
        ask(client, stock(), "1 D", "1 hour", req_id=n + 1, keep=1)
        await asyncio.sleep(0.1)
    assert client.errors() == [(51, 322)]


# --- the head, ticks, the histogram ---------------------------------------------------------------------------------


async def test_the_head_of_the_data(client):
    """In UTC or as epoch seconds; history begins there."""
    client.ask(87, 1, *stock(), 0, 1, "TRADES", 1)
    client.ask(87, 2, *stock(), 0, 1, "TRADES", 2)
    client.ask(87, 3, *forex(), 0, 1, "TRADES", 1)
    client.ask(87, 4, *stock(), 0, 1, "GOSSIP", 1)
    client.ask(90, 1)
    first, second = client.of(88)
    assert first == ["88", "1", "20161123-14:30:00"]
    assert int(second[2]) == datetime(2016, 11, 23, 14, 30, tzinfo=UTC).timestamp()
    assert client.errors() == [(3, 162), (4, 321)]


def past_ticks(client, show, *, start="", end="", count=10, instrument=None, req_id=5):
    client.ask(96, req_id, *(instrument or stock()), 0, start, end, count, show, 1, 0, "")


@pytest.mark.parametrize(("show", "answer", "width"), [("TRADES", 98, 6), ("BID_ASK", 97, 6), ("MIDPOINT", 96, 4)])
async def test_ticks_of_the_past(client, show, answer, width):
    """From a moment on, and before one; in order, and what follows joins what came before."""
    past_ticks(client, show, end="20261123 11:00:00 US/Eastern", count=20)
    past_ticks(client, show, start="20261123 11:00:00 US/Eastern", count=20, req_id=6)
    before, after = client.of(answer)
    for message in (before, after):
        assert message[2] == "20"
        assert len(message) == 4 + 20 * width
        assert message[-1] == "1"
    times = [int(message[3 + width * n]) for message in (before, after) for n in range(20)]
    assert times == sorted(times)
    eleven = datetime(2026, 11, 23, 11, tzinfo=NEW_YORK).timestamp()
    assert times[19] == eleven - 1
    assert times[20] == eleven


async def test_ticks_of_options_and_of_the_weekend(client):
    """Options trade now and then; on Sunday the last ticks are Friday's."""
    past_ticks(client, "TRADES", end="20261123 11:00:00 US/Eastern", count=3, instrument=OPTION)
    past_ticks(client, "TRADES", end="20261122 11:00:00 US/Eastern", count=3, req_id=6)
    of_option, of_friday = client.of(98)
    assert of_option[2] == of_friday[2] == "3"
    assert datetime.fromtimestamp(int(of_friday[3]), NEW_YORK).strftime("%a %H:%M:%S") == "Fri 15:59:59"


@pytest.mark.parametrize(
    "known",
    [{"show": "GOSSIP"}, {"count": 0}, {"count": 1001}, {}, {"start": "x"}, {"start": "20261120", "end": "20261120"}],
)
async def test_bad_requests_for_ticks(client, known):
    """321, with the id."""
    past_ticks(client, **{"show": "TRADES"} | known)
    assert client.errors() == [(5, 321)]


async def test_the_histogram(client):
    """Prices with sizes, the biggest first."""
    client.ask(88, 4, *stock(), 0, 1, "3 days")
    (message,) = client.of(89)
    sizes = [int(size) for size in message[4::2]]
    assert len(message) == 3 + 2 * int(message[2])
    assert sizes == sorted(sizes, reverse=True)
    client.ask(88, 5, *stock(), 0, 1, "3 blinks")
    client.ask(89, 5)
    assert client.errors() == [(5, 321)]


# --- small parts ----------------------------------------------------------------------------------------------------


@given(st.text(max_size=25))
def test_durations_and_moments_are_read_or_refused(text):
    """Nothing else can be raised."""
    for read in (read_duration, read_moment):
        with contextlib.suppress(Refused):
            read(text)


def test_durations():
    """As clients write them."""
    assert read_duration("2 D") == Duration(2, "D")
    assert read_duration(" 3600 s ") == Duration(3600, "S")


async def test_a_recording_has_bars_of_itself(tmp_path):
    """From its first stamp on, and nothing before; other instruments have their own past."""
    start = datetime(2020, 1, 6, 15, 0, tzinfo=UTC)
    stamps = [f"{start + timedelta(seconds=10 * n):%Y-%m-%dT%H:%M:%S+00:00}" for n in range(360)]
    prices = [1.1 + n % 7 / 1000 for n in range(360)]
    rows = [f"{stamp},{price:.5f},{price + 0.0002:.5f}" for stamp, price in zip(stamps, prices, strict=True)]
    path = tmp_path / "eurusd.csv"
    path.write_text("\n".join(["timestamp,bid,ask", *rows]))
    gateway = Gateway(GatewayConfig(replay=(ReplayFile(Path(path)),)))
    client = RawClient(gateway)
    await asyncio.sleep(3000)
    bars = await bars_of(client, forex(), "1 D", "5 mins", "MIDPOINT")
    assert len(bars) == 10
    assert {Decimal(str(bar["high"])) for bar in bars} == {Decimal("1.1061")}
    assert all(a["date"] < b["date"] for a, b in itertools.pairwise(bars))
    assert len(await bars_of(client, stock(), "10 D", "1 day")) == 10
    client.ask(87, 2, *forex(), 0, 1, "MIDPOINT", 1)
    assert client.of(88)[0][2] == "20200106-15:00:00"
    gateway.close()
