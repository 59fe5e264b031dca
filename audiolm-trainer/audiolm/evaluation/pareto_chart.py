"""The Pareto picture: each quality figure against TTFT, TPOT and memory, a panel for each pair.

In: the rows of a sweep. Out: SVG markup. Settings are numbered as in the table. Filled marks are on
the front of all figures together; the line joins those that no other beats within the panel.
Better is always up and to the left. A quality axis spans the front, and as much again below it;
what is worse stands at its lower end with an arrow, so that one bad setting does not hide the rest.
"""

import html
from collections.abc import Iterable, Sequence

from audiolm.evaluation.efficiency_charts import draw_text, frame
from audiolm.evaluation.sweep_table import (
    HIGHER_IS_BETTER,
    METRIC_NAMES,
    MIB,
    Figure,
    SweepRow,
    format_score,
)

PANEL_WIDTH, PANEL_HEIGHT = 300, 230
LEFT, BOTTOM, TOP, GAP = 54, 40, 20, 24
RADIUS = 5
MARGIN = 0.08  # of an axis, beyond its outermost mark
COLOUR = "#2f6fb3"
LEGEND_ROW = 18


def draw_pareto(rows: Sequence[SweepRow]) -> str:
    """All panels and the numbers' names."""
    costs: list[tuple[str, list[float]]] = [
        ("TTFT, ms", [1000 * row.ttft_seconds.value for row in rows]),
        ("TPOT, ms", [1000 * row.tpot_seconds.value for row in rows]),
    ]
    sizes = [row.memory_bytes for row in rows if row.memory_bytes is not None]
    if len(sizes) == len(rows):
        costs.append(("peak memory, MiB", [size / MIB for size in sizes]))
    parts = []
    tasks = list(rows[0].quality)
    for down, task in enumerate(tasks):
        for across, (title, values) in enumerate(costs):
            x, y = across * (PANEL_WIDTH + GAP), 30 + down * (PANEL_HEIGHT + GAP)
            panel = _draw_panel(rows, task, values, title)
            parts.append(f'<g transform="translate({x},{y})">{panel}</g>')
    top = 30 + len(tasks) * (PANEL_HEIGHT + GAP) + 10
    for place, row in enumerate(rows):
        scores = ", ".join(format_score(row.quality[task], row.metrics[task]) for task in tasks)
        told = f"{place + 1}  {row.name}: {scores}"
        parts.append(draw_text(LEFT, top + place * LEGEND_ROW, told))
    width = len(costs) * (PANEL_WIDTH + GAP)
    height = top + len(rows) * LEGEND_ROW
    title = "quality against speed and memory (up and left is better; filled: on the Pareto front)"
    return frame(width, height, title, "".join(parts))


def _draw_panel(rows: Sequence[SweepRow], task: str, costs: Sequence[float], title: str) -> str:
    metric = rows[0].metrics[task]
    is_rising = metric in HIGHER_IS_BETTER
    factor = 1 if is_rising else 100
    figures = [row.quality[task] for row in rows]
    on_front = _list_ends(row.quality[task] for row in rows if row.is_on_front)
    spread = (max(on_front) - min(on_front)) or abs(on_front[0]) or 1.0
    worst = min(on_front) - spread if is_rising else max(on_front) + spread

    def clip(value: float) -> float:
        return max(value, worst) if is_rising else min(value, worst)

    ends = [factor * clip(value) for value in _list_ends(figures)]
    x_axis = _Axis(costs, LEFT, PANEL_WIDTH, is_turned=False)
    y_axis = _Axis(ends, PANEL_HEIGHT - BOTTOM, TOP, is_turned=not is_rising)
    name = METRIC_NAMES.get(metric, metric) + ("" if is_rising else ", %")
    points = [
        (x_axis.place(cost), y_axis.place(factor * clip(f.value)))
        for cost, f in zip(costs, figures, strict=True)
    ]
    parts = [_draw_axes(x_axis, y_axis, title, name), _draw_front(points)]
    for number, (row, figure, (x, y)) in enumerate(zip(rows, figures, points, strict=True), 1):
        if figure.low is not None and figure.high is not None:
            low, high = (y_axis.place(factor * clip(end)) for end in (figure.low, figure.high))
            parts.append(
                f'<line x1="{x:.1f}" y1="{low:.1f}" x2="{x:.1f}" y2="{high:.1f}" '
                f'stroke="{COLOUR}" stroke-opacity="0.45"/>'
            )
        fill = COLOUR if row.is_on_front else "none"
        told = f"{row.name}: {format_score(figure, metric)}; {title} {x_axis.label(x)}"
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{RADIUS}" fill="{fill}" stroke="{COLOUR}" '
            f'stroke-width="1.5"><title>{html.escape(told)}</title></circle>'
            + draw_text(
                x + RADIUS + 2,
                y + (-RADIUS if number % 2 else 2 * RADIUS + 2),  # neighbours' numbers apart
                str(number) + ("" if clip(figure.value) == figure.value else " ↓"),
            )
        )
    return "".join(parts)


def _list_ends(figures: Iterable[Figure]) -> list[float]:
    """Values, and the ends of their intervals where they have one."""
    return [end for f in figures for end in (f.low, f.value, f.high) if end is not None]


class _Axis:
    """Values to places between `start` (low, or high when turned) and `end`."""

    def __init__(
        self, values: Sequence[float], start: float, end: float, *, is_turned: bool
    ) -> None:
        spread = (max(values) - min(values)) or abs(values[0]) or 1.0
        self.low, self.high = min(values) - MARGIN * spread, max(values) + MARGIN * spread
        self.start, self.end = (end, start) if is_turned else (start, end)
        self.ticks = [min(values), (min(values) + max(values)) / 2, max(values)]

    def place(self, value: float) -> float:
        share = (value - self.low) / (self.high - self.low)
        return self.start + share * (self.end - self.start)

    def label(self, place: float) -> str:
        share = (place - self.start) / (self.end - self.start)
        return f"{self.low + share * (self.high - self.low):.4g}"


def _draw_axes(x_axis: _Axis, y_axis: _Axis, x_title: str, y_title: str) -> str:
    floor = PANEL_HEIGHT - BOTTOM
    parts = [
        f'<path d="M{LEFT},{TOP}V{floor}H{PANEL_WIDTH}" fill="none" stroke="currentColor" '
        'stroke-opacity="0.5"/>',
        draw_text((LEFT + PANEL_WIDTH) / 2, PANEL_HEIGHT - 6, x_title, "middle"),
        draw_text(LEFT, TOP - 8, y_title),
    ]
    for tick in dict.fromkeys(x_axis.ticks):
        parts.append(draw_text(x_axis.place(tick), floor + 15, f"{tick:.4g}", "middle"))
    for tick in dict.fromkeys(y_axis.ticks):
        parts.append(draw_text(LEFT - 5, y_axis.place(tick) + 4, f"{tick:.3g}", "end"))
    return "".join(parts)


def _draw_front(points: Sequence[tuple[float, float]]) -> str:
    """Steps through the marks that no other beats: smaller x is better, and smaller y (up)."""
    front: list[tuple[float, float]] = []
    for x, y in sorted(points):
        if not front or y < front[-1][1]:
            front.append((x, y))
    steps = "".join(f"H{x:.1f}V{y:.1f}" for x, y in front[1:])
    x, y = front[0]
    return (
        f'<path d="M{x:.1f},{y:.1f}{steps}" fill="none" stroke="{COLOUR}" '
        'stroke-dasharray="4 3" stroke-opacity="0.7"/>'
    )
