"""Draw curves of finished runs side by side into one SVG, from their log.jsonl.

    python scripts/draw_run_curves.py real/runs/real_ctc_* real/runs/real_llm_* -o img/real-run.svg

Of each run the loss and the token accuracy of training and validation, as in its report.html, and
the first score of its validations where there are any.
"""

import argparse
import html
import re
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1] / "audiolm-trainer"))

from audiolm.errors import UserError, run_command
from audiolm.training.report.charts import HEIGHT, WIDTH, Chart, draw_chart
from audiolm.training.report.curves import build_charts
from audiolm.training.report.history import RunHistory, read_history
from audiolm.training.report.style import STYLE

MAX_CHARTS = 3  # of a run
HEADING, GAP = 44, 24  # SVG units: room for a chart's title and legend, and between charts


def main(arguments: Sequence[str]) -> int:
    """Parse the command line, draw, say where."""
    options = build_parser().parse_args(arguments)
    histories = [read_history(Path(folder)) for folder in options.folders]
    rows = []
    for folder, history in zip(options.folders, histories, strict=True):
        groups = dict(build_charts(history))
        if "Learning" not in groups:
            raise UserError(f"{folder}: its log.jsonl holds no curve; give the folder of a run")
        rows.append((Path(folder).name.rsplit("_", 1)[0], history, groups["Learning"][:MAX_CHARTS]))
    Path(options.output).write_text(draw(rows), encoding="utf-8")
    print(options.output)
    return 0


def draw(rows: Sequence[tuple[str, RunHistory, Sequence[Chart]]]) -> str:
    """One row of charts per run; (name, history, charts)."""
    num_columns = max(len(charts) for _, _, charts in rows)
    width = num_columns * (WIDTH + GAP) + GAP
    row_height = HEIGHT + HEADING + GAP
    height = len(rows) * row_height + GAP
    parts = []
    for row, (name, history, charts) in enumerate(rows):
        for column, chart in enumerate(charts):
            x, y = GAP + column * (WIDTH + GAP), GAP + row * row_height
            parts.append(place(chart, name, count_steps(history), x, y))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" '
        f'font-family="system-ui, sans-serif"><style>{STYLE}svg{{background:var(--page)}}'
        f".chart>text{{fill:var(--ink);font-size:14px}}.chart>.key{{font-size:11px;"
        f"fill:currentColor}}.cursor{{display:none}}</style>{''.join(parts)}</svg>\n"
    )


def count_steps(history: RunHistory) -> int:
    """Optimiser steps that the log tells of."""
    steps = [record["step"] for record in (*history.train, *history.valid)]
    return max(1, round(max(steps, default=0)))


def place(chart: Chart, name: str, num_steps: int, x: int, y: int) -> str:
    """A chart of the report as a part of a picture, with its title and a legend in words."""
    found = re.search(r"<svg viewBox.*</svg>", draw_chart(chart, num_steps), re.DOTALL)
    assert found is not None
    axes = found[0][found[0].rindex("<svg viewBox") :]  # the legend's swatches come before it
    keys = "".join(
        f'<text class="key c{series.colour}" x="{x + 130 * i}" y="{y + 34}">'
        f"{'– – ' if series.is_dashed else '—— '}{html.escape(series.name)}</text>"
        for i, series in enumerate(chart.series)
    )
    where = f'<svg x="{x}" y="{y + HEADING}" width="{WIDTH}" height="{HEIGHT}" '
    title = html.escape(f"{name}: {chart.title} ({chart.unit})")
    return (
        f'<g class="chart"><text x="{x}" y="{y + 14}">{title}</text>{keys}'
        f"{axes.replace('<svg ', where, 1)}</g>"
    )


def build_parser() -> argparse.ArgumentParser:
    """Describe the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("folders", nargs="+", help="run folders, each with its log.jsonl")
    parser.add_argument("-o", "--output", required=True, help="SVG file to write")
    parser.add_argument("--debug", action="store_true", help="show the traceback of an error")
    return parser


if __name__ == "__main__":
    run_command(main)
