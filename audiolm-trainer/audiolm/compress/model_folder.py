"""Folders of weights as transformers writes them, and configurations that name them.

What is written is in the number type of the file it came from, unless told otherwise.
"""

import copy
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, WhisperConfig, WhisperFeatureExtractor

from audiolm.config import Config
from audiolm.config_file import dump_config
from audiolm.config_rules import INPUT_PATHS
from audiolm.models.checkpoint import CONNECTOR, trainable_state, write_atomically
from audiolm.models.key_names import to_file_key
from audiolm.models.pretrained import quiet_transformers
from audiolm.models.quantisation import FLOAT_TYPES
from audiolm.models.salmonn import SALMONN


def read_stored_dtype(path: str, token: str = "") -> torch.dtype:
    """The number type of a model folder's weights, as its configuration says; else float32."""
    dtype = AutoConfig.from_pretrained(path, token=token or None).get_text_config().dtype
    return dtype if isinstance(dtype, torch.dtype) else torch.float32


def choose_stored_dtype(name: str, path: str, token: str = "") -> torch.dtype:
    """What `--dtype` means for a model that came from `path`."""
    return read_stored_dtype(path, token) if name == "auto" else FLOAT_TYPES[name]


def save_llm(llm: Any, tokenizer: Any, folder: Path, dtype: torch.dtype) -> None:
    """Write an LLM without adapter, with its tokenizer. Changes the LLM's type to `dtype`."""
    with quiet_transformers():
        llm.to(dtype).save_pretrained(folder)
        tokenizer.save_pretrained(folder)


def save_whisper(encoder: Any, config: Config, folder: Path) -> None:
    """Write Whisper's encoder half and its mel settings, in the type of the file it came from."""
    source, token = config.model.whisper_path, config.model.token
    dtype = WhisperConfig.from_pretrained(source, token=token or None).dtype
    mel_source = config.datasets.whisper_path or source
    extractor = WhisperFeatureExtractor.from_pretrained(mel_source, token=token or None)
    stored: Any = encoder.to(dtype=dtype if isinstance(dtype, torch.dtype) else torch.float32)
    with quiet_transformers():
        # under the encoder's own names: going back over the names it was loaded from fails
        stored.save_pretrained(folder, save_original_format=False)
        extractor.save_pretrained(folder)


def collect_trained(model: SALMONN) -> dict[str, torch.Tensor]:
    """File key -> tensor of what trains, and of the connector even where it is frozen."""
    connector = {
        to_file_key(name): parameter.detach()
        for name, parameter in model.named_parameters()
        if name.startswith(CONNECTOR)
    }
    return trainable_state(model) | connector


def save_trained(trained: dict[str, torch.Tensor], path: Path) -> None:
    """Write weights by file key as a checkpoint without a training state."""
    content = {"model": trained, "optimizer": {}, "config": {}, "scaler": None, "epoch": 0}
    write_atomically(path, content)


def copy_config(config: Config, **changes: Any) -> Config:
    """The configuration with options of `model` changed."""
    changed = copy.deepcopy(config)
    for name, value in changes.items():
        setattr(changed.model, name, value)
    return changed


def write_config(config: Config, path: Path, first_lines: str) -> None:
    """Write a configuration below a comment of `first_lines`, without the hub token."""
    comment = "".join(f"# {line}\n" for line in first_lines.splitlines())
    path.write_text(comment + dump_config(config), encoding="utf-8")


def point_into(config: Config, folder: Path) -> Config:
    """The configuration with the model's files that are in `folder` named by whole paths.

    Unlike `load_config`, it does not look in the current directory first.
    """
    names = [key.removeprefix("model.") for key in INPUT_PATHS if key.startswith("model.")]
    values = {name: getattr(config.model, name) for name in names}
    inside = {
        name: str(folder / value)
        for name, value in values.items()
        if isinstance(value, str) and value and (folder / value).exists()
    }
    return copy_config(config, **inside)
