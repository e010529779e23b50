"""A client without a socket, for tests: it writes requests as fields, and keeps the answers as lists of text.

It knows no more of the protocol than a test wants to see: field by field, in the order of the wire.
"""

from collections.abc import Iterable

from ibkr_service.sim.gateway import Gateway
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.orderlayout import CORE, PLACE_TAIL
from ibkr_service.sim.wire import API_PREFIX, Value, frame

AAPL = 265598
MSFT = 272093
EURUSD = 12087792


SEC_TYPE_AT = 2
SPEC_NAMES = (
    "con_id",
    "symbol",
    "sec_type",
    "expiry",
    "strike",
    "right",
    "multiplier",
    "exchange",
    "primary_exchange",
    "currency",
    "local_symbol",
    "trading_class",
)
PLAIN_ORDER: dict[str, Value] = {
    "action": "BUY",
    "totalQuantity": 100,
    "orderType": "MKT",
    "transmit": 1,
    "exemptCode": -1,
}
EMPTY_GROUPS: dict[str, list[Value]] = {
    "<deltaNeutralContract>": [0],
    "<conditions>": [0],
    "<versions>": ["", "", "", "", ""],
}
START_CODES = frozenset({2104, 2106, 2158})


def contract(**known: Value) -> list[Value]:
    """The twelve fields of a contract; what is not named is empty."""
    assert set(known) <= set(SPEC_NAMES), known
    return [known.get(name, 0 if name in {"con_id", "strike"} else "") for name in SPEC_NAMES]


def stock(con_id: int = AAPL) -> list[Value]:
    """A stock by its id."""
    return contract(con_id=con_id, sec_type="STK", exchange="SMART", currency="USD")


def forex(con_id: int = EURUSD) -> list[Value]:
    """A currency pair by its id."""
    return contract(con_id=con_id, sec_type="CASH", exchange="IDEALPRO")


def combo(symbol: str = "AAPL") -> list[Value]:
    """A combo; its legs go with the order."""
    return contract(symbol=symbol, sec_type="BAG", exchange="SMART", currency="USD")


def frames(data: bytes) -> list[list[str]]:
    """Cut a server's bytes into messages."""
    messages: list[list[str]] = []
    while data:
        length = int.from_bytes(data[:4], "big")
        payload, data = data[4 : 4 + length], data[4 + length :]
        assert len(payload) == length
        assert payload.endswith(b"\0")
        messages.append(payload.decode().split("\0")[:-1])
    return messages


class RawClient:
    """One connection to a gateway; with `chunk` its bytes arrive in pieces of that size."""

    def __init__(
        self, gateway: Gateway, client_id: int | None = 1, versions: str = "v157..176", chunk: int = 0
    ) -> None:
        self._chunks: list[bytes] = []
        self.is_closed = False
        self._chunk = chunk
        self.session = gateway.connect(self)
        hello = versions.encode()
        self.write(API_PREFIX + len(hello).to_bytes(4, "big") + hello)
        if client_id is not None:
            self.ask(Request.START_API, 2, client_id, "")

    # The gateway's peer.

    def send(self, data: bytes) -> None:
        """Keep what the gateway says."""
        self._chunks.append(data)

    def close(self) -> None:
        """The gateway has hung up."""
        self.is_closed = True

    # Requests.

    def write(self, data: bytes) -> None:
        """Send raw bytes."""
        step = self._chunk or len(data) or 1
        for start in range(0, len(data), step):
            self.session.receive(data[start : start + step])

    def ask(self, *values: Value) -> None:
        """Send one request: its id, and its fields."""
        self.write(frame(*values))

    def place(
        self,
        order_id: int,
        instrument: Iterable[Value] | None = None,
        legs: Iterable[Iterable[Value]] = (),
        **known: Value,
    ) -> None:
        """Place a market order to buy 100 shares of AAPL, unless said otherwise; fields have their official names."""
        fields = list(stock() if instrument is None else instrument)
        values: dict[str, Value] = {**PLAIN_ORDER, **known}
        assert set(values) <= {*CORE, *PLACE_TAIL}, values
        fields += [values.get(name, "") for name in CORE]
        if fields[SEC_TYPE_AT] == "BAG":
            rows = [[*leg, 0, 0, "", -1] for leg in legs]
            fields += [len(rows), *(value for row in rows for value in row), 0, 0]
        for name in PLACE_TAIL:
            fields += EMPTY_GROUPS.get(name, []) if name.startswith("<") else [values.get(name, "")]
        self.ask(Request.PLACE_ORDER, order_id, *fields)

    # Answers.

    @property
    def data(self) -> bytes:
        """Every byte so far."""
        return b"".join(self._chunks)

    @property
    def messages(self) -> list[list[str]]:
        """Every message so far, the handshake's answer first."""
        return frames(self.data)

    def of(self, answer: int) -> list[list[str]]:
        """All messages of a kind."""
        return [message for message in self.messages[1:] if message[0] == str(int(answer))]

    def errors(self) -> list[tuple[int, int]]:
        """Ids and codes of all errors, the notices at the start left out."""
        pairs = [(int(message[2]), int(message[3])) for message in self.of(Answer.ERROR)]
        return [pair for pair in pairs if pair[1] not in START_CODES]

    def statuses(self, order_id: int) -> list[str]:
        """The statuses of an order, one after the other."""
        return [message[2] for message in self.of(Answer.ORDER_STATUS) if message[1] == str(order_id)]

    def forget(self) -> None:
        """Forget every answer so far."""
        handshake = self.messages[0]
        self._chunks = [frame(*handshake)]
