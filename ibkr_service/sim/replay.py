"""Recorded prices: a file of quotes, played back on the gateway's clock.

Two formats, told apart by their first line:

* HistData: no header, ``YYYYMMDD HHMMSSmmm,bid,ask,volume``, stamps in New York standard time, UTC-5, the whole year
round;
* TrueFX: header ``timestamp,bid,ask``, stamps in ISO 8601 with their zone (UTC when they have none).

The recording is the clock: the gateway starts at the first stamp. Before it there is no quote; after the last one the
last quote stays. Prices are as recorded, even off the contract's price grid. A file has no sizes: there are a million
on each side.
"""

from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal, InvalidOperation
from pathlib import Path
from typing import Final

from ibkr_service.sim.contracts import Contract
from ibkr_service.sim.quotes import NO_TRADES, Moments, PriceSource, Quote, Trades

RECORDED_SIZE: Final = Decimal(1_000_000)
HISTDATA_ZONE: Final = timezone(timedelta(hours=-5))

_TRUEFX_HEADER = ("timestamp", "bid", "ask")
_COLUMNS_MIN = 3
_PAIR_LETTERS = 6
_HISTDATA_STAMP_LENGTH = 18


class ReplayError(ValueError):
    """A recording cannot be played: which file, which line (from 1; 0 for the file as a whole), and why."""

    def __init__(self, path: Path, line: int, reason: str) -> None:
        super().__init__(f"{path}:{line}: {reason}" if line else f"{path}: {reason}")
        self.path = path
        self.line = line
        self.reason = reason


@dataclass(frozen=True, slots=True)
class ReplayFile:
    """A recording to play, and whose it is: a pair such as ``EUR.USD``, by default what the file's name begins with."""

    path: Path
    instrument: str = ""

    @classmethod
    def parse(cls, text: str) -> "ReplayFile":
        """Read ``path`` or ``EUR.USD=path``, as a command line has it."""
        instrument, equals, path = text.partition("=")
        return cls(Path(path), instrument) if equals else cls(Path(text))

    @property
    def local_symbol(self) -> str:
        """The local symbol of the instrument, ``EUR.USD``.

        Raises:
            ReplayError: the file's name does not begin with six letters, and nobody said whose recording it is.
        """
        letters = (self.instrument or self.path.name[:_PAIR_LETTERS]).replace(".", "").upper()
        if len(letters) != _PAIR_LETTERS or not letters.isalpha():
            raise ReplayError(self.path, 0, "the name does not begin with a currency pair, such as eurusd-")
        return f"{letters[:3]}.{letters[3:]}"


@dataclass(frozen=True, slots=True)
class Recording:
    """The quotes of one instrument; `seconds` since `started_at`, one quote from each stamp to the next."""

    started_at: datetime
    seconds: Sequence[float]
    prices: Sequence[tuple[Decimal, Decimal]]

    @property
    def ended_at(self) -> datetime:
        """The last stamp."""
        return self.started_at + timedelta(seconds=self.seconds[-1])


