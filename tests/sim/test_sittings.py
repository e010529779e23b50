"""Real hours: held and rejected orders, sessions, holidays, the close; and the end of the day."""

import asyncio
from datetime import UTC, date, datetime
from decimal import Decimal

import pytest

from ibkr_service.sim.calendars import RealHours
from ibkr_service.sim.contracts import ContractSpec, Universe
from ibkr_service.sim.rawclient import AAPL, EURUSD, forex
from tests.sim.stage import Stage

D = Decimal
UNIVERSE = Universe(date(2026, 11, 23))
STOCK, PAIR = UNIVERSE.stocks[AAPL], UNIVERSE.pairs[EURUSD]
REAL = RealHours()


def moment(text):
    return datetime.fromisoformat(text).replace(tzinfo=UTC)


def sitting(contract, text, **known):
    """The sitting at a moment, in words."""
    found = REAL.sitting(contract, moment(text), **known)
    return f"{found.opens:%d %H:%M} {found.closes:%d %H:%M}"


def test_stocks_keep_holidays_and_half_days():
    """Thanksgiving 2026 is the 26th of November; the day after closes at 13:00 New York's time."""
    assert sitting(STOCK, "2026-11-25 15:00") == "25 14:30 25 21:00"
    assert sitting(STOCK, "2026-11-25 22:00") == "27 14:30 27 18:00"
    assert sitting(STOCK, "2026-11-27 19:00", extended=True) == "27 09:00 27 22:00"
    assert sitting(STOCK, "2026-11-28 12:00") == "30 14:30 30 21:00"
    assert sitting(STOCK, "2026-11-30 12:00", extended=True) == "30 09:00 01 01:00"


def test_currencies_trade_from_sunday_to_friday():
    """With a break from 17:00 to 17:15."""
    assert sitting(PAIR, "2026-11-21 12:00") == "22 22:15 23 22:00"
    assert sitting(PAIR, "2026-11-24 22:05") == "24 22:15 25 22:00"
    assert sitting(PAIR, "2026-11-26 12:00") == "25 22:15 26 22:00"


def test_futures_trade_nearly_round_the_clock_but_not_on_good_friday():
    """2027's is the 26th of March."""
    future = UNIVERSE.front("ES")
    assert sitting(future, "2026-11-24 03:00") == "23 23:00 24 22:00"
    assert sitting(future, "2027-03-25 23:00") == "28 22:00 29 21:00"


def real(started_at, **known):
    return Stage(hours="real", started_at=moment(started_at), **known)


async def test_an_order_of_the_evening_waits_for_the_morning():
    """399 with IB's text, PreSubmitted, and then it trades; a child that waits for its parent is told nothing."""
    stage = real("2026-11-25 22:00")
    order = stage.place(totalQuantity=1)
    assert stage.client.errors() == [(order, 399)]
    assert stage.text(399).replace("\\n", "\n") == (
        "Order Message:\nBUY 1 AAPL NASDAQ.NMS\n"
        "Warning: Your order will not be placed at the exchange until 2026-11-27 09:30:00 US/Eastern"
    )
    await asyncio.sleep(40 * 3600)
    assert stage.client.statuses(order) == ["PreSubmitted"]
    await asyncio.sleep(3600)
    assert stage.status(order) == "Filled"
    assert stage.gateway.executions[0].time == "20261127 09:30:00 US/Eastern"
    stage.close()


async def test_orders_of_the_moment_are_rejected_when_the_exchange_is_closed():
    """201; outside regular hours an order may say that it may trade."""
    stage = real("2026-11-23 13:00")
    rejected = stage.place(tif="IOC")
    early = stage.place(orderType="LMT", lmtPrice=201, outsideRth=1)
    await asyncio.sleep(1)
    assert stage.status(rejected) == "Inactive"
    assert stage.client.errors() == [(rejected, 201)]
    assert stage.status(early) == "Filled"
    stage.close()


async def test_at_the_close_orders_for_the_day_end_and_others_rest():
    """DAY is cancelled, GTC goes back to PreSubmitted until the morning, outsideRth goes on until 20:00."""
    stage = real("2026-11-23 20:00")
    day = stage.place(orderType="LMT", lmtPrice=100)
    good = stage.place(orderType="LMT", lmtPrice=100, tif="GTC")
    late = stage.place(orderType="LMT", lmtPrice=100, outsideRth=1)
    await asyncio.sleep(3601)
    assert [stage.status(each) for each in (day, good, late)] == ["Cancelled", "PreSubmitted", "Submitted"]
    stage.script.set(AAPL, 99)
    await asyncio.sleep(1)
    assert (stage.status(good), stage.status(late)) == ("PreSubmitted", "Filled")
    await asyncio.sleep(18 * 3600)
    assert stage.status(good) == "Filled"
    stage.close()


