"""Which curves a run's report shows: its log's numbers, grouped into charts.

In: a `RunHistory`. Out: titled groups of `Chart`. A chart for which the log has no number is left
out, so that older logs give fewer charts.
"""

from collections.abc import Sequence
from typing import Any

from audiolm.training.report.charts import NUM_COLOURS, Chart, Series, build_line
from audiolm.training.report.history import Record, RunHistory, find_number, is_drawable

# Scores of the log by name: title, unit, what their value is multiplied by.
SCORES = {
    "wer": ("WER", "%", 100.0),
    "wer_open_asr": ("WER (open_asr)", "%", 100.0),
    "cer": ("CER", "%", 100.0),
    "phone_error_rate": ("phone error rate", "%", 100.0),
    "sentence_error_rate": ("sentence error rate", "%", 100.0),
    "empty_share": ("empty answers", "%", 100.0),
    "cider_d": ("CIDEr-D", "0 to 10", 1.0),
    "spider": ("SPIDEr", "score", 1.0),
    "spice": ("SPICE", "score", 1.0),
    "fense": ("FENSE", "score", 1.0),
    "meteor": ("METEOR", "score", 1.0),
    "rouge_l": ("ROUGE-L", "score", 1.0),
    **{f"bleu_{n}": (f"BLEU-{n}", "score", 1.0) for n in (1, 2, 3, 4)},
}
LOWER_IS_BETTER = (
    "wer", "wer_open_asr", "cer", "phone_error_rate", "sentence_error_rate", "empty_share",
)  # fmt: skip

# Numbers of the train lines: key, title, unit, what they are multiplied by, axis from zero.
QUANTITIES = (
    ("learning_rate", "Learning rate", "step size", 1.0, True),
    ("grad_norm", "Gradient norm", "before clipping", 1.0, False),
    ("clips_per_second", "Throughput", "clips per second", 1.0, True),
    ("audio_seconds_per_second", "Audio throughput", "seconds of audio per second", 1.0, True),
    ("data_wait_share", "Wait for data", "% of the time", 100.0, True),
    ("padding_share", "Padding", "% of the batch", 100.0, True),
    ("memory_gib", "Memory", "GiB", 1.0, True),
)
MAY_BE_LOG = ("loss", "grad_norm")


def build_charts(history: RunHistory) -> list[tuple[str, list[Chart]]]:
    """Groups of charts, each with its heading."""
    learning = [
        *_learning_charts(history, "loss", "Loss", "nats per answer token", 1.0),
        *_learning_charts(history, "token_accuracy", "Token accuracy", "% of answer tokens", 100.0),
        *_score_charts(history),
    ]
    groups = [("Learning", learning), ("Optimisation and speed", _train_charts(history))]
    return [(heading, charts) for heading, charts in groups if charts]


def name_task(task: str) -> str:
    """A task as it is called in the log, in words."""
    return task.replace("_", " ")


def list_scores(record: Record) -> dict[tuple[str, str], Record]:
    """The scores of a `valid` line by task and metric: value, low, high, num_clips."""
    tasks = record.get("scores")
    return {
        (str(task), str(metric)): score
        for task, scores in (tasks.items() if isinstance(tasks, dict) else ())
        for metric, score in (scores.items() if isinstance(scores, dict) else ())
        if isinstance(score, dict) and find_number(score, "value") is not None
    }


def describe_score(metric: str) -> tuple[str, str, float]:
    """A metric's title, its unit, and what its values are multiplied by to have it."""
    return SCORES.get(metric, (metric.replace("_", " "), "score", 1.0))


def _learning_charts(
    history: RunHistory, key: str, title: str, unit: str, scale: float
) -> list[Chart]:
    """Training beside validation: over all tasks, then task by task."""
    shared: dict[str, Any] = {"unit": unit, "may_be_log": key in MAY_BE_LOG, **_marks(history)}
    overall = [
        _train_line(history, "training", (key,), scale, colour=0),
        _valid_points(history, "validation", (key,), scale, colour=1),
    ]
    charts = [Chart(title, series=[s for s in overall if s.steps], **shared)]
    tasks = _list_tasks(history)
    tasks = tasks if len(tasks) > 1 else []  # one task is what the chart above shows
    for first in range(0, len(tasks), NUM_COLOURS):
        some_tasks = tasks[first : first + NUM_COLOURS]
        series: list[Series] = []
        for colour, task in enumerate(some_tasks):
            keys, name = ("tasks", task, key), name_task(task)
            series += [
                _train_line(history, name, keys, scale, colour),
                _valid_points(history, f"{name}, validation", keys, scale, colour, True),
            ]
        which = f" ({first + 1} to {first + len(some_tasks)})" if len(tasks) > NUM_COLOURS else ""
        series = [s for s in series if s.steps]
        charts.append(Chart(f"{title} by task{which}", series=series, **shared))
    return [chart for chart in charts if chart.series]


