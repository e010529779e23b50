"""Orders and fills: what the broker, the line and the machine do to orders that are under way.

"The order" in a script is the first that reaches the broker after the script began.
"""

from datetime import UTC, datetime, time, timedelta
from decimal import Decimal
from typing import Final

from ibkr_service.sim.orders import Order
from ibkr_service.sim.scenarios.scenario import Scenario, Stage

D = Decimal

LATE: Final = datetime(2026, 11, 24, 4, 45, tzinfo=UTC)
"""A Monday, 23:45 in New York."""

EXPIRY_FRIDAY: Final = datetime(2026, 12, 18, 20, 30, tzinfo=UTC)
"""15:30 in New York, on the day on which monthly options expire."""

BEFORE_THE_OPEN: Final = datetime(2026, 11, 23, 14, 20, tzinfo=UTC)
"""A Monday, 9:20 in New York."""

FALSE_CANCELS: Final = (
    (10148, "OrderId that needs to be cancelled cannot be cancelled, state: PendingSubmit."),
    (105, "Order being modified does not match original order."),
    (161, "Cancel attempted when order is not in a cancellable state."),
    (10349, "Order TIF was set to DAY based on order preset."),
)
MARGIN_TEXT: Final = "Order rejected - reason:YOUR ORDER IS NOT ACCEPTED. IN ORDER TO OBTAIN THE DESIRED POSITION"
ADVANCED_REJECT: Final = (
    '{"message":"The order exceeds the available funds","rejects":[{"source":"RISK","rejectCode":"201",'
    '"rejectMessage":"Equity with loan value is below the initial margin"}]}'
)


async def _fill_while_cut(at: Stage) -> None:
    order = await at.next_order()
    at.faults.refuse()
    at.faults.drop()
    await at.sleep(5)
    at.faults.fill(order)
    await at.sleep(30)
    await at.faults.accept()


async def _fill_before_midnight(at: Stage) -> None:
    order = await at.next_order()
    at.faults.refuse()
    at.faults.drop()
    await at.sleep_until(LATE + timedelta(minutes=5))
    at.faults.fill(order)
    await at.sleep_until(LATE + timedelta(minutes=25))
    await at.faults.accept()


async def _first_start_with_positions(at: Stage) -> None:
    at.faults.hold("AAPL", D(300), D(180))
    at.faults.hold("MSFT", D(-50), D(410))


async def _expiry_assignment(at: Stage) -> None:
    calls = at.faults.options("AAPL", f"{EXPIRY_FRIDAY:%Y%m%d}", "C")
    at.faults.hold(calls[0], D(-2), D(20))
    at.faults.hold(calls[-1], D(3), D("0.10"))
    await at.next_request("executions")
    await at.sleep(600)
    await at.lose_line(12 * 3600)


async def _disk_full(at: Stage) -> None:
    order = await at.next_order()
    await at.sleep(2)
    at.client.fill_disk()
    await at.sleep(10)
    at.faults.fill(order)
    await at.sleep(20)
    at.client.free_disk()


async def _fill_during_1100(at: Stage) -> None:
    order = await at.next_order()
    await at.sleep(1)
    at.faults.cut(tells_orders=True)
    await at.sleep(1)
    at.faults.fill(order)
    await at.sleep(30)
    at.faults.restore(data_kept=True)


