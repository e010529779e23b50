"""What happens at the gateway, for those who wait for it: "when the next order arrives".

A script of misfortunes has to strike at a moment that nobody can name beforehand. What happens is told at once and
synchronously; who waits goes on in the loop's next turn, after everything that belongs to the same happening.
"""

import asyncio
from typing import Any, Final

ORDER: Final = "order"
"""An order has been taken; the thing is the `Order`."""

LOGIN: Final = "login"
"""A client's session has begun; the thing is the `Session`."""

EXECUTION: Final = "execution"
"""Something has changed hands; the thing is the `Execution`."""


class Occasions:
    """Who waits for what. The kind is one of the above, or the number of a request that a client makes."""

    def __init__(self) -> None:
        self._waiting: dict[str | int, list[asyncio.Future[Any]]] = {}

    def tell(self, kind: str | int, thing: object) -> None:
        """It has happened."""
        if self._waiting:
            for waiter in self._waiting.pop(kind, ()):
                if not waiter.done():
                    waiter.set_result(thing)

    @property
    def is_awaited(self) -> bool:
        """Whether somebody waits for something."""
        return any(not waiter.done() for waiters in self._waiting.values() for waiter in waiters)

    async def next(self, kind: str | int) -> Any:  # noqa: ANN401  the kind says what
        """Wait until it happens the next time; returns what it happened to."""
        waiter: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting.setdefault(kind, []).append(waiter)
        return await waiter
