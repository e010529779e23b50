"""What the official client checks about orders, executions and commissions."""

from harness import Checks, expect, require
from ibapi.execution import ExecutionFilter
from official_app import Tws, bag, contract, forex, limit, number_of, option, order, stock, stop, summary

checks = Checks()

FAR = 0.8
"""A buy at this part of the price rests."""

UNSET = 1e300


@checks("order-market")
def order_market(tws: Tws) -> None:
    con_id = tws.one(stock("MSFT")).conId
    before = tws.positions().get(con_id, (0.0, 0.0))[0]
    placed = tws.place(stock("MSFT"), order("BUY", 100, orderRef="conformance"))
    status = placed.until("Filled").args
    expect("filled and remaining", (100.0, 0.0), (float(status[2]), float(status[3])))
    require(status[4] > 0 and status[5] > 0, "an average price and a permId", status[4:6])
    expect("client id", tws.client_id, status[8])
    fills = placed.executions("100 shares", lambda fills: sum(float(fill.args[2].shares) for fill in fills) == 100)
    for fill in fills:
        bought, execution = fill.args[1:]
        expect("contract", (con_id, "MSFT", "STK"), (bought.conId, bought.symbol, bought.secType))
        expect("side, account", ("BOT", tws.account), (execution.side, execution.acctNumber))
        expect("order and its reference", ("conformance", status[5]), (execution.orderRef, execution.permId))
        require(execution.execId and execution.time and execution.exchange, "id, time and exchange", vars(execution))
    last = fills[-1].args[2]
    expect("cumulative quantity", 100.0, float(last.cumQty))
    require(abs(last.avgPrice - status[4]) < 1e-6, f"the average price of the status, {status[4]}", last.avgPrice)
    expect("position", before + 100, tws.positions()[con_id][0])


@checks("order-forex")
def order_forex(tws: Tws) -> None:
    placed = tws.place(forex("EUR", "USD"), order("SELL", 20_000))
    expect("filled", 20_000.0, float(placed.until("Filled").args[2]))
    fill = placed.executions("an execution", bool)[0].args[2]
    expect("side", "SLD", fill.side)


@checks("commissions")
def commissions(tws: Tws) -> None:
    tws.place(stock("MSFT"), order("BUY", 50)).until("Filled")
    placed = tws.place(stock("MSFT"), order("SELL", 50))
    placed.until("Filled")
    for fill in placed.executions("50 shares", lambda fills: sum(float(it.args[2].shares) for it in fills) == 50):
        report = placed.commission_of(fill.args[2].execId)
        require(0 < number_of(report, "commission") < 100, "a commission", vars(report))
        expect("its currency", "USD", report.currency)
        require(abs(report.realizedPNL) < UNSET, "the profit of what was closed", report.realizedPNL)


@checks("order-limit")
def order_limit(tws: Tws) -> None:
    price = round(tws.quote(stock("AAPL"))[0] * FAR, 2)
    placed = tws.place(stock("AAPL"), limit("BUY", 10, price, orderRef="resting", tif="GTC"))
    status = placed.until("Submitted").args
    expect("filled and remaining", (0.0, 10.0), (float(status[2]), float(status[3])))
    _, where, shown, state = placed.shown().args
    expect("contract", ("AAPL", "STK", "SMART"), (where.symbol, where.secType, where.exchange))
    came = (shown.action, float(shown.totalQuantity), shown.orderType, shown.lmtPrice, shown.tif, shown.orderRef)
    expect("terms", ("BUY", 10.0, "LMT", price, "GTC", "resting"), came)
    expect("client and account", (tws.client_id, tws.account), (shown.clientId, shown.account))
    require(state.status in {"PreSubmitted", "Submitted"}, "a status of a working order", state.status)
    placed.cancel()


@checks("order-limit-fills")
def order_limit_fills(tws: Tws) -> None:
    ask = tws.quote(stock("AAPL"))[1]
    placed = tws.place(stock("AAPL"), limit("BUY", 10, ask * 1.02))
    require(placed.until("Filled").args[4] <= ask * 1.02, "not worse than the limit", placed.until("Filled").args[4])


