"""Order of clips: the same steps however they are split, every clip its turn, nothing too big."""

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.data.sampler import (
    BatchPlan,
    EvaluationBatchSampler,
    StepBatchSampler,
    plan_batches,
)
from audiolm.errors import UserError

seconds_lists = st.lists(st.floats(0.0, 40.0), min_size=1, max_size=80)
batch_sizes = st.integers(1, 6)
world_sizes = st.integers(1, 4)
accumulations = st.integers(1, 4)
epochs = st.integers(0, 3)

Steps = list[list[list[list[int]]]]  # [step][micro-batch][rank][clip]


def list_steps(
    seconds: list[float],
    step_size: int,
    num_micro_batches: int,
    world_size: int,
    *,
    epoch: int = 0,
    start: int = 0,
    **options: Any,
) -> Steps:
    """An epoch as every process sees it; all have the same number of steps and micro-batches."""
    ranks = []
    for rank in range(world_size):
        sampler = StepBatchSampler(
            seconds,
            step_size=step_size,
            num_micro_batches=num_micro_batches,
            rank=rank,
            world_size=world_size,
            **{"seed": 3, **options},
        )
        sampler.set_epoch(epoch)
        sampler.set_start(start)
        batches = list(sampler)
        assert len(batches) == len(sampler)
        assert len(batches) == (sampler.num_steps(epoch) - start) * num_micro_batches
        ranks.append(batches)
    micro_batches = [list(parts) for parts in zip(*ranks, strict=True)]
    return [
        micro_batches[first : first + num_micro_batches]
        for first in range(0, len(micro_batches), num_micro_batches)
    ]


def merge(step: list[list[list[int]]]) -> list[int]:
    return sorted(clip for micro_batch in step for part in micro_batch for clip in part)


def merge_all(steps: Steps) -> list[int]:
    return sorted(clip for step in steps for clip in merge(step))


# The same steps, however they are split


@pytest.mark.parametrize("share_seconds", [0.0, 45.0])
def test_eight_clips_are_the_same_eight_in_every_split(share_seconds: float) -> None:
    seconds = np.random.default_rng(0).uniform(1, 30, 100).tolist()
    # (micro-batches, processes): 8 x 1, 1 x 8 accumulated, 4 x 2 processes, 2 x 2 x 2, ...
    splits = [(1, 1), (8, 1), (1, 2), (2, 2), (4, 2), (2, 4), (1, 8)]
    options = {"share_seconds": share_seconds, "num_shares": 4}
    merged = [
        [merge(step) for step in list_steps(seconds, 8, *split, epoch=2, **options)]
        for split in splits
    ]
    assert all(steps == merged[0] for steps in merged[1:])
    assert share_seconds or {len(step) for step in merged[0]} == {8, 4}


@settings(deadline=None)
@given(
    seconds_lists, batch_sizes, accumulations, world_sizes, epochs, st.booleans(),
    st.sampled_from([0.0, 20.0, 60.0]),
)  # fmt: skip
def test_steps_do_not_depend_on_the_split(
    seconds: list[float],
    batch_size: int,
    accumulation: int,
    world_size: int,
    epoch: int,
    group_by_length: bool,
    share_seconds: float,
) -> None:
    step_size = batch_size * accumulation * world_size
    options = {
        "epoch": epoch,
        "group_by_length": group_by_length,
        "share_seconds": share_seconds,
        "num_shares": accumulation * world_size,
    }
    split = list_steps(seconds, step_size, accumulation, world_size, **options)
    whole = list_steps(seconds, step_size, 1, 1, **options)
    other = list_steps(seconds, step_size, world_size, accumulation, **options)
    assert [merge(step) for step in split] == [merge(step) for step in whole]
    assert [merge(step) for step in split] == [merge(step) for step in other]
    assert merge_all(split) == list(range(len(seconds)))  # every clip once, whatever divides
    for step in split:
        parts = [part for micro_batch in step for part in micro_batch]
        assert max(len(part) for part in parts) <= batch_size
        assert len(step) == accumulation
        if len(merge(step)) == step_size:
            assert {len(part) for part in parts} == {batch_size}


def test_micro_batches_are_contiguous_pieces_and_processes_alternate() -> None:
    seconds = [float(clip) for clip in range(1, 9)]
    (step,) = list_steps(seconds, 8, 2, 2)
    assert step == [[[7, 5], [6, 4]], [[3, 1], [2, 0]]]


def test_a_small_step_is_shared_evenly() -> None:
    """Nobody gets a second clip before everybody has one; the rest of the parts are empty."""
    (step,) = list_steps([3.0, 2.0, 1.0], 16, 4, 2)
    assert merge(step) == [0, 1, 2]
    parts = [[clip for micro_batch in step for clip in micro_batch[rank]] for rank in range(2)]
    assert [len(part) for part in parts] == [2, 1]


