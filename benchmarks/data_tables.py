"""Tables of the data benchmarks from their JSON, and the plot of cost against rows.

    python benchmarks/data_tables.py RESULT.json [RESULT.json ...]
    python benchmarks/data_tables.py RESULT.json --page docs/benchmarks.md \\
        --plot img/growth_rows.svg

In: JSONs of `data_scale.py` and `data_loading.py`. Out: Markdown. `--page` puts it into the page,
with when and how it was measured, between the comments `data_scale` and `end of data_scale` (or
`data_loading`). `--plot` draws the result of `data_scale.py` as SVG, and the page shows it.
"""

import argparse
import json
import math
import os
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from xml.sax.saxutils import escape

Report = Mapping[str, Any]

SCALE_COLUMNS = (
    ("rows", "{num_rows:,}"),
    ("file, MB", "{file_mb:,.1f}"),
    ("make the index, s (once)", "{index_seconds:.2f}"),
    ("– its peak, MiB", "{index_peak_mib:,.0f}"),
    ("open, s", "{open_seconds:.4f}"),
    ("shuffle a pass, s", "{shuffle_seconds:.4f}"),
    ("first batch of a pass, s", "{first_batch_seconds:.2f}"),
    ("one random clip, ms", "{clip_ms:.3f}"),
    ("main process, peak MiB", "{main_peak_mib:,.0f}"),
    ("each worker, private MiB", "{private}"),
    ("share MiB", "{share}"),
)
LOADING_HEADER = (
    "| clips/s | loading processes | ours | librosa | plain | ours / librosa | ours / plain |",
    "|---|---:|---:|---:|---:|---:|---:|",
)
CURVES = (
    ("index_seconds", "make the index, once", "#b3541e"),
    ("shuffle_seconds", "shuffle a pass", "#3b6ea8"),
    ("open_seconds", "open", "#2f7d4f"),
)
WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 760, 420, 70, 250, 46, 52
SLOPE_FROM_ROWS = 100_000  # from here on the annotation is read through its index