@checks("order-modify")
def order_modify(tws: Tws) -> None:
    bid, ask = tws.quote(stock("TSLA"))
    placed = tws.place(stock("TSLA"), limit("BUY", 10, bid * FAR))
    perm_id = placed.until("Submitted").args[5]
    lower = round(bid * FAR, 2) - 1
    changed = tws.place(stock("TSLA"), limit("BUY", 20, lower), placed.order_id)
    shown = changed.shown(lambda it: it.lmtPrice == round(lower, 2)).args[2]
    expect("quantity and permId", (20.0, perm_id), (float(shown.totalQuantity), shown.permId))
    filled = tws.place(stock("TSLA"), limit("BUY", 20, ask * 1.05), placed.order_id).until("Filled")
    expect("filled", 20.0, float(filled.args[2]))


@checks("order-modify-wrongly")
def order_modify_wrongly(tws: Tws) -> None:
    price = tws.quote(stock("TSLA"))[0] * FAR
    placed = tws.place(stock("TSLA"), limit("BUY", 10, price))
    placed.until("Submitted")
    tws.place(stock("TSLA"), limit("SELL", 10, price), placed.order_id).refused(105)
    placed.cancel()


@checks("order-cancel")
def order_cancel(tws: Tws) -> None:
    placed = tws.place(stock("AAPL"), limit("BUY", 10, tws.quote(stock("AAPL"))[0] * FAR))
    perm_id = placed.until("Submitted").args[5]
    expect("remaining", 10.0, float(placed.cancel().args[3]))
    placed.refused(202)
    require(perm_id not in tws.own_orders(), "the order gone from the open orders", "it is still there")


@checks("order-stop")
def order_stop(tws: Tws) -> None:
    bid, ask = tws.quote(stock("AMZN"))
    resting = tws.place(stock("AMZN"), stop("BUY", 10, ask * 1.2))
    resting.until("PreSubmitted")
    tws.place(stock("AMZN"), order("BUY", 10)).until("Filled")
    triggered = tws.place(stock("AMZN"), stop("SELL", 10, bid * 1.1))
    expect("filled", 10.0, float(triggered.until("Filled").args[2]))
    open_orders = [it.orderId for it in tws.own_orders().values()]
    require(resting.order_id in open_orders, "the far stop still waiting", open_orders)
    resting.cancel()


def _bracket(tws: Tws, symbol: str, entry: float, profit: float, loss: float):
    parent_id = tws.next_order_id()
    parent = tws.place(stock(symbol), limit("BUY", 10, entry, transmit=False), parent_id)
    first = tws.place(stock(symbol), limit("SELL", 10, profit, parentId=parent_id, transmit=False))
    second = tws.place(stock(symbol), stop("SELL", 10, loss, parentId=parent_id))
    return parent, first, second


@checks("bracket")
def bracket(tws: Tws) -> None:
    bid, ask = tws.quote(stock("NVDA"))
    parent, profit, loss = _bracket(tws, "NVDA", ask * 1.02, bid * 0.97, bid * 0.7)
    for placed in (parent, profit):
        expect("filled", 10.0, float(placed.until("Filled").args[2]))
    expect("parent of the profit taker", parent.order_id, profit.until("Filled").args[6])
    expect("filled of the stop", 0.0, float(loss.until("Cancelled").args[2]))


@checks("bracket-waits")
def bracket_waits(tws: Tws) -> None:
    bid, _ = tws.quote(stock("NVDA"))
    # The profit taker's limit is below the market: it would fill at once if it did not wait for its parent.
    parent, profit, loss = _bracket(tws, "NVDA", bid * FAR, bid * 0.9, bid * 0.5)
    parent.until("Submitted")
    for child in (profit, loss):
        child.until("PreSubmitted")
    tws.place(stock("NVDA"), order("BUY", 1)).until("Filled")
    states = {event.args[0]: event.args[3].status for event in _open(tws) if event.args[2].parentId == parent.order_id}
    expect("children", {profit.order_id: "PreSubmitted", loss.order_id: "PreSubmitted"}, states)
    tws.cancel(parent.order_id)
    for placed in (parent, profit, loss):
        expect("filled", 0.0, float(placed.until("Cancelled").args[2]))


def _open(tws: Tws, method: str = "reqOpenOrders"):
    return tws.download(method, names=("openOrder",), end="openOrderEnd")[:-1]


@checks("oca")
def oca(tws: Tws) -> None:
    bid, ask = tws.quote(stock("META"))
    far = tws.place(stock("META"), limit("BUY", 5, bid * FAR, ocaGroup="either", ocaType=1))
    far.until("Submitted")
    tws.place(stock("META"), limit("BUY", 5, ask * 1.05, ocaGroup="either", ocaType=1)).until("Filled")
    expect("filled of the other", 0.0, float(far.until("Cancelled").args[2]))


