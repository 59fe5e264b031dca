"""What a sweep found: a table, the competition's weighted rank, the Pareto front.

In: each setting's scores and rounds. Out: rows, text, files. A setting without every score and
every round has no row, whatever else of it is there.
"""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from audiolm.errors import UserError
from audiolm.evaluation.intervals import bootstrap_interval, mean_of
from audiolm.evaluation.sweep_plan import SweepPlan

MIB = 2**20
# Weights of the competition's ranking; its hidden task cannot be measured here.
RANK_WEIGHTS = {"asr": 1, "aac": 1, "memory": 2, "latency": 2}
HIGHER_IS_BETTER = ("spider", "cider_d")
METRIC_NAMES = {"wer": "WER", "cer": "CER", "spider": "SPIDEr", "cider_d": "CIDEr-D"}


@dataclass(frozen=True)
class Figure:
    """A number and its 95 % interval, where it has one."""

    value: float
    low: float | None = None
    high: float | None = None


@dataclass(frozen=True)
class SweepRow:
    """One setting.

    Attributes:
        metrics: by task, the metric's name.
        quality: by task, the score with its interval over clips.
        ttft_seconds, tpot_seconds: means over all rounds' answers, intervals over those answers.
        memory_bytes: peak while answering, the median of the rounds: allocated on a GPU, elsewhere
            of the whole process; None: not measured.
        weights_bytes: of the whole model.
        rank: weighted mean of the ranks; filled in by `rank_rows`.
        is_on_front: no other setting is better in something and worse in nothing.
    """

    name: str
    metrics: dict[str, str]
    quality: dict[str, Figure]
    ttft_seconds: Figure
    tpot_seconds: Figure
    memory_bytes: float | None
    weights_bytes: int
    rank: float = 0.0
    is_on_front: bool = False


@dataclass(frozen=True)
class SweepFiles:
    """What was written, and the text for the screen."""

    text: str
    table_path: Path
    page_path: Path
    num_failed: int


def build_row(
    name: str, scores: Mapping[str, Mapping[str, Any]], rounds: Sequence[Mapping[str, Any]]
) -> SweepRow:
    """A setting's pieces as a row."""
    cases = [case for report in rounds for case in report["cases"]]
    samples = [
        sample for case in cases for sample in case["iterations"] if sample["kind"] == "measured"
    ]
    peaks = [
        case["memory"]["gpu_peak_allocated_bytes"] or case["memory"]["process_peak_bytes"]
        for case in cases
    ]
    known = [peak for peak in peaks if peak is not None]
    return SweepRow(
        name,
        {task: score["metric"] for task, score in scores.items()},
        {task: Figure(score["value"], score["low"], score["high"])
         for task, score in scores.items()},
        _average([sample["ttft_seconds"] for sample in samples]),
        _average([sample["tpot_seconds"] for sample in samples]),
        statistics.median(known) if known else None,
        rounds[0]["weights_bytes"]["total"],
    )  # fmt: skip


def _average(samples: Sequence[float]) -> Figure:
    interval = bootstrap_interval(mean_of(np.asarray(samples)))
    return Figure(interval.value, interval.low, interval.high)


def finish_rows(rows: Sequence[SweepRow]) -> list[SweepRow]:
    """The rows with rank and front, in their order."""
    ranks = rank_rows(rows)
    goals = [list_goals(row) for row in rows]
    return [
        SweepRow(**{**vars(row), "rank": rank, "is_on_front": is_on_front(place, goals)})
        for place, (row, rank) in enumerate(zip(rows, ranks, strict=True))
    ]


def rank_rows(rows: Sequence[SweepRow]) -> list[float]:
    """The weighted mean of each setting's ranks; 1 is best, equals share the mean of their places.

    Latency is TTFT + TPOT, as in the competition.
    """
    columns: dict[str, list[float]] = {
        task: [_cost(row, task) for row in rows] for task in rows[0].quality
    }
    columns["latency"] = [row.ttft_seconds.value + row.tpot_seconds.value for row in rows]
    memory = [row.memory_bytes for row in rows]
    if all(size is not None for size in memory):
        columns["memory"] = [float(size) for size in memory if size is not None]
    total = sum(RANK_WEIGHTS[name] for name in columns)
    ranks = {name: rank_values(costs) for name, costs in columns.items()}
    return [
        sum(RANK_WEIGHTS[name] * ranks[name][place] for name in columns) / total
        for place in range(len(rows))
    ]


def rank_values(costs: Sequence[float]) -> list[float]:
    """1 for the lowest; equal values share the mean of the places that they take."""
    return [
        sum(other < cost for other in costs) + (sum(other == cost for other in costs) + 1) / 2
        for cost in costs
    ]


def list_goals(row: SweepRow) -> tuple[float, ...]:
    """What a setting is compared by, all of them better when lower."""
    return (
        *(_cost(row, task) for task in row.quality),
        row.ttft_seconds.value,
        row.tpot_seconds.value,
        row.memory_bytes or 0.0,
    )


def is_on_front(place: int, goals: Sequence[Sequence[float]]) -> bool:
    """Whether nobody is at least as good in everything and better in something."""
    mine = goals[place]
    return not any(
        all(a <= b for a, b in zip(theirs, mine, strict=True)) and tuple(theirs) != tuple(mine)
        for theirs in goals
    )


