"""A copy of the journal that can be trusted, made while the service writes.

SQLite's online backup reads one moment of the file; in WAL mode nobody who writes has to wait for it
(https://www.sqlite.org/backup.html). The copy appears under its name when it has been opened and checked, not before.
"""

from __future__ import annotations

import os
import sqlite3
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from ibkr_service.core.errors import JournalError
from ibkr_service.journal import open_readonly


@dataclass(frozen=True)
class Backup:
    """What a copy holds: the number of its last fact, when that was learned (UTC, ISO 8601), its size in bytes."""

    seq: int
    at: str
    size: int


def back_up(journal: Path, target: Path) -> Backup:
    """Copy a journal to a file of its own, readable by the owner alone; nothing is overwritten.

    Raises:
        JournalError: there is no journal, the target exists or cannot be written, or the copy is not sound.
    """
    part = target.with_name(f".{target.name}.part")
    try:
        with closing(open_readonly(journal)) as source:
            _reserve(target)
            try:
                _reserve(part)
                with closing(sqlite3.connect(part)) as copy:
                    source.backup(copy)  # in one step: of several, each would begin again after a write
                    found = _checked(copy)
                _to_disk(part)
                part.replace(target)
            except BaseException:
                target.unlink(missing_ok=True)
                raise
            finally:
                for left in ("", "-wal", "-shm", "-journal"):
                    Path(f"{part}{left}").unlink(missing_ok=True)
            _to_disk(target.parent)
    except FileExistsError as exc:
        raise JournalError(f"{exc.filename} exists: nothing is overwritten, choose another name") from exc
    except OSError as exc:
        raise JournalError(f"cannot write {target}: {exc.strerror or exc}") from exc
    except sqlite3.Error as exc:
        raise JournalError(f"cannot copy journal {journal} to {target}: {exc}") from exc
    return Backup(*found, size=target.stat().st_size)


def _reserve(path: Path) -> None:
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600))


def _checked(copy: sqlite3.Connection) -> tuple[int, str]:
    """Prove that a copy can be used, and make it one file."""
    copy.execute("PRAGMA journal_mode=DELETE")
    if (verdict := copy.execute("PRAGMA integrity_check(1)").fetchone()[0]) != "ok":
        raise sqlite3.DatabaseError(f"the copy is not sound: {verdict}")
    last: tuple[int, str] | None = copy.execute("SELECT seq, at FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    return last or (0, "")


def _to_disk(path: Path) -> None:
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)
