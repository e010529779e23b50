"""The conformance script of the official client; `python official.py PORT`, in an environment with ibapi 10.x or 9.81.

The checks run in the order of the table, all on one connection; those that need a second client open one. A line of
EUR.USD ticks is open throughout. It shows that ticks go on where a check says that something is silent, and it works
around a flaw of the client: when a burst of messages ends at a multiple of 4096 bytes, it reads on, times out after a
second and throws away what it had read. While ticks come it never times out.
"""

import logging
import sys
import threading

import official_account
import official_data
import official_orders
import official_reference
from harness import Check, ErrorLog, Failed, Report, arguments, chosen, listed
from official_app import IS_OLD, Tws, forex

CLIENT = "ibapi 9.81" if IS_OLD else "ibapi 10.50"
CLIENT_ID = 7

_LAST = "connection-lasted"


def all_checks() -> list[Check]:
    """Every check, the one that looks back at the end."""
    tables = (official_reference, official_data, official_orders, official_account)
    found = [check for table in tables for check in table.checks.all]
    return sorted(found, key=lambda check: check.name == _LAST)


def main() -> int:
    """Run the checks that were asked for."""
    wanted = arguments(CLIENT)
    checks = chosen(all_checks(), wanted.only)
    if wanted.list:
        listed(checks)
        return 0
    log, report = ErrorLog(), Report(CLIENT)
    # The client logs every byte at lower levels, and its ERROR lines also tell of what a check provokes.
    logging.getLogger("ibapi").setLevel(logging.ERROR)
    complaints: list[str] = []
    threading.excepthook = lambda crash: complaints.append(f"{crash.exc_type.__name__}: {crash.exc_value}")
    for name in ("ibapi.decoder", "ibapi.utils", "ibapi.comm"):
        logging.getLogger(name).addHandler(log)
    tws = Tws(wanted.host, wanted.port, CLIENT_ID, wanted.patience)
    try:
        tws.open()
    except Failed as error:
        report.failed("handshake", error)
        return report.finish()
    tws.complaints = complaints
    tws.heartbeat = tws.fresh()
    tws.call("reqMktData", tws.heartbeat, forex("EUR", "USD"), "", False, False, [])
    for check in checks:
        try:
            check.run(tws)
        except Exception as error:  # noqa: BLE001  a check that breaks has failed, the others go on
            report.failed(check.name, error)
        else:
            report.passed(check.name)
        complaints.extend(log.lines)
        log.lines.clear()
    tws.close()
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
