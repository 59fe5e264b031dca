"""Time what a device does, phase by phase, and describe the samples.

In: a device, and marks at the ends of phases. Out: seconds per phase and statistics over repeated
calls. On a CPU a mark is a clock reading. Work on a GPU runs behind the program's back, so there a
mark is an event in the queue of work, and the program waits for the device only at both ends.
"""

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import torch

from audiolm.evaluation.intervals import bootstrap_interval, mean_of

IterationKind = Literal["cold", "warmup", "measured"]
PERCENTILES = (50, 90, 99)
# Warm-up is over when the medians of the last two groups of answers differ by less than this.
STABLE_GROUP = 5
STABLE_DIFFERENCE = 0.05
MAX_WARMUP_FACTOR = 5  # times the least number of warm-up answers


def read_clock(device: torch.device) -> float:
    """Seconds of a steady clock, once everything queued on the device is done."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


class PhaseClock:
    """Splits one call into named phases that follow each other without a gap.

    A phase that is ended twice gets both stretches of time. On a GPU the phases are those of its
    queue: what the program does meanwhile costs nothing unless the device waits for it.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._names: list[str] = []
        self._tokens: list[Any] = []
        self._started = read_clock(device)
        self._marks: list[Any] = [self._mark()]
        self._wall_seconds: float | None = None

    def end_phase(self, name: str) -> None:
        """Close the phase that began with the clock or with the last mark."""
        self._marks.append(self._mark())
        self._names.append(name)

    def end_token(self) -> None:
        """A further token is there; the first gap began with the last mark."""
        if not self._tokens:
            self._tokens.append(self._marks[-1])
        self._tokens.append(self._mark())

    def stop(self) -> None:
        """Wait for the device; `wall_seconds` is then known."""
        self._wall_seconds = read_clock(self._device) - self._started

    @property
    def wall_seconds(self) -> float:
        """From the start to `stop` by the program's own clock, whatever the marks say."""
        assert self._wall_seconds is not None, "stop() first"
        return self._wall_seconds

    @property
    def phase_seconds(self) -> dict[str, float]:
        """Length of each phase, in order."""
        lengths: dict[str, float] = {}
        for place, name in enumerate(self._names):
            seconds = self._between(self._marks[place], self._marks[place + 1])
            lengths[name] = lengths.get(name, 0.0) + seconds
        return lengths

    @property
    def token_seconds(self) -> list[float]:
        """Gaps between tokens, the first one's end being where their phase begins."""
        pairs = zip(self._tokens, self._tokens[1:], strict=False)
        return [self._between(first, second) for first, second in pairs]

    def seconds_until(self, phase: str) -> float:
        """From the start to the last end of `phase`."""
        place = len(self._names) - 1 - self._names[::-1].index(phase)
        return self._between(self._marks[0], self._marks[place + 1])

    def _mark(self) -> Any:
        if self._device.type != "cuda":
            return time.perf_counter()
        event = torch.cuda.Event(enable_timing=True)
        event.record(torch.cuda.current_stream(self._device))
        return event

    def _between(self, first: Any, second: Any) -> float:
        if self._device.type != "cuda":
            return second - first
        second.synchronize()
        return first.elapsed_time(second) / 1000


@dataclass(frozen=True)
class Answer:
    """One timed answer of `num_new_tokens` tokens per clip.

    Attributes:
        phase_seconds: the phases in order.
        ttft_seconds: waveform in memory to first token id (time to first token).
        total_seconds: waveform in memory to last token id.
        num_new_tokens: N.
        wall_seconds: everything, file to text, by the program's own clock; None: not taken.
        token_seconds: the N - 1 gaps between tokens (inter-token latency).
    """

    phase_seconds: dict[str, float]
    ttft_seconds: float
    total_seconds: float
    num_new_tokens: int
    wall_seconds: float | None = None
    token_seconds: list[float] = field(default_factory=list)

    @property
    def tpot_seconds(self) -> float:
        """Time per output token after the first one."""
        return (self.total_seconds - self.ttft_seconds) / (self.num_new_tokens - 1)

    def as_seconds(self) -> dict[str, float]:
        """Every time of this answer by name, without the gaps between tokens."""
        phases = {f"{name}_seconds": seconds for name, seconds in self.phase_seconds.items()}
        wall = {} if self.wall_seconds is None else {"wall_seconds": self.wall_seconds}
        return {
            **phases,
            "ttft_seconds": self.ttft_seconds,
            "tpot_seconds": self.tpot_seconds,
            "total_seconds": self.total_seconds,
            **wall,
        }


