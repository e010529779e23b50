"""Margin, and the figures that follow from it: consistent with each other and with what happens."""

import asyncio
from dataclasses import replace
from datetime import date
from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.sim.contracts import ContractSpec, Universe
from ibkr_service.sim.margin import Held, naked, of_options, of_plain
from ibkr_service.sim.rawclient import AAPL, EURUSD, MSFT, combo, contract, forex, stock
from tests.sim.stage import Stage

D = Decimal
UNIVERSE = Universe(date(2026, 11, 23))
STOCK = UNIVERSE.stocks[AAPL]
MODEL = UNIVERSE.find(ContractSpec(symbol="AAPL", sec_type="OPT", expiry="20261218", right="C"))[0]


def option(right, strike, quantity, price=5, spot=200, expiry="20261218"):
    made = replace(MODEL, right=right, strike=D(strike), expiry=expiry, con_id=int(strike) * 2 + (right == "P"))
    return Held(made, D(quantity), D(price), D(spot))


def test_stocks_need_half_at_first_and_a_quarter_later():
    """Short ones 30 %."""
    long, short = of_plain(Held(STOCK, D(100), D(200))), of_plain(Held(STOCK, D(-100), D(200)))
    assert (long.initial, long.maintenance) == (10_000, 5_000)
    assert (short.initial, short.maintenance) == (10_000, 6_000)


@pytest.mark.parametrize(
    ("right", "strike", "needed"),
    [("C", 200, 500 + 4000), ("C", 220, 500 + 2000), ("C", 260, 500 + 2000), ("P", 190, 500 + 3000), ("P", 100, 1500)],
)
def test_a_naked_option_needs_ibs_formula(right, strike, needed):
    """Market value, and 20 % of the stock less what it is out of the money, at least 10 %."""
    assert naked(option(right, strike, -1)) == needed
    assert of_options([option(right, strike, -1)], D(0)) == needed


@pytest.mark.parametrize(
    ("legs", "shares", "needed"),
    [
        ([("C", 200, 1)], 0, 0),
        ([("C", 200, -1), ("C", 210, 1)], 0, 1000),
        ([("C", 200, 1), ("C", 210, -1)], 0, 0),
        ([("P", 200, -2), ("P", 190, 2)], 0, 2000),
        ([("P", 190, -1), ("P", 180, 1), ("C", 210, -1), ("C", 220, 1)], 0, 1000),
        ([("C", 200, 1), ("C", 210, -2), ("C", 220, 1)], 0, 0),
        ([("C", 210, -1)], 100, 0),
        ([("C", 210, -2)], 100, 500 + 3000),
        ([("P", 190, -1)], -100, 0),
        ([("C", 200, -2), ("C", 210, 1)], 0, 1000 + 4500),
    ],
)
def test_spreads_need_what_they_can_lose(legs, shares, needed):
    """Verticals, condors, butterflies, covered calls; what is left over is naked."""
    assert of_options([option(*leg) for leg in legs], D(shares)) == needed


def test_a_long_leg_must_live_as_long_as_the_short_one():
    """A reverse calendar is naked."""
    early = option("C", 200, 1, expiry="20261127")
    assert of_options([option("C", 200, -1), early], D(0)) == naked(option("C", 200, -1))
    assert of_options([option("C", 200, 1), replace(early, quantity=D(-1))], D(0)) == 0


LEGS = st.lists(
    st.tuples(st.sampled_from("CP"), st.integers(15, 25).map(lambda n: n * 10), st.integers(-3, 3).filter(bool)),
    max_size=5,
    unique_by=lambda leg: leg[:2],
)


@settings(deadline=None)
@given(LEGS, st.integers(-3, 3))
def test_margin_is_never_more_than_naked_nor_less_than_nothing(legs, hundreds):
    """And another long option never raises it."""
    options = [option(*leg) for leg in legs]
    needed = of_options(options, D(100 * hundreds))
    shorts = sum((-held.quantity * naked(held) for held in options if held.quantity < 0), D(0))
    assert 0 <= needed <= shorts
    assert of_options([*options, option("C", 300, 1)], D(100 * hundreds)) <= needed


# --- in an account --------------------------------------------------------------------------------------------------


@pytest.fixture
async def stage():
    stage = Stage()
    yield stage
    stage.close()


def figures(stage):
    """Every account value, as numbers where they are."""
    stage.client.forget()
    stage.client.ask(6, 2, 1, "DU1234567")
    stage.client.ask(6, 2, 0, "DU1234567")
    return {(message[2], message[4]): message[3] for message in stage.client.of(6)}


