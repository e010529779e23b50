"""A recorded session is lived again: the same bytes out, the same facts, the same timeline.

Goal: a user's bug report becomes a test. Method: sessions in virtual time with everything that goes wrong at night,
recorded and replayed; then the same recordings with a service, a strategy or a file that is another one.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime, time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from ibkr_service import Intent, Stock, cli
from ibkr_service.broker import dialling
from ibkr_service.broker.lines import Lines
from ibkr_service.core import events as ev
from ibkr_service.core.errors import RecordingUnusable
from ibkr_service.core.recording import Kind, framed, read
from ibkr_service.rehearsal import replay
from ibkr_service.rehearsal.named import planned
from ibkr_service.rehearsal.replaying import load_recording, relive
from ibkr_service.rehearsal.run import _Rehearsal, rehearse
from ibkr_service.rehearsal.traders import NAME, Trader, options_of
from ibkr_service.rehearsal.world import WorldConfig
from ibkr_service.sim import GatewayConfig
from ibkr_service.strategies.link_watch import link_watch
from ibkr_service.strategies.sma_cross import sma_cross
from ibkr_service.supervisor import StrategySpec
from tests.rehearsal.recorded import journal_of, live, told

ACCOUNT, MASK = "DU1234567", "DU0000001"
SMA = StrategySpec("sma", sma_cross, {"instrument": "EUR.USD", "quantity": "25000", "fast": 2, "slow": 5})
LINKS = StrategySpec("links", link_watch)
LATE = datetime(2026, 11, 24, 4, 43, 30, tzinfo=UTC)  # 23:43:30 in New York
COMMITTED = Path(__file__).parents[1] / "data" / "nightly-restart.recording"
AAPL = Stock("AAPL")


def nightly(folder: Path) -> WorldConfig:
    """The gateway restarts at a quarter to midnight, as it does every night."""
    gateway = GatewayConfig(started_at=LATE, nightly_reset=time(23, 45))
    return WorldConfig(folder=folder, gateway=gateway, strategies=[SMA, LINKS])


async def five_minutes(world):
    """Long enough for the restart and what follows."""
    await asyncio.sleep(300)


@pytest.fixture(scope="module")
def night(tmp_path_factory):
    """One recorded night."""
    return live(nightly(tmp_path_factory.mktemp("night")), five_minutes)


def test_a_night_is_the_same_again(night):
    """Nightly restart: outbound messages, canonical journal and timeline, the account's name apart."""
    result = replay(night.path)
    assert result.exact, (result.verdict, result.first_fact, result.differences[:3])
    assert result.messages > 50
    assert told(result.timeline) == told(night.timeline)
    assert list(result.journal) == [line.replace(ACCOUNT, MASK) for line in night.journal]
    link = [entry.text for entry in result.timeline if entry.side == "service" and entry.text.startswith("link ")]
    assert any("CUT" in text for text in link)
    assert any("READY -> DOWN" in text or "CUT -> DOWN" in text for text in link)
    assert link[-1] != link[0]
    assert any(entry.side == "gateway" and "refuses connection" in entry.text for entry in result.timeline)


def test_no_account_is_in_the_file(night):
    """Neither as it is, nor in the order of its digits somewhere; its mask is."""
    recording = load_recording(night.path)
    held = b"".join(record.data for record in recording.records) + night.path.read_bytes()
    assert ACCOUNT.encode() not in held
    assert MASK.encode() in held
    assert any(ACCOUNT in line for line in night.journal)


@pytest.mark.parametrize("name", ["nightly-restart", "half-open", "garbage", "accept-close", "wedged"])
def test_what_rehearsals_do_is_the_same_again(name, tmp_path, monkeypatch):
    """Spreads, brackets, changes and cancels, while things go wrong: not one byte, not one line is another."""
    path = tmp_path / "rehearsal.recording"
    config = _Rehearsal._config
    monkeypatch.setattr(_Rehearsal, "_config", lambda self: replace(config(self), record=path))
    plan = planned(name)(3)
    before = rehearse(plan, keeps=True)
    trader = Trader(plan.wishes, options_of(plan.started_at.date()))
    result = replay(path, strategies=[StrategySpec(NAME, trader, restart="on_failure")])
    assert result.exact, (result.verdict, result.first_fact, result.differences[:3])
    assert told(result.timeline) == told(before.timeline)
    assert list(result.journal) == [line.replace(ACCOUNT, MASK) for line in before.journal]


async def buyer(desk, params: dict):
    """A strategy that buys once a session."""
    desk.watch(AAPL)
    async for event in desk.events():
        if isinstance(event, ev.Tick) and event.ask is not None:
            break
    desk.submit(Intent.buy(AAPL, params["quantity"], limit=params["limit"], tif="GTC"), key=params["key"])
    async for _ in desk.events():
        pass


