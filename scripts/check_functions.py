"""Two rules that no linter has: functions stay short, and the broker calls nothing of ib_insync that blocks.

1. No function of `ibkr_service/` is longer than 70 lines, from `def` to its last line.
2. In `ibkr_service/broker/` no blocking method of `IB` is called: each runs the event loop inside the event loop. Their
   `…Async` siblings are meant. The same names on `ib.client` send a message and return: allowed.

Usage: python scripts/check_functions.py [FOLDER]    (default: ibkr_service beside this script's folder)
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

LINES_MAX = 70

# Every method of ib_insync 0.9.86's IB that calls util.run.
# fmt: off
BLOCKING = frozenset({
    "waitOnUpdate", "loopUntil", "accountSummary", "reqTickers", "qualifyContracts", "whatIfOrder", "reqCurrentTime",
    "reqAccountUpdates", "reqAccountUpdatesMulti", "reqAccountSummary", "reqOpenOrders", "reqAllOpenOrders",
    "reqCompletedOrders", "reqExecutions", "reqPositions", "reqContractDetails", "reqMatchingSymbols",
    "reqMarketRule", "reqHistoricalData", "reqHistoricalSchedule", "reqHistoricalTicks", "reqHeadTimeStamp",
    "reqSmartComponents", "reqMktDepthExchanges", "reqHistogramData", "reqFundamentalData", "reqScannerData",
    "reqScannerParameters", "calculateImpliedVolatility", "calculateOptionPrice", "reqSecDefOptParams",
    "reqNewsProviders", "reqNewsArticle", "reqHistoricalNews", "requestFA", "getWshMetaData", "getWshEventData",
    "reqUserInfo", "timeRange", "waitUntil", "startLoop", "patchAsyncio",
})
# fmt: on
# Names that others have too: wrong only on these owners.
BLOCKING_OF_IB = frozenset({"run", "sleep", "schedule", "connect"})
IB_NAMES = frozenset({"ib", "_ib", "IB", "util", "ib_insync"})
CLIENT_NAMES = frozenset({"client", "_client"})


def long_functions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and complaint for each function that is too long."""
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            lines = (node.end_lineno or node.lineno) - node.lineno + 1
            if lines > LINES_MAX:
                yield node.lineno, f"{node.name} has {lines} lines; the limit is {LINES_MAX}"


def blocking_calls(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """Yield line and complaint for each call of a blocking method of IB."""
    for node in ast.walk(tree):
        if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute)):
            continue
        name, owner = node.func.attr, _last_word(node.func.value)
        if (name in BLOCKING and owner not in CLIENT_NAMES) or (name in BLOCKING_OF_IB and owner in IB_NAMES):
            yield node.lineno, f"{ast.unparse(node.func)}() blocks inside the event loop; use its Async sibling"


def complaints(package: Path) -> Iterator[str]:
    """Yield one line for each breach of a rule in the package's folder."""
    for path in sorted(package.rglob("*.py")):
        tree = ast.parse(path.read_text(encoding="utf-8"), str(path))
        found = list(long_functions(tree))
        if "broker" in path.relative_to(package).parts:
            found += blocking_calls(tree)
        for line, text in sorted(found):
            yield f"{path}:{line}: {text}"


def main(arguments: list[str]) -> int:
    """Print the complaints; return 1 when there are any."""
    package = Path(arguments[0]) if arguments else Path(__file__).parents[1] / "ibkr_service"
    found = list(complaints(package))
    print("\n".join(found) if found else "functions: short enough, none blocks")
    return 1 if found else 0


def _last_word(owner: ast.expr) -> str:
    """Return `client` for `self.ib.client`, `asyncio` for `asyncio`, nothing for what has no name."""
    if isinstance(owner, ast.Attribute):
        return owner.attr
    return owner.id if isinstance(owner, ast.Name) else ""


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