def _cost(row: SweepRow, task: str) -> float:
    value = row.quality[task].value
    return -value if row.metrics[task] in HIGHER_IS_BETTER else value


def format_rows(rows: Sequence[SweepRow]) -> str:
    """A Markdown table."""
    tasks = list(rows[0].quality)
    names = [METRIC_NAMES.get(rows[0].metrics[task], rows[0].metrics[task]) for task in tasks]
    titles = ["", "setting", *names, "TTFT, ms", "TPOT, ms", "peak, MiB", "weights, MiB", "rank"]
    lines = [f"| {' | '.join(titles)} |", f"|---|---|{'---:|' * (len(titles) - 2)}"]
    for number, row in enumerate(rows, 1):
        cells = [
            f"{number}{'*' if row.is_on_front else ''}",
            row.name,
            *(format_score(row.quality[task], row.metrics[task]) for task in tasks),
            _format_ms(row.ttft_seconds),
            _format_ms(row.tpot_seconds),
            "-" if row.memory_bytes is None else f"{row.memory_bytes / MIB:.0f}",
            f"{row.weights_bytes / MIB:.1f}",
            f"{row.rank:.2f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def format_score(figure: Figure, metric: str) -> str:
    """Rates in per cent, others as they are, with the interval."""
    factor, unit = (1, "") if metric in HIGHER_IS_BETTER else (100, " %")
    text = f"{factor * figure.value:.2f}{unit}"
    if figure.low is None or figure.high is None:
        return text
    return f"{text} ({factor * figure.low:.2f} to {factor * figure.high:.2f})"


def _format_ms(figure: Figure) -> str:
    text = f"{1000 * figure.value:.2f}"
    if figure.low is None or figure.high is None:
        return text
    return f"{text} ({1000 * figure.low:.2f} to {1000 * figure.high:.2f})"


def list_notes(plan: SweepPlan, rows: Sequence[SweepRow], is_gpu: bool) -> list[str]:
    """What one has to know to read the table."""
    peak = "allocated on the GPU" if is_gpu else "of the whole process, libraries included"
    file = plan.file
    notes = [
        "*: on the Pareto front: no other setting is better in one column and worse in none.",
        "Scores: 95 % intervals over clips. Times: means with 95 % intervals over the answers of "
        f"{file.rounds} rounds of {file.num_it} per clip.",
        f"Peak: {peak}, while answering; the median of the rounds.",
        "Rank: weighted mean of ranks, 1 is best: WER x1, captions x1, memory x2, TTFT + TPOT x2. "
        "The competition's hidden task is not in it.",
    ]
    metric = rows[0].metrics.get("aac")
    if metric is not None and metric != "spider":
        notes.append(
            f"Captions are ranked by {METRIC_NAMES.get(metric, metric)}: SPIDEr could not be "
            "computed here (see the evaluation's notes)."
        )
    missing = [task for task in ("asr", "aac") if task not in rows[0].quality]
    if missing:
        notes.append(f"Not scored, and not in the rank: {', '.join(missing)}.")
    if any(row.memory_bytes is None for row in rows):
        notes.append("Memory could not be measured here, and is not in the rank.")
    return notes


def write_sweep(
    folder: Path,
    plan: SweepPlan,
    pieces: Mapping[str, tuple[dict[str, Any], list[dict[str, Any]]]],
    failed: Mapping[str, str],
) -> SweepFiles:
    """Write table, values and picture of the settings that are complete.

    Raises:
        UserError: there is none.
    """
    from audiolm.evaluation.pareto_chart import draw_pareto
    from audiolm.evaluation.sweep_page import build_sweep_page

    file = plan.file
    complete = {
        name: (scores, rounds)
        for name, (scores, rounds) in pieces.items()
        if len(scores) == len(file.quality) and len(rounds) == file.rounds
        and not any("error" in case for report in rounds for case in report["cases"])
    }  # fmt: skip
    reasons = {
        name: failed.get(name, "out of memory while it was timed")
        for name in pieces
        if name not in complete
    }
    if not complete:
        told = "; ".join(f"{name}: {reason}" for name, reason in reasons.items())
        raise UserError(f"no setting could be measured: {told}")
    rows = finish_rows([build_row(name, *parts) for name, parts in complete.items()])
    machine = next(iter(complete.values()))[1][0]["machine"]
    notes = list_notes(plan, rows, machine["device"] != "cpu")
    notes += [f"Not measured: {name}: {reason}" for name, reason in reasons.items()]
    text = "\n".join([format_rows(rows), "", *notes])
    picture = draw_pareto(rows)
    values = {"machine": machine, "rows": [asdict(row) for row in rows], "notes": notes}
    (folder / "sweep.json").write_text(json.dumps(values, indent=1, ensure_ascii=False))
    (folder / "sweep.md").write_text(text + "\n", encoding="utf-8")
    (folder / "pareto.svg").write_text(picture, encoding="utf-8")
    page_path = folder / "sweep.html"
    page_path.write_text(build_sweep_page(plan, rows, notes, machine, picture), encoding="utf-8")
    return SweepFiles(text, folder / "sweep.md", page_path, len(reasons))