def main(arguments: Sequence[str]) -> int:
    """Print each result or put it into the page; draw the plot when it is asked for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("results", type=Path, nargs="+", metavar="RESULT.json")
    parser.add_argument("--page", type=Path, metavar="MD", help="page to put the tables into")
    parser.add_argument("--plot", type=Path, metavar="SVG", help="cost against rows")
    options = parser.parse_args(arguments)
    for path in options.results:
        report = json.loads(path.read_text(encoding="utf-8"))
        is_scale = report["benchmark"] == "data_scale"
        text = format_scale(report) if is_scale else format_loading(report)
        if is_scale and options.plot:
            options.plot.write_text(draw_growth(report), encoding="utf-8")
        if options.page is None:
            print(text)
            continue
        text = f"{describe_run(report, path)}\n\n{text}"
        if is_scale and options.plot:
            place = os.path.relpath(options.plot, options.page.parent)
            text += f"\n![Seconds against rows of the annotation]({place})\n"
        page = options.page.read_text(encoding="utf-8")
        page = replace_section(page, report["benchmark"], text)
        options.page.write_text(page, encoding="utf-8")
    return 0


def describe_run(report: Report, path: Path) -> str:
    """When, on what, how busy it was, and where every figure is."""
    machine, load = report["machine"], report["load_average_1_5_15_min"]
    options = ", ".join(f"{name} {value}" for name, value in report["settings"].items())
    return (
        f"{report['date'][:10]}, {machine['num_usable_cores']} cores of {machine['cpu']}, load "
        f"average {load[0]:.1f} when it began; {options}. Every figure: `{path.name}` in "
        "`benchmarks/results/`."
    )


def replace_section(page: str, name: str, text: str) -> str:
    """The page with the text between the comments of that name.

    Raises:
        ValueError: the page has no such comments.
    """
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->"
    before, opening, rest = page.partition(first)
    _, closing, after = rest.partition(last)
    if not opening or not closing:
        raise ValueError(f"the page has no {first.strip()} and {last}")
    return f"{before}{first}{text}{last}{after}"


def format_scale(report: Report) -> str:
    """A line per number of rows."""
    lines = ["| " + " | ".join(name for name, _ in SCALE_COLUMNS) + " |"]
    lines.append("|" + "---:|" * len(SCALE_COLUMNS))
    for row in report["rows"]:
        lists = {key: _format_list(row[f"worker_{key}_mib"]) for key in ("private", "share")}
        lines.append("| " + " | ".join(text.format(**row, **lists) for _, text in SCALE_COLUMNS))
        lines[-1] += " |"
    return "\n".join(lines) + "\n"


def format_loading(report: Report) -> str:
    """A line per format and number of loading processes: medians."""
    lines: list[str] = [*LOADING_HEADER]
    medians = {key: statistics.median(rates) for key, rates in report["clips_per_second"].items()}
    for place in dict.fromkeys(key.rpartition("/")[0] for key in medians):
        name, _, num_workers = place.rpartition("/")
        ours, librosa, plain = (medians[f"{place}/{way}"] for way in ("ours", "librosa", "plain"))
        lines.append(
            f"| {name} | {num_workers} | {ours:.0f} | {librosa:.0f} | {plain:.0f} | "
            f"{ours / librosa:.1f} | {ours / plain:.1f} |"
        )
    return "\n".join(lines) + "\n"


def fit_slope(rows: Sequence[float], seconds: Sequence[float]) -> float:
    """Exponent k of seconds ~ rows ** k, by least squares on the logarithms."""
    return statistics.linear_regression(
        [math.log(number) for number in rows], [math.log(value) for value in seconds]
    ).slope


def draw_growth(report: Report) -> str:
    """An SVG with logarithmic axes: seconds against rows, and each curve's slope."""
    rows = sorted(report["rows"], key=lambda row: row["num_rows"])
    numbers = [row["num_rows"] for row in rows]
    values = [row[key] for row in rows for key, _, _ in CURVES]
    left, right = math.log10(numbers[0]), math.log10(numbers[-1])
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))

    def place(number: float, value: float) -> tuple[float, float]:
        across = (math.log10(number) - left) / ((right - left) or 1)
        up = (math.log10(value) - low) / (high - low)
        return LEFT + across * (WIDTH - LEFT - RIGHT), HEIGHT - BOTTOM - up * (
            HEIGHT - TOP - BOTTOM
        )

    parts = [_draw_text(LEFT, 24, "Seconds against rows of the annotation", size=15)]
    for power in range(low, high + 1):
        y = place(numbers[0], 10.0**power)[1]
        parts.append(_draw_line(LEFT, y, WIDTH - RIGHT, y))
        parts.append(_draw_text(LEFT - 8, y + 4, _format_seconds(power), anchor="end"))
    for number in numbers:
        x = place(number, 10.0**low)[0]
        parts.append(_draw_line(x, TOP, x, HEIGHT - BOTTOM))
        parts.append(_draw_text(x, HEIGHT - BOTTOM + 20, f"{number:,}", anchor="middle"))
    for key, label, colour in CURVES:
        points = [place(row["num_rows"], row[key]) for row in rows]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        parts.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="2.5"/>'
        )
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>' for x, y in points]
        x, y = points[-1]
        parts.append(_draw_text(x + 12, y, label, colour=colour))
        parts.append(_draw_text(x + 12, y + 16, _describe_slope(rows, key), colour=colour))
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'width="{WIDTH}" height="{HEIGHT}" '
        "font-family=\"'Segoe UI', Helvetica, Arial, 'DejaVu Sans', sans-serif\">\n"
        f'<rect width="{WIDTH}" height="{HEIGHT}" rx="8" fill="#fafbfc"/>\n'
        + "\n".join(parts)
        + "\n</svg>\n"
    )


def _describe_slope(rows: Sequence[Report], key: str) -> str:
    """The slope over the rows that are read through an index."""
    indexed = [row for row in rows if row["num_rows"] >= SLOPE_FROM_ROWS]
    if len(indexed) < 2:
        return ""
    slope = fit_slope([row["num_rows"] for row in indexed], [row[key] for row in indexed])
    return f"slope {slope:.2f} from 10^5 on"


def _format_list(values: Sequence[float]) -> str:
    return ", ".join(f"{value:,.0f}" for value in values)


def _format_seconds(power: int) -> str:
    return f"{10**power:g} s" if power >= 0 else f"{10.0 ** (power + 3):g} ms"


def _draw_line(x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<path d="M{x1:.1f} {y1:.1f}L{x2:.1f} {y2:.1f}" stroke="#d8dde3"/>'


def _draw_text(
    x: float, y: float, text: str, *, anchor: str = "start", colour: str = "#1f2733", size: int = 13
) -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{colour}" font-size="{size}">{escape(text)}</text>'


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
