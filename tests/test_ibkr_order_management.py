"""Orders: placed, changed, cancelled, previewed, refused, told in features/orders.feature; limits in risk.feature.

The steps are in tests/bdd/order_steps.py and tests/bdd/risk_steps.py.
"""

from __future__ import annotations

from pytest_bdd import scenarios

scenarios("orders.feature", "risk.feature")
