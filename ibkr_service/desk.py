"""What a strategy holds: a view of the market and the account (`view.py`), and a hand to place orders with.

`desk.watch`, `desk.events()`, `desk.option_chain`, `desk.history`, `desk.positions`; `desk.submit`, `desk.modify`,
`desk.cancel`, `desk.finished`, `desk.preview`; `desk.book`, `desk.params`.

`submit` is one readable function with no `await` in it, so that nothing can come between the check and the act: risk,
journal, wire. A key names a wish: the same key is the same order, before and after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVarTuple

import structlog

from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core import modification, moneyrules, risk
from ibkr_service.core.bracket import Bracket, BracketRefs, OcaType, oca_terms
from ibkr_service.core.combination import Spread
from ibkr_service.core.errors import (
    DeskClosed,
    GatewayError,
    InvalidIntent,
    KeyReused,
    Paced,
    Refused,
    UnknownOrder,
)
from ibkr_service.core.increments import fitted
from ibkr_service.core.instrument import Bag
from ibkr_service.core.orders import Intent, Order
from ibkr_service.core.payoff import Money
from ibkr_service.core.preview import Preview
from ibkr_service.core.refs import Refs, digest
from ibkr_service.hub import Hub
from ibkr_service.view import View
from ibkr_service.wire import Watching, Wire

log = structlog.get_logger("ibkr_service.desk")

What = TypeVarTuple("What")
_KEY_TYPES = frozenset({str, type(None)})
PREVIEW_TIMEOUT_S = 5.0  # TWS answers in well under a second, or never (IB-FACTS 4.5)


class Desk(View):
    """One strategy's place of work.

    Args:
        refs: makes order references. params: the strategy's table of parameters from the settings. limits: the risk
        limits. The others: see `View`.
    """

    def __init__(  # noqa: PLR0913 - a desk is where everything meets
        self,
        name: str,
        *,
        hub: Hub,
        wire: Wire,
        watching: Watching,
        limits: risk.Limits,
        refs: Refs,
        clock: Clock,
        params: dict[str, Any],
        facts_max: int,
        overrun: Callable[[], None],
    ) -> None:
        super().__init__(
            name,
            hub=hub,
            wire=wire,
            watching=watching,
            limits=limits,
            clock=clock,
            facts_max=facts_max,
            overrun=overrun,
        )
        self.params = params
        self._refs = refs
        self._no_orders_because: str | None = None
        self._automatic_keys = 0
        self._named: tuple[str, str] | None = None  # key and reference of the next order that has none of its own
        self._finished: dict[str, list[asyncio.Future[Order]]] = {}

    # --- orders ------------------------------------------------------------------------------------------------------

    def submit(self, intent: Intent, *, key: str | None = None) -> str:
        """Make an order of an intent and send it; returns its reference.

        With a key this can be said again and again, over restarts too: there will be one order. Without, each call is
        a new wish.

        Raises:
            InvalidIntent: it is none. Refused: a limit forbids it. NotReady, Paced: it cannot leave now.
            KeyReused: the key stands for another intent. JournalError: the disk said no. DeskClosed.
            After each of these nothing was sent.
        """
        return self._submit(intent, key, None)

    def submit_leg(self, intent: Intent, *, key: str, known_loss: Money) -> str:
        """As `submit`, for an order that is a part of something whose largest loss was looked at as a whole.

        For `legging.py`: a leg that is sold is covered by those that were bought before it.
        """
        return self._submit(intent, key, known_loss)

    def check_worst_loss(self, loss: Money, what: str) -> None:
        """Whether the limits allow what may be lost, in money.

        Raises:
            Refused: `max_loss`, or a loss without bound.
        """
        refusal = moneyrules.bounded(loss, self._limits, what)
        if refusal is not None:
            raise self._told(refusal)

    def unique_key(self) -> str:
        """A key that nobody has used: for wishes that need no name beyond this run."""
        self._automatic_keys += 1
        return f"#{self._refs.run_id}.{self._automatic_keys}"

    def _name(self) -> tuple[str, str]:
        """A key that nobody has used, and a reference for it."""
        key = self.unique_key()
        return key, self._refs.next(self.name, key)

    def _submit(self, intent: Intent, key: str | None, known_loss: Money | None) -> str:
        if self._closed_because is not None:
            raise DeskClosed(self._closed_because)
        if self._no_orders_because is not None:
            raise Refused("shutdown", "no new orders", self._no_orders_because)
        if type(intent) is not Intent or type(key) not in _KEY_TYPES:
            _check_arguments(intent, key)
        if key is None:
            self._named = self._named or self._name()
            key, ref = self._named
        else:
            known, ref = self._known(intent, key), ""
            if known is not None:
                return known
        wish, intent = intent, self._fitted(intent)
        now = self._clock.now()
        mono_s = asyncio.get_running_loop().time()
        refusal = risk.check(
            intent,
            self.name,
            self._limits,
            self.book,
            now=now,
            mono_s=mono_s,
            hours=self._wire.hours,
            known_loss=known_loss,
        )
        if refusal is not None:
            raise self._told(refusal)
        # Before the journal: a key is not spent on what cannot leave.
        account, order_id, session = self._wire.reserve(intent.account)
        if account not in self.book.accounts:
            raise Refused("account", "one of this login's", "another")
        if ref:
            self._named = None
        else:
            ref = self._refs.next(self.name, key)
        decision = ev.OrderSubmitted(
            at=now,
            session=session,
            ref=ref,
            key=key,
            strategy=self.name,
            account=account,
            intent=intent,
            wish=None if wish is intent else wish,
            order_id=order_id,
        )
        self._send(ref, self._hub.carry_out, decision, self._wire.place)
        self._named = self._named or self._name()  # now that this one is on its way
        return ref

    def submit_bracket(self, bracket: Bracket, *, key: str | None = None) -> BracketRefs:
        """Make orders of an entry and its exits, and send them together; returns their references.

        TWS activates the exits when the entry fills, and cancels the other exit when one has filled. All are in the
        journal, in one step, before a byte leaves; TWS holds the first ones back until it has the last. The key names
        the bracket; the parts' keys are `key/entry`, `key/take profit`, `key/stop loss`.

        Raises:
            As `submit`; after each of these nothing was sent. KeyReused: also a bracket of which this journal knows
            only a part.
        """
        self._check_open()
        if not isinstance(bracket, Bracket):
            raise InvalidIntent(f"submit_bracket takes a Bracket, not {bracket!r}: Bracket.around(entry, …)")
        key = self._group_key(key)
        keys = [f"{key}/{name}" for name in bracket.names]
        refs = self._known_group(bracket.intents, keys)
        if refs is None:
            refs = self._submit_together(bracket.intents, bracket.intents, keys, is_bracket=True)
        of = dict(zip(bracket.names, refs, strict=True))
        return BracketRefs(refs[0], of.get("take profit"), of.get("stop loss"))

    def submit_oca(
        self, intents: Sequence[Intent], *, kind: OcaType = "cancel", key: str | None = None
    ) -> tuple[str, ...]:
        """Submit orders of which one cancels the others when it fills; returns their references.

        Args:
            kind: "cancel" the others, or "reduce" them by what was filled; both protect against filling twice by
            letting only one work at a time where the exchange cannot; "reduce_unblocked" does not.
            key: names the group; the members' keys are `key/1`, `key/2` …

        Raises:
            As `submit_bracket`.
        """
        self._check_open()
        key = self._group_key(key)
        keys = [f"{key}/{number}" for number in range(1, len(intents) + 1)]
        members = oca_terms(intents, f"ibs.{self._refs.run_id}.{self.name}.{digest(self.name, key)}", kind)
        known = self._known_group(tuple(intents), keys)
        return known or self._submit_together(tuple(intents), members, keys, is_bracket=False)

    def _group_key(self, key: str | None) -> str:
        if key is None:
            return self.unique_key()
        if not isinstance(key, str):
            raise InvalidIntent(f"a key is a text, not {key!r}")
        return key

    def _known_group(self, wishes: Sequence[Intent], keys: Sequence[str]) -> tuple[str, ...] | None:
        known = [self._known(intent, key) for intent, key in zip(wishes, keys, strict=True)]
        refs = tuple(ref for ref in known if ref is not None)
        if refs and len(refs) < len(keys):
            raise KeyReused(f"of the orders {', '.join(keys)} only {', '.join(refs)} are known: use another key")
        return refs or None

    def _submit_together(
        self, wishes: Sequence[Intent], intents: Sequence[Intent], keys: Sequence[str], *, is_bracket: bool
    ) -> tuple[str, ...]:
        """Check all, journal all, send all; in a bracket the first one is the parent of the others."""
        if self._no_orders_because is not None:
            raise Refused("shutdown", "no new orders", self._no_orders_because)
        fitted_ones = [self._fitted(intent) for intent in intents]
        now, mono_s = self._clock.now(), asyncio.get_running_loop().time()
        refusal = risk.check_group(
            fitted_ones[1:] if is_bracket else fitted_ones,
            self.name,
            self._limits,
            self.book,
            now=now,
            mono_s=mono_s,
            hours=self._wire.hours,
            parent=fitted_ones[0] if is_bracket else None,
        )
        if refusal is not None:
            raise self._told(refusal)
        self._wire.check_can_place(len(intents))
        facts: list[ev.OrderSubmitted] = []
        for wish, intent, key in zip(wishes, fitted_ones, keys, strict=True):
            account, order_id, session = self._wire.reserve(intent.account)
            if account not in self.book.accounts:
                raise Refused("account", "one of this login's", "another")
            facts.append(
                ev.OrderSubmitted(
                    at=now,
                    session=session,
                    ref=self._refs.next(self.name, key),
                    key=key,
                    strategy=self.name,
                    account=account,
                    intent=intent,
                    wish=None if wish == intent else wish,
                    parent=facts[0].ref if is_bracket and facts else "",
                    order_id=order_id,
                )
            )
        self._hub.commit_all(facts)
        orders = [self.book.orders[fact.ref] for fact in facts]
        if is_bracket:
            self._send_bracket(orders)
        else:
            for order in orders:
                self._send(order.ref, self._wire.place, order)
        return tuple(fact.ref for fact in facts)

    def _send_bracket(self, orders: Sequence[Order]) -> None:
        try:
            sent = self._wire.place_bracket(orders)
        except (GatewayError, Paced, ConnectionError) as exc:
            for order in orders:
                self._hub.record(ev.OrderNotSent(at=self._clock.now(), ref=order.ref, reason=str(exc)))
            raise
        for order, (order_id, session) in zip(orders, sent, strict=True):
            self._hub.record(ev.OrderSent(at=self._clock.now(), session=session, ref=order.ref, order_id=order_id))

    def _fitted(self, intent: Intent) -> Intent:
        """The intent as it can be sent: its fields known, its prices on the instrument's increments."""
        if isinstance(intent.instrument, Bag):
            raise InvalidIntent(f"{intent.instrument} cannot be ordered as it is: make a spread of its legs")
        if intent.fields:
            self._wire.check_fields(intent)
        if isinstance(intent.instrument, Spread):
            self._wire.check_legs(intent.instrument)
        if intent.limit_price is intent.stop_price is None:
            return intent
        limits = self._limits
        try:
            return fitted(
                intent,
                self._wire.increments(intent.instrument),
                off_tick=limits.off_tick,
                unknown_increment=limits.unknown_increment,
            )
        except Refused as refusal:
            raise self._told(refusal) from None

    def _told(self, refusal: Refused) -> Refused:
        """A refusal, after it was logged."""
        log.warning(
            "order refused", strategy=self.name, limit=refusal.limit, allowed=refusal.allowed, asked=refusal.asked
        )
        return refusal

    def _known(self, intent: Intent, key: str) -> str | None:
        """The order that this key already stands for, from this run, an earlier one, or a lost journal."""
        order = self.book.order_for_key(self.name, key)
        if order is None:
            return self.book.adopted_ref(self.name, digest(self.name, key))
        if order.wished != intent:
            raise KeyReused(f"key {key!r} stands for {order.wished} ({order.ref}), not for {intent}")
        return order.ref

    def _send(self, ref: str, place: Callable[[*What], tuple[int, int]], *what: *What) -> None:
        try:
            order_id, session = place(*what)
        except (GatewayError, Paced, ConnectionError) as exc:
            self._hub.record(ev.OrderNotSent(at=self._clock.now(), ref=ref, reason=str(exc)))
            raise
        self._hub.record(ev.OrderSent(at=self._clock.now(), session=session, ref=ref, order_id=order_id))

    def cancel(self, ref: str) -> None:
        """Want an order gone.

        Accepted in any state of the link; sent now, or first thing when the orders are known again.

        Raises:
            UnknownOrder: this service has no such order, or it belongs to another strategy.
        """
        self._check_open()
        order = self._mine(ref)
        if order.done or order.cancel_wanted:
            return
        self._hub.record(ev.CancelRequested(at=self._clock.now(), ref=ref, by=self.name))
        self._wire.cancel(self.book.orders[ref])

    def cancel_all(self) -> tuple[str, ...]:
        """Want every order of this strategy gone that may still fill; returns their references.

        As `cancel`: accepted in any state of the link. Orders of others are not touched.
        """
        self._check_open()
        refs = tuple(order.ref for order in self.book.alive_orders(self.name))
        for ref in refs:
            self.cancel(ref)
        return refs

    def modify(self, ref: str, **changes: Any) -> None:  # noqa: ANN401 - the terms of an Intent
        """Change terms of a working order: `desk.modify(ref, limit_price=D("231.60"), quantity=D(50))`.

        What holds is what the broker then shows: `ModificationSettled` says whether it took the change, and the order
        stays what it was until then, and if the change is refused. `quantity` is that of the whole order, with what is
        filled. Terms: quantity, limit_price, stop_price, trailing_amount, trailing_percent, limit_offset, tif,
        outside_rth. Nothing to change is no message.

        Raises:
            UnknownOrder: this service has no such order, or it belongs to another strategy.
            InvalidIntent: such a change makes no sense. Refused: a limit forbids it, or the order is in no state to be
            changed. NotReady, Paced: it cannot leave now. JournalError: the disk said no. DeskClosed.
            After each of these nothing was sent.
        """
        self._check_open()
        if self._no_orders_because is not None:
            raise Refused("shutdown", "no modified orders", self._no_orders_because)
        order = self._mine(ref)
        try:
            wish = modification.changed(order, changes)
        except Refused as exc:
            raise self._told(exc) from None
        intent = self._fitted(wish)
        if intent == (order.change or order.intent):
            return
        now, mono_s = self._clock.now(), asyncio.get_running_loop().time()
        refusal = risk.check_change(
            intent, self.name, self._limits, self.book, now=now, mono_s=mono_s, hours=self._wire.hours, order=order
        )
        if refusal is not None:
            raise self._told(refusal)
        self._wire.check_can_modify(order)
        self._hub.commit(ev.ModificationRequested(at=now, ref=ref, intent=intent))
        try:
            self._wire.modify(self.book.orders[ref], intent)
        except (GatewayError, Paced, ConnectionError) as exc:
            self._hub.record(ev.ModificationNotSent(at=self._clock.now(), ref=ref, reason=str(exc)))
            raise

    async def preview(self, intent: Intent, timeout_s: float = PREVIEW_TIMEOUT_S) -> Preview:
        """What an order would do to its account: margins before and after, commission. Nothing is placed or journalled.

        Raises:
            InvalidIntent, Refused: it is no order, or its price is off the increments. BrokerRefused: the broker would
            refuse it, with its code and words. RequestTimeout: no answer. UnknownInstrument, NotReady, Paced,
            DeskClosed: as they say.
        """
        self._check_open()
        _check_arguments(intent, None)
        if intent.account and intent.account not in self.book.accounts:
            raise Refused("account", "one of this login's", "another")
        return await self._wire.preview(self._fitted(intent), timeout_s)

    def _mine(self, ref: str) -> Order:
        order = self.book.orders.get(ref)
        if order is None or order.strategy != self.name:
            raise UnknownOrder(f"strategy {self.name} has no order {ref}")
        return order

    def order(self, ref: str) -> Order:
        """The order as it is now.

        Raises:
            UnknownOrder: this service has no such order.
        """
        try:
            return self.book.orders[ref]
        except KeyError:
            raise UnknownOrder(f"there is no order {ref}") from None

    async def finished(self, ref: str) -> Order:
        """Wait until an order has reached its end (filled, cancelled, rejected, absent). UNKNOWN is not an end.

        Raises:
            UnknownOrder: there is none. DeskClosed: the strategy was stopped meanwhile.
        """
        self._check_open()
        if self.order(ref).done:
            return self.order(ref)
        waiter: asyncio.Future[Order] = asyncio.get_running_loop().create_future()
        self._finished.setdefault(ref, []).append(waiter)
        try:
            return await waiter
        finally:
            self._finished[ref].remove(waiter)
            if not self._finished[ref]:
                del self._finished[ref]

    # --- for the supervisor ------------------------------------------------------------------------------------------

    def observe(self, event: ev.Event) -> None:
        """See every recorded event; wakes those who wait for the end of an order."""
        if isinstance(event, ev.OrderChanged) and event.ref in self._finished:
            order = self.book.orders[event.ref]
            if order.done:
                for waiter in self._finished[event.ref]:
                    if not waiter.done():
                        waiter.set_result(order)

    def refuse_orders(self, why: str) -> None:
        """From now on refuse new orders; cancelling and reading go on."""
        self._no_orders_because = why

    def close(self, why: str) -> None:
        """Stop everything: no more events, no more orders; what was watched is watched no longer.

        Orders stay as they are.
        """
        if self.closed:
            return
        super().close(why)
        for waiters in self._finished.values():
            for waiter in waiters:
                if not waiter.done():
                    waiter.set_exception(DeskClosed(why))


def _check_arguments(intent: object, key: object) -> None:
    """Strategies are not type-checked; what they pass is, before it reaches the journal."""
    if not isinstance(intent, Intent) or not (key is None or isinstance(key, str)):
        raise InvalidIntent(f"submit takes an Intent and a text as key, not {intent!r} and {key!r}")