def test_fewer_clips_than_processes() -> None:
    (step,) = list_steps([1.0], 4, 1, 4)
    assert step == [[[0], [], [], []]]


# Order


def test_order_depends_on_seed_and_epoch_only() -> None:
    seconds = np.random.default_rng(0).uniform(1, 30, 200).tolist()
    first = list_steps(seconds, 8, 2, 2)
    assert first == list_steps(seconds, 8, 2, 2)
    assert first != list_steps(seconds, 8, 2, 2, epoch=1)
    assert first != list_steps(seconds, 8, 2, 2, seed=4)


def compute_padding(seconds: list[float], steps: Steps) -> float:
    lengths = np.asarray(seconds)
    parts = [part for step in steps for micro_batch in step for part in micro_batch if part]
    padded = sum(lengths[part].max() * len(part) for part in parts)
    return 1 - lengths.sum() / padded


def test_grouping_by_length_saves_padding() -> None:
    seconds = np.random.default_rng(0).uniform(1, 30, 3000).tolist()
    grouped = list_steps(seconds, 8, 1, 1)
    shuffled = list_steps(seconds, 8, 1, 1, group_by_length=False)
    assert compute_padding(seconds, grouped) < 0.05
    assert compute_padding(seconds, shuffled) > 0.30  # uniform lengths: 1 - 15.5 / 26.8
    # Even without pools the micro-batches of one step are sorted by length.
    assert compute_padding(seconds, list_steps(seconds, 64, 8, 1, group_by_length=False)) < 0.12


def test_processes_get_equally_long_clips() -> None:
    seconds = np.random.default_rng(0).uniform(1, 30, 800).tolist()
    steps = list_steps(seconds, 8, 1, 2)
    longest = np.array(
        [[max(seconds[clip] for clip in part) for part in step[0]] for step in steps]
    )
    # Neighbours of 400 sorted clips are 29 s / 400 apart on average; 2 s is far from it.
    assert np.abs(longest[:, 0] - longest[:, 1]).max() < 2.0


def test_no_clip_is_refused() -> None:
    with pytest.raises(UserError, match="no clip"):
        StepBatchSampler([], step_size=4, seed=0)


# Resuming


@settings(deadline=None)
@given(
    seconds_lists, batch_sizes, accumulations, world_sizes, epochs, st.data(),
    st.sampled_from([0.0, 30.0]),
)  # fmt: skip
def test_resume_in_the_middle_on_another_number_of_processes(
    seconds: list[float],
    batch_size: int,
    accumulation: int,
    world_size: int,
    epoch: int,
    data: st.DataObject,
    share_seconds: float,
) -> None:
    """Before on one split, after on another: each clip of the epoch exactly once."""
    before = plan_batches(batch_size, accumulation, world_size)
    divisors = [n for n in range(1, 9) if before.clips_per_step % n == 0]
    other_size = data.draw(st.sampled_from(divisors))
    after = plan_batches(batch_size, accumulation, other_size, before.clips_per_step)
    assert after.clips_per_step == before.clips_per_step
    options = {
        "epoch": epoch,
        "share_seconds": share_seconds,
        "num_shares": before.clips_per_step // batch_size,
    }
    size = before.clips_per_step
    straight = list_steps(seconds, size, before.num_micro_batches, world_size, **options)
    start = data.draw(st.integers(0, len(straight)))
    rest = list_steps(seconds, size, after.num_micro_batches, other_size, start=start, **options)
    assert [merge(step) for step in rest] == [merge(step) for step in straight[start:]]
    assert sorted(merge_all(straight[:start]) + merge_all(rest)) == list(range(len(seconds)))
    parts = [part for step in rest for micro_batch in step for part in micro_batch]
    assert all(len(part) <= after.clips_per_process <= batch_size for part in parts)


def test_start_holds_for_one_epoch() -> None:
    sampler = StepBatchSampler([1.0] * 10, step_size=2, seed=0)
    sampler.set_start(4)
    assert len(list(sampler)) == 1
    sampler.set_epoch(1)
    assert len(list(sampler)) == 5


def test_a_step_of_the_run_is_located_in_its_epoch() -> None:
    seconds = np.random.default_rng(0).uniform(1, 30, 300).tolist()
    options: dict[str, Any] = {"step_size": 2, "seed": 1, "share_seconds": 40.0}
    sampler = StepBatchSampler(seconds, **options)
    places = [(epoch, step) for epoch in range(3) for step in range(sampler.num_steps(epoch))]
    fresh = StepBatchSampler(seconds, **options)
    assert [fresh.locate(step) for step in range(len(places))] == places


