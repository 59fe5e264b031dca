"""A chart as inline SVG: lines, ranges around them, sampled points with error bars, marks in time.

In: a `Chart`, numbers over optimiser steps. Out: one HTML figure. It needs no script; the numbers
that hovering reads out lie in the figure's `data-chart`.
"""

import html
import json
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from audiolm.training.report.axes import (
    LOG_SPAN,
    Axis,
    build_linear_axis,
    build_log_axis,
    build_step_axis,
    format_number,
)
from audiolm.training.report.history import MAX_DRAWABLE

NUM_COLOURS = 6
MIN_LOG = 1e-30  # values at or below it have no place on a logarithmic axis
MAX_POINTS = 120  # drawn per line; of a longer one, means of as many stretches
MAX_DOTS = 60  # points with a dot of their own
WIDTH, HEIGHT = 400, 219  # SVG units, about one pixel each
SWATCH_LINE = 'd="M0 5H22"'
LEFT, RIGHT, TOP, BOTTOM = 42, 392, 24, 187  # of the field inside the axes


@dataclass(frozen=True)
class Series:
    """One line. `lows` and `highs` are a range around each value, or empty.

    A sampled series holds measurements, such as validations: points, with the range as error bars.
    The others are continuous: a line, with the range as a band. `num_clips`, when given, says how
    many clips each point is measured on.
    """

    name: str
    steps: Sequence[float]
    values: Sequence[float]
    lows: Sequence[float] = ()
    highs: Sequence[float] = ()
    num_clips: Sequence[int] = ()
    colour: int = 0  # 0 .. NUM_COLOURS - 1
    is_sampled: bool = False
    is_dashed: bool = False
    num_left_out: int = 0  # values that no axis can show


@dataclass(frozen=True)
class Chart:
    """Lines with one unit, and steps at which something happened."""

    title: str
    unit: str
    series: Sequence[Series]
    note: str = ""
    from_zero: bool = False
    may_be_log: bool = False
    resumes: Sequence[int] = field(default=())
    skips: Sequence[int] = field(default=())


def build_line(
    name: str, steps: Sequence[float], values: Sequence[float], colour: int = 0
) -> Series:
    """A continuous series; a long one becomes means of stretches with their smallest and largest.

    Args:
        steps: ascending, as many as `values`.
    """
    x, y = np.array(steps, dtype=float), np.array(values, dtype=float)
    is_drawn = np.abs(y) < MAX_DRAWABLE  # not so for NaN
    x, y = x[is_drawn], y[is_drawn]
    num_left_out = len(values) - len(y)
    if len(x) <= MAX_POINTS:
        return Series(name, x.tolist(), y.tolist(), colour=colour, num_left_out=num_left_out)
    starts = np.linspace(0, len(x), MAX_POINTS, endpoint=False).astype(int)
    lengths = np.diff(starts, append=len(x))
    return Series(
        name,
        (np.add.reduceat(x, starts) / lengths).tolist(),
        (np.add.reduceat(y, starts) / lengths).tolist(),
        np.minimum.reduceat(y, starts).tolist(),
        np.maximum.reduceat(y, starts).tolist(),
        colour=colour,
        num_left_out=num_left_out,
    )


def draw_chart(chart: Chart, num_steps: int) -> str:
    """The HTML figure of a chart whose step axis ends at `num_steps`."""
    x_axis = build_step_axis(num_steps)
    y_axis, chart = _fit_value_axis(chart)
    parts = [_draw_axes(x_axis, y_axis, chart.unit), _draw_marks(chart, x_axis)]
    parts += [_draw_series(series, x_axis, y_axis) for series in chart.series]
    many = " many" if len(chart.series) > 2 else ""  # their read-out takes more room
    kind = ", logarithmic" if y_axis.is_log else ""
    label = f"{chart.title} ({chart.unit}{kind}) over optimiser steps"
    return (
        f'<figure class="chart{many}" data-chart="{html.escape(_dump_numbers(chart, x_axis))}">'
        f"<h3>{html.escape(chart.title)}</h3>{_draw_legend(chart)}"
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(label)}">'
        f'{"".join(parts)}<line class="cursor" y1="{TOP}" y2="{BOTTOM}"/></svg>'
        f"<figcaption><span>{html.escape(_describe(chart, y_axis))}</span>"
        '<span class="readout"></span></figcaption></figure>'
    )


