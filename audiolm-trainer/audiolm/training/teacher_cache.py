"""What a teacher said of the training clips, on disk: each answer is computed once.

    CACHE/TEACHER/description.json      what the numbers depend on; its hash names the folder
    CACHE/TEACHER/ab/abcd....safetensors   one answer: log_probs (N, K + 1), token_ids (N, K)

An answer is known by the sound itself, the prompt and the answer's tokens, so that other audio,
augmented or not, and other draws of the prompt are other answers. Files appear whole or not at all;
several processes may fill one folder.

Letters: N tokens of an answer, K of the teacher's likeliest, with the rest as one more.
"""

import hashlib
import json
import os
import uuid
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from audiolm.config import DistilConfig, ModelConfig
from audiolm.errors import UserError
from audiolm.models.pretrained import find_weight_files
from audiolm.training.feature_key import DIGESTS_NAME, digest_files
from audiolm.training.precision import Precision

FORMAT_VERSION = 1  # of the files and what they hold; other versions are not read
# Options of a teacher that its answers' probabilities do not depend on, or only by the files they
# name, whose contents count.
NOT_DESCRIBED = (
    "llama_path", "whisper_path", "beats_path", "ckpt", "speech_llama_proj_model", "token",
    "prompt_path", "test_prompt_path", "prompt_template", "multi_prompt", "max_txt_len", "end_sym",
)  # fmt: skip

Said = tuple[torch.Tensor, torch.Tensor | None]  # log-probabilities, and the ids of K tokens


class TeacherCache:
    """The answers of one teacher in its folder."""

    def __init__(self, folder: Path, top_k: int) -> None:
        self._folder = folder
        self._top_k = top_k

    @property
    def is_empty(self) -> bool:
        return next(self._folder.glob("??/*.safetensors"), None) is None

    def read(self, key: str, num_tokens: int) -> tuple[torch.Tensor, torch.Tensor] | None:
        """The answer of `num_tokens` tokens under this key; None if it is not there or damaged."""
        try:
            stored = load_file(self._find(key))
        except (OSError, SafetensorError):
            return None
        if {name: tuple(value.shape) for name, value in stored.items()} != {
            "log_probs": (num_tokens, self._top_k + 1),
            "token_ids": (num_tokens, self._top_k),
        }:
            return None
        return stored["log_probs"], stored["token_ids"].long()

    def write(self, key: str, said: tuple[torch.Tensor, torch.Tensor]) -> None:
        """Store an answer.

        Raises:
            UserError: the disk is full, or the folder cannot be written.
        """
        path, (log_probs, token_ids) = self._find(key), said
        temporary = path.with_name(f"{uuid.uuid4().hex}.tmp")
        content = {"log_probs": log_probs.clone(), "token_ids": token_ids.int()}
        try:
            path.parent.mkdir(exist_ok=True)
            save_file(content, temporary)
            os.replace(temporary, path)
        except (OSError, SafetensorError) as error:
            temporary.unlink(missing_ok=True)
            raise _explain(self._folder, error) from error

    def _find(self, key: str) -> Path:
        return self._folder / key[:2] / f"{key}.safetensors"


def name_answer(waveform: torch.Tensor, prompt: str, answer: Sequence[int]) -> str:
    """The key of an answer: of its sound (T,), its templated prompt and its tokens."""
    digest = hashlib.blake2b(waveform.numpy().tobytes(), digest_size=16)
    digest.update(json.dumps([prompt, list(answer)]).encode())
    return digest.hexdigest()


def open_teacher_folder(model: ModelConfig, options: DistilConfig, precision: Precision) -> Path:
    """The folder for this teacher, made if need be, with its description inside.

    Raises:
        UserError: it cannot be written to, or a weights' file is missing.
    """
    root = Path(options.cache)
    try:
        root.mkdir(parents=True, exist_ok=True)
        description = _describe(model, options, precision)
        text = json.dumps(description, sort_keys=True, indent=1)
        folder = root / hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
        folder.mkdir(exist_ok=True)
        (folder / "description.json").write_text(text, encoding="utf-8")
    except OSError as error:
        raise _explain(root, error) from error
    return folder


def _describe(model: ModelConfig, options: DistilConfig, precision: Precision) -> dict[str, Any]:
    """Everything that the log-probabilities depend on besides clip, prompt and answer."""
    checkpoints = model.ckpt if isinstance(model.ckpt, list) else [model.ckpt]
    single = [model.beats_path, model.speech_llama_proj_model, *checkpoints]
    paths = [
        *find_weight_files(model.llama_path, "model.llama_path", model.token),
        *find_weight_files(model.whisper_path, "model.whisper_path", model.token),
        *(Path(path) for path in single if path),
    ]
    return {
        "format": FORMAT_VERSION,
        "weights": digest_files(paths, Path(options.cache) / DIGESTS_NAME),
        "model": {n: value for n, value in asdict(model).items() if n not in NOT_DESCRIBED},
        "frozen_dtype": str(precision.frozen_dtype),
        "product_dtype": str(precision.product_dtype),
        "temperature": options.temperature,
        "top_k": options.top_k,
    }


def _explain(folder: Path, error: Exception) -> UserError:
    reason = getattr(error, "strerror", None) or error
    return UserError(
        f"run.distil.cache: cannot write to {folder}: {reason}; free some space, or give a folder "
        "that can be written"
    )
