"""What a batch holds, and what is known of its clips before and after."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audiolm.data.annotations import Clip
from audiolm.data.batches import AudioTally, clip_seconds, collate, padding_share
from audiolm.data.dataset import AudioDataset, SkippedClip

GOLDEN = Path(__file__).resolve().parent / "data" / "golden" / "dev"


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
        "draw_seed": f"0/0/{index}",
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
    assert samples["draw_seed"] == ["0/0/0", "0/0/2"]
    assert samples["skipped"] == [skipped]


def test_collate_of_skipped_clips_only() -> None:
    samples = collate([SkippedClip(1, "1.wav", "no such file")])
    assert samples["id"] == []
    assert [samples[key].shape[0] for key in ("spectrogram", "raw_wav", "padding_mask")] == [0] * 3
    assert len(samples["skipped"]) == 1


def test_padding_share() -> None:
    assert padding_share(collate([make_item(5, 0), make_item(3, 1)])) == pytest.approx(2 / 10)
    assert padding_share(collate([make_item(5, 0)])) == 0.0
    assert padding_share(collate([])) == 0.0


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
    expected = [1.5, 2.6, 12.5, 0.0]
    assert clip_seconds(clips, tmp_path) == pytest.approx(expected)
    assert clip_seconds(clips * 2, tmp_path) == pytest.approx(expected * 2)


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
