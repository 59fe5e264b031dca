"""Windows of encoder frames, and the Q-Former that turns each window into a few audio tokens.

The Q-Former is transformers' BLIP-2 one with cross-attention in every layer, which computes what
SALMONN's BERT with query tokens does. Letters: B clips, T frames, L windows of K frames, W frame
width, N windows of all clips together.
"""

from dataclasses import dataclass

import torch
from torch import nn
from transformers import Blip2QFormerConfig, Blip2QFormerModel

from audiolm.models.whisper import FRAMES_PER_SECOND


@dataclass(frozen=True)
class Windows:
    """Window length and step in frames. No padding: a last partial window is dropped."""

    length: int
    step: int

    @classmethod
    def from_seconds(cls, seconds_per_window: float, seconds_per_stride: float) -> "Windows":
        """Seconds to frames as SALMONN rounds them: half to even, on a 30 s / 1500 frame grid."""
        length = round(FRAMES_PER_SECOND * 30 * seconds_per_window / 30)
        step = round(FRAMES_PER_SECOND * 30 * seconds_per_stride / 30)
        return cls(max(length, 1), max(step, 1))

    def count(self, num_frames: int) -> int:
        """Windows that fit into `num_frames`."""
        return max((num_frames - self.length) // self.step + 1, 0)

    def count_real(self, num_real_frames: torch.Tensor, num_frames: int) -> torch.Tensor:
        """Windows of `num_frames` that start inside the first `num_real_frames`; at least one."""
        starts = (num_real_frames + self.step - 1) // self.step
        return starts.clamp(min=1, max=max(self.count(num_frames), 1))

    def span(self, num_windows: torch.Tensor) -> torch.Tensor:
        """Frames from the first window's start to the last one's end."""
        return (num_windows - 1) * self.step + self.length

    def cut(self, frames: torch.Tensor, num_windows: torch.Tensor) -> torch.Tensor:
        """(B, T, W) -> (N, K, W): each clip's first `num_windows[i]` windows, clip by clip."""
        windows = frames.unfold(1, self.length, self.step)  # (B, L, W, K)
        order = torch.arange(windows.shape[1], device=frames.device)
        is_wanted = order < num_windows[:, None]  # (B, L)
        return windows[is_wanted].transpose(1, 2)


def build_qformer(
    *,
    hidden_size: int,
    num_heads: int,
    intermediate_size: int,
    num_layers: int,
    frame_width: int,
    dropout: float = 0.1,
) -> Blip2QFormerModel:
    """A randomly initialised Q-Former over frames of width `frame_width`."""
    config = Blip2QFormerConfig(
        hidden_size=hidden_size,
        num_attention_heads=num_heads,
        intermediate_size=intermediate_size,
        num_hidden_layers=num_layers,
        encoder_hidden_size=frame_width,
        cross_attention_frequency=1,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    return Blip2QFormerModel(config)


def query_frames(
    qformer: nn.Module,
    queries: torch.Tensor | None,
    frames: torch.Tensor,
    mask: torch.Tensor | None = None,
) -> torch.Tensor:
    """Run the queries (1, Q, D) over each row of frames (N, K, W), mask (N, K): -> (N, Q, D)."""
    assert queries is not None
    output = qformer(
        query_embeds=queries.expand(len(frames), -1, -1),
        encoder_hidden_states=frames,
        encoder_attention_mask=mask,
    )
    return output.last_hidden_state


def pad_windows(
    tokens: torch.Tensor, num_windows: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens of all windows -> one padded row per clip.

    tokens (N, Q, H), num_windows (B,) -> (B, max(L) * Q, H) and attention mask (B, max(L) * Q)
    """
    per_window, width = tokens.shape[1:]
    num_tokens = num_windows * per_window
    order = torch.arange(int(num_tokens.max()), device=tokens.device)
    attention_mask = order < num_tokens[:, None]
    padded = tokens.new_zeros(*attention_mask.shape, width)
    padded[attention_mask] = tokens.reshape(-1, width)
    return padded, attention_mask.long()
