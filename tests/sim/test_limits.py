"""What a client may do to a gateway: how fast, how much, how late the answers are, and how rudely it may behave."""

import asyncio

import pytest

from ibkr_service.sim import Gateway, GatewayConfig
from ibkr_service.sim.latency import subject_of
from ibkr_service.sim.loop import run
from ibkr_service.sim.messages import Request
from ibkr_service.sim.rawclient import RawClient, contract, stock
from ibkr_service.sim.session import STREAMS_MAX
from ibkr_service.sim.wire import frame


def life(scenario, **known):
    """Run a scenario with a gateway and a client in virtual time."""

    async def main():
        gateway = Gateway(GatewayConfig(seed=2, **known))
        try:
            return await scenario(gateway, RawClient(gateway))
        finally:
            gateway.close()

    return run(main())


# --- pace -----------------------------------------------------------------------------------------------------------


def test_a_client_that_keeps_to_45_a_second_is_never_warned():
    """Though the gateway reads the tail of a burst late, and the next burst a second after the first."""

    async def scenario(_gateway, client):
        for _ in range(5):
            client.write(b"".join(frame(49, 1) for _ in range(25)))
            await asyncio.sleep(0.05)
            client.write(b"".join(frame(49, 1) for _ in range(20)))
            await asyncio.sleep(0.95)
        return client

    client = life(scenario)
    assert client.errors() == []
    assert len(client.of(49)) == 225


def test_a_slow_answer_does_not_make_a_client_fast():
    """What arrived in one piece was sent together: the time of the answers does not count."""

    async def scenario(gateway, client):
        loop = asyncio.get_running_loop()
        dispatch = gateway.dispatch

        def slowly(session, values):
            loop._now_s += 0.03
            dispatch(session, values)

        gateway.dispatch = slowly
        for _ in range(3):
            started = loop.time()
            client.write(b"".join(frame(49, 1) for _ in range(30)))
            await asyncio.sleep(max(0.0, started + 1 - loop.time()))
        return client

    assert life(scenario).errors() == []


def test_subscriptions_are_bounded():
    """One that asks and asks is refused; ending one makes room for another."""

    async def scenario(_gateway, client):
        for number in range(STREAMS_MAX + 1):
            client.ask(94, number, "", "", 265598)
        refused = client.errors()
        client.ask(95, 3)
        client.forget()
        client.ask(94, 5000, "", "", 265598)
        return refused, client.errors()

    assert life(scenario, requests_per_second_max=0) == ([(STREAMS_MAX, 322)], [])


def test_a_whole_chain_is_answered():
    """Thousands of options in one answer, within the write buffer of a client."""

    async def scenario(_gateway, client):
        client.ask(9, 8, 1, *contract(symbol="SPX", sec_type="OPT", exchange="SMART", currency="USD"), 0, "", "", "")
        return client

    client = life(scenario)
    assert len(client.of(10)) > 4000
    assert len(client.of(52)) == 1
    assert len(client.data) < 4 << 20


# --- latency --------------------------------------------------------------------------------------------------------


async def _answered_after(client, request, *values):
    """Seconds until the first answer."""
    client.forget()
    client.ask(request, *values)
    for waited in range(1, 200):
        if len(client.messages) > 1:
            return (waited - 1) / 10
        await asyncio.sleep(0.1)
    raise AssertionError("no answer")


def test_latency_is_per_request_and_seeded():
    """By any spelling of the name; the same seed waits as long."""

    async def scenario(_gateway, client):
        slow = [await _answered_after(client, 9, 8, 1, *stock(), 0, "", "", "") for _ in range(3)]
        return slow, await _answered_after(client, 49, 1)

    known = {"latency": {"reqContractDetails": (1, 4)}}
    slow, fast = life(scenario, **known)
    assert all(1 <= seconds <= 4 for seconds in slow)
    assert len(set(slow)) == 3
    assert fast == 0
    assert life(scenario, **known) == (slow, fast)


def test_answers_keep_their_order_within_a_subject():
    """However different their latencies are."""

    async def scenario(_gateway, client):
        for number in range(20):
            client.ask(9, 8, number, *stock(), 0, "", "", "")
        client.place(1, lmtPrice=1, orderType="LMT")
        client.ask(4, 1, 1, "")
        await asyncio.sleep(10)
        return [int(message[1]) for message in client.of(10)], client.statuses(1)

    ids, statuses = life(scenario, latency={"*": (0, 5), "cancelOrder": (0, 0.01)})
    assert ids == list(range(20))
    assert statuses[-1] == "Cancelled"
    assert subject_of(Request.CANCEL_MKT_DATA) == subject_of(Request.MKT_DATA)


def test_who_leaves_gets_no_late_answer_but_the_order_goes_on():
    """As at a real gateway: what was sent was sent."""

    async def scenario(gateway, client):
        client.ask(9, 8, 1, *stock(), 0, "", "", "")
        client.place(7, lmtPrice=1, orderType="LMT")
        client.session.lost()
        await asyncio.sleep(10)
        return client.of(10), [order.ticket.order_id for order in gateway.open_orders]

    assert life(scenario, latency={"*": (1, 2)}) == ([], [7])


@pytest.mark.parametrize("latency", [{"reqNonsense": (0, 1)}, {"*": (2, 1)}, {"*": (-1, 1)}, {"*": (0, float("inf"))}])
def test_a_latency_that_makes_no_sense_is_refused(latency):
    """When the gateway is configured, not when it is asked."""
    with pytest.raises(ValueError, match=r"latency|called"):
        GatewayConfig(latency=latency)
