"""What an evaluation was: everything needed to say what a number is, and to make it again.

In: the configuration, the clips and their prompts. Out: plain values for `run.json` and
`result.json`.
"""

import hashlib
import json
import sys
from collections.abc import Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

from audiolm.config import Config
from audiolm.config_file import plain_config
from audiolm.evaluation.machine import describe_machine, find_commit

SCORER_PACKAGES = (
    "whisper-normalizer", "rapidfuzz", "aac-metrics", "sacrebleu", "numpy", "pandas",
)  # fmt: skip
# Options of `model` that change no answer.
_WITHOUT_EFFECT = ("prompt_path", "test_prompt_path", "prompt_template", "multi_prompt", "ckpt")
_CHUNK_BYTES = 1 << 20


def describe_settings(
    config: Config, mode: str, annotation_path: str, prompts: Sequence[str]
) -> dict[str, Any]:
    """What the answers depend on: two evaluations of equal settings may share their answers.

    Not in it: batch size, processes, device, paths of components.
    """
    plain = plain_config(config)
    model = {key: value for key, value in plain["model"].items() if key not in _WITHOUT_EFFECT}
    datasets = {key: plain["datasets"][key] for key in ("prefix", "bad_audio", "long_audio")}
    return {
        "mode": mode,
        "annotation_sha256": hash_file(annotation_path),
        "prompts_sha256": hash_text("\n".join(prompts)),
        "checkpoints_sha256": [hash_file(path) for path in list_checkpoints(config)],
        "seed": config.run.seed,
        "model": model,
        "datasets": datasets,
        "generate": plain["generate"],
    }


def describe_run(
    config: Config, settings: dict[str, Any], annotation_path: str, num_clips: int
) -> dict[str, Any]:
    """The card: what ran, on what, with what."""
    plain = plain_config(config)
    return {
        "mode": settings["mode"],
        "command": describe_command(),
        "commit": find_commit(),
        "config": plain,
        "config_sha256": hash_text(json.dumps(plain, sort_keys=True)),
        "seed": config.run.seed,
        "checkpoints": [
            {"path": path, "sha256": digest}
            for path, digest in zip(
                list_checkpoints(config), settings["checkpoints_sha256"], strict=True
            )
        ],
        "annotation": annotation_path,
        "annotation_sha256": settings["annotation_sha256"],
        "num_clips": num_clips,
        "settings": settings,
    }


def describe_scorers() -> dict[str, str | None]:
    """Versions of what turns answers into numbers."""
    return {name: _find_version(name) for name in SCORER_PACKAGES}


def describe_hardware(device: torch.device, num_processes: int) -> dict[str, Any]:
    """The machine, its packages included, and how many processes shared the work."""
    return {**describe_machine(device), "num_processes": num_processes}


def describe_command() -> str:
    """The command line, without a hub token in it."""
    words = [
        f"{word.split('=')[0]}=***" if word.startswith("model.token=") else word
        for word in sys.argv
    ]
    for place, word in enumerate(words[:-1]):
        if word == "model.token":
            words[place + 1] = "***"
    return " ".join(words)


def list_checkpoints(config: Config) -> list[str]:
    """The files of `model.ckpt`."""
    paths = config.model.ckpt if isinstance(config.model.ckpt, list) else [config.model.ckpt]
    return [str(path) for path in paths if path]


def hash_file(path: str | Path) -> str:
    """SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        while chunk := file.read(_CHUNK_BYTES):
            digest.update(chunk)
    return digest.hexdigest()


def hash_text(text: str) -> str:
    """SHA-256 of a text's UTF-8 bytes."""
    return hashlib.sha256(text.encode("utf-8", errors="backslashreplace")).hexdigest()


def _find_version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None
