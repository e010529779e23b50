"""News: providers, headlines and articles, invented from the seed but always the same; and one bulletin.

Each stock has two headlines per day. They mean nothing for prices.
"""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, time, timedelta
from typing import TYPE_CHECKING, Final, NamedTuple

from ibkr_service.sim.contracts import Contract
from ibkr_service.sim.historyread import bad_request, read_moment
from ibkr_service.sim.messages import Answer, Request
from ibkr_service.sim.path import mixed
from ibkr_service.sim.rules import Refused
from ibkr_service.sim.session import Session
from ibkr_service.sim.wire import Fields, Value, frame

if TYPE_CHECKING:
    from ibkr_service.sim.gateway import Gateway

PROVIDERS: Final = {
    "BRFG": "Briefing.com General Market Columns",
    "BRFUPDN": "Briefing.com Analyst Actions",
    "DJNL": "Dow Jones Newsletters",
}
PER_DAY: Final = 2
DAYS_BACK_MAX: Final = 366
HEADLINES_MAX: Final = 300
SUBJECTS: Final = (
    "{name} shares in focus as volume picks up",
    "Analysts raise their price target for {symbol}",
    "Analysts lower their price target for {symbol}",
    "{name} to present at an investor conference",
    "Options traders position in {symbol}",
    "{name}: what to expect from the quarter",
    "{symbol} moves with its sector",
)
PLAIN_TEXT: Final = 0
REGULAR_BULLETIN: Final = 1
NEEDS_IB: Final = frozenset({Request.NEWS_ARTICLE, Request.HISTORICAL_NEWS})

_DAY = timedelta(days=1)
_SECONDS = 86_400


class Headline(NamedTuple):
    """When, whose, and what; the id says which contract, day and number it is of."""

    at: datetime
    provider: str
    article_id: str
    text: str


def headlines_of(contract: Contract, day: datetime) -> list[Headline]:
    """The headlines of a contract on a day (UTC), the latest first."""
    found: list[Headline] = []
    for n in range(PER_DAY):
        luck = mixed(contract.con_id, day.toordinal() * PER_DAY + n)
        provider = sorted(PROVIDERS)[luck % len(PROVIDERS)]
        text = SUBJECTS[(luck >> 8) % len(SUBJECTS)].format(name=contract.long_name.title(), symbol=contract.symbol)
        at = day + timedelta(seconds=(luck >> 16) % _SECONDS)
        found.append(Headline(at, provider, f"{provider}${contract.con_id:x}.{day.toordinal():x}.{n}", text))
    return sorted(found, reverse=True)


def _headlines(contract: Contract, start: datetime | None, end: datetime) -> Iterator[Headline]:
    day = datetime.combine(end.date(), time(0), UTC)
    for _ in range(DAYS_BACK_MAX):
        for headline in headlines_of(contract, day):
            if start is not None and headline.at <= start:
                return
            if headline.at <= end:
                yield headline
        day -= _DAY


def _historical_news(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, con_id = fields.whole(), fields.whole()
    providers = [code for code in fields.text().replace(",", "+").split("+") if code]
    start, end, count = _moment(fields.text()), _moment(fields.text()), fields.whole()
    if unknown := [code for code in providers if code not in PROVIDERS]:
        raise Refused(10276, f"News feed is not allowed:{unknown[0][:20]}")
    contract = gateway.universe.by_con_id(con_id)
    if contract is None:
        raise bad_request("Invalid contract id")
    now = gateway.clock.now()
    limit = min(max(count, 1), HEADLINES_MAX)
    sent, has_more = 0, 0
    for headline in _headlines(contract, start, now if end is None else min(end, now)):
        if providers and headline.provider not in providers:
            continue
        if sent == limit:
            has_more = 1
            break
        sent += 1
        values = (f"{headline.at:%Y-%m-%d %H:%M:%S}.0", headline.provider, headline.article_id, headline.text)
        session.send(frame(Answer.HISTORICAL_NEWS, req_id, *values))
    session.send(frame(Answer.HISTORICAL_NEWS_END, req_id, has_more))


def _moment(text: str) -> datetime | None:
    """A moment as requests for news have it, ``2026-11-23 14:30:00.0`` (UTC), or as other requests have it."""
    try:
        return datetime.fromisoformat(text.strip().removesuffix(".0")).replace(tzinfo=UTC)
    except ValueError:
        moment = read_moment(text)
        return None if moment is None else moment.astimezone(UTC)


def _article(gateway: "Gateway", session: Session, fields: Fields) -> None:
    req_id, provider, article_id = fields.whole(), fields.text(), fields.text()
    headline = _found(gateway, article_id)
    if headline is None or headline.provider != provider:
        raise Refused(10172, "Failed to request news article:No such article")
    text = f"{headline.text}\n\n{headline.at:%Y-%m-%d %H:%M} UTC. This article was written by a simulator.\n"
    session.send(frame(Answer.NEWS_ARTICLE, req_id, PLAIN_TEXT, text))


def _found(gateway: "Gateway", article_id: str) -> Headline | None:
    try:
        con_id, ordinal, _ = article_id.partition("$")[2].split(".")
        contract = gateway.universe.by_con_id(int(con_id, 16))
        day = datetime.combine(datetime.fromordinal(int(ordinal, 16)).date(), time(0), UTC)
    except (ValueError, OverflowError):
        return None
    if contract is None:
        return None
    return next((each for each in headlines_of(contract, day) if each.article_id == article_id), None)


def _providers(_gateway: "Gateway", session: Session, _fields: Fields) -> None:
    values: list[Value] = [text for row in PROVIDERS.items() for text in row]
    session.send(frame(Answer.NEWS_PROVIDERS, len(PROVIDERS), *values))


def _bulletins(_gateway: "Gateway", session: Session, fields: Fields) -> None:
    """Those of the day, if a client wants them; none follow."""
    if fields.flag():
        text = "This is a simulated gateway. No exchange is affected."
        session.send(frame(Answer.NEWS_BULLETINS, 1, 1, REGULAR_BULLETIN, text, "SMART"))


def _no_more_bulletins(_gateway: "Gateway", _session: Session, _fields: Fields) -> None:
    """TWS says nothing to that."""


HANDLERS: Final[dict[Request, Callable[["Gateway", Session, Fields], None]]] = {
    Request.NEWS_PROVIDERS: _providers,
    Request.HISTORICAL_NEWS: _historical_news,
    Request.NEWS_ARTICLE: _article,
    Request.NEWS_BULLETINS: _bulletins,
    Request.CANCEL_NEWS_BULLETINS: _no_more_bulletins,
}