async def _fill_without_status(at: Stage) -> None:
    at.faults.lose("orderStatus")
    order = await at.next_order()
    await at.sleep(2)
    at.faults.fill(order, quantity=order.remaining // 2)
    await at.sleep(2)
    at.faults.fill(order)


async def _status_storm(at: Stage) -> None:
    at.faults.duplicate_status(copies=3, spread_s=4.0)
    order = await at.next_order()
    await at.sleep(2)
    at.faults.fill(order, quantity=order.remaining // 2)
    await at.sleep(1)
    at.faults.fill(order)


async def _false_cancel(at: Stage) -> None:
    for code, text in FALSE_CANCELS:
        at.faults.false_cancel(code, text)
        order = await at.next_order()
        await at.sleep(15)
        at.faults.fill(order)


async def _cancel_fill_race(at: Stage) -> None:
    order = await at.next_order()
    await at.next_request("cancelOrder")
    at.faults.fill(order)


async def _exec_correction(at: Stage) -> None:
    execution = await at.next_execution()
    await at.sleep(2)
    at.faults.correct(execution, execution.shares - 4)


async def _commission_first(at: Stage) -> None:
    at.faults.commission_first()
    await at.next_execution()
    await at.sleep(1)
    at.faults.heal()
    at.faults.lose("commissionReport")


async def _combo_legs(at: Stage) -> None:
    at.faults.combo_legs_late(3.0)
    await at.next_execution()
    await at.sleep(30)
    at.faults.combo_legs_only()


async def _id_rollback(at: Stage) -> None:
    await at.next_order()
    await at.sleep(1)
    at.faults.roll_back_ids(4)
    await at.lose_line(60)


async def _modify_when_cut(at: Stage) -> None:
    await at.next_order()
    await at.sleep(1)
    at.faults.cut()
    await at.sleep(30)
    at.faults.restore(data_kept=True)


async def _two_perm_ids(at: Stage) -> None:
    order = await at.next_order()
    await at.sleep(5)
    at.faults.cut()
    at.faults.double(order)
    await at.sleep(10)
    at.faults.restore(data_kept=True, lose_reports=True)


async def _silent_drop(at: Stage) -> None:
    at.faults.ignore("placeOrder", times=1)


async def _sent_then_crash(at: Stage) -> None:
    at.faults.ignore("placeOrder", times=1)
    await at.next_request("placeOrder")
    await at.client.kill()
    await at.sleep(20)
    await at.client.start()
    await at.next_order()
    await at.client.kill()
    await at.sleep(20)
    await at.client.start()


async def _foreign_order(at: Stage) -> None:
    at.faults.foreign_order(7, "AAPL", "BUY", D(10), orderType="LMT", lmtPrice=D(1), tif="GTC", orderRef="theirs")
    at.faults.manual_order("AAPL", "BUY", D(20), orderType="LMT", lmtPrice=D(2), tif="GTC")


async def _restart_window(at: Stage) -> None:
    del at  # the gateway restarts by itself, since it was told to


async def _margin_reject(at: Stage) -> None:
    at.faults.reject_next(201, MARGIN_TEXT, ADVANCED_REJECT)


async def _held_order(at: Stage) -> None:
    del at  # before the open every order for the day is held, by the exchange's own hours


async def _unexplained_position(at: Stage) -> None:
    order: Order = await at.next_order()
    await at.sleep(5)
    at.faults.hold("MSFT", D(70), D(400), order.account)


SCENARIOS: Final = (
    Scenario(
        "fill-while-cut",
        "an order fills while the socket is down",
        "erdewit/ib_insync #130; QuantConnect/Lean.Brokerages.InteractiveBrokers #249",
        _fill_while_cut,
    ),
    Scenario(
        "fill-before-midnight",
        "an order fills before midnight while we are away; after midnight the broker no longer reports the execution",
        "TWS API documentation, reqExecutions: executions of the current day only",
        _fill_before_midnight,
        gateway={"started_at": LATE},
    ),
    Scenario(
        "first-start-with-positions",
        "the first start is on an account that already trades",
        "",
        _first_start_with_positions,
    ),
    Scenario(
        "expiry-assignment",
        "options expire while we are away; a short one is assigned into stock, a worthless one vanishes",
        "",
        _expiry_assignment,
        gateway={"started_at": EXPIRY_FRIDAY},
        lasts_s=13 * 3600.0,
    ),
    Scenario("disk-full", "the journal refuses writes while orders work and fill", "", _disk_full),
    Scenario(
        "fill-during-1100",
        "an execution is delivered while the gateway is cut off from Interactive Brokers",
        "QuantConnect/Lean.Brokerages.InteractiveBrokers #249",
        _fill_during_1100,
    ),
    Scenario(
        "fill-without-status",
        "executions come, but never an orderStatus",
        "pst-group/pysystemtrade #188",
        _fill_without_status,
    ),
    Scenario(
        "status-storm",
        "each orderStatus comes three times, old ones after new ones",
        "QuantConnect/Lean.Brokerages.InteractiveBrokers, source",
        _status_storm,
    ),
    Scenario(
        "false-cancel",
        "errors that look like a cancellation (10148, 105, 161, 10349) name orders that live on and fill",
        "erdewit/ib_insync #502; ib-api-reloaded/ib_async #191, #217; pst-group/pysystemtrade #1580",
        _false_cancel,
    ),
    Scenario(
        "cancel-fill-race", "a cancel is sent, but the fill is faster", "erdewit/ib_insync #363", _cancel_fill_race
    ),
    Scenario(
        "exec-correction",
        "an execution is corrected: .01 by .02, for fewer shares",
        "erdewit/ib_insync #364",
        _exec_correction,
    ),
    Scenario(
        "commission-first",
        "the commission comes before its execution; another never",
        "erdewit/ib_insync 0.9.86, wrapper.py",
        _commission_first,
    ),
    Scenario(
        "combo-legs",
        "a combination's execution comes first and its legs seconds apart; then one comes as legs only",
        "QuantConnect/Lean.Brokerages.InteractiveBrokers #217; QuantConnect/Lean #9292;"
        " nautechsystems/nautilus_trader #3752",
        _combo_legs,
    ),
    Scenario(
        "id-rollback",
        "the gateway restarts and hands out order ids that were used before",
        "QuantConnect/Lean.Brokerages.InteractiveBrokers #242",
        _id_rollback,
    ),
    Scenario(
        "modify-when-cut",
        "a modification is wished while the gateway is cut off",
        "nautechsystems/nautilus_trader #4564",
        _modify_when_cut,
    ),
    Scenario(
        "two-perm-ids",
        "the server shows two live orders for one reference",
        "nautechsystems/nautilus_trader #4564",
        _two_perm_ids,
    ),
    Scenario(
        "silent-drop",
        "an order is never acknowledged: IB dropped it",
        "QuantConnect/Lean.Brokerages.InteractiveBrokers #93; ib-api-reloaded/ib_async #66",
        _silent_drop,
    ),
    Scenario(
        "sent-then-crash",
        "the process is killed as an order leaves: one never arrives, the next one does",
        "QuantConnect/Lean #9292",
        _sent_then_crash,
    ),
    Scenario(
        "foreign-order",
        "another client and a person at TWS have orders in the account",
        "erdewit/ib_insync #415",
        _foreign_order,
    ),
    Scenario(
        "restart-window",
        "an order is wished a minute before the declared restart of the gateway",
        "QuantConnect/Lean.Brokerages.InteractiveBrokers #242",
        _restart_window,
        gateway={"started_at": LATE - timedelta(minutes=5), "nightly_reset": time(23, 45)},
        settings={"ibkr.restart_window": ({"start": "23:45", "end": "23:48", "timezone": "America/New_York"},)},
    ),
    Scenario("margin-reject", "an order is rejected for lack of margin, with an advanced reject", "", _margin_reject),
    Scenario(
        "held-order",
        "an order before the open is held until it (399, PreSubmitted)",
        "",
        _held_order,
        gateway={"started_at": BEFORE_THE_OPEN, "hours": "real"},
    ),
    Scenario("unexplained-position", "a position appears that no execution explains", "", _unexplained_position),
)
