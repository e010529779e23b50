"""What the official client checks about market data, live and historical."""

import re
import time
from itertools import pairwise

from harness import Checks, Failed, expect, require
from official_app import IS_OLD, Tws, bag, contract, forex, stock, summary

checks = Checks()

BID, ASK, LAST, BID_SIZE, ASK_SIZE, LAST_SIZE = 1, 2, 4, 0, 3, 5
SNAPSHOT, STREAM = ("", True, False, []), ("", False, False, [])
FLOW = 3
GENERIC = "100,101,104,106,165,221,233,236,411,456"
GENERIC_TYPES = {"volatility": {23, 24}, "option volume": {29, 30}, "mark": {37}, "RTVolume": {48}, "shortable": {46}}
LINES_MAX = 120
TIME = re.compile(r"\d{8} +\d\d:\d\d:\d\d( [A-Za-z_]+/?[A-Za-z_]*)?")


def ticks_of(*types: int):
    """A condition: ticks of all these types have come."""

    def have_come(heard) -> bool:
        return set(types) <= {event.args[1] for event in heard if event.name.startswith("tick")}

    have_come.__doc__ = f"ticks of types {types}"
    return have_come


def prices_of(events) -> dict[int, float]:
    return {event.args[1]: event.args[2] for event in events if event.name == "tickPrice"}


@checks("ticks-stock")
def ticks_stock(tws: Tws) -> None:
    events = tws.ask("reqMktData", stock("AAPL"), *STREAM, until=ticks_of(BID, ASK, LAST, BID_SIZE, ASK_SIZE))
    prices = prices_of(events)
    require(0 < prices[BID] < prices[ASK], "a bid below the ask", prices)
    names = [event.name for event in events]
    require("tickReqParams" in names, "tickReqParams first", names[:3])
    kind = [event.args[1] for event in events if event.name == "marketDataType"]
    expect("market data type", [1], kind)
    tws.call("cancelMktData", events[0].id)


@checks("ticks-forex")
def ticks_forex(tws: Tws) -> None:
    events = tws.ask("reqMktData", forex("EUR", "USD"), *STREAM, until=ticks_of(BID, ASK, BID_SIZE, ASK_SIZE))
    prices = prices_of(events)
    require(0.5 < prices[BID] < prices[ASK] < 2, "a rate of EUR.USD", prices)
    steps = prices[BID] / 0.00005
    require(abs(steps - round(steps)) < 1e-6, "a price on the grid of 0.00005", prices[BID])
    tws.call("cancelMktData", events[0].id)


@checks("ticks-flow")
def ticks_flow(tws: Tws) -> None:
    def several(heard) -> bool:
        """Three different bids."""
        return len({event.args[2] for event in heard if event.name == "tickPrice" and event.args[1] == BID}) >= FLOW

    events = tws.ask("reqMktData", forex("GBP", "USD"), *STREAM, until=several)
    tws.call("cancelMktData", events[0].id)


@checks("ticks-cancel")
def ticks_cancel(tws: Tws) -> None:
    events = tws.ask("reqMktData", forex("AUD", "USD"), *STREAM, until=ticks_of(BID, ASK))
    tws.call("cancelMktData", events[0].id)
    tws.time()
    _silent_while_others_tick(tws, events[0].id)


def _silent_while_others_tick(tws: Tws, request_id: int) -> None:
    """While the EUR.USD line of the script goes on ticking, nothing comes for this request."""
    since = tws.journal.mark()
    heard, was_done = tws.journal.wait(
        since,
        lambda event: event.name.startswith("tick") and event.id in {request_id, tws.heartbeat},
        lambda heard: heard[-1].id == request_id or len(heard) >= FLOW,
        tws.patience,
    )
    late = [event for event in heard if event.id == request_id]
    if late:
        raise Failed("no tick after the end", summary(late))
    require(was_done, "other lines to go on ticking", summary(heard))