def _score_charts(history: RunHistory) -> list[Chart]:
    """One chart per metric, one series per task."""
    names = [name for record in history.valid for name in list_scores(record)]
    charts = []
    for metric in dict.fromkeys(metric for _, metric in names):
        title, unit, scale = describe_score(metric)
        tasks = dict.fromkeys(task for task, other in names if other == metric)
        series = [
            _score_points(history, task, metric, scale, colour) for colour, task in enumerate(tasks)
        ]
        better = "Lower" if metric in LOWER_IS_BETTER else "Higher"
        clips = "; ".join(f"{s.name}: {_describe_clips(s.num_clips)}" for s in series)
        ranges = " Range: bootstrap interval." if any(s.lows for s in series) else ""
        note = f"{better} is better.{ranges} {clips}."
        if any(s.steps for s in series):
            charts.append(Chart(title, unit, series, note, from_zero=True, **_resumes(history)))
    return charts


def _train_charts(history: RunHistory) -> list[Chart]:
    charts = []
    for key, title, unit, scale, from_zero in QUANTITIES:
        marks = _marks(history) if key == "grad_norm" else _resumes(history)
        line = _train_line(history, title.lower(), (key,), scale)
        if line.steps:
            is_log = key in MAY_BE_LOG
            charts.append(Chart(title, unit, [line], "", from_zero, is_log, **marks))
    return charts


def _train_line(
    history: RunHistory, name: str, keys: Sequence[str], scale: float, colour: int = 0
) -> Series:
    steps, values = [], []
    for record in history.train:
        number = find_number(record, *keys)
        if number is not None:
            steps.append(record["step"] + 1)
            values.append(scale * number)
    return build_line(name, steps, values, colour)


def _valid_points(
    history: RunHistory,
    name: str,
    keys: Sequence[str],
    scale: float,
    colour: int,
    is_dashed: bool = False,
) -> Series:
    found = [(record["step"], find_number(record, *keys)) for record in history.valid]
    numbers = [(step, scale * number) for step, number in found if number is not None]
    drawn = [(step, value) for step, value in numbers if is_drawable(value)]
    return Series(
        name,
        [step for step, _ in drawn],
        [value for _, value in drawn],
        colour=colour,
        is_sampled=True,
        is_dashed=is_dashed,
        num_left_out=len(numbers) - len(drawn),
    )


def _score_points(history: RunHistory, task: str, metric: str, scale: float, colour: int) -> Series:
    rows = []
    for record in history.valid:
        score = list_scores(record).get((task, metric), {})
        value, low, high, clips = (
            find_number(score, key) for key in ("value", "low", "high", "num_clips")
        )
        if value is not None and is_drawable(value):
            ends = [end * scale for end in (low, high) if end is not None and is_drawable(end)]
            num_clips = int(clips) if clips is not None and is_drawable(clips) else 0
            rows.append((record["step"], value * scale, ends, num_clips))
    has_ranges = all(len(ends) == 2 for _, _, ends, _ in rows)
    return Series(
        name_task(task),
        [step for step, _, _, _ in rows],
        [value for _, value, _, _ in rows],
        [ends[0] for _, _, ends, _ in rows] if has_ranges else [],
        [ends[1] for _, _, ends, _ in rows] if has_ranges else [],
        [num_clips for _, _, _, num_clips in rows],
        colour % NUM_COLOURS,
        is_sampled=True,
    )


def _describe_clips(num_clips: Sequence[int]) -> str:
    if not any(num_clips):
        return "number of clips not logged"
    few, many = min(num_clips), max(num_clips)
    return f"n = {few} clips" if few == many else f"n = {few} to {many} clips"


def _list_tasks(history: RunHistory) -> list[str]:
    tasks: dict[str, None] = {}
    for record in (*history.train, *history.valid):
        found = record.get("tasks")
        tasks.update(dict.fromkeys(found) if isinstance(found, dict) else {})
    return sorted(tasks)


def _resumes(history: RunHistory) -> dict[str, Any]:
    return {"resumes": [record["step"] for record in history.resumes]}


def _marks(history: RunHistory) -> dict[str, Any]:
    return {**_resumes(history), "skips": [record["step"] + 1 for record in history.skips]}
