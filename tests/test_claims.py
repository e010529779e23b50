"""A second daemon under the same client id is refused, whatever its journal; with a way out."""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from ibkr_service.app import EXIT_UNUSABLE
from ibkr_service.claims import Claims, claims_folder
from ibkr_service.core import events as ev
from ibkr_service.core.errors import AlreadyRunning, Unfit
from tests.test_two_processes import line_with, listening, prepare, process
from tests.world import World, WorldConfig


@pytest.fixture
def folder(tmp_path):
    """Where claims are left."""
    return tmp_path / "run" / "ibkr_service"


@pytest.fixture
def first(folder):
    """The claims of a daemon that runs."""
    claims = Claims(folder)
    claims.gateway("127.0.0.1", 7497, 1)
    claims.account("DU1234567", 1)
    yield claims
    claims.release()


def test_the_same_client_id_at_the_same_gateway_is_refused(first, folder):
    """However the gateway's name is written; the text says whose it is, and what to do."""
    for host in ("127.0.0.1", "localhost", "LOCALHOST"):
        with pytest.raises(AlreadyRunning, match=rf"process {os.getpid()}\).*choose another ibkr\.client_id"):
            Claims(folder).gateway(host, 7497, 1)


def test_the_same_client_id_for_the_same_account_is_refused(first, folder):
    """Also at another gateway; no account number is told."""
    other = Claims(folder)
    other.gateway("127.0.0.1", 4002, 1)
    with pytest.raises(AlreadyRunning, match="client id 1 for this account") as refused:
        other.account("DU1234567", 1)
    assert "DU1234567" not in str(refused.value)
    other.release()


def test_all_else_is_free(first, folder):
    """Another id, another gateway, another account."""
    other = Claims(folder)
    other.gateway("127.0.0.1", 7497, 2)
    other.gateway("127.0.0.1", 7496, 1)
    other.gateway("::1", 7497, 1)
    other.account("DU7654321", 1)
    other.account("DU1234567", 2)
    other.release()


def test_a_claim_may_be_repeated_and_ends_with_its_release(first, folder):
    """Each session claims its account again; a daemon that stopped leaves nothing claimed."""
    first.account("DU1234567", 1)
    first.release()
    first.release()
    again = Claims(folder)
    again.gateway("127.0.0.1", 7497, 1)
    again.account("DU1234567", 1)
    again.release()


def test_a_killed_daemon_claims_nothing(folder):
    """SIGKILL leaves the file, and no claim."""
    script = (
        "import os, pathlib, sys\n"
        "from ibkr_service.claims import Claims\n"
        "claims = Claims(pathlib.Path(sys.argv[1]))\n"
        "claims.gateway('127.0.0.1', 7497, 1)\n"
        "os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", script, folder], check=False, timeout=60)
    claims = Claims(folder)
    claims.gateway("127.0.0.1", 7497, 1)
    claims.release()


def test_claims_are_the_owners_alone(first, folder):
    """Whatever the umask."""
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert {stat.S_IMODE(file.stat().st_mode) for file in folder.iterdir()} == {0o600}
    assert not any("DU1234567" in file.name for file in folder.iterdir())


def test_where_no_claim_can_be_made_the_text_says_what_to_set(tmp_path):
    """It is not ignored: two daemons under one id would harm each other."""
    (tmp_path / "file").write_text("")
    with pytest.raises(Unfit, match="XDG_RUNTIME_DIR"):
        Claims(tmp_path / "file" / "run").gateway("127.0.0.1", 7497, 1)


def test_claims_have_one_place_for_each_user():
    """The runtime folder of the session, or one of our own among the temporary files."""
    assert claims_folder({"XDG_RUNTIME_DIR": "/run/user/7"}, Path("/tmp")) == Path("/run/user/7/ibkr_service")
    assert claims_folder({}, Path("/tmp")) == Path(f"/tmp/ibkr_service-{os.getuid()}")


async def test_a_daemon_at_another_gateway_ends_when_it_learns_whose_account_it_is(tmp_path, folder):
    """It is told after the handshake, before any order could leave; the exit code says that retrying is no use."""
    config = WorldConfig(folder=tmp_path, claims=folder)
    config.session = replace(config.session, mode="paper")
    claims = Claims(folder)
    claims.account("DU1234567", 1)
    async with World(config) as world:
        assert await world.ended() == EXIT_UNUSABLE
        assert world.of(ev.Snapshot) == []
    claims.release()
    async with World(config) as world:
        await world.until_ready()
        with pytest.raises(AlreadyRunning):
            claims.account("DU1234567", 1)
        await world.restart_service()
        await world.until_ready()
    claims.account("DU1234567", 1)
    claims.release()


@pytest.mark.tcp
async def test_a_second_daemon_is_refused_with_another_journal_too(tmp_path):
    """As processes: the second ends with one line and exit code 2, and the first goes on."""
    async with asyncio.timeout(60), process("simulate", "--port", "0") as gateway:
        port = await listening(gateway)
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            prepare(tmp_path / name, port)
        async with process("run", cwd=tmp_path / "one") as one:
            await line_with(one, "Tick")
            async with process("run", cwd=tmp_path / "two") as two:
                _, said = await two.communicate()
            assert two.returncode == EXIT_UNUSABLE
            (line,) = [line for line in said.decode().splitlines() if "another ibkr_service" in line]
            assert f"process {one.pid}" in line
            assert not (tmp_path / "two" / "journal.sqlite").exists()
            await line_with(one, "Tick")
            one.send_signal(signal.SIGTERM)
            assert await one.wait() == 0
