"""A sample of the campaign that kills the daemon while it trades; `make crash` has more of it."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path

import pytest

pytestmark = pytest.mark.tcp

ROOT = Path(__file__).parents[1]
KILLS = 20


async def test_twenty_kills_lose_nothing_and_double_nothing():
    """Ten at random moments, ten at named points; the last line is the verdict, and the exit code agrees."""
    command = [sys.executable, "-m", "tests.crash.run", "--rounds", str(KILLS), "--seed", "1"]
    campaign = await asyncio.create_subprocess_exec(
        *command, cwd=ROOT, env={**os.environ, "PYTHONPATH": str(ROOT)}, stdout=asyncio.subprocess.PIPE
    )
    try:
        out, _ = await campaign.communicate()
    finally:
        if campaign.returncode is None:
            campaign.kill()
    text = out.decode()
    assert campaign.returncode == 0, text
    assert text.splitlines()[-1] == f"crash: {KILLS} kills (10 random, 10 at named points), 0 failed"
