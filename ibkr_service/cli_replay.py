"""The command `replay`: a recorded session lived again in virtual time, and whether it goes the same way.

The timeline is that of a rehearsal; the last line is the verdict. Exit code 0: it went the same way; 1: it differs, and
where; 2: the file is no recording that can be replayed.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from ibkr_service.app import EXIT_FAILED, EXIT_OK, specs_of
from ibkr_service.cli_options import AsJson, SettingsFile, fail, is_live, print_json
from ibkr_service.core.errors import RecordingUnusable
from ibkr_service.core.recording import Recording
from ibkr_service.rehearsal.picture import page
from ibkr_service.rehearsal.replaying import Replayed, load_recording, relive
from ibkr_service.settings import load_settings
from ibkr_service.supervisor import StrategySpec

replaying = typer.Typer()

SHOWN = 20  # differences that are told


@replaying.command(name="replay")
def replay_command(
    *,
    file: Annotated[Path, typer.Argument(help="What `run --record FILE` has written.")],
    settings: SettingsFile = None,
    html: Annotated[Path | None, typer.Option(help="Write a picture of the timeline to this file.")] = None,
    as_json: AsJson = False,
) -> None:
    """Replay a recorded session in virtual time: connects to nobody, shows what happened, says if it differs."""
    sys.path.insert(0, os.getcwd())  # noqa: PTH109 - a strategy beside settings.toml is found, as with `run`
    try:
        recording = load_recording(file)
        result = relive(recording, _strategies(settings, recording))
    except RecordingUnusable as exc:
        fail(str(exc))
    if html is not None:
        html.write_text(picture(result, file.name), encoding="utf-8")
    if as_json:
        print_json(document(result))
    else:
        sys.stdout.writelines(f"{line}\n" for line in _told(result))
    raise typer.Exit(EXIT_OK if result.same else EXIT_FAILED)


def _strategies(settings: Path | None, recording: Recording) -> list[StrategySpec]:
    """The user's own, if the settings name any."""
    chosen = load_settings(settings, environ=os.environ, overrides={}, live_flag=is_live(settings))
    mode = recording.header.mode
    if settings is not None and chosen.ibkr.mode != mode:
        raise RecordingUnusable(
            f'it is a recording of mode "{mode}", and {settings} says "{chosen.ibkr.mode}": '
            "use the settings that it was made with (a replay connects to nobody)"
        )
    return specs_of(chosen)


def _told(result: Replayed) -> Iterator[str]:
    yield from map(str, result.timeline)
    yield ""
    for note in result.notes:
        yield f"note: {note}"
    if result.mapped:
        yield f"{result.mapped} messages had other numbers than recorded; their answers were given these"
    if result.moved:
        yield f"{result.moved} messages left in another order than recorded"
    if result.first_fact:
        yield f"first other fact: {result.first_fact}"
    for number, difference in enumerate(result.differences):
        if number == SHOWN:
            yield f"… and {len(result.differences) - SHOWN} more differences"
            break
        yield f"{difference.at_s - result.header.built_s:9.3f} s  {difference}"
    yield result.verdict


def document(result: Replayed) -> dict[str, Any]:
    """A replay as one JSON document."""
    return {
        "same": result.same,
        "exact": result.exact,
        "verdict": result.verdict,
        "run_id": result.header.run_id,
        "mode": result.header.mode,
        "recorded_by": result.header.version,
        "masked": result.header.masked,
        "started_at": result.header.started_at.isoformat(),
        "seconds": result.seconds,
        "messages": result.messages,
        "moved": result.moved,
        "mapped": result.mapped,
        "facts": result.facts,
        "first_other_fact": result.first_fact or None,
        "off_s": result.off_s,
        "notes": list(result.notes),
        "journal_sha256": result.digest,
        "differences": [
            {
                "at_s": difference.at_s - result.header.built_s,
                "connection": difference.connection,
                "recorded": difference.recorded or None,
                "here": difference.here or None,
            }
            for difference in result.differences
        ],
        "timeline": [entry._asdict() for entry in result.timeline],
    }


def picture(result: Replayed, name: str) -> str:
    """A replay as a page."""
    return page(
        title=f"Replay of {name}, run {result.header.run_id}",
        verdict=result.verdict,
        lists={"Notes": list(result.notes), "Differences": [str(one) for one in result.differences]},
        timeline=result.timeline,
        seconds=result.seconds,
    )
