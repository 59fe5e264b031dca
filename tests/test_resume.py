"""Interrupted runs: what they leave, and that going on equals never having stopped."""

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import processes
import pytest
import torch
import train as train_script
from training_runs import arguments, read_log, run_folders, run_train

from audiolm.errors import UserError
from audiolm.models.checkpoint import read_checkpoint
from audiolm.training import interrupts, saving
from audiolm.training.run_folder import find_run_folders
from audiolm.training.saving import find_saves, state_path

# Dropout, accumulation, and log lines that do not fall together with saves.
OPTIONS = (
    "model.lora_dropout=0.1",
    "run.iters_per_epoch=10",
    "run.accum_grad_iters=2",
    "run.log_freq=3",
    "run.save_every_steps=2",
    "run.keep_last=0",
)


class Killed(BaseException):
    """Stands for a kill: nothing catches it."""


def train_until(step: int, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, *changes: str) -> None:
    """Start a run that is killed before optimiser step `step`."""
    real_step = train_script.train_step

    def take_step(run: Any, micro_batches: Any) -> float:
        if run.position.step == step:
            raise Killed
        return real_step(run, micro_batches)

    with monkeypatch.context() as patch:
        patch.setattr(train_script, "train_step", take_step)
        with pytest.raises(Killed):
            train_script.main(arguments(tmp_path, *changes))


def resume(tmp_path: Path, *changes: str) -> None:
    train_script.main(arguments(tmp_path, *changes, "--resume", "auto"))


def the_run(tmp_path: Path) -> Path:
    (folder,) = run_folders(tmp_path)
    return folder


def losses(folder: Path) -> dict[int, tuple[float, float]]:
    """Loss and gradient norm by step; of lines written twice the later."""
    return {
        r["step"]: (r["loss"], r["grad_norm"]) for r in read_log(folder) if r["event"] == "train"
    }


def weights(folder: Path, name: str = "checkpoint_1.pth") -> dict[str, torch.Tensor]:
    return read_checkpoint(folder / name)["model"]


def assert_same_run(one: Path, other: Path) -> None:
    """Bit for bit."""
    assert losses(one) == losses(other)
    first, second = weights(one), weights(other)
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (one, other)]
    assert summaries[0]["validations"] == summaries[1]["validations"]


@pytest.fixture(scope="module")
def straight(tmp_path_factory: pytest.TempPathFactory) -> Path:
    tmp_path = tmp_path_factory.mktemp("straight")
    train_script.main(arguments(tmp_path, *OPTIONS))
    return the_run(tmp_path)


