"""Bad luck in training: losses that are not finite, memory that runs out, and what follows."""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import limited_memory
import processes
import pytest
import torch
import train as train_script
from training_runs import arguments, read_log, run_folders

from audiolm.errors import UserError
from audiolm.models.checkpoint import read_checkpoint
from audiolm.models.salmonn import SALMONN
from audiolm.training.bad_luck import cut_batch, halve, is_out_of_memory

OPTIONS = ("run.batch_size_train=4", "run.iters_per_epoch=4", "run.optims.max_epoch=1")
SAME = ("model.qformer.dropout=0",)
STEPS = ("run.log_freq=1", "run.save_every_steps=1", "run.keep_last=0")


def spoil(
    monkeypatch: pytest.MonkeyPatch, change: Callable[[int, dict[str, Any], Any], Any]
) -> list[list[str]]:
    """Put `change(call, samples, output)` behind each training forward; the clips of each call."""
    real_forward = SALMONN.forward
    seen: list[list[str]] = []

    def forward(model: SALMONN, samples: Any, **options: Any) -> Any:
        output = real_forward(model, samples, **options)
        if not model.training:
            return output
        seen.append(list(samples["id"]))
        return change(len(seen) - 1, samples, output)

    monkeypatch.setattr(SALMONN, "forward", forward)
    return seen


def nan_at(*calls: int) -> Callable[[int, dict[str, Any], Any], Any]:
    def change(call: int, samples: dict[str, Any], output: Any) -> Any:
        return {**output, "loss": output["loss"] * math.nan} if call in calls else output

    return change


def train(tmp_path: Path, *changes: str) -> Path:
    train_script.main(arguments(tmp_path, *OPTIONS, *STEPS, *changes))
    (folder,) = run_folders(tmp_path)
    return folder


def test_a_step_without_a_finite_loss_changes_nothing_and_is_listed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen = spoil(monkeypatch, nan_at(2))
    folder = train(tmp_path)
    (skip,) = [r for r in read_log(folder) if r["event"] == "skip"]
    assert (skip["step"], skip["reason"]) == (2, "non-finite loss")
    assert skip["ids"] == seen[2]
    saved = [read_checkpoint(folder / f"checkpoint_step{n}.pth") for n in (2, 3)]
    before, after = (content["model"] for content in saved)
    assert all(torch.equal(before[key], after[key]) for key in before)
    last = read_checkpoint(folder / "checkpoint_0.pth")["model"]
    assert not all(torch.equal(after[key], last[key]) for key in after)
    assert all(bool(value.isfinite().all()) for value in last.values())


def test_too_many_bad_steps_in_a_row_stop_the_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    spoil(monkeypatch, nan_at(1, 2))
    with pytest.raises(
        UserError, match=r"2 steps in a row.*non-finite loss.*max_skipped_steps is 1"
    ):
        train(tmp_path, "run.max_skipped_steps=1")


def test_bad_steps_apart_do_not_stop_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    spoil(monkeypatch, nan_at(0, 2))
    folder = train(tmp_path, "run.max_skipped_steps=1")
    assert [r["step"] for r in read_log(folder) if r["event"] == "skip"] == [0, 2]


def test_out_of_memory_splits_the_batch_and_gives_the_same_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = train(tmp_path / "roomy", *SAME)

    def change(call: int, samples: dict[str, Any], output: Any) -> Any:
        if len(samples["id"]) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory (made up)")
        return output

    seen = spoil(monkeypatch, change)
    folder = train(tmp_path / "narrow", *SAME)
    assert {len(ids) for ids in seen} == {1, 2, 4}
    assert not [r for r in read_log(folder) if r["event"] == "skip"]
    wanted = read_checkpoint(expected / "checkpoint_0.pth")["model"]
    found = read_checkpoint(folder / "checkpoint_0.pth")["model"]
    for key, value in wanted.items():  # float32 sums in another order, over four AdamW steps
        torch.testing.assert_close(found[key], value, rtol=1e-4, atol=1e-5)


