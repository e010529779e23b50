"""Profit streams: they say what somebody would see who looks every second, and look when there is something to see."""

import asyncio
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path

import pytest

from ibkr_service.sim import Gateway, GatewayConfig, ReplayFile, answers, listing, profits
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.rawclient import AAPL, EURUSD, RawClient, contract, forex, frames, stock

ACCOUNT = "DU1234567"
BEFORE_MIDNIGHT = datetime(2026, 11, 24, 4, 55, tzinfo=UTC)  # in New York; the tallies of the day begin anew there
ACCOUNT_ID, POSITION_ID = 71, 72
SECONDS = 600


def recording(folder: Path) -> ReplayFile:
    """A quote of EUR.USD every fifteen seconds, on the second; every third repeats the one before."""
    rows = ["timestamp,bid,ask"]
    for n in range(SECONDS // 15 + 2):
        mid = 1.1 + (n - n % 3) * 0.0003
        rows.append(f"{BEFORE_MIDNIGHT + timedelta(seconds=15 * n):%Y-%m-%d %H:%M:%S}+00:00,{mid - 0.0001},{mid:.5f}")
    path = folder / "eurusd-night.csv"
    path.write_text("\n".join(rows) + "\n")
    return ReplayFile(path)


@pytest.fixture
async def gateway(tmp_path):
    gateway = Gateway(GatewayConfig(replay=(recording(tmp_path),), requests_per_second_max=0))
    yield gateway
    gateway.close()


class Listener(RawClient):
    """Knows when it was told what."""

    def __init__(self, gateway):
        self.told = []
        super().__init__(gateway)

    def send(self, data: bytes) -> None:
        super().send(data)
        self.told += [(round(asyncio.get_running_loop().time(), 3), fields) for fields in frames(data)]


def usd_jpy(gateway) -> int:
    return gateway.universe.pair("USD", "JPY").con_id


async def watched(gateway, con_id: int, trade) -> tuple[list, list]:
    """What the streams said in ten minutes, and what a look every second would have seen; `trade(client, second)`."""
    client, loop, account = Listener(gateway), asyncio.get_running_loop(), gateway.accounts[ACCOUNT]
    trade(client, -1)
    await asyncio.sleep(5.3)
    client.told.clear()
    began_s, seen, latest = loop.time(), [], {}
    client.ask(Request.PNL, ACCOUNT_ID, ACCOUNT, "")
    client.ask(Request.PNL_SINGLE, POSITION_ID, ACCOUNT, "", con_id)

    def look() -> None:
        gateway.valuation.begin_day(account)
        holding = gateway.valuation.holding(account.positions[con_id])
        for message in (
            answers.pnl(ACCOUNT_ID, gateway.valuation.profit(account)),
            answers.pnl_single(POSITION_ID, holding),
        ):
            (fields,) = frames(message)
            if fields != latest.get(fields[0]):
                latest[fields[0]] = fields
                seen.append((round(loop.time(), 3), fields))

    look()
    for second in range(1, SECONDS):
        loop.call_at(began_s + second, look)
        loop.call_at(began_s + second + 0.5, trade, client, second)
    await asyncio.sleep(SECONDS)
    kinds = {str(int(kind)) for kind in (Answer.PNL, Answer.PNL_SINGLE)}
    said = [(at_s, fields) for at_s, fields in client.told if fields[0] in kinds]
    return sorted(said), sorted(seen)  # at one second either stream may be first


def at_times(instrument, *seconds: int):
    """Buy before the streams begin, and sell, buy, sell at these seconds."""

    def trade(client, second: int) -> None:
        if second == -1 or second in seconds:
            action = "BUY" if second == -1 or seconds.index(second) % 2 else "SELL"
            client.place(second + 2, instrument, action=action, totalQuantity=1000)

    return trade


@pytest.mark.parametrize("what", ["a recorded pair", "a pair in yen", "a stock"])
async def test_what_is_said_is_what_a_look_every_second_would_see(gateway, what):
    """The same figures at the same seconds, through fills, a flat position and midnight."""
    con_id = {"a recorded pair": EURUSD, "a pair in yen": usd_jpy(gateway), "a stock": AAPL}[what]
    instrument = stock() if what == "a stock" else forex(con_id)
    said, seen = await watched(gateway, con_id, at_times(instrument, 120, 240, 400))
    assert said == seen
    assert len(said) > 20
    assert gateway.accounts[ACCOUNT].day == BEFORE_MIDNIGHT.date(), "midnight in New York has passed"


async def test_a_flat_position_abroad_moves_with_its_currency(gateway):
    """What it has earned today is in euros, and told in dollars."""
    row = next(row for row in listing.FOREIGN_STOCKS if row.currency == "EUR")
    abroad = contract(con_id=row.con_id, sec_type="STK", exchange="SMART", currency="EUR")
    said, seen = await watched(gateway, row.con_id, at_times(abroad, 30))
    assert said == seen
    assert not gateway.positions()
    late = [fields for at_s, fields in said if at_s > 60 and fields[0] == str(int(Answer.PNL))]
    assert len(late) > 5


async def test_between_two_quotes_nobody_looks(gateway, monkeypatch):
    """Two looks a quote are enough: one that sees it, and one that sees that no other follows."""
    looks = []
    look = profits.Profits._look
    monkeypatch.setattr(profits.Profits, "_look", lambda stream: looks.append(stream) or look(stream))
    said, seen = await watched(gateway, EURUSD, at_times(forex()))
    assert said == seen
    assert len(looks) < 2 * 2.5 * SECONDS / 15


async def test_a_cut_gateway_says_nothing_and_then_the_newest(gateway):
    """Nothing is caught up on that was missed; what holds is said within a second."""
    client = RawClient(gateway)
    client.place(1, forex(), totalQuantity=1000)
    await asyncio.sleep(1)
    client.ask(Request.PNL, ACCOUNT_ID, ACCOUNT, "")
    await asyncio.sleep(20)
    client.forget()
    gateway.is_cut = True
    await asyncio.sleep(60)
    assert client.of(Answer.PNL) == []
    gateway.is_cut = False
    await asyncio.sleep(1)
    assert len(client.of(Answer.PNL)) == 1
    assert Decimal(client.of(Answer.PNL)[0][2]) == round(gateway.valuation.profit(gateway.accounts[ACCOUNT]).daily, 2)


async def test_a_stream_that_is_cancelled_looks_no_more(gateway):
    """By request, by the next one of the same id, and with the client."""
    client = RawClient(gateway)
    timers = len(gateway.clock._timers)
    client.ask(Request.PNL, ACCOUNT_ID, ACCOUNT, "")
    client.ask(Request.PNL, ACCOUNT_ID, ACCOUNT, "")
    client.ask(Request.PNL_SINGLE, POSITION_ID, ACCOUNT, "", EURUSD)
    assert len(gateway.clock._timers) == timers + 2
    client.ask(Request.CANCEL_PNL, ACCOUNT_ID)
    assert len(gateway.clock._timers) == timers + 1
    client.session.close()
    assert len(gateway.clock._timers) == timers


async def test_who_looks_less_often_looks_at_everything_at_once():
    """Every ten seconds of the gateway, whenever a stream began; what it says at first is said at once."""
    gateway = Gateway(GatewayConfig(profit_interval_s=10.0, requests_per_second_max=0))
    client = Listener(gateway)
    client.place(1, forex(), action="BUY", totalQuantity=1000)
    await asyncio.sleep(3.3)
    client.ask(Request.PNL, ACCOUNT_ID, ACCOUNT, "")
    await asyncio.sleep(1.2)
    client.ask(Request.PNL_SINGLE, POSITION_ID, ACCOUNT, "", EURUSD)
    await asyncio.sleep(36)
    kinds = {str(int(kind)) for kind in (Answer.PNL, Answer.PNL_SINGLE)}
    said_s = [at_s for at_s, fields in client.told if fields[0] in kinds]
    assert said_s[:2] == [3.3, 4.5]
    assert len(said_s) >= 6
    assert set(said_s[2:]) <= {10.0, 20.0, 30.0, 40.0}
    gateway.close()
