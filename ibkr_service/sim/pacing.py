"""IB's limits on requests for history, per client id and in gateway time.

* no more than 60 requests in ten minutes, BID_ASK counting twice;
* not the same request twice within 15 seconds;
* fewer than six requests for the same contract, exchange and kind of data within two seconds;
* no more than 50 requests open at a time.

As at IB, the first three hold for bars of 30 seconds or less and for ticks.
Source: TWS API documentation, "Historical Data Limitations".
"""

from collections import deque
from typing import Final

from ibkr_service.sim.rules import Refused

REQUESTS_MAX: Final = 60
REQUESTS_WINDOW_S: Final = 600.0
IDENTICAL_WINDOW_S: Final = 15.0
SIMILAR_MAX: Final = 5
SIMILAR_WINDOW_S: Final = 2.0
OPEN_MAX: Final = 50
PACED_SIZE_MAX_S: Final = 30

VIOLATION: Final = "Historical Market Data Service error message:Historical data request pacing violation"

_Asked = tuple[float, str, str, int]


class Pacing:
    """What clients have asked lately, by client id."""

    def __init__(self) -> None:
        self._asked: dict[int, deque[_Asked]] = {}

    def admit(self, client_id: int, now_s: float, request: str, subject: str, weight: int = 1) -> None:
        """Count a request.

        Args:
            client_id: who asks.
            now_s: gateway seconds.
            request: all of it, in words.
            subject: contract, exchange and kind of data.
            weight: how many requests it counts for.

        Raises:
            Refused: it comes too soon; it is not counted.
        """
        asked = self._asked.setdefault(client_id, deque())
        while asked and now_s - asked[0][0] >= REQUESTS_WINDOW_S:
            asked.popleft()
        similar = sum(past[2] == subject and now_s - past[0] < SIMILAR_WINDOW_S for past in asked)
        identical = any(past[1] == request and now_s - past[0] < IDENTICAL_WINDOW_S for past in asked)
        if identical or similar >= SIMILAR_MAX or sum(past[3] for past in asked) + weight > REQUESTS_MAX:
            raise Refused(162, VIOLATION)
        asked.append((now_s, request, subject, weight))
