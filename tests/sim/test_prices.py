"""Where prices come from: the walk, recordings, options and combos."""

import math
from datetime import UTC, date, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from ibkr_service.sim.contracts import Combo, ContractSpec, Leg, Universe
from ibkr_service.sim.pricing import Prices, black_scholes
from ibkr_service.sim.replay import Replay, ReplayError, ReplayFile, load
from ibkr_service.sim.walk import INTERVAL_S, RandomWalk

DATA = Path(__file__).parents[3] / "shared" / "data"
STARTED_AT = datetime(2026, 11, 23, 14, 30, tzinfo=UTC)
UNIVERSE = Universe(date(2026, 11, 23))
AAPL = UNIVERSE.stocks[265598]
MSFT = UNIVERSE.stocks[272093]
EURUSD = UNIVERSE.pairs[12087792]
CALL = UNIVERSE.resolve(ContractSpec(local_symbol="AAPL  261218C00230000", sec_type="OPT"))
PUT = UNIVERSE.resolve(ContractSpec(local_symbol="AAPL  261218P00230000", sec_type="OPT"))


@pytest.mark.parametrize("contract", [AAPL, EURUSD], ids=["stock", "forex"])
def test_walked_quotes_are_on_the_grid_and_not_crossed(contract):
    """Bid below ask, both on the price grid, sizes positive."""
    walk = RandomWalk(seed=3)
    at_s, bids = 0.0, set()
    for _ in range(2000):
        quote = walk.quote(contract, at_s)
        assert 0 < quote.bid < quote.ask
        assert quote.bid % contract.min_tick == quote.ask % contract.min_tick == 0
        assert quote.bid_size > 0 < quote.ask_size
        bids.add(quote.bid)
        change_s = walk.next_change(contract, at_s)
        assert 0 < change_s - at_s <= INTERVAL_S + 1e-9
        at_s = change_s
    assert len(bids) > 5


def test_a_walk_depends_on_its_seed_only():
    """The same seed gives the same prices, another seed others."""
    assert RandomWalk(1).quote(AAPL, 100.0) == RandomWalk(1).quote(AAPL, 100.0)
    assert RandomWalk(1).quote(AAPL, 100.0) != RandomWalk(2).quote(AAPL, 100.0)


def test_black_scholes_keeps_put_call_parity_and_known_values():
    """Hull's textbook example, with its rate: a call at 42 struck at 40."""
    call, put = (black_scholes(right, 100, 95, 0.5, 0.3) for right in "CP")
    assert math.isclose(call.price - put.price, 100 - 95 * math.exp(-0.04 * 0.5), abs_tol=1e-9)
    assert math.isclose(call.delta - put.delta, 1, abs_tol=1e-12)
    assert call.gamma == put.gamma
    assert call.theta < 0 < call.vega
    bumped = black_scholes("C", 100.01, 95, 0.5, 0.3)
    assert math.isclose((bumped.price - call.price) / 0.01, call.delta, abs_tol=1e-3)


def prices(base=None):
    return Prices(UNIVERSE, base or RandomWalk(0), STARTED_AT)


@pytest.mark.parametrize("right", ["C", "P"])
def test_every_option_of_a_chain_has_a_quote_and_numeric_greeks(right):
    """Deep in the money, far out of it, and on the day of expiry."""
    for option in UNIVERSE.find(ContractSpec(symbol="AAPL", sec_type="OPT", right=right)):
        quote = prices().quote(option, 3600.0)
        assert 0 < quote.bid < quote.ask
        assert quote.bid % option.tick_at(quote.bid) == 0
        for greeks in quote.greeks:
            numbers = (greeks.price, greeks.delta, greeks.gamma, greeks.vega, greeks.theta, greeks.under_price)
            assert all(math.isfinite(number) for number in numbers)


def test_an_option_outlives_its_expiry_with_a_price():
    """Expiry itself is not modelled: nothing may divide by zero."""
    assert prices().quote(CALL, 400 * 86_400.0).bid > 0


