"""The report's page: what state the run is in, its curves, its tables and its configuration.

In: a `RunHistory` and its folder. Out: one HTML document that needs nothing else: no network, no
script, no font. A small script reads numbers out under the pointer; its hash is the only one that
the page's own policy lets run, so that no text of a log can.
"""

import base64
import hashlib
import html
from collections.abc import Iterable, Sequence
from pathlib import Path

from audiolm.training.report.axes import format_number
from audiolm.training.report.charts import draw_chart
from audiolm.training.report.curves import (
    LOWER_IS_BETTER,
    build_charts,
    describe_score,
    list_scores,
    name_task,
)
from audiolm.training.report.history import Record, RunHistory, find_number, is_drawable
from audiolm.training.report.samples import draw_samples
from audiolm.training.report.style import SCRIPT, STYLE

MAX_ROWS = 200  # of a table of skipped samples
MAX_IDS = 64  # in one row of it


def build_page(history: RunHistory, folder: Path) -> str:
    """The whole document; every text that comes from a file is escaped."""
    script_hash = base64.b64encode(hashlib.sha256(SCRIPT.encode()).digest()).decode("ascii")
    policy = (
        "default-src 'none'; style-src 'unsafe-inline'; media-src data:; "
        f"script-src 'sha256-{script_hash}'; base-uri 'none'; form-action 'none'"
    )
    body = [
        _draw_header(history),
        *_draw_curves(history),
        _draw_validations(history),
        draw_samples(history.samples, folder),
        _draw_skipped(history),
        _draw_config(history),
        _draw_notes(history),
    ]
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        '<meta name="color-scheme" content="light dark">'
        f"<title>{html.escape(history.name)}: training report</title>"
        f"<style>{STYLE}</style></head>\n<body><main>\n"
        + "\n".join(part for part in body if part)
        + f"\n</main><script>{SCRIPT}</script></body></html>\n"
    )


def _draw_header(history: RunHistory) -> str:
    state, detail = _describe_state(history)
    tiles = [_draw_tile("Steps", f"{history.num_steps:,}", _describe_epoch(history))]
    tiles += [_draw_tile(*best) for best in _list_bests(history)]
    duration = history.measure_seconds()
    if duration is not None:
        seconds, has_pauses = duration
        how = "from the files' times, pauses included" if has_pauses else "time at work"
        tiles.append(_draw_tile("Duration", format_duration(seconds), how))
    num_skipped = len(history.skips)
    if num_skipped:
        tiles.append(_draw_tile("Skipped steps", f"{num_skipped:,}", "listed below"))
    return (
        f"<header><h1>{html.escape(history.name)}</h1>"
        f'<p><span class="state {state}">{state}</span> {html.escape(detail)}</p>'
        f'<dl class="tiles">{"".join(tiles)}</dl></header>'
    )


def _describe_state(history: RunHistory) -> tuple[str, str]:
    """`finished`, `stopped` or `running`, and a sentence more."""
    reason = str(history.stop.get("reason") or "") if history.stop is not None else ""
    logged = history.last_logged
    last_line = f"Last log line: {logged:%Y-%m-%d %H:%M:%S}." if logged is not None else ""
    sentences = [f"{reason[:1].upper()}{reason[1:]}." if reason else "", last_line]
    if history.summary is not None:
        audio = history.summary.get("train_audio")
        if isinstance(audio, str):
            sentences.append(f"Training audio: {audio}{'' if audio.endswith('.') else '.'}")
    state = "finished" if history.summary is not None else "stopped" if history.stop else "running"
    return state, " ".join(sentence for sentence in sentences if sentence)


def _describe_epoch(history: RunHistory) -> str:
    epochs = [find_number(record, "epoch") for record in (*history.train[-1:], *history.valid[-1:])]
    reached = [epoch for epoch in epochs if epoch is not None and is_drawable(epoch)]
    if not reached:
        return "nothing logged yet"
    planned = find_number(history.config, "run", "optims", "max_epoch")
    of_all = f" of {planned:.0f}" if planned is not None else ""
    return f"epoch {max(reached) + 1:.0f}{of_all}"


def _list_bests(history: RunHistory) -> list[tuple[str, str, str]]:
    """Label, value and circumstances of the best validation loss and of each task's first score;
    the others are among the curves."""
    losses = [(find_number(record, "loss"), record["step"]) for record in history.valid]
    finite = [(loss, step) for loss, step in losses if loss is not None and is_drawable(loss)]
    bests = []
    if finite:
        loss, step = min(finite)
        bests.append(
            ("Best validation loss", f"{loss:.4f}", f"nats per answer token, step {step:,}")
        )
    metrics: dict[str, str] = {}
    for task, metric in (name for record in history.valid for name in list_scores(record)):
        metrics.setdefault(task, metric)
    for task, metric in metrics.items():
        scored = [
            (value, record["step"], list_scores(record)[task, metric])
            for record in history.valid
            if (value := find_number(record, "scores", task, metric, "value")) is not None
            and is_drawable(value)
        ]
        if scored:
            pick = min if metric in LOWER_IS_BETTER else max
            _, step, score = pick(scored, key=lambda entry: entry[0])
            title, _, _ = describe_score(metric)
            text, details = format_score(metric, score)
            label = f"Best {title}, {name_task(task)}"
            bests.append((label, text, f"{details}step {step:,}"))
    return bests