async def test_the_close_takes_no_late_orders_and_lets_none_go():
    """Ten minutes before it: 201, and 161."""
    stage = real("2026-11-23 20:45")
    early = stage.place(orderType="MOC")
    await asyncio.sleep(600)
    late = stage.place(orderType="MOC")
    stage.client.ask(4, 1, early, "")
    stage.client.ask(58, 1)
    await asyncio.sleep(1)
    assert stage.status(late) == "Inactive"
    assert stage.client.errors() == [(late, 201), (early, 161), (early, 161)]
    await asyncio.sleep(600)
    assert stage.status(early) == "Filled"
    stage.close()


async def test_currencies_rest_at_the_weekend():
    """From Friday 17:00 until Sunday 17:15."""
    stage = real("2026-11-28 12:00")
    order = stage.place(forex(), totalQuantity=30_000, tif="GTC")
    assert "2026-11-29 17:15:00 US/Eastern" in stage.text(399)
    assert "BUY 30000 EUR.USD" in stage.text(399)
    await asyncio.sleep(2 * 86_400)
    assert stage.status(order) == "Filled"
    stage.close()


async def test_contract_details_announce_the_real_hours():
    """The holiday and the half day."""
    stage = real("2026-11-25 15:00")
    stage.client.ask(9, 8, 7, AAPL, "", "STK", "", 0, "", "", "SMART", "", "", "", "", 0, "", "", "")
    (details,) = stage.client.of(10)
    assert "20261126:CLOSED;20261127:0930-20261127:1300" in " ".join(details)
    stage.close()


# --- midnight -------------------------------------------------------------------------------------------------------


async def test_at_midnight_the_broker_forgets():
    """Executions and completed orders of yesterday are not told any more; positions are."""
    stage = Stage()
    stage.place()
    await asyncio.sleep(1)

    def known():
        stage.client.forget()
        stage.client.ask(7, 3, 1, 0, "", "", "", "", "", "")
        stage.client.ask(99, 0)
        stage.client.ask(61, 1)
        return [len(stage.client.of(kind)) for kind in (11, 59, 101, 61)]

    assert known() == [1, 1, 1, 1]
    await asyncio.sleep(15 * 3600)
    assert known() == [0, 0, 0, 1]
    assert len(stage.gateway.executions) == 1
    stage.close()


async def test_the_days_profit_begins_at_midnight():
    """Daily, unrealised and realised: bought at 200.01, worth 205 at midnight, sold at 207."""
    stage = Stage()

    def profit():
        stage.client.ask(92, 5, "DU1234567", "")
        stage.client.ask(93, 5)
        return [D(number) for number in stage.client.of(94)[-1][2:]]

    stage.place()
    await asyncio.sleep(1)
    await stage.move(205, ask=205)
    assert profit() == [D(498), D(498), 0]
    await asyncio.sleep(15 * 3600)
    assert profit() == [0, D(498), 0]
    await stage.move(207, ask=207)
    assert profit() == [D(200), D(698), 0]
    stage.place(action="SELL")
    await asyncio.sleep(1)
    assert profit() == [D(199), 0, D(697)]
    stage.client.ask(94, 6, "DU1234567", "", AAPL)
    stage.client.ask(95, 6)
    assert stage.client.of(95)[-1][2:] == ["0", "199", "0", "697", "0"]
    await asyncio.sleep(24 * 3600)
    assert profit() == [0, 0, 0]
    stage.close()


@pytest.mark.parametrize("symbol", ["ES", "CL"])
async def test_a_future_is_margined_and_pays_when_it_is_closed(symbol):
    """Cash moves by commissions and by what was earned."""
    stage = Stage()
    future = stage.gateway.universe.front(symbol)
    instrument = [future.con_id, *[""] * 2, "", 0, "", "", future.exchange, "", "", "", ""]
    stage.script.set(future.con_id, 1000, ask=1000)
    stage.place(instrument, totalQuantity=2)
    await asyncio.sleep(1)
    assert stage.cash() == 1_000_000 - D("4.50")
    stage.script.set(future.con_id, 1010, ask=1010)
    net = stage.gateway.valuation.net_liquidation(stage.gateway.accounts["DU1234567"])
    assert net == 1_000_000 - D("4.50") + 20 * future.units
    stage.place(instrument, totalQuantity=2, action="SELL")
    await asyncio.sleep(1)
    assert stage.cash() == 1_000_000 - 9 + 20 * future.units
    assert ContractSpec(con_id=future.con_id)
    stage.close()
