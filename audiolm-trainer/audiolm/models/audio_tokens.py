"""How many frames and windows of each clip count: the plan behind `fixed` and `length_aware`.

Letters: B clips, M mel bins, T frames of width W, N windows of K frames, Q queries of width D.
"""

from dataclasses import dataclass

import torch
from torch import nn

from audiolm.errors import UserError
from audiolm.models.qformer import Windows, query_frames
from audiolm.models.whisper import SAMPLES_PER_FRAME


@dataclass(frozen=True)
class AudioTokenOptions:
    """Which audio becomes tokens. Names and meaning: `audiolm.config.ModelConfig`."""

    windows: Windows
    is_window_level: bool = True  # False: the queries look at the whole clip at once
    is_length_aware: bool = False  # tokens for real audio only
    is_trimmed: bool = False  # Whisper sees real frames only


@dataclass(frozen=True)
class FramePlan:
    """Per clip (B,): frames that Whisper encodes, frames that are used, windows cut from them."""

    num_encoded: torch.Tensor
    num_used: torch.Tensor
    num_windows: torch.Tensor


def plan_frames(
    num_samples: torch.Tensor, max_frames: int, options: AudioTokenOptions
) -> FramePlan:
    """Plan a batch from its clips' sample counts (B,); `max_frames` is Whisper's 1500."""
    windows = options.windows
    num_real = (num_samples + SAMPLES_PER_FRAME - 1) // SAMPLES_PER_FRAME
    num_real = num_real.clamp(1, max_frames)
    all_frames = torch.full_like(num_real, max_frames)
    if options.is_length_aware:
        num_windows = windows.count_real(num_real, max_frames)
        num_used = windows.span(num_windows) if options.is_window_level else num_real
        num_encoded = num_used
    else:
        num_windows = torch.full_like(num_real, windows.count(max_frames))
        num_used = all_frames
        num_encoded = num_real
    if not options.is_window_level:
        num_windows = torch.ones_like(num_real)
    return FramePlan(num_encoded if options.is_trimmed else all_frames, num_used, num_windows)


def count_samples(
    spectrogram: torch.Tensor,
    raw_wav: torch.Tensor | None,
    padding_mask: torch.Tensor | None,
    num_mel_bins: int,
) -> torch.Tensor:
    """Real samples of each clip (B,); the whole waveform, or 30 s, when nothing says otherwise.

    Raises:
        UserError: the spectrogram (B, M, 3000) was not made for this Whisper.
    """
    check_mel_bins(spectrogram.shape[1], num_mel_bins)
    if padding_mask is not None:
        return count_real(padding_mask)
    length = SAMPLES_PER_FRAME * spectrogram.shape[2] // 2 if raw_wav is None else raw_wav.shape[1]
    return torch.full((len(spectrogram),), length, device=spectrogram.device)


def count_real(padding_mask: torch.Tensor) -> torch.Tensor:
    """(B, samples) True where padded -> real samples of each clip (B,)."""
    return (~padding_mask.bool()).sum(1)


def check_mel_bins(found: int, expected: int) -> None:
    """Raise a `UserError` when spectrograms were not made for this Whisper."""
    if found != expected:
        raise UserError(
            f"the spectrograms have {found} mel bins, but the Whisper of model.whisper_path reads "
            f"{expected}; point datasets.whisper_path to the same one, or leave it out"
        )


def fit_length(frames: torch.Tensor, length: int) -> torch.Tensor:
    """Cut or zero-pad (B, T, C) to `length` frames."""
    return nn.functional.pad(frames[:, :length], (0, 0, 0, max(length - frames.shape[1], 0)))


def make_tokens(
    qformer: nn.Module | None,
    queries: torch.Tensor | None,
    frames: torch.Tensor,
    plan: FramePlan,
    options: AudioTokenOptions,
) -> torch.Tensor:
    """Frames (B, T, W) -> tokens of all windows, clip by clip: (N, Q, D) from the Q-Former, or
    each window's K frames end to end, (N, 1, K * W), without one."""
    mask = None
    if options.is_window_level:
        frames = options.windows.cut(frames, plan.num_windows)  # (N, K, W)
    else:
        mask = first_rows(plan.num_used, frames.shape[1]).long()
    if qformer is None:
        return frames.flatten(1)[:, None]
    return query_frames(qformer, queries, frames, mask)


def normalise(
    layer_norm: nn.LayerNorm, frames: torch.Tensor, num_real: torch.Tensor, length: int
) -> torch.Tensor:
    """(B, T, C) -> (B, length, C), zero from each clip's frame `num_real` (B,) on."""
    normalised = layer_norm(frames.to(layer_norm.weight.dtype))
    normalised = normalised * first_rows(num_real, frames.shape[1])[:, :, None]
    return fit_length(normalised, length)


def first_rows(counts: torch.Tensor, length: int) -> torch.Tensor:
    """(B,) -> (B, length), True where the position is below the clip's count."""
    return torch.arange(length, device=counts.device) < counts[:, None]
