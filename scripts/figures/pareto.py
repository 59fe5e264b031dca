"""WER against time and size of the model of the real run, by `--sweep configs/real_sweep.yaml`."""

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from scripts.figures.canvas import AUDIO, CARD, INK, LINE, MARGIN, SOFT, WIDTH, Canvas
from scripts.figures.wording import Say

RESULT = Path(__file__).resolve().parents[2] / "benchmarks" / "results" / "real_sweep.json"
MIB = 2**20
PANEL, GAP, LEFT = 246, 48, 48  # pixels: width of a panel, between panels, for its scale
TOP, HEIGHT = 104, 240
LEGEND_ROW = 21
NUM_COLUMNS = 2


def draw_pareto(say: Say) -> str:
    """The figure as SVG text, from the values that a sweep wrote."""
    values = json.loads(RESULT.read_text(encoding="utf-8"))
    rows: list[dict[str, Any]] = values["rows"]
    rates = [100 * row["quality"]["asr"]["value"] for row in rows]
    panels = (
        ("ttft", [1000 * row["ttft_seconds"]["value"] for row in rows]),
        ("tpot", [1000 * row["tpot_seconds"]["value"] for row in rows]),
        ("weights", [row["weights_bytes"] / MIB for row in rows]),
    )
    legend_top = TOP + HEIGHT + 74
    num_lines = math.ceil(len(rows) / NUM_COLUMNS)
    canvas = Canvas(legend_top + LEGEND_ROW * num_lines + 4)
    canvas.text(MARGIN, 36, say("pareto_title"), 17, anchor="start", is_bold=True)
    canvas.text(MARGIN, 58, say("pareto_note"), 12.5, anchor="start", color=SOFT)
    for number, (key, costs) in enumerate(panels):
        left = MARGIN + LEFT + number * (PANEL + GAP + 14)
        _draw_panel(canvas, left, say(key), say("wer"), costs, rates)
    for place, row in enumerate(rows):
        column, line = divmod(place, num_lines)
        x = MARGIN + column * (WIDTH - 2 * MARGIN) / NUM_COLUMNS
        told = f"{place + 1}  {row['name']}: {rates[place]:.1f} %"
        for key, costs in panels:
            told += f", {costs[place]:.3g} {say(key + '_unit')}"
        canvas.text(x, legend_top + line * LEGEND_ROW, told, 12.5, anchor="start")
    return canvas.render(say("pareto_title"))


def _draw_panel(
    canvas: Canvas, left: float, name: str, rate_name: str,
    costs: Sequence[float], rates: Sequence[float],
) -> None:  # fmt: skip
    """One mark per setting; the steps join those that no other beats in this panel."""
    across, up = _choose_ticks(costs), _choose_ticks(rates)
    bottom, right = TOP + HEIGHT, left + PANEL

    def place(cost: float, rate: float) -> tuple[float, float]:
        x = left + PANEL * (cost - across[0]) / (across[-1] - across[0])
        return x, bottom - HEIGHT * (rate - up[0]) / (up[-1] - up[0])

    canvas.text(left - 40, TOP - 14, rate_name, 12.5, anchor="start", color=SOFT)
    canvas.text((left + right) / 2, bottom + 42, name, 12.5, color=SOFT)
    for tick in up:
        y = place(across[0], tick)[1]
        canvas.path([(left, y), (right, y)], has_head=False, color=LINE, width=0.5)
        canvas.text(left - 6, y + 4, f"{tick:g}", 11.5, anchor="end", color=SOFT)
    for tick in across:
        canvas.text(place(tick, up[0])[0], bottom + 20, f"{tick:g}", 11.5, color=SOFT)
    front: list[tuple[float, float]] = []
    for cost, rate in sorted(zip(costs, rates, strict=True)):
        if not front or rate < front[-1][1]:
            front += [(cost, front[-1][1])] if front else []
            front.append((cost, rate))
    canvas.path([place(*point) for point in front], has_head=False, color=AUDIO, width=2)
    best = set(front)
    for number, point in enumerate(zip(costs, rates, strict=True), 1):
        x, y = place(*point)
        canvas.dot(x, y, 9, AUDIO if point in best else CARD)
        canvas.text(x, y + 4, str(number), 11, color=INK)


def _choose_ticks(values: Sequence[float]) -> list[float]:
    """Four to seven round numbers around all values."""
    low, high = min(values), max(values)
    spread = (high - low) or abs(high) or 1.0
    power = 10.0 ** math.floor(math.log10(spread / 4))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= spread / 5)
    first = math.floor((low - 0.1 * spread) / step)
    last = math.ceil((high + 0.1 * spread) / step)
    return [round(number * step, 10) for number in range(first, last + 1)]
