"""What holds of the gate whatever is asked: more is never safer, reducing turns nothing around, unknown is not zero."""

from __future__ import annotations

from decimal import Decimal as D
from itertools import combinations

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ibkr_service.core import events as ev
from ibkr_service.core.exposure import Exposure
from ibkr_service.core.legs import Leg
from ibkr_service.core.orders import Intent
from ibkr_service.core.risk import check
from ibkr_service.core.spreads import bull_call, combination
from ibkr_service.core.working import moves
from tests.core.test_risk_limits import AAPL, AT, C150, C160, MSFT, OPEN, Desk

# How often the same terms may be asked for is about time and number; all else here grows with the quantity.
SPREADS = (bull_call(C150, C160), combination([Leg(AAPL, 100, "BUY"), Leg(C150, 1, "SELL")])[0])
TRADED = st.sampled_from([AAPL, MSFT, C150, C160, *SPREADS])
QUANTITY = st.integers(1, 40)
ACTION = st.sampled_from(["BUY", "SELL"])
AMOUNT = st.none() | st.integers(1, 20_000).map(D)
LIMITS = st.builds(
    lambda **limits: msgspec.structs.replace(OPEN, **limits),
    max_quantity=st.integers(1, 60).map(D),
    max_notional=st.integers(1, 500_000).map(D),
    max_premium=AMOUNT,
    max_loss=AMOUNT,
    allow_unlimited_loss=st.booleans(),
    max_position=st.none() | st.integers(1, 500).map(D),
    max_strategy_position=st.none() | st.integers(1, 50).map(D),
    max_account_notional=AMOUNT,
    max_daily_loss=AMOUNT,
)


@st.composite
def desks(draw):
    """Positions, working orders and orders of others, any."""
    desk = Desk()
    for instrument in (AAPL, MSFT, C150, C160):
        desk.hold(instrument, draw(st.integers(-300, 300)))
    for _ in range(draw(st.integers(0, 4))):
        desk.work(order(draw(TRADED), draw(ACTION), draw(QUANTITY)))
    for _ in range(draw(st.integers(0, 2))):
        desk.foreign(draw(st.sampled_from([AAPL, C150])), draw(ACTION), draw(QUANTITY))
    if draw(st.booleans()):
        desk.value("GrossPositionValue", "1000")
        desk.value("NetLiquidation", "5000")
    if draw(st.booleans()):
        desk.say("halt")
    return desk


def order(traded, action, quantity):
    """A market order: its price is that of the quotes."""
    return Intent(instrument=traded, action=action, quantity=D(quantity))


@settings(max_examples=300)
@given(desks(), LIMITS, TRADED, ACTION, QUANTITY, QUANTITY)
def test_a_larger_order_is_never_allowed_where_a_smaller_one_is_refused(desk, limits, traded, action, one, other):
    """And every refusal says which limit, its value and what was asked."""
    small, large = sorted((one, other))
    asked = {"now": AT, "mono_s": 1001.0}
    refused = check(order(traded, action, small), "s", limits, desk.book, **asked)
    refused_large = check(order(traded, action, large), "s", limits, desk.book, **asked)
    if refused is not None:
        assert refused_large is not None
    for refusal in (refused, refused_large):
        assert refusal is None or all((refusal.limit, refusal.allowed, refusal.asked))


@settings(max_examples=300)
@given(desks(), TRADED, ACTION, QUANTITY, st.data())
def test_what_reduces_turns_nothing_around_whatever_fills(desk, traded, action, quantity, data):
    """In any subset of fills on its side, every position it touches ends between where it was and zero."""
    exposure = Exposure(desk.book, "DU1")
    own = moves(order(traded, action, quantity), D(quantity))
    if not exposure.is_reducing(own):
        return
    for contract, signed in own:
        held = desk.book.position(contract, "DU1")
        buys, sells = exposure.to_trade(contract)
        filled = data.draw(st.integers(0, int(buys if signed > 0 else sells)))
        after = held + signed + (filled if signed > 0 else -filled)
        assert abs(after) < abs(held)
        assert after * held >= 0


def uncovered(desk, moved):
    """Added up by itself: all calls here are on AAPL, of one expiry."""
    sizes = {one: desk.book.position(one, "DU1") for one in (AAPL, C150, C160)}
    for contract, signed in moved:
        sizes[contract] = sizes.get(contract, 0) + signed
    return max(-100 * (sizes[C150] + sizes[C160]) - max(sizes[AAPL], 0), 0)


