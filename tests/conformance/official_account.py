"""What the official client checks about positions, account values and profit; and that nothing is met with silence."""

import re

from harness import Checks, Failed, expect, require
from official_app import IS_OLD, Tws, by_id, option, order, stock, summary

checks = Checks()


@checks("positions")
def positions(tws: Tws) -> None:
    con_id = tws.one(stock("GOOGL")).conId
    since = tws.journal.mark()
    events = tws.download("reqPositions", names=("position",), end="positionEnd")
    held = sum(float(event.args[2]) for event in events[:-1] if event.args[1].conId == con_id)
    filled = tws.place(stock("GOOGL"), order("BUY", 30)).until("Filled")
    pushed = tws.hear("position", lambda event: event.args[1].conId == con_id and event.args[2] == held + 30, since)
    expect("account", tws.account, pushed.args[0])
    require(abs(pushed.args[3] / filled.args[4] - 1) < 0.05, f"an average cost near {filled.args[4]}", pushed.args[3])
    tws.call("cancelPositions")


@checks("positions-multi")
def positions_multi(tws: Tws) -> None:
    tws.place(stock("GOOGL"), order("BUY", 1)).until("Filled")
    single = tws.positions()
    events = tws.ask("reqPositionsMulti", tws.account, "", until="positionMultiEnd")
    multi = {event.args[3].conId: float(event.args[4]) for event in events[:-1]}
    expect("the positions of reqPositions", {con_id: held[0] for con_id, held in single.items()}, multi)
    tws.call("cancelPositionsMulti", events[-1].id)


@checks("account-summary")
def account_summary(tws: Tws) -> None:
    tags = "NetLiquidation,TotalCashValue,BuyingPower,AvailableFunds,MaintMarginReq,GrossPositionValue"
    events = tws.ask("reqAccountSummary", "All", tags, until="accountSummaryEnd")
    tws.call("cancelAccountSummary", events[-1].id)
    rows = {event.args[2]: event.args for event in events[:-1]}
    expect("tags", set(tags.split(",")), set(rows))
    expect("accounts", {tws.account}, {row[1] for row in rows.values()})
    require(float(rows["NetLiquidation"][3]) > 0, "a net liquidation above 0", rows["NetLiquidation"][3])
    expect("currency", "USD", rows["NetLiquidation"][4])


@checks("account-summary-ledger")
def account_summary_ledger(tws: Tws) -> None:
    for tag, currencies in (("$LEDGER", {"BASE"}), ("$LEDGER:USD", {"USD"})):
        events = tws.ask("reqAccountSummary", "All", tag, until="accountSummaryEnd")
        tws.call("cancelAccountSummary", events[-1].id)
        expect(f"currencies of {tag}", currencies, {event.args[4] for event in events[:-1]})
        require("CashBalance" in {event.args[2] for event in events[:-1]}, "a CashBalance", summary(events))


@checks("account-updates")
def account_updates(tws: Tws) -> None:
    bought = tws.place(stock("GOOGL"), order("BUY", 1))
    bought.until("Filled")
    con_id = bought.executions("an execution", bool)[0].args[1].conId
    names = ("updateAccountValue", "updatePortfolio", "updateAccountTime")
    events = tws.download("reqAccountUpdates", True, tws.account, names=names, end="accountDownloadEnd")
    tws.call("reqAccountUpdates", False, tws.account)
    values = {event.args[0]: event.args[1] for event in events if event.name == "updateAccountValue"}
    require({"NetLiquidation", "TotalCashBalance", "AccountCode"} <= set(values), "account values", sorted(values)[:9])
    held = [event.args for event in events if event.name == "updatePortfolio" and event.args[0].conId == con_id]
    require(held, "GOOGL in the portfolio", summary(events))
    _, quantity, price, value, cost, _, _, account = held[0]
    expect("account", tws.account, account)
    require(abs(float(quantity) * price - value) < 1, "value = quantity x price", (quantity, price, value))
    require(cost > 0, "an average cost", cost)
    stamp = [event.id for event in events if event.name == "updateAccountTime"]
    require(stamp and re.fullmatch(r"\d\d:\d\d", stamp[0]), "a time HH:MM", stamp)


@checks("account-updates-multi")
def account_updates_multi(tws: Tws) -> None:
    events = tws.ask("reqAccountUpdatesMulti", tws.account, "", False, until="accountUpdateMultiEnd")
    tws.call("cancelAccountUpdatesMulti", events[-1].id)
    keys = {event.args[3] for event in events[:-1]}
    require({"NetLiquidation", "TotalCashBalance"} <= keys, "account values", sorted(keys)[:9])


@checks("pnl")
def pnl(tws: Tws) -> None:
    tws.place(stock("GOOGL"), order("BUY", 10)).until("Filled")
    _, daily, unrealized, realized = tws.ask("reqPnL", tws.account, "", until="pnl")[-1].args
    require(
        all(abs(number) < 1e7 for number in (daily, unrealized, realized)), "numbers", (daily, unrealized, realized)
    )
    since = tws.journal.mark()
    heard, was_done = tws.journal.wait(since, lambda event: event.name == "pnl", bool, tws.patience)
    require(was_done, "a further pnl as prices move", summary(heard))
    tws.call("cancelPnL", heard[-1].id)


