"""The report's pictures, as SVG: how scores and lengths are distributed.

In: arrays. Out: SVG markup that takes its colours from the page.
"""

import html

import numpy as np

WIDTH, HEIGHT = 360, 200
LEFT, BOTTOM, TOP, RIGHT = 44, 34, 22, 10
NUM_BARS = 20
NUM_CELLS = 16


def draw_histogram(values: np.ndarray, title: str, is_percentage: bool) -> str:
    """How many clips have which figure; the last bar holds all beyond the 99th percentile."""
    end = float(np.quantile(values, 0.99)) or float(values.max()) or 1.0
    counts, edges = np.histogram(np.minimum(values, end), bins=NUM_BARS, range=(0, end))
    highest = max(int(counts.max()), 1)
    width = (WIDTH - LEFT - RIGHT) / NUM_BARS
    bars = []
    for place, count in enumerate(counts):
        height = (HEIGHT - TOP - BOTTOM) * count / highest
        low, high = (_label(edge, is_percentage) for edge in edges[place : place + 2])
        bars.append(
            f'<rect class="bar" x="{LEFT + place * width:.1f}" y="{HEIGHT - BOTTOM - height:.1f}" '
            f'width="{width - 1:.1f}" height="{height:.1f}">'
            f"<title>{low} to {high}: {count} clips</title></rect>"
        )
    labels = [
        _text(LEFT, HEIGHT - 16, _label(0, is_percentage), "start"),
        _text(WIDTH - RIGHT, HEIGHT - 16, f"{_label(end, is_percentage)} and more", "end"),
        _text(LEFT - 4, TOP + 8, str(highest), "end"),
        _text(LEFT - 4, HEIGHT - BOTTOM, "0", "end"),
    ]
    return _frame(title, "".join(bars + labels))


def draw_length_confusion(lengths: np.ndarray) -> str:
    """How long answers are against how long their references are, in words.

    Args:
        lengths: (N, 2) of reference and hypothesis; the last cells hold what is longer.
    """
    end = max(int(np.quantile(lengths, 0.99)) if len(lengths) else 0, 1)
    size = max(-(-(end + 1) // NUM_CELLS), 1)  # words per cell
    num_cells = end // size + 1
    cells = np.minimum(lengths // size, num_cells - 1)
    counts = np.zeros((num_cells, num_cells), dtype=int)
    np.add.at(counts, (cells[:, 0], cells[:, 1]), 1)
    side_x = (WIDTH - LEFT - RIGHT) / num_cells
    side_y = (HEIGHT - TOP - BOTTOM) / num_cells
    marks = []
    for x, y in zip(*np.nonzero(counts), strict=True):
        strength = 0.15 + 0.85 * counts[x, y] / counts.max()
        told = [_range(cell * size, size, cell == num_cells - 1) for cell in (x, y)]
        marks.append(
            f'<rect class="bar" fill-opacity="{strength:.2f}" x="{LEFT + x * side_x:.1f}" '
            f'y="{HEIGHT - BOTTOM - (y + 1) * side_y:.1f}" width="{side_x:.1f}" '
            f'height="{side_y:.1f}"><title>references of {told[0]} words, answers of {told[1]}: '
            f"{counts[x, y]} clips</title></rect>"
        )
    diagonal = (
        f'<line class="line" x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH - RIGHT}" y2="{TOP}"/>'
    )
    labels = [
        _text(LEFT, HEIGHT - 18, "0", "start"),
        _text((LEFT + WIDTH) / 2, HEIGHT - 4, "words of the reference", "middle"),
        _text(WIDTH - RIGHT, HEIGHT - 18, f"{end} and more", "end"),
        _text(LEFT - 4, TOP + 8, str(end), "end"),
    ]
    title = "words of the answer against words of the reference"
    return _frame(title, "".join([*marks, diagonal, *labels]))


def _frame(title: str, content: str) -> str:
    return (
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(title)}">'
        f"{_text(LEFT, 14, title, 'start')}"
        f'<line class="line" x1="{LEFT}" y1="{HEIGHT - BOTTOM}" x2="{WIDTH - RIGHT}" '
        f'y2="{HEIGHT - BOTTOM}"/>{content}</svg>'
    )


def _text(x: float, y: float, text: str, anchor: str) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{html.escape(text)}</text>'


def _label(value: float, is_percentage: bool) -> str:
    return f"{100 * value:.0f}%" if is_percentage else f"{value:.3g}"


def _range(start: int, size: int, is_last: bool) -> str:
    if is_last:
        return f"{start} or more"
    return str(start) if size == 1 else f"{start} to {start + size - 1}"