@checks("ticks-duplicate-id")
def ticks_duplicate_id(tws: Tws) -> None:
    request_id = tws.ask("reqMktData", stock("IBM"), *STREAM, until=ticks_of(BID))[0].id
    tws.refusal("reqMktData", stock("IBM"), *STREAM, codes=(102,), request_id=request_id)
    tws.call("cancelMktData", request_id)


@checks("snapshot")
def snapshot(tws: Tws) -> None:
    events = tws.ask("reqMktData", stock("MSFT"), *SNAPSHOT, until="tickSnapshotEnd")
    prices = prices_of(events)
    require({BID, ASK, LAST} <= set(prices), "bid, ask and last before the end", prices)
    _silent_while_others_tick(tws, events[0].id)


@checks("ticks-unknown")
def ticks_unknown(tws: Tws) -> None:
    tws.refusal("reqMktData", stock("NOSUCHTHING"), *STREAM, codes=(200,))


@checks("ticks-delayed")
def ticks_delayed(tws: Tws) -> None:
    tws.call("reqMarketDataType", 3)
    events = tws.ask("reqMktData", stock("AAPL"), *STREAM, until=ticks_of(66, 67))
    tws.call("reqMarketDataType", 1)
    expect("market data type", [3], [event.args[1] for event in events if event.name == "marketDataType"])
    live = {BID, ASK, LAST} & set(prices_of(events))
    expect("live ticks on a delayed line", set(), live)
    tws.call("cancelMktData", events[0].id)


@checks("ticks-generic")
def ticks_generic(tws: Tws) -> None:
    def one_of_each(heard) -> bool:
        """A tick of each generic kind."""
        have = {event.args[1] for event in heard if event.name.startswith("tick")}
        return all(have & types for types in GENERIC_TYPES.values())

    events = tws.ask("reqMktData", stock("AAPL"), GENERIC, False, False, [], until=one_of_each)
    volumes = [event.args[2] for event in events if event.name == "tickString" and event.args[1] == 48]
    expect("parts of RTVolume", 6, len(volumes[0].split(";")))
    tws.call("cancelMktData", events[0].id)


@checks("ticks-index")
def ticks_index(tws: Tws) -> None:
    events = tws.ask("reqMktData", contract("IND", "SPX", "CBOE"), *STREAM, until=ticks_of(LAST))
    require(prices_of(events)[LAST] > 100, "a level of SPX", prices_of(events))
    tws.call("cancelMktData", events[0].id)


@checks("ticks-future")
def ticks_future(tws: Tws) -> None:
    front = min(tws.details(contract("FUT", "ES", "CME")), key=lambda it: it.contract.lastTradeDateOrContractMonth)
    events = tws.ask("reqMktData", front.contract, *STREAM, until=ticks_of(BID, ASK))
    require(prices_of(events)[BID] < prices_of(events)[ASK], "a bid below the ask", prices_of(events))
    tws.call("cancelMktData", events[0].id)


@checks("ticks-combo")
def ticks_combo(tws: Tws) -> None:
    near, far = tws.at_the_money("AAPL"), tws.at_the_money("AAPL", step=2)
    spread = bag("AAPL", (near.conId, 1, "BUY"), (far.conId, 1, "SELL"))
    events = tws.ask("reqMktData", spread, *STREAM, until=ticks_of(BID, ASK))
    require(prices_of(events)[BID] < prices_of(events)[ASK], "a bid below the ask", prices_of(events))
    tws.call("cancelMktData", events[0].id)


@checks("greeks")
def greeks(tws: Tws) -> None:
    wanted = tws.at_the_money("AAPL")
    underlying = sum(tws.quote(stock("AAPL"))) / 2
    events = tws.ask("reqMktData", wanted, *STREAM, until=ticks_of(10, 11, 13))
    tws.call("cancelMktData", events[0].id)
    model = [event.args[-8:] for event in events if event.name == "tickOptionComputation" and event.args[1] == 13][-1]
    vol, delta, price, _dividend, gamma, vega, theta, under = model
    require(0.05 < vol < 2, "an implied volatility", vol)
    require(0.2 < delta < 0.8, "the delta of a call at the money", delta)
    require(gamma > 0 and vega > 0 and theta < 0, "signs of gamma, vega and theta", (gamma, vega, theta))
    require(price > 0, "a model price", price)
    require(abs(under / underlying - 1) < 0.05, f"a price of the underlying near {underlying}", under)


