"""The back office: what accounts hold and what that is worth, once and as it changes; their profits: `profits.py`."""

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Final

from ibkr_service.sim import answers, tags
from ibkr_service.sim.accounts import Account, Position
from ibkr_service.sim.clock import Timer
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.pricing import NEW_YORK
from ibkr_service.sim.rules import Refused, invalid
from ibkr_service.sim.session import Session, Stream
from ibkr_service.sim.tags import EVERYTHING
from ibkr_service.sim.valuation import Row
from ibkr_service.sim.wire import Fields, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

REFRESH_S: Final = 180.0
"""Account values come about every three minutes while nothing happens (IB's documentation)."""

SUMMARIES_MAX: Final = 2
"""IB allows a client two account summaries at a time."""

ACCOUNT, POSITIONS, SUMMARY, POSITIONS_MULTI, ACCOUNT_MULTI = (
    "account",
    "positions",
    "summary",
    "positions multi",
    "account multi",
)


class _Refreshing(Stream):
    """A stream that looks again at intervals, and sends what has changed."""

    def __init__(self, gateway: "Gateway", interval_s: float, refresh: Callable[[], None]) -> None:
        self._gateway = gateway
        self._interval_s = interval_s
        self._refresh = refresh
        self._timer: Timer | None = gateway.clock.call_later(interval_s, self._tick)

    def _tick(self) -> None:
        self._timer = self._gateway.clock.call_later(self._interval_s, self._tick)
        if not self._gateway.is_cut:
            self._refresh()

    def close(self) -> None:
        """Look no more."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


class _Changes:
    """Remembers what was said under a key, to say only what is new."""

    def __init__(self) -> None:
        self._said: dict[object, object] = {}

    def is_new(self, key: object, value: object) -> bool:
        """Whether something else was said under a key; from now on it is this."""
        if self._said.get(key) == value:
            return False
        self._said[key] = value
        return True


class AccountUpdates(_Refreshing):
    """What reqAccountUpdates subscribes to: values, portfolio and their time."""

    def __init__(self, gateway: "Gateway", session: Session, account: Account) -> None:
        super().__init__(gateway, REFRESH_S, self._send_all)
        self._session = session
        self._account = account
        self._changes = _Changes()

    def download(self) -> None:
        """Send everything, and say that it was everything."""
        self._send_all()
        self._session.send(frame(Answer.ACCOUNT_DOWNLOAD_END, 1, self._account.code))

    def account_changed(self, account: Account, con_ids: list[int]) -> None:
        """Send what a fill has changed."""
        if account is self._account:
            self._send(account.positions[con_id] for con_id in con_ids)

    def _send_all(self) -> None:
        self._send(self._account.held())

    def _send(self, positions: Iterable[Position]) -> None:
        code, valuation = self._account.code, self._gateway.valuation
        for row in tags.rows(valuation, self._account):
            if self._changes.is_new((row.tag, row.currency), row.value):
                self._session.send(answers.account_value(code, row))
        for position in positions:
            self._session.send(answers.portfolio(code, valuation.holding(position)))
        now = self._gateway.clock.now().astimezone(NEW_YORK)
        self._session.send(frame(Answer.ACCOUNT_TIME, 1, f"{now:%H:%M}"))


class Rows(_Refreshing):
    """Account values by request id: an account summary, or a multi-account update."""

    def __init__(
        self,
        gateway: "Gateway",
        session: Session,
        rows: Callable[[], Iterable[tuple[Account, Row]]],
        write: Callable[[str, Row], bytes],
    ) -> None:
        super().__init__(gateway, REFRESH_S, self.send)
        self._session = session
        self._rows = rows
        self._write = write
        self._changes = _Changes()

    def send(self) -> None:
        """Send what is new."""
        for account, row in self._rows():
            if self._changes.is_new((account.code, row.tag, row.currency), row.value):
                self._session.send(self._write(account.code, row))

    def account_changed(self, account: Account, con_ids: list[int]) -> None:
        """Send what a fill has changed."""
        del account, con_ids
        self.send()


class Positions(Stream):
    """Positions, once and after every fill; of one account, or of all."""

    def __init__(self, session: Session, accounts: list[Account], write: Callable[[str, Position], bytes]) -> None:
        self._session = session
        self._accounts = accounts
        self._write = write

    def send_all(self) -> None:
        """Send all open positions."""
        for account in self._accounts:
            for position in account.held():
                self._session.send(self._write(account.code, position))

    def account_changed(self, account: Account, con_ids: list[int]) -> None:
        """Send the positions that a fill has changed, closed ones with quantity 0."""
        if account in self._accounts:
            for con_id in dict.fromkeys(con_ids):
                self._session.send(self._write(account.code, account.positions[con_id]))


def account_of(gateway: "Gateway", code: str) -> Account:
    """The account of a code; no code means the only account."""
    if not code and len(gateway.accounts) == 1:
        return next(iter(gateway.accounts.values()))
    if code not in gateway.accounts:
        raise invalid(f"Invalid account code '{code}'")
    return gateway.accounts[code]


def _accounts(gateway: "Gateway", group: str) -> list[Account]:
    """The accounts of a group: ``All``, nothing, or one account's code."""
    return list(gateway.accounts.values()) if group in {"", EVERYTHING} else [account_of(gateway, group)]


