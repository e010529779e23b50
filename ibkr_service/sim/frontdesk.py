"""The front desk: small questions about the login and the gateway itself, and the display groups of TWS.

A simulated login is an individual's: it has no advisor's groups, no family and no soft dollars, and says so.
"""

from collections.abc import Callable
from typing import TYPE_CHECKING, Final

from ibkr_service.sim import answers
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.rules import Refused, invalid
from ibkr_service.sim.session import Session, Stream
from ibkr_service.sim.wire import Fields, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

DISPLAY_GROUP: Final = "display group"
DISPLAY_GROUPS: Final = 7
NOTHING_SHOWN: Final = "none"
LOG_LEVELS: Final = range(1, 6)


def _current_time(gateway: "Gateway", session: Session, _fields: Fields) -> None:
    session.send(answers.current_time(int(gateway.clock.now().timestamp())))


def _ids(gateway: "Gateway", session: Session, _fields: Fields) -> None:
    session.send(answers.next_valid_id(gateway.next_order_id(session.client_id)))


def _managed_accounts(gateway: "Gateway", session: Session, _fields: Fields) -> None:
    session.send(answers.managed_accounts(gateway.config.accounts))


def _log_level(_gateway: "Gateway", _session: Session, fields: Fields) -> None:
    """TWS takes note and says nothing."""
    level = fields.whole()
    if level not in LOG_LEVELS:
        raise invalid(f"Invalid log level {level}")


def _family_codes(gateway: "Gateway", session: Session, _fields: Fields) -> None:
    accounts = gateway.config.accounts
    session.send(frame(Answer.FAMILY_CODES, len(accounts), *(text for code in accounts for text in (code, ""))))


def _soft_dollar_tiers(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    session.send(frame(Answer.SOFT_DOLLAR_TIERS, fields.whole(), 0))


def _user_info(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    white_branding = ""
    session.send(frame(Answer.USER_INFO, fields.whole(), white_branding))


def _no_advisor(_gateway: "Gateway", _session: Session, fields: Fields) -> None:
    fields.whole()
    raise Refused(321, "Error validating request.-'bN' : cause - FA data operations ignored for non FA customers.")


def _start_again(_gateway: "Gateway", _session: Session, _fields: Fields) -> None:
    raise invalid("The API is started already")


# --- display groups -------------------------------------------------------------------------------------------------


class GroupWatch(Stream):
    """A client that wants to know which contract a display group of TWS shows."""

    def __init__(self, session: Session, req_id: int, group: int) -> None:
        self._session = session
        self._req_id = req_id
        self.group = group

    def show(self, contract: str) -> None:
        """Tell it."""
        self._session.send(frame(Answer.DISPLAY_GROUP_UPDATED, 1, self._req_id, contract))


def _query_groups(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    groups = "|".join(str(group) for group in range(1, DISPLAY_GROUPS + 1))
    session.send(frame(Answer.DISPLAY_GROUP_LIST, 1, fields.whole(), groups))


def _watch_group(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, group = fields.whole(), fields.whole()
    if not 1 <= group <= DISPLAY_GROUPS:
        raise invalid(f"Invalid display group {group}")
    watch = GroupWatch(session, req_id, group)
    session.open_stream(DISPLAY_GROUP, req_id, watch)
    watch.show(gateway.display_groups.get(group, NOTHING_SHOWN))


def _update_group(gateway: "Gateway", session: Session, fields: Fields) -> None:
    watch = session.streams.get((DISPLAY_GROUP, fields.whole()))
    if not isinstance(watch, GroupWatch):
        raise invalid("Not subscribed to a display group")
    shown = gateway.display_groups[watch.group] = fields.text() or NOTHING_SHOWN
    for other in gateway.sessions:
        for stream in other.streams.values():
            if isinstance(stream, GroupWatch) and stream.group == watch.group:
                stream.show(shown)


def _leave_group(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    session.close_stream(DISPLAY_GROUP, fields.whole())


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.CURRENT_TIME: _current_time,
    Request.IDS: _ids,
    Request.MANAGED_ACCTS: _managed_accounts,
    Request.SET_SERVER_LOG_LEVEL: _log_level,
    Request.FAMILY_CODES: _family_codes,
    Request.SOFT_DOLLAR_TIERS: _soft_dollar_tiers,
    Request.USER_INFO: _user_info,
    Request.REQUEST_FA: _no_advisor,
    Request.REPLACE_FA: _no_advisor,
    Request.START_API: _start_again,
    Request.QUERY_DISPLAY_GROUPS: _query_groups,
    Request.SUBSCRIBE_TO_GROUP_EVENTS: _watch_group,
    Request.UPDATE_DISPLAY_GROUP: _update_group,
    Request.UNSUBSCRIBE_FROM_GROUP_EVENTS: _leave_group,
}