@checks("calculate-implied-volatility")
def calculate_implied_volatility(tws: Tws) -> None:
    wanted, under = tws.at_the_money("AAPL"), tws.quote(stock("AAPL"))[0]
    high = tws.ask("calculateImpliedVolatility", wanted, 20.0, under, [], until="tickOptionComputation")[-1].args
    low = tws.ask("calculateImpliedVolatility", wanted, 10.0, under, [], until="tickOptionComputation")[-1].args
    expect("tick type", 53, high[1])
    require(0 < low[-8] < high[-8], "more volatility in a dearer option", (low[-8], high[-8]))


@checks("calculate-option-price")
def calculate_option_price(tws: Tws) -> None:
    wanted, under = tws.at_the_money("AAPL"), tws.quote(stock("AAPL"))[0]
    high = tws.ask("calculateOptionPrice", wanted, 0.5, under, [], until="tickOptionComputation")[-1].args
    low = tws.ask("calculateOptionPrice", wanted, 0.2, under, [], until="tickOptionComputation")[-1].args
    require(0 < low[-6] < high[-6], "a dearer option at more volatility", (low[-6], high[-6]))


def _by_tick(tws: Tws, kind: str, name: str):
    def several(heard) -> bool:
        return sum(event.name == name for event in heard) >= FLOW

    several.__doc__ = f"three {name}"
    events = tws.ask("reqTickByTickData", stock("AAPL"), kind, 0, False, until=several)
    tws.call("cancelTickByTickData", events[0].id)
    return [event.args for event in events if event.name == name]


@checks("tick-by-tick-last")
def tick_by_tick_last(tws: Tws) -> None:
    for kind, number in (("Last", 1), ("AllLast", 2)):
        for _, came, seconds, price, size, *_ in _by_tick(tws, kind, "tickByTickAllLast"):
            expect("tick type", number, came)
            require(price > 0 and size >= 0 and seconds > 1e9, "a trade", (seconds, price, size))


@checks("tick-by-tick-bid-ask")
def tick_by_tick_bid_ask(tws: Tws) -> None:
    for _, _, bid, ask, bid_size, ask_size, _ in _by_tick(tws, "BidAsk", "tickByTickBidAsk"):
        require(0 < bid < ask and bid_size > 0 and ask_size > 0, "a quote", (bid, ask, bid_size, ask_size))


@checks("tick-by-tick-midpoint")
def tick_by_tick_midpoint(tws: Tws) -> None:
    for _, _, price in _by_tick(tws, "MidPoint", "tickByTickMidPoint"):
        require(price > 0, "a price", price)


@checks("real-time-bars")
def real_time_bars(tws: Tws) -> None:
    def two(heard) -> bool:
        """Two real-time bars."""
        return sum(event.name == "realtimeBar" for event in heard) >= 2

    events = tws.ask("reqRealTimeBars", stock("AAPL"), 5, "TRADES", False, [], until=two)
    tws.call("cancelRealTimeBars", events[0].id)
    first, second = [event.args for event in events if event.name == "realtimeBar"][:2]
    # A gateway twenty times faster than life may fall behind on a busy machine, and then leaves a bar out.
    apart = second[1] - first[1]
    require(apart > 0 and apart % 5 == 0, "bars some five seconds apart", apart)
    expect("seconds on the grid", 0, first[1] % 5)
    require(first[4] <= min(first[2], first[5]) <= max(first[2], first[5]) <= first[3], "low to high", first)


