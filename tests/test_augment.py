"""Augmentation: seeded, off means untouched, and each change is as big as it was drawn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
import torch

from audiolm.audio.augment import (
    Augmenter,
    add_noise,
    build_generator,
    change_gain,
    change_speed,
    list_noise_files,
    load_noise,
    make_noise,
)
from audiolm.audio.features import LogMel
from audiolm.config import AugmentConfig, SpecAugmentConfig
from audiolm.data.annotations import Clip
from audiolm.data.batches import build_loader
from audiolm.data.dataset import AudioDataset, ClipError
from audiolm.data.sampler import StepBatchSampler
from audiolm.errors import UserError
from audiolm.training.data import build_augmenter

AUDIO = Path(__file__).resolve().parent / "data" / "golden" / "dev" / "audio"
CLIPS = [Clip(index, name, ("x",)) for index, name in enumerate(("a.wav", "b.wav"))]
EVERYTHING = Augmenter(
    speed=(0.8, 1.2),
    noise_snr_db=(5.0, 20.0),
    gain_db=(-6.0, 6.0),
    num_time_masks=2,
    max_mask_seconds=0.5,
    num_frequency_masks=2,
    max_mask_bins=20,
)


def make_tone(seconds: float, frequency_hz: float = 440.0, peak: float = 0.3) -> np.ndarray:
    times = np.arange(round(seconds * 16_000)) / 16_000
    return (peak * np.sin(2 * np.pi * frequency_hz * times)).astype(np.float32)


def load_items(augmenter: Augmenter | None, epoch: int = 0, seed: int = 0) -> list[Any]:
    dataset = AudioDataset(CLIPS, AUDIO, LogMel(80), seed=seed, augmenter=augmenter)
    dataset.set_epoch(epoch)
    return [dataset[index] for index in range(len(CLIPS))]


def is_equal(first: dict[str, Any], second: dict[str, Any]) -> bool:
    return all(
        first[key].shape == second[key].shape and torch.equal(first[key], second[key])
        for key in ("raw_wav", "spectrogram")
    )


# Draws


def test_off_is_bit_equal_to_no_augmentation() -> None:
    assert build_augmenter(AugmentConfig()) is None
    for plain, off in zip(load_items(None), load_items(Augmenter()), strict=True):
        assert is_equal(plain, off)


def test_draws_depend_on_seed_epoch_and_position_only() -> None:
    first = load_items(EVERYTHING)
    assert all(map(is_equal, first, load_items(EVERYTHING)))
    for other in (
        load_items(EVERYTHING, epoch=1),
        load_items(EVERYTHING, seed=1),
        load_items(None),
    ):
        assert not any(map(is_equal, first, other))
    twice = AudioDataset([CLIPS[0]] * 2, AUDIO, LogMel(80), augmenter=EVERYTHING)
    copies: list[Any] = [twice[0], twice[1]]
    assert not is_equal(*copies)
    assert [item["draw_seed"] for item in copies] == ["0/0/0", "0/0/1"]


def test_loading_processes_draw_the_same() -> None:
    batches = []
    for num_workers in (0, 2):
        dataset = AudioDataset(CLIPS, AUDIO, LogMel(80), augmenter=EVERYTHING)
        sampler = StepBatchSampler([1.0] * len(CLIPS), step_size=1, seed=0)
        loader = build_loader(dataset, sampler, num_workers)
        loaded = []
        for epoch in range(2):
            dataset.set_epoch(epoch)
            sampler.set_epoch(epoch)
            loaded += list(loader)
        batches.append(loaded)
    assert len(batches[0]) == 4
    assert all(map(is_equal, *batches))


# Speed


@pytest.mark.parametrize("factor", [0.9, 1.1, 1.25])
def test_speed_changes_length_and_pitch(factor: float) -> None:
    changed = change_speed(make_tone(4.0), factor)
    assert len(changed) == pytest.approx(64_000 / factor, abs=1)
    assert changed.dtype == np.float32
    spectrum = np.abs(np.fft.rfft(changed))
    peak_hz = float(np.argmax(spectrum)) * 16_000 / len(changed)
    assert peak_hz == pytest.approx(440 * factor, abs=1.0)


def test_speed_keeps_clips_between_1_and_30_seconds() -> None:
    assert len(change_speed(make_tone(1.0), 2.0)) == 16_000
    long = make_tone(29.0)
    slowed = change_speed(long, 0.5)
    assert 479_900 <= len(slowed) <= 480_000  # as slow as fits: nothing is cut off
    assert np.array_equal(change_speed(make_tone(30.0), 0.9), make_tone(30.0))


# Noise and gain


@pytest.mark.parametrize("colour", ["white", "pink"])
@pytest.mark.parametrize("snr_db", [-5.0, 0.0, 12.5, 30.0])
def test_measured_snr_is_the_drawn_one(colour: Any, snr_db: float) -> None:
    tone = make_tone(3.0)
    noisy = add_noise(tone, make_noise(len(tone), colour, build_generator("x")), snr_db)
    noise = noisy.astype(np.float64) - tone
    measured = 10 * np.log10(np.mean(tone.astype(np.float64) ** 2) / np.mean(noise**2))
    assert measured == pytest.approx(snr_db, abs=1e-3)  # float32 rounding of the sum
    assert noisy.dtype == np.float32


def test_pink_noise_falls_by_3_db_per_octave() -> None:
    noise = make_noise(480_000, "pink", build_generator("x"))
    power = np.abs(np.fft.rfft(noise)) ** 2
    frequencies_hz = np.fft.rfftfreq(len(noise), 1 / 16_000)
    octaves = [power[(frequencies_hz >= f) & (frequencies_hz < 2 * f)].mean() for f in (250, 4000)]
    assert 10 * np.log10(octaves[0] / octaves[1]) == pytest.approx(12.04, abs=0.5)  # 4 octaves


def test_silence_gets_no_noise() -> None:
    silence = np.zeros(16_000, dtype=np.float32)
    noise = make_noise(16_000, "white", build_generator("x"))
    assert np.array_equal(add_noise(silence, noise, 10.0), silence)
    tone = make_tone(1.0)
    assert np.array_equal(add_noise(tone, silence, 10.0), tone)


def test_share_of_clips_that_get_noise() -> None:
    augmenter = Augmenter(noise_snr_db=(10.0, 10.0), noise_share=0.3)
    tone = make_tone(1.0)
    changed = [
        not np.array_equal(augmenter.change_waveform(tone, build_generator(str(i))), tone)
        for i in range(300)
    ]
    assert sum(changed) == pytest.approx(90, abs=32)  # four deviations of a binomial


def test_gain_is_limited_by_full_scale() -> None:
    tone = make_tone(1.0, peak=0.25)
    assert np.allclose(change_gain(tone, 6.0), tone * 10 ** (6 / 20))
    assert np.allclose(change_gain(tone, -6.0), tone * 10 ** (-6 / 20))
    assert np.abs(change_gain(tone, 20.0)).max() == pytest.approx(1.0)
    silence = np.zeros(16_000, dtype=np.float32)
    assert np.array_equal(change_gain(silence, 20.0), silence)


# Noise files


def test_noise_comes_from_the_folder(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    soundfile.write(tmp_path / "deep" / "b.wav", make_tone(0.5, 1000.0), 16_000)
    (tmp_path / "notes.txt").write_text("not audio")
    paths = list_noise_files(tmp_path)
    assert [path.name for path in paths] == ["b.wav"]
    noise = load_noise(paths[0], 40_000, build_generator("x"))
    assert noise.shape == (40_000,)
    spectrum = np.abs(np.fft.rfft(noise))
    assert np.argmax(spectrum) * 16_000 / 40_000 == pytest.approx(1000, abs=2)
    assert np.abs(noise).reshape(-1, 400).max(axis=1).min() > 0.2  # repeated without a gap

    augment = AugmentConfig(noise_snr_db=[0.0, 0.0], noise_dir=str(tmp_path))
    augmenter = build_augmenter(augment)
    assert augmenter is not None
    tone = make_tone(2.0)
    difference = augmenter.change_waveform(tone, build_generator("y")) - tone
    spectrum = np.abs(np.fft.rfft(difference))
    assert np.argmax(spectrum) * 16_000 / len(tone) == pytest.approx(1000, abs=2)


def test_bad_noise_stops_the_run_and_is_not_taken_for_the_clip(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="noise_dir: no audio file in"):
        list_noise_files(tmp_path)
    (tmp_path / "bad.wav").write_bytes(b"this is not audio")
    augmenter = Augmenter(noise_snr_db=(0.0, 10.0), noise_paths=list_noise_files(tmp_path))
    dataset = AudioDataset(CLIPS, AUDIO, LogMel(80), bad_audio="skip", augmenter=augmenter)
    with pytest.raises(ClipError, match=r"annotation\[0\] .*noise_dir\): audio file .*bad\.wav"):
        dataset[0]


# Masks


def test_masks_hit_real_frames_only_and_hold_the_mean() -> None:
    log_mel = torch.randn(80, 3000, generator=torch.Generator().manual_seed(0))
    before = log_mel.clone()
    augmenter = Augmenter(
        num_time_masks=2, max_mask_seconds=0.4, num_frequency_masks=1, max_mask_bins=10
    )
    num_masked = []
    for number in range(50):
        masked = augmenter.mask_log_mel(log_mel, 32_000, build_generator(str(number)))
        changed = masked != before
        assert not changed[:, 200:].any()
        assert torch.allclose(masked[changed], before[:, :200].mean())
        frames, bins = changed[:, :200].all(dim=0), changed[:, :200].all(dim=1)
        assert torch.equal(changed[:, :200], frames[None] | bins[:, None])
        assert int(frames.sum()) <= 2 * 40
        assert int(bins.sum()) <= 10
        num_masked.append((int(frames.sum()), int(bins.sum())))
    assert max(frames for frames, _ in num_masked) > 40  # both masks at work
    assert max(bins for _, bins in num_masked) == 10
    assert torch.equal(log_mel, before)


def test_time_masks_are_short_on_short_clips() -> None:
    log_mel = torch.randn(80, 3000, generator=torch.Generator().manual_seed(0))
    augmenter = Augmenter(num_time_masks=1, max_mask_seconds=10.0, max_mask_share=0.1)
    for number in range(20):
        masked = augmenter.mask_log_mel(log_mel, 16_000, build_generator(str(number)))
        assert int((masked != log_mel).any(dim=0).sum()) <= 10  # of 100 frames


def test_masks_leave_the_waveform_to_beats() -> None:
    augmenter = build_augmenter(AugmentConfig(specaugment=SpecAugmentConfig(num_time_masks=3)))
    plain, masked = load_items(None)[0], load_items(augmenter)[0]
    assert torch.equal(plain["raw_wav"], masked["raw_wav"])
    assert not torch.equal(plain["spectrogram"], masked["spectrogram"])
