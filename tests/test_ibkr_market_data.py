"""Step 3, market data: quotes, and what becomes of them, told in features/market_data.feature.

The steps are in tests/bdd/market_steps.py.
"""

from __future__ import annotations

from pytest_bdd import scenarios

scenarios("market_data.feature")