@checks("depth")
def depth(tws: Tws) -> None:
    def both_sides(heard) -> bool:
        """Depth on both sides."""
        return {0, 1} <= {event.args[-3] if not _is_smart(event) else event.args[-4] for event in heard}

    # isSmartDepth also changes which callback comes: updateMktDepth or updateMktDepthL2.
    for is_smart, where in ((False, contract("STK", "AAPL", "NASDAQ")), (True, stock("AAPL"))):
        events = tws.ask("reqMktDepth", where, 5, is_smart, [], until=both_sides)
        tws.call("cancelMktDepth", events[0].id, is_smart)
        require(all(event.args[1] in range(5) for event in events), "positions 0 to 4", summary(events))


def _is_smart(event) -> bool:
    return isinstance(event.args[2], str)


def history(tws: Tws, what, *, duration="1 D", size="1 hour", show="TRADES", rth=0, form=1):
    events = tws.ask(
        "reqHistoricalData", what, "", duration, size, show, rth, form, False, [], until="historicalDataEnd"
    )
    bars = [event.args[1] for event in events if event.name == "historicalData"]
    require(bars, f"bars of {size}", summary(events))
    dates = [bar.date for bar in bars]
    expect("dates in order", sorted(set(dates)), dates)
    for bar in bars:
        shown = (bar.low, bar.open, bar.close, bar.high)
        require(0 < bar.low <= min(bar.open, bar.close) <= max(bar.open, bar.close) <= bar.high, "low to high", shown)
    return bars


@checks("history-days")
def history_days(tws: Tws) -> None:
    bars = history(tws, stock("AAPL"), duration="10 D", size="1 day", rth=1)
    require(8 <= len(bars) <= 11, "about 10 bars", len(bars))
    require(all(re.fullmatch(r"\d{8}", bar.date) for bar in bars), "dates YYYYMMDD", bars[0].date)
    require(all(bar.volume > 0 and bar.barCount > 0 for bar in bars), "volume and count", bars[0])


@checks("history-hours")
def history_hours(tws: Tws) -> None:
    bars = history(tws, stock("AAPL"), duration="2 D")
    require(len(bars) >= 7, "at least seven hours", len(bars))
    require(all(TIME.fullmatch(bar.date) for bar in bars), "times YYYYMMDD HH:MM:SS zone", bars[0].date)


@checks("history-minutes")
def history_minutes(tws: Tws) -> None:
    bars = history(tws, forex("EUR", "USD"), duration="3600 S", size="5 mins", show="MIDPOINT", form=2)
    require(10 <= len(bars) <= 14, "about 12 bars", len(bars))
    apart = {int(after.date) - int(before.date) for before, after in pairwise(bars)}
    expect("seconds between bars", {300}, apart)
    expect("volume of midpoints", {-1}, {int(bar.volume) for bar in bars})


@checks("history-seconds")
def history_seconds(tws: Tws) -> None:
    bars = history(tws, forex("EUR", "USD"), duration="120 S", size="5 secs", show="BID_ASK", form=2)
    require(20 <= len(bars) <= 26, "about 24 bars", len(bars))


@checks("history-weeks")
def history_weeks(tws: Tws) -> None:
    require(len(history(tws, stock("SPY"), duration="6 M", size="1 week", rth=1)) >= 20, "half a year", "fewer bars")


@checks("history-keep-up-to-date")
def history_keep_up_to_date(tws: Tws) -> None:
    args = (forex("EUR", "USD"), "", "300 S", "5 secs", "MIDPOINT", 0, 2, True, [])
    events = tws.ask("reqHistoricalData", *args, until="historicalDataUpdate")
    tws.call("cancelHistoricalData", events[0].id)
    names = [event.name for event in events]
    require("historicalDataEnd" in names, "the end of the history before updates", names[-3:])
    bars = [event.args[1] for event in events if event.name == "historicalData"]
    update = events[-1].args[1]
    require(int(update.date) >= int(bars[-1].date), f"an update from {bars[-1].date} on", update.date)


