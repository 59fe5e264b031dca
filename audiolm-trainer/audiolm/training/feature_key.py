"""What stored encoder outputs depend on, beside the audio: weights, options, number type.

In: the configuration. Out: the folder of its feature cache, named by the hash of a plain
description, so that outputs of other weights or options are never read. What changes rounding alone
(attention implementation, device) is not part of it.
"""

import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from audiolm.config import Config
from audiolm.errors import UserError
from audiolm.models.audio_tokens import check_mel_bins
from audiolm.models.build import mixes_layers, read_audio_options, read_encoder_sizes
from audiolm.models.checkpoint import read_checkpoint
from audiolm.models.encoding import EncoderSizes
from audiolm.models.key_names import from_file_key, is_junk
from audiolm.models.pretrained import find_weight_files
from audiolm.training.data import build_augmenter, load_log_mel

FORMAT_VERSION = 1  # of the outputs and their files; other versions are not read
READ_BYTES = 8 * 2**20
DIGESTS_NAME = "weights.json"


def check_cache_options(config: Config) -> None:
    """Raise a `UserError` where a clip's encoder outputs would not always be the same."""
    model = config.model
    off = "or leave datasets.feature_cache empty"
    for option, is_frozen in (
        ("freeze_whisper", model.freeze_whisper),
        ("freeze_beats", model.freeze_beats or not model.beats_path),
    ):
        if not is_frozen:
            raise UserError(
                f"datasets.feature_cache holds the outputs of frozen encoders, but model.{option} "
                f"is false; set it to true, {off}"
            )
    if mixes_layers(model):
        check_storable(read_encoder_sizes(model))
    if build_augmenter(config.datasets.augment) is not None:
        raise UserError(
            "datasets.augment changes the audio each time, and datasets.feature_cache holds it as "
            f"it is; turn augmentation off, {off}"
        )
    for path in model.ckpt if isinstance(model.ckpt, list) else [model.ckpt]:
        keys = read_checkpoint(Path(path))["model"] if path else ()
        parts = {from_file_key(key).partition(".")[0] for key in keys if not is_junk(key)}
        if parts & {"speech_encoder", "beats"}:
            raise UserError(
                f"model.ckpt: {path} holds encoder weights of its own, which "
                f"datasets.feature_cache does not read; use a checkpoint without, {off}"
            )


def check_storable(sizes: EncoderSizes) -> None:
    """Raise a `UserError` for a mix of Whisper's layers, whose weights train."""
    if sizes.num_mixed:
        num_bytes = 4 * sizes.num_mixed * sizes.max_frames * sizes.speech_width
        raise UserError(
            "datasets.feature_cache cannot serve model.audio_encoder: whisper_layers: its weights "
            f"train, so that all {sizes.num_mixed} hidden states of Whisper would be stored, "
            f"{num_bytes / 1e6:.0f} MB in float32 for 30 s of audio; use beats or none, or leave "
            "datasets.feature_cache empty"
        )


def open_cache_folder(config: Config, dtype: torch.dtype) -> Path:
    """The folder for these weights and options, made if need be, with its description inside.

    Raises:
        UserError: it cannot be written to, or a model's file is missing or does not fit.
    """
    root = Path(config.datasets.feature_cache)
    num_mel_bins = load_log_mel(config).num_mel_bins
    check_mel_bins(num_mel_bins, read_encoder_sizes(config.model).num_mel_bins)
    try:
        root.mkdir(parents=True, exist_ok=True)
        description = describe_features(config, num_mel_bins, dtype)
        text = json.dumps(description, sort_keys=True, indent=1)
        folder = root / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        folder.mkdir(exist_ok=True)
        (folder / "description.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise UserError(
            f"datasets.feature_cache: cannot write to {root}: {error.strerror or error}; give a "
            "folder that can be written"
        ) from error
    return folder


def describe_features(config: Config, num_mel_bins: int, dtype: torch.dtype) -> dict[str, Any]:
    """Everything the outputs of a clip depend on. `datasets.feature_cache` must be a folder.

    Raises:
        UserError: no weights at `model.whisper_path` or `model.beats_path`.
    """
    model, datasets = config.model, config.datasets
    audio_options = read_audio_options(model)
    memory_path = Path(datasets.feature_cache) / DIGESTS_NAME
    whisper_files = find_weight_files(model.whisper_path, "model.whisper_path", model.token)
    options = asdict(audio_options)
    if not audio_options.is_length_aware:  # windows do not decide what is stored
        del options["windows"], options["is_window_level"]
    return {
        "format": FORMAT_VERSION,
        "whisper": digest_files(whisper_files, memory_path),
        "beats": digest_files([Path(model.beats_path)], memory_path) if model.beats_path else "",
        "num_mel_bins": num_mel_bins,
        "dtype": str(dtype),
        **({"weights": "int8"} if model.encoder_dtype == "int8" else {}),
        "cuts_long_audio": datasets.long_audio == "truncate",
        **options,
    }


def digest_files(paths: Sequence[Path], memory_path: Path) -> str:
    """Digest of the files' contents. `memory_path` remembers those of files of the same size and
    modification time, so that gigabytes are read once."""
    memory = _read_memory(memory_path)
    digests = []
    for path in paths:
        status = path.stat()
        name, state = os.path.abspath(path), [status.st_size, status.st_mtime_ns]
        known = memory.get(name)
        if not known or known[:2] != state:
            known = memory[name] = [*state, _digest_file(path)]
        digests.append(known[2])
    temporary = memory_path.with_name(memory_path.name + ".tmp")
    temporary.write_text(json.dumps(memory, indent=1), encoding="utf-8")
    os.replace(temporary, memory_path)
    return hashlib.blake2b("/".join(digests).encode(), digest_size=16).hexdigest()


def _read_memory(path: Path) -> dict[str, list[Any]]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    is_sound = isinstance(content, dict) and all(
        isinstance(known, list) and len(known) == 3 for known in content.values()
    )
    return content if is_sound else {}


def _digest_file(path: Path) -> str:
    digest = hashlib.blake2b(digest_size=16)
    with path.open("rb") as file:
        while block := file.read(READ_BYTES):
            digest.update(block)
    return digest.hexdigest()
