"""Bars as a file: CSV or Parquet, whole or not at all.

The columns are those of `Bar`: `at` (when the bar begins, UTC; a date for bars of a day or more), `open`, `high`,
`low`, `close`, `volume`, `average`, `count`. What the market does not have is an empty field, or null.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from ibkr_service.core.bars import Bar
from ibkr_service.core.errors import InvalidRequest

COLUMNS = Bar.__struct_fields__


def check_file(path: Path) -> None:
    """Whether bars can be written there, before they are fetched.

    Raises:
        InvalidRequest: neither .csv nor .parquet, no such folder, or pyarrow is not installed.
    """
    if path.suffix not in {".csv", ".parquet"}:
        raise InvalidRequest(f"{path}: write bars to a file that ends in .csv or .parquet")
    if not path.parent.is_dir():
        raise InvalidRequest(f"{path}: there is no folder {path.parent}")
    if path.suffix == ".parquet" and find_spec("pyarrow") is None:
        raise InvalidRequest(f"{path}: Parquet needs pyarrow, which comes with pip install 'ibkr-service[parquet]'")


def write_bars(path: Path, bars: Sequence[Bar]) -> None:
    """Write bars under this name, in place of what there was; nobody ever sees half a file.

    Raises:
        OSError: the disk said no; what there was is still there.
    """
    part = path.with_name(f".{path.name}.{os.getpid()}.part")  # beside it: a rename does not cross file systems
    try:
        (_write_parquet if path.suffix == ".parquet" else _write_csv)(part, bars)
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def _write_csv(path: Path, bars: Sequence[Bar]) -> None:
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(COLUMNS)
        for bar in bars:
            at = f"{bar.at:%Y-%m-%dT%H:%M:%SZ}" if isinstance(bar.at, datetime) else bar.at.isoformat()
            rows.writerow([at, *(getattr(bar, name) for name in COLUMNS[1:])])


def _write_parquet(path: Path, bars: Sequence[Bar]) -> None:
    import pyarrow as pa  # noqa: PLC0415 - the optional extra "parquet"
    from pyarrow import parquet  # noqa: PLC0415 - same

    daily = bool(bars) and not isinstance(bars[0].at, datetime)
    kinds = {"at": pa.date32() if daily else pa.timestamp("us", tz="UTC"), "count": pa.int64()}
    columns = {name: pa.array([getattr(bar, name) for bar in bars], kinds.get(name, pa.float64())) for name in COLUMNS}
    parquet.write_table(pa.table(columns), path)
