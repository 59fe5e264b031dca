"""One piece of a sweep, made in a process of its own: a setting's score, or a round of its speed.

In: a configuration with resolved paths. Out: plain values. torch is imported in here alone, so that
the process that waits stays small.
"""

import tempfile
from pathlib import Path
from typing import Any

from audiolm.config import Config
from audiolm.evaluation.sweep_plan import SweepFile


def measure_quality(config: Config, task: str, root: Path) -> dict[str, Any]:
    """The task's `valid_` evaluation, exactly as `evaluate_salmonn.py --mode valid_TASK` does it.

    Returns:
        `metric` (the primary figure's name), its `value` and 95 % interval `low`, `high`,
        `num_clips`, `folder` and `notes` (what could not be computed).
    """
    from audiolm.evaluation.pipeline import Evaluation, evaluate
    from audiolm.evaluation.run_folder import RESULT_NAME
    from audiolm.json_file import load_json

    result = evaluate(config, Evaluation(f"valid_{task}", root=root))
    assert result is not None, "a sweep is one process"
    saved = load_json(result.folder / RESULT_NAME, "evaluation")
    group = saved["groups"][0]
    figure = group["scores"][group["primary"]]
    return {
        "metric": group["primary"],
        "value": figure["value"],
        "low": figure["low"],
        "high": figure["high"],
        "num_clips": figure["num_clips"],
        "folder": str(result.folder),
        "notes": group["notes"],
    }


def measure_speed(config: Config, file: SweepFile) -> dict[str, Any]:
    """An efficiency report of one round, without the machine's limits."""
    from audiolm.evaluation.efficiency import Repetition, list_cases, measure_cases
    from audiolm.evaluation.efficiency_inputs import ClipChoice, load_question
    from audiolm.evaluation.efficiency_report import build_report
    from audiolm.evaluation.machine import describe_machine, find_commit

    sizes = (file.batch_size,)
    repetition = Repetition(file.num_it, file.num_warmup, file.new_tokens, sizes)
    with tempfile.TemporaryDirectory(prefix="audiolm-") as folder:
        clips = ClipChoice(file.audio, file.seconds).load(Path(folder))
        question = load_question(config, file.task)
        measured = measure_cases(question, list_cases(clips, sizes), repetition)
    device = next(question.model.parameters()).device
    context = {"machine": describe_machine(device), "commit": find_commit()}
    return build_report(measured, question.model, None, context)
