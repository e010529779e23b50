"""Positions: the broker's word against the sum of our executions, look by look.

A difference is believed when a second look shows the same one: a fill may be on its way. What it then becomes:

- *opening*: the first look ever at an account; at once, since nothing can be compared.
- *expiry*, *assignment*, *exercise*, *split*: it explains itself (`adjustments.py`).
- *while_away*: it came over the broker's midnight, beyond which executions are no longer reported.
- otherwise it is *unexplained*: the ledger stays as it is, and the account goes into quarantine until a person accepts
  what the broker says.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping
from datetime import date, datetime, timedelta
from decimal import Decimal

import msgspec

from ibkr_service.core import events as ev
from ibkr_service.core.adjustments import BROKER_ZONE, Difference, Lapsed, explain, group_of
from ibkr_service.core.instrument import AnyInstrument, Option, Other

Holding = tuple[str, int]  # (account, conId)
ZERO = Decimal(0)
MOMENT = timedelta(microseconds=1)
WHYS_MAX = 10  # reasons of one quarantine that are told
CLOCK_ERROR = timedelta(minutes=2)  # by so much our clock may differ from the broker's
LAPSED_KEPT = timedelta(days=4)  # what an option delivered shows within days, over a weekend too


class Suspect(msgspec.Struct, frozen=True):
    """A difference that one look has shown: by how much (None: a fill overtook the look), and the cause it then had."""

    moved: Decimal | None
    cause: ev.Cause


def broker_day(at: datetime) -> date:
    """The broker's date: at its midnight it forgets executions and completed orders."""
    return at.astimezone(BROKER_ZONE).date()


def may_be_forgotten(since: datetime, now: datetime) -> bool:
    """Whether the broker's midnight may have come between two moments of our clock, which may be wrong."""
    return broker_day(since - CLOCK_ERROR) != broker_day(now + CLOCK_ERROR)


