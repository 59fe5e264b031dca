"""One clip's encoder outputs, as a feature cache stores them, and how far stored ones are off.

In: audio items of `AudioDataset`. Out: Whisper frames (T, C) and BEATs patches (P, D) on the CPU.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.utils.data import Dataset

from audiolm.audio.loading import AudioError
from audiolm.config import ModelConfig
from audiolm.data.dataset import AudioDataset
from audiolm.models.audio_tokens import FramePlan, plan_frames
from audiolm.models.build import build_encoders, read_audio_options, read_encoder_sizes
from audiolm.models.device import move_to
from audiolm.models.encoding import encode_audio


class ClipEncoder:
    """Both encoders, for one clip at a time."""

    def __init__(self, model: ModelConfig, device: torch.device, dtype: torch.dtype) -> None:
        self._audio_options = read_audio_options(model)
        self._max_frames = read_encoder_sizes(model).max_frames
        self._device = device
        self._whisper, self._beats = build_encoders(model, dtype, device)
        parts: list[nn.Module | None] = [self._whisper, self._beats]
        for part in parts:
            if part is not None:
                part.to(device).eval().requires_grad_(False)

    def encode(self, item: dict[str, Any]) -> dict[str, Any]:
        """`AudioDataset.read_audio`'s item -> `ShardWriter.add`'s, with the frames that count."""
        num_samples = torch.tensor([len(item["raw_wav"])])
        plan = plan_frames(num_samples, self._max_frames, self._audio_options)
        batch = {
            "spectrogram": item["spectrogram"][None],
            "raw_wav": item["raw_wav"][None],
            "num_samples": num_samples,
            "num_frames": plan.num_encoded,
        }
        encoded = encode_audio(
            self._whisper,
            self._beats,
            **move_to(batch, self._device),
            is_trimmed=self._audio_options.is_trimmed,
        )
        stored: dict[str, Any] = {
            "speech_frames": encoded.speech[0, : int(count_stored_frames(plan))].cpu(),
            "num_samples": int(num_samples),
            "was_truncated": item["was_truncated"],
        }
        if encoded.audio is not None and encoded.num_patches is not None:
            stored["audio_frames"] = encoded.audio[0, : int(encoded.num_patches)].cpu()
        return stored


class AudioToEncode(Dataset[Any]):
    """Audio of clips, or the `AudioError` it raised: loading processes cannot raise it."""

    def __init__(self, dataset: AudioDataset, positions: Sequence[int]) -> None:
        self._dataset = dataset
        self._positions = positions

    def __len__(self) -> int:
        return len(self._positions)

    def __getitem__(self, index: int) -> tuple[int, dict[str, Any] | AudioError]:
        position = self._positions[index]
        try:
            return position, self._dataset.read_audio(self._dataset.clips[position])
        except AudioError as error:
            return position, error


def count_stored_frames(plan: FramePlan) -> torch.Tensor:
    """Whisper frames of each clip (B,) that are worth storing: encoded, and used for a token."""
    return torch.minimum(plan.num_encoded, plan.num_used)


def measure_difference(stored: Mapping[str, Any], live: Mapping[str, Any]) -> float:
    """Largest difference between two of `ClipEncoder.encode`'s results, relative to their size;
    infinite where they do not compare."""
    largest = 0.0
    for name in ("speech_frames", "audio_frames"):
        one, other = stored.get(name), live.get(name)
        if one is None and other is None:
            continue
        if one is None or other is None or one.shape != other.shape:
            return float("inf")
        norm = other.double().norm()
        difference = float((one.double() - other.double()).norm() / norm.clamp(min=1e-12))
        largest = max(largest, difference if difference == difference else float("inf"))  # NaN
    return largest
