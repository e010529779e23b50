"""What the official client checks about the connection, contracts and rules."""

import re
from datetime import UTC, datetime

from harness import Checks, Failed, expect, require
from official_app import IS_OLD, Tws, by_id, contract, forex, limit, option, order, stock, summary

checks = Checks()

VERSIONS = range(157, 179)
CLOCKS_APART_S = 6 * 3600
HOURS = re.compile(r"(\d{8}:CLOSED|\d{8}:\d{4}-\d{8}:\d{4})(;(\d{8}:CLOSED|\d{8}:\d{4}-\d{8}:\d{4}))*;?")
MANY = 50


@checks("handshake")
def handshake(tws: Tws) -> None:
    require(tws.api.serverVersion() in VERSIONS, "a server version from 157 to 178", tws.api.serverVersion())
    require(re.match(r"\d{8} \d\d:\d\d:\d\d", str(tws.api.connTime, "ascii")), "a connection time", tws.api.connTime)
    require(re.fullmatch(r"[A-Z]+\d+", tws.account), "an account code", tws.account)
    first = tws.hear("nextValidId", since=0).id
    require(first >= 1, "a next valid order id above 0", first)


@checks("handshake-notices")
def handshake_notices(tws: Tws) -> None:
    for code in (2104, 2106, 2158):
        notice = tws.hear("error", lambda event, code=code: event.code == code, since=0)
        expect(f"id of notice {code}", -1, notice.id)


@checks("managed-accounts")
def managed_accounts(tws: Tws) -> None:
    events = tws.download("reqManagedAccts", names=(), end="managedAccounts")
    require(tws.account in events[-1].id.split(","), f"{tws.account} among the accounts", events[-1].id)


@checks("next-order-id")
def next_order_id(tws: Tws) -> None:
    used = tws.place(stock("KO"), limit("BUY", 1, 1)).until("Submitted").id
    given = tws.download("reqIds", 1, names=(), end="nextValidId")[-1].id
    require(given > used, f"a next valid order id above {used}", given)
    tws.cancel(used)


@checks("current-time")
def current_time(tws: Tws) -> None:
    first, second = tws.time(), tws.time()
    require(first <= second, f"time that goes on from {first}", second)
    # The handshake has New York's time; that is a few hours from UTC, whatever the season.
    said = datetime.strptime(str(tws.api.connTime, "ascii")[:17] + "+0000", "%Y%m%d %H:%M:%S%z")
    came = datetime.fromtimestamp(first, UTC)
    require(abs(came - said).total_seconds() < CLOCKS_APART_S, f"the day of the handshake, {said}", came)


if not IS_OLD:

    @checks("user-info")
    def user_info(tws: Tws) -> None:
        name, args = tws.ask("reqUserInfo", until="userInfo")[-1].name, 2
        expect("answer", ("userInfo", args), (name, args))


@checks("client-id-taken")
def client_id_taken(tws: Tws) -> None:
    twin = Tws(tws.host, tws.port, tws.client_id, tws.patience)
    twin.dial()
    refusal = twin.hear("error", lambda event: event.code == 326, since=0)
    expect("id of error 326", -1, refusal.id)
    twin.hear("connectionClosed", since=0)
    heard, _ = twin.journal.wait(0, lambda event: event.name == "nextValidId", bool, 0)
    expect("welcomes of the twin", 0, len(heard))
    twin.close()
    tws.time()


@checks("client-id-freed")
def client_id_freed(tws: Tws) -> None:
    with tws.another(71) as first:
        order_id = first.place(stock("KO"), limit("BUY", 1, 2)).until("Submitted").id
    with tws.another(71) as again:
        require(again.next_order_id() > order_id, f"a next valid order id above {order_id}", again.next_order_id())
        perm_ids = again.own_orders()
        expect("orders that outlived the connection", 1, len(perm_ids))
        again.cancel(order_id)
        again.hear("orderStatus", lambda event: event.args[1] == "Cancelled")


