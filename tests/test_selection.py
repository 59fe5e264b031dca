"""Best checkpoints, early stopping and averaging, on records and in whole runs."""

import json
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
import train as train_script
from training_runs import arguments, read_log, run_folders

from audiolm.data.clips import Clip
from audiolm.errors import UserError
from audiolm.models.checkpoint import read_checkpoint
from audiolm.training.samples import write_samples
from audiolm.training.selection import (
    average_best,
    count_without_progress,
    keep_best,
    rank_validations,
    read_metric,
)


def records(*losses: float) -> list[dict[str, Any]]:
    return [{"loss": loss, "token_accuracy": 1 - loss} for loss in losses]


def test_ranks_follow_the_metric() -> None:
    validations = records(0.5, 0.2, 0.2, 0.9)
    assert rank_validations(validations, "loss") == [1, 2, 0, 3]
    assert rank_validations(validations, "token_accuracy") == [1, 2, 0, 3]
    assert count_without_progress(validations, "loss") == 2


def test_scores_of_several_tasks_are_averaged() -> None:
    scores = {"asr": {"wer": {"value": 0.2}}, "asr_zh": {"wer": {"value": 0.4}}}
    assert read_metric({"loss": 1.0, "scores": scores}, "wer") == pytest.approx(0.3)
    with pytest.raises(UserError, match="cider_d was not measured"):
        read_metric({"loss": 1.0, "scores": scores}, "cider_d")


def test_the_best_k_are_filed_in_order(tmp_path: Path) -> None:
    losses = [0.5, 0.3, 0.4, 0.9, 0.1]
    for count in range(1, len(losses) + 1):
        path = tmp_path / f"checkpoint_{count}.pth"
        path.write_text(str(losses[count - 1]))
        keep_best(tmp_path, path, records(*losses[:count]), "loss", 3)
    names = ("checkpoint_best.pth", "checkpoint_best2.pth", "checkpoint_best3.pth")
    assert [float((tmp_path / name).read_text()) for name in names] == [0.1, 0.3, 0.4]
    assert not (tmp_path / "checkpoint_best4.pth").exists()


def test_the_average_is_the_mean_of_the_weights(tmp_path: Path) -> None:
    for place, value in (("", 1.0), ("2", 2.0), ("3", 6.0)):
        content = {"model": {"w": torch.full((2,), value)}, "config": {"a": 1}, "epoch": 3}
        torch.save(content, tmp_path / f"checkpoint_best{place}.pth")
    content = read_checkpoint(average_best(tmp_path, 3))
    assert content["model"]["w"].tolist() == [3.0, 3.0]
    assert content["config"] == {"a": 1}


def train(tmp_path: Path, *changes: str) -> Path:
    train_script.main(arguments(tmp_path, *changes))
    (folder,) = run_folders(tmp_path)
    return folder


def test_validation_every_few_steps_scores_answers(tmp_path: Path) -> None:
    options = ("run.iters_per_epoch=4", "run.eval_every=3", "run.eval_clips=5")
    folder = train(tmp_path, *options, "generate.max_new_tokens=4", "generate.num_beams=1")
    validations = [r for r in read_log(folder) if r["event"] == "valid"]
    assert [r["step"] for r in validations] == [3, 4, 6, 8]
    for record in validations:
        assert set(record["tasks"]) == set(record["scores"])
        for scores in record["scores"].values():
            for score in scores.values():
                assert score["low"] <= score["value"] <= score["high"]
    samples = json.loads((folder / "samples.json").read_text())
    assert len(samples) == 5
    assert all((folder / sample["audio"]).is_file() for sample in samples)
    assert sum(t["num_clips"] for t in validations[0]["tasks"].values()) == 5


def test_samples_are_of_every_task_and_the_same_each_time(tmp_path: Path) -> None:
    clips = [Clip(n, f"{n}.wav", task="asr" if n < 30 else "gender") for n in range(40)]
    data: Any = SimpleNamespace(clips=clips, load_waveform=lambda index: np.zeros(160))
    answers = [
        {"index": clip.index, "id": clip.path, "task": clip.task, "prompt": "", "references": [],
         "hypothesis": ""} for clip in clips
    ]  # fmt: skip
    ids = []
    for step in (3, 6):
        write_samples(tmp_path, answers, data, step)
        samples = json.loads((tmp_path / "samples.json").read_text())
        assert {sample["step"] for sample in samples} == {step}
        assert [sample["task"] for sample in samples] == ["asr"] * 6 + ["gender"] * 6
        ids.append([sample["id"] for sample in samples])
    assert ids[0] == ids[1]
    assert len(list((tmp_path / "samples").iterdir())) == 12


def test_early_stopping_ends_the_run_as_finished(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    """Nothing is learnt at a rate of 0, so no validation is better than the first."""
    rates = [f"run.optims.{name}=0" for name in ("init_lr", "min_lr", "warmup_steps")]
    options = ("run.optims.max_epoch=9", "run.early_stop_patience=2", *rates)
    folder = train(tmp_path, *options)
    assert "(run.early_stop_patience: loss no longer" in capsys.readouterr().err
    losses = [r["loss"] for r in read_log(folder) if r["event"] == "valid"]
    assert losses == 3 * losses[:1]
    assert (folder / "summary.json").is_file()


def test_the_mean_of_the_best_is_validated(tmp_path: Path) -> None:
    folder = train(tmp_path, "run.keep_best=2", "run.average_best=true")
    (record,) = [r for r in read_log(folder) if r["event"] == "average"]
    assert record["num_clips"] == 5
    means = read_checkpoint(folder / "checkpoint_average.pth")["model"]
    first, second = (
        read_checkpoint(folder / name)["model"]
        for name in ("checkpoint_best.pth", "checkpoint_best2.pth")
    )
    for key, value in means.items():
        torch.testing.assert_close(value, (first[key] + second[key]) / 2)


def test_an_unmeasured_metric_is_found_before_training(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"run.best_metric: wer needs .*run.eval_clips"):
        train(tmp_path, "run.best_metric=wer")
    assert not run_folders(tmp_path)
