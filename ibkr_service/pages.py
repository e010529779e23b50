"""The heap in large pages, where the kernel has them.

What an order touches on its way lies scattered over the heap, and orders come seldom: each time the processor has to
find some hundred pages of 4 KiB again. In pages of 2 MiB the same memory is found sooner (docs/performance.md has the
figure). Linux 6.1 and later gathers them on request (`MADV_COLLAPSE`, madvise(2)); where it does not, all stays as it
is, and nothing depends on it.
"""

from __future__ import annotations

import ctypes
from collections.abc import Iterable, Iterator
from pathlib import Path

COLLAPSE = 25  # of madvise; Python's mmap has no name for it
HEAP = "[heap]"
SETTINGS = Path("/sys/kernel/mm/transparent_hugepage")
MAPS = Path("/proc/self/maps")


def gather(settings: Path = SETTINGS) -> int:
    """Gather the memory of this process in large pages; returns how many there are now, 0 where that is not possible.

    Takes some milliseconds for each new one, in which other threads run. Who has forbidden large pages on his machine
    (`never`) is obeyed.
    """
    try:
        size = int((settings / "hpage_pmd_size").read_text())
        if "[never]" in (settings / "enabled").read_text():
            return 0
        pieces = list(whole_pages(MAPS.read_text().splitlines(), size))
        advise = ctypes.CDLL(None).madvise
    except (OSError, ValueError, AttributeError):  # another system, or one that shows less of itself
        return 0
    advise.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
    return sum(advise(address, size, COLLAPSE) == 0 for address in pieces)


def whole_pages(maps: Iterable[str], size: int) -> Iterator[int]:
    """Where large pages of the process's own memory could begin.

    Args:
        maps: lines of /proc/self/maps, proc(5). size: of a large page, in bytes; they lie at its multiples.
    """
    for line in maps:
        region, rights, _, _, inode, *name = line.split(maxsplit=5)
        is_own = rights == "rw-p" and inode == "0" and (not name or name[0] == HEAP)
        if is_own:
            begin, end = (int(address, 16) for address in region.split("-"))
            first = -(-begin // size) * size
            yield from range(first, end - size + 1, size)
