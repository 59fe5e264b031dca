"""What happened between two log lines: loss, speed, waiting, padding, memory."""

import resource
import sys
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from audiolm.audio.loading import SAMPLE_RATE_HZ

ANSWERS = ("loss_sum", "correct", "num_tokens")  # per task, in this order
MIB = 2**20


@dataclass
class Meter:
    """Counts of this process since the last log line; `summary` reads the sum over processes.

    `by_task` holds summed loss in nats, correct and all answer tokens per task; `distil_sum` is the
    summed divergence from a teacher.
    """

    num_clips: float = 0
    audio_seconds: float = 0.0
    padded_seconds: float = 0.0
    wait_seconds: float = 0.0
    seconds: float = 0.0
    by_task: dict[str, list[float]] = field(default_factory=dict)
    grad_norm: float = 0.0
    distil_sum: float = 0.0

    def add(self, samples: Mapping[str, Any], output: Mapping[str, Any]) -> None:
        """Count one micro-batch and what the model said of it (`forward(..., verbose=True)`)."""
        is_padding = samples["padding_mask"]
        self.num_clips += len(samples["text"])
        self.audio_seconds += int((~is_padding).sum()) / SAMPLE_RATE_HZ
        self.padded_seconds += is_padding.numel() / SAMPLE_RATE_HZ
        self.distil_sum += output["distil_sum"]
        count_answers(self.by_task, samples["task"], output)

    def waiting(self, batches: Iterable[Any]) -> Iterator[Any]:
        """The batches, with the time that they were waited for counted."""
        iterator = iter(batches)
        while True:
            started = time.perf_counter()
            try:
                batch = next(iterator)
            except StopIteration:
                return
            self.wait_seconds += time.perf_counter() - started
            yield batch

    def totals(self, tasks: Sequence[str]) -> list[float]:
        """Everything that adds up over processes, in a fixed order; see `summarise`."""
        answers = [x for task in tasks for x in self.by_task.get(task, (0.0, 0.0, 0.0))]
        return [
            self.num_clips, self.audio_seconds, self.padded_seconds,
            self.wait_seconds, self.seconds, self.distil_sum, *answers,
        ]  # fmt: skip


def count_answers(
    by_task: dict[str, list[float]], tasks: Sequence[str], output: Mapping[str, Any]
) -> None:
    """Add a batch's per-row loss sums, correct and all answer tokens to each row's task."""
    rows = zip(
        tasks,
        output["row_losses"].tolist(),
        output["row_correct"].tolist(),
        output["row_totals"].tolist(),
        strict=True,
    )
    for task, *numbers in rows:
        sums = by_task.setdefault(task, [0.0, 0.0, 0.0])
        for position, number in enumerate(numbers):
            sums[position] += number


def summarise(totals: Sequence[float], tasks: Sequence[str], num_processes: int) -> dict[str, Any]:
    """Loss per token, rates per second of wall time and shares, of summed `Meter.totals`."""
    num_clips, audio_seconds, padded_seconds, wait_seconds, seconds, distil_sum, *answers = totals
    wall = max(seconds / num_processes, 1e-9)
    by_task = {task: answers[3 * i : 3 * i + 3] for i, task in enumerate(tasks)}
    return {
        **summarise_answers(by_task),
        "distil_loss": distil_sum / max(sum(answers[2::3]), 1),
        "clips_per_second": num_clips / wall,
        "audio_seconds_per_second": audio_seconds / wall,
        "data_wait_share": wait_seconds / max(seconds, 1e-9),
        "padding_share": 1 - audio_seconds / padded_seconds if padded_seconds else 0.0,
        "memory_gib": measure_memory_gib(),
    }


def summarise_answers(by_task: Mapping[str, Sequence[float]]) -> dict[str, Any]:
    """Mean loss in nats and accuracy per answer token, over all tasks and of each."""

    def means(sums: Sequence[float]) -> dict[str, float]:
        loss_sum, correct, num_tokens = sums
        return {
            "loss": loss_sum / max(num_tokens, 1),
            "token_accuracy": correct / max(num_tokens, 1),
        }

    total = [sum(sums[i] for sums in by_task.values()) for i in range(len(ANSWERS))]
    tasks = {task: means(sums) for task, sums in by_task.items() if sums[2]}
    return {**means(total), "tasks": tasks}


def describe_progress(values: Mapping[str, Any]) -> str:
    """A few words for the progress bar."""
    return (
        f"loss {values['loss']:.3f}, rate {values['learning_rate']:.1e}, "
        f"{values['clips_per_second']:.1f} clips/s, {values['audio_seconds_per_second']:.0f}x, "
        f"wait {values['data_wait_share']:.0%}, {values['memory_gib']:.1f} GiB"
    )


def measure_memory_gib() -> float:
    """Peak so far: of the GPU's allocator, or of the process where there is no GPU."""
    if torch.cuda.is_available():
        return torch.cuda.max_memory_allocated() / 1024 / MIB
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # KiB on Linux, bytes on macOS
    return peak / (1024 * MIB if sys.platform == "darwin" else MIB)
