"""Whole training runs on the recorded tiny stack: options, launching, and what a run leaves."""

import json
from pathlib import Path
from typing import Any

import processes
import train as train_script

ROOT = Path(__file__).resolve().parents[1]
TRAIN = ROOT / "audiolm-trainer" / "train.py"
DEV = ROOT / "tests" / "data" / "golden" / "dev"
SMALL = [
    "model.ckpt=",
    "model.qformer.hidden_size=56",
    "model.qformer.num_heads=4",
    "model.qformer.intermediate_size=96",
    "model.lora_dropout=0",
    "run.iters_per_epoch=2",
    "run.optims.max_epoch=2",
    "run.optims.warmup_steps=2",
    "run.batch_size_train=2",
    "run.batch_size_eval=2",
]


def arguments(tmp_path: Path, *changes: str) -> list[str]:
    config = str(DEV / "config_lora.yaml")
    return ["--cfg-path", config, "--options", *SMALL, f"run.output_dir={tmp_path}", *changes]


def run_folders(tmp_path: Path) -> list[Path]:
    return sorted(path.parent for path in tmp_path.glob("*/config.yaml"))


def read_log(folder: Path) -> list[dict[str, Any]]:
    lines = (folder / "log.jsonl").read_text(encoding="utf-8").splitlines()
    return [json.loads(line) for line in lines]


def run_train(tmp_path: Path, *changes: str, num_processes: int = 1, **env: str) -> str:
    """A run that ends well, in processes of its own; what it says."""
    tmp_path.mkdir(exist_ok=True)
    options = arguments(tmp_path, *changes)
    outcome = processes.run(train_script.main, options, tmp_path, num_processes, **env)
    assert not any(outcome.statuses), outcome.stderr[-2000:]
    return outcome.stderr
