"""What the broker has told about price increments: per contract its smallest one and its rules, per rule the steps.

Contract details name a market rule for each exchange, and the rule holds the increments from price to price
(reqMarketRule). Details alone give the smallest increment of any price (minTick): what is off that is off in any case.
None of it changes while the service runs.
"""

from __future__ import annotations

from decimal import Decimal
from typing import Any

from ibkr_service.broker import translate
from ibkr_service.core.combination import Spread
from ibkr_service.core.increments import Increments
from ibkr_service.core.instrument import AnyInstrument
from ibkr_service.core.netprice import combo_increment

NO_RULE = 0


class MarketRules:
    """Remembers, and answers without waiting."""

    def __init__(self) -> None:
        self._rule_of: dict[AnyInstrument, int] = {}
        self._finest: dict[AnyInstrument, Increments | None] = {}  # by minTick alone
        self._steps: dict[int, Increments | None] = {}

    def seen(self, instrument: AnyInstrument, details: Any) -> None:
        """Take in contract details."""
        exchanges, rules = details.validExchanges.split(","), details.marketRuleIds.split(",")
        by_exchange = dict(zip(exchanges, rules, strict=False))
        # All venues of a share mostly have one rule; where the instrument's own is not listed, the first one.
        rule = by_exchange.get(getattr(instrument, "exchange", ""), rules[0])
        self._rule_of[instrument] = int(rule) if rule.isdigit() else NO_RULE
        smallest = translate.optional_decimal(details.minTick)
        self._finest[instrument] = Increments.of([(Decimal(0), smallest)]) if smallest is not None else None

    def told(self, rule: int, steps: Any) -> None:
        """Take in the steps of a rule."""
        pairs = [(translate.decimal(float(step.lowEdge)), translate.decimal(float(step.increment))) for step in steps]
        self._steps[rule] = Increments.of(pairs)

    def rule_of(self, instrument: AnyInstrument) -> int | None:
        """The rule of an instrument; NO_RULE if it has none, None if its details were never seen."""
        return self._rule_of.get(instrument)

    def has(self, rule: int) -> bool:
        """Whether the steps of a rule are known."""
        return rule in self._steps

    def is_whole(self, instrument: AnyInstrument) -> bool:
        """Whether there is nothing left to ask about an instrument."""
        rule = self._rule_of.get(instrument)
        return rule == NO_RULE or rule in self._steps

    def increments(self, instrument: AnyInstrument) -> Increments | None:
        """What is known of an instrument's increments."""
        rule = self._rule_of.get(instrument)
        if rule is None:
            return None
        return self._steps.get(rule) or self._finest.get(instrument)

    def combined(self, spread: Spread) -> Increments | None:
        """Those of a combination, which has no rule of its own; None if a leg's are not known."""
        finest = []
        for leg in spread.legs:
            known = self.increments(leg.instrument)
            if known is None:
                return None
            finest.append(min(step for _, step in known.steps))
        return Increments.of([(Decimal(0), combo_increment(finest))])
