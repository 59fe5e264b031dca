"""Whole training runs on the recorded tiny stack: options, launching, and what a run leaves."""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

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


def run_train(launcher: Sequence[str], tmp_path: Path, *changes: str, **env: str) -> str:
    inherited = {k: v for k, v in os.environ.items() if not k.startswith(("RANK", "WANDB"))}
    variables = {**inherited, "OMP_NUM_THREADS": "1", "WANDB_MODE": "offline", **env}
    tmp_path.mkdir(exist_ok=True)
    result = subprocess.run(
        [*launcher, str(TRAIN), *arguments(tmp_path, *changes)],
        capture_output=True,
        text=True,
        env={name: value for name, value in variables.items() if value},
        cwd=tmp_path,
        timeout=500,  # processes that wait for each other would do so for ever
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stderr


def torchrun(num_processes: int, *arguments: str) -> list[str]:
    """The start of a command on several processes of this machine."""
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*launcher, f"--nproc_per_node={num_processes}", *arguments]
