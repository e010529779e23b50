"""The conformance script of ib_async; `python async_client.py PORT`, in an environment with ib_async.

The same checks as those of the official client, by the same names, as far as the library can make them. A line of
EUR.USD ticks is open throughout: it shows that ticks go on where a check says that something is silent.
"""

import asyncio
import logging
import sys

import async_market
import async_trading
from async_app import Desk, eurusd
from harness import Check, ErrorLog, Failed, Report, arguments, chosen, listed
from ib_async import Ticker

CLIENT = "ib_async 2.1"
CLIENT_ID = 7
CHECK_LIMIT = 6
"""A check that takes longer than so many patiences hangs in the library."""


def all_checks() -> list[Check]:
    """Every check, in order."""
    return [*async_market.checks.all, *async_trading.checks.all]


async def run(host: str, port: int, checks: list[Check], patience: float, log: ErrorLog) -> int:
    """Run checks on one connection; the exit code."""
    report, desk = Report(CLIENT), Desk(host, port, CLIENT_ID, patience)
    try:
        await desk.open()
    except (OSError, TimeoutError, Failed) as error:
        report.failed("handshake", Failed("a synchronised connection", repr(error)))
        return report.finish()
    desk.complaints = log.lines
    try:
        desk.heartbeat = desk.ib.reqMktData(await desk.one(eurusd()))
    except Failed:  # the checks that need it will say so
        desk.heartbeat = Ticker()
    for check in checks:
        try:
            await asyncio.wait_for(check.run(desk), patience * CHECK_LIMIT)
        except Exception as error:  # noqa: BLE001  a check that breaks has failed, the others go on
            report.failed(check.name, error)
        else:
            report.passed(check.name)
    desk.close()
    return report.finish()


def main() -> int:
    """Run the checks that were asked for."""
    wanted = arguments(CLIENT)
    checks = chosen(all_checks(), wanted.only)
    if wanted.list:
        listed(checks)
        return 0
    log = ErrorLog()
    # Errors of requests are logged by the wrapper and are what checks provoke; these two never complain of that.
    for name in ("ib_async.Decoder", "eventkit.event"):
        logging.getLogger(name).addHandler(log)
    logging.getLogger().addHandler(logging.NullHandler())
    return asyncio.run(run(wanted.host, wanted.port, checks, wanted.patience, log))


if __name__ == "__main__":
    sys.exit(main())