def _fit_value_axis(chart: Chart) -> tuple[Axis, Chart]:
    """The axis that holds all values, and the chart without those that it cannot show."""
    numbers = [
        number for s in chart.series for part in (s.values, s.lows, s.highs) for number in part
    ]
    positive = [number for number in numbers if number > MIN_LOG] if chart.may_be_log else []
    if positive and max(positive) / min(positive) >= LOG_SPAN:
        axis = build_log_axis(min(positive), max(positive))
        return axis, replace(chart, series=[_keep_positive(s) for s in chart.series])
    low, high = min(numbers, default=0.0), max(numbers, default=1.0)
    return build_linear_axis(low, high, from_zero=chart.from_zero), chart


def _keep_positive(series: Series) -> Series:
    """Without values at or near zero; a low end there becomes the value itself."""
    kept = [i for i, value in enumerate(series.values) if value > MIN_LOG]
    values = [series.values[i] for i in kept]
    lows = [series.lows[i] for i in kept] if series.lows else []
    return replace(
        series,
        steps=[series.steps[i] for i in kept],
        values=values,
        lows=[low if low > MIN_LOG else value for low, value in zip(lows, values, strict=False)],
        highs=[series.highs[i] for i in kept] if series.highs else [],
        num_clips=[series.num_clips[i] for i in kept] if series.num_clips else [],
        num_left_out=series.num_left_out + len(series.values) - len(kept),
    )


def _x(axis: Axis, step: float) -> str:
    return f"{LEFT + axis.place(step) * (RIGHT - LEFT):.1f}"


def _y(axis: Axis, value: float) -> str:
    return f"{BOTTOM - axis.place(value) * (BOTTOM - TOP):.1f}"


def _draw_axes(x_axis: Axis, y_axis: Axis, unit: str) -> str:
    parts = [f'<text class="unit" x="2" y="11">{html.escape(unit)}</text>']
    for tick, label in zip(y_axis.ticks, y_axis.label_ticks(), strict=True):
        y = _y(y_axis, tick)
        parts.append(f'<path class="grid" d="M{LEFT} {y}H{RIGHT}"/>')
        parts.append(f'<text class="y" x="{LEFT - 5}" y="{y}" dy="4">{label}</text>')
    for tick, label in zip(x_axis.ticks, x_axis.label_ticks(), strict=True):
        x = _x(x_axis, tick)
        parts.append(f'<path class="tick" d="M{x} {BOTTOM}v4"/>')
        is_last = x_axis.place(tick) > 0.96
        end = ' style="text-anchor:end"' if is_last else ""
        x = f"{RIGHT + 6}" if is_last else x
        parts.append(f'<text class="x" x="{x}" y="{BOTTOM + 16}"{end}>{label}</text>')
    parts.append(f'<path class="axis" d="M{LEFT} {BOTTOM}H{RIGHT}"/>')
    middle = (LEFT + RIGHT) / 2
    parts.append(f'<text class="x unit" x="{middle}" y="{HEIGHT - 2}">optimiser steps</text>')
    return "".join(parts)


def _draw_marks(chart: Chart, x_axis: Axis) -> str:
    """Resumes as upright lines, skipped steps as triangles on the step axis."""
    parts = [
        f'<path class="resume" d="M{x} {TOP}V{BOTTOM}"/>'
        for x in dict.fromkeys(_x(x_axis, step) for step in chart.resumes)
    ]
    parts += [
        f'<path class="skip" d="M{x} {BOTTOM - 7}l4 7h-8z"/>'
        for x in dict.fromkeys(_x(x_axis, step) for step in chart.skips)
    ]
    return "".join(parts)