@settings(max_examples=500)
@given(desks(), TRADED, ACTION, QUANTITY)
def test_what_passes_leaves_no_more_sold_calls_without_cover_whatever_fills(desk, traded, action, quantity):
    """Whatever of the rest fills besides: no more than now, or than a part of the same fills would leave without it."""
    limits = msgspec.structs.replace(OPEN, allow_unlimited_loss=False)
    intent = order(traded, action, quantity)
    if check(intent, "s", limits, desk.book, now=AT, mono_s=1001.0) is not None:
        return
    book = desk.book
    at_work = [moves(one.intent, one.intent.quantity) for one in book.alive_orders()]
    at_work += [
        ((one.instrument, one.quantity if one.action == "BUY" else -one.quantity),)
        for one in book.foreign_orders.values()
    ]
    own, now = moves(intent, D(quantity)), uncovered(desk, ())
    fills = [
        frozenset(picked) for size in range(len(at_work) + 1) for picked in combinations(range(len(at_work)), size)
    ]
    without = {picked: uncovered(desk, [move for each in picked for move in at_work[each]]) for picked in fills}
    for picked in fills:
        left = uncovered(desk, [*own, *(move for each in picked for move in at_work[each])])
        assert left <= max(now, *(bare for part, bare in without.items() if part <= picked))


@settings(max_examples=300)
@given(st.integers(1, 10**6), st.integers(1, 1000), st.integers(-3, 3), st.booleans())
def test_a_market_order_for_shares_is_within_its_notional_to_the_cent(cents, quantity, off, buys):
    """Also where the short answer in floats does not suffice."""
    desk = Desk()
    desk.quote(AAPL, cents / 100)
    price = D(repr(desk.book.quotes[AAPL].ask if buys else desk.book.quotes[AAPL].bid))
    limits = msgspec.structs.replace(OPEN, max_notional=price * quantity + D(off) / 100)
    refused = check(order(AAPL, "BUY" if buys else "SELL", quantity), "s", limits, desk.book, now=AT, mono_s=1001.0)
    assert (refused is not None) == (off < 0)


@given(desks(), LIMITS, TRADED, ACTION, QUANTITY)
def test_without_a_quote_a_market_order_is_refused(desk, limits, traded, action, quantity):
    """Unknown is never zero: there is no price, so there is no order."""
    desk.book.quotes.clear()
    assert check(order(traded, action, quantity), "s", limits, desk.book, now=AT, mono_s=1001.0) is not None


@given(desks(), TRADED, ACTION, QUANTITY)
def test_an_unknown_loss_of_the_day_lets_nothing_in(desk, traded, action, quantity):
    """Only what reduces passes while the broker has not told it."""
    limits = msgspec.structs.replace(OPEN, max_daily_loss=D(1_000_000))
    intent = order(traded, action, quantity)
    if check(intent, "s", limits, desk.book, now=AT, mono_s=1001.0) is None:
        assert Exposure(desk.book, "DU1").is_reducing(moves(intent, D(quantity)))


@settings(max_examples=200)
@given(desks(), st.data())
def test_the_sums_over_working_orders_are_those_of_the_orders(desk, data):
    """Kept as orders come, fill and end; the same as added up anew."""
    for ref in list(desk.book.orders):
        what = data.draw(st.sampled_from(["nothing", "cancelled", "changed", "not sent"]))
        intent = desk.book.orders[ref].intent
        if what == "cancelled":
            desk.book.apply(status(ref, "Cancelled"))
        elif what == "not sent":
            desk.book.apply(ev.OrderNotSent(at=AT, ref=ref, reason=""))
        elif what == "changed":
            change = msgspec.structs.replace(intent, quantity=intent.quantity + 3)
            desk.book.apply(ev.ModificationRequested(at=AT, ref=ref, intent=change))
    expected: dict = {}
    for one in desk.book.alive_orders():
        quantity = max(one.intent.quantity, one.change.quantity if one.change else D(0)) - one.filled
        for contract, signed in moves(one.intent, quantity):
            buys, sells = expected.get(contract, (D(0), D(0)))
            expected[contract] = (buys + max(signed, D(0)), sells + max(-signed, D(0)))
    assert dict(desk.book.working.left("DU1")) == expected


def status(ref, word):
    return ev.OrderStatusReported(
        at=AT, ref=ref, order_id=1, client_id=1, perm_id=0, status=word, filled=D(0), remaining=D(0)
    )
