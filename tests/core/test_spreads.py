"""Option spreads by name: the textbook's numbers, what each name refuses, and the page that explains them."""

from __future__ import annotations

import doctest
import re
from decimal import Decimal as D
from pathlib import Path

import pytest

from ibkr_service.core import spreads as sp
from ibkr_service.core.errors import InvalidIntent
from ibkr_service.core.instrument import FutureOption, Option, Stock
from ibkr_service.core.spreads import UNLIMITED, Kind
from tests.core.spreadmaking import FAR, NAMED, NEAR, call, fop, put

PAGE = Path(__file__).parents[2] / "docs" / "spreads.md"

# In the manner of the Options Industry Council's strategy pages, checked by hand: prices per share, money per spread.
TEXTBOOK = [
    (sp.bull_call(call(60), call(65)), {"debit": "1.80"}, "320", "180", ["61.80"]),
    (sp.bear_call(call(60), call(65)), {"credit": "1.80"}, "180", "320", ["61.80"]),
    (sp.bull_put(put(55), put(60)), {"credit": "1.50"}, "150", "350", ["58.50"]),
    (sp.bear_put(put(55), put(60)), {"debit": "1.50"}, "350", "150", ["58.50"]),
    (sp.straddle(put(60), call(60)), {"debit": "4.15"}, UNLIMITED, "415", ["55.85", "64.15"]),
    (sp.short_straddle(put(60), call(60)), {"credit": "4.15"}, "415", UNLIMITED, ["55.85", "64.15"]),
    (sp.strangle(put(55), call(65)), {"debit": "1.50"}, UNLIMITED, "150", ["53.50", "66.50"]),
    (sp.short_strangle(put(55), call(65)), {"credit": "1.50"}, "150", UNLIMITED, ["53.50", "66.50"]),
    (sp.iron_condor(put(50), put(55), call(65), call(70)), {"credit": "1.20"}, "120", "380", ["53.80", "66.20"]),
    # The wider wing is the one that may be lost.
    (sp.iron_condor(put(45), put(55), call(65), call(70)), {"credit": "1.20"}, "120", "880", ["53.80", "66.20"]),
    (sp.iron_butterfly(put(55), put(60), call(60), call(65)), {"credit": "3.50"}, "350", "150", ["56.50", "63.50"]),
    (sp.call_butterfly(call(55), call(60), call(65)), {"debit": "0.75"}, "425", "75", ["55.75", "64.25"]),
    (sp.put_butterfly(put(55), put(60), put(65)), {"debit": "0.75"}, "425", "75", ["55.75", "64.25"]),
    # Broken: no loss below, the difference of the wings above.
    (
        sp.call_butterfly(call(55), call(60), call(70), broken_wing=True),
        {"credit": "0.25"}, "525", "475", ["65.25"],
    ),
    (sp.call_front_ratio(call(60), call(65)), {"debit": "0.40"}, "460", UNLIMITED, ["60.40", "69.60"]),
    (sp.call_front_ratio(call(60), call(65)), {"credit": "0.40"}, "540", UNLIMITED, ["70.40"]),
    (sp.call_back_ratio(call(60), call(65)), {"credit": "0.40"}, UNLIMITED, "460", ["60.40", "69.60"]),
    # Of puts the end is a price of zero.
    (sp.put_front_ratio(put(55), put(60)), {"credit": "0.40"}, "540", "4960", ["49.60"]),
    (sp.put_back_ratio(put(55), put(60)), {"debit": "0.40"}, "4960", "540", ["49.60"]),
    (sp.call_front_ratio(call(60), call(65), (2, 3)), {"debit": "1"}, "900", UNLIMITED, ["60.5", "74"]),
    # Futures: the multiplier is the future's.
    (sp.bull_put(fop(70, "P"), fop(75, "P")), {"credit": "1.25"}, "1250", "3750", ["73.75"]),
    # The underlying as a leg: a covered call at 58 for 2.
    (
        sp.combination([sp.Leg(Stock("AAPL"), 100, "BUY"), sp.Leg(call(60), 1, "SELL")])[0],
        {"debit": "56"}, "400", "5600", ["56"],
    ),
]  # fmt: skip


@pytest.mark.parametrize(("spread", "price", "profit", "loss", "break_evens"), TEXTBOOK)
def test_the_textbooks_numbers(spread, price, profit, loss, break_evens):
    """Maximum profit, maximum loss and break-evens of every kind; and of the other side the same in reverse."""
    [(word, amount)] = price.items()
    outcome = spread.outcome(spread.net_price(**{word: D(amount)}))
    assert outcome.max_profit == (profit if profit is UNLIMITED else D(profit))
    assert outcome.max_loss == (loss if loss is UNLIMITED else D(loss))
    assert outcome.break_evens == tuple(map(D, break_evens))
    assert outcome.on == NEAR


