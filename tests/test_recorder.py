"""Recording a session: what is in the file, and that nothing which befalls the file befalls the session.

Goal: a user may record a live session without a second thought. Method: recorders on files that are there, full, or
too small, beside a service in virtual time; random bytes in random chunks.
"""

from __future__ import annotations

import asyncio
import errno
import random
import stat
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibkr_service import cli
from ibkr_service.app import App
from ibkr_service.clock import LoopClock
from ibkr_service.control import Request
from ibkr_service.core import events as ev
from ibkr_service.core.errors import JournalError, RecordingUnusable
from ibkr_service.core.link import Link
from ibkr_service.core.recording import Header, Kind, framed, read
from ibkr_service.operations import Operations
from ibkr_service.recorder import Recorder, RecordingConfig
from ibkr_service.rehearsal import replay
from ibkr_service.rehearsal.world import World, WorldConfig
from ibkr_service.sim import GatewayConfig
from tests.rehearsal.recorded import live
from tests.world import EPOCH

ACCOUNT, MASK = b"DU1234567", b"DU0000001"


def clock() -> LoopClock:
    """The wall clock of these tests."""
    return LoopClock(asyncio.get_running_loop(), EPOCH)


def header(*, masked: bool) -> Header:
    """A header of a session that has no meaning."""
    return Header(
        version="0", masked=masked, mode="paper", seed=1, run_id="r", started_at=EPOCH, built_s=0.0, began_s=0.0,
        session={"account": ACCOUNT.decode()}, limits={}, service={},
    )  # fmt: skip


def recorder(path: Path, **options) -> Recorder:
    """A recorder that has begun."""
    made = Recorder(RecordingConfig(path, **options), clock())
    made.begin(header(masked=options.get("masked", True)), [ACCOUNT.decode()], [])
    return made


async def test_the_file_is_for_its_owner_alone(tmp_path):
    """Mode 0600."""
    path = tmp_path / "x"
    recorder(path).close()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("kind", ["file", "link", "dangling link"])
async def test_nothing_is_written_over(kind, tmp_path):
    """Neither a file nor what a link leads to; it stays as it is."""
    path, other = tmp_path / "x", tmp_path / "other"
    if kind == "file":
        path.write_text("precious")
    else:
        path.symlink_to(other)
        if kind == "link":
            other.write_text("precious")
    with pytest.raises(RecordingUnusable, match="exists already"):
        Recorder(RecordingConfig(path), clock())
    assert not other.exists() if kind == "dangling link" else path.read_text() == "precious"
    done = CliRunner().invoke(cli.app, ["run", "--simulate", "--record", str(path)], catch_exceptions=True)
    assert isinstance(done.exception, RecordingUnusable)


@pytest.mark.parametrize(
    "arguments", [["--unmasked"], ["--record", "x", "--record-limit", "much"], ["--record", "x", "--record-limit", "0"]]
)
def test_options_that_make_no_sense(arguments, tmp_path, monkeypatch):
    """Exit code 2, nothing was begun."""
    monkeypatch.chdir(tmp_path)
    assert CliRunner().invoke(cli.app, ["run", "--simulate", *arguments]).exit_code == 2
    assert not (tmp_path / "x").exists()


async def test_messages_come_out_as_they_went_in(tmp_path):
    """Both directions in random chunks: each chunk has the messages that were whole with it, masked."""
    rng = random.Random(7)
    path = tmp_path / "x"
    made = recorder(path)
    number = made.connecting()
    sent = [b"6\x002\x00Net\x00%d\x00USD\x00DU1234567\x00" % n for n in range(200)]
    wire = b"".join(map(framed, sent))
    made.outbound(number, b"API\0" + framed(b"v157..176"))
    at = 0
    while at < len(wire):
        size = rng.randrange(1, 90)
        made.inbound(number, wire[at : at + size])
        at += size
    made.inbound(number, framed(b"half a message")[:9])
    made.lost(number, None)
    made.close()
    recording = read(path.read_bytes(), "x")
    came = [record.data for record in recording.records if record.kind is Kind.IN]
    assert b"".join(came) == wire.replace(ACCOUNT, MASK)
    assert all(not data or int.from_bytes(data[:4]) + 4 <= len(data) for data in came)
    assert recording.records[1].data == b"API\0" + framed(b"v157..176")
    assert recording.header.session["account"] == MASK.decode()
    assert ACCOUNT not in path.read_bytes()


