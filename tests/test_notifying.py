"""People are told, and nothing waits for it: queues, time limits, retries; and one that is really sent.

Method: a channel of our own in virtual time; apprise itself against a web server on loopback.
"""

from __future__ import annotations

import asyncio
import json
import shlex
import sys
import threading
from contextlib import asynccontextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest
from structlog.testing import capture_logs

from ibkr_service import cli
from ibkr_service.channels import ChannelUnusable, channels_of
from ibkr_service.clock import LoopClock
from ibkr_service.core import events as ev
from ibkr_service.core.notices import Notice, Notices, Told
from ibkr_service.notifying import AT_END_S, QUEUE_MAX, RETRY_S, SEND_MAX_S, Courier, NotSent
from ibkr_service.settings import NotifySettings, Settings, SettingsError, describe, load_settings
from tests.world import EPOCH, World, WorldConfig


class Mailbox:
    """A channel that keeps what it is given, or does not take it, or hangs."""

    def __init__(self, name="mailbox", *, fails=0, hangs=False, breaks=False):
        self.name, self.fails, self.hangs, self.breaks = name, fails, hangs, breaks
        self.taken, self.attempts = [], []

    async def send(self, notice):
        self.attempts.append(asyncio.get_running_loop().time())
        if self.breaks:
            raise RuntimeError("json://user:secret@host")
        if self.hangs:
            await asyncio.get_running_loop().create_future()
        if self.fails:
            self.fails -= 1
            raise NotSent("it says no")
        self.taken.append(notice)


@asynccontextmanager
async def courier(*channels, told=None, refuses=lambda: False):
    """A courier at work."""
    loop = asyncio.get_running_loop()
    notices = Notices(told or Told(hourly_max=1_000))
    made = Courier(notices, channels, LoopClock(loop, EPOCH), sender="x", journal_refuses=refuses)
    async with asyncio.TaskGroup() as group:
        running = group.create_task(made.run())
        yield made
        running.cancel()


def halt(by="ann"):
    return ev.OperatorSaid(at=EPOCH, verb="halt", by=by)


def failures(lines):
    return [line for line in lines if line["event"] == "notification failed"]


async def test_notices_arrive_in_their_order_and_masked():
    """Within a second, at every address; no account number leaves."""
    one, other = Mailbox(), Mailbox()
    async with courier(one, other) as made:
        made.note(ev.QuarantineBegan(at=EPOCH, account="DU1234567", why="DU1234567 has too much"))
        made.note(halt())
        await asyncio.sleep(1.5)
    assert one.taken == other.taken
    assert [notice.title for notice in one.taken] == ["x: account DU…567 in quarantine", "x: halt by ann"]
    assert "DU1234567" not in one.taken[0].text


async def test_a_channel_that_hangs_or_breaks_holds_up_no_other():
    """It is given up each time."""
    hangs, breaks, works = Mailbox(hangs=True), Mailbox(breaks=True), Mailbox()
    async with courier(hangs, breaks, works) as made:
        made.note(halt())
        await asyncio.sleep(1.5)
        assert len(works.taken) == 1
        await asyncio.sleep(1_000)
    assert len(breaks.attempts) == len(hangs.attempts) == 1 + len(RETRY_S)
    gaps = [later - earlier for earlier, later in zip(hangs.attempts, hangs.attempts[1:], strict=False)]
    assert gaps == [pytest.approx(SEND_MAX_S + wait_s) for wait_s in RETRY_S]


async def test_one_that_fails_is_tried_again_and_said_once():
    """For each kind; and what could not be delivered at all is counted in the next."""
    channel = Mailbox(fails=2)
    with capture_logs() as lines:
        await _fail(channel, lines)
    assert len(failures(lines)) == 2
    assert channel.taken[-1].title == "x: halt by bob"
    assert "1 notifications before it could not be delivered" in channel.taken[-1].text


async def _fail(channel, lines):
    async with courier(channel) as made:
        made.note(halt())
        await asyncio.sleep(100)
        assert len(channel.taken) == 1
        assert len(failures(lines)) == 1
        channel.fails = 1 + len(RETRY_S)
        made.note(halt())
        await asyncio.sleep(1_000)
        made.note(halt("bob"))
        await asyncio.sleep(2)


async def test_a_queue_has_an_end():
    """The oldest go, and are counted."""
    channel = Mailbox(hangs=True)
    async with courier(channel) as made:
        made.note(halt())
        await asyncio.sleep(2)
        for number in range(3 * QUEUE_MAX):
            made.note(halt(f"n{number}"))
        await asyncio.sleep(2)
        assert len(made) == QUEUE_MAX + 1
        channel.hangs = False
        await asyncio.sleep(100)
    assert len(channel.taken) == QUEUE_MAX + 1
    assert channel.taken[-1].title == f"x: halt by n{3 * QUEUE_MAX - 1}"
    assert f"{2 * QUEUE_MAX} notifications before it could not be delivered" in channel.taken[0].text


@pytest.mark.parametrize("hangs", [False, True])
async def test_at_the_end_what_waits_has_some_seconds(hangs):
    """No more."""
    channel, loop = Mailbox(hangs=hangs), asyncio.get_running_loop()
    async with courier(channel) as made:
        await asyncio.sleep(0.5)
        made.note(halt())
        began_s = loop.time()
        await made.finish()
        assert loop.time() - began_s == pytest.approx(AT_END_S if hangs else 0)
        assert len(channel.taken) == (not hangs)