def format_score(metric: str, score: Record) -> tuple[str, str]:
    """`12.3 %` and `10.1 to 15.0, 64 clips, `."""
    _, unit, scale = describe_score(metric)
    percent = " %" if unit == "%" else ""
    numbers = {key: find_number(score, key) for key in ("value", "low", "high", "num_clips")}
    digits = 1 if percent else 3
    texts = {k: f"{v * scale:.{digits}f}" for k, v in numbers.items() if v is not None}
    details = f"{texts['low']} to {texts['high']}, " if {"low", "high"} <= texts.keys() else ""
    if numbers["num_clips"] is not None:
        details += f"{numbers['num_clips']:.0f} clips, "
    return texts["value"] + percent, details


def format_duration(seconds: float) -> str:
    """`2 d 3 h`, `3 h 07 min`, `7 min 02 s`, `12 s`."""
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes:02} min"
    return f"{minutes} min {seconds:02} s" if minutes else f"{seconds} s"


def _draw_tile(label: str, value: str, detail: str) -> str:
    return (
        f"<div><dt>{html.escape(label)}</dt><dd>{html.escape(value)}"
        f"<small>{html.escape(detail)}</small></dd></div>"
    )


def _draw_curves(history: RunHistory) -> list[str]:
    sections = []
    for heading, charts in build_charts(history):
        figures = "\n".join(draw_chart(chart, history.num_steps) for chart in charts)
        sections.append(f'<section><h2>{heading}</h2><div class="charts">{figures}</div></section>')
    return sections or ["<section><p>The log holds no number to draw yet.</p></section>"]


def _draw_validations(history: RunHistory) -> str:
    """The numbers behind the validation curves."""
    if not history.valid:
        return ""
    names = list(dict.fromkeys(name for record in history.valid for name in list_scores(record)))
    headings = ["Step", "Epoch", "Clips", "Loss", "Token accuracy"]
    headings += [f"{describe_score(metric)[0]}, {name_task(task)}" for task, metric in names]
    rows = []
    for record in history.valid:
        scores = list_scores(record)
        cells = [f"{record['step']:,}", _format_cell(record, "epoch", 1.0, 1, "")]
        cells += [_format_cell(record, "num_clips", 0.0, 1, "")]
        cells += [f"{loss:.4f}" if (loss := find_number(record, "loss")) is not None else ""]
        cells += [_format_cell(record, "token_accuracy", 0.0, 100, " %")]
        for name in names:
            text, details = format_score(name[1], scores[name]) if name in scores else ("", "")
            cells.append(f"{text} ({details.rstrip(', ')})" if details else text)
        rows.append(cells)
    return (
        f"<section><details><summary>Validation results ({len(rows)})</summary>"
        f"{_draw_table(headings, rows)}</details></section>"
    )


def _format_cell(record: Record, key: str, offset: float, scale: float, unit: str) -> str:
    number = find_number(record, key)
    return "" if number is None else f"{format_number((number + offset) * scale)}{unit}"


def _draw_skipped(history: RunHistory) -> str:
    """Training steps that were skipped, and clips that could not be read."""
    steps = [
        [f"{record['step']:,}", str(record.get("reason") or ""), _join_ids(record.get("ids"))]
        for record in history.skips
    ]
    found = history.summary.get("skipped") if history.summary is not None else None
    clips = [
        [str(clip.get(key, "")) for key in ("index", "id", "reason")]
        for clip in (found if isinstance(found, list) else [])
        if isinstance(clip, dict)
    ]
    parts = []
    for title, headings, rows, source in (
        ("Skipped steps", ("Step index", "Reason", "Samples"), steps, "log.jsonl"),
        ("Clips that could not be used", ("Row", "Clip", "Reason"), clips, "summary.json"),
    ):
        if rows:
            rest = len(rows) - MAX_ROWS
            more = f"<p>{rest:,} more in {source}.</p>" if rest > 0 else ""
            table = _draw_table(headings, rows[:MAX_ROWS])
            parts.append(f"<section><h2>{title} ({len(rows):,})</h2>{table}{more}</section>")
    return "".join(parts)


def _join_ids(ids: object) -> str:
    names = [str(name) for name in ids] if isinstance(ids, list) else []
    rest = f" and {len(names) - MAX_IDS} more" if len(names) > MAX_IDS else ""
    return ", ".join(names[:MAX_IDS]) + rest


def _draw_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in headings)
    body = "".join(
        f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in row)}</tr>" for row in rows
    )
    return (
        f'<div class="scroll" tabindex="0"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def _draw_config(history: RunHistory) -> str:
    if not history.config_text:
        return ""
    return (
        "<section><details><summary>Configuration</summary>"
        f"<pre>{html.escape(history.config_text)}</pre></details></section>"
    )


def _draw_notes(history: RunHistory) -> str:
    notes = list(history.notes)
    if history.num_superseded:
        lines = "line" if history.num_superseded == 1 else "lines"
        notes.append(f"{history.num_superseded} log {lines} superseded by a resume are left out.")
    return f"<footer><p>{html.escape(' '.join(notes))}</p></footer>" if notes else ""
