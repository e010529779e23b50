"""The operator's line: one answer per request, and nobody on it can hold the daemon up."""

from __future__ import annotations

import asyncio
import json
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from ibkr_service import control
from ibkr_service.control import Answer, ControlFailed, NoDaemon, Request, ask, converse, listening
from ibkr_service.core.errors import NotReady

ROOT = Path(__file__).parents[1]


class Paper:
    """What is written; blocked, nobody reads it."""

    def __init__(self):
        self.lines = []
        self.blocked = False

    def write(self, data):
        self.lines += [json.loads(line) for line in data.splitlines()]

    async def drain(self):
        if self.blocked:
            await asyncio.Event().wait()


async def echo(request):
    """An answer that says what was asked, or fails on demand."""
    if request.verb == "defect":
        raise ZeroDivisionError("oh")
    if request.verb == "down":
        raise NotReady("the link is DOWN")
    return Answer(ok=True, text=(f"{request.verb} by {request.by}",))


async def said(*lines, limit=control.REQUEST_MAX):
    """What a client that sends this and leaves is answered."""
    reader, paper = asyncio.StreamReader(limit=limit), Paper()
    for line in lines:
        reader.feed_data(line)
    reader.feed_eof()
    await converse(reader, paper, echo)
    return paper.lines


async def test_one_answer_per_request_in_order():
    """Several on one line, and what is half a request is none."""
    lines = await said(b'{"verb":"a","by":"anna"}\n{"verb":"b"}\n', b'{"verb":')
    assert [line["text"] for line in lines] == [["a by anna"], ["b by somebody"]]


@pytest.mark.parametrize(
    ("line", "says"),
    [
        (b"nonsense\n", "cannot read the request"),
        (b"\xff\xfe\n", "cannot read the request"),
        (b"{}\n", "verb"),
        (b'{"verb":"halt","force":true}\n', "force"),
        (b'{"verb":5}\n', "cannot read the request"),
        (b'{"verb":"down"}\n', "the link is DOWN"),
        (b'{"verb":"defect"}\n', "a defect"),
    ],
)
async def test_what_fails_is_an_answer_and_the_line_goes_on(line, says):
    """Neither nonsense nor a defect ends the conversation."""
    first, second = await said(line, b'{"verb":"a"}\n')
    assert not first["ok"]
    assert says in first["error"]
    assert second["ok"]


async def test_a_request_has_a_largest_size():
    """It is answered, and the line closed: what follows could be anything."""
    (only,) = await said(b"x" * 200 + b"\n", b'{"verb":"a"}\n', limit=100)
    assert "at most" in only["error"]


async def test_a_client_that_says_nothing_is_dropped():
    """After a stated time, in virtual time."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await converse(asyncio.StreamReader(), Paper(), echo)
    assert loop.time() - began_s == pytest.approx(control.IDLE_S)


async def test_a_client_that_does_not_read_is_dropped():
    """It takes no more than the time to write."""
    reader, paper = asyncio.StreamReader(), Paper()
    paper.blocked = True
    reader.feed_data(b'{"verb":"a"}\n')
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    await converse(reader, paper, echo)
    assert loop.time() - began_s == pytest.approx(control.WRITE_S)


@pytest.mark.tcp
async def test_the_socket_is_for_its_owner_alone(tmp_path):
    """Mode 0600, in place of what a killed daemon left; gone at the end."""
    path = tmp_path / "x.sock"
    path.write_text("left behind")
    async with listening(path, echo):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await ask(path, Request("status", by="anna"), 5.0)).text == ("status by anna",)
        idle = await asyncio.open_unix_connection(path)  # says nothing, and keeps nobody from anything
        assert (await ask(path, Request("status"), 5.0)).ok
    assert not path.exists()
    assert await idle[0].read() == b""
    idle[1].close()
    with pytest.raises(NoDaemon):
        await ask(path, Request("status"), 5.0)


@pytest.mark.tcp
async def test_an_answer_that_does_not_come_leaves_a_doubt(tmp_path):
    """Whether a verb was carried out is not known then, and the error says so."""
    path = tmp_path / "x.sock"

    async def silent(_request):
        await asyncio.Event().wait()

    async with listening(path, silent):
        with pytest.raises(ControlFailed, match="ask for its status"):
            await ask(path, Request("halt"), 0.05)


@pytest.mark.tcp
async def test_a_path_that_is_too_long_does_not_keep_the_daemon_from_running(tmp_path):
    """A Unix socket's path has about a hundred characters."""
    async with listening(tmp_path / ("x" * 200), echo):
        pass


@pytest.mark.tcp
def test_the_commands_speak_with_a_running_daemon(tmp_path):
    """From end to end: a process that runs, commands in others, a halt that outlives the process."""
    (tmp_path / "settings.toml").write_text('[journal]\npath = "j.sqlite"\n')

    def command(*words):
        done = subprocess.run(
            [sys.executable, "-m", "ibkr_service", *words],
            cwd=tmp_path, env={"PYTHONPATH": str(ROOT)}, capture_output=True, text=True, check=False, timeout=60,
        )  # fmt: skip
        return done.returncode, done.stdout, done.stderr

    code, _, error = command("halt")
    assert code == 2
    assert "no daemon is running" in error
    daemon = subprocess.Popen(
        [sys.executable, "-m", "ibkr_service", "run"], cwd=tmp_path, env={"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
    )  # fmt: skip
    try:
        for line in daemon.stdout:
            if "READY" in line:
                break
        code, out, _ = command("stop-entries")
        assert code == 0
        assert "only orders that reduce" in out
        code, out, error = command("positions")
        assert (code, "the running daemon was asked" in error) == (0, True)
        assert "holds nothing" in out
        code, out, _ = command("status", "--json")
        assert json.loads(out)["data"]["trading"] == "entries stopped"
    finally:
        daemon.terminate()
        daemon.communicate(timeout=30)
    assert daemon.returncode == 0
