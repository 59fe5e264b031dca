"""Everything a trained model needs in one folder, without adapter: to archive, share or deploy.

Out: `llm/`, `connector.pth`, `whisper/`, `beats.pt`, `prompts/` and `config.yaml`, which names them
relative to its own folder. Data paths stay as they are.
"""

import shutil
from collections.abc import Sequence
from pathlib import Path

from audiolm.compress.calibration import CalibrationClip
from audiolm.compress.merging import Drift, Tolerances, write_merged
from audiolm.compress.model_folder import copy_config, save_whisper
from audiolm.config import Config
from audiolm.errors import UserError
from audiolm.models.whisper import load_whisper_encoder

PROMPT_FILES = {
    "prompt_path": "prompts/train_prompt.json",
    "test_prompt_path": "prompts/test_prompt.json",
}


def export(
    config: Config,
    clips: Sequence[CalibrationClip],
    output: str | Path,
    *,
    dtype: str = "auto",
    tolerances: Tolerances,
    overwrite: bool = False,
) -> Drift:
    """Write the folder and tell how far it is from the original.

    Raises:
        UserError: the result drifts beyond the tolerances, or the output is there already. Nothing
            is written then.
    """
    return write_merged(
        config, clips, output,
        dtype=dtype, tolerances=tolerances, overwrite=overwrite, complete=_add_the_rest,
    )  # fmt: skip


def _add_the_rest(config: Config, folder: Path) -> Config:
    """Encoders as before training (`connector.pth` has what was trained), and prompts."""
    options = config.model
    encoder = load_whisper_encoder(options.whisper_path, token=options.token)
    save_whisper(encoder, config, folder / "whisper")
    changes = {"whisper_path": "whisper"}
    copied = {"beats_path": "beats.pt"}
    copied |= PROMPT_FILES
    for name, place in copied.items():
        source = getattr(options, name)
        if source:
            changes[name] = place
            _copy(f"model.{name}", source, folder / place)
    exported = copy_config(config, **changes)
    exported.datasets.whisper_path = ""
    return exported


def _copy(option: str, source: str, target: Path) -> None:
    if not Path(source).is_file():
        raise UserError(f"{option}: no file at {source}; correct the path, or set it to nothing")
    target.parent.mkdir(exist_ok=True)
    shutil.copyfile(source, target)
