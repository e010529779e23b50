"""What a combination costs now, from the quotes of its legs.

IB quotes a BAG on request, but a line for it says nothing about why it is silent, and the legs are watched anyway (for
greeks, for risk). So the net quote is made of theirs: who buys the LONG side buys the bought legs at their ask and
sells the sold ones at their bid. It is the worst that a market order should pay; the exchanges' complex books are
mostly better.
"""

from __future__ import annotations

from collections.abc import Callable
from decimal import Decimal

import msgspec

from ibkr_service.core.combination import Spread
from ibkr_service.core.events import Tick
from ibkr_service.core.instrument import Action, AnyInstrument

QuoteOf = Callable[[AnyInstrument], Tick]


class NetQuote(msgspec.Struct, frozen=True):
    """At what net price the LONG side could be sold and bought: signed, per unit of the underlying, > 0 is a debit."""

    bid: Decimal
    ask: Decimal

    @property
    def mid(self) -> Decimal:
        """Halfway."""
        return (self.bid + self.ask) / 2

    def side(self, action: Action) -> Decimal:
        """What somebody who does this trades at."""
        return self.ask if action == "BUY" else self.bid


def net_quote(spread: Spread, quote_of: QuoteOf) -> NetQuote:
    """The net quote.

    Args:
        quote_of: the usable quote of a leg: live, with both sides (`risk.why_unusable` is asked first).
    """
    bid = ask = Decimal(0)
    for leg in spread.legs:
        quote = quote_of(leg.instrument)
        assert quote.bid is not None, "a usable quote has both sides"
        assert quote.ask is not None, "a usable quote has both sides"
        low, high = Decimal(repr(quote.bid)), Decimal(repr(quote.ask))
        weight = spread.weight(leg)
        bid += weight * (low if weight > 0 else high)
        ask += weight * (high if weight > 0 else low)
    return NetQuote(bid, ask)
