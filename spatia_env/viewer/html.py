"""HTML of the panels; everything that came from a user is escaped here and nowhere else.

A colour, a number or a fixed word is the program's own; prompts, events, captions and names are text.
"""

import html
from collections.abc import Sequence
from typing import Any

from spatia_env.viewer.jobs import Job
from spatia_env.viewer.timeline import Moment, Timeline

MUTED, LINE, ACCENT, VIOLET, TEXT = "#8a8f98", "#3a3f4a", "#ff8a4c", "#a06bff", "#e6e6e2"
_BOX = "margin:0 .6em;font-family:ui-sans-serif,system-ui,sans-serif;color:" + TEXT
SPACING = 26
"""Pixels between moments in the drawing of the timeline."""


def put(handle: Any, content: str) -> None:
    """Show a piece of HTML in a widget of viser, unless it does already."""
    if handle.content != content:
        handle.content = content


def text(words: str) -> str:
    """User text as HTML that shows exactly it; what does not print becomes a visible mark."""
    return html.escape(
        "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in words), quote=True
    )


def numbers(rows: Sequence[tuple[str, str]]) -> str:
    """A grid of figures: (value, what it is)."""
    cells = "".join(
        f'<div style="min-width:6.2em"><div style="font-size:1.15em;font-variant-numeric:tabular-nums">{text(value)}'
        f'</div><div style="font-size:.72em;color:{MUTED}">{text(name)}</div></div>'
        for value, name in rows
    )
    return f'<div style="{_BOX};display:flex;flex-wrap:wrap;gap:.5em 1em">{cells}</div>'


def note(words: str, colour: str = MUTED) -> str:
    """A line of small print."""
    return f'<div style="{_BOX};font-size:.82em;line-height:1.35;color:{colour}">{text(words)}</div>'


def jobs(pending: Sequence[Job], progress: float) -> str:
    """The queue: what runs with its bar (`progress` in [0, 1]), then what waits; a line when there is nothing."""
    if not pending:
        return note("Nothing is being generated.")
    rows = []
    for place, job in enumerate(pending):
        running = job.phase == "running"
        state = "stops" if job.stopping else f"{100 * progress:.0f} %" if running else f"waits ({place})"
        bar = (
            f'<div style="height:3px;background:{LINE};border-radius:2px;margin-top:3px"><div style="height:3px;'
            f'width:{100 * progress:.0f}%;background:{ACCENT};border-radius:2px"></div></div>'
        )
        rows.append(
            f'<div style="margin-bottom:.4em;font-size:.85em"><span>{text(job.label[:90])}</span>'
            f'<span style="float:right;color:{MUTED}">{state}</span>{bar if running else ""}</div>'
        )
    return f'<div style="{_BOX}">{"".join(rows)}</div>'


def tree(timeline: Timeline, width: int = 364) -> str:
    """The timeline as an SVG: a row for each branch, now filled, events ringed."""
    lanes = timeline.lanes()
    depth: dict[int, int] = {}
    for moment in timeline:
        depth[moment.id] = 0 if moment.parent is None else depth[moment.parent] + 1
    step = min(SPACING, (width - 30) / max(1, *depth.values()))
    spot = {m.id: (14 + depth[m.id] * step, 14 + lanes[m.id] * SPACING) for m in timeline}
    branch = {moment.id for moment in timeline.branch()}
    lines = []
    for moment in timeline:
        if moment.parent is not None:
            (x, y), (px, py) = spot[moment.id], spot[moment.parent]
            bend = f"M{px:.1f},{py:.1f} C{px + step * 0.6:.1f},{py:.1f} {px + step * 0.2:.1f},{y:.1f} {x:.1f},{y:.1f}"
            colour = ACCENT if moment.id in branch else LINE
            lines.append(f'<path d="{bend}" fill="none" stroke="{colour}" stroke-width="2"/>')
    dots = [_dot(moment, *spot[moment.id], moment.id == timeline.now_id) for moment in timeline]
    return (
        f'<div style="{_BOX};max-height:180px;overflow:auto"><svg width="{width}" '
        f'height="{28 + SPACING * max(lanes.values())}" role="img" aria-label="timeline">'
        f"{''.join(lines[::-1] + dots)}</svg></div>"
    )


def _dot(moment: Moment, x: float, y: float, is_now: bool) -> str:
    fill = ACCENT if is_now else VIOLET if moment.kind == "edit" else "#cfd3da"
    ring = f'<circle cx="{x:.1f}" cy="{y:.1f}" r="8" fill="none" stroke="{ACCENT}" stroke-width="1.5"/>'
    return (
        f'<g>{ring if moment.event else ""}<circle cx="{x:.1f}" cy="{y:.1f}" r="{6 if is_now else 4.5}" '
        f'fill="{fill}"/><title>{text(moment.title)}</title></g>'
    )