@checks("details-stock")
def details_stock(tws: Tws) -> None:
    found = tws.details(stock("AAPL"))
    expect("number of contracts", 1, len(found))
    it = found[0]
    expect("contract id of AAPL", 265598, it.contract.conId)
    expect("primary exchange", "NASDAQ", it.contract.primaryExchange)
    require("APPLE" in it.longName, "a long name with APPLE", it.longName)
    expect("minimum tick", 0.01, it.minTick)
    require("SMART" in it.validExchanges.split(","), "SMART among the exchanges", it.validExchanges)
    expect("market rules per exchange", it.validExchanges.count(","), it.marketRuleIds.count(","))
    require({"LMT", "MKT"} <= set(it.orderTypes.split(",")), "LMT and MKT among the order types", it.orderTypes)
    require(it.timeZoneId, "a time zone", it.timeZoneId)
    require(HOURS.fullmatch(it.tradingHours), "trading hours", it.tradingHours)
    require(HOURS.fullmatch(it.liquidHours), "liquid hours", it.liquidHours)


@checks("details-forex")
def details_forex(tws: Tws) -> None:
    it = tws.details(forex("EUR", "USD"))[0]
    expect("EUR.USD", (12087792, "EUR.USD", 0.00005), (it.contract.conId, it.contract.localSymbol, it.minTick))


@checks("details-future")
def details_future(tws: Tws) -> None:
    found = [it.contract for it in tws.details(contract("FUT", "ES", "CME"))]
    months = sorted(it.lastTradeDateOrContractMonth for it in found)
    require(len(set(months)) > 1, "several months of ES", months)
    require(all(re.match(r"\d{8}", month) for month in months), "dates", months)
    expect("multipliers", {"50"}, {it.multiplier for it in found})
    wanted = contract("FUT", "ES", "CME")
    wanted.lastTradeDateOrContractMonth = months[0][:6]
    expect("the contract of a month", months[0], tws.one(wanted).lastTradeDateOrContractMonth)


@checks("details-index")
def details_index(tws: Tws) -> None:
    it = tws.one(contract("IND", "SPX", "CBOE"))
    expect("type", "IND", it.secType)
    require(it.conId > 0, "a contract id", it.conId)


@checks("details-options-of-a-day")
def details_options_of_a_day(tws: Tws) -> None:
    expiry = sorted(tws.chain("AAPL")[5])[1]
    found = [it.contract for it in tws.details(option("AAPL", expiry))]
    require(len(found) >= MANY, f"at least {MANY} options", len(found))
    expect("expiries", {expiry}, {it.lastTradeDateOrContractMonth[:8] for it in found})
    expect("rights", {"C", "P"}, {it.right for it in found})
    expect("one id each", len(found), len({it.conId for it in found}))


@checks("details-option")
def details_option(tws: Tws) -> None:
    chain = tws.chain("AAPL")
    expiry, strike = sorted(chain[5])[1], sorted(chain[6])[10]
    it = tws.details(option("AAPL", expiry, strike, "P"))
    expect("number of contracts", 1, len(it))
    came = (it[0].contract.strike, it[0].contract.right, it[0].contract.multiplier, it[0].underConId)
    expect("the option", (strike, "P", "100", 265598), came)
    expect("by local symbol", it[0].contract.conId, tws.one(_by_local_symbol(it[0].contract.localSymbol)).conId)


def _by_local_symbol(text: str):
    wanted = contract("OPT", "", "SMART")
    wanted.localSymbol = text
    return wanted


@checks("details-by-id")
def details_by_id(tws: Tws) -> None:
    known = tws.one(stock("MSFT"))
    found = tws.one(by_id(known.conId))
    expect("the same stock", (known.conId, "MSFT", "STK"), (found.conId, found.symbol, found.secType))


@checks("details-unknown")
def details_unknown(tws: Tws) -> None:
    tws.refusal("reqContractDetails", stock("NOSUCHTHING"), codes=(200,))
    tws.refusal("reqContractDetails", by_id(999), codes=(200,))
    tws.refusal("reqContractDetails", option("AAPL", "20010119", 1.0, "C"), codes=(200,))


@checks("ambiguous")
def ambiguous(tws: Tws) -> None:
    text = tws.refusal("reqMktData", option("AAPL", right="C"), "", False, False, [], codes=(200,))
    require("ambiguous" in text, "a text that says ambiguous", text)
    placed = tws.place(option("AAPL", right="C"), order("BUY", 1))
    placed.refused(200)