@checks("history-refused")
def history_refused(tws: Tws) -> None:
    tail = ("TRADES", 1, 1, False, [])
    tws.refusal("reqHistoricalData", stock("NOSUCHTHING"), "", "1 D", "1 hour", *tail, codes=(200,))
    tws.refusal("reqHistoricalData", stock("AAPL"), "", "1 D", "7 parsecs", *tail, codes=(321,))
    tws.refusal("reqHistoricalData", stock("AAPL"), "", "1 eternity", "1 hour", *tail, codes=(321,))


@checks("head-timestamp")
def head_timestamp(tws: Tws) -> None:
    text = tws.ask("reqHeadTimeStamp", stock("AAPL"), "TRADES", 1, 1, until="headTimestamp")[-1].args[1]
    require(re.fullmatch(r"\d{8}-\d\d:\d\d:\d\d", text), "YYYYMMDD-HH:MM:SS", text)
    epoch = tws.ask("reqHeadTimeStamp", stock("AAPL"), "TRADES", 1, 2, until="headTimestamp")[-1].args[1]
    require(int(epoch) < tws.time(), "a time in the past", epoch)


def _past_ticks(tws: Tws, what, show: str, name: str) -> list:
    now = time.strftime("%Y%m%d-%H:%M:%S", time.gmtime(tws.time()))
    events = tws.ask("reqHistoricalTicks", what, "", now, 20, show, 0, False, [], until=lambda heard: heard[-1].args[2])
    ticks = [tick for event in events for tick in event.args[1]]
    expect("callbacks", {name}, {event.name for event in events})
    require(ticks, f"ticks of {show}", ticks)
    times = [tick.time for tick in ticks]
    expect("times in order", sorted(times), times)
    return ticks


@checks("history-ticks")
def history_ticks(tws: Tws) -> None:
    for tick in _past_ticks(tws, stock("AAPL"), "TRADES", "historicalTicksLast"):
        require(tick.price > 0 and tick.size > 0 and tick.exchange, "a trade", tick)
    for tick in _past_ticks(tws, stock("AAPL"), "BID_ASK", "historicalTicksBidAsk"):
        require(0 < tick.priceBid < tick.priceAsk, "a quote", tick)
    for tick in _past_ticks(tws, forex("EUR", "USD"), "MIDPOINT", "historicalTicks"):
        require(tick.price > 0, "a price", tick)


if not IS_OLD:

    @checks("history-schedule")
    def history_schedule(tws: Tws) -> None:
        args = (stock("AAPL"), "", "10 D", "1 day", "SCHEDULE", 1, 1, False, [])
        _, start, end, zone, sessions = tws.ask("reqHistoricalData", *args, until="historicalSchedule")[-1].args
        require(start and end and zone, "start, end and zone", (start, end, zone))
        require(6 <= len(sessions) <= 12, "about 10 sessions", len(sessions))
        require(all(it.startDateTime < it.endDateTime for it in sessions), "sessions with start and end", sessions[0])


@checks("histogram")
def histogram(tws: Tws) -> None:
    items = tws.ask("reqHistogramData", stock("AAPL"), True, "3 days", until="histogramData")[-1].args[1]
    require(items and all(it.price > 0 for it in items), "prices and sizes", items)


@checks("line-cap")
def line_cap(tws: Tws) -> None:
    # A pair that ticks rarely: a hundred lines of a lively one are more than this client can digest.
    quiet = forex("EUR", "GBP")
    since, opened, refusals = tws.journal.mark(), [], []
    while not refusals and len(opened) < LINES_MAX:
        opened.append(tws.fresh())
        tws.call("reqMktData", opened[-1], quiet, *STREAM)
        refusals, _ = tws.journal.wait(since, lambda event: event.code == 101, bool, 0)
    if not refusals:
        refusals, _ = tws.journal.wait(since, lambda event: event.code == 101, bool, tws.patience)
    for request_id in opened:
        tws.call("cancelMktData", request_id)
    require(refusals, f"error 101 after at most {LINES_MAX} lines", "none")
    require(refusals[0].id in opened, "the id of the line that was too much", refusals[0].id)
    tws.call("cancelMktData", tws.ask("reqMktData", quiet, *STREAM, until=ticks_of(BID))[0].id)
