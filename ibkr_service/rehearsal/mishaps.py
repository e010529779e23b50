"""What may befall a rehearsal: each kind of fault by name, with the sentence that says it, its length and its choices.

A `Fault` is a kind at a moment. With an occasion it waits for one, so that it strikes in the middle of something: as an
order's bytes are under way, during a synchronisation, between two fills of an order. `play` makes it happen and undoes
it; `heal` undoes whatever may be left of all of them.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Literal, Protocol

from ibkr_service.rehearsal.machine import Machine
from ibkr_service.sim.messages import Answer

Occasion = Literal["", "order", "cancel", "sync", "fill", "connect"]
OCCASIONS: tuple[Occasion, ...] = ("", "order", "cancel", "sync", "fill", "connect")
IDS_BACK = 40  # requests take ids too: so that those of orders come again
OCCASION_WITHIN_S = 120.0  # then it happens without one


@dataclass(frozen=True)
class Fault:
    """One misfortune: when it is due, what it waits for then, how long it lasts (seconds), and what it chooses."""

    kind: str
    at_s: float
    on: Occasion
    for_s: float
    choice: str = ""

    def __str__(self) -> str:
        choice = f" {self.choice}" if self.choice else ""
        on = f" on {self.on}" if self.on else ""
        return f"{self.kind}{choice} for {self.for_s:.1f} s at {self.at_s:.1f} s{on}"


class Scene(Protocol):
    """What a fault acts upon."""

    machine: Machine

    async def occasion(self, name: Occasion, within_s: float) -> bool:
        """Wait for an occasion, so long and no longer; whether it came."""

    def say(self, text: str) -> None:
        """Note in the timeline what the gateway does."""


Play = Callable[[Machine, Fault], Awaitable[None]]


@dataclass(frozen=True)
class Mishap:
    """A kind of fault. `lasts`: least and most seconds. `choices`: of which it takes one."""

    sentence: str
    play: Play
    lasts: tuple[float, float] = (0.0, 0.0)
    choices: tuple[str, ...] = ("",)


# --- the line between service and gateway ----------------------------------------------------------------------------


async def _drop(at: Machine, _fault: Fault) -> None:
    at.faults.drop()


async def _reset(at: Machine, _fault: Fault) -> None:
    at.network.reset(at.port)


async def _refuse(at: Machine, fault: Fault) -> None:
    at.faults.refuse()
    at.faults.drop()
    await asyncio.sleep(fault.for_s)
    await at.faults.accept()


async def _accept_close(at: Machine, fault: Fault) -> None:
    at.faults.accept_and_close(int(fault.choice))
    at.faults.drop()


async def _mute(at: Machine, fault: Fault) -> None:
    at.faults.mute()
    at.faults.drop()
    await asyncio.sleep(fault.for_s)
    at.faults.unmute()


async def _stall(at: Machine, fault: Fault) -> None:
    at.faults.stall()
    await asyncio.sleep(fault.for_s)
    at.faults.resume()


async def _half_open(at: Machine, fault: Fault) -> None:
    at.network.freeze(at.port)
    await asyncio.sleep(fault.for_s)
    if fault.choice == "reset":
        at.network.reset(at.port)
    at.network.thaw(at.port)


async def _wedged(at: Machine, _fault: Fault) -> None:
    at.faults.deafen()


async def _slow(at: Machine, fault: Fault) -> None:
    least_s, most_s = map(float, fault.choice.split("-"))
    at.faults.slow(least_s, most_s)
    await asyncio.sleep(fault.for_s)
    at.faults.slow(0.0, 0.0)


async def _split(at: Machine, fault: Fault) -> None:
    at.network.split(int(fault.choice))
    await asyncio.sleep(fault.for_s)
    at.network.plain()


async def _glue(at: Machine, fault: Fault) -> None:
    at.network.glue(float(fault.choice))
    await asyncio.sleep(fault.for_s)
    at.network.plain()


async def _far_away(at: Machine, fault: Fault) -> None:
    before_s, at.network.latency_s = at.network.latency_s, float(fault.choice)
    await asyncio.sleep(fault.for_s)
    at.network.latency_s = min(before_s, at.network.latency_s)


async def _id_taken(at: Machine, fault: Fault) -> None:
    at.faults.occupy()
    await asyncio.sleep(fault.for_s)
    at.faults.vacate()


# --- the gateway and IB ----------------------------------------------------------------------------------------------


async def _cut(at: Machine, fault: Fault) -> None:
    at.faults.cut()
    await asyncio.sleep(fault.for_s)
    at.faults.restore(data_kept=fault.choice == "1102", lose_reports=fault.choice == "1101 reports lost")


async def _silent_1102(at: Machine, fault: Fault) -> None:
    at.faults.cut()
    await asyncio.sleep(fault.for_s)
    at.faults.silence()
    at.faults.restore(data_kept=True)


async def _flapping(at: Machine, fault: Fault) -> None:
    for number in range(int(fault.choice)):
        at.faults.cut()
        await asyncio.sleep(fault.for_s / int(fault.choice) / 2)
        at.faults.restore(data_kept=bool(number % 2))
        await asyncio.sleep(fault.for_s / int(fault.choice) / 2)


async def _nightly_restart(at: Machine, fault: Fault) -> None:
    """1100 again and again, then nobody listens, then connections are dropped, then it works; ids may be lower."""
    for _ in range(4):
        at.faults.cut()
        await asyncio.sleep(2.0)
    if fault.choice == "ids lower":
        at.faults.roll_back_ids(IDS_BACK)
    await at.faults.shut_down()
    await asyncio.sleep(fault.for_s)
    at.faults.accept_and_close(2)
    await at.faults.start_up()


async def _farm(at: Machine, fault: Fault) -> None:
    at.faults.farm_down()
    await asyncio.sleep(fault.for_s)
    at.faults.farm_up()


async def _silent(at: Machine, fault: Fault) -> None:
    at.faults.lose_data("never")
    await asyncio.sleep(fault.for_s)
    at.gateway.lost_data_until = ""
    if fault.choice == "forgotten":
        at.faults.silence()


async def _competing(at: Machine, fault: Fault) -> None:
    at.faults.compete()
    await asyncio.sleep(fault.for_s)
    at.faults.stop_competing()


async def _few_lines(at: Machine, fault: Fault) -> None:
    at.faults.grant_lines(int(fault.choice))
    await asyncio.sleep(fault.for_s)
    at.faults.grant_lines(None)


async def _no_permission(at: Machine, fault: Fault) -> None:
    at.faults.permit(fault.choice)
    await asyncio.sleep(fault.for_s)
    at.faults.permit(None)


REFUSALS = {
    "200": "No security definition has been found for the request",
    "354": "Requested market data is not subscribed.",
    "10197": "No market data during competing live session",
}


async def _refused_lines(at: Machine, fault: Fault) -> None:
    at.faults.fail("mktData", int(fault.choice), REFUSALS[fault.choice], 3)
    at.faults.drop()


# --- what the gateway says -------------------------------------------------------------------------------------------


async def _ignore_once(at: Machine, fault: Fault) -> None:
    at.faults.ignore(fault.choice, 1)


async def _ignore(at: Machine, fault: Fault) -> None:
    at.faults.ignore(fault.choice)
    if fault.choice in {"positions", "openOrders", "executions", "completedOrders"}:
        at.faults.drop()
    await asyncio.sleep(fault.for_s)
    at.gateway.misfortunes.ignored_requests.clear()


async def _late(at: Machine, fault: Fault) -> None:
    request, seconds = fault.choice.split()
    at.faults.delay(request, float(seconds))
    await asyncio.sleep(fault.for_s)
    at.gateway.misfortunes.delayed_requests.clear()


async def _lose_once(at: Machine, fault: Fault) -> None:
    at.faults.lose(fault.choice, 1)


async def _lose(at: Machine, fault: Fault) -> None:
    at.faults.lose(fault.choice)
    await asyncio.sleep(fault.for_s)
    at.gateway.misfortunes.lost_answers.clear()


async def _no_login(at: Machine, fault: Fault) -> None:
    at.faults.lose("nextValidId")
    at.faults.drop()
    await asyncio.sleep(fault.for_s)
    at.gateway.misfortunes.lost_answers.clear()


async def _reject(at: Machine, fault: Fault) -> None:
    at.faults.reject_next(int(fault.choice))


FALSE_CANCELS = {
    "10349": "Order TIF was set to DAY based on order preset.",
    "10148": "OrderId that needs to be cancelled cannot be cancelled, state: PendingSubmit.",
    "105": "Order being modified does not match original order.",
    "161": "Cancel attempted when order is not in a cancellable state.",
    "388": "Order size is smaller than the minimum requirement.",
    "99999": "A code that nobody has seen.",
}


async def _false_cancel(at: Machine, fault: Fault) -> None:
    at.faults.false_cancel(int(fault.choice), FALSE_CANCELS[fault.choice])


async def _repeated_status(at: Machine, fault: Fault) -> None:
    at.faults.duplicate_status(3, float(fault.choice or 0))
    await asyncio.sleep(fault.for_s)
    at.gateway.misfortunes.status_copies = 1


async def _commission_first(at: Machine, fault: Fault) -> None:
    at.faults.commission_first()
    await asyncio.sleep(fault.for_s)
    at.gateway.misfortunes.commission_first = False


async def _legs_late(at: Machine, fault: Fault) -> None:
    at.faults.combo_legs_late(float(fault.choice))
    await asyncio.sleep(fault.for_s)
    at.gateway.misfortunes.combo_reports = "whole"


GARBAGE = {
    "unknown message": (999, 1, "what is this"),
    "broken execution": (int(Answer.EXEC_DETAILS), -1, 7, "not a number", "x"),
    "broken status": (int(Answer.ORDER_STATUS), "nobody", "Submitted", "a", "b"),
    "broken position": (int(Answer.POSITION), 3, "", "x"),
}


async def _garbage(at: Machine, fault: Fault) -> None:
    at.faults.babble(*GARBAGE[fault.choice])


async def _lower_ids(at: Machine, _fault: Fault) -> None:
    at.faults.roll_back_ids(IDS_BACK)
    at.faults.drop()


# --- the service's own machine ---------------------------------------------------------------------------------------


async def _restart(at: Machine, fault: Fault) -> None:
    await at.restart_after(fault.for_s, is_crash=False)


async def _crash(at: Machine, fault: Fault) -> None:
    await at.restart_after(fault.for_s, is_crash=True)


async def _disk_full(at: Machine, fault: Fault) -> None:
    at.fill_disk()
    await asyncio.sleep(fault.for_s)
    at.free_disk()


async def _clock_step(at: Machine, fault: Fault) -> None:
    at.step_clock(float(fault.choice))


async def _held(at: Machine, fault: Fault) -> None:
    at.loop.hold(fault.for_s)


AT_ONCE = (0.0, 0.0)
SYNC_REQUESTS = ("positions", "allOpenOrders", "completedOrders", "accountUpdates", "executions")
SYNC_ANSWERS = ("positionEnd", "openOrderEnd", "completedOrdersEnd", "accountDownloadEnd", "execDetailsEnd")

MISHAPS: dict[str, Mishap] = {
    "drop": Mishap("the connection is lost", _drop),
    "reset": Mishap("the connection is reset, and what was under way is lost", _reset),
    "refuse": Mishap("the connection is lost and new ones are refused", _refuse, (1, 240)),
    "accept-close": Mishap(
        "the connection is lost; new ones are accepted and closed", _accept_close, AT_ONCE, ("1", "4")
    ),
    "mute": Mishap("the connection is lost; new ones are accepted, but never answered", _mute, (5, 120)),
    "stall": Mishap("the gateway freezes", _stall, (1, 90)),
    "half-open": Mishap("bytes stop, the socket stays open", _half_open, (2, 120), ("thaws", "reset")),
    "wedged": Mishap("no request is heard any more, and ticks flow on", _wedged),
    "slow": Mishap("the gateway thinks long", _slow, (30, 300), ("0.2-2", "2-8")),
    "split": Mishap("what the gateway says comes in small pieces", _split, (5, 60), ("7", "50")),
    "glue": Mishap("what the gateway says comes in big chunks", _glue, (5, 120), ("0.5", "2.0")),
    "far-away": Mishap("every byte travels long", _far_away, (30, 300), ("0.15", "0.8")),
    "id-taken": Mishap("the connection is lost and the client id stays taken", _id_taken, (5, 90)),
    "cut": Mishap("the gateway loses IB: 1100, and later", _cut, (0.2, 240), ("1101", "1102", "1101 reports lost")),
    "silent-1102": Mishap("1100 and 1102, but the quotes never come back", _silent_1102, (1, 60)),
    "flapping": Mishap("1100 and 1101 or 1102, again and again", _flapping, (4, 120), ("5", "20")),
    "nightly-restart": Mishap("the gateway restarts", _nightly_restart, (5, 200), ("", "ids lower")),
    "farm": Mishap("the market data farm breaks", _farm, (1, 240)),
    "silent": Mishap("all quotes stop without a word", _silent, (20, 400), ("", "forgotten")),
    "competing": Mishap("another session takes the market data", _competing, (5, 240)),
    "few-lines": Mishap("fewer market data lines are granted", _few_lines, (30, 240), ("0", "3")),
    "no-permission": Mishap("the login may not see market data", _no_permission, (30, 240), ("none", "delayed")),
    "refused-lines": Mishap("the connection is lost; then lines are refused", _refused_lines, AT_ONCE, tuple(REFUSALS)),
    "ignore-once": Mishap(
        "one request is not answered", _ignore_once, AT_ONCE, (*SYNC_REQUESTS, "currentTime", "mktData")
    ),
    "ignore": Mishap("requests of one kind are not answered", _ignore, (10, 120), (*SYNC_REQUESTS, "currentTime")),
    "lost-order": Mishap(
        "an order or a cancel never arrives at IB", _ignore_once, AT_ONCE, ("placeOrder", "cancelOrder")
    ),
    "late": Mishap(
        "orders or cancels wait on their way to IB",
        _late,
        (20, 200),
        ("placeOrder 3", "placeOrder 25", "cancelOrder 3", "cancelOrder 40"),  # an order is given up after 30 s
    ),
    "lose-once": Mishap("one answer is lost", _lose_once, AT_ONCE, (*SYNC_ANSWERS, "execDetails", "orderStatus")),
    "lose": Mishap("answers of one kind are lost", _lose, (5, 200), ("orderStatus", "openOrder", "commissionReport")),
    "no-login": Mishap("the gateway waits for its login", _no_login, (10, 120)),
    "reject": Mishap("the next order is rejected", _reject, AT_ONCE, ("201", "201", "388")),
    "false-cancel": Mishap("an error names an order that lives on", _false_cancel, AT_ONCE, tuple(FALSE_CANCELS)),
    "repeated-status": Mishap(
        "every order status is said three times, old ones after new ones", _repeated_status, (60, 600), ("0", "3")
    ),
    "commission-first": Mishap("what a fill costs is told before the fill", _commission_first, (60, 600)),
    "legs-late": Mishap("the legs of a combination's fill are told later", _legs_late, (60, 600), ("0.5", "2", "20")),
    "garbage": Mishap("a message makes no sense", _garbage, AT_ONCE, tuple(GARBAGE)),
    "lower-ids": Mishap("the connection is lost and order ids begin lower", _lower_ids),
    "restart": Mishap("the service is stopped and started again", _restart, (0.1, 60)),
    "crash": Mishap("the service dies and is started again", _crash, (0.1, 60)),
    "disk-full": Mishap("the journal refuses writes", _disk_full, (0.5, 120)),
    "held": Mishap("a strategy holds the event loop", _held, (1, 25)),
    "clock-step": Mishap("the machine's clock is set", _clock_step, AT_ONCE, ("2", "-2", "40", "-40")),
}


async def play(scene: Scene, fault: Fault) -> bool:
    """Wait until a fault is due and has its occasion, then let it happen; whether the occasion came."""
    await asyncio.sleep(max(0.0, fault.at_s - asyncio.get_running_loop().time()))
    came = fault.on == "" or await scene.occasion(fault.on, OCCASION_WITHIN_S)
    scene.say(f"{MISHAPS[fault.kind].sentence} ({fault})")
    await MISHAPS[fault.kind].play(scene.machine, fault)
    return came


async def heal(at: Machine) -> None:
    """Nothing goes wrong any more, whatever did."""
    at.faults.heal()
    at.network.plain()
    at.network.thaw(at.port)
    at.network.latency_s = at.usual_latency_s
    at.faults.resume()
    at.faults.unmute()
    at.faults.accept_and_close(0)
    await at.faults.accept()
    at.faults.vacate()
    at.faults.plain()
    at.faults.slow(0.0, 0.0)
    if at.gateway.is_cut:
        at.faults.restore(data_kept=True)
    if at.gateway.farm_is_down:
        at.faults.farm_up()
    at.faults.stop_competing()
    at.gateway.lost_data_until = ""
    at.free_disk()
    await at.start_if_down()
