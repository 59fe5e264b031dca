"""`report.html`: an evaluation to look at and listen to, in one file that needs no network.

In: the content of `result.json`, its groups, the predictions. Out: the page. Its rows are data that
a script shows a hundred at a time, so that it stays quick; audio is linked, or embedded on request.
"""

import base64
import html
import itertools
import json
import mimetypes
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import quote

import numpy as np

from audiolm.data.annotations import resolve_audio_path
from audiolm.errors import UserError
from audiolm.evaluation.alignment import align_texts
from audiolm.evaluation.predictions import Prediction
from audiolm.evaluation.report_charts import draw_histogram, draw_length_confusion
from audiolm.evaluation.report_style import SCRIPT, STYLE
from audiolm.evaluation.result_page import describe_bin, describe_facts
from audiolm.evaluation.results import GroupResult
from audiolm.evaluation.tasks import CAPTIONS
from audiolm.evaluation.wording import NAMES, PERCENTAGES, format_bound, format_value

MAX_ROWS = 5000


@dataclass(frozen=True)
class ReportOptions:
    """What the report holds.

    Attributes:
        is_wanted: False writes no report.
        num_embedded: clips whose audio is put into the file, the worst first; others are linked.
    """

    is_wanted: bool = True
    num_embedded: int = 0


def save_report(
    path: Path,
    result: dict[str, Any],
    groups: Sequence[GroupResult],
    predictions: Sequence[Prediction],
    options: ReportOptions,
) -> None:
    """Write the page, if it is wanted."""
    if options.is_wanted:
        prefix = result.get("config", {}).get("datasets", {}).get("prefix", "")
        page = build_page(result, groups, predictions, prefix, path.parent, options)
        path.write_text(page, encoding="utf-8", errors="backslashreplace")


def build_page(
    result: dict[str, Any],
    groups: Sequence[GroupResult],
    predictions: Sequence[Prediction],
    prefix: str,
    folder: Path,
    options: ReportOptions,
) -> str:
    """The whole document. Texts of files come in as data or escaped, never as markup."""
    rows = list_rows(groups, predictions, MAX_ROWS)
    for place, row in enumerate(rows):
        row["audio"] = _find_audio(
            predictions[row["n"]], prefix, folder, is_embedded=place < options.num_embedded
        )
    title = f"{result['mode']}, {result['finished']}"
    body = [f"<h1>{html.escape(title)}</h1>", *map(_draw_group, groups)]
    body += [f"<p>{html.escape(note)}</p>" for note in result["notes"]]
    if len(predictions) > len(rows):
        worst = "with the most errors or the lowest scores"
        body.append(f"<p>Below: of {len(predictions)} clips the {len(rows)} {worst}.</p>")
    body += ['<div id="clips"></div>', _draw_card(result)]
    names = [{"name": group.name, "score": NAMES[group.primary]} for group in groups]
    data = json.dumps({"rows": rows, "groups": names}, ensure_ascii=False, separators=(",", ":"))
    data = data.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029")
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(body)
        + f'\n</main><script id="data" type="application/json">{data}</script>'
        f"<script>{SCRIPT}</script></body></html>\n"
    )


def list_rows(
    groups: Sequence[GroupResult], predictions: Sequence[Prediction], num_wanted: int
) -> list[dict[str, Any]]:
    """Rows of the worst clips, the worst first: by number of errors where they are counted, else by
    score. Clips without a score come last."""
    places: list[tuple[float, GroupResult, int, float, int | None]] = []
    for group in groups:
        measure = group.measures[group.primary]
        figures = np.asarray(measure.formula(measure.rows))
        errors = measure.rows[:, :3].sum(axis=1).astype(int) if group.kind.counts_edits else None
        badness = -figures if errors is None else errors
        places += zip(
            badness.tolist(),
            itertools.repeat(group),
            group.positions,
            figures.tolist(),
            itertools.repeat(None) if errors is None else errors.tolist(),
        )
    places.sort(key=lambda place: -place[0])
    rows = []
    for _, group, position, figure, num_errors in places[:num_wanted]:
        prediction = predictions[position]
        row = _describe_row(position, prediction)
        row |= {"group": group.name, "score": round(figure, 6), "errors": num_errors}
        row["percent"] = group.primary in PERCENTAGES
        row["caption"] = group.kind is CAPTIONS
        row["steps"] = align_texts(group.kind, prediction.text, prediction.references)
        rows.append(row)
    scored = {position for _, _, position, _, _ in places}
    others = (i for i in range(len(predictions)) if i not in scored)
    left = itertools.islice(others, num_wanted - len(rows))
    return [*rows, *(_describe_row(i, predictions[i]) for i in left)]


