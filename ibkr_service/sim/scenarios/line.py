"""The line: what happens to the connection, to the gateway, and between the gateway and Interactive Brokers.

Each script waits until a client has logged on, then a while, which the gateway's seed chooses; many wait besides for an
order, so as to strike in the middle of it, if one comes.
"""

from datetime import UTC, datetime
from typing import Final

from ibkr_service.sim.scenarios.scenario import Scenario, Stage

MINUTE_S: Final = 60.0
HOUR_S: Final = 3600.0

FRIDAY_EVENING: Final = datetime(2026, 11, 21, 4, 30, tzinfo=UTC)
"""Friday, 23:30 in New York."""

SATURDAY: Final = datetime(2026, 11, 21, 5, 5, tzinfo=UTC)
"""Five past midnight in New York: the servers are reset."""

SUNDAY: Final = datetime(2026, 11, 22, 18, 0, tzinfo=UTC)
"""13:00 in New York: the gateway runs again, and waits for a second factor."""

MONDAY: Final = datetime(2026, 11, 23, 12, 0, tzinfo=UTC)
"""7:00 in New York: somebody has confirmed the login."""

IDS_BACK: Final = 40
"""Requests take ids too: so that those of orders come again."""

SYNC_REQUESTS: Final = ("positions", "allOpenOrders", "completedOrders", "accountUpdates", "executions")
RESTORED_TIMES: Final = 800


