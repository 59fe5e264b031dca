"""Clips to items: what an item holds, and what happens to audio that cannot be used."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audiolm.audio.features import LogMel
from audiolm.audio.loading import AudioError
from audiolm.data.annotations import Clip, load_annotation
from audiolm.data.batches import build_loader
from audiolm.data.dataset import AudioDataset, ClipError, SkippedClip
from audiolm.data.sampler import EvaluationBatchSampler
from audiolm.errors import UserError

GOLDEN = Path(__file__).resolve().parent / "data" / "golden" / "dev"


def no_log_mel(samples: np.ndarray) -> torch.Tensor:
    """Stands in for the log-mel where a test does not look at it."""
    return torch.full((4, 3000), float(samples.shape[0]))


@pytest.fixture
def write_tone(tmp_path: Path) -> Callable[..., Path]:
    def write(name: str, seconds: float, rate_hz: int = 16_000) -> Path:
        path = tmp_path / name
        times = np.arange(round(seconds * rate_hz)) / rate_hz
        soundfile.write(path, 0.1 * np.sin(2 * np.pi * 440 * times), rate_hz)
        return path

    return write


def test_item_of_a_golden_clip() -> None:
    clips = load_annotation(GOLDEN / "annotation_mixed.json")
    dataset = AudioDataset(clips, GOLDEN / "audio", LogMel(80))
    item = dataset[1]
    assert isinstance(item, dict)
    source, _ = soundfile.read(GOLDEN / "audio" / "b.wav", dtype="float32")
    assert torch.equal(item["raw_wav"], torch.from_numpy(source))
    assert item["spectrogram"].shape == (80, 3000)
    assert item["spectrogram"].dtype == item["raw_wav"].dtype == torch.float32
    expected = {
        "text": clips[1].texts[0],
        "references": [clips[1].texts[0]],
        "task": "QA",
        "Q": "How many people talk in the clip?",
        "id": "b.wav",
        "testset_id": "test0001",
        "index": 1,
        "was_truncated": False,
    }
    assert {key: item[key] for key in expected} == expected


def test_defect_02_other_sample_rates_load(write_tone: Callable[..., Path], tmp_path: Path) -> None:
    write_tone("a.wav", 2.0, rate_hz=44_100)
    item = AudioDataset([Clip(0, "a.wav")], tmp_path, LogMel(80))[0]
    assert isinstance(item, dict)
    assert item["raw_wav"].dtype == torch.float32
    assert item["raw_wav"].shape == (32_000,)
    assert item["spectrogram"].dtype == torch.float32


def test_defect_03_unreadable_clip_is_never_replaced(
    write_tone: Callable[..., Path], tmp_path: Path
) -> None:
    write_tone("good.wav", 1.5)
    (tmp_path / "bad.wav").write_bytes(b"this is not audio")
    clips = [Clip(0, "good.wav", ("good text",)), Clip(1, "bad.wav", ("bad text",))]

    skipping = AudioDataset(clips, tmp_path, no_log_mel, bad_audio="skip")
    skipped = skipping[1]
    assert isinstance(skipped, SkippedClip)
    assert (skipped.index, skipped.id) == (1, "bad.wav")
    assert str(tmp_path / "bad.wav") in skipped.reason
    good = skipping[0]
    assert isinstance(good, dict)
    assert good["text"] == "good text"

    with pytest.raises(ClipError, match=r"annotation\[1\] \(bad\.wav\).*bad_audio: skip") as caught:
        AudioDataset(clips, tmp_path, no_log_mel)[1]
    assert isinstance(caught.value.__cause__, AudioError)


def test_missing_file_names_entry_and_resolved_path(tmp_path: Path) -> None:
    dataset = AudioDataset([Clip(7, "/x/none.wav")], tmp_path, no_log_mel)
    with pytest.raises(ClipError) as caught:
        dataset[0]
    assert "annotation[7] (/x/none.wav)" in str(caught.value)
    assert str(tmp_path / "x" / "none.wav") in str(caught.value)


def test_path_out_of_the_prefix_is_an_error_under_every_policy(tmp_path: Path) -> None:
    dataset = AudioDataset([Clip(0, "../a.wav")], tmp_path, no_log_mel, bad_audio="skip")
    with pytest.raises(ClipError, match=r"annotation\[0\].*leads out of datasets\.prefix"):
        dataset[0]


def test_long_audio_policies(write_tone: Callable[..., Path], tmp_path: Path) -> None:
    write_tone("long.wav", 31.0)
    clips = [Clip(0, "long.wav")]
    cut = AudioDataset(clips, tmp_path, no_log_mel, long_audio="truncate")[0]
    assert isinstance(cut, dict)
    assert cut["was_truncated"]
    assert cut["raw_wav"].shape == (480_000,)
    assert isinstance(AudioDataset(clips, tmp_path, no_log_mel, long_audio="skip")[0], SkippedClip)
    for bad_audio in ("error", "skip"):  # a policy of its own
        dataset = AudioDataset(clips, tmp_path, no_log_mel, long_audio="error", bad_audio=bad_audio)
        with pytest.raises(ClipError, match="31.0 s long.*long_audio: skip"):
            dataset[0]


def test_bad_audio_error_is_not_softened_by_skipping_long_audio(tmp_path: Path) -> None:
    dataset = AudioDataset([Clip(0, "none.wav")], tmp_path, no_log_mel, long_audio="skip")
    with pytest.raises(ClipError, match="bad_audio: skip"):
        dataset[0]


def test_expand_wav_is_appended_with_a_pause(
    write_tone: Callable[..., Path], tmp_path: Path
) -> None:
    write_tone("a.wav", 2.0)
    write_tone("b.wav", 1.0)
    item = AudioDataset([Clip(0, "a.wav", expand_wav=("/b.wav",))], tmp_path, no_log_mel)[0]
    assert isinstance(item, dict)
    assert item["raw_wav"].shape == (round(3.1 * 16_000),)
    assert not item["raw_wav"][32_000 : 32_000 + 1_600].any()


def test_one_reference_is_drawn_per_epoch_and_all_are_kept() -> None:
    texts = ("rain falls", "water drops", "a storm")
    clips = [Clip(index, "a.wav", texts) for index in range(8)]

    def draw(epoch: int, seed: int = 0) -> list[str]:
        dataset = AudioDataset(clips, GOLDEN / "audio", no_log_mel, seed=seed)
        dataset.set_epoch(epoch)
        items: list[Any] = [dataset[index] for index in range(len(clips))]
        assert all(item["references"] == list(texts) for item in items)
        return [item["text"] for item in items]

    assert draw(0) == draw(0)
    assert draw(0) != draw(1)
    assert draw(0) != draw(0, seed=1)
    assert {text for epoch in range(4) for text in draw(epoch)} == set(texts)


def test_entry_without_text_has_no_reference() -> None:
    item = AudioDataset([Clip(0, "a.wav")], GOLDEN / "audio", no_log_mel)[0]
    assert isinstance(item, dict)
    assert item["text"] == ""
    assert item["references"] == []


def make_loader(clips: list[Clip], prefix: Path, **options: Any) -> tuple[AudioDataset, Any]:
    dataset = AudioDataset(clips, prefix, no_log_mel, **options)
    sampler = EvaluationBatchSampler([1.0] * len(clips), 2)
    return dataset, build_loader(dataset, sampler, num_workers=1)


def test_error_in_a_loading_process_arrives_as_one_line(tmp_path: Path) -> None:
    _, loader = make_loader([Clip(0, "none.wav", testset_id="test0042")], tmp_path)
    with pytest.raises(UserError) as caught:
        list(loader)
    message = str(caught.value)
    assert message.startswith("annotation[0] (none.wav, test0042): audio file ")
    assert message.endswith("skip leaves such clips out")
    assert "\n" not in message
    assert "Traceback" not in message
    assert "load_waveform" not in traceback.format_exception_only(caught.value)[0]


def test_loading_processes_see_the_next_epoch() -> None:
    texts = tuple(f"text {number}" for number in range(50))
    dataset, loader = make_loader([Clip(0, "a.wav", texts)], GOLDEN / "audio")
    alone = AudioDataset(dataset.clips, GOLDEN / "audio", no_log_mel)
    drawn = []
    for epoch in range(3):
        dataset.set_epoch(epoch)
        alone.set_epoch(epoch)
        (samples,) = loader  # the same processes in every epoch
        item = alone[0]
        assert isinstance(item, dict)
        assert samples["text"] == [item["text"]]
        drawn += samples["text"]
    assert len(set(drawn)) == 3
