"""How long to wait between attempts to connect.

The first delay is short and random, so that many clients do not knock in step after the nightly restart; then it
grows by the golden ratio up to the cap. Aborted handshakes wedge a gateway's accept queue (ib_insync #386), hence
never faster than `min_s`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

FACTOR = 1.618
JITTER = 0.2  # each delay is spread by ±20 %


def delays(uniform: Callable[[float, float], float], *, min_s: float, max_s: float) -> Iterator[float]:
    """Yield waiting times in seconds, for ever, each within [min_s, max_s].

    Args:
        uniform: `random.Random.uniform` of the injected generator.
        min_s: the shortest wait. max_s: the longest.
    """
    delay_s = min_s
    while True:
        yield min(max_s, max(min_s, delay_s * uniform(1 - JITTER, 1 + JITTER)))
        delay_s = min(max_s, delay_s * FACTOR)
