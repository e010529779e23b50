"""The night's reset: what a gateway that restarts itself goes through once a day, told in the faults' vocabulary.

    23:45:00  IB is lost        1100
    23:45:30  the gateway ends  connections drop, nobody listens
    23:47:00  it listens again, cut off from IB
    23:47:10  IB is back        1101: subscriptions are gone

The times are those of `GatewayConfig.nightly_reset` and the offsets below, of the gateway's own clock. Source: IB's
"System status" page (daily resets around 23:45 to 00:45 US/Eastern) and the gateway's auto-restart.
"""

import asyncio
from datetime import datetime, time, timedelta
from typing import TYPE_CHECKING, Final

from ibkr_service.sim.calendars import at, day_of
from ibkr_service.sim.clock import GatewayClock

if TYPE_CHECKING:
    from ibkr_service.sim.faults import Faults

ENDS_AFTER_S: Final = 30.0
LISTENS_AFTER_S: Final = 90.0
IS_BACK_AFTER_S: Final = 10.0
_DAY = timedelta(days=1)


class Nightly:
    """Resets a gateway every night, until `run` is cancelled.

    Args:
        clock: gateway time.
        faults: how things go wrong.
        moment: when, New York's time.
    """

    def __init__(self, clock: GatewayClock, faults: "Faults", moment: time) -> None:
        self._clock = clock
        self._faults = faults
        self._moment = moment

    async def run(self) -> None:
        """Reset at every return of the moment."""
        while True:
            await self._sleep((self._next() - self._clock.now()).total_seconds())
            await self.reset()

    async def reset(self) -> None:
        """Go through it once."""
        self._faults.cut()
        await self._sleep(ENDS_AFTER_S)
        self._faults.refuse()
        self._faults.drop()
        await self._sleep(LISTENS_AFTER_S)
        await self._faults.accept()
        await self._sleep(IS_BACK_AFTER_S)
        self._faults.restore(data_kept=False)

    def _next(self) -> datetime:
        now = self._clock.now()
        today = at(day_of(now), self._moment)
        return today if today > now else at(day_of(now) + _DAY, self._moment)

    async def _sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds / self._clock.speed)
