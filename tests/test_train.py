"""train.py as users run it: whole runs on the recorded tiny stack, and the arithmetic of a step."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import train as train_script
from training_runs import DEV, arguments, read_log, run_folders, run_train

from audiolm.config_file import load_config
from audiolm.errors import UserError
from audiolm.models.checkpoint import read_checkpoint
from audiolm.training.run_folder import create_run_folder
from audiolm.training.setup import set_up_run


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run, with a hub token in its configuration."""
    tmp_path = tmp_path_factory.mktemp("finished")
    train_script.main(arguments(tmp_path, "model.token=not-for-any-file"))
    (folder,) = run_folders(tmp_path)
    return folder


def test_a_run_leaves_its_files(finished: Path) -> None:
    names = {path.name for path in finished.iterdir()}
    assert names == {
        "config.yaml", "log.jsonl", "summary.json",
        "checkpoint_0.pth", "checkpoint_1.pth", "checkpoint_best.pth",
        "checkpoint_0.state", "checkpoint_1.state", "report.html",
    }  # fmt: skip
    events = [(record["event"], record["step"]) for record in read_log(finished)]
    assert events == [
        ("train", 1), ("save", 2), ("valid", 2), ("train", 3), ("save", 4), ("valid", 4),
    ]  # fmt: skip


def test_saved_configuration_trains_again(finished: Path) -> None:
    config = load_config(finished / "config.yaml", [], train_script.REQUIRED_PATHS)
    assert config.run.iters_per_epoch == 2


def test_validation_counts_each_clip_once(finished: Path) -> None:
    """Defect 16; the annotation holds five clips, the batch size is two."""
    assert [r["num_clips"] for r in read_log(finished) if r["event"] == "valid"] == [5, 5]


def test_best_checkpoint_has_the_lowest_loss(finished: Path) -> None:
    """Defect 14: the reference chose by token accuracy."""
    losses = [r["loss"] for r in read_log(finished) if r["event"] == "valid"]
    best = read_checkpoint(finished / "checkpoint_best.pth")
    assert best["epoch"] == losses.index(min(losses))


def test_defect_10_no_token_in_any_file(finished: Path) -> None:
    for path in finished.iterdir():
        assert b"not-for-any-file" not in path.read_bytes(), path.name


def test_defect_18_checkpoints_hold_trained_weights_only(finished: Path) -> None:
    keys = read_checkpoint(finished / "checkpoint_best.pth")["model"]
    assert not [key for key in keys if "lm_head" in key or "speech_encoder" in key]


def test_defect_15_run_folders_do_not_collide(tmp_path: Path) -> None:
    folders = [create_run_folder(str(tmp_path), "same") for _ in range(5)]
    assert len(set(folders)) == 5
    assert all(folder.is_dir() for folder in folders)


def test_a_run_folder_is_no_place_for_another_run(finished: Path) -> None:
    before = sorted(finished.iterdir())
    with pytest.raises(UserError, match=rf"{finished} is the folder of a run; .*--resume"):
        train_script.main(arguments(finished))
    assert sorted(finished.iterdir()) == before


def test_defect_08_rank_alone_is_one_process(tmp_path: Path) -> None:
    run_train(tmp_path, RANK="0")
    assert len(run_folders(tmp_path)) == 1


def test_two_processes(tmp_path: Path) -> None:
    """Defects 8 and 16: gloo on CPUs, and five clips are five clips over two processes."""
    run_train(tmp_path, "run.batch_size_train=1", num_processes=2)
    (folder,) = run_folders(tmp_path)
    assert [r["num_clips"] for r in read_log(folder) if r["event"] == "valid"] == [5, 5]


def test_loggers_are_optional_and_offline(tmp_path: Path) -> None:
    """Defect 9: without a W&B key nothing is asked and nothing fails."""
    home = tmp_path / "home"
    home.mkdir()
    run_train(
        tmp_path,
        "run.loggers=[tensorboard,wandb]",
        HOME=str(home),
        WANDB_SILENT="true",
        WANDB_MODE="",
    )
    (folder,) = run_folders(tmp_path)
    assert list(folder.glob("tensorboard/events*"))
    assert list(folder.glob("wandb/offline-run*"))