@dataclass(frozen=True)
class Warmup:
    """How long to warm up, and when it was enough.

    At least `num_least` answers; then until the medians of the last two groups of five differ by
    less than 5 %, but at most five times `num_least`. Zero: no warm-up at all.
    """

    num_least: int

    @property
    def num_most(self) -> int:
        """Answers after which the measurement begins in any case."""
        return MAX_WARMUP_FACTOR * self.num_least

    def is_over(self, seconds: Sequence[float]) -> bool:
        """Whether the next answer counts, after warm-up answers of these lengths."""
        if len(seconds) < self.num_least:
            return False
        return len(seconds) >= self.num_most or is_stable(seconds)


def is_stable(seconds: Sequence[float]) -> bool:
    """Whether the last five took as long as the five before them, in the median, within 5 %."""
    if len(seconds) < 2 * STABLE_GROUP:
        return False
    last = statistics.median(seconds[-STABLE_GROUP:])
    before = statistics.median(seconds[-2 * STABLE_GROUP : -STABLE_GROUP])
    return abs(last - before) <= STABLE_DIFFERENCE * before


def repeat_answers(
    answer_once: Callable[[], Answer],
    warmup: Warmup,
    num_it: int,
    progress: Callable[[IterationKind], None] = lambda kind: None,
) -> list[tuple[IterationKind, Answer]]:
    """One cold call, then the warm-up, then the `num_it` answers that count.

    `progress` is told the kind of each answer that is done.
    """
    iterations: list[tuple[IterationKind, Answer]] = []

    def add(kind: IterationKind) -> float:
        answer = answer_once()
        iterations.append((kind, answer))
        progress(kind)
        return answer.total_seconds

    add("cold")
    warm: list[float] = []
    while not warmup.is_over(warm):
        warm.append(add("warmup"))
    for _ in range(num_it):
        add("measured")
    return iterations


def summarise(samples: Sequence[float]) -> dict[str, float | None]:
    """Mean with its 95 % bootstrap interval, deviation, extremes, percentiles.

    There is at least one sample. `std` is the sample deviation (n - 1), None for a single sample.
    Percentiles interpolate linearly between neighbours. `mean_low` and `mean_high` say how far the
    mean of as many answers of this process would wander; not what another day or machine would
    give.
    """
    points = np.percentile(samples, PERCENTILES)
    interval = bootstrap_interval(mean_of(np.asarray(samples)))
    return {
        "mean": statistics.fmean(samples),
        "mean_low": interval.low,
        "mean_high": interval.high,
        "std": statistics.stdev(samples) if len(samples) > 1 else None,
        "min": min(samples),
        "max": max(samples),
        **{f"p{rank}": float(point) for rank, point in zip(PERCENTILES, points, strict=True)},
    }


def select_measured(iterations: Sequence[tuple[IterationKind, Answer]]) -> list[Answer]:
    """The answers that count: neither the cold call nor the warm-up."""
    return [answer for kind, answer in iterations if kind == "measured"]


def summarise_measured(
    iterations: Sequence[tuple[IterationKind, Answer]],
) -> dict[str, dict[str, float | None]]:
    """`summarise` for every time of the measured answers, `itl_seconds` over all their gaps."""
    answers = select_measured(iterations)
    measured = [answer.as_seconds() for answer in answers]
    summary = {name: summarise([times[name] for times in measured]) for name in measured[0]}
    gaps = [gap for answer in answers for gap in answer.token_seconds]
    return {**summary, "itl_seconds": summarise(gaps)} if gaps else summary