def test_the_textbook_has_every_kind():
    """But the inverses, and those over time."""
    tried = {spread.kind for spread, *_ in TEXTBOOK}
    missing = {str(kind) for kind in set(Kind) - tried if not re.search("calendar|diagonal", str(kind))}
    assert missing == {
        "reverse iron condor",
        "reverse iron butterfly",
        "short call butterfly",
        "short put butterfly",
        "short broken-wing butterfly",
    }


def test_a_name_is_the_legs():
    """Each constructor gives what it is called, and a list of the same legs has the same name."""
    for kind, spread in NAMED.items():
        assert spread.kind is kind
        assert sp.combination(spread.legs) == (spread, 1)


@pytest.mark.parametrize(
    ("made", "custom"),
    [
        ([(call(100), 1), (call(110), 1)], True),
        ([(call(100), 2), (call(110), -1)], True),
        ([(call(90), 1), (put(110), 1)], True),  # guts
        ([(call(100), 1), (put(100), -1)], True),  # synthetic
        ([(call(90), 1), (call(95), -1), (call(105), -1), (call(110), 1)], True),  # condor of calls alone
        ([(call(100), -1), (call(110, FAR), 1), (call(120, FAR), 1)], True),
        ([(call(100), -2), (call(100, FAR), 1)], True),
        ([(call(100), -1), (put(100, FAR), 1)], True),
        ([(call(100), 1), (Stock("AAPL"), -100)], True),
        ([(call(110), -1), (call(100), 1)], False),
    ],
)
def test_what_has_no_name_is_custom(made, custom):
    """Like, but not the same."""
    legs = [sp.Leg(option, abs(n), "BUY" if n > 0 else "SELL") for option, n in made]
    assert (sp.combination(legs)[0].kind is Kind.CUSTOM) == custom


def test_two_classes_of_one_day_are_no_vertical_and_no_calendar():
    """SPX settles at the opening, SPXW at the close: not together, and not in an order that dates tell."""
    am = Option("SPX", NEAR, 6000.0, "C", trading_class="SPX")
    pm = Option("SPX", NEAR, 6000.0, "C", trading_class="SPXW")
    mixed, _ = sp.combination([sp.Leg(am, 1, "SELL"), sp.Leg(pm, 1, "BUY")])
    assert mixed.kind is Kind.CUSTOM
    assert sp.calendar(am, Option("SPX", FAR, 6000.0, "C", trading_class="SPXW")).kind is Kind.CALL_CALENDAR


def test_strikes_are_what_is_written():
    """0.1 and 0.3 as people mean them, not as floats store them."""
    spread = sp.bull_call(call(0.1), call(0.3))
    assert spread.outcome(spread.net_price(D("0.05"))).max_profit == D("15.0")


