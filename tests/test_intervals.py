"""Bootstrap intervals: known values, coverage, seeds, pairs."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.evaluation.intervals import (
    Interval,
    Measure,
    bootstrap_interval,
    bootstrap_intervals,
    compare_paired,
    divide_sums,
    mean_of,
)


def measure_ratio(errors: list[float], words: list[float]) -> Measure:
    return Measure(np.array([errors, words], dtype=float).T, divide_sums)


def test_mean_of_many_clips_has_the_textbook_interval():
    """Of a mean: 1.96 standard errors to either side."""
    values = np.random.default_rng(0).normal(5, 2, 4000)
    interval = bootstrap_interval(mean_of(values), num_resamples=4000)
    half = 1.96 * values.std() / np.sqrt(len(values))
    assert interval.value == pytest.approx(values.mean(), abs=1e-12)
    # 4,000 resamples know a 2.5 % quantile to about 4 % of the half width
    assert interval.low == pytest.approx(values.mean() - half, abs=0.08 * half)
    assert interval.high == pytest.approx(values.mean() + half, abs=0.08 * half)


@pytest.mark.parametrize("kind", ["share", "rate"])
def test_interval_covers_the_truth(kind):
    """Of 300 sets of clips with a known truth, about 95 % (285) hold it; fewer than 270 has a
    probability below 1e-4 were it 95 %, and the percentile interval of 150 clips is a little short.
    """
    generator = np.random.default_rng(1)
    num_covered = 0
    for seed in range(300):
        words = generator.integers(5, 30, size=150)
        errors = generator.binomial(words, 0.12)
        if kind == "share":
            truth, measure = 0.3, mean_of(generator.random(150) < 0.3)
        else:
            truth, measure = 0.12, measure_ratio(errors, words)  # type: ignore[arg-type]
        interval = bootstrap_interval(measure, seed=seed, num_resamples=400)
        assert interval.low is not None
        assert interval.high is not None
        num_covered += interval.low <= truth <= interval.high
    assert 270 <= num_covered < 300


def test_ratio_is_of_sums_not_a_mean_of_ratios():
    assert measure_ratio([1, 0], [1, 9]).value == 0.1


def test_no_words_at_all_count_as_one():
    assert measure_ratio([2, 1], [0, 0]).value == 3.0


@settings(deadline=None, max_examples=50)
@given(st.lists(st.floats(-5, 5), min_size=1, max_size=20), st.integers(0, 99))
def test_interval_lies_within_the_clips_and_follows_the_seed(values, seed):
    measure = mean_of(np.array(values))
    first = bootstrap_interval(measure, seed=seed, num_resamples=50)
    assert first == bootstrap_interval(measure, seed=seed, num_resamples=50)
    assert first.low is not None
    assert first.high is not None
    slack = 1e-9  # rounding of sums
    assert min(values) - slack <= first.low <= first.high <= max(values) + slack


def test_one_clip_has_no_width():
    assert bootstrap_interval(mean_of(np.array([3.0]))) == Interval(3.0, 3.0, 3.0, 1)


def test_figures_of_one_call_share_their_draws():
    """What is computed together equals what is computed alone."""
    generator = np.random.default_rng(2)
    measures = {"a": mean_of(generator.random(40)), "b": measure_ratio([1] * 40, [3] * 40)}
    together = bootstrap_intervals(measures, seed=7)
    assert together == {
        name: bootstrap_interval(measure, seed=7) for name, measure in measures.items()
    }


def test_large_sets_are_drawn_in_parts(monkeypatch):
    measure = mean_of(np.arange(50.0))
    whole = bootstrap_interval(measure, num_resamples=30)
    monkeypatch.setattr("audiolm.evaluation.intervals._DRAWS_AT_ONCE", 110)  # two at once
    assert bootstrap_interval(measure, num_resamples=30) == whole


# --- pairs ---


def test_pairs_are_surer_than_single_figures():
    generator = np.random.default_rng(3)
    difficulty = generator.random(500) * 10
    a, b = mean_of(difficulty), mean_of(difficulty + 0.1 + generator.normal(0, 0.05, 500))
    difference = compare_paired(a, b)
    assert difference.value == pytest.approx(0.1, abs=0.01)
    assert 0.08 < difference.low < difference.high < 0.12
    assert difference.p_value == pytest.approx(2 / 1001)
    single = bootstrap_interval(a)
    assert single.high is not None
    assert single.high - single.value > 0.1


def test_equal_systems_do_not_differ():
    measure = mean_of(np.arange(10.0))
    difference = compare_paired(measure, measure)
    assert (difference.value, difference.low, difference.high) == (0, 0, 0)
    assert difference.p_value == 1.0


def test_p_value_is_right_when_there_is_no_difference():
    """Of 200 pairs without a difference, about 5 % are below 0.05; above 24 has odds of 1e-4."""
    generator = np.random.default_rng(4)
    pairs = [(generator.random(100), generator.random(100)) for _ in range(200)]
    p_values = [compare_paired(mean_of(a), mean_of(b), num_resamples=300).p_value for a, b in pairs]
    assert sum(p < 0.05 for p in p_values) <= 24
    assert np.mean(p_values) == pytest.approx(0.5, abs=0.1)  # five standard errors


def test_measures_of_other_clips_do_not_mix():
    with pytest.raises(AssertionError, match="different clips"):
        compare_paired(mean_of(np.zeros(3)), mean_of(np.zeros(4)))


def test_select_takes_clips():
    measure = mean_of(np.array([1.0, 2.0, 6.0]))
    assert measure.select(np.array([True, False, True])).value == 3.5
