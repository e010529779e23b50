"""Logging: one format for all, no account number on any line, and the libraries' errors are heard."""

from __future__ import annotations

import io
import json
import logging
import warnings
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal

import pytest
import structlog

from ibkr_service import log

SECRET = "hunter2"
NOON = datetime(2026, 11, 23, 12, 0, 0, 123456, tzinfo=UTC)


class Terminal(io.StringIO):
    """A stream with a person behind it."""

    def isatty(self):
        return True


@pytest.fixture
def stream():
    """Somewhere to log to; what was configured is undone."""
    yield io.StringIO()
    log.reset()


def lines(stream):
    """Parse what was logged as JSON."""
    return [json.loads(line) for line in stream.getvalue().splitlines()]


# --- format ----------------------------------------------------------------------------------------------------------


def test_json_lines(stream):
    """One object a line: time, level, logger and event lead, then what was bound and passed."""
    log.configure("info", "json", stream, lambda: NOON)
    structlog.get_logger("ibkr_service.hub").bind(strategy="sma").info("order sent", quantity=Decimal("1.50"), n=3)
    (line,) = stream.getvalue().splitlines()
    assert line == (
        '{"time": "2026-11-23T12:00:00.123Z", "level": "info", "logger": "ibkr_service.hub", '
        '"event": "order sent", "strategy": "sma", "quantity": "1.50", "n": 3}'
    )


def test_time_is_utc(stream):
    """Whatever zone `now` tells, the line is in UTC."""
    log.configure("info", "json", stream, lambda: NOON.astimezone(timezone(timedelta(hours=-5))))
    structlog.get_logger("x").info("hello")
    assert lines(stream)[0]["time"] == "2026-11-23T12:00:00.123Z"


def test_no_time_without_a_clock(stream):
    """Without `now` there is no stamp: none is invented."""
    log.configure("info", "json", stream)
    structlog.get_logger("x").info("hello")
    assert lines(stream) == [{"level": "info", "logger": "x", "event": "hello"}]


@pytest.mark.parametrize(
    ("format_", "stream_type", "is_json"),
    [
        ("auto", io.StringIO, True),
        ("auto", Terminal, False),
        ("json", Terminal, True),
        ("console", io.StringIO, False),
    ],
)
def test_people_read_a_terminal_machines_the_rest(stream, format_, stream_type, is_json):
    """`auto` looks at the stream; the other two do not."""
    target = stream_type()
    log.configure("info", format_, target, lambda: NOON)
    structlog.get_logger("x").info("hello", answer=42)
    assert target.getvalue().startswith("{") is is_json
    assert "answer" in target.getvalue()
    assert ("\x1b[" in target.getvalue()) is (stream_type is Terminal and not is_json)


def test_console_lines_are_key_value(stream):
    """A person sees time, level, event, logger, and key=value."""
    log.configure("info", "console", stream, lambda: NOON)
    structlog.get_logger("hub").warning("link lost", code=1100)
    assert stream.getvalue().split() == [
        "2026-11-23T12:00:00.123Z",
        "[warning",
        "]",
        "link",
        "lost",
        "[hub]",
        "code=1100",
    ]


def fail(secret):
    """Raise where a secret is a local variable."""
    raise ValueError(f"account DU1234567 has a secret of {len(secret)} letters")


@pytest.mark.parametrize("format_", ["json", "console"])
def test_exceptions_show_their_trace_and_no_variables(stream, format_):
    """The traceback is there; the local variables, where secrets live, are not."""
    log.configure("info", format_, stream)
    try:
        fail(SECRET)
    except ValueError:
        structlog.get_logger("x").exception("failed")
    text = stream.getvalue()
    assert "Traceback (most recent call last)" in text
    assert "ValueError: account DU…567 has a secret of 7 letters" in text
    assert SECRET not in text


def test_context_variables_are_on_every_line(stream):
    """What is bound to the task is said by its lines."""
    log.configure("info", "json", stream)
    with structlog.contextvars.bound_contextvars(session=7):
        structlog.get_logger("x").info("hello")
    assert lines(stream)[0]["session"] == 7


