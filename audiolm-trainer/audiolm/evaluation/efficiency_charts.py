"""The efficiency report's pictures, as SVG: where the time of an answer goes, and the batch sweep.

In: the plain values of the report. Out: SVG markup whose colours come from the page.
"""

import html
from collections.abc import Mapping, Sequence
from typing import Any

from audiolm.evaluation.efficiency_tables import LABELS

WIDTH = 900
BAR_HEIGHT, ROW_HEIGHT = 30, 54
LEFT, RIGHT, TOP = 210, 90, 34
SHADES = (
    "#8d99ae", "#4e79a7", "#f28e2b", "#e15759", "#b07aa1", "#59a14f", "#edc948", "#76b7b2",
    "#9c755f", "#2f6fb3", "#bab0ac",
)  # fmt: skip


def draw_phases(cases: Sequence[Mapping[str, Any]], phases: Sequence[str]) -> str:
    """A bar per case, made of its phases' medians; all bars to the same scale."""
    drawn = [case for case in cases if "error" not in case]
    totals = [sum(_median(case, phase) for phase in case["phases"]) for case in drawn]
    scale = (WIDTH - LEFT - RIGHT) / max(totals)
    parts = [_draw_legend(phases)]
    for place, (case, total) in enumerate(zip(drawn, totals, strict=True)):
        y = TOP + ROW_HEIGHT + place * ROW_HEIGHT
        audio = case["audio"]
        name = f"{audio['source'][-18:]}, {audio['seconds']:.1f} s, batch {case['batch_size']}"
        parts.append(draw_text(LEFT - 8, y + BAR_HEIGHT / 2 + 4, name, "end"))
        x = float(LEFT)
        for phase in case["phases"]:
            seconds = _median(case, phase)
            title = f"{LABELS.get(phase, phase)}: {1000 * seconds:.2f} ms, {seconds / total:.1%}"
            parts.append(
                f'<rect x="{x:.2f}" y="{y}" width="{seconds * scale:.2f}" height="{BAR_HEIGHT}" '
                f'fill="{SHADES[phases.index(phase)]}"><title>{html.escape(title)}</title></rect>'
            )
            x += seconds * scale
        parts.append(draw_text(x + 6, y + BAR_HEIGHT / 2 + 4, f"{1000 * total:.1f} ms", "start"))
    height = TOP + ROW_HEIGHT * (len(drawn) + 1) + 10
    return frame(WIDTH, height, "where the time of an answer goes, medians", "".join(parts))


def draw_text(x: float, y: float, text: str, anchor: str = "start", extra: str = "") -> str:
    """One line of text; `anchor` is start, middle or end."""
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{extra}>{html.escape(text)}</text>'


def frame(width: float, height: float, title: str, content: str) -> str:
    """A whole SVG with its title, readable by itself and inside a page."""
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}" '
        f'role="img" aria-label="{html.escape(title)}" font-family="system-ui, sans-serif" '
        f'font-size="12" fill="currentColor">{draw_text(8, 18, title)}{content}</svg>'
    )


def _draw_legend(phases: Sequence[str]) -> str:
    parts, x = [], 8.0
    for shade, phase in zip(SHADES, phases, strict=False):
        label = LABELS.get(phase, phase)
        parts.append(f'<rect x="{x:.1f}" y="{TOP}" width="11" height="11" fill="{shade}"/>')
        parts.append(draw_text(x + 15, TOP + 10, label))
        x += 32 + 6.6 * len(label)
    return "".join(parts)


def _median(case: Mapping[str, Any], phase: str) -> float:
    return case["summary"][f"{phase}_seconds"]["p50"]
