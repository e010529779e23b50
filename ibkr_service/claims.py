"""One daemon for one client id: what two processes of this machine must not both have, and how the second one is told.

Two daemons under one client id would each take the other's orders for lost ones of its own. The broker refuses the
second connection (326), but only at the same gateway, and the service would wait for the id in patience. So a daemon
claims what it uses with a file lock, which ends with the process however it ends.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import IO

from ibkr_service.core.errors import AlreadyRunning, Unfit


def claims_folder(environ: Mapping[str, str], temporary: Path) -> Path:
    """Where the daemons of this user leave their claims: the same for all of them, and gone after a restart.

    Args:
        temporary: the folder for temporary files, for machines without `XDG_RUNTIME_DIR`.
    """
    runtime = environ.get("XDG_RUNTIME_DIR", "")
    return Path(runtime) / "ibkr_service" if runtime else temporary / f"ibkr_service-{os.getuid()}"


class Claims:
    """What one daemon has claimed, until it is released or the process ends. None as `folder`: nothing is claimed."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._held: dict[str, IO[str]] = {}

    def gateway(self, host: str, port: int, client_id: int) -> None:
        """Claim a client id at a gateway.

        Raises:
            AlreadyRunning: another daemon has it. Unfit: no claim can be made on this machine.
        """
        host = "127.0.0.1" if host.lower() == "localhost" else host.lower()
        self._claim(f"gateway-{host}-{port}-{client_id}", f"client id {client_id} at {host}:{port}")

    def account(self, account: str, client_id: int) -> None:
        """Claim a client id for an account, through whichever gateway; the same raises."""
        digest = hashlib.blake2s(account.encode(), digest_size=8).hexdigest()  # no account number in a file's name
        self._claim(f"account-{digest}-{client_id}", f"client id {client_id} for this account, at another gateway")

    def release(self) -> None:
        """Give everything back; safe to call twice."""
        for file in self._held.values():
            file.close()
        self._held.clear()

    def _claim(self, name: str, what: str) -> None:
        name = re.sub(r"[^\w.-]", "_", name)
        if self._folder is None or name in self._held:
            return
        try:
            self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._folder.stat().st_uid != os.getuid():
                raise Unfit(f"{self._folder} belongs to another user: set XDG_RUNTIME_DIR to a folder of your own")
            number = os.open(self._folder / f"{name}.lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as exc:
            raise Unfit(
                f"cannot claim a client id in {self._folder} ({exc.strerror or exc}): "
                "set XDG_RUNTIME_DIR to a folder that can be written"
            ) from exc
        file = os.fdopen(number, "r+")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as exc:
            process = file.read().strip() or "?"
            file.close()
            raise AlreadyRunning(
                f"another ibkr_service (process {process}) uses {what}: stop that one, or choose another ibkr.client_id"
            ) from exc
        file.truncate(0)
        file.write(f"{os.getpid()}\n")
        file.flush()
        self._held[name] = file
