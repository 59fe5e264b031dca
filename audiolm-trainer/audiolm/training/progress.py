"""Speed, loss and gradient size of a run, averaged between two log lines."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from audiolm.audio.loading import SAMPLE_RATE_HZ


@dataclass
class Meter:
    """Collects what happened since `reset`; `summary` gives means and rates."""

    loss_sum: float = 0.0
    correct: float = 0.0
    num_tokens: int = 0
    num_clips: int = 0
    audio_seconds: float = 0.0
    grad_norm: float = 0.0
    started: float = field(default_factory=time.perf_counter)

    def add(
        self, samples: Mapping[str, Any], loss_sum: float, correct: float, num_tokens: int
    ) -> None:
        """Count one micro-batch: summed loss in nats, correct and all answer tokens."""
        self.num_clips += len(samples["text"])
        self.audio_seconds += int((~samples["padding_mask"]).sum()) / SAMPLE_RATE_HZ
        self.loss_sum += loss_sum
        self.correct += correct
        self.num_tokens += num_tokens

    def summary(self) -> dict[str, float]:
        """Loss per token, token accuracy, clips and audio seconds per second of wall time."""
        elapsed = max(time.perf_counter() - self.started, 1e-9)
        tokens = max(self.num_tokens, 1)
        return {
            "loss": self.loss_sum / tokens,
            "token_accuracy": self.correct / tokens,
            "grad_norm": self.grad_norm,
            "clips_per_second": self.num_clips / elapsed,
            "audio_seconds_per_second": self.audio_seconds / elapsed,
        }
