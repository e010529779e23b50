"""What one recorded connection was asked, held against what the service asks now.

The same message in the same place needs no thought. Otherwise what was recorded is searched for the same message a
little later, for the same but for its number, for the same wish of an order; answers that were recorded for another
number are then given that of today. What is found nowhere is a difference, and is said.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from ibkr_service.core.recording import HELLO, Framing, Record, framed
from ibkr_service.core.refs import parse
from ibkr_service.sim.messages import NO_REQUEST_ID, NO_VERSION_FIELD, Answer, Request

WINDOW = 200  # recorded messages that are looked at for one that comes in another place
LATE = 50  # given up, and still known if they come
SHOWN_MAX = 300  # characters of a message
# Where an answer has the number of what it answers. All others have none.
_FIRST = frozenset(
    {
        *(Answer.ORDER_STATUS, Answer.OPEN_ORDER, Answer.CONTRACT_DETAILS, Answer.BOND_CONTRACT_DETAILS),
        *(Answer.EXEC_DETAILS, Answer.HISTORICAL_DATA, Answer.TICK_OPTION_COMPUTATION, Answer.SEC_DEF_OPT_PARAMS),
        *(Answer.SEC_DEF_OPT_PARAMS_END, Answer.SOFT_DOLLAR_TIERS, Answer.SYMBOL_SAMPLES, Answer.TICK_REQ_PARAMS),
        *(Answer.SMART_COMPONENTS, Answer.NEWS_ARTICLE, Answer.TICK_NEWS, Answer.HISTORICAL_NEWS),
        *(Answer.HISTORICAL_NEWS_END, Answer.HEAD_TIMESTAMP, Answer.HISTOGRAM_DATA, Answer.HISTORICAL_DATA_UPDATE),
        *(Answer.REROUTE_MKT_DATA, Answer.REROUTE_MKT_DEPTH, Answer.PNL, Answer.PNL_SINGLE, Answer.HISTORICAL_TICKS),
        *(Answer.HISTORICAL_TICKS_BID_ASK, Answer.HISTORICAL_TICKS_LAST, Answer.TICK_BY_TICK),
        *(Answer.REPLACE_FA_END, Answer.WSH_META_DATA, Answer.WSH_EVENT_DATA, Answer.HISTORICAL_SCHEDULE),
        Answer.USER_INFO,
    }
)
_SECOND = frozenset(
    {
        *(Answer.TICK_PRICE, Answer.TICK_SIZE, Answer.ERROR, Answer.MARKET_DEPTH, Answer.MARKET_DEPTH_L2),
        *(Answer.SCANNER_DATA, Answer.TICK_GENERIC, Answer.TICK_STRING, Answer.TICK_EFP, Answer.REAL_TIME_BARS),
        *(Answer.FUNDAMENTAL_DATA, Answer.CONTRACT_DETAILS_END, Answer.EXEC_DETAILS_END, Answer.TICK_SNAPSHOT_END),
        *(Answer.DELTA_NEUTRAL_VALIDATION, Answer.MARKET_DATA_TYPE, Answer.ACCOUNT_SUMMARY),
        *(Answer.ACCOUNT_SUMMARY_END, Answer.DISPLAY_GROUP_LIST, Answer.DISPLAY_GROUP_UPDATED),
        *(Answer.POSITION_MULTI, Answer.POSITION_MULTI_END, Answer.ACCOUNT_UPDATE_MULTI),
        Answer.ACCOUNT_UPDATE_MULTI_END,
    }
)
_ANSWERED_AT = {**{str(int(a)).encode(): 1 for a in _FIRST}, **{str(int(a)).encode(): 2 for a in _SECOND}}
_EXEC_DETAILS, _EXEC_ORDER_AT = b"11", 2
_PLACE_ORDER = str(int(Request.PLACE_ORDER)).encode()


@dataclass(frozen=True)
class Difference:
    """Something that is not as it was recorded. `at_s`: loop time; empty texts: there is none."""

    at_s: float
    connection: int
    recorded: str
    here: str

    def __str__(self) -> str:
        where = f"connection {self.connection}: "
        if not self.here:
            return f"{where}recorded, and not sent here: {self.recorded}"
        if not self.recorded:
            return f"{where}sent here, and not recorded: {self.here}"
        return f"{where}recorded {self.recorded}; sent here {self.here}"


@dataclass(eq=False)
class Expected:
    """A message that was recorded. `index`: among all records."""

    index: int
    at_s: float
    message: bytes
    is_done: bool = False


@dataclass
class Numbers:
    """What is called differently than when it was recorded: recorded -> here."""

    orders: dict[bytes, bytes] = field(default_factory=dict)
    refs: dict[bytes, bytes] = field(default_factory=dict)


class Lineup:
    """The outbound side of one connection.

    Args:
        records: of this connection, with their places among all. differs: is told each difference.
    """

    def __init__(
        self,
        number: int,
        records: list[tuple[int, Record]],
        numbers: Numbers,
        now_s: Callable[[], float],
        differs: Callable[[Difference], None],
    ) -> None:
        self.number = number
        self.count = 0  # messages that were sent here
        self.moved = 0  # of these, in another place than recorded
        self.mapped = 0  # under another number
        self._numbers = numbers
        self._now_s = now_s
        self._differs = differs
        self._expected = list(_expected(records))
        self._first = 0  # of those that have not come
        self._missed: deque[Expected] = deque(maxlen=LATE)
        self._ids: dict[bytes, bytes] = {}
        self._taken: set[bytes] = set()  # numbers that stand for something else here
        self._sent = Framing()

    # --- what leaves -------------------------------------------------------------------------------------------------

    def sent(self, data: bytes) -> None:
        """The service sends bytes."""
        for message in self._sent.messages(data.removeprefix(HELLO)):
            self.count += 1
            self._message(message)

    def _message(self, message: bytes) -> None:
        open_ = [*self._open(WINDOW), *(one for one in self._missed if not one.is_done)]
        for place, one in enumerate(open_):
            if one.message == message:
                one.is_done = True
                self.moved += place > 0
                return
        fields = message.split(b"\0")
        for one in open_:
            if self._is_same_but_for_number(one, fields):
                one.is_done = True
                self.mapped += 1
                return
        for one in open_:
            if self._is_same_wish(one, fields):
                one.is_done = True
                self._differs(Difference(self._now_s(), self.number, words(one.message), words(message)))
                return
        at = _number_at(fields)
        if at:
            self._taken.add(fields[at])
        self._differs(Difference(self._now_s(), self.number, "", words(message)))

    def _open(self, most: int) -> Iterator[Expected]:
        while self._first < len(self._expected) and self._expected[self._first].is_done:
            self._first += 1
        for place in range(self._first, min(self._first + most, len(self._expected))):
            if not self._expected[place].is_done:
                yield self._expected[place]

    def _is_same_but_for_number(self, one: Expected, fields: list[bytes]) -> bool:
        recorded = one.message.split(b"\0")
        at = _number_at(fields)
        if not at or recorded[0] != fields[0] or len(recorded) != len(fields):
            return False
        refs = []
        for place, (then, now) in enumerate(zip(recorded, fields, strict=True)):
            if then == now or place == at:
                continue
            if not _is_same_ref(then, now):
                return False
            refs.append((then, now))
        self._call(recorded[at], fields[at], is_order=fields[0] == _PLACE_ORDER)
        self._numbers.refs.update(refs)
        return True

    def _is_same_wish(self, one: Expected, fields: list[bytes]) -> bool:
        """An order of the same strategy and key, with other terms."""
        recorded = one.message.split(b"\0")
        if fields[0] != _PLACE_ORDER or recorded[0] != _PLACE_ORDER:
            return False
        then, now = _ref_of(recorded), _ref_of(fields)
        if not then or not _is_same_ref(then, now):
            return False
        self._call(recorded[1], fields[1], is_order=True)
        self._numbers.refs[then] = now
        return True

    def _call(self, then: bytes, now: bytes, *, is_order: bool) -> None:
        (self._numbers.orders if is_order else self._ids)[then] = now
        self._taken.add(now)

    # --- waiting for what was sent before ----------------------------------------------------------------------------

    def lacks(self, index: int) -> bool:
        """Whether something that was recorded before this place has not been sent, nor been given up."""
        first = next(self._open(1), None)
        return first is not None and first.index < index

    def give_up(self, index: int | None = None) -> None:
        """What was recorded before this place, or at all, and has not been sent, is missing."""
        for one in list(self._open(len(self._expected))):
            if index is None or one.index < index:
                one.is_done = True
                self._missed.append(Expected(one.index, one.at_s, one.message))
                self._differs(Difference(self._now_s(), self.number, words(one.message), ""))

    # --- what comes --------------------------------------------------------------------------------------------------

    def translated(self, data: bytes) -> bytes:
        """Recorded answers with the numbers of today."""
        if not self._ids and not self._taken and not self._numbers.orders and not self._numbers.refs:
            return data
        return b"".join(framed(message) for body in Framing().messages(data) if (message := self._translate(body)))

    def _translate(self, body: bytes) -> bytes:
        fields = body.split(b"\0")
        orders, refs = self._numbers.orders, self._numbers.refs
        at = _ANSWERED_AT.get(fields[0], 0)
        if at and at < len(fields):
            then = fields[at]
            if then in self._ids or then in orders:
                fields[at] = self._ids.get(then) or orders[then]
            elif then in self._taken:
                return b""  # it would be taken for the answer to something else
        if fields[0] == _EXEC_DETAILS and len(fields) > _EXEC_ORDER_AT:
            fields[_EXEC_ORDER_AT] = orders.get(fields[_EXEC_ORDER_AT], fields[_EXEC_ORDER_AT])
        return b"\0".join(refs.get(value, value) for value in fields)


def words(message: bytes) -> str:
    """A message for people."""
    fields = message.decode("utf-8", "replace").split("\0")
    name = fields[0]
    if name.isdigit() and int(name) in set(Request):
        name = Request(int(name)).name
    text = ",".join([name, *fields[1:-1]])
    return text if len(text) <= SHOWN_MAX else text[:SHOWN_MAX] + "…"


def _expected(records: list[tuple[int, Record]]) -> Iterator[Expected]:
    framing = Framing()
    for index, record in records:
        for message in framing.messages(record.data.removeprefix(HELLO)):
            yield Expected(index, record.at_s, message)


def _number_at(fields: list[bytes]) -> int:
    """Where a request has its number; 0 if it has none."""
    if not fields[0].isdigit() or int(fields[0]) not in set(Request) or int(fields[0]) in NO_REQUEST_ID:
        return 0
    at = 1 if int(fields[0]) in NO_VERSION_FIELD else 2
    return at if at < len(fields) else 0


def _ref_of(fields: list[bytes]) -> bytes:
    return next((one for one in fields if one.startswith(b"ibs.") and parse(one.decode("utf-8", "replace"))), b"")


def _is_same_ref(then: bytes, now: bytes) -> bool:
    """Two references of one wish, in two runs."""
    one, other = parse(then.decode("utf-8", "replace")), parse(now.decode("utf-8", "replace"))
    return one is not None and other is not None and (one.strategy, one.digest) == (other.strategy, other.digest)
