"""One environment per client, because they overwrite each other's packages: made on demand, from pinned versions.

They lie in `.conformance/NAME` and are made anew when their pins, or the Python behind them, have changed. The test
suites of ib_insync and ib_async are in no package, only in their repositories: they are looked for in the folder that
`CONFORMANCE_SUITES` names and in `.conformance/suites`, and cloned from GitHub when it can be reached.
"""

import fcntl
import os
import shutil
import subprocess
import sys
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
HOME = ROOT / ".conformance"
INSTALL_LIMIT_S = 300
CLONE_LIMIT_S = 30

PYTEST = (
    "pytest==7.4.4",
    "pytest-asyncio==0.21.2",
    "pytest-timeout==2.3.1",
    "pluggy==1.6.0",
    "iniconfig==2.3.0",
    "packaging==25.0",
)
"""The last pytest-asyncio that lets a suite replace its `event_loop`, as both suites do."""

IB_ASYNC = ("ib_async==2.1.0", "aeventkit==2.1.0", "nest-asyncio==1.6.0", "numpy==2.4.6", "tzdata==2025.3")
IB_INSYNC = ("ib_insync==0.9.86", "eventkit==1.0.3", "nest-asyncio==1.6.0", "numpy==2.4.6", "tzdata==2025.3")

PINS = {
    "ibapi-10": ("ibapi-stable==10.50.2", "protobuf==7.36.2"),
    "ibapi-9": ("ibapi==9.81.1.post1",),
    "ib_async": IB_ASYNC,
    "suite-ib_insync": (*IB_INSYNC, *PYTEST),
    "suite-ib_async": (
        *IB_ASYNC,
        *PYTEST,
        "pandas==2.3.3",
        "python-dateutil==2.9.0.post0",
        "pytz==2025.2",
        "six==1.17.0",
    ),
}
"""Environment → everything in it."""

_NO_INDEX = ("NewConnectionError", "connection broken", "ProxyError", "Max retries", "from versions: none")
_unreachable: list[str] = []
"""What could not be reached in this process is not tried again: every try takes its time."""


class Unreachable(Exception):
    """Something outside of this machine is needed and cannot be had: a reason to skip, not to fail."""


@dataclass(frozen=True)
class Suite:
    """The test suite of a library, in its repository."""

    repository: str
    commit: str


# The last commit of ib_insync, and that of ib_async 2.0.1: the repository at hand had no 2.1.0 to take it from.
SUITES = {
    "ib_insync": Suite("https://github.com/erdewit/ib_insync", "ef5ea29e44e0c40bbadbc16c2281b3ac58aa4a40"),
    "ib_async": Suite("https://github.com/ib-api-reloaded/ib_async", "2afdae44a47f067bf3d1a23a4840234f2906ef64"),
}


def python_of(name: str) -> Path:
    """The interpreter of an environment, which is made if need be.

    Raises:
        Unreachable: there is no package index.
        RuntimeError: there is one, and yet the environment cannot be made: pip's own words.
    """
    folder, wanted = HOME / name, "\n".join((sys.version, *PINS[name]))
    python, stamp = folder / "bin" / "python", folder / "made-with"
    with _only_one(name):
        if stamp.exists() and stamp.read_text() == wanted and python.exists():
            return python
        if _unreachable:
            raise Unreachable(_unreachable[0])
        shutil.rmtree(folder, ignore_errors=True)
        venv.create(folder, with_pip=False, symlinks=True)
        _install(python, PINS[name])
        stamp.write_text(wanted)
    return python


@contextmanager
def _only_one(name: str) -> Iterator[None]:
    """Two test runs do not make the same environment at a time."""
    HOME.mkdir(exist_ok=True)
    with (HOME / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _install(python: Path, pins: tuple[str, ...]) -> None:
    command = [
        sys.executable,
        "-m",
        "pip",
        "--python",
        str(python),
        "install",
        "--quiet",
        "--no-deps",
        "--no-compile",
        *pins,
    ]
    options = ["--disable-pip-version-check", "--retries", "1", "--timeout", "20"]
    done = subprocess.run([*command, *options], capture_output=True, text=True, timeout=INSTALL_LIMIT_S, check=False)
    if done.returncode == 0:
        return
    said = done.stdout + done.stderr
    if any(word in said for word in _NO_INDEX):
        _unreachable.append("no package index can be reached")
        raise Unreachable(_unreachable[0])
    raise RuntimeError(said.strip()[-1000:])


def suite_of(name: str) -> Path:
    """A folder with the test suite of a library, as its authors wrote it.

    Raises:
        Unreachable: it is not on this machine, and GitHub cannot be reached.
    """
    given = os.environ.get("CONFORMANCE_SUITES")
    for home in filter(None, (given, HOME / "suites")):
        folder = Path(home) / name
        if (folder / "tests").is_dir():
            return folder
    folder, suite = HOME / "suites" / name, SUITES[name]
    try:
        _git("clone", "--quiet", "--no-checkout", suite.repository, str(folder))
        _git("-C", str(folder), "checkout", "--quiet", suite.commit)
    except (OSError, subprocess.SubprocessError):
        shutil.rmtree(folder, ignore_errors=True)
        raise Unreachable(f"the tests of {name} are in no package, and {suite.repository} cannot be reached") from None
    return folder


def _git(*arguments: str) -> None:
    environment = {**os.environ, "GIT_TERMINAL_PROMPT": "0"}
    subprocess.run(["git", *arguments], check=True, capture_output=True, timeout=CLONE_LIMIT_S, env=environment)