class Discrepancies(msgspec.Struct):
    """What is known of differences between the broker's positions and ours. Part of the book, and of its snapshots."""

    unexplained: dict[Holding, Difference] = {}  # survived a second look; a person has to say what is right
    verified_at: datetime | None = None
    suspects: dict[Holding, Suspect] = {}
    opened_accounts: set[str] = set()
    costs: dict[Holding, Decimal] = {}  # average costs at the last look that agreed
    lapsed: dict[str, list[tuple[datetime, Lapsed]]] = {}

    @property
    def unsettled(self) -> bool:
        """A second look may explain something."""
        return bool(self.suspects)

    def of(self, account: str) -> list[Difference]:
        """What is unexplained in an account."""
        return [difference for (owner, _), difference in self.unexplained.items() if owner == account]

    def adjusted(self, event: ev.PositionAdjusted) -> None:
        """The ledger was brought to the broker's position."""
        holding = (event.account, event.con_id)
        self.suspects.pop(holding, None)
        self.unexplained.pop(holding, None)
        if event.cause == "expiry" and isinstance(event.instrument, Option):
            gone = Lapsed(event.instrument, event.before - event.after)
            self.lapsed.setdefault(event.account, []).append((event.at, gone))
        elif event.cause in {"assignment", "exercise"} and not isinstance(event.instrument, Option):
            # What it delivered has shown.
            group = group_of(event.instrument)
            kept = [(at, old) for at, old in self.lapsed.get(event.account, ()) if group_of(old.instrument) != group]
            self.lapsed[event.account] = kept

    def compare(
        self,
        look: ev.Snapshot,
        *,
        ledger: Mapping[Holding, Decimal],
        positions: Mapping[Holding, ev.PositionReported],
        instruments: Mapping[int, AnyInstrument],
        filled_at: Mapping[Holding, datetime],
    ) -> list[ev.Event]:
        """Compare; returns what follows: adjustments, and the accounts in which something is unexplained."""
        reported = {(account, con_id): quantity for account, con_id, quantity in look.positions}
        by_account: defaultdict[str, dict[Holding, Difference]] = defaultdict(dict)
        # Insertion order, not a set's: the journal must come out the same in every process.
        for holding in dict.fromkeys([*reported, *ledger]):
            account, con_id = holding
            ours, theirs = ledger.get(holding, ZERO), reported.get(holding, ZERO)
            if account not in look.accounts:
                continue
            held = positions.get(holding)
            cost = held.average_cost if held is not None and held.quantity else None
            if ours == theirs:
                self._agreed(holding, cost)
                continue
            if self.verified_at is not None and filled_at.get(holding, self.verified_at) > self.verified_at:
                self.costs.pop(holding, None)  # what was filled since has changed it; a split cannot be told by it
            by_account[account][holding] = Difference(
                con_id=con_id,
                # What could not be understood is there all the same.
                instrument=instruments.get(con_id) or Other("?", "", "", con_id),
                ours=ours,
                theirs=theirs,
                cost_before=self.costs.get(holding),
                cost_after=cost,
            )
        said: list[ev.Event] = []
        seen, self.suspects = self.suspects, {}
        self.unexplained = {h: d for h, d in self.unexplained.items() if h in by_account[h[0]]}
        for account, differences in by_account.items():
            overtaken = {h for h in differences if filled_at.get(h, look.asked_at - MOMENT) >= look.asked_at}
            said += self._judge(look, account, differences, seen, overtaken)
        self.opened_accounts.update(look.accounts)
        self.verified_at = look.at
        return said

    def _agreed(self, holding: Holding, cost: Decimal | None) -> None:
        if cost is None:
            self.costs.pop(holding, None)
        else:
            self.costs[holding] = cost

    def _judge(
        self,
        look: ev.Snapshot,
        account: str,
        differences: Mapping[Holding, Difference],
        seen: Mapping[Holding, Suspect],
        overtaken: set[Holding],
    ) -> Iterator[ev.Event]:
        """What becomes of an account's differences."""
        lapsed = [old for at, old in self.lapsed.get(account, ()) if look.at - at < LAPSED_KEPT]
        is_open = account in self.opened_accounts
        explained = explain(differences.values(), look.at, lapsed) if is_open else {}
        otherwise = self._cause(look) if is_open else "opening"
        causes: dict[Holding, ev.Cause] = {}
        settled: set[Holding] = set()
        for holding, one in differences.items():
            before = seen.get(holding)
            # A cause that lies in the time of the first sight would be lost by the second.
            causes[holding] = explained.get(one.con_id) or (before.cause if before is not None else otherwise)
            repeated = before is not None and before.moved == one.moved
            known = holding in self.unexplained and self.unexplained[holding].moved == one.moved
            if holding not in overtaken and (not is_open or repeated or known):
                settled.add(holding)
        # What explains itself together is booked together.
        waiting = {group_of(one.instrument) for h, one in differences.items() if h not in settled}
        new_doubts: list[Difference] = []
        for holding, one in differences.items():
            cause = causes[holding]
            together = is_open and one.con_id in explained and group_of(one.instrument) in waiting
            if holding not in settled or together:
                # What fits no longer what was explained is judged anew.
                kept = "unexplained" if holding in self.unexplained else otherwise
                told = cause if cause in {"while_away", "opening"} else kept
                self.suspects[holding] = Suspect(None if holding in overtaken else one.moved, told)
            elif cause == "unexplained":
                if self.unexplained.get(holding) is None or self.unexplained[holding].moved != one.moved:
                    new_doubts.append(one)
                self.unexplained[holding] = one
            else:
                yield _adjusted(look, account, one, cause)
        if new_doubts:
            yield ev.QuarantineBegan(at=look.at, session=look.session, account=account, why=in_words(new_doubts))

    def _cause(self, look: ev.Snapshot) -> ev.Cause:
        """Over the broker's midnight a difference may be a fill that it no longer reports."""
        assert self.verified_at is not None, "an account is opened by a first look"
        return "while_away" if may_be_forgotten(self.verified_at, look.at) else "unexplained"


def in_words(differences: list[Difference]) -> str:
    """Differences for people."""
    return "; ".join(
        f"{one.instrument}: the broker holds {one.theirs:f}, our executions say {one.ours:f}" for one in differences
    )


def joined(before: ev.QuarantineBegan | None, event: ev.QuarantineBegan) -> ev.QuarantineBegan:
    """A quarantine with one more reason: it is as old as its first one."""
    if before is None:
        return event
    whys = list(dict.fromkeys([*before.why.split("; "), *event.why.split("; ")]))
    return msgspec.structs.replace(event, at=before.at, why="; ".join(whys[-WHYS_MAX:]))


def accepted(
    event: ev.QuarantineEnded, differences: list[Difference], ledger: Mapping[Holding, Decimal]
) -> list[ev.Event]:
    """What follows when a person accepts the broker's positions: the differences, upon what was filled since."""
    said: list[ev.Event] = []
    for one in differences:
        ours = ledger.get((event.account, one.con_id), ZERO)
        now = msgspec.structs.replace(one, ours=ours, theirs=ours + one.moved)
        said.append(_adjusted(event, event.account, now, "accepted"))
    return said


def _adjusted(
    event: ev.Snapshot | ev.QuarantineEnded, account: str, one: Difference, cause: ev.Cause
) -> ev.PositionAdjusted:
    return ev.PositionAdjusted(
        at=event.at,
        session=event.session,
        account=account,
        con_id=one.con_id,
        instrument=one.instrument,
        before=one.ours,
        after=one.theirs,
        cause=cause,
    )
