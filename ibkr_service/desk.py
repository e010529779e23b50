"""What a strategy holds: a view of the market and the account (`view.py`), and a hand to place orders with.

`desk.watch`, `desk.events()`, `desk.option_chain`, `desk.history`, `desk.positions`; `desk.submit`, `desk.cancel`,
`desk.finished`; `desk.book`, `desk.params`.

`submit` is one readable function with no `await` in it, so that nothing can come between the check and the act: risk,
journal, wire. A key names a wish: the same key is the same order, before and after a restart.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import structlog

from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core import risk
from ibkr_service.core.errors import (
    DeskClosed,
    GatewayError,
    InvalidIntent,
    KeyReused,
    Paced,
    Refused,
    UnknownOrder,
)
from ibkr_service.core.orders import Intent, Order
from ibkr_service.core.refs import Refs, digest
from ibkr_service.hub import Hub
from ibkr_service.view import View
from ibkr_service.wire import Watching, Wire

log = structlog.get_logger("ibkr_service.desk")


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
        self._check_open()
        if self._no_orders_because is not None:
            raise Refused("shutdown", "no new orders", self._no_orders_because)
        _check_arguments(intent, key)
        if key is None:
            self._automatic_keys += 1
            key = f"#{self._refs.run_id}.{self._automatic_keys}"
        else:
            known = self._known(intent, key)
            if known is not None:
                return known
        now = self._clock.now()
        mono_s = asyncio.get_running_loop().time()
        refusal = risk.check(intent, self.name, self._limits, self.book, now=now, mono_s=mono_s)
        if refusal is not None:
            log.warning(
                "order refused", strategy=self.name, limit=refusal.limit, allowed=refusal.allowed, asked=refusal.asked
            )
            raise refusal
        default_account = self._wire.check_can_place()  # before the journal: a key is not spent on what cannot leave
        account = intent.account or default_account
        if account not in self.book.accounts:
            raise Refused("account", "one of this login's", "another")
        ref = self._refs.next(self.name, key)
        self._hub.commit(
            ev.OrderSubmitted(at=now, ref=ref, key=key, strategy=self.name, account=account, intent=intent)
        )
        self._send(self.book.orders[ref])
        return ref

    def _known(self, intent: Intent, key: str) -> str | None:
        """The order that this key already stands for, from this run, an earlier one, or a lost journal."""
        order = self.book.order_for_key(self.name, key)
        if order is None:
            return self.book.adopted_ref(self.name, digest(self.name, key))
        if order.intent != intent:
            raise KeyReused(f"key {key!r} stands for {order.intent} ({order.ref}), not for {intent}")
        return order.ref

    def _send(self, order: Order) -> None:
        try:
            order_id, session = self._wire.place(order)
        except (GatewayError, Paced, ConnectionError) as exc:
            self._hub.record(ev.OrderNotSent(at=self._clock.now(), ref=order.ref, reason=str(exc)))
            raise
        self._hub.record(ev.OrderSent(at=self._clock.now(), session=session, ref=order.ref, order_id=order_id))

    def cancel(self, ref: str) -> None:
        """Want an order gone.

        Accepted in any state of the link; sent now, or first thing when the orders are known again.

        Raises:
            UnknownOrder: this service has no such order, or it belongs to another strategy.
        """
        self._check_open()
        order = self.book.orders.get(ref)
        if order is None or order.strategy != self.name:
            raise UnknownOrder(f"strategy {self.name} has no order {ref}")
        if order.done or order.cancel_wanted:
            return
        self._hub.record(ev.CancelRequested(at=self._clock.now(), ref=ref, by=self.name))
        self._wire.cancel(self.book.orders[ref])

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
    if not isinstance(intent, Intent) or not isinstance(key, str | None):
        raise InvalidIntent(f"submit takes an Intent and a text as key, not {intent!r} and {key!r}")
