"""What one connection subscribes to of its accounts, beyond the look that makes it READY.

The look asks for all positions, and for the values and the portfolio of the account in use; TWS has one such
subscription at a time. Here is the rest, each as its own request, so that one that is refused costs only itself:

- the profit and loss of every account (`reqPnL`) and of every position held (`reqPnLSingle`), subscribed when a
  position appears and cancelled when it is gone; TWS may have none to offer, so nothing waits for them;
- the values of the login's other accounts, by `reqAccountUpdatesMulti`: the same tags as those of the account in use,
  by the same event, with a word at the end. (`reqAccountSummary` may be asked twice at a time, and has fewer tags.)

None of it keeps the link from READY. After 1100, 1101 or 1102 all of it is cancelled and asked for again, since nobody
says which of it survived. It dies with its connection.

The requests leave after all others (`pacer`): two hundred positions must not delay a quote.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import datetime
from typing import Any

import structlog

from ibkr_service.broker.ib import IB
from ibkr_service.clock import Clock
from ibkr_service.core import events as ev
from ibkr_service.core.account import Holding
from ibkr_service.core.errors import BrokerRefused, RequestTimeout

log = structlog.get_logger("ibkr_service.broker")

WARNINGS = range(2100, 2200)  # TWS's range: 2150 says that a position has no derived value now; the stream goes on


class AccountUpdates:
    """The subscriptions of one connection to what its accounts are worth.

    Args:
        ib: the connection. session: its number. put: takes facts (the inbox).
    """

    def __init__(self, ib: IB, *, session: int, clock: Clock, put: Callable[[ev.Event], None]) -> None:
        self._ib = ib
        self._session = session
        self._clock = clock
        self._put = put
        self._held: dict[Holding, datetime] = {}  # and when the broker last said so
        self._accounts: tuple[str, ...] = ()
        self._requests: dict[str, int] = {}  # account that is not in use -> the request for its values
        self._downloaded: dict[str, int] = {}  # … -> the generation in which they came
        self._told: set[str] = set()  # … whose values did not come, which was said once
        self._verified = False  # a look was taken, and nothing has made it doubtful since
        self._generation = 0
        self._changed = asyncio.Event()
        self._looked = asyncio.Event()
        ib.positionEvent += self._on_position
        ib.messageEvent += self._on_message

    def close(self) -> None:
        """Listen no more."""
        self._ib.positionEvent -= self._on_position
        self._ib.messageEvent -= self._on_message

    # --- what is told ------------------------------------------------------------------------------------------------

    def looked(self, look: ev.Snapshot) -> None:
        """Everything was verified: positions that this look did not show are gone."""
        self._held = {holding: at for holding, at in self._held.items() if at >= look.asked_at}
        self._accounts = look.accounts
        self._verified = True
        self._changed.set()
        self._looked.set()

    def interrupted(self) -> None:
        """1100, 1101 or 1102: whatever flowed may flow no longer."""
        self._verified = False
        self._generation += 1

    def _on_position(self, held: Any) -> None:
        holding = (held.account, held.contract.conId)
        if held.position:
            self._held[holding] = self._clock.now()
        else:
            self._held.pop(holding, None)
        self._changed.set()

    def _on_message(self, request: int, code: int, text: str, _json: str) -> None:
        """Say of which account the broker refuses the profit and loss; the figures stay unknown."""
        wrapper = self._ib.wrapper
        live = wrapper.reqId2PnL.get(request) or wrapper.reqId2PnlSingle.get(request)
        if live is not None and code not in WARNINGS:
            con_id = getattr(live, "conId", None)
            log.warning("no profit and loss", account=live.account, con_id=con_id, code=code, text=text)

    # --- keeping it true ---------------------------------------------------------------------------------------------

    async def keep(self, account: str, timeout_s: float) -> None:
        """Keep the subscriptions what they should be, until cancelled.

        Args:
            account: the one in use, whose values the look brings. timeout_s: the limit for the values of another one.

        Raises:
            ConnectionError, NotReady: the socket is gone.
        """
        async with asyncio.TaskGroup() as keepers:
            keepers.create_task(self._keep_pnl(), name="accounts:pnl")
            keepers.create_task(self._keep_others(account, timeout_s), name="accounts:others")

    async def _keep_pnl(self) -> None:
        generation = self._generation
        while True:
            await self._changed.wait()
            self._changed.clear()
            if not self._verified:
                continue
            if generation != self._generation:
                generation = self._generation
                self._cancel_pnl(all_of_it=True)
            self._cancel_pnl(all_of_it=False)
            self._request_pnl()

    def _cancel_pnl(self, *, all_of_it: bool) -> None:
        """End the subscriptions of positions that are gone, or every one."""
        ib = self._ib
        for account, model, con_id in list(ib.wrapper.pnlSingleKey2ReqId):
            if all_of_it or (account, con_id) not in self._held:
                ib.cancelPnLSingle(account, model, con_id)
        if all_of_it:
            for account, model in list(ib.wrapper.pnlKey2ReqId):
                ib.cancelPnL(account, model)

    def _request_pnl(self) -> None:
        ib = self._ib
        for account in self._accounts:
            if (account, "") not in ib.wrapper.pnlKey2ReqId:
                ib.reqPnL(account)
        for account, con_id in self._held:
            if (account, "", con_id) not in ib.wrapper.pnlSingleKey2ReqId:
                ib.reqPnLSingle(account, "", con_id)

    async def _keep_others(self, account: str, timeout_s: float) -> None:
        """Subscribe to the values of every other account; what did not come is asked for again after the next look."""
        while True:
            await self._looked.wait()
            self._looked.clear()
            for other in self._accounts:
                if other != account and self._verified and self._downloaded.get(other) != self._generation:
                    await self._download(other, timeout_s)

    async def _download(self, account: str, timeout_s: float) -> None:
        ib, generation = self._ib, self._generation
        if account in self._requests:
            ib.client.cancelAccountUpdatesMulti(self._requests.pop(account))
        self._requests[account] = request = ib.client.getReqId()

        def ask() -> Awaitable[None]:
            # As the library's reqAccountUpdatesMultiAsync, which keeps the request id to itself.
            answer: asyncio.Future[None] = ib.wrapper.startReq(request)
            ib.client.reqAccountUpdatesMulti(request, account, "", False)
            return answer

        try:
            await ib.request("values of another account", ask, timeout_s)
        except (BrokerRefused, RequestTimeout) as exc:
            if generation == self._generation and account not in self._told:
                self._told.add(account)
                log.warning("no values of an account", account=account, error=str(exc))
        else:
            if generation == self._generation:
                self._downloaded[account] = generation
                self._put(ev.AccountDownloaded(at=self._clock.now(), session=self._session, account=account))
