"""What an order would do to its account, as the broker sees it before it is placed."""

from __future__ import annotations

from decimal import Decimal

import msgspec

from ibkr_service.core.intent import Intent


class Preview(msgspec.Struct, frozen=True, kw_only=True):
    """The broker's answer to a what-if order. Money in the account's base currency; None where TWS has no value.

    Args:
        intent: what was asked about, its prices fitted to the market rule. account: whose margin it is.
        commission: the expected one; if TWS only knows a range, commission_min and commission_max.
        commission_currency: of these three. warning: TWS's words, if it has any.
    """

    intent: Intent
    account: str
    initial_margin_before: Decimal | None = None
    initial_margin_change: Decimal | None = None
    initial_margin_after: Decimal | None = None
    maintenance_margin_before: Decimal | None = None
    maintenance_margin_change: Decimal | None = None
    maintenance_margin_after: Decimal | None = None
    equity_with_loan_before: Decimal | None = None
    equity_with_loan_change: Decimal | None = None
    equity_with_loan_after: Decimal | None = None
    commission: Decimal | None = None
    commission_min: Decimal | None = None
    commission_max: Decimal | None = None
    commission_currency: str = ""
    warning: str = ""