@pytest.mark.parametrize("step", [3, 5, 9])
def test_defect_04_a_killed_run_goes_on_bit_for_bit(
    step: int, straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed in the first epoch, at its end, and in the second, between saves and log lines."""
    train_until(step, monkeypatch, tmp_path, *OPTIONS)
    resume(tmp_path, *OPTIONS)
    folder = the_run(tmp_path)
    assert_same_run(straight, folder)
    (record,) = [r for r in read_log(folder) if r["event"] == "resume"]
    assert record["step"] in (step - 1, step)


def test_a_kill_during_validation_repeats_only_the_validation(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def evaluate(run: Any, path: Path) -> bool:
        raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(train_script, "evaluate", evaluate)
        with pytest.raises(Killed):
            train_script.main(arguments(tmp_path, *OPTIONS))
    resume(tmp_path, *OPTIONS)
    assert_same_run(straight, the_run(tmp_path))
    steps = [r["step"] for r in read_log(the_run(tmp_path)) if r["event"] == "train"]
    assert len(steps) == len(set(steps))


def test_two_processes_stop_by_the_clock_and_go_on_bit_for_bit(tmp_path: Path) -> None:
    """Each start may take one step; the straight run takes all."""
    options = (*OPTIONS, "run.batch_size_train=1", "run.optims.max_epoch=1")
    run_train(tmp_path / "straight", *options, num_processes=2)
    out_of_time = (*options, "run.max_time_minutes=0.000001")
    said = run_train(tmp_path / "stopped", *out_of_time, num_processes=2)
    assert "stopped after step 1 (time is up)" in said
    assert "--resume" in said
    said = run_train(tmp_path / "stopped", *out_of_time, "--resume", "auto", num_processes=2)
    assert "stopped after step 2" in said
    run_train(tmp_path / "stopped", *options, "--resume", "auto", num_processes=2)
    straight, stopped = the_run(tmp_path / "straight"), the_run(tmp_path / "stopped")
    assert losses(straight) == losses(stopped)
    first, second = weights(straight, "checkpoint_0.pth"), weights(stopped, "checkpoint_0.pth")
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_another_number_of_processes_keeps_the_step(tmp_path: Path) -> None:
    """Two processes with a clip each, then one: it accumulates, and the weights agree."""
    options = (
        "run.iters_per_epoch=5",
        "run.optims.max_epoch=1",
        "run.batch_size_train=1",
        "model.qformer.dropout=0",
    )
    run_train(tmp_path / "straight", *options, num_processes=2)
    out_of_time = (*options, "run.max_time_minutes=0.000001")
    run_train(tmp_path / "moved", *out_of_time, num_processes=2)
    said = run_train(tmp_path / "moved", *options, "--resume", "auto")
    assert "2 clips a step" in said
    straight, moved = the_run(tmp_path / "straight"), the_run(tmp_path / "moved")
    assert [r["num_processes"] for r in read_log(moved) if r["event"] == "resume"] == [1]
    first, second = weights(straight, "checkpoint_0.pth"), weights(moved, "checkpoint_0.pth")
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=1e-4, atol=1e-6)


@contextmanager
def started(tmp_path: Path, *changes: str, past: int = 0) -> Iterator[processes.Group]:
    """A long run in a process of its own, which by now has made saves beyond step `past`."""
    endless = ("run.iters_per_epoch=2000", "run.save_every_steps=1", "run.keep_last=2")
    command = arguments(tmp_path, *endless, *changes)
    with processes.started(train_script.main, command, tmp_path) as group:
        deadline = time.monotonic() + processes.PATIENCE_SECONDS
        while newest_step(tmp_path) < past + 2:
            assert group.is_running, group.read().stderr
            assert time.monotonic() < deadline, group.read().stderr
            time.sleep(0.05)
        yield group


def newest_step(tmp_path: Path) -> int:
    """By the names of files alone, since a run is writing them."""
    states = tmp_path.glob("*/checkpoint_step*.state")
    return max((int(path.stem.removeprefix("checkpoint_step")) for path in states), default=0)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_finishes_the_step_saves_and_says_how_to_go_on(
    number: signal.Signals, tmp_path: Path
) -> None:
    with started(tmp_path) as group:
        (process,) = group.processes
        os.kill(process.pid, number)
        outcome = group.wait()
    said = outcome.stderr
    assert outcome.statuses == (0,), said
    folder = the_run(tmp_path)
    last = find_saves(folder)[-1].position.step
    assert f"stopped after step {last} ({number.name})" in said
    assert f"--resume {folder}" in said
    record = read_log(folder)[-1]
    assert (record["event"], record["step"], record["reason"]) == ("stop", last, number.name)


def test_a_signal_that_comes_twice_is_one_and_a_later_one_ends_the_process(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """torchrun passes on what its workers got from the terminal too."""
    now = 100.0
    monkeypatch.setattr(interrupts.time, "monotonic", lambda: now)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in background jobs
    with interrupts.StopRequest() as stop:
        assert not stop.reason
        signal.raise_signal(signal.SIGINT)
        signal.raise_signal(signal.SIGTERM)
        assert stop.reason == "SIGINT"
        now += 6
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.signal(signal.SIGINT, before) is signal.default_int_handler


def test_a_kill_leaves_a_run_that_goes_on(tmp_path: Path) -> None:
    """SIGKILL at whatever moment, four times over: each start goes on from a complete save."""
    reached, resume = 0, ()
    for _ in range(5):
        with started(tmp_path, *resume, past=reached) as group:
            group.kill()
        folder, resume = the_run(tmp_path), ("--resume", "auto")
        step = find_saves(folder)[-1].position.step
        assert step > reached
        reached = step
    resumed = [r["step"] for r in read_log_leniently(folder) if r["event"] == "resume"]
    assert len(set(resumed)) == 4
    assert resumed == sorted(resumed)


def read_log_leniently(folder: Path) -> list[dict[str, Any]]:
    """A kill may cut the line that was being written; the next start ends it."""
    records = []
    for line in (folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
        try:
            records.append(json.loads(line))
        except json.JSONDecodeError:
            continue
    return records


def test_half_written_saves_are_never_picked_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(4, monkeypatch, tmp_path, *OPTIONS)
    folder = the_run(tmp_path)
    before = find_saves(folder)
    assert [save.position.step for save in before] == [2, 4]
    newest = before[-1].checkpoint_path
    newest.write_bytes(newest.read_bytes()[:-1])  # a checkpoint cut short
    (folder / "checkpoint_step9.pth").write_bytes(b"")  # one without its state
    torn = state_path(folder / "checkpoint_step2.pth").read_bytes()[:-9]
    (folder / "checkpoint_step3.pth").write_bytes(before[0].checkpoint_path.read_bytes())
    state_path(folder / "checkpoint_step3.pth").write_bytes(torn)  # a torn state
    assert [save.position.step for save in find_saves(folder)] == [2]
    resume(tmp_path, *OPTIONS)
    assert [r["step"] for r in read_log(folder) if r["event"] == "resume"] == [2]


def test_resume_takes_a_checkpoint_of_the_run(
    straight: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(9, monkeypatch, tmp_path, *OPTIONS)
    path = the_run(tmp_path) / "checkpoint_step2.pth"
    train_script.main(arguments(tmp_path, *OPTIONS, "--resume", str(path)))
    assert_same_run(straight, the_run(tmp_path))


def test_the_newest_saves_are_kept(tmp_path: Path) -> None:
    options = ("run.iters_per_epoch=4", "run.save_every_steps=1", "run.keep_last=3")
    train_script.main(arguments(tmp_path, *options))
    folder = the_run(tmp_path)
    names = {path.name for path in folder.glob("checkpoint_*.pth")}
    kept = {"checkpoint_step6.pth", "checkpoint_step7.pth", "checkpoint_1.pth"}
    assert names == {*kept, "checkpoint_best.pth"}
    assert {path.name for path in folder.glob("*.state")} == {
        name.replace(".pth", ".state") for name in kept
    }


def test_saves_by_the_clock(tmp_path: Path) -> None:
    options = ("run.iters_per_epoch=4", "run.save_every_minutes=0.000001", "run.keep_last=0")
    train_script.main(arguments(tmp_path, *options, "run.optims.max_epoch=1"))
    saved = [r["step"] for r in read_log(the_run(tmp_path)) if r["event"] == "save"]
    assert saved == [1, 2, 3, 4]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("model.lora_rank=4", "describes another model: model.lora_rank 8 -> 4"),
        ("model.qformer.num_layers=1", "model.qformer.num_layers 2 -> 1"),
        ("run.optims.init_lr=0.5", "--resume-anyway"),
        ("run.seed=5", "run.seed 42 -> 5"),
    ],
)
def test_another_configuration_is_refused(
    change: str, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(3, monkeypatch, tmp_path, *OPTIONS)
    with pytest.raises(UserError, match=message):
        resume(tmp_path, *OPTIONS, change)


def test_resume_anyway_goes_on_with_a_safe_change(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train_until(3, monkeypatch, tmp_path, *OPTIONS)
    changed = arguments(tmp_path, *OPTIONS, "run.optims.init_lr=0.5", "--resume", "auto")
    train_script.main([*changed, "--resume-anyway"])
    rates = [r["learning_rate"] for r in read_log(the_run(tmp_path)) if r["event"] == "train"]
    assert max(rates) > 0.1
    other = tmp_path / "other"
    train_until(3, monkeypatch, other, *OPTIONS)
    changed = arguments(other, *OPTIONS, "model.lora_rank=4", "--resume", "auto")
    with pytest.raises(UserError, match="describes another model"):
        train_script.main([*changed, "--resume-anyway"])


def test_resume_needs_an_unfinished_run(straight: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="is finished"):
        train_script.main([*arguments(tmp_path), "--resume", str(straight)])
    with pytest.raises(UserError, match="no run folder"):
        train_script.main([*arguments(tmp_path), "--resume", str(tmp_path)])


def test_auto_starts_a_run_where_there_is_none(tmp_path: Path) -> None:
    resume(tmp_path)
    assert (the_run(tmp_path) / "summary.json").is_file()


def test_auto_looks_for_runs_of_its_own_name(tmp_path: Path) -> None:
    names = [f"asr_2026010{day}-120000" for day in (1, 2)]
    others = ["asr_long_20260103-120000", "asr_20260103", "other_20260103-120000"]
    for seconds, name in enumerate([*names, f"{names[1]}_2", *others]):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "config.yaml").touch()
        os.utime(folder, (seconds, seconds))
    (tmp_path / "asr_20260104-120000").mkdir()  # no run: it has no configuration
    found = [folder.name for folder in find_run_folders(str(tmp_path), "asr")]
    assert found == [f"{names[1]}_2", *names[::-1]]
    assert find_run_folders(str(tmp_path / "nowhere"), "asr") == []


def test_a_full_disk_stops_the_run_and_keeps_the_last_save(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real_write = saving.write_atomically

    def write(path: Path, content: Any) -> None:
        if path.name == "checkpoint_step4.state":
            raise OSError(28, "No space left on device")
        real_write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(saving, "write_atomically", write)
        with pytest.raises(UserError, match=r"No space left.*checkpoint_step2\.pth.*--resume"):
            train_script.main(arguments(tmp_path, *OPTIONS))
    assert [save.position.step for save in find_saves(the_run(tmp_path))] == [2]


def test_processes_that_cannot_share_a_step_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Three clips a step: two processes cannot share them."""
    options = ("run.batch_size_train=3", "run.iters_per_epoch=4", "run.save_every_steps=1")
    train_until(2, monkeypatch, tmp_path, *options)
    again = arguments(tmp_path, *options, "--resume", "auto")
    outcome = processes.run(train_script.main, again, tmp_path, num_processes=2)
    assert 2 in outcome.statuses
    assert "3 clips: 2 processes cannot share them" in outcome.stderr