# --- levels and libraries --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("level", "ours", "library"),
    [
        ("debug", ["debug", "info", "warning", "error"], ["debug", "info", "warning", "error"]),
        ("info", ["info", "warning", "error"], ["warning", "error"]),
        ("warning", ["warning", "error"], ["warning", "error"]),
        ("error", ["error"], ["error"]),
    ],
)
def test_levels(stream, level, ours, library):
    """ib_insync stays at warning, since its INFO prints positions, unless somebody debugs."""
    log.configure(level, "json", stream)
    for name in ("debug", "info", "warning", "error"):
        getattr(structlog.get_logger("ibkr_service"), name)("x")
        getattr(logging.getLogger("ib_insync.Decoder"), name)("x")
    seen = [(line["logger"], line["level"]) for line in lines(stream)]
    assert [level for logger, level in seen if logger == "ibkr_service"] == ours
    assert [level for logger, level in seen if logger == "ib_insync.Decoder"] == library


def test_what_the_service_says_itself_is_not_said_twice(stream):
    """The library logs each broker message and each failed connect as errors; we have them as facts."""
    log.configure("info", "json", stream)
    logging.getLogger("ib_insync.wrapper").error("Error 200, reqId 3")
    logging.getLogger("ib_insync.client").error("API connection failed")
    assert lines(stream) == []


def test_library_lines_look_like_ours(stream):
    """Records of the standard library go the same way, with arguments and traces."""
    log.configure("info", "json", stream, lambda: NOON)
    logging.getLogger("eventkit").error("Value %s caused an error", 3, exc_info=ValueError("x"))
    (line,) = lines(stream)
    assert list(line) == ["time", "level", "logger", "event", "exception"]
    assert (line["logger"], line["event"]) == ("eventkit", "Value 3 caused an error")


def test_warnings_are_logged(stream):
    """Python's own warnings appear as lines of py.warnings."""
    log.configure("info", "json", stream)
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        logging.captureWarnings(capture=True)  # catch_warnings has put back what configure replaced
        warnings.warn("careful", stacklevel=1)
    assert lines(stream)[0]["logger"] == "py.warnings"
    assert "UserWarning: careful" in lines(stream)[0]["event"]


# --- masking ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "masked"),
    [
        ("DU1234567", "DU…567"),
        ("U1234567", "U…567"),
        ("DF1234567 and F7654321", "DF…567 and F…321"),
        ("15,1,DU1234567,DU7654321,", "15,1,DU…567,DU…321,"),
        ("account='U1234567'", "account='U…567'"),
        ("AU1234567 U12 USD 20261123 F2026X order-DU12345678901", None),
    ],
)
def test_accounts_are_masked_as_words(text, masked):
    """Account numbers that stand alone are masked; what only looks a little like one is not."""
    assert log.mask_accounts(text) == (masked or text)


def test_mask_of_one_account():
    """Any form of account shows its letters and three digits."""
    assert log.mask_account("DU1234567") == "DU…567"
    assert log.mask_account("1234567") == "…567"


def test_masking_reaches_everything(stream):
    """Keys, values, nested values, objects' text, arguments: no account number and no secret gets out."""

    class Order:
        def __str__(self):
            return "Order(account='DU1234567')"

    log.configure("debug", "json", stream)
    structlog.get_logger("x").info(
        "of DU1234567",
        order=Order(),
        accounts={"DU1234567": ("DU1234567", 1, None, True, 2.5), "api_token": "hunter2"},
        names={"DU1234567"},
        password="hunter2",
    )
    logging.getLogger("ib_insync.client").debug(">>> %s", "6,2,1,DU1234567")
    assert "1234567" not in stream.getvalue()
    assert "hunter2" not in stream.getvalue()
    first, second = lines(stream)
    assert first["accounts"] == {"DU…567": ["DU…567", 1, None, True, 2.5], "api_token": "***"}
    assert first["password"] == "***"
    assert first["order"] == "Order(account='DU…567')"
    assert second["event"] == ">>> 6,2,1,DU…567"


