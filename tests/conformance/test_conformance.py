"""Clients written by others connect to the simulated gateway and trade against it, unmodified.

Goal: what they decode is what they expect of TWS. Method: every client runs its script (`official.py`,
`async_client.py`) in an environment of its own against a gateway of its own; libraries run their own test suites. And
because a check that cannot fail proves nothing, the scripts also run against gateways that keep silent or lose answers,
where the checks have to fail. All of that is run first, a few at a time; the tests look at what came of it.
"""

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from ibkr_service.sim.messages import Request
from ibkr_service.sim.server import Server
from tests.conformance.run import AT_A_TIME, SCRIPTS, SUITE_PORTS, Outcome, run_script, run_suite

pytestmark = [pytest.mark.tcp, pytest.mark.timeout(300)]

PENDING = Path(__file__).parent / "pending.txt"
CHECKS_MIN = 40
IMPATIENT = ("--patience", "0.3")
VERY_IMPATIENT = ("--patience", "0.1")
"""For gateways that answer nothing: there is nothing to wait for."""

NEW_CLIENTS_ONLY = {"user-info", "history-schedule"}
"""What protocol version 157 does not have."""

WITHOUT_A_REQUEST = {
    "ibapi-10": {"handshake", "handshake-notices"},
    "ibapi-9": {"handshake", "handshake-notices"},
    "ib_async": {"handshake-notices"},
}
"""Checks of the greeting: a gateway that answers no request passes them."""

NEED_ERRORS = {
    "handshake-notices",
    "client-id-taken",
    "details-unknown",
    "ambiguous",
    "ticks-unknown",
    "ticks-duplicate-id",
    "order-modify-wrongly",
    "what-if-refused",
    "order-refused",
    "order-duplicate-id",
    "order-cancel",
    "cancel-unknown",
    "cancel-too-late",
    "nobodys-account",
}
NEED_COMMISSIONS = {"commissions", "combo", "executions"}
NEED_STATUSES = {"order-market", "order-limit", "order-modify", "order-stop", "bracket", "oca", "cancel-all"}


def deaf(server: Server) -> None:
    """Answer no request."""
    for request in Request:
        server.faults.ignore(request)


def losing(*answers: str) -> Callable[[Server], None]:
    """Lose every answer of these kinds."""

    def prepare(server: Server) -> None:
        for answer in answers:
            server.faults.lose(answer)

    return prepare


def only(names: set[str]) -> tuple[str, ...]:
    return *IMPATIENT, "--only", ",".join(sorted(names))


@pytest.fixture(scope="module")
def outcomes():
    """What came of everything, by (kind, client)."""
    return asyncio.run(_everything())


async def _everything() -> dict[tuple[str, str], Outcome]:
    turn, ports = asyncio.Semaphore(AT_A_TIME), asyncio.Lock()
    kinds: dict[tuple[str, str], Callable[[], Awaitable[Outcome]]] = {}
    for name in SCRIPTS:
        kinds["script", name] = lambda name=name: run_script(name)
    for name in SUITE_PORTS:
        kinds["suite", name] = lambda name=name: run_suite(name)
    for name in SCRIPTS:
        kinds["deaf", name] = lambda name=name: run_script(name, *VERY_IMPATIENT, prepare=deaf)
        kinds["no errors", name] = lambda name=name: run_script(name, *only(NEED_ERRORS), prepare=losing("error"))
        kinds["no commissions", name] = lambda name=name: run_script(
            name, *only(NEED_COMMISSIONS), prepare=losing("commissionReport")
        )
        kinds["no statuses", name] = lambda name=name: run_script(
            name, *only(NEED_STATUSES), prepare=losing("orderStatus")
        )

    async def take_turn(kind: str, run: Callable[[], Awaitable[Outcome]]) -> Outcome:
        if kind == "suite":  # both want port 7497
            async with ports, turn:
                return await run()
        async with turn:
            return await run()

    results = await asyncio.gather(*(take_turn(kind, run) for (kind, _), run in kinds.items()))
    return dict(zip(kinds, results, strict=True))


@pytest.fixture
def outcome_of(outcomes):
    """What came of one, or a skip when it could not be had."""

    def find(kind: str, client: str) -> Outcome:
        outcome = outcomes[kind, client]
        if outcome.skipped:
            pytest.skip(outcome.skipped)
        return outcome

    return find


def pending_of(client: str) -> set[str]:
    lines = [line.split() for line in PENDING.read_text(encoding="utf-8").splitlines()]
    words = [line for line in lines if line and not line[0].startswith("#")]
    return {line[-1] for line in words if len(line) == 1 or line[0] == client}


def assert_as_expected(outcome: Outcome, pending: set[str]) -> None:
    """Everything has passed but what is pending, and nothing that is pending has passed."""
    failed = [f"{name}: {reason}" for name, reason in outcome.failed.items() if name not in pending]
    surprises = sorted(pending & set(outcome.passed))
    assert not failed, "\n".join(failed)
    assert not surprises, f"pass now, strike them off {PENDING.name}: {surprises}"


@pytest.mark.parametrize("client", SCRIPTS)
def test_client_passes(outcome_of, client):
    """Every check of a client passes, but for those that are pending."""
    outcome = outcome_of("script", client)
    assert_as_expected(outcome, pending_of(client))
    assert len(outcome.passed) + len(outcome.failed) >= CHECKS_MIN


@pytest.mark.parametrize("library", SUITE_PORTS)
def test_suite_passes(outcome_of, library):
    """The test suite of a library passes, as its authors wrote it."""
    outcome = outcome_of("suite", library)
    assert_as_expected(outcome, pending_of(f"suite-{library}"))
    assert outcome.passed


def test_clients_check_the_same(outcome_of):
    """The scripts have the same checks; the oldest client leaves out what its protocol does not have."""
    names = {client: {*(it := outcome_of("script", client)).passed, *it.failed} for client in SCRIPTS}
    assert names["ib_async"] == names["ibapi-10"]
    assert names["ibapi-9"] == names["ibapi-10"] - NEW_CLIENTS_ONLY


def test_pending_names_exist(outcome_of):
    """Every pending line names a check that there is."""
    for client in SCRIPTS:
        outcome = outcome_of("script", client)
        known = {*outcome.passed, *outcome.failed, *NEW_CLIENTS_ONLY}
        assert pending_of(client) <= known


@pytest.mark.parametrize("client", SCRIPTS)
def test_silence_fails_every_check(outcome_of, client):
    """Against a gateway that answers no request every check fails: none of them passes by itself."""
    outcome = outcome_of("deaf", client)
    assert set(outcome.passed) <= WITHOUT_A_REQUEST[client]
    assert len(outcome.failed) >= CHECKS_MIN


@pytest.mark.parametrize("client", SCRIPTS)
@pytest.mark.parametrize("kind", ["no errors", "no commissions", "no statuses"])
def test_lost_answers_are_noticed(outcome_of, client, kind):
    """A gateway that loses one kind of answer fails every check that is about it, and the script says so."""
    outcome = outcome_of(kind, client)
    assert outcome.passed == []
    assert all("expected" in reason for reason in outcome.failed.values()), outcome.failed
