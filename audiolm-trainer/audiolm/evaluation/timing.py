"""Time what a device does, phase by phase, and describe the samples.

In: a device, and marks at the ends of phases. Out: seconds per phase and statistics over repeated
calls. Work on a GPU runs behind the program's back, so every clock read waits for it.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch

IterationKind = Literal["cold", "warmup", "measured"]
PERCENTILES = (50, 90, 99)


def read_clock(device: torch.device) -> float:
    """Seconds of a steady clock, once everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class PhaseClock:
    """Splits one call into named phases that follow each other without a gap."""

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._ends: dict[str, float] = {}
        self._start = read_clock(device)

    def end_phase(self, name: str) -> None:
        """Close the phase that began with the clock or with the last mark."""
        assert name not in self._ends
        self._ends[name] = read_clock(self._device)

    @property
    def phase_seconds(self) -> dict[str, float]:
        """Length of each phase, in order."""
        starts = [self._start, *self._ends.values()]
        return {
            name: end - start
            for start, (name, end) in zip(starts, self._ends.items(), strict=False)
        }

    def seconds_until(self, phase: str) -> float:
        """From the start to the end of `phase`."""
        return self._ends[phase] - self._start


@dataclass(frozen=True)
class Answer:
    """One timed answer of `num_new_tokens` tokens per clip.

    Attributes:
        phase_seconds: the phases in order; they add up to `total_seconds`.
        ttft_seconds: waveform in memory to first token id (time to first token).
        total_seconds: waveform in memory to last token id.
    """

    phase_seconds: dict[str, float]
    ttft_seconds: float
    total_seconds: float
    num_new_tokens: int

    @property
    def tpot_seconds(self) -> float:
        """Time per output token after the first one."""
        return (self.total_seconds - self.ttft_seconds) / (self.num_new_tokens - 1)

    def as_seconds(self) -> dict[str, float]:
        """Every time of this answer by name."""
        phases = {f"{name}_seconds": seconds for name, seconds in self.phase_seconds.items()}
        return {
            **phases,
            "ttft_seconds": self.ttft_seconds,
            "tpot_seconds": self.tpot_seconds,
            "total_seconds": self.total_seconds,
        }


def repeat_answers(
    answer_once: Callable[[], Answer],
    num_warmup: int,
    num_it: int,
    progress: Callable[[Sequence[IterationKind]], Iterable[IterationKind]] = iter,
) -> list[tuple[IterationKind, Answer]]:
    """One cold call, then `num_warmup` to warm up, then the `num_it` that count.

    `progress` may wrap the iterations in a bar.
    """
    counts: dict[IterationKind, int] = {"cold": 1, "warmup": num_warmup, "measured": num_it}
    kinds: list[IterationKind] = [kind for kind, count in counts.items() for _ in range(count)]
    return [(kind, answer_once()) for kind in progress(kinds)]


def summarise(samples: Sequence[float]) -> dict[str, float | None]:
    """Mean, standard deviation, extremes and percentiles of at least one sample.

    `std` is the sample deviation (n - 1), None for a single sample. Percentiles interpolate
    linearly between neighbours.
    """
    points = np.percentile(samples, PERCENTILES)
    return {
        "mean": statistics.fmean(samples),
        "std": statistics.stdev(samples) if len(samples) > 1 else None,
        "min": min(samples),
        "max": max(samples),
        **{f"p{rank}": float(point) for rank, point in zip(PERCENTILES, points, strict=True)},
    }


def summarise_measured(
    iterations: Sequence[tuple[IterationKind, Answer]],
) -> dict[str, dict[str, float | None]]:
    """`summarise` for every time of the measured answers; cold call and warm-up do not count."""
    measured = [answer.as_seconds() for kind, answer in iterations if kind == "measured"]
    return {name: summarise([times[name] for times in measured]) for name in measured[0]}