# --- set-up and its end ----------------------------------------------------------------------------------------------


def test_configure_again_replaces(stream):
    """A second set-up does not double the lines; loggers made before follow it."""
    early = structlog.get_logger("early")
    log.configure("info", "json", stream)
    early.info("one")
    other = io.StringIO()
    log.configure("warning", "json", other)
    early.info("two")
    early.warning("three")
    assert [line["event"] for line in lines(stream)] == ["one"]
    assert [line["event"] for line in lines(other)] == ["three"]


def test_reset_leaves_nothing(stream):
    """Levels, handlers, warnings and structlog are as before."""

    def state():
        root, library = logging.getLogger(), logging.getLogger("ib_insync")
        return root.level, list(root.handlers), library.level, warnings.showwarning, structlog.is_configured()

    before = state()
    log.configure("debug", "json", stream)
    log.configure("error", "console", stream)
    assert state() != before
    log.reset()
    log.reset()
    assert state() == before


@pytest.mark.parametrize(("level", "format_"), [("loud", "json"), ("info", "xml")])
def test_what_does_not_exist_is_refused(level, format_):
    """A wrong word changes nothing."""
    with pytest.raises(ValueError, match="no such log level or format"):
        log.configure(level, format_)
    assert not structlog.is_configured()


def test_standard_error_is_the_default(capsys):
    """Results go to standard output, so lines do not."""
    log.configure("info", "json")
    try:
        structlog.get_logger("x").info("hello")
    finally:
        log.reset()
    captured = capsys.readouterr()
    assert captured.out == ""
    assert json.loads(captured.err)["event"] == "hello"


# --- alarms ----------------------------------------------------------------------------------------------------------


def test_alarms_hear_errors_of_libraries_only():
    """ERROR and above of ib_insync, eventkit and asyncio, at any depth; nothing of ours, nothing below."""
    heard = []
    with log.library_alarms(lambda name, text: heard.append((name, text))):
        logging.getLogger("ib_insync.Decoder").error("Error handling fields: %s", ["11", "DU1234567"])
        logging.getLogger("eventkit").critical("stop")
        logging.getLogger("asyncio").error("Task exception", exc_info=ValueError("U1234567"))
        logging.getLogger("ib_insync.wrapper").warning("below")
        logging.getLogger("ibkr_service.hub").error("ours")
    logging.getLogger("ib_insync").error("too late")
    assert heard == [
        ("ib_insync.Decoder", "Error handling fields: ['11', 'DU…567']"),
        ("eventkit", "stop"),
        ("asyncio", "Task exception: ValueError('U…567')"),
    ]


def test_alarms_hear_what_is_not_printed(stream):
    """The level of the log does not decide what is heard."""
    heard = []
    log.configure("error", "json", stream)
    with log.library_alarms(lambda *call: heard.append(call)):
        logging.getLogger("ib_insync.client").error("x")
    assert heard == [("ib_insync.client", "x")]


def test_an_alarm_never_raises(monkeypatch):
    """Neither a sink that fails nor a record that cannot be formatted disturbs the library."""
    monkeypatch.setattr(logging, "raiseExceptions", False)  # pytest's own handlers complain of the record below
    heard = []
    too_few = (1,)

    def sink(name, text):
        heard.append(text)
        raise RuntimeError("sink")

    with log.library_alarms(sink):
        logging.getLogger("eventkit").error("one")
        logging.getLogger("eventkit").error("%d arguments of %d", *too_few)
        logging.getLogger("eventkit").error("two")
    assert heard[0] == "one"
    assert heard[-1] == "two"


def test_alarms_end_with_an_error_too():
    """The handler is taken off when the block fails; attach and detach can be used alone."""

    def handlers():
        return [list(logging.getLogger(name).handlers) for name in log.ALARMING]

    before = handlers()
    with pytest.raises(KeyError), log.library_alarms(print):
        raise KeyError
    assert handlers() == before
    alarm = log.LibraryAlarm(print)
    log.attach(alarm)
    assert handlers() != before
    log.detach(alarm)
    log.detach(alarm)
    assert handlers() == before