@checks("chain")
def chain(tws: Tws) -> None:
    _, _, under_con_id, trading_class, multiplier, expiries, strikes = tws.chain("SPY")
    expect("underlying, class and multiplier", (756733, "SPY", "100"), (under_con_id, trading_class, multiplier))
    require(len(expiries) > 3 and all(re.fullmatch(r"\d{8}", day) for day in expiries), "expiries", expiries)
    require(len(strikes) > 5 and min(strikes) > 0, "strikes", strikes)
    middle = sorted(strikes)[len(strikes) // 2]
    expect("strike of a listed option", middle, tws.one(option("SPY", min(expiries), middle, "C")).strike)


@checks("chain-unknown")
def chain_unknown(tws: Tws) -> None:
    tws.refusal("reqSecDefOptParams", "AAPL", "", "STK", 999, codes=(321, 200))


@checks("matching-symbols")
def matching_symbols(tws: Tws) -> None:
    samples = tws.ask("reqMatchingSymbols", "AAP", until="symbolSamples")[-1].args[1]
    apple = [sample for sample in samples if sample.contract.symbol == "AAPL" and sample.contract.secType == "STK"]
    require(apple, "AAPL among the samples", [sample.contract.symbol for sample in samples])
    expect("contract id of AAPL", 265598, apple[0].contract.conId)
    require("OPT" in apple[0].derivativeSecTypes, "options among the derivatives", apple[0].derivativeSecTypes)


@checks("matching-symbols-none")
def matching_symbols_none(tws: Tws) -> None:
    samples = tws.ask("reqMatchingSymbols", "QZXQZX", until="symbolSamples")[-1].args[1]
    expect("number of samples", 0, len(samples))


@checks("market-rule")
def market_rule(tws: Tws) -> None:
    it = tws.details(forex("EUR", "USD"))[0]
    rule = int(it.marketRuleIds.split(",")[0])
    answer = tws.download("reqMarketRule", rule, names=(), end="marketRule")[-1]
    expect("the rule", rule, answer.args[0])
    expect("its first step", (0.0, it.minTick), (answer.args[1][0].lowEdge, answer.args[1][0].increment))


@checks("depth-exchanges")
def depth_exchanges(tws: Tws) -> None:
    known = tws.download("reqMktDepthExchanges", names=(), end="mktDepthExchanges")[-1].id
    require(known and all(it.exchange and it.secType for it in known), "exchanges with depth", known)


@checks("smart-components")
def smart_components(tws: Tws) -> None:
    ticks = tws.ask("reqMktData", stock("AAPL"), "", True, False, [], until="tickSnapshotEnd")
    bbo = [event.args[2] for event in ticks if event.name == "tickReqParams"]
    require(bbo and bbo[0], "a bboExchange in tickReqParams", bbo)
    parts = tws.ask("reqSmartComponents", bbo[0], until="smartComponents")[-1].args[1]
    require(parts, "exchanges behind the letters", parts)


@checks("news-providers")
def news_providers(tws: Tws) -> None:
    known = tws.download("reqNewsProviders", names=(), end="newsProviders")[-1].id
    require(known and all(it.code and it.name for it in known), "providers with code and name", known)


@checks("scanner-parameters")
def scanner_parameters(tws: Tws) -> None:
    xml = tws.download("reqScannerParameters", names=(), end="scannerParameters")[-1].id
    require(xml.lstrip().startswith("<"), "XML", xml[:80])
    require("TOP_PERC_GAIN" in xml, "TOP_PERC_GAIN among the scans", f"{len(xml)} characters")


@checks("scanner")
def scanner(tws: Tws) -> None:
    from ibapi.scanner import ScannerSubscription

    wanted = ScannerSubscription()
    wanted.instrument, wanted.locationCode, wanted.scanCode = "STK", "STK.US.MAJOR", "TOP_PERC_GAIN"
    wanted.numberOfRows = 5
    rows = tws.ask("reqScannerSubscription", wanted, [], [], until="scannerDataEnd")[:-1]
    tws.call("cancelScannerSubscription", rows[0].id if rows else 0)
    require(0 < len(rows) <= 5, "one to five rows", summary(rows))
    expect("ranks", list(range(len(rows))), [row.args[1] for row in rows])


@checks("connection-lasted")
def connection_lasted(tws: Tws) -> None:
    """The last check of the script: nothing that came has made the client hang up or complain."""
    tws.time()
    require(tws.api.isConnected(), "a client that is still connected", "it has hung up")
    if tws.complaints:
        raise Failed("no message that the client cannot digest", tws.complaints[:3])