def test_a_combo_is_priced_by_its_legs():
    """To buy a straddle costs both asks; to sell it brings both bids."""
    combo = Combo("AAPL", "USD", "SMART", (Leg(CALL, 1, "BUY"), Leg(PUT, 2, "SELL")))
    source = prices()
    call, put, quote = source.quote(CALL, 10.0), source.quote(PUT, 10.0), source.quote(combo, 10.0)
    assert (quote.bid, quote.ask) == (call.bid - 2 * put.ask, call.ask - 2 * put.bid)
    assert quote.ask_size == min(call.ask_size, put.bid_size // 2)
    assert source.next_change(combo, 10.0) == source.next_change(AAPL, 10.0)


def write(tmp_path, text, name="eurusd-quotes.csv"):
    path = tmp_path / name
    path.write_text(text)
    return path


HISTDATA = "20200101 170000065,1.121200,1.121720,0\n20200101 170010447,1.121200,1.121920,0\n"
TRUEFX = """timestamp,bid,ask
2013-01-01 22:00:00.295000+00:00,86.655,86.728
2013-01-01 22:02:35.907000+00:00,86.657,86.728
"""


def test_histdata_stamps_are_new_york_standard_time(tmp_path):
    """UTC-5 the whole year round: five in the evening is ten at night in UTC, in July too."""
    recording = load(write(tmp_path, HISTDATA))
    assert recording.started_at == datetime(2020, 1, 1, 22, 0, 0, 65_000, tzinfo=UTC)
    assert list(recording.seconds) == [0.0, 10.382]
    assert recording.prices[1] == (Decimal("1.121200"), Decimal("1.121920"))
    july = load(write(tmp_path, HISTDATA.replace("20200101", "20200701")))
    assert july.started_at.hour == 22


def test_truefx_stamps_are_utc(tmp_path):
    """ISO 8601, with or without the zone."""
    recording = load(write(tmp_path, TRUEFX))
    assert recording.started_at == datetime(2013, 1, 1, 22, 0, 0, 295_000, tzinfo=UTC)
    assert recording.ended_at - recording.started_at == timedelta(seconds=155.612)
    assert load(write(tmp_path, TRUEFX.replace("+00:00", ""))).started_at == recording.started_at


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", 0),
        ("timestamp,bid,ask\n", 0),
        (HISTDATA + "20200101 17001\n", 3),
        (HISTDATA + "20200101 170020000,x,1.2,0\n", 3),
        (HISTDATA + "20200101 170020000,1.3,1.2,0\n", 3),
        (HISTDATA + "20200101 170020000,nan,1.2,0\n", 3),
        (HISTDATA + "20200101 170020000,0,1.2,0\n", 3),
        (HISTDATA + "20200101 170000000,1.1,1.2,0\n", 3),
        (HISTDATA + "20201301 170020000,1.1,1.2,0\n", 3),
        (TRUEFX + "yesterday,1.1,1.2\n", 4),
    ],
)
def test_a_bad_line_is_named(tmp_path, text, line):
    """The error says which file and which line."""
    path = write(tmp_path, text)
    with pytest.raises(ReplayError) as caught:
        load(path)
    assert (caught.value.path, caught.value.line) == (path, line)


def test_a_file_that_is_not_there_is_a_replay_error(tmp_path):
    """Foreign errors are translated at the border."""
    with pytest.raises(ReplayError):
        load(tmp_path / "nothing.csv")


def test_the_instrument_is_in_the_name_or_given():
    """eurusd-… is EUR.USD."""
    assert ReplayFile(Path("x/eurusd-quotes-2020.csv")).local_symbol == "EUR.USD"
    assert ReplayFile.parse("usdjpy.csv") == ReplayFile(Path("usdjpy.csv"))
    assert ReplayFile.parse("USD.JPY=a/b.csv").local_symbol == "USD.JPY"
    with pytest.raises(ReplayError):
        _ = ReplayFile(Path("q.csv")).local_symbol


def test_replay_holds_each_quote_until_the_next_and_the_last_for_ever(tmp_path):
    """Nothing before the first stamp; other instruments walk."""
    recording = load(write(tmp_path, HISTDATA))
    walk = RandomWalk(0)
    replay = Replay({EURUSD.con_id: recording}, recording.started_at - timedelta(seconds=5), walk)
    assert replay.quote(EURUSD, 4.9) is None
    assert replay.next_change(EURUSD, 0.0) == 5.0
    assert replay.quote(EURUSD, 5.0).ask == Decimal("1.121720")
    change_s = replay.next_change(EURUSD, 5.0)
    assert replay.quote(EURUSD, change_s).ask == replay.quote(EURUSD, 1e9).ask == Decimal("1.121920")
    assert replay.next_change(EURUSD, change_s) is None
    assert replay.ended_s == change_s
    assert replay.quote(AAPL, 7.0) == walk.quote(AAPL, 7.0)


@pytest.mark.skipif(not DATA.is_dir(), reason="the recordings are not here")
@pytest.mark.parametrize(
    ("name", "count", "hours"), [("eurusd-quotes-2020-01-01.csv", 9500, 6), ("usdjpy-quotes-2013-01-01.csv", 1000, 0.6)]
)
def test_the_real_recordings_play(name, count, hours):
    """Every change is found, in order, and each is the quote at its own stamp."""
    recording = load(DATA / name)
    assert len(recording.prices) == count
    assert abs((recording.ended_at - recording.started_at).total_seconds() / 3600 - hours) < 0.5
    replay = Replay({EURUSD.con_id: recording}, recording.started_at - timedelta(seconds=1 / 3), RandomWalk(0))
    at_s, seen = 0.0, 0
    while (change_s := replay.next_change(EURUSD, at_s)) is not None:
        assert change_s > at_s
        assert replay.quote(EURUSD, change_s).at == change_s
        at_s, seen = change_s, seen + 1
    assert count - 10 < seen <= count
    assert at_s == replay.ended_s


def test_msft_and_aapl_do_not_move_together():
    """Each instrument has its own luck."""
    walk = RandomWalk(0)
    moves = [
        [float(walk.quote(stock, n * 60.0).bid / walk.quote(stock, 0.0).bid) for n in range(200)]
        for stock in (AAPL, MSFT)
    ]
    assert moves[0] != moves[1]
