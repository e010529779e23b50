"""One client's conversation: a state machine from the first byte to the last.

    GREETING ── Hello ──▶ STARTING ── startApi ──▶ RUNNING
        └──────────────────────┴── bad bytes, clash, too fast, gone ──▶ CLOSED

It knows the client's id, version and subscriptions; what requests mean is the gateway's business. A client that breaks
the framing is dropped, one that writes nonsense into a field is told so: others notice neither.
"""

from collections import deque
from collections.abc import Callable
from enum import Enum
from typing import TYPE_CHECKING, Final, Protocol

from ibkr_service.sim import answers
from ibkr_service.sim.accounts import Account
from ibkr_service.sim.messages import SERVER_VERSION_MAX, SERVER_VERSION_MIN, Request
from ibkr_service.sim.rules import Refused
from ibkr_service.sim.wire import FieldError, Fields, Hello, Inbound, WireError, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

PACE_WINDOW_S: Final = 0.9
"""Less than the second in which a client counts: its next burst may come before we have read all of the last."""

PACE_STRIKES_MAX: Final = 3
"""IB warns a client that is too fast (error 100) and disconnects it when it insists."""

START_API_FIELDS: Final = 2
STREAMS_MAX: Final = 1_000
"""Subscriptions of one client, of all kinds: so that one that asks and asks costs no more than this."""


class State(Enum):
    """Where the conversation is."""

    GREETING = "greeting"
    STARTING = "starting"
    RUNNING = "running"
    CLOSED = "closed"


class Peer(Protocol):
    """The client's end of the line, whatever it is made of."""

    def send(self, data: bytes) -> None:
        """Pass bytes on."""

    def close(self) -> None:
        """Hang up after what was sent."""


class Stream:
    """A subscription of a client; subclasses say what it sends and when."""

    is_market_data = False

    def close(self) -> None:
        """Send nothing more."""

    def account_changed(self, account: Account, con_ids: list[int]) -> None:
        """A fill has changed an account's cash and these positions."""


class Session:
    """A connected client."""

    def __init__(self, gateway: "Gateway", peer: Peer) -> None:
        self._gateway = gateway
        self._peer = peer
        self._inbound = Inbound()
        self._arrived_s = 0.0
        self._sent_at_s: deque[float] = deque()
        self._strikes = 0
        self.state = State.GREETING
        self.version = SERVER_VERSION_MAX
        self.client_id = -1
        self.market_data_type = 1
        self.streams: dict[tuple[str, int], Stream] = {}
        self.is_deaf = False
        """Whether its requests are swallowed, all of them, while everything else goes on."""

    def __repr__(self) -> str:
        return f"<Session {self.client_id} {self.state.value} [{len(self.streams)} streams]>"

    # What the client's end of the line tells us.

    def receive(self, data: bytes) -> None:
        """Take bytes, cut anywhere."""
        if self.state is State.CLOSED:
            return
        self._inbound.feed(data)
        self._arrived_s = self._gateway.clock.loop_seconds()
        # The table looks at the state before each step: after the end whatever is left is ignored.
        try:
            for item in self._inbound.received():
                _STEPS[self.state](self, item)
        except WireError:
            self.close()

    def lost(self) -> None:
        """The client is gone: its subscriptions end, its orders live on."""
        self.state = State.CLOSED
        self._gateway.leave(self)
        for stream in list(self.streams.values()):
            stream.close()
        self.streams.clear()

    # What we tell the client.

    def send(self, message: bytes) -> None:
        """Send one message, unless it is lost on purpose."""
        misfortunes = self._gateway.misfortunes
        if self.state is not State.CLOSED and not (misfortunes.lost_answers and misfortunes.loses(message)):
            self._peer.send(message)

    def send_all(self, messages: list[bytes]) -> None:
        """Send several messages, in one piece where none is to be lost."""
        if self._gateway.misfortunes.lost_answers:
            for message in messages:
                self.send(message)
        elif self.state is not State.CLOSED:
            self._peer.send(b"".join(messages))

    def error(self, req_id: int, code: int, text: str) -> None:
        """Send an error or a notice."""
        self.send(answers.error(req_id, code, text, self.version))

    def close(self) -> None:
        """Hang up."""
        if self.state is not State.CLOSED:
            self.lost()
            self._peer.close()

    # Subscriptions.

    def open_stream(self, kind: str, stream_id: int, stream: Stream) -> None:
        """Remember a subscription; one of the same kind and id ends.

        Raises:
            Refused: the client has too many.
        """
        self.close_stream(kind, stream_id)
        if len(self.streams) >= STREAMS_MAX:
            stream.close()
            raise Refused(322, "Error processing request.-'bU' : cause - Maximum number of subscriptions exceeded")
        self.streams[kind, stream_id] = stream

    def close_stream(self, kind: str, stream_id: int) -> bool:
        """End a subscription; whether there was one."""
        stream = self.streams.pop((kind, stream_id), None)
        if stream is not None:
            stream.close()
        return stream is not None

    # The steps of the conversation.

    def _greet(self, item: Hello | tuple[str, ...]) -> None:
        assert isinstance(item, Hello), "the first thing received is the handshake"
        if item.version_max < SERVER_VERSION_MIN or item.version_min > SERVER_VERSION_MAX:
            self.close()
            return
        self.version = min(SERVER_VERSION_MAX, item.version_max)
        self.state = State.STARTING
        self.send(frame(self.version, self._gateway.login_time()))

    def _start(self, item: Hello | tuple[str, ...]) -> None:
        assert not isinstance(item, Hello), "there is one handshake"
        if not item or item[0] != str(int(Request.START_API)):
            self.error(-1, 504, "Not connected")
            return
        try:
            client_id = Fields(item[START_API_FIELDS:]).whole()
        except FieldError:
            self.close()
            return
        self.client_id = client_id
        self.state = State.RUNNING
        self._gateway.join(self)

    def _request(self, item: Hello | tuple[str, ...]) -> None:
        assert not isinstance(item, Hello), "there is one handshake"
        if self._is_in_pace():
            self._gateway.dispatch(self, item)

    def _is_in_pace(self) -> bool:
        # What arrives in one piece was sent together, however long the answers to its first part take.
        limit, now_s = self._gateway.config.requests_per_second_max, self._arrived_s
        if not limit:
            return True
        sent = self._sent_at_s
        while sent and now_s - sent[0] >= PACE_WINDOW_S:
            sent.popleft()
        sent.append(now_s)
        if len(sent) <= limit:
            return True
        self._strikes += 1
        text = f"Max rate of messages per second has been exceeded:max={limit} rec={len(sent)} ({self._strikes})"
        self.error(-1, 100, text)
        sent.clear()
        if self._strikes >= PACE_STRIKES_MAX:
            self.close()
        return self.state is State.RUNNING


def _ignore(_session: Session, _item: Hello | tuple[str, ...]) -> None:
    """Whatever still arrives after the end."""


_STEPS: Final[dict[State, Callable[[Session, Hello | tuple[str, ...]], None]]] = {
    State.GREETING: Session._greet,  # noqa: SLF001  the table belongs to the class
    State.STARTING: Session._start,  # noqa: SLF001  same
    State.RUNNING: Session._request,  # noqa: SLF001  same
    State.CLOSED: _ignore,
}
