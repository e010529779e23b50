"""Outages and endings, told in features/reconnect.feature and features/shutdown.feature.

The steps are in tests/bdd/reconnect_steps.py.
"""

from __future__ import annotations

from pytest_bdd import scenarios

scenarios("reconnect.feature", "shutdown.feature")
