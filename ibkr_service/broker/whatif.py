"""What-if orders: margin and commission before an order is placed.

ib_insync's `whatIfOrderAsync` hangs if TWS only warns, and completes with a first answer in which everything is unset:
it compares with Python's `1.797…e+308`, TWS writes `1.797…E308` (IB-FACTS 4.5). Here an answer is one with a margin in
it, an error that would refuse the order ends the wait, and so does a time limit.
"""

from __future__ import annotations

from decimal import Decimal, InvalidOperation
from typing import TYPE_CHECKING, Any

from ibkr_service.broker import codes, translate
from ibkr_service.core.errors import BrokerRefused
from ibkr_service.core.intent import Intent
from ibkr_service.core.preview import Preview

if TYPE_CHECKING:
    from ibkr_service.broker.ib import IB

REFUSING = frozenset({"rejected", "doubtful", "cancelled"})


async def preview(ib: IB, contract: Any, intent: Intent, account: str, timeout_s: float) -> Preview:
    """Ask what an order would do. Nothing is placed.

    Args:
        contract: the intent's, as the library describes it. timeout_s: how long to wait for the answer.

    Raises:
        BrokerRefused: the order would be refused. RequestTimeout: no answer. Paced: no sending allowance is left.
        NotReady: the connection went down.
    """
    order = translate.order_of(intent, "", account)
    order.whatIf = True
    what = f"what-if of {intent}"
    request = ib.client.getReqId()

    def on_message(about: int, code: int, text: str, _json: str) -> None:
        waiting = ib.wrapper._futures.get(request)  # noqa: SLF001 - as ib.py: where the library keeps what is under way
        if about == request and waiting is not None and not waiting.done() and codes.order_meaning(code) in REFUSING:
            waiting.set_exception(BrokerRefused(code, text, what))

    def ask() -> Any:
        # The library's whatIfOrderAsync, but for the id, which it keeps to itself.
        answer = ib.wrapper.startReq(request, contract)
        ib.client.placeOrder(request, contract, order)
        return answer

    ib.messageEvent += on_message
    try:
        state = await ib.request(what, ask, timeout_s)
    finally:
        ib.messageEvent -= on_message
    return _preview(state, intent, account)


def has_margin(state: Any) -> bool:
    """Whether an order state says anything about margin; before it does, TWS sends one in which all is unset."""
    return _number(state.initMarginAfter) is not None or _number(state.initMarginChange) is not None


def _preview(state: Any, intent: Intent, account: str) -> Preview:
    return Preview(
        intent=intent,
        account=account,
        initial_margin_before=_number(state.initMarginBefore),
        initial_margin_change=_number(state.initMarginChange),
        initial_margin_after=_number(state.initMarginAfter),
        maintenance_margin_before=_number(state.maintMarginBefore),
        maintenance_margin_change=_number(state.maintMarginChange),
        maintenance_margin_after=_number(state.maintMarginAfter),
        equity_with_loan_before=_number(state.equityWithLoanBefore),
        equity_with_loan_change=_number(state.equityWithLoanChange),
        equity_with_loan_after=_number(state.equityWithLoanAfter),
        commission=_number(state.commission),
        commission_min=_number(state.minCommission),
        commission_max=_number(state.maxCommission),
        commission_currency=state.commissionCurrency,
        warning=state.warningText,
    )


def _number(value: Any) -> Decimal | None:
    """A figure; None for what is empty, unset in any spelling, or no number."""
    if isinstance(value, float):
        return translate.optional_decimal(value)
    try:
        number = Decimal(value)
    except (InvalidOperation, TypeError, ValueError):
        return None
    return number if number.is_finite() and abs(number) < translate.UNSET_FROM else None