def _describe_row(position: int, prediction: Prediction) -> dict[str, Any]:
    return {
        "n": position,
        "id": prediction.id,
        "task": prediction.task,
        "seconds": round(prediction.audio_seconds, 2),
        "stop": prediction.stop_reason,
        "tokens": prediction.num_tokens,
        "logp": round(prediction.log_probability, 2),
        "refs": list(prediction.references),
        "text": prediction.text,
        "score": None,
        "errors": None,
    }


def _find_audio(
    prediction: Prediction, prefix: str, folder: Path, *, is_embedded: bool
) -> str | None:
    """Where the page finds a clip's audio: beside it, or in itself; None when it is not there."""
    try:
        path = resolve_audio_path(prefix, prediction.id)
    except UserError:
        return None
    if not path.is_file():
        return None
    if is_embedded:
        kind = mimetypes.guess_type(path.name)[0] or "audio/wav"
        return f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode('ascii')}"
    return quote(os.path.relpath(path.resolve(), folder.resolve()).replace(os.sep, "/"))


def _draw_group(group: GroupResult) -> str:
    measure = group.measures[group.primary]
    figures = np.asarray(measure.formula(measure.rows))
    heading = f"<h2>{html.escape(group.name)} <small>{html.escape(group.kind.name)}</small></h2>"
    facts = "".join(f"<li>{html.escape(line)}</li>" for line in describe_facts(group))
    charts = [
        draw_histogram(figures, f"clips by {NAMES[group.primary]}", group.primary in PERCENTAGES),
        draw_length_confusion(group.lengths),
    ]
    return (
        f"<section>{heading}<div class='columns'>{_draw_scores(group)}{_draw_bins(group)}</div>"
        f"<ul>{facts}</ul><div class='columns'>{''.join(charts)}</div></section>"
    )


def _draw_scores(group: GroupResult) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(NAMES[name])}</th><td>{format_value(name, figure.value)}</td>"
        f"<td>{_draw_range(name, figure.low, figure.high)}</td></tr>"
        for name, figure in group.scores.items()
    )
    return f"<table><tr><th>score</th><th>value</th><th>95% interval</th></tr>{rows}</table>"


def _draw_range(name: str, low: float | None, high: float | None) -> str:
    if low is None or high is None:
        return "-"
    return f"{format_bound(name, low)} to {format_bound(name, high)}"


def _draw_bins(group: GroupResult) -> str:
    name = group.primary
    rows = "".join(
        f"<tr><th>{describe_bin(b.start_seconds, b.end_seconds)}</th><td>{b.figure.num_clips}</td>"
        f"<td>{format_bound(name, b.figure.value)}</td>"
        f"<td>{_draw_range(name, b.figure.low, b.figure.high)}</td></tr>"
        for b in group.bins
    )
    head = f"<tr><th>audio</th><th>clips</th><th>{NAMES[name]}</th><th>95% interval</th></tr>"
    return f"<table>{head}{rows}</table>"


def _draw_card(result: dict[str, Any]) -> str:
    hidden = ("groups", "lines", "scores", "settings")
    card = {key: value for key, value in result.items() if key not in hidden}
    text = html.escape(json.dumps(card, indent=1, ensure_ascii=False))
    summary = "What ran: options, versions, hardware"
    return f"<details><summary>{summary}</summary><pre>{text}</pre></details>"