def test_evaluate_decodes_instead_of_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = ("run.evaluate=true", "generate.max_new_tokens=4", "generate.num_beams=1")
    train_script.main(arguments(tmp_path, *options, f"model.ckpt={DEV}/lora/checkpoint_0.pth"))
    assert not run_folders(tmp_path)
    assert list((tmp_path / "valid_results").glob("*.csv"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("datasets.train_ann_path=nowhere.json", "datasets.train_ann_path: nothing at"),
        ("model.prompt_path=", "model.prompt_path is not set"),
        ("run.device=cuda:99", "run.device"),
        ("model.merge_adapter=true", "leaves no adapter to train"),
        ("generate.torch_compile=true", "generate.torch_compile: true is for weights that stay"),
        ("run.batch_size_train=0", "run.batch_size_train: 0 is below 1"),
        (f"datasets.train_ann_path={DEV}/config_lora.yaml", "config_lora.yaml"),
        (f"model.ckpt={DEV}/vblora/checkpoint_0.pth", "vblora"),
    ],
)
def test_bad_input_leaves_nothing_behind(change: str, message: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=message):
        train_script.main(arguments(tmp_path, change))
    assert not list(tmp_path.iterdir())


def test_unknown_task_is_found_before_the_first_step(tmp_path: Path) -> None:
    annotation = tmp_path / "unknown_task.json"
    row = {"path": "a.wav", "text": "x", "task": "asrr"}
    annotation.write_text(json.dumps({"annotation": [row]}), encoding="utf-8")
    with pytest.raises(UserError, match="asrr"):
        train_script.main(arguments(tmp_path, f"datasets.train_ann_path={annotation}"))
    assert not run_folders(tmp_path)


def gradients(batch_size: int, num_batches: int, tmp_path: Path) -> dict[str, torch.Tensor]:
    """Gradients of one optimiser step over four clips, cut into micro-batches."""
    changes = [f"run.batch_size_train={batch_size}", f"run.accum_grad_iters={num_batches}"]
    config = load_config(DEV / "config_lora.yaml", arguments(tmp_path, *changes)[3:])
    config.model.ckpt = str(DEV / "lora" / "checkpoint_0.pth")
    run = set_up_run(config)
    run.model.eval()  # without dropout
    batches = list(run.valid_data.one_pass(0))  # pairs, in the annotation's order
    clips = [split_clip(batch, row) for batch in batches[:2] for row in range(2)]
    train_script.train_step(run, clips if batch_size == 1 else batches[:2])
    return {n: p.grad.clone() for n, p in run.model.named_parameters() if p.grad is not None}


def split_clip(batch: dict[str, Any], row: int) -> dict[str, Any]:
    """One clip of a batch, still padded to the batch's length."""
    return {key: value[row : row + 1] if key != "skipped" else [] for key, value in batch.items()}


def test_defect_06_loss_is_a_mean_over_all_answer_tokens(tmp_path: Path) -> None:
    """2 x 2 clips and 4 x 1 clips give one gradient; answers have different lengths."""
    pairs = gradients(2, 2, tmp_path / "pairs")
    singles = gradients(1, 4, tmp_path / "singles")
    total = torch.stack([g.norm() for g in pairs.values()]).norm()
    assert total > 1e-3
    for name, gradient in pairs.items():
        # float32 sums in another order; relative to the whole gradient's size
        assert (gradient - singles[name]).norm() / total < 2e-6, name


def test_learning_rate_never_saw_tooths(tmp_path: Path) -> None:
    """Defect 5: warm-up (6 steps) is longer than an epoch (2 steps)."""
    train_script.main(
        arguments(tmp_path, "run.optims.warmup_steps=6", "run.optims.max_epoch=3", "run.log_freq=1")
    )
    (folder,) = run_folders(tmp_path)
    rates = [r["learning_rate"] for r in read_log(folder) if r["event"] == "train"]
    assert len(rates) == 6
    assert rates == sorted(rates)


@pytest.mark.parametrize("adapter", ["lora", "vblora", "hra", "dora", "none"])
def test_dry_run_trains_the_configured_model(
    adapter: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    """Defect 13: no network, no weights of the user's, and nothing left behind."""
    monkeypatch.chdir(tmp_path)
    missing = [f"model.{name}_path=no/such/{name}" for name in ("llama", "whisper", "beats")]
    options = [*missing, "model.audio_tokens=length_aware", f"model.adapter={adapter}"]
    train_script.main([*arguments(tmp_path, *options), "--dryrun"])
    assert "dry run passed" in capsys.readouterr().out
    assert not list(tmp_path.iterdir())


def test_print_config_shows_every_section(capsys: pytest.CaptureFixture, tmp_path: Path) -> None:
    train_script.main([*arguments(tmp_path), "--print-config"])
    shown = capsys.readouterr().out
    assert all(section in shown for section in ("model:", "datasets:", "run:", "generate:"))
    assert "\n  token:" not in shown
