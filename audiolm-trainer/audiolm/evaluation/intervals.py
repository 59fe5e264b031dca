"""How sure a figure is: bootstrap intervals over clips, and paired differences of two systems.

In: a `Measure`, the per-clip numbers whose sums decide a figure. Out: the figure with the interval
in which it falls for 95 % of the sets of clips drawn, with replacement, from the ones at hand
(percentile bootstrap, Efron and Tibshirani 1993, chapter 13). The draws follow a seed.

Letters: N clips, K numbers per clip, R resamples.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import numpy as np

NUM_RESAMPLES = 1000
LEVEL = 0.95
_DRAWS_AT_ONCE = 4_000_000  # clips drawn before they are counted: bounds the memory


@dataclass(frozen=True)
class Interval:
    """A figure of a set of clips; `low` and `high` are None where no interval is defined."""

    value: float
    low: float | None
    high: float | None
    num_clips: int


@dataclass(frozen=True)
class Measure:
    """A figure that depends on the sums of per-clip numbers alone.

    Attributes:
        rows: (N, K) float64, what each clip adds.
        formula: sums over clips (..., K) -> figure (...).
    """

    rows: np.ndarray
    formula: Callable[[np.ndarray], np.ndarray]

    @property
    def value(self) -> float:
        """The figure of all clips together."""
        return float(self.formula(self.rows.sum(axis=0)))

    def select(self, clips: np.ndarray) -> "Measure":
        """The same of some clips: positions, or a mask."""
        return Measure(self.rows[clips], self.formula)


@dataclass(frozen=True)
class Difference:
    """Figure of B minus figure of A on the same clips.

    `p_value` is two-sided: twice the smaller share of resamples on either side of zero, each share
    with one resample added to it, so it is never 0.
    """

    value: float
    low: float
    high: float
    p_value: float


def mean_of(values: np.ndarray) -> Measure:
    """The mean of one number per clip (N,)."""
    values = np.asarray(values, dtype=np.float64)
    return Measure(np.stack([values, np.ones_like(values)], axis=1), divide_sums)


def divide_sums(sums: np.ndarray) -> np.ndarray:
    """First sum over second, the second taken as at least one."""
    return sums[..., 0] / np.maximum(sums[..., 1], 1)


def bootstrap_interval(
    measure: Measure, *, seed: int = 0, num_resamples: int = NUM_RESAMPLES, level: float = LEVEL
) -> Interval:
    """The figure of `measure` with its interval over clips."""
    options = {"seed": seed, "num_resamples": num_resamples, "level": level}
    return bootstrap_intervals({"": measure}, **options)[""]  # type: ignore[arg-type]


def bootstrap_intervals(
    measures: Mapping[str, Measure],
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> dict[str, Interval]:
    """Intervals of several figures of the same clips, out of the same resamples.

    100,000 clips and 1,000 resamples take some seconds. One clip has an interval of no width.

    Args:
        measures: by name; all of the same N > 0 clips, in the same order.
        seed: of the draws; the same seed and clips give the same interval.
        num_resamples: sets of N clips drawn.
        level: share of the resampled figures inside the interval.
    """
    resampled = _resample(list(measures.values()), seed, num_resamples)
    tail = (1 - level) / 2
    intervals = {}
    for (name, measure), figures in zip(measures.items(), resampled, strict=True):
        low, high = np.quantile(figures, (tail, 1 - tail))
        intervals[name] = Interval(measure.value, float(low), float(high), len(measure.rows))
    return intervals


def compare_paired(
    a: Measure,
    b: Measure,
    *,
    seed: int = 0,
    num_resamples: int = NUM_RESAMPLES,
    level: float = LEVEL,
) -> Difference:
    """B minus A, both resampled with the same clips (paired bootstrap, Koehn 2004)."""
    figures_a, figures_b = _resample([a, b], seed, num_resamples)
    differences = figures_b - figures_a
    tail = (1 - level) / 2
    low, high = np.quantile(differences, (tail, 1 - tail))
    num_sides = min((differences <= 0).sum(), (differences >= 0).sum())
    p_value = min(1.0, 2 * (num_sides + 1) / (num_resamples + 1))
    return Difference(b.value - a.value, float(low), float(high), float(p_value))


def _resample(measures: list[Measure], seed: int, num_resamples: int) -> list[np.ndarray]:
    """Figures of the resampled sets, (R,) per measure."""
    num_clips = {len(measure.rows) for measure in measures}
    assert len(num_clips) == 1, f"measures of different clips: {sorted(num_clips)}"
    rows = np.concatenate([measure.rows for measure in measures], axis=1)  # (N, all K)
    sums = np.concatenate([c @ rows for c in _draw_counts(len(rows), seed, num_resamples)])
    ends = np.cumsum([measure.rows.shape[1] for measure in measures])
    parts = np.split(sums, ends[:-1], axis=1)  # (R, K) each
    return [measure.formula(part) for measure, part in zip(measures, parts, strict=True)]


def _draw_counts(num_clips: int, seed: int, num_resamples: int) -> Iterator[np.ndarray]:
    """How often each clip is in each resampled set: (some R, N), until all R are drawn."""
    generator = np.random.default_rng(seed)
    num_at_once = max(1, _DRAWS_AT_ONCE // num_clips)
    for start in range(0, num_resamples, num_at_once):
        shape = (min(num_at_once, num_resamples - start), num_clips)
        draws = generator.integers(num_clips, size=shape, dtype=np.int32)
        counts = [np.bincount(drawn, minlength=num_clips) for drawn in draws]
        yield np.stack(counts).astype(np.float64)
