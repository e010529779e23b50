"""Logging: one road for our own lines and those of the libraries, and no account number on it.

structlog's loggers write into the standard library's, and one handler at the root renders both: key=value lines for
people at a terminal, JSON lines for machines otherwise. The last stop before the renderer masks account numbers and
secrets in whatever was logged, so that nobody has to remember to.

A library that logs an error has often swallowed an exception of ours, or lost data (`ib_insync.Decoder`).
`LibraryAlarm` passes such records on as calls, so that the service can act on them.

The time comes from the `now` that is passed in: this file reads no clock.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from typing import Final, TextIO

import structlog
from structlog.typing import EventDict, Processor, WrappedLogger

ALARMING: Final = ("ib_insync", "eventkit", "asyncio")  # their errors are ours
QUIET: Final = "ib_insync"  # its INFO lines print positions and account numbers, one for each update
# Their errors are the broker's messages and failed connects; the service says the same once, as facts of its own.
REPEATING: Final = ("ib_insync.client", "ib_insync.wrapper")
LEADING: Final = ("time", "level", "logger", "event")

_ACCOUNT: Final = re.compile(r"\b(?:D?[FIU])\d{5,9}\b")  # DU1234567, U1234567, DF…, F…, I…
_SECRET: Final = re.compile("secret|password|passwd|token|credential|^urls$", re.IGNORECASE)


# --- set-up ----------------------------------------------------------------------------------------------------------


def configure(
    level: str = "info",
    format: str = "auto",  # noqa: A002  # the word of the settings
    stream: TextIO | None = None,
    now: Callable[[], datetime] | None = None,
) -> None:
    """Route every log line of the process to one stream. Calling it again replaces what was set before.

    Args:
        level: "debug", "info", "warning" or "error". ib_insync stays at "warning" unless this is "debug".
        format: "console" (key=value), "json" (one object a line), or "auto": console when the stream is a terminal.
        stream: where to; None means standard error.
        now: tells the time, aware; None leaves time stamps to whoever collects the lines.

    Raises:
        ValueError: for a level or format that does not exist.
    """
    number = logging.getLevelNamesMapping().get(level.upper())
    if number is None or format not in ("auto", "console", "json"):
        raise ValueError(f"no such log level or format: {level!r}, {format!r}")
    reset()
    stream = stream or sys.stderr
    terminal = stream.isatty()
    renderer = _json() if format == "json" or (format == "auto" and not terminal) else _console(colors=terminal)
    root = logging.getLogger()
    root.addHandler(_RootHandler(stream, number, _formatter(renderer, now), former_level=root.level))
    root.setLevel(number)
    logging.getLogger(QUIET).setLevel(number if number <= logging.DEBUG else max(number, logging.WARNING))
    logging.captureWarnings(capture=True)
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            structlog.contextvars.merge_contextvars,
            structlog.stdlib.PositionalArgumentsFormatter(),
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,  # a logger made before a new configure() follows it
    )


def reset() -> None:
    """Undo `configure`: the root logger, ib_insync's level, warnings and structlog are as Python made them."""
    root = logging.getLogger()
    for handler in [handler for handler in root.handlers if isinstance(handler, _RootHandler)]:
        root.removeHandler(handler)
        root.setLevel(handler.former_level)
        logging.getLogger(QUIET).setLevel(logging.NOTSET)
        logging.captureWarnings(capture=False)
        structlog.reset_defaults()


class _RootHandler(logging.StreamHandler[TextIO]):
    """Ours among the root's handlers. It filters too: a logger with a level of its own passes the root's by."""

    def __init__(self, stream: TextIO, level: int, formatter: logging.Formatter, *, former_level: int) -> None:
        super().__init__(stream)
        self.setLevel(level)
        self.setFormatter(formatter)
        self.former_level = former_level
        if level > logging.DEBUG:
            self.addFilter(lambda record: record.name not in REPEATING)


