"""Addresses outside, by the library apprise: mail, chat, telephone, a web hook … (https://github.com/caronc/apprise).

An address is a URL, and mostly a secret: it is never logged, nor what the libraries below say of it. Sending blocks, so
each channel has a thread of its own, which the end of the process does not wait for.
"""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from queue import SimpleQueue
from typing import Any

from ibkr_service.core.errors import FatalError
from ibkr_service.core.notices import Notice
from ibkr_service.notifying import NotSent

SILENT = ("apprise", "urllib3", "requests", "oauthlib", "requests_oauthlib")  # their lines may hold an address


class ChannelUnusable(FatalError):
    """An address of the settings is none, or the library is not there."""


class AppriseChannel:
    """One address.

    Args:
        service: apprise's object for it.
    """

    def __init__(self, service: Any) -> None:  # noqa: ANN401 - a plug-in of apprise
        self.name = f"{service.service_name or type(service).__name__}"
        self._service = service
        self._work: SimpleQueue[Callable[[], None]] = SimpleQueue()
        self._thread: threading.Thread | None = None

    async def send(self, notice: Notice) -> None:
        """Deliver one.

        Raises:
            NotSent: it was not, as far as the other side says.
        """
        loop = asyncio.get_running_loop()
        done: asyncio.Future[bool] = loop.create_future()
        if self._thread is None:
            self._thread = threading.Thread(target=self._serve, name="notify", daemon=True)
            self._thread.start()

        def tell(delivered: bool) -> None:  # noqa: FBT001 - the future's value
            if not done.done():
                done.set_result(delivered)

        def work() -> None:
            if done.cancelled():
                return  # the time was up before it was begun
            delivered = self._deliver(notice)
            if not loop.is_closed():
                loop.call_soon_threadsafe(tell, delivered)

        self._work.put(work)
        if not await done:
            raise NotSent(f"{self.name} did not take it")

    def _deliver(self, notice: Notice) -> bool:
        try:
            return bool(self._service.notify(title=notice.title, body=notice.text or notice.title))
        except Exception:  # noqa: BLE001 - its text may hold the address
            return False

    def _serve(self) -> None:
        while True:
            self._work.get()()


def channels_of(urls: Sequence[str]) -> list[AppriseChannel]:
    """The channels behind some addresses; the library is not imported for none.

    Raises:
        ChannelUnusable: apprise is not installed, or does not understand an address; which, by its number.
    """
    if not urls:
        return []
    try:
        from apprise import Apprise  # noqa: PLC0415 - an extra, and slow to import
    except ImportError as exc:
        raise ChannelUnusable("notify.urls needs apprise: pip install 'ibkr-service[notify]'") from exc
    for name in SILENT:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    channels = []
    for number, url in enumerate(urls, start=1):
        service = Apprise.instantiate(url)
        if service is None:
            schema = url.partition("://")[0] if "://" in url else "without ://"
            raise ChannelUnusable(f"notify.urls: apprise does not understand number {number} ({schema})")
        channels.append(AppriseChannel(service))
    return channels