@checks("pnl-single")
def pnl_single(tws: Tws) -> None:
    bought = tws.place(stock("GOOGL"), order("BUY", 10))
    bought.until("Filled")
    con_id = bought.executions("an execution", bool)[0].args[1].conId
    held = tws.positions()[con_id][0]
    events = tws.ask("reqPnLSingle", tws.account, "", con_id, until="pnlSingle")
    tws.call("cancelPnLSingle", events[-1].id)
    _, position, *numbers = events[-1].args
    expect("position", held, float(position))
    require(all(abs(number) < 1e7 for number in numbers) and numbers[-1] > 0, "numbers and a value", numbers)


@checks("nobodys-account")
def nobodys_account(tws: Tws) -> None:
    for method, *args in (
        ("reqAccountSummary", "NOBODY", "NetLiquidation"),
        ("reqPositionsMulti", "U999", ""),
        ("reqAccountUpdatesMulti", "U999", "", False),
        ("reqPnL", "U999", ""),
        ("reqPnLSingle", tws.account, "", 999),
    ):
        tws.refusal(method, *args, codes=(321, 200))


def _requests(tws: Tws):
    """Requests that carry an id: name and what follows the id."""
    apple, far_call = stock("AAPL"), option("AAPL", right="C")
    yield "reqSoftDollarTiers"
    yield "reqNewsArticle", "BRFG", "BRFG$00000000", []
    yield "reqHistoricalNews", 265598, "BRFG+DJNL", "", "", 5, []
    yield "queryDisplayGroups"
    yield "subscribeToGroupEvents", 1
    yield "reqSmartComponents", "9c0001"
    yield "reqHistogramData", apple, True, "1 day"
    yield "reqHeadTimeStamp", stock("NOSUCHTHING"), "TRADES", 1, 1
    yield "reqHistoricalTicks", stock("NOSUCHTHING"), "", "20261120 16:00:00", 5, "TRADES", 1, False, []
    yield "reqTickByTickData", far_call, "Last", 0, False
    yield "reqTickByTickData", apple, "NoSuchKind", 0, False
    yield "reqRealTimeBars", stock("NOSUCHTHING"), 5, "TRADES", True, []
    yield "reqMktDepth", stock("NOSUCHTHING"), 5, False, []
    yield "calculateImpliedVolatility", apple, 1.0, 100.0, []
    yield "calculateOptionPrice", far_call, 0.2, 100.0, []
    yield "reqContractDetails", by_id(0)
    yield "reqMatchingSymbols", ""
    yield "reqPnLSingle", tws.account, "", 265598
    yield "reqHistoricalData", apple, "", "1 D", "1 hour", "FEE_RATE", 1, 1, False, []
    yield "reqHistoricalData", apple, "not a date", "1 D", "1 hour", "TRADES", 1, 1, False, []
    if IS_OLD:
        yield "reqFundamentalData", apple, "ReportSnapshot", []
    else:
        yield "reqWshMetaData"
        yield "reqUserInfo"


ANSWERS = {
    "reqFamilyCodes": ((), "familyCodes"),
    "reqScannerParameters": ((), "scannerParameters"),
    "reqNewsProviders": ((), "newsProviders"),
    "reqMktDepthExchanges": ((), "mktDepthExchanges"),
    "reqMarketRule": ((999_999,), "marketRule"),
    "requestFA": ((1,), "receiveFA"),
}
NOT_CONNECTED = 504
TOO_FAST = 100


@checks("never-silence")
def never_silence(tws: Tws) -> None:
    """Any request gets an answer or an error within a few seconds."""
    since, waiting = tws.journal.mark(), {}
    for item in _requests(tws):
        method, *args = (item,) if isinstance(item, str) else item
        request_id = tws.fresh()
        tws.call(method, request_id, *args)
        waiting[request_id] = method
    silent = dict(waiting)

    def all_answered(heard) -> bool:
        silent.pop(heard[-1].id, None)
        return not silent

    tws.journal.wait(since, lambda event: event.id in waiting, all_answered, tws.patience)
    if silent:
        raise Failed("an answer or an error to every request", f"silence after {', '.join(silent.values())}")
    for request_id, method in waiting.items():
        if method == "reqPnLSingle":
            tws.call("cancelPnLSingle", request_id)


@checks("never-silence-without-id")
def never_silence_without_id(tws: Tws) -> None:
    silent = [method for method, (args, answer) in ANSWERS.items() if not _is_answered(tws, method, args, answer)]
    expect("requests without an answer", [], silent)


def _is_answered(tws: Tws, method: str, args: tuple, answer: str) -> bool:
    since = tws.journal.mark()
    tws.call(method, *args)

    def is_answer(event) -> bool:
        is_refusal = event.is_fatal and event.id == -1 and event.code not in {NOT_CONNECTED, TOO_FAST}
        return event.name == answer or is_refusal

    return tws.journal.wait(since, is_answer, bool, tws.patience)[1]
