"""Misfortunes, with a vocabulary: what a test or a rehearsal says to make things go wrong.

Between the gateway and IB
    `cut` · `restore` · `farm_down` · `farm_up` · `compete` · `stop_competing`
Between the client and the gateway
    `drop` · `refuse` · `accept` · `mute` · `unmute` · `stall` · `resume` · `accept_and_close`
In what the gateway says
    `ignore` · `lose` · `roll_back_ids` · `reject_next` · `false_cancel` · `duplicate_status` · `heal`
"""

from typing import TYPE_CHECKING, Final

from ibkr_service.sim.gateway import CONNECTIVITY_LOST, FARM_BROKEN, FARM_OK, Gateway
from ibkr_service.sim.marketdata import COMPETING_SESSION
from ibkr_service.sim.messages import Answer, Request, named
from ibkr_service.sim.misfortunes import Misfortunes

if TYPE_CHECKING:
    from ibkr_service.sim.server import Server

RESTORED_EMPTY: Final = (
    1101,
    (
        "Connectivity between IB and Trader Workstation has been restored - data lost."
        " All data requests need to be resubmitted."
    ),
)
RESTORED: Final = (
    1102,
    (
        "Connectivity between IB and Trader Workstation has been restored - data maintained."
        " All data farms are connected: usfarm; ushmds; secdefnj."
    ),
)


class Faults:
    """Makes things go wrong, and right again."""

    def __init__(self, gateway: Gateway, server: "Server") -> None:
        self._gateway = gateway
        self._server = server

    # Between the gateway and IB.

    def cut(self) -> None:
        """The gateway loses IB: 1100 to every client, no ticks; orders and questions wait, and so do fills."""
        self._gateway.is_cut = True
        self._gateway.notify(*CONNECTIVITY_LOST)

    def restore(self, *, data_kept: bool, lose_reports: bool = False) -> None:
        """IB is back: 1102, or 1101 when subscriptions were silently dropped.

        Args:
            data_kept: whether market data subscriptions survived.
            lose_reports: never tell what happened to orders meanwhile, as IB sometimes does.
        """
        gateway = self._gateway
        gateway.is_cut = False
        if not data_kept:
            for session in gateway.sessions:
                for (kind, stream_id), stream in list(session.streams.items()):
                    if stream.is_market_data:
                        session.close_stream(kind, stream_id)
        gateway.notify(*(RESTORED if data_kept else RESTORED_EMPTY))
        gateway.reporter.release(lose=lose_reports)
        gateway.resume_upstream()

    def farm_down(self) -> None:
        """The market data farm breaks: 2103, and no more ticks."""
        self._gateway.farm_is_down = True
        self._gateway.notify(*FARM_BROKEN)

    def farm_up(self) -> None:
        """The market data farm is back: 2104, and ticks again."""
        self._gateway.farm_is_down = False
        self._gateway.notify(*FARM_OK)

    def compete(self) -> None:
        """The user logs in elsewhere and takes the market data: 10197 on each line, and when one is asked for."""
        self._gateway.data_is_elsewhere = True
        for session in self._gateway.sessions:
            for (kind, stream_id), stream in list(session.streams.items()):
                if stream.is_market_data:
                    session.close_stream(kind, stream_id)
                    session.error(stream_id, *COMPETING_SESSION)

    def stop_competing(self) -> None:
        """The other session has ended; nobody is told."""
        self._gateway.data_is_elsewhere = False

    # Between the client and the gateway.

    def drop(self) -> None:
        """Abort every connection."""
        self._server.drop()

    def refuse(self) -> None:
        """Stop listening: new connections are refused, present ones stay."""
        self._server.refuse()

    async def accept(self) -> None:
        """Listen again, on the same port."""
        await self._server.accept()

    def mute(self) -> None:
        """From now on accept connections, but never answer on them."""
        self._server.is_mute = True

    def unmute(self) -> None:
        """Answer new connections again; those accepted meanwhile stay unanswered."""
        self._server.is_mute = False

    def stall(self) -> None:
        """Freeze: sockets stay open, nothing is read and nothing is sent."""
        self._server.stall()

    def resume(self) -> None:
        """Thaw: what waited in both directions flows."""
        self._server.resume()

    def accept_and_close(self, times: int = 1) -> None:
        """Accept that many connections, and close each at once."""
        self._server.closes_next = times

    # In what the gateway says.

    def ignore(self, request: str | int, times: int | None = None) -> None:
        """Swallow a kind of request, by name (``positions``, ``reqOpenOrders``) or number: always, or so many times."""
        self._misfortunes.ignored_requests[named(Request, request)] = times

    def lose(self, answer: str | int, times: int | None = None) -> None:
        """Lose a kind of answer, by name (``execDetails``, ``orderStatus``) or number: always, or so many times."""
        self._misfortunes.lost_answers[named(Answer, answer)] = times

    def roll_back_ids(self, count: int) -> None:
        """Hand out a next valid order id that is `count` too low."""
        self._misfortunes.order_ids_back = count

    def reject_next(self, code: int = 201, text: str = "Order rejected - reason:simulated") -> None:
        """Refuse the next order with this error; 201 makes it Inactive, any other code leaves no order."""
        self._misfortunes.rejections.append((code, text))

    def false_cancel(self, code: int = 10349, text: str = "Order TIF was set to DAY based on order preset.") -> None:
        """Send this error for the next order, which lives on all the same."""
        self._misfortunes.false_cancels.append((code, text))

    def duplicate_status(self, copies: int = 2) -> None:
        """Send every orderStatus so many times."""
        self._misfortunes.status_copies = copies

    def heal(self) -> None:
        """What the gateway says is right again: undo everything of this group."""
        self._gateway.misfortunes = Misfortunes()

    @property
    def _misfortunes(self) -> Misfortunes:
        return self._gateway.misfortunes