async def _nightly_restart(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    for _ in range(4):
        at.faults.cut()
        await at.sleep(3)
    at.faults.roll_back_ids(IDS_BACK)
    await at.faults.shut_down()
    await at.sleep(60)
    at.fill_one()
    await at.sleep(180)
    at.faults.accept_and_close(2)
    await at.faults.start_up()


async def _upstream_blip(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    await at.in_the_middle()
    at.faults.cut()
    await at.sleep(40)
    at.faults.restore(data_kept=True)


async def _upstream_loss(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    await at.in_the_middle()
    at.faults.cut()
    await at.sleep(60)
    at.faults.restore(data_kept=False)


async def _silent_1102(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    at.faults.cut()
    await at.sleep(30)
    at.faults.silence()
    at.faults.restore(data_kept=True)


async def _farm_blip(at: Stage) -> None:
    await at.next_login()
    for tells in (False, True):
        await at.a_while()
        at.faults.farm_down()
        at.faults.end_bars(tells=tells)
        await at.sleep(3)
        at.faults.farm_up()


async def _farm_loss(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    at.faults.farm_down()
    await at.sleep(HOUR_S)
    at.faults.farm_up()


async def _half_open(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    await at.in_the_middle()
    at.faults.stall()
    await at.sleep(90)
    at.faults.drop()
    at.faults.resume()
    await at.a_while(120, 240)
    await at.in_the_middle()
    at.faults.stall()
    await at.sleep(90)
    at.faults.resume()


async def _mute_gateway(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    at.faults.mute()
    at.faults.drop()
    await at.sleep(180)
    at.faults.unmute()


async def _accept_close(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    at.faults.accept_and_close(10**6)
    at.faults.drop()
    await at.sleep(120)
    at.faults.accept_and_close(0)


async def _client_id_in_use(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    at.faults.occupy()
    await at.sleep(30)
    at.faults.vacate()


async def _no_next_valid_id(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    at.faults.lose("nextValidId")
    at.faults.drop()
    await at.sleep(120)
    at.faults.heal()


async def _partial_sync(at: Stage) -> None:
    await at.next_login()
    for part in SYNC_REQUESTS:
        await at.a_while(60, 120)
        at.faults.ignore(part)
        at.faults.drop()
        await at.sleep(60)
        at.faults.heal()


async def _competing_session(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    at.faults.compete()
    await at.sleep(240)
    at.faults.stop_competing()


async def _weekend_2fa(at: Stage) -> None:
    await at.sleep_until(SATURDAY)
    await at.faults.shut_down()
    await at.sleep_until(SUNDAY)
    at.faults.lose("nextValidId")
    await at.faults.start_up()
    await at.sleep_until(MONDAY)
    at.faults.heal()


async def _mode_mix_up(at: Stage) -> None:
    del at  # the login is a live one, from the beginning


async def _wedged(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    at.faults.deafen()


async def _restore_storm(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    for number in range(RESTORED_TIMES):
        at.faults.cut()
        await at.sleep(6)
        at.faults.restore(data_kept=bool(number % 8))
        await at.sleep(6)


async def _slow_gateway(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    at.faults.slow(2.0, 8.0)
    await at.sleep(900)
    at.faults.slow(0.0, 0.0)


async def _split_and_glue(at: Stage) -> None:
    await at.next_login()
    await at.a_while()
    at.faults.chop(1)
    await at.sleep(180)
    at.faults.chop(7)
    await at.sleep(120)
    at.faults.glue(2.0)
    await at.sleep(300)
    at.faults.plain()


SCENARIOS: Final = (
    Scenario(
        "nightly-restart",
        "1100 again and again, the gateway is gone for minutes, accepts and drops, then works, with lower order ids",
        "erdewit/ib_insync #41, #469, #503; QuantConnect/Lean.Brokerages.InteractiveBrokers #227, #242",
        _nightly_restart,
    ),
    Scenario(
        "upstream-blip-1102",
        "1100, and 1102 forty seconds later; data goes on",
        "QuantConnect/Lean.Brokerages.InteractiveBrokers #249",
        _upstream_blip,
    ),
    Scenario(
        "upstream-loss-1101",
        "1100, then 1101: all subscriptions are silently gone",
        "erdewit/ib_insync #256; nautechsystems/nautilus_trader #1533, #3001",
        _upstream_loss,
    ),
    Scenario(
        "silent-1102",
        "1102, but the quotes never come back",
        "IbcAlpha/IBC #143; nautechsystems/nautilus_trader #3733",
        _silent_1102,
    ),
    Scenario(
        "farm-blip",
        "2103, and 2104 three seconds later; bars that were kept up to date end without a word, or with 10182",
        "nautechsystems/nautilus_trader #3968",
        _farm_blip,
    ),
    Scenario(
        "farm-loss",
        "2103 for an hour in the session",
        "nautechsystems/nautilus_trader #4469",
        _farm_loss,
        lasts_s=75 * MINUTE_S,
    ),
    Scenario(
        "half-open",
        "bytes stop, the socket stays open, writes go nowhere: once it breaks in the end, once it thaws",
        "erdewit/ib_insync #386",
        _half_open,
    ),
    Scenario(
        "mute-gateway",
        "connections are accepted, the handshake is never answered",
        "nautechsystems/nautilus_trader #4796",
        _mute_gateway,
    ),
    Scenario(
        "accept-close",
        "a forwarder accepts and closes at once while the gateway is down",
        "gnzsnz/ib-gateway-docker #15",
        _accept_close,
    ),
    Scenario(
        "client-id-in-use",
        "326 and a closed connection, for half a minute after a quick reconnect",
        "erdewit/ib_insync #376; nautechsystems/nautilus_trader #3796",
        _client_id_in_use,
    ),
    Scenario(
        "no-next-valid-id",
        "the handshake is fine, but no order id comes: login or second factor are pending",
        "heshiming/ibga #24; UnusualAlpha/ib-gateway-docker #123",
        _no_next_valid_id,
    ),
    Scenario(
        "partial-sync",
        "a part of the account is never shown: positions, orders, completed orders, values or executions",
        "ib-api-reloaded/ib_async #84, #82; erdewit/ib_insync #355, #638; nautechsystems/nautilus_trader #4230",
        _partial_sync,
    ),
    Scenario(
        "competing-session",
        "10197 on every line: another session of the login has the data",
        "stoqey/ib #240",
        _competing_session,
    ),
    Scenario(
        "weekend-2fa",
        "the gateway is down from Saturday on; on Sunday it runs and waits for a login, until Monday morning",
        "QuantConnect/Lean.Brokerages.InteractiveBrokers #246",
        _weekend_2fa,
        gateway={"started_at": FRIDAY_EVENING},
        lasts_s=57 * HOUR_S,
    ),
    Scenario(
        "mode-mix-up",
        "a service for paper trading finds a live account at the port",
        "",
        _mode_mix_up,
        gateway={"accounts": ("U1234567",)},
        lasts_s=MINUTE_S,
        ends=2,
    ),
    Scenario("wedged", "quotes go on, but no request is answered any more", "erdewit/ib_insync #604", _wedged),
    Scenario(
        "restore-storm",
        "1100, then 1101 or 1102, eight hundred times within hours",
        "QuantConnect/Lean.Brokerages.InteractiveBrokers #258",
        _restore_storm,
        lasts_s=RESTORED_TIMES * 12 + 5 * MINUTE_S,
    ),
    Scenario("slow-gateway", "every answer takes two to eight seconds", "erdewit/ib_insync #604", _slow_gateway),
    Scenario(
        "split-and-glue",
        "messages come byte by byte, then hundreds in one chunk",
        "the stream protocol itself",
        _split_and_glue,
    ),
)