def bought(folder: Path, name: str, **params):
    """A session in which something is bought, or is left waiting at the broker."""
    spec = StrategySpec("own", buyer, {"quantity": 10, "limit": "900", "key": "once"} | params)

    async def while_it_trades(world):
        await asyncio.sleep(20)

    config = WorldConfig(folder=folder, gateway=GatewayConfig(started_at=LATE.replace(hour=15)), strategies=[spec])
    return live(config, while_it_trades, name)


def test_a_session_goes_on_from_the_journal_that_it_found(tmp_path):
    """The second session of a journal knows the orders of the first, and so does its replay."""
    first = bought(tmp_path, "first.recording")
    second = bought(tmp_path, "second.recording", key="twice")
    recording = load_recording(second.path)
    assert sum(record.kind is Kind.PART for record in recording.records) > 0, "the book as it was kept"
    result = replay(second.path, buyer, params={"quantity": 10, "limit": "900", "key": "twice"})
    assert result.exact, (result.verdict, result.notes, result.first_fact, result.differences[:3])
    assert list(result.journal) == [line.replace(ACCOUNT, MASK) for line in second.journal[len(first.journal) :]]
    assert ACCOUNT.encode() not in b"".join(record.data for record in recording.records)


def test_another_strategy_is_another_story(tmp_path):
    """What it sends instead is named, with what was recorded; the rest goes on."""
    path = bought(tmp_path, "x.recording").path
    result = replay(path, buyer, params={"quantity": 11, "limit": "900", "key": "once"})
    assert not result.same
    assert len(result.differences) == 1
    assert "PLACE_ORDER" in result.differences[0].recorded
    assert ",10," in result.differences[0].recorded
    assert ",11," in result.differences[0].here
    assert "DIFFERS" in result.verdict
    assert any(entry.side == "breach" and "PLACE_ORDER" in entry.text for entry in result.timeline)
    assert any("FILLED" in entry.text for entry in result.timeline), "the recorded answers found the order"


def test_without_the_strategy_its_order_is_missing(tmp_path):
    """It is said which one does not take part, and what was not sent."""
    result = replay(bought(tmp_path, "x.recording").path)
    assert any("own" in note and "does not take part" in note for note in result.notes)
    assert any("PLACE_ORDER" in one.recorded and not one.here for one in result.differences)


def test_a_defect_shows(night, monkeypatch):
    """The service with a defect does not do what it did: that is what a recording is for."""
    monkeypatch.setattr(Lines, "interrupt", lambda _lines, _reason, _since=None: None)
    result = replay(night.path)
    assert not result.same
    assert result.first_fact


@pytest.mark.parametrize("knock_s", [0.07, 0.4, 20.0])
def test_a_service_that_connects_at_other_times_gets_there_too(night, knock_s, monkeypatch):
    """More attempts are refused, fewer find the gateway when it was there; then the night goes on."""
    monkeypatch.setattr(dialling, "KNOCK_S", knock_s)
    result = replay(night.path)
    assert any("an attempt to connect" in str(one) for one in result.differences)
    link = [entry.text for entry in result.timeline if entry.side == "service" and entry.text.startswith("link ")]
    assert "-> READY" in link[-2]
    assert "READY -> DOWN" in link[-1]


def test_other_numbers_are_mapped(night):
    """A service that counts its requests from elsewhere gets the recorded answers all the same."""
    recording = load_recording(night.path)
    index, first = next(
        (i, r) for i, r in enumerate(recording.records) if r.kind is Kind.OUT and r.data[4:].startswith(b"9\0")
    )
    fields = first.data[4:].split(b"\0")
    then, now = fields[2], b"%d" % (int(fields[2]) + 500)

    def renumbered(record):
        if record.kind not in {Kind.IN, Kind.OUT} or record.connection != first.connection:
            return record
        data = b""
        for body in _messages(record.data):
            parts = body.split(b"\0")
            at = {b"9": 2, b"10": 1, b"52": 2}.get(parts[0])
            if at and parts[at] == then:
                parts[at] = now
            data += framed(b"\0".join(parts))
        return record._replace(data=data)

    records = [renumbered(r) if i >= index else r for i, r in enumerate(recording.records)]
    result = relive(recording._replace(records=records))
    assert result.same, (result.first_fact, result.differences[:3])
    assert result.mapped == 1


def _messages(data: bytes) -> list[bytes]:
    found, at = [], 0
    while at < len(data):
        end = at + 4 + int.from_bytes(data[at : at + 4])
        found.append(data[at + 4 : end])
        at = end
    return found


# --- the file --------------------------------------------------------------------------------------------------------


