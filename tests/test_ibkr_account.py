"""Step 5, account and positions: what the account is worth and what it holds, told in features/account.feature.

The steps are in tests/bdd/account_steps.py.
"""

from __future__ import annotations

from pytest_bdd import scenarios

scenarios("account.feature")
