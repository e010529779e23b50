"""What the operator's verbs do: stop entries, resume, cancel all, halt, flatten, and say how things are.

Each is asked over the control socket (`control.py`) or by whoever holds the service. What a person decided about
trading as a whole is a fact in the journal, and holds over restarts and crashes until it is taken back.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Collection
from typing import Any

import structlog

from ibkr_service import __version__
from ibkr_service.app import App
from ibkr_service.closing import Closing, worded
from ibkr_service.control import Answer, Request
from ibkr_service.core import events as ev
from ibkr_service.core.errors import ServiceError
from ibkr_service.core.orders import Order
from ibkr_service.log import mask_account, mask_accounts
from ibkr_service.reconciliation import Reconciliation

log = structlog.get_logger("ibkr_service.operator")

LOOKING = frozenset({"status", "orders", "positions", "account"})
CONFIRM_S = 5.0  # how long the broker's word on cancellations is waited for
LOOK_S = 0.05


class Operations:
    """The verbs, for one service."""

    def __init__(self, app: App) -> None:
        self._app = app
        self._closing = asyncio.Lock()
        self._under_way: Closing | None = None
        self._verbs: dict[str, Callable[[Request], Any]] = {
            "status": self._status,
            "orders": self._orders,
            "positions": self._positions,
            "account": self._account,
            "stop-entries": self._stop_entries,
            "resume": self._resume,
            "cancel-all": self._cancel_all,
            "halt": self._halt,
            "flatten": self._flatten,
            "accept": self._accept,
        }

    async def handle(self, request: Request) -> Answer:
        """Do what is asked, and say what was done."""
        verb = self._verbs.get(request.verb)
        if verb is None:
            return Answer(ok=False, error=f"there is no verb {request.verb!r}, only {', '.join(self._verbs)}")
        if request.verb not in LOOKING:
            log.warning("operator", verb=request.verb, by=request.by, preview=request.preview)
        answer: Answer = await verb(request)
        return answer

    # --- looking -----------------------------------------------------------------------------------------------------

    async def _status(self, _request: Request) -> Answer:
        book = self._app.book
        alive = list(book.alive_orders())
        quarantines = {mask_account(account): began.why for account, began in book.quarantines.items()}
        lag = self._app.lag
        data: dict[str, object] = {
            "version": __version__,
            "run_id": self._app.run_id,
            "mode": self._app.config.session.mode,
            "link": book.link.name,
            "account": mask_account(book.account) if book.account else "",
            "trading": book.operator.word,
            "only_reducing_because": book.only_reducing(book.account),
            "quarantines": quarantines,
            "read_only": self._app.config.limits.read_only,
            "working_orders": len(alive),
            "orders_of_others": len(book.foreign_orders),
            "positions": sum(1 for held in book.positions.values() if held.quantity),
            "strategies": [spec.name for spec in self._app.supervisor.specs],
            "recovering": self._app.session.recovery.step,
            "loop_holds": lag.holds,
            "loop_held_worst_s": round(lag.worst_s, 1),
        }
        because = f": {data['only_reducing_because']}" if data["only_reducing_because"] else ""
        text = (
            f"link {data['link']}, mode {data['mode']}, account {data['account'] or 'not known yet'}",
            f"trading {data['trading']}{because}",
            f"{len(alive)} working orders, {data['orders_of_others']} of others; contracts held: {data['positions']}",
            *([f"recovering: {data['recovering']}"] if data["recovering"] else []),
            *([f"our own loop stood still {lag.holds} times, {lag.worst_s:.1f} s at worst"] if lag.holds else []),
            *(f"{account} in quarantine: {why}" for account, why in quarantines.items()),
        )
        return Answer(ok=True, text=text, data=data)

    async def _orders(self, _request: Request) -> Answer:
        book = self._app.book
        ours = [_order_row(order) for order in book.alive_orders()]
        others = [
            {
                "perm_id": order.perm_id,
                "client_id": order.client_id,
                "order": f"{order.action} {order.quantity:f} {order.instrument} {order.order_type}",
                "status": order.status,
            }
            for order in book.foreign_orders.values()
        ]
        text = [f"{row['ref']}  {row['state']}  {row['order']}, {row['filled']} filled" for row in ours]
        text += [f"of client {row['client_id']}  {row['status']}  {row['order']}" for row in others]
        return Answer(ok=True, text=tuple(text or ["no working orders"]), data={"ours": ours, "others": others})

    async def _positions(self, _request: Request) -> Answer:
        book = self._app.book
        held = book.held_positions()
        text = tuple(f"{worded(one.quantity)} {instrument}" for instrument, one in held.items()) or ("no positions",)
        return Answer(ok=True, text=text, data=(book.account, list(held.values())))

    async def _account(self, _request: Request) -> Answer:
        summary = self._app.book.account_summary()
        worth = "unknown" if summary.net_liquidation is None else worded(summary.net_liquidation)
        text = (f"{mask_account(summary.account)}: net liquidation {worth} {summary.base_currency or ''}".rstrip(),)
        return Answer(ok=True, text=text, data=summary)

    # --- deciding ----------------------------------------------------------------------------------------------------

    def _say(self, verb: ev.OperatorVerb, by: str) -> None:
        """Put it on record. A disk that refuses does not keep anybody from stopping: the fact is kept in memory."""
        self._app.hub.record(ev.OperatorSaid(at=self._app.clock.now(), verb=verb, by=by))

    def _state(self) -> str:
        because = self._app.book.only_reducing(self._app.book.account)
        return f"only orders that reduce a position leave now: {because}" if because else "all orders may leave"

    async def _stop_entries(self, request: Request) -> Answer:
        if request.preview:
            return Answer(ok=True, text=("would let only orders leave that reduce a position; nothing was done",))
        self._say("stop-entries", request.by)
        working = sum(1 for _ in self._app.book.alive_orders())
        text = (self._state(), f"{working} working orders stay as they are (cancel-all ends them)")
        return Answer(ok=True, text=text, data={"trading": self._app.book.operator.word, "working_orders": working})

    async def _resume(self, request: Request) -> Answer:
        if request.preview:
            return Answer(ok=True, text=("would let all orders leave again; nothing was done",))
        self._say("resume", request.by)
        return Answer(ok=True, text=(self._state(),), data={"trading": self._app.book.operator.word})

    async def _accept(self, request: Request) -> Answer:
        """Take every account in quarantine as the broker shows it, and as over each order that is unaccounted for."""
        book = self._app.book
        shown = tuple(Reconciliation.of_book(book).lines())
        accounts = list(book.quarantines)
        refs = [order.ref for order in book.unaccounted()]
        if not accounts and not refs:
            nothing = "no account is in quarantine, and all orders are accounted for: nothing was done"
            return Answer(ok=True, text=(*shown, nothing))
        if request.preview:
            return Answer(ok=True, text=(*shown, "would accept this; nothing was done"))
        for account in accounts:
            self._app.accept_quarantine(account, request.by)
        for ref in refs:
            self._app.accept_order(ref, request.by)
        taken = ", ".join([mask_account(account) for account in accounts] + refs)
        data = {"accepted": len(accounts), "orders": refs}
        return Answer(ok=True, text=(*shown, f"accepted: {taken}", self._state()), data=data)

    async def _cancel_all(self, request: Request) -> Answer:
        if request.preview:
            alive = [_order_row(order) for order in self._app.book.alive_orders()]
            text = tuple(f"would cancel {row['ref']}: {row['order']}" for row in alive) or ("no working orders",)
            return Answer(ok=True, text=text, data={"orders": alive})
        self._stop_closing(request)
        return self._cancelled(await self.cancel_all(request.by))

    async def _halt(self, request: Request) -> Answer:
        if request.preview:
            return await self._cancel_all(request)
        self._say("halt", request.by)
        self._stop_closing(request)
        cancelled = self._cancelled(await self.cancel_all(request.by))
        return Answer(
            ok=cancelled.ok, text=(self._state(), *cancelled.text), data=cancelled.data, error=cancelled.error
        )

    def _stop_closing(self, request: Request) -> None:
        """What is cancelled now is not to be sent again by a flatten that is under way."""
        if self._under_way is not None:
            self._under_way.stop(f"{request.by} said {request.verb} meanwhile")

    async def cancel_all(self, by: str, *, but: Collection[str] = ()) -> tuple[str, ...]:
        """Want every order of this service gone, and wait for the broker's word; returns their references.

        Args:
            but: orders that are left as they are.
        """
        refs = tuple(order.ref for order in self._app.book.alive_orders() if order.ref not in but)
        for ref in refs:
            self._app.cancel(ref, by)
        loop = asyncio.get_running_loop()
        give_up_s = loop.time() + CONFIRM_S
        orders = self._app.book.orders
        while any(orders[ref].alive for ref in refs) and loop.time() < give_up_s:  # noqa: ASYNC110 - of many orders
            await asyncio.sleep(LOOK_S)
        return refs

    def _cancelled(self, refs: tuple[str, ...]) -> Answer:
        book = self._app.book
        left = [ref for ref in refs if book.orders[ref].alive]
        filled = [ref for ref in refs if ref not in left and book.orders[ref].remaining == 0]
        text = [f"{len(refs) - len(left) - len(filled)} orders cancelled"]
        if filled:
            text.append(f"{len(filled)} had filled: {', '.join(filled)}")
        if book.foreign_orders:
            text.append(f"{len(book.foreign_orders)} orders of others were left alone")
        error = ""
        if left:
            error = (
                f"{len(left)} orders are not confirmed as cancelled (link {book.link.name}): {', '.join(left)}. "
                "The wish stays, and goes out first when it can"
            )
        return Answer(ok=not left, text=tuple(text), data={"cancelled": refs, "unconfirmed": left}, error=error)

    async def _flatten(self, request: Request) -> Answer:
        """Stop entries, cancel what works, close what is held; in stages, and never so that a sold option is naked."""
        if self._closing.locked():
            return Answer(ok=False, error="positions are being closed already: wait for it, or halt")
        async with self._closing:
            closing = Closing(self._app)
            if request.preview:
                steps = await closing.preview()
                return Answer(ok=True, text=(*steps, "nothing was done"), data={"steps": steps})
            self._under_way = closing
            if not self._app.book.operator.is_halted:
                self._say("stop-entries", request.by)
            unaccounted = {order.ref for order in self._app.book.unaccounted()}  # the broker does not hold them
            cancelled = self._cancelled(await self.cancel_all(request.by, but=unaccounted))
            if not cancelled.ok:
                return cancelled
            try:
                done, left = await closing.run()
            except ServiceError as exc:
                return Answer(ok=False, text=cancelled.text, error=mask_accounts(str(exc)))
            error = f"not closed: {'; '.join(left)}" if left else ""
            if left and unaccounted:
                error += f"; orders that cannot be accounted for stand in the way: {', '.join(sorted(unaccounted))}"
                error += " (reconcile --accept ends them)"
            text = (*cancelled.text, *done, self._state() + " (resume ends that)")
            return Answer(ok=not left, text=text, data={"done": done, "left": left}, error=error)


def _order_row(order: Order) -> dict[str, str]:
    return {
        "ref": order.ref,
        "strategy": order.strategy,
        "state": order.state.name,
        "order": str(order.intent),
        "filled": worded(order.filled),
    }
