"""Where a run's numbers go: `log.jsonl` always; TensorBoard and W&B when asked for.

Neither asks a question: without a W&B key in the environment the run is logged offline.
"""

import json
import os
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from audiolm.config import Config
from audiolm.config_file import plain_config, save_config
from audiolm.data.batches import AudioTally
from audiolm.data.dataset import SkippedClip
from audiolm.errors import UserError
from audiolm.training.run_folder import create_run_folder

WANDB_PROJECT = "audio_lm"


def open_run(config: Config, folder: Path | None = None) -> tuple[Path, "RunLog"]:
    """Make a run's folder with its configuration, or take an old run's, and open the log."""
    if folder is None:
        folder = create_run_folder(config.run.output_dir, config.run.exp_name)
        save_config(config, folder / "config.yaml")
    log = RunLog(folder, config.run.loggers, config.run.exp_name, plain_config(config))
    return folder, log


class RunLog:
    """Appends one JSON object per event to `log.jsonl`, flushed at once, and to the loggers."""

    def __init__(
        self, folder: Path, loggers: Sequence[str], exp_name: str, config: Mapping[str, Any]
    ) -> None:
        self._folder = folder
        self._file = _open_log(folder / "log.jsonl")
        self._tensorboard = _open_tensorboard(folder) if "tensorboard" in loggers else None
        self._wandb = _open_wandb(folder, exp_name, config) if "wandb" in loggers else None

    def write(self, event: str, step: int, values: Mapping[str, Any]) -> None:
        """Record an event (`train`, `valid`, ...) at an optimiser step."""
        record = {"event": event, "step": step, "time": round(time.time(), 3), **values}
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        numbers = {
            f"{event}/{name}": value
            for name, value in values.items()
            if isinstance(value, (int, float))
        }
        if self._tensorboard is not None:
            for name, value in numbers.items():
                self._tensorboard.add_scalar(name, value, step)
        if self._wandb is not None:
            self._wandb.log(numbers, step=step)

    def finish(
        self,
        validations: Sequence[Mapping[str, Any]],
        train: AudioTally,
        valid: AudioTally,
        skipped: Sequence[SkippedClip],
    ) -> None:
        """Write `summary.json`, which only a finished run has, and close every logger.

        `skipped` are the clips that any process could not read.
        """
        summary = {
            "validations": list(validations),
            "train_audio": train.describe(),
            "valid_audio": valid.describe(),
            "skipped": [asdict(clip) for clip in dict.fromkeys(skipped)],
        }
        text = json.dumps(summary, indent=1)
        self._folder.joinpath("summary.json").write_text(text, encoding="utf-8")
        self.close()

    def resume(self, step: int, epoch: int, num_processes: int) -> None:
        """The run goes on from `step`: what was logged beyond it will be logged again."""
        self.write("resume", step, {"epoch": epoch, "num_processes": num_processes})

    def stop(self, step: int, reason: str) -> None:
        """The run stops before its end: say so and close every logger."""
        self.write("stop", step, {"reason": reason})
        self.close()

    def close(self) -> None:
        """Close every logger."""
        self._file.close()
        if self._tensorboard is not None:
            self._tensorboard.close()
        if self._wandb is not None:
            self._wandb.finish()


def _open_log(path: Path) -> TextIO:
    """Open for appending; a last line that a kill cut short is ended first."""
    is_torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
    file = path.open("a", encoding="utf-8")
    if is_torn:
        file.write("\n")
    return file


def _open_tensorboard(folder: Path) -> Any:
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise UserError("run.loggers: tensorboard needs: pip install tensorboard") from error
    return SummaryWriter(str(folder / "tensorboard"))


def _open_wandb(folder: Path, exp_name: str, config: Mapping[str, Any]) -> Any:
    try:
        import wandb
    except ImportError as error:
        raise UserError("run.loggers: wandb needs: pip install wandb") from error
    has_key = "WANDB_API_KEY" in os.environ or (Path.home() / ".netrc").exists()
    mode = os.environ.get("WANDB_MODE") or ("online" if has_key else "offline")
    return wandb.init(
        project=WANDB_PROJECT,
        name=exp_name,
        dir=str(folder),
        config=dict(config),
        mode=mode,  # type: ignore[arg-type]
    )