def _formatter(renderer: Processor, now: Callable[[], datetime] | None) -> logging.Formatter:
    """Make the road that both kinds of record take, ours and the libraries'."""
    return structlog.stdlib.ProcessorFormatter(
        processors=[
            structlog.stdlib.add_log_level,
            structlog.stdlib.add_logger_name,
            _stamp(now),
            structlog.processors.StackInfoRenderer(),
            structlog.processors.format_exc_info,
            structlog.stdlib.ProcessorFormatter.remove_processors_meta,
            _order,
            _mask_line,
            renderer,
        ],
    )


def _json() -> Processor:
    return structlog.processors.JSONRenderer(ensure_ascii=False)


def _console(*, colors: bool) -> Processor:
    # The plain formatter, since rich's prints the local variables of every frame.
    return structlog.dev.ConsoleRenderer(
        colors=colors, timestamp_key="time", exception_formatter=structlog.dev.plain_traceback
    )


def _stamp(now: Callable[[], datetime] | None) -> Processor:
    def stamp(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
        if now is not None:
            line["time"] = now().astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
        return line

    return stamp


def _order(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    leading = {key: line.pop(key) for key in LEADING if key in line}
    return {**leading, **line}


# --- masking ---------------------------------------------------------------------------------------------------------


def mask_account(account: str) -> str:
    """Show of an account number what tells it from the others: `DU1234567` becomes `DU…567`."""
    letters = re.match("[A-Za-z]*", account)
    return f"{letters[0] if letters else ''}…{account[-3:]}"


def mask_accounts(text: str) -> str:
    """Mask every account number that stands as a word of its own in `text`."""
    return _ACCOUNT.sub(lambda found: mask_account(found[0]), text)


def is_secret(name: str) -> bool:
    """Tell whether a value under this name is nobody's business."""
    return _SECRET.search(name) is not None


def _mask_line(_logger: WrappedLogger, _method: str, line: EventDict) -> EventDict:
    return {key: _mask(key, value) for key, value in line.items()}


def _mask(key: str, value: object) -> object:
    if is_secret(key):
        return "***"
    if value is None or isinstance(value, bool | int | float):
        return value
    if isinstance(value, Mapping):
        return {mask_accounts(str(name)): _mask(str(name), inner) for name, inner in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_mask(key, inner) for inner in value]
    return mask_accounts(str(value))


# --- alarms ----------------------------------------------------------------------------------------------------------


class LibraryAlarm(logging.Handler):
    """Calls `sink(logger_name, text)` for every record of level ERROR and above. Never raises, whatever the sink does.

    The text is one the library meant for people, with the exception's last line when there is one; accounts are masked.
    """

    def __init__(self, sink: Callable[[str, str], object]) -> None:
        super().__init__(logging.ERROR)
        self._sink = sink

    def emit(self, record: logging.LogRecord) -> None:
        """Pass one record on."""
        with suppress(Exception):
            self._sink(record.name, mask_accounts(_alarm_text(record)))


def attach(alarm: LibraryAlarm) -> None:
    """Let the alarm hear ib_insync, eventkit and asyncio."""
    for name in ALARMING:
        logging.getLogger(name).addHandler(alarm)


def detach(alarm: LibraryAlarm) -> None:
    """Undo `attach`; harmless when it was not attached."""
    for name in ALARMING:
        logging.getLogger(name).removeHandler(alarm)


@contextmanager
def library_alarms(sink: Callable[[str, str], object]) -> Iterator[LibraryAlarm]:
    """Hear the libraries' errors for as long as the block lasts."""
    alarm = LibraryAlarm(sink)
    attach(alarm)
    try:
        yield alarm
    finally:
        detach(alarm)


def _alarm_text(record: logging.LogRecord) -> str:
    text = record.getMessage()
    error = record.exc_info[1] if record.exc_info else None
    return f"{text}: {error!r}" if error is not None else text
