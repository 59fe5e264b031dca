"""Go on with a run: find its last complete save, and see that nothing has changed underneath."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from audiolm.config import Config
from audiolm.config_file import plain_config
from audiolm.errors import UserError
from audiolm.models.checkpoint import read_checkpoint
from audiolm.training.run_folder import find_run_folders
from audiolm.training.saving import NAME, Save, find_saves, read_save

# Options that change nothing in what is learned: free to differ.
FREE = (
    "generate.", "model.token", "model.test_prompt_path", "datasets.test_ann_path",
    "run.output_dir", "run.exp_name", "run.evaluate", "run.device", "run.num_workers",
    "run.log_freq", "run.loggers", "run.batch_size_train", "run.batch_size_eval",
    "run.accum_grad_iters", "run.save_", "run.keep_", "run.max_time_minutes",
    "run.max_skipped_steps", "run.average_best", "run.fsdp", "run.distil.cache",
)  # fmt: skip
# Options that decide which weights there are and what the optimiser knows of them.
FIXED = (
    "model.qformer.hidden_size", "model.qformer.num_heads", "model.qformer.intermediate_size",
    "model.qformer.num_layers", "model.num_speech_query_token", "model.use_speech_Qformer",
    "model.freeze_", "model.lora", "model.lora_rank", "model.adapter", "model.only_preprocessor",
    "model.second_per_window", "model.speech_llama_proj_model", "run.optims.optimiser",
)  # fmt: skip


@dataclass(frozen=True)
class ResumePoint:
    """A run folder and the save to go on from."""

    folder: Path
    save: Save

    def checkpoints_after(self, ckpt: Any) -> list[str]:
        """The files to load: `model.ckpt` as configured, then what this run trained since."""
        configured = ckpt if isinstance(ckpt, list) else [ckpt] if ckpt else []
        return [*configured, str(self.save.checkpoint_path)]

    def load_checkpoint(self) -> dict[str, Any]:
        """The checkpoint's content: `optimizer`, `scaler`, ..."""
        return read_checkpoint(self.save.checkpoint_path)


def find_resume_point(resume: str, config: Config) -> ResumePoint | None:
    """Where `--resume` leads: a run folder, one of its checkpoints, or `auto`.

    `auto` is the newest unfinished run of this name in `run.output_dir`; None when there is none.

    Raises:
        UserError: the folder is no run, holds no complete save, or is finished.
    """
    if resume == "auto":
        for folder in find_run_folders(config.run.output_dir, config.run.exp_name):
            saves = [] if _is_finished(folder) else find_saves(folder)
            if saves:
                return ResumePoint(folder, saves[-1])
        return None
    path = Path(resume)
    folder = path.parent if NAME.fullmatch(path.name) else path
    if not (folder / "config.yaml").is_file():
        raise UserError(f"--resume: {folder} is no run folder (it has no config.yaml)")
    if _is_finished(folder):
        raise UserError(f"--resume: the run in {folder} is finished; start a new one instead")
    if folder != path:
        save = read_save(path)
        if save is None:
            raise UserError(f"--resume: {path} is not complete; give the folder {folder} instead")
        return ResumePoint(folder, save)
    saves = find_saves(folder)
    if not saves:
        raise UserError(f"--resume: {folder} holds no complete save yet; start a new run")
    return ResumePoint(folder, saves[-1])


def _is_finished(folder: Path) -> bool:
    return (folder / "summary.json").is_file()


def check_same_run(point: ResumePoint, config: Config, *, is_forced: bool = False) -> None:
    """Refuse to go on under another configuration.

    What only changes speed, logs or saves may differ. What changes the learning needs
    `--resume-anyway` (`is_forced`); what changes which weights there are is always refused.

    Raises:
        UserError: lists every difference.
    """
    path = point.folder / "config.yaml"
    old = _flatten(yaml.safe_load(path.read_text(encoding="utf-8")) or {})
    new = _flatten(plain_config(config))
    changed = [key for key in {**old, **new} if key in new and old.get(key, new[key]) != new[key]]
    # A budget in seconds makes steps depend on how they are split, so the batch size counts then.
    counts = ("run.batch_size_train",) if new["run.batch_seconds"] else ()
    changed = [key for key in changed if key in counts or not key.startswith(FREE)]
    fixed = [key for key in changed if key.startswith(FIXED)]

    def describe(keys: list[str]) -> str:
        return ", ".join(f"{key} {old[key]!r} -> {new[key]!r}" for key in keys)

    if fixed:
        raise UserError(
            f"--resume: {path} describes another model: {describe(fixed)}; "
            "undo that, or start a new run with model.ckpt set to the old one's checkpoint"
        )
    if changed and not is_forced:
        raise UserError(
            f"--resume: the configuration differs from {path}: {describe(changed)}; "
            "undo that, or add --resume-anyway to go on with the new values"
        )


def _flatten(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for name, value in values.items():
        key = f"{prefix}{name}"
        is_section = isinstance(value, Mapping) and not key.endswith("_options")
        flat.update(_flatten(value, f"{key}.") if is_section else {key: value})
    return flat