# A step's split


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ((8, 2, 4), BatchPlan(64, 8, 2)),
        ((8, 3, 1, 24), BatchPlan(24, 8, 3)),
        ((8, 1, 1, 24), BatchPlan(24, 8, 3)),  # three processes became one
        ((8, 1, 2, 24), BatchPlan(24, 6, 2)),  # 12 clips each: the batch gives way
        ((8, 1, 4, 24), BatchPlan(24, 6, 1)),
        ((8, 1, 6, 24), BatchPlan(24, 4, 1)),
        ((5, 1, 1, 7), BatchPlan(7, 1, 7)),
    ],
)
def test_plan_of_batches(arguments: tuple[int, ...], expected: BatchPlan) -> None:
    assert plan_batches(*arguments) == expected


def test_processes_that_cannot_share_a_step_are_told_which_can() -> None:
    with pytest.raises(UserError) as caught:
        plan_batches(8, 1, 5, 24)
    assert str(caught.value) == (
        "the run's step has 24 clips: 5 processes cannot share them; "
        "use a number of processes that divides 24, e.g. 4 or 6"
    )
    with pytest.raises(UserError, match="divides 4, e.g. 4$"):
        plan_batches(8, 1, 5, 4)


# Duration


@settings(deadline=None)
@given(
    st.lists(st.floats(0.5, 30.0), min_size=1, max_size=120),
    st.floats(1.0, 120.0), batch_sizes, accumulations, world_sizes, epochs,
)  # fmt: skip
def test_padded_seconds_stay_below_the_limit(
    seconds: list[float],
    share_seconds: float,
    batch_size: int,
    accumulation: int,
    world_size: int,
    epoch: int,
) -> None:
    num_shares = accumulation * world_size
    steps = list_steps(
        seconds,
        batch_size * num_shares,
        accumulation,
        world_size,
        epoch=epoch,
        share_seconds=share_seconds,
        num_shares=num_shares,
    )
    assert merge_all(steps) == list(range(len(seconds)))
    for step in steps:
        for part in (part for micro_batch in step for part in micro_batch if part):
            padded = max(seconds[clip] for clip in part) * len(part)
            assert padded <= share_seconds or len(part) == 1


def test_limit_is_made_use_of() -> None:
    """60 s hold two clips of 30 s and, with batch size 32, thirty of 2 s."""
    seconds = [30.0] * 40 + [2.0] * 300
    steps = list_steps(seconds, 32 * 2, 1, 2, share_seconds=60.0, num_shares=2)
    sizes = [len(part) for step in steps for part in step[0] if len(step[0][1]) == len(part)]
    assert sizes.count(2) >= 18  # of 20
    assert sizes.count(30) >= 6  # of 10: each pool may end in smaller steps
    assert max(sizes) == 30


def test_padding_share_falls_with_the_limit() -> None:
    seconds = np.random.default_rng(0).gamma(2.0, 4.0, 4000).clip(1, 30).tolist()
    by_time = list_steps(seconds, 64, 1, 1, share_seconds=120.0, num_shares=1)
    assert compute_padding(seconds, by_time) < 0.05


# Evaluation


def list_evaluation(seconds: list[float], batch_size: int, world_size: int, **options: Any) -> list:
    """Batches of every process: [rank][batch][clip]."""
    ranks = []
    for rank in range(world_size):
        sampler = EvaluationBatchSampler(
            seconds, batch_size, rank=rank, world_size=world_size, **options
        )
        batches = list(sampler)
        assert len(sampler) == len(batches)
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        ranks.append(batches)
    return ranks


@settings(deadline=None)
@given(seconds_lists, batch_sizes, world_sizes, st.booleans())
def test_defect_16_evaluation_counts_each_clip_exactly_once(
    seconds: list[float], batch_size: int, world_size: int, group_by_length: bool
) -> None:
    ranks = list_evaluation(seconds, batch_size, world_size, group_by_length=group_by_length)
    clips = sorted(clip for batches in ranks for batch in batches for clip in batch)
    assert clips == list(range(len(seconds)))


def test_evaluation_keeps_the_order_or_sorts_by_length() -> None:
    seconds = [1.0, 3.0, 2.0, 5.0, 4.0]
    plain = list_evaluation(seconds, 2, 2, group_by_length=False)
    assert plain == [[[0, 1], [4]], [[2, 3]]]
    assert list_evaluation(seconds, 2, 2) == [[[3, 4], [0]], [[1, 2]]]


@pytest.mark.parametrize(("num_clips", "batch_size"), [(4, 0), (0, 2)])
def test_impossible_evaluation_is_refused(num_clips: int, batch_size: int) -> None:
    with pytest.raises(UserError, match="batch size 0|no clip"):
        EvaluationBatchSampler([1.0] * num_clips, batch_size)
