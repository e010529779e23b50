"""Step 3, market data: option chains, told in features/option_chain.feature."""

from __future__ import annotations

from pytest_bdd import scenarios

scenarios("option_chain.feature")
