"""The best checkpoints of a run by one metric, early stopping, and their mean."""

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from audiolm.errors import UserError
from audiolm.models.checkpoint import read_checkpoint, write_atomically

LOWER_IS_BETTER = {"loss": True, "token_accuracy": False, "wer": True, "cider_d": False}
BEST_NAME = "checkpoint_best.pth"
AVERAGE_NAME = "checkpoint_average.pth"


def read_metric(validation: Mapping[str, Any], metric: str) -> float:
    """One number of a validation record: a mean over tasks where it is a score of several.

    Raises:
        UserError: the record has no such number, for want of a task that is scored so.
    """
    if metric in validation:
        return float(validation[metric])
    values = [s[metric]["value"] for s in validation.get("scores", {}).values() if metric in s]
    if not values:
        raise UserError(
            f"run.best_metric: {metric} was not measured: it needs run.eval_clips above 0 and a "
            "validation clip of a task that is scored so; use loss, or add such clips"
        )
    return sum(values) / len(values)


def check_metric(metric: str, num_scored_clips: int) -> None:
    """Find out before training whether `run.best_metric` can be measured.

    Raises:
        UserError: it is a score, and no clips are scored.
    """
    if metric not in ("loss", "token_accuracy") and not num_scored_clips:
        raise UserError(
            f"run.best_metric: {metric} needs scored clips; set run.eval_clips above 0, or use loss"
        )


def rank_validations(validations: Sequence[Mapping[str, Any]], metric: str) -> list[int]:
    """Positions of the validations, best first; of equal ones the earlier."""
    sign = 1 if LOWER_IS_BETTER[metric] else -1
    values = [sign * read_metric(validation, metric) for validation in validations]
    return sorted(range(len(values)), key=lambda position: (values[position], position))


def count_without_progress(validations: Sequence[Mapping[str, Any]], metric: str) -> int:
    """How many validations have passed since the best one."""
    return len(validations) - 1 - rank_validations(validations, metric)[0]


def best_path(folder: Path, place: int) -> Path:
    """`checkpoint_best.pth`, `checkpoint_best2.pth`, ...; `place` counts from 1."""
    return folder / (BEST_NAME if place == 1 else f"checkpoint_best{place}.pth")


def keep_best(
    folder: Path,
    checkpoint_path: Path,
    validations: Sequence[Mapping[str, Any]],
    metric: str,
    num_kept: int,
) -> None:
    """File the newest validation's checkpoint among the best `num_kept`."""
    place = rank_validations(validations, metric).index(len(validations) - 1) + 1
    for lower in range(num_kept, place, -1):
        better = best_path(folder, lower - 1)
        if better.exists():
            better.replace(best_path(folder, lower))
    if place <= num_kept:
        target = best_path(folder, place)
        temporary = target.with_suffix(".tmp")
        shutil.copyfile(checkpoint_path, temporary)
        temporary.replace(target)


def average_best(folder: Path, num_kept: int) -> Path:
    """Write the mean of the best checkpoints' weights (Izmailov et al. 2018) as one checkpoint."""
    paths = [
        path for place in range(1, num_kept + 1) if (path := best_path(folder, place)).exists()
    ]
    contents = [read_checkpoint(path) for path in paths]
    mean = {
        name: torch.stack([content["model"][name].double() for content in contents])
        .mean(0)
        .to(value.dtype)
        for name, value in contents[0]["model"].items()
    }
    target = folder / AVERAGE_NAME
    write_atomically(
        target,
        {
            "model": mean,
            "optimizer": {},
            "config": contents[0].get("config", {}),
            "scaler": None,
            "epoch": contents[0].get("epoch", 0),
        },
    )
    return target