@checks("combo")
def combo(tws: Tws) -> None:
    near, far = tws.at_the_money("AAPL"), tws.at_the_money("AAPL", step=2)
    before = tws.positions()
    placed = tws.place(bag("AAPL", (near.conId, 1, "BUY"), (far.conId, 1, "SELL")), order("BUY", 2))
    expect("filled", 2.0, float(placed.until("Filled").args[2]))

    def all_of_it(fills) -> bool:
        return {"BAG", "OPT"} <= set(_shares(fills)) and _shares(fills)["OPT"] == {near.conId: 2.0, far.conId: -2.0}

    fills = placed.executions("one execution for the combo and one per leg", all_of_it)
    expect("quantity of the combo", 2.0, sum(_shares(fills)["BAG"].values()))
    for fill in fills:
        if fill.args[1].secType == "OPT":
            require(number_of(placed.commission_of(fill.args[2].execId), "commission") > 0, "a commission", "none")
    after = tws.positions()
    moved = {it.conId: after[it.conId][0] - before.get(it.conId, (0.0, 0))[0] for it in (near, far)}
    expect("change of the positions", {near.conId: 2.0, far.conId: -2.0}, moved)


def _shares(fills) -> dict[str, dict[int, float]]:
    """Signed shares by type and contract id."""
    found: dict[str, dict[int, float]] = {}
    for fill in fills:
        what, execution = fill.args[1:]
        by_id = found.setdefault(what.secType, {})
        by_id[what.conId] = by_id.get(what.conId, 0.0) + float(execution.shares) * (
            1 if execution.side == "BOT" else -1
        )
    return found


@checks("combo-limit")
def combo_limit(tws: Tws) -> None:
    near, far = tws.at_the_money("AAPL"), tws.at_the_money("AAPL", step=2)
    placed = tws.place(bag("AAPL", (near.conId, 1, "BUY"), (far.conId, 1, "SELL")), limit("BUY", 1, 0.01))
    placed.until("Submitted")
    _, where, shown, _ = placed.shown().args
    expect("legs as sent", [near.conId, far.conId], [leg.conId for leg in where.comboLegs])
    expect("terms", ("BAG", 0.01), (where.secType, shown.lmtPrice))
    placed.cancel()


@checks("what-if")
def what_if(tws: Tws) -> None:
    placed = tws.place(stock("AAPL"), order("BUY", 100, whatIf=True))
    shown = placed.shown().args
    state = shown[3]
    margins = [float(state.initMarginChange), float(state.maintMarginChange), float(state.initMarginAfter)]
    require(all(0 < margin < UNSET for margin in margins), "margins", margins)
    known = [number_of(state, name) for name in ("minCommission", "maxCommission", "commission")]
    require(any(0 < number < UNSET for number in known), "a commission", known)
    require(float(state.equityWithLoanAfter) < UNSET, "equity afterwards", state.equityWithLoanAfter)
    tws.time()
    heard, _ = tws.journal.wait(0, lambda it: it.name == "orderStatus" and it.id == placed.order_id, bool, 0)
    expect("order statuses", "nothing", summary(heard))
    require(placed.order_id not in [it.orderId for it in tws.own_orders().values()], "no open order", "one")


@checks("what-if-refused")
def what_if_refused(tws: Tws) -> None:
    tws.place(stock("NOSUCHTHING"), order("BUY", 1, whatIf=True)).refused(200)


@checks("order-refused")
def order_refused(tws: Tws) -> None:
    tws.place(stock("NOSUCHTHING"), order("BUY", 1)).refused(200)
    tws.place(contract("STK", "AAPL", ""), order("BUY", 1)).refused(321)
    tws.place(stock("AAPL"), order("BUY", 1, "LMT", lmtPrice=100.001)).refused(110)
    tws.place(stock("AAPL"), order("BUY", 0)).refused(321, 201, 434, 104)
    tws.place(stock("AAPL"), order("BUY", 1, "NO SUCH TYPE")).refused(387, 321, 201)
    tws.place(option("AAPL", "20010119", 1.0, "C"), order("BUY", 1)).refused(200)
    tws.time()


@checks("order-duplicate-id")
def order_duplicate_id(tws: Tws) -> None:
    placed = tws.place(stock("AAPL"), order("BUY", 1))
    placed.until("Filled")
    tws.place(stock("AAPL"), order("BUY", 1), placed.order_id).refused(103)


