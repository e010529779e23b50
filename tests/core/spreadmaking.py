"""Spreads to test with: every kind by its constructor, and any at all for hypothesis."""

from __future__ import annotations

from decimal import Decimal as D

from hypothesis import strategies as st

from ibkr_service.core import spreads as sp
from ibkr_service.core.instrument import FutureOption, Option, Stock
from ibkr_service.core.legs import leg

NEAR, FAR = "20270115", "20270219"
STRIKES = [90.0, 95.0, 97.5, 100.0, 105.0, 110.0, 120.0]


def call(strike, expiry=NEAR):
    return Option("AAPL", expiry, float(strike), "C")


def put(strike, expiry=NEAR):
    return Option("AAPL", expiry, float(strike), "P")


def fop(strike, right, expiry=NEAR):
    return FutureOption("CL", expiry, float(strike), right, multiplier="1000", exchange="NYMEX")


K = sp.Kind
NAMED = {
    K.BULL_CALL: sp.bull_call(call(100), call(110)),
    K.BEAR_CALL: sp.bear_call(call(100), call(110)),
    K.BULL_PUT: sp.bull_put(put(90), put(100)),
    K.BEAR_PUT: sp.bear_put(put(90), put(100)),
    K.STRADDLE: sp.straddle(put(100), call(100)),
    K.SHORT_STRADDLE: sp.short_straddle(put(100), call(100)),
    K.STRANGLE: sp.strangle(put(95), call(105)),
    K.SHORT_STRANGLE: sp.short_strangle(put(95), call(105)),
    K.IRON_CONDOR: sp.iron_condor(put(90), put(95), call(105), call(110)),
    K.REVERSE_IRON_CONDOR: sp.iron_condor(put(90), put(95), call(105), call(120)).inverse(),
    K.IRON_BUTTERFLY: sp.iron_butterfly(put(90), put(100), call(100), call(110)),
    K.REVERSE_IRON_BUTTERFLY: sp.iron_butterfly(put(95), put(100), call(100), call(110)).inverse(),
    K.CALL_BUTTERFLY: sp.call_butterfly(call(90), call(100), call(110)),
    K.SHORT_CALL_BUTTERFLY: sp.call_butterfly(call(90), call(100), call(110)).inverse(),
    K.PUT_BUTTERFLY: sp.put_butterfly(put(90), put(100), put(110)),
    K.SHORT_PUT_BUTTERFLY: sp.put_butterfly(put(90), put(100), put(110)).inverse(),
    K.BROKEN_WING_BUTTERFLY: sp.call_butterfly(call(95), call(100), call(110), broken_wing=True),
    K.SHORT_BROKEN_WING_BUTTERFLY: sp.put_butterfly(put(95), put(100), put(110), broken_wing=True).inverse(),
    K.CALL_CALENDAR: sp.calendar(call(100), call(100, FAR)),
    K.SHORT_CALL_CALENDAR: sp.calendar(call(100), call(100, FAR)).inverse(),
    K.PUT_CALENDAR: sp.calendar(put(100), put(100, FAR)),
    K.SHORT_PUT_CALENDAR: sp.calendar(put(100), put(100, FAR)).inverse(),
    K.CALL_DIAGONAL: sp.diagonal(call(105), call(100, FAR)),
    K.SHORT_CALL_DIAGONAL: sp.diagonal(call(105), call(100, FAR)).inverse(),
    K.PUT_DIAGONAL: sp.diagonal(put(95), put(100, FAR)),
    K.SHORT_PUT_DIAGONAL: sp.diagonal(put(95), put(100, FAR)).inverse(),
    K.CALL_FRONT_RATIO: sp.call_front_ratio(call(100), call(110)),
    K.CALL_BACK_RATIO: sp.call_back_ratio(call(100), call(110), (2, 3)),
    K.PUT_FRONT_RATIO: sp.put_front_ratio(put(90), put(100), (1, 3)),
    K.PUT_BACK_RATIO: sp.put_back_ratio(put(90), put(100)),
}


@st.composite
def spreads(draw, expiries=(NEAR,), future=None):
    """Any combination: named and nameless, on a stock (perhaps with it) or on a future."""
    on_future = draw(st.booleans()) if future is None else future
    make = (
        fop
        if on_future
        else (lambda strike, right, expiry: call(strike, expiry) if right == "C" else put(strike, expiry))
    )
    contracts = st.tuples(st.sampled_from(STRIKES), st.sampled_from("CP"), st.sampled_from(expiries))
    chosen = draw(st.lists(contracts, min_size=2, max_size=6, unique=True))
    counts = st.integers(1, 4).flatmap(lambda n: st.sampled_from([n, -n]))
    legs = [leg(make(*one), draw(counts)) for one in chosen]
    if not on_future and draw(st.booleans()):
        legs.append(leg(Stock("AAPL"), draw(st.sampled_from([100, -100, 50, 300]))))
    return sp.combination(legs)[0]


cents = st.integers(0, 5000).map(lambda n: D(n) / 100)
sides = st.sampled_from(["LONG", "SHORT"])
named = st.sampled_from(list(NAMED.values()))
together = named.filter(lambda spread: spread.expires_together) | spreads()
