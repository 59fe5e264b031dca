"""Go on with an interrupted run, from the checkpoint of its last finished epoch.

What an epoch draws (order of clips, prompts, dropout) depends on seed, process and epoch alone, so
a run that goes on at an epoch's start does what it would have done.
"""

import json
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from audiolm.config import RunConfig
from audiolm.errors import UserError
from audiolm.models.checkpoint import read_checkpoint


@dataclass(frozen=True)
class ResumePoint:
    """A run folder and the checkpoint to go on from."""

    folder: Path
    checkpoint_path: Path
    epoch: int  # the next one to train

    def checkpoints_after(self, ckpt: Any) -> list[str]:
        """The files to load: `model.ckpt` as configured, then what this run trained since."""
        configured = ckpt if isinstance(ckpt, list) else [ckpt] if ckpt else []
        return [*configured, str(self.checkpoint_path)]

    def load_state(self) -> dict[str, Any]:
        """The checkpoint's content: `optimizer`, `scaler`, ..."""
        return read_checkpoint(self.checkpoint_path)

    def read_validations(self) -> list[dict[str, Any]]:
        """The validation records of the finished epochs, once each."""
        records: dict[int, dict[str, Any]] = {}
        for line in (self.folder / "log.jsonl").read_text(encoding="utf-8").splitlines():
            try:
                record = json.loads(line)
            except json.JSONDecodeError:
                continue  # a line that a kill cut short
            if record["event"] == "valid" and record["epoch"] < self.epoch:
                kept = {k: v for k, v in record.items() if k not in ("event", "step")}
                records[record["epoch"]] = kept
        return [records[epoch] for epoch in sorted(records)]


def find_resume_point(resume: str, run: RunConfig) -> ResumePoint | None:
    """Where `--resume` leads: a run folder, or `auto` for the newest unfinished one of this name.

    Returns None when `auto` finds nothing to go on with.

    Raises:
        UserError: the folder is no run, holds no checkpoint, or is finished.
    """
    if resume == "auto":
        root = Path(run.output_dir or "outputs")
        folders = sorted(root.glob(f"{run.exp_name}_*"), key=lambda path: path.stat().st_mtime)
        points = [_last_checkpoint(folder) for folder in folders if not _is_finished(folder)]
        return next((point for point in reversed(points) if point is not None), None)
    folder = Path(resume)
    if not (folder / "config.yaml").is_file():
        raise UserError(f"--resume: {folder} is no run folder (it has no config.yaml)")
    if _is_finished(folder):
        raise UserError(f"--resume: the run in {folder} is finished; start a new one instead")
    point = _last_checkpoint(folder)
    if point is None:
        raise UserError(f"--resume: {folder} holds no checkpoint_N.pth yet; start a new run")
    return point


def _is_finished(folder: Path) -> bool:
    return (folder / "summary.json").is_file()


def _last_checkpoint(folder: Path) -> ResumePoint | None:
    found = {
        int(match.group(1)): path
        for path in folder.glob("checkpoint_*.pth")
        if (match := re.fullmatch(r"checkpoint_(\d+)\.pth", path.name))
    }
    return ResumePoint(folder, found[max(found)], max(found) + 1) if found else None
