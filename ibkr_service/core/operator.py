"""What a person has said about trading as a whole: go on, no entries, or halt. It holds until the person says else."""

from __future__ import annotations

import msgspec

from ibkr_service.core import events as ev

OPERATOR = "operator"  # whose the orders are that close positions; no strategy may have this name


class OperatorState(msgspec.Struct, frozen=True):
    """The newest word of the operator. Begins with none: trading is open."""

    said: ev.OperatorSaid | None = None

    def after(self, event: ev.OperatorSaid) -> OperatorState:
        """The state after another word. A halt is not softened by stop-entries: only `resume` ends it."""
        if event.verb == "resume":
            return OperatorState()
        if event.verb == "stop-entries" and self.is_halted:
            return self
        return OperatorState(event)

    @property
    def is_halted(self) -> bool:
        """Whether all was stopped."""
        return self.said is not None and self.said.verb == "halt"

    @property
    def word(self) -> str:
        """The state in one word or two."""
        if self.said is None:
            return "open"
        return "halted" if self.is_halted else "entries stopped"

    @property
    def why_only_reducing(self) -> str | None:
        """Why only orders that reduce a position may leave; None: all may."""
        if self.said is None:
            return None
        return f"{self.word} by {self.said.by} at {self.said.at:%Y-%m-%d %H:%M:%S} UTC"