async def test_unmasked_keeps_the_accounts(tmp_path):
    """Because somebody asked for it."""
    path = tmp_path / "x"
    made = recorder(path, masked=False)
    made.inbound(made.connecting(), framed(b"15\x001\x00DU1234567\x00"))
    made.close()
    recording = read(path.read_bytes(), "x")
    assert not recording.header.masked
    assert recording.header.session["account"] == ACCOUNT.decode()
    assert any(ACCOUNT in record.data for record in recording.records)


def world(folder: Path) -> World:
    """A world that is recorded."""
    return World(WorldConfig(folder=folder, gateway=GatewayConfig(started_at=EPOCH), record=folder / "x"))


async def test_a_full_disk_ends_the_recording_and_not_the_session(tmp_path):
    """The service goes on as if nothing had been; what was written before can be read."""
    async with world(tmp_path) as lived:
        await lived.until_ready()
        await asyncio.sleep(10)

        def full(_data: bytes) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        made = lived.app.recorder
        made._append = full
        await asyncio.sleep(30)
        assert "No space left" in made.ended
        assert lived.app.book.link is Link.READY
        lived.faults.drop()
        await asyncio.sleep(30)
        assert lived.app.book.link is Link.READY
    recording = read((tmp_path / "x").read_bytes(), "x")
    assert len(recording.records) > 20
    assert recording.cut
    result = replay_in_thread(tmp_path / "x")
    assert result.same, (result.first_fact, result.differences[:3])


def replay_in_thread(path: Path):
    """A replay has an event loop of its own; the test's is running here."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(replay, path).result()


async def test_the_limit_ends_the_recording(tmp_path):
    """It says why in the file; the session goes on."""
    async with world(tmp_path) as lived:
        await lived.until_ready()
        made = lived.app.recorder
        made.config = replace(made.config, limit=6_000)
        await asyncio.sleep(600)
        assert "limit" in made.ended
        assert lived.app.book.link is Link.READY
    recording = read((tmp_path / "x").read_bytes(), "x")
    assert not recording.cut
    assert b"limit of 6000 bytes" in recording.records[-1].data
    assert (tmp_path / "x").stat().st_size < 12_000


async def test_a_defect_in_here_ends_the_recording_alone(tmp_path):
    """Whatever goes wrong while bytes are made of what happened."""
    async with world(tmp_path) as lived:
        await lived.until_ready()
        made = lived.app.recorder
        made._masks = None
        await asyncio.sleep(10)
        assert made.ended
        assert lived.app.book.link is Link.READY
        assert not lived.of(ev.LibraryFault)


def test_what_a_person_asked_for_is_part_of_it(tmp_path):
    """Entries are stopped over the control socket: the replay stops them too, and nobody's name is in the file."""
    request = Request("stop-entries", by="alice.smith")

    async def stopped(world):
        await world.until_ready()
        await asyncio.sleep(5)
        world.app.recorder.operator(request)
        assert (await Operations(world.app).handle(request)).ok
        await asyncio.sleep(5)

    lived = live(WorldConfig(folder=tmp_path, gateway=GatewayConfig(started_at=EPOCH)), stopped)
    result = replay(lived.path)
    assert result.exact, (result.first_fact, result.differences[:3])
    assert any("OperatorSaid" in line for line in result.journal)
    assert not any("alice" in line for line in result.journal)
    assert any("alice" in line for line in lived.journal)
    assert any("the operator asks" in entry.text for entry in result.timeline)


def test_who_asked_before_is_nobodys_business_either(tmp_path):
    """A halt of an earlier session, in the book and in the journal that the recorded one begins with."""
    config = WorldConfig(folder=tmp_path, gateway=GatewayConfig(started_at=EPOCH))

    async def halted(world):
        await world.until_ready()
        assert (await Operations(world.app).handle(Request("halt", by="alice.smith"))).ok

    async def quiet(world):
        await world.until_ready()
        assert world.app.book.operator.is_halted

    live(config, halted, "first")
    second = live(config, quiet, "second")
    records = read(second.path.read_bytes(), "x").records
    assert b"alice" not in b"".join(record.data for record in records)
    assert {Kind.PART, Kind.ROW} <= {record.kind for record in records}
    result = replay(second.path)
    assert result.exact, (result.first_fact, result.notes)


async def test_a_service_that_cannot_be_built_leaves_no_file(tmp_path):
    """The journal is in use: the name is free for the next attempt."""
    async with world(tmp_path) as lived:
        other = replace(lived.app.config, recording=RecordingConfig(tmp_path / "other"))
        with pytest.raises(JournalError):
            App(other, [], clock=lived.app.clock, rng=random.Random(1))
        assert not (tmp_path / "other").exists()