def _draw_series(series: Series, x_axis: Axis, y_axis: Axis) -> str:
    xs = [_x(x_axis, step) for step in series.steps]
    ys = [_y(y_axis, value) for value in series.values]
    has_dots = len(xs) <= (MAX_DOTS if series.is_sampled else 1)
    parts = []
    if series.lows:
        lows = [_y(y_axis, low) for low in series.lows]
        highs = [_y(y_axis, high) for high in series.highs]
        if series.is_sampled and has_dots:
            bars = "".join(
                f"M{x} {low}V{high}M{float(x) - 3:.1f} {low}h6M{float(x) - 3:.1f} {high}h6"
                for x, low, high in zip(xs, lows, highs, strict=True)
            )
            parts.append(f'<path class="bars" d="{bars}"/>')
        else:
            there = [f"{x},{y}" for x, y in zip(xs, highs, strict=True)]
            back = [f"{x},{y}" for x, y in zip(xs, lows, strict=True)]
            parts.append(f'<polygon class="band" points="{" ".join(there + back[::-1])}"/>')
    points = " ".join(f"{x},{y}" for x, y in zip(xs, ys, strict=True))
    dashed = " dashed" if series.is_dashed else ""
    parts.append(f'<polyline class="line{dashed}" points="{points}"/>')
    if has_dots:
        parts += [
            f'<circle cx="{x}" cy="{y}" r="2.6"><title>{html.escape(text)}</title></circle>'
            for x, y, text in zip(xs, ys, _describe_points(series), strict=True)
        ]
    return f'<g class="c{series.colour % NUM_COLOURS}">{"".join(parts)}</g>'


def _describe_points(series: Series) -> list[str]:
    texts = []
    for i, (step, value) in enumerate(zip(series.steps, series.values, strict=True)):
        text = f"{series.name}, step {step:,.0f}: {format_number(value)}"
        if series.lows:
            text += f" ({format_number(series.lows[i])} to {format_number(series.highs[i])})"
        texts.append(text + (f", {series.num_clips[i]} clips" if series.num_clips else ""))
    return texts


def _draw_legend(chart: Chart) -> str:
    """Names of lines; of lines that share a colour the dashed one is told of once for all."""
    lines = [s for s in chart.series if not s.is_dashed]
    solid_colours = {s.colour for s in lines}
    lines += [s for s in chart.series if s.is_dashed and s.colour not in solid_colours]
    dash = f'<path class="line dashed" {SWATCH_LINE}/>'
    line, dot = f'<path class="line" {SWATCH_LINE}/>', '<circle cx="11" cy="5" r="3"/>'
    items: list[tuple[str, str, int | None]] = [
        (s.name, (dash if s.is_dashed else line) + (dot if s.is_sampled else ""), s.colour)
        for s in lines
        if len(chart.series) > 1 or s.is_sampled  # a lone line is what the title says
    ]
    if len(lines) < len(chart.series):
        items.append(("validation", dash + dot, None))
    if chart.resumes:
        items.append(("resumed", '<path class="resume" d="M11 0V10"/>', None))
    if chart.skips:
        items.append(("skipped step", '<path class="skip" d="M11 1l4.5 8h-9z"/>', None))
    entries = [
        f'<li><svg class="{"" if colour is None else f"c{colour % NUM_COLOURS}"}" '
        f'viewBox="0 0 22 10">{swatch}</svg>{html.escape(name)}</li>'
        for name, swatch, colour in items
    ]
    return f'<ul class="legend">{"".join(entries)}</ul>'


def _describe(chart: Chart, y_axis: Axis) -> str:
    sentences = [chart.note] if chart.note else []
    if y_axis.is_log:
        sentences.append("Logarithmic axis.")
    if any(s.lows and not s.is_sampled for s in chart.series):
        sentences.append("Line: mean of neighbouring log lines; band: lowest to highest.")
    num_left_out = sum(s.num_left_out for s in chart.series)
    if num_left_out:
        values = "value is" if num_left_out == 1 else "values are"
        sentences.append(f"{num_left_out} {values} not drawn: not finite, or off this axis.")
    return " ".join(sentences)


def _dump_numbers(chart: Chart, x_axis: Axis) -> str:
    """What the read-out needs: the field's edges in SVG units, and each series' numbers."""
    series: list[dict[str, Any]] = [
        {
            "name": s.name,
            "x": [round(step) for step in s.steps],
            **{
                key: [float(f"{number:.4g}") for number in numbers]
                for key, numbers in (("y", s.values), ("low", s.lows), ("high", s.highs))
                if numbers
            },
        }
        for s in chart.series
    ]
    numbers = {"left": LEFT, "right": RIGHT, "width": WIDTH, "steps": x_axis.high, "series": series}
    return json.dumps(numbers, separators=(",", ":"))