def check(rows):
    """The identities between the tags."""
    value = {tag: D(text) for (tag, currency), text in rows.items() if currency == "USD" and "urrency" not in tag}
    assert value["AvailableFunds"] == value["EquityWithLoanValue"] - value["InitMarginReq"]
    assert value["ExcessLiquidity"] == value["EquityWithLoanValue"] - value["MaintMarginReq"]
    assert value["BuyingPower"] == max(0, 4 * value["AvailableFunds"])
    assert value["InitMarginReq"] >= value["MaintMarginReq"] >= 0
    base = {tag: D(text) for (tag, currency), text in rows.items() if currency == "BASE" and "urrency" not in tag}
    net = D(rows["NetLiquidationByCurrency", "BASE"])
    assert abs(net - value["NetLiquidation"]) <= D("0.02")
    assert abs(base["CashBalance"] - value["TotalCashValue"]) <= D("0.02")
    return value


def previewed(stage, *order, **known):
    """What a what-if order says: nine margins, and the commission."""
    stage.client.forget()
    stage.place(*order, whatIf=1, **known)
    (answer,) = stage.client.of(5)
    at = answer.index("PreSubmitted")
    return [D(number) for number in answer[at + 1 : at + 13]]


@pytest.mark.parametrize("kind", ["stock", "short", "pair", "option", "written", "spread", "future"])
async def test_what_a_preview_says_is_what_happens(stage, kind):
    """Margins, equity and commission: before, change and after."""
    call, higher = stage.option(200, expiry="20261218"), stage.option(210, expiry="20261218")
    future = stage.gateway.universe.front("ES")
    stage.script.set(future.con_id, 5000)
    legs = [(call.con_id, 1, "SELL", "SMART"), (higher.con_id, 1, "BUY", "SMART")]
    listed = contract(con_id=call.con_id, sec_type="OPT", exchange="SMART")
    order, known = {
        "stock": ((stock(),), {}),
        "short": ((stock(MSFT),), {"action": "SELL"}),
        "pair": ((forex(EURUSD),), {"totalQuantity": 50_000}),
        "option": ((listed,), {"totalQuantity": 3}),
        "written": ((listed,), {"action": "SELL", "totalQuantity": 3}),
        "spread": ((combo(), legs), {"totalQuantity": 3}),
        "future": ((contract(con_id=future.con_id, sec_type="FUT", exchange="CME"),), {"totalQuantity": 2}),
    }[kind]
    told = previewed(stage, *order, **known)
    before, change, after = told[:3], told[3:6], told[6:9]
    assert [old + new for old, new in zip(before, change, strict=True)] == after
    assert check(figures(stage))["EquityWithLoanValue"] == before[2]
    placed = stage.place(*order, **known)
    await asyncio.sleep(0.5)
    charged = sum(fill.commission or 0 for fill in stage.gateway.executions if fill.order.ticket.order_id == placed)
    assert told[9] == told[10] == told[11] == charged
    value = check(figures(stage))
    tolerance = D("0.01")
    for tag, expected in zip(("InitMarginReq", "MaintMarginReq", "EquityWithLoanValue"), after, strict=True):
        assert abs(value[tag] - expected) <= tolerance, tag


async def test_an_order_beyond_the_margin_is_rejected_and_one_that_frees_some_is_not():
    """201 in IB's words; a sale of what is held passes even when the account is short of equity."""
    stage = Stage(cash=D(20_000))
    big = stage.place(totalQuantity=300)
    fits = stage.place(totalQuantity=150)
    await asyncio.sleep(0.5)
    assert (stage.status(big), stage.status(fits)) == ("Inactive", "Filled")
    await stage.move(120)
    sale = stage.place(action="SELL", totalQuantity=50)
    more = stage.place(totalQuantity=100)
    await asyncio.sleep(0.5)
    assert (stage.status(sale), stage.status(more)) == ("Filled", "Inactive")
    assert stage.client.errors() == [(big, 201), (more, 201)]
    stage.close()


async def test_a_modification_beyond_the_margin_is_refused_and_changes_nothing():
    """201, and the old order lives."""
    stage = Stage(cash=D(20_000))
    order = stage.place(orderType="LMT", lmtPrice=150, totalQuantity=10)
    await asyncio.sleep(0.5)
    stage.client.place(order, orderType="LMT", lmtPrice=150, totalQuantity=1000)
    assert stage.client.errors() == [(order, 201)]
    assert stage.gateway.exchange.orders[1, order].ticket.quantity == 10
    stage.close()


async def test_cash_in_another_currency_has_its_rate_and_goes_into_the_base(stage):
    """Euros bought with dollars."""
    stage.place(forex(), totalQuantity=100_000)
    await asyncio.sleep(0.5)
    rows = figures(stage)
    check(rows)
    assert rows["CashBalance", "EUR"] == "100000.00"
    rate = D(rows["ExchangeRate", "EUR"])
    total = D(rows["CashBalance", "USD"]) + 100_000 * rate
    assert abs(D(rows["CashBalance", "BASE"]) - total) <= D("0.02")