def test_single_clips_that_do_not_fit_are_skipped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[int] = []

    def change(call: int, samples: dict[str, Any], output: Any) -> Any:
        if len(samples["id"]) == 4 or len(steps) in (1, 2):  # 4, 2 and 1 clips of one step
            steps.append(call)
        if len(steps) in (1, 2, 3) and steps[-1] == call:
            raise RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried ...")
        return output

    spoil(monkeypatch, change)
    folder = train(tmp_path)
    (skip,) = [r for r in read_log(folder) if r["event"] == "skip"]
    assert (skip["reason"], len(skip["ids"])) == ("out of memory", 4)


@pytest.mark.parametrize(
    ("limits", "reason", "num_clips"),
    [("9,0", "out of memory", 4), ("9,-1", "non-finite loss", 2), ("9,1", "", 0)],
)
def test_processes_leave_a_step_out_together(
    limits: str, reason: str, num_clips: int, tmp_path: Path
) -> None:
    """It goes wrong in the second process, which has no clip in every other step; where
    its memory holds one clip, both processes take one at a time."""
    command = arguments(tmp_path, *OPTIONS, "run.batch_size_train=2")
    where = {"MEMORY_CLIPS": limits}
    outcome = processes.run(limited_memory.main, command, tmp_path, num_processes=2, **where)
    assert outcome.statuses == (0, 0), outcome.stderr[-2000:]
    (folder,) = run_folders(tmp_path)
    skips = [r for r in read_log(folder) if r["event"] == "skip"]
    expected = [(reason, num_clips)] * 2 if reason else []
    assert [(r["reason"], len(set(r["ids"]))) for r in skips] == expected
    assert json.loads((folder / "summary.json").read_text())["validations"]


def test_other_errors_are_not_taken_for_a_lack_of_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(call: int, samples: dict[str, Any], output: Any) -> Any:
        raise RuntimeError("shapes do not match")

    spoil(monkeypatch, change)
    with pytest.raises(RuntimeError, match="shapes"):
        train(tmp_path)
    assert not is_out_of_memory(ValueError("can't allocate memory"))


def test_halving_keeps_every_clip_once() -> None:
    samples = {
        "id": ["a", "b", "c"],
        "raw_wav": torch.arange(6.0).view(3, 2),
        "skipped": ["x"],
        "step_seed": "42/0/7",
    }
    first, second = halve(samples)
    assert first["id"] + second["id"] == ["a", "b", "c"]
    assert first["step_seed"] == second["step_seed"] == "42/0/7"  # of the batch, not of a row
    assert torch.equal(torch.cat([first["raw_wav"], second["raw_wav"]]), samples["raw_wav"])
    assert first["skipped"] + second["skipped"] == ["x"]
    single = cut_batch(samples, 0, 1)
    assert halve(single) == [single]


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_half_precision_trains(precision: str, tmp_path: Path) -> None:
    """The paths of GPUs, on the CPU: finite, near the float32 losses, and saved as float32."""
    log = read_log(train(tmp_path / "fp32"))
    expected = {r["step"]: r["loss"] for r in log if r["event"] == "train"}
    folder = train(tmp_path / precision, f"run.precision={precision}")
    found = {r["step"]: r["loss"] for r in read_log(folder) if r["event"] == "train"}
    assert found.keys() == expected.keys()
    for step, loss in expected.items():
        assert found[step] == pytest.approx(loss, rel=0.05)  # 8 bits of mantissa
    content = read_checkpoint(folder / "checkpoint_0.pth")
    assert {value.dtype for value in content["model"].values()} == {torch.float32}
    assert bool(content["scaler"]) == (precision == "fp16")


def test_float16_overflow_is_not_a_bad_step(tmp_path: Path) -> None:
    """The scaler looks for its scale by itself: 65536 is too much for some gradients, or not."""
    folder = train(tmp_path, "run.precision=fp16", "run.max_skipped_steps=0")
    assert not [r for r in read_log(folder) if r["event"] == "skip"]
