"""Which models the page offers: each configuration, with every trained checkpoint that fits it.

In: configuration files, folders of runs. Out: `ModelChoice`, the first being the page's default.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from audiolm.config import Config
from audiolm.config_file import load_config
from audiolm.errors import UserError
from audiolm.evaluation.questions import REQUIRED_PATHS

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class ModelChoice:
    """One entry of the page's list.

    Attributes:
        name: as shown.
        config: checked, with the checkpoint in `model.ckpt`; answers are decoded without beams,
            which cannot be shown as they go.
    """

    name: str
    config: Config


def list_choices(
    config_paths: Sequence[str | Path], overrides: Sequence[str], run_dirs: Sequence[str | Path]
) -> list[ModelChoice]:
    """Every configuration: with its own checkpoint if it names one, then the newest runs' first.

    A configuration without any checkpoint is offered untrained.

    Raises:
        UserError: a configuration that cannot be used, or two of one name.
    """
    choices: list[ModelChoice] = []
    for path in config_paths:
        fixed = [*overrides, "generate.num_beams=1"]
        config = load_config(path, fixed, REQUIRED_PATHS)
        name = Path(path).stem
        found = []
        if config.model.ckpt:
            found.append(ModelChoice(_name_own(name, config), config))
        else:
            for checkpoint in list_checkpoints(run_dirs, config):
                chosen = load_config(path, [*fixed, f"model.ckpt={checkpoint}"], REQUIRED_PATHS)
                shown = f"{name}: {checkpoint.parent.name}/{checkpoint.name}"
                found.append(ModelChoice(shown, chosen))
        choices += found or [ModelChoice(f"{name}: untrained", config)]
    names = [choice.name for choice in choices]
    if len(set(names)) < len(names):
        raise UserError(f"--cfg-path: two files of one name among {', '.join(names)}; rename one")
    return choices


def _name_own(name: str, config: Config) -> str:
    checkpoint = config.model.ckpt
    if isinstance(checkpoint, str):
        return f"{name}: {Path(checkpoint).parent.name}/{Path(checkpoint).name}"
    return f"{name}: {len(checkpoint)} checkpoints"


def list_checkpoints(run_dirs: Sequence[str | Path], config: Config) -> list[Path]:
    """The best checkpoint of each run that trained these backbones, the newest run first."""
    runs = [run for folder in run_dirs for run in Path(folder).glob("*/config.yaml")]
    runs.sort(key=lambda path: (path.stat().st_mtime, path), reverse=True)
    checkpoints = []
    for path in runs:
        best = path.with_name("checkpoint_best.pth")
        if best.is_file() and _fits(path, config):
            checkpoints.append(best.absolute())
    return checkpoints


def _fits(run_config_path: Path, config: Config) -> bool:
    """Whether a run's model is made of the same LLM, Whisper and BEATs."""
    try:
        run = load_config(run_config_path)
    except UserError as error:
        logger.warning("%s is left out: %s", run_config_path.parent, error)
        return False
    names = ("llama_path", "whisper_path", "beats_path")
    return all(
        os.path.realpath(getattr(run.model, name)) == os.path.realpath(getattr(config.model, name))
        for name in names
    )