def load(path: Path) -> Recording:
    """Read a recording.

    Raises:
        ReplayError: the file cannot be read, or a line of it is not a quote or goes back in time.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ReplayError(path, 0, f"cannot be read: {error}") from error
    started_at: datetime | None = None
    seconds = array("d")
    prices: list[tuple[Decimal, Decimal]] = []
    for number, stamp, bid, ask in _rows(path, text.splitlines()):
        started_at = started_at or stamp
        since = (stamp - started_at).total_seconds()
        if seconds and since < seconds[-1]:
            raise ReplayError(path, number, "goes back in time")
        seconds.append(since)
        prices.append((bid, ask))
    if started_at is None:
        raise ReplayError(path, 0, "has no quotes")
    return Recording(started_at, seconds, prices)


def _rows(path: Path, lines: Sequence[str]) -> Iterable[tuple[int, datetime, Decimal, Decimal]]:
    is_truefx = bool(lines) and tuple(cell.strip() for cell in lines[0].split(",")[:3]) == _TRUEFX_HEADER
    parse_stamp = _truefx_stamp if is_truefx else _histdata_stamp
    for number, line in enumerate(lines, start=1):
        if (is_truefx and number == 1) or not line.strip():
            continue
        cells = line.split(",")
        if len(cells) < _COLUMNS_MIN:
            raise ReplayError(path, number, f"expected a stamp, a bid and an ask, not {line[:60]!r}")
        try:
            stamp, bid, ask = parse_stamp(cells[0].strip()), Decimal(cells[1].strip()), Decimal(cells[2].strip())
        except (ValueError, InvalidOperation) as error:
            raise ReplayError(path, number, f"expected a stamp, a bid and an ask, not {line[:60]!r}") from error
        if not (bid.is_finite() and ask.is_finite() and 0 < bid <= ask):
            raise ReplayError(path, number, f"expected 0 < bid <= ask, not {bid} and {ask}")
        yield number, stamp, bid, ask


def _truefx_stamp(text: str) -> datetime:
    stamp = datetime.fromisoformat(text)
    return (stamp if stamp.tzinfo else stamp.replace(tzinfo=UTC)).astimezone(UTC)


def _histdata_stamp(text: str) -> datetime:
    if len(text) != _HISTDATA_STAMP_LENGTH or text[8] != " " or not (text[:8] + text[9:]).isdigit():
        raise ValueError("expected YYYYMMDD HHMMSSmmm")
    return datetime(
        year=int(text[:4]),
        month=int(text[4:6]),
        day=int(text[6:8]),
        hour=int(text[9:11]),
        minute=int(text[11:13]),
        second=int(text[13:15]),
        microsecond=int(text[15:]) * 1000,
        tzinfo=HISTDATA_ZONE,
    ).astimezone(UTC)


class Replay:
    """A price source that plays recordings, and leaves every other instrument to another source.

    Args:
        recordings: by contract id.
        started_at: the date and time of gateway second 0.
        others: prices of whatever was not recorded.
    """

    def __init__(self, recordings: Mapping[int, Recording], started_at: datetime, others: PriceSource) -> None:
        # Stamps become gateway seconds once: adding and subtracting an offset at each look would not meet them exactly.
        self._stamps_s: dict[int, Sequence[float]] = {}
        self._prices = {con_id: recording.prices for con_id, recording in recordings.items()}
        for con_id, recording in recordings.items():
            offset_s = (recording.started_at - started_at).total_seconds()
            self._stamps_s[con_id] = array("d", (offset_s + second for second in recording.seconds))
        self._others = others
        self.ended_s = max(stamps_s[-1] for stamps_s in self._stamps_s.values())
        """The gateway second of the last recorded quote."""

    def quote(self, contract: Contract, at_s: float) -> Quote | None:
        """The recorded quote that holds at a gateway second; None before the first."""
        if contract.con_id not in self._stamps_s:
            return self._others.quote(contract, at_s)
        stamps_s = self._stamps_s[contract.con_id]
        index = bisect_right(stamps_s, at_s) - 1
        if index < 0:
            return None
        bid, ask = self._prices[contract.con_id][index]
        return Quote(stamps_s[index], bid, ask, RECORDED_SIZE, RECORDED_SIZE)

    def next_change(self, contract: Contract, after_s: float) -> float | None:
        """The next recorded stamp."""
        if contract.con_id not in self._stamps_s:
            return self._others.next_change(contract, after_s)
        stamps_s = self._stamps_s[contract.con_id]
        index = bisect_right(stamps_s, after_s)
        return stamps_s[index] if index < len(stamps_s) else None

    def moments(self, contract: Contract, from_s: float, to_s: float) -> Moments | None:
        """When the recorded quotes of a span are the first, the lowest, the highest and the last one."""
        if contract.con_id not in self._stamps_s:
            return self._others.moments(contract, from_s, to_s)
        stamps_s, prices = self._stamps_s[contract.con_id], self._prices[contract.con_id]
        span = range(bisect_left(stamps_s, from_s), bisect_left(stamps_s, to_s))
        if not span:
            return None
        lowest, highest = (choose(span, key=lambda index: sum(prices[index])) for choose in (min, max))
        return Moments(*(stamps_s[index] for index in (span[0], lowest, highest, span[-1])))

    def trades(self, contract: Contract, from_s: float, to_s: float) -> Trades:
        """A recording has quotes, not trades."""
        return NO_TRADES if contract.con_id in self._stamps_s else self._others.trades(contract, from_s, to_s)