@pytest.mark.parametrize(
    ("make", "options", "why"),
    [
        # rights
        (sp.bull_call, [call(100), put(110)], "bull call spread: .* is a put; in this order are needed: call, call"),
        (sp.bull_put, [call(100), put(110)], "100 C is a call; .* put, put"),
        (sp.straddle, [call(100), put(100)], "100 C is a call; .* put, call"),
        (sp.iron_condor, [put(90), call(95), put(105), call(110)], "95 C is a call; .* put, put, call, call"),
        (sp.put_butterfly, [call(90), call(100), call(110)], "put, put, put"),
        (sp.call_front_ratio, [put(100), put(110)], "call, call"),
        (sp.put_back_ratio, [call(100), call(110)], "put, put"),
        (sp.calendar, [call(100), put(100, FAR)], "two calls or two puts are needed"),
        (sp.diagonal, [put(100), call(110, FAR)], "two puts or two calls are needed"),
        # strikes
        (sp.bull_call, [call(110), call(100)], "strikes must lie a < b, 110, 100 do not"),
        (sp.bear_put, [put(100), put(100)], "strikes must lie a < b, 100, 100 do not"),
        (sp.straddle, [put(95), call(105)], "a = b, 95, 105 do not; different strikes make a strangle"),
        (sp.short_strangle, [put(100), call(100)], "a < b, 100, 100 do not; equal strikes make a straddle"),
        (sp.strangle, [put(105), call(95)], "a < b, 105, 95 do not"),
        (sp.iron_condor, [put(90), put(100), call(100), call(110)], "a < b < c < d, .* equal strikes in the middle"),
        (sp.iron_butterfly, [put(90), put(95), call(105), call(110)], "a < b = c < d, .* different strikes in the"),
        (sp.iron_condor, [put(95), put(90), call(105), call(110)], "a < b < c < d, 95, 90, 105, 110 do not"),
        (sp.call_butterfly, [call(110), call(100), call(90)], "a < b < c"),
        (sp.call_butterfly, [call(90), call(100), call(120)], "wings are 10 and 20 wide; .* be 110; or say broken_w"),
        (sp.put_front_ratio, [put(100), put(90)], "a < b, 100, 90 do not"),
        (sp.calendar, [call(100), call(110, FAR)], "both have one strike, not 100 and 110: use diagonal"),
        (sp.diagonal, [call(100), call(100, FAR)], "two strikes are needed, not 100 twice: use calendar"),
        # expiries
        (sp.bull_call, [call(100), call(110, FAR)], "one expiry .*, not 20270115 AAPL and 20270219 AAPL"),
        (sp.straddle, [put(100, FAR), call(100)], "one expiry"),
        (sp.call_back_ratio, [call(100), call(110, FAR)], "one expiry"),
        (sp.calendar, [call(100, FAR), call(100)], "the first expires before the second.*: give the near first"),
        (sp.diagonal, [call(100), call(110)], "the first expires before the second"),
        # anything else
        (sp.bull_call, [Stock("AAPL"), call(110)], "is no option: write 'AAPL 20270115 150 C'"),
        (sp.bull_call, ["AAPL", "AAPL 20270115 110 C"], "'AAPL' is no option"),
        (sp.bull_call, ["AAPL 100 C", "AAPL 20270115 110 C"], "cannot read instrument"),
        (sp.bull_call, [call(100), Option("MSFT", NEAR, 110.0, "C", trading_class="AAPL")], "different symbol"),
        (sp.bull_call, [FutureOption("ES", NEAR, 1.0, "C"), FutureOption("ES", NEAR, 2.0, "C")], "multiplier is ''"),
    ],
)  # fmt: skip
def test_what_does_not_fit_the_name_is_refused(make, options, why):
    """With what would be right: no name gives quietly another spread."""
    with pytest.raises(InvalidIntent, match=why):
        make(*options)


def test_two_classes_are_refused_by_name():
    """A vertical of SPX and SPXW would be two bets."""
    am, pm = (Option("SPX", NEAR, k, "C", trading_class=name) for k, name in ((6000.0, "SPX"), (6100.0, "SPXW")))
    with pytest.raises(InvalidIntent, match="20270115 SPX and 20270115 SPXW"):
        sp.bull_call(am, pm)


@pytest.mark.parametrize("ratio", [(1, 1), (2, 1), (0, 2), (-1, 2), (2, 4)])
def test_a_ratio_is_of_less_to_more(ratio):
    """Equal numbers are a vertical, and 2:4 is two of 1:2."""
    with pytest.raises(InvalidIntent, match=r"as \(1, 2\)|order 2 of"):
        sp.call_front_ratio(call(100), call(110), ratio)


def test_a_broken_wing_is_said_only_where_one_is():
    """The word is a promise."""
    with pytest.raises(InvalidIntent, match="the wings are equal: leave it out"):
        sp.put_butterfly(put(90), put(100), put(110), broken_wing=True)


# --- the page --------------------------------------------------------------------------------------------------------


def test_the_examples_on_the_page_are_true():
    """Each line of it is run."""
    text = PAGE.read_text()
    found = doctest.DocTestParser().get_doctest(text.replace("\n```", "\n\n```"), {}, "spreads.md", str(PAGE), 0)
    assert len(found.examples) > 15
    said = []
    assert doctest.DocTestRunner().run(found, out=said.append).failed == 0, "".join(said)


def test_the_table_on_the_page_is_true():
    """Every kind has its row, with its natural direction."""
    rows = re.findall(r"^\| `(\w+)\(.*?\)` \| [^|]* \| (\w+)", PAGE.read_text(), re.MULTILINE)
    makers = {
        name: getattr(sp, name)
        for name in sp.__all__
        if getattr(getattr(sp, name), "__module__", "") == "ibkr_service.core.spreads"
    }
    assert {name for name, _ in rows} == set(makers)
    words = {None: "say", sp.Direction.DEBIT: "debit", sp.Direction.CREDIT: "credit"}
    for name, word in rows:
        of_name = [
            spread
            for kind, spread in NAMED.items()
            if str(kind).split(" spread")[0].replace(" ", "_") in {name, f"call_{name}", f"put_{name}"}
        ]
        assert of_name, name
        assert {words[spread.natural] for spread in of_name} == {word}