@checks("cancel-unknown")
def cancel_unknown(tws: Tws) -> None:
    since = tws.journal.mark()
    tws.cancel(7_654_321)
    tws.hear("error", lambda event: (event.id, event.code) == (7_654_321, 10147), since)


@checks("cancel-too-late")
def cancel_too_late(tws: Tws) -> None:
    placed = tws.place(stock("AAPL"), order("BUY", 1))
    placed.until("Filled")
    tws.cancel(placed.order_id)
    placed.refused(10148)


@checks("cancel-all")
def cancel_all(tws: Tws) -> None:
    price = tws.quote(stock("KO"))[0] * FAR
    with tws.another(72) as other:
        mine, theirs = tws.place(stock("KO"), limit("BUY", 1, price)), other.place(stock("KO"), limit("BUY", 2, price))
        mine.until("Submitted")
        theirs.until("Submitted")
        tws.cancel_everything()
        mine.until("Cancelled")
        theirs.until("Cancelled")
    expect("open orders of all", {}, tws.own_orders("reqAllOpenOrders"))


@checks("open-orders")
def open_orders(tws: Tws) -> None:
    price = tws.quote(stock("KO"))[0] * FAR
    with tws.another(73) as other:
        mine, theirs = tws.place(stock("KO"), limit("BUY", 1, price)), other.place(stock("KO"), limit("BUY", 2, price))
        ids = [placed.until("Submitted").args[5] for placed in (mine, theirs)]
        own, everybodys = tws.own_orders(), tws.own_orders("reqAllOpenOrders")
        expect("mine and theirs among the own orders", [True, False], [it in own for it in ids])
        expect("mine and theirs among all orders", [True, True], [it in everybodys for it in ids])
        expect("client of the other order", 73, everybodys[ids[1]].clientId)
        mine.cancel()
        theirs.cancel()


def executions(tws: Tws, **wanted):
    request = ExecutionFilter()
    for name, value in wanted.items():
        setattr(request, name, value)
    events = tws.ask("reqExecutions", request, until="execDetailsEnd")
    return [event.args[1:] for event in events if event.name == "execDetails"]


@checks("executions")
def all_executions(tws: Tws) -> None:
    placed = [tws.place(stock("IBM"), order("BUY", 3)), tws.place(stock("IBM"), order("SELL", 2))]
    for one in placed:
        one.until("Filled")
    since = tws.journal.mark()
    found = executions(tws)
    mine = {one.order_id: 0.0 for one in placed}
    for _, execution in found:
        if execution.orderId in mine:
            mine[execution.orderId] += float(execution.shares)
    expect("shares per order", [3.0, 2.0], list(mine.values()))
    for _, execution in found:
        if execution.orderId in mine:
            tws.hear("commissionReport", lambda event, it=execution: event.id.execId == it.execId, since)


@checks("executions-filter")
def executions_filter(tws: Tws) -> None:
    tws.place(stock("IBM"), order("BUY", 1)).until("Filled")
    tws.place(stock("QQQ"), order("BUY", 1)).until("Filled")
    tws.place(stock("IBM"), order("SELL", 1)).until("Filled")
    expect("symbols", {"IBM"}, {what.symbol for what, _ in executions(tws, symbol="IBM")})
    expect("sides of IBM", {"SLD"}, {it.side for _, it in executions(tws, symbol="IBM", side="SELL")})
    expect("types", {"STK"}, {what.secType for what, _ in executions(tws, secType="STK")})
    expect("executions of the future", [], executions(tws, time="20990101-00:00:00"))
    expect("clients", {tws.client_id}, {it.clientId for _, it in executions(tws, clientId=tws.client_id)})


@checks("completed-orders")
def completed_orders(tws: Tws) -> None:
    filled = tws.place(stock("QQQ"), order("BUY", 2, orderRef="done"))
    perm_id = filled.until("Filled").args[5]
    dropped = tws.place(stock("QQQ"), limit("BUY", 2, 100, orderRef="dropped"))
    other_id = dropped.until("Submitted").args[5]
    dropped.cancel()
    events = tws.download("reqCompletedOrders", False, names=("completedOrder",), end="completedOrdersEnd")[:-1]
    states = {event.args[1].permId: (event.args[2].status, event.args[1].orderRef) for event in events}
    expect("the filled one", ("Filled", "done"), states.get(perm_id))
    expect("the cancelled one", ("Cancelled", "dropped"), states.get(other_id))
    require(all(event.args[2].completedTime for event in events), "times of completion", "none")
