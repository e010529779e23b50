"""The project's own lint finds what it is there for, and leaves its neighbours alone."""

from __future__ import annotations

import ast
import importlib.util
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[1] / "scripts" / "check_functions.py"


@pytest.fixture(scope="module")
def script():
    """Load the script, which is not in the package."""
    spec = importlib.util.spec_from_file_location("check_functions", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "call",
    [
        "ib.reqPositions()",
        "self._ib.sleep(1)",
        "IB.run()",
        "ib_insync.util.run(x)",
        "super().reqAccountUpdates()",
        "self.ib.connect('h', 1)",
        "util.startLoop()",
    ],
)
def test_blocking_calls_are_found(script, call):
    """Whatever the object is called, a blocking method of IB is one."""
    assert [line for line, _ in script.blocking_calls(ast.parse(f"def f():\n    {call}\n"))] == [2]


@pytest.mark.parametrize(
    "call",
    [
        "asyncio.sleep(1)",
        "ib.reqPositionsAsync()",
        "ib.client.reqPositions()",
        "self.session.run()",
        "ib.placeOrder(c, o)",
        "ib.reqMktData(c)",
        "context.run(f)",
        "loop.connect()",
        "ib.connectAsync()",
        "reqPositions()",
    ],
)
def test_others_are_left_alone(script, call):
    """Async siblings, the client's senders and other people's methods are fine."""
    assert list(script.blocking_calls(ast.parse(call))) == []


def test_the_list_is_that_of_the_library(script):
    """Every method of the installed IB that runs the loop is on the list."""
    source = Path(importlib.util.find_spec("ib_insync").submodule_search_locations[0], "ib.py").read_text()
    (ib,) = [node for node in ast.parse(source).body if isinstance(node, ast.ClassDef) and node.name == "IB"]
    runs = {f.name for f in ib.body if isinstance(f, ast.FunctionDef) and "self._run(" in ast.unparse(f)}
    assert runs - {"_run"} <= script.BLOCKING | script.BLOCKING_OF_IB


def test_long_functions_are_found(script):
    """Seventy lines are allowed, seventy-one are not."""
    for lines, count in ((70, 0), (71, 1)):
        tree = ast.parse("async def f():\n" + "    x = 1\n" * (lines - 1))
        assert len(list(script.long_functions(tree))) == count


def test_exit_code_and_lines(script, tmp_path, capsys):
    """One line for each breach, with file and line; blocking calls count in broker/ only."""
    (tmp_path / "broker").mkdir()
    (tmp_path / "app.py").write_text("ib.reqPositions()\n")
    assert script.main([str(tmp_path)]) == 0
    bad = tmp_path / "broker" / "bad.py"
    bad.write_text("x = 1\nib.reqPositions()\n")
    assert script.main([str(tmp_path)]) == 1
    assert capsys.readouterr().out.splitlines()[-1].startswith(f"{bad}:2: ib.reqPositions() blocks")


def test_the_package_keeps_the_rules(script):
    """What `make check` says, the tests say too."""
    assert list(script.complaints(SCRIPT.parents[1] / "ibkr_service")) == []