def _account_updates(gateway: "Gateway", session: Session, fields: Fields) -> None:
    subscribes, code = fields.flag(), fields.text()
    if not subscribes:
        session.close_stream(ACCOUNT, 0)
        return
    updates = AccountUpdates(gateway, session, account_of(gateway, code))
    session.open_stream(ACCOUNT, 0, updates)
    updates.download()


def _positions(gateway: "Gateway", session: Session, _fields: Fields) -> None:
    def write(code: str, held: Position) -> bytes:
        return answers.position(code, held.contract, held.quantity, held.average_cost)

    positions = Positions(session, list(gateway.accounts.values()), write)
    session.open_stream(POSITIONS, 0, positions)
    positions.send_all()
    session.send(frame(Answer.POSITION_END, 1))


def _positions_multi(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, code = fields.whole(), fields.text()

    def write(code: str, held: Position) -> bytes:
        return answers.position_multi(req_id, code, held.contract, held.quantity, held.average_cost)

    positions = Positions(session, _accounts(gateway, code), write)
    session.open_stream(POSITIONS_MULTI, req_id, positions)
    positions.send_all()
    session.send(frame(Answer.POSITION_MULTI_END, 1, req_id))


def _account_updates_multi(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, code = fields.whole(), fields.text()
    fields.text()  # model code
    is_ledger = fields.flag()
    accounts = _accounts(gateway, code)

    def rows() -> Iterable[tuple[Account, Row]]:
        for account in accounts:
            chosen = (tags.ledger_rows if is_ledger else tags.rows)(gateway.valuation, account)
            yield from ((account, row) for row in chosen)

    stream = Rows(gateway, session, rows, lambda code, row: answers.account_update_multi(req_id, code, row))
    session.open_stream(ACCOUNT_MULTI, req_id, stream)
    stream.send()
    session.send(frame(Answer.ACCOUNT_UPDATE_MULTI_END, 1, req_id))


def _summary(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, group, wanted = fields.whole(), fields.text(), fields.text()
    if sum(kind == SUMMARY for kind, _ in session.streams) >= SUMMARIES_MAX:
        raise Refused(
            322, "Error processing request.-'bU' : cause - Maximum number of account summary requests exceeded"
        )
    accounts = _accounts(gateway, group)

    def rows() -> Iterable[tuple[Account, Row]]:
        for account in accounts:
            yield from ((account, row) for row in tags.summary(gateway.valuation, account, wanted))

    stream = Rows(gateway, session, rows, lambda code, row: answers.account_summary(req_id, code, row))
    session.open_stream(SUMMARY, req_id, stream)
    stream.send()
    session.send(frame(Answer.ACCOUNT_SUMMARY_END, 1, req_id))


def end_of(kind: str) -> Callable[["Gateway", Session, Fields], None]:
    """A handler that ends the stream of a request id; one that is not there has ended already."""

    def end(_gateway: "Gateway", session: Session, fields: Fields) -> None:
        session.close_stream(kind, fields.whole())

    return end


def _end_positions(_gateway: "Gateway", session: Session, _fields: Fields) -> None:
    session.close_stream(POSITIONS, 0)


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.ACCOUNT_UPDATES: _account_updates,
    Request.POSITIONS: _positions,
    Request.CANCEL_POSITIONS: _end_positions,
    Request.POSITIONS_MULTI: _positions_multi,
    Request.CANCEL_POSITIONS_MULTI: end_of(POSITIONS_MULTI),
    Request.ACCOUNT_UPDATES_MULTI: _account_updates_multi,
    Request.CANCEL_ACCOUNT_UPDATES_MULTI: end_of(ACCOUNT_MULTI),
    Request.ACCOUNT_SUMMARY: _summary,
    Request.CANCEL_ACCOUNT_SUMMARY: end_of(SUMMARY),
}
