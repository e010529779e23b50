"""A client without a socket: it writes requests as fields and keeps the answers as lists of text."""

from collections.abc import Iterable

from ibkr_service.sim.gateway import Gateway
from ibkr_service.sim.orderlayout import CORE, PLACE_TAIL
from ibkr_service.sim.wire import API_PREFIX, Value, frame

AAPL = 265598
MSFT = 272093
EURUSD = 12087792


def contract(**known: Value) -> list[Value]:
    """The twelve fields of a contract; what is not named is empty."""
    names = (
        "con_id symbol sec_type expiry strike right multiplier exchange primary_exchange currency local_symbol trading_class"
    ).split()
    assert set(known) <= set(names), known
    return [known.get(name, 0 if name in {"con_id", "strike"} else "") for name in names]


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
    messages = []
    while data:
        length = int.from_bytes(data[:4], "big")
        payload, data = data[4 : 4 + length], data[4 + length :]
        assert len(payload) == length
        assert payload.endswith(b"\0")
        messages.append(payload.decode().split("\0")[:-1])
    return messages


class RawClient:
    """One connection to a gateway; with `chunk` its bytes arrive in pieces of that size."""

    def __init__(self, gateway: Gateway, client_id: int | None = 1, versions: str = "v157..176", chunk: int = 0) -> None:
        self.data = b""
        self.is_closed = False
        self._chunk = chunk
        self.session = gateway.connect(self)
        hello = versions.encode()
        self.write(API_PREFIX + len(hello).to_bytes(4, "big") + hello)
        if client_id is not None:
            self.ask(71, 2, client_id, "")

    # the gateway's peer

    def send(self, data: bytes) -> None:
        self.data += data

    def close(self) -> None:
        self.is_closed = True

    # requests

    def write(self, data: bytes) -> None:
        step = self._chunk or len(data) or 1
        for start in range(0, len(data), step):
            self.session.receive(data[start : start + step])

    def ask(self, *values: Value) -> None:
        self.write(frame(*values))

    def place(
        self, order_id: int, instrument: Iterable[Value] | None = None, legs: Iterable[Iterable[Value]] = (), **known: Value
    ) -> None:
        """Place a market order to buy 100 shares of AAPL, unless said otherwise."""
        fields = list(stock() if instrument is None else instrument)
        values: dict[str, Value] = {
            "action": "BUY",
            "totalQuantity": 100,
            "orderType": "MKT",
            "transmit": 1,
            "exemptCode": -1,
            **known,
        }
        assert set(values) <= {*CORE, *PLACE_TAIL}, values
        fields += [values.get(name, "") for name in CORE]
        if fields[2] == "BAG":
            rows = [[*leg, 0, 0, "", -1] for leg in legs]
            fields += [len(rows), *(value for row in rows for value in row), 0, 0]
        for name in PLACE_TAIL:
            groups = {"<deltaNeutralContract>": [0], "<conditions>": [0], "<versions>": ["", "", "", "", ""]}
            fields += groups.get(name, []) if name.startswith("<") else [values.get(name, "")]
        self.ask(3, order_id, *fields)

    # answers

    @property
    def messages(self) -> list[list[str]]:
        return frames(self.data)

    def of(self, answer: int) -> list[list[str]]:
        """All messages of a kind."""
        return [message for message in self.messages[1:] if message[0] == str(int(answer))]

    def errors(self) -> list[tuple[int, int]]:
        """Ids and codes of all errors, the notices at the start left out."""
        pairs = [(int(message[2]), int(message[3])) for message in self.of(4)]
        return [pair for pair in pairs if pair not in {(-1, 2104), (-1, 2106), (-1, 2158)}]

    def statuses(self, order_id: int) -> list[str]:
        """The statuses of an order, one after the other."""
        return [message[2] for message in self.of(3) if message[1] == str(order_id)]

    def forget(self) -> None:
        """Forget every answer so far."""
        handshake = self.messages[0]
        self.data = frame(*handshake)
