"""The heap in large pages: which memory it is, and that it happens where the kernel can.

Goal: only whole pieces of the process's own memory are gathered, and nothing goes wrong elsewhere. Method: lines as
proc(5) describes them, and the process of this test itself.
"""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from ibkr_service.pages import SETTINGS, gather, whole_pages

MIB = 1 << 20
PAGE = 2 * MIB


def line(begin, end, rights="rw-p", inode=0, name=""):
    return f"{begin:x}-{end:x} {rights} 00000000 00:00 {inode}    {name}".rstrip()


@pytest.mark.parametrize(
    ("maps", "found"),
    [
        ([line(4 * MIB, 8 * MIB)], [4, 6]),
        ([line(3 * MIB, 9 * MIB)], [4, 6]),
        ([line(3 * MIB, 8 * MIB - 4096)], [4]),
        ([line(3 * MIB, 5 * MIB)], []),
        ([line(4 * MIB, 6 * MIB, name="[heap]")], [4]),
        ([line(4 * MIB, 6 * MIB, name="[stack]")], []),
        ([line(4 * MIB, 6 * MIB, name="[anon: of somebody else]")], []),
        ([line(4 * MIB, 6 * MIB, inode=7, name="/var/lib/a journal-ahead")], []),
        ([line(4 * MIB, 6 * MIB, rights="r-xp")], []),
        ([line(4 * MIB, 6 * MIB, rights="rw-s")], []),
        ([line(4 * MIB, 6 * MIB), line(8 * MIB, 10 * MIB)], [4, 8]),
        ([], []),
    ],
)
def test_whole_pieces_of_our_own_memory(maps, found):
    """Private, writable, of no file, and not the stack."""
    assert list(whole_pages(maps, PAGE)) == [begin * MIB for begin in found]


def huge_kib():
    """How much of this process lies in large pages."""
    lines = Path("/proc/self/smaps_rollup").read_text().splitlines()
    return next(int(one.split()[1]) for one in lines if one.startswith("AnonHugePages"))


@pytest.mark.skipif(not sys.platform.startswith("linux") or not SETTINGS.exists(), reason="the kernel has none")
def test_memory_keeps_what_is_in_it():
    """As many large pages as it says; and the same bytes as before."""
    written = bytearray(range(256)) * (8 * MIB // 256)
    count = gather()
    if count == 0:
        pytest.skip("the kernel gathers none")
    assert huge_kib() * 1024 >= count * PAGE
    assert written == bytearray(range(256)) * (8 * MIB // 256)
    assert gather() >= count - 1, "what is gathered stays"


@pytest.mark.parametrize("enabled", ["always madvise [never]\n", None])
def test_who_has_forbidden_them_or_has_none_keeps_small_ones(tmp_path, enabled):
    """No error either way."""
    (tmp_path / "hpage_pmd_size").write_text(str(PAGE))
    if enabled is not None:
        (tmp_path / "enabled").write_text(enabled)
    assert gather(tmp_path) == 0
