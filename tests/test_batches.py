"""Batches: every clip its turn, equal work for every process, and what a batch holds."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from audiolm.data.annotations import Clip
from audiolm.data.batches import (
    AudioTally,
    LengthGroupedBatchSampler,
    clip_seconds,
    collate,
)
from audiolm.data.dataset import AudioDataset, SkippedClip
from audiolm.errors import UserError

GOLDEN = Path(__file__).resolve().parent / "data" / "golden" / "dev"

seconds_lists = st.lists(st.floats(0.0, 40.0), min_size=1, max_size=60)
batch_sizes = st.integers(1, 6)
world_sizes = st.integers(1, 4)


def list_batches(seconds: list[float], batch_size: int, world_size: int, **options: Any) -> list:
    """Batches of every process: [rank][batch][clip]."""
    epoch = options.pop("epoch", 0)
    ranks = []
    for rank in range(world_size):
        sampler = LengthGroupedBatchSampler(
            seconds, batch_size, seed=3, rank=rank, world_size=world_size, **options
        )
        sampler.set_epoch(epoch)
        batches = list(sampler)
        assert len(sampler) == len(batches)
        assert all(1 <= len(batch) <= batch_size for batch in batches)
        ranks.append(batches)
    return ranks


def list_clips(ranks: list) -> list[int]:
    return sorted(clip for batches in ranks for batch in batches for clip in batch)


@settings(deadline=None)
@given(seconds_lists, batch_sizes, world_sizes, st.booleans(), st.integers(0, 3))
def test_training_shows_each_clip_once_and_keeps_processes_in_step(
    seconds: list[float], batch_size: int, world_size: int, group_by_length: bool, epoch: int
) -> None:
    if len(seconds) < world_size:
        with pytest.raises(UserError, match="use fewer processes"):
            list_batches(seconds, batch_size, world_size)
        return
    ranks = list_batches(
        seconds, batch_size, world_size, group_by_length=group_by_length, epoch=epoch
    )
    assert len({len(batches) for batches in ranks}) == 1
    clips = list_clips(ranks)
    assert len(set(clips)) == len(clips)
    # One clip per batch leaves nothing to share out: only then is a remainder left out.
    num_left_out = len(seconds) % world_size if batch_size == 1 else 0
    assert len(clips) == len(seconds) - num_left_out


@settings(deadline=None)
@given(seconds_lists, batch_sizes, world_sizes)
def test_training_can_drop_the_last_batch(
    seconds: list[float], batch_size: int, world_size: int
) -> None:
    num_batches = len(seconds) // (batch_size * world_size)
    if num_batches == 0:
        return
    ranks = list_batches(seconds, batch_size, world_size, drop_last=True)
    assert [len(batches) for batches in ranks] == [num_batches] * world_size
    assert {len(batch) for batches in ranks for batch in batches} == {batch_size}
    assert len(set(list_clips(ranks))) == num_batches * batch_size * world_size


@settings(deadline=None)
@given(seconds_lists, batch_sizes, world_sizes, st.booleans())
def test_defect_16_evaluation_counts_each_clip_exactly_once(
    seconds: list[float], batch_size: int, world_size: int, group_by_length: bool
) -> None:
    ranks = list_batches(
        seconds, batch_size, world_size, shuffle=False, group_by_length=group_by_length
    )
    assert list_clips(ranks) == list(range(len(seconds)))


def test_evaluation_keeps_the_order_or_sorts_by_length() -> None:
    seconds = [1.0, 3.0, 2.0, 5.0, 4.0]
    plain = list_batches(seconds, 2, 2, shuffle=False, group_by_length=False)
    assert plain == [[[0, 1], [4]], [[2, 3]]]
    grouped = list_batches(seconds, 2, 2, shuffle=False)
    assert grouped == [[[3, 4], [0]], [[1, 2]]]
    full = list_batches(seconds, 2, 1, shuffle=False, drop_last=True)
    assert full == [[[3, 4], [1, 2]]]


def test_training_order_depends_on_seed_and_epoch_only() -> None:
    seconds = np.random.default_rng(0).uniform(1, 30, 200).tolist()
    assert list_batches(seconds, 4, 2) == list_batches(seconds, 4, 2)
    assert list_batches(seconds, 4, 2) != list_batches(seconds, 4, 2, epoch=1)
    other = LengthGroupedBatchSampler(seconds, 4, seed=4, rank=0, world_size=2)
    assert list(other) != list_batches(seconds, 4, 2)[0]


def compute_padding_share(seconds: list[float], batches: list[list[int]]) -> float:
    lengths = np.asarray(seconds)
    padded = sum(lengths[batch].max() * len(batch) for batch in batches)
    return 1 - lengths.sum() / padded


def test_grouping_by_length_saves_padding() -> None:
    seconds = np.random.default_rng(0).uniform(1, 30, 3000).tolist()
    (grouped,) = list_batches(seconds, 8, 1)
    (shuffled,) = list_batches(seconds, 8, 1, group_by_length=False)
    assert compute_padding_share(seconds, grouped) < 0.05
    assert compute_padding_share(seconds, shuffled) > 0.30  # uniform lengths: 1 - 15.5 / 26.8


def test_processes_get_equally_long_clips() -> None:
    seconds = np.random.default_rng(0).uniform(1, 30, 800).tolist()
    ranks = list_batches(seconds, 4, 2)
    longest = [np.array([max(seconds[clip] for clip in batch) for batch in r]) for r in ranks]
    # Neighbours of 400 sorted clips are 29 s / 400 apart on average; 2 s is far from it.
    assert np.abs(longest[0] - longest[1]).max() < 2.0


def test_epochs_leave_out_other_clips() -> None:
    left_out = {
        clip
        for epoch in range(40)
        for clip in set(range(5)) - set(list_clips(list_batches([1.0] * 5, 1, 2, epoch=epoch)))
    }
    assert left_out == set(range(5))


@pytest.mark.parametrize(
    ("num_clips", "batch_size", "options"),
    [(4, 0, {}), (0, 2, {}), (0, 2, {"shuffle": False}), (3, 4, {"drop_last": True})],
)
def test_impossible_batches_are_refused(
    num_clips: int, batch_size: int, options: dict[str, bool]
) -> None:
    with pytest.raises(UserError, match=r"batch size \d"):
        LengthGroupedBatchSampler([1.0] * num_clips, batch_size, seed=0, **options)


def make_item(num_samples: int, index: int) -> dict[str, Any]:
    return {
        "spectrogram": torch.full((4, 3000), float(index)),
        "raw_wav": torch.ones(num_samples),
        "was_truncated": index == 2,
        "text": f"text {index}",
        "references": [f"text {index}", "other"],
        "task": "asr",
        "Q": "",
        "id": f"{index}.wav",
        "testset_id": None,
        "index": index,
    }


def test_collate_pads_and_masks() -> None:
    skipped = SkippedClip(1, "1.wav", "no such file")
    samples = collate([make_item(5, 0), skipped, make_item(3, 2)])
    assert samples["spectrogram"].shape == (2, 4, 3000)
    assert samples["spectrogram"][:, 0, 0].tolist() == [0.0, 2.0]
    assert samples["raw_wav"].tolist() == [[1, 1, 1, 1, 1], [1, 1, 1, 0, 0]]
    assert samples["padding_mask"].tolist() == [[False] * 5, [False] * 3 + [True] * 2]
    assert samples["text"] == ["text 0", "text 2"]
    assert samples["references"] == [["text 0", "other"], ["text 2", "other"]]
    assert samples["index"] == [0, 2]
    assert samples["skipped"] == [skipped]


def test_collate_of_skipped_clips_only() -> None:
    samples = collate([SkippedClip(1, "1.wav", "no such file")])
    assert samples["id"] == []
    assert [samples[key].shape[0] for key in ("spectrogram", "raw_wav", "padding_mask")] == [0] * 3
    assert len(samples["skipped"]) == 1


def test_tally_counts_and_lists() -> None:
    tally = AudioTally()
    tally.add(collate([make_item(5, 0), make_item(5, 2)]))
    assert tally.describe() == "2 clips, 1 cut to 30 s, 0 skipped"
    tally.add(collate([make_item(5, 0), SkippedClip(9, "9.wav", "no such file")]))
    tally.add(collate([SkippedClip(4, "4.wav", "empty")]))
    assert tally.describe() == "3 clips, 1 cut to 30 s, 2 skipped: 9.wav (no such file), ..."
    assert [clip.index for clip in tally.skipped] == [9, 4]


def test_clip_seconds_from_annotation_and_headers(tmp_path: Path) -> None:
    soundfile.write(tmp_path / "a.wav", np.zeros(24_000), 16_000)
    soundfile.write(tmp_path / "b.flac", np.zeros((44_100, 2)), 44_100)
    clips = [
        Clip(0, "/a.wav"),
        Clip(1, "b.flac", expand_wav=("a.wav",)),
        Clip(2, "none.wav", seconds=12.5),
        Clip(3, "none.wav"),
    ]
    assert clip_seconds(clips, tmp_path) == pytest.approx([1.5, 2.6, 12.5, 0.0])


def test_batch_of_golden_clips_equals_its_singles() -> None:
    clips = [Clip(index, name) for index, name in enumerate(("a.wav", "b.wav", "d44.wav"))]

    def first_sample(samples: np.ndarray) -> torch.Tensor:
        return torch.full((2, 3000), float(samples[100]))

    dataset = AudioDataset(clips, GOLDEN / "audio", first_sample)
    batch = collate([dataset[index] for index in range(3)])
    for row in range(3):
        single = collate([dataset[row]])
        num_samples = single["raw_wav"].shape[1]
        assert torch.equal(batch["raw_wav"][row, :num_samples], single["raw_wav"][0])
        assert not batch["raw_wav"][row, num_samples:].any()
        assert int((~batch["padding_mask"][row]).sum()) == num_samples
        assert torch.equal(batch["spectrogram"][row], single["spectrogram"][0])
