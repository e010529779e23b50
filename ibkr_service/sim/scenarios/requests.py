"""Requests and limits: what is refused, never answered, answered late, or makes no sense."""

from typing import Final

from ibkr_service.sim.messages import Answer
from ibkr_service.sim.pacing import VIOLATION
from ibkr_service.sim.scenarios.scenario import Scenario, Stage

UNKNOWN: Final = "No security definition has been found for the request"
NOT_SUBSCRIBED: Final = "Requested market data is not subscribed. Delayed market data is not enabled."
LINES: Final = 5

GARBAGE: Final[tuple[tuple[str | int, ...], ...]] = (
    (999, 1, "what is this"),
    (int(Answer.EXEC_DETAILS), -1, 7, "not a number", "x"),
    (int(Answer.ORDER_STATUS), "nobody", "Submitted", "a", "b"),
    (int(Answer.POSITION), 3, "", "x"),
    (int(Answer.TICK_PRICE), 6, 1, "a bid", "", 0),
)
"""An unknown message, and known ones that are malformed."""


async def _pacing(at: Stage) -> None:
    del at  # the gateway counts by itself; a client that asks for much meets it


async def _lines(at: Stage) -> None:
    at.faults.grant_lines(LINES)
    await at.next_login()
    await at.sleep(900)
    at.faults.grant_lines(None)


async def _historical(at: Stage) -> None:
    at.faults.fail("historicalData", 162, VIOLATION, times=2)
    await at.next_request("historicalData")


async def _bag_details(at: Stage) -> None:
    at.faults.hang_on_combos()


async def _no_permission(at: Stage) -> None:
    at.faults.permit("none")
    await at.next_login()
    await at.sleep(240)
    at.faults.permit("delayed")
    await at.sleep(240)
    at.faults.fail("mktData", 10168, NOT_SUBSCRIBED, times=5)
    await at.sleep(240)
    at.faults.permit(None)


async def _late_greeks(at: Stage) -> None:
    await at.next_login()
    await at.sleep(400)
    at.faults.lose("tickOptionComputation")
    await at.sleep(400)
    at.faults.heal()


async def _bogus_200(at: Stage) -> None:
    at.faults.fail("contractDetails", 200, UNKNOWN, times=2)
    await at.next_login()
    await at.a_while()
    await at.lose_line(60)
    at.faults.fail("mktData", 200, UNKNOWN, times=4)
    at.faults.fail("contractDetails", 200, UNKNOWN, times=2)


async def _garbage(at: Stage) -> None:
    await at.next_login()
    for number, fields in enumerate((*GARBAGE, *GARBAGE)):
        await at.a_while(20, 60)
        match number % 3:
            case 0:
                await at.in_the_middle()
            case 1:
                at.faults.drop()
                await at.next_request("positions")
            case _:
                pass
        at.faults.babble(*fields)


SCENARIOS: Final = (
    Scenario(
        "pacing-100",
        "more than fifty messages in a second draw error 100, and in the end a closed connection",
        "erdewit/ib_insync #35, #544",
        _pacing,
    ),
    Scenario(
        "lines-101",
        "more live lines are wanted than the account has",
        "QuantConnect/Lean.Brokerages.InteractiveBrokers #79; OptraBot",
        _lines,
    ),
    Scenario(
        "historical-162",
        "requests for history are answered with a pacing violation",
        "erdewit/ib_insync #172",
        _historical,
    ),
    Scenario(
        "bag-details-hang",
        "contract details of a combination are never answered",
        "pst-group/pysystemtrade #1659",
        _bag_details,
    ),
    Scenario(
        "no-permission",
        "market data is refused (354, 10089, 10168), or delayed data comes instead (10167)",
        "wboayue/rust-ibapi #768, #804",
        _no_permission,
    ),
    Scenario(
        "late-greeks",
        "the greeks of options come after twelve seconds, later never",
        "ib-api-reloaded/ib_async #77",
        _late_greeks,
        gateway={"greeks_delay_s": (12.0, 12.0)},
    ),
    Scenario(
        "bogus-200",
        "good contracts are called unknown (200) while the servers are reset",
        "erdewit/ib_insync #330",
        _bogus_200,
    ),
    Scenario("garbage", "messages make no sense, known and unknown ones", "ib-api-reloaded/ib_async #188", _garbage),
)