async def test_a_rule_that_breaks_hurts_nobody():
    """What cannot be told is logged."""

    class Broken(Notices):
        def apply(self, event):
            raise ZeroDivisionError

        def due(self, at, *, journal_refuses):
            raise ZeroDivisionError

    made = Courier(
        Broken(Told()), [], LoopClock(asyncio.get_running_loop(), EPOCH), sender="x", journal_refuses=lambda: False
    )
    with capture_logs() as lines:
        made.note(halt())
        await made.finish()
    events = [line["event"] for line in lines]
    assert events == ["a fact cannot be told", "what is to be told cannot be found out"]


# --- in the service --------------------------------------------------------------------------------------------------


async def test_the_service_tells_of_an_outage_a_full_disk_and_its_ends(tmp_path):
    """And ends in order though its address hangs."""
    channel = Mailbox()
    world = World(WorldConfig(tmp_path, channels=(channel,)))
    async with world:
        await world.until_ready()
        world.faults.drop()  # a blip
        await world.until(lambda: world.of(ev.IncidentClosed), what="its end")
        world.faults.refuse()
        world.faults.drop()
        await asyncio.sleep(120)
        await world.faults.accept()
        await world.until(lambda: len(world.of(ev.IncidentClosed)) == 2, what="its end")
        world.fill_disk()
        world.faults.drop()
        await asyncio.sleep(20)
        world.free_disk()
        world.faults.drop()  # with the next fact
        await asyncio.sleep(20)
        told = [notice.title.partition(": ")[2] for notice in channel.taken]
        assert told[0].startswith("incident 2: ")
        assert told[1:] == ["incident 2 is over", "the journal refuses writes", "the journal takes writes again"]
        channel.hangs = True
        world.app.hub.decide(ev.OperatorSaid(at=EPOCH, verb="halt", by="ann"))
        began_s = world.now_s
        assert await world.stop_service() == 0
        assert world.now_s - began_s < AT_END_S + 1


# --- the settings ----------------------------------------------------------------------------------------------------


def test_addresses_are_secret(tmp_path):
    """In what `check` prints, and in what is said about a mistake."""
    environ = {"IBKR_SERVICE_NOTIFY__URLS": "tgram://123:abc/42 json://me:hidden@host"}
    settings = load_settings(environ=environ)
    assert settings.notify.urls == ("tgram://123:abc/42", "json://me:hidden@host")
    (shown,) = [value for key, value, _ in describe(settings) if key == "notify.urls"]
    assert shown == "***"
    path = tmp_path / "settings.toml"
    path.write_text('[notify]\nurls = ["json://me:hidden@host", 5]\n')
    with pytest.raises(SettingsError) as caught:
        load_settings(path, environ={})
    assert "hidden" not in str(caught.value)
    with pytest.raises(SettingsError, match='"quarantine"'):
        load_settings(environ={"IBKR_SERVICE_NOTIFY__ON": "everything"})


@pytest.mark.parametrize("url", ["nonsense", "nosuch://me:hidden@host"])
def test_an_address_that_is_none_is_said_before_anything_starts(url):
    """By its number, not by its secret."""
    with pytest.raises(ChannelUnusable) as caught:
        channels_of(["json://localhost", url])
    assert "number 2" in str(caught.value)
    assert "hidden" not in str(caught.value)


def test_nobody_is_told_by_default():
    """Nor is the library imported."""
    assert Settings().notify == NotifySettings(urls=())
    assert channels_of(()) == []


# --- really ----------------------------------------------------------------------------------------------------------


@pytest.fixture
def web_hook():
    """A web server on loopback; returns its port, what it got, and the status that it answers with."""
    got, status = [], [200]

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self):
            got.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(status[0])
            self.end_headers()

        def log_message(self, *_arguments):
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server.server_port, got, status
    server.shutdown()
    server.server_close()


@pytest.mark.tcp
async def test_one_is_really_sent(web_hook):
    """By apprise, over a socket; a refusal is one, and names no address."""
    port, got, status = web_hook
    (channel,) = channels_of([f"json://me:hidden@127.0.0.1:{port}/"])
    notice = Notice(kind="incident", at=EPOCH, title="incident 1", text="dead\nsince then")
    await channel.send(notice)
    assert [(each["title"], each["message"]) for each in got] == [("incident 1", "dead\nsince then")]
    await channel.send(Notice(kind="halt", at=EPOCH, title="halt"))
    assert got[1]["message"].strip()
    status[0] = 500
    with pytest.raises(NotSent) as caught:
        await channel.send(notice)
    assert "hidden" not in str(caught.value)


@pytest.mark.tcp
def test_the_command_sends_a_test(web_hook, monkeypatch, capsys):
    """And says how it went, address by address."""
    port, got, status = web_hook

    def types(command, code):
        monkeypatch.setattr(sys, "argv", ["ibkr-service", *shlex.split(command)])
        with pytest.raises(SystemExit) as ended:
            cli.main()
        assert ended.value.code == code
        return capsys.readouterr()

    assert "notify.urls is empty" in types("notify --test", 2).err
    monkeypatch.setenv("IBKR_SERVICE_NOTIFY__URLS", f"json://me:hidden@127.0.0.1:{port}/")
    said = types("notify", 0).out
    assert "incident" in said
    assert "hidden" not in said
    assert types("notify --test", 0).out == "JSON: sent\n"
    assert got[0]["title"] == "ibkr-service: a test"
    status[0] = 500
    assert types("notify --test", 1).out == "JSON: JSON did not take it\n"
