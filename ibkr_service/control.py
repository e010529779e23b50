"""The operator's line into a running daemon: JSON lines over a Unix socket beside the journal, for its owner alone.

One request per line, one answer per line, in order. This file knows the line and not what is said on it: a handler is
given each request. Nobody on the line can hold the daemon up: a request has a largest size, a client that says nothing
or does not read is dropped, and there are only so many at a time. docs/control.md has the protocol.
"""

from __future__ import annotations

import asyncio
import os
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import Any, Protocol

import msgspec
import structlog

from ibkr_service.core.errors import ServiceError

log = structlog.get_logger("ibkr_service.control")

REQUEST_MAX = 64 * 1024  # bytes of one request, its newline included
ANSWER_MAX = 16 * 1024 * 1024
IDLE_S = 60.0  # a client that says nothing for so long is dropped
WRITE_S = 5.0  # and one that does not read its answer
CLIENTS_MAX = 8
CONNECT_S = 5.0


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What is asked. `by` names the person, for the log and the journal; `preview`: say only what would be done."""

    verb: str
    by: str = "somebody"
    preview: bool = False


class Answer(msgspec.Struct, frozen=True):
    """What became of it. `text` is for people, a line each; `data` for programs; `error` says why it was not done."""

    ok: bool
    text: tuple[str, ...] = ()
    data: Any = None
    error: str = ""


class NoDaemon(ServiceError):
    """No daemon listens at this socket."""


class ControlFailed(ServiceError):
    """A daemon was there, but gave no answer that can be read; whether it acted is not known."""


Handle = Callable[[Request], Awaitable[Answer]]
_requests = msgspec.json.Decoder(Request)
_answers = msgspec.json.Decoder(Answer)


class Writer(Protocol):
    """What a conversation needs of a stream to write on."""

    def write(self, data: bytes) -> None:
        """Queue."""
        ...

    async def drain(self) -> None:
        """Wait until there is room."""
        ...


def socket_path(journal: Path) -> Path:
    """Where the daemon of a journal listens."""
    return journal.with_suffix(".sock")


# --- the daemon's side -----------------------------------------------------------------------------------------------


async def converse(reader: asyncio.StreamReader, writer: Writer, handle: Handle) -> None:
    """Answer one client until it leaves, says nothing, or does not read."""
    with suppress(ConnectionError, TimeoutError):
        while True:
            try:
                async with asyncio.timeout(IDLE_S):
                    line = await reader.readuntil(b"\n")
            except asyncio.IncompleteReadError:
                return
            except asyncio.LimitOverrunError:
                await _write(writer, Answer(ok=False, error=f"a request has at most {REQUEST_MAX} bytes"))
                return
            await _write(writer, await _answered(line, handle))


async def _answered(line: bytes, handle: Handle) -> Answer:
    try:
        request = _requests.decode(line)
    except msgspec.MsgspecError as exc:
        return Answer(ok=False, error=f"cannot read the request: {exc}")
    try:
        return await handle(request)
    except ServiceError as exc:
        return Answer(ok=False, error=str(exc))
    except Exception as exc:  # noqa: BLE001 - a defect behind one verb must end neither the line nor the daemon
        log.error("control request failed", verb=request.verb, error=repr(exc))
        return Answer(ok=False, error=f"a defect: {exc!r}")


async def _write(writer: Writer, answer: Answer) -> None:
    async with asyncio.timeout(WRITE_S):
        writer.write(msgspec.json.encode(answer) + b"\n")
        await writer.drain()


@asynccontextmanager
async def listening(path: Path, handle: Handle) -> AsyncIterator[None]:
    """Serve the operator for as long as the context lasts. Where no socket can be made, say so and go on without.

    The journal's lock says that no other daemon listens here, so what is left of an earlier one is removed.
    """
    try:
        listener = _listener(path)
    except OSError as exc:
        log.error("no control socket: the operator's commands will not work", path=str(path), error=str(exc))
        yield
        return
    async with asyncio.TaskGroup() as clients:
        served: set[asyncio.Task[None]] = set()

        def on_client(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if len(served) >= CLIENTS_MAX:
                writer.transport.abort()
                return
            task = clients.create_task(_serve(reader, writer, handle), name="control:client")
            served.add(task)
            task.add_done_callback(served.discard)

        try:
            server = await asyncio.start_unix_server(on_client, sock=listener, limit=REQUEST_MAX)
        except NotImplementedError:  # not on every platform, and not in virtual time
            log.warning("no control socket: this event loop has none; the operator's commands will not work")
            server = None
            listener.close()
        try:
            yield
        finally:
            if server is not None:
                server.close()
            for task in tuple(served):
                task.cancel()
            _remove(path)


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)


async def _serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, handle: Handle) -> None:
    try:
        await converse(reader, writer, handle)
    finally:
        writer.transport.abort() if _is_stuck(writer) else writer.close()


def _is_stuck(writer: asyncio.StreamWriter) -> bool:
    return writer.transport.get_write_buffer_size() > 0


def _listener(path: Path) -> socket.socket:
    """A socket that only its owner can open, from the first moment."""
    _remove(path)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    before = os.umask(0o177)
    try:
        listener.bind(os.fspath(path))
    except BaseException:
        listener.close()
        raise
    finally:
        os.umask(before)
    return listener


# --- the operator's side ---------------------------------------------------------------------------------------------


async def ask(path: Path, request: Request, timeout_s: float) -> Answer:
    """Ask the daemon that listens at a socket.

    Raises:
        NoDaemon: none does. ControlFailed: it was asked, and gave no answer.
    """
    try:
        async with asyncio.timeout(CONNECT_S):
            reader, writer = await asyncio.open_unix_connection(path, limit=ANSWER_MAX)
    except (OSError, TimeoutError) as exc:
        raise NoDaemon(f"no daemon listens at {path}") from exc
    try:
        writer.write(msgspec.json.encode(request) + b"\n")
        async with asyncio.timeout(timeout_s):
            await writer.drain()
            return _answers.decode(await reader.readuntil(b"\n"))
    except (OSError, EOFError, TimeoutError, asyncio.LimitOverrunError, msgspec.MsgspecError) as exc:
        raise ControlFailed(
            f"the daemon was asked to {request.verb}, but gave no answer ({type(exc).__name__}): ask for its status"
        ) from exc
    finally:
        writer.close()
