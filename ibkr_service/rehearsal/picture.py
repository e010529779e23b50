"""A rehearsal as a picture: one HTML file with a drawing of its own, that needs nothing from anywhere.

Time runs from left to right, with a lane for each side of the story; below it every entry as text. The marks of a lane
say their text when pointed at.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from string import Template

from ibkr_service.rehearsal.run import Result
from ibkr_service.rehearsal.timeline import SIDES, Entry, Side

WIDTH, LANE, LEFT, TOP = 1200, 46, 90, 30
COLOURS: dict[Side, str] = {
    "gateway": "#b3541e",
    "wire": "#7a7a7a",
    "service": "#1f5fa8",
    "strategy": "#2c7a3f",
    "breach": "#c00020",
}
LINK_COLOURS = {"READY": "#9fd3a8", "SYNCING": "#f3dd8e", "CUT": "#f2b38b", "DOWN": "#d9d9d9"}
TICK_S = 300.0
ENTRIES_DRAWN_MAX = 20_000
BAD = frozenset({"Breaches", "Differences"})  # what stands in these lists should not be

PAGE = Template("""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>$title</title>
<style>
body { font: 14px/1.4 sans-serif; margin: 1.5em; color: #222 }
table { border-collapse: collapse; font: 12px/1.35 monospace }
td { padding: 0 .8em 0 0; vertical-align: top; white-space: pre-wrap }
.breach { color: #c00020; font-weight: bold } .gateway { color: #b3541e } .wire { color: #7a7a7a }
.strategy { color: #2c7a3f } .service { color: #1f5fa8 }
</style></head><body>
<h1>$title</h1><p>$verdict</p>
$drawing
<p>Behind the lanes: the link, as the service knew it (green READY, yellow SYNCING, orange CUT, grey DOWN).</p>
$lists
<h2>Timeline</h2><table>$rows</table>
</body></html>
""")


def picture(result: Result) -> str:
    """The page of a rehearsal that kept its timeline."""
    plan = result.plan
    return page(
        title=f"Rehearsal {plan.name}, seed {plan.seed}",
        verdict=result.verdict,
        lists={"Faults": [str(fault) for fault in plan.faults], "Breaches": [str(one) for one in result.breaches]},
        timeline=result.timeline,
        seconds=result.seconds,
    )


def page(
    *, title: str, verdict: str, lists: Mapping[str, Sequence[str]], timeline: Sequence[Entry], seconds: float
) -> str:
    """A page with a timeline.

    Args:
        lists: what stands above it, by its heading. seconds: how long all of it took.
    """
    return PAGE.substitute(
        title=escape(title),
        verdict=escape(verdict),
        drawing=_drawing(timeline, seconds),
        lists="".join(_list(heading, entries) for heading, entries in lists.items()),
        rows="".join(_row(entry) for entry in timeline[:ENTRIES_DRAWN_MAX]),
    )


def _list(heading: str, entries: Sequence[str]) -> str:
    kind = "breach" if heading in BAD else "plain"
    items = "".join(f'<li class="{kind}">{escape(entry)}</li>' for entry in entries)
    return f"<h2>{escape(heading)}</h2>" + (f"<ol>{items}</ol>" if items else "<p>None.</p>")


def _row(entry: Entry) -> str:
    minutes, seconds = divmod(entry.at_s, 60)
    who = f"{entry.side} {entry.who}".strip()
    time = f"{int(minutes)}:{seconds:06.3f}"
    return f'<tr class="{entry.side}"><td>{time}</td><td>{escape(who)}</td><td>{escape(entry.text)}</td></tr>'


def _drawing(timeline: Sequence[Entry], seconds: float) -> str:
    length_s = max(seconds, 1.0)
    height = TOP + LANE * len(SIDES) + 30

    def x(at_s: float) -> float:
        return round(LEFT + at_s / length_s * (WIDTH - LEFT - 10), 1)

    parts = [f'<svg viewBox="0 0 {WIDTH} {height}" width="100%" role="img" aria-label="timeline">']
    for begin_s, end_s, state in _link(timeline, seconds):
        width, tall = max(0.5, x(end_s) - x(begin_s)), LANE * len(SIDES)
        fill = LINK_COLOURS[state]
        parts.append(f'<rect x="{x(begin_s)}" y="{TOP}" width="{width:.1f}" height="{tall}" fill="{fill}"/>')
    for number, side in enumerate(SIDES):
        middle = TOP + LANE * number + LANE / 2
        parts.append(f'<text x="4" y="{middle + 5}" font-size="14" fill="{COLOURS[side]}">{side}</text>')
        parts.append(f'<line x1="{LEFT}" y1="{middle}" x2="{WIDTH - 10}" y2="{middle}" stroke="#fff"/>')
    at_s = 0.0
    while at_s <= length_s:
        parts.append(f'<text x="{x(at_s)}" y="{height - 10}" font-size="11">{at_s / 60:.0f} min</text>')
        at_s += max(TICK_S, length_s / 12)
    for entry in timeline[:ENTRIES_DRAWN_MAX]:
        top = TOP + LANE * SIDES.index(entry.side) + 8
        half = 2.5 if entry.side in {"gateway", "breach"} else 0.8
        parts.append(
            f'<rect x="{x(entry.at_s) - half}" y="{top}" width="{2 * half}" height="{LANE - 16}"'
            f' fill="{COLOURS[entry.side]}"><title>{escape(str(entry))}</title></rect>'
        )
    parts.append("</svg>")
    return "".join(parts)


def _link(timeline: Sequence[Entry], seconds: float) -> list[tuple[float, float, str]]:
    """The states of the link: from, to, which."""
    spans: list[tuple[float, float, str]] = []
    since_s, state = 0.0, "DOWN"
    for entry in timeline:
        if entry.side == "service" and entry.text.startswith("link "):
            spans.append((since_s, entry.at_s, state))
            since_s, state = entry.at_s, entry.text.split(" -> ")[1].partition(":")[0]
    spans.append((since_s, seconds, state))
    return spans