def test_a_recording_that_is_cut_anywhere_can_be_read(tmp_path):
    """At every byte of the last kilobyte: what came before is there, and it is said what is not."""
    data = bought(tmp_path, "short.recording").path.read_bytes()
    whole = read(data, "x")
    assert not whole.cut
    counts = set()
    for end in range(len(data) - 1024, len(data)):
        recording = read(data[:end], "x")
        assert recording.cut
        count = len(recording.records)
        if count not in counts:
            assert recording.records == whole.records[:count]
        counts.add(count)
    assert len(counts) > 1, "several blocks are in the last kilobyte"
    assert min(counts) > 0


def test_a_recording_that_was_cut_off_is_replayed_as_far_as_it_goes(night, tmp_path):
    """As of a process that was killed: the same until there, and the note says so."""
    path = tmp_path / "cut.recording"
    data = night.path.read_bytes()
    path.write_bytes(data[: len(data) * 2 // 3])
    result = replay(path)
    assert result.same, (result.first_fact, result.differences[:3])
    assert any("cut off" in note for note in result.notes)
    assert 0 < result.seconds < 299


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"timestamp,bid,ask\n1,2,3\n", "is not a recording"),
        (b"", "is not a recording"),
        (b'{"ibkr_service_recording":2,"masked":true}\n', "format 2; this version reads format 1"),
        (b'{"ibkr_service_recording":1,"mas', "cut off in its first line"),
        (b'{"ibkr_service_recording":1,"masked":true}\n', "cannot be read"),
    ],
)
def test_what_is_no_recording_is_refused(data, says, tmp_path):
    """One line and exit code 2."""
    path = tmp_path / "x"
    path.write_bytes(data)
    with pytest.raises(RecordingUnusable, match=says):
        replay(path)
    done = CliRunner().invoke(cli.app, ["replay", str(path)])
    assert done.exit_code == 2
    assert says in done.stderr
    assert done.stderr.count("\n") == 1


# --- the command -----------------------------------------------------------------------------------------------------


def test_the_command_shows_the_timeline_and_the_verdict(night, tmp_path):
    """The four sides of a rehearsal, a picture, one JSON document."""
    page = tmp_path / "night.html"
    done = CliRunner().invoke(cli.app, ["replay", str(night.path), "--html", str(page)])
    assert done.exit_code == 0, done.output
    lines = done.output.splitlines()
    assert lines[-1].startswith("the same: ")
    for side in ("gateway", "wire", "service", "strategy"):
        assert any(f"  {side:<8}" in line for line in lines), side
    assert "<svg" in page.read_text()
    document = json.loads(CliRunner().invoke(cli.app, ["replay", str(night.path), "--json"]).stdout)
    assert document["same"] is True
    assert document["exact"] is True
    assert document["differences"] == []


def test_a_difference_is_exit_code_1(night, monkeypatch):
    """And the last line says so."""
    monkeypatch.setattr(Lines, "interrupt", lambda _lines, _reason, _since=None: None)
    done = CliRunner().invoke(cli.app, ["replay", str(night.path)])
    assert done.exit_code == 1
    assert done.output.splitlines()[-1].startswith("DIFFERS")


def test_settings_of_another_mode_are_refused(night, tmp_path):
    """A recording of simulated mode, settings for paper."""
    settings = tmp_path / "settings.toml"
    settings.write_text('[ibkr]\nmode = "paper"\n')
    done = CliRunner().invoke(cli.app, ["replay", str(night.path), "--settings", str(settings)])
    assert done.exit_code == 2
    assert 'mode "simulated"' in done.stderr


def test_there_is_no_such_file(tmp_path):
    """One line."""
    done = CliRunner().invoke(cli.app, ["replay", str(tmp_path / "nothing")])
    assert done.exit_code == 2
    assert "No such file" in done.stderr


# --- as users write them ---------------------------------------------------------------------------------------------


def test_a_committed_recording_is_a_test():
    """The night of another day, from a file in the repository: in order again after the restart, as a user asks it.

    What the service sends may change, so that nothing is said of it here.
    """
    result = replay(COMMITTED)
    facts = [json.loads(line)["fact"] for line in result.journal]
    links = [(fact["before"], fact["after"]) for fact in facts if fact["kind"] == "LinkChanged"]
    assert ("READY", "CUT") in links
    assert links.index(("SYNCING", "READY")) < links.index(("READY", "CUT"))
    assert links[-2:] == [("SYNCING", "READY"), ("READY", "DOWN")], "it was READY when it was stopped"
    assert len([fact for fact in facts if fact["kind"] == "Fill"]) > 0


def remake() -> None:
    """Make the committed recording anew, when the service sends something else on purpose: `python -m …test_replay`."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        lived = live(nightly(Path(folder)), five_minutes)
        COMMITTED.write_bytes(lived.path.read_bytes())
        COMMITTED.chmod(0o644)
        assert journal_of(Path(folder) / "journal.sqlite") == lived.journal


if __name__ == "__main__":
    remake()
