"""News and scanners: invented, but always the same; and what is not for sale."""

import asyncio
import xml.etree.ElementTree as ET
from datetime import UTC, datetime

import pytest

from ibkr_service.sim import Gateway, GatewayConfig
from ibkr_service.sim.rawclient import AAPL, RawClient
from ibkr_service.sim.scanner import SCANS

NOON = datetime(2026, 11, 23, 17, 0, tzinfo=UTC)


@pytest.fixture
async def gateway():
    gateway = Gateway(GatewayConfig(seed=5, started_at=NOON, requests_per_second_max=0))
    yield gateway
    gateway.close()


@pytest.fixture
async def client(gateway):
    client = RawClient(gateway)
    client.forget()
    return client


def headlines(client, *, providers="BRFG+BRFUPDN+DJNL", start="", end="", count=10, req_id=4, con_id=AAPL):
    client.ask(86, req_id, con_id, providers, start, end, count, "")
    return [message[2:] for message in client.of(86) if message[1] == str(req_id)]


async def test_headlines_and_their_articles(client):
    """The latest first, none of the future; each has an article."""
    rows = headlines(client)
    times = [row[0] for row in rows]
    assert len(rows) == 10
    assert times == sorted(times, reverse=True)
    assert times[0] <= "2026-11-23 17:00:00.0"
    assert client.of(87) == [["87", "4", "1"]]
    client.ask(84, 5, rows[0][1], rows[0][2], "")
    (article,) = client.of(83)
    assert article[1:3] == ["5", "0"]
    assert rows[0][3] in article[3]
    assert headlines(client, req_id=6) == rows


async def test_headlines_of_a_time_and_of_a_provider(client):
    """After the start, up to the end."""
    rows = headlines(client, start="2026-11-20 00:00:00.0", end="20261122-00:00:00", providers="BRFG,DJNL")
    assert rows
    assert all("2026-11-20 00:00:00.0" < row[0] <= "2026-11-22 00:00:00.0" for row in rows)
    assert {row[1] for row in rows} <= {"BRFG", "DJNL"}
    assert client.of(87) == [["87", "4", "0"]]


async def test_providers_and_bulletins(client):
    """Three providers; one bulletin for those who want those of the day."""
    client.ask(85)
    client.ask(12, 1, 1)
    client.ask(12, 1, 0)
    client.ask(13, 1)
    (providers,), (bulletin,) = client.of(85), client.of(14)
    assert len(providers) == 2 + 2 * int(providers[1])
    assert len(bulletin) == 6


async def test_bad_requests_for_news(client):
    """10276, 321, 10172."""
    headlines(client, providers="GOSSIP")
    headlines(client, con_id=77, req_id=5)
    headlines(client, start="yesterday", req_id=6)
    for req_id, article in enumerate(("BRFG$zz", "BRFG$40d7e.0.0", "BRFG$40d7e.ffffffffff.1", "", "BRFG$1.b4a2f.0"), 7):
        client.ask(84, req_id, "BRFG", article, "")
    codes = [(4, 10276), (5, 321), (6, 321), *((req_id, 10172) for req_id in range(7, 12))]
    assert client.errors() == codes


# --- scanners -------------------------------------------------------------------------------------------------------


def scan(  # noqa: PLR0913  the request has as many fields
    client, code, *, req_id=3, rows=5, above="", below="", volume="", instrument="STK", location="STK.US.MAJOR"
):
    client.ask(22, req_id, rows, instrument, location, code, above, below, volume, *[""] * 13, "", "")


def found(message):
    """Symbols in the order of their rank."""
    assert message[1] == "3"
    rows = [message[4 + 16 * n : 20 + 16 * n] for n in range(int(message[3]))]
    assert len(message) == 4 + 16 * len(rows)
    assert [row[0] for row in rows] == [str(n) for n in range(len(rows))]
    return [row[2] for row in rows]


@pytest.mark.parametrize("code", SCANS)
async def test_every_scan(client, code):
    """A ranking now, and again every half minute, until the cancel."""
    scan(client, code)
    assert len(set(found(client.of(20)[0]))) == 5
    await asyncio.sleep(61)
    assert len(client.of(20)) == 3
    client.ask(23, 1, 3)
    await asyncio.sleep(61)
    assert len(client.of(20)) == 3
    assert client.errors() == [(3, 162)]


async def test_gainers_have_gained_and_losers_lost(gateway, client):
    """By the prices that everybody sees."""
    scan(client, "TOP_PERC_GAIN", rows=50)
    scan(client, "TOP_PERC_LOSE", rows=50, req_id=4)
    gainers, losers = (found(message) for message in client.of(20))
    assert gainers == losers[::-1]
    gains = []
    for symbol in gainers:
        share = next(
            each for each in gateway.universe.stocks.values() if (each.symbol, each.currency) == (symbol, "USD")
        )
        quote = gateway.market.quote(share)
        gains.append(quote.last / gateway.figures_of().of(share, quote).close)
    assert gains == sorted(gains, reverse=True)


async def test_filters(client):
    """Price and volume."""
    scan(client, "MOST_ACTIVE", rows=-1, above=100, below=300)
    scan(client, "MOST_ACTIVE", rows=-1, req_id=4)
    scan(client, "MOST_ACTIVE", rows=-1, req_id=5, volume=1e12)
    some, everything, nothing = (found(message) for message in client.of(20))
    assert nothing == []
    assert "AAPL" in some
    assert set(some) < set(everything)


async def test_bad_scans(client):
    """162; 365 for a cancel of nothing."""
    scan(client, "TOP_GOSSIP")
    scan(client, "TOP_PERC_GAIN", instrument="FUT.US", location="FUT.GLOBEX", req_id=4)
    client.ask(23, 1, 9)
    for req_id in range(10, 21):
        scan(client, "MOST_ACTIVE", req_id=req_id)
    assert client.errors() == [(3, 162), (4, 162), (9, 365), (20, 162)]


async def test_the_parameters_name_every_scan(client):
    """As XML."""
    client.ask(24, 1)
    root = ET.fromstring(client.of(19)[0][2])
    assert {node.text for node in root.iter("scanCode")} == set(SCANS)


@pytest.mark.parametrize(
    ("request_", "code"),
    [((52, 2, 4), 430), ((100, 4), 10279), ((101, 4), 10280), ((102, 4), 10283), ((103, 4), 10284)],
)
async def test_what_is_not_sold(client, request_, code):
    """An error with the request's id."""
    client.ask(*request_, *[""] * 14)
    assert client.errors() == [(4, code)]
    client.ask(53, 1, 4)
    assert len(client.errors()) == 1
