"""From predictions to everything that is said about them: scores, result files, report.

In: the predictions of an evaluation and its card. Out: `result.json`, `result.md` and
`report.html` in the evaluation's folder, and lines for the screen.
"""

import dataclasses
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from audiolm.errors import UserError
from audiolm.evaluation.card import (
    describe_command,
    describe_hardware,
    describe_scorers,
    hash_file,
)
from audiolm.evaluation.predictions import Prediction, find_predictions, load_predictions
from audiolm.evaluation.report import ReportOptions, save_report
from audiolm.evaluation.result_page import format_result
from audiolm.evaluation.results import GroupResult, score_predictions
from audiolm.evaluation.run_folder import CARD_NAME, RESULT_NAME, RunFolder, claim_folder
from audiolm.evaluation.saved_references import add_references
from audiolm.evaluation.submission import submission_path
from audiolm.evaluation.wording import describe_group
from audiolm.json_file import load_json


@dataclass(frozen=True)
class EvaluationResult:
    """The files of an evaluation, and what it found.

    Attributes:
        folder: where predictions, results and report are.
        csv_path: one row per clip; not made by `rescore`.
        lines: scores, to show to the user; empty in submission modes.
        scores: the numbers by name, `task.name` where groups share a name; rates are fractions.
        num_clips: entries that were decoded, skipped ones included.
        num_skipped: entries whose audio could not be used.
    """

    folder: Path
    csv_path: Path
    lines: list[str]
    scores: dict[str, float]
    num_clips: int
    num_skipped: int


def write_outcome(
    folder: RunFolder,
    predictions: Sequence[Prediction],
    card: dict[str, Any],
    report: ReportOptions,
    device: torch.device,
    num_processes: int = 1,
) -> EvaluationResult:
    """Score predictions (unless it is for a submission) and write all that is said about them."""
    mode = card["mode"]
    groups: list[GroupResult] = []
    notes: list[str] = []
    if not mode.startswith("submission_"):
        groups, notes = score_predictions(predictions, mode, seed=card["seed"])
    lines = [*_describe_groups(groups), *notes]
    scores = _flatten_scores(groups)
    result = {
        **card,
        "finished": f"{datetime.now():%Y-%m-%d %H:%M:%S}",
        "hardware": describe_hardware(device, num_processes),
        "scorers": describe_scorers(),
        **_describe_decoding(predictions),
        "scores": scores,
        "groups": [describe_result(group) for group in groups],
        "notes": notes,
        "lines": lines,
    }
    save_report(folder.path / "report.html", result, groups, predictions, report)
    (folder.path / "result.md").write_text(
        format_result(result, groups), encoding="utf-8", errors="backslashreplace"
    )
    folder.save_json(RESULT_NAME, result)  # last: what has it is complete
    num_skipped = sum(prediction.skipped is not None for prediction in predictions)
    return EvaluationResult(
        folder.path, folder.csv_path, lines, scores, len(predictions), num_skipped
    )


def rescore(
    path: str | Path,
    *,
    annotation: str | Path | None = None,
    root: str | Path = ".",
    report: ReportOptions | None = None,
) -> EvaluationResult:
    """Score saved predictions again; no model is loaded and the original stays as it is.

    Args:
        path: an evaluation's folder, or its predictions.
        annotation: takes the references from there; None: those saved with the predictions.
        root: where the results' folder is made.
        report: what the report holds.

    Raises:
        UserError: no predictions, or predictions that do not belong to the annotation.
    """
    predictions_path = find_predictions(path)
    predictions = load_predictions(predictions_path)
    if annotation is not None:
        predictions = add_references(predictions, annotation)
    elif not any(prediction.references for prediction in predictions):
        raise UserError(
            f"--rescore {path}: no reference texts are saved with these predictions; add "
            "--annotation JSON"
        )
    card_path = predictions_path.parent / CARD_NAME
    card = load_json(card_path, "evaluation") if card_path.is_file() else {}
    mode = card.get("mode", "")
    card = {
        **card,
        "mode": mode.replace("submission_", "valid_") or "rescore",
        "seed": card.get("seed", 0),
        "command": describe_command(),
        "rescored_from": str(predictions_path),
        "predictions_sha256": hash_file(predictions_path),
    }
    if annotation is not None:
        card |= {"annotation": str(annotation), "annotation_sha256": hash_file(annotation)}
    folder = claim_folder(submission_path("rescore", root), card)
    return write_outcome(folder, predictions, card, report or ReportOptions(), torch.device("cpu"))


def describe_result(group: GroupResult) -> dict[str, Any]:
    """A group as plain values."""
    return {
        "name": group.name,
        "kind": group.kind.name,
        "primary": group.primary,
        "scores": {name: dataclasses.asdict(figure) for name, figure in group.scores.items()},
        "counts": group.counts,
        "bins": [dataclasses.asdict(length_bin) for length_bin in group.bins],
        "worst": [dataclasses.asdict(clip) for clip in group.worst],
        "facts": group.facts,
        "notes": group.notes,
    }


def _describe_groups(groups: Sequence[GroupResult]) -> list[str]:
    return [
        f"[{group.name}] {line}" if len(groups) > 1 else line
        for group in groups
        for line in describe_group(group)
    ]


def _flatten_scores(groups: Sequence[GroupResult]) -> dict[str, float]:
    num_groups = Counter(name for group in groups for name in group.scores)
    return {
        name if num_groups[name] == 1 else f"{group.name}.{name}": figure.value
        for group in groups
        for name, figure in group.scores.items()
    }


def _describe_decoding(predictions: Sequence[Prediction]) -> dict[str, Any]:
    seconds = sum(prediction.seconds for prediction in predictions)
    audio_seconds = sum(prediction.audio_seconds for prediction in predictions)
    return {
        "num_clips": len(predictions),
        "num_skipped": sum(prediction.skipped is not None for prediction in predictions),
        "num_truncated": sum(prediction.was_truncated for prediction in predictions),
        "skipped": [
            {"index": prediction.index, "id": prediction.id, "reason": prediction.skipped}
            for prediction in predictions
            if prediction.skipped is not None
        ],
        "stop_reasons": dict(Counter(prediction.stop_reason for prediction in predictions)),
        "num_tokens": sum(prediction.num_tokens for prediction in predictions),
        "audio_seconds": round(audio_seconds, 3),
        "decoding_seconds": round(seconds, 3),
        "rtfx_per_process": round(audio_seconds / seconds, 3) if seconds else None,
    }
