"""Plots and slopes of `growth.py`. In: its JSON's content. Out: SVG and a Markdown table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

Report = Mapping[str, Any]
# axis -> its title, the time that is plotted, that time's title, the unit of its slope
AXES = {
    "seconds": ("seconds of audio", "ttft_seconds", "TTFT", "ms per second of audio"),
    "batch": ("clips in the batch", "total_seconds", "whole answer, 16 tokens", "ms per clip"),
    "tokens": ("new tokens", "decode_seconds", "decoding", "ms per token"),
}
MEMORY_UNITS = {
    "seconds": "MB per second of audio",
    "batch": "MB per clip",
    "tokens": "kB per token",
}
COLOURS = {"exact": "#b3261e", "light": "#2f6fb3"}
WIDTH, PANEL, HEIGHT = 940, 460, 330
LEFT, RIGHT, TOP, BOTTOM = 70, 20, 60, 50


def fit_line(values: Sequence[float], results: Sequence[float]) -> tuple[float, float]:
    """Slope and intercept of the least-squares line."""
    slope, intercept = np.polyfit(values, results, 1)
    return float(slope), float(intercept)


def compute_slopes(report: Report) -> list[dict[str, Any]]:
    """Per axis and mode: time in ms and memory in MB, per unit and at zero."""
    rows = []
    for axis, (_, key, _, _) in AXES.items():
        for mode in COLOURS:
            points = _select(report, axis, mode)
            values = [point["value"] for point in points]
            slope, start = fit_line(values, [1000 * point[key] for point in points])
            row = {"axis": axis, "mode": mode, "time_ms": slope, "time_start_ms": start}
            if all(point["added_mb"] is not None for point in points):
                memory, base = fit_line(values, [point["added_mb"] for point in points])
                row |= {"memory_mb": memory, "memory_start_mb": base}
            rows.append(row)
    return rows


def format_growth(report: Report) -> str:
    """The slopes as a Markdown table."""
    lines = ["| against | mode | time | time at 0 | memory | memory at 0 |",
             "|---|---|---:|---:|---:|---:|"]  # fmt: skip
    for row in compute_slopes(report):
        title, _, what, unit = AXES[row["axis"]]
        memory = ("not measured", "not measured")
        if "memory_mb" in row:
            memory = (_format_memory(row), f"{row['memory_start_mb']:.0f} MB")
        lines.append(
            f"| {title} | {row['mode']} | {what}: {row['time_ms']:.2f} {unit} | "
            f"{row['time_start_ms']:.0f} ms | {memory[0]} | {memory[1]} |"
        )
    return "\n".join(lines)


def describe_run(report: Report, path: Path) -> str:
    """When, where and how it was measured."""
    machine = report["machine"]
    return (
        f"{report['date'][:10]}, {machine['num_usable_cores']} cores of {machine['cpu']}, "
        f"{machine['num_threads']} threads, load average "
        f"{report['load_average_1_5_15_min'][0]:.1f} when it began; medians of "
        f"{report['repeats']} answers. Every sample: `{path.name}`."
    )


def draw_growth(report: Report, axis: str) -> str:
    """Time and memory against one axis, both modes, with their slopes."""
    title, key, what, unit = AXES[axis]
    slopes = {row["mode"]: row for row in compute_slopes(report) if row["axis"] == axis}
    curves = {
        mode: [(point["value"], point[key]) for point in _select(report, axis, mode)]
        for mode in COLOURS
    }
    named = {mode: f"{mode}: {row['time_ms']:.2f} {unit}" for mode, row in slopes.items()}
    parts = [_draw_panel(0, f"{what}, s", title, curves, named)]
    if all("memory_mb" in row for row in slopes.values()):
        memory = {
            mode: [(point["value"], point["added_mb"]) for point in _select(report, axis, mode)]
            for mode in COLOURS
        }
        named = {mode: f"{mode}: {_format_memory(row)}" for mode, row in slopes.items()}
        parts.append(_draw_panel(PANEL + 20, "memory added at the peak, MB", title, memory, named))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" font-family="Helvetica, Arial, sans-serif" '
        f'font-size="12">\n<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fafbfc"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _select(report: Report, axis: str, mode: str) -> list[dict[str, Any]]:
    points = [p for p in report["points"] if p["axis"] == axis and p["mode"] == mode]
    return sorted(points, key=lambda point: point["value"])


def _format_memory(row: Mapping[str, Any]) -> str:
    factor = 1000 if row["axis"] == "tokens" else 1
    return f"{factor * row['memory_mb']:.1f} {MEMORY_UNITS[row['axis']]}"


def _draw_panel(
    offset: float,
    title: str,
    x_title: str,
    curves: Mapping[str, Sequence[tuple[float, float]]],
    named: Mapping[str, str],
) -> str:
    """Straight axes from zero; a mark per point, a line through a curve's points."""
    x_max = max(x for points in curves.values() for x, _ in points)
    y_max = max(y for points in curves.values() for _, y in points) or 1.0
    width, height = PANEL - LEFT - RIGHT, HEIGHT - TOP - BOTTOM
    parts = [_text(offset + LEFT, 20, title, size=14)]
    for share in (0.0, 0.25, 0.5, 0.75, 1.0):
        y = HEIGHT - BOTTOM - share * height
        parts.append(
            f'<path d="M{offset + LEFT:.1f} {y:.1f}h{width:.1f}" stroke="#d8dde3"/>'
            + _text(offset + LEFT - 8, y + 4, f"{share * y_max:.3g}", anchor="end")
        )
    for x in sorted({x for points in curves.values() for x, _ in points}):
        place = offset + LEFT + x / x_max * width
        if x / x_max >= 0.06:
            parts.append(_text(place, HEIGHT - BOTTOM + 18, f"{x:g}", anchor="middle"))
    parts.append(_text(offset + LEFT + width / 2, HEIGHT - 12, x_title, anchor="middle"))
    for number, (mode, points) in enumerate(curves.items()):
        colour = COLOURS[mode]
        places = [
            (offset + LEFT + x / x_max * width, HEIGHT - BOTTOM - y / y_max * height)
            for x, y in points
        ]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in places)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3.5" fill="{colour}"/>' for x, y in places]
        parts.append(_text(offset + LEFT + 4, 38 + 15 * number, named[mode], colour=colour))
    return "".join(parts)


def _text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#1f2733", size: int = 12
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}" font-size="{size}">{escape(text)}</text>'
