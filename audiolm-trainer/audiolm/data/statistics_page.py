"""Statistics of an annotation as text and as one HTML page with pictures (no script, no network).

In: `AnnotationStatistics`. Out: lines for a terminal; a page with its charts drawn as SVG.
"""

import html
from collections import Counter

from audiolm.data.statistics import (
    LAST_SECOND_BIN,
    LAST_WORD_BIN,
    AnnotationStatistics,
    GroupStatistics,
)

BAR_CHARACTERS = 40
NUM_TOP_WORDS = 20
CHART_WIDTH, CHART_HEIGHT = 640, 200
SECONDS_PER_BAR = 2  # of the text histogram
WORDS_PER_BAR = 5
_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 46rem; color: #222; }
table { border-collapse: collapse; margin: 1rem 0; }
th, td { padding: 0.2rem 0.8rem; border-bottom: 1px solid #ddd; text-align: right; }
th:first-child, td:first-child { text-align: left; }
svg { display: block; margin: 0.5rem 0 1.5rem; } rect { fill: #3b6ea8; } text { font-size: 12px; }
"""


def format_text(statistics: AnnotationStatistics) -> list[str]:
    """Tables and histograms of characters."""
    whole = statistics.all
    lines = [f"{'':<24}{'clips':>10}{'hours':>10}{'texts':>10}{'words':>12}{'vocabulary':>12}"]
    for title, groups in (("task", statistics.by_task), ("corpus", statistics.by_corpus)):
        lines += [
            _format_row(f"{title} {name}", group)
            for name, group in sorted(groups.items(), key=lambda item: -item[1].num_entries)
        ]
    lines.append(_format_row("all", whole))
    unknown = whole.num_entries - whole.num_with_seconds
    if unknown:
        lines.append(f"length unknown: {unknown:,} clips (give --prefix to read their headers)")
    lines += ["", "clips by seconds"]
    lines += _draw_bars(whole.second_bins, SECONDS_PER_BAR, LAST_SECOND_BIN - 1, is_whole=False)
    lines += ["", "texts by words", *_draw_bars(whole.word_bins, WORDS_PER_BAR, LAST_WORD_BIN)]
    top = ", ".join(
        f"{word} {count:,}" for word, count in whole.vocabulary.most_common(NUM_TOP_WORDS)
    )
    num_once = sum(count == 1 for count in whole.vocabulary.values())
    lines += ["", f"vocabulary: {len(whole.vocabulary):,} words, {num_once:,} of them once"]
    return [*lines, f"most frequent: {top}"] if top else lines


def format_html(statistics: AnnotationStatistics, title: str) -> str:
    """The page."""
    whole = statistics.all
    rows = [
        _html_row(f"{kind} {name}", group)
        for kind, groups in (("task", statistics.by_task), ("corpus", statistics.by_corpus))
        for name, group in sorted(groups.items(), key=lambda item: -item[1].num_entries)
    ]
    header = "".join(
        f"<th>{name}</th>" for name in ("", "clips", "hours", "texts", "words", "vocabulary")
    )
    sections = [f"<h1>{html.escape(title)}</h1>", f"<table><tr>{header}</tr>"]
    sections += [*rows, _html_row("all", whole), "</table>"]
    sections += ["<h2>Clips by seconds</h2>", draw_histogram(whole.second_bins, LAST_SECOND_BIN, 5)]
    sections += ["<h2>Texts by words</h2>", draw_histogram(whole.word_bins, LAST_WORD_BIN, 10)]
    words = "".join(
        f"<tr><td>{html.escape(word)}</td><td>{count:,}</td></tr>"
        for word, count in whole.vocabulary.most_common(NUM_TOP_WORDS)
    )
    sections += [f"<h2>Vocabulary: {len(whole.vocabulary):,} words</h2><table>{words}</table>"]
    head = f'<meta charset="utf-8"><title>{html.escape(title)}</title><style>{_STYLE}</style>'
    return f"<!doctype html><html><head>{head}</head><body>{''.join(sections)}</body></html>\n"


def draw_histogram(bins: Counter[int], last: int, label_every: int) -> str:
    """An SVG with a bar per bin; the last one is open to the right."""
    highest = max(bins.values(), default=0) or 1
    step = CHART_WIDTH / (last + 1)
    parts = [
        f'<svg width="{CHART_WIDTH}" height="{CHART_HEIGHT + 40}" role="img" '
        f'viewBox="0 0 {CHART_WIDTH} {CHART_HEIGHT + 40}">'
    ]
    for value in range(last + 1):
        height = CHART_HEIGHT * bins[value] / highest
        parts.append(
            f'<rect x="{value * step:.1f}" y="{20 + CHART_HEIGHT - height:.1f}" '
            f'width="{step - 1:.1f}" height="{height:.1f}">'
            f"<title>{_name_bin(value, 1, last)}: {bins[value]:,}</title></rect>"
        )
        if value % label_every == 0 or value == last:
            label = _name_bin(value, 1, last) if value == last else str(value)
            anchor = "end" if value == last else "start"
            x = CHART_WIDTH if value == last else value * step
            if value == last or value + label_every / 2 < last:
                place = f'x="{x:.1f}" y="{CHART_HEIGHT + 36}" text-anchor="{anchor}"'
                parts.append(f"<text {place}>{label}</text>")
    return "".join([*parts, f'<text x="0" y="14">{highest:,}</text></svg>'])


def _format_row(name: str, group: GroupStatistics) -> str:
    cells = _list_cells(group)
    widths = (10, 10, 10, 12, 12)
    return f"{name:<24}" + "".join(
        f"{cell:>{width}}" for cell, width in zip(cells, widths, strict=True)
    )


def _html_row(name: str, group: GroupStatistics) -> str:
    cells = "".join(f"<td>{cell}</td>" for cell in _list_cells(group))
    return f"<tr><td>{html.escape(name)}</td>{cells}</tr>"


def _list_cells(group: GroupStatistics) -> tuple[str, ...]:
    return (
        f"{group.num_entries:,}",
        f"{group.seconds / 3600:,.2f}",
        f"{group.num_texts:,}",
        f"{group.num_words:,}",
        f"{len(group.vocabulary):,}",
    )


def _draw_bars(bins: Counter[int], width: int, last: int, *, is_whole: bool = True) -> list[str]:
    """A line for `width` bins together; what is at `last` or above is one line.

    Whole numbers (`is_whole`) are named 0-4, 5-9; others, whose bins reach to the next, 0-2, 2-4.
    """
    joined: Counter[int] = Counter()
    for value, count in bins.items():
        joined[min(value, last) // width * width] += count
    highest = max(joined.values(), default=0)
    return [
        (
            f"  {_name_bin(first, width, last, is_whole):>8}{joined[first]:>10,}  "
            + "#" * round(BAR_CHARACTERS * joined[first] / highest)
        ).rstrip()
        for first in range(0, max(joined, default=-1) + 1, width)
    ]


def _name_bin(first: int, width: int, last: int, is_whole: bool = True) -> str:
    if first >= last:
        return f"{last}+"
    return str(first) if width == 1 else f"{first}-{first + width - (1 if is_whole else 0)}"
